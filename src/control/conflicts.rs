//! `/v1/conflicts`: the conflicts, and how a person ends them.
//!
//! Decides nothing: it reads the core and hands choices to the engine.

use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mountctl::api::{
    ConflictDetail, ConflictDiff, ConflictList, ConflictNow, ConflictRecord, ConflictResolution,
    ConflictsQuery, CopyFlaw, ErrorBody, ErrorCode, Ours, ResolveReply, ResolveRequest,
    ResolveResult, ResolveWith, Theirs, route, schema,
};
use mountctl::glob::Glob;

use super::{Control, body};
use crate::engine::Core;
use crate::engine::conflict_files::ConflictFiles;
use crate::engine::merge::Merge;
use crate::engine::resolve::{Choice, Manner, ResolveError};
use crate::record::ConflictRow;

/// Largest content of a merge that a request may carry; bytes.
const MERGED_MAX: usize = 32 << 20;

/// Largest body of a request that resolves: base64 takes four bytes for three.
const RESOLVE_BODY_MAX: usize = MERGED_MAX / 3 * 4 + (64 << 10);

/// Largest body of a request to `path`, where it may be larger than those of other routes.
pub(super) fn body_max(path: &str) -> Option<usize> {
    let folder = path.strip_prefix(route::CONFLICTS)?;
    folder.ends_with("/resolve").then_some(RESOLVE_BODY_MAX)
}

pub(super) fn routes() -> axum::Router<Arc<Control>> {
    let limit = || DefaultBodyLimit::max(RESOLVE_BODY_MAX);
    axum::Router::new()
        .route(route::CONFLICTS, get(list))
        .route(route::RESOLVE, post(resolve).layer(limit()))
        .route(route::CONFLICT, get(show))
        .route(route::CONFLICT_DIFF, get(diff))
        .route(route::CONFLICT_RESOLVE, post(resolve_one).layer(limit()))
}

async fn list(State(control): State<Arc<Control>>, query: Query<ConflictsQuery>) -> Response {
    let began = control.began();
    let conflicts = {
        let core = control.shared.core();
        let shown = |row: &&ConflictRow| query.resolved || row.resolution.is_none();
        let rows = core.conflicts.iter().rev().filter(shown);
        rows.map(|row| record(row, &control.facts.conflicts_folder)).collect()
    };
    control.success(schema::CONFLICTS, began, ConflictList { conflicts })
}

async fn show(State(control): State<Arc<Control>>, UrlPath(id): UrlPath<String>) -> Response {
    let began = control.began();
    match control.detail(&id) {
        Ok(detail) => control.success(schema::CONFLICT, began, detail),
        Err(error) => control.failure(began, error),
    }
}

async fn diff(State(control): State<Arc<Control>>, UrlPath(id): UrlPath<String>) -> Response {
    let began = control.began();
    match tokio::task::block_in_place(|| control.diff(&id)) {
        Ok(diff) => control.success(schema::CONFLICT_DIFF, began, diff),
        Err(error) => control.failure(began, error),
    }
}

async fn resolve(
    State(control): State<Arc<Control>>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let reply = match body(request) {
        Ok(request) => control.resolve(&request).await,
        Err(error) => Err(error),
    };
    match reply {
        Ok(reply) => control.success(schema::RESOLVE, began, reply),
        Err(error) => control.failure(began, error),
    }
}

async fn resolve_one(
    State(control): State<Arc<Control>>,
    UrlPath(id): UrlPath<String>,
    request: Result<Bytes, BytesRejection>,
) -> Response {
    let began = control.began();
    let reply = match body::<ResolveRequest>(request) {
        Ok(request) if !request.ids.is_empty() || request.path.is_some() || request.all => {
            Err(wrong("the conflict is named by the address of the request, not by its body"))
        }
        Ok(request) => control.resolve(&ResolveRequest { ids: vec![id], ..request }).await,
        Err(error) => Err(error),
    };
    // Of a single one a failure is that of the request.
    let reply = reply.and_then(|mut reply| match reply.results.first_mut() {
        Some(ResolveResult { error: Some(error), .. }) => Err(error.clone()),
        _ => Ok(reply),
    });
    match reply {
        Ok(reply) => control.success(schema::RESOLVE, began, reply),
        Err(error) => control.failure(began, error),
    }
}

impl Control {
    fn conflict(&self, id: &str) -> Result<ConflictRow, ErrorBody> {
        let core = self.shared.core();
        core.conflict(id).cloned().ok_or_else(|| no_such(id))
    }

