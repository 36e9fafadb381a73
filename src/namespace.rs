//! The namespace: the visible tree in memory, by inode number and by name.
//!
//! Owns all nodes. Invariants: every linked node hangs below the root by its `parent` and `name`;
//! a node that was removed while open stays reachable by number until it is forgotten and has no
//! path; two entries of a folder never share a name. It does no I/O and takes no lock: whoever
//! holds it has both.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::node::{Ino, Kind, Node, ROOT};
use crate::path::WsPath;

/// The tree of names.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<Ino, Node>,
    children: HashMap<Ino, Folder>,
    /// Whether the kernel may still know the name.
    unlinked: HashMap<Ino, Keep>,
}

/// What is kept of a node that loses its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// It stays reachable by number, without a path, for those who have it open.
    Node,
    /// The same, and the kernel learns only afterwards that the name is gone: it may still open the node
    /// for somebody who named it.
    Untold,
}

/// What a folder holds.
#[derive(Debug, Default)]
struct Folder {
    entries: BTreeMap<Arc<str>, Ino>,
    /// How many of them are folders.
    folders: u32,
}

impl Tree {
    /// Builds the tree from persisted nodes; adds the root when it is missing. Nodes whose folder
    /// is not there are returned: they cannot be shown.
    #[must_use]
    pub fn new(nodes: Vec<Node>, uid: u32, gid: u32, now: Timestamp) -> (Self, Vec<Node>) {
        let root = Node {
            ino: ROOT,
            parent: ROOT,
            name: Arc::from(""),
            kind: Kind::Dir { explicit: true },
            mode: 0o755,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
            synced: None,
            origin: None,
            local_only: false,
        };
        let mut tree = Self {
            nodes: HashMap::with_capacity(nodes.len() + 1),
            children: HashMap::from([(ROOT, Folder::default())]),
            unlinked: HashMap::new(),
        };
        tree.nodes.insert(ROOT, root);
        let mut by_parent: HashMap<Ino, Vec<Node>> = HashMap::new();
        for node in nodes {
            if node.ino == ROOT {
                tree.nodes.insert(ROOT, node);
            } else {
                by_parent.entry(node.parent).or_default().push(node);
            }
        }
        let mut lost = Vec::new();
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop() {
            for node in by_parent.remove(&folder).unwrap_or_default() {
                if tree.child(folder, &node.name).is_some() {
                    lost.push(node);
                    continue;
                }
                if node.is_dir() {
                    folders.push(node.ino);
                }
                tree.insert(node);
            }
        }
        lost.extend(by_parent.into_values().flatten());
        (tree, lost)
    }

    /// The node of that number, linked or not.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    /// The node of that number, to change anything but its place.
    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    /// How many nodes there are, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 1
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The entry `name` of `folder`.
    #[must_use]
    pub fn child(&self, folder: Ino, name: &str) -> Option<Ino> {
        self.children.get(&folder)?.entries.get(name).copied()
    }

    /// The entries of `folder` by name; `None` when it is no folder.
    #[must_use]
    pub fn children(&self, folder: Ino) -> Option<&BTreeMap<Arc<str>, Ino>> {
        Some(&self.children.get(&folder)?.entries)
    }

    /// The node at `path`.
    #[must_use]
    pub fn resolve(&self, path: &WsPath) -> Option<Ino> {
        path.names().try_fold(ROOT, |folder, name| self.child(folder, name))
    }

