//! A damaged database: what can be read of it goes into a new one, the old one is set aside.
//!
//! Rows are read forwards, backwards and, in between, one by one by their key, as far as the pages
//! that hold them can be read; those whose checksum does not match stay behind. The new database
//! is whole and synced before it takes the name of the old one, and an interruption anywhere leaves
//! either the old one or what the next start goes on with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, Row as SqlRow, params_from_iter};

use super::schema::{self, SCHEMA_VERSION};
use super::table::Check;
use super::{DamagedRow, StoreError};

/// Between two keys that can be read at most so many are looked for one by one.
const GAP_MAX: i64 = 1 << 20;

/// What was saved out of a damaged database.
#[derive(Debug, Clone, PartialEq)]
pub struct Salvage {
    /// Where the damaged one is kept.
    pub aside: PathBuf,
    /// What was wrong with it.
    pub why: String,
    /// Rows that were saved.
    pub rows: usize,
    /// Rows that could be read and are not as they were written.
    pub damaged: Vec<DamagedRow>,
}

/// The first bytes of every database of ours, as far as they never change: what a damaged header
/// is replaced by, in a copy.
const HEADER: &[u8] = b"SQLite format 3\0\x10\x00\x02\x02\x00\x40\x20\x20";

/// How a damaged database is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// With its log.
    WithLog,
    /// Without it.
    WithoutLog,
    /// With the first page, which says where the tables begin, of a new database: the tables of the
    /// first version begin where they begin there.
    OtherFirstPage,
}

/// How many tables the first version has.
const FIRST_TABLES: usize = 6;

/// Names of a database and what belongs to it.
pub(super) struct Names {
    db: PathBuf,
    log: PathBuf,
    index: PathBuf,
    copy: PathBuf,
    new: PathBuf,
    ready: PathBuf,
}

