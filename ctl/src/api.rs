//! The documents of control API v1: one definition for the daemon, its clients and `--json`.
//!
//! Times are RFC 3339 in UTC and end in `_at`; ages and durations are milliseconds and end in
//! `_ms`; sizes are bytes. What is not known is `null`, never a made-up figure. Readers ignore
//! fields they do not know, and a missing field reads as its default; an unknown word in an
//! enumeration reads as `Unknown`, so that an old client can show a newer daemon.
//!
//! Nothing here does I/O.

mod approvals;
mod calls;
mod check;
mod conflicts;
mod doctor;
mod envelope;
mod exit;
mod outbox;
mod probe;
mod status;

pub use approvals::{ApprovalList, ApprovalRecord, ApprovalReply, ApprovalRequest};
pub use calls::{
    Event, EventAction, EventKind, EventsQuery, FlushReply, FlushRequest, Hello, OutboxList,
    OutboxOp, OutboxRecord, PauseReply, PauseRequest, RecordState, ResumeReply, ResumeRequest,
    UnmountReply, UnmountRequest,
};
pub use check::{CheckReply, CheckRequest, Finding, FindingOutcome};
pub use conflicts::{
    ConflictDetail, ConflictDiff, ConflictList, ConflictNow, ConflictRecord, ConflictResolution,
    ConflictsQuery, CopyFlaw, Ours, ResolveReply, ResolveRequest, ResolveResult, ResolveWith,
    Theirs,
};
pub use doctor::{Check, DoctorReply, Level};
pub use envelope::{Envelope, ErrorBody, ErrorCode, Meta};
pub use exit::ExitCode;
pub use outbox::{
    OutboxDetails, OutboxDone, OutboxOne, OutboxPlan, OutboxPlanned, OutboxRequest, OutboxSelection,
};
pub use probe::ProbeReply;
pub use status::{
    AuthStatus, BatchStatus, BootstrapStatus, CacheStatus, CircuitState, CircuitStatus,
    ConflictsStatus, DamageStatus, LastError, MountMode, MountState, MountStatus, OtherServer,
    PauseInfo, PauseStatus, RetryStatus, StatusReply, StreamHealth, StreamMode, StreamStatus,
    UploadsStatus,
};

/// The version of the control API this crate speaks.
pub const API_VERSION: u32 = 1;

/// The request header that carries the version: every call but `hello` sends it.
pub const API_VERSION_HEADER: &str = "x-mountd-api-version";

/// The request header that makes a change safe to send twice.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Schema names, as carried in `meta.schema`.
///
/// Removing a field or changing its meaning raises the number; adding one does not.
pub mod schema {
    /// Reply of `GET /v1/hello`.
    pub const HELLO: &str = "mountd.hello/1";
    /// Reply of `GET /v1/status`.
    pub const STATUS: &str = "mountd.status/1";
    /// Summary of several mounts, running or not (`mountctl status --all --json`).
    pub const MOUNTS: &str = "mountd.mounts/1";
    /// Reply of `POST /v1/pause`.
    pub const PAUSE: &str = "mountd.pause/1";
    /// Reply of `POST /v1/resume`.
    pub const RESUME: &str = "mountd.resume/1";
    /// Reply of `POST /v1/flush`.
    pub const FLUSH: &str = "mountd.flush/1";
    /// Reply of `GET /v1/outbox`.
    pub const OUTBOX: &str = "mountd.outbox/1";
    /// Reply of `GET /v1/outbox/plan`.
    pub const OUTBOX_PLAN: &str = "mountd.outbox-plan/1";
    /// Reply of `GET /v1/outbox/ID`.
    pub const OUTBOX_RECORD: &str = "mountd.outbox-record/1";
    /// Reply of `POST /v1/outbox/retry`, `discard`, `export` and `import`.
    pub const OUTBOX_DONE: &str = "mountd.outbox-done/1";
    /// Reply of `GET /v1/approvals`.
    pub const APPROVALS: &str = "mountd.approvals/1";
    /// Reply of `GET /v1/approvals/ID`.
    pub const APPROVAL: &str = "mountd.approval/1";
    /// Reply of `POST /v1/approvals/ID`.
    pub const APPROVED: &str = "mountd.approved/1";
    /// Reply of `GET /v1/conflicts`.
    pub const CONFLICTS: &str = "mountd.conflicts/1";
    /// Reply of `GET /v1/conflicts/{id}`.
    pub const CONFLICT: &str = "mountd.conflict/1";
    /// Reply of `GET /v1/conflicts/{id}/diff`.
    pub const CONFLICT_DIFF: &str = "mountd.conflict_diff/1";
    /// Reply of `POST /v1/conflicts/resolve`.
    pub const RESOLVE: &str = "mountd.resolve/1";
    /// Reply of `POST /v1/check`, and what `mountd repair --json` prints.
    pub const CHECK: &str = "mountd.check/1";
    /// Reply of `GET /v1/probe`, and what `mountd probe --json` prints.
    pub const PROBE: &str = "mountd.probe/1";
    /// What `mountctl doctor --json` prints.
    pub const DOCTOR: &str = "mountd.doctor/1";
    /// Reply of `POST /v1/unmount`.
    pub const UNMOUNT: &str = "mountd.unmount/1";
    /// Versions of `mountctl` and of the daemons (`mountctl version --json`).
    pub const VERSION: &str = "mountd.version/1";
    /// Any failure.
    pub const ERROR: &str = "mountd.error/1";
}

