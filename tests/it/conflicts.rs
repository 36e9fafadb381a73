//! Both sides changed: nobody's bytes are overwritten, what can be settled settles by itself, and
//! the rest is kept beside and told to people.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use workspaced::{After, Before, RequestHead};

use crate::on_both_servers;
use crate::support::hooks::{Act, Hooks, is_write};
use crate::support::observe::{count, history, json, outbox, stdout, wait_sent};
use crate::support::{Kind, Mount, TestServer, bytes, close, seed, wait_for};

on_both_servers!(
    edits_on_both_sides_are_both_kept,
    equal_edits_on_both_sides_are_no_conflict,
    a_removal_here_gives_way_to_an_edit_there,
    an_edit_here_creates_again_what_was_removed_there,
    files_created_on_both_sides_are_both_kept,
    conflicts_in_a_row_keep_every_version,
    the_longest_name_can_conflict,
    a_large_file_can_conflict,
    a_file_that_is_open_conflicts_when_it_is_closed,
    a_lost_reply_is_no_conflict,
    a_lost_reply_of_a_large_file_is_no_conflict,
    a_lost_reply_of_a_removal_is_no_conflict,
    a_lost_reply_of_a_rename_is_no_conflict,
    a_change_after_a_lost_reply_is_no_conflict,
    a_removal_after_a_lost_reply_leaves_no_ghost,
    a_rename_after_a_lost_reply_leaves_no_ghost,
    a_file_created_again_outlives_its_removal,
    the_own_event_before_the_reply_is_no_conflict,
    a_rename_and_an_edit_of_the_old_name_both_survive,
    a_rename_of_what_was_removed_there_keeps_what_is_here,
    a_kill_while_a_conflict_is_settled_loses_nothing,
);

/// Theirs takes the name; ours is kept in a folder with both, the base, and what is known of them,
/// and people are told in every way there is.
fn edits_on_both_sides_are_both_kept(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    let base = server.get("/f").unwrap().1;
    server.stop();
    fs::write(mount.at("f"), "ours").unwrap();
    let theirs = server.out_of_reach(|server| server.put("/f", b"theirs"));
    server.start();
    let conflict = conflicts(&mount, 1).remove(0);
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"theirs");
    assert_eq!(server.get("/f").unwrap(), (b"theirs".to_vec(), theirs.clone()));
    assert_eq!(count(&history(&server), "file.updated", "/f"), 1, "ours never took the name");

    assert_eq!(conflict["path"], "/f");
    assert_eq!(conflict["base_revision"], base.as_str());
    assert_eq!(conflict["theirs_revision"], theirs.as_str());
    assert_eq!((&conflict["ours"]["size"], &conflict["theirs"]["size"]), (&4.into(), &6.into()));
    let folder = folder(&conflict);
    assert!(folder.starts_with(mount.state().join("conflicts")), "{}", folder.display());
    let name = folder.file_name().unwrap().to_str().unwrap();
    let id = conflict["id"].as_str().unwrap();
    assert!(name.starts_with(&format!("{id}.conflict-")), "{name}");
    for (copy, content) in [("local", "ours"), ("remote", "theirs"), ("base", "base")] {
        assert_eq!(fs::read(folder.join(copy)).unwrap(), content.as_bytes(), "{copy}");
    }
    let meta: Value = serde_json::from_slice(&fs::read(folder.join("meta.json")).unwrap()).unwrap();
    assert_eq!((&meta["id"], &meta["path"]), (&conflict["id"], &"/f".into()));
    assert_eq!(meta["base_revision"], base.as_str());
    let digest = |bytes: &[u8]| mountd::digest::Digest::of(bytes).to_string();
    assert_eq!(meta["local"]["sha256"], digest(b"ours"));
    assert_eq!(meta["remote"]["sha256"], digest(b"theirs"));

    let status = mount.status();
    assert_eq!((&status["state"], &status["conflicts"]["open"]), (&"attention".into(), &1.into()));
    let listed = mount.ctl(&["conflicts"]);
    assert_eq!(listed.status.code(), Some(0));
    assert!(stdout(&listed).contains("/f") && stdout(&listed).contains(id), "{}", stdout(&listed));
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(7), "needs attention");
    // The other file goes on as if nothing was; so does this one.
    fs::write(mount.at("f"), "after").unwrap();
    fs::write(mount.at("g"), "other").unwrap();
    wait_sent(&mount);
    assert_eq!(server.get("/f").unwrap().0, b"after");
    assert_eq!(server.get("/g").unwrap().0, b"other");
    assert_eq!(fs::read(folder.join("local")).unwrap(), b"ours");
}

