//! The state of a mount in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::folders::HiddenFolder;
use super::gone::Gone;
use super::guard::Guards;
use super::link::saved::Saved;
use super::link::{Link, Pause};
use super::news::News;
use super::outbox::{Change, Heard, Outbox, Stamp};
use super::reads::Overtaken;
pub use super::stats::{LastBatch, Stats};
use crate::ignore_rules::Rules;
use crate::namespace::Tree;
use crate::node::{BlobId, Content, FileBody, FileId, Ino, Node, ROOT};
use crate::path::WsPath;
use crate::record::{BaseContent, ConflictRow, Op, Record, RecordState, Seq};
use crate::remote::{Capabilities, Cursor, Skipped};
use crate::store::{Loaded, Row};
use crate::xattrs::Xattrs;

pub use super::settings::Settings;
pub use crate::node::SMALL_MAX;

/// How many ids are reserved at a time, so that taking one costs no write.
const ID_CHUNK: u64 = 4096;

/// How many ids are left out where rows were lost that may have used them.
const LOST_IDS: u64 = 1 << 20;

/// How many unmountable remote names are remembered for the status.
pub(super) const SKIPPED_MAX: usize = 1000;

/// Both times of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub mono: Duration,
    /// Wall clock.
    pub wall: Timestamp,
}

/// A kernel cache that no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// Attributes and pages of a node.
    Node(Ino),
    /// A name of a folder, positive or negative.
    Entry {
        /// The folder.
        parent: Ino,
        /// The name.
        name: Arc<str>,
    },
}

/// What a step changed and others must carry out.
#[derive(Debug, Default)]
pub struct Changes {
    /// To be persisted together.
    pub rows: Vec<Row>,
    /// To be told to the kernel, from a thread of its own.
    pub invalidations: Vec<Invalidation>,
    /// Working files that nothing refers to once the rows are durable.
    pub trash: Vec<FileId>,
    /// Changes made here that were recorded, for those who follow along.
    pub recorded: Vec<(Op, WsPath)>,
    /// What has come from the remote, for those who watch the folder.
    pub news: Vec<News>,
    /// What a person is asked from now on, in words.
    pub asked: Vec<String>,
}

impl Changes {
    /// Has a working file removed once the rows are durable.
    pub(super) fn drop_file(&mut self, file: FileId) {
        self.trash.push(file);
        self.rows.push(Row::DeleteSums(file));
    }
}

/// How the change stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// Not connected yet.
    Connecting,
    /// Pushed.
    WebSocket,
    /// Asked for.
    Polling,
    /// Down, with the reason.
    Down(String),
}

