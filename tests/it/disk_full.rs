//! The disk that holds the state is full: what fails says so, leaves nothing behind, and holds nothing up.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};

use crate::fuse_or_skip;
use crate::support::{Mount, TestServer, bytes, close, shell, wait_for};

/// A small disk; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, loudly, where nobody may mount one.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let none = MsFlags::empty();
        let size = Some("size=16m");
        match nix::mount::mount(Some("test"), folder.path(), Some("tmpfs"), none, size) {
            Ok(()) => Some(Self(folder)),
            Err(error) => {
                eprintln!("SKIPPED {}: mount a small disk: {error}", module_path!());
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 16, 4096, 1] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn mount(&self, server: &TestServer) -> Mount {
        let mount = Mount::builder(&server.source());
        let mount = mount.args(&["--state-dir", self.path().to_str().unwrap()]).start();
        mount.wait_synced();
        mount
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        nix::mount::umount2(self.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// Writes a file and hears what `close` says.
fn write_closed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    close(file)
}

/// Fills the disk until a call fails for it; what succeeded is no concern here.
fn until_full(disk: &Disk, mut call: impl FnMut() -> io::Result<()>) {
    wait_for("a call that finds the disk full", || {
        disk.fill();
        let error = call().err()?;
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        Some(())
    });
}

/// A `close` that fails leaves nothing open: the file can conflict, and whatever else waits until it is
/// closed goes on.
#[test]
fn a_close_that_fails_leaves_nothing_open() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mount = disk.mount(&server);
    let path = mount.at("f");
    fs::write(&path, "first").unwrap();
    mount.flush();
    until_full(&disk, || write_closed(&path, b""));
    server.put("/f", b"theirs");
    disk.free();
    wait_for("nothing is open", || (mount.status()["uploads"]["held_open"] == 0).then_some(()));
    wait_for("their version, or an own one after it", || {
        let queued = mount.status()["uploads"]["queued"] == 0;
        (queued && fs::read(&path).ok()? == server.get("/f")?.0).then_some(())
    });
}

/// What a full disk refuses has not happened: the file that was to be emptied holds what it held, also
/// after a crash. Names can be removed all the time.
#[test]
fn what_a_full_disk_refuses_has_changed_nothing() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mut mount = disk.mount(&server);
    for name in ["emptied", "cut", "moved", "removed"] {
        fs::write(mount.at(name), name).unwrap();
    }
    mount.flush();
    let open = fs::File::options().read(true).write(true).open(mount.at("cut")).unwrap();
    disk.fill();
    let mut names = 0..;
    wait_for("a call that finds the disk full", || {
        let name = format!("new-{}", names.next()?);
        write_closed(&mount.at(&name), &bytes(1, 60_000)).err()
    });
    let full = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    };
    full(fs::write(mount.at("emptied"), "other"));
    full(open.set_len(0));
    full(fs::rename(mount.at("moved"), mount.at("there")));
    full(fs::create_dir(mount.at("dir")));
    fs::remove_file(mount.at("removed")).unwrap();
    drop(open);
    let look = |mount: &Mount| {
        for name in ["emptied", "cut", "moved"] {
            assert_eq!(fs::read_to_string(mount.at(name)).unwrap(), name);
        }
        for name in ["there", "dir", "removed"] {
            assert!(!mount.at(name).exists(), "{name}");
        }
    };
    look(&mount);
    mount.kill9();
    disk.free();
    mount.start();
    look(&mount);
    fs::write(mount.at("emptied"), "there is room again").unwrap();
    mount.wait_synced();
    assert_eq!(server.get("/emptied").unwrap().0, b"there is room again");
}

/// A folder that holds more than there is room to record the move of stays where it is, as a whole.
#[test]
fn a_folder_that_cannot_be_recorded_is_not_moved() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mut mount = disk.mount(&server);
    shell(&mount.path(), "mkdir many; for n in $(seq 800); do : > many/$n; done");
    mount.flush();
    disk.fill();
    let refused = fs::rename(mount.at("many"), mount.at("moved")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    let look = |mount: &Mount| {
        assert!(!mount.at("moved").exists());
        assert_eq!(fs::read_dir(mount.at("many")).unwrap().count(), 800);
    };
    look(&mount);
    mount.kill9();
    disk.free();
    mount.start();
    look(&mount);
    fs::rename(mount.at("many"), mount.at("moved")).unwrap();
    mount.flush();
    assert_eq!(server.files().keys().filter(|path| path.starts_with("/moved/")).count(), 800);
}

/// What is recorded is sent with the room that was set aside, however full the disk is.
#[test]
fn what_was_written_is_sent_while_the_disk_is_full() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mount = disk.mount(&server);
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "for n in $(seq 20); do echo $n > $n; done");
    disk.fill();
    mount.ctl(&["resume"]);
    wait_for("everything arrives", || {
        (1..=20).all(|n| server.get(&format!("/{n}")).is_some()).then_some(())
    });
    mount.wait_synced();
}

