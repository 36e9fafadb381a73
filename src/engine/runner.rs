//! The runner: the one task that plans, starts what was planned, and hears what came of it.
//!
//! Everything it waits for is in one `select`; nothing is decided here. It runs on tokio, and the
//! engine stops the process when it panics: the outbox is durable, a restart is the safest repair.

mod stream;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use self::stream::start_feed;
pub use self::waiters::Flushed;
use self::waiters::Waiter;
use super::approvals::{Decided, Refusal};
use super::core::Stream;
use super::link::{Answer, Cause, Outage, Pause, Refused, Wake, Way, backoff};
use super::listing::Missing;
use super::plan::Task;
use super::shared::{Notice, NoticeKind, Shared};
use super::standing::Resumed;
use crate::path::WsPath;
use crate::remote::{Capabilities, Cursor, EventId, FeedItem, FeedMode, RemoteError, RemoteEvent};

/// How often a connection is tried while the server cannot be reached: what lets the replay start
/// within a second of its return without a request being made.
const REACH_INTERVAL: Duration = Duration::from_millis(500);

/// At most so often it is planned because something was recorded: under load one plan serves
/// hundreds of records, and each looks through what waits. Short beside the debounce.
const PLAN_INTERVAL: Duration = Duration::from_millis(4);

/// How often open files are looked at whose bytes are not committed yet.
const SEAL_INTERVAL: Duration = Duration::from_millis(200);

/// How often leftovers are cleared while there is work.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How often the disk that local content takes is looked at while there is work.
const ROOM_INTERVAL: Duration = Duration::from_secs(30);

/// Quiet time after which the log is moved into the database.
const IDLE: Duration = Duration::from_secs(2);

/// Commands that may wait for the runner.
pub const COMMANDS_MAX: usize = 64;

/// What people ask of the engine.
#[derive(Debug)]
pub enum Command {
    /// Hold back dispatch.
    Pause {
        /// Why and how long.
        pause: Pause,
        /// Told the pause that was in force before.
        reply: oneshot::Sender<Option<Pause>>,
    },
    /// End a pause, a back-off, an open circuit; try now.
    Resume {
        /// Go on with this server, which is another one than before.
        server: Option<Answer>,
        /// Told what it ended, or why it may not be.
        reply: oneshot::Sender<Result<Resumed, Refused>>,
    },
    /// Approve what waits for a person, or refuse it.
    Decide {
        /// Its id, which holds the digest of what was shown.
        id: String,
        /// Approve.
        approve: bool,
        /// Told what was decided.
        reply: oneshot::Sender<Result<Decided, Refusal>>,
    },
    /// Empty the outbox now.
    Flush {
        /// Only what is at or below this path.
        path: Option<WsPath>,
        /// Give up after this.
        timeout: Duration,
        /// Told how it went.
        reply: oneshot::Sender<Flushed>,
    },
    /// A new credential was loaded.
    Credential,
    /// Stop sending new attempts after this one; the daemon stops.
    Drain {
        /// Give up after this.
        timeout: Duration,
        /// Told how it went.
        reply: oneshot::Sender<Flushed>,
    },
}

/// What a task gave.
enum Finished {
    Tasks(Vec<Task>),
    Probed(Result<Capabilities, RemoteError>),
    Listed(Option<EventId>, Missing, Result<(), RemoteError>),
    Reachable(bool),
    Newest(Result<Option<EventId>, RemoteError>),
    Sealed,
    Scanned,
}

/// The engine's task.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    feed: mpsc::Receiver<FeedItem>,
    feed_wake: Arc<Notify>,
    tasks: JoinSet<Finished>,
    waiters: Vec<Waiter>,
    listing: Listing,
    /// Listings that failed in a row.
    listing_failures: u32,
    reaching: bool,
    sealing: bool,
    /// What was last told about the way.
    told: &'static str,
    scanning: bool,
    next_reach: Duration,
    next_seal: Duration,
    next_housekeeping: Duration,
    next_room: Duration,
}

