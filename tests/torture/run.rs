//! Plays a story in a world of its own, waits for quiet, and gathers what can be seen then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::content;
use crate::flip;
use crate::story::{Act, Call, Fault, Id, Side, Story};
use crate::tokens::Tokens;
use crate::totals::Totals;
use crate::world::{Event, Mount, World};
use crate::writer::{Account, Entry, Turns, Writer, tidy_up};

/// How long a world may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files of which each line counts.
pub const LOGS: &[&str] = &["/log-0", "/log-1"];
/// Files in which each writer has a line.
pub const SLOTS: &[&str] = &["/slots-0", "/slots-1"];

/// What can be seen once everything is quiet. Whether it is right is decided from this alone.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub entries: Vec<Entry>,
    /// Slots in each file of slots.
    pub slots: usize,
    pub server: BTreeMap<String, Vec<u8>>,
    /// What each mount shows.
    pub shown: [BTreeMap<String, Vec<u8>>; 2],
    /// The folders that each mount shows.
    pub folders: [BTreeSet<String>; 2],
    /// Paths with a parked record.
    pub parked: [BTreeSet<String>; 2],
    /// Every file of every conflict copy, by a name of its own.
    pub copies: BTreeMap<String, Vec<u8>>,
    pub history: Vec<Event>,
    /// Whether folders are stored by the server.
    pub has_folders: bool,
    /// Contents that a bit flipped at rest may have hit, as they were before.
    pub flipped: Vec<Vec<u8>>,
    /// Damaged things that were noticed and set aside.
    pub set_aside: usize,
    /// What is wrong beyond the contents: no rest, files nobody names, a stop that failed.
    pub disorder: Vec<String>,
}

impl Evidence {
    /// Contents of which damage may have taken something. It is no loss when it was noticed: what is left is
    /// set aside and reported.
    pub fn damaged(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.flipped.iter().filter(|_| self.set_aside > 0)
    }
}

/// Plays a story. `meddle` is called when all is quiet, before anything is looked at.
pub fn play(
    story: &Story,
    totals: &mut Totals,
    meddle: impl FnOnce(&World, &Account),
) -> (World, Evidence) {
    let began = Instant::now();
    let world = World::start(story.original, story.seed);
    let slots = story.writers * 2;
    set_up(&world, slots);
    let account = Account::default();
    let kinds = Mutex::new(BTreeMap::<String, u64>::new());
    let stage = Stage {
        world: &world,
        per_side: Default::default(),
        per_token: Default::default(),
        server: Mutex::new(()),
        kinds: &kinds,
        disorder: Mutex::default(),
        flipped: Mutex::default(),
    };
    act_out(story, &stage, &account, slots);
    heal(&world);
    for mount in &world.mounts {
        let tidied = (0..100).any(|_| tidy_up(&mount.path()).is_ok());
        assert!(tidied, "what was left beside its place cannot be removed");
    }
    meddle(&world, &account);
    let flipped = stage.flipped.into_inner().unwrap();
    let mut disorder = stage.disorder.into_inner().unwrap();
    disorder.extend(settle(&world));
    let mut evidence = look(&world, account.into_inner().unwrap(), slots, disorder);
    evidence.has_folders = !story.original;
    evidence.flipped = flipped;
    leave(&world, &mut evidence);
    for proxy in &world.proxies {
        totals.add_hits(&proxy.hits());
    }
    totals.add_kinds(&kinds.into_inner().unwrap());
    totals.add_entries(&evidence.entries);
    totals.runs += 1;
    totals.time += began.elapsed();
    (world, evidence)
}

/// The files that every writer expects to be there.
fn set_up(world: &World, slots: usize) {
    let mount = world.mount(Side::A);
    for folder in ["shared", "own-A", "own-B"] {
        std::fs::create_dir(mount.at(folder)).unwrap();
        // A folder of the original protocol exists through what it holds.
        std::fs::write(mount.at(&format!("{folder}/.keep")), b"").unwrap();
    }
    for path in SLOTS {
        std::fs::write(mount.at(path), content::slots(slots)).unwrap();
    }
    for path in LOGS {
        std::fs::write(mount.at(path), b"").unwrap();
    }
    let all: Vec<&&str> = SLOTS.iter().chain(LOGS).collect();
    let arrived = wait(Duration::from_secs(30), || {
        let other = world.mount(Side::B);
        all.iter().all(|path| other.at(path).exists()) && other.at("own-B/.keep").exists()
    });
    assert!(arrived, "the first files do not arrive at the other mount");
}

