//! Why a command could not do what it was asked, and what helps.

use std::io;

use crate::{
    api::{ErrorBody, ErrorCode, ExitCode, Meta},
    text::harmless,
};

/// What a command gives back: the exit code, or a failure to show.
pub type Outcome<T = ExitCode> = Result<T, Box<Failure>>;

/// A failure on its way to the user.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The error, as JSON shows it.
    pub error: ErrorBody,
    /// Why it happened, for people; JSON carries it as `details.why`.
    pub why: Option<String>,
    /// The meta of the daemon's reply, when there was one.
    pub meta: Option<Meta>,
    /// Whether nobody is left to read about it: the reader of our output is gone.
    pub is_silent: bool,
}

impl Failure {
    /// Returns a failure with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Self::from_error(ErrorBody::new(code, message))
    }

    /// Returns the failure that a daemon reported.
    pub fn from_error(error: ErrorBody) -> Box<Self> {
        Box::new(Self { error, why: None, meta: None, is_silent: false })
    }

    /// Says why.
    #[must_use]
    pub fn why(mut self: Box<Self>, why: impl Into<String>) -> Box<Self> {
        self.why = Some(why.into());
        self
    }

    /// Says what helps, in words.
    #[must_use]
    pub fn suggest(mut self: Box<Self>, suggestion: impl Into<String>) -> Box<Self> {
        self.error.suggestion = Some(suggestion.into());
        self
    }

    /// Adds a command that helps.
    #[must_use]
    pub fn action(mut self: Box<Self>, command: impl Into<String>) -> Box<Self> {
        self.error.actions.push(command.into());
        self
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn detail(
        mut self: Box<Self>,
        name: &str,
        value: impl Into<serde_json::Value>,
    ) -> Box<Self> {
        self.error.details.insert(name.to_owned(), value.into());
        self
    }

    /// Returns what the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        self.error.code.exit_code()
    }

    /// Returns the error with everything JSON is to carry.
    pub fn to_error(&self) -> ErrorBody {
        let mut error = self.error.clone();
        if let Some(why) = &self.why {
            error.details.insert("why".to_owned(), why.as_str().into());
        }
        error
    }

    /// Returns the block for people: what, why, and what helps.
    pub fn lines(&self) -> Vec<String> {
        let error = &self.error;
        let exit = self.exit_code().number();
        let mut lines =
            vec![format!("error: {} [{}, exit {exit}]", harmless(&error.message), error.code)];
        lines.extend(self.why.iter().map(|why| format!("  why: {}", harmless(why))));
        lines.extend(error.suggestion.iter().map(|text| format!("  fix: {}", harmless(text))));
        lines.extend(error.actions.iter().map(|text| format!("  fix: {}", harmless(text))));
        lines
    }
}

impl From<io::Error> for Box<Failure> {
    /// Turns a failure to write our own output into one.
    fn from(source: io::Error) -> Self {
        let is_silent = source.kind() == io::ErrorKind::BrokenPipe;
        let failure =
            Failure::new(ErrorCode::Internal, "cannot write the output").why(source.to_string());
        Self::new(Failure { is_silent, ..*failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_why_and_fix() {
        let failure = Failure::new(ErrorCode::DaemonUnavailable, "ws\x1b[2J is not running")
            .why("no daemon listens")
            .action("mountd run --profile ws");
        assert_eq!(
            failure.lines(),
            [
                "error: ws\\u{1b}[2J is not running [DAEMON_UNAVAILABLE, exit 3]",
                "  why: no daemon listens",
                "  fix: mountd run --profile ws",
            ]
        );
        assert_eq!(failure.to_error().details["why"], "no daemon listens");
    }

    #[test]
    fn a_closed_pipe_is_not_worth_a_word() {
        let failure = Box::<Failure>::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_silent);
        let failure = Box::<Failure>::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!failure.is_silent);
    }
}
