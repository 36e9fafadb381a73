//! The remote of the model: keeps its promises and nothing more. One counter gives out revisions;
//! every change is checked against its condition, logged as an event, and remembered for the checks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::forgetting::Backup;
use super::plants::Plant;
use super::story::Server;
use crate::digest::Digest;
use crate::engine::plan::Item;
use crate::path::WsPath;
use crate::record::Op;
use crate::remote::{
    Capabilities, EventChange, Metadata, Outcome, RemoteEntry, RemoteFile, ServerId, Size,
};
use crate::revision::{Precondition, Revision};

/// A content, told apart by number. 0 is the empty one, which is nobody's.
pub(super) use super::texts::{Bytes, body, number};

pub(super) fn digest(bytes: Bytes) -> Digest {
    Digest::of(&body(bytes))
}

pub(super) fn revision(n: u64) -> Option<Revision> {
    Revision::new(&format!("rev_{n}"))
}

/// What an accepted change replaced at one path, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) path: WsPath,
    pub(super) old: Option<Bytes>,
    pub(super) new: Option<Bytes>,
    /// Where the server itself took it from.
    pub(super) moved_from: Option<WsPath>,
}

#[derive(Debug)]
pub(super) struct Remote {
    server: Server,
    plant: Plant,
    pub(super) files: BTreeMap<WsPath, (u64, Bytes)>,
    pub(super) folders: BTreeSet<WsPath>,
    pub(super) counter: u64,
    /// All events; the number of the first is 1.
    pub(super) log: Vec<EventChange>,
    /// Events up to this number are not kept.
    pub(super) expired: u64,
    /// Every content that was ever here.
    pub(super) seen: BTreeSet<Bytes>,
    /// What each path had, one after another.
    pub(super) versions: BTreeMap<WsPath, Vec<Option<Bytes>>>,
    /// Which content each revision is.
    pub(super) contents: HashMap<Revision, Bytes>,
    /// Which content each digest is.
    pub(super) digests: HashMap<Digest, Bytes>,
    identities: HashMap<String, Outcome>,
    pub(super) backup: Backup,
    /// Contents that were here before it went back.
    pub(super) forgotten: BTreeSet<Bytes>,
    /// Revisions up to this one may have been given out twice.
    pub(super) ambiguous: u64,
    /// For each time that it went back, the event up to which the history stayed the same.
    pub(super) history: Vec<u64>,
    pub(super) id: u128,
}

impl Remote {
    pub(super) fn new(server: Server, plant: Plant) -> Self {
        Self {
            server,
            plant,
            files: BTreeMap::new(),
            folders: BTreeSet::new(),
            counter: 0,
            log: Vec::new(),
            expired: 0,
            seen: BTreeSet::from([0]),
            versions: BTreeMap::new(),
            contents: HashMap::new(),
            digests: HashMap::from([(digest(0), 0)]),
            identities: HashMap::new(),
            backup: Backup::default(),
            forgotten: BTreeSet::new(),
            ambiguous: 0,
            history: Vec::new(),
            id: 1,
        }
    }

    pub(super) fn forget_identities(&mut self) {
        self.identities.clear();
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let extended = self.server.extended;
        Capabilities {
            bulk_delete: extended,
            bulk_move: extended,
            metadata: extended,
            directories: extended,
            raw: extended,
            exact_size: extended,
            server: extended.then_some(ServerId(self.id)),
            ..Capabilities::default()
        }
    }

    /// The number of the newest event.
    pub(super) fn newest(&self) -> u64 {
        self.log.len() as u64
    }

    fn size(&self, bytes: Bytes) -> Size {
        let len = body(bytes).len() as u64;
        if self.server.extended { Size::Exact(len) } else { Size::AtMost(len + 4) }
    }

