//! Three versions of a text, and what a clean merge of them must hold. Counted in another way than
//! the merge itself does: each side by itself against the result.

use std::collections::HashMap;

use crate::engine::merge::{Merge, three_way};

/// Three versions, base, ours and theirs, with a byte between them that no text holds.
pub fn merge(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0xff);
    let [Some(base), Some(ours), Some(theirs)] = [parts.next(), parts.next(), parts.next()] else {
        assert_eq!(three_way(None, bytes, bytes).ok(), None, "merged without a base");
        return;
    };
    check_merge(base, ours, theirs);
}

/// A clean merge drops no line that only one side added, keeps none that only one side removed,
/// doubles none and invents none; it does not depend on who of the two is "ours".
///
/// # Panics
/// When it does.
pub fn check_merge(base: &[u8], ours: &[u8], theirs: &[u8]) {
    let merged = three_way(Some(base), ours, theirs);
    let swapped = three_way(Some(base), theirs, ours);
    let clean = |merge| match merge {
        Ok(Merge::Clean(text)) => Some(text),
        _ => None,
    };
    assert_eq!(clean(merged.clone()), clean(swapped), "it matters who is ours");
    let texts = [base, ours, theirs].map(|bytes| std::str::from_utf8(bytes).ok());
    let [Some(base), Some(ours), Some(theirs)] = texts else {
        assert!(merged.is_err(), "merged what is no text");
        return;
    };
    if [base, ours, theirs].iter().any(|text| text.contains('\0')) {
        assert!(merged.is_err(), "merged what is no text");
    }
    let Some(merged) = clean(merged) else { return };
    let [b, o, t, m] = [base, ours, theirs, &merged].map(counted);
    let of = |counts: &HashMap<&str, i64>, line| counts.get(line).copied().unwrap_or(0);
    for line in b.keys().chain(o.keys()).chain(t.keys()).chain(m.keys()) {
        let (b, o, t, m) = (of(&b, line), of(&o, line), of(&t, line), of(&m, line));
        if o == b {
            assert_eq!(m, t, "only they changed {line:?}");
        } else if t == b {
            assert_eq!(m, o, "only we changed {line:?}");
        } else {
            assert!(m <= o.max(t).max(o + t - b), "{line:?} doubled");
            assert!(m >= o.min(t).min(o + t - b), "{line:?} dropped");
        }
    }
    // Whoever had changed nothing gets the other side, byte for byte.
    if ours == base {
        assert_eq!(merged, theirs);
    }
    if theirs == base {
        assert_eq!(merged, ours);
    }
}

fn counted(text: &str) -> HashMap<&str, i64> {
    let mut counts = HashMap::new();
    for line in text.split_inclusive('\n') {
        *counts.entry(line).or_insert(0) += 1;
    }
    counts
}
