//! Why the program ends, said once: what happened, why, and what to do next.

use std::fmt;

use mountctl::api::{ErrorBody, ErrorCode, ExitCode};

/// A failure as the user sees it.
#[derive(Debug)]
pub struct Report {
    /// What happened, one sentence without a full stop.
    pub what: String,
    /// Short code for programs.
    pub code: &'static str,
    /// What the process ends with.
    pub exit: ExitCode,
    /// Why, where that is not said yet.
    pub why: Option<String>,
    /// What to do next.
    pub fix: Option<String>,
}

impl Report {
    /// A report with a code and nothing more to say.
    pub fn new(exit: ExitCode, code: &'static str, what: impl Into<String>) -> Self {
        Self { what: what.into(), code, exit, why: None, fix: None }
    }

    /// Says why.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The report as the documents of the API carry it.
    #[must_use]
    pub fn to_error(&self) -> ErrorBody {
        let code = match self.exit {
            ExitCode::NotFound => ErrorCode::NotFound,
            ExitCode::Usage => ErrorCode::InvalidArgument,
            ExitCode::AlreadyRunning => ErrorCode::IllegalTransition,
            _ => ErrorCode::Internal,
        };
        let mut error = ErrorBody::new(code, self.what.clone());
        error.suggestion.clone_from(&self.fix);
        let details = [("report", Some(self.code)), ("why", self.why.as_deref())];
        for (name, text) in details {
            error.details.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        error
    }

    /// Says what to do next.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}  [{}, exit {}]", self.what, self.code, self.exit.number())?;
        if let Some(why) = &self.why {
            write!(f, "\n  why: {why}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "\n  fix: {fix}")?;
        }
        Ok(())
    }
}