/// The state of a mount.
#[derive(Debug)]
pub struct Core {
    /// The visible tree.
    pub tree: Tree,
    /// The extended attributes of the nodes that have any.
    pub(super) xattrs: HashMap<Ino, Xattrs>,
    /// What waits for the remote.
    pub outbox: Outbox,
    /// Whether it may be sent.
    pub link: Link,
    /// What the server offers, once known.
    pub capabilities: Option<Capabilities>,
    /// Largest body that the server is believed to take; encoded bytes.
    pub body_bytes: u64,
    /// The largest file that the server may take after it refused one, known since the start.
    pub(super) file_bytes_learned: Option<super::size_limit::Learned>,
    /// Paths whose remote state is to be read again when nothing is pending on them.
    pub recheck: BTreeSet<WsPath>,
    /// Which paths are local-only.
    pub rules: Rules,
    /// The text of the rules file at the root.
    pub rules_text: String,
    /// The text of the user's own rules.
    pub user_rules: String,
    /// Conflicts, open and resolved, oldest first.
    pub conflicts: Vec<ConflictRow>,
    /// Remote names that cannot be mounted, with the reason.
    pub skipped: BTreeMap<String, String>,
    /// Folders of the remote that something here stands in the way of.
    pub(super) hidden_folders: BTreeMap<WsPath, HiddenFolder>,
    /// Position in the change stream.
    pub cursor: Option<Cursor>,
    /// How the change stream stands.
    pub stream: Stream,
    /// Why deletes from the remote are not believed at the moment.
    pub reset_suspected: Option<String>,
    /// What keeps removals back.
    pub guards: Guards,
    /// Removals of which the change stream has to tell.
    pub(super) gone: Gone,
    /// Records of other state folders that were taken up here.
    pub(super) imported: HashSet<String>,
    /// Listing in progress: entries seen so far and the total, where known.
    pub bootstrap: Option<(u64, Option<u64>)>,
    /// Whether a listing was ever completed.
    pub listed: bool,
    /// When the newest event arrived and how old it was then.
    pub last_event: Option<(Timestamp, Duration)>,
    /// No debounce, no holding back: somebody waits for the outbox to empty.
    pub urgent: bool,
    /// New attempts only for what was there: the daemon is stopping.
    pub draining: bool,
    /// Nothing more is sent: the daemon is stopping and was told not to wait.
    pub halted: bool,
    /// What people may tune.
    pub settings: Settings,
    /// Counters.
    pub stats: Stats,
    /// Requests with changes that are under way, and those with one file.
    pub(super) batches_in_flight: usize,
    pub(super) singles_in_flight: usize,
    /// Paths that are being read again, and what overtook the read.
    pub(super) rechecks_in_flight: BTreeMap<WsPath, Option<Overtaken>>,
    /// Paths whose read led to nothing, and when to read them again.
    pub(super) rechecks_postponed: BTreeMap<WsPath, Duration>,
    pub(super) probing: bool,
    /// What the server offers may have changed since it was asked.
    pub ask_again: bool,
    /// A person went on with a server that has lost or never had what is here: the next listing
    /// offers it.
    pub offer_again: bool,
    /// Contents that are being fetched because records wait for them, and when to try again.
    pub(super) fetches_planned: BTreeMap<Ino, Duration>,
    /// Most files in a request, while it is being found out which one the server refuses.
    pub(super) batch_limit: Option<usize>,
    /// Copies of working files that are about to change, until a record takes them.
    pub(super) offered_bases: HashMap<FileId, BaseContent>,
    /// Contents in the store of more than [`SMALL_MAX`]: kept as bases.
    pub(super) large_blobs: HashSet<BlobId>,
    /// The node of each small content that is here.
    blob_owners: HashMap<BlobId, Ino>,
    next_id: u64,
    reserved_id: u64,
    rng: SmallRng,
    /// Nodes whose folder was not there; the start gives them a place.
    pub lost: Vec<Node>,
}

impl Core {
    /// Lays what was persisted into memory. `seed` drives jitter and record keys.
    #[must_use]
    pub fn new(loaded: Loaded, settings: Settings, now: Now, seed: u64) -> (Self, Changes) {
        let mut changes = Changes::default();
        let highest = loaded.highest_id();
        let meta = |key: &str| loaded.meta.get(key).map(String::as_str);
        let reserved = meta("ids").and_then(|ids| ids.parse().ok()).unwrap_or(0).max(highest);
        // A row that was lost may have had a higher one.
        let lost_ids = if loaded.rebuilt || !loaded.damaged.is_empty() { LOST_IDS } else { 0 };
        let reserved = reserved + lost_ids;
        let pause: Option<Pause> = meta("pause").and_then(|json| serde_json::from_str(json).ok());
        let link: Option<Saved> = meta("link").and_then(|json| serde_json::from_str(json).ok());
        let link = Link::restore(link, pause, settings.circuit, now.mono, now.wall);
        let cursor = meta("cursor").and_then(|json| serde_json::from_str(json).ok());
        let capabilities: Option<Capabilities> =
            meta("capabilities").and_then(|json| serde_json::from_str(json).ok());
        let body_bytes: Option<u64> = meta("body_bytes").and_then(|text| text.parse().ok());
        let announced = capabilities.as_ref().and_then(announced_body_bytes);
        let reset_suspected = meta("reset").map(str::to_owned);
        let shown = meta("reset_shown").and_then(|json| serde_json::from_str(json).ok());
        let listed = meta("listed").is_some();
        let offer_again = meta("offer_again").is_some();
        let rules_text = meta("ignore").unwrap_or_default().to_owned();
        let rules = Rules::compile(&[&rules_text]).0;
        let (tree, lost) = Tree::new(loaded.nodes, settings.uid, settings.gid, now.wall);
        let blob_owners = tree
            .nodes()
            .filter_map(|node| match node.body()?.content {
                Content::Blob(blob) => Some((blob, node.ino)),
                Content::Empty | Content::Remote | Content::Damaged | Content::File(_) => None,
            })
            .collect();
        let mut outbox = Outbox::default();
        outbox.restore(loaded.records, now.mono, &mut changes.rows);
        let mut core = Self {
            tree,
            xattrs: loaded.xattrs,
            outbox,
            link,
            capabilities,
            body_bytes: body_bytes
                .into_iter()
                .chain(announced)
                .min()
                .unwrap_or(settings.body_bytes_start),
            file_bytes_learned: None,
            recheck: loaded.recheck.into_iter().collect(),
            rules,
            rules_text,
            user_rules: String::new(),
            conflicts: loaded.conflicts,
            skipped: BTreeMap::new(),
            hidden_folders: BTreeMap::new(),
            cursor,
            stream: Stream::Connecting,
            reset_suspected,
            guards: Guards {
                kept: loaded.removals.into_iter().collect(),
                shown,
                ..Guards::default()
            },
            gone: Gone::default(),
            imported: loaded.imported,
            bootstrap: None,
            listed,
            last_event: None,
            urgent: false,
            draining: false,
            halted: false,
            settings,
            stats: Stats::default(),
            batches_in_flight: 0,
            singles_in_flight: 0,
            rechecks_in_flight: BTreeMap::new(),
            rechecks_postponed: BTreeMap::new(),
            probing: false,
            ask_again: false,
            offer_again,
            fetches_planned: BTreeMap::new(),
            batch_limit: None,
            offered_bases: HashMap::new(),
            large_blobs: loaded.large_blobs.clone(),
            blob_owners,
            next_id: reserved.max(ROOT.0) + 1,
            reserved_id: reserved,
            rng: SmallRng::seed_from_u64(seed),
            lost,
        };
        core.remember_removals(now);
        core.record_unrecorded(now, &mut changes);
        // Where rows were lost, what nothing names may be what they named.
        let whole = core.lost.is_empty() && loaded.damaged.is_empty() && !loaded.rebuilt;
        if whole {
            core.end_orphans(&mut changes);
            core.sweep_xattrs(&mut changes);
            core.sweep_blobs(&loaded.blobs, &mut changes);
        }
        (core, changes)
    }

