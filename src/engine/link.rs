//! The link: whether anything may be sent now, and when to try next.
//!
//! A state machine without I/O. What happens to the way to the server ([`Way`]) and what people
//! decide (pause) are independent: both must allow it. Delays are monotonic; dates are for people.

use std::time::Duration;

use jiff::Timestamp;

use crate::remote::RemoteError;

/// First delay after a failure, doubled with each further one (`docs/semantics.md`, section 4).
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Longest delay between attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Why nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection: the server was never reached.
    NoConnection,
    /// The connection or the reply was lost.
    Lost,
    /// The server is there and says not now (5xx, 408, 425, 429).
    Busy,
    /// The credential was refused; it resumes with a new one.
    Auth,
    /// The workspace is not there.
    Gone,
    /// TLS failed or the server redirects elsewhere; the token stays home.
    Untrusted,
}

impl Cause {
    /// The code that `mountctl` shows.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoConnection => "NO_CONNECTION",
            Self::Lost => "REPLY_LOST",
            Self::Busy => "SERVER_BUSY",
            Self::Auth => "AUTH",
            Self::Gone => "WORKSPACE_GONE",
            Self::Untrusted => "UNTRUSTED",
        }
    }
}

/// The way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Nothing was tried yet.
    Unknown,
    /// The last attempt got through.
    Online,
    /// Attempts fail; tried again for ever.
    Down {
        /// Why.
        cause: Cause,
        /// The server's or the system's words.
        message: String,
        /// Failures in a row.
        failures: u32,
        /// Since when.
        since: Timestamp,
        /// When to try next; monotonic.
        next_try: Duration,
        /// Whether the server named that delay.
        hinted: bool,
    },
}

/// A pause that a person asked for. It survives restarts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pause {
    /// Why, in their words.
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// It ends by itself then.
    pub until: Option<Timestamp>,
}

/// Whether anything may be sent.
#[derive(Debug, Clone)]
pub struct Link {
    way: Way,
    pause: Option<Pause>,
    last_wake: Option<Duration>,
}

impl Link {
    /// Starts with what was persisted.
    #[must_use]
    pub fn new(pause: Option<Pause>) -> Self {
        Self { way: Way::Unknown, pause, last_wake: None }
    }

    /// The way to the server.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The pause in force.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// Whether a change may be sent now. While the way is down, one trial at a time.
    #[must_use]
    pub fn may_send(&self, now: Duration) -> bool {
        self.pause.is_none() && self.may_try(now)
    }

    /// Whether any request may be made now.
    #[must_use]
    pub fn may_try(&self, now: Duration) -> bool {
        match &self.way {
            Way::Unknown | Way::Online => true,
            Way::Down { next_try, .. } => now >= *next_try,
        }
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.way, Way::Down { .. })
    }

    /// When to try next, while the way is down.
    #[must_use]
    pub fn next_try(&self) -> Option<Duration> {
        match &self.way {
            Way::Down { next_try, .. } => Some(*next_try),
            Way::Unknown | Way::Online => None,
        }
    }

    /// A request got through. Returns whether that is news.
    pub fn reached(&mut self) -> bool {
        let news = self.way != Way::Online;
        self.way = Way::Online;
        news
    }

    /// The server was heard from otherwise: a read, the change stream. That ends what only a lost
    /// way explains; whether it takes changes again, only sending one can tell.
    pub fn heard_from(&mut self) {
        match &self.way {
            Way::Down { cause: Cause::Busy, .. } => {}
            Way::Unknown | Way::Online | Way::Down { .. } => self.way = Way::Online,
        }
    }

    /// A request failed in a way that concerns the link. `jitter` is uniform in 0..1. Returns
    /// whether the way was not down before.
    pub fn failed(
        &mut self,
        error: &RemoteError,
        now: Duration,
        wall: Timestamp,
        jitter: f64,
    ) -> bool {
        let Some(cause) = cause(error) else { return false };
        let (failures, since, news) = match &self.way {
            Way::Down { failures, since, .. } => (failures.saturating_add(1), *since, false),
            Way::Unknown | Way::Online => (1, wall, true),
        };
        let hint = match error {
            RemoteError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        };
        // The server's word is a floor; jitter comes on top so that clients do not return at once.
        let backoff = backoff(failures, jitter);
        let delay = hint.map_or(backoff, |floor| floor + backoff.min(BACKOFF_MIN));
        let message = error.to_string();
        let next_try = now + delay;
        self.way = Way::Down { cause, message, failures, since, next_try, hinted: hint.is_some() };
        news
    }

    /// Something suggests that an attempt may succeed now: a new change, a connection that could
    /// be made, a new credential. Never earlier than the server asked for, and for new changes at
    /// most once a second.
    pub fn wake(&mut self, why: Wake, now: Duration) {
        let Way::Down { cause, next_try, hinted, .. } = &mut self.way else { return };
        let allowed = match why {
            Wake::Person => true,
            Wake::Connection => *cause == Cause::NoConnection,
            Wake::Credential => *cause == Cause::Auth,
            Wake::Change => {
                !*hinted
                    && matches!(cause, Cause::NoConnection | Cause::Lost | Cause::Busy)
                    && self.last_wake.is_none_or(|last| now >= last + Duration::from_secs(1))
            }
        };
        if allowed && (!*hinted || why == Wake::Person) {
            *next_try = (*next_try).min(now);
            self.last_wake = Some(now);
        }
    }

    /// Pauses; what people decide replaces what they decided before.
    pub fn set_pause(&mut self, pause: Option<Pause>) -> Option<Pause> {
        std::mem::replace(&mut self.pause, pause)
    }

    /// Ends a pause whose time has come. Returns whether it did.
    pub fn expire_pause(&mut self, wall: Timestamp) -> bool {
        let over = self.pause.as_ref().is_some_and(|p| p.until.is_some_and(|until| wall >= until));
        if over {
            self.pause = None;
        }
        over
    }
}

