//! Planning: which records are sent now, together, and when to look again.
//!
//! Pure: reads the core, marks what it hands out as in flight. The same decision tells people why
//! a record is held ([`Core::hold_of`]).

use std::time::Duration;

use super::core::{Core, Now};
use super::outbox::Slot;
use crate::node::{BlobId, Content, FileId, Ino, Kind};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState, SENT_MAX, Seq};
use crate::remote::{Capabilities, Metadata, trimmed_by_bulk};
use crate::revision::{Base, Precondition, precondition};

/// How many waiting records one round looks at: bounds the time under the lock.
const SCAN_MAX: usize = 8192;

/// Files from this size on travel by themselves where the server takes raw bodies.
const RAW_FROM: u64 = 256 << 10;

/// A content that others wait for is fetched at most once in this time.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

/// Most requests with one file in flight.
const SINGLES_MAX: usize = 8;

/// Something to be done outside the lock.
#[derive(Debug, Clone)]
pub enum Task {
    /// Send these together.
    Bulk(Vec<Item>),
    /// Send this one by itself.
    Single(Box<Item>),
    /// Read the path's remote state and decide over its record.
    Settle {
        /// The path.
        path: WsPath,
        /// Its record.
        seq: Seq,
    },
    /// Fetch the content of a node: what waits for it may otherwise lose it.
    Fetch(Ino),
    /// Read the remote state of a path that is quiet now.
    Recheck(WsPath),
    /// Find out whether the server is back.
    Probe,
}

/// One record to be sent.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its number.
    pub seq: Seq,
    /// Its path.
    pub path: WsPath,
    /// What to do.
    pub op: Op,
    /// The condition.
    pub precondition: Precondition,
    /// Where the bytes are.
    pub source: ItemSource,
    /// How many.
    pub size: u64,
    /// What goes with it.
    pub metadata: Metadata,
    /// The node.
    pub ino: Option<Ino>,
    /// The record as it is sent.
    pub record: Record,
    /// Moved on the server instead of sent again: the old name and its condition.
    pub moved_from: Option<(WsPath, Precondition)>,
}

/// Where the bytes of an item are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemSource {
    /// There are none.
    Nothing,
    /// In the store.
    Blob(BlobId),
    /// In a working file.
    File(FileId),
    /// The target of a symbolic link.
    Text(String),
    /// Still only at the remote, under this node's old name: fetch first.
    Remote(Ino),
}

/// What to do now and when to plan again at the latest.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to do.
    pub tasks: Vec<Task>,
    /// When to plan again; monotonic.
    pub deadline: Option<Duration>,
}

/// Why a record is not sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Its file is open and changed, or an attempt was postponed.
    Open(Duration),
    /// Something else has to be stored or removed first.
    After,
    /// The bytes it depends on must be fetched first.
    Needs(Ino),
    /// Deletes are frozen: the server's tree looks reset.
    Frozen,
}

impl Core {
    /// Decides what to send now.
    pub fn plan(&mut self, now: Now) -> Plan {
        let mut plan = Plan::default();
        if self.halted {
            return plan;
        }
        let Some(capabilities) = self.capabilities else {
            self.plan_probe(now, &mut plan);
            plan.deadline = self.link.next_try();
            return plan;
        };
        if self.link.is_down() && self.outbox.waiting().next().is_none() {
            self.plan_probe(now, &mut plan);
            plan.deadline = self.link.next_try();
            return plan;
        }
        if !self.link.may_send(now.mono) {
            plan.deadline = self.link.next_try().filter(|_| self.link.pause().is_none());
            return plan;
        }
        loop {
            // While the way is down one trial goes ahead; the rest follows when it got through.
            let trial = self.link.is_down();
            if trial && self.batches_in_flight + self.singles_in_flight > 0 {
                break;
            }
            let round = self.round(capabilities, now, &mut plan);
            if !round || trial {
                break;
            }
        }
        if !self.link.is_down() {
            self.plan_rechecks(now, &mut plan);
        }
        plan
    }

