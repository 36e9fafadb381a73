//! Waits, counts and causes; which state leads where is tested beside the table.

use super::*;
use crate::remote::RemoteError;

const T0: Duration = Duration::from_secs(100);

const WALL: Timestamp = Timestamp::UNIX_EPOCH;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn unreachable() -> RemoteError {
    RemoteError::Unreachable { message: "x".into(), maybe_applied: false }
}

fn lost() -> RemoteError {
    RemoteError::Unreachable { message: "x".into(), maybe_applied: true }
}

fn busy(retry_after: Option<Duration>) -> RemoteError {
    RemoteError::Busy { status: 503, message: String::new(), retry_after }
}

fn auth() -> RemoteError {
    RemoteError::Auth { message: String::new() }
}

/// One attempt that fails, with the longest wait that jitter can draw.
fn fail(link: &mut Link, error: &RemoteError, now: Duration) {
    link.trial();
    link.failed(error, now, WALL, 1.0);
}

fn way(link: &Link) -> State {
    link.states()[0]
}

/// A link whose circuit is open because of `error`.
fn open(error: &RemoteError) -> Link {
    let mut link = Link::new(None);
    for _ in 0..10 {
        fail(&mut link, error, T0);
    }
    assert_eq!(way(&link), State::Open);
    link
}

/// A link to whose server another one answers.
fn stranger(answer: Option<ServerId>) -> Link {
    let mut link = Link::new(None);
    link.reached();
    link.other_server(answer, T0, WALL, 1.0);
    link
}

/// Nothing that another server says leads anywhere; only the right one, or a person who names what
/// answers, does.
#[test]
fn another_server_is_gone_on_with_only_by_name() {
    let two = Answer(Some(ServerId(2)));
    let mut link = stranger(two.0);
    assert_eq!(link.permit(T0 + seconds(100)), Permit::Held(Held::Stranger));
    let illegal = Illegal { state: State::Stranger, request: Happening::Resume };
    assert_eq!(link.resume(T0), Err(illegal));
    link.trial();
    fail(&mut link, &lost(), T0);
    assert!(link.trouble().unwrap().message.contains("another server"), "still the reason");
    assert_eq!(link.accept(Answer(None)), Err(Refused::OtherAnswer(Some(two))));
    assert_eq!(link.accept(two), Ok(()));
    assert_eq!(way(&link), State::Unknown);
    let illegal = Illegal { state: State::Unknown, request: Happening::Accept };
    assert_eq!(link.accept(two), Err(Refused::Illegal(illegal)));

    // Refused by the other server itself, which was not asked yet who it is.
    let mut link = Link::new(None);
    fail(&mut link, &RemoteError::OtherServer { message: String::new() }, T0);
    assert_eq!(link.accept(two), Err(Refused::OtherAnswer(None)));
    link.recognised();
    assert_eq!(way(&link), State::Online);

    // A pause that is ended leaves the other thing that holds.
    let mut link = stranger(None);
    link.set_pause(Some(Pause { reason: None, since: WALL, until: None }));
    assert_eq!(link.resume(T0), Ok(()));
    assert_eq!(link.permit(T0), Permit::Held(Held::Stranger));
}

#[test]
fn delays_double_up_to_the_bound_and_success_starts_over() {
    let mut link = Link::new(None);
    link.circuit.threshold = 100;
    let mut delays = Vec::new();
    for _ in 0..10 {
        fail(&mut link, &unreachable(), T0);
        delays.push((link.next_try().unwrap() - T0).as_millis());
    }
    assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    assert!(!link.may_send(T0));
    assert!(link.reached());
    assert!(link.may_send(T0));
    fail(&mut link, &unreachable(), T0);
    assert_eq!(link.next_try(), Some(T0 + BACKOFF_MIN));
}