    fn detail(&self, id: &str) -> Result<ConflictDetail, ErrorBody> {
        let row = self.conflict(id)?;
        let all = &self.facts.conflicts_folder;
        let files = ConflictFiles::of(all, &row);
        let has_copy = !row.folder.is_empty();
        let flaws = tokio::task::block_in_place(|| ConflictFiles::flaws(&row, all));
        let merge = if let Some((name, _)) = flaws.first() {
            format!("`{name}` is damaged")
        } else if has_copy && row.kind == "edit" {
            match tokio::task::block_in_place(|| files.merge()) {
                Ok(Ok(Merge::Clean(_))) => "clean".to_owned(),
                Ok(Ok(Merge::Overlap(_))) => "overlap".to_owned(),
                Ok(Err(refusal)) => refusal.to_string(),
                Err(error) => error.to_string(),
            }
        } else {
            "ours was a removal".to_owned()
        };
        let core = self.shared.core();
        let keep = jiff::SignedDuration::try_from(core.settings.conflict_keep).ok();
        let kept_until = row.resolution.zip(keep).filter(|_| has_copy);
        Ok(ConflictDetail {
            now: now(&core, &row),
            kept_until: kept_until.and_then(|(ended, keep)| ended.at.checked_add(keep).ok()),
            base_size: files.base_size().filter(|_| has_copy),
            conflict: record(&row, all),
            merge,
            damaged: flaws
                .into_iter()
                .map(|(name, flaw)| CopyFlaw {
                    file: name.to_owned(),
                    kind: flaw.kind.word().to_owned(),
                    why: flaw.why,
                })
                .collect(),
        })
    }

    fn diff(&self, id: &str) -> Result<ConflictDiff, ErrorBody> {
        let row = self.conflict(id)?;
        if row.kind != "edit" {
            return Err(no_bytes());
        }
        let files = ConflictFiles::of(&self.facts.conflicts_folder, &row);
        let failed = |error: std::io::Error| {
            ErrorBody::new(ErrorCode::Internal, format!("the conflict copy: {error}"))
        };
        let differences = files.differences().map_err(failed)?;
        let (merge, refusal) = match files.merge().map_err(failed)? {
            Ok(Merge::Clean(text) | Merge::Overlap(text)) => (Some(text), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Ok(ConflictDiff {
            id: row.id,
            path: row.path.as_str().to_owned(),
            ours: differences.ours,
            theirs: differences.theirs,
            between: differences.between,
            merge,
            reason: differences.refusal.or(refusal).map(|refusal| refusal.to_string()),
        })
    }

    async fn resolve(&self, request: &ResolveRequest) -> Result<ResolveReply, ErrorBody> {
        let choice = choice(request)?;
        let chosen = self.chosen(request)?;
        if matches!(choice, Choice::Merged(_)) && chosen.len() != 1 {
            return Err(wrong("one merged content can end one conflict only"));
        }
        let manner = Manner { force: request.force, dry_run: request.dry_run };
        let mut reply = ResolveReply { dry_run: request.dry_run, ..ResolveReply::default() };
        for id in chosen {
            let mut result = ResolveResult { id: id.clone(), ..ResolveResult::default() };
            match self.shared.resolve(&id, &choice, manner).await {
                Ok(resolved) => {
                    reply.resolved += 1;
                    result.path = Some(resolved.path.as_str().to_owned());
                    result.how = Some(resolved.how.word().to_owned());
                    result.changed = resolved.changes.map(|path| path.as_str().to_owned());
                }
                Err(error) => {
                    reply.failed += 1;
                    let core = self.shared.core();
                    let row = core.conflict(&id);
                    result.path = row.map(|row| row.path.as_str().to_owned());
                    result.error = Some(explained(&error, &id));
                }
            }
            reply.results.push(result);
        }
        Ok(reply)
    }

    /// The ids of the conflicts that a request is about, oldest first.
    fn chosen(&self, request: &ResolveRequest) -> Result<Vec<String>, ErrorBody> {
        let ways = usize::from(!request.ids.is_empty())
            + usize::from(request.path.is_some())
            + usize::from(request.all);
        if ways != 1 {
            return Err(wrong("say which conflicts: ids, path, or all, and only one of these"));
        }
        if !request.ids.is_empty() {
            let mut ids: Vec<String> = Vec::new();
            for id in &request.ids {
                if !ids.contains(id) {
                    ids.push(id.clone());
                }
            }
            return Ok(ids);
        }
        let glob = request.path.as_deref().map(Glob::new);
        let fits =
            |row: &&ConflictRow| glob.as_ref().is_none_or(|glob| glob.matches(row.path.as_str()));
        let core = self.shared.core();
        Ok(core.open_conflicts().filter(fits).map(|row| row.id.clone()).collect())
    }
}

fn choice(request: &ResolveRequest) -> Result<Choice, ErrorBody> {
    if request.content_base64.is_some() && request.with != ResolveWith::Merged {
        return Err(wrong("a content comes with `merged` only"));
    }
    Ok(match request.with {
        ResolveWith::Ours => Choice::Ours,
        ResolveWith::Theirs => Choice::Theirs,
        ResolveWith::Both => Choice::Both,
        ResolveWith::Merge => Choice::Merge,
        ResolveWith::Merged => {
            let text = request.content_base64.as_deref();
            let text = text.ok_or_else(|| wrong("`merged` needs the content: content_base64"))?;
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|error| wrong(&format!("content_base64: {error}")))?;
            Choice::Merged(Bytes::from(bytes))
        }
        ResolveWith::Unknown => {
            return Err(wrong("`with` must be ours, theirs, both, merged or merge"));
        }
    })
}

fn wrong(message: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidArgument, message)
}

