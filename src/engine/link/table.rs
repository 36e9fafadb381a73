//! The transition table of the link: every state, everything that can happen, and where it leads.
//!
//! The link has three regions that are independent of each other: the way to the server, a person's
//! pause, and whether the server's history is believed. Each has states of its own; something that
//! happens may concern several regions. There is no transition outside of `TABLE`. Pure.

/// A state of one of the three regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The way: nothing was tried yet.
    Unknown,
    /// The way: the last attempt got through.
    Online,
    /// The way: attempts fail and are repeated after growing waits.
    Offline,
    /// The way: too many attempts failed in a row; nothing is tried before the cool-down is over.
    Open,
    /// The way: the cool-down is over and one probe is under way.
    HalfOpen,
    /// The way: the credential is refused.
    Auth,
    /// The way: no such workspace, or a server that is not to be trusted.
    Barred,
    /// The way: another server answers than the one that the state folder belongs to.
    Stranger,
    /// The pause: there is none.
    Flowing,
    /// The pause: a person holds back dispatch.
    Paused,
    /// The history: what the server tells follows on what it told before.
    Believed,
    /// The history: it went back, and a person has to look.
    Doubted,
}

/// Something that happens to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// The server took a request with changes and answered it.
    Answered,
    /// Something else got through, and that ends what the trouble was about.
    Proven,
    /// A transient failure.
    Failed,
    /// A transient failure, and with it too many in a row.
    FailedTooOften,
    /// The credential was refused.
    Refused,
    /// No such workspace, a redirect, a TLS failure.
    Turned,
    /// A server with another identity answers.
    OtherServer,
    /// The server of this state folder answers.
    SameServer,
    /// The wait is over and one request goes out.
    Trial,
    /// That request ended without a word about the way.
    NoVerdict,
    /// A person says: go on.
    Resume,
    /// A person says: go on with the other server, or with one whose history went back.
    Accept,
    /// A person says: hold back.
    Pause,
    /// The time of the pause is over.
    PauseOver,
    /// The server's history went back.
    WentBack,
}

/// What a happening does to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It leads there.
    To(State),
    /// It concerns the state and leaves it as it is.
    Stay,
    /// It does not concern the state.
    Apart,
    /// It must not happen: a request is refused, anything else is a bug.
    Illegal,
}

/// Everything that can happen, in the order of the table's columns.
pub const HAPPENINGS: [Happening; 15] = [
    Happening::Answered,
    Happening::Proven,
    Happening::Failed,
    Happening::FailedTooOften,
    Happening::Refused,
    Happening::Turned,
    Happening::OtherServer,
    Happening::SameServer,
    Happening::Trial,
    Happening::NoVerdict,
    Happening::Resume,
    Happening::Accept,
    Happening::Pause,
    Happening::PauseOver,
    Happening::WentBack,
];

/// All states, in the order of the table's rows.
pub const STATES: [State; 12] = [
    State::Unknown,
    State::Online,
    State::Offline,
    State::Open,
    State::HalfOpen,
    State::Auth,
    State::Barred,
    State::Stranger,
    State::Flowing,
    State::Paused,
    State::Believed,
    State::Doubted,
];

const ON: Move = Move::To(State::Online);
const OFF: Move = Move::To(State::Offline);
const OPN: Move = Move::To(State::Open);
const HLF: Move = Move::To(State::HalfOpen);
const AUT: Move = Move::To(State::Auth);
const BAR: Move = Move::To(State::Barred);
const STR: Move = Move::To(State::Stranger);
const NEW: Move = Move::To(State::Unknown);
const FLO: Move = Move::To(State::Flowing);
const PAU: Move = Move::To(State::Paused);
const BEL: Move = Move::To(State::Believed);
const DOU: Move = Move::To(State::Doubted);
const STAY: Move = Move::Stay;
const ____: Move = Move::Apart;
const NO: Move = Move::Illegal;

/// The table. One row for each of [`STATES`], one column for each of [`HAPPENINGS`].
#[rustfmt::skip]
const TABLE: [[Move; HAPPENINGS.len()]; STATES.len()] = [
//               Answrd Proven Failed TooOft Refusd Turned OtherS SameSv Trial  NoVerd Resume Accept Pause  Over   Back
/* Unknown  */ [ ON,    ON,    OFF,   OPN,   AUT,   BAR,   STR,   ON,    STAY,  ____,  ____,  NO,    ____,  ____,  ____ ],
/* Online   */ [ STAY,  STAY,  OFF,   OPN,   AUT,   BAR,   STR,   STAY,  STAY,  ____,  ____,  NO,    ____,  ____,  ____ ],
/* Offline  */ [ ON,    ON,    STAY,  OPN,   AUT,   BAR,   STR,   ON,    STAY,  ____,  STAY,  NO,    ____,  ____,  ____ ],
/* Open     */ [ ON,    ON,    STAY,  STAY,  AUT,   BAR,   STR,   ON,    HLF,   ____,  OFF,   NO,    ____,  ____,  ____ ],
/* HalfOpen */ [ ON,    ON,    OPN,   OPN,   AUT,   BAR,   STR,   ON,    NO,    OPN,   STAY,  NO,    ____,  ____,  ____ ],
/* Auth     */ [ ON,    ON,    OFF,   OPN,   STAY,  BAR,   STR,   ON,    STAY,  ____,  STAY,  NO,    ____,  ____,  ____ ],
/* Barred   */ [ ON,    ON,    OFF,   OPN,   AUT,   STAY,  STR,   ON,    STAY,  ____,  STAY,  NO,    ____,  ____,  ____ ],
/* Stranger */ [ STAY,  STAY,  STAY,  STAY,  STAY,  STAY,  STAY,  ON,    STAY,  ____,  NO,    NEW,   ____,  ____,  ____ ],
/* Flowing  */ [ ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  PAU,   ____,  ____ ],
/* Paused   */ [ ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  FLO,   ____,  STAY,  FLO,   ____ ],
/* Believed */ [ ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  DOU  ],
/* Doubted  */ [ ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  ____,  NO,    BEL,   ____,  ____,  STAY ],
];

