//! The remote seam: what mountd asks of a workspace server, in its own words.
//!
//! Owns the [`Remote`] trait, its plain data types and the one error type whose variants say what
//! the caller must do. Invariants: every change carries a precondition; nothing that comes back is
//! trusted before it was checked (names, sizes, digests); every call is bounded in time and bytes.
//! The implementation over HTTP is in [`http`] and [`feed`]. All calls run on the tokio runtime.

mod bulk;
mod check;
mod classify;
mod continuity;
pub mod credential;
mod encode;
mod events;
pub mod feed;
mod fetch;
pub mod http;
mod identity;
mod listing;
pub mod probe;
mod scope;
mod send;
mod socket;
#[cfg(test)]
mod tests;
mod transport;
#[cfg(any(test, feature = "fuzzing"))]
pub mod untrusted;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};

use crate::digest::Digest;
use crate::path::WsPath;
use crate::revision::{Precondition, Revision};

pub use check::settle_names;
pub use encode::trimmed_by_bulk;
pub use identity::ServerId;

/// What a call to the remote gives, some time later.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;

/// What a server offers beyond the original protocol (`GET /v1/capabilities`); data, not code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "a set of independent facts about the server")]
pub struct Capabilities {
    /// `If-Unmodified-Since` is honoured.
    pub unmodified_since: bool,
    /// Deletes may travel inside a bulk request.
    pub bulk_delete: bool,
    /// Moves may travel inside a bulk request.
    pub bulk_move: bool,
    /// Mode bits and mtimes are stored.
    pub metadata: bool,
    /// Symbolic links are stored.
    pub symlink: bool,
    /// Empty folders are stored.
    pub directories: bool,
    /// Bytes may travel without JSON around them, streamed and ranged.
    pub raw: bool,
    /// Listings carry the exact size.
    pub exact_size: bool,
    /// The largest JSON body the server takes, when it says so; bytes.
    pub body_bytes_max: Option<u64>,
    /// The largest raw body the server takes, when it says so; bytes.
    pub file_bytes_max: Option<u64>,
    /// Which server it is, when it says so.
    pub server: Option<ServerId>,
}

/// Metadata of a file that only some servers store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// Modification time as its writer set it.
    pub mtime: Option<Timestamp>,
    /// Target text, when the file is a symbolic link.
    pub symlink: Option<String>,
}

/// How large a file is, as far as a listing can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The number of bytes.
    Exact(u64),
    /// The original protocol lists the length of the stored text, which for binary files is that
    /// of their base64; the bytes are at most this many.
    AtMost(u64),
}

impl Size {
    /// The most bytes it can be.
    #[must_use]
    pub fn most(self) -> u64 {
        match self {
            Self::Exact(bytes) | Self::AtMost(bytes) => bytes,
        }
    }
}

/// One file as the remote has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it is, relative to the mounted root.
    pub path: WsPath,
    /// Its version; a server may leave it out.
    pub revision: Option<Revision>,
    /// The digest of its bytes; `query` and some servers leave it out.
    pub digest: Option<Digest>,
    /// Its size.
    pub size: Size,
    /// When the server stored it.
    pub edited_at: Option<Timestamp>,
    /// What only some servers know.
    pub metadata: Metadata,
    /// Its bytes, where the call brought them; they match `digest`.
    pub body: Option<Bytes>,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteEntry {
    /// A file or symbolic link.
    File(RemoteFile),
    /// A folder; `explicit` ones exist even when empty.
    Dir {
        /// Where it is.
        path: WsPath,
        /// Whether it exists of its own, not only through what it holds.
        explicit: bool,
        /// Permission bits, where stored.
        mode: Option<u32>,
    },
}

/// A remote name that cannot be mounted and was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The name as the remote wrote it.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// The entries, sorted by path bytes.
    pub entries: Vec<RemoteEntry>,
    /// Names that were left out.
    pub skipped: Vec<Skipped>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<String>,
    /// How many files the whole listing has, where the server says.
    pub total_files: Option<u64>,
}

/// One change of a bulk request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkEntry {
    /// The path it changes; no two entries of a request share one.
    pub path: WsPath,
    /// A unique key of this attempt's record and content (`contentIdentity`), so that a repeated
    /// request is answered, not applied again. Only puts carry it on the wire.
    pub identity: String,
    /// What to do.
    pub change: BulkChange,
}

