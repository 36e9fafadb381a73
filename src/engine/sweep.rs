//! What the start makes of what the last run left: names without a folder, records without a node,
//! contents that are named and not there, and work of which the record was lost.
//!
//! Pure: what was found is an argument. Nothing that only this machine has is given up: it gets its
//! place back, or one below [`FOUND`], and is recorded again where it is not known to be sent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::core::{Changes, Core, Now};
use crate::digest::Digest;
use crate::node::{BlobId, Content, FileBody, Ino, Kind, Node};
use crate::path::WsPath;
use crate::record::Op;
use crate::store::Row;

/// The folder for what is found without a place.
pub const FOUND: &str = "/lost+found";

impl Core {
    /// Gives nodes whose folder is not there a place: the one that their record names, else one
    /// below [`FOUND`]. What the remote has is left out; a listing brings it back.
    pub fn bring_home(&mut self, lost: Vec<Node>, now: Now, changes: &mut Changes) -> usize {
        let places: BTreeMap<Ino, WsPath> = self
            .outbox
            .lanes()
            .flat_map(|(path, lane)| lane.records().map(move |record| (path, record)))
            .filter(|(_, record)| record.op == Op::Put || record.op == Op::Meta)
            .filter_map(|(path, record)| Some((record.ino?, path.clone())))
            .collect();
        let mut found = 0;
        for mut node in lost {
            changes.rows.push(Row::DeleteNode(node.ino));
            let place = places.get(&node.ino).cloned();
            let elsewhere = node.synced.is_some() && place.is_none() && !node.local_only;
            if node.is_dir() || elsewhere {
                continue;
            }
            let content = node.body().map(|body| body.content);
            if matches!(content, Some(Content::Remote)) && node.origin.is_none() {
                continue;
            }
            let name = format!("{FOUND}/{}-{}", node.ino.0, node.name);
            let free = place.filter(|path| self.tree.resolve(path).is_none());
            let Some(path) = free.or_else(|| WsPath::parse(&name).ok()) else { continue };
            let Some((folder, name)) = path.parent().zip(path.name().map(Arc::from)) else {
                continue;
            };
            let Some(parent) = self.folder_at(&folder, now, changes) else { continue };
            let ino = node.ino;
            (node.parent, node.name) = (parent, name);
            if let Some(content) = content {
                self.own(content, ino);
            }
            self.tree.insert(node);
            self.put_node(ino, changes);
            if self.outbox.lane(&path).is_none() {
                self.record_node(ino, &path, Op::Put, None, now, changes);
            }
            tracing::error!(%path, "a name without its folder has a place again");
            found += 1;
        }
        found
    }

    /// Makes the node of each record anew that lost it and still has its bytes.
    pub fn remake_nodes(
        &mut self,
        blobs: &HashSet<BlobId>,
        now: Now,
        changes: &mut Changes,
    ) -> usize {
        let orphans: Vec<(WsPath, Ino, BlobId, u64)> = self
            .outbox
            .lanes()
            .filter_map(|(path, lane)| {
                let record = lane.records().last().filter(|record| record.op == Op::Put)?;
                let (ino, blob) = (record.ino?, record.blob?);
                let lacks = self.tree.get(ino).is_none() && self.tree.resolve(path).is_none();
                (lacks && blobs.contains(&blob)).then(|| (path.clone(), ino, blob, record.size))
            })
            .collect();
        let mut made = 0;
        for (path, ino, blob, size) in orphans {
            let Some((folder, name)) = path.parent().zip(path.name().map(Arc::from)) else {
                continue;
            };
            let Some(parent) = self.folder_at(&folder, now, changes) else { continue };
            let body = FileBody { content: Content::Blob(blob), size, exact: true };
            self.own(body.content, ino);
            self.tree.insert(Node {
                ino,
                parent,
                name,
                kind: Kind::File(body),
                mode: 0o644,
                uid: self.settings.uid,
                gid: self.settings.gid,
                atime: now.wall,
                mtime: now.wall,
                ctime: now.wall,
                synced: None,
                origin: None,
                local_only: false,
            });
            self.put_node(ino, changes);
            tracing::error!(%path, "a record without its file has one again");
            made += 1;
        }
        made
    }

    /// Small contents that the tree names and that are not among `blobs`.
    #[must_use]
    pub fn missing_blobs(&self, blobs: &HashSet<BlobId>) -> Vec<Ino> {
        let missing = |node: &&Node| {
            let content = node.body().map(|body| body.content);
            matches!(content, Some(Content::Blob(blob)) if !blobs.contains(&blob))
        };
        self.tree.nodes().filter(missing).map(|node| node.ino).collect()
    }

    /// Nodes whose bytes are here and of which it is not known whether they were sent, as no record
    /// says so: records were lost.
    #[must_use]
    pub fn unsure(&self) -> Vec<(Ino, Content)> {
        let unsure = |node: &Node| {
            let path = self.tree.path_of(node.ino)?;
            if node.local_only || self.outbox.lane(&path).is_some() {
                return None;
            }
            let content = node.body()?.content;
            matches!(content, Content::Blob(_) | Content::File(_) | Content::Empty)
                .then_some((node.ino, content))
        };
        self.tree.nodes().filter_map(unsure).collect()
    }

