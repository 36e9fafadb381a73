//! Calls on names: lookup, create, remove, rename, list.

use std::sync::Arc;

use super::files::{Handle, OpenMode};
use super::{Attributes, DirEntry, EntryKind, Fs, FsError, Reply};
use crate::engine::Invalidation;
use crate::engine::local::{Creator, LocalError, SetAttributes};
use crate::engine::rename::RenameMode;
use crate::engine::waits::Wait;
use crate::ignore_rules::RULES_NAME;
use crate::node::{Content, FileBody, FileId, Ino, Kind, ROOT, Special};
use crate::store::{Done, StoreError};

/// An empty file.
const EMPTY: Kind = Kind::File(FileBody { content: Content::Empty, size: 0, exact: true });

impl Fs {
    /// The entry `name` of a folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn lookup(&self, parent: Ino, name: &str) -> Result<Attributes, FsError> {
        let ino = self.shared.core().tree.child(parent, name).ok_or(LocalError::NotFound)?;
        self.attributes(ino)
    }

    /// Creates and opens a file. It is recorded when it is closed, synced or a second old.
    ///
    /// # Errors
    /// When the name is bad or taken.
    pub fn create(
        &self,
        parent: Ino,
        name: &str,
        creator: Creator,
        mode: OpenMode,
    ) -> Result<(Attributes, u64), FsError> {
        failpoint!("fs.create.asked");
        self.need_room()?;
        let made = self
            .shared
            .step(|core, now, changes| core.create(parent, name, EMPTY, creator, now, changes));
        let ino = made.map_err(|error| match error {
            // It came from elsewhere a moment ago. The kernel looks again, and opens it.
            LocalError::Exists if !mode.exclusive => LocalError::Stale,
            error => error,
        })?;
        failpoint!("fs.create");
        let file = self.shared.contents.open.open(ino, mode.write);
        {
            let now = self.shared.now();
            let mut state = file.lock();
            state.body = crate::content::open::Body::Memory(Vec::new());
            state.changed(now.mono, now.wall);
        }
        let handle = self.take_handle();
        self.handles.insert(handle, Handle { file, mode });
        self.shared.nudge.notify_one();
        Ok((self.attributes(ino)?, handle))
    }

    /// Creates an empty file without opening it.
    pub fn make_file(&self, parent: Ino, name: &str, creator: Creator, reply: Reply<Attributes>) {
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        let made = self
            .shared
            .step(|core, now, changes| core.create(parent, name, EMPTY, creator, now, changes));
        let ino = match made {
            Ok(ino) => ino,
            Err(error) => return reply(Err(error.into())),
        };
        let attributes = self.attributes(ino);
        self.shared.contents.open.with(ino, |state| {
            let now = self.shared.now();
            state.body = crate::content::open::Body::Memory(Vec::new());
            state.changed(now.mono, now.wall);
            self.shared.seal(ino, state, false, answer(attributes, reply));
        });
    }

    /// Creates a folder.
    pub fn make_dir(&self, parent: Ino, name: &str, creator: Creator, reply: Reply<Attributes>) {
        self.make(parent, name, Kind::Dir { explicit: true }, creator, reply);
    }

    /// Creates a symbolic link.
    pub fn make_symlink(
        &self,
        parent: Ino,
        name: &str,
        target: &str,
        creator: Creator,
        reply: Reply<Attributes>,
    ) {
        self.make(parent, name, Kind::Symlink { target: Arc::from(target) }, creator, reply);
    }

    /// Creates a pipe, socket or device.
    pub fn make_special(
        &self,
        parent: Ino,
        name: &str,
        (what, device): (Special, u32),
        creator: Creator,
        reply: Reply<Attributes>,
    ) {
        self.make(parent, name, Kind::Special { what, device }, creator, reply);
    }

    fn make(
        &self,
        parent: Ino,
        name: &str,
        kind: Kind,
        creator: Creator,
        reply: Reply<Attributes>,
    ) {
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        failpoint!("fs.make");
        let slot = ReplySlot::new(reply);
        let made = self.shared.step_then(slot.done(), |core, now, changes| {
            let ino = core.create(parent, name, kind, creator, now, changes)?;
            let node = core.tree.get(ino).ok_or(LocalError::Stale)?;
            slot.set(Attributes::of(node, if node.is_dir() { 2 } else { 1 }));
            Ok::<_, LocalError>(())
        });
        self.ended(made, &slot);
    }

    /// Removes a file or symbolic link.
    pub fn unlink(&self, parent: Ino, name: &str, reply: Reply<()>) {
        if let Some(ino) = self.open_and_remote((parent, name)) {
            let name = name.to_owned();
            let rest = move |fs: Self| fs.unlink_now(parent, &name, reply);
            return self.after_fetch(ino, &[parent], rest);
        }
        self.unlink_now(parent, name, reply);
    }

    fn unlink_now(&self, parent: Ino, name: &str, reply: Reply<()>) {
        let slot = ReplySlot::new(reply);
        slot.set(());
        failpoint!("fs.unlink");
        let removed = self.shared.step_then(slot.done(), |core, now, changes| {
            let ino = core.tree.child(parent, name).ok_or(LocalError::NotFound)?;
            let open = self.shared.contents.open.is_open(ino);
            core.unlink(parent, name, open, now, changes)
        });
        self.ended(removed, &slot);
        self.rules_may_have_changed(parent, name);
    }

    /// Removes an empty folder.
    pub fn remove_dir(&self, parent: Ino, name: &str, reply: Reply<()>) {
        let slot = ReplySlot::new(reply);
        slot.set(());
        failpoint!("fs.rmdir");
        let removed = self
            .shared
            .step_then(slot.done(), |core, now, changes| core.rmdir(parent, name, now, changes));
        self.ended(removed, &slot);
    }

    /// Moves an entry. What is open and changed is sealed first, so that the new name never shows
    /// less than was written.
    pub fn rename(&self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode, reply: Reply<()>) {
        failpoint!("fs.rename");
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        let other = (mode == RenameMode::Exchange).then_some(to);
        // All that is in a folder moves in one step.
        if !self.shared.store.has_room_for(self.entries_of(from, other)) {
            return reply(Err(StoreError::Full.into()));
        }
        if let Err(error) = self.seal_moved(from, other) {
            return reply(Err(error));
        }
        if mode == RenameMode::Exchange {
            let missing = self.remote_only(from).or_else(|| self.remote_only(to));
            if let Some(ino) = missing {
                return self.fetch_then_exchange(ino, from, to, reply);
            }
        }
        if mode == RenameMode::Replace
            && let Some(ino) = self.open_and_remote(to)
        {
            let folders = [from.0, to.0];
            let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
            let rest = move |fs: Self| {
                fs.rename_now((from.0, &from.1), (to.0, &to.1), mode, reply);
            };
            return self.after_fetch(ino, &folders, rest);
        }
        self.rename_now(from, to, mode, reply);
    }

    fn rename_now(&self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode, reply: Reply<()>) {
        let slot = ReplySlot::new(reply);
        slot.set(());
        let offered = self.offer_base_at(to);
        failpoint!("fs.rename.sealed");
        // One that could not be recorded is made here all the same, and may still come about: the
        // kernel, which is told that it failed, must not open the file under the name that it had.
        let entry = |(parent, name): (Ino, &str)| Invalidation::Entry { parent, name: name.into() };
        let (names, shared) = (vec![entry(from), entry(to)], Arc::clone(&self.shared));
        let done = slot.done();
        let told: Done = Box::new(move |result| {
            if result.is_err() {
                shared.invalidate(names);
            }
            done(result);
        });
        let moved = self.shared.step_then(told, |core, now, changes| {
            let is_open = |ino| self.shared.contents.open.is_open(ino);
            core.rename(from, to, mode, is_open, now, changes)
        });
        self.shared.withdraw_base(offered);
        self.ended(moved, &slot);
        self.rules_may_have_changed(from.0, from.1);
        self.rules_may_have_changed(to.0, to.1);
    }

    /// What is about to be replaced is the base of what takes its name, as when a program saves by
    /// way of another name.
    fn offer_base_at(&self, (parent, name): (Ino, &str)) -> Option<FileId> {
        let ino = self.shared.core().tree.child(parent, name)?;
        self.shared.offer_base(ino)
    }

    /// The open file under a name, when only the remote has its bytes: with the name it would lose
    /// them for those who have it open.
    fn open_and_remote(&self, (parent, name): (Ino, &str)) -> Option<Ino> {
        let core = self.shared.core();
        let ino = core.tree.child(parent, name)?;
        let remote = core.tree.get(ino)?.body()?.content == Content::Remote;
        (remote && self.shared.contents.open.is_open(ino)).then_some(ino)
    }

    /// Goes on when the bytes of a file are here, or cannot be had: removing a name does not
    /// depend on the network, only reading without it does. The kernel holds `folders` meanwhile.
    fn after_fetch(&self, ino: Ino, folders: &[Ino], rest: impl FnOnce(Self) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let again = Self::new(Arc::clone(&self.shared), self.runtime.clone());
        let waits: Option<Vec<Wait>> =
            folders.iter().map(|folder| shared.wait_for_network(*folder)).collect();
        let Some(waits) = waits else { return rest(again) };
        self.runtime.spawn(async move {
            if let Err(error) = shared.ensure_local(ino).await {
                tracing::warn!(ino = ino.0, %error, "an open file loses its name unread");
            }
            rest(again);
            drop(waits);
        });
    }

    fn entries_of(&self, from: (Ino, &str), to: Option<(Ino, &str)>) -> usize {
        let core = self.shared.core();
        let count = |(parent, name): (Ino, &str)| {
            core.tree.child(parent, name).map_or(0, |top| core.tree.subtree(top).len())
        };
        std::iter::once(from).chain(to).map(count).sum()
    }

    fn seal_moved(&self, from: (Ino, &str), to: Option<(Ino, &str)>) -> Result<(), FsError> {
        let tops: Vec<Ino> = {
            let core = self.shared.core();
            std::iter::once(from)
                .chain(to)
                .filter_map(|(parent, name)| core.tree.child(parent, name))
                .collect()
        };
        for file in self.shared.contents.open.all() {
            let moved = {
                let core = self.shared.core();
                tops.iter().any(|top| core.tree.is_within(file.ino, *top))
            };
            if moved {
                self.shared.seal_and_wait(file.ino, &mut file.lock(), true)?;
            }
        }
        Ok(())
    }

    /// A content below the entry that only the remote has: an exchange would overwrite it there
    /// before it could be sent under its new name.
    fn remote_only(&self, (parent, name): (Ino, &str)) -> Option<Ino> {
        let core = self.shared.core();
        let top = core.tree.child(parent, name)?;
        core.tree.subtree(top).into_iter().find(|ino| {
            let body = core.tree.get(*ino).and_then(|node| node.body());
            body.is_some_and(|body| body.content == Content::Remote)
        })
    }

    fn fetch_then_exchange(&self, ino: Ino, from: (Ino, &str), to: (Ino, &str), reply: Reply<()>) {
        let shared = Arc::clone(&self.shared);
        let waits: Option<Vec<Wait>> =
            [from.0, to.0].into_iter().map(|folder| shared.wait_for_network(folder)).collect();
        let Some(waits) = waits else {
            return reply(Err(FsError::Disk(std::io::ErrorKind::WouldBlock)));
        };
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        let again = Self::new(Arc::clone(&self.shared), self.runtime.clone());
        self.runtime.spawn(async move {
            match shared.ensure_local(ino).await {
                Ok(()) => {
                    let (from, to) = ((from.0, from.1.as_str()), (to.0, to.1.as_str()));
                    again.rename(from, to, RenameMode::Exchange, reply);
                }
                Err(error) => reply(Err(error.into())),
            }
            drop(waits);
        });
    }

    /// Changes attributes; with a size, the content too.
    pub fn set_attributes(
        &self,
        ino: Ino,
        set: SetAttributes,
        size: Option<u64>,
        reply: Reply<Attributes>,
    ) {
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        if let Some(size) = size {
            return self.truncate(ino, size, set, reply);
        }
        self.set_plain_attributes(ino, set, reply);
    }

    pub(super) fn set_plain_attributes(
        &self,
        ino: Ino,
        set: SetAttributes,
        reply: Reply<Attributes>,
    ) {
        // A time that was set must not be overwritten by the seal of what was written before it.
        if set.mtime.is_some()
            && let Some(file) = self.shared.contents.open.get(ino)
        {
            let mut state = file.lock();
            if state.dirty_since.is_some() {
                state.mtime = set.mtime.unwrap_or(state.mtime);
            }
        }
        failpoint!("fs.setattr");
        let slot = ReplySlot::new(reply);
        let changed = self.shared.step_then(slot.done(), |core, now, changes| {
            core.set_attributes(ino, set, now, changes)
        });
        if changed.is_ok() {
            match self.attributes(ino) {
                Ok(attributes) => slot.set(attributes),
                Err(error) => slot.fail(error),
            }
        }
        self.ended(changed, &slot);
    }

    /// Opens a folder: what it lists is what it holds now.
    ///
    /// # Errors
    /// When the node is gone or no folder.
    pub fn open_dir(&self, ino: Ino) -> Result<u64, FsError> {
        let listing = self.list(ino)?;
        let now = self.shared.now().wall;
        if self.shared.core().tree.get(ino).is_some_and(|node| node.atime_is_due(now)) {
            self.read_at_last(ino);
        }
        let handle = self.take_handle();
        self.listings.insert(handle, Arc::new(listing));
        Ok(handle)
    }

    /// The entries that an open folder lists, `.` and `..` first. With `fresh` it is listed anew,
    /// as after `rewinddir`.
    ///
    /// # Errors
    /// When the handle is not open.
    pub fn read_dir(
        &self,
        ino: Ino,
        handle: u64,
        fresh: bool,
    ) -> Result<Arc<Vec<DirEntry>>, FsError> {
        if fresh {
            let listing = Arc::new(self.list(ino)?);
            self.listings.insert(handle, Arc::clone(&listing));
            return Ok(listing);
        }
        let listing = self.listings.get(&handle).ok_or(FsError::BadHandle)?;
        Ok(Arc::clone(listing.value()))
    }

    /// Closes a folder.
    pub fn close_dir(&self, handle: u64) {
        self.listings.remove(&handle);
    }

    fn list(&self, ino: Ino) -> Result<Vec<DirEntry>, FsError> {
        let core = self.shared.core();
        let node = core.tree.get(ino).ok_or(LocalError::Stale)?;
        let children = match core.tree.children(ino) {
            Some(children) => children,
            None if node.is_dir() => return Ok(Vec::new()),
            None => return Err(LocalError::NotADirectory.into()),
        };
        let mut listing = Vec::with_capacity(children.len() + 2);
        for (ino, name) in [(ino, "."), (node.parent, "..")] {
            listing.push(DirEntry { ino, kind: EntryKind::Dir, name: Arc::from(name) });
        }
        listing.extend(children.iter().filter_map(|(name, ino)| {
            let kind = EntryKind::of(core.tree.get(*ino)?);
            Some(DirEntry { ino: *ino, kind, name: Arc::clone(name) })
        }));
        Ok(listing)
    }

    /// The rules file is an ordinary file of the root; whoever changes it changes the rules.
    pub(super) fn rules_may_have_changed(&self, parent: Ino, name: &str) {
        if parent == ROOT && name == RULES_NAME {
            self.shared.reload_rules();
        }
    }

    pub(super) fn ended<T, Out: Send + 'static>(
        &self,
        result: Result<T, (LocalError, Done)>,
        slot: &ReplySlot<Out>,
    ) {
        match result {
            Ok(_) => self.shared.nudge.notify_one(),
            Err((error, done)) => {
                drop(done);
                slot.fail(error.into());
            }
        }
    }
}

