//! What a disk holds, and what of it would be there if the power went now.
//!
//! Bytes are safe once their file was synced, names once their folder was. Until then they are gone
//! after the power went ([`Loss::Everything`]), or there, or a page of them in part ([`Loss::Part`]): a
//! file's length may be there without its bytes, which are zeros then. Names come back in order, a
//! later one never without an earlier, and with a file that was synced those before, as a journal does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rand::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// The root folder.
pub const ROOT: u64 = 1;

/// What a disk holds.
#[derive(Debug)]
pub struct Platter {
    inodes: HashMap<u64, Inode>,
    next: u64,
    /// Changes of names that no sync of a folder has covered, oldest first.
    pending: Vec<NameChange>,
    /// How many of them are older than the last sync of a file.
    journaled: usize,
}

/// A file or folder.
#[derive(Debug)]
pub struct Inode {
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub kind: Kind,
}

/// What an inode holds, now and after a loss of power.
#[derive(Debug)]
pub enum Kind {
    Dir { names: BTreeMap<OsString, u64>, safe: BTreeMap<OsString, u64> },
    File { bytes: Vec<u8>, safe: Vec<u8>, dirty: BTreeSet<usize> },
}

#[derive(Debug)]
struct NameChange(Vec<(u64, OsString, Option<u64>)>);

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is gone.
    Everything,
    /// Any part of it is gone.
    Part,
}

/// What is found after the power came back, by path below the root.
pub type Image = BTreeMap<OsString, Found>;

/// An entry of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Dir(u32),
    File(u32, Vec<u8>),
}

impl Default for Platter {
    fn default() -> Self {
        let kind = Kind::Dir { names: BTreeMap::new(), safe: BTreeMap::new() };
        let root = Inode { mode: 0o700, kind };
        Self {
            inodes: HashMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pending: Vec::new(),
            journaled: 0,
        }
    }
}

impl Platter {
    pub fn get(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    pub fn set_mode(&mut self, ino: u64, mode: u32) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.mode = mode;
        }
    }

    pub fn child(&self, dir: u64, name: &OsStr) -> Option<u64> {
        match &self.inodes.get(&dir)?.kind {
            Kind::Dir { names, .. } => names.get(name).copied(),
            Kind::File { .. } => None,
        }
    }

    pub fn make(&mut self, dir: u64, name: &OsStr, mode: u32, is_dir: bool) -> u64 {
        let ino = self.next;
        self.next += 1;
        let kind = if is_dir {
            Kind::Dir { names: BTreeMap::new(), safe: BTreeMap::new() }
        } else {
            Kind::File { bytes: Vec::new(), safe: Vec::new(), dirty: BTreeSet::new() }
        };
        self.inodes.insert(ino, Inode { mode, kind });
        self.name(vec![(dir, name.to_owned(), Some(ino))]);
        ino
    }

    pub fn remove(&mut self, dir: u64, name: &OsStr) {
        self.name(vec![(dir, name.to_owned(), None)]);
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) {
        let ino = self.child(from.0, from.1);
        self.name(vec![(to.0, to.1.to_owned(), ino), (from.0, from.1.to_owned(), None)]);
    }

    fn name(&mut self, changes: Vec<(u64, OsString, Option<u64>)>) {
        for (dir, name, ino) in &changes {
            if let Some(Kind::Dir { names, .. }) = self.inodes.get_mut(dir).map(|it| &mut it.kind) {
                set(names, name, *ino);
            }
        }
        self.pending.push(NameChange(changes));
    }

    pub fn write(&mut self, ino: u64, offset: usize, data: &[u8]) {
        let Some(Kind::File { bytes, dirty, .. }) = self.kind_mut(ino) else { return };
        let end = offset + data.len();
        let from = offset.min(bytes.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(data);
        dirty.extend(from / PAGE..end.div_ceil(PAGE));
    }

    pub fn resize(&mut self, ino: u64, len: usize) {
        let Some(Kind::File { bytes, dirty, .. }) = self.kind_mut(ino) else { return };
        let from = bytes.len().min(len);
        bytes.resize(len, 0);
        dirty.extend(from / PAGE..len.div_ceil(PAGE));
    }

    /// A sync of a file or folder.
    pub fn sync(&mut self, ino: u64) {
        self.journaled = self.pending.len();
        match self.kind_mut(ino) {
            Some(Kind::File { bytes, safe, dirty }) => {
                safe.resize(bytes.len(), 0);
                for page in std::mem::take(dirty) {
                    let (from, to) = span(page, bytes.len());
                    safe[from..to].copy_from_slice(&bytes[from..to]);
                }
            }
            Some(Kind::Dir { .. }) => {
                // What the journal holds of other folders before that comes along.
                let last = self.pending.iter().rposition(|change| change.concerns(ino));
                let covered = last.map_or(0, |last| last + 1);
                self.journaled -= covered;
                let covered = self.pending.drain(..covered);
                for change in covered.collect::<Vec<_>>() {
                    self.settle(&change);
                }
            }
            None => {}
        }
    }

    fn settle(&mut self, NameChange(changes): &NameChange) {
        for (dir, name, ino) in changes {
            if let Some(Kind::Dir { safe, .. }) = self.kind_mut(*dir) {
                set(safe, name, *ino);
            }
        }
    }

    fn kind_mut(&mut self, ino: u64) -> Option<&mut Kind> {
        self.inodes.get_mut(&ino).map(|inode| &mut inode.kind)
    }

    /// What would be there if the power went now.
    pub fn after(&self, loss: Loss, rng: &mut impl Rng) -> Image {
        let mut kept: HashMap<u64, BTreeMap<OsString, u64>> = HashMap::new();
        let survivors = match loss {
            Loss::Everything => 0,
            Loss::Part => rng.random_range(self.journaled..=self.pending.len()),
        };
        for NameChange(changes) in &self.pending[..survivors] {
            for (dir, name, ino) in changes {
                if let Some(Kind::Dir { safe, .. }) = self.inodes.get(dir).map(|it| &it.kind) {
                    set(kept.entry(*dir).or_insert_with(|| safe.clone()), name, *ino);
                }
            }
        }
        let mut image = Image::new();
        self.gather(ROOT, OsStr::new(""), &kept, loss, rng, &mut image);
        image
    }

    fn gather(
        &self,
        dir: u64,
        path: &OsStr,
        kept: &HashMap<u64, BTreeMap<OsString, u64>>,
        loss: Loss,
        rng: &mut impl Rng,
        image: &mut Image,
    ) {
        let Kind::Dir { safe, .. } = &self.inodes[&dir].kind else { return };
        for (name, ino) in kept.get(&dir).unwrap_or(safe) {
            let below = Path::new(path).join(name).into_os_string();
            let inode = &self.inodes[ino];
            match &inode.kind {
                Kind::Dir { .. } => {
                    image.insert(below.clone(), Found::Dir(inode.mode));
                    self.gather(*ino, &below, kept, loss, rng, image);
                }
                Kind::File { bytes, safe, dirty } => {
                    let left = survived(bytes, safe, dirty, loss, rng);
                    image.insert(below, Found::File(inode.mode, left));
                }
            }
        }
    }
}

