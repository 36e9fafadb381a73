//! `O_APPEND` on a file that grew elsewhere: what is added comes after what the file holds, not after what
//! the kernel remembers of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use crate::fuse_or_skip;
use crate::support::{Mount, TestServer, wait_for};

/// A line that is added to a small or large log right after another one came from the server loses
/// neither. The kernel still believes in the old length: nobody has asked for the new one.
#[test]
fn what_is_appended_comes_after_what_came_from_the_server() {
    fuse_or_skip!();
    for before in [10_usize, 100_000] {
        let server = TestServer::new();
        let mount = Mount::builder(&server.source()).start();
        mount.wait_synced();
        let log = mount.at("log");
        let first = "x".repeat(before - 1) + "\n";
        fs::write(&log, &first).unwrap();
        mount.flush();
        // Opened again by way of this descriptor, no name is looked up, and no length with it.
        let known = File::open(&log).unwrap();
        let again = format!("/proc/self/fd/{}", known.as_raw_fd());
        assert_eq!(fs::read_to_string(&again).unwrap(), first);
        let cursor = || mount.status()["stream"]["cursor"].clone();
        let heard = cursor();
        server.put("/log", format!("{first}theirs\n").as_bytes());
        wait_for("the news", || (cursor() != heard).then_some(()));
        let mut end = File::options().append(true).open(&again).unwrap();
        end.write_all(b"ours\n").unwrap();
        drop(end);
        let expected = format!("{first}theirs\nours\n");
        wait_for("the same here", || (fs::read_to_string(&log).unwrap() == expected).then_some(()));
        mount.flush();
        assert!(server.get("/log").unwrap().0 == expected.as_bytes(), "and at the server");
    }
}
