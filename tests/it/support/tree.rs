//! What a folder holds, as one value that can be compared: mounts with each other and with the
//! server.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Instant;

use super::{Mount, PATIENCE, TestServer};

/// Every entry below a folder by its path, `/`-led as the server names it.
pub type Tree = BTreeMap<String, Entry>;

/// One entry.
#[derive(Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir,
    /// A file: permission bits and bytes.
    File(u32, Vec<u8>),
    /// A symbolic link and its target.
    Symlink(String),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir => f.write_str("folder"),
            Self::File(mode, bytes) => write!(f, "file {mode:o} {}", summary(bytes)),
            Self::Symlink(target) => write!(f, "link to {target:?}"),
        }
    }
}

/// Reads everything below `folder`, names as they are.
pub fn tree(folder: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree::new();
    gather(folder, "", &mut tree)?;
    Ok(tree)
}

fn gather(folder: &Path, below: &str, tree: &mut Tree) -> std::io::Result<()> {
    let listed = |error: std::io::Error| std::io::Error::other(format!("list {below:?}: {error}"));
    for entry in std::fs::read_dir(folder).map_err(listed)? {
        let entry = entry.map_err(listed)?;
        let name = entry.file_name().into_string().expect("names are UTF-8");
        let path = format!("{below}/{name}");
        let meta = entry
            .path()
            .symlink_metadata()
            .map_err(|error| std::io::Error::other(format!("stat {path:?}: {error}")))?;
        let found = if meta.is_dir() {
            gather(&entry.path(), &path, tree)?;
            Entry::Dir
        } else if meta.is_symlink() {
            Entry::Symlink(std::fs::read_link(entry.path())?.to_str().unwrap().to_owned())
        } else {
            let bytes = std::fs::read(entry.path())
                .map_err(|error| std::io::Error::other(format!("read {path:?}: {error}")))?;
            if bytes.len() as u64 != meta.size() {
                let (read, told) = (bytes.len(), meta.size());
                let wrong = format!("{path:?}: {read} bytes are read, stat tells {told}");
                return Err(std::io::Error::other(wrong));
            }
            Entry::File(meta.permissions().mode() & 0o7777, bytes)
        };
        assert!(tree.insert(path.clone(), found).is_none(), "{path:?} is listed twice");
    }
    Ok(())
}

/// Every file and link of a tree as the server holds it: bytes, or the target's text.
pub fn bytes_of(tree: &Tree) -> BTreeMap<String, Vec<u8>> {
    let bytes = |(path, entry): (&String, &Entry)| {
        let bytes = match entry {
            Entry::Dir => return None,
            Entry::File(_, bytes) => bytes.clone(),
            Entry::Symlink(target) => target.as_bytes().to_vec(),
        };
        Some((path.clone(), bytes))
    };
    tree.iter().filter_map(bytes).collect()
}

/// Sends what `a` has pending; then what `a` shows is what the server holds, and soon what `b`
/// shows. Returns it.
#[track_caller]
pub fn agree(server: &TestServer, a: &Mount, b: &Mount) -> Tree {
    a.flush();
    let ours = tree(&a.path()).unwrap();
    let theirs = server.files();
    let difference = difference(&summaries(&bytes_of(&ours)), &summaries(&theirs));
    assert!(difference.is_empty(), "this mount (left) and the server: {difference:#?}");
    shows(b, &ours);
    ours
}

/// Waits until a mount shows exactly `expected`; panics with what differs.
#[track_caller]
pub fn shows(mount: &Mount, expected: &Tree) {
    let began = Instant::now();
    loop {
        // While changes arrive, what was listed may be gone before it is read.
        let found = tree(&mount.path());
        if found.as_ref().is_ok_and(|found| found == expected) {
            return;
        }
        if began.elapsed() > PATIENCE {
            let difference = difference(expected, &found.unwrap());
            panic!("expected (left) and shown by the mount: {difference:#?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Contents as something short: the text of a small one, else size and digest.
pub fn summaries(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    files.iter().map(|(path, bytes)| (path.clone(), summary(bytes))).collect()
}

fn summary(bytes: &[u8]) -> String {
    let digest = mountd::digest::Digest::of(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= 80 => format!("{text:?}"),
        _ => format!("{} bytes {digest}", bytes.len()),
    }
}

/// The entries that are not the same on both sides.
pub fn difference<T: Clone + PartialEq>(
    left: &BTreeMap<String, T>,
    right: &BTreeMap<String, T>,
) -> Vec<(String, Option<T>, Option<T>)> {
    let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let entry = |name: &String| (name.clone(), left.get(name).cloned(), right.get(name).cloned());
    let differs = |name: &&String| left.get(*name) != right.get(*name);
    names.into_iter().filter(differs).map(entry).take(20).collect()
}
