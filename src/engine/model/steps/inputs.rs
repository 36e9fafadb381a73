//! What may be done to a core, and answers that need not make sense.

use jiff::Timestamp;
use proptest::prelude::*;

use crate::digest::Digest;
use crate::engine::model::texts::{body, whole};
use crate::path::WsPath;
use crate::remote::{Metadata, Outcome, RemoteError, RemoteFile, Size};
use crate::revision::Revision;

const PATHS: [&str; 6] = ["/a", "/b", "/a/a", "/a/b", "/b/a", "/c"];

/// What is done to the core. Numbers pick among whatever is there at that moment.
#[derive(Debug, Clone)]
pub(super) enum Input {
    Create(u8, u8),
    Seal(u8, u8, bool),
    Unlink(u8, bool),
    RemoveDir(u8),
    Rename(u8, u8, u8),
    Chmod(u8),
    Plan(u16),
    Sending(u8, u8),
    Answers(u8, u8, u8),
    Fails(u8, u8),
    Unsent(u8),
    Settled(u8, u8, u8),
    Kept(u8, u8, bool),
    Postponed(u8),
    Event(u8, u8, u8, bool),
    Listed(u8, u8),
    Missing(u8, bool),
    Rechecked(u8, u8, bool),
    Fetched(u8, u8),
    Lost(u8),
    Evicted(u8),
    Forgotten,
    Retry(u8),
    GiveUp(u8),
    Unpark,
    Decide(u8, bool),
    Suspect(bool),
    Distrust,
    Offer(u8),
    Can(u8),
    Other(u8),
    Restart,
}

pub(super) fn input() -> impl Strategy<Value = Input> {
    let n = any::<u8>;
    let calls = prop_oneof![
        3 => (n(), n()).prop_map(|(a, b)| Input::Create(a, b)),
        4 => (n(), n(), any::<bool>()).prop_map(|(a, b, held)| Input::Seal(a, b, held)),
        2 => (n(), any::<bool>()).prop_map(|(a, open)| Input::Unlink(a, open)),
        1 => n().prop_map(Input::RemoveDir),
        3 => (n(), n(), n()).prop_map(|(a, b, mode)| Input::Rename(a, b, mode)),
        1 => n().prop_map(Input::Chmod),
    ];
    let sends = prop_oneof![
        6 => (0..2000_u16).prop_map(Input::Plan),
        2 => (n(), n()).prop_map(|(a, b)| Input::Sending(a, b)),
        6 => (n(), n(), n()).prop_map(|(a, b, c)| Input::Answers(a, b, c)),
        2 => (n(), n()).prop_map(|(a, b)| Input::Fails(a, b)),
        1 => n().prop_map(Input::Unsent),
        3 => (n(), n(), n()).prop_map(|(a, b, c)| Input::Settled(a, b, c)),
        2 => (n(), n(), any::<bool>()).prop_map(|(a, b, push)| Input::Kept(a, b, push)),
        1 => n().prop_map(Input::Postponed),
    ];
    let hears = prop_oneof![
        6 => (n(), n(), n(), any::<bool>()).prop_map(|(a, b, c, quiet)| Input::Event(a, b, c, quiet)),
        1 => (n(), n()).prop_map(|(a, b)| Input::Listed(a, b)),
        1 => (n(), any::<bool>()).prop_map(|(a, quiet)| Input::Missing(a, quiet)),
        2 => (n(), n(), any::<bool>()).prop_map(|(a, b, quiet)| Input::Rechecked(a, b, quiet)),
        2 => (n(), n()).prop_map(|(a, b)| Input::Fetched(a, b)),
        1 => n().prop_map(Input::Lost),
        1 => n().prop_map(Input::Evicted),
        1 => Just(Input::Forgotten),
    ];
    let people = prop_oneof![
        2 => n().prop_map(Input::Retry),
        2 => n().prop_map(Input::GiveUp),
        1 => Just(Input::Unpark),
        2 => (n(), any::<bool>()).prop_map(|(a, approve)| Input::Decide(a, approve)),
        1 => any::<bool>().prop_map(Input::Suspect),
        1 => Just(Input::Distrust),
        1 => n().prop_map(Input::Offer),
        1 => n().prop_map(Input::Can),
        1 => n().prop_map(Input::Other),
        1 => Just(Input::Restart),
    ];
    prop_oneof![5 => calls, 5 => sends, 4 => hears, 2 => people]
}

pub(super) fn path(n: u8) -> WsPath {
    WsPath::parse(PATHS[usize::from(n) % PATHS.len()]).unwrap()
}

pub(super) fn pick<T>(all: &[T], n: u8) -> Option<&T> {
    all.get(usize::from(n).checked_rem(all.len())?)
}

pub(super) fn revision(n: u8) -> Option<Revision> {
    if n.is_multiple_of(5) { None } else { Revision::new(&format!("rev_{}", n % 16)) }
}

/// Some version of a file; the same content comes under different revisions and the other way round.
pub(super) fn version(at: &WsPath, n: u8) -> RemoteFile {
    let bytes = body(if n.is_multiple_of(7) { 0 } else { whole(u64::from(n % 4) + 1) });
    RemoteFile {
        path: at.clone(),
        revision: revision(n),
        digest: (!n.is_multiple_of(3)).then(|| Digest::of(&bytes)),
        size: if n.is_multiple_of(2) {
            Size::Exact(bytes.len() as u64)
        } else {
            Size::AtMost(u64::MAX)
        },
        edited_at: (n.is_multiple_of(4)).then(|| Timestamp::from_second(i64::from(n)).unwrap()),
        metadata: Metadata {
            symlink: (n.is_multiple_of(11)).then(|| "to".to_owned()),
            ..Metadata::default()
        },
        body: (n.is_multiple_of(2)).then_some(bytes),
    }
}

pub(super) fn error(n: u8) -> RemoteError {
    let message = || "x".to_owned();
    match n % 9 {
        0 => RemoteError::Unreachable { message: message(), maybe_applied: n & 64 != 0 },
        1 => RemoteError::Busy { status: 503, message: message(), retry_after: None },
        2 => RemoteError::Auth { message: message() },
        3 => RemoteError::Forbidden { message: message() },
        4 => RemoteError::Gone { message: message() },
        5 => RemoteError::TooLarge,
        6 => RemoteError::Invalid { message: message() },
        7 => RemoteError::OtherServer { message: message() },
        _ => RemoteError::Garbled { message: message() },
    }
}

pub(super) fn outcome(n: u8, with: u8) -> Option<Outcome> {
    match n % 8 {
        0 => None,
        1 => Some(Outcome::Conflict { current: revision(with) }),
        2 => Some(Outcome::Absent),
        3 => Some(Outcome::NotEmpty),
        4 => Some(Outcome::Refused { code: "forbidden".into(), message: "x".into() }),
        5 => Some(Outcome::Unknown),
        _ => Some(Outcome::Accepted { revision: revision(with) }),
    }
}
