//! Rows and schema: how plain data lies in the tables.

use std::collections::HashSet;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::damage::DamagedRow;
use super::table::Table;
use crate::checksum::Checksum;
use crate::node::{BlobId, Content, FileId, Ino, Kind, Node, Special};
use crate::path::WsPath;
use crate::record::{ConflictRow, Record, RecordBase, RecordState, Seq};
use crate::revision::Base;
use crate::xattrs::Xattrs;

static META: Table = Table::new("meta", &["key", "value"]);
static NODES: Table = Table::new(
    "nodes",
    &[
        "ino",
        "parent",
        "name",
        "kind",
        "explicit",
        "target",
        "content",
        "content_id",
        "size",
        "exact",
        "mode",
        "uid",
        "gid",
        "atime",
        "mtime",
        "ctime",
        "synced",
        "revision",
        "digest",
        "edited_at",
        "origin",
        "local_only",
        "origin_digest",
        "device",
    ],
);
static BLOBS: Table = Table::new("blobs", &["id", "data"]);
static OUTBOX: Table = Table::new(
    "outbox",
    &[
        "seq",
        "path",
        "op",
        "state",
        "size",
        "recorded_at",
        "key",
        "ino",
        "base_kind",
        "base",
        "base_blob",
        "base_digest",
        "moved_to",
        "blob",
        "attempts",
        "sent",
        "code",
        "message",
        "last_error",
        "approval",
    ],
);
static RECHECK: Table = Table::new("recheck", &["path"]);
static CONFLICTS: Table = Table::new(
    "conflicts",
    &[
        "id",
        "path",
        "at",
        "kind",
        "base_revision",
        "theirs_revision",
        "ours_size",
        "ours_digest",
        "theirs_size",
        "theirs_digest",
        "folder",
        "ours_by",
        "ours_at",
        "theirs_at",
        "sibling",
        "resolved",
        "resolution",
        "automatic",
        "resolved_at",
        "base_size",
        "base_digest",
    ],
);
static REMOVALS: Table = Table::new("removals", &["path"]);
static IMPORTED: Table = Table::new("imported", &["id"]);
static XATTRS: Table = Table::new("xattrs", &["ino", "attributes"]);
static SUMS: Table = Table::new("sums", &["file", "size", "blocks"]);

/// The checksums of a working file, as it was when nobody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSums {
    /// Its length in bytes.
    pub size: u64,
    /// One checksum for each block, the last one maybe shorter.
    pub blocks: Vec<Checksum>,
}

