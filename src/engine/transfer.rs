//! Sending: loads what a plan handed out, sends it, and has the answers taken up.
//!
//! Runs on tokio; disk work goes to blocking threads. Content is read and hashed as one snapshot:
//! a file that changes meanwhile goes back to wait. The digest is committed before the request
//! leaves, so that a crash cannot make us take our own bytes for somebody else's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::Changes;
use super::damage::{DAMAGED, Recourse};
use super::fetch::FetchError;
use super::outbox::Wait;
use super::plan::{Item, ItemSource, Task};
use super::replies::Answer;
use super::shared::{Notice, NoticeKind, Shared};
use crate::content::working::{Scan, is_damage, scan};
use crate::digest::Digest;
use crate::node::{Content, FileId, Ino};
use crate::record::Op;
use crate::remote::{BulkChange, BulkEntry, FilePut, Outcome, RemoteError};
use crate::store::StoreError;

/// How long a change waits whose file was written while it was read.
const CHANGED_HOLD: Duration = Duration::from_secs(1);

/// An item with its bytes.
struct Loaded {
    item: Item,
    body: Bytes,
    digest: Option<Digest>,
}

/// Why an item cannot be sent now.
enum Unready {
    /// It changed while it was read, or its bytes could not be had.
    Later(String),
    /// Its bytes must be fetched first and that failed.
    Link(RemoteError),
    /// Its bytes were damaged, and nobody else has them.
    Damaged(String),
}

/// A file that exists for one upload, however that ends.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

impl Shared {
    /// Sends one bulk request and takes up its answers. Returns what must be settled.
    pub(super) async fn send_bulk(self: &Arc<Self>, items: Vec<Item>) -> Vec<Task> {
        let mut ready = Vec::new();
        let mut answers = Vec::new();
        for item in items {
            match self.load(&item).await {
                Ok((body, digest)) => ready.push(Loaded { item, body, digest }),
                Err(Unready::Damaged(why)) => self.park_damaged(&item, &why),
                Err(unready) => {
                    self.not_ready(&item, unready);
                    answers.push(Answer { item, digest: None, outcome: None });
                }
            }
        }
        failpoint!("send.loaded");
        let cap = self.core().body_bytes;
        let mut entries: Vec<BulkEntry> = Vec::new();
        let mut sent: Vec<(Item, Option<Digest>)> = Vec::new();
        let mut bytes = 0;
        for Loaded { item, body, digest } in ready {
            let entry = entry(&item, body, digest.as_ref());
            let len = self.remote.encoded_len(&entry);
            if !entries.is_empty() && bytes + len > cap {
                answers.push(Answer { item, digest: None, outcome: None });
                continue;
            }
            bytes += len;
            entries.push(entry);
            sent.push((item, digest));
        }
        if entries.is_empty() {
            return self.step(|core, now, changes| {
                core.batch_over();
                core.return_items(answers, now, changes)
            });
        }
        if let Err(error) = self.note_sending(&sent).await {
            tracing::error!(%error, "batch not sent: the outbox cannot be written");
            for (item, _) in sent {
                self.not_ready(&item, Unready::Later(error.to_string()));
                answers.push(Answer { item, digest: None, outcome: None });
            }
            return self.step(|core, now, changes| {
                core.batch_over();
                core.return_items(answers, now, changes)
            });
        }
        failpoint!("send.noted");
        let began = self.clock.monotonic();
        let reply = self.remote.bulk(&entries).await;
        failpoint!("send.replied");
        let took = self.clock.monotonic().saturating_sub(began);
        tracing::debug!(files = entries.len(), bytes, after_ms = took.as_millis(), "batch");
        let tasks = self.step(|core, now, changes| {
            core.batch_over();
            let mut tasks = core.return_items(answers, now, changes);
            match reply {
                Ok(outcomes) => {
                    let answers =
                        sent.into_iter().zip(outcomes).map(|((item, digest), outcome)| {
                            self.tell(&item, &outcome);
                            Answer { item, digest, outcome: Some(outcome) }
                        });
                    tasks.extend(core.answered(answers.collect(), took, now, changes));
                }
                Err(error) => {
                    let items = sent.into_iter().map(|(item, _)| item).collect();
                    core.failed(items, &error, bytes, now, changes);
                }
            }
            tasks
        });
        failpoint!("send.taken");
        tasks
    }

