//! A crash at every failpoint: what was acknowledged is there, nothing is invented, nothing older
//! wins, all sides agree in the end, and the restart needs no hand.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use mountd::failpoints::POINTS;
use nix::sys::signal::Signal;

use crate::run::{Run, Victim};
use crate::support::{Kind, bytes, wait_for};
use crate::workflows;
use crate::world::Op;

/// What leads to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// Calls on small files and on names.
    Small,
    /// Calls on files that have working files.
    Large,
    /// A server without extensions gets a name that it cannot take among others.
    Original,
    /// Both sides changed a file.
    Conflict,
    /// Files of others are read.
    Fetch,
    /// Local content takes more disk than it may.
    Evict,
    /// Others store files.
    News,
    /// Others change what is open here.
    Recheck,
    /// The workspace is mounted for the first time.
    First,
    /// It is mounted again.
    Again,
    /// Its state is repaired while it does not run.
    Repair,
    /// It is unmounted.
    Stop,
    /// The server starts again.
    ServerAgain,
    /// The server stops.
    ServerStop,
    /// A text is merged.
    Merge,
    /// A person ends conflicts.
    Resolve,
    /// A person has two versions merged that a rule kept apart.
    MergeLater,
    /// A person approves removals.
    Approve,
    /// A person refuses removals.
    Reject,
    /// Records are exported, given up and imported.
    Carry,
    /// A large content is damaged.
    DamagedContent,
    /// A row is.
    DamagedRow,
    /// The database is.
    DamagedDatabase,
    /// Its log is.
    DamagedLog,
}

/// Which story leads to a point, and at which of its passes it is crashed at.
fn plan(point: &str) -> (Story, &'static [usize]) {
    match point {
        "start.migrate" => (Story::First, &[1]),
        "start.rows_kept" => (Story::DamagedRow, &[1]),
        "conflict.base" | "conflict.merged" => (Story::Merge, &[1]),
        "resolve.submitted" | "resolve.committed" | "resolve.content" => (Story::Resolve, &[1, 2]),
        "resolve.replaced" => (Story::Resolve, &[1]),
        "export.contents" | "export.manifest" => (Story::Carry, &[1, 2]),
        "discard.given_up" | "import.taken" => (Story::Carry, &[1, 2]),
        "import.copied" => (Story::Carry, &[1, 2]),
        "approve.decided" => (Story::Approve, &[1]),
        "aside.renamed" => (Story::DamagedContent, &[1]),
        "sums.learned" => (Story::Large, &[1]),
        _ if point.starts_with("salvage.") => (Story::DamagedDatabase, &[1]),
        _ if point.starts_with("log.") => (Story::DamagedLog, &[1]),
        _ if point.starts_with("listing.") => (Story::First, &[1]),
        _ if point.starts_with("start.") => (Story::Again, &[1]),
        "seal.begin" | "seal.submitted" => (Story::Small, &[1, 3]),
        "step.submitted" => (Story::Small, &[1, 2, 4, 7]),
        "store.checkpoint" | "store.checkpoint.copy" | "store.checkpoint.after" => {
            (Story::Small, &[1])
        }
        _ if point.starts_with("store.commit.") => (Story::Small, &[1, 2, 4, 7]),
        "fs.write.disk" | "fs.write.disk.after" => (Story::Large, &[1, 3]),
        "fs.fsync.data" | "content.sync.folder" => (Story::Large, &[1]),
        "disk_write.noted" | "content.sync" | "content.sync.after" => (Story::Large, &[1]),
        _ if point.starts_with("spill.") => (Story::Large, &[1, 2]),
        _ if point.starts_with("trash.") => (Story::Large, &[1]),
        "send.single.copied" => (Story::Original, &[1]),
        _ if point.starts_with("send.single.") => (Story::Large, &[1, 2]),
        _ if point.starts_with("send.") => (Story::Small, &[1, 2]),
        _ if point.starts_with("settle.") => (Story::Conflict, &[1]),
        _ if point.starts_with("conflict.") => (Story::Conflict, &[1]),
        _ if point.starts_with("fetch.") => (Story::Fetch, &[1]),
        _ if point.starts_with("evict.") => (Story::Evict, &[1]),
        _ if point.starts_with("feed.") => (Story::News, &[1, 2]),
        _ if point.starts_with("recheck.") => (Story::Recheck, &[1]),
        _ if point.starts_with("repair.") => (Story::Repair, &[1]),
        _ if point.starts_with("stop.") => (Story::Stop, &[1]),
        "server.start.swept" => (Story::ServerAgain, &[1]),
        "server.stop" => (Story::ServerStop, &[1]),
        _ if point.starts_with("server.body.") => (Story::Large, &[1]),
        _ if point.starts_with("server.") => (Story::Small, &[1, 3]),
        _ => (Story::Small, &[1]),
    }
}

