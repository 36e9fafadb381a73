//! Calls on a mount: what the filesystem does with the engine for each, and what the reference says.

use std::time::Duration;

use super::checks::Cause;
use super::reference::{Displaced, Reader};
use super::remote::{Bytes, body};
use super::story::{Body, Call};
use super::texts::with_line;
use super::world::World;
use crate::engine::local::{Creator, Sealed, SetAttributes};
use crate::engine::rename::RenameMode;
use crate::node::{BlobId, Content, FileBody, FileId, Ino, Kind};
use crate::path::WsPath;
use crate::store::Row;

const CREATOR: Creator = Creator { uid: 0, gid: 0, mode: 0o644 };

/// How long a changed file that stays open is held back.
const OPEN_HOLD: Duration = Duration::from_secs(5);

/// Length of a file that is in a working file, and too large to travel with others.
const LARGE: u64 = 300_000;

impl World {
    pub(super) fn call(&mut self, at: usize, call: Call) {
        match call {
            Call::Write { to, how } => self.write(at, &to.path(), how),
            Call::MakeDir(place) => self.make_dir(at, &place.path()),
            Call::Remove(place) => self.remove(at, &place.path()),
            Call::Rename { from, to } => self.rename(at, &from.path(), &to.path()),
            Call::Exchange { one, other } => self.exchange(at, &one.path(), &other.path()),
            Call::ChangeMode(place) => self.change_mode(at, &place.path()),
            Call::Read(place) => {
                if let Some(ino) = self.mounts[at].core.file_at(&place.path()) {
                    self.read_content(at, ino);
                }
            }
        }
    }

    /// Asks the reference what the call does. `None` when it must be refused.
    pub(super) fn refer(&mut self, at: usize, call: impl FnOnce(&mut Reader) -> Displaced) -> bool {
        let before = self.mounts[at].reader.clone();
        let Some(displaced) = call(&mut self.mounts[at].reader) else {
            self.mounts[at].reader = before;
            return false;
        };
        self.superseded.extend(displaced);
        self.note_shown(at, &before);
        true
    }

    fn folder_of(&self, at: usize, path: &WsPath) -> Option<(Ino, String)> {
        let parent = self.mounts[at].core.tree.resolve(&path.parent()?)?;
        self.mounts[at].core.tree.children(parent)?;
        Some((parent, path.name()?.to_owned()))
    }

    fn write(&mut self, at: usize, path: &WsPath, how: Body) {
        let place = self.folder_of(at, path);
        let there = self.mounts[at].core.tree.resolve(path);
        let content = there.and_then(|ino| self.mounts[at].core.tree.get(ino)?.body().copied());
        let in_place = match content.map(|body| body.content) {
            Some(Content::File(file)) => there.map(|ino| (ino, file)),
            _ => None,
        };
        let size = match how {
            Body::Empty => 0,
            Body::Small | Body::Open | Body::Line(_) => 8,
            Body::Large => LARGE,
        };
        // Whoever changes a line has read the file.
        let read = match (how, there) {
            (Body::Line(_), Some(ino)) if content.is_some() => {
                if !self.fetch(at, ino) {
                    return;
                }
                self.local_bytes(at, ino).filter(|bytes| *bytes != 0)
            }
            _ => None,
        };
        let offered = in_place.and_then(|(ino, _)| self.offer_base(at, ino));
        let mtime = self.now.wall;
        if let Some((ino, file)) = in_place {
            // The outbox knows of a working file's change before its first byte is there.
            let content = Content::File(file);
            let held_until = Some(self.now.mono + OPEN_HOLD);
            let sealed = Sealed { content, size, mtime, ctime: mtime, held_until };
            self.step(at, &Cause::Nothing, |core, now, changes| {
                core.seal(ino, &sealed, now, changes);
            });
        }
        let bytes = match (how, read) {
            (Body::Empty, _) => 0,
            (Body::Line(line), Some(read)) => with_line(read, line, self.new_line()),
            _ => self.new_bytes(),
        };
        let is_possible = self.refer(at, |reader| reader.write(path, bytes));
        let is_folder = there.is_some() && content.is_none();
        assert_eq!(is_possible, place.is_some() && !is_folder, "write {path}");
        let Some((parent, name)) = place.filter(|_| is_possible) else { return };
        self.tell(|| format!("{path} = {bytes}"));
        // What once was in a working file stays in it.
        let content = match (how, in_place) {
            (_, Some((_, file))) => Content::File(file),
            (Body::Empty, None) => Content::Empty,
            (Body::Large, None) => Content::File(FileId(self.take_id(at))),
            (Body::Small | Body::Open | Body::Line(_), None) => {
                Content::Blob(BlobId(self.take_id(at)))
            }
        };
        if let Content::File(file) = content {
            self.mounts[at].disk.files.insert(file, bytes);
        }
        let held_until = (how == Body::Open).then_some(self.now.mono + OPEN_HOLD);
        let sealed = Sealed { content, size, mtime, ctime: mtime, held_until };
        self.written.extend((bytes != 0).then_some((bytes, at)));
        self.step(at, &Cause::Nothing, |core, now, changes| {
            let ino = there.unwrap_or_else(|| {
                let empty = FileBody { content: Content::Empty, size: 0, exact: true };
                let kind = Kind::File(empty);
                core.create(parent, &name, kind, CREATOR, now, changes).unwrap()
            });
            if let Content::Blob(blob) = content {
                changes.rows.push(Row::PutBlob(blob, body(bytes)));
            }
            core.seal(ino, &sealed, now, changes);
        });
        self.withdraw_base(at, offered);
    }

