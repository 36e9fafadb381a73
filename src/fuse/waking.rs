//! Waking those who watch the mounted folder (inotify) when a change comes from the remote.
//!
//! A thread hands what has come, one by one, to a process of its own ([`crate::waker`]), and
//! the requests of that process are answered here, without any effect. Both are off every other path: the
//! queue is bounded, what does not fit is not told, and nobody waits for it. Of folders that the kernel does
//! not know at the moment nothing is told: nobody can watch them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use fuser::{INodeNo, Notifier, Request};

use crate::engine::local::LocalError;
use crate::engine::news::{News, NewsKind};
use crate::fs::{Attributes, EntryKind, Fs, FsError};
use crate::node::Ino;
use crate::waker::{COMMAND, Kind, Order, What};

/// News that may wait to be told.
const QUEUE_MAX: usize = 4_096;

/// Starts of the process, so that one that ends at once is not started for ever.
const STARTS_MAX: u32 = 5;

/// The handle that its process gets for whatever it opens.
pub(super) const HANDLE: u64 = u64::MAX;

/// The queue, the process, and what it is doing.
#[derive(Debug)]
pub struct Waking {
    fs: Weak<Fs>,
    mountpoint: PathBuf,
    /// The process; 0 while there is none.
    pid: AtomicU32,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<News>,
    /// What is being told, and whether the kernel has heard of it.
    current: Option<(News, bool)>,
    stopped: bool,
    child: Option<Child>,
}

/// How a name looks to the process.
#[derive(Debug)]
pub(super) enum Looks {
    /// As it is.
    Plain,
    /// As if it were not there.
    Absent,
    /// As it was before it was removed.
    Before(Attributes),
}

impl Waking {
    /// Prepares it; nothing runs yet.
    #[must_use]
    pub fn new(fs: &Arc<Fs>, mountpoint: &Path) -> Arc<Self> {
        Arc::new(Self {
            fs: Arc::downgrade(fs),
            mountpoint: mountpoint.to_owned(),
            pid: AtomicU32::new(0),
            state: Mutex::default(),
            work: Condvar::new(),
        })
    }

    /// Starts the thread. The process is started with the first news.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self: &Arc<Self>, notifier: Notifier) -> io::Result<()> {
        let waking = Arc::clone(self);
        let name = "waking".to_owned();
        std::thread::Builder::new().name(name).spawn(move || waking.tell_all(&notifier))?;
        Ok(())
    }

    /// Queues news; returns at once.
    pub fn push(&self, news: News) {
        let mut state = self.lock();
        if state.stopped || state.queue.len() == QUEUE_MAX {
            return;
        }
        state.queue.push_back(news);
        drop(state);
        self.work.notify_one();
    }

    /// Tells nothing any more and ends the process, which would keep the mount point busy.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.queue.clear();
        if let Some(child) = &mut state.child {
            drop(child.kill());
        }
        drop(state);
        self.work.notify_one();
    }

    /// Whether a request comes from the process.
    pub(super) fn is_from(&self, request: &Request) -> bool {
        let pid = self.pid.load(Ordering::Relaxed);
        pid != 0 && request.pid() == pid
    }

    /// How the process is to see a name.
    pub(super) fn looks(&self, parent: Ino, name: &OsStr) -> Looks {
        // Cloned: nothing else is locked under the state.
        let current = self.lock().current.clone();
        match current.filter(|(news, _)| is_about(news, parent, name)) {
            Some((news, false)) if news.kind == NewsKind::Created => Looks::Absent,
            Some((news, false)) if news.kind == NewsKind::Removed => {
                Looks::Before(self.before(&news))
            }
            _ => Looks::Plain,
        }
    }

    /// The process made or removed the name that it was told to. Answers what has it.
    pub(super) fn done(&self, parent: Ino, name: &OsStr) -> Result<Attributes, FsError> {
        let mut state = self.lock();
        let current = state.current.as_mut().filter(|(news, _)| is_about(news, parent, name));
        let Some((news, heard)) = current else { return Err(LocalError::NotPermitted.into()) };
        *heard = true;
        let news = news.clone();
        drop(state);
        match news.kind {
            NewsKind::Removed => Ok(self.before(&news)),
            NewsKind::Created | NewsKind::Changed => self.attributes(news.ino),
        }
    }

    /// What is shown of an entry that is gone: what is still known of it, else next to nothing.
    fn before(&self, news: &News) -> Attributes {
        self.attributes(news.ino).unwrap_or_else(|_gone| {
            let kind = match (news.is_dir, news.is_symlink) {
                (true, _) => EntryKind::Dir,
                (_, true) => EntryKind::Symlink,
                _ => EntryKind::File,
            };
            Attributes { ino: news.ino, kind, ..Attributes::of_nothing() }
        })
    }

    fn attributes(&self, ino: Ino) -> Result<Attributes, FsError> {
        self.fs.upgrade().ok_or(LocalError::Stale)?.attributes(ino)
    }

    fn tell_all(&self, notifier: &Notifier) {
        let mut pipes = None;
        let mut starts = 0;
        while let Some(news) = self.next() {
            // Attributes only: to hear whether the kernel knows the folder at all.
            let known = notifier.inval_inode(INodeNo(news.parent.0), -1, 0);
            if known.is_err() || starts > STARTS_MAX {
                continue;
            }
            let Some(fs) = self.fs.upgrade() else { return };
            let path = fs.shared().core().tree.path_of(news.parent);
            drop(fs);
            let Some(path) = path else { continue };
            let folder = self.mountpoint.join(path.as_str().trim_start_matches('/'));
            let order = Order {
                what: match news.kind {
                    NewsKind::Created => What::Created,
                    NewsKind::Changed => What::Changed,
                    NewsKind::Removed => What::Removed,
                },
                kind: match (news.is_dir, news.is_symlink) {
                    (true, _) => Kind::Dir,
                    (_, true) => Kind::Symlink,
                    _ => Kind::File,
                },
                path: folder.join(&*news.name),
            };
            if pipes.is_none() {
                starts += 1;
                pipes = self
                    .spawn()
                    .map_err(|error| tracing::warn!(%error, "watchers are not woken"))
                    .ok();
            }
            let Some((input, output)) = &mut pipes else { continue };
            self.lock().current = Some((news, false));
            if let Err(error) = tell(input, output, &order) {
                tracing::debug!(%error, "the process that wakes watchers ended");
                pipes = None;
                self.reap();
            }
            self.lock().current = None;
        }
        drop(pipes);
        self.reap();
    }

    fn next(&self) -> Option<News> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(news) = state.queue.pop_front() {
                return Some(news);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn spawn(&self) -> io::Result<(ChildStdin, BufReader<ChildStdout>)> {
        let mut state = self.lock();
        if state.stopped {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut child = Command::new("/proc/self/exe")
            .arg(COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        self.pid.store(child.id(), Ordering::Relaxed);
        state.child = Some(child);
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((input, BufReader::new(output)))
    }

    fn reap(&self) {
        self.pid.store(0, Ordering::Relaxed);
        let child = self.lock().child.take();
        if let Some(mut child) = child {
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_about(news: &News, parent: Ino, name: &OsStr) -> bool {
    news.parent == parent && *name == *news.name
}

/// Gives an order and waits until it is carried out.
fn tell(
    input: &mut ChildStdin,
    output: &mut BufReader<ChildStdout>,
    order: &Order,
) -> io::Result<()> {
    let mut line = serde_json::to_string(order)?;
    line.push('\n');
    input.write_all(line.as_bytes())?;
    input.flush()?;
    output.read_exact(&mut [0])
}
