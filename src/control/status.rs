//! What the daemon says of itself: read from the core in one look, nothing kept beside it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use mountctl::api::{
    AuthStatus, BatchStatus, BootstrapStatus, CacheStatus, CircuitState, CircuitStatus,
    ConflictsStatus, DamageStatus, LastError, MountMode, MountState, MountStatus, OtherServer,
    OutboxList, OutboxOp, OutboxRecord, PauseInfo, PauseStatus, RecordState as ApiState,
    RetryStatus, StreamHealth, StreamMode, StreamStatus, UploadsStatus,
};

use super::MountFacts;
use crate::content::aside::is_set_aside;
use crate::engine::Shared;
use crate::engine::core::{Core, Now, Stream};
use crate::engine::decide::Hold;
use crate::engine::link::{Cause, Outage, Way};
use crate::engine::outbox::Slot;
use crate::node::Kind;
use crate::record::{Op, RecordState};
use crate::remote::credential::Claims;

pub(super) fn status(
    facts: &MountFacts,
    shared: &Shared,
    claims: Option<Claims>,
    stopping: bool,
) -> MountStatus {
    let disk_bytes = shared.contents.disk_bytes();
    let disk_free = nix::sys::statvfs::statvfs(shared.contents.folder())
        .ok()
        .map(|disk| disk.blocks_available() * disk.fragment_size());
    let state_dir = shared.store.path().parent().unwrap_or(Path::new("/"));
    let set_aside = set_aside(shared, state_dir);
    let trouble = shared.store.trouble();
    let core = shared.core();
    let now = shared.now();
    let claims = claims.unwrap_or(Claims { expires_at: None, scopes: Vec::new() });
    MountStatus {
        name: facts.name.clone(),
        state: state(&core, stopping, trouble.is_some()),
        mountpoint: facts.mountpoint.display().to_string(),
        server: facts.server.clone(),
        workspace: facts.workspace.clone(),
        remote_path: facts.remote_path.as_str().to_owned(),
        mode: MountMode::Fuse,
        read_only: facts.read_only,
        pid: std::process::id(),
        started_at: Some(facts.started_at),
        uploads: uploads(&core, now),
        circuit: circuit(&core, now),
        other_server: other_server(&core),
        retry: retry(&core, now),
        pause: PauseStatus {
            uploads: core.link.pause().map(|pause| PauseInfo {
                reason: pause.reason.clone(),
                since: Some(pause.since),
                until: pause.until,
            }),
        },
        stream: stream(&core, facts),
        conflicts: ConflictsStatus {
            open: core.open_conflicts().count() as u64,
            newest_at: core.open_conflicts().last().map(|conflict| conflict.at),
        },
        damage: DamageStatus { contents: core.damaged_contents() as u64, set_aside },
        state_dir: state_dir.display().to_string(),
        state_folder: trouble.map(|trouble| trouble.to_string()),
        approvals: core.approvals_open() as u64,
        skipped_names: core.skipped.len() as u64,
        local_only: core.tree.nodes().filter(|node| node.local_only).count() as u64,
        last_error: core.stats.last_error.clone().map(|(code, message, at)| LastError {
            code,
            message,
            at: Some(at),
        }),
        cache: CacheStatus {
            bytes: disk_bytes,
            entries: core.tree.len() as u64 - 1,
            disk_free_bytes: disk_free,
        },
        auth: AuthStatus { expires_at: claims.expires_at, scopes: claims.scopes },
        bootstrap: core.bootstrap.map(|(done, total)| BootstrapStatus { done, total }),
    }
}

/// What lies in the state folder under the name that damaged things get.
fn set_aside(shared: &Shared, state_dir: &Path) -> u64 {
    let folders = [state_dir, shared.contents.folder(), &shared.conflicts_folder];
    let names = folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_set_aside(name)).count() as u64
}