/// The same edit on both sides is adopted.
fn equal_edits_on_both_sides_are_no_conflict(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    server.stop();
    fs::write(mount.at("f"), "the same").unwrap();
    fs::write(mount.at("new"), "also").unwrap();
    server.out_of_reach(|server| {
        server.put("/f", b"the same");
        server.put("/new", b"also");
    });
    server.start();
    wait_sent(&mount);
    no_conflict(&mount);
    let history = history(&server);
    assert_eq!(count(&history, "file.updated", "/f"), 1, "{history:?}");
    assert_eq!(count(&history, "file.updated", "/new"), 0, "{history:?}");
    // What was adopted is what the next change is made against.
    fs::write(mount.at("f"), "next").unwrap();
    wait_sent(&mount);
    assert_eq!(server.get("/f").unwrap().0, b"next");
    no_conflict(&mount);
}

/// A file removed here and edited there is back with their bytes, and the removal is reported.
fn a_removal_here_gives_way_to_an_edit_there(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    server.stop();
    fs::remove_file(mount.at("f")).unwrap();
    server.out_of_reach(|server| server.put("/f", b"theirs"));
    server.start();
    let conflict = conflicts(&mount, 1).remove(0);
    assert_eq!((&conflict["path"], &conflict["kind"]), (&"/f".into(), &"delete".into()));
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"theirs");
    assert_eq!(server.get("/f").unwrap().0, b"theirs");
    assert_eq!(count(&history(&server), "file.deleted", "/f"), 0);
    wait_sent(&mount);
    // A removal that knows of the edit is carried out.
    fs::remove_file(mount.at("f")).unwrap();
    wait_sent(&mount);
    assert_eq!(server.get("/f"), None);
}

/// A file edited here and removed there is created again from our bytes.
fn an_edit_here_creates_again_what_was_removed_there(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    fs::write(mount.at("untouched"), "base").unwrap();
    mount.flush();
    server.stop();
    fs::write(mount.at("f"), "ours").unwrap();
    server.out_of_reach(|server| {
        server.delete("/f");
        server.delete("/untouched");
    });
    server.start();
    wait_sent(&mount);
    assert_eq!(server.get("/f").expect("created again").0, b"ours");
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"ours");
    wait_for("what was only removed is gone", || {
        fs::metadata(mount.at("untouched")).is_err().then_some(())
    });
    assert_eq!(server.get("/untouched"), None);
}

/// Two files of one name, created without knowing of each other, are both kept.
fn files_created_on_both_sides_are_both_kept(kind: Kind) {
    let (mut server, mount) = start(kind);
    server.stop();
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("d/f"), "ours").unwrap();
    server.out_of_reach(|server| server.put("/d/f", b"theirs"));
    server.start();
    let conflict = conflicts(&mount, 1).remove(0);
    assert_eq!(conflict["base_revision"], Value::Null, "there was none");
    assert_eq!(copy_of_ours(&conflict), b"ours");
    assert!(!folder(&conflict).join("base").exists());
    assert_eq!(fs::read(mount.at("d/f")).unwrap(), b"theirs");
    assert_eq!(server.get("/d/f").unwrap().0, b"theirs");
}

