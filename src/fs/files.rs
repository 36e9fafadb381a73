//! Calls on open files: open, read, write, truncate, flush, sync, close.

use std::sync::Arc;

use bytes::Bytes;

use super::{Attributes, Fs, FsError, Reply};
use crate::content::OpenFile;
use crate::content::open::{Body, OpenState};
use crate::content::working::{WorkingFile, is_damage};
use crate::engine::core::SMALL_MAX;
use crate::engine::damage::Recourse;
use crate::engine::local::{LocalError, SetAttributes};
use crate::engine::{Invalidation, Shared};
use crate::node::{Content, Ino};
use crate::store::{Done, StoreError};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// It may be written.
    pub write: bool,
    /// It may be read.
    pub read: bool,
    /// It is emptied.
    pub truncate: bool,
    /// It must not have been there.
    pub exclusive: bool,
    /// Every write is on stable storage before it returns.
    pub sync: bool,
}

/// An open file of a process.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) file: Arc<OpenFile>,
    pub(super) mode: OpenMode,
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Here.
    At(u64),
    /// To the end, of which the kernel believes that it is here. What came from the remote may have moved it.
    End(u64),
}

/// A handle for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub handle: u64,
    /// What the kernel keeps of the file is of no use to it: it could not be told what changed.
    pub is_direct: bool,
}

/// Whether an open file's bytes can be worked on.
pub(super) enum Readiness {
    Ready,
    /// Only the remote has them.
    Fetch,
}

impl Fs {
    /// Opens a file. When only an upper bound of its size is known, it is fetched first, so that
    /// the kernel learns the size before it reads.
    pub fn open(&self, ino: Ino, mode: OpenMode, reply: Reply<Opened>) {
        failpoint!("fs.open");
        let is_open = self.shared.contents.open.is_open(ino);
        let (exact, atime_is_due) = {
            let core = self.shared.core();
            // The kernel then looks the name up again.
            let node = core.tree.get(ino).filter(|_| !core.tree.is_stale(ino, mode.write, is_open));
            let Some(node) = node else {
                drop(core);
                return reply(Err(LocalError::Stale.into()));
            };
            if mode.write && core.settings.read_only {
                drop(core);
                return reply(Err(LocalError::ReadOnly.into()));
            }
            let Some(body) = node.body() else {
                drop(core);
                return reply(Err(FsError::WrongKind));
            };
            let exact = body.exact || mode.truncate;
            (exact, mode.read && node.atime_is_due(self.shared.now().wall))
        };
        if atime_is_due {
            self.read_at_last(ino);
        }
        if mode.truncate
            && let Err(error) = self.need_room()
        {
            return reply(Err(error));
        }
        let file = self.shared.contents.open.open(ino, mode.write);
        if mode.write {
            // From now on somebody has to look whether its bytes grow old uncommitted.
            self.shared.nudge.notify_one();
        }
        let handle = self.take_handle();
        self.handles.insert(handle, Handle { file: Arc::clone(&file), mode });
        if mode.truncate {
            let now = self.shared.now();
            let mut state = file.lock();
            state.body = Body::Memory(Vec::new());
            state.changed(now.mono, now.wall);
            drop(state);
            // Recorded with the bytes that follow: a file that is written anew is the old one or the
            // new one after a crash, and not an empty one.
            return reply(Ok(Opened { handle, is_direct: false }));
        }
        if exact {
            // What changed from outside is news to the kernel first, and then to this reader.
            let answer = move |is_told: bool| reply(Ok(Opened { handle, is_direct: !is_told }));
            return self.once_told(ino, answer);
        }
        let shared = Arc::clone(&self.shared);
        let handles = Arc::clone(&self.handles);
        let fs = Self::new(Arc::clone(&self.shared), self.runtime.clone());
        self.runtime.spawn(async move {
            match shared.ensure_local(ino).await {
                Ok(()) => fs.once_told(ino, move |is_told| {
                    reply(Ok(Opened { handle, is_direct: !is_told }));
                }),
                Err(error) => {
                    handles.remove(&handle);
                    shared.contents.open.close(&file, mode.write);
                    reply(Err(error.into()));
                }
            }
        });
    }

