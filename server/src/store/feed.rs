//! Hands committed events to whoever is subscribed.
//!
//! A subscriber has a bounded buffer. One that does not keep up is cut off, never waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::model::Event;

/// The subscribers of every workspace.
#[derive(Debug)]
pub(crate) struct Hub {
    buffer: usize,
    subscribers: Mutex<HashMap<String, Vec<mpsc::Sender<Arc<Event>>>>>,
}

impl Hub {
    pub(crate) fn new(buffer: usize) -> Self {
        Self { buffer, subscribers: Mutex::default() }
    }

    /// Subscribes to a workspace. The channel ends when the subscriber falls behind: what was
    /// received until then is a contiguous run.
    pub(crate) fn subscribe(&self, workspace: &str) -> mpsc::Receiver<Arc<Event>> {
        let (sender, receiver) = mpsc::channel(self.buffer);
        self.lock().entry(workspace.to_owned()).or_default().push(sender);
        receiver
    }

    /// Forgets subscribers that are gone; called when one leaves.
    pub(crate) fn tidy(&self, workspace: &str) {
        let mut subscribers = self.lock();
        if let Some(senders) = subscribers.get_mut(workspace) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                subscribers.remove(workspace);
            }
        }
    }

    pub(super) fn publish(&self, workspace: &str, events: Vec<Event>) {
        let mut subscribers = self.lock();
        let Some(senders) = subscribers.get_mut(workspace) else { return };
        for event in events.into_iter().map(Arc::new) {
            senders.retain(|sender| sender.try_send(Arc::clone(&event)).is_ok());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<mpsc::Sender<Arc<Event>>>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
