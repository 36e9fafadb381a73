//! What a check of a state folder found, for people.

use crate::api::{CheckReply, Finding, FindingOutcome};
use crate::text::{harmless, shell_word};
use crate::units;

/// Returns the lines that tell it.
pub fn lines(reply: &CheckReply) -> Vec<String> {
    let mut lines: Vec<String> =
        reply.findings.iter().flat_map(|one| finding(one, reply)).collect();
    let mut looked = vec![format!(
        "{} ({})",
        units::counted(reply.contents, "content"),
        units::size(reply.bytes)
    )];
    if reply.copies > 0 {
        let noun = if reply.copies == 1 { "conflict copy" } else { "conflict copies" };
        looked.push(format!("{} {noun}", units::count(reply.copies)));
    }
    if reply.busy > 0 {
        looked.push(format!("{} being written and left alone", units::count(reply.busy)));
    }
    let found = match reply.findings.len() as u64 {
        0 => "all as it should be".to_owned(),
        1 => "1 thing is not as it should be".to_owned(),
        n => format!("{} things are not as they should be", units::count(n)),
    };
    let changed = if reply.dry_run { "; nothing was changed" } else { "" };
    lines.push(format!(
        "{}: looked at {}: {found}{changed}",
        harmless(&reply.name),
        looked.join(", ")
    ));
    let has = |outcome| reply.findings.iter().any(|finding| finding.outcome == outcome);
    let name = shell_word(&reply.name);
    if has(FindingOutcome::NeedsPerson) {
        lines
            .push(format!("  next: mountctl outbox list -m {name} · mountctl conflicts -m {name}"));
    }
    if reply.running && has(FindingOutcome::Left) {
        lines.push(format!("  next: mountctl unmount -m {name}, then mountctl repair -m {name}"));
    } else if reply.dry_run && !reply.findings.is_empty() {
        lines.push(format!("  next: mountctl repair -m {name}"));
    }
    lines
}

fn finding(finding: &Finding, reply: &CheckReply) -> Vec<String> {
    let place = match &finding.path {
        Some(path) => format!("{path} ({})", finding.name),
        None => finding.name.clone(),
    };
    let outcome = finding.outcome.words();
    let would = if reply.dry_run { "would be " } else { "" };
    let would = if finding.outcome == FindingOutcome::Left { "" } else { would };
    let mut lines = vec![
        format!("{:<11}{}", harmless(&finding.wrong), harmless(&place)),
        format!("  why      {}", harmless(&finding.why)),
        format!("  outcome  {would}{outcome}"),
    ];
    lines.extend(finding.kept.iter().map(|kept| format!("  kept     {}", harmless(kept))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_why_and_what_became_of_it() {
        let finding = Finding {
            object: "working_file".to_owned(),
            wrong: "mismatched".to_owned(),
            path: Some("/a\u{1b}b".to_owned()),
            name: "files/7".to_owned(),
            why: "the checksum of block 3 does not match".to_owned(),
            outcome: FindingOutcome::NeedsPerson,
            kept: Some("/s/files/7.corrupt.T".to_owned()),
        };
        let mut reply = CheckReply {
            name: "ws".to_owned(),
            contents: 2,
            bytes: 2048,
            findings: vec![finding],
            ..CheckReply::default()
        };
        assert_eq!(
            lines(&reply),
            [
                "mismatched /a\\u{1b}b (files/7)",
                "  why      the checksum of block 3 does not match",
                "  outcome  kept, needs a person",
                "  kept     /s/files/7.corrupt.T",
                "ws: looked at 2 contents (2.0 KiB): 1 thing is not as it should be",
                "  next: mountctl outbox list -m ws · mountctl conflicts -m ws",
            ]
        );
        reply.findings.clear();
        reply.dry_run = true;
        let text = "ws: looked at 2 contents (2.0 KiB): all as it should be; nothing was changed";
        assert_eq!(lines(&reply), [text]);
    }
}