    /// The path of a linked node.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> Option<WsPath> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            if self.unlinked.contains_key(&at) {
                return None;
            }
            let node = self.nodes.get(&at)?;
            names.push(&*node.name);
            at = node.parent;
        }
        names.reverse();
        WsPath::parse(&format!("/{}", names.join("/"))).ok()
    }

    /// Whether the node was removed and only lives on for those who have it open.
    #[must_use]
    pub fn is_unlinked(&self, ino: Ino) -> bool {
        self.unlinked.contains_key(&ino)
    }

    /// Whether who opens a node is to look again what has its name now. What is written to a file
    /// without a name reaches nobody: that is only for those who have it open, and know.
    #[must_use]
    pub fn is_stale(&self, ino: Ino, to_write: bool, is_open: bool) -> bool {
        match self.unlinked.get(&ino) {
            None => !self.nodes.contains_key(&ino),
            Some(Keep::Untold) => to_write || !is_open,
            Some(Keep::Node | Keep::Nothing) => !is_open,
        }
    }

    /// The node and everything below it, folders before their entries.
    #[must_use]
    pub fn subtree(&self, ino: Ino) -> Vec<Ino> {
        let mut all = vec![ino];
        let mut at = 0;
        while at < all.len() {
            if let Some(children) = self.children.get(&all[at]) {
                all.extend(children.entries.values());
            }
            at += 1;
        }
        all
    }

    /// The folders that `folder` holds, plus two: its link count.
    #[must_use]
    pub fn folder_links(&self, folder: Ino) -> u32 {
        self.children.get(&folder).map_or(0, |folder| folder.folders).saturating_add(2)
    }

    /// Puts a node into its folder.
    fn link(&mut self, ino: Ino, parent: Ino, name: &Arc<str>) {
        let is_dir = self.children.contains_key(&ino);
        let folder = self.children.entry(parent).or_default();
        folder.entries.insert(Arc::clone(name), ino);
        folder.folders += u32::from(is_dir);
    }

    /// Takes a node out of its folder, where it is in it.
    fn unlink(&mut self, ino: Ino, parent: Ino, name: &str) {
        let is_dir = self.children.contains_key(&ino);
        if let Some(folder) = self.children.get_mut(&parent)
            && folder.entries.get(name) == Some(&ino)
        {
            folder.entries.remove(name);
            folder.folders -= u32::from(is_dir);
        }
    }

    /// Adds a node under its `parent` and `name`. The caller made sure that the name is free.
    pub fn insert(&mut self, node: Node) {
        if node.is_dir() {
            self.children.entry(node.ino).or_default();
        }
        self.link(node.ino, node.parent, &node.name);
        self.nodes.insert(node.ino, node);
    }

    /// Takes a node out of its folder.
    pub fn remove(&mut self, ino: Ino, keep: Keep) -> Option<Node> {
        let node = self.nodes.get(&ino)?.clone();
        self.unlink(ino, node.parent, &node.name);
        self.children.remove(&ino);
        match keep {
            Keep::Nothing => drop(self.nodes.remove(&ino)),
            Keep::Node | Keep::Untold => drop(self.unlinked.insert(ino, keep)),
        }
        Some(node)
    }

    /// Drops a node that was removed and kept; a linked one stays.
    pub fn forget(&mut self, ino: Ino) -> Option<Node> {
        if self.unlinked.remove(&ino).is_some() { self.nodes.remove(&ino) } else { None }
    }

    /// Moves a node to another folder and name. The caller made sure that the name is free and
    /// that a folder does not move below itself.
    pub fn relocate(&mut self, ino: Ino, parent: Ino, name: &Arc<str>) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let old = (node.parent, std::mem::replace(&mut node.name, Arc::clone(name)));
        node.parent = parent;
        self.unlink(ino, old.0, &old.1);
        self.link(ino, parent, name);
    }

    /// Whether `ino` is `folder` or lies below it.
    #[must_use]
    pub fn is_within(&self, ino: Ino, folder: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == folder {
                return true;
            }
            if at == ROOT {
                return false;
            }
            match self.nodes.get(&at) {
                Some(node) => at = node.parent,
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ino: u64, parent: Ino, name: &str, kind: Kind) -> Node {
        let at = Timestamp::UNIX_EPOCH;
        Node {
            ino: Ino(ino),
            parent,
            name: Arc::from(name),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            atime: at,
            mtime: at,
            ctime: at,
            synced: None,
            origin: None,
            local_only: false,
        }
    }

    fn dir() -> Kind {
        Kind::Dir { explicit: true }
    }

    fn link() -> Kind {
        Kind::Symlink { target: Arc::from("x") }
    }

    fn path(text: &str) -> WsPath {
        WsPath::parse(text).unwrap()
    }

    #[test]
    fn rows_in_any_order_make_the_tree_and_strays_are_returned() {
        let rows = vec![
            node(4, Ino(3), "c", link()),
            node(3, Ino(2), "b", dir()),
            node(2, ROOT, "a", dir()),
            node(9, Ino(8), "stray", link()),
        ];
        let (tree, lost) = Tree::new(rows, 0, 0, Timestamp::UNIX_EPOCH);
        assert_eq!(tree.resolve(&path("/a/b/c")), Some(Ino(4)));
        assert_eq!(tree.path_of(Ino(4)), Some(path("/a/b/c")));
        assert_eq!(lost.len(), 1);
        assert_eq!(tree.folder_links(Ino(2)), 3);
        assert_eq!(tree.subtree(Ino(2)), [Ino(2), Ino(3), Ino(4)]);
    }

    #[test]
    fn a_moved_folder_takes_its_entries_along() {
        let rows = vec![
            node(2, ROOT, "a", dir()),
            node(3, Ino(2), "b", dir()),
            node(4, Ino(3), "c", link()),
        ];
        let (mut tree, _) = Tree::new(rows, 0, 0, Timestamp::UNIX_EPOCH);
        tree.relocate(Ino(3), ROOT, &Arc::from("z"));
        assert_eq!(tree.path_of(Ino(4)), Some(path("/z/c")));
        assert_eq!(tree.child(Ino(2), "b"), None);
        assert!(tree.is_within(Ino(4), Ino(3)));
        assert!(!tree.is_within(Ino(4), Ino(2)));
    }

    #[test]
    fn a_removed_open_node_has_no_path_and_goes_when_forgotten() {
        let (mut tree, _) =
            Tree::new(vec![node(2, ROOT, "a", link())], 0, 0, Timestamp::UNIX_EPOCH);
        tree.remove(Ino(2), Keep::Node);
        assert!(tree.is_unlinked(Ino(2)));
        assert_eq!(tree.path_of(Ino(2)), None);
        assert_eq!(tree.child(ROOT, "a"), None);
        assert!(tree.get(Ino(2)).is_some());
        // A name that went elsewhere may be one that the kernel still knows.
        assert!(tree.is_stale(Ino(2), false, false) && !tree.is_stale(Ino(2), true, true));
        let (there, node) = (Ino(7), tree.get(Ino(2)).unwrap().clone());
        tree.insert(Node { ino: there, name: Arc::from("there"), ..node });
        assert!(!tree.is_stale(there, true, false));
        tree.remove(there, Keep::Untold);
        assert!(tree.is_stale(there, true, true) && tree.is_stale(there, false, false));
        assert!(!tree.is_stale(there, false, true));
        assert!(tree.forget(there).is_some() && tree.is_stale(there, false, true));
        assert!(tree.forget(Ino(2)).is_some());
        assert!(tree.get(Ino(2)).is_none());
        assert!(tree.forget(ROOT).is_none());
    }
}
