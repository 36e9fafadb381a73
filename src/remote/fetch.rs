//! One file from the server: in memory or into a local file.
//!
//! Bytes are taken raw where the server offers that, else out of JSON. Invariant: bytes are handed
//! on only after their digest was compared.

use std::path::Path;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::header::{ETAG, HeaderMap, LAST_MODIFIED};
use reqwest::{Method, Response};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt as _;

use super::check;
use super::http::HttpRemote;
use super::transport::{Body, Pace, content_length, length, parse};
use super::wire::WireFile;
use super::{Metadata, RemoteError, RemoteFile, Size};
use crate::digest::{Digest, Hasher};
use crate::path::WsPath;
use crate::revision::Revision;

/// The largest file that is moved as JSON, through memory.
pub(super) const JSON_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The longest raw reply that is taken without its length announced.
const UNANNOUNCED_BYTES_MAX: u64 = JSON_FILE_BYTES_MAX;

/// JSON replies longer than this are read one at a time.
const LONG_REPLY_BYTES: u64 = 16 * 1024 * 1024;

/// How much longer than its bytes a content can be in JSON: each one an escape of six characters.
const ESCAPE_GROWTH: u64 = 6;

/// What a reply may hold beside the content.
const ENVELOPE_BYTES_MAX: u64 = 1024 * 1024;

impl HttpRemote {
    pub(super) async fn fetch_bytes(
        &self,
        path: &WsPath,
        bytes_max: u64,
    ) -> Result<Option<RemoteFile>, RemoteError> {
        let Some(reply) = self.get_file(path).await? else { return Ok(None) };
        if !self.offered().raw {
            let bound = bytes_max.saturating_mul(ESCAPE_GROWTH).saturating_add(ENVELOPE_BYTES_MAX);
            let mut file = self.json_file(path, reply, bound).await?;
            file.body = file.body.filter(|body| length(body) <= bytes_max);
            return Ok(Some(file));
        }
        let mut file = raw_file(path, reply.headers(), content_length(&reply))?;
        let body = match self.transport.body(reply, bytes_max).await? {
            Body::Whole(bytes) => Bytes::from(bytes),
            Body::OverBound => return Ok(Some(file)),
        };
        settle(&mut file, Digest::of(&body), length(&body))?;
        file.body = Some(body);
        Ok(Some(file))
    }

    pub(super) async fn fetch_file(
        &self,
        path: &WsPath,
        target: &Path,
        bytes_max: u64,
    ) -> Result<Option<RemoteFile>, RemoteError> {
        let Some(mut reply) = self.get_file(path).await? else { return Ok(None) };
        let mut local = create(target).await?;
        if !self.offered().raw {
            let mut file = self.json_file(path, reply, JSON_FILE_BYTES_MAX).await?;
            let Some(body) = file.body.take() else {
                let message = "the file is too large for this server's protocol".into();
                return Err(RemoteError::Garbled { message });
            };
            if length(&body) > bytes_max {
                return Err(RemoteError::TooLarge);
            }
            local.write_all(&body).await.map_err(local_error)?;
            local.flush().await.map_err(local_error)?;
            return Ok(Some(file));
        }
        let announced = content_length(&reply);
        // What does not say how long it is could go on for ever.
        let most = bytes_max.min(announced.unwrap_or(UNANNOUNCED_BYTES_MAX));
        if announced.is_some_and(|bytes| bytes > bytes_max) {
            return Err(RemoteError::TooLarge);
        }
        let mut file = raw_file(path, reply.headers(), announced)?;
        let mut hasher = Hasher::default();
        let mut size = 0;
        let mut pace = Pace::default();
        while let Some(chunk) = self.transport.chunk(&mut reply, &mut pace).await? {
            hasher.update(&chunk);
            size += length(&chunk);
            if size > most {
                return Err(RemoteError::TooLarge);
            }
            local.write_all(&chunk).await.map_err(local_error)?;
        }
        local.flush().await.map_err(local_error)?;
        settle(&mut file, hasher.finish(), size)?;
        Ok(Some(file))
    }

    /// Asks for a file; `None` when it is absent.
    async fn get_file(&self, path: &WsPath) -> Result<Option<Response>, RemoteError> {
        let route = if self.offered().raw { "fs/raw" } else { "fs/file" };
        let path = self.remote_path(path);
        let url = self.transport.url(route, &[("path", path.as_str())])?;
        let request = self.transport.request(Method::GET, url)?;
        match self.transport.ask(request, self.transport.timeout()).await? {
            Ok(reply) => Ok(Some(reply)),
            Err(refusal) if refusal.is_absent_file() => Ok(None),
            Err(refusal) => Err(refusal.error()),
        }
    }

