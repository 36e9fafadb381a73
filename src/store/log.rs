//! The write-ahead log before SQLite reads it: single bits that flipped in it are turned back.
//!
//! SQLite believes a log up to its first frame whose checksum does not match, and forgets what
//! comes after: that is right for a tail that power loss tore, and would silently drop committed
//! steps where a bit flipped at rest. The two can be told apart: a flipped bit can be found, by
//! trying each, and the frame's checksum of 64 bits then matches; a torn frame cannot be repaired
//! so. The format is SQLite's (<https://www.sqlite.org/fileformat2.html#walformat>).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The checksum of a frame covers so many bytes of its header, and the page.
const FRAME_SUMMED: usize = 8;
/// Magic number without its lowest bit, which says in which order numbers are summed.
const MAGIC: u32 = 0x377f_0682;

/// What was found in a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCheck {
    /// Bits that were turned back.
    pub mended: usize,
    /// Frames of this log behind one that cannot be read: power loss tore the log, or more than
    /// a bit of it is damaged. SQLite does not read them.
    pub unreadable: usize,
}

/// A pair of sums as the format chains them.
type Sums = (u32, u32);

/// Checks the log at `path`; `keep` is called before it is changed.
///
/// # Errors
/// When it cannot be read or written. There may be none.
pub(super) fn check(path: &Path, keep: impl FnOnce() -> io::Result<()>) -> io::Result<LogCheck> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogCheck::default()),
        Err(error) => return Err(error),
    };
    let mut found = LogCheck::default();
    let mut keep = Some(keep);
    let mut write = |bytes: &[u8], at: u64| -> io::Result<()> {
        keep.take().map_or(Ok(()), |keep| keep())?;
        failpoint!("log.kept");
        file_at(path)?.write_all_at(bytes, at)
    };
    let mut header = [0; HEADER];
    if file.read_exact(&mut header).is_err() {
        return Ok(found);
    }
    if !header_holds(&header) {
        // The last number of the header and a sum of it change alike; the frames know the salt.
        let mut salt = [0; 8];
        let knows = file.read_exact_at(&mut salt, (HEADER + 8) as u64).is_ok();
        let holds = |header: &[u8]| header_holds(header) && (!knows || header[16..24] == salt);
        let Some(bit) = flipped(&mut header, holds) else { return Ok(found) };
        tracing::error!(bit, "a bit of the log's header had flipped");
        found.mended += 1;
        write(&header, 0)?;
    }
    let order = Order::of(&header);
    let page_bytes = usize::try_from(number(&header, 8)).unwrap_or_default().max(512);
    let salt = header[16..24].to_vec();
    // The sums by which the next frame was written, and those by which it is to be read: they part
    // at a frame of which it is certain that a bit flipped, but not which.
    let mut written = (number(&header, 24), number(&header, 28));
    let mut sums = written;
    let mut frame = vec![0; FRAME_HEADER + page_bytes];
    let mut at = HEADER as u64;
    file.seek(SeekFrom::Start(at))?;
    while file.read_exact(&mut frame).is_ok() {
        let holds = order.frame_holds(&frame, &salt, written);
        if !holds {
            let mut next = vec![0; frame.len()];
            let follows = file.read_exact_at(&mut next, at + frame.len() as u64).is_ok();
            if !order.mend_frame(&mut frame, &salt, written, follows.then_some(&next)) {
                break;
            }
            found.mended += 1;
        }
        written = (number(&frame, 16), number(&frame, 20));
        let now = order.sum_of_frame(&frame, sums);
        if !holds || now != written {
            frame[16..20].copy_from_slice(&now.0.to_be_bytes());
            frame[20..24].copy_from_slice(&now.1.to_be_bytes());
            write(&frame, at)?;
        }
        sums = now;
        at += frame.len() as u64;
    }
    // What follows belongs to this log when it has its salt; what an earlier one left has another.
    file.seek(SeekFrom::Start(at + frame.len() as u64))?;
    while file.read_exact(&mut frame).is_ok() {
        found.unreadable += usize::from(frame[8..16] == salt);
    }
    if found.mended > 0 {
        file.sync_all()?;
        failpoint!("log.mended");
    }
    Ok(found)
}

