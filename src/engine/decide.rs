//! Deciding: which records would leave now, together, and why the others would not.
//!
//! Pure: looks at the core and changes nothing. [`Core::plan`] carries out what is decided here, and
//! [`Core::outlook`] tells people the same, record by record.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::core::{Core, Now};
use super::link::{Held, Permit};
use super::outbox::{Slot, Wait};
use crate::node::{Content, Ino};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState, SENT_MAX};
use crate::remote::{Capabilities, trimmed_by_bulk};

/// How many waiting records one look goes through: bounds the time under the lock.
const SCAN_MAX: usize = 8192;

/// Files from this size on travel by themselves where the server takes raw bodies.
const RAW_FROM: u64 = 256 << 10;

/// Most requests with one file in flight.
pub(super) const SINGLES_MAX: usize = 8;

/// Why a record is not sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Its file is open and changed.
    Open(Duration),
    /// An attempt was postponed.
    Again(Duration),
    /// Both sides changed, and the file must be closed before they can be told apart.
    Conflict(Duration),
    /// Something else has to be stored or removed first.
    After,
    /// The bytes it depends on must be fetched first.
    Needs(Ino),
    /// Deletes are frozen: the server's tree looks reset.
    Frozen,
    /// One of very many removals: a person has to approve them.
    Approval,
}

/// What keeps everything back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The daemon is stopping.
    Stopping,
    /// The server was not heard yet.
    Unheard,
    /// The link.
    Link(Held),
    /// The way is down, and one trial is under way.
    Trial,
}

/// What is to be done now, and when to look again at the latest.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// What keeps everything back, if anything does.
    pub(super) gate: Option<Gate>,
    /// The paths of each request with several records.
    pub(super) batches: Vec<Vec<WsPath>>,
    /// What is sent by itself.
    pub(super) singles: Vec<WsPath>,
    /// What the remote is asked about before it is sent again.
    pub(super) unsettled: Vec<WsPath>,
    /// Contents to be fetched because records wait for them.
    pub(super) fetches: BTreeSet<Ino>,
    /// Folder removals that let what follows them go first.
    pub(super) circles: Vec<WsPath>,
    /// Whether the server is to be asked how it is.
    pub(super) probe: bool,
    /// Whether paths may be looked at again.
    pub(super) rechecks: bool,
    /// Until when what is free to go waits for more; monotonic.
    pub(super) gathers_until: Option<Duration>,
    /// When to look again; monotonic.
    pub(super) deadline: Option<Duration>,
}

impl Decision {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.singles.is_empty() && self.unsettled.is_empty()
    }

    /// Leaves one request of all: the one that carries most.
    fn one_request(&mut self) {
        self.fetches.clear();
        self.batches.truncate(1);
        self.singles.truncate(usize::from(self.batches.is_empty()));
        self.unsettled.truncate(usize::from(self.batches.is_empty() && self.singles.is_empty()));
    }
}

/// What would become of a record now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It is sent.
    Send,
    /// The remote is asked which of its earlier sendings arrived.
    Settle,
    /// It waits for more to go with it, until then.
    Gathers(Duration),
    /// It waits for a request that is under way.
    Queued,
    /// It is held back by itself.
    Held(Hold),
    /// Nothing may leave.
    Gated(Gate),
    /// It comes after another record of its path.
    Follows,
    /// It is in a request, or being settled.
    InFlight,
    /// The remote refused it for good.
    Parked,
}

/// A request that is being filled.
#[derive(Default)]
struct Filling {
    batch: Vec<WsPath>,
    bytes: u64,
    singles: Vec<WsPath>,
    unsettled: Vec<WsPath>,
    /// Since when the oldest that is free to go waits; one that is held back must not hurry others.
    oldest: Option<Duration>,
}

impl Core {
    /// Decides what is to be done now.
    pub(super) fn decide(&self, now: Now) -> Decision {
        let mut decision = Decision::default();
        if self.halted {
            decision.gate = Some(Gate::Stopping);
            return decision;
        }
        let Some(capabilities) = self.capabilities else {
            decision.gate = Some(Gate::Unheard);
            self.ask(now, &mut decision);
            return decision;
        };
        let permit = self.link.permit(now.mono);
        if let Permit::Held(held) = permit {
            decision.gate = Some(Gate::Link(held));
        }
        if self.link.is_down() {
            self.decide_trial(capabilities, permit, now, &mut decision);
            return decision;
        }
        if self.ask_again {
            self.ask(now, &mut decision);
        }
        if decision.gate.is_none() {
            self.fill(capabilities, now, &mut decision);
        }
        decision.rechecks = true;
        decision
    }

    /// Whether a request is under way that tells about the link.
    pub(super) fn is_under_way(&self) -> bool {
        let requests = self.batches_in_flight + self.singles_in_flight;
        self.probing || requests > 0 || self.outbox.in_flight() > 0
    }