/// What `happening` does to `state`.
#[must_use]
pub fn look(state: State, happening: Happening) -> Move {
    TABLE[state as usize][happening as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of rows and columns is that of the enums, which index the table.
    #[test]
    fn rows_and_columns_are_where_they_are_looked_up() {
        for (row, state) in STATES.into_iter().enumerate() {
            assert_eq!(row, state as usize);
        }
        for (column, happening) in HAPPENINGS.into_iter().enumerate() {
            assert_eq!(column, happening as usize);
        }
    }

    fn region(state: State) -> u8 {
        match state {
            State::Flowing | State::Paused => 1,
            State::Believed | State::Doubted => 2,
            _ => 0,
        }
    }

    /// No happening leads out of a region, or to the state it starts from; each state but the first
    /// of its region can be reached, and left again.
    #[test]
    fn the_table_holds_together() {
        for state in STATES {
            let moves = HAPPENINGS.map(|happening| look(state, happening));
            for to in moves {
                if let Move::To(to) = to {
                    assert_eq!(region(state), region(to), "{state:?} leads to {to:?}");
                    assert_ne!(state, to, "staying is spelled as such");
                }
            }
            assert!(moves.iter().any(|to| matches!(to, Move::To(_))), "{state:?} is for ever");
            let led_to = STATES.iter().any(|from| {
                HAPPENINGS.iter().any(|happening| look(*from, *happening) == Move::To(state))
            });
            assert!(led_to, "nothing leads to {state:?}");
        }
    }

    /// What heals the way by itself: from every state but that of another server, one answer of the
    /// server is enough; and what another server says changes nothing at all.
    #[test]
    fn one_answer_heals_and_a_stranger_heals_nothing() {
        use Happening as H;
        for state in STATES.into_iter().filter(|state| region(*state) == 0) {
            let answered = look(state, H::Answered);
            match state {
                State::Online | State::Stranger => assert_eq!(answered, Move::Stay),
                _ => assert_eq!(answered, ON, "{state:?}"),
            }
            if state != State::Online {
                assert_eq!(look(state, H::SameServer), ON, "{state:?}");
            }
        }
        for happening in [H::Answered, H::Proven, H::Failed, H::FailedTooOften, H::Refused] {
            assert_eq!(look(State::Stranger, happening), Move::Stay, "{happening:?}");
        }
    }

    /// The circuit: only too many failures open it, only its time lets a probe out, and that one
    /// decides.
    #[test]
    fn the_circuit_opens_probes_closes_and_reopens() {
        use Happening as H;
        assert_eq!(look(State::Offline, H::Failed), Move::Stay);
        assert_eq!(look(State::Offline, H::FailedTooOften), OPN);
        assert_eq!(look(State::Open, H::Trial), HLF);
        assert_eq!(look(State::HalfOpen, H::Trial), Move::Illegal);
        assert_eq!(look(State::HalfOpen, H::Failed), OPN);
        assert_eq!(look(State::HalfOpen, H::NoVerdict), OPN);
        assert_eq!(look(State::HalfOpen, H::Answered), ON);
    }

    /// What is refused, and nothing else is.
    #[test]
    fn illegal_is_what_is_listed_here() {
        use Happening as H;
        use State as S;
        let illegal: Vec<(State, Happening)> = STATES
            .into_iter()
            .flat_map(|state| HAPPENINGS.map(|happening| (state, happening)))
            .filter(|(state, happening)| look(*state, *happening) == Move::Illegal)
            .collect();
        let expected = [
            (S::Unknown, H::Accept),
            (S::Online, H::Accept),
            (S::Offline, H::Accept),
            (S::Open, H::Accept),
            (S::HalfOpen, H::Trial),
            (S::HalfOpen, H::Accept),
            (S::Auth, H::Accept),
            (S::Barred, H::Accept),
            (S::Stranger, H::Resume),
            (S::Doubted, H::Resume),
        ];
        assert_eq!(illegal, expected);
    }
}
