//! What must hold after every step, and what when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use super::hearing::MUCH_IS_MISSING;
use super::mount::Sent;
use super::plants::Plant;
use super::reference::{Entry, Reader};
use super::remote::{Bytes, Replaced};
use super::world::World;
use crate::engine::core::{Changes, Core, Now};
use crate::node::Content;
use crate::path::WsPath;
use crate::record::{Op, Record, RecordState, Seq, Stage};
use crate::store::Row;

/// Why a reader may see something else after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// It may not. What calls change is in the reference already.
    Nothing,
    /// The remote's state of these paths is taken up.
    News(Vec<WsPath>),
    /// Both sides were kept, theirs takes the name.
    Kept(WsPath),
    /// Both sides were kept, and this takes the name: ours, or a merge.
    Pushed(WsPath, Bytes),
    /// What was to be sent of this path is given up; what it was made from is shown.
    GivenUp(WsPath),
    /// Bytes that only the remote had are gone there.
    Lost,
}

/// What each record was before a step.
type Stages = BTreeMap<Seq, (Stage, Record)>;

fn stages(core: &Core) -> Stages {
    let records = core.outbox.lanes().flat_map(|(_, lane)| lane.records());
    records.map(|record| (record.seq, (record.state.stage(), record.clone()))).collect()
}

impl World {
    /// Takes one step on a mount's engine, commits what it wrote, and checks what must always hold.
    pub(super) fn step<T>(
        &mut self,
        at: usize,
        cause: &Cause,
        act: impl FnOnce(&mut Core, Now, &mut Changes) -> T,
    ) -> T {
        let (now, plant) = (self.now, self.plant);
        let mount = &mut self.mounts[at];
        let before = stages(&mount.core);
        let mut changes = Changes::default();
        let result = act(&mut mount.core, now, &mut changes);
        if plant == Plant::IllegalTurn {
            let turned = changes.rows.iter().find_map(|row| match row {
                Row::PutRecord(record) if record.attempts == 0 => Some(record.path.clone()),
                _ => None,
            });
            if let Some(path) = turned {
                let parked = RecordState::Parked { code: "x".into(), message: String::new() };
                mount.core.outbox.mark(&path, |slot| slot.record.state = parked);
            }
        }
        mount.disk.commit(changes.rows, plant);
        for file in changes.trash {
            mount.disk.files.remove(&file);
        }
        let suspected = self.mounts[at].core.reset_suspected.as_deref();
        let may_doubt = |why| why == MUCH_IS_MISSING || self.remote.epoch() > 0;
        let is_believed = suspected.is_none_or(may_doubt);
        assert!(is_believed, "a server that keeps its promises is believed: {suspected:?}");
        self.check_records(at, &before);
        self.check_disk(at);
        self.check_reader(at, cause, &before);
        self.check_accounts(at);
        result
    }

    /// Records turn as the table says, lanes are whole, and the disk has what memory has.
    fn check_records(&mut self, at: usize, before: &Stages) {
        let mount = &mut self.mounts[at];
        let after = stages(&mount.core);
        for (seq, (stage, record)) in before {
            let now = after.get(seq).map_or(Stage::Ended, |(stage, _)| *stage);
            assert!(stage.may_become(now), "{stage:?} became {now:?}: {record:?}");
            if now == Stage::Ended {
                mount.ended.insert(*seq);
            }
        }
        for (seq, (stage, record)) in &after {
            assert!(!mount.ended.contains(seq), "a record came back: {record:?}");
            let is_new = !before.contains_key(seq);
            assert!(!is_new || *stage == Stage::Waiting, "begins as {stage:?}: {record:?}");
        }
        let mut flying = BTreeSet::new();
        for (path, lane) in mount.core.outbox.lanes() {
            assert_eq!(lane.flaw(), None, "{path}");
            assert!(lane.records().all(|record| record.path == *path), "a record left its lane");
            if lane.current.record.state == RecordState::Flight {
                flying.insert(path);
            }
        }
        let sent = mount.requests.iter().flat_map(|request| &request.items);
        let mut alone = BTreeSet::new();
        for Sent { item, .. } in sent {
            assert!(alone.insert(&item.path), "{} is in two requests", item.path);
        }
        let in_memory: Vec<&Seq> = after.keys().collect();
        let on_disk: Vec<&Seq> = mount.disk.records.keys().collect();
        assert_eq!(in_memory, on_disk, "records in memory and on disk");
    }

    /// What something refers to is there.
    fn check_disk(&self, at: usize) {
        let disk = &self.mounts[at].disk;
        for node in disk.nodes.values() {
            let there = match node.body().map(|body| body.content) {
                Some(Content::Blob(blob)) => disk.blobs.contains_key(&blob),
                Some(Content::File(file)) => disk.files.contains_key(&file),
                Some(Content::Empty | Content::Remote | Content::Damaged) | None => true,
            };
            assert!(there, "the content of a node was freed: {node:?}");
        }
        for record in disk.records.values() {
            let there = record.blobs().all(|blob| disk.blobs.contains_key(&blob));
            assert!(there, "the content of a record was freed: {record:?}");
        }
    }

