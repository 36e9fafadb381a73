//! Guards: removals in great number wait for a person, whoever made them, and a server that forgot
//! is not believed.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::{history, json, stderr, stdout, wait_state};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, shell, wait_for};

/// The number of files within a minute from which on removals wait (`engine::guard::Limits`).
const LIMIT: usize = 500;

/// Files in the mount and at the server.
const FILES: usize = 700;

fn filled(server: &TestServer) -> Mount {
    let mount = Mount::of(server);
    mount.wait_synced();
    shell(&mount.path(), &format!("mkdir d; for n in $(seq {FILES}); do echo $n > d/$n; done"));
    mount.flush();
    mount.wait_synced();
    mount
}

/// What waits for a person, by kind.
fn approvals(mount: &Mount) -> BTreeMap<String, Value> {
    let mut document = json(mount, &["approvals"]);
    let Value::Array(all) = document["data"]["approvals"].take() else { panic!("{document}") };
    let kind = |one: &Value| one["kind"].as_str().unwrap().to_owned();
    all.into_iter().map(|one| (kind(&one), one)).collect()
}

#[track_caller]
fn wait_approval(mount: &Mount, kind: &str, count: usize) -> String {
    wait_for(&format!("{count} {kind} to approve"), || {
        let one = approvals(mount).remove(kind)?;
        (one["count"] == count).then(|| one["id"].as_str().unwrap().to_owned())
    })
}

#[track_caller]
fn approve(mount: &Mount, args: &[&str], code: i32) -> String {
    let output = mount.ctl(&[&["approve"], args].concat());
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// More than 500 removals within a minute that are more than half of all files are held as one
/// approval, over restarts; everything else flows meanwhile; an approval is void when its set
/// changes, and says what waits now.
#[test]
fn a_burst_of_removals_waits_for_an_approval() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = filled(&server);
    // So that the whole burst is known before anything of it could have left.
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "for n in $(seq 600); do rm d/$n; done");
    let first = wait_approval(&mount, "removals", 600);
    assert!(mount.ctl(&["resume"]).status.success());
    let events = stdout(&mount.ctl(&["events"]));
    assert!(events.contains("approval"), "{events}");
    let status = wait_state(&mount, "attention");
    assert_eq!(status["approvals"], 1, "{status:#}");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(7));
    let shown = stdout(&mount.ctl(&["approvals"]));
    assert!(shown.contains(&first) && shown.contains("/d/1\n"), "{shown}");
    let all = stdout(&mount.ctl(&["approvals", "show", &first]));
    assert!((1..=600).all(|n| all.contains(&format!("/d/{n}\n"))), "{all}");

    shell(&mount.path(), "echo new > new; mv d/650 d/moved");
    wait_for("other work flows", || server.get("/d/moved").and(server.get("/new")));
    mount.kill9();
    mount.start();
    assert_eq!(wait_approval(&mount, "removals", 600), first);
    shell(&mount.path(), "echo again > d/7");
    wait_for("the file that is there again", || {
        server.get("/d/7").filter(|(bytes, _)| bytes == b"again\n")
    });
    assert_eq!(server.files().len(), FILES + 1, "nothing was removed");
    let second = wait_approval(&mount, "removals", 599);
    let refused = approve(&mount, &[&first], 1);
    assert!(refused.contains("ILLEGAL_TRANSITION") && refused.contains(&second), "{refused}");
    approve(&mount, &["removals-123"], 1);
    approve(&mount, &["nothing"], 5);
    assert_eq!(server.files().len(), FILES + 1, "nothing was removed");

    approve(&mount, &[&second], 0);
    mount.flush();
    let expected = bytes_of(&tree(&mount.path()).unwrap());
    assert_eq!(expected.len(), FILES + 1 - 599);
    assert_eq!(server.files(), expected);
    approve(&mount, &[&second], 5);
    mount.wait_synced();
}

/// Removals that go out while they are made stop at the limit.
#[test]
fn no_more_than_the_limit_is_removed_unasked() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = filled(&server);
    shell(&mount.path(), "rm -r d");
    assert!(!mount.at("d").exists());
    let status = wait_state(&mount, "attention");
    assert_eq!(status["approvals"], 1, "{status:#}");
    let removed = |history: &[(String, String)]| {
        history.iter().filter(|(kind, _)| kind == "file.deleted").count()
    };
    wait_for("the rest is decided", || {
        let held = approvals(&mount)["removals"]["count"].as_u64().unwrap();
        let held = usize::try_from(held).unwrap();
        let queued = mount.status()["uploads"]["queued"].as_u64().unwrap();
        // The folder waits as well.
        (queued == 0 && held + removed(&history(&server)) == FILES + 1).then_some(())
    });
    assert!(removed(&history(&server)) <= LIMIT);
    // An ending daemon does not wait for a person.
    assert_eq!(mount.ctl(&["flush", "--timeout", "20s"]).status.code(), Some(7));
}

/// Refused removals bring the files back as the server has them.
#[test]
fn refused_removals_bring_the_files_back() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = filled(&server);
    let before = bytes_of(&tree(&mount.path()).unwrap());
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "rm -r d; echo new > new");
    let id = wait_approval(&mount, "removals", FILES + 1);
    approve(&mount, &[&id, "--reject"], 0);
    // Also when it ends at once.
    mount.kill9();
    mount.start();
    assert!(mount.ctl(&["resume"]).status.success());
    let mut expected = before;
    expected.insert("/new".to_owned(), b"new\n".to_vec());
    wait_for("the files are back", || {
        tree(&mount.path()).is_ok_and(|tree| tree.len() >= FILES + 2).then_some(())
    });
    assert_eq!(bytes_of(&tree(&mount.path()).unwrap()), expected);
    mount.flush();
    assert_eq!(server.files(), expected);
    assert!(approvals(&mount).is_empty());
}