/// Request paths of control API v1.
pub mod route {
    /// `GET`: who answers, and which versions it speaks. Needs no version header.
    pub const HELLO: &str = "/v1/hello";
    /// `GET`: the state of the mount.
    pub const STATUS: &str = "/v1/status";
    /// `POST`: holds back uploads.
    pub const PAUSE: &str = "/v1/pause";
    /// `POST`: ends a pause, closes the circuit and forgets the back-off.
    pub const RESUME: &str = "/v1/resume";
    /// `POST`: waits until the outbox, or the part below a path, is empty.
    pub const FLUSH: &str = "/v1/flush";
    /// `GET`: the records in the outbox.
    pub const OUTBOX: &str = "/v1/outbox";
    /// `GET`: what waits for a person; below it by id, `GET` for all of one, `POST` decides.
    pub const APPROVALS: &str = "/v1/approvals";
    /// `GET`: what would become of each record now.
    pub const OUTBOX_PLAN: &str = "/v1/outbox/plan";
    /// `POST`: tries records again.
    pub const OUTBOX_RETRY: &str = "/v1/outbox/retry";
    /// `POST`: sets records aside and gives them up.
    pub const OUTBOX_DISCARD: &str = "/v1/outbox/discard";
    /// `POST`: writes records with their bytes into a folder.
    pub const OUTBOX_EXPORT: &str = "/v1/outbox/export";
    /// `POST`: takes records up from such a folder.
    pub const OUTBOX_IMPORT: &str = "/v1/outbox/import";
    /// `GET`: the conflicts.
    pub const CONFLICTS: &str = "/v1/conflicts";
    /// `GET`: one conflict.
    pub const CONFLICT: &str = "/v1/conflicts/{id}";
    /// `GET`: the differences between its versions.
    pub const CONFLICT_DIFF: &str = "/v1/conflicts/{id}/diff";
    /// `POST`: ends one conflict.
    pub const CONFLICT_RESOLVE: &str = "/v1/conflicts/{id}/resolve";
    /// `POST`: ends several conflicts.
    pub const RESOLVE: &str = "/v1/conflicts/resolve";
    /// `POST`: looks at everything that lies in the state folder.
    pub const CHECK: &str = "/v1/check";
    /// `GET`: one look at the server.
    pub const PROBE: &str = "/v1/probe";
    /// `GET`: the event stream.
    pub const EVENTS: &str = "/v1/events";
    /// `POST`: drains for a bounded time, then unmounts and ends the daemon.
    pub const UNMOUNT: &str = "/v1/unmount";
}

#[cfg(test)]
mod tests;
