//! Rows that are damaged on the disk and right in memory: a daemon that runs writes them again.

use super::core::{Changes, Core};
use super::shared::Shared;
use crate::node::Ino;
use crate::path::WsPath;
use crate::store::{DamagedRow, Row};

impl Shared {
    /// Writes a row anew from what is in memory, or only says whether that can be done. A row that is
    /// found by something that is damaged itself is not known here.
    pub(super) fn mend(&self, damaged: &DamagedRow, repair: bool) -> bool {
        self.step(|core, _, changes| {
            let Some(row) = core.row_of(damaged) else { return false };
            if repair {
                changes.rows.push(row);
            }
            true
        })
    }
}

impl Core {
    /// The row as it should be.
    fn row_of(&self, damaged: &DamagedRow) -> Option<Row> {
        match damaged.table() {
            "nodes" => {
                let ino = Ino(damaged.hint("ino")?.parse().ok()?);
                let mut changes = Changes::default();
                self.put_node(ino, &mut changes);
                changes.rows.pop()
            }
            "outbox" => {
                let seq: u64 = damaged.hint("seq")?.parse().ok()?;
                let mut all = self.outbox.lanes().flat_map(|(_, lane)| lane.records());
                let record = all.find(|record| record.seq.0 == seq)?;
                Some(Row::PutRecord(Box::new(record.clone())))
            }
            "recheck" => {
                let path = WsPath::parse(&damaged.hint("path")?).ok()?;
                self.recheck.contains(&path).then_some(Row::PutRecheck(path))
            }
            "removals" => {
                let path = WsPath::parse(&damaged.hint("path")?).ok()?;
                self.guards.kept.contains(&path).then_some(Row::PutRemoval(path))
            }
            "xattrs" => {
                let ino = Ino(damaged.hint("ino")?.parse().ok()?);
                let xattrs = self.xattrs.get(&ino).filter(|_| !self.tree.is_unlinked(ino))?;
                Some(Row::PutXattrs(ino, Box::new(xattrs.clone())))
            }
            "conflicts" => {
                let conflict = self.conflict(&damaged.hint("id")?)?;
                Some(Row::PutConflict(Box::new(conflict.clone())))
            }
            _ => None,
        }
    }
}
