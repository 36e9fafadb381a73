//! `mountctl repair`: everything that lies in the state folder is looked at, what is wrong is told
//! apart, what the server has is fetched again, and nothing is removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::Value;

use crate::damage::{database, files, flip, large, pause, resume, wait_for_sums};
use crate::fuse_or_skip;
use crate::support::observe::{stderr, stdout};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, seed, shell, wait_for};

/// Each file below a folder with its bytes and the time of its last change.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                all.insert(
                    entry.path(),
                    (Vec::new(), entry.metadata().unwrap().modified().unwrap()),
                );
                folders.push(entry.path());
            } else {
                let modified = entry.metadata().unwrap().modified().unwrap();
                all.insert(entry.path(), (fs::read(entry.path()).unwrap(), modified));
            }
        }
    }
    all
}

fn repair(mount: &Mount, more: &[&str]) -> (Option<i32>, Value) {
    let output = mount.ctl(&[&["repair", "-m", "m", "--json"], more].concat());
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    assert_eq!(document["meta"]["schema"], "mountd.check/1", "{document}");
    (output.status.code(), document["data"].clone())
}

/// What was found, by path, or by name where there is none: what is wrong and what became of it.
fn findings(reply: &Value) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = reply["findings"].as_array().unwrap().iter();
    all.map(|finding| {
        let place = finding["path"].as_str().unwrap_or(finding["name"].as_str().unwrap());
        (place.to_owned(), (text(&finding["wrong"]), text(&finding["outcome"])))
    })
    .collect()
}

fn expected(all: &[(&str, &str, &str)]) -> BTreeMap<String, (String, String)> {
    let own = |(place, wrong, outcome): &(&str, &str, &str)| {
        ((*place).to_owned(), ((*wrong).to_owned(), (*outcome).to_owned()))
    };
    all.iter().map(own).collect()
}

/// The working file that holds these bytes.
fn file_of(mount: &Mount, bytes: &[u8]) -> PathBuf {
    let all = files(mount).0;
    all.into_iter().find(|file| fs::read(file).unwrap() == bytes).expect("a working file")
}

/// Contents of every kind: what the server has, and what it has not.
fn with_contents(server: &TestServer) -> Mount {
    let mount = Mount::of(server);
    for (n, name) in (0..).zip(["clean", "clean-gone", "clean-whole"]) {
        fs::write(mount.at(name), large(n)).unwrap();
        fs::write(mount.at(&format!("small-{name}")), format!("small and {name}.")).unwrap();
    }
    mount.flush();
    mount.wait_synced();
    pause(&mount);
    for (n, name) in (10..).zip(["dirty", "dirty-gone", "dirty-whole"]) {
        fs::write(mount.at(name), large(n)).unwrap();
        fs::write(mount.at(&format!("small-{name}")), format!("small and {name}.")).unwrap();
    }
    wait_for_sums(&mount, 6);
    mount
}

fn flip_file(mount: &Mount, n: u32) {
    assert_eq!(flip(&file_of(mount, &large(n)), &large(n)[200_000..200_016]), 1);
}

