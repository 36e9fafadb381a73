//! `/fs/export`: everything below a folder, streamed from one snapshot.
//!
//! A blocking thread reads and a bounded channel carries at most a few buffers to the socket, so
//! an export of any size needs little memory. A client that takes nothing for a minute is cut
//! off: its snapshot keeps the database's log from being folded.

use std::io::{self, Read as _, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::put::BASE64;
use super::reply::Failure;
use super::view::{export_folder, file_head};
use super::{App, Call, STALL};
use crate::store::bodies::{Bodies, BodyPin};
use crate::store::model::{File, Folder};
use crate::store::tree::{self, Entry};
use crate::store::{StoreError, read};

const PAGE: usize = 500;
const BUFFER_BYTES: usize = 64 * 1024;
const BUFFERS: usize = 4;
const NS_PER_S: i64 = 1_000_000_000;

/// Serves `GET /fs/export`.
pub(crate) async fn export(app: &Arc<App>, call: Call) -> Result<Response<Body>, Failure> {
    let folder = call.folder_path()?;
    let tar = match call.query.get("format").unwrap_or("json") {
        "json" => false,
        "tar" => true,
        _ => return Err(Failure::bad_request("invalid format")),
    };
    let extensions = app.extensions();
    let folders = extensions.directories && call.query.get("directories") == Some("true");
    let slot = Arc::clone(&app.exports).acquire_owned().await;
    let slot = slot.map_err(|_| Failure::from(StoreError::Closed))?;
    let store = app.store.clone();
    let workspace = call.workspace;
    let body = stream(move |out| {
        let _slot = slot;
        let pin = store.bodies().pin();
        let mut connection = store.open_reader().map_err(io::Error::other)?;
        let snapshot = connection.transaction().map_err(io::Error::other)?;
        let source = Source { connection: &snapshot, bodies: store.bodies(), pin: &pin, folder };
        let space = read::workspace(&snapshot, &workspace).map_err(io::Error::other)?;
        let id = space.map(|space| space.id);
        if tar {
            source.write_tar(out, id)
        } else {
            source.write_json(out, id, folders, extensions)
        }
    });
    let mut response = Response::new(body);
    let kind = if tar { "application/gzip" } else { "application/json" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

struct Source<'s> {
    connection: &'s Connection,
    bodies: &'s Bodies,
    pin: &'s BodyPin,
    folder: String,
}

impl Source<'_> {
    fn write_json(
        &self,
        out: &mut ChannelWriter,
        workspace: Option<i64>,
        folders: bool,
        extensions: crate::config::Extensions,
    ) -> io::Result<()> {
        let mut separator: &[u8] = b"[";
        let mut begin = |out: &mut ChannelWriter| {
            let result = out.write_all(separator);
            separator = b",";
            result
        };
        if let Some(id) = workspace {
            self.each(id, folders, |entry| match entry {
                Entry::File(file) => {
                    begin(out)?;
                    out.write_all(file_head(&file, extensions).as_bytes())?;
                    write_content(out, self.connection, self.bodies, self.pin, &file)
                        .map_err(io::Error::other)?;
                    out.write_all(b"\"}")
                }
                Entry::Folder(folder) => {
                    begin(out)?;
                    out.write_all(export_folder(folder).as_bytes())
                }
            })?;
        }
        if separator == b"[" {
            out.write_all(b"[")?;
        }
        out.write_all(b"]")
    }

    fn write_tar(&self, out: &mut ChannelWriter, workspace: Option<i64>) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
        if let Some(id) = workspace {
            self.each(id, false, |entry| match entry {
                Entry::File(file) => self.append(&mut archive, &file),
                Entry::Folder(_) => Ok(()),
            })?;
        }
        archive.into_inner()?.finish()?;
        Ok(())
    }

    fn append<W: Write>(&self, archive: &mut tar::Builder<W>, file: &File) -> io::Result<()> {
        let name = file.path.trim_start_matches('/');
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode.unwrap_or(0o644));
        header.set_mtime(u64::try_from(file.edited_at / NS_PER_S).unwrap_or(0));
        if let Some(target) = &file.symlink {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            return archive.append_link(&mut header, name, target);
        }
        header.set_size(u64::try_from(file.byte_size).unwrap_or(0));
        if let Some(body) = &file.body {
            return archive.append_data(&mut header, name, self.bodies.read(body, self.pin)?);
        }
        let content = read::content(self.connection, self.bodies, self.pin, file)
            .map_err(io::Error::other)?;
        archive.append_data(&mut header, name, content.as_slice())
    }

    /// Visits the files, and the explicit folders when asked for, in path order.
    fn each(
        &self,
        workspace: i64,
        folders: bool,
        mut visit: impl FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut cursor: Option<String> = None;
        loop {
            let page = if folders {
                let page = tree::page(
                    self.connection,
                    workspace,
                    &self.folder,
                    usize::MAX,
                    cursor.as_deref(),
                    PAGE,
                );
                page.map_err(io::Error::other)?.entries
            } else {
                let files = read::files_after(
                    self.connection,
                    workspace,
                    &self.folder,
                    cursor.as_deref(),
                    PAGE,
                );
                let files = files.map_err(io::Error::other)?;
                files.into_iter().map(|file| Entry::File(Box::new(file))).collect()
            };
            let Some(last) = page.last() else { return Ok(()) };
            cursor = Some(match last {
                Entry::File(file) => file.path.clone(),
                Entry::Folder(folder) => folder.path.clone(),
            });
            for entry in page {
                if !matches!(entry, Entry::Folder(Folder { explicit: false, .. })) {
                    visit(entry)?;
                }
            }
        }
    }
}