    /// Sends one file or delete by itself.
    pub(super) async fn send_single(self: &Arc<Self>, item: Item) -> Vec<Task> {
        let began = self.clock.monotonic();
        let result = match item.op {
            Op::Delete => {
                let reply = self.remote.delete(&item.path, item.precondition.clone()).await;
                reply.map(|outcome| (outcome, None)).map_err(Unready::Link)
            }
            Op::Put | Op::Meta | Op::MakeDir | Op::RemoveDir => self.put_single(&item).await,
        };
        let took = self.clock.monotonic().saturating_sub(began);
        match &result {
            Err(Unready::Later(reason)) => self.not_ready(&item, Unready::Later(reason.clone())),
            Err(Unready::Damaged(why)) => self.park_damaged(&item, why),
            Ok(_) | Err(Unready::Link(_)) => {}
        }
        let refused = matches!(&result, Err(Unready::Link(RemoteError::TooLarge)));
        let request_bytes = if refused { self.request_bytes(&item).await } else { item.size };
        failpoint!("send.single.replied");
        let tasks = self.step(|core, now, changes| {
            core.single_over();
            match result {
                Ok((outcome, digest)) => {
                    self.tell(&item, &outcome);
                    let answer = Answer { item, digest, outcome: Some(outcome) };
                    core.answered(vec![answer], took, now, changes)
                }
                Err(Unready::Link(error)) => {
                    core.failed(vec![item], &error, request_bytes, now, changes);
                    Vec::new()
                }
                Err(Unready::Damaged(_)) => Vec::new(),
                Err(Unready::Later(_)) => {
                    let answer = Answer { item, digest: None, outcome: None };
                    core.return_items(vec![answer], now, changes)
                }
            }
        });
        failpoint!("send.single.taken");
        tasks
    }

    /// How many bytes of a request the content of a file takes that travels by itself.
    async fn request_bytes(self: &Arc<Self>, item: &Item) -> u64 {
        if self.core().offers(|can| can.raw) {
            return item.size;
        }
        match self.load(item).await {
            Ok((body, digest)) => self.remote.encoded_len(&entry(item, body, digest.as_ref())),
            Err(_) => u64::MAX,
        }
    }

    /// Streams one file from the local disk.
    async fn put_single(
        self: &Arc<Self>,
        item: &Item,
    ) -> Result<(Outcome, Option<Digest>), Unready> {
        let source = self.settle_source(item).await?;
        let io = |error: std::io::Error| Unready::Later(error.to_string());
        let (path, _temporary, size, digest) = match source {
            ItemSource::File(file) => {
                let found = self.scan_file(item.ino, file, false).await?;
                (self.contents.file_path(file), None, found.sums.size, found.digest)
            }
            source => {
                let bytes = self.small_bytes(item.ino, &source)?;
                let id = self.step(|core, _, changes| core.take_id(&mut changes.rows));
                let path = self.contents.fetch_path(FileId(id));
                let temporary = Temporary(path.clone());
                tokio::fs::write(&path, &bytes).await.map_err(io)?;
                failpoint!("send.single.copied");
                (path, Some(temporary), bytes.len() as u64, Digest::of(&bytes))
            }
        };
        failpoint!("send.single.hashed");
        let noted = self.note_sending(&[(item.clone(), Some(digest))]).await;
        noted.map_err(|error| Unready::Later(error.to_string()))?;
        failpoint!("send.single.noted");
        let identity = item.record.identity(Some(&digest));
        let put = FilePut {
            path: &item.path,
            source: &path,
            size,
            digest,
            precondition: item.precondition.clone(),
            metadata: item.metadata.clone(),
            identity: &identity,
        };
        let reply = self.remote.put(put).await;
        reply.map(|outcome| (outcome, Some(digest))).map_err(Unready::Link)
    }