/// Three conflicts of one file give three copies; none takes the place of another.
fn conflicts_in_a_row_keep_every_version(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    for n in 1..=3_usize {
        server.stop();
        fs::write(mount.at("f"), format!("ours {n}")).unwrap();
        server.out_of_reach(|server| server.put("/f", format!("theirs {n}").as_bytes()));
        server.start();
        conflicts(&mount, n);
        wait_sent(&mount);
        assert_eq!(fs::read(mount.at("f")).unwrap(), format!("theirs {n}").as_bytes());
    }
    let all = conflicts(&mount, 3);
    let kept: Vec<Vec<u8>> = all.iter().rev().map(copy_of_ours).collect();
    assert_eq!(kept, [b"ours 1", b"ours 2", b"ours 3"]);
    let folders: std::collections::BTreeSet<PathBuf> = all.iter().map(folder).collect();
    assert_eq!(folders.len(), 3);
}

/// The copy of a conflict has a name that fits, however long the name of the file is.
fn the_longest_name_can_conflict(kind: Kind) {
    let (mut server, mount) = start(kind);
    // 255 bytes, of which some are in characters of several bytes.
    let name = format!("{}{}", "ö".repeat(100), "n".repeat(55));
    assert_eq!(name.len(), 255);
    server.stop();
    fs::write(mount.at(&name), "ours").unwrap();
    server.out_of_reach(|server| server.put(&format!("/{name}"), b"theirs"));
    server.start();
    let conflict = conflicts(&mount, 1).remove(0);
    assert_eq!(conflict["path"], format!("/{name}"));
    assert_eq!(copy_of_ours(&conflict), b"ours");
    assert_eq!(fs::read(mount.at(&name)).unwrap(), b"theirs");
}

/// A file too large for memory and bulk requests conflicts as any other, every byte of both kept.
fn a_large_file_can_conflict(kind: Kind) {
    let (mut server, mount) = start(kind);
    // As JSON, a request holds at most one mebibyte.
    let size = if kind.is_extended() { 1 << 20 } else { 600 << 10 };
    fs::write(mount.at("f"), bytes(1, size)).unwrap();
    mount.flush();
    server.stop();
    let (ours, theirs) = (bytes(2, size), bytes(3, 650 << 10));
    fs::write(mount.at("f"), &ours).unwrap();
    server.out_of_reach(|server| server.put("/f", &theirs));
    server.start();
    let conflict = conflicts(&mount, 1).remove(0);
    assert!(copy_of_ours(&conflict) == ours);
    assert!(fs::read(folder(&conflict).join("remote")).unwrap() == theirs);
    assert!(fs::read(mount.at("f")).unwrap() == theirs);
    assert!(server.get("/f").unwrap().0 == theirs);
}

/// While a file is open for writing, its name is not taken from under the program; what it wrote
/// to the end is in the copy.
fn a_file_that_is_open_conflicts_when_it_is_closed(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    server.stop();
    let mut open = fs::OpenOptions::new().read(true).write(true).open(mount.at("f")).unwrap();
    open.write_all(b"ours, first").unwrap();
    open.sync_all().unwrap();
    server.out_of_reach(|server| server.put("/f", b"theirs"));
    server.start();
    // Even in a hurry it is not decided now.
    let hurried = mount.ctl(&["flush", "--timeout", "1s"]);
    assert!(!hurried.status.success(), "{}", stdout(&hurried));
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"ours, first");
    open.write_all(b", then more").unwrap();
    open.rewind().unwrap();
    open.write_all(b"OURS").unwrap();
    close(open).expect("a conflict is no failure of `close`");
    let conflict = conflicts(&mount, 1).remove(0);
    assert_eq!(copy_of_ours(&conflict), b"OURS, first, then more");
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"theirs");
    assert_eq!(server.get("/f").unwrap().0, b"theirs");
}

