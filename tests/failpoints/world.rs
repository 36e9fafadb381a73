//! What a mount may show: the tree that follows from the calls that succeeded, and for a call that
//! was cut short what it may have done.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::libc;

use crate::support::tree::{Entry, Tree};

/// The tree as it must be, by path.
pub type World = BTreeMap<String, State>;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Dir,
    Link(String),
    /// Exactly these bytes; the mode only where it is known.
    File {
        bytes: Vec<u8>,
        mode: Option<u32>,
    },
    /// The first of these bytes, however many: a call was cut short.
    Begun(Vec<u8>),
    /// The same, with zeros where bytes are missing: the power went while a large file was written.
    Holes(Vec<u8>),
}

impl State {
    fn summary(&self) -> String {
        match self {
            Self::Dir => "a folder".to_owned(),
            Self::Link(target) => format!("a link to {target}"),
            Self::File { bytes, mode } => {
                format!("{:?}", Entry::File(mode.unwrap_or_default(), bytes.clone()))
            }
            Self::Begun(bytes) | Self::Holes(bytes) => {
                format!("the beginning of {} bytes", bytes.len())
            }
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (Self::Dir, Entry::Dir) => true,
            (Self::Link(target), Entry::Symlink(found)) => target == found,
            (Self::File { bytes, mode }, Entry::File(found_mode, found)) => {
                bytes == found && mode.is_none_or(|mode| mode == *found_mode)
            }
            (Self::Begun(bytes), Entry::File(_, found)) => bytes.starts_with(found),
            (Self::Holes(bytes), Entry::File(_, found)) => {
                let fits = |(found, byte): (&u8, &u8)| *found == 0 || found == byte;
                found.len() <= bytes.len() && found.iter().zip(bytes).all(fits)
            }
            _ => false,
        }
    }
}

/// Where a tree is not what a world says.
pub fn differences(world: &World, tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, state) in world {
        match tree.get(path) {
            None => wrong.push(format!("{path} is missing")),
            Some(entry) if !state.is(entry) => {
                wrong.push(format!("{path} is {entry:?}, not {}", state.summary()));
            }
            Some(_) => {}
        }
    }
    let invented = tree.iter().filter(|(path, _)| !world.contains_key(*path));
    wrong.extend(invented.map(|(path, entry)| format!("{path} is there: {entry:?}")));
    wrong
}

/// A call, or what a program does in one go, on the mount.
#[derive(Clone, Debug)]
pub enum Op {
    Mkdir(&'static str),
    Rmdir(&'static str),
    Unlink(&'static str),
    Rename(&'static str, &'static str),
    Symlink(&'static str, &'static str),
    Chmod(&'static str, u32),
    Truncate(&'static str, usize),
    /// Created or emptied, written in pieces, closed.
    Write(&'static str, Vec<u8>),
    /// The same with an fsync before the close.
    WriteSynced(&'static str, Vec<u8>),
    /// The same opened with `O_SYNC`, without an fsync.
    WriteFlagged(&'static str, Vec<u8>),
    /// Written at an offset of a file that is there, closed.
    Patch(&'static str, usize, Vec<u8>),
    /// The same with an fsync before the close.
    PatchSynced(&'static str, usize, Vec<u8>),
    SyncDir(&'static str),
}

const PIECE: usize = 40_000;

impl Op {
    /// Does it. The last thing to fail is the `close`.
    pub fn perform(&self, root: &Path) -> io::Result<()> {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        match self {
            Self::Mkdir(path) => fs::create_dir(at(path)),
            Self::Rmdir(path) => fs::remove_dir(at(path)),
            Self::Unlink(path) => fs::remove_file(at(path)),
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Symlink(target, path) => std::os::unix::fs::symlink(target, at(path)),
            Self::Chmod(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Self::Truncate(path, size) => {
                let path = nix::NixPath::with_nix_path(&at(path), |path| path.to_owned())?;
                let size = i64::try_from(*size).unwrap();
                nix::unistd::truncate(path.as_c_str(), size).map_err(io::Error::from)
            }
            Self::Write(path, bytes) => write(&at(path), bytes, 0, false),
            Self::WriteSynced(path, bytes) => write(&at(path), bytes, 0, true),
            Self::WriteFlagged(path, bytes) => write(&at(path), bytes, libc::O_SYNC, false),
            Self::Patch(path, offset, bytes) | Self::PatchSynced(path, offset, bytes) => {
                let file = OpenOptions::new().write(true).open(at(path))?;
                file.write_all_at(bytes, *offset as u64)?;
                if matches!(self, Self::PatchSynced(..)) {
                    file.sync_data()?;
                }
                close(file)
            }
            Self::SyncDir(path) => File::open(at(path))?.sync_all(),
        }
    }

    /// What is there after it succeeded.
    pub fn after(&self, world: &World) -> World {
        let mut world = world.clone();
        match self {
            Self::Mkdir(path) => drop(world.insert((*path).to_owned(), State::Dir)),
            Self::Rmdir(path) | Self::Unlink(path) => drop(world.remove(*path)),
            Self::Rename(from, to) => {
                let below = format!("{from}/");
                let moved: Vec<String> = world
                    .keys()
                    .filter(|path| path == from || path.starts_with(&below))
                    .cloned()
                    .collect();
                for path in moved {
                    let state = world.remove(&path).unwrap();
                    world.insert(path.replacen(from, to, 1), state);
                }
            }
            Self::Symlink(target, path) => {
                world.insert((*path).to_owned(), State::Link((*target).to_owned()));
            }
            Self::Chmod(path, new) => {
                if let Some(State::File { mode, .. }) = world.get_mut(*path) {
                    *mode = Some(*new);
                }
            }
            Self::Truncate(path, size) => change(&mut world, path, |bytes| bytes.resize(*size, 0)),
            Self::Write(path, bytes)
            | Self::WriteSynced(path, bytes)
            | Self::WriteFlagged(path, bytes) => {
                let mode = match world.get(*path) {
                    Some(State::File { mode, .. }) => *mode,
                    Some(_) => None,
                    None => Some(0o640),
                };
                world.insert((*path).to_owned(), State::File { bytes: bytes.clone(), mode });
            }
            Self::Patch(path, offset, new) | Self::PatchSynced(path, offset, new) => {
                change(&mut world, path, |bytes| {
                    bytes[*offset..*offset + new.len()].copy_from_slice(new);
                });
            }
            Self::SyncDir(_) => {}
        }
        world
    }

    /// What else may be there when it was cut short, besides what was there before and what would
    /// have been after it.
    pub fn cut_short(&self, world: &World) -> Option<World> {
        let (Self::Write(path, bytes)
        | Self::WriteSynced(path, bytes)
        | Self::WriteFlagged(path, bytes)) = self
        else {
            return None;
        };
        let mut world = world.clone();
        let begun = State::Begun(bytes.clone());
        world.insert((*path).to_owned(), begun);
        Some(world)
    }
}

fn change(world: &mut World, path: &str, act: impl FnOnce(&mut Vec<u8>)) {
    match world.get_mut(path) {
        Some(State::File { bytes, .. }) => act(bytes),
        other => panic!("{path} is {other:?}"),
    }
}

fn write(path: &Path, bytes: &[u8], flags: i32, synced: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640).custom_flags(flags);
    let mut file = options.open(path)?;
    for piece in bytes.chunks(PIECE) {
        file.write_all(piece)?;
    }
    if synced {
        file.sync_all()?;
    }
    close(file)
}

/// Closes a file and hears what `close` says.
fn close(file: File) -> io::Result<()> {
    nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from)
}
