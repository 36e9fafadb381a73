//! `mountctl outbox`: records shown, planned, tried again, given up, carried off and back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fuse_or_skip;
use crate::support::observe::{history, json, outbox, stderr, stdout, wait_state};
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

#[track_caller]
fn ctl(mount: &Mount, args: &[&str], code: i32) -> String {
    let output = mount.ctl(&[&["outbox"], args].concat());
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// Exports all records into a folder below `work` and gives them up here.
#[track_caller]
fn carried_off(mount: &Mount, work: &Path) -> PathBuf {
    let folder = work.join("work");
    ctl(mount, &["export", folder.to_str().unwrap()], 0);
    ctl(mount, &["discard", "--all", "--yes"], 0);
    wait_for("nothing is left", || (tree(&mount.path()).ok()?.is_empty()).then_some(()));
    folder
}

/// What would become of each path now: verdict and reason.
fn plan(mount: &Mount, args: &[&str]) -> Vec<(String, String, Option<String>)> {
    let document = json(mount, &[&["outbox", "plan"], args].concat());
    let text = |one: &Value, key: &str| one[key].as_str().map(str::to_owned);
    let records = document["data"]["records"].as_array().unwrap();
    let one = |one: &Value| {
        (text(one, "path").unwrap(), text(one, "verdict").unwrap(), text(one, "reason"))
    };
    records.iter().map(one).collect()
}

fn dir_of(document: &Value) -> PathBuf {
    PathBuf::from(document["data"]["dir"].as_str().unwrap_or_else(|| panic!("{document:#}")))
}

/// A refused record is listed with its reason, age, attempts and bytes; it is tried again when asked,
/// given up only when that is confirmed, and its bytes can be had back even then.
#[test]
fn a_parked_record_is_looked_at_tried_again_and_given_up() {
    fuse_or_skip!();
    let server = TestServer::builder().original().max_body_bytes(64 << 10).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let content = bytes(1, 100_000);
    fs::write(mount.at("huge"), &content).unwrap();
    wait_state(&mount, "attention");
    let record = outbox(&mount).remove(0);
    let id = record["id"].as_str().unwrap().to_owned();
    assert_eq!(record["state"], "attention", "{record:#}");
    assert!(record["reason"].as_str().unwrap().contains("too_large"), "{record:#}");
    assert!(record["attempts"].as_u64().unwrap() >= 1, "{record:#}");
    assert!(ctl(&mount, &["list", "--state", "attention"], 0).contains("/huge"));
    assert!(!ctl(&mount, &["list", "--state", "queued"], 0).contains("/huge"));
    assert!(!ctl(&mount, &["list", "--path", "*.txt"], 0).contains("/huge"));
    let parked = ("/huge".to_owned(), "blocked".to_owned(), Some("parked".to_owned()));
    assert_eq!(plan(&mount, &[]), [parked]);
    let shown = ctl(&mount, &["show", &id], 0);
    assert!(shown.contains("/huge") && shown.contains("absent"), "{shown}");
    assert!(mount.ctl(&["outbox", "cat", &id]).stdout == content);
    ctl(&mount, &["show", "999999"], 5);
    ctl(&mount, &["cat", "x"], 5);

    server.log().reset();
    ctl(&mount, &["retry", &id], 0);
    wait_for("it is refused again", || {
        let tried = server.log().recent().iter().any(|request| request.status == 413);
        (tried && outbox(&mount)[0]["state"] == "attention").then_some(())
    });

    let refused = ctl(&mount, &["discard", &id], 2);
    assert!(refused.contains("--yes"), "{refused}");
    ctl(&mount, &["discard", "--yes"], 2);
    ctl(&mount, &["discard", "--yes", "999999"], 5);
    assert!(ctl(&mount, &["discard", "--all", "--dry-run"], 0).contains("/huge"));
    assert!(fs::read(mount.at("huge")).unwrap() == content);
    let folder = dir_of(&json(&mount, &["outbox", "discard", "--yes", &id]));
    assert!(folder.starts_with(mount.state()), "{}", folder.display());
    wait_for("the file is gone", || (!mount.at("huge").exists()).then_some(()));
    mount.wait_synced();
    assert!(outbox(&mount).is_empty());
    assert!(fs::read(folder.join("0")).unwrap() == content);

    ctl(&mount, &["import", folder.to_str().unwrap()], 0);
    assert!(fs::read(mount.at("huge")).unwrap() == content);
    wait_state(&mount, "attention");
}

/// What is given up shows the server's version again, whatever it was: an edit, a removal, a rename,
/// a new folder. Nothing of it reaches the server.
#[test]
fn what_is_given_up_shows_the_servers_version_again() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir d; for n in 1 2 3 4; do echo $n > d/$n; done");
    fs::write(mount.at("d/large"), bytes(1, 200_000)).unwrap();
    mount.flush();
    mount.wait_synced();
    let before = bytes_of(&tree(&mount.path()).unwrap());
    let happened = history(&server).len();
    assert!(mount.ctl(&["pause"]).status.success());
    let script = "echo edited > d/1; rm d/2; mv d/3 d/moved; echo more >> d/large; chmod 755 d/4
                  mkdir e; echo new > e/new";
    shell(&mount.path(), script);
    let paused = plan(&mount, &[]);
    assert!(paused.len() >= 7, "{paused:?}");
    assert!(
        paused.iter().all(|(_, verdict, why)| {
            verdict == "held" && matches!(why.as_deref(), Some("paused"))
        }),
        "{paused:?}"
    );
    let folder = dir_of(&json(&mount, &["outbox", "discard", "--all", "--yes"]));
    wait_for("the server's versions", || {
        let shown = bytes_of(&tree(&mount.path()).ok()?);
        (shown == before && !mount.at("e").exists()).then_some(())
    });
    assert!(outbox(&mount).is_empty());
    assert!(mount.ctl(&["resume"]).status.success());
    mount.flush();
    assert_eq!(server.files(), before);
    assert_eq!(history(&server).len(), happened);
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["records"].as_array().unwrap().len() >= 7, "{manifest:#}");
}

