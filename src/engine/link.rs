//! The link: whether anything may be sent now, and when to try next.
//!
//! A state machine without I/O. The way to the server, a person's pause and the belief in the
//! server's history are independent of each other, and all three must allow it. What leads from
//! where to where is said in [`table`] alone; here is what each transition carries along: causes,
//! counts and times. Delays are monotonic; dates are for people and for the next start ([`saved`]).

mod failing;
pub mod saved;
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

pub use self::failing::{BACKOFF_FLOOR, BACKOFF_MAX, BACKOFF_MIN, backoff};
use self::table::{Happening, Move, State, look};
use crate::remote::ServerId;

/// New changes wake a way that is down at most this often.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

/// A probe that said nothing about the way is followed by another one after this time.
const NO_VERDICT_WAIT: Duration = Duration::from_secs(1);

/// When the circuit opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit {
    /// Transient failures in a row that open it.
    pub threshold: u32,
    /// How long nothing is tried then.
    pub cool_down: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { threshold: 10, cool_down: Duration::from_secs(30) }
    }
}

/// Why nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No connection: the server was never reached.
    NoConnection,
    /// The connection or the reply was lost.
    Lost,
    /// The server is there and says not now (5xx, 408, 425, 429).
    Busy,
    /// The credential was refused; it resumes with a new one.
    Auth,
    /// The credential may not send changes at all.
    Forbidden,
    /// The workspace is not there.
    Gone,
    /// TLS failed or the server redirects elsewhere; the token stays home.
    Untrusted,
    /// Another server answers than the one that the state folder belongs to.
    OtherServer,
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
            Self::Forbidden => "FORBIDDEN",
            Self::Gone => "WORKSPACE_GONE",
            Self::Untrusted => "UNTRUSTED",
            Self::OtherServer => "OTHER_SERVER",
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
    Down(Outage, Trouble),
}

/// In which way the way is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// Tried again after growing waits.
    Offline,
    /// The circuit is open: a probe is due at `next_try`.
    Open {
        /// Since when.
        opened_at: Timestamp,
    },
    /// A probe is under way.
    HalfOpen {
        /// Since when the circuit was open.
        opened_at: Timestamp,
    },
    /// The credential is refused.
    Auth,
    /// No such workspace, or a server that is not to be trusted.
    Barred,
    /// Another server answers; nothing is sent to it until a person looked.
    Stranger {
        /// What it said when it was asked who it is.
        found: Option<Answer>,
    },
}

/// Who a server says it is; some do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Answer(pub Option<ServerId>);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl Outage {
    /// One word for people who follow along.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Open { .. } => "circuit open",
            Self::HalfOpen { .. } => "half-open",
            Self::Auth => "auth",
            Self::Barred => "barred",
            Self::Stranger { .. } => "other server",
        }
    }
}

/// What is known about a way that is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub cause: Cause,
    /// The server's or the system's words.
    pub message: String,
    /// Failures in a row.
    pub failures: u32,
    /// Since when.
    pub since: Timestamp,
    /// When to try next; monotonic.
    pub next_try: Duration,
    /// Whether the server named that delay.
    pub hinted: bool,
    /// How long the wait is in all.
    wait: Duration,
    /// Whether a request went out since the last failure. What fails otherwise was under way when
    /// the way went down, and is the same failure.
    tried: bool,
    /// Whether a connection that could be made already led to an attempt, which failed.
    knocked: bool,
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

/// Whether changes may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// As many as there are.
    Free,
    /// One request, and then its answer is waited for.
    Trial,
    /// None.
    Held(Held),
}

/// Why the link holds back changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A person paused dispatch.
    Paused,
    /// The server's history went back; a person has to look.
    Doubted,
    /// The next attempt is not due yet.
    Backoff,
    /// The circuit is open.
    Circuit,
    /// The circuit's probe is under way.
    Probing,
    /// The credential is refused.
    Auth,
    /// No such workspace, or a server that is not to be trusted.
    Barred,
    /// Another server answers.
    Stranger,
}

