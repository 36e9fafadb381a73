//! What is merged, what is not, and that nothing gets lost in between.

use proptest::prelude::*;

use super::*;

fn merge(base: &str, ours: &str, theirs: &str) -> Result<Merge, Refusal> {
    three_way(Some(base.as_bytes()), ours.as_bytes(), theirs.as_bytes())
}

fn clean(text: &str) -> Result<Merge, Refusal> {
    Ok(Merge::Clean(text.to_owned()))
}

#[test]
fn changes_apart_are_merged_and_changes_of_the_same_lines_are_not() {
    let base = "1\n2\n3\n4\n5\n";
    assert_eq!(
        merge(base, "one\n2\n3\n4\n5\n", "1\n2\n3\n4\nfive\n"),
        clean("one\n2\n3\n4\nfive\n")
    );
    assert_eq!(merge(base, base, "1\n2\n4\n5\n"), clean("1\n2\n4\n5\n"));
    assert_eq!(merge(base, "1\n2\n3\n4\n5\n6\n", base), clean("1\n2\n3\n4\n5\n6\n"));
    // Both did the same: once.
    assert_eq!(
        merge(base, "0\n1\n2\n3\n4\n5\n", "0\n1\n2\n3\n4\n5\n"),
        clean("0\n1\n2\n3\n4\n5\n")
    );
    let Ok(Merge::Overlap(marked)) = merge(base, "1\nours\n3\n4\n5\n", "1\ntheirs\n3\n4\n5\n")
    else {
        panic!("not an overlap");
    };
    for line in ["<<<<<<< ours\n", "ours\n", "2\n", "=======\n", "theirs\n", ">>>>>>> theirs\n"] {
        assert!(marked.contains(line), "{line:?} in {marked}");
    }
    // Removed here, changed there.
    assert!(matches!(merge(base, "1\n3\n4\n5\n", "1\nzwei\n3\n4\n5\n"), Ok(Merge::Overlap(_))));
    // Appended on both sides: nobody knows in which order.
    assert!(matches!(merge("a\n", "a\nb\n", "a\nc\n"), Ok(Merge::Overlap(_))));
}

#[test]
fn a_last_line_without_an_end_is_not_glued_to_the_next() {
    let cases = [
        ("a\nb", "a\nb\nc", "A\nb"),
        ("a\nb\nc\n", "a\nb\nc", "A\nb\nc\n"),
        ("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc\nd"),
        ("", "x", ""),
    ];
    for (base, ours, theirs) in cases {
        if let Ok(Merge::Clean(merged)) = merge(base, ours, theirs) {
            assert!(is_faithful(base, ours, theirs, &merged), "{base:?} {ours:?} {theirs:?}");
        }
    }
    assert_eq!(merge("a\nb\nc", "A\nb\nc", "a\nb\nc\nd"), clean("A\nb\nc\nd"));
}

#[test]
fn what_is_no_text_or_too_much_is_refused() {
    let large = "x\n".repeat((1 << 19) + 1);
    let wrong: [(&[u8], Refusal); 3] = [
        (b"nul\0", Refusal::Binary),
        (b"\xff\xfe", Refusal::Binary),
        (large.as_bytes(), Refusal::TooLarge),
    ];
    for (side, refusal) in wrong {
        assert_eq!(three_way(Some(side), b"a", b"b"), Err(refusal));
        assert_eq!(three_way(Some(b"a"), side, b"b"), Err(refusal));
        assert_eq!(three_way(Some(b"a"), b"b", side), Err(refusal));
        assert_eq!(unified(("a", side), ("b", b"x")), Err(refusal));
    }
    assert_eq!(three_way(None, b"a", b"b"), Err(Refusal::NoBase));
}

/// Texts of which every line differs would take minutes.
#[test]
fn texts_that_differ_in_everything_are_refused_soon() {
    let lines = |tag: &str| (0..80_000).map(|n| format!("{tag}{n}\n")).collect::<String>();
    assert_eq!(merge(&lines("a"), &lines("b"), &lines("c")), Err(Refusal::TooDifferent));
    // Many lines, few changes: that is merged.
    let base = lines("a");
    let ours = format!("first\n{base}");
    let theirs = format!("{base}last\n");
    assert_eq!(merge(&base, &ours, &theirs), clean(&format!("first\n{base}last\n")));
}

