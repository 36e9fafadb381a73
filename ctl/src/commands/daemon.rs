//! The daemon a command is about, and its failures in words.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::Ctx;
use crate::{
    api::ErrorCode,
    client::{Client, ClientError, Reply},
    discovery::{self, Choice, Target},
    env::Env,
    failure::{Failure, Outcome},
    persisted::{self, Persisted},
    text::shell_word,
    units,
};

/// The one daemon a command talks to.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) client: Client,
}

impl Daemon {
    pub(super) fn new(env: &Env, target: &Target) -> Self {
        Self { name: target.name.clone(), client: Client::new(&target.socket, env.uid) }
    }

    /// Asks for a document, within what is left of the time for answers.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        ctx: &Ctx<'_>,
        route: &str,
    ) -> Outcome<Reply<T>> {
        self.explained(ctx.env, self.client.get(route, ctx.time_left())).await
    }

    /// Asks for a change, within what is left of the time for answers.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        ctx: &Ctx<'_>,
        route: &str,
        body: &impl Serialize,
    ) -> Outcome<Reply<T>> {
        self.explained(ctx.env, self.client.post(route, body, ctx.time_left())).await
    }

    /// Puts a failure of `call` into words.
    pub(super) async fn explained<T>(
        &self,
        env: &Env,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Outcome<T> {
        call.await.map_err(|error| explain(env, &self.name, error))
    }
}

/// Finds the one daemon that is meant.
///
/// # Errors
///
/// When there is none, or several could be.
pub(super) async fn one(ctx: &Ctx<'_>) -> Outcome<Daemon> {
    match several(ctx).await? {
        Choice::One(target) => Ok(Daemon::new(ctx.env, &target)),
        Choice::None => Err(none_runs(ctx.env)),
        Choice::Several(targets) => {
            let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            Err(Failure::new(ErrorCode::MountAmbiguous, "several mounts run; say which one")
                .why(format!("running: {}", names.join(", ")))
                .suggest("name it with -m NAME, or run this from a folder inside the mount")
                .detail("mounts", names))
        }
    }
}

/// Finds the daemons that are meant: exactly one where the command line names it.
///
/// # Errors
///
/// When the mount that is named does not exist.
pub(super) async fn several(ctx: &Ctx<'_>) -> Outcome<Choice> {
    // Half of the time for finding leaves the other half for the command itself.
    let within = ctx.answer_within() / 2;
    if let Some(socket) = &ctx.global.socket {
        let name = socket.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Choice::One(Target { name, socket: socket.clone() }));
    }
    let Some(named) = &ctx.global.mount else {
        return Ok(discovery::choose(ctx.env, within).await);
    };
    match discovery::find(ctx.env, named, within).await {
        Some(target) => Ok(Choice::One(target)),
        None => Err(no_such_mount(ctx.env, named)),
    }
}

fn no_such_mount(env: &Env, named: &str) -> Box<Failure> {
    let mut names: Vec<String> =
        discovery::scan(env).into_iter().map(|target| target.name).collect();
    names.extend(persisted::load_all(env).into_iter().map(|stopped| stopped.name));
    names.sort_unstable();
    names.dedup();
    let why = if names.is_empty() {
        "this user has no mounts".to_owned()
    } else {
        format!("the mounts of this user: {}", names.join(", "))
    };
    Failure::new(ErrorCode::NotFound, format!("there is no mount {named}"))
        .why(why)
        .action("mountctl status --all")
        .detail("mounts", names)
}

pub(super) fn none_runs(env: &Env) -> Box<Failure> {
    let stopped = persisted::load_all(env);
    let failure = Failure::new(ErrorCode::DaemonUnavailable, "no mountd is running");
    let mut failure = match &stopped[..] {
        [] => return failure.why("this user has no mounts").action("mountd mount WORKSPACE DIR"),
        stopped => {
            let lines: Vec<String> =
                stopped.iter().map(|one| format!("{}: {}", one.name, one.summary())).collect();
            failure.why(format!("stopped: {}", lines.join(" · ")))
        }
    };
    for one in &stopped {
        failure = failure.action(one.start_command());
    }
    failure.detail("stopped", as_json(&stopped))
}

/// Puts a failure of the client into words.
pub(super) fn explain(env: &Env, name: &str, error: ClientError) -> Box<Failure> {
    let why = error.to_string();
    match error {
        ClientError::NotRunning { socket, is_stale } => {
            let failure =
                Failure::new(ErrorCode::DaemonUnavailable, format!("{name} is not running"))
                    .detail("socket", socket.to_string_lossy())
                    .detail("stale_socket", is_stale);
            not_running(failure, &why, is_stale, persisted::load(env, name).as_ref())
        }
        ClientError::NotPermitted { .. } => {
            Failure::new(ErrorCode::NotPermitted, format!("{name} refuses this user"))
                .why(why)
                .suggest("run mountctl as the user who mounted it, or as root")
        }
        ClientError::Untrusted { .. } => {
            Failure::new(ErrorCode::NotPermitted, format!("the socket of {name} is not trusted"))
                .why(why)
                .suggest("stop that process, and start the mount again")
        }
        ClientError::TimedOut { within_ms, pid, .. } => timed_out(name, within_ms, pid),
        ClientError::BadReply { .. } => {
            Failure::new(ErrorCode::BadReply, format!("{name} gave no usable answer"))
                .why(why)
                .suggest("compare the versions; restart the daemon if they are the same")
                .action("mountctl version")
        }
        ClientError::Refused(error, meta) => {
            let is_version = error.code == ErrorCode::VersionIncompatible;
            let mut failure = Failure::from_error(*error);
            if is_version && failure.error.suggestion.is_none() {
                failure = failure.suggest("use the mountctl that came with the daemon");
            }
            failure.meta = Some(meta);
            failure
        }
    }
}

fn not_running(
    failure: Box<Failure>,
    why: &str,
    is_stale: bool,
    stopped: Option<&Persisted>,
) -> Box<Failure> {
    let ended = if is_stale { "; a daemon ended without removing it" } else { "" };
    match stopped {
        Some(stopped) => failure
            .why(format!("{why}{ended}. Its state: {}", stopped.summary()))
            .action(stopped.start_command())
            .detail("persisted", as_json(stopped)),
        None => failure.why(format!("{why}{ended}")).action("mountctl status --all"),
    }
}

fn timed_out(name: &str, within_ms: u64, pid: Option<u32>) -> Box<Failure> {
    // Finding the daemon took a moment of what was allowed; nobody wants to read 4999 ms.
    let waited = units::duration(within_ms.next_multiple_of(100));
    let failure =
        Failure::new(ErrorCode::TimedOut, format!("{name} did not answer within {waited}"));
    match pid {
        Some(pid) => failure
            .why(format!("process {pid} has the socket but sends no reply: it is stopped or busy"))
            .suggest(format!("wait longer with --timeout, or see: ps -o pid,stat,wchan -p {pid}"))
            .detail("pid", pid),
        None => failure
            .why("the process that has the socket takes no connections: it is stopped or busy")
            .suggest(format!(
                "see its log, or wait longer: mountctl status -m {} --timeout 30s",
                shell_word(name)
            )),
    }
}

/// Returns `value` as JSON. What this crate serialises has text keys only, so it always can.
pub(super) fn as_json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Returns `-m NAME` for a hint.
pub(super) fn option_for(name: &str) -> String {
    format!("-m {}", shell_word(name))
}

/// Returns how long to wait for a call that itself waits for `work`.
pub(super) fn with_margin(work: Duration, margin: Duration) -> Duration {
    work.saturating_add(margin)
}
