//! `GET /v1/probe`: one look at the server, with the credential of the mount.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use mountctl::api::{ProbeReply, schema};

use super::Control;
use crate::remote::credential::Claims;
use crate::remote::probe::Probe;
use crate::remote::{RemoteError, ServerId};

pub(super) async fn probe(State(control): State<Arc<Control>>) -> Response {
    let began = control.began();
    let probe = control.remote.probe(&control.shared.clock).await;
    let expected = control.shared.core().capabilities.and_then(|known| known.server);
    let mut reply = reply(probe, expected, control.credential.claims());
    reply.server.clone_from(&control.facts.server);
    reply.workspace.clone_from(&control.facts.workspace);
    reply.embedded = reply.server.starts_with("file:");
    control.success(schema::PROBE, began, reply)
}

/// A look at a server as the API tells it.
#[must_use]
pub fn reply(probe: Probe, expected: Option<ServerId>, claims: Option<Claims>) -> ProbeReply {
    let identity = probe.capabilities.and_then(|capabilities| capabilities.server);
    let unreachable = matches!(probe.access, Err(RemoteError::Unreachable { .. }));
    let (expires_at, scopes) =
        claims.map(|claims| (claims.expires_at, claims.scopes)).unwrap_or_default();
    ProbeReply {
        reached: !unreachable,
        took_ms: u64::try_from(probe.took.as_millis()).unwrap_or(u64::MAX),
        clock_ahead_ms: probe.ahead.and_then(|ahead| i64::try_from(ahead.as_millis()).ok()),
        identity: identity.map(|id| id.to_string()),
        expected: expected.map(|id| id.to_string()),
        accepted: probe.access.is_ok(),
        refusal: probe.access.as_ref().err().map(|error| kind(error).to_owned()),
        why: probe.access.err().map(|error| error.to_string()),
        expires_at,
        scopes,
        ..ProbeReply::default()
    }
}

fn kind(error: &RemoteError) -> &'static str {
    match error {
        RemoteError::Auth { .. } => "auth",
        RemoteError::Forbidden { .. } => "forbidden",
        RemoteError::Gone { .. } => "gone",
        RemoteError::Untrusted { .. } => "untrusted",
        RemoteError::OtherServer { .. } => "other_server",
        RemoteError::Unreachable { .. } => "unreachable",
        RemoteError::Busy { .. } => "busy",
        _ => "other",
    }
}
