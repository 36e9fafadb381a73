//! Working files: the bytes of large files, changed in place, and whether they are still the ones
//! that were written.
//!
//! A working file is looked at in blocks. Of a block that nobody changed since its checksum was
//! taken the checksum is known; each descriptor compares it before it gives the block's bytes out
//! for the first time, and before it changes a part of it. Of a block that was changed nothing is
//! known until the whole file is scanned: when it is sent, or when it is quiet. *Blocking:* disk.

mod ranges;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::checksum::Checksum;
use crate::digest::{Digest, Hasher};
use crate::node::FileId;
use crate::store::FileSums;

pub use self::ranges::{Allocation, Seek};

/// Bytes of a block.
const BLOCK_BYTES: u64 = 64 << 10;

/// Bytes that a scan reads at a time: whole blocks.
const SCAN_BYTES: usize = 4 * (64 << 10);

/// What is known of the bytes of a working file, for all who have it open.
#[derive(Debug, Default)]
pub struct Blocks(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The file's length when the checksums were taken.
    size: u64,
    /// The checksum of each block, where it is known.
    sums: Vec<Option<Checksum>>,
    /// Counts changes, so that a scan can tell whether it saw one version.
    changes: u64,
}

impl Blocks {
    /// Takes up what is known from before.
    #[must_use]
    pub fn known(sums: &FileSums) -> Self {
        let known = sums.blocks.iter().copied().map(Some).collect();
        Self(Mutex::new(Known { size: sums.size, sums: known, changes: 0 }))
    }

    /// How often the file was changed since the start.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Whether there are bytes of which nothing is known; `size` is the file's length.
    #[must_use]
    pub fn is_complete(&self, size: u64) -> bool {
        let known = self.lock();
        known.size == size
            && known.sums.len() as u64 == size.div_ceil(BLOCK_BYTES)
            && known.sums.iter().all(Option::is_some)
    }

    /// Whether the file had another length when its checksums were taken, and was not changed since.
    #[must_use]
    pub fn is_of_another_length(&self, size: u64) -> bool {
        let known = self.lock();
        known.changes == 0 && !known.sums.is_empty() && known.size != size
    }

    /// Takes up what a scan found, unless the file was changed since it began.
    pub fn learn(&self, scan: &Scan) -> bool {
        let mut known = self.lock();
        let same = known.changes == scan.changes;
        if same {
            known.size = scan.sums.size;
            known.sums = scan.sums.blocks.iter().copied().map(Some).collect();
        }
        same
    }

    /// The block's checksum and the number of its bytes, where they are known.
    fn of_block(&self, block: u64) -> Option<(Checksum, usize)> {
        let known = self.lock();
        let sum = (*known.sums.get(usize::try_from(block).ok()?)?)?;
        let len = known.size.saturating_sub(block * BLOCK_BYTES).min(BLOCK_BYTES);
        Some((sum, usize::try_from(len).ok()?))
    }

