//! Conflict copies at rest: one that a kill left without a row gets its place, one that is damaged is
//! told and never used.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fuse_or_skip;
use crate::support::observe::{json, stderr, stdout, wait_sent};
use crate::support::{Mount, TestServer, wait_for};

/// A mount with one open conflict over `/f`: its id and its folder.
fn with_a_conflict() -> (TestServer, Mount, String, PathBuf) {
    let mut server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    server.stop();
    fs::write(mount.at("f"), "ours").unwrap();
    server.out_of_reach(|server| server.put("/f", b"theirs"));
    server.start();
    let listed = wait_for("a conflict", || listed(&mount, &[]).pop());
    wait_sent(&mount);
    let folder = PathBuf::from(listed["dir"].as_str().unwrap());
    (server, mount, listed["id"].as_str().unwrap().to_owned(), folder)
}

fn listed(mount: &Mount, more: &[&str]) -> Vec<Value> {
    let mut document = json(mount, &[&["conflicts", "list"], more].concat());
    match document["data"]["conflicts"].take() {
        Value::Array(all) => all,
        other => panic!("no conflicts: {other} in {document}"),
    }
}

fn names(mount: &Mount) -> Vec<String> {
    let names = fs::read_dir(mount.state().join("conflicts")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What a kill between a copy and its row leaves: a complete copy is listed as one that was decided
/// anew, an incomplete one goes, and what cannot be told is set aside. The next start finds nothing.
#[test]
fn copies_without_a_row_get_a_place_at_the_start() {
    fuse_or_skip!();
    let (_server, mut mount, id, folder) = with_a_conflict();
    assert_eq!(mount.term(), Some(0));
    let beside = |name: &str| folder.with_file_name(name);
    copy_folder(&folder, &beside("c-70.conflict-20260101T000000Z"));
    copy_folder(&folder, &beside("c-71.conflict-20260101T000000Z"));
    fs::remove_file(beside("c-71.conflict-20260101T000000Z").join("meta.json")).unwrap();
    copy_folder(&folder, &beside("c-72.conflict-20260101T000000Z"));
    fs::write(beside("c-72.conflict-20260101T000000Z").join("local"), "not ours").unwrap();
    mount.start();
    let open = listed(&mount, &[]);
    assert_eq!((open.len(), &open[0]["id"]), (1, &Value::from(id.as_str())));
    let all = listed(&mount, &["--resolved"]);
    let other = all.iter().find(|conflict| conflict["id"] != id.as_str()).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(other["id"], format!("{id}-2"), "an id names one conflict");
    assert_eq!((&other["path"], &other["resolution"]["how"]), (&"/f".into(), &"anew".into()));
    assert_eq!(other["resolution"]["automatic"], true);
    let left = names(&mount);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().any(|name| name.starts_with("c-72.conflict-20260101T000000Z.corrupt.")));
    assert!(!left.iter().any(|name| name.starts_with("c-71")));
    assert_eq!(mount.term(), Some(0));
    mount.start();
    assert_eq!((names(&mount), listed(&mount, &["--resolved"]).len()), (left, 2));
}

/// Where the row of a copy was lost by damage, the copy is listed again and waits for a person.
#[test]
fn the_copy_of_a_damaged_row_is_listed_again() {
    fuse_or_skip!();
    let (_server, mut mount, id, folder) = with_a_conflict();
    assert_eq!(mount.term(), Some(0));
    {
        let state = rusqlite::Connection::open(mount.state().join("state.db")).unwrap();
        assert_eq!(state.execute("UPDATE conflicts SET at = at + 1", []).unwrap(), 1);
    }
    mount.start();
    let open = listed(&mount, &[]);
    assert_eq!((open.len(), &open[0]["id"]), (1, &Value::from(id.as_str())));
    assert_eq!(open[0]["dir"], folder.display().to_string());
    let reply = mount.ctl(&["conflicts", "resolve", &id, "--ours", "--yes"]);
    assert!(reply.status.success(), "{}", stderr(&reply));
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "ours");
}

/// A copy of ours, or of the base, that is not as it was written is told by `show`, and neither
/// takes the name nor is merged; the rest of the conflict can be decided.
#[test]
fn a_damaged_copy_is_told_and_never_used() {
    fuse_or_skip!();
    let (server, mount, id, folder) = with_a_conflict();
    for (file, bytes, kind) in
        [("base", Some("bass"), "mismatched"), ("local", Some("ours, longer"), "mismatched")]
            .into_iter()
            .chain([("local", None, "missing")])
    {
        match bytes {
            Some(bytes) => fs::write(folder.join(file), bytes).unwrap(),
            None => fs::remove_file(folder.join(file)).unwrap(),
        }
        let shown = json(&mount, &["conflicts", "show", &id]);
        let damaged = shown["data"]["damaged"].as_array().unwrap().clone();
        let told = damaged.iter().find(|flaw| flaw["file"] == file).unwrap();
        assert_eq!(told["kind"], kind, "{shown}");
        let text = stdout(&mount.ctl(&["conflicts", "show", &id]));
        assert!(text.contains("damaged") && text.contains(kind), "{text}");
    }
    for choice in
        [&["resolve", &id, "--ours", "--yes"][..], &["resolve", &id, "--both"], &["merge", &id]]
    {
        let output = mount.ctl(&[&["conflicts"], choice].concat());
        assert!(!output.status.success(), "{choice:?}");
        let text = stderr(&output) + &stdout(&output);
        assert!(text.contains("damaged"), "{text}");
    }
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "theirs");
    assert_eq!(listed(&mount, &[]).len(), 1);
    let output = mount.ctl(&["conflicts", "resolve", &id, "--theirs", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.get("/f").unwrap().0, b"theirs");
}