/// A large write that fails leaves no working file that nobody names.
#[test]
fn a_write_that_fails_leaves_no_file_behind() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mount = disk.mount(&server);
    let path = mount.at("large");
    let mut file = fs::File::create(&path).unwrap();
    // What is in memory so far goes to a working file with the second write.
    file.write_all(&bytes(1, 60_000)).unwrap();
    until_full(&disk, || file.write_all(&bytes(1, 100_000)));
    drop(file);
    disk.free();
    wait_for("the file can be removed", || match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => None,
        _ => Some(()),
    });
    mount.wait_synced();
    let files = disk.path().join("m/files");
    wait_for("no working file is left", || {
        fs::read_dir(&files).unwrap().next().is_none().then_some(())
    });
}

/// A large write that finds room for a part of it says how much: what is shown, read and sent afterwards is the same.
#[test]
fn a_write_that_has_room_for_a_part_is_short() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mount = disk.mount(&server);
    let path = mount.at("large");
    fs::write(&path, bytes(1, 200_000)).unwrap();
    mount.flush();
    let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    disk.fill();
    let filler = fs::File::options().write(true).open(disk.filler()).unwrap();
    filler.set_len(filler.metadata().unwrap().len() - 1_500_000).unwrap();
    let wanted = bytes(2, 4 << 20);
    assert_eq!(file.write_all(&wanted).unwrap_err().kind(), ErrorKind::StorageFull);
    drop(file);
    let shown = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), shown.len() as u64);
    assert!(!shown.is_empty() && wanted.starts_with(&shown), "{} bytes", shown.len());
    disk.free();
    mount.wait_synced();
    assert!(server.get("/large").unwrap().0 == shown, "what is shown is what was sent");
}

/// While the outbox cannot be written, sending is tried about once a second, not all the time; with room
/// again everything arrives.
#[test]
fn a_full_disk_does_not_keep_the_daemon_busy() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::new();
    let mount = disk.mount(&server);
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "for n in $(seq 20); do echo $n > $n; done");
    until_full(&disk, || write_closed(&mount.at("more"), &bytes(1, 3000)));
    mount.ctl(&["resume"]);
    // The promise is about time: so many attempts in so long.
    std::thread::sleep(Duration::from_secs(2));
    let attempts = mount.log().matches("batch not sent").count();
    assert!(attempts < 40, "{attempts} attempts in two seconds");
    disk.free();
    wait_for("everything arrives", || {
        (1..=20).all(|n| server.get(&format!("/{n}")).is_some()).then_some(())
    });
}

/// Where there is no room to keep both sides of a conflict, neither is touched: ours waits here, theirs is
/// at the server. Both are kept as soon as there is room.
#[test]
fn a_conflict_waits_until_both_sides_can_be_kept() {
    fuse_or_skip!();
    let Some(disk) = Disk::new() else { return };
    let server = TestServer::builder().max_body_bytes(8 << 20).start();
    let mount = disk.mount(&server);
    // More than the room that is set aside for such a time.
    let (base, ours, theirs) = (bytes(1, 2 << 20), bytes(2, 2 << 20), bytes(3, 2 << 20));
    fs::write(mount.at("f"), base).unwrap();
    mount.flush();
    assert!(mount.ctl(&["pause"]).status.success());
    fs::write(mount.at("f"), &ours).unwrap();
    server.put("/f", &theirs);
    disk.fill();
    server.log().reset();
    assert!(mount.ctl(&["resume"]).status.success());
    wait_for("theirs is asked for", || {
        disk.fill();
        (server.log().count("GET", "/fs/raw") > 1).then_some(())
    });
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert!(fs::read(mount.at("f")).unwrap() == ours);
    assert!(server.get("/f").unwrap().0 == theirs);
    disk.free();
    wait_for("the conflict", || (mount.status()["conflicts"]["open"] == 1).then_some(()));
    assert!(fs::read(mount.at("f")).unwrap() == theirs);
    let copies = fs::read_dir(mount_state(&disk).join("conflicts")).unwrap();
    let copies: Vec<PathBuf> = copies.map(|copy| copy.unwrap().path()).collect();
    assert_eq!(copies.len(), 1, "nothing is left of the attempts: {copies:?}");
    assert!(fs::read(copies[0].join("local")).unwrap() == ours);
    assert!(fs::read(copies[0].join("remote")).unwrap() == theirs);
    assert!(server.get("/f").unwrap().0 == theirs);
}

/// The state folder of a mount whose state is on that disk.
fn mount_state(disk: &Disk) -> PathBuf {
    disk.path().join("m")
}
