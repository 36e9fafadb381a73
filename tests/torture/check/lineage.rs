//! What may have replaced what.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::contents::{Contents, Found};
use super::is_text;
use crate::content;
use crate::run::Evidence;
use crate::story::{Call, How, Id};
use crate::world::Event;
use crate::writer::{ASIDE, Entry};

/// The calls of a run and what they may have done to each other's bytes.
pub(super) struct Lineage<'run> {
    evidence: &'run Evidence,
    contents: &'run Contents<'run>,
    /// Calls that replace or remove what is at a path.
    by_path: BTreeMap<String, Vec<&'run Entry>>,
    /// Calls that bring the content of other paths.
    moves: Vec<&'run Entry>,
    /// When bytes of a call first arrived at the server.
    arrived: HashMap<Id, i128>,
    /// Calls of which anything was ever seen.
    existed: HashSet<Id>,
    places: RefCell<HashMap<Id, BTreeSet<String>>>,
}

/// What a call knew about what it replaced.
enum Knowledge {
    /// This content was read through the same descriptor.
    Read(Vec<Found>),
    /// Whatever was there.
    Anything,
}

impl<'run> Lineage<'run> {
    pub(super) fn new(evidence: &'run Evidence, contents: &'run Contents<'run>) -> Self {
        let mut by_path: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
        let mut moves = Vec::new();
        for entry in &evidence.entries {
            match &entry.call {
                Call::Write { path, .. } | Call::Truncate { path, .. } | Call::Remove { path } => {
                    by_path.entry(path.clone()).or_default().push(entry);
                }
                Call::Rename { from, to } => {
                    by_path.entry(from.clone()).or_default().push(entry);
                    by_path.entry(to.clone()).or_default().push(entry);
                    moves.push(entry);
                }
                Call::MoveDir { .. } => moves.push(entry),
                _ => {}
            }
        }
        let (mut arrived, mut existed) = (HashMap::new(), HashSet::new());
        for event in &evidence.history {
            for found in event.digest.iter().flat_map(|digest| contents.of_digest(digest)) {
                existed.insert(found.id);
                arrived.entry(found.id).or_insert(event.at);
            }
        }
        for bytes in super::places(evidence) {
            existed.extend(contents.of(bytes).iter().map(|found| found.id));
        }
        let places = RefCell::default();
        Self { evidence, contents, by_path, moves, arrived, existed, places }
    }

    /// Whether something that happened may have replaced what a call made.
    pub(super) fn was_replaced(&self, entry: &Entry) -> bool {
        self.places(entry).iter().any(|path| {
            let calls = self.by_path.get(path).into_iter().flatten();
            calls.filter(|call| call.id != entry.id).any(|call| {
                self.took_place(call) && !is_source(call, path) && self.may_replace(call, entry)
            })
        })
    }

    /// A call that failed may have done its work all the same, unless it was refused. One that empties a file
    /// and then fails leaves it empty.
    fn took_place(&self, call: &Entry) -> bool {
        let at_once = matches!(call.call, Call::Remove { .. } | Call::Rename { .. });
        let emptied = || empties_first(&call.call) && self.is_empty_somewhere(call.path());
        call.is_done()
            || call.emptied
            || self.existed.contains(&call.id)
            || (call.may_have_happened() && (at_once || emptied()))
    }

    /// Whether an empty file was ever seen at a path, or is in a conflict copy.
    fn is_empty_somewhere(&self, path: &str) -> bool {
        let empty = content::digest(b"");
        self.evidence.server.get(path).is_some_and(Vec::is_empty)
            || self.evidence.copies.values().any(Vec::is_empty)
            || self
                .evidence
                .history
                .iter()
                .any(|event| event.path == path && event.digest.as_deref() == Some(empty.as_str()))
    }

    /// Paths at which the bytes of a call may ever have been.
    fn places(&self, entry: &Entry) -> BTreeSet<String> {
        if let Some(known) = self.places.borrow().get(&entry.id) {
            return known.clone();
        }
        let mut places = BTreeSet::from([entry.path().to_owned()]);
        loop {
            let mut more = BTreeSet::new();
            for call in &self.moves {
                for path in &places {
                    if let Some(to) = moved(&call.call, path)
                        && (call.ended > entry.began || !call.is_done())
                        && call.may_have_happened()
                        && !places.contains(&to)
                    {
                        more.insert(to);
                    }
                }
            }
            if more.is_empty() {
                break;
            }
            places.append(&mut more);
        }
        self.places.borrow_mut().insert(entry.id, places.clone());
        places
    }

