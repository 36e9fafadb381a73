//! Coalescing, lanes, and what a restart restores.

use super::*;
use crate::record::{Stage, TURNS};

fn path(text: &str) -> WsPath {
    WsPath::parse(text).unwrap()
}

fn change(op: Op, base: Base) -> Change {
    let ino = matches!(op, Op::Put | Op::Meta | Op::MakeDir).then_some(Ino(7));
    Change {
        path: path("/f"),
        op,
        ino,
        base,
        base_content: None,
        moved_to: None,
        blob: (op == Op::Put).then_some(BlobId(3)),
        size: 10,
        held_until: None,
        is_known_there: false,
    }
}

fn stamp(n: u64) -> Stamp {
    Stamp { seq: Seq(n), key: n, now: Duration::from_millis(n), wall: Timestamp::UNIX_EPOCH }
}

fn revision(text: &str) -> Base {
    Base::Revision(Revision::new(text).unwrap())
}

/// Records `ops` one after another and returns what is left: op and base of each record.
#[track_caller]
fn check(ops: &[(Op, Base)], left: &[(Op, RecordBase)]) {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    for (n, (op, base)) in ops.iter().enumerate() {
        outbox.record(change(*op, base.clone()), stamp(n as u64 + 1), &mut rows);
    }
    let found: Vec<_> = outbox
        .lane(&path("/f"))
        .map(|lane| lane.records().map(|r| (r.op, r.base.clone())).collect())
        .unwrap_or_default();
    assert_eq!(found, left);
    assert_eq!(outbox.len(), left.len());
    assert_eq!(persisted(&rows), left.len(), "rows agree with memory");
}

/// How many records the rows leave in the database.
fn persisted(rows: &[Row]) -> usize {
    let mut seqs = std::collections::HashSet::new();
    for row in rows {
        match row {
            Row::PutRecord(record) => drop(seqs.insert(record.seq)),
            Row::DeleteRecord(seq) => drop(seqs.remove(seq)),
            _ => {}
        }
    }
    seqs.len()
}

#[test]
fn unsent_changes_coalesce_to_the_newest_content_on_the_oldest_base() {
    use Op::{Delete, MakeDir, Meta, Put, RemoveDir};
    let known = |base: &Base| RecordBase::Known(base.clone());
    let (absent, r1, r2) = (Base::Absent, revision("rev_1"), revision("rev_2"));
    check(&[(Put, absent.clone()), (Put, r2.clone())], &[(Put, known(&absent))]);
    check(&[(Put, r1.clone()), (Put, r2.clone())], &[(Put, known(&r1))]);
    check(&[(Put, absent.clone()), (Delete, r2.clone())], &[]);
    check(&[(Put, r1.clone()), (Delete, r2.clone())], &[(Delete, known(&r1))]);
    check(&[(Delete, r1.clone()), (Put, absent.clone())], &[(Put, known(&r1))]);
    check(&[(Meta, r1.clone()), (Put, r2.clone())], &[(Put, known(&r1))]);
    check(&[(Put, r1.clone()), (Meta, r2)], &[(Put, known(&r1))]);
    check(&[(MakeDir, absent.clone()), (RemoveDir, absent.clone())], &[]);
    // Whether the remote has the folder as one of its own is not known: it is asked for.
    check(&[(RemoveDir, absent.clone()), (MakeDir, absent.clone())], &[(MakeDir, known(&absent))]);
    check(
        &[(Delete, r1.clone()), (MakeDir, absent.clone())],
        &[(Delete, known(&r1)), (MakeDir, RecordBase::Follows)],
    );
    check(
        &[(Delete, r1.clone()), (MakeDir, absent.clone()), (RemoveDir, absent)],
        &[(Delete, known(&r1))],
    );
}