/// Changes whose replies are lost, one or several times, happen once and conflict with nothing.
fn a_lost_reply_is_no_conflict(kind: Kind) {
    for times in [1, 3] {
        let (server, mount, hooks) = start_hooked(kind);
        fs::write(mount.at("known"), "base").unwrap();
        mount.flush();
        let lost = hooks.add(times, Act::After(After::Drop), is_write);
        for n in 0..5 {
            fs::write(mount.at(&format!("f{n}")), format!("content {n}")).unwrap();
        }
        fs::write(mount.at("known"), "changed").unwrap();
        wait_sent(&mount);
        assert_eq!(lost.count(), times);
        let history = history(&server);
        for n in 0..5 {
            assert_eq!(server.get(&format!("/f{n}")).unwrap().0, format!("content {n}").as_bytes());
            let path = format!("/f{n}");
            assert_eq!(count(&history, "file.created", &path), 1, "{history:?}");
            assert_eq!(count(&history, "file.updated", &path), 0, "{history:?}");
        }
        assert_eq!(count(&history, "file.updated", "/known"), 1, "{history:?}");
        no_conflict(&mount);
        // The revisions that were never told are known all the same.
        fs::write(mount.at("f0"), "next").unwrap();
        wait_sent(&mount);
        assert_eq!(server.get("/f0").unwrap().0, b"next");
        no_conflict(&mount);
    }
}

/// The same for a file that travels by itself.
fn a_lost_reply_of_a_large_file_is_no_conflict(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    let lost = hooks.add(2, Act::After(After::Drop), is_write);
    let content = bytes(1, 600 << 10);
    fs::write(mount.at("f"), &content).unwrap();
    wait_sent(&mount);
    assert_eq!(lost.count(), 2);
    assert!(server.get("/f").unwrap().0 == content);
    let history = history(&server);
    assert_eq!(count(&history, "file.created", "/f"), 1, "{history:?}");
    assert_eq!(count(&history, "file.updated", "/f"), 0, "{history:?}");
    no_conflict(&mount);
}

/// The same for removals.
fn a_lost_reply_of_a_removal_is_no_conflict(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    for n in 0..3 {
        fs::write(mount.at(&format!("f{n}")), "content").unwrap();
    }
    mount.flush();
    let lost = hooks.add(1, Act::After(After::Drop), is_write);
    for n in 0..3 {
        fs::remove_file(mount.at(&format!("f{n}"))).unwrap();
    }
    wait_sent(&mount);
    assert_eq!(lost.count(), 1);
    assert_eq!(server.files(), BTreeMap::new());
    for n in 0..3 {
        assert_eq!(count(&history(&server), "file.deleted", &format!("/f{n}")), 1);
        assert!(fs::metadata(mount.at(&format!("f{n}"))).is_err());
    }
    no_conflict(&mount);
}

/// The same for renames, also of a file whose bytes are not here.
fn a_lost_reply_of_a_rename_is_no_conflict(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    let large = bytes(1, 400 << 10);
    server.put("/far", &large);
    fs::write(mount.at("near"), "near").unwrap();
    mount.flush();
    settled(&server, &mount);
    let lost = hooks.add(1, Act::After(After::Drop), is_write);
    fs::rename(mount.at("near"), mount.at("near 2")).unwrap();
    fs::rename(mount.at("far"), mount.at("far 2")).unwrap();
    wait_sent(&mount);
    assert_eq!(lost.count(), 1);
    settled(&server, &mount);
    let names: Vec<String> = server.files().into_keys().collect();
    assert_eq!(names, ["/far 2", "/marker", "/near 2"]);
    assert!(server.get("/far 2").unwrap().0 == large);
    assert_eq!(server.get("/near 2").unwrap().0, b"near");
    assert!(fs::read(mount.at("far 2")).unwrap() == large);
    assert_eq!(fs::read(mount.at("near 2")).unwrap(), b"near");
    assert!(fs::metadata(mount.at("far")).is_err() && fs::metadata(mount.at("near")).is_err());
    no_conflict(&mount);
}

