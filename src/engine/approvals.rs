//! Approvals: what a person has to look at before it is done, bound to what was shown.
//!
//! There is at most one of each kind at a time, and its id holds the digest of the set of paths: a
//! set that changes has another id, and the old one approves nothing. Pure; [`super::runner`] performs
//! what is left to do.

use std::fmt;

use super::core::{Changes, Core, Now};
use crate::digest::Digest;
use crate::node::Content;
use crate::path::WsPath;
use crate::store::Row;

/// Digits of the digest in an id.
const ID_DIGITS: usize = 12;

/// What is to be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Removals made here are to be sent.
    Removals,
    /// Removals made at the remote are to be taken over.
    RemoteRemovals,
    /// The server looks reset, and is to be gone on with as it is.
    Reset,
}

impl Kind {
    /// The word that ids begin with.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Removals => "removals",
            Self::RemoteRemovals => "remote-removals",
            Self::Reset => "reset",
        }
    }
}

/// Something that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// What it is.
    pub kind: Kind,
    /// Why it waits, in words.
    pub why: String,
    /// How many paths it is about.
    pub count: u64,
    /// The paths, or the first of them.
    pub paths: Vec<WsPath>,
    /// The digest of the whole set.
    pub digest: Digest,
}

impl Approval {
    /// Its id: the kind and the beginning of the digest.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = self.digest.to_string();
        format!("{}-{}", self.kind.word(), digest.get(..ID_DIGITS).unwrap_or(&digest))
    }
}

/// Why an approval was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing of that name waits.
    Unknown,
    /// The set changed since; this is what waits now.
    Stale(Box<Approval>),
    /// There is nothing to refuse: as long as nobody approves, nothing happens.
    NotRefusable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "nothing of that name waits for approval"),
            Self::Stale(now) => {
                write!(f, "what was to be approved changed: it is {} now", now.id())
            }
            Self::NotRefusable => write!(
                f,
                "a suspected reset cannot be refused: nothing happens until it is approved"
            ),
        }
    }
}

/// What was decided and what is left to be performed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// How many paths it was about.
    pub count: u64,
    /// Removals of the remote that are to be applied now.
    pub remove: Vec<WsPath>,
    /// What is here is to be offered to the server again, after a listing.
    pub offer_again: bool,
}

impl Core {
    /// What waits for a person.
    #[must_use]
    pub fn approvals(&self) -> Vec<Approval> {
        [Kind::Reset, Kind::Removals, Kind::RemoteRemovals]
            .into_iter()
            .filter_map(|kind| self.approval_of(kind))
            .collect()
    }

    /// How many things wait for a person.
    #[must_use]
    pub fn approvals_open(&self) -> usize {
        usize::from(self.outbox.needing_approval() > 0)
            + usize::from(!self.guards.kept.is_empty())
            + usize::from(self.reset_suspected.is_some())
    }

    fn approval_of(&self, kind: Kind) -> Option<Approval> {
        match kind {
            Kind::Removals => {
                let limits = self.settings.removals;
                let why = burst("removed here", limits);
                let held = self.outbox.held_for_approval();
                let paths: Vec<WsPath> = held.map(|record| record.path.clone()).collect();
                of_paths(kind, why, paths)
            }
            Kind::RemoteRemovals => {
                let why = burst("removed at the server", self.settings.removals);
                of_paths(kind, why, self.guards.kept.iter().cloned().collect())
            }
            Kind::Reset => {
                let why = self.reset_suspected.clone()?;
                let shown = self.guards.shown.clone().unwrap_or_default();
                let digest = Digest::of(format!("{why}\0{}", shown.digest).as_bytes());
                Some(Approval { kind, why, count: shown.count, paths: shown.first, digest })
            }
        }
    }

