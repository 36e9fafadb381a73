//! Nodes: what mountd knows of one name in the mounted tree. Plain data, persisted row by row.

use std::sync::Arc;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::path::WsPath;
use crate::revision::{Base, Revision};

/// An inode number: stable for the life of the state folder, never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The inode number of the mount's root, fixed by FUSE.
pub const ROOT: Ino = Ino(1);

/// Contents of files up to this many bytes live in the store; larger ones in working files.
pub const SMALL_MAX: u64 = 64 << 10;

/// Names a small content in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(pub u64);

/// Names a working file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// Where the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// There are none: the file is empty.
    Empty,
    /// Only at the remote; fetched when first read.
    Remote,
    /// In the store; immutable, a new version gets a new id.
    Blob(BlobId),
    /// In a working file that is changed in place.
    File(FileId),
    /// Nowhere: they were here, were damaged, and were set aside. The remote never had them.
    Damaged,
}

/// The bytes of a file, as metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileBody {
    /// Where they are.
    pub content: Content,
    /// How many they are.
    pub size: u64,
    /// False while `size` is only an upper bound taken from a listing.
    pub exact: bool,
}

/// What kind of entry a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(FileBody),
    /// A folder. An implied one exists only through what it holds at the remote and goes when
    /// its last entry is removed there.
    Dir {
        /// Whether it exists of its own.
        explicit: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its target text.
        target: Arc<str>,
    },
    /// A pipe, socket or device. It means something on this machine only and is never sent.
    Special {
        /// Which of them.
        what: Special,
        /// The device's number, as the kernel encodes it; 0 for pipes and sockets.
        device: u32,
    },
}

/// What the kernel does all the work for, once it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// The remote version from which a node's visible state derives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Synced {
    /// Its revision, where the remote names one.
    pub revision: Option<Revision>,
    /// The digest of its bytes, where known.
    pub digest: Option<Digest>,
    /// When the remote stored it.
    pub edited_at: Option<Timestamp>,
}

impl Synced {
    /// What a change made now would be made against.
    #[must_use]
    pub fn base(&self) -> Base {
        match (&self.revision, self.edited_at) {
            (Some(revision), _) => Base::Revision(revision.clone()),
            (None, Some(date)) => Base::Date(date),
            // Neither: ask that nothing is there. The refusal makes us read before we decide.
            (None, None) => Base::Absent,
        }
    }
}

/// Where the remote has the content of a renamed node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The name it had when the remote last heard of it.
    pub path: WsPath,
    /// The digest of the content, where known: by it the content is known again under whatever
    /// name a move whose reply was lost gave it.
    pub digest: Option<Digest>,
}

/// One name in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub ino: Ino,
    /// The folder that holds it; the root is its own parent.
    pub parent: Ino,
    /// Its name; empty for the root.
    pub name: Arc<str>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access, as far as it was set.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the node.
    pub ctime: Timestamp,
    /// What the remote has under this name, as far as this node derives from it.
    pub synced: Option<Box<Synced>>,
    /// Where the remote still has exactly this node's content, since the node was renamed and its
    /// new name is not stored yet.
    pub origin: Option<Box<Origin>>,
    /// Matched by the ignore rules, or a pipe, socket or device: never sent.
    pub local_only: bool,
}

impl Node {
    /// The file's body, when it is a file.
    #[must_use]
    pub fn body(&self) -> Option<&FileBody> {
        match &self.kind {
            Kind::File(body) => Some(body),
            Kind::Dir { .. } | Kind::Symlink { .. } | Kind::Special { .. } => None,
        }
    }

    /// The file's body, to change it.
    pub fn body_mut(&mut self) -> Option<&mut FileBody> {
        match &mut self.kind {
            Kind::File(body) => Some(body),
            Kind::Dir { .. } | Kind::Symlink { .. } | Kind::Special { .. } => None,
        }
    }

    /// Whether it is a pipe, socket or device.
    #[must_use]
    pub fn is_special(&self) -> bool {
        matches!(self.kind, Kind::Special { .. })
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    /// Whether who looks into it now changes its atime: as with `relatime`, the first time after a
    /// change, and once a day.
    #[must_use]
    pub fn atime_is_due(&self, now: Timestamp) -> bool {
        let day = jiff::SignedDuration::from_hours(24);
        self.atime <= self.mtime
            || self.atime <= self.ctime
            || now.duration_since(self.atime) >= day
    }

    /// Its size as `stat` shows it.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(body) => body.size,
            Kind::Dir { .. } => 4096,
            Kind::Special { .. } => 0,
            Kind::Symlink { target } => target.len() as u64,
        }
    }
}
