//! One mount, running or not.

use std::{path::PathBuf, time::Duration};

use super::{Ctx, server, state};
use crate::{
    api::{Check, CircuitState, Hello, MountState, MountStatus, ProbeReply, StatusReply, route},
    client::{Client, ClientError},
    discovery::Target,
    failure::Outcome,
    paths,
    persisted::{self, Persisted},
    text::shell_word,
    units,
};

/// How long a running daemon may take to look at its server.
const PROBE_WITHIN: Duration = Duration::from_secs(40);

pub(super) async fn checks(
    ctx: &mut Ctx<'_>,
    target: Target,
    offline: bool,
) -> Outcome<Vec<Check>> {
    let stopped = persisted::load(ctx.env, &target.name).unwrap_or_default();
    let client = Client::new(&target.socket, ctx.env.uid);
    let within = ctx.answer_within();
    let hello = client.get::<Hello>(route::HELLO, within).await;
    let status = match &hello {
        Ok(_) => client.get::<StatusReply>(route::STATUS, within).await.ok(),
        Err(_) => None,
    };
    let is_running = !matches!(hello, Err(ClientError::NotRunning { .. }));
    let mut checks = vec![daemon(&hello.map(|reply| reply.data), &target, &stopped)];
    // A daemon knows best where its state is; it may have been told another place.
    let known = status.as_ref().map(|status| status.data.mount.state_dir.clone());
    let known = known.filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let usual = paths::state_dir(ctx.env, &target.name);
    let is_usual = known.as_ref().is_none_or(|known| *known == usual);
    let places = state::Places {
        files: stopped.files_dir.as_deref().map(PathBuf::from).filter(|_| is_usual),
        is_used: is_running && known.is_some(),
        state: known.unwrap_or(usual),
    };
    checks.extend(state::checks(ctx.env, &places));
    let token_file = stopped.token_file.as_deref().map(PathBuf::from);
    checks.extend(token_file.as_deref().map(|file| state::token_file(ctx.env, file)));
    match &status {
        Some(status) => checks.extend(of_status(&status.data.mount)),
        None => checks.extend(of_state(&stopped)),
    }
    if offline {
        checks.push(Check::skip("server", "not asked: --offline"));
        return Ok(checks);
    }
    ctx.out.progress("asking the server")?;
    if status.is_some() {
        let within = ctx.global.timeout.unwrap_or(PROBE_WITHIN);
        match client.get::<ProbeReply>(route::PROBE, within).await {
            Ok(reply) => checks.extend(server::checks(&reply.data)),
            Err(error) => checks.push(
                Check::fail("server", "the daemon could not look at it")
                    .why(error.to_string())
                    .fix(format!("mountctl status -m {}", shell_word(&target.name))),
            ),
        }
    } else if let Some(source) = &stopped.source {
        match super::probe(ctx, source, stopped.token_file.as_deref()) {
            Ok(reply) => checks.extend(server::checks(&reply)),
            Err(failure) => checks.push(server::not_asked(&failure)),
        }
    }
    Ok(checks)
}

fn daemon(hello: &Result<Hello, ClientError>, target: &Target, stopped: &Persisted) -> Check {
    let name = shell_word(&target.name);
    match hello {
        Ok(hello) => {
            let own = env!("CARGO_PKG_VERSION");
            let text = format!("runs as process {}, version {}", hello.pid, hello.daemon_version);
            if hello.daemon_version == own {
                Check::ok("daemon", text)
            } else {
                Check::warn("daemon", text)
                    .why(format!("this mountctl is {own}"))
                    .fix(format!("mountctl unmount -m {name}, and start it again"))
            }
        }
        Err(ClientError::NotRunning { .. }) => {
            let check = Check::warn("daemon", "does not run");
            let check = check.why(stopped.summary());
            if stopped.name.is_empty() { check } else { check.fix(stopped.start_command()) }
        }
        Err(ClientError::TimedOut { pid, .. }) => {
            let check = Check::fail("daemon", "gives no answer").why("it is stopped, or busy");
            match pid {
                Some(pid) => check.fix(format!("ps -o pid,stat,wchan -p {pid}")),
                None => check.fix(format!("mountctl status -m {name} --timeout 30s")),
            }
        }
        Err(error) => Check::fail("daemon", "cannot be asked")
            .why(error.to_string())
            .fix("run this as the user who mounted it, or as root"),
    }
}

/// What a running mount says of itself.
fn of_status(mount: &MountStatus) -> Vec<Check> {
    let name = shell_word(&mount.name);
    let mut checks = Vec::new();
    if let Some(why) = &mount.state_folder {
        checks.push(
            Check::fail("storage", "changes made here are not kept")
                .why(why.clone())
                .fix(format!("mountctl unmount -m {name}, put it right, and start it again")),
        );
    }
    checks.push(link(mount));
    let waiting = Waiting {
        parked: mount.uploads.attention,
        conflicts: mount.conflicts.open,
        approvals: mount.approvals,
        damaged: mount.damage.contents,
    };
    checks.extend(waiting.checks(&mount.name));
    checks
}

