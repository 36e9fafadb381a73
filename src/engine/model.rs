//! A model test: random calls on two mounts, other writers, an unreliable network, pauses, crashes
//! and restarts, against a remote that keeps its promises and nothing more.
//!
//! Only the engine's decisions run here, step by step, with a clock and disks of the test's own, so
//! thousands of histories take seconds. After every step each mount must show what the reference
//! says ([`reference`]), and everything in [`checks`] must hold. A history is data ([`story`]): one
//! that fails is made as short as it can be and printed, and can be kept below `stories/`.
//!
//! `MODEL_RUNS=100000 MODEL_SEED=7 cargo test -p mountd --lib model` looks for longer, elsewhere.

mod calls;
mod checks;
mod conflicts;
mod forgetting;
mod hearing;
mod mount;
mod people;
mod plants;
mod reference;
mod remote;
mod sending;
mod steps;
mod story;
mod texts;
mod world;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::plants::{PLANTS, Plant};
use self::story::{Story, stories};

/// Steps of a history.
const ACTS_MAX: usize = 120;

/// Histories of an ordinary run.
const RUNS: u32 = 4000;

thread_local! {
    /// Set while stories are made shorter: each of them fails, and only the last is worth reading.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Lives a story; what went wrong, if anything.
fn verdict(story: &Story, plant: Plant) -> Result<(), String> {
    static HUSH: Once = Once::new();
    HUSH.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let lived = catch_unwind(AssertUnwindSafe(|| world::live(story, plant, false)));
    IS_QUIET.set(false);
    lived.map_err(|panic| words(&*panic))
}

/// Looks for a story that fails; returns it as short as it can be made.
fn search(seed: u64, runs: u32, plant: Plant) -> Option<(String, Story)> {
    let config = Config {
        cases: runs,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let lived =
        runner.run(&stories(ACTS_MAX), |story| verdict(&story, plant).map_err(TestCaseError::fail));
    match lived {
        Ok(()) => None,
        Err(TestError::Fail(reason, story)) => Some((reason.to_string(), story)),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[allow(clippy::disallowed_methods, reason = "a search may be asked for from outside")]
fn asked<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Random histories end with both sides equal and nothing lost.
#[test]
fn nothing_is_lost_and_both_sides_end_equal() {
    let seed = asked("MODEL_SEED").unwrap_or(0);
    let runs = asked("MODEL_RUNS").unwrap_or(RUNS);
    let found = search(seed, runs, Plant::Nothing);
    let happened = world::HAPPENED.take();
    if asked("MODEL_COUNT") == Some(1) {
        eprintln!("{happened:#?}");
    }
    for what in world::COMES_ABOUT.iter().filter(|_| found.is_none() && runs >= RUNS) {
        assert!(happened.contains_key(what), "{what}: in none of the histories");
    }
    if let Some((why, story)) = found {
        // Once more, to tell what happens in it.
        drop(catch_unwind(|| world::live(&story, Plant::Nothing, true)));
        panic!("MODEL_SEED={seed} MODEL_RUNS={runs}\n{why}\n{story:?}");
    }
}

/// What was found once stays mended: each story below `stories/`.
#[test]
fn stories_that_failed_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/model/stories");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let only: Option<String> = asked("MODEL_STORY");
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let story: Story = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Some(only) = &only {
            if *only == name {
                world::live(&story, Plant::Nothing, true);
            }
            continue;
        }
        if let Err(why) = verdict(&story, Plant::Nothing) {
            panic!("{name}: {why}\nMODEL_STORY={name} tells it");
        }
    }
}

/// The checks find what they are there for: each planted mistake, soon.
#[test]
fn planted_mistakes_are_found() {
    for plant in PLANTS {
        let found = search(1, RUNS, plant);
        assert!(found.is_some(), "{plant:?} was not found");
    }
}
