//! Ways to end: by signal, by command, from outside, by accident. The folder is free afterwards,
//! nothing that was acknowledged is lost, and the next start goes on.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fuse_or_skip;
use crate::support::load::{self, Account, Load};
use crate::support::observe::{mount_entries, outbox, stderr, stdout, wait_sent, wait_state};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, bytes, seed, shell, wait_for};

/// A stop may not take longer, whatever the server does.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long a stop may go on sending; the server of these tests shares a busy machine.
const DRAIN: &str = "4s";

/// How a daemon is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Term,
    Interrupt,
    Unmount,
    UnmountSoon,
}

/// Asks the daemon to end and checks that it does: in time, with exit code 0, the folder free and
/// the socket gone.
#[track_caller]
fn end(mount: &mut Mount, way: Way) {
    let began = Instant::now();
    match way {
        Way::Term => mount.signal(Signal::SIGTERM),
        Way::Interrupt => mount.signal(Signal::SIGINT),
        Way::Unmount | Way::UnmountSoon => {
            let soon = ["unmount", "--drain", DRAIN];
            // Without more words nobody waits for what cannot be sent.
            let args = if way == Way::Unmount { &soon[..1] } else { &soon[..] };
            let output = mount.ctl(args);
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 6)), "{}{}", stdout(&output), stderr(&output));
            assert_eq!(mount_entries(mount), 0, "free when the command ends");
        }
    }
    assert_eq!(mount.wait_end(), Some(0), "{}", mount.log());
    let took = began.elapsed();
    eprintln!("{way:?} took {took:?}");
    assert!(took < STOP_MAX, "{way:?} took {took:?}");
    assert_eq!(mount_entries(mount), 0, "still mounted");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0, "something was left in the folder");
    assert!(!mount.socket().exists(), "the socket was left");
}

/// Stops a mount while four writers work on it: what was acknowledged is on the server or waits in
/// the outbox, and arrives at the latest after the next start.
fn stopped_under_load(way: Way, reachable: bool) {
    let seed = seed();
    let mut server = TestServer::new();
    let mut mount = Mount::builder(&server.source()).args(&["--drain", DRAIN]).start();
    mount.wait_synced();
    if !reachable {
        server.stop();
    }
    let mut accounts = vec![Account::default(); 4];
    for round in 0..2 {
        let load = Load::start(&mount.path(), accounts, seed + round);
        wait_for("some work", || (load.acknowledged() >= 150).then_some(()));
        end(&mut mount, way);
        wait_for("the writers notice", || load.is_over().then_some(()));
        accounts = load.stop();
        mount.start();
        load::check(&accounts, &bytes_of(&tree(&mount.path()).unwrap()));
    }
    if !reachable {
        server.start();
    }
    mount.flush();
    load::check(&accounts, &server.files());
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// A stop in the middle of changes from the remote, which are told to the kernel while programs read,
/// hold and map the files, ends in time like any other.
#[test]
fn a_stop_amid_changes_from_elsewhere_ends_in_time() {
    fuse_or_skip!();
    let server = TestServer::new();
    let other = Mount::of(&server);
    let mut mount = Mount::builder(&server.source()).args(&["--drain", DRAIN]).start();
    for n in 0..20 {
        fs::write(other.at(&format!("f{n}")), bytes(n, 20_000)).unwrap();
    }
    other.flush();
    for round in 0..4 {
        wait_for("the files", || mount.at("f19").exists().then_some(()));
        let over = AtomicBool::new(false);
        let rounds = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    fs::write(other.at(&format!("f{}", n % 20)), bytes(n, 20_000)).unwrap();
                }
            });
            for reader in 0..2 {
                let (folder, over, rounds) = (mount.path(), &over, &rounds);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        for n in (reader..20).step_by(2) {
                            let name = folder.join(format!("f{n}"));
                            // After the end there is nothing to be read.
                            let Ok(file) = fs::File::open(&name) else { continue };
                            drop(fs::read(&name));
                            held.push(file);
                        }
                        held.truncate(40);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait_for("readers amid changes", || {
                (rounds.load(Ordering::Relaxed) > 20).then_some(())
            });
            let began = Instant::now();
            mount.signal(Signal::SIGTERM);
            assert_eq!(mount.wait_end(), Some(0), "{}", mount.log());
            let took = began.elapsed();
            over.store(true, Ordering::Relaxed);
            assert!(took < STOP_MAX, "round {round} took {took:?}");
        });
        assert_eq!(mount_entries(&mount), 0, "still mounted");
        mount.start();
    }
    let end = |mount: &Mount| bytes_of(&tree(&mount.path()).unwrap());
    other.flush();
    wait_for("both show the same", || (end(&mount) == server.files()).then_some(()));
    assert_eq!(end(&other), server.files());
}

/// SIGTERM under load loses nothing.
#[test]
fn sigterm_under_load_loses_nothing() {
    fuse_or_skip!();
    stopped_under_load(Way::Term, true);
}

