//! The check of a state folder: what was looked at, what was wrong, what became of it.

use serde::{Deserialize, Serialize};

use super::ExitCode;

/// Body of `POST /v1/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckRequest {
    /// Sets aside what is damaged and has it fetched again; without it nothing is changed.
    pub repair: bool,
}

/// Reply of `POST /v1/check`, and what `mountd repair` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckReply {
    /// The name of the mount.
    pub name: String,
    /// Whether the mount ran while it was checked: what only a start can mend is left then.
    pub running: bool,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Contents whose bytes were read and compared.
    pub contents: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Contents that were being written and were left alone.
    pub busy: u64,
    /// Conflict copies that were read and compared.
    pub copies: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl CheckReply {
    /// Returns what a program that made the check ends with.
    pub fn exit_code(&self) -> ExitCode {
        let left = |finding: &Finding| {
            matches!(finding.outcome, FindingOutcome::NeedsPerson | FindingOutcome::Left)
        };
        if self.findings.iter().any(left) { ExitCode::Attention } else { ExitCode::Ok }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// `content` (of up to 64 KiB), `base`, `working_file`, `conflict_copy`, `row`, `database`, `log`.
    pub object: String,
    /// `missing`, `mismatched`, `unreadable`, `unnamed` (nothing names it), or `lost` (what would have
    /// named it was lost).
    pub wrong: String,
    /// The path in the workspace, where there is one.
    pub path: Option<String>,
    /// What it is called in the state folder.
    pub name: String,
    /// Why it is not believed.
    pub why: String,
    /// What was done about it, or would be.
    pub outcome: FindingOutcome,
    /// Where what there was of it is kept.
    pub kept: Option<String>,
}

/// What was done about a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingOutcome {
    /// The server has it; it is fetched when it is read.
    FetchedAgain,
    /// Only this machine had it: what is left is kept, and a person has to decide.
    NeedsPerson,
    /// It is kept under another name.
    SetAside,
    /// It has a place again.
    TakenUp,
    /// It is as it was.
    Mended,
    /// A leftover that held nothing of its own.
    Removed,
    /// Nothing yet.
    #[default]
    Left,
    /// A word this program does not know.
    #[serde(other)]
    Unknown,
}

impl FindingOutcome {
    /// Returns it in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::FetchedAgain => "fetched again from the server",
            Self::NeedsPerson => "kept, needs a person",
            Self::SetAside => "set aside",
            Self::TakenUp => "has a place again",
            Self::Mended => "mended",
            Self::Removed => "removed, it held nothing of its own",
            Self::Left => "left for the next start",
            Self::Unknown => "?",
        }
    }
}
