//! Outbox records: one change of one path, not yet accepted by the remote. Plain data.

use jiff::Timestamp;

use crate::digest::Digest;
use crate::node::{BlobId, Ino};
use crate::path::WsPath;
use crate::revision::Base;

/// A record's number: rising, in the order in which paths first changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(pub u64);

/// How many sent digests a record remembers: when so many sendings are of unknown fate, the remote
/// is asked which of them arrived before there is another.
pub const SENT_MAX: usize = 4;

/// What a record asks the remote to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Store the node's content and metadata (files and symbolic links).
    Put,
    /// Store the node's metadata only.
    Meta,
    /// Remove the file.
    Delete,
    /// Have an explicit folder.
    MakeDir,
    /// Remove an explicit folder.
    RemoveDir,
}

impl Op {
    /// The word that the store and `mountctl` use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Put => "write",
            Self::Meta => "meta",
            Self::Delete => "delete",
            Self::MakeDir => "mkdir",
            Self::RemoveDir => "rmdir",
        }
    }

    /// Takes back what [`Op::word`] gave.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Put, Self::Meta, Self::Delete, Self::MakeDir, Self::RemoveDir]
            .into_iter()
            .find(|op| op.word() == word)
    }
}

/// What a record was made against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBase {
    /// A known state of the remote.
    Known(Base),
    /// Whatever the record before it on the same path leads to.
    Follows,
}

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordState {
    /// To be sent.
    Waiting,
    /// In a request whose reply has not come, or being settled.
    Flight,
    /// Refused for good; kept with its bytes until a person or a newer change decides.
    Parked {
        /// Short code, e.g. `forbidden`.
        code: String,
        /// The server's words.
        message: String,
    },
}

impl RecordState {
    /// The word that the store uses.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Flight => "flight",
            Self::Parked { .. } => "parked",
        }
    }
}

/// A record's state without what goes with it, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// [`RecordState::Waiting`].
    Waiting,
    /// [`RecordState::Flight`].
    Flight,
    /// [`RecordState::Parked`].
    Parked,
    /// Accepted, given up, undone, or taken up by another record. There is no way back.
    Ended,
}

/// The ways from one stage to another. A record begins as waiting; staying is always allowed.
/// What is parked waits before it is sent again.
pub const TURNS: [(Stage, Stage); 8] = [
    // Handed out to be sent or settled; parked because its bytes are damaged; undone by a newer
    // change or taken up by one.
    (Stage::Waiting, Stage::Flight),
    (Stage::Waiting, Stage::Parked),
    (Stage::Waiting, Stage::Ended),
    // Lost, postponed, or to be sent on another base; refused; accepted or settled.
    (Stage::Flight, Stage::Waiting),
    (Stage::Flight, Stage::Parked),
    (Stage::Flight, Stage::Ended),
    // Tried again, or changed again; undone or given up.
    (Stage::Parked, Stage::Waiting),
    (Stage::Parked, Stage::Ended),
];

impl Stage {
    /// Whether a record may go from this stage to `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        self == next || TURNS.contains(&(self, next))
    }
}

impl RecordState {
    /// Its stage.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Waiting => Stage::Waiting,
            Self::Flight => Stage::Flight,
            Self::Parked { .. } => Stage::Parked,
        }
    }
}

/// The bytes a change was made against, kept for the conflict copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseContent {
    /// Where they are.
    pub blob: BlobId,
    /// Their digest, where known.
    pub digest: Option<Digest>,
}

