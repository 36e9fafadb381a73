//! A model test: random local work, other writers, lost replies, crashes and restarts, against a
//! remote that keeps its promises and nothing more.
//!
//! Only the engine's decisions run here, with a clock and a disk of the test's own, so thousands of
//! histories take a second. When everything has calmed down the tree must be the remote's, and
//! every content that was written here must be accounted for. A failing history prints its seed:
//! `MODEL_SEED=… cargo test -p mountd --lib model`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::core::{Changes, Core, Now, Settings};
use super::inbound::Source;
use super::local::{Creator, Sealed};
use super::plan::{Item, ItemSource, Task};
use super::rename::RenameMode;
use super::replies::Answer;
use crate::digest::Digest;
use crate::node::{BlobId, Content, FileBody, Ino, Kind, Node};
use crate::path::WsPath;
use crate::record::{ConflictRow, Op, Record, Seq};
use crate::remote::{Capabilities, EventChange, Metadata, Outcome, RemoteError, RemoteFile, Size};
use crate::revision::{Precondition, Revision};
use crate::store::{Loaded, Row};

/// A content, told apart by number.
type Bytes = u64;

/// The remote: files by path, a counter, events not delivered yet.
#[derive(Default)]
struct Remote {
    files: BTreeMap<WsPath, (u64, Bytes)>,
    folders: BTreeSet<WsPath>,
    counter: u64,
    events: Vec<EventChange>,
    /// Every content that was ever here.
    seen: BTreeSet<Bytes>,
    identities: HashMap<String, Outcome>,
}

fn digest(bytes: Bytes) -> Digest {
    Digest::of(&bytes.to_le_bytes())
}

fn revision(n: u64) -> Option<Revision> {
    Revision::new(&format!("rev_{n}"))
}

impl Remote {
    fn file(&self, path: &WsPath) -> Option<RemoteFile> {
        let (at, bytes) = self.files.get(path)?;
        Some(RemoteFile {
            path: path.clone(),
            revision: revision(*at),
            digest: Some(digest(*bytes)),
            size: Size::Exact(8),
            edited_at: None,
            metadata: Metadata::default(),
            body: None,
        })
    }

    fn store(&mut self, path: &WsPath, bytes: Bytes) -> Outcome {
        self.counter += 1;
        self.files.insert(path.clone(), (self.counter, bytes));
        self.seen.insert(bytes);
        self.events.extend(self.file(path).map(EventChange::Stored));
        Outcome::Accepted { revision: revision(self.counter) }
    }

    fn remove(&mut self, path: &WsPath) -> Outcome {
        self.counter += 1;
        self.files.remove(path);
        let revision = revision(self.counter);
        self.events.push(EventChange::Deleted { path: path.clone(), revision: revision.clone() });
        Outcome::Accepted { revision }
    }

    fn holds(&self, path: &WsPath, precondition: &Precondition) -> bool {
        let current = self.files.get(path).and_then(|(at, _)| revision(*at));
        match precondition {
            Precondition::Absent => current.is_none(),
            Precondition::Match(wanted) => current.as_ref() == Some(wanted),
            Precondition::UnmodifiedSince(_) => unreachable!("revisions are always known here"),
        }
    }