/// What a bulk entry does. All but [`BulkChange::Put`] need the matching capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BulkChange {
    /// Stores bytes.
    Put {
        /// The whole content.
        body: Bytes,
        /// The condition.
        precondition: Precondition,
        /// What goes with it, sent only to servers that store it.
        metadata: Metadata,
    },
    /// Changes mode or mtime only.
    Meta {
        /// The condition.
        precondition: Precondition,
        /// The new values.
        metadata: Metadata,
    },
    /// Removes a file.
    Delete {
        /// The condition.
        precondition: Precondition,
    },
    /// Moves `from` to the entry's path in one step.
    Move {
        /// The old path.
        from: WsPath,
        /// The condition on the old path.
        from_precondition: Precondition,
        /// The condition on the new path.
        precondition: Precondition,
    },
    /// Creates an explicit folder; one that is there already is fine.
    MakeDir {
        /// Permission bits.
        mode: Option<u32>,
    },
    /// Removes an empty explicit folder.
    RemoveDir,
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, durable at the remote; its revision, where the reply names it.
    Accepted {
        /// The new revision.
        revision: Option<Revision>,
    },
    /// The precondition did not hold. `current` is the revision there now; `None` when the file is
    /// gone or the reply does not say.
    Conflict {
        /// The revision there now.
        current: Option<Revision>,
    },
    /// There was nothing to delete or move (404).
    Absent,
    /// A folder to be removed holds entries.
    NotEmpty,
    /// This one change is refused for good: forbidden, invalid, too large alone.
    Refused {
        /// A short code, e.g. `forbidden`, `invalid_path`, `too_large`.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The reply does not name this change: read back before anything else.
    Unknown,
}

/// A file event of the change stream. Events of other kinds only move the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEvent {
    /// Its id, the cursor after it.
    pub id: EventId,
    /// What happened; `None` for kinds that a mount does not care about and for paths outside the
    /// mounted root or with names that cannot be mounted.
    pub change: Option<EventChange>,
    /// What the event was about, `PATH@REVISION` as the server wrote it: kept with the cursor, it
    /// shows later whether the event of that id is still the same one.
    pub fingerprint: String,
    /// When the server says it happened.
    pub at: Option<Timestamp>,
}

/// Where a feed goes on: the last event that was applied, and what it was about.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// Its id.
    pub id: EventId,
    /// Its [`RemoteEvent::fingerprint`]; `None` when only the id was ever seen.
    pub fingerprint: Option<String>,
}

/// What an event says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventChange {
    /// The file is there with this version; `body` set when the frame carried the bytes and they
    /// match the digest. Size is exact when `body` is set or the server says `byteSize`, else
    /// [`Size::AtMost`] of `u64::MAX`.
    Stored(RemoteFile),
    /// The file is gone.
    Deleted {
        /// Which.
        path: WsPath,
        /// The tombstone's revision.
        revision: Option<Revision>,
    },
    /// An explicit folder appeared.
    DirCreated {
        /// Which.
        path: WsPath,
    },
    /// An explicit folder is gone.
    DirDeleted {
        /// Which.
        path: WsPath,
    },
}

/// Position in the change stream (`evt_N`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct EventId(pub String);

impl EventId {
    /// The counter inside ids of the form `evt_N`.
    #[must_use]
    pub fn ordinal(&self) -> Option<u64> {
        self.0.strip_prefix("evt_")?.parse().ok()
    }
}

/// What the feed reports, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all items are events")]
pub enum FeedItem {
    /// The stream is up and continues at the cursor with nothing left out.
    Live(FeedMode),
    /// The stream is down; it is retried after this delay for ever, polling meanwhile.
    Down {
        /// Why, for people.
        reason: String,
    },
    /// The next event.
    Event(RemoteEvent),
    /// Events after the cursor cannot be had (expired, unknown, a hole): list everything again.
    /// `tail` is the newest id; the feed goes on after it.
    Gap {
        /// The newest event id, noted before the listing is to be made.
        tail: Option<EventId>,
    },
    /// The server's history went back: its newest id is lower than our cursor, or the event at our
    /// cursor is another one. The feed goes on after `tail`.
    Reset {
        /// The newest event id now.
        tail: Option<EventId>,
    },
}

/// How events arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedMode {
    /// Pushed over a WebSocket.
    WebSocket,
    /// Asked for at an interval.
    Polling,
}