    pub(super) fn handle(&self, handle: u64) -> Result<Handle, FsError> {
        Ok(self.handles.get(&handle).ok_or(FsError::BadHandle)?.value().clone())
    }

    /// Reads up to `len` bytes.
    pub fn read(&self, handle: u64, offset: u64, len: usize, reply: Reply<Bytes>) {
        match self.handle(handle) {
            Ok(open) => {
                // The bytes go with the size that the kernel knows.
                let before = {
                    let mut state = open.file.lock();
                    let before = state.before(self.shared.now().mono);
                    before.map(|before| before.body.read(offset, len))
                };
                if let Some(read) = before {
                    return reply(read.map_err(FsError::from));
                }
                self.with_bytes(open.file, move |_, _, state| Ok(state.read(offset, len)?), reply);
            }
            Err(error) => reply(Err(error)),
        }
    }

    /// Writes at an offset. With `O_SYNC` it answers when the bytes are on stable storage.
    pub fn write(&self, handle: u64, place: Place, data: &[u8], reply: Reply<usize>) {
        match self.handle(handle) {
            Ok(handle) => self.write_to(handle, place, data, reply),
            Err(error) => reply(Err(error)),
        }
    }

    pub(super) fn write_to(
        &self,
        Handle { file, mode }: Handle,
        place: Place,
        data: &[u8],
        reply: Reply<usize>,
    ) {
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        let mut state = file.lock();
        match load(&self.shared, file.ino, &mut state) {
            Ok(Readiness::Ready) => {
                match write_at(&self.shared, file.ino, &mut state, place, data) {
                    Err(FsError::Damaged) => drop(state),
                    written => {
                        drop(state);
                        return self.written(&file, mode, written, reply);
                    }
                }
            }
            Ok(Readiness::Fetch) => drop(state),
            Err(error) => {
                drop(state);
                return reply(Err(error));
            }
        }
        let data = Bytes::copy_from_slice(data);
        let write = move |shared: &Shared, ino, state: &mut OpenState| {
            write_at(shared, ino, state, place, &data)
        };
        self.with_bytes(file, write, reply);
    }

    fn written(
        &self,
        file: &Arc<OpenFile>,
        mode: OpenMode,
        written: Result<usize, FsError>,
        reply: Reply<usize>,
    ) {
        match written {
            Ok(n) if mode.sync => self.sync_file(
                file,
                Box::new(move |result| {
                    reply(result.map(|()| n));
                }),
            ),
            other => reply(other),
        }
    }

