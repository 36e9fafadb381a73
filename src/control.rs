//! The control API: HTTP on the Unix socket, as documented in `docs/control-api.md`.
//!
//! Holds no state of its own: it reads the core and sends commands to the runner. Only the owner
//! of the daemon and root are let in, by the kernel's word on who is at the other end.

mod approvals;
pub mod check;
mod conflicts;
mod events;
mod link;
mod outbox;
pub mod probe;
mod server;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use mountctl::api::{
    self, Envelope, ErrorBody, ErrorCode, FlushReply, FlushRequest, Hello, Meta, StatusReply,
    UnmountReply, UnmountRequest, route, schema,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use self::server::Peer;
pub use self::server::bind;
use crate::engine::runner::{Command, Flushed};
use crate::engine::{Core, Shared};
use crate::path::WsPath;
use crate::remote::credential::Credential;
use crate::remote::http::HttpRemote;

/// Largest request body; bytes.
const BODY_MAX: usize = 64 << 10;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait that a caller may ask for.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What does not change while a mount lives.
#[derive(Debug, Clone)]
pub struct MountFacts {
    /// Its name.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The server's address.
    pub server: String,
    /// The workspace.
    pub workspace: String,
    /// The mounted folder of it.
    pub remote_path: WsPath,
    /// Refuses every change.
    pub read_only: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// How often it asks for changes while they cannot be pushed.
    pub poll_interval: Duration,
    /// Folder of the conflict copies.
    pub conflicts_folder: PathBuf,
    /// How long stopping may go on sending.
    pub drain: Duration,
}

/// What the handlers work with.
#[derive(Debug)]
pub struct Control {
    facts: MountFacts,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    credential: Credential,
    remote: Arc<HttpRemote>,
    /// Wakes the daemon's end, after which it unmounts.
    stop: Arc<Notify>,
    stopping: AtomicBool,
    /// `mountctl unmount` sent what it was to send.
    drained: AtomicBool,
    request: AtomicU64,
}

impl Control {
    /// Prepares the handlers.
    #[must_use]
    pub fn new(
        facts: MountFacts,
        shared: Arc<Shared>,
        commands: mpsc::Sender<Command>,
        credential: Credential,
        remote: Arc<HttpRemote>,
        stop: Arc<Notify>,
    ) -> Self {
        Self {
            facts,
            shared,
            commands,
            credential,
            remote,
            stop,
            stopping: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            request: AtomicU64::new(1),
        }
    }

    /// Says in the status that the daemon is stopping.
    pub fn note_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether somebody who asked for the end also said how long to send, and that is over.
    #[must_use]
    pub fn was_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    fn meta(&self, schema: &str, began: Duration) -> Meta {
        let elapsed = self.shared.clock.monotonic().saturating_sub(began);
        let id = self.request.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{id}", std::process::id());
        Meta::new(schema, elapsed).answered_by(&id, env!("CARGO_PKG_VERSION"))
    }

    fn success<T: Serialize>(&self, schema: &str, began: Duration, data: T) -> Response {
        Json(Envelope::success(data, self.meta(schema, began))).into_response()
    }

    fn failure(&self, began: Duration, error: ErrorBody) -> Response {
        let envelope = Envelope::<()>::failure(error, self.meta(schema::ERROR, began));
        let status = StatusCode::from_u16(envelope.http_status());
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(envelope)).into_response()
    }

