//! The world of a story: two mounts, a remote, one clock that stands still between steps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::checks::Cause;
use super::conflicts::Copy;
use super::mount::Mount;
use super::plants::Plant;
use super::remote::{Bytes, Remote};
use super::story::{self, Act, Arrival, Fate, Pace, People, Server, Story};
use super::texts::{whole, with_line};
use crate::engine::core::Now;
use crate::engine::link::{Pause, Wake};
use crate::path::WsPath;

/// How many rounds everything may take to come to rest.
const ROUNDS_MAX: usize = 400;

/// What histories come to.
pub(super) const COMES_ABOUT: [&str; 21] = [
    "a change was given up",
    "a change was tried again",
    "a conflict waits for a person",
    "a conflict was merged",
    "a conflict was settled for ours",
    "a conflict was settled for theirs",
    "a person chose ours",
    "a person chose theirs",
    "a person gave ours a name that was free",
    "a person merged",
    "a person removed again",
    "removals were approved",
    "removals were taken back",
    "what others removed was kept",
    "what was looked at is another set now",
    "the server went back",
    "a mount found out that the server went back",
    "a person went on with a server that forgot",
    "the server is another one",
    "a person went on with another server",
    "what is here was offered again",
];

thread_local! {
    /// How often something came about in the histories of this thread.
    pub(super) static HAPPENED: RefCell<BTreeMap<&'static str, u32>> = RefCell::default();
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) server: Server,
    pub(super) plant: Plant,
    pub(super) remote: Remote,
    pub(super) mounts: [Mount; 2],
    pub(super) now: Now,
    pub(super) steps: u64,
    next_line: u64,
    seed: u64,
    /// Contents that were written on a mount, and on which.
    pub(super) written: BTreeMap<Bytes, usize>,
    /// Contents that gave way to a later call of somebody who saw them.
    pub(super) superseded: BTreeSet<Bytes>,
    /// Contents in conflict copies.
    pub(super) kept: BTreeSet<Bytes>,
    /// What each conflict copy of each mount holds.
    pub(super) copies: BTreeMap<(usize, String), Copy>,
    /// Which mount made what the server has under a name, and when it put that there.
    pub(super) makers: BTreeMap<WsPath, (usize, u64)>,
    is_told: bool,
}

impl World {
    fn new(server: Server, people: People, plant: Plant, is_told: bool) -> Self {
        let now = Now { mono: Duration::from_secs(1000), wall: Timestamp::UNIX_EPOCH };
        Self {
            server,
            plant,
            remote: Remote::new(server, plant),
            mounts: [Mount::new(now, people, 1), Mount::new(now, people, 2)],
            now,
            steps: 0,
            next_line: 0,
            seed: 2,
            written: BTreeMap::new(),
            superseded: BTreeSet::new(),
            kept: BTreeSet::new(),
            copies: BTreeMap::new(),
            makers: BTreeMap::new(),
            is_told,
        }
    }

    /// Counts that something came about, to see that histories come to it.
    pub(super) fn note(&self, what: &'static str) {
        HAPPENED.with_borrow_mut(|happened| *happened.entry(what).or_default() += 1);
    }

    /// Tells what happens to whoever reads a story again.
    #[allow(clippy::print_stderr, reason = "for whoever repeats it")]
    pub(super) fn tell(&self, text: impl FnOnce() -> String) {
        if self.is_told {
            eprintln!("    {}", text());
        }
    }

    pub(super) fn new_bytes(&mut self) -> Bytes {
        whole(self.new_line())
    }

    pub(super) fn new_line(&mut self) -> u64 {
        self.next_line += 1;
        self.next_line
    }

    /// Takes an id, which is committed with the step that uses it or without one.
    pub(super) fn take_id(&mut self, at: usize) -> u64 {
        let plant = self.plant;
        let mount = &mut self.mounts[at];
        let mut rows = Vec::new();
        let id = mount.core.take_id(&mut rows);
        mount.disk.commit(rows, plant);
        id
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall += time;
    }

    fn act(&mut self, act: Act) {
        self.tell(|| format!("- {act:?}"));
        let at = |mount: story::Mount| mount as usize;
        match act {
            Act::Local(mount, call) => self.call(at(mount), call),
            Act::OtherWrites(place) => self.other_writes(&place.path()),
            Act::OtherRemoves(place) => self.other_removes(&place.path()),
            Act::Event(mount, quiet) => self.event(at(mount), quiet),
            Act::Repeat(mount) => self.repeat(at(mount)),
            Act::Swap(mount) => self.swap(at(mount)),
            Act::Expire => self.remote.expired = self.remote.newest(),
            Act::List(mount) => self.list(at(mount)),
            Act::Plan(mount, pace) => self.plan(at(mount), pace),
            Act::Work(mount, pick) => self.work(at(mount), pick),
            Act::Arrive(mount, pick, how) => self.arrive(at(mount), pick, how),
            Act::Stray(pick) => self.stray(pick),
            Act::Answer(mount, pick, fate) => self.answer(at(mount), pick, fate),
            Act::Evict(mount, place) => self.evict(at(mount), &place.path()),
            Act::Cut(mount) => self.mounts[at(mount)].is_cut = true,
            Act::Mend(mount) => self.mend(at(mount)),
            Act::Pause(mount) => self.pause(at(mount)),
            Act::Resume(mount) => self.resume(at(mount)),
            Act::Crash(mount) => self.crash(at(mount)),
            Act::OtherEdits(place, line) => self.other_edits(&place.path(), line),
            Act::Rounds(mount) => (0..4).for_each(|_| self.round(at(mount))),
            Act::Resolve(mount, pick, choice) => self.resolve(at(mount), pick, choice),
            Act::Retry(mount, place) => self.retry(at(mount), &place.path()),
            Act::Discard(mount, place) => self.discard(at(mount), &place.path()),
            Act::BackUp => self.remote.back_up(),
            Act::Restore => self.restore(),
            Act::Replace => self.replace(),
            Act::Accept(mount) => self.accept(at(mount)),
            Act::Look(mount) => self.look(at(mount)),
            Act::Decide(mount, approve) => self.decide(at(mount), approve),
        }
    }

