//! Those who watch the mounted folder (inotify) hear of changes that come from the remote.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::fuse_or_skip;
use crate::shell_life::{pair, program_or_skip};
use crate::support::tree::agree;
use crate::support::{Mount, TestServer, wait_for};

/// Somebody who watches folders.
struct Watcher {
    inotify: Inotify,
    heard: BTreeSet<(String, String)>,
}

impl Watcher {
    fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        Self { inotify, heard: BTreeSet::new() }
    }

    fn watch(&self, path: &Path) {
        self.inotify.add_watch(path, AddWatchFlags::IN_ALL_EVENTS).unwrap();
    }

    /// Waits until an event of that kind was heard for a name.
    #[track_caller]
    fn hears(&mut self, kind: &str, name: &str) {
        let wanted = (kind.to_owned(), name.to_owned());
        wait_for(&format!("{kind} of {name}"), || {
            self.listen();
            self.heard.contains(&wanted).then_some(())
        });
        self.heard.remove(&wanted);
    }

    fn listen(&mut self) {
        for event in self.inotify.read_events().unwrap_or_default() {
            let name = event.name.unwrap_or_default().into_string().unwrap();
            let kinds = event.mask.iter_names().map(|(kind, _)| kind.to_owned());
            self.heard.extend(kinds.map(|kind| (kind, name.clone())));
        }
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Who looks in the very moment of the news may see what was there before.
fn shows(path: &Path, content: &str) {
    wait_for(content, || (text(path) == content).then_some(()));
}

/// A file and a folder that are made, changed and removed elsewhere are heard of as if it had been done
/// here, and who looks then finds what is new.
#[test]
fn changes_from_the_remote_wake_watchers() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    std::fs::create_dir(b.at("known")).unwrap();
    agree(&server, &b, &a);
    let mut watcher = Watcher::new();
    watcher.watch(&a.path());
    watcher.watch(&a.at("known"));
    server.put("/known/file", b"one");
    watcher.hears("IN_CREATE", "file");
    assert_eq!(text(&a.at("known/file")), "one");
    watcher.hears("IN_CLOSE_WRITE", "file");
    // The first change was a modification as well.
    watcher.heard.clear();
    server.put("/known/file", b"two, longer");
    watcher.hears("IN_MODIFY", "file");
    shows(&a.at("known/file"), "two, longer");
    watcher.hears("IN_CLOSE_WRITE", "file");
    server.delete("/known/file");
    watcher.hears("IN_DELETE", "file");
    assert!(!a.at("known/file").exists());
    // What another mount does is no different.
    std::fs::create_dir(b.at("folder")).unwrap();
    watcher.hears("IN_CREATE", "folder");
    watcher.watch(&a.at("folder"));
    std::fs::write(b.at("folder/inner"), "x").unwrap();
    watcher.hears("IN_CREATE", "inner");
    std::os::unix::fs::symlink("inner", b.at("folder/link")).unwrap();
    watcher.hears("IN_CREATE", "link");
    std::fs::rename(b.at("folder/inner"), b.at("known/moved")).unwrap();
    watcher.hears("IN_CREATE", "moved");
    watcher.hears("IN_DELETE", "inner");
    std::fs::remove_file(b.at("folder/link")).unwrap();
    std::fs::remove_dir(b.at("folder")).unwrap();
    watcher.hears("IN_DELETE", "folder");
    // Waking is no change: nothing is sent because of it, and nothing else is different.
    b.flush();
    let ours = agree(&server, &b, &a);
    assert_eq!(ours.keys().collect::<Vec<_>>(), ["/known", "/known/moved"]);
}

/// A watch on a file hears of its new content, and that it is gone.
#[test]
fn a_watched_file_tells_of_its_new_content() {
    fuse_or_skip!();
    let (server, a, _b) = pair();
    server.put("/file", b"one");
    wait_for("the file", || a.at("file").exists().then_some(()));
    let mut watcher = Watcher::new();
    watcher.watch(&a.at("file"));
    let before = std::fs::metadata(a.at("file")).unwrap();
    server.put("/file", b"two");
    watcher.hears("IN_MODIFY", "");
    shows(&a.at("file"), "two");
    let after = std::fs::metadata(a.at("file")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    server.delete("/file");
    watcher.hears("IN_DELETE_SELF", "");
}

/// The process that wakes watchers, and whatever else the daemon started, ends with the daemon, however
/// that ends, and keeps no mount busy.
#[test]
fn nothing_is_left_behind() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut a = Mount::of(&server);
    a.wait_synced();
    let children = |pid: u32| -> Vec<u32> {
        let all = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let each = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
        let text: String = all.into_iter().chain(each).collect::<Vec<_>>().join(" ");
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let alive = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    for kill in [true, false] {
        let mut watcher = Watcher::new();
        watcher.watch(&a.path());
        server.put(&format!("/file-{kill}"), b"x");
        watcher.hears("IN_CREATE", &format!("file-{kill}"));
        let processes = children(a.pid());
        let arguments = |pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let arguments: Vec<String> = processes.iter().map(arguments).collect();
        assert!(arguments.iter().any(|all| all.contains("wake-watchers")), "{arguments:?}");
        drop(watcher);
        if kill {
            a.kill9();
        } else {
            assert_eq!(a.term(), Some(0));
        }
        wait_for("their end", || processes.iter().all(|pid| !alive(*pid)).then_some(()));
        if kill {
            a.start();
            a.wait_synced();
        }
    }
    assert!(!a.is_mounted());
}

/// `inotifywait` hears of what is done here and of what comes from elsewhere.
#[test]
fn inotifywait_hears_both_sides() {
    fuse_or_skip!();
    program_or_skip!("inotifywait");
    let (server, a, _b) = pair();
    let log = a.outside().join("heard");
    let mut child = std::process::Command::new("inotifywait")
        .args(["-m", "-q", "-r", "--format", "%e %f", "-o"])
        .arg(&log)
        .arg(a.path())
        .spawn()
        .unwrap();
    let heard = |what: &str| {
        wait_for(what, || text(&log).lines().any(|line| line == what).then_some(()));
    };
    // It does not say when it listens: what is done here is repeated until it is heard.
    wait_for("it listens", || {
        std::fs::write(a.at("here"), "x").unwrap();
        text(&log).contains("CLOSE_WRITE,CLOSE here").then_some(())
    });
    server.put("/there", b"x");
    heard("CREATE there");
    heard("MODIFY there");
    heard("CLOSE_WRITE,CLOSE there");
    server.delete("/there");
    heard("DELETE there");
    child.kill().unwrap();
    child.wait().unwrap();
}