    /// Runs `act` on the bytes: now, when they are here, else once they were fetched.
    pub(super) fn with_bytes<T: Send + 'static>(
        &self,
        file: Arc<OpenFile>,
        act: impl Fn(&Shared, Ino, &mut OpenState) -> Result<T, FsError> + Send + 'static,
        reply: Reply<T>,
    ) {
        let now = |shared: &Shared, file: &OpenFile| {
            let mut state = file.lock();
            match load(shared, file.ino, &mut state)? {
                Readiness::Ready => attempt(shared, file.ino, &mut state, &act),
                Readiness::Fetch => Ok(None),
            }
        };
        match now(&self.shared, &file) {
            Ok(Some(value)) => reply(Ok(value)),
            Err(error) => reply(Err(error)),
            Ok(None) => {
                let Some(wait) = self.shared.wait_for_network(file.ino) else {
                    // It changes at the remote in this very moment.
                    return reply(Err(FsError::Disk(std::io::ErrorKind::WouldBlock)));
                };
                let shared = Arc::clone(&self.shared);
                let listed = exact_size(&shared, file.ino);
                self.runtime.spawn(async move {
                    let ready = shared.ensure_local(file.ino).await;
                    let result = ready.map_err(FsError::from).and_then(|()| {
                        // The kernel would cut the bytes to the size that it was told.
                        if listed.is_some() && exact_size(&shared, file.ino) != listed {
                            return Err(FsError::Disk(std::io::ErrorKind::WouldBlock));
                        }
                        let mut state = file.lock();
                        let done = match load(&shared, file.ino, &mut state)? {
                            Readiness::Ready => attempt(&shared, file.ino, &mut state, &act)?,
                            Readiness::Fetch => None,
                        };
                        // It changed at the remote in this very moment.
                        done.ok_or(FsError::Disk(std::io::ErrorKind::WouldBlock))
                    });
                    reply(result);
                    drop(wait);
                });
            }
        }
    }

    /// Sets the size, then the other attributes.
    pub(super) fn truncate(
        &self,
        ino: Ino,
        size: u64,
        set: SetAttributes,
        reply: Reply<Attributes>,
    ) {
        let is_file = {
            let core = self.shared.core();
            if core.settings.read_only {
                drop(core);
                return reply(Err(LocalError::ReadOnly.into()));
            }
            core.tree.get(ino).map(|node| node.body().is_some())
        };
        match is_file {
            None => return reply(Err(LocalError::Stale.into())),
            Some(false) => return reply(Err(FsError::WrongKind)),
            Some(true) => {}
        }
        if let Err(error) = self.need_room() {
            return reply(Err(error));
        }
        // The entry must outlive this call: what is fetched arrives later.
        let file = self.shared.contents.open.open(ino, true);
        let fs = Self::new(Arc::clone(&self.shared), self.runtime.clone());
        let closing = Arc::clone(&file);
        let finish: Reply<()> = Box::new(move |result| {
            fs.shared.contents.open.close(&closing, true);
            match result {
                Ok(()) => fs.set_plain_attributes(ino, set, reply),
                Err(error) => reply(Err(error)),
            }
        });
        let sealed = move |shared: &Shared, ino: Ino, state: &mut OpenState| {
            set_len(shared, ino, state, size)?;
            let hold = state.writers > 1;
            shared.seal_and_wait(ino, state, hold).map_err(FsError::from)
        };
        if size == 0 {
            // What is thrown away need not be fetched.
            let mut state = file.lock();
            state.body = Body::Memory(Vec::new());
        }
        self.with_bytes(file, sealed, finish);
    }

    /// One descriptor of the file was closed: what was written is recorded before it answers.
    pub fn flush(&self, handle: u64, reply: Reply<()>) {
        let handle = match self.handle(handle) {
            Ok(handle) => handle,
            Err(error) => return reply(Err(error)),
        };
        let file = handle.file;
        failpoint!("fs.flush");
        let mut state = file.lock();
        self.shared.seal(file.ino, &mut state, false, to_reply(reply));
        drop(state);
        self.rules_may_have_changed_at(file.ino);
    }

    /// The last descriptor and mapping are gone.
    pub fn release(&self, handle: u64, reply: Reply<()>) {
        let Some((_, Handle { file, mode })) = self.handles.remove(&handle) else {
            return reply(Err(FsError::BadHandle));
        };
        failpoint!("fs.release");
        let mut state = file.lock();
        self.shared.seal(file.ino, &mut state, false, to_reply(reply));
        drop(state);
        let last = self.shared.contents.open.close(&file, mode.write);
        let ino = file.ino;
        if last && self.shared.core().tree.is_unlinked(ino) {
            self.shared.step(|core, _, changes| core.forget_unlinked(ino, changes));
        }
        if last && self.shared.contents.has_unscanned() {
            self.shared.touch();
        }
        if last {
            // News that waited for the file to be closed are looked at now.
            self.shared.nudge.notify_one();
        }
    }

    /// Makes the file's bytes, its record and its name durable before it answers.
    pub fn fsync(&self, handle: u64, reply: Reply<()>) {
        match self.handle(handle) {
            Ok(handle) => self.sync_file(&handle.file, reply),
            Err(error) => reply(Err(error)),
        }
    }

    fn sync_file(&self, file: &Arc<OpenFile>, reply: Reply<()>) {
        let mut state = file.lock();
        // Also for who only opened it: an earlier sync of it may have failed.
        if let Err(error) = load(&self.shared, file.ino, &mut state) {
            drop(state);
            return reply(Err(error));
        }
        if let Body::Disk(disk) = &state.body
            && let Err(error) = sync_disk(&self.shared, disk)
        {
            drop(state);
            return reply(Err(error.into()));
        }
        state.fresh = false;
        let shared = Arc::clone(&self.shared);
        // What other calls on the file have submitted counts as well; the seal comes after it.
        let earlier = self.shared.store.submitted();
        self.shared.seal(
            file.ino,
            &mut state,
            false,
            Box::new(move |result| match result {
                Ok(()) => {
                    failpoint!("fs.fsync.sealed");
                    shared.store.when_synced(earlier, to_reply(reply));
                }
                Err(error) => reply(Err(error.into())),
            }),
        );
    }

    /// Makes all names durable before it answers.
    pub fn fsync_dir(&self, reply: Reply<()>) {
        failpoint!("fs.fsyncdir");
        self.shared.store.sync(to_reply(reply));
    }

    fn rules_may_have_changed_at(&self, ino: Ino) {
        let place = {
            let core = self.shared.core();
            core.tree.get(ino).map(|node| (node.parent, Arc::clone(&node.name)))
        };
        if let Some((parent, name)) = place {
            self.rules_may_have_changed(parent, &name);
        }
    }
}