/// `mountctl unmount` under load loses nothing.
#[test]
fn unmount_under_load_loses_nothing() {
    fuse_or_skip!();
    stopped_under_load(Way::UnmountSoon, true);
}

/// Neither does SIGTERM under load when the server cannot be reached.
#[test]
fn sigterm_under_load_without_the_server_loses_nothing() {
    fuse_or_skip!();
    stopped_under_load(Way::Term, false);
}

/// Neither does `mountctl unmount` under load when the server cannot be reached.
#[test]
fn unmount_under_load_without_the_server_loses_nothing() {
    fuse_or_skip!();
    stopped_under_load(Way::UnmountSoon, false);
}

/// What was closed before a stop is on the server when the daemon has ended, if the server can
/// be reached.
#[test]
fn a_stop_sends_what_is_left() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    for (round, way) in [Way::Term, Way::Interrupt, Way::Unmount].into_iter().enumerate() {
        for n in 0..200 {
            fs::write(mount.at(&format!("f{round}-{n}")), format!("{n}")).unwrap();
        }
        end(&mut mount, way);
        assert_eq!(server.files().len(), 200 * (round + 1), "{way:?}");
        mount.start();
        mount.wait_synced();
        assert!(outbox(&mount).is_empty());
    }
}

/// With the server down and a backlog the daemon ends within 10 s, by signal and by command; the
/// next start sends the backlog with nobody doing anything.
#[test]
fn a_backlog_without_the_server_does_not_delay_the_end() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    server.stop();
    for (round, way) in [Way::Term, Way::Interrupt, Way::Unmount].into_iter().enumerate() {
        for n in 0..300 {
            fs::write(mount.at(&format!("f{round}-{n}")), format!("{n}")).unwrap();
        }
        wait_state(&mount, "offline");
        end(&mut mount, way);
        let stopped = mount.ctl(&["-m", "m", "status"]);
        assert_eq!(stopped.status.code(), Some(3));
        let shown = stdout(&stopped);
        assert!(shown.contains(&format!("{} queued", 300 * (round + 1))), "{shown}");
        mount.start();
    }
    end(&mut mount, Way::Term);
    server.start();
    mount.start();
    wait_sent(&mount);
    assert_eq!(server.files().len(), 900);
}

/// A paused mount ends as quickly, and is paused again at the next start.
#[test]
fn a_paused_mount_ends_at_once_and_stays_paused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    assert!(mount.ctl(&["pause", "--reason", "freeze"]).status.success());
    shell(&mount.path(), "echo one > one");
    for way in [Way::Term, Way::Unmount] {
        end(&mut mount, way);
        assert!(server.get("/one").is_none(), "a pause holds, also when stopping");
        mount.start();
    }
    let status = wait_state(&mount, "paused");
    assert_eq!(status["pause"]["uploads"]["reason"], "freeze");
    assert!(mount.ctl(&["resume"]).status.success());
    wait_sent(&mount);
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
}

/// `mountctl unmount --no-wait` sends nothing more; everything stays for the next start.
#[test]
fn unmount_without_waiting_sends_nothing_more() {
    fuse_or_skip!();
    let server = TestServer::new();
    // Long enough that nothing leaves by itself before the command comes.
    let options = ["--debounce", "60s", "--max-delay", "60s"];
    let mut mount = Mount::builder(&server.source()).args(&options).start();
    mount.wait_synced();
    for n in 0..50 {
        fs::write(mount.at(&format!("f{n}")), format!("{n}")).unwrap();
    }
    let output = mount.ctl(&["unmount", "--no-wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("50 records stay in the outbox"), "{said}");
    assert_eq!(mount.wait_end(), Some(0));
    assert_eq!(server.files().len(), 0, "sent all the same");
    mount.start();
    assert_eq!(outbox(&mount).len(), 50);
    mount.flush();
    assert_eq!(server.files().len(), 50);
}

/// A process that has its current folder in the mount; ended when dropped.
struct Squatter(Child);

impl Squatter {
    fn in_folder(folder: &Path) -> Self {
        let child = Command::new("sleep")
            .arg("600")
            .current_dir(folder)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Neither a current folder nor an open file inside keeps the mount from ending; what was
/// written to the open file before is kept and arrives.
#[test]
fn a_process_inside_does_not_hinder() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    for (round, way) in [Way::Term, Way::Unmount].into_iter().enumerate() {
        shell(&mount.path(), "mkdir -p deep/er");
        let squatter = Squatter::in_folder(&mount.at("deep/er"));
        let mut file = fs::File::create(mount.at(&format!("open-{round}"))).unwrap();
        file.write_all(b"written, not closed").unwrap();
        let reader = fs::File::open(mount.at("deep")).unwrap();
        end(&mut mount, way);
        drop((squatter, file, reader));
        mount.start();
        mount.flush();
        let there = server.get(&format!("/open-{round}")).unwrap().0;
        assert_eq!(there, b"written, not closed");
    }
}

/// A large file that is still open with writes nobody synced is complete after SIGTERM.
#[test]
fn a_large_open_file_is_sealed() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("grown"), bytes(1, 1_000_000)).unwrap();
    mount.flush();
    for reachable in [true, false] {
        if !reachable {
            server.stop();
        }
        let name = format!("large-{reachable}");
        let content = bytes(2, 6_000_000);
        let file = fs::File::create(mount.at(&name)).unwrap();
        file.write_all_at(&content, 0).unwrap();
        let grown = fs::OpenOptions::new().write(true).open(mount.at("grown")).unwrap();
        grown.write_all_at(b"changed in the middle", 500_000).unwrap();
        let small = fs::File::create(mount.at("small")).unwrap();
        small.write_all_at(b"a small one", 0).unwrap();
        end(&mut mount, Way::Term);
        drop((file, grown, small));
        if !reachable {
            server.start();
        }
        mount.start();
        assert!(fs::read(mount.at(&name)).unwrap() == content, "{name} differs here");
        mount.flush();
        assert!(server.get(&format!("/{name}")).unwrap().0 == content, "{name} differs");
        let mut expected = bytes(1, 1_000_000);
        expected[500_000..500_021].copy_from_slice(b"changed in the middle");
        assert!(server.get("/grown").unwrap().0 == expected, "grown differs");
        assert_eq!(server.get("/small").unwrap().0, b"a small one");
    }
}

/// A folder's mount, also shown in another place, as containers do.
struct Shown(PathBuf);

impl Shown {
    fn at(from: &Path, place: &Path) -> Self {
        let output = Command::new("mount").arg("--bind").args([from, place]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        Self(place.to_owned())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).output());
    }
}

