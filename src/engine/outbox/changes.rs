//! What two changes of one path make together, and how a record may change. Pure.

use super::{Change, Slot, Stamp, Wait};
use crate::digest::Digest;
use crate::record::{Op, Record, RecordBase, RecordState};
use crate::revision::Base;
use crate::store::Row;

/// Changes a record. Its state turns only as the table says: another turn is a mistake of the
/// program, and the record stays as it was.
pub(super) fn turned(slot: &mut Slot, change: impl FnOnce(&mut Slot)) {
    let before = slot.clone();
    change(slot);
    let (old, new) = (&before.record, &slot.record);
    let turns = old.state.stage().may_become(new.state.stage());
    // What is in flight is what was sent.
    let kept = old.state != RecordState::Flight
        || new.state != RecordState::Flight
        || (old.op, old.ino, old.moved_to, old.size) == (new.op, new.ino, new.moved_to, new.size);
    if !(turns && kept) {
        let (path, from, to) = (&old.path, old.state.word(), new.state.word());
        tracing::error!(%path, from, to, "no such turn, left as it was");
        *slot = before;
        debug_assert!(turns && kept, "{:?} was to turn into what it may not become", slot.record);
    }
}

/// Where a new record's base comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum RecordBaseFrom {
    Change,
    Before,
}

pub(super) fn new_slot(change: Change, base: RecordBaseFrom, stamp: Stamp) -> Slot {
    let record = Record {
        seq: stamp.seq,
        key: stamp.key,
        path: change.path,
        op: change.op,
        ino: change.ino,
        base: match base {
            RecordBaseFrom::Change => RecordBase::Known(change.base),
            RecordBaseFrom::Before => RecordBase::Follows,
        },
        base_content: change.base_content,
        moved_to: change.moved_to,
        blob: change.blob,
        size: change.size,
        recorded_at: stamp.wall,
        state: RecordState::Waiting,
        attempts: 0,
        sent: Vec::<Digest>::new(),
        last_error: None,
        needs_approval: false,
    };
    let held_until = change.held_until;
    let (first_at, changed_at) = (stamp.now, stamp.now);
    let held_for = Wait::Open;
    let (sent_is_newest, asked) = (false, false);
    let refusals = 0;
    Slot { record, first_at, changed_at, held_until, held_for, refusals, sent_is_newest, asked }
}

/// Whether there is nothing to do: to remove what never was sent and was not there before.
pub(super) fn is_void(record: &Record) -> bool {
    record.op == Op::Delete
        && record.base == RecordBase::Known(Base::Absent)
        && record.attempts == 0
}

/// Whether a newer change of kind `newer` can take the place of an unsent one of kind `older`.
/// Files and folders of one name are different things at the remote and are sent one by one.
pub(super) fn coalesces(older: Op, newer: Op) -> bool {
    let is_file = |op| matches!(op, Op::Put | Op::Meta | Op::Delete);
    is_file(older) == is_file(newer)
}

pub(super) fn merged_op(older: Op, newer: Op) -> Op {
    match (older, newer) {
        // A change of metadata travels with the content that is still to be sent.
        (Op::Put, Op::Meta) => Op::Put,
        (_, newer) => newer,
    }
}

/// The one record that has the effect of both; `None` when together they have none.
pub(super) fn coalesce(
    mut older: Slot,
    newer: &Change,
    stamp: Stamp,
    rows: &mut Vec<Row>,
) -> Option<Slot> {
    let record = &mut older.record;
    let never_there = record.base == RecordBase::Known(Base::Absent) && record.attempts == 0;
    let undone = match (record.op, newer.op) {
        (Op::Put | Op::Meta, Op::Delete) => never_there,
        (Op::MakeDir, Op::RemoveDir) => record.attempts == 0 && !newer.is_known_there,
        _ => false,
    };
    if undone {
        rows.push(Row::DeleteRecord(record.seq));
        return None;
    }
    record.op = merged_op(record.op, newer.op);
    record.ino = newer.ino;
    // What has to be stored first still has to.
    record.moved_to = newer.moved_to.or(record.moved_to);
    record.blob = newer.blob;
    record.size = newer.size;
    if record.base_content.is_none() && newer.base_content.is_some() && record.attempts == 0 {
        record.base_content = newer.base_content;
    }
    // Newer content deserves a new try even where the older was refused.
    record.state = RecordState::Waiting;
    older.changed_at = stamp.now;
    // A file that is written all the time must not put off its sending each time.
    older.held_until = match (older.held_until, newer.held_until) {
        (Some(older), Some(newer)) => Some(older.min(newer)),
        (_, newer) => newer,
    };
    older.held_for = Wait::Open;
    older.refusals = 0;
    older.sent_is_newest = false;
    // Whether it still is one of very many removals is found out anew.
    record.needs_approval = false;
    Some(older)
}
