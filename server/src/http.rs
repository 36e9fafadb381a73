//! From an HTTP request to a reply: route, caller, correlation id, rate limit, operation, in this
//! order.

mod body;
mod bulk;
mod events;
mod export;
mod file;
mod listing;
mod put;
mod query;
mod raw;
mod reply;
mod route;
mod socket;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::auth::{Access, Authenticator, Caller, Denied};
use crate::config::{Config, Extensions};
use crate::intercept::{After, Before, RequestHead, RequestLog, RequestRecord};
use crate::paths;
use crate::rate::RateLimiter;
use crate::store::Store;
use query::Query;
use reply::{Failure, json_reply};
use route::{Operation, Route};

/// Body bytes held in memory at once, over all requests, in units of 1 KiB.
const BODY_BUDGET_KIB: usize = 256 * 1024;
/// Exports that run at once; more wait.
const EXPORTS_MAX: usize = 4;
/// Feeds open at once; more are refused.
const FEEDS_MAX: usize = 4096;
const CORRELATION_BYTES_MAX: usize = 1024;
const NS_PER_MS: i64 = 1_000_000;

/// Everything the requests of one server share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) auth: Authenticator,
    pub(crate) rate: Option<RateLimiter>,
    pub(crate) store: Store,
    pub(crate) log: RequestLog,
    pub(crate) body_budget: Arc<Semaphore>,
    pub(crate) exports: Arc<Semaphore>,
    pub(crate) feed_slots: Arc<Semaphore>,
    /// Set once, when the server begins to stop.
    pub(crate) stopping: watch::Sender<bool>,
    /// Counts up whenever all feeds are to be closed.
    pub(crate) feeds: watch::Sender<u64>,
    pub(crate) sockets: TaskTracker,
}

impl App {
    pub(crate) fn new(config: Arc<Config>, auth: Authenticator, store: Store) -> Self {
        Self {
            rate: config.rate_limit.map(RateLimiter::new),
            config,
            auth,
            store,
            log: RequestLog::default(),
            body_budget: Arc::new(Semaphore::new(BODY_BUDGET_KIB)),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            feed_slots: Arc::new(Semaphore::new(FEEDS_MAX)),
            stopping: watch::channel(false).0,
            feeds: watch::channel(0).0,
            sockets: TaskTracker::new(),
        }
    }

    pub(crate) fn extensions(&self) -> Extensions {
        self.config.extensions
    }
}

/// The connection is closed without a reply, because an interceptor asked for it.
#[derive(Debug, thiserror::Error)]
#[error("the connection was cut by the interceptor")]
pub(crate) struct Cut;

/// One request on its way through the server.
pub(crate) struct Call {
    pub(crate) request: Request<Body>,
    pub(crate) workspace: String,
    pub(crate) query: Query,
    pub(crate) caller: Caller,
    /// The token as sent; only for checking it again.
    pub(crate) token: Option<String>,
    pub(crate) correlation: String,
}

impl Call {
    /// Returns the `path` parameter as the path of a file.
    pub(crate) fn file_path(&self) -> Result<String, Failure> {
        let raw = self.query.get("path").filter(|path| !path.is_empty());
        let raw = raw.ok_or_else(|| Failure::bad_request("missing path query"))?;
        paths::file_path(raw).ok_or_else(|| Failure::bad_request("invalid path"))
    }