    /// One file, with its bytes.
    pub(super) fn read(&self, path: &WsPath) -> Option<RemoteFile> {
        let (at, bytes) = self.files.get(path)?;
        Some(RemoteFile {
            path: path.clone(),
            revision: revision(*at),
            digest: Some(digest(*bytes)),
            size: Size::Exact(body(*bytes).len() as u64),
            edited_at: None,
            metadata: Metadata::default(),
            body: Some(body(*bytes)),
        })
    }

    fn event(&self, path: &WsPath) -> Option<RemoteFile> {
        let file = self.read(path)?;
        if self.server.inlines {
            return Some(file);
        }
        // The original protocol does not name the size.
        let size = if self.server.extended { file.size } else { Size::AtMost(u64::MAX) };
        Some(RemoteFile { size, body: None, ..file })
    }

    /// All folders: those of their own, and those that hold something.
    pub(super) fn folders(&self) -> BTreeSet<WsPath> {
        let mut all = self.folders.clone();
        for path in self.files.keys().chain(&self.folders) {
            let mut above = path.parent();
            while let Some(folder) = above.filter(|folder| !folder.is_root()) {
                above = folder.parent();
                all.insert(folder);
            }
        }
        all
    }

    /// The entries of a listing after a path, in order.
    pub(super) fn list(&self, after: Option<&WsPath>, paths_max: usize) -> Vec<RemoteEntry> {
        let mut all: BTreeMap<WsPath, Vec<RemoteEntry>> = BTreeMap::new();
        for path in self.folders() {
            let explicit = self.folders.contains(&path);
            let entry = RemoteEntry::Dir { path: path.clone(), explicit, mode: None };
            all.entry(path).or_default().push(entry);
        }
        for (path, (_, bytes)) in &self.files {
            let Some(file) = self.read(path) else { continue };
            let digest = file.digest.filter(|_| self.server.lists_digests);
            let listed = RemoteFile { body: None, digest, size: self.size(*bytes), ..file };
            all.entry(path.clone()).or_default().push(RemoteEntry::File(listed));
        }
        all.retain(|path, _| after.is_none_or(|after| path > after));
        all.into_values().take(paths_max).flatten().collect()
    }

    pub(super) fn note_version(&mut self, path: &WsPath, bytes: Option<Bytes>) {
        self.versions.entry(path.clone()).or_default().push(bytes);
    }

    pub(super) fn store(&mut self, path: &WsPath, bytes: Bytes) -> Option<Revision> {
        self.counter += 1;
        self.files.insert(path.clone(), (self.counter, bytes));
        self.seen.insert(bytes);
        self.digests.insert(digest(bytes), bytes);
        self.note_version(path, Some(bytes));
        let revision = revision(self.counter);
        if self.counter > self.ambiguous {
            self.contents.extend(revision.clone().map(|revision| (revision, bytes)));
        }
        self.log.extend(self.event(path).map(EventChange::Stored));
        revision
    }

    pub(super) fn remove(&mut self, path: &WsPath) -> Option<Revision> {
        self.counter += 1;
        self.files.remove(path);
        self.note_version(path, None);
        let revision = revision(self.counter);
        self.log.push(EventChange::Deleted { path: path.clone(), revision: revision.clone() });
        revision
    }

    fn holds(&self, path: &WsPath, precondition: &Precondition) -> bool {
        let current = self.files.get(path).and_then(|(at, _)| revision(*at));
        match precondition {
            _ if self.plant == Plant::IgnoredConditions => true,
            Precondition::Absent => current.is_none(),
            Precondition::Match(wanted) => current.as_ref() == Some(wanted),
            Precondition::UnmodifiedSince(_) => unreachable!("revisions are always known here"),
        }
    }

    fn is_folder(&self, path: &WsPath) -> bool {
        let below = |other: &WsPath| other != path && other.is_within(path);
        self.folders.contains(path) || self.holds_entries(path, below)
    }

    fn holds_entries(&self, _: &WsPath, below: impl Fn(&WsPath) -> bool) -> bool {
        self.files.keys().chain(&self.folders).any(below)
    }

