//! The outbox in memory: what waits for the remote, one lane per path.
//!
//! Owns all records. Invariants: a lane has one current record and, only where that one is in
//! flight or of another kind, others that follow it; a record in flight is never changed; changes of
//! one path that were never sent coalesce to the newest content on the oldest base; a change and
//! its undoing leave nothing. Every change of a record comes with the row that persists it. Pure:
//! `now` is an argument.

mod approval;
mod burst;
mod changes;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use jiff::Timestamp;

use self::changes::{RecordBaseFrom, coalesce, coalesces, is_void, merged_op, new_slot, turned};
use crate::node::{BlobId, Ino};
use crate::path::WsPath;
use crate::record::{BaseContent, Op, Record, RecordBase, RecordState, Seq};
use crate::revision::{Base, Revision};
use crate::store::Row;

/// What a record waits for until a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For its file to be closed.
    Open,
    /// For another attempt.
    Again,
    /// For its file to be closed, before both sides of a conflict are kept.
    Conflict,
}

/// A record and its timing, which starts anew with the process.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The record.
    pub record: Record,
    /// When its path first changed; monotonic.
    pub first_at: Duration,
    /// When its path last changed; monotonic.
    pub changed_at: Duration,
    /// It is not sent before this: the file is open and changed, or an attempt was postponed.
    pub held_until: Option<Duration>,
    /// What for.
    pub held_for: Wait,
    /// How often in a row it was refused although the remote is what it was made against.
    pub refusals: u32,
    /// Whether the bytes last sent are still the ones to send. Not known after a restart.
    pub sent_is_newest: bool,
    /// Whether the remote was asked what it has since the last sending.
    pub asked: bool,
}

/// An event about a path while a record of it is in flight: its echo, or news.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The revision that it told of.
    pub revision: Revision,
    /// Whether it told of other bytes than were sent.
    pub other_bytes: bool,
}

/// What waits on one path.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The record that is next to be sent, in flight, or parked.
    pub current: Slot,
    /// Changes that came while what was before them could not take them up, in order.
    pub after: VecDeque<Slot>,
    /// The last event heard about this path while `current` was in flight: its echo, or news.
    pub heard: Option<Heard>,
}

impl Lane {
    fn of(current: Slot) -> Self {
        Self { current, after: VecDeque::new(), heard: None }
    }

    /// Adds what comes after everything else.
    fn follow(&mut self, slot: Slot, rows: &mut Vec<Row>) {
        rows.push(Row::PutRecord(Box::new(slot.record.clone())));
        self.after.push_back(slot);
    }

    /// What is wrong with the lane between two steps, if anything.
    #[must_use]
    pub fn flaw(&self) -> Option<&'static str> {
        let mut before = &self.current.record;
        for Slot { record, .. } in &self.after {
            let joins = coalesces(before.op, record.op) && before.state != RecordState::Flight;
            if record.state != RecordState::Waiting {
                return Some("a record that follows another does not wait");
            } else if joins {
                return Some("a record follows one that could have taken it up");
            }
            before = record;
        }
        self.current.record.known_base().is_none().then_some("nothing leads to the current record")
    }

    /// Whether a later change is about the same thing as the current record; what is of another kind
    /// only has its turn after it.
    #[must_use]
    pub fn has_newer(&self) -> bool {
        self.after.iter().any(|slot| coalesces(self.current.record.op, slot.record.op))
    }

    /// Takes the next change that the current record can take up.
    fn take_joining(&mut self) -> Option<Slot> {
        let op = self.current.record.op;
        // A file that goes before a folder's removal does so with all its changes. What is removed
        // makes room for what follows it, and has its place before that.
        let among = if matches!(op, Op::Put | Op::Meta) { self.after.len() } else { 1 };
        let at = self.after.iter().take(among).position(|slot| coalesces(op, slot.record.op))?;
        self.after.remove(at)
    }

    /// The records of the lane, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        std::iter::once(&self.current.record).chain(self.after.iter().map(|slot| &slot.record))
    }
}

/// A change of one path, to be recorded.
#[derive(Debug, Clone)]
pub struct Change {
    /// The path.
    pub path: WsPath,
    /// What to do.
    pub op: Op,
    /// The node, for anything but removals.
    pub ino: Option<Ino>,
    /// What it was made against, if no record of the path says so already.
    pub base: Base,
    /// The bytes it was made against, if they are kept.
    pub base_content: Option<BaseContent>,
    /// For the old name of a renamed file: the node to be stored first.
    pub moved_to: Option<Ino>,
    /// The small content to send.
    pub blob: Option<BlobId>,
    /// Bytes to send.
    pub size: u64,
    /// Hold it until then; monotonic.
    pub held_until: Option<Duration>,
    /// For the removal of a folder: whether the remote may have it as one of its own.
    pub is_known_there: bool,
}

