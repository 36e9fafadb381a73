//! What happens in a history, as data: so that it can be made at random, made shorter when it
//! shows a mistake, printed, and kept.
//!
//! Nothing here refers to what a world is like at that moment: a step that makes no sense then does
//! nothing, and so any part of a story is a story.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::path::WsPath;

/// The paths of the small world: few, so that much happens to each.
const PATHS: [&str; 14] = [
    "/a", "/b", "/c", "/a/a", "/a/b", "/a/c", "/b/a", "/b/b", "/b/c", "/c/a", "/c/b", "/c/c",
    "/a/b/c", "/b/a/c",
];

/// A path of the small world.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Place(u8);

impl Place {
    pub(super) fn path(self) -> WsPath {
        WsPath::parse(PATHS[usize::from(self.0) % PATHS.len()]).unwrap()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.path().as_str().to_owned()
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let place = PATHS.iter().position(|path| *path == text).ok_or("no such place")?;
        u8::try_from(place).map(Self).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(*self))
    }
}

/// Which of the two mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mount {
    A,
    B,
}

/// What the server is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about the server")]
pub(super) struct Server {
    /// Moves and deletes in bulk, folders, metadata, exact sizes, events numbered without holes.
    pub(super) extended: bool,
    /// Replies name the new revision.
    pub(super) names_revisions: bool,
    /// Listings name digests.
    pub(super) lists_digests: bool,
    /// Events carry the bytes.
    pub(super) inlines: bool,
}

/// How the mounts are set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct People {
    /// What becomes of files that both sides changed.
    pub(super) policy: Policy,
    /// A few removals are very many.
    pub(super) careful: bool,
}

/// A rule for all paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Policy {
    #[default]
    Keep,
    Merge,
    Ours,
    Theirs,
}

impl Policy {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Merge => "merge",
            Self::Ours => "ours",
            Self::Theirs => "theirs",
        }
    }
}

/// How a person ends a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Choice {
    Ours,
    /// Whatever has the name now.
    OursByForce,
    Theirs,
    Both,
    /// What the person made of both.
    Merged,
    /// A merge of ours into what has the name now.
    Merge,
}

/// A call on a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Call {
    Write { to: Place, how: Body },
    MakeDir(Place),
    Remove(Place),
    Rename { from: Place, to: Place },
    Exchange { one: Place, other: Place },
    ChangeMode(Place),
    Read(Place),
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    /// A few bytes, closed.
    Small,
    /// A few bytes, synced and left open.
    Open,
    /// Nothing: the file becomes empty.
    Empty,
    /// A working file, changed in place where there is one.
    Large,
    /// One line of what is there is changed.
    Line(u8),
}

/// How a request gets to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Arrival {
    Whole,
    /// A copy stays on the way.
    Twice,
    /// One change is refused for good.
    Forbidden(u8),
    /// All of it is refused: 400.
    Invalid,
    /// All of it is refused: 413.
    TooLarge,
    /// 503, nothing was done.
    Busy,
    /// 503, although it was done.
    BusyAfter,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fate {
    Heard,
    /// The connection is lost, and the request with it, if it had not arrived.
    Lost,
    /// The connection is lost; a request that had not arrived is still on its way.
    Late,
    /// It does not name one of the changes.
    Silent(u8),
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    /// Somebody works on a mount.
    Local(Mount, Call),
    /// Somebody writes to the server, from elsewhere.
    OtherWrites(Place),
    OtherEdits(Place, u8),
    /// Somebody removes a file from the server.
    OtherRemoves(Place),
    /// The next event comes; the file is not open, or it is (`false`).
    Event(Mount, bool),
    /// The last event comes again.
    Repeat(Mount),
    /// The next two events change places on the wire.
    Swap(Mount),
    /// The server keeps no older events.
    Expire,
    /// The next page of a listing.
    List(Mount),
    /// Time passes, and the engine plans.
    Plan(Mount, Pace),
    /// One of the things that were planned is done.
    Work(Mount, u8),
    /// A request arrives.
    Arrive(Mount, u8, Arrival),
    /// A request that nobody waits for any more arrives.
    Stray(u8),
    /// A mount is left alone until it has nothing to do.
    Rounds(Mount),
    /// A request ends for the mount.
    Answer(Mount, u8, Fate),
    /// The disk is full: a content that the server has too goes.
    Evict(Mount, Place),
    /// The way to the server is cut, or mended.
    Cut(Mount),
    Mend(Mount),
    /// A person pauses, or resumes.
    Pause(Mount),
    Resume(Mount),
    /// The process is killed and started again.
    Crash(Mount),
    /// A person ends one of the conflicts.
    Resolve(Mount, u8, Choice),
    /// A person has a change tried again, or gives it up.
    Retry(Mount, Place),
    Discard(Mount, Place),
    /// A person looks at what waits for approval, and decides over what was there to see.
    Look(Mount),
    Decide(Mount, bool),
    /// The server is copied; goes back to that copy; is replaced by another one that has the copy.
    BackUp,
    Restore,
    Replace,
    /// A person goes on with the server that is there.
    Accept(Mount),
}

