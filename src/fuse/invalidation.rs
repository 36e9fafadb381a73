//! Telling the kernel what it may no longer believe, from a thread of its own.
//!
//! Never from a FUSE handler and never under a lock: the kernel may hold the very inode while it
//! waits for our reply. The queue is bounded; when the kernel falls behind, the newest requests
//! for one node fold into one. It is disarmed before the mount goes.
//!
//! Whoever opens a file waits until the kernel forgot what it was. Who has it open reads what it was
//! until then, and its size goes with it; what the kernel learns of that while it is told, it is told
//! again. What a call that waits for the network is about is told when that is over ([`crate::engine::waits`]). A read waits for nothing of this: the kernel may hold a page for it, and would wait for the
//! page. What is left is a read that is inside the kernel in that very moment.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use fuser::{INodeNo, Notifier};

use super::waking::Waking;
use crate::engine::news::{News, NewsKind};
use crate::engine::shared::Invalidate;
use crate::engine::{Invalidation, Shared};
use crate::node::{Ino, ROOT};

/// Entries that may wait; past that only whole nodes are told, folded.
const QUEUE_MAX: usize = 65_536;

/// The queue and its thread.
#[derive(Debug)]
pub struct Invalidator {
    shared: Arc<QueueShared>,
    waking: Arc<Waking>,
}

#[derive(Debug)]
struct QueueShared {
    queue: Mutex<Queue>,
    work: Condvar,
}

/// What is to be done when a node was told.
type Then = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    order: VecDeque<Invalidation>,
    /// Nodes in `order`.
    nodes: HashSet<Ino>,
    /// The node that is being told.
    telling: Option<Ino>,
    /// Nodes that are told when somebody who waits for the network waits no more.
    put_aside: HashSet<Ino>,
    /// Who waits for a node to be told.
    waiting: HashMap<Ino, Vec<Then>>,
    disarmed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waits", &self.order.len()).finish_non_exhaustive()
    }
}

impl Queue {
    fn next(&mut self) -> Option<Invalidation> {
        let next = self.order.pop_front()?;
        if let Invalidation::Node(ino) = next {
            self.nodes.remove(&ino);
            self.put_aside.remove(&ino);
            self.telling = Some(ino);
        }
        Some(next)
    }

    fn is_told(&self, ino: Ino) -> bool {
        let is_to_be_told = self.nodes.contains(&ino) || self.put_aside.contains(&ino);
        !is_to_be_told && self.telling != Some(ino)
    }

    /// A node was told; returns who waited for that.
    fn told(&mut self, ino: Ino) -> Vec<Then> {
        self.telling = None;
        if self.is_told(ino) { self.waiting.remove(&ino).unwrap_or_default() } else { Vec::new() }
    }
}

impl Invalidator {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        notifier: Notifier,
        mount: Weak<Shared>,
        waking: Arc<Waking>,
    ) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(QueueShared { queue: Mutex::default(), work: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("invalidation".to_owned())
            .spawn(move || tell_loop(&for_thread, &notifier, &mount))?;
        Ok(Arc::new(Self { shared, waking }))
    }

    /// Tells nothing any more; what waits is dropped. Before unmounting.
    pub fn disarm(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.disarmed = true;
        queue.order.clear();
        let waiting: Vec<Then> = queue.waiting.drain().flat_map(|(_, all)| all).collect();
        drop(queue);
        self.shared.work.notify_all();
        for then in waiting {
            then();
        }
    }
}

impl Invalidate for Invalidator {
    fn invalidate(&self, all: Vec<Invalidation>) {
        let mut queue = lock(&self.shared.queue);
        if queue.disarmed {
            return;
        }
        for one in all {
            if let Invalidation::Node(ino) = one
                && !queue.nodes.insert(ino)
            {
                continue;
            }
            if queue.order.len() < QUEUE_MAX || matches!(one, Invalidation::Node(_)) {
                queue.order.push_back(one);
            } else if let Invalidation::Entry { parent, .. } = one
                && queue.nodes.insert(parent)
            {
                // The name itself is believed for at most as long as its time to live.
                queue.order.push_back(Invalidation::Node(parent));
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    fn when_told(&self, ino: Ino, then: Then) -> bool {
        let mut queue = lock(&self.shared.queue);
        let later = !queue.disarmed && !queue.is_told(ino);
        if later {
            queue.waiting.entry(ino).or_default().push(then);
        } else {
            drop(queue);
            then();
        }
        later
    }

    fn wake(&self, news: Vec<News>) {
        for one in news {
            // Who is woken looks, and must find what is new.
            let told = if one.kind == NewsKind::Changed { one.ino } else { one.parent };
            let waking = Arc::clone(&self.waking);
            self.when_told(told, Box::new(move || waking.push(one)));
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be told next, waited for; `None` when there is nothing any more.
fn next(shared: &QueueShared) -> Option<Invalidation> {
    let mut queue = lock(&shared.queue);
    loop {
        if queue.disarmed {
            return None;
        }
        if let Some(next) = queue.next() {
            return Some(next);
        }
        queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

fn tell_loop(shared: &QueueShared, notifier: &Notifier, mount: &Weak<Shared>) {
    while let Some(next) = next(shared) {
        let Some(mount) = mount.upgrade() else { return };
        let may_tell = mount.may_tell(&next);
        let Invalidation::Node(ino) = next else {
            if may_tell {
                tell(notifier, &next);
                mount.told();
            }
            continue;
        };
        if may_tell {
            let is_shown = mount.forgetting(ino);
            tell(notifier, &next);
            if is_shown && mount.show_new(ino) {
                tell(notifier, &next);
            }
            mount.told();
        } else {
            lock(&shared.queue).put_aside.insert(ino);
        }
        let waited = lock(&shared.queue).told(ino);
        for then in waited {
            then();
        }
    }
}

fn tell(notifier: &Notifier, what: &Invalidation) {
    let told = match what {
        Invalidation::Node(Ino(ino)) => notifier.inval_inode(INodeNo(*ino), 0, 0),
        Invalidation::Entry { parent, name } => {
            notifier.inval_entry(INodeNo(parent.0.max(ROOT.0)), OsStr::new(&**name))
        }
    };
    if let Err(error) = told
        // The kernel does not know the node or name: nothing to forget.
        && error.raw_os_error() != Some(nix::libc::ENOENT)
    {
        tracing::debug!(%error, ?what, "invalidation not taken by the kernel");
    }
}
