//! Logging: to standard error, which the service manager keeps.
//!
//! Names and messages of other people are part of it. Invariant: what is logged as one line is one
//! line, and nothing in it steers the terminal on which it is read.

use std::io::{self, Write};

use mountctl::text::harmless;
use tracing_subscriber::EnvFilter;

/// Starts logging with a level or a filter.
///
/// # Errors
/// When `filter` is neither.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(quieted(filter)).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines(io::stderr()))
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

/// Writes what is one event as one harmless line.
#[derive(Debug)]
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        self.0.write_all(format!("{}\n", harmless(line)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let mut out = Vec::new();
        let mut lines = Lines(&mut out);
        lines.write_all("INFO path=/a\u{1b}[2J\nERROR forged\u{202e}\n".as_bytes()).unwrap();
        lines.write_all(b"WARN next\n").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "INFO path=/a\\u{1b}[2J\\nERROR forged\\u{202e}\nWARN next\n");
    }
}
