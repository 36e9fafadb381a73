//! `POST /fs/bulk`: many changes in one request, each judged on its own.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::file::op_text;
use super::put::{self, Decoded, IdentityBody, Invalid, bulk_precondition};
use super::reply::{Failure, json_reply};
use super::{App, Call, body};
use crate::auth::{Access, Caller};
use crate::clock::{ns_of, parse_rfc3339};
use crate::config::Extensions;
use crate::paths;
use crate::store::model::{
    Action, Change, Content, Done, Identity, NewBody, Outcome, Precondition, Put, Refusal,
    revision_text,
};

#[derive(Deserialize)]
struct Request {
    files: Option<Vec<Entry>>,
}

// Fields of extensions are read late, so that a server without them ignores whatever is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    path: Option<String>,
    content: Option<String>,
    content_type: Option<String>,
    encoding: Option<String>,
    if_match: Option<String>,
    content_identity: Option<IdentityBody>,
    op: Option<Value>,
    from: Option<Value>,
    from_if_match: Option<Value>,
    if_unmodified_since: Option<Value>,
    mode: Option<Value>,
    mtime: Option<Value>,
    symlink_target: Option<Value>,
}

/// An entry that can be applied.
struct Planned {
    change: Change,
    content: Option<Decoded>,
    identity: Option<Identity>,
}

/// Why an entry cannot be applied.
struct Refused {
    path: String,
    code: &'static str,
    message: &'static str,
}

/// Serves `POST /fs/bulk`.
pub(crate) async fn bulk(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let Call { request, workspace, caller, correlation, .. } = call;
    let body::Json { value, budget } = body::json::<Request>(app, request).await?;
    let entries = value.files.filter(|files| !files.is_empty());
    let entries = entries.ok_or_else(|| Failure::bad_request("missing files"))?;
    if entries.len() > app.config.max_bulk_files {
        return Err(Failure::bad_request("too many files"));
    }
    let mut forbidden = Vec::new();
    let mut errors = Vec::new();
    let mut changes = Vec::new();
    let mut contents = Vec::new();
    let mut identities = Vec::new();
    for entry in entries {
        match plan(entry, app.extensions(), &caller) {
            Ok(Planned { change, content, identity }) => {
                contents.extend(content.map(|content| (changes.len(), content)));
                changes.push(change);
                identities.push(identity);
            }
            Err(Refused { path, code, message }) => {
                let error = json!({"path": path, "code": code, "message": message});
                if code == "forbidden" { forbidden.push(error) } else { errors.push(error) }
            }
        }
    }
    let (places, contents): (Vec<_>, Vec<_>) = contents.into_iter().unzip();
    let contents = put::prepare(&app.store, contents).await?;
    for (place, content) in places.into_iter().zip(contents) {
        if let Action::Put(put) = &mut changes[place].action {
            put.content = content;
        }
    }
    let asked: Vec<_> = changes.iter().map(|change| change.path.clone()).collect();
    let outcomes = if changes.is_empty() {
        Vec::new()
    } else {
        app.store.write(&workspace, changes, "").await?
    };
    drop(budget);
    Ok(answer(&correlation, forbidden, errors, &asked, &identities, outcomes))
}

fn answer(
    correlation: &str,
    forbidden: Vec<Value>,
    errors: Vec<Value>,
    asked: &[String],
    identities: &[Option<Identity>],
    outcomes: Vec<Outcome>,
) -> Response<Body> {
    let mut all_errors = forbidden;
    all_errors.extend(errors);
    let mut results = Vec::new();
    let mut written = 0;
    for ((path, identity), outcome) in asked.iter().zip(identities).zip(outcomes) {
        match outcome {
            Ok(done) => {
                written += i32::from(!done.repeated);
                results.push(result(&done, identity.as_ref()));
            }
            Err(refusal) => all_errors.push(error(path, refusal)),
        }
    }
    json_reply(
        StatusCode::ACCEPTED,
        &json!({
            "correlationId": correlation,
            "errorCount": all_errors.len(),
            "written": written,
            "errors": all_errors,
            "results": results,
        }),
    )
}

fn result(done: &Done, identity: Option<&Identity>) -> Value {
    let mut result = json!({
        "path": done.path,
        "revision": revision_text(done.revision),
        "opId": op_text(done.revision),
        "writeback": {"provider": paths::provider(&done.path), "state": "pending"},
    });
    if !done.content_type.is_empty() {
        result["contentType"] = done.content_type.as_str().into();
    }
    if let Some(Identity { kind, key, ttl_s }) = identity {
        result["contentIdentity"] = json!({"kind": kind, "key": key});
        if *ttl_s > 0 {
            result["contentIdentity"]["ttlSeconds"] = (*ttl_s).into();
        }
    }
    result
}

