//! The store: one SQLite database that holds outbox, nodes, small contents, cursor and conflicts.
//!
//! Owns `state.db`. Invariants: one writer thread (`writer`) commits what callers submit, in the
//! order of submission, many callers to one transaction; a step that changes several rows is one
//! submission and so all or nothing. Rows are plain data; what they mean is decided elsewhere.
//! Reading back happens at start ([`Store::load`]) and for small contents ([`Store::blob`]).
//!
//! Durability: WAL with `synchronous=NORMAL`, so a commit is safe against a crash of this process
//! when it returns and against power loss once the log was synced, which [`Store::sync`] and the
//! background sync do. Power loss can take back the newest commits together, never an older one
//! and never the file's integrity (<https://www.sqlite.org/wal.html>).

mod damage;
mod load;
mod log;
mod place;
mod reserve;
mod rows;
mod salvage;
mod schema;
mod table;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

pub use self::damage::DamagedRow;
pub use self::load::Loaded;
pub use self::log::LogCheck;
pub use self::rows::{FileSums, Row};
pub use self::salvage::Salvage;
pub use self::schema::SCHEMA_VERSION;
use self::writer::Writer;
use crate::node::BlobId;

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk that holds the state folder is full")]
    Full,
    /// The database was written by a newer mountd.
    #[error("state database has schema {found}, this mountd knows up to {known}")]
    Newer {
        /// What the file says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The database, or a content in it, is not as it was written.
    #[error("state database is damaged: {0}")]
    Damaged(String),
    /// Anything else that SQLite or the disk says.
    #[error("state database: {0}")]
    Failed(String),
    /// The database was removed or moved away while it is in use: what is written is not kept.
    #[error("the state folder was removed or replaced while it is in use: {0}")]
    Gone(String),
    /// The store was closed.
    #[error("state database is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Called once with what became of a submission, on a thread of the store.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Names everything that was submitted before a moment; [`Store::submitted`] gives it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(u64);

/// What must be durable before rows are; see [`Store::before_sync`].
pub type BeforeSync = Box<dyn Fn() -> std::io::Result<()> + Send + Sync>;

/// A handle to the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Arc<Writer>,
    reader: Arc<Mutex<Connection>>,
    path: PathBuf,
}

/// A database that was opened and looked through.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What it holds.
    pub loaded: Loaded,
    /// What was found in the log.
    pub log: LogCheck,
    /// What was saved, when the database was damaged and had to be made anew.
    pub salvage: Option<Salvage>,
    /// Where rows that are not believed are kept; for whoever keeps them.
    pub kept_rows: Option<PathBuf>,
}

/// What the rows of one entry that moves take in the log, at most: its node and two records.
const ENTRY_BYTES: u64 = 2 << 10;

/// Up to this size a database is checked page by page whenever it is opened; bytes.
const CHECK_BYTES_MAX: u64 = 64 << 20;