struct Stage<'run> {
    world: &'run World,
    /// One misfortune of a daemon at a time.
    per_side: [Mutex<()>; 2],
    per_token: [Mutex<()>; 2],
    server: Mutex<()>,
    kinds: &'run Mutex<BTreeMap<String, u64>>,
    disorder: Mutex<Vec<String>>,
    flipped: Mutex<Vec<Vec<u8>>>,
}

/// Hands the steps out in their order: calls to their writers, misfortunes to threads of their own.
fn act_out(story: &Story, stage: &Stage<'_>, account: &Account, slots: usize) {
    let turns = [Turns::default(), Turns::default()];
    let waiting: Vec<AtomicUsize> = (0..slots).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        let mut queues = Vec::new();
        for slot in 0..slots {
            let (side, number) = (Side::BOTH[slot % 2], slot / 2);
            let (tell, told) = mpsc::channel::<(Id, Call)>();
            let writer = Writer {
                world: stage.world,
                turns: &turns[side.index()],
                account,
                side,
                number,
                slot,
            };
            let waiting = &waiting[slot];
            scope.spawn(move || {
                for (id, call) in told {
                    writer.call(id, &call);
                    waiting.fetch_sub(1, Ordering::SeqCst);
                }
            });
            queues.push(tell);
        }
        for step in &story.steps {
            std::thread::sleep(Duration::from_millis(step.rest));
            match &step.act {
                Act::Call { side, writer, call } => {
                    let slot = writer * 2 + side.index();
                    // The story does not run away from its writers.
                    wait(PATIENCE, || waiting[slot].load(Ordering::SeqCst) < 16);
                    waiting[slot].fetch_add(1, Ordering::SeqCst);
                    queues[slot].send((step.id, call.clone())).unwrap();
                }
                Act::Fault(fault) => {
                    scope.spawn(move || stage.strike(fault));
                }
            }
        }
    });
}

impl Stage<'_> {
    fn strike(&self, fault: &Fault) {
        let kind = fault.kind();
        let happened = match fault {
            Fault::KillDaemon { side, down } => self.with(*side, |mount| {
                mount.kill();
                pause(*down);
                mount.start();
            }),
            Fault::StopDaemon { side, down } => self.with(*side, |mount| {
                if !mount.stop() {
                    let said = format!("{side:?} did not stop well in the midst of it");
                    self.disorder.lock().unwrap().push(said);
                }
                pause(*down);
                mount.start();
            }),
            Fault::FreezeDaemon { side, ms } => self.with(*side, |mount| {
                mount.signal(Signal::SIGSTOP);
                pause(*ms);
                mount.signal(Signal::SIGCONT);
            }),
            Fault::KillServer { down } => self.with_server(|world| {
                world.kill_server();
                pause(*down);
                world.start_server();
            }),
            Fault::FreezeServer { ms } => self.with_server(|world| {
                world.signal_server(Signal::SIGSTOP);
                pause(*ms);
                world.signal_server(Signal::SIGCONT);
            }),
            Fault::Net { side, trouble, ms } => {
                // Counted by the proxy, when it strikes.
                let proxy = self.world.proxy(*side);
                let key = proxy.begin(*trouble);
                pause(*ms);
                proxy.end(key);
                false
            }
            Fault::Pause { side, ms } => self.with(*side, |mount| {
                mount.ctl(&["pause"]);
                pause(*ms);
                mount.ctl(&["resume"]);
            }),
            Fault::FillDisk { side, ms } if self.world.own_disks => self.with(*side, |mount| {
                let filler = mount.disk().join("filler");
                fill(&filler);
                pause(*ms);
                drop(std::fs::remove_file(filler));
            }),
            Fault::FillDisk { .. } => false,
            Fault::FlipBit { side, salt } => {
                self.with(*side, |mount| self.flip(mount, *salt));
                // Counted by what was hit.
                false
            }
            Fault::NewToken { side, ms } => self.with_token(*side, |tokens| {
                tokens.replace_at_server(*side);
                pause(*ms);
                tokens.hand_out(*side);
            }),
            Fault::Forbid { side, ms } => self.with_token(*side, |tokens| {
                tokens.forbid(*side);
                pause(*ms);
                // A new token is what has parked changes tried again.
                tokens.replace_at_server(*side);
                tokens.hand_out(*side);
            }),
        };
        if happened {
            self.count(kind);
        }
    }

    fn count(&self, kind: String) {
        *self.kinds.lock().unwrap().entry(kind).or_default() += 1;
    }

    fn flip(&self, mount: &Mount, salt: u64) {
        mount.kill();
        let Some(flip) = flip::flip_a_bit(&mount.state_folder(), salt) else {
            mount.start();
            return;
        };
        self.count(format!("bit flipped in {}", flip.what));
        let refused = mount.start_unless_refused();
        if let Err(why) = refused {
            self.count("start refused after a flip".to_owned());
            if !flip.undo() {
                let said = format!("{:?} refuses to start: {why}", mount.side);
                self.disorder.lock().unwrap().push(said);
            }
            mount.start();
        }
        let mut flipped = self.flipped.lock().unwrap();
        flipped.extend(flip.before);
    }

    /// Skipped while something else happens to the same token.
    fn with_token(&self, side: Side, act: impl FnOnce(&Tokens)) -> bool {
        let Ok(_one) = self.per_token[side.index()].try_lock() else { return false };
        act(&self.world.tokens);
        true
    }

    /// Skipped while something else happens to the same daemon.
    fn with(&self, side: Side, act: impl FnOnce(&Mount)) -> bool {
        let Ok(_one) = self.per_side[side.index()].try_lock() else { return false };
        act(self.world.mount(side));
        true
    }

    fn with_server(&self, act: impl FnOnce(&World)) -> bool {
        let Ok(_one) = self.server.try_lock() else { return false };
        act(self.world);
        true
    }
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn fill(path: &Path) {
    use std::io::Write as _;
    let Ok(mut file) = std::fs::File::create(path) else { return };
    for size in [1 << 20, 4096, 1] {
        let zeros = vec![0; size];
        while file.write_all(&zeros).is_ok() {}
    }
}

