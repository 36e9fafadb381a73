//! Replies: what an answered, refused or lost request leads to.
//!
//! Pure: changes the core, returns what to do next. Accepting a record and adopting its revision
//! are one step under the lock and one submission to the store.

use std::time::Duration;

use super::core::{Changes, Core, LastBatch, Now};
use super::outbox::{Slot, Wait};
use super::plan::{Item, Task};
use crate::digest::Digest;
use crate::node::{Content, Synced};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState, Seq};
use crate::remote::{Outcome, RemoteError};
use crate::revision::{Base, Revision};
use crate::store::Row;

/// Smallest body cap that is ever learned; encoded bytes.
const BODY_BYTES_MIN: u64 = 16 << 10;

/// What became of one item of a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The item.
    pub item: Item,
    /// The digest of the bytes that were sent.
    pub digest: Option<Digest>,
    /// What the reply says; `None` when it was left out of the request after all.
    pub outcome: Option<Outcome>,
}

impl Core {
    /// Notes what is about to be sent, so that its fate can be settled even after a crash.
    pub fn note_sending(
        &mut self,
        path: &WsPath,
        seq: Seq,
        digest: Option<Digest>,
        changes: &mut Changes,
    ) {
        let current = self.outbox.lane(path).is_some_and(|lane| lane.current.record.seq == seq);
        if current {
            self.outbox.update(path, &mut changes.rows, |slot| {
                if let Some(digest) = digest {
                    slot.record.note_sent(digest);
                    slot.sent_is_newest = true;
                }
            });
        }
    }

    /// Takes up the answers of a request. Returns what must be settled.
    pub fn answered(
        &mut self,
        answers: Vec<Answer>,
        took: Duration,
        now: Now,
        changes: &mut Changes,
    ) -> Vec<Task> {
        self.link.reached();
        self.stats.requests += 1;
        self.limit_batches(None);
        let mut files = 0;
        let mut bytes = 0;
        let mut tasks = Vec::new();
        for Answer { item, digest, outcome } in answers {
            let accepted = matches!(outcome, Some(Outcome::Accepted { .. }));
            if accepted {
                if item.op == Op::Put && item.moved_from.is_none() {
                    self.accepted_file(item.size);
                }
                files += 1;
                bytes = item.size.saturating_add(bytes);
            }
            tasks.extend(self.answer(&item, digest, outcome, now, changes));
        }
        if files > 0 {
            self.stats.last_batch = Some(LastBatch { files, bytes, duration: took, at: now.wall });
            self.note_accepted(files, bytes, now);
            let at = now.wall.to_string();
            changes.rows.push(Row::SetMeta("last_ack_at", Some(at)));
        }
        tasks
    }

    /// Puts items back that were not sent after all.
    pub fn return_items(
        &mut self,
        answers: Vec<Answer>,
        now: Now,
        changes: &mut Changes,
    ) -> Vec<Task> {
        answers
            .into_iter()
            .filter_map(|answer| self.answer(&answer.item, None, None, now, changes))
            .collect()
    }

    pub(super) fn note_accepted(&mut self, files: u64, bytes: u64, now: Now) {
        let stats = &mut self.stats;
        stats.accepted += files;
        stats.accepted_bytes = stats.accepted_bytes.saturating_add(bytes);
        stats.last_ack_at = Some(now.wall);
        let second = now.mono.as_secs();
        match stats.recent.back_mut() {
            Some(newest) if newest.0 == second => {
                newest.1 += files;
                newest.2 = newest.2.saturating_add(bytes);
            }
            _ => stats.recent.push_back((second, files, bytes)),
        }
        while stats.recent.front().is_some_and(|oldest| oldest.0 + 60 < second) {
            stats.recent.pop_front();
        }
    }

