//! `O_APPEND` on a file that grew elsewhere: what is added comes after what the file holds, not after what
//! the kernel remembers of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use crate::run::{Run, Victim, arm_mount};
use crate::support::{Kind, wait_for};

/// How many mounts it is tried on. What wakes watchers has the kernel look at the length again, and only
/// before that runs for the first time is there always an old one.
const MOUNTS: usize = 4;

/// Whether a thread of this process waits for something.
fn waits(thread: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with(['S', 'D'])
}

/// A line comes from the server while the kernel waits to have a small or large log opened, and has
/// looked at its length already. Neither line is lost.
#[test]
fn what_is_appended_comes_after_what_came_from_the_server() {
    crate::fuse_or_skip!();
    for _ in 0..MOUNTS {
        meanwhile_theirs_arrives(10);
        meanwhile_theirs_arrives(100_000);
    }
}

fn meanwhile_theirs_arrives(before: usize) {
    let mut run = Run::new(Victim::Daemon, Kind::Extended);
    run.start();
    run.a.wait_synced();
    let log = run.a.at("log");
    let first = "x".repeat(before - 1) + "\n";
    fs::write(&log, &first).unwrap();
    run.a.flush();
    assert_eq!(fs::metadata(&log).unwrap().len(), before as u64);
    let path = log.clone();
    let append = move || {
        let mut end = File::options().append(true).open(path).unwrap();
        end.write_all(b"ours\n").unwrap();
    };
    let appender = in_the_moment_of(&run, "fs.open", append, |run| {
        run.server.http.put("/log", format!("{first}theirs\n").as_bytes());
    });
    appender.join().unwrap();
    let expected = format!("{first}theirs\nours\n");
    wait_for("the same here", || (fs::read_to_string(&log).unwrap() == expected).then_some(()));
    run.a.flush();
    assert!(run.server.http.get("/log").unwrap().0 == expected.as_bytes(), "at the server");
}

/// Has something done during which a failpoint is reached. While the kernel waits there, and has looked at
/// what it knows already, `theirs` changes something at the server, of which the mount hears.
pub fn in_the_moment_of(
    run: &Run,
    failpoint: &str,
    ours: impl FnOnce() + Send + 'static,
    theirs: impl FnOnce(&Run),
) -> JoinHandle<()> {
    let doing = held_at(run, failpoint, ours);
    theirs(run);
    wait_for("the news", || {
        let newest = run.server.http.cursor().unwrap();
        (run.a.status()["stream"]["cursor"] == newest).then_some(())
    });
    arm_mount(&run.a, &format!("{failpoint}=off"));
    doing
}

/// Has something done that is held at a failpoint, until that is switched off.
pub fn held_at(run: &Run, failpoint: &str, what: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    arm_mount(&run.a, &format!("{failpoint}=pause"));
    let (tell, told) = channel();
    let doing = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw()).unwrap();
        what();
    });
    let thread = told.recv().unwrap();
    wait_for("the call", || waits(thread).then_some(()));
    doing
}
