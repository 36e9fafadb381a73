//! Telling the kernel what it may no longer believe, from a thread of its own.
//!
//! Never from a FUSE handler and never under a lock: the kernel may hold the very inode while it
//! waits for our reply. The queue is bounded; when the kernel falls behind, the newest requests
//! for one node fold into one. It is disarmed before the mount goes.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use fuser::{INodeNo, Notifier};

use crate::engine::Invalidation;
use crate::engine::shared::Invalidate;
use crate::node::{Ino, ROOT};

/// Entries that may wait; past that only whole nodes are told, folded.
const QUEUE_MAX: usize = 65_536;

/// The queue and its thread.
#[derive(Debug)]
pub struct Invalidator {
    shared: Arc<QueueShared>,
}

#[derive(Debug)]
struct QueueShared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Invalidation>,
    nodes: HashSet<Ino>,
    disarmed: bool,
}

impl Invalidator {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(notifier: Notifier) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(QueueShared { queue: Mutex::default(), work: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("invalidation".to_owned())
            .spawn(move || tell_loop(&for_thread, &notifier))?;
        Ok(Arc::new(Self { shared }))
    }

    /// Tells nothing any more; what waits is dropped. Before unmounting.
    pub fn disarm(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.disarmed = true;
        queue.order.clear();
        drop(queue);
        self.shared.work.notify_all();
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
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell_loop(shared: &QueueShared, notifier: &Notifier) {
    loop {
        let next = {
            let mut queue = lock(&shared.queue);
            loop {
                if queue.disarmed {
                    return;
                }
                if let Some(next) = queue.order.pop_front() {
                    if let Invalidation::Node(ino) = next {
                        queue.nodes.remove(&ino);
                    }
                    break next;
                }
                queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let told = match &next {
            Invalidation::Node(Ino(ino)) => notifier.inval_inode(INodeNo(*ino), 0, 0),
            Invalidation::Entry { parent, name } => {
                notifier.inval_entry(INodeNo(parent.0.max(ROOT.0)), OsStr::new(&**name))
            }
        };
        if let Err(error) = told
            // The kernel does not know the node or name: nothing to forget.
            && error.raw_os_error() != Some(nix::libc::ENOENT)
        {
            tracing::debug!(%error, ?next, "invalidation not taken by the kernel");
        }
    }
}