fn modes(folder: &Path) -> Vec<(u32, u32)> {
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    let files = fs::read_dir(folder).unwrap().map(|entry| mode(&entry.unwrap().path()));
    files.map(|file| (mode(folder), file)).collect()
}

/// Work is carried off a machine that cannot send it, and taken up by another mount of the
/// workspace: with its bytes, on its base, once.
#[test]
fn work_is_carried_to_another_machine() {
    fuse_or_skip!();
    let server = TestServer::new();
    let broken = Mount::of(&server);
    broken.wait_synced();
    let script = "mkdir d; for n in 1 2 3 4; do echo $n > d/$n; done; echo base > both";
    shell(&broken.path(), script);
    broken.flush();
    assert!(broken.ctl(&["pause"]).status.success());
    let script = "echo edited > d/1; rm d/2; mv d/3 d/moved; mkdir -p new/empty; echo x > new/file
                  echo ours > both; ln -s d/1 link; chmod 755 d/4";
    shell(&broken.path(), script);
    fs::write(broken.at("large"), bytes(7, 300_000)).unwrap();
    let expected = bytes_of(&tree(&broken.path()).unwrap());
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("work");
    let dir = folder.to_str().unwrap();
    ctl(&broken, &["export", dir, "--dry-run"], 0);
    assert!(!folder.exists());
    ctl(&broken, &["export", dir], 0);
    assert!(modes(&folder).iter().all(|modes| *modes == (0o700, 0o600)), "{:?}", modes(&folder));
    let again = ctl(&broken, &["export", dir], 2);
    assert!(again.contains("does not exist yet"), "{again}");
    let inside = broken.at("inside");
    assert!(ctl(&broken, &["export", inside.to_str().unwrap()], 2).contains("in the mount itself"));
    // Its own records are known here: nothing is taken up twice.
    let waiting = outbox(&broken).len();
    ctl(&broken, &["import", dir], 0);
    assert_eq!(outbox(&broken).len(), waiting);
    drop(broken);

    // Somebody else was there meanwhile.
    server.put("/both", b"theirs\n");
    let sound = Mount::of(&server);
    sound.wait_synced();
    ctl(&sound, &["import", work.path().to_str().unwrap()], 2);
    ctl(&sound, &["import", dir], 0);
    let conflicts = wait_for("the conflict", || {
        let listed = json(&sound, &["conflicts"])["data"]["conflicts"].take();
        listed.as_array().filter(|listed| listed.len() == 1).cloned()
    });
    let ours = Path::new(conflicts[0]["dir"].as_str().unwrap()).join("local");
    assert_eq!(fs::read(ours).unwrap(), b"ours\n");
    let mut expected = expected;
    expected.insert("/both".to_owned(), b"theirs\n".to_vec());
    wait_for("everything arrived", || (sound.status()["uploads"]["queued"] == 0).then_some(()));
    assert_eq!(bytes_of(&tree(&sound.path()).unwrap()), expected);
    let mut files = server.files();
    files.retain(|path, _| path != "/link");
    expected.retain(|path, _| path != "/link");
    assert_eq!(files, expected);

    // Once is enough, also when the file was changed since.
    fs::write(sound.at("d/1"), "newer").unwrap();
    wait_for("it is sent", || server.get("/d/1").filter(|(bytes, _)| bytes == b"newer"));
    let happened = history(&server).len();
    ctl(&sound, &["import", dir], 0);
    assert_eq!(fs::read(sound.at("d/1")).unwrap(), b"newer");
    assert!(outbox(&sound).is_empty());
    assert_eq!(history(&server).len(), happened);
}

