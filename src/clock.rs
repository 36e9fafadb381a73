//! The clock seam: the only place that asks the machine for the time.
//!
//! Decisions take `now` as an argument; whoever performs I/O gets a [`Clock`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Monotonic time since some fixed moment of this process: what delays are measured with.
    fn monotonic(&self) -> Duration;
    /// The wall clock: what people read. It may jump.
    fn wall(&self) -> Timestamp;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is the seam the lint points to")]
impl SystemClock {
    /// Starts counting monotonic time from now.
    #[must_use]
    pub fn start() -> SharedClock {
        Arc::new(Self { started: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam the lint points to")]
    fn wall(&self) -> Timestamp {
        Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
