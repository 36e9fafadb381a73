//! Contents: texts of three lines that change, far enough from each other to be merged. The number of
//! a content is that of each line, six digits each, so that it can be read.

use std::collections::BTreeSet;

/// A content, told apart by number. 0 is the empty one, which is nobody's.
pub(super) type Bytes = u64;

const LINES: usize = 3;

const DIGITS: u64 = 1_000_000;

/// The content of which every line is new.
pub(super) fn whole(n: u64) -> Bytes {
    join([n; LINES])
}

fn join(lines: [u64; LINES]) -> Bytes {
    lines.into_iter().fold(0, |all, line| all * DIGITS + line)
}

fn split(bytes: Bytes) -> [u64; LINES] {
    [bytes / DIGITS / DIGITS, bytes / DIGITS % DIGITS, bytes % DIGITS]
}

/// The content with one line changed.
pub(super) fn with_line(bytes: Bytes, at: u8, n: u64) -> Bytes {
    let mut lines = split(bytes);
    lines[usize::from(at) % LINES] = n;
    join(lines)
}

/// The bytes that a content consists of.
pub(super) fn body(bytes: Bytes) -> bytes::Bytes {
    if bytes == 0 {
        return bytes::Bytes::new();
    }
    let line = |(at, line)| format!("{at}: {line:06}\n{at}-\n{at}--\n{at}---\n");
    split(bytes).into_iter().enumerate().map(line).collect::<String>().into()
}

/// Takes back what [`body`] gave.
pub(super) fn number(body: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(body);
    let lines = text.lines().filter_map(|line| line.split_once(": ")?.1.parse().ok());
    let lines: Vec<u64> = lines.collect();
    lines.try_into().map_or(0, join)
}

/// The lines of a content.
pub(super) fn lines(bytes: Bytes) -> BTreeSet<(usize, u64)> {
    if bytes == 0 { BTreeSet::new() } else { split(bytes).into_iter().enumerate().collect() }
}
