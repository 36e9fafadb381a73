//! Whether the change stream that goes on is the one that was read before.
//!
//! Servers differ: one gives each workspace its own contiguous ids and says when it does not know a
//! cursor; another numbers the events of all workspaces in one row, so that holes mean nothing, and
//! silently starts over or goes on when it does not know a cursor. A hole therefore counts only
//! where the server is known to number without holes. Pure; no I/O.

use super::{Cursor, EventId};

/// Where the feed is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    /// Nowhere yet.
    Unknown,
    /// Before the first event of an empty history.
    Beginning,
    /// After this event.
    After(Cursor),
}

impl Position {
    /// The position after the newest event.
    pub(super) fn tail(newest: Option<Cursor>) -> Self {
        newest.map_or(Self::Beginning, Self::After)
    }

    /// The id to go on from.
    pub(super) fn id(&self) -> Option<&EventId> {
        match self {
            Self::After(cursor) => Some(&cursor.id),
            Self::Unknown | Self::Beginning => None,
        }
    }
}

/// What the server has at our cursor's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Witness {
    /// An event with this fingerprint.
    Found(String),
    /// No event of that id.
    Missing,
    /// So much happened since that it was not looked for to the end.
    TooFarBack,
}

/// What is to be done before the stream is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    /// Nothing: it goes on where it stopped.
    Holds,
    /// List everything again.
    Gap,
    /// The history is another one.
    Reset,
}

/// Compares our cursor with what the server has now.
pub(super) fn judge(
    ours: &Cursor,
    newest: Option<&EventId>,
    witness: &Witness,
    contiguous: bool,
) -> Continuity {
    let Some(newest) = newest else { return Continuity::Reset };
    if matches!((newest.ordinal(), ours.id.ordinal()), (Some(theirs), Some(own)) if theirs < own) {
        return Continuity::Reset;
    }
    match witness {
        Witness::Found(theirs) => match &ours.fingerprint {
            Some(own) if !is_same(own, theirs) => Continuity::Reset,
            Some(_) | None => Continuity::Holds,
        },
        // A server that says what it offers may let old events expire; one that does not keeps all.
        Witness::Missing if contiguous => Continuity::Gap,
        Witness::Missing => Continuity::Reset,
        Witness::TooFarBack => Continuity::Gap,
    }
}

/// Whether two fingerprints are of one event. Either may lack the content's hash: one taken earlier,
/// or from a message that does not tell it.
fn is_same(ours: &str, theirs: &str) -> bool {
    let parts = |text: &str| {
        let (path, version) = text.rsplit_once('@')?;
        let (revision, hash) = version.split_once('#').unwrap_or((version, ""));
        Some((path.to_owned(), revision.to_owned(), hash.to_owned()))
    };
    match (parts(ours), parts(theirs)) {
        (Some((path, revision, hash)), Some((their_path, their_revision, their_hash))) => {
            let hashes = hash.is_empty() || their_hash.is_empty() || hash == their_hash;
            path == their_path && revision == their_revision && hashes
        }
        _ => ours == theirs,
    }
}

/// What an arriving event is to the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The next one.
    Next,
    /// One that was seen already.
    Seen,
    /// Events before it are missing.
    Hole,
}

/// Places an arriving event.
pub(super) fn step(at: &Position, id: &EventId, contiguous: bool) -> Step {
    let own = match at {
        Position::After(cursor) if cursor.id == *id => return Step::Seen,
        Position::After(cursor) => cursor.id.ordinal(),
        Position::Beginning => Some(0),
        Position::Unknown => None,
    };
    match (own, id.ordinal()) {
        (Some(own), Some(theirs)) if theirs <= own => Step::Seen,
        (Some(own), Some(theirs)) if contiguous && theirs - own > 1 => Step::Hole,
        _ => Step::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EventId {
        EventId(text.into())
    }

    fn cursor(text: &str, fingerprint: Option<&str>) -> Cursor {
        Cursor { id: id(text), fingerprint: fingerprint.map(str::to_owned) }
    }

    #[test]
    fn the_history_is_compared_at_our_cursor() {
        use Continuity::{Gap, Holds, Reset};
        let ours = cursor("evt_7", Some("/a@rev_1"));
        let same = Witness::Found("/a@rev_1".into());
        let other = Witness::Found("/b@rev_1".into());
        let newer = id("evt_9");
        for (newest, witness, contiguous, expected) in [
            (Some(&newer), &same, true, Holds),
            (Some(&ours.id), &same, false, Holds),
            (Some(&newer), &other, true, Reset),
            (Some(&id("evt_6")), &Witness::Missing, true, Reset),
            (None, &Witness::Missing, true, Reset),
            (Some(&newer), &Witness::Missing, true, Gap),
            (Some(&newer), &Witness::Missing, false, Reset),
            (Some(&newer), &Witness::TooFarBack, false, Gap),
        ] {
            let verdict = judge(&ours, newest, witness, contiguous);
            assert_eq!(verdict, expected, "{newest:?} {witness:?} {contiguous}");
        }
        assert_eq!(judge(&cursor("evt_7", None), Some(&newer), &other, true), Holds);
        // The same path and revision with another content is another history, where both tell it.
        let ours = cursor("evt_7", Some("/a@rev_1#11"));
        for (theirs, expected) in
            [("/a@rev_1#11", Holds), ("/a@rev_1", Holds), ("/a@rev_1#22", Reset)]
        {
            let witness = Witness::Found(theirs.into());
            assert_eq!(judge(&ours, Some(&newer), &witness, true), expected, "{theirs}");
        }
    }

    #[test]
    fn holes_count_only_where_ids_are_contiguous() {
        let at = Position::After(cursor("evt_7", None));
        for (event, contiguous, expected) in [
            ("evt_8", true, Step::Next),
            ("evt_9", true, Step::Hole),
            ("evt_9", false, Step::Next),
            ("evt_7", true, Step::Seen),
            ("evt_3", false, Step::Seen),
            ("x", true, Step::Next),
        ] {
            assert_eq!(step(&at, &id(event), contiguous), expected, "{event} {contiguous}");
        }
        assert_eq!(step(&Position::Beginning, &id("evt_1"), true), Step::Next);
        assert_eq!(step(&Position::Beginning, &id("evt_2"), true), Step::Hole);
        assert_eq!(step(&Position::Unknown, &id("evt_5"), true), Step::Next);
        assert_eq!(step(&Position::After(cursor("x", None)), &id("x"), false), Step::Seen);
    }
}