/// Writes the text clients see of a content, without the quotes around it.
pub(crate) fn write_content(
    out: &mut impl Write,
    connection: &Connection,
    bodies: &Bodies,
    pin: &BodyPin,
    file: &File,
) -> Result<(), StoreError> {
    if file.body.is_some() {
        return Ok(write_body_file(out, bodies, pin, file)?);
    }
    let content = read::content(connection, bodies, pin, file)?;
    Ok(write_text(out, &content, file.base64)?)
}

/// As [`write_content`], for a content that is a file of its own.
pub(crate) fn write_body_file(
    out: &mut impl Write,
    bodies: &Bodies,
    pin: &BodyPin,
    file: &File,
) -> io::Result<()> {
    let name = file.body.as_deref().unwrap_or_default();
    let mut source = bodies.read(name, pin)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    // Bytes read but not written yet: a character, or a group of three bytes, is kept whole.
    let mut held = 0;
    loop {
        let read = source.read(&mut buffer[held..])?;
        let filled = held + read;
        let whole = if read == 0 {
            filled
        } else if file.base64 {
            filled / 3 * 3
        } else {
            whole_characters(&buffer[..filled])
        };
        write_text(out, &buffer[..whole], file.base64)?;
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
    }
}

/// Returns how many bytes come before a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) => error.valid_up_to(),
    }
}

fn write_text(out: &mut impl Write, bytes: &[u8], base64: bool) -> io::Result<()> {
    if base64 {
        return out.write_all(BASE64.encode(bytes).as_bytes());
    }
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    let quoted = serde_json::to_string(text)?;
    out.write_all(&quoted.as_bytes()[1..quoted.len() - 1])
}

/// Returns a body that `write` fills from a blocking thread.
pub(crate) fn stream(
    write: impl FnOnce(&mut ChannelWriter) -> io::Result<()> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(BUFFERS);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = ChannelWriter { sender, runtime, buffer: Vec::with_capacity(BUFFER_BYTES) };
        if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
            tracing::debug!(%error, "a streamed reply ended early");
            // An error item aborts the transfer, so that a client cannot take it for complete.
            out.runtime.block_on(out.sender.send(Err(error))).ok();
        }
    });
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item: io::Result<Bytes>| (item, receiver))
    }))
}

/// Sends what is written to it, a buffer at a time. *Blocking*: waits for the client.
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER_BYTES));
        let send = self.sender.send(Ok(full.into()));
        // The timer belongs to the runtime, so it is made inside it.
        let sent = self.runtime.block_on(async { tokio::time::timeout(STALL, send).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
