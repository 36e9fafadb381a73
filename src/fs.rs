//! The filesystem: what each call on the mounted folder means, with no FUSE type in it.
//!
//! Everything that is known here is answered on the calling thread; what must be durable is
//! answered by the store's callback, so that no kernel thread waits for a commit; what must be
//! fetched is answered from tokio, so that no kernel thread waits for the network.

mod files;
mod names;
mod ranges;
mod xattrs;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;

use crate::content::open::{Body, OpenState};
use crate::engine::Invalidation;
use crate::engine::Shared;
use crate::engine::fetch::FetchError;
use crate::engine::local::{LocalError, SetAttributes, without_privileges};
use crate::node::{Content, Ino, Kind, Node, Special};
use crate::remote::RemoteError;
use crate::store::StoreError;

pub use self::files::{OpenMode, Opened, Place};
pub use crate::content::working::{Allocation, Seek};

/// Why a call fails. One function turns it into an errno (`fuse/errno.rs`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// A name operation is refused.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The outbox cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes are only at the server and cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The local disk refused.
    #[error("local disk: {0:?}")]
    Disk(io::ErrorKind),
    /// The bytes here are not as they were written, and nobody else has them.
    #[error("the content is damaged")]
    Damaged,
    /// The handle is not open, or not for this.
    #[error("bad handle")]
    BadHandle,
    /// The node is not of the kind that the call needs.
    #[error("not possible with this kind of entry")]
    WrongKind,
    /// There is nothing from there on.
    #[error("past the end of the file")]
    PastEnd,
    /// What was asked for is not offered.
    #[error("not supported")]
    NotSupported,
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        if crate::content::working::is_damage(&error) {
            Self::Damaged
        } else {
            Self::Disk(error.kind())
        }
    }
}

impl From<RemoteError> for FsError {
    fn from(error: RemoteError) -> Self {
        Self::Fetch(FetchError::Remote(error))
    }
}

/// How long a call waits at most until the kernel knows what changed from outside. It takes less than
/// a hundredth of that.
const TELLING_MAX: Duration = Duration::from_millis(250);

/// Called once with the result, on whichever thread has it.
pub type Reply<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// A node's attributes as `stat` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it fills.
    pub blocks: u64,
    /// Whether `size` may still turn out smaller; then the kernel must ask again.
    pub exact: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count.
    pub links: u32,
    /// The number of a device.
    pub device: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the node.
    pub ctime: Timestamp,
}

impl Attributes {
    fn of(node: &Node, links: u32) -> Self {
        Self {
            ino: node.ino,
            kind: EntryKind::of(node),
            size: node.size(),
            blocks: node.size().div_ceil(512),
            exact: node.body().is_none_or(|body| body.exact),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            links,
            device: match node.kind {
                Kind::Special { device, .. } => device,
                Kind::File(_) | Kind::Dir { .. } | Kind::Symlink { .. } => 0,
            },
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
        }
    }

    /// Those of nothing, for names that there are not.
    #[must_use]
    pub fn of_nothing() -> Self {
        let at = Timestamp::UNIX_EPOCH;
        Self {
            ino: Ino(0),
            kind: EntryKind::File,
            size: 0,
            blocks: 0,
            exact: true,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 0,
            device: 0,
            atime: at,
            mtime: at,
            ctime: at,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Special(Special),
}

impl EntryKind {
    fn of(node: &Node) -> Self {
        match node.kind {
            Kind::File(_) => Self::File,
            Kind::Dir { .. } => Self::Dir,
            Kind::Symlink { .. } => Self::Symlink,
            Kind::Special { what, .. } => Self::Special(what),
        }
    }
}

/// One entry of a listed folder.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: EntryKind,
    /// Its name.
    pub name: Arc<str>,
}

/// Space and entries of the disk that holds the contents.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for this user.
    pub available: u64,
    /// Entries of the mount.
    pub files: u64,
    /// Entries that could still be made.
    pub files_free: u64,
}

/// The filesystem of one mount.
#[derive(Debug)]
pub struct Fs {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    handles: Arc<DashMap<u64, files::Handle>>,
    listings: DashMap<u64, Arc<Vec<DirEntry>>>,
    next_handle: AtomicU64,
}

