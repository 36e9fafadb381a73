//! What comes from the remote: events and listings, laid under what is pending here.
//!
//! A path on which something is pending or open for writing is never changed from outside: it is
//! noted ([`Core::recheck`]) and its remote state is read again when it is quiet. Everything else
//! takes the remote's version at once. Absence from a listing proves nothing; it only asks for a
//! second look.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;

use super::core::{Changes, Core, Invalidation, Now, SMALL_MAX};
use super::news::NewsKind;
use super::outbox::{Heard, Lane};
use crate::namespace::Keep;
use crate::node::{BlobId, Content, FileBody, Ino, Kind, Node, ROOT, Synced};
use crate::path::WsPath;
use crate::record::{Op, RecordBase, RecordState};
use crate::remote::{EventChange, Metadata, RemoteEntry, RemoteFile, Size, Skipped};
use crate::revision::{Base, Revision};
use crate::store::Row;

/// Where news about a path come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The change stream or a listing: may be older than what we know.
    Stream,
    /// Read just now, for this path.
    Read,
}

/// What news about a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// Nothing new.
    Known,
    /// The tree shows it now.
    Applied,
    /// Something is pending or open there; noted for later.
    Busy,
    /// It cannot be shown; reported.
    Skipped,
}

impl Core {
    /// The node at the path of an event, when it is a file: to be locked before the event is
    /// applied.
    #[must_use]
    pub fn file_at(&self, path: &WsPath) -> Option<Ino> {
        let ino = self.tree.resolve(path)?;
        self.tree.get(ino)?.body().map(|_| ino)
    }

    /// Applies an event. `quiet` says whether the file at its path may be replaced: nobody has it
    /// open for writing or changed.
    pub fn apply_event(
        &mut self,
        change: &EventChange,
        quiet: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        match change {
            EventChange::Stored(file) => self.stored(file, Source::Stream, quiet, now, changes),
            EventChange::Deleted { path, revision } => {
                self.overtake(path, None);
                let newer = self.tree.resolve(path).and_then(|ino| self.tree.get(ino));
                let newer = newer.and_then(|node| node.synced.as_ref());
                let newer_is_unnamed = newer.is_some_and(|synced| synced.revision.is_none());
                let newer = newer.and_then(|synced| synced.revision.as_ref());
                let stale = match (newer, revision) {
                    (Some(ours), Some(theirs)) => theirs.is_older_than(ours),
                    _ => false,
                };
                self.echoed(path);
                if stale {
                    return Inbound::Known;
                }
                // It may be older than what is here, and is about to be read.
                let is_doubtful = newer_is_unnamed && self.recheck.contains(path);
                let applied = match is_doubtful {
                    true => Inbound::Busy,
                    false => self.removed(path, quiet, now, changes),
                };
                let is_open = applied == Inbound::Busy;
                self.removal_told(path, revision.as_ref(), is_open, changes);
                applied
            }
            EventChange::DirCreated { path } => {
                self.echoed(path);
                self.folder_created(path, None, now, changes)
            }
            EventChange::DirDeleted { path } => {
                self.echoed(path);
                self.folder_deleted(path, now, changes)
            }
        }
    }

    /// A listing lacks a file, and the remote has it no more.
    pub fn missing(
        &mut self,
        path: &WsPath,
        quiet: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        self.overtake(path, None);
        self.echoed(path);
        let applied = self.removed(path, quiet, now, changes);
        if applied == Inbound::Applied {
            self.note_gone(path, None, changes);
        }
        applied
    }

