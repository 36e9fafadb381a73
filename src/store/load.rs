//! Reading the tables back at start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, Row as SqlRow};

use super::StoreError;
use super::damage::DamagedRow;
use super::rows::FileSums;
use super::schema;
use super::table::Check;
use crate::checksum::Checksum;
use crate::digest::Digest;
use crate::node::{
    BlobId, Content, FileBody, FileId, Ino, Kind, Node, Origin, SMALL_MAX, Special, Synced,
};
use crate::path::WsPath;
use crate::record::{
    BaseContent, ConflictRow, How, Op, Record, RecordBase, RecordState, Resolution, Seq,
};
use crate::revision::{Base, Revision};
use crate::xattrs::Xattrs;

/// Everything the store holds but the small contents.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Single values.
    pub meta: HashMap<String, String>,
    /// The tree.
    pub nodes: Vec<Node>,
    /// The outbox, by rising number.
    pub records: Vec<Record>,
    /// Paths whose remote state must be read again.
    pub recheck: Vec<WsPath>,
    /// Conflicts, open and resolved, oldest first.
    pub conflicts: Vec<ConflictRow>,
    /// Paths whose removal at the remote waits for a person.
    pub removals: Vec<WsPath>,
    /// Records of other state folders that were taken up here.
    pub imported: HashSet<String>,
    /// The ids of all small contents.
    pub blobs: HashSet<BlobId>,
    /// Those of them that are too large for the content of a file: kept as bases of changes.
    pub large_blobs: HashSet<BlobId>,
    /// The checksums of working files.
    pub sums: HashMap<FileId, FileSums>,
    /// The extended attributes of the nodes that have any.
    pub xattrs: HashMap<Ino, Xattrs>,
    /// Whether the database was damaged and made anew.
    pub rebuilt: bool,
    /// Rows that are not as they were written, or make no sense.
    pub damaged: Vec<DamagedRow>,
}

impl Loaded {
    /// The highest id that any row uses.
    #[must_use]
    pub fn highest_id(&self) -> u64 {
        let content = |node: &Node| match node.body().map(|body| body.content) {
            Some(Content::Blob(blob)) => blob.0,
            Some(Content::File(file)) => file.0,
            _ => 0,
        };
        let nodes = self.nodes.iter().flat_map(|node| [node.ino.0, content(node)]);
        let records = self.records.iter().map(|record| record.seq.0);
        let blobs = self.blobs.iter().map(|blob| blob.0);
        nodes.chain(records).chain(blobs).max().unwrap_or(0)
    }
}

pub(super) fn load(connection: &Connection) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded::default();
    let damaged = &mut loaded.damaged;
    loaded.meta = read(connection, "meta", "", meta, damaged)?.into_iter().collect();
    loaded.nodes = read(connection, "nodes", "", node, damaged)?;
    loaded.records = read(connection, "outbox", "ORDER BY seq", record, damaged)?;
    loaded.recheck = read(connection, "recheck", "", path, damaged)?;
    loaded.conflicts = read(connection, "conflicts", "ORDER BY at", conflict, damaged)?;
    loaded.removals = read(connection, "removals", "", path, damaged)?;
    let imported = |row: &SqlRow<'_>| row.get("id").map(Some);
    loaded.imported = read(connection, "imported", "", imported, damaged)?.into_iter().collect();
    loaded.sums = read(connection, "sums", "", sums, damaged)?.into_iter().collect();
    loaded.xattrs = read(connection, "xattrs", "", xattrs, damaged)?.into_iter().collect();
    // The length is known without reading the content.
    let mut statement = connection.prepare("SELECT id, length(data) FROM blobs")?;
    let sizes =
        statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    for size in sizes {
        let (id, size) = size?;
        loaded.blobs.insert(BlobId(from_sql(id)));
        if from_sql(size) > SMALL_MAX {
            loaded.large_blobs.insert(BlobId(from_sql(id)));
        }
    }
    Ok(loaded)
}

/// The rows of all tables but that of small contents that are not as they were written.
pub(super) fn damaged(connection: &Connection) -> Result<Vec<DamagedRow>, StoreError> {
    let mut damaged = Vec::new();
    for table in schema::TABLES.iter().filter(|table| table.name != "blobs") {
        read(connection, table.name, "", |_| Ok(Some(())), &mut damaged)?;
    }
    Ok(damaged)
}

