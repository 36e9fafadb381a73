//! mountd mounts a remote workspace as an ordinary folder.

pub mod clock;
pub mod digest;
pub mod path;
pub mod remote;
pub mod revision;
