//! The `mountd` program: parses, runs, ends with a code.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use mountctl::api::{CheckReply, Envelope, Meta, ProbeReply, schema};
use mountctl::checked;
use mountctl::env::Env;
use mountd::args::{Cli, Command, ProbeArgs, RepairArgs};
use mountd::clock::SystemClock;
use mountd::config::{Config, DaemonEnv, RepairConfig};
use mountd::report::Report;
use mountd::{daemon, guardian, serve, telemetry, waker};
use serde::Serialize;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(report) => {
            drop(writeln!(io::stderr(), "{report}"));
            report.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Report> {
    #[cfg(feature = "failpoints")]
    mountd::failpoints::arm_from_environment()
        .map_err(|why| Report::new(mountctl::api::ExitCode::Usage, "FAILPOINTS", why))?;
    telemetry::start(&cli.log_level).map_err(|why| {
        let code = mountctl::api::ExitCode::Usage;
        Report::new(code, "INVALID_ARGUMENT", format!("--log-level {}", cli.log_level)).why(why)
    })?;
    // Nothing that this process makes is for other users.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let mut out = io::stdout();
    keep_secrets();
    match cli.command {
        Command::Mount(args) => {
            let env = DaemonEnv::from_process();
            forget_token();
            let config = Config::resolve(&args, &Env::from_process(), env)?;
            daemon::mount(config, &mut out).map(|()| ExitCode::SUCCESS)
        }
        Command::Repair(args) => repair(&args, &mut out),
        Command::Probe(args) => probe(&args, &mut out),
        Command::WakeWatchers => wake_watchers(),
        Command::SeeToTheEnd { daemon, mountpoint } => Ok(see_to_the_end(daemon, &mountpoint)),
        Command::Serve(args) => serve::serve(args, &mut out).map(|()| ExitCode::SUCCESS),
    }
}

/// Serves a daemon that started this process for that.
fn wake_watchers() -> Result<ExitCode, Report> {
    let ended = waker::serve(io::stdin().lock(), &mut io::stdout().lock());
    Ok(if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the end of a daemon that started this process for that.
fn see_to_the_end(daemon: i32, mountpoint: &Path) -> ExitCode {
    let ended = guardian::guard(daemon, mountpoint);
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks a state folder and says what was found.
fn repair(args: &RepairArgs, out: &mut dyn io::Write) -> Result<ExitCode, Report> {
    let clock = SystemClock::start();
    let config = RepairConfig::resolve(args, &Env::from_process());
    let reply = config.and_then(|config| daemon::repair(&config));
    let code = reply.as_ref().ok().map(CheckReply::exit_code);
    let text = |reply: &CheckReply| checked::lines(reply).join("\n");
    show(reply, text, schema::CHECK, args.json, clock.monotonic(), out)
        .map(|shown| code.map_or(shown, Into::into))
}

/// Looks at a server and says what it answered.
fn probe(args: &ProbeArgs, out: &mut dyn io::Write) -> Result<ExitCode, Report> {
    let clock = SystemClock::start();
    let env = DaemonEnv::from_process();
    forget_token();
    let mount = args.to_mount().map_err(|why| {
        Report::new(mountctl::api::ExitCode::Usage, "INVALID_ARGUMENT", args.source.clone())
            .why(why)
    });
    let config = mount.and_then(|mount| Config::resolve(&mount, &Env::from_process(), env));
    let reply = config.and_then(|config| daemon::probe(&config));
    let text = |reply: &ProbeReply| match &reply.why {
        None => format!("{}/{} can be mounted", reply.server, reply.workspace),
        Some(why) => format!("{}/{} cannot be mounted: {why}", reply.server, reply.workspace),
    };
    let refused = reply.as_ref().is_ok_and(|reply| !reply.accepted);
    show(reply, text, schema::PROBE, args.json, clock.monotonic(), out)
        .map(|shown| if refused { mountctl::api::ExitCode::Server.into() } else { shown })
}

/// Prints a reply, or with `json` a document of it or of the failure.
fn show<T: Serialize>(
    reply: Result<T, Report>,
    text: impl FnOnce(&T) -> String,
    schema: &str,
    json: bool,
    elapsed: Duration,
    out: &mut dyn io::Write,
) -> Result<ExitCode, Report> {
    let meta = Meta::new(schema, elapsed);
    let meta = Meta { daemon_version: Some(VERSION.to_owned()), ..meta };
    let (text, code) = match reply {
        Ok(reply) if json => {
            (serde_json::to_string(&Envelope::success(reply, meta)), ExitCode::SUCCESS)
        }
        Ok(reply) => (Ok(text(&reply)), ExitCode::SUCCESS),
        Err(report) if json => {
            let document = Envelope::<()>::failure(report.to_error(), meta);
            (serde_json::to_string(&document), report.exit.into())
        }
        Err(report) => return Err(report),
    };
    drop(writeln!(out, "{}", text.unwrap_or_default()));
    Ok(code)
}

/// Tokens and other people's files must not end up in a core file, nor be read out of this process
/// by another one of the same user. The limit alone would not keep a core from a program that
/// collects them.
fn keep_secrets() {
    use nix::sys::resource::{Resource, setrlimit};

    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    #[cfg(target_os = "linux")]
    let limited = limited.and(nix::sys::prctl::set_dumpable(false));
    if let Err(error) = limited {
        tracing::debug!(%error, "core files cannot be switched off");
    }
}

/// What this process starts, `fusermount3` among it, has no use for the token.
#[allow(unsafe_code, reason = "the environment is shared by all threads, and there is one")]
fn forget_token() {
    // SAFETY: called by `main` before anything starts a thread.
    unsafe { std::env::remove_var("MOUNTD_TOKEN") }
}
