//! Which errno a failure becomes. One function, no wildcard; the same table is in
//! `docs/semantics.md`.

#![deny(clippy::wildcard_enum_match_arm)]

use fuser::Errno;
use std::io::ErrorKind;

use crate::engine::fetch::FetchError;
use crate::engine::local::LocalError;
use crate::fs::FsError;
use crate::path::PathError;
use crate::remote::RemoteError;
use crate::store::StoreError;

/// The errno that tells a program about `error`.
#[must_use]
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Local(error) => local(*error),
        FsError::Store(StoreError::Full) => Errno::ENOSPC,
        FsError::Store(
            StoreError::Newer { .. }
            | StoreError::Damaged(_)
            | StoreError::Failed(_)
            | StoreError::Gone(_)
            | StoreError::Closed,
        ) => Errno::EIO,
        FsError::Damaged => Errno::EIO,
        FsError::Fetch(error) => fetch(error),
        FsError::Disk(kind) => disk(*kind),
        FsError::BadHandle => Errno::EBADF,
        FsError::WrongKind => Errno::EINVAL,
        FsError::PastEnd => Errno::ENXIO,
        FsError::NotSupported => Errno::EOPNOTSUPP,
    }
}

fn local(error: LocalError) -> Errno {
    match error {
        LocalError::NotFound => Errno::ENOENT,
        // Not ENOENT: the name may well exist, the inode does not.
        LocalError::Stale => Errno::ESTALE,
        LocalError::Exists => Errno::EEXIST,
        LocalError::NotADirectory => Errno::ENOTDIR,
        LocalError::IsADirectory => Errno::EISDIR,
        LocalError::NotEmpty => Errno::ENOTEMPTY,
        LocalError::InvalidMove => Errno::EINVAL,
        // What `mv` answers by copying.
        LocalError::CrossesBorder => Errno::EXDEV,
        LocalError::NoAttribute => Errno::ENODATA,
        LocalError::NotPermitted => Errno::EPERM,
        LocalError::NoRoom => Errno::ENOSPC,
        LocalError::ReadOnly => Errno::EROFS,
        LocalError::BadName(PathError::TooLong) => Errno::ENAMETOOLONG,
        LocalError::BadName(PathError::NotUtf8) => Errno::EILSEQ,
        LocalError::BadName(PathError::NotAbsolute | PathError::Dots | PathError::BadCharacter) => {
            Errno::EINVAL
        }
    }
}

fn fetch(error: &FetchError) -> Errno {
    match error {
        // Never ENOENT for what may come back, and never EIO, which programs take for a broken
        // disk: the bytes are fine, the way to them is not.
        FetchError::Remote(
            RemoteError::Unreachable { .. }
            | RemoteError::Busy { .. }
            | RemoteError::Gone { .. }
            | RemoteError::OtherServer { .. }
            | RemoteError::Untrusted { .. },
        ) => Errno::ENETDOWN,
        FetchError::Remote(RemoteError::Auth { .. } | RemoteError::Forbidden { .. }) => {
            Errno::EACCES
        }
        FetchError::Remote(RemoteError::TooLarge) => Errno::EFBIG,
        FetchError::Remote(RemoteError::Invalid { .. } | RemoteError::Garbled { .. }) => Errno::EIO,
        FetchError::Remote(RemoteError::Changed | RemoteError::Local { .. })
        | FetchError::Disk(_) => Errno::EIO,
        FetchError::Full => Errno::ENOSPC,
        FetchError::Gone => Errno::ESTALE,
    }
}

fn disk(kind: ErrorKind) -> Errno {
    // `ErrorKind` may grow, so a last arm is needed; everything a full or small disk says is named.
    if kind == ErrorKind::StorageFull {
        Errno::ENOSPC
    } else if kind == ErrorKind::QuotaExceeded {
        Errno::EDQUOT
    } else if kind == ErrorKind::FileTooLarge {
        Errno::EFBIG
    } else if kind == ErrorKind::WouldBlock {
        Errno::EAGAIN
    } else {
        Errno::EIO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_is_neither_a_missing_file_nor_a_broken_disk() {
        let offline = RemoteError::Unreachable { message: String::new(), maybe_applied: false };
        assert_eq!(errno(&offline.into()).code(), nix::libc::ENETDOWN);
        assert_eq!(errno(&StoreError::Full.into()).code(), nix::libc::ENOSPC);
        assert_eq!(errno(&LocalError::Stale.into()).code(), nix::libc::ESTALE);
        assert_eq!(errno(&FsError::Disk(ErrorKind::StorageFull)).code(), nix::libc::ENOSPC);
    }
}