    /// While the way is down one request goes ahead when its time has come; the rest follows when it
    /// got through. A change tells more than a question: a server that answers may still take
    /// no changes.
    fn decide_trial(
        &self,
        capabilities: Capabilities,
        permit: Permit,
        now: Now,
        decision: &mut Decision,
    ) {
        if self.is_under_way() {
            decision.gate.get_or_insert(Gate::Trial);
            return;
        }
        match permit {
            Permit::Free | Permit::Trial => {
                self.fill(capabilities, now, decision);
                decision.one_request();
                let gathers = decision.gathers_until.is_some() || !decision.circles.is_empty();
                if decision.is_empty() && !gathers {
                    self.ask(now, decision);
                }
            }
            // Nothing may be sent that could tell; the way is to be found good all the same.
            Permit::Held(Held::Paused | Held::Doubted | Held::Stranger) => self.ask(now, decision),
            Permit::Held(_) => decision.deadline = self.link.next_try(),
        }
    }

    /// Has the server asked how it is, as soon as that may be.
    fn ask(&self, now: Now, decision: &mut Decision) {
        if self.probing {
            return;
        }
        decision.probe = self.link.may_try(now.mono);
        if !decision.probe {
            decision.deadline = earlier(decision.deadline, self.link.next_try());
        }
    }

    /// Fills requests with what is free to go.
    fn fill(&self, capabilities: Capabilities, now: Now, decision: &mut Decision) {
        let hurry = self.urgent || self.draining;
        let trial = self.link.is_down();
        let free_singles = SINGLES_MAX.saturating_sub(self.singles_in_flight);
        let files_max = self.batch_limit();
        let (debounce, max_delay) = (self.settings.debounce, self.settings.max_delay);
        let burst = self.outbox.burst().waits_until(now.mono, debounce, max_delay);
        if let Some(until) = burst.filter(|_| !hurry && !trial) {
            decision.gathers_until = Some(until);
            decision.deadline = earlier(decision.deadline, Some(until));
            return;
        }
        let mut filling = Filling::default();
        let mut left_behind: Option<Duration> = None;
        let mut looked = 0;
        for slot in self.outbox.waiting() {
            let record = &slot.record;
            if !self.is_free(slot, hurry, now, decision) {
                // Frozen removals may be very many, and what comes after them must not wait.
                looked += usize::from(self.reset_suspected.is_none());
                if looked > SCAN_MAX {
                    break;
                }
                continue;
            }
            looked += 1;
            if looked > SCAN_MAX {
                break;
            }
            // One more would push out the digest of what may have arrived, and that would then be
            // taken for somebody else's.
            let alone = if record.sent.len() >= SENT_MAX || self.may_have_moved(slot) {
                Some((&decision.unsettled, &mut filling.unsettled))
            } else if self.travels_alone(record, capabilities) {
                Some((&decision.singles, &mut filling.singles))
            } else {
                None
            };
            if let Some((chosen, filling_list)) = alone {
                if chosen.len() + filling_list.len() < free_singles {
                    filling_list.push(record.path.clone());
                    filling.oldest = earlier(filling.oldest, Some(slot.first_at));
                } else {
                    left_behind = earlier(left_behind, Some(slot.first_at));
                }
                continue;
            }
            let bytes = estimate(record);
            if !filling.batch.is_empty()
                && filling.bytes.saturating_add(bytes) > self.body_bytes
                && (!self.close_full(&mut filling, decision) || trial)
            {
                return;
            }
            filling.oldest = earlier(filling.oldest, Some(slot.first_at));
            filling.bytes = filling.bytes.saturating_add(bytes);
            filling.batch.push(record.path.clone());
            if filling.batch.len() >= files_max
                && (!self.close_full(&mut filling, decision) || trial)
            {
                return;
            }
        }
        let Some(oldest) = earlier(filling.oldest, left_behind) else { return };
        let settings = &self.settings;
        let due_at =
            (self.outbox.last_change_at() + settings.debounce).min(oldest + settings.max_delay);
        if !hurry && now.mono < due_at {
            decision.gathers_until = Some(due_at);
            decision.deadline = earlier(decision.deadline, Some(due_at));
            return;
        }
        decision.singles.append(&mut filling.singles);
        decision.unsettled.append(&mut filling.unsettled);
        // While a request is under way, new records gather; only a full batch goes beside it.
        if !filling.batch.is_empty() && self.batches_in_flight + decision.batches.len() == 0 {
            decision.batches.push(filling.batch);
        }
    }

