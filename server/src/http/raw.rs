//! `/fs/raw`: the bytes of one file, streamed in either direction.

use std::fs;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
};
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::file::{accepted_with_content, precondition, settle};
use super::put::{self, IdentityBody, stored_size};
use super::reply::{Failure, json_reply};
use super::view::hex;
use super::{App, Call, body};
use crate::config::INLINE_BYTES_MAX;
use crate::store::bodies::BodyWriter;
use crate::store::model::{Action, Change, Content, File, NewBody, Put, revision_text};
use crate::store::{StoreError, read};

const NS_PER_S: i64 = 1_000_000_000;
const SHA256: HeaderName = HeaderName::from_static("x-content-sha256");
const IDENTITY: HeaderName = HeaderName::from_static("x-content-identity");

enum Source {
    Inline(Vec<u8>),
    File(fs::File),
}

/// Serves `GET` and `HEAD /fs/raw`.
pub(crate) async fn get(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.file_path()?;
    let store = app.store.clone();
    let workspace = call.workspace.clone();
    let pin = app.store.bodies().pin();
    let found = app.store.read(move |connection| {
        let Some(space) = read::workspace(connection, &workspace)? else { return Ok(None) };
        let Some(file) = read::file(connection, space.id, &path)? else { return Ok(None) };
        let source = match &file.body {
            Some(name) => Source::File(store.bodies().read(name, &pin)?),
            None => Source::Inline(read::content(connection, store.bodies(), &pin, &file)?),
        };
        Ok(Some((file, source)))
    });
    let (file, source) = found.await?.ok_or_else(Failure::not_found)?;
    let etag = format!("\"{}\"", revision_text(file.revision));
    let (if_match, if_none_match, wanted) = (
        call.header(&IF_MATCH).map(|list| holds_tag(list, &etag)),
        call.header(&IF_NONE_MATCH).map(|list| holds_tag(list, &etag)),
        call.header(&RANGE).map(str::to_owned),
    );
    if if_match == Some(false) {
        let status = StatusCode::PRECONDITION_FAILED;
        return Err(Failure::new(status, "precondition_failed", "the file has another revision")
            .with("currentRevision", revision_text(file.revision)));
    }
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), &file, &etag, app);
    if if_none_match == Some(true) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let size = u64::try_from(file.byte_size).unwrap_or(0);
    let (start, length) = match wanted.map(|text| range(&text, size)) {
        None | Some(Range::Ignored) => (0, size),
        Some(Range::Part { start, length }) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {start}-{}/{size}", start + length - 1);
            set(response.headers_mut(), CONTENT_RANGE, &text);
            (start, length)
        }
        Some(Range::Unsatisfiable) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{size}"));
            set(response.headers_mut(), CONTENT_LENGTH, "0");
            return Ok(response);
        }
    };
    set(response.headers_mut(), CONTENT_LENGTH, &length.to_string());
    if call.request.method() != Method::HEAD {
        *response.body_mut() = part(source, start, length).await?;
    }
    Ok(response)
}

/// Tells whether a list of entity tags, quoted or not, holds the one given.
fn holds_tag(list: &str, etag: &str) -> bool {
    let mut tags = list.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag == etag || tag == etag.trim_matches('"'))
}

async fn part(source: Source, start: u64, length: u64) -> Result<Body, Failure> {
    match source {
        Source::Inline(content) => {
            let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
            let (from, to) = (bound(start), bound(start.saturating_add(length)));
            Ok(Body::from(Bytes::from(content).slice(from..to)))
        }
        Source::File(file) => {
            let mut file = tokio::fs::File::from_std(file);
            file.seek(std::io::SeekFrom::Start(start)).await.map_err(StoreError::from)?;
            Ok(Body::from_stream(ReaderStream::with_capacity(file.take(length), 256 * 1024)))
        }
    }
}

