//! The records of the outbox: shown, planned, tried again, given up, carried off and back.

use std::collections::BTreeSet;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use mountctl::api::{
    ErrorBody, ErrorCode, OutboxDetails, OutboxDone, OutboxOne, OutboxPlan, OutboxPlanned,
    OutboxRecord, OutboxRequest, OutboxSelection, schema,
};
use mountctl::glob::Glob;

use super::status::{outbox as listed, wall_at};
use super::{Control, body};
use crate::engine::carry::{Carried, DISCARDED, Origin};
use crate::engine::decide::{Gate, Hold, Outlook};
use crate::engine::link::Held;
use crate::node::{Content, Kind};
use crate::path::WsPath;
use crate::record::{Op, Record, RecordBase};
use crate::revision::Base;

/// Most records that one listing shows; the total is always told.
const SHOWN_MAX: usize = 10_000;

/// Bytes of a content that are sent at a time.
const CHUNK_BYTES: usize = 256 << 10;

fn fits(selection: &OutboxSelection) -> impl Fn(&OutboxRecord) -> bool {
    let ids: Option<BTreeSet<String>> =
        selection.ids.as_ref().map(|ids| ids.split(',').map(|id| id.trim().to_owned()).collect());
    let state = selection.state.clone();
    let path = selection.path.as_deref().map(Glob::new);
    move |record| {
        ids.as_ref().is_none_or(|ids| ids.contains(&record.id))
            && state.as_ref().is_none_or(|state| state == record.state.as_str())
            && path.as_ref().is_none_or(|path| path.matches(&record.path))
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Query(selection): Query<OutboxSelection>,
) -> Response {
    let began = control.began();
    let mut list = listed(&control.shared);
    list.records.retain(fits(&selection));
    list.total = list.records.len() as u64;
    list.records.truncate(SHOWN_MAX);
    control.success(schema::OUTBOX, began, list)
}

pub(super) async fn plan(
    State(control): State<Arc<Control>>,
    Query(selection): Query<OutboxSelection>,
) -> Response {
    let began = control.began();
    let chosen = control.chosen_records(&selection);
    let mut records = control.planned();
    records.retain(|record| chosen.iter().any(|one| one.id == record.id));
    let total = records.len() as u64;
    records.truncate(SHOWN_MAX);
    control.success(schema::OUTBOX_PLAN, began, OutboxPlan { records, total })
}

pub(super) async fn show(State(control): State<Arc<Control>>, Path(id): Path<String>) -> Response {
    let began = control.began();
    let Some(record) = listed(&control.shared).records.into_iter().find(|one| one.id == id) else {
        return control.failure(began, no_such(&id));
    };
    let plan = control.planned().into_iter().find(|one| one.id == id).unwrap_or_default();
    let core = control.shared.core();
    let details = control.find(&core, &id).map(|found| OutboxDetails {
        record,
        base: match &found.base {
            RecordBase::Follows => "follows".to_owned(),
            RecordBase::Known(Base::Absent) => "absent".to_owned(),
            RecordBase::Known(Base::Revision(revision)) => revision.to_string(),
            RecordBase::Known(Base::Date(date)) => date.to_string(),
        },
        sent: found.sent.iter().map(ToString::to_string).collect(),
        moved_to: found
            .moved_to
            .and_then(|ino| core.tree.path_of(ino))
            .map(|path| path.as_str().to_owned()),
        recorded_at: Some(found.recorded_at),
        plan,
    });
    drop(core);
    match details {
        Some(details) => control.success(schema::OUTBOX_RECORD, began, details),
        None => control.failure(began, no_such(&id)),
    }
}

pub(super) async fn content(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Response {
    let began = control.began();
    let source = {
        let core = control.shared.core();
        let Some(record) = control.find(&core, &id) else {
            drop(core);
            return control.failure(began, no_such(&id));
        };
        let node = record.ino.and_then(|ino| core.tree.get(ino));
        match (record.op, record.blob, node.map(|node| node.kind.clone())) {
            (Op::Put, _, Some(Kind::Symlink { target })) => {
                Ok((Content::Empty, Some(target.to_string())))
            }
            (Op::Put, Some(blob), _) => Ok((Content::Blob(blob), None)),
            (Op::Put, None, Some(Kind::File(body))) => Ok((body.content, None)),
            _ => Err("the change carries no content"),
        }
    };
    let failed = |why: String| control.failure(began, ErrorBody::new(ErrorCode::Internal, why));
    match source {
        Ok((_, Some(target))) => target.into_response(),
        Ok((Content::Empty, None)) => Bytes::new().into_response(),
        Ok((Content::Blob(blob), None)) => match control.shared.contents.blob(blob) {
            Ok(bytes) => bytes.into_response(),
            Err(error) => failed(error.to_string()),
        },
        Ok((Content::File(file), None)) => match control.shared.contents.open_file(file) {
            Ok(file) => {
                let chunks = stream::unfold(Some((file, 0)), |rest| async {
                    let (file, at) = rest?;
                    // The local disk, checked as every read of a working file is.
                    match tokio::task::block_in_place(|| file.read(at, CHUNK_BYTES)) {
                        Ok(bytes) if bytes.is_empty() => None,
                        Ok(bytes) => {
                            let next = at + bytes.len() as u64;
                            Some((Ok(bytes), Some((file, next))))
                        }
                        Err(error) => Some((Err(error), None)),
                    }
                });
                Body::from_stream(chunks).into_response()
            }
            Err(error) => failed(error.to_string()),
        },
        Ok((Content::Damaged, None)) => {
            failed(format!("{id}: its bytes were damaged and are set aside"))
        }
        Ok((Content::Remote, None)) => {
            let why = format!("{id}: its bytes are only at the server, under the old name");
            control.failure(began, ErrorBody::new(ErrorCode::IllegalTransition, why))
        }
        Err(why) => {
            let error = ErrorBody::new(ErrorCode::InvalidArgument, format!("{id}: {why}"));
            control.failure(began, error)
        }
    }
}

/// One of the requests about several records.
type Asked = Result<Bytes, BytesRejection>;

pub(super) async fn retry(State(control): State<Arc<Control>>, request: Asked) -> Response {
    let began = control.began();
    let (request, chosen) = match control.asked(request) {
        Ok(asked) => asked,
        Err(error) => return control.failure(began, error),
    };
    let mut done = OutboxDone { dry_run: request.dry_run, ..OutboxDone::default() };
    for one in chosen {
        let Ok(path) = WsPath::parse(&one.path) else { continue };
        let tried = if request.dry_run {
            Ok(())
        } else {
            control.shared.step(|core, now, changes| {
                core.link.wake(crate::engine::link::Wake::Person, now.mono);
                core.retry(&path, changes)
            })
        };
        let why = tried.err().map(str::to_owned);
        let list = if why.is_none() { &mut done.done } else { &mut done.refused };
        list.push(OutboxOne { id: one.id, path: one.path, why });
    }
    control.shared.nudge.notify_one();
    control.success(schema::OUTBOX_DONE, began, done)
}

pub(super) async fn discard(State(control): State<Arc<Control>>, request: Asked) -> Response {
    let began = control.began();
    let (request, chosen) = match control.asked(request) {
        Ok(asked) => asked,
        Err(error) => return control.failure(began, error),
    };
    if request.dry_run || chosen.is_empty() {
        return control.success(schema::OUTBOX_DONE, began, would(&chosen));
    }
    let folder = match control.discard_folder() {
        Ok(folder) => folder,
        Err(error) => return control.failure(began, disk(&error)),
    };
    let discarded = control.shared.discard(paths(&chosen), &folder, control.origin()).await;
    match discarded {
        Ok(carried) => control.success(schema::OUTBOX_DONE, began, done(carried)),
        Err(error) => control.failure(began, disk(&error)),
    }
}

pub(super) async fn export(State(control): State<Arc<Control>>, request: Asked) -> Response {
    let began = control.began();
    let (request, chosen) = match control.asked(request) {
        Ok(asked) => asked,
        Err(error) => return control.failure(began, error),
    };
    let folder = match control.folder(request.dir.as_deref()) {
        Ok(folder) => folder,
        Err(error) => return control.failure(began, error),
    };
    if request.dry_run {
        return control.success(schema::OUTBOX_DONE, began, would(&chosen));
    }
    if let Err(error) = control.seal_all().await {
        return control.failure(began, error);
    }
    match control.shared.export(paths(&chosen), &folder, control.origin()).await {
        Ok(carried) => control.success(schema::OUTBOX_DONE, began, done(carried)),
        Err(error) => control.failure(began, folder_error(&folder, &error)),
    }
}

pub(super) async fn import(State(control): State<Arc<Control>>, request: Asked) -> Response {
    let began = control.began();
    let request: OutboxRequest = match body(request) {
        Ok(request) => request,
        Err(error) => return control.failure(began, error),
    };
    let folder = match control.folder(request.dir.as_deref()) {
        Ok(folder) => folder,
        Err(error) => return control.failure(began, error),
    };
    let (shared, origin) = (Arc::clone(&control.shared), control.origin());
    let imported = tokio::task::spawn_blocking(move || shared.import(&folder, &origin)).await;
    match imported {
        Ok(Ok(carried)) => control.success(schema::OUTBOX_DONE, began, done(carried)),
        Ok(Err(why)) => {
            let error = ErrorBody::new(ErrorCode::InvalidArgument, why)
                .suggest("name a folder that `mountctl outbox export` wrote for this workspace");
            control.failure(began, error)
        }
        Err(error) => {
            control.failure(began, ErrorBody::new(ErrorCode::Internal, error.to_string()))
        }
    }
}

impl Control {
    fn origin(&self) -> Origin {
        Origin {
            server: self.facts.server.clone(),
            workspace: self.facts.workspace.clone(),
            remote_path: self.facts.remote_path.as_str().to_owned(),
        }
    }

    fn chosen_records(&self, selection: &OutboxSelection) -> Vec<OutboxRecord> {
        let mut records = listed(&self.shared).records;
        records.retain(fits(selection));
        records
    }

    /// A request about several records, and those that it is about.
    fn asked(&self, request: Asked) -> Result<(OutboxRequest, Vec<OutboxRecord>), ErrorBody> {
        let request: OutboxRequest = body(request)?;
        let selection = &request.selection;
        let selects = selection.ids.is_some() || selection.state.is_some();
        if !selects && selection.path.is_none() && !selection.all {
            let message = "no record is named";
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message)
                .suggest("name ids, a state, or a path; or say that all are meant"));
        }
        let chosen = self.chosen_records(selection);
        if let Some(ids) = &selection.ids {
            let missing = ids.split(',').map(str::trim);
            let missing = missing.filter(|id| chosen.iter().all(|one| one.id != *id));
            if let Some(id) = missing.into_iter().next() {
                return Err(no_such(id));
            }
        }
        Ok((request, chosen))
    }

    /// A folder of the caller's; never one in the mount itself, which nobody serves meanwhile.
    fn folder(&self, dir: Option<&str>) -> Result<PathBuf, ErrorBody> {
        let wrong = |why: String| ErrorBody::new(ErrorCode::InvalidArgument, why);
        let dir = PathBuf::from(dir.ok_or_else(|| wrong("no folder is named".to_owned()))?);
        if !dir.is_absolute() {
            return Err(wrong(format!("{} is not an absolute path", dir.display())));
        }
        let mountpoint = &self.facts.mountpoint;
        let real = dir.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        if dir.starts_with(mountpoint) || real.is_some_and(|real| real.starts_with(mountpoint)) {
            return Err(wrong(format!("{} is in the mount itself", dir.display()))
                .suggest("name a folder outside of it"));
        }
        Ok(dir)
    }

    fn discard_folder(&self) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt as _;
        let all = self.facts.conflicts_folder.with_file_name(DISCARDED);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        let at = self.shared.clock.wall().strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
        Ok(all.join(at))
    }

    fn find<'a>(&self, core: &'a crate::engine::Core, id: &str) -> Option<&'a Record> {
        let seq: u64 = id.parse().ok()?;
        let records = core.outbox.lanes().flat_map(|(_, lane)| lane.records());
        let mut found = records.filter(|record| record.seq.0 == seq);
        found.next()
    }

    fn planned(&self) -> Vec<OutboxPlanned> {
        let core = self.shared.core();
        let now = self.shared.now();
        let until = |at| Some(wall_at(at, now));
        let next_try = core.link.next_try().and_then(until);
        let mut all: Vec<(u64, OutboxPlanned)> = core
            .outlook(now)
            .into_iter()
            .map(|(record, outlook)| {
                let (verdict, reason, until) = match outlook {
                    Outlook::Send => ("send", None, None),
                    Outlook::Settle => ("settle", Some("outcome_unknown"), None),
                    Outlook::InFlight => ("inflight", None, None),
                    Outlook::Gathers(at) => ("held", Some("debounce"), until(at)),
                    Outlook::Queued => ("held", Some("request_under_way"), None),
                    Outlook::Follows => ("held", Some("after"), None),
                    Outlook::Parked => ("blocked", Some("parked"), None),
                    Outlook::Held(Hold::Open(at)) => ("held", Some("open"), until(at)),
                    Outlook::Held(Hold::Again(at)) => ("held", Some("again"), until(at)),
                    Outlook::Held(Hold::Conflict(at)) => ("held", Some("conflict"), until(at)),
                    Outlook::Held(Hold::After) => ("held", Some("after"), None),
                    Outlook::Held(Hold::Approval) => ("held", Some("approval"), None),
                    Outlook::Held(Hold::Frozen) => ("held", Some("reset"), None),
                    Outlook::Held(Hold::Needs(_)) => ("blocked", Some("needs_bytes"), None),
                    Outlook::Gated(gate) => {
                        let (word, is_down) = gate_word(gate);
                        ("held", Some(word), next_try.filter(|_| is_down))
                    }
                };
                let node = record.ino.and_then(|ino| core.tree.get(ino));
                let is_link = node.is_some_and(|node| matches!(node.kind, Kind::Symlink { .. }));
                let planned = OutboxPlanned {
                    id: record.seq.0.to_string(),
                    op: super::status::op(record.op, is_link),
                    path: record.path.as_str().to_owned(),
                    verdict: verdict.to_owned(),
                    reason: reason.map(str::to_owned),
                    until,
                };
                (record.seq.0, planned)
            })
            .collect();
        all.sort_by_key(|(seq, _)| *seq);
        all.into_iter().map(|(_, planned)| planned).collect()
    }
}