/// Full jitter: any wait from next to nothing up to the bound, and never so little that it spins.
#[test]
fn waits_are_drawn_from_nothing_to_the_bound() {
    for (failures, longest) in [(1, 250), (4, 2000), (50, 30_000)] {
        assert_eq!(backoff(failures, 0.0), BACKOFF_FLOOR);
        assert_eq!(backoff(failures, 0.5).as_millis(), longest / 2);
        assert_eq!(backoff(failures, 1.0).as_millis(), longest);
    }
}

/// Ten failures in a row open the circuit: nothing is tried for its cool-down, then one probe goes
/// out, and its end decides.
#[test]
fn the_circuit_opens_probes_and_closes_by_itself() {
    let mut link = Link::new(None);
    for n in 1..10 {
        fail(&mut link, &lost(), T0);
        assert_eq!((way(&link), link.trouble().unwrap().failures), (State::Offline, n));
    }
    fail(&mut link, &lost(), T0);
    assert_eq!(way(&link), State::Open);
    let due = link.next_try().unwrap();
    assert!(due >= T0 + seconds(30) && due <= T0 + seconds(33), "{due:?}");
    assert_eq!(link.permit(due - seconds(1)), Permit::Held(Held::Circuit));
    assert_eq!(link.permit(due), Permit::Trial);

    link.trial();
    assert_eq!((way(&link), link.next_try()), (State::HalfOpen, None));
    assert_eq!(link.permit(due + seconds(100)), Permit::Held(Held::Probing));
    assert!(!link.may_try(due + seconds(100)));
    link.failed(&lost(), due, WALL, 0.0);
    assert_eq!((way(&link), link.trouble().unwrap().failures), (State::Open, 11));
    assert_eq!(link.next_try(), Some(due + seconds(30)));

    link.trial();
    assert!(link.reached());
    assert_eq!((way(&link), link.permit(due)), (State::Online, Permit::Free));
    fail(&mut link, &lost(), due);
    assert_eq!(way(&link), State::Offline);
}

/// A probe that ends without a word about the way must not leave the circuit half-open for ever.
#[test]
fn a_probe_without_a_verdict_is_made_again() {
    let mut link = open(&lost());
    link.nothing_under_way(T0);
    assert_eq!(way(&link), State::Open, "nothing to do while it is open");
    let due = link.next_try().unwrap();
    link.trial();
    link.nothing_under_way(due);
    assert_eq!((way(&link), link.next_try()), (State::Open, Some(due + seconds(1))));
}

/// What was under way together fails together, and counts once.
#[test]
fn requests_that_fail_together_are_one_failure() {
    let mut link = Link::new(None);
    for _ in 0..20 {
        link.failed(&lost(), T0, WALL, 1.0);
    }
    assert_eq!((way(&link), link.trouble().unwrap().failures), (State::Offline, 1));
    assert_eq!(link.next_try(), Some(T0 + BACKOFF_MIN));
    // But what the server asks for counts, whoever hears it.
    link.failed(&busy(Some(seconds(7))), T0, WALL, 1.0);
    assert_eq!(link.next_try(), Some(T0 + seconds(7)));
    link.wake(Wake::Change, T0 + seconds(3));
    assert!(!link.may_try(T0 + seconds(6)));
}

#[test]
fn what_the_server_asks_for_is_a_floor_that_only_a_person_lifts() {
    let mut link = Link::new(None);
    fail(&mut link, &busy(Some(seconds(60))), T0);
    for why in [Wake::Change, Wake::Connection, Wake::Credential] {
        link.wake(why, T0);
        assert!(!link.may_send(T0 + seconds(60) - Duration::from_millis(1)), "{why:?}");
    }
    link.wake(Wake::Person, T0);
    assert!(link.may_send(T0));
    // Also for an open circuit, whose own wait is shorter.
    let mut link = open(&busy(Some(seconds(600))));
    assert!(link.next_try().unwrap() >= T0 + seconds(600));
    link.wake(Wake::Change, T0 + seconds(100));
    assert!(!link.may_try(T0 + seconds(599)));
}

