//! The story of a run as data: who does what to which path, and which misfortune strikes when.
//!
//! A story follows from its seed alone. It can be printed, and any of its steps can be left out:
//! what remains is a story, too.

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// What identifies a step, also in the bytes that it writes. Stays when other steps are left out.
pub type Id = u32;

/// One of the two mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    pub fn index(self) -> usize {
        usize::from(self == Self::B)
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Story {
    pub seed: u64,
    /// The server speaks the original protocol only.
    pub original: bool,
    /// Writers on each mount.
    pub writers: usize,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub id: Id,
    /// How long the story waits before it, in ms.
    pub rest: u64,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub enum Act {
    Call { side: Side, writer: usize, call: Call },
    Fault(Fault),
}

/// What a writer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes a file whole, in `chunks` calls; with `sync` once more in the middle.
    Write {
        path: String,
        size: usize,
        how: How,
        chunks: usize,
        sync: bool,
        hold: u64,
    },
    /// Adds a line to a file that is only ever added to.
    Append {
        path: String,
    },
    /// Replaces the writer's own line in a file of many.
    Slot {
        path: String,
    },
    /// Cuts a file to a part of what it holds, in percent.
    Truncate {
        path: String,
        percent: usize,
    },
    Remove {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    MakeDir {
        path: String,
    },
    RemoveDir {
        path: String,
    },
    MoveDir {
        from: String,
        to: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Read {
        path: String,
    },
    /// `mountctl flush PATH`, and then the path is on the server.
    Flush {
        path: String,
    },
}

/// How a file is written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `open(O_CREAT | O_TRUNC)`.
    Truncate,
    /// Read and then written over through one descriptor: what it replaces is known.
    Seen,
    /// Written beside it and renamed over it.
    Aside,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    KillDaemon {
        side: Side,
        down: u64,
    },
    StopDaemon {
        side: Side,
        down: u64,
    },
    FreezeDaemon {
        side: Side,
        ms: u64,
    },
    KillServer {
        down: u64,
    },
    FreezeServer {
        ms: u64,
    },
    Net {
        side: Side,
        trouble: Trouble,
        ms: u64,
    },
    Pause {
        side: Side,
        ms: u64,
    },
    FillDisk {
        side: Side,
        ms: u64,
    },
    /// A bit of a content, of the database or of its log changes on the disk while the daemon is dead.
    FlipBit {
        side: Side,
        salt: u64,
    },
    /// The server takes another token only, and the mount gets it later.
    NewToken {
        side: Side,
        ms: u64,
    },
    /// The mount's token may not write into one folder, until it gets a new one.
    Forbid {
        side: Side,
        ms: u64,
    },
}

/// What the way to the server does; `share` is in percent of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No connection can be made, and there are none.
    Refuse,
    /// Connections are taken, and nothing ever comes back.
    Hole,
    /// Every reply comes late.
    Delay { ms: u64 },
    /// The server is not reached and something else answers.
    Status { code: u16, share: u32 },
    /// The connection is reset before the request is read to its end.
    Reset { share: u32 },
    /// Served, and the reply is lost.
    Lose { share: u32 },
    /// Served, and half of the reply arrives.
    Cut { share: u32 },
    /// Served, and the reply is no JSON any more.
    Garble { share: u32 },
    /// Served, and the reply is the JSON of something else: `{}`, a page, nothing.
    Odd { share: u32 },
    /// Served twice.
    Twice { share: u32 },
    /// The reply comes in small pieces.
    Drip { share: u32 },
    /// Frames of the change stream are repeated.
    EventsTwice { share: u32 },
    /// Neighbouring frames of the change stream change places.
    EventsSwapped { share: u32 },
    /// Frames of the change stream vanish.
    EventsLost { share: u32 },
    /// The change stream is cut after a frame.
    StreamCut { share: u32 },
}

/// Which faults a story may have.
#[derive(Clone, Debug)]
pub struct Mix(pub Vec<String>);

/// All kinds, by the names with which they are asked for.
pub const KINDS: &[&str] = &[
    "kill", "stop", "freeze", "server", "net", "reply", "events", "pause", "disk", "flip", "token",
];

impl Mix {
    /// What is played unless asked for otherwise.
    pub fn usual() -> Self {
        Self(KINDS.iter().map(|kind| (*kind).to_owned()).collect())
    }
}

/// How long a story is and what it is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    pub calls: usize,
    pub writers: usize,
    pub mix: Mix,
    /// Which protocol the server speaks; by the seed when it is not said.
    pub original: Option<bool>,
}