/// What keeps everything back, in a word, and whether the link's next attempt ends it.
fn gate_word(gate: Gate) -> (&'static str, bool) {
    match gate {
        Gate::Stopping => ("stopping", false),
        Gate::Unheard => ("offline", true),
        Gate::Trial => ("trial", false),
        Gate::Link(Held::Paused) => ("paused", false),
        Gate::Link(Held::Doubted) => ("reset", false),
        Gate::Link(Held::Circuit) => ("circuit", true),
        Gate::Link(Held::Auth) => ("auth", true),
        Gate::Link(_) => ("offline", true),
    }
}

fn paths(chosen: &[OutboxRecord]) -> BTreeSet<WsPath> {
    chosen.iter().filter_map(|record| WsPath::parse(&record.path).ok()).collect()
}

fn would(chosen: &[OutboxRecord]) -> OutboxDone {
    let one = |record: &OutboxRecord| OutboxOne {
        id: record.id.clone(),
        path: record.path.clone(),
        why: None,
    };
    OutboxDone { done: chosen.iter().map(one).collect(), dry_run: true, ..OutboxDone::default() }
}

fn done(carried: Carried) -> OutboxDone {
    let one = |(id, path)| OutboxOne { id, path, why: None };
    let refused = |(id, path, why)| OutboxOne { id, path, why: Some(why) };
    OutboxDone {
        done: carried.done.into_iter().map(one).collect(),
        refused: carried.refused.into_iter().map(refused).collect(),
        dir: carried.folder.map(|folder| folder.display().to_string()),
        dry_run: false,
    }
}

fn no_such(id: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, format!("there is no record {id} in the outbox"))
        .action("mountctl outbox list")
}

fn disk(error: &std::io::Error) -> ErrorBody {
    ErrorBody::new(ErrorCode::Internal, format!("the local disk: {error}; nothing was given up"))
}

fn folder_error(folder: &FsPath, error: &std::io::Error) -> ErrorBody {
    let message = format!("{}: {error}", folder.display());
    ErrorBody::new(ErrorCode::InvalidArgument, message)
        .suggest("name a folder that does not exist yet, in one that may be written")
}