    /// Whether `call` may rightly have replaced what `entry` made.
    fn may_replace(&self, call: &Entry, entry: &Entry) -> bool {
        let places = self.places(entry);
        let mut visited = HashSet::new();
        let mut waiting = vec![call];
        while let Some(call) = waiting.pop() {
            if !visited.insert(call.id) {
                continue;
            }
            match self.knowledge(call) {
                Knowledge::Anything => {
                    if places.contains(call.path()) && self.was_there(entry, call) {
                        return true;
                    }
                }
                Knowledge::Read(found) => {
                    for found in found {
                        let Some(read) = self.contents.entry(found.id) else { continue };
                        if read.id == entry.id && found.length >= entry.kept.unwrap_or(0) {
                            return true;
                        }
                        waiting.push(read);
                    }
                }
            }
        }
        false
    }

    fn knowledge(&self, call: &Entry) -> Knowledge {
        let read = match &call.call {
            Call::Write { how: How::Seen, .. } | Call::Truncate { .. } => call.seen.as_ref(),
            _ => None,
        };
        match read {
            // Who emptied it is not to be seen.
            Some(read) if !read.is_empty() => Knowledge::Read(self.contents.of(read)),
            _ => Knowledge::Anything,
        }
    }

    /// Whether the bytes of `entry` can have been in the view of `call`'s mount before `call` ended.
    fn was_there(&self, entry: &Entry, call: &Entry) -> bool {
        if call.side == entry.side {
            return entry.began < call.ended;
        }
        self.arrived.get(&entry.id).is_some_and(|arrived| *arrived < call.ended)
    }

    /// Contents at the server that were replaced by a call that cannot have known them.
    pub(super) fn blind_replacements(&self) -> Vec<String> {
        let mut current: BTreeMap<&str, Vec<Found>> = BTreeMap::new();
        let mut wrong = Vec::new();
        // Text is merged, and a name beside its place is its writer's alone.
        let concerns = |event: &&Event| {
            event.kind.starts_with("file.") && !is_text(&event.path) && !event.path.contains(ASIDE)
        };
        for event in self.evidence.history.iter().filter(concerns) {
            let path = event.path.as_str();
            let new = event.digest.iter().flat_map(|digest| self.contents.of_digest(digest));
            let new: Vec<Found> = new.collect();
            let old = current.remove(path).unwrap_or_default();
            if event.kind == "file.deleted" {
                if !old.is_empty() && !self.may_go(path, &old) {
                    wrong.push(format!("BLIND removal of {path}, {old:?}, at {}", event.revision));
                }
                continue;
            }
            // What is not known was seen half-way; what follows it is compared with what was before.
            if new.is_empty() {
                current.insert(path, old);
                continue;
            }
            if !old.is_empty() && !self.may_follow(path, &old, &new) {
                wrong.push(format!(
                    "BLIND replacement at {path}: {new:?} took the place of {old:?} at {}",
                    event.revision
                ));
            }
            current.insert(path, new);
        }
        wrong
    }

    fn may_go(&self, path: &str, old: &[Found]) -> bool {
        let removes = |call: &Entry| match &call.call {
            Call::Remove { .. } => true,
            Call::Rename { from, .. } => from == path,
            _ => false,
        };
        let calls = self.by_path.get(path).into_iter().flatten().copied();
        let calls = calls.filter(|call| call.may_have_happened());
        let folders = self.moves.iter().copied().filter(|call| moved(&call.call, path).is_some());
        calls.filter(|call| removes(call)).chain(folders).any(|call| self.any_was_there(old, call))
    }

    fn may_follow(&self, path: &str, old: &[Found], new: &[Found]) -> bool {
        let wrote = new.iter().any(|new| {
            let Some(call) = self.contents.entry(new.id) else { return false };
            call.path() == path
                && old.iter().any(|old| {
                    // More of the same call, or less of it: it was seen while it was written.
                    old.id == new.id
                        || self
                            .contents
                            .entry(old.id)
                            .is_some_and(|old| self.may_replace(call, old))
                })
        });
        let brings = |call: &&Entry| match &call.call {
            Call::Rename { to, .. } => to == path,
            Call::MoveDir { to, .. } => path.starts_with(&format!("{to}/")),
            _ => false,
        };
        wrote || self.moves.iter().copied().filter(brings).any(|call| self.any_was_there(old, call))
    }

    fn any_was_there(&self, found: &[Found], call: &Entry) -> bool {
        found.iter().any(|found| {
            self.contents.entry(found.id).is_some_and(|entry| self.was_there(entry, call))
        })
    }
}

/// Whether a call makes the file empty before it fills it.
fn empties_first(call: &Call) -> bool {
    matches!(call, Call::Write { how: How::Truncate | How::Seen, .. } | Call::Truncate { .. })
}

/// A rename takes content away from its source, and destroys none.
fn is_source(call: &Entry, path: &str) -> bool {
    matches!(&call.call, Call::Rename { from, .. } if from == path)
}

/// Where a move brings what is at a path.
fn moved(call: &Call, path: &str) -> Option<String> {
    match call {
        Call::Rename { from, to } if from == path => Some(to.clone()),
        Call::MoveDir { from, to } => {
            let rest = path.strip_prefix(from.as_str())?;
            rest.starts_with('/').then(|| format!("{to}{rest}"))
        }
        _ => None,
    }
}
