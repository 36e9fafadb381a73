//! Stories that lead through what people decide, through merges, and through damage that is mended: each
//! is played by `crash` with one point set to crash.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;

use crate::run::Run;
use crate::support::{bytes, wait_for};
use crate::world::Op;

const BASE: &str = "first\nsecond\nthird\nfourth\nfifth\n";
const OURS: &str = "first, ours\nsecond\nthird\nfourth\nfifth\n";
const THEIRS: &str = "first\nsecond\nthird\nfourth\nfifth, theirs\n";
const MERGED: &str = "first, ours\nsecond\nthird\nfourth\nfifth, theirs\n";

fn pause(run: &Run) {
    assert!(run.a.ctl(&["pause", "--reason", "a test"]).status.success());
}

/// What mountctl says, if the daemon is there to be asked.
fn asked(run: &Run, args: &[&str]) -> Option<Value> {
    let output = run.a.ctl(&[args, &["--json"]].concat());
    let mut document: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(document["data"].take())
}

fn status(run: &Run, pointer: &str) -> Option<u64> {
    asked(run, &["status"])?.pointer(&format!("/mount/{pointer}"))?.as_u64()
}

/// Runs a command that the daemon may die of, until `done`.
#[track_caller]
fn until(run: &mut Run, done: impl Fn(&Run) -> bool, mut command: impl FnMut(&Run)) {
    wait_for("what was decided", || {
        command(run);
        if run.a.has_ended() {
            run.recover("a command");
        }
        done(run).then_some(())
    });
}

/// Both sides changed different lines of a text.
pub fn merge(run: &mut Run, points: &str) {
    run.op(Op::Write("/text", BASE.into()));
    run.a.flush();
    pause(run);
    run.op(Op::Write("/text", OURS.into()));
    run.server.http.put("/text", THEIRS.as_bytes());
    run.becomes("/text", MERGED.as_bytes());
    run.arm(points);
    until(run, |_| true, |run| drop(run.a.ctl(&["resume"])));
}

/// A person ends two conflicts with ours; one of the files was changed since.
pub fn resolve(run: &mut Run, points: &str) {
    let content = |seed, len| [vec![0], bytes(seed, len)].concat();
    let (small, large) = (content(1, 900), content(2, 90_000));
    run.op(Op::Write("/small", content(3, 500)));
    run.op(Op::Write("/large", content(4, 80_000)));
    run.a.flush();
    pause(run);
    run.op(Op::Write("/small", small.clone()));
    run.op(Op::Write("/large", large.clone()));
    for (path, theirs) in [("/small", content(5, 700)), ("/large", content(6, 70_000))] {
        run.server.http.put(path, &theirs);
        run.becomes(path, &theirs);
    }
    assert!(run.a.ctl(&["resume"]).status.success());
    wait_for("the conflicts", || (run.a.status()["conflicts"]["open"] == 2).then_some(()));
    run.narrow();
    run.op(Op::Write("/small", content(7, 800)));
    run.settle();
    run.becomes("/small", &small);
    run.becomes("/large", &large);
    run.arm(points);
    let args = ["conflicts", "resolve", "--all", "--ours", "--force", "--yes"];
    let done = |run: &Run| status(run, "conflicts/open") == Some(0);
    until(run, done, |run| drop(run.a.ctl(&args)));
}

/// A person has merged what a rule kept apart, into what the file is by then.
pub fn merge_later(run: &mut Run, points: &str) {
    run.op(Op::Write("/text", BASE.into()));
    run.a.flush();
    assert_eq!(run.a.term(), Some(0));
    run.a.add_args(&["--conflict", "keep"]);
    run.a.start();
    pause(run);
    run.op(Op::Write("/text", OURS.into()));
    run.server.http.put("/text", THEIRS.as_bytes());
    run.becomes("/text", THEIRS.as_bytes());
    assert!(run.a.ctl(&["resume"]).status.success());
    wait_for("the conflict", || (run.a.status()["conflicts"]["open"] == 1).then_some(()));
    run.narrow();
    run.becomes("/text", MERGED.as_bytes());
    run.arm(points);
    let done = |run: &Run| status(run, "conflicts/open") == Some(0);
    until(run, done, |run| drop(run.a.ctl(&["conflicts", "merge", "--all"])));
}

/// How many files are removed at once, to be very many.
const MANY: usize = 520;

/// Very many files are removed here, and that is held.
fn remove_many(run: &mut Run) -> Vec<(String, Vec<u8>)> {
    run.op(Op::Mkdir("/many"));
    let files: Vec<_> = (0..MANY).map(|n| (format!("/many/{n}"), vec![b'x'])).collect();
    for (path, content) in &files {
        fs::write(run.a.at(&path[1..]), content).unwrap();
    }
    run.a.flush();
    pause(run);
    for (path, _) in &files {
        fs::remove_file(run.a.at(&path[1..])).unwrap();
    }
    wait_for("it is held", || (run.a.status()["approvals"] == 1).then_some(()));
    assert_eq!(run.server.http.files().len(), MANY);
    files
}

/// Very many files are removed, and a person refuses: they come back, whenever the daemon dies.
pub fn reject(run: &mut Run, points: &str) {
    let files = remove_many(run);
    run.arm(points);
    wait_for("the files are back, after a crash", || {
        if run.a.has_ended() {
            run.died("a refusal");
            run.a.start();
        }
        let waiting = asked(run, &["approvals"])?;
        if let Some(id) = waiting["approvals"][0]["id"].as_str() {
            drop(run.a.ctl(&["approve", id, "--reject"]));
            return None;
        }
        let back = fs::read_dir(run.a.at("many")).ok()?.count();
        (run.crashes > 0 && back == MANY).then_some(())
    });
    run.holds(&files);
    run.narrow();
    assert_eq!(run.server.http.files().len(), MANY, "nothing was removed at the server");
    assert!(run.a.ctl(&["resume"]).status.success());
}