fn error(path: &str, refusal: Refusal) -> Value {
    let (code, message, mut extra) = match refusal {
        Refusal::Conflict { expected, current, from_side } => {
            let subject = if from_side { "the source" } else { path };
            let message = match current {
                Some(current) if !from_side => format!(
                    "expected revision {expected:?} but current revision is {:?}",
                    revision_text(current)
                ),
                None if !from_side => {
                    format!("expected revision {expected:?} but {subject} does not exist")
                }
                _ => format!("{subject} is not at revision {expected:?}"),
            };
            let mut extra = json!({"expectedRevision": expected});
            if let Some(current) = current {
                extra["currentRevision"] = revision_text(current).into();
            }
            if from_side {
                extra["conflictSide"] = "from".into();
            }
            ("conflict", message, extra)
        }
        Refusal::Modified { current } => {
            let message = "edited after the date in ifUnmodifiedSince, or absent".to_owned();
            let extra = current.map_or_else(
                || json!({}),
                |current| json!({"currentRevision": revision_text(current)}),
            );
            ("precondition_failed", message, extra)
        }
        Refusal::NotFound => ("not_found", "not found".to_owned(), json!({})),
        Refusal::NotEmpty => ("not_empty", "the folder is not empty".to_owned(), json!({})),
        Refusal::FileInTheWay { current } => (
            "conflict",
            "a file has this path".to_owned(),
            json!({"currentRevision": revision_text(current)}),
        ),
    };
    extra["path"] = path.into();
    extra["code"] = code.into();
    extra["message"] = message.into();
    extra
}

fn plan(entry: Entry, extensions: Extensions, caller: &Caller) -> Result<Planned, Refused> {
    let raw = entry.path.clone().unwrap_or_default();
    let refused = |path: &str, invalid: Invalid| {
        let message = if invalid == Invalid::Path { "invalid path" } else { "invalid input" };
        Refused { path: path.to_owned(), code: invalid.code(), message }
    };
    let path = paths::file_path(&raw).ok_or_else(|| refused(&raw, Invalid::Path))?;
    let may_write = |path: &String| caller.grants.allows(Access::Write, path);
    let forbidden = |path: &str| Refused {
        path: path.to_owned(),
        code: "forbidden",
        message: "missing required scope: fs:write",
    };
    if !may_write(&path) {
        return Err(forbidden(&path));
    }
    let planned =
        read(entry, extensions, path.clone()).map_err(|invalid| refused(&path, invalid))?;
    match &planned.change.action {
        Action::Move { from, .. } if !may_write(from) => Err(forbidden(&path)),
        _ => Ok(planned),
    }
}

fn read(entry: Entry, extensions: Extensions, path: String) -> Result<Planned, Invalid> {
    let mut precondition = bulk_precondition(entry.if_match.as_deref());
    if extensions.if_unmodified_since
        && precondition == Precondition::None
        && let Some(since) = put::optional_text(entry.if_unmodified_since.as_ref())?
    {
        let time = parse_rfc3339(&since).ok_or(Invalid::Input)?;
        precondition = Precondition::UnmodifiedSince(ns_of(time));
    }
    let identity = match entry.content_identity {
        Some(identity) => identity.read()?,
        None => None,
    };
    let mode = entry.mode.as_ref().filter(|_| extensions.metadata || extensions.directories);
    let mode = put::mode(mode)?;
    let mtime = put::mtime(entry.mtime.as_ref().filter(|_| extensions.metadata))?;
    let op = operation(entry.op.as_ref(), extensions)?;
    let mut content = None;
    let action = match op {
        "delete" => Action::Delete,
        "move" => {
            let from = put::optional_text(entry.from.as_ref())?.ok_or(Invalid::Path)?;
            let from = paths::file_path(&from).filter(|from| *from != path).ok_or(Invalid::Path)?;
            let of_source = put::optional_text(entry.from_if_match.as_ref())?;
            Action::Move { from, precondition: bulk_precondition(of_source.as_deref()) }
        }
        "meta" => Action::Meta { mode, mtime },
        "mkdir" => Action::Mkdir { mode },
        "rmdir" => Action::Rmdir,
        _ => {
            let mode = mode.filter(|_| extensions.metadata);
            let target = entry.symlink_target.as_ref().filter(|_| extensions.symlink);
            let symlink = put::symlink(target)?;
            let text = entry.content.or_else(|| symlink.clone());
            let decoded = put::decode(text, entry.encoding.as_deref())?;
            if symlink.as_ref().is_some_and(|target| target.as_bytes() != decoded.bytes) {
                return Err(Invalid::Content);
            }
            content = Some(decoded);
            Action::Put(Put {
                content: pending(),
                content_type: entry.content_type.filter(|name| !name.is_empty()),
                semantics: None,
                mode,
                mtime,
                symlink,
            })
        }
    };
    let change = Change { path, precondition, identity: identity.clone(), action };
    Ok(Planned { change, content, identity })
}

/// Returns the operation of an entry. One whose extension is off is an ordinary put, as it is
/// for a server that never heard of operations; one nobody knows is refused.
fn operation(op: Option<&Value>, extensions: Extensions) -> Result<&str, Invalid> {
    let Some(op) = op.filter(|op| !op.is_null()) else { return Ok("put") };
    let any = extensions.bulk_delete
        || extensions.bulk_move
        || extensions.metadata
        || extensions.directories;
    if !any {
        return Ok("put");
    }
    let name = op.as_str().ok_or(Invalid::Input)?;
    let on = match name {
        "put" => false,
        "delete" => extensions.bulk_delete,
        "move" => extensions.bulk_move,
        "meta" => extensions.metadata,
        "mkdir" | "rmdir" => extensions.directories,
        _ => return Err(Invalid::Input),
    };
    Ok(if on { name } else { "put" })
}

/// Stands in for a content until it has been hashed and staged.
fn pending() -> Content {
    let body = NewBody::Inline(Vec::new());
    Content { body, hash: [0; 32], base64: false, stored_size: 0, byte_size: 0 }
}