fn file_at(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// In which order the bytes of a number are summed.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    fn of(header: &[u8]) -> Self {
        Self { big: number(header, 0) & 1 == 1 }
    }

    fn word(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn sum(self, bytes: &[u8], from: Sums) -> Sums {
        (0..bytes.len()).step_by(8).fold(from, |(first, second), at| {
            let first = first.wrapping_add(self.word(bytes, at)).wrapping_add(second);
            (first, second.wrapping_add(self.word(bytes, at + 4)).wrapping_add(first))
        })
    }

    fn sum_of_frame(self, frame: &[u8], before: Sums) -> Sums {
        self.sum(&frame[FRAME_HEADER..], self.sum(&frame[..FRAME_SUMMED], before))
    }

    fn frame_holds(self, frame: &[u8], salt: &[u8], before: Sums) -> bool {
        frame[8..16] == *salt
            && self.sum_of_frame(frame, before) == (number(frame, 16), number(frame, 20))
    }

    /// Finds the one bit that flipped. Its place decides what it changed: the salt and the stored
    /// sums can be compared, in what is summed each bit is tried. The last number of a page and a
    /// sum of it change alike: then the `next` frame, which goes on from the sums, knows.
    fn mend_frame(
        self,
        frame: &mut [u8],
        salt: &[u8],
        before: Sums,
        next: Option<&Vec<u8>>,
    ) -> bool {
        if differing_bits(&frame[8..16], salt) == 1 {
            frame[8..16].copy_from_slice(salt);
            return self.frame_holds(frame, salt, before);
        }
        if frame[8..16] != *salt {
            return false;
        }
        let (first, second) = self.sum_of_frame(frame, before);
        let sums = [first.to_be_bytes(), second.to_be_bytes()].concat();
        let goes_on = next.is_none_or(|next| {
            next[8..16] != *salt || self.frame_holds(next, salt, (first, second))
        });
        if differing_bits(&frame[16..24], &sums) == 1 && goes_on {
            frame[16..24].copy_from_slice(&sums);
            return true;
        }
        let wanted = (number(frame, 16), number(frame, 20));
        let summed: Vec<usize> = (0..FRAME_SUMMED).chain(FRAME_HEADER..frame.len()).collect();
        let bytes: Vec<u8> = summed.iter().map(|at| frame[*at]).collect();
        // The sums before each pair of numbers, so that a trial begins there.
        let mut prefix = vec![before];
        for pair in bytes.chunks(8) {
            prefix.push(self.sum(pair, *prefix.last().unwrap_or(&before)));
        }
        let mut candidates = Vec::new();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let pair = at / 8;
                let mut changed = [0; 8];
                changed.copy_from_slice(&bytes[pair * 8..pair * 8 + 8]);
                changed[at % 8] ^= 1 << bit;
                let sums = self.sum(&changed, prefix[pair]);
                if self.sum(&bytes[pair * 8 + 8..], sums) == wanted {
                    candidates.push((summed[at], bit));
                }
            }
        }
        // High bits of different numbers may change the sums alike: then the frame is taken as it
        // is, and the checksum of the row that it is in finds out.
        if let [(at, bit)] = *candidates {
            frame[at] ^= 1 << bit;
        }
        !candidates.is_empty()
    }
}

