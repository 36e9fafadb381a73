//! Tests of the workspace server over real HTTP and WebSockets.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod auth;
mod bulk;
mod durability;
mod extensions;
mod feed;
mod files;
mod intercept;
mod limits;
mod listing;
mod raw;
mod speed;
mod support;
