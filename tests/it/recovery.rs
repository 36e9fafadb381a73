//! What was under way when the daemon was killed: each change is finished or undone by what the server
//! has, whatever happened there meanwhile.
//!
//! The daemon is killed at one exact place: before its request was served, or after that and before
//! the reply. Where a step lies inside the daemon, `tests/failpoints` kills it there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use workspaced::{After, Before, RequestHead};

use crate::on_both_servers;
use crate::support::hooks::{Act, Hits, Hooks, is_write};
use crate::support::observe::{history, json, outbox, wait_sent};
use crate::support::tree::{agree, bytes_of, difference, summaries, tree};
use crate::support::{Kind, Mount, TestServer, bytes, wait_for};

on_both_servers!(
    what_never_left_is_sent_after_the_start,
    what_arrived_unheard_is_taken_for_done,
    what_arrived_in_part_is_completed,
    somebody_else_changes_the_old_name_meanwhile,
    somebody_else_takes_the_new_name_meanwhile,
    somebody_else_removes_the_folder_meanwhile,
    a_large_file_that_is_renamed_twice_leaves_no_ghost,
    a_file_that_was_never_read_is_renamed_twice_and_keeps_its_bytes,
);

/// Longer than any test lasts.
const NEVER: Duration = Duration::from_secs(3600);

const LARGE: usize = 400 << 10;

/// Where the daemon is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Before any request was served.
    Unsent,
    /// After so many requests, when the next one was carried out and its reply is on its way.
    Applied(u64),
}

/// Something that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// A file gets another name.
    Rename,
    /// A large one does.
    RenameLarge,
    /// One of which only the server has the bytes.
    RenameFar,
    /// One that was changed and not sent yet.
    RenameChanged,
    /// A file takes the name of another one.
    RenameOver,
    /// Two files change names.
    Exchange,
    /// A folder with files of all sizes.
    MoveFolder,
    /// A folder with all below it goes.
    RemoveFolder,
    /// New files, changed ones, removed ones.
    Mixed,
    /// New folders, one in the other, with a file in each.
    Folders,
    /// A file becomes a folder.
    KindChanges,
}

const INTENTS: [Intent; 11] = [
    Intent::Rename,
    Intent::RenameLarge,
    Intent::RenameFar,
    Intent::RenameChanged,
    Intent::RenameOver,
    Intent::Exchange,
    Intent::MoveFolder,
    Intent::RemoveFolder,
    Intent::Mixed,
    Intent::Folders,
    Intent::KindChanges,
];

type Files = BTreeMap<String, Vec<u8>>;

impl Intent {
    /// What both sides have before.
    fn before(self) -> Files {
        let one = |path: &str, seed, len| (path.to_owned(), bytes(seed, len));
        match self {
            Self::Rename | Self::RenameChanged => Files::from([one("/a", 10, 2000)]),
            Self::RenameLarge | Self::RenameFar => Files::from([one("/a", 11, LARGE)]),
            Self::RenameOver | Self::Exchange => {
                Files::from([one("/a", 12, 3000), one("/b", 13, 100_000)])
            }
            Self::MoveFolder | Self::RemoveFolder => {
                let len = |n| if n % 10 == 0 { 90_000 } else { 500 };
                (0..50).map(|n| one(&format!("/d/{n}"), n, len(n))).collect()
            }
            Self::Mixed => (0..10).map(|n| one(&format!("/{n}"), 20 + n, 1000)).collect(),
            Self::Folders => Files::new(),
            Self::KindChanges => Files::from([one("/x", 14, 100)]),
        }
    }

