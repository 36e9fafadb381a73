//! Taking up records that were carried off: each once, on the base it had, and nothing that waits
//! here is replaced.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use nix::fcntl::OFlag;

use super::{Carried, Entry, EntryBase, FORMAT, MANIFEST, Manifest, Origin};
use crate::content::open::Body;
use crate::content::working::WorkingFile;
use crate::digest::{Digest, Hasher};
use crate::engine::core::{Changes, Core, Now, SMALL_MAX};
use crate::engine::outbox::Change;
use crate::engine::shared::Shared;
use crate::node::{BlobId, Content, FileBody, FileId, Ino, Kind, Node};
use crate::path::WsPath;
use crate::record::{BaseContent, Op, Seq};
use crate::store::Row;

/// Largest manifest that is read; bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// What was taken up last for each path: what a record that follows it comes after.
type Last = HashMap<WsPath, Waiting>;

/// The newest record of a path and what it would send, as far as a person can change that.
type Waiting = (Seq, Option<BlobId>, u64, Option<(Kind, Timestamp)>);

/// The bytes of a record, on this machine's terms.
struct Here {
    content: Content,
    size: u64,
    small: Option<Bytes>,
}

impl Shared {
    /// Takes up the records in `folder`. *Blocking:* disk.
    ///
    /// # Errors
    /// When the folder is none that was exported for this workspace, in words.
    pub fn import(self: &Arc<Self>, folder: &Path, origin: &Origin) -> Result<Carried, String> {
        let manifest = read_manifest(folder)?;
        if manifest.origin != *origin {
            let theirs = &manifest.origin;
            return Err(format!(
                "these records belong to {}/{} (folder {}), this mount to {}/{} (folder {})",
                theirs.server,
                theirs.workspace,
                theirs.remote_path,
                origin.server,
                origin.workspace,
                origin.remote_path
            ));
        }
        if self.core().settings.read_only {
            return Err("this mount is read-only".to_owned());
        }
        let mut carried = Carried { folder: Some(folder.to_owned()), ..Carried::default() };
        let mut last = Last::new();
        for entry in &manifest.records {
            let (id, path) = (entry.id.clone(), entry.path.clone());
            match self.import_one(folder, entry, &mut last) {
                Ok(()) => carried.done.push((id, path)),
                Err(why) => carried.refused.push((id, path, why)),
            }
        }
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.store.sync(Box::new(move |result| drop(tell.send(result))));
        match told.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("the outbox cannot be written: {error}")),
            Err(_closed) => return Err("the daemon is stopping".to_owned()),
        }
        self.nudge.notify_one();
        Ok(carried)
    }

    fn import_one(&self, folder: &Path, entry: &Entry, last: &mut Last) -> Result<(), String> {
        let path = WsPath::parse(&entry.path).map_err(|error| error.to_string())?;
        let op = Op::from_word(&entry.op).ok_or_else(|| format!("{} is not known", entry.op))?;
        if path.is_root() {
            return Err("the root cannot be changed".to_owned());
        }
        let known = {
            let core = self.core();
            core.imported.contains(&entry.id) || core.has_identity(&path, &entry.id)
        };
        if known {
            return Ok(());
        }
        let body = match op {
            Op::Put if entry.symlink.is_none() => Some(self.take_body(folder, entry)?),
            _ => None,
        };
        failpoint!("import.copied");
        let base = match &entry.base_file {
            Some(name) => Some(Bytes::from(read_small(folder, name)?)),
            None => None,
        };
        let mut take = || {
            self.step(|core, now, changes| {
                if core.is_pending(&path) {
                    let is_next = entry.base == EntryBase::Follows
                        && core.waiting(&path) == last.remove(&path);
                    if !is_next {
                        let why = "the path has a change here that waits: flush, and import again";
                        return Err(why.to_owned());
                    }
                }
                core.import(&path, op, entry, body.as_ref(), base.clone(), now, changes)?;
                last.extend(core.waiting(&path).map(|waiting| (path.clone(), waiting)));
                Ok(())
            })
        };
        let file = self.core().file_at(&path);
        let taken = match file {
            None => take(),
            Some(ino) => self.contents.open.with(ino, |state| {
                if !state.is_quiet() {
                    return Err("its file is open for writing here".to_owned());
                }
                take()?;
                state.body = Body::Unloaded;
                state.generation += 1;
                Ok(())
            }),
        };
        failpoint!("import.taken");
        if taken.is_err()
            && let Some(Here { content: Content::File(file), .. }) = body
        {
            self.contents.discard(vec![file]);
        }
        taken
    }

    /// Brings the bytes of a record here, checked.
    fn take_body(&self, folder: &Path, entry: &Entry) -> Result<Here, String> {
        let name = entry.file.as_deref().ok_or("it comes without its bytes")?;
        let expected = entry.sha256.as_deref().and_then(Digest::parse);
        let expected = expected.ok_or("it comes without the digest of its bytes")?;
        let wrong = || "its bytes are not those that were exported".to_owned();
        let mut from = open(folder, name)?;
        let size = from.metadata().map_err(|error| error.to_string())?.len();
        if size <= SMALL_MAX {
            let bytes = read_small(folder, name)?;
            if Digest::of(&bytes) != expected {
                return Err(wrong());
            }
            if bytes.is_empty() {
                return Ok(Here { content: Content::Empty, size: 0, small: None });
            }
            let blob = BlobId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
            let small = Some(Bytes::from(bytes));
            return Ok(Here { content: Content::Blob(blob), size, small });
        }
        let id = FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
        let to = self.contents.create_file(id).map_err(|error| error.to_string())?;
        let copied = copy(&mut from, &to).and_then(|copied| {
            self.contents.unsynced.note(to.file())?;
            self.contents.unsynced.sync_new(to.file())?;
            Ok(copied)
        });
        match copied {
            Ok((size, digest)) if digest == expected => {
                Ok(Here { content: Content::File(id), size, small: None })
            }
            other => {
                self.contents.discard(vec![id]);
                Err(other.map_or_else(|error| error.to_string(), |_| wrong()))
            }
        }
    }
}