/// What waits here is replaced by no import, also not by a record that followed another one where it
/// was exported; where both are taken up the newer one counts.
#[test]
fn an_import_replaces_nothing_that_waits() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    assert!(mount.ctl(&["pause"]).status.success());
    fs::write(mount.at("note"), "older\n").unwrap();
    fs::write(mount.at("other"), "newer\n").unwrap();
    let work = tempfile::tempdir().unwrap();
    let folder = carried_off(&mount, work.path());
    let dir = folder.to_str().unwrap();
    // As from a machine on which the file was written anew while it was being sent.
    let manifest = folder.join("manifest.json");
    let mut changed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    changed["records"][1]["path"] = "/note".into();
    changed["records"][1]["base"] = "follows".into();
    fs::write(&manifest, changed.to_string()).unwrap();

    fs::write(mount.at("note"), "mine\n").unwrap();
    let said = ctl(&mount, &["import", dir], 7);
    assert!(said.contains("2 not") && said.contains("waits"), "{said}");
    assert_eq!(fs::read(mount.at("note")).unwrap(), b"mine\n");

    fs::remove_file(mount.at("note")).unwrap();
    wait_for("nothing waits", || outbox(&mount).is_empty().then_some(()));
    ctl(&mount, &["import", dir], 0);
    assert_eq!(fs::read(mount.at("note")).unwrap(), b"newer\n");
    assert!(mount.ctl(&["resume"]).status.success());
    mount.flush();
    assert_eq!(server.get("/note").unwrap().0, b"newer\n");
}

/// A folder that was tampered with does no harm: links are not followed, names stay inside, bytes must
/// be those that were exported, and another workspace's records are refused.
#[test]
fn a_folder_that_is_not_what_was_exported_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    assert!(mount.ctl(&["pause"]).status.success());
    shell(&mount.path(), "for n in a b c d e; do echo $n > $n; done");
    let work = tempfile::tempdir().unwrap();
    let folder = carried_off(&mount, work.path());
    let dir = folder.to_str().unwrap();
    let manifest = folder.join("manifest.json");
    let good = fs::read_to_string(&manifest).unwrap();
    let mut changed: Value = serde_json::from_str(&good).unwrap();
    let secret = work.path().join("secret");
    fs::write(&secret, "a\n").unwrap();
    fs::remove_file(folder.join("0")).unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("0")).unwrap();
    fs::write(folder.join("1"), "other bytes").unwrap();
    changed["records"][2]["file"] = "../secret".into();
    changed["records"][3]["path"] = "/../escaped".into();
    fs::write(&manifest, changed.to_string()).unwrap();
    let said = ctl(&mount, &["import", dir], 7);
    assert!(said.contains("4 not"), "{said}");
    let shown = tree(&mount.path()).unwrap();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(fs::read(mount.at("e")).unwrap(), b"e\n");

    let mut other: Value = serde_json::from_str(&good).unwrap();
    other["origin"]["workspace"] = "another".into();
    fs::write(&manifest, other.to_string()).unwrap();
    assert!(ctl(&mount, &["import", dir], 2).contains("another"));
    fs::write(&manifest, "{").unwrap();
    ctl(&mount, &["import", dir], 2);
}
