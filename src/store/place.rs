//! Whether the database that is written is still the one that lies in the state folder.
//!
//! A file that was removed, or moved away with its folder, goes on taking what is written into it
//! and is gone when the last process closes it. So before anything is said to be kept, its name is
//! looked up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    id: (u64, u64),
}

impl Place {
    /// Notes which file lies at `path` now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)? })
    }

    /// Whether the same file lies there. *Blocking:* asks the kernel, not the disk, as a rule.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match id(&self.path) {
            Ok(id) if id == self.id => Ok(()),
            Ok(_) => Err(StoreError::Gone("another file is in its place".to_owned())),
            Err(error) => Err(StoreError::Gone(error.to_string())),
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_removed_moved_or_replaced_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        fs::write(&here, "x").unwrap();
        let place = Place::of(&here).unwrap();
        assert_eq!(place.check(), Ok(()));
        fs::rename(&here, &there).unwrap();
        assert!(matches!(place.check(), Err(StoreError::Gone(_))));
        fs::write(&here, "x").unwrap();
        assert!(matches!(place.check(), Err(StoreError::Gone(_))));
        fs::rename(&there, &here).unwrap();
        assert_eq!(place.check(), Ok(()));
    }
}
