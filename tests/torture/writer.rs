//! Writers: they do what the story says, by real calls, and write down what they were told.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use crate::content;
use crate::story::{Call, How, Id, Side};
use crate::world::World;

/// What a writer was told about one call.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: Id,
    pub side: Side,
    pub writer: usize,
    pub call: Call,
    /// Wall clock, in nanoseconds.
    pub began: i128,
    pub ended: i128,
    /// What the same descriptor read before it wrote.
    pub seen: Option<Vec<u8>>,
    /// The whole content that the call makes, when it makes one.
    pub made: Option<Vec<u8>>,
    /// Lengths of `made` that may stand by themselves: the call was that far at some time.
    pub marks: Vec<usize>,
    /// So much of `made` was acknowledged.
    pub kept: Option<usize>,
    /// A call that empties the file before it is filled has returned.
    pub emptied: bool,
    /// What the last call returned.
    pub outcome: Result<(), Failure>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The mount refused it for want of room: it has changed nothing.
    Full,
    /// It may have done its work, or a part of it.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Entry {
    pub fn is_done(&self) -> bool {
        self.outcome.is_ok()
    }

    /// What was refused for want of room has not happened; of other failures nothing is known.
    pub fn may_have_happened(&self) -> bool {
        !matches!(self.outcome, Err(Failure::Full))
    }

    /// Where its content goes.
    pub fn path(&self) -> &str {
        match &self.call {
            Call::Write { path, .. }
            | Call::Append { path }
            | Call::Slot { path }
            | Call::Truncate { path, .. }
            | Call::Remove { path }
            | Call::MakeDir { path }
            | Call::RemoveDir { path }
            | Call::Chmod { path, .. }
            | Call::Read { path }
            | Call::Flush { path } => path,
            Call::Rename { to, .. } | Call::MoveDir { to, .. } => to,
        }
    }
}

/// The account of all writers, in the order in which calls returned.
pub type Account = Mutex<Vec<Entry>>;

/// Keeps the calls of one mount to one path apart, so that their order is known.
#[derive(Default)]
pub struct Turns {
    paths: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    folders: RwLock<()>,
}

impl Turns {
    fn of(&self, path: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.paths.lock().unwrap().entry(path.to_owned()).or_default())
    }
}

/// Who does the calls of one writer.
pub struct Writer<'run> {
    pub world: &'run World,
    pub turns: &'run Turns,
    pub account: &'run Account,
    pub side: Side,
    pub number: usize,
    /// The number of its slot, and of all slots.
    pub slot: usize,
}

/// The names of files that are renamed into place at once.
pub const ASIDE: &str = ".aside-";

/// Nanoseconds of the wall clock: what the server writes down, too.
pub fn wall() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i128::try_from(since.as_nanos()).unwrap()
}

