//! The writer and the syncer: two threads, so that an acknowledgement never waits for a disk sync
//! that nobody asked for.
//!
//! The writer takes everything that was submitted while it was busy into one transaction (group
//! commit) and then runs the callbacks. A commit that finds the disk full is made in the room that is
//! set aside (`reserve`). A failed commit keeps its rows: they are tried again with
//! the next submission, so that the database never skips a row that memory already shows. The
//! syncer makes the log durable when somebody waits for it, and at least once a second while
//! there is something to sync.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::place::Place;
use super::reserve::Reserve;
use super::rows::newest_only;
use super::{BeforeSync, Done, Row, StoreError, Ticket};
use crate::node::Content;

/// Bound of the time after which a commit is on stable storage without anybody asking
/// (`docs/semantics.md`, section 1).
const BACKGROUND_SYNC: Duration = Duration::from_millis(500);

/// How long rows wait that could not be committed, e.g. because the disk was full.
const RETRY: Duration = Duration::from_secs(1);

/// After so many commits in a row that failed, new changes are refused before they are made.
const FAILED_MAX: u32 = 2;

/// Log size from which a checkpoint runs even while commits keep coming; bytes.
const LOG_BYTES_MAX: u64 = 64 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    syncs: Mutex<Syncs>,
    sync_work: Condvar,
    log: PathBuf,
    reserve: Reserve,
    place: Place,
    /// What the latest commit failed with; `None` when it did not.
    trouble: Mutex<Option<StoreError>>,
    /// How many commits failed since the last one that did not.
    failed: AtomicU32,
    /// What is to be made durable before the log is.
    before_sync: OnceLock<BeforeSync>,
    /// Held while rows that speak of working files are committed, and from the moment at which the
    /// files are durable until the log is: no such row gets into the log in between.
    gate: Mutex<()>,
    /// A sync of the log failed: what it holds is safe only once a checkpoint copied it.
    doubt: AtomicBool,
    /// Up to where everything that was submitted is committed.
    committed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// Counts submissions of rows.
    submitted: u64,
    rows: Vec<Row>,
    done: Vec<Done>,
    checkpoint: bool,
    stop: bool,
}

#[derive(Default)]
struct Syncs {
    /// Callbacks that wait for the next sync.
    waiting: Vec<Done>,
    /// Whether commits happened since the last sync began.
    unsynced: bool,
    stop: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("log", &self.shared.log).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub(super) fn start(connection: Connection, path: &Path) -> Result<Self, StoreError> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            syncs: Mutex::default(),
            sync_work: Condvar::new(),
            log: PathBuf::from(log),
            reserve: Reserve::beside(path),
            place: Place::of(path)
                .map_err(|error| StoreError::Failed(format!("{}: {error}", path.display())))?,
            trouble: Mutex::default(),
            failed: AtomicU32::new(0),
            before_sync: OnceLock::new(),
            gate: Mutex::default(),
            doubt: AtomicBool::new(false),
            committed: AtomicU64::new(0),
        });
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(|error| StoreError::Failed(format!("start thread {name}: {error}")))
        };
        let for_writer = Arc::clone(&shared);
        let for_syncer = Arc::clone(&shared);
        let threads = vec![
            spawn("store-writer", Box::new(move || write_loop(&for_writer, connection)))?,
            spawn("store-syncer", Box::new(move || sync_loop(&for_syncer)))?,
        ];
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    pub(super) fn submit(&self, rows: Vec<Row>, done: Option<Done>) {
        let mut queue = lock(&self.shared.queue);
        if queue.stop {
            drop(queue);
            if let Some(done) = done {
                done(Err(StoreError::Closed));
            }
            return;
        }
        queue.submitted += u64::from(!rows.is_empty());
        queue.rows.extend(rows);
        queue.done.extend(done);
        drop(queue);
        self.shared.work.notify_one();
    }

    pub(super) fn submitted(&self) -> Ticket {
        Ticket(lock(&self.shared.queue).submitted)
    }

    /// Calls `done` when everything up to `ticket` is committed; at once if it is.
    pub(super) fn when_committed(&self, ticket: Ticket, done: Done) {
        if self.is_committed(ticket) {
            done(Ok(()));
        } else {
            self.submit(Vec::new(), Some(done));
        }
    }

    /// Calls `done` when everything up to `ticket` is on stable storage.
    pub(super) fn when_synced(&self, ticket: Ticket, done: Done) {
        if self.is_committed(ticket) {
            self.shared.wait_for_sync(done);
        } else {
            self.sync_in_turn(done);
        }
    }

    pub(super) fn is_committed(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.shared.committed.load(Ordering::Acquire)
    }

    pub(super) fn sync(&self, done: Done) {
        self.when_synced(self.submitted(), done);
    }

    fn sync_in_turn(&self, done: Done) {
        // Passing through the writer first orders the sync after all earlier submissions.
        let shared = Arc::clone(&self.shared);
        self.submit(
            Vec::new(),
            Some(Box::new(move |result| match result {
                Err(error) => done(Err(error)),
                Ok(()) => shared.wait_for_sync(done),
            })),
        );
    }

    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.shared.place.check().err().or_else(|| lock(&self.shared.trouble).clone())
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        self.shared.place.check()?;
        if self.shared.failed.load(Ordering::Acquire) < FAILED_MAX {
            return Ok(());
        }
        match lock(&self.shared.trouble).clone() {
            // For that there is the reserve.
            None | Some(StoreError::Full) => Ok(()),
            Some(error) => Err(error),
        }
    }

    pub(super) fn before_sync(&self, before: BeforeSync) {
        drop(self.shared.before_sync.set(before));
    }

    pub(super) fn has_room(&self) -> bool {
        self.shared.reserve.has_room()
    }

    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.shared.reserve.has_room_for(bytes)
    }

    pub(super) fn checkpoint(&self) {
        lock(&self.shared.queue).checkpoint = true;
        self.shared.work.notify_one();
    }

    pub(super) fn stop(&self) {
        lock(&self.shared.queue).stop = true;
        self.shared.work.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let own = std::thread::current().id();
        for (at, thread) in threads.into_iter().enumerate() {
            if at == 1 {
                lock(&self.shared.syncs).stop = true;
                self.shared.sync_work.notify_all();
            }
            // The last handle may have been a callback's, which ran on one of them.
            if thread.thread().id() != own {
                drop(thread.join());
            }
        }
    }
}

