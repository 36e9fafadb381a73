//! The core's steps alone: anything may happen to it in any order, also what makes no sense. It never
//! panics, records turn only as the table says, and what its rows leave on disk is what it has in memory.
//!
//! Nothing stands behind the answers here: they may contradict each other. Whether anything is lost
//! is for the histories to say.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use self::inputs::{Input, error, input, outcome, path, pick, revision, version};
use super::hearing::forget_unlinked;
use super::mount::Disk;
use super::plants::Plant;
use super::texts::{body, whole};
use crate::engine::core::{Changes, Core, Now, Settings};
use crate::engine::guard::Limits;
use crate::engine::local::{Creator, Sealed, SetAttributes};
use crate::engine::plan::{Item, Task};
use crate::engine::rename::RenameMode;
use crate::engine::replies::Answer;
use crate::engine::verdict::Push;
use crate::node::{BlobId, Content, FileBody, FileId, Ino, Kind, Node, ROOT};
use crate::path::WsPath;
use crate::record::{ConflictRow, Op, Record, RecordBase, RecordState, Seq, Stage};
use crate::remote::{Capabilities, EventChange, RemoteEntry, ServerId};
use crate::store::Row;

const CREATOR: Creator = Creator { uid: 0, gid: 0, mode: 0o644 };

struct Bench {
    core: Core,
    disk: Disk,
    now: Now,
    /// Everything that was ever handed out: answers may come for what is long over.
    items: Vec<Item>,
    records: Vec<Record>,
    ended: BTreeSet<Seq>,
}

fn settings() -> Settings {
    let removals = Limits { files: 1, percent: 20, ..Limits::default() };
    Settings { removals, ..Settings::default() }
}

impl Bench {
    fn new() -> Self {
        let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        let mut disk = Disk::default();
        let (core, changes) = Core::new(disk.load(), settings(), now, 1);
        disk.commit(changes.rows, Plant::Nothing);
        Self { core, disk, now, items: Vec::new(), records: Vec::new(), ended: BTreeSet::new() }
    }

    fn stages(&self) -> BTreeMap<Seq, Stage> {
        let records = self.core.outbox.lanes().flat_map(|(_, lane)| lane.records());
        records.map(|record| (record.seq, record.state.stage())).collect()
    }

    fn step<T>(&mut self, act: impl FnOnce(&mut Core, Now, &mut Changes) -> T) -> T {
        let before = self.stages();
        let mut changes = Changes::default();
        let value = act(&mut self.core, self.now, &mut changes);
        self.disk.commit(changes.rows, Plant::Nothing);
        for file in changes.trash {
            self.disk.files.remove(&file);
        }
        let after = self.stages();
        for (seq, stage) in &before {
            let now = after.get(seq).copied().unwrap_or(Stage::Ended);
            assert!(stage.may_become(now), "{stage:?} became {now:?}");
            if now == Stage::Ended {
                self.ended.insert(*seq);
            }
        }
        for (seq, stage) in after.iter().filter(|(seq, _)| !before.contains_key(*seq)) {
            assert!(
                *stage == Stage::Waiting && !self.ended.contains(seq),
                "{seq:?} begins {stage:?}"
            );
        }
        for (at, lane) in self.core.outbox.lanes() {
            assert_eq!(lane.flaw(), None, "{at}");
        }
        self.check_rows();
        value
    }