/// Makes a working file and its name durable.
fn sync_disk(shared: &Shared, disk: &WorkingFile) -> std::io::Result<()> {
    failpoint!("fs.fsync.data");
    shared.contents.unsynced.sync_file(disk.file())
}

fn to_reply(reply: Reply<()>) -> Done {
    Box::new(move |result| reply(result.map_err(FsError::from)))
}

/// Takes up the node's content, unless it is only at the remote.
pub(super) fn load(shared: &Shared, ino: Ino, state: &mut OpenState) -> Result<Readiness, FsError> {
    if !matches!(state.body, Body::Unloaded) {
        return Ok(Readiness::Ready);
    }
    let content = {
        let core = shared.core();
        let node = core.tree.get(ino).ok_or(LocalError::Stale)?;
        let content = node.body().ok_or(FsError::WrongKind)?.content;
        let version = node.synced.as_deref().and_then(|synced| synced.revision.as_ref());
        let is_other = state.torn_from.as_ref().is_some_and(|torn| torn.as_ref() != version);
        if is_other && content != Content::Remote {
            return Err(FsError::Damaged);
        }
        content
    };
    state.body = match content {
        Content::Empty => Body::Shared(Bytes::new()),
        Content::Remote => return Ok(Readiness::Fetch),
        Content::Damaged => return Err(FsError::Damaged),
        Content::Blob(blob) => match shared.contents.blob(blob) {
            Ok(bytes) => Body::Shared(bytes),
            Err(StoreError::Damaged(why)) => return damaged(shared, ino, state, content, &why),
            Err(error) => return Err(error.into()),
        },
        Content::File(file) => match shared.contents.open_file(file) {
            Ok(file) => {
                if !file.is_complete() {
                    shared.contents.note_unscanned(ino);
                }
                Body::Disk(Arc::new(file))
            }
            Err(error) if is_damage(&error) => {
                return damaged(shared, ino, state, content, &error.to_string());
            }
            Err(error) => return Err(error.into()),
        },
    };
    Ok(Readiness::Ready)
}

/// What is left to do with a file whose content is not as it was written.
fn damaged(
    shared: &Shared,
    ino: Ino,
    state: &mut OpenState,
    content: Content,
    why: &str,
) -> Result<Readiness, FsError> {
    match shared.content_damaged_in(ino, state, content, why) {
        Recourse::Again => load(shared, ino, state),
        Recourse::Lost(_) => Err(FsError::Damaged),
    }
}

/// Runs `act` on a loaded file; where it meets damage, says what is left to do.
fn attempt<T>(
    shared: &Shared,
    ino: Ino,
    state: &mut OpenState,
    act: &impl Fn(&Shared, Ino, &mut OpenState) -> Result<T, FsError>,
) -> Result<Option<T>, FsError> {
    match act(shared, ino, state) {
        Err(FsError::Damaged) => {}
        result => return result.map(Some),
    }
    let Body::Disk(file) = &state.body else { return Err(FsError::Damaged) };
    let content = Content::File(file.id());
    let why = "its checksum does not match, or the disk cannot read it";
    match damaged(shared, ino, state, content, why)? {
        Readiness::Ready => act(shared, ino, state).map(Some),
        Readiness::Fetch => Ok(None),
    }
}

