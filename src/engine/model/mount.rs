//! One mount of the model: its engine, its disk, and what is under way for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::plants::Plant;
use super::reference::{Entry, Reader};
use super::remote::{Bytes, Remote, number};
use super::story::People;
use crate::conflict_policy::Policies;
use crate::engine::approvals::Approval;
use crate::engine::core::{Core, Now, Settings};
use crate::engine::guard::Limits;
use crate::engine::missing::Known;
use crate::engine::plan::{Item, Task};
use crate::engine::reads::Wanted;
use crate::node::{BlobId, Content, FileId, Ino, Kind, Node, ROOT};
use crate::path::WsPath;
use crate::record::{ConflictRow, Record, Seq};
use crate::remote::{Outcome, RemoteError, RemoteFile, ServerId};
use crate::revision::Revision;
use crate::store::{Loaded, Row};

/// What a crash leaves: the rows that were committed, and the working files.
#[derive(Debug, Default, Clone)]
pub(super) struct Disk {
    meta: HashMap<String, String>,
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) records: BTreeMap<Seq, Record>,
    pub(super) recheck: BTreeSet<WsPath>,
    pub(super) removals: BTreeSet<WsPath>,
    pub(super) conflicts: Vec<ConflictRow>,
    pub(super) blobs: BTreeMap<BlobId, Bytes>,
    pub(super) files: BTreeMap<FileId, Bytes>,
    commits: u64,
}

impl Disk {
    pub(super) fn commit(&mut self, rows: Vec<Row>, plant: Plant) {
        self.commits += 1;
        let now_and_then = self.commits.is_multiple_of(5);
        for row in rows {
            match row {
                Row::PutNode(node) => drop(self.nodes.insert(node.ino, *node)),
                Row::DeleteNode(ino) => drop(self.nodes.remove(&ino)),
                Row::PutBlob(id, bytes) => drop(self.blobs.insert(id, number(&bytes))),
                Row::DeleteBlob(id) => drop(self.blobs.remove(&id)),
                Row::PutRecord(_) if plant == Plant::LostRecord && now_and_then => {}
                Row::DeleteRecord(_) if plant == Plant::UndeadRecord && now_and_then => {}
                Row::PutRecord(record) => drop(self.records.insert(record.seq, *record)),
                Row::DeleteRecord(seq) => drop(self.records.remove(&seq)),
                Row::SetMeta(key, Some(value)) => drop(self.meta.insert(key.into(), value)),
                Row::SetMeta(key, None) => drop(self.meta.remove(key)),
                Row::PutRecheck(path) => drop(self.recheck.insert(path)),
                Row::DeleteRecheck(path) => drop(self.recheck.remove(&path)),
                Row::PutRemoval(path) => drop(self.removals.insert(path)),
                Row::DeleteRemoval(path) => drop(self.removals.remove(&path)),
                Row::PutImported(_) => unreachable!("nothing is carried here"),
                Row::PutXattrs(..) | Row::DeleteXattrs(_) => unreachable!("nobody sets any here"),
                // Damage is outside of the model.
                Row::PutSums(..) | Row::DeleteSums(_) | Row::Discard(_) => {}
                Row::PutConflict(conflict) => {
                    self.conflicts.retain(|other| other.id != conflict.id);
                    self.conflicts.push(*conflict);
                }
                Row::DeleteConflict(id) => self.conflicts.retain(|other| other.id != id),
            }
        }
    }

    pub(super) fn load(&self) -> Loaded {
        Loaded {
            meta: self.meta.clone(),
            nodes: self.nodes.values().cloned().collect(),
            records: self.records.values().cloned().collect(),
            recheck: self.recheck.iter().cloned().collect(),
            removals: self.removals.iter().cloned().collect(),
            imported: HashSet::new(),
            conflicts: self.conflicts.clone(),
            blobs: self.blobs.keys().copied().collect(),
            ..Loaded::default()
        }
    }
}

