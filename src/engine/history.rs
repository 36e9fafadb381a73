//! A server that forgot: its history is a shorter or another one than the one known here.
//!
//! The feed compares histories at the cursor. What it cannot see is found here: content that changed
//! under one revision, a revision that got older, and accepted changes of which the change stream
//! does not tell although it told everything. Pure.

use std::collections::BTreeMap;

use super::core::{Changes, Core};
use super::guard::went_back;
use super::missing::Known;
use crate::path::WsPath;
use crate::record::Record;
use crate::remote::{Cursor, EventId, RemoteEntry, RemoteFile};
use crate::revision::{Base, Revision};

/// How many accepted changes are looked for in the stream.
const ECHOES_MAX: usize = 4096;

/// Accepted changes of which the change stream has to tell.
#[derive(Debug, Default)]
pub struct Echoes {
    /// Those it did not tell of yet.
    missing: BTreeMap<WsPath, Revision>,
    /// It has told everything when it told of this event.
    until: Option<EventId>,
}

impl Core {
    /// The server's history is another one than it was: nothing is removed on its word, and
    /// revisions say nothing any more.
    pub(super) fn history_went_back(&mut self, why: String, changes: &mut Changes) {
        self.guards.echoes = Echoes::default();
        if self.reset_suspected.is_some() {
            return;
        }
        self.suspect_reset(Some(why), changes);
        self.link.doubt();
        self.distrust_revisions(changes);
        self.guards.list_again = true;
    }

    /// News of a file: whether its revision is known here with another content.
    pub(super) fn contradicts(&self, file: &RemoteFile) -> bool {
        let node = self.tree.resolve(&file.path).and_then(|ino| self.tree.get(ino));
        let Some(ours) = node.and_then(|node| node.synced.as_deref()) else { return false };
        let same_revision = ours.revision.is_some() && ours.revision == file.revision;
        same_revision
            && matches!((&ours.digest, &file.digest), (Some(ours), Some(theirs)) if ours != theirs)
    }

    /// Looks for revisions in a listing that are older than what was known before it began.
    pub(super) fn check_listed(
        &mut self,
        entries: &[RemoteEntry],
        known: &Known,
        changes: &mut Changes,
    ) {
        for entry in entries {
            let RemoteEntry::File(file) = entry else { continue };
            let Some(ino) = self.file_at(&file.path) else { continue };
            let before = known.revision(ino);
            let now = self.tree.get(ino).and_then(|node| node.synced.as_ref()?.revision.as_ref());
            if before == now && went_back(before, file.revision.as_ref()) {
                let why = format!("the server lists an older revision of {}", file.path);
                return self.history_went_back(why, changes);
            }
        }
    }

    /// One path was read: whether what is there is older than what was known before it was asked.
    pub(super) fn check_read(
        &mut self,
        path: &WsPath,
        before: Option<&Revision>,
        theirs: Option<&RemoteFile>,
        changes: &mut Changes,
    ) {
        let node = self.tree.resolve(path).and_then(|ino| self.tree.get(ino));
        let now = node.and_then(|node| node.synced.as_ref()?.revision.as_ref());
        let theirs = theirs.and_then(|file| file.revision.as_ref());
        if before == now && went_back(before, theirs) {
            let why = format!("the server has an older revision of {path} than it had");
            self.history_went_back(why, changes);
        }
    }

    /// The state behind a record was read: whether it is older than what the record was made against,
    /// or another content under its revision.
    pub(super) fn check_base(
        &mut self,
        record: &Record,
        theirs: Option<&RemoteFile>,
        changes: &mut Changes,
    ) {
        let Some(Base::Revision(base)) = record.known_base() else { return };
        let Some(theirs) = theirs else { return };
        // What the node was last known to be says which content a revision has. The bytes that the
        // record keeps as its base do not: they may be of a sending that was under way.
        let node = record.ino.and_then(|ino| self.tree.get(ino));
        let known = node.and_then(|node| node.synced.as_deref());
        let bytes = known.filter(|known| known.revision.as_ref() == Some(base));
        let bytes = bytes.and_then(|known| known.digest);
        let other = theirs.revision.as_ref() == Some(base)
            && matches!((bytes, theirs.digest), (Some(ours), Some(theirs)) if ours != theirs);
        if other || went_back(Some(base), theirs.revision.as_ref()) {
            let (path, there) = (&record.path, theirs.revision.as_ref());
            let there = there.map_or("no revision".to_owned(), ToString::to_string);
            let why = format!("the server has {there} of {path}, whose past was {base}");
            self.history_went_back(why, changes);
        }
    }

    /// The stream is up. Notes what was accepted and is newer than anything it told of; `false` when
    /// there is nothing, or nothing that could be told apart.
    pub(super) fn expect_echoes(&mut self) -> bool {
        self.guards.echoes = Echoes::default();
        let told = self.cursor.as_ref().and_then(revision_of);
        let Some(told) = told.filter(|_| self.reset_suspected.is_none()) else { return false };
        let newer = self.tree.nodes().filter_map(|node| {
            let revision = node.synced.as_ref()?.revision.as_ref()?;
            told.is_older_than(revision).then(|| (node.ino, revision.clone()))
        });
        let newer: Vec<_> = newer.take(ECHOES_MAX).collect();
        let path_of = |(ino, revision)| Some((self.tree.path_of(ino)?, revision));
        self.guards.echoes.missing = newer.into_iter().filter_map(path_of).collect();
        !self.guards.echoes.missing.is_empty()
    }

    /// The server's newest event, asked for after [`Core::expect_echoes`].
    pub(super) fn expect_echoes_until(&mut self, newest: Option<EventId>, changes: &mut Changes) {
        self.guards.echoes.until = newest;
        self.judge_echoes(changes);
    }

    /// The stream told of a path: of what was accepted there, or of something after it.
    pub(super) fn echoed(&mut self, path: &WsPath) {
        self.guards.echoes.missing.remove(path);
    }

    /// The cursor moved: when the stream told everything, nothing that was accepted may be missing.
    pub(super) fn judge_echoes(&mut self, changes: &mut Changes) {
        let echoes = &self.guards.echoes;
        let (Some(until), Some(cursor)) = (&echoes.until, &self.cursor) else { return };
        let reached = match (cursor.id.ordinal(), until.ordinal()) {
            (Some(at), Some(until)) => at >= until,
            _ => cursor.id == *until,
        };
        if !reached {
            return;
        }
        let still = echoes.missing.iter().find(|(path, revision)| {
            let node = self.tree.resolve(path).and_then(|ino| self.tree.get(ino));
            let now = node.and_then(|node| node.synced.as_ref()?.revision.as_ref());
            now == Some(*revision) && !self.is_pending(path)
        });
        match still.map(|(path, revision)| (path.clone(), revision.clone())) {
            Some((path, revision)) => {
                let why =
                    format!("the server does not know revision {revision} of {path} any more");
                self.history_went_back(why, changes);
            }
            None => self.guards.echoes = Echoes::default(),
        }
    }
}

/// The revision of the event at the cursor.
fn revision_of(cursor: &Cursor) -> Option<Revision> {
    let (_, version) = cursor.fingerprint.as_ref()?.rsplit_once('@')?;
    let revision = version.split_once('#').map_or(version, |(revision, _)| revision);
    Revision::new(revision).filter(|revision| revision.ordinal().is_some())
}
