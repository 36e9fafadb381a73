//! One look at the server of a mount.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Reply of `GET /v1/probe`, and what `mountd probe --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReply {
    /// The server's address.
    pub server: String,
    /// The workspace.
    pub workspace: String,
    /// Whether an answer came.
    pub reached: bool,
    /// How long the first one took, in milliseconds.
    pub took_ms: u64,
    /// By how much the server's clock is ahead of this machine's, in milliseconds, to a second;
    /// `null` when it does not say.
    pub clock_ahead_ms: Option<i64>,
    /// Who the server says it is; `null` when it does not.
    pub identity: Option<String>,
    /// Who it should be; `null` when that is not known.
    pub expected: Option<String>,
    /// Whether the workspace may be read with the token.
    pub accepted: bool,
    /// Why not: `auth`, `forbidden`, `gone`, `untrusted`, `other_server`, `unreachable`, `busy`, `other`.
    pub refusal: Option<String>,
    /// The same in words.
    pub why: Option<String>,
    /// When the token expires, as far as it says.
    pub expires_at: Option<Timestamp>,
    /// What the token allows, as far as it says.
    pub scopes: Vec<String>,
    /// Whether the server is one of this machine, started with the mount.
    pub embedded: bool,
}
