//! A state database and its log that something happened to. Whatever it was: the start neither
//! panics nor hangs, what it reads was once written, and what it read it reads again.

#![allow(clippy::unwrap_used, reason = "what is made up here cannot fail but by the machine")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::damage::{damaged, decode};
use crate::checksum::Checksum;
use crate::digest::Digest;
use crate::engine::local::Creator;
use crate::engine::{Core, Now, Settings};
use crate::node::{BlobId, Content, FileBody, FileId, Ino, Kind, Node, ROOT, Synced};
use crate::path::{WsPath, check_name};
use crate::record::{BaseContent, ConflictRow, Op, Record, RecordBase, RecordState, Seq};
use crate::revision::{Base, Revision};
use crate::store::{FileSums, Loaded, Opened, Row, Store};

/// A database as a kill leaves it.
struct Valid {
    database: Vec<u8>,
    log: Vec<u8>,
    /// All rows that were ever in it, as text.
    written: BTreeSet<String>,
    /// Those that are in it now.
    present: BTreeSet<String>,
}

/// The first byte says what is damaged: the database, its log, both, or the bytes are a database by
/// themselves. The rest says how.
pub fn state(bytes: &[u8]) {
    let Some((what, rest)) = bytes.split_first() else { return };
    let valid = valid();
    let damages = decode(rest);
    let damage = |bytes: &[u8], is_meant: bool| {
        if is_meant { damaged(bytes.to_vec(), &damages) } else { bytes.to_vec() }
    };
    let what = what % 4;
    let (database, log) = match what {
        3 => (rest.to_vec(), Vec::new()),
        _ => (damage(&valid.database, what != 1), damage(&valid.log, what != 0)),
    };
    let is_whole = database == valid.database && log == valid.log;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, database).unwrap();
    if !log.is_empty() {
        std::fs::write(folder.path().join("state.db-wal"), log).unwrap();
    }
    let Some(first) = start(&path) else {
        assert!(!is_whole, "what was not damaged is refused");
        return;
    };
    for row in &first {
        assert!(valid.written.contains(row), "never written: {row}");
    }
    if is_whole {
        assert_eq!(first, valid.present);
    }
    assert_eq!(start(&path).as_ref(), Some(&first), "another start reads something else");
}

/// Starts on the database at `path` as the daemon does, and ends. Returns its rows as text, `None`
/// where it is refused.
fn start(path: &Path) -> Option<BTreeSet<String>> {
    let number = Cell::new(0);
    let aside = |path: &Path| {
        number.set(number.get() + 1);
        PathBuf::from(format!("{}.corrupt.{}", path.display(), number.get()))
    };
    let Opened { store, loaded, .. } = Store::open_checked(path, &aside).ok()?;
    let rows = texts(&store, &loaded);
    let now = Now { mono: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };
    let discard = loaded.damaged.iter().map(|row| Row::Discard(Box::new(row.clone()))).collect();
    let (mut core, _) = Core::new(loaded, Settings::default(), now, 1);
    drop(core.plan(now));
    for node in core.tree.nodes() {
        if let Some(path) = core.tree.path_of(node.ino) {
            assert!(path.names().all(|name| check_name(name).is_ok()), "{path:?}");
        }
    }
    let ended = store.commit_and_wait(discard, false).and_then(|()| store.close());
    ended.ok().map(|()| rows)
}

/// Everything in a database, a line a row. Contents that are not as they were written are left out.
fn texts(store: &Store, loaded: &Loaded) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    texts.extend(loaded.meta.iter().map(|row| format!("meta {row:?}")));
    texts.extend(loaded.nodes.iter().map(|row| format!("node {row:?}")));
    texts.extend(loaded.records.iter().map(|row| format!("record {row:?}")));
    texts.extend(loaded.recheck.iter().map(|row| format!("recheck {row:?}")));
    texts.extend(loaded.conflicts.iter().map(|row| format!("conflict {row:?}")));
    texts.extend(loaded.removals.iter().map(|row| format!("removal {row:?}")));
    texts.extend(loaded.imported.iter().map(|row| format!("imported {row:?}")));
    texts.extend(loaded.sums.iter().map(|row| format!("sums {row:?}")));
    for id in &loaded.blobs {
        if let Ok(Some(content)) = store.blob(*id) {
            texts.insert(format!("content {id:?} {content:?}"));
        }
    }
    texts
}