    fn act(self, mount: &Mount) {
        let at = |name: &str| mount.at(name);
        match self {
            Self::Rename | Self::RenameLarge | Self::RenameFar | Self::RenameOver => {
                fs::rename(at("a"), at("b")).unwrap();
            }
            Self::RenameChanged => {
                fs::write(at("a"), bytes(15, 70_000)).unwrap();
                fs::rename(at("a"), at("b")).unwrap();
            }
            Self::Exchange => {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                let here = nix::fcntl::AT_FDCWD;
                nix::fcntl::renameat2(here, &at("a"), here, &at("b"), flags).unwrap();
            }
            Self::MoveFolder => fs::rename(at("d"), at("e")).unwrap(),
            Self::RemoveFolder => fs::remove_dir_all(at("d")).unwrap(),
            Self::Mixed => {
                for n in 0..3 {
                    fs::write(at(&n.to_string()), bytes(30 + n, 2000)).unwrap();
                    fs::write(at(&format!("new{n}")), bytes(40 + n, 1500)).unwrap();
                    fs::remove_file(at(&(n + 3).to_string())).unwrap();
                }
            }
            Self::Folders => {
                for folder in ["n", "n/m"] {
                    fs::create_dir(at(folder)).unwrap();
                    fs::write(at(folder).join("f"), folder).unwrap();
                }
            }
            Self::KindChanges => {
                fs::remove_file(at("x")).unwrap();
                fs::create_dir(at("x")).unwrap();
                fs::write(at("x/f"), "in a folder").unwrap();
            }
        }
    }

    /// What both sides have in the end.
    fn after(self) -> Files {
        let mut files = self.before();
        match self {
            Self::Rename | Self::RenameLarge | Self::RenameFar | Self::RenameOver => {
                let moved = files.remove("/a").unwrap();
                files.insert("/b".to_owned(), moved);
            }
            Self::RenameChanged => files = Files::from([("/b".to_owned(), bytes(15, 70_000))]),
            Self::Exchange => {
                let (a, b) = (files.remove("/a").unwrap(), files.remove("/b").unwrap());
                files = Files::from([("/a".to_owned(), b), ("/b".to_owned(), a)]);
            }
            Self::MoveFolder => {
                files =
                    files.into_iter().map(|(path, b)| (path.replacen("/d", "/e", 1), b)).collect();
            }
            Self::RemoveFolder => files.clear(),
            Self::Mixed => {
                for n in 0..3_u64 {
                    files.insert(format!("/{n}"), bytes(30 + n, 2000));
                    files.insert(format!("/new{n}"), bytes(40 + n, 1500));
                    files.remove(&format!("/{}", n + 3));
                }
            }
            Self::Folders => {
                for folder in ["n", "n/m"] {
                    files.insert(format!("/{folder}/f"), folder.as_bytes().to_vec());
                }
            }
            Self::KindChanges => {
                files = Files::from([("/x/f".to_owned(), b"in a folder".to_vec())]);
            }
        }
        files
    }

    /// Names of which one must be there at every moment.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Rename | Self::RenameLarge | Self::RenameFar | Self::RenameChanged => {
                &["/a", "/b"]
            }
            Self::RenameOver => &["/b"],
            _ => &[],
        }
    }
}