    /// Removes small contents that nothing refers to: leftovers of the last run.
    pub fn sweep_blobs(&mut self, blobs: &HashSet<BlobId>, changes: &mut Changes) {
        let used: BTreeSet<BlobId> = self
            .tree
            .nodes()
            .filter_map(|node| match node.body()?.content {
                Content::Blob(blob) => Some(blob),
                Content::Empty | Content::Remote | Content::Damaged | Content::File(_) => None,
            })
            .collect();
        let unused = |blob: &&BlobId| !used.contains(*blob) && !self.outbox.uses(**blob);
        for blob in blobs.iter().filter(unused) {
            changes.rows.push(Row::DeleteBlob(*blob));
            self.large_blobs.remove(blob);
        }
    }

    /// Takes up the lengths of the working files. What was written and not sealed when the last run
    /// ended abruptly is in them; the outbox has known since before the first byte.
    pub fn take_lengths(&mut self, lengths: &HashMap<FileId, u64>, changes: &mut Changes) {
        let length = |node: &Node| match node.body() {
            Some(FileBody { content: Content::File(file), size, .. }) => {
                lengths.get(file).copied().filter(|length| length != size)
            }
            _ => None,
        };
        let wrong: Vec<(Ino, u64)> =
            self.tree.nodes().filter_map(|node| Some((node.ino, length(node)?))).collect();
        for (ino, length) in wrong {
            if let Some(body) = self.tree.get_mut(ino).and_then(Node::body_mut) {
                body.size = length;
            }
            self.put_node(ino, changes);
            if let Some(path) = self.tree.path_of(ino) {
                self.outbox.update(&path, &mut changes.rows, |slot| {
                    if slot.record.op == Op::Put {
                        slot.record.size = length;
                    }
                });
            }
        }
    }

    /// The working files that nodes refer to.
    #[must_use]
    pub fn working_files(&self) -> BTreeSet<FileId> {
        let file = |node: &Node| match node.body()?.content {
            Content::File(file) => Some(file),
            Content::Empty | Content::Remote | Content::Damaged | Content::Blob(_) => None,
        };
        self.tree.nodes().filter_map(file).collect()
    }

    /// Takes the next id; ids are never given out twice, also not after power loss.
    pub fn take_id(&mut self, rows: &mut Vec<Row>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if id > self.reserved_id {
            self.reserved_id = id + ID_CHUNK;
            rows.push(Row::SetMeta("ids", Some(self.reserved_id.to_string())));
        }
        id
    }

    /// A random number in 0..1.
    pub fn jitter(&mut self) -> f64 {
        self.rng.random()
    }

    /// Whether the server offers something; unknown counts as yes, so that nothing that it might
    /// store is forgotten before it was asked.
    #[must_use]
    pub fn offers(&self, what: impl Fn(&Capabilities) -> bool) -> bool {
        self.capabilities.as_ref().is_none_or(what)
    }