/// A file whose request was carried out, whose reply was lost, and that is changed before the
/// next attempt, arrives with its newest bytes: our own older bytes are nobody else's edit.
fn a_change_after_a_lost_reply_is_no_conflict(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    after_a_lost_reply(&server, &mount, &hooks, || {
        fs::write(mount.at("new"), "new, changed").unwrap();
        fs::write(mount.at("known"), "known, changed twice").unwrap();
    });
    assert_eq!(server.get("/new").unwrap().0, b"new, changed");
    assert_eq!(server.get("/known").unwrap().0, b"known, changed twice");
    assert_eq!(fs::read(mount.at("new")).unwrap(), b"new, changed");
    assert_eq!(fs::read(mount.at("known")).unwrap(), b"known, changed twice");
    no_conflict(&mount);
}

/// A file that is removed after its reply was lost is removed at the server too, where it was
/// stored although nobody here knew.
fn a_removal_after_a_lost_reply_leaves_no_ghost(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    after_a_lost_reply(&server, &mount, &hooks, || {
        fs::remove_file(mount.at("new")).unwrap();
        fs::remove_file(mount.at("known")).unwrap();
    });
    assert_eq!(server.files(), BTreeMap::new());
    settled(&server, &mount);
    assert!(fs::metadata(mount.at("new")).is_err(), "it is back");
    assert!(fs::metadata(mount.at("known")).is_err(), "it is back");
    no_conflict(&mount);
}

/// A file that is renamed after its reply was lost has the new name only.
fn a_rename_after_a_lost_reply_leaves_no_ghost(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    after_a_lost_reply(&server, &mount, &hooks, || {
        fs::rename(mount.at("new"), mount.at("new 2")).unwrap();
        fs::rename(mount.at("known"), mount.at("known 2")).unwrap();
    });
    let expected = [("/known 2", "known, changed"), ("/new 2", "new")];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.as_bytes().to_vec()));
    assert_eq!(server.files(), BTreeMap::from(expected));
    settled(&server, &mount);
    let mut names: Vec<_> = fs::read_dir(mount.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "marker")
        .collect();
    names.sort();
    assert_eq!(names, ["known 2", "new 2"]);
    no_conflict(&mount);
}

/// Sends a new file and a changed one, loses the reply, and has `act` done before anything is
/// sent again.
#[track_caller]
fn after_a_lost_reply(server: &TestServer, mount: &Mount, hooks: &Hooks, act: impl FnOnce()) {
    fs::write(mount.at("known"), "known").unwrap();
    mount.flush();
    assert!(mount.ctl(&["pause"]).status.success());
    fs::write(mount.at("known"), "known, changed").unwrap();
    fs::write(mount.at("new"), "new").unwrap();
    let lost = hooks.add(1, Act::After(After::Drop), is_write);
    let seen = lost.clone();
    // Once the reply is lost, nothing reaches the server.
    let cut = hooks.add(u64::MAX, Act::Before(Before::Reset), move |request: &RequestHead| {
        seen.count() > 0 && is_write(request)
    });
    assert!(mount.ctl(&["resume"]).status.success());
    lost.wait();
    wait_for("the changes wait again", || {
        let records = outbox(mount);
        (records.len() == 2 && records.iter().all(|record| record["state"] != "inflight"))
            .then_some(())
    });
    assert_eq!(server.get("/new").expect("carried out").0, b"new");
    act();
    cut.wait();
    hooks.clear();
    wait_sent(mount);
}