    /// Closes a request that takes no more, with what goes beside it. Returns whether it may go.
    fn close_full(&self, filling: &mut Filling, decision: &mut Decision) -> bool {
        let mut full = std::mem::take(filling);
        decision.singles.append(&mut full.singles);
        decision.unsettled.append(&mut full.unsettled);
        let under_way = self.batches_in_flight + decision.batches.len();
        let may_go = under_way == 0 || under_way < self.settings.in_flight_max;
        if may_go {
            decision.batches.push(full.batch);
        }
        may_go
    }

    /// Whether nothing holds the record back; notes what is to be done about what does.
    fn is_free(&self, slot: &Slot, hurry: bool, now: Now, decision: &mut Decision) -> bool {
        match self.hold_of(slot, now.mono) {
            None => return true,
            // What is held is looked at again when the first hold ends.
            Some(Hold::Open(until) | Hold::Again(until) | Hold::Conflict(until)) => {
                if hurry {
                    return true;
                }
                decision.deadline = earlier(decision.deadline, Some(until));
            }
            Some(Hold::Needs(ino)) => match self.fetches_planned.get(&ino) {
                Some(again) if *again > now.mono => {
                    decision.deadline = earlier(decision.deadline, Some(*again));
                }
                _ => drop(decision.fetches.insert(ino)),
            },
            Some(Hold::After | Hold::Frozen) => {
                if self.is_in_a_circle(&slot.record) {
                    decision.circles.push(slot.record.path.clone());
                    decision.deadline = earlier(decision.deadline, Some(now.mono));
                }
            }
            Some(Hold::Approval) => {}
        }
        false
    }

    /// Tells what would become of every record now, by path.
    #[must_use]
    pub fn outlook(&self, now: Now) -> Vec<(&Record, Outlook)> {
        let decision = self.decide(now);
        let sent: HashSet<&WsPath> =
            decision.batches.iter().flatten().chain(&decision.singles).collect();
        let settled: HashSet<&WsPath> = decision.unsettled.iter().collect();
        let hurry = self.urgent || self.draining;
        let waiting = |slot: &Slot| match self.hold_of(slot, now.mono) {
            _ if sent.contains(&slot.record.path) => Outlook::Send,
            _ if settled.contains(&slot.record.path) => Outlook::Settle,
            Some(hold @ (Hold::Approval | Hold::Frozen)) => Outlook::Held(hold),
            hold => match (decision.gate, hold, decision.gathers_until) {
                (Some(gate), _, _) => Outlook::Gated(gate),
                (None, Some(Hold::Open(_) | Hold::Again(_) | Hold::Conflict(_)), _) if hurry => {
                    Outlook::Queued
                }
                (None, Some(hold), _) => Outlook::Held(hold),
                (None, None, Some(until)) => Outlook::Gathers(until),
                (None, None, None) => Outlook::Queued,
            },
        };
        let of_lane = |lane: &super::outbox::Lane| match lane.current.record.state {
            RecordState::Waiting => waiting(&lane.current),
            RecordState::Flight => Outlook::InFlight,
            RecordState::Parked { .. } => Outlook::Parked,
        };
        let mut all = Vec::with_capacity(self.outbox.len());
        for (_, lane) in self.outbox.lanes() {
            all.push((&lane.current.record, of_lane(lane)));
            all.extend(lane.after.iter().map(|slot| (&slot.record, Outlook::Follows)));
        }
        all
    }

    /// Why the record is not to be sent now; `None` when it is free to go.
    #[must_use]
    pub fn hold_of(&self, slot: &Slot, now: Duration) -> Option<Hold> {
        let record = &slot.record;
        if record.needs_approval {
            return Some(Hold::Approval);
        }
        if let Some(until) = slot.held_until.filter(|until| *until > now) {
            return Some(match slot.held_for {
                Wait::Open => Hold::Open(until),
                Wait::Again => Hold::Again(until),
                Wait::Conflict => Hold::Conflict(until),
            });
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
        // Nearly always; it spares a backlog of new files the search for what stands in their way.
        if self.outbox.removals() == 0 {
            return false;
        }
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

    /// Whether the remote may have moved the file already, so that asking it spares sending the bytes.
    fn may_have_moved(&self, slot: &Slot) -> bool {
        let record = &slot.record;
        if record.op != Op::Put || record.attempts == 0 || slot.asked {
            return false;
        }
        let moved = record.ino.and_then(|ino| self.origin_digest(ino));
        moved.is_some() && record.sent.last() == moved.as_ref()
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
}

pub(super) fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Encoded bytes of a record inside a bulk body, with room for base64 and escapes. The exact
/// length is checked when the body is built.
fn estimate(record: &Record) -> u64 {
    let path = 2 * record.path.as_str().len() as u64;
    let body = if record.op == Op::Put { record.size.saturating_add(record.size / 3) } else { 0 };
    body.saturating_add(path + 512)
}

#[cfg(test)]
pub(super) mod tests;
