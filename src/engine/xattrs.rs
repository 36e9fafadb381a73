//! Extended attributes: kept on this machine, with their node.
//!
//! They belong to the node and not to its name: they move with it, and a change from the remote leaves
//! them. Who saves a file by way of another name makes another node, and takes them over or not.

use super::core::{Changes, Core, Now};
use super::local::LocalError;
use crate::namespace::Keep;
use crate::node::Ino;
use crate::store::Row;
use crate::xattrs::Xattrs;

/// What setting an attribute may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Anything.
    Any,
    /// It must be new.
    Create,
    /// It must be there.
    Replace,
}

impl Core {
    /// The attributes of a node; `None` when it has none.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn xattrs(&self, ino: Ino) -> Result<Option<&Xattrs>, LocalError> {
        self.tree.get(ino).ok_or(LocalError::Stale)?;
        Ok(self.xattrs.get(&ino))
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// When the node is gone, `mode` does not allow it, or there is no room.
    pub fn set_xattr(
        &mut self,
        ino: Ino,
        (name, value): (&[u8], &[u8]),
        mode: XattrMode,
        now: Now,
        changes: &mut Changes,
    ) -> Result<(), LocalError> {
        self.check_writable()?;
        let known = self.xattrs(ino)?.is_some_and(|xattrs| xattrs.get(name).is_some());
        match (mode, known) {
            (XattrMode::Create, true) => return Err(LocalError::Exists),
            (XattrMode::Replace, false) => return Err(LocalError::NoAttribute),
            (XattrMode::Any | XattrMode::Create | XattrMode::Replace, _) => {}
        }
        if !self.xattrs.entry(ino).or_default().set(name, value) {
            return Err(LocalError::NoRoom);
        }
        self.xattrs_changed(ino, now, changes);
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// When the node or the attribute is not there.
    pub fn remove_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        now: Now,
        changes: &mut Changes,
    ) -> Result<(), LocalError> {
        self.check_writable()?;
        self.xattrs(ino)?;
        if !self.xattrs.get_mut(&ino).is_some_and(|xattrs| xattrs.remove(name)) {
            return Err(LocalError::NoAttribute);
        }
        self.xattrs_changed(ino, now, changes);
        Ok(())
    }

    fn xattrs_changed(&mut self, ino: Ino, now: Now, changes: &mut Changes) {
        if let Some(node) = self.tree.get_mut(ino) {
            node.ctime = now.wall;
        }
        self.put_node(ino, changes);
        let left = self.xattrs.get(&ino).filter(|xattrs| !xattrs.is_empty());
        if self.tree.is_unlinked(ino) {
            return;
        }
        match left {
            Some(xattrs) => changes.rows.push(Row::PutXattrs(ino, Box::new(xattrs.clone()))),
            None => {
                self.xattrs.remove(&ino);
                changes.rows.push(Row::DeleteXattrs(ino));
            }
        }
    }

    /// The node lost its name; with `keep` it still has its attributes for those who have it open.
    pub(super) fn detach_xattrs(&mut self, ino: Ino, keep: Keep, changes: &mut Changes) {
        if self.xattrs.contains_key(&ino) {
            changes.rows.push(Row::DeleteXattrs(ino));
        }
        if keep == Keep::Nothing {
            self.xattrs.remove(&ino);
        }
    }

    /// Removes what the last run left of nodes that are gone.
    pub(super) fn sweep_xattrs(&mut self, changes: &mut Changes) {
        let gone: Vec<Ino> =
            self.xattrs.keys().copied().filter(|ino| self.tree.get(*ino).is_none()).collect();
        for ino in gone {
            self.detach_xattrs(ino, Keep::Nothing, changes);
        }
    }
}
