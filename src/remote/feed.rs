//! The feed: follows the server's change stream for ever, over a WebSocket or by polling.
//!
//! Owns the position in the stream. Invariants: events are reported once, in order, and nothing is
//! left out in silence: what cannot be had is reported as a gap. Before the stream is called live,
//! the history at the position is compared with what was read before. The socket is never given
//! up; while it is down, events are asked for at an interval. Runs on tokio.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::continuity::{Continuity, Position, Step, Witness, judge, step};
use super::events::{FeedError, Message};
use super::http::HttpRemote;
use super::socket::{self, Arrival, Socket};
use super::{Capabilities, Cursor, EventChange, FeedItem, FeedMode, RemoteError, RemoteEvent};

/// The first wait before a new attempt is at most this long.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// No wait is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How often the socket is looked after.
const TICK: Duration = Duration::from_secs(5);

/// A ping goes out each so many ticks.
const TICKS_PER_PING: u32 = 2;

/// After so many ticks without any traffic the connection counts as lost.
const TICKS_QUIET_MAX: u32 = 5;

/// How many events are asked for at once.
const PAGE_EVENTS: usize = 1000;

/// Larger contents are never taken from the stream; servers send up to 1 MiB.
const CONTENT_BYTES_MAX: usize = 1024 * 1024;

/// So many events may wait with such a content.
const WITH_CONTENT_MAX: usize = 16;

/// The largest content of an event that waits behind more.
const QUEUED_BYTES_MAX: usize = 4 * 1024;

/// Follows the stream from `start` on and reports into `out` until its other side is gone. `wake`
/// cuts short the wait before the next attempt. Without a `start` the first item is a gap.
pub async fn run(
    remote: Arc<HttpRemote>,
    start: Option<Cursor>,
    wake: Arc<Notify>,
    out: mpsc::Sender<FeedItem>,
) {
    let closed = out.clone();
    let at = start.map_or(Position::Unknown, Position::After);
    let mut feed =
        Feed { remote, wake, out, at, shown: None, backoff: Backoff::default(), filtered: false };
    tokio::select! {
        () = closed.closed() => {}
        () = Box::pin(feed.drive()) => {}
    }
}

/// Why the stream is down.
struct Trouble {
    /// For people.
    reason: String,
    /// What the server asked to wait.
    floor: Duration,
}

impl From<&str> for Trouble {
    fn from(reason: &str) -> Self {
        Self { reason: reason.to_owned(), floor: Duration::ZERO }
    }
}

impl From<RemoteError> for Trouble {
    fn from(error: RemoteError) -> Self {
        Self { reason: error.to_string(), floor: floor_of(&error).unwrap_or_default() }
    }
}

/// What the server asked to wait.
fn floor_of(error: &RemoteError) -> Option<Duration> {
    match error {
        RemoteError::Busy { retry_after, .. } => *retry_after,
        _ => None,
    }
}

impl From<FeedError> for Trouble {
    fn from(error: FeedError) -> Self {
        RemoteError::from(error).into()
    }
}

/// What was last said about the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Live(FeedMode),
    Down,
}

struct Feed {
    remote: Arc<HttpRemote>,
    wake: Arc<Notify>,
    out: mpsc::Sender<FeedItem>,
    at: Position,
    shown: Option<Shown>,
    backoff: Backoff,
    /// The token is good for the mounted folder only: the socket must be filtered by path, and
    /// neither history nor polling is to be had.
    filtered: bool,
}

impl Feed {
    async fn drive(&mut self) {
        loop {
            if let Err(Trouble { reason, floor }) = self.attempt().await {
                self.down(reason).await;
                let delay = self.backoff.next();
                // Nothing cuts short what the server asked for.
                sleep(floor).await;
                self.pause(delay).await;
            }
        }
    }

    /// One attempt at the socket, and polling for a while when it fails. Ends well when the socket
    /// is to be tried again at once.
    async fn attempt(&mut self) -> Result<(), Trouble> {
        if self.at == Position::Unknown && !self.filtered {
            match self.remote.newest().await {
                Ok(newest) => self.gap(newest).await,
                Err(RemoteError::Forbidden { .. }) if self.may_filter() => self.filtered = true,
                Err(error) => return Err(error.into()),
            }
        }
        match self.open().await {
            Ok(socket) => match self.follow(socket).await {
                // A socket that opens and does not last: until it is tried again, events are asked
                // for, as where it does not open.
                Err(Trouble { reason, .. })
                    if !self.filtered && self.backoff.bound > self.remote.poll_interval =>
                {
                    self.down(reason).await;
                    self.poll().await
                }
                ended => ended,
            },
            Err(FeedError::Cursor) => {
                if self.filtered {
                    self.at = Position::Unknown;
                } else {
                    self.cursor_unknown().await?;
                }
                let delay = self.backoff.next();
                self.pause(delay).await;
                Ok(())
            }
            Err(FeedError::Remote(RemoteError::Forbidden { .. })) if self.may_filter() => {
                self.filtered = true;
                Ok(())
            }
            Err(FeedError::Remote(error)) if self.filtered => {
                // The token may have been replaced by one that needs no filter.
                self.filtered = !matches!(error, RemoteError::Forbidden { .. });
                Err(error.into())
            }
            Err(FeedError::Remote(error)) if floor_of(&error).is_some() => Err(error.into()),
            Err(FeedError::Remote(_)) => self.poll().await,
        }
    }