    /// The remote has this file.
    pub fn stored(
        &mut self,
        file: &RemoteFile,
        source: Source,
        quiet: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        let path = &file.path;
        self.forget_kept(path, changes);
        if source == Source::Stream {
            self.echoed(path);
            self.overtake(path, file.revision.as_ref());
            self.file_told(path);
        }
        if self.is_pending(path) {
            let lane = self.outbox.lane_mut(path);
            let judged = lane.is_some_and(|lane| {
                let record = &lane.current.record;
                // The change before ours, whose reply came before its event, is no news.
                let is_base = match (record_base(lane), &file.revision) {
                    (Some(base), Some(theirs)) => theirs == base || theirs.is_older_than(base),
                    _ => false,
                };
                // Ours may be heard before its reply, which then tells whether the last thing heard
                // was ours. A move sends no bytes that could be recognised: it is looked at again
                // unless its reply tells.
                let recognised = match record.op {
                    Op::Put => file.digest.is_some_and(|digest| record.sent.contains(&digest)),
                    Op::Meta => file.revision.is_some(),
                    Op::Delete | Op::MakeDir | Op::RemoveDir => false,
                };
                let in_flight = record.state == RecordState::Flight;
                if in_flight && !is_base {
                    let tells = file.digest.is_some() && !record.sent.is_empty();
                    let other_bytes = tells && record.op == Op::Put && !recognised;
                    let heard = |revision| Heard { revision, other_bytes };
                    lane.heard = file.revision.clone().map(heard);
                }
                is_base || (in_flight && recognised)
            });
            if !judged {
                self.note_recheck(path, changes);
            }
            return Inbound::Busy;
        }
        let Some(ino) = self.tree.resolve(path) else {
            if source == Source::Stream && self.may_be_gone(path) {
                self.note_recheck(path, changes);
                return Inbound::Busy;
            }
            return self.appeared(file, now, changes);
        };
        let Some(node) = self.tree.get(ino) else { return Inbound::Known };
        if node.is_special() {
            return self.hidden(path, "a pipe, socket or device here has the same name", changes);
        }
        if node.local_only {
            return Inbound::Known;
        }
        if node.is_dir() {
            return self.hidden(path, "a folder has the same name", changes);
        }
        let ours = node.synced.as_deref().cloned().unwrap_or_default();
        let same_revision = ours.revision.is_some() && ours.revision == file.revision;
        let same_bytes = ours.digest.is_some() && ours.digest == file.digest;
        let older = match (&ours.revision, &file.revision) {
            (Some(ours), Some(theirs)) => theirs.is_older_than(ours),
            _ => false,
        };
        if (same_revision && (same_bytes || file.digest.is_none() || ours.digest.is_none()))
            || (older && source == Source::Stream)
        {
            if same_revision && ours.digest.is_none() {
                self.adopt_version(ino, file, changes);
            }
            return Inbound::Known;
        }
        if self.contradicts(file) {
            let why = format!("the server has another content of {path} under a known revision");
            self.history_went_back(why, changes);
        }
        let needs_swap = !same_bytes;
        // Theirs may be an older version than ours; a person decides.
        if needs_swap && self.reset_suspected.is_some() && self.outlived(ino) {
            return Inbound::Busy;
        }
        // What the stream tells may be older than what is here; where the revisions do not say so, the
        // server does.
        let has_order = |ours: &Revision| {
            let theirs = file.revision.as_ref().and_then(Revision::ordinal);
            ours.ordinal().is_some() && theirs.is_some()
        };
        let may_be_older =
            source == Source::Stream && !ours.revision.as_ref().is_some_and(has_order);
        if may_be_older && self.recheck.contains(path) {
            return Inbound::Busy;
        }
        if needs_swap && (!quiet || may_be_older || must_be_read(file)) {
            self.note_recheck(path, changes);
            return Inbound::Busy;
        }
        // Of a size that is only a bound the kernel keeps nothing, and no bytes were shown yet. To tell
        // it nevertheless could make it drop the true size that it is just being told.
        let was_shown = self.tree.get(ino).and_then(Node::body).is_none_or(|body| body.exact);
        self.adopt_version(ino, file, changes);
        if needs_swap {
            self.replace(ino, file, now, changes);
        }
        if needs_swap {
            self.tell(NewsKind::Changed, ino, changes);
        }
        if was_shown {
            changes.invalidations.push(Invalidation::Node(ino));
        }
        Inbound::Applied
    }