/// Reads the rows of a table, sets aside those that are not as they were written and those that
/// `parse` does not understand.
fn read<T>(
    connection: &Connection,
    table: &'static str,
    which: &str,
    parse: impl Fn(&SqlRow<'_>) -> rusqlite::Result<Option<T>>,
    damaged: &mut Vec<DamagedRow>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} {which}"))?;
    let check = Check::of(&statement);
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let why = match (check.holds(row)?, parse(row)) {
            (false, _) => "its checksum does not match".to_owned(),
            (true, Ok(Some(value))) => {
                all.push(value);
                continue;
            }
            (true, Ok(None)) => "a field has no known meaning".to_owned(),
            (true, Err(error)) => error.to_string(),
        };
        damaged.push(DamagedRow::new(table, check.fields(row), why));
    }
    Ok(all)
}

fn meta(row: &SqlRow<'_>) -> rusqlite::Result<Option<(String, String)>> {
    Ok(Some((row.get("key")?, row.get("value")?)))
}

fn sums(row: &SqlRow<'_>) -> rusqlite::Result<Option<(FileId, FileSums)>> {
    let blocks: Vec<u8> = row.get("blocks")?;
    let block = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let blocks = blocks.chunks(8).map(block).collect::<Option<Vec<u64>>>();
    let (Some(file), Some(size), Some(blocks)) = (id(row, "file")?, id(row, "size")?, blocks)
    else {
        return Ok(None);
    };
    let blocks = blocks.into_iter().map(Checksum::from_number).collect();
    Ok(Some((FileId(file), FileSums { size, blocks })))
}

fn xattrs(row: &SqlRow<'_>) -> rusqlite::Result<Option<(Ino, Xattrs)>> {
    let attributes: Vec<u8> = row.get("attributes")?;
    Ok(id(row, "ino")?.map(Ino).zip(Xattrs::decode(&attributes)))
}

#[allow(clippy::cast_sign_loss, reason = "the inverse of rows::sql_id")]
fn from_sql(id: i64) -> u64 {
    id as u64
}

fn id(row: &SqlRow<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_sql))
}

fn time(row: &SqlRow<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let nanos: Option<i64> = row.get(column)?;
    Ok(nanos.and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos)).ok()))
}

fn digest(row: &SqlRow<'_>, column: &str) -> rusqlite::Result<Option<Digest>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    Ok(bytes.and_then(|bytes| Digest::from_bytes(&bytes)))
}

fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks_exact(32).filter_map(Digest::from_bytes).collect()
}

fn path(row: &SqlRow<'_>) -> rusqlite::Result<Option<WsPath>> {
    Ok(WsPath::parse(&row.get::<_, String>("path")?).ok())
}

fn node(row: &SqlRow<'_>) -> rusqlite::Result<Option<Node>> {
    let kind: String = row.get("kind")?;
    let kind = match &*kind {
        "dir" => Kind::Dir { explicit: row.get("explicit")? },
        "symlink" => Kind::Symlink { target: Arc::from(row.get::<_, String>("target")?) },
        "file" => {
            let content: String = row.get("content")?;
            let content_id = id(row, "content_id")?;
            let content = match (&*content, content_id) {
                ("empty", _) => Content::Empty,
                ("remote", _) => Content::Remote,
                ("damaged", _) => Content::Damaged,
                ("blob", Some(id)) => Content::Blob(BlobId(id)),
                ("file", Some(id)) => Content::File(FileId(id)),
                _ => return Ok(None),
            };
            let size = id(row, "size")?.unwrap_or_default();
            Kind::File(FileBody { content, size, exact: row.get("exact")? })
        }
        "pipe" => special(row, Special::Pipe)?,
        "socket" => special(row, Special::Socket)?,
        "char" => special(row, Special::CharDevice)?,
        "block" => special(row, Special::BlockDevice)?,
        _ => return Ok(None),
    };
    let (Some(atime), Some(mtime), Some(ctime)) =
        (time(row, "atime")?, time(row, "mtime")?, time(row, "ctime")?)
    else {
        return Ok(None);
    };
    let synced = if row.get("synced")? {
        let revision: Option<String> = row.get("revision")?;
        Some(Box::new(Synced {
            revision: revision.and_then(|revision| Revision::new(&revision)),
            digest: digest(row, "digest")?,
            edited_at: time(row, "edited_at")?,
        }))
    } else {
        None
    };
    let origin = row.get::<_, Option<String>>("origin")?;
    let origin = match origin.and_then(|path| WsPath::parse(&path).ok()) {
        Some(path) => Some(Box::new(Origin { path, digest: digest(row, "origin_digest")? })),
        None => None,
    };
    Ok(Some(Node {
        ino: Ino(id(row, "ino")?.unwrap_or_default()),
        parent: Ino(id(row, "parent")?.unwrap_or_default()),
        name: Arc::from(row.get::<_, String>("name")?),
        kind,
        mode: row.get("mode")?,
        uid: row.get("uid")?,
        gid: row.get("gid")?,
        atime,
        mtime,
        ctime,
        synced,
        origin,
        local_only: row.get("local_only")?,
    }))
}

