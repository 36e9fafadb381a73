//! What people ask of the link: pause and resume.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use jiff::Timestamp;
use mountctl::api::{
    ErrorBody, ErrorCode, PauseReply, PauseRequest, ResumeReply, ResumeRequest, schema,
};

use super::{Control, body};
use crate::engine::link::table::State as LinkState;
use crate::engine::link::{Answer, Illegal, Pause, Refused};
use crate::engine::runner::Command;

pub(super) async fn pause(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let request: PauseRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    if let Err(error) = control.may_pause(&request) {
        return control.failure(began, error);
    }
    let since = control.shared.clock.wall();
    let until = request.for_ms.map(|ms| {
        let length = jiff::SignedDuration::try_from(Duration::from_millis(ms));
        length.ok().and_then(|length| since.checked_add(length).ok()).unwrap_or(Timestamp::MAX)
    });
    let pause = Pause { reason: request.reason.clone(), since, until };
    let before = control.ask(|reply| Command::Pause { pause, reply }).await;
    match before {
        Ok(before) => {
            let queued = control.shared.core().outbox.len() as u64;
            let reply = PauseReply {
                name: control.facts.name.clone(),
                since: Some(since),
                until,
                reason: request.reason,
                already_paused: before.is_some(),
                queued,
            };
            control.success(schema::PAUSE, began, reply)
        }
        Err(error) => control.failure(began, error),
    }
}

pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let server = match body(request).and_then(|request: ResumeRequest| named_server(&request)) {
        Ok(server) => server,
        Err(error) => return control.failure(began, error),
    };
    if let Err(error) = control.not_stopping("resume") {
        return control.failure(began, error);
    }
    match control.ask(|reply| Command::Resume { server, reply }).await {
        Ok(Ok(resumed)) => {
            let was_paused = resumed.pause.is_some() || resumed.cause.is_some();
            let way = match resumed.cause {
                Some(_) if resumed.circuit => Some("CIRCUIT_OPEN".to_owned()),
                cause => cause.map(|cause| cause.code().to_owned()),
            };
            let reason = resumed
                .pause
                .map(|pause| pause.reason.unwrap_or_else(|| "PAUSED".to_owned()))
                .or(way);
            let reply = ResumeReply {
                name: control.facts.name.clone(),
                was_paused,
                previous_reason: reason,
                consecutive_failures_cleared: resumed.failures,
                flushing: resumed.flushing as u64,
            };
            control.success(schema::RESUME, began, reply)
        }
        Ok(Err(refused)) => control.failure(began, refusal(refused)),
        Err(error) => control.failure(began, error),
    }
}

impl Control {
    /// Refuses what makes no sense any more once the daemon was told to stop.
    fn not_stopping(&self, request: &str) -> Result<(), ErrorBody> {
        if !self.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = format!("{request}: mount `{}` is stopping", self.facts.name);
        Err(ErrorBody::new(ErrorCode::IllegalTransition, message)
            .suggest("what is not sent stays in the outbox; ask again after the next start"))
    }

    fn may_pause(&self, request: &PauseRequest) -> Result<(), ErrorBody> {
        self.not_stopping("pause")?;
        if self.facts.read_only {
            let message = format!("pause: mount `{}` is read-only", self.facts.name);
            return Err(ErrorBody::new(ErrorCode::IllegalTransition, message)
                .suggest("nothing is ever sent by it, so there is nothing to hold back"));
        }
        if request.for_ms == Some(0) {
            let message = "a pause of no time is none";
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message)
                .suggest("leave the time out to pause until `mountctl resume`"));
        }
        Ok(())
    }
}

/// The server that a person saw in the status and named.
fn named_server(request: &ResumeRequest) -> Result<Option<Answer>, ErrorBody> {
    let Some(text) = &request.server else { return Ok(None) };
    if text == "none" {
        return Ok(Some(Answer(None)));
    }
    match text.parse() {
        Ok(id) => Ok(Some(Answer(Some(id)))),
        Err(why) => Err(ErrorBody::new(ErrorCode::InvalidArgument, why)
            .suggest("`mountctl status` shows the identity of the server that answers")),
    }
}

/// What, why, and what to do instead.
fn refusal(refused: Refused) -> ErrorBody {
    let error = |message: &str| ErrorBody::new(ErrorCode::IllegalTransition, message);
    match refused {
        Refused::Illegal(Illegal { state: LinkState::Stranger, .. }) => {
            error("resume: another server answers than the one that this mount belongs to")
                .suggest(
                    "bring the right server back and it goes on by itself, or name the other one",
                )
                .action("mountctl status")
                .action("mountctl resume --server ID")
        }
        Refused::Illegal(Illegal { state: LinkState::Doubted, .. }) => {
            error("resume: the server's history went back, and a person has to look at that first")
                .action("mountctl approvals")
        }
        Refused::Illegal(_) => error("resume with another server: no other server answers")
            .suggest("without --server it ends whatever else holds back uploads")
            .action("mountctl resume"),
        Refused::OtherAnswer(found) => {
            let who = found.map_or_else(|| "not known yet".to_owned(), |found| found.to_string());
            error(&format!("resume with another server: the one that answers is {who}"))
                .suggest("look again at what it holds before you name it")
                .action("mountctl status")
                .detail("found", who)
        }
    }
}