    /// Whether the tree takes no more names from the remote: they are kept in memory.
    pub(super) fn is_full(&self) -> bool {
        self.tree.len() >= self.settings.names_max
    }

    pub(super) fn left_out(&mut self, path: &WsPath) -> Inbound {
        let reason = format!("there are {} names already", self.tree.len());
        self.skip([Skipped { name: path.as_str().to_owned(), reason }]);
        Inbound::Skipped
    }

    /// Something here has the name, or that of a folder above. It is reported now, looked at again
    /// when its way is free, and after a restart, which forgets what was reported.
    pub(super) fn hidden(&mut self, path: &WsPath, reason: &str, changes: &mut Changes) -> Inbound {
        self.skip([Skipped { name: path.as_str().to_owned(), reason: reason.to_owned() }]);
        changes.rows.push(Row::PutRecheck(path.clone()));
        Inbound::Skipped
    }

    /// The remote has no such file.
    pub fn removed(
        &mut self,
        path: &WsPath,
        quiet: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Inbound {
        if self.is_pending(path) {
            let own = self.outbox.lane(path).is_some_and(|lane| {
                let record = &lane.current.record;
                let removes = record.op == Op::Delete && record.state == RecordState::Flight;
                // A file that was removed and is created again: its removal is what ours builds on.
                let builds_on = record.base == RecordBase::Known(Base::Absent)
                    && record.state == RecordState::Waiting
                    && record.sent.is_empty();
                removes || builds_on
            });
            if !own {
                // Whatever was heard before, it is not the last word.
                if let Some(lane) = self.outbox.lane_mut(path) {
                    lane.heard = None;
                }
                self.note_recheck(path, changes);
            }
            return Inbound::Busy;
        }
        let Some(node) = self.tree.resolve(path).and_then(|ino| self.tree.get(ino)) else {
            return self.way_is_free(path, now, changes);
        };
        if node.is_dir() {
            return self.way_is_free(path, now, changes);
        }
        let ino = node.ino;
        // Never was there, as far as we know: nothing of it can have been removed.
        if node.local_only || node.synced.is_none() {
            return Inbound::Known;
        }
        // However it is learned. What is missing there is offered again when the suspicion ends.
        if self.reset_suspected.is_some() {
            return Inbound::Busy;
        }
        if !quiet {
            self.note_recheck(path, changes);
            return Inbound::Busy;
        }
        if self.guard_removal_there(path, now, changes) {
            return Inbound::Busy;
        }
        self.take_out(ino, now, changes);
        Inbound::Applied
    }

    /// Removes a node from the tree because the remote has it no more, and the implied folders
    /// that it leaves empty. Who has it open keeps reading it.
    pub(super) fn take_out(&mut self, ino: Ino, now: Now, changes: &mut Changes) {
        let mut at = ino;
        loop {
            let Some(node) = self.tree.get(at) else { return };
            let (parent, name) = (node.parent, Arc::clone(&node.name));
            self.tell(NewsKind::Removed, at, changes);
            self.detach(at, Keep::Untold, changes);
            changes.invalidations.push(Invalidation::Entry { parent, name });
            if let Some(folder) = self.tree.get_mut(parent) {
                folder.mtime = now.wall;
                folder.ctime = now.wall;
            }
            changes.invalidations.push(Invalidation::Node(parent));
            let implied = self.tree.get(parent).is_some_and(|folder| {
                folder.kind == (Kind::Dir { explicit: false }) && parent != ROOT
            });
            let empty = self.tree.children(parent).is_some_and(BTreeMap::is_empty);
            if !(implied && empty) {
                return;
            }
            at = parent;
        }
    }

    /// Lays one page of a listing under what is here. Returns the nodes that it confirms.
    pub fn apply_listing(
        &mut self,
        entries: &[RemoteEntry],
        seen: &mut HashSet<Ino>,
        is_open: impl Fn(Ino) -> bool,
        now: Now,
        changes: &mut Changes,
    ) {
        for entry in entries {
            match entry {
                RemoteEntry::File(file) => {
                    // A file that is open is looked at again later, by itself.
                    let quiet = self.file_at(&file.path).is_none_or(|ino| !is_open(ino));
                    let known = self.stored(file, Source::Stream, quiet, now, changes);
                    if known != Inbound::Skipped
                        && let Some(ino) = self.tree.resolve(&file.path)
                    {
                        seen.insert(ino);
                    }
                }
                RemoteEntry::Dir { path, explicit, mode } => {
                    if *explicit {
                        self.folder_created(path, *mode, now, changes);
                    }
                    // A file that has the folder's name here is another thing.
                    let folder = self.tree.resolve(path).filter(|ino| self.is_dir(*ino));
                    seen.extend(folder);
                }
            }
        }
    }

    /// Whether a change of the path waits or is in flight.
    #[must_use]
    pub fn is_pending(&self, path: &WsPath) -> bool {
        self.outbox.lane(path).is_some()
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.tree.get(ino).is_some_and(Node::is_dir)
    }

    /// Notes the remote version from which a node now derives, and its metadata.
    pub(super) fn adopt_version(&mut self, ino: Ino, file: &RemoteFile, changes: &mut Changes) {
        let Some(node) = self.tree.get_mut(ino) else { return };
        node.synced = Some(Box::new(Synced {
            revision: file.revision.clone(),
            digest: file.digest,
            edited_at: file.edited_at,
        }));
        node.origin = None;
        node.mode = file.metadata.mode.unwrap_or(node.mode);
        if let Some(mtime) = file.metadata.mtime.or(file.edited_at) {
            node.mtime = mtime;
        }
        self.put_node(ino, changes);
    }

    /// A file was renamed here before its bytes were fetched, and removed at the remote: nobody has
    /// them any more. The name goes, as it would have gone without the rename, unless the remote has
    /// another file of that name: until that is known it stays.
    pub fn content_lost(&mut self, ino: Ino, changes: &mut Changes) {
        self.fetches_planned.remove(&ino);
        let Some(path) = self.tree.path_of(ino) else { return };
        let has_put = self.outbox.has_put(ino);
        let Some(node) = self.tree.get_mut(ino) else { return };
        // Whatever is to be sent and cannot be had any more is lost, however it got its name.
        if node.origin.is_none() && !has_put {
            return;
        }
        if node.body().is_none_or(|body| body.content != Content::Remote) {
            return;
        }
        tracing::warn!(%path, "renamed here, removed there before its bytes were fetched");
        // From now on the name stands for whatever the remote has there.
        node.origin = None;
        node.synced = Some(Box::default());
        self.put_node(ino, changes);
        for record in self.outbox.cancel(&path, ino, &mut changes.rows) {
            for blob in record.blobs() {
                self.release_blob(blob, changes);
            }
        }
        self.end_orphan(&path, changes);
        self.note_recheck(&path, changes);
    }

    /// Puts the remote's bytes in the place of ours.
    pub(super) fn replace(&mut self, ino: Ino, file: &RemoteFile, now: Now, changes: &mut Changes) {
        let body = self.body_for(file, changes);
        self.own(body.content, ino);
        let Some(node) = self.tree.get_mut(ino) else { return };
        let old = node.body().map(|body| body.content);
        node.kind = kind_for(&file.metadata, body);
        node.ctime = now.wall;
        self.put_node(ino, changes);
        if let Some(old) = old {
            self.release_content(old, changes);
        }
    }

    /// Where the bytes of a remote file are to be: here, when they came along and are small.
    fn body_for(&mut self, file: &RemoteFile, changes: &mut Changes) -> FileBody {
        if let Some(bytes) = &file.body
            && bytes.len() as u64 <= SMALL_MAX
        {
            if bytes.is_empty() {
                return FileBody { content: Content::Empty, size: 0, exact: true };
            }
            let blob = BlobId(self.take_id(&mut changes.rows));
            changes.rows.push(Row::PutBlob(blob, bytes.clone()));
            let size = bytes.len() as u64;
            return FileBody { content: Content::Blob(blob), size, exact: true };
        }
        match file.size {
            Size::Exact(0) => FileBody { content: Content::Empty, size: 0, exact: true },
            Size::Exact(size) => FileBody { content: Content::Remote, size, exact: true },
            Size::AtMost(size) => FileBody {
                content: Content::Remote,
                size: file.body.as_ref().map_or(size, |bytes| bytes.len() as u64),
                exact: file.body.is_some(),
            },
        }
    }

    fn appeared(&mut self, file: &RemoteFile, now: Now, changes: &mut Changes) -> Inbound {
        if self.rules.is_local_only(&file.path, false) {
            return Inbound::Known;
        }
        if must_be_read(file) {
            self.note_recheck(&file.path, changes);
            return Inbound::Busy;
        }
        let (Some(folder), Some(name)) = (file.path.parent(), file.path.name()) else {
            return Inbound::Skipped;
        };
        if self.is_full() {
            return self.left_out(&file.path);
        }
        let Some(parent) = self.folder_at(&folder, now, changes) else {
            return self.hidden(&file.path, "a file has the name of its folder", changes);
        };
        let body = self.body_for(file, changes);
        let at = file.metadata.mtime.or(file.edited_at).unwrap_or(now.wall);
        let ino = Ino(self.take_id(&mut changes.rows));
        self.own(body.content, ino);
        let kind = kind_for(&file.metadata, body);
        let default_mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { 0o644 };
        self.tree.insert(Node {
            ino,
            parent,
            name: Arc::from(name),
            kind,
            mode: file.metadata.mode.unwrap_or(default_mode) & 0o7777,
            uid: self.settings.uid,
            gid: self.settings.gid,
            atime: at,
            mtime: at,
            ctime: now.wall,
            synced: Some(Box::new(Synced {
                revision: file.revision.clone(),
                digest: file.digest,
                edited_at: file.edited_at,
            })),
            origin: None,
            local_only: false,
        });
        self.put_node(ino, changes);
        self.announce(parent, name, now, changes);
        Inbound::Applied
    }

    /// A new name from the remote: the kernel may remember that it was not there.
    pub(super) fn announce(&mut self, parent: Ino, name: &str, now: Now, changes: &mut Changes) {
        if let Some(folder) = self.tree.get_mut(parent) {
            folder.mtime = now.wall;
            folder.ctime = now.wall;
        }
        changes.invalidations.push(Invalidation::Entry { parent, name: Arc::from(name) });
        changes.invalidations.push(Invalidation::Node(parent));
        if let Some(ino) = self.tree.child(parent, name) {
            self.tell(NewsKind::Created, ino, changes);
        }
    }
}

/// The revision that the current record of a lane was made against.
fn record_base(lane: &Lane) -> Option<&Revision> {
    match lane.current.record.known_base()? {
        Base::Revision(revision) => Some(revision),
        Base::Absent | Base::Date(_) => None,
    }
}

/// Whether a file must be read before it can be shown. An event of the original protocol that came
/// without the bytes says nothing about their number, and no `stat` may show a made-up one; the
/// rules must be known before they are applied.
fn must_be_read(file: &RemoteFile) -> bool {
    let rules = file.path.as_str().strip_prefix('/') == Some(crate::ignore_rules::RULES_NAME);
    let unsized_file = file.size == Size::AtMost(u64::MAX);
    let here = file.body.is_some() || file.size == Size::Exact(0);
    !here && (unsized_file || (rules && file.size.most() <= SMALL_MAX))
}

/// A file, or a symbolic link where the remote says so.
fn kind_for(metadata: &Metadata, body: FileBody) -> Kind {
    match &metadata.symlink {
        Some(target) => Kind::Symlink { target: Arc::from(target.as_str()) },
        None => Kind::File(body),
    }
}
