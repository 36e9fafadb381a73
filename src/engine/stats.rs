//! What is counted for people. Plain data.

use std::time::Duration;

use jiff::Timestamp;

/// Counters since the start, for the status.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Records accepted.
    pub accepted: u64,
    /// Their bytes.
    pub accepted_bytes: u64,
    /// Requests that carried changes.
    pub requests: u64,
    /// The last batch: files, bytes, duration, when.
    pub last_batch: Option<LastBatch>,
    /// When the remote last accepted something.
    pub last_ack_at: Option<Timestamp>,
    /// Accepted in recent seconds: `(second, files, bytes)`, newest last.
    pub recent: std::collections::VecDeque<(u64, u64, u64)>,
    /// The last failure that a person may want to know.
    pub last_error: Option<(String, String, Timestamp)>,
}

/// The last batch that was answered.
#[derive(Debug, Clone)]
pub struct LastBatch {
    /// Records in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From dispatch to reply.
    pub duration: Duration,
    /// When the reply came.
    pub at: Timestamp,
}