    /// Returns the `path` parameter as the path of a folder, by default the root.
    pub(crate) fn folder_path(&self) -> Result<String, Failure> {
        let raw = self.query.get("path").unwrap_or_default();
        paths::folder_path(raw).ok_or_else(|| Failure::bad_request("invalid path"))
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

/// Serves one request; the error closes the connection.
pub(crate) async fn handle(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let request = request.map(Body::new);
    let route = Route::find(request.method(), request.uri().path(), app.extensions());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let head = RequestHead {
        method: request.method().to_string(),
        route: route.as_ref().map_or("other", Route::name),
        workspace: route.as_ref().and_then(|route| route.workspace.clone()),
        path: query.as_ref().ok().and_then(|query| query.get("path")).map(str::to_owned),
        authorized: request.headers().contains_key(AUTHORIZATION)
            || query.as_ref().is_ok_and(|query| query.get("token").is_some()),
        content_length: request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok()),
    };
    let before = app.config.interceptor.as_ref().map_or(Before::Pass, |hook| hook.before(&head));
    let served = match before {
        Before::Pass => None,
        Before::Delay(delay) => {
            tokio::time::sleep(delay).await;
            None
        }
        Before::Reset => {
            record(&app, &head, 0);
            return Err(Cut);
        }
        Before::Reply { status, headers, body } => Some(scripted(status, headers, body)),
    };
    let intercepted = served.is_some();
    let response = match served {
        Some(response) => response,
        None => respond(&app, route, query, request).await,
    };
    let status = response.status().as_u16();
    record(&app, &head, status);
    if intercepted {
        return Ok(response);
    }
    match app.config.interceptor.as_ref().map_or(After::Pass, |hook| hook.after(&head, status)) {
        After::Pass => Ok(response),
        After::Drop => Err(Cut),
        After::Garble => garble(response).await,
        After::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Ok(response)
        }
    }
}

fn record(app: &App, head: &RequestHead, status: u16) {
    app.log.record(RequestRecord {
        method: head.method.clone(),
        route: head.route,
        path: head.path.clone(),
        status,
        at_ms: app.config.clock.now_ns() / NS_PER_MS,
    });
}

fn scripted(status: u16, headers: Vec<(String, String)>, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

async fn garble(response: Response<Body>) -> Result<Response<Body>, Cut> {
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|_| Cut)?;
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(body.slice(..body.len() / 2))))
}

