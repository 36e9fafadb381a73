//! Room and holes of a working file: what `fallocate` and `SEEK_DATA` do.
//!
//! What is set aside, punched out or zeroed changes blocks as a write does: what remains of them is compared
//! before. Where the disk cannot do it by itself, zeros are written.

use std::io;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::WorkingFile;

/// What is to happen to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// It has room on the disk; the file is extended to hold it.
    Extend,
    /// It has room on the disk, also past the end; the length stays.
    KeepSize,
    /// It reads as zeros and gives its room back; the length stays.
    Punch,
    /// It reads as zeros; the file is extended to hold it.
    Zero,
    /// It reads as zeros as far as the file goes.
    ZeroKeepSize,
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end is one.
    Hole,
}

/// Bytes of zeros that are written at a time.
const ZEROS: &[u8] = &[0; 64 << 10];

impl WorkingFile {
    /// Changes a range.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is not as it was written.
    pub fn allocate(&self, how: Allocation, offset: u64, len: u64) -> io::Result<()> {
        let size = self.size()?;
        let end = offset + len;
        let flags = match how {
            Allocation::Extend => FallocateFlags::empty(),
            Allocation::KeepSize => FallocateFlags::FALLOC_FL_KEEP_SIZE,
            Allocation::Punch => {
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE
            }
            Allocation::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            Allocation::ZeroKeepSize => {
                FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE
            }
        };
        let extends = matches!(how, Allocation::Extend | Allocation::Zero) && end > size;
        let zeroes = matches!(how, Allocation::Punch | Allocation::Zero | Allocation::ZeroKeepSize);
        if zeroes && offset < size {
            self.check_edge(offset)?;
            if end < size {
                self.check_edge(end)?;
            }
            self.blocks.forget(offset, end.min(size));
        }
        if extends {
            self.check_edge(size)?;
            self.blocks.forget(size, end);
        }
        let signed = |number: u64| {
            i64::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
        };
        match fallocate(&self.file, flags, signed(offset)?, signed(len)?) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                if zeroes {
                    self.write_zeros(offset.min(size), end.min(size))?;
                }
                if extends { self.file.set_len(end) } else { Ok(()) }
            }
            Err(error) => Err(super::of_writing(error.into())),
        }
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    /// The next data or hole from `offset` on; `None` past the end.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        let Ok(from) = i64::try_from(offset) else { return Ok(None) };
        let whence = match what {
            Seek::Data => Whence::SeekData,
            Seek::Hole => Whence::SeekHole,
        };
        // Nothing else uses the position of this descriptor.
        match lseek(&self.file, from, whence) {
            Ok(at) => Ok(u64::try_from(at).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::super::{Blocks, is_damage, scan};
    use super::*;
    use crate::node::FileId;

    const LEN: usize = 300_000;

    fn file() -> (tempfile::TempDir, WorkingFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        std::fs::write(&path, vec![7; LEN]).unwrap();
        let blocks = Arc::new(Blocks::default());
        assert!(blocks.learn(&scan(&path, &blocks, false).unwrap()));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        (folder, WorkingFile::new(FileId(1), file, blocks))
    }

    #[test]
    fn ranges_are_changed_as_asked_and_the_rest_stays() {
        let cases = [
            (Allocation::Extend, 250_000, 100_000, 350_000, None),
            (Allocation::KeepSize, 250_000, 100_000, LEN, None),
            (Allocation::Punch, 70_000, 100_000, LEN, Some(70_000..170_000)),
            (Allocation::Punch, 290_000, 100_000, LEN, Some(290_000..LEN)),
            (Allocation::Zero, 290_000, 100_000, 390_000, Some(290_000..LEN)),
            (Allocation::ZeroKeepSize, 10, 20, LEN, Some(10..30)),
        ];
        for (how, offset, len, size, zeros) in cases {
            let (folder, file) = file();
            file.allocate(how, offset as u64, len as u64).unwrap();
            let mut expected = vec![7; LEN];
            expected.resize(size, 0);
            if let Some(zeros) = zeros {
                expected[zeros].fill(0);
            }
            assert!(file.read(0, 1 << 20).unwrap() == expected, "{how:?}");
            // What is known of the blocks is still true.
            assert!(scan(&folder.path().join("1"), &file.blocks, false).is_ok(), "{how:?}");
        }
    }

    #[test]
    fn a_damaged_edge_is_noticed() {
        let (folder, file) = file();
        std::fs::write(folder.path().join("1"), vec![8; LEN]).unwrap();
        assert!(is_damage(&file.allocate(Allocation::Punch, 70_000, 1_000).unwrap_err()));
    }

    #[test]
    fn data_and_holes_are_found() {
        let (_folder, file) = file();
        assert_eq!(file.seek(Seek::Data, 5).unwrap(), Some(5));
        assert_eq!(file.seek(Seek::Hole, 5).unwrap(), Some(LEN as u64));
        assert_eq!(file.seek(Seek::Data, LEN as u64).unwrap(), None);
        file.set_len(1 << 20).unwrap();
        let hole = file.seek(Seek::Hole, 0).unwrap().unwrap();
        assert!(hole >= LEN as u64 && hole <= 1 << 20);
    }
}