/// Removes the index of the log, which SQLite makes anew: who read the database before the log was
/// mended, and still does, has one that ends at what was damaged, and would share it with us. They go on
/// reading what they saw.
fn forget_index(path: &Path) -> std::io::Result<()> {
    let mut index = path.as_os_str().to_owned();
    index.push("-shm");
    match std::fs::remove_file(PathBuf::from(index)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Store {
    /// Opens or creates the database at `path`, looks it through and reads everything back. Of one
    /// that is damaged everything that can be read goes into a new one; `aside` names the path
    /// under which the damaged one is kept. *Blocking:* disk.
    ///
    /// # Errors
    /// When it cannot be opened, was written by a newer mountd, or the disk refuses.
    pub fn open_checked(
        path: &Path,
        aside: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<Opened, StoreError> {
        salvage::finish(path, aside)?;
        let failed = |error: std::io::Error| StoreError::Failed(error.to_string());
        let mut log_path = path.as_os_str().to_owned();
        log_path.push("-wal");
        let log_path = PathBuf::from(log_path);
        let keep = || std::fs::copy(&log_path, aside(&log_path)).map(|_bytes| ());
        let log = log::check(&log_path, keep).map_err(failed)?;
        if log.mended > 0 {
            forget_index(path).map_err(failed)?;
        }
        let read = || {
            let store = Self::open(path)?;
            let loaded = store.check().and_then(|()| store.load());
            loaded.map_err(|error| (store.stop(), error).1).map(|loaded| (store, loaded))
        };
        match read() {
            Err(StoreError::Damaged(why)) => {
                let salvage = salvage::salvage(path, why, aside)?;
                let (store, mut loaded) = read()?;
                loaded.damaged.extend(salvage.damaged.iter().cloned());
                loaded.rebuilt = true;
                Ok(Opened { store, loaded, log, salvage: Some(salvage), kept_rows: None })
            }
            read => read.map(|(store, loaded)| Opened {
                store,
                loaded,
                log,
                salvage: None,
                kept_rows: None,
            }),
        }
    }

    /// Looks through the pages of the database, unless there are very many.
    fn check(&self) -> Result<(), StoreError> {
        if self.page_bytes()? > CHECK_BYTES_MAX {
            return Ok(());
        }
        self.check_pages()
    }

    /// Looks through all pages and all rows but small contents as they lie on the disk now, beside
    /// whoever uses them. Returns the rows that are not as they were written. *Blocking:* disk.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the pages are, anything else when they cannot be read.
    pub fn inspect(&self) -> Result<Vec<DamagedRow>, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(StoreError::Damaged(found));
        }
        load::damaged(&connection)
    }

    /// Looks through all pages of the database. *Blocking:* disk.
    ///
    /// # Errors
    /// When they are damaged, or cannot be read.
    pub fn check_pages(&self) -> Result<(), StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let found: String = reader.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found == "ok" { Ok(()) } else { Err(StoreError::Damaged(found)) }
    }

    fn page_bytes(&self) -> Result<u64, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let value = |sql| reader.query_row(sql, [], |row| row.get::<_, u32>(0)).map(u64::from);
        Ok(value("PRAGMA page_count")? * value("PRAGMA page_size")?)
    }

    /// Stops the threads; what was submitted and not committed is left.
    fn stop(&self) {
        self.writer.stop();
    }

    /// Opens or creates the database at `path` and starts its threads.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or was written by a newer mountd.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // Checkpoints run on the idle tick, so that no acknowledgement waits for one.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        schema::bring_up(&mut connection)?;
        if !schema::is_whole(&connection)? {
            return Err(StoreError::Damaged("its tables are not those of its version".to_owned()));
        }
        // A write creates the log, whose name must survive power loss as its content does.
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        if let Some(folder) = path.parent() {
            let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| StoreError::Failed(format!("{}: {error}", folder.display())))?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags)?;
        let writer = Writer::start(connection, path)?;
        Ok(Self {
            writer: Arc::new(writer),
            reader: Arc::new(Mutex::new(reader)),
            path: path.to_owned(),
        })
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything back.
    ///
    /// # Errors
    /// When the database cannot be read. Single rows that cannot be understood are set aside in
    /// [`Loaded::damaged`].
    pub fn load(&self) -> Result<Loaded, StoreError> {
        load::load(&self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why nothing can be written at present: what the latest commit said, and whether the database is
    /// still in its place. `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<StoreError> {
        self.writer.trouble()
    }

    /// Whether what is written is kept: the database is in its place, and commits do not fail again and
    /// again.
    ///
    /// # Errors
    /// Why not.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        self.writer.check_writable()
    }

    /// Whether there is room for new things on the disk. When there is none, what must be written down
    /// still has the room that was set aside for it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    /// Whether a step that changes so many entries at once may be begun.
    #[must_use]
    pub fn has_room_for(&self, entries: usize) -> bool {
        self.writer.has_room_for(ENTRY_BYTES * entries as u64)
    }

    /// Submits rows without waiting for them.
    ///
    /// *Durability:* none when it returns; after a crash either all rows or none are there, and no
    /// later submission without them.
    pub fn put(&self, rows: Vec<Row>) {
        if !rows.is_empty() {
            self.writer.submit(rows, None);
        }
    }

    /// Submits rows and calls `done` when they are committed.
    ///
    /// *Durability:* safe against a crash of this process when `done` runs.
    pub fn commit(&self, rows: Vec<Row>, done: Done) {
        self.writer.submit(rows, Some(done));
    }

    /// Calls `done` once everything submitted before is on stable storage; one disk sync serves
    /// all who wait at the time.
    pub fn sync(&self, done: Done) {
        self.writer.sync(done);
    }

    /// Names everything that was submitted so far.
    #[must_use]
    pub fn submitted(&self) -> Ticket {
        self.writer.submitted()
    }

    /// Calls `done` when everything that `ticket` names is committed; at once, if it is.
    ///
    /// *Durability:* safe against a crash of this process when `done` runs.
    pub fn when_committed(&self, ticket: Ticket, done: Done) {
        self.writer.when_committed(ticket, done);
    }

    /// Whether everything that `ticket` names is committed.
    #[must_use]
    pub fn is_committed(&self, ticket: Ticket) -> bool {
        self.writer.is_committed(ticket)
    }

    /// Calls `done` once everything that `ticket` names is on stable storage.
    pub fn when_synced(&self, ticket: Ticket, done: Done) {
        self.writer.when_synced(ticket, done);
    }

    /// Has `before` run before rows are made durable: what they speak of must be there first. Once.
    pub fn before_sync(&self, before: BeforeSync) {
        self.writer.before_sync(before);
    }

    /// Submits rows and waits until they are committed, or synced when `durable`.
    /// *Blocking:* disk; not for tokio threads.
    ///
    /// # Errors
    /// When the commit or sync failed.
    pub fn commit_and_wait(&self, rows: Vec<Row>, durable: bool) -> Result<(), StoreError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(2);
        let tell = sender.clone();
        self.commit(rows, Box::new(move |result| drop(tell.send(result))));
        receiver.recv().map_err(|_closed| StoreError::Closed)??;
        if durable {
            self.sync(Box::new(move |result| drop(sender.send(result))));
            receiver.recv().map_err(|_closed| StoreError::Closed)??;
        }
        Ok(())
    }

    /// Loads a small content. *Blocking:* disk.
    ///
    /// # Errors
    /// When the database cannot be read, or the content is not as it was written. One that is not
    /// there is `None`.
    pub fn blob(&self, id: BlobId) -> Result<Option<Bytes>, StoreError> {
        match self.blob_as_it_lies(id)? {
            Some((_, false)) => {
                Err(StoreError::Damaged(format!("the checksum of content {} does not match", id.0)))
            }
            read => Ok(read.map(|(bytes, _)| bytes)),
        }
    }

    /// Loads a small content and tells whether it is as it was written. *Blocking:* disk.
    ///
    /// # Errors
    /// When the database cannot be read. A content that is not there is `None`.
    pub fn blob_as_it_lies(&self, id: BlobId) -> Result<Option<(Bytes, bool)>, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement =
            reader.prepare_cached("SELECT id, data, sum FROM blobs WHERE id = ?1")?;
        let check = table::Check::of(&statement);
        let read = statement.query_row([rows::sql_id(id.0)], |row| {
            Ok((row.get::<_, Vec<u8>>(1)?, check.holds(row)?))
        });
        Ok(read.optional()?.map(|(data, holds)| (Bytes::from(data), holds)))
    }

    /// Bytes of the database that hold something; freed pages are used again by what comes next.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |pragma: &str| -> rusqlite::Result<i64> {
            reader.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
        };
        let pages = read("page_count")? - read("freelist_count")?;
        Ok(u64::try_from(pages * read("page_size")?).unwrap_or_default())
    }

    /// Bytes of the database that hold nothing any more and are used again before it grows.
    /// *Blocking:* disk.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let value = |sql| reader.query_row(sql, [], |row| row.get::<_, u32>(0)).map(u64::from);
        Ok(value("PRAGMA freelist_count")? * value("PRAGMA page_size")?)
    }

    /// Moves the log into the database file and empties it. *Blocking:* disk.
    pub fn checkpoint(&self) {
        self.writer.checkpoint();
    }

    /// Commits and syncs what was submitted, checkpoints, and stops the threads.
    ///
    /// # Errors
    /// When the last commit or sync failed.
    pub fn close(&self) -> Result<(), StoreError> {
        self.commit_and_wait(Vec::new(), true)?;
        self.writer.checkpoint();
        self.writer.stop();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
