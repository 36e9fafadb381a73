//! What becomes of a conflict: what merges by itself, what the rules decide, and how a person ends
//! the rest. Nobody's bytes are lost on the way.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use workspaced::{After, Before};

use crate::on_both_servers;
use crate::support::hooks::{Act, Hooks, is_write};
use crate::support::observe::{count, history, json, wait_sent};
use crate::support::{Kind, Mount, TestServer, seed, wait_for};

mod resolving;

on_both_servers!(
    edits_of_different_lines_are_merged,
    large_texts_are_merged_however_they_are_saved,
    what_cannot_be_merged_is_kept,
    a_merge_that_is_overtaken_is_merged_again,
    an_edit_on_top_of_one_under_way_has_its_base,
    an_open_file_is_merged_when_it_is_closed,
    rules_by_path_decide,
    a_kill_while_a_merge_is_made_loses_no_line,
    ours_can_be_shown_beside_the_file,
);

/// Ten lines, of which some say something else.
fn lines(changed: &[(usize, &str)]) -> String {
    let line = |n| {
        let new = changed.iter().find(|(at, _)| *at == n).map(|(_, text)| (*text).to_owned());
        new.unwrap_or_else(|| format!("line {n}")) + "\n"
    };
    (0..10).map(line).collect()
}

/// Both edits are in the file, here and at the server, nobody has to decide anything, and what each
/// side had before is still to be had.
fn edits_of_different_lines_are_merged(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    fs::write(mount.at("f.md"), lines(&[])).unwrap();
    mount.flush();
    let before = inode(&mount, "f.md");
    let (ours, theirs) = (lines(&[(1, "ours")]), lines(&[(8, "theirs")]));
    apart(&mut server, "/f.md", &theirs, || fs::write(mount.at("f.md"), &ours).unwrap());
    wait_sent(&mount);
    let merged = lines(&[(1, "ours"), (8, "theirs")]);
    assert_eq!(text(&server, "/f.md"), merged);
    shows(&mount, "f.md", &merged);
    assert_eq!(inode(&mount, "f.md"), before, "it is the same file");
    // Theirs and then the merge: ours alone never had the name.
    assert_eq!(count(&history(&server), "file.updated", "/f.md"), 2);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    mount.wait_synced();

    let settled = all_conflicts(&mount).remove(0);
    assert_eq!(settled["path"], "/f.md");
    assert_eq!(settled["resolution"]["how"], "merged");
    assert_eq!(settled["resolution"]["automatic"], true);
    assert_eq!(side(&settled, "local"), ours.as_bytes());
    assert_eq!(side(&settled, "remote"), theirs.as_bytes());
    assert_eq!(side(&settled, "base"), lines(&[]).as_bytes());
    // The next edit is made against the merge.
    fs::write(mount.at("f.md"), "after").unwrap();
    wait_sent(&mount);
    assert_eq!(text(&server, "/f.md"), "after");
    assert_eq!(all_conflicts(&mount).len(), 1);
}

/// A text that lies in a working file is merged, too: changed in place, written anew, or saved by
/// way of another name, as editors do it.
fn large_texts_are_merged_however_they_are_saved(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    let pad = "x".repeat(90);
    let large = |first: &str, last: &str| {
        let middle: String = (0..3000).map(|n| format!("{n} {pad}\n")).collect();
        format!("{first}\n{middle}{last}\n")
    };
    let base = large("first", "last");
    assert!(base.len() > 256 << 10 && base.len() < 512 << 10);
    let names = ["in place", "anew", "by another name"];
    for name in names {
        fs::write(mount.at(name), &base).unwrap();
    }
    mount.flush();
    server.stop();
    let mut file = fs::OpenOptions::new().write(true).open(mount.at("in place")).unwrap();
    file.write_all(b"FIRST").unwrap();
    drop(file);
    fs::write(mount.at("anew"), large("FIRST", "last")).unwrap();
    fs::write(mount.at("tmp"), large("FIRST", "last")).unwrap();
    fs::rename(mount.at("tmp"), mount.at("by another name")).unwrap();
    server.out_of_reach(|server| {
        for name in names {
            server.put(&format!("/{name}"), large("first", "LAST").as_bytes());
        }
    });
    server.start();
    wait_sent(&mount);
    let merged = large("FIRST", "LAST");
    for name in names {
        let there = text(&server, &format!("/{name}"));
        assert!(there == merged, "{name}: {:?}", all_conflicts(&mount));
        shows(&mount, name, &merged);
    }
    assert_eq!(all_conflicts(&mount).len(), 3);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert!(fs::metadata(mount.at("tmp")).is_err());
}