/// Who and when, for a change.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Number for a new record.
    pub seq: Seq,
    /// Random key for a new record.
    pub key: u64,
    /// Monotonic now.
    pub now: Duration,
    /// Wall-clock now.
    pub wall: Timestamp,
}

/// The records that wait for the remote.
#[derive(Debug, Default)]
pub struct Outbox {
    lanes: BTreeMap<WsPath, Lane>,
    /// Current records that wait, by number.
    waiting: BTreeMap<Seq, WsPath>,
    /// How many records with content each node has; a removal of an old name waits for them.
    puts: HashMap<Ino, u32>,
    /// How many records refer to each small content.
    blobs: HashMap<BlobId, u32>,
    /// Sizes come from servers, too: their sum may be anything.
    bytes: u128,
    parked: usize,
    held: usize,
    flight: usize,
    removals: usize,
    records: usize,
    burst: burst::Burst,
}

impl Outbox {
    /// Lays persisted records into lanes. Records that were in flight when the process ended are
    /// sent again, with what followed them: preconditions and identities make that harmless.
    pub fn restore(&mut self, records: Vec<Record>, now: Duration, rows: &mut Vec<Row>) {
        for mut record in records {
            if record.state == RecordState::Flight {
                record.state = RecordState::Waiting;
            }
            let slot = Slot {
                record,
                first_at: now,
                changed_at: now,
                held_until: None,
                held_for: Wait::Open,
                refusals: 0,
                sent_is_newest: false,
                asked: false,
            };
            self.count(&slot.record, true);
            let path = slot.record.path.clone();
            match self.lanes.get_mut(&path) {
                Some(lane) => lane.after.push_back(slot),
                None => self.enter(path, slot),
            }
        }
        let followed: Vec<WsPath> = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.after.is_empty())
            .map(|(path, _)| path.clone())
            .collect();
        for path in followed {
            self.fold(&path, rows);
        }
    }

    /// The lane of `path`.
    #[must_use]
    pub fn lane(&self, path: &WsPath) -> Option<&Lane> {
        self.lanes.get(path)
    }

    /// The lane of `path`, for notes that change no record.
    pub fn lane_mut(&mut self, path: &WsPath) -> Option<&mut Lane> {
        self.lanes.get_mut(path)
    }

    /// All lanes by path.
    pub fn lanes(&self) -> impl Iterator<Item = (&WsPath, &Lane)> {
        self.lanes.iter()
    }

    /// Current records that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Slot> {
        self.waiting.values().filter_map(|path| self.lanes.get(path)).map(|lane| &lane.current)
    }

    /// Lanes strictly below the folder `path`.
    pub fn below<'a>(&'a self, path: &'a WsPath) -> impl Iterator<Item = (&'a WsPath, &'a Lane)> {
        self.lanes
            .range((Bound::Excluded(path.clone()), Bound::Unbounded))
            .skip_while(move |(at, _)| {
                !at.is_within(path) && at.as_str().starts_with(path.as_str())
            })
            .take_while(move |(at, _)| at.is_within(path))
    }

    /// Whether a record that carries the node's content is still to be accepted.
    #[must_use]
    pub fn has_put(&self, ino: Ino) -> bool {
        self.puts.contains_key(&ino)
    }

    /// Whether a record refers to the small content.
    #[must_use]
    pub fn uses(&self, blob: BlobId) -> bool {
        self.blobs.contains_key(&blob)
    }

    /// Records of all states.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records that wait for nobody but us and the server.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.records - self.parked - self.held
    }

    /// Records refused for good.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Records that remove a file.
    #[must_use]
    pub fn removals(&self) -> usize {
        self.removals
    }

    /// Records in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flight
    }

    /// Bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    /// When any path last changed; monotonic.
    #[must_use]
    pub fn last_change_at(&self) -> Duration {
        self.burst.last()
    }

    /// The changes since the last pause.
    #[must_use]
    pub fn burst(&self) -> &burst::Burst {
        &self.burst
    }

    /// Takes up a change of one path.
    pub fn record(&mut self, change: Change, stamp: Stamp, rows: &mut Vec<Row>) {
        self.burst.note(stamp.now);
        let path = change.path.clone();
        let Some(mut lane) = self.take(&path) else {
            self.enter_new(change, RecordBaseFrom::Change, stamp, rows);
            return;
        };
        // What follows is newer than what is current: a change joins the newest.
        let newest = match lane.after.pop_back() {
            Some(newest) => Some(newest),
            None if lane.current.record.state == RecordState::Flight => None,
            None => {
                if !coalesces(lane.current.record.op, change.op) {
                    lane.follow(new_slot(change, RecordBaseFrom::Before, stamp), rows);
                    self.put_back(path, lane);
                } else if let Some(slot) = coalesce(lane.current, &change, stamp, rows) {
                    rows.push(Row::PutRecord(Box::new(slot.record.clone())));
                    self.put_back(path, Lane::of(slot));
                }
                return;
            }
        };
        match newest {
            Some(newest) if coalesces(newest.record.op, change.op) => {
                if let Some(slot) = coalesce(newest, &change, stamp, rows) {
                    lane.follow(slot, rows);
                }
            }
            other => {
                lane.after.extend(other);
                lane.follow(new_slot(change, RecordBaseFrom::Before, stamp), rows);
            }
        }
        self.put_back(path, lane);
    }

    /// Changes the current record of `path` and persists it; `None` when there is none.
    pub fn update(
        &mut self,
        path: &WsPath,
        rows: &mut Vec<Row>,
        change: impl FnOnce(&mut Slot),
    ) -> Option<()> {
        let mut lane = self.take(path)?;
        turned(&mut lane.current, change);
        rows.push(Row::PutRecord(Box::new(lane.current.record.clone())));
        self.put_back(path.clone(), lane);
        Some(())
    }

    /// Changes the current record of `path` in memory only: what a restart may forget.
    pub fn mark(&mut self, path: &WsPath, change: impl FnOnce(&mut Slot)) {
        if let Some(mut lane) = self.take(path) {
            turned(&mut lane.current, change);
            self.put_back(path.clone(), lane);
        }
    }

    /// Ends the current record of `path`. What follows it becomes current, on the base that the
    /// end leads to. Returns the ended lane's record and the last event heard meanwhile.
    pub fn finish(
        &mut self,
        path: &WsPath,
        leads_to: &Base,
        now: Duration,
        rows: &mut Vec<Row>,
    ) -> Option<(Record, Option<Heard>)> {
        let lane = self.take(path)?;
        rows.push(Row::DeleteRecord(lane.current.record.seq));
        self.promote(path, lane.after, leads_to, now, rows);
        Some((lane.current.record, lane.heard))
    }

    /// Drops what a path has of a node whose bytes nobody has any more; what others put there
    /// stays. Returns what was dropped.
    pub fn cancel(&mut self, path: &WsPath, ino: Ino, rows: &mut Vec<Row>) -> Vec<Record> {
        let Some(mut lane) = self.take(path) else { return Vec::new() };
        let mut dropped = Vec::new();
        lane.after.retain(|slot| {
            let keep = slot.record.ino != Some(ino);
            if !keep {
                dropped.push(slot.record.clone());
            }
            keep
        });
        if lane.current.record.ino == Some(ino) {
            dropped.push(lane.current.record);
            self.promote(path, lane.after, &Base::Absent, Duration::ZERO, rows);
        } else {
            self.put_back(path.clone(), lane);
        }
        rows.extend(dropped.iter().map(|record| Row::DeleteRecord(record.seq)));
        dropped
    }

    /// Takes everything out that waits on a path; nothing of it may be in flight.
    pub fn remove(&mut self, path: &WsPath, rows: &mut Vec<Row>) -> Vec<Record> {
        let Some(lane) = self.take(path) else { return Vec::new() };
        let records: Vec<Record> = lane.records().cloned().collect();
        rows.extend(records.iter().map(|record| Row::DeleteRecord(record.seq)));
        records
    }

    /// Lets what follows a folder's removal go first. In memory only: after a restart the same
    /// circle is found again.
    pub fn let_pass(&mut self, path: &WsPath) {
        let Some(mut lane) = self.take(path) else { return };
        if let Some(mut first) = lane.after.pop_front() {
            if first.record.base == RecordBase::Follows {
                first.record.base = RecordBase::Known(Base::Absent);
            }
            let removal = std::mem::replace(&mut lane.current, first);
            lane.after.push_back(removal);
        }
        self.put_back(path.clone(), lane);
    }

    /// Makes the first of what follows current, on the base that what was before it led to.
    fn promote(
        &mut self,
        path: &WsPath,
        mut after: VecDeque<Slot>,
        leads_to: &Base,
        now: Duration,
        rows: &mut Vec<Row>,
    ) {
        while let Some(mut next) = after.pop_front() {
            if next.record.base == RecordBase::Follows {
                next.record.base = RecordBase::Known(leads_to.clone());
            }
            if is_void(&next.record) {
                rows.push(Row::DeleteRecord(next.record.seq));
                continue;
            }
            next.changed_at = next.changed_at.min(now);
            rows.push(Row::PutRecord(Box::new(next.record.clone())));
            let lane = Lane { current: next, after, heard: None };
            return self.put_back(path.clone(), lane);
        }
    }

    /// Folds what follows into the current record, which then carries the newest content: its
    /// request is over and it is about to be decided as a whole.
    pub fn fold(&mut self, path: &WsPath, rows: &mut Vec<Row>) {
        let Some(mut lane) = self.take(path) else { return };
        let mut folded = false;
        while let Some(next) = lane.take_joining() {
            rows.push(Row::DeleteRecord(next.record.seq));
            let current = &mut lane.current;
            current.record.op = merged_op(current.record.op, next.record.op);
            current.record.ino = next.record.ino;
            current.record.blob = next.record.blob;
            current.record.size = next.record.size;
            current.record.moved_to = next.record.moved_to.or(current.record.moved_to);
            current.changed_at = next.changed_at;
            current.held_until = next.held_until;
            current.held_for = next.held_for;
            current.record.needs_approval = next.record.needs_approval;
            current.refusals = 0;
            current.sent_is_newest = false;
            folded = true;
        }
        if folded && is_void(&lane.current.record) {
            rows.push(Row::DeleteRecord(lane.current.record.seq));
            let now = lane.current.changed_at;
            return self.promote(path, lane.after, &Base::Absent, now, rows);
        }
        if folded {
            rows.push(Row::PutRecord(Box::new(lane.current.record.clone())));
        }
        self.put_back(path.clone(), lane);
    }

    fn enter_new(
        &mut self,
        change: Change,
        base: RecordBaseFrom,
        stamp: Stamp,
        rows: &mut Vec<Row>,
    ) {
        let path = change.path.clone();
        let slot = new_slot(change, base, stamp);
        rows.push(Row::PutRecord(Box::new(slot.record.clone())));
        self.put_back(path, Lane::of(slot));
    }

    /// Takes a lane out, with all it counts for.
    fn take(&mut self, path: &WsPath) -> Option<Lane> {
        let lane = self.lanes.remove(path)?;
        for record in lane.records() {
            self.count(record, false);
        }
        self.waiting.remove(&lane.current.record.seq);
        Some(lane)
    }

    fn put_back(&mut self, path: WsPath, lane: Lane) {
        for record in lane.records() {
            self.count(record, true);
        }
        let Lane { current, after, heard } = lane;
        if is_waiting(&current.record) {
            self.waiting.insert(current.record.seq, path.clone());
        }
        self.lanes.insert(path, Lane { current, after, heard });
    }

    fn enter(&mut self, path: WsPath, slot: Slot) {
        if is_waiting(&slot.record) {
            self.waiting.insert(slot.record.seq, path.clone());
        }
        self.lanes.insert(path, Lane::of(slot));
    }

    fn count(&mut self, record: &Record, add: bool) {
        let step = |count: &mut usize| if add { *count += 1 } else { *count -= 1 };
        step(&mut self.records);
        match record.state {
            RecordState::Parked { .. } => step(&mut self.parked),
            RecordState::Flight => step(&mut self.flight),
            RecordState::Waiting => {}
        }
        if record.needs_approval {
            step(&mut self.held);
        }
        if add {
            self.bytes += u128::from(record.size);
        } else {
            self.bytes -= u128::from(record.size);
        }
        if let (Op::Put, Some(ino)) = (record.op, record.ino) {
            tally(&mut self.puts, ino, add);
        }
        if record.op == Op::Delete {
            step(&mut self.removals);
        }
        for blob in record.blobs() {
            tally(&mut self.blobs, blob, add);
        }
    }
}

/// Whether a record waits for nobody but us.
fn is_waiting(record: &Record) -> bool {
    record.state == RecordState::Waiting && !record.needs_approval
}

/// Counts uses of `key`; one that is not used any more is not there.
fn tally<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, add: bool) {
    match counts.entry(key) {
        Entry::Occupied(mut count) if add => *count.get_mut() += 1,
        Entry::Occupied(count) if *count.get() <= 1 => drop(count.remove()),
        Entry::Occupied(mut count) => *count.get_mut() -= 1,
        Entry::Vacant(vacant) if add => drop(vacant.insert(1)),
        Entry::Vacant(_) => {}
    }
}

#[cfg(test)]
mod tests;
