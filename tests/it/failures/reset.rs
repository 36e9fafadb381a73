//! The server has lost its files, or its history: nothing here is given up for it.

use std::fs;
use std::path::Path;

use crate::fuse_or_skip;
use crate::support::observe::{history, json, stderr, stdout, wait_sent, wait_state};
use crate::support::tree::{Tree, bytes_of, tree};
use crate::support::{Kind, Mount, TestServer, shell, wait_for};

/// What must hold while the server looks reset: everything is still here and can be used, and no
/// deletion is sent.
fn check_reset_is_survived(mount: &Mount, expected: &Tree) {
    let status = wait_state(mount, "reset_suspected");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
    assert!(stdout(&mount.ctl(&["status"])).contains("RESET"), "{status:#}");
    assert_eq!(&tree(&mount.path()).unwrap(), expected);
}

/// Goes on with the server as it is, as it looks in the end: while it is looked at, what was to be
/// approved may change.
fn approve_reset(mount: &Mount) {
    wait_for("the reset is approved", || {
        let approvals = json(mount, &["approvals"])["data"]["approvals"].take();
        let id = approvals[0]["id"].as_str()?.to_owned();
        assert!(id.starts_with("reset-"), "{approvals:#}");
        mount.ctl(&["approve", &id]).status.success().then_some(())
    });
}

/// A server that lost everything takes nothing from the mount: files stay, deletions wait, and a
/// person decides with `mountctl approve`.
#[test]
fn an_emptied_server_empties_nothing_here() {
    fuse_or_skip!();
    // A few files are as dear as many.
    for files in [3, 30] {
        emptied(files);
    }
}

fn emptied(files: usize) {
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), &format!("mkdir d; for n in $(seq {files}); do echo $n > d/$n; done"));
    mount.flush();
    let before = tree(&mount.path()).unwrap();
    server.wipe();
    check_reset_is_survived(&mount, &before);
    // It holds over a restart.
    mount.kill9();
    mount.start();
    check_reset_is_survived(&mount, &before);
    // New work waits as well: what such a server accepted would be gone with its next repair.
    shell(&mount.path(), "echo new > d/new; rm d/1");
    assert_eq!(mount.ctl(&["flush", "--timeout", "300ms"]).status.code(), Some(6));
    assert!(server.files().is_empty());
    let resumed = mount.ctl(&["resume"]);
    assert_eq!(resumed.status.code(), Some(1), "{}", stdout(&resumed));
    assert!(stderr(&resumed).contains("mountctl approvals"), "{}", stderr(&resumed));
    approve_reset(&mount);
    // Now what is here goes there again.
    let expected = bytes_of(&tree(&mount.path()).unwrap());
    assert_eq!(expected.len(), files);
    wait_for("all files on the server again", || (server.files() == expected).then_some(()));
    assert_eq!(bytes_of(&tree(&mount.path()).unwrap()), expected);
    mount.flush();
    mount.wait_synced();
}

/// A server that was restored from an old copy, so that its numbers start lower, is not believed
/// either: nothing that is newer here is overwritten by it.
#[test]
fn a_server_whose_history_went_back_is_not_believed() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "for n in $(seq 20); do echo old $n > $n; done");
    mount.flush();
    let copy = tempfile::tempdir().unwrap();
    server.stop();
    shell(server.storage(), &format!("cp -r . {}/", copy.path().display()));
    server.start();
    mount.wait_synced();
    shell(&mount.path(), "for n in $(seq 11 30); do echo new $n > $n; done");
    wait_sent(&mount);
    let newest = format!("evt_{}", history(&server).len());
    wait_for("the newest event", || {
        (mount.status()["stream"]["cursor"] == newest.as_str()).then_some(())
    });
    let before = tree(&mount.path()).unwrap();
    server.stop();
    shell(server.storage(), &format!("rm -r ./*; cp -r {}/. .", copy.path().display()));
    server.start();
    assert_eq!(server.files().len(), 20);
    wait_for("the suspicion", || (mount.status()["state"] == "reset_suspected").then_some(()));
    mount.kill9();
    mount.start();
    wait_state(&mount, "reset_suspected");
    assert_eq!(tree(&mount.path()).unwrap(), before);
    assert_eq!(server.files().len(), 20);

    approve_reset(&mount);
    // What only this mount has goes there; of what both have, both versions are kept.
    let conflicts = wait_for("the conflicts", || {
        let listed = json(&mount, &["conflicts"])["data"]["conflicts"].take();
        listed.as_array().filter(|listed| listed.len() == 10).cloned()
    });
    assert_eq!(mount.ctl(&["flush"]).status.code(), Some(7));
    let files = server.files();
    for n in 1..=30 {
        let expected = if n <= 20 { format!("old {n}\n") } else { format!("new {n}\n") };
        assert_eq!(files[&format!("/{n}")], expected.as_bytes(), "{n}");
        assert_eq!(fs::read(mount.at(&format!("{n}"))).unwrap(), expected.as_bytes(), "{n}");
    }
    for conflict in &conflicts {
        let n = conflict["path"].as_str().unwrap().trim_start_matches('/');
        let ours = fs::read(Path::new(conflict["dir"].as_str().unwrap()).join("local")).unwrap();
        assert_eq!(ours, format!("new {n}\n").as_bytes());
    }
}

/// The mounted folder goes at the server, and a file takes its name. The mount stays, what was not sent
/// yet is not lost, and work goes on.
#[test]
fn a_mounted_folder_that_becomes_a_file_stays_a_mount() {
    fuse_or_skip!();
    for kind in [Kind::Extended, Kind::Original] {
        let server = kind.server().start();
        for n in 0..12 {
            server.put(&format!("/project/d/{n}"), b"theirs");
        }
        let builder = Mount::builder(&server.source()).args(&["--remote-path", "/project"]);
        let mut mount = builder.start();
        mount.wait_synced();
        assert!(mount.ctl(&["pause"]).status.success());
        fs::write(mount.at("d/1"), "edited here").unwrap();
        fs::write(mount.at("new"), "made here").unwrap();
        for n in 0..12 {
            server.delete(&format!("/project/d/{n}"));
        }
        server.put("/project", b"a file in the place of the folder");
        wait_for("the removals arrive", || (!mount.at("d/2").exists()).then_some(()));
        let ours = |mount: &Mount| {
            assert_eq!(fs::read(mount.at("d/1")).unwrap(), b"edited here");
            assert_eq!(fs::read(mount.at("new")).unwrap(), b"made here");
        };
        ours(&mount);
        mount.kill9();
        mount.start();
        ours(&mount);
        assert!(mount.ctl(&["resume"]).status.success());
        mount.flush();
        ours(&mount);
        fs::write(mount.at("later"), "later").unwrap();
        mount.flush();
        let files = server.files();
        let expected = [
            ("/project", "a file in the place of the folder"),
            ("/project/d/1", "edited here"),
            ("/project/later", "later"),
            ("/project/new", "made here"),
        ];
        let expected = expected.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        assert_eq!(files, std::collections::BTreeMap::from(expected), "{kind:?}");
    }
}
