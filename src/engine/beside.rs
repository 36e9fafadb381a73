//! Contents that enter the tree by themselves: ours beside a file in conflict, and what a person
//! decided on. They are changes like those made in the folder, recorded and sent like them. Pure.

use std::sync::Arc;

use super::copies::{NewContent, sibling_name};
use super::core::{Changes, Core, Invalidation, Now};
use super::local::{Creator, LocalError, Sealed};
use crate::node::{Content, FileBody, Ino, Kind};
use crate::path::WsPath;
use crate::record::ConflictRow;

impl Core {
    /// Shows our side of a conflict beside the file, under a name of its own. Returns its path;
    /// `None` when there is no room for it, which is said in the log.
    pub(super) fn show_beside(
        &mut self,
        conflict: &ConflictRow,
        content: NewContent,
        now: Now,
        changes: &mut Changes,
    ) -> Option<WsPath> {
        let file = content.file();
        match self.place_beside(conflict, content, now, changes) {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::error!(path = %conflict.path, %error, "ours is not shown beside the file");
                changes.trash.extend(file);
                None
            }
        }
    }

    /// Puts a content beside the file of a conflict.
    ///
    /// # Errors
    /// When its folder is gone for a file, or the name cannot be.
    pub(super) fn place_beside(
        &mut self,
        conflict: &ConflictRow,
        content: NewContent,
        now: Now,
        changes: &mut Changes,
    ) -> Result<WsPath, LocalError> {
        let folder = conflict.path.parent().ok_or(LocalError::NotFound)?;
        let name = conflict.path.name().ok_or(LocalError::NotFound)?;
        let parent = self.folder_at(&folder, now, changes).ok_or(LocalError::NotADirectory)?;
        let who = conflict.ours_by.as_deref().unwrap_or_default();
        let host = who.rsplit_once('@').map_or(who, |(_, host)| host);
        let names = (1..).map(|attempt| sibling_name(name, host, conflict.at, attempt));
        let name = names.into_iter().find(|name| self.tree.child(parent, name).is_none());
        let path = folder.join(&name.unwrap_or_default())?;
        self.place(&path, content, now, changes)?;
        Ok(path)
    }

    /// Makes a file of a content under a name that is free.
    ///
    /// # Errors
    /// When the name is taken or cannot be.
    pub(super) fn place(
        &mut self,
        path: &WsPath,
        content: NewContent,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Ino, LocalError> {
        let folder = path.parent().ok_or(LocalError::NotFound)?;
        let name = path.name().ok_or(LocalError::NotFound)?;
        let parent = self.folder_at(&folder, now, changes).ok_or(LocalError::NotADirectory)?;
        let (uid, gid) = (self.settings.uid, self.settings.gid);
        let creator = Creator { uid, gid, mode: 0o644 };
        let empty = FileBody { content: Content::Empty, size: 0, exact: true };
        let ino = self.create(parent, name, Kind::File(empty), creator, now, changes)?;
        let (content, size) = content.enter(self, &mut changes.rows);
        self.seal(
            ino,
            &Sealed { content, size, mtime: now.wall, ctime: now.wall, held_until: None },
            now,
            changes,
        );
        changes.invalidations.push(Invalidation::Entry { parent, name: Arc::from(name) });
        changes.invalidations.push(Invalidation::Node(parent));
        Ok(ino)
    }
}
