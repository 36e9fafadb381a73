//! The state of one mount, as `GET /v1/status` tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Reply of `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReply {
    /// The one mount this daemon serves.
    pub mount: MountStatus,
}

/// Everything a person or a program may want to know about a mount at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountStatus {
    /// The name of the mount, unique for the user.
    pub name: String,
    /// The headline: the one word that matters most.
    pub state: MountState,
    /// The folder, absolute.
    pub mountpoint: String,
    /// The base URL of the workspace server, without credentials.
    pub server: String,
    /// The workspace on that server.
    pub workspace: String,
    /// The folder of the workspace that is mounted; `/` for all of it.
    pub remote_path: String,
    /// How the folder is provided.
    pub mode: MountMode,
    /// Whether writing into the folder is refused.
    pub read_only: bool,
    /// The process id of the daemon.
    pub pid: u32,
    /// When the daemon started.
    pub started_at: Option<Timestamp>,
    /// Local changes on their way to the server.
    pub uploads: UploadsStatus,
    /// Whether repeated failures have stopped dispatch.
    pub circuit: CircuitStatus,
    /// Another server than the one this mount belongs to answers; `null` otherwise.
    pub other_server: Option<OtherServer>,
    /// When and why the next attempt comes.
    pub retry: RetryStatus,
    /// What a person has paused.
    pub pause: PauseStatus,
    /// Remote changes on their way here.
    pub stream: StreamStatus,
    /// Conflicts waiting for a person.
    pub conflicts: ConflictsStatus,
    /// What is damaged on this machine, and what was set aside of it.
    pub damage: DamageStatus,
    /// The folder in which it keeps its state.
    pub state_dir: String,
    /// Why changes made here cannot be kept at present, such as a state folder that was removed;
    /// `null` when they can.
    pub state_folder: Option<String>,
    /// How many things wait for a person's approval.
    pub approvals: u64,
    /// Remote names that cannot exist in a folder here and are left out.
    pub skipped_names: u64,
    /// Paths that ignore rules keep on this machine.
    pub local_only: u64,
    /// The latest failure of any kind, even when it has been overcome.
    pub last_error: Option<LastError>,
    /// Content kept on this machine.
    pub cache: CacheStatus,
    /// What is known about the credential.
    pub auth: AuthStatus,
    /// Progress of reading the remote tree for the first time; `null` once that is done.
    pub bootstrap: Option<BootstrapStatus>,
}

/// The headline of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountState {
    /// The daemon is coming up; the folder may not be there yet.
    #[default]
    Starting,
    /// The remote tree is being read for the first time.
    Bootstrapping,
    /// Nothing waits in either direction.
    Synced,
    /// Changes are on their way.
    Syncing,
    /// A person holds back uploads.
    Paused,
    /// The server cannot be reached.
    Offline,
    /// The server fails or asked to wait; the next attempt has a time.
    Backoff,
    /// The circuit lets one probe through.
    HalfOpen,
    /// The credential was refused; waiting for a new one.
    Auth,
    /// Another server answers than the one the mount belongs to; nothing is sent to it.
    OtherServer,
    /// The remote looks reset or emptied; deletes are frozen until a person decides.
    ResetSuspected,
    /// Working, but something is not as it should be, such as a missing event stream.
    Degraded,
    /// Something needs a person: a parked record or a conflict.
    Attention,
    /// Sending what is left before stopping.
    Draining,
    /// Unmounting.
    Stopping,
    /// A state this program does not know.
    #[serde(other)]
    Unknown,
}

impl MountState {
    /// Returns the state as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Bootstrapping => "bootstrapping",
            Self::Synced => "synced",
            Self::Syncing => "syncing",
            Self::Paused => "paused",
            Self::Offline => "offline",
            Self::Backoff => "backoff",
            Self::HalfOpen => "half_open",
            Self::Auth => "auth",
            Self::OtherServer => "other_server",
            Self::ResetSuspected => "reset_suspected",
            Self::Degraded => "degraded",
            Self::Attention => "attention",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        }
    }
}

/// How the folder is provided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountMode {
    /// A FUSE file system.
    #[default]
    Fuse,
    /// An ordinary folder, watched and kept equal.
    Mirror,
    /// A mode this program does not know.
    #[serde(other)]
    Unknown,
}

impl MountMode {
    /// Returns the mode as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Mirror => "mirror",
            Self::Unknown => "unknown",
        }
    }
}

/// Local changes on their way to the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadsStatus {
    /// Records in the outbox that are not parked, those in flight included.
    pub queued: u64,
    /// Content bytes of those records.
    pub queued_bytes: u64,
    /// Records in a request that has no answer yet.
    pub in_flight: u64,
    /// Records waiting for a retry.
    pub backoff: u64,
    /// Records the server refused: parked with their bytes until a person decides.
    pub attention: u64,
    /// Records held back because their file is still open for writing.
    pub held_open: u64,
    /// Age of the oldest queued record, in milliseconds; `null` when none is queued.
    pub oldest_age_ms: Option<u64>,
    /// The largest file that the server may take, as far as known; bytes. Writing past it fails.
    pub file_bytes_max: Option<u64>,
    /// Records accepted by the server in the last minute.
    pub files_per_min: Option<u64>,
    /// Content bytes accepted by the server per second, over the last minute.
    pub bytes_per_s: Option<u64>,
    /// The latest request that carried records and was accepted.
    pub last_batch: Option<BatchStatus>,
    /// When the server last accepted a record.
    pub last_ack_at: Option<Timestamp>,
    /// Records accepted since the daemon started.
    pub uploaded_total: u64,
    /// Requests with records sent since the daemon started.
    pub requests_total: u64,
}

