//! What comes in, checked: names, sizes, base64 and digests.
//!
//! Invariants: a path that leaves here can be mounted and is inside the mounted root; bytes that
//! leave here match the digest beside them; a bad entry is left out and named, and never makes the
//! listing fail. Pure; no I/O.

use std::collections::HashSet;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::scope::{Place, Scope};
use super::wire::{WireEvent, WireFile};
use super::{EventChange, EventId, Metadata, RemoteEntry, RemoteEvent, RemoteFile, Size, Skipped};
use crate::digest::Digest;
use crate::path::WsPath;
use crate::revision::Revision;

/// Servers store base64 as its writer sent it: padded or not, with odd trailing bits.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes of a stored text.
///
/// # Errors
/// When the encoding is unknown or the text is not base64; says so for people.
pub(super) fn decode(text: String, encoding: &str) -> Result<Bytes, &'static str> {
    match encoding {
        "" | "utf-8" | "utf8" => Ok(text.into()),
        "base64" => {
            let mut text = text.into_bytes();
            text.retain(|byte| !byte.is_ascii_whitespace());
            LENIENT.decode(text).map(Bytes::from).map_err(|_| "content is not base64")
        }
        _ => Err("content has an unknown encoding"),
    }
}

/// A file at `path`, with its bytes when the wire brought them and they match their digest; else
/// without them and with the reason.
pub(super) fn file(path: WsPath, wire: WireFile) -> (RemoteFile, Option<&'static str>) {
    let size = match (wire.byte_size, wire.size) {
        (Some(bytes), _) => Size::Exact(bytes),
        (None, stored) => Size::AtMost(stored.unwrap_or(0)),
    };
    let stamp = if wire.updated_at.is_empty() { &wire.last_edited_at } else { &wire.updated_at };
    let mut file = RemoteFile {
        path,
        revision: Revision::new(&wire.revision),
        digest: Digest::parse(&wire.content_hash),
        size,
        edited_at: stamp.parse().ok(),
        metadata: metadata(wire.mode, &wire.mtime, wire.symlink_target),
        body: None,
    };
    let Some(content) = wire.content else { return (file, None) };
    let body = match decode(content, &wire.encoding) {
        Ok(body) => body,
        Err(reason) => return (file, Some(reason)),
    };
    let digest = Digest::of(&body);
    if file.digest.is_some_and(|expected| expected != digest) {
        return (file, Some("content does not match its digest"));
    }
    file.digest = Some(digest);
    file.size = Size::Exact(u64::try_from(body.len()).unwrap_or(u64::MAX));
    file.body = Some(body);
    (file, None)
}

/// Metadata as the wire has it; what cannot be read is absent.
pub(super) fn metadata(mode: Option<u64>, mtime: &str, symlink: Option<String>) -> Metadata {
    Metadata {
        mode: mode.and_then(|mode| u32::try_from(mode & 0o7777).ok()),
        mtime: mtime.parse::<Timestamp>().ok(),
        // No symbolic link has an empty target or one with NUL.
        symlink: symlink.filter(|target| !target.is_empty() && !target.contains('\0')),
    }
}

/// The entries of one listing, checked, sorted by path bytes, without collisions among themselves.
pub(super) fn listing(values: Vec<Value>, scope: &Scope) -> (Vec<RemoteEntry>, Vec<Skipped>) {
    let mut entries = Vec::with_capacity(values.len());
    let mut skipped = Vec::new();
    for value in values {
        let name = value.get("path").and_then(Value::as_str).unwrap_or("?").to_owned();
        match entry(value, scope) {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => {}
            Err(reason) => skipped.push(Skipped { name, reason }),
        }
    }
    let (entries, collisions) = settle_names(entries);
    skipped.extend(collisions);
    (entries, skipped)
}

