//! Conflicts as they arise: both sides are safe on disk before either is replaced.
//!
//! A conflict copy is complete and synced before anything takes the name; then one step puts the
//! outcome into tree, outbox and the list of conflicts. A crash before that step leaves the record
//! in the outbox and a folder that nothing lists (`left_copies`), and the next attempt writes another
//! copy; a crash after it leaves the outcome. What the outcome is, is a matter of the policy for the path.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::copies::{CopyFolder, Source, write_synced};
use super::core::{Core, SMALL_MAX};
use super::merge::{Merge, text, three_way};
use super::shared::{Notice, NoticeKind, Shared};
use super::verdict::{Push, base_text, theirs_of};
use crate::conflict_policy::Policy;
use crate::content::open::{Body, OpenState};
use crate::content::working::scan;
use crate::digest::Digest;
use crate::node::{Content, Ino, Kind};
use crate::path::WsPath;
use crate::record::{ConflictRow, How, Record, Resolution};
use crate::remote::RemoteFile;

/// How long a conflict waits for the file to be closed.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// What takes the name.
#[derive(Debug)]
pub(super) enum Settlement {
    /// Theirs; ours waits for a person unless a rule has decided.
    Take(Option<How>),
    /// Ours, or a merge of both: sent on the base of theirs.
    Push(How, Option<Bytes>),
}

impl Settlement {
    pub(super) fn how(&self) -> Option<How> {
        match self {
            Self::Take(how) => *how,
            Self::Push(how, _) => Some(*how),
        }
    }
}

/// What the policy alone decides; `None` when both are to be merged. `is_named` says whether anything
/// can be sent on the base of theirs.
pub(super) fn by_policy(policy: Policy, is_named: bool, are_files: bool) -> Option<Settlement> {
    match policy {
        Policy::Theirs => Some(Settlement::Take(Some(How::Theirs))),
        Policy::Ours if is_named => Some(Settlement::Push(How::Ours, None)),
        Policy::Merge if is_named && are_files => None,
        Policy::Keep | Policy::Ours | Policy::Merge => Some(Settlement::Take(None)),
    }
}

/// What merging leads to.
pub(super) fn by_merging(
    path: &WsPath,
    base: Option<&[u8]>,
    ours: &[u8],
    theirs: &[u8],
) -> Settlement {
    match three_way(base, ours, theirs) {
        Ok(Merge::Clean(merged)) if merged.as_bytes() == theirs => {
            Settlement::Take(Some(How::Merged))
        }
        Ok(Merge::Clean(merged)) => {
            let news = (merged.as_bytes() != ours).then(|| Bytes::from(merged));
            Settlement::Push(How::Merged, news)
        }
        Ok(Merge::Overlap(_)) => Settlement::Take(None),
        Err(refusal) => {
            tracing::debug!(%path, %refusal, "not merged");
            Settlement::Take(None)
        }
    }
}

impl Core {
    /// An id for a new conflict over a record; one record can have several in its life.
    pub(super) fn conflict_id(&self, record: &Record) -> String {
        let ids = (1..).map(|n| match n {
            1 => format!("c-{}", record.seq.0),
            n => format!("c-{}-{n}", record.seq.0),
        });
        let taken = |id: &String| self.conflicts.iter().any(|conflict| conflict.id == *id);
        ids.into_iter().find(|id| !taken(id)).unwrap_or_default()
    }
}

impl Shared {
    /// Copies both sides to disk, then lets the one that the policy names take the name.
    pub(super) async fn reconcile(self: &Arc<Self>, record: Record, theirs: RemoteFile) {
        let at = self.clock.wall();
        let id = self.core().conflict_id(&record);
        let folder =
            tokio::task::block_in_place(|| CopyFolder::create(&self.conflicts_folder, &id, at));
        let result = async {
            let folder = folder.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
            failpoint!("conflict.folder");
            let copy = folder.file("remote");
            let fetched = self.remote.fetch_to(&record.path, &copy, self.room()).await;
            failpoint!("conflict.remote");
            let theirs = match fetched {
                Ok(Some(file)) => file,
                // Gone or unreachable meanwhile: the next attempt decides anew.
                Ok(None) => return Ok(None),
                Err(error) => return Err(io::Error::other(error)),
            };
            tokio::task::block_in_place(|| self.write_and_swap(&record, theirs, &id, folder, at))
        };
        match result.await {
            Ok(Some(how)) => {
                let copy = folder.map(|folder| folder.name).unwrap_or_default();
                self.tell_conflict(&record, &theirs, how, copy, at);
                return;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(path = %record.path, %error, "conflict copy not written, trying again");
                self.step(|core, now, _| {
                    core.note_error("CONFLICT_COPY", &error.to_string(), now.wall);
                });
            }
        }
        if let Ok(folder) = folder {
            folder.discard();
        }
        self.step(|core, now, changes| {
            core.postpone(&record.path, now.mono + OPEN_WAIT, changes);
        });
    }