/// How much time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pace {
    Debounce,
    Bound,
    Hold,
    Long,
}

impl Pace {
    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Debounce => Duration::from_millis(25),
            Self::Bound => Duration::from_millis(300),
            Self::Hold => Duration::from_secs(6),
            Self::Long => Duration::from_secs(61),
        }
    }
}

/// A history.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Story {
    pub(super) server: Server,
    #[serde(default)]
    pub(super) people: People,
    pub(super) acts: Vec<Act>,
}

/// As JSON, one step a line: what can be kept below `stories/`.
impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |value: serde_json::Result<String>| value.map_err(|_| fmt::Error);
        writeln!(f, "{{\"server\":{},", json(serde_json::to_string(&self.server))?)?;
        write!(f, " \"people\":{},\n \"acts\":[", json(serde_json::to_string(&self.people))?)?;
        for (n, act) in self.acts.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}\n  {}", json(serde_json::to_string(act))?)?;
        }
        f.write_str("\n ]}\n")
    }
}

/// The few files.
const NARROW: [u8; 4] = [0, 1, 9, 10];

/// Where a story takes place.
#[derive(Debug, Clone, Copy)]
enum Scene {
    /// Everywhere: names meet names.
    Wide,
    /// In a few files, which much happens to: contents meet contents.
    Narrow,
}

impl Scene {
    fn place(self) -> impl Strategy<Value = Place> {
        let places: Vec<u8> = match self {
            Self::Wide => (0..u8::try_from(PATHS.len()).unwrap()).collect(),
            Self::Narrow => NARROW.to_vec(),
        };
        prop::sample::select(places).prop_map(Place)
    }

    /// Weights of what names are about and of what contents are about.
    fn weights(self) -> (u32, u32) {
        match self {
            Self::Wide => (4, 1),
            Self::Narrow => (1, 4),
        }
    }
}

fn mount() -> impl Strategy<Value = Mount> {
    prop_oneof![3 => Just(Mount::A), 2 => Just(Mount::B)]
}

fn body(scene: Scene) -> impl Strategy<Value = Body> {
    let (_, contents) = scene.weights();
    prop_oneof![
        4 => Just(Body::Small),
        1 => Just(Body::Open),
        1 => Just(Body::Empty),
        2 => Just(Body::Large),
        3 * contents => (0..3_u8).prop_map(Body::Line),
    ]
}

fn call(scene: Scene) -> impl Strategy<Value = Call> {
    let place = move || scene.place();
    let (names, contents) = scene.weights();
    prop_oneof![
        8 + 4 * contents => (place(), body(scene)).prop_map(|(to, how)| Call::Write { to, how }),
        names => place().prop_map(Call::MakeDir),
        4 => place().prop_map(Call::Remove),
        names => (place(), place()).prop_map(|(from, to)| Call::Rename { from, to }),
        1 => (place(), place()).prop_map(|(one, other)| Call::Exchange { one, other }),
        1 => place().prop_map(Call::ChangeMode),
        1 => place().prop_map(Call::Read),
    ]
}

fn arrival() -> impl Strategy<Value = Arrival> {
    prop_oneof![
        14 => Just(Arrival::Whole),
        2 => Just(Arrival::Twice),
        1 => any::<u8>().prop_map(Arrival::Forbidden),
        1 => Just(Arrival::Invalid),
        1 => Just(Arrival::TooLarge),
        1 => Just(Arrival::Busy),
        1 => Just(Arrival::BusyAfter),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Heard),
        2 => Just(Fate::Lost),
        2 => Just(Fate::Late),
        1 => any::<u8>().prop_map(Fate::Silent),
    ]
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        2 => Just(Pace::Debounce),
        6 => Just(Pace::Bound),
        1 => Just(Pace::Hold),
        1 => Just(Pace::Long),
    ]
}

