//! What the link remembers over a restart: that the way was down, why, and when to try next.
//!
//! Waits are monotonic and end with the process; what is written is a date, with the length of the
//! wait beside it, so that a clock that was set back cannot make a wait longer than it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Cause, Circuit, Link, Outage, Pause, Trouble, Way};

/// The persisted form (`link` in the table `meta`); there is none while there is nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Saved {
    /// The way, where it is down.
    #[serde(default)]
    down: Option<Down>,
    /// The server's history went back and nobody has looked yet.
    #[serde(default)]
    doubted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Down {
    outage: Outage,
    cause: Cause,
    message: String,
    failures: u32,
    since: Timestamp,
    next_at: Timestamp,
    wait_ms: u64,
    hinted: bool,
}

impl Link {
    /// Starts with what was persisted.
    #[must_use]
    pub fn restore(
        saved: Option<Saved>,
        pause: Option<Pause>,
        circuit: Circuit,
        now: Duration,
        wall: Timestamp,
    ) -> Self {
        let Saved { down, doubted } = saved.unwrap_or(Saved { down: None, doubted: false });
        let way = down.map_or(Way::Unknown, |down| {
            let left = Duration::try_from(down.next_at.duration_since(wall)).unwrap_or_default();
            let wait = Duration::from_millis(down.wait_ms);
            let trouble = Trouble {
                cause: down.cause,
                message: down.message,
                failures: down.failures,
                since: down.since,
                next_try: now + left.min(wait),
                hinted: down.hinted,
                wait,
                tried: false,
                knocked: false,
            };
            // Whatever probe was under way ended with the process.
            let outage = match down.outage {
                Outage::HalfOpen { opened_at } => Outage::Open { opened_at },
                outage => outage,
            };
            Way::Down(outage, trouble)
        });
        Self { way, doubted, circuit, ..Self::new(pause) }
    }

    /// What a restart must know, if that changed since it was last asked for: `Some(None)` when
    /// there is nothing to tell any more.
    pub fn take_unsaved(&mut self, now: Duration, wall: Timestamp) -> Option<Option<Saved>> {
        std::mem::take(&mut self.unsaved).then(|| self.saved(now, wall))
    }

    fn saved(&self, now: Duration, wall: Timestamp) -> Option<Saved> {
        let down = match &self.way {
            Way::Unknown | Way::Online => None,
            Way::Down(outage, trouble) => {
                let left = SignedDuration::try_from(trouble.next_try.saturating_sub(now));
                let next_at = left.ok().and_then(|left| wall.checked_add(left).ok());
                Some(Down {
                    outage: *outage,
                    cause: trouble.cause,
                    message: trouble.message.clone(),
                    failures: trouble.failures,
                    since: trouble.since,
                    next_at: next_at.unwrap_or(wall),
                    // Rounded up: what the server asked for must not be cut short.
                    wait_ms: u64::try_from(trouble.wait.as_millis()).unwrap_or(u64::MAX - 1) + 1,
                    hinted: trouble.hinted,
                })
            }
        };
        let doubted = self.doubted;
        (down.is_some() || doubted).then_some(Saved { down, doubted })
    }
}
