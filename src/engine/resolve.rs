//! Conflicts as a person ends them: ours, theirs, both, a merge, or what the person made of them.
//!
//! Whatever takes the name is a change like one made in the folder: sealed, recorded, sent on the
//! base that the file has. It enters tree, outbox and the list of conflicts in one step, so a crash
//! leaves the conflict open or resolved, with nothing to roll forward. What has the name is only
//! replaced by force when it is not the version that the conflict was about, and is kept then.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::conflict_files::ConflictFiles;
use super::copies::{CopyFolder, Source};
use super::core::{Changes, Core, Invalidation, Now};
use super::fetch::FetchError;
use super::local::{LocalError, Sealed};
use super::merge::{Merge, Refusal, three_way};
use super::shared::{Notice, NoticeKind, Shared};
use crate::content::open::OpenState;
use crate::digest::{Digest, Hasher};
use crate::node::{Content, Ino};
use crate::path::WsPath;
use crate::record::{ConflictRow, How, Resolution};
use crate::store::{Row, StoreError};

/// What a person decided.
#[derive(Debug, Clone)]
pub enum Choice {
    /// Ours takes the name; where ours was a removal, the file is removed.
    Ours,
    /// What has the name keeps it.
    Theirs,
    /// What has the name keeps it, ours gets one beside it.
    Both,
    /// These bytes take the name.
    Merged(Bytes),
    /// A merge of ours into what has the name takes it, if it is clean.
    Merge,
}

/// What became of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path.
    pub path: WsPath,
    /// What took the name.
    pub how: How,
    /// The name that was or would be written or removed.
    pub changes: Option<WsPath>,
}