/// One change of one row.
#[derive(Debug, Clone)]
pub enum Row {
    /// Inserts or replaces a node.
    PutNode(Box<Node>),
    /// Removes a node.
    DeleteNode(Ino),
    /// Inserts a small content.
    PutBlob(BlobId, Bytes),
    /// Removes a small content.
    DeleteBlob(BlobId),
    /// Inserts or replaces a record.
    PutRecord(Box<Record>),
    /// Removes a record.
    DeleteRecord(Seq),
    /// Sets a single value, or removes it.
    SetMeta(&'static str, Option<String>),
    /// Notes a path whose remote state must be read again.
    PutRecheck(WsPath),
    /// Removes such a note.
    DeleteRecheck(WsPath),
    /// Inserts or replaces a conflict.
    PutConflict(Box<ConflictRow>),
    /// Notes a path whose removal at the remote waits for a person.
    PutRemoval(WsPath),
    /// Removes such a note.
    DeleteRemoval(WsPath),
    /// Notes that a record of another state folder was taken up here.
    PutImported(String),
    /// Inserts or replaces the checksums of a working file.
    PutSums(FileId, Box<FileSums>),
    /// Removes them: the file is about to change, or gone.
    DeleteSums(FileId),
    /// Inserts or replaces the extended attributes of a node.
    PutXattrs(Ino, Box<Xattrs>),
    /// Removes them.
    DeleteXattrs(Ino),
    /// Removes a row that was damaged and is kept elsewhere.
    Discard(Box<DamagedRow>),
    /// Removes a conflict.
    DeleteConflict(String),
}

/// What a row changes: of several rows with one key only the last one counts.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Node(Ino),
    Blob(BlobId),
    Record(Seq),
    Meta(&'static str),
    Recheck(WsPath),
    Conflict(String),
    Removal(WsPath),
    Imported(String),
    Sums(FileId),
    Xattrs(Ino),
    Damaged(&'static str, String),
}

/// Leaves of rows that change the same thing only the last, so that a folder in which a thousand
/// files were made is written once.
pub(super) fn newest_only(rows: &mut Vec<Row>) {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.reverse();
    rows.retain(|row| seen.insert(row.key()));
    rows.reverse();
}

impl Row {
    fn key(&self) -> Key {
        match self {
            Self::PutNode(node) => Key::Node(node.ino),
            Self::DeleteNode(ino) => Key::Node(*ino),
            Self::PutBlob(id, _) | Self::DeleteBlob(id) => Key::Blob(*id),
            Self::PutRecord(record) => Key::Record(record.seq),
            Self::DeleteRecord(seq) => Key::Record(*seq),
            Self::SetMeta(key, _) => Key::Meta(key),
            Self::PutRecheck(path) | Self::DeleteRecheck(path) => Key::Recheck(path.clone()),
            Self::PutConflict(conflict) => Key::Conflict(conflict.id.clone()),
            Self::PutRemoval(path) | Self::DeleteRemoval(path) => Key::Removal(path.clone()),
            Self::PutImported(id) => Key::Imported(id.clone()),
            Self::PutSums(file, _) | Self::DeleteSums(file) => Key::Sums(*file),
            Self::PutXattrs(ino, _) | Self::DeleteXattrs(ino) => Key::Xattrs(*ino),
            Self::Discard(row) => Key::Damaged(row.table(), row.key_text()),
            Self::DeleteConflict(id) => Key::Conflict(id.clone()),
        }
    }

    /// Applies the change to `connection`, inside the caller's transaction.
    pub(super) fn apply(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::PutNode(node) => put_node(connection, node),
            Self::DeleteNode(ino) => {
                run(connection, "DELETE FROM nodes WHERE ino = ?1", [sql_id(ino.0)])
            }
            Self::PutBlob(id, data) => BLOBS.put(connection, params![sql_id(id.0), &data[..]]),
            Self::DeleteBlob(id) => {
                run(connection, "DELETE FROM blobs WHERE id = ?1", [sql_id(id.0)])
            }
            Self::PutRecord(record) => put_record(connection, record),
            Self::DeleteRecord(seq) => {
                run(connection, "DELETE FROM outbox WHERE seq = ?1", [sql_id(seq.0)])
            }
            Self::SetMeta(key, Some(value)) => META.put(connection, params![key, value]),
            Self::SetMeta(key, None) => run(connection, "DELETE FROM meta WHERE key = ?1", [key]),
            Self::PutRecheck(path) => RECHECK.put(connection, params![path.as_str()]),
            Self::DeleteRecheck(path) => {
                run(connection, "DELETE FROM recheck WHERE path = ?1", [path.as_str()])
            }
            Self::PutConflict(conflict) => put_conflict(connection, conflict),
            Self::PutRemoval(path) => REMOVALS.put(connection, params![path.as_str()]),
            Self::DeleteRemoval(path) => {
                run(connection, "DELETE FROM removals WHERE path = ?1", [path.as_str()])
            }
            Self::PutImported(id) => IMPORTED.put(connection, params![id]),
            Self::PutSums(file, sums) => {
                let blocks = sums.blocks.iter().flat_map(|sum| sum.number().to_le_bytes());
                let blocks: Vec<u8> = blocks.collect();
                SUMS.put(connection, params![sql_id(file.0), sql_id(sums.size), blocks])
            }
            Self::DeleteSums(file) => {
                run(connection, "DELETE FROM sums WHERE file = ?1", [sql_id(file.0)])
            }
            Self::PutXattrs(ino, xattrs) => {
                XATTRS.put(connection, params![sql_id(ino.0), xattrs.encode()])
            }
            Self::DeleteXattrs(ino) => {
                run(connection, "DELETE FROM xattrs WHERE ino = ?1", [sql_id(ino.0)])
            }
            Self::Discard(row) => row.discard(connection),
            Self::DeleteConflict(id) => {
                run(connection, "DELETE FROM conflicts WHERE id = ?1", [id])
            }
        }
    }
}

fn run(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(params).map(|_rows| ())
}

/// Ids as SQLite's signed integers; ids start at 1 and never get near the sign.
#[allow(clippy::cast_possible_wrap, reason = "ids are counted up from 1; keys only round-trip")]
pub(super) fn sql_id(id: u64) -> i64 {
    id as i64
}

/// Nanoseconds since 1970, held inside what fits (years 1677 to 2262).
pub(super) fn sql_time(at: Timestamp) -> i64 {
    let nanos = at.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(nanos).unwrap_or_default()
}

fn put_node(connection: &Connection, node: &Node) -> rusqlite::Result<()> {
    let body = node.body();
    let (kind, explicit, target) = match &node.kind {
        Kind::File(_) => ("file", false, None),
        Kind::Dir { explicit } => ("dir", *explicit, None),
        Kind::Symlink { target } => ("symlink", false, Some(&**target)),
        Kind::Special { what, .. } => (special_word(*what), false, None),
    };
    let device = match node.kind {
        Kind::Special { device, .. } => Some(device),
        Kind::File(_) | Kind::Dir { .. } | Kind::Symlink { .. } => None,
    };
    let (content, content_id) = match body.map(|body| body.content) {
        None => (None, None),
        Some(Content::Empty) => (Some("empty"), None),
        Some(Content::Remote) => (Some("remote"), None),
        Some(Content::Damaged) => (Some("damaged"), None),
        Some(Content::Blob(id)) => (Some("blob"), Some(sql_id(id.0))),
        Some(Content::File(id)) => (Some("file"), Some(sql_id(id.0))),
    };
    let (synced, origin) = (node.synced.as_deref(), node.origin.as_deref());
    NODES.put(
        connection,
        params![
            sql_id(node.ino.0),
            sql_id(node.parent.0),
            &*node.name,
            kind,
            explicit,
            target,
            content,
            content_id,
            body.map(|body| sql_id(body.size)),
            body.map(|body| body.exact),
            node.mode,
            node.uid,
            node.gid,
            sql_time(node.atime),
            sql_time(node.mtime),
            sql_time(node.ctime),
            synced.is_some(),
            synced.and_then(|synced| synced.revision.as_ref()).map(|revision| revision.as_str()),
            synced.and_then(|synced| synced.digest.as_ref()).map(|digest| &digest.as_bytes()[..]),
            synced.and_then(|synced| synced.edited_at).map(sql_time),
            origin.map(|origin| origin.path.as_str()),
            node.local_only,
            origin.and_then(|origin| origin.digest.as_ref()).map(|digest| &digest.as_bytes()[..]),
            device,
        ],
    )
}

/// How a pipe, socket or device is named in the column `kind`.
fn special_word(what: Special) -> &'static str {
    match what {
        Special::Pipe => "pipe",
        Special::Socket => "socket",
        Special::CharDevice => "char",
        Special::BlockDevice => "block",
    }
}

