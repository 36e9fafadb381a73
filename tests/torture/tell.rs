//! What is told of a run that went wrong: enough to understand it from the output alone, and all of it in a folder.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::run::{Evidence, tell};
use crate::story::{Side, Story};
use crate::world::World;
use crate::writer::Entry;

/// Lines of a log that are shown of each side.
const LINES: usize = 60;

/// Copies logs, accounts and state to where they outlive the run.
pub fn keep(world: &World, story: &Story, evidence: &Evidence, wrong: &[String]) -> PathBuf {
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", story.seed));
    drop(std::fs::remove_dir_all(&at));
    std::fs::create_dir_all(&at).unwrap();
    std::fs::write(at.join("story"), story.to_string()).unwrap();
    std::fs::write(at.join("wrong"), wrong.join("\n")).unwrap();
    let account: Vec<String> = evidence.entries.iter().map(tell_entry).collect();
    std::fs::write(at.join("account"), account.join("\n")).unwrap();
    let history: Vec<String> = evidence.history.iter().map(|event| format!("{event:?}")).collect();
    std::fs::write(at.join("history"), history.join("\n")).unwrap();
    let from = world.folder();
    let wanted = ["server-log", "A/log", "B/log", "A/state/mountd", "B/state/mountd", "storage"];
    for name in wanted {
        let to = at.join(name.replace('/', "-"));
        drop(std::process::Command::new("cp").arg("-r").arg(from.join(name)).arg(to).output());
    }
    at
}

fn tell_entry(entry: &Entry) -> String {
    format!(
        "{} {} #{} {:?}{} {:?} seen {} kept {:?}{} {}",
        entry.began,
        entry.ended,
        entry.id,
        entry.side,
        entry.writer,
        entry.call,
        tell(entry.seen.as_deref()),
        entry.kept,
        if entry.emptied { " emptied" } else { "" },
        entry.outcome.as_ref().map_or_else(ToString::to_string, |()| "done".to_owned()),
    )
}

/// What account, history and logs say of the paths that findings name.
pub fn excerpt(world: &World, evidence: &Evidence, wrong: &[String]) -> String {
    let paths = paths(wrong);
    let concerns = |line: &str| paths.iter().any(|path| line.contains(path.as_str()));
    let mut text = format!("about {paths:?}\n");
    let mut part = |title: &str, lines: &mut dyn Iterator<Item = String>| {
        let lines: Vec<String> = lines.collect();
        let from = lines.len().saturating_sub(LINES);
        writeln!(text, "--- {title}, {} of {} lines", lines.len() - from, lines.len()).unwrap();
        lines[from..].iter().for_each(|line| writeln!(text, "  {line}").unwrap());
    };
    let account = evidence.entries.iter().map(tell_entry);
    part("calls", &mut account.filter(|line| concerns(line)));
    let history = evidence.history.iter().filter(|event| paths.contains(&event.path));
    part("at the server", &mut history.map(|event| format!("{event:?}")));
    for side in Side::BOTH {
        let log = world.mount(side).log();
        let matters = |line: &&str| {
            concerns(line) || [" WARN ", " ERROR "].iter().any(|level| line.contains(level))
        };
        part(&format!("log of {side:?}"), &mut log.lines().filter(matters).map(str::to_owned));
    }
    text
}

/// The paths that are named in findings.
fn paths(wrong: &[String]) -> BTreeSet<String> {
    let ends = |c: char| c.is_whitespace() || "\",:;()".contains(c);
    let words = wrong.iter().take(20).flat_map(|what| what.split(ends));
    let is_path = |word: &&str| word.starts_with('/') && word.len() > 1;
    words.filter(is_path).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_findings() {
        let wrong = [
            r#"LOST 5 bytes of #1 (A1 Write { path: "/d2/f1", size: 5 }): nowhere"#.to_owned(),
            "DIVERGED /shared/f0: the server has nothing".to_owned(),
        ];
        assert_eq!(paths(&wrong).into_iter().collect::<Vec<_>>(), ["/d2/f1", "/shared/f0"]);
    }
}