    fn answer(
        &mut self,
        item: &Item,
        digest: Option<Digest>,
        outcome: Option<Outcome>,
        now: Now,
        changes: &mut Changes,
    ) -> Option<Task> {
        let Some(record) = self.current(&item.path, item.seq) else {
            // It ended meanwhile; an old name that was to be moved must not wait for it.
            self.requeue(item, 1, changes);
            return None;
        };
        let settle = Task::Settle { path: item.path.clone(), seq: item.seq };
        match outcome {
            None => {
                self.requeue(item, 0, changes);
                None
            }
            Some(Outcome::Accepted { revision }) => {
                self.accepted(item, digest, revision.as_ref(), now, changes);
                None
            }
            // A move is only a short cut; what it cannot do is done the long way.
            Some(_) if item.moved_from.is_some() => {
                self.requeue(item, 1, changes);
                None
            }
            Some(Outcome::Conflict { .. } | Outcome::Unknown) => Some(settle),
            Some(Outcome::Absent) if record.op == Op::Delete || record.op == Op::RemoveDir => {
                self.removed_there(item, None, now, changes);
                None
            }
            Some(Outcome::Absent) => Some(settle),
            Some(Outcome::NotEmpty) => {
                self.end_record(&item.path, &Base::Absent, now.mono, changes);
                self.note_recheck(&item.path, changes);
                None
            }
            Some(Outcome::Refused { code, message }) => {
                self.park(&item.path, &code, &message, now, changes);
                None
            }
        }
    }

    pub(super) fn current(&self, path: &WsPath, seq: Seq) -> Option<&Record> {
        let record = &self.outbox.lane(path)?.current.record;
        (record.seq == seq).then_some(record)
    }

    /// The remote stored the record.
    fn accepted(
        &mut self,
        item: &Item,
        digest: Option<Digest>,
        revision: Option<&Revision>,
        now: Now,
        changes: &mut Changes,
    ) {
        let base = revision.cloned().map_or(Base::Absent, Base::Revision);
        if let Some((origin, _)) = &item.moved_from {
            self.end_record(origin, &Base::Absent, now.mono, changes);
            self.note_gone(origin, None, changes);
        }
        match item.op {
            Op::Put | Op::Meta | Op::MakeDir => {
                let ended = self.adopt_accepted(item, digest, revision.cloned());
                self.forget_gone(&item.path, changes);
                let leads_to = if item.op == Op::MakeDir { Base::Absent } else { base };
                let record = self.end_record(&item.path, &leads_to, now.mono, changes);
                if let Some(ino) = ended {
                    self.put_node(ino, changes);
                }
                let Some(record) = record else { return };
                // The next change recognises these bytes as ours, under whatever revision, also after a
                // restart.
                if let Some(digest) = digest {
                    let note = |slot: &mut Slot| slot.record.note_sent(digest);
                    self.outbox.update(&item.path, &mut changes.rows, note);
                }
                // A repeated request may be answered from memory, as it was the first time; somebody
                // else may have changed or removed the file since.
                let is_repeated = record.attempts > 1;
                if (revision.is_none() || is_repeated) && record.op == Op::Put {
                    self.note_recheck(&item.path, changes);
                }
            }
            Op::Delete | Op::RemoveDir => self.removed_there(item, revision, now, changes),
        }
    }

    /// The remote has what a removal was about no more.
    fn removed_there(
        &mut self,
        item: &Item,
        revision: Option<&Revision>,
        now: Now,
        changes: &mut Changes,
    ) {
        let path = &item.path;
        self.end_record(path, &Base::Absent, now.mono, changes);
        if item.op == Op::RemoveDir {
            self.folder_removed(path, changes);
        } else {
            self.note_gone(path, revision, changes);
        }
    }

    /// Notes on the node which remote version it derives from now.
    fn adopt_accepted(
        &mut self,
        item: &Item,
        digest: Option<Digest>,
        revision: Option<Revision>,
    ) -> Option<crate::node::Ino> {
        let ino = item.ino?;
        // A node that moved on meanwhile has another name; this revision is not about that one.
        if self.tree.path_of(ino).as_ref() != Some(&item.path) {
            return None;
        }
        let node = self.tree.get_mut(ino)?;
        let kept = node.synced.as_deref().and_then(|synced| synced.digest);
        let digest = if item.op == Op::Meta { kept } else { digest };
        node.synced = Some(Box::new(Synced { revision, digest, edited_at: None }));
        node.origin = None;
        // Sent before its bytes here were damaged: the remote can give them again.
        if let Some(body) = node.body_mut().filter(|body| body.content == Content::Damaged) {
            body.content = Content::Remote;
        }
        Some(ino)
    }

