//! Contents too large for the database, one file each.
//!
//! A body is written under a temporary name, fsynced, renamed, and its folder fsynced, before the
//! row that names it is committed. A body no row names any more is removed after the commit that
//! dropped it, and not while a reader that may have seen the older row still runs. What a crash
//! leaves behind is swept when the store is opened.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// The folder of body files.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    folder: Arc<Path>,
    pins: Arc<Mutex<Pins>>,
}

#[derive(Debug, Default)]
struct Pins {
    readers: usize,
    doomed: Vec<String>,
}

/// Keeps every body file that exists now from being removed.
#[derive(Debug)]
pub(crate) struct BodyPin {
    bodies: Bodies,
}

/// A body that is on disk and named by no row yet; removed when dropped, unless kept.
#[derive(Debug)]
pub(crate) struct StagedBody {
    bodies: Bodies,
    name: String,
    kept: bool,
}

/// A body being written under its temporary name; removed when dropped.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    bodies: Bodies,
    name: String,
    file: File,
    done: bool,
}

impl Bodies {
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let bodies = Self { folder: folder.into(), pins: Arc::default() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| {
            Error::Storage { act: "create folder", path: folder.to_owned(), source }
        })?;
        Ok(bodies)
    }

    /// Removes every file that is not in `named`.
    pub(crate) fn sweep(&self, named: &HashSet<String>) -> Result<(), Error> {
        let failed = |source| Error::Storage {
            act: "sweep folder",
            path: self.folder.to_path_buf(),
            source,
        };
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_none_or(|name| !named.contains(name)) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Starts a new body. *Blocking*: disk.
    pub(crate) fn create(&self) -> io::Result<BodyWriter> {
        let name = format!("{:032x}", rand::random::<u128>());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.folder.join(format!("{name}.tmp")))?;
        failpoint!("server.body.created");
        Ok(BodyWriter { bodies: self.clone(), name, file, done: false })
    }

    /// Stages a whole content. *Blocking*: disk. *Durability*: on disk when it returns.
    pub(crate) fn stage(&self, content: &[u8]) -> io::Result<StagedBody> {
        let mut writer = self.create()?;
        writer.write(content)?;
        writer.finish()
    }

    /// Opens a body that a row named while `_pin` was held.
    pub(crate) fn read(&self, name: &str, _pin: &BodyPin) -> io::Result<File> {
        File::open(self.folder.join(name))
    }

    /// Must be held from before a row is read until its body has been opened.
    pub(crate) fn pin(&self) -> BodyPin {
        self.pins().readers += 1;
        BodyPin { bodies: self.clone() }
    }

    /// Removes bodies no row names any more, at once or when the last reader is done.
    pub(crate) fn remove(&self, names: Vec<String>) {
        let mut pins = self.pins();
        if pins.readers > 0 {
            pins.doomed.extend(names);
        } else {
            drop(pins);
            self.unlink(&names);
        }
    }

    fn unlink(&self, names: &[String]) {
        for name in names {
            if let Err(error) = fs::remove_file(self.folder.join(name)) {
                // The next start sweeps it; until then it only takes up space.
                tracing::warn!(%error, "an unused body file could not be removed");
            }
        }
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BodyPin {
    fn drop(&mut self) {
        let mut pins = self.bodies.pins();
        pins.readers -= 1;
        if pins.readers == 0 && !pins.doomed.is_empty() {
            let doomed = std::mem::take(&mut pins.doomed);
            drop(pins);
            self.bodies.unlink(&doomed);
        }
    }
}

impl BodyWriter {
    /// Appends to the body. *Blocking*: disk.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)
    }

    /// Gives the body its final name. *Blocking*: disk. *Durability*: on disk when it returns.
    pub(crate) fn finish(mut self) -> io::Result<StagedBody> {
        failpoint!("server.body.written");
        self.file.sync_all()?;
        failpoint!("server.body.synced");
        let folder = &self.bodies.folder;
        fs::rename(folder.join(format!("{}.tmp", self.name)), folder.join(&self.name))?;
        failpoint!("server.body.renamed");
        self.done = true;
        let staged =
            StagedBody { bodies: self.bodies.clone(), name: self.name.clone(), kept: false };
        File::open(folder)?.sync_all()?;
        failpoint!("server.body.durable");
        Ok(staged)
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if !self.done {
            self.bodies.unlink(&[format!("{}.tmp", self.name)]);
        }
    }
}

impl StagedBody {
    /// Leaves the body on disk for the row that is about to name it, and returns its name.
    pub(crate) fn keep(mut self) -> String {
        self.kept = true;
        self.name.clone()
    }
}

impl Drop for StagedBody {
    fn drop(&mut self) {
        if !self.kept {
            self.bodies.unlink(std::slice::from_ref(&self.name));
        }
    }
}
