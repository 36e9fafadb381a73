//! Failures: what they are to the table, which of them count, and how long to wait after them.

use std::time::Duration;

use jiff::Timestamp;

use super::table::{Happening, Move, State, look};
use super::{Answer, Cause, Link, Outage, Trouble, Way};
use crate::remote::{RemoteError, ServerId};

/// Bound of the first delay after a failure, doubled with each further one (`docs/semantics.md`,
/// section 4).
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Longest delay between attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Shortest delay: full jitter may draw nothing at all, and must not spin.
pub const BACKOFF_FLOOR: Duration = Duration::from_millis(50);

/// A failure that concerns the link.
struct Failure {
    cause: Cause,
    message: String,
    hint: Option<Duration>,
}

impl Link {
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
        let hint = match error {
            RemoteError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        };
        self.fails(Failure { cause, message: error.to_string(), hint }, now, wall, jitter)
    }

    /// A whole request with changes was forbidden: the credential may not send any.
    pub fn forbidden(
        &mut self,
        message: &str,
        now: Duration,
        wall: Timestamp,
        jitter: f64,
    ) -> bool {
        let message = format!("the token may not send changes: {message}");
        self.fails(Failure { cause: Cause::Forbidden, message, hint: None }, now, wall, jitter)
    }

    fn fails(&mut self, failure: Failure, now: Duration, wall: Timestamp, jitter: f64) -> bool {
        let Failure { cause, message, hint } = failure;
        let [from, ..] = self.states();
        let to = match look(from, self.happening(cause)) {
            Move::To(to) => to,
            Move::Stay => from,
            Move::Apart | Move::Illegal => return false,
        };
        if from == to && self.is_known_already(hint, now) {
            return false;
        }
        let before = self.trouble().cloned();
        let in_a_row = from == to || (is_transient(from) && is_transient(to));
        let earlier = before.as_ref().filter(|_| in_a_row).map_or(0, |trouble| trouble.failures);
        let failures = earlier.saturating_add(1);
        let outage = match (to, &self.way) {
            (State::Open, Way::Down(Outage::HalfOpen { opened_at }, _)) => {
                Outage::Open { opened_at: *opened_at }
            }
            (State::Open, _) => Outage::Open { opened_at: wall },
            (State::Auth, _) => Outage::Auth,
            (State::Barred, _) => Outage::Barred,
            // What else fails there says nothing about who it is.
            (State::Stranger, Way::Down(Outage::Stranger { found }, _)) => {
                Outage::Stranger { found: *found }
            }
            (State::Stranger, _) => Outage::Stranger { found: None },
            _ => Outage::Offline,
        };
        let own = match outage {
            // A tenth more at most, so that clients do not probe together.
            Outage::Open { .. } => self.circuit.cool_down.mul_f64(1.0 + jitter / 10.0),
            _ => backoff(failures, jitter),
        };
        // The server's word is a floor; jitter comes on top so that clients do not return at once.
        let spread = |hint: Duration| bound(failures).min(hint / 4 + BACKOFF_MIN).mul_f64(jitter);
        let wait = hint.map_or(own, |hint| own.max(hint + spread(hint)));
        let knocked = cause == Cause::NoConnection
            && before.as_ref().is_some_and(|trouble| trouble.knocked && trouble.cause == cause);
        let (cause, message) = match &before {
            Some(known) if from == State::Stranger && cause != Cause::OtherServer => {
                (known.cause, known.message.clone())
            }
            _ => (cause, message),
        };
        let trouble = Trouble {
            cause,
            message,
            failures,
            since: before.as_ref().map_or(wall, |trouble| trouble.since),
            next_try: now + wait,
            hinted: hint.is_some(),
            wait,
            tried: false,
            knocked,
        };
        self.way = Way::Down(outage, trouble);
        self.unsaved = true;
        before.is_none()
    }

    /// A server answered, and it is another one than the one of this state folder.
    pub fn other_server(
        &mut self,
        answer: Option<ServerId>,
        now: Duration,
        wall: Timestamp,
        jitter: f64,
    ) {
        let who =
            answer.map_or_else(|| "it does not say which".to_owned(), |id| format!("server {id}"));
        let failure = Failure {
            cause: Cause::OtherServer,
            message: format!("another server answers: {who}"),
            hint: None,
        };
        self.fails(failure, now, wall, jitter);
        if let Way::Down(Outage::Stranger { found }, _) = &mut self.way {
            *found = Some(Answer(answer));
        }
    }

    /// What a failure of this cause is to the table.
    fn happening(&self, cause: Cause) -> Happening {
        match cause {
            Cause::Auth | Cause::Forbidden => Happening::Refused,
            Cause::Gone | Cause::Untrusted => Happening::Turned,
            Cause::OtherServer => Happening::OtherServer,
            Cause::NoConnection | Cause::Lost | Cause::Busy => {
                let [from, ..] = self.states();
                let counted = self.trouble().filter(|_| is_transient(from));
                let counts = counted.is_none_or(|trouble| trouble.tried);
                let failures = counted.map_or(0, |trouble| trouble.failures);
                if counts && failures + 1 >= self.circuit.threshold {
                    Happening::FailedTooOften
                } else {
                    Happening::Failed
                }
            }
        }
    }

    /// Whether a failure is that of a request which was under way when the way went down: the same
    /// failure, heard again. What the server asks for counts all the same.
    fn is_known_already(&mut self, hint: Option<Duration>, now: Duration) -> bool {
        let Way::Down(outage, trouble) = &mut self.way else { return false };
        if trouble.tried && !matches!(outage, Outage::Open { .. }) {
            return false;
        }
        if let Some(hint) = hint
            && now + hint > trouble.next_try
        {
            trouble.next_try = now + hint;
            trouble.wait = hint;
            trouble.hinted = true;
            self.unsaved = true;
        }
        true
    }
}

/// Whether attempts fail for reasons that pass.
fn is_transient(state: State) -> bool {
    matches!(state, State::Offline | State::Open | State::HalfOpen)
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
        RemoteError::OtherServer { .. } => Some(Cause::OtherServer),
        RemoteError::Forbidden { .. }
        | RemoteError::TooLarge
        | RemoteError::Invalid { .. }
        | RemoteError::Changed
        | RemoteError::Local { .. } => None,
    }
}

/// The longest delay after `failures` failures in a row: doubled from [`BACKOFF_MIN`] to
/// [`BACKOFF_MAX`].
fn bound(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// A delay after `failures` failures in a row: anything up to the bound, so that clients that
/// failed together do not return together, and never nothing.
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    bound(failures).mul_f64(jitter.clamp(0.0, 1.0)).max(BACKOFF_FLOOR)
}