impl Writer<'_> {
    /// Does one call and writes down what came of it.
    pub fn call(&self, id: Id, call: &Call) {
        self.world.mount(self.side).wait_up();
        let moves_folder = matches!(call, Call::MoveDir { .. });
        let (_all, _some);
        if moves_folder {
            _all = self.turns.folders.write().unwrap();
        } else {
            _some = self.turns.folders.read().unwrap();
        }
        let mut names: Vec<&str> = match call {
            Call::Rename { from, to } => vec![from, to],
            Call::Write { path, .. }
            | Call::Append { path }
            | Call::Slot { path }
            | Call::Truncate { path, .. }
            | Call::Remove { path }
            | Call::Chmod { path, .. } => vec![path],
            Call::MakeDir { .. }
            | Call::RemoveDir { .. }
            | Call::MoveDir { .. }
            | Call::Read { .. }
            | Call::Flush { .. } => Vec::new(),
        };
        names.sort_unstable();
        let turns: Vec<_> = names.iter().map(|name| self.turns.of(name)).collect();
        let _turns: Vec<_> = turns.iter().map(|turn| turn.lock().unwrap()).collect();
        let mut entry = Entry {
            id,
            side: self.side,
            writer: self.number,
            call: call.clone(),
            began: wall(),
            ended: 0,
            seen: None,
            made: None,
            marks: Vec::new(),
            kept: None,
            emptied: false,
            outcome: Ok(()),
        };
        entry.outcome = self.perform(call, &mut entry).map_err(Failure::from);
        entry.ended = wall();
        self.account.lock().unwrap().push(entry);
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.world.mount(self.side).at(path)
    }

    fn perform(&self, call: &Call, entry: &mut Entry) -> io::Result<()> {
        match call {
            Call::Write { path, size, how, chunks, sync, hold } => {
                entry.made = Some(content::whole(entry.id, *size));
                let manner = Manner { chunks: *chunks, sync: *sync, hold: *hold };
                match how {
                    How::Truncate => {
                        let file = OpenOptions::new()
                            .create(true)
                            .write(true)
                            .truncate(true)
                            .open(self.at(path))?;
                        entry.emptied = true;
                        write_all(file, entry, manner)
                    }
                    How::Seen => self.write_seen(path, entry, manner),
                    How::Aside => self.write_aside(path, entry, manner),
                }
            }
            Call::Append { path } => {
                let mut file = OpenOptions::new().create(true).append(true).open(self.at(path))?;
                file.write_all(content::line(entry.id).as_bytes())?;
                close(file)
            }
            Call::Slot { path } => self.write_slot(path, entry),
            Call::Truncate { path, percent } => {
                let mut file = OpenOptions::new().read(true).write(true).open(self.at(path))?;
                let mut seen = Vec::new();
                file.read_to_end(&mut seen)?;
                let length = seen.len() * percent / 100;
                entry.made = Some(seen[..length].to_vec());
                entry.marks = vec![length];
                entry.seen = Some(seen);
                file.set_len(length as u64)?;
                entry.kept = Some(length);
                close(file)
            }
            Call::Remove { path } => std::fs::remove_file(self.at(path)),
            Call::Rename { from, to } => std::fs::rename(self.at(from), self.at(to)),
            Call::MakeDir { path } => std::fs::create_dir(self.at(path)),
            Call::RemoveDir { path } => std::fs::remove_dir(self.at(path)),
            Call::MoveDir { from, to } => std::fs::rename(self.at(from), self.at(to)),
            Call::Chmod { path, mode } => {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(*mode);
                std::fs::set_permissions(self.at(path), mode)
            }
            Call::Read { path } => {
                entry.seen = Some(std::fs::read(self.at(path))?);
                Ok(())
            }
            Call::Flush { path } => {
                let at = self.at(path);
                let at = at.to_str().unwrap();
                match self.world.mount(self.side).ctl(&["flush", "--timeout", "2s", at]) {
                    (true, _) => Ok(()),
                    (false, said) => Err(io::Error::other(said)),
                }
            }
        }
    }

    /// Reads what is there and writes over it through the same descriptor: what is written was
    /// made against what was read, whatever else happens at the time.
    fn write_seen(&self, path: &str, entry: &mut Entry, manner: Manner) -> io::Result<()> {
        let at = self.at(path);
        let mut file = match OpenOptions::new().read(true).write(true).open(&at) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = OpenOptions::new().write(true).create_new(true).open(&at)?;
                return write_all(new, entry, manner);
            }
            Err(error) => return Err(error),
        };
        let mut seen = Vec::new();
        file.read_to_end(&mut seen)?;
        entry.seen = Some(seen);
        file.set_len(0)?;
        entry.emptied = true;
        file.rewind()?;
        write_all(file, entry, manner)
    }

    fn write_aside(&self, path: &str, entry: &mut Entry, manner: Manner) -> io::Result<()> {
        let at = self.at(path);
        let aside = at.with_file_name(format!("{ASIDE}{}", entry.id));
        let file = OpenOptions::new().write(true).create_new(true).open(&aside)?;
        let written = write_all(file, entry, manner);
        let kept = entry.kept.take();
        written?;
        std::fs::rename(&aside, &at)?;
        entry.kept = kept;
        Ok(())
    }

    fn write_slot(&self, path: &str, entry: &mut Entry) -> io::Result<()> {
        let at = self.at(path);
        let mut file = OpenOptions::new().read(true).write(true).open(&at)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        entry.seen = Some(bytes.clone());
        content::set_slot(&mut bytes, self.slot, entry.id)
            .ok_or_else(|| io::Error::other("the slot is not there"))?;
        entry.made = Some(bytes.clone());
        file.rewind()?;
        file.write_all(&bytes)?;
        close(file)?;
        entry.kept = Some(bytes.len());
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Manner {
    chunks: usize,
    sync: bool,
    hold: u64,
}

/// Writes what the entry makes, and notes how much of it is safe.
fn write_all(mut file: File, entry: &mut Entry, manner: Manner) -> io::Result<()> {
    let made = entry.made.clone().unwrap_or_default();
    let mut written = 0;
    entry.marks.push(0);
    for (number, chunk) in made.chunks(made.len().div_ceil(manner.chunks)).enumerate() {
        file.write_all(chunk)?;
        written += chunk.len();
        entry.marks.push(written);
        // A large file's bytes are in its working file when the call returns.
        if written > 65_536 {
            entry.kept = Some(written);
        }
        if number == manner.chunks / 2 {
            if manner.sync {
                file.sync_all()?;
                entry.kept = Some(written);
            }
            if manner.hold > 0 {
                std::thread::sleep(Duration::from_millis(manner.hold));
            }
        }
    }
    close(file)?;
    entry.kept = Some(written);
    Ok(())
}

/// Closes a file and hears what that says.
fn close(file: File) -> io::Result<()> {
    nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from)
}

/// Removes what was left beside its place by calls that failed.
pub fn tidy_up(root: &Path) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for found in std::fs::read_dir(&folder)? {
            let found = found?;
            if found.file_type()?.is_dir() {
                folders.push(found.path());
            } else if found.file_name().to_string_lossy().starts_with(ASIDE) {
                match std::fs::remove_file(found.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}
