//! A bit that changes on the disk while nobody looks.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::content;

/// A bit that was flipped.
#[derive(Debug)]
pub struct Flip {
    /// Where, for the account.
    pub what: &'static str,
    /// Contents that may be hit by it, as they were before.
    pub before: Vec<Vec<u8>>,
    /// The database and its log as they were, when the bit is anywhere in them.
    backup: Option<(PathBuf, tempfile::TempDir)>,
}

/// The database's files by their names.
const DATABASE: [&str; 3] = ["state.db", "state.db-wal", "state.db-shm"];

/// Flips a bit of a whole content, large or small, that a call made, or one anywhere in the database or its log.
/// `None` when there is nothing to be hit. The daemon must be dead.
pub fn flip_a_bit(state: &Path, salt: u64) -> Option<Flip> {
    let mut rng = SmallRng::seed_from_u64(salt);
    match rng.random_range(0..4) {
        0 => {
            let before = vec![flip_large(state, &mut rng)?];
            Some(Flip { what: "a large content", before, backup: None })
        }
        1 => {
            let before = vec![flip_small(state, &mut rng)?];
            Some(Flip { what: "a small content", before, backup: None })
        }
        2 => flip_raw(state, "state.db", "the database", &mut rng),
        _ => flip_raw(state, "state.db-wal", "the database's log", &mut rng),
    }
}

impl Flip {
    /// Takes back a flip after which the daemon rightly refuses to start, as a person would who has a backup.
    /// `false` when there is none.
    pub fn undo(&self) -> bool {
        let Some((state, backup)) = &self.backup else { return false };
        for name in DATABASE {
            drop(std::fs::remove_file(state.join(name)));
            if backup.path().join(name).exists() {
                std::fs::copy(backup.path().join(name), state.join(name)).unwrap();
            }
        }
        true
    }
}

fn flip_large(state: &Path, rng: &mut SmallRng) -> Option<Vec<u8>> {
    // Of one that was written when the daemon died nothing is known, so nothing can be noticed.
    let known = with_checksums(state)?;
    let mut paths = working_files(state);
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        name.is_some_and(|file| known.contains(&file))
    });
    if paths.is_empty() {
        return None;
    }
    let path = paths.swap_remove(rng.random_range(0..paths.len()));
    let before = std::fs::read(&path).unwrap();
    content::author(&before)?;
    flip(&path, &before, rng);
    Some(before)
}

/// The working files whose checksums the database has.
fn with_checksums(state: &Path) -> Option<Vec<i64>> {
    // A copy is looked at: looking at the database itself would use up its log.
    let copy = tempfile::tempdir().unwrap();
    for name in &DATABASE[..2] {
        drop(std::fs::copy(state.join(name), copy.path().join(name)));
    }
    let database = rusqlite::Connection::open(copy.path().join("state.db")).ok()?;
    let mut query = database.prepare("SELECT file FROM sums").ok()?;
    let rows = query.query_map([], |row| row.get(0)).ok()?;
    Some(rows.filter_map(Result::ok).collect())
}

fn working_files(state: &Path) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(state.join("files")) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

fn flip_small(state: &Path, rng: &mut SmallRng) -> Option<Vec<u8>> {
    let database = rusqlite::Connection::open(state.join("state.db")).ok()?;
    let mut rows = blobs(&database)?;
    rows.retain(|(_, data)| content::author(data).is_some());
    if rows.is_empty() {
        return None;
    }
    let (id, before) = rows.swap_remove(rng.random_range(0..rows.len()));
    let (at, bit) = choose(&before, rng);
    let mut after = before.clone();
    after[at] ^= bit;
    database.execute("UPDATE blobs SET data = ?1 WHERE id = ?2", (&after, id)).ok()?;
    Some(before)
}

fn blobs(database: &rusqlite::Connection) -> Option<Vec<(i64, Vec<u8>)>> {
    let mut query = database.prepare("SELECT id, data FROM blobs ORDER BY id").ok()?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
    Some(rows.filter_map(Result::ok).collect())
}

/// Flips a bit anywhere in a file of the database. Whatever the database holds or names may be hit.
fn flip_raw(state: &Path, name: &str, what: &'static str, rng: &mut SmallRng) -> Option<Flip> {
    let bytes = std::fs::read(state.join(name)).ok().filter(|bytes| !bytes.is_empty())?;
    // A copy is looked at: looking at the database itself would use up its log.
    let backup = tempfile::tempdir().unwrap();
    for name in DATABASE {
        drop(std::fs::copy(state.join(name), backup.path().join(name)));
    }
    let looked_at = tempfile::tempdir().unwrap();
    for name in &DATABASE[..2] {
        drop(std::fs::copy(state.join(name), looked_at.path().join(name)));
    }
    let database = rusqlite::Connection::open(looked_at.path().join("state.db")).ok()?;
    let mut before: Vec<_> = blobs(&database)?.into_iter().map(|(_, data)| data).collect();
    before.extend(working_files(state).iter().map(|path| std::fs::read(path).unwrap()));
    flip(&state.join(name), &bytes, rng);
    Some(Flip { what, before, backup: Some((state.to_owned(), backup)) })
}

fn flip(path: &Path, before: &[u8], rng: &mut SmallRng) {
    let (at, bit) = choose(before, rng);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[before[at] ^ bit], at as u64).unwrap();
}

/// A place and a bit in it.
fn choose(bytes: &[u8], rng: &mut SmallRng) -> (usize, u8) {
    (rng.random_range(0..bytes.len()), 1 << rng.random_range(0..8))
}
