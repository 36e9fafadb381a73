//! The way out: plans, requests, replies, as the runner and `transfer` do it.

use std::time::Duration;

use super::checks::Cause;
use super::mount::{Request, Sent, Work};
use super::plants::Plant;
use super::remote::{Bytes, digest};
use super::story::{Arrival, Fate, Pace};
use super::world::World;
use crate::engine::decide::tests::{handed_out, said};
use crate::engine::link::table::State;
use crate::engine::plan::{Item, ItemSource, Task};
use crate::engine::replies::Answer;
use crate::path::WsPath;
use crate::record::Op;
use crate::remote::{Outcome, RemoteError};

fn unreachable(maybe_applied: bool) -> RemoteError {
    RemoteError::Unreachable { message: "lost".into(), maybe_applied }
}

fn unsent(item: Item) -> Answer {
    Answer { item, digest: None, outcome: None }
}

impl World {
    pub(super) fn plan(&mut self, at: usize, pace: Pace) {
        self.pass(pace.duration());
        if self.is_stranger(at) {
            // The stream is down.
            self.mounts[at].core.ask_again = true;
        }
        let said = said(&self.mounts[at].core, self.now);
        let plan = self.step(at, &Cause::Nothing, |core, now, _| core.plan(now));
        // What people are told is what is done.
        assert_eq!(handed_out(&plan), said);
        let mount = &mut self.mounts[at];
        let link = &mount.core.link;
        let is_held = link.pause().is_some() || link.is_doubted();
        if is_held || link.states()[0] == State::Stranger {
            let sends =
                |task: &Task| matches!(task, Task::Bulk(_) | Task::Single(_) | Task::Settle { .. });
            assert!(!plan.tasks.iter().any(sends), "sent while paused, or to a server that forgot");
        }
        mount.work.extend(plan.tasks.into_iter().map(Work::Task));
        self.list_again(at);
    }

    /// Does one of the things that were planned.
    pub(super) fn work(&mut self, at: usize, pick: u8) {
        let work = &mut self.mounts[at].work;
        if work.is_empty() {
            return;
        }
        let work = work.remove(usize::from(pick) % work.len());
        self.tell(|| format!("at {at}: {work:?}"));
        match work {
            Work::Task(Task::Bulk(items)) => self.send(at, items, true),
            Work::Task(Task::Single(item)) => self.send(at, vec![*item], false),
            Work::Task(Task::Probe) => self.probe(at),
            Work::Task(Task::Settle { path, seq }) => self.read_to_settle(at, path, seq),
            Work::Task(Task::Recheck(path)) => self.read_again(at, path),
            Work::Task(Task::Fetch(ino)) => self.read_content(at, ino),
            Work::Rechecked(path, before, theirs) => {
                self.rechecked(at, &path, before.as_ref(), theirs.as_ref());
            }
            Work::Settled(path, seq, theirs) => self.settled(at, &path, seq, theirs.as_ref()),
            Work::Keep(record) => self.copy_theirs(at, record),
            Work::Copied(record, theirs) => self.keep_both(at, &record, &theirs),
            Work::Fetched(ino, wanted, theirs) => {
                self.fetched(at, ino, &wanted, theirs.as_ref());
            }
        }
    }

    fn probe(&mut self, at: usize) {
        let answer = match self.mounts[at].is_cut {
            true => Err(unreachable(false)),
            false => Ok(self.remote.capabilities()),
        };
        self.step(at, &Cause::Nothing, |core, now, changes| {
            core.probed(&answer, now, changes);
        });
    }

    /// The bytes of an item; `None` when they cannot be had now.
    fn load(&mut self, at: usize, item: &Item) -> Option<Option<Bytes>> {
        if item.op != Op::Put {
            return Some(None);
        }
        let (core, disk) = (&self.mounts[at].core, &self.mounts[at].disk);
        if item.moved_from.is_some() {
            let known = item.ino.and_then(|ino| core.origin_digest(ino));
            if let Some(known) = known.and_then(|known| self.remote.digests.get(&known)) {
                return Some(Some(*known));
            }
            let ItemSource::Blob(blob) = &item.source else { return Some(None) };
            return Some(disk.blobs.get(blob).copied());
        }
        Some(Some(match &item.source {
            ItemSource::Nothing => 0,
            ItemSource::Blob(blob) => *disk.blobs.get(blob).expect("what is to be sent was freed"),
            ItemSource::File(_) if core.moved_on(item) => return None,
            // A file that was removed meanwhile.
            ItemSource::File(file) => *disk.files.get(file)?,
            ItemSource::Remote(ino) => {
                let ino = *ino;
                if !self.fetch_or_lose(at, ino) {
                    return None;
                }
                self.local_bytes(at, ino)?
            }
            ItemSource::Damaged => unreachable!("nothing is damaged here"),
            ItemSource::Text(_) => unreachable!("no symbolic links here"),
        }))
    }