fn differing_bits(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

fn header_holds(header: &[u8]) -> bool {
    number(header, 0) & !1 == MAGIC
        && Order::of(header).sum(&header[..24], (0, 0)) == (number(header, 24), number(header, 28))
}

/// Turns back the one bit after which `holds`.
fn flipped(bytes: &mut [u8], holds: impl Fn(&[u8]) -> bool) -> Option<usize> {
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if holds(bytes) {
            return Some(bit);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A database whose rows are in the log only, as a killed process leaves it.
    fn left_behind() -> (tempfile::TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, b BLOB)", []).unwrap();
        for n in 0..5 {
            connection.execute("INSERT INTO t VALUES (?1, zeroblob(3000))", [n]).unwrap();
        }
        let log = std::fs::read(folder.path().join("a.db-wal")).unwrap();
        let main = std::fs::read(&path).unwrap();
        drop(connection);
        std::fs::write(&path, main).unwrap();
        (folder, log)
    }

    fn rows(folder: &Path) -> i64 {
        let connection = Connection::open(folder.join("a.db")).unwrap();
        let count = "SELECT count(*) FROM t";
        let rows = connection.query_row(count, [], |row| row.get(0)).unwrap_or(-1);
        assert_eq!(
            rows > 0,
            connection
                .pragma_query_value(None, "quick_check", |row| { row.get::<_, String>(0) })
                .is_ok_and(|text| text == "ok")
                && rows > 0
        );
        rows
    }

    #[test]
    fn any_single_bit_of_a_log_is_turned_back() {
        let (folder, log) = left_behind();
        let path = folder.path().join("a.db-wal");
        std::fs::write(&path, &log).unwrap();
        assert_eq!(check(&path, || panic!("nothing to change")).unwrap(), LogCheck::default());
        // Each field of the header and of a frame, places all over the pages, and the end of a page.
        // Left out are the last number of the log and the highest byte of each: the sums do not
        // always tell those from others.
        let ends = (32 + 24 + 4092..32 + 24 + 4096 + 24).step_by(5);
        let places = (0..57).step_by(2).chain(ends).chain((64..log.len()).step_by(9973));
        for at in places.filter(|at| at % 4 != 3 && *at < log.len() - 4) {
            let bit = at % 8;
            let mut flipped = log.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, &flipped).unwrap();
            let mut kept = false;
            let found = check(&path, || {
                kept = true;
                Ok(())
            });
            assert_eq!(found.unwrap(), LogCheck { mended: 1, unreadable: 0 }, "byte {at}");
            assert!(kept && std::fs::read(&path).unwrap() == log, "byte {at}");
        }
        assert_eq!(rows(folder.path()), 5);
    }

    /// Which highest bit flipped cannot be told; but that no more than a bit did, and what is
    /// behind it is read.
    #[test]
    fn behind_a_bit_that_cannot_be_told_the_log_goes_on() {
        let (folder, log) = left_behind();
        let path = folder.path().join("a.db-wal");
        let mut flipped = log.clone();
        // In the zeros of the first row of that size.
        let at = log.len() - 3 * (FRAME_HEADER + 4096) - 1001;
        let at = at - (at - HEADER - FRAME_HEADER) % 4 + 3;
        flipped[at] ^= 0x80;
        std::fs::write(&path, &flipped).unwrap();
        let found = check(&path, || Ok(())).unwrap();
        assert_eq!(found, LogCheck { mended: 1, unreadable: 0 });
        assert_ne!(std::fs::read(&path).unwrap(), log);
        assert_eq!(rows(folder.path()), 5);
    }

    #[test]
    fn a_torn_log_is_left_alone_and_told() {
        let (folder, mut log) = left_behind();
        let path = folder.path().join("a.db-wal");
        let frame = FRAME_HEADER + 4096;
        let frames = (log.len() - HEADER) / frame;
        let torn = HEADER + (frames - 3) * frame;
        log[torn + 100..torn + 2000].fill(0xaa);
        std::fs::write(&path, &log).unwrap();
        let found = check(&path, || panic!("nothing to change")).unwrap();
        assert_eq!(found, LogCheck { mended: 0, unreadable: 2 });
        assert_eq!(std::fs::read(&path).unwrap(), log);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(check(&path, || Ok(())).unwrap(), LogCheck::default());
    }
}
