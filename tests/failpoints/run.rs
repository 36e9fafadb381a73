//! One run: a server, two mounts, calls on the first one, and whatever dies meanwhile.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::serve::{Serve, arm};
use crate::support::tree::{bytes_of, difference, summaries, tree};
use crate::support::{Kind, Mount, PATIENCE, wait_for};
use crate::world::{Op, State, World, differences};

/// Which process a failpoint lets die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Daemon,
    Server,
}

/// A server, two mounts of it, and what they must show.
pub struct Run {
    pub server: Serve,
    pub a: Mount,
    b: Option<Mount>,
    /// What the first mount may show now, with what it must show in the end.
    pairs: Vec<(World, World)>,
    /// Contents that must be kept in a conflict copy.
    copies: Vec<Vec<u8>>,
    /// Something is damaged, so something may be set aside.
    pub damaged: bool,
    kind: Kind,
    victim: Victim,
    /// How often it died.
    pub crashes: usize,
    /// Something was damaged on purpose, and is set aside.
    pub was_damaged: bool,
}

/// Arms a failpoint of a mount made by [`mount`].
pub fn arm_mount(mount: &Mount, points: &str) {
    arm(&points_of(mount), points);
}

fn points_of(mount: &Mount) -> PathBuf {
    mount.outside().join("failpoints")
}

impl Run {
    /// Prepares a run in which `victim` dies once.
    pub fn new(victim: Victim, kind: Kind) -> Self {
        let server = Serve::new(kind);
        let a = Mount::builder(&server.source()).prepare();
        Self {
            server,
            a,
            b: None,
            pairs: vec![(World::new(), World::new())],
            copies: Vec::new(),
            damaged: false,
            kind,
            victim,
            crashes: 0,
            was_damaged: false,
        }
    }

    /// Starts the first mount.
    pub fn start(&mut self) {
        self.a.add_env("MOUNTD_FAILPOINTS_FILE", points_of(&self.a).to_str().unwrap());
        self.a.start();
    }

    /// Arms a failpoint in the running victim.
    pub fn arm(&self, points: &str) {
        match self.victim {
            Victim::Daemon => arm_mount(&self.a, points),
            Victim::Server => self.server.arm(points),
        }
    }

    /// Whether the server is the one to die.
    pub fn is_server_victim(&self) -> bool {
        self.victim == Victim::Server
    }

    /// Performs a call on the first mount. When it fails, the daemon must have died; it is made again
    /// unless it was done all the same.
    #[track_caller]
    pub fn op(&mut self, op: Op) {
        match op.perform(&self.a.path()) {
            Ok(()) => {
                for (now, due) in &mut self.pairs {
                    *now = op.after(now);
                    *due = op.after(due);
                }
            }
            Err(error) => {
                let done = |(now, due): &(World, World)| (op.after(now), op.after(due));
                let done: Vec<_> = self.pairs.iter().map(done).collect();
                let begun = |(now, due): &(World, World)| op.cut_short(now).zip(op.cut_short(due));
                let begun: Vec<_> = self.pairs.iter().filter_map(begun).collect();
                self.pairs = [self.pairs.clone(), done.clone(), begun.clone()].concat();
                assert_eq!(self.victim, Victim::Daemon, "{op:?}: {error}\n{}", self.a.log());
                self.recover(&format!("{op:?} failed with {error}"));
                if done.iter().any(|pair| self.pairs.contains(pair)) {
                    // Done altogether, so not only begun.
                    self.pairs.retain(|pair| !begun.contains(pair));
                } else {
                    self.op(op);
                }
            }
        }
    }

    /// Notes a call that was cut short and is not made again.
    pub fn may_be_begun(&mut self, op: &Op) {
        let begun = |(now, due): &(World, World)| op.cut_short(now).zip(op.cut_short(due));
        let begun: Vec<_> = self.pairs.iter().filter_map(begun).collect();
        self.pairs.extend(begun);
    }

