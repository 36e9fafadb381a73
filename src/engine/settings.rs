//! What people may tune, as plain values.

use std::time::Duration;

use super::guard::Limits;
use super::link::Circuit;
use crate::conflict_policy::Policies;

/// What people may tune.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A batch leaves when no path changed for this long…
    pub debounce: Duration,
    /// …or when the oldest change waited this long.
    pub max_delay: Duration,
    /// A file that stays open and changed is sent after this long all the same.
    pub open_hold: Duration,
    /// Most files in one request.
    pub batch_files_max: usize,
    /// Most requests in flight.
    pub in_flight_max: usize,
    /// Body cap to start from, encoded bytes.
    pub body_bytes_start: u64,
    /// Who works here, `USER@HOST`, for the labels of conflicts.
    pub who: Option<String>,
    /// What becomes of files that both sides changed.
    pub conflict_policies: Policies,
    /// Ours is shown beside the file while a conflict waits for a person.
    pub conflict_siblings: bool,
    /// How long copies of resolved conflicts are kept.
    pub conflict_keep: Duration,
    /// Owner of nodes that come from the remote.
    pub uid: u32,
    /// Group of nodes that come from the remote.
    pub gid: u32,
    /// Nothing is ever recorded or sent.
    pub read_only: bool,
    /// Local content may take this much disk, beside what is unsent; bytes.
    pub cache_bytes_max: u64,
    /// When the circuit opens, and for how long.
    pub circuit: Circuit,
    /// The remote may add names while the tree has fewer than this.
    pub names_max: usize,
    /// More removals than these wait for a person.
    pub removals: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(20),
            max_delay: Duration::from_millis(200),
            open_hold: Duration::from_secs(5),
            batch_files_max: 256,
            in_flight_max: 4,
            // The server's default limit is 1 MiB; the slack covers the envelope.
            body_bytes_start: (1 << 20) - (16 << 10),
            who: None,
            conflict_policies: Policies::default(),
            conflict_siblings: false,
            conflict_keep: Duration::from_secs(30 * 24 * 3600),
            uid: 0,
            gid: 0,
            read_only: false,
            cache_bytes_max: 10 << 30,
            circuit: Circuit::default(),
            names_max: 4_000_000,
            removals: Limits::default(),
        }
    }
}
