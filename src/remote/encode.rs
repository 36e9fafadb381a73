//! What goes out: percent-encoded paths and the body of a bulk request.
//!
//! Invariants: an entry that the server would misread (an extension it does not have, a condition
//! it ignores, a name it trims) is never written into a body; see [`sendable`]. Pure; no I/O.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, Serializer};

use super::scope::Scope;
use super::{BulkChange, BulkEntry, Capabilities, Metadata};
use crate::path::WsPath;
use crate::revision::{Precondition, Revision};

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How long the server remembers the identity of a put, in seconds.
pub(super) const IDENTITY_TTL_S: u32 = 604_800;

/// The kind of our identities.
pub(super) const IDENTITY_KIND: &str = "mountd";

/// What a reply to a bulk request may say of each change, beside its path.
const REPLY_ENTRY_BYTES: u64 = 16 * 1024;

/// How much longer than itself a path may be in a reply: all of it escaped.
const REPLY_PATH_GROWTH: u64 = 6;

/// What a reply to a bulk request may say of the whole.
const REPLY_BYTES_FIXED: u64 = 256 * 1024;

/// Longest JSON of an entry without its path, content, identity, symlink target and revisions.
const ENTRY_BYTES_FIXED: u64 = 448;

/// Percent-encodes `text` for one value of a query or one segment of a path.
pub(super) fn percent(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Whether a bulk request might write this path under another name: the original server, which
/// offers nothing, trims Unicode white space around it. The content of such a path travels by
/// [`put`](super::Remote::put) only; [`bulk`](super::Remote::bulk) refuses it. A server with any
/// extension keeps names as they are, and only its bulk request can carry a symbolic link.
#[must_use]
pub fn trimmed_by_bulk(path: &WsPath, offered: Capabilities) -> bool {
    let offered = Capabilities { body_bytes_max: None, file_bytes_max: None, ..offered };
    let nothing = offered == Capabilities::default();
    nothing && path.as_str().ends_with(char::is_whitespace)
}

/// The text of `bytes` when JSON can carry it as it is: UTF-8 without control characters other
/// than tab, line feed and carriage return.
pub(super) fn as_text(bytes: &[u8]) -> Option<&str> {
    let control = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r');
    if bytes.iter().any(control) { None } else { std::str::from_utf8(bytes).ok() }
}

/// A content inside a JSON body, encoded while it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Text(&'a str),
    Base64(&'a [u8]),
}

impl<'a> Content<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        as_text(bytes).map_or(Self::Base64(bytes), Self::Text)
    }

    pub(super) fn encoding(self) -> Option<&'static str> {
        match self {
            Self::Text(_) => None,
            Self::Base64(_) => Some("base64"),
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text(_) => "text/plain",
            Self::Base64(_) => "application/octet-stream",
        }
    }
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Base64(bytes) => serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
        }
    }
}

/// Whether the server would do what `entry` says. The reason, when it would not: an unknown
/// operation, condition or name is not refused by a server that lacks it but read as a plain put.
pub(super) fn sendable(entry: &BulkEntry, offered: Capabilities) -> Result<(), &'static str> {
    let has = |offered: bool, reason| if offered { Ok(()) } else { Err(reason) };
    let date = |condition: &Precondition| match condition {
        Precondition::UnmodifiedSince(_) => {
            has(offered.unmodified_since, "the server knows no dates as conditions")
        }
        Precondition::Absent | Precondition::Match(_) => Ok(()),
    };
    // The server that trims knows puts only, so what else there is keeps its name.
    let whole = || {
        let reason = "a name that ends in white space cannot travel in a bulk request";
        has(!trimmed_by_bulk(&entry.path, offered), reason)
    };
    match &entry.change {
        BulkChange::Put { precondition, .. } => {
            whole()?;
            date(precondition)
        }
        BulkChange::Meta { precondition, .. } => {
            has(offered.metadata, "the server stores no metadata")?;
            date(precondition)
        }
        BulkChange::Delete { precondition } => {
            has(offered.bulk_delete, "the server takes no bulk deletes")?;
            date(precondition)
        }
        BulkChange::Move { from_precondition, precondition, .. } => {
            has(offered.bulk_move, "the server takes no moves")?;
            let revision = matches!(from_precondition, Precondition::Match(_));
            has(revision, "a move needs the revision of its source")?;
            date(precondition)
        }
        BulkChange::MakeDir { .. } | BulkChange::RemoveDir => {
            has(offered.directories, "the server stores no folders")
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    kind: &'static str,
    key: &'a str,
    ttl_seconds: u32,
}

/// One file of a bulk body; absent members are left out.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct BulkFile<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_if_match: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_unmodified_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_identity: Option<Identity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<&'a str>,
}

