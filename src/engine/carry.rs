//! Records carried off and back: what a folder of exported records holds, and giving records up.
//!
//! A person may take pending work along, set it aside, or have it tried again. Pure; `export` and
//! `import` move the bytes.

mod export;
mod import;
pub mod unfinished;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::core::{Changes, Core, Invalidation, Now};
use crate::node::{Content, FileBody, FileId, Ino, Kind};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordBase, RecordState};
use crate::revision::{Base, Revision};

/// Version of the folder's form.
pub const FORMAT: u32 = 1;

/// The file that describes the others; a folder without it was not finished.
pub const MANIFEST: &str = "manifest.json";

/// Where in the state folder records are set aside that were given up.
pub const DISCARDED: &str = "discarded";

/// Where records come from; bases mean something only there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The server's address.
    pub server: String,
    /// The workspace.
    pub workspace: String,
    /// The mounted folder of it.
    pub remote_path: String,
}

/// What [`MANIFEST`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its form.
    pub format: u32,
    /// Where the records come from.
    pub origin: Origin,
    /// When they were written.
    pub exported_at: Timestamp,
    /// The records, oldest first.
    pub records: Vec<Entry>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its identity, by which it is taken up once.
    pub id: String,
    /// Its path.
    pub path: String,
    /// What it does: `write`, `meta`, `delete`, `mkdir`, `rmdir`.
    pub op: String,
    /// What it was made against: `absent`, `follows`, a revision, or a date.
    pub base: EntryBase,
    /// Bytes of its content.
    pub size: u64,
    /// The digest of its content, of a write.
    pub sha256: Option<String>,
    /// The file beside the manifest with the content.
    pub file: Option<String>,
    /// The file beside the manifest with the content it was made against.
    pub base_file: Option<String>,
    /// The target, where it is a symbolic link.
    pub symlink: Option<String>,
    /// Of the old name of a renamed file: the new one.
    pub moved_to: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// When the content was last changed.
    pub mtime: Option<Timestamp>,
    /// How often it was sent.
    pub attempts: u32,
    /// Digests of contents that may be at the server already.
    pub sent: Vec<String>,
    /// When the path first changed.
    pub recorded_at: Timestamp,
    /// Why it waits, where it is parked.
    pub reason: Option<String>,
}

/// What a record was made against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryBase {
    /// Nothing was there.
    Absent,
    /// What the record before it leads to.
    Follows,
    /// A revision.
    Revision(String),
    /// The date of the last edit.
    Date(Timestamp),
}

impl EntryBase {
    fn of(base: &RecordBase) -> Self {
        match base {
            RecordBase::Follows => Self::Follows,
            RecordBase::Known(Base::Absent) => Self::Absent,
            RecordBase::Known(Base::Revision(revision)) => Self::Revision(revision.to_string()),
            RecordBase::Known(Base::Date(date)) => Self::Date(*date),
        }
    }

    fn base(&self) -> Base {
        match self {
            Self::Absent | Self::Follows => Base::Absent,
            Self::Revision(text) => Revision::new(text).map_or(Base::Absent, Base::Revision),
            Self::Date(date) => Base::Date(*date),
        }
    }
}

/// Where the bytes of a record are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Nothing,
    Blob(crate::node::BlobId),
    File(Ino, FileId),
    Remote(Ino),
}

/// A record to be carried, and where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) record: Record,
    pub(super) entry: Entry,
    pub(super) source: Source,
}

/// What was done with records, or why not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Done: the record's id (its number here, its identity in a folder) and path.
    pub done: Vec<(String, String)>,
    /// Not done, and why.
    pub refused: Vec<(String, String, String)>,
    /// The folder that was written.
    pub folder: Option<std::path::PathBuf>,
}

impl Core {
    /// The records at these paths, as they are to be carried.
    pub(super) fn jobs(&self, paths: &BTreeSet<WsPath>) -> Vec<Job> {
        let lanes = paths.iter().filter_map(|path| self.outbox.lane(path));
        let records = lanes.flat_map(super::outbox::Lane::records);
        let mut jobs: Vec<Job> = records.map(|record| self.job(record)).collect();
        jobs.sort_by_key(|job| job.record.seq);
        jobs
    }

    fn job(&self, record: &Record) -> Job {
        let node = record.ino.and_then(|ino| self.tree.get(ino));
        let content = node.and_then(|node| node.body()).map(|body| body.content);
        let source = match (record.op, record.blob, content, record.ino) {
            (Op::Put, Some(blob), ..) | (Op::Put, None, Some(Content::Blob(blob)), _) => {
                Source::Blob(blob)
            }
            (Op::Put, None, Some(Content::File(file)), Some(ino)) => Source::File(ino, file),
            (Op::Put, None, Some(Content::Remote), Some(ino)) => Source::Remote(ino),
            _ => Source::Nothing,
        };
        let symlink = match node.map(|node| &node.kind) {
            Some(Kind::Symlink { target }) => Some(target.to_string()),
            _ => None,
        };
        let moved_to = record.moved_to.and_then(|ino| self.tree.path_of(ino));
        let entry = Entry {
            id: format!("{:016x}-{}", record.key, record.seq.0),
            path: record.path.as_str().to_owned(),
            op: record.op.word().to_owned(),
            base: EntryBase::of(&record.base),
            size: record.size,
            sha256: None,
            file: None,
            base_file: None,
            symlink,
            moved_to: moved_to.map(|path| path.as_str().to_owned()),
            mode: node.map(|node| node.mode),
            mtime: node.map(|node| node.mtime),
            attempts: record.attempts,
            sent: record.sent.iter().map(ToString::to_string).collect(),
            recorded_at: record.recorded_at,
            reason: match &record.state {
                RecordState::Parked { code, message } => Some(format!("{code}: {message}")),
                RecordState::Waiting | RecordState::Flight => None,
            },
        };
        Job { record: record.clone(), entry, source }
    }

