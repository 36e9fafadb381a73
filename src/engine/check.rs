//! The check of everything that lies in the state folder, against what the database says of it.
//!
//! [`Core::held`] says which bytes should be where, [`look_at`] reads them, and what is wrong goes the
//! way that damage goes in any case (`damage`): set aside, fetched again or kept for a person. A mount
//! that runs checks itself here; for one that does not, `daemon::repair` does the same. *Blocking:*
//! disk, for as long as it takes to read everything once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::conflict_files::ConflictFiles;
use super::core::Core;
use super::damage::Recourse;
use super::left_copies::Found;
use super::shared::Shared;
use crate::content::Contents;
use crate::content::flaw::{Flaw, FlawKind};
use crate::content::working::{Scan, scan};
use crate::digest::Digest;
use crate::node::{BlobId, Content, FileId, Ino};
use crate::path::WsPath;
use crate::record::ConflictRow;
use crate::store::{DamagedRow, Row, StoreError};

/// What something found is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A content of up to 64 KiB, which is a row.
    Content,
    /// The bytes that a change was made against.
    Base,
    /// A working file.
    WorkingFile,
    /// A conflict copy.
    ConflictCopy,
    /// A row of another table.
    Row,
    /// The database as a whole.
    Database,
    /// Its log.
    Log,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Its bytes.
    Flaw(FlawKind),
    /// Nothing names it.
    Unnamed,
    /// What would have named it was lost.
    Lost,
}

/// What was done about it, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The remote has it; it is fetched when it is wanted.
    FetchedAgain,
    /// Only this machine had it: kept aside, its record parked.
    NeedsPerson,
    /// Kept under another name.
    SetAside,
    /// It has a place again.
    TakenUp,
    /// It is as it was.
    Mended,
    /// A leftover that was removed.
    Removed,
    /// Nothing yet; it is dealt with by a start, or a repair.
    Left,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub object: Object,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// The path in the workspace.
    pub path: Option<WsPath>,
    /// What it is called, for people.
    pub name: String,
    /// Why it is not believed.
    pub why: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Where what there was of it is kept.
    pub kept: Option<PathBuf>,
}

/// What a check looked at, and what it found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Contents whose bytes were read.
    pub contents: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Contents that somebody was writing.
    pub busy: u64,
    /// Conflict copies whose bytes were read.
    pub copies: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Bytes that a node has on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The node.
    pub ino: Ino,
    /// Its path.
    pub path: Option<WsPath>,
    /// Where they are.
    pub content: Content,
    /// What they are, where the remote has the same.
    pub expected: Option<Digest>,
}

impl Held {
    fn object(&self) -> (Object, String) {
        match self.content {
            Content::File(FileId(file)) => (Object::WorkingFile, format!("files/{file}")),
            Content::Blob(BlobId(blob)) => (Object::Content, format!("content {blob}")),
            Content::Empty | Content::Remote | Content::Damaged => (Object::Content, String::new()),
        }
    }

    /// Says what is wrong with it.
    #[must_use]
    pub fn finding(&self, flaw: &Flaw, recourse: &Recourse, kept: Option<PathBuf>) -> Finding {
        let (object, name) = self.object();
        Finding {
            object,
            wrong: Wrong::Flaw(flaw.kind),
            path: self.path.clone(),
            name,
            why: flaw.why.clone(),
            outcome: match recourse {
                Recourse::Again => Outcome::FetchedAgain,
                Recourse::Lost(_) => Outcome::NeedsPerson,
            },
            kept,
        }
    }
}

impl Core {
    /// The bytes that nodes have on this machine.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.tree.nodes().filter_map(|node| self.held_of(node.ino)).collect()
    }

    /// The bytes that one node has on this machine.
    #[must_use]
    pub fn held_of(&self, ino: Ino) -> Option<Held> {
        let node = self.tree.get(ino)?;
        let content = node.body()?.content;
        if !matches!(content, Content::Blob(_) | Content::File(_)) {
            return None;
        }
        let clean = self.remote_has(node) && node.origin.is_none();
        let expected = node.synced.as_ref().filter(|_| clean).and_then(|synced| synced.digest);
        Some(Held { ino, path: self.tree.path_of(ino), content, expected })
    }

    /// The small contents that only records name, with the paths of those.
    #[must_use]
    pub fn held_by_records(&self) -> Vec<(WsPath, BlobId)> {
        let of_nodes: BTreeSet<BlobId> = self
            .tree
            .nodes()
            .filter_map(|node| match node.body()?.content {
                Content::Blob(blob) => Some(blob),
                _ => None,
            })
            .collect();
        let lanes = self.outbox.lanes().flat_map(|(_, lane)| lane.records());
        lanes
            .flat_map(|record| record.blobs().map(|blob| (record.path.clone(), blob)))
            .filter(|(_, blob)| !of_nodes.contains(blob))
            .collect()
    }

    /// Forgets bytes that changes were made against: they are not merged then.
    pub fn drop_base(&mut self, path: &WsPath, blob: BlobId, changes: &mut super::Changes) {
        let is_base = |lane: &super::outbox::Lane| {
            lane.current.record.base_content.is_some_and(|base| base.blob == blob)
        };
        if self.outbox.lane(path).is_some_and(is_base) {
            let none = |slot: &mut super::outbox::Slot| slot.record.base_content = None;
            self.outbox.update(path, &mut changes.rows, none);
            self.release_blob(blob, changes);
        }
    }
}