/// Made once: rows of every kind, changed and removed again, some in the database and the newest
/// in its log.
fn valid() -> &'static Valid {
    static VALID: OnceLock<Valid> = OnceLock::new();
    VALID.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut written = BTreeSet::new();
        let mut commit = |store: &Store, rows: Vec<Row>| {
            store.commit_and_wait(rows, true).unwrap();
            let present = texts(store, &store.load().unwrap());
            written.extend(present.iter().cloned());
            present
        };
        let store = Store::open(&path).unwrap();
        commit(&store, tree());
        commit(&store, (0..12).flat_map(|n| file(n, 1)).collect());
        store.close().unwrap();
        let store = Store::open(&path).unwrap();
        commit(&store, (0..12).step_by(2).flat_map(|n| file(n, 2)).collect());
        let gone = vec![
            Row::DeleteNode(Ino(1001)),
            Row::DeleteRecord(Seq(1)),
            Row::DeleteBlob(BlobId(3)),
            Row::SetMeta("listed", None),
        ];
        let present = commit(&store, gone);
        let database = std::fs::read(&path).unwrap();
        let log = std::fs::read(folder.path().join("state.db-wal")).unwrap();
        assert!(database.len() > 16 << 10 && log.len() > 16 << 10, "both hold rows");
        store.close().unwrap();
        Valid { database, log, written, present }
    })
}

/// What a first start and two calls leave.
fn tree() -> Vec<Row> {
    let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let (mut core, mut changes) = Core::new(Loaded::default(), Settings::default(), now, 1);
    let creator = Creator { uid: 0, gid: 0, mode: 0o755 };
    let dir = Kind::Dir { explicit: true };
    let folder = core.create(ROOT, "d", dir, creator, now, &mut changes).unwrap();
    let link = Kind::Symlink { target: "t".into() };
    core.create(folder, "l", link, creator, now, &mut changes).unwrap();
    let mut rows = changes.rows;
    rows.push(Row::SetMeta("cursor", Some(r#"{"id":"evt_1","fingerprint":null}"#.into())));
    rows.push(Row::SetMeta("listed", Some("1".into())));
    rows.push(Row::PutImported("0011-7".into()));
    rows
}

/// A file with its content, record and all else that may belong to it, as its `version` is.
fn file(n: u64, version: u8) -> Vec<Row> {
    let name = format!("file {n} {}", "long ".repeat(usize::try_from(n).unwrap()));
    let path = WsPath::root().join(&name).unwrap();
    let content = Bytes::from(vec![version; 300 * usize::try_from(n + 1).unwrap()]);
    let digest = Digest::of(&content);
    let at = Timestamp::from_second(1_700_000_000 + i64::from(version)).unwrap();
    let body = if n.is_multiple_of(3) {
        Content::File(FileId(2000 + n))
    } else {
        Content::Blob(BlobId(3000 + n))
    };
    let node = Node {
        ino: Ino(1000 + n),
        parent: ROOT,
        name: Arc::from(name),
        kind: Kind::File(FileBody { content: body, size: content.len() as u64, exact: true }),
        mode: 0o644,
        uid: 1,
        gid: 2,
        atime: at,
        mtime: at,
        ctime: at,
        synced: Some(Box::new(Synced {
            revision: Revision::new("rev_3"),
            digest: Some(digest),
            edited_at: Some(at),
        })),
        origin: None,
        local_only: n == 5,
    };
    let base = match n % 3 {
        0 => RecordBase::Follows,
        1 => RecordBase::Known(Base::Absent),
        _ => RecordBase::Known(Base::Date(at)),
    };
    let record = Record {
        seq: Seq(n),
        key: u64::MAX - n,
        path: path.clone(),
        op: Op::Put,
        ino: Some(Ino(1000 + n)),
        base,
        base_content: Some(BaseContent { blob: BlobId(n), digest: Some(digest) }),
        moved_to: None,
        blob: Some(BlobId(3000 + n)),
        size: content.len() as u64,
        recorded_at: at,
        state: RecordState::Waiting,
        attempts: version.into(),
        sent: vec![digest],
        last_error: Some("why".to_owned()),
        needs_approval: false,
    };
    let conflict = ConflictRow {
        id: format!("c-{n}"),
        path: path.clone(),
        at,
        kind: "edit".to_owned(),
        base_revision: Some("rev_1".to_owned()),
        theirs_revision: None,
        ours: Some((7, digest)),
        theirs: None,
        base: None,
        folder: format!("c-{n}.conflict-x"),
        ours_by: Some("somebody".to_owned()),
        ours_at: Some(at),
        theirs_at: None,
        sibling: None,
        resolution: None,
    };
    let sums = FileSums { size: 3, blocks: vec![Checksum::of(&[version])] };
    vec![
        Row::PutNode(Box::new(node)),
        Row::PutRecord(Box::new(record)),
        Row::PutConflict(Box::new(conflict)),
        Row::PutBlob(BlobId(n), Bytes::from_static(b"base")),
        Row::PutBlob(BlobId(3000 + n), content),
        Row::PutSums(FileId(2000 + n), Box::new(sums)),
        Row::PutRecheck(path.clone()),
        Row::PutRemoval(path),
    ]
}
