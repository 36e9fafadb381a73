//! Applies changes inside one database transaction.
//!
//! Nothing here is visible to anybody before the caller commits. Counters live in memory for the
//! length of the transaction and are written by [`Applier::finish`], so numbers given out by a
//! transaction that is rolled back were never seen and may be given out again.

mod feed;
mod folders;
mod identities;
mod rows;

use std::collections::HashMap;

use rusqlite::Connection;

use super::model::{
    Action, Change, Done, Event, EventKind, File, NewBody, Number, Outcome, Precondition, Put,
    Refusal, Workspace, revision_text,
};
use super::read;

const DEFAULT_CONTENT_TYPE: &str = "text/markdown";

type Sql<T> = rusqlite::Result<T>;

/// The changes of one transaction so far.
pub(super) struct Applier<'c> {
    connection: &'c Connection,
    now_ns: i64,
    revision: Number,
    /// The revision the transaction started from; a transaction without changes writes nothing.
    began_at: Number,
    spaces: HashMap<String, Space>,
    /// Body files that no row names once the transaction is committed.
    pub(super) replaced: Vec<String>,
}

struct Space {
    counts: Workspace,
    events: Vec<Event>,
}

impl<'c> Applier<'c> {
    pub(super) fn new(connection: &'c Connection, now_ns: i64) -> Sql<Self> {
        let revision = connection
            .prepare_cached("SELECT value FROM counters WHERE name = 'revision'")?
            .query_row([], |row| row.get(0))?;
        let began_at = revision;
        Ok(Self {
            connection,
            now_ns,
            revision,
            began_at,
            spaces: HashMap::new(),
            replaced: Vec::new(),
        })
    }

    /// Applies the changes of one request in order; refused ones leave no trace.
    pub(super) fn request(
        &mut self,
        workspace: &str,
        changes: Vec<Change>,
        correlation: &str,
        now_ns: i64,
    ) -> Sql<Vec<Outcome>> {
        self.now_ns = now_ns;
        self.enter(workspace)?;
        // Taken out for the length of the request, which keeps the borrows apart.
        let Some(mut space) = self.spaces.remove(workspace) else { return Ok(Vec::new()) };
        let outcomes = changes
            .into_iter()
            .map(|change| self.change(&mut space, change, correlation))
            .collect::<Sql<Vec<_>>>()?;
        self.spaces.insert(workspace.to_owned(), space);
        Ok(outcomes)
    }

    /// Writes the counters and returns the events of each workspace, in order.
    pub(super) fn finish(&mut self, events_max: i64) -> Sql<Vec<(String, Vec<Event>)>> {
        if self.revision != self.began_at {
            self.connection
                .prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'revision'")?
                .execute([self.revision])?;
        }
        self.forget_expired()?;
        let mut published = Vec::new();
        for (name, mut space) in std::mem::take(&mut self.spaces) {
            if space.counts.last_event == 0 {
                // Everything was refused: a workspace begins with its first write.
                self.connection
                    .execute("DELETE FROM workspaces WHERE id = ?1", [space.counts.id])?;
                continue;
            }
            if space.events.is_empty() {
                continue;
            }
            self.prune(&mut space.counts, events_max)?;
            let counts = space.counts;
            self.connection
                .prepare_cached(
                    "UPDATE workspaces SET files = ?2, first_event = ?3, last_event = ?4 \
                     WHERE id = ?1",
                )?
                .execute([counts.id, counts.files, counts.first_event, counts.last_event])?;
            published.push((name, space.events));
        }
        Ok(published)
    }

    fn enter(&mut self, name: &str) -> Sql<()> {
        if self.spaces.contains_key(name) {
            return Ok(());
        }
        let counts = match read::workspace(self.connection, name)? {
            Some(counts) => counts,
            None => {
                self.connection
                    .execute("INSERT INTO workspaces VALUES (NULL, ?1, 0, 1, 0)", [name])?;
                let id = self.connection.last_insert_rowid();
                Workspace { id, files: 0, first_event: 1, last_event: 0 }
            }
        };
        self.spaces.insert(name.to_owned(), Space { counts, events: Vec::new() });
        Ok(())
    }

    fn change(&mut self, space: &mut Space, change: Change, correlation: &str) -> Sql<Outcome> {
        let Change { path, precondition, identity, action } = change;
        if let Some(identity) = &identity
            && let Some(done) = self.remembered(space, identity)?
        {
            return Ok(Ok(done));
        }
        let outcome = match action {
            Action::Put(put) => self.put(space, path, &precondition, put, correlation)?,
            Action::Delete => self.delete(space, path, &precondition, correlation)?,
            Action::Move { from, precondition: of_source } => {
                self.rename(space, path, &precondition, &from, &of_source, correlation)?
            }
            Action::Meta { mode, mtime } => {
                self.meta(space, &path, &precondition, (mode, mtime), correlation)?
            }
            Action::Mkdir { mode } => self.mkdir(space, path, mode, correlation)?,
            Action::Rmdir => self.rmdir(space, path, correlation)?,
        };
        if let (Some(identity), Ok(done)) = (&identity, &outcome) {
            self.remember(space, identity, done)?;
        }
        Ok(outcome)
    }

