//! What people decide: over conflicts, over changes that wait, over removals in great number. The engine's
//! steps are those of `resolve`, `carry` and `runner`; what they fetch, copy and compare is done here.

use std::collections::BTreeSet;

use super::checks::Cause;
use super::conflicts::{Copy, check_merge};
use super::hearing::forget_unlinked;
use super::mount::Listing;
use super::reference::Entry;
use super::remote::digest;
use super::story::Choice;
use super::texts::{Bytes, body, number};
use super::world::World;
use crate::engine::approvals::{Approval, Kind};
use crate::engine::copies::NewContent;
use crate::engine::local::{LocalError, Sealed};
use crate::engine::merge::{Merge, three_way};
use crate::node::Ino;
use crate::path::WsPath;
use crate::record::{ConflictRow, How, Op, RecordState};

impl World {
    /// Ends one of the open conflicts of a mount, or is refused and changes nothing.
    pub(super) fn resolve(&mut self, at: usize, pick: u8, choice: Choice) {
        let open: Vec<ConflictRow> = self.mounts[at].core.open_conflicts().cloned().collect();
        if open.is_empty() {
            return;
        }
        let conflict = &open[usize::from(pick) % open.len()];
        let copy = self.copies.get(&(at, conflict.id.clone())).copied();
        self.tell(|| format!("{choice:?} for {} over {}", conflict.id, conflict.path));
        let force = choice == Choice::OursByForce;
        match (choice, copy) {
            (Choice::Theirs, copy) => {
                self.end(at, conflict, How::Theirs);
                self.note("a person chose theirs");
                // Whoever decided so gave ours up.
                self.superseded.extend(copy.map(|copy| copy.ours));
            }
            (Choice::Ours | Choice::OursByForce, None) => self.remove_again(at, conflict, force),
            (_, None) => {}
            (Choice::Ours | Choice::OursByForce, Some(copy)) => {
                self.put(at, conflict, How::Ours, copy, copy.ours, force);
            }
            (Choice::Both, Some(copy)) => self.place_beside(at, conflict, copy),
            (Choice::Merged, Some(copy)) => {
                let made = self.new_bytes();
                self.put(at, conflict, How::Merged, copy, made, false);
            }
            (Choice::Merge, Some(copy)) => self.merge_again(at, conflict, copy),
        }
    }

    /// Notes how a conflict ended, with nothing else.
    fn end(&mut self, at: usize, conflict: &ConflictRow, how: How) {
        self.step(at, &Cause::Nothing, |core, now, changes| {
            core.resolved(conflict, how, now, changes);
        });
    }

    /// The content of a file, which must be here; `None` when it cannot be had.
    fn had(&mut self, at: usize, ino: Ino) -> Option<Bytes> {
        self.fetch(at, ino).then(|| self.local_bytes(at, ino))?
    }

    /// What the server has or what is here, as far as it is known without asking.
    fn known_bytes(&self, at: usize, ino: Ino, path: &WsPath) -> Option<Bytes> {
        let core = &self.mounts[at].core;
        let known = core.tree.get(ino)?.synced.as_ref().and_then(|synced| synced.digest);
        let known = known.filter(|_| !core.is_pending(path));
        match known.and_then(|known| self.remote.digests.get(&known)) {
            Some(bytes) => Some(*bytes),
            None => self.local_bytes(at, ino),
        }
    }

    /// A content takes the name of a conflict.
    fn put(
        &mut self,
        at: usize,
        conflict: &ConflictRow,
        how: How,
        copy: Copy,
        bytes: Bytes,
        force: bool,
    ) {
        let path = &conflict.path;
        let Some(ino) = self.mounts[at].core.tree.resolve(path) else {
            return self.place(at, conflict, how, copy, bytes, path);
        };
        if self.mounts[at].core.file_at(path).is_none() || (force && self.had(at, ino).is_none()) {
            return;
        }
        let current = self.known_bytes(at, ino, path);
        let is_expected = current.map(digest) == conflict.theirs.map(|side| side.1);
        if !force && (current.is_none() || !is_expected) {
            return;
        }
        self.note(if how == How::Ours { "a person chose ours" } else { "a person merged" });
        if current == Some(bytes) {
            self.account(at, how, copy, bytes);
            return self.end(at, conflict, how);
        }
        // What is replaced lies in the copy.
        self.kept.extend(current);
        let offered = self.offer_base(at, ino);
        self.account(at, how, copy, bytes);
        assert!(self.refer(at, |reader| reader.write(path, bytes)), "{path} is a file");
        self.step(at, &Cause::Nothing, |core, now, changes| {
            let (content, size) = NewContent::Small(body(bytes)).enter(core, &mut changes.rows);
            let (mtime, ctime) = (now.wall, now.wall);
            let sealed = Sealed { content, size, mtime, ctime, held_until: None };
            core.seal(ino, &sealed, now, changes);
            core.resolved(conflict, how, now, changes);
        });
        self.withdraw_base(at, offered);
    }