    /// The rows are what is in memory.
    fn check_rows(&self) {
        let lanes = self.core.outbox.lanes();
        let in_memory = lanes.flat_map(|(_, lane)| lane.records());
        let in_memory: BTreeMap<Seq, &Record> = in_memory.map(|one| (one.seq, one)).collect();
        let on_disk: BTreeMap<Seq, &Record> =
            self.disk.records.iter().map(|(seq, one)| (*seq, one)).collect();
        assert!(in_memory.keys().eq(on_disk.keys()), "{in_memory:?}\n{on_disk:?}");
        for (seq, record) in in_memory {
            assert_eq!(durable(record, on_disk[&seq]), *on_disk[&seq]);
        }
        let node = |node: &Node| (node.ino, timeless(node));
        let named = |node: &&Node| node.ino != ROOT && self.core.tree.path_of(node.ino).is_some();
        let in_memory: BTreeMap<Ino, Node> =
            self.core.tree.nodes().filter(named).map(node).collect();
        let on_disk = self.disk.nodes.values().filter(|node| node.ino != ROOT);
        let on_disk: BTreeMap<Ino, Node> = on_disk.map(node).collect();
        assert_eq!(in_memory, on_disk);
        for node in on_disk.values() {
            if let Some(Content::Blob(blob)) = node.body().map(|body| body.content) {
                assert!(self.disk.blobs.contains_key(&blob), "freed: {node:?}");
            }
        }
        for record in self.disk.records.values() {
            let mut blobs = record.blobs();
            assert!(blobs.all(|blob| self.disk.blobs.contains_key(&blob)), "freed: {record:?}");
        }
        assert_eq!(self.core.conflicts, self.disk.conflicts);
        assert_eq!(self.core.guards.kept, self.disk.removals);
        assert!(self.core.recheck.is_subset(&self.disk.recheck), "what is to be read again");
    }

    /// A restart is a replay, and another one changes nothing more.
    fn restart(&mut self) {
        let (core, changes) = Core::new(self.disk.load(), settings(), self.now, 2);
        self.core = core;
        self.disk.commit(changes.rows, Plant::Nothing);
        self.check_rows();
        let (again, changes) = Core::new(self.disk.load(), settings(), self.now, 3);
        let records = |core: &Core| {
            let lanes = core.outbox.lanes().flat_map(|(_, lane)| lane.records().cloned());
            lanes.collect::<Vec<Record>>()
        };
        assert_eq!(records(&self.core), records(&again));
        let of_records = |row: &Row| matches!(row, Row::PutRecord(_) | Row::DeleteRecord(_));
        assert!(!changes.rows.iter().any(of_records), "{:?}", changes.rows);
    }

