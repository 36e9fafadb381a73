//! The local side: what a call on the mounted folder changes.
//!
//! Each operation checks, changes the tree and records what the remote has to learn, in one step
//! under the lock. Errors are those of POSIX; nothing was changed when one is returned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::core::{Changes, Core, Invalidation, Now};
use super::outbox::Change;
use crate::ignore_rules::Rules;
use crate::namespace::Keep;
use crate::node::{Content, FileBody, Ino, Kind, Node, ROOT, Synced};
use crate::path::{PathError, WsPath, check_name};
use crate::record::{BaseContent, Op, RecordState};
use crate::revision::Base;
use crate::store::Row;

/// Why a name operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// No such name.
    #[error("no such entry")]
    NotFound,
    /// The node was removed.
    #[error("stale inode")]
    Stale,
    /// The name is taken.
    #[error("entry exists")]
    Exists,
    /// A folder was expected.
    #[error("not a folder")]
    NotADirectory,
    /// Anything but a folder was expected.
    #[error("is a folder")]
    IsADirectory,
    /// The folder holds entries.
    #[error("folder not empty")]
    NotEmpty,
    /// A folder cannot move below itself; an exchange needs two unrelated entries.
    #[error("invalid move")]
    InvalidMove,
    /// The content is not here and would leave what the remote keeps: copy instead.
    #[error("crosses the border of what is sent")]
    CrossesBorder,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// What is told by mountd cannot be set.
    #[error("not to be set")]
    NotPermitted,
    /// A node takes no more extended attributes.
    #[error("no room for the attribute")]
    NoRoom,
    /// The mount is read-only.
    #[error("read-only mount")]
    ReadOnly,
    /// The name cannot be an entry.
    #[error(transparent)]
    BadName(#[from] PathError),
}

/// Who creates a node, and with which permissions.
#[derive(Debug, Clone, Copy)]
pub struct Creator {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, the umask applied.
    pub mode: u32,
}

/// New values for attributes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Whether the bits go that let others run a file as its owner or group: it was changed, or has
    /// another owner.
    pub drop_privileges: bool,
}

/// A content that was closed, synced or grew old: it becomes the node's.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Where it is.
    pub content: Content,
    /// Its size.
    pub size: u64,
    /// When it was last written, or the time that was set since.
    pub mtime: Timestamp,
    /// When it was last written.
    pub ctime: Timestamp,
    /// Hold its record until then.
    pub held_until: Option<Duration>,
}

/// The bits of a mode by which a file runs as its owner or group, and that for its group to run it.
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// A mode without the bits that let others run the file as its owner or group.
#[must_use]
pub fn without_privileges(mode: u32) -> u32 {
    // Without the group's right to run it the bit means something else.
    let group = if mode & S_IXGRP != 0 { S_ISGID } else { 0 };
    mode & !(S_ISUID | group)
}