/// Very many files are removed, and a person approves.
pub fn approve(run: &mut Run, points: &str) {
    remove_many(run);
    run.arm(points);
    let done = |run: &Run| status(run, "approvals") == Some(0);
    until(run, done, |run| {
        let Some(waiting) = asked(run, &["approvals"]) else { return };
        if let Some(id) = waiting["approvals"][0]["id"].as_str() {
            drop(run.a.ctl(&["approve", id]));
        }
    });
    assert!(run.a.ctl(&["resume"]).status.success());
}

/// Work is carried off, given up here, and taken up again.
pub fn carry(run: &mut Run, points: &str) {
    let (kept, large) = (bytes(10, 700), bytes(11, 90_000));
    run.op(Op::Write("/kept", kept.clone()));
    run.a.flush();
    pause(run);
    run.op(Op::Write("/kept", bytes(12, 800)));
    run.op(Op::Write("/large", large));
    run.may_show("/kept", Some(&kept));
    run.may_show("/large", None);
    run.arm(points);
    let folder = |n: usize| format!("exported-{n}");
    let outside = run.a.outside().to_owned();
    let whole = |n: usize| outside.join(folder(n)).join("manifest.json").exists();
    let mut tries = 0;
    until(
        run,
        |_| (1..10).any(whole),
        |run| {
            tries += 1;
            let dir = outside.join(folder(tries));
            drop(run.a.ctl(&["outbox", "export", dir.to_str().unwrap()]));
        },
    );
    let folder = outside.join(folder((1..10).find(|n| whole(*n)).unwrap()));
    let queued = |run: &Run| status(run, "uploads/queued");
    let discard = |run: &Run| drop(run.a.ctl(&["outbox", "discard", "--all", "--yes"]));
    until(run, |run| queued(run) == Some(0), discard);
    let import = |run: &Run| drop(run.a.ctl(&["outbox", "import", folder.to_str().unwrap()]));
    until(run, |run| queued(run) == Some(2), import);
    assert!(run.a.ctl(&["resume"]).status.success());
}

/// Flips a bit of the first place in `file` where `needle` is.
fn flip(file: &Path, needle: &[u8]) {
    let bytes = fs::read(file).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    // In a log not in the highest byte of a number: of those it cannot always be told which it was.
    let at = at + usize::from((at - 56) % 4 == 3);
    let open = fs::File::options().write(true).open(file).unwrap();
    open.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    open.sync_all().unwrap();
}

/// A large content that the server has too is damaged, and read.
pub fn damaged_content(run: &mut Run, points: &str) {
    run.damaged = true;
    let content = bytes(20, 200_000);
    run.op(Op::Write("/large", content.clone()));
    run.a.flush();
    wait_for("its checksums", || {
        let state = rusqlite::Connection::open(run.a.state().join("state.db")).unwrap();
        let count = state.query_row("SELECT count(*) FROM sums", [], |row| row.get::<_, i64>(0));
        (count.unwrap() == 1).then_some(())
    });
    assert_eq!(run.a.term(), Some(0));
    let file = fs::read_dir(run.a.state().join("files")).unwrap().next().unwrap().unwrap().path();
    flip(&file, &content[100_000..100_016]);
    run.a.start();
    run.arm(points);
    drop(fs::read(run.a.at("large")));
    wait_for("the end of the daemon", || run.a.has_ended().then_some(()));
}

/// A row of the database is damaged.
pub fn damaged_row(run: &mut Run, points: &str) {
    run.damaged = true;
    run.op(Op::Write("/file", bytes(21, 100)));
    run.op(Op::Write("/other", bytes(22, 100)));
    run.a.flush();
    assert_eq!(run.a.term(), Some(0));
    let state = rusqlite::Connection::open(run.a.state().join("state.db")).unwrap();
    let damage = "UPDATE nodes SET size = size + 1 WHERE name = 'file'";
    assert_eq!(state.execute(damage, []).unwrap(), 1);
    drop(state);
    // Until the tree was listed anew.
    run.may_show("/file", None);
    run.crash_at_start(points);
    run.restart();
}

/// The database is damaged.
pub fn damaged_database(run: &mut Run, points: &str) {
    run.op(Op::Write("/sent", bytes(23, 3000)));
    run.a.flush();
    pause(run);
    run.op(Op::Write("/unsent", bytes(24, 3000)));
    assert_eq!(run.a.term(), Some(0));
    let state = fs::File::options().write(true).open(run.a.state().join("state.db")).unwrap();
    state.write_all_at(&[0; 16], 0).unwrap();
    run.crash_at_start(points);
    run.restart();
    assert!(run.a.ctl(&["resume"]).status.success());
}

/// A bit of the database's log flipped.
pub fn damaged_log(run: &mut Run, points: &str) {
    pause(run);
    let content = bytes(25, 3000);
    run.op(Op::Write("/file", content.clone()));
    run.a.kill9();
    flip(&run.a.state().join("state.db-wal"), &content[1000..1016]);
    run.crash_at_start(points);
    run.restart();
    assert!(run.a.ctl(&["resume"]).status.success());
}