    #[allow(clippy::too_many_lines, reason = "a list of everything that may happen")]
    fn live(&mut self, input: &Input) {
        let place = |core: &Core, at: &WsPath| {
            let parent = core.tree.resolve(&at.parent()?)?;
            Some((parent, at.name()?.to_owned()))
        };
        match *input {
            Input::Create(n, kind) => {
                let Some((parent, name)) = place(&self.core, &path(n)) else { return };
                let empty = FileBody { content: Content::Empty, size: 0, exact: true };
                let kind = match kind % 4 {
                    0 => Kind::Dir { explicit: true },
                    1 => Kind::Symlink { target: "to".into() },
                    _ => Kind::File(empty),
                };
                let is_file = matches!(kind, Kind::File(_));
                self.step(|core, now, changes| {
                    let ino = core.create(parent, &name, kind, CREATOR, now, changes)?;
                    // As a file that is closed, or looked at, is.
                    if is_file {
                        core.put_node(ino, changes);
                    }
                    Ok::<_, crate::engine::local::LocalError>(ino)
                })
                .ok();
            }
            Input::Seal(n, kind, held) => self.seal(n, kind, held),
            Input::Unlink(n, open) => {
                let Some((parent, name)) = place(&self.core, &path(n)) else { return };
                self.step(|core, now, changes| core.unlink(parent, &name, open, now, changes)).ok();
            }
            Input::RemoveDir(n) => {
                let Some((parent, name)) = place(&self.core, &path(n)) else { return };
                self.step(|core, now, changes| core.rmdir(parent, &name, now, changes)).ok();
            }
            Input::Rename(from, to, mode) => {
                let places = place(&self.core, &path(from)).zip(place(&self.core, &path(to)));
                let Some((from, to)) = places else { return };
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = modes[usize::from(mode) % modes.len()];
                let (from, to) = ((from.0, &*from.1), (to.0, &*to.1));
                let open = mode == RenameMode::Replace && from.0 == ROOT;
                self.step(|core, now, changes| core.rename(from, to, mode, |_| open, now, changes))
                    .ok();
            }
            Input::Chmod(n) => {
                let Some(ino) = self.core.tree.resolve(&path(n)) else { return };
                let set = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
                self.step(|core, now, changes| core.set_attributes(ino, set, now, changes)).ok();
            }
            Input::Plan(ms) => {
                self.now.mono += Duration::from_millis(ms.into());
                self.now.wall += Duration::from_millis(ms.into());
                let plan = self.step(|core, now, _| core.plan(now));
                for task in plan.tasks {
                    match task {
                        Task::Bulk(items) => self.items.extend(items),
                        Task::Single(item) => self.items.push(*item),
                        Task::Probe | Task::Settle { .. } | Task::Fetch(_) | Task::Recheck(_) => {}
                    }
                }
                let lanes = self.core.outbox.lanes();
                self.records.extend(lanes.map(|(_, lane)| lane.current.record.clone()));
            }
            Input::Sending(n, with) => {
                let Some(item) = pick(&self.items, n).cloned() else { return };
                let digest = version(&item.path, with).digest;
                self.step(|core, _, changes| {
                    core.note_sending(&item.path, item.seq, digest, changes);
                });
            }
            Input::Answers(n, with, what) => {
                let Some(item) = pick(&self.items, n).cloned() else { return };
                let digest = version(&item.path, with).digest;
                let answer = Answer { item, digest, outcome: outcome(what, with) };
                self.step(|core, now, changes| {
                    core.batch_over();
                    drop(core.answered(vec![answer], Duration::ZERO, now, changes));
                });
            }
            Input::Fails(n, with) => {
                let items: Vec<Item> = pick(&self.items, n).cloned().into_iter().collect();
                let error = error(with);
                self.step(|core, now, changes| {
                    core.single_over();
                    core.failed(items, &error, 1 << 20, now, changes);
                });
            }
            Input::Unsent(n) => {
                let Some(item) = pick(&self.items, n).cloned() else { return };
                let answer = Answer { item, digest: None, outcome: None };
                self.step(|core, now, changes| drop(core.return_items(vec![answer], now, changes)));
            }
            Input::Settled(n, with, gone) => {
                let Some(record) = pick(&self.records, n).cloned() else { return };
                let theirs = (!gone.is_multiple_of(4)).then(|| version(&record.path, with));
                let theirs = theirs.as_ref();
                self.step(|core, now, changes| {
                    drop(core.settled(&record.path, record.seq, theirs, now, changes));
                    forget_unlinked(core, changes);
                });
            }
            Input::Kept(n, with, push) => self.keep(n, with, push),
            Input::Postponed(n) => {
                self.step(|core, now, changes| core.postpone(&path(n), now.mono, changes));
            }
            Input::Event(n, with, what, quiet) => {
                let at = path(n);
                let change = match what % 6 {
                    0 | 1 => EventChange::Deleted { path: at, revision: revision(with) },
                    2 => EventChange::DirCreated { path: at },
                    3 => EventChange::DirDeleted { path: at },
                    _ => EventChange::Stored(version(&at, with)),
                };
                self.step(|core, now, changes| {
                    core.apply_event(&change, quiet, now, changes);
                    forget_unlinked(core, changes);
                });
            }
            Input::Listed(n, with) => {
                let entries = [
                    RemoteEntry::File(version(&path(n), with)),
                    RemoteEntry::Dir {
                        path: path(with),
                        explicit: n.is_multiple_of(2),
                        mode: None,
                    },
                ];
                let known = self.core.known();
                let mut seen = std::collections::HashSet::new();
                self.step(|core, now, changes| {
                    core.check_listed(&entries, &known, changes);
                    core.offer_outlived(&entries, now, changes);
                    core.apply_listing(
                        &entries,
                        &mut seen,
                        |_| with.is_multiple_of(3),
                        now,
                        changes,
                    );
                    core.note_listed(changes);
                    forget_unlinked(core, changes);
                });
            }
            Input::Missing(n, quiet) => self.step(|core, now, changes| {
                core.missing(&path(n), quiet, now, changes);
                forget_unlinked(core, changes);
            }),
            Input::Rechecked(n, with, quiet) => {
                let at = path(n);
                let theirs = (!with.is_multiple_of(4)).then(|| version(&at, with));
                let theirs = theirs.as_ref();
                self.step(|core, now, changes| {
                    core.check_read(&at, revision(with / 2).as_ref(), theirs, changes);
                    core.rechecked(&at, theirs, quiet, now, changes);
                    forget_unlinked(core, changes);
                });
            }
            Input::Fetched(n, with) => {
                let Some(ino) = self.core.tree.resolve(&path(n)) else { return };
                let Some(wanted) = self.core.wanted(ino) else { return };
                let file = version(&wanted.path, with);
                self.step(|core, _, changes| {
                    if core.still_wants(ino, &wanted, &file) {
                        let blob = BlobId(core.take_id(&mut changes.rows));
                        changes.rows.push(Row::PutBlob(blob, body(whole(1))));
                        core.take_read(ino, &file, (Content::Blob(blob), 8), changes);
                    }
                });
            }
            Input::Lost(n) => {
                let Some(ino) = self.core.tree.resolve(&path(n)) else { return };
                self.step(|core, _, changes| core.content_lost(ino, changes));
            }
            Input::Evicted(n) => {
                let Some(ino) = self.core.tree.resolve(&path(n)) else { return };
                self.step(|core, _, changes| core.evict(ino, changes));
            }
            Input::Forgotten => self.step(|core, _, changes| forget_unlinked(core, changes)),
            Input::Retry(n) => {
                self.step(|core, _, changes| core.retry(&path(n), changes)).ok();
            }
            Input::GiveUp(n) => {
                let lane = self.core.outbox.lane(&path(n));
                let mut records = lane.into_iter().flat_map(|lane| lane.records());
                let may_be = records.all(|record| record.state != RecordState::Flight);
                drop(records);
                if may_be {
                    self.step(|core, now, changes| core.give_up(&path(n), now, changes));
                }
            }
            Input::Unpark => self.step(|core, _, changes| core.unpark(|_| true, changes)),
            Input::Decide(n, approve) => {
                let Some(id) = pick(&self.core.approvals(), n).map(|one| one.id()) else { return };
                self.step(|core, now, changes| {
                    drop(core.decide_approval(&id, approve, now, changes));
                });
            }
            Input::Suspect(yes) => self.step(|core, _, changes| {
                core.suspect_reset(yes.then(|| "x".to_owned()), changes);
            }),
            Input::Distrust => self.step(|core, _, changes| core.distrust_revisions(changes)),
            Input::Offer(n) => {
                self.step(|core, now, changes| core.offer_again(&path(n), now, changes));
            }
            Input::Can(n) => {
                let capabilities = Capabilities {
                    bulk_move: n & 1 != 0,
                    metadata: n & 2 != 0,
                    directories: n & 4 != 0,
                    symlink: n & 8 != 0,
                    ..Capabilities::default()
                };
                self.step(|core, _, changes| core.set_capabilities(capabilities, changes));
            }
            Input::Other(n) => {
                let server = Some(ServerId(u128::from(n % 3)));
                let answer = Ok(Capabilities { server, ..Capabilities::default() });
                self.step(|core, now, changes| {
                    core.probed(&answer, now, changes);
                    drop(core.resume(Some(crate::engine::link::Answer(server)), now, changes));
                });
            }
            Input::Restart => self.restart(),
        }
    }

