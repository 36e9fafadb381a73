//! Reading from the remote: content on demand, and the state of single paths.
//!
//! Runs on tokio. A content is fetched by one task at a time, whoever else wants it waits for
//! that; it is shown only after its digest was checked by the remote seam.

use std::sync::Arc;
use std::time::Duration;

use super::core::SMALL_MAX;
use super::inbound::Inbound;
use super::plan::Task;
use super::reads::Wanted;
use super::shared::{Notice, NoticeKind, Shared};
use crate::content::open::Body;
use crate::node::{BlobId, Content, FileId, Ino};
use crate::path::WsPath;
use crate::record::Seq;
use crate::remote::{EventChange, RemoteError, RemoteFile, Size};
use crate::revision::Revision;
use crate::store::Row;

/// Contents up to this size are fetched into memory; larger ones are streamed to disk.
const MEMORY_FETCH_MAX: u64 = 1 << 20;

/// What a fetch leaves free on the local disk, for those who write; of a small disk the eighth part.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// How long a path is left alone whose read led to nothing: it is open, or the read failed.
const RECHECK_AGAIN: Duration = Duration::from_secs(1);

/// How often a content is read that changes while it is read.
const READS_MAX: usize = 16;

/// Why a content cannot be had now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The remote could not be asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The remote has it no more.
    #[error("the content is gone from the server")]
    Gone,
    /// The local disk refused.
    #[error("local disk: {0}")]
    Disk(String),
    /// There is no room for it on the local disk.
    #[error("the local disk is full")]
    Full,
}

impl Shared {
    /// Makes sure that a node's content is on this machine. *Blocking:* network.
    ///
    /// # Errors
    /// When it is not here and cannot be fetched.
    pub async fn ensure_local(self: &Arc<Self>, ino: Ino) -> Result<(), FetchError> {
        if self.wanted(ino).is_none() {
            return if self.is_lost(ino) { Err(FetchError::Gone) } else { Ok(()) };
        }
        let gate = Arc::clone(self.fetches.entry(ino).or_default().value());
        let result = {
            let _alone = gate.lock().await;
            self.fetch_current(ino).await
        };
        self.fetches.remove_if(&ino, |_, gate| Arc::strong_count(gate) <= 2);
        result
    }

    /// Fetches a content whose old name is to be stored anew.
    pub(super) async fn fetch_for_others(self: &Arc<Self>, ino: Ino) {
        match self.ensure_local(ino).await {
            Ok(()) => {}
            Err(FetchError::Gone) => {
                self.step(|core, _, changes| core.content_lost(ino, changes));
            }
            Err(error) => tracing::debug!(ino = ino.0, %error, "fetch before overwriting"),
        }
    }

    fn wanted(&self, ino: Ino) -> Option<Wanted> {
        self.core().wanted(ino)
    }

    /// Whether a node lost its last name before its bytes were fetched.
    fn is_lost(&self, ino: Ino) -> bool {
        let core = self.core();
        let body = core.tree.get(ino).and_then(|node| node.body());
        core.tree.is_unlinked(ino) && body.is_some_and(|body| body.content == Content::Remote)
    }

    /// Fetches until what was read is what is wanted: the file may change meanwhile.
    async fn fetch_current(self: &Arc<Self>, ino: Ino) -> Result<(), FetchError> {
        self.look_where_it_was_moved(ino).await?;
        for _ in 0..READS_MAX {
            let Some(wanted) = self.wanted(ino) else { return Ok(()) };
            if !self.store.has_room() {
                return Err(FetchError::Full);
            }
            self.fetch_content(ino, &wanted).await?;
        }
        if self.wanted(ino).is_none() {
            return Ok(());
        }
        let message = "the file changes faster than it can be read".to_owned();
        Err(FetchError::Remote(RemoteError::Garbled { message }))
    }

