//! Integration tests: the real daemon, real kernel mounts, the real server over real HTTP.
//!
//! One binary. Tests that need FUSE begin with `fuse_or_skip!()`, which says SKIPPED loudly on a
//! machine that has none.

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

mod attributes;
mod batching;
mod both_sides;
mod clocks;
mod conflict_copies;
mod conflict_workflow;
mod conflicts;
mod control;
mod crowds;
mod damage;
mod disk_full;
mod doctor;
mod drain;
mod failures;
mod folding;
mod guards;
mod hostile;
mod link;
mod names;
mod neighbours;
mod outbox_commands;
mod programs;
mod promises;
mod ranges;
mod recovery;
mod repair;
mod shell_life;
mod size_limit;
mod smoke;
mod special;
mod state_folder;
mod stopping;
#[allow(dead_code, reason = "tests/failpoints uses parts of it that these tests do not")]
mod support;
mod tidy;
mod toolchains;
mod two_mounts;
mod watching;
mod wrong_input;