async fn respond(
    app: &Arc<App>,
    route: Option<Route>,
    query: Result<Query, Failure>,
    request: Request<Body>,
) -> Response<Body> {
    let correlation = request
        .headers()
        .get("x-correlation-id")
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|value| value.len() <= CORRELATION_BYTES_MAX)
        .unwrap_or_default()
        .to_owned();
    let head_only = request.method() == Method::HEAD;
    failpoint!("server.request");
    let result = admit(app, route, query, request, &correlation).await;
    failpoint!("server.reply");
    let mut response = result.unwrap_or_else(|failure| failure.into_response(&correlation));
    if head_only && response.status().is_client_error() {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Everything before the operation itself: route, caller, correlation id and rate limit.
async fn admit(
    app: &Arc<App>,
    route: Option<Route>,
    query: Result<Query, Failure>,
    request: Request<Body>,
    correlation: &str,
) -> Result<Response<Body>, Failure> {
    let Some(Route { operation, workspace }) = route else { return Err(Failure::no_route()) };
    if operation == Operation::Health {
        return Ok(json_reply(StatusCode::OK, &json!({"status": "ok"})));
    }
    let header = bearer(&request);
    // An unreadable query must not hide that the caller is unknown.
    let in_query = query.as_ref().ok().and_then(|query| query.get("token"));
    let token = if operation == Operation::Socket {
        in_query.or(header.as_deref())
    } else {
        header.as_deref()
    };
    let caller = app.auth.caller(token, &app.config.clock).await?;
    let token = token.map(str::to_owned);
    let query = query?;
    if operation == Operation::Capabilities {
        return Ok(capabilities(app));
    }
    meant_for_us(app, &request)?;
    let workspace = workspace.unwrap_or_default();
    if caller.workspace.as_ref().is_some_and(|allowed| *allowed != workspace) {
        return Err(Denied::Forbidden("workspace mismatch".to_owned()).into());
    }
    authorize(&caller, &operation, &query)?;
    let call =
        Call { request, workspace, query, caller, token, correlation: correlation.to_owned() };
    if operation == Operation::Socket {
        limit(app, &call)?;
        return socket::open(app, call).await;
    }
    if correlation.is_empty() {
        return Err(Failure::bad_request("missing X-Correlation-Id header"));
    }
    limit(app, &call)?;
    match operation {
        Operation::Tree => listing::tree(app, call).await,
        Operation::Query => listing::query(app, call).await,
        Operation::Export => export::export(app, call).await,
        Operation::FileGet => file::get(app, call).await,
        Operation::FilePut => file::put(app, call).await,
        Operation::FileDelete => file::delete(app, call).await,
        Operation::Bulk => bulk::bulk(app, call).await,
        Operation::Events => events::events(app, call).await,
        Operation::RawGet => raw::get(app, call).await,
        Operation::RawPut => raw::put(app, call).await,
        Operation::Op(id) => events::op(app, call, &id).await,
        Operation::Health | Operation::Capabilities | Operation::Socket => Err(Failure::no_route()),
    }
}

/// Checks the scope a route needs, on the path it is asked about.
fn authorize(caller: &Caller, operation: &Operation, query: &Query) -> Result<(), Failure> {
    let raw = query.get("path").unwrap_or_default();
    let grants = &caller.grants;
    let need = |granted: bool, scope: &str| {
        granted.then_some(()).ok_or_else(|| {
            Failure::from(Denied::Forbidden(format!("missing required scope: {scope}")))
        })
    };
    match operation {
        Operation::Tree | Operation::Query | Operation::Export => {
            need(grants.allows(Access::Read, &paths::normalise(raw)), "fs:read")
        }
        Operation::FileGet | Operation::RawGet => need(grants.allows(Access::Read, raw), "fs:read"),
        Operation::FilePut | Operation::FileDelete | Operation::RawPut => {
            need(grants.allows(Access::Write, raw), "fs:write")
        }
        Operation::Bulk => need(grants.allows_somewhere(Access::Write), "fs:write"),
        Operation::Events => need(grants.allows(Access::Read, "/"), "fs:read"),
        Operation::Socket => {
            let mut filters = query.all("path").peekable();
            let allowed = if filters.peek().is_none() {
                grants.allows(Access::Read, "/")
            } else {
                filters.all(|filter| grants.allows(Access::Read, filter))
            };
            need(allowed, "fs:read")
        }
        Operation::Op(_) => need(grants.has("ops:read"), "ops:read"),
        Operation::Health | Operation::Capabilities => Ok(()),
    }
}

fn limit(app: &App, call: &Call) -> Result<(), Failure> {
    let Some(rate) = &app.rate else { return Ok(()) };
    rate.take(&call.workspace, &call.caller.subject, &app.config.clock).map_err(|wait_s| {
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "rate limit exceeded")
            .retry_after(wait_s)
    })
}

fn bearer(request: &Request<Body>) -> Option<String> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// Refuses a request that names another server, before anything is done.
fn meant_for_us(app: &App, request: &Request<Body>) -> Result<(), Failure> {
    let Some(expected) = request.headers().get("x-expect-server") else { return Ok(()) };
    if !app.config.extensions.server_id || expected.as_bytes() == app.store.identity().as_bytes() {
        return Ok(());
    }
    let message = format!("this is server {}", app.store.identity());
    Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, "other_server", &message))
}

fn capabilities(app: &App) -> Response<Body> {
    let config = &app.config;
    let mut announced = json!({
        "server": concat!("workspaced/", env!("CARGO_PKG_VERSION")),
        "capabilities": config.extensions.names(),
        "limits": {
            "maxBodyBytes": config.max_body_bytes,
            "maxRawBytes": config.max_raw_bytes,
            "maxBulkFiles": config.max_bulk_files,
        },
    });
    if config.extensions.server_id {
        announced["serverId"] = app.store.identity().into();
    }
    json_reply(StatusCode::OK, &announced)
}

/// How long a client may leave a transfer standing still.
pub(crate) const STALL: Duration = Duration::from_secs(60);
