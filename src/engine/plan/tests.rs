//! What is sent when, together with what, and why something is held.

use bytes::Bytes;
use jiff::Timestamp;

use super::*;
use crate::engine::core::Settings;
use crate::engine::local::{Creator, Sealed};
use crate::engine::rename::RenameMode;
use crate::engine::replies::Answer;
use crate::node::{FileBody, ROOT, Synced};
use crate::remote::Outcome;
use crate::revision::Revision;
use crate::store::{Loaded, Row};

/// A core whose clock the test moves.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: Now,
    revisions: u64,
}

impl Bench {
    /// Online, on a server that offers `capabilities`.
    pub(super) fn new(capabilities: Capabilities) -> Self {
        let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        let (mut core, _) = Core::new(Loaded::default(), Settings::default(), now, 1);
        core.set_capabilities(capabilities, &mut Changes::default());
        core.link.reached();
        Self { core, now, revisions: 0 }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
    }

    fn make(&mut self, parent: Ino, name: &str, kind: Kind) -> Ino {
        let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
        self.core.create(parent, name, kind, creator, self.now, &mut Changes::default()).unwrap()
    }

    pub(super) fn folder(&mut self, parent: Ino, name: &str) -> Ino {
        self.make(parent, name, Kind::Dir { explicit: true })
    }

    /// Writes and closes a file, as a program would.
    pub(super) fn write(&mut self, parent: Ino, name: &str, size: u64) -> Ino {
        let ino = self.core.tree.child(parent, name).unwrap_or_else(|| {
            let empty = FileBody { content: Content::Empty, size: 0, exact: true };
            self.make(parent, name, Kind::File(empty))
        });
        let mut changes = Changes::default();
        let blob = BlobId(self.core.take_id(&mut changes.rows));
        let content = Content::Blob(blob);
        let sealed =
            Sealed { content, size, mtime: self.now.wall, ctime: self.now.wall, held_until: None };
        self.core.seal(ino, &sealed, self.now, &mut changes);
        changes.rows.push(Row::PutBlob(blob, Bytes::new()));
        ino
    }

    pub(super) fn plan(&mut self) -> Plan {
        self.core.plan(self.now)
    }

    /// The requests of a plan, each as `op path` words.
    fn requests(&mut self) -> Vec<Vec<String>> {
        let plan = self.plan();
        requests(&plan)
    }

    /// Answers every item of a plan with success.
    pub(super) fn accept(&mut self, plan: Plan) {
        for task in plan.tasks {
            let items = match task {
                Task::Bulk(items) => {
                    self.core.batch_over();
                    items
                }
                Task::Single(item) => {
                    self.core.single_over();
                    vec![*item]
                }
                _ => continue,
            };
            let answers = items
                .into_iter()
                .map(|item| {
                    self.revisions += 1;
                    let revision = Revision::new(&format!("rev_{}", self.revisions));
                    let outcome = Some(Outcome::Accepted { revision });
                    Answer { item, digest: None, outcome }
                })
                .collect();
            self.core.answered(answers, Duration::ZERO, self.now, &mut Changes::default());
        }
    }

    /// Sends until nothing is left; returns the requests in order.
    fn drain(&mut self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for _ in 0..100 {
            self.pass(Duration::from_secs(1));
            let plan = self.plan();
            if plan.tasks.is_empty() {
                break;
            }
            all.extend(requests(&plan));
            self.accept(plan);
        }
        assert!(self.core.outbox.is_empty(), "left: {:?}", self.core.outbox);
        all
    }

    fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) {
        let changes = &mut Changes::default();
        self.core.rename(from, to, mode, |_| false, self.now, changes).unwrap();
    }

    fn unlink(&mut self, parent: Ino, name: &str) {
        self.core.unlink(parent, name, false, self.now, &mut Changes::default()).unwrap();
    }
}

