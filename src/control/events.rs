//! `GET /v1/events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::Stream;
use mountctl::api::{Event, EventAction, EventKind, EventsQuery};
use tokio::sync::broadcast::error::RecvError;

use super::Control;
use crate::engine::shared::{Notice, NoticeKind};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(control): State<Arc<Control>>,
    Query(query): Query<EventsQuery>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let (recent, coming) = control.shared.notices();
    let coming = query.follow.then_some(coming);
    let stream = futures_util::stream::unfold((recent, coming), |(mut recent, coming)| async {
        if let Some(notice) = recent.pop_front() {
            return Some((Ok(sent(&event(notice))), (recent, coming)));
        }
        let mut coming = coming?;
        let event = match coming.recv().await {
            Ok(notice) => event(notice),
            Err(RecvError::Lagged(missed)) => Event {
                kind: EventKind::Lost,
                detail: Some(format!("{missed} events left out")),
                ..Event::default()
            },
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(sent(&event)), (recent, Some(coming))))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn sent(event: &Event) -> SseEvent {
    let named = SseEvent::default().event(event.kind.as_str());
    named.json_data(event).unwrap_or_default()
}

fn event(notice: Notice) -> Event {
    let kind = match notice.kind {
        NoticeKind::Remote => EventKind::Remote,
        NoticeKind::Ack => EventKind::Ack,
        NoticeKind::Conflict => EventKind::Conflict,
        NoticeKind::Parked => EventKind::Parked,
        NoticeKind::Link => EventKind::Link,
        NoticeKind::Local => EventKind::Local,
        NoticeKind::Approval => EventKind::Approval,
        NoticeKind::Damage => EventKind::Damage,
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
