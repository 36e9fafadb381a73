//! Promises that are about one moment: what is safe when a call returns, that looking at a tree asks
//! the server nothing, that a renamed file always has a name, and what strange names do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, FileTimes, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use serde_json::json;
use workspaced::{After, Before};

use crate::support::edge::{Edge, reply};
use crate::support::hooks::{Act, Hooks, is_write};
use crate::support::observe::{history, outbox, wait_sent, wait_state};
use crate::support::tree::{agree, shows, tree};
use crate::support::{Kind, Mount, TestServer, bytes, shell, wait_for, wait_within};
use crate::{fuse_or_skip, on_both_servers};

on_both_servers!(
    each_call_survives_a_kill_when_it_has_returned,
    looking_at_a_tree_asks_the_server_nothing,
    a_renamed_file_has_a_name_at_every_moment,
);

/// How long bytes of a small file that is neither closed nor synced may be unsafe.
const UNSAFE_AT_MOST: Duration = Duration::from_secs(1);

/// A small write that is neither closed nor synced survives a crash that comes a second later: in a
/// new file, in a file that was there, and at the end of one.
#[test]
fn a_small_write_survives_a_kill_a_second_later() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("there"), "what was there").unwrap();
    fs::write(mount.at("longer"), "one\n").unwrap();
    mount.flush();
    server.stop();
    let mut new = fs::File::create(mount.at("new")).unwrap();
    let there = OpenOptions::new().write(true).open(mount.at("there")).unwrap();
    let mut longer = OpenOptions::new().append(true).open(mount.at("longer")).unwrap();
    new.write_all(b"new bytes").unwrap();
    there.write_all_at(b"WHAT", 0).unwrap();
    longer.write_all(b"two\n").unwrap();
    let written = Instant::now();
    wait_within(Duration::from_secs(10), "records of what is open", || {
        let known: BTreeSet<String> =
            outbox(&mount).iter().map(|record| record["path"].as_str().unwrap().into()).collect();
        let all = ["/new", "/there", "/longer"].iter().all(|path| known.contains(*path));
        // The promise is about a time, and this is it.
        (all && written.elapsed() > UNSAFE_AT_MOST).then_some(())
    });
    mount.kill9();
    drop((new, there, longer));
    mount.start();
    let expected = [("new", "new bytes"), ("there", "WHAT was there"), ("longer", "one\ntwo\n")];
    for (name, content) in expected {
        assert_eq!(fs::read_to_string(mount.at(name)).unwrap(), content, "{name}");
    }
    server.start();
    mount.flush();
    let expected = expected.map(|(name, text)| (format!("/{name}"), text.as_bytes().to_vec()));
    assert_eq!(server.files(), BTreeMap::from(expected));
}

/// What was written with `O_SYNC` or `O_DSYNC` survives a crash right after `write` returned.
#[test]
fn a_synced_write_survives_a_kill_at_once() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("there"), "what was there").unwrap();
    fs::write(mount.at("large"), bytes(1, 200 << 10)).unwrap();
    mount.flush();
    server.stop();
    let mut expected: BTreeMap<String, Vec<u8>> = server.out_of_reach(TestServer::files);
    for (n, flag) in [libc::O_SYNC, libc::O_DSYNC].into_iter().enumerate() {
        for name in ["there", "large", &format!("new{n}")] {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).custom_flags(flag);
            let file = options.open(mount.at(name)).unwrap();
            let written = format!("round {n}, {name}");
            file.write_all_at(written.as_bytes(), 0).unwrap();
            mount.kill9();
            drop(file);
            let known = expected.entry(format!("/{name}")).or_default();
            let kept = known.split_off(written.len().min(known.len()));
            *known = [written.as_bytes(), &kept].concat();
            mount.start();
            assert!(&fs::read(mount.at(name)).unwrap() == known, "{written}");
        }
    }
    server.start();
    mount.flush();
    assert!(server.files() == expected, "the server has what was shown");
}

