//! Failpoints: the list is what the sources hold, and a program that was built without them has none.

use std::collections::BTreeSet;
use std::process::Command;

use super::reading::{read, root, sources};

/// The names in the list of `src/failpoints.rs`.
fn listed() -> BTreeSet<String> {
    let text = read(&root().join("src/failpoints.rs"));
    let list = text.split("pub const POINTS").nth(1).and_then(|rest| rest.split("];").next());
    let lines = list.expect("the list").lines().map(str::trim);
    let names =
        lines.filter_map(|line| line.strip_prefix('"')?.strip_suffix("\",").map(str::to_owned));
    let names: Vec<String> = names.collect();
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "a name is listed twice");
    set
}

/// Each failpoint has a name of its own, is in the list, and the list has no others.
#[test]
fn the_list_of_failpoints_is_what_the_sources_hold() {
    let mut found = BTreeSet::new();
    for source in ["src", "server/src"].into_iter().flat_map(sources) {
        for rest in source.code.split("failpoint!(").skip(1) {
            let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
            let name = rest.split('"').next().unwrap().to_owned();
            assert!(found.insert(name.clone()), "{name} is twice in the sources");
        }
    }
    assert_eq!(found, listed());
}

/// Without the feature, failpoints cost nothing: not even their names are in the program. With it
/// they are, which shows that this looks at the right thing.
#[test]
fn a_program_without_failpoints_holds_none() {
    let listed = listed();
    let names: Vec<&str> = listed.iter().map(String::as_str).collect();
    let output = Command::new("grep")
        .args(["--text", "--only-matching", "--fixed-strings", &names.join("\n")])
        .arg(env!("CARGO_BIN_EXE_mountd"))
        .env("LC_ALL", "C")
        .output()
        .expect("grep runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let held: BTreeSet<&str> = text.lines().collect();
    if cfg!(feature = "failpoints") {
        assert_eq!(held.len(), names.len(), "{held:?}");
    } else {
        assert!(held.is_empty(), "{held:?}");
    }
}
