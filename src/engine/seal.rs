//! Sealing: what an open file holds becomes the node's content and a record in the outbox.
//!
//! This is the only place where bytes that were written enter the outbox. Everything here runs
//! with the open file locked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::local::Sealed;
use super::shared::Shared;
use crate::content::open::{Body, OpenState};
use crate::ignore_rules::{RULES_NAME, Rules};
use crate::node::{BlobId, Content, FileId, Ino};
use crate::store::{Done, Row, StoreError, Ticket};

/// Bytes that were written but neither closed nor synced are committed at the latest after this
/// (`docs/semantics.md`, section 1), with room for the tick that looks.
const UNSEALED_MAX: Duration = Duration::from_millis(600);

impl Shared {
    /// Seals what the file holds, if it changed. `done` is called when it is safe against a crash;
    /// at once when nothing changed. With `hold` the record waits for the file to be closed.
    pub fn seal(&self, ino: Ino, state: &mut OpenState, hold: bool, done: Done) {
        if let Err(error) = self.settle_fresh(state, hold) {
            return done(Err(of_disk(&error)));
        }
        if state.dirty_since.is_none() {
            if state.held && !hold {
                state.held = false;
                self.release_hold(ino);
            }
            // An earlier seal that nobody waited for may still be on its way to the disk.
            self.store.when_committed(state.sealed_at, done);
            return;
        }
        let bytes = match &mut state.body {
            Body::Memory(bytes) => Some(Bytes::from(std::mem::take(bytes))),
            Body::Shared(bytes) => Some(bytes.clone()),
            Body::Unloaded | Body::Disk(_) => None,
        };
        let size = match (&bytes, state.size()) {
            (Some(bytes), _) => Some(bytes.len() as u64),
            (None, Ok(size)) => size,
            (None, Err(error)) => {
                done(Err(StoreError::Failed(format!("working file: {error}"))));
                return;
            }
        };
        if let Body::Disk(file) = &state.body {
            if let Err(error) = self.contents.unsynced.note(file.file()) {
                return done(Err(of_disk(&error)));
            }
            self.contents.note_unscanned(ino);
        }
        let (mtime, ctime) = (state.mtime, state.ctime);
        let offered = self.offer_base(ino);
        failpoint!("seal.begin");
        let sealed = self.step_then(done, |core, now, changes| {
            let node_body = core.tree.get(ino).and_then(|node| node.body()).copied();
            let content = match (&bytes, node_body) {
                (Some(bytes), _) if bytes.is_empty() => Content::Empty,
                (Some(bytes), _) => {
                    let blob = BlobId(core.take_id(&mut changes.rows));
                    changes.rows.push(Row::PutBlob(blob, bytes.clone()));
                    Content::Blob(blob)
                }
                (None, Some(body)) => body.content,
                (None, None) => return Err(()),
            };
            let size = size.or(node_body.map(|body| body.size)).unwrap_or_default();
            let held_until = hold.then(|| now.mono + core.settings.open_hold);
            core.seal(ino, &Sealed { content, size, mtime, ctime, held_until }, now, changes);
            Ok(())
        });
        state.sealed_at = self.store.submitted();
        failpoint!("seal.submitted");
        self.withdraw_base(offered);
        if let Some(bytes) = bytes {
            state.body = Body::Shared(bytes);
        }
        state.dirty_since = None;
        state.held = hold;
        match sealed {
            Ok(()) => {}
            // The node is gone altogether; there is nothing left that could be kept.
            Err(((), done)) => done(Ok(())),
        }
        self.nudge.notify_one();
    }

    /// A new working file is durable before it counts as whole; what is changed in place later is
    /// synced before the rows that speak of it are.
    fn settle_fresh(&self, state: &mut OpenState, hold: bool) -> io::Result<()> {
        if let Body::Disk(file) = &state.body
            && state.fresh
            && !hold
        {
            self.contents.unsynced.sync_new(file.file())?;
            state.fresh = false;
        }
        Ok(())
    }

    /// The file was closed without further changes: what was sealed meanwhile may go.
    fn release_hold(&self, ino: Ino) {
        self.step(|core, _, _| {
            if let Some(path) = core.tree.path_of(ino) {
                core.outbox.mark(&path, |slot| slot.held_until = None);
            }
        });
        self.nudge.notify_one();
    }