    /// A reader sees what the reference says; news change only what they are about, never what was
    /// written here and is not accepted, and never to something older.
    fn check_reader(&mut self, at: usize, cause: &Cause, before: &Stages) {
        let mount = &self.mounts[at];
        let seen = mount.view(&self.remote);
        let wanted = &mount.reader;
        let names: BTreeSet<&WsPath> = seen.tree.keys().chain(wanted.tree.keys()).collect();
        let both = |path: &WsPath| (wanted.tree.get(path).copied(), seen.tree.get(path).copied());
        let changed = names.into_iter().map(|path| (path.clone(), both(path)));
        let is_news = |both: &(Option<Entry>, Option<Entry>)| !matches!(both, (Some(was), Some(is)) if was.agrees(*is));
        let changed: Vec<_> = changed.filter(|(_, both)| is_news(both)).collect();
        for (path, both) in changed {
            self.check_change(at, &path, both, cause, before);
        }
        self.take_up(at, seen);
    }

    fn check_change(
        &mut self,
        at: usize,
        path: &WsPath,
        (was, is): (Option<Entry>, Option<Entry>),
        cause: &Cause,
        before: &Stages,
    ) {
        let story = format!("{at}: {path} was {was:?} and is {is:?} after {cause:?}");
        let about = |paths: &[WsPath]| paths.iter().any(|news| news.is_within(path));
        match cause {
            Cause::Nothing => panic!("{story}"),
            Cause::News(paths) => assert!(about(paths), "{story}"),
            Cause::Kept(kept) => assert!(about(std::slice::from_ref(kept)), "{story}"),
            Cause::Pushed(pushed, bytes) => {
                assert!(path == pushed && is == Some(Entry::File(Some(*bytes))), "{story}");
                return;
            }
            Cause::GivenUp(given_up) => {
                assert!(about(std::slice::from_ref(given_up)), "{story}");
                return;
            }
            Cause::Lost => {}
        }
        let is_file = |entry: Option<Entry>| matches!(entry, Some(Entry::File(_)));
        let is_doubted = self.mounts[at].core.reset_suspected.is_some();
        let vanished = is_file(was) && !is_file(is) && *cause != Cause::Lost;
        assert!(!is_doubted || !vanished, "{story}, on the word of a server that forgot");
        let newest = before.values().rev().find(|(_, record)| record.path == *path);
        let ours = matches!(was, Some(Entry::File(_)))
            && newest.is_some_and(|(_, record)| record.op == Op::Put);
        let given_up = matches!(cause, Cause::Kept(_) | Cause::Lost);
        assert!(!ours || given_up, "{story}, and it was not accepted yet");
        let Some(versions) = self.remote.versions.get(path) else {
            assert!(!matches!(is, Some(Entry::File(_))), "{story}, and was never stored there");
            return;
        };
        let old = was.and_then(Entry::bytes);
        let first = versions.iter().position(|version| *version == old && old.is_some());
        let newer = &versions[first.map_or(0, |at| at + 1)..];
        match is {
            // Of ours the server may have had the like before, from somebody else.
            Some(Entry::File(Some(_))) if matches!(cause, Cause::Kept(_)) => {}
            Some(Entry::File(Some(bytes))) => {
                assert!(newer.contains(&Some(bytes)), "{story}, and that is not newer");
            }
            None if first.is_some() => {
                let may_go = newer.contains(&None) || *cause == Cause::Lost;
                assert!(may_go, "{story}, and was never removed");
            }
            Some(Entry::File(None) | Entry::Dir) | None => {}
        }
        let known = self.mounts[at].known.get(path).copied().unwrap_or(0);
        let there = match is {
            Some(Entry::File(Some(bytes))) => Some(bytes),
            None if matches!(was, Some(Entry::File(_))) && known > 0 && *cause != Cause::Lost => {
                None
            }
            Some(Entry::File(None) | Entry::Dir) | None => return,
        };
        let from = known.saturating_sub(1);
        let found = versions[from..].iter().position(|version| *version == there);
        let Some(found) = found else { panic!("{story}, and that was over: {known} {versions:?}") };
        self.mounts[at].note_known(path, from + found + 1);
        match there {
            Some(_) => drop(self.mounts[at].gone_by_news.remove(path)),
            None => drop(self.mounts[at].gone_by_news.insert(path.clone())),
        }
    }

    /// The reference goes on from what is seen now.
    fn take_up(&mut self, at: usize, seen: Reader) {
        self.steps += 1;
        let mount = &mut self.mounts[at];
        for (path, entry) in &seen.tree {
            let Some(bytes) = entry.bytes() else { continue };
            if mount.reader.tree.get(path) != Some(entry) {
                mount.note_shown(path, bytes, self.steps);
            }
        }
        mount.reader = seen;
    }

