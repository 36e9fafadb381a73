//! Eviction: content that the server has too is dropped when local content takes too much disk.
//!
//! Only what is clean goes: it derives from a known revision, nothing of it is pending, nobody has
//! it open, and no rule keeps it here. Unsent bytes are never looked at. Oldest first.

use std::sync::Arc;

use super::core::{Changes, Core};
use super::shared::Shared;
use crate::node::{Content, Ino, Node};

impl Core {
    /// Whether the node's content may be dropped: the remote can give it again.
    fn is_evictable(&self, node: &Node) -> bool {
        let here = node
            .body()
            .is_some_and(|body| matches!(body.content, Content::Blob(_) | Content::File(_)));
        let known = node.synced.as_ref().is_some_and(|synced| synced.revision.is_some());
        here && known
            && !node.local_only
            && node.origin.is_none()
            && self.tree.path_of(node.ino).is_some_and(|path| !self.is_pending(&path))
    }

    /// Nodes whose content may be dropped, those that changed longest ago first.
    fn evictable(&self) -> Vec<Ino> {
        let mut nodes: Vec<&Node> =
            self.tree.nodes().filter(|node| self.is_evictable(node)).collect();
        nodes.sort_by_key(|node| node.ctime);
        nodes.into_iter().map(|node| node.ino).collect()
    }

    /// Drops the content of a node, if it still may go. Returns the bytes freed.
    pub(super) fn evict(&mut self, ino: Ino, changes: &mut Changes) -> u64 {
        if !self.tree.get(ino).is_some_and(|node| self.is_evictable(node)) {
            return 0;
        }
        let Some(body) = self.tree.get_mut(ino).and_then(Node::body_mut) else { return 0 };
        let old = std::mem::replace(&mut body.content, Content::Remote);
        let freed = body.size;
        self.put_node(ino, changes);
        self.release_content(old, changes);
        freed
    }
}

impl Shared {
    /// Drops clean content until local content takes at most `bytes_max`. *Blocking:* disk.
    pub(super) fn make_room(self: &Arc<Self>, bytes_max: u64) {
        // The database keeps the room of what was dropped and uses it again.
        let free = self.store.free_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "room in the state database");
            0
        });
        let taken = self.contents.disk_bytes().saturating_sub(free);
        let Some(mut excess) = taken.checked_sub(bytes_max).filter(|excess| *excess > 0) else {
            return;
        };
        let candidates = self.core().evictable();
        failpoint!("evict.begin");
        let mut evicted = 0_u64;
        for ino in candidates {
            if self.contents.open.is_open(ino) {
                continue;
            }
            let freed = self.contents.open.with(ino, |state| {
                if state.is_quiet() && !self.contents.open.is_open(ino) {
                    self.step(|core, _, changes| core.evict(ino, changes))
                } else {
                    0
                }
            });
            evicted += u64::from(freed > 0);
            excess = excess.saturating_sub(freed);
            if excess == 0 {
                break;
            }
        }
        failpoint!("evict.dropped");
        tracing::info!(evicted, taken, "local content was over its bound");
        self.contents.empty_trash();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::engine::core::{Now, Settings};
    use crate::engine::local::{Creator, Sealed};
    use crate::node::{BlobId, FileBody, Kind, ROOT, Synced};
    use crate::revision::Revision;
    use crate::store::Loaded;

    #[test]
    fn only_what_the_server_has_too_is_dropped() {
        let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        let (mut core, _) = Core::new(Loaded::default(), Settings::default(), now, 1);
        let changes = &mut Changes::default();
        let mut write = |core: &mut Core, name: &str| {
            let empty = FileBody { content: Content::Empty, size: 0, exact: true };
            let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
            let ino = core.create(ROOT, name, Kind::File(empty), creator, now, changes).unwrap();
            let content = Content::Blob(BlobId(core.take_id(&mut changes.rows)));
            let sealed =
                Sealed { content, size: 5, mtime: now.wall, ctime: now.wall, held_until: None };
            core.seal(ino, &sealed, now, changes);
            ino
        };
        let clean = write(&mut core, "clean");
        let unsent = write(&mut core, "unsent");
        let local = write(&mut core, ".git");
        let changes = &mut Changes::default();
        let path = core.tree.path_of(clean).unwrap();
        core.drop_record(&path, changes);
        for ino in [clean, unsent] {
            let revision = Revision::new("rev_1");
            core.tree.get_mut(ino).unwrap().synced =
                Some(Box::new(Synced { revision, ..Synced::default() }));
        }
        assert_eq!(core.evictable(), [clean]);
        assert_eq!((core.evict(clean, changes), core.evict(unsent, changes)), (5, 0));
        let content = |ino| core.tree.get(ino).unwrap().body().unwrap().content;
        assert_eq!(content(clean), Content::Remote);
        assert_ne!(content(local), Content::Remote);
    }
}
