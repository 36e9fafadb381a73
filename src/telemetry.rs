//! Logging: to standard error, which the service manager keeps.

use std::io;

use tracing_subscriber::EnvFilter;

/// Starts logging with a level or a filter.
///
/// # Errors
/// When `filter` is neither.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(quieted(filter)).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init()
        .map_err(|error| error.to_string())
}

/// A bare level is meant for mountd; libraries that log requests and headers stay at `warn`, and
/// fuser, which warns of every call that is left to the kernel's own way, at `error`.
fn quieted(filter: &str) -> String {
    match filter {
        "info" | "debug" | "trace" => {
            format!("warn,fuser=error,mountd={filter},workspaced={filter}")
        }
        "warn" => "warn,fuser=error".to_owned(),
        other => other.to_owned(),
    }
}