    /// Reads a file as JSON of at most `bound` bytes. A longer one comes without its bytes: its
    /// revision is in the header, and its size is below that of the reply.
    async fn json_file(
        &self,
        path: &WsPath,
        reply: Response,
        bound: u64,
    ) -> Result<RemoteFile, RemoteError> {
        let revision = etag(reply.headers());
        let announced = content_length(&reply).unwrap_or(u64::MAX);
        let size = Size::AtMost(announced);
        // Long ones one after the other, so that memory holds one.
        let is_long = announced.min(bound) > LONG_REPLY_BYTES;
        let _alone = if is_long { Some(self.long_reply.lock().await) } else { None };
        let bytes = match self.transport.body(reply, bound).await? {
            Body::Whole(bytes) => bytes,
            Body::OverBound if revision.is_some() => {
                let (path, metadata) = (path.clone(), Metadata::default());
                let (digest, edited_at, body) = (None, None, None);
                return Ok(RemoteFile { path, revision, digest, size, edited_at, metadata, body });
            }
            Body::OverBound => {
                let message = format!("reply is longer than {bound} bytes");
                return Err(RemoteError::Garbled { message });
            }
        };
        let mut wire: WireFile = parse(&bytes)?;
        if wire.revision.is_empty() {
            let message = "the reply is about no file: it names no revision".to_owned();
            return Err(RemoteError::Garbled { message });
        }
        // Servers leave an empty content out.
        wire.content.get_or_insert_default();
        match check::file(path.clone(), wire) {
            (file, None) => Ok(file),
            (_, Some(reason)) => Err(RemoteError::Garbled { message: reason.to_owned() }),
        }
    }
}

/// Makes a local file, in place of whatever has the name. Never through a symbolic link.
async fn create(target: &Path) -> Result<tokio::fs::File, RemoteError> {
    drop(tokio::fs::remove_file(target).await);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(target).await.map_err(local_error)
}

/// A file as the headers of a raw reply describe it. One without a digest is the reply of something
/// else: its bytes are nobody's file.
fn raw_file(
    path: &WsPath,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Result<RemoteFile, RemoteError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let symlink = text("x-symlink-target")
        .and_then(|target| percent_decode_str(target).decode_utf8().ok())
        .map(|target| target.into_owned());
    let mode = text("x-file-mode").and_then(|mode| mode.parse().ok());
    let edited = text(LAST_MODIFIED.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(digest) = text("x-content-sha256").and_then(Digest::parse) else {
        let message = "the reply is about no file: it names no digest".to_owned();
        return Err(RemoteError::Garbled { message });
    };
    Ok(RemoteFile {
        path: path.clone(),
        revision: etag(headers),
        digest: Some(digest),
        size: length.map_or(Size::AtMost(u64::MAX), Size::Exact),
        edited_at: edited.and_then(|date| date.try_into().ok()),
        metadata: check::metadata(mode, text("x-file-mtime").unwrap_or_default(), symlink),
        body: None,
    })
}

/// The revision in an `ETag`, quoted or not.
fn etag(headers: &HeaderMap) -> Option<Revision> {
    let text = headers.get(ETAG)?.to_str().ok()?.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Revision::new(bare.unwrap_or(text))
}

/// Compares what arrived with what was announced.
fn settle(file: &mut RemoteFile, digest: Digest, size: u64) -> Result<(), RemoteError> {
    if file.digest.is_some_and(|expected| expected != digest) {
        let message = "content does not match its digest".into();
        return Err(RemoteError::Garbled { message });
    }
    file.digest = Some(digest);
    file.size = Size::Exact(size);
    Ok(())
}

/// A failure of the local disk.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn local_error(error: std::io::Error) -> RemoteError {
    RemoteError::Local { message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn raw_headers_describe_the_file() {
        let mut headers = HeaderMap::new();
        let digest = Digest::of(b"x");
        for (name, value) in [
            ("etag", "\"rev_4\"".to_owned()),
            ("x-content-sha256", digest.to_string()),
            ("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT".to_owned()),
            ("x-file-mode", "493".to_owned()),
            ("x-file-mtime", "1970-01-01T00:00:02.5Z".to_owned()),
            ("x-symlink-target", "a%20b%2F%C3%A9".to_owned()),
        ] {
            headers.insert(name, HeaderValue::from_str(&value).unwrap());
        }
        let file = raw_file(&WsPath::root(), &headers, Some(9)).unwrap();
        assert_eq!(file.revision, Revision::new("rev_4"));
        assert_eq!((file.digest, file.size), (Some(digest), Size::Exact(9)));
        assert_eq!(file.edited_at.map(|at| at.as_second()), Some(1));
        assert_eq!(file.metadata.mode, Some(0o755));
        assert_eq!(file.metadata.mtime.map(|at| at.as_millisecond()), Some(2500));
        assert_eq!(file.metadata.symlink.as_deref(), Some("a b/é"));
        headers.insert("etag", HeaderValue::from_static("W/rev_5"));
        assert_eq!(etag(&headers), Revision::new("rev_5"));
    }
}
