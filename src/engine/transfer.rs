//! Sending: loads what a plan handed out, sends it, and has the answers taken up.
//!
//! Runs on tokio; disk work goes to blocking threads. Content is read and hashed as one snapshot:
//! a file that changes meanwhile goes back to wait. The digest is committed before the request
//! leaves, so that a crash cannot make us take our own bytes for somebody else's.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::Changes;
use super::fetch::FetchError;
use super::outbox::Wait;
use super::plan::{Item, ItemSource, Task};
use super::replies::Answer;
use super::shared::{Notice, NoticeKind, Shared};
use crate::digest::{Digest, Hasher};
use crate::node::{Content, Ino};
use crate::record::Op;
use crate::remote::{BulkChange, BulkEntry, FilePut, Outcome, RemoteError};

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
        if let Err(Unready::Later(_)) = &result {
            self.not_ready(&item, Unready::Later(String::new()));
        }
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
                    let bytes = item.size;
                    core.failed(vec![item], &error, bytes, now, changes);
                    Vec::new()
                }
                Err(Unready::Later(_)) => {
                    let answer = Answer { item, digest: None, outcome: None };
                    core.return_items(vec![answer], now, changes)
                }
            }
        });
        failpoint!("send.single.taken");
        tasks
    }

    /// Streams one file from the local disk.
    async fn put_single(
        self: &Arc<Self>,
        item: &Item,
    ) -> Result<(Outcome, Option<Digest>), Unready> {
        let source = self.settle_source(item).await?;
        let io = |error: std::io::Error| Unready::Later(error.to_string());
        let (path, _temporary) = match source {
            ItemSource::File(file) => (self.contents.file_path(file), None),
            source => {
                let bytes = self.small_bytes(&source).map_err(Unready::Later)?;
                let id = self.step(|core, _, changes| core.take_id(&mut changes.rows));
                let path = self.contents.fetch_path(crate::node::FileId(id));
                let temporary = Temporary(path.clone());
                tokio::fs::write(&path, bytes).await.map_err(io)?;
                failpoint!("send.single.copied");
                (path, Some(temporary))
            }
        };
        let before = self.generation(item.ino);
        let hashed = tokio::task::spawn_blocking({
            let path = path.clone();
            move || hash_file(&path)
        });
        let (size, digest) =
            hashed.await.map_err(|error| Unready::Later(error.to_string()))?.map_err(io)?;
        if self.generation(item.ino) != before {
            return Err(Unready::Later("changed while it was read".to_owned()));
        }
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
        let ItemSource::Remote(ino) = item.source else { return Ok(item.source.clone()) };
        match self.ensure_local(ino).await {
            Ok(()) => {}
            Err(FetchError::Remote(error)) => return Err(Unready::Link(error)),
            Err(FetchError::Gone) => {
                self.step(|core, now, changes| core.content_lost(ino, now, changes));
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
            Some(Content::Remote) | None => {
                return Err(Unready::Later("its bytes are not here".to_owned()));
            }
        })
    }

    async fn load(self: &Arc<Self>, item: &Item) -> Result<(Bytes, Option<Digest>), Unready> {
        if item.op != Op::Put || item.moved_from.is_some() {
            return Ok((Bytes::new(), None));
        }
        let source = self.settle_source(item).await?;
        let body = match source {
            ItemSource::File(file) => {
                let before = self.generation(item.ino);
                let path = self.contents.file_path(file);
                let read = tokio::fs::read(path).await;
                let bytes = read.map_err(|error| Unready::Later(error.to_string()))?;
                if self.generation(item.ino) != before {
                    return Err(Unready::Later("changed while it was read".to_owned()));
                }
                Bytes::from(bytes)
            }
            source => self.small_bytes(&source).map_err(Unready::Later)?,
        };
        let digest = Digest::of(&body);
        Ok((body, Some(digest)))
    }

    fn small_bytes(&self, source: &ItemSource) -> Result<Bytes, String> {
        match source {
            ItemSource::Blob(blob) => self.contents.blob(*blob).map_err(|error| error.to_string()),
            ItemSource::Text(text) => Ok(Bytes::from(text.clone())),
            ItemSource::Nothing | ItemSource::File(_) | ItemSource::Remote(_) => Ok(Bytes::new()),
        }
    }

    /// Counts the changes of an open file; constant while nobody writes.
    fn generation(&self, ino: Option<Ino>) -> Option<u64> {
        let file = self.contents.open.get(ino?)?;
        let generation = file.lock().generation;
        Some(generation)
    }

    /// Commits what is about to be sent.
    async fn note_sending(
        &self,
        sent: &[(Item, Option<Digest>)],
    ) -> Result<(), crate::store::StoreError> {
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
        told.await.unwrap_or(Err(crate::store::StoreError::Closed))
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
    BulkEntry { path: item.path.clone(), identity: item.record.identity(digest), change }
}

/// Hashes a file in pieces.
fn hash_file(path: &std::path::Path) -> std::io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, hasher.finish())),
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}