    /// The approval with this id.
    ///
    /// # Errors
    /// When nothing of that name waits, or not this set any more.
    pub fn approval(&self, id: &str) -> Result<Approval, Refusal> {
        let kinds = [Kind::Removals, Kind::RemoteRemovals, Kind::Reset];
        let (word, _) = id.rsplit_once('-').ok_or(Refusal::Unknown)?;
        let kind = kinds.into_iter().find(|kind| kind.word() == word).ok_or(Refusal::Unknown)?;
        let now = self.approval_of(kind).ok_or(Refusal::Unknown)?;
        if now.id() == id { Ok(now) } else { Err(Refusal::Stale(Box::new(now))) }
    }

    /// A person approves, or refuses.
    ///
    /// # Errors
    /// When nothing of that name waits, or not this set any more; nothing was changed then.
    pub fn decide_approval(
        &mut self,
        id: &str,
        approve: bool,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Decided, Refusal> {
        let approval = self.approval(id)?;
        let mut decided = Decided { count: approval.count, ..Decided::default() };
        match (approval.kind, approve) {
            (Kind::Removals, true) => {
                for path in &approval.paths {
                    self.outbox.approve(path, &mut changes.rows);
                }
                self.guards.here.clear();
            }
            (Kind::Removals, false) => {
                self.take_back_removals(&approval.paths, changes);
                self.guards.here.clear();
            }
            (Kind::RemoteRemovals, true) => {
                self.guards.may_go = self.guards.kept.clone();
                self.guards.there.clear();
                decided.remove = approval.paths;
            }
            (Kind::RemoteRemovals, false) => {
                decided.remove = self.keep_removed(now, changes);
                self.guards.there.clear();
            }
            (Kind::Reset, true) => {
                self.suspect_reset(None, changes);
                decided.offer_again = true;
                self.set_offer_again(true, changes);
            }
            (Kind::Reset, false) => return Err(Refusal::NotRefusable),
        }
        Ok(decided)
    }

    /// Ends removals without sending them. The files are at the remote still: the tree is listed and
    /// they come back, also when the program ends in between.
    fn take_back_removals(&mut self, paths: &[WsPath], changes: &mut Changes) {
        for path in paths {
            // It may follow what is in a request.
            for blob in self.outbox.take_back(path, &mut changes.rows) {
                self.release_blob(blob, changes);
            }
            let held = self.outbox.lane(path).map(|lane| &lane.current.record);
            if held.is_some_and(|record| record.needs_approval) {
                self.drop_record(path, changes);
            }
        }
        self.list_anew(changes);
    }

    /// Has the whole tree listed, by the next run if this one ends before.
    pub fn list_anew(&mut self, changes: &mut Changes) {
        self.listed = false;
        changes.rows.push(Row::SetMeta("listed", None));
        self.guards.list_again = true;
    }

    /// What the remote removed and is to stay here is recorded as new; where no bytes are here there
    /// is nothing that could stay.
    fn keep_removed(&mut self, now: Now, changes: &mut Changes) -> Vec<WsPath> {
        let kept: Vec<WsPath> = self.guards.kept.iter().cloned().collect();
        let mut gone = Vec::new();
        for path in kept {
            let body = self.tree.resolve(&path).and_then(|ino| self.tree.get(ino)?.body().copied());
            if body.is_some_and(|body| body.content == Content::Remote) {
                self.guards.may_go.insert(path.clone());
                gone.push(path);
                continue;
            }
            self.forget_kept(&path, changes);
            if !self.is_pending(&path) {
                self.offer_again(&path, now, changes);
            }
        }
        gone
    }
}

fn burst(what: &str, limits: super::guard::Limits) -> String {
    let seconds = limits.window.as_secs();
    format!(
        "more than {} files within {seconds} s, and more than {} % of all, were {what}",
        limits.files, limits.percent
    )
}

fn of_paths(kind: Kind, why: String, paths: Vec<WsPath>) -> Option<Approval> {
    if paths.is_empty() {
        return None;
    }
    Some(Approval { kind, why, count: paths.len() as u64, digest: digest_of(&paths), paths })
}

/// The digest of a set of paths, in their order.
pub(super) fn digest_of(paths: &[WsPath]) -> Digest {
    let mut hasher = crate::digest::Hasher::default();
    for path in paths {
        hasher.update(path.as_str().as_bytes());
        hasher.update(&[0]);
    }
    hasher.finish()
}
