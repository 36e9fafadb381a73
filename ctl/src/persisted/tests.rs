//! What a state file says, whatever shape it is in.

use super::*;
use crate::testing::{Place, make_dir};

pub(crate) const STATE: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
    INSERT INTO meta VALUES ('name', 'docs'), ('source', 'https://files.example.dev/docs'),
        ('server', 'https://files.example.dev'), ('workspace', 'docs'), ('remote_path', '/'),
        ('mountpoint', '/home/ana/docs'), ('last_ack_at', '2026-11-20T10:31:40Z'),
        ('pause', '{\"reason\":\"freeze\",\"since\":\"2026-11-20T10:00:00Z\",\"until\":null}');
    CREATE TABLE outbox(seq INTEGER PRIMARY KEY, path TEXT, op TEXT, state TEXT, size INTEGER,
        recorded_at INTEGER);
    INSERT INTO outbox VALUES (1, '/a', 'write', 'waiting', 1000, 1800000000000),
        (2, '/b', 'delete', 'flight', 0, 1700000000000),
        (3, '/c', 'write', 'parked', 50, 1600000000000);
    CREATE TABLE conflicts(id TEXT PRIMARY KEY, path TEXT, at INTEGER, resolved INTEGER);
    INSERT INTO conflicts VALUES ('c-1', '/a', 1, 0), ('c-2', '/b', 1, 1), ('c-3', '/b', 1, 0);";

#[test]
fn a_state_is_summed_up() {
    let place = Place::new();
    // The connection stays open, so that everything still lies in the write-ahead log.
    let _writer = place.state("docs", STATE);
    let docs = load(&place.env, "docs").unwrap();
    assert_eq!((docs.queued, docs.queued_bytes), (2, 1000));
    assert_eq!(docs.oldest_at, Timestamp::from_millisecond(1_700_000_000_000).ok());
    assert_eq!((docs.attention, docs.conflicts_open), (1, 2));
    assert_eq!(docs.pause.as_ref().unwrap().reason.as_deref(), Some("freeze"));
    assert_eq!(docs.caveat, None);
    assert_eq!(
        docs.summary(),
        "2 records (1000 B) wait in the outbox, 1 parked, 2 conflicts open; nothing is lost"
    );
    assert_eq!(
        docs.start_command(),
        "mountd mount https://files.example.dev/docs /home/ana/docs --name docs"
    );
    assert_eq!(load_all(&place.env), [docs]);
}

#[test]
fn missing_tables_and_broken_files_are_survived() {
    let place = Place::new();
    place.state("empty", "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);").close().unwrap();
    let empty = load(&place.env, "empty").unwrap();
    assert_eq!(empty.summary(), "what waits in its outbox is unknown: its outbox cannot be read");
    assert_eq!(empty.start_command(), "mountd run --profile empty");

    let dir = paths::state_dir(&place.env, "broken");
    make_dir(&dir);
    fs::write(dir.join(STATE_FILE), vec![b'x'; 8192]).unwrap();
    let broken = load(&place.env, "broken").unwrap();
    assert!(broken.caveat.as_deref().unwrap().starts_with("its state cannot be read"));

    make_dir(&paths::state_dir(&place.env, "nothing"));
    assert_eq!(load(&place.env, "nothing"), None);
    assert_eq!(load(&place.env, "../empty"), None);
    let names: Vec<String> = load_all(&place.env).into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["broken", "empty"]);
}

#[test]
fn a_log_without_its_index_is_read_as_well() {
    let place = Place::new();
    let writer = place.state("docs", STATE);
    let dir = paths::state_dir(&place.env, "docs");
    let copy = paths::state_dir(&place.env, "killed");
    make_dir(&copy);
    for file in ["state.db", "state.db-wal"] {
        fs::copy(dir.join(file), copy.join(file)).unwrap();
    }
    drop(writer);
    assert_eq!(load(&place.env, "killed").unwrap().queued, 2);
}
