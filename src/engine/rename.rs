//! Renames: new names are stored, old names removed, each on the base of what was there.
//!
//! One rule serves files, folders, replacing and exchanging: what every name held before is noted,
//! the tree is changed, and then each name is looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::{Changes, Core, Now};
use super::local::{LocalError, Occupant};
use crate::namespace::Keep;
use crate::node::{Content, Ino, Node, Origin, Synced};
use crate::path::{WsPath, check_name};
use crate::record::Op;
use crate::revision::Base;

/// How a rename treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It is an error.
    NoReplace,
    /// Both change places.
    Exchange,
}

impl Core {
    /// Moves an entry. Returns the node that was replaced, which lives on without a name while it
    /// is open (`target_open`).
    ///
    /// # Errors
    /// As `rename(2)`.
    #[allow(clippy::too_many_arguments, reason = "the arguments of renameat2")]
    pub fn rename(
        &mut self,
        (parent, name): (Ino, &str),
        (new_parent, new_name): (Ino, &str),
        mode: RenameMode,
        target_open: impl Fn(Ino) -> bool,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Option<Ino>, LocalError> {
        self.check_writable()?;
        check_name(new_name)?;
        let ino = self.tree.child(parent, name).ok_or(LocalError::NotFound)?;
        let new_folder = self.folder_path(new_parent)?;
        let target = self.tree.child(new_parent, new_name);
        if target == Some(ino) {
            return Ok(None);
        }
        self.check_rename(ino, new_parent, target, mode)?;

        let mut moved = self.tree.subtree(ino);
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            moved.extend(self.tree.subtree(target));
        }
        let new_path = new_folder.join(new_name)?;
        self.check_border(&moved, ino, &new_path)?;
        // What was under each name before, so that what is there afterwards gets the right base.
        let mut before: BTreeMap<WsPath, Occupant> = BTreeMap::new();
        for ino in moved.iter().copied().chain(target) {
            if let (Some(path), Some(node)) = (self.tree.path_of(ino), self.tree.get(ino)) {
                before.insert(path, Occupant::of(node));
            }
        }
        let mut replaced = None;
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.tree.relocate(target, parent, &Arc::from(name));
                self.tree.relocate(ino, new_parent, &Arc::from(new_name));
                // The first move put the target under the old name; make sure it stayed there.
                self.tree.relocate(target, parent, &Arc::from(name));
            } else {
                let is_special = self.tree.get(target).is_some_and(Node::is_special);
                let is_open = is_special || target_open(target);
                let keep = if is_open { Keep::Node } else { Keep::Nothing };
                self.detach(target, keep, changes);
                replaced = Some(target);
                self.tree.relocate(ino, new_parent, &Arc::from(new_name));
            }
        } else {
            self.tree.relocate(ino, new_parent, &Arc::from(new_name));
        }
        self.record_moves(&moved, &before, now, changes);
        for path in before.keys() {
            self.uncover(path, changes);
        }
        for folder in [parent, new_parent] {
            self.touch_folder(folder, now, changes);
        }
        Ok(replaced)
    }

    fn check_rename(
        &self,
        ino: Ino,
        new_parent: Ino,
        target: Option<Ino>,
        mode: RenameMode,
    ) -> Result<(), LocalError> {
        let node = self.tree.get(ino).ok_or(LocalError::Stale)?;
        if self.tree.is_within(new_parent, ino) {
            return Err(LocalError::InvalidMove);
        }
        let Some(target) = target else {
            return if mode == RenameMode::Exchange { Err(LocalError::NotFound) } else { Ok(()) };
        };
        let other = self.tree.get(target).ok_or(LocalError::Stale)?;
        match mode {
            RenameMode::NoReplace => Err(LocalError::Exists),
            RenameMode::Exchange if self.tree.is_within(ino, target) => {
                Err(LocalError::InvalidMove)
            }
            RenameMode::Exchange => Ok(()),
            RenameMode::Replace => match (node.is_dir(), other.is_dir()) {
                (true, false) => Err(LocalError::NotADirectory),
                (false, true) => Err(LocalError::IsADirectory),
                (true, true) if self.tree.children(target).is_some_and(|all| !all.is_empty()) => {
                    Err(LocalError::NotEmpty)
                }
                _ => Ok(()),
            },
        }
    }

    /// A content that only the remote has must not leave what is sent: its old name would be
    /// removed there and nobody would have the bytes.
    fn check_border(&self, moved: &[Ino], top: Ino, new_path: &WsPath) -> Result<(), LocalError> {
        let is_dir = self.tree.get(top).is_some_and(Node::is_dir);
        if !self.rules.is_local_only(new_path, is_dir) {
            return Ok(());
        }
        let remote_only = |ino: &&Ino| {
            let body = self.tree.get(**ino).and_then(Node::body);
            body.is_some_and(|body| body.content == Content::Remote)
        };
        if moved.iter().any(|ino| remote_only(&ino)) {
            return Err(LocalError::CrossesBorder);
        }
        Ok(())
    }

    /// Records the moves: each new name is stored, each old name without an occupant removed.
    fn record_moves(
        &mut self,
        moved: &[Ino],
        before: &BTreeMap<WsPath, Occupant>,
        now: Now,
        changes: &mut Changes,
    ) {
        let old_path: BTreeMap<Ino, &WsPath> =
            before.iter().map(|(path, occupant)| (occupant.ino, path)).collect();
        // A file and a folder of one name are two things at the remote: the old one goes first.
        for (path, occupant) in before {
            let there = self.tree.resolve(path).and_then(|ino| self.tree.get(ino));
            let other_kind = |node: &Node| node.is_dir() != occupant.is_dir && !node.is_special();
            if there.is_some_and(other_kind) {
                let moved_to = moved.contains(&occupant.ino).then_some(occupant.ino);
                self.record_removal(path, occupant, moved_to, now, changes);
            }
        }
        for &ino in moved {
            let Some(path) = self.tree.path_of(ino) else { continue };
            let Some(node) = self.tree.get(ino) else { continue };
            let is_dir = node.is_dir();
            let local_only = node.is_special() || self.rules.is_local_only(&path, is_dir);
            let clean_origin = match (&node.origin, &node.synced, node.body()) {
                (Some(origin), _, _) => Some(origin.clone()),
                (None, Some(synced), Some(body))
                    if body.content == Content::Remote
                        || !self.has_record(old_path.get(&ino).copied()) =>
                {
                    let digest = synced.digest;
                    old_path
                        .get(&ino)
                        .map(|path| Box::new(Origin { path: (*path).clone(), digest }))
                }
                _ => None,
            };
            if let Some(node) = self.tree.get_mut(ino) {
                node.local_only = local_only;
                node.ctime = now.wall;
                node.synced = None;
                node.origin = clean_origin.filter(|_| !local_only);
            }
            let base = before.get(&path).and_then(|occupant| occupant.synced.as_ref());
            let base_content = before.get(&path).and_then(|occupant| {
                self.base_content(&path, occupant.content, occupant.synced.as_ref())
            });
            let base = base.map_or(Base::Absent, Synced::base);
            let op = if is_dir { Op::MakeDir } else { Op::Put };
            self.put_node(ino, changes);
            self.record_put(ino, &path, op, (base, base_content), None, now, changes);
        }
        for (path, occupant) in before {
            let there = self.tree.resolve(path).and_then(|ino| self.tree.get(ino));
            // What is never sent leaves the name free at the remote.
            if there.is_none_or(Node::is_special) {
                let moved_to = moved.contains(&occupant.ino).then_some(occupant.ino);
                self.record_removal(path, occupant, moved_to, now, changes);
            }
        }
    }

    fn has_record(&self, path: Option<&WsPath>) -> bool {
        path.is_some_and(|path| self.outbox.lane(path).is_some())
    }
}
