//! `/fs/events`, the feed by pages, and `/ops/{id}`, which is answered from the feed.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::reply::{Failure, json_reply};
use super::view::{EventView, event_text};
use super::{App, Call};
use crate::clock::rfc3339;
use crate::paths;
use crate::store::model::{EventKind, Number, Workspace, revision_text};
use crate::store::read;

const PAGE_DEFAULT: usize = 200;
const PAGE_MAX: usize = 1000;
/// Events a filtered page looks at, so that a rare match cannot make it endless.
const SCAN_MAX: i64 = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventsReply {
    events: Vec<EventView>,
    next_cursor: Option<String>,
}

/// Finds the event number a cursor stands for; `None` when the feed has no such place.
///
/// The place just before the oldest event kept is known too: nothing after it is missing.
pub(crate) fn place(cursor: &str, space: Option<&Workspace>) -> Option<Number> {
    let digits = cursor.strip_prefix("evt_")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: Number = digits.parse().ok().filter(|_| plain)?;
    let (first, last) = space.map_or((1, 0), |space| (space.first_event, space.last_event));
    (first - 1..=last).contains(&number).then_some(number)
}

/// Serves `GET /fs/events`.
pub(crate) async fn events(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let limit = call.query.number("limit", PAGE_DEFAULT, PAGE_MAX);
    let newest_first = match call.query.get("direction").unwrap_or("asc") {
        "asc" | "" => false,
        "desc" => true,
        _ => return Err(Failure::bad_request("invalid direction")),
    };
    let extensions = app.extensions();
    let reply = app.store.read(move |connection| {
        let space = read::workspace(connection, &call.workspace)?;
        let cursor = call.query.get("cursor").filter(|cursor| !cursor.is_empty());
        let from = match cursor.map(|cursor| place(cursor, space.as_ref())) {
            Some(None) => return Ok(None),
            Some(Some(number)) => Some(number),
            None => None,
        };
        let mut reply = EventsReply { events: Vec::new(), next_cursor: None };
        let Some(space) = space else { return Ok(Some(reply)) };
        let provider = call.query.get("provider").filter(|name| !name.is_empty());
        let provider = provider.map(str::to_lowercase);
        let scan = if provider.is_some() { SCAN_MAX } else { i64::try_from(limit).unwrap_or(1) };
        let (found, end) = if newest_first {
            let before = from.unwrap_or(space.last_event + 1);
            (read::events_before(connection, space.id, before, scan)?, space.first_event)
        } else {
            let after = from.unwrap_or(space.first_event - 1);
            (read::events_after(connection, space.id, after, scan)?, space.last_event)
        };
        let mut last = None;
        for event in &found {
            last = Some(event.id);
            if provider.as_ref().is_none_or(|name| paths::provider(&event.path) == *name) {
                reply.events.push(EventView::new(event, extensions));
                if reply.events.len() == limit {
                    break;
                }
            }
        }
        reply.next_cursor = last.filter(|last| *last != end).map(event_text);
        Ok(Some(reply))
    });
    let reply = reply.await?.ok_or_else(Failure::cursor_unknown)?;
    Ok(json_reply(StatusCode::OK, &reply))
}

/// Serves `GET /ops/{id}`: an operation exists as long as the feed remembers its revision.
pub(crate) async fn op(app: &Arc<App>, call: Call, id: &str) -> Result<Response<Body>, Failure> {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, "not_found", "operation not found");
    let number = id.strip_prefix("op_").and_then(|digits| digits.parse::<Number>().ok());
    let number = number.ok_or_else(unknown)?;
    let event = app.store.read(move |connection| {
        let Some(space) = read::workspace(connection, &call.workspace)? else { return Ok(None) };
        Ok(read::event_of(connection, &space, number)?)
    });
    let event = event.await?.ok_or_else(unknown)?;
    let action = match event.kind {
        EventKind::FileCreated | EventKind::FileUpdated => "file_upsert",
        EventKind::FileDeleted => "file_delete",
        EventKind::DirectoryCreated => "directory_create",
        EventKind::DirectoryDeleted => "directory_delete",
    };
    let at = rfc3339(event.at);
    Ok(json_reply(
        StatusCode::OK,
        &json!({
            "opId": id,
            "path": event.path,
            "revision": revision_text(event.revision),
            "action": action,
            "provider": paths::provider(&event.path),
            "status": "succeeded",
            "attemptCount": 1,
            "correlationId": event.correlation,
            "createdAt": at,
            "updatedAt": at,
            "completedAt": at,
        }),
    ))
}