impl Core {
    /// Creates an entry of any kind.
    ///
    /// # Errors
    /// When the name is bad or taken, or `parent` is no folder.
    pub fn create(
        &mut self,
        parent: Ino,
        name: &str,
        kind: Kind,
        creator: Creator,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Ino, LocalError> {
        self.check_writable()?;
        check_name(name)?;
        let folder = self.folder_path(parent)?;
        if self.tree.child(parent, name).is_some() {
            return Err(LocalError::Exists);
        }
        let path = folder.join(name)?;
        let ino = Ino(self.take_id(&mut changes.rows));
        let is_dir = matches!(kind, Kind::Dir { .. });
        let is_special = matches!(kind, Kind::Special { .. });
        // A folder with the setgid bit hands its group, and to folders the bit, on.
        let above = self.tree.get(parent).ok_or(LocalError::Stale)?;
        let hands_on = above.mode & S_ISGID != 0;
        let gid = if hands_on { above.gid } else { creator.gid };
        let inherited = if hands_on && is_dir { S_ISGID } else { 0 };
        let node = Node {
            ino,
            parent,
            name: Arc::from(name),
            kind,
            mode: creator.mode & 0o7777 | inherited,
            uid: creator.uid,
            gid,
            atime: now.wall,
            mtime: now.wall,
            ctime: now.wall,
            synced: None,
            origin: None,
            local_only: is_special || self.rules.is_local_only(&path, is_dir),
        };
        let op = match node.kind {
            Kind::Dir { .. } => Some(Op::MakeDir),
            Kind::Symlink { .. } | Kind::Special { .. } => Some(Op::Put),
            // A file is recorded with its first content, at close.
            Kind::File(_) => None,
        };
        self.tree.insert(node);
        self.touch_folder(parent, now, changes);
        // With its first content: after a crash it is there as it was closed, or not at all.
        if let Some(op) = op {
            self.put_node(ino, changes);
            self.record_node(ino, &path, op, None, now, changes);
        }
        Ok(ino)
    }

    /// Removes anything but a folder. With `open` the node lives on without a name.
    ///
    /// # Errors
    /// When there is no such name or it is a folder.
    pub fn unlink(
        &mut self,
        parent: Ino,
        name: &str,
        open: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Ino, LocalError> {
        self.check_writable()?;
        let ino = self.tree.child(parent, name).ok_or(LocalError::NotFound)?;
        let node = self.tree.get(ino).ok_or(LocalError::Stale)?;
        if node.is_dir() {
            return Err(LocalError::IsADirectory);
        }
        let path = self.tree.path_of(ino).ok_or(LocalError::Stale)?;
        // Who has a pipe open is known to the kernel alone.
        let open = open || node.is_special();
        let before = Occupant::of(node);
        let keep = if open { Keep::Node } else { Keep::Nothing };
        self.detach(ino, keep, changes);
        self.record_removal(&path, &before, None, now, changes);
        self.touch_folder(parent, now, changes);
        Ok(ino)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// When there is no such name, it is no folder, or it holds entries.
    pub fn rmdir(
        &mut self,
        parent: Ino,
        name: &str,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Ino, LocalError> {
        self.check_writable()?;
        let ino = self.tree.child(parent, name).ok_or(LocalError::NotFound)?;
        let children = self.tree.children(ino).ok_or(LocalError::NotADirectory)?;
        if !children.is_empty() {
            return Err(LocalError::NotEmpty);
        }
        let path = self.tree.path_of(ino).ok_or(LocalError::Stale)?;
        let before = self.tree.get(ino).map(Occupant::of).ok_or(LocalError::Stale)?;
        self.detach(ino, Keep::Node, changes);
        self.record_removal(&path, &before, None, now, changes);
        self.touch_folder(parent, now, changes);
        Ok(ino)
    }

    /// Changes attributes other than the size.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn set_attributes(
        &mut self,
        ino: Ino,
        set: SetAttributes,
        now: Now,
        changes: &mut Changes,
    ) -> Result<(), LocalError> {
        self.check_writable()?;
        let node = self.tree.get_mut(ino).ok_or(LocalError::Stale)?;
        let told = (node.mode, node.mtime);
        node.mode = set.mode.map_or(node.mode, |mode| mode & 0o7777);
        if set.drop_privileges && !node.is_dir() {
            node.mode = without_privileges(node.mode);
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.atime = set.atime.unwrap_or(node.atime);
        node.mtime = set.mtime.unwrap_or(node.mtime);
        node.ctime = now.wall;
        let news = told != (node.mode, node.mtime);
        let has_version = node.synced.is_some();
        let kind = node.kind.clone();
        self.put_node(ino, changes);
        let Some(path) = self.tree.path_of(ino) else { return Ok(()) };
        let pending = self.outbox.lane(&path).is_some();
        if news && matches!(kind, Kind::File(_)) && (has_version || pending) {
            self.record_node(ino, &path, Op::Meta, None, now, changes);
        }
        Ok(())
    }

    /// Makes a sealed content the node's and records it. Returns whether the node still has a
    /// name; without one there is nothing to record.
    pub fn seal(&mut self, ino: Ino, sealed: &Sealed, now: Now, changes: &mut Changes) -> bool {
        self.own(sealed.content, ino);
        let Some(path) = self.tree.path_of(ino) else {
            if let Some(body) = self.tree.get_mut(ino).and_then(Node::body_mut) {
                *body = FileBody { content: sealed.content, size: sealed.size, exact: true };
            }
            return false;
        };
        let Some(node) = self.tree.get_mut(ino) else { return false };
        let synced = node.synced.clone();
        node.mtime = sealed.mtime;
        // Closing a file changes nothing that `stat` shows.
        node.ctime = node.ctime.max(sealed.ctime);
        node.origin = None;
        let Some(body) = node.body_mut() else { return false };
        let old = body.content;
        *body = FileBody { content: sealed.content, size: sealed.size, exact: true };
        self.put_node(ino, changes);
        let base_content = self.base_content(&path, old, synced.as_deref());
        let base = synced.as_ref().map_or(Base::Absent, |synced| synced.base());
        let details = (base, base_content);
        self.record_put(ino, &path, Op::Put, details, sealed.held_until, now, changes);
        if old != sealed.content {
            self.release_content(old, changes);
        }
        true
    }

    /// Has the record of a file that is about to change wait for that, when it was never sent and
    /// would take the change up. Returns whether there is one.
    pub fn hold_unsent(&mut self, ino: Ino, now: Now) -> bool {
        let Some(path) = self.tree.path_of(ino) else { return false };
        let unsent = self.outbox.lane(&path).is_some_and(|lane| {
            let record = &lane.current.record;
            record.op == Op::Put
                && record.ino == Some(ino)
                && record.state == RecordState::Waiting
                && record.attempts == 0
                && lane.after.is_empty()
        });
        if unsent {
            let until = now.mono + self.settings.open_hold;
            self.outbox.mark(&path, |slot| slot.held_until = Some(until));
        }
        unsent
    }

    /// Takes up new rules: what is no longer local-only is recorded, what now is, is not sent.
    pub fn set_rules(&mut self, rules: Rules, now: Now, changes: &mut Changes) {
        self.rules = rules;
        let all: Vec<Ino> = self.tree.nodes().map(|node| node.ino).filter(|i| *i != ROOT).collect();
        for ino in all {
            let (Some(path), Some(node)) = (self.tree.path_of(ino), self.tree.get(ino)) else {
                continue;
            };
            let (was, is_dir) = (node.local_only, node.is_dir());
            let is = self.rules.is_local_only(&path, is_dir);
            if was == is || node.is_special() {
                continue;
            }
            if let Some(node) = self.tree.get_mut(ino) {
                node.local_only = is;
            }
            self.put_node(ino, changes);
            let in_flight = self
                .outbox
                .lane(&path)
                .is_some_and(|lane| lane.current.record.state == RecordState::Flight);
            if is && !in_flight {
                self.drop_record(&path, changes);
            } else if !is {
                let op = if is_dir { Op::MakeDir } else { Op::Put };
                self.record_node(ino, &path, op, None, now, changes);
            }
        }
    }

    /// Drops a node that lived on only because it was open.
    pub fn forget_unlinked(&mut self, ino: Ino, changes: &mut Changes) {
        let Some(node) = self.tree.forget(ino) else { return };
        self.xattrs.remove(&ino);
        if let Some(body) = node.body() {
            self.release_content(body.content, changes);
        }
        self.end_orphans_of(ino, changes);
    }

    /// Notes a content that was fetched, without any change of the file.
    pub fn adopt_fetched(&mut self, ino: Ino, content: Content, size: u64, changes: &mut Changes) {
        self.own(content, ino);
        let Some(body) = self.tree.get_mut(ino).and_then(Node::body_mut) else { return };
        let corrected = !body.exact || body.size != size;
        *body = FileBody { content, size, exact: true };
        if corrected {
            changes.invalidations.push(Invalidation::Node(ino));
        }
        self.put_node(ino, changes);
    }

    pub(super) fn check_writable(&self) -> Result<(), LocalError> {
        if self.settings.read_only { Err(LocalError::ReadOnly) } else { Ok(()) }
    }

    pub(super) fn folder_path(&self, ino: Ino) -> Result<WsPath, LocalError> {
        let node = self.tree.get(ino).ok_or(LocalError::Stale)?;
        if !node.is_dir() {
            return Err(LocalError::NotADirectory);
        }
        self.tree.path_of(ino).ok_or(LocalError::NotFound)
    }

    /// A folder's own times change with its entries.
    pub(super) fn touch_folder(&mut self, folder: Ino, now: Now, changes: &mut Changes) {
        // An implied folder whose last entry went here is still there for those who work in it.
        let emptied = self.tree.children(folder).is_some_and(BTreeMap::is_empty);
        let mut made_explicit = false;
        if let Some(node) = self.tree.get_mut(folder) {
            node.mtime = now.wall;
            node.ctime = now.wall;
            if emptied && node.kind == (Kind::Dir { explicit: false }) {
                node.kind = Kind::Dir { explicit: true };
                made_explicit = true;
            }
        }
        self.put_node(folder, changes);
        if made_explicit && let Some(path) = self.tree.path_of(folder) {
            self.record_node(folder, &path, Op::MakeDir, None, now, changes);
        }
    }

    /// Remote names that something at `gone` stood in the way of are looked at again.
    pub(super) fn uncover(&mut self, gone: &WsPath, changes: &mut Changes) {
        let hidden: Vec<WsPath> = self
            .skipped
            .keys()
            .filter_map(|name| WsPath::parse(name).ok())
            .chain(self.hidden_folders.keys().cloned())
            .filter(|path| path.is_within(gone))
            .collect();
        for path in hidden {
            self.skipped.remove(path.as_str());
            self.note_recheck(&path, changes);
        }
    }

    /// Takes a node out of the tree; `keep` lets it live on by number.
    pub(super) fn detach(&mut self, ino: Ino, keep: Keep, changes: &mut Changes) {
        if !(self.skipped.is_empty() && self.hidden_folders.is_empty())
            && let Some(path) = self.tree.path_of(ino)
        {
            self.uncover(&path, changes);
        }
        if let Some(node) = self.tree.remove(ino, keep) {
            changes.rows.push(Row::DeleteNode(ino));
            self.detach_xattrs(ino, keep, changes);
            if keep == Keep::Nothing
                && let Some(body) = node.body()
            {
                match body.content {
                    // A record may still want it as the base; it decides.
                    Content::Blob(_) | Content::Empty | Content::Remote | Content::Damaged => {}
                    Content::File(file) => changes.drop_file(file),
                }
            }
        }
    }

    /// Records the state of a node under its path, on the base that the node knows.
    pub(super) fn record_node(
        &mut self,
        ino: Ino,
        path: &WsPath,
        op: Op,
        held_until: Option<Duration>,
        now: Now,
        changes: &mut Changes,
    ) {
        let synced = self.tree.get(ino).and_then(|node| node.synced.as_deref());
        let base = synced.map_or(Base::Absent, Synced::base);
        self.record_put(ino, path, op, (base, None), held_until, now, changes);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one record")]
    pub(super) fn record_put(
        &mut self,
        ino: Ino,
        path: &WsPath,
        op: Op,
        (base, base_content): (Base, Option<BaseContent>),
        held_until: Option<Duration>,
        now: Now,
        changes: &mut Changes,
    ) {
        let Some(node) = self.tree.get(ino) else { return };
        if node.local_only || path.is_root() {
            return;
        }
        let sendable = match (op, &node.kind) {
            (Op::MakeDir | Op::RemoveDir, _) => self.offers(|can| can.directories),
            (Op::Meta, _) => self.offers(|can| can.metadata),
            (Op::Put, Kind::Symlink { .. }) => self.offers(|can| can.symlink),
            (Op::Put | Op::Delete, _) => true,
        };
        if !sendable {
            return;
        }
        let blob = node.body().and_then(|body| match body.content {
            Content::Blob(blob) => Some(blob),
            Content::Empty | Content::Remote | Content::Damaged | Content::File(_) => None,
        });
        let change = Change {
            path: path.clone(),
            op,
            ino: Some(ino),
            base,
            base_content,
            moved_to: None,
            blob,
            size: node.body().map_or(0, |body| body.size),
            held_until,
            is_known_there: false,
        };
        self.record(change, now, changes);
    }

    /// Records that a name is gone, when the remote has or may get it.
    pub(super) fn record_removal(
        &mut self,
        path: &WsPath,
        before: &Occupant,
        moved_to: Option<Ino>,
        now: Now,
        changes: &mut Changes,
    ) {
        let pending = self.outbox.lane(path).is_some();
        // A folder that is implied here may be one of its own at the remote: of that nothing is
        // heard while a file has its name or that of a folder above. Removing none does no harm.
        let known = before.synced.is_some() || before.implied;
        let op = if before.is_dir { Op::RemoveDir } else { Op::Delete };
        let wanted = !before.local_only
            && (pending || known)
            && (op == Op::Delete || self.offers(|can| can.directories));
        if wanted {
            let change = Change {
                path: path.clone(),
                op,
                ino: None,
                base: before.synced.as_ref().map_or(Base::Absent, Synced::base),
                base_content: self
                    .base_content(path, before.content, before.synced.as_ref())
                    .filter(|_| moved_to.is_none()),
                moved_to,
                blob: None,
                size: 0,
                held_until: None,
                is_known_there: before.synced.is_some(),
            };
            self.record(change, now, changes);
        }
        if moved_to.is_none()
            && let Content::Blob(blob) = before.content
            && !self.tree.is_unlinked(before.ino)
        {
            self.release_blob(blob, changes);
        }
    }
}

/// What was under a name.
#[derive(Debug, Clone)]
pub(super) struct Occupant {
    pub(super) ino: Ino,
    pub(super) is_dir: bool,
    implied: bool,
    local_only: bool,
    pub(super) synced: Option<Synced>,
    pub(super) content: Content,
}

impl Occupant {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            ino: node.ino,
            is_dir: node.is_dir(),
            implied: node.kind == (Kind::Dir { explicit: false }),
            local_only: node.local_only,
            synced: node.synced.as_deref().cloned(),
            content: node.body().map_or(Content::Empty, |body| body.content),
        }
    }
}
