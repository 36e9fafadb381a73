//! Power that goes away: the state folder lies on a disk that loses what was not synced.

mod disk;
mod platter;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::disk::{Cut, Disk};
use self::platter::{Image, Loss, write_out};
use crate::serve::Serve;
use crate::support::tree::{Entry, Tree, bytes_of, shows, summaries, tree};
use crate::support::{Kind, Mount, bytes, seed, wait_for};
use crate::world::{Op, State, World, differences};

/// What was acknowledged so long ago is there, synced or not: the second that is promised, and
/// what a busy machine adds to it.
const LAST_MOMENT: Duration = Duration::from_millis(1500);

/// A mount whose state folder lies on a disk of this test.
struct Powered {
    mount: Mount,
    disk: Option<Disk>,
}

impl Powered {
    fn of(server: &Serve) -> Self {
        let mount = Mount::builder(&server.source()).prepare();
        let disk = Some(Disk::mount(&mount.outside().join("state")));
        let mut powered = Self { mount, disk };
        powered.mount.start();
        powered
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// The power goes.
    fn lose(&mut self, loss: Loss, seed: u64) {
        let image = self.disk().cut(loss, seed);
        self.replace(&image);
    }

    /// Ends the daemon, and leaves `image` as its state folder.
    fn replace(&mut self, image: &Image) {
        self.mount.kill9();
        let state = self.mount.outside().join("state");
        match self.disk.take() {
            Some(disk) => disk.unmount(),
            None => std::fs::remove_dir_all(&state).unwrap(),
        }
        std::fs::create_dir_all(&state).unwrap();
        write_out(image, &state);
    }

    /// Starts the daemon, and reads what it shows.
    #[track_caller]
    fn back(&mut self) -> Tree {
        self.mount.start();
        wait_for("the mount can be read", || tree(&self.mount.path()).ok())
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        // The disk cannot go while the daemon uses it.
        if self.mount.is_running() {
            self.mount.kill9();
        }
    }
}

/// Calls one after the other, what they led to, and when they returned.
struct Journal {
    /// The tree after each call; one more than calls.
    worlds: Vec<World>,
    ops: Vec<Op>,
    /// When each call returned.
    times: Arc<Mutex<Vec<Instant>>>,
    /// Calls that returned.
    acknowledged: Arc<AtomicUsize>,
    /// The newest call that was a sync: everything up to it is safe.
    syncs: Vec<usize>,
    /// Versions of the files that are changed in place, by path: number of the call, bytes.
    in_place: BTreeMap<&'static str, Vec<(usize, Vec<u8>)>>,
}

/// Files that are changed in place, and never renamed.
const IN_PLACE: [&str; 2] = ["/base0", "/base1"];
const IN_PLACE_BYTES: usize = 200_000;
const SMALL_MAX: usize = 64 << 10;
const NAMES: [&str; 8] = ["/a", "/b", "/c", "/d", "/f/a", "/f/b", "/f/c", "/f/d"];

impl Journal {
    fn new() -> Self {
        Self {
            worlds: vec![World::new()],
            ops: Vec::new(),
            times: Arc::default(),
            acknowledged: Arc::default(),
            syncs: Vec::new(),
            in_place: BTreeMap::new(),
        }
    }

    fn world(&self) -> &World {
        self.worlds.last().unwrap()
    }

