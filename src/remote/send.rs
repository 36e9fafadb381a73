//! One put or delete by itself.
//!
//! A put streams from the local file where the server takes raw bodies; else the file goes through
//! memory as JSON. Either way the bytes must match the digest of the snapshot: a file that changed
//! meanwhile is reported as [`RemoteError::Changed`], and the caller takes a new snapshot.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH, IF_UNMODIFIED_SINCE};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::classify::{Refusal, http_date};
use super::encode::{Content, IDENTITY_KIND, IDENTITY_TTL_S, if_match, trimmed_by_bulk};
use super::fetch::{JSON_FILE_BYTES_MAX, local_error};
use super::http::HttpRemote;
use super::transport::{Body, length, parse};
use super::wire::WireAccepted;
use super::{BulkChange, BulkEntry, FilePut, Outcome, Remote as _, RemoteError};
use crate::digest::{Digest, Hasher};
use crate::path::WsPath;
use crate::revision::{Precondition, Revision};

/// Longest reply to one put or delete.
const REPLY_BYTES_MAX: u64 = 1024 * 1024;

/// How much of a local file is read at once.
const READ_BYTES: usize = 256 * 1024;

impl HttpRemote {
    pub(super) async fn put_file(&self, put: FilePut<'_>) -> Result<Outcome, RemoteError> {
        let offered = self.offered();
        if let Some(refused) = self.unknown_condition(&put.precondition) {
            return Ok(refused);
        }
        // Raw bodies have no place for a symbolic link's target; such a body is short anyway.
        let symlink = put.metadata.symlink.is_some() && offered.symlink;
        if offered.raw && !symlink {
            return self.put_raw(&put).await;
        }
        if put.size > JSON_FILE_BYTES_MAX {
            let message = "the server takes no bodies of this size".into();
            return Ok(Outcome::Refused { code: "too_large".into(), message });
        }
        let body = snapshot(&put).await?;
        if trimmed_by_bulk(put.path, offered) {
            return self.put_json(&put, &body).await;
        }
        let entry = BulkEntry {
            path: put.path.clone(),
            identity: put.identity.to_owned(),
            change: BulkChange::Put {
                body,
                precondition: put.precondition,
                metadata: put.metadata,
            },
        };
        let outcomes = self.bulk(std::slice::from_ref(&entry)).await?;
        Ok(outcomes.into_iter().next().unwrap_or(Outcome::Unknown))
    }

    pub(super) async fn delete_file(
        &self,
        path: &WsPath,
        condition: Precondition,
    ) -> Result<Outcome, RemoteError> {
        if let Some(refused) = self.unknown_condition(&condition) {
            return Ok(refused);
        }
        let path = self.remote_path(path);
        let url = self.transport.url("fs/file", &[("path", path.as_str())])?;
        let request = conditional(self.transport.request(Method::DELETE, url)?, &condition);
        match self.transport.ask(request, self.transport.timeout()).await? {
            Ok(reply) => self.accepted(reply).await,
            Err(refusal) => refusal.outcome(&condition, true),
        }
    }

    /// A server that knows no dates as conditions would ignore one, and overwrite blindly.
    fn unknown_condition(&self, condition: &Precondition) -> Option<Outcome> {
        match condition {
            Precondition::UnmodifiedSince(_) if !self.offered().unmodified_since => {
                let message = "the server knows no dates as conditions".into();
                Some(Outcome::Refused { code: "unsupported".into(), message })
            }
            Precondition::UnmodifiedSince(_) | Precondition::Absent | Precondition::Match(_) => {
                None
            }
        }
    }

