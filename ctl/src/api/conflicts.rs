//! Conflicts: the lists, one in full, the differences, and how they are resolved.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ErrorBody;

/// Query of `GET /v1/conflicts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictsQuery {
    /// Lists resolved ones as well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
}

/// Reply of `GET /v1/conflicts`, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictList {
    /// The conflicts.
    pub conflicts: Vec<ConflictRecord>,
}

/// One conflict: the server's version has the name, ours lies in `dir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictRecord {
    /// The id of the conflict.
    pub id: String,
    /// The workspace path.
    pub path: String,
    /// When it was found.
    pub at: Option<Timestamp>,
    /// What met what: `edit`, or `delete` when ours was a removal, of which there is no copy.
    pub kind: String,
    /// The revision our change was made against; `null`: the file did not exist.
    pub base_revision: Option<String>,
    /// The revision the server has.
    pub theirs_revision: Option<String>,
    /// Our side.
    pub ours: Ours,
    /// The server's side.
    pub theirs: Theirs,
    /// The folder of the conflict copy: `meta.json`, `local`, `base` if known, `remote`.
    pub dir: String,
    /// The path under which ours is shown beside the file, where it is.
    pub sibling: Option<String>,
    /// How it was resolved; `null` while it waits for a person.
    pub resolution: Option<ConflictResolution>,
}

/// How a conflict was resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictResolution {
    /// What took the name: `ours`, `theirs`, `both`, `merged`; `anew` where the attempt that made the
    /// copy was cut off and the next one decided.
    pub how: String,
    /// By a rule, not by a person.
    pub automatic: bool,
    /// When.
    pub at: Option<Timestamp>,
}

/// Our side of a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ours {
    /// Who wrote it, `USER@HOST`.
    pub by: Option<String>,
    /// Content bytes; `null` when our change was a delete.
    pub size: Option<u64>,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: Option<String>,
    /// When the file was last changed here.
    pub modified_at: Option<Timestamp>,
}

/// The server's side of a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Theirs {
    /// Who wrote it, where the server says so.
    pub by: Option<String>,
    /// Content bytes.
    pub size: Option<u64>,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: Option<String>,
    /// When the server stored it.
    pub modified_at: Option<Timestamp>,
    /// Whether the file is gone on the server.
    pub deleted: bool,
}

/// Reply of `GET /v1/conflicts/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictDetail {
    /// The conflict.
    pub conflict: ConflictRecord,
    /// Bytes of the base, when it is kept.
    pub base_size: Option<u64>,
    /// What a merge of the two sides would give: `clean`, `overlap`, or why there is none, such as
    /// `binary`, `too large`, `base unknown`.
    pub merge: String,
    /// What has the name now.
    pub now: ConflictNow,
    /// When the copy of a resolved conflict is removed.
    pub kept_until: Option<Timestamp>,
    /// What of the copy is not as it was written.
    pub damaged: Vec<CopyFlaw>,
}

/// A file of a conflict copy that is not as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyFlaw {
    /// `local`, `remote` or `base`.
    pub file: String,
    /// `missing`, `mismatched` or `unreadable`.
    pub kind: String,
    /// Why it is not believed.
    pub why: String,
}

/// What has the name of a conflict now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictNow {
    /// `theirs` (unchanged since), `changed`, `gone`, or `other` (a folder or a symbolic link).
    pub state: String,
    /// Content bytes.
    pub size: Option<u64>,
    /// The revision it derives from.
    pub revision: Option<String>,
    /// When it was last changed.
    pub modified_at: Option<Timestamp>,
}

/// Reply of `GET /v1/conflicts/{id}/diff`: unified differences, empty where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictDiff {
    /// The id of the conflict.
    pub id: String,
    /// The workspace path.
    pub path: String,
    /// From the base to ours; `null` without a base.
    pub ours: Option<String>,
    /// From the base to theirs; `null` without a base.
    pub theirs: Option<String>,
    /// From theirs to ours.
    pub between: Option<String>,
    /// The merge with the lines that both changed between markers; `null` where there is none.
    pub merge: Option<String>,
    /// Why something is missing.
    pub reason: Option<String>,
}

/// Body of `POST /v1/conflicts/resolve`, and without the choice of conflicts of
/// `POST /v1/conflicts/{id}/resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolveRequest {
    /// These conflicts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// The open ones whose path fits: `*` and `?` within a name, `**` across folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// All open ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// What takes the name.
    pub with: ResolveWith,
    /// The bytes for `merged`, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    /// Also where the file was changed since; what it holds is kept in the copy as `replaced`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Changes nothing and says what would be done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What takes the name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolveWith {
    /// Ours; where ours was a removal, the file is removed.
    Ours,
    /// What has the name keeps it.
    Theirs,
    /// What has the name keeps it; ours gets one beside it.
    Both,
    /// The bytes that come with the request.
    Merged,
    /// A merge of ours into what has the name, where it is clean.
    Merge,
    /// None of these.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Reply of `POST /v1/conflicts/resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolveReply {
    /// Nothing was changed.
    pub dry_run: bool,
    /// How many were resolved, or would be.
    pub resolved: u64,
    /// How many could not be.
    pub failed: u64,
    /// One for each conflict, oldest first.
    pub results: Vec<ResolveResult>,
}

/// What became of one conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolveResult {
    /// The id of the conflict.
    pub id: String,
    /// The workspace path; `null` when there is no such conflict.
    pub path: Option<String>,
    /// What took the name; `null` when it was not resolved.
    pub how: Option<String>,
    /// The path that was written or removed; `null` when nothing was.
    pub changed: Option<String>,
    /// Why it was not resolved.
    pub error: Option<ErrorBody>,
}