fn requests(plan: &Plan) -> Vec<Vec<String>> {
    let words = |item: &Item| match &item.moved_from {
        Some((from, _)) => format!("move {from} {}", item.path),
        None => format!("{} {}", item.op.word(), item.path),
    };
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::Bulk(items) => Some(items.iter().map(words).collect()),
            Task::Single(item) => Some(vec![words(item)]),
            _ => None,
        })
        .collect()
}

fn everything() -> Capabilities {
    Capabilities {
        unmodified_since: true,
        bulk_delete: true,
        bulk_move: true,
        metadata: true,
        symlink: true,
        directories: true,
        raw: true,
        exact_size: true,
        body_bytes_max: None,
        file_bytes_max: None,
        server: None,
    }
}

#[test]
fn a_burst_leaves_in_one_request_when_it_is_quiet() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..10 {
        bench.write(ROOT, &format!("f{n}"), 10);
        bench.pass(Duration::from_millis(5));
    }
    assert!(bench.requests().is_empty());
    bench.pass(Duration::from_millis(15));
    let sent = bench.requests();
    assert_eq!((sent.len(), sent[0].len()), (1, 10));
}

/// What is sent in the middle of a burst would only slow it down, also where it fills a request.
#[test]
fn the_end_of_a_burst_is_waited_for_unless_somebody_is_in_a_hurry() {
    let mut bench = Bench::new(everything());
    let write = |bench: &mut Bench, files: u64| {
        for n in 0..files {
            bench.write(ROOT, &format!("f{n}"), 10);
            bench.pass(Duration::from_micros(100));
        }
    };
    write(&mut bench, 600);
    let plan = bench.plan();
    assert!(plan.tasks.is_empty());
    let due = plan.deadline.unwrap();
    assert!(due < bench.now.mono + Duration::from_millis(20), "{due:?}");
    bench.now.mono = due;
    assert_eq!(bench.requests().len(), 2, "full ones go, the rest gathers meanwhile");

    let mut bench = Bench::new(everything());
    write(&mut bench, 600);
    bench.core.urgent = true;
    assert_eq!(bench.requests().len(), 2, "full ones go, the rest gathers meanwhile");

    // What goes on for longer is no burst: then full requests go beside it.
    let mut bench = Bench::new(everything());
    write(&mut bench, 10_100);
    assert!(!bench.requests().is_empty());
}

#[test]
fn steady_writing_does_not_put_off_a_change_for_ever() {
    let mut bench = Bench::new(Capabilities::default());
    let began = bench.now.mono;
    for n in 0.. {
        bench.write(ROOT, &format!("f{n}"), 10);
        if !bench.requests().is_empty() {
            break;
        }
        bench.pass(Duration::from_millis(10));
    }
    let waited = bench.now.mono - began;
    assert!(waited <= bench.core.settings.max_delay, "{waited:?}");
}

#[test]
fn while_a_request_is_under_way_new_records_gather() {
    let mut bench = Bench::new(Capabilities::default());
    bench.write(ROOT, "a", 10);
    bench.pass(Duration::from_secs(1));
    let first = bench.plan();
    assert_eq!(requests(&first), [["write /a"]]);
    bench.write(ROOT, "b", 10);
    bench.write(ROOT, "a", 11);
    bench.pass(Duration::from_secs(1));
    assert!(bench.requests().is_empty(), "part of a batch waits for the reply");
    bench.accept(first);
    assert_eq!(bench.requests(), [["write /b", "write /a"]]);
}

#[test]
fn requests_stay_below_the_cap_and_full_ones_go_side_by_side() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..100 {
        bench.write(ROOT, &format!("f{n}"), 60_000);
    }
    bench.pass(Duration::from_secs(1));
    let sent = bench.requests();
    assert_eq!(sent.len(), bench.core.settings.in_flight_max);
    assert!(sent.iter().all(|request| request.len() * 80_000 <= 1 << 20));
}

#[test]
fn a_renamed_file_is_stored_before_its_old_name_goes() {
    let mut bench = Bench::new(Capabilities::default());
    bench.write(ROOT, "old", 10);
    bench.drain();
    bench.rename((ROOT, "old"), (ROOT, "new"), RenameMode::Replace);
    assert_eq!(bench.drain(), [["write /new"], ["delete /old"]]);
}