/// One request that carried records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchStatus {
    /// Records in it.
    pub files: u64,
    /// Content bytes in it.
    pub bytes: u64,
    /// From sending to the answer, in milliseconds.
    pub duration_ms: u64,
    /// When the answer came.
    pub at: Option<Timestamp>,
}

/// Whether repeated failures have stopped dispatch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CircuitStatus {
    /// Closed is the healthy state.
    pub state: CircuitState,
    /// Transient failures in a row.
    pub failures: u32,
    /// Failures in a row that open the circuit.
    pub threshold: u32,
    /// When it opened; `null` while closed.
    pub opened_at: Option<Timestamp>,
    /// When the next probe goes out; `null` while closed.
    pub next_probe_at: Option<Timestamp>,
}

/// The states of the circuit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Dispatch is allowed.
    #[default]
    Closed,
    /// Dispatch waits for the next probe.
    Open,
    /// One probe is under way.
    HalfOpen,
    /// A state this program does not know.
    #[serde(other)]
    Unknown,
}

impl CircuitState {
    /// Returns the state as people read it.
    pub fn as_words(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Unknown => "unknown",
        }
    }
}

/// Which server answers instead of which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherServer {
    /// The identity of the server the mount belongs to.
    pub expected: Option<String>,
    /// The identity of the one that answers, `none` when it has none; `null` before it was asked.
    pub found: Option<String>,
}

/// When and why the next attempt comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryStatus {
    /// When the next attempt is due; `null` when none is waiting.
    pub next_at: Option<Timestamp>,
    /// Why the last attempt failed, in a few words.
    pub reason: Option<String>,
    /// Whether the server named the time to wait.
    pub server_hinted: bool,
    /// Failures since the last success.
    pub consecutive_failures: u32,
}

/// What a person has paused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseStatus {
    /// The pause of uploads; `null` while they flow.
    pub uploads: Option<PauseInfo>,
}

/// One pause. The daemon keeps the same document in its state, so a pause outlives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseInfo {
    /// The words of whoever paused.
    pub reason: Option<String>,
    /// When it began.
    pub since: Option<Timestamp>,
    /// When it ends by itself; `null` for a pause that lasts until `resume`.
    pub until: Option<Timestamp>,
}

/// Remote changes on their way here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStatus {
    /// How remote changes are learned at present.
    pub mode: StreamMode,
    /// Whether that works.
    pub status: StreamHealth,
    /// The position in the server's events up to which everything has been applied.
    pub cursor: Option<String>,
    /// Age of the latest event when it was applied, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Time between two polls in milliseconds: the staleness bound while polling.
    pub poll_interval_ms: Option<u64>,
    /// When the latest event was applied.
    pub last_event_at: Option<Timestamp>,
}

/// How remote changes are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// The server pushes events.
    Websocket,
    /// The daemon asks at an interval.
    Polling,
    /// Not at all at the moment.
    #[default]
    None,
    /// A mode this program does not know.
    #[serde(other)]
    Unknown,
}

/// Whether remote changes arrive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamHealth {
    /// They do.
    Live,
    /// A connection is being made.
    Connecting,
    /// They do not; the daemon keeps trying.
    #[default]
    Down,
    /// A word this program does not know.
    #[serde(other)]
    Unknown,
}

/// Conflicts waiting for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictsStatus {
    /// Conflict copies not resolved yet.
    pub open: u64,
    /// When the newest of them was made.
    pub newest_at: Option<Timestamp>,
}

/// What is damaged on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamageStatus {
    /// Files whose bytes are damaged and are nowhere else: reading them fails until they are written
    /// anew.
    pub contents: u64,
    /// Things in the state folder that were set aside as `NAME.corrupt.<UTC time>`.
    pub set_aside: u64,
}

/// A failure that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastError {
    /// The kind, as a word or as the server's status, such as `502`.
    pub code: String,
    /// What failed.
    pub message: String,
    /// When.
    pub at: Option<Timestamp>,
}

/// Content kept on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    /// Bytes of cached content.
    pub bytes: u64,
    /// Entries of the tree known here, files and folders.
    pub entries: u64,
    /// Bytes free on the disk the cache lies on.
    pub disk_free_bytes: Option<u64>,
}

/// What is known about the credential; never the credential itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthStatus {
    /// When it expires; `null` when it does not say.
    pub expires_at: Option<Timestamp>,
    /// What it allows, as far as it says.
    pub scopes: Vec<String>,
}

/// Progress of reading the remote tree for the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootstrapStatus {
    /// Entries read so far.
    pub done: u64,
    /// Entries to read, when the server said how many.
    pub total: Option<u64>,
}