    /// Records a change of a path and frees small contents that it made superfluous.
    pub(super) fn record(&mut self, change: Change, now: Now, changes: &mut Changes) {
        if self.settings.read_only {
            return;
        }
        let path = change.path.clone();
        let before: Vec<BlobId> = self.lane_blobs(&path);
        let stamp = Stamp {
            seq: Seq(self.take_id(&mut changes.rows)),
            key: self.rng.random(),
            now: now.mono,
            wall: now.wall,
        };
        let made = change.ino.filter(|_| change.op == Op::MakeDir);
        let newest = self.outbox.lane(&path).and_then(|lane| lane.records().last());
        let replaces_removal = newest.is_some_and(|record| {
            record.op == Op::RemoveDir && record.state != RecordState::Flight
        });
        changes.recorded.push((change.op, path.clone()));
        self.forget_kept(&path, changes);
        self.outbox.record(change, stamp, &mut changes.rows);
        self.guard_removal(&path, now, changes);
        // Removed and made again: the remote may still have the folder, so its next removal is news.
        if let Some(node) = made.filter(|_| replaces_removal)
            && let Some(folder) = self.tree.get_mut(node)
        {
            folder.synced.get_or_insert_default();
            self.put_node(node, changes);
        }
        for blob in before {
            self.release_blob(blob, changes);
        }
        self.link.wake(super::link::Wake::Change, now.mono);
    }

    pub(super) fn lane_blobs(&self, path: &WsPath) -> Vec<BlobId> {
        self.outbox
            .lane(path)
            .map(|lane| lane.records().flat_map(Record::blobs).collect())
            .unwrap_or_default()
    }

    /// Notes that a node now has this content. A small content belongs to one node for ever: names
    /// are exchanged, contents are not.
    pub(super) fn own(&mut self, content: Content, ino: Ino) {
        if let Content::Blob(blob) = content {
            self.blob_owners.insert(blob, ino);
        }
    }

    /// The node that has a small content now.
    pub(super) fn owner(&self, blob: BlobId) -> Option<Ino> {
        let ino = self.blob_owners.get(&blob)?;
        let body = self.tree.get(*ino).and_then(Node::body)?;
        (body.content == Content::Blob(blob)).then_some(*ino)
    }

    /// Removes a small content unless a record or its node still refers to it.
    pub(super) fn release_blob(&mut self, blob: BlobId, changes: &mut Changes) {
        if self.owner(blob).is_none() && !self.outbox.uses(blob) {
            self.blob_owners.remove(&blob);
            self.large_blobs.remove(&blob);
            changes.rows.push(Row::DeleteBlob(blob));
        }
    }

    /// Frees what a content refers to, after its node stopped referring to it.
    pub(super) fn release_content(&mut self, content: Content, changes: &mut Changes) {
        match content {
            Content::Empty | Content::Remote | Content::Damaged => {}
            Content::Blob(blob) => self.release_blob(blob, changes),
            Content::File(file) => changes.drop_file(file),
        }
    }

    /// Persists a node as it is now.
    pub(super) fn put_node(&self, ino: Ino, changes: &mut Changes) {
        if let Some(node) = self.tree.get(ino)
            && !self.tree.is_unlinked(ino)
        {
            changes.rows.push(Row::PutNode(Box::new(node.clone())));
        }
    }

    /// Reports remote names that were left out.
    pub fn skip(&mut self, skipped: impl IntoIterator<Item = Skipped>) {
        for Skipped { name, reason } in skipped {
            if self.skipped.len() < SKIPPED_MAX && !self.skipped.contains_key(&name) {
                tracing::warn!(name = ?name, %reason, "remote name cannot be mounted, left out");
                self.skipped.insert(name, reason);
            }
        }
    }

    /// Notes a path whose remote state must be read again once nothing is pending on it.
    pub(super) fn note_recheck(&mut self, path: &WsPath, changes: &mut Changes) {
        if self.recheck.insert(path.clone()) {
            changes.rows.push(Row::PutRecheck(path.clone()));
        }
    }

    /// Pauses dispatch for a person, or ends that pause. Survives restarts.
    pub fn set_pause(&mut self, pause: Option<Pause>, changes: &mut Changes) -> Option<Pause> {
        let json = pause.as_ref().and_then(|pause| serde_json::to_string(pause).ok());
        changes.rows.push(Row::SetMeta("pause", json));
        self.link.set_pause(pause)
    }

