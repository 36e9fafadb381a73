//! Verdicts: what a decision over a refused or uncertain record changes.
//!
//! [`settle`] decides; here the core follows. Pure. Keeping both sides needs the disk and is done in
//! [`super::conflict`], which comes back with [`Core::kept`] or `Core::pushed`.

use bytes::Bytes;

use super::copies::NewContent;
use super::core::{Changes, Core, Invalidation, Now};
use super::inbound::Source;
use super::news::NewsKind;
use super::settle::{Verdict, settle};
use crate::digest::Digest;
use crate::node::{Content, FileBody, Node, Synced};
use crate::path::WsPath;
use crate::record::{ConflictRow, Op, Record, RecordBase, RecordState, SENT_MAX, Seq};
use crate::remote::RemoteFile;
use crate::revision::Base;
use crate::store::Row;

/// How often a record may be refused although the remote is unchanged before a person must look.
const REFUSALS_MAX: u32 = 8;

impl Core {
    /// Decides over a record after the remote's state was read. Returns whether both sides must be
    /// kept, which needs the disk.
    pub fn settled(
        &mut self,
        path: &WsPath,
        seq: Seq,
        theirs: Option<&RemoteFile>,
        now: Now,
        changes: &mut Changes,
    ) -> Option<Record> {
        self.link.heard_from(now.mono);
        let record = self.current(path, seq)?.clone();
        self.check_base(&record, theirs, changes);
        if let Some(other) = theirs.and_then(|theirs| self.taken_for(&record, theirs)) {
            self.settle_taken(&record, &other, now, changes);
            return None;
        }
        // Bytes that were changed since they were sent are not what the remote may have.
        let newest = self.outbox.lane(path).is_some_and(|lane| lane.current.sent_is_newest);
        let moved = record.ino.and_then(|ino| self.origin_digest(ino));
        let ours = record.sent.last().filter(|sent| newest || moved.as_ref() == Some(sent));
        match settle(&record, ours, theirs) {
            Verdict::Adopt => self.settle_adopt(&record, theirs, now, changes),
            Verdict::Resend(base) => {
                self.settle_resend(&record, base, now, changes);
                self.drop_other_base(&record.path, theirs, changes);
            }
            // Both sides can be kept only when ours is here; sending it fetches it first.
            Verdict::Keep if self.is_only_there(&record) => {
                let base = record.known_base().cloned().unwrap_or(Base::Absent);
                self.settle_resend(&record, base, now, changes);
            }
            Verdict::Keep if self.is_orphan(&record) => {
                self.end_record(path, &Base::Absent, now.mono, changes);
                self.note_recheck(path, changes);
            }
            Verdict::Keep => return Some(record),
            Verdict::Yield => self.settle_yield(&record, theirs, now, changes),
        }
        None
    }

    /// The name of a renamed file that the server takes for its other one: it has the same version
    /// under both, as where it knows no difference between upper and lower case. To remove the old
    /// name would remove the file.
    fn taken_for(&self, record: &Record, theirs: &RemoteFile) -> Option<WsPath> {
        let revision = theirs.revision.as_ref()?;
        match record.op {
            Op::Put if self.outbox.removals() > 0 => {
                let is_old_name = |other: &&Record| {
                    other.op == Op::Delete
                        && other.moved_to == record.ino
                        && matches!(other.known_base(), Some(Base::Revision(old)) if old == revision)
                };
                let all = self.outbox.lanes().flat_map(|(_, lane)| lane.records());
                let old = all.filter(|other| other.path != record.path).find(is_old_name);
                old.map(|old| old.path.clone())
            }
            Op::Delete => {
                let ino = record.moved_to?;
                // Until it was stored under its new name it derives from what the old one has.
                let stored = self.tree.get(ino).filter(|node| node.origin.is_none())?;
                let synced = stored.synced.as_deref()?;
                let new = self.tree.path_of(ino).filter(|new| new != &record.path)?;
                (synced.revision.as_ref() == Some(revision)).then_some(new)
            }
            Op::Put | Op::Meta | Op::MakeDir | Op::RemoveDir => None,
        }
    }

    /// Leaves the file of two names that are one at the server alone: it stays under the name that the
    /// server has, and a new name waits for a person.
    fn settle_taken(&mut self, record: &Record, other: &WsPath, now: Now, changes: &mut Changes) {
        if record.op == Op::Put {
            let message = format!(
                "the server takes this name for {other}, its old one: give it one that differs in more, \
                 or the old one"
            );
            // The answer was no, and what is there is not ours: there is nothing to be removed again.
            self.outbox.update(&record.path, &mut changes.rows, |slot| {
                slot.record.sent.clear();
                slot.record.attempts = 0;
                slot.sent_is_newest = false;
            });
            self.park(&record.path, "name_taken", &message, now, changes);
        } else {
            tracing::warn!(path = %record.path, %other, "the server takes both names for one: not removed");
            self.end_record(&record.path, &Base::Absent, now.mono, changes);
        }
    }

