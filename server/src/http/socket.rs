//! `/fs/ws`: the feed as it happens.
//!
//! A connection subscribes before it looks at the past, then sends the past from the database
//! and the present from its subscription, skipping what it has sent: no gap and no repetition.
//! A client that falls further behind than its buffer is closed with 1013, having received a
//! contiguous run, and continues from its cursor.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::events::place;
use super::put::BASE64;
use super::reply::Failure;
use super::view::{EventView, Inline};
use super::{App, Call};
use crate::auth::Denied;
use crate::clock::rfc3339;
use crate::config::FEED_INLINE_BYTES_MAX;
use crate::paths::filter_matches;
use crate::server::stopped;
use crate::store::model::{Event, Number};
use crate::store::{StoreError, read};

const INBOUND_BYTES_MAX: usize = 32 * 1024;
const FILTERS_MAX: usize = 256;
/// Events a client without a cursor is shown of the past.
const RECENT: i64 = 100;
/// Events whose content is read at once; bounds what one connection holds in memory.
const CHUNK: usize = 16;
/// How often the token of an open feed is checked again.
const RECHECK: Duration = Duration::from_secs(30);
/// How long a client may take to receive one frame.
const SEND_STALL: Duration = Duration::from_secs(60);

const GOING_AWAY: u16 = 1001;
const NOT_JSON: u16 = 1007;
const POLICY: u16 = 1008;
const TRY_AGAIN: u16 = 1013;
const BROKEN: u16 = 1011;

/// Answers the upgrade request, and serves the connection in a task of its own.
pub(crate) async fn open(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let filters: Vec<String> = call.query.all("path").map(str::to_owned).collect();
    if filters.len() > FILTERS_MAX {
        return Err(Failure::bad_request("too many path filters"));
    }
    let slot = Arc::clone(&app.feed_slots).try_acquire_owned().map_err(|_| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Failure::new(status, "unavailable", "too many open feeds").retry_after(5)
    })?;
    let Call { request, workspace, query, token, .. } = call;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade =
        upgrade.map_err(|_| Failure::bad_request("expected a WebSocket upgrade request"))?;
    let disconnects = app.feeds.subscribe();
    // From here on nothing is missed: what is committed later is in the subscription.
    let live = app.store.hub().subscribe(&workspace);
    let app = Arc::clone(app);
    let mut feed = Feed { app, workspace, token, filters, live, sent: 0, id: 0 };
    let now = query.get("from") == Some("now");
    let cursor = query.get("cursor").filter(|cursor| !cursor.is_empty());
    feed.start(cursor.map(str::to_owned), now).await?;
    let tracked = feed.app.sockets.token();
    let upgraded = upgrade
        .max_message_size(INBOUND_BYTES_MAX)
        .max_frame_size(INBOUND_BYTES_MAX)
        .on_upgrade(move |socket| async move {
            let _held = (tracked, slot);
            feed.run(socket, disconnects).await;
        });
    Ok(upgraded.into_response())
}

struct Feed {
    app: Arc<App>,
    workspace: String,
    token: Option<String>,
    filters: Vec<String>,
    live: mpsc::Receiver<Arc<Event>>,
    /// The newest event that was sent or filtered out.
    sent: Number,
    /// The workspace's number in the database; 0 until it exists.
    id: i64,
}

type Sink = SplitSink<WebSocket, Message>;