    /// Has a record tried again now. Returns why not, where that makes no sense.
    ///
    /// # Errors
    /// When it is in a request, or waits for something else.
    pub fn retry(&mut self, path: &WsPath, changes: &mut Changes) -> Result<(), &'static str> {
        let Some(lane) = self.outbox.lane(path) else { return Err("it is gone") };
        let record = &lane.current.record;
        if record.state == RecordState::Flight {
            return Err("it is being sent");
        }
        if record.needs_approval {
            return Err("it waits for an approval: see mountctl approvals");
        }
        self.outbox.update(path, &mut changes.rows, |slot| {
            slot.record.state = RecordState::Waiting;
            slot.held_until = None;
            slot.refusals = 0;
        });
        Ok(())
    }

    /// The removals of old names that belong to what is stored at these paths: without its new name
    /// a renamed file must keep its old one.
    pub(super) fn with_old_names(&self, paths: &mut BTreeSet<WsPath>) {
        let inos: BTreeSet<Ino> = paths
            .iter()
            .filter_map(|path| self.outbox.lane(path))
            .flat_map(|lane| lane.records().filter(|record| record.op == Op::Put))
            .filter_map(|record| record.ino)
            .collect();
        let belongs = |record: &Record| record.moved_to.is_some_and(|ino| inos.contains(&ino));
        let old = self.outbox.lanes().filter(|(_, lane)| lane.records().any(belongs));
        let old: Vec<WsPath> = old.map(|(path, _)| path.clone()).collect();
        paths.extend(old);
    }

    /// Gives up the changes of a path, which must be safe elsewhere. The remote's version is read and
    /// shown again.
    pub(super) fn give_up(&mut self, path: &WsPath, now: Now, changes: &mut Changes) {
        let records = self.outbox.remove(path, &mut changes.rows);
        let Some(first) = records.first() else { return };
        let base_content = first.base_content;
        let never_there = first.base == RecordBase::Known(Base::Absent)
            && records.iter().all(|record| record.sent.is_empty() && record.attempts == 0);
        let stores = records.iter().any(|record| record.op == Op::Put);
        let ino = self.tree.resolve(path);
        match ino.and_then(|ino| self.tree.get(ino)).map(|node| node.is_dir()) {
            Some(true) => self.give_up_folder(path, now, changes),
            Some(false) if stores && never_there => {
                if let Some(ino) = ino {
                    self.take_out(ino, now, changes);
                }
            }
            Some(false) => {
                if let Some(ino) = ino {
                    self.show_base(ino, base_content.map(|base| base.blob), stores, changes);
                }
            }
            None => {}
        }
        // The folder is there still, once nothing has its name here.
        if records.iter().any(|record| record.op == Op::RemoveDir)
            && self.tree.resolve(path).is_none()
        {
            self.folder_created(path, None, now, changes);
        }
        for blob in records.iter().flat_map(Record::blobs) {
            self.release_blob(blob, changes);
        }
        self.note_recheck(path, changes);
    }

    fn give_up_folder(&mut self, path: &WsPath, now: Now, changes: &mut Changes) {
        let Some(ino) = self.tree.resolve(path) else { return };
        if self.tree.children(ino).is_some_and(std::collections::BTreeMap::is_empty) {
            self.take_out(ino, now, changes);
            return;
        }
        if let Some(node) = self.tree.get_mut(ino) {
            node.kind = Kind::Dir { explicit: false };
            node.synced = None;
        }
        self.put_node(ino, changes);
    }

    /// Until the remote's version was read, shows what the change was made against, if it is here.
    fn show_base(
        &mut self,
        ino: Ino,
        base: Option<crate::node::BlobId>,
        stores: bool,
        changes: &mut Changes,
    ) {
        // Names may have changed places since: another file has those bytes then, and keeps them.
        let base = base.filter(|blob| self.owner(*blob).is_none_or(|owner| owner == ino));
        let Some(node) = self.tree.get_mut(ino) else { return };
        // Derived from a version of which nothing is known: whatever is read there replaces it.
        node.synced = Some(Box::default());
        node.origin = None;
        let mut old = None;
        if stores && let Some(body) = node.body_mut() {
            old = Some(body.content);
            let content = base.map_or(Content::Remote, Content::Blob);
            *body = FileBody { content, size: body.size, exact: false };
            if let Some(blob) = base {
                self.own(Content::Blob(blob), ino);
            }
        }
        self.put_node(ino, changes);
        if let Some(old) = old {
            self.release_content(old, changes);
        }
        changes.invalidations.push(Invalidation::Node(ino));
    }
}
