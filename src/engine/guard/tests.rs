//! What counts as a burst, what becomes of it, and how a person decides.

use jiff::Timestamp;

use super::*;
use crate::digest::Digest;
use crate::engine::approvals::{Kind, Refusal};
use crate::engine::core::Settings;
use crate::engine::decide::tests::said;
use crate::engine::inbound::Inbound;
use crate::node::{Ino, ROOT, Synced};
use crate::remote::{Capabilities, Cursor, EventChange, EventId, Metadata, RemoteFile, Size};
use crate::store::Loaded;

const LIMITS: Limits = Limits { files: 5, window: Duration::from_secs(60), percent: 50 };

#[test]
fn many_and_most_together_are_a_burst() {
    let mut burst = Burst::default();
    let now = Duration::from_secs(1000);
    let mut left = 100;
    // Many, but not most.
    for _ in 0..50 {
        left -= 1;
        assert!(!burst.is_beyond(now, LIMITS, || left), "{left} left");
    }
    left -= 1;
    assert!(burst.is_beyond(now, LIMITS, || left));
    // It lasts until there are few within the time.
    let later = now + LIMITS.window;
    assert!(!burst.is_beyond(later, LIMITS, || left));
    // Most, but not many.
    let mut burst = Burst::default();
    for n in 0..5 {
        assert!(!burst.is_beyond(now, LIMITS, || 4 - n));
    }
    // What is made meanwhile counts as well.
    let mut burst = Burst::default();
    for n in 0..100 {
        assert!(!burst.is_beyond(now, LIMITS, || 100), "{n}");
    }
    assert!(burst.is_beyond(now, LIMITS, || 100));
}

#[test]
fn files_are_counted_seldom() {
    let mut burst = Burst::default();
    let mut looks = 0;
    for n in 1..=10_000_usize {
        burst.is_beyond(Duration::from_secs(1), LIMITS, || {
            looks += 1;
            20_000 - n
        });
    }
    assert!(looks < 40, "{looks} looks");
}

/// A core with files that the remote has, too.
struct Bench {
    core: Core,
    now: Now,
}

fn path(n: usize) -> WsPath {
    WsPath::parse(&format!("/f{n:03}")).unwrap()
}

fn file(path: &WsPath, revision: &str, text: &str) -> RemoteFile {
    RemoteFile {
        path: path.clone(),
        revision: Revision::new(revision),
        digest: Some(Digest::of(text.as_bytes())),
        size: Size::Exact(text.len() as u64),
        edited_at: None,
        metadata: Metadata::default(),
        body: Some(bytes::Bytes::from(text.to_owned())),
    }
}

impl Bench {
    fn new(files: usize) -> Self {
        let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        let settings = Settings { removals: LIMITS, ..Settings::default() };
        let (mut core, _) = Core::new(Loaded::default(), settings, now, 1);
        let capabilities = Capabilities { bulk_delete: true, ..Capabilities::default() };
        core.set_capabilities(capabilities, &mut Changes::default());
        core.link.reached();
        core.listed = true;
        let mut bench = Self { core, now };
        for n in 0..files {
            bench.stored(&path(n), &format!("rev_{}", n + 1), "x");
        }
        bench
    }

    fn event(&mut self, change: &EventChange) -> Inbound {
        self.core.apply_event(change, true, self.now, &mut Changes::default())
    }

    fn stored(&mut self, path: &WsPath, revision: &str, text: &str) -> Inbound {
        self.event(&EventChange::Stored(file(path, revision, text)))
    }

    fn removed(&mut self, n: usize) -> Inbound {
        self.event(&EventChange::Deleted { path: path(n), revision: None })
    }

    fn unlink(&mut self, n: usize) {
        let name = format!("f{n:03}");
        self.core.unlink(ROOT, &name, false, self.now, &mut Changes::default()).unwrap();
    }

    fn write(&mut self, n: usize) -> Ino {
        use crate::engine::local::{Creator, Sealed};
        use crate::node::{Content, FileBody, Kind};
        let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
        let empty = Kind::File(FileBody { content: Content::Empty, size: 0, exact: true });
        let changes = &mut Changes::default();
        let name = format!("f{n:03}");
        let ino = self.core.create(ROOT, &name, empty, creator, self.now, changes).unwrap();
        let mtime = self.now.wall;
        let sealed =
            Sealed { content: Content::Empty, size: 0, mtime, ctime: mtime, held_until: None };
        self.core.seal(ino, &sealed, self.now, changes);
        ino
    }

