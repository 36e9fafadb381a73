//! The layout of the database, and how its connections are set up.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::Error;

/// The version of [`SCHEMA`], kept in the file itself.
const VERSION: i64 = 1;

// Files and folders are clustered by (workspace, path): a listing reads neighbours. Contents are
// kept apart so that a listing never steps over them. `folders` holds every folder, implied or
// explicit, with the number of entries directly in it.
const SCHEMA: &str = "
CREATE TABLE counters (
  name TEXT PRIMARY KEY, value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counters VALUES ('revision', 0);
CREATE TABLE workspaces (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, files INTEGER NOT NULL,
  first_event INTEGER NOT NULL, last_event INTEGER NOT NULL
);
CREATE TABLE files (
  workspace INTEGER NOT NULL, path TEXT NOT NULL, revision INTEGER NOT NULL, hash BLOB NOT NULL,
  content_type TEXT NOT NULL, base64 INTEGER NOT NULL, stored_size INTEGER NOT NULL,
  byte_size INTEGER NOT NULL, edited_at INTEGER NOT NULL, blob INTEGER, body TEXT, semantics TEXT,
  mode INTEGER, mtime TEXT, symlink TEXT,
  PRIMARY KEY (workspace, path)
) WITHOUT ROWID;
CREATE UNIQUE INDEX files_body ON files (body) WHERE body IS NOT NULL;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE folders (
  workspace INTEGER NOT NULL, path TEXT NOT NULL, children INTEGER NOT NULL,
  explicit INTEGER NOT NULL, revision INTEGER NOT NULL, mode INTEGER,
  PRIMARY KEY (workspace, path)
) WITHOUT ROWID;
CREATE TABLE events (
  workspace INTEGER NOT NULL, id INTEGER NOT NULL, kind INTEGER NOT NULL, path TEXT NOT NULL,
  revision INTEGER NOT NULL, hash BLOB, byte_size INTEGER, mode INTEGER, mtime TEXT, symlink TEXT,
  correlation TEXT NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY (workspace, id)
) WITHOUT ROWID;
CREATE TABLE identities (
  workspace INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, expires_at INTEGER NOT NULL,
  path TEXT NOT NULL, revision INTEGER NOT NULL, content_type TEXT NOT NULL, hash BLOB,
  byte_size INTEGER,
  PRIMARY KEY (workspace, kind, key)
) WITHOUT ROWID;
CREATE INDEX identities_expiry ON identities (expires_at);
";

const WRITER_PAGES: i64 = -64_000;
const READER_PAGES: i64 = -16_000;

/// Opens the connection that writes, creating the database when there is none.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, Error> {
    let failed = |act| move |source| Error::Database { act, path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(failed("open"))?;
    // FULL makes every commit reach the disk before it returns; a 202 rests on it.
    connection
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        // On macOS an ordinary fsync stops at the drive's cache; elsewhere this changes nothing.
        .and_then(|()| connection.pragma_update(None, "fullfsync", true))
        .and_then(|()| connection.pragma_update(None, "checkpoint_fullfsync", true))
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 4000))
        .and_then(|()| connection.pragma_update(None, "journal_size_limit", 64 << 20))
        .and_then(|()| connection.pragma_update(None, "cache_size", WRITER_PAGES))
        .and_then(|()| connection.busy_timeout(Duration::from_secs(10)))
        .map_err(failed("set up"))?;
    connection.set_prepared_statement_cache_capacity(64);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("read the version of"))?;
    match found {
        VERSION => {}
        0 => connection
            .execute_batch(&format!("BEGIN;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;"))
            .map_err(failed("create"))?,
        _ => {
            return Err(Error::SchemaTooNew { path: path.to_owned(), found, known: VERSION });
        }
    }
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "cache_size", READER_PAGES)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