    fn send(&mut self, at: usize, items: Vec<Item>, is_bulk: bool) {
        self.check_approved(at, &items);
        let mut ready = Vec::new();
        let mut unready = Vec::new();
        for item in items {
            match self.load(at, &item) {
                Some(bytes) => {
                    let put = self.when_put(at, &item, bytes);
                    ready.push(Sent { item, bytes, put });
                }
                None => unready.push(item),
            }
        }
        let is_unfetched = |item: &Item| matches!(item.source, ItemSource::Remote(_));
        let error = self.why_not(at).filter(|_| unready.iter().any(is_unfetched));
        if self.plant == Plant::SwappedBytes && ready.len() > 1 {
            let (one, two) = (ready[0].bytes, ready[1].bytes);
            if one.is_some() && two.is_some() {
                (ready[0].bytes, ready[1].bytes) = (two, one);
            }
        }
        self.step(at, &Cause::Nothing, |core, now, changes| {
            if let Some(error) = error {
                let jitter = core.jitter();
                core.link.failed(&error, now.mono, now.wall, jitter);
            }
            for item in &unready {
                core.outbox.mark(&item.path, |slot| {
                    slot.held_until = Some(now.mono + Duration::from_secs(1));
                });
            }
            core.return_items(unready.into_iter().map(unsent).collect(), now, changes);
            if ready.is_empty() {
                if is_bulk { core.batch_over() } else { core.single_over() }
            }
            for Sent { item, bytes, .. } in ready.iter().filter(|sent| sent.item.op == Op::Put) {
                core.note_sending(&item.path, item.seq, bytes.map(digest), changes);
            }
        });
        if !ready.is_empty() {
            let server = self.known_server(at);
            self.mounts[at].requests.push(Request {
                server,
                items: ready,
                is_bulk,
                reply: None,
                made: Vec::new(),
            });
        }
    }

    /// When what is sent was put under its name.
    fn when_put(&self, at: usize, item: &Item, bytes: Option<Bytes>) -> Option<u64> {
        let shown = &self.mounts[at].shown;
        let path = item.moved_from.as_ref().map_or(&item.path, |(from, _)| from);
        if let Some(shown) = shown.get(&(path.clone(), bytes?)) {
            return Some(shown.last);
        }
        // The file may have been renamed, and changed, since that was planned.
        let is_in_place = matches!(item.source, ItemSource::File(_) | ItemSource::Remote(_));
        let is_elsewhere = || shown.keys().any(|(_, there)| Some(*there) == bytes);
        (is_in_place && is_elsewhere()).then_some(self.steps)
    }

    /// A request gets to the server.
    pub(super) fn arrive(&mut self, at: usize, pick: u8, how: Arrival) {
        let mount = &self.mounts[at];
        let on_way: Vec<usize> =
            (0..mount.requests.len()).filter(|n| mount.requests[*n].reply.is_none()).collect();
        if on_way.is_empty() || mount.is_cut {
            return;
        }
        let n = on_way[usize::from(pick) % on_way.len()];
        let request = self.mounts[at].requests[n].clone();
        // What was sent before for the same paths either came before, or never will.
        self.forget_strays(at, &request);
        let busy = || RemoteError::Busy { status: 503, message: "busy".into(), retry_after: None };
        let invalid = || RemoteError::Invalid { message: "no".into() };
        let mut made = Vec::new();
        let is_other = self.is_for_another(&request);
        let reply = match how {
            _ if is_other => Err(RemoteError::OtherServer { message: "another".into() }),
            Arrival::Whole | Arrival::Twice => Ok(self.apply(at, &request, None, &mut made)),
            Arrival::Forbidden(which) => Ok(self.apply(at, &request, Some(which), &mut made)),
            Arrival::Invalid => Err(invalid()),
            Arrival::TooLarge => Err(RemoteError::TooLarge),
            Arrival::Busy => Err(busy()),
            Arrival::BusyAfter => {
                self.apply(at, &request, None, &mut made);
                Err(busy())
            }
        };
        self.tell(|| format!("the server says {reply:?}"));
        self.mounts[at].requests[n].reply = Some(reply);
        self.mounts[at].requests[n].made = made;
        if how == Arrival::Twice {
            self.mounts[at].strays.push(request);
        }
    }

