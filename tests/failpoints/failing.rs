//! Disks that fail: what was not done is said, and what was said to be done stays done.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::libc::{EIO, ENOSPC};
use reqwest::Method;

use crate::run::{Run, Victim, arm_mount};
use crate::support::tree::tree;
use crate::support::{Kind, bytes, wait_for};
use crate::world::Op;

fn begin() -> Run {
    let mut run = Run::new(Victim::Daemon, Kind::Extended);
    run.start();
    run.a.wait_synced();
    run
}

/// A sync of a large file that fails is told, and it is told again: what the kernel dropped it does
/// not tell twice. The bytes are sent all the same, and the file written anew can be synced.
#[test]
fn a_failed_sync_of_a_file_is_never_taken_for_a_success_later() {
    crate::fuse_or_skip!();
    let mut run = begin();
    let content = bytes(1, 200_000);
    run.op(Op::WriteSynced("/large", content.clone()));
    run.a.flush();
    let file = File::options().read(true).write(true).open(run.a.at("large")).unwrap();
    file.write_all_at(&[7; 10], 0).unwrap();
    arm_mount(&run.a, "content.sync=1*return(5)");
    for _ in 0..3 {
        let failed = file.sync_all().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(EIO));
    }
    drop(file);
    // Nor for those who open it later.
    let again = File::options().write(true).open(run.a.at("large")).unwrap();
    assert_eq!(again.sync_all().unwrap_err().raw_os_error(), Some(EIO));
    drop(again);
    run.a.flush();
    let expected = [[7; 10].as_slice(), &content[10..]].concat();
    assert!(run.server.http.get("/large").unwrap().0 == expected);
    // A new content is a new file.
    fs::write(run.a.at("large"), bytes(2, 150_000)).unwrap();
    File::open(run.a.at("large")).unwrap().sync_all().unwrap();
    // Others were never concerned.
    let mut other = File::create(run.a.at("other")).unwrap();
    other.write_all(&bytes(3, 100_000)).unwrap();
    other.sync_all().unwrap();
}

/// The background's sync of a large file fails: nobody waits for it, so the next `fsync` tells.
#[test]
fn a_failed_sync_in_the_background_is_told_by_the_next_fsync() {
    crate::fuse_or_skip!();
    let mut run = begin();
    run.op(Op::WriteSynced("/large", bytes(1, 200_000)));
    run.a.flush();
    let file = File::options().write(true).open(run.a.at("large")).unwrap();
    arm_mount(&run.a, "content.sync=1*return(5)");
    file.write_all_at(&[7; 10], 0).unwrap();
    wait_for("the failure", || run.a.log().contains("sync of a working file").then_some(()));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(EIO));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(EIO));
}

/// A sync of the state database that fails is told to whoever waits. It counts as done only after
/// everything was written anew, elsewhere.
#[test]
fn a_failed_sync_of_the_database_is_told_until_it_was_written_anew() {
    crate::fuse_or_skip!();
    let run = begin();
    let mut file = File::create(run.a.at("small")).unwrap();
    file.write_all(b"some bytes").unwrap();
    let known = fs::metadata(run.a.state().join("state.db")).unwrap().len();
    arm_mount(&run.a, "store.sync=1*return(5);store.checkpoint.copy=return(5)");
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(EIO));
    }
    // Until now nothing could be written anew.
    assert_eq!(fs::metadata(run.a.state().join("state.db")).unwrap().len(), known);
    arm_mount(&run.a, "store.checkpoint.copy=off");
    wait_for("a sync that succeeds", || file.sync_all().ok());
    let log = run.a.state().join("state.db-wal");
    assert!(run.a.log().contains("sync of the state database"));
    assert!(fs::metadata(log).unwrap().len() < 100_000, "the log was emptied meanwhile");
    run.a.flush();
    assert_eq!(run.server.http.get("/small").unwrap().0, b"some bytes");
}

/// A new large file that cannot be made durable is not said to be closed; its bytes stay.
#[test]
fn a_large_file_that_cannot_be_synced_fails_its_close() {
    crate::fuse_or_skip!();
    let mut run = begin();
    let content = bytes(5, 200_000);
    arm_mount(&run.a, "content.sync=1*return(5)");
    let failed = Op::Write("/large", content.clone()).perform(&run.a.path()).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(EIO));
    assert!(fs::read(run.a.at("large")).unwrap() == content);
    wait_for("its bytes are sent all the same", || {
        run.server.http.get("/large").filter(|(bytes, _)| *bytes == content)
    });
    run.op(Op::Mkdir("/others"));
    assert!(run.a.at("others").is_dir());
}

/// Where the disk of the state folder is full and not even the room set aside helps, calls say what is
/// true: `ENOSPC` where nothing was changed, `EIO` where it is not known yet whether it will be. Once there
/// is room again everything goes on, and a restart shows what was shown before.
#[test]
fn a_full_disk_at_a_commit_is_told_and_passes() {
    crate::fuse_or_skip!();
    let mut run = begin();
    run.op(Op::Write("/before", bytes(1, 1000)));
    run.op(Op::Write("/old", bytes(2, 1000)));
    run.a.flush();
    arm_mount(&run.a, "store.commit.begin=return(28)");
    let full: [(&str, Op); 5] = [
        ("mkdir", Op::Mkdir("/dir")),
        ("write", Op::Write("/new", bytes(3, 1000))),
        ("unlink", Op::Unlink("/old")),
        ("rename", Op::Rename("/before", "/after")),
        ("chmod", Op::Chmod("/before", 0o600)),
    ];
    for (what, op) in full {
        let before = tree(&run.a.path()).unwrap();
        let error = op.perform(&run.a.path()).expect_err(what);
        let unchanged = tree(&run.a.path()).unwrap() == before;
        match error.raw_os_error() {
            // Of bytes that were written it says that they could not be recorded.
            Some(ENOSPC) => {
                assert!(unchanged || what == "write", "{what} was refused and happened");
            }
            Some(EIO) => assert!(!unchanged, "{what} is said to be unknown and did not happen"),
            // A later call may meet what an earlier one left.
            _ => assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}"),
        }
    }
    arm_mount(&run.a, "store.commit.begin=off");
    wait_for("calls succeed again", || fs::write(run.a.at("room"), b"room").ok());
    run.a.flush();
    let shown = tree(&run.a.path()).unwrap();
    let theirs = run.server.http.files();
    assert_eq!(crate::support::tree::bytes_of(&shown), theirs);
    run.a.kill9();
    run.a.start();
    assert_eq!(tree(&run.a.path()).unwrap(), shown);
}