fn heal(world: &World) {
    for proxy in &world.proxies {
        proxy.heal();
    }
    world.start_server();
    for mount in &world.mounts {
        mount.start();
        have_all_tried(mount);
    }
}

/// What a person does once all is well again: also what was refused for good is tried once more.
fn have_all_tried(mount: &Mount) {
    mount.ctl(&["resume"]);
    mount.ctl(&["outbox", "retry", "--all"]);
}

/// Waits until nothing is on its way any more. Returns what is wrong with that.
fn settle(world: &World) -> Vec<String> {
    let mut why = Vec::new();
    let began = Instant::now();
    let quiet = wait(PATIENCE, || {
        why = world.mounts.iter().filter_map(unrest).collect();
        if why.is_empty() {
            let server = world.server_files();
            for mount in &world.mounts {
                let parked = parked(mount);
                match tree(&mount.path(), &parked) {
                    Ok((shown, _)) => why.extend(difference(mount.side, &server, &shown, &parked)),
                    Err(error) => why.push(format!("{:?} cannot be read: {error}", mount.side)),
                }
            }
        }
        if !why.is_empty() && began.elapsed().as_secs() % 5 == 4 {
            world.mounts.iter().for_each(have_all_tried);
        }
        why.is_empty()
    });
    if quiet {
        Vec::new()
    } else {
        why.insert(0, format!("no rest after {PATIENCE:?}"));
        why
    }
}

/// What a mount still has to do.
fn unrest(mount: &Mount) -> Option<String> {
    let status = mount.data(&["status"])["mount"].take();
    let state = status["state"].as_str().unwrap_or("unknown").to_owned();
    let uploads = &status["uploads"];
    let busy = ["queued", "held", "inflight", "backoff"]
        .iter()
        .filter_map(|field| uploads[*field].as_u64())
        .sum::<u64>();
    let calm = matches!(state.as_str(), "synced" | "attention")
        && (busy == 0 || standing(mount).is_some_and(|paths| !paths.is_empty()));
    (!calm).then(|| format!("{:?} is {state}: {status}", mount.side))
}

/// Paths with a parked change, or one that has to come after such a one.
fn parked(mount: &Mount) -> BTreeSet<String> {
    standing(mount).unwrap_or_default()
}

/// The same, when these are all changes that there are and one of them is parked; nothing when there are none.
fn standing(mount: &Mount) -> Option<BTreeSet<String>> {
    let plan = mount.data(&["outbox", "plan"]);
    let records = plan["records"].as_array()?;
    let has = |reason: &str| records.iter().any(|record| record["reason"] == reason);
    let stands = |record: &Value| record["reason"] == "parked" || record["reason"] == "after";
    let path = |record: &Value| record["path"].as_str().unwrap_or_default().to_owned();
    let all_stand = records.is_empty() || (has("parked") && records.iter().all(stands));
    all_stand.then(|| records.iter().map(path).collect())
}

/// Paths whose bytes are not the same, those that are parked left out.
pub fn difference(
    side: Side,
    server: &BTreeMap<String, Vec<u8>>,
    shown: &BTreeMap<String, Vec<u8>>,
    parked: &BTreeSet<String>,
) -> Vec<String> {
    let names: BTreeSet<&String> = server.keys().chain(shown.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        let below = |parked: &String| name == parked || name.starts_with(&format!("{parked}/"));
        if server.get(name) != shown.get(name) && !parked.iter().any(below) {
            let (there, here) = (server.get(name), shown.get(name));
            differences.push(format!(
                "{name}: the server has {}, mount {side:?} shows {}",
                tell(there.map(Vec::as_slice)),
                tell(here.map(Vec::as_slice)),
            ));
        }
    }
    differences
}

