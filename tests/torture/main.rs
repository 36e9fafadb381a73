//! Torture: writers on two mounts of one workspace, while everything around them fails.
//!
//! Real daemons, a real server, real mounts, real sockets, `kill -9`. Every call that returned is written
//! down; once all is quiet, what was acknowledged must be there (`docs/testing.md`, "Torture").

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests look at the clock, print figures and may panic"
)]

mod check;
mod content;
mod flip;
mod planted;
mod proxy;
mod run;
mod shrink;
mod story;
mod tell;
mod tokens;
mod totals;
mod watcher;
mod world;
mod writer;

use std::time::{Duration, Instant};

use self::story::{Mix, Shape, Story};
use self::totals::Totals;

/// Says SKIPPED where FUSE cannot be used.
fn can_mount() -> bool {
    match mountd::fuse::session::check_available() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIPPED torture: {error}");
            false
        }
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn shape(calls: usize) -> Shape {
    let kinds = std::env::var("TORTURE_FAULTS").ok();
    let mix = kinds.map_or_else(Mix::usual, |kinds| {
        Mix(kinds.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect())
    });
    let writers = number("TORTURE_WRITERS").map_or(3, |count| usize::try_from(count).unwrap());
    let original = match std::env::var("TORTURE_PROTOCOL").as_deref() {
        Ok("original") => Some(true),
        Ok("extended") => Some(false),
        Ok(other) => panic!("TORTURE_PROTOCOL={other} is neither original nor extended"),
        Err(_) => None,
    };
    Shape { calls, writers: writers.max(1), mix, original }
}

/// Plays a story and panics, with the shortest story that goes wrong as well, unless all is right.
fn torture(story: &Story, totals: &mut Totals, patience: Duration) {
    eprintln!("TORTURE_SEED={}", story.seed);
    let (world, evidence) = run::play(story, totals, |_, _| {});
    let wrong = check::check(&evidence);
    if wrong.is_empty() {
        if std::env::var_os("TORTURE_KEEP").is_some() {
            tell::keep(&world, story, &evidence, &wrong);
        }
        return;
    }
    let kept = tell::keep(&world, story, &evidence, &wrong);
    eprintln!("WRONG with seed {}, logs in {}:", story.seed, kept.display());
    wrong.iter().take(20).for_each(|what| eprintln!("  {what}"));
    eprintln!("{}", tell::excerpt(&world, &evidence, &wrong));
    drop(world);
    let shortest = shrink::shrink(story, patience, |candidate| {
        let (_world, evidence) = run::play(candidate, totals, |_, _| {});
        let wrong = check::check(&evidence);
        if !wrong.is_empty() {
            let (calls, faults) = shrink::measure(candidate);
            eprintln!("  {calls} calls and {faults} faults are enough: {}", wrong[0]);
        }
        !wrong.is_empty()
    });
    std::fs::write(kept.join("shortest-story"), shortest.to_string()).unwrap();
    let wrong = wrong.join("\n  ");
    panic!("seed {}: the shortest story found:\n{shortest}\n{totals}\n  {wrong}", story.seed);
}

/// A few seeds, always the same: what is new is looked for by long runs. `TORTURE_SEED` adds one.
#[test]
fn a_short_run_loses_nothing() {
    let _alone = world::alone();
    let Ok(_alone) = _alone.lock() else { return };
    if !can_mount() || number("TORTURE_SECONDS").is_some() {
        return;
    }
    let mut totals = Totals::default();
    for seed in [1, 2, 3].into_iter().chain(number("TORTURE_SEED")) {
        torture(&Story::of(seed, &shape(250)), &mut totals, Duration::from_secs(60));
    }
    eprintln!("{totals}\nnothing was lost");
}

/// `TORTURE_SECONDS=3600 cargo test --test torture long -- --nocapture`
#[test]
fn a_long_run_loses_nothing() {
    let Some(seconds) = number("TORTURE_SECONDS") else { return };
    let _alone = world::alone();
    let Ok(_alone) = _alone.lock() else { return };
    if !can_mount() {
        return;
    }
    let began = Instant::now();
    let mut totals = Totals::default();
    let first = number("TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let calls = number("TORTURE_CALLS").map_or(800, |calls| usize::try_from(calls).unwrap());
    let patience = Duration::from_secs(number("TORTURE_SHRINK").unwrap_or(600));
    for seed in first.. {
        torture(&Story::of(seed, &shape(calls)), &mut totals, patience);
        eprintln!("{totals}");
        if began.elapsed() > Duration::from_secs(seconds) {
            break;
        }
    }
    eprintln!("nothing was lost");
}
