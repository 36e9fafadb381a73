//! Records without a file: what they are to store had its name taken by another file while a request
//! was under way, and that one was given up.
//!
//! A small content is still in the store, and is sent or kept like any other. One that was in the node
//! alone went with it, as whoever took its name wanted; then there is nothing left to send. Pure.

use super::core::{Changes, Core};
use super::plan::Item;
use crate::node::Ino;
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState};

impl Core {
    /// Whether the bytes that a record is to store are not under its name any more: nobody has them, or
    /// they have another name, and a record there.
    pub(super) fn is_orphan(&self, record: &Record) -> bool {
        record.op == Op::Put
            && record.blob.is_none()
            && record.ino.is_none_or(|ino| self.tree.path_of(ino).as_ref() != Some(&record.path))
    }

    /// Whether the file of an item was renamed since that was handed out.
    pub(super) fn moved_on(&self, item: &Item) -> bool {
        item.ino.is_some_and(|ino| self.tree.path_of(ino).is_some_and(|path| path != item.path))
    }

    /// Ends the current record of a path if it is such a one. What is in a request waits for its end.
    pub(super) fn end_orphan(&mut self, path: &WsPath, changes: &mut Changes) {
        let Some(record) = self.outbox.lane(path).map(|lane| &lane.current.record) else { return };
        if record.state != RecordState::Flight && self.is_orphan(record) {
            tracing::info!(%path, "replaced before it was sent, and what replaced it is gone");
            self.drop_record(path, changes);
            self.note_recheck(path, changes);
        }
    }

    /// A node is gone, and records may name it still.
    pub(super) fn end_orphans_of(&mut self, ino: Ino, changes: &mut Changes) {
        if !self.outbox.has_put(ino) {
            return;
        }
        let names = |record: &Record| record.ino == Some(ino);
        let lanes = self.outbox.lanes().filter(|(_, lane)| names(&lane.current.record));
        let paths: Vec<WsPath> = lanes.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.end_orphan(&path, changes);
        }
    }

    /// After a restart what was in a request is not any more.
    pub(super) fn end_orphans(&mut self, changes: &mut Changes) {
        let lanes = self.outbox.lanes().filter(|(_, lane)| self.is_orphan(&lane.current.record));
        let paths: Vec<WsPath> = lanes.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.end_orphan(&path, changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::engine::core::{Now, Settings};
    use crate::engine::local::{Creator, Sealed};
    use crate::engine::plan::Task;
    use crate::engine::rename::RenameMode;
    use crate::node::{Content, FileBody, FileId, Kind, ROOT};
    use crate::remote::{Capabilities, EventChange, Metadata, RemoteError, RemoteFile, Size};
    use crate::revision::Revision;
    use crate::store::Loaded;

    const CREATOR: Creator = Creator { uid: 0, gid: 0, mode: 0o644 };

    /// A large file on its way to the server, and the name taken by one whose bytes are gone.
    fn replaced_by_what_is_gone() -> (Core, Item, Now) {
        let mut now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        let (mut core, _) = Core::new(Loaded::default(), Settings::default(), now, 1);
        let mut changes = Changes::default();
        core.set_capabilities(Capabilities::default(), &mut changes);
        let body = FileBody { content: Content::Empty, size: 0, exact: true };
        let ino = core.create(ROOT, "b", Kind::File(body), CREATOR, now, &mut changes).unwrap();
        let (content, wall) = (Content::File(FileId(77)), now.wall);
        let size = 300_000;
        let sealed = Sealed { content, size, mtime: wall, ctime: wall, held_until: None };
        core.seal(ino, &sealed, now, &mut changes);
        now.mono += Duration::from_secs(1);
        let plan = core.plan(now);
        let item = plan.tasks.into_iter().find_map(|task| match task {
            Task::Single(item) => Some(*item),
            Task::Bulk(mut items) => items.pop(),
            _ => None,
        });
        let stored = EventChange::Stored(RemoteFile {
            path: WsPath::parse("/a").unwrap(),
            revision: Revision::new("rev_1"),
            digest: None,
            size: Size::Exact(8),
            edited_at: None,
            metadata: Metadata::default(),
            body: None,
        });
        core.apply_event(&stored, true, now, &mut changes);
        let (from, to) = ((ROOT, "a"), (ROOT, "b"));
        core.rename(from, to, RenameMode::Replace, |_| false, now, &mut changes).unwrap();
        let moved = core.tree.child(ROOT, "b").unwrap();
        core.content_lost(moved, &mut changes);
        (core, item.unwrap(), now)
    }

    /// Whether anything is to be stored, and whether the path is to be read.
    fn left(core: &Core) -> (bool, bool) {
        let path = WsPath::parse("/b").unwrap();
        (core.outbox.lane(&path).is_some(), core.recheck.contains(&path))
    }

    #[test]
    fn what_nobody_has_any_more_is_given_up_when_its_request_is_over() {
        let (mut core, item, now) = replaced_by_what_is_gone();
        assert_eq!(left(&core), (true, true), "its request is under way");
        let lost = RemoteError::Unreachable { message: String::new(), maybe_applied: true };
        let mut changes = Changes::default();
        core.failed(vec![item], &lost, 0, now, &mut changes);
        assert_eq!(left(&core), (false, true));

        let (mut core, item, now) = replaced_by_what_is_gone();
        core.park(&item.path, "forbidden", "no", now, &mut changes);
        assert_eq!(left(&core), (false, true));

        let (mut core, item, now) = replaced_by_what_is_gone();
        let theirs = RemoteFile {
            path: item.path.clone(),
            revision: Revision::new("rev_2"),
            digest: Some(crate::digest::Digest::of(b"theirs")),
            size: Size::Exact(6),
            edited_at: None,
            metadata: Metadata::default(),
            body: None,
        };
        let keep = core.settled(&item.path, item.seq, Some(&theirs), now, &mut changes);
        assert_eq!((keep, left(&core)), (None, (false, true)));
    }
}
