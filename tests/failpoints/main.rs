//! Crashes at every failpoint, disks that fail, and power that goes away, on real mounts.
//!
//! Needs the feature `failpoints` and FUSE: `cargo test --features failpoints --test failpoints`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests look at the clock, print figures and may panic"
)]

mod appends;
mod crash;
mod ends;
mod failing;
mod power;
mod run;
mod serve;
mod stale_names;
mod untold;
mod workflows;
mod world;

#[path = "../it"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the other integration tests, which use all of it"
)]
mod it {
    pub mod support;
}

use it::support;
