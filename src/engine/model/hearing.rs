//! The way in: events, listings, and reads of single paths, as the runner, `listing` and `fetch` do
//! it. A read is answered in one step and taken up in another, so that others come between.

use std::time::Duration;

use bytes::Bytes as BodyBytes;

use super::checks::Cause;
use super::mount::{Listing, Work};
use super::plants::Plant;
use super::world::World;
use crate::engine::inbound::Inbound;
use crate::engine::listing::is_too_much_missing;
use crate::engine::reads::Wanted;
use crate::node::{BlobId, Content, Ino};
use crate::path::WsPath;
use crate::record::{Record, Seq};
use crate::remote::{Cursor, EventChange, EventId, RemoteEntry, RemoteError, RemoteFile};
use crate::revision::Revision;
use crate::store::Row;

/// How long a path is left alone whose read led to nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a listing is not believed, the one reason that this remote may give.
pub(super) const MUCH_IS_MISSING: &str = "much is missing";

/// Names on a page.
const PAGE: usize = 3;

fn path_of(change: &EventChange) -> &WsPath {
    match change {
        EventChange::Stored(file) => &file.path,
        EventChange::Deleted { path, .. }
        | EventChange::DirCreated { path }
        | EventChange::DirDeleted { path } => path,
    }
}

fn cursor(n: u64) -> Cursor {
    Cursor { id: EventId(format!("evt_{n}")), fingerprint: None }
}

impl World {
    /// Whether there are events that the mount did not hear.
    pub(super) fn is_behind(&self, at: usize) -> bool {
        let mount = &self.mounts[at];
        let is_known = mount.epoch == self.remote.epoch();
        mount.listing.is_none() && (!is_known || mount.position < self.remote.newest())
    }

    /// The next event comes: by the feed's rules it is the next one, or one seen before, or others
    /// before it are missing.
    pub(super) fn event(&mut self, at: usize, quiet: bool) {
        if self.mounts[at].listing.is_some() || self.is_cut(at) || !self.verify(at) {
            return;
        }
        let (newest, epoch) = (self.remote.newest(), self.remote.epoch());
        let (expired, extended) = (self.remote.expired, self.server.extended);
        let mount = &mut self.mounts[at];
        let offers = mount.core.offer_again;
        if mount.position < expired && mount.pushed == mount.position {
            mount.listing = Some(Listing::new(newest, epoch, offers));
            return;
        }
        mount.wire.extend(mount.pushed + 1..=newest);
        mount.pushed = mount.pushed.max(newest);
        let Some(n) = mount.wire.pop_front() else {
            // What was swapped was dropped as seen; the rest of the stream is had by asking.
            let position = mount.position;
            return mount.follow(position);
        };
        if n <= mount.position {
            return;
        }
        if n > mount.position + 1 && extended {
            mount.listing = Some(Listing::new(newest, epoch, offers));
            return;
        }
        if self.plant == Plant::LostEvent && n.is_multiple_of(7) {
            self.mounts[at].position = n;
            return;
        }
        self.take_event(at, n, quiet);
        if self.plant == Plant::StaleEvent && n > 4 {
            self.take_event(at, n - 4, quiet);
        }
        self.mounts[at].position = n;
        self.mounts[at].cursor_epoch = epoch;
        self.step(at, &Cause::Nothing, |core, _, changes| {
            core.set_cursor(Some(cursor(n)), changes);
            core.judge_echoes(changes);
        });
    }

    fn take_event(&mut self, at: usize, n: u64, quiet: bool) -> Inbound {
        let index = usize::try_from(n - 1).unwrap();
        let change = self.remote.log[index].clone();
        self.tell(|| format!("event {n} at {at}: {change:?}"));
        self.apply_event(at, &change, quiet)
    }

    pub(super) fn apply_event(&mut self, at: usize, change: &EventChange, quiet: bool) -> Inbound {
        let cause = Cause::News(vec![path_of(change).clone()]);
        self.step(at, &cause, |core, now, changes| {
            let applied = core.apply_event(change, quiet, now, changes);
            forget_unlinked(core, changes);
            applied
        })
    }

