//! Which working files are not on stable storage yet, so that rows never get there before the bytes
//! they speak of.
//!
//! A new file is synced before the row is submitted that says it is whole. One that is changed is
//! noted before the row of the change is submitted, and synced, with its name, before that row is
//! made durable; the store asks for it. A file of which a sync failed stays doubtful: the kernel
//! forgets what it could not write, and says so only once. *Blocking:* disk.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is to be synced in a folder of working files.
#[derive(Debug)]
pub struct Unsynced {
    folder: PathBuf,
    /// Files that changed, by inode of the local disk.
    changed: Mutex<HashMap<u64, Arc<File>>>,
    /// Inodes of which a sync failed.
    doubtful: Mutex<HashSet<u64>>,
}

impl Unsynced {
    /// Nothing yet, in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), changed: Mutex::default(), doubtful: Mutex::default() }
    }

    /// Has a changed file made durable before any row that is submitted from now on is.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn note(&self, file: &Arc<File>) -> io::Result<()> {
        lock(&self.changed).insert(file.metadata()?.ino(), Arc::clone(file));
        Ok(())
    }

    /// A file was created; its inode may have been that of one which is gone.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn created(&self, file: &File) -> io::Result<()> {
        lock(&self.doubtful).remove(&file.metadata()?.ino());
        Ok(())
    }

    /// Makes one file and its name durable.
    ///
    /// # Errors
    /// When the disk refuses, or did so before.
    pub fn sync_file(&self, file: &File) -> io::Result<()> {
        self.sync_new(file)?;
        failpoint!("content.sync.folder");
        self.sync_folder()
    }

    /// Makes a new file durable. Its name comes along on file systems that keep a journal, and is
    /// synced with the rows in any case: a sync of the folder for each file would cost as much again.
    ///
    /// # Errors
    /// When the disk refuses, or did so before.
    pub fn sync_new(&self, file: &File) -> io::Result<()> {
        if lock(&self.doubtful).contains(&file.metadata()?.ino()) {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        self.sync_bytes(file)
    }

    /// Makes names in the folder durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Makes every noted file durable.
    ///
    /// # Errors
    /// The first failure; the others are synced all the same. A file that failed before is not told
    /// again here, only to those who sync it.
    pub fn sync_all(&self) -> io::Result<()> {
        let files = std::mem::take(&mut *lock(&self.changed));
        let mut result = Ok(());
        for (number, file) in &files {
            let known = lock(&self.doubtful).contains(number);
            if let Err(error) = self.sync_bytes(file)
                && !known
            {
                tracing::error!(%error, "sync of a working file");
                result = result.and(Err(error));
            }
        }
        if !files.is_empty() {
            failpoint!("content.sync.after");
            result = result.and(self.sync_folder());
        }
        result
    }

    fn sync_bytes(&self, file: &File) -> io::Result<()> {
        let synced = sync_data(file);
        if synced.is_err() {
            lock(&self.doubtful).insert(file.metadata()?.ino());
        }
        synced
    }
}

fn sync_data(file: &File) -> io::Result<()> {
    failpoint!("content.sync", |errno| Err(io::Error::from_raw_os_error(errno)));
    file.sync_data()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