    async fn put_raw(&self, put: &FilePut<'_>) -> Result<Outcome, RemoteError> {
        let path = self.remote_path(put.path);
        let mode = put.metadata.mode.map(|mode| mode.to_string());
        let mtime = put.metadata.mtime.map(|mtime| mtime.to_string());
        let mut query = vec![("path", path.as_str())];
        if self.offered().metadata {
            query.extend(mode.as_deref().map(|mode| ("mode", mode)));
            query.extend(mtime.as_deref().map(|mtime| ("mtime", mtime)));
        }
        let local = File::open(put.source).await.map_err(local_error)?;
        let fault = Arc::new(Fault::default());
        let body = reqwest::Body::wrap_stream(exactly(local, put.size, Arc::clone(&fault)));
        let request = self
            .transport
            .request(Method::PUT, self.transport.url("fs/raw", &query)?)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, put.size)
            .header("x-content-sha256", put.digest.to_string())
            .header(
                "x-content-identity",
                format!("{IDENTITY_KIND}:{}:{IDENTITY_TTL_S}", put.identity),
            )
            .body(body);
        let request = conditional(request, &put.precondition);
        let reply = self.transport.ask(request, self.transport.time_for(put.size)).await;
        // What broke the upload on our side explains the failure better than the cut connection.
        match (reply, fault.error(put.source)) {
            (Ok(Ok(reply)), _) => self.accepted(reply).await,
            (Ok(Err(refusal)), _)
                if refusal.is_digest_mismatch() && !is_as_announced(put).await =>
            {
                Err(RemoteError::Changed)
            }
            (Ok(Err(refusal)), _) => refusal.outcome(&put.precondition, false),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(error),
        }
    }

    async fn put_json(&self, put: &FilePut<'_>, body: &[u8]) -> Result<Outcome, RemoteError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct PutBody<'a> {
            content: Content<'a>,
            content_type: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            encoding: Option<&'static str>,
        }
        let content = Content::of(body);
        let (content_type, encoding) = (content.content_type(), content.encoding());
        let json = serde_json::to_vec(&PutBody { content, content_type, encoding })
            .map_err(|error| RemoteError::Invalid { message: error.to_string() })?;
        let path = self.remote_path(put.path);
        let time = self.transport.time_for(length(&json));
        let request = self
            .transport
            .request(Method::PUT, self.transport.url("fs/file", &[("path", path.as_str())])?)?
            .header(CONTENT_TYPE, "application/json")
            .body(json);
        let reply: Result<Response, Refusal> =
            self.transport.ask(conditional(request, &put.precondition), time).await?;
        match reply {
            Ok(reply) => self.accepted(reply).await,
            Err(refusal) => refusal.outcome(&put.precondition, false),
        }
    }

    /// Reads the revision out of the reply to a stored change. One without is the reply of something
    /// else, and nothing may have been stored.
    async fn accepted(&self, reply: Response) -> Result<Outcome, RemoteError> {
        match self.transport.body(reply, REPLY_BYTES_MAX).await? {
            Body::Whole(bytes) => {
                let accepted: WireAccepted = parse(&bytes)?;
                let revision = Revision::new(&accepted.target_revision);
                let accepted = |revision| Outcome::Accepted { revision: Some(revision) };
                Ok(revision.map_or(Outcome::Unknown, accepted))
            }
            Body::OverBound => {
                Err(RemoteError::Garbled { message: "the reply to a change is too long".into() })
            }
        }
    }
}

/// Adds the header of a condition.
fn conditional(request: RequestBuilder, condition: &Precondition) -> RequestBuilder {
    match condition {
        Precondition::UnmodifiedSince(date) => {
            request.header(IF_UNMODIFIED_SINCE, http_date(*date))
        }
        Precondition::Absent | Precondition::Match(_) => {
            request.header(IF_MATCH, if_match(condition).unwrap_or("0"))
        }
    }
}

/// Reads the whole local file and compares it with its snapshot.
async fn snapshot(put: &FilePut<'_>) -> Result<Bytes, RemoteError> {
    let local = File::open(put.source).await.map_err(local_error)?;
    let mut bytes = Vec::with_capacity(usize::try_from(put.size).unwrap_or(0));
    local.take(put.size).read_to_end(&mut bytes).await.map_err(local_error)?;
    if length(&bytes) == put.size && Digest::of(&bytes) == put.digest {
        Ok(bytes.into())
    } else {
        Err(RemoteError::Changed)
    }
}

/// Whether the local file holds what was announced; else it is no wonder that something else arrived.
async fn is_as_announced(put: &FilePut<'_>) -> bool {
    let Ok(local) = File::open(put.source).await else { return false };
    let mut pieces = ReaderStream::with_capacity(local.take(put.size), READ_BYTES);
    let mut hasher = Hasher::default();
    while let Some(piece) = pieces.next().await {
        let Ok(bytes) = piece else { return false };
        hasher.update(&bytes);
    }
    hasher.finish() == put.digest
}

/// What went wrong on our side of an upload.
#[derive(Debug, Default)]
struct Fault {
    unreadable: AtomicBool,
    short: AtomicBool,
}

impl Fault {
    fn error(&self, source: &Path) -> Option<RemoteError> {
        if self.unreadable.load(Ordering::Relaxed) {
            let message = format!("read {}", source.display());
            Some(RemoteError::Local { message })
        } else if self.short.load(Ordering::Relaxed) {
            Some(RemoteError::Changed)
        } else {
            None
        }
    }
}

/// The first `size` bytes of a file; notes in `fault` when they cannot be had.
fn exactly(
    local: File,
    size: u64,
    fault: Arc<Fault>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let pieces = ReaderStream::with_capacity(local.take(size), READ_BYTES);
    stream::unfold((pieces, size), move |(mut pieces, left)| {
        let fault = Arc::clone(&fault);
        async move {
            let piece = pieces.next().await;
            match &piece {
                Some(Ok(bytes)) => {
                    let left = left.saturating_sub(length(bytes));
                    return piece.map(|piece| (piece, (pieces, left)));
                }
                Some(Err(_)) => fault.unreadable.store(true, Ordering::Relaxed),
                None if left > 0 => fault.short.store(true, Ordering::Relaxed),
                None => return None,
            }
            // The promised length cannot be kept: break the request off rather than fill it up.
            let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            Some((piece.unwrap_or(Err(cut)), (pieces, 0)))
        }
    })
}