impl Fs {
    /// Serves `shared`; what needs the network runs on `runtime`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, runtime: tokio::runtime::Handle) -> Self {
        Self {
            shared,
            runtime,
            handles: Arc::default(),
            listings: DashMap::new(),
            next_handle: AtomicU64::new(1),
        }
    }

    /// What it serves.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Refuses what needs room on the local disk while there is none, or what would not be kept there,
    /// before anything was changed.
    fn need_room(&self) -> Result<(), FsError> {
        self.shared.store.check_writable()?;
        if self.shared.store.has_room() { Ok(()) } else { Err(StoreError::Full.into()) }
    }

    fn take_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// A node's attributes.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, FsError> {
        // What is written but not sealed is in the open file, not in the node. Both are looked at
        // in one step: a seal in between would show neither the one size nor the other.
        let file = self.shared.contents.open.get(ino);
        let mut state = file.as_ref().map(|file| file.lock());
        let (mut attributes, on_disk) = {
            let core = self.shared.core();
            let node = core.tree.get(ino).ok_or(LocalError::Stale)?;
            let links = match (node.is_dir(), core.tree.is_unlinked(ino)) {
                (_, true) => 0,
                (true, false) => core.tree.folder_links(ino),
                (false, false) => 1,
            };
            let on_disk = node.body().and_then(|body| match body.content {
                Content::File(file) => Some(file),
                Content::Empty | Content::Remote | Content::Damaged | Content::Blob(_) => None,
            });
            (Attributes::of(node, links), on_disk)
        };
        if attributes.kind == EntryKind::File {
            if let Some(state) = &state {
                overlay(&mut attributes, state)?;
            }
            // A working file may have holes.
            let blocks = match state.as_ref().map(|state| &state.body) {
                Some(Body::Disk(file)) => Some(file.file().metadata()?.blocks()),
                _ => on_disk.and_then(|file| {
                    Some(std::fs::metadata(self.shared.contents.file_path(file)).ok()?.blocks())
                }),
            };
            attributes.blocks = blocks.unwrap_or_else(|| attributes.size.div_ceil(512));
            let now = self.shared.now().mono;
            if let Some(before) = state.as_mut().and_then(|state| state.before(now)) {
                attributes.size = before.size;
                attributes.blocks = before.size.div_ceil(512);
                attributes.mtime = before.mtime;
                attributes.ctime = before.ctime;
            }
        }
        Ok(attributes)
    }

    /// Runs `then` when the kernel knows everything about a node, or after a while: it may wait for
    /// somebody who waits for the network. `then` is told which.
    fn once_told(&self, ino: Ino, then: impl FnOnce(bool) + Send + 'static) {
        let then = Arc::new(Mutex::new(Some(then)));
        let late = Arc::clone(&then);
        let run = |then: &Mutex<Option<_>>, is_told: bool| {
            let then = then.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(then) = then {
                let then: Box<dyn FnOnce(bool) + Send> = Box::new(then);
                then(is_told);
            }
        };
        if self.shared.when_told(ino, Box::new(move || run(&then, true))) {
            self.runtime.spawn(async move {
                tokio::time::sleep(TELLING_MAX).await;
                run(&late, false);
            });
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the node is gone or no symbolic link.
    pub fn read_link(&self, ino: Ino) -> Result<Arc<str>, FsError> {
        let core = self.shared.core();
        match &core.tree.get(ino).ok_or(LocalError::Stale)?.kind {
            Kind::Symlink { target } => Ok(Arc::clone(target)),
            Kind::File(_) | Kind::Dir { .. } | Kind::Special { .. } => Err(FsError::WrongKind),
        }
    }

    /// Space of the disk that holds the contents: what a writer runs out of first.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn space(&self) -> Result<Space, FsError> {
        let disk =
            nix::sys::statvfs::statvfs(self.shared.contents.folder()).map_err(io::Error::from)?;
        Ok(Space {
            block_bytes: u32::try_from(disk.fragment_size()).unwrap_or(4096),
            blocks: disk.blocks(),
            free: disk.blocks_free(),
            available: disk.blocks_available(),
            files: self.shared.core().tree.len() as u64,
            files_free: disk.files_available(),
        })
    }

    /// A file was changed by somebody who may not leave it running as its owner or group.
    pub fn drop_privileges(&self, ino: Ino) {
        let mode = self.shared.core().tree.get(ino).map(|node| node.mode);
        if mode.is_none_or(|mode| without_privileges(mode) == mode) {
            return;
        }
        let set = SetAttributes { drop_privileges: true, ..SetAttributes::default() };
        self.shared.step(|core, now, changes| {
            if core.set_attributes(ino, set, now, changes).is_ok() {
                changes.invalidations.push(Invalidation::Node(ino));
            }
        });
    }

    /// Somebody looks into a node. Kept in memory, and on disk with its next change.
    fn read_at_last(&self, ino: Ino) {
        self.shared.step(|core, now, _| {
            if let Some(node) = core.tree.get_mut(ino) {
                node.atime = now.wall;
            }
        });
    }

    /// The kernel forgot a node: one without a name is dropped.
    pub fn forget(&self, ino: Ino) {
        let unlinked = self.shared.core().tree.is_unlinked(ino);
        if unlinked && !self.shared.contents.open.is_open(ino) {
            self.shared.step(|core, _, changes| core.forget_unlinked(ino, changes));
        }
    }
}

fn overlay(attributes: &mut Attributes, state: &OpenState) -> Result<(), FsError> {
    if state.dirty_since.is_some() {
        attributes.mtime = state.mtime;
        attributes.ctime = attributes.ctime.max(state.ctime);
        if let Some(size) = state.size()? {
            attributes.size = size;
            attributes.exact = true;
        }
    }
    Ok(())
}