/// One change of a request, as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) item: Item,
    pub(super) bytes: Option<Bytes>,
    /// When those bytes were last put under that name, as far as readers saw; `None` when never.
    pub(super) put: Option<u64>,
}

/// When a content was under a name, as far as readers saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// A request on its way: perhaps arrived, not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// The server that it is for, where that said who it is.
    pub(super) server: Option<ServerId>,
    pub(super) items: Vec<Sent>,
    pub(super) is_bulk: bool,
    /// What the server answers, once it got there.
    pub(super) reply: Option<Result<Vec<Outcome>, RemoteError>>,
    /// Up to which version of which path each of its changes made the history.
    pub(super) made: Vec<Vec<(WsPath, usize)>>,
}

/// Something planned, or a read that was answered and not taken up yet: both sides go on meanwhile.
#[derive(Debug)]
pub(super) enum Work {
    Task(Task),
    /// With the revision that was known before.
    Rechecked(WsPath, Option<Revision>, Option<RemoteFile>),
    Settled(WsPath, Seq, Option<RemoteFile>),
    Keep(Record),
    Copied(Record, RemoteFile),
    Fetched(Ino, Wanted, Option<RemoteFile>),
}

/// A listing under way.
#[derive(Debug)]
pub(super) struct Listing {
    /// The newest event noted before.
    pub(super) tail: u64,
    pub(super) known: Option<Known>,
    pub(super) seen: HashSet<Ino>,
    pub(super) after: Option<WsPath>,
    /// What it did not show, to be looked at one by one.
    pub(super) missing: Option<VecDeque<WsPath>>,
    /// Which history the server had then.
    pub(super) epoch: usize,
    /// Whether what is here is offered again.
    pub(super) offers: bool,
    pub(super) folders: Vec<WsPath>,
}

impl Listing {
    pub(super) fn new(tail: u64, epoch: usize, offers: bool) -> Self {
        Self {
            tail,
            known: None,
            seen: HashSet::new(),
            after: None,
            missing: None,
            epoch,
            offers,
            folders: Vec::new(),
        }
    }
}

fn settings(people: People) -> Settings {
    let few = Limits { files: 1, percent: 25, ..Limits::default() };
    Settings {
        conflict_policies: Policies::parse(&[people.policy.rule()]).unwrap(),
        removals: if people.careful { few } else { Limits::default() },
        ..Settings::default()
    }
}

#[derive(Debug)]
pub(super) struct Mount {
    pub(super) core: Core,
    pub(super) disk: Disk,
    pub(super) reader: Reader,
    pub(super) requests: Vec<Request>,
    /// Requests that nobody waits for any more and that may still arrive.
    pub(super) strays: Vec<Request>,
    pub(super) work: Vec<Work>,
    /// Numbers of the events on the wire, and of the last one put there.
    pub(super) wire: VecDeque<u64>,
    pub(super) pushed: u64,
    /// The number of the last event that was taken up.
    pub(super) position: u64,
    /// Which history of the server that is about, and the one of the cursor on disk.
    pub(super) epoch: usize,
    /// Whether it knew more than a server that went back.
    pub(super) knows_more: bool,
    pub(super) cursor_epoch: usize,
    pub(super) listing: Option<Listing>,
    pub(super) is_cut: bool,
    pub(super) shown: HashMap<(WsPath, Bytes), Shown>,
    /// How many versions of each path are over for readers: the one that was shown last, or that the
    /// server accepted from here, is the last of them.
    pub(super) known: BTreeMap<WsPath, usize>,
    /// Paths that news took away. Of a removal without a revision a restart knows no more, and what
    /// comes late of the file may show it until the removal comes, too.
    pub(super) gone_by_news: BTreeSet<WsPath>,
    /// Records that ended; none comes back.
    pub(super) ended: BTreeSet<Seq>,
    people: People,
    /// What waited for approval when a person looked.
    pub(super) looked_at: Vec<Approval>,
}