impl<'a> BulkFile<'a> {
    fn of(entry: &'a BulkEntry, scope: &Scope, offered: Capabilities) -> Self {
        let mut file = Self { path: scope.remote(&entry.path).to_string(), ..Self::default() };
        match &entry.change {
            BulkChange::Put { body, precondition, metadata } => {
                let content = Content::of(body);
                file.content_type = Some(content.content_type());
                file.encoding = content.encoding();
                file.content = Some(content);
                file.content_identity = Some(Identity {
                    kind: IDENTITY_KIND,
                    key: &entry.identity,
                    ttl_seconds: IDENTITY_TTL_S,
                });
                file.condition(precondition);
                file.metadata(metadata, offered);
                if offered.symlink {
                    file.symlink_target = metadata.symlink.as_deref();
                }
            }
            BulkChange::Meta { precondition, metadata } => {
                file.op = Some("meta");
                file.condition(precondition);
                file.metadata(metadata, offered);
            }
            BulkChange::Delete { precondition } => {
                file.op = Some("delete");
                file.condition(precondition);
            }
            BulkChange::Move { from, from_precondition, precondition } => {
                file.op = Some("move");
                file.from = Some(scope.remote(from).to_string());
                file.from_if_match = if_match(from_precondition);
                file.condition(precondition);
            }
            BulkChange::MakeDir { mode } => {
                file.op = Some("mkdir");
                file.mode = mode.filter(|_| offered.metadata);
            }
            BulkChange::RemoveDir => file.op = Some("rmdir"),
        }
        file
    }

    fn condition(&mut self, condition: &'a Precondition) {
        self.if_match = if_match(condition);
        if let Precondition::UnmodifiedSince(date) = condition {
            self.if_unmodified_since = Some(date.to_string());
        }
    }

    fn metadata(&mut self, metadata: &Metadata, offered: Capabilities) {
        if offered.metadata {
            self.mode = metadata.mode;
            self.mtime = metadata.mtime.map(|mtime| mtime.to_string());
        }
    }
}

/// The value of `ifMatch` for a condition, `None` for a date.
pub(super) fn if_match(condition: &Precondition) -> Option<&str> {
    match condition {
        Precondition::Absent => Some("0"),
        Precondition::Match(revision) => Some(revision.as_str()),
        Precondition::UnmodifiedSince(_) => None,
    }
}

/// The body of a bulk request. Every entry must be [`sendable`].
///
/// # Errors
/// When the entries cannot be written as JSON, which nothing in them can cause.
pub(super) fn bulk_body(
    entries: &[&BulkEntry],
    scope: &Scope,
    offered: Capabilities,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        files: Vec<BulkFile<'a>>,
    }
    debug_assert!(entries.iter().all(|entry| sendable(entry, offered).is_ok()));
    let length: u64 = entries.iter().map(|entry| encoded_len(entry, scope)).sum();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let files = entries.iter().map(|entry| BulkFile::of(entry, scope, offered)).collect();
    serde_json::to_writer(&mut bytes, &Body { files })?;
    Ok(bytes.into())
}

/// An upper bound of the bytes that `entry` takes in a bulk body, the comma after it included.
pub(super) fn encoded_len(entry: &BulkEntry, scope: &Scope) -> u64 {
    let path = |path: &WsPath| json_len(path.as_str()) + json_len(scope.root().as_str());
    let condition = |condition: &Precondition| match condition {
        Precondition::Match(revision) => json_len(Revision::as_str(revision)),
        Precondition::Absent | Precondition::UnmodifiedSince(_) => 0,
    };
    let variable = match &entry.change {
        BulkChange::Put { body, precondition, metadata } => {
            let content = match Content::of(body) {
                Content::Text(text) => json_len(text),
                Content::Base64(bytes) => u64_of(bytes.len()).div_ceil(3) * 4,
            };
            let symlink = metadata.symlink.as_deref().map_or(0, json_len);
            content + symlink + condition(precondition) + json_len(&entry.identity)
        }
        BulkChange::Meta { precondition, .. } | BulkChange::Delete { precondition } => {
            condition(precondition)
        }
        BulkChange::Move { from, from_precondition, precondition } => {
            path(from) + condition(from_precondition) + condition(precondition)
        }
        BulkChange::MakeDir { .. } | BulkChange::RemoveDir => 0,
    };
    ENTRY_BYTES_FIXED + path(&entry.path) + variable
}

/// The longest reply to a bulk request that is read: each change is named, with what became of it.
pub(super) fn bulk_reply_bytes_max(entries: &[&BulkEntry], scope: &Scope) -> u64 {
    let path = |path: &WsPath| u64_of(scope.root().as_str().len() + path.as_str().len());
    let named = |entry: &&BulkEntry| REPLY_ENTRY_BYTES + REPLY_PATH_GROWTH * path(&entry.path);
    REPLY_BYTES_FIXED + entries.iter().map(named).sum::<u64>()
}