    #[track_caller]
    fn perform(&mut self, mount: &Mount, op: &Op) {
        self.worlds.push(op.after(self.world()));
        self.ops.push(op.clone());
        let number = self.ops.len();
        if let Op::Write(path, _)
        | Op::WriteSynced(path, _)
        | Op::WriteFlagged(path, _)
        | Op::Patch(path, ..)
        | Op::PatchSynced(path, ..) = *op
            && IN_PLACE.contains(&path)
            && let Some(State::File { bytes, .. }) = self.world().get(path)
        {
            let bytes = bytes.clone();
            self.in_place.entry(path).or_default().push((number, bytes));
        }
        if is_sync(op) {
            self.syncs.push(number);
        }
        op.perform(&mount.path()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        self.times.lock().unwrap().push(Instant::now());
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    /// A call that makes sense now.
    fn next(&self, rng: &mut SmallRng) -> Op {
        let world = self.world();
        let content = |rng: &mut SmallRng, len| bytes(rng.random(), len);
        let files: Vec<&'static str> =
            NAMES.into_iter().filter(|name| world.contains_key(*name)).collect();
        loop {
            let name = NAMES[rng.random_range(0..NAMES.len())];
            let known = (!files.is_empty()).then(|| files[rng.random_range(0..files.len().max(1))]);
            match (rng.random_range(0..17), known) {
                (0..3, _) => {
                    let len = rng.random_range(1..5000);
                    return Op::Write(name, content(rng, len));
                }
                (3, _) => {
                    let len = rng.random_range(1..5000);
                    return Op::WriteSynced(name, content(rng, len));
                }
                (4, _) => {
                    let len = rng.random_range(70_000..200_000);
                    return Op::Write(name, content(rng, len));
                }
                (5, _) => {
                    let len = rng.random_range(70_000..200_000);
                    return Op::WriteSynced(name, content(rng, len));
                }
                (6, _) => return Op::Patch(IN_PLACE[0], place(rng), content(rng, 9000)),
                (7, _) => return Op::PatchSynced(IN_PLACE[1], place(rng), content(rng, 9000)),
                (8, Some(known)) if known != name => return Op::Rename(known, name),
                (9, Some(known)) => return Op::Unlink(known),
                // A large file would be changed in place.
                (10, Some(known)) if is_small(world, known) => {
                    return Op::Truncate(known, rng.random_range(0..SMALL_MAX));
                }
                (11, _) => return Op::SyncDir("/f"),
                (12, _) => {
                    let len = rng.random_range(1..5000);
                    return Op::WriteFlagged(name, content(rng, len));
                }
                (13, _) => {
                    let len = rng.random_range(70_000..200_000);
                    return Op::WriteFlagged(name, content(rng, len));
                }
                (14, Some(known)) => return Op::Chmod(known, 0o600 | rng.random_range(0..8)),
                (15, _) if world.contains_key("/link") => return Op::Unlink("/link"),
                (15, _) => return Op::Symlink("a", "/link"),
                (16, _) if world.contains_key("/made") => return Op::Rmdir("/made"),
                (16, _) => return Op::Mkdir("/made"),
                _ => {}
            }
        }
    }

    /// The first calls that must have survived a cut.
    fn safe(&self, cut: &Cut) -> usize {
        let synced = self.syncs.iter().rfind(|number| **number <= cut.mark).copied();
        let times = self.times.lock().unwrap();
        let old = times.iter().take(cut.mark).filter(|at| **at + LAST_MOMENT < cut.at).count();
        synced.unwrap_or(0).max(old)
    }

    /// Whether a tree is what some first calls led to, at least the `safe` ones.
    fn check(&self, found: &Tree, safe: usize, context: &str) {
        let mut tree = found.clone();
        for (path, versions) in &self.in_place {
            let found = tree.remove(*path);
            let Some(Entry::File(_, found)) = found else { panic!("{context}: {path}: {found:?}") };
            check_in_place(&found, versions, safe, &format!("{context}: {path}"));
        }
        let without = |world: &World| {
            let kept = world.iter().filter(|(path, _)| !self.in_place.contains_key(path.as_str()));
            kept.map(|(path, state)| (path.clone(), state.clone())).collect::<World>()
        };
        let mut nearest: Option<(usize, Vec<String>)> = None;
        for (number, world) in self.worlds.iter().enumerate().skip(safe) {
            let begun = self.ops.get(number).and_then(|op| begun(op, world));
            for world in std::iter::once(world.clone()).chain(begun) {
                let wrong = differences(&without(&world), &tree);
                if wrong.is_empty() {
                    return;
                }
                if nearest.as_ref().is_none_or(|(_, known)| wrong.len() < known.len()) {
                    nearest = Some((number, wrong));
                }
            }
        }
        // Which first calls it would be when fewer had to be there.
        let early =
            self.worlds.iter().position(|world| differences(&without(world), &tree).is_empty());
        panic!(
            "{context}: of {} calls the first {safe} must be there; the tree is what {early:?} led \
             to; nearest {nearest:#?}; calls: {:#?}",
            self.ops.len(),
            self.ops
                .iter()
                .map(summary)
                .enumerate()
                .skip(safe.saturating_sub(4))
                .collect::<Vec<_>>(),
        );
    }
}

/// A small file is there as it was closed, or not at all. Of a large one that was not closed bytes may
/// be missing at the end or in the middle.
fn begun(op: &Op, world: &World) -> Option<World> {
    let holes = |state| match state {
        State::Begun(bytes) => State::Holes(bytes),
        other => other,
    };
    let (Op::Write(_, bytes) | Op::WriteSynced(_, bytes) | Op::WriteFlagged(_, bytes)) = op else {
        return None;
    };
    let begun = op.cut_short(world).filter(|_| bytes.len() > SMALL_MAX)?;
    Some(begun.into_iter().map(|(path, state)| (path, holes(state))).collect())
}

fn is_small(world: &World, path: &str) -> bool {
    matches!(world.get(path), Some(State::File { bytes, .. }) if bytes.len() <= SMALL_MAX)
}

fn place(rng: &mut SmallRng) -> usize {
    rng.random_range(0..IN_PLACE_BYTES - 9000)
}

fn summary(op: &Op) -> String {
    match op {
        Op::Write(path, bytes) => format!("write {path} {}", bytes.len()),
        Op::WriteSynced(path, bytes) => format!("write and sync {path} {}", bytes.len()),
        Op::WriteFlagged(path, bytes) => format!("write with O_SYNC {path} {}", bytes.len()),
        Op::Patch(path, at, bytes) => format!("patch {path} {at}+{}", bytes.len()),
        Op::PatchSynced(path, at, bytes) => format!("patch and sync {path} {at}+{}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// A file that is changed in place holds, sector by sector, the newest synced version or a later one.
fn check_in_place(found: &[u8], versions: &[(usize, Vec<u8>)], safe: usize, context: &str) {
    let from = versions.iter().rposition(|(number, _)| *number <= safe).unwrap_or(0);
    let allowed = &versions[from..];
    assert_eq!(found.len(), IN_PLACE_BYTES, "{context}");
    // Calls end within a sector, so two of them may meet in one.
    let fits = |at: usize| allowed.iter().any(|(_, version)| version[at] == found[at]);
    if let Some(at) = (0..found.len()).find(|at| !fits(*at)) {
        panic!("{context}: byte {at} is of none of the {} versions that may be", allowed.len());
    }
}

/// Starts on a new disk: some files that are synced and known to the server.
fn begin(server: &Serve) -> (Powered, Journal) {
    let powered = Powered::of(server);
    powered.mount.wait_synced();
    let mut journal = Journal::new();
    journal.perform(&powered.mount, &Op::Mkdir("/f"));
    for (number, path) in (0..).zip(IN_PLACE) {
        let content = bytes(number, IN_PLACE_BYTES);
        journal.perform(&powered.mount, &Op::WriteSynced(path, content));
    }
    journal.perform(&powered.mount, &Op::WriteSynced("/a", bytes(7, 3000)));
    journal.perform(&powered.mount, &Op::WriteSynced("/f/b", bytes(8, 90_000)));
    powered.mount.flush();
    (powered, journal)
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The power goes at any moment, with everything that was not synced or with a part of it: what was
/// synced is there, bytes and name, what came later is there up to some moment and not beyond, and
/// nothing is torn, empty or zeros. `CUTS` sets how many moments are looked at.
#[test]
fn a_power_cut_takes_the_newest_changes_only_and_none_that_was_synced() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut server = Serve::new(Kind::Extended);
    let (mut powered, mut journal) = begin(&server);
    // Without the server nothing is sent: what is shown afterwards is what the disk kept.
    server.kill9();
    let acknowledged = Arc::clone(&journal.acknowledged);
    powered.disk().watch(seed, 60, move || acknowledged.load(Ordering::SeqCst));
    for _ in 0..150 {
        let op = journal.next(&mut rng);
        journal.perform(&powered.mount, &op);
    }
    let mut cuts = powered.disk().cuts();
    let most = number("CUTS", 30) as usize;
    eprintln!("{} moments noted, at most {most} looked at", cuts.len());
    while cuts.len() > most {
        cuts.remove(rng.random_range(0..cuts.len()));
    }
    assert!(cuts.len() > 3, "hardly anything happened to the disk");
    for cut in &cuts {
        powered.replace(&cut.image);
        let found = powered.back();
        let context = format!("SEED={seed}, a cut after call {}, {:?} lost", cut.mark, cut.loss);
        journal.check(&found, journal.safe(cut), &context);
    }
    // What the last of them left is what the server gets.
    let found = tree(&powered.mount.path()).unwrap();
    server.start("");
    powered.mount.flush();
    let sent = server.http.files();
    assert_eq!(sent, bytes_of(&found));
}

/// What was written a while ago is on the disk although nobody asked for it, names and bytes of
/// small and large files alike.
#[test]
fn what_is_older_than_a_moment_survives_without_a_sync() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut server = Serve::new(Kind::Extended);
    let (mut powered, mut journal) = begin(&server);
    server.kill9();
    for _ in 0..40 {
        let op = loop {
            let op = journal.next(&mut rng);
            if !is_sync(&op) {
                break op;
            }
        };
        journal.perform(&powered.mount, &op);
    }
    let last = Instant::now();
    wait_for("the last moment is over", || (last.elapsed() > LAST_MOMENT).then_some(()));
    powered.lose(Loss::Everything, seed);
    let found = powered.back();
    journal.check(&found, journal.ops.len(), &format!("SEED={seed}"));
}

fn is_sync(op: &Op) -> bool {
    matches!(op, Op::WriteSynced(..) | Op::WriteFlagged(..) | Op::PatchSynced(..) | Op::SyncDir(_))
}

/// The power goes while changes are sent. What the server accepted is shown again, what was
/// synced is there, nothing older comes back, and both sides agree in the end.
#[test]
fn a_power_cut_while_changes_are_sent_loses_nothing_that_either_side_had() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    for round in 0..number("ROUNDS", 4) {
        let server = Serve::new(Kind::Extended);
        let (mut powered, mut journal) = begin(&server);
        for _ in 0..rng.random_range(10..80) {
            let op = journal.next(&mut rng);
            journal.perform(&powered.mount, &op);
        }
        let context = format!("SEED={seed}, round {round}");
        let loss = if rng.random() { Loss::Everything } else { Loss::Part };
        let marked = journal.ops.len();
        let safe = journal.syncs.iter().rfind(|number| **number <= marked).copied().unwrap();
        powered.lose(loss, rng.random());
        powered.back();
        powered.mount.wait_synced();
        powered.mount.flush();
        let found = tree(&powered.mount.path()).unwrap();
        journal.check_each(&found, safe, &context);
        let sent = server.http.files();
        assert_eq!(summaries(&sent), summaries(&bytes_of(&found)), "{context}");
        let other = Mount::builder(&server.source()).start();
        shows(&other, &found);
        assert_eq!(powered.mount.status()["conflicts"]["open"], 0, "{context}");
    }
}

impl Journal {
    /// Whether each path is as after some call from `safe` on: what was sent may be newer than what
    /// the disk kept, path by path.
    fn check_each(&self, found: &Tree, safe: usize, context: &str) {
        let all: BTreeSet<&String> = self.worlds.iter().flat_map(World::keys).collect();
        for path in all.into_iter().filter(|path| !self.in_place.contains_key(path.as_str())) {
            let known = |world: &World| {
                let one = |(at, state): (&String, &State)| {
                    (at == path).then(|| (at.clone(), state.clone()))
                };
                world.iter().find_map(one).into_iter().collect::<World>()
            };
            let here: Tree =
                found.get(path).map(|it| (path.clone(), it.clone())).into_iter().collect();
            let fits = |world: &World| differences(&known(world), &here).is_empty();
            let cut = self.ops[safe..].iter().zip(&self.worlds[safe..]);
            let cut = cut.filter_map(|(op, world)| begun(op, world));
            assert!(
                self.worlds[safe..].iter().cloned().chain(cut).any(|world| fits(&world)),
                "{context}: {path} is {here:?}, which it never was after call {safe}: {:?}",
                differences(&known(self.world()), &here),
            );
        }
        for (path, versions) in &self.in_place {
            let Some(Entry::File(_, bytes)) = found.get(*path) else { panic!("{context}: {path}") };
            check_in_place(bytes, versions, safe, context);
        }
        for path in found.keys() {
            assert!(self.worlds.iter().any(|world| world.contains_key(path)), "{context}: {path}");
        }
    }
}

/// `mountctl flush` that succeeded holds without the server, too.
#[test]
fn what_was_flushed_is_shown_after_a_power_cut_without_the_server() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut server = Serve::new(Kind::Extended);
    let (mut powered, mut journal) = begin(&server);
    for _ in 0..3 {
        for _ in 0..10 {
            let op = journal.next(&mut rng);
            journal.perform(&powered.mount, &op);
        }
        powered.mount.flush();
    }
    let image = powered.disk().cut(Loss::Everything, seed);
    server.kill9();
    powered.replace(&image);
    let found = powered.back();
    journal.check(&found, journal.ops.len(), &format!("SEED={seed}"));
}

/// A file of others that was read just before the power went has its bytes afterwards, from the
/// disk or fetched again, and is never empty, zeros, or taken for a change of ours.
#[test]
fn what_was_fetched_is_whole_after_a_power_cut() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let sizes =
        [("/theirs/small", 2000), ("/theirs/middle", 300_000), ("/theirs/large", 1_500_000)];
    let at = |powered: &Powered, path: &str| powered.mount.at(&path[1..]);
    let listed = |powered: &Powered| {
        wait_for("the files are listed", || {
            sizes.iter().all(|(path, _)| at(powered, path).exists()).then_some(())
        });
    };
    for round in 0..number("ROUNDS", 4) {
        let loss = if rng.random() { Loss::Everything } else { Loss::Part };
        let server = Serve::new(Kind::Extended);
        let (mut powered, _) = begin(&server);
        for (number, (path, len)) in (0..).zip(sizes) {
            server.http.put(path, &bytes(number, len));
        }
        listed(&powered);
        let revisions = sizes.map(|(path, _)| server.http.get(path).unwrap().1);
        for (number, (path, len)) in (0..).zip(sizes) {
            assert!(std::fs::read(at(&powered, path)).unwrap() == bytes(number, len));
        }
        powered.lose(loss, rng.random());
        powered.back();
        listed(&powered);
        for (number, (path, len)) in (0..).zip(sizes) {
            let found = std::fs::read(at(&powered, path)).unwrap();
            let context = format!("SEED={seed}, round {round}");
            assert!(found == bytes(number, len), "{context}: {path} has {} bytes", found.len());
        }
        powered.mount.flush();
        assert_eq!(sizes.map(|(path, _)| server.http.get(path).unwrap().1), revisions);
    }
}

/// What the server said it took is there when its power went right afterwards.
#[test]
fn what_a_server_accepted_survives_its_power_cut() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("storage");
    let disk = Disk::mount(&storage);
    let mut server = Serve::on(folder, storage.clone(), Kind::Extended);
    let mut accepted = BTreeMap::new();
    for _ in 0..60 {
        let path = format!("/{}", rng.random_range(0..15));
        let len = if rng.random_ratio(1, 3) { 300_000 } else { rng.random_range(0..9000) };
        let content = bytes(rng.random(), len);
        let revision = server.http.put(&path, &content);
        accepted.insert(path, (content, revision));
    }
    let loss = if rng.random() { Loss::Everything } else { Loss::Part };
    let image = disk.cut(loss, rng.random());
    server.kill9();
    disk.unmount();
    write_out(&image, &storage);
    server.start("");
    for (path, expected) in &accepted {
        let found = server.http.get(path);
        assert!(found.as_ref() == Some(expected), "SEED={seed}, {loss:?}: {path}");
    }
}

/// The power goes while the log is moved into the database and content is dropped for room: what is
/// unsent is untouched, and everything else can be read, from the disk or from the server.
#[test]
fn a_power_cut_while_the_daemon_clears_up_takes_nothing_that_is_unsent() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let server = Serve::new(Kind::Extended);
    let (mut powered, _) = begin(&server);
    let mut expected = BTreeMap::new();
    for (number, len) in (0..).zip([500, 3000, 90_000, 400_000]) {
        let content = bytes(100 + number, len);
        std::fs::write(powered.mount.at(&format!("sent{number}")), &content).unwrap();
        expected.insert(format!("/sent{number}"), content);
    }
    powered.mount.flush();
    assert!(powered.mount.ctl(&["pause"]).status.success());
    for (number, len) in (0..).zip([700, 50_000, 100_000, 300_000]) {
        let name = format!("unsent{number}");
        let content = bytes(200 + number, len);
        Op::WriteSynced(format!("/{name}").leak(), content.clone())
            .perform(&powered.mount.path())
            .unwrap();
        expected.insert(format!("/{name}"), content);
    }
    powered.disk().watch(seed, 3, || 0);
    let log = powered.mount.state().join("state.db-wal");
    wait_for("a checkpoint", || (std::fs::metadata(&log).unwrap().len() == 0).then_some(()));
    // It looks for room when it starts.
    powered.mount.kill9();
    powered.mount.add_args(&["--cache-size", "1KiB"]);
    powered.mount.start();
    wait_for("room", || powered.mount.log().contains("local content was over").then_some(()));
    wait_for("the files are gone", || {
        let left = std::fs::read_dir(powered.mount.state().join("files")).unwrap().count();
        (left == 2).then_some(())
    });
    let mut cuts = powered.disk().cuts();
    let most = number("CUTS", 15) as usize;
    eprintln!("{} moments noted, at most {most} looked at", cuts.len());
    while cuts.len() > most {
        cuts.remove(rng.random_range(0..cuts.len()));
    }
    for (number, cut) in cuts.iter().enumerate() {
        powered.replace(&cut.image);
        powered.mount.start();
        for (path, content) in &expected {
            let found = std::fs::read(powered.mount.at(&path[1..]));
            let context = format!("SEED={seed}, cut {number}, {:?} lost: {path}", cut.loss);
            let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(found == *content, "{context} has {} bytes", found.len());
            if path.starts_with("/unsent") {
                assert!(server.http.get(path).is_none(), "{context} was sent while paused");
            }
        }
    }
    assert!(powered.mount.ctl(&["resume"]).status.success());
    powered.mount.flush();
    let sent = server.http.files();
    for (path, content) in &expected {
        assert!(sent.get(path) == Some(content), "SEED={seed}: {path} on the server");
    }
}

