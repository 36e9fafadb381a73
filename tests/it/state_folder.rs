//! The state folder is taken away, or can no longer be written: what is changed then is refused, not
//! acknowledged and lost; nobody else's files suffer, and people are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::damage::large;
use crate::fuse_or_skip;
use crate::support::observe::{stderr, stdout};
use crate::support::{Mount, TestServer, wait_for};

const NONE: Option<&str> = None;

/// A mount that is taken away again.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[track_caller]
fn is_eio<T>(result: std::io::Result<T>) {
    match result {
        Ok(_) => panic!("it was acknowledged"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}"),
    }
}

/// A state folder that is removed, or moved away, while the mount runs: each change is refused before it
/// is acknowledged, also one of a file that was open, and so is a sync. What is here can be read.
/// Nothing is removed at the server, and a new start shows what it has.
#[test]
fn a_state_folder_that_is_taken_away_is_noticed_at_once() {
    fuse_or_skip!();
    for moved in [false, true] {
        let server = TestServer::new();
        let mut mount = Mount::of(&server);
        fs::write(mount.at("small"), "small").unwrap();
        fs::write(mount.at("large"), large(1)).unwrap();
        mount.flush();
        mount.wait_synced();
        let open = fs::File::options().write(true).open(mount.at("large")).unwrap();
        if moved {
            fs::rename(mount.state(), mount.outside().join("away")).unwrap();
        } else {
            fs::remove_dir_all(mount.state()).unwrap();
        }
        is_eio(fs::write(mount.at("new"), "new"));
        is_eio(fs::write(mount.at("small"), "changed"));
        is_eio(fs::create_dir(mount.at("folder")));
        is_eio(fs::rename(mount.at("small"), mount.at("other")));
        is_eio(std::os::unix::fs::FileExt::write_all_at(&open, b"changed", 1000));
        is_eio(open.sync_all());
        assert_eq!(fs::read_to_string(mount.at("small")).unwrap(), "small");
        let status = mount.status();
        assert_eq!(status["state"], "attention");
        assert!(status["state_folder"].as_str().unwrap().contains("removed"), "{status:#}");
        let text = stdout(&mount.ctl(&["status"]));
        assert!(text.contains("changes made here are not kept"), "{text}");
        let doctor = mount.ctl(&["doctor", "--offline", "-m", "m"]);
        assert_eq!(doctor.status.code(), Some(1));
        let text = stdout(&doctor);
        assert!(text.contains("[FAIL] state folder") && text.contains("[FAIL] storage"), "{text}");
        drop(open);
        mount.term();
        if moved {
            fs::rename(mount.outside().join("away"), mount.state()).unwrap();
        }
        mount.start();
        mount.wait_synced();
        assert_eq!(fs::read_to_string(mount.at("small")).unwrap(), "small");
        assert!(fs::read(mount.at("large")).unwrap() == large(1));
        assert_eq!(server.files().len(), 2, "{:?}", server.files().keys());
        assert!(mount.status()["state_folder"].is_null());
    }
}

/// A state folder that was removed while nobody used it: the mount begins anew with what the server has,
/// and removes nothing there.
#[test]
fn a_state_folder_removed_while_stopped_removes_nothing_elsewhere() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    fs::write(mount.at("f"), "kept at the server").unwrap();
    mount.flush();
    assert_eq!(mount.term(), Some(0));
    fs::remove_dir_all(mount.state()).unwrap();
    mount.start();
    mount.wait_synced();
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "kept at the server");
    assert_eq!(server.files().len(), 1);
}

/// A read-only state folder: the mount does not start, says so, and nothing is mounted.
#[test]
fn a_read_only_state_folder_is_refused_at_the_start() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    assert_eq!(mount.term(), Some(0));
    let state = mount.state();
    mount_bind(&state, MsFlags::MS_BIND);
    let _mounted = Mounted(state.clone());
    mount_bind(&state, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    let output = mount.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stderr(&output);
    for word in ["state folder", "Read-only", "STATE_FOLDER", "make it writable"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!mount.is_mounted());
    let doctor = mount.ctl(&["doctor", "--offline", "-m", "m"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(stdout(&doctor).contains("cannot be written"), "{}", stdout(&doctor));
}

fn mount_bind(folder: &Path, flags: MsFlags) {
    mount(Some(folder), folder, NONE, flags, NONE).unwrap();
}

/// A disk that turns read-only while the mount runs, as one with errors does: changes are refused and
/// told, what is here can be read, and once it can be written again the mount goes on.
#[test]
fn a_disk_that_turns_read_only_loses_nothing_acknowledged() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mounted = Mount::builder(&server.source()).prepare();
    let image = mounted.outside().join("image");
    let disk = mounted.outside().join("disk");
    fs::create_dir(&disk).unwrap();
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success())
    };
    let (image, at) = (image.display().to_string(), disk.display().to_string());
    if !run("mkfs.ext4", &["-q", &image]) || !run("mount", &["-o", "loop", &image, &at]) {
        eprintln!("SKIPPED: there are no loop devices here");
        return;
    }
    let _disk = Mounted(disk.clone());
    mounted.add_args(&["--state-dir", &at]);
    mounted.start();
    fs::write(mounted.at("before"), "before").unwrap();
    assert!(mounted.ctl(&["pause"]).status.success());
    fs::write(mounted.at("kept"), "kept").unwrap();
    let synced = fs::File::create(mounted.at("synced")).unwrap();
    synced.sync_all().unwrap();
    assert!(run("mount", &["-o", "remount,abort", &at]));
    let refused =
        wait_for("a change that is refused", || fs::write(mounted.at("after"), "after").err());
    assert!(matches!(refused.raw_os_error(), Some(nix::libc::EIO | nix::libc::EROFS)), "{refused}");
    assert_eq!(fs::read_to_string(mounted.at("kept")).unwrap(), "kept");
    wait_for("the status to say so", || {
        mounted.status()["state_folder"].as_str().map(str::to_owned)
    });
    let told = mounted.ctl(&["status", "--check"]);
    assert_eq!(told.status.code(), Some(8), "paused comes first");
    mounted.term();
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    // What is synced is there; what was not may be.
    assert!(run("e2fsck", &["-y", &image]) || run("e2fsck", &["-n", &image]));
    assert!(run("mount", &["-o", "loop", &image, &at]));
    mounted.start();
    assert!(mounted.ctl(&["resume"]).status.success());
    mounted.flush();
    assert!(server.get("/synced").is_some());
    assert_eq!(server.get("/before").unwrap().0, b"before");
    fs::write(mounted.at("after"), "after").unwrap();
    mounted.flush();
}