    /// How many records would leave now.
    fn leaving(&mut self) -> usize {
        self.now.mono += Duration::from_secs(1);
        said(&self.core, self.now).len()
    }

    fn approval(&self, kind: Kind) -> crate::engine::approvals::Approval {
        self.core.approvals().into_iter().find(|approval| approval.kind == kind).unwrap()
    }

    fn decide(
        &mut self,
        id: &str,
        approve: bool,
    ) -> Result<crate::engine::approvals::Decided, Refusal> {
        self.core.decide_approval(id, approve, self.now, &mut Changes::default())
    }
}

#[test]
fn a_burst_is_held_as_one_and_everything_else_flows() {
    let mut bench = Bench::new(10);
    (0..5).for_each(|n| bench.unlink(n));
    assert_eq!(bench.leaving(), 5);
    assert!(bench.core.approvals().is_empty());
    // The sixth is one too many, and what waits of the burst is held with it.
    bench.unlink(5);
    assert_eq!(bench.leaving(), 0);
    let approval = bench.approval(Kind::Removals);
    assert_eq!(approval.count, 6);
    assert_eq!(approval.paths, (0..6).map(path).collect::<Vec<_>>());
    bench.write(20);
    assert_eq!(bench.leaving(), 1);
    // It is held after a restart, too.
    let records: Vec<Record> =
        bench.core.outbox.lanes().flat_map(|(_, lane)| lane.records().cloned()).collect();
    let loaded = Loaded { records, ..Loaded::default() };
    let (again, _) = Core::new(loaded, bench.core.settings.clone(), bench.now, 1);
    assert_eq!(again.approvals(), std::slice::from_ref(&approval));
    bench.decide(&approval.id(), true).unwrap();
    assert_eq!(bench.leaving(), 7);
    assert!(bench.core.approvals().is_empty());
}

#[test]
fn an_approval_is_void_when_its_set_changes() {
    let mut bench = Bench::new(10);
    (0..6).for_each(|n| bench.unlink(n));
    let first = bench.approval(Kind::Removals).id();
    bench.unlink(6);
    let second = bench.approval(Kind::Removals);
    assert_eq!(bench.decide(&first, true), Err(Refusal::Stale(Box::new(second.clone()))));
    assert_eq!(bench.leaving(), 0);
    // A file that is there again is in the set no more.
    bench.write(6);
    assert_eq!(bench.approval(Kind::Removals).id(), first);
    assert!(matches!(bench.decide(&second.id(), true), Err(Refusal::Stale(_))));
    for unknown in ["", "removals", "removals-", "reset-123456789012", "else-123456789012"] {
        assert!(bench.decide(unknown, true).is_err(), "{unknown:?}");
    }
    bench.decide(&first, true).unwrap();
    assert_eq!(bench.decide(&first, true), Err(Refusal::Unknown));
}

#[test]
fn refused_removals_are_forgotten_and_the_tree_is_listed() {
    let mut bench = Bench::new(10);
    (0..6).for_each(|n| bench.unlink(n));
    let id = bench.approval(Kind::Removals).id();
    let mut changes = Changes::default();
    bench.core.decide_approval(&id, false, bench.now, &mut changes).unwrap();
    assert!(bench.core.outbox.is_empty());
    assert!(bench.core.guards.list_again);
    // Should the program end before that, the next run lists.
    assert!(changes.rows.iter().any(|row| matches!(row, Row::SetMeta("listed", None))));
    // The files come back with the listing.
    assert_eq!(bench.stored(&path(0), "rev_1", "x"), Inbound::Applied);
}

#[test]
fn removed_folders_wait_with_what_was_in_them_and_moves_do_not_count() {
    use crate::engine::rename::RenameMode;
    let mut bench = Bench::new(0);
    for n in 0..10 {
        let inside = WsPath::parse(&format!("/d/f{n}")).unwrap();
        bench.stored(&inside, &format!("rev_{n}"), "x");
    }
    let folder = bench.core.tree.child(ROOT, "d").unwrap();
    let changes = &mut Changes::default();
    bench
        .core
        .rename((ROOT, "d"), (ROOT, "e"), RenameMode::Replace, |_| false, bench.now, changes)
        .unwrap();
    assert!(bench.core.approvals().is_empty());
    let mut bench = Bench::new(0);
    for n in 0..10 {
        let inside = WsPath::parse(&format!("/d/f{n}")).unwrap();
        bench.stored(&inside, &format!("rev_{n}"), "x");
    }
    for n in 0..10 {
        bench.core.unlink(folder, &format!("f{n}"), false, bench.now, changes).unwrap();
    }
    assert_eq!(bench.approval(Kind::Removals).count, 10);
    bench.core.rmdir(ROOT, "d", bench.now, changes).unwrap();
    assert_eq!(bench.leaving(), 0);
}