#[test]
fn a_server_that_can_be_read_is_not_yet_one_that_takes_changes() {
    for error in [busy(None), lost()] {
        let mut link = open(&error);
        link.heard_from(T0);
        assert_eq!(way(&link), State::Open);
        assert!(!link.may_send(T0));
    }
    let mut link = Link::new(None);
    link.forbidden("read only", T0, WALL, 1.0);
    link.heard_from(T0);
    assert_eq!(way(&link), State::Auth);
    // What only a missing way or a bad token explains is over with the first reply.
    for error in [unreachable(), auth()] {
        let mut link = Link::new(None);
        fail(&mut link, &error, T0);
        link.heard_from(T0);
        assert_eq!(way(&link), State::Online);
    }
    // Reads that get through do not hide that replies to changes get lost.
    let mut link = Link::new(None);
    for n in 0..10 {
        let now = T0 + seconds(n);
        link.heard_from(now);
        fail(&mut link, &lost(), now);
    }
    assert_eq!(way(&link), State::Open);
}

#[test]
fn new_changes_wake_at_most_once_a_second() {
    let mut link = Link::new(None);
    fail(&mut link, &unreachable(), T0);
    link.wake(Wake::Change, T0);
    assert!(link.may_send(T0));
    fail(&mut link, &unreachable(), T0);
    link.wake(Wake::Change, T0 + Duration::from_millis(200));
    assert!(!link.may_send(T0 + Duration::from_millis(200)));
    link.wake(Wake::Change, T0 + seconds(1));
    assert!(link.may_send(T0 + seconds(1)));
    // And not at all while the circuit is open.
    let mut link = open(&unreachable());
    link.wake(Wake::Change, T0 + seconds(20));
    assert!(!link.may_send(T0 + seconds(20)));
}

/// A connection that can be made again ends the wait, also that of an open circuit; where requests
/// fail all the same, only the next loss of the connection makes its return news again.
#[test]
fn a_connection_that_can_be_made_again_is_tried_once() {
    let mut link = open(&unreachable());
    link.no_connection();
    let now = T0 + seconds(1);
    link.wake(Wake::Connection, now);
    assert_eq!(link.permit(now), Permit::Trial);
    fail(&mut link, &unreachable(), now);
    link.wake(Wake::Connection, now + seconds(1));
    assert_eq!(link.permit(now + seconds(1)), Permit::Held(Held::Circuit));
    link.no_connection();
    link.wake(Wake::Connection, now + seconds(2));
    assert_eq!(link.permit(now + seconds(2)), Permit::Trial);
    // Where the server was reached, being reachable is no news.
    let mut link = open(&lost());
    link.no_connection();
    link.wake(Wake::Connection, now);
    assert_eq!(link.permit(now), Permit::Held(Held::Circuit));
}

#[test]
fn a_refused_credential_waits_for_a_new_one() {
    let mut link = Link::new(None);
    fail(&mut link, &auth(), T0);
    assert_eq!(way(&link), State::Auth);
    link.wake(Wake::Change, T0);
    link.wake(Wake::Connection, T0);
    assert_eq!(link.permit(T0), Permit::Held(Held::Auth));
    link.wake(Wake::Credential, T0);
    assert!(link.may_send(T0));
    // It never opens the circuit, however often.
    for _ in 0..50 {
        fail(&mut link, &auth(), T0);
    }
    assert_eq!(way(&link), State::Auth);
}

/// Failures of another kind in between begin the count anew.
#[test]
fn in_a_row_means_in_a_row() {
    let mut link = Link::new(None);
    for _ in 0..9 {
        fail(&mut link, &lost(), T0);
    }
    fail(&mut link, &auth(), T0);
    fail(&mut link, &lost(), T0);
    assert_eq!((way(&link), link.trouble().unwrap().failures), (State::Offline, 1));
}

