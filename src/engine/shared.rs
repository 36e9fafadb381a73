//! What the threads of a mount share: the core behind its lock, and everything around it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, broadcast};

use super::core::{Changes, Core, Invalidation, Now};
use super::news::News;
use super::waits::Waits;
use crate::clock::SharedClock;
use crate::content::Contents;
use crate::content::open::{Before, Body, OpenState};
use crate::node::{Content, Ino};
use crate::remote::Remote;
use crate::store::{Done, Row, Store};

/// How many notices a slow reader of the event stream may be behind.
const NOTICES_MAX: usize = 1024;

/// How many notices are kept for readers that come later.
const RECENT_MAX: usize = 256;

/// How long nothing may have been sent before a stop no longer waits for it.
const HOPELESS_AFTER: Duration = Duration::from_millis(500);

/// How often that is looked at.
const HOPELESS_LOOK: Duration = Duration::from_millis(50);

/// Something that happened, for people who follow along.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What kind: `remote`, `ack`, `conflict`, `parked`, `link`, `local`.
    pub kind: NoticeKind,
    /// One word: `write`, `delete`, `online`, …
    pub action: String,
    /// The path concerned.
    pub path: Option<String>,
    /// Its revision.
    pub revision: Option<String>,
    /// More, in words.
    pub detail: Option<String>,
    /// When.
    pub at: jiff::Timestamp,
}

/// What a [`Notice`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A change came from the remote.
    Remote,
    /// The remote accepted a change of ours.
    Ack,
    /// Both sides changed.
    Conflict,
    /// The remote refused a change for good.
    Parked,
    /// The way to the server, or a pause.
    Link,
    /// A change made here was recorded.
    Local,
    /// A person is asked, or has decided.
    Approval,
    /// Something on the local disk is not as it was written.
    Damage,
}

/// Where the kernel's caches are told what no longer holds.
pub trait Invalidate: Send + Sync + std::fmt::Debug {
    /// Queues; returns at once.
    fn invalidate(&self, all: Vec<Invalidation>);

    /// Has `then` run when nothing about the node is still to be told: now, or by the one who tells.
    /// Returns whether that is later.
    fn when_told(&self, ino: Ino, then: Box<dyn FnOnce() + Send>) -> bool;

    /// Has those who watch the folder woken, after what was queued before; returns at once.
    fn wake(&self, news: Vec<News>);
}

/// Everything the threads of a mount share.
#[derive(Debug)]
pub struct Shared {
    core: RwLock<Core>,
    /// The store.
    pub store: Store,
    /// Contents and open files.
    pub contents: Contents,
    /// The server.
    pub remote: Arc<dyn RemoteDebug>,
    /// The time.
    pub clock: SharedClock,
    /// Wakes the runner: something was recorded.
    pub nudge: Notify,
    /// What happens, for those who follow along.
    notices: broadcast::Sender<Notice>,
    /// What happened lately, oldest first.
    recent: Mutex<VecDeque<Notice>>,
    /// Folder of the conflict copies.
    pub conflicts_folder: std::path::PathBuf,
    /// One fetch per node at a time.
    pub(super) fetches: DashMap<Ino, Arc<tokio::sync::Mutex<()>>>,
    /// The largest file that the server may take, as far as known.
    file_bytes_max: AtomicU64,
    /// Whether anything was written to the store since the last checkpoint.
    pub(super) touched: AtomicBool,
    invalidate: std::sync::OnceLock<Arc<dyn Invalidate>>,
    /// Calls that wait for the network while the kernel waits for them.
    pub(super) waits: Waits,
}

/// A remote that can be printed, so that what holds it can be.
pub trait RemoteDebug: Remote + std::fmt::Debug {}

impl<T: Remote + std::fmt::Debug> RemoteDebug for T {}

