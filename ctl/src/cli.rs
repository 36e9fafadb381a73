//! The command line.

mod conflicts;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::conflicts::{
    ChosenConflicts, ConflictArgs, ConflictDiffArgs, ConflictsAction, ConflictsArgs,
    ConflictsListArgs, ConflictsMergeArgs, ConflictsResolveArgs,
};
use crate::units::parse_duration;

/// How long to wait for a daemon's answer, unless said otherwise.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long `flush` waits, unless said otherwise.
pub const FLUSH_WITHIN: Duration = Duration::from_secs(30);

/// How long `unmount` drains, unless said otherwise.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(45);

/// Shows and steers running mountd daemons.
#[derive(Debug, Parser)]
#[command(name = "mountctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 usage · 3 not running · 4 not permitted · 5 not found
            6 timed out · 7 needs attention · 8 not flowing (7 and 8: status --check, flush)";

/// What applies to every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The mount: its name, its folder, or a folder below it.
    ///
    /// Without it, the mount the current folder lies in, or the only one that runs.
    #[arg(short, long, global = true, value_name = "NAME|DIR")]
    pub mount: Option<String>,
    /// The control socket of the daemon, instead of looking for it.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "mount")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON: one document, or JSON Lines for streams [env: MOUNTD_JSON=1].
    #[arg(short = 'J', long, global = true, alias = "robot", short_alias = 'j')]
    pub json: bool,
    /// How long to wait: for an answer [default: 5s], with `flush` for the outbox [default: 30s].
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// When to use colour.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how the mounts are.
    Status(StatusArgs),
    /// List the mounts, one line each.
    #[command(visible_alias = "ls")]
    Mounts,
    /// Hold back uploads; reading, writing and remote changes go on.
    Pause(PauseArgs),
    /// End a pause, close the circuit and try again at once.
    Resume(ResumeArgs),
    /// Wait until local changes are on the server; exits 0 only if all of them are.
    Flush(FlushArgs),
    /// Show the local changes the server has not accepted yet, and decide over them.
    Outbox(OutboxArgs),
    /// Show what waits for an approval: removals in great number, a server that looks reset.
    Approvals(ApprovalsArgs),
    /// Approve what `approvals` shows, or refuse it.
    Approve(ApproveArgs),
    /// List, compare, merge and end the conflicts that wait for a decision.
    Conflicts(ConflictsArgs),
    /// Show what happens: local and remote changes, uploads, conflicts.
    Events(EventsArgs),
    /// Find out whether all that the mounts need is there, and what helps where it is not. Exits 1 when
    /// something does not work.
    Doctor(DoctorArgs),
    /// Look at everything that lies in the state folder, running or not, and put right what can be put
    /// right: what the server has is fetched again, what only this machine has is kept and reported.
    ///
    /// Nothing is removed; what is damaged is set aside as `NAME.corrupt.<UTC time>`. Exits 7 when
    /// something is left for a person.
    Repair(RepairArgs),
    /// Send what is left for a bounded time, then unmount.
    Unmount(UnmountArgs),
    /// Show the versions of this program and of the running daemons.
    Version,
}

/// Arguments of `status`.
#[derive(Debug, Clone, Default, Args)]
pub struct StatusArgs {
    /// Show again at an interval, until interrupted.
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
          default_missing_value = "1s", value_parser = parse_interval)]
    pub watch: Option<Duration>,
    /// Exit 3 if a mount is not running, 6 if one does not answer, 8 if changes do not flow,
    /// 7 if something needs attention; the first that applies, in this order.
    #[arg(long)]
    pub check: bool,
    /// Show all mounts, also the stopped ones.
    #[arg(long, conflicts_with_all = ["mount", "socket"])]
    pub all: bool,
}

/// Arguments of `pause`.
#[derive(Debug, Clone, Default, Args)]
pub struct PauseArgs {
    /// Resume by itself after this time, such as 90s, 5m, 2h or 1d.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Why, for whoever reads the status.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `resume`.
#[derive(Debug, Clone, Default, Args)]
pub struct ResumeArgs {
    /// Go on with another server than before: its identity as `mountctl status` shows it.
    ///
    /// What is here is offered to it; where it has other content both are kept.
    #[arg(long, value_name = "ID")]
    pub server: Option<String>,
}

/// Arguments of `flush`.
#[derive(Debug, Clone, Default, Args)]
pub struct FlushArgs {
    /// Only what is at or below this path.
    ///
    /// A path below the mount's folder, or a path inside the mount as `outbox` shows it. A
    /// relative path counts from the current folder if that lies in the mount, else from the
    /// mount's root.
    pub path: Option<PathBuf>,
}

/// Arguments of commands that list something.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// What to do; `list` when left out.
    #[command(subcommand)]
    pub action: Option<ListAction>,
}

/// What can be done with a list.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ListAction {
    /// List them.
    List,
}

/// Arguments of `outbox`.
#[derive(Debug, Clone, Default, Args)]
pub struct OutboxArgs {
    /// What to do; `list` when left out.
    #[command(subcommand)]
    pub action: Option<OutboxAction>,
}