/// What reading a content gave.
#[derive(Debug)]
pub struct Seen {
    /// Its length.
    pub bytes: u64,
    /// What a scan of a working file found.
    pub scan: Option<Scan>,
}

/// Reads a content and compares it with all that is known of it.
///
/// # Errors
/// What is wrong with it.
pub fn look_at(contents: &Contents, held: &Held) -> Result<Seen, Flaw> {
    let (digest, seen) = match held.content {
        Content::File(file) => {
            let found = scan(&contents.file_path(file), &contents.blocks(file), false)?;
            (Some(found.digest), Seen { bytes: found.sums.size, scan: Some(found) })
        }
        Content::Blob(blob) => {
            let bytes = read_blob(contents, blob)?;
            let digest = held.expected.is_some().then(|| Digest::of(&bytes));
            (digest, Seen { bytes: bytes.len() as u64, scan: None })
        }
        Content::Empty | Content::Remote | Content::Damaged => {
            (None, Seen { bytes: 0, scan: None })
        }
    };
    match held.expected {
        Some(expected) if digest != Some(expected) => {
            Err(Flaw::mismatched("it is not what the server has"))
        }
        _ => Ok(seen),
    }
}

/// Reads a small content from the database.
///
/// # Errors
/// What is wrong with it.
pub fn read_blob(contents: &Contents, blob: BlobId) -> Result<Bytes, Flaw> {
    match contents.blob_at_rest(blob) {
        Ok(Some((bytes, true))) => Ok(bytes),
        Ok(Some((_, false))) => Err(Flaw::mismatched("its checksum does not match")),
        // It may not be committed yet.
        Ok(None) => contents.cached_blob(blob).ok_or_else(Flaw::missing),
        Err(error @ StoreError::Damaged(_)) => Err(Flaw::mismatched(error.to_string())),
        Err(error) => Err(Flaw { kind: FlawKind::Unreadable, why: error.to_string() }),
    }
}

/// Compares the conflict copies that are listed with what was kept in them.
#[must_use]
pub fn check_copies(rows: &[ConflictRow], all: &Path) -> (u64, Vec<Finding>) {
    let rows = rows.iter().filter(|row| !row.folder.is_empty());
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for row in rows {
        looked_at += 1;
        for (file, flaw) in ConflictFiles::flaws(row, all) {
            findings.push(Finding {
                object: Object::ConflictCopy,
                wrong: Wrong::Flaw(flaw.kind),
                path: Some(row.path.clone()),
                name: format!("{} of conflict {}", file, row.id),
                why: flaw.why,
                outcome: Outcome::NeedsPerson,
                kept: Some(all.join(&row.folder)),
            });
        }
    }
    (looked_at, findings)
}

impl From<DamagedRow> for Finding {
    fn from(row: DamagedRow) -> Self {
        let path = row.hint("path").and_then(|path| WsPath::parse(&path).ok());
        let name = row.hint("name").map(|name| format!(" ({name})")).unwrap_or_default();
        Self {
            object: Object::Row,
            wrong: Wrong::Flaw(FlawKind::Mismatched),
            path,
            name: format!("row of `{}`{name}", row.table()),
            why: row.why().to_owned(),
            outcome: Outcome::Left,
            kept: None,
        }
    }
}

impl From<Found> for Finding {
    fn from(found: Found) -> Self {
        let name = found.copy.file_name().unwrap_or_default().to_string_lossy();
        let listed = found.listed.as_ref();
        Self {
            object: Object::ConflictCopy,
            wrong: Wrong::Unnamed,
            path: listed.map(|conflict| conflict.path.clone()),
            name: format!("conflicts/{name}"),
            why: found.why.unwrap_or("nothing names it").to_owned(),
            outcome: match (&found.kept, listed) {
                (Some(_), _) => Outcome::SetAside,
                (None, Some(_)) => Outcome::TakenUp,
                (None, None) => Outcome::Removed,
            },
            kept: found.kept,
        }
    }
}

