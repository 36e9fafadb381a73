//! Answers in FUSE's words: attributes, entries, extended attributes, and errors.

use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyWrite,
    ReplyXattr,
};
use jiff::Timestamp;

use super::errno::errno;
use crate::fs::{Attributes, EntryKind, FsError, Reply};
use crate::node::Special;

/// How long the kernel may use names and attributes without asking. Every change from outside is
/// told to it at once; this bounds what a lookup that races such a change may leave behind.
pub(super) const TTL: Duration = Duration::from_secs(1);

/// Inode numbers are never given out twice, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// The attributes as FUSE wants them, and for how long they may be used.
pub(super) fn attr(attributes: &Attributes) -> (FileAttr, Duration) {
    let time = |at: Timestamp| SystemTime::from(at);
    let kind = file_type(attributes.kind);
    let attr = FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time(attributes.atime),
        mtime: time(attributes.mtime),
        ctime: time(attributes.ctime),
        crtime: time(attributes.ctime),
        kind,
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or_default(),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.device,
        blksize: 4096,
        flags: 0,
    };
    (attr, if attributes.exact { TTL } else { Duration::ZERO })
}

pub(super) fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Dir => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Special(Special::Pipe) => FileType::NamedPipe,
        EntryKind::Special(Special::Socket) => FileType::Socket,
        EntryKind::Special(Special::CharDevice) => FileType::CharDevice,
        EntryKind::Special(Special::BlockDevice) => FileType::BlockDevice,
    }
}

/// Answers an entry or an error.
pub(super) fn entry(reply: ReplyEntry, result: Result<Attributes, FsError>) {
    match result {
        Ok(attributes) => {
            let (attr, ttl) = attr(&attributes);
            reply.entry_with_ttls(&TTL, &ttl, &attr, GENERATION);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers an entry that is not to be remembered.
pub(super) fn passing(reply: ReplyEntry, attributes: &Attributes) {
    reply.entry_with_ttls(&Duration::ZERO, &Duration::ZERO, &attr(attributes).0, GENERATION);
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn attributes(reply: ReplyAttr, result: Result<Attributes, FsError>) {
    match result {
        Ok(attributes) => {
            let (attr, ttl) = attr(&attributes);
            reply.attr(&ttl, &attr);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers how many bytes were written.
pub(super) fn written(reply: ReplyWrite) -> Reply<usize> {
    Box::new(move |result| match result {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(&error)),
    })
}

/// Answers the value of an extended attribute or a list of names, in a buffer of `size` bytes; with 0
/// its length is asked for.
pub(super) fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) => match u32::try_from(value.len()).unwrap_or(u32::MAX) {
            len if size == 0 => reply.size(len),
            len if len > size => reply.error(Errno::ERANGE),
            _ => reply.data(&value),
        },
        Err(error) => reply.error(errno(&error)),
    }
}