    fn other_writes(&mut self, path: &WsPath) {
        if self.remote.takes_file(path) {
            let bytes = self.new_bytes();
            self.remote.store(path, bytes);
            self.makers.remove(path);
            self.tell(|| format!("other writes {path} = {bytes}"));
        }
    }

    fn other_edits(&mut self, path: &WsPath, line: u8) {
        if let Some((_, bytes)) = self.remote.files.get(path).copied()
            && bytes != 0
        {
            let bytes = with_line(bytes, line, self.new_line());
            self.remote.store(path, bytes);
            self.makers.remove(path);
            self.tell(|| format!("other writes {path} = {bytes}"));
        }
    }

    fn other_removes(&mut self, path: &WsPath) {
        if self.remote.files.contains_key(path) {
            self.remote.remove(path);
        }
    }

    fn evict(&mut self, at: usize, path: &WsPath) {
        let ino = self.mounts[at].core.file_at(path);
        if let Some(ino) = ino {
            self.step(at, &Cause::Nothing, |core, _, changes| core.evict(ino, changes));
        }
    }

    fn mend(&mut self, at: usize) {
        self.mounts[at].is_cut = false;
        self.step(at, &Cause::Nothing, |core, now, _| core.link.wake(Wake::Connection, now.mono));
    }

    fn pause(&mut self, at: usize) {
        let pause = Pause { reason: None, since: self.now.wall, until: None };
        self.step(at, &Cause::Nothing, |core, _, changes| core.set_pause(Some(pause), changes));
    }

    fn resume(&mut self, at: usize) {
        self.step(at, &Cause::Nothing, |core, now, changes| {
            core.link.wake(Wake::Person, now.mono);
            core.set_pause(None, changes);
        });
    }

    /// Requests go on their way without the process; everything else in memory is forgotten.
    fn crash(&mut self, at: usize) {
        let (now, history) = (self.now, (self.remote.newest(), self.remote.epoch()));
        self.seed += 1;
        let seed = self.seed;
        let mount = &mut self.mounts[at];
        let under_way = mount.requests.drain(..).filter(|request| request.reply.is_none());
        mount.strays.extend(under_way);
        mount.restart(history, now, seed);
        // What a reader sees is what was seen before.
        self.step(at, &Cause::Nothing, |_, _, _| ());
    }

    /// All that is under way for a mount comes to its end, and what comes of that begins.
    fn round(&mut self, at: usize) {
        self.plan(at, Pace::Bound);
        for _ in 0..self.mounts[at].work.len() {
            self.work(at, 0);
        }
        for _ in 0..self.mounts[at].requests.len() {
            self.arrive(at, 0, Arrival::Whole);
            self.answer(at, 0, Fate::Heard);
        }
        while self.is_behind(at) && !self.is_cut(at) {
            self.event(at, true);
        }
        self.list(at);
    }

    /// Everything works again, nobody does anything more, and all comes to rest.
    fn rest(&mut self) {
        for at in 0..self.mounts.len() {
            self.mend(at);
            self.resume(at);
        }
        for at in 0..self.mounts.len() {
            self.accept(at);
            self.list_after_all(at);
        }
        for _ in 0..ROUNDS_MAX {
            while self.mounts.iter().any(|mount| !mount.strays.is_empty()) {
                self.stray(0);
            }
            for at in 0..self.mounts.len() {
                self.step(at, &Cause::Nothing, |core, _, changes| core.unpark(|_| true, changes));
                self.round(at);
                self.accept(at);
                self.look(at);
                while !self.mounts[at].looked_at.is_empty() {
                    self.decide(at, true);
                }
            }
            if (0..self.mounts.len()).all(|at| self.is_at_rest(at)) {
                return;
            }
            self.pass(Duration::from_secs(2));
        }
        for mount in &self.mounts {
            let lanes = mount.core.outbox.lanes();
            let left: Vec<_> = lanes.flat_map(|(_, lane)| lane.records()).collect();
            let rest = (&left, &mount.core.recheck, &mount.work, &mount.requests, &mount.listing);
            let is_empty = left.is_empty() && mount.core.recheck.is_empty();
            assert!(is_empty && mount.listing.is_none(), "never came to rest: {rest:?}");
        }
        panic!("never came to rest");
    }

    fn is_at_rest(&self, at: usize) -> bool {
        let mount = &self.mounts[at];
        mount.work.is_empty()
            && mount.requests.is_empty()
            && mount.listing.is_none()
            && !self.is_behind(at)
            && mount.core.outbox.is_empty()
            && mount.core.recheck.is_empty()
            && !mount.core.guards.list_again
            && mount.core.reset_suspected.is_none()
            && mount.core.approvals_open() == 0
    }
}

/// Lives a story to its end. Panics when something is wrong.
pub(super) fn live(story: &Story, plant: Plant, is_told: bool) {
    let mut world = World::new(story.server, story.people, plant, is_told);
    for act in &story.acts {
        world.act(*act);
    }
    world.tell(|| "rest".to_owned());
    world.rest();
    if world.remote.epoch() > 0 {
        // Names stay whose bytes a server forgot, until somebody reads them.
        world.read_all();
        world.rest();
    }
    world.check_rest();
}