fn describe(headers: &mut HeaderMap, file: &File, etag: &str, app: &App) {
    let extensions = app.extensions();
    set(headers, ETAG, etag);
    set(headers, CONTENT_TYPE, &file.content_type);
    set(headers, SHA256, &hex(&file.hash));
    set(headers, ACCEPT_RANGES, "bytes");
    let edited_s = u64::try_from(file.edited_at / NS_PER_S).unwrap_or(0);
    let edited = std::time::UNIX_EPOCH + std::time::Duration::from_secs(edited_s);
    set(headers, LAST_MODIFIED, &httpdate::fmt_http_date(edited));
    if let Some(mode) = file.mode.filter(|_| extensions.metadata) {
        set(headers, HeaderName::from_static("x-file-mode"), &mode.to_string());
    }
    if let Some(mtime) = file.mtime.as_ref().filter(|_| extensions.metadata) {
        set(headers, HeaderName::from_static("x-file-mtime"), mtime);
    }
    if let Some(target) = file.symlink.as_ref().filter(|_| extensions.symlink) {
        let target = utf8_percent_encode(target, NON_ALPHANUMERIC).to_string();
        set(headers, HeaderName::from_static("x-symlink-target"), &target);
    }
}

/// Sets a header; a value no header can hold is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Part {
        start: u64,
        length: u64,
    },
    /// Malformed, or several parts: answered with the whole file, as HTTP allows.
    Ignored,
    Unsatisfiable,
}

fn range(text: &str, size: u64) -> Range {
    let Some((first, last)) =
        text.trim().strip_prefix("bytes=").and_then(|set| set.split_once('-'))
    else {
        return Range::Ignored;
    };
    let number = |text: &str| text.trim().parse::<u64>();
    let (start, end) = match (number(first), number(last)) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, size),
        (Err(_), Ok(suffix)) if first.trim().is_empty() => (size.saturating_sub(suffix), size),
        _ => return Range::Ignored,
    };
    if start < end { Range::Part { start, length: end - start } } else { Range::Unsatisfiable }
}

/// Serves `PUT /fs/raw`.
pub(crate) async fn put(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let path = call.file_path()?;
    let precondition = precondition(app, &call)?;
    let metadata = app.extensions().metadata;
    let invalid = |_| Failure::bad_request("invalid input");
    let given = |name: &str| call.query.get(name).filter(|_| metadata);
    let mode = given("mode").map(|mode| mode.parse::<u32>().map_or(Value::Bool(true), Value::from));
    let mode = put::mode(mode.as_ref()).map_err(invalid)?;
    let mtime = given("mtime").map(Value::from);
    let mtime = put::mtime(mtime.as_ref()).map_err(invalid)?;
    let identity = match call.header(&IDENTITY).map(identity) {
        Some(body) => body.read().map_err(invalid)?,
        None => None,
    };
    let content_type = call.header(&CONTENT_TYPE).map(str::to_owned);
    let expected = call.header(&SHA256).map(|text| text.trim().to_ascii_lowercase());
    let max = app.config.max_raw_bytes;
    let announced = body::announced(&call.request);
    let Call { request, workspace, correlation, .. } = call;
    let stream = request.into_body().into_data_stream();
    if announced.is_some_and(|length| length > max) {
        return Err(body::refuse(stream).await);
    }
    let content = receive(app, stream, max).await?;
    if expected.is_some_and(|expected| expected != hex(&content.hash)) {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "digest_mismatch",
            "the body does not have the digest in X-Content-Sha256",
        ));
    }
    let action =
        Action::Put(Put { content, content_type, semantics: None, mode, mtime, symlink: None });
    let change = Change { path: path.clone(), precondition, identity, action };
    let outcome = app.store.write(&workspace, vec![change], &correlation).await?.pop();
    let done = settle(app, &workspace, &path, outcome).await?;
    Ok(json_reply(StatusCode::ACCEPTED, &accepted_with_content(&done)))
}

/// Reads `KIND:KEY[:TTL]`; the last part is a time to live only when it is a number.
fn identity(text: &str) -> IdentityBody {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let with_ttl = rest
        .rsplit_once(':')
        .and_then(|(key, ttl)| ttl.trim().parse::<i64>().ok().map(|ttl| (key, ttl)));
    let (key, ttl_seconds) = with_ttl.map_or((rest, None), |(key, ttl)| (key, Some(ttl)));
    IdentityBody { kind: Some(kind.to_owned()), key: Some(key.to_owned()), ttl_seconds }
}

/// What is known of a body so far.
struct Receiving {
    sha: Sha256,
    size: u64,
    start: Vec<u8>,
    writer: Option<BodyWriter>,
    text: TextCheck,
}

