//! `/fs/file`: one file, whole.

use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE};
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::export::{self, write_content};
use super::put::{self, Invalid};
use super::reply::{Failure, json_reply};
use super::view::{file_head, hex};
use super::{App, Call, body};
use crate::paths;
use crate::store::model::{
    Action, Change, Done, File, Outcome, Precondition, Put, Refusal, revision_text,
};
use crate::store::read;

const PREVIEW_BYTES: usize = 4000;

/// Serves `GET /fs/file`.
pub(crate) async fn get(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.file_path()?;
    let extensions = app.extensions();
    let store = app.store.clone();
    let pin = app.store.bodies().pin();
    let (file, inline) = app
        .store
        .read(move |connection| {
            let Some(space) = read::workspace(connection, &call.workspace)? else {
                return Ok(None);
            };
            let Some(file) = read::file(connection, space.id, &path)? else { return Ok(None) };
            let content = if file.body.is_none() {
                let mut out = file_head(&file, extensions).into_bytes();
                write_content(&mut out, connection, store.bodies(), &pin, &file)?;
                out.extend_from_slice(b"\"}");
                Some(out)
            } else {
                None
            };
            // The pin outlives the read: the body of a large file is opened after it.
            Ok(Some((file, content.ok_or(pin))))
        })
        .await?
        .ok_or_else(Failure::not_found)?;
    let etag = HeaderValue::try_from(revision_text(file.revision));
    let body = match inline {
        Ok(content) => Body::from(content),
        Err(pin) => {
            let store = app.store.clone();
            export::stream(move |out| {
                out.write_all(file_head(&file, extensions).as_bytes())?;
                export::write_body_file(out, store.bodies(), &pin, &file)?;
                out.write_all(b"\"}")
            })
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if let Ok(etag) = etag {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutBody {
    content: Option<String>,
    content_type: Option<String>,
    encoding: Option<String>,
    semantics: Option<serde_json::Map<String, Value>>,
    mode: Option<Value>,
    mtime: Option<Value>,
    symlink_target: Option<Value>,
}

/// Serves `PUT /fs/file`.
pub(crate) async fn put(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let precondition = precondition(app, &call);
    let path = call.file_path();
    let Call { request, workspace, correlation, .. } = call;
    let body::Json { value, budget } = body::json::<PutBody>(app, request).await?;
    let path = path?;
    let precondition = precondition?;
    let extensions = app.extensions();
    let parsed = || -> Result<_, Invalid> {
        let symlink = put::symlink(value.symlink_target.as_ref().filter(|_| extensions.symlink))?;
        let content = value.content.or_else(|| symlink.clone());
        let decoded = put::decode(content, value.encoding.as_deref())?;
        let mode = put::mode(value.mode.as_ref().filter(|_| extensions.metadata))?;
        let mtime = put::mtime(value.mtime.as_ref().filter(|_| extensions.metadata))?;
        if symlink.as_ref().is_some_and(|target| target.as_bytes() != decoded.bytes) {
            return Err(Invalid::Content);
        }
        Ok((decoded, mode, mtime, symlink))
    };
    let (decoded, mode, mtime, symlink) = parsed().map_err(|invalid| match invalid {
        Invalid::Content => {
            Failure::new(StatusCode::BAD_REQUEST, "invalid_content", "missing or invalid content")
        }
        Invalid::Encoding | Invalid::Input | Invalid::Path => Failure::bad_request("invalid input"),
    })?;
    let Some(content) = put::prepare(&app.store, vec![decoded]).await?.pop() else {
        return Err(Failure::bad_request("invalid input"));
    };
    let action = Action::Put(Put {
        content,
        content_type: value.content_type.filter(|name| !name.is_empty()),
        semantics: value.semantics.map(|semantics| Value::Object(semantics).to_string()),
        mode,
        mtime,
        symlink,
    });
    let change = Change { path: path.clone(), precondition, identity: None, action };
    let response = write(app, &workspace, change, &correlation).await;
    drop(budget);
    response
}

/// Serves `DELETE /fs/file`.
pub(crate) async fn delete(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.file_path()?;
    let precondition = precondition(app, &call)?;
    let change = Change { path, precondition, identity: None, action: Action::Delete };
    write(app, &call.workspace, change, &call.correlation).await
}

/// Reads the precondition headers; a write without one is refused.
pub(crate) fn precondition(app: &App, call: &Call) -> Result<Precondition, Failure> {
    let given = |name: &HeaderName| call.header(name).filter(|text| !text.trim().is_empty());
    if let Some(text) = given(&IF_MATCH) {
        return Ok(put::header_precondition(text));
    }
    let since = given(&IF_UNMODIFIED_SINCE).filter(|_| app.extensions().if_unmodified_since);
    since.and_then(put::unmodified_since_header).ok_or_else(|| {
        Failure::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "missing If-Match header",
        )
    })
}

/// Applies one change and answers as the single-file routes do.
pub(crate) async fn write(
    app: &App,
    workspace: &str,
    change: Change,
    correlation: &str,
) -> Result<Response<Body>, Failure> {
    let path = change.path.clone();
    let outcome = app.store.write(workspace, vec![change], correlation).await?.pop();
    let done = settle(app, workspace, &path, outcome).await?;
    Ok(json_reply(StatusCode::ACCEPTED, &accepted(&done)))
}

/// Turns the outcome of a single change into what its client is told.
pub(crate) async fn settle(
    app: &App,
    workspace: &str,
    path: &str,
    outcome: Option<Outcome>,
) -> Result<Done, Failure> {
    let refusal = match outcome {
        Some(Ok(done)) => return Ok(done),
        Some(Err(refusal)) => refusal,
        None => return Err(crate::store::StoreError::Closed.into()),
    };
    match refusal {
        Refusal::Conflict { expected, current: Some(current), .. } => {
            conflict(app, workspace, path, &expected, current).await
        }
        Refusal::FileInTheWay { current } => conflict(app, workspace, path, "", current).await,
        Refusal::Modified { current } => {
            let failure = Failure::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "the file was edited after the date in If-Unmodified-Since, or does not exist",
            );
            Err(match current {
                Some(current) => failure.with("currentRevision", revision_text(current)),
                None => failure,
            })
        }
        Refusal::Conflict { current: None, .. } | Refusal::NotFound | Refusal::NotEmpty => {
            Err(Failure::not_found())
        }
    }
}

async fn conflict(
    app: &App,
    workspace: &str,
    path: &str,
    expected: &str,
    current: i64,
) -> Result<Done, Failure> {
    let failure = Failure::new(StatusCode::CONFLICT, "revision_conflict", "revision conflict")
        .with("expectedRevision", expected)
        .with("currentRevision", revision_text(current));
    let preview = preview(app, workspace, path).await?;
    Err(if preview.is_empty() { failure } else { failure.with("currentContentPreview", preview) })
}

/// Returns the beginning of a file's text, cut at a character.
async fn preview(app: &App, workspace: &str, path: &str) -> Result<String, Failure> {
    let (workspace, path) = (workspace.to_owned(), path.to_owned());
    let store = app.store.clone();
    let pin = app.store.bodies().pin();
    let text = app.store.read(move |connection| {
        let Some(space) = read::workspace(connection, &workspace)? else {
            return Ok(String::new());
        };
        let Some(file) = read::file(connection, space.id, &path)? else {
            return Ok(String::new());
        };
        let start = head_bytes(connection, &store, &pin, &file)?;
        if file.base64 {
            use base64::Engine as _;
            let mut text = put::BASE64.encode(&start);
            text.truncate(PREVIEW_BYTES);
            return Ok(text);
        }
        let valid = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Ok(valid.to_owned())
    });
    Ok(text.await?)
}

fn head_bytes(
    connection: &rusqlite::Connection,
    store: &crate::store::Store,
    pin: &crate::store::bodies::BodyPin,
    file: &File,
) -> Result<Vec<u8>, crate::store::StoreError> {
    use std::io::Read as _;
    let mut start = Vec::new();
    if let Some(name) = &file.body {
        store.bodies().read(name, pin)?.take(PREVIEW_BYTES as u64).read_to_end(&mut start)?;
    } else {
        start = read::content(connection, store.bodies(), pin, file)?;
        start.truncate(PREVIEW_BYTES);
    }
    Ok(start)
}

/// Returns the body of a 202.
pub(crate) fn accepted(done: &Done) -> Value {
    json!({
        "opId": op_text(done.revision),
        "status": "queued",
        "targetRevision": revision_text(done.revision),
        "writeback": {"provider": paths::provider(&done.path), "state": "pending"},
    })
}

/// Returns the body of a 202 with the size and hash of what was stored.
pub(crate) fn accepted_with_content(done: &Done) -> Value {
    let mut reply = accepted(done);
    if let (Some(hash), Some(size)) = (&done.hash, done.byte_size) {
        reply["contentHash"] = hex(hash).into();
        reply["byteSize"] = size.into();
    }
    reply
}

/// Formats an operation number; an operation has the number of its revision.
pub(crate) fn op_text(revision: i64) -> String {
    format!("op_{revision}")
}