    /// Seals and waits until it is safe against a crash. *Blocking:* disk.
    ///
    /// # Errors
    /// When the commit failed.
    pub fn seal_and_wait(
        &self,
        ino: Ino,
        state: &mut OpenState,
        hold: bool,
    ) -> Result<(), StoreError> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.seal(ino, state, hold, Box::new(move |result| drop(tell.send(result))));
        told.recv().map_err(|_closed| StoreError::Closed)?
    }

    /// Seals what was written a while ago and is still open. Returns whether anything is still
    /// unsealed.
    pub fn seal_old(&self) -> bool {
        let now = self.now().mono;
        let mut unsealed = false;
        for file in self.contents.open.all() {
            let mut state = file.lock();
            let Some(since) = state.dirty_since else { continue };
            if now >= since + UNSEALED_MAX {
                self.seal(
                    file.ino,
                    &mut state,
                    true,
                    Box::new(|result| {
                        if let Err(error) = result {
                            tracing::error!(%error, "written bytes could not be committed");
                        }
                    }),
                );
            } else {
                unsealed = true;
            }
        }
        unsealed
    }

    /// Seals everything that is open and waits. *Blocking:* disk.
    ///
    /// # Errors
    /// When a commit failed; the rest was sealed.
    pub fn seal_all(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for file in self.contents.open.all() {
            let mut state = file.lock();
            let sealed = self.seal_and_wait(file.ino, &mut state, false);
            result = result.and(sealed);
        }
        result
    }

    /// Makes room for a write that leaves memory: the content moves to a working file, once, and
    /// the outbox knows of it before the first byte is in the file.
    ///
    /// # Errors
    /// When the disk or the store refuses.
    pub fn move_to_disk(&self, ino: Ino, state: &mut OpenState) -> io::Result<()> {
        let bytes = match &state.body {
            Body::Memory(bytes) => Bytes::from(bytes.clone()),
            Body::Shared(bytes) => bytes.clone(),
            Body::Disk(_) | Body::Unloaded => return Ok(()),
        };
        let id = FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
        let file = Arc::new(self.contents.create_file(id)?);
        failpoint!("spill.created");
        if let Err(error) = file.write(0, &bytes) {
            // Nothing names it yet, and nothing will.
            self.contents.discard(vec![id]);
            return Err(error);
        }
        failpoint!("spill.copied");
        self.contents.unsynced.note(file.file())?;
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done: Done = Box::new(move |result| drop(tell.send(result)));
        let (mtime, ctime) = (state.mtime, state.ctime);
        let offered = self.offer_base(ino);
        let moved = self.step_then(done, |core, now, changes| {
            let size = bytes.len() as u64;
            let held_until = Some(now.mono + core.settings.open_hold);
            let sealed = Sealed { content: Content::File(id), size, mtime, ctime, held_until };
            core.seal(ino, &sealed, now, changes);
            Ok::<(), ()>(())
        });
        drop(moved);
        failpoint!("spill.submitted");
        self.withdraw_base(offered);
        told.recv().map_err(|_closed| io::Error::other(StoreError::Closed))?.map_err(to_io)?;
        failpoint!("spill.committed");
        state.body = Body::Disk(file);
        state.fresh = true;
        state.held = true;
        Ok(())
    }

    /// Has the outbox know that a working file is about to change, before its first byte does.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn note_disk_write(&self, ino: Ino, sealed_at: Ticket, mtime: Timestamp) -> io::Result<()> {
        if self.is_noted(ino, sealed_at) {
            return Ok(());
        }
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done: Done = Box::new(move |result| drop(tell.send(result)));
        let offered = self.offer_base(ino);
        let mut summed = false;
        let noted = self.step_then(done, |core, now, changes| {
            let body = core.tree.get(ino).and_then(|node| node.body()).copied().ok_or(())?;
            let held_until = Some(now.mono + core.settings.open_hold);
            if let Content::File(file) = body.content {
                summed = self.contents.blocks(file).is_complete(body.size);
                changes.rows.push(Row::DeleteSums(file));
            }
            let sealed =
                Sealed { content: body.content, size: body.size, mtime, ctime: mtime, held_until };
            core.seal(ino, &sealed, now, changes);
            Ok::<(), ()>(())
        });
        self.withdraw_base(offered);
        if let Err(((), done)) = noted {
            done(Ok(()));
        }
        told.recv().map_err(|_closed| io::Error::other(StoreError::Closed))?.map_err(to_io)?;
        if summed {
            // Checksums that come back after power loss would condemn the bytes that follow.
            self.store.commit_and_wait(Vec::new(), true).map_err(to_io)?;
        }
        failpoint!("disk_write.noted");
        Ok(())
    }

    /// Whether the database speaks of the file as it is about to be: by a record that was not sent
    /// yet. The record waits for the file to be closed from now on.
    fn is_noted(&self, ino: Ino, sealed_at: Ticket) -> bool {
        sealed_at != Ticket::default()
            && self.store.is_committed(sealed_at)
            && self.step(|core, now, _| {
                let body = core.tree.get(ino).and_then(|node| node.body()).copied();
                // Checksums that are stored have to go first.
                body.is_some_and(|body| match body.content {
                    Content::File(file) => !self.contents.blocks(file).is_complete(body.size),
                    _ => false,
                }) && core.hold_unsent(ino, now)
            })
    }

    /// Takes up the rules that `.mountignore` holds now. What it holds only at the remote is taken
    /// up when it was fetched.
    pub fn reload_rules(&self) {
        let content = {
            let core = self.core();
            let ino = core.tree.child(crate::node::ROOT, RULES_NAME);
            let body = ino.and_then(|ino| core.tree.get(ino)).and_then(|node| node.body());
            body.map(|body| body.content)
        };
        let bytes = match content {
            None | Some(Content::Empty) => Bytes::new(),
            Some(Content::Blob(blob)) => match self.contents.blob(blob) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::error!(%error, "rules file cannot be read");
                    return;
                }
            },
            // Larger than any sane rules file, or not here yet.
            Some(Content::File(_) | Content::Remote | Content::Damaged) => return,
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.step(|core, now, changes| {
            if core.rules_text == text {
                return;
            }
            let (rules, refused) = Rules::compile(&[&core.user_rules, &text]);
            for line in refused {
                tracing::warn!(%line, "not a rule, left out");
            }
            changes.rows.push(Row::SetMeta("ignore", Some(text.clone())));
            core.rules_text = text;
            core.set_rules(rules, now, changes);
        });
        self.nudge.notify_one();
    }

    /// Takes up the user's own rules, which come before those of the mount.
    pub fn set_user_rules(&self, text: String) {
        self.step(|core, now, changes| {
            let rules = Rules::compile(&[&text, &core.rules_text]).0;
            core.user_rules = text;
            core.set_rules(rules, now, changes);
        });
        self.nudge.notify_one();
    }
}

/// What a call is told that failed at a working file.
fn of_disk(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Failed(format!("working file: {error}")),
    }
}

fn to_io(error: StoreError) -> io::Error {
    match error {
        StoreError::Full => io::Error::from(io::ErrorKind::StorageFull),
        error => io::Error::other(error),
    }
}
