//! Room for what must be written down although the disk is full.
//!
//! A file beside the database takes that room while there is some. When a commit finds the disk full the
//! file gets shorter, and the commit finds its room there. It is given away piece by piece: others who write
//! to the disk would take it, too. From then on nobody should begin what needs more ([`Reserve::has_room`])
//! until the file has its full length again. Where a disk cannot set room aside there is no reserve, and a
//! commit that finds it full fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

/// So much is set aside; of a small disk the sixteenth part. Some hundred commits need it.
const RESERVE_BYTES: u64 = 4 << 20;

/// In so many pieces it is given away.
const PIECES: u64 = 8;

/// The room that is set aside on the disk of the database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// It was given away and is not there again.
    short: AtomicBool,
    /// Held while the file is made or removed.
    change: Mutex<()>,
}

impl Reserve {
    /// Sets room aside beside `database`.
    pub(super) fn beside(database: &Path) -> Self {
        let path = database.with_file_name("reserve");
        let reserve = Self { path, short: AtomicBool::new(false), change: Mutex::default() };
        let full = reserve.take().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
        reserve.short.store(full, Ordering::Release);
        reserve
    }

    /// Gives a piece of the room to whoever needs it now. Whether there was any.
    pub(super) fn give(&self) -> bool {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let given = self.shorten().is_ok_and(|given| given);
        if given && !self.short.swap(true, Ordering::AcqRel) {
            tracing::warn!("the disk of the state folder is full: nothing new is taken");
        }
        given
    }

    fn shorten(&self) -> io::Result<bool> {
        let file = File::options().write(true).open(&self.path)?;
        let bytes = file.metadata()?.len();
        let piece = (self.bytes()? / PIECES).max(1);
        file.set_len(bytes.saturating_sub(piece))?;
        Ok(bytes > 0)
    }

    /// Whether new things may be begun. Looks whether there is room again, when there was none.
    pub(super) fn has_room(&self) -> bool {
        if !self.short.load(Ordering::Acquire) {
            return true;
        }
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if self.short.load(Ordering::Acquire) && self.take().is_ok() {
            self.short.store(false, Ordering::Release);
            tracing::info!("there is room on the disk of the state folder again");
        }
        !self.short.load(Ordering::Acquire)
    }

    /// Whether there is room for a step that writes about so many bytes: one that takes little may be
    /// begun whenever the reserve is whole.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        let enough = || {
            let least = self.bytes()? / 2;
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let disk = nix::sys::statvfs::statvfs(folder).map_err(io::Error::from)?;
            let free = disk.blocks_available() * disk.fragment_size();
            Ok::<_, io::Error>(bytes <= least.max(free))
        };
        self.has_room() && enough().unwrap_or(true)
    }

    fn take(&self) -> io::Result<()> {
        let bytes = i64::try_from(self.bytes()?).unwrap_or(i64::MAX);
        let file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
        let before = file.metadata()?.len();
        fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(|error| {
            // Some disks keep the part that there was room for.
            drop(file.set_len(before));
            io::Error::from(error)
        })
    }

    fn bytes(&self) -> io::Result<u64> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let disk = nix::sys::statvfs::statvfs(folder).map_err(io::Error::from)?;
        Ok(RESERVE_BYTES.min(disk.blocks() * disk.fragment_size() / 16).max(1))
    }
}