    fn may_filter(&self) -> bool {
        !self.filtered && !self.remote.scope.root().is_root()
    }

    async fn open(&self) -> Result<Socket, FeedError> {
        let from = match &self.at {
            Position::After(cursor) => socket::From::Cursor(&cursor.id),
            Position::Beginning => socket::From::Any,
            Position::Unknown => socket::From::Now,
        };
        let filters =
            if self.filtered { vec![format!("{}/**", self.remote.scope.root())] } else { vec![] };
        self.remote.open_socket(from, &filters).await
    }

    /// Follows an open socket until it ends.
    async fn follow(&mut self, mut socket: Socket) -> Result<(), Trouble> {
        // The subscription exists by now, so what is compared here and what arrives there overlap.
        if self.filtered {
            self.emit(FeedItem::Gap { tail: self.at.id().cloned() }).await;
        } else {
            self.verify().await?;
            if self.at == Position::Beginning {
                self.drain().await?;
            }
        }
        self.live(FeedMode::WebSocket).await;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let (mut count, mut quiet) = (0_u32, 0_u32);
        loop {
            tokio::select! {
                arrival = socket.next() => {
                    quiet = 0;
                    match arrival {
                        Arrival::Text(text) => {
                            self.backoff = Backoff::default();
                            self.frame(&text).await?;
                        }
                        Arrival::Sign => self.backoff = Backoff::default(),
                        Arrival::End(reason) => return Err(reason.as_str().into()),
                    }
                }
                _ = ticks.tick() => {
                    count = count.wrapping_add(1);
                    quiet += 1;
                    if quiet >= TICKS_QUIET_MAX {
                        return Err(Trouble::from("the stream fell silent"));
                    }
                    if count.is_multiple_of(TICKS_PER_PING) && !socket.ping().await {
                        return Err(Trouble::from("the stream takes no more pings"));
                    }
                }
            }
        }
    }

    /// Asks for events at an interval, until it is time to try the socket again.
    async fn poll(&mut self) -> Result<(), Trouble> {
        let mut left = self.backoff.next();
        self.verify().await?;
        self.drain().await?;
        self.live(FeedMode::Polling).await;
        loop {
            let nap = left.min(self.remote.poll_interval);
            if self.pause(nap).await || left <= nap {
                return Ok(());
            }
            left -= nap;
            self.drain().await?;
        }
    }

    async fn frame(&mut self, text: &str) -> Result<(), Trouble> {
        let message = Message::of_frame(text, &self.remote.scope)
            .ok_or_else(|| Trouble::from("a message of the stream is not JSON"))?;
        match message {
            Message::Noise => Ok(()),
            Message::Unreadable(id) => {
                if step(&self.at, &id, false) == Step::Next {
                    self.unreadable(Cursor { id, fingerprint: None }).await;
                }
                Ok(())
            }
            Message::Event(event) => match step(&self.at, &event.id, self.contiguous()) {
                Step::Seen => Ok(()),
                Step::Next => {
                    self.apply(*event).await;
                    Ok(())
                }
                Step::Hole => {
                    self.drain().await?;
                    match step(&self.at, &event.id, self.contiguous()) {
                        Step::Seen => Ok(()),
                        Step::Next => {
                            self.apply(*event).await;
                            Ok(())
                        }
                        Step::Hole => self.gap_at_newest().await,
                    }
                }
            },
        }
    }

    /// Reads all events after the position by HTTP.
    async fn drain(&mut self) -> Result<(), Trouble> {
        loop {
            let page = match self.remote.events_after(self.at.id(), PAGE_EVENTS).await {
                Ok(page) => page,
                Err(FeedError::Cursor) => return self.cursor_unknown().await,
                Err(FeedError::Remote(error)) => return Err(error.into()),
            };
            if page.is_empty() {
                return Ok(());
            }
            for message in page {
                match message {
                    Message::Event(event) => {
                        match step(&self.at, &event.id, self.contiguous()) {
                            Step::Next => self.apply(*event).await,
                            // Asked for what follows, the server gave something else: it does not
                            // know the cursor, or no longer has what follows it.
                            Step::Seen | Step::Hole => return self.gap_at_newest().await,
                        }
                    }
                    Message::Unreadable(id) => {
                        self.unreadable(Cursor { id, fingerprint: None }).await;
                    }
                    Message::Noise => {
                        return Err(Trouble::from("the server lists events without an id"));
                    }
                }
            }
        }
    }