#[test]
fn differences_are_shown_with_the_names_of_the_sides() {
    let shown = unified(("base", b"1\n2\n3\n"), ("ours", b"1\ntwo\n3\n")).unwrap();
    assert!(shown.starts_with("--- base\n+++ ours\n"), "{shown}");
    assert!(shown.contains("-2\n+two\n"), "{shown}");
    assert_eq!(unified(("a", b"same"), ("b", b"same")), Ok(String::new()));
}

#[test]
fn distances_are_exact_at_the_bound() {
    let number = |n: std::ops::Range<u32>| n.collect::<Vec<u32>>();
    assert!(distance_at_most(&number(0..5), &number(0..5), 0));
    assert!(distance_at_most(&number(0..5), &number(1..5), 1));
    assert!(!distance_at_most(&number(0..5), &number(1..5), 0));
    assert!(distance_at_most(&number(0..3), &number(10..14), 7));
    assert!(!distance_at_most(&number(0..3), &number(10..14), 6));
    assert!(distance_at_most(&[1, 2, 3, 4], &[2, 1, 4, 3], 4));
    assert!(distance_at_most(&[], &[], 0));
    assert!(distance_at_most(&[], &[1, 2], 2));
}

/// A text of lines, of which some are alike, and what a side makes of it.
fn lines(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..12_u8, 0..most)
}

/// Edits: at a place, how many lines go and which come.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, Vec<u8>)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, lines(3)), 0..4)
}

fn edited(base: &[u8], edits: &[(prop::sample::Index, usize, Vec<u8>)]) -> Vec<u8> {
    let mut lines = base.to_vec();
    for (at, gone, new) in edits {
        let at = at.index(lines.len() + 1);
        let end = (at + gone).min(lines.len());
        lines.splice(at..end, new.iter().copied());
    }
    lines
}

fn written(lines: &[u8], ends: bool) -> String {
    let text: String = lines.iter().map(|line| format!("line {line}\n")).collect();
    if ends { text } else { text.trim_end_matches('\n').to_owned() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A clean merge never drops a line that only one side added, never keeps one that only one
    /// side removed, never doubles one, and invents none.
    #[test]
    fn a_clean_merge_has_the_changes_of_both_sides(
        base in lines(20), ours in edits(), theirs in edits(), ends in any::<[bool; 3]>()
    ) {
        let (ours, theirs) = (edited(&base, &ours), edited(&base, &theirs));
        let (base, ours, theirs) =
            (written(&base, ends[0]), written(&ours, ends[1]), written(&theirs, ends[2]));
        crate::untrusted::check_merge(base.as_bytes(), ours.as_bytes(), theirs.as_bytes());
    }

    /// Edits of lines that are all different and lie apart are always merged, and exactly.
    #[test]
    fn edits_apart_are_always_merged(
        count in 3..60_usize, at in any::<[prop::sample::Index; 2]>(), kinds in any::<[u8; 2]>()
    ) {
        let base: Vec<String> = (0..count).map(|n| format!("line {n}\n")).collect();
        let (first, second) = (at[0].index(count), at[1].index(count));
        prop_assume!(first.abs_diff(second) >= 2);
        let change = |lines: &[String], at: usize, kind: u8, tag: &str| {
            let mut lines = lines.to_vec();
            match kind % 3 {
                0 => lines[at] = String::new(),
                1 => lines[at] = format!("{tag}\n"),
                _ => lines[at] = format!("{}{tag}\n{tag} more\n", lines[at]),
            }
            lines
        };
        let ours = change(&base, first, kinds[0], "ours");
        let theirs = change(&base, second, kinds[1], "theirs");
        let both = change(&ours, second, kinds[1], "theirs");
        prop_assert_eq!(
            merge(&base.concat(), &ours.concat(), &theirs.concat()),
            clean(&both.concat())
        );
    }

    /// The bound on differences agrees with the plain table of distances.
    #[test]
    fn the_distance_is_that_of_the_table(old in lines(12), new in lines(12), most in 0..16_usize) {
        let (old, new): (Vec<u32>, Vec<u32>) =
            (old.iter().map(|n| (*n).into()).collect(), new.iter().map(|n| (*n).into()).collect());
        let mut table = vec![vec![0; new.len() + 1]; old.len() + 1];
        for i in 0..=old.len() {
            for j in 0..=new.len() {
                table[i][j] = match (i, j) {
                    (0, _) => j,
                    (_, 0) => i,
                    _ if old[i - 1] == new[j - 1] => table[i - 1][j - 1],
                    _ => 1 + table[i - 1][j].min(table[i][j - 1]),
                };
            }
        }
        prop_assert_eq!(distance_at_most(&old, &new, most), table[old.len()][new.len()] <= most);
    }
}
