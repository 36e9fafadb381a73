//! The workspace server behind mountd: files behind an HTTP API, on SQLite and body files.
//!
//! [`Server::bind`] opens the storage folder and the port, [`Server::run`] serves until its
//! shutdown future completes. The protocol is in `docs/remote-protocol.md`.
//!
//! Layers, each knowing only those after it: `http` (requests and replies), `auth` and `rate`
//! (who may), `store` (what is kept), `paths` and `clock`. A reply that says a write was accepted
//! is sent after the write is on disk, and not before. The library never prints, and never reads
//! the environment.

#[macro_use]
mod failpoints;

mod auth;
mod clock;
mod config;
mod error;
mod http;
mod intercept;
mod paths;
mod rate;
mod server;
mod store;

pub use clock::Clock;
pub use config::{Auth, Config, Extensions, RateLimit};
pub use error::Error;
pub use intercept::{After, Before, Interceptor, RequestHead, RequestLog, RequestRecord};
pub use server::{Feeds, Server};
