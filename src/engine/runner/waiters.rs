//! Those who wait for the outbox to empty: `mountctl flush`, and the end of the daemon.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Runner;
use crate::engine::core::Core;
use crate::path::WsPath;
use crate::record::{Record, RecordState, Seq};

/// How a flush went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Records that were to be sent and are not; parked ones not counted.
    pub remaining: usize,
    /// Records accepted meanwhile.
    pub uploaded: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Somebody who waits for the outbox to empty.
#[derive(Debug)]
pub(super) struct Waiter {
    path: Option<WsPath>,
    upto: Seq,
    pub(super) deadline: Duration,
    began: Duration,
    accepted: (u64, u64),
    reply: oneshot::Sender<Flushed>,
}

impl Runner {
    pub(super) fn wait_for_empty(
        &mut self,
        path: Option<WsPath>,
        timeout: Duration,
        reply: oneshot::Sender<Flushed>,
    ) {
        let now = self.shared.now().mono;
        let (upto, accepted) = self.shared.step(|core, _, changes| {
            let upto = Seq(core.take_id(&mut changes.rows));
            (upto, (core.stats.accepted, core.stats.accepted_bytes))
        });
        let deadline = now + timeout;
        self.waiters.push(Waiter { path, upto, deadline, began: now, accepted, reply });
    }

    pub(super) fn serve_waiters(&mut self, now: Duration) {
        if self.waiters.is_empty() {
            return;
        }
        let core = self.shared.core();
        let mut waiting = Vec::new();
        for waiter in self.waiters.drain(..) {
            // Of very many records the first one tells that some are left; counted is once.
            let is_over = now >= waiter.deadline || waiter.reply.is_closed();
            let remaining = {
                let mut left = left(&core, waiter.path.as_ref(), waiter.upto);
                if is_over { left.count() } else { usize::from(left.next().is_some()) }
            };
            if remaining > 0 && !is_over {
                waiting.push(waiter);
                continue;
            }
            let (files, bytes) = waiter.accepted;
            let flushed = Flushed {
                remaining,
                uploaded: core.stats.accepted - files,
                bytes: core.stats.accepted_bytes - bytes,
                took: now.saturating_sub(waiter.began),
            };
            if waiter.reply.send(flushed).is_err() {
                tracing::debug!("whoever asked for a flush went away");
            }
        }
        drop(core);
        self.waiters = waiting;
    }
}

/// Records up to `upto`, at or below `path`, that are still to be sent; those not counted that are
/// parked or wait for an approval.
fn left<'a>(
    core: &'a Core,
    path: Option<&'a WsPath>,
    upto: Seq,
) -> impl Iterator<Item = &'a Record> {
    let concerned = move |at: &WsPath| path.is_none_or(|path| at.is_within(path));
    core.outbox
        .lanes()
        .filter(move |(at, _)| concerned(at))
        .flat_map(|(_, lane)| lane.records())
        .filter(move |record| record.seq <= upto && !record.needs_approval)
        .filter(|record| !matches!(record.state, RecordState::Parked { .. }))
}