    fn tell_conflict(
        &self,
        record: &Record,
        theirs: &RemoteFile,
        how: Option<How>,
        copy: String,
        at: Timestamp,
    ) {
        let path = &record.path;
        match how {
            None => tracing::warn!(%path, %copy, "conflict: both sides kept"),
            Some(how) => tracing::info!(%path, %copy, how = how.word(), "conflict settled by rule"),
        }
        let detail = match how {
            None => copy,
            Some(how) => format!("{}: {copy}", how.word()),
        };
        self.nudge.notify_one();
        self.rules_may_have_arrived(path);
        self.notice(Notice {
            kind: NoticeKind::Conflict,
            action: "edit".to_owned(),
            path: Some(path.as_str().to_owned()),
            revision: theirs.revision.as_ref().map(ToString::to_string),
            detail: Some(detail),
            at,
        });
    }

    /// Writes the copy and swaps, with the file locked. `None` when the file is open for writing or
    /// changed on: later.
    fn write_and_swap(
        &self,
        record: &Record,
        mut theirs: RemoteFile,
        id: &str,
        folder: &CopyFolder,
        at: Timestamp,
    ) -> io::Result<Option<Option<How>>> {
        let Some(ino) = record.ino else { return Ok(None) };
        self.contents.open.with(ino, |state| {
            if !state.is_quiet() || !self.still_current(record) {
                return Ok(None);
            }
            let ours = self.ours_of(record, ino, state)?;
            let measured = ours.copy_to(&folder.file("local"))?;
            failpoint!("conflict.local");
            let base = self.base_of(record);
            if let Some(bytes) = &base {
                write_synced(&folder.file("base"), bytes)?;
                failpoint!("conflict.base");
            }
            let remote = folder.file("remote");
            File::open(&remote)?.sync_all()?;
            if theirs.body.is_none() && fs::metadata(&remote)?.len() <= SMALL_MAX {
                theirs.body = Some(Bytes::from(fs::read(&remote)?));
            }
            let settlement = self.settlement(record, &ours, base.as_ref(), &theirs, folder)?;
            let before = self.before(ino, state);
            let how = settlement.how();
            let mut conflict = self.conflict_of(record, measured, &theirs, id, folder, at);
            conflict.theirs = Some(Source::File(remote.clone()).measure()?);
            conflict.base = base.as_ref().map(|base| (base.len() as u64, Digest::of(base)));
            conflict.resolution = how.map(|how| Resolution { how, automatic: true, at });
            folder.complete(&conflict)?;
            failpoint!("conflict.synced");
            match settlement {
                Settlement::Take(_) => {
                    let shown = self.core().settings.conflict_siblings && how.is_none();
                    let beside = if shown { Some(self.new_content(&ours)?) } else { None };
                    self.step(|core, now, changes| {
                        if let Some(content) = beside {
                            conflict.sibling = core.show_beside(&conflict, content, now, changes);
                        }
                        core.kept(record, &theirs, conflict, now, changes);
                    });
                }
                Settlement::Push(_, merged) => {
                    let merged = merged.map(Source::Bytes);
                    let content = merged.map(|bytes| self.new_content(&bytes)).transpose()?;
                    let base = Source::File(remote).read_text()?;
                    failpoint!("conflict.merged");
                    let base = text(&base).is_ok().then_some(base);
                    self.step(|core, now, changes| {
                        let push = Push { theirs: &theirs, base, content };
                        core.pushed(record, push, conflict, now, changes);
                    });
                }
            }
            failpoint!("conflict.swapped");
            state.replaced(before);
            Ok(Some(how))
        })
    }