/// A reply that is given when the commit is done, with a value known by then.
pub(super) struct ReplySlot<T> {
    inner: Arc<std::sync::Mutex<SlotState<T>>>,
}

struct SlotState<T> {
    reply: Option<Reply<T>>,
    value: Option<T>,
    committed: Option<Result<(), StoreError>>,
}

impl<T: Send + 'static> ReplySlot<T> {
    pub(super) fn new(reply: Reply<T>) -> Self {
        let state = SlotState { reply: Some(reply), value: None, committed: None };
        Self { inner: Arc::new(std::sync::Mutex::new(state)) }
    }

    /// What the store calls.
    pub(super) fn done(&self) -> Done {
        let inner = Arc::clone(&self.inner);
        Box::new(move |result| {
            let mut state = inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.committed = Some(result);
            give(state);
        })
    }

    /// The value to answer with.
    pub(super) fn set(&self, value: T) {
        let mut state = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.value = Some(value);
        give(state);
    }

    /// Answers with an error, now.
    fn fail(&self, error: FsError) {
        let mut state = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reply = state.reply.take();
        drop(state);
        if let Some(reply) = reply {
            reply(Err(error));
        }
    }
}

fn give<T>(mut state: std::sync::MutexGuard<'_, SlotState<T>>) {
    if state.committed.is_none() || state.value.is_none() {
        return;
    }
    let (reply, value, committed) =
        (state.reply.take(), state.value.take(), state.committed.take());
    drop(state);
    if let (Some(reply), Some(value), Some(committed)) = (reply, value, committed) {
        // Its step is not taken back: once there is room it comes about. `ENOSPC` would say that it
        // will not.
        let not_known = |error| match error {
            StoreError::Full => StoreError::Failed("not recorded yet: the disk is full".to_owned()),
            error => error,
        };
        reply(committed.map(|()| value).map_err(|error| not_known(error).into()));
    }
}

/// A store callback that answers with what is known already.
fn answer(attributes: Result<Attributes, FsError>, reply: Reply<Attributes>) -> Done {
    Box::new(move |result| match (attributes, result) {
        (Ok(attributes), Ok(())) => reply(Ok(attributes)),
        (Err(error), _) => reply(Err(error)),
        (_, Err(error)) => reply(Err(error.into())),
    })
}