/// A large file that was changed in place and accepted by the server is shown as the server has it,
/// although nobody synced it here.
#[test]
fn what_the_server_accepted_is_not_older_here_after_a_power_cut() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let server = Serve::new(Kind::Extended);
    let (mut powered, mut journal) = begin(&server);
    for _ in 0..3 {
        let patch = Op::Patch(IN_PLACE[0], place(&mut rng), bytes(rng.random(), 9000));
        journal.perform(&powered.mount, &patch);
        wait_for("it is sent", || (powered.mount.status()["uploads"]["queued"] == 0).then_some(()));
    }
    let images: Vec<Image> = (0..8).map(|_| powered.disk().cut(Loss::Part, rng.random())).collect();
    let (accepted, _) = server.http.get(IN_PLACE[0]).unwrap();
    for (number, image) in images.iter().enumerate() {
        powered.replace(image);
        powered.mount.start();
        powered.mount.wait_synced();
        let path = powered.mount.at(&IN_PLACE[0][1..]);
        wait_for(&format!("SEED={seed}, cut {number}: the accepted bytes"), || {
            (std::fs::read(&path).ok()? == accepted).then_some(())
        });
    }
}

/// The power goes while the copies of conflicts are written and theirs take the names: what is listed is
/// whole, and ours, which was synced, is in the file or in a copy.
#[test]
fn a_power_cut_during_a_conflict_copy_loses_neither_side() {
    crate::fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let server = Serve::new(Kind::Extended);
    let (mut powered, _) = begin(&server);
    let content = |number, len| [vec![0], bytes(number, len)].concat();
    let sides: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("/small", content(300, 3000), content(301, 2000)),
        ("/large", content(302, 200_000), content(303, 180_000)),
    ];
    for (path, ours, _) in &sides {
        std::fs::write(powered.mount.at(&path[1..]), &ours[..1000]).unwrap();
    }
    powered.mount.flush();
    assert!(powered.mount.ctl(&["pause"]).status.success());
    for (path, ours, theirs) in &sides {
        Op::WriteSynced(path, ours.clone()).perform(&powered.mount.path()).unwrap();
        server.http.put(path, theirs);
    }
    powered.disk().watch(seed, 2, || 0);
    assert!(powered.mount.ctl(&["resume"]).status.success());
    let open = |mount: &Mount| mount.status()["conflicts"]["open"].as_u64();
    wait_for("the conflicts", || (open(&powered.mount) == Some(2)).then_some(()));
    std::fs::File::open(powered.mount.path()).unwrap().sync_all().unwrap();
    let mut cuts = powered.disk().cuts();
    let most = number("CUTS", 12) as usize;
    eprintln!("{} moments noted, at most {most} looked at", cuts.len());
    assert!(!cuts.is_empty());
    while cuts.len() > most {
        cuts.remove(rng.random_range(0..cuts.len()));
    }
    for (number, cut) in cuts.iter().enumerate() {
        let context = format!("SEED={seed}, cut {number}, {:?} lost", cut.loss);
        powered.replace(&cut.image);
        powered.mount.start();
        powered.mount.ctl(&["resume"]);
        wait_for("both are settled", || {
            let quiet = powered.mount.status()["uploads"]["queued"] == 0;
            (quiet && open(&powered.mount) == Some(2)).then_some(())
        });
        let folder = powered.mount.state().join("conflicts");
        let copies: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let held = |side: &str, bytes: &[u8]| {
            copies.iter().any(|copy| std::fs::read(copy.join(side)).is_ok_and(|it| it == bytes))
        };
        for (path, ours, theirs) in &sides {
            assert!(held("local", ours), "{context}: ours of {path}");
            assert!(held("remote", theirs), "{context}: theirs of {path}");
            assert!(std::fs::read(powered.mount.at(&path[1..])).unwrap() == *theirs, "{context}");
            assert!(server.http.get(path).unwrap().0 == *theirs, "{context}: {path} was replaced");
        }
        let listed = powered.mount.ctl(&["conflicts", "list", "--resolved", "--json"]).stdout;
        let listed = String::from_utf8(listed).unwrap();
        for copy in &copies {
            let name = copy.file_name().unwrap().to_str().unwrap();
            // One of which a part is missing is set aside, and ours is copied again.
            let told = listed.contains(name) || name.contains(".corrupt.");
            assert!(told, "{context}: nothing lists {name}: {listed}");
        }
    }
}
