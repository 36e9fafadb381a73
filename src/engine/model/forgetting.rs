//! A server that forgot: it goes on from an older state of itself, or is another one. What the feed and
//! the runner do when they find out, and what a person then decides.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::Cause;
use super::mount::Listing;
use super::remote::{Bytes, Remote};
use super::world::World;
use crate::engine::link::Answer;
use crate::node::Ino;
use crate::path::WsPath;
use crate::remote::{EventChange, ServerId};
use crate::revision::Base;

/// A state that the server can go back to.
#[derive(Debug, Clone, Default)]
pub(super) struct Backup {
    files: BTreeMap<WsPath, (u64, Bytes)>,
    folders: BTreeSet<WsPath>,
    counter: u64,
    log: Vec<EventChange>,
}

impl Remote {
    pub(super) fn back_up(&mut self) {
        self.backup = Backup {
            files: self.files.clone(),
            folders: self.folders.clone(),
            counter: self.counter,
            log: self.log.clone(),
        };
    }

    /// Goes back to that state. What was stored since is gone, and its revisions are given out again.
    pub(super) fn restore(&mut self) {
        let backup = self.backup.clone();
        let paths: BTreeSet<WsPath> =
            self.files.keys().chain(backup.files.keys()).cloned().collect();
        for path in paths {
            let (now, then) = (self.files.get(&path), backup.files.get(&path));
            if now != then {
                let then = then.map(|(_, bytes)| *bytes);
                self.note_version(&path, then);
            }
        }
        let kept = backup.files.values().map(|(_, bytes)| *bytes).chain([0]).collect();
        let seen = std::mem::replace(&mut self.seen, kept);
        self.forgotten.extend(seen);
        self.ambiguous = self.ambiguous.max(self.counter);
        let is_kept = |n: Option<u64>| n.is_some_and(|n| n <= backup.counter);
        self.contents.retain(|revision, _| is_kept(revision.ordinal()));
        self.history.push(backup.log.len() as u64);
        (self.files, self.folders) = (backup.files, backup.folders);
        (self.counter, self.log) = (backup.counter, backup.log);
        self.expired = self.expired.min(self.newest());
        self.forget_identities();
    }

    /// How often it went back.
    pub(super) fn epoch(&self) -> usize {
        self.history.len()
    }

    /// Up to which event its history is the one that it had then.
    fn common(&self, epoch: usize) -> u64 {
        self.history[epoch..].iter().copied().min().unwrap_or(u64::MAX)
    }
}

impl World {
    pub(super) fn restore(&mut self) {
        if self.remote.newest() == 0 {
            return;
        }
        self.note("the server went back");
        self.remote.restore();
        self.makers.clear();
        let newest = self.remote.counter;
        for mount in &mut self.mounts {
            let revisions = mount
                .core
                .tree
                .nodes()
                .filter_map(|node| node.synced.as_ref()?.revision.as_ref()?.ordinal());
            let bases = mount.core.outbox.lanes().flat_map(|(_, lane)| lane.records());
            let bases = bases.filter_map(|record| match record.known_base()? {
                Base::Revision(revision) => revision.ordinal(),
                _ => None,
            });
            mount.knows_more |= revisions.chain(bases).any(|known| known > newest);
            // A listing under way fails and is begun again.
            if let Some(listing) = &mut mount.listing {
                *listing = Listing::new(listing.tail, listing.epoch, listing.offers);
            }
        }
    }

    /// Of a server that went back not everything is found out by the stream alone; the next listing does.
    pub(super) fn list_after_all(&mut self, at: usize) {
        let (epoch, newest) = (self.remote.epoch(), self.remote.newest());
        if epoch == 0 || self.is_stranger(at) || self.mounts[at].listing.is_some() {
            return;
        }
        if self.verify(at) {
            let mount = &mut self.mounts[at];
            mount.follow(newest);
            mount.listing = Some(Listing::new(newest, epoch, mount.core.offer_again));
        }
    }

    /// Another server stands where the server was, with an older state of it.
    pub(super) fn replace(&mut self) {
        if self.server.extended {
            self.restore();
            self.remote.id += 1;
            self.note("the server is another one");
        }
    }

    /// Whether the mount belongs to another server than there is.
    pub(super) fn is_stranger(&self, at: usize) -> bool {
        self.known_server(at).is_some_and(|known| known != ServerId(self.remote.id))
    }

    pub(super) fn known_server(&self, at: usize) -> Option<ServerId> {
        self.mounts[at].core.capabilities.and_then(|known| known.server)
    }

    /// Whether nothing can be asked of the server.
    pub(super) fn is_cut(&self, at: usize) -> bool {
        self.mounts[at].is_cut || self.is_stranger(at)
    }

    /// The feed compares histories when it connects. Returns whether it went on.
    pub(super) fn verify(&mut self, at: usize) -> bool {
        let (epoch, newest) = (self.remote.epoch(), self.remote.newest());
        let mount = &mut self.mounts[at];
        if mount.epoch == epoch {
            return true;
        }
        // What it knows beyond that it looks for in the stream, and does not find there.
        let is_more_known = std::mem::take(&mut mount.knows_more);
        let holds = mount.position <= self.remote.common(mount.epoch) && !is_more_known;
        mount.epoch = epoch;
        if holds {
            let position = mount.position;
            mount.follow(position);
            return true;
        }
        self.note("a mount found out that the server went back");
        self.tell(|| format!("{at} finds another history"));
        self.step(at, &Cause::Nothing, |core, _, changes| {
            core.suspect_reset(Some("the server's history went back".to_owned()), changes);
            core.link.doubt();
            core.distrust_revisions(changes);
        });
        let mount = &mut self.mounts[at];
        mount.follow(newest);
        mount.listing = Some(Listing::new(newest, epoch, false));
        false
    }

    /// A person goes on with the server that is there now.
    pub(super) fn accept(&mut self, at: usize) {
        let there = Answer(Some(ServerId(self.remote.id)));
        let accepted = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.resume(Some(there), now, changes).is_ok()
        });
        if accepted {
            self.note("a person went on with another server");
            let (epoch, newest) = (self.remote.epoch(), self.remote.newest());
            let mount = &mut self.mounts[at];
            mount.follow(newest);
            mount.epoch = epoch;
            mount.listing = Some(Listing::new(newest, epoch, true));
        }
    }

    /// Somebody reads every file.
    pub(super) fn read_all(&mut self) {
        for at in 0..self.mounts.len() {
            let all: Vec<Ino> = self.mounts[at].core.tree.nodes().map(|node| node.ino).collect();
            for ino in all {
                self.fetch(at, ino);
            }
        }
    }

    /// What is here was offered to a server that had forgotten it: from now on it is accounted for.
    pub(super) fn note_offered(&mut self, at: usize) {
        self.note("what is here was offered again");
        let mount = &self.mounts[at];
        let here: Vec<Ino> = mount.core.tree.nodes().map(|node| node.ino).collect();
        for ino in here {
            let mount = &self.mounts[at];
            let is_offered = mount.core.outbox.has_put(ino);
            if let Some(bytes) = mount.bytes_of(ino, &self.remote).filter(|_| is_offered)
                && self.remote.forgotten.remove(&bytes)
            {
                self.written.insert(bytes, at);
            }
        }
    }
}
