//! Folders of records that were to be given up, as a start finds them.
//!
//! The manifest is written last, and no record is given up before it is on stable storage. So where it
//! is missing every record is where it was, the folder holds copies only, and it goes. One with its
//! manifest may hold the only bytes of what was given up: it stays. *Blocking:* disk.

use std::fs;
use std::io;
use std::path::Path;

use super::MANIFEST;

/// Removes what was not finished below `all`. Returns how much that was.
///
/// # Errors
/// When the disk refuses.
pub fn sweep(all: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let folder = entry.path();
        if !entry.file_type()?.is_dir() || folder.join(MANIFEST).symlink_metadata().is_ok() {
            continue;
        }
        fs::remove_dir_all(&folder)?;
        removed += 1;
        let folder = folder.display();
        tracing::warn!(%folder, "giving records up was cut off before it began: they are where they were");
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_goes_and_what_may_be_the_only_copy_stays() {
        let all = tempfile::tempdir().unwrap();
        assert_eq!(sweep(&all.path().join("none")).unwrap(), 0);
        for folder in ["begun", "empty", "whole"] {
            fs::create_dir(all.path().join(folder)).unwrap();
        }
        fs::write(all.path().join("begun/0"), "copied").unwrap();
        fs::write(all.path().join("begun/manifest.part"), "{").unwrap();
        fs::write(all.path().join("whole/0"), "given up").unwrap();
        fs::write(all.path().join("whole").join(MANIFEST), "{}").unwrap();
        fs::write(all.path().join("a file"), "of somebody").unwrap();
        assert_eq!(sweep(all.path()).unwrap(), 2);
        let mut left: Vec<_> =
            fs::read_dir(all.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a file", "whole"]);
        assert_eq!(fs::read(all.path().join("whole/0")).unwrap(), b"given up");
    }
}
