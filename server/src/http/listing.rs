//! `/fs/tree` and `/fs/query`: what is below a folder, a page at a time.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::Serialize;

use super::reply::{Failure, json_reply};
use super::view::{QueryItem, TreeEntry};
use super::{App, Call};
use crate::paths;
use crate::store::{read, tree};

const TREE_PAGE: usize = 1000;
const DEPTH_DEFAULT: usize = 10;
const DEPTH_MAX: usize = 100;
const QUERY_DEFAULT: usize = 100;
const QUERY_MAX: usize = 1000;
/// Files a filtered query looks at for one page, so that a rare match cannot make it endless.
const QUERY_SCAN_MAX: usize = 20_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TreeReply {
    path: String,
    entries: Vec<TreeEntry>,
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_files: Option<i64>,
}

/// Serves `GET /fs/tree`.
pub(crate) async fn tree(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.folder_path()?;
    let depth = call.query.number("depth", DEPTH_DEFAULT, DEPTH_MAX);
    let extensions = app.extensions();
    let store = app.store.clone();
    app.store
        .read(move |connection| {
            let mut reply =
                TreeReply { path, entries: Vec::new(), next_cursor: None, total_files: None };
            if let Some(space) = read::workspace(connection, &call.workspace)? {
                let cursor = call.query.get("cursor").filter(|cursor| !cursor.is_empty());
                let page = tree::page(connection, space.id, &reply.path, depth, cursor, TREE_PAGE)?;
                let total = store.count_below(connection, &space, &reply.path)?;
                reply.total_files = Some(total).filter(|total| *total > 0);
                let entry = |entry| TreeEntry::new(entry, extensions);
                reply.entries = page.entries.into_iter().map(entry).collect();
                let last = reply.entries.last().map(|entry| entry.path.clone());
                reply.next_cursor = last.filter(|_| page.more);
            }
            Ok(json_reply(StatusCode::OK, &reply))
        })
        .await
        .map_err(Failure::from)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryReply {
    items: Vec<QueryItem>,
    next_cursor: Option<String>,
}

/// Serves `GET /fs/query`.
pub(crate) async fn query(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.folder_path()?;
    let limit = call.query.number("limit", QUERY_DEFAULT, QUERY_MAX);
    let refused = ["relation", "permission", "comment"];
    let by_property = || call.query.names().any(|name| name.starts_with("property."));
    if refused.iter().any(|name| call.query.get(name).is_some()) || by_property() {
        return Err(Failure::bad_request("this server filters by path and provider only"));
    }
    let extensions = app.extensions();
    app.store
        .read(move |connection| {
            let mut reply = QueryReply { items: Vec::new(), next_cursor: None };
            let Some(space) = read::workspace(connection, &call.workspace)? else {
                return Ok(json_reply(StatusCode::OK, &reply));
            };
            let provider = call.query.get("provider").map(str::to_lowercase);
            let mut cursor =
                call.query.get("cursor").filter(|cursor| !cursor.is_empty()).map(str::to_owned);
            let mut scanned = 0;
            loop {
                let wanted = limit - reply.items.len();
                // One more than wanted tells whether there is a next page.
                let files =
                    read::files_after(connection, space.id, &path, cursor.as_deref(), wanted + 1)?;
                let more = files.len() > wanted;
                for file in files.into_iter().take(wanted) {
                    scanned += 1;
                    cursor = Some(file.path.clone());
                    if provider.as_ref().is_none_or(|name| paths::provider(&file.path) == *name) {
                        reply.items.push(QueryItem::new(file, extensions));
                    }
                }
                if !more {
                    break;
                }
                if reply.items.len() == limit || scanned >= QUERY_SCAN_MAX {
                    reply.next_cursor = cursor;
                    break;
                }
            }
            Ok(json_reply(StatusCode::OK, &reply))
        })
        .await
        .map_err(Failure::from)
}