fn link(mount: &MountStatus) -> Check {
    let queued = units::counted(mount.uploads.queued, "change");
    let state = mount.state.as_str();
    let reason = mount.retry.reason.clone().unwrap_or_default();
    let name = shell_word(&mount.name);
    let resume = format!("mountctl resume -m {name}");
    if mount.pause.uploads.is_some() {
        return Check::warn("link", format!("paused, {queued} waiting"))
            .why("a person paused it")
            .fix(resume);
    }
    if mount.circuit.state != CircuitState::Closed {
        let words = mount.circuit.state.as_words();
        return Check::warn("link", format!("circuit {words}, {queued} waiting"))
            .why(reason)
            .fix(format!("wait for the next attempt, or {resume}"));
    }
    match mount.state {
        MountState::Offline | MountState::Backoff => {
            Check::warn("link", format!("{state}, {queued} waiting"))
                .why(reason)
                .fix(format!("nothing: it tries for ever; at once with {resume}"))
        }
        MountState::Auth => Check::fail("link", format!("{state}, {queued} waiting"))
            .why(reason)
            .fix("write a new token into the token file"),
        MountState::OtherServer | MountState::ResetSuspected => {
            Check::fail("link", format!("{state}, {queued} waiting"))
                .why("the server is not the one it was")
                .fix(format!("mountctl status -m {name}; mountctl approvals -m {name}"))
        }
        MountState::Degraded => Check::warn("link", "the change stream is down")
            .why("changes made elsewhere are asked for at an interval")
            .fix("let WebSockets through on the way to the server"),
        _ => Check::ok("link", format!("{state}, {queued} waiting")),
    }
}

/// What the state of a stopped mount says.
fn of_state(stopped: &Persisted) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(caveat) = &stopped.caveat {
        let name = shell_word(&stopped.name);
        checks.push(
            Check::warn("database", caveat.clone())
                .why("what waits in the outbox cannot be told")
                .fix(format!("mountctl repair --dry-run -m {name}")),
        );
    }
    let waiting = Waiting {
        parked: stopped.attention,
        conflicts: stopped.conflicts_open,
        approvals: 0,
        damaged: stopped.damaged,
    };
    checks.extend(waiting.checks(&stopped.name));
    checks
}

/// What waits for a person.
struct Waiting {
    parked: u64,
    conflicts: u64,
    approvals: u64,
    damaged: u64,
}

impl Waiting {
    fn checks(&self, name: &str) -> Vec<Check> {
        let name = shell_word(name);
        let some = |count: u64, what: &str, text: String, why: &str, command: &str| {
            if count == 0 {
                return Check::ok(what, "none");
            }
            Check::warn(what, text).why(why).fix(format!("mountctl {command} -m {name}"))
        };
        let mut checks = vec![
            some(
                self.parked,
                "parked",
                units::counted(self.parked, "record"),
                "the server refused them, or their bytes are damaged; the others go on",
                "outbox list",
            ),
            some(
                self.conflicts,
                "conflicts",
                format!("{} open", units::count(self.conflicts)),
                "both sides changed a file; both are kept",
                "conflicts list",
            ),
        ];
        if self.approvals > 0 {
            checks.push(some(
                self.approvals,
                "approvals",
                units::counted(self.approvals, "thing"),
                "removals in great number wait for a person",
                "approvals",
            ));
        }
        checks.push(if self.damaged == 0 {
            Check::ok("contents", "none known to be damaged; mountctl repair reads them all")
        } else {
            let files = units::counted(self.damaged, "file");
            Check::fail("contents", format!("{files} damaged, and nowhere else"))
                .why("reading them fails; what was left of them is set aside")
                .fix(format!("mountctl outbox list -m {name}"))
                .fix("write the files anew: that makes them whole")
        });
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Level;

    #[test]
    fn what_waits_for_a_person_is_told_with_the_command_that_shows_it() {
        let waiting = Waiting { parked: 2, conflicts: 0, approvals: 1, damaged: 1 };
        let checks = waiting.checks("a b");
        let levels: Vec<(&str, Level)> =
            checks.iter().map(|check| (check.name.as_str(), check.level)).collect();
        assert_eq!(
            levels,
            [
                ("parked", Level::Warn),
                ("conflicts", Level::Ok),
                ("approvals", Level::Warn),
                ("contents", Level::Fail)
            ]
        );
        assert_eq!(checks[0].fix, ["mountctl outbox list -m 'a b'"]);
    }

    #[test]
    fn each_state_of_the_link_has_its_level() {
        let level = |state| link(&MountStatus { state, ..MountStatus::default() }).level;
        assert_eq!(level(MountState::Synced), Level::Ok);
        assert_eq!(level(MountState::Offline), Level::Warn);
        assert_eq!(level(MountState::Auth), Level::Fail);
        let mut paused = MountStatus::default();
        paused.pause.uploads = Some(crate::api::PauseInfo::default());
        assert_eq!(link(&paused).level, Level::Warn);
    }
}