    /// The last event comes again: the process ended before its cursor moved.
    pub(super) fn repeat(&mut self, at: usize) {
        let mount = &self.mounts[at];
        let n = mount.position;
        let is_known = mount.epoch == self.remote.epoch() && n <= self.remote.newest();
        if mount.listing.is_none() && n > 0 && is_known && !self.is_cut(at) {
            self.take_event(at, n, true);
        }
    }

    /// Only where a hole is noticed: a server that numbers with holes sends in order.
    pub(super) fn swap(&mut self, at: usize) {
        let newest = self.remote.newest();
        let is_numbered = self.server.extended;
        let mount = &mut self.mounts[at];
        mount.wire.extend(mount.pushed + 1..=newest);
        mount.pushed = mount.pushed.max(newest);
        if is_numbered && mount.wire.len() > 1 {
            mount.wire.swap(0, 1);
        }
    }

    /// Begins a listing when the engine asks for one.
    pub(super) fn list_again(&mut self, at: usize) {
        let mount = &mut self.mounts[at];
        if mount.listing.is_none() && mount.core.guards.list_again {
            mount.core.guards.list_again = false;
            mount.listing = Some(Listing::new(mount.position, mount.epoch, false));
        }
    }

    /// One page of the listing, or one of the files that it did not show.
    pub(super) fn list(&mut self, at: usize) {
        if self.is_cut(at) {
            // It fails, and is begun again later.
            if let Some(listing) = &mut self.mounts[at].listing {
                *listing = Listing::new(listing.tail, listing.epoch, listing.offers);
            }
            return;
        }
        let Some(mut listing) = self.mounts[at].listing.take() else { return };
        if listing.known.is_none() {
            listing.known = Some(self.mounts[at].core.known());
        }
        if listing.missing.is_none() {
            self.list_page(at, &mut listing);
        } else if let Some(path) = listing.missing.as_mut().and_then(|all| all.pop_front()) {
            self.confirm_missing(at, &path);
        } else {
            for path in std::mem::take(&mut listing.folders) {
                self.apply_event(at, &EventChange::DirDeleted { path }, true);
            }
            let (tail, offers) = (listing.tail, listing.offers);
            self.mounts[at].epoch = listing.epoch;
            self.mounts[at].cursor_epoch = listing.epoch;
            self.step(at, &Cause::Nothing, |core, _, changes| {
                core.note_listed(changes);
                core.set_cursor((tail > 0).then(|| cursor(tail)), changes);
                if offers {
                    core.set_offer_again(false, changes);
                }
            });
            return self.mounts[at].follow(tail);
        }
        self.mounts[at].listing = Some(listing);
    }

    fn list_page(&mut self, at: usize, listing: &mut Listing) {
        let page = self.remote.list(listing.after.as_ref(), PAGE);
        let paths = page.iter().map(|entry| match entry {
            RemoteEntry::File(file) => file.path.clone(),
            RemoteEntry::Dir { path, .. } => path.clone(),
        });
        let paths: Vec<WsPath> = paths.collect();
        self.tell(|| format!("page at {at}: {paths:?}"));
        listing.after = paths.last().cloned().or(listing.after.take());
        let is_last = page.is_empty();
        let (seen, known, offers) = (&mut listing.seen, listing.known.as_ref(), listing.offers);
        self.step(at, &Cause::News(paths), |core, now, changes| {
            if let Some(known) = known {
                core.check_listed(&page, known, changes);
            }
            if offers {
                core.offer_outlived(&page, now, changes);
            }
            core.apply_listing(&page, seen, |_| false, now, changes);
            forget_unlinked(core, changes);
        });
        let Some(known) = listing.known.as_ref().filter(|_| is_last) else { return };
        let core = &self.mounts[at].core;
        let mut missing = core.unseen(known, &listing.seen);
        listing.folders = core.unseen_folders(known, &listing.seen);
        missing.sort();
        listing.folders.sort();
        let is_much = is_too_much_missing(missing.len(), known.files);
        if listing.offers {
            let missing = core.unoffered(known, &listing.seen);
            self.step(at, &Cause::Nothing, |core, now, changes| {
                missing.iter().for_each(|path| core.offer_again(path, now, changes));
            });
            self.note_offered(at);
        } else if is_much || core.reset_suspected.is_some() {
            let missing = missing.clone();
            self.step(at, &Cause::Nothing, |core, _, changes| {
                if core.reset_suspected.is_none() {
                    core.suspect_reset(Some(MUCH_IS_MISSING.into()), changes);
                }
                core.show_reset(missing, changes);
            });
        }
        if listing.offers || self.mounts[at].core.reset_suspected.is_some() {
            missing.clear();
            listing.folders.clear();
        }
        listing.missing = Some(missing.into());
    }