    fn seal(&mut self, n: u8, kind: u8, held: bool) {
        let Some(ino) = self.core.file_at(&path(n)) else { return };
        let bytes = whole(u64::from(kind) + 10);
        let held_until = held.then(|| self.now.mono + Duration::from_secs(5));
        let (mtime, ctime) = (self.now.wall, self.now.wall);
        self.step(|core, now, changes| {
            let there = core.tree.get(ino).and_then(|node| node.body()).map(|body| body.content);
            let content = match (there, kind % 3) {
                (Some(Content::File(file)), _) => Content::File(file),
                (_, 0) => Content::Empty,
                (_, 1) => Content::File(FileId(core.take_id(&mut changes.rows))),
                _ => Content::Blob(BlobId(core.take_id(&mut changes.rows))),
            };
            if let Content::Blob(blob) = content {
                changes.rows.push(Row::PutBlob(blob, body(bytes)));
            }
            let sealed = Sealed { content, size: 66, mtime, ctime, held_until };
            core.seal(ino, &sealed, now, changes);
        });
    }

    /// As `reconcile` does: only for what is current, and has a node.
    fn keep(&mut self, n: u8, with: u8, push: bool) {
        let lanes: Vec<Record> =
            self.core.outbox.lanes().map(|(_, lane)| lane.current.record.clone()).collect();
        let Some(record) = pick(&lanes, n).filter(|record| record.op == Op::Put) else { return };
        if self.core.outbox.lane(&record.path).is_some_and(|lane| lane.has_newer()) {
            return;
        }
        let theirs = version(&record.path, with);
        let conflict = ConflictRow {
            id: self.core.conflict_id(record),
            path: record.path.clone(),
            at: self.now.wall,
            kind: "edit".into(),
            base_revision: None,
            theirs_revision: None,
            ours: None,
            theirs: None,
            base: None,
            folder: "x".into(),
            ours_by: None,
            ours_at: None,
            theirs_at: None,
            sibling: None,
            resolution: None,
        };
        self.step(|core, now, changes| {
            if push {
                let base = Some(body(whole(2)));
                let content = (with.is_multiple_of(2))
                    .then(|| crate::engine::copies::NewContent::Small(body(whole(3))));
                core.pushed(
                    record,
                    Push { theirs: &theirs, base, content },
                    conflict,
                    now,
                    changes,
                );
            } else {
                core.kept(record, &theirs, conflict, now, changes);
            }
            forget_unlinked(core, changes);
        });
    }
}

/// A record as a restart has it: what is in flight waits, and what only this run knows is left out.
fn durable(record: &Record, on_disk: &Record) -> Record {
    let mut record = record.clone();
    let waits = |state: &RecordState| matches!(state, RecordState::Flight | RecordState::Waiting);
    if record.state == RecordState::Flight {
        record.blob = on_disk.blob;
    }
    if waits(&record.state) && waits(&on_disk.state) {
        record.state = on_disk.state.clone();
    }
    if on_disk.base == RecordBase::Follows {
        record.base = RecordBase::Follows;
    }
    record.attempts = on_disk.attempts;
    record.last_error.clone_from(&on_disk.last_error);
    record
}

/// Times of folders are not kept when what is in them comes from elsewhere.
fn timeless(node: &Node) -> Node {
    let zero = Timestamp::UNIX_EPOCH;
    Node { atime: zero, mtime: zero, ctime: zero, ..node.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: super::asked("STEPS_RUNS").unwrap_or(1500),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    /// Anything may happen in any order.
    #[test]
    fn any_steps_leave_on_disk_what_is_in_memory(inputs in prop::collection::vec(input(), 1..60)) {
        let mut bench = Bench::new();
        for input in &inputs {
            bench.live(input);
        }
        bench.restart();
    }
}
