//! `mountctl doctor`: what it finds, with a daemon and without, and what it mends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;

use crate::damage::{flip, large, pause, wait_for_sums};
use crate::fuse_or_skip;
use crate::support::observe::{stderr, stdout};
use crate::support::{Mount, TestServer};

/// The checks, and the exit code. Of this mount only: others of the machine belong to other tests.
fn doctor(mount: &Mount, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = mount.ctl(&[&["doctor", "--json", "-m", "m"], args].concat());
    checks_of(&output)
}

fn checks_of(output: &Output) -> (Option<i32>, Vec<Value>) {
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)));
    assert_eq!(document["meta"]["schema"], "mountd.doctor/1");
    (output.status.code(), document["data"]["checks"].as_array().unwrap().clone())
}

#[track_caller]
fn level(checks: &[Value], name: &str) -> String {
    let all = checks.iter().filter(|check| check["name"] == name);
    let worst = |check: &Value| match check["level"].as_str().unwrap() {
        "fail" => 3,
        "warn" => 2,
        "ok" => 1,
        _ => 0,
    };
    let found = all.max_by_key(|check| worst(check));
    let found = found.unwrap_or_else(|| panic!("no {name} in {checks:#?}"));
    // Whatever is not well says why, and what helps.
    if worst(found) > 1 {
        assert!(
            found["why"].is_string() && !found["fix"].as_array().unwrap().is_empty(),
            "{found}"
        );
    }
    found["level"].as_str().unwrap().to_owned()
}

/// A healthy mount: nothing fails, running and stopped, with the server and without asking it.
#[test]
fn a_healthy_mount_has_no_failure() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    let (code, checks) = doctor(&mount, &[]);
    assert_eq!(code, Some(0), "{checks:#?}");
    for name in [
        "programs",
        "fuse",
        "run folder",
        "state root",
        "mounts",
        "daemon",
        "state folder",
        "token file",
        "link",
        "parked",
        "conflicts",
        "contents",
        "set aside",
        "server",
        "clock",
        "identity",
        "token",
    ] {
        assert_eq!(level(&checks, name), "ok", "{name}: {checks:#?}");
    }
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!((code, level(&checks, "server")), (Some(0), "skip".to_owned()));
    assert_eq!(mount.term(), Some(0));
    let (code, checks) = doctor(&mount, &[]);
    assert_eq!(code, Some(0), "{checks:#?}");
    assert_eq!(level(&checks, "daemon"), "warn");
    for name in ["state folder", "token file", "server", "token"] {
        assert_eq!(level(&checks, name), "ok", "{name}: {checks:#?}");
    }
    let text = stdout(&mount.ctl(&["doctor", "--offline", "-m", "m"]));
    assert!(text.contains("[ OK ] fuse") && text.contains("overall: WARN (0 fail, "), "{text}");
}

/// A mount whose state is in another place than usual is looked at where it says that its state is,
/// and what is dead elsewhere under the same name is not its own.
#[test]
fn state_in_another_place_is_looked_at_there() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut dead = Mount::of(&server);
    dead.kill9();
    let mut mount = Mount::builder(&server.source()).prepare();
    let place = mount.outside().join("elsewhere");
    mount.add_args(&["--state-dir", &place.display().to_string()]);
    mount.start();
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!((code, level(&checks, "state folder")), (Some(0), "ok".to_owned()), "{checks:#?}");
    assert_eq!(mount.status()["state_dir"], place.join("m").display().to_string());
    fs::remove_dir_all(&place).unwrap();
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!((code, level(&checks, "state folder")), (Some(1), "fail".to_owned()));
}

/// A killed daemon leaves a dead mount: it is told with the command that helps, and `--fix` takes it away,
/// and nobody else's.
#[test]
fn a_dead_mount_is_told_and_taken_away() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    let other = Mount::of(&server);
    mount.wait_synced();
    mount.kill9();
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!((code, level(&checks, "stale mount")), (Some(1), "fail".to_owned()));
    assert!(mount.is_mounted());
    let (_, checks) = doctor(&mount, &["--offline", "--fix"]);
    assert_eq!(level(&checks, "stale mount"), "ok");
    assert!(!mount.is_mounted() && other.is_mounted());
    fs::write(other.at("alive"), "still").unwrap();
    mount.start();
}

