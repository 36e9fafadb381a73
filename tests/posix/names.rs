//! `pjdfstest`: names, kinds, permissions, owners and times, for root and for others.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::accepted::{FAILING, SKIPPED, UNDECIDED};
use crate::support::{Mount, TestServer};
use crate::{fuse_or_skip, support, tool};

/// Everything that the suite knows of Linux.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = true
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// `mount -o remount` as the suite calls it: without the helper program for FUSE, which takes the
/// source for a program that it has to start.
const MOUNT: &str = "#!/bin/sh\nPATH=${PATH#*:} exec mount -i \"$@\"\n";

/// The cases that remount. They run by themselves: the suite leaves a file open for writing in others.
const REMOUNTING: &str = "::erofs_";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Every case passes but those that `accepted.rs` lists with a reason, and those do fail.
#[test]
fn every_case_passes_but_those_that_are_listed() {
    fuse_or_skip!();
    let Some(program) = tool("pjdfstest") else { return };
    if !nix::unistd::geteuid().is_root() {
        return support::skip("posix: pjdfstest changes users, which needs root");
    }
    let server = TestServer::new();
    let mut mount = Mount::builder(&server.source()).args(&["--allow-other"]).start();
    let outside = mount.outside();
    let (config, bin, elsewhere) =
        (outside.join("suite.toml"), outside.join("bin"), outside.join("elsewhere"));
    std::fs::write(&config, CONFIG).unwrap();
    for folder in [&bin, &elsewhere] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(bin.join("mount"), MOUNT).unwrap();
    std::fs::set_permissions(bin.join("mount"), Permissions::from_mode(0o755)).unwrap();
    // The suite's other users have to get there.
    std::fs::set_permissions(outside, Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let run = |pattern: &[&str]| {
        let output = Command::new(&program)
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(mount.path())
            .arg("-s")
            .arg(&elsewhere)
            .args(pattern)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let remounting = run(&[REMOUNTING]);
    std::fs::write(&config, CONFIG.replace("allow_remount = true", "")).unwrap();
    let text = remounting.clone() + &run(&[]);
    let mut outcomes = outcomes(&text);
    outcomes.retain(|case, _| !case.contains(REMOUNTING));
    outcomes.extend(self::outcomes(&remounting));
    outcomes.retain(|case, _| !UNDECIDED.iter().any(|(name, _)| name == case));
    assert!(outcomes.len() > 390, "{text}");
    let expected = |case: &str| {
        let listed = |list: &[(&str, &str)]| list.iter().any(|(name, _)| *name == case);
        match (listed(FAILING), listed(SKIPPED)) {
            (true, _) => Outcome::Failed,
            (_, true) => Outcome::Skipped,
            _ => Outcome::Passed,
        }
    };
    let mut moved: Vec<String> = outcomes
        .iter()
        .filter(|(case, outcome)| expected(case) != **outcome)
        .map(|(case, outcome)| format!("{case}: {outcome:?}, expected {:?}", expected(case)))
        .collect();
    let known = FAILING.iter().chain(SKIPPED).map(|(name, _)| *name);
    moved.extend(
        known.filter(|name| !outcomes.contains_key(*name)).map(|name| format!("{name}: no case")),
    );
    assert!(moved.is_empty(), "{}\n{text}", moved.join("\n"));
    // What the suite made and removed leaves nothing behind, also not at the server.
    mount.flush();
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
    assert_eq!(server.files().len(), 0);
    mount.kill9();
    mount.start();
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
}

/// The lines that end with the outcome of a case.
fn outcomes(text: &str) -> BTreeMap<String, Outcome> {
    let line = |line: &str| {
        let (case, outcome) = line.rsplit_once(' ')?;
        let outcome = match outcome {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            "skipped" => Outcome::Skipped,
            _ => return None,
        };
        let case = case.trim();
        (case.contains("::") && !case.contains(' ')).then(|| (case.to_owned(), outcome))
    };
    text.lines().filter_map(line).collect()
}
