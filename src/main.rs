//! The `mountd` program: parses, runs, ends with a code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mountctl::env::Env;
use mountd::args::{Cli, Command};
use mountd::config::{Config, DaemonEnv};
use mountd::report::Report;
use mountd::{daemon, serve, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            drop(writeln!(io::stderr(), "{report}"));
            report.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Report> {
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
    match cli.command {
        Command::Mount(args) => {
            let config = Config::resolve(&args, &Env::from_process(), DaemonEnv::from_process())?;
            daemon::mount(config, &mut out)
        }
        Command::Serve(args) => serve::serve(args, &mut out),
    }
}
