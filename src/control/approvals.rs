//! What waits for a person, and what they decide.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use mountctl::api::{
    ApprovalList, ApprovalRecord, ApprovalReply, ApprovalRequest, ErrorBody, ErrorCode, schema,
};

use super::{Control, body};
use crate::engine::approvals::{Approval, Refusal};
use crate::engine::runner::Command;

/// Paths that a list shows of each.
const PATHS_SHOWN: usize = 20;

pub(super) async fn list(State(control): State<Arc<Control>>) -> Response {
    let began = control.began();
    let approvals = control.shared.core().approvals();
    let approvals = approvals.iter().map(|approval| record(approval, PATHS_SHOWN)).collect();
    control.success(schema::APPROVALS, began, ApprovalList { approvals })
}

pub(super) async fn show(State(control): State<Arc<Control>>, Path(id): Path<String>) -> Response {
    let began = control.began();
    let found = control.shared.core().approval(&id);
    match found {
        Ok(approval) => control.success(schema::APPROVAL, began, record(&approval, usize::MAX)),
        Err(refusal) => control.failure(began, error(&id, &refusal)),
    }
}

pub(super) async fn decide(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let request: ApprovalRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    let approve = !request.reject;
    let asked = control.ask(|reply| Command::Decide { id: id.clone(), approve, reply }).await;
    match asked {
        Ok(Ok(decided)) => {
            let kind = id.rsplit_once('-').map_or(&*id, |(kind, _)| kind).to_owned();
            let reply = ApprovalReply { id, kind, approved: approve, count: decided.count };
            control.success(schema::APPROVED, began, reply)
        }
        Ok(Err(refusal)) => control.failure(began, error(&id, &refusal)),
        Err(error) => control.failure(began, error),
    }
}

fn record(approval: &Approval, paths_max: usize) -> ApprovalRecord {
    let paths = approval.paths.iter().take(paths_max);
    ApprovalRecord {
        id: approval.id(),
        kind: approval.kind.word().to_owned(),
        why: approval.why.clone(),
        count: approval.count,
        paths: paths.map(|path| path.as_str().to_owned()).collect(),
        digest: approval.digest.to_string(),
    }
}

fn error(id: &str, refusal: &Refusal) -> ErrorBody {
    let message = format!("{id}: {refusal}");
    match refusal {
        Refusal::Unknown => {
            ErrorBody::new(ErrorCode::NotFound, message).action("mountctl approvals")
        }
        Refusal::Stale(now) => ErrorBody::new(ErrorCode::IllegalTransition, message)
            .suggest("look at what waits now, and approve that if it is what you want")
            .action(format!("mountctl approvals show {}", now.id()))
            .detail("id", now.id())
            .detail("count", now.count)
            .detail("digest", now.digest.to_string()),
        Refusal::NotRefusable => ErrorBody::new(ErrorCode::IllegalTransition, message)
            .suggest("bring the server back to what it was, or approve to go on with it as it is"),
    }
}