impl Shared {
    /// Checks everything while the mount runs. Without `repair` nothing is changed. *Blocking:* disk.
    ///
    /// # Errors
    /// When the database cannot be asked at all.
    pub fn check(&self, repair: bool) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        match self.store.inspect() {
            Ok(rows) => checked.findings.extend(rows.into_iter().map(|row| {
                let outcome = if self.mend(&row, repair) { Outcome::Mended } else { Outcome::Left };
                Finding { outcome, ..Finding::from(row) }
            })),
            Err(StoreError::Damaged(why)) => checked.findings.push(Finding {
                object: Object::Database,
                wrong: Wrong::Flaw(FlawKind::Mismatched),
                path: None,
                name: "state.db".to_owned(),
                why,
                outcome: Outcome::Left,
                kept: None,
            }),
            Err(error) => return Err(error),
        }
        let all: Vec<Ino> = self.core().held().into_iter().map(|held| held.ino).collect();
        for ino in all {
            self.check_one(ino, repair, &mut checked);
        }
        let bases = self.core().held_by_records();
        for (path, blob) in bases {
            self.check_base(&path, blob, repair, &mut checked);
        }
        let rows = self.core().conflicts.clone();
        let (copies, findings) = check_copies(&rows, &self.conflicts_folder);
        checked.copies = copies;
        checked.findings.extend(findings);
        Ok(checked)
    }

    fn check_one(&self, ino: Ino, repair: bool, checked: &mut Checked) {
        let file = match self.core().held_of(ino) {
            Some(Held { content: Content::File(file), .. }) => Some(self.contents.blocks(file)),
            Some(_) => None,
            None => return,
        };
        let changes = file.as_ref().map(|blocks| blocks.changes());
        let quiet = || self.contents.open.get(ino).is_none_or(|file| file.lock().is_quiet());
        let Some(held) = self.core().held_of(ino) else { return };
        let looked = look_at(&self.contents, &held);
        // What was changed meanwhile is neither right nor wrong.
        let same = file.as_ref().map(|blocks| blocks.changes()) == changes
            && self.core().held_of(ino).as_ref() == Some(&held);
        if !same || !quiet() {
            checked.busy += 1;
            return;
        }
        checked.contents += 1;
        let flaw = match looked {
            Ok(seen) => {
                checked.bytes += seen.bytes;
                if let (Content::File(file), Some(scan)) = (held.content, seen.scan)
                    && !self.contents.blocks(file).is_complete(seen.bytes)
                {
                    self.learn(ino, file, &scan);
                }
                return;
            }
            Err(flaw) => flaw,
        };
        let finding = match held.content {
            Content::Blob(blob) if self.contents.cached_blob(blob).is_some() => {
                if repair {
                    self.write_again(&held, blob);
                }
                Finding { outcome: Outcome::Mended, ..held.finding(&flaw, &Recourse::Again, None) }
            }
            content if repair => {
                let recourse = self.content_damaged(ino, content, &flaw.why);
                held.finding(&flaw, &recourse, self.contents.kept_of(content))
            }
            _ => {
                let core = self.core();
                let again = core.tree.get(ino).is_some_and(|node| core.remote_has(node));
                let lost = || Recourse::Lost(flaw.why.clone());
                held.finding(&flaw, &if again { Recourse::Again } else { lost() }, None)
            }
        };
        checked.findings.push(finding);
    }

    /// Writes a row anew that is in memory as it was.
    fn write_again(&self, held: &Held, blob: BlobId) {
        let Some(bytes) = self.contents.cached_blob(blob) else { return };
        self.step(|core, _, changes| {
            if core.held_of(held.ino).is_some_and(|now| now.content == held.content) {
                changes.rows.push(Row::PutBlob(blob, bytes));
            }
        });
    }

    fn check_base(&self, path: &WsPath, blob: BlobId, repair: bool, checked: &mut Checked) {
        let looked = read_blob(&self.contents, blob);
        let still = self.core().held_by_records().contains(&(path.clone(), blob));
        let Err(flaw) = looked else { return };
        if !still || self.contents.cached_blob(blob).is_some() {
            return;
        }
        let mut kept = None;
        if repair {
            kept = self.contents.set_aside(Content::Blob(blob), self.clock.wall()).ok().flatten();
            self.step(|core, _, changes| core.drop_base(path, blob, changes));
        }
        checked.findings.push(base_finding(path, blob, &flaw, kept));
    }
}

/// Says what is wrong with the bytes that a change was made against.
#[must_use]
pub fn base_finding(path: &WsPath, blob: BlobId, flaw: &Flaw, kept: Option<PathBuf>) -> Finding {
    Finding {
        object: Object::Base,
        wrong: Wrong::Flaw(flaw.kind),
        path: Some(path.clone()),
        name: format!("content {}", blob.0),
        why: flaw.why.clone(),
        outcome: Outcome::SetAside,
        kept,
    }
}