/// Edits of the same lines, bytes that are no text, too many of them, and files whose base is not
/// known are kept on both sides for a person.
fn what_cannot_be_merged_is_kept(kind: Kind) {
    let mut server = kind.server().max_body_bytes(8 << 20).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let plain = || lines(&[]).into_bytes();
    let binary = |at: usize| {
        let mut bytes = plain();
        bytes[at] = 0;
        bytes
    };
    let ours = || lines(&[(1, "ours")]).into_bytes();
    let theirs = || lines(&[(8, "theirs")]).into_bytes();
    let huge = "some line\n".repeat(120_000);
    let huge = |first: &str, last: &str| format!("{first}\n{huge}{last}\n").into_bytes();
    let mut cases = vec![
        ("overlap", plain(), ours(), lines(&[(1, "theirs")]).into_bytes()),
        ("binary here", plain(), binary(2), theirs()),
        ("binary there", plain(), ours(), binary(60)),
        ("binary before", binary(2), ours(), theirs()),
        ("no utf-8", plain(), b"\xff\xfe\n".to_vec(), theirs()),
        ("huge", huge("a", "b"), huge("A", "b"), huge("a", "B")),
    ];
    for (name, base, ..) in &cases {
        fs::write(mount.at(name), base).unwrap();
    }
    // Larger than what comes along with a listing or an event, and never read here.
    let far = "a line\n".repeat(40_000);
    server.put("/far", far.as_bytes());
    mount.flush();
    wait_for("what was put there", || fs::metadata(mount.at("far")).ok());
    server.stop();
    for (name, _, ours, _) in &cases {
        fs::write(mount.at(name), ours).unwrap();
    }
    cases.push(("far", Vec::new(), b"ours\n".to_vec(), (far + "theirs\n").into_bytes()));
    // Our own unsent bytes, which the second write replaces, are not what it was made from.
    fs::write(mount.at("far"), "ours, first\n").unwrap();
    fs::write(mount.at("tmp"), "ours\n").unwrap();
    fs::rename(mount.at("tmp"), mount.at("far")).unwrap();
    server.out_of_reach(|server| {
        for (name, _, _, theirs) in &cases {
            server.put(&format!("/{name}"), theirs);
        }
    });
    server.start();
    let open = open_conflicts(&mount, cases.len());
    wait_sent(&mount);
    for (name, _, ours, theirs) in &cases {
        let path = format!("/{name}");
        let conflict = open.iter().find(|conflict| conflict["path"] == path).unwrap();
        assert!(&side(conflict, "local") == ours, "{name}");
        let base = PathBuf::from(conflict["dir"].as_str().unwrap()).join("base");
        assert_eq!(base.exists(), *name != "far" && *name != "huge", "{name}");
        wait_for(name, || (&fs::read(mount.at(name)).unwrap() == theirs).then_some(()));
        assert!(&server.get(&path).unwrap().0 == theirs, "{name}");
    }
    assert_eq!(all_conflicts(&mount).len(), cases.len(), "nothing was merged");
}

/// While a merge is on its way the file is changed there once more: that is merged on top.
fn a_merge_that_is_overtaken_is_merged_again(kind: Kind) {
    let hooks = Hooks::new();
    let mut server = kind.server().interceptor(hooks.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("f"), lines(&[])).unwrap();
    mount.flush();
    server.stop();
    fs::write(mount.at("f"), lines(&[(1, "ours")])).unwrap();
    server.out_of_reach(|server| server.put("/f", lines(&[(5, "theirs")]).as_bytes()));
    // Our first attempt is refused; the second one, which carries the merge, is slow to arrive.
    let writes = Arc::new(AtomicU64::new(0));
    let slow = Act::Before(Before::Delay(Duration::from_millis(700)));
    let slowed = hooks.add(1, slow, move |request| {
        is_write(request)
            && request.route == "/fs/bulk"
            && writes.fetch_add(1, Ordering::SeqCst) == 1
    });
    server.start();
    slowed.wait();
    server.put("/f", lines(&[(5, "theirs"), (9, "theirs too")]).as_bytes());
    wait_sent(&mount);
    let merged = lines(&[(1, "ours"), (5, "theirs"), (9, "theirs too")]);
    assert_eq!(text(&server, "/f"), merged);
    shows(&mount, "f", &merged);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    let all = all_conflicts(&mount);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_ne!(all[0]["id"], all[1]["id"]);
}