    /// Notes what a call put under names, before the step that does it is checked.
    pub(super) fn note_shown(&mut self, at: usize, before: &Reader) {
        self.steps += 1;
        let mount = &mut self.mounts[at];
        let now = mount.reader.tree.clone();
        for (path, entry) in &now {
            if let Some(bytes) = entry.bytes()
                && before.tree.get(path) != Some(entry)
            {
                mount.note_shown(path, bytes, self.steps);
            }
        }
    }

    /// Every content that was written is at the remote or was, is in the outbox, in a conflict
    /// copy, or was replaced by somebody who saw it.
    fn check_accounts(&self, at: usize) {
        let mount = &self.mounts[at];
        let open = self.written.iter().filter(|(_, by)| **by == at).map(|(bytes, _)| *bytes);
        for bytes in open.filter(|bytes| !self.is_settled(*bytes)) {
            let held = |node: &crate::node::Node| {
                mount.bytes_of(node.ino, &self.remote) == Some(bytes)
                    && mount.core.tree.path_of(node.ino).is_some_and(|path| {
                        let lane = mount.core.outbox.lane(&path);
                        lane.is_some_and(|lane| {
                            lane.records().any(|r| r.op == Op::Put && r.ino == Some(node.ino))
                        })
                    })
            };
            assert!(mount.core.tree.nodes().any(held), "content {bytes} is nowhere");
        }
    }

    fn is_settled(&self, bytes: Bytes) -> bool {
        self.remote.seen.contains(&bytes)
            || self.remote.forgotten.contains(&bytes)
            || self.superseded.contains(&bytes)
            || self.kept.contains(&bytes)
    }

    /// The server took a change: whoever made it saw what it replaces, and nothing older wins.
    pub(super) fn check_replaced(&mut self, at: usize, all: &[Replaced], put: Option<u64>) {
        for Replaced { path, old, new, moved_from } in all {
            let (old, new) = (old.filter(|old| *old != 0), new.filter(|new| *new != 0));
            let first = |old: Bytes| Some(self.mounts[at].shown.get(&(path.clone(), old))?.first);
            // Of its own versions a mount knows when it made them.
            let made = self.makers.get(path).filter(|(by, _)| *by == at).map(|(_, made)| *made);
            let seen = old.and_then(|old| made.or_else(|| first(old)));
            // A server that went back gives out revisions again: they say little.
            let is_sure = self.remote.epoch() == 0;
            let is_seen = old.is_none() || seen.is_some();
            assert!(is_seen || !is_sure, "{path}: {new:?} replaced {old:?} unseen");
            let Some(new) = new else {
                self.makers.remove(path);
                continue;
            };
            // What the server moves need not be here.
            let moved = moved_from.as_ref();
            let was_there = |from: &WsPath| self.mounts[at].shown.get(&(from.clone(), new));
            let put = put.or_else(|| Some(was_there(moved?)?.last));
            assert!(put.is_some() || !is_sure, "{path}: {new} was never there");
            let is_newer = moved.is_some() || seen <= put || !is_sure;
            assert!(is_newer, "{path}: {new} replaced {old:?}, which is newer");
            self.makers.extend(put.map(|put| (path.clone(), (at, put))));
        }
    }

    /// At rest both trees are the remote's.
    pub(super) fn check_rest(&self) {
        for at in 0..self.mounts.len() {
            self.check_same_tree(at);
        }
        for bytes in self.written.keys() {
            assert!(self.is_settled(*bytes), "content {bytes} is nowhere");
        }
    }

    fn check_same_tree(&self, at: usize) {
        let tree = &self.mounts[at].reader.tree;
        // A file and a folder of one name cannot be shown beside each other; it is reported.
        let is_hidden = |path: &WsPath| {
            let is_below_file = |(above, entry): (&WsPath, &Entry)| {
                *entry != Entry::Dir && path != above && path.is_within(above)
            };
            tree.get(path) == Some(&Entry::Dir) || tree.iter().any(is_below_file)
        };
        let mut hidden = self.remote.collisions();
        hidden.extend(self.remote.files.keys().filter(|path| is_hidden(path)).cloned());
        let is_clear = |path: &WsPath| !hidden.iter().any(|other| path.is_within(other));
        let mut there: BTreeMap<WsPath, Entry> = BTreeMap::new();
        for path in self.remote.folders() {
            // Servers of the original protocol have no folders of their own.
            if self.server.extended {
                there.insert(path, Entry::Dir);
            }
        }
        for (path, (_, bytes)) in &self.remote.files {
            there.insert(path.clone(), Entry::File(Some(*bytes)));
        }
        there.retain(|path, _| is_clear(path));
        let is_told = |path: &WsPath, entry: Entry| {
            is_clear(path) && (self.server.extended || entry != Entry::Dir)
        };
        let here = tree.iter().filter(|(path, entry)| is_told(path, **entry));
        let here: BTreeMap<WsPath, Entry> =
            here.map(|(path, entry)| (path.clone(), *entry)).collect();
        assert_eq!(here, there, "the tree of mount {at} is the remote's");
    }
}