/// Other stories that lead to a point as well, with the pass to crash at.
fn more(point: &str) -> &'static [(Story, usize)] {
    match point {
        "resolve.submitted" | "resolve.committed" => &[(Story::MergeLater, 1)],
        "approve.decided" | "listing.page" | "listing.applied" | "listing.done" => {
            &[(Story::Reject, 1)]
        }
        "store.commit.begin" | "store.commit.rows" | "store.commit.after" => {
            &[(Story::MergeLater, 1), (Story::Reject, 1), (Story::Reject, 2)]
        }
        _ => &[],
    }
}

fn victim(point: &str) -> Victim {
    if point.starts_with("server.") { Victim::Server } else { Victim::Daemon }
}

/// Content that differs for each `number`, with a byte that no text has.
fn content(number: u64, len: usize) -> Vec<u8> {
    let mut content = bytes(number, len);
    if let Some(first) = content.first_mut() {
        *first = 0;
    }
    content
}

fn play(story: Story, point: &str, nth: usize) {
    let points = format!("{point}=crash@{nth}");
    let kind = if story == Story::Original { Kind::Original } else { Kind::Extended };
    let mut run = Run::new(victim(point), kind);
    match story {
        Story::First => {
            run.remote("/theirs", b"theirs");
            run.remote("/folder/theirs", &content(1, 80_000));
            run.crash_at_start(&points);
            run.start();
        }
        _ => {
            run.start();
            run.a.wait_synced();
        }
    }
    match story {
        Story::First => {}
        Story::Small => small(&mut run, &points),
        Story::Large => large(&mut run, &points),
        Story::Original => original(&mut run, &points),
        Story::Conflict => conflict(&mut run, &points),
        Story::Fetch => fetch(&mut run, &points),
        Story::Evict => evict(&mut run, &points),
        Story::News => news(&mut run, &points),
        Story::Recheck => recheck(&mut run, &points),
        Story::Again => again(&mut run, &points),
        Story::Repair => repair(&mut run, &points),
        Story::Stop => stop(&mut run, &points),
        Story::ServerAgain => server_again(&mut run, &points),
        Story::ServerStop => server_stop(&mut run, &points),
        Story::Merge => workflows::merge(&mut run, &points),
        Story::Resolve => workflows::resolve(&mut run, &points),
        Story::MergeLater => workflows::merge_later(&mut run, &points),
        Story::Approve => workflows::approve(&mut run, &points),
        Story::Reject => workflows::reject(&mut run, &points),
        Story::Carry => workflows::carry(&mut run, &points),
        Story::DamagedContent => workflows::damaged_content(&mut run, &points),
        Story::DamagedRow => workflows::damaged_row(&mut run, &points),
        Story::DamagedDatabase => workflows::damaged_database(&mut run, &points),
        Story::DamagedLog => workflows::damaged_log(&mut run, &points),
    }
    run.until_crash();
    assert_eq!(run.crashes, 1);
    run.finish();
}

fn small(run: &mut Run, points: &str) {
    run.op(Op::Mkdir("/old"));
    run.op(Op::Write("/old/file", content(10, 100)));
    run.op(Op::Write("/kept", content(11, 3000)));
    run.a.flush();
    run.arm(points);
    run.op(Op::Mkdir("/d"));
    run.op(Op::Write("/d/a", content(12, 10)));
    run.op(Op::Write("/d/b", content(13, 5000)));
    run.op(Op::Write("/kept", content(14, 2000)));
    run.op(Op::Chmod("/d/a", 0o600));
    run.op(Op::Symlink("a", "/d/link"));
    sent_by_server_victims(run);
    run.op(Op::Rename("/d/a", "/d/c"));
    run.op(Op::Truncate("/d/b", 3));
    run.op(Op::WriteSynced("/d/s", content(15, 500)));
    run.op(Op::Rename("/d/s", "/kept"));
    sent_by_server_victims(run);
    run.op(Op::Unlink("/d/b"));
    run.op(Op::Rename("/old", "/new"));
    run.op(Op::Mkdir("/gone"));
    run.op(Op::Rmdir("/gone"));
    run.op(Op::SyncDir("/d"));
}

/// A server that is to die at a later request gets more than one.
fn sent_by_server_victims(run: &mut Run) {
    if run.crashes == 0 && run.is_server_victim() {
        run.settle();
    }
}

fn large(run: &mut Run, points: &str) {
    run.op(Op::Write("/big", content(20, 300_000)));
    run.op(Op::Write("/replaced", content(21, 120_000)));
    run.op(Op::Write("/removed", content(22, 90_000)));
    run.a.flush();
    run.arm(points);
    run.op(Op::Patch("/big", 150_000, content(23, 20_000)));
    run.op(Op::Write("/replaced", content(24, 400_000)));
    run.op(Op::WriteSynced("/synced", content(25, 500_000)));
    run.op(Op::Write("/grown", content(26, 1000)));
    run.op(Op::Truncate("/grown", 100_000));
    run.op(Op::Unlink("/removed"));
    run.op(Op::Rename("/synced", "/big"));
}