#[test]
fn the_remote_takes_no_more_than_the_limit_away() {
    let mut bench = Bench::new(10);
    for n in 0..5 {
        assert_eq!(bench.removed(n), Inbound::Applied);
    }
    for n in 5..10 {
        assert_eq!(bench.removed(n), Inbound::Busy);
        assert!(bench.core.tree.resolve(&path(n)).is_some());
    }
    let approval = bench.approval(Kind::RemoteRemovals);
    assert_eq!(approval.paths, (5..10).map(path).collect::<Vec<_>>());
    // However often it is heard, also much later.
    bench.now.mono += Duration::from_secs(3600);
    assert_eq!(bench.removed(5), Inbound::Busy);
    // What is there again, or was changed here, is not concerned any more.
    bench.stored(&path(5), "rev_50", "y");
    bench.unlink(6);
    assert!(matches!(bench.decide(&approval.id(), true), Err(Refusal::Stale(_))));
    let id = bench.approval(Kind::RemoteRemovals).id();
    let decided = bench.decide(&id, true).unwrap();
    assert_eq!(decided.remove, (7..10).map(path).collect::<Vec<_>>());
    for n in 7..10 {
        assert_eq!(bench.removed(n), Inbound::Applied, "{n}");
    }
    assert!(bench.core.approvals().is_empty());
}

#[test]
fn refused_removals_of_the_remote_are_sent_there_again() {
    let mut bench = Bench::new(10);
    for n in 0..10 {
        bench.removed(n);
    }
    let id = bench.approval(Kind::RemoteRemovals).id();
    let decided = bench.decide(&id, false).unwrap();
    assert!(decided.remove.is_empty(), "{decided:?}");
    assert_eq!(bench.leaving(), 5);
    assert!(bench.core.approvals().is_empty());
}

#[test]
fn a_suspected_reset_ends_by_an_approval_of_what_it_showed() {
    let mut bench = Bench::new(3);
    let changes = &mut Changes::default();
    bench.core.suspect_reset(Some("why".to_owned()), changes);
    bench.core.show_reset(vec![path(2), path(1)], changes);
    let first = bench.approval(Kind::Reset);
    assert_eq!((first.count, &*first.why), (2, "why"));
    assert_eq!(bench.decide(&first.id(), false), Err(Refusal::NotRefusable));
    bench.core.show_reset(vec![path(1)], changes);
    assert!(matches!(bench.decide(&first.id(), true), Err(Refusal::Stale(_))));
    let meta = |row: Row| match row {
        Row::SetMeta(key, Some(value)) => Some((key.to_owned(), value)),
        _ => None,
    };
    let meta = std::mem::take(&mut changes.rows).into_iter().filter_map(meta).collect();
    let loaded = Loaded { meta, ..Loaded::default() };
    let (again, _) = Core::new(loaded, Settings::default(), bench.now, 1);
    let second = bench.approval(Kind::Reset);
    assert_eq!(again.approvals(), std::slice::from_ref(&second));
    assert!(bench.decide(&second.id(), true).unwrap().offer_again);
    assert!(bench.core.approvals().is_empty());
}

#[test]
fn one_revision_with_two_contents_is_another_history() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.stored(&path(0), "rev_1", "other"), Inbound::Busy);
    assert!(bench.core.reset_suspected.is_some());
    assert!(bench.core.guards.list_again);
    // Nothing here was replaced, and nothing is removed.
    assert_eq!(bench.removed(1), Inbound::Busy);
}

/// An earlier sending of ours arrived and is the base from then on; what that one was made against
/// says nothing about it.
#[test]
fn an_earlier_sending_of_ours_is_no_other_history() {
    let mut bench = Bench::new(3);
    let at = path(7);
    bench.write(7);
    let changes = &mut Changes::default();
    let theirs = file(&at, "rev_9", "first");
    for sent in ["first", "second"] {
        bench.core.outbox.update(&at, &mut changes.rows, |slot| {
            let record = &mut slot.record;
            record.state = RecordState::Flight;
            record.attempts += 1;
            record.sent.push(Digest::of(sent.as_bytes()));
            if sent == "first" {
                let digest = Some(Digest::of(b"what it was"));
                let blob = crate::node::BlobId(77);
                record.base_content = Some(crate::record::BaseContent { blob, digest });
            }
            slot.sent_is_newest = false;
        });
        let seq = bench.core.outbox.lane(&at).unwrap().current.record.seq;
        let kept = bench.core.settled(&at, seq, Some(&theirs), bench.now, changes);
        assert!(kept.is_none(), "{sent}");
        assert_eq!(bench.core.reset_suspected, None, "{sent}");
        let record = &bench.core.outbox.lane(&at).unwrap().current.record;
        assert_eq!(record.known_base(), Some(&Base::Revision(Revision::new("rev_9").unwrap())));
        assert_eq!(record.base_content, None);
    }
}