impl Story {
    /// The story of a seed.
    pub fn of(seed: u64, shape: &Shape) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let by_seed = rng.random_ratio(1, 3);
        let original = shape.original.unwrap_or(by_seed);
        // Some stories are calm, some are nothing but trouble.
        let between = [4, 8, 15, 30][rng.random_range(0..4)];
        let pace = [0, 2, 5, 12][rng.random_range(0..4)];
        let mut steps = Vec::new();
        let mut next = 0;
        let mut take = || {
            next += 1;
            next
        };
        for _ in 0..shape.calls {
            let rest = if rng.random_ratio(1, 60) {
                rng.random_range(100..700)
            } else {
                rng.random_range(0..=pace)
            };
            let side = side(&mut rng);
            let writer = rng.random_range(0..shape.writers);
            let call = call(&mut rng, side);
            steps.push(Step { id: take(), rest, act: Act::Call { side, writer, call } });
            if rng.random_ratio(1, between)
                && let Some(fault) = fault(&mut rng, &shape.mix, original)
            {
                steps.push(Step { id: take(), rest: 0, act: Act::Fault(fault) });
            }
        }
        Self { seed, original, writers: shape.writers, steps }
    }

    /// The same with these steps only.
    pub fn with(&self, steps: Vec<Step>) -> Self {
        Self { steps, ..self.clone() }
    }
}

fn side(rng: &mut SmallRng) -> Side {
    Side::BOTH[rng.random_range(0..2)]
}

/// Names are few, so that everybody meets everybody.
fn path(rng: &mut SmallRng, side: Side) -> String {
    match rng.random_range(0..10) {
        0..=3 => format!("/shared/f{}", rng.random_range(0..4)),
        4..=6 => format!("/own-{side:?}/f{}", rng.random_range(0..6)),
        7 => format!("/f{}", rng.random_range(0..3)),
        _ => format!("/{}/f{}", folder(rng), rng.random_range(0..3)),
    }
}

fn folder(rng: &mut SmallRng) -> String {
    format!("d{}", rng.random_range(0..3))
}

fn call(rng: &mut SmallRng, side: Side) -> Call {
    let path = path(rng, side);
    match rng.random_range(0..100) {
        0..=44 => {
            let size = match rng.random_range(0..20) {
                0 => rng.random_range(65_500..65_580),
                1 => rng.random_range(70_000..400_000),
                2 => rng.random_range(10..40),
                _ => rng.random_range(40..6_000),
            };
            let how = [How::Truncate, How::Seen, How::Seen, How::Aside][rng.random_range(0..4)];
            let hold = if rng.random_ratio(1, 15) { rng.random_range(50..1_500) } else { 0 };
            let chunks = if rng.random_ratio(1, 3) { rng.random_range(2..6) } else { 1 };
            Call::Write { path, size, how, chunks, sync: rng.random_ratio(1, 8), hold }
        }
        45..=56 => Call::Append { path: format!("/log-{}", rng.random_range(0..2)) },
        57..=66 => Call::Slot { path: format!("/slots-{}", rng.random_range(0..2)) },
        67..=69 => Call::Truncate { path, percent: rng.random_range(0..100) },
        70..=76 => Call::Remove { path },
        77..=83 => {
            let to = self::path(rng, side);
            if to == path { Call::Remove { path } } else { Call::Rename { from: path, to } }
        }
        84..=86 => Call::MakeDir { path: format!("/{}", folder(rng)) },
        87 => Call::RemoveDir { path: format!("/{}", folder(rng)) },
        88..=89 => {
            let (from, to) = (folder(rng), folder(rng));
            if from == to {
                Call::MakeDir { path: format!("/{from}") }
            } else {
                Call::MoveDir { from: format!("/{from}"), to: format!("/{to}") }
            }
        }
        90..=91 => Call::Chmod { path, mode: [0o600, 0o644, 0o755][rng.random_range(0..3)] },
        92..=97 => Call::Read { path },
        _ => Call::Flush { path },
    }
}

