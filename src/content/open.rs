//! Open files: what handles read and write before it is sealed into the node.
//!
//! One [`OpenFile`] per node with handles, behind its own lock. Lock order: an open file, then the
//! core; never the other way round. Whoever replaces a node's content holds the open file's lock,
//! so a write can never land on a content that is being replaced.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use jiff::Timestamp;

use super::working::WorkingFile;
use crate::node::Ino;
use crate::revision::Revision;
use crate::store::Ticket;

/// All open files by node.
#[derive(Debug, Default)]
pub struct OpenFiles {
    map: DashMap<Ino, Arc<OpenFile>>,
}

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// Its node.
    pub ino: Ino,
    /// Handles, all of them. Outside the lock, so that it may be asked with the core locked.
    handles: AtomicU32,
    /// Taken out of the table; look it up again.
    dead: AtomicBool,
    state: Mutex<OpenState>,
}

/// What an open file holds.
#[derive(Debug)]
pub struct OpenState {
    /// The bytes.
    pub body: Body,
    /// When it was last written, or the time that was set since.
    pub mtime: Timestamp,
    /// When it was last written.
    pub ctime: Timestamp,
    /// Since when it holds changes that are not sealed; monotonic.
    pub dirty_since: Option<Duration>,
    /// Handles that may write.
    pub writers: u32,
    /// The record of the last seal waits for the file to be closed.
    pub held: bool,
    /// Its working file was made since it was opened, and is not on stable storage as a whole.
    pub fresh: bool,
    /// What the last seal submitted to the store.
    pub sealed_at: Ticket,
    /// The version of which damage was found while it was open for writing. Until it is closed no other
    /// takes its place: who read a part of it would write on what was never seen.
    pub torn_from: Option<Option<Revision>>,
    /// Counts changes, so that a reader of the whole can tell whether it saw one version.
    pub generation: u64,
    /// What it was for those who have it open, until the kernel knows that it is something else.
    pub before: Option<Before>,
}

/// A file as the kernel knows it, after something else took its place. The kernel cuts what it reads
/// to the size that it was told, so bytes and size change for it together.
#[derive(Debug, Clone)]
pub struct Before {
    /// The bytes; unloaded where nobody has them any more.
    pub body: Body,
    /// Their number.
    pub size: u64,
    /// When they were last changed.
    pub mtime: Timestamp,
    /// When the node was.
    pub ctime: Timestamp,
    /// When it was replaced; monotonic.
    pub since: Duration,
    /// Somebody was shown it since the kernel was about to forget it, which may know it again.
    pub is_used: bool,
}

/// Nobody is shown what was replaced for longer than this.
const BEFORE_MAX: Duration = Duration::from_secs(1);

/// The bytes of an open file.
#[derive(Debug, Clone)]
pub enum Body {
    /// Not looked at yet: they are where the node says.
    Unloaded,
    /// As sealed.
    Shared(Bytes),
    /// Changed, in memory.
    Memory(Vec<u8>),
    /// In a working file, changed in place.
    Disk(Arc<WorkingFile>),
}

impl OpenFiles {
    /// Runs `act` with the node's open file locked, creating the entry for as long as it lasts.
    pub fn with<T>(&self, ino: Ino, act: impl FnOnce(&mut OpenState) -> T) -> T {
        loop {
            let file = self.enter(ino);
            let mut state = file.lock();
            if file.dead.load(Ordering::Acquire) {
                continue;
            }
            let result = act(&mut state);
            self.leave(&file, state);
            return result;
        }
    }

    /// Adds a handle.
    pub fn open(&self, ino: Ino, writable: bool) -> Arc<OpenFile> {
        loop {
            let file = self.enter(ino);
            let mut state = file.lock();
            if file.dead.load(Ordering::Acquire) {
                continue;
            }
            file.handles.fetch_add(1, Ordering::AcqRel);
            state.writers += u32::from(writable);
            drop(state);
            return file;
        }
    }

    /// Removes a handle. Returns whether it was the last one.
    pub fn close(&self, file: &OpenFile, writable: bool) -> bool {
        let mut state = file.lock();
        let last = file.handles.fetch_sub(1, Ordering::AcqRel) == 1;
        state.writers = state.writers.saturating_sub(u32::from(writable));
        if state.writers == 0 {
            state.torn_from = None;
        }
        self.leave(file, state);
        last
    }