/// An edit made while one is under way has that one as its base, and is merged with what came in
/// between.
fn an_edit_on_top_of_one_under_way_has_its_base(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("f"), lines(&[])).unwrap();
    mount.flush();
    // The reply to the first edit is slow; meanwhile there is another one here, and one there.
    let slow = Act::After(After::Delay(Duration::from_millis(700)));
    let slowed = hooks.add(1, slow, is_write);
    fs::write(mount.at("f"), lines(&[(1, "first")])).unwrap();
    slowed.wait();
    fs::write(mount.at("f"), lines(&[(1, "first"), (4, "second")])).unwrap();
    server.put("/f", lines(&[(1, "first"), (8, "theirs")]).as_bytes());
    wait_sent(&mount);
    assert_eq!(text(&server, "/f"), lines(&[(1, "first"), (4, "second"), (8, "theirs")]));
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// Who writes is not disturbed; the merge waits until the file is closed.
fn an_open_file_is_merged_when_it_is_closed(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    fs::write(mount.at("f"), lines(&[])).unwrap();
    mount.flush();
    let reader = fs::File::open(mount.at("f")).unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    apart(&mut server, "/f", &lines(&[(8, "THEIR 8")]), || {
        writer.write_all(b"OURS 0").unwrap();
        writer.sync_all().unwrap();
    });
    let hurried = mount.ctl(&["flush", "--timeout", "1s"]);
    assert!(!hurried.status.success());
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), lines(&[(0, "OURS 0")]));
    writer.seek(SeekFrom::Start(7)).unwrap();
    writer.write_all(b"OURS 1").unwrap();
    drop(writer);
    wait_sent(&mount);
    let merged = lines(&[(0, "OURS 0"), (1, "OURS 1"), (8, "THEIR 8")]);
    assert_eq!(text(&server, "/f"), merged);
    shows(&mount, "f", &merged);
    assert_eq!(std::io::read_to_string(reader).unwrap(), merged);
}

/// A rule says for some paths that ours or theirs takes the name, or that a person decides. The
/// other side is kept all the same.
fn rules_by_path_decide(kind: Kind) {
    let rules = ["*.keep=keep", "/ours/=ours", "*.lock=theirs"];
    let options: Vec<&str> = rules.iter().flat_map(|rule| ["--conflict", rule]).collect();
    let (mut server, mount) = start(kind, &options);
    let names = ["f.keep", "ours/f", "f.lock", "f.other"];
    fs::create_dir(mount.at("ours")).unwrap();
    for name in names {
        fs::write(mount.at(name), lines(&[])).unwrap();
    }
    mount.flush();
    let (ours, theirs) = (lines(&[(1, "ours")]), lines(&[(8, "theirs")]));
    server.stop();
    for name in names {
        fs::write(mount.at(name), &ours).unwrap();
    }
    server.out_of_reach(|server| {
        for name in names {
            server.put(&format!("/{name}"), theirs.as_bytes());
        }
    });
    server.start();
    wait_sent(&mount);
    let merged = lines(&[(1, "ours"), (8, "theirs")]);
    let all = all_conflicts(&mount);
    for (name, expected, how) in [
        ("f.keep", &theirs, None),
        ("ours/f", &ours, Some("ours")),
        ("f.lock", &theirs, Some("theirs")),
        ("f.other", &merged, Some("merged")),
    ] {
        let path = format!("/{name}");
        assert_eq!(&text(&server, &path), expected, "{name}");
        shows(&mount, name, expected);
        let conflict = all.iter().find(|conflict| conflict["path"] == path).unwrap();
        assert_eq!(conflict["resolution"]["how"].as_str(), how, "{name}");
        assert_eq!(side(conflict, "local"), ours.as_bytes(), "{name}");
        assert_eq!(side(conflict, "remote"), theirs.as_bytes(), "{name}");
    }
    assert_eq!(open_conflicts(&mount, 1)[0]["path"], "/f.keep");
    assert_eq!(mount.status()["conflicts"]["open"], 1);
}