    /// Somebody else stores a file at the server.
    pub fn remote(&mut self, path: &str, bytes: &[u8]) {
        self.server.http.put(path, bytes);
        let stored = |world: &World| {
            let mut world = world.clone();
            let mode = None;
            for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
                world.entry(path[..at].to_owned()).or_insert(State::Dir);
            }
            world.insert(path.to_owned(), State::File { bytes: bytes.to_vec(), mode });
            world
        };
        let mut pairs = Vec::new();
        for (now, due) in &self.pairs {
            pairs.push((now.clone(), stored(due)));
            pairs.push((stored(now), stored(due)));
        }
        self.pairs = pairs;
    }

    /// From now on a file may hold these bytes, and in the end it must.
    pub fn becomes(&mut self, path: &str, bytes: &[u8]) {
        let holds = |world: &World| {
            let mut world = world.clone();
            world.insert(path.to_owned(), State::File { bytes: bytes.to_vec(), mode: None });
            world
        };
        let both =
            |(now, due): &(World, World)| [(now.clone(), holds(due)), (holds(now), holds(due))];
        self.pairs = self.pairs.iter().flat_map(both).collect();
    }

    /// From now on there must be these files, whatever was there before.
    pub fn holds(&mut self, files: &[(String, Vec<u8>)]) {
        let state = |bytes: &Vec<u8>| State::File { bytes: bytes.clone(), mode: None };
        for (now, due) in &mut self.pairs {
            for world in [now, due] {
                world.extend(files.iter().map(|(path, bytes)| (path.clone(), state(bytes))));
            }
        }
    }

    /// For a while a path may also show this, or nothing.
    pub fn may_show(&mut self, path: &str, bytes: Option<&[u8]>) {
        let shows = |(now, due): &(World, World)| {
            let mut now = now.clone();
            now.remove(path);
            let file = bytes.map(|bytes| State::File { bytes: bytes.to_vec(), mode: None });
            now.extend(file.map(|file| (path.to_owned(), file)));
            (now, due.clone())
        };
        let more: Vec<_> = self.pairs.iter().map(shows).collect();
        self.pairs.extend(more);
    }

    /// From now on these bytes must be in a conflict copy in the end.
    pub fn must_be_kept(&mut self, bytes: &[u8]) {
        self.copies.push(bytes.to_vec());
    }

    /// Waits for the death of the daemon, starts it again as it is, and checks what it shows.
    #[track_caller]
    pub fn recover(&mut self, why: &str) {
        self.died(why);
        self.restart();
    }

    /// Waits for the death of the daemon.
    #[track_caller]
    pub fn died(&mut self, why: &str) {
        wait_for(&format!("the daemon's end: {why}"), || self.a.has_ended().then_some(()));
        let status = self.a.end_status();
        assert_eq!(status.signal(), Some(9), "{status}\n{}", self.a.log());
        self.crashes += 1;
    }

    /// Starts the daemon again as it is, and checks what it shows.
    #[track_caller]
    pub fn restart(&mut self) {
        self.a.start();
        self.narrow();
    }

    /// Keeps of what the mount may show what it does show.
    #[track_caller]
    pub fn narrow(&mut self) {
        let found = wait_for("the mount can be read", || tree(&self.a.path()).ok());
        let fits = |(now, _): &&(World, World)| differences(now, &found).is_empty();
        let kept: Vec<_> = self.pairs.iter().filter(fits).cloned().collect();
        if kept.is_empty() {
            let all: Vec<_> = self.pairs.iter().map(|(now, _)| differences(now, &found)).collect();
            panic!("after the restart the mount shows none of what may be: {all:#?}");
        }
        self.pairs = kept;
    }

    /// Lets the victim die if it has not yet, at the latest while all is sent and looked after.
    #[track_caller]
    pub fn until_crash(&mut self) {
        if self.crashes > 0 {
            return;
        }
        match self.victim {
            Victim::Daemon => self.recover("nothing else leads to it"),
            Victim::Server => {
                self.server.wait_crash();
                self.crashes += 1;
                self.server.start("");
            }
        }
    }

    /// Waits until all is sent. Where the server dies of it, it is started again.
    #[track_caller]
    pub fn settle(&mut self) {
        wait_for("everything is sent", || {
            if self.victim == Victim::Server && self.server.has_ended() {
                self.until_crash();
            }
            (self.a.status()["uploads"]["queued"] == 0).then_some(())
        });
    }

    /// Waits until everything is quiet and checks that all agree, that nothing is missing and
    /// nothing left over; then stops everything.
    #[track_caller]
    pub fn finish(&mut self) {
        self.settle();
        if self.b.is_none() {
            self.b = Some(Mount::builder(&self.server.source()).start());
        }
        let began = Instant::now();
        loop {
            let wrong = self.disagreement();
            if wrong.is_empty() {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "in the end: {wrong:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.a.status();
        assert_eq!(status["uploads"]["attention"].as_u64().unwrap_or(0), 0, "{status:#}");
        self.check_copies();
        let contents = self.a.state().join("files");
        let strange: Vec<_> = std::fs::read_dir(contents)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<u64>().is_err())
            .filter(|name| !(self.damaged && name.contains(".corrupt.")))
            .filter(|name| !(self.was_damaged && name.contains(".corrupt.")))
            .collect();
        assert!(strange.is_empty(), "left over: {strange:?}");
        for folder in std::fs::read_dir(self.a.state().join("discarded")).into_iter().flatten() {
            let folder = folder.unwrap().path();
            let whole = folder.join("manifest.json").exists();
            assert!(whole, "{} was not finished and is left over", folder.display());
        }
        let mut b = self.b.take().unwrap();
        for mount in [&mut self.a, &mut b] {
            assert_eq!(mount.term(), Some(0), "{}", mount.log());
            assert!(!mount.is_mounted());
            assert!(!mount.socket().exists());
        }
    }

    fn disagreement(&self) -> Vec<String> {
        let Ok(ours) = tree(&self.a.path()) else { return vec!["not readable".to_owned()] };
        let differ: Vec<_> = self.pairs.iter().map(|(_, due)| differences(due, &ours)).collect();
        if !differ.iter().any(Vec::is_empty) {
            return differ.into_iter().flatten().collect();
        }
        let theirs = self.server.http.files();
        let apart = difference(&summaries(&bytes_of(&ours)), &summaries(&theirs));
        if !apart.is_empty() {
            return vec![format!("the mount (left) and the server: {apart:#?}")];
        }
        let Ok(other) = tree(&self.b.as_ref().unwrap().path()) else {
            return vec!["the other mount is not readable".to_owned()];
        };
        let apart = match self.kind {
            Kind::Extended => difference(&ours, &other),
            // It keeps no modes.
            Kind::Original => {
                let differ = difference(&bytes_of(&ours), &bytes_of(&other));
                return differ.iter().map(|(path, ..)| format!("{path} differs")).collect();
            }
        };
        if !apart.is_empty() {
            return vec![format!("the mount (left) and the other: {apart:#?}")];
        }
        Vec::new()
    }

    #[track_caller]
    fn check_copies(&self) {
        let folder = self.a.state().join("conflicts");
        let folders = std::fs::read_dir(folder).unwrap();
        let folders: Vec<PathBuf> = folders.map(|entry| entry.unwrap().path()).collect();
        let list = self.a.ctl(&["conflicts", "list", "--resolved", "--json"]);
        let list = String::from_utf8(list.stdout).unwrap();
        for folder in &folders {
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert!(list.contains(name), "nothing lists {name}: {list}");
        }
        let kept = folders.iter().filter_map(|folder| std::fs::read(folder.join("local")).ok());
        let kept: Vec<Vec<u8>> = kept.collect();
        for copy in &self.copies {
            assert!(kept.contains(copy), "our side of a conflict is in no copy");
        }
        let listed = self.a.status()["conflicts"]["open"].as_u64().unwrap_or(0);
        assert_eq!(listed, self.copies.len() as u64, "conflicts listed");
    }
}