/// A store that nobody holds any more leaves no threads and no open database behind.
impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_loop(shared: &Shared, mut connection: Connection) {
    // Rows whose commit failed stay here and go first next time.
    let mut rows: Vec<Row> = Vec::new();
    let mut log_bytes_seen = 0_u64;
    loop {
        let (done, checkpoint, stop, submitted) = {
            let mut queue = lock(&shared.queue);
            while queue.rows.is_empty() && queue.done.is_empty() && !queue.checkpoint && !queue.stop
            {
                if rows.is_empty() {
                    queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = shared.work.wait_timeout(queue, RETRY);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                if timeout.timed_out() {
                    break;
                }
            }
            rows.append(&mut queue.rows);
            let done = std::mem::take(&mut queue.done);
            (done, std::mem::take(&mut queue.checkpoint), queue.stop, queue.submitted)
        };
        newest_only(&mut rows);
        let gate = name_files(&rows).then(|| lock(&shared.gate));
        let result = shared.commit(&mut connection, &rows);
        drop(gate);
        match &result {
            Ok(()) => {
                shared.committed.store(submitted, Ordering::Release);
                if !rows.is_empty() {
                    log_bytes_seen += rows.iter().map(weight).sum::<u64>();
                    rows.clear();
                    lock(&shared.syncs).unsynced = true;
                    shared.sync_work.notify_one();
                }
            }
            // Tried again every second; said once.
            Err(error) if lock(&shared.trouble).as_ref() == Some(error) => {}
            Err(error) => tracing::error!(%error, rows = rows.len(), "commit failed, rows kept"),
        }
        match &result {
            Ok(()) => shared.failed.store(0, Ordering::Release),
            Err(_) => drop(shared.failed.fetch_add(1, Ordering::AcqRel)),
        }
        lock(&shared.trouble).clone_from(&result.as_ref().err().cloned());
        if !done.is_empty() {
            failpoint!("store.answer");
            for callback in done {
                callback(result.clone());
            }
            failpoint!("store.answered");
        }
        if (checkpoint || log_bytes_seen > LOG_BYTES_MAX) && result.is_ok() {
            log_bytes_seen = 0;
            shared.checkpoint(&connection);
        }
        if stop && rows.is_empty() {
            return;
        }
        if stop {
            tracing::error!(rows = rows.len(), "stopping with rows that could not be committed");
            return;
        }
    }
}

fn weight(row: &Row) -> u64 {
    match row {
        Row::PutBlob(_, data) => data.len() as u64 + 512,
        _ => 512,
    }
}

fn commit(connection: &mut Connection, rows: &[Row]) -> Result<(), StoreError> {
    failpoint!("store.commit.begin", |errno| Err(match errno {
        28 => StoreError::Full,
        _ => StoreError::Failed(format!("errno {errno}")),
    }));
    let transaction = connection.transaction()?;
    for row in rows {
        row.apply(&transaction)?;
    }
    failpoint!("store.commit.rows");
    transaction.commit()?;
    failpoint!("store.commit.after");
    Ok(())
}

fn sync_loop(shared: &Shared) {
    loop {
        let (waiting, stop) = {
            let mut syncs = lock(&shared.syncs);
            loop {
                if !syncs.waiting.is_empty() || syncs.stop {
                    break;
                }
                if syncs.unsynced {
                    let (guard, timeout) = shared
                        .sync_work
                        .wait_timeout_while(syncs, BACKGROUND_SYNC, |syncs| {
                            syncs.waiting.is_empty() && !syncs.stop
                        })
                        .unwrap_or_else(PoisonError::into_inner);
                    syncs = guard;
                    if timeout.timed_out() {
                        break;
                    }
                } else {
                    syncs = shared.sync_work.wait(syncs).unwrap_or_else(PoisonError::into_inner);
                }
            }
            syncs.unsynced = false;
            (std::mem::take(&mut syncs.waiting), syncs.stop)
        };
        let result = shared.make_durable();
        if let Err(error) = &result {
            tracing::error!(%error, "sync of the state database");
            lock(&shared.syncs).unsynced = true;
        }
        failpoint!("store.sync.after");
        for callback in waiting {
            callback(result.clone());
        }
        if stop {
            return;
        }
    }
}

impl Shared {
    /// Commits rows, in the room that is set aside when there is no other.
    fn commit(&self, connection: &mut Connection, rows: &[Row]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.place.check()?;
        let mut result = commit(connection, rows);
        if matches!(result, Err(StoreError::Full)) {
            // The log takes room for what the database has room for already.
            self.checkpoint(connection);
            result = commit(connection, rows);
        }
        while matches!(result, Err(StoreError::Full)) && self.reserve.give() {
            result = commit(connection, rows);
        }
        result
    }

    /// Has `done` called by the next sync; what it waits for is committed.
    fn wait_for_sync(&self, done: Done) {
        let mut syncs = lock(&self.syncs);
        if syncs.stop {
            drop(syncs);
            return done(Err(StoreError::Closed));
        }
        syncs.waiting.push(done);
        self.sync_work.notify_one();
    }

    /// Makes every commit durable, and before them the files they speak of.
    fn make_durable(&self) -> Result<(), StoreError> {
        self.place.check()?;
        // Most of it while commits go on, the rest while they wait.
        self.sync_files()?;
        let _gate = lock(&self.gate);
        self.sync_files()?;
        if self.doubt.load(Ordering::Acquire) {
            // The kernel may have dropped what it could not write, and would not say so again.
            lock(&self.queue).checkpoint = true;
            self.work.notify_one();
            return Err(StoreError::Failed("an earlier sync of the log failed".to_owned()));
        }
        let synced = sync_log(&self.log);
        self.doubt.store(synced.is_err(), Ordering::Release);
        synced
    }

    fn sync_files(&self) -> Result<(), StoreError> {
        let synced = self.before_sync.get().map_or(Ok(()), |before| before());
        synced.map_err(|error| StoreError::Failed(format!("sync of working files: {error}")))
    }

    /// Moves the log into the database file, which makes it durable.
    fn checkpoint(&self, connection: &Connection) {
        failpoint!("store.checkpoint");
        // Of the writer's thread, so nothing is committed in between.
        if let Err(error) = self.sync_files() {
            tracing::error!(%error, "no checkpoint");
            return;
        }
        match copy_log(connection) {
            Ok(false) => self.doubt.store(false, Ordering::Release),
            Ok(true) => tracing::debug!("checkpoint while the log is read"),
            Err(error) => tracing::warn!(%error, "checkpoint"),
        }
        failpoint!("store.checkpoint.after");
    }
}

/// Copies the log into the database file; whether readers kept it from being done altogether.
fn copy_log(connection: &Connection) -> rusqlite::Result<bool> {
    failpoint!("store.checkpoint.copy", |_errno| Err(rusqlite::Error::InvalidQuery));
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
}

/// Whether rows speak of bytes that are in no row.
fn name_files(rows: &[Row]) -> bool {
    let names = |row: &Row| match row {
        Row::PutNode(node) => {
            node.body().is_some_and(|body| matches!(body.content, Content::File(_)))
        }
        _ => false,
    };
    rows.iter().any(names)
}

/// Makes every commit in the log durable. The checkpoint syncs the log itself before it copies
/// from it, so a log that was just emptied leaves nothing behind that this would miss.
fn sync_log(log: &Path) -> Result<(), StoreError> {
    failpoint!("store.sync", |errno| Err(StoreError::Failed(format!("errno {errno}"))));
    match File::open(log) {
        Ok(file) => file
            .sync_data()
            .map_err(|error| StoreError::Failed(format!("sync {}: {error}", log.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::Failed(format!("open {}: {error}", log.display()))),
    }
}