    /// What the server does with one item of a request.
    fn apply(&mut self, item: &Item, bytes: Option<Bytes>) -> Outcome {
        let identity = item.record.identity(bytes.map(digest).as_ref());
        if item.op == Op::Put
            && item.moved_from.is_none()
            && let Some(outcome) = self.identities.get(&identity)
        {
            return outcome.clone();
        }
        let current = self.files.get(&item.path).and_then(|(at, _)| revision(*at));
        let conflict = Outcome::Conflict { current };
        match (item.op, &item.moved_from) {
            (Op::MakeDir, _) => {
                self.folders.insert(item.path.clone());
                Outcome::Accepted { revision: None }
            }
            (Op::RemoveDir, _) => {
                self.folders.remove(&item.path);
                Outcome::Accepted { revision: None }
            }
            (Op::Delete, _) if !self.files.contains_key(&item.path) => Outcome::Absent,
            _ if !self.holds(&item.path, &item.precondition) => conflict,
            (Op::Delete, _) => self.remove(&item.path),
            (Op::Put, Some((from, precondition))) => {
                let Some((_, bytes)) = self.files.get(from).copied() else {
                    return Outcome::Absent;
                };
                if !self.holds(from, precondition) {
                    return conflict;
                }
                let outcome = self.store(&item.path, bytes);
                self.remove(from);
                outcome
            }
            (Op::Put, None) => {
                let outcome = self.store(&item.path, bytes.expect("a put has bytes"));
                self.identities.insert(identity, outcome.clone());
                outcome
            }
            (Op::Meta, _) => {
                let bytes = self.files[&item.path].1;
                self.store(&item.path, bytes)
            }
        }
    }
}

/// What a crash leaves: the rows that were committed.
#[derive(Default, Clone)]
struct Disk {
    meta: HashMap<String, String>,
    nodes: BTreeMap<Ino, Node>,
    records: BTreeMap<Seq, Record>,
    recheck: BTreeSet<WsPath>,
    conflicts: Vec<ConflictRow>,
    removals: BTreeSet<WsPath>,
    blobs: BTreeSet<BlobId>,
}

impl Disk {
    fn commit(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row {
                Row::PutNode(node) => drop(self.nodes.insert(node.ino, *node)),
                Row::DeleteNode(ino) => drop(self.nodes.remove(&ino)),
                Row::PutBlob(id, _) => drop(self.blobs.insert(id)),
                Row::DeleteBlob(id) => {
                    self.blobs.remove(&id);
                }
                Row::PutRecord(record) => drop(self.records.insert(record.seq, *record)),
                Row::DeleteRecord(seq) => drop(self.records.remove(&seq)),
                Row::SetMeta(key, Some(value)) => drop(self.meta.insert(key.into(), value)),
                Row::SetMeta(key, None) => drop(self.meta.remove(key)),
                Row::PutRecheck(path) => drop(self.recheck.insert(path)),
                Row::DeleteRecheck(path) => drop(self.recheck.remove(&path)),
                Row::PutRemoval(path) => drop(self.removals.insert(path)),
                Row::DeleteRemoval(path) => drop(self.removals.remove(&path)),
                Row::PutImported(_) => unreachable!("nothing is carried here"),
                // Working files and damage are outside of the model.
                Row::PutSums(..) | Row::DeleteSums(_) | Row::Discard(_) => {}
                Row::PutConflict(conflict) => {
                    self.conflicts.retain(|other| other.id != conflict.id);
                    self.conflicts.push(*conflict);
                }
                Row::DeleteConflict(id) => self.conflicts.retain(|other| other.id != id),
            }
        }
    }

    fn load(&self) -> Loaded {
        Loaded {
            meta: self.meta.clone(),
            nodes: self.nodes.values().cloned().collect(),
            records: self.records.values().cloned().collect(),
            recheck: self.recheck.iter().cloned().collect(),
            conflicts: self.conflicts.clone(),
            removals: self.removals.iter().cloned().collect(),
            imported: HashSet::new(),
            blobs: self.blobs.iter().copied().collect(),
            ..Loaded::default()
        }
    }
}

/// A request on its way: sent by us, perhaps applied, not answered yet.
struct Request {
    items: Vec<(Item, Option<Bytes>)>,
    is_bulk: bool,
    outcomes: Option<Vec<Outcome>>,
}

