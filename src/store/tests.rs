//! Rows go in and come back; commits, syncs and damage.

use jiff::Timestamp;

use super::*;
use crate::digest::Digest;
use crate::node::{Content, FileBody, Ino, Kind, Node, Synced};
use crate::path::WsPath;
use crate::record::{
    BaseContent, ConflictRow, How, Op, Record, RecordBase, RecordState, Resolution, Seq,
};
use crate::revision::{Base, Revision};

fn node(ino: u64, kind: Kind) -> Node {
    let at = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
    Node {
        ino: Ino(ino),
        parent: Ino(1),
        name: Arc::from(format!("n{ino}")),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        atime: at,
        mtime: at,
        ctime: at,
        synced: Some(Box::new(Synced {
            revision: Revision::new("rev_3"),
            digest: Some(Digest::of(b"x")),
            edited_at: Some(at),
        })),
        origin: None,
        local_only: false,
    }
}

fn record(seq: u64, base: RecordBase, state: RecordState) -> Record {
    Record {
        seq: Seq(seq),
        key: u64::MAX - seq,
        path: WsPath::parse("/a/b").unwrap(),
        op: Op::Put,
        ino: Some(Ino(7)),
        base,
        base_content: Some(BaseContent { blob: BlobId(4), digest: Some(Digest::of(b"old")) }),
        moved_to: Some(Ino(9)),
        blob: Some(BlobId(5)),
        size: 12,
        recorded_at: Timestamp::from_millisecond(1_700_000_000_000).unwrap(),
        state,
        attempts: 3,
        sent: vec![Digest::of(b"sent"), Digest::of(b"again")],
        last_error: Some("why".to_owned()),
        needs_approval: seq.is_multiple_of(2),
    }
}

/// Whoever drops a store without closing it, as a start that fails does, leaves no thread behind; what
/// was submitted is committed. Also where the last handle is held by a callback, which a thread of
/// the store runs and drops.
#[test]
fn a_dropped_store_ends_its_threads() {
    for last_is_a_callback in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let store = Store::open(&path).unwrap();
        // The threads share it; once they are gone, so is it.
        let held = Arc::new(());
        let by_threads = Arc::clone(&held);
        store.before_sync(Box::new(move || {
            drop(Arc::clone(&by_threads));
            Ok(())
        }));
        store.put(vec![Row::SetMeta("name", Some("x".to_owned()))]);
        let (tell, told) = std::sync::mpsc::channel::<()>();
        if last_is_a_callback {
            let handle = store.clone();
            store.sync(Box::new(move |result| {
                result.unwrap();
                drop(handle);
                drop(tell);
            }));
            drop(store);
            assert!(told.recv().is_err(), "the callback has run");
        } else {
            drop(store);
            assert_eq!(Arc::strong_count(&held), 1);
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.load().unwrap().meta.get("name").map(String::as_str), Some("x"));
        store.close().unwrap();
    }
}

#[test]
fn what_was_committed_is_read_back_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let body = |content| Kind::File(FileBody { content, size: 5, exact: true });
    let nodes = vec![
        node(2, body(Content::Blob(BlobId(5)))),
        node(3, body(Content::File(crate::node::FileId(8)))),
        node(4, body(Content::Remote)),
        node(5, body(Content::Empty)),
        node(6, Kind::Dir { explicit: true }),
        node(7, Kind::Symlink { target: Arc::from("../t") }),
    ];
    let parked = RecordState::Parked { code: "forbidden".into(), message: "no".into() };
    let records = vec![
        record(1, RecordBase::Known(Base::Absent), RecordState::Waiting),
        record(2, RecordBase::Follows, RecordState::Flight),
        record(3, RecordBase::Known(Base::Revision(Revision::new("r").unwrap())), parked),
        record(4, RecordBase::Known(Base::Date(Timestamp::UNIX_EPOCH)), RecordState::Waiting),
    ];
    let store = Store::open(&path).unwrap();
    let mut rows: Vec<Row> = nodes.iter().cloned().map(|n| Row::PutNode(Box::new(n))).collect();
    rows.extend(records.iter().cloned().map(|r| Row::PutRecord(Box::new(r))));
    rows.push(Row::PutBlob(BlobId(5), Bytes::from_static(b"hello")));
    rows.push(Row::SetMeta("cursor", Some("evt_1".into())));
    rows.push(Row::PutRecheck(WsPath::parse("/r").unwrap()));
    rows.push(Row::PutRemoval(WsPath::parse("/gone").unwrap()));
    rows.push(Row::PutImported("0-1".into()));
    // Not closed: what a killed process leaves behind.
    store.commit_and_wait(rows, false).unwrap();

    let again = Store::open(&path).unwrap();
    let loaded = again.load().unwrap();
    assert_eq!(loaded.nodes, nodes);
    assert_eq!(loaded.records, records);
    assert_eq!(loaded.meta["cursor"], "evt_1");
    assert_eq!(loaded.recheck, [WsPath::parse("/r").unwrap()]);
    assert_eq!(loaded.removals, [WsPath::parse("/gone").unwrap()]);
    assert!(loaded.imported.contains("0-1"));
    assert_eq!(again.blob(BlobId(5)).unwrap().unwrap(), "hello");
    assert_eq!(again.blob(BlobId(6)).unwrap(), None);
    assert!(loaded.damaged.is_empty());
    again.close().unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(&path).unwrap().close().unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    drop(connection);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error, StoreError::Newer { found: SCHEMA_VERSION + 1, known: SCHEMA_VERSION });
}

