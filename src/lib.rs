//! mountd mounts a remote workspace as an ordinary folder.

pub mod clock;
pub mod content;
pub mod digest;
pub mod engine;
pub mod fs;
pub mod fuse;
pub mod ignore_rules;
pub mod namespace;
pub mod node;
pub mod path;
pub mod record;
pub mod remote;
pub mod revision;
pub mod store;
