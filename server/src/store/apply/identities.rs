//! The identities of writes, under which each happens at most once.

use rusqlite::{OptionalExtension as _, params};

use super::{Applier, Space, Sql};
use crate::store::model::{Done, Identity};

/// How long an identity without a time to live is remembered.
const DEFAULT_S: i64 = 30 * 24 * 3600;
const NS_PER_S: i64 = 1_000_000_000;
const PRUNE_MAX: i64 = 1_000;

impl Applier<'_> {
    pub(super) fn remembered(&self, space: &Space, identity: &Identity) -> Sql<Option<Done>> {
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

    pub(super) fn remember(&self, space: &Space, identity: &Identity, done: &Done) -> Sql<()> {
        let ttl_s = if identity.ttl_s > 0 { identity.ttl_s } else { DEFAULT_S };
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

    /// Removes identities whose time is over, some at a time.
    pub(super) fn forget_expired(&self) -> Sql<()> {
        self.connection
            .prepare_cached(
                "DELETE FROM identities WHERE (workspace, kind, key) IN (SELECT workspace, kind, \
                 key FROM identities WHERE expires_at <= ?1 LIMIT ?2)",
            )?
            .execute([self.now_ns, PRUNE_MAX])?;
        Ok(())
    }
}
