//! Looks for a shorter story that still goes wrong.
//!
//! Real processes do not do the same thing twice, so a shorter story that goes well is tried again before it
//! is believed to be harmless.

use std::time::{Duration, Instant};

use crate::story::{Act, Story};

/// How often a candidate is played before it counts as harmless.
const TRIES: usize = 3;

/// The shortest story found within `budget` that `fails`.
pub fn shrink(story: &Story, budget: Duration, mut fails: impl FnMut(&Story) -> bool) -> Story {
    let began = Instant::now();
    let mut best = story.clone();
    let mut parts = 2;
    while best.steps.len() > 1 && began.elapsed() < budget {
        let size = best.steps.len().div_ceil(parts);
        let mut shorter = None;
        for start in (0..best.steps.len()).step_by(size) {
            let mut steps = best.steps.clone();
            steps.drain(start..(start + size).min(steps.len()));
            let candidate = best.with(steps);
            if still_fails(&candidate, began, budget, &mut fails) {
                shorter = Some(candidate);
                break;
            }
            if began.elapsed() >= budget {
                break;
            }
        }
        match shorter {
            Some(candidate) => {
                best = candidate;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(best.steps.len()),
        }
    }
    // Waiting that makes no difference is left out of what is shown.
    let mut swift = best.clone();
    swift.steps.iter_mut().for_each(|step| step.rest = 0);
    if began.elapsed() < budget && still_fails(&swift, began, budget, &mut fails) {
        best = swift;
    }
    best
}

fn still_fails(
    story: &Story,
    began: Instant,
    budget: Duration,
    fails: &mut impl FnMut(&Story) -> bool,
) -> bool {
    (0..TRIES).any(|_| began.elapsed() < budget && fails(story))
}

/// How many calls and faults a story has.
pub fn measure(story: &Story) -> (usize, usize) {
    let calls = story.steps.iter().filter(|step| matches!(step.act, Act::Call { .. })).count();
    (calls, story.steps.len() - calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Mix, Shape};

    /// Of hundreds of steps the two that matter are left, also when they do not always fail.
    #[test]
    fn the_two_steps_that_matter_are_found() {
        let story =
            Story::of(7, &Shape { calls: 300, writers: 2, mix: Mix::usual(), original: None });
        let (first, second) = (story.steps[41].id, story.steps[250].id);
        let mut played = 0;
        let found = shrink(&story, Duration::from_secs(60), |story| {
            played += 1;
            let has = |id| story.steps.iter().any(|step| step.id == id);
            has(first) && has(second) && played % 3 != 0
        });
        let left: Vec<_> = found.steps.iter().map(|step| step.id).collect();
        assert_eq!(left, [first, second]);
    }
}
