//! What people are told of every record is what is then done with it.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::engine::core::{Changes, Settings};
use crate::engine::link::Pause;
use crate::engine::outbox::{Change, Stamp};
use crate::engine::plan::{Plan, Task};
use crate::record::Seq;
use crate::remote::RemoteError;
use crate::revision::{Base, Revision};
use crate::store::Loaded;

/// The records that are said to go now, or to be asked about.
pub(in crate::engine) fn said(core: &Core, now: Now) -> BTreeSet<(bool, Seq)> {
    let leaves = |(record, outlook): (&Record, Outlook)| match outlook {
        Outlook::Send => Some((true, record.seq)),
        Outlook::Settle => Some((false, record.seq)),
        _ => None,
    };
    core.outlook(now).into_iter().filter_map(leaves).collect()
}

/// The records that a plan hands out to be sent, or to be asked about.
pub(in crate::engine) fn handed_out(plan: &Plan) -> BTreeSet<(bool, Seq)> {
    let of_task = |task: &Task| match task {
        Task::Bulk(items) => items.iter().map(|item| (true, item.seq)).collect(),
        Task::Single(item) => vec![(true, item.seq)],
        Task::Settle { seq, .. } => vec![(false, *seq)],
        Task::Fetch(_) | Task::Recheck(_) | Task::Probe => Vec::new(),
    };
    plan.tasks.iter().flat_map(of_task).collect()
}

/// One record of an outbox that somebody may have.
#[derive(Debug, Clone, Copy)]
struct Given {
    op: Op,
    depth: usize,
    size: u64,
    age_ms: u64,
    held_ms: Option<(u64, Wait)>,
    sent: usize,
    parked: bool,
    approval: bool,
    followed: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let op = prop_oneof![
        5 => Just(Op::Put),
        2 => Just(Op::Delete),
        1 => Just(Op::MakeDir),
        1 => Just(Op::RemoveDir),
        1 => Just(Op::Meta),
    ];
    let size = prop_oneof![0..2_000_u64, 0..900_000_u64];
    let wait = prop_oneof![Just(Wait::Open), Just(Wait::Again), Just(Wait::Conflict)];
    let held = proptest::option::weighted(0.2, (0..400_u64, wait));
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (op, 0..3_usize, size, 0..500_u64, held, 0..=SENT_MAX, flags).prop_map(
        |(op, depth, size, age_ms, held_ms, sent, (parked, approval, followed))| Given {
            op,
            depth,
            size,
            age_ms,
            held_ms,
            sent,
            parked,
            approval: approval && op == Op::Delete,
            followed,
        },
    )
}

/// What is around the records.
#[derive(Debug, Clone, Copy)]
struct Around {
    capabilities: Option<Capabilities>,
    down: bool,
    paused: bool,
    frozen: bool,
    urgent: bool,
    halted: bool,
    batches: usize,
    singles: usize,
}

fn around() -> impl Strategy<Value = Around> {
    let rarely = || prop::bool::weighted(0.1);
    let offered =
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(a, b, c)| Capabilities {
            bulk_delete: a,
            raw: b,
            directories: true,
            metadata: c,
            ..Capabilities::default()
        });
    (
        proptest::option::weighted(0.95, offered),
        (rarely(), rarely(), rarely(), prop::bool::weighted(0.3), rarely()),
        0..5_usize,
        0..9_usize,
    )
        .prop_map(
            |(capabilities, (down, paused, frozen, urgent, halted), batches, singles)| Around {
                capabilities,
                down,
                paused,
                frozen,
                urgent,
                halted,
                batches,
                singles,
            },
        )
}