/// What can be done with records.
#[derive(Debug, Clone, Subcommand)]
pub enum OutboxAction {
    /// List them, oldest first.
    List(OutboxFilter),
    /// Say what would become of each of them now, and why.
    Plan(OutboxFilter),
    /// Show all of one.
    Show {
        /// Its id, as `outbox list` shows it.
        id: String,
    },
    /// Write the content of one to standard output.
    Cat {
        /// Its id, as `outbox list` shows it.
        id: String,
    },
    /// Try them again now, also those that the server refused.
    Retry(OutboxChange),
    /// Give them up: the server's versions are shown again. The bytes are set aside in a folder in
    /// the state folder first, from which `outbox import` takes them back.
    Discard {
        /// Which ones.
        #[command(flatten)]
        change: OutboxChange,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Write them with their bytes into a new folder, to be carried to another machine.
    Export {
        /// The folder; it must not exist yet.
        dir: PathBuf,
        /// Which ones; all when none is named.
        #[command(flatten)]
        change: OutboxChange,
    },
    /// Take up records from such a folder, each once, on the base it had.
    Import {
        /// The folder.
        dir: PathBuf,
    },
}

/// Which records are shown.
#[derive(Debug, Clone, Default, Args)]
pub struct OutboxFilter {
    /// Only in this state: queued, held, inflight, backoff or attention.
    #[arg(long, value_name = "STATE",
          value_parser = ["queued", "held", "inflight", "backoff", "attention"])]
    pub state: Option<String>,
    /// Only paths that fit: `*` and `?` within a name, `**` across folders.
    #[arg(long, value_name = "GLOB")]
    pub path: Option<String>,
}

/// Which records are changed.
#[derive(Debug, Clone, Default, Args)]
pub struct OutboxChange {
    /// Their ids, as `outbox list` shows them.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Which of all.
    #[command(flatten)]
    pub filter: OutboxFilter,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `approvals`.
#[derive(Debug, Clone, Default, Args)]
pub struct ApprovalsArgs {
    /// What to do; `list` when left out.
    #[command(subcommand)]
    pub action: Option<ApprovalsAction>,
}

/// What can be done with approvals.
#[derive(Debug, Clone, Subcommand)]
pub enum ApprovalsAction {
    /// List them, each with its first paths.
    List,
    /// Show one with all its paths.
    Show {
        /// Its id, as `approvals` shows it.
        id: String,
    },
}

/// Arguments of `approve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ApproveArgs {
    /// Its id, as `approvals` shows it. It holds the digest of the set of paths: when the set has
    /// changed since, nothing is done.
    pub id: String,
    /// Refuse: removals made here are taken back, files that the server removed are sent again.
    #[arg(long)]
    pub reject: bool,
}

/// Arguments of `events`.
#[derive(Debug, Clone, Default, Args)]
pub struct EventsArgs {
    /// Keep showing what comes, until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// Only paths that fit: `*` and `?` within a name, `**` across folders.
    #[arg(long, value_name = "GLOB")]
    pub path: Option<String>,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Default, Args)]
pub struct DoctorArgs {
    /// Ask no server.
    #[arg(long)]
    pub offline: bool,
    /// Take dead mounts of ours away; nothing else is changed.
    #[arg(long)]
    pub fix: bool,
    /// Look at this machine only, before anything is mounted.
    #[arg(long, conflicts_with_all = ["mount", "socket"])]
    pub pre_flight: bool,
    /// What is to be mounted, to look at its server as well.
    #[arg(long, value_name = "URL", requires = "pre_flight")]
    pub source: Option<String>,
    /// File with the token for it.
    #[arg(long, value_name = "FILE", requires = "source")]
    pub token_file: Option<PathBuf>,
}

/// Arguments of `repair`.
#[derive(Debug, Clone, Default, Args)]
pub struct RepairArgs {
    /// Change nothing, only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Where the state of a mount that does not run is kept, if it was started with --state-dir.
    #[arg(long, value_name = "DIR", requires = "mount")]
    pub state_dir: Option<PathBuf>,
}

/// Arguments of `unmount`.
#[derive(Debug, Clone, Default, Args)]
pub struct UnmountArgs {
    /// How long to send what is left [default: 45s]; what is not sent stays in the outbox.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub drain: Option<Duration>,
    /// Send nothing more; everything stays in the outbox for the next start.
    #[arg(long, conflicts_with = "drain")]
    pub no_wait: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("the interval must be at least 100ms".to_owned());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn robots_and_aliases_are_understood() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("mountctl status --robot").unwrap().global.json);
        assert!(parse("mountctl -J status").unwrap().global.json);
        assert!(matches!(parse("mountctl ls").unwrap().command, Command::Mounts));
        let Command::Status(args) = parse("mountctl status --watch").unwrap().command else {
            panic!("not status");
        };
        assert_eq!(args.watch, Some(Duration::from_secs(1)));
        assert!(parse("mountctl status --watch=1ms").is_err());
        assert!(parse("mountctl unmount --drain 5s --no-wait").is_err());
        assert!(parse("mountctl outbox list").is_ok());
        assert!(parse("mountctl flush --timeout 5").is_err());
    }
}