/// What is wrong with a stopped mount's files: modes, a missing token, damage that was found.
#[test]
fn wrong_modes_and_damage_are_told() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    pause(&mount);
    fs::write(mount.at("large"), large(1)).unwrap();
    wait_for_sums(&mount, 1);
    assert_eq!(mount.term(), Some(0));
    let file = crate::damage::files(&mount).0.pop().unwrap();
    assert_eq!(flip(&file, &large(1)[200_000..200_016]), 1);
    mount.ctl(&["repair", "-m", "m"]);
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        (level(&checks, "contents"), level(&checks, "parked")),
        ("fail".into(), "warn".into())
    );
    assert_eq!(level(&checks, "set aside"), "warn");
    mount.start();
    let (code, checks) = doctor(&mount, &["--offline"]);
    assert_eq!((code, level(&checks, "contents")), (Some(1), "fail".to_owned()));
    let status = mount.status();
    assert_eq!(
        (&status["damage"]["contents"], &status["damage"]["set_aside"]),
        (&1.into(), &1.into())
    );
    let text = stdout(&mount.ctl(&["status"]));
    assert!(text.contains("1 file cannot be read · 1 thing set aside"), "{text}");
    assert_eq!(mount.term(), Some(0));

    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&mount.state(), 0o777);
    mode(&mount.token_file(), 0o644);
    let (_, checks) = doctor(&mount, &["--offline"]);
    assert_eq!(level(&checks, "state folder"), "fail");
    assert_eq!(level(&checks, "token file"), "fail");
    let fix = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        check["fix"][0].as_str().unwrap().to_owned()
    };
    // The command that is named does it.
    for command in [fix("token file"), format!("chmod 700 {}", mount.state().display())] {
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
    let (_, checks) = doctor(&mount, &["--offline"]);
    assert_eq!(level(&checks, "state folder"), "ok");
    assert_eq!(level(&checks, "token file"), "ok");
    fs::remove_file(mount.token_file()).unwrap();
    let (_, checks) = doctor(&mount, &["--offline"]);
    assert_eq!(level(&checks, "token file"), "fail");
}

/// A server that cannot be reached, a token that it refuses, and a workspace that it does not know; by
/// the daemon and, before anything is mounted, by `mountd probe`.
#[test]
fn what_is_wrong_with_the_server_is_told() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    let token = mount.token_file().display().to_string();
    let source = server.source();
    // Dead mounts of other tests may be among what it finds, so the exit code says nothing here.
    let pre_flight = |mount: &Mount, token: &str| {
        let args = ["doctor", "--json", "--pre-flight", "--source", &source, "--token-file", token];
        checks_of(&mount.ctl(&args)).1
    };
    let checks = pre_flight(&mount, &token);
    assert_eq!(level(&checks, "token"), "ok", "{checks:#?}");
    assert!(checks.iter().all(|check| check["mount"].is_null()), "only the machine: {checks:#?}");
    let wrong = mount.outside().join("wrong");
    fs::write(&wrong, "not-a-token").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    let checks = pre_flight(&mount, &wrong.display().to_string());
    assert_eq!(level(&checks, "token"), "fail", "{checks:#?}");
    let checks = checks_of(&mount.ctl(&["doctor", "--pre-flight", "--json"])).1;
    assert_eq!((level(&checks, "server"), level(&checks, "fuse")), ("skip".into(), "ok".into()));

    server.stop();
    let (code, checks) = doctor(&mount, &[]);
    assert_eq!((code, level(&checks, "server")), (Some(1), "fail".to_owned()), "{checks:#?}");
    let checks = pre_flight(&mount, &token);
    assert_eq!(level(&checks, "server"), "fail", "{checks:#?}");
    assert_eq!(mount.term(), Some(0));
    let (code, checks) = doctor(&mount, &[]);
    assert_eq!((code, level(&checks, "server")), (Some(1), "fail".to_owned()), "{checks:#?}");
    // A token never shows.
    let text = stdout(&mount.ctl(&["doctor", "-m", "m"]));
    assert!(!text.contains(&fs::read_to_string(mount.token_file()).unwrap()), "{text}");
}
