//! What `mountctl doctor` found.

use serde::{Deserialize, Serialize};

use super::ExitCode;

/// What `mountctl doctor --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DoctorReply {
    /// Everything that was looked at, in the order in which a mount depends on it.
    pub checks: Vec<Check>,
    /// The worst of them.
    pub overall: Level,
    /// How many keep something from working.
    pub fails: u64,
    /// How many may lead to that.
    pub warns: u64,
}

impl DoctorReply {
    /// Sums up.
    pub fn of(checks: Vec<Check>) -> Self {
        let count = |level| checks.iter().filter(|check| check.level == level).count() as u64;
        let (fails, warns) = (count(Level::Fail), count(Level::Warn));
        let overall = match (fails, warns) {
            (0, 0) => Level::Ok,
            (0, _) => Level::Warn,
            _ => Level::Fail,
        };
        Self { overall, fails, warns, checks }
    }

    /// Returns what the program ends with.
    pub fn exit_code(&self) -> ExitCode {
        if self.fails > 0 { ExitCode::Failure } else { ExitCode::Ok }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What, in a word or two: `fuse`, `state folder`, `token`, …
    pub name: String,
    /// The mount it is about; `null` for the machine.
    pub mount: Option<String>,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// Why that matters, where it is not well.
    pub why: Option<String>,
    /// Commands that help, or what to do in words.
    pub fix: Vec<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    #[default]
    Ok,
    /// It works, and may stop to.
    Warn,
    /// It does not work.
    Fail,
    /// It was not looked at.
    Skip,
    /// A word this program does not know.
    #[serde(other)]
    Unknown,
}

impl Check {
    /// Returns one that is as it should be.
    pub fn ok(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), text: text.into(), ..Self::default() }
    }

    /// Returns one that works, and may stop to.
    pub fn warn(name: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Warn, ..Self::ok(name, text) }
    }

    /// Returns one that does not work.
    pub fn fail(name: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::ok(name, text) }
    }

    /// Returns one that was not looked at.
    pub fn skip(name: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Skip, ..Self::ok(name, text) }
    }

    /// Says why that matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what helps.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }
}