impl Held {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Paused => "dispatch is paused",
            Self::Doubted => "the server's history went back, a person has to look",
            Self::Backoff => "the last attempt failed, the next one is not due yet",
            Self::Circuit => "many attempts failed in a row, the next probe is not due yet",
            Self::Probing => "a probe finds out whether the server is back",
            Self::Auth => "the credential is refused",
            Self::Barred => "the server is not there as it should be",
            Self::Stranger => "another server answers, a person has to look",
        }
    }
}

/// A request that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// What was asked for.
    pub request: Happening,
}

/// Why a person's word about the server was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The state does not allow it.
    Illegal(Illegal),
    /// The server that answers is not the one that was named, but this one as far as it was asked.
    OtherAnswer(Option<Answer>),
}

impl From<Illegal> for Refused {
    fn from(illegal: Illegal) -> Self {
        Self::Illegal(illegal)
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
    /// A file changed, or something was read.
    Change,
}

/// Whether anything may be sent.
#[derive(Debug, Clone)]
pub struct Link {
    way: Way,
    pause: Option<Pause>,
    /// When a pause with an end has lasted as long as it was to; the wall clock may be set back.
    pause_ends: Option<Duration>,
    doubted: bool,
    circuit: Circuit,
    last_wake: Option<Duration>,
    /// Whether what a restart must know changed since it was last asked for.
    unsaved: bool,
}

impl Link {
    /// Starts with nothing tried and the usual circuit.
    #[must_use]
    pub fn new(pause: Option<Pause>) -> Self {
        Self {
            way: Way::Unknown,
            pause,
            pause_ends: None,
            doubted: false,
            circuit: Circuit::default(),
            last_wake: None,
            unsaved: false,
        }
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

    /// Whether the server's history went back and nobody has looked yet.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// When the circuit opens.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// The states of the three regions: way, pause, history.
    #[must_use]
    pub fn states(&self) -> [State; 3] {
        let way = match &self.way {
            Way::Unknown => State::Unknown,
            Way::Online => State::Online,
            Way::Down(Outage::Offline, _) => State::Offline,
            Way::Down(Outage::Open { .. }, _) => State::Open,
            Way::Down(Outage::HalfOpen { .. }, _) => State::HalfOpen,
            Way::Down(Outage::Auth, _) => State::Auth,
            Way::Down(Outage::Barred, _) => State::Barred,
            Way::Down(Outage::Stranger { .. }, _) => State::Stranger,
        };
        let pause = if self.pause.is_some() { State::Paused } else { State::Flowing };
        let history = if self.doubted { State::Doubted } else { State::Believed };
        [way, pause, history]
    }

    /// Whether changes may be sent now.
    #[must_use]
    pub fn permit(&self, now: Duration) -> Permit {
        if self.pause.is_some() {
            return Permit::Held(Held::Paused);
        }
        if self.doubted {
            return Permit::Held(Held::Doubted);
        }
        match &self.way {
            Way::Unknown | Way::Online => Permit::Free,
            Way::Down(Outage::Stranger { .. }, _) => Permit::Held(Held::Stranger),
            Way::Down(Outage::HalfOpen { .. }, _) => Permit::Held(Held::Probing),
            Way::Down(_, trouble) if now >= trouble.next_try => Permit::Trial,
            Way::Down(Outage::Offline, _) => Permit::Held(Held::Backoff),
            Way::Down(Outage::Open { .. }, _) => Permit::Held(Held::Circuit),
            Way::Down(Outage::Auth, _) => Permit::Held(Held::Auth),
            Way::Down(Outage::Barred, _) => Permit::Held(Held::Barred),
        }
    }

    /// Whether a change may be sent now. While the way is down, one trial at a time.
    #[must_use]
    pub fn may_send(&self, now: Duration) -> bool {
        !matches!(self.permit(now), Permit::Held(_))
    }

    /// Whether any request may be made now.
    #[must_use]
    pub fn may_try(&self, now: Duration) -> bool {
        match &self.way {
            Way::Unknown | Way::Online => true,
            Way::Down(Outage::HalfOpen { .. }, _) => false,
            Way::Down(_, trouble) => now >= trouble.next_try,
        }
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.way, Way::Down(..))
    }

