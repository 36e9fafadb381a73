//! Workspace paths: absolute, `/`-separated, UTF-8, without empty, `.` or `..` segments.
//!
//! A [`WsPath`] can only be made from checked names, so nothing that holds one can reach outside
//! the mount. Pure; no I/O.

use std::fmt;
use std::sync::Arc;

/// Longest name in bytes that a folder entry may have, as on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;

/// Why a name or path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path does not start with `/`.
    #[error("path is not absolute")]
    NotAbsolute,
    /// A segment is empty, `.` or `..`.
    #[error("name is empty, `.` or `..`")]
    Dots,
    /// A segment holds `/` or NUL.
    #[error("name holds a slash or NUL")]
    BadCharacter,
    /// A segment is longer than [`NAME_BYTES_MAX`].
    #[error("name is longer than 255 bytes")]
    TooLong,
    /// The bytes are not UTF-8; the remote's JSON could not carry them.
    #[error("name is not UTF-8")]
    NotUtf8,
}

/// Checks one name of a folder entry.
///
/// # Errors
/// When the name cannot be an entry of a POSIX folder or cannot travel to the remote.
pub fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(PathError::Dots);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if name.bytes().any(|b| b == b'/' || b == 0) {
        return Err(PathError::BadCharacter);
    }
    Ok(())
}

/// An absolute path inside the mounted workspace; `/` is its root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WsPath(Arc<str>);

impl WsPath {
    /// The root of the workspace.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Parses an absolute path and checks each of its names.
    ///
    /// # Errors
    /// When the text is not absolute or one of its names is refused by [`check_name`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let rest = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if !rest.is_empty() {
            rest.split('/').try_for_each(check_name)?;
        }
        Ok(Self(Arc::from(text)))
    }

    /// Returns the path of the entry `name` in this folder.
    ///
    /// # Errors
    /// When `name` is refused by [`check_name`].
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        check_name(name)?;
        let folder = if self.is_root() { "" } else { &*self.0 };
        Ok(Self(Arc::from(format!("{folder}/{name}"))))
    }

    /// The text, always starting with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the workspace's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The last name, or `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        if self.is_root() { None } else { self.0.rsplit('/').next() }
    }

    /// The folder that holds this entry, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.rfind('/')?;
        Some(if cut == 0 { Self::root() } else { Self(Arc::from(&self.0[..cut])) })
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Whether this path is `folder` itself or lies below it.
    #[must_use]
    pub fn is_within(&self, folder: &Self) -> bool {
        folder.is_root()
            || self == folder
            || self.0.strip_prefix(&*folder.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// This path with its prefix `from` replaced by `to`; `None` when it is not within `from`.
    #[must_use]
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        if self == from {
            return Some(to.clone());
        }
        if !self.is_within(from) {
            return None;
        }
        let rest = if from.is_root() { &*self.0 } else { &self.0[from.0.len()..] };
        let to = if to.is_root() { "" } else { to.as_str() };
        Some(Self(Arc::from(format!("{to}{rest}"))))
    }
}

impl fmt::Display for WsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> WsPath {
        WsPath::parse(text).unwrap()
    }

    #[test]
    fn names_that_cannot_be_mounted_are_refused() {
        for (text, error) in [
            ("a", PathError::NotAbsolute),
            ("", PathError::NotAbsolute),
            ("//a", PathError::Dots),
            ("/a/", PathError::Dots),
            ("/a/../b", PathError::Dots),
            ("/./a", PathError::Dots),
            ("/a\0b", PathError::BadCharacter),
        ] {
            assert_eq!(WsPath::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(WsPath::parse(&format!("/{}", "x".repeat(256))), Err(PathError::TooLong));
        assert!(WsPath::parse(&format!("/{}", "x".repeat(255))).is_ok());
        assert_eq!(WsPath::root().join("a/b"), Err(PathError::BadCharacter));
    }

    #[test]
    fn parents_names_and_prefixes() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(WsPath::root()));
        assert_eq!(WsPath::root().parent(), None);
        assert_eq!(path("/a/b").name(), Some("b"));
        assert!(path("/a/b").is_within(&path("/a")));
        assert!(!path("/ab").is_within(&path("/a")));
        assert!(path("/ab").is_within(&WsPath::root()));
        assert_eq!(path("/a/b/c").rebase(&path("/a"), &path("/x/y")), Some(path("/x/y/b/c")));
        assert_eq!(path("/a").rebase(&path("/a"), &path("/x")), Some(path("/x")));
        assert_eq!(path("/ab").rebase(&path("/a"), &path("/x")), None);
        assert_eq!(WsPath::root().join("a").unwrap(), path("/a"));
    }
}