    /// Persists what the link must know after a restart, where that changed. Every step ends with it.
    pub fn keep_link(&mut self, now: Now, changes: &mut Changes) {
        if let Some(saved) = self.link.take_unsaved(now.mono, now.wall) {
            let json = saved.and_then(|saved| serde_json::to_string(&saved).ok());
            changes.rows.push(Row::SetMeta("link", json));
        }
    }

    /// Moves the position in the change stream; persisted with what the event changed.
    pub fn set_cursor(&mut self, cursor: Option<Cursor>, changes: &mut Changes) {
        let json = cursor.as_ref().and_then(|cursor| serde_json::to_string(cursor).ok());
        changes.rows.push(Row::SetMeta("cursor", json));
        self.cursor = cursor;
    }

    /// Learns what the server offers. Records that it cannot take are dropped: what they carry is
    /// kept here only.
    pub fn set_capabilities(&mut self, capabilities: Capabilities, changes: &mut Changes) {
        if self.capabilities == Some(capabilities) {
            return;
        }
        self.capabilities = Some(capabilities);
        self.file_bytes_learned = None;
        let json = serde_json::to_string(&capabilities).ok();
        changes.rows.push(Row::SetMeta("capabilities", json));
        if let Some(bytes) = announced_body_bytes(&capabilities) {
            self.body_bytes = bytes;
        }
        let void: Vec<WsPath> = self
            .outbox
            .lanes()
            .filter(|(_, lane)| !self.is_sendable(&lane.current.record))
            .map(|(path, _)| path.clone())
            .collect();
        for path in void {
            self.drop_record(&path, changes);
        }
    }

    /// Whether the server can take such a record at all.
    pub(super) fn is_sendable(&self, record: &Record) -> bool {
        let is_link = || {
            let node = record.ino.and_then(|ino| self.tree.get(ino));
            node.is_some_and(|node| matches!(node.kind, crate::node::Kind::Symlink { .. }))
        };
        match record.op {
            Op::Put => self.offers(|can| can.symlink) || !is_link(),
            Op::Delete => true,
            Op::Meta => self.offers(|can| can.metadata),
            Op::MakeDir | Op::RemoveDir => self.offers(|can| can.directories),
        }
    }

    /// Ends the current record of a path without sending it.
    pub(super) fn drop_record(&mut self, path: &WsPath, changes: &mut Changes) {
        let base =
            self.outbox.lane(path).and_then(|lane| lane.current.record.known_base().cloned());
        let base = base.unwrap_or(crate::revision::Base::Absent);
        self.end_record(path, &base, Duration::ZERO, changes);
    }

    /// Ends the current record of a path; frees its contents and returns it. What was heard while
    /// it was in flight and is not what it led to is looked at again.
    pub(super) fn end_record(
        &mut self,
        path: &WsPath,
        leads_to: &crate::revision::Base,
        now: Duration,
        changes: &mut Changes,
    ) -> Option<Record> {
        self.overtake(path, None);
        let ended = self.outbox.finish(path, leads_to, now, &mut changes.rows)?;
        for blob in ended.0.blobs() {
            self.release_blob(blob, changes);
        }
        // Somebody else's version may have come by while ours was under way.
        let is_news = |heard: &Heard| match leads_to {
            // Under our revision it should have our bytes.
            crate::revision::Base::Revision(ours) if &heard.revision == ours => heard.other_bytes,
            crate::revision::Base::Revision(ours) => !heard.revision.is_older_than(ours),
            crate::revision::Base::Absent | crate::revision::Base::Date(_) => true,
        };
        match &ended.1 {
            Some(heard) if is_news(heard) => self.note_recheck(path, changes),
            // The last thing heard was ours: there is nothing newer to look at.
            Some(_) if self.recheck.remove(path) => {
                changes.rows.push(Row::DeleteRecheck(path.clone()));
            }
            _ => {}
        }
        Some(ended.0)
    }

    /// The conflicts that wait for a person, oldest first.
    pub fn open_conflicts(&self) -> impl Iterator<Item = &ConflictRow> {
        self.conflicts.iter().filter(|conflict| conflict.resolution.is_none())
    }

    /// Remembers a failure for the status.
    pub fn note_error(&mut self, code: &str, message: &str, at: Timestamp) {
        self.stats.last_error = Some((code.to_owned(), message.to_owned(), at));
    }
}

/// The largest body that the server says it takes, with room for the envelope.
fn announced_body_bytes(capabilities: &Capabilities) -> Option<u64> {
    Some(capabilities.body_bytes_max?.saturating_sub(16 << 10).max(4096))
}