fn special(row: &SqlRow<'_>, what: Special) -> rusqlite::Result<Kind> {
    Ok(Kind::Special { what, device: row.get::<_, Option<u32>>("device")?.unwrap_or_default() })
}

fn record(row: &SqlRow<'_>) -> rusqlite::Result<Option<Record>> {
    let base: Option<String> = row.get("base")?;
    let base = match (&*row.get::<_, String>("base_kind")?, base) {
        ("follows", _) => RecordBase::Follows,
        ("absent", _) => RecordBase::Known(Base::Absent),
        ("revision", Some(text)) => match Revision::new(&text) {
            Some(revision) => RecordBase::Known(Base::Revision(revision)),
            None => return Ok(None),
        },
        ("date", Some(text)) => match text.parse() {
            Ok(date) => RecordBase::Known(Base::Date(date)),
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    let state = match &*row.get::<_, String>("state")? {
        "waiting" => RecordState::Waiting,
        "flight" => RecordState::Flight,
        "parked" => RecordState::Parked {
            code: row.get::<_, Option<String>>("code")?.unwrap_or_default(),
            message: row.get::<_, Option<String>>("message")?.unwrap_or_default(),
        },
        _ => return Ok(None),
    };
    let (Some(path), Some(op)) = (path(row)?, Op::from_word(&row.get::<_, String>("op")?)) else {
        return Ok(None);
    };
    let base_digest = digest(row, "base_digest")?;
    Ok(Some(Record {
        seq: Seq(id(row, "seq")?.unwrap_or_default()),
        key: id(row, "key")?.unwrap_or_default(),
        path,
        op,
        ino: id(row, "ino")?.map(Ino),
        base,
        base_content: id(row, "base_blob")?
            .map(|blob| BaseContent { blob: BlobId(blob), digest: base_digest }),
        moved_to: id(row, "moved_to")?.map(Ino),
        blob: id(row, "blob")?.map(BlobId),
        size: id(row, "size")?.unwrap_or_default(),
        recorded_at: millis(row, "recorded_at")?,
        state,
        attempts: row.get("attempts")?,
        sent: digests(row.get::<_, Option<Vec<u8>>>("sent")?.as_deref().unwrap_or_default()),
        last_error: row.get("last_error")?,
        needs_approval: row.get("approval")?,
    }))
}

fn millis(row: &SqlRow<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_millisecond(row.get(column)?).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn conflict(row: &SqlRow<'_>) -> rusqlite::Result<Option<ConflictRow>> {
    let Some(path) = path(row)? else { return Ok(None) };
    let resolution = if row.get("resolved")? {
        let how: Option<String> = row.get("resolution")?;
        let Some(how) = how.and_then(|how| How::from_word(&how)) else { return Ok(None) };
        let at = time(row, "resolved_at")?.unwrap_or(Timestamp::UNIX_EPOCH);
        Some(Resolution { how, automatic: row.get("automatic")?, at })
    } else {
        None
    };
    Ok(Some(ConflictRow {
        id: row.get("id")?,
        path,
        at: millis(row, "at")?,
        kind: row.get("kind")?,
        base_revision: row.get("base_revision")?,
        theirs_revision: row.get("theirs_revision")?,
        ours: id(row, "ours_size")?.zip(digest(row, "ours_digest")?),
        theirs: id(row, "theirs_size")?.zip(digest(row, "theirs_digest")?),
        base: id(row, "base_size")?.zip(digest(row, "base_digest")?),
        folder: row.get("folder")?,
        ours_by: row.get("ours_by")?,
        ours_at: time(row, "ours_at")?,
        theirs_at: time(row, "theirs_at")?,
        sibling: row
            .get::<_, Option<String>>("sibling")?
            .and_then(|sibling| WsPath::parse(&sibling).ok()),
        resolution,
    }))
}
