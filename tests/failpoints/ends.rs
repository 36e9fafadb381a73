//! A killed daemon ends, whatever its callers and the kernel wait for.

use std::fs::{self, File};

use crate::appends::held_at;
use crate::run::{Run, Victim};
use crate::support::{Kind, wait_for};

/// A call holds a folder of which the kernel is told something meanwhile: neither lets the other go on,
/// and of a killed daemon the one who tells would be left. It ends nevertheless, the call with an
/// error, and the next one takes over and shows what came.
#[test]
fn a_daemon_that_is_killed_while_it_tells_the_kernel_something_ends() {
    crate::fuse_or_skip!();
    let mut run = Run::new(Victim::Daemon, Kind::Extended);
    run.server.http.put("/d/removed", b"x");
    run.start();
    run.a.wait_synced();
    assert_eq!(fs::read(run.a.at("d/removed")).unwrap(), b"x");
    let path = run.a.at("d/made");
    let make = move || drop(File::create(path).unwrap_err());
    let maker = held_at(&run, "fs.create.asked", make);
    run.server.http.delete("/d/removed");
    run.server.http.put("/d/come", b"y");
    wait_for("the kernel to be told", || tells_the_kernel(run.a.pid()).then_some(()));
    run.a.kill9();
    maker.join().unwrap();
    run.start();
    run.a.wait_synced();
    assert_eq!(fs::read(run.a.at("d/come")).unwrap(), b"y");
    assert!(!run.a.at("d/removed").exists());
}

/// Whether a process has a thread that waits for a folder of which it tells the kernel something.
pub fn tells_the_kernel(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.filter_map(Result::ok).any(|thread| {
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let waits = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'));
        waits && read("comm").trim() == "invalidation"
    })
}
