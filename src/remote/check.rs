//! What comes in, checked: names, sizes, base64 and digests.
//!
//! Invariants: a path that leaves here can be mounted and is inside the mounted root; bytes that
//! leave here match the digest beside them; a bad entry is left out and named, and never makes the
//! listing fail. Pure; no I/O.

use super::scope::{Place, Scope};
use super::wire::{Bad, Item, WireEvent, WireFile};
use super::{EventChange, EventId, Metadata, RemoteEntry, RemoteEvent, RemoteFile, Size, Skipped};
use crate::digest::Digest;
use crate::path::WsPath;
use crate::revision::Revision;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use jiff::Timestamp;

/// How much of a name that is left out is kept, to be shown.
const NAME_SHOWN_BYTES_MAX: usize = 1024;

/// No file is larger than this: 16 TiB.
const SIZE_BELIEVED_MAX: u64 = 1 << 44;

/// The longest fingerprint of an event.
const FINGERPRINT_BYTES_MAX: usize = 32 * 1024;

/// The longest target of a symbolic link: what the kernel takes.
const SYMLINK_BYTES_MAX: usize = 4095;

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
    let digest = Digest::parse(&wire.content_hash);
    // The digest of something, and nothing: one of them is wrong.
    let empty = digest.is_none_or(|digest| digest == Digest::of(b""));
    let size = match (wire.byte_size, wire.size) {
        (Some(0) | None, Some(0) | None) if !empty => Size::AtMost(u64::MAX),
        (Some(bytes), _) if bytes <= SIZE_BELIEVED_MAX => Size::Exact(bytes),
        (None, stored) if stored.unwrap_or(0) <= SIZE_BELIEVED_MAX => {
            Size::AtMost(stored.unwrap_or(0))
        }
        // The bytes will tell.
        (Some(_) | None, _) => Size::AtMost(u64::MAX),
    };
    let stamp = if wire.updated_at.is_empty() { &wire.last_edited_at } else { &wire.updated_at };
    let mut file = RemoteFile {
        path,
        revision: Revision::new(&wire.revision),
        digest,
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
        // No symbolic link has an empty target, a longer one, or one with NUL.
        symlink: symlink.filter(|target| {
            (1..=SYMLINK_BYTES_MAX).contains(&target.len()) && !target.contains('\0')
        }),
    }
}

/// The beginning of a text.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The entries of one listing, checked, sorted by path bytes, without collisions among themselves.
pub(super) fn listing(
    items: Vec<Item<WireFile>>,
    scope: &Scope,
) -> (Vec<RemoteEntry>, Vec<Skipped>) {
    let mut entries = Vec::with_capacity(items.len());
    let mut skipped = Vec::new();
    for item in items {
        match item {
            Item::Read(wire) => {
                let name = cut(&wire.path, NAME_SHOWN_BYTES_MAX).to_owned();
                match entry(wire, scope) {
                    Ok(Some(entry)) => entries.push(entry),
                    Ok(None) => {}
                    Err(reason) => skipped.push(Skipped { name, reason }),
                }
            }
            Item::Bad(Bad { path, reason, .. }) => {
                let name = cut(path.as_deref().unwrap_or("?"), NAME_SHOWN_BYTES_MAX).to_owned();
                skipped.push(Skipped { name, reason });
            }
        }
    }
    let (entries, collisions) = settle_names(entries);
    skipped.extend(collisions);
    (entries, skipped)
}

