//! The main job, once through.

use crate::fuse_or_skip;
use crate::support::{Mount, TestServer, shell, wait_for};

/// What is written in one mount is on the server and in another mount.
#[test]
fn a_file_travels_from_one_mount_to_the_other() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    let b = Mount::of(&server);
    a.wait_synced();
    b.wait_synced();
    shell(&a.path(), "mkdir -p d/e && echo hello > d/e/f");
    a.flush();
    assert_eq!(server.get("/d/e/f").unwrap().0, b"hello\n");
    let seen = wait_for("the file in the other mount", || std::fs::read(b.at("d/e/f")).ok());
    assert_eq!(seen, b"hello\n");
}

/// Nothing that was closed is lost when the daemon is killed, also without the server.
#[test]
fn work_goes_on_offline_and_survives_a_kill() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    shell(&mount.path(), "echo one > a; echo two > b");
    mount.flush();
    server.stop();
    shell(&mount.path(), "echo three > c; mv a moved; rm b; echo more >> moved");
    mount.kill9();
    mount.start();
    assert_eq!(shell(&mount.path(), "cat c moved; ls"), "three\none\nmore\nc\nmoved\n");
    server.start();
    wait_for("the outbox is empty", || (mount.status()["uploads"]["queued"] == 0).then_some(()));
    let files = server.files();
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["/c", "/moved"]);
    assert_eq!(files["/moved"], b"one\nmore\n");
}

/// A mount of one folder of the workspace shows that folder and nothing else, and what is written
/// lands below it.
#[test]
fn a_folder_of_the_workspace_can_be_the_root() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/outside", b"no");
    server.put("/sub/dir/inside", b"yes");
    let mount = Mount::builder(&server.source()).args(&["--remote-path", "/sub/dir"]).start();
    mount.wait_synced();
    assert_eq!(shell(&mount.path(), "ls; cat inside"), "inside\nyes");
    shell(&mount.path(), "mkdir d && echo new > d/file && rm inside");
    mount.flush();
    let names: Vec<String> = server.files().into_keys().collect();
    assert_eq!(names, ["/outside", "/sub/dir/d/file"]);
    server.put("/outside", b"still no");
    server.put("/sub/dir/later", b"pushed");
    let seen = wait_for("the pushed file", || std::fs::read(mount.at("later")).ok());
    assert_eq!(seen, b"pushed");
    assert!(!mount.at("outside").exists());
}

/// A file that changes at the server while it is open for writing here is not asked for again and
/// again; it is looked at when it was closed.
#[test]
fn what_is_open_for_writing_is_not_polled() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/f", b"one");
    let mount = Mount::of(&server);
    mount.wait_synced();
    let open = std::fs::OpenOptions::new().append(true).open(mount.at("f")).unwrap();
    server.log().reset();
    server.put("/f", b"two");
    for n in 0..50 {
        let name = format!("marker{n}");
        server.put(&format!("/{name}"), b"x");
        wait_for("a later change", || mount.at(&name).exists().then_some(()));
    }
    let reads = server.log().count("GET", "/fs/file") + server.log().count("GET", "/fs/raw");
    assert!(reads <= 5, "{reads} reads");
    drop(open);
    wait_for("the change", || (std::fs::read(mount.at("f")).unwrap() == b"two").then_some(()));
}
