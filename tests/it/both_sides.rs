//! Two mounts that did different things with the same names while neither could send: in the end both
//! show what the server has, and what either of them had is there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::on_both_servers;
use crate::support::observe::{history, json, wait_sent};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Kind, Mount, TestServer, wait_for};

on_both_servers!(
    a_file_renamed_on_both_sides_keeps_a_name,
    a_folder_removed_here_keeps_what_was_made_in_it_there,
    a_save_by_way_of_another_name_meets_a_change,
    lines_appended_on_both_sides_are_all_kept,
    the_rules_are_those_of_the_file_that_won,
);

/// A file that gets one new name here and another one there has one of them or both, and the old one no
/// more: at no time its bytes are nowhere.
fn a_file_renamed_on_both_sides_keeps_a_name(kind: Kind) {
    let (server, a, b) = pair(kind, &[("f", "content")]);
    apart(&a, &b, || {
        fs::rename(a.at("f"), a.at("g")).unwrap();
        fs::rename(b.at("f"), b.at("h")).unwrap();
    });
    let files = agreed(&server, &a, &b);
    assert!(!files.contains_key("/f"), "{files:?}");
    assert!(files.contains_key("/g") || files.contains_key("/h"), "{files:?}");
    assert!(files.values().all(|bytes| bytes == b"content"), "{files:?}");
}

/// Who removes a folder with all that is in it removes what was in it for them: a file that was made
/// there meanwhile stays, and so do the folders above it.
fn a_folder_removed_here_keeps_what_was_made_in_it_there(kind: Kind) {
    let (server, a, b) = pair(kind, &[("d/one", "1"), ("d/sub/two", "2")]);
    apart(&a, &b, || {
        fs::remove_dir_all(a.at("d")).unwrap();
        fs::write(b.at("d/sub/three"), "3").unwrap();
        fs::create_dir(b.at("d/new")).unwrap();
        fs::write(b.at("d/new/four"), "4").unwrap();
    });
    let files = agreed(&server, &a, &b);
    let left: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(left, ["/d/new/four", "/d/sub/three"]);
}

/// A program that writes a file anew under another name and moves it into place, while the file was
/// changed elsewhere: theirs keeps the name, ours is kept, and the other name never was at the server.
fn a_save_by_way_of_another_name_meets_a_change(kind: Kind) {
    let (server, a, b) = pair(kind, &[("f", "one line\n")]);
    apart(&a, &b, || {
        fs::write(a.at(".f.tmp"), "ours\n").unwrap();
        fs::rename(a.at(".f.tmp"), a.at("f")).unwrap();
        server.put("f", b"theirs\n");
    });
    let sides = conflict(&a);
    assert_eq!(fs::read_to_string(sides.join("local")).unwrap(), "ours\n");
    assert_eq!(fs::read_to_string(sides.join("remote")).unwrap(), "theirs\n");
    assert_eq!(agreed(&server, &a, &b)["/f"], b"theirs\n");
    let names: Vec<String> = history(&server).into_iter().map(|(_, path)| path).collect();
    assert!(!names.iter().any(|name| name.contains("tmp")), "{names:?}");
}

/// Two who append to one log at once: every line is in it or in the conflict copy, and none twice.
fn lines_appended_on_both_sides_are_all_kept(kind: Kind) {
    let (server, a, b) = pair(kind, &[("log", "first\n")]);
    apart(&a, &b, || {
        for (mount, line) in [(&a, "by a\n"), (&b, "by b\n")] {
            let mut log = OpenOptions::new().append(true).open(mount.at("log")).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
    });
    let shown = String::from_utf8(agreed(&server, &a, &b)["/log"].clone()).unwrap();
    let copies = [&a, &b].into_iter().flat_map(copies).map(|copy| copy.join("local"));
    let copies: String = copies.map(|copy| fs::read_to_string(copy).unwrap()).collect();
    let all = format!("{shown}{copies}");
    for line in ["by a\n", "by b\n"] {
        assert_eq!(all.matches(line).count(), 1, "{line:?} in {shown:?} and {copies:?}");
    }
    assert_eq!(shown.matches("first\n").count(), 1);
}

/// Rules that were changed on both sides: those of the side that has the name hold, at once, and when a
/// person decides for the other side, those do.
fn the_rules_are_those_of_the_file_that_won(kind: Kind) {
    let (server, a, b) = pair(kind, &[(".mountignore", "nothing\n")]);
    apart(&a, &b, || {
        fs::write(a.at(".mountignore"), "ours-*\n").unwrap();
        server.put(".mountignore", b"theirs-*\n");
    });
    let id = conflict_id(&a);
    fs::write(a.at("ours-1"), "sent").unwrap();
    fs::write(a.at("theirs-1"), "stays here").unwrap();
    wait_for("what theirs lets through", || server.get("ours-1"));
    wait_sent(&a);
    assert!(server.get("theirs-1").is_none());
    assert!(a.ctl(&["conflicts", "resolve", &id, "--ours", "--yes"]).status.success());
    wait_for("our rules there", || (server.get(".mountignore")?.0 == b"ours-*\n").then_some(()));
    // What theirs kept here is sent now, and what ours names stays here.
    wait_for("what ours lets through", || server.get("theirs-1"));
    fs::write(a.at("ours-2"), "stays here").unwrap();
    wait_sent(&a);
    assert!(server.get("ours-2").is_none());
}

/// Two mounts that show the same few files.
fn pair(kind: Kind, files: &[(&str, &str)]) -> (TestServer, Mount, Mount) {
    let server = kind.server().start();
    for (path, content) in files {
        server.put(path, content.as_bytes());
    }
    let (a, b) = (Mount::of(&server), Mount::of(&server));
    for mount in [&a, &b] {
        mount.wait_synced();
        for (path, content) in files {
            assert_eq!(fs::read_to_string(mount.at(path)).unwrap(), *content);
        }
    }
    (server, a, b)
}

/// Does something while neither mount sends.
fn apart(a: &Mount, b: &Mount, act: impl FnOnce()) {
    for mount in [a, b] {
        assert!(mount.ctl(&["pause"]).status.success());
    }
    act();
    for mount in [a, b] {
        assert!(mount.ctl(&["resume"]).status.success());
    }
}

/// Waits until both mounts show the server's files; returns these.
fn agreed(
    server: &TestServer,
    a: &Mount,
    b: &Mount,
) -> std::collections::BTreeMap<String, Vec<u8>> {
    wait_for("both mounts to show what the server has", || {
        wait_sent(a);
        wait_sent(b);
        let there = server.files();
        let shown = |mount: &Mount| Some(bytes_of(&tree(&mount.path()).ok()?));
        (shown(a)? == there && shown(b)? == there).then_some(there)
    })
}

fn listed(mount: &Mount) -> Vec<Value> {
    let mut listed = json(mount, &["conflicts"]);
    match listed["data"]["conflicts"].take() {
        Value::Array(all) => all,
        _ => Vec::new(),
    }
}

/// The folders of the conflict copies.
fn copies(mount: &Mount) -> Vec<PathBuf> {
    listed(mount).iter().map(|one| PathBuf::from(one["dir"].as_str().unwrap())).collect()
}

/// Waits for the one conflict; returns the folder of its copy.
fn conflict(mount: &Mount) -> PathBuf {
    wait_for("the conflict", || copies(mount).pop())
}

fn conflict_id(mount: &Mount) -> String {
    wait_for("the conflict", || Some(listed(mount).first()?["id"].as_str()?.to_owned()))
}
