//! Where workspaces live: a database for everything small, body files for large contents.
//!
//! One thread writes and many connections read. A write that returned is on disk; a read sees a
//! consistent state of some moment, and at least everything whose write had returned.

mod apply;
pub(crate) mod bodies;
pub(crate) mod feed;
mod identity;
pub(crate) mod model;
pub(crate) mod read;
mod schema;
pub(crate) mod tree;
mod writer;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::{Config, FEED_BUFFER_EVENTS};
use crate::error::Error;
use bodies::Bodies;
use feed::Hub;
use model::{Change, Outcome, Workspace};
use writer::{Message, Request, Writer};

/// Connections that read at once; more reads wait.
const READERS: usize = 8;
/// Prefix counts remembered; see [`Store::count_below`].
const COUNTS_MAX: usize = 256;

/// Why the store could not do what was asked. Clients see a 500, operators this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("body file: {0}")]
    Body(#[from] io::Error),
    #[error("commit: {0}")]
    Commit(Arc<rusqlite::Error>),
    #[error("the store is closed")]
    Closed,
}

/// The open store; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: String,
    database: PathBuf,
    bodies: Bodies,
    hub: Arc<Hub>,
    writer: mpsc::Sender<Message>,
    writer_thread: Mutex<Option<JoinHandle<()>>>,
    readers: Mutex<Vec<Connection>>,
    readers_free: Arc<Semaphore>,
    counts: Mutex<HashMap<(i64, String), (i64, i64)>>,
}

impl Store {
    /// Opens the storage folder, creating it when absent. *Blocking*: disk.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let folder = &config.storage;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(storage("create folder", folder))?;
        let lock = lock(folder)?;
        // Also when the folder was made by hand: what it holds is nobody else's to read.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(storage("restrict access to", folder))?;
        let database = folder.join("workspaces.db");
        // SQLite gives its log and index files the mode of the database.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&database)
            .map_err(storage("open", &database))?;
        let identity =
            identity::of(folder).map_err(storage("read or make", &folder.join("identity")))?;
        let connection = schema::open_writer(&database)?;
        let bodies = Bodies::open(&folder.join("bodies"))?;
        let failed = |act| {
            let path = database.clone();
            move |source| Error::Database { act, path, source }
        };
        bodies.sweep(&read::body_names(&connection).map_err(failed("read"))?)?;
        failpoint!("server.start.swept");
        fs::File::open(folder)
            .and_then(|handle| handle.sync_all())
            .map_err(storage("make durable", folder))?;
        let hub = Arc::new(Hub::new(FEED_BUFFER_EVENTS));
        let readers = (0..READERS)
            .map(|_| schema::open_reader(&database))
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(failed("open"))?;
        let (sender, receiver) = mpsc::channel(writer::QUEUE_MAX);
        let thread = Writer {
            connection,
            bodies: bodies.clone(),
            hub: Arc::clone(&hub),
            clock: config.clock.clone(),
            events_max: i64::try_from(config.events_max).unwrap_or(i64::MAX).max(1),
            lock,
        }
        .spawn(receiver)
        .map_err(storage("start the writer of", folder))?;
        let inner = Inner {
            identity,
            database,
            bodies,
            hub,
            writer: sender,
            writer_thread: Mutex::new(Some(thread)),
            readers: Mutex::new(readers),
            readers_free: Arc::new(Semaphore::new(READERS)),
            counts: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn bodies(&self) -> &Bodies {
        &self.inner.bodies
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// Applies changes in order.
    ///
    /// *Durability*: what took effect is on disk when this returns. *Cancel safety*: a request
    /// that was queued is applied even when the caller goes away.
    pub(crate) async fn write(
        &self,
        workspace: &str,
        changes: Vec<Change>,
        correlation: &str,
    ) -> Result<Vec<Outcome>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            workspace: workspace.to_owned(),
            changes,
            correlation: correlation.to_owned(),
            reply,
        };
        let sent = self.inner.writer.send(Message::Write(request)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `read` on a connection of its own, inside one snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let free = Arc::clone(&self.inner.readers_free);
        let permit = free.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let _permit = permit;
            let pooled = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match pooled {
                Some(connection) => connection,
                None => schema::open_reader(&inner.database)?,
            };
            let result = {
                let snapshot = connection.unchecked_transaction()?;
                read(&snapshot)
            };
            inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
    }

    /// Opens a connection outside the pool, for reads that last as long as a client takes.
    /// Which server this is.
    pub(crate) fn identity(&self) -> &str {
        &self.inner.identity
    }

    pub(crate) fn open_reader(&self) -> Result<Connection, StoreError> {
        Ok(schema::open_reader(&self.inner.database)?)
    }

    /// Counts the files below a folder.
    ///
    /// The root's count is kept with the workspace; others are counted once and remembered until
    /// the workspace changes, so that the pages of one listing share a count.
    pub(crate) fn count_below(
        &self,
        connection: &Connection,
        space: &Workspace,
        folder: &str,
    ) -> Result<i64, StoreError> {
        if folder == "/" {
            return Ok(space.files);
        }
        let key = (space.id, folder.to_owned());
        let counts = &self.inner.counts;
        let known = counts.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some((as_of, count)) = known
            && as_of == space.last_event
        {
            return Ok(count);
        }
        let count = read::count_below(connection, space.id, folder)?;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTS_MAX {
            counts.clear();
        }
        counts.insert(key, (space.last_event, count));
        Ok(count)
    }

    /// Asks the writer to stop after what is queued, without waiting for it.
    pub(crate) fn stop_soon(&self) {
        // A full queue means requests are still being served; the writer then ends with the
        // last of them.
        self.inner.writer.try_send(Message::Stop).ok();
    }

    /// Lets queued writes finish, then releases the storage. *Blocking*: disk.
    pub(crate) async fn close(&self) {
        // Readers go first, so that the writer's connection is the last and folds the log.
        self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.inner.writer.send(Message::Stop).await.ok();
        let thread = self.inner.writer_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            tokio::task::spawn_blocking(move || thread.join().ok()).await.ok();
        }
    }
}

fn lock(folder: &Path) -> Result<Flock<fs::File>, Error> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(storage("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            Error::Locked { path: folder.to_owned() }
        } else {
            storage("lock", &path)(errno.into())
        }
    })
}

fn storage(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Storage { act, path, source }
}