fn original(run: &mut Run, points: &str) {
    run.op(Op::Write("/with a blank ", content(28, 2000)));
    run.settle();
    run.arm(points);
    run.op(Op::Write("/with a blank ", content(29, 3000)));
    run.op(Op::Write("/another ", content(27, 3000)));
}

fn conflict(run: &mut Run, points: &str) {
    run.op(Op::Write("/both", content(30, 2000)));
    run.op(Op::Write("/large", content(31, 200_000)));
    run.a.flush();
    pause(run);
    let (ours, large) = (content(32, 2500), content(33, 210_000));
    run.op(Op::Write("/both", ours.clone()));
    run.op(Op::Write("/large", large.clone()));
    run.remote("/both", &content(34, 1500));
    run.remote("/large", &content(35, 220_000));
    run.must_be_kept(&ours);
    run.must_be_kept(&large);
    run.arm(points);
    resume(run);
}

fn pause(run: &Run) {
    assert!(run.a.ctl(&["pause", "--reason", "a test"]).status.success());
}

/// The daemon may die of it.
fn resume(run: &mut Run) {
    if !run.a.ctl(&["resume"]).status.success() {
        run.recover("it died of a resume");
        drop(run.a.ctl(&["resume"]));
    }
}

fn fetch(run: &mut Run, points: &str) {
    let files = [("/small", 900), ("/middle", 200_000), ("/huge", 1_500_000)];
    for (number, (path, len)) in (40..).zip(files) {
        run.remote(path, &content(number, len));
    }
    wait_for("the files are listed", || {
        files.iter().all(|(path, _)| run.a.at(&path[1..]).exists()).then_some(())
    });
    run.arm(points);
    for (path, _) in files {
        if fs::read(run.a.at(&path[1..])).is_err() {
            run.recover("a read failed");
        }
    }
}

fn evict(run: &mut Run, points: &str) {
    run.op(Op::Write("/a", content(50, 300_000)));
    run.op(Op::Write("/b", content(51, 30_000)));
    run.a.flush();
    assert_eq!(run.a.term(), Some(0));
    run.a.add_args(&["--cache-size", "1KiB"]);
    run.a.add_env("MOUNTD_FAILPOINTS", points);
    // It looks for room as soon as it runs, which may be before it is seen to be mounted.
    run.a.spawn();
    run.a.forget_env("MOUNTD_FAILPOINTS");
    run.recover("there is no room");
}

fn news(run: &mut Run, points: &str) {
    run.op(Op::Write("/known", content(60, 100)));
    run.a.flush();
    run.arm(points);
    run.remote("/one", b"one");
    run.remote("/two", b"two");
    run.remote("/known", &content(61, 70_000));
}

fn recheck(run: &mut Run, points: &str) {
    run.op(Op::Write("/open", content(70, 100)));
    run.a.flush();
    let open = fs::OpenOptions::new().append(true).open(run.a.at("open")).unwrap();
    run.remote("/open", &content(71, 200));
    run.remote("/after", b"after");
    // Events come in order: with the second the first was heard.
    wait_for("news", || run.a.at("after").exists().then_some(()));
    run.arm(points);
    drop(open);
}

fn again(run: &mut Run, points: &str) {
    run.op(Op::Write("/before", content(80, 100)));
    run.op(Op::Write("/large", content(81, 100_000)));
    pause(run);
    run.op(Op::Write("/waiting", content(82, 100)));
    run.op(Op::Write("/large", content(83, 150_000)));
    run.a.kill9();
    // A leftover of a crash, as an earlier run may leave it.
    fs::write(run.a.state().join("files/999999.fetch"), b"half").unwrap();
    run.crash_at_start(points);
    run.restart();
    drop(run.a.ctl(&["resume"]));
}

fn repair(run: &mut Run, points: &str) {
    let (large, other) = (content(84, 100_000), content(85, 150_000));
    run.op(Op::Write("/large", large.clone()));
    run.op(Op::Write("/other", other.clone()));
    run.a.flush();
    pause(run);
    run.op(Op::Write("/waiting", content(86, 100)));
    run.op(Op::Write("/waiting-large", content(87, 120_000)));
    run.a.kill9();
    // What the server has too is damaged in two ways.
    run.was_damaged = true;
    let files = fs::read_dir(run.a.state().join("files")).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        let bytes = fs::read(&file).unwrap();
        if bytes == large {
            fs::write(&file, &large[..99_999]).unwrap();
        } else if bytes == other {
            fs::remove_file(&file).unwrap();
        }
    }
    run.crash_in_repair(points);
    run.restart();
    drop(run.a.ctl(&["resume"]));
}

