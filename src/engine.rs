//! The engine: decides everything about recording, sending, retrying and conflicts.
//!
//! Owns [`Core`], the whole state of a mount in memory: the tree, the outbox, the link. It lives
//! behind one lock ([`Shared`]); what changes it returns the rows to persist and the kernel caches
//! to invalidate, and does no I/O itself. [`runner`] performs what [`plan`] decides.
//!
//! Invariants: the outbox is the only way from the filesystem to the network; a record and the
//! node it belongs to change in one step under the lock and in one submission to the store.

pub mod approvals;
pub mod base;
mod beside;
pub mod carry;
pub mod check;
pub mod conflict;
pub mod conflict_files;
mod copies;
pub mod core;
pub mod damage;
pub mod decide;
pub mod evict;
pub mod fetch;
pub mod folders;
pub mod gone;
pub mod guard;
pub mod history;
pub mod inbound;
pub mod left_copies;
pub mod link;
pub mod listing;
pub mod local;
mod mend;
pub mod merge;
mod missing;
#[cfg(test)]
mod model;
pub mod news;
mod orphans;
pub mod outbox;
pub mod plan;
mod reads;
pub mod rename;
pub mod replies;
pub mod reset;
pub mod resolve;
pub mod runner;
pub mod seal;
pub mod settings;
pub mod settle;
pub mod shared;
mod size_limit;
pub mod standing;
pub mod stats;
pub mod sweep;
pub mod transfer;
pub mod unrecorded;
pub mod verdict;
pub mod waits;
pub mod xattrs;

pub use self::core::{Changes, Core, Invalidation, Now, Settings};
pub use self::shared::Shared;