/// One entry; `None` for what is there but not part of the mount.
fn entry(value: Value, scope: &Scope) -> Result<Option<RemoteEntry>, String> {
    let wire: WireFile = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let is_dir = wire.kind == "dir";
    let path = match scope.place(&wire.path) {
        Place::Inside(path) => path,
        Place::Root if is_dir => return Ok(None),
        Place::Root => return Err("a file has the name of the mounted folder".into()),
        Place::Outside => return Ok(None),
        Place::Bad(error) => return Err(error.to_string()),
    };
    if is_dir {
        let mode = metadata(wire.mode, "", None).mode;
        return Ok(Some(RemoteEntry::Dir { path, explicit: wire.explicit, mode }));
    }
    // A single bad content does not fail the listing: the file is listed without its bytes.
    Ok(Some(RemoteEntry::File(file(path, wire).0)))
}

/// The path of an entry.
fn path_of(entry: &RemoteEntry) -> &WsPath {
    match entry {
        RemoteEntry::File(file) => &file.path,
        RemoteEntry::Dir { path, .. } => path,
    }
}

/// Sorts `entries` and leaves each name to one of them: a folder wins over a file, whether it is
/// listed or only implied by what lies below it, and the first of two alike wins. Pages are settled
/// one by one; whoever joins pages calls this on the whole.
#[must_use]
pub fn settle_names(mut entries: Vec<RemoteEntry>) -> (Vec<RemoteEntry>, Vec<Skipped>) {
    let rank = |entry: &RemoteEntry| matches!(entry, RemoteEntry::File(_));
    entries.sort_by(|a, b| path_of(a).cmp(path_of(b)).then(rank(a).cmp(&rank(b))));
    let mut folders: HashSet<WsPath> = HashSet::new();
    for entry in &entries {
        let mut folder = path_of(entry).parent();
        while let Some(path) = folder {
            folder = path.parent();
            if !folders.insert(path) {
                break;
            }
        }
    }
    let mut skipped = Vec::new();
    let mut settled: Vec<RemoteEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_file = rank(&entry);
        let reason = match settled.last() {
            Some(last) if path_of(last) == path_of(&entry) => match rank(last) == is_file {
                true => Some("listed twice"),
                false => Some("a folder has this name, too"),
            },
            _ if is_file && folders.contains(path_of(&entry)) => {
                Some("a folder has this name, too")
            }
            _ => None,
        };
        match reason {
            Some(reason) => {
                let name = path_of(&entry).to_string();
                skipped.push(Skipped { name, reason: reason.to_owned() });
            }
            None => settled.push(entry),
        }
    }
    (settled, skipped)
}

