//! Records of the outbox: which ones are meant, what would become of them, and what was done.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{OutboxOp, OutboxRecord};

/// Which records are meant: query of `GET /v1/outbox` and `/v1/outbox/plan`, and part of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxSelection {
    /// Ids, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// Only in this state, as `OutboxRecord::state` is spelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only paths that fit: `*` and `?` within a name, `**` across folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// All of them: a request that selects nothing must say so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Reply of `GET /v1/outbox/ID`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxDetails {
    /// The record, as in the list.
    pub record: OutboxRecord,
    /// What it was made against: `absent`, `follows`, a revision, or a date.
    pub base: String,
    /// Digests of contents that may be at the server already.
    pub sent: Vec<String>,
    /// Of the old name of a renamed file: the new one, which is stored first.
    pub moved_to: Option<String>,
    /// When the path first changed.
    pub recorded_at: Option<Timestamp>,
    /// What would become of it now.
    pub plan: OutboxPlanned,
}

/// Reply of `GET /v1/outbox/plan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxPlan {
    /// Every record that was asked for, oldest first.
    pub records: Vec<OutboxPlanned>,
    /// How many there are.
    pub total: u64,
}

/// What would become of one record now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxPlanned {
    /// Its id.
    pub id: String,
    /// What it does.
    pub op: OutboxOp,
    /// Its path.
    pub path: String,
    /// `send`, `settle`, `inflight`, `held`, or `blocked`.
    pub verdict: String,
    /// Why, as one word: `debounce`, `open`, `paused`, `conflict`, `approval`, `after` and the like.
    pub reason: Option<String>,
    /// Until when, where that is known.
    pub until: Option<Timestamp>,
}

/// Body of `POST /v1/outbox/retry`, `discard`, `export` and `import`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxRequest {
    /// Which records; not for `import`.
    pub selection: OutboxSelection,
    /// The folder, absolute, of `export` and `import`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// Reply to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxDone {
    /// What was done, or would be.
    pub done: Vec<OutboxOne>,
    /// What was not, and why.
    pub refused: Vec<OutboxOne>,
    /// The folder with the bytes; of a discard, where `import` takes them back from.
    pub dir: Option<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// One record of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxOne {
    /// Its id.
    pub id: String,
    /// Its path.
    pub path: String,
    /// Why it was not done.
    pub why: Option<String>,
}
