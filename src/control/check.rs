//! `POST /v1/check`: the mount looks at everything that lies in its state folder.

use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use mountctl::api::{self, CheckReply, CheckRequest, ErrorBody, ErrorCode, FindingOutcome, schema};

use super::{Control, body};
use crate::engine::check::{Checked, Finding, Object, Outcome, Wrong};

pub(super) async fn check(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let request: CheckRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    let shared = Arc::clone(&control.shared);
    let checked = tokio::task::spawn_blocking(move || shared.check(request.repair)).await;
    let failed = |why: String| {
        control.failure(began, ErrorBody::new(ErrorCode::Internal, format!("the check: {why}")))
    };
    match checked {
        Ok(Ok(checked)) => {
            let name = control.facts.name.clone();
            let reply = CheckReply { running: true, ..reply(&name, !request.repair, checked) };
            control.success(schema::CHECK, began, reply)
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

/// A check as the API tells it.
#[must_use]
pub fn reply(name: &str, dry_run: bool, checked: Checked) -> CheckReply {
    CheckReply {
        name: name.to_owned(),
        running: false,
        dry_run,
        contents: checked.contents,
        bytes: checked.bytes,
        busy: checked.busy,
        copies: checked.copies,
        findings: checked.findings.into_iter().map(finding).collect(),
    }
}

fn finding(finding: Finding) -> api::Finding {
    api::Finding {
        object: match finding.object {
            Object::Content => "content",
            Object::Base => "base",
            Object::WorkingFile => "working_file",
            Object::ConflictCopy => "conflict_copy",
            Object::Row => "row",
            Object::Database => "database",
            Object::Log => "log",
        }
        .to_owned(),
        wrong: match finding.wrong {
            Wrong::Flaw(kind) => kind.word(),
            Wrong::Unnamed => "unnamed",
            Wrong::Lost => "lost",
        }
        .to_owned(),
        path: finding.path.map(|path| path.as_str().to_owned()),
        name: finding.name,
        why: finding.why,
        outcome: match finding.outcome {
            Outcome::FetchedAgain => FindingOutcome::FetchedAgain,
            Outcome::NeedsPerson => FindingOutcome::NeedsPerson,
            Outcome::SetAside => FindingOutcome::SetAside,
            Outcome::TakenUp => FindingOutcome::TakenUp,
            Outcome::Mended => FindingOutcome::Mended,
            Outcome::Removed => FindingOutcome::Removed,
            Outcome::Left => FindingOutcome::Left,
        },
        kept: finding.kept.as_deref().map(Path::display).map(|path| path.to_string()),
    }
}