/// A file that is created again while the removal of the former one is under way, is there in the
/// end, here and at the server.
fn a_file_created_again_outlives_its_removal(kind: Kind) {
    let slow = Duration::from_millis(600);
    // The removal is slow to be carried out, or its reply is slow.
    for act in [Act::Before(Before::Delay(slow)), Act::After(After::Delay(slow))] {
        let (server, mount, hooks) = start_hooked(kind);
        fs::write(mount.at("f"), "former").unwrap();
        mount.flush();
        let slowed = hooks.add(1, act, is_write);
        fs::remove_file(mount.at("f")).unwrap();
        slowed.wait();
        fs::write(mount.at("f"), "new one").unwrap();
        assert_eq!(fs::read(mount.at("f")).unwrap(), b"new one");
        wait_sent(&mount);
        assert_eq!(server.get("/f").expect("the new file").0, b"new one");
        settled(&server, &mount);
        assert_eq!(fs::read(mount.at("f")).unwrap(), b"new one");
        no_conflict(&mount);
    }
}

/// When the event of our own change comes before the reply, it is recognised: no conflict, and
/// nothing is read again.
fn the_own_event_before_the_reply_is_no_conflict(kind: Kind) {
    let (server, mount, hooks) = start_hooked(kind);
    fs::write(mount.at("known"), "base").unwrap();
    mount.flush();
    settled(&server, &mount);
    server.log().reset();
    let late = Act::After(After::Delay(Duration::from_millis(500)));
    let slowed = hooks.add(1, late, is_write);
    fs::write(mount.at("new"), "new").unwrap();
    fs::write(mount.at("known"), "changed").unwrap();
    slowed.wait();
    assert_eq!(fs::read(mount.at("known")).unwrap(), b"changed");
    wait_sent(&mount);
    let reads = server.log().count("GET", "/fs/file") + server.log().count("GET", "/fs/raw");
    assert_eq!(reads, 0, "{:?}", server.log().recent());
    // The same with a change on top, made while the reply was under way.
    let late = Act::After(After::Delay(Duration::from_millis(500)));
    let slowed = hooks.add(1, late, is_write);
    fs::write(mount.at("known"), "changed 2").unwrap();
    slowed.wait();
    fs::write(mount.at("known"), "changed 3").unwrap();
    wait_sent(&mount);
    let reads = server.log().count("GET", "/fs/file") + server.log().count("GET", "/fs/raw");
    assert_eq!(reads, 0, "{:?}", server.log().recent());
    settled(&server, &mount);
    assert_eq!(server.get("/new").unwrap().0, b"new");
    assert_eq!(server.get("/known").unwrap().0, b"changed 3");
    assert_eq!(fs::read(mount.at("known")).unwrap(), b"changed 3");
    assert_eq!(count(&history(&server), "file.updated", "/known"), 3);
    no_conflict(&mount);
}

/// A file renamed here and edited there under its old name: ours is under the new name, theirs
/// under the old one.
fn a_rename_and_an_edit_of_the_old_name_both_survive(kind: Kind) {
    let (mut server, mount) = start(kind);
    fs::write(mount.at("old"), "ours").unwrap();
    mount.flush();
    server.stop();
    fs::rename(mount.at("old"), mount.at("new")).unwrap();
    server.out_of_reach(|server| server.put("/old", b"theirs"));
    server.start();
    wait_sent(&mount);
    let expected = [("/new", "ours"), ("/old", "theirs")];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.as_bytes().to_vec()));
    assert_eq!(server.files(), BTreeMap::from(expected));
    wait_for("both in the mount", || fs::read(mount.at("old")).ok());
    assert_eq!(fs::read(mount.at("old")).unwrap(), b"theirs");
    assert_eq!(fs::read(mount.at("new")).unwrap(), b"ours");
}

