//! Calls that wait for the network while the kernel waits for them.
//!
//! The kernel holds what such a call is about: the pages of a file that is being read, a folder in
//! which a name is being removed. Whoever tells it to forget that very thing waits for the call, and
//! a process that is killed meanwhile could neither answer the one nor give up the other: it would
//! never end. So what concerns such a call is told when it is over, and while something is being told
//! no such call begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::Invalidation;
use super::shared::Shared;
use crate::node::{Ino, ROOT};

/// Which calls wait, and what is being told.
#[derive(Debug, Default)]
pub struct Waits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<Ino, Waiting>,
    telling: Option<Ino>,
}

/// What waits for one node.
#[derive(Debug, Default)]
struct Waiting {
    calls: usize,
    /// To be told when they are over.
    later: Vec<Invalidation>,
}

/// A call that waits, until this is dropped.
#[derive(Debug)]
pub struct Wait {
    shared: Arc<Shared>,
    ino: Ino,
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, ino: Ino) -> bool {
        let mut state = self.lock();
        let may = state.telling != Some(ino);
        if may {
            state.nodes.entry(ino).or_default().calls += 1;
        }
        may
    }

    fn end(&self, ino: Ino) -> Vec<Invalidation> {
        let mut state = self.lock();
        let Some(waiting) = state.nodes.get_mut(&ino) else { return Vec::new() };
        waiting.calls -= 1;
        if waiting.calls > 0 {
            return Vec::new();
        }
        state.nodes.remove(&ino).map(|waiting| waiting.later).unwrap_or_default()
    }

    /// Whether something may be told now. If not it is put aside.
    fn tell(&self, what: &Invalidation) -> bool {
        let ino = held_for(what);
        let mut state = self.lock();
        if let Some(waiting) = state.nodes.get_mut(&ino) {
            waiting.later.push(what.clone());
            return false;
        }
        state.telling = Some(ino);
        true
    }
}

/// What the kernel needs for itself to forget something.
fn held_for(what: &Invalidation) -> Ino {
    match what {
        Invalidation::Node(ino) => *ino,
        Invalidation::Entry { parent, .. } => Ino(parent.0.max(ROOT.0)),
    }
}

impl Shared {
    /// Lets a call about a node wait for the network; `None` when it must not, because the kernel is
    /// being told to forget that node.
    #[must_use]
    pub fn wait_for_network(self: &Arc<Self>, ino: Ino) -> Option<Wait> {
        self.waits.begin(ino).then(|| Wait { shared: Arc::clone(self), ino })
    }

    /// Whether the kernel may be told something now; if not, it is when the calls are over that wait.
    /// [`Shared::told`] follows.
    #[must_use]
    pub fn may_tell(&self, what: &Invalidation) -> bool {
        self.waits.tell(what)
    }

    /// The kernel was told.
    pub fn told(&self) {
        self.waits.lock().telling = None;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let later = self.shared.waits.end(self.ino);
        if !later.is_empty() {
            self.shared.invalidate(later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_waits_for_is_told_when_it_is_over() {
        let waits = Waits::default();
        let node = Invalidation::Node(Ino(7));
        let entry = Invalidation::Entry { parent: Ino(7), name: "f".into() };
        assert!(waits.begin(Ino(7)) && waits.begin(Ino(7)));
        assert!(!waits.tell(&node) && !waits.tell(&entry));
        assert!(waits.tell(&Invalidation::Node(Ino(8))), "others do not wait");
        assert_eq!(waits.end(Ino(7)), []);
        assert_eq!(waits.end(Ino(7)), [node.clone(), entry]);
        assert!(waits.tell(&node));
        assert!(!waits.begin(Ino(7)), "nobody waits while it is told");
        assert!(waits.begin(Ino(9)));
        waits.lock().telling = None;
        assert!(waits.begin(Ino(7)));
    }
}
