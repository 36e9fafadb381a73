//! mountd mounts a remote workspace as an ordinary folder.
//!
//! The modules, from the edges down; each names only those below it (`docs/architecture.md`).

#[macro_use]
pub mod failpoints;

pub mod daemon;
pub mod serve;
#[cfg(any(test, feature = "fuzzing"))]
pub mod untrusted;

pub mod args;
pub mod config;
pub mod report;
pub mod telemetry;

pub mod control;
pub mod fuse;
pub mod guardian;
pub mod waker;
pub mod watch;

pub mod fs;

pub mod engine;

pub mod content;
pub mod namespace;
pub mod remote;
pub mod store;

pub mod checksum;
pub mod clock;
pub mod conflict_policy;
pub mod digest;
pub mod ignore_rules;
pub mod node;
pub mod path;
pub mod record;
pub mod revision;
pub mod xattrs;