/// Of a mount that does not run: a dry run says what would be done and changes no byte; a repair does
/// just that, removes nothing, and a second one finds nothing more. Then the mount starts: what the
/// server has is there, what it has not is `EIO` and parked, the rest is sent.
#[test]
fn a_stopped_mount_is_checked_and_repaired() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = with_contents(&server);
    assert_eq!(mount.term(), Some(0));
    assert_eq!(flip(&database(&mount), b"small and clean."), 1);
    assert_eq!(flip(&database(&mount), b"small and dirty."), 1);
    for n in [0, 10] {
        flip_file(&mount, n);
    }
    for n in [1, 11] {
        fs::remove_file(file_of(&mount, &large(n))).unwrap();
    }
    fs::write(mount.state().join("files/987654"), "of nobody").unwrap();
    fs::write(mount.state().join("files/987655.fetch"), "cut off").unwrap();

    let before = snapshot(&mount.state());
    let (code, dry) = repair(&mount, &["--dry-run"]);
    let after = snapshot(&mount.state());
    assert!(before.keys().eq(after.keys()), "{:?}", after.keys());
    assert!(before == after, "a byte or a time was changed");
    let wanted = expected(&[
        ("/clean", "mismatched", "fetched_again"),
        ("/clean-gone", "missing", "fetched_again"),
        ("/dirty", "mismatched", "needs_person"),
        ("/dirty-gone", "missing", "needs_person"),
        ("/small-clean", "mismatched", "fetched_again"),
        ("/small-dirty", "mismatched", "needs_person"),
        ("files/987654", "unnamed", "set_aside"),
        ("files/987655.fetch", "unnamed", "set_aside"),
    ]);
    assert_eq!((code, findings(&dry)), (Some(7), wanted.clone()), "{dry:#}");
    assert_eq!((&dry["dry_run"], &dry["running"]), (&true.into(), &false.into()));
    assert_eq!(dry["contents"], 12 - 2, "the missing ones have no bytes: {dry:#}");

    let (code, done) = repair(&mount, &[]);
    assert_eq!((code, findings(&done)), (Some(7), wanted));
    // Whatever lay there lies there still, under one name or the other.
    let after = snapshot(&mount.state());
    let kept = |bytes: &[u8]| after.values().any(|(now, _)| now == bytes);
    for (path, (bytes, _)) in
        before.iter().filter(|(path, _)| path.parent().unwrap().ends_with("files"))
    {
        assert!(kept(bytes), "{} is gone", path.display());
    }
    assert_eq!(files(&mount).1.len(), 6, "{:?}", files(&mount));
    let (code, again) = repair(&mount, &[]);
    assert_eq!((code, findings(&again)), (Some(0), BTreeMap::new()));
    let text = mount.ctl(&["repair", "-m", "m", "--dry-run"]);
    assert!(
        stdout(&text).contains("all as it should be; nothing was changed"),
        "{}",
        stdout(&text)
    );

    mount.start();
    for (n, name) in (0..).zip(["clean", "clean-gone", "clean-whole"]) {
        assert!(fs::read(mount.at(name)).unwrap() == large(n), "{name}");
        let small = fs::read_to_string(mount.at(&format!("small-{name}"))).unwrap();
        assert_eq!(small, format!("small and {name}."));
    }
    for name in ["dirty", "dirty-gone", "small-dirty"] {
        let error = fs::read(mount.at(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}");
    }
    resume(&mount);
    wait_for("what is whole to arrive", || server.get("/small-dirty-gone"));
    wait_for("what is whole to arrive", || server.get("/dirty-whole"));
    assert_eq!(server.get("/dirty"), None);
    let listed = stdout(&mount.ctl(&["outbox"]));
    for path in ["/dirty", "/dirty-gone", "/small-dirty"] {
        assert!(listed.contains(path), "{listed}");
    }
}

/// A mount that runs checks itself: without `--dry-run` what is damaged is set aside at once, and what
/// only a start can mend is said to be left.
#[test]
fn a_running_mount_checks_itself() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = with_contents(&server);
    for n in [0, 10] {
        flip_file(&mount, n);
    }
    fs::remove_file(file_of(&mount, &large(1))).unwrap();
    let wanted = expected(&[
        ("/clean", "mismatched", "fetched_again"),
        ("/clean-gone", "missing", "fetched_again"),
        ("/dirty", "mismatched", "needs_person"),
    ]);
    let before: Vec<PathBuf> = snapshot(&mount.state().join("files")).into_keys().collect();
    let (code, dry) = repair(&mount, &["--dry-run"]);
    assert_eq!((code, findings(&dry)), (Some(7), wanted.clone()), "{dry:#}");
    assert_eq!((&dry["dry_run"], &dry["running"]), (&true.into(), &true.into()));
    let after: Vec<PathBuf> = snapshot(&mount.state().join("files")).into_keys().collect();
    assert_eq!(before, after);
    let (code, done) = repair(&mount, &[]);
    assert_eq!((code, findings(&done)), (Some(7), wanted), "{done:#}");
    assert_eq!(files(&mount).1.len(), 2);
    let (code, again) = repair(&mount, &[]);
    assert_eq!((code, findings(&again)), (Some(0), BTreeMap::new()));
    assert!(fs::read(mount.at("clean")).unwrap() == large(0));
    assert!(fs::read(mount.at("clean-gone")).unwrap() == large(1));
    let damage = |damage: &str| {
        let state = rusqlite::Connection::open(database(&mount)).unwrap();
        assert_eq!(state.execute(damage, []).unwrap(), 1);
    };
    damage("UPDATE meta SET value = value || 'x' WHERE key = 'name'");
    let (code, left) = repair(&mount, &[]);
    assert_eq!(code, Some(7));
    let row = &left["findings"][0];
    assert_eq!((&row["object"], &row["outcome"]), (&"row".into(), &"left".into()), "{left:#}");
    let text = stdout(&mount.ctl(&["repair", "-m", "m"]));
    assert!(text.contains("mountctl unmount -m m, then mountctl repair -m m"), "{text}");
}

