//! The installed program: what only a real process shows.
//!
//! Being an integration test, it also has `cargo test --workspace` build the `mountctl` binary,
//! which the tests of real mounts run.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests may panic")]

use std::process::{Command, Output};

/// Runs `mountctl` as a user without any mount.
fn mountctl(args: &[&str]) -> Output {
    let nowhere = std::env::temp_dir().join(format!("mountctl-program-{}", std::process::id()));
    Command::new(env!("CARGO_BIN_EXE_mountctl"))
        .args(args)
        .env("HOME", &nowhere)
        .env("XDG_RUNTIME_DIR", nowhere.join("run"))
        .env("XDG_STATE_HOME", nowhere.join("state"))
        .env("TMPDIR", nowhere.join("tmp"))
        .env_remove("MOUNTD_JSON")
        .output()
        .unwrap()
}

/// The process ends with the documented code, and data goes to standard output alone.
#[test]
fn the_process_ends_with_the_documented_codes() {
    let version = mountctl(&["version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("mountctl "));
    assert!(version.stderr.is_empty());

    let wrong = mountctl(&["no-such-command"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stdout.is_empty());

    let nobody = mountctl(&["-m", "nobody", "status", "--json"]);
    assert_ne!(nobody.status.code(), Some(0));
    let document = String::from_utf8_lossy(&nobody.stdout).into_owned();
    assert!(document.starts_with("{\"ok\":false,"), "{document}");
}
