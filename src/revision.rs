//! Revisions, bases and preconditions: why a blind overwrite cannot be written.
//!
//! A change carries the [`Base`] it was made against; [`precondition`] is the one place that turns
//! a base into what is asked of the remote. Pure; no I/O.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// The remote's opaque token for one version of one file (its `revision`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Takes a token as the remote wrote it; `None` for the empty one, which names no version, and
    /// for one that no condition could carry back: over 1 KiB, or with control characters.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let usable = (1..=1024).contains(&token.len()) && !token.chars().any(char::is_control);
        usable.then(|| Self(Arc::from(token)))
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The counter inside tokens of the form `rev_N`, which the known server gives out in rising
    /// order. Only a hint for dropping stale events; no decision to overwrite rests on it.
    #[must_use]
    pub fn ordinal(&self) -> Option<u64> {
        self.0.strip_prefix("rev_")?.parse().ok()
    }

    /// Whether both tokens carry a counter and this one is the lower.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        matches!((self.ordinal(), other.ordinal()), (Some(a), Some(b)) if a < b)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a local change was made against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The remote had no such file.
    Absent,
    /// The remote had the file at this revision.
    Revision(Revision),
    /// The remote had the file, of which only the date of its last edit is known.
    Date(Timestamp),
}

/// The condition sent with a change; the remote refuses the change when it does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// `If-Match: 0`: the file must not exist.
    Absent,
    /// `If-Match: REVISION`.
    Match(Revision),
    /// `If-Unmodified-Since: DATE`.
    UnmodifiedSince(Timestamp),
}

/// Turns a base into the precondition to send; `None` when the remote understands no condition
/// that this base could give, so that the current revision must be read first.
#[must_use]
pub fn precondition(base: &Base, understands_dates: bool) -> Option<Precondition> {
    match base {
        Base::Absent => Some(Precondition::Absent),
        Base::Revision(revision) => Some(Precondition::Match(revision.clone())),
        Base::Date(date) if understands_dates => Some(Precondition::UnmodifiedSince(*date)),
        Base::Date(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base_gives_a_condition_or_asks_for_a_read() {
        let revision = Revision::new("rev_7").unwrap();
        let date = Timestamp::UNIX_EPOCH;
        assert_eq!(precondition(&Base::Absent, false), Some(Precondition::Absent));
        assert_eq!(
            precondition(&Base::Revision(revision.clone()), false),
            Some(Precondition::Match(revision))
        );
        assert_eq!(
            precondition(&Base::Date(date), true),
            Some(Precondition::UnmodifiedSince(date))
        );
        assert_eq!(precondition(&Base::Date(date), false), None);
    }

    #[test]
    fn ordinals_compare_only_where_both_have_one() {
        let revision = |text: &str| Revision::new(text).unwrap();
        assert!(revision("rev_9").is_older_than(&revision("rev_10")));
        assert!(!revision("rev_10").is_older_than(&revision("rev_10")));
        assert!(!revision("abc").is_older_than(&revision("rev_10")));
        assert_eq!(Revision::new(""), None);
    }
}