#[test]
fn a_pause_holds_even_online_and_ends_at_its_time() {
    let until = Timestamp::from_second(10).unwrap();
    let pause = Pause { reason: None, since: WALL, until: Some(until) };
    let mut link = Link::new(Some(pause));
    link.reached();
    assert_eq!(link.permit(T0), Permit::Held(Held::Paused));
    assert!(link.may_try(T0));
    assert!(!link.expire_pause(T0, Timestamp::from_second(9).unwrap()));
    assert!(link.expire_pause(T0, until));
    assert!(link.may_send(T0));
}

/// A clock that is set back makes no pause longer than it was to be, also over a restart.
#[test]
fn a_pause_lasts_no_longer_because_the_clock_was_set_back() {
    let pause = Pause { reason: None, since: WALL, until: Some(WALL + seconds(60)) };
    let earlier = WALL - seconds(86_400);
    for before in [WALL, earlier] {
        let mut link = Link::new(Some(pause.clone()));
        assert!(!link.expire_pause(T0, before));
        assert!(!link.expire_pause(T0 + seconds(59), earlier));
        assert_eq!(link.pause_ends(), Some(T0 + seconds(60)));
        assert!(link.expire_pause(T0 + seconds(60), earlier));
        assert_eq!((link.pause(), link.pause_ends()), (None, None));
    }
}

#[test]
fn doubts_hold_until_a_person_looked() {
    let mut link = Link::new(None);
    link.reached();
    link.doubt();
    assert_eq!(link.permit(T0), Permit::Held(Held::Doubted));
    let refused = Illegal { state: State::Doubted, request: Happening::Resume };
    assert_eq!(link.resume(T0), Err(refused));
    assert_eq!(link.permit(T0), Permit::Held(Held::Doubted));
    link.believe();
    assert_eq!(link.permit(T0), Permit::Free);
}

/// A resume ends whatever a person can end, closes the circuit and forgets the count.
#[test]
fn a_resume_begins_anew() {
    let mut link = open(&busy(Some(seconds(600))));
    link.set_pause(Some(Pause { reason: None, since: WALL, until: None }));
    assert_eq!(link.resume(T0), Ok(()));
    assert_eq!(link.states(), [State::Offline, State::Flowing, State::Believed]);
    assert_eq!(link.permit(T0), Permit::Trial);
    fail(&mut link, &lost(), T0);
    assert_eq!((way(&link), link.trouble().unwrap().failures), (State::Offline, 1));
    // Where there is nothing to end nothing happens, and that is no error.
    let mut link = Link::new(None);
    link.reached();
    assert_eq!(link.resume(T0), Ok(()));
    assert_eq!(way(&link), State::Online);
}

#[test]
fn refusals_of_single_changes_do_not_concern_the_link() {
    let mut link = Link::new(None);
    fail(&mut link, &RemoteError::TooLarge, T0);
    fail(&mut link, &RemoteError::Forbidden { message: String::new() }, T0);
    assert!(!link.is_down());
}

