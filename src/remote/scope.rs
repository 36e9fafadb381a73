//! The mounted root: which remote paths are visible, and under which name.
//!
//! Pure; no I/O.

use crate::path::{PathError, WsPath};

/// How many folders deep a remote path may lie.
pub(super) const LEVELS_MAX: usize = 1000;

/// How long a remote path may be. The kernel takes 4 096 bytes at once, and more in steps.
pub(super) const PATH_BYTES_MAX: usize = 16 * 1024;

/// The remote folder below which everything of this mount lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    root: WsPath,
}

/// Where a path that the server wrote lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the mount, under this path.
    Inside(WsPath),
    /// It is the mounted root itself.
    Root,
    /// Elsewhere in the workspace.
    Outside,
    /// It cannot be mounted.
    Bad(PathError),
    /// It is deeper or longer than anything that is taken from a server: each folder of a path
    /// takes memory, whether or not it is ever looked at.
    TooDeep,
}

impl Scope {
    pub(super) fn new(root: WsPath) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &WsPath {
        &self.root
    }

    /// The path as the server knows it.
    pub(super) fn remote(&self, local: &WsPath) -> WsPath {
        // Every path is within the root `/`, so the fallback is never taken.
        local.rebase(&WsPath::root(), &self.root).unwrap_or_else(|| self.root.clone())
    }

    /// The place of a path that the server wrote.
    pub(super) fn place(&self, text: &str) -> Place {
        if text.len() > PATH_BYTES_MAX || text.split('/').count() > LEVELS_MAX + 1 {
            return Place::TooDeep;
        }
        let path = match WsPath::parse(text) {
            Ok(path) => path,
            Err(error) => return Place::Bad(error),
        };
        match path.rebase(&self.root, &WsPath::root()) {
            Some(path) if path.is_root() => Place::Root,
            Some(path) => Place::Inside(path),
            None => Place::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_added_and_stripped() {
        let path = |text: &str| WsPath::parse(text).unwrap();
        let scope = Scope::new(path("/r/s"));
        assert_eq!(scope.remote(&path("/a")), path("/r/s/a"));
        assert_eq!(scope.remote(&WsPath::root()), path("/r/s"));
        assert_eq!(scope.place("/r/s/a/b"), Place::Inside(path("/a/b")));
        assert_eq!(scope.place("/r/s"), Place::Root);
        assert_eq!(scope.place("/r/sx"), Place::Outside);
        assert_eq!(scope.place("/r/s/../x"), Place::Bad(PathError::Dots));
        assert!(matches!(scope.place(&"/d".repeat(LEVELS_MAX)), Place::Outside));
        assert_eq!(scope.place(&"/d".repeat(LEVELS_MAX + 1)), Place::TooDeep);
        assert_eq!(scope.place(&format!("/{}", "n/".repeat(PATH_BYTES_MAX))), Place::TooDeep);
        let whole = Scope::new(WsPath::root());
        assert_eq!(whole.remote(&path("/a")), path("/a"));
        assert_eq!(whole.place("/a"), Place::Inside(path("/a")));
        assert_eq!(whole.place("/"), Place::Root);
        assert_eq!(whole.place("//a"), Place::Bad(PathError::Dots));
    }
}
