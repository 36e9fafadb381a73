//! Reads of the remote take time. What one found counts only if nothing overtook it: no event about
//! the path, and no change of ours that the remote accepted meanwhile. Else something older would
//! take the place of something newer, and stay. Pure.

use super::core::{Changes, Core, Invalidation, Now};
use super::inbound::{Inbound, Source};
use crate::digest::Digest;
use crate::node::{Content, Ino, Node, Synced};
use crate::path::WsPath;
use crate::record::Record;
use crate::remote::RemoteFile;
use crate::revision::Revision;

/// What came while a path was being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Overtaken {
    /// News of this version: what was read may be it, or newer.
    ByVersion(Revision),
    /// Something that cannot be compared: a removal, or a change of ours.
    ByOther,
}

/// A content that is only at the remote, when its reading began.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Where the remote has it.
    pub(super) path: WsPath,
    /// How many bytes it is believed to have.
    pub(super) size: u64,
    /// The version that the node derived from.
    synced: Option<Box<Synced>>,
}

impl Core {
    /// Notes that something happened to a path; a read under way may be older than that.
    pub(super) fn overtake(&mut self, path: &WsPath, by: Option<&Revision>) {
        if let Some(reading) = self.rechecks_in_flight.get_mut(path) {
            // The newest counts: events come late.
            *reading = Some(match (reading.take(), by) {
                (Some(Overtaken::ByVersion(heard)), Some(by)) if by.is_older_than(&heard) => {
                    Overtaken::ByVersion(heard)
                }
                (None | Some(Overtaken::ByVersion(_)), Some(by)) => {
                    Overtaken::ByVersion(by.clone())
                }
                (Some(Overtaken::ByOther), _) | (_, None) => Overtaken::ByOther,
            });
        }
    }

    /// Takes up what a path that was busy turned out to be at the remote. What is overtaken is read
    /// again.
    pub fn rechecked(
        &mut self,
        path: &WsPath,
        theirs: Option<&RemoteFile>,
        quiet: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        let is_current = match self.rechecks_in_flight.remove(path).flatten() {
            None => true,
            Some(Overtaken::ByVersion(heard)) => {
                let read = theirs.and_then(|file| file.revision.as_ref());
                read.is_some_and(|read| *read == heard || heard.is_older_than(read))
            }
            Some(Overtaken::ByOther) => false,
        };
        if !is_current {
            return Inbound::Busy;
        }
        self.read_again(path, theirs.is_some(), changes);
        match theirs {
            Some(file) => self.stored(file, Source::Read, quiet, now, changes),
            None => {
                let applied = self.removed(path, quiet, now, changes);
                // Nothing may be here of it any more; the stream may have to tell of it all the same.
                if matches!(applied, Inbound::Applied | Inbound::Known) {
                    self.note_gone(path, None, changes);
                }
                applied
            }
        }
    }

    /// What to read for a node's content, while that is only at the remote.
    pub(super) fn wanted(&self, ino: Ino) -> Option<Wanted> {
        let node = self.tree.get(ino)?;
        let body = node.body().filter(|body| body.content == Content::Remote)?;
        let origin = node.origin.as_ref().map(|origin| origin.path.clone());
        let path = origin.or_else(|| self.tree.path_of(ino))?;
        Some(Wanted { path, size: body.size, synced: node.synced.clone() })
    }

    /// Where a content may be that only the remote has, other than where it is [wanted](Self::wanted)
    /// from: the names to which it may have been moved by requests of which the reply got lost. With
    /// the digest by which it is known again.
    pub(super) fn whereabouts(&self, ino: Ino) -> Option<(Digest, Vec<WsPath>)> {
        let node = self.tree.get(ino)?;
        node.body().filter(|body| body.content == Content::Remote)?;
        let origin = node.origin.as_ref()?;
        // A name that is to be removed because it moved on was its name once, and a request that
        // stored it there may be over already.
        let was_there = |record: &Record| {
            record.moved_to == Some(ino) || (record.ino == Some(ino) && record.attempts > 0)
        };
        let names = self
            .outbox
            .lanes()
            .filter(|(path, lane)| **path != origin.path && lane.records().any(was_there));
        Some((origin.digest?, names.map(|(path, _)| path.clone()).collect()))
    }

    /// A content that only the remote has was found under another name.
    pub(super) fn moved_there(&mut self, ino: Ino, path: &WsPath, changes: &mut Changes) {
        if let Some(origin) = self.tree.get_mut(ino).and_then(|node| node.origin.as_mut()) {
            origin.path = path.clone();
            self.put_node(ino, changes);
        }
    }

    /// Whether the remote has a node's content under the node's old name.
    pub(super) fn has_origin(&self, ino: Ino) -> bool {
        self.tree.get(ino).is_some_and(|node| node.origin.is_some())
    }

    /// The digest of a node's content where that is what the remote has under the node's old name.
    pub(super) fn origin_digest(&self, ino: Ino) -> Option<Digest> {
        self.tree.get(ino).and_then(|node: &Node| node.origin.as_ref()?.digest)
    }

    /// Whether what was read for a node is still to become its content: nobody else brought it, and
    /// the node did not move on to a version that this is not.
    pub(super) fn still_wants(&self, ino: Ino, began: &Wanted, file: &RemoteFile) -> bool {
        let Some(now) = self.wanted(ino) else { return false };
        let version = now.synced.as_ref().and_then(|synced| synced.revision.as_ref());
        now.path == began.path && (now.synced == began.synced || version == file.revision.as_ref())
    }

    /// Makes what was read the content of a node that [still wants](Self::still_wants) it. It may be
    /// newer than the version that the node derived from; then the node derives from that one now.
    pub(super) fn take_read(
        &mut self,
        ino: Ino,
        file: &RemoteFile,
        (content, len): (Content, u64),
        changes: &mut Changes,
    ) {
        let Some(node) = self.tree.get(ino) else { return };
        let known = node.synced.as_ref().and_then(|synced| synced.revision.clone());
        let older = match (&file.revision, &known) {
            (Some(read), Some(known)) => read.is_older_than(known),
            _ => false,
        };
        let is_renamed = node.origin.is_some();
        let is_here = self.tree.path_of(ino).as_ref() == Some(&file.path);
        if !is_renamed && is_here && !older && known != file.revision {
            self.adopt_version(ino, file, changes);
            // Another read of it may be under way, and older.
            self.overtake(&file.path, file.revision.as_ref());
            // The kernel may hold pages, and the size, of the version before.
            changes.invalidations.push(Invalidation::Node(ino));
        }
        self.adopt_fetched(ino, content, len, changes);
    }
}
