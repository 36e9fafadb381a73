//! The tables, as the sequence of steps that leads to them.
//!
//! A database says in `PRAGMA user_version` how many steps it took. Each further step is one
//! transaction, so that a crash leaves an older database or a newer one, never one in between. A
//! step that was released is never changed; what a later version needs is a step of its own.

use rusqlite::Connection;

use super::StoreError;

/// The steps, oldest first. The number of a step is the version that it leads to, from 1.
const STEPS: &[&str] = &[
    // `nodes` is the visible tree, `outbox` the changes laid over the remote, `meta` single values
    // (identity, cursor, pause, learned limits).
    "
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes(
  ino INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
  explicit INTEGER NOT NULL DEFAULT 0, target TEXT,
  content TEXT, content_id INTEGER, size INTEGER, exact INTEGER,
  mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
  atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
  synced INTEGER NOT NULL, revision TEXT, digest BLOB, edited_at INTEGER,
  origin TEXT, local_only INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS blobs(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox(
  seq INTEGER PRIMARY KEY, path TEXT NOT NULL, op TEXT NOT NULL, state TEXT NOT NULL,
  size INTEGER NOT NULL, recorded_at INTEGER NOT NULL, key INTEGER NOT NULL, ino INTEGER,
  base_kind TEXT NOT NULL, base TEXT, base_blob INTEGER, base_digest BLOB, moved_to INTEGER,
  blob INTEGER, attempts INTEGER NOT NULL, sent BLOB, code TEXT, message TEXT, last_error TEXT);
CREATE TABLE IF NOT EXISTS recheck(path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conflicts(
  id TEXT PRIMARY KEY, path TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
  base_revision TEXT, theirs_revision TEXT, ours_size INTEGER, ours_digest BLOB,
  theirs_size INTEGER, theirs_digest BLOB, folder TEXT NOT NULL,
  resolved INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
",
    // Removals in great number wait for a person, both those made here (`approval`) and those made at
    // the remote (`removals`); records that were carried here from another machine are taken up once.
    "
ALTER TABLE outbox ADD COLUMN approval INTEGER NOT NULL DEFAULT 0;
CREATE TABLE removals(path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE imported(id TEXT PRIMARY KEY) WITHOUT ROWID;
",
    // Each row carries a checksum of its fields, so that a bit that flips on the disk is noticed;
    // working files have theirs, block by block, in `sums`.
    "
ALTER TABLE meta ADD COLUMN sum INTEGER;
ALTER TABLE nodes ADD COLUMN sum INTEGER;
ALTER TABLE blobs ADD COLUMN sum INTEGER;
ALTER TABLE outbox ADD COLUMN sum INTEGER;
ALTER TABLE recheck ADD COLUMN sum INTEGER;
ALTER TABLE conflicts ADD COLUMN sum INTEGER;
ALTER TABLE removals ADD COLUMN sum INTEGER;
ALTER TABLE imported ADD COLUMN sum INTEGER;
CREATE TABLE sums(
  file INTEGER PRIMARY KEY, size INTEGER NOT NULL, blocks BLOB NOT NULL, sum INTEGER);
",
    // Who made the sides of a conflict and when, the visible copy, and how it was resolved.
    "
ALTER TABLE conflicts ADD COLUMN ours_by TEXT;
ALTER TABLE conflicts ADD COLUMN ours_at INTEGER;
ALTER TABLE conflicts ADD COLUMN theirs_at INTEGER;
ALTER TABLE conflicts ADD COLUMN sibling TEXT;
ALTER TABLE conflicts ADD COLUMN resolution TEXT;
ALTER TABLE conflicts ADD COLUMN automatic INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conflicts ADD COLUMN resolved_at INTEGER;
",
    // What the base in a conflict copy is, so that it can be told from a damaged one.
    "
ALTER TABLE conflicts ADD COLUMN base_size INTEGER;
ALTER TABLE conflicts ADD COLUMN base_digest BLOB;
",
    // What a renamed file held where the remote still has it, to know it again.
    "
ALTER TABLE nodes ADD COLUMN origin_digest BLOB;
",
    // Pipes, sockets and devices.
    "
ALTER TABLE nodes ADD COLUMN device INTEGER;
",
    // Extended attributes.
    "
CREATE TABLE xattrs(ino INTEGER PRIMARY KEY, attributes BLOB NOT NULL, sum INTEGER);
",
];

/// A table and the column by which its rows are found.
pub(super) struct Kept {
    pub(super) name: &'static str,
    pub(super) key: &'static str,
}

/// All tables.
pub(super) const TABLES: &[Kept] = &[
    Kept { name: "meta", key: "key" },
    Kept { name: "nodes", key: "ino" },
    Kept { name: "blobs", key: "id" },
    Kept { name: "outbox", key: "seq" },
    Kept { name: "recheck", key: "path" },
    Kept { name: "conflicts", key: "id" },
    Kept { name: "removals", key: "path" },
    Kept { name: "imported", key: "id" },
    Kept { name: "sums", key: "file" },
    Kept { name: "xattrs", key: "ino" },
];

/// Version of the schema that this program writes (`PRAGMA user_version`).
#[allow(clippy::cast_possible_wrap, reason = "a handful of steps")]
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// Brings a database, new or of any earlier version, up to [`SCHEMA_VERSION`].
///
/// # Errors
/// When it was written by a newer mountd, or cannot be read or written.
pub(super) fn bring_up(connection: &mut Connection) -> Result<(), StoreError> {
    let found = version(connection)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { found, known: SCHEMA_VERSION });
    }
    for (version, sql) in (1..).zip(STEPS) {
        if version > found {
            let taken = take(connection, version, sql);
            taken.map_err(|error| match StoreError::from(error) {
                // Tables that are there already: the version is not theirs.
                StoreError::Failed(why) if found > 0 => {
                    StoreError::Damaged(format!("version {found} is not that of its tables: {why}"))
                }
                error => error,
            })?;
        }
    }
    Ok(())
}

/// Whether the tables and their columns are those of [`SCHEMA_VERSION`]. Damage can leave names
/// there that are not even text, which nothing may ask for.
pub(super) fn is_whole(connection: &Connection) -> rusqlite::Result<bool> {
    let new = Connection::open_in_memory()?;
    for sql in STEPS {
        new.execute_batch(sql)?;
    }
    Ok(names(connection)? == names(&new)?)
}

/// Tables and columns, byte for byte.
fn names(connection: &Connection) -> rusqlite::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let sql = "SELECT CAST(m.name AS BLOB), CAST(c.name AS BLOB)
               FROM sqlite_master m, pragma_table_info(m.name) c
               WHERE m.type = 'table' ORDER BY 1, 2";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn take(connection: &mut Connection, version: i64, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", version)?;
    failpoint!("start.migrate");
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(connection: &Connection) -> Vec<(String, String)> {
        let sql = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c
                   WHERE m.type = 'table' ORDER BY 1, 2";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn every_table_is_among_those_that_are_saved() {
        let mut new = Connection::open_in_memory().unwrap();
        bring_up(&mut new).unwrap();
        let made: std::collections::BTreeSet<String> =
            columns(&new).into_iter().map(|(table, _)| table).collect();
        let saved = TABLES.iter().map(|table| table.name.to_owned()).collect();
        assert_eq!(made, saved);
    }

    /// A database of any earlier version becomes the same as a new one.
    #[test]
    fn every_earlier_version_is_brought_up() {
        let mut new = Connection::open_in_memory().unwrap();
        bring_up(&mut new).unwrap();
        for from in 1..=SCHEMA_VERSION {
            let mut old = Connection::open_in_memory().unwrap();
            for (version, sql) in (1..=from).zip(STEPS) {
                take(&mut old, version, sql).unwrap();
            }
            bring_up(&mut old).unwrap();
            assert_eq!(version(&old).unwrap(), SCHEMA_VERSION);
            assert_eq!(columns(&old), columns(&new), "from version {from}");
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut newer = Connection::open_in_memory().unwrap();
        newer.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        let known = SCHEMA_VERSION;
        let found = known + 1;
        assert_eq!(bring_up(&mut newer), Err(StoreError::Newer { found, known }));
    }
}