/// Rows that are damaged while the mount runs are written again as they are in memory; after a kill nothing
/// is missing, and what waited is sent once.
#[test]
fn a_running_mount_writes_damaged_rows_again() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo known > known; echo tagged > tagged");
    mount.flush();
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "echo changed > known; echo new > new; rm tagged; echo again > again");
    setxattr(mount.at("again"), "user.a", b"b", XattrFlags::empty()).unwrap();
    let before = bytes_of(&tree(&mount.path()).unwrap());
    {
        let state = rusqlite::Connection::open(database(&mount)).unwrap();
        for (damage, rows) in [
            ("UPDATE nodes SET size = size + 1 WHERE name IN ('known', 'new')", 2),
            ("UPDATE outbox SET path = path || 'x' WHERE path = '/new'", 1),
            ("UPDATE outbox SET attempts = attempts + 1 WHERE path = '/tagged'", 1),
            ("UPDATE xattrs SET attributes = x'00'", 1),
        ] {
            assert_eq!(state.execute(damage, []).unwrap(), rows, "{damage}");
        }
    }
    let outcomes = |document: &Value| {
        let all = document["findings"].as_array().unwrap();
        all.iter().map(|one| one["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for args in [&["--dry-run"][..], &["--dry-run"], &[]] {
        let (_, found) = repair(&mount, args);
        assert_eq!(outcomes(&found), ["mended"; 5], "{found:#}");
    }
    let (code, again) = repair(&mount, &[]);
    assert_eq!((code, outcomes(&again)), (Some(0), Vec::new()), "{again:#}");
    mount.kill9();
    mount.start();
    assert_eq!(bytes_of(&tree(&mount.path()).unwrap()), before);
    let mut value = [0; 8];
    assert_eq!(getxattr(mount.at("again"), "user.a", &mut value[..]), Ok(1));
    assert_eq!(value[0], b'b');
    assert!(mount.ctl(&["resume"]).status.success());
    mount.flush();
    assert_eq!(server.files(), before);
    let kept = fs::read_dir(mount.state()).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept.filter(|name| name.to_string_lossy().contains(".corrupt.")).collect();
    assert!(kept.is_empty(), "the next start finds nothing to set aside: {kept:?}");
}

/// A repair that is killed at any moment has removed nothing; the next one goes on, and in the end all is
/// as if there had been one: what was whole is whole, what was damaged is kept once.
#[test]
fn a_repair_that_is_killed_loses_nothing() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    pause(&mount);
    for n in 0..12 {
        fs::write(mount.at(&format!("f{n}")), large(n)).unwrap();
    }
    wait_for_sums(&mount, 12);
    assert_eq!(mount.term(), Some(0));
    for n in 0..6 {
        flip_file(&mount, n);
    }
    let damaged: Vec<Vec<u8>> = snapshot(&mount.state().join("files"))
        .into_values()
        .map(|(bytes, _)| bytes)
        .filter(|bytes| (6..12).all(|n| *bytes != large(n)))
        .collect();
    assert_eq!(damaged.len(), 6);
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cut_off = 0;
    for _ in 0..12 {
        let mut child = mountd_repair(&mount, &[]).stdout(Stdio::null()).spawn().unwrap();
        // A moment of its life, not a wait for anything.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..150_000)));
        child.kill().unwrap();
        cut_off += u32::from(child.wait().unwrap().code().is_none());
    }
    eprintln!("{cut_off} of 12 were killed");
    let (code, _) = repair(&mount, &[]);
    assert!(matches!(code, Some(0 | 7)), "{code:?}");
    let kept: Vec<Vec<u8>> = files(&mount).1.iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(kept.len(), 6);
    assert!(damaged.iter().all(|bytes| kept.contains(bytes)));
    mount.start();
    for n in 0..12 {
        match fs::read(mount.at(&format!("f{n}"))) {
            Ok(bytes) => assert!(n >= 6 && bytes == large(n), "f{n}"),
            Err(error) => assert!(n < 6, "f{n}: {error}"),
        }
    }
    let listed = mount.ctl(&["outbox", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let records = listed["data"]["records"].as_array().unwrap();
    let parked = records.iter().filter(|record| record["state"] == "attention");
    let reasons: Vec<&str> = parked.map(|record| record["reason"].as_str().unwrap()).collect();
    assert!(
        reasons.len() == 6 && reasons.iter().all(|why| why.contains(".corrupt.")),
        "{reasons:?}"
    );
}

/// A damaged database and damaged rows: a dry run leaves them as they are, a repair makes the database
/// anew from what can be read and keeps the damaged one.
#[test]
fn a_damaged_database_is_looked_at_and_then_made_anew() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    pause(&mount);
    for n in 0..20 {
        fs::write(mount.at(&format!("f{n}")), format!("unsent {n}").repeat(100)).unwrap();
    }
    assert_eq!(mount.term(), Some(0));
    {
        let state = rusqlite::Connection::open(database(&mount)).unwrap();
        let damage = "UPDATE nodes SET mode = mode + 1 WHERE name = 'f7'";
        assert_eq!(state.execute(damage, []).unwrap(), 1);
    }
    let whole = fs::read(database(&mount)).unwrap();
    let header = [&[0; 16][..], &whole[16..]].concat();
    fs::write(database(&mount), &header).unwrap();
    let before = snapshot(&mount.state());
    let (code, dry) = repair(&mount, &["--dry-run"]);
    assert!(before == snapshot(&mount.state()), "a byte or a time was changed");
    let objects = |reply: &Value| -> Vec<String> {
        let all = reply["findings"].as_array().unwrap().iter();
        all.map(|finding| format!("{} {}", finding["object"], finding["outcome"])).collect()
    };
    let found = objects(&dry);
    assert!(found.contains(&r#""database" "mended""#.to_owned()), "{dry:#}");
    assert!(found.contains(&r#""row" "set_aside""#.to_owned()), "{dry:#}");
    let (same, done) = repair(&mount, &[]);
    assert_eq!((same, objects(&done)), (code, found));
    let kept = done["findings"].as_array().unwrap().iter();
    let kept = kept.filter(|finding| finding["object"] == "database");
    let kept = PathBuf::from(kept.map(|finding| finding["kept"].as_str().unwrap()).next().unwrap());
    assert!(fs::read(&kept).unwrap() == header, "{}", kept.display());
    let (code, again) = repair(&mount, &[]);
    assert_eq!((code, findings(&again)), (Some(0), BTreeMap::new()));
    mount.start();
    for n in 0..20 {
        let bytes = fs::read_to_string(mount.at(&format!("f{n}"))).unwrap();
        assert_eq!(bytes, format!("unsent {n}").repeat(100));
    }
}

fn mountd_repair(mount: &Mount, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
    command.args(["repair", "m", "--state-dir"]).arg(mount.state().parent().unwrap()).args(more);
    command
}

/// Nobody repairs beside a daemon that has the state in its hands, and what is not there is not made.
#[test]
fn a_state_in_use_or_missing_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    let text = |output: &Output| stdout(output) + &stderr(output);
    for more in [&[][..], &["--dry-run"]] {
        let output = mountd_repair(&mount, more).output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{}", text(&output));
        assert!(text(&output).contains("mountctl repair asks a running daemon"));
    }
    let output = mount.ctl(&["repair", "-m", "nobody"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_mountd"));
    let output = nobody.args(["repair", "nobody", "--state-dir"]).arg(mount.outside()).output();
    assert_eq!(output.unwrap().status.code(), Some(5));
    assert!(!mount.outside().join("nobody").exists());
}

/// Working files that are kept elsewhere are not taken for lost when `--cache-dir` is forgotten.
#[test]
fn working_files_left_elsewhere_are_not_taken_for_lost() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::builder(&server.source()).prepare();
    let cache = mount.outside().join("cache");
    mount.add_args(&["--cache-dir", &cache.display().to_string()]);
    mount.start();
    pause(&mount);
    fs::write(mount.at("large"), large(1)).unwrap();
    assert_eq!(mount.term(), Some(0));
    // A repair knows where they are.
    let (code, reply) = repair(&mount, &[]);
    assert_eq!((code, &reply["contents"]), (Some(0), &1.into()), "{reply:#}");
    mount.forget_args("--cache-dir");
    let output = mount.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.contains("FILES_ELSEWHERE") && text.contains(&cache.display().to_string()),
        "{text}"
    );
    mount.add_args(&["--cache-dir", &cache.display().to_string()]);
    mount.start();
    assert!(fs::read(mount.at("large")).unwrap() == large(1));
}