/// Dead mounts that lie on top of each other are all cleared by a plain start; where one is also
/// shown in another place, that is somebody else's and stays.
#[test]
fn dead_mounts_on_top_of_each_other_are_cleared_and_no_others() {
    fuse_or_skip!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: who is not root mounts nothing twice");
        return;
    }
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > one");
    mount.flush();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let shown = Shown::at(&mount.path(), place);
    let again = Shown::at(&mount.path(), &mount.path());
    assert_eq!(mount_entries(&mount), 2);
    assert_eq!(fs::read(place.join("one")).unwrap(), b"one\n");
    mount.kill9();
    assert_eq!(mount_entries(&mount), 2, "both are dead");
    mount.start();
    assert_eq!(mount_entries(&mount), 1);
    assert_eq!(fs::read(mount.at("one")).unwrap(), b"one\n");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(&format!(" {} ", place.display())), "{mounts}");
    std::mem::forget(again);
    drop(shown);
    end(&mut mount, Way::Term);
}

/// A mount left behind by a kill is cleared by a plain start; there is one mount, not two on top
/// of each other.
#[test]
fn a_dead_mount_is_healed_by_a_plain_start() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > one");
    for _ in 0..5 {
        // The kernel has everything cached when the daemon goes.
        shell(&mount.path(), "ls -la; stat . one; cat one");
        mount.kill9();
        assert_eq!(mount_entries(&mount), 1, "the dead mount");
        mount.start();
        assert_eq!(mount_entries(&mount), 1);
        assert_eq!(fs::read(mount.at("one")).unwrap(), b"one\n");
    }
    // Also with somebody inside, to whom the dead mount still belongs.
    let squatter = Squatter::in_folder(&mount.path());
    mount.kill9();
    mount.start();
    assert_eq!(mount_entries(&mount), 1);
    shell(&mount.path(), "echo two > two");
    drop(squatter);
    mount.flush();
    end(&mut mount, Way::Term);
}

/// `umount` from outside ends the daemon as cleanly as a signal.
#[test]
fn umount_from_outside_ends_the_daemon() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    let umount = |mount: &mut Mount| {
        let began = Instant::now();
        let status = Command::new("umount").arg(mount.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(mount.wait_end(), Some(0), "{}", mount.log());
        assert!(began.elapsed() < STOP_MAX);
        assert_eq!(mount_entries(mount), 0);
        assert!(!mount.socket().exists());
    };
    shell(&mount.path(), "echo one > one");
    umount(&mut mount);
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
    server.stop();
    mount.start();
    shell(&mount.path(), "echo two > two");
    umount(&mut mount);
    server.start();
    mount.start();
    mount.flush();
    assert_eq!(server.get("/two").unwrap().0, b"two\n");
}

/// A signal right after the start ends the daemon as well as any other: no mount is left behind.
#[test]
fn a_signal_right_after_the_start_leaves_no_mount() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    end(&mut mount, Way::Term);
    for round in 0..15 {
        let mut child =
            mount.command(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        if round % 2 == 0 {
            wait_for("the mount", || (mount_entries(&mount) == 1).then_some(()));
        } else {
            wait_for("the socket", || mount.socket().exists().then_some(()));
        }
        nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert_eq!(mount_entries(&mount), 0, "left mounted after {status}");
        drop(fs::remove_file(mount.socket()));
    }
}
