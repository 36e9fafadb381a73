//! Requests and replies of the calls other than status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Reply of `GET /v1/hello`, which any client of any version may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The name of the mount.
    pub name: String,
    /// The folder, absolute.
    pub mountpoint: String,
    /// The process id of the daemon.
    pub pid: u32,
    /// The version of the daemon.
    pub daemon_version: String,
    /// The versions of the control API it speaks.
    pub api_versions: Vec<u32>,
}

/// Body of `POST /v1/pause`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseRequest {
    /// Ends the pause by itself after this many milliseconds; absent: until `resume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Why, for whoever reads the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Reply of `POST /v1/pause`. The pause is stored before it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseReply {
    /// The name of the mount.
    pub name: String,
    /// When the pause began.
    pub since: Option<Timestamp>,
    /// When it ends by itself; `null`: at `resume`.
    pub until: Option<Timestamp>,
    /// The reason that is now shown.
    pub reason: Option<String>,
    /// Whether uploads were paused before; the new end and reason replace the old ones.
    pub already_paused: bool,
    /// Records that stay in the outbox meanwhile.
    pub queued: u64,
}

/// Body of `POST /v1/resume`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResumeRequest {
    /// Goes on with another server than before: its identity as the status shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// Reply of `POST /v1/resume`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResumeReply {
    /// The name of the mount.
    pub name: String,
    /// Whether dispatch was held back: by a person, the circuit or a back-off.
    pub was_paused: bool,
    /// What held it back.
    pub previous_reason: Option<String>,
    /// Failures in a row that were forgotten.
    pub consecutive_failures_cleared: u32,
    /// Records now on their way.
    pub flushing: u64,
}

/// Body of `POST /v1/flush`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlushRequest {
    /// Only records at or below this workspace path, such as `/a/b`; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long to wait, in milliseconds; 0 answers at once with what is left.
    pub timeout_ms: u64,
}

/// Reply of `POST /v1/flush`; also when the time ran out, with `drained` false.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlushReply {
    /// Whether everything asked for was accepted by the server.
    pub drained: bool,
    /// Records accepted while waiting.
    pub uploaded: u64,
    /// Content bytes of those records.
    pub bytes: u64,
    /// Records still in the outbox, parked ones not included.
    pub remaining: u64,
    /// Conflicts that arose while waiting.
    pub conflicts: u64,
    /// Parked records in what was asked for.
    pub attention: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Reply of `GET /v1/outbox`, oldest record first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxList {
    /// The records; the daemon may send only the first of very many.
    pub records: Vec<OutboxRecord>,
    /// How many there are in all.
    pub total: u64,
}

/// One local change that the server has not accepted yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxRecord {
    /// The record's id, stable while it lives.
    pub id: String,
    /// What the change does.
    pub op: OutboxOp,
    /// The workspace path it changes.
    pub path: String,
    /// For a rename, the workspace path the content comes from.
    pub from: Option<String>,
    /// Content bytes; `null` where the change carries none.
    pub size: Option<u64>,
    /// Where it stands.
    pub state: RecordState,
    /// Why it stands there, in a few words.
    pub reason: Option<String>,
    /// Time since it was recorded, in milliseconds.
    pub age_ms: u64,
    /// Attempts made so far.
    pub attempts: u32,
    /// When the next attempt is due.
    pub next_at: Option<Timestamp>,
    /// What the last attempt ended with.
    pub last_error: Option<String>,
}

/// What a change does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxOp {
    /// Stores content under the path.
    #[default]
    Write,
    /// Removes a file.
    Delete,
    /// Moves a file or folder to the path.
    Rename,
    /// Makes a folder.
    Mkdir,
    /// Removes a folder.
    Rmdir,
    /// Makes a symbolic link.
    Symlink,
    /// Changes mode or times only.
    Meta,
    /// An operation this program does not know.
    #[serde(other)]
    Unknown,
}

impl OutboxOp {
    /// Returns the operation as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Mkdir => "mkdir",
            Self::Rmdir => "rmdir",
            Self::Symlink => "symlink",
            Self::Meta => "meta",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordState {
    /// Waits for its turn.
    #[default]
    Queued,
    /// Waits for a file to be closed, or for another record to go first.
    Held,
    /// Is in a request that has no answer yet.
    Inflight,
    /// Waits for the next attempt.
    Backoff,
    /// Was refused and is parked until a person decides.
    Attention,
    /// A state this program does not know.
    #[serde(other)]
    Unknown,
}

impl RecordState {
    /// Returns the state as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Inflight => "inflight",
            Self::Backoff => "backoff",
            Self::Attention => "attention",
            Self::Unknown => "unknown",
        }
    }
}

/// Query of `GET /v1/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Keeps the stream open for what comes; otherwise it ends after the recent events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// One event. Over HTTP a server-sent event: `event:` is the kind, `data:` this document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When it happened.
    pub at: Option<Timestamp>,
    /// Where it comes from.
    pub kind: EventKind,
    /// What happened, where the kind leaves that open.
    pub action: Option<EventAction>,
    /// The workspace path, where one is concerned.
    pub path: Option<String>,
    /// The server's revision, where one is known.
    pub revision: Option<String>,
    /// A few more words: the reason of a refusal, the new state of the link, the old name.
    pub detail: Option<String>,
}

/// Where an event comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A change made in the folder was recorded.
    Local,
    /// A change made elsewhere was applied.
    Remote,
    /// The server accepted a record.
    Ack,
    /// A conflict copy was made.
    Conflict,
    /// The server refused a record, which is now parked.
    Parked,
    /// The way to the server changed: online, offline, paused.
    Link,
    /// A person is asked for an approval, or has decided.
    Approval,
    /// Something on the local disk is not as it was written.
    Damage,
    /// The reader was too slow and events before this one were left out.
    Lost,
    /// A kind this program does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// Returns the kind as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Ack => "ack",
            Self::Conflict => "conflict",
            Self::Parked => "parked",
            Self::Link => "link",
            Self::Approval => "approval",
            Self::Damage => "damage",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventAction {
    /// It is new.
    Create,
    /// Its content changed.
    Modify,
    /// It is gone.
    Delete,
    /// It has another name; `detail` of the event is the old one.
    Rename,
    /// Its mode or times changed.
    Meta,
    /// An action this program does not know.
    #[serde(other)]
    Unknown,
}

impl EventAction {
    /// Returns the action as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Modify => "modify",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Meta => "meta",
            Self::Unknown => "unknown",
        }
    }
}

/// Body of `POST /v1/unmount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnmountRequest {
    /// How long to drain, in milliseconds; absent: the daemon's own bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// Does not drain at all.
    pub no_wait: bool,
}

/// Reply of `POST /v1/unmount`, sent when draining has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnmountReply {
    /// The name of the mount.
    pub name: String,
    /// Records that stay in the outbox for the next start.
    pub remaining: u64,
}