impl Names {
    pub(super) fn of(db: &Path) -> Self {
        let with = |end: &str| {
            let mut name = db.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        Self {
            db: db.to_owned(),
            log: with("-wal"),
            index: with("-shm"),
            copy: with(".copy"),
            new: with(".new"),
            ready: with(".ready"),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn failed(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Failed(error.to_string()),
    }
}

/// Goes on with what an interrupted salvage left, and clears its half-made files.
pub(super) fn finish(db: &Path, aside: &dyn Fn(&Path) -> PathBuf) -> Result<(), StoreError> {
    let names = Names::of(db);
    if names.ready.exists() {
        put_in_place(&names, &aside(&names.db)).map_err(failed)?;
    }
    for path in [&names.copy, &names.new] {
        for end in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            match fs::remove_file(PathBuf::from(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Saves what can be read of the database at `db` into a new one in its place.
///
/// # Errors
/// When the disk refuses. The damaged one is where it was then.
pub(super) fn salvage(
    db: &Path,
    why: String,
    aside: &dyn Fn(&Path) -> PathBuf,
) -> Result<Salvage, StoreError> {
    let names = Names::of(db);
    finish(db, aside)?;
    let aside = aside(db);
    let mut rows = Rows::new();
    let mut damaged = Vec::new();
    // With the log and without it: what one way does not give, the other may.
    for way in [Way::WithLog, Way::WithoutLog, Way::OtherFirstPage] {
        if let Some(old) = open_copy(&names, way)? {
            read_all(&old, way, &mut rows, &mut damaged);
        }
    }
    damaged.retain(|row: &DamagedRow| !rows.contains_key(&(row.table(), row.key_text())));
    let count = rows.len();
    write_new(&names.new, rows)?;
    fs::set_permissions(&names.new, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    File::open(&names.new).and_then(|file| file.sync_all()).map_err(failed)?;
    failpoint!("salvage.written");
    fs::rename(&names.new, &names.ready).map_err(failed)?;
    failpoint!("salvage.ready");
    put_in_place(&names, &aside).map_err(failed)?;
    finish(db, &|_| aside.clone())?;
    Ok(Salvage { aside, why, rows: count, damaged })
}

/// Sets the old database and its log aside and gives the new one its name. May be repeated.
fn put_in_place(names: &Names, aside: &Path) -> io::Result<()> {
    let mut aside_log = aside.as_os_str().to_owned();
    aside_log.push("-wal");
    let ignore_missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    ignore_missing(fs::rename(&names.log, PathBuf::from(aside_log)))?;
    ignore_missing(fs::remove_file(&names.index))?;
    // Not a second name for it: a file with two is not believed to be ours alone.
    ignore_missing(fs::rename(&names.db, aside))?;
    failpoint!("salvage.kept");
    fs::rename(&names.ready, &names.db)?;
    failpoint!("salvage.placed");
    names.db.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Opens a copy of the damaged database, its header made good where it is not.
fn open_copy(names: &Names, way: Way) -> Result<Option<Connection>, StoreError> {
    let log = Names::of(&names.copy);
    for path in [&log.log, &log.index] {
        if path.exists() {
            fs::remove_file(path).map_err(failed)?;
        }
    }
    if !names.db.exists() {
        return Ok(None);
    }
    fs::copy(&names.db, &names.copy).map_err(failed)?;
    if way == Way::WithLog && names.log.exists() {
        fs::copy(&names.log, &log.log).map_err(failed)?;
    }
    let mend = |first: &[u8]| -> io::Result<()> {
        let file = File::options().write(true).open(&names.copy)?;
        file.write_all_at(first, 0)?;
        // Schema format 4 and text in UTF-8, the only ones of ours.
        file.write_all_at(&4_u32.to_be_bytes(), 44)?;
        file.write_all_at(&1_u32.to_be_bytes(), 56)?;
        if way == Way::OtherFirstPage {
            let pages = u32::try_from(file.metadata()?.len() / 4096).unwrap_or(u32::MAX);
            file.write_all_at(&pages.to_be_bytes(), 28)?;
        }
        Ok(())
    };
    match way {
        Way::WithLog | Way::WithoutLog => mend(HEADER),
        Way::OtherFirstPage => mend(&first_page(&names.new)?),
    }
    .map_err(failed)?;
    let whole = |connection: &Connection| schema::is_whole(connection).unwrap_or(false);
    let connection = Connection::open(&names.copy).ok().and_then(|mut connection| {
        // Of an earlier version, or of one that its header names wrongly.
        drop(schema::bring_up(&mut connection));
        Some(connection).filter(whole)
    });
    Ok(connection.inspect(|connection| {
        // Cells are looked at before they are believed.
        drop(connection.pragma_update(None, "cell_size_check", true));
    }))
}

/// The first page of a new database.
fn first_page(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut new = Connection::open(path)?;
    schema::bring_up(&mut new)?;
    new.close().map_err(|(_, error)| error)?;
    let mut bytes = fs::read(path).map_err(failed)?;
    fs::remove_file(path).map_err(failed)?;
    bytes.truncate(4096);
    // As a database with a log says it.
    bytes[18..20].copy_from_slice(&[2, 2]);
    Ok(bytes)
}

/// A row by table and key.
type Rows = BTreeMap<(&'static str, String), Vec<(String, Value)>>;

fn read_all(old: &Connection, way: Way, rows: &mut Rows, damaged: &mut Vec<DamagedRow>) {
    let known = if way == Way::OtherFirstPage { FIRST_TABLES } else { schema::TABLES.len() };
    for table in &schema::TABLES[..known] {
        let mut take = |row: &SqlRow<'_>, check: &Check| {
            let whole = check.holds(row).unwrap_or(false);
            let read = DamagedRow::new(table.name, check.fields(row), String::new());
            let key = (table.name, read.key_text());
            if whole {
                rows.entry(key).or_insert(read.into_fields());
            } else {
                damaged.push(DamagedRow::new(
                    table.name,
                    read.into_fields(),
                    "its checksum does not match".to_owned(),
                ));
            }
        };
        let key = table.key;
        let mut edges = Vec::new();
        for order in ["ASC", "DESC"] {
            let sql = format!("SELECT * FROM {} ORDER BY {key} {order}", table.name);
            let last = each(old, &sql, &[], &mut take);
            match last {
                // Everything was read.
                Ok(_) => {
                    edges.clear();
                    break;
                }
                Err(last) => edges.push(last),
            }
        }
        let number = |edge: &Option<Value>| match edge {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        };
        if let [from, to] = &*edges
            && let (Some(from), Some(to)) = (number(from), number(to))
        {
            let sql = format!("SELECT * FROM {} WHERE {key} = ?1", table.name);
            for number in from.saturating_add(1)..to.min(from.saturating_add(GAP_MAX)) {
                drop(each(old, &sql, &[Value::Integer(number)], &mut take));
            }
        }
    }
}

/// Takes each row of a query. When it breaks off: the key of the last row.
fn each(
    old: &Connection,
    sql: &str,
    values: &[Value],
    take: &mut impl FnMut(&SqlRow<'_>, &Check),
) -> Result<(), Option<Value>> {
    let mut last = None;
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = old.prepare_cached(sql)?;
        let check = Check::of(&statement);
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            take(row, &check);
            last = row.get(0).ok();
        }
        Ok(())
    };
    read().map_err(|_broken| last)
}

fn write_new(path: &Path, rows: Rows) -> Result<(), StoreError> {
    let mut new = Connection::open(path)?;
    schema::bring_up(&mut new)?;
    new.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    let transaction = new.transaction()?;
    for ((table, _), fields) in rows {
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let marks: Vec<String> = (1..=fields.len()).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "INSERT OR IGNORE INTO {table}({}) VALUES ({})",
            names.join(", "),
            marks.join(", ")
        );
        let mut statement = transaction.prepare_cached(&sql)?;
        // A row that the new table refuses was damaged before rows had checksums.
        if let Err(error) = statement.execute(params_from_iter(fields.iter().map(|(_, v)| v))) {
            tracing::error!(table, %error, "row not saved");
        }
    }
    transaction.commit()?;
    Ok(new.close().map_err(|(_, error)| error)?)
}
