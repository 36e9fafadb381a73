//! The commands, one file each, and what they share.

mod approvals;
mod confirm;
mod conflicts;
mod daemon;
mod doctor;
mod events;
mod flush;
mod mounts;
mod outbox;
mod pause;
mod repair;
mod resume;
mod status;
mod survey;
mod unmount;
mod version;
mod view;

use std::{ffi::OsString, io, time::Duration};

use clap::{Parser as _, error::ErrorKind};
use serde::Serialize;

use crate::{
    api::{Envelope, ErrorBody, ErrorCode, ExitCode, Meta},
    cli::{ANSWER_WITHIN, Cli, Command, Global, When},
    clock::Stopwatch,
    env::Env,
    failure::{Failure, Outcome},
    out::Out,
    text::Style,
};

/// What every command works with.
struct Ctx<'a> {
    env: &'a Env,
    global: &'a Global,
    out: &'a mut Out,
    watch: Stopwatch,
}

impl Ctx<'_> {
    /// Returns how long an answer may take in all.
    fn answer_within(&self) -> Duration {
        self.global.timeout.unwrap_or(ANSWER_WITHIN)
    }

    /// Returns what is left of that time.
    fn time_left(&self) -> Duration {
        self.watch.left_of(self.answer_within())
    }

    /// Writes a JSON document made here, not by a daemon.
    fn document(&mut self, schema: &str, data: impl Serialize) -> Outcome<()> {
        let meta = Meta::new(schema, self.watch.elapsed());
        Ok(self.out.document(&Envelope::success(data, meta))?)
    }
}

/// Runs the program: parses `args`, does what they say, and returns what to exit with.
pub async fn run<I>(args: I, env: &Env, out: &mut Out) -> ExitCode
where
    I: IntoIterator<Item = OsString>,
{
    let watch = Stopwatch::start();
    let args: Vec<OsString> = args.into_iter().collect();
    // Also an error in the arguments is to be told in JSON, so this comes before parsing.
    let wants_json = |arg: &OsString| arg == "--json" || arg == "-J" || arg == "--robot";
    out.json = env.json || args.iter().any(wants_json);
    let outcome = match Cli::try_parse_from(args) {
        Ok(cli) => {
            out.json = env.json || cli.global.json;
            out.style = style(env, cli.global.color, out.is_terminal());
            let ctx = Ctx { env, global: &cli.global, out, watch };
            dispatch(ctx, cli.command).await
        }
        Err(error) => show_usage(out, &error, watch),
    };
    let code = outcome.unwrap_or_else(|failure| show_failure(out, &failure, watch));
    match out.flush() {
        Ok(()) => code,
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        // There is no way left to tell anybody.
        Err(_) => ExitCode::Failure,
    }
}

async fn dispatch(ctx: Ctx<'_>, command: Command) -> Outcome {
    match command {
        Command::Status(args) => status::run(ctx, &args).await,
        Command::Mounts => mounts::run(ctx).await,
        Command::Pause(args) => pause::run(ctx, args).await,
        Command::Resume(args) => resume::run(ctx, args).await,
        Command::Flush(args) => flush::run(ctx, args).await,
        Command::Outbox(args) => outbox::run(ctx, args).await,
        Command::Approvals(args) => approvals::run(ctx, args).await,
        Command::Approve(args) => approvals::approve(ctx, args).await,
        Command::Conflicts(args) => conflicts::run(ctx, args).await,
        Command::Events(args) => events::run(ctx, &args).await,
        Command::Doctor(args) => doctor::run(ctx, &args).await,
        Command::Repair(args) => repair::run(ctx, &args).await,
        Command::Unmount(args) => unmount::run(ctx, &args).await,
        Command::Version => version::run(ctx).await,
    }
}

/// Returns text as it may stand in a path of a request.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;

    let mut safe = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(safe, "%{byte:02X}").ok();
        }
    }
    safe
}

fn style(env: &Env, when: When, is_terminal: bool) -> Style {
    let color = match when {
        When::Always => true,
        When::Never => false,
        When::Auto if env.no_color => false,
        When::Auto => env.color_force || (is_terminal && !env.dumb_terminal),
    };
    Style { color }
}

fn show_usage(out: &mut Out, error: &clap::Error, watch: Stopwatch) -> Outcome {
    let text = error.render().to_string();
    let text = text.trim_end();
    let is_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_asked_for {
        out.line(text)?;
        return Ok(ExitCode::Ok);
    }
    if out.json {
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        let error = ErrorBody::new(ErrorCode::InvalidArgument, message).action("mountctl help");
        return Ok(show_failure(out, &Failure::from_error(error), watch));
    }
    out.note(text)?;
    Ok(ExitCode::Usage)
}

fn show_failure(out: &mut Out, failure: &Failure, watch: Stopwatch) -> ExitCode {
    if failure.is_silent {
        return ExitCode::Ok;
    }
    let shown = if out.json {
        let meta = failure.meta.clone().unwrap_or_else(|| Meta::new("", watch.elapsed()));
        out.document(&Envelope::<()>::failure(failure.to_error(), meta))
    } else {
        out.error(&failure.lines())
    };
    // When even that cannot be written, the exit code has to say it alone.
    shown.ok();
    failure.exit_code()
}

#[cfg(test)]
mod tests;