    /// What takes the name, as the policy for the path has it.
    fn settlement(
        &self,
        record: &Record,
        ours: &Source,
        base: Option<&Bytes>,
        theirs: &RemoteFile,
        folder: &CopyFolder,
    ) -> io::Result<Settlement> {
        // Without a way to name their version nothing can be sent on it.
        let is_named = theirs.revision.is_some() || theirs.edited_at.is_some();
        let policy = self.core().settings.conflict_policies.of(&record.path);
        if let Some(settlement) = by_policy(policy, is_named, self.are_files(record, theirs)) {
            return Ok(settlement);
        }
        let ours = ours.read_text()?;
        let their_bytes = Source::File(folder.file("remote")).read_text()?;
        Ok(by_merging(&record.path, base.map(|base| &base[..]), &ours, &their_bytes))
    }

    /// Whether both sides are ordinary files.
    fn are_files(&self, record: &Record, theirs: &RemoteFile) -> bool {
        let core = self.core();
        let node = record.ino.and_then(|ino| core.tree.get(ino));
        node.is_some_and(|node| node.body().is_some()) && theirs.metadata.symlink.is_none()
    }

    fn conflict_of(
        &self,
        record: &Record,
        ours: (u64, Digest),
        theirs: &RemoteFile,
        id: &str,
        folder: &CopyFolder,
        at: Timestamp,
    ) -> ConflictRow {
        let core = self.core();
        let node = record.ino.and_then(|ino| core.tree.get(ino));
        ConflictRow {
            id: id.to_owned(),
            path: record.path.clone(),
            at,
            kind: "edit".to_owned(),
            base_revision: base_text(record),
            theirs_revision: theirs.revision.as_ref().map(ToString::to_string),
            ours: Some(ours),
            theirs: theirs_of(theirs),
            folder: folder.name.clone(),
            base: None,
            ours_by: core.settings.who.clone(),
            ours_at: node.map(|node| node.mtime),
            theirs_at: theirs.edited_at,
            sibling: None,
            resolution: None,
        }
    }

    fn still_current(&self, record: &Record) -> bool {
        let core = self.core();
        let lane = core.outbox.lane(&record.path);
        lane.is_some_and(|lane| lane.current.record.seq == record.seq && !lane.has_newer())
    }

    /// Where the bytes are that a record is to store. Its node may have lost the name meanwhile; the
    /// small content that the record keeps has not.
    fn ours_of(&self, record: &Record, ino: Ino, state: &OpenState) -> io::Result<Source> {
        let has_node = self.core().tree.get(ino).is_some_and(|node| !node.is_dir());
        match record.blob.filter(|_| !has_node) {
            Some(blob) => Ok(Source::Bytes(self.contents.blob(blob).map_err(io::Error::other)?)),
            None => self.source_of(ino, state),
        }
    }

    /// Where the bytes of a node are that is quiet. Runs with the open file locked.
    pub(super) fn source_of(&self, ino: Ino, state: &OpenState) -> io::Result<Source> {
        if let Body::Shared(bytes) = &state.body {
            return Ok(Source::Bytes(bytes.clone()));
        }
        let core = self.core();
        let node = core.tree.get(ino);
        Ok(match node.map(|node| &node.kind) {
            Some(Kind::Symlink { target }) => Source::Bytes(Bytes::from(target.to_string())),
            Some(Kind::File(body)) => match body.content {
                Content::Blob(blob) => {
                    Source::Bytes(self.contents.blob(blob).map_err(io::Error::other)?)
                }
                Content::File(file) => {
                    let path = self.contents.file_path(file);
                    // What is damaged is not copied; the record is parked when it is sent again.
                    scan(&path, &self.contents.blocks(file), false)?;
                    Source::File(path)
                }
                Content::Empty => Source::Bytes(Bytes::new()),
                Content::Remote | Content::Damaged => {
                    return Err(io::Error::other("our content is not here"));
                }
            },
            Some(Kind::Dir { .. } | Kind::Special { .. }) | None => {
                return Err(io::Error::other("there is no file of ours"));
            }
        })
    }
}