/// Why a call to the remote failed. Each variant says what the caller must do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// No connection, timeout or cut: go offline and retry. When `maybe_applied`, a change may
    /// have been stored: settle by reading back.
    #[error("server not reachable: {message}")]
    Unreachable {
        /// For people.
        message: String,
        /// Whether the request may have reached the server.
        maybe_applied: bool,
    },
    /// 5xx, 408, 425, 429: wait (at least `retry_after`) and retry; outcome unknown on 5xx/408.
    #[error("server answered {status}: {message}")]
    Busy {
        /// HTTP status.
        status: u16,
        /// For people.
        message: String,
        /// The floor for the next attempt.
        retry_after: Option<Duration>,
    },
    /// 401: reload the credential, pause until it works.
    #[error("credential refused: {message}")]
    Auth {
        /// For people.
        message: String,
    },
    /// 403 for the whole request.
    #[error("forbidden: {message}")]
    Forbidden {
        /// For people.
        message: String,
    },
    /// 404 for the workspace or route: pause with the reason.
    #[error("no such workspace: {message}")]
    Gone {
        /// For people.
        message: String,
    },
    /// 413: split and learn.
    #[error("request too large for the server")]
    TooLarge,
    /// 400 for the whole request: bisect.
    #[error("request refused: {message}")]
    Invalid {
        /// For people.
        message: String,
    },
    /// 421: another server than the one that was meant: pause until a person looked.
    #[error("another server answers: {message}")]
    OtherServer {
        /// For people.
        message: String,
    },
    /// A redirect or a TLS failure: pause with the reason; the token stays home.
    #[error("{message}")]
    Untrusted {
        /// For people.
        message: String,
    },
    /// The reply is cut, not JSON, over its bound or fails its digest: outcome unknown, retry.
    #[error("reply not understood: {message}")]
    Garbled {
        /// For people.
        message: String,
    },
    /// The local file changed while it was sent: nothing was stored, take a new snapshot.
    #[error("the local file changed while it was sent")]
    Changed,
    /// The local disk failed while bytes were moved.
    #[error("local file: {message}")]
    Local {
        /// For people.
        message: String,
    },
}

/// One upload that streams from a local file.
#[derive(Debug, Clone)]
pub struct FilePut<'a> {
    /// Where to.
    pub path: &'a WsPath,
    /// The local file.
    pub source: &'a Path,
    /// How many of its bytes.
    pub size: u64,
    /// Their digest, computed when the snapshot was taken.
    pub digest: Digest,
    /// The condition.
    pub precondition: Precondition,
    /// What goes with it.
    pub metadata: Metadata,
    /// As in [`BulkEntry`].
    pub identity: &'a str,
}

/// A workspace server.
pub trait Remote: Send + Sync + 'static {
    /// Asks what the server offers; a 404 is the empty set.
    fn capabilities(&self) -> Reply<'_, Capabilities>;

    /// Tells the client what [`Remote::capabilities`] (or the persisted answer) said.
    fn set_capabilities(&self, capabilities: Capabilities);

    /// One page of the whole tree, files and folders, from `cursor` on.
    fn list(&self, cursor: Option<&str>) -> Reply<'_, ListPage>;

    /// The whole tree with all content, or `None` when it is over `bytes_max`, cut, refused or not
    /// offered: list instead.
    fn export(&self, bytes_max: u64) -> Reply<'_, Option<ListPage>>;

    /// One file with its bytes in memory; `None` when absent. A file larger than `bytes_max` comes
    /// without its bytes where the server can say so, else it is an error.
    fn fetch<'a>(&'a self, path: &'a WsPath, bytes_max: u64) -> Reply<'a, Option<RemoteFile>>;

    /// One file streamed into `target` (made anew, mode 0600); `None` when absent. The bytes match
    /// the digest when this returns. More than `bytes_max` is [`RemoteError::TooLarge`].
    fn fetch_to<'a>(
        &'a self,
        path: &'a WsPath,
        target: &'a Path,
        bytes_max: u64,
    ) -> Reply<'a, Option<RemoteFile>>;

    /// One bulk request. The outcomes are in the order of the entries.
    fn bulk<'a>(&'a self, entries: &'a [BulkEntry]) -> Reply<'a, Vec<Outcome>>;

    /// How many bytes `entry` takes inside a bulk body, JSON escapes and base64 included.
    fn encoded_len(&self, entry: &BulkEntry) -> u64;

    /// One file by itself: streamed where the server takes raw bodies, else as JSON.
    fn put<'a>(&'a self, put: FilePut<'a>) -> Reply<'a, Outcome>;

    /// One delete by itself.
    fn delete<'a>(&'a self, path: &'a WsPath, precondition: Precondition) -> Reply<'a, Outcome>;

    /// The newest event id, `None` when there is none yet.
    fn newest_event(&self) -> Reply<'_, Option<EventId>>;

    /// Whether a connection to the server can be made right now; no request is sent.
    fn reachable(&self) -> BoxFuture<'_, bool>;

    /// Follows the change stream from `start` on and reports into `out`; ends only when the other
    /// side of `out` is gone. Without a `start`, the first item is a [`FeedItem::Gap`]. `wake` cuts
    /// short the wait before the next attempt.
    fn feed(
        self: Arc<Self>,
        start: Option<Cursor>,
        wake: Arc<Notify>,
        out: mpsc::Sender<FeedItem>,
    ) -> BoxFuture<'static, ()>;
}