    fn confirm_missing(&mut self, at: usize, path: &WsPath) {
        let Some(file) = self.remote.read(path) else {
            let cause = Cause::News(vec![path.clone()]);
            self.step(at, &cause, |core, now, changes| {
                core.missing(path, true, now, changes);
                forget_unlinked(core, changes);
            });
            return;
        };
        self.apply_event(at, &EventChange::Stored(RemoteFile { body: None, ..file }), true);
    }

    /// Why nothing can be asked, if so.
    pub(super) fn why_not(&self, at: usize) -> Option<RemoteError> {
        match (self.mounts[at].is_cut, self.is_stranger(at)) {
            (true, _) => {
                let message = "cut".into();
                Some(RemoteError::Unreachable { message, maybe_applied: false })
            }
            (false, true) => Some(RemoteError::OtherServer { message: "another".into() }),
            (false, false) => None,
        }
    }

    /// What a read that could not be made tells the link.
    fn missed(&mut self, at: usize) {
        let Some(error) = self.why_not(at) else { return };
        self.step(at, &Cause::Nothing, |core, now, _| {
            let jitter = core.jitter();
            if !core.link.is_down() {
                core.link.failed(&error, now.mono, now.wall, jitter);
            }
        });
    }

    pub(super) fn read_again(&mut self, at: usize, path: WsPath) {
        if self.is_cut(at) {
            self.missed(at);
            self.step(at, &Cause::Nothing, |core, now, _| {
                core.rechecks_in_flight.remove(&path);
                core.rechecks_postponed.insert(path, now.mono + AGAIN);
            });
            return;
        }
        let theirs = self.remote.read(&path);
        let core = &self.mounts[at].core;
        let node = core.tree.resolve(&path).and_then(|ino| core.tree.get(ino));
        let before = node.and_then(|node| node.synced.as_ref()?.revision.clone());
        self.mounts[at].work.push(Work::Rechecked(path, before, theirs));
    }

    pub(super) fn rechecked(
        &mut self,
        at: usize,
        path: &WsPath,
        before: Option<&Revision>,
        theirs: Option<&RemoteFile>,
    ) {
        self.step(at, &Cause::News(vec![path.clone()]), |core, now, changes| {
            core.check_read(path, before, theirs, changes);
            let applied = core.rechecked(path, theirs, true, now, changes);
            if applied == Inbound::Busy {
                core.rechecks_postponed.insert(path.clone(), now.mono + AGAIN);
            }
            forget_unlinked(core, changes);
        });
    }

    pub(super) fn read_to_settle(&mut self, at: usize, path: WsPath, seq: Seq) {
        if let Some(error) = self.why_not(at) {
            self.step(at, &Cause::Nothing, |core, now, changes| {
                let jitter = core.jitter();
                core.link.failed(&error, now.mono, now.wall, jitter);
                core.postpone(&path, now.mono, changes);
            });
            return;
        }
        let theirs = self.remote.read(&path);
        self.mounts[at].work.push(Work::Settled(path, seq, theirs));
    }

    pub(super) fn settled(
        &mut self,
        at: usize,
        path: &WsPath,
        seq: Seq,
        theirs: Option<&RemoteFile>,
    ) {
        let keep = self.step(at, &Cause::News(vec![path.clone()]), |core, now, changes| {
            let keep = core.settled(path, seq, theirs, now, changes);
            forget_unlinked(core, changes);
            keep
        });
        self.mounts[at].work.extend(keep.map(Work::Keep));
    }

    /// Their side is copied first.
    pub(super) fn copy_theirs(&mut self, at: usize, record: Record) {
        let theirs = self.remote.read(&record.path).filter(|_| !self.is_cut(at));
        match theirs {
            Some(theirs) => self.mounts[at].work.push(Work::Copied(record, theirs)),
            None => self.postpone(at, &record.path),
        }
    }

