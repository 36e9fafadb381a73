//! Folders: those made by request, and those implied by what lies in them.
//!
//! Each folder counts the entries directly in it. An implied folder begins with its first entry
//! and goes with its last; an explicit one stays.

use rusqlite::{OptionalExtension as _, params};

use super::{Applier, Space, Sql, tombstone};
use crate::paths;
use crate::store::model::{EventKind, Outcome, Refusal};
use crate::store::read;

impl Applier<'_> {
    pub(super) fn mkdir(
        &mut self,
        space: &mut Space,
        path: String,
        mode: Option<u32>,
        correlation: &str,
    ) -> Sql<Outcome> {
        let id = space.counts.id;
        if let Some(file) = read::file(self.connection, id, &path)? {
            return Ok(Err(Refusal::FileInTheWay { current: file.revision }));
        }
        let found = self
            .connection
            .prepare_cached(
                "SELECT explicit, revision, mode FROM folders WHERE workspace = ?1 AND path = ?2",
            )?
            .query_row(params![id, path], |row| {
                Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<u32>>(2)?))
            })
            .optional()?;
        if let Some((true, revision, present)) = found
            && (mode.is_none() || mode == present)
        {
            return Ok(Ok(tombstone(path, revision, String::new())));
        }
        let revision = self.next_revision();
        if found.is_some() {
            self.connection
                .prepare_cached(
                    "UPDATE folders SET explicit = 1, revision = ?3, mode = COALESCE(?4, mode) \
                     WHERE workspace = ?1 AND path = ?2",
                )?
                .execute(params![id, path, revision, mode])?;
        } else {
            self.connection
                .prepare_cached("INSERT INTO folders VALUES (?1, ?2, 0, 1, ?3, ?4)")?
                .execute(params![id, path, revision, mode])?;
            self.link(id, &path)?;
        }
        let mut event = self.gone(EventKind::DirectoryCreated, &path, revision, correlation);
        event.mode = mode.or(found.and_then(|(_, _, present)| present));
        self.publish(space, event)?;
        Ok(Ok(tombstone(path, revision, String::new())))
    }

    pub(super) fn rmdir(
        &mut self,
        space: &mut Space,
        path: String,
        correlation: &str,
    ) -> Sql<Outcome> {
        let id = space.counts.id;
        let children: Option<i64> = self
            .connection
            .prepare_cached("SELECT children FROM folders WHERE workspace = ?1 AND path = ?2")?
            .query_row(params![id, path], |row| row.get(0))
            .optional()?;
        match children {
            None => return Ok(Err(Refusal::NotFound)),
            Some(0) => {}
            Some(_) => return Ok(Err(Refusal::NotEmpty)),
        }
        self.connection
            .prepare_cached("DELETE FROM folders WHERE workspace = ?1 AND path = ?2")?
            .execute(params![id, path])?;
        self.unlink(id, &path)?;
        let revision = self.next_revision();
        self.announce_gone(space, EventKind::DirectoryDeleted, &path, revision, correlation)?;
        Ok(Ok(tombstone(path, revision, String::new())))
    }

    /// Counts a new entry in its folder, making the folders above as needed.
    pub(super) fn link(&self, id: i64, path: &str) -> Sql<()> {
        let mut path = path;
        while let Some(folder) = paths::parent(path) {
            let counted = self
                .connection
                .prepare_cached(
                    "UPDATE folders SET children = children + 1 WHERE workspace = ?1 AND path = ?2",
                )?
                .execute(params![id, folder])?;
            if counted > 0 {
                break;
            }
            self.connection
                .prepare_cached("INSERT INTO folders VALUES (?1, ?2, 1, 0, 0, NULL)")?
                .execute(params![id, folder])?;
            path = folder;
        }
        Ok(())
    }

    /// Uncounts an entry from its folder, removing implied folders that become empty.
    pub(super) fn unlink(&self, id: i64, path: &str) -> Sql<()> {
        let mut path = path;
        while let Some(folder) = paths::parent(path) {
            let vanishes = self
                .connection
                .prepare_cached(
                    "UPDATE folders SET children = children - 1 WHERE workspace = ?1 AND path = ?2 \
                     RETURNING children = 0 AND explicit = 0",
                )?
                .query_row(params![id, folder], |row| row.get::<_, bool>(0))
                .optional()?
                .unwrap_or(false);
            if !vanishes {
                break;
            }
            self.connection
                .prepare_cached("DELETE FROM folders WHERE workspace = ?1 AND path = ?2")?
                .execute(params![id, folder])?;
            path = folder;
        }
        Ok(())
    }
}