#[test]
fn a_row_without_meaning_is_set_aside_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path).unwrap();
    let good = record(1, RecordBase::Follows, RecordState::Waiting);
    store.commit_and_wait(vec![Row::PutRecord(Box::new(good.clone()))], true).unwrap();
    store
        .commit_and_wait(
            vec![Row::PutRecord(Box::new(record(2, RecordBase::Follows, RecordState::Waiting)))],
            true,
        )
        .unwrap();
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE outbox SET op = 'explode' WHERE seq = 2", [])
        .unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.records, [good]);
    assert_eq!(loaded.damaged.len(), 1);
    store.close().unwrap();
}

/// Any change of any field that was not written by the store is noticed, in every table.
#[test]
fn a_row_that_is_not_as_it_was_written_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path).unwrap();
    let body = Kind::File(FileBody { content: Content::Blob(BlobId(5)), size: 5, exact: true });
    let sums = FileSums { size: 3, blocks: vec![crate::checksum::Checksum::of(b"abc")] };
    let rows = vec![
        Row::PutNode(Box::new(node(2, body))),
        Row::PutRecord(Box::new(record(1, RecordBase::Follows, RecordState::Waiting))),
        Row::PutBlob(BlobId(5), Bytes::from_static(b"hello")),
        Row::SetMeta("cursor", Some("evt_1".into())),
        Row::PutRecheck(WsPath::parse("/r").unwrap()),
        Row::PutSums(crate::node::FileId(8), Box::new(sums.clone())),
    ];
    store.commit_and_wait(rows.clone(), true).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.sums[&crate::node::FileId(8)], sums);
    let intact = |loaded: &Loaded| {
        [
            loaded.nodes.len(),
            loaded.records.len(),
            loaded.meta.len(),
            loaded.recheck.len(),
            loaded.sums.len(),
        ]
    };
    let other = Connection::open(&path).unwrap();
    let changes = [
        ("nodes", "size = 6", [0, 1, 1, 1, 1]),
        ("nodes", "origin = '/x'", [0, 1, 1, 1, 1]),
        ("outbox", "last_error = NULL", [1, 0, 1, 1, 1]),
        ("outbox", "sum = 7", [1, 0, 1, 1, 1]),
        ("meta", "value = 'evt_2'", [1, 1, 0, 1, 1]),
        ("recheck", "path = '/s'", [1, 1, 1, 0, 1]),
        ("sums", "size = 4", [1, 1, 1, 1, 0]),
    ];
    for (table, change, left) in changes {
        other.execute(&format!("UPDATE {table} SET {change}"), []).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(intact(&loaded), left, "{table}: {change}");
        assert_eq!(loaded.damaged.len(), 1);
        assert_eq!(loaded.damaged[0].table(), table);
        // What is discarded is gone, and the rows can be written anew.
        let discard = Row::Discard(Box::new(loaded.damaged[0].clone()));
        store.commit_and_wait(vec![discard], false).unwrap();
        assert!(store.load().unwrap().damaged.is_empty());
        store.commit_and_wait(rows.clone(), false).unwrap();
    }
    other.execute("UPDATE blobs SET data = x'68656c6c70'", []).unwrap();
    assert!(matches!(store.blob(BlobId(5)), Err(StoreError::Damaged(_))));
    assert_eq!(store.blob_as_it_lies(BlobId(5)).unwrap(), Some((Bytes::from("hellp"), false)));
    store.close().unwrap();
}

/// Rows of databases that had no checksums yet are believed.
#[test]
fn a_row_without_checksum_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path).unwrap();
    let row = record(1, RecordBase::Follows, RecordState::Waiting);
    store.commit_and_wait(vec![Row::PutRecord(Box::new(row.clone()))], true).unwrap();
    Connection::open(&path).unwrap().execute("UPDATE outbox SET sum = NULL", []).unwrap();
    assert_eq!(store.load().unwrap().records, [row]);
    store.close().unwrap();
}

