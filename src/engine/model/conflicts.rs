//! Conflicts, as the engine settles them by itself: what `conflict` does with both sides once they are
//! copied to disk, and what must hold of a merge.

use super::checks::Cause;
use super::hearing::forget_unlinked;
use super::plants::Plant;
use super::texts::{Bytes, body, lines, number, whole};
use super::world::World;
use crate::engine::conflict::{Settlement, by_merging, by_policy};
use crate::engine::copies::NewContent;
use crate::engine::verdict::Push;
use crate::node::{BlobId, FileId, Ino};
use crate::record::{ConflictRow, Record, Resolution};
use crate::remote::RemoteFile;

/// What a conflict copy holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) ours: Bytes,
    pub(super) base: Option<Bytes>,
}

impl World {
    /// The bytes that a record was made against, where they are kept and its base.
    fn base_of(&self, at: usize, record: &Record) -> Option<Bytes> {
        let base = record.base_content?;
        let bytes = *self.mounts[at].disk.blobs.get(&base.blob)?;
        (base.digest == Some(super::remote::digest(bytes))).then_some(bytes)
    }

    /// Both sides are copied, then the one that the policy names takes the name.
    pub(super) fn keep_both(&mut self, at: usize, record: &Record, theirs: &RemoteFile) {
        let lane = self.mounts[at].core.outbox.lane(&record.path);
        let is_current =
            lane.is_some_and(|lane| lane.current.record.seq == record.seq && !lane.has_newer());
        let small = |blob: BlobId| self.mounts[at].disk.blobs.get(&blob).copied();
        let ours = record.ino.and_then(|ino| self.local_bytes(at, ino));
        let ours = ours.or_else(|| record.blob.and_then(small)).filter(|_| is_current);
        let (Some(ours), Some(ino)) = (ours, record.ino) else {
            return self.postpone(at, &record.path);
        };
        let their_bytes = theirs.body.as_deref().map_or(0, number);
        let base = self.base_of(at, record);
        let copy = if self.plant == Plant::WrongCopy { their_bytes } else { ours };
        self.tell(|| format!("{} keeps {copy} beside {their_bytes}, from {base:?}", record.path));
        self.kept.extend([copy, their_bytes]);
        let core = &self.mounts[at].core;
        let policy = core.settings.conflict_policies.of(&record.path);
        let is_here = core.tree.get(ino).is_some_and(|node| node.body().is_some());
        let settlement = by_policy(policy, true, is_here).unwrap_or_else(|| {
            let base = base.map(body);
            by_merging(&record.path, base.as_deref(), &body(ours), &body(their_bytes))
        });
        self.note(match settlement.how() {
            None => "a conflict waits for a person",
            Some(crate::record::How::Merged) => "a conflict was merged",
            Some(crate::record::How::Ours) => "a conflict was settled for ours",
            Some(_) => "a conflict was settled for theirs",
        });
        let conflict = self.conflict(at, record, (ours, base, their_bytes), &settlement);
        match settlement {
            Settlement::Take(how) => {
                if how == Some(crate::record::How::Merged) {
                    check_merge(base, ours, their_bytes, their_bytes);
                }
                self.step(at, &Cause::Kept(record.path.clone()), |core, now, changes| {
                    core.kept(record, theirs, conflict, now, changes);
                    forget_unlinked(core, changes);
                });
            }
            Settlement::Push(how, merged) => {
                let mut taken = merged.as_deref().map_or(ours, number);
                if how == crate::record::How::Merged {
                    if self.plant == Plant::LossyMerge {
                        taken = whole(taken % 1000);
                    }
                    check_merge(base, ours, their_bytes, taken);
                }
                self.push(at, record, theirs, conflict, (taken, merged.is_some()));
            }
        }
    }

    fn conflict(
        &mut self,
        at: usize,
        record: &Record,
        (ours, base, theirs): (Bytes, Option<Bytes>, Bytes),
        settlement: &Settlement,
    ) -> ConflictRow {
        let side = |bytes| Some((body(bytes).len() as u64, super::remote::digest(bytes)));
        let id = self.mounts[at].core.conflict_id(record);
        self.copies.insert((at, id.clone()), Copy { ours, base });
        let at = self.now.wall;
        ConflictRow {
            id,
            path: record.path.clone(),
            at,
            kind: "edit".into(),
            base_revision: None,
            theirs_revision: None,
            ours: side(ours),
            theirs: side(theirs),
            base: base.and_then(side),
            folder: "x".into(),
            ours_by: None,
            ours_at: None,
            theirs_at: None,
            sibling: None,
            resolution: settlement.how().map(|how| Resolution { how, automatic: true, at }),
        }
    }

    /// Ours or a merge takes the name, and is sent on the base of theirs, which was seen thereby.
    fn push(
        &mut self,
        at: usize,
        record: &Record,
        theirs: &RemoteFile,
        conflict: ConflictRow,
        (taken, is_new): (Bytes, bool),
    ) {
        let (path, ino) = (&record.path, record.ino);
        let is_shown = ino.is_some_and(|ino| self.mounts[at].core.tree.path_of(ino).is_some());
        self.steps += 1;
        let their_bytes = theirs.body.as_deref().map_or(0, number);
        self.mounts[at].note_shown(path, their_bytes, self.steps);
        if is_new {
            self.written.insert(taken, at);
        }
        let cause = match is_shown {
            true => Cause::Pushed(path.clone(), taken),
            false => Cause::Nothing,
        };
        self.step(at, &cause, |core, now, changes| {
            let content = is_new.then(|| NewContent::Small(body(taken)));
            let push = Push { theirs, base: Some(body(their_bytes)), content };
            core.pushed(record, push, conflict, now, changes);
        });
        self.steps += 1;
        self.mounts[at].note_shown(path, taken, self.steps);
    }

    /// Has a copy of a working file ready before it changes, as a base.
    pub(super) fn offer_base(&mut self, at: usize, ino: Ino) -> Option<FileId> {
        let mount = &self.mounts[at];
        let (file, digest) = mount.core.wants_base(ino)?;
        let bytes = *mount.disk.files.get(&file)?;
        if super::remote::digest(bytes) != digest {
            return None;
        }
        self.step(at, &Cause::Nothing, |core, _, changes| {
            let base = core.keep_base(&body(bytes), &mut changes.rows)?;
            core.offered_bases.insert(file, base);
            Some(file)
        })
    }

    /// Frees it again unless a record took it.
    pub(super) fn withdraw_base(&mut self, at: usize, offered: Option<FileId>) {
        let Some(file) = offered else { return };
        self.step(at, &Cause::Nothing, |core, _, changes| {
            if let Some(base) = core.offered_bases.remove(&file) {
                core.release_blob(base.blob, changes);
            }
        });
    }
}

/// A merge has each line that only one side has changed as that side has it.
pub(super) fn check_merge(base: Option<Bytes>, ours: Bytes, theirs: Bytes, merged: Bytes) {
    let base = base.expect("merged without a base");
    let story = format!("{base}: {ours} and {theirs} became {merged}");
    let [base, ours, theirs, merged] = [base, ours, theirs, merged].map(lines);
    for line in ours.union(&theirs) {
        let is_new = !base.contains(line);
        assert!(!is_new || merged.contains(line), "{story}, without {line:?}");
    }
    for line in &merged {
        let is_kept = ours.contains(line) && theirs.contains(line);
        assert!(is_kept || !base.contains(line), "{story}, with {line:?} again");
        assert!(ours.contains(line) || theirs.contains(line), "{story}, with {line:?}");
    }
}