/// A server that does what it is told with requests, and a mount of it.
struct Scene {
    server: TestServer,
    hooks: Arc<Hooks>,
    mount: Mount,
    /// Bytes of requests when the daemon was killed.
    sent: u64,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let hooks = Hooks::new();
        let server = kind.server().interceptor(hooks.clone()).start();
        let mount = Mount::of(&server);
        mount.wait_synced();
        Self { server, hooks, mount, sent: 0 }
    }

    /// The next request that changes something is carried out, and nothing hears of it; those after
    /// it get nowhere.
    fn lose_a_reply(&self) -> Hits {
        let lost = self.hooks.add(1, Act::After(After::Drop), is_write);
        let seen = lost.clone();
        self.hooks.add(u64::MAX, Act::Before(Before::Reset), move |request: &RequestHead| {
            seen.count() > 0 && is_write(request)
        });
        lost
    }

    /// Waits until nothing is in a request.
    #[track_caller]
    fn wait_waiting(&self) {
        wait_for("the changes wait again", || {
            let records = outbox(&self.mount);
            records.iter().all(|record| record["state"] != "inflight").then_some(())
        });
    }

    /// Puts there what an intent begins with.
    #[track_caller]
    fn prepare(&self, intent: Intent) {
        for (path, content) in intent.before() {
            if intent == Intent::RenameFar {
                self.server.put(&path, &content);
                wait_for("the file", || self.mount.at(&path[1..]).exists().then_some(()));
            } else {
                let at = self.mount.at(&path[1..]);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                fs::write(at, &content).unwrap();
            }
        }
        self.mount.flush();
        self.mount.wait_synced();
    }

    /// Has `act` done and kills the daemon while it is being sent. Nothing more arrives. Returns
    /// whether there were as many requests as the moment says.
    #[track_caller]
    fn kill_at(&mut self, moment: Moment, act: impl FnOnce(&Mount)) -> bool {
        let reset = Act::Before(Before::Reset);
        let reached = match moment {
            Moment::Unsent => self.hooks.add(u64::MAX, reset, is_write),
            Moment::Applied(passed) => {
                self.hooks.add(passed, Act::After(After::Pass), is_write);
                let held = self.hooks.add(1, Act::After(After::Delay(NEVER)), is_write);
                let seen = held.clone();
                let late = move |request: &RequestHead| seen.count() > 0 && is_write(request);
                self.hooks.add(u64::MAX, reset, late);
                held
            }
        };
        act(&self.mount);
        let hit = wait_for("the moment", || {
            let all_sent = || self.mount.status()["uploads"]["queued"] == 0;
            let hit = reached.count() > 0;
            (hit || all_sent()).then_some(hit)
        });
        self.mount.kill9();
        self.hooks.clear();
        self.sent = self.hooks.body_bytes();
        hit
    }

    /// Starts the daemon while nothing can be sent: it shows what was shown before.
    #[track_caller]
    fn restart(&mut self, expected: &Files) {
        self.hooks.add(u64::MAX, Act::Before(Before::Reset), is_write);
        self.mount.start();
        let shown = paths(&self.mount.path());
        assert_eq!(shown, expected.keys().cloned().collect::<Vec<_>>(), "right after the start");
    }

    /// In the end both sides have exactly this, and nothing is left over.
    #[track_caller]
    fn ends_with(&self, expected: &Files) {
        self.settle();
        let theirs = self.server.files();
        let apart = difference(&summaries(expected), &summaries(&theirs));
        assert!(apart.is_empty(), "expected (left) and at the server: {apart:#?}");
        let status = self.mount.status();
        assert_eq!(status["uploads"]["attention"], 0, "{status:#}");
        let entries = fs::read_dir(self.mount.state().join("files")).unwrap();
        let strange: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<u64>().is_err())
            .collect();
        assert!(strange.is_empty(), "left over: {strange:?}");
    }

    /// Lets everything through and waits until both sides are the same and nothing is left to do.
    #[track_caller]
    fn settle(&self) {
        self.hooks.clear();
        drop(self.mount.ctl(&["resume"]));
        wait_sent(&self.mount);
        self.mount.wait_synced();
        agree(&self.server, &self.mount, &self.mount);
    }

    /// The same where it may wait for a person.
    #[track_caller]
    fn settle_to(&self, expected: &Files) {
        self.hooks.clear();
        wait_sent(&self.mount);
        let apart = difference(&summaries(expected), &summaries(&self.server.files()));
        assert!(apart.is_empty(), "expected (left) and at the server: {apart:#?}");
        wait_for("the mount shows it", || {
            let shown = tree(&self.mount.path()).ok()?;
            (bytes_of(&shown) == *expected).then_some(())
        });
    }

    #[track_caller]
    fn no_conflict(&self) {
        let listed = json(&self.mount, &["conflicts"]);
        assert_eq!(listed["data"]["conflicts"].as_array().map(Vec::len), Some(0), "{listed}");
    }

    /// That of these names one was there at each moment of the server's history, once the first was.
    #[track_caller]
    fn never_nameless(&self, names: &[&str]) {
        let mut there: Vec<String> = Vec::new();
        let history = history(&self.server);
        for (event, path) in history.iter().filter(|(_, path)| names.contains(&&**path)) {
            match event.as_str() {
                "file.deleted" => there.retain(|known| known != path),
                _ => there.push(path.clone()),
            }
            assert!(!there.is_empty(), "without a name: {history:#?}");
        }
    }
}