    fn plan_probe(&mut self, now: Now, plan: &mut Plan) {
        if self.link.may_try(now.mono) && !self.probing {
            self.probing = true;
            plan.tasks.push(Task::Probe);
        }
    }

    /// Plans at most one bulk request and some single ones. Returns whether there may be more.
    fn round(&mut self, capabilities: Capabilities, now: Now, plan: &mut Plan) -> bool {
        let hurry = self.urgent || self.draining;
        // The oldest that is free to go; one that is held back must not hurry the others.
        let mut oldest: Option<Duration> = None;
        let mut batch: Vec<(WsPath, u64)> = Vec::new();
        let mut batch_bytes = 0;
        let mut full = false;
        let mut singles = Vec::new();
        let mut fetches = Vec::new();
        let mut unsettled = Vec::new();
        let mut circles = Vec::new();
        let mut wake_at: Option<Duration> = None;
        let free_singles = SINGLES_MAX.saturating_sub(self.singles_in_flight);
        let files_max = self.batch_limit();
        for slot in self.outbox.waiting().take(SCAN_MAX) {
            match self.hold_of(slot, now.mono) {
                None => {}
                Some(Hold::Open(until)) if !hurry => {
                    wake_at = earlier(wake_at, Some(until));
                    continue;
                }
                Some(Hold::Open(_)) => {}
                Some(Hold::Needs(ino)) => {
                    match self.fetches_planned.get(&ino) {
                        Some(again) if *again > now.mono => {
                            wake_at = earlier(wake_at, Some(*again));
                        }
                        _ => fetches.push(ino),
                    }
                    continue;
                }
                Some(Hold::After | Hold::Frozen) => {
                    if self.is_in_a_circle(&slot.record) {
                        circles.push(slot.record.path.clone());
                    }
                    continue;
                }
            }
            oldest = earlier(oldest, Some(slot.first_at));
            let record = &slot.record;
            // One more would push out the digest of what may have arrived, and that would then be
            // taken for somebody else's.
            if record.sent.len() >= SENT_MAX {
                if unsettled.len() < free_singles {
                    unsettled.push(record.path.clone());
                }
                continue;
            }
            if self.travels_alone(record, capabilities) {
                if singles.len() < free_singles {
                    singles.push(record.path.clone());
                }
                continue;
            }
            let bytes = estimate(record);
            if !batch.is_empty() && (batch_bytes + bytes > self.body_bytes) {
                full = true;
                break;
            }
            batch_bytes += bytes;
            batch.push((record.path.clone(), bytes));
            if batch.len() >= files_max {
                full = true;
                break;
            }
        }
        // What is held is looked at again when the first hold ends.
        plan.deadline = earlier(plan.deadline, wake_at);
        for ino in fetches {
            self.fetches_planned.insert(ino, now.mono + FETCH_AGAIN);
            plan.tasks.push(Task::Fetch(ino));
        }
        for path in &circles {
            self.outbox.let_pass(path);
            plan.deadline = earlier(plan.deadline, Some(now.mono));
        }
        let Some(oldest) = oldest else { return false };
        let settings = &self.settings;
        let due_at =
            (self.outbox.last_change_at() + settings.debounce).min(oldest + settings.max_delay);
        if !hurry && !full && now.mono < due_at {
            plan.deadline = earlier(plan.deadline, Some(due_at));
            return false;
        }
        plan.tasks.extend(unsettled.iter().filter_map(|path| self.hand_out_to_settle(path)));
        for path in singles {
            if let Some(item) = self.hand_out(&path, capabilities) {
                self.singles_in_flight += 1;
                plan.tasks.push(Task::Single(Box::new(item)));
            }
        }
        // While a request is under way, new records gather; only a full batch goes beside it.
        let may_send = self.batches_in_flight == 0
            || (full && self.batches_in_flight < self.settings.in_flight_max);
        if batch.is_empty() || !may_send {
            return false;
        }
        let items: Vec<Item> =
            batch.iter().filter_map(|(path, _)| self.hand_out(path, capabilities)).collect();
        if items.is_empty() {
            return false;
        }
        self.batches_in_flight += 1;
        plan.tasks.push(Task::Bulk(items));
        full
    }