    fn began(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ErrorBody> {
        let (reply, told) = oneshot::channel();
        let gone = || ErrorBody::new(ErrorCode::ShuttingDown, "the daemon is stopping");
        self.commands.send(command(reply)).await.map_err(|_closed| gone())?;
        told.await.map_err(|_dropped| gone())
    }
}

/// Serves the API until `stop` says so.
pub async fn serve(
    listener: UnixListener,
    control: Arc<Control>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let app = axum::Router::new()
        .route(route::HELLO, get(hello))
        .route(route::STATUS, get(status))
        .route(route::PAUSE, post(link::pause))
        .route(route::RESUME, post(link::resume))
        .route(route::FLUSH, post(flush))
        .route(route::OUTBOX, get(outbox::list))
        .route(route::OUTBOX_PLAN, get(outbox::plan))
        .route(route::OUTBOX_RETRY, post(outbox::retry))
        .route(route::OUTBOX_DISCARD, post(outbox::discard))
        .route(route::OUTBOX_EXPORT, post(outbox::export))
        .route(route::OUTBOX_IMPORT, post(outbox::import))
        .route(&format!("{}/{{id}}", route::OUTBOX), get(outbox::show))
        .route(&format!("{}/{{id}}/content", route::OUTBOX), get(outbox::content))
        .route(route::APPROVALS, get(approvals::list))
        .route(
            &format!("{}/{{id}}", route::APPROVALS),
            get(approvals::show).post(approvals::decide),
        )
        .merge(conflicts::routes())
        .route(route::CHECK, post(check::check))
        .route(route::PROBE, get(probe::probe))
        .route(route::EVENTS, get(events::events))
        .route(route::UNMOUNT, post(unmount))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&control), admit))
        .with_state(control);
    tokio::select! {
        () = server::accept(listener, app) => {}
        () = stop => {}
    }
}

/// Lets in the owner and root, nobody's browser, and the versions that are spoken.
async fn admit(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let began = control.began();
    let own = nix::unistd::geteuid().as_raw();
    if !peer.uid.is_some_and(|uid| uid == own || uid == 0) {
        let error = ErrorBody::new(ErrorCode::NotPermitted, "this mount belongs to another user");
        return control.failure(began, error);
    }
    if request.headers().contains_key(axum::http::header::ORIGIN) {
        let error = ErrorBody::new(ErrorCode::NotPermitted, "requests of web pages are refused");
        return control.failure(began, error);
    }
    let version = request.headers().get(api::API_VERSION_HEADER);
    let spoken = api::API_VERSION.to_string();
    if version.is_some_and(|version| version.as_bytes() != spoken.as_bytes()) {
        let error = ErrorBody::new(
            ErrorCode::VersionIncompatible,
            format!("this daemon speaks version {spoken} of the control API"),
        );
        return control.failure(began, error.suggest("use the mountctl of the same release"));
    }
    let (parts, body) = request.into_parts();
    let bytes_max = conflicts::body_max(parts.uri.path()).unwrap_or(BODY_MAX);
    let wrong =
        |what: String| control.failure(began, ErrorBody::new(ErrorCode::InvalidArgument, what));
    let body = match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, bytes_max)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return wrong(format!("the body is cut, or longer than {bytes_max} bytes")),
        Err(_) => return wrong(format!("the body did not come within {BODY_TIMEOUT:?}")),
    };
    let _call = peer.call();
    next.run(Request::from_parts(parts, Body::from(body))).await
}

async fn unknown(State(control): State<Arc<Control>>) -> Response {
    control.failure(control.began(), ErrorBody::new(ErrorCode::NotFound, "no such route"))
}

async fn wrong_method(State(control): State<Arc<Control>>) -> Response {
    let error = ErrorBody::new(ErrorCode::MethodNotAllowed, "not with this method");
    control.failure(control.began(), error)
}

async fn hello(State(control): State<Arc<Control>>) -> Response {
    let hello = Hello {
        name: control.facts.name.clone(),
        mountpoint: control.facts.mountpoint.display().to_string(),
        pid: std::process::id(),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        api_versions: vec![api::API_VERSION],
    };
    control.success(schema::HELLO, control.began(), hello)
}

async fn status(State(control): State<Arc<Control>>) -> Response {
    let began = control.began();
    let stopping = control.stopping.load(Ordering::Relaxed);
    let claims = control.credential.claims();
    let mount = status::status(&control.facts, &control.shared, claims, stopping);
    control.success(schema::STATUS, began, StatusReply { mount })
}

/// The body of a request: a JSON object, whatever type it is announced as; an empty one is all
/// defaults.
fn body<T: Default + DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ErrorBody> {
    let wrong = |message: String| ErrorBody::new(ErrorCode::InvalidArgument, message);
    let bytes = body.map_err(|error| wrong(error.body_text()))?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    object(&bytes)
        .map_err(|error| wrong(format!("the body is not a JSON object as expected: {error}")))
}

