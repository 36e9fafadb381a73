//! Finds the daemons of this user, and the one a command is about.
//!
//! A mount is recognised by its name, or by comparing paths with the mount points the daemons
//! report; the paths themselves are never looked up.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    api::{Hello, route},
    client::{Client, ClientError},
    env::Env,
    paths,
};

/// A control socket, and the mount that it should belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name of the mount; for a socket that was given, the name of its file.
    pub name: String,
    /// The control socket.
    pub socket: PathBuf,
}

/// What somebody who names no mount may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// No daemon runs.
    None,
    /// This mount.
    One(Target),
    /// Any of these.
    Several(Vec<Target>),
}

/// The answer of one socket to `hello`.
#[derive(Debug)]
pub struct Probe {
    /// The socket.
    pub target: Target,
    /// Who answered, or why nobody did.
    pub hello: Result<Hello, ClientError>,
}

impl Probe {
    /// Returns whether a process listens, even if it does not answer.
    pub fn is_running(&self) -> bool {
        !matches!(self.hello, Err(ClientError::NotRunning { .. }))
    }

    fn contains(&self, path: &Path) -> bool {
        self.hello
            .as_ref()
            .is_ok_and(|hello| !hello.mountpoint.is_empty() && path.starts_with(&hello.mountpoint))
    }
}

/// Returns the sockets in the run folders, by name. Reads folders, connects to nothing.
pub fn scan(env: &Env) -> Vec<Target> {
    let mut targets: Vec<Target> =
        paths::run_dirs(env).iter().filter(|dir| is_safe(dir, env)).flat_map(scan_dir).collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    targets
}

/// Asks every socket who is there, all at once, each `within` the same time.
pub async fn probe_all(env: &Env, within: Duration) -> Vec<Probe> {
    let mut probes = JoinSet::new();
    for target in scan(env) {
        let client = Client::new(&target.socket, env.uid);
        probes.spawn(async move {
            let hello = client.get::<Hello>(route::HELLO, within).await.map(|reply| reply.data);
            let name = match &hello {
                Ok(hello) if !hello.name.is_empty() => hello.name.clone(),
                Ok(_) | Err(_) => target.name,
            };
            Probe { target: Target { name, socket: target.socket }, hello }
        });
    }
    let mut probes = probes.join_all().await;
    probes.sort_by(|a, b| a.target.name.cmp(&b.target.name));
    probes
}

/// Chooses for somebody who names no mount: the one that runs, or the one `env.current_dir`
/// lies in.
pub async fn choose(env: &Env, within: Duration) -> Choice {
    // One socket needs no questions: whatever is wrong with it, the command itself will tell.
    if let [target] = &scan(env)[..] {
        return Choice::One(target.clone());
    }
    let mut probes = probe_all(env, within).await;
    probes.retain(Probe::is_running);
    if let Some(probe) = env.current_dir.as_deref().and_then(|dir| innermost(&probes, dir)) {
        return Choice::One(probe.target.clone());
    }
    let mut targets: Vec<Target> = probes.into_iter().map(|probe| probe.target).collect();
    match targets.pop() {
        None => Choice::None,
        Some(target) if targets.is_empty() => Choice::One(target),
        Some(target) => {
            targets.push(target);
            Choice::Several(targets)
        }
    }
}

/// Finds the mount somebody names by its name, its folder or a folder below that; running or
/// stopped.
pub async fn find(env: &Env, named: &str, within: Duration) -> Option<Target> {
    if paths::is_valid_name(named) {
        let socket = paths::socket_path(env, named);
        let is_known = fs::symlink_metadata(&socket).is_ok()
            || fs::symlink_metadata(paths::state_dir(env, named)).is_ok();
        if is_known {
            return Some(Target { name: named.to_owned(), socket });
        }
    }
    let base = env.current_dir.as_deref().unwrap_or(Path::new("/"));
    let dir = paths::clean_path(base, Path::new(named));
    let probes = probe_all(env, within).await;
    if let Some(probe) = innermost(&probes, &dir) {
        return Some(probe.target.clone());
    }
    let stopped = crate::persisted::load_all(env).into_iter().filter(|stopped| {
        stopped.mountpoint.as_deref().is_some_and(|point| dir.starts_with(point))
    });
    let innermost = stopped.max_by_key(|stopped| stopped.mountpoint.as_ref().map(String::len));
    innermost.map(|stopped| Target {
        socket: paths::socket_path(env, &stopped.name),
        name: stopped.name,
    })
}

/// Returns the probe whose mount contains `path` most closely.
fn innermost<'a>(probes: &'a [Probe], path: &Path) -> Option<&'a Probe> {
    probes
        .iter()
        .filter(|probe| probe.contains(path))
        .max_by_key(|probe| probe.hello.as_ref().map_or(0, |hello| hello.mountpoint.len()))
}

fn scan_dir(dir: &PathBuf) -> Vec<Target> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let socket_of = |entry: fs::DirEntry| {
        let socket = entry.path();
        let name = socket.file_name()?.to_str()?.strip_suffix(".sock")?.to_owned();
        (!name.is_empty()).then_some(Target { name, socket })
    };
    entries.filter_map(|entry| socket_of(entry.ok()?)).collect()
}

/// Returns whether nobody but the user and root can have put a socket into `dir`.
fn is_safe(dir: &Path, env: &Env) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|metadata| {
        metadata.is_dir()
            && (metadata.uid() == env.uid || metadata.uid() == 0)
            && metadata.mode() & 0o022 == 0
    })
}
