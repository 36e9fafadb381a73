//! Damage: contents on this machine that are not as they were written, or cannot be read.
//!
//! They are set aside, never removed, and never served or sent. What the remote has too is fetched
//! again; what only this machine had is kept aside and its record parked, and the rest goes on.

use std::sync::Arc;

use super::core::{Changes, Core, Now};
use super::shared::{Notice, NoticeKind, Shared};
use crate::content::open::{Body, OpenState};
use crate::content::working::{is_damage, scan};
use crate::node::{Content, FileId, Ino, Node};
use crate::record::{Op, RecordState};
use crate::store::Row;

/// The code of a record whose bytes are damaged.
pub const DAMAGED: &str = "damaged";

/// What is left to do where a content was found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recourse {
    /// Look again: the remote has it, or it was replaced meanwhile.
    Again,
    /// Nobody else has the bytes; in words.
    Lost(String),
}

impl Recourse {
    fn lost(why: &str) -> Self {
        Self::Lost(format!("its bytes are damaged: {why}"))
    }
}

impl Core {
    /// Whether the remote can give the node's content again.
    #[must_use]
    pub(super) fn remote_has(&self, node: &Node) -> bool {
        if node.local_only {
            return false;
        }
        if node.origin.is_some() {
            return true;
        }
        let Some(path) = self.tree.path_of(node.ino) else { return false };
        let unsent = |op: Op, ino: Option<Ino>| op == Op::Put && ino == Some(node.ino);
        let lane = self.outbox.lane(&path);
        node.synced.is_some()
            && lane.is_none_or(|lane| !lane.records().any(|record| unsent(record.op, record.ino)))
    }

    /// Takes up that a node's content is not as it was written. `kept` says where it was set
    /// aside, for people.
    pub fn content_damaged(
        &mut self,
        ino: Ino,
        why: &str,
        kept: &str,
        now: Now,
        changes: &mut Changes,
    ) -> Recourse {
        let Some(node) = self.tree.get(ino) else { return Recourse::lost(why) };
        let again = self.remote_has(node);
        let path = self.tree.path_of(ino);
        let Some(body) = self.tree.get_mut(ino).and_then(Node::body_mut) else {
            return Recourse::lost(why);
        };
        let content = if again { Content::Remote } else { Content::Damaged };
        let old = std::mem::replace(&mut body.content, content);
        self.put_node(ino, changes);
        if let (Content::Blob(blob), Some(path)) = (old, &path)
            && self.outbox.lane(path).is_some_and(|lane| lane.current.record.blob == Some(blob))
        {
            self.outbox.update(path, &mut changes.rows, |slot| slot.record.blob = None);
        }
        self.release_content(old, changes);
        if again {
            return Recourse::Again;
        }
        let message = format!("its bytes are damaged: {why}; {kept}");
        if let Some(path) = path {
            self.note_error("DAMAGED", &format!("{path}: {message}"), now.wall);
            let waits = self.outbox.lane(&path).is_some_and(|lane| {
                let record = &lane.current.record;
                record.op == Op::Put
                    && record.ino == Some(ino)
                    && record.state == RecordState::Waiting
            });
            // One that is in flight may still be accepted: its bytes were good when they left.
            if waits {
                self.park(&path, DAMAGED, &message, now, changes);
            }
        }
        Recourse::Lost(message)
    }

    /// Files whose bytes are damaged and nowhere else.
    #[must_use]
    pub fn damaged_contents(&self) -> usize {
        let damaged = |node: &&Node| node.body().is_some_and(|b| b.content == Content::Damaged);
        self.tree.nodes().filter(damaged).count()
    }
}

impl Shared {
    /// Sets a damaged content aside and decides what becomes of its node. *Blocking:* disk.
    pub fn content_damaged(&self, ino: Ino, content: Content, why: &str) -> Recourse {
        self.contents.open.with(ino, |state| self.content_damaged_in(ino, state, content, why))
    }

