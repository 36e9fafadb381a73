//! Decides from the evidence whether a promise was broken. Pure: the same evidence leads to the same
//! findings.
//!
//! What may replace a content: a call that read it through the same descriptor before it wrote, or one that
//! replaced whatever was there (`O_TRUNC`, `rename`, `unlink`) when it could have been there: written on
//! the same mount before that call ended, or arrived at the server by then.

mod contents;
mod lineage;
mod texts;

use std::collections::BTreeSet;

use self::contents::Contents;
use self::lineage::Lineage;
use crate::run::{Evidence, LOGS, SLOTS, difference, tell};
use crate::story::{Call, Side};
use crate::writer::Entry;

/// Everything that is wrong; empty when all promises were kept.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let contents = Contents::new(evidence);
    let lineage = Lineage::new(evidence, &contents);
    let mut wrong: Vec<String> =
        evidence.disorder.iter().map(|what| format!("DISORDER {what}")).collect();
    wrong.extend(losses(evidence, &contents, &lineage));
    wrong.extend(inventions(evidence, &contents));
    wrong.extend(lineage.blind_replacements());
    wrong.extend(texts::check(evidence));
    wrong.extend(divergence(evidence));
    wrong
}

fn is_text(path: &str) -> bool {
    LOGS.contains(&path) || SLOTS.contains(&path)
}

/// Acknowledged bytes that are nowhere.
fn losses(evidence: &Evidence, contents: &Contents<'_>, lineage: &Lineage<'_>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for bytes in places(evidence) {
        found.extend(contents.of(bytes));
    }
    let is_found = |entry: &Entry, kept: usize| {
        found.iter().any(|found| found.id == entry.id && found.length >= kept)
    };
    let mut wrong = Vec::new();
    for entry in &evidence.entries {
        let binary = matches!(entry.call, Call::Write { .. } | Call::Truncate { .. });
        // An empty file is of everybody, and nothing that could be lost.
        let Some(kept) = entry.kept.filter(|kept| binary && *kept > 0) else { continue };
        let of_entry =
            |bytes: &Vec<u8>| contents.of(bytes).iter().any(|found| found.id == entry.id);
        let damaged = evidence.damaged().any(of_entry);
        if !is_found(entry, kept) && !lineage.was_replaced(entry) && !damaged {
            wrong.push(format!(
                "LOST {kept} bytes of #{} ({:?}{} {:?}): nowhere, and nothing replaced them",
                entry.id, entry.side, entry.writer, entry.call
            ));
        }
    }
    wrong
}

/// Every content that can be seen anywhere.
fn places(evidence: &Evidence) -> impl Iterator<Item = &Vec<u8>> {
    let shown = evidence.shown.iter().flat_map(|shown| shown.values());
    evidence.server.values().chain(shown).chain(evidence.copies.values())
}

/// Bytes that nobody wrote.
fn inventions(evidence: &Evidence, contents: &Contents<'_>) -> Vec<String> {
    let sides = Side::BOTH.iter().flat_map(|side| {
        let shown = evidence.shown[side.index()].iter();
        shown.map(move |(path, bytes)| (format!("mount {side:?}"), path, bytes))
    });
    let server = evidence.server.iter().map(|(path, bytes)| ("the server".to_owned(), path, bytes));
    let copies =
        evidence.copies.iter().map(|(path, bytes)| ("a conflict copy".to_owned(), path, bytes));
    let mut wrong = Vec::new();
    for (place, path, bytes) in server.chain(sides).chain(copies) {
        let text = is_text(path) || texts::is_known(evidence, bytes);
        if !text && !bytes.is_empty() && contents.of(bytes).is_empty() {
            wrong.push(format!("INVENTED {path} at {place}: {}", tell(Some(bytes))));
        }
    }
    for entry in &evidence.entries {
        if let (Call::Read { path } | Call::Write { path, .. }, Some(seen)) =
            (&entry.call, &entry.seen)
            && !is_text(path)
            && !seen.is_empty()
            && contents.of(seen).is_empty()
        {
            wrong.push(format!("INVENTED {path}, read by #{}: {}", entry.id, tell(Some(seen))));
        }
    }
    wrong
}

/// Views that differ although all is quiet.
fn divergence(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for side in Side::BOTH {
        let (shown, parked) = (&evidence.shown[side.index()], &evidence.parked[side.index()]);
        wrong.extend(difference(side, &evidence.server, shown, parked));
    }
    let [a, b] = &evidence.folders;
    let parked = evidence.parked.iter().any(|parked| !parked.is_empty());
    if evidence.has_folders && !parked && a != b {
        let differ: Vec<&String> = a.symmetric_difference(b).collect();
        wrong.push(format!("folders that only one mount shows: {differ:?}"));
    }
    wrong.iter().map(|what| format!("DIVERGED {what}")).collect()
}