    fn accepted(&self, revision: Option<Revision>) -> Outcome {
        let revision = match self.plant {
            // Names what is newest at the moment of the reply, not what was stored.
            Plant::WrongRevision => super::remote::revision(self.counter + 1),
            _ => revision,
        };
        Outcome::Accepted { revision: revision.filter(|_| self.server.names_revisions) }
    }

    /// What the server does with one change of a request, and what that replaced.
    pub(super) fn apply(&mut self, item: &Item, bytes: Option<Bytes>) -> (Outcome, Vec<Replaced>) {
        let identity = item.record.identity(bytes.map(digest).as_ref());
        let plain_put = item.op == Op::Put && item.moved_from.is_none();
        if plain_put && let Some(outcome) = self.identities.get(&identity) {
            return (outcome.clone(), Vec::new());
        }
        let path = &item.path;
        let there = self.files.get(path).copied();
        let conflict = Outcome::Conflict { current: there.and_then(|(at, _)| revision(at)) };
        let old = there.map(|(_, bytes)| bytes);
        let replaced = |new| {
            let moved_from = item.moved_from.as_ref().map(|(from, _)| from.clone());
            vec![Replaced { path: path.clone(), old, new, moved_from }]
        };
        match (item.op, &item.moved_from) {
            (Op::MakeDir, _) if there.is_some() => (conflict, Vec::new()),
            (Op::MakeDir, _) => {
                if self.folders.insert(path.clone()) {
                    self.log.push(EventChange::DirCreated { path: path.clone() });
                }
                (Outcome::Accepted { revision: None }, Vec::new())
            }
            (Op::RemoveDir, _) => {
                let below = |other: &WsPath| other != path && other.is_within(path);
                if self.holds_entries(path, below) {
                    return (Outcome::NotEmpty, Vec::new());
                }
                if !self.folders.remove(path) {
                    return (Outcome::Absent, Vec::new());
                }
                self.log.push(EventChange::DirDeleted { path: path.clone() });
                (Outcome::Accepted { revision: None }, Vec::new())
            }
            (Op::Delete, _) if there.is_none() => (Outcome::Absent, Vec::new()),
            _ if !self.holds(path, &item.precondition) => (conflict, Vec::new()),
            (Op::Delete, _) => {
                let outcome = Outcome::Accepted { revision: self.remove(path) };
                (outcome, replaced(None))
            }
            (Op::Put, Some((from, precondition))) => {
                let Some((_, bytes)) = self.files.get(from).copied() else {
                    return (Outcome::Absent, Vec::new());
                };
                if !self.holds(from, precondition) {
                    return (conflict, Vec::new());
                }
                let mut all = replaced(Some(bytes));
                all.push(Replaced {
                    path: from.clone(),
                    old: Some(bytes),
                    new: None,
                    moved_from: None,
                });
                let revision = self.store(path, bytes);
                self.remove(from);
                (self.accepted(revision), all)
            }
            (Op::Put, None) => {
                let bytes = bytes.expect("a put has bytes");
                let revision = self.store(path, bytes);
                let outcome = self.accepted(revision);
                self.identities.insert(identity, outcome.clone());
                (outcome, replaced(Some(bytes)))
            }
            (Op::Meta, _) => {
                let Some((_, bytes)) = there else { return (conflict, Vec::new()) };
                let revision = self.store(path, bytes);
                (self.accepted(revision), Vec::new())
            }
        }
    }

    /// Whether somebody else may store a file here: the model's other writers make no file of a
    /// folder's name, which a mount can only report.
    pub(super) fn takes_file(&self, path: &WsPath) -> bool {
        let mut above = path.parent();
        while let Some(folder) = above {
            if self.files.contains_key(&folder) {
                return false;
            }
            above = folder.parent();
        }
        !self.is_folder(path)
    }

    /// Paths at which, or below which, a file and a folder share a name.
    pub(super) fn collisions(&self) -> Vec<WsPath> {
        self.files.keys().filter(|path| self.is_folder(path)).cloned().collect()
    }
}
