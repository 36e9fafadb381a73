//! What the last run made and did not come to record.
//!
//! A file is recorded with its first content, at `close`. One that was created, had its mode changed, and
//! was not closed when the daemon was killed has a name and no record: nothing would ever send it, and
//! nobody else see it.

use super::core::{Changes, Core, Now};
use crate::node::{Ino, Kind};
use crate::path::WsPath;
use crate::record::Op;

impl Core {
    /// Records files that the remote has not, and that nothing in the outbox is about to send.
    pub fn record_unrecorded(&mut self, now: Now, changes: &mut Changes) {
        let unrecorded: Vec<(Ino, WsPath)> = self
            .tree
            .nodes()
            .filter(|node| {
                let is_file = matches!(node.kind, Kind::File(_));
                is_file && node.synced.is_none() && !node.local_only
            })
            .filter(|node| !self.outbox.has_put(node.ino))
            .filter_map(|node| Some((node.ino, self.tree.path_of(node.ino)?)))
            .filter(|(_, path)| self.outbox.lane(path).is_none())
            .collect();
        for (ino, path) in unrecorded {
            tracing::info!(%path, "created and not recorded, recorded now");
            self.record_node(ino, &path, Op::Put, None, now, changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::engine::core::Settings;
    use crate::engine::local::Creator;
    use crate::node::{Content, FileBody, ROOT};
    use crate::store::{Loaded, Row};

    /// Created, and killed before it was closed.
    #[test]
    fn a_created_file_that_was_never_closed_is_sent_after_the_start() {
        let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        let (mut core, _) = Core::new(Loaded::default(), Settings::default(), now, 1);
        let mut changes = Changes::default();
        let creator = Creator { uid: 1, gid: 1, mode: 0o644 };
        let body = FileBody { content: Content::Empty, size: 0, exact: true };
        let ino = core.create(ROOT, "f", Kind::File(body), creator, now, &mut changes).unwrap();
        // As a change of its mode does.
        core.put_node(ino, &mut changes);
        assert!(core.outbox.is_empty());
        let nodes = changes.rows.iter().filter_map(|row| match row {
            Row::PutNode(node) => Some((**node).clone()),
            _ => None,
        });
        let loaded = Loaded { nodes: nodes.collect(), ..Loaded::default() };
        let (core, changes) = Core::new(loaded, Settings::default(), now, 1);
        let records: Vec<_> = core.outbox.lanes().map(|(path, _)| path.as_str()).collect();
        assert_eq!(records, ["/f"]);
        assert!(changes.rows.iter().any(|row| matches!(row, Row::PutRecord(..))));
    }
}
