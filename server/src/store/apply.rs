//! Applies changes inside one database transaction.
//!
//! Nothing here is visible to anybody before the caller commits. Counters live in memory for the
//! length of the transaction and are written by [`Applier::finish`], so numbers given out by a
//! transaction that is rolled back were never seen and may be given out again.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::model::{
    Action, Change, Done, Event, EventKind, File, Identity, NewBody, Number, Outcome, Precondition,
    Put, Refusal, Workspace, revision_text,
};
use super::read;
use crate::paths;

/// How long an identity without a time to live is remembered.
const IDENTITY_DEFAULT_S: i64 = 30 * 24 * 3600;
const NS_PER_S: i64 = 1_000_000_000;
/// Old events removed in one transaction; bounds the pause after the limit was lowered.
const PRUNE_MAX: i64 = 20_000;
const IDENTITY_PRUNE_MAX: i64 = 1_000;
const DEFAULT_CONTENT_TYPE: &str = "text/markdown";

type Sql<T> = rusqlite::Result<T>;

/// The changes of one transaction so far.
pub(super) struct Applier<'c> {
    connection: &'c Connection,
    now_ns: i64,
    revision: Number,
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
        Ok(Self { connection, now_ns, revision, spaces: HashMap::new(), replaced: Vec::new() })
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
        self.connection
            .prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'revision'")?
            .execute([self.revision])?;
        self.connection
            .prepare_cached(
                "DELETE FROM identities WHERE (workspace, kind, key) IN (SELECT workspace, kind, \
                 key FROM identities WHERE expires_at <= ?1 LIMIT ?2)",
            )?
            .execute([self.now_ns, IDENTITY_PRUNE_MAX])?;
        let mut published = Vec::new();
        for (name, mut space) in std::mem::take(&mut self.spaces) {
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

    fn prune(&self, counts: &mut Workspace, events_max: i64) -> Sql<()> {
        // A little slack, so that not every commit deletes a row or two.
        let slack = (events_max / 10).min(1024);
        let kept = counts.last_event - counts.first_event + 1;
        if kept > events_max + slack {
            let target = counts.last_event - events_max + 1;
            counts.first_event = target.min(counts.first_event + PRUNE_MAX);
            self.connection
                .prepare_cached("DELETE FROM events WHERE workspace = ?1 AND id < ?2")?
                .execute([counts.id, counts.first_event])?;
        }
        Ok(())
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
                    .execute(params![revision, data])?;
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

    fn mkdir(
        &mut self,
        space: &mut Space,
        path: String,
        mode: Option<u32>,
        correlation: &str,
    ) -> Sql<Outcome> {
        let id = space.counts.id;
        if let Some(file) = read::file(self.connection, id, &path)? {
            return Ok(Err(Refusal::FileInTheWay { current: file.revision }));
        }
        let found = self
            .connection
            .prepare_cached(
                "SELECT explicit, revision, mode FROM folders WHERE workspace = ?1 AND path = ?2",
            )?
            .query_row(params![id, path], |row| {
                Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<u32>>(2)?))
            })
            .optional()?;
        if let Some((true, revision, present)) = found
            && (mode.is_none() || mode == present)
        {
            return Ok(Ok(tombstone(path, revision, String::new())));
        }
        let revision = self.next_revision();
        if found.is_some() {
            self.connection
                .prepare_cached(
                    "UPDATE folders SET explicit = 1, revision = ?3, mode = COALESCE(?4, mode) \
                     WHERE workspace = ?1 AND path = ?2",
                )?
                .execute(params![id, path, revision, mode])?;
        } else {
            self.connection
                .prepare_cached("INSERT INTO folders VALUES (?1, ?2, 0, 1, ?3, ?4)")?
                .execute(params![id, path, revision, mode])?;
            self.link(id, &path)?;
        }
        let mut event = self.gone(EventKind::DirectoryCreated, &path, revision, correlation);
        event.mode = mode.or(found.and_then(|(_, _, present)| present));
        self.publish(space, event)?;
        Ok(Ok(tombstone(path, revision, String::new())))
    }

    fn rmdir(&mut self, space: &mut Space, path: String, correlation: &str) -> Sql<Outcome> {
        let id = space.counts.id;
        let children: Option<i64> = self
            .connection
            .prepare_cached("SELECT children FROM folders WHERE workspace = ?1 AND path = ?2")?
            .query_row(params![id, path], |row| row.get(0))
            .optional()?;
        match children {
            None => return Ok(Err(Refusal::NotFound)),
            Some(0) => {}
            Some(_) => return Ok(Err(Refusal::NotEmpty)),
        }
        self.connection
            .prepare_cached("DELETE FROM folders WHERE workspace = ?1 AND path = ?2")?
            .execute(params![id, path])?;
        self.unlink(id, &path)?;
        let revision = self.next_revision();
        self.announce_gone(space, EventKind::DirectoryDeleted, &path, revision, correlation)?;
        Ok(Ok(tombstone(path, revision, String::new())))
    }

    fn next_revision(&mut self) -> Number {
        self.revision += 1;
        self.revision
    }

    fn write_row(&self, space: &mut Space, file: &File, replaces: bool) -> Sql<()> {
        let id = space.counts.id;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO files VALUES \
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                id,
                file.path,
                file.revision,
                file.hash,
                file.content_type,
                file.base64,
                file.stored_size,
                file.byte_size,
                file.edited_at,
                file.blob,
                file.body,
                file.semantics,
                file.mode,
                file.mtime,
                file.symlink
            ])?;
        if !replaces {
            space.counts.files += 1;
            self.link(id, &file.path)?;
        }
        Ok(())
    }

    fn remove_row(&self, space: &mut Space, path: &str) -> Sql<()> {
        self.connection
            .prepare_cached("DELETE FROM files WHERE workspace = ?1 AND path = ?2")?
            .execute(params![space.counts.id, path])?;
        space.counts.files -= 1;
        self.unlink(space.counts.id, path)
    }

    fn discard_content(&mut self, file: &File) -> Sql<()> {
        if let Some(blob) = file.blob {
            self.connection.prepare_cached("DELETE FROM blobs WHERE id = ?1")?.execute([blob])?;
        }
        self.replaced.extend(file.body.clone());
        Ok(())
    }

    /// Counts a new entry in its folder, making the folders above as needed.
    fn link(&self, id: i64, path: &str) -> Sql<()> {
        let mut path = path;
        while let Some(folder) = paths::parent(path) {
            let counted = self
                .connection
                .prepare_cached(
                    "UPDATE folders SET children = children + 1 WHERE workspace = ?1 AND path = ?2",
                )?
                .execute(params![id, folder])?;
            if counted > 0 {
                break;
            }
            self.connection
                .prepare_cached("INSERT INTO folders VALUES (?1, ?2, 1, 0, 0, NULL)")?
                .execute(params![id, folder])?;
            path = folder;
        }
        Ok(())
    }

    /// Uncounts an entry from its folder, removing implied folders that become empty.
    fn unlink(&self, id: i64, path: &str) -> Sql<()> {
        let mut path = path;
        while let Some(folder) = paths::parent(path) {
            let vanishes = self
                .connection
                .prepare_cached(
                    "UPDATE folders SET children = children - 1 WHERE workspace = ?1 AND path = ?2 \
                     RETURNING children = 0 AND explicit = 0",
                )?
                .query_row(params![id, folder], |row| row.get::<_, bool>(0))
                .optional()?
                .unwrap_or(false);
            if !vanishes {
                break;
            }
            self.connection
                .prepare_cached("DELETE FROM folders WHERE workspace = ?1 AND path = ?2")?
                .execute(params![id, folder])?;
            path = folder;
        }
        Ok(())
    }

    fn announce(
        &self,
        space: &mut Space,
        kind: EventKind,
        file: &File,
        correlation: &str,
    ) -> Sql<()> {
        let event = Event {
            hash: Some(file.hash),
            byte_size: Some(file.byte_size),
            mode: file.mode,
            mtime: file.mtime.clone(),
            symlink: file.symlink.clone(),
            ..self.gone(kind, &file.path, file.revision, correlation)
        };
        self.publish(space, event)
    }

    fn announce_gone(
        &self,
        space: &mut Space,
        kind: EventKind,
        path: &str,
        revision: Number,
        correlation: &str,
    ) -> Sql<()> {
        let event = self.gone(kind, path, revision, correlation);
        self.publish(space, event)
    }

    /// Returns an event that says nothing about content.
    fn gone(&self, kind: EventKind, path: &str, revision: Number, correlation: &str) -> Event {
        Event {
            id: 0,
            kind,
            path: path.to_owned(),
            revision,
            hash: None,
            byte_size: None,
            mode: None,
            mtime: None,
            symlink: None,
            correlation: correlation.to_owned(),
            at: self.now_ns,
        }
    }

    fn publish(&self, space: &mut Space, mut event: Event) -> Sql<()> {
        space.counts.last_event += 1;
        event.id = space.counts.last_event;
        self.connection
            .prepare_cached(
                "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                space.counts.id,
                event.id,
                event.kind.code(),
                event.path,
                event.revision,
                event.hash,
                event.byte_size,
                event.mode,
                event.mtime,
                event.symlink,
                event.correlation,
                event.at
            ])?;
        space.events.push(event);
        Ok(())
    }

    fn remembered(&self, space: &Space, identity: &Identity) -> Sql<Option<Done>> {
        self.connection
            .prepare_cached(
                "SELECT path, revision, content_type, hash, byte_size FROM identities \
                 WHERE workspace = ?1 AND kind = ?2 AND key = ?3 AND expires_at > ?4",
            )?
            .query_row(params![space.counts.id, identity.kind, identity.key, self.now_ns], |row| {
                Ok(Done {
                    path: row.get(0)?,
                    revision: row.get(1)?,
                    content_type: row.get(2)?,
                    hash: row.get(3)?,
                    byte_size: row.get(4)?,
                    repeated: true,
                })
            })
            .optional()
    }

    fn remember(&self, space: &Space, identity: &Identity, done: &Done) -> Sql<()> {
        let ttl_s = if identity.ttl_s > 0 { identity.ttl_s } else { IDENTITY_DEFAULT_S };
        let expires_at = self.now_ns.saturating_add(ttl_s.saturating_mul(NS_PER_S));
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO identities VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                space.counts.id,
                identity.kind,
                identity.key,
                expires_at,
                done.path,
                done.revision,
                done.content_type,
                done.hash,
                done.byte_size
            ])?;
        Ok(())
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