    pub(super) fn postpone(&mut self, at: usize, path: &WsPath) {
        self.step(at, &Cause::Nothing, |core, now, changes| {
            core.postpone(path, now.mono + AGAIN, changes);
        });
    }

    pub(super) fn read_content(&mut self, at: usize, ino: Ino) {
        let Some(wanted) = self.mounts[at].core.wanted(ino) else { return };
        if self.is_cut(at) {
            return self.missed(at);
        }
        let wanted = self.look_where_it_was_moved(at, ino).unwrap_or(wanted);
        let theirs = self.remote.read(&wanted.path);
        self.mounts[at].work.push(Work::Fetched(ino, wanted, theirs));
    }

    /// Finds a content that a request may have moved. Returns where it is wanted from now.
    fn look_where_it_was_moved(&mut self, at: usize, ino: Ino) -> Option<Wanted> {
        let (digest, names) = self.mounts[at].core.whereabouts(ino)?;
        let is_it = |path: &WsPath| self.remote.read(path)?.digest.filter(|read| *read == digest);
        if let Some(path) = names.into_iter().find(|path| is_it(path).is_some()) {
            self.step(at, &Cause::Nothing, |core, _, changes| {
                core.moved_there(ino, &path, changes);
            });
        }
        self.mounts[at].core.wanted(ino)
    }

    /// Takes up a content that was read. Returns whether it is here now.
    pub(super) fn fetched(
        &mut self,
        at: usize,
        ino: Ino,
        wanted: &Wanted,
        theirs: Option<&RemoteFile>,
    ) -> bool {
        let Some(file) = theirs else {
            let path = &wanted.path;
            self.step(at, &Cause::Nothing, |core, _, changes| core.note_recheck(path, changes));
            self.step(at, &Cause::Lost, |core, _, changes| {
                core.content_lost(ino, changes);
                forget_unlinked(core, changes);
            });
            return false;
        };
        let body = file.body.clone().unwrap_or_else(BodyBytes::new);
        let shown = self.mounts[at].core.tree.path_of(ino).into_iter().collect();
        self.step(at, &Cause::News(shown), |core, _, changes| {
            if !core.still_wants(ino, wanted, file) {
                return;
            }
            let content = if body.is_empty() {
                Content::Empty
            } else {
                let blob = BlobId(core.take_id(&mut changes.rows));
                changes.rows.push(Row::PutBlob(blob, body.clone()));
                Content::Blob(blob)
            };
            core.take_read(ino, file, (content, body.len() as u64), changes);
        });
        true
    }

    /// Fetches a content at once, as for a reader. Returns whether it is here.
    pub(super) fn fetch(&mut self, at: usize, ino: Ino) -> bool {
        let Some(wanted) = self.mounts[at].core.wanted(ino) else { return true };
        if self.is_cut(at) {
            self.missed(at);
            return false;
        }
        let wanted = self.look_where_it_was_moved(at, ino).unwrap_or(wanted);
        let Some(theirs) = self.remote.read(&wanted.path) else {
            let path = &wanted.path;
            self.step(at, &Cause::Nothing, |core, _, changes| core.note_recheck(path, changes));
            return false;
        };
        self.fetched(at, ino, &wanted, Some(&theirs))
    }

    /// Fetches a content that is to be sent.
    pub(super) fn fetch_or_lose(&mut self, at: usize, ino: Ino) -> bool {
        let Some(wanted) = self.mounts[at].core.wanted(ino) else { return true };
        if self.is_cut(at) {
            self.missed(at);
            return false;
        }
        let wanted = self.look_where_it_was_moved(at, ino).unwrap_or(wanted);
        let theirs = self.remote.read(&wanted.path);
        self.fetched(at, ino, &wanted, theirs.as_ref())
    }
}

/// Nobody has a file open here: what loses its name is gone.
pub(super) fn forget_unlinked(
    core: &mut crate::engine::Core,
    changes: &mut crate::engine::Changes,
) {
    let gone: Vec<Ino> =
        core.tree.nodes().map(|node| node.ino).filter(|ino| core.tree.is_unlinked(*ino)).collect();
    for ino in gone {
        core.forget_unlinked(ino, changes);
    }
}
