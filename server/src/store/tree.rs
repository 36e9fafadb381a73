//! Lists files and folders below a folder down to a depth, a page at a time.
//!
//! Two walks over clustered tables, one of files and one of folders, are merged by path. A walk
//! that meets a path deeper than asked for jumps over the whole subtree it lies in, so a page
//! costs what it shows and not what the workspace holds.

use std::collections::VecDeque;

use rusqlite::{Connection, Row, params};

use super::model::{File, Folder};
use crate::paths;

const CHUNK: usize = 256;

/// One line of a listing.
#[derive(Debug)]
pub(crate) enum Entry {
    File(Box<File>),
    Folder(Folder),
}

/// A page of a listing, and whether more follows.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) more: bool,
}

/// Returns the entries after `cursor`, in path order.
pub(crate) fn page(
    connection: &Connection,
    workspace: i64,
    folder: &str,
    depth: usize,
    cursor: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Page> {
    let files = format!(
        "SELECT {} FROM files WHERE workspace = ?1 AND path >= ?2 AND path < ?3 ORDER BY path",
        File::COLUMNS
    );
    let folders = "SELECT path, explicit, mode FROM folders \
         WHERE workspace = ?1 AND path >= ?2 AND path < ?3 ORDER BY path";
    let mut files = Walk::new(connection, &files, workspace, folder, depth, cursor, |row| {
        let file = File::from_row(row)?;
        Ok((file.path.clone(), file))
    });
    let mut folders = Walk::new(connection, folders, workspace, folder, depth, cursor, |row| {
        let folder = Folder { path: row.get(0)?, explicit: row.get(1)?, mode: row.get(2)? };
        Ok((folder.path.clone(), folder))
    });
    let mut entries = Vec::new();
    loop {
        let next_file = files.peek()?.map(str::to_owned);
        let next_folder = folders.peek()?;
        if next_file.is_none() && next_folder.is_none() {
            return Ok(Page { entries, more: false });
        }
        if entries.len() == limit {
            return Ok(Page { entries, more: true });
        }
        let file_first = match (&next_file, next_folder) {
            (Some(file), Some(folder)) => file.as_str() <= folder,
            (file, _) => file.is_some(),
        };
        if file_first {
            // Where a file and a folder share a name, the file is shown.
            if next_file.as_deref() == next_folder {
                folders.take();
            }
            entries.extend(files.take().map(|file| Entry::File(Box::new(file))));
        } else {
            entries.extend(folders.take().map(Entry::Folder));
        }
    }
}

/// A walk over one table in path order.
struct Walk<'c, T, F> {
    connection: &'c Connection,
    sql: String,
    workspace: i64,
    base_len: usize,
    depth: usize,
    /// The first path not looked at yet; `None` when the walk is over.
    from: Option<String>,
    until: String,
    read: F,
    ready: VecDeque<(String, T)>,
}

impl<'c, T, F: FnMut(&Row<'_>) -> rusqlite::Result<(String, T)>> Walk<'c, T, F> {
    fn new(
        connection: &'c Connection,
        sql: &str,
        workspace: i64,
        folder: &str,
        depth: usize,
        cursor: Option<&str>,
        read: F,
    ) -> Self {
        let (low, until) = paths::below(folder);
        let base_len = low.len();
        let from = cursor.map_or_else(|| after(&low), |cursor| after(cursor).max(after(&low)));
        Self {
            connection,
            sql: sql.to_owned(),
            workspace,
            base_len,
            depth,
            from: Some(from),
            until,
            read,
            ready: VecDeque::new(),
        }
    }

    fn peek(&mut self) -> rusqlite::Result<Option<&str>> {
        while self.ready.is_empty() && self.from.is_some() {
            self.fill()?;
        }
        Ok(self.ready.front().map(|(path, _)| path.as_str()))
    }

    fn take(&mut self) -> Option<T> {
        self.ready.pop_front().map(|(_, value)| value)
    }

    fn fill(&mut self) -> rusqlite::Result<()> {
        let Some(from) = self.from.take() else { return Ok(()) };
        let mut statement = self.connection.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params![self.workspace, from, self.until])?;
        while let Some(row) = rows.next()? {
            let (path, value) = (self.read)(row)?;
            if let Some(beyond) = self.beyond(&path) {
                self.from = Some(beyond);
                return Ok(());
            }
            self.ready.push_back((path, value));
            if self.ready.len() == CHUNK {
                self.from = self.ready.back().map(|(path, _)| after(path));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the end of the subtree to skip when a path lies too deep.
    fn beyond(&self, path: &str) -> Option<String> {
        let rest = path.get(self.base_len..)?;
        let (at, _) = rest.match_indices('/').nth(self.depth - 1)?;
        // '0' is the byte after '/': the first path that is not below this folder.
        Some(format!("{}0", &path[..self.base_len + at]))
    }
}

/// Returns the smallest text that sorts after a path.
fn after(path: &str) -> String {
    format!("{path}\0")
}