    /// The open file of a node, if it has one.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        self.map.get(&ino).map(|entry| Arc::clone(entry.value()))
    }

    /// Whether the node has handles.
    #[must_use]
    pub fn is_open(&self, ino: Ino) -> bool {
        self.get(ino).is_some_and(|file| file.is_open())
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// All open files at this moment.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<OpenFile>> {
        self.map.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    fn enter(&self, ino: Ino) -> Arc<OpenFile> {
        loop {
            let entry = self.map.entry(ino).or_insert_with(|| Arc::new(OpenFile::new(ino)));
            let file = Arc::clone(entry.value());
            drop(entry);
            if !file.dead.load(Ordering::Acquire) {
                return file;
            }
            // Whoever marked it is about to take it out.
            self.map.remove_if(&ino, |_, file| file.dead.load(Ordering::Acquire));
        }
    }

    fn leave(&self, file: &OpenFile, state: MutexGuard<'_, OpenState>) {
        if !file.is_open() && state.dirty_since.is_none() {
            file.dead.store(true, Ordering::Release);
            drop(state);
            self.map.remove_if(&file.ino, |_, file| file.dead.load(Ordering::Acquire));
        }
    }
}

impl OpenFile {
    fn new(ino: Ino) -> Self {
        Self {
            ino,
            handles: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            state: Mutex::new(OpenState {
                body: Body::Unloaded,
                mtime: Timestamp::UNIX_EPOCH,
                ctime: Timestamp::UNIX_EPOCH,
                dirty_since: None,
                writers: 0,
                held: false,
                fresh: false,
                sealed_at: Ticket::default(),
                torn_from: None,
                generation: 0,
                before: None,
            }),
        }
    }

    /// Whether it has handles.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenState {
    /// Whether the content may be replaced from outside: nobody may write it, nothing is unsealed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.writers == 0 && self.dirty_since.is_none()
    }

    /// How many bytes it holds, when they were looked at.
    ///
    /// # Errors
    /// When the working file cannot be asked.
    pub fn size(&self) -> io::Result<Option<u64>> {
        Ok(match &self.body {
            Body::Unloaded => None,
            Body::Shared(bytes) => Some(bytes.len() as u64),
            Body::Memory(bytes) => Some(bytes.len() as u64),
            Body::Disk(file) => Some(file.size()?),
        })
    }

    /// Something else takes the place of what it was.
    pub fn replaced(&mut self, before: Option<Before>) {
        // Of several changes in a row the kernel knows none.
        if self.before.is_none() {
            self.before = before;
        }
        self.body = Body::Unloaded;
        self.generation += 1;
    }

    /// What it is for the kernel, where that is not what it is.
    pub fn before(&mut self, now: Duration) -> Option<&Before> {
        let before = self.before.as_mut().filter(|before| now < before.since + BEFORE_MAX)?;
        before.is_used = true;
        Some(before)
    }

    /// Up to `len` bytes from `offset` on. The body must be loaded.
    ///
    /// # Errors
    /// When the working file cannot be read.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.body.read(offset, len)
    }

    /// Notes a change.
    pub fn changed(&mut self, now: Duration, wall: Timestamp) {
        self.before = None;
        self.generation += 1;
        self.mtime = wall;
        self.ctime = wall;
        self.dirty_since.get_or_insert(now);
    }
}

impl Body {
    /// Up to `len` bytes from `offset` on.
    ///
    /// # Errors
    /// When the working file cannot be read.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let slice = |bytes: &[u8]| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            (from, from.saturating_add(len).min(bytes.len()))
        };
        match self {
            // Where they are is to be looked up first; what was replaced unread is nowhere.
            Self::Unloaded => Err(io::ErrorKind::WouldBlock.into()),
            Self::Shared(bytes) => {
                let (from, to) = slice(bytes);
                Ok(bytes.slice(from..to))
            }
            Self::Memory(bytes) => {
                let (from, to) = slice(bytes);
                Ok(Bytes::copy_from_slice(&bytes[from..to]))
            }
            Self::Disk(file) => file.read(offset, len),
        }
    }
}