    fn is_only_there(&self, record: &Record) -> bool {
        let body = record.ino.and_then(|ino| self.tree.get(ino)).and_then(Node::body);
        body.is_some_and(|body| body.content == Content::Remote)
    }

    fn settle_resend(&mut self, record: &Record, base: Base, now: Now, changes: &mut Changes) {
        let path = &record.path;
        let unchanged = record.known_base() == Some(&base);
        let lane = self.outbox.lane(path);
        let refusals = lane.filter(|_| unchanged).map_or(0, |lane| lane.current.refusals + 1);
        if refusals > REFUSALS_MAX {
            let message = "refused again and again although nothing changed there";
            self.park(path, "refused", message, now, changes);
            return;
        }
        self.outbox.update(path, &mut changes.rows, |slot| {
            let sent = &mut slot.record.sent;
            // What was sent on another base can arrive no more; the latest on this one still may.
            sent.drain(..sent.len().saturating_sub(if unchanged { SENT_MAX / 2 } else { 0 }));
            slot.record.state = RecordState::Waiting;
            slot.record.base = RecordBase::Known(base);
            slot.refusals = refusals;
            slot.asked = true;
        });
        self.fold_waiting(path, changes);
    }

    /// Forgets the bytes that a record was made against when they are not those of the base that it
    /// has now: an earlier sending of ours is.
    fn drop_other_base(
        &mut self,
        path: &WsPath,
        theirs: Option<&RemoteFile>,
        changes: &mut Changes,
    ) {
        let digest = theirs.and_then(|file| file.digest);
        let is_other = |record: &Record| {
            record.base_content.is_some_and(|content| digest.is_none() || content.digest != digest)
        };
        let Some(lane) = self.outbox.lane(path) else { return };
        if !is_other(&lane.current.record) {
            return;
        }
        let before = self.lane_blobs(path);
        self.outbox.update(path, &mut changes.rows, |slot| slot.record.base_content = None);
        for blob in before {
            self.release_blob(blob, changes);
        }
    }

    fn settle_adopt(
        &mut self,
        record: &Record,
        theirs: Option<&RemoteFile>,
        now: Now,
        changes: &mut Changes,
    ) {
        let base = match theirs.map(|file| (&file.revision, file.edited_at)) {
            Some((Some(revision), _)) => Base::Revision(revision.clone()),
            Some((None, Some(date))) => Base::Date(date),
            _ => Base::Absent,
        };
        let at_path =
            |node: &Node, core: &Self| core.tree.path_of(node.ino).as_ref() == Some(&record.path);
        if let (Some(ino), Some(file)) = (record.ino, theirs)
            && self.tree.get(ino).is_some_and(|node| at_path(node, self))
            && let Some(node) = self.tree.get_mut(ino)
        {
            node.synced = Some(Box::new(Synced {
                revision: file.revision.clone(),
                digest: file.digest,
                edited_at: file.edited_at,
            }));
            node.origin = None;
            self.put_node(ino, changes);
        }
        if theirs.is_some() {
            self.forget_gone(&record.path, changes);
        }
        self.end_record(&record.path, &base, now.mono, changes);
        self.note_accepted(1, record.size, now);
    }

    /// Our removal, or change of metadata only, gives way to their edit.
    fn settle_yield(
        &mut self,
        record: &Record,
        theirs: Option<&RemoteFile>,
        now: Now,
        changes: &mut Changes,
    ) {
        let base = record.known_base().cloned().unwrap_or(Base::Absent);
        // What follows on this path must not take their version for its base: nobody here saw it.
        let leads_to = if record.op == Op::Delete { Base::Absent } else { base };
        self.end_record(&record.path, &leads_to, now.mono, changes);
        if record.op == Op::Delete
            && let Some(file) = theirs
        {
            tracing::warn!(path = %record.path, "removed here, edited there: the edit stays");
            let conflict = ConflictRow {
                id: format!("c-{}", record.seq.0),
                path: record.path.clone(),
                at: now.wall,
                kind: "delete".to_owned(),
                base_revision: base_text(record),
                theirs_revision: file.revision.as_ref().map(ToString::to_string),
                ours: None,
                theirs: theirs_of(file),
                base: None,
                folder: String::new(),
                ours_by: self.settings.who.clone(),
                ours_at: Some(record.recorded_at),
                theirs_at: file.edited_at,
                sibling: None,
                resolution: None,
            };
            self.add_conflict(conflict, changes);
        }
        match theirs {
            Some(file) => {
                self.stored(file, Source::Read, false, now, changes);
            }
            None => self.note_recheck(&record.path, changes),
        }
    }

