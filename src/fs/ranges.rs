//! Calls on ranges of open files: room set aside, holes, and copies from file to file.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;

use super::files::{Place, Readiness, exact_size, load, make_changeable, to_usize};
use super::{Fs, FsError, Reply};
use crate::content::open::{Body, OpenState};
use crate::content::working::{Allocation, Seek};
use crate::engine::Shared;
use crate::node::Ino;

/// Bytes of one step of a copy; who asks for more asks again.
const COPY_BYTES_MAX: usize = 1 << 20;

impl Fs {
    /// Sets room aside for a range, or zeroes it.
    pub fn allocate(&self, handle: u64, how: Allocation, offset: u64, len: u64, reply: Reply<()>) {
        // A hole gives room back.
        let room = if how == Allocation::Punch { Ok(()) } else { self.need_room() };
        match room.and_then(|()| self.handle(handle)) {
            Ok(handle) => {
                let act = move |shared: &Shared, ino, state: &mut OpenState| {
                    allocate(shared, ino, state, how, (offset, len))
                };
                self.with_bytes(handle.file, act, reply);
            }
            Err(error) => reply(Err(error)),
        }
    }

    /// The next data or hole from `offset` on. What only the remote has is one run of data.
    ///
    /// # Errors
    /// When the handle is not open, or `offset` is past the end.
    pub fn seek(&self, handle: u64, what: Seek, offset: u64) -> Result<u64, FsError> {
        let file = self.handle(handle)?.file;
        let mut state = file.lock();
        let found = match (load(&self.shared, file.ino, &mut state)?, &state.body) {
            (Readiness::Ready, Body::Disk(disk)) => disk.seek(what, offset)?,
            (readiness, _) => {
                let size = match readiness {
                    Readiness::Ready => state.size()?,
                    Readiness::Fetch => exact_size(&self.shared, file.ino),
                };
                let size = size.filter(|size| offset < *size);
                size.map(|size| if what == Seek::Data { offset } else { size })
            }
        };
        found.ok_or(FsError::PastEnd)
    }

    /// Copies bytes from one open file to another, or within one. Answers how many it were.
    pub fn copy_range(
        &self,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
        reply: Reply<usize>,
    ) {
        let (from, to) = match (self.handle(from), self.handle(to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return reply(Err(error)),
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(COPY_BYTES_MAX);
        let fs = Self::new(Arc::clone(&self.shared), self.runtime.clone());
        let write: Reply<Bytes> = Box::new(move |bytes| match bytes {
            Ok(bytes) if bytes.is_empty() => reply(Ok(0)),
            Ok(bytes) => fs.write_to(to, Place::At(to_offset), &bytes, reply),
            Err(error) => reply(Err(error)),
        });
        self.with_bytes(from.file, move |_, _, state| Ok(state.read(from_offset, len)?), write);
    }
}

fn allocate(
    shared: &Shared,
    ino: Ino,
    state: &mut OpenState,
    how: Allocation,
    (offset, len): (u64, u64),
) -> Result<(), FsError> {
    let end = offset.checked_add(len).ok_or(FsError::Disk(ErrorKind::FileTooLarge))?;
    let size = state.size()?.unwrap_or_default();
    let (changes, new_size) = match how {
        Allocation::Extend => (end > size, size.max(end)),
        Allocation::Zero => (true, size.max(end)),
        Allocation::KeepSize => (false, size),
        Allocation::Punch | Allocation::ZeroKeepSize => (offset < size, size),
    };
    if new_size > size && !shared.may_grow_to(ino, new_size) {
        return Err(FsError::Disk(ErrorKind::FileTooLarge));
    }
    let now = shared.now();
    let newly_dirty = changes && state.dirty_since.is_none();
    if changes {
        make_changeable(shared, ino, state, new_size)?;
    }
    match &mut state.body {
        // Memory sets nothing aside: what has no room is refused when it is written or closed.
        Body::Memory(_) | Body::Shared(_) if !changes => return Ok(()),
        Body::Memory(bytes) => {
            bytes.resize(to_usize(new_size)?, 0);
            if how != Allocation::Extend {
                let (from, to) = (to_usize(offset)?, to_usize(end.min(new_size))?);
                bytes[from.min(to)..to].fill(0);
            }
        }
        Body::Disk(file) => {
            let file = Arc::clone(file);
            if newly_dirty {
                shared.note_disk_write(ino, state.sealed_at, now.wall)?;
                state.held = true;
            }
            file.allocate(how, offset, len)?;
        }
        Body::Unloaded | Body::Shared(_) => return Err(FsError::BadHandle),
    }
    if changes {
        state.changed(now.mono, now.wall);
        if newly_dirty {
            shared.nudge.notify_one();
        }
    }
    Ok(())
}