/// One entry; `None` for what is there but not part of the mount.
fn entry(wire: WireFile, scope: &Scope) -> Result<Option<RemoteEntry>, String> {
    let is_dir = wire.kind == "dir";
    let path = match scope.place(&wire.path) {
        Place::Inside(path) => path,
        Place::Root if is_dir => return Ok(None),
        Place::Root => return Err("a file has the name of the mounted folder".into()),
        Place::Outside => return Ok(None),
        Place::Bad(error) => return Err(error.to_string()),
        Place::TooDeep => return Err("path is deeper or longer than is taken".into()),
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
    let covered = covered_files(&entries);
    let mut skipped = Vec::new();
    let mut settled: Vec<RemoteEntry> = Vec::with_capacity(entries.len());
    for (entry, covered) in entries.into_iter().zip(covered) {
        let is_file = rank(&entry);
        let reason = match settled.last() {
            Some(last) if path_of(last) == path_of(&entry) => match rank(last) == is_file {
                true => Some("listed twice"),
                false => Some("a folder has this name, too"),
            },
            _ if is_file && covered => Some("a folder has this name, too"),
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

/// Of each entry, whether something lies below its name. Looks at neighbours only: the folders of
/// all paths together may be far more than the paths.
fn covered_files(entries: &[RemoteEntry]) -> Vec<bool> {
    let text = |at: usize| path_of(&entries[at]).as_str();
    // In the order of names rather than of bytes, what lies below a name follows it at once.
    let names = |at: usize| text(at).bytes().map(|byte| if byte == b'/' { 0 } else { byte });
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|a, b| names(*a).cmp(names(*b)));
    let mut covered = vec![false; entries.len()];
    let mut next: Option<usize> = None;
    for at in order.into_iter().rev() {
        covered[at] = next.is_some_and(|next| match text(next).strip_prefix(text(at)) {
            Some("") => covered[next],
            Some(rest) => rest.starts_with('/'),
            None => false,
        });
        next = Some(at);
    }
    covered
}

/// An event of the change stream, from a page or a frame.
pub(super) fn event(wire: WireEvent, scope: &Scope) -> RemoteEvent {
    let WireEvent { event_id, timestamp, inline_content, file: mut wire } = wire;
    let mut fingerprint = format!("{}@{}", wire.path, wire.revision);
    if !wire.content_hash.is_empty() {
        fingerprint.extend(["#", &wire.content_hash]);
    }
    let fingerprint = cut(&fingerprint, FINGERPRINT_BYTES_MAX).to_owned();
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
        (Place::Inside(_) | Place::Root | Place::Outside | Place::Bad(_) | Place::TooDeep, _) => {
            None
        }
    };
    RemoteEvent { id: EventId(event_id), change, fingerprint, at: timestamp.parse().ok() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn items(values: Vec<Value>) -> Vec<Item<WireFile>> {
        values.into_iter().map(|value| serde_json::from_str(&value.to_string()).unwrap()).collect()
    }

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
            items(vec![
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
            ]),
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
    fn a_file_is_covered_by_what_lies_below_its_name() {
        let paths = ["/a", "/a!", "/a!/b", "/a", "/a/b/c", "/a/b!", "/a/b", "/b", "/bc/d"];
        let listed = paths.map(|path| json!({"path": path, "type": "file"}));
        let (entries, skipped) = listing(items(listed.to_vec()), &Scope::new(WsPath::root()));
        let left: Vec<_> = entries.iter().map(|entry| path_of(entry).as_str()).collect();
        assert_eq!(left, ["/a!/b", "/a/b!", "/a/b/c", "/b", "/bc/d"]);
        assert_eq!(skipped.len(), 4);
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
        let mut nothing = wire(Digest::of(b"x").to_string());
        (nothing.content, nothing.size, nothing.byte_size) = (None, None, Some(0));
        assert_eq!(file(path("/a"), nothing).0.size, Size::AtMost(u64::MAX));
    }

    #[test]
    fn events_map_to_changes_of_the_mount() {
        let read = |value: Value| {
            event(serde_json::from_str(&value.to_string()).unwrap(), &Scope::new(path("/r")))
        };
        let hash = Digest::of(b"").to_string();
        let empty = read(json!({"eventId": "evt_3", "type": "file.updated", "path": "/r/a",
            "revision": "rev_2", "contentHash": hash, "inlineContent": true}));
        assert_eq!(empty.fingerprint, format!("/r/a@rev_2#{hash}"));
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