/// Why a conflict is not resolved. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none of this id.
    #[error("there is no such conflict")]
    NotFound,
    /// It was resolved before.
    #[error("the conflict was resolved before, with {}", .0.word())]
    Before(How),
    /// Ours was a removal: there are no bytes of ours.
    #[error("ours was a removal, so there is nothing to keep or to merge")]
    NoBytes,
    /// The file is not the one that the conflict was about.
    #[error("the file was changed since the conflict was found")]
    Changed,
    /// Something else has the name.
    #[error("a folder or a symbolic link has the name of the file now")]
    InTheWay,
    /// Somebody writes it.
    #[error("the file is open for writing")]
    Open,
    /// Both sides changed the same lines.
    #[error("both sides changed the same lines")]
    Overlap,
    /// It cannot be merged at all.
    #[error("the versions cannot be merged: {0}")]
    Refused(#[from] Refusal),
    /// What has the name could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The name cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// What would be used of the copy is not as it was written.
    #[error("`{0}` in the conflict copy is damaged: {1}")]
    Damaged(&'static str, String),
    /// The copy, or the local disk.
    #[error("local disk: {0}")]
    Disk(#[from] io::Error),
    /// There is no room to record it.
    #[error("the disk that holds the state folder is full")]
    Full,
    /// The database. What was decided comes about once it can be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a resolution is to be carried out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Also where the file was changed since; what it holds is kept in the copy.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Core {
    /// Notes how a conflict ended.
    pub(super) fn resolved(
        &mut self,
        conflict: &ConflictRow,
        how: How,
        now: Now,
        changes: &mut Changes,
    ) {
        let mut conflict = conflict.clone();
        conflict.resolution = Some(Resolution { how, automatic: false, at: now.wall });
        changes.rows.push(Row::PutConflict(Box::new(conflict.clone())));
        if let Some(known) = self.conflicts.iter_mut().find(|known| known.id == conflict.id) {
            *known = conflict;
        }
    }

    /// The conflict of this id.
    #[must_use]
    pub fn conflict(&self, id: &str) -> Option<&ConflictRow> {
        self.conflicts.iter().find(|conflict| conflict.id == id)
    }
}

impl Shared {
    /// Ends a conflict. When it returns, the outcome is safe against a crash.
    ///
    /// # Errors
    /// When it cannot be ended so; nothing was changed then.
    pub async fn resolve(
        self: &Arc<Self>,
        id: &str,
        choice: &Choice,
        manner: Manner,
    ) -> Result<Resolved, ResolveError> {
        let conflict = self.core().conflict(id).cloned().ok_or(ResolveError::NotFound)?;
        if let Some(resolution) = &conflict.resolution {
            return Err(ResolveError::Before(resolution.how));
        }
        let theirs = conflict.theirs.map(|side| side.1);
        let has_bytes = !conflict.folder.is_empty();
        let files = ConflictFiles::of(&self.conflicts_folder, &conflict);
        tokio::task::block_in_place(|| self.check_copy(&conflict, choice))?;
        let (how, changes) = match choice {
            Choice::Theirs => {
                let mark = |_: &mut Core, _: Now, _: &mut Changes| Ok(());
                if !manner.dry_run {
                    self.commit(&conflict, How::Theirs, mark)?;
                }
                (How::Theirs, None)
            }
            Choice::Ours if !has_bytes => {
                (How::Ours, self.remove_again(&conflict, theirs, manner).await?)
            }
            _ if !has_bytes => return Err(ResolveError::NoBytes),
            Choice::Both => (How::Both, self.keep_beside(&conflict, &files, manner)?),
            Choice::Ours => {
                let source = Source::File(files.local());
                let put = Put { source, digest: conflict.ours.map(|side| side.1), theirs };
                (How::Ours, self.put(&conflict, How::Ours, put, manner).await?)
            }
            Choice::Merged(bytes) => {
                let digest = Some(Digest::of(bytes));
                let put = Put { source: Source::Bytes(bytes.clone()), digest, theirs };
                (How::Merged, self.put(&conflict, How::Merged, put, manner).await?)
            }
            Choice::Merge => {
                let put = self.merged_into(&conflict, &files).await?;
                let manner = Manner { force: false, ..manner };
                (How::Merged, self.put(&conflict, How::Merged, put, manner).await?)
            }
        };
        if !manner.dry_run {
            tracing::info!(path = %conflict.path, id, how = how.word(), "conflict resolved");
            self.nudge.notify_one();
            self.rules_may_have_arrived(&conflict.path);
            self.notice(Notice {
                kind: NoticeKind::Conflict,
                action: "resolve".to_owned(),
                path: Some(conflict.path.as_str().to_owned()),
                revision: None,
                detail: Some(format!("{id} resolved: {}", how.word())),
                at: self.clock.wall(),
            });
        }
        Ok(Resolved { path: conflict.path, how, changes })
    }

    /// Refuses where the bytes that a choice needs are not those that were kept.
    fn check_copy(&self, conflict: &ConflictRow, choice: &Choice) -> Result<(), ResolveError> {
        let needed: &[&str] = match choice {
            Choice::Ours | Choice::Both => &["local"],
            Choice::Merge => &["local", "base"],
            Choice::Theirs | Choice::Merged(_) => return Ok(()),
        };
        let flaws = ConflictFiles::flaws(conflict, &self.conflicts_folder);
        match flaws.into_iter().find(|(name, _)| needed.contains(name)) {
            Some((name, flaw)) => Err(ResolveError::Damaged(name, flaw.why)),
            None => Ok(()),
        }
    }

    /// Takes the step that ends a conflict and waits until it is committed. *Blocking:* disk.
    fn commit<T>(
        &self,
        conflict: &ConflictRow,
        how: How,
        act: impl FnOnce(&mut Core, Now, &mut Changes) -> Result<T, ResolveError>,
    ) -> Result<T, ResolveError> {
        if !self.store.has_room() {
            return Err(ResolveError::Full);
        }
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done = Box::new(move |result| drop(tell.send(result)));
        let step = self.step_then(done, |core, now, changes| {
            // Two who decide at once: the first one counts.
            match core.conflict(&conflict.id).map(|known| known.resolution) {
                Some(None) => {}
                Some(Some(before)) => return Err(ResolveError::Before(before.how)),
                None => return Err(ResolveError::NotFound),
            }
            let value = act(core, now, changes)?;
            core.resolved(conflict, how, now, changes);
            Ok(value)
        });
        let value = step.map_err(|(error, _)| error)?;
        failpoint!("resolve.submitted");
        tokio::task::block_in_place(|| told.recv()).map_err(|_closed| StoreError::Closed)??;
        failpoint!("resolve.committed");
        Ok(value)
    }

    /// Ours gets a name beside the file, unless it has one already.
    fn keep_beside(
        &self,
        conflict: &ConflictRow,
        files: &ConflictFiles,
        manner: Manner,
    ) -> Result<Option<WsPath>, ResolveError> {
        let shown = conflict.sibling.clone();
        let shown = shown.filter(|path| self.core().tree.resolve(path).is_some());
        if manner.dry_run {
            return Ok(Some(shown.unwrap_or_else(|| conflict.path.clone())));
        }
        if shown.is_some() {
            self.commit(conflict, How::Both, |_, _, _| Ok(()))?;
            return Ok(shown);
        }
        let source = Source::File(files.local());
        let content = tokio::task::block_in_place(|| self.new_content(&source))?;
        let file = content.file();
        let placed = self.commit(conflict, How::Both, |core, now, changes| {
            core.check_writable()?;
            Ok(core.place_beside(conflict, content, now, changes)?)
        });
        self.discard_unless(has_entered(&placed), file);
        placed.map(Some)
    }

    /// Merges ours into what has the name now.
    async fn merged_into(
        self: &Arc<Self>,
        conflict: &ConflictRow,
        files: &ConflictFiles,
    ) -> Result<Put, ResolveError> {
        let ino = self.file_of(conflict)?.ok_or(ResolveError::Changed)?;
        self.ensure_local(ino).await?;
        tokio::task::block_in_place(|| {
            let current = self.contents.open.with(ino, |state| {
                if !state.is_quiet() {
                    return Err(ResolveError::Open);
                }
                Ok(self.source_of(ino, state)?.read_text()?)
            })?;
            let (base, ours) = (files.read("base")?, files.read("local")?);
            let ours = ours.ok_or_else(|| io::Error::other("the copy of ours is missing"))?;
            match three_way(base.as_deref(), &ours, &current)? {
                Merge::Clean(merged) => {
                    let bytes = Bytes::from(merged);
                    let digest = Some(Digest::of(&bytes));
                    let theirs = Some(Digest::of(&current));
                    Ok(Put { source: Source::Bytes(bytes), digest, theirs })
                }
                Merge::Overlap(_) => Err(ResolveError::Overlap),
            }
        })
    }

    /// The file under the name of a conflict; `None` when nothing has it.
    fn file_of(&self, conflict: &ConflictRow) -> Result<Option<Ino>, ResolveError> {
        let core = self.core();
        let Some(ino) = core.tree.resolve(&conflict.path) else { return Ok(None) };
        match core.tree.get(ino).map(|node| node.body().is_some()) {
            Some(true) => Ok(Some(ino)),
            Some(false) => Err(ResolveError::InTheWay),
            None => Ok(None),
        }
    }

    /// Gives the name to a content.
    async fn put(
        self: &Arc<Self>,
        conflict: &ConflictRow,
        how: How,
        put: Put,
        manner: Manner,
    ) -> Result<Option<WsPath>, ResolveError> {
        self.core().check_writable()?;
        let path = Some(conflict.path.clone());
        let Some(ino) = self.file_of(conflict)? else {
            if manner.dry_run {
                return Ok(path);
            }
            let content = tokio::task::block_in_place(|| self.new_content(&put.source))?;
            let file = content.file();
            let placed = self.commit(conflict, how, |core, now, changes| {
                Ok(core.place(&conflict.path, content, now, changes)?)
            });
            self.discard_unless(has_entered(&placed), file);
            placed?;
            return Ok(path);
        };
        if manner.force {
            // What is replaced must be here, to be kept.
            self.ensure_local(ino).await?;
        }
        tokio::task::block_in_place(|| {
            self.contents.open.with(ino, |state| {
                let current = self.check_current(conflict, ino, state, put.theirs, manner)?;
                if current.is_some() && current == put.digest {
                    if !manner.dry_run {
                        self.commit(conflict, how, |_, _, _| Ok(()))?;
                    }
                    return Ok(None);
                }
                if manner.dry_run {
                    return Ok(path);
                }
                if current != put.theirs || current.is_none() {
                    let files = ConflictFiles::of(&self.conflicts_folder, conflict);
                    self.source_of(ino, state)?.copy_to(&files.replaced())?;
                    files.sync()?;
                    failpoint!("resolve.replaced");
                }
                self.put_quiet(conflict, how, ino, &put.source, state)?;
                Ok(path)
            })
        })
    }

    /// Refuses when the file is being written, or is not the version it should be. Returns the
    /// digest of what it holds, where that is known.
    fn check_current(
        &self,
        conflict: &ConflictRow,
        ino: Ino,
        state: &OpenState,
        expected: Option<Digest>,
        manner: Manner,
    ) -> Result<Option<Digest>, ResolveError> {
        if !state.is_quiet() {
            return Err(ResolveError::Open);
        }
        if self.core().tree.path_of(ino).as_ref() != Some(&conflict.path) {
            return Err(ResolveError::Changed);
        }
        let current = self.current_digest(ino, &conflict.path, state)?;
        if !manner.force && (current.is_none() || current != expected) {
            return Err(ResolveError::Changed);
        }
        Ok(current)
    }

    /// The digest of what a file holds, which is quiet.
    fn current_digest(
        &self,
        ino: Ino,
        path: &WsPath,
        state: &OpenState,
    ) -> io::Result<Option<Digest>> {
        let (known, is_here) = {
            let core = self.core();
            let Some(node) = core.tree.get(ino) else { return Ok(None) };
            let is_clean = !core.is_pending(path) && !node.local_only;
            let known = node.synced.as_ref().and_then(|synced| synced.digest);
            let body = node.body();
            (known.filter(|_| is_clean), body.is_some_and(|body| body.content != Content::Remote))
        };
        match (known, is_here) {
            (Some(known), _) => Ok(Some(known)),
            (None, false) => Ok(None),
            (None, true) => match self.source_of(ino, state)? {
                Source::Bytes(bytes) => Ok(Some(Digest::of(&bytes))),
                Source::File(file) => {
                    let mut hasher = Hasher::default();
                    let mut file = std::fs::File::open(file)?;
                    let mut buffer = vec![0; 256 << 10];
                    loop {
                        match io::Read::read(&mut file, &mut buffer)? {
                            0 => return Ok(Some(hasher.finish())),
                            n => hasher.update(&buffer[..n]),
                        }
                    }
                }
            },
        }
    }

    fn put_quiet(
        &self,
        conflict: &ConflictRow,
        how: How,
        ino: Ino,
        source: &Source,
        state: &mut OpenState,
    ) -> Result<(), ResolveError> {
        let content = self.new_content(source)?;
        failpoint!("resolve.content");
        let file = content.file();
        let offered = self.offer_base(ino);
        let before = self.before(ino, state);
        let put = self.commit(conflict, how, |core, now, changes| {
            if core.tree.path_of(ino).as_ref() != Some(&conflict.path) {
                return Err(ResolveError::Changed);
            }
            let (content, size) = content.enter(core, &mut changes.rows);
            let sealed =
                Sealed { content, size, mtime: now.wall, ctime: now.wall, held_until: None };
            core.seal(ino, &sealed, now, changes);
            changes.invalidations.push(Invalidation::Node(ino));
            Ok(())
        });
        self.withdraw_base(offered);
        let entered = has_entered(&put);
        self.discard_unless(entered, file);
        if entered {
            state.replaced(before);
        }
        put
    }

    /// Removes again what we had removed when it was edited there; the edit is kept in a copy.
    async fn remove_again(
        self: &Arc<Self>,
        conflict: &ConflictRow,
        theirs: Option<Digest>,
        manner: Manner,
    ) -> Result<Option<WsPath>, ResolveError> {
        self.core().check_writable()?;
        let Some(ino) = self.file_of(conflict)? else {
            if !manner.dry_run {
                self.commit(conflict, How::Ours, |_, _, _| Ok(()))?;
            }
            return Ok(None);
        };
        self.ensure_local(ino).await?;
        tokio::task::block_in_place(|| {
            self.contents.open.with(ino, |state| {
                self.check_current(conflict, ino, state, theirs, manner)?;
                if manner.dry_run {
                    return Ok(());
                }
                let at = self.clock.wall();
                let folder = CopyFolder::create(&self.conflicts_folder, &conflict.id, at)?;
                let copied = self.source_of(ino, state)?.copy_to(&folder.file("remote"))?;
                let mut conflict = conflict.clone();
                conflict.theirs = Some(copied);
                conflict.folder.clone_from(&folder.name);
                folder.complete(&conflict)?;
                let is_open = self.contents.open.is_open(ino);
                self.commit(&conflict, How::Ours, |core, now, changes| {
                    let node = core.tree.get(ino).ok_or(ResolveError::Changed)?;
                    let (parent, name) = (node.parent, Arc::clone(&node.name));
                    if core.tree.child(parent, &name) != Some(ino) {
                        return Err(ResolveError::Changed);
                    }
                    core.unlink(parent, &name, is_open, now, changes)?;
                    changes.invalidations.push(Invalidation::Entry { parent, name });
                    Ok(())
                })
            })
        })?;
        Ok(Some(conflict.path.clone()))
    }

    /// Drops a working file that no node was given after all.
    fn discard_unless(&self, entered: bool, file: Option<crate::node::FileId>) {
        if !entered {
            self.contents.discard(file.into_iter().collect());
        }
    }
}

/// Whether a content has its node. A step whose commit failed was taken all the same, and is committed
/// once that can be done.
fn has_entered<T>(step: &Result<T, ResolveError>) -> bool {
    matches!(step, Ok(_) | Err(ResolveError::Store(_)))
}

/// A content that is to take a name.
#[derive(Debug)]
struct Put {
    source: Source,
    /// Its digest.
    digest: Option<Digest>,
    /// The digest of what it may replace.
    theirs: Option<Digest>,
}