impl Shared {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        core: Core,
        store: Store,
        contents: Contents,
        remote: Arc<dyn RemoteDebug>,
        clock: SharedClock,
        conflicts_folder: std::path::PathBuf,
    ) -> Self {
        let file_bytes_max = AtomicU64::new(core.file_bytes_max().unwrap_or(u64::MAX));
        Self {
            core: RwLock::new(core),
            file_bytes_max,
            store,
            contents,
            remote,
            clock,
            nudge: Notify::new(),
            notices: broadcast::channel(NOTICES_MAX).0,
            recent: Mutex::default(),
            conflicts_folder,
            fetches: DashMap::new(),
            touched: AtomicBool::new(true),
            invalidate: std::sync::OnceLock::new(),
            waits: Waits::default(),
        }
    }

    /// Names the one who tells the kernel; once, after mounting.
    pub fn set_invalidate(&self, invalidate: Arc<dyn Invalidate>) {
        drop(self.invalidate.set(invalidate));
    }

    /// Both times of now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono: self.clock.monotonic(), wall: self.clock.wall() }
    }

    /// The core, to look at.
    pub fn core(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn core_mut(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when it makes no sense any more to wait for the outbox to empty: on end the server is
    /// out of reach, or uploads are paused.
    pub async fn until_hopeless(&self) {
        let mut held = Duration::ZERO;
        while held < HOPELESS_AFTER {
            tokio::time::sleep(HOPELESS_LOOK).await;
            let link = self.core().link.clone();
            let is_held = link.is_down() || link.pause().is_some();
            held = if is_held { held + HOPELESS_LOOK } else { Duration::ZERO };
        }
    }

    /// Takes one step on the core. Its rows are submitted before the lock is released, so that the
    /// store sees steps in the order in which they happened.
    pub fn step<T>(&self, act: impl FnOnce(&mut Core, Now, &mut Changes) -> T) -> T {
        let mut changes = Changes::default();
        let mut core = self.core_mut();
        let now = self.now();
        let result = act(&mut core, now, &mut changes);
        core.keep_link(now, &mut changes);
        self.note_limit(&core);
        self.touched.fetch_or(!changes.rows.is_empty(), Ordering::Relaxed);
        self.keep_readable(&changes.rows);
        self.store.put(std::mem::take(&mut changes.rows));
        self.tell_kernel(&mut changes);
        drop(core);
        self.carry_out(changes);
        result
    }

    /// Takes one step and has `done` called when it is safe against a crash. When the step fails
    /// nothing was changed and `done` is given back unused.
    ///
    /// # Errors
    /// What `act` returns.
    pub fn step_then<T, E>(
        &self,
        done: Done,
        act: impl FnOnce(&mut Core, Now, &mut Changes) -> Result<T, E>,
    ) -> Result<T, (E, Done)> {
        let mut changes = Changes::default();
        let mut core = self.core_mut();
        let now = self.now();
        match act(&mut core, now, &mut changes) {
            Ok(value) => {
                core.keep_link(now, &mut changes);
                self.note_limit(&core);
                self.touched.store(true, Ordering::Relaxed);
                self.keep_readable(&changes.rows);
                self.store.commit(std::mem::take(&mut changes.rows), done);
                self.tell_kernel(&mut changes);
                drop(core);
                failpoint!("step.submitted");
                self.carry_out(changes);
                Ok(value)
            }
            Err(error) => {
                self.store.put(std::mem::take(&mut changes.rows));
                drop(core);
                Err((error, done))
            }
        }
    }

    fn note_limit(&self, core: &Core) {
        let bytes = core.file_bytes_max().unwrap_or(u64::MAX);
        self.file_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Whether a file may grow to so many bytes: local-only ones to any.
    pub fn may_grow_to(&self, ino: Ino, bytes: u64) -> bool {
        let is_local = || self.core().tree.get(ino).is_some_and(|node| node.local_only);
        bytes <= self.file_bytes_max.load(Ordering::Relaxed) || is_local()
    }

    /// Keeps new small contents in memory: with the end of the step they may be read, and the store
    /// has them only when it committed.
    fn keep_readable(&self, rows: &[Row]) {
        for row in rows {
            if let Row::PutBlob(blob, bytes) = row {
                self.contents.cache_blob(*blob, bytes);
            }
        }
    }

    /// Has the house kept although no row was written: there is something to be looked after.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Has the kernel told, with the core locked: whoever sees what is new sees that it is not told.
    fn tell_kernel(&self, changes: &mut Changes) {
        let all = std::mem::take(&mut changes.invalidations);
        if !all.is_empty() {
            self.invalidate(all);
        }
        let news = std::mem::take(&mut changes.news);
        if !news.is_empty()
            && let Some(invalidate) = self.invalidate.get()
        {
            invalidate.wake(news);
        }
    }

    /// Has the kernel told what it may no longer believe, from a thread of its own.
    pub fn invalidate(&self, all: Vec<Invalidation>) {
        if let Some(invalidate) = self.invalidate.get() {
            invalidate.invalidate(all);
        }
    }

    /// Has `then` run when the kernel knows everything about a node. Returns whether that is later.
    pub fn when_told(&self, ino: Ino, then: Box<dyn FnOnce() + Send>) -> bool {
        if let Some(invalidate) = self.invalidate.get() {
            return invalidate.when_told(ino, then);
        }
        then();
        false
    }

    /// The kernel is about to forget what it knows of a file. Returns whether some are still shown
    /// what it was.
    #[must_use]
    pub fn forgetting(&self, ino: Ino) -> bool {
        let Some(file) = self.contents.open.get(ino) else { return false };
        file.lock().before.as_mut().map(|before| before.is_used = false).is_some()
    }

    /// Shows everybody what the file is. Returns whether the kernel may have learned again what it
    /// was; of a file that was closed meanwhile nobody knows.
    #[must_use]
    pub fn show_new(&self, ino: Ino) -> bool {
        let Some(file) = self.contents.open.get(ino) else { return true };
        let before = file.lock().before.take();
        before.is_none_or(|before| before.is_used)
    }

    /// What a file is for those who have it open, before something else takes its place. Runs with
    /// the open file locked.
    pub(super) fn before(&self, ino: Ino, state: &OpenState) -> Option<Before> {
        if !self.contents.open.is_open(ino) {
            return None;
        }
        let core = self.core();
        let node = core.tree.get(ino)?;
        let known = node.body().filter(|body| {
            let is_unread = body.content == Content::Remote && body.exact;
            is_unread || !matches!(state.body, Body::Unloaded)
        });
        Some(Before {
            body: state.body.clone(),
            size: known?.size,
            mtime: node.mtime,
            ctime: node.ctime,
            since: self.clock.monotonic(),
            is_used: false,
        })
    }

    /// Tells the kernel and the trash what a step that was submitted elsewhere changed.
    pub fn carry_out(&self, mut changes: Changes) {
        self.tell_kernel(&mut changes);
        self.contents.discard(changes.trash);
        for what in changes.asked {
            self.notice(Notice {
                kind: NoticeKind::Approval,
                action: "asked".to_owned(),
                path: None,
                revision: None,
                detail: Some(what),
                at: self.clock.wall(),
            });
        }
        for (op, path) in changes.recorded {
            self.notice(Notice {
                kind: NoticeKind::Local,
                action: op.word().to_owned(),
                path: Some(path.as_str().to_owned()),
                revision: None,
                detail: None,
                at: self.clock.wall(),
            });
        }
    }

    /// Tells those who follow along.
    pub fn notice(&self, notice: Notice) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(notice.clone());
        // Nobody may be listening. Sent under the lock, so that a new reader misses nothing.
        drop(self.notices.send(notice));
    }

    /// What happened lately, and what comes after that.
    pub fn notices(&self) -> (VecDeque<Notice>, broadcast::Receiver<Notice>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.clone(), self.notices.subscribe())
    }
}
