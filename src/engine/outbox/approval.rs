//! Records that wait for a person. Pure.

use super::Outbox;
use crate::node::BlobId;
use crate::path::WsPath;
use crate::record::{Record, RecordState};
use crate::store::Row;

impl Outbox {
    /// Removals that wait for a person, by path.
    pub fn held_for_approval(&self) -> impl Iterator<Item = &Record> {
        let all = if self.held == 0 { None } else { Some(self.lanes.values()) };
        let records = all.into_iter().flatten().flat_map(super::Lane::records);
        records.filter(|record| record.needs_approval)
    }

    /// How many removals wait for a person.
    #[must_use]
    pub fn needing_approval(&self) -> usize {
        self.held
    }

    /// Has the newest record of `path` wait for a person.
    pub fn need_approval(&mut self, path: &WsPath, rows: &mut Vec<Row>) {
        let Some(mut lane) = self.take(path) else { return };
        let slot = lane.after.back_mut().unwrap_or(&mut lane.current);
        if slot.record.state == RecordState::Waiting {
            slot.record.needs_approval = true;
            rows.push(Row::PutRecord(Box::new(slot.record.clone())));
        }
        self.put_back(path.clone(), lane);
    }

    /// Lets go on what waits for a person on `path`, whatever follows it.
    pub fn approve(&mut self, path: &WsPath, rows: &mut Vec<Row>) {
        let Some(mut lane) = self.take(path) else { return };
        for slot in std::iter::once(&mut lane.current).chain(&mut lane.after) {
            if std::mem::take(&mut slot.record.needs_approval) {
                rows.push(Row::PutRecord(Box::new(slot.record.clone())));
            }
        }
        self.put_back(path.clone(), lane);
    }

    /// Drops what waits for a person on `path` behind another record. Returns the small contents that it
    /// referred to.
    pub fn take_back(&mut self, path: &WsPath, rows: &mut Vec<Row>) -> Vec<BlobId> {
        let Some(mut lane) = self.take(path) else { return Vec::new() };
        let mut blobs = Vec::new();
        lane.after.retain(|slot| {
            if slot.record.needs_approval {
                rows.push(Row::DeleteRecord(slot.record.seq));
                blobs.extend(slot.record.blobs());
            }
            !slot.record.needs_approval
        });
        self.put_back(path.clone(), lane);
        blobs
    }
}