/// The same for a conflict that a person ends: what was to take the name is not thrown away because it
/// could not be recorded at once.
#[test]
fn a_full_disk_while_a_conflict_is_resolved_loses_no_content() {
    crate::fuse_or_skip!();
    let mut run = begin();
    run.op(Op::Write("/f", bytes(1, 200_000)));
    run.a.flush();
    assert!(run.a.ctl(&["pause"]).status.success());
    let (ours, theirs) = (bytes(2, 210_000), bytes(3, 220_000));
    fs::write(run.a.at("f"), &ours).unwrap();
    run.server.http.put("/f", &theirs);
    assert!(run.a.ctl(&["resume"]).status.success());
    wait_for("the conflict", || (run.a.status()["conflicts"]["open"] == 1).then_some(()));
    assert!(fs::read(run.a.at("f")).unwrap() == theirs);
    assert!(run.a.ctl(&["pause"]).status.success());
    arm_mount(&run.a, "store.commit.begin=return(28)");
    let resolve = || run.a.ctl(&["conflicts", "resolve", "--all", "--ours", "--yes"]);
    assert!(!resolve().status.success(), "it cannot be recorded");
    arm_mount(&run.a, "store.commit.begin=off");
    wait_for("it is resolved", || {
        resolve();
        (run.a.status()["conflicts"]["open"] == 0).then_some(())
    });
    wait_for("what it replaced is removed", || {
        let left = fs::read_dir(run.a.state().join("files")).unwrap().count();
        (left <= 1).then_some(())
    });
    // By the thread that removes.
    File::open(run.a.path()).unwrap().sync_all().unwrap();
    run.a.kill9();
    run.a.start();
    assert!(fs::read(run.a.at("f")).unwrap() == ours);
    assert!(run.a.ctl(&["resume"]).status.success());
    run.a.flush();
    assert!(run.server.http.get("/f").unwrap().0 == ours);
}

/// A content that cannot be put on the disk is not shown, and nothing of it stays there.
#[test]
fn a_fetch_that_the_disk_refuses_leaves_no_file() {
    crate::fuse_or_skip!();
    let run = begin();
    let files = |run: &Run| {
        let all = fs::read_dir(run.a.state().join("files")).unwrap();
        all.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    // One that is fetched into memory first, and one that is not.
    for size in [200_000, 3 << 20] {
        let content = bytes(1, size);
        let put = ("/fs/raw?path=%2Ftheirs", [("If-Match", "*")]);
        let put = run.server.http.request(Method::PUT, put.0, &put.1, Some(content.clone()));
        assert!(matches!(put.0, 200..300), "{}", String::from_utf8_lossy(&put.1));
        let path = run.a.at("theirs");
        wait_for("the file", || (fs::metadata(&path).ok()?.len() == size as u64).then_some(()));
        let before = files(&run);
        arm_mount(&run.a, "content.sync=return(28)");
        assert!(fs::read(&path).is_err(), "{size} bytes");
        let new = || files(&run).iter().filter(|file| !before.contains(file)).count();
        wait_for("its file to go", || (new() == 0).then_some(()));
        arm_mount(&run.a, "content.sync=off");
        assert!(fs::read(&path).unwrap() == content);
        assert_eq!(new(), 1);
        fs::remove_file(&path).unwrap();
        run.a.flush();
    }
}

/// A rename that could not be recorded has failed for whoever asked for it, and may have happened. What
/// is written to the old name after that is a file of its own, also when it is renamed again.
#[test]
fn after_a_rename_that_could_not_be_recorded_names_are_not_mixed_up() {
    crate::fuse_or_skip!();
    let run = begin();
    let (new, old) = (run.a.at("swap.tmp"), run.a.at("swap"));
    fs::write(&old, "first").unwrap();
    fs::write(&new, "second").unwrap();
    run.a.flush();
    arm_mount(&run.a, "store.commit.begin=return(5)");
    assert_eq!(fs::rename(&new, &old).unwrap_err().raw_os_error(), Some(EIO));
    arm_mount(&run.a, "store.commit.begin=off");
    // The kernel is told by a thread of its own.
    wait_for("the names to be looked up again", || {
        let inode = |path| fs::metadata(path).ok().map(|of| of.ino());
        (inode(&new) != inode(&old)).then_some(())
    });
    fs::write(&new, "third").unwrap();
    assert_ne!(fs::read(&old).unwrap(), b"third");
    fs::rename(&new, &old).unwrap();
    fs::write(&new, "fourth").unwrap();
    run.a.flush();
    let files = run.server.http.files();
    assert_eq!(files["/swap"], b"third");
    assert_eq!(files["/swap.tmp"], b"fourth");
}