/// Writes into a loaded file. A small one stays in memory; one that grows past the border moves to
/// a working file, once.
fn write_at(
    shared: &Shared,
    ino: Ino,
    state: &mut OpenState,
    place: Place,
    data: &[u8],
) -> Result<usize, FsError> {
    let offset = match place {
        Place::At(offset) => offset,
        Place::End(believed) => {
            let end = state.size()?.unwrap_or(believed);
            if end != believed {
                // It would keep these bytes at a wrong place.
                shared.invalidate(vec![Invalidation::Node(ino)]);
            }
            end
        }
    };
    let mut written = data.len();
    let end = offset
        .checked_add(data.len() as u64)
        .ok_or(FsError::Disk(std::io::ErrorKind::FileTooLarge))?;
    if !shared.may_grow_to(ino, end) {
        return Err(FsError::Disk(std::io::ErrorKind::FileTooLarge));
    }
    let now = shared.now();
    let newly_dirty = state.dirty_since.is_none();
    make_changeable(shared, ino, state, end)?;
    match &mut state.body {
        Body::Memory(bytes) => {
            let (from, to) = (to_usize(offset)?, to_usize(end)?);
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(data);
            failpoint!("fs.write.memory");
        }
        Body::Disk(file) => {
            if newly_dirty {
                shared.note_disk_write(ino, state.sealed_at, now.wall)?;
                state.held = true;
            }
            failpoint!("fs.write.disk");
            written = file.write_some(offset, data)?;
            failpoint!("fs.write.disk.after");
        }
        Body::Unloaded | Body::Shared(_) => return Err(FsError::BadHandle),
    }
    state.changed(now.mono, now.wall);
    if newly_dirty {
        shared.nudge.notify_one();
    }
    Ok(written)
}

fn set_len(shared: &Shared, ino: Ino, state: &mut OpenState, size: u64) -> Result<(), FsError> {
    // A file that is too large already can be made smaller, whatever is left.
    if state.size()?.is_some_and(|known| size > known) && !shared.may_grow_to(ino, size) {
        return Err(FsError::Disk(std::io::ErrorKind::FileTooLarge));
    }
    let now = shared.now();
    let newly_dirty = state.dirty_since.is_none();
    make_changeable(shared, ino, state, size)?;
    match &mut state.body {
        Body::Memory(bytes) => bytes.resize(to_usize(size)?, 0),
        Body::Disk(file) => {
            if newly_dirty {
                shared.note_disk_write(ino, state.sealed_at, now.wall)?;
                state.held = true;
            }
            file.set_len(size)?;
        }
        Body::Unloaded | Body::Shared(_) => return Err(FsError::BadHandle),
    }
    state.changed(now.mono, now.wall);
    failpoint!("fs.truncate");
    Ok(())
}

/// Brings the body into the form that a change up to `end` needs.
pub(super) fn make_changeable(
    shared: &Shared,
    ino: Ino,
    state: &mut OpenState,
    end: u64,
) -> Result<(), FsError> {
    if end > SMALL_MAX {
        shared.move_to_disk(ino, state)?;
    }
    if let Body::Shared(bytes) = &state.body {
        state.body = Body::Memory(bytes.to_vec());
    }
    Ok(())
}

pub(super) fn to_usize(size: u64) -> Result<usize, FsError> {
    usize::try_from(size).map_err(|_too_large| FsError::Disk(std::io::ErrorKind::FileTooLarge))
}

/// The size of a file, when it is known and not only bounded.
pub(super) fn exact_size(shared: &Shared, ino: Ino) -> Option<u64> {
    let core = shared.core();
    core.tree.get(ino)?.body().filter(|body| body.exact).map(|body| body.size)
}
