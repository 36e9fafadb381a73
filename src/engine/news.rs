//! What has come from the remote and those who watch the folder want to hear.

use std::sync::Arc;

use super::core::{Changes, Core};
use crate::node::{Ino, Kind, Node};

/// Something that changed in the tree, and not by a call on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What happened.
    pub kind: NewsKind,
    /// The folder.
    pub parent: Ino,
    /// The name in it.
    pub name: Arc<str>,
    /// What has, or had, the name.
    pub ino: Ino,
    /// It is a folder.
    pub is_dir: bool,
    /// It is a symbolic link.
    pub is_symlink: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewsKind {
    /// A new name.
    Created,
    /// Another content.
    Changed,
    /// The name is gone.
    Removed,
}

impl Core {
    /// Tells of a node that has a name.
    pub(super) fn tell(&self, kind: NewsKind, ino: Ino, changes: &mut Changes) {
        if let Some(node) = self.tree.get(ino)
            && !self.tree.is_unlinked(ino)
        {
            changes.news.push(News::of(kind, node));
        }
    }
}

impl News {
    fn of(kind: NewsKind, node: &Node) -> Self {
        Self {
            kind,
            parent: node.parent,
            name: Arc::clone(&node.name),
            ino: node.ino,
            is_dir: node.is_dir(),
            is_symlink: matches!(node.kind, Kind::Symlink { .. }),
        }
    }
}
