//! Content on the local disk and in memory: small contents, working files, and what is open.
//!
//! Owns the folder `files/` and the cache of small contents. Invariants: a small content never
//! changes under its id; a working file is changed in place only through its [`open::OpenFile`];
//! a file is removed only after the rows that stopped referring to it are on stable storage.
//! *Blocking:* disk.

pub mod aside;
pub mod flaw;
pub mod open;
pub mod unsynced;
pub mod working;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use self::aside::Hands;
use self::working::{Blocks, WorkingFile};
use crate::node::{BlobId, Content, FileId, Ino};
use crate::store::{FileSums, Store, StoreError};

pub use self::open::{OpenFile, OpenFiles};
use self::unsynced::Unsynced;

/// Small contents kept in memory, so that sending what was just written reads no disk; bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// What becomes of working files that nothing names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They go: all that could name them was read.
    Remove,
    /// What may have been named by something lost is set aside.
    Keep(Timestamp),
    /// Everything is set aside.
    KeepAll(Timestamp),
}

/// What a sweep of the working files found.
#[derive(Debug, Default)]
pub struct Swept {
    /// The lengths of those that are named.
    pub lengths: HashMap<FileId, u64>,
    /// What nothing names, and where it is kept, unless it was removed.
    pub left: Vec<(PathBuf, Option<PathBuf>)>,
}

/// The contents of a mount.
#[derive(Debug)]
pub struct Contents {
    folder: PathBuf,
    /// Whether what is damaged or left over may be touched.
    hands: Hands,
    store: Store,
    cache: Mutex<Cache>,
    trash: Arc<Mutex<Vec<FileId>>>,
    /// Working files that are not on stable storage yet.
    pub unsynced: Arc<Unsynced>,
    /// What is known of the bytes of each working file.
    blocks: Mutex<HashMap<FileId, Arc<Blocks>>>,
    /// Nodes whose working files have bytes of which nothing is known.
    unscanned: Mutex<BTreeSet<Ino>>,
    /// What is open.
    pub open: OpenFiles,
}

#[derive(Debug, Default)]
struct Cache {
    blobs: HashMap<BlobId, Bytes>,
    order: VecDeque<BlobId>,
    bytes: usize,
}