struct World {
    random: SmallRng,
    core: Core,
    disk: Disk,
    remote: Remote,
    now: Now,
    blobs: HashMap<BlobId, Bytes>,
    next_bytes: Bytes,
    requests: Vec<Request>,
    tasks: Vec<Task>,
    /// Contents written here, and those that gave way to a later change made here.
    written: BTreeSet<Bytes>,
    superseded: BTreeSet<Bytes>,
    kept: BTreeSet<Bytes>,
    story: Vec<String>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        let (mut core, changes) = Core::new(Loaded::default(), Settings::default(), now, seed);
        let mut disk = Disk::default();
        disk.commit(changes.rows);
        let extended = random.random_bool(0.5);
        let capabilities = Capabilities {
            bulk_delete: extended,
            bulk_move: extended,
            directories: extended,
            ..Capabilities::default()
        };
        let mut changes = Changes::default();
        core.set_capabilities(capabilities, &mut changes);
        core.link.reached();
        disk.commit(changes.rows);
        Self {
            random,
            core,
            disk,
            remote: Remote::default(),
            now,
            blobs: HashMap::new(),
            next_bytes: 1,
            requests: Vec::new(),
            tasks: Vec::new(),
            written: BTreeSet::new(),
            superseded: BTreeSet::new(),
            kept: BTreeSet::new(),
            story: Vec::new(),
        }
    }

    fn step<T>(&mut self, act: impl FnOnce(&mut Core, Now, &mut Changes) -> T) -> T {
        let mut changes = Changes::default();
        let result = act(&mut self.core, self.now, &mut changes);
        self.disk.commit(changes.rows);
        result
    }

    /// Notes what happens; a history that is repeated by its seed is told as it goes.
    #[allow(clippy::print_stderr, clippy::disallowed_methods, reason = "for whoever repeats it")]
    fn tell(&mut self, text: impl Into<String>) {
        let text = text.into();
        if std::env::var("MODEL_SEED").is_ok() {
            eprintln!("{text}");
        }
        self.story.push(text);
    }

    fn new_bytes(&mut self) -> Bytes {
        self.next_bytes += 1;
        self.next_bytes
    }

    /// A content's number, where it is known here.
    fn bytes_of(&self, ino: Ino) -> Option<Bytes> {
        match self.core.tree.get(ino)?.body()?.content {
            Content::Blob(blob) => self.blobs.get(&blob).copied(),
            Content::Empty | Content::Remote | Content::File(_) => None,
        }
    }

    fn path(&mut self) -> WsPath {
        let depth = self.random.random_range(1..=2);
        let names: Vec<&str> =
            (0..depth).map(|_| *NAMES.choose(&mut self.random).unwrap()).collect();
        WsPath::parse(&format!("/{}", names.join("/"))).unwrap()
    }

    fn place(&self, path: &WsPath) -> Option<(Ino, String)> {
        let parent = self.core.tree.resolve(&path.parent()?)?;
        self.core.tree.children(parent)?;
        Some((parent, path.name()?.to_owned()))
    }

    fn supersede(&mut self, ino: Ino) {
        for ino in self.core.tree.subtree(ino) {
            self.superseded.extend(self.bytes_of(ino));
        }
    }

    fn local(&mut self) {
        let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
        let path = self.path();
        let Some((parent, name)) = self.place(&path) else { return };
        let there = self.core.tree.child(parent, &name);
        match self.random.random_range(0..10) {
            0..=3 => self.write(parent, &name, there),
            4 => {
                let kind = Kind::Dir { explicit: true };
                let made = self.step(|core, now, changes| {
                    core.create(parent, &name, kind, creator, now, changes)
                });
                if made.is_ok() {
                    self.tell(format!("mkdir {path}"));
                }
            }
            5 | 6 => {
                let Some(there) = there else { return };
                let before = self.superseded.clone();
                self.supersede(there);
                let gone = self.step(|core, now, changes| {
                    core.unlink(parent, &name, false, now, changes)
                        .or_else(|_dir| core.rmdir(parent, &name, now, changes))
                });
                match gone {
                    Ok(_) => self.tell(format!("rm {path}")),
                    Err(_) => self.superseded = before,
                }
            }
            _ => {
                let to = self.path();
                let Some((to_parent, to_name)) = self.place(&to) else { return };
                let target = self.core.tree.child(to_parent, &to_name);
                let mode = if self.random.random_bool(0.2) {
                    RenameMode::Exchange
                } else {
                    RenameMode::Replace
                };
                // The filesystem fetches both sides of an exchange first.
                if mode == RenameMode::Exchange
                    && !(self.fetch_below(there) && self.fetch_below(target))
                {
                    return;
                }
                let before = self.superseded.clone();
                if let (Some(target), RenameMode::Replace) = (target, mode)
                    && there != Some(target)
                {
                    self.supersede(target);
                }
                let moved = self.step(|core, now, changes| {
                    let (from, to) = ((parent, &*name), (to_parent, &*to_name));
                    core.rename(from, to, mode, |_| false, now, changes)
                });
                match moved {
                    Ok(_) => self.tell(format!("mv {path} {to} {mode:?}")),
                    Err(_) => self.superseded = before,
                }
            }
        }
    }

    fn fetch_below(&mut self, top: Option<Ino>) -> bool {
        let below = top.map(|top| self.core.tree.subtree(top)).unwrap_or_default();
        below.into_iter().all(|ino| {
            let is_file = self.core.tree.get(ino).is_some_and(|node| node.body().is_some());
            !is_file || self.fetch(ino)
        })
    }

    /// Fetches a content that only the remote has. Returns whether it is here now.
    fn fetch(&mut self, ino: Ino) -> bool {
        let Some(node) = self.core.tree.get(ino) else { return false };
        if node.body().is_none_or(|body| body.content != Content::Remote) {
            return true;
        }
        let path = node.origin.clone().or_else(|| self.core.tree.path_of(ino)).unwrap();
        let Some((at, bytes)) = self.remote.files.get(&path).copied() else {
            self.step(|core, now, changes| {
                core.note_recheck(&path, changes);
                core.content_lost(ino, now, changes);
            });
            return false;
        };
        let mut changes = Changes::default();
        let blob = BlobId(self.core.take_id(&mut changes.rows));
        changes.rows.push(Row::PutBlob(blob, bytes::Bytes::new()));
        self.disk.commit(changes.rows);
        self.blobs.insert(blob, bytes);
        let file = self.remote.file(&path).unwrap();
        self.step(|core, _, changes| {
            let renamed = core.tree.get(ino).is_some_and(|node| node.origin.is_some());
            if !renamed && core.tree.path_of(ino).as_ref() == Some(&path) {
                core.adopt_version(ino, &file, changes);
            }
            core.adopt_fetched(ino, Content::Blob(blob), 8, changes);
        });
        self.tell(format!("fetch {path} rev_{at}"));
        true
    }

    fn write(&mut self, parent: Ino, name: &str, there: Option<Ino>) {
        let ino = match there {
            Some(ino) if self.core.tree.get(ino).unwrap().is_dir() => return,
            Some(ino) => {
                self.superseded.extend(self.bytes_of(ino));
                ino
            }
            None => {
                let empty = FileBody { content: Content::Empty, size: 0, exact: true };
                let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
                self.step(|core, now, changes| {
                    core.create(parent, name, Kind::File(empty), creator, now, changes).unwrap()
                })
            }
        };
        let bytes = self.new_bytes();
        let mtime = self.now.wall;
        let blob = self.step(|core, now, changes| {
            let blob = BlobId(core.take_id(&mut changes.rows));
            changes.rows.push(Row::PutBlob(blob, bytes::Bytes::new()));
            let content = Content::Blob(blob);
            core.seal(ino, &Sealed { content, size: 8, mtime, held_until: None }, now, changes);
            blob
        });
        self.blobs.insert(blob, bytes);
        self.written.insert(bytes);
        let path = self.core.tree.path_of(ino).unwrap();
        self.tell(format!("write {path} = {bytes}"));
    }

    fn other_writer(&mut self) {
        let path = self.path();
        // A real server takes a file beside a folder of its name; a mount can only report that.
        let below = |other: &WsPath| other != &path && other.is_within(&path);
        let above = |other: &WsPath| other != &path && path.is_within(other);
        let folder_here = self
            .core
            .tree
            .resolve(&path)
            .is_some_and(|ino| self.core.tree.get(ino).unwrap().is_dir());
        let file_above = path.parent().is_some_and(|parent| {
            self.core.tree.resolve(&parent).is_none() && !parent.is_root()
                || self
                    .core
                    .tree
                    .resolve(&parent)
                    .is_some_and(|ino| !self.core.tree.get(ino).unwrap().is_dir())
        });
        if self.remote.files.keys().any(|other| below(other) || above(other))
            || folder_here
            || file_above
        {
            return;
        }
        if self.random.random_bool(0.3) && self.remote.files.contains_key(&path) {
            self.remote.remove(&path);
            self.tell(format!("other rm {path}"));
        } else {
            let bytes = self.new_bytes();
            self.remote.store(&path, bytes);
            self.tell(format!("other write {path} = {bytes}"));
        }
    }

    fn deliver(&mut self) {
        if self.remote.events.is_empty() {
            return;
        }
        let event = self.remote.events.remove(0);
        self.tell(format!("event {event:?}"));
        self.step(|core, now, changes| core.apply_event(&event, true, now, changes));
    }

    fn plan(&mut self) {
        self.now.mono += Duration::from_millis(300);
        let said = super::decide::tests::said(&self.core, self.now);
        let plan = self.core.plan(self.now);
        assert_eq!(super::decide::tests::handed_out(&plan), said);
        self.tasks.extend(plan.tasks);
    }

    fn act(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.tasks.len());
        match self.tasks.remove(at) {
            Task::Bulk(items) => self.send(items, true),
            Task::Single(item) => self.send(vec![*item], false),
            Task::Settle { path, seq } => self.settle(&path, seq),
            Task::Fetch(ino) => drop(self.fetch(ino)),
            Task::Recheck(path) => {
                let theirs = self.remote.file(&path);
                self.tell(format!("recheck {path}"));
                self.step(|core, now, changes| {
                    core.rechecks_in_flight.remove(&path);
                    core.recheck.remove(&path);
                    changes.rows.push(Row::DeleteRecheck(path.clone()));
                    match &theirs {
                        Some(file) => core.stored(file, Source::Read, true, now, changes),
                        None => core.removed(&path, true, now, changes),
                    }
                });
            }
            Task::Probe => {
                self.step(|core, _, _| {
                    core.probing = false;
                    core.link.reached();
                });
            }
        }
    }

    fn send(&mut self, items: Vec<Item>, is_bulk: bool) {
        let mut ready = Vec::new();
        for item in items {
            let bytes = match (item.op, &item.source, &item.moved_from) {
                (Op::Put, ItemSource::Blob(blob), None) => {
                    assert!(self.disk.blobs.contains(blob), "what is to be sent was freed");
                    Some(self.blobs[blob])
                }
                (Op::Put, ItemSource::Remote(ino), None) => {
                    if !self.fetch(*ino) {
                        let answer = Answer { item, digest: None, outcome: None };
                        self.step(|core, now, changes| {
                            core.return_items(vec![answer], now, changes)
                        });
                        continue;
                    }
                    self.bytes_of(*ino)
                }
                (Op::Put, source, None) => panic!("{source:?} for {}", item.path),
                _ => None,
            };
            if item.op == Op::Put {
                let (path, seq) = (item.path.clone(), item.seq);
                self.step(|core, _, changes| {
                    core.note_sending(&path, seq, bytes.map(digest), changes);
                });
            }
            self.tell(format!(
                "send {} {} {:?} {bytes:?}",
                item.op.word(),
                item.path,
                item.moved_from
            ));
            ready.push((item, bytes));
        }
        self.requests.push(Request { items: ready, is_bulk, outcomes: None });
    }

    /// The server gets to a request.
    fn arrive(&mut self) {
        let waiting: Vec<usize> =
            (0..self.requests.len()).filter(|at| self.requests[*at].outcomes.is_none()).collect();
        let Some(&at) = waiting.choose(&mut self.random) else { return };
        let request = &mut self.requests[at];
        let remote = &mut self.remote;
        let outcomes: Vec<Outcome> =
            request.items.iter().map(|(item, bytes)| remote.apply(item, *bytes)).collect();
        let told = format!("server {outcomes:?}");
        self.requests[at].outcomes = Some(outcomes);
        self.tell(told);
    }

    /// A request ends: answered, or lost before or after the server got to it.
    fn end(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.requests.len());
        let Request { items, is_bulk, outcomes } = self.requests.remove(at);
        let lost = outcomes.is_none() || self.random.random_bool(0.2);
        self.tell(format!("{} {}", if lost { "lost" } else { "reply" }, items.len()));
        let tasks = self.step(|core, now, changes| {
            if is_bulk {
                core.batch_over();
            } else {
                core.single_over();
            }
            if lost {
                let error =
                    RemoteError::Unreachable { message: String::new(), maybe_applied: true };
                let items = items.into_iter().map(|(item, _)| item).collect();
                core.failed(items, &error, 0, now, changes);
                core.link.reached();
                return Vec::new();
            }
            let answers = items
                .into_iter()
                .zip(outcomes.unwrap_or_default())
                .map(|((item, bytes), outcome)| Answer {
                    item,
                    digest: bytes.map(digest),
                    outcome: Some(outcome),
                })
                .collect();
            core.answered(answers, Duration::ZERO, now, changes)
        });
        self.tasks.extend(tasks);
    }

    fn settle(&mut self, path: &WsPath, seq: Seq) {
        let theirs = self.remote.file(path);
        self.tell(format!("settle {path}"));
        let keep =
            self.step(|core, now, changes| core.settled(path, seq, theirs.as_ref(), now, changes));
        let (Some(record), Some(theirs)) = (keep, theirs) else { return };
        let lane = self.core.outbox.lane(path);
        let current =
            lane.is_some_and(|lane| lane.current.record.seq == seq && lane.after.is_empty());
        if !current {
            return self.step(|core, now, changes| core.postpone(path, now.mono, changes));
        }
        let ours = record.ino.and_then(|ino| self.bytes_of(ino));
        self.kept.extend(ours);
        self.tell(format!("keep both of {path}: {ours:?}"));
        let conflict = ConflictRow {
            id: format!("c-{}", seq.0),
            path: path.clone(),
            at: self.now.wall,
            kind: "edit".into(),
            base_revision: None,
            theirs_revision: None,
            ours: None,
            theirs: None,
            folder: "x".into(),
            ours_by: None,
            ours_at: None,
            theirs_at: None,
            sibling: None,
            resolution: None,
        };
        self.step(|core, now, changes| core.kept(&record, &theirs, conflict, now, changes));
    }

    fn crash(&mut self) {
        self.tell("crash");
        // Requests go on their way without us; tasks are forgotten.
        for request in std::mem::take(&mut self.requests) {
            if request.outcomes.is_none() && self.random.random_bool(0.5) {
                for (item, bytes) in &request.items {
                    self.remote.apply(item, *bytes);
                }
            }
        }
        self.tasks.clear();
        let seed = self.random.random();
        let (core, changes) = Core::new(self.disk.load(), Settings::default(), self.now, seed);
        self.core = core;
        self.disk.commit(changes.rows);
        self.core.link.reached();
    }

    /// Lets everything come to rest.
    fn calm(&mut self) {
        for _ in 0..2000 {
            self.plan();
            if self.tasks.is_empty()
                && self.requests.is_empty()
                && self.remote.events.is_empty()
                && self.core.outbox.is_empty()
                && self.core.recheck.is_empty()
            {
                return;
            }
            self.act();
            self.arrive();
            self.end();
            self.deliver();
            self.now.mono += Duration::from_secs(2);
        }
        let left: Vec<_> = self
            .core
            .outbox
            .lanes()
            .flat_map(|(_, lane)| lane.records())
            .map(|record| (record, record.ino.and_then(|ino| self.core.tree.get(ino))))
            .collect();
        panic!("never came to rest: {left:#?} {:?}", self.core.recheck);
    }

    fn is_at(&self, path: &WsPath, synced: &crate::node::Synced) -> bool {
        let there = self.remote.files.get(path).and_then(|(at, _)| revision(*at));
        synced.revision.is_some() && synced.revision == there
    }

    /// Whether a folder here has the name of that remote file, or a file that of its folder.
    fn is_hidden(&self, path: &WsPath) -> bool {
        let kind = |path: &WsPath| {
            let ino = self.core.tree.resolve(path)?;
            self.core.tree.get(ino).map(Node::is_dir)
        };
        let file_above = path.parent().is_some_and(|above| kind(&above) == Some(false));
        kind(path) == Some(true) || file_above
    }

    fn check(&self) {
        let mut here = BTreeMap::new();
        for node in self.core.tree.nodes().filter(|node| !node.is_dir()) {
            let Some(path) = self.core.tree.path_of(node.ino) else { continue };
            let digest = match self.bytes_of(node.ino) {
                Some(bytes) => Some(digest(bytes)),
                // A file that the server moved by itself is known by its revision alone.
                None => node.synced.as_ref().and_then(|synced| {
                    let moved = synced.digest.is_none() && self.is_at(&path, synced);
                    let there = self.remote.files.get(&path).map(|(_, bytes)| digest(*bytes));
                    if moved { there } else { synced.digest }
                }),
            };
            here.insert(path, digest);
        }
        let there: BTreeMap<WsPath, Option<Digest>> = self
            .remote
            .files
            .iter()
            // A file of a folder's name cannot be shown; it is reported.
            .filter(|(path, _)| !self.is_hidden(path))
            .map(|(path, (_, bytes))| (path.clone(), Some(digest(*bytes))))
            .collect();
        assert_eq!(here, there, "the tree is the remote's");
        for bytes in &self.written {
            let safe = self.remote.seen.contains(bytes)
                || self.superseded.contains(bytes)
                || self.kept.contains(bytes);
            assert!(safe, "content {bytes} is nowhere");
        }
        assert_eq!(self.core.reset_suspected, None, "a server that keeps its promises is believed");
        // What nothing refers to is freed, what something refers to is there.
        let used: BTreeSet<BlobId> = self
            .disk
            .nodes
            .values()
            .filter_map(|node| match node.body()?.content {
                Content::Blob(blob) => Some(blob),
                Content::Empty | Content::Remote | Content::File(_) => None,
            })
            .collect();
        assert!(used.is_subset(&self.disk.blobs), "content of a node was freed");
    }
}

fn history(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..world.random.random_range(5..80) {
        match world.random.random_range(0..100) {
            0..=34 => world.local(),
            35..=44 => world.other_writer(),
            45..=54 => world.deliver(),
            55..=69 => world.plan(),
            70..=79 => world.act(),
            80..=89 => world.arrive(),
            90..=97 => world.end(),
            _ => world.crash(),
        }
    }
    world.calm();
    world
}

/// Random histories end with both sides equal and nothing lost.
#[test]
#[allow(clippy::disallowed_methods, reason = "a seed may be given from outside")]
fn nothing_is_lost_and_both_sides_end_equal() {
    let given = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let runs = std::env::var("MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3000);
    let seeds: Vec<u64> = match given {
        Some(seed) => vec![seed],
        None => (0..runs).collect(),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let world = history(seed);
            let story = world.story.join("\n");
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()));
            assert!(checked.is_ok(), "{story}");
        });
        assert!(result.is_ok(), "MODEL_SEED={seed}");
    }
}
