//! The kernel edge: FUSE requests in, replies out. Each method translates and nothing else.
//!
//! Runs on fuser's event-loop threads. A reply that needs a commit is given by the store's thread,
//! one that needs the network by tokio; see [`crate::fs`].

pub mod errno;
pub mod invalidation;
pub mod mountpoint;
mod replies;
mod requests;
pub mod session;
pub mod waking;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem,
    FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use jiff::Timestamp;

use self::errno::errno;
use self::replies::{
    GENERATION, TTL, attr, attributes, empty, entry, file_type, passing, written, xattr,
};
use self::requests::{allocation, creator, ino, may_keep_privileges, name, open_mode, xattr_mode};
use self::waking::{Looks, Waking};
use crate::engine::local::{LocalError, SetAttributes};
use crate::engine::rename::RenameMode;
use crate::fs::{Attributes, Fs, FsError, Opened, Seek};
use crate::node::Special;
use crate::path::NAME_BYTES_MAX;

/// The FUSE face of a mount.
#[derive(Debug)]
pub struct FuseFs {
    fs: Arc<Fs>,
    waking: Arc<Waking>,
}

impl FuseFs {
    /// Serves `fs`; requests by which watchers are woken are answered by `waking`.
    #[must_use]
    pub fn new(fs: Arc<Fs>, waking: Arc<Waking>) -> Self {
        Self { fs, waking }
    }
}