    /// Finds a content that a request of ours may have moved, by its digest.
    async fn look_where_it_was_moved(self: &Arc<Self>, ino: Ino) -> Result<(), FetchError> {
        let Some((digest, names)) = self.core().whereabouts(ino) else { return Ok(()) };
        for path in names {
            let there = self.heard(self.remote.fetch(&path, MEMORY_FETCH_MAX).await)?;
            if there.is_some_and(|file| file.digest == Some(digest)) {
                self.step(|core, _, changes| core.moved_there(ino, &path, changes));
                break;
            }
        }
        Ok(())
    }

    async fn fetch_content(self: &Arc<Self>, ino: Ino, wanted: &Wanted) -> Result<(), FetchError> {
        let path = &wanted.path;
        if wanted.size <= MEMORY_FETCH_MAX {
            let file = self.remote.fetch(path, MEMORY_FETCH_MAX).await;
            match self.heard(file)? {
                None => return Err(self.vanished(path)),
                Some(file) if file.body.is_some() => {
                    self.check_version(ino, path, &file)?;
                    return self.take_fetched(ino, wanted, &file);
                }
                // It grew past what is taken into memory.
                Some(_) => {}
            }
        }
        let Some((file, id)) = self.fetch_to_disk(path).await? else {
            return Err(self.vanished(path));
        };
        if let Err(error) = self.check_version(ino, path, &file) {
            self.contents.discard(vec![id]);
            return Err(error);
        }
        self.take_file(ino, wanted, &file, id);
        failpoint!("fetch.taken");
        Ok(())
    }

    /// A version has one content: bytes that are not those that the server listed for the same
    /// revision are not shown.
    fn check_version(&self, ino: Ino, path: &WsPath, file: &RemoteFile) -> Result<(), FetchError> {
        let core = self.core();
        let node = core.tree.get(ino).filter(|_| core.tree.path_of(ino).as_ref() == Some(path));
        let Some(known) = node.and_then(|node| node.synced.as_deref()) else { return Ok(()) };
        let same_version = known.revision.is_some() && known.revision == file.revision;
        let differs = matches!((known.digest, file.digest), (Some(a), Some(b)) if a != b);
        if same_version && differs {
            let message = "content does not match the digest that was listed".to_owned();
            return Err(RemoteError::Garbled { message }.into());
        }
        Ok(())
    }

    /// The largest content that there is room for on the local disk.
    pub(super) fn room(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(self.contents.folder());
        let Ok(disk) = disk else { return u64::MAX };
        let bytes = |blocks| blocks * disk.fragment_size();
        let reserve = DISK_RESERVE_BYTES.min(bytes(disk.blocks()) / 8);
        bytes(disk.blocks_available()).saturating_sub(reserve)
    }

    /// Fetches a file into a working file of its own.
    async fn fetch_to_disk(
        &self,
        path: &WsPath,
    ) -> Result<Option<(RemoteFile, FileId)>, FetchError> {
        let id = FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
        let target = self.contents.fetch_path(id);
        let fetched = self.heard(self.remote.fetch_to(path, &target, self.room()).await);
        if !matches!(fetched, Ok(Some(_))) {
            // What arrived before it failed is of no use.
            drop(tokio::fs::remove_file(&target).await);
        }
        let Some(mut file) = fetched? else { return Ok(None) };
        let disk = |error: std::io::Error| FetchError::Disk(error.to_string());
        file.size = Size::Exact(tokio::fs::metadata(&target).await.map_err(disk)?.len());
        failpoint!("fetch.streamed");
        tokio::fs::rename(&target, self.contents.file_path(id)).await.map_err(disk)?;
        failpoint!("fetch.renamed");
        if let Err(error) = self.sync_named(id).await {
            self.contents.discard(vec![id]);
            return Err(disk(error));
        }
        Ok(Some((file, id)))
    }