    fn put(
        &mut self,
        space: &mut Space,
        path: String,
        precondition: &Precondition,
        put: Put,
        correlation: &str,
    ) -> Sql<Outcome> {
        let current = read::file(self.connection, space.counts.id, &path)?;
        if let Err(refusal) = check(precondition, current.as_ref(), false) {
            return Ok(Err(refusal));
        }
        let revision = self.next_revision();
        let (blob, body) = match put.content.body {
            NewBody::Inline(data) => {
                self.connection
                    .prepare_cached("INSERT INTO blobs (id, data) VALUES (?1, ?2)")?
                    .execute(rusqlite::params![revision, data])?;
                (Some(revision), None)
            }
            NewBody::File(staged) => (None, Some(staged.keep())),
        };
        let kept = current.as_ref();
        let file = File {
            path,
            revision,
            hash: put.content.hash,
            content_type: put.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
            base64: put.content.base64,
            stored_size: put.content.stored_size,
            byte_size: put.content.byte_size,
            edited_at: self.now_ns,
            blob,
            body,
            semantics: put.semantics.or_else(|| kept.and_then(|file| file.semantics.clone())),
            mode: put.mode.or_else(|| kept.and_then(|file| file.mode)),
            mtime: put.mtime.or_else(|| kept.and_then(|file| file.mtime.clone())),
            symlink: put.symlink,
        };
        if let Some(current) = current {
            self.discard_content(&current)?;
            self.write_row(space, &file, true)?;
            self.announce(space, EventKind::FileUpdated, &file, correlation)?;
        } else {
            self.write_row(space, &file, false)?;
            self.announce(space, EventKind::FileCreated, &file, correlation)?;
        }
        Ok(Ok(done(&file)))
    }

    fn delete(
        &mut self,
        space: &mut Space,
        path: String,
        precondition: &Precondition,
        correlation: &str,
    ) -> Sql<Outcome> {
        let Some(current) = read::file(self.connection, space.counts.id, &path)? else {
            return Ok(Err(match precondition {
                Precondition::UnmodifiedSince(_) => Refusal::Modified { current: None },
                _ => Refusal::NotFound,
            }));
        };
        if let Err(refusal) = check(precondition, Some(&current), false) {
            return Ok(Err(refusal));
        }
        self.discard_content(&current)?;
        self.remove_row(space, &path)?;
        let revision = self.next_revision();
        self.announce_gone(space, EventKind::FileDeleted, &path, revision, correlation)?;
        Ok(Ok(tombstone(path, revision, current.content_type)))
    }

    fn rename(
        &mut self,
        space: &mut Space,
        path: String,
        precondition: &Precondition,
        from: &str,
        of_source: &Precondition,
        correlation: &str,
    ) -> Sql<Outcome> {
        let Some(source) = read::file(self.connection, space.counts.id, from)? else {
            return Ok(Err(Refusal::NotFound));
        };
        let target = read::file(self.connection, space.counts.id, &path)?;
        if let Err(refusal) = check(of_source, Some(&source), true) {
            // The number a client can use next is the target's, whichever side was stale.
            let current = target.map(|file| file.revision);
            return Ok(Err(match refusal {
                Refusal::Conflict { expected, from_side, .. } => {
                    Refusal::Conflict { expected, current, from_side }
                }
                other => other,
            }));
        }
        if let Err(refusal) = check(precondition, target.as_ref(), false) {
            return Ok(Err(refusal));
        }
        self.remove_row(space, from)?;
        let replaces = target.is_some();
        if let Some(target) = target {
            self.discard_content(&target)?;
        }
        let revision = self.next_revision();
        let file = File { path, revision, edited_at: self.now_ns, ..source };
        self.write_row(space, &file, replaces)?;
        let kind = if replaces { EventKind::FileUpdated } else { EventKind::FileCreated };
        self.announce(space, kind, &file, correlation)?;
        let gone = self.next_revision();
        self.announce_gone(space, EventKind::FileDeleted, from, gone, correlation)?;
        Ok(Ok(done(&file)))
    }

    fn meta(
        &mut self,
        space: &mut Space,
        path: &str,
        precondition: &Precondition,
        (mode, mtime): (Option<u32>, Option<String>),
        correlation: &str,
    ) -> Sql<Outcome> {
        let Some(current) = read::file(self.connection, space.counts.id, path)? else {
            return Ok(Err(Refusal::NotFound));
        };
        if let Err(refusal) = check(precondition, Some(&current), false) {
            return Ok(Err(refusal));
        }
        let file = File {
            revision: self.next_revision(),
            edited_at: self.now_ns,
            mode: mode.or(current.mode),
            mtime: mtime.or_else(|| current.mtime.clone()),
            ..current
        };
        self.write_row(space, &file, true)?;
        self.announce(space, EventKind::FileUpdated, &file, correlation)?;
        Ok(Ok(done(&file)))
    }

    fn next_revision(&mut self) -> Number {
        self.revision += 1;
        self.revision
    }
}

fn done(file: &File) -> Done {
    Done {
        path: file.path.clone(),
        revision: file.revision,
        content_type: file.content_type.clone(),
        hash: Some(file.hash),
        byte_size: Some(file.byte_size),
        repeated: false,
    }
}

fn tombstone(path: String, revision: Number, content_type: String) -> Done {
    Done { path, revision, content_type, hash: None, byte_size: None, repeated: false }
}

fn check(
    precondition: &Precondition,
    current: Option<&File>,
    from_side: bool,
) -> Result<(), Refusal> {
    let revision = current.map(|file| file.revision);
    let expected = match precondition {
        Precondition::None | Precondition::Any => return Ok(()),
        Precondition::UnmodifiedSince(since) => {
            let kept = current.is_some_and(|file| file.edited_at <= *since);
            return kept.then_some(()).ok_or(Refusal::Modified { current: revision });
        }
        Precondition::Absent if revision.is_none() => return Ok(()),
        Precondition::Revision(wanted)
            if revision.is_some_and(|revision| revision_text(revision) == *wanted) =>
        {
            return Ok(());
        }
        Precondition::Absent => "0".to_owned(),
        Precondition::Revision(wanted) => wanted.clone(),
    };
    Err(Refusal::Conflict { expected, current: revision, from_side })
}
