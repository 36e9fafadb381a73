//! Folders of the remote: those that exist of their own, and those that are there through what they
//! hold. One that something here stands in the way of is remembered and shown when its way is free.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::{Changes, Core, Now, SKIPPED_MAX};
use super::inbound::Inbound;
use crate::node::{Ino, Kind, Node, ROOT};
use crate::path::WsPath;
use crate::record::{Op, RecordState};
use crate::store::Row;

/// A folder of the remote that something here stands in the way of.
#[derive(Debug, Clone, Copy)]
pub(super) struct HiddenFolder {
    mode: Option<u32>,
    /// Heard of while our removal of it was under way: it may have been made anew since.
    is_doubtful: bool,
}

impl Core {
    /// A folder that exists of its own.
    pub fn folder_created(
        &mut self,
        path: &WsPath,
        mode: Option<u32>,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        if self.rules.is_local_only(path, true) {
            return Inbound::Busy;
        }
        let newest = self.outbox.lane(path).and_then(|lane| lane.records().last());
        if let Some(newest) = newest {
            // Unless it is ours that is on its way, it is looked at again when that is over.
            if newest.op != Op::MakeDir {
                self.hide_folder(path, mode, changes);
                self.note_recheck(path, changes);
            }
            return Inbound::Busy;
        }
        if self.is_full() && self.tree.resolve(path).is_none() {
            return self.left_out(path);
        }
        let Some(ino) = self.folder_at(path, now, changes) else {
            self.hide_folder(path, mode, changes);
            return self.hidden(
                path,
                "a file has the same name, or that of a folder above",
                changes,
            );
        };
        let Some(node) = self.tree.get_mut(ino) else { return Inbound::Known };
        if node.kind == (Kind::Dir { explicit: true }) && node.synced.is_some() {
            return Inbound::Known;
        }
        node.kind = Kind::Dir { explicit: true };
        node.synced = Some(Box::default());
        node.mode = mode.unwrap_or(node.mode);
        self.put_node(ino, changes);
        Inbound::Applied
    }

    fn hide_folder(&mut self, path: &WsPath, mode: Option<u32>, changes: &mut Changes) {
        if self.hidden_folders.len() < SKIPPED_MAX {
            let is_doubtful = self.outbox.lane(path).is_some_and(|lane| {
                let record = &lane.current.record;
                record.op == Op::RemoveDir && record.state == RecordState::Flight
            });
            self.hidden_folders.insert(path.clone(), HiddenFolder { mode, is_doubtful });
            self.keep_hidden(changes);
        }
    }

    /// The whole tree was listed.
    pub(super) fn note_listed(&mut self, changes: &mut Changes) {
        self.listed = true;
        self.keep_hidden(changes);
        // What stood in the way of a folder there may have gone without a word.
        if !self.offers(|can| can.directories) {
            return;
        }
        let is_unknown_there = |node: &&Node| {
            node.kind == (Kind::Dir { explicit: true })
                && node.synced.is_none()
                && !node.local_only
                && node.ino != ROOT
        };
        let unknown = self.tree.nodes().filter(is_unknown_there);
        let paths: Vec<WsPath> = unknown
            .filter_map(|node| self.tree.path_of(node.ino))
            .filter(|path| !self.is_pending(path))
            .collect();
        for path in paths {
            self.note_recheck(&path, changes);
        }
    }

    /// What is hidden is in memory only: while something is, the next start lists the tree.
    fn keep_hidden(&self, changes: &mut Changes) {
        if self.listed {
            let listed = self.hidden_folders.is_empty().then(|| "1".to_owned());
            changes.rows.push(Row::SetMeta("listed", listed));
        }
    }

    /// Forgets a hidden folder; returns what was known of it.
    fn unhide_folder(&mut self, path: &WsPath, changes: &mut Changes) -> Option<HiddenFolder> {
        let hidden = self.hidden_folders.remove(path)?;
        self.keep_hidden(changes);
        Some(hidden)
    }

    /// The remote removed a folder for us, or had none: what was heard of it before is over. Where
    /// it may be another one of that name, the tree is listed.
    pub(super) fn folder_removed(&mut self, path: &WsPath, changes: &mut Changes) {
        if let Some(hidden) = self.unhide_folder(path, changes) {
            self.skipped.remove(path.as_str());
            self.guards.list_again |= hidden.is_doubtful;
        }
    }

    /// The remote has no file of that name: a folder that it has there can be shown, and one that is
    /// here can be made there.
    pub(super) fn way_is_free(
        &mut self,
        path: &WsPath,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        if let Some(hidden) = self.unhide_folder(path, changes) {
            return self.folder_created(path, hidden.mode, now, changes);
        }
        let Some(ino) = self.tree.resolve(path) else { return Inbound::Known };
        let is_unknown_there = self.tree.get(ino).is_some_and(|node| {
            node.kind == (Kind::Dir { explicit: true }) && node.synced.is_none()
        });
        if is_unknown_there {
            self.record_node(ino, path, Op::MakeDir, None, now, changes);
        }
        Inbound::Known
    }

    /// A folder of its own is gone at the remote.
    pub(super) fn folder_deleted(
        &mut self,
        path: &WsPath,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        if self.unhide_folder(path, changes).is_some() {
            self.skipped.remove(path.as_str());
        }
        let Some(ino) = self.tree.resolve(path) else { return Inbound::Known };
        if self.is_pending(path) || ino == ROOT {
            return Inbound::Busy;
        }
        let empty = self.tree.children(ino).is_some_and(BTreeMap::is_empty);
        let Some(node) = self.tree.get_mut(ino).filter(|node| node.is_dir()) else {
            return Inbound::Known;
        };
        // What is still in it keeps it there.
        node.kind = Kind::Dir { explicit: false };
        node.synced = None;
        self.put_node(ino, changes);
        if empty {
            self.take_out(ino, now, changes);
        }
        Inbound::Applied
    }

    /// The folder at `path`, with all folders above it, created where missing. `None` when a file
    /// is in the way.
    pub(super) fn folder_at(
        &mut self,
        path: &WsPath,
        now: Now,
        changes: &mut Changes,
    ) -> Option<Ino> {
        let mut at = ROOT;
        for name in path.names() {
            at = match self.tree.child(at, name) {
                Some(ino) => self.tree.get(ino).filter(|node| node.is_dir()).map(|_| ino)?,
                None => {
                    let ino = Ino(self.take_id(&mut changes.rows));
                    self.tree.insert(Node {
                        ino,
                        parent: at,
                        name: Arc::from(name),
                        kind: Kind::Dir { explicit: false },
                        mode: 0o755,
                        uid: self.settings.uid,
                        gid: self.settings.gid,
                        atime: now.wall,
                        mtime: now.wall,
                        ctime: now.wall,
                        synced: None,
                        origin: None,
                        local_only: false,
                    });
                    self.put_node(ino, changes);
                    self.announce(at, name, now, changes);
                    ino
                }
            };
        }
        Some(at)
    }
}