/// The bytes of `text` inside a JSON string, without its quotes.
fn json_len(text: &str) -> u64 {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

fn u64_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ALL: Capabilities = Capabilities {
        unmodified_since: true,
        bulk_delete: true,
        bulk_move: true,
        metadata: true,
        symlink: true,
        directories: true,
        raw: true,
        exact_size: true,
        body_bytes_max: None,
        file_bytes_max: None,
        server: None,
    };

    fn path(text: &str) -> WsPath {
        WsPath::parse(text).unwrap()
    }

    fn put(at: &str, body: &'static [u8], metadata: Metadata) -> BulkEntry {
        let precondition = Precondition::Absent;
        let change = BulkChange::Put { body: Bytes::from_static(body), precondition, metadata };
        BulkEntry { path: path(at), identity: "k1".into(), change }
    }

    fn body(entry: &BulkEntry, offered: Capabilities) -> Value {
        let bytes = bulk_body(&[entry], &Scope::new(path("/r")), offered).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["files"][0].clone()
    }

    #[test]
    fn paths_are_percent_encoded_byte_by_byte() {
        assert_eq!(percent("/a b+é%"), "%2Fa%20b%2B%C3%A9%25");
        assert_eq!(percent("x-_.~9"), "x-_.~9");
    }

    #[test]
    fn a_put_carries_text_or_base64_and_extensions_only_where_offered() {
        let metadata = Metadata {
            mode: Some(0o755),
            mtime: Some(Timestamp::UNIX_EPOCH),
            symlink: Some("t".into()),
        };
        let entry = put("/a", b"x\n", metadata);
        let plain = json!({
            "path": "/r/a", "ifMatch": "0", "contentType": "text/plain", "content": "x\n",
            "contentIdentity": {"kind": "mountd", "key": "k1", "ttlSeconds": 604_800},
        });
        assert_eq!(body(&entry, Capabilities::default()), plain);
        let rich = body(&entry, ALL);
        assert_eq!(rich["mode"], 0o755);
        assert_eq!(rich["mtime"], "1970-01-01T00:00:00Z");
        assert_eq!(rich["symlinkTarget"], "t");
        let binary = body(&put("/b", b"\0\xff", Metadata::default()), Capabilities::default());
        assert_eq!(binary["content"], "AP8=");
        assert_eq!(binary["encoding"], "base64");
    }

    #[test]
    fn what_a_server_would_misread_is_not_sent() {
        let plain = Capabilities::default();
        let date = Precondition::UnmodifiedSince(Timestamp::UNIX_EPOCH);
        let revision = Precondition::Match(Revision::new("rev_1").unwrap());
        let entry = |change| BulkEntry { path: path("/a"), identity: "k".into(), change };
        let body = Bytes::new();
        let metadata = Metadata::default();
        let by_date = BulkChange::Put { body, precondition: date, metadata: metadata.clone() };
        let cases = [
            by_date,
            BulkChange::Meta { precondition: revision.clone(), metadata },
            BulkChange::Delete { precondition: revision.clone() },
            BulkChange::Move {
                from: path("/b"),
                from_precondition: revision,
                precondition: Precondition::Absent,
            },
            BulkChange::MakeDir { mode: None },
            BulkChange::RemoveDir,
        ];
        for change in cases {
            let entry = entry(change);
            assert!(sendable(&entry, plain).is_err(), "{entry:?}");
            assert!(sendable(&entry, ALL).is_ok(), "{entry:?}");
        }
        for name in ["/a ", "/a\n", "/a\u{a0}"] {
            assert!(trimmed_by_bulk(&path(name), plain));
            assert!(sendable(&put(name, b"", Metadata::default()), plain).is_err());
            assert!(sendable(&put(name, b"", Metadata::default()), ALL).is_ok());
        }
        assert!(!trimmed_by_bulk(&path("/ a/b"), plain));
    }

    proptest! {
        #[test]
        fn the_length_is_an_upper_bound(
            name in "[^/\0\\.]{1,20}[a-z]",
            content in proptest::collection::vec(any::<u8>(), 0..200),
            text in ".{0,80}",
            as_text in any::<bool>(),
        ) {
            let content = if as_text { text.clone().into_bytes() } else { content };
            let metadata = Metadata {
                mode: Some(0o7777),
                mtime: Timestamp::from_nanosecond(1_800_000_000_123_456_789).ok(),
                symlink: Some(text),
            };
            let precondition = Precondition::UnmodifiedSince(Timestamp::MIN);
            let change = BulkChange::Put { body: content.into(), precondition, metadata };
            let path = WsPath::root().join(&name);
            prop_assume!(path.is_ok());
            let entry = BulkEntry { path: path.unwrap(), identity: name, change };
            let scope = Scope::new(WsPath::parse("/some/root").unwrap());
            let body = bulk_body(&[&entry], &scope, ALL).unwrap();
            prop_assert!(u64_of(body.len()) <= encoded_len(&entry, &scope));
        }
    }
}
