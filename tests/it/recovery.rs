//! What was under way when the daemon was killed: each change is finished or undone by what the server
//! has, whatever happened there meanwhile.
//!
//! The daemon is killed at one exact place: before its request was served, or after that and before
//! the reply. Where a step lies inside the daemon, `tests/failpoints` kills it there.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use workspaced::{After, Before, RequestHead};

use crate::on_both_servers;
use crate::support::hooks::{Act, Hits, Hooks, is_write};
use crate::support::observe::{history, json, outbox, wait_sent};
use crate::support::tree::agree;
use crate::support::{Kind, Mount, TestServer, bytes, wait_for};

on_both_servers!(
    a_large_file_that_is_renamed_twice_leaves_no_ghost,
    a_file_that_was_never_read_is_renamed_twice_and_keeps_its_bytes,
);

const LARGE: usize = 400 << 10;

/// A server that does what it is told with requests, and a mount of it.
struct Scene {
    server: TestServer,
    hooks: Arc<Hooks>,
    mount: Mount,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let hooks = Hooks::new();
        let server = kind.server().interceptor(hooks.clone()).start();
        let mount = Mount::of(&server);
        mount.wait_synced();
        Self { server, hooks, mount }
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

    /// Lets everything through and waits until both sides are the same and nothing is left to do.
    #[track_caller]
    fn settle(&self) {
        self.hooks.clear();
        drop(self.mount.ctl(&["resume"]));
        wait_sent(&self.mount);
        self.mount.wait_synced();
        agree(&self.server, &self.mount, &self.mount);
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

fn files(expected: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    expected.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
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
        renamed_twice(&mut scene, killed);
        assert!(
            scene.server.files() == files(&[("/c", &content)]),
            "{:?}",
            scene.server.files().keys()
        );
        assert!(fs::read(scene.mount.at("c")).unwrap() == content);
        scene.no_conflict();
        scene.never_nameless(&["/a", "/b", "/c"]);
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
        renamed_twice(&mut scene, killed);
        assert!(
            scene.server.files() == files(&[("/c", &content)]),
            "{:?}",
            scene.server.files().keys()
        );
        assert!(fs::read(scene.mount.at("c")).unwrap() == content);
        scene.no_conflict();
        scene.never_nameless(&["/a", "/b", "/c"]);
    }
}

/// Renames `a` to `b`, loses the reply, and renames it to `c` before anything is sent again.
#[track_caller]
fn renamed_twice(scene: &mut Scene, killed: bool) {
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
}