    /// Where the bytes are now: content that is only at the remote is fetched first.
    async fn settle_source(self: &Arc<Self>, item: &Item) -> Result<ItemSource, Unready> {
        if matches!(item.source, ItemSource::File(_)) && self.core().moved_on(item) {
            // What is in it now may never have been under this name.
            return Err(Unready::Later("it was renamed".to_owned()));
        }
        let ItemSource::Remote(ino) = item.source else { return Ok(item.source.clone()) };
        match self.ensure_local(ino).await {
            Ok(()) => {}
            Err(FetchError::Remote(error)) => return Err(Unready::Link(error)),
            Err(FetchError::Gone) => {
                self.step(|core, _, changes| core.content_lost(ino, changes));
                return Err(Unready::Later("its bytes are gone from the server".to_owned()));
            }
            Err(error) => return Err(Unready::Later(error.to_string())),
        }
        let core = self.core();
        let body = core.tree.get(ino).and_then(|node| node.body());
        Ok(match body.map(|body| body.content) {
            Some(Content::Blob(blob)) => ItemSource::Blob(blob),
            Some(Content::File(file)) => ItemSource::File(file),
            Some(Content::Empty) => ItemSource::Nothing,
            Some(Content::Damaged) => ItemSource::Damaged,
            Some(Content::Remote) | None => {
                return Err(Unready::Later("its bytes are not here".to_owned()));
            }
        })
    }

    async fn load(self: &Arc<Self>, item: &Item) -> Result<(Bytes, Option<Digest>), Unready> {
        if item.op != Op::Put {
            return Ok((Bytes::new(), None));
        }
        if item.moved_from.is_some() {
            // None are sent, but under the new name they are ours, also when the reply gets lost.
            return Ok((Bytes::new(), self.moved_digest(item).await?));
        }
        let source = self.settle_source(item).await?;
        let body = match source {
            ItemSource::File(file) => {
                let found = self.scan_file(item.ino, file, true).await?;
                return Ok((Bytes::from(found.bytes), Some(found.digest)));
            }
            source => self.small_bytes(item.ino, &source)?,
        };
        let digest = Digest::of(&body);
        Ok((body, Some(digest)))
    }

    /// The digest of what the server is to move: as it is known, else of the bytes here.
    async fn moved_digest(self: &Arc<Self>, item: &Item) -> Result<Option<Digest>, Unready> {
        if let Some(known) = item.ino.and_then(|ino| self.core().origin_digest(ino)) {
            return Ok(Some(known));
        }
        let is_unchanged = || item.ino.is_some_and(|ino| self.core().has_origin(ino));
        Ok(match &item.source {
            ItemSource::Blob(blob) => {
                self.contents.blob(*blob).ok().map(|bytes| Digest::of(&bytes))
            }
            ItemSource::File(file) if is_unchanged() => {
                let found = self.scan_file(item.ino, *file, false).await?;
                Some(found.digest).filter(|_| is_unchanged())
            }
            _ => None,
        })
    }

    /// Reads and hashes a working file as one snapshot.
    async fn scan_file(
        self: &Arc<Self>,
        ino: Option<Ino>,
        file: FileId,
        keep: bool,
    ) -> Result<Scan, Unready> {
        let shared = Arc::clone(self);
        let scanned = tokio::task::spawn_blocking(move || {
            let blocks = shared.contents.blocks(file);
            match scan(&shared.contents.file_path(file), &blocks, keep) {
                Ok(found) if !found.is_current(&blocks) => {
                    Err(Unready::Later("changed while it was read".to_owned()))
                }
                Ok(found) => {
                    // What the server gets must not be newer than what is here after power loss: it
                    // would be taken for somebody else's. Where it cannot be synced it is sent the
                    // sooner.
                    let path = shared.contents.file_path(file);
                    let synced = std::fs::File::open(&path).and_then(|file| file.sync_data());
                    if let Err(error) = synced {
                        tracing::error!(path = %path.display(), %error, "sync before sending");
                    }
                    // What was read for sending need not be read again to know it later.
                    if let Some(ino) = ino {
                        shared.learn(ino, file, &found);
                    }
                    Ok(found)
                }
                Err(error) if is_damage(&error) => {
                    Err(shared.unready(ino, Content::File(file), &error.to_string()))
                }
                Err(error) => Err(Unready::Later(error.to_string())),
            }
        });
        scanned.await.map_err(|error| Unready::Later(error.to_string()))?
    }