fn laid_out(records: &[Given], around: &Around) -> (Core, Now) {
    let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
    let (mut core, _) = Core::new(Loaded::default(), Settings::default(), now, 1);
    let changes = &mut Changes::default();
    if let Some(capabilities) = around.capabilities {
        core.set_capabilities(capabilities, changes);
    }
    core.link.reached();
    for (n, given) in records.iter().enumerate() {
        let folders: String = (0..given.depth).map(|depth| format!("/d{depth}")).collect();
        let path = WsPath::parse(&format!("{folders}/f{n}")).unwrap();
        let base = match given.op {
            Op::MakeDir | Op::RemoveDir => Base::Absent,
            _ => Base::Revision(Revision::new("rev_1").unwrap()),
        };
        let change = |op| Change {
            path: path.clone(),
            op,
            ino: None,
            base: base.clone(),
            base_content: None,
            moved_to: None,
            blob: None,
            size: given.size,
            held_until: None,
            is_known_there: false,
        };
        let at = now.mono - Duration::from_millis(given.age_ms);
        let seq = Seq(n as u64 * 2 + 10);
        let stamp = Stamp { seq, key: 1, now: at, wall: now.wall };
        core.outbox.record(change(given.op), stamp, &mut changes.rows);
        if given.followed {
            let other = if given.op == Op::MakeDir { Op::Put } else { Op::MakeDir };
            let stamp = Stamp { seq: Seq(seq.0 + 1), ..stamp };
            core.outbox.record(change(other), stamp, &mut changes.rows);
        }
        core.outbox.mark(&path, |slot| {
            let sent = (0..given.sent).map(|n| Digest::of(&n.to_le_bytes()));
            slot.record.sent = sent.collect();
            slot.record.needs_approval = given.approval;
            if let Some((ms, wait)) = given.held_ms {
                slot.held_until =
                    Some(now.mono + Duration::from_millis(ms) - Duration::from_millis(100));
                slot.held_for = wait;
            }
        });
        if given.parked {
            core.outbox.mark(&path, |slot| slot.record.state = RecordState::Flight);
            core.outbox.mark(&path, |slot| {
                let code = "x".to_owned();
                slot.record.state = RecordState::Parked { code, message: String::new() };
            });
        }
    }
    if around.down {
        let error = RemoteError::Unreachable { message: "x".into(), maybe_applied: false };
        core.link.failed(&error, now.mono - Duration::from_secs(1), now.wall, 1.0);
    }
    if around.paused {
        let pause = Pause { reason: None, since: now.wall, until: None };
        core.set_pause(Some(pause), changes);
    }
    if around.frozen {
        core.reset_suspected = Some("test".into());
    }
    core.urgent = around.urgent;
    core.halted = around.halted;
    core.batches_in_flight = around.batches;
    core.singles_in_flight = around.singles;
    (core, now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the outbox and the link look like: what `outbox plan` says is sent now is exactly
    /// what the next plan hands out, and what it says is held stays.
    #[test]
    fn what_is_said_is_what_is_done(
        records in prop::collection::vec(given(), 0..400),
        around in around(),
    ) {
        let (mut core, now) = laid_out(&records, &around);
        let all = core.outbox.len();
        let outlook = core.outlook(now);
        prop_assert_eq!(outlook.len(), all);
        let gated = outlook.iter().any(|(_, outlook)| matches!(outlook, Outlook::Gated(_)));
        prop_assert!(!gated || said(&core, now).is_empty());
        let said = said(&core, now);
        let plan = core.plan(now);
        prop_assert_eq!(handed_out(&plan), said);
    }
}

/// Each reason has its own word.
#[test]
fn every_reason_is_told() {
    let plain = Given {
        op: Op::Put,
        depth: 0,
        size: 1,
        age_ms: 500,
        held_ms: None,
        sent: 0,
        parked: false,
        approval: false,
        followed: false,
    };
    let around = Around {
        capabilities: Some(Capabilities {
            bulk_delete: true,
            directories: true,
            ..Default::default()
        }),
        down: false,
        paused: false,
        frozen: false,
        urgent: false,
        halted: false,
        batches: 0,
        singles: 0,
    };
    let told = |given: &Given, around: &Around| {
        let (core, now) = laid_out(std::slice::from_ref(given), around);
        core.outlook(now).into_iter().map(|(_, outlook)| outlook).collect::<Vec<_>>()
    };
    let at = |ms| Duration::from_secs(1000) + Duration::from_millis(ms);
    let delete = Given { op: Op::Delete, ..plain };
    let held = |wait| Given { held_ms: Some((200, wait)), ..plain };
    for (given, changed, expected) in [
        (plain, around, vec![Outlook::Send]),
        (Given { sent: SENT_MAX, ..plain }, around, vec![Outlook::Settle]),
        (Given { age_ms: 0, ..plain }, around, vec![Outlook::Gathers(at(20))]),
        (plain, Around { batches: 1, ..around }, vec![Outlook::Queued]),
        (held(Wait::Open), around, vec![Outlook::Held(Hold::Open(at(100)))]),
        (held(Wait::Again), around, vec![Outlook::Held(Hold::Again(at(100)))]),
        (held(Wait::Conflict), around, vec![Outlook::Held(Hold::Conflict(at(100)))]),
        (Given { approval: true, ..delete }, around, vec![Outlook::Held(Hold::Approval)]),
        (delete, Around { frozen: true, ..around }, vec![Outlook::Held(Hold::Frozen)]),
        (plain, Around { paused: true, ..around }, vec![Outlook::Gated(Gate::Link(Held::Paused))]),
        (plain, Around { halted: true, ..around }, vec![Outlook::Gated(Gate::Stopping)]),
        (plain, Around { capabilities: None, ..around }, vec![Outlook::Gated(Gate::Unheard)]),
        (plain, Around { down: true, singles: 1, ..around }, vec![Outlook::Gated(Gate::Trial)]),
        (Given { parked: true, ..plain }, around, vec![Outlook::Parked]),
        (Given { followed: true, ..plain }, around, vec![Outlook::Send, Outlook::Follows]),
    ] {
        assert_eq!(told(&given, &changed), expected, "{given:?} {changed:?}");
    }
}