/// The headline: what needs a person comes before what heals by itself.
fn state(core: &Core, stopping: bool, trouble: bool) -> MountState {
    if stopping {
        return if core.outbox.is_empty() { MountState::Stopping } else { MountState::Draining };
    }
    if core.reset_suspected.is_some() {
        return MountState::ResetSuspected;
    }
    let asks = core.approvals_open() > 0 || trouble;
    if core.outbox.parked() > 0 || asks || core.open_conflicts().next().is_some() {
        return MountState::Attention;
    }
    if core.link.pause().is_some() {
        return MountState::Paused;
    }
    match core.link.way() {
        Way::Down(Outage::Auth, _) => return MountState::Auth,
        Way::Down(Outage::Stranger { .. }, _) => return MountState::OtherServer,
        Way::Down(Outage::HalfOpen { .. }, _) => return MountState::HalfOpen,
        Way::Down(_, trouble) if trouble.cause == Cause::Busy => return MountState::Backoff,
        Way::Down(..) => return MountState::Offline,
        Way::Unknown => return MountState::Starting,
        Way::Online => {}
    }
    if core.bootstrap.is_some() || !core.listed {
        return MountState::Bootstrapping;
    }
    if !core.outbox.is_empty() {
        return MountState::Syncing;
    }
    match core.stream {
        Stream::WebSocket => MountState::Synced,
        Stream::Connecting => MountState::Starting,
        Stream::Polling | Stream::Down(_) => MountState::Degraded,
    }
}

fn uploads(core: &Core, now: Now) -> UploadsStatus {
    let outbox = &core.outbox;
    let down = core.link.is_down();
    // Only the first of the questions that `hold_of` asks: there may be very many records.
    let is_open = |slot: &&Slot| slot.held_until.is_some_and(|until| until > now.mono);
    let held_open = outbox.waiting().filter(is_open).count() as u64;
    let waiting = outbox.queued().saturating_sub(outbox.in_flight());
    let oldest = outbox
        .lanes()
        .flat_map(|(_, lane)| lane.records())
        .filter(|record| !matches!(record.state, RecordState::Parked { .. }))
        .map(|record| record.recorded_at)
        .min();
    let recent = &core.stats.recent;
    let (files, bytes) = recent
        .iter()
        .filter(|(second, ..)| second + 60 > now.mono.as_secs())
        .fold((0, 0), |(files, bytes), (_, f, b)| (files + f, bytes + b));
    UploadsStatus {
        queued: outbox.queued() as u64,
        queued_bytes: outbox.bytes(),
        in_flight: outbox.in_flight() as u64,
        backoff: if down { waiting as u64 } else { 0 },
        attention: outbox.parked() as u64,
        held_open,
        oldest_age_ms: oldest.map(|at| age_ms(at, now)),
        file_bytes_max: core.file_bytes_max(),
        files_per_min: Some(files),
        bytes_per_s: Some(bytes / 60),
        last_batch: core.stats.last_batch.as_ref().map(|batch| BatchStatus {
            files: batch.files,
            bytes: batch.bytes,
            duration_ms: millis(batch.duration),
            at: Some(batch.at),
        }),
        last_ack_at: core.stats.last_ack_at,
        uploaded_total: core.stats.accepted,
        requests_total: core.stats.requests,
    }
}

fn retry(core: &Core, now: Now) -> RetryStatus {
    match core.link.way() {
        Way::Down(_, trouble) => RetryStatus {
            next_at: core.link.next_try().map(|at| wall_at(at, now)),
            reason: Some(trouble.message.clone()),
            server_hinted: trouble.hinted,
            consecutive_failures: trouble.failures,
        },
        Way::Online | Way::Unknown => RetryStatus::default(),
    }
}

fn stream(core: &Core, facts: &MountFacts) -> StreamStatus {
    let (mode, status) = match &core.stream {
        Stream::Connecting => (StreamMode::None, StreamHealth::Connecting),
        Stream::WebSocket => (StreamMode::Websocket, StreamHealth::Live),
        Stream::Polling => (StreamMode::Polling, StreamHealth::Live),
        Stream::Down(_) => (StreamMode::None, StreamHealth::Down),
    };
    StreamStatus {
        mode,
        status,
        cursor: core.cursor.as_ref().map(|cursor| cursor.id.0.clone()),
        lag_ms: core.last_event.map(|(_, lag)| millis(lag)),
        poll_interval_ms: Some(millis(facts.poll_interval)),
        last_event_at: core.last_event.map(|(at, _)| at),
    }
}

fn other_server(core: &Core) -> Option<OtherServer> {
    let Way::Down(Outage::Stranger { found }, _) = core.link.way() else { return None };
    let expected = core.capabilities.and_then(|known| known.server);
    Some(OtherServer {
        expected: expected.map(|id| id.to_string()),
        found: found.map(|found| found.to_string()),
    })
}