    /// Why the record is not to be sent now; `None` when it is free to go.
    #[must_use]
    pub fn hold_of(&self, slot: &Slot, now: Duration) -> Option<Hold> {
        let record = &slot.record;
        if let Some(until) = slot.held_until.filter(|until| *until > now) {
            return Some(Hold::Open(until));
        }
        if self.reset_suspected.is_some() && matches!(record.op, Op::Delete | Op::RemoveDir) {
            return Some(Hold::Frozen);
        }
        if let Some(moved_to) = record.moved_to
            && self.outbox.has_put(moved_to)
        {
            if matches!(record.op, Op::Delete | Op::RemoveDir) {
                return Some(Hold::After);
            }
            // The old name is stored anew: the bytes that it has there must be here first.
            let body = self.tree.get(moved_to).and_then(|node| node.body());
            if body.is_some_and(|body| body.content == Content::Remote) {
                return Some(Hold::Needs(moved_to));
            }
        }
        match record.op {
            Op::RemoveDir => self.outbox.below(&record.path).next().map(|_| Hold::After),
            Op::Put | Op::MakeDir => self.blocked_by_kind(record).then_some(Hold::After),
            Op::Delete | Op::Meta => None,
        }
    }

    /// Whether a folder's removal waits for a file to leave it that is to take the folder's name,
    /// as `mv d/d x && rmdir d && mv x d` makes it: then the file goes first.
    fn is_in_a_circle(&self, record: &Record) -> bool {
        if record.op != Op::RemoveDir {
            return false;
        }
        let Some(lane) = self.outbox.lane(&record.path) else { return false };
        let follower = lane.after.front().filter(|slot| slot.record.op == Op::Put);
        follower.is_some_and(|slot| {
            let waits = |other: &Record| other.moved_to == slot.record.ino;
            self.outbox.below(&record.path).any(|(_, lane)| waits(&lane.current.record))
        })
    }

    /// Whether a file that is to go stands in the way of this one: above it, or below it where it
    /// was a folder. A removal that itself waits for something to be stored does not count: names
    /// may change places in circles, and servers bear a file and a folder of one name for a while.
    fn blocked_by_kind(&self, record: &Record) -> bool {
        let blocks = |other: &Record| {
            let waits = other.moved_to.is_some_and(|moved_to| self.outbox.has_put(moved_to));
            other.op == Op::Delete && !waits
        };
        let mut above = record.path.parent();
        while let Some(path) = above {
            if self.outbox.lane(&path).is_some_and(|lane| blocks(&lane.current.record)) {
                return true;
            }
            above = path.parent();
        }
        record.op == Op::Put
            && self.outbox.below(&record.path).any(|(_, lane)| blocks(&lane.current.record))
    }

    fn travels_alone(&self, record: &Record, capabilities: Capabilities) -> bool {
        match record.op {
            Op::Put => {
                let trimmed = trimmed_by_bulk(&record.path, capabilities);
                let moves = self.movable(record, capabilities).is_some();
                trimmed
                    || (!moves && record.size > self.body_bytes / 2)
                    || (!moves && capabilities.raw && record.size >= RAW_FROM)
            }
            Op::Delete => !capabilities.bulk_delete,
            Op::Meta | Op::MakeDir | Op::RemoveDir => false,
        }
    }

    /// The old name of an unchanged renamed file that the server can move by itself.
    fn movable(
        &self,
        record: &Record,
        capabilities: Capabilities,
    ) -> Option<(WsPath, Precondition)> {
        if !capabilities.bulk_move || record.attempts > 0 {
            return None;
        }
        let origin = self.tree.get(record.ino?)?.origin.clone()?;
        let lane = self.outbox.lane(&origin)?;
        let old = &lane.current.record;
        let free = old.op == Op::Delete
            && old.moved_to == record.ino
            && old.state == RecordState::Waiting
            && old.sent.is_empty()
            && lane.after.is_empty()
            && self.reset_suspected.is_none();
        let Some(Base::Revision(revision)) = old.known_base().filter(|_| free) else { return None };
        Some((origin, Precondition::Match(revision.clone())))
    }

