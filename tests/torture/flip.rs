//! A bit that changes on the disk while nobody looks.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::content;

/// Flips a bit of a whole content, large or small, that a call made. Returns what it was before; `None` when
/// there is none. The daemon must be dead.
pub fn flip_a_bit(state: &Path, salt: u64) -> Option<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(salt);
    if rng.random() { flip_large(state, &mut rng) } else { flip_small(state, &mut rng) }
}

fn flip_large(state: &Path, rng: &mut SmallRng) -> Option<Vec<u8>> {
    let files = std::fs::read_dir(state.join("files")).ok()?;
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    if paths.is_empty() {
        return None;
    }
    let path = paths.swap_remove(rng.random_range(0..paths.len()));
    let before = std::fs::read(&path).unwrap();
    let (at, bit) = choose(&before, rng)?;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[before[at] ^ bit], at as u64).unwrap();
    Some(before)
}

fn flip_small(state: &Path, rng: &mut SmallRng) -> Option<Vec<u8>> {
    let database = rusqlite::Connection::open(state.join("state.db")).ok()?;
    let mut query = database.prepare("SELECT id, data FROM blobs ORDER BY id").ok()?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
    let mut rows: Vec<(i64, Vec<u8>)> = rows.filter_map(Result::ok).collect();
    rows.retain(|(_, data)| content::author(data).is_some());
    if rows.is_empty() {
        return None;
    }
    let (id, before) = rows.swap_remove(rng.random_range(0..rows.len()));
    let (at, bit) = choose(&before, rng)?;
    let mut after = before.clone();
    after[at] ^= bit;
    database.execute("UPDATE blobs SET data = ?1 WHERE id = ?2", (&after, id)).ok()?;
    Some(before)
}

/// A place and a bit in it.
fn choose(bytes: &[u8], rng: &mut SmallRng) -> Option<(usize, u8)> {
    content::author(bytes)?;
    Some((rng.random_range(0..bytes.len()), 1 << rng.random_range(0..8)))
}