#[test]
fn a_record_in_flight_is_not_changed_and_the_next_takes_the_accepted_revision() {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    outbox.record(change(Op::Put, Base::Absent), stamp(1), &mut rows);
    outbox.update(&path("/f"), &mut rows, |slot| slot.record.state = RecordState::Flight);
    let in_flight = outbox.lane(&path("/f")).unwrap().current.record.clone();
    outbox.record(change(Op::Put, Base::Absent), stamp(2), &mut rows);
    outbox.record(change(Op::Put, Base::Absent), stamp(3), &mut rows);
    let lane = outbox.lane(&path("/f")).unwrap();
    assert_eq!(lane.current.record, in_flight);
    assert_eq!(lane.after[0].record.base, RecordBase::Follows);
    assert_eq!(outbox.len(), 2);
    outbox.finish(&path("/f"), &revision("rev_9"), Duration::ZERO, &mut rows);
    let lane = outbox.lane(&path("/f")).unwrap();
    assert_eq!(lane.current.record.base, RecordBase::Known(revision("rev_9")));
    assert_eq!((outbox.len(), outbox.in_flight(), persisted(&rows)), (1, 0, 1));
}

#[test]
fn a_sent_file_of_unknown_fate_is_deleted_not_forgotten() {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    outbox.record(change(Op::Put, Base::Absent), stamp(1), &mut rows);
    outbox.update(&path("/f"), &mut rows, |slot| slot.record.attempts = 1);
    outbox.record(change(Op::Delete, Base::Absent), stamp(2), &mut rows);
    assert_eq!(outbox.lane(&path("/f")).unwrap().current.record.op, Op::Delete);
}

#[test]
fn a_parked_record_is_tried_again_when_its_file_changes() {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    outbox.record(change(Op::Put, Base::Absent), stamp(1), &mut rows);
    let refused = RecordState::Parked { code: "forbidden".into(), message: "no".into() };
    for state in [RecordState::Flight, refused] {
        outbox.update(&path("/f"), &mut rows, |slot| slot.record.state = state);
    }
    assert_eq!((outbox.parked(), outbox.waiting().count()), (1, 0));
    outbox.record(change(Op::Put, Base::Absent), stamp(2), &mut rows);
    assert_eq!((outbox.parked(), outbox.waiting().count()), (0, 1));
}

#[test]
fn the_table_of_turns_is_whole_and_has_no_way_back_from_the_end() {
    use Stage::{Ended, Flight, Parked, Waiting};
    let all = [Waiting, Flight, Parked, Ended];
    let legal: Vec<_> = all
        .into_iter()
        .flat_map(|from| all.map(|to| (from, to)))
        .filter(|(from, to)| from != to && from.may_become(*to))
        .collect();
    assert_eq!(legal, TURNS);
    assert!(!TURNS.iter().any(|(from, _)| *from == Ended));
    assert!(!Parked.may_become(Flight));
}

/// What the table does not have cannot be done: the record stays as it was. Where the program is
/// built to find mistakes, it stops.
#[test]
fn an_illegal_turn_changes_nothing() {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    outbox.record(change(Op::Put, Base::Absent), stamp(1), &mut rows);
    let mut slot = outbox.lane(&path("/f")).unwrap().current.clone();
    slot.record.state = RecordState::Parked { code: "x".into(), message: "x".into() };
    let before = slot.record.clone();
    let attempt = |slot: &mut Slot, change: fn(&mut Slot)| {
        let act = std::panic::AssertUnwindSafe(|| turned(slot, change));
        assert_eq!(std::panic::catch_unwind(act).is_err(), cfg!(debug_assertions));
    };
    attempt(&mut slot, |slot| slot.record.state = RecordState::Flight);
    assert_eq!(slot.record, before);
    turned(&mut slot, |slot| slot.record.state = RecordState::Waiting);
    turned(&mut slot, |slot| slot.record.state = RecordState::Flight);
    attempt(&mut slot, |slot| slot.record.size += 1);
    assert_eq!(slot.record.size, before.size);
}

#[test]
fn lanes_below_a_folder_are_found_past_names_that_only_share_its_prefix() {
    let mut outbox = Outbox::default();
    let mut rows = Vec::new();
    for (n, text) in ["/a", "/a!", "/a/x", "/a/y/z", "/ab"].iter().enumerate() {
        let change = Change { path: path(text), ..change(Op::Put, Base::Absent) };
        outbox.record(change, stamp(n as u64 + 1), &mut rows);
    }
    let folder = path("/a");
    let below: Vec<_> = outbox.below(&folder).map(|(path, _)| path.as_str()).collect();
    assert_eq!(below, ["/a/x", "/a/y/z"]);
}
