//! Requests in our words: what a number, a name, a flag or a mode of FUSE means.

use std::ffi::OsStr;

use fuser::{INodeNo, OpenAccMode, OpenFlags, Request, WriteFlags};
use nix::libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};

use crate::engine::local::{Creator, LocalError};
use crate::engine::xattrs::XattrMode;
use crate::fs::{Allocation, FsError, OpenMode, Place};
use crate::node::Ino;

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn name(name: &OsStr) -> Result<&str, FsError> {
    name.to_str().ok_or(FsError::Local(LocalError::BadName(crate::path::PathError::NotUtf8)))
}

pub(super) fn creator(request: &Request, mode: u32, umask: u32) -> Creator {
    Creator { uid: request.uid(), gid: request.gid(), mode: mode & !umask & 0o7777 }
}

/// Whether who changes a file leaves the bits in place by which it runs as its owner or group
/// (`CAP_FSETID`).
pub(super) fn may_keep_privileges(request: &Request) -> bool {
    request.uid() == 0
}

pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let bits = flags.0;
    OpenMode {
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        read: flags.acc_mode() != OpenAccMode::O_WRONLY,
        truncate: bits & nix::libc::O_TRUNC != 0,
        exclusive: bits & nix::libc::O_EXCL != 0,
        sync: bits & (nix::libc::O_SYNC | nix::libc::O_DSYNC) != 0,
    }
}

/// Where a write goes. What comes from a mapping lies where it lies.
pub(super) fn place(offset: u64, flags: OpenFlags, write_flags: WriteFlags) -> Place {
    let appends = flags.0 & nix::libc::O_APPEND != 0;
    if appends && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
        Place::End(offset)
    } else {
        Place::At(offset)
    }
}

/// What setting an extended attribute may find; `None` for what is not known.
pub(super) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Any),
        nix::libc::XATTR_CREATE => Some(XattrMode::Create),
        nix::libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

/// What is to happen to a range; `None` for bytes that move within a file.
pub(super) fn allocation(mode: i32) -> Option<Allocation> {
    const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP_SIZE: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Some(Allocation::Extend),
        FALLOC_FL_KEEP_SIZE => Some(Allocation::KeepSize),
        PUNCH => Some(Allocation::Punch),
        FALLOC_FL_ZERO_RANGE => Some(Allocation::Zero),
        ZERO_KEEP_SIZE => Some(Allocation::ZeroKeepSize),
        _ => None,
    }
}