    /// A copy, or a request that was given up, arrives at last.
    pub(super) fn stray(&mut self, pick: u8) {
        let all: Vec<(usize, usize)> = (0..self.mounts.len())
            .flat_map(|at| (0..self.mounts[at].strays.len()).map(move |n| (at, n)))
            .collect();
        if all.is_empty() {
            return;
        }
        let (at, n) = all[usize::from(pick) % all.len()];
        let request = self.mounts[at].strays.remove(n);
        if self.is_for_another(&request) {
            return;
        }
        let outcomes = self.apply(at, &request, None, &mut Vec::new());
        self.tell(|| format!("a stray request arrives: {outcomes:?}"));
    }

    fn is_for_another(&self, request: &Request) -> bool {
        request.server.is_some_and(|server| server.0 != self.remote.id)
    }

    fn forget_strays(&mut self, at: usize, request: &Request) {
        let paths = paths(request);
        let strays = &mut self.mounts[at].strays;
        strays.retain(|stray| !self::paths(stray).iter().any(|path| paths.contains(path)));
    }

    /// What the server does with a request; one change may be refused for good.
    fn apply(
        &mut self,
        at: usize,
        request: &Request,
        refused: Option<u8>,
        made: &mut Vec<Vec<(WsPath, usize)>>,
    ) -> Vec<Outcome> {
        let refused = refused.map(|which| usize::from(which) % request.items.len());
        let mut outcomes = Vec::new();
        for (n, Sent { item, bytes, put }) in request.items.iter().enumerate() {
            if refused == Some(n) {
                let (code, message) = ("forbidden".to_owned(), "no".to_owned());
                outcomes.push(Outcome::Refused { code, message });
                made.push(Vec::new());
                continue;
            }
            let (outcome, replaced) = self.remote.apply(item, *bytes);
            self.check_replaced(at, &replaced, *put);
            let now = |path: &WsPath| self.remote.versions.get(path).map_or(0, Vec::len);
            made.push(replaced.iter().map(|one| (one.path.clone(), now(&one.path))).collect());
            outcomes.push(outcome);
        }
        outcomes
    }

    /// A request ends for the mount.
    pub(super) fn answer(&mut self, at: usize, pick: u8, fate: Fate) {
        let mount = &mut self.mounts[at];
        if mount.requests.is_empty() {
            return;
        }
        let n = usize::from(pick) % mount.requests.len();
        let is_cut = mount.is_cut;
        let request = mount.requests.remove(n);
        let reply = match (request.reply.clone(), fate) {
            (Some(reply), Fate::Heard) if !is_cut => reply,
            (Some(Ok(mut outcomes)), Fate::Silent(which)) if !is_cut => {
                let which = usize::from(which) % outcomes.len();
                outcomes[which] = Outcome::Unknown;
                Ok(outcomes)
            }
            (None, Fate::Late) => {
                mount.strays.push(request.clone());
                Err(unreachable(true))
            }
            (reply, _) => Err(unreachable(reply.is_some() || !is_cut)),
        };
        self.tell(|| format!("the mount hears {reply:?}"));
        let Request { items, is_bulk, made, .. } = request;
        if let Ok(outcomes) = &reply {
            let heard = outcomes.iter().zip(made);
            for (_, made) in heard.filter(|(one, _)| matches!(one, Outcome::Accepted { .. })) {
                made.iter().for_each(|(path, now)| self.mounts[at].note_known(path, *now));
            }
        }
        let tasks = self.step(at, &Cause::Nothing, |core, now, changes| {
            if is_bulk {
                core.batch_over();
            } else {
                core.single_over();
            }
            match reply {
                Err(error) => {
                    let items = items.into_iter().map(|sent| sent.item).collect();
                    core.failed(items, &error, 1 << 20, now, changes);
                    Vec::new()
                }
                Ok(outcomes) => {
                    let answers = items.into_iter().zip(outcomes).map(|(sent, outcome)| {
                        let digest = sent.bytes.map(digest);
                        Answer { item: sent.item, digest, outcome: Some(outcome) }
                    });
                    core.answered(answers.collect(), Duration::ZERO, now, changes)
                }
            }
        });
        self.mounts[at].work.extend(tasks.into_iter().map(Work::Task));
    }
}

fn paths(request: &Request) -> Vec<&WsPath> {
    fn of(sent: &Sent) -> impl Iterator<Item = &WsPath> {
        let from = sent.item.moved_from.as_ref().map(|(from, _)| from);
        std::iter::once(&sent.item.path).chain(from)
    }
    request.items.iter().flat_map(of).collect()
}