    /// The same, with the open file locked.
    pub fn content_damaged_in(
        &self,
        ino: Ino,
        state: &mut OpenState,
        content: Content,
        why: &str,
    ) -> Recourse {
        let path = {
            let core = self.core();
            let now = core.tree.get(ino).and_then(Node::body).map(|body| body.content);
            match now {
                None | Some(Content::Damaged) => {
                    return Recourse::lost("they were set aside before");
                }
                Some(now) if now != content => return Recourse::Again,
                Some(_) => {}
            }
            if state.writers > 0 {
                let synced = core.tree.get(ino).and_then(|node| node.synced.as_deref());
                state.torn_from.get_or_insert(synced.and_then(|synced| synced.revision.clone()));
            }
            core.tree.path_of(ino)
        };
        let shown = path.as_ref().map_or("", |path| path.as_str());
        let at = self.clock.wall();
        let kept = match self.contents.set_aside(content, at) {
            Ok(Some(kept)) => format!("they are kept in {}", kept.display()),
            Ok(None) => "there is nothing left of them".to_owned(),
            // It stays where it is, and is looked at again when it is wanted again.
            Err(error) => {
                tracing::error!(path = shown, why, %error, "damaged content cannot be set aside");
                return Recourse::lost(why);
            }
        };
        let recourse =
            self.step(|core, now, changes| core.content_damaged(ino, why, &kept, now, changes));
        state.body = Body::Unloaded;
        state.dirty_since = None;
        state.generation += 1;
        let outcome = match recourse {
            Recourse::Again => "fetched again",
            Recourse::Lost(_) => "needs a person",
        };
        tracing::error!(path = shown, why, %kept, outcome, "damaged content set aside");
        self.notice(Notice {
            kind: NoticeKind::Damage,
            action: "content".to_owned(),
            path: path.map(|path| path.as_str().to_owned()),
            revision: None,
            detail: Some(format!("{why}; {kept}; {outcome}")),
            at,
        });
        self.nudge.notify_one();
        recourse
    }

    /// Takes the checksums of working files that were written and are quiet now. *Blocking:* disk.
    pub(super) fn scan_quiet(self: &Arc<Self>) {
        for ino in self.contents.take_unscanned() {
            let quiet = self.contents.open.get(ino).is_none_or(|file| file.lock().is_quiet());
            if quiet {
                self.scan_one(ino);
            } else {
                self.contents.note_unscanned(ino);
            }
        }
    }

    fn scan_one(&self, ino: Ino) {
        let (file, expected) = {
            let core = self.core();
            let Some(node) = core.tree.get(ino) else { return };
            let Some(Content::File(file)) = node.body().map(|body| body.content) else { return };
            let clean = core.remote_has(node) && node.origin.is_none();
            (file, node.synced.as_ref().filter(|_| clean).and_then(|synced| synced.digest))
        };
        let blocks = self.contents.blocks(file);
        let path = self.contents.file_path(file);
        if std::fs::metadata(&path).is_ok_and(|metadata| blocks.is_complete(metadata.len())) {
            return;
        }
        let found = match scan(&path, &blocks, false) {
            Ok(found) => found,
            Err(error) if is_damage(&error) => {
                self.content_damaged(ino, Content::File(file), &error.to_string());
                return;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "working file cannot be scanned");
                return;
            }
        };
        if expected.is_some_and(|digest| digest != found.digest) && found.is_current(&blocks) {
            self.content_damaged(ino, Content::File(file), "it is not what the server has");
            return;
        }
        self.learn(ino, file, &found);
    }

    /// Keeps the checksums that a scan of a node's working file took, if it still is as it was.
    pub(super) fn learn(&self, ino: Ino, file: FileId, found: &crate::content::working::Scan) {
        self.contents.open.with(ino, |state| {
            if state.dirty_since.is_some() || !self.contents.blocks(file).learn(found) {
                return;
            }
            self.step(|core, _, changes| {
                let body = core.tree.get(ino).and_then(Node::body);
                if body.is_some_and(|body| body.content == Content::File(file)) {
                    changes.rows.push(Row::PutSums(file, Box::new(found.sums.clone())));
                }
            });
            failpoint!("sums.learned");
        });
    }
}
