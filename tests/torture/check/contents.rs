//! Whose bytes these are.

use std::collections::HashMap;

use crate::content;
use crate::run::Evidence;
use crate::story::{Call, Id};
use crate::writer::Entry;

/// The first `length` bytes of what a call made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) id: Id,
    pub(super) length: usize,
}

/// Every content that calls made, and every state in which one may be seen.
pub(super) struct Contents<'run> {
    entries: HashMap<Id, &'run Entry>,
    by_digest: HashMap<String, Vec<Found>>,
}

impl<'run> Contents<'run> {
    pub(super) fn new(evidence: &'run Evidence) -> Self {
        let binary = evidence
            .entries
            .iter()
            .filter(|entry| matches!(entry.call, Call::Write { .. } | Call::Truncate { .. }));
        let mut contents = Self { entries: HashMap::new(), by_digest: HashMap::new() };
        for entry in binary {
            contents.entries.insert(entry.id, entry);
            let Some(made) = &entry.made else { continue };
            let mut marks = entry.marks.clone();
            marks.push(made.len());
            marks.sort_unstable();
            marks.dedup();
            // An empty file is of everybody.
            for length in marks.into_iter().filter(|length| *length > 0) {
                let digest = content::digest(&made[..length]);
                contents.by_digest.entry(digest).or_default().push(Found { id: entry.id, length });
            }
        }
        contents
    }

    pub(super) fn entry(&self, id: Id) -> Option<&'run Entry> {
        self.entries.get(&id).copied()
    }

    /// Whose bytes have this digest.
    pub(super) fn of_digest(&self, digest: &str) -> Vec<Found> {
        self.by_digest.get(digest).cloned().unwrap_or_default()
    }

    /// Whose bytes these are: all calls that made exactly them, and the one that made more of them.
    pub(super) fn of(&self, bytes: &[u8]) -> Vec<Found> {
        let mut found = self.of_digest(&content::digest(bytes));
        let author = content::author(bytes).and_then(|id| self.entry(id));
        if let Some(entry) = author
            && entry.made.as_ref().is_some_and(|made| made.starts_with(bytes))
        {
            let whole = Found { id: entry.id, length: bytes.len() };
            if !found.contains(&whole) {
                found.push(whole);
            }
        }
        found
    }
}