    /// Compares the history at the position with what was read before; on a difference, reports it
    /// and goes on after the newest event.
    async fn verify(&mut self) -> Result<(), Trouble> {
        let Position::After(ours) = &self.at else { return Ok(()) };
        let newest = self.remote.newest().await?;
        let witness = match &newest {
            Some(newest) if newest.id == ours.id => Witness::Found(newest.fingerprint.clone()),
            Some(_) => self.remote.witness(ours).await?,
            None => Witness::Missing,
        };
        let newest_id = newest.as_ref().map(|event| &event.id);
        match judge(ours, newest_id, &witness, self.contiguous()) {
            Continuity::Holds => {}
            Continuity::Gap => self.gap(newest).await,
            Continuity::Reset => self.reset(newest).await,
        }
        Ok(())
    }

    /// The server does not know the position. It may have forgotten old events; that its newest
    /// one is older than ours tells that its history is another one.
    async fn cursor_unknown(&mut self) -> Result<(), Trouble> {
        let newest = self.remote.newest().await?;
        let newest_id = newest.as_ref().map(|event| &event.id);
        let went_back = match &self.at {
            Position::After(ours) => {
                judge(ours, newest_id, &Witness::Missing, true) == Continuity::Reset
            }
            Position::Beginning | Position::Unknown => false,
        };
        if went_back {
            self.reset(newest).await;
        } else {
            self.gap(newest).await;
        }
        Ok(())
    }

    /// Whether ids are known to have no holes: only servers that announce what they offer number
    /// each workspace by itself.
    fn contiguous(&self) -> bool {
        !self.filtered && self.remote.offered() != Capabilities::default()
    }

    async fn apply(&mut self, mut event: RemoteEvent) {
        self.shed(&mut event);
        let fingerprint = Some(event.fingerprint.clone());
        self.at = Position::After(Cursor { id: event.id.clone(), fingerprint });
        self.emit(FeedItem::Event(event)).await;
    }

    /// Events may arrive faster than they are applied; what waits must fit into memory. A content
    /// that is left out is fetched when it is read.
    fn shed(&self, event: &mut RemoteEvent) {
        let Some(EventChange::Stored(file)) = &mut event.change else { return };
        let waiting = self.out.max_capacity() - self.out.capacity();
        let most = if waiting < WITH_CONTENT_MAX { CONTENT_BYTES_MAX } else { QUEUED_BYTES_MAX };
        file.body.take_if(|body| body.len() > most);
    }

    /// An event that cannot be read may have been about anything.
    async fn unreadable(&mut self, cursor: Cursor) {
        let tail = Some(cursor.id.clone());
        self.at = Position::After(cursor);
        self.emit(FeedItem::Gap { tail }).await;
    }

    async fn gap_at_newest(&mut self) -> Result<(), Trouble> {
        let newest = self.remote.newest().await?;
        self.gap(newest).await;
        Ok(())
    }

    async fn gap(&mut self, newest: Option<RemoteEvent>) {
        let tail = newest.as_ref().map(|event| event.id.clone());
        self.at = Position::tail(newest.map(cursor_of));
        self.emit(FeedItem::Gap { tail }).await;
    }

    async fn reset(&mut self, newest: Option<RemoteEvent>) {
        let tail = newest.as_ref().map(|event| event.id.clone());
        self.at = Position::tail(newest.map(cursor_of));
        self.emit(FeedItem::Reset { tail }).await;
    }

    async fn down(&mut self, reason: String) {
        if self.shown != Some(Shown::Down) {
            self.shown = Some(Shown::Down);
            self.emit(FeedItem::Down { reason }).await;
        }
    }

    async fn live(&mut self, mode: FeedMode) {
        if self.shown != Some(Shown::Live(mode)) {
            self.shown = Some(Shown::Live(mode));
            self.emit(FeedItem::Live(mode)).await;
        }
    }

    async fn emit(&self, item: FeedItem) {
        if self.out.send(item).await.is_err() {
            // Nobody listens: `run` is about to end, and nothing may happen until then.
            std::future::pending::<()>().await;
        }
    }

    /// Waits; `true` when woken early.
    async fn pause(&self, delay: Duration) -> bool {
        tokio::select! {
            () = self.wake.notified() => true,
            () = sleep(delay) => false,
        }
    }
}

fn cursor_of(event: RemoteEvent) -> Cursor {
    Cursor { id: event.id, fingerprint: Some(event.fingerprint) }
}

/// Waits that double, each drawn from nothing to its bound, so that clients spread out.
#[derive(Debug)]
struct Backoff {
    bound: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { bound: BACKOFF_MIN }
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(BACKOFF_MAX);
        rand::random_range(Duration::ZERO..=bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let mut bound = BACKOFF_MIN;
        for _ in 0..20 {
            assert!(backoff.next() <= bound);
            bound = (bound * 2).min(BACKOFF_MAX);
        }
        assert_eq!(backoff.bound, BACKOFF_MAX);
    }
}