impl Contents {
    /// Uses `folder`, created 0700 when missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path, store: Store, sums: &HashMap<FileId, FileSums>) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if let Some(above) = folder.parent() {
            File::open(above)?.sync_all()?;
        }
        let contents = Self::of(folder, store, sums, Hands::Free);
        let before = Arc::clone(&contents.unsynced);
        contents.store.before_sync(Box::new(move || before.sync_all()));
        Ok(contents)
    }

    /// Uses `folder` to look at, and changes nothing in it.
    #[must_use]
    pub fn look_at(folder: &Path, store: Store, sums: &HashMap<FileId, FileSums>) -> Self {
        Self::of(folder, store, sums, Hands::Tied)
    }

    fn of(folder: &Path, store: Store, sums: &HashMap<FileId, FileSums>, hands: Hands) -> Self {
        let blocks =
            sums.iter().map(|(file, sums)| (*file, Arc::new(Blocks::known(sums)))).collect();
        let unsynced = Arc::new(Unsynced::new(folder));
        Self {
            folder: folder.to_owned(),
            hands,
            store,
            cache: Mutex::default(),
            trash: Arc::default(),
            unsynced,
            blocks: Mutex::new(blocks),
            unscanned: Mutex::default(),
            open: OpenFiles::default(),
        }
    }

    /// Whether what is found may be touched.
    #[must_use]
    pub fn hands(&self) -> Hands {
        self.hands
    }

    /// Removes working files that nothing refers to, leftovers of the last run, or sets them aside.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep(&self, used: &BTreeSet<FileId>, leftovers: Leftovers) -> io::Result<Swept> {
        let mut swept = Swept::default();
        let entries = match std::fs::read_dir(&self.folder) {
            // Only where it was not to be made either.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.hands == Hands::Tied => {
                return Ok(swept);
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok()).map(FileId);
            // A link, or anything else that we did not make, is none of ours: it leads nowhere.
            let is_ours = entry.file_type()?.is_file();
            match id.filter(|id| is_ours && used.contains(id)) {
                Some(id) => {
                    // After a crash its newest bytes may be with the kernel only.
                    match File::open(entry.path()) {
                        Ok(file) => {
                            if self.hands == Hands::Free {
                                file.sync_data()?;
                            }
                            swept.lengths.insert(id, file.metadata()?.len());
                        }
                        // It is found unreadable when it is looked at.
                        Err(_) => drop(swept.lengths.insert(id, entry.metadata()?.len())),
                    }
                }
                None if aside::is_set_aside(&name.to_string_lossy()) => {}
                None => {
                    let path = entry.path();
                    let kept = match leftovers {
                        Leftovers::KeepAll(at) => aside::set_aside(&path, at, self.hands)?,
                        Leftovers::Keep(at) if id.is_some() => {
                            aside::set_aside(&path, at, self.hands)?
                        }
                        Leftovers::Keep(_) | Leftovers::Remove => {
                            failpoint!("start.sweep");
                            if self.hands == Hands::Free {
                                std::fs::remove_file(&path)?;
                            }
                            None
                        }
                    };
                    swept.left.push((path, kept));
                }
            }
        }
        if self.hands == Hands::Free {
            self.unsynced.sync_folder()?;
        }
        Ok(swept)
    }

    /// The small content `id`.
    ///
    /// # Errors
    /// When it cannot be read or is not there.
    pub fn blob(&self, id: BlobId) -> Result<Bytes, StoreError> {
        let cached = self.cached_blob(id);
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        let bytes = self.store.blob(id)?;
        bytes.ok_or_else(|| StoreError::Damaged(format!("content {} is missing", id.0)))
    }

    /// Keeps a small content in memory for a while. It must be submitted to the store as well.
    pub fn cache_blob(&self, id: BlobId, bytes: &Bytes) {
        let mut cache = self.cache();
        cache.bytes += bytes.len();
        cache.order.push_back(id);
        cache.blobs.insert(id, bytes.clone());
        while cache.bytes > CACHE_BYTES_MAX {
            let Some(oldest) = cache.order.pop_front() else { break };
            if let Some(bytes) = cache.blobs.remove(&oldest) {
                cache.bytes -= bytes.len();
            }
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the working file `id` is.
    #[must_use]
    pub fn file_path(&self, id: FileId) -> PathBuf {
        self.folder.join(id.0.to_string())
    }

    /// Where a file that is still being fetched is; not a name that [`Contents::sweep`] keeps.
    #[must_use]
    pub fn fetch_path(&self, id: FileId) -> PathBuf {
        self.folder.join(format!("{}.fetch", id.0))
    }

    /// Creates the working file `id`.
    ///
    /// # Errors
    /// When it exists or the disk refuses.
    pub fn create_file(&self, id: FileId) -> io::Result<WorkingFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(self.file_path(id))?;
        self.unsynced.created(&file)?;
        Ok(WorkingFile::new(id, file, self.blocks(id)))
    }

    /// Opens the working file `id`; never through a symbolic link.
    ///
    /// # Errors
    /// When it is not there or the disk refuses.
    pub fn open_file(&self, id: FileId) -> io::Result<WorkingFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
        let file = options.open(self.file_path(id))?;
        Ok(WorkingFile::new(id, file, self.blocks(id)))
    }

    /// Gives a damaged content another name, under which it is kept. `None`: there is nothing left
    /// of it.
    ///
    /// # Errors
    /// When the disk refuses; it is where it was then.
    pub fn set_aside(&self, content: Content, at: Timestamp) -> io::Result<Option<PathBuf>> {
        match content {
            Content::Empty | Content::Remote | Content::Damaged => Ok(None),
            Content::File(file) => aside::set_aside(&self.file_path(file), at, self.hands),
            Content::Blob(blob) => match self.store.blob_as_it_lies(blob) {
                Ok(Some((bytes, _))) => {
                    let path = aside::aside_path(&self.blob_path(blob), at);
                    if self.hands == Hands::Tied {
                        return Ok(Some(path));
                    }
                    let mut options = OpenOptions::new();
                    options.write(true).create_new(true).mode(0o600);
                    let mut file = options.open(&path)?;
                    io::Write::write_all(&mut file, &bytes)?;
                    file.sync_all()?;
                    Ok(Some(path))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }

    /// What was set aside of a content before, the newest.
    #[must_use]
    pub fn kept_of(&self, content: Content) -> Option<PathBuf> {
        match content {
            Content::Empty | Content::Remote | Content::Damaged => None,
            Content::File(file) => aside::kept_of(&self.file_path(file)),
            Content::Blob(blob) => aside::kept_of(&self.blob_path(blob)),
        }
    }

    fn blob_path(&self, blob: BlobId) -> PathBuf {
        self.folder.join(format!("blob-{}", blob.0))
    }

    /// A small content as it lies in the database, and whether that is as it was written.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn blob_at_rest(&self, id: BlobId) -> Result<Option<(Bytes, bool)>, StoreError> {
        self.store.blob_as_it_lies(id)
    }

    /// A small content that is still in memory.
    #[must_use]
    pub fn cached_blob(&self, id: BlobId) -> Option<Bytes> {
        self.cache().blobs.get(&id).cloned()
    }

    /// What is known of the bytes of the working file `id`.
    #[must_use]
    pub fn blocks(&self, id: FileId) -> Arc<Blocks> {
        Arc::clone(self.all_blocks().entry(id).or_default())
    }

    fn all_blocks(&self) -> std::sync::MutexGuard<'_, HashMap<FileId, Arc<Blocks>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the node's working file scanned when it is quiet.
    pub fn note_unscanned(&self, ino: Ino) {
        self.unscanned().insert(ino);
    }

    /// Takes out the nodes whose working files are to be scanned.
    #[must_use]
    pub fn take_unscanned(&self) -> BTreeSet<Ino> {
        std::mem::take(&mut *self.unscanned())
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_unscanned(&self) -> bool {
        !self.unscanned().is_empty()
    }

    fn unscanned(&self) -> std::sync::MutexGuard<'_, BTreeSet<Ino>> {
        self.unscanned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has working files removed by the next [`Contents::empty_trash`].
    pub fn discard(&self, files: Vec<FileId>) {
        if !files.is_empty() {
            let mut blocks = self.all_blocks();
            for file in &files {
                blocks.remove(file);
            }
            drop(blocks);
            self.trash.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        }
    }

    /// Removes discarded files once everything submitted to the store before is durable. Returns
    /// at once.
    pub fn empty_trash(&self) {
        let files = std::mem::take(&mut *self.trash.lock().unwrap_or_else(PoisonError::into_inner));
        if files.is_empty() {
            return;
        }
        let paths: Vec<PathBuf> = files.iter().map(|id| self.file_path(*id)).collect();
        let trash = Arc::clone(&self.trash);
        self.store.sync(Box::new(move |result| {
            if result.is_err() {
                trash.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
                return;
            }
            failpoint!("trash.remove");
            for path in paths {
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, path = %path.display(), "remove working file");
                }
            }
            failpoint!("trash.removed");
        }));
    }

    /// Bytes of local disk that contents take: working files, and what the database holds.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let files: u64 = entries.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum();
        files + self.store.used_bytes().unwrap_or_default()
    }

    /// The folder of the working files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
