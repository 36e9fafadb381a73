//! Files that are larger than the server takes: told at the write, once it is known.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};

use nix::libc::EFBIG;

use crate::fuse_or_skip;
use crate::support::observe::{outbox, stdout, wait_sent};
use crate::support::{Mount, TestServer, bytes, wait_for};

/// A server says how large a file may be: one byte more fails at the call, and what was written before
/// it is sent like any other file. What is never sent may have any size.
#[test]
fn writing_past_what_the_server_takes_fails_at_the_call() {
    fuse_or_skip!();
    let server = TestServer::builder().max_raw_bytes(200_000).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    assert_eq!(mount.status()["uploads"]["file_bytes_max"], 200_000);
    assert!(stdout(&mount.ctl(&["status"])).contains("the server takes files up to 195 KiB"));

    let content = bytes(1, 200_000);
    let mut file = File::create(mount.at("f")).unwrap();
    file.write_all(&content).unwrap();
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(EFBIG));
    assert_eq!(file.set_len(200_001).unwrap_err().raw_os_error(), Some(EFBIG));
    drop(file);
    wait_sent(&mount);
    assert!(server.get("/f").unwrap().0 == content);
    // Nor by growing it later, in whatever way.
    let mut file = OpenOptions::new().append(true).open(mount.at("f")).unwrap();
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(EFBIG));
    drop(file);
    let small = File::create(mount.at("small")).unwrap();
    assert_eq!(small.set_len(1 << 30).unwrap_err().kind(), ErrorKind::FileTooLarge);
    let none = nix::fcntl::FallocateFlags::empty();
    let refused = nix::fcntl::fallocate(&small, none, 0, 1 << 30);
    assert_eq!(refused, Err(nix::errno::Errno::EFBIG));
    drop(small);
    assert!(fs::read(mount.at("f")).unwrap() == content);

    fs::create_dir(mount.at(".git")).unwrap();
    fs::write(mount.at(".git/pack"), bytes(2, 300_000)).unwrap();
    wait_sent(&mount);
    assert_eq!(mount.status()["uploads"]["attention"], 0);
}

/// A server that says nothing refuses a file: that one stays here, parked, and the next one that cannot
/// fit fails at the call.
#[test]
fn what_the_server_refused_is_learned() {
    fuse_or_skip!();
    let server = TestServer::builder().original().max_body_bytes(100_000).start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    assert!(mount.status()["uploads"]["file_bytes_max"].is_null());
    // In JSON it takes a third more.
    let content = bytes(3, 90_000);
    fs::write(mount.at("first"), &content).unwrap();
    wait_for("it is parked", || (mount.status()["uploads"]["attention"] == 1).then_some(()));
    let limit = mount.status()["uploads"]["file_bytes_max"].as_u64().unwrap();
    assert!((120_000..121_000).contains(&limit), "{limit}");
    let error = fs::write(mount.at("second"), bytes(4, 130_000)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EFBIG));
    fs::remove_file(mount.at("second")).unwrap();
    // A text may fit that has more bytes than the one that did not.
    let text = "x".repeat(95_000);
    fs::write(mount.at("text"), &text).unwrap();
    wait_for("what fits arrives", || server.get("/text"));

    // What was acknowledged stays, also over a crash.
    mount.kill9();
    mount.start();
    let parked = outbox(&mount);
    assert_eq!((&parked[0]["path"], &parked[0]["state"]), (&"/first".into(), &"attention".into()));
    assert!(fs::read(mount.at("first")).unwrap() == content);
    assert_eq!(server.get("/first"), None);
}
