//! The plain data the store takes and gives.

use rusqlite::Row;

use super::bodies::StagedBody;

/// A revision, operation or event number.
pub(crate) type Number = i64;

/// Formats a revision as clients see it.
pub(crate) fn revision_text(revision: Number) -> String {
    format!("rev_{revision}")
}

/// One change a client asks for.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) path: String,
    pub(crate) precondition: Precondition,
    pub(crate) identity: Option<Identity>,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    Put(Put),
    Delete,
    Move { from: String, precondition: Precondition },
    Meta { mode: Option<u32>, mtime: Option<String> },
    Mkdir { mode: Option<u32> },
    Rmdir,
}

/// New content of a file; what is `None` keeps its present value.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) content: Content,
    pub(crate) content_type: Option<String>,
    pub(crate) semantics: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) mtime: Option<String>,
    pub(crate) symlink: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) body: NewBody,
    pub(crate) hash: [u8; 32],
    /// Whether clients see the content as base64.
    pub(crate) base64: bool,
    /// Length of the text clients see.
    pub(crate) stored_size: i64,
    pub(crate) byte_size: i64,
}

#[derive(Debug)]
pub(crate) enum NewBody {
    Inline(Vec<u8>),
    File(StagedBody),
}

/// A condition on the present state of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    None,
    /// The path must be absent.
    Absent,
    /// Anything goes.
    Any,
    /// The file must be at this revision, as the client spelled it.
    Revision(String),
    /// The file must exist and not have been edited after this time.
    UnmodifiedSince(i64),
}

/// A name a client gave a write, under which it happens at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) ttl_s: i64,
}

/// A change that took effect, now or under the same identity earlier.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) path: String,
    pub(crate) revision: Number,
    pub(crate) content_type: String,
    pub(crate) hash: Option<[u8; 32]>,
    pub(crate) byte_size: Option<i64>,
    /// Whether an earlier write with the same identity answers for this one.
    pub(crate) repeated: bool,
}

/// Why a change did not take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The file is not at the revision the client expected; `current` is `None` when absent.
    Conflict {
        expected: String,
        current: Option<Number>,
        from_side: bool,
    },
    /// The file was edited after the date the client gave, or is absent.
    Modified {
        current: Option<Number>,
    },
    NotFound,
    NotEmpty,
    /// A folder cannot be made where a file is.
    FileInTheWay {
        current: Number,
    },
}

pub(crate) type Outcome = Result<Done, Refusal>;

/// A workspace's counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workspace {
    pub(crate) id: i64,
    pub(crate) files: i64,
    pub(crate) first_event: Number,
    pub(crate) last_event: Number,
}

/// A file without its content.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) revision: Number,
    pub(crate) hash: [u8; 32],
    pub(crate) content_type: String,
    pub(crate) base64: bool,
    pub(crate) stored_size: i64,
    pub(crate) byte_size: i64,
    pub(crate) edited_at: i64,
    pub(crate) blob: Option<i64>,
    pub(crate) body: Option<String>,
    pub(crate) semantics: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) mtime: Option<String>,
    pub(crate) symlink: Option<String>,
}

impl File {
    /// The columns [`File::from_row`] reads, in its order.
    pub(crate) const COLUMNS: &'static str = "path, revision, hash, content_type, base64, \
        stored_size, byte_size, edited_at, blob, body, semantics, mode, mtime, symlink";

    pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            path: row.get(0)?,
            revision: row.get(1)?,
            hash: row.get(2)?,
            content_type: row.get(3)?,
            base64: row.get(4)?,
            stored_size: row.get(5)?,
            byte_size: row.get(6)?,
            edited_at: row.get(7)?,
            blob: row.get(8)?,
            body: row.get(9)?,
            semantics: row.get(10)?,
            mode: row.get(11)?,
            mtime: row.get(12)?,
            symlink: row.get(13)?,
        })
    }
}

/// A folder, implied by what is in it or made explicitly.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) path: String,
    pub(crate) explicit: bool,
    pub(crate) mode: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    FileCreated,
    FileUpdated,
    FileDeleted,
    DirectoryCreated,
    DirectoryDeleted,
}

impl EventKind {
    const ALL: [Self; 5] = [
        Self::FileCreated,
        Self::FileUpdated,
        Self::FileDeleted,
        Self::DirectoryCreated,
        Self::DirectoryDeleted,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FileCreated => "file.created",
            Self::FileUpdated => "file.updated",
            Self::FileDeleted => "file.deleted",
            Self::DirectoryCreated => "directory.created",
            Self::DirectoryDeleted => "directory.deleted",
        }
    }

    pub(crate) fn has_content(self) -> bool {
        matches!(self, Self::FileCreated | Self::FileUpdated)
    }

    pub(crate) fn code(self) -> i64 {
        match self {
            Self::FileCreated => 0,
            Self::FileUpdated => 1,
            Self::FileDeleted => 2,
            Self::DirectoryCreated => 3,
            Self::DirectoryDeleted => 4,
        }
    }

    fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One entry of a workspace's feed.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: Number,
    pub(crate) kind: EventKind,
    pub(crate) path: String,
    pub(crate) revision: Number,
    pub(crate) hash: Option<[u8; 32]>,
    pub(crate) byte_size: Option<i64>,
    pub(crate) mode: Option<u32>,
    pub(crate) mtime: Option<String>,
    pub(crate) symlink: Option<String>,
    pub(crate) correlation: String,
    pub(crate) at: i64,
}

impl Event {
    /// The columns [`Event::from_row`] reads, in its order.
    pub(crate) const COLUMNS: &'static str =
        "id, kind, path, revision, hash, byte_size, mode, mtime, symlink, correlation, at";

    pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let code: i64 = row.get(1)?;
        let kind =
            EventKind::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, code))?;
        Ok(Self {
            id: row.get(0)?,
            kind,
            path: row.get(2)?,
            revision: row.get(3)?,
            hash: row.get(4)?,
            byte_size: row.get(5)?,
            mode: row.get(6)?,
            mtime: row.get(7)?,
            symlink: row.get(8)?,
            correlation: row.get(9)?,
            at: row.get(10)?,
        })
    }
}
