//! Setting aside: what is damaged is kept under another name and never removed by the program.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// What is in the name of everything that was set aside.
const MARK: &str = ".corrupt.";

/// Whether anything on the disk may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// It may.
    Free,
    /// It may not: what would be done is only said.
    Tied,
}

/// Whether something with this name was set aside.
#[must_use]
pub fn is_set_aside(name: &str) -> bool {
    name.contains(MARK)
}

/// The name that something at `path` gets when it is set aside now; a free one.
#[must_use]
pub fn aside_path(path: &Path, at: Timestamp) -> PathBuf {
    let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut tries = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(MARK);
        name.push(&time);
        if tries > 1 {
            name.push(format!("-{tries}"));
        }
        if !Path::new(&name).exists() {
            return PathBuf::from(name);
        }
        tries += 1;
    }
}

/// What was set aside of something at `path`, the newest.
#[must_use]
pub fn kept_of(path: &Path) -> Option<PathBuf> {
    let mut prefix = path.file_name()?.to_string_lossy().into_owned();
    prefix.push_str(MARK);
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter(|name| name.starts_with(&prefix)).max()?;
    Some(path.with_file_name(newest))
}

/// Renames what is at `path`. Where there is nothing, there is nothing to be kept.
///
/// # Errors
/// When it cannot be renamed; it is where it was then.
pub fn set_aside(path: &Path, at: Timestamp, hands: Hands) -> io::Result<Option<PathBuf>> {
    let aside = aside_path(path, at);
    let done = match hands {
        Hands::Free => std::fs::rename(path, &aside),
        Hands::Tied => std::fs::symlink_metadata(path).map(|_metadata| ()),
    };
    match done {
        Ok(()) => {
            failpoint!("aside.renamed");
            Ok(Some(aside))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
