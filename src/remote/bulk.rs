//! From the reply to a bulk request to one outcome per change.
//!
//! Replies carry no index and may leave changes out, so they are matched by path; a change that the
//! reply does not name, or names in two ways, is unknown and must be read back.
//!
//! A server that has seen a change's identity before answers with the result of that first time
//! and stores nothing. That counts as accepted only under our own path: a result under another
//! path, or for another identity, is about somebody else's change. Pure; no I/O.

use std::collections::HashMap;

use super::classify::for_people;
use super::scope::Scope;
use super::wire::{WireBulk, WireError, WireResult};
use super::{BulkEntry, Outcome};
use crate::revision::Revision;

/// The path as the server stores it: trimmed, with a leading slash, without one trailing slash.
fn normalise(path: &str) -> String {
    let path = path.trim();
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The outcomes of `entries`, in their order.
pub(super) fn outcomes(entries: &[&BulkEntry], scope: &Scope, reply: WireBulk) -> Vec<Outcome> {
    let places: HashMap<String, usize> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (scope.remote(&entry.path).to_string(), index))
        .collect();
    debug_assert_eq!(places.len(), entries.len(), "two entries of one request share a path");
    let mut found: Vec<Option<Outcome>> = vec![None; entries.len()];
    let mut note = |path: &str, outcome: &dyn Fn(&BulkEntry) -> Outcome| {
        // A server that keeps white space names the path as it was sent.
        let place = places.get(path).or_else(|| places.get(&normalise(path)));
        let Some(&index) = place else { return };
        let outcome = outcome(entries[index]);
        let slot = &mut found[index];
        *slot = match slot.take() {
            // The same said twice is no contradiction; two things said are.
            Some(before) if before != outcome => Some(Outcome::Unknown),
            _ => Some(outcome),
        };
    };
    for error in reply.errors.0 {
        note(&error.path, &|_| refused(&error));
    }
    for result in reply.results.0 {
        note(&result.path, &|entry| accepted(entry, &result));
    }
    found.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Unknown)).collect()
}

fn accepted(entry: &BulkEntry, result: &WireResult) -> Outcome {
    match &result.content_identity {
        Some(identity) if identity.key != entry.identity => Outcome::Unknown,
        _ => Outcome::Accepted { revision: Revision::new(&result.revision) },
    }
}

fn refused(error: &WireError) -> Outcome {
    match error.code.as_str() {
        "conflict" | "revision_conflict" | "precondition_failed" => {
            Outcome::Conflict { current: Revision::new(&error.current_revision) }
        }
        "not_found" => Outcome::Absent,
        "not_empty" => Outcome::NotEmpty,
        "internal_error" | "unavailable" | "" => Outcome::Unknown,
        code => Outcome::Refused { code: for_people(code), message: for_people(&error.message) },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::path::WsPath;
    use crate::remote::{BulkChange, Metadata};
    use crate::revision::Precondition;

    #[track_caller]
    fn check(paths: &[&str], reply: &str, expected: &[Outcome]) {
        let entries: Vec<_> = paths
            .iter()
            .map(|path| BulkEntry {
                path: WsPath::parse(path).unwrap(),
                identity: format!("key{path}"),
                change: BulkChange::Put {
                    body: Bytes::new(),
                    precondition: Precondition::Absent,
                    metadata: Metadata::default(),
                },
            })
            .collect();
        let entries: Vec<_> = entries.iter().collect();
        let scope = Scope::new(WsPath::parse("/r").unwrap());
        let reply = serde_json::from_str(reply).unwrap();
        assert_eq!(outcomes(&entries, &scope, reply), expected);
    }

    fn accepted(revision: &str) -> Outcome {
        Outcome::Accepted { revision: Revision::new(revision) }
    }

    #[test]
    fn each_change_gets_its_own_outcome() {
        check(
            &["/a", "/b", "/c", "/d", "/e", "/f", "/g"],
            r#"{"written":1,"errors":[
                {"path":"/r/b","code":"conflict","currentRevision":"rev_8"},
                {"path":"/r/c","code":"conflict"},
                {"path":"/r/d","code":"forbidden","message":"no"},
                {"path":"/r/e","code":"internal_error"},
                {"path":"/r/g","code":"not_found"}],
              "results":[{"path":"/r/a","revision":"rev_9"},{"path":"/elsewhere","revision":"x"}]}"#,
            &[
                accepted("rev_9"),
                Outcome::Conflict { current: Revision::new("rev_8") },
                Outcome::Conflict { current: None },
                Outcome::Refused { code: "forbidden".into(), message: "no".into() },
                Outcome::Unknown,
                Outcome::Unknown,
                Outcome::Absent,
            ],
        );
        check(&["/a"], r#"{"results":null,"errors":null}"#, &[Outcome::Unknown]);
        check(&["/a"], r#"{"results":[{"path":"r/a/","revision":""}]}"#, &[accepted("")]);
    }

    #[test]
    fn a_result_of_another_time_counts_only_under_our_path_and_identity() {
        let one = r#"{"path":"/r/a","revision":"rev_13","contentIdentity":{"key":"key/a"}}"#;
        // The second result answers the entry for `/b`, which was not stored.
        check(
            &["/a", "/b"],
            &format!(r#"{{"written":1,"results":[{one},{one}]}}"#),
            &[accepted("rev_13"), Outcome::Unknown],
        );
        check(
            &["/a"],
            r#"{"results":[{"path":"/r/a","revision":"rev_1","contentIdentity":{"key":"k9"}}]}"#,
            &[Outcome::Unknown],
        );
        check(
            &["/a"],
            r#"{"results":[{"path":"/r/a","revision":"rev_1"}],
                "errors":[{"path":"/r/a","code":"conflict"}]}"#,
            &[Outcome::Unknown],
        );
    }
}
