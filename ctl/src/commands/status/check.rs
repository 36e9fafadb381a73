//! `status --check`: the health of mounts as an exit code.
//!
//! The first that applies counts, over all mounts shown: 3 not running, the codes of failures
//! to answer (6 timed out, 4 not permitted, 1), 8 not flowing, 7 attention, 0. Not flowing comes
//! before attention because it stops everything, while attention stops single files.

use super::is_failure_to_show;
use crate::{
    api::{CircuitState, ExitCode, MountState, MountStatus},
    cli::StatusArgs,
    commands::survey::Survey,
};

/// Returns the health of one running mount.
pub(super) fn mount(mount: &MountStatus) -> ExitCode {
    use MountState as S;

    let is_held = mount.pause.uploads.is_some() || mount.circuit.state != CircuitState::Closed;
    let needs_person =
        mount.conflicts.open > 0 || mount.uploads.attention > 0 || mount.approvals > 0;
    match mount.state {
        S::Paused
        | S::Offline
        | S::Backoff
        | S::HalfOpen
        | S::Auth
        | S::OtherServer
        | S::ResetSuspected => ExitCode::NotFlowing,
        _ if is_held => ExitCode::NotFlowing,
        S::Attention | S::Degraded | S::Unknown => ExitCode::Attention,
        _ if needs_person => ExitCode::Attention,
        S::Starting | S::Bootstrapping | S::Synced | S::Syncing | S::Draining | S::Stopping => {
            ExitCode::Ok
        }
    }
}

/// Returns the exit code for several mounts.
///
/// With `--all` a stopped mount counts as not running; otherwise one that was stopped properly
/// is left alone.
pub(super) fn survey(survey: &Survey, args: &StatusArgs) -> ExitCode {
    let mut codes: Vec<ExitCode> = survey
        .unreachable
        .iter()
        .filter(|(_, failure)| args.check || is_failure_to_show(failure))
        .map(|(_, failure)| failure.exit_code())
        .collect();
    if args.check {
        codes.extend(survey.running.iter().map(|(_, status)| mount(status)));
        codes.extend((args.all && !survey.stopped.is_empty()).then_some(ExitCode::NotRunning));
    }
    codes.into_iter().min_by_key(|code| rank(*code)).unwrap_or(ExitCode::Ok)
}

fn rank(code: ExitCode) -> u8 {
    match code {
        ExitCode::NotRunning => 0,
        ExitCode::TimedOut => 1,
        ExitCode::NotPermitted => 2,
        ExitCode::NotFlowing => 4,
        ExitCode::Attention => 5,
        ExitCode::Ok => 6,
        _ => 3,
    }
}
