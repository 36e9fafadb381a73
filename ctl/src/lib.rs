//! The control API of mountd, its client, and the commands of `mountctl`.
//!
//! [`api`] and [`paths`] are what the daemon and its clients share: the documents that travel
//! over the control socket, and where sockets and state lie. They name no runtime and do no I/O.
//! Everything else belongs to `mountctl` alone.

pub mod api;
pub mod env;
pub mod paths;
