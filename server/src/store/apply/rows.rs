//! The rows of files and their contents.

use rusqlite::params;

use super::{Applier, Space, Sql};
use crate::store::model::File;

impl Applier<'_> {
    pub(super) fn write_row(&self, space: &mut Space, file: &File, replaces: bool) -> Sql<()> {
        let id = space.counts.id;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO files VALUES \
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                id,
                file.path,
                file.revision,
                file.hash,
                file.content_type,
                file.base64,
                file.stored_size,
                file.byte_size,
                file.edited_at,
                file.blob,
                file.body,
                file.semantics,
                file.mode,
                file.mtime,
                file.symlink
            ])?;
        if !replaces {
            space.counts.files += 1;
            self.link(id, &file.path)?;
        }
        Ok(())
    }

    pub(super) fn remove_row(&self, space: &mut Space, path: &str) -> Sql<()> {
        self.connection
            .prepare_cached("DELETE FROM files WHERE workspace = ?1 AND path = ?2")?
            .execute(params![space.counts.id, path])?;
        space.counts.files -= 1;
        self.unlink(space.counts.id, path)
    }

    pub(super) fn discard_content(&mut self, file: &File) -> Sql<()> {
        if let Some(blob) = file.blob {
            self.connection.prepare_cached("DELETE FROM blobs WHERE id = ?1")?.execute([blob])?;
        }
        self.replaced.extend(file.body.clone());
        Ok(())
    }
}