#[test]
fn a_server_that_moves_gets_no_content_again() {
    let mut bench = Bench::new(everything());
    let folder = bench.folder(ROOT, "d");
    bench.write(folder, "f", 10);
    bench.drain();
    bench.rename((ROOT, "d"), (ROOT, "e"), RenameMode::Replace);
    let sent = bench.drain();
    assert_eq!(sent[0], ["mkdir /e", "move /d/f /e/f"]);
    assert_eq!(sent[1], ["rmdir /d"]);
}

#[test]
fn a_saved_file_replaces_without_its_temporary_name_being_sent() {
    let mut bench = Bench::new(everything());
    bench.write(ROOT, "f", 10);
    bench.drain();
    bench.write(ROOT, ".f.tmp", 11);
    bench.rename((ROOT, ".f.tmp"), (ROOT, "f"), RenameMode::Replace);
    let plan = {
        bench.pass(Duration::from_secs(1));
        bench.plan()
    };
    let Task::Bulk(items) = &plan.tasks[0] else { panic!("{plan:?}") };
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].path.as_str(), items[0].op), ("/f", Op::Put));
    assert_eq!(items[0].precondition, Precondition::Match(Revision::new("rev_1").unwrap()));
}

#[test]
fn names_that_change_places_keep_each_others_base() {
    let mut bench = Bench::new(Capabilities::default());
    bench.write(ROOT, "a", 1);
    bench.write(ROOT, "b", 2);
    bench.drain();
    bench.rename((ROOT, "a"), (ROOT, "b"), RenameMode::Exchange);
    bench.pass(Duration::from_secs(1));
    let plan = bench.plan();
    let Task::Bulk(items) = &plan.tasks[0] else { panic!("{plan:?}") };
    let sent: Vec<_> = items.iter().map(|i| (i.path.as_str(), i.precondition.clone())).collect();
    let matching = |n: u32| Precondition::Match(Revision::new(&format!("rev_{n}")).unwrap());
    assert!(sent.contains(&("/a", matching(1))) && sent.contains(&("/b", matching(2))), "{sent:?}");
}

#[test]
fn a_file_in_the_way_goes_first() {
    let mut bench = Bench::new(everything());
    bench.write(ROOT, "x", 1);
    bench.drain();
    bench.unlink(ROOT, "x");
    let folder = bench.folder(ROOT, "x");
    bench.write(folder, "y", 1);
    let sent = bench.drain();
    assert_eq!(sent[0], ["delete /x"]);
    assert!(sent[1].contains(&"write /x/y".to_owned()), "{sent:?}");
}

#[test]
fn a_renamed_file_that_was_never_fetched_is_fetched_before_its_old_name_is_stored_anew() {
    let mut bench = Bench::new(Capabilities::default());
    let ino = bench.write(ROOT, "a", 10);
    bench.drain();
    // Seen from another machine: only the remote has the bytes.
    let node = bench.core.tree.get_mut(ino).unwrap();
    let revision = Revision::new("rev_1");
    node.synced = Some(Box::new(Synced { revision, ..Synced::default() }));
    node.body_mut().unwrap().content = Content::Remote;
    bench.rename((ROOT, "a"), (ROOT, "b"), RenameMode::Replace);
    bench.write(ROOT, "a", 5);
    bench.pass(Duration::from_secs(1));
    let plan = bench.plan();
    let fetched = plan.tasks.iter().any(|task| matches!(task, Task::Fetch(i) if *i == ino));
    assert!(fetched, "{plan:?}");
    assert_eq!(requests(&plan), [["write /b"]]);
}

