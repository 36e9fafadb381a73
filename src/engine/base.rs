//! Bases: the bytes that a change was made against, kept while it may have to be merged.
//!
//! A small content stays in the store under its id while a record names it, so it needs no copy. A
//! working file is changed in place; of a text of up to [`TEXT_MAX`] bytes a copy is put into the
//! store before its first byte changes. It goes with its record, when the server has accepted that.
//! What is kept says with its digest which version it is, and is used for no other.

use bytes::Bytes;

use super::core::{Core, SMALL_MAX};
use super::merge::{TEXT_MAX, text};
use super::shared::Shared;
use crate::digest::Digest;
use crate::node::{BlobId, Content, FileId, Ino, Synced};
use crate::path::WsPath;
use crate::record::{BaseContent, Op, Record, RecordState};
use crate::store::Row;

/// Most copies of working files that are kept: a bound on the disk they take (64 MiB). What is
/// changed beyond it has no base and is not merged.
const LARGE_BASES_MAX: usize = 64;

impl Core {
    /// The digest of the version that a change of `path` made now is made against, where one is
    /// known.
    fn base_digest(&self, path: &WsPath, synced: Option<&Synced>) -> Option<Digest> {
        match self.outbox.lane(path) {
            None => synced?.digest,
            // What is under way is the base of what follows it.
            Some(lane) => {
                let newest = lane.records().last()?;
                let under_way = newest.state == RecordState::Flight && newest.op == Op::Put;
                newest.sent.last().copied().filter(|_| under_way)
            }
        }
    }

    /// The bytes that a change of `path` made now is made against: what is under that name, when it
    /// is the version that the server has or is about to have.
    pub(super) fn base_content(
        &self,
        path: &WsPath,
        content: Content,
        synced: Option<&Synced>,
    ) -> Option<BaseContent> {
        let digest = self.base_digest(path, synced)?;
        match content {
            Content::Blob(blob) => Some(BaseContent { blob, digest: Some(digest) }),
            Content::File(file) => self.offered_bases.get(&file).copied(),
            Content::Empty | Content::Remote | Content::Damaged => None,
        }
    }

    /// The digest that a copy of the node's working file must have; `None` when none is to be made.
    pub(super) fn wants_base(&self, ino: Ino) -> Option<(FileId, Digest)> {
        let node = self.tree.get(ino).filter(|node| !node.local_only)?;
        let body = node.body()?;
        let Content::File(file) = body.content else { return None };
        let wanted = body.size > 0
            && body.size <= TEXT_MAX
            && self.large_blobs.len() < LARGE_BASES_MAX
            && !self.settings.read_only;
        let path = self.tree.path_of(ino).filter(|_| wanted)?;
        Some((file, self.base_digest(&path, node.synced.as_deref())?))
    }

    /// Puts bytes into the store as the base of a change; `None` when there is no room for more.
    pub(super) fn keep_base(&mut self, bytes: &Bytes, rows: &mut Vec<Row>) -> Option<BaseContent> {
        let is_large = bytes.len() as u64 > SMALL_MAX;
        if bytes.is_empty() || (is_large && self.large_blobs.len() >= LARGE_BASES_MAX) {
            return None;
        }
        let blob = BlobId(self.take_id(rows));
        if is_large {
            self.large_blobs.insert(blob);
        }
        rows.push(Row::PutBlob(blob, bytes.clone()));
        Some(BaseContent { blob, digest: Some(Digest::of(bytes)) })
    }
}

impl Shared {
    /// Has a copy of a large text ready before it changes: the step that records the change takes
    /// it. Whoever called this calls [`Shared::withdraw_base`] after that step. Runs with the open
    /// file locked. *Blocking:* disk.
    #[must_use]
    pub fn offer_base(&self, ino: Ino) -> Option<FileId> {
        let (file, digest) = self.core().wants_base(ino)?;
        let bytes = match std::fs::read(self.contents.file_path(file)) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                tracing::warn!(ino = ino.0, %error, "base of a change not kept");
                return None;
            }
        };
        // Bytes of another version, because somebody is at it already, are nobody's base.
        if text(&bytes).is_err() || Digest::of(&bytes) != digest {
            return None;
        }
        self.step(|core, _, changes| {
            let base = core.keep_base(&bytes, &mut changes.rows)?;
            core.offered_bases.insert(file, base);
            Some(file)
        })
    }

    /// Frees the copy again unless a record took it.
    pub fn withdraw_base(&self, offered: Option<FileId>) {
        let Some(file) = offered else { return };
        self.step(|core, _, changes| {
            if let Some(base) = core.offered_bases.remove(&file) {
                core.release_blob(base.blob, changes);
            }
        });
    }

    /// The bytes that a record was made against, when they are here and those of its base.
    pub(super) fn base_of(&self, record: &Record) -> Option<Bytes> {
        let base = record.base_content.as_ref()?;
        let bytes = self.contents.blob(base.blob);
        let bytes = bytes
            .inspect_err(|error| tracing::warn!(path = %record.path, %error, "base of a change"));
        bytes.ok().filter(|bytes| base.digest == Some(Digest::of(bytes)))
    }
}
