//! The daemon is killed: what calls had acknowledged is there again.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fuse_or_skip;
use crate::support::load::{self, Account, Load};
use crate::support::observe::{mount_entries, wait_sent};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, bytes, seed, shell, wait_for};

/// Killed while offline and started again without the server: the same names, bytes and
/// permission bits are there at once, and all of it arrives when the server is back.
#[test]
fn a_kill_while_offline_keeps_the_tree_and_all_bytes() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir -p kept/deep; echo one > kept/one; echo two > kept/deep/two");
    shell(&mount.path(), "echo gone > gone; echo moved > from; ln -s kept/one link; mkdir empty");
    mount.flush();
    server.stop();
    fs::write(mount.at("large"), bytes(1, 3_000_000)).unwrap();
    fs::write(mount.at("small"), bytes(2, 40_000)).unwrap();
    shell(
        &mount.path(),
        "rm gone; mv from to; echo more >> kept/one; chmod 750 kept/deep/two; ln -sfn to link
         mv kept renamed; mkdir -p a/b/c; echo deep > a/b/c/file; truncate -s 10 small; rmdir empty",
    );
    let before = tree(&mount.path()).unwrap();
    for _ in 0..2 {
        mount.kill9();
        mount.start();
        assert_eq!(tree(&mount.path()).unwrap(), before);
    }
    server.start();
    wait_sent(&mount);
    assert_eq!(server.files(), bytes_of(&before));
    assert_eq!(tree(&mount.path()).unwrap(), before);
    let late = Mount::of(&server);
    crate::support::tree::shows(&late, &before);
}

/// What was written into a large file is safe from the moment `write` returned: a kill before
/// `close` takes nothing back.
#[test]
fn a_large_file_survives_a_kill_before_close() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("known"), bytes(1, 500_000)).unwrap();
    mount.flush();
    for round in 0..3_u64 {
        let fresh = fs::File::create(mount.at(&format!("fresh-{round}"))).unwrap();
        fresh.write_all_at(&bytes(round, 300_000), 0).unwrap();
        fresh.write_all_at(b"the end", 1_000_000).unwrap();
        let known = fs::OpenOptions::new().write(true).open(mount.at("known")).unwrap();
        known.write_all_at(b"longer", 500_000 + 100 * round).unwrap();
        mount.kill9();
        drop((fresh, known));
        mount.start();
        let mut expected = bytes(round, 300_000);
        expected.resize(1_000_000, 0);
        expected.extend_from_slice(b"the end");
        let known = fs::read(mount.at("known")).unwrap();
        assert_eq!(known.len() as u64, 500_006 + 100 * round);
        assert!(known.ends_with(b"longer") && known.starts_with(&bytes(1, 500_000)));
        assert!(fs::read(mount.at(&format!("fresh-{round}"))).unwrap() == expected, "{round}");
        mount.flush();
        let (arrived, _) = server.get(&format!("/fresh-{round}")).unwrap();
        assert!(arrived == expected, "{round} differs at the server");
        assert!(server.get("/known").unwrap().0 == known, "{round} differs at the server");
    }
}

/// The daemon is killed again and again under load, with and without its server: whatever `close`
/// or `rename` acknowledged is on the server in the end, in its newest form.
#[test]
fn no_acknowledged_byte_is_lost_by_kills_under_load() {
    fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    let mut accounts = vec![Account::default(); 4];
    let mut online = true;
    for round in 0..12 {
        if rng.random_ratio(1, 3) {
            if online {
                server.stop();
            } else {
                server.start();
            }
            online = !online;
        }
        let load = Load::start(&mount.path(), accounts, seed + round);
        let enough = rng.random_range(5..300);
        wait_for("some work", || (load.acknowledged() >= enough).then_some(()));
        mount.kill9();
        wait_for("the writers notice", || load.is_over().then_some(()));
        accounts = load.stop();
        mount.start();
        assert_eq!(mount_entries(&mount), 1);
    }
    if !online {
        server.start();
    }
    let shown = tree(&mount.path()).unwrap();
    load::check(&accounts, &bytes_of(&shown));
    mount.flush();
    load::check(&accounts, &server.files());
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(tree(&mount.path()).unwrap(), shown);
}

/// A daemon that gets no more memory refuses, or ends at whatever it is doing. What it had acknowledged
/// is there, and it goes on once there is memory again.
#[test]
fn a_daemon_that_runs_out_of_memory_loses_nothing() {
    fuse_or_skip!();
    let seed = seed();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    let limit = |mount: &Mount, bytes: &str| {
        let (limit, pid) = (format!("--as={bytes}:"), mount.pid().to_string());
        let limited = Command::new("prlimit").args([&limit, "--pid", &pid]).status();
        limited.expect("prlimit can be run").success()
    };
    let mut accounts = vec![Account::default(); 4];
    let mut ends = 0;
    for round in 0..4 {
        let load = Load::start(&mount.path(), accounts, seed + round);
        wait_for("some work", || (load.acknowledged() >= 100).then_some(()));
        // No more than it has; and the writers take more than what is freed serves for.
        assert!(limit(&mount, "1"));
        wait_for("the writers are refused", || {
            drop(fs::write(mount.at("more"), bytes(round, 4 << 20)));
            load.is_over().then_some(())
        });
        accounts = load.stop();
        // It may be about to end, and then there is nobody to be given more.
        limit(&mount, "unlimited");
        wait_for("it works again", || {
            if mount.has_ended() {
                ends += 1;
                let status = mount.end_status();
                assert!(status.signal().is_some(), "{status}: it did not end in order");
                mount.start();
            }
            fs::write(mount.at("again"), "again").ok()
        });
        assert_eq!(mount_entries(&mount), 1);
    }
    eprintln!("it ended {ends} times");
    for name in ["more", "again"] {
        drop(fs::remove_file(mount.at(name)));
    }
    let shown = tree(&mount.path()).unwrap();
    load::check(&accounts, &bytes_of(&shown));
    mount.flush();
    load::check(&accounts, &server.files());
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}
