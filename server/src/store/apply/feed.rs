//! The events of a transaction.

use rusqlite::params;

use super::{Applier, Space, Sql};
use crate::store::model::{Event, EventKind, File, Number, Workspace};

/// Old events removed in one transaction; bounds the pause after the limit was lowered.
const PRUNE_MAX: i64 = 20_000;

impl Applier<'_> {
    pub(super) fn announce(
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

    pub(super) fn announce_gone(
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
    pub(super) fn gone(
        &self,
        kind: EventKind,
        path: &str,
        revision: Number,
        correlation: &str,
    ) -> Event {
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

    pub(super) fn publish(&self, space: &mut Space, mut event: Event) -> Sql<()> {
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

    pub(super) fn prune(&self, counts: &mut Workspace, events_max: i64) -> Sql<()> {
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
}
