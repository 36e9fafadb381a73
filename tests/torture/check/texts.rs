//! Files of lines: they may be merged, so each line is looked for by itself.

use std::collections::BTreeSet;

use crate::content;
use crate::run::{Evidence, LOGS, SLOTS, tell};
use crate::story::{Call, Id};

/// Whether bytes are a log or a file of slots made of lines that somebody wrote.
pub(super) fn is_known(evidence: &Evidence, bytes: &[u8]) -> bool {
    log_of(evidence, bytes).is_some() || content::read_slots(bytes, evidence.slots).is_some()
}

fn log_of(evidence: &Evidence, bytes: &[u8]) -> Option<Vec<Id>> {
    let lines: Option<Vec<Id>> = content::lines(bytes).into_iter().collect();
    let written: BTreeSet<Id> = evidence
        .entries
        .iter()
        .filter(|entry| matches!(entry.call, Call::Append { .. }))
        .map(|entry| entry.id)
        .collect();
    lines.filter(|lines| lines.iter().all(|line| written.contains(line)))
}

/// What is wrong with files of lines.
pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in LOGS {
        check_log(evidence, path, &mut wrong);
    }
    for path in SLOTS {
        check_slots(evidence, path, &mut wrong);
    }
    wrong
}

/// Every acknowledged line is in the file or in a conflict copy, and none is there twice.
fn check_log(evidence: &Evidence, path: &str, wrong: &mut Vec<String>) {
    let mut found = BTreeSet::new();
    for bytes in seen_at(evidence, path) {
        match log_of(evidence, bytes) {
            Some(lines) => {
                let once: BTreeSet<Id> = lines.iter().copied().collect();
                if once.len() < lines.len() {
                    wrong.push(format!("DOUBLED lines in {path}: {lines:?}"));
                }
                found.extend(once);
            }
            None => wrong.push(format!("INVENTED lines in {path}: {}", tell(Some(bytes)))),
        }
    }
    for bytes in evidence.copies.values().chain(evidence.damaged()) {
        found.extend(log_of(evidence, bytes).unwrap_or_default());
    }
    for entry in &evidence.entries {
        if matches!(&entry.call, Call::Append { path: at } if at == path)
            && entry.is_done()
            && !found.contains(&entry.id)
        {
            wrong.push(format!("LOST the line #{} of {path} ({:?})", entry.id, entry.side));
        }
    }
}

/// The newest acknowledged value of each slot, or a newer one that was tried, is in the file or in a conflict
/// copy; every value was written into that slot of that file.
fn check_slots(evidence: &Evidence, path: &str, wrong: &mut Vec<String>) {
    let mut found = vec![BTreeSet::new(); evidence.slots];
    for bytes in seen_at(evidence, path) {
        match content::read_slots(bytes, evidence.slots) {
            Some(held) => held.iter().zip(&mut found).for_each(|(id, found)| {
                found.insert(*id);
            }),
            None => wrong.push(format!("INVENTED text in {path}: {}", tell(Some(bytes)))),
        }
    }
    for bytes in evidence.copies.values().chain(evidence.damaged()) {
        let held = content::read_slots(bytes, evidence.slots).unwrap_or_default();
        held.iter().zip(&mut found).for_each(|(id, found)| {
            found.insert(*id);
        });
    }
    for (slot, found) in found.iter().enumerate() {
        let of_slot = evidence.entries.iter().filter(|entry| {
            matches!(&entry.call, Call::Slot { path: at } if at == path)
                && entry.writer * 2 + entry.side.index() == slot
        });
        let tried: Vec<Id> = of_slot.clone().map(|entry| entry.id).collect();
        let newest = of_slot.filter(|entry| entry.is_done()).map(|entry| entry.id).next_back();
        if let Some(newest) = newest {
            let newer = tried.iter().skip_while(|id| **id != newest);
            if !newer.into_iter().any(|id| found.contains(id)) {
                wrong.push(format!("LOST slot {slot} of {path}: #{newest}, found only {found:?}"));
            }
        }
        let known = |id: &Id| *id == 0 || evidence.entries.iter().any(|entry| entry.id == *id);
        if let Some(strange) = found.iter().find(|id| !known(id)) {
            wrong.push(format!("INVENTED value in slot {slot} of {path}: {strange}"));
        }
    }
}

/// What is at a path: at the server and in both mounts.
fn seen_at<'run>(evidence: &'run Evidence, path: &str) -> impl Iterator<Item = &'run Vec<u8>> {
    let shown = evidence.shown.iter().filter_map(move |shown| shown.get(path));
    let shown: Vec<&Vec<u8>> = shown.collect();
    evidence.server.get(path).into_iter().chain(shown)
}