fn fault(rng: &mut SmallRng, mix: &Mix, original: bool) -> Option<Fault> {
    if mix.0.is_empty() {
        return None;
    }
    let side = side(rng);
    let share = [10, 30, 60, 100][rng.random_range(0..4)];
    let down = [0, 20, 200, 900][rng.random_range(0..4)];
    let ms = rng.random_range(50..1_500);
    let net = |trouble, ms| Fault::Net { side, trouble, ms };
    Some(match mix.0[rng.random_range(0..mix.0.len())].as_str() {
        "kill" => Fault::KillDaemon { side, down },
        "stop" => Fault::StopDaemon { side, down },
        "freeze" if rng.random() => Fault::FreezeServer { ms },
        "freeze" => Fault::FreezeDaemon { side, ms },
        "server" => Fault::KillServer { down },
        "pause" => Fault::Pause { side, ms },
        "disk" => Fault::FillDisk { side, ms },
        "flip" => Fault::FlipBit { side, salt: rng.random() },
        "token" if rng.random() => Fault::NewToken { side, ms },
        "token" => Fault::Forbid { side, ms },
        "net" => match rng.random_range(0..4) {
            0 => net(Trouble::Refuse, ms),
            1 => net(Trouble::Hole, ms),
            2 => net(Trouble::Delay { ms: rng.random_range(5..300) }, ms),
            _ => net(Trouble::Reset { share }, ms),
        },
        "reply" => match rng.random_range(0..8) {
            0 | 1 => {
                let codes = [500, 502, 503, 504, 408, 425, 429, 401, 403, 413, 200, 202];
                net(Trouble::Status { code: codes[rng.random_range(0..codes.len())], share }, ms)
            }
            2 | 3 => net(Trouble::Lose { share }, ms),
            4 => net(Trouble::Cut { share }, ms),
            5 => net(Trouble::Garble { share }, ms),
            6 if rng.random() => net(Trouble::Odd { share: share.min(30) }, ms),
            6 => net(Trouble::Drip { share }, ms),
            _ => net(Trouble::Twice { share }, ms),
        },
        // Only a server that numbers without holes lets a client notice that something is missing.
        "events" => match rng.random_range(0..4) {
            0 => net(Trouble::EventsTwice { share }, ms),
            1 if !original => net(Trouble::EventsSwapped { share }, ms),
            2 if !original => net(Trouble::EventsLost { share: share.min(30) }, ms),
            _ => net(Trouble::StreamCut { share: share.min(30) }, ms),
        },
        unknown => panic!("no such kind of fault: {unknown}; there are {KINDS:?}"),
    })
}

impl Fault {
    /// What it is counted as.
    pub fn kind(&self) -> String {
        match self {
            Self::KillDaemon { .. } => "kill -9 of a daemon".into(),
            Self::StopDaemon { .. } => "stop of a daemon".into(),
            Self::FreezeDaemon { .. } => "freeze of a daemon".into(),
            Self::KillServer { .. } => "kill -9 of the server".into(),
            Self::FreezeServer { .. } => "freeze of the server".into(),
            Self::Net { trouble, .. } => trouble.kind(),
            Self::Pause { .. } => "pause by a person".into(),
            Self::FillDisk { .. } => "disk full".into(),
            Self::FlipBit { .. } => "bit flipped at rest".into(),
            Self::NewToken { .. } => "token replaced (401)".into(),
            Self::Forbid { .. } => "folder forbidden (403 for single files)".into(),
        }
    }
}

impl Trouble {
    /// What it is counted as.
    pub fn kind(self) -> String {
        match self {
            Self::Refuse => "connections refused".into(),
            Self::Hole => "silence".into(),
            Self::Delay { .. } => "delayed".into(),
            Self::Status { code, .. } => format!("answered {code}"),
            Self::Reset { .. } => "reset".into(),
            Self::Lose { .. } => "reply lost".into(),
            Self::Cut { .. } => "reply cut".into(),
            Self::Garble { .. } => "reply garbled".into(),
            Self::Odd { .. } => "reply of something else".into(),
            Self::Twice { .. } => "served twice".into(),
            Self::Drip { .. } => "reply dripping".into(),
            Self::EventsTwice { .. } => "event repeated".into(),
            Self::EventsSwapped { .. } => "events swapped".into(),
            Self::EventsLost { .. } => "event lost".into(),
            Self::StreamCut { .. } => "change stream cut".into(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rest > 0 {
            write!(f, "+{}ms ", self.rest)?;
        }
        match &self.act {
            Act::Call { side, writer, call } => {
                write!(f, "#{} {side:?}{writer} {call:?}", self.id)
            }
            Act::Fault(fault) => write!(f, "#{} {fault:?}", self.id),
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.original { "original protocol" } else { "all extensions" };
        writeln!(f, "seed {}, {protocol}, {} writers a mount:", self.seed, self.writers)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}
