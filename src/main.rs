//! The `mountd` program: parses, runs, ends with a code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mountctl::api::{Envelope, Meta, schema};
use mountctl::checked;
use mountctl::env::Env;
use mountd::args::{Cli, Command, RepairArgs};
use mountd::clock::SystemClock;
use mountd::config::{Config, DaemonEnv, RepairConfig};
use mountd::report::Report;
use mountd::{daemon, serve, telemetry};

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
        Command::Serve(args) => serve::serve(args, &mut out).map(|()| ExitCode::SUCCESS),
    }
}

/// Checks a state folder and says what was found.
fn repair(args: &RepairArgs, out: &mut dyn io::Write) -> Result<ExitCode, Report> {
    let clock = SystemClock::start();
    let config = RepairConfig::resolve(args, &Env::from_process());
    let reply = match config.and_then(|config| daemon::repair(&config)) {
        Ok(reply) => reply,
        Err(report) if args.json => {
            let meta = Meta::new(schema::ERROR, clock.monotonic());
            let document = Envelope::<()>::failure(report.to_error(), meta);
            drop(writeln!(out, "{}", serde_json::to_string(&document).unwrap_or_default()));
            return Ok(report.exit.into());
        }
        Err(report) => return Err(report),
    };
    let code = reply.exit_code();
    let text = if args.json {
        let meta = Meta::new(schema::CHECK, clock.monotonic());
        let document =
            Envelope::success(reply, Meta { daemon_version: Some(VERSION.to_owned()), ..meta });
        serde_json::to_string(&document).unwrap_or_default()
    } else {
        checked::lines(&reply).join("\n")
    };
    drop(writeln!(out, "{text}"));
    Ok(code.into())
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