fn put_record(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let (base_kind, base) = match &record.base {
        RecordBase::Follows => ("follows", None),
        RecordBase::Known(Base::Absent) => ("absent", None),
        RecordBase::Known(Base::Revision(revision)) => {
            ("revision", Some(revision.as_str().to_owned()))
        }
        RecordBase::Known(Base::Date(date)) => ("date", Some(date.to_string())),
    };
    let (code, message) = match &record.state {
        RecordState::Parked { code, message } => (Some(code), Some(message)),
        RecordState::Waiting | RecordState::Flight => (None, None),
    };
    let base_content = record.base_content.as_ref();
    OUTBOX.put(
        connection,
        params![
            sql_id(record.seq.0),
            record.path.as_str(),
            record.op.word(),
            record.state.word(),
            sql_id(record.size),
            record.recorded_at.as_millisecond(),
            sql_id(record.key),
            record.ino.map(|ino| sql_id(ino.0)),
            base_kind,
            base,
            base_content.map(|base| sql_id(base.blob.0)),
            base_content.and_then(|base| base.digest).map(|digest| digest.as_bytes().to_vec()),
            record.moved_to.map(|ino| sql_id(ino.0)),
            record.blob.map(|blob| sql_id(blob.0)),
            record.attempts,
            record.sent.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>(),
            code,
            message,
            record.last_error,
            record.needs_approval,
        ],
    )
}

fn put_conflict(connection: &Connection, conflict: &ConflictRow) -> rusqlite::Result<()> {
    let size = |side: &Option<(u64, _)>| side.as_ref().map(|side| sql_id(side.0));
    let digest = |side: &Option<(u64, crate::digest::Digest)>| {
        side.as_ref().map(|side| side.1.as_bytes().to_vec())
    };
    let resolution = conflict.resolution.as_ref();
    CONFLICTS.put(
        connection,
        params![
            conflict.id,
            conflict.path.as_str(),
            conflict.at.as_millisecond(),
            conflict.kind,
            conflict.base_revision,
            conflict.theirs_revision,
            size(&conflict.ours),
            digest(&conflict.ours),
            size(&conflict.theirs),
            digest(&conflict.theirs),
            conflict.folder,
            conflict.ours_by,
            conflict.ours_at.map(sql_time),
            conflict.theirs_at.map(sql_time),
            conflict.sibling.as_ref().map(WsPath::as_str),
            resolution.is_some(),
            resolution.map(|resolution| resolution.how.word()),
            resolution.is_some_and(|resolution| resolution.automatic),
            resolution.map(|resolution| sql_time(resolution.at)),
            size(&conflict.base),
            digest(&conflict.base),
        ],
    )
}