    /// Makes a working file that was just put in place durable.
    async fn sync_named(&self, id: FileId) -> std::io::Result<()> {
        let named = Arc::new(self.contents.open_file(id)?);
        let unsynced = Arc::clone(&self.contents.unsynced);
        let synced = tokio::task::spawn_blocking(move || {
            unsynced.created(named.file())?;
            unsynced.note(named.file())?;
            unsynced.sync_new(named.file())
        });
        synced.await.map_err(std::io::Error::other)?
    }

    /// Makes a working file that was fetched the node's content, if it still lacks one.
    fn take_file(&self, ino: Ino, wanted: &Wanted, file: &RemoteFile, id: FileId) {
        let taken = self.contents.open.with(ino, |state| {
            let taken = self.step(|core, _, changes| {
                let wants = core.still_wants(ino, wanted, file);
                if wants {
                    core.take_read(ino, file, (Content::File(id), file.size.most()), changes);
                }
                wants
            });
            if taken && matches!(state.body, Body::Shared(_)) {
                state.body = Body::Unloaded;
            }
            taken
        });
        if taken {
            self.contents.note_unscanned(ino);
        } else {
            self.contents.discard(vec![id]);
        }
    }

    fn take_fetched(&self, ino: Ino, wanted: &Wanted, file: &RemoteFile) -> Result<(), FetchError> {
        let Some(bytes) = &file.body else { return Err(FetchError::Gone) };
        let len = bytes.len() as u64;
        failpoint!("fetch.received");
        self.contents.open.with(ino, |_| {
            let large = (len > SMALL_MAX)
                .then(|| FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows))));
            if let Some(id) = large {
                let written = self.contents.create_file(id).and_then(|target| {
                    target.write(0, bytes)?;
                    self.contents.unsynced.note(target.file())?;
                    self.contents.unsynced.sync_new(target.file())
                });
                if let Err(error) = written {
                    self.contents.discard(vec![id]);
                    return Err(FetchError::Disk(error.to_string()));
                }
                failpoint!("fetch.written");
            }
            self.step(|core, _, changes| {
                if !core.still_wants(ino, wanted, file) {
                    changes.trash.extend(large);
                    return;
                }
                let content = match large {
                    Some(id) => Content::File(id),
                    None if bytes.is_empty() => Content::Empty,
                    None => {
                        let blob = BlobId(core.take_id(&mut changes.rows));
                        changes.rows.push(Row::PutBlob(blob, bytes.clone()));
                        Content::Blob(blob)
                    }
                };
                core.take_read(ino, file, (content, len), changes);
            });
            if large.is_some() {
                self.contents.note_unscanned(ino);
            }
            Ok(())
        })
    }

    /// Tells the link what a read of the remote says about it.
    fn heard<T>(&self, reply: Result<T, RemoteError>) -> Result<T, RemoteError> {
        match reply {
            Ok(value) => {
                if self.core().link.is_down() {
                    self.step(|core, now, _| core.link.heard_from(now.mono));
                    self.nudge.notify_one();
                }
                Ok(value)
            }
            Err(error) => {
                self.step(|core, now, _| {
                    let jitter = core.jitter();
                    // A refused credential or a lost connection concerns the link; a read that
                    // fails while it is down already says nothing new.
                    if !core.link.is_down() {
                        core.link.failed(&error, now.mono, now.wall, jitter);
                    }
                });
                Err(error)
            }
        }
    }

    fn vanished(&self, path: &WsPath) -> FetchError {
        self.step(|core, _, changes| core.note_recheck(path, changes));
        self.nudge.notify_one();
        FetchError::Gone
    }

    /// Reads a path's remote state and applies it.
    pub(super) async fn recheck(self: &Arc<Self>, path: WsPath) -> Vec<Task> {
        let ino = self.core().file_at(&path);
        let open = ino.and_then(|ino| self.contents.open.get(ino));
        if open.is_some_and(|file| !file.lock().is_quiet()) {
            // What is being written is not replaced; asking would be for nothing.
            self.step(|core, now, _| {
                core.rechecks_in_flight.remove(&path);
                core.rechecks_postponed.insert(path.clone(), now.mono + RECHECK_AGAIN);
            });
            return Vec::new();
        }
        let before =
            ino.and_then(|ino| self.core().tree.get(ino)?.synced.as_ref()?.revision.clone());
        let (reply, on_disk) = self.read_with_size(&path).await;
        failpoint!("recheck.read");
        let ino = self.core().file_at(&path);
        let apply = |quiet: bool| {
            self.step(|core, now, changes| match &reply {
                Ok(theirs) => {
                    core.check_read(&path, before.as_ref(), theirs.as_ref(), changes);
                    core.rechecked(&path, theirs.as_ref(), quiet, now, changes)
                }
                Err(_) => {
                    core.rechecks_in_flight.remove(&path);
                    Inbound::Busy
                }
            })
        };
        let applied = self.apply_quietly(ino, apply);
        failpoint!("recheck.applied");
        if applied == Inbound::Busy {
            self.step(|core, now, _| {
                core.rechecks_postponed.insert(path.clone(), now.mono + RECHECK_AGAIN);
            });
        }
        if let (Some(id), Ok(Some(file))) = (on_disk, &reply) {
            let ino = self.core().file_at(&path).filter(|_| applied == Inbound::Applied);
            match ino.and_then(|ino| Some((ino, self.wanted(ino)?))) {
                Some((ino, wanted)) => self.take_file(ino, &wanted, file, id),
                None => self.contents.discard(vec![id]),
            }
        }
        if applied == Inbound::Applied {
            self.rules_may_have_arrived(&path);
        }
        Vec::new()
    }

    /// One path's remote state, with its bytes or at least their number. Where the server tells
    /// the number only by the bytes, they are left in a working file.
    async fn read_with_size(
        &self,
        path: &WsPath,
    ) -> (Result<Option<RemoteFile>, FetchError>, Option<FileId>) {
        let reply = self.heard(self.remote.fetch(path, MEMORY_FETCH_MAX).await);
        match reply {
            Ok(Some(file)) if file.body.is_none() && matches!(file.size, Size::AtMost(_)) => {
                match self.fetch_to_disk(path).await {
                    Ok(Some((file, id))) => (Ok(Some(file)), Some(id)),
                    Ok(None) => (Ok(None), None),
                    Err(error) => (Err(error), None),
                }
            }
            reply => (reply.map_err(FetchError::from), None),
        }
    }

    /// The rules file is an ordinary file of the root; whoever changes it changes the rules.
    pub(super) fn rules_may_have_arrived(&self, path: &WsPath) {
        if path.as_str().strip_prefix('/') == Some(crate::ignore_rules::RULES_NAME) {
            self.reload_rules();
        }
    }

    /// Applies an event under the lock of the file it concerns.
    pub fn apply_event(&self, change: &EventChange) -> Inbound {
        let path = match change {
            EventChange::Stored(file) => &file.path,
            EventChange::Deleted { path, .. }
            | EventChange::DirCreated { path }
            | EventChange::DirDeleted { path } => path,
        };
        let ino = self.core().file_at(path);
        let applied = self.apply_quietly(ino, |quiet| {
            self.step(|core, now, changes| core.apply_event(change, quiet, now, changes))
        });
        if applied == Inbound::Applied {
            let (action, revision) = match change {
                EventChange::Stored(file) => ("write", file.revision.as_ref()),
                EventChange::Deleted { revision, .. } => ("delete", revision.as_ref()),
                EventChange::DirCreated { .. } => ("mkdir", None),
                EventChange::DirDeleted { .. } => ("rmdir", None),
            };
            self.tell_applied(path, action, revision);
        }
        applied
    }

    /// Takes out a file that a listing lacked and that the remote has no more.
    pub(super) fn missing(&self, path: &WsPath) -> Inbound {
        let ino = self.core().file_at(path);
        let applied = self.apply_quietly(ino, |quiet| {
            self.step(|core, now, changes| core.missing(path, quiet, now, changes))
        });
        if applied == Inbound::Applied {
            self.tell_applied(path, "delete", None);
        }
        applied
    }

    fn tell_applied(&self, path: &WsPath, action: &str, revision: Option<&Revision>) {
        self.rules_may_have_arrived(path);
        self.notice(Notice {
            kind: NoticeKind::Remote,
            action: action.to_owned(),
            path: Some(path.as_str().to_owned()),
            revision: revision.map(ToString::to_string),
            detail: None,
            at: self.clock.wall(),
        });
    }

    /// Runs `apply` with the file locked, if there is one, and told whether it may be replaced.
    /// What handles had loaded is forgotten when it was.
    fn apply_quietly(&self, ino: Option<Ino>, apply: impl FnOnce(bool) -> Inbound) -> Inbound {
        let Some(ino) = ino else { return apply(true) };
        self.contents.open.with(ino, |state| {
            let quiet = state.is_quiet();
            let is_open = self.contents.open.is_open(ino);
            if quiet && is_open && matches!(state.body, Body::Unloaded) {
                self.load_for_readers(ino, state);
            }
            let before = self.before(ino, state);
            let applied = apply(quiet);
            let gone = self.core().tree.is_unlinked(ino);
            if applied == Inbound::Applied && quiet && !gone {
                state.replaced(before);
            }
            if gone && !is_open {
                self.step(|core, _, changes| core.forget_unlinked(ino, changes));
            }
            applied
        })
    }

    /// Who has a file open that goes away keeps reading what it was, if it is here.
    fn load_for_readers(&self, ino: Ino, state: &mut crate::content::open::OpenState) {
        let content = self.core().tree.get(ino).and_then(|node| node.body()).map(|b| b.content);
        let body = match content {
            Some(Content::Blob(blob)) => self.contents.blob(blob).ok().map(Body::Shared),
            Some(Content::File(file)) => {
                let file = self.contents.open_file(file).ok();
                file.map(|file| Body::Disk(Arc::new(file)))
            }
            Some(Content::Empty) => Some(Body::Shared(bytes::Bytes::new())),
            Some(Content::Remote | Content::Damaged) | None => None,
        };
        state.body = body.unwrap_or(Body::Unloaded);
    }

    /// Reads the state behind a refusal and decides.
    pub(super) async fn settle(self: &Arc<Self>, path: WsPath, seq: Seq) -> Vec<Task> {
        let theirs = match self.read_with_digest(&path).await {
            Ok(theirs) => theirs,
            Err(error) => {
                self.step(|core, now, changes| {
                    let jitter = core.jitter();
                    core.link.failed(&error, now.mono, now.wall, jitter);
                    core.postpone(&path, now.mono, changes);
                });
                return Vec::new();
            }
        };
        failpoint!("settle.read");
        let keep =
            self.step(|core, now, changes| core.settled(&path, seq, theirs.as_ref(), now, changes));
        failpoint!("settle.decided");
        if let (Some(record), Some(theirs)) = (keep, theirs) {
            self.reconcile(record, theirs).await;
        }
        Vec::new()
    }

    /// One path's remote state, with a digest to compare.
    async fn read_with_digest(&self, path: &WsPath) -> Result<Option<RemoteFile>, RemoteError> {
        let Some(file) = self.remote.fetch(path, MEMORY_FETCH_MAX).await? else { return Ok(None) };
        if file.digest.is_some() {
            return Ok(Some(file));
        }
        let id = FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
        let target = self.contents.fetch_path(id);
        let fetched = self.remote.fetch_to(path, &target, self.room()).await;
        drop(tokio::fs::remove_file(&target).await);
        fetched
    }
}