fn circuit(core: &Core, now: Now) -> CircuitStatus {
    let threshold = core.link.circuit().threshold;
    let closed = CircuitStatus { threshold, ..CircuitStatus::default() };
    let Way::Down(outage, trouble) = core.link.way() else { return closed };
    let (state, opened_at) = match outage {
        Outage::Offline => (CircuitState::Closed, None),
        Outage::Open { opened_at } => (CircuitState::Open, Some(*opened_at)),
        Outage::HalfOpen { opened_at } => (CircuitState::HalfOpen, Some(*opened_at)),
        // What is refused, or not there, says nothing about passing failures.
        Outage::Auth | Outage::Barred | Outage::Stranger { .. } => return closed,
    };
    let probe = core.link.next_try().filter(|_| opened_at.is_some());
    let next_probe_at = probe.map(|at| wall_at(at, now));
    CircuitStatus { state, failures: trouble.failures, threshold, opened_at, next_probe_at }
}

pub(super) fn outbox(shared: &Shared) -> OutboxList {
    let core = shared.core();
    let now = shared.now();
    let next_try = core.link.next_try().map(|at| wall_at(at, now));
    let mut records: Vec<OutboxRecord> = Vec::new();
    for (_, lane) in core.outbox.lanes() {
        for (at, record) in lane.records().enumerate() {
            let hold =
                if at == 0 { core.hold_of(&lane.current, now.mono) } else { Some(Hold::After) };
            let (state, reason) = match (&record.state, hold) {
                (RecordState::Parked { code, message }, _) => {
                    (ApiState::Attention, Some(format!("{code}: {message}")))
                }
                (RecordState::Flight, _) => (ApiState::Inflight, None),
                (RecordState::Waiting, Some(hold)) => (ApiState::Held, Some(words(hold))),
                (RecordState::Waiting, None) if core.link.is_down() => (ApiState::Backoff, None),
                (RecordState::Waiting, None) => (ApiState::Queued, None),
            };
            let node = record.ino.and_then(|ino| core.tree.get(ino));
            let target = node.and_then(|node| match &node.kind {
                Kind::Symlink { target } => Some(target.len() as u64),
                Kind::File(_) | Kind::Dir { .. } | Kind::Special { .. } => None,
            });
            records.push(OutboxRecord {
                id: record.seq.0.to_string(),
                op: op(record.op, target.is_some()),
                path: record.path.as_str().to_owned(),
                from: None,
                size: (record.op == Op::Put).then(|| target.unwrap_or(record.size)),
                state,
                reason,
                age_ms: age_ms(record.recorded_at, now),
                attempts: record.attempts,
                next_at: next_try.filter(|_| state == ApiState::Backoff),
                last_error: record.last_error.clone(),
            });
        }
    }
    records.sort_by_key(|record| record.id.parse::<u64>().unwrap_or_default());
    let total = records.len() as u64;
    OutboxList { records, total }
}

pub(super) fn op(op: Op, is_link: bool) -> OutboxOp {
    match op {
        Op::Put if is_link => OutboxOp::Symlink,
        Op::Put => OutboxOp::Write,
        Op::Meta => OutboxOp::Meta,
        Op::Delete => OutboxOp::Delete,
        Op::MakeDir => OutboxOp::Mkdir,
        Op::RemoveDir => OutboxOp::Rmdir,
    }
}

fn words(hold: Hold) -> String {
    match hold {
        Hold::Open(_) => "the file is open and changed".to_owned(),
        Hold::Again(_) => "another attempt follows".to_owned(),
        Hold::Conflict(_) => "both sides changed; waits for the file to be closed".to_owned(),
        Hold::Approval => "one of very many removals: see mountctl approvals".to_owned(),
        Hold::After => "waits for another change to go first".to_owned(),
        Hold::Needs(_) => "bytes that it would overwrite are fetched first".to_owned(),
        Hold::Frozen => "deletes are frozen: the server looks reset".to_owned(),
    }
}

fn age_ms(at: Timestamp, now: Now) -> u64 {
    u64::try_from(now.wall.duration_since(at).as_millis()).unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of the monotonic clock on the wall clock.
pub(super) fn wall_at(at: Duration, now: Now) -> Timestamp {
    let left = at.saturating_sub(now.mono);
    jiff::SignedDuration::try_from(left)
        .ok()
        .and_then(|left| now.wall.checked_add(left).ok())
        .unwrap_or(now.wall)
}