    /// Puts an item back to wait. `attempts` 0 takes back that it was tried at all. A record that
    /// ended meanwhile stays ended.
    fn requeue(&mut self, item: &Item, attempts: u32, changes: &mut Changes) {
        let origin = item.moved_from.as_ref().map(|(origin, _)| origin);
        let waits = |slot: &mut Slot| {
            slot.record.state = RecordState::Waiting;
            if attempts == 0 {
                slot.record.attempts = slot.record.attempts.saturating_sub(1);
            }
        };
        if self.current(&item.path, item.seq).is_some() {
            self.outbox.update(&item.path, &mut changes.rows, waits);
            self.fold_waiting(&item.path, changes);
        }
        if let Some(origin) = origin
            && self.outbox.lane(origin).is_some_and(|lane| {
                let old = &lane.current.record;
                old.state == RecordState::Flight && old.moved_to == item.ino
            })
        {
            self.outbox.update(origin, &mut changes.rows, waits);
            self.fold_waiting(origin, changes);
        }
    }

    /// A newer change that waited behind a record which is to be sent again joins it.
    pub(super) fn fold_waiting(&mut self, path: &WsPath, changes: &mut Changes) {
        // What was taken for our echo was not: nothing of ours was accepted.
        if self.outbox.lane_mut(path).is_some_and(|lane| lane.heard.take().is_some()) {
            self.note_recheck(path, changes);
        }
        let before: Vec<_> = self
            .outbox
            .lane(path)
            .map(|lane| lane.records().flat_map(Record::blobs).collect())
            .unwrap_or_default();
        self.outbox.fold(path, &mut changes.rows);
        for blob in before {
            self.release_blob(blob, changes);
        }
        self.end_orphan(path, changes);
    }

    /// A request failed as a whole.
    pub fn failed(
        &mut self,
        items: Vec<Item>,
        error: &RemoteError,
        sent_bytes: u64,
        now: Now,
        changes: &mut Changes,
    ) {
        self.stats.requests += 1;
        let alone = items.len() == 1;
        let jitter = self.jitter();
        match error {
            RemoteError::TooLarge => {
                self.link.reached();
                if alone {
                    if let Some(item) = items.first().filter(|item| item.moved_from.is_none()) {
                        self.learn_file_bytes(item, sent_bytes);
                    }
                } else if !self.learn_body_cap(sent_bytes / 2, changes) {
                    // It is not the size of the body: whatever it is, it must not be asked for ever.
                    self.limit_batches(Some((items.len() / 2).max(1)));
                }
            }
            RemoteError::Invalid { .. } => {
                self.link.reached();
                self.limit_batches(Some((items.len() / 2).max(1)));
            }
            RemoteError::Forbidden { message } => {
                // The whole request: the credential may not write at all.
                self.link.forbidden(message, now.mono, now.wall, jitter);
            }
            RemoteError::Changed => tracing::debug!(%error, "sent again as it is now"),
            RemoteError::Local { message } => {
                tracing::error!(%message, "content could not be read for sending");
            }
            RemoteError::Unreachable { .. }
            | RemoteError::Busy { .. }
            | RemoteError::Auth { .. }
            | RemoteError::Gone { .. }
            | RemoteError::OtherServer { .. }
            | RemoteError::Untrusted { .. }
            | RemoteError::Garbled { .. } => {
                if self.link.failed(error, now.mono, now.wall, jitter) {
                    tracing::warn!(%error, "the server cannot be used, changes wait in the outbox");
                }
            }
        }
        if !matches!(error, RemoteError::Changed) {
            self.note_error(error_code(error), &error.to_string(), now.wall);
        }
        for item in items {
            let hold = matches!(
                error,
                RemoteError::Local { .. } | RemoteError::Garbled { .. } | RemoteError::Changed
            );
            let text = error.to_string();
            let concerned = match error {
                RemoteError::TooLarge if alone => Some("too_large"),
                RemoteError::Invalid { .. } if alone => Some("invalid"),
                _ => None,
            };
            if let Some(code) = concerned.filter(|_| item.moved_from.is_none()) {
                self.park(&item.path, code, &text, now, changes);
                continue;
            }
            self.requeue(&item, 1, changes);
            self.outbox.mark(&item.path, |slot| {
                slot.record.last_error = Some(text);
                if hold {
                    slot.held_until = Some(now.mono + Duration::from_secs(1));
                    slot.held_for = Wait::Again;
                }
            });
        }
    }