    /// Notes that bytes from `from` to `to` are about to change.
    fn forget(&self, from: u64, to: u64) {
        let mut known = self.lock();
        known.changes += 1;
        let first = usize::try_from(from / BLOCK_BYTES).unwrap_or(usize::MAX);
        let end = usize::try_from(to.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
        let len = known.sums.len();
        for sum in &mut known.sums[first.min(len)..end.min(len)] {
            *sum = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A working file that is open.
#[derive(Debug)]
pub struct WorkingFile {
    id: FileId,
    file: Arc<File>,
    blocks: Arc<Blocks>,
    /// Blocks that were compared since it was opened.
    checked: Mutex<BTreeSet<u64>>,
}

impl WorkingFile {
    pub(super) fn new(id: FileId, file: File, blocks: Arc<Blocks>) -> Self {
        Self { id, file: Arc::new(file), blocks, checked: Mutex::default() }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads up to `len` bytes, short only at the end of the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it was written ([`is_damage`]).
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = read_at(&self.file, offset, len)?;
        for block in blocks_of(offset, offset + len as u64) {
            let Some((sum, block_len)) = self.to_check(block) else { continue };
            let begin = block * BLOCK_BYTES;
            let here = begin
                .checked_sub(offset)
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| bytes.get(at..at + block_len));
            match here {
                Some(here) => self.compare(block, here, sum)?,
                None => self.compare(block, &read_at(&self.file, begin, block_len)?, sum)?,
            }
        }
        Ok(bytes)
    }

    /// Writes at an offset. What remains of the blocks is compared before.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is not as it was written; nothing was written then.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = self.write_some(offset, data)?;
        let rest = &data[written..];
        self.file.write_all_at(rest, offset + written as u64).map_err(of_writing)
    }

    /// Writes at an offset as much as there is room for. What remains of the blocks is compared before.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is not as it was written; nothing was written then.
    pub fn write_some(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let end = offset + data.len() as u64;
        let size = self.size()?;
        let from = offset.min(size);
        self.check_edge(from)?;
        if end < size {
            self.check_edge(end)?;
        }
        self.blocks.forget(from, end);
        let mut written = 0;
        while written < data.len() {
            match self.file.write_at(&data[written..], offset + written as u64) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if written == 0 => return Err(of_writing(error)),
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// Cuts or extends it.
    ///
    /// # Errors
    /// As for [`WorkingFile::write`].
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.size()?;
        self.check_edge(old.min(len))?;
        self.blocks.forget(old.min(len), old.max(len));
        self.file.set_len(len).map_err(of_writing)
    }

    /// The file itself, to be made durable.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether there are bytes of which nothing is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.size().is_ok_and(|size| self.blocks.is_complete(size))
    }

    /// Compares the block that `at` divides: a part of it stays as it is.
    fn check_edge(&self, at: u64) -> io::Result<()> {
        let block = at / BLOCK_BYTES;
        match self.to_check(block).filter(|_| !at.is_multiple_of(BLOCK_BYTES)) {
            None => Ok(()),
            Some((sum, len)) => {
                self.compare(block, &read_at(&self.file, block * BLOCK_BYTES, len)?, sum)
            }
        }
    }

    fn to_check(&self, block: u64) -> Option<(Checksum, usize)> {
        let known = self.blocks.of_block(block)?;
        (!self.checked().contains(&block)).then_some(known)
    }

    fn compare(&self, block: u64, bytes: &[u8], sum: Checksum) -> io::Result<()> {
        if Checksum::of(bytes) != sum {
            return Err(damaged(block));
        }
        self.checked().insert(block);
        Ok(())
    }

    fn checked(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scan of a whole file found.
#[derive(Debug)]
pub struct Scan {
    /// The digest of all bytes.
    pub digest: Digest,
    /// The length and the checksum of each block.
    pub sums: FileSums,
    /// The bytes, where they were asked for.
    pub bytes: Vec<u8>,
    changes: u64,
}

impl Scan {
    /// Whether the file was not changed since the scan began.
    #[must_use]
    pub fn is_current(&self, blocks: &Blocks) -> bool {
        blocks.changes() == self.changes
    }
}

/// Reads the file at `path` as a whole; compares what is known of it.
///
/// # Errors
/// When it cannot be read, or is not as it was written ([`is_damage`]).
pub fn scan(path: &Path, blocks: &Blocks, keep: bool) -> io::Result<Scan> {
    let changes = blocks.changes();
    let mut file = File::open(path)?;
    let mut hasher = Hasher::default();
    let mut sums = FileSums { size: 0, blocks: Vec::new() };
    let mut bytes = Vec::new();
    let mut buffer = vec![0; SCAN_BYTES];
    let mut wrong = None;
    loop {
        let filled = fill(&mut file, &mut buffer)?;
        let piece = &buffer[..filled];
        hasher.update(piece);
        if keep {
            bytes.extend_from_slice(piece);
        }
        #[allow(clippy::cast_possible_truncation, reason = "a block is 64 KiB")]
        for block in piece.chunks(BLOCK_BYTES as usize) {
            let at = sums.blocks.len() as u64;
            let sum = Checksum::of(block);
            if blocks.of_block(at).is_some_and(|known| known != (sum, block.len())) {
                wrong.get_or_insert(at);
            }
            sums.blocks.push(sum);
            sums.size += block.len() as u64;
        }
        if filled < buffer.len() {
            break;
        }
    }
    let lacking = blocks.of_block(sums.blocks.len() as u64).map(|_| sums.blocks.len() as u64);
    match wrong.or(lacking) {
        // What was changed meanwhile is looked at again.
        Some(block) if blocks.changes() == changes => Err(damaged(block)),
        _ => Ok(Scan { digest: hasher.finish(), sums, bytes, changes }),
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn blocks_of(from: u64, to: u64) -> std::ops::Range<u64> {
    from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES)
}

fn damaged(block: u64) -> io::Error {
    let message = format!("the checksum of block {block} does not match");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Whether an error of a working file means that its bytes cannot be had any more: they are not as
/// they were written, the disk cannot read them, or the file is gone.
#[must_use]
pub fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
        || error.raw_os_error() == Some(EIO)
}

/// A failed write says nothing about the bytes that are there.
#[allow(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn of_writing(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// What a disk answers that cannot read a sector.
const EIO: i32 = 5;

/// Reads up to `len` bytes, short only at the end of the file.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(Bytes::from(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 3 * (64 << 10) + 100;

    struct Case {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        blocks: Arc<Blocks>,
    }

    fn case() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
        std::fs::write(&path, bytes).unwrap();
        let blocks = Arc::new(Blocks::default());
        let found = scan(&path, &blocks, false).unwrap();
        assert!(!blocks.is_complete(LEN as u64));
        assert!(blocks.learn(&found) && blocks.is_complete(LEN as u64));
        Case { _folder: folder, path, blocks }
    }

    impl Case {
        fn open(&self) -> WorkingFile {
            let file = File::options().read(true).write(true).open(&self.path).unwrap();
            WorkingFile::new(FileId(1), file, Arc::clone(&self.blocks))
        }

        fn flip(&self, at: u64) {
            let file = File::options().read(true).write(true).open(&self.path).unwrap();
            let byte = read_at(&file, at, 1).unwrap()[0];
            file.write_all_at(&[byte ^ 4], at).unwrap();
        }
    }

    #[test]
    fn a_flipped_bit_is_neither_read_nor_scanned_nor_written_over() {
        let case = case();
        case.flip((64 << 10) + 7);
        let file = case.open();
        assert_eq!(file.read(0, 100).unwrap().len(), 100);
        for (offset, len) in [((64 << 10) + 7, 1), (100, 64 << 10), (0, LEN), (65_536, 65_536)] {
            let error = file.read(offset, len).unwrap_err();
            assert!(is_damage(&error), "{offset} {len}");
        }
        // The other blocks are as they were.
        assert_eq!(file.read(131_072, LEN).unwrap().len(), LEN - 131_072);
        assert!(is_damage(&scan(&case.path, &case.blocks, false).unwrap_err()));
        assert!(is_damage(&file.write(65_600, b"x").unwrap_err()));
        assert!(is_damage(&file.set_len(65_600).unwrap_err()));
        // Written over as a whole, it is good again.
        file.write(65_536, &vec![1; 65_536]).unwrap();
        assert_eq!(file.read(0, LEN).unwrap().len(), LEN);
        assert!(scan(&case.path, &case.blocks, false).is_ok());
    }

    #[test]
    fn a_cut_file_is_damaged() {
        for len in [LEN - 1, 2 * (64 << 10), 0] {
            let case = case();
            File::options().write(true).open(&case.path).unwrap().set_len(len as u64).unwrap();
            assert!(is_damage(&scan(&case.path, &case.blocks, false).unwrap_err()), "{len}");
            assert!(is_damage(&case.open().read(len as u64, 10).unwrap_err()), "{len}");
        }
    }

    #[test]
    fn what_is_written_is_believed_and_learned() {
        let case = case();
        let file = case.open();
        file.write(LEN as u64 + 1000, b"end").unwrap();
        file.set_len(LEN as u64 + 500).unwrap();
        file.write(5, b"five").unwrap();
        assert!(!file.is_complete());
        assert_eq!(file.read(5, 4).unwrap(), "five");
        let found = scan(&case.path, &case.blocks, true).unwrap();
        assert_eq!(found.digest, Digest::of(&found.bytes));
        assert_eq!(found.sums.size, LEN as u64 + 500);
        assert!(case.blocks.learn(&found) && file.is_complete());
        // A scan that something was written into says nothing.
        let stale = scan(&case.path, &case.blocks, false).unwrap();
        file.write(0, b"new").unwrap();
        assert!(!case.blocks.learn(&stale) && !file.is_complete());
    }
}