/// Why a connection ends: the close code and reason, or nothing when the client is gone.
type End = Option<(u16, &'static str)>;

impl Feed {
    /// Finds where the feed starts.
    async fn start(&mut self, cursor: Option<String>, now: bool) -> Result<(), Failure> {
        let workspace = self.workspace.clone();
        let space =
            self.app.store.read(move |connection| Ok(read::workspace(connection, &workspace)?));
        let space = space.await?;
        let last = space.map_or(0, |space| space.last_event);
        let first = space.map_or(1, |space| space.first_event);
        self.id = space.map_or(0, |space| space.id);
        self.sent = match cursor {
            Some(cursor) => place(&cursor, space.as_ref()).ok_or_else(Failure::cursor_unknown)?,
            None if now => last,
            None => (last - RECENT).max(first - 1),
        };
        Ok(())
    }

    async fn run(mut self, socket: WebSocket, mut disconnects: watch::Receiver<u64>) {
        let (mut sink, mut stream) = socket.split();
        let mut stopping = self.app.stopping.subscribe();
        let (pings, mut pinged) = mpsc::channel::<()>(8);
        let revoked = revoked(Arc::clone(&self.app), self.token.clone());
        let inbound = async {
            while let Some(Ok(message)) = stream.next().await {
                let text = match message {
                    Message::Text(text) => text,
                    Message::Close(_) => return None,
                    // Protocol pings are answered by the WebSocket layer.
                    Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => continue,
                };
                let Ok(value) = serde_json::from_str::<serde_json::Value>(text.as_str()) else {
                    return Some((NOT_JSON, "expected JSON"));
                };
                if value["type"] == "ping" {
                    // A client that pings faster than it reads gets fewer pongs.
                    pings.try_send(()).ok();
                }
            }
            None
        };
        let end: End = tokio::select! {
            end = inbound => end,
            end = self.send_all(&mut sink, &mut pinged) => end,
            () = revoked => Some((POLICY, "the token is no longer good")),
            () = stopped(&mut stopping) => Some((GOING_AWAY, "the server is stopping")),
            _ = disconnects.changed() => Some((GOING_AWAY, "the feed was closed")),
        };
        if let Some((code, reason)) = end {
            let frame = CloseFrame { code, reason: reason.into() };
            let close = async {
                if sink.send(Message::Close(Some(frame))).await.is_ok() {
                    sink.close().await.ok();
                }
            };
            tokio::time::timeout(Duration::from_secs(2), close).await.ok();
        }
        self.live.close();
        self.app.store.hub().tidy(&self.workspace);
    }

    async fn send_all(&mut self, sink: &mut Sink, pinged: &mut mpsc::Receiver<()>) -> End {
        loop {
            match self.catch_up(sink).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return end,
            }
        }
        let mut batch = Vec::with_capacity(CHUNK);
        loop {
            tokio::select! {
                biased;
                Some(()) = pinged.recv() => {
                    let timestamp = rfc3339(self.app.config.clock.now_ns());
                    let pong = json!({"type": "pong", "timestamp": timestamp}).to_string();
                    if let Err(end) = send(sink, pong).await {
                        return end;
                    }
                }
                received = self.live.recv_many(&mut batch, CHUNK) => {
                    if received == 0 {
                        return Some((TRY_AGAIN, "event stream overflow; reconnect from cursor"));
                    }
                    if let Err(end) = self.send_events(sink, std::mem::take(&mut batch)).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Sends a page of the past; tells whether there may be more.
    async fn catch_up(&mut self, sink: &mut Sink) -> Result<bool, End> {
        let (id, after) = (self.id, self.sent);
        if id == 0 {
            return Ok(false);
        }
        let limit = i64::try_from(CHUNK).unwrap_or(1);
        let page = self
            .app
            .store
            .read(move |connection| Ok(read::events_after(connection, id, after, limit)?));
        let page = page.await.map_err(broken)?;
        // Events that were removed while this client slept would be a silent gap.
        if page.first().is_some_and(|event| event.id != after + 1) {
            return Err(Some((TRY_AGAIN, "event stream overflow; reconnect from cursor")));
        }
        let more = page.len() == CHUNK;
        self.send_events(sink, page.into_iter().map(Arc::new).collect()).await?;
        Ok(more)
    }

    async fn send_events(&mut self, sink: &mut Sink, events: Vec<Arc<Event>>) -> Result<(), End> {
        let mut wanted = Vec::with_capacity(events.len());
        for event in events {
            if event.id > self.sent {
                self.sent = event.id;
                let filters = &self.filters;
                if filters.is_empty() || filters.iter().any(|f| filter_matches(f, &event.path)) {
                    wanted.push(event);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        for frame in self.frames(wanted).await.map_err(broken)? {
            send(sink, frame).await?;
        }
        Ok(())
    }

    /// Returns the frames of events, with the content of files that are still as announced.
    async fn frames(&mut self, events: Vec<Arc<Event>>) -> Result<Vec<String>, StoreError> {
        let extensions = self.app.extensions();
        let store = self.app.store.clone();
        let workspace = self.workspace.clone();
        let pin = store.bodies().pin();
        let read = move |connection: &rusqlite::Connection| {
            let id = read::workspace(connection, &workspace)?.map(|space| space.id);
            let mut frames = Vec::with_capacity(events.len());
            for event in events {
                let mut view = EventView::new(&event, extensions);
                let file = match id {
                    Some(id) if event.kind.has_content() => {
                        read::file(connection, id, &event.path)?
                    }
                    _ => None,
                };
                let current = file.filter(|file| {
                    file.revision == event.revision && file.stored_size <= FEED_INLINE_BYTES_MAX
                });
                if let Some(file) = current {
                    let content = read::content(connection, store.bodies(), &pin, &file)?;
                    view.inline = Some(Inline {
                        content: if file.base64 {
                            BASE64.encode(content)
                        } else {
                            String::from_utf8_lossy(&content).into_owned()
                        },
                        encoding: file.base64.then_some("base64"),
                        content_type: file.content_type,
                        inline_content: true,
                    });
                }
                frames.push(serde_json::to_string(&view).unwrap_or_default());
            }
            Ok(frames)
        };
        self.app.store.read(read).await
    }
}

/// Completes when the token no longer stands for anybody. A key set or token file that cannot be
/// read at the moment proves nothing, and ends no feed.
async fn revoked(app: Arc<App>, token: Option<String>) {
    loop {
        tokio::time::sleep(RECHECK).await;
        let caller = app.auth.caller(token.as_deref(), &app.config.clock).await;
        if matches!(caller, Err(Denied::Unauthorized(_) | Denied::Forbidden(_))) {
            return;
        }
    }
}

async fn send(sink: &mut Sink, text: String) -> Result<(), End> {
    match tokio::time::timeout(SEND_STALL, sink.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some((TRY_AGAIN, "event stream overflow; reconnect from cursor"))),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is used to map errors")]
fn broken(error: StoreError) -> End {
    tracing::error!(%error, "a feed could not be read");
    Some((BROKEN, "internal error"))
}