    /// From now on the content that a person chose must be somewhere else than in the copy.
    fn account(&mut self, at: usize, how: How, copy: Copy, bytes: Bytes) {
        if how == How::Merged {
            self.superseded.insert(copy.ours);
        }
        if bytes != 0 {
            self.kept.remove(&bytes);
            self.superseded.remove(&bytes);
            self.written.insert(bytes, at);
        }
    }

    /// A content gets a name that is free; the folders above it are made.
    fn place(
        &mut self,
        at: usize,
        conflict: &ConflictRow,
        how: How,
        copy: Copy,
        bytes: Bytes,
        path: &WsPath,
    ) {
        let mut folders = BTreeSet::new();
        let mut above = path.parent();
        while let Some(folder) = above.filter(|folder| !folder.is_root()) {
            if self.mounts[at].core.file_at(&folder).is_some() {
                return;
            }
            above = folder.parent();
            folders.insert(folder);
        }
        self.account(at, how, copy, bytes);
        for folder in folders {
            self.mounts[at].reader.tree.entry(folder).or_insert(Entry::Dir);
        }
        assert!(self.refer(at, |reader| reader.write(path, bytes)), "{path} is free");
        let placed = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.place(path, NewContent::Small(body(bytes)), now, changes)?;
            core.resolved(conflict, how, now, changes);
            Ok::<_, LocalError>(())
        });
        assert_eq!(placed, Ok(()), "{path}");
        self.note("a person gave ours a name that was free");
    }

    /// Ours gets a name beside the file.
    fn place_beside(&mut self, at: usize, conflict: &ConflictRow, copy: Copy) {
        let core = &self.mounts[at].core;
        let parent = conflict.path.parent().and_then(|folder| core.tree.resolve(&folder));
        let who = conflict.ours_by.as_deref().unwrap_or_default();
        let name = conflict.path.name().unwrap();
        let mut names =
            (1..).map(|n| crate::engine::copies::sibling_name(name, who, conflict.at, n));
        let is_free = |name: &String| parent.is_none_or(|at| core.tree.child(at, name).is_none());
        let name = names.find(is_free).unwrap();
        let path = conflict.path.parent().unwrap().join(&name).unwrap();
        self.place(at, conflict, How::Both, copy, copy.ours, &path);
    }

    /// Ours is merged into what has the name now.
    fn merge_again(&mut self, at: usize, conflict: &ConflictRow, copy: Copy) {
        let Some(ino) = self.mounts[at].core.file_at(&conflict.path) else { return };
        let Some(current) = self.had(at, ino) else { return };
        let base = copy.base.map(body);
        let merged = three_way(base.as_deref(), &body(copy.ours), &body(current));
        let Ok(Merge::Clean(merged)) = merged else { return };
        let merged = number(merged.as_bytes());
        check_merge(copy.base, copy.ours, current, merged);
        let theirs = conflict.theirs.map(|side| (side.0, digest(current)));
        let conflict = ConflictRow { theirs, ..conflict.clone() };
        self.put(at, &conflict, How::Merged, copy, merged, false);
    }

    /// What was removed here and edited there is removed again; the edit is kept.
    fn remove_again(&mut self, at: usize, conflict: &ConflictRow, force: bool) {
        let path = &conflict.path;
        let Some(ino) = self.mounts[at].core.file_at(path) else {
            if self.mounts[at].core.tree.resolve(path).is_none() {
                self.end(at, conflict, How::Ours);
            }
            return;
        };
        let Some(current) = self.had(at, ino) else { return };
        if !force && Some(digest(current)) != conflict.theirs.map(|side| side.1) {
            return;
        }
        self.kept.insert(current);
        assert!(self.refer(at, |reader| reader.remove(path)), "{path} is a file");
        let (parent, name) = (path.parent().unwrap(), path.name().unwrap());
        let removed = self.step(at, &Cause::Nothing, |core, now, changes| {
            let parent = core.tree.resolve(&parent).unwrap();
            core.unlink(parent, name, false, now, changes)?;
            core.resolved(conflict, How::Ours, now, changes);
            Ok::<_, LocalError>(())
        });
        assert_eq!(removed, Ok(()), "{path}");
        self.note("a person removed again");
    }

    /// A change is to be tried again at once.
    pub(super) fn retry(&mut self, at: usize, path: &WsPath) {
        let lane = self.mounts[at].core.outbox.lane(path);
        let may = lane.is_some_and(|lane| {
            let record = &lane.current.record;
            record.state != RecordState::Flight && !record.needs_approval
        });
        let retried = self.step(at, &Cause::Nothing, |core, _, changes| core.retry(path, changes));
        assert_eq!(retried.is_ok(), may, "{path}: {retried:?}");
        if may {
            self.note("a change was tried again");
        }
    }

    /// Changes are given up; their bytes were carried off before.
    pub(super) fn discard(&mut self, at: usize, path: &WsPath) {
        let core = &self.mounts[at].core;
        let mut paths = BTreeSet::from([path.clone()]);
        core.with_old_names(&mut paths);
        paths.retain(|path| {
            let lane = core.outbox.lane(path);
            lane.is_some_and(|lane| lane.records().all(|r| r.state != RecordState::Flight))
        });
        for path in paths {
            self.give_up(at, &path);
        }
    }

    fn give_up(&mut self, at: usize, path: &WsPath) {
        let lane = self.mounts[at].core.outbox.lane(path);
        let records = lane.into_iter().flat_map(|lane| lane.records());
        let inos: Vec<Ino> =
            records.filter(|r| r.op == Op::Put).filter_map(|record| record.ino).collect();
        for ino in inos {
            // What cannot be carried off is not given up.
            let Some(bytes) = self.had(at, ino) else { return };
            self.superseded.insert(bytes);
        }
        self.note("a change was given up");
        self.step(at, &Cause::GivenUp(path.clone()), |core, now, changes| {
            core.give_up(path, now, changes);
            forget_unlinked(core, changes);
        });
    }

    /// A person looks at what waits for approval.
    pub(super) fn look(&mut self, at: usize) {
        let mount = &mut self.mounts[at];
        mount.looked_at = mount.core.approvals();
        assert_eq!(mount.looked_at.len(), mount.core.approvals_open());
        // What is decided and not carried out yet is not asked again.
        let (may_go, recheck) = (&mount.core.guards.may_go, &mount.core.recheck);
        let is_decided = |one: &Approval| {
            let mut paths = one.paths.iter();
            one.kind == Kind::RemoteRemovals
                && paths.all(|path| may_go.contains(path) && recheck.contains(path))
        };
        mount.looked_at.retain(|one| !is_decided(one));
    }

    /// A person decides over removals that were looked at before. What became another set since is not
    /// decided over.
    pub(super) fn decide(&mut self, at: usize, approve: bool) {
        if self.mounts[at].looked_at.is_empty() {
            self.look(at);
        }
        let mount = &mut self.mounts[at];
        let Some(seen) = mount.looked_at.pop() else { return };
        // A listing under way may not have shown yet what there is to see.
        if seen.kind == Kind::Reset && mount.listing.is_some() {
            return;
        }
        let now = mount.core.approvals();
        let is_same = now.contains(&seen);
        let may_be = approve || seen.kind != Kind::Reset;
        let id = seen.id();
        self.tell(|| format!("{id} is {approve}: {:?}", seen.paths));
        let decided = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.decide_approval(&id, approve, now, changes)
        });
        assert_eq!(decided.is_ok(), is_same && may_be, "{id}: {decided:?}");
        if !may_be {
            return;
        }
        self.note(match (decided.is_ok(), approve, seen.kind) {
            (false, ..) => "what was looked at is another set now",
            (true, _, Kind::Reset) => "a person went on with a server that forgot",
            (true, true, Kind::Removals) => "removals were approved",
            (true, false, Kind::Removals) => "removals were taken back",
            (true, true, _) => "removals of others were approved",
            (true, false, _) => "what others removed was kept",
        });
        let decided = decided.unwrap_or_default();
        if decided.offer_again {
            let mount = &mut self.mounts[at];
            mount.listing = Some(Listing::new(mount.position, mount.epoch, true));
        }
        for path in decided.remove {
            self.step(at, &Cause::News(vec![path.clone()]), |core, now, changes| {
                core.missing(&path, true, now, changes);
                forget_unlinked(core, changes);
            });
        }
        // What is about to be read is removed when it was.
        let core = &self.mounts[at].core;
        let mut still = core.approvals().into_iter().filter(|one| one.kind == seen.kind);
        let is_over =
            still.all(|one| one.paths.iter().all(|path| core.guards.may_go.contains(path)));
        assert!(!is_same || is_over, "{id} is decided");
    }

    /// Removals that wait for a person are not sent.
    pub(super) fn check_approved(&self, at: usize, items: &[crate::engine::plan::Item]) {
        for item in items {
            let lane = self.mounts[at].core.outbox.lane(&item.path);
            let held = lane.is_some_and(|lane| lane.current.record.needs_approval);
            assert!(!held, "{} was sent without approval", item.path);
        }
    }
}