/// A file renamed here and removed there lives on under its new name, when its bytes are here.
/// When they are nowhere any more, that holds up nothing else.
fn a_rename_of_what_was_removed_there_keeps_what_is_here(kind: Kind) {
    let (mut server, mount) = start(kind);
    server.put("/far", &bytes(1, 400 << 10));
    fs::write(mount.at("near"), "near").unwrap();
    mount.flush();
    settled(&server, &mount);
    server.stop();
    fs::rename(mount.at("near"), mount.at("near 2")).unwrap();
    fs::rename(mount.at("far"), mount.at("far 2")).unwrap();
    fs::write(mount.at("other"), "other").unwrap();
    server.out_of_reach(|server| {
        server.delete("/near");
        server.delete("/far");
    });
    server.start();
    wait_for("what is here arrives", || server.get("/near 2"));
    wait_for("the rest arrives", || server.get("/other"));
    wait_sent(&mount);
    assert_eq!(server.get("/near 2").unwrap().0, b"near");
    assert_eq!((server.get("/near"), server.get("/far")), (None, None));
    assert_eq!(fs::read(mount.at("near 2")).unwrap(), b"near");
}

/// A daemon killed at any moment between hearing of a conflict and having settled it loses
/// neither side.
fn a_kill_while_a_conflict_is_settled_loses_nothing(kind: Kind) {
    let (mut server, mut mount) = start(kind);
    let mut rng = SmallRng::seed_from_u64(seed());
    for round in 0..5_usize {
        let name = format!("f{round}");
        fs::write(mount.at(&name), "base").unwrap();
        wait_sent(&mount);
        server.stop();
        let ours = bytes(round as u64, if round % 2 == 0 { 1000 } else { 200_000 });
        fs::write(mount.at(&name), &ours).unwrap();
        let theirs = format!("theirs {round}").into_bytes();
        server.out_of_reach(|server| server.put(&format!("/{name}"), &theirs));
        server.start();
        assert!(mount.ctl(&["resume"]).status.success());
        // A moment of the conflict's life, not a wait for anything.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..40_000)));
        mount.kill9();
        mount.start();
        let all = conflicts(&mount, round + 1);
        let newest = &all[0];
        assert_eq!(newest["path"], format!("/{name}"));
        assert!(copy_of_ours(newest) == ours, "round {round}: ours");
        assert_eq!(fs::read(folder(newest).join("remote")).unwrap(), theirs);
        wait_sent(&mount);
        assert_eq!(fs::read(mount.at(&name)).unwrap(), theirs, "round {round}: theirs");
        assert_eq!(server.get(&format!("/{name}")).unwrap().0, theirs);
    }
}

fn start(kind: Kind) -> (TestServer, Mount) {
    let server = kind.server().start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    (server, mount)
}

fn start_hooked(kind: Kind) -> (TestServer, Mount, std::sync::Arc<Hooks>) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    (server, mount, hooks)
}

/// Waits until `n` conflicts are open. Returns them as listed, newest first.
#[track_caller]
fn conflicts(mount: &Mount, n: usize) -> Vec<Value> {
    wait_for(&format!("{n} conflicts"), || {
        let mut listed = json(mount, &["conflicts"]);
        let Value::Array(all) = listed["data"]["conflicts"].take() else { return None };
        assert!(all.len() <= n, "too many conflicts: {all:?}");
        (all.len() == n).then_some(all)
    })
}

#[track_caller]
fn no_conflict(mount: &Mount) {
    let listed = json(mount, &["conflicts"]);
    assert_eq!(listed["data"]["conflicts"], Value::Array(Vec::new()));
    let copies = fs::read_dir(mount.state().join("conflicts")).map_or(0, Iterator::count);
    assert_eq!(copies, 0, "copies on disk");
}

fn folder(conflict: &Value) -> PathBuf {
    PathBuf::from(conflict["dir"].as_str().unwrap())
}

fn copy_of_ours(conflict: &Value) -> Vec<u8> {
    fs::read(folder(conflict).join("local")).unwrap()
}

/// Waits until the mount has heard of everything that happened at the server so far.
#[track_caller]
fn settled(server: &TestServer, mount: &Mount) {
    let marker = format!("{:016x}", rand::random::<u64>());
    server.put("/marker", marker.as_bytes());
    wait_for("the newest event", || {
        (fs::read(mount.at("marker")).ok()? == marker.as_bytes()).then_some(())
    });
    mount.wait_synced();
}