/// Whether the tree is being listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Listing {
    /// Up to date as far as the feed goes.
    Idle,
    /// To be listed, not before then.
    Wanted(Option<EventId>, Missing, Duration),
    /// Under way.
    Running,
}

impl Runner {
    /// Prepares the task and starts the feed. Must be called on the runtime.
    #[must_use]
    pub fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let feed_wake = Arc::new(Notify::new());
        let feed = start_feed(&shared, &feed_wake);
        // What a person asked for before the last end is still to be done.
        let listing = {
            let core = shared.core();
            let tail = core.cursor.clone().filter(|_| core.offer_again);
            tail.map_or(Listing::Idle, |tail| {
                Listing::Wanted(Some(tail.id), Missing::OfferAgain, Duration::ZERO)
            })
        };
        Self {
            shared,
            commands,
            feed,
            feed_wake,
            tasks: JoinSet::new(),
            waiters: Vec::new(),
            listing,
            listing_failures: 0,
            reaching: false,
            sealing: false,
            told: "online",
            scanning: false,
            next_reach: Duration::ZERO,
            next_seal: Duration::ZERO,
            next_housekeeping: Duration::ZERO,
            next_room: Duration::ZERO,
        }
    }

    /// Runs until the commands end.
    pub async fn run(mut self) {
        // What the server offers may have changed since it was last asked.
        self.shared.step(|core, _, _| core.ask_again = true);
        let mut deadline = self.turn();
        let mut planned = self.shared.now().mono;
        loop {
            let now = self.shared.now().mono;
            let nap = deadline.map(|at| at.saturating_sub(now));
            let listening = !matches!(self.listing, Listing::Running | Listing::Wanted(..));
            tokio::select! {
                () = self.shared.nudge.notified() => {
                    let paced = planned + PLAN_INTERVAL;
                    if self.shared.now().mono < paced {
                        deadline = Some(deadline.map_or(paced, |at| at.min(paced)));
                        continue;
                    }
                }
                Some(finished) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match finished {
                        Ok(finished) => self.finished(finished),
                        Err(error) => std::panic::resume_unwind(
                            error.try_into_panic().unwrap_or_else(|error| Box::new(error))
                        ),
                    }
                }
                Some(item) = self.feed.recv(), if listening => self.heard_in_a_row(item),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => {}
            }
            deadline = self.turn();
            planned = self.shared.now().mono;
        }
    }

    /// Plans, starts, and says when to look again.
    fn turn(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        let (plan, way, pause_ends) = self.shared.step(|core, now, changes| {
            if core.link.expire_pause(now.mono, now.wall) {
                core.set_pause(None, changes);
                tracing::info!("pause is over");
            }
            core.urgent = !self.waiters.is_empty();
            let plan = core.plan(now);
            (plan, core.link.way().clone(), core.link.pause_ends())
        });
        for task in plan.tasks {
            self.start(task);
        }
        let mut deadlines = vec![plan.deadline];
        // The date may come earlier, when the clock was set.
        deadlines.push(pause_ends.map(|ends| ends.min(now.mono + Duration::from_secs(60))));
        self.watch_link(&way, now.mono, &mut deadlines);
        self.list_again();
        if let Listing::Wanted(tail, missing, at) = self.listing.clone() {
            if now.mono >= at && self.shared.core().capabilities.is_some() {
                self.listing = Listing::Running;
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn(async move {
                    let result = shared.list_all(tail.clone(), missing).await;
                    Finished::Listed(tail, missing, result)
                });
            } else {
                deadlines.push(Some(at.max(now.mono + Duration::from_millis(50))));
            }
        }
        self.look_after_open_files(now.mono, &mut deadlines);
        self.keep_house(now.mono, &mut deadlines);
        self.serve_waiters(now.mono);
        deadlines.extend(self.waiters.iter().map(|waiter| Some(waiter.deadline)));
        deadlines.into_iter().flatten().min()
    }

    /// Wants a listing when the core asks for one.
    fn list_again(&mut self) {
        if self.listing != Listing::Idle || !self.shared.core().guards.list_again {
            return;
        }
        let tail = self.shared.step(|core, _, _| {
            core.guards.list_again = false;
            core.cursor.as_ref().map(|cursor| cursor.id.clone())
        });
        self.listing = Listing::Wanted(tail, Missing::Confirm, Duration::ZERO);
    }

    /// While no connection can be made, tries one now and then; tells the feed when it is back.
    fn watch_link(&mut self, way: &Way, now: Duration, deadlines: &mut Vec<Option<Duration>>) {
        let told = match way {
            Way::Online | Way::Unknown => "online",
            Way::Down(outage, _) => outage.word(),
        };
        if told != self.told {
            self.told = told;
            let detail = match way {
                Way::Down(_, trouble) => Some(trouble.message.clone()),
                Way::Online | Way::Unknown => {
                    self.feed_wake.notify_one();
                    None
                }
            };
            tracing::info!(state = told, detail, "link");
            self.notice_link(told, detail);
        }
        if let Way::Down(Outage::Offline | Outage::Open { .. }, trouble) = way
            && trouble.cause == Cause::NoConnection
            && !self.reaching
        {
            if now >= self.next_reach {
                self.reaching = true;
                self.next_reach = now + REACH_INTERVAL;
                let shared = Arc::clone(&self.shared);
                self.tasks
                    .spawn(async move { Finished::Reachable(shared.remote.reachable().await) });
            } else {
                deadlines.push(Some(self.next_reach));
            }
        }
    }

    fn look_after_open_files(&mut self, now: Duration, deadlines: &mut Vec<Option<Duration>>) {
        if self.sealing || self.shared.contents.open.is_empty() {
            return;
        }
        if now >= self.next_seal {
            self.sealing = true;
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn_blocking(move || {
                shared.seal_old();
                Finished::Sealed
            });
        } else {
            deadlines.push(Some(self.next_seal));
        }
    }

    fn keep_house(&mut self, now: Duration, deadlines: &mut Vec<Option<Duration>>) {
        if !self.shared.touched.load(Ordering::Relaxed) {
            return;
        }
        if now < self.next_housekeeping {
            deadlines.push(Some(self.next_housekeeping));
            return;
        }
        self.next_housekeeping = now + HOUSEKEEPING;
        self.shared.contents.empty_trash();
        if self.shared.contents.has_unscanned() && !self.scanning {
            self.scanning = true;
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn_blocking(move || {
                shared.scan_quiet();
                Finished::Scanned
            });
        }
        if now >= self.next_room {
            self.next_room = now + ROOM_INTERVAL;
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn_blocking(move || {
                let bytes_max = shared.core().settings.cache_bytes_max;
                shared.forget_old_conflicts();
                shared.make_room(bytes_max);
                Finished::Tasks(Vec::new())
            });
        }
        let quiet = {
            let core = self.shared.core();
            core.outbox.in_flight() == 0 && now >= core.outbox.last_change_at() + IDLE
        };
        if quiet {
            self.shared.touched.store(false, Ordering::Relaxed);
            self.shared.store.checkpoint();
        } else {
            deadlines.push(Some(self.next_housekeeping));
        }
    }

    fn start(&mut self, task: Task) {
        let shared = Arc::clone(&self.shared);
        match task {
            Task::Bulk(items) => {
                self.tasks.spawn(async move { Finished::Tasks(shared.send_bulk(items).await) })
            }
            Task::Single(item) => {
                self.tasks.spawn(async move { Finished::Tasks(shared.send_single(*item).await) })
            }
            Task::Settle { path, seq } => {
                self.tasks.spawn(async move { Finished::Tasks(shared.settle(path, seq).await) })
            }
            Task::Recheck(path) => {
                self.tasks.spawn(async move { Finished::Tasks(shared.recheck(path).await) })
            }
            Task::Fetch(ino) => self.tasks.spawn(async move {
                shared.fetch_for_others(ino).await;
                Finished::Tasks(Vec::new())
            }),
            Task::Probe => self
                .tasks
                .spawn(async move { Finished::Probed(shared.remote.capabilities().await) }),
        };
    }

    fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Tasks(tasks) => {
                for task in tasks {
                    self.start(task);
                }
            }
            Finished::Probed(result) => {
                self.shared.step(|core, now, changes| core.probed(&result, now, changes));
                // What was taken up, which is not what another server says.
                if let (Ok(_), Some(known)) = (&result, self.shared.core().capabilities) {
                    self.shared.remote.set_capabilities(known);
                }
            }
            Finished::Listed(_, policy, Ok(())) => {
                if policy == Missing::OfferAgain {
                    self.shared.step(|core, _, changes| core.set_offer_again(false, changes));
                }
                tracing::info!(entries = self.shared.core().tree.len(), "tree is up to date");
                self.listing = Listing::Idle;
                self.listing_failures = 0;
            }
            Finished::Listed(tail, missing, Err(error)) => {
                tracing::warn!(%error, "listing failed, trying again");
                self.listing_failures += 1;
                let failures = self.listing_failures;
                let retry = self.shared.step(|core, now, _| {
                    let jitter = core.jitter();
                    core.link.failed(&error, now.mono, now.wall, jitter);
                    core.note_error("LISTING", &error.to_string(), now.wall);
                    let floor = core.link.trouble().filter(|trouble| trouble.hinted);
                    let floor = floor.map(|trouble| trouble.next_try).unwrap_or_default();
                    floor.max(now.mono + backoff(failures, core.jitter()))
                });
                self.listing = Listing::Wanted(tail, missing, retry);
            }
            Finished::Reachable(yes) => {
                self.reaching = false;
                if yes {
                    let is_news =
                        self.shared.step(|core, now, _| core.link.wake(Wake::Connection, now.mono));
                    if !is_news {
                        return;
                    }
                    if let Listing::Wanted(.., at) = &mut self.listing {
                        *at = Duration::ZERO;
                    }
                    self.feed_wake.notify_one();
                } else {
                    self.shared.step(|core, _, _| core.link.no_connection());
                }
            }
            Finished::Newest(newest) => {
                // Where it cannot be asked the stream goes down as well, and comes back.
                if let Ok(newest) = newest {
                    self.shared.step(|core, _, changes| core.expect_echoes_until(newest, changes));
                }
            }
            Finished::Scanned => self.scanning = false,
            Finished::Sealed => {
                self.sealing = false;
                self.next_seal = self.shared.now().mono + SEAL_INTERVAL;
            }
        }
    }

    fn heard(&mut self, item: FeedItem) {
        match item {
            FeedItem::Live(mode) => {
                let stream = match mode {
                    FeedMode::WebSocket => Stream::WebSocket,
                    FeedMode::Polling => Stream::Polling,
                };
                let expects = self.shared.step(|core, now, _| {
                    core.stream = stream;
                    core.link.heard_from(now.mono);
                    core.expect_echoes()
                });
                if expects {
                    let shared = Arc::clone(&self.shared);
                    self.tasks
                        .spawn(async move { Finished::Newest(shared.remote.newest_event().await) });
                }
            }
            FeedItem::Down { reason } => {
                tracing::info!(%reason, "change stream is down");
                self.shared.step(|core, _, _| {
                    core.stream = Stream::Down(reason);
                    // The server may be gone, or be another one.
                    core.ask_again = true;
                });
            }
            FeedItem::Event(event) => self.event(event),
            FeedItem::Gap { tail } => {
                let offer = self.shared.core().offer_again;
                let policy = if offer { Missing::OfferAgain } else { Missing::Confirm };
                self.listing = Listing::Wanted(tail, policy, Duration::ZERO);
            }
            FeedItem::Reset { tail } => {
                self.shared.step(|core, _, changes| {
                    let why = "the server's history went back".to_owned();
                    core.suspect_reset(Some(why), changes);
                    core.link.doubt();
                    core.distrust_revisions(changes);
                });
                self.listing = Listing::Wanted(tail, Missing::Confirm, Duration::ZERO);
            }
        }
    }

    fn event(&self, event: RemoteEvent) {
        if let Some(change) = &event.change {
            self.shared.apply_event(change);
        }
        failpoint!("feed.applied");
        let cursor = Cursor { id: event.id, fingerprint: Some(event.fingerprint) };
        self.shared.step(|core, now, changes| {
            core.set_cursor(Some(cursor), changes);
            let lag = event.at.map(|at| now.wall.duration_since(at));
            let lag = lag.and_then(|lag| Duration::try_from(lag).ok()).unwrap_or_default();
            core.last_event = Some((now.wall, lag));
            core.judge_echoes(changes);
        });
        failpoint!("feed.cursor");
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Pause { pause, reply } => {
                let before =
                    self.shared.step(|core, _, changes| core.set_pause(Some(pause), changes));
                self.notice_link("paused", None);
                drop(reply.send(before));
            }
            Command::Resume { server, reply } => {
                let resumed =
                    self.shared.step(|core, now, changes| core.resume(server, now, changes));
                let resumed = match resumed {
                    Ok(resumed) => resumed,
                    Err(refused) => return drop(reply.send(Err(refused))),
                };
                if resumed.other_server {
                    self.take_to_the_other_server();
                }
                self.feed_wake.notify_one();
                self.notice_link("resumed", None);
                drop(reply.send(Ok(resumed)));
            }
            Command::Decide { id, approve, reply } => self.decide(&id, approve, reply),
            Command::Flush { path, timeout, reply } => self.wait_for_empty(path, timeout, reply),
            Command::Drain { timeout, reply } => {
                self.shared.step(|core, now, _| {
                    core.draining = true;
                    core.link.wake(Wake::Person, now.mono);
                });
                self.wait_for_empty(None, timeout, reply);
            }
            Command::Credential => {
                self.shared.step(|core, now, changes| {
                    core.link.wake(Wake::Credential, now.mono);
                    core.unpark(|code| code == "forbidden", changes);
                });
                if let Listing::Wanted(.., at) = &mut self.listing {
                    *at = Duration::ZERO;
                }
                self.feed_wake.notify_one();
            }
        }
    }

    fn decide(
        &mut self,
        id: &str,
        approve: bool,
        reply: oneshot::Sender<Result<Decided, Refusal>>,
    ) {
        let decided =
            self.shared.step(|core, now, changes| core.decide_approval(id, approve, now, changes));
        failpoint!("approve.decided");
        if let Ok(decided) = &decided {
            for path in &decided.remove {
                // What the stream still has to tell of them may be older.
                self.shared.missing(path);
            }
            if decided.offer_again {
                let tail = self.shared.core().cursor.clone().map(|cursor| cursor.id);
                self.listing = Listing::Wanted(tail, Missing::OfferAgain, Duration::ZERO);
            }
            let action = if approve { "approved" } else { "refused" };
            tracing::info!(id, action, "approval");
            self.notice(NoticeKind::Approval, action, Some(id.to_owned()));
        }
        // Told when it is safe against a crash.
        let told = Box::new(move |_committed| drop(reply.send(decided)));
        self.shared.store.commit(Vec::new(), told);
    }

    fn notice_link(&self, action: &str, detail: Option<String>) {
        self.notice(NoticeKind::Link, action, detail);
    }

    fn notice(&self, kind: NoticeKind, action: &str, detail: Option<String>) {
        let at = self.shared.clock.wall();
        self.shared.notice(Notice {
            kind,
            action: action.to_owned(),
            path: None,
            revision: None,
            detail,
            at,
        });
    }
}
