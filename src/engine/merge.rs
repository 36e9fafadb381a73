//! Merging three versions of a text, and showing how two differ.
//!
//! Pure; the one door to `diffy`. What it calls clean was counted line by line: nothing that only
//! one side changed is lost or doubled (`is_faithful`). What is not text, too large, or too
//! different to be compared in bounded time is refused with the reason.

use std::collections::HashMap;

/// Texts up to this many bytes are compared and merged.
pub const TEXT_MAX: u64 = 1 << 20;

/// Lines by which two texts may differ. Comparing takes time in proportion to this times the
/// length; a person would not read more, either.
const CHANGED_LINES_MAX: usize = 8192;

/// Why versions are not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One of them holds NUL or is not UTF-8.
    #[error("binary")]
    Binary,
    /// One of them is larger than [`TEXT_MAX`].
    #[error("too large")]
    TooLarge,
    /// What both were made from is not known.
    #[error("base unknown")]
    NoBase,
    /// They differ in more lines than are compared.
    #[error("too many changes")]
    TooDifferent,
}

/// What merging gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// One text with the changes of both sides.
    Clean(String),
    /// Both changed the same lines: the text with both, between markers.
    Overlap(String),
}

/// Merges what two sides made of `base`.
///
/// # Errors
/// When a side cannot be merged at all.
pub fn three_way(base: Option<&[u8]>, ours: &[u8], theirs: &[u8]) -> Result<Merge, Refusal> {
    let (ours, theirs) = (text(ours)?, text(theirs)?);
    let base = text(base.ok_or(Refusal::NoBase)?)?;
    if !is_near(base, ours) || !is_near(base, theirs) {
        return Err(Refusal::TooDifferent);
    }
    let mut options = diffy::MergeOptions::new();
    options.set_incomplete_hunk_style(diffy::IncompleteHunkStyle::Git);
    Ok(match options.merge(base, ours, theirs) {
        Ok(merged) if is_faithful(base, ours, theirs, &merged) => Merge::Clean(merged),
        Ok(merged) => Merge::Overlap(merged),
        Err(marked) => Merge::Overlap(marked),
    })
}

/// The differences between two texts in the unified form, empty when there are none.
///
/// # Errors
/// When they cannot be compared.
pub fn unified(from: (&str, &[u8]), to: (&str, &[u8])) -> Result<String, Refusal> {
    let (old, new) = (text(from.1)?, text(to.1)?);
    if old == new {
        return Ok(String::new());
    }
    if !is_near(old, new) {
        return Err(Refusal::TooDifferent);
    }
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename(from.0.to_owned()).set_modified_filename(to.0.to_owned());
    Ok(options.create_patch(old, new).to_string())
}

/// Takes bytes for text that can be merged.
///
/// # Errors
/// When they are too many or no text.
pub fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() as u64 > TEXT_MAX {
        return Err(Refusal::TooLarge);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&0) => Ok(text),
        _ => Err(Refusal::Binary),
    }
}

/// Whether `merged` holds each line as often as it must: a line whose number only one side changed
/// as often as that side has it; what both added or removed at least once, and at most as often as
/// both together did.
fn is_faithful(base: &str, ours: &str, theirs: &str, merged: &str) -> bool {
    let mut counts: HashMap<&str, [i64; 4]> = HashMap::new();
    for (index, text) in [base, ours, theirs, merged].into_iter().enumerate() {
        for line in text.split_inclusive('\n') {
            counts.entry(line).or_default()[index] += 1;
        }
    }
    counts.values().all(|&[base, ours, theirs, merged]| {
        let both = ours + theirs - base;
        let range = match (ours >= base, theirs >= base) {
            (true, true) => ours.max(theirs)..=both,
            (false, false) => both..=ours.min(theirs),
            _ => both..=both,
        };
        range.contains(&merged)
    })
}

/// Whether the texts differ by at most [`CHANGED_LINES_MAX`] lines.
fn is_near(old: &str, new: &str) -> bool {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut number = |text| -> Vec<u32> {
        let lines = str::split_inclusive(text, '\n');
        lines
            .map(|line| {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                *numbers.entry(line).or_insert(next)
            })
            .collect()
    };
    let (old, new) = (number(old), number(new));
    distance_at_most(&old, &new, CHANGED_LINES_MAX)
}

/// Whether at most `most` insertions and removals lead from `old` to `new`. The greedy algorithm of
/// Myers: after each step, how far every diagonal was reached.
fn distance_at_most(old: &[u32], new: &[u32], most: usize) -> bool {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same..], &new[same..]);
    let same = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - same], &new[..new.len() - same]);
    if old.len().abs_diff(new.len()) > most {
        return false;
    }
    // reached[at + 1] is the furthest place in `old` on the diagonal `at - middle`.
    let middle = most.min(old.len() + new.len());
    let mut reached = vec![0_usize; 2 * middle + 3];
    for step in 0..=middle {
        let mut at = middle - step;
        while at <= middle + step {
            let down =
                at == middle - step || (at != middle + step && reached[at] < reached[at + 2]);
            let mut x = if down { reached[at + 2] } else { reached[at] + 1 };
            // y = x - diagonal; what lies outside of `new` leads nowhere.
            let Some(mut y) = (x + middle).checked_sub(at) else {
                at += 2;
                continue;
            };
            while x < old.len() && y < new.len() && old[x] == new[y] {
                x += 1;
                y += 1;
            }
            reached[at + 1] = x;
            if x >= old.len() && y >= new.len() {
                return true;
            }
            at += 2;
        }
    }
    false
}

#[cfg(test)]
mod tests;