#[test]
fn of_rows_that_change_the_same_thing_only_the_last_is_written() {
    let path = WsPath::parse("/a").unwrap();
    let mut rows = vec![
        Row::PutBlob(BlobId(1), Bytes::from_static(b"1")),
        Row::SetMeta("cursor", Some("evt_1".into())),
        Row::PutRecheck(path.clone()),
        Row::DeleteBlob(BlobId(1)),
        Row::PutBlob(BlobId(2), Bytes::from_static(b"2")),
        Row::SetMeta("cursor", Some("evt_2".into())),
        Row::DeleteRecheck(path),
    ];
    rows::newest_only(&mut rows);
    let left: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left[0].starts_with("DeleteBlob") && left[1].starts_with("PutBlob(BlobId(2)"));
    assert!(left[2].contains("evt_2") && left[3].starts_with("DeleteRecheck"));
}

#[test]
fn the_room_of_dropped_contents_is_known_to_be_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state.db")).unwrap();
    let before = store.free_bytes().unwrap();
    let bytes = Bytes::from(vec![7; 1 << 20]);
    store.commit_and_wait(vec![Row::PutBlob(BlobId(2), bytes)], false).unwrap();
    assert_eq!(store.free_bytes().unwrap(), before);
    store.commit_and_wait(vec![Row::DeleteBlob(BlobId(2))], false).unwrap();
    assert!(store.free_bytes().unwrap() >= before + (1 << 20));
    store.close().unwrap();
}

#[test]
fn nothing_is_left_in_the_log_after_an_orderly_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path).unwrap();
    store.commit_and_wait(vec![Row::SetMeta("key", Some("value".to_owned()))], false).unwrap();
    store.close().unwrap();
    let log = std::fs::metadata(folder.path().join("state.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0);
    assert!(std::fs::metadata(path).unwrap().len() > 4096);
}

#[test]
fn conflicts_open_and_resolved_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let at = |second| Timestamp::from_second(second).unwrap();
    let conflict = |id: &str, second, resolution| ConflictRow {
        id: id.to_owned(),
        path: WsPath::parse("/d/f").unwrap(),
        at: at(second),
        kind: "edit".to_owned(),
        base_revision: Some("rev_1".to_owned()),
        theirs_revision: None,
        ours: Some((3, Digest::of(b"our"))),
        theirs: None,
        base: Some((4, Digest::of(b"base"))),
        folder: format!("{id}.conflict"),
        ours_by: Some("me@here".to_owned()),
        ours_at: Some(at(5)),
        theirs_at: None,
        sibling: Some(WsPath::parse("/d/f (conflict)").unwrap()),
        resolution,
    };
    let merged = Resolution { how: How::Merged, automatic: true, at: at(9) };
    let all = [conflict("c-2", 1, None), conflict("c-1", 2, Some(merged))];
    let store = Store::open(&path).unwrap();
    let put = |conflict: &ConflictRow| Row::PutConflict(Box::new(conflict.clone()));
    let gone = conflict("c-3", 3, None);
    let rows = all.iter().chain([&gone]).map(put).collect();
    store.commit_and_wait(rows, false).unwrap();
    store.commit_and_wait(vec![Row::DeleteConflict("c-3".to_owned())], false).unwrap();
    let loaded = Store::open(&path).unwrap().load().unwrap();
    assert_eq!(loaded.conflicts, all);
    assert!(loaded.damaged.is_empty(), "{:?}", loaded.damaged);
}

#[test]
fn a_ticket_is_good_once_what_came_before_it_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state.db")).unwrap();
    assert!(store.is_committed(Ticket::default()), "nothing is always committed");
    let (tell, told) = std::sync::mpsc::channel();
    for number in 0..50 {
        store.put(vec![Row::PutBlob(BlobId(number), Bytes::from(vec![7; 100]))]);
        let ticket = store.submitted();
        let (inner, id) = (store.clone(), BlobId(number));
        let tell = tell.clone();
        store.when_committed(
            ticket,
            Box::new(move |result| {
                result.unwrap();
                assert!(inner.is_committed(ticket));
                tell.send(inner.blob(id).unwrap().is_some()).unwrap();
            }),
        );
    }
    drop(tell);
    assert_eq!(told.iter().filter(|is_there| *is_there).count(), 50);
    // What is committed is told at once, on the thread that asks.
    let asks = std::thread::current().id();
    store.when_committed(
        store.submitted(),
        Box::new(move |result| {
            result.unwrap();
            assert_eq!(std::thread::current().id(), asks);
        }),
    );
    store.close().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    store.when_synced(store.submitted(), Box::new(move |result| drop(tell.send(result))));
    assert_eq!(told.recv().unwrap(), Err(StoreError::Closed), "nobody is left who could sync");
}