impl NameChange {
    fn concerns(&self, dir: u64) -> bool {
        self.0.iter().any(|(concerned, ..)| *concerned == dir)
    }
}

fn set(names: &mut BTreeMap<OsString, u64>, name: &OsStr, ino: Option<u64>) {
    match ino {
        Some(ino) => drop(names.insert(name.to_owned(), ino)),
        None => drop(names.remove(name)),
    }
}

fn span(page: usize, len: usize) -> (usize, usize) {
    ((page * PAGE).min(len), ((page + 1) * PAGE).min(len))
}

fn survived(
    bytes: &[u8],
    safe: &[u8],
    dirty: &BTreeSet<usize>,
    loss: Loss,
    rng: &mut impl Rng,
) -> Vec<u8> {
    if loss == Loss::Everything || (bytes.len() == safe.len() && dirty.is_empty()) {
        return safe.to_vec();
    }
    let mut left = safe.to_vec();
    // The length is the new one, the old one, or in between, whatever became of the bytes.
    let len = match rng.random_range(0..3) {
        0 => safe.len(),
        1 => bytes.len(),
        // What grows does so in steps.
        _ => rng.random_range(safe.len().min(bytes.len())..=bytes.len()),
    };
    left.resize(len, 0);
    let share = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
    for page in dirty {
        if !rng.random_bool(share) {
            continue;
        }
        let (from, mut to) = span(*page, len.min(bytes.len()));
        if rng.random_ratio(1, 4) {
            // Torn: only some sectors of it.
            to = (from + rng.random_range(0..=PAGE / SECTOR) * SECTOR).min(to);
        }
        left[from..to].copy_from_slice(&bytes[from..to]);
    }
    left
}

/// Writes an image into an empty folder of a real disk.
pub fn write_out(image: &Image, folder: &Path) {
    for (path, found) in image {
        let path = folder.join(path);
        let mode = match found {
            Found::Dir(mode) => {
                std::fs::create_dir(&path).unwrap();
                mode
            }
            Found::File(mode, bytes) => {
                std::fs::write(&path, bytes).unwrap();
                mode
            }
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o777)).unwrap();
    }
}

/// The disk loses what was not synced, keeps what was, and does both to names as well as to bytes.
#[test]
fn a_platter_keeps_what_was_synced_and_nothing_else() {
    use rand::SeedableRng as _;
    let rng = &mut rand::rngs::SmallRng::seed_from_u64(1);
    let mut platter = Platter::default();
    let (file, other) = (OsStr::new("file"), OsStr::new("other"));
    let ino = platter.make(ROOT, file, 0o600, false);
    platter.write(ino, 0, b"first");
    assert_eq!(platter.after(Loss::Everything, rng), Image::new());
    platter.sync(ino);
    assert_eq!(platter.after(Loss::Everything, rng), Image::new(), "its name is not synced");
    platter.sync(ROOT);
    let first = Image::from([(file.to_owned(), Found::File(0o600, b"first".to_vec()))]);
    assert_eq!(platter.after(Loss::Everything, rng), first);
    platter.write(ino, 5, &[1; 10_000]);
    platter.rename((ROOT, file), (ROOT, other));
    assert_eq!(platter.after(Loss::Everything, rng), first);
    let seen: BTreeSet<Vec<u8>> = (0..500)
        .flat_map(|_| platter.after(Loss::Part, rng).into_values())
        .filter_map(|found| match found {
            Found::File(_, bytes) => Some(bytes),
            Found::Dir(_) => None,
        })
        .collect();
    let whole = [b"first".as_slice(), &[1; 10_000]].concat();
    assert!(seen.contains(b"first".as_slice()) && seen.contains(&whole));
    let zeros = |bytes: &Vec<u8>| bytes.len() == whole.len() && bytes.ends_with(&[0; 100]);
    assert!(seen.iter().any(zeros), "a length without its bytes");
    platter.sync(ino);
    platter.sync(ROOT);
    let last = Image::from([(other.to_owned(), Found::File(0o600, whole))]);
    assert_eq!(platter.after(Loss::Part, rng), last);
}