/// An event of the change stream, from a page or a frame.
pub(super) fn event(wire: WireEvent, scope: &Scope) -> RemoteEvent {
    let WireEvent { event_id, timestamp, inline_content, file: mut wire } = wire;
    let fingerprint = format!("{}@{}", wire.path, wire.revision);
    let change = match (scope.place(&wire.path), wire.kind.as_str()) {
        (Place::Inside(path), "file.created" | "file.updated") => {
            // Servers leave an empty content out of the frame.
            if inline_content && wire.content.is_none() {
                wire.content = Some(String::new());
            }
            let unsized_file = wire.byte_size.is_none();
            wire.updated_at.clone_from(&timestamp);
            let mut file = file(path, wire).0;
            if file.body.is_none() && unsized_file {
                file.size = Size::AtMost(u64::MAX);
            }
            Some(EventChange::Stored(file))
        }
        (Place::Inside(path), "file.deleted") => {
            Some(EventChange::Deleted { path, revision: Revision::new(&wire.revision) })
        }
        (Place::Inside(path), "directory.created") => Some(EventChange::DirCreated { path }),
        (Place::Inside(path), "directory.deleted") => Some(EventChange::DirDeleted { path }),
        (Place::Inside(_) | Place::Root | Place::Outside | Place::Bad(_), _) => None,
    };
    RemoteEvent { id: EventId(event_id), change, fingerprint, at: timestamp.parse().ok() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> WsPath {
        WsPath::parse(text).unwrap()
    }

    #[test]
    fn base64_is_read_leniently() {
        for text in ["AAECAw==", "AAECAw", "AAEC\nAw==\n"] {
            assert_eq!(decode(text.into(), "base64").unwrap().as_ref(), [0, 1, 2, 3], "{text:?}");
        }
        assert!(decode("A*".into(), "base64").is_err());
        assert!(decode(String::new(), "rot13").is_err());
        assert_eq!(decode("é".into(), "utf8").unwrap(), "é");
    }

    #[test]
    fn bad_names_are_left_out_and_folders_win() {
        let (entries, skipped) = listing(
            vec![
                json!({"path": "/r/x", "type": "file", "revision": "rev_1"}),
                json!({"path": "/r/x/y", "type": "file", "revision": "", "size": 8}),
                json!({"path": "/r/x/y", "type": "file"}),
                json!({"path": "/r/d", "type": "file"}),
                json!({"path": "/r/d", "type": "dir", "explicit": true, "mode": 448}),
                json!({"path": "/r/../up", "type": "file"}),
                json!({"path": "/r", "type": "file"}),
                json!({"path": "/r", "type": "dir"}),
                json!({"path": "/other", "type": "file"}),
                json!("nonsense"),
            ],
            &Scope::new(path("/r")),
        );
        let mut names: Vec<_> = skipped.iter().map(|skipped| skipped.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["/d", "/r", "/r/../up", "/x", "/x/y", "?"]);
        assert_eq!(entries.len(), 2);
        let dir = RemoteEntry::Dir { path: path("/d"), explicit: true, mode: Some(0o700) };
        assert_eq!(entries[0], dir);
        let RemoteEntry::File(file) = &entries[1] else { panic!("{entries:?}") };
        assert_eq!((&file.path, file.size), (&path("/x/y"), Size::AtMost(8)));
        assert_eq!(file.revision, None);
    }

    #[test]
    fn content_must_match_its_digest() {
        let wire = |hash: String| WireFile {
            content: Some("AAEC".into()),
            encoding: "base64".into(),
            content_hash: hash,
            size: Some(4),
            ..WireFile::default()
        };
        let good = file(path("/a"), wire(Digest::of(&[0, 1, 2]).to_string())).0;
        assert_eq!(good.size, Size::Exact(3));
        assert_eq!(good.body.unwrap().as_ref(), [0, 1, 2]);
        let (bad, reason) = file(path("/a"), wire(Digest::of(b"x").to_string()));
        assert!(reason.is_some());
        assert_eq!((bad.size, bad.body), (Size::AtMost(4), None));
    }

    #[test]
    fn events_map_to_changes_of_the_mount() {
        let read =
            |value: Value| event(serde_json::from_value(value).unwrap(), &Scope::new(path("/r")));
        let hash = Digest::of(b"").to_string();
        let empty = read(json!({"eventId": "evt_3", "type": "file.updated", "path": "/r/a",
            "revision": "rev_2", "contentHash": hash, "inlineContent": true}));
        assert_eq!(empty.fingerprint, "/r/a@rev_2");
        let Some(EventChange::Stored(file)) = empty.change else { panic!("{empty:?}") };
        assert_eq!((file.size, file.body), (Size::Exact(0), Some(Bytes::new())));
        let wrong = read(json!({"eventId": "evt_4", "type": "file.created", "path": "/r/a",
            "contentHash": hash, "content": "x", "inlineContent": true}));
        let Some(EventChange::Stored(file)) = wrong.change else { panic!("{wrong:?}") };
        assert_eq!((file.size, file.body), (Size::AtMost(u64::MAX), None));
        for (kind, at) in
            [("writeback.succeeded", "/r/a"), ("file.created", "/q"), ("file.deleted", "/r")]
        {
            assert_eq!(read(json!({"eventId": "evt_5", "type": kind, "path": at})).change, None);
        }
        let gone = read(json!({"eventId": "evt_6", "type": "file.deleted", "path": "/r/a"}));
        let deleted = EventChange::Deleted { path: path("/a"), revision: None };
        assert_eq!(gone.change, Some(deleted));
    }
}