    fn make_dir(&mut self, at: usize, path: &WsPath) {
        let place = self.folder_of(at, path);
        let is_possible = self.refer(at, |reader| reader.make_dir(path));
        let Some((parent, name)) = place else { return assert!(!is_possible, "mkdir {path}") };
        let kind = Kind::Dir { explicit: true };
        let made = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.create(parent, &name, kind, CREATOR, now, changes)
        });
        assert_eq!(made.is_ok(), is_possible, "mkdir {path}: {made:?}");
    }

    fn remove(&mut self, at: usize, path: &WsPath) {
        let place = self.folder_of(at, path);
        let is_possible = self.refer(at, |reader| reader.remove(path));
        let Some((parent, name)) = place else { return assert!(!is_possible, "rm {path}") };
        let gone = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.unlink(parent, &name, false, now, changes)
                .or_else(|_dir| core.rmdir(parent, &name, now, changes))
        });
        assert_eq!(gone.is_ok(), is_possible, "rm {path}: {gone:?}");
    }

    fn rename(&mut self, at: usize, from: &WsPath, to: &WsPath) {
        let places = self.folder_of(at, from).zip(self.folder_of(at, to));
        let is_possible = self.refer(at, |reader| reader.rename(from, to));
        let Some((one, other)) = places else { return assert!(!is_possible, "mv {from} {to}") };
        self.move_entry(at, &one, &other, RenameMode::Replace, is_possible);
    }

    fn exchange(&mut self, at: usize, one: &WsPath, other: &WsPath) {
        let Some(places) = self.folder_of(at, one).zip(self.folder_of(at, other)) else { return };
        // The filesystem fetches both sides of an exchange first.
        let tops = [one, other].map(|path| self.mounts[at].core.tree.resolve(path));
        if !tops.into_iter().flatten().all(|top| self.fetch_below(at, top)) {
            return;
        }
        let is_possible = self.refer(at, |reader| reader.exchange(one, other));
        self.move_entry(at, &places.0, &places.1, RenameMode::Exchange, is_possible);
    }

    fn move_entry(
        &mut self,
        at: usize,
        from: &(Ino, String),
        to: &(Ino, String),
        mode: RenameMode,
        is_possible: bool,
    ) {
        let moved = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.rename((from.0, &from.1), (to.0, &to.1), mode, |_| false, now, changes)
        });
        assert_eq!(moved.is_ok(), is_possible, "mv {from:?} {to:?} {mode:?}: {moved:?}");
    }

    fn change_mode(&mut self, at: usize, path: &WsPath) {
        let Some(ino) = self.mounts[at].core.tree.resolve(path) else { return };
        let set = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
        let set = self.step(at, &Cause::Nothing, |core, now, changes| {
            core.set_attributes(ino, set, now, changes)
        });
        assert_eq!(set, Ok(()), "chmod {path}");
    }

    fn fetch_below(&mut self, at: usize, top: Ino) -> bool {
        let below = self.mounts[at].core.tree.subtree(top);
        below.into_iter().all(|ino| {
            let node = self.mounts[at].core.tree.get(ino);
            node.is_none_or(|node| node.body().is_none()) || self.fetch(at, ino)
        })
    }

    /// What is in a node's content now; it must be here.
    pub(super) fn local_bytes(&self, at: usize, ino: Ino) -> Option<Bytes> {
        let mount = &self.mounts[at];
        match mount.core.tree.get(ino)?.body()?.content {
            Content::Remote | Content::Damaged => None,
            Content::Empty | Content::Blob(_) | Content::File(_) => {
                mount.bytes_of(ino, &self.remote)
            }
        }
    }
}