    /// Lists a conflict.
    pub(super) fn add_conflict(&mut self, conflict: ConflictRow, changes: &mut Changes) {
        changes.rows.push(Row::PutConflict(Box::new(conflict.clone())));
        self.conflicts.retain(|other| other.id != conflict.id);
        self.conflicts.push(conflict);
    }

    /// Both sides are safe on disk: theirs takes the name, our record ends.
    pub fn kept(
        &mut self,
        record: &Record,
        theirs: &RemoteFile,
        conflict: ConflictRow,
        now: Now,
        changes: &mut Changes,
    ) {
        let base = base_on(theirs);
        self.end_record(&record.path, &base, now.mono, changes);
        match self.tree.resolve(&record.path) {
            Some(ino) if self.tree.get(ino).is_some_and(|node| !node.is_dir()) => {
                self.adopt_version(ino, theirs, changes);
                self.replace(ino, theirs, now, changes);
                self.tell(NewsKind::Changed, ino, changes);
                changes.invalidations.push(Invalidation::Node(ino));
            }
            // Ours went meanwhile, or a folder took the name.
            _ => {
                self.stored(theirs, Source::Read, true, now, changes);
            }
        }
        self.add_conflict(conflict, changes);
    }

    /// Both sides are safe on disk: ours, or a merge of both, takes the name and is sent on the base
    /// of theirs. Until the server has accepted it, it is a change like any other.
    pub(super) fn pushed(
        &mut self,
        record: &Record,
        push: Push<'_>,
        conflict: ConflictRow,
        now: Now,
        changes: &mut Changes,
    ) {
        let path = &record.path;
        let before = self.lane_blobs(path);
        let base_content =
            push.base.as_ref().and_then(|bytes| self.keep_base(bytes, &mut changes.rows));
        let content = push.content.map(|content| content.enter(self, &mut changes.rows));
        let mut replaced = None;
        if let Some(ino) = record.ino {
            if let Some((content, _)) = content {
                self.own(content, ino);
            }
            if let Some(node) = self.tree.get_mut(ino) {
                node.synced = Some(Box::new(Synced {
                    revision: push.theirs.revision.clone(),
                    digest: push.theirs.digest,
                    edited_at: push.theirs.edited_at,
                }));
                node.origin = None;
                if let (Some((content, size)), Some(body)) = (content, node.body_mut()) {
                    replaced = Some(body.content);
                    *body = FileBody { content, size, exact: true };
                    node.mtime = now.wall;
                    node.ctime = now.wall;
                }
            }
            self.put_node(ino, changes);
            self.tell(NewsKind::Changed, ino, changes);
            changes.invalidations.push(Invalidation::Node(ino));
        }
        self.outbox.update(path, &mut changes.rows, |slot| {
            let record = &mut slot.record;
            record.state = RecordState::Waiting;
            record.base = RecordBase::Known(base_on(push.theirs));
            record.base_content = base_content;
            // What was sent on another base can arrive no more.
            record.sent.clear();
            record.last_error = None;
            if let Some((content, size)) = content {
                record.size = size;
                record.blob = match content {
                    Content::Blob(blob) => Some(blob),
                    Content::Empty | Content::Remote | Content::Damaged | Content::File(_) => None,
                };
            }
            slot.refusals = 0;
            slot.sent_is_newest = false;
        });
        for blob in before {
            self.release_blob(blob, changes);
        }
        if let Some(replaced) = replaced {
            self.release_content(replaced, changes);
        }
        self.fold_waiting(path, changes);
        self.add_conflict(conflict, changes);
    }
}

/// What is sent on the base of theirs.
#[derive(Debug)]
pub(super) struct Push<'a> {
    /// Their version.
    pub(super) theirs: &'a RemoteFile,
    /// Its bytes, when they are a text: the base of the next merge.
    pub(super) base: Option<Bytes>,
    /// What takes the name; `None` when that is ours as it is.
    pub(super) content: Option<NewContent>,
}

/// The base that a version of the remote gives.
fn base_on(theirs: &RemoteFile) -> Base {
    match (&theirs.revision, theirs.edited_at) {
        (Some(revision), _) => Base::Revision(revision.clone()),
        (None, Some(date)) => Base::Date(date),
        (None, None) => Base::Absent,
    }
}

/// The base's revision, for people.
pub(super) fn base_text(record: &Record) -> Option<String> {
    match record.known_base()? {
        Base::Revision(revision) => Some(revision.to_string()),
        Base::Absent | Base::Date(_) => None,
    }
}

/// Size and digest of theirs, where both are known.
pub(super) fn theirs_of(file: &RemoteFile) -> Option<(u64, Digest)> {
    let size = match (&file.body, file.size) {
        (Some(body), _) => body.len() as u64,
        (None, crate::remote::Size::Exact(size) | crate::remote::Size::AtMost(size)) => size,
    };
    Some((size, file.digest?))
}
