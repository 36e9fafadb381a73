//! Contents that tell who wrote them.
//!
//! A whole file begins with the number of the call that wrote it and a NUL, which makes it binary: it is
//! never merged. What follows from the number is every byte of it. Lines of text carry their number too.

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use crate::story::Id;

/// Bytes before the random ones.
pub const HEAD: usize = 10;

/// Lines between two slots, so that changes of neighbours can be merged.
const PADDING: usize = 4;

/// The content of a call.
pub fn whole(id: Id, size: usize) -> Vec<u8> {
    let mut bytes = format!("#{id:08}\0").into_bytes();
    let mut rest = vec![0; size.saturating_sub(HEAD)];
    SmallRng::seed_from_u64(u64::from(id)).fill_bytes(&mut rest);
    bytes.extend_from_slice(&rest);
    bytes
}

/// The call whose content begins like this.
pub fn author(bytes: &[u8]) -> Option<Id> {
    let head = bytes.get(..HEAD)?;
    if head[0] != b'#' || head[HEAD - 1] != 0 {
        return None;
    }
    std::str::from_utf8(&head[1..HEAD - 1]).ok()?.parse().ok()
}

/// The line that a call appends.
pub fn line(id: Id) -> String {
    format!("line {id:08} of a file that only grows\n")
}

/// The numbers of a log's lines, in order; `None` for what is no such line.
pub fn lines(bytes: &[u8]) -> Vec<Option<Id>> {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive('\n')
        .map(|found| {
            let id = found.strip_prefix("line ")?.get(..8)?.parse().ok()?;
            (found == line(id)).then_some(id)
        })
        .collect()
}

/// A file of slots, all empty.
pub fn slots(count: usize) -> Vec<u8> {
    let between = |slot| (0..PADDING).map(move |n| format!("between {slot} {n}\n"));
    let lines =
        (0..count).flat_map(|slot| std::iter::once(slot_line(slot, 0)).chain(between(slot)));
    lines.collect::<String>().into_bytes()
}

fn slot_line(slot: usize, id: Id) -> String {
    format!("slot {slot:04} holds {id:08}\n")
}

/// What each slot holds; `None` when the text is not one of slots.
pub fn read_slots(bytes: &[u8], count: usize) -> Option<Vec<Id>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut held = Vec::new();
    for found in text.split_inclusive('\n').filter(|line| line.starts_with("slot ")) {
        let id = found.get(16..24)?.parse().ok()?;
        if found != slot_line(held.len(), id) {
            return None;
        }
        held.push(id);
    }
    let mut expected = slots(count);
    for (slot, id) in held.iter().enumerate() {
        set_slot(&mut expected, slot, *id)?;
    }
    (expected == bytes).then_some(held)
}

/// Puts a number into a slot.
pub fn set_slot(bytes: &mut [u8], slot: usize, id: Id) -> Option<()> {
    let start = format!("slot {slot:04} holds ");
    let at = bytes.windows(start.len()).position(|window| window == start.as_bytes())?;
    let line = slot_line(slot, id);
    bytes.get_mut(at..at + line.len())?.copy_from_slice(line.as_bytes());
    Some(())
}

/// The digest that the server shows.
pub fn digest(bytes: &[u8]) -> String {
    mountd::digest::Digest::of(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_tell_who_wrote_them() {
        let bytes = whole(42, 100);
        assert_eq!((bytes.len(), author(&bytes)), (100, Some(42)));
        assert_eq!(author(&bytes[..HEAD]), Some(42));
        assert_eq!(author(b"#0000"), None);
        let log = line(1) + &line(2) + "line 0000";
        assert_eq!(lines(log.as_bytes()), [Some(1), Some(2), None]);
        let mut text = slots(3);
        set_slot(&mut text, 1, 7).unwrap();
        assert_eq!(read_slots(&text, 3), Some(vec![0, 7, 0]));
        assert_eq!(read_slots(&text[1..], 3), None);
    }
}
