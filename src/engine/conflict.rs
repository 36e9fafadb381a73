//! Conflict copies: both sides on disk before either is replaced.
//!
//! A copy is a folder `<id>.conflict-<UTC time>` with `meta.json`, `local`, `base` (if known) and
//! `remote`. It is complete and synced before the remote's version takes the name; a crash in
//! between leaves the record in the outbox, and the next attempt writes a copy again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::core::SMALL_MAX;
use super::shared::{Notice, NoticeKind, Shared};
use super::verdict::{base_text, theirs_of};
use crate::content::open::{Body, OpenState};
use crate::digest::{Digest, Hasher};
use crate::node::{Content, Kind};
use crate::record::{ConflictRow, Record};
use crate::remote::RemoteFile;

/// How long a conflict waits for the file to be closed.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// What `meta.json` says.
#[derive(Debug, serde::Serialize)]
struct Meta<'a> {
    id: &'a str,
    path: &'a str,
    kind: &'a str,
    at: String,
    host: String,
    base_revision: Option<String>,
    local: Side,
    remote: Side,
}

/// One side in `meta.json`.
#[derive(Debug, serde::Serialize)]
struct Side {
    revision: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    modified_at: Option<String>,
}

/// Our side of a conflict.
#[derive(Debug)]
enum Ours {
    Bytes(Bytes),
    File(PathBuf),
}

impl Shared {
    /// Keeps ours beside theirs: copies both to disk, then lets theirs take the name.
    pub(super) async fn keep_both(self: &Arc<Self>, record: Record, theirs: RemoteFile) {
        let at = self.clock.wall();
        let id = format!("c-{}", record.seq.0);
        let name = format!("{id}.conflict-{}", compact(at));
        let folder = self.conflicts_folder.join(&name);
        let result = async {
            tokio::task::block_in_place(|| {
                DirBuilder::new().recursive(true).mode(0o700).create(&folder)
            })?;
            failpoint!("conflict.folder");
            let copy = folder.join("remote");
            let fetched = self.remote.fetch_to(&record.path, &copy, self.room()).await;
            failpoint!("conflict.remote");
            let theirs = match fetched {
                Ok(Some(file)) => file,
                // Gone or unreachable meanwhile: the next attempt decides anew.
                Ok(None) => return Ok(false),
                Err(error) => return Err(io::Error::other(error)),
            };
            tokio::task::block_in_place(|| self.write_and_swap(&record, theirs, &id, &folder, at))
        };
        match result.await {
            Ok(true) => {
                tracing::warn!(path = %record.path, copy = %folder.display(), "conflict: both sides kept");
                self.notice(Notice {
                    kind: NoticeKind::Conflict,
                    action: "edit".to_owned(),
                    path: Some(record.path.as_str().to_owned()),
                    revision: theirs.revision.map(|revision| revision.to_string()),
                    detail: Some(name),
                    at,
                });
                return;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(path = %record.path, %error, "conflict copy not written, trying again");
                self.step(|core, now, _| {
                    core.note_error("CONFLICT_COPY", &error.to_string(), now.wall);
                });
            }
        }
        drop(fs::remove_dir_all(&folder));
        self.step(|core, now, changes| {
            core.postpone(&record.path, now.mono + OPEN_WAIT, changes);
        });
    }

