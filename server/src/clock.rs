//! The one place that asks what time it is.
//!
//! Time is nanoseconds since the Unix epoch, and never runs backwards within one process: file
//! times and event times keep the order of the commits even when the system clock is set back.
//! An embedding program may pass a clock of its own that it advances by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A source of time, cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    last_ns: Arc<AtomicI64>,
    by_hand: bool,
}

impl Clock {
    /// Returns a clock that follows the system's.
    #[must_use]
    pub fn system() -> Self {
        Self { last_ns: Arc::new(AtomicI64::new(0)), by_hand: false }
    }

    /// Returns a clock that stands still until [`Clock::advance`] moves it.
    #[must_use]
    pub fn by_hand(start_ns: i64) -> Self {
        Self { last_ns: Arc::new(AtomicI64::new(start_ns)), by_hand: true }
    }

    /// Moves a clock made by [`Clock::by_hand`] forward; has no effect on a system clock.
    pub fn advance(&self, by: Duration) {
        if self.by_hand {
            let ns = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
            self.last_ns.fetch_add(ns, Ordering::SeqCst);
        }
    }

    /// Returns nanoseconds since the Unix epoch.
    pub(crate) fn now_ns(&self) -> i64 {
        if self.by_hand {
            return self.last_ns.load(Ordering::SeqCst);
        }
        let now = system_ns();
        self.last_ns.fetch_max(now, Ordering::SeqCst).max(now)
    }
}

#[allow(clippy::disallowed_methods, reason = "this function is the clock seam itself")]
fn system_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Formats nanoseconds since the epoch as RFC 3339.
pub(crate) fn rfc3339(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default().to_string()
}

/// Reads an RFC 3339 date; `None` when it is none.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    text.trim().parse::<Timestamp>().ok()
}

/// Converts a time to nanoseconds, limited to what 64 bits hold (the years 1677 to 2262).
pub(crate) fn ns_of(time: Timestamp) -> i64 {
    let ns = time.as_nanosecond();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}
