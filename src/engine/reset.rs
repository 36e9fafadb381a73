//! A server that looks reset: its revisions began anew, or most of its files are gone.
//!
//! Nothing is removed then, on either side, until a person looked. Bytes that are here and that the
//! server does not know any more are offered to it again. Pure.

use super::core::{Changes, Core, Now};
use crate::node::{Content, Ino};
use crate::path::WsPath;
use crate::record::{Op, RecordBase};
use crate::remote::RemoteEntry;
use crate::revision::Base;
use crate::store::Row;

/// What a server lacked when it looked reset: as much of it as a person can read, and the digest of
/// all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// How many files it lacked.
    pub count: u64,
    /// The digest of their paths.
    pub digest: String,
    /// The first of them.
    #[serde(with = "paths")]
    pub first: Vec<WsPath>,
}

/// Paths that a person is shown.
const SHOWN_MAX: usize = 100;

/// Paths as text.
mod paths {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::path::WsPath;

    pub(super) fn serialize<S: Serializer>(paths: &[WsPath], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(WsPath::as_str))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<WsPath>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        Ok(texts.iter().filter_map(|text| WsPath::parse(text).ok()).collect())
    }
}

impl Core {
    /// Notes what the server lacks while it looks reset: what a person approves when they go on.
    pub(super) fn show_reset(&mut self, mut missing: Vec<WsPath>, changes: &mut Changes) {
        missing.sort_unstable();
        let digest = super::approvals::digest_of(&missing).to_string();
        let count = missing.len() as u64;
        missing.truncate(SHOWN_MAX);
        let shown = Shown { count, digest, first: missing };
        changes.rows.push(Row::SetMeta("reset_shown", serde_json::to_string(&shown).ok()));
        self.guards.shown = Some(shown);
    }

    /// The server's revisions start anew: none that we know says anything any more. Content is
    /// compared instead.
    pub fn distrust_revisions(&mut self, changes: &mut Changes) {
        let known: Vec<Ino> =
            self.tree.nodes().filter(|node| node.synced.is_some()).map(|node| node.ino).collect();
        for ino in known {
            if let Some(synced) = self.tree.get_mut(ino).and_then(|node| node.synced.as_mut()) {
                synced.revision = None;
                synced.edited_at = None;
            }
            self.put_node(ino, changes);
        }
        let paths: Vec<WsPath> = self.outbox.lanes().map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.outbox.update(&path, &mut changes.rows, |slot| {
                slot.record.base = RecordBase::Known(Base::Absent);
            });
        }
    }

    /// Whether the bytes here are of a version that the server does not know any more since its
    /// revisions started anew.
    pub(super) fn outlived(&self, ino: Ino) -> bool {
        let Some(node) = self.tree.get(ino) else { return false };
        let version = node.synced.as_deref();
        version.is_some_and(|version| version.revision.is_none() && version.digest.is_some())
            && node.body().is_some_and(|body| body.content != Content::Remote)
    }

    /// The server has other bytes than those that outlived its reset: ours are recorded, so that
    /// the two meet as a conflict and both are kept.
    pub fn offer_outlived(&mut self, entries: &[RemoteEntry], now: Now, changes: &mut Changes) {
        for entry in entries {
            let RemoteEntry::File(file) = entry else { continue };
            let Some(ino) = self.file_at(&file.path) else { continue };
            let digest = self.tree.get(ino).and_then(|node| node.synced.as_ref()?.digest);
            if self.outlived(ino) && digest != file.digest && !self.is_content_pending(&file.path) {
                self.offer_again(&file.path, now, changes);
            }
        }
    }

    /// The remote lost this file: what is here of it is recorded as new.
    pub fn offer_again(&mut self, path: &WsPath, now: Now, changes: &mut Changes) {
        let Some(ino) = self.file_at(path) else { return };
        let Some(node) = self.tree.get_mut(ino) else { return };
        // Bytes that only the remote had are gone with it; the name stays and says so when read.
        if node.body().is_none_or(|body| body.content == Content::Remote) {
            return;
        }
        node.synced = None;
        self.put_node(ino, changes);
        self.record_node(ino, path, Op::Put, None, now, changes);
    }

    /// Freezes removals from and at the remote until a person looked, or ends that.
    pub fn suspect_reset(&mut self, why: Option<String>, changes: &mut Changes) {
        if let Some(why) = &why {
            tracing::error!(%why, "the server looks reset: removals are frozen");
        }
        changes.rows.push(Row::SetMeta("reset", why.clone()));
        if why.is_some() {
            changes.asked.push("the server looks reset".to_owned());
        } else {
            changes.rows.push(Row::SetMeta("reset_shown", None));
            self.guards.shown = None;
            self.link.believe();
        }
        self.reset_suspected = why;
    }
}
