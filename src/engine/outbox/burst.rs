//! Bursts: very many changes in a row, as when a repository is cloned or an archive unpacked.
//!
//! What is sent meanwhile takes its processor time from whoever makes the changes, and half of a burst
//! goes to the server no sooner for it. So its first moments are waited out; what lasts longer than that is
//! no burst but the ordinary load, and travels beside what comes. Pure.

use std::time::Duration;

/// So many changes are a burst…
const CHANGES_MIN: u32 = 128;

/// …when they come this fast or faster, on average.
const CHANGE_EVERY: Duration = Duration::from_millis(1);

/// A pause that ends one.
const PAUSE: Duration = Duration::from_millis(20);

/// How many times the longest wait of a change a burst may take.
const DELAYS_MAX: u32 = 5;

/// The changes since the last pause. Times are monotonic.
#[derive(Debug, Default, Clone, Copy)]
pub struct Burst {
    since: Duration,
    last: Duration,
    changes: u32,
}

impl Burst {
    /// Something changed.
    pub(super) fn note(&mut self, now: Duration) {
        if now > self.last + PAUSE {
            self.since = now;
            self.changes = 0;
        }
        self.last = now;
        self.changes = self.changes.saturating_add(1);
    }

    /// When the last change was.
    pub(super) fn last(&self) -> Duration {
        self.last
    }

    /// Until when the end of a burst is waited for; `None` when there is none, or when it has lasted
    /// too long.
    #[must_use]
    pub fn waits_until(
        &self,
        now: Duration,
        debounce: Duration,
        max_delay: Duration,
    ) -> Option<Duration> {
        let is_burst = self.changes >= CHANGES_MIN
            && now.saturating_sub(self.since) <= CHANGE_EVERY * self.changes;
        let until = (self.last + debounce).min(self.since + max_delay * DELAYS_MAX);
        (is_burst && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(20);
    const MAX_DELAY: Duration = Duration::from_millis(200);

    /// After `changes` changes, one each `every`, from a second on: until when is waited at the time
    /// of the last one, in microseconds since the first.
    fn after(changes: u32, every: Duration) -> Option<u128> {
        let first = Duration::from_secs(1);
        let mut burst = Burst::default();
        let mut now = first;
        for n in 0..changes {
            now = first + every * n;
            burst.note(now);
        }
        let until = burst.waits_until(now, DEBOUNCE, MAX_DELAY)?;
        Some((until - first).as_micros())
    }

    #[test]
    fn a_burst_is_waited_out_and_nothing_else() {
        let fast = Duration::from_micros(100);
        assert_eq!(after(127, fast), None, "a few files");
        assert_eq!(after(200, fast), Some(19_900 + 20_000));
        assert_eq!(after(9_900, fast), Some(1_000_000), "five times the longest wait");
        assert_eq!(after(10_001, fast), None, "as long as that");
        assert_eq!(after(500, Duration::from_millis(2)), None, "not fast");
        assert_eq!(after(500, Duration::from_millis(21)), None, "with pauses");
    }

    #[test]
    fn it_ends_with_a_pause() {
        let mut burst = Burst::default();
        let now = Duration::from_secs(1);
        for _ in 0..500 {
            burst.note(now);
        }
        assert_eq!(burst.waits_until(now, DEBOUNCE, MAX_DELAY), Some(now + DEBOUNCE));
        assert_eq!(burst.waits_until(now + DEBOUNCE, DEBOUNCE, MAX_DELAY), None);
        assert_eq!(burst.waits_until(now, Duration::ZERO, MAX_DELAY), None, "who wants no wait");
        burst.note(now + DEBOUNCE * 2);
        assert_eq!(burst.waits_until(now + DEBOUNCE * 2, DEBOUNCE, MAX_DELAY), None);
    }
}