/// Every happening in every state that can be reached: where the link goes is what the table says.
/// A link is brought into each state, and each method that makes something happen is called.
#[test]
fn what_the_link_does_is_what_the_table_says() {
    type Act = fn(&mut Link);
    let states: [(State, fn() -> Link); 8] = [
        (State::Stranger, || stranger(Some(ServerId(2)))),
        (State::Unknown, || Link::new(None)),
        (State::Online, || {
            let mut link = Link::new(None);
            link.reached();
            link
        }),
        (State::Offline, || {
            let mut link = Link::new(None);
            fail(&mut link, &lost(), T0);
            link.trial();
            link
        }),
        (State::Open, || open(&lost())),
        (State::HalfOpen, || {
            let mut link = open(&lost());
            link.trial();
            link
        }),
        (State::Auth, || {
            let mut link = Link::new(None);
            fail(&mut link, &auth(), T0);
            link.trial();
            link
        }),
        (State::Barred, || {
            let mut link = Link::new(None);
            fail(&mut link, &RemoteError::Untrusted { message: String::new() }, T0);
            link.trial();
            link
        }),
    ];
    let acts: [(Happening, Act); 10] = [
        (Happening::OtherServer, |link| link.other_server(None, T0, WALL, 0.5)),
        (Happening::SameServer, Link::recognised),
        (Happening::Accept, |link| _ = link.accept(Answer(Some(ServerId(2))))),
        (Happening::Answered, |link| _ = link.reached()),
        (Happening::Failed, |link| _ = link.failed(&lost(), T0, WALL, 0.5)),
        (Happening::Refused, |link| _ = link.failed(&auth(), T0, WALL, 0.5)),
        (Happening::Turned, |link| {
            link.failed(&RemoteError::Gone { message: String::new() }, T0, WALL, 0.5);
        }),
        (Happening::Trial, Link::trial),
        (Happening::NoVerdict, |link| link.nothing_under_way(T0)),
        (Happening::Resume, |link| _ = link.resume(T0)),
    ];
    for (from, make) in states {
        for (happening, act) in acts {
            let expected = match look(from, happening) {
                Move::To(to) => to,
                Move::Stay | Move::Apart => from,
                Move::Illegal => continue,
            };
            let mut link = make();
            assert_eq!(way(&link), from);
            act(&mut link);
            assert_eq!(way(&link), expected, "{from:?}, {happening:?}");
        }
    }
}

/// Over a restart the way is as it was: down, for the same reason, and not tried before its time.
#[test]
fn the_next_attempt_is_remembered_over_a_restart() {
    let restart = |link: &mut Link, now: Duration, wall: Timestamp, later: u64| {
        let saved = link.take_unsaved(now, wall).expect("it changed");
        let json = saved.map(|saved| serde_json::to_string(&saved).unwrap());
        let saved = json.map(|json| serde_json::from_str(&json).unwrap());
        let wall = wall.checked_add(jiff::SignedDuration::from_secs(later.cast_signed())).unwrap();
        // Monotonic time starts anew with a process.
        Link::restore(saved, None, Circuit::default(), seconds(1), wall)
    };
    let mut link = Link::new(None);
    fail(&mut link, &busy(Some(seconds(60))), T0);
    let mut again = restart(&mut link, T0, WALL, 20);
    assert_eq!(way(&again), State::Offline);
    let known = again.trouble().unwrap();
    assert!(known.hinted && known.failures == 1);
    assert!(!again.may_try(seconds(1) + seconds(40) - Duration::from_millis(1)));
    again.wake(Wake::Change, seconds(30));
    assert!(!again.may_try(seconds(39)), "still what the server asked for");
    assert!(again.may_try(seconds(1) + seconds(41)));

    // A clock that was set back does not make the wait longer than it was.
    let mut link = open(&lost());
    let wait = link.next_try().unwrap() - T0;
    let wall = Timestamp::from_second(1_000_000).unwrap();
    let saved = link.take_unsaved(T0, wall).unwrap();
    let again = Link::restore(saved, None, Circuit::default(), seconds(1), WALL);
    assert_eq!(way(&again), State::Open);
    assert!(again.next_try().unwrap() <= seconds(1) + wait + Duration::from_millis(1));

    // A probe that was under way is made again; doubts stay; what is over leaves nothing.
    let mut link = open(&lost());
    link.trial();
    link.doubt();
    let again = restart(&mut link, T0, WALL, 100);
    assert_eq!(again.states(), [State::Open, State::Flowing, State::Doubted]);
    assert!(again.may_try(seconds(1)));
    link.believe();
    link.reached();
    assert_eq!(link.take_unsaved(T0, WALL), Some(None));
    assert_eq!(link.take_unsaved(T0, WALL), None);
}