/// Reads a JSON object.
pub(crate) fn object<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    // By way of a map: a struct would be read from a list as well.
    let object = serde_json::from_slice(bytes)?;
    serde_json::from_value(serde_json::Value::Object(object))
}

async fn flush(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let request: FlushRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    let path = match request.path.as_deref().map(WsPath::parse).transpose() {
        Ok(path) => path,
        Err(error) => {
            let text = request.path.unwrap_or_default();
            let message = format!("path {text:?}: {error}");
            return control.failure(began, ErrorBody::new(ErrorCode::InvalidArgument, message));
        }
    };
    let timeout = Duration::from_millis(request.timeout_ms).min(WAIT_MAX);
    if let Err(error) = control.seal_all().await {
        return control.failure(began, error);
    }
    let asked = control.ask(|reply| Command::Flush { path: path.clone(), timeout, reply }).await;
    match asked {
        Ok(flushed) => {
            if let Err(error) = control.sync().await {
                return control.failure(began, error);
            }
            let reply = control.flush_reply(flushed, path.as_ref());
            control.success(schema::FLUSH, began, reply)
        }
        Err(error) => control.failure(began, error),
    }
}

impl Control {
    async fn seal_all(&self) -> Result<(), ErrorBody> {
        let shared = Arc::clone(&self.shared);
        let sealed = tokio::task::spawn_blocking(move || shared.seal_all()).await;
        match sealed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
            Err(error) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
        }
    }

    /// Makes what was accepted durable here, too: what is shown after power loss is not older.
    async fn sync(&self) -> Result<(), ErrorBody> {
        let (tell, told) = oneshot::channel();
        self.shared.store.sync(Box::new(move |result| drop(tell.send(result))));
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
            Err(error) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
        }
    }

    fn flush_reply(&self, flushed: Flushed, path: Option<&WsPath>) -> FlushReply {
        let core = self.shared.core();
        let concerned = |at: &WsPath| path.is_none_or(|path| at.is_within(path));
        let attention = core
            .outbox
            .lanes()
            .filter(|(at, lane)| {
                let needs_person = |record: &crate::record::Record| {
                    let parked = matches!(record.state, crate::record::RecordState::Parked { .. });
                    parked || record.needs_approval
                };
                concerned(at) && lane.records().any(needs_person)
            })
            .count();
        let conflicts = core.open_conflicts().filter(|row| concerned(&row.path)).count();
        FlushReply {
            drained: flushed.remaining == 0,
            uploaded: flushed.uploaded,
            bytes: flushed.bytes,
            remaining: flushed.remaining as u64,
            conflicts: conflicts as u64,
            attention: attention as u64,
            duration_ms: u64::try_from(flushed.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

async fn unmount(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let request: UnmountRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    let asked = request.drain_ms.map_or(control.facts.drain, Duration::from_millis);
    let timeout = asked.min(WAIT_MAX);
    control.note_stopping();
    if let Err(error) = control.seal_all().await {
        tracing::error!(code = ?error.code, message = %error.message, "sealing before unmount");
    }
    let left = |core: &Core| core.outbox.queued();
    let drained = if request.no_wait {
        Ok(control.shared.step(|core, _, _| {
            core.halted = true;
            left(core)
        }))
    } else {
        tokio::select! {
            flushed = control.ask(|reply| Command::Drain { timeout, reply }) => {
                flushed.map(|flushed| flushed.remaining)
            }
            () = control.shared.until_hopeless() => Ok(left(&control.shared.core())),
        }
    };
    match drained {
        Ok(remaining) => {
            let remaining = remaining as u64;
            control.drained.store(true, Ordering::Relaxed);
            control.stop.notify_one();
            let name = control.facts.name.clone();
            control.success(schema::UNMOUNT, began, UnmountReply { name, remaining })
        }
        Err(error) => control.failure(began, error),
    }
}