/// What suggests an early attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A person asked.
    Person,
    /// A connection to the server could be made.
    Connection,
    /// The credential changed.
    Credential,
    /// A file changed.
    Change,
}

fn cause(error: &RemoteError) -> Option<Cause> {
    match error {
        RemoteError::Unreachable { maybe_applied: false, .. } => Some(Cause::NoConnection),
        RemoteError::Unreachable { maybe_applied: true, .. } | RemoteError::Garbled { .. } => {
            Some(Cause::Lost)
        }
        RemoteError::Busy { .. } => Some(Cause::Busy),
        RemoteError::Auth { .. } => Some(Cause::Auth),
        RemoteError::Gone { .. } => Some(Cause::Gone),
        RemoteError::Untrusted { .. } => Some(Cause::Untrusted),
        RemoteError::Forbidden { .. }
        | RemoteError::TooLarge
        | RemoteError::Invalid { .. }
        | RemoteError::Local { .. } => None,
    }
}

/// Delay after `failures` failures in a row: doubled from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], of
/// which the upper half is random.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(100);

    fn lost() -> RemoteError {
        RemoteError::Unreachable { message: "x".into(), maybe_applied: false }
    }

    fn fail(link: &mut Link, error: &RemoteError, now: Duration) {
        link.failed(error, now, Timestamp::UNIX_EPOCH, 1.0);
    }

    #[test]
    fn delays_double_up_to_the_bound_and_success_starts_over() {
        let mut link = Link::new(None);
        let mut delays = Vec::new();
        for _ in 0..10 {
            fail(&mut link, &lost(), T0);
            delays.push((link.next_try().unwrap() - T0).as_millis());
        }
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert!(!link.may_send(T0));
        assert!(link.reached());
        assert!(link.may_send(T0));
        fail(&mut link, &lost(), T0);
        assert_eq!(link.next_try(), Some(T0 + BACKOFF_MIN));
    }

    #[test]
    fn what_the_server_asks_for_is_a_floor_that_only_a_person_lifts() {
        let mut link = Link::new(None);
        let retry_after = Some(Duration::from_secs(60));
        let busy = RemoteError::Busy { status: 429, message: String::new(), retry_after };
        fail(&mut link, &busy, T0);
        for why in [Wake::Change, Wake::Connection, Wake::Credential] {
            link.wake(why, T0);
            assert!(!link.may_send(T0 + Duration::from_secs(60)), "{why:?}");
        }
        link.wake(Wake::Person, T0);
        assert!(link.may_send(T0));
    }

    #[test]
    fn a_server_that_can_be_read_is_not_yet_one_that_takes_changes() {
        let mut link = Link::new(None);
        let busy = RemoteError::Busy { status: 503, message: String::new(), retry_after: None };
        fail(&mut link, &busy, T0);
        link.heard_from();
        assert!(!link.may_send(T0));
        let mut link = Link::new(None);
        fail(&mut link, &lost(), T0);
        link.heard_from();
        assert!(link.may_send(T0));
    }

    #[test]
    fn new_changes_wake_at_most_once_a_second() {
        let mut link = Link::new(None);
        fail(&mut link, &lost(), T0);
        link.wake(Wake::Change, T0);
        assert!(link.may_send(T0));
        fail(&mut link, &lost(), T0);
        link.wake(Wake::Change, T0 + Duration::from_millis(200));
        assert!(!link.may_send(T0 + Duration::from_millis(200)));
        link.wake(Wake::Change, T0 + Duration::from_secs(1));
        assert!(link.may_send(T0 + Duration::from_secs(1)));
    }

    #[test]
    fn a_refused_credential_waits_for_a_new_one() {
        let mut link = Link::new(None);
        fail(&mut link, &RemoteError::Auth { message: String::new() }, T0);
        link.wake(Wake::Change, T0);
        link.wake(Wake::Connection, T0);
        assert!(!link.may_send(T0));
        link.wake(Wake::Credential, T0);
        assert!(link.may_send(T0));
    }

    #[test]
    fn a_pause_holds_even_online_and_ends_at_its_time() {
        let until = Timestamp::from_second(10).unwrap();
        let pause = Pause { reason: None, since: Timestamp::UNIX_EPOCH, until: Some(until) };
        let mut link = Link::new(Some(pause));
        link.reached();
        assert!(!link.may_send(T0));
        assert!(link.may_try(T0));
        assert!(!link.expire_pause(Timestamp::from_second(9).unwrap()));
        assert!(link.expire_pause(until));
        assert!(link.may_send(T0));
    }

    #[test]
    fn refusals_of_single_changes_do_not_concern_the_link() {
        let mut link = Link::new(None);
        fail(&mut link, &RemoteError::TooLarge, T0);
        fail(&mut link, &RemoteError::Forbidden { message: String::new() }, T0);
        assert!(!link.is_down());
    }
}
