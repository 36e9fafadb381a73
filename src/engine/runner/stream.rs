//! The change stream of the server: its start, what it has, and the change to another server's.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::{Listing, Runner};
use crate::engine::shared::Shared;
use crate::remote::FeedItem;

/// Events that may wait for the runner.
const FEED_MAX: usize = 1024;

/// Events that are taken up between two plans at most.
const FEED_IN_A_ROW: usize = 64;

impl Runner {
    /// Goes on with another server: the stream of the old one says nothing about it.
    pub(super) fn take_to_the_other_server(&mut self) {
        if let Some(known) = self.shared.core().capabilities {
            self.shared.remote.set_capabilities(known);
        }
        self.listing = Listing::Idle;
        self.feed = start_feed(&self.shared, &self.feed_wake);
    }

    /// Takes what the feed has at once: a plan for each event would cost more than the events.
    pub(super) fn heard_in_a_row(&mut self, first: FeedItem) {
        self.heard(first);
        for _ in 1..FEED_IN_A_ROW {
            if self.listing != Listing::Idle {
                return;
            }
            match self.feed.try_recv() {
                Ok(item) => self.heard(item),
                Err(_) => return,
            }
        }
    }
}

/// Starts to follow the change stream where it was left. The stream ends when nobody hears it.
pub(super) fn start_feed(shared: &Shared, wake: &Arc<Notify>) -> mpsc::Receiver<FeedItem> {
    let (items, feed) = mpsc::channel(FEED_MAX);
    let (start, floor) = {
        let core = shared.core();
        let floor = core.link.trouble().filter(|trouble| trouble.hinted);
        let floor = floor.map(|trouble| trouble.next_try.saturating_sub(shared.now().mono));
        (core.cursor.clone().filter(|_| core.listed), floor)
    };
    let remote = Arc::clone(&shared.remote);
    let stream = remote.feed(start, Arc::clone(wake), items);
    tokio::spawn(async move {
        // What the server asked the last run for holds for this one.
        tokio::time::sleep(floor.unwrap_or_default()).await;
        stream.await;
    });
    feed
}
