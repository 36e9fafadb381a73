//! The settings of a server, as plain data.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::intercept::Interceptor;

/// Contents up to this size live in the database, larger ones in files of their own.
///
/// Below it a file costs more to create and fsync than the copy through the database does.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Events one WebSocket connection may lag behind before it is closed.
pub(crate) const FEED_BUFFER_EVENTS: usize = 4096;
/// Stored text up to this size travels inside a WebSocket frame.
pub(crate) const FEED_INLINE_BYTES_MAX: i64 = 1024 * 1024;

/// Everything a server needs to know before it starts.
pub struct Config {
    /// Folder that holds the database, the body files and the lock.
    pub storage: PathBuf,
    /// Who may do what.
    pub auth: Auth,
    /// Largest body of a JSON request, in bytes; more is a 413.
    pub max_body_bytes: usize,
    /// Largest body of `PUT /fs/raw`, in bytes; more is a 413.
    pub max_raw_bytes: u64,
    /// Most entries in one bulk request; more is a 400.
    pub max_bulk_files: usize,
    /// Requests allowed per workspace and subject; `None` sets no limit.
    pub rate_limit: Option<RateLimit>,
    /// Which additions to the protocol are served.
    pub extensions: Extensions,
    /// Events kept per workspace; older ones are removed.
    pub events_max: u64,
    /// Hook that sees each request before and after it is served.
    pub interceptor: Option<Arc<dyn Interceptor>>,
    /// Where the server reads the time.
    pub clock: Clock,
}

impl Config {
    /// Returns the default settings for a storage folder.
    #[must_use]
    pub fn new(storage: impl Into<PathBuf>, auth: Auth) -> Self {
        Self {
            storage: storage.into(),
            auth,
            max_body_bytes: 1_048_576,
            max_raw_bytes: 1 << 40,
            max_bulk_files: 4096,
            rate_limit: None,
            extensions: Extensions::all(),
            events_max: 1_000_000,
            interceptor: None,
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("storage", &self.storage)
            .field("auth", &self.auth)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_raw_bytes", &self.max_raw_bytes)
            .field("max_bulk_files", &self.max_bulk_files)
            .field("rate_limit", &self.rate_limit)
            .field("extensions", &self.extensions)
            .field("events_max", &self.events_max)
            .finish_non_exhaustive()
    }
}

/// How requests prove who they come from.
#[derive(Clone)]
pub enum Auth {
    /// Everybody may do everything; refused on addresses other than loopback.
    Open,
    /// One token with full access, held in memory.
    Token(String),
    /// Tokens listed in a file, which is read again whenever it changes.
    TokenFile(PathBuf),
    /// RS256 JSON Web Tokens whose keys are published at a URL.
    Jwks {
        /// Where the key set is.
        url: String,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Jwks { url } => f.debug_struct("Jwks").field("url", url).finish(),
        }
    }
}

/// Requests allowed per workspace and subject in a fixed window.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Requests in one window.
    pub max: u32,
    /// Length of the window.
    pub window: Duration,
}

/// The additions to the protocol, one switch each.
///
/// An addition that is off is not merely hidden: its fields are ignored and its routes are
/// absent, as on a server that never had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is an independent switch of the protocol")]
pub struct Extensions {
    /// `If-Unmodified-Since` and `ifUnmodifiedSince`.
    pub if_unmodified_since: bool,
    /// Bulk entries with `"op":"delete"`.
    pub bulk_delete: bool,
    /// Bulk entries with `"op":"move"`.
    pub bulk_move: bool,
    /// `mode` and `mtime`, and bulk entries with `"op":"meta"`.
    pub metadata: bool,
    /// `symlinkTarget`.
    pub symlink: bool,
    /// Explicit folders: bulk entries with `"op":"mkdir"` and `"op":"rmdir"`.
    pub directories: bool,
    /// `/fs/raw`.
    pub raw: bool,
    /// `byteSize`.
    pub exact_size: bool,
    /// `serverId`, and requests that name the server they are meant for.
    pub server_id: bool,
}

impl Extensions {
    /// Serves every addition.
    #[must_use]
    pub const fn all() -> Self {
        Self::every(true)
    }

    /// Serves none, and answers `/v1/capabilities` with 404.
    #[must_use]
    pub const fn none() -> Self {
        Self::every(false)
    }

    const fn every(on: bool) -> Self {
        Self {
            if_unmodified_since: on,
            bulk_delete: on,
            bulk_move: on,
            metadata: on,
            symlink: on,
            directories: on,
            raw: on,
            exact_size: on,
            server_id: on,
        }
    }

    /// Returns the names under which the additions that are on are advertised.
    pub(crate) fn names(self) -> Vec<&'static str> {
        [
            (self.if_unmodified_since, "if-unmodified-since"),
            (self.bulk_delete, "bulk-delete"),
            (self.bulk_move, "bulk-move"),
            (self.metadata, "metadata"),
            (self.symlink, "symlink"),
            (self.directories, "directories"),
            (self.raw, "raw"),
            (self.exact_size, "exact-size"),
            (self.server_id, "server-id"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect()
    }
}