fn no_such(id: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, format!("there is no conflict {id}"))
        .action("mountctl conflicts list --resolved")
}

fn no_bytes() -> ErrorBody {
    let message = "ours was a removal, so there is nothing to keep, compare or merge";
    ErrorBody::new(ErrorCode::IllegalTransition, message)
        .suggest("resolve it with --theirs to keep the file, or with --ours to remove it")
}

/// A refusal in the words of the API.
fn explained(error: &ResolveError, id: &str) -> ErrorBody {
    let refused = |message: String| ErrorBody::new(ErrorCode::IllegalTransition, message);
    let message = error.to_string();
    match error {
        ResolveError::NotFound => no_such(id),
        ResolveError::NoBytes => no_bytes(),
        ResolveError::Before(_) => refused(message),
        ResolveError::Changed => refused(message).suggest(
            "look at it, then use --force, which keeps what it holds now in the conflict copy, or \
             --theirs, which leaves it as it is",
        ),
        ResolveError::InTheWay => {
            refused(message).suggest("use --both, or move what has the name and try again")
        }
        ResolveError::Open => {
            let mut error = refused(message).suggest("close it and try again");
            error.retryable = true;
            error
        }
        ResolveError::Overlap => refused(message)
            .action(format!("mountctl conflicts diff {id} --merge"))
            .suggest("merge it by hand and resolve it with --merged FILE"),
        ResolveError::Refused(_) => {
            refused(message).suggest("resolve it with --ours, --theirs, --both or --merged FILE")
        }
        ResolveError::Fetch(_) => {
            let mut error = ErrorBody::new(ErrorCode::Internal, message);
            error.retryable = true;
            error
        }
        ResolveError::Damaged(..) => refused(message).suggest(
            "look at what is left in the copy, then resolve it with --theirs or --merged FILE",
        ),
        ResolveError::Local(_) => refused(message),
        ResolveError::Disk(_) | ResolveError::Full | ResolveError::Store(_) => {
            ErrorBody::new(ErrorCode::Internal, message)
        }
    }
}

fn record(row: &ConflictRow, all: &Path) -> ConflictRecord {
    ConflictRecord {
        id: row.id.clone(),
        path: row.path.as_str().to_owned(),
        at: Some(row.at),
        kind: row.kind.clone(),
        base_revision: row.base_revision.clone(),
        theirs_revision: row.theirs_revision.clone(),
        ours: Ours {
            by: row.ours_by.clone(),
            size: row.ours.map(|side| side.0),
            sha256: row.ours.map(|side| side.1.to_string()),
            modified_at: row.ours_at,
        },
        theirs: Theirs {
            by: None,
            size: row.theirs.map(|side| side.0),
            sha256: row.theirs.map(|side| side.1.to_string()),
            modified_at: row.theirs_at,
            deleted: false,
        },
        dir: if row.folder.is_empty() {
            String::new()
        } else {
            all.join(&row.folder).display().to_string()
        },
        sibling: row.sibling.as_ref().map(|path| path.as_str().to_owned()),
        resolution: row.resolution.map(|resolution| ConflictResolution {
            how: resolution.how.word().to_owned(),
            automatic: resolution.automatic,
            at: Some(resolution.at),
        }),
    }
}

/// What has the name of a conflict now.
fn now(core: &Core, row: &ConflictRow) -> ConflictNow {
    let node = core.tree.resolve(&row.path).and_then(|ino| core.tree.get(ino));
    let Some(node) = node else {
        return ConflictNow { state: "gone".to_owned(), ..ConflictNow::default() };
    };
    let synced = node.synced.as_deref();
    let digest = synced.and_then(|synced| synced.digest);
    let is_theirs =
        !core.is_pending(&row.path) && digest.is_some() && digest == row.theirs.map(|side| side.1);
    let state = match node.body() {
        None => "other",
        Some(_) if is_theirs => "theirs",
        Some(_) => "changed",
    };
    ConflictNow {
        state: state.to_owned(),
        size: node.body().map(|body| body.size),
        revision: synced.and_then(|synced| synced.revision.as_ref()).map(ToString::to_string),
        modified_at: Some(node.mtime),
    }
}