#[test]
fn a_revision_that_gets_older_is_another_history() {
    let mut bench = Bench::new(3);
    let changes = &mut Changes::default();
    let known = Revision::new("rev_3");
    // The stream may be late.
    assert_eq!(bench.stored(&path(2), "rev_2", "older"), Inbound::Known);
    assert!(bench.core.reset_suspected.is_none());
    // What was asked for just now may not, unless ours is newer than the question.
    let theirs = file(&path(2), "rev_2", "older");
    bench.core.check_read(&path(2), Revision::new("rev_1").as_ref(), Some(&theirs), changes);
    assert!(bench.core.reset_suspected.is_none());
    bench.core.check_read(&path(2), known.as_ref(), Some(&theirs), changes);
    assert!(bench.core.reset_suspected.is_some());
}

/// The stream tells of a folder that was made here by an event of its own kind.
#[test]
fn a_folder_that_was_made_here_is_told_of_by_its_own_event() {
    let changes = &mut Changes::default();
    let mut bench = Bench::new(1);
    let folder = WsPath::parse("/d").unwrap();
    bench.event(&EventChange::DirCreated { path: folder.clone() });
    let ino = bench.core.tree.resolve(&folder).unwrap();
    let accepted = Synced { revision: Revision::new("rev_3"), ..Synced::default() };
    bench.core.tree.get_mut(ino).unwrap().synced = Some(Box::new(accepted));
    let fingerprint = Some("/f@rev_2".to_owned());
    bench.core.cursor = Some(Cursor { id: EventId("evt_2".to_owned()), fingerprint });
    assert!(bench.core.expect_echoes());
    bench.core.expect_echoes_until(Some(EventId("evt_3".to_owned())), changes);
    bench.event(&EventChange::DirCreated { path: folder });
    bench.core.cursor = Some(Cursor { id: EventId("evt_3".to_owned()), fingerprint: None });
    bench.core.judge_echoes(changes);
    assert!(bench.core.reset_suspected.is_none());
}

#[test]
fn accepted_changes_that_the_whole_stream_does_not_tell_of_were_forgotten() {
    let cursor = |n: u32, revision: u32| {
        let fingerprint = Some(format!("/f@rev_{revision}"));
        Some(Cursor { id: EventId(format!("evt_{n}")), fingerprint })
    };
    let newest = |n: u32| Some(EventId(format!("evt_{n}")));
    let changes = &mut Changes::default();
    // The stream told of everything: nothing to wait for.
    let mut bench = Bench::new(3);
    bench.core.cursor = cursor(3, 3);
    assert!(!bench.core.expect_echoes());
    // It was restored to exactly our cursor, and does not know what it accepted later.
    bench.core.cursor = cursor(2, 2);
    assert!(bench.core.expect_echoes());
    bench.core.expect_echoes_until(newest(2), changes);
    assert!(bench.core.reset_suspected.is_some());
    // It still has to tell.
    let mut bench = Bench::new(3);
    bench.core.cursor = cursor(2, 2);
    assert!(bench.core.expect_echoes());
    bench.core.expect_echoes_until(newest(4), changes);
    assert!(bench.core.reset_suspected.is_none());
    bench.stored(&path(2), "rev_3", "x");
    bench.core.cursor = cursor(4, 4);
    bench.core.judge_echoes(changes);
    assert!(bench.core.reset_suspected.is_none());
    // It told other things instead.
    let mut bench = Bench::new(3);
    bench.core.cursor = cursor(2, 2);
    assert!(bench.core.expect_echoes());
    bench.core.expect_echoes_until(newest(4), changes);
    bench.stored(&path(9), "rev_3", "of somebody else");
    bench.core.cursor = cursor(4, 4);
    bench.core.judge_echoes(changes);
    assert!(bench.core.reset_suspected.is_some());
}
