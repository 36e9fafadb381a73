//! What is read while the kernel cannot be told that something else is there: bytes and length are of one
//! version.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;

use crate::appends::held_at;
use crate::ends::tells_the_kernel;
use crate::run::{Run, Victim, arm_mount};
use crate::support::{Kind, bytes, wait_for};

/// A file was opened and not read; then it changes, and the kernel still has its old length. Who reads it
/// now is asked to try again, for the old bytes are nowhere; nobody is shown the new ones and zeros up to that length.
#[test]
fn a_file_that_changes_before_it_is_read_does_not_keep_its_old_length() {
    crate::fuse_or_skip!();
    let mut run = Run::new(Victim::Daemon, Kind::Extended);
    // Too large to come along with the listing, and small enough to come along with the news.
    let (old, new) = (bytes(1, 70_000), bytes(2, 900));
    run.server.http.put("/d/removed", b"x");
    run.server.http.put("/d/kept", b"y");
    run.server.http.put("/f", &old);
    run.start();
    run.a.wait_synced();
    let size = |run: &Run| fs::metadata(run.a.at("f")).unwrap().len();
    assert_eq!((fs::read(run.a.at("d/removed")).unwrap(), size(&run)), (b"x".to_vec(), 70_000));
    let file = File::open(run.a.at("f")).unwrap();
    // Who makes a name in a folder keeps the kernel from being told of another one, and of all that follows.
    let path = run.a.at("d/made");
    let maker = held_at(&run, "fs.create.asked", move || drop(File::create(path).unwrap()));
    run.server.http.delete("/d/removed");
    wait_for("the kernel to be told", || tells_the_kernel(run.a.pid()).then_some(()));
    run.server.http.put("/f", &new);
    wait_for("the news", || {
        let newest = run.server.http.cursor().unwrap();
        let status = run.a.status();
        (status["stream"]["cursor"] == newest && size(&run) == 70_000).then_some(())
    });
    let mut seen = vec![0; 100_000];
    let read = file.read_at(&mut seen, 0);
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    arm_mount(&run.a, "fs.create.asked=off");
    maker.join().unwrap();
    wait_for("the new one", || (fs::read(run.a.at("f")).ok()? == new).then_some(()));
    assert_eq!(file.read_at(&mut seen, 0).unwrap(), new.len());
    assert!(seen[..new.len()] == new);
}
