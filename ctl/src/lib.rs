//! The control API of mountd, its client, and the commands of `mountctl`.
//!
//! [`api`], [`env`](mod@env) and [`paths`] are what the daemon and its clients share: the
//! documents that travel over the control socket, and where sockets and state lie.
//! [`client`] talks to one daemon and [`discovery`] finds them; [`run`] is the whole program.
//!
//! Nothing here looks into a mounted folder: it could wait for ever, and `mountctl` has to
//! answer exactly then.

pub mod api;
pub mod checked;
pub mod cli;
pub mod client;
mod clock;
mod commands;
pub mod discovery;
pub mod env;
pub mod failure;
pub mod glob;
pub mod out;
pub mod paths;
pub mod persisted;
mod program;
#[cfg(test)]
mod testing;
pub mod text;
pub mod units;

pub use commands::run;
