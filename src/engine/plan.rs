//! Planning: what was decided is handed out, and when to look again.
//!
//! Marks what it hands out as in flight; what that is, [`super::decide`] says. Pure.

use std::time::Duration;

use super::core::{Changes, Core, Now};
use super::decide::{SINGLES_MAX, earlier};
use super::outbox::Slot;
use super::replies::error_code;
use crate::node::{BlobId, Content, FileId, Ino, Kind};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState, Seq};
use crate::remote::{Capabilities, Metadata, RemoteError};
use crate::revision::{Base, Precondition, precondition};

/// A content that others wait for is fetched at most once in this time.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

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
    /// Nowhere: they were damaged.
    Damaged,
}

/// What to do now and when to plan again at the latest.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to do.
    pub tasks: Vec<Task>,
    /// When to plan again; monotonic.
    pub deadline: Option<Duration>,
}

impl Core {
    /// Carries out what `Core::decide` says: marks it as in flight, and describes it.
    pub fn plan(&mut self, now: Now) -> Plan {
        if !self.is_under_way() {
            self.link.nothing_under_way(now.mono);
        }
        let decision = self.decide(now);
        let mut plan = Plan { tasks: Vec::new(), deadline: decision.deadline };
        if decision.probe {
            self.probing = true;
            self.ask_again = false;
            plan.tasks.push(Task::Probe);
        }
        for ino in decision.fetches {
            self.fetches_planned.insert(ino, now.mono + FETCH_AGAIN);
            plan.tasks.push(Task::Fetch(ino));
        }
        for path in &decision.circles {
            self.outbox.let_pass(path);
        }
        let Some(capabilities) = self.capabilities else {
            self.begin_trial(&plan);
            return plan;
        };
        plan.tasks.extend(decision.unsettled.iter().filter_map(|p| self.hand_out_to_settle(p)));
        for path in &decision.singles {
            if let Some(item) = self.hand_out(path, capabilities) {
                self.singles_in_flight += 1;
                plan.tasks.push(Task::Single(Box::new(item)));
            }
        }
        for batch in &decision.batches {
            let items: Vec<Item> =
                batch.iter().filter_map(|path| self.hand_out(path, capabilities)).collect();
            if !items.is_empty() {
                self.batches_in_flight += 1;
                plan.tasks.push(Task::Bulk(items));
            }
        }
        self.begin_trial(&plan);
        if decision.rechecks {
            self.plan_rechecks(now, &mut plan);
        }
        plan
    }

    /// While the way is down, what goes out finds out whether it still is.
    fn begin_trial(&mut self, plan: &Plan) {
        if !plan.tasks.is_empty() {
            self.link.trial();
        }
    }

    /// The server was asked what it offers.
    pub fn probed(
        &mut self,
        result: &Result<Capabilities, RemoteError>,
        now: Now,
        changes: &mut Changes,
    ) {
        self.probing = false;
        match result {
            Ok(capabilities) => {
                let known = self.capabilities.and_then(|known| known.server);
                if known.is_some() && known != capabilities.server {
                    let jitter = self.jitter();
                    self.link.other_server(capabilities.server, now.mono, now.wall, jitter);
                    self.ask_again = true;
                    return;
                }
                self.link.recognised();
                self.set_capabilities(*capabilities, changes);
            }
            Err(error) => {
                self.ask_again = true;
                let jitter = self.jitter();
                self.link.failed(error, now.mono, now.wall, jitter);
                self.note_error(error_code(error), &error.to_string(), now.wall);
            }
        }
    }

    /// The old name of an unchanged renamed file that the server can move by itself.
    pub(super) fn movable(
        &self,
        record: &Record,
        capabilities: Capabilities,
    ) -> Option<(WsPath, Precondition)> {
        if !capabilities.bulk_move || record.attempts > 0 {
            return None;
        }
        let origin = self.tree.get(record.ino?)?.origin.as_ref()?.path.clone();
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
                (None, Content::Damaged) => ItemSource::Damaged,
            },
            (Op::Put, None | Some(Kind::Dir { .. } | Kind::Special { .. })) => {
                record.blob.map_or(ItemSource::Damaged, ItemSource::Blob)
            }
            _ => ItemSource::Nothing,
        };
        let metadata = node.map_or_else(Metadata::default, |node| Metadata {
            mode: Some(node.mode),
            mtime: (!node.is_dir()).then_some(node.mtime),
            symlink: match &node.kind {
                Kind::Symlink { target } => Some(target.to_string()),
                Kind::File(_) | Kind::Dir { .. } | Kind::Special { .. } => None,
            },
        });
        let mark = |slot: &mut Slot| {
            slot.record.state = RecordState::Flight;
            slot.record.attempts += 1;
            slot.asked = false;
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
            .filter(|path| !self.is_pending(path) && !self.rechecks_in_flight.contains_key(*path))
            .filter(|path| !self.rechecks_postponed.contains_key(*path))
            .take(free)
            .cloned()
            .collect();
        for path in quiet {
            self.rechecks_in_flight.insert(path.clone(), None);
            plan.tasks.push(Task::Recheck(path));
        }
    }
}

#[cfg(test)]
mod backlog;
#[cfg(test)]
mod tests;