    /// Marks the current record of a path as being settled.
    fn hand_out_to_settle(&mut self, path: &WsPath) -> Option<Task> {
        let seq = self.outbox.lane(path)?.current.record.seq;
        self.outbox.mark(path, |slot| slot.record.state = RecordState::Flight);
        Some(Task::Settle { path: path.clone(), seq })
    }

    /// Marks the current record of a path as in flight and describes it for the request.
    fn hand_out(&mut self, path: &WsPath, capabilities: Capabilities) -> Option<Item> {
        let lane = self.outbox.lane(path)?;
        let record = lane.current.record.clone();
        let base = record.known_base()?;
        // A base that gives no condition here is never sent: absent is refused when something is
        // there, and then the remote's state is read.
        let precondition =
            precondition(base, capabilities.unmodified_since).unwrap_or(Precondition::Absent);
        let moved_from = self.movable(&record, capabilities);
        let node = record.ino.and_then(|ino| self.tree.get(ino));
        let source = match (record.op, node.map(|node| &node.kind)) {
            (Op::Put, Some(Kind::Symlink { target })) => ItemSource::Text(target.to_string()),
            (Op::Put, Some(Kind::File(body))) => match (record.blob, body.content) {
                (Some(blob), _) => ItemSource::Blob(blob),
                (None, Content::File(file)) => ItemSource::File(file),
                // A renamed file whose bytes were fetched since.
                (None, Content::Blob(blob)) => ItemSource::Blob(blob),
                (None, Content::Remote) => ItemSource::Remote(node.map(|node| node.ino)?),
                (None, Content::Empty) => ItemSource::Nothing,
            },
            _ => ItemSource::Nothing,
        };
        let metadata = node.map_or_else(Metadata::default, |node| Metadata {
            mode: Some(node.mode),
            mtime: (!node.is_dir()).then_some(node.mtime),
            symlink: match &node.kind {
                Kind::Symlink { target } => Some(target.to_string()),
                Kind::File(_) | Kind::Dir { .. } => None,
            },
        });
        let mark = |slot: &mut Slot| {
            slot.record.state = RecordState::Flight;
            slot.record.attempts += 1;
            slot.held_until = None;
        };
        self.outbox.mark(path, |slot| {
            mark(slot);
            // What was fetched since it was recorded must stay until this request is over.
            if let ItemSource::Blob(blob) = source {
                slot.record.blob = Some(blob);
            }
        });
        if let Some((origin, _)) = &moved_from {
            self.outbox.mark(origin, mark);
        }
        let (seq, op, size, ino) = (record.seq, record.op, record.size, record.ino);
        let path = path.clone();
        Some(Item { seq, path, op, precondition, source, size, metadata, ino, record, moved_from })
    }

    /// Hands out reads of paths that were busy when the remote changed them, a few at a time.
    fn plan_rechecks(&mut self, now: Now, plan: &mut Plan) {
        if self.rechecks_in_flight.len() >= SINGLES_MAX {
            return;
        }
        let free = SINGLES_MAX - self.rechecks_in_flight.len();
        self.rechecks_postponed.retain(|_, again| *again > now.mono);
        let again = self.rechecks_postponed.values().min().copied();
        plan.deadline = earlier(plan.deadline, again);
        let quiet: Vec<WsPath> = self
            .recheck
            .iter()
            .filter(|path| !self.is_pending(path) && !self.rechecks_in_flight.contains(*path))
            .filter(|path| !self.rechecks_postponed.contains_key(*path))
            .take(free)
            .cloned()
            .collect();
        for path in quiet {
            self.rechecks_in_flight.insert(path.clone());
            plan.tasks.push(Task::Recheck(path));
        }
    }
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Encoded bytes of a record inside a bulk body, with room for base64 and escapes. The exact
/// length is checked when the body is built.
fn estimate(record: &Record) -> u64 {
    let path = 2 * record.path.as_str().len() as u64;
    let body = if record.op == Op::Put { record.size + record.size / 3 } else { 0 };
    path + body + 512
}

#[cfg(test)]
mod tests;