/// Somebody else's burst of removals takes no more than the limit away here unasked; what is unsent
/// is not concerned. Approved, the files go; refused, they are sent to the server again.
#[test]
fn a_burst_of_removals_at_the_server_is_not_followed_unasked() {
    fuse_or_skip!();
    for approved in [true, false] {
        removed_at_the_server(approved);
    }
}

fn removed_at_the_server(approved: bool) {
    let server = TestServer::new();
    let mut mount = filled(&server);
    assert!(mount.ctl(&["pause"]).status.success());
    fs::write(mount.at("d/700"), "unsent").unwrap();
    for n in 1..=FILES {
        server.delete(&format!("/d/{n}"));
    }
    // One of the files is not clean.
    let kept = FILES - 1 - LIMIT;
    let id = wait_approval(&mount, "remote-removals", kept);
    let here = || bytes_of(&tree(&mount.path()).unwrap());
    assert_eq!(here().len(), kept + 1);
    mount.kill9();
    mount.start();
    assert_eq!(wait_approval(&mount, "remote-removals", kept), id);
    assert!(mount.ctl(&["resume"]).status.success());
    wait_for("the unsent file", || server.get("/d/700"));
    let here = || bytes_of(&tree(&mount.path()).unwrap());
    let mut expected = here();
    assert_eq!(expected.len(), kept + 1);
    let words = [&*id, "--reject"];
    approve(&mount, if approved { &words[..1] } else { &words }, 0);
    if approved {
        expected.retain(|path, _| path == "/d/700");
    }
    wait_for("both are alike", || (server.files() == expected && here() == expected).then_some(()));
    assert_eq!(fs::read(mount.at("d/700")).unwrap(), b"unsent");
    mount.flush();
    mount.wait_synced();
}

/// A server that was set back to the very event up to which we heard, and so forgot what it accepted
/// from here since, is found out, and what it forgot is not taken away here.
#[test]
fn a_server_set_back_to_our_cursor_is_not_believed() {
    fuse_or_skip!();
    let edge = Edge::new();
    let mut server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "for n in 1 2 3; do echo $n > $n; done");
    mount.flush();
    let newest = format!("evt_{}", history(&server).len());
    wait_for("the newest event", || {
        (mount.status()["stream"]["cursor"] == newest.as_str()).then_some(())
    });
    let copy = tempfile::tempdir().unwrap();
    // The stream cannot tell of what is accepted from now on.
    edge.before(|request| {
        if matches!(request.route, "/fs/events" | "/fs/ws") {
            reply(503, &[])
        } else {
            workspaced::Before::Pass
        }
    });
    server.stop();
    shell(server.storage(), &format!("cp -r . {}/", copy.path().display()));
    server.start();
    shell(&mount.path(), "echo forgotten > forgotten; echo changed > 2");
    mount.flush();
    assert_eq!(mount.status()["stream"]["cursor"], newest.as_str());
    let before = bytes_of(&tree(&mount.path()).unwrap());
    server.stop();
    shell(server.storage(), &format!("rm -r ./*; cp -r {}/. .", copy.path().display()));
    edge.clear();
    server.start();
    assert!(server.get("/forgotten").is_none());
    wait_state(&mount, "reset_suspected");
    assert_eq!(bytes_of(&tree(&mount.path()).unwrap()), before);
    let id = wait_for("the reset to approve", || {
        approvals(&mount).remove("reset")?["id"].as_str().map(str::to_owned)
    });
    approve(&mount, &[&id, "--reject"], 1);
    let id = wait_for("an approval that is not overtaken", || {
        let id = approvals(&mount)
            .remove("reset")
            .map_or(id.clone(), |one| one["id"].as_str().unwrap().to_owned());
        mount.ctl(&["approve", &id]).status.success().then_some(id)
    });
    assert!(id.starts_with("reset-"));
    wait_for("the forgotten file is there again", || server.get("/forgotten"));
    assert_eq!(fs::read(mount.at("forgotten")).unwrap(), b"forgotten\n");
    // What was changed is kept: here, or beside what the server has.
    wait_for("both versions", || {
        let conflicts = json(&mount, &["conflicts"])["data"]["conflicts"].take();
        let one = conflicts.as_array()?.first()?.clone();
        let ours = std::path::Path::new(one["dir"].as_str()?).join("local");
        (fs::read(ours).ok()? == b"changed\n").then_some(())
    });
}

/// A server whose history was replaced by another one of the same length, with other content under
/// the same revisions, is found out by the content.
#[test]
fn another_content_under_a_known_revision_is_not_believed() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > one");
    mount.flush();
    let copy = tempfile::tempdir().unwrap();
    server.stop();
    shell(server.storage(), &format!("cp -r . {}/", copy.path().display()));
    server.start();
    mount.wait_synced();
    fs::write(mount.at("one"), "ours").unwrap();
    mount.flush();
    let (_, revision) = server.get("/one").unwrap();
    let newest = format!("evt_{}", history(&server).len());
    wait_for("the newest event", || {
        (mount.status()["stream"]["cursor"] == newest.as_str()).then_some(())
    });
    server.stop();
    shell(server.storage(), &format!("rm -r ./*; cp -r {}/. .", copy.path().display()));
    let theirs = server.out_of_reach(|server| server.put("/one", b"theirs"));
    assert_eq!(theirs, revision);
    server.start();
    wait_state(&mount, "reset_suspected");
    assert_eq!(fs::read(mount.at("one")).unwrap(), b"ours");
}