fn stop(run: &mut Run, points: &str) {
    run.op(Op::Write("/before", content(90, 100)));
    run.arm(points);
    run.op(Op::Write("/last", content(91, 1000)));
    run.op(Op::Write("/large", content(92, 150_000)));
    run.a.signal(Signal::SIGTERM);
    run.recover("it was told to stop");
}

fn server_again(run: &mut Run, points: &str) {
    run.op(Op::Write("/large", content(100, 300_000)));
    run.a.flush();
    run.server.kill9();
    run.op(Op::Write("/meanwhile", content(101, 100)));
    run.server.spawn(points);
    run.server.wait_crash();
    run.crashes += 1;
    run.server.start("");
}

fn server_stop(run: &mut Run, points: &str) {
    run.op(Op::Write("/file", content(110, 3000)));
    run.a.flush();
    run.arm(points);
    run.server.interrupt();
    run.server.wait_crash();
    run.crashes += 1;
    run.op(Op::Write("/meanwhile", content(111, 100)));
    run.server.start("");
}

impl Run {
    /// Repairs the state, and dies on the way; the next repair goes on.
    fn crash_in_repair(&mut self, points: &str) {
        let repair = |points: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
            command.args(["repair", &self.a.name(), "--state-dir"]);
            command.arg(self.a.state().parent().unwrap());
            command.env("MOUNTD_FAILPOINTS", points);
            command.output().unwrap()
        };
        assert_eq!(repair(points).status.signal(), Some(9));
        let output = repair("");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        self.crashes += 1;
    }

    /// Starts the daemon, which dies on the way.
    pub fn crash_at_start(&mut self, points: &str) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.a.outside().join("log"))
            .unwrap();
        let mut command = self.a.command(&[]);
        command.env("MOUNTD_FAILPOINTS", points);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let status = wait_for("the crash at the start", || child.try_wait().unwrap());
        assert_eq!(status.signal(), Some(9), "{status}\n{}", self.a.log());
        self.crashes += 1;
    }
}

/// A file that was created and never closed when the daemon died is there or not, and the server knows
/// it if it is.
#[test]
fn a_file_that_was_never_closed_is_on_both_sides_or_on_none() {
    crate::fuse_or_skip!();
    for point in ["fs.create", "fs.write.memory", "fs.flush", "seal.begin"] {
        let mut run = Run::new(Victim::Daemon, Kind::Extended);
        run.start();
        run.a.wait_synced();
        run.op(Op::Write("/first", content(1, 10)));
        run.a.flush();
        run.arm(&format!("{point}=crash"));
        Op::Write("/begun", content(2, 1000)).perform(&run.a.path()).unwrap_err();
        run.may_be_begun(&Op::Write("/begun", content(2, 1000)));
        run.recover(point);
        run.finish();
    }
}

/// Every failpoint is reached, and a crash there loses nothing. `POINT=name` plays only those whose
/// name begins so, `STORY=name` only that story; `PASS=n` crashes at the n-th pass.
#[test]
fn a_crash_at_every_failpoint_loses_nothing() {
    crate::fuse_or_skip!();
    let only = std::env::var("POINT").unwrap_or_default();
    let pass: Option<usize> = std::env::var("PASS").ok().map(|pass| pass.parse().unwrap());
    let told = std::env::var("STORY").ok();
    let mut plays: VecDeque<(Story, &str, usize)> = VecDeque::new();
    for point in POINTS.iter().filter(|point| point.starts_with(&only)) {
        let (story, passes) = plan(point);
        let usual = passes.iter().map(|pass| (story, *pass));
        let all = usual.chain(more(point).iter().copied());
        let all =
            all.filter(|(story, _)| told.as_ref().is_none_or(|told| told == &format!("{story:?}")));
        let mut all: Vec<_> =
            all.map(|(story, nth)| (story, *point, pass.unwrap_or(nth))).collect();
        all.dedup();
        plays.extend(all);
    }
    let began = Instant::now();
    let (total, queue) = (plays.len(), Mutex::new(plays));
    let failed = Mutex::new(BTreeSet::new());
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some((story, point, pass)) = next else { return };
                    if catch_unwind(AssertUnwindSafe(|| play(story, point, pass))).is_err() {
                        let which = format!("STORY={story:?} POINT={point} PASS={pass}");
                        eprintln!("FAILED: {which}");
                        failed.lock().unwrap().insert(which);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let points = POINTS.iter().filter(|point| point.starts_with(&only)).count();
    eprintln!("{total} crashes at {points} failpoints in {:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {total}: {failed:#?}", failed.len());
}