impl Mount {
    pub(super) fn new(now: Now, people: People, seed: u64) -> Self {
        let (core, changes) = Core::new(Loaded::default(), settings(people), now, seed);
        let mut disk = Disk::default();
        disk.commit(changes.rows, Plant::Nothing);
        Self {
            core,
            disk,
            reader: Reader::default(),
            requests: Vec::new(),
            strays: Vec::new(),
            work: vec![Work::Task(Task::Probe)],
            wire: VecDeque::new(),
            pushed: 0,
            position: 0,
            epoch: 0,
            knows_more: false,
            cursor_epoch: 0,
            listing: Some(Listing::new(0, 0, false)),
            is_cut: false,
            shown: HashMap::new(),
            known: BTreeMap::new(),
            gone_by_news: BTreeSet::new(),
            ended: BTreeSet::new(),
            people,
            looked_at: Vec::new(),
        }
    }

    /// What is left of the process is what is on disk.
    pub(super) fn restart(&mut self, (newest, epoch): (u64, usize), now: Now, seed: u64) {
        self.work = vec![Work::Task(Task::Probe)];
        let (core, changes) = Core::new(self.disk.load(), settings(self.people), now, seed);
        self.core = core;
        for path in std::mem::take(&mut self.gone_by_news) {
            self.known.remove(&path);
        }
        self.disk.commit(changes.rows, Plant::Nothing);
        let cursor = self.core.cursor.as_ref().filter(|_| self.core.listed);
        let position = cursor.and_then(|cursor| cursor.id.ordinal());
        self.epoch = if position.is_some() { self.cursor_epoch } else { epoch };
        let offers = self.core.offer_again;
        let is_due = position.is_none() || offers;
        let tail = position.unwrap_or(newest);
        self.listing = is_due.then(|| Listing::new(tail, self.epoch, offers));
        self.follow(position.unwrap_or(newest));
    }

    /// So many versions of a path are over.
    pub(super) fn note_known(&mut self, path: &WsPath, versions: usize) {
        let known = self.known.entry(path.clone()).or_default();
        *known = versions.max(*known);
    }

    /// A reader sees a content under a name.
    pub(super) fn note_shown(&mut self, path: &WsPath, bytes: Bytes, step: u64) {
        let first = Shown { first: step, last: step };
        self.shown.entry((path.clone(), bytes)).or_insert(first).last = step;
    }

    /// Follows the events after this one.
    pub(super) fn follow(&mut self, position: u64) {
        self.position = position;
        self.pushed = position;
        self.wire.clear();
    }

    /// The content of a node, as far as it can be told.
    pub(super) fn bytes_of(&self, ino: Ino, remote: &Remote) -> Option<Bytes> {
        let node = self.core.tree.get(ino)?;
        match node.body()?.content {
            Content::Empty => Some(0),
            Content::Blob(blob) => self.disk.blobs.get(&blob).copied(),
            Content::File(file) => self.disk.files.get(&file).copied(),
            Content::Damaged => None,
            Content::Remote if node.origin.is_some() => None,
            Content::Remote => {
                let synced = node.synced.as_ref()?;
                let by_revision = synced.revision.as_ref().and_then(|at| remote.contents.get(at));
                let by_digest = || synced.digest.and_then(|digest| remote.digests.get(&digest));
                by_revision.or_else(by_digest).copied()
            }
        }
    }

    /// What a reader sees now.
    pub(super) fn view(&self, remote: &Remote) -> Reader {
        let entry = |node: &Node| match node.kind {
            Kind::Dir { .. } => Entry::Dir,
            Kind::File(_) | Kind::Symlink { .. } | Kind::Special { .. } => {
                Entry::File(self.bytes_of(node.ino, remote))
            }
        };
        let named = |node: &Node| Some((self.core.tree.path_of(node.ino)?, entry(node)));
        let nodes = self.core.tree.nodes().filter(|node| node.ino != ROOT);
        Reader { tree: nodes.filter_map(named).collect() }
    }
}
