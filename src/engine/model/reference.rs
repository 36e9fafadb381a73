//! The reference: what a reader of a mount must see, worked out without the engine.
//!
//! Calls change it as POSIX says. What comes from the remote is checked by [`super::checks`] and
//! then taken up.

use std::collections::BTreeMap;

use super::remote::Bytes;
use crate::path::WsPath;

/// What is under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    /// A file; the content is not known before somebody reads it.
    File(Option<Bytes>),
}

impl Entry {
    /// Whether both may be the same.
    pub(super) fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::File(Some(one)), Self::File(Some(other))) => one == other,
            (Self::File(_), Self::File(_)) | (Self::Dir, Self::Dir) => true,
            _ => false,
        }
    }

    pub(super) fn bytes(self) -> Option<Bytes> {
        match self {
            Self::File(bytes) => bytes,
            Self::Dir => None,
        }
    }
}

/// What a reader sees: every name but the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) tree: BTreeMap<WsPath, Entry>,
}

/// What a call replaced or removed; `None` when it must be refused.
pub(super) type Displaced = Option<Vec<Bytes>>;

impl Reader {
    fn at(&self, path: &WsPath) -> Option<Entry> {
        if path.is_root() { Some(Entry::Dir) } else { self.tree.get(path).copied() }
    }

    fn has_folder(&self, path: &WsPath) -> bool {
        path.parent().is_some_and(|folder| self.at(&folder) == Some(Entry::Dir))
    }

    fn subtree(&self, path: &WsPath) -> Vec<WsPath> {
        self.tree.keys().filter(|at| at.is_within(path)).cloned().collect()
    }

    fn is_empty_folder(&self, path: &WsPath) -> bool {
        self.at(path) == Some(Entry::Dir) && self.subtree(path).len() <= 1
    }

    pub(super) fn write(&mut self, path: &WsPath, bytes: Bytes) -> Displaced {
        if !self.has_folder(path) || self.at(path) == Some(Entry::Dir) {
            return None;
        }
        let old = self.tree.insert(path.clone(), Entry::File(Some(bytes)));
        Some(old.and_then(Entry::bytes).into_iter().collect())
    }

    pub(super) fn make_dir(&mut self, path: &WsPath) -> Displaced {
        if !self.has_folder(path) || self.at(path).is_some() {
            return None;
        }
        self.tree.insert(path.clone(), Entry::Dir);
        Some(Vec::new())
    }

    /// `unlink`, or `rmdir` for a folder.
    pub(super) fn remove(&mut self, path: &WsPath) -> Displaced {
        match self.at(path)? {
            Entry::Dir if !self.is_empty_folder(path) => None,
            entry => {
                self.tree.remove(path);
                Some(entry.bytes().into_iter().collect())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &WsPath, to: &WsPath) -> Displaced {
        let entry = self.at(from)?;
        if !self.has_folder(to) {
            return None;
        }
        if from == to {
            return Some(Vec::new());
        }
        if to.is_within(from) {
            return None;
        }
        let displaced = match (entry, self.at(to)) {
            (_, None) => Vec::new(),
            (Entry::File(_), Some(Entry::File(bytes))) => bytes.into_iter().collect(),
            (Entry::Dir, Some(Entry::Dir)) if self.is_empty_folder(to) => Vec::new(),
            _ => return None,
        };
        self.tree.remove(to);
        for path in self.subtree(from) {
            let moved = path.rebase(from, to)?;
            let entry = self.tree.remove(&path)?;
            self.tree.insert(moved, entry);
        }
        Some(displaced)
    }

    pub(super) fn exchange(&mut self, one: &WsPath, other: &WsPath) -> Displaced {
        self.at(one)?;
        self.at(other)?;
        if one == other {
            return Some(Vec::new());
        }
        if one.is_within(other) || other.is_within(one) {
            return None;
        }
        let mut moved = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            for path in self.subtree(from) {
                let entry = self.tree.get(&path).copied()?;
                moved.push((path.clone(), path.rebase(from, to)?, entry));
            }
        }
        for (path, _, _) in &moved {
            self.tree.remove(path);
        }
        self.tree.extend(moved.into_iter().map(|(_, path, entry)| (path, entry)));
        Some(Vec::new())
    }
}
