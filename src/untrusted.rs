//! Everything that comes in from outside, read as the program reads it, from whatever bytes there
//! are: one function for each way in, listed in [`WAYS`] with inputs that
//! it takes. Tests throw
//! made-up and damaged bytes at them; the feature `fuzzing` gives them to the fuzzers in `fuzz/`.
//! Each panics when something comes through that must not, and returns else.

mod carried;
mod damage;
mod merged;
mod stored;
mod ways;

use clap::Parser as _;
use mountctl::api::{
    ApprovalRequest, FlushRequest, OutboxRequest, PauseRequest, ResolveRequest, UnmountRequest,
};
use mountctl::env::Env;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::carried::import;
pub use self::damage::{Damage, damaged, decode};
pub use self::merged::{check_merge, merge};
pub use self::stored::state;
pub use self::ways::{SLOW_WAYS, WAYS, Way};
use crate::args::{Cli, Command, MountArgs};
use crate::config::{Config, DaemonEnv, Source};
use crate::conflict_policy::Policies;
use crate::control;
use crate::ignore_rules::Rules;
use crate::path::{WsPath, check_name};
pub use crate::remote::untrusted::{
    bulk_reply, bulk_request, credential, events, listing, refusal, retry_headers, single_replies,
};

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
        // There and back, below any folder on the way.
        let elsewhere = path.rebase(&WsPath::root(), &parent);
        assert_eq!(elsewhere.and_then(|far| far.rebase(&parent, &WsPath::root())), Some(path));
    }
}

/// `.mountignore`: what one line says does not depend on lines that are none.
pub fn ignore_rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (rules, refused) = Rules::compile(&[&text]);
    let (same, refused_again) = Rules::compile(&[&text]);
    assert_eq!(refused, refused_again);
    assert!(refused.len() <= text.lines().count(), "{refused:?}");
    let root = WsPath::root();
    assert!(!rules.is_local_only(&root, true), "the root in {text:?}");
    for name in ["a", ".git", "a/b/c", "[x]", "ü"] {
        if let Ok(path) = WsPath::parse(&format!("/{name}")) {
            for is_dir in [false, true] {
                let ask = |rules: &Rules| rules.is_local_only(&path, is_dir);
                assert_eq!(ask(&rules), ask(&same), "{path:?} in {text:?}");
            }
        }
    }
}

/// Rules about conflicts, one a line: each path has a policy, and without any rule the default.
pub fn conflict_policies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let parsed = Policies::parse(&lines);
    let alone = lines.iter().all(|line| Policies::parse(&[line]).is_ok());
    assert_eq!(parsed.is_ok(), alone, "{lines:?}");
    let (Ok(policies), Some(last)) = (parsed, lines.last()) else { return };
    let Ok(of_last) = Policies::parse(&[last]) else { return };
    for name in ["/a", "/a/b.md", "/[x]", "/ü"] {
        let Ok(path) = WsPath::parse(name) else { continue };
        let all = policies.of(&path);
        // Where the last rule says something, it counts.
        if of_last.of(&path) != Policies::default().of(&path) {
            assert_eq!(all, of_last.of(&path), "{name} in {lines:?}");
        }
    }
}

/// What is typed after `mountd mount`, a word a line: what is taken leads nowhere else when it is
/// shown and typed again.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(args) = mount_args(text.lines()) else { return };
    let resolve = |args: &MountArgs| Config::resolve(args, &Env::default(), DaemonEnv::default());
    let Ok(config) = resolve(&args) else { return };
    assert!(mountctl::paths::is_valid_name(&config.name), "{:?}", config.name);
    assert!(config.state_dir.ends_with(&config.name), "{:?}", config.state_dir);
    assert!(config.debounce <= config.max_delay);
    let Source::Server { base, workspace } = &config.source else { return };
    assert!(!workspace.contains('/') && base.path() == "/", "{base} {workspace:?}");
    let shown = config.source.text();
    let mut words = vec![shown.as_str(), "/m"];
    words.extend(args.insecure_http.then_some("--insecure-http"));
    let again = mount_args(words.into_iter()).and_then(|args| resolve(&args).ok());
    assert_eq!(again.map(|config| config.source).as_ref(), Some(&config.source));
}

fn mount_args<'a>(words: impl Iterator<Item = &'a str>) -> Option<MountArgs> {
    match Cli::try_parse_from(["mountd", "mount"].into_iter().chain(words)).ok()?.command {
        Command::Mount(args) => Some(*args),
        _ => None,
    }
}

/// The body of a request to the control socket: an object, and what is understood of it stays the
/// same when it is written and read again.
pub fn control_body(bytes: &[u8]) {
    fn read<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
        let Ok(request) = control::object::<T>(bytes) else { return };
        let json = |request: &T| serde_json::to_value(request).ok();
        let written = json(&request);
        assert!(written.as_ref().is_some_and(serde_json::Value::is_object), "{written:?}");
        let again = written.as_ref().and_then(|json| serde_json::to_vec(json).ok());
        let again = again.and_then(|bytes| control::object::<T>(&bytes).ok());
        assert_eq!(again.and_then(|request| json(&request)), written);
    }
    read::<PauseRequest>(bytes);
    read::<FlushRequest>(bytes);
    read::<UnmountRequest>(bytes);
    read::<ApprovalRequest>(bytes);
    read::<OutboxRequest>(bytes);
    read::<ResolveRequest>(bytes);
}

#[cfg(test)]
mod tests;