/// A content in a few words.
pub fn tell(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "nothing".into() };
    match (content::author(bytes), std::str::from_utf8(bytes)) {
        (Some(id), _) => format!("{} bytes of #{id}", bytes.len()),
        (None, Ok(text)) if bytes.len() < 60 => format!("{text:?}"),
        (None, _) => format!("{} bytes, {}", bytes.len(), &content::digest(bytes)[..8]),
    }
}

type Tree = (BTreeMap<String, Vec<u8>>, BTreeSet<String>);

/// Every file and every folder below a mount. A parked file need not be readable: its bytes may be damaged.
fn tree(root: &Path, parked: &BTreeSet<String>) -> std::io::Result<Tree> {
    let (mut files, mut dirs) = Tree::default();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, path)) = folders.pop() {
        for found in std::fs::read_dir(&folder)? {
            let found = found?;
            let path = format!("{path}/{}", found.file_name().to_string_lossy());
            if found.file_type()?.is_dir() {
                folders.push((found.path(), path.clone()));
                dirs.insert(path);
            } else {
                match std::fs::read(found.path()) {
                    Ok(bytes) => drop(files.insert(path, bytes)),
                    Err(_) if parked.contains(&path) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok((files, dirs))
}

fn look(world: &World, entries: Vec<Entry>, slots: usize, disorder: Vec<String>) -> Evidence {
    let mut evidence = Evidence { entries, slots, disorder, ..Evidence::default() };
    evidence.server = world.server_files();
    evidence.history = world.history();
    for mount in &world.mounts {
        let index = mount.side.index();
        evidence.parked[index] = parked(mount);
        match tree(&mount.path(), &evidence.parked[index]) {
            Ok(tree) => (evidence.shown[index], evidence.folders[index]) = tree,
            Err(error) => evidence.disorder.push(format!("{:?}: {error}", mount.side)),
        }
        let copies = mount.state_folder().join("conflicts");
        if let Ok((files, _)) = tree(&copies, &BTreeSet::new()) {
            let name = |path| format!("{:?}{path}", mount.side);
            let bytes = files.into_iter().filter(|(path, _)| !path.ends_with("/meta.json"));
            evidence.copies.extend(bytes.map(|(path, bytes)| (name(path), bytes)));
        }
    }
    evidence
}

/// Stops everything and looks for what is left.
fn leave(world: &World, evidence: &mut Evidence) {
    for mount in &world.mounts {
        if !mount.stop() {
            evidence.disorder.push(format!("{:?} does not stop well", mount.side));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        if mounts.contains(&format!(" {} ", mount.path().display())) {
            evidence.disorder.push(format!("{:?} is still mounted", mount.side));
        }
        evidence.disorder.extend(left_over(mount));
        evidence.set_aside += set_aside(&mount.state_folder());
    }
    for path in evidence.server.keys().filter(|path| path.contains(crate::writer::ASIDE)) {
        evidence.disorder.push(format!("{path} is left at the server"));
    }
}

/// Files of a state folder that its database does not name.
fn left_over(mount: &Mount) -> Vec<String> {
    let state = mount.state_folder();
    let database = rusqlite::Connection::open(state.join("state.db")).unwrap();
    let column = |query: &str| -> BTreeSet<String> {
        let mut query = database.prepare(query).unwrap();
        let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let contents = column("SELECT CAST(content_id AS TEXT) FROM nodes WHERE content = 'file'");
    let mut left = Vec::new();
    for name in names(&state.join("files")) {
        if !contents.contains(&name) && !name.contains(".corrupt.") {
            left.push(format!("{:?}: nobody names the working file {name}", mount.side));
        }
    }
    let copies = column("SELECT folder FROM conflicts");
    for name in names(&state.join("conflicts")) {
        if !copies.contains(&name) && !name.contains(".corrupt.") {
            left.push(format!("{:?}: nobody lists the conflict copy {name}", mount.side));
        }
    }
    left
}

/// Damaged things that are kept beside what they were.
fn set_aside(state: &Path) -> usize {
    let all = names(state).into_iter().chain(names(&state.join("files")));
    all.filter(|name| name.contains(".corrupt.")).count()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    found.map(|found| found.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Looks at a condition again and again. Whether it came true in time.
pub fn wait(patience: Duration, mut look: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !look() {
        if began.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
