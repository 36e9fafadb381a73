//! The mount point: what must be true of it before mounting, and how it is given back.
//!
//! A stale mount of our own is cleared; anybody else's is left alone. Looks at `/proc/self/mounts`
//! instead of the folder wherever a dead mount could block the look.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// What our mounts have for a source, so that they are recognised as ours.
pub const SOURCE_PREFIX: &str = "mountd:";

/// Why a mount point cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountpointError {
    /// It is not there.
    #[error("mount point {0} does not exist")]
    Missing(PathBuf),
    /// It is no folder.
    #[error("mount point {0} is not a folder")]
    NotADirectory(PathBuf),
    /// Something is in it.
    #[error("mount point {0} is not empty")]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("{path} is already a mount point of {source_name}")]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
        /// Of what.
        source_name: String,
    },
    /// It cannot be looked at.
    #[error("mount point {path}: {error}")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// What is mounted.
    pub source: String,
    /// Where.
    pub path: PathBuf,
    /// Its type.
    pub kind: String,
}

/// Reads the mount table.
///
/// # Errors
/// When it cannot be read.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mounts")?))
}

fn parse_mounts(table: &str) -> Vec<MountEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let source = unescape(fields.next()?);
        let path = PathBuf::from(unescape(fields.next()?));
        let kind = fields.next()?.to_owned();
        Some(MountEntry { source, path, kind })
    };
    table.lines().filter_map(entry).collect()
}

/// The table writes space, tab, newline and backslash as `\040` and the like.
pub(crate) fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = value {
            out.push(value);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The absolute path of the mount point, without looking at the folder itself, which may hang.
///
/// # Errors
/// When its parent folder cannot be found.
pub fn absolute(path: &Path) -> Result<PathBuf, MountpointError> {
    let unusable = |error| MountpointError::Unusable { path: path.to_owned(), error };
    let whole = std::path::absolute(path).map_err(unusable)?;
    let cleaned: PathBuf = whole.components().collect();
    let (Some(parent), Some(name)) = (cleaned.parent(), cleaned.file_name()) else {
        return Ok(cleaned);
    };
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(MountpointError::Missing(cleaned))
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Checks that `path` (absolute) can be mounted over. A dead mount of ours is cleared first.
///
/// # Errors
/// When it cannot be used; nothing was changed then.
pub fn prepare(path: &Path) -> Result<(), MountpointError> {
    let unusable = |error| MountpointError::Unusable { path: path.to_owned(), error };
    // Several dead mounts may be stacked.
    for _ in 0..8 {
        let all = mounts().map_err(unusable)?;
        let Some(top) = all.into_iter().rfind(|mount| mount.path == path) else { break };
        let ours = top.source.starts_with(SOURCE_PREFIX);
        if !(ours && is_dead(path)) {
            let path = path.to_owned();
            return Err(MountpointError::AlreadyMounted { path, source_name: top.source });
        }
        tracing::warn!(path = %path.display(), "clearing a dead mount of an earlier run");
        detach(path).map_err(unusable)?;
    }
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountpointError::Missing(path.to_owned()));
        }
        Err(error) => return Err(unusable(error)),
    };
    if !metadata.is_dir() {
        return Err(MountpointError::NotADirectory(path.to_owned()));
    }
    if fs::read_dir(path).map_err(unusable)?.next().is_some() {
        return Err(MountpointError::NotEmpty(path.to_owned()));
    }
    Ok(())
}

/// Whether the daemon behind a FUSE mount is gone. Attributes may still come from the kernel's
/// cache then; the figures of `statfs` never do.
fn is_dead(path: &Path) -> bool {
    matches!(nix::sys::statvfs::statvfs(path), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// Unmounts; where somebody still uses it, it goes from the tree at once and from the kernel when
/// they are done.
///
/// # Errors
/// When neither the kernel nor fusermount3 lets us.
pub fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::empty()) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(_busy) => match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => return Ok(()),
            Err(Errno::EPERM) => {}
            Err(error) => return Err(error.into()),
        },
    }
    let status = Command::new("fusermount3").arg("-uz").arg("--").arg(path).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("fusermount3 -uz failed with {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = "mountd:ws /mnt/a\\040b fuse rw 0 0\n/dev/vda / ext4 rw 0 0\nbroken\n";
        let all = parse_mounts(table);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].path, Path::new("/mnt/a b"));
        assert_eq!((&*all[0].source, &*all[0].kind), ("mountd:ws", "fuse"));
    }

    #[test]
    fn what_cannot_be_mounted_over_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(prepare(&missing), Err(MountpointError::Missing(_))));
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(MountpointError::NotADirectory(_))));
        assert!(matches!(prepare(folder.path()), Err(MountpointError::NotEmpty(_))));
        assert!(matches!(prepare(Path::new("/proc")), Err(MountpointError::AlreadyMounted { .. })));
        assert!(file.exists());
    }
}
