//! Pipes, sockets and devices: they live on this machine and are never sent.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::fuse_or_skip;
use crate::shell_life::pair;
use crate::support::tree::agree;
use crate::support::{shell, wait_for};

fn pipe(path: &Path) {
    mkfifo(path, Mode::from_bits_truncate(0o640)).unwrap();
}

/// What is written into a pipe comes out at its other end.
fn carries(path: &Path) {
    let writer = std::thread::spawn({
        let path = path.to_owned();
        move || std::fs::write(path, "through").unwrap()
    });
    assert_eq!(std::fs::read_to_string(path).unwrap(), "through");
    writer.join().unwrap();
}

/// A pipe carries bytes and a socket takes connections; both are there after a kill with what `stat`
/// shows of them, and nobody else hears of them.
#[test]
fn pipes_and_sockets_work_and_stay_here() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    std::fs::create_dir(a.at("run")).unwrap();
    pipe(&a.at("run/pipe"));
    carries(&a.at("run/pipe"));
    let listener = UnixListener::bind(a.at("run/socket")).unwrap();
    let mut caller = UnixStream::connect(a.at("run/socket")).unwrap();
    caller.write_all(b"hello").unwrap();
    drop(caller);
    let mut heard = String::new();
    listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    std::fs::set_permissions(a.at("run/pipe"), Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(a.at("run/pipe"), a.at("run/moved")).unwrap();
    std::fs::write(a.at("run/file"), "sent").unwrap();
    if nix::unistd::geteuid().is_root() {
        mknod(&a.at("run/zero"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5))
            .unwrap();
        std::os::unix::fs::chown(a.at("run/zero"), Some(7), Some(8)).unwrap();
        // A device has a name and a number and opens nothing.
        let refused = std::fs::File::open(a.at("run/zero")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }
    let shown = |name: &str| {
        let meta = std::fs::symlink_metadata(a.at(name)).unwrap();
        (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.rdev(), meta.ctime_nsec())
    };
    let names = ["run/moved", "run/socket", "run/zero"];
    let names: Vec<&str> = names.into_iter().filter(|name| a.at(name).exists()).collect();
    let before: Vec<_> = names.iter().map(|name| shown(name)).collect();
    a.flush();
    assert_eq!(server.files().keys().collect::<Vec<_>>(), ["/run/file"]);
    assert!(server.events().iter().all(|event| !event.1.contains("pipe")), "{:?}", server.events());
    assert_eq!(a.status()["local_only"], names.len());
    a.kill9();
    a.start();
    let shown = |name: &str| {
        let meta = std::fs::symlink_metadata(a.at(name)).unwrap();
        (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.rdev(), meta.ctime_nsec())
    };
    assert_eq!(names.iter().map(|name| shown(name)).collect::<Vec<_>>(), before);
    assert!(std::fs::symlink_metadata(a.at("run/socket")).unwrap().file_type().is_socket());
    carries(&a.at("run/moved"));
    // Nobody listens any more, as after any restart.
    let refused = UnixStream::connect(a.at("run/socket")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    wait_for("the file at the other mount", || b.at("run/file").exists().then_some(()));
    let theirs: Vec<_> = std::fs::read_dir(b.at("run")).unwrap().collect();
    assert_eq!(theirs.len(), 1);
    // A folder goes when it is empty, as anywhere.
    assert!(std::fs::remove_dir(a.at("run")).is_err());
    shell(&a.path(), "rm -r run");
    assert!(agree(&server, &a, &b).is_empty());
}

/// A pipe that takes the name of a file that the server has takes it away there, and a file that takes
/// the name of a pipe is sent.
#[test]
fn a_name_becomes_a_pipe_and_a_file_again() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    std::fs::write(a.at("one"), "one").unwrap();
    std::fs::write(a.at("two"), "two").unwrap();
    agree(&server, &a, &b);
    pipe(&a.at("pipe"));
    std::fs::rename(a.at("pipe"), a.at("one")).unwrap();
    pipe(&a.at("pipe"));
    shell(&a.path(), "mv --exchange pipe two 2>/dev/null || { mv two t; mv pipe two; mv t pipe; }");
    a.flush();
    assert_eq!(server.files().into_iter().collect::<Vec<_>>(), [("/pipe".into(), b"two".to_vec())]);
    wait_for("the other mount has one file", || {
        let names: Vec<_> =
            std::fs::read_dir(b.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        (names == ["pipe"]).then_some(())
    });
    assert!(std::fs::symlink_metadata(a.at("one")).unwrap().file_type().is_fifo());
    assert!(std::fs::symlink_metadata(a.at("two")).unwrap().file_type().is_fifo());
    std::fs::write(a.at("new"), "new").unwrap();
    std::fs::rename(a.at("new"), a.at("one")).unwrap();
    std::fs::remove_file(a.at("two")).unwrap();
    std::fs::write(a.at("two"), "again").unwrap();
    let ours = agree(&server, &a, &b);
    assert_eq!(ours.keys().collect::<Vec<_>>(), ["/one", "/pipe", "/two"]);
}

/// A file of the server with the name of a pipe does not take the pipe away from who uses it: it is
/// left out, counted, and shown when the pipe is gone. So is a folder.
#[test]
fn a_file_of_the_server_waits_for_the_pipe_to_go() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    pipe(&a.at("x"));
    pipe(&a.at("y"));
    server.put("/x", b"theirs");
    server.put("/y/below", b"theirs, too");
    wait_for("both at the other mount", || {
        (b.at("x").exists() && b.at("y/below").exists()).then_some(())
    });
    wait_for("both left out", || (a.status()["skipped_names"] == 2).then_some(()));
    carries(&a.at("x"));
    // A restart remembers it.
    a.kill9();
    a.start();
    wait_for("left out again", || (a.status()["skipped_names"] == 2).then_some(()));
    carries(&a.at("x"));
    std::fs::rename(a.at("x"), a.at("z")).unwrap();
    std::fs::remove_file(a.at("y")).unwrap();
    wait_for("the files", || {
        let one = std::fs::read_to_string(a.at("x")).is_ok_and(|text| text == "theirs");
        let two = std::fs::read_to_string(a.at("y/below")).is_ok_and(|text| text == "theirs, too");
        (one && two).then_some(())
    });
    carries(&a.at("z"));
    a.wait_synced();
    assert_eq!(server.files().len(), 2);
}

/// A pipe, or a socket, that is removed while it is open goes on for those who have it.
#[test]
fn an_open_pipe_outlives_its_name() {
    fuse_or_skip!();
    let (_server, a, _b) = pair();
    pipe(&a.at("pipe"));
    let mut both = std::fs::File::options().read(true).write(true).open(a.at("pipe")).unwrap();
    std::fs::remove_file(a.at("pipe")).unwrap();
    both.write_all(b"still").unwrap();
    let mut read = [0; 5];
    both.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"still");
    wait_for("no link is left", || (both.metadata().unwrap().nlink() == 0).then_some(()));
}
