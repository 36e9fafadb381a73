//! Test suites that others wrote for any file system, run on a real mount: `pjdfstest` for names and
//! permissions, `fsx` for contents.
//!
//! They are installed into `target/posix` (`.ci/run`, `docs/testing.md`). Where one is missing its test
//! says SKIPPED, and fails where `CI` is `true`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests look at the environment, print what they skip and may panic"
)]

mod accepted;
mod contents;
mod names;

#[path = "../it"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the other integration tests, which use all of it"
)]
mod it {
    pub mod support;
}

use std::path::{Path, PathBuf};

use it::support;

/// The program of that name from `target/posix`, where it is installed.
fn tool(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_mountd")).ancestors().nth(2).unwrap();
    let tool = target.join("posix/bin").join(name);
    if tool.exists() {
        return Some(tool);
    }
    let version = accepted::TOOLS.iter().find(|(tool, _)| *tool == name).unwrap().1;
    let how = format!(
        "cargo install --locked --root {} {name}@{version}",
        target.join("posix").display()
    );
    support::skip(&format!("posix: {name} is missing ({how})"));
    None
}
