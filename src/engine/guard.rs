//! Guards: removals in great number wait for a person, here and there.
//!
//! One rule for both directions: more than so many in so long a time, and more than so much of the
//! workspace, is a burst. What belongs to a burst is kept where it is, and a person sees it as one
//! thing that is approved or refused (`approvals`). Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::core::{Changes, Core, Now};
use super::outbox::Slot;
use crate::namespace::Tree;
use crate::node::Node;
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState};
use crate::revision::{Base, Revision};
use crate::store::Row;

/// How many removals are a burst. People who remove more than that, and most of what there is, may
/// have meant it; programs that do so rarely did.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// So many removals pass…
    pub files: usize,
    /// …in so long a time…
    pub window: Duration,
    /// …or any number up to so much of all files; per cent.
    pub percent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 500, window: Duration::from_secs(60), percent: 50 }
    }
}

/// The removals of the last minute in one direction.
#[derive(Debug, Default)]
pub struct Burst {
    at: VecDeque<Duration>,
    /// At least so many files are left, as far as they were counted: counting takes time.
    left: Option<usize>,
    /// They are too many, until fewer come.
    tripped: bool,
}

impl Burst {
    /// Counts a removal. Returns whether it is one too many. `left` counts the files that are left.
    fn is_beyond(&mut self, now: Duration, limits: Limits, left: impl FnOnce() -> usize) -> bool {
        while self.at.front().is_some_and(|at| *at + limits.window <= now) {
            self.at.pop_front();
        }
        self.at.push_back(now);
        let removed = self.at.len();
        if removed <= limits.files {
            self.left = None;
            self.tripped = false;
            return false;
        }
        if self.tripped {
            return true;
        }
        let most = |left: usize| removed * 100 > (left + removed) * limits.percent;
        let at_least = self.left.map_or(0, |left| left.saturating_sub(1));
        self.left = Some(at_least);
        if most(at_least) {
            let left = left();
            self.left = Some(left);
            self.tripped = most(left);
        }
        self.tripped
    }

    /// Notes a removal that was counted before, and is over already.
    fn remember(&mut self, at: Duration) {
        self.at.push_back(at);
    }

    /// A person decided: what comes now is counted anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What the guards keep in mind.
#[derive(Debug, Default)]
pub struct Guards {
    /// Removals made here.
    pub(super) here: Burst,
    /// Removals made at the remote.
    pub(super) there: Burst,
    /// Paths that the remote removed in a burst and that are kept here.
    pub(super) kept: BTreeSet<WsPath>,
    /// Those of them that may go.
    pub(super) may_go: BTreeSet<WsPath>,
    /// What the server lacked when it looked reset.
    pub(super) shown: Option<super::reset::Shown>,
    /// Accepted changes of which the change stream has to tell, up to an event.
    pub(super) echoes: super::history::Echoes,
    /// The whole tree is to be listed.
    pub(super) list_again: bool,
}

impl Core {
    /// A removal was recorded: in a burst it waits for a person, with what belongs to it.
    pub(super) fn guard_removal(&mut self, path: &WsPath, now: Now, changes: &mut Changes) {
        let Some(record) = self.outbox.lane(path).and_then(|lane| lane.records().last()) else {
            return;
        };
        let limits = self.settings.removals;
        if record.op == Op::RemoveDir {
            if self.guards.here.tripped {
                self.outbox.need_approval(path, &mut changes.rows);
            }
            return;
        }
        if !removes_a_file(record) {
            return;
        }
        let was = self.guards.here.tripped;
        let tree = &self.tree;
        let left = || known_files(tree);
        if !self.guards.here.is_beyond(now.mono, limits, left) {
            return;
        }
        self.outbox.need_approval(path, &mut changes.rows);
        if !was {
            self.hold_burst(now.mono.saturating_sub(limits.window), changes);
            let held = self.outbox.needing_approval();
            tracing::error!(held, "very many files are being removed: held for approval");
            changes.asked.push(format!("{held} removals wait for a person"));
        }
    }

    /// Holds the removals of a burst that were not sent yet.
    fn hold_burst(&mut self, since: Duration, changes: &mut Changes) {
        let of_burst = |slot: &&Slot| {
            let record = &slot.record;
            slot.changed_at >= since && (record.op == Op::RemoveDir || removes_a_file(record))
        };
        let paths: Vec<WsPath> =
            self.outbox.waiting().filter(of_burst).map(|slot| slot.record.path.clone()).collect();
        for path in paths {
            self.outbox.need_approval(&path, &mut changes.rows);
        }
    }

    /// The remote removed a file that is here. Returns whether it is kept until a person decides.
    pub(super) fn guard_removal_there(
        &mut self,
        path: &WsPath,
        now: Now,
        changes: &mut Changes,
    ) -> bool {
        if self.guards.may_go.remove(path) {
            self.forget_kept(path, changes);
            return false;
        }
        if self.guards.kept.contains(path) {
            return true;
        }
        let was = self.guards.there.tripped;
        let tree = &self.tree;
        // The one that is about to go is not left.
        let left = || known_files(tree).saturating_sub(1);
        if !self.guards.there.is_beyond(now.mono, self.settings.removals, left) {
            return false;
        }
        self.guards.kept.insert(path.clone());
        changes.rows.push(Row::PutRemoval(path.clone()));
        if !was {
            tracing::error!("the server removes very many files: the rest is kept for approval");
            changes.asked.push("removals at the server wait for a person".to_owned());
        }
        true
    }

    /// Something else became of a path that was kept.
    pub(super) fn forget_kept(&mut self, path: &WsPath, changes: &mut Changes) {
        if self.guards.kept.remove(path) {
            self.guards.may_go.remove(path);
            changes.rows.push(Row::DeleteRemoval(path.clone()));
        }
    }

    /// After a start: removals of the last minute that still wait count as before.
    pub(super) fn remember_removals(&mut self, now: Now) {
        let window = self.settings.removals.window;
        let age = |record: &Record| {
            let age = now.wall.duration_since(record.recorded_at);
            Duration::try_from(age).ok().filter(|age| *age < window)
        };
        let mut ages: Vec<Duration> = self
            .outbox
            .lanes()
            .flat_map(|(_, lane)| lane.records())
            .filter(|record| removes_a_file(record))
            .filter_map(age)
            .collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        for age in ages {
            self.guards.here.remember(now.mono.saturating_sub(age));
        }
    }
}

/// Whether the record takes a file away from the remote that it has, and nothing stores it again.
fn removes_a_file(record: &Record) -> bool {
    record.op == Op::Delete
        && record.moved_to.is_none()
        && record.known_base() != Some(&Base::Absent)
        && !matches!(record.state, RecordState::Parked { .. })
}

/// How many files here the remote has, too.
fn known_files(tree: &Tree) -> usize {
    let is_known = |node: &&Node| !node.is_dir() && !node.local_only && node.synced.is_some();
    tree.nodes().filter(is_known).filter(|node| !tree.is_unlinked(node.ino)).count()
}

/// Whether a revision is older than one that the server had given out before.
pub(super) fn went_back(known: Option<&Revision>, theirs: Option<&Revision>) -> bool {
    matches!((known, theirs), (Some(known), Some(theirs)) if theirs.is_older_than(known))
}

#[cfg(test)]
mod tests;