/// Receives a body of any size: small ones in memory, large ones into a body file.
async fn receive(
    app: &App,
    mut stream: axum::body::BodyDataStream,
    max: u64,
) -> Result<Content, Failure> {
    let mut state = Receiving {
        sha: Sha256::new(),
        size: 0,
        start: Vec::new(),
        writer: None,
        text: TextCheck::default(),
    };
    while let Some(chunk) = body::next(&mut stream).await? {
        if state.size + chunk.len() as u64 > max {
            return Err(body::refuse(stream).await);
        }
        state = if state.writer.is_none() && state.start.len() + chunk.len() <= INLINE_BYTES_MAX {
            state.take(&chunk);
            state.start.extend_from_slice(&chunk);
            state
        } else {
            let bodies = app.store.bodies().clone();
            let work = move || -> Result<Receiving, StoreError> {
                let writer = match &mut state.writer {
                    Some(writer) => writer,
                    None => {
                        let mut writer = bodies.create()?;
                        writer.write(&state.start)?;
                        state.start = Vec::new();
                        state.writer.insert(writer)
                    }
                };
                writer.write(&chunk)?;
                state.take(&chunk);
                Ok(state)
            };
            blocking(work).await?
        };
    }
    let base64 = !state.text.is_text();
    let byte_size = i64::try_from(state.size).unwrap_or(i64::MAX);
    let hash = state.sha.finalize().into();
    let body = match state.writer {
        Some(writer) => {
            NewBody::File(blocking(move || writer.finish().map_err(StoreError::from)).await?)
        }
        None => NewBody::Inline(state.start),
    };
    Ok(Content { body, hash, base64, stored_size: stored_size(byte_size, base64), byte_size })
}

impl Receiving {
    fn take(&mut self, chunk: &[u8]) {
        self.sha.update(chunk);
        self.size += chunk.len() as u64;
        self.text.take(chunk);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
}

/// Finds out, a piece at a time, whether bytes are text that JSON can carry as it is.
#[derive(Debug, Default)]
struct TextCheck {
    broken: bool,
    // The start of a character that the next piece continues; at most three bytes.
    held: Vec<u8>,
}

impl TextCheck {
    fn take(&mut self, chunk: &[u8]) {
        if self.broken {
            return;
        }
        let mut chunk = chunk;
        while !self.held.is_empty() && !chunk.is_empty() {
            self.held.push(chunk[0]);
            chunk = &chunk[1..];
            match std::str::from_utf8(&self.held) {
                Ok(_) => self.held.clear(),
                Err(error) if error.error_len().is_some() => {
                    self.broken = true;
                    return;
                }
                Err(_) => {}
            }
        }
        if chunk.contains(&0) {
            self.broken = true;
        } else if let Err(error) = std::str::from_utf8(chunk) {
            self.broken = error.error_len().is_some();
            self.held = chunk[error.valid_up_to()..].to_vec();
        }
    }

    fn is_text(&self) -> bool {
        !self.broken && self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range("bytes=0-3", 10), Range::Part { start: 0, length: 4 });
        assert_eq!(range("bytes=8-", 10), Range::Part { start: 8, length: 2 });
        assert_eq!(range("bytes=-3", 10), Range::Part { start: 7, length: 3 });
        assert_eq!(range("bytes=5-99", 10), Range::Part { start: 5, length: 5 });
        assert_eq!(range("bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(range("bytes=0-1,3-4", 10), Range::Ignored);
        assert_eq!(range("lines=0-1", 10), Range::Ignored);
    }

    #[test]
    fn text_is_recognised_across_pieces() {
        let check = |pieces: &[&[u8]]| {
            let mut check = TextCheck::default();
            pieces.iter().for_each(|piece| check.take(piece));
            check.is_text()
        };
        assert!(check(&[b"caf\xc3", b"\xa9 \xf0\x9f", b"\x98", b"\x80"]));
        assert!(!check(&[b"caf\xc3"]));
        assert!(!check(&[b"caf\xc3", b"x"]));
        assert!(!check(&[b"a\0b"]));
        assert!(!check(&[b"\xff"]));
    }

    #[test]
    fn identities() {
        let read = |text| identity(text).read().unwrap().unwrap();
        assert_eq!((read("mountd:k1:60").key, read("mountd:k1:60").ttl_s), ("k1".into(), 60));
        assert_eq!((read("mountd:a:b").key, read("mountd:a:b").ttl_s), ("a:b".into(), 0));
    }
}
