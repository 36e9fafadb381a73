//! Everything that comes in from outside, read as the program reads it, from whatever bytes there
//! are: one function for each way in. Tests throw made-up and damaged bytes at them; the feature
//! `fuzzing` gives them to a fuzzer. Each panics when something comes through that must not, and returns else.

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use jiff::Timestamp;
use mountctl::api::{ApprovalRequest, FlushRequest, PauseRequest, UnmountRequest};
use mountctl::env::Env;

use crate::args::{Cli, Command};
use crate::config::{Config, DaemonEnv};
use crate::control;
use crate::engine::{Core, Now, Settings};
use crate::ignore_rules::Rules;
use crate::path::{WsPath, check_name};
pub use crate::remote::untrusted::{
    bulk_reply, events, listing, refusal, retry_headers, single_replies,
};
use crate::store::Store;

/// A path or a name: what is taken can be taken apart and put together again.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if check_name(text).is_ok() {
        let joined = WsPath::root().join(text).map(|path| path.name().map(str::to_owned));
        assert_eq!(joined, Ok(Some(text.to_owned())));
    }
    let Ok(path) = WsPath::parse(text) else { return };
    let again = path.names().try_fold(WsPath::root(), |folder, name| folder.join(name));
    assert_eq!(again.as_ref(), Ok(&path));
    assert!(path.is_within(&WsPath::root()));
    if let (Some(parent), Some(name)) = (path.parent(), path.name()) {
        assert_eq!(parent.join(name), Ok(path.clone()));
        let moved = path.rebase(&parent, &WsPath::root());
        assert_eq!(moved, WsPath::root().join(name).ok());
    }
}

/// `.mountignore`.
pub fn ignore_rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (rules, _refused) = Rules::compile(&[&text]);
    for name in ["a", ".git", "a/b/c", "[x]", "ü"] {
        if let Ok(path) = WsPath::parse(&format!("/{name}")) {
            let ask = || [false, true].map(|is_dir| rules.is_local_only(&path, is_dir));
            assert_eq!(ask(), ask(), "{path:?} in {text:?}");
        }
    }
}

/// What is typed after `mountd mount`, a word a line.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let words = ["mountd", "mount"].into_iter().chain(text.lines());
    let Ok(cli) = Cli::try_parse_from(words) else { return };
    if let Command::Mount(args) = cli.command {
        drop(Config::resolve(&args, &Env::default(), DaemonEnv::default()));
    }
}

/// The body of a request to the control socket.
pub fn control_body(bytes: &[u8]) {
    drop(control::object::<PauseRequest>(bytes));
    drop(control::object::<FlushRequest>(bytes));
    drop(control::object::<UnmountRequest>(bytes));
    drop(control::object::<ApprovalRequest>(bytes));
}

/// A state database in `folder`, damaged or not one at all: it is refused, or read as far as it can
/// be, and the engine starts with that.
pub fn state(folder: &Path, database: &[u8]) {
    let path = folder.join("state.db");
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        drop(std::fs::remove_file(folder.join(name)));
    }
    if std::fs::write(&path, database).is_err() {
        return;
    }
    let Ok(store) = Store::open(&path) else { return };
    let Ok(loaded) = store.load() else { return };
    let now = Now { mono: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };
    let (mut core, _) = Core::new(loaded, Settings::default(), now, 1);
    drop(core.plan(now));
    for node in core.tree.nodes() {
        if let Some(path) = core.tree.path_of(node.ino) {
            assert!(path.names().all(|name| check_name(name).is_ok()), "{path:?}");
        }
    }
    drop(store.close());
}

#[cfg(test)]
mod tests;