/// Killed at any moment, the daemon ends with every line of both sides, once.
fn a_kill_while_a_merge_is_made_loses_no_line(kind: Kind) {
    let (mut server, mut mount) = start(kind, &[]);
    let mut rng = SmallRng::seed_from_u64(seed());
    for round in 0..6_usize {
        let name = format!("f{round}");
        let path = format!("/{name}");
        // Small and large ones.
        let pad = if round % 2 == 0 { String::new() } else { "y".repeat(9_000) };
        let padded =
            |changed: &[(usize, &str)]| lines(changed).replace("line", &format!("line{pad}"));
        fs::write(mount.at(&name), padded(&[])).unwrap();
        wait_sent(&mount);
        server.stop();
        fs::write(mount.at(&name), padded(&[(1, "ours")])).unwrap();
        server.out_of_reach(|server| server.put(&path, padded(&[(8, "theirs")]).as_bytes()));
        server.start();
        assert!(mount.ctl(&["resume"]).status.success());
        // A moment of the merge's life, not a wait for anything.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
        mount.kill9();
        mount.start();
        wait_sent(&mount);
        let merged = padded(&[(1, "ours"), (8, "theirs")]);
        wait_for("the merge", || (text(&server, &path) == merged).then_some(()));
        shows(&mount, &name, &merged);
        assert_eq!(mount.status()["conflicts"]["open"], 0);
    }
}

/// With the option, ours has a name beside the file, which everybody sees.
fn ours_can_be_shown_beside_the_file(kind: Kind) {
    let (mut server, mount) = start(kind, &["--conflict-siblings"]);
    let long = format!("{}.txt", "ö".repeat(125));
    for (name, large) in [("plan.md", false), (&long, false), ("large.bin", true)] {
        let content = |side: &str| if large { side.repeat(30_000) } else { side.to_owned() };
        fs::write(mount.at(name), content("base")).unwrap();
        wait_sent(&mount);
        for round in 1..=2 {
            let known = names(&mount);
            let ours = content(&format!("ours {round}"));
            apart(&mut server, &format!("/{name}"), &content(&format!("theirs {round}")), || {
                fs::write(mount.at(name), &ours).unwrap();
            });
            let shown = wait_for("ours beside the file", || {
                names(&mount).into_iter().find(|name| !known.contains(name))
            });
            wait_sent(&mount);
            assert!(shown.contains(" (conflict ") && shown.len() <= 255, "{shown}");
            let extension = &name[name.rfind('.').unwrap()..];
            assert!(shown.ends_with(extension), "{shown}");
            assert!(fs::read_to_string(mount.at(&shown)).unwrap() == ours);
            assert!(text(&server, &format!("/{shown}")) == ours);
            let newest = all_conflicts(&mount).remove(0);
            assert_eq!(newest["sibling"], format!("/{shown}"));
        }
    }
    assert_eq!(names(&mount).len(), 9);
}

fn names(mount: &Mount) -> Vec<String> {
    let entries = fs::read_dir(mount.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn start(kind: Kind, options: &[&str]) -> (TestServer, Mount) {
    let server = kind.server().start();
    let mount = Mount::builder(&server.source()).args(options).start();
    mount.wait_synced();
    (server, mount)
}

/// Without the server, `here` changes something; there the file is given `theirs`.
fn apart(server: &mut TestServer, path: &str, theirs: &str, here: impl FnOnce()) {
    server.stop();
    here();
    server.out_of_reach(|server| server.put(path, theirs.as_bytes()));
    server.start();
}

#[track_caller]
fn text(server: &TestServer, path: &str) -> String {
    String::from_utf8(server.get(path).expect("it is there").0).unwrap()
}

/// Waits until the kernel has heard of the content.
#[track_caller]
fn shows(mount: &Mount, name: &str, content: &str) {
    wait_for(&format!("the content of {name}"), || {
        (fs::read_to_string(mount.at(name)).ok()? == content).then_some(())
    });
}

fn inode(mount: &Mount, name: &str) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(mount.at(name)).unwrap())
}

fn side(conflict: &Value, name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(conflict["dir"].as_str().unwrap()).join(name)).unwrap()
}

/// Waits until `n` conflicts are open. Returns them, newest first.
#[track_caller]
fn open_conflicts(mount: &Mount, n: usize) -> Vec<Value> {
    wait_for(&format!("{n} open conflicts"), || {
        let all = list(mount, &["conflicts", "list"]);
        assert!(all.len() <= n, "too many conflicts: {all:?}");
        (all.len() == n).then_some(all)
    })
}

/// The conflicts, open and resolved, newest first.
#[track_caller]
fn all_conflicts(mount: &Mount) -> Vec<Value> {
    list(mount, &["conflicts", "list", "--resolved"])
}

#[track_caller]
fn list(mount: &Mount, args: &[&str]) -> Vec<Value> {
    let mut document = json(mount, args);
    match document["data"]["conflicts"].take() {
        Value::Array(all) => all,
        other => panic!("no conflicts: {other} in {document}"),
    }
}