fn act(scene: Scene) -> impl Strategy<Value = Act> {
    let place = move || scene.place();
    let (_, people) = scene.weights();
    prop_oneof![
        32 => (mount(), call(scene)).prop_map(|(at, call)| Act::Local(at, call)),
        5 => place().prop_map(Act::OtherWrites),
        2 * people => (place(), 0..3_u8).prop_map(|(place, line)| Act::OtherEdits(place, line)),
        4 => place().prop_map(Act::OtherRemoves),
        4 => mount().prop_map(Act::Rounds),
        10 => (mount(), any::<bool>()).prop_map(|(at, quiet)| Act::Event(at, quiet)),
        1 => mount().prop_map(Act::Repeat),
        1 => mount().prop_map(Act::Swap),
        1 => Just(Act::Expire),
        4 => mount().prop_map(Act::List),
        14 => (mount(), pace()).prop_map(|(at, pace)| Act::Plan(at, pace)),
        14 => (mount(), any::<u8>()).prop_map(|(at, pick)| Act::Work(at, pick)),
        9 => (mount(), any::<u8>(), arrival()).prop_map(|(at, pick, how)| Act::Arrive(at, pick, how)),
        1 => any::<u8>().prop_map(Act::Stray),
        9 => (mount(), any::<u8>(), fate()).prop_map(|(at, pick, fate)| Act::Answer(at, pick, fate)),
        1 => (mount(), place()).prop_map(|(at, place)| Act::Evict(at, place)),
        1 => mount().prop_map(Act::Cut),
        2 => mount().prop_map(Act::Mend),
        1 => mount().prop_map(Act::Pause),
        2 => mount().prop_map(Act::Resume),
        2 => mount().prop_map(Act::Crash),
        2 * people => (mount(), any::<u8>(), choice()).prop_map(|(at, pick, choice)| Act::Resolve(at, pick, choice)),
        people => (mount(), place()).prop_map(|(at, place)| Act::Retry(at, place)),
        people => (mount(), place()).prop_map(|(at, place)| Act::Discard(at, place)),
        3 => mount().prop_map(Act::Look),
        6 => (mount(), any::<bool>()).prop_map(|(at, approve)| Act::Decide(at, approve)),
    ]
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Ours),
        Just(Choice::OursByForce),
        Just(Choice::Theirs),
        Just(Choice::Both),
        Just(Choice::Merged),
        Just(Choice::Merge),
    ]
}

fn people() -> impl Strategy<Value = People> {
    let policy = prop_oneof![
        3 => Just(Policy::Merge),
        2 => Just(Policy::Keep),
        1 => Just(Policy::Ours),
        1 => Just(Policy::Theirs),
    ];
    (policy, prop::bool::weighted(0.4)).prop_map(|(policy, careful)| People { policy, careful })
}

fn server() -> impl Strategy<Value = Server> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(extended, names_revisions, lists_digests, inlines)| Server {
            extended,
            names_revisions,
            lists_digests,
            inlines,
        },
    )
}

/// What happens to a server that forgets.
fn act_of_one_that_forgets(scene: Scene) -> impl Strategy<Value = Act> {
    prop_oneof![
        40 => act(scene),
        1 => Just(Act::BackUp),
        1 => Just(Act::Restore),
        1 => Just(Act::Replace),
        1 => mount().prop_map(Act::Accept),
    ]
}

/// Everybody has the files of the narrow scene first.
fn with_files(acts: Vec<Act>) -> Vec<Act> {
    let files = NARROW.map(|place| Act::OtherWrites(Place(place)));
    files.into_iter().chain([Act::Rounds(Mount::A), Act::Rounds(Mount::B)]).chain(acts).collect()
}

/// Stories of up to `acts_max` steps.
pub(super) fn stories(acts_max: usize) -> impl Strategy<Value = Story> {
    let acts = prop_oneof![
        3 => vec(act(Scene::Wide), 5..acts_max),
        3 => vec(act(Scene::Narrow), 5..acts_max).prop_map(with_files),
        1 => vec(act_of_one_that_forgets(Scene::Wide), 5..acts_max),
        1 => vec(act_of_one_that_forgets(Scene::Narrow), 5..acts_max).prop_map(with_files),
    ];
    (server(), people(), acts).prop_map(|(server, people, acts)| Story { server, people, acts })
}