    /// Whether that made requests smaller.
    fn learn_body_cap(&mut self, bytes: u64, changes: &mut Changes) -> bool {
        let before = self.body_bytes;
        self.body_bytes = bytes.max(BODY_BYTES_MIN).min(before);
        if self.body_bytes == before {
            return false;
        }
        tracing::info!(bytes = self.body_bytes, "the server takes smaller requests, learned");
        changes.rows.push(Row::SetMeta("body_bytes", Some(self.body_bytes.to_string())));
        true
    }

    /// Sets a record aside with its bytes: refused for good.
    pub(super) fn park(
        &mut self,
        path: &WsPath,
        code: &str,
        message: &str,
        now: Now,
        changes: &mut Changes,
    ) {
        tracing::warn!(%path, code, message, "change parked");
        self.note_error(code, &format!("{path}: {message}"), now.wall);
        let newer = self.outbox.lane(path).is_some_and(|lane| !lane.after.is_empty());
        self.outbox.update(path, &mut changes.rows, |slot| {
            slot.record.last_error = Some(message.to_owned());
            slot.record.state = if newer {
                RecordState::Waiting
            } else {
                RecordState::Parked { code: code.to_owned(), message: message.to_owned() }
            };
        });
        if newer {
            self.fold_waiting(path, changes);
        }
        self.end_orphan(path, changes);
    }

    /// Tries parked records again that a new credential may be allowed to send.
    pub fn unpark(&mut self, concerned: impl Fn(&str) -> bool, changes: &mut Changes) {
        let parked: Vec<WsPath> = self
            .outbox
            .lanes()
            .filter(|(_, lane)| {
                matches!(&lane.current.record.state,
                    RecordState::Parked { code, .. } if concerned(code))
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in parked {
            self.outbox.update(&path, &mut changes.rows, |slot| {
                slot.record.state = RecordState::Waiting;
            });
        }
    }

    /// Lets a record wait a while, e.g. because its file is open.
    pub fn postpone(&mut self, path: &WsPath, until: Duration, changes: &mut Changes) {
        self.outbox.update(path, &mut changes.rows, |slot: &mut Slot| {
            slot.record.state = RecordState::Waiting;
        });
        self.fold_waiting(path, changes);
        self.outbox.mark(path, |slot| {
            slot.held_until = Some(until);
            slot.held_for = Wait::Conflict;
        });
    }

    /// A request that carried changes is over.
    pub fn batch_over(&mut self) {
        self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
    }

    /// A request with one file is over.
    pub fn single_over(&mut self) {
        self.singles_in_flight = self.singles_in_flight.saturating_sub(1);
    }

    /// Most files in the next request.
    pub(super) fn batch_limit(&self) -> usize {
        self.batch_limit.unwrap_or(self.settings.batch_files_max)
    }

    /// After a refused request batches are halved until the bad record is alone; each request that
    /// is understood doubles them again.
    fn limit_batches(&mut self, limit: Option<usize>) {
        self.batch_limit = match limit {
            Some(limit) => Some(limit),
            None => self
                .batch_limit
                .map(|limit| limit * 2)
                .filter(|limit| *limit < self.settings.batch_files_max),
        };
    }
}

/// The code that `mountctl` shows for a failed request.
#[must_use]
pub fn error_code(error: &RemoteError) -> &'static str {
    match error {
        RemoteError::Unreachable { .. } => "UNREACHABLE",
        RemoteError::Busy { .. } => "SERVER_BUSY",
        RemoteError::Auth { .. } => "AUTH",
        RemoteError::Forbidden { .. } => "FORBIDDEN",
        RemoteError::Gone { .. } => "WORKSPACE_GONE",
        RemoteError::TooLarge => "TOO_LARGE",
        RemoteError::Invalid { .. } => "INVALID",
        RemoteError::OtherServer { .. } => "OTHER_SERVER",
        RemoteError::Untrusted { .. } => "UNTRUSTED",
        RemoteError::Garbled { .. } => "REPLY_GARBLED",
        RemoteError::Changed => "CHANGED",
        RemoteError::Local { .. } => "LOCAL_DISK",
    }
}