fn files(expected: &[(&str, &[u8])]) -> Files {
    expected.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

/// The files below a folder, by name only.
fn paths(folder: &Path) -> Vec<String> {
    fn gather(folder: &Path, below: &str, all: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{below}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                gather(&entry.path(), &path, all);
            } else {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    gather(folder, "", &mut all);
    all.sort();
    all
}

/// Plays an intent, kills the daemon at the moment, and sees that it is completed.
#[track_caller]
fn play(kind: Kind, intent: Intent, moment: Moment) -> (Scene, bool) {
    let mut scene = Scene::new(kind);
    scene.prepare(intent);
    let hit = scene.kill_at(moment, |mount| intent.act(mount));
    eprintln!("{intent:?} {moment:?}: {}", if hit { "killed there" } else { "killed at its end" });
    scene.restart(&intent.after());
    scene.ends_with(&intent.after());
    scene.no_conflict();
    scene.never_nameless(intent.names());
    (scene, hit)
}

/// Killed before the server heard of it: it is sent after the start.
fn what_never_left_is_sent_after_the_start(kind: Kind) {
    for intent in INTENTS {
        assert!(play(kind, intent, Moment::Unsent).1, "{intent:?} sends nothing");
    }
}

/// Killed when the server had done it and nobody here had heard: it is taken for done, and what was
/// moved there is not sent again.
fn what_arrived_unheard_is_taken_for_done(kind: Kind) {
    for intent in INTENTS {
        let (scene, hit) = play(kind, intent, Moment::Applied(0));
        assert!(hit, "{intent:?} sends nothing");
        if intent == Intent::RenameFar && kind.is_extended() {
            let sent = scene.hooks.body_bytes() - scene.sent;
            assert!(sent < LARGE as u64, "{sent} bytes were sent for what only had to be moved");
        }
    }
}

/// Killed in the middle of several requests: the rest follows.
fn what_arrived_in_part_is_completed(kind: Kind) {
    let mut hits = 0;
    for intent in [Intent::RenameOver, Intent::Exchange, Intent::MoveFolder, Intent::KindChanges] {
        for passed in [1, 3] {
            hits += u64::from(play(kind, intent, Moment::Applied(passed)).1);
        }
    }
    assert!(hits > 0, "nothing takes more than one request");
}

/// A rename is under way, and somebody else edits or makes the old name: theirs is there, and ours is
/// under the new one.
fn somebody_else_changes_the_old_name_meanwhile(kind: Kind) {
    for moment in [Moment::Unsent, Moment::Applied(0)] {
        for intent in [Intent::Rename, Intent::RenameLarge, Intent::RenameChanged] {
            let mut scene = Scene::new(kind);
            scene.prepare(intent);
            assert!(scene.kill_at(moment, |mount| intent.act(mount)));
            scene.server.put("/a", b"theirs");
            scene.restart(&intent.after());
            let mut expected = intent.after();
            expected.insert("/a".to_owned(), b"theirs".to_vec());
            scene.settle_to(&expected);
            scene.never_nameless(intent.names());
        }
    }
}

/// A rename is under way, and somebody else takes the new name: theirs has it, and ours is in a conflict
/// copy.
fn somebody_else_takes_the_new_name_meanwhile(kind: Kind) {
    for moment in [Moment::Unsent, Moment::Applied(0)] {
        for intent in [Intent::Rename, Intent::RenameLarge, Intent::RenameFar] {
            let mut scene = Scene::new(kind);
            scene.prepare(intent);
            assert!(scene.kill_at(moment, |mount| intent.act(mount)));
            scene.server.put("/b", b"theirs");
            scene.restart(&intent.after());
            let ours = intent.after().remove("/b").unwrap();
            scene.settle_to(&files(&[("/b", b"theirs")]));
            let copies = fs::read_dir(scene.mount.state().join("conflicts")).unwrap();
            let kept: Vec<_> =
                copies.map(|copy| fs::read(copy.unwrap().path().join("local")).unwrap()).collect();
            // Who edits what we stored has seen it; who makes the name has not.
            let seen = matches!(moment, Moment::Applied(_));
            assert!(kept == [ours] || (seen && kept.is_empty()), "{intent:?} {moment:?}");
        }
    }
}

/// A folder is being moved, and somebody else removes it: what is here is under its new name.
fn somebody_else_removes_the_folder_meanwhile(kind: Kind) {
    for moment in [Moment::Unsent, Moment::Applied(0)] {
        let mut scene = Scene::new(kind);
        let intent = Intent::MoveFolder;
        scene.prepare(intent);
        assert!(scene.kill_at(moment, |mount| intent.act(mount)));
        for path in scene.server.files().into_keys().filter(|path| path.starts_with("/d/")) {
            scene.server.delete(&path);
        }
        scene.restart(&intent.after());
        scene.ends_with(&intent.after());
        scene.no_conflict();
    }
}

/// What the mounted folder lists; nothing is read.
fn names(mount: &Mount) -> Vec<String> {
    let entries = fs::read_dir(mount.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A large file is renamed, the reply gets lost, and it is renamed again before the next attempt: the
/// name in between is ours, and goes.
fn a_large_file_that_is_renamed_twice_leaves_no_ghost(kind: Kind) {
    for killed in [false, true] {
        let mut scene = Scene::new(kind);
        let content = bytes(1, LARGE);
        fs::write(scene.mount.at("a"), &content).unwrap();
        scene.mount.flush();
        renamed_twice(&mut scene, killed, &content);
    }
}

/// The same with a file of which the bytes are only at the server: they are found where they were
/// moved to.
fn a_file_that_was_never_read_is_renamed_twice_and_keeps_its_bytes(kind: Kind) {
    for killed in [false, true] {
        let mut scene = Scene::new(kind);
        let content = bytes(2, LARGE);
        scene.server.put("/a", &content);
        wait_for("the file", || scene.mount.at("a").exists().then_some(()));
        scene.mount.wait_synced();
        renamed_twice(&mut scene, killed, &content);
    }
}

/// Renames `a` to `b`, loses the reply, and renames it to `c` before anything is sent again: in the
/// end `c` is that file, everywhere, and nothing else is there.
#[track_caller]
fn renamed_twice(scene: &mut Scene, killed: bool, content: &[u8]) {
    use std::os::unix::fs::MetadataExt as _;
    let ino = fs::metadata(scene.mount.at("a")).unwrap().ino();
    let lost = scene.lose_a_reply();
    fs::rename(scene.mount.at("a"), scene.mount.at("b")).unwrap();
    lost.wait();
    if killed {
        scene.mount.kill9();
        scene.mount.start();
    } else {
        scene.wait_waiting();
    }
    fs::rename(scene.mount.at("b"), scene.mount.at("c")).unwrap();
    assert_eq!(names(&scene.mount), ["c"]);
    scene.settle();
    assert_eq!(fs::metadata(scene.mount.at("c")).unwrap().ino(), ino, "it is another file");
    let stored = scene.server.files();
    assert!(stored == files(&[("/c", content)]), "{:?}", stored.keys());
    assert!(fs::read(scene.mount.at("c")).unwrap() == content);
    scene.no_conflict();
    scene.never_nameless(&["/a", "/b", "/c"]);
}
