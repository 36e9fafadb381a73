//! What a listing lacks of what is known. Absence alone proves nothing. Pure.

use std::collections::{HashMap, HashSet};

use super::core::Core;
use crate::node::{Ino, Node};
use crate::path::WsPath;
use crate::record::Op;
use crate::revision::Revision;

/// What derived from the remote before a listing: what the remote accepts from here meanwhile may
/// not be in it, and is not missing for that.
#[derive(Debug)]
pub struct Known {
    all: HashMap<Ino, Option<Revision>>,
    /// How many of them are files.
    pub files: usize,
}

impl Known {
    /// The revision from which a node derived then.
    pub(super) fn revision(&self, ino: Ino) -> Option<&Revision> {
        self.all.get(&ino)?.as_ref()
    }
}

impl Core {
    /// The files that derive from the remote, have nothing pending, and that a complete listing
    /// did not show. Each must be looked at by itself before it is believed to be gone.
    #[must_use]
    pub fn unseen(&self, known: &Known, seen: &HashSet<Ino>) -> Vec<WsPath> {
        let mut paths = self.all_unseen(known, seen);
        paths.retain(|path| !self.is_pending(path));
        paths
    }

    /// The files that are to be offered again: those, and those of which only the metadata is about to
    /// be sent, which brings nothing back.
    #[must_use]
    pub fn unoffered(&self, known: &Known, seen: &HashSet<Ino>) -> Vec<WsPath> {
        let mut paths = self.all_unseen(known, seen);
        paths.retain(|path| !self.is_content_pending(path));
        paths
    }

    /// Whether anything but a change of metadata waits or is in flight.
    pub(super) fn is_content_pending(&self, path: &WsPath) -> bool {
        let lane = self.outbox.lane(path);
        lane.is_some_and(|lane| lane.records().any(|record| record.op != Op::Meta))
    }

    fn all_unseen(&self, known: &Known, seen: &HashSet<Ino>) -> Vec<WsPath> {
        let unseen = |node: &&Node| {
            !node.is_dir()
                && known.all.contains_key(&node.ino)
                && node.synced.is_some()
                && !node.local_only
                && !seen.contains(&node.ino)
                && !self.tree.is_unlinked(node.ino)
        };
        let paths = self.tree.nodes().filter(unseen).filter_map(|node| self.tree.path_of(node.ino));
        paths.filter(|path| !self.guards.kept.contains(path)).collect()
    }

    /// The explicit folders that a complete listing did not show.
    #[must_use]
    pub fn unseen_folders(&self, known: &Known, seen: &HashSet<Ino>) -> Vec<WsPath> {
        let unseen = |node: &&Node| {
            node.is_dir()
                && known.all.contains_key(&node.ino)
                && node.synced.is_some()
                && !node.local_only
                && !seen.contains(&node.ino)
        };
        self.tree.nodes().filter(unseen).filter_map(|node| self.tree.path_of(node.ino)).collect()
    }

    /// What derives from the remote now.
    #[must_use]
    pub fn known(&self) -> Known {
        let synced = || self.tree.nodes().filter(|node| node.synced.is_some());
        let files = synced().filter(|node| !node.is_dir()).count();
        let revision =
            |node: &Node| node.synced.as_ref().and_then(|synced| synced.revision.clone());
        Known { all: synced().map(|node| (node.ino, revision(node))).collect(), files }
    }
}
