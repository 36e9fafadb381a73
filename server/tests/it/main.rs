//! Tests of the workspace server over real HTTP and WebSockets.

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
mod support;
