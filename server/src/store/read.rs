//! Reads single things and pages of the database; each function is one or two index lookups.

use std::io::Read as _;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;
use super::bodies::{Bodies, BodyPin};
use super::model::{Event, File, Number, Workspace};
use crate::paths;

type Sql<T> = rusqlite::Result<T>;

pub(crate) fn workspace(connection: &Connection, name: &str) -> Sql<Option<Workspace>> {
    connection
        .prepare_cached(
            "SELECT id, files, first_event, last_event FROM workspaces WHERE name = ?1",
        )?
        .query_row([name], |row| {
            Ok(Workspace {
                id: row.get(0)?,
                files: row.get(1)?,
                first_event: row.get(2)?,
                last_event: row.get(3)?,
            })
        })
        .optional()
}

pub(crate) fn file(connection: &Connection, id: i64, path: &str) -> Sql<Option<File>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM files WHERE workspace = ?1 AND path = ?2",
            File::COLUMNS
        ))?
        .query_row(params![id, path], File::from_row)
        .optional()
}

/// Returns the files below a folder and after a path, in path order.
pub(crate) fn files_after(
    connection: &Connection,
    id: i64,
    folder: &str,
    after: Option<&str>,
    limit: usize,
) -> Sql<Vec<File>> {
    let (low, high) = paths::below(folder);
    let low = after.map_or(low.as_str(), |after| after.max(low.as_str()));
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM files WHERE workspace = ?1 AND path > ?2 AND path < ?3 \
             ORDER BY path LIMIT ?4",
            File::COLUMNS
        ))?
        .query_map(
            params![id, low, high, i64::try_from(limit).unwrap_or(i64::MAX)],
            File::from_row,
        )?
        .collect()
}

/// Counts the files below a folder; walks that part of the index.
pub(crate) fn count_below(connection: &Connection, id: i64, folder: &str) -> Sql<i64> {
    let (low, high) = paths::below(folder);
    connection
        .prepare_cached(
            "SELECT COUNT(*) FROM files WHERE workspace = ?1 AND path > ?2 AND path < ?3",
        )?
        .query_row(params![id, low, high], |row| row.get(0))
}

/// Returns the events after a number, oldest first.
pub(crate) fn events_after(
    connection: &Connection,
    id: i64,
    after: Number,
    limit: i64,
) -> Sql<Vec<Event>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM events WHERE workspace = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            Event::COLUMNS
        ))?
        .query_map([id, after, limit], Event::from_row)?
        .collect()
}

/// Returns the events before a number, newest first.
pub(crate) fn events_before(
    connection: &Connection,
    id: i64,
    before: Number,
    limit: i64,
) -> Sql<Vec<Event>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM events WHERE workspace = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
            Event::COLUMNS
        ))?
        .query_map([id, before, limit], Event::from_row)?
        .collect()
}

/// Returns the event that carries a revision. Revisions grow with event numbers, so this is a
/// binary search over the feed.
pub(crate) fn event_of(
    connection: &Connection,
    space: &Workspace,
    revision: Number,
) -> Sql<Option<Event>> {
    let (mut low, mut high) = (space.first_event, space.last_event);
    while low <= high {
        let middle = low + (high - low) / 2;
        let Some(event) = events_after(connection, space.id, middle - 1, 1)?.pop() else {
            return Ok(None);
        };
        match event.revision.cmp(&revision) {
            std::cmp::Ordering::Equal => return Ok(Some(event)),
            std::cmp::Ordering::Less => low = event.id + 1,
            std::cmp::Ordering::Greater => high = middle - 1,
        }
    }
    Ok(None)
}

/// Loads a whole content into memory; for contents whose size the caller has bounded.
pub(crate) fn content(
    connection: &Connection,
    bodies: &Bodies,
    pin: &BodyPin,
    file: &File,
) -> Result<Vec<u8>, StoreError> {
    if let Some(body) = &file.body {
        let mut content = Vec::new();
        bodies.read(body, pin)?.read_to_end(&mut content)?;
        return Ok(content);
    }
    Ok(connection
        .prepare_cached("SELECT data FROM blobs WHERE id = ?1")?
        .query_row([file.blob], |row| row.get(0))?)
}

/// Returns every body name in use.
pub(crate) fn body_names(connection: &Connection) -> Sql<std::collections::HashSet<String>> {
    connection
        .prepare("SELECT body FROM files WHERE body IS NOT NULL")?
        .query_map([], |row| row.get(0))?
        .collect()
}
