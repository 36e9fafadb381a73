//! What waits for a person: `GET /v1/approvals` and `POST /v1/approvals/ID`.

use serde::{Deserialize, Serialize};

/// Reply of `GET /v1/approvals`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalList {
    /// What waits; at most one of each kind.
    pub approvals: Vec<ApprovalRecord>,
}

/// One thing that waits for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalRecord {
    /// The kind and the beginning of the digest: a set that changes has another id.
    pub id: String,
    /// What it is: `removals`, `remote-removals`, `reset`.
    pub kind: String,
    /// Why it waits.
    pub why: String,
    /// How many paths it is about.
    pub count: u64,
    /// The first of them; `GET /v1/approvals/ID` has all that are known.
    pub paths: Vec<String>,
    /// SHA-256 over all paths in order, each followed by a zero byte; of a reset also its reason.
    pub digest: String,
}

/// Body of `POST /v1/approvals/ID`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalRequest {
    /// Refuses instead.
    pub reject: bool,
}

/// Reply of `POST /v1/approvals/ID`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalReply {
    /// What was decided over.
    pub id: String,
    /// What it is, as in the list.
    pub kind: String,
    /// Whether it was approved.
    pub approved: bool,
    /// How many paths it was about.
    pub count: u64,
}