impl Filesystem for FuseFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // All of these are speed only; a kernel without one of them works without it.
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Else the kernel asks for `security.capability` before each write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "not offered by this kernel");
            }
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, at: &OsStr, reply: ReplyEntry) {
        if self.waking.is_from(request) {
            match self.waking.looks(ino(parent), at) {
                Looks::Plain => {}
                Looks::Absent => return reply.error(errno(&LocalError::NotFound.into())),
                Looks::Before(attributes) => return passing(reply, &attributes),
            }
        }
        let found = name(at).and_then(|name| self.fs.lookup(ino(parent), name));
        match found {
            Err(FsError::Local(LocalError::NotFound)) if at.len() <= NAME_BYTES_MAX => {
                // A negative entry: the kernel remembers that there is no such name.
                let nothing = FileAttr { ino: INodeNo(0), ..attr(&Attributes::of_nothing()).0 };
                reply.entry(&TTL, &nothing, GENERATION);
            }
            Err(FsError::Local(LocalError::NotFound)) => reply.error(Errno::ENAMETOOLONG),
            found => entry(reply, found),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, _lookups: u64) {
        self.fs.forget(ino(number));
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        attributes(reply, self.fs.attributes(ino(number)));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.waking.is_from(request) {
            return attributes(reply, self.fs.attributes(ino(number)));
        }
        let wall = self.fs.shared().now().wall;
        let time = |at: TimeOrNow| match at {
            TimeOrNow::Now => wall,
            TimeOrNow::SpecificTime(at) => Timestamp::try_from(at).unwrap_or(wall),
        };
        let drop_privileges =
            uid.is_some() || gid.is_some() || (size.is_some() && !may_keep_privileges(request));
        let (atime, mtime) = (atime.map(time), mtime.map(time));
        let set = SetAttributes { mode, uid, gid, atime, mtime, drop_privileges };
        let answer = Box::new(move |result| attributes(reply, result));
        self.fs.set_attributes(ino(number), set, size, answer);
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.fs.read_link(ino(number)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        at: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        if self.waking.is_from(request) {
            return entry(reply, self.waking.done(ino(parent), at));
        }
        use nix::libc::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK};
        let name = match name(at) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let creator = creator(request, mode, umask);
        let special = match mode & S_IFMT {
            0 | S_IFREG => None,
            S_IFIFO => Some((Special::Pipe, 0)),
            S_IFSOCK => Some((Special::Socket, 0)),
            S_IFCHR => Some((Special::CharDevice, rdev)),
            S_IFBLK => Some((Special::BlockDevice, rdev)),
            _ => return reply.error(Errno::EINVAL),
        };
        let answer = Box::new(move |result| entry(reply, result));
        match special {
            None => self.fs.make_file(ino(parent), name, creator, answer),
            Some(special) => self.fs.make_special(ino(parent), name, special, creator, answer),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        at: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        if self.waking.is_from(request) {
            return entry(reply, self.waking.done(ino(parent), at));
        }
        match name(at) {
            Ok(name) => {
                let answer = Box::new(move |result| entry(reply, result));
                self.fs.make_dir(ino(parent), name, creator(request, mode, umask), answer);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, at: &OsStr, reply: ReplyEmpty) {
        if self.waking.is_from(request) {
            return empty(reply, self.waking.done(ino(parent), at).map(drop));
        }
        match name(at) {
            Ok(name) => {
                self.fs.unlink(ino(parent), name, Box::new(move |result| empty(reply, result)));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, at: &OsStr, reply: ReplyEmpty) {
        if self.waking.is_from(request) {
            return empty(reply, self.waking.done(ino(parent), at).map(drop));
        }
        match name(at) {
            Ok(name) => {
                self.fs.remove_dir(ino(parent), name, Box::new(move |result| empty(reply, result)));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        at: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        if self.waking.is_from(request) {
            return entry(reply, self.waking.done(ino(parent), at));
        }
        match name(at).and_then(|at| Ok((at, name(target.as_os_str())?))) {
            Ok((name, target)) => {
                let answer = Box::new(move |result| entry(reply, result));
                let creator = creator(request, 0o777, 0);
                self.fs.make_symlink(ino(parent), name, target, creator, answer);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        at: &OsStr,
        new_parent: INodeNo,
        new_at: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        match name(at).and_then(|at| Ok((at, name(new_at)?))) {
            Ok((from, to)) => {
                let answer = Box::new(move |result| empty(reply, result));
                self.fs.rename((ino(parent), from), (ino(new_parent), to), mode, answer);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn link(
        &self,
        _request: &Request,
        _number: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        // The remote knows a content by one name only.
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.waking.is_from(request) {
            return reply.opened(FileHandle(waking::HANDLE), FopenFlags::FOPEN_KEEP_CACHE);
        }
        if flags.0 & nix::libc::O_TRUNC != 0 && !may_keep_privileges(request) {
            self.fs.drop_privileges(ino(number));
        }
        let answer = Box::new(move |result: Result<Opened, FsError>| match result {
            // What changes from outside is invalidated by name, so cached pages stay good.
            Ok(Opened { handle, is_direct: false }) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Ok(Opened { handle, is_direct: true }) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(&error)),
        });
        self.fs.open(ino(number), open_mode(flags), answer);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        at: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = name(at).and_then(|name| {
            let creator = creator(request, mode, umask);
            self.fs.create(ino(parent), name, creator, open_mode(OpenFlags(flags)))
        });
        match created {
            Ok((attributes, handle)) => {
                let (attr, ttl) = attr(&attributes);
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&ttl, &attr, GENERATION, FileHandle(handle), keep);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = Box::new(move |result: Result<bytes::Bytes, FsError>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
        self.fs.read(handle.0, offset, size as usize, answer);
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            self.fs.drop_privileges(ino(number));
        }
        let place = requests::place(offset, flags, write_flags);
        self.fs.write(handle.0, place, data, written(reply));
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if handle.0 == waking::HANDLE {
            return reply.ok();
        }
        self.fs.flush(handle.0, Box::new(move |result| empty(reply, result)));
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if handle.0 == waking::HANDLE {
            return reply.ok();
        }
        self.fs.release(handle.0, Box::new(move |result| empty(reply, result)));
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.fsync(handle.0, Box::new(move |result| empty(reply, result)));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.fsync_dir(Box::new(move |result| empty(reply, result)));
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_dir(ino(number)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.fs.read_dir(ino(number), handle.0, offset == 0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(errno(&error)),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, entry) in listing.iter().enumerate().skip(from) {
            let next = at as u64 + 1;
            let kind = file_type(entry.kind);
            if reply.add(INodeNo(entry.ino.0), next, kind, OsStr::new(&*entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = match self.fs.read_dir(ino(number), handle.0, offset == 0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(errno(&error)),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, entry) in listing.iter().enumerate().skip(from) {
            // One that went since the folder was opened is left out.
            let Ok(attributes) = self.fs.attributes(entry.ino) else { continue };
            let (attr, ttl) = attr(&attributes);
            let next = at as u64 + 1;
            let entry_name = OsStr::new(&*entry.name);
            if reply.add(attr.ino, next, entry_name, &ttl, &attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.close_dir(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        match self.fs.space() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.available,
                space.files + space.files_free,
                space.files_free,
                space.block_bytes,
                u32::try_from(NAME_BYTES_MAX).unwrap_or(255),
                space.block_bytes,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn access(&self, _request: &Request, number: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // With `default_permissions` the kernel decides; what is left to say is whether it exists.
        empty(reply, self.fs.attributes(ino(number)).map(|_attributes| ()));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = allocation(mode) else {
            return reply.error(errno(&FsError::NotSupported));
        };
        let answer = Box::new(move |result| empty(reply, result));
        self.fs.allocate(handle.0, how, offset, length, answer);
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = if whence == nix::libc::SEEK_DATA { Seek::Data } else { Seek::Hole };
        let found = u64::try_from(offset)
            .map_err(|_negative| FsError::PastEnd)
            .and_then(|offset| self.fs.seek(handle.0, what, offset));
        match found {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((from_handle.0, from_offset), (to_handle.0, to_offset));
        self.fs.copy_range(from, to, len, written(reply));
    }

    fn setxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let answer = Box::new(move |result| empty(reply, result));
        self.fs.set_xattr(ino(number), name.as_bytes(), value, mode, answer);
    }

    fn getxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        xattr(reply, size, self.fs.xattr(ino(number), name.as_bytes()));
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.fs.xattr_names(ino(number)));
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = Box::new(move |result| empty(reply, result));
        self.fs.remove_xattr(ino(number), name.as_bytes(), answer);
    }
}
