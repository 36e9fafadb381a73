//! `GET /v1/events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::Stream;
use mountctl::api::{Event, EventAction, EventKind};
use tokio::sync::broadcast::error::RecvError;

use super::Control;
use crate::engine::shared::{Notice, NoticeKind};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(control): State<Arc<Control>>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let notices = control.shared.notices.subscribe();
    let stream = futures_util::stream::unfold(notices, |mut notices| async move {
        let event = match notices.recv().await {
            Ok(notice) => event(notice),
            Err(RecvError::Lagged(missed)) => Event {
                kind: EventKind::Lost,
                detail: Some(format!("{missed} events left out")),
                ..Event::default()
            },
            Err(RecvError::Closed) => return None,
        };
        let sse = SseEvent::default().json_data(&event).unwrap_or_default();
        Some((Ok(sse), notices))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn event(notice: Notice) -> Event {
    let kind = match notice.kind {
        NoticeKind::Remote => EventKind::Remote,
        NoticeKind::Ack => EventKind::Ack,
        NoticeKind::Conflict => EventKind::Conflict,
        NoticeKind::Parked => EventKind::Parked,
        NoticeKind::Link => EventKind::Link,
    };
    let action = match &*notice.action {
        "write" | "edit" => Some(EventAction::Modify),
        "mkdir" => Some(EventAction::Create),
        "delete" | "rmdir" => Some(EventAction::Delete),
        "meta" => Some(EventAction::Meta),
        _ => None,
    };
    let detail = match (notice.kind, notice.detail) {
        (NoticeKind::Link, Some(detail)) => Some(format!("{}: {detail}", notice.action)),
        (NoticeKind::Link, None) => Some(notice.action),
        (_, detail) => detail,
    };
    let (path, revision) = (notice.path, notice.revision);
    Event { at: Some(notice.at), kind, action, path, revision, detail }
}