#[test]
fn an_open_changed_file_waits_unless_somebody_is_in_a_hurry() {
    let mut bench = Bench::new(Capabilities::default());
    let ino = bench.write(ROOT, "f", 10);
    let held_until = Some(bench.now.mono + Duration::from_secs(5));
    let body = bench.core.tree.get(ino).unwrap().body().copied().unwrap();
    let sealed = Sealed {
        content: body.content,
        size: 10,
        mtime: bench.now.wall,
        ctime: bench.now.wall,
        held_until,
    };
    bench.core.seal(ino, &sealed, bench.now, &mut Changes::default());
    bench.pass(Duration::from_secs(1));
    let plan = bench.plan();
    assert!(plan.tasks.is_empty());
    assert_eq!(plan.deadline, held_until);
    bench.core.urgent = true;
    assert_eq!(bench.requests(), [["write /f"]]);
}

#[test]
fn a_refused_batch_is_halved_until_the_bad_record_is_alone() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..8 {
        bench.write(ROOT, &format!("f{n}"), 1);
    }
    let refused = RemoteError::Invalid { message: "no".into() };
    for _ in 0..100 {
        bench.pass(Duration::from_secs(2));
        for task in bench.plan().tasks {
            match task {
                Task::Bulk(items) if items.iter().any(|item| item.path.as_str() == "/f3") => {
                    bench.core.batch_over();
                    bench.core.failed(items, &refused, 100, bench.now, &mut Changes::default());
                }
                task => bench.accept(Plan { tasks: vec![task], deadline: None }),
            }
        }
    }
    let left: Vec<_> = bench.core.outbox.lanes().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0.as_str(), "/f3");
    assert_eq!(bench.core.outbox.parked(), 1);
}

#[test]
fn too_large_requests_teach_the_cap() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..20 {
        bench.write(ROOT, &format!("f{n}"), 30_000);
    }
    bench.pass(Duration::from_secs(1));
    let plan = bench.plan();
    let Some(Task::Bulk(items)) = plan.tasks.first().cloned() else { panic!("{plan:?}") };
    bench.core.batch_over();
    let before = items.len();
    bench.core.failed(items, &RemoteError::TooLarge, 800_000, bench.now, &mut Changes::default());
    assert_eq!(bench.core.body_bytes, 400_000);
    bench.pass(Duration::from_secs(1));
    assert!(bench.requests()[0].len() < before);
}

/// A server that finds everything too large is asked ever less at once, and in the end no more.
#[test]
fn a_server_that_takes_nothing_is_not_asked_for_ever() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..100 {
        bench.write(ROOT, &format!("f{n}"), 10);
    }
    bench.pass(Duration::from_secs(1));
    let mut requests = 0;
    loop {
        let tasks = bench.plan().tasks;
        if tasks.is_empty() {
            break;
        }
        for task in tasks {
            let items = match task {
                Task::Bulk(items) => {
                    bench.core.batch_over();
                    items
                }
                Task::Single(item) => {
                    bench.core.single_over();
                    vec![*item]
                }
                other => panic!("{other:?}"),
            };
            requests += 1;
            assert!(requests < 400, "no end: {} at once", items.len());
            let bytes = items.len() as u64 * 200;
            let refused = RemoteError::TooLarge;
            bench.core.failed(items, &refused, bytes, bench.now, &mut Changes::default());
        }
    }
    assert_eq!(bench.core.outbox.parked(), 100);
}

#[test]
fn while_the_way_is_down_one_trial_goes_ahead() {
    let mut bench = Bench::new(Capabilities::default());
    for n in 0..1000 {
        bench.write(ROOT, &format!("f{n}"), 10);
    }
    let lost = RemoteError::Unreachable { message: String::new(), maybe_applied: false };
    bench.core.link.failed(&lost, bench.now.mono, bench.now.wall, 0.0);
    assert!(bench.requests().is_empty());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.requests().len(), 1);
    assert!(bench.requests().is_empty());
}

#[test]
fn a_paused_outbox_keeps_everything() {
    let mut bench = Bench::new(Capabilities::default());
    bench.write(ROOT, "f", 10);
    let pause = super::super::link::Pause { reason: None, since: bench.now.wall, until: None };
    bench.core.set_pause(Some(pause), &mut Changes::default());
    bench.pass(Duration::from_secs(60));
    assert!(bench.requests().is_empty());
    assert_eq!(bench.core.outbox.len(), 1);
}