    /// What is known about a way that is down.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        match &self.way {
            Way::Down(_, trouble) => Some(trouble),
            Way::Unknown | Way::Online => None,
        }
    }

    /// When to try next, while the way is down and no probe is under way.
    #[must_use]
    pub fn next_try(&self) -> Option<Duration> {
        match &self.way {
            Way::Unknown | Way::Online | Way::Down(Outage::HalfOpen { .. }, _) => None,
            Way::Down(_, trouble) => Some(trouble.next_try),
        }
    }

    /// A request with changes was answered. Returns whether that is news.
    pub fn reached(&mut self) -> bool {
        self.heals(Happening::Answered)
    }

    /// The server answered who it is, and it is the one of this state folder.
    pub fn recognised(&mut self) {
        self.heals(Happening::SameServer);
    }

    /// The server was heard from otherwise: a read, the change stream. That ends what only a lost
    /// way or a refused credential explains; whether it takes changes again, only sending one can
    /// tell.
    pub fn heard_from(&mut self, now: Duration) {
        match &self.way {
            Way::Down(_, Trouble { cause: Cause::NoConnection | Cause::Auth, .. })
            | Way::Unknown => {
                self.heals(Happening::Proven);
            }
            Way::Down(_, Trouble { cause: Cause::Lost, .. }) => {
                self.wake(Wake::Change, now);
            }
            Way::Down(..) | Way::Online => {}
        }
    }

    fn heals(&mut self, happening: Happening) -> bool {
        let [way, ..] = self.states();
        match look(way, happening) {
            Move::To(State::Online) => {
                self.unsaved |= self.is_down();
                self.way = Way::Online;
                true
            }
            _ => false,
        }
    }

    /// One request goes out although the way is down; it decides.
    pub fn trial(&mut self) {
        let [way, ..] = self.states();
        let Way::Down(outage, trouble) = &mut self.way else { return };
        match (look(way, Happening::Trial), *outage) {
            (Move::To(State::HalfOpen), Outage::Open { opened_at }) => {
                *outage = Outage::HalfOpen { opened_at };
            }
            (Move::Illegal, _) => {
                debug_assert!(false, "two probes at once");
                return;
            }
            _ => {}
        }
        trouble.tried = true;
    }

    /// Nothing is under way any more. A probe that ended without a word is made again soon.
    pub fn nothing_under_way(&mut self, now: Duration) {
        let [way, ..] = self.states();
        if let Way::Down(outage, trouble) = &mut self.way
            && look(way, Happening::NoVerdict) == Move::To(State::Open)
            && let Outage::HalfOpen { opened_at } = *outage
        {
            *outage = Outage::Open { opened_at };
            trouble.next_try = now + NO_VERDICT_WAIT;
        }
    }

    /// Something suggests that an attempt may succeed now: a new change, a connection that could
    /// be made, a new credential. Never earlier than the server asked for, and for new changes at
    /// most once a second. An open circuit is not moved by new changes. Returns whether an attempt
    /// is due now because of it.
    pub fn wake(&mut self, why: Wake, now: Duration) -> bool {
        let Way::Down(outage, trouble) = &mut self.way else { return false };
        let allowed = match why {
            Wake::Person => true,
            // Once: where a connection can be made and the request then fails to connect all the
            // same, the next one waits as long as any other.
            Wake::Connection => trouble.cause == Cause::NoConnection && !trouble.knocked,
            Wake::Credential => *outage == Outage::Auth,
            Wake::Change => {
                *outage == Outage::Offline
                    && self.last_wake.is_none_or(|last| now >= last + WAKE_INTERVAL)
            }
        };
        let allowed = allowed && (!trouble.hinted || why == Wake::Person);
        if allowed {
            trouble.next_try = trouble.next_try.min(now);
            trouble.knocked |= why == Wake::Connection;
            self.last_wake = Some(now);
        }
        allowed
    }

    /// No connection could be made: the next one that can be is news.
    pub fn no_connection(&mut self) {
        if let Way::Down(_, trouble) = &mut self.way {
            trouble.knocked = false;
        }
    }

    /// A person says go on: a pause, a back-off and an open circuit end.
    ///
    /// # Errors
    /// When that is not what the state needs.
    pub fn resume(&mut self, now: Duration) -> Result<(), Illegal> {
        let moves = self.states().map(|state| (state, look(state, Happening::Resume)));
        let moved = moves.iter().any(|(_, to)| matches!(to, Move::To(_)));
        if let Some((state, _)) = moves.iter().find(|(_, to)| *to == Move::Illegal)
            && !moved
        {
            return Err(Illegal { state: *state, request: Happening::Resume });
        }
        for (_, to) in moves {
            match to {
                Move::To(State::Flowing) => self.pause = None,
                Move::To(State::Offline) => self.begin_anew(Outage::Offline),
                _ => {}
            }
        }
        self.wake(Wake::Person, now);
        Ok(())
    }

    /// A person says go on with the server that answers. What it said of itself must be what the
    /// person saw.
    ///
    /// # Errors
    /// When no other server answers, or it is yet another one; nothing was changed then.
    pub fn accept(&mut self, seen: Answer) -> Result<(), Refused> {
        let moves = self.states().map(|state| (state, look(state, Happening::Accept)));
        if let Some((state, _)) = moves.iter().find(|(_, to)| *to == Move::Illegal) {
            return Err(Refused::Illegal(Illegal { state: *state, request: Happening::Accept }));
        }
        if let Way::Down(Outage::Stranger { found }, _) = &self.way
            && *found != Some(seen)
        {
            return Err(Refused::OtherAnswer(*found));
        }
        self.way = Way::Unknown;
        self.pause = None;
        self.doubted = false;
        self.unsaved = true;
        Ok(())
    }

    fn begin_anew(&mut self, to: Outage) {
        if let Way::Down(outage, trouble) = &mut self.way {
            *outage = to;
            trouble.failures = 0;
            self.unsaved = true;
        }
    }

    /// Pauses; what people decide replaces what they decided before.
    pub fn set_pause(&mut self, pause: Option<Pause>) -> Option<Pause> {
        self.pause_ends = None;
        std::mem::replace(&mut self.pause, pause)
    }

    /// Ends a pause whose time has come, by the date or by how long it was to last, whichever is first.
    /// Returns whether it did.
    pub fn expire_pause(&mut self, now: Duration, wall: Timestamp) -> bool {
        let Some(Pause { since, until: Some(until), .. }) = self.pause else { return false };
        let longest = until.duration_since(since);
        let left = Duration::try_from(until.duration_since(wall).min(longest)).unwrap_or_default();
        let ends = *self.pause_ends.get_or_insert(now + left);
        let [_, state, _] = self.states();
        let over = (wall >= until || now >= ends)
            && look(state, Happening::PauseOver) == Move::To(State::Flowing);
        if over {
            self.pause = None;
            self.pause_ends = None;
        }
        over
    }

    /// When a pause with an end is over at the latest, once it was looked at.
    #[must_use]
    pub fn pause_ends(&self) -> Option<Duration> {
        self.pause_ends.filter(|_| self.pause.is_some())
    }

    /// The server's history went back: nothing is sent until a person looked.
    pub fn doubt(&mut self) {
        self.unsaved |= !self.doubted;
        self.doubted = true;
    }

    /// A person looked.
    pub fn believe(&mut self) {
        self.unsaved |= self.doubted;
        self.doubted = false;
    }
}
