//! Content on the local disk and in memory: small contents, working files, and what is open.
//!
//! Owns the folder `files/` and the cache of small contents. Invariants: a small content never
//! changes under its id; a working file is changed in place only through its [`open::OpenFile`];
//! a file is removed only after the rows that stopped referring to it are on stable storage.
//! *Blocking:* disk.

pub mod open;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::node::{BlobId, FileId, Ino};
use crate::store::{Store, StoreError};

pub use self::open::{OpenFile, OpenFiles};

/// Small contents kept in memory, so that sending what was just written reads no disk; bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// The contents of a mount.
#[derive(Debug)]
pub struct Contents {
    folder: PathBuf,
    store: Store,
    cache: Mutex<Cache>,
    trash: Arc<Mutex<Vec<FileId>>>,
    /// Working files that were sealed and are not on stable storage yet.
    unsynced: Mutex<HashMap<Ino, Arc<File>>>,
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
    pub fn open(folder: &Path, store: Store) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            store,
            cache: Mutex::default(),
            trash: Arc::default(),
            unsynced: Mutex::default(),
            open: OpenFiles::default(),
        })
    }

    /// Removes working files that nothing refers to: leftovers of the last run. Returns the lengths
    /// of the others.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep(&self, used: &BTreeSet<FileId>) -> io::Result<HashMap<FileId, u64>> {
        let mut lengths = HashMap::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok()).map(FileId);
            match id.filter(|id| used.contains(id)) {
                Some(id) => drop(lengths.insert(id, entry.metadata()?.len())),
                None => {
                    failpoint!("start.sweep");
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(lengths)
    }

    /// The small content `id`.
    ///
    /// # Errors
    /// When it cannot be read or is not there.
    pub fn blob(&self, id: BlobId) -> Result<Bytes, StoreError> {
        let cached = self.cache().blobs.get(&id).cloned();
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        let bytes = self.store.blob(id)?;
        bytes.ok_or_else(|| StoreError::Failed(format!("content {} is missing", id.0)))
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
    pub fn create_file(&self, id: FileId) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.file_path(id))
    }

    /// Opens the working file `id`; never through a symbolic link.
    ///
    /// # Errors
    /// When it is not there or the disk refuses.
    pub fn open_file(&self, id: FileId) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
        options.open(self.file_path(id))
    }

    /// Makes names in the folder durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Has a working file made durable by the next [`Contents::sync_files`].
    pub fn note_unsynced(&self, ino: Ino, file: &Arc<File>) {
        self.unsynced().insert(ino, Arc::clone(file));
    }

    /// Whether [`Contents::sync_files`] has anything to do.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced().is_empty()
    }

    /// Makes sealed working files durable; what fails is tried again next time.
    pub fn sync_files(&self) {
        let files = std::mem::take(&mut *self.unsynced());
        if files.is_empty() {
            return;
        }
        for (ino, file) in files {
            if let Err(error) = sync_data(&file) {
                tracing::error!(ino = ino.0, %error, "sync of a working file");
                self.unsynced().entry(ino).or_insert(file);
            }
        }
        if let Err(error) = self.sync_folder() {
            tracing::error!(%error, "sync of the folder of working files");
        }
        failpoint!("content.sync.after");
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, HashMap<Ino, Arc<File>>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has working files removed by the next [`Contents::empty_trash`].
    pub fn discard(&self, files: Vec<FileId>) {
        if !files.is_empty() {
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

fn sync_data(file: &File) -> io::Result<()> {
    failpoint!("content.sync", |errno| Err(io::Error::from_raw_os_error(errno)));
    file.sync_data()
}