    fn small_bytes(&self, ino: Option<Ino>, source: &ItemSource) -> Result<Bytes, Unready> {
        match source {
            ItemSource::Blob(blob) => self.contents.blob(*blob).map_err(|error| match error {
                StoreError::Damaged(why) => self.unready(ino, Content::Blob(*blob), &why),
                error => Unready::Later(error.to_string()),
            }),
            ItemSource::Text(text) => Ok(Bytes::from(text.clone())),
            ItemSource::Nothing | ItemSource::File(_) | ItemSource::Remote(_) => Ok(Bytes::new()),
            ItemSource::Damaged => {
                Err(Unready::Damaged("its bytes were damaged and are set aside".to_owned()))
            }
        }
    }

    /// What is to be done with a record whose bytes were found damaged.
    fn unready(&self, ino: Option<Ino>, content: Content, why: &str) -> Unready {
        match ino.map(|ino| self.content_damaged(ino, content, why)) {
            Some(Recourse::Again) => Unready::Later(format!("its bytes are fetched again: {why}")),
            Some(Recourse::Lost(message)) => Unready::Damaged(message),
            None => Unready::Damaged(why.to_owned()),
        }
    }

    /// Sets a record aside whose bytes nobody has any more.
    fn park_damaged(&self, item: &Item, why: &str) {
        self.step(|core, now, changes| {
            if core.current(&item.path, item.seq).is_some() {
                core.park(&item.path, DAMAGED, why, now, changes);
            }
        });
    }

    /// Commits what is about to be sent.
    async fn note_sending(&self, sent: &[(Item, Option<Digest>)]) -> Result<(), StoreError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(tell.send(result)));
        let noted: Result<(), ((), _)> = self.step_then(done, |core, _, changes: &mut Changes| {
            for (item, digest) in sent {
                if item.op == Op::Put {
                    core.note_sending(&item.path, item.seq, *digest, changes);
                }
            }
            Ok(())
        });
        drop(noted);
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Holds an item back for a moment and says why.
    fn not_ready(&self, item: &Item, unready: Unready) {
        self.step(|core, now, _| match unready {
            Unready::Later(reason) => {
                tracing::debug!(path = %item.path, %reason, "change not sent yet");
                core.outbox.mark(&item.path, |slot| {
                    slot.held_until = Some(now.mono + CHANGED_HOLD);
                    slot.held_for = Wait::Again;
                });
            }
            Unready::Link(error) => {
                let jitter = core.jitter();
                core.link.failed(&error, now.mono, now.wall, jitter);
            }
            Unready::Damaged(_) => {}
        });
    }

    fn tell(&self, item: &Item, outcome: &Outcome) {
        let (kind, revision, detail) = match outcome {
            Outcome::Accepted { revision } => (NoticeKind::Ack, revision.clone(), None),
            Outcome::Refused { code, message } => {
                (NoticeKind::Parked, None, Some(format!("{code}: {message}")))
            }
            Outcome::Conflict { .. } | Outcome::Absent | Outcome::NotEmpty | Outcome::Unknown => {
                return;
            }
        };
        self.notice(Notice {
            kind,
            action: item.op.word().to_owned(),
            path: Some(item.path.as_str().to_owned()),
            revision: revision.map(|revision| revision.to_string()),
            detail,
            at: self.clock.wall(),
        });
    }
}

fn entry(item: &Item, body: Bytes, digest: Option<&Digest>) -> BulkEntry {
    let precondition = item.precondition.clone();
    let metadata = item.metadata.clone();
    // A move is another request than the content that follows where it is refused.
    let identity = item.record.identity(digest.filter(|_| item.moved_from.is_none()));
    let change = match (item.op, &item.moved_from) {
        (Op::Put, Some((from, from_precondition))) => BulkChange::Move {
            from: from.clone(),
            from_precondition: from_precondition.clone(),
            precondition,
        },
        (Op::Put, None) => BulkChange::Put { body, precondition, metadata },
        (Op::Meta, _) => BulkChange::Meta { precondition, metadata },
        (Op::Delete, _) => BulkChange::Delete { precondition },
        (Op::MakeDir, _) => BulkChange::MakeDir { mode: metadata.mode },
        (Op::RemoveDir, _) => BulkChange::RemoveDir,
    };
    BulkEntry { path: item.path.clone(), identity, change }
}
