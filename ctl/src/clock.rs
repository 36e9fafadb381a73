//! The clock of the crate: the one place that asks for the time.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Returns the wall-clock time.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Measures how long something takes, and what is left of a bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts to measure.
    #[allow(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns what is left of `bound`, but never less than 50 ms: enough for one answer.
    pub(crate) fn left_of(&self, bound: Duration) -> Duration {
        bound.saturating_sub(self.elapsed()).max(Duration::from_millis(50))
    }
}