/// One change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: Seq,
    /// Random, so that the identity sent with it is unique even if power loss takes back `seq`.
    pub key: u64,
    /// The path it changes.
    pub path: WsPath,
    /// What to do.
    pub op: Op,
    /// The node whose state is sent; `None` for removals.
    pub ino: Option<Ino>,
    /// What it was made against.
    pub base: RecordBase,
    /// The bytes it was made against, while they are kept.
    pub base_content: Option<BaseContent>,
    /// For the removal of a renamed file's old name: the node that must be stored under its new
    /// name first.
    pub moved_to: Option<Ino>,
    /// The small content to send; `None` when it is empty or in a working file.
    pub blob: Option<BlobId>,
    /// Bytes to send.
    pub size: u64,
    /// When the path first changed.
    pub recorded_at: Timestamp,
    /// Where it stands.
    pub state: RecordState,
    /// How often it was sent.
    pub attempts: u32,
    /// Digests of bytes that were sent for it and whose fate may be unknown, newest last: content
    /// of ours that may be at the remote already. At most [`SENT_MAX`].
    pub sent: Vec<Digest>,
    /// Why the last attempt failed, for people.
    pub last_error: Option<String>,
    /// A removal that is one of very many and waits for a person.
    pub needs_approval: bool,
}

impl Record {
    /// The identity that makes a repeated request recognisable: unique for record and content.
    #[must_use]
    pub fn identity(&self, digest: Option<&Digest>) -> String {
        let digest = digest.map(ToString::to_string).unwrap_or_default();
        format!("{:016x}-{}-{}", self.key, self.seq.0, digest.get(..16).unwrap_or_default())
    }

    /// The small contents it refers to.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        self.blob.into_iter().chain(self.base_content.map(|base| base.blob))
    }

    /// Notes that bytes with this digest are about to be sent.
    pub fn note_sent(&mut self, digest: Digest) {
        self.sent.retain(|earlier| *earlier != digest);
        self.sent.push(digest);
        if self.sent.len() > SENT_MAX {
            self.sent.remove(0);
        }
    }

    /// The base, when it is known.
    #[must_use]
    pub fn known_base(&self) -> Option<&Base> {
        match &self.base {
            RecordBase::Known(base) => Some(base),
            RecordBase::Follows => None,
        }
    }
}

/// A conflict copy on disk, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRow {
    /// Short id, e.g. `c-12`.
    pub id: String,
    /// The path.
    pub path: WsPath,
    /// When it was found.
    pub at: Timestamp,
    /// `edit`, `delete` (ours was a removal and was dropped; no copy).
    pub kind: String,
    /// Revision ours was made against.
    pub base_revision: Option<String>,
    /// Revision that took the name.
    pub theirs_revision: Option<String>,
    /// Size and digest of ours.
    pub ours: Option<(u64, Digest)>,
    /// Size and digest of theirs, `None` when unknown.
    pub theirs: Option<(u64, Digest)>,
    /// Size and digest of the base in the copy, `None` when there is none.
    pub base: Option<(u64, Digest)>,
    /// Folder name of the copy below `conflicts/`; empty when there is none.
    pub folder: String,
    /// Who wrote ours: the user and host of this daemon.
    pub ours_by: Option<String>,
    /// When ours was last changed.
    pub ours_at: Option<Timestamp>,
    /// When the remote stored theirs.
    pub theirs_at: Option<Timestamp>,
    /// The visible copy of ours beside the file, where one was made.
    pub sibling: Option<WsPath>,
    /// How it was resolved; `None` while it waits for a person.
    pub resolution: Option<Resolution>,
}

/// How and when a conflict was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// How.
    pub how: How,
    /// By a rule, not by a person.
    pub automatic: bool,
    /// When.
    pub at: Timestamp,
}

/// What took the name in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// Our version.
    Ours,
    /// The remote's version.
    Theirs,
    /// The remote's version; ours has a name beside it.
    Both,
    /// A merge of both, or what a person made of them.
    Merged,
    /// What the next attempt decided: the one that made the copy was cut off.
    Anew,
}

impl How {
    /// The word that the store and `mountctl` use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Theirs => "theirs",
            Self::Both => "both",
            Self::Merged => "merged",
            Self::Anew => "anew",
        }
    }

    /// Takes back what [`How::word`] gave.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Ours, Self::Theirs, Self::Both, Self::Merged, Self::Anew]
            .into_iter()
            .find(|how| how.word() == word)
    }
}