impl Core {
    fn has_identity(&self, path: &WsPath, id: &str) -> bool {
        let is_it =
            |record: &crate::record::Record| format!("{:016x}-{}", record.key, record.seq.0) == id;
        self.outbox.lane(path).is_some_and(|lane| lane.records().any(is_it))
    }

    fn waiting(&self, path: &WsPath) -> Option<Waiting> {
        let record = self.outbox.lane(path)?.records().last()?;
        let node = record.ino.and_then(|ino| self.tree.get(ino));
        let shown = node.map(|node| (node.kind.clone(), node.mtime));
        Some((record.seq, record.blob, record.size, shown))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one record")]
    fn import(
        &mut self,
        path: &WsPath,
        op: Op,
        entry: &Entry,
        body: Option<&Here>,
        base: Option<Bytes>,
        now: Now,
        changes: &mut Changes,
    ) -> Result<(), String> {
        let is_dir = matches!(op, Op::MakeDir | Op::RemoveDir);
        if self.rules.is_local_only(path, is_dir) {
            return Err("an ignore rule keeps the path on this machine".to_owned());
        }
        let there = self.tree.resolve(path);
        let found = there.and_then(|ino| self.tree.get(ino)).map(Node::is_dir);
        match (op, found) {
            (Op::Put | Op::Meta | Op::Delete, Some(true)) => {
                return Err("a folder has its name here".to_owned());
            }
            (Op::MakeDir | Op::RemoveDir, Some(false)) => {
                return Err("a file has its name here".to_owned());
            }
            _ => {}
        }
        let mut change = Change {
            path: path.clone(),
            op,
            ino: there,
            base: entry.base.base(),
            base_content: None,
            moved_to: None,
            blob: None,
            size: 0,
            held_until: None,
            is_known_there: entry.base != EntryBase::Absent,
        };
        match op {
            Op::Put => {
                let ino = self.import_file(path, there, entry, body, now, changes)?;
                change.ino = Some(ino);
                if let Some(Here { content, size, .. }) = body {
                    change.size = *size;
                    change.blob = match content {
                        Content::Blob(blob) => Some(*blob),
                        Content::Empty | Content::Remote | Content::File(_) | Content::Damaged => {
                            None
                        }
                    };
                }
            }
            Op::Meta => {
                let Some(node) = there.and_then(|ino| self.tree.get_mut(ino)) else {
                    return self.was_imported(entry, changes);
                };
                node.mode = entry.mode.unwrap_or(node.mode) & 0o7777;
                node.mtime = entry.mtime.unwrap_or(node.mtime);
                let ino = node.ino;
                self.put_node(ino, changes);
                changes.invalidations.push(super::Invalidation::Node(ino));
            }
            Op::MakeDir => {
                let made = self.folder_at(path, now, changes);
                let Some(ino) = made else {
                    return Err("a file has the name of its folder".to_owned());
                };
                if let Some(node) = self.tree.get_mut(ino) {
                    node.kind = Kind::Dir { explicit: true };
                    node.mode = entry.mode.unwrap_or(node.mode) & 0o7777;
                }
                self.put_node(ino, changes);
                change.ino = Some(ino);
            }
            Op::Delete | Op::RemoveDir => {
                let Some(ino) = there else { return self.was_imported(entry, changes) };
                if self.tree.children(ino).is_some_and(|children| !children.is_empty()) {
                    return Err("the folder holds entries here".to_owned());
                }
                self.take_out(ino, now, changes);
                change.ino = None;
                let moved_to = entry.moved_to.as_deref().and_then(|at| WsPath::parse(at).ok());
                change.moved_to = moved_to.and_then(|path| self.tree.resolve(&path));
            }
        }
        change.base_content = base.map(|bytes| {
            let blob = BlobId(self.take_id(&mut changes.rows));
            let digest = Some(Digest::of(&bytes));
            changes.rows.push(Row::PutBlob(blob, bytes));
            BaseContent { blob, digest }
        });
        self.record(change, now, changes);
        let sent = entry.sent.iter().filter_map(|hex| Digest::parse(hex));
        let sent: Vec<Digest> = sent.take(crate::record::SENT_MAX).collect();
        self.outbox.update(path, &mut changes.rows, |slot| {
            slot.record.sent = sent;
            slot.record.attempts = entry.attempts;
        });
        self.was_imported(entry, changes)
    }

    fn was_imported(&mut self, entry: &Entry, changes: &mut Changes) -> Result<(), String> {
        changes.rows.push(Row::PutImported(entry.id.clone()));
        self.imported.insert(entry.id.clone());
        Ok(())
    }

    fn import_file(
        &mut self,
        path: &WsPath,
        there: Option<Ino>,
        entry: &Entry,
        body: Option<&Here>,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Ino, String> {
        let kind = match (&entry.symlink, body) {
            (Some(target), _) => Kind::Symlink { target: Arc::from(target.as_str()) },
            (None, Some(Here { content, size, small })) => {
                if let (Content::Blob(blob), Some(bytes)) = (content, small) {
                    changes.rows.push(Row::PutBlob(*blob, bytes.clone()));
                }
                Kind::File(FileBody { content: *content, size: *size, exact: true })
            }
            (None, None) => return Err("it comes without its bytes".to_owned()),
        };
        let at = entry.mtime.unwrap_or(now.wall);
        let ino = if let Some(ino) = there {
            let Some(node) = self.tree.get_mut(ino) else { return Err("it is gone".to_owned()) };
            let old = node.body().map(|body| body.content);
            node.kind = kind;
            node.mtime = at;
            node.ctime = now.wall;
            node.mode = entry.mode.unwrap_or(node.mode) & 0o7777;
            if let Some(old) = old {
                self.release_content(old, changes);
            }
            ino
        } else {
            let folder = path.parent().ok_or("it has no folder")?;
            let parent =
                self.folder_at(&folder, now, changes).ok_or("a file has the name of its folder")?;
            let ino = Ino(self.take_id(&mut changes.rows));
            self.tree.insert(Node {
                ino,
                parent,
                name: Arc::from(path.name().unwrap_or_default()),
                kind,
                mode: entry.mode.unwrap_or(0o644) & 0o7777,
                uid: self.settings.uid,
                gid: self.settings.gid,
                atime: at,
                mtime: at,
                ctime: now.wall,
                synced: None,
                origin: None,
                local_only: false,
            });
            let name = Arc::from(path.name().unwrap_or_default());
            changes.invalidations.push(super::Invalidation::Entry { parent, name });
            ino
        };
        if let Some(Here { content, .. }) = body {
            self.own(*content, ino);
        }
        self.put_node(ino, changes);
        changes.invalidations.push(super::Invalidation::Node(ino));
        Ok(ino)
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, String> {
    let file = open(folder, MANIFEST)
        .map_err(|error| format!("{} is no finished export: {error}", folder.display()))?;
    let mut text = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| format!("{MANIFEST} cannot be understood: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!(
            "{MANIFEST} has form {}, this program knows {FORMAT}",
            manifest.format
        ));
    }
    Ok(manifest)
}

/// Opens a file beside the manifest: one that lies there itself, under a plain name.
fn open(folder: &Path, name: &str) -> Result<File, String> {
    crate::path::check_name(name).map_err(|error| format!("{name:?}: {error}"))?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(folder.join(name))
        .map_err(|error| format!("{name}: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("{name}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{name} is not a file"));
    }
    Ok(file)
}

fn read_small(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut file = open(folder, name)?.take(SMALL_MAX + 1);
    file.read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    if bytes.len() as u64 > SMALL_MAX {
        return Err(format!("{name} is too large"));
    }
    Ok(bytes)
}

fn copy(from: &mut File, to: &WorkingFile) -> io::Result<(u64, Digest)> {
    let (mut hasher, mut size, mut buffer) = (Hasher::default(), 0, vec![0; 256 << 10]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        to.write(size, &buffer[..read])?;
        size += read as u64;
    }
    Ok((size, hasher.finish()))
}