    /// Writes the copy and swaps, with the file locked. `Ok(false)` when the file is open for
    /// writing or changed on: later.
    fn write_and_swap(
        &self,
        record: &Record,
        theirs: RemoteFile,
        id: &str,
        folder: &Path,
        at: Timestamp,
    ) -> io::Result<bool> {
        let Some(ino) = record.ino else { return Ok(false) };
        self.contents.open.with(ino, |state| {
            if !state.is_quiet() || !self.still_current(record) {
                return Ok(false);
            }
            let ours = self.ours(record, state)?;
            let (size, digest) = write_copy(&ours, &folder.join("local"))?;
            failpoint!("conflict.local");
            if let Some(base) = &record.base_content {
                let bytes = self.contents.blob(base.blob).map_err(io::Error::other)?;
                write_synced(&folder.join("base"), &bytes)?;
            }
            File::open(folder.join("remote"))?.sync_all()?;
            let (ours_by, modified) = {
                let core = self.core();
                (core.settings.who.clone(), core.tree.get(ino).map(|node| node.mtime))
            };
            let conflict = ConflictRow {
                id: id.to_owned(),
                path: record.path.clone(),
                at,
                kind: "edit".to_owned(),
                base_revision: base_text(record),
                theirs_revision: theirs.revision.as_ref().map(ToString::to_string),
                ours: Some((size, digest)),
                theirs: theirs_of(&theirs),
                folder: folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                ours_by,
                ours_at: modified,
                theirs_at: theirs.edited_at,
                sibling: None,
                resolution: None,
            };
            write_synced(&folder.join("meta.json"), &meta(&conflict, &theirs, modified)?)?;
            failpoint!("conflict.meta");
            File::open(folder)?.sync_all()?;
            File::open(&self.conflicts_folder)?.sync_all()?;

            let mut theirs = theirs;
            let remote_copy = folder.join("remote");
            if theirs.body.is_none() && fs::metadata(&remote_copy)?.len() <= SMALL_MAX {
                theirs.body = Some(Bytes::from(fs::read(&remote_copy)?));
            }
            failpoint!("conflict.synced");
            self.step(|core, now, changes| core.kept(record, &theirs, conflict, now, changes));
            failpoint!("conflict.swapped");
            state.body = Body::Unloaded;
            state.generation += 1;
            Ok(true)
        })
    }

    fn still_current(&self, record: &Record) -> bool {
        let core = self.core();
        let lane = core.outbox.lane(&record.path);
        lane.is_some_and(|lane| lane.current.record.seq == record.seq && lane.after.is_empty())
    }

    fn ours(&self, record: &Record, state: &OpenState) -> io::Result<Ours> {
        if let Body::Shared(bytes) = &state.body {
            return Ok(Ours::Bytes(bytes.clone()));
        }
        let core = self.core();
        let node = record.ino.and_then(|ino| core.tree.get(ino));
        Ok(match node.map(|node| &node.kind) {
            Some(Kind::Symlink { target }) => Ours::Bytes(Bytes::from(target.to_string())),
            Some(Kind::File(body)) => match body.content {
                Content::Blob(blob) => {
                    Ours::Bytes(self.contents.blob(blob).map_err(io::Error::other)?)
                }
                Content::File(file) => Ours::File(self.contents.file_path(file)),
                Content::Empty => Ours::Bytes(Bytes::new()),
                Content::Remote => return Err(io::Error::other("our content is not here")),
            },
            Some(Kind::Dir { .. }) | None => Ours::Bytes(Bytes::new()),
        })
    }
}

fn write_copy(ours: &Ours, target: &Path) -> io::Result<(u64, Digest)> {
    match ours {
        Ours::Bytes(bytes) => {
            write_synced(target, bytes)?;
            Ok((bytes.len() as u64, Digest::of(bytes)))
        }
        Ours::File(source) => {
            let mut from = File::open(source)?;
            let mut to = create(target)?;
            let mut hasher = Hasher::default();
            let mut buffer = vec![0; 256 << 10];
            let mut size = 0;
            loop {
                let n = io::Read::read(&mut from, &mut buffer)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                to.write_all(&buffer[..n])?;
                size += n as u64;
            }
            to.sync_all()?;
            Ok((size, hasher.finish()))
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn meta(
    conflict: &ConflictRow,
    theirs: &RemoteFile,
    modified: Option<Timestamp>,
) -> io::Result<Vec<u8>> {
    let side =
        |revision: &Option<String>, side: &Option<(u64, Digest)>, at: Option<Timestamp>| Side {
            revision: revision.clone(),
            size: side.map(|side| side.0),
            sha256: side.map(|side| side.1.to_string()),
            modified_at: at.map(|at| at.to_string()),
        };
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let meta = Meta {
        id: &conflict.id,
        path: conflict.path.as_str(),
        kind: &conflict.kind,
        at: conflict.at.to_string(),
        host: host.unwrap_or_default(),
        base_revision: conflict.base_revision.clone(),
        local: side(&None, &conflict.ours, modified),
        remote: side(&conflict.theirs_revision, &conflict.theirs, theirs.edited_at),
    };
    serde_json::to_vec_pretty(&meta).map_err(io::Error::other)
}

/// `20261120T102733Z`.
fn compact(at: Timestamp) -> String {
    let text = at.strftime("%Y%m%dT%H%M%SZ");
    text.to_string()
}