    /// Records a content again unless its digest is that of the version it derives from.
    pub fn record_unsure(
        &mut self,
        ino: Ino,
        digest: Option<Digest>,
        now: Now,
        changes: &mut Changes,
    ) -> bool {
        let Some(node) = self.tree.get(ino) else { return false };
        let known = node.synced.as_ref().and_then(|synced| synced.digest);
        if digest.is_some() && known == digest {
            return false;
        }
        let Some(path) = self.tree.path_of(ino) else { return false };
        tracing::error!(%path, "its record was lost, recorded again");
        self.record_node(ino, &path, Op::Put, None, now, changes);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::engine::core::Settings;
    use crate::engine::local::{Creator, Sealed};
    use crate::namespace::Keep;
    use crate::node::{ROOT, Synced};
    use crate::revision::Revision;
    use crate::store::Loaded;

    fn now() -> Now {
        Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH }
    }

    fn core() -> Core {
        Core::new(Loaded::default(), Settings::default(), now(), 1).0
    }

    fn write(core: &mut Core, parent: Ino, name: &str) -> Ino {
        let changes = &mut Changes::default();
        let body = FileBody { content: Content::Empty, size: 0, exact: true };
        let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
        let ino = core.create(parent, name, Kind::File(body), creator, now(), changes).unwrap();
        let content = Content::Blob(BlobId(core.take_id(&mut changes.rows)));
        let sealed =
            Sealed { content, size: 5, mtime: now().wall, ctime: now().wall, held_until: None };
        core.seal(ino, &sealed, now(), changes);
        ino
    }

    fn blob(core: &Core, ino: Ino) -> BlobId {
        match core.tree.get(ino).unwrap().body().unwrap().content {
            Content::Blob(blob) => blob,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_without_its_folder_goes_where_its_record_says_or_is_found() {
        let mut core = core();
        let changes = &mut Changes::default();
        let path = WsPath::parse("/d/recorded").unwrap();
        let folder = core.folder_at(&path.parent().unwrap(), now(), changes).unwrap();
        let recorded = write(&mut core, folder, "recorded");
        let unsent = write(&mut core, folder, "unsent");
        let sent = write(&mut core, folder, "sent");
        for name in ["unsent", "sent"] {
            let path = WsPath::parse(&format!("/d/{name}")).unwrap();
            core.drop_record(&path, changes);
        }
        core.tree.get_mut(sent).unwrap().synced =
            Some(Box::new(Synced { revision: Revision::new("rev_1"), ..Synced::default() }));
        let lost: Vec<Node> = [recorded, unsent, sent]
            .into_iter()
            .map(|ino| core.tree.remove(ino, Keep::Nothing).unwrap())
            .collect();
        core.tree.remove(folder, Keep::Nothing);
        assert_eq!(core.bring_home(lost, now(), changes), 2);
        assert_eq!(core.tree.path_of(recorded), Some(path));
        let found = core.tree.path_of(unsent).unwrap();
        assert_eq!(found.as_str(), format!("{FOUND}/{}-unsent", unsent.0));
        // It is recorded again, and what the remote has is not here.
        assert!(core.outbox.lane(&found).is_some());
        assert!(core.tree.get(sent).is_none());
    }

    #[test]
    fn a_record_without_its_node_has_one_again() {
        let mut core = core();
        let changes = &mut Changes::default();
        let ino = write(&mut core, ROOT, "f");
        let content = blob(&core, ino);
        core.tree.remove(ino, Keep::Nothing);
        let blobs = HashSet::from([content]);
        assert_eq!(core.remake_nodes(&HashSet::new(), now(), changes), 0);
        assert_eq!(core.remake_nodes(&blobs, now(), changes), 1);
        assert_eq!(core.tree.path_of(ino), WsPath::parse("/f").ok());
        assert_eq!(core.missing_blobs(&HashSet::new()), [ino]);
        assert_eq!(core.missing_blobs(&blobs), []);
    }

    #[test]
    fn what_is_not_known_to_be_sent_is_recorded_again() {
        let mut core = core();
        let changes = &mut Changes::default();
        let (sent, unsent) = (write(&mut core, ROOT, "sent"), write(&mut core, ROOT, "unsent"));
        assert!(core.unsure().is_empty());
        for (ino, name) in [(sent, "/sent"), (unsent, "/unsent")] {
            core.drop_record(&WsPath::parse(name).unwrap(), changes);
            core.tree.get_mut(ino).unwrap().synced =
                Some(Box::new(Synced { digest: Some(Digest::of(b"sent")), ..Synced::default() }));
        }
        assert_eq!(core.unsure().len(), 2);
        assert!(!core.record_unsure(sent, Some(Digest::of(b"sent")), now(), changes));
        assert!(core.record_unsure(unsent, Some(Digest::of(b"newer")), now(), changes));
        assert_eq!(core.outbox.len(), 1);
    }
}