/// A call that changes a name or an attribute is safe against a crash when it has returned: each is
/// followed by a kill, without the server, and all of them arrive.
fn each_call_survives_a_kill_when_it_has_returned(kind: Kind) {
    type Call = (&'static str, fn(&Path));
    const CALLS: [Call; 9] = [
        ("rename", |at| fs::rename(at.join("old"), at.join("new")).unwrap()),
        ("unlink", |at| fs::remove_file(at.join("gone")).unwrap()),
        ("mkdir", |at| fs::create_dir(at.join("made")).unwrap()),
        ("rmdir", |at| fs::remove_dir(at.join("empty")).unwrap()),
        ("truncate", |at| {
            let path = at.join("cut");
            nix::unistd::truncate(&path, 3).unwrap();
        }),
        ("truncate of a large file", |at| {
            let path = at.join("large");
            nix::unistd::truncate(&path, 100_000).unwrap();
        }),
        ("chmod", |at| {
            fs::set_permissions(at.join("moded"), Permissions::from_mode(0o751)).unwrap();
        }),
        ("utimens", |at| {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let file = fs::File::open(at.join("timed")).unwrap();
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        }),
        ("symlink", |at| std::os::unix::fs::symlink("moded", at.join("link")).unwrap()),
    ];
    let mut server = kind.server().start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    for name in ["old", "gone", "cut", "moded", "timed"] {
        fs::write(mount.at(name), format!("content of {name}")).unwrap();
    }
    fs::write(mount.at("large"), bytes(2, 200 << 10)).unwrap();
    fs::create_dir(mount.at("empty")).unwrap();
    mount.flush();
    server.stop();
    // The same calls on the local disk say what must be seen.
    let local = tempfile::tempdir().unwrap();
    shell(&mount.path(), &format!("cp -a . {}", local.path().display()));
    for (what, call) in CALLS {
        call(&mount.path());
        mount.kill9();
        call(local.path());
        mount.start();
        let (shown, expected) = (tree(&mount.path()).unwrap(), tree(local.path()).unwrap());
        assert!(shown == expected, "{what}: {shown:#?} instead of {expected:#?}");
    }
    let mtime = fs::metadata(mount.at("timed")).unwrap().modified().unwrap();
    assert_eq!(mtime, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    server.start();
    mount.flush();
    let files = server.files();
    let mut names = vec!["/cut", "/large", "/moded", "/new", "/timed"];
    if kind.is_extended() {
        // Links, empty folders, modes and times are for servers that have a place for them.
        names.insert(2, "/link");
        let other = Mount::of(&server);
        shows(&other, &tree(local.path()).unwrap());
        assert_eq!(fs::metadata(other.at("timed")).unwrap().modified().unwrap(), mtime);
    }
    assert_eq!(files.keys().collect::<Vec<_>>(), names);
    assert_eq!(files["/new"], b"content of old");
    assert_eq!(files["/cut"], b"con");
    assert!(files["/large"] == bytes(2, 200 << 10)[..100_000]);
}

/// `stat`, `readdir` and the lookup of names that are there and of names that are not make no
/// request, in a mount whose kernel has nothing in its caches.
fn looking_at_a_tree_asks_the_server_nothing(kind: Kind) {
    let server = kind.server().start();
    let writer = Mount::of(&server);
    shell(
        &writer.path(),
        "for d in $(seq 20); do mkdir -p $d/x; for f in $(seq 25); do echo $d $f > $d/x/$f; done; done",
    );
    writer.flush();
    drop(writer);
    let mount = Mount::of(&server);
    mount.wait_synced();
    server.log().reset();
    let mut looks = 0;
    for folder in 1..=20 {
        for file in 1..=100 {
            let path = mount.at(&format!("{folder}/x/{file}"));
            assert_eq!(fs::metadata(&path).is_ok(), file <= 25, "{}", path.display());
            looks += 1;
        }
    }
    assert_eq!(tree_size(&mount.path()), 20 + 20 + 500);
    assert_eq!(looks, 2000);
    // The change stream and its polls are the mount's own, whatever anybody looks at.
    let asked: Vec<_> = server.log().recent();
    let asked: Vec<_> = asked.iter().filter(|one| !one.route.starts_with("/fs/events")).collect();
    let asked: Vec<_> = asked.iter().filter(|one| one.route != "/fs/ws").collect();
    assert!(asked.is_empty(), "{asked:#?}");
}

/// Entries below a folder, by `readdir` and `stat`.
fn tree_size(folder: &Path) -> usize {
    let below = |entry: fs::DirEntry| {
        let meta = entry.path().symlink_metadata().unwrap();
        1 + if meta.is_dir() { tree_size(&entry.path()) } else { 0 }
    };
    fs::read_dir(folder).unwrap().map(|entry| below(entry.unwrap())).sum()
}

/// A file that is renamed again and again, while replies get lost and the daemon is killed, has at
/// every moment of the server's own history one of its names.
fn a_renamed_file_has_a_name_at_every_moment(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    let content = bytes(3, 20 << 10);
    fs::write(mount.at("name0"), &content).unwrap();
    mount.flush();
    for n in 0..12 {
        let lost = hooks.add(1, Act::After(After::Drop), is_write);
        fs::rename(mount.at(&format!("name{n}")), mount.at(&format!("name{}", n + 1))).unwrap();
        match n % 3 {
            0 => wait_sent(&mount),
            1 => lost.wait(),
            _ => {
                mount.kill9();
                mount.start();
            }
        }
    }
    hooks.clear();
    mount.flush();
    let mut names = BTreeSet::new();
    let history = history(&server);
    for (done, (event, path)) in history.iter().enumerate() {
        match event.as_str() {
            "file.deleted" => names.remove(path),
            _ => names.insert(path.clone()),
        };
        assert!(!names.is_empty(), "without a name after event {done}: {history:#?}");
    }
    assert!(history.iter().any(|(event, _)| event == "file.deleted"), "{history:#?}");
    assert!(server.files() == BTreeMap::from([("/name12".to_owned(), content)]));
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// A workspace that is suddenly not known (404) takes nothing from its mount: the status says why
/// nothing is sent, all is still here, and work goes on by itself when it is known again.
#[test]
fn a_workspace_that_is_not_known_for_a_while_loses_nothing() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir d; for n in $(seq 30); do echo $n > d/$n; done");
    mount.flush();
    let gone = json!({ "code": "not_found", "message": "workspace not found" }).to_string();
    edge.before(move |_| match reply(404, &[("content-type", "application/json")]) {
        Before::Reply { status, headers, .. } => {
            Before::Reply { status, headers, body: gone.clone() }
        }
        other => other,
    });
    shell(&mount.path(), "echo new > new; echo edited > d/1; rm d/2");
    let status = wait_state(&mount, "offline");
    let reason = status["retry"]["reason"].as_str().unwrap();
    assert!(reason.contains("workspace"), "{reason}");
    let seen = server.log().count_status("/fs/bulk", 404);
    mount.ctl(&["resume"]);
    wait_for("another attempt", || {
        (server.log().count_status("/fs/bulk", 404) > seen).then_some(())
    });
    assert_eq!(mount.status()["uploads"]["attention"], 0, "nothing is parked for it");
    let listed = shell(&mount.path(), "cat new d/1; ls d | wc -l");
    assert_eq!(listed, "new\nedited\n29\n");
    edge.clear();
    wait_sent(&mount);
    let files = server.files();
    assert_eq!(files.len(), 30, "29 in the folder and the new one");
    assert_eq!(files["/d/1"], b"edited\n");
}

/// Names with changes of the writing direction, and files 300 folders deep, come from the server,
/// can be read, changed, moved and removed, and go back byte for byte.
#[test]
fn bidirectional_names_and_deep_folders_work_end_to_end() {
    fuse_or_skip!();
    for kind in [Kind::Extended, Kind::Original] {
        let server = kind.server().start();
        let deep: String = "d/".repeat(300);
        let bidi =
            ["invoice\u{202e}gpj.exe", "\u{2066}a\u{2069}\u{200f}b", "\u{202d}folder/in\u{202c}"];
        for name in bidi {
            server.put(&format!("/{name}"), name.as_bytes());
        }
        server.put(&format!("/{deep}bottom"), b"as deep as it gets");
        let a = Mount::of(&server);
        let b = Mount::of(&server);
        a.wait_synced();
        for name in bidi {
            assert_eq!(fs::read(a.at(name)).unwrap(), name.as_bytes());
            fs::write(a.at(name), format!("edited {name}")).unwrap();
        }
        let bottom = a.at(&format!("{deep}bottom"));
        assert_eq!(fs::read(&bottom).unwrap(), b"as deep as it gets");
        fs::write(&bottom, "edited").unwrap();
        fs::write(a.at(&format!("{deep}\u{202e}new")), "new").unwrap();
        agree(&server, &a, &b);
        fs::rename(a.at("d"), a.at("\u{202e}e")).unwrap();
        let seen = agree(&server, &a, &b);
        assert_eq!(server.files()[&format!("/\u{202e}e{}/bottom", "/d".repeat(299))], b"edited");
        assert_eq!(a.status()["skipped_names"], 0, "{seen:#?}");
        assert!(!a.log().contains('\u{202e}'), "a name steers the terminal that shows the log");
        fs::remove_dir_all(a.at("\u{202e}e")).unwrap();
        agree(&server, &a, &b);
        assert_eq!(server.files().len(), bidi.len());
        assert_eq!(a.status()["conflicts"]["open"], 0);
    }
}
