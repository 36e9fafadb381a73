//! A disk whose power can go: a FUSE file system of this process on a [`Platter`].
//!
//! The kernel caches pages of it, so that shared mappings work, which SQLite needs; what is written
//! through a mapping arrives when the kernel writes it back, at the latest with a sync.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::platter::{Image, Kind, Loss, Platter, ROOT};

const TTL: Duration = Duration::from_secs(1);

/// A disk; unmounted when dropped.
pub struct Disk {
    path: PathBuf,
    inner: Arc<Inner>,
    session: Option<BackgroundSession>,
}

/// One moment at which the power might have gone.
pub struct Cut {
    /// When.
    pub at: Instant,
    /// What [`Disk::watch`]'s callback gave right before.
    pub mark: usize,
    /// Which loss it was.
    pub loss: Loss,
    /// What was there afterwards.
    pub image: Image,
}

type Mark = Box<dyn Fn() -> usize + Send>;

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    platter: Platter,
    watch: Option<Watch>,
}

struct Watch {
    rng: SmallRng,
    every: u32,
    mark: Mark,
    cuts: Vec<Cut>,
}

impl Disk {
    /// Mounts an empty one.
    pub fn mount(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let inner = Arc::new(Inner::default());
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("powerless".to_owned()), MountOption::DefaultPermissions];
        let session = fuser::spawn_mount(Face(Arc::clone(&inner)), path, &config).unwrap();
        Self { path: path.to_owned(), inner, session: Some(session) }
    }

    /// Notes from now on what would be there if the power went, at about one in `every` things
    /// that happen to the disk. `mark` is called right before each.
    pub fn watch(&self, seed: u64, every: u32, mark: impl Fn() -> usize + Send + 'static) {
        let (rng, mark) = (SmallRng::seed_from_u64(seed), Box::new(mark) as Mark);
        self.inner.lock().watch = Some(Watch { rng, every, mark, cuts: Vec::new() });
    }

    /// What was noted.
    pub fn cuts(&self) -> Vec<Cut> {
        self.inner.lock().watch.take().map(|watch| watch.cuts).unwrap_or_default()
    }

    /// What would be there if the power went now.
    pub fn cut(&self, loss: Loss, seed: u64) -> Image {
        self.inner.lock().platter.after(loss, &mut SmallRng::seed_from_u64(seed))
    }

    /// Takes it away; whoever used it must have ended.
    pub fn unmount(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            drop(std::process::Command::new("umount").arg("-l").arg(&self.path).status());
            drop(session);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change the disk: before that the power may have gone.
    fn change(&self) -> MutexGuard<'_, State> {
        use rand::Rng as _;
        let mut state = self.lock();
        let State { platter, watch } = &mut *state;
        if let Some(watch) = watch
            && watch.rng.random_ratio(1, watch.every)
        {
            let mark = (watch.mark)();
            let loss = if watch.rng.random() { Loss::Everything } else { Loss::Part };
            let image = platter.after(loss, &mut watch.rng);
            watch.cuts.push(Cut { at: Instant::now(), mark, loss, image });
        }
        state
    }
}

struct Face(Arc<Inner>);

impl State {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let inode = self.platter.get(ino)?;
        let (kind, size) = match &inode.kind {
            Kind::Dir { .. } => (FileType::Directory, 0),
            Kind::File { bytes, .. } => (FileType::RegularFile, bytes.len() as u64),
        };
        let at = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm: u16::try_from(inode.mode & 0o777).unwrap(),
            nlink: 1,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn entry(state: &State, ino: Option<u64>, reply: ReplyEntry) {
    match ino.and_then(|ino| state.attr(ino)) {
        Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
        None => reply.error(Errno::ENOENT),
    }
}

impl Filesystem for Face {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        let found = state.platter.child(parent.0, name);
        entry(&state, found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.change();
        if let Some(mode) = mode {
            state.platter.set_mode(ino.0, mode);
        }
        if let Some(size) = size {
            state.platter.resize(ino.0, usize::try_from(size).unwrap());
        }
        match state.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mut state = self.0.change();
        let ino = state.platter.make(parent.0, name, mode & !umask, true);
        entry(&state, Some(ino), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.change().platter.remove(parent.0, name);
        reply.ok();
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.change();
        let dir = state.platter.child(parent.0, name).and_then(|ino| state.platter.get(ino));
        let empty = dir.is_some_and(
            |inode| matches!(&inode.kind, Kind::Dir { names, .. } if names.is_empty()),
        );
        if !empty {
            return reply.error(Errno::ENOTEMPTY);
        }
        state.platter.remove(parent.0, name);
        reply.ok();
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        self.0.change().platter.rename((parent.0, name), (new_parent.0, new_name));
        reply.ok();
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.0.change();
        let ino = state.platter.make(parent.0, name, mode & !umask & 0o777, false);
        let attr = state.attr(ino).unwrap();
        let keep = FopenFlags::FOPEN_KEEP_CACHE;
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), keep);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        match state.platter.get(ino.0).map(|inode| &inode.kind) {
            Some(Kind::File { bytes, .. }) => {
                let from = usize::try_from(offset).unwrap().min(bytes.len());
                let to = (from + size as usize).min(bytes.len());
                reply.data(&bytes[from..to]);
            }
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.change().platter.write(ino.0, usize::try_from(offset).unwrap(), data);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.change().platter.sync(ino.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.change().platter.sync(ino.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.0.lock();
        let Some(Kind::Dir { names, .. }) = state.platter.get(ino.0).map(|inode| &inode.kind)
        else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), ROOT)];
        let all = dots.into_iter().chain(names.iter().map(|(name, ino)| (name.as_os_str(), *ino)));
        for (at, (name, ino)) in all.enumerate().skip(usize::try_from(offset).unwrap()) {
            let kind = state.attr(ino).map_or(FileType::Directory, |attr| attr.kind);
            if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
