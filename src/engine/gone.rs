//! Removals of which a reply or a read told before the change stream did: what that tells of such a
//! path may be older, and would show the file again for a moment. It is read again instead. Pure.
//!
//! A removal without a revision is forgotten by a restart; what the stream then tells of it may show the
//! file for a moment, until the stream tells of the removal. On disk a removal of ours is a path to be read again, which is all that is left of it after a restart.

use std::collections::BTreeMap;

use super::core::{Changes, Core};
use crate::path::WsPath;
use crate::revision::Revision;
use crate::store::Row;

/// So many are kept in mind; of more, a late event may show the file for a moment.
const GONE_MAX: usize = 65_536;

/// What the stream has to tell.
#[derive(Debug, Default)]
pub struct Gone {
    /// With the revision of the removal, where it has one. Of one without, nobody knows when it was
    /// told: it is kept until there is a file again.
    paths: BTreeMap<WsPath, Option<Revision>>,
    /// Paths of which the last that it told is a removal, not taken up yet.
    told: BTreeMap<WsPath, Option<Revision>>,
}

impl Core {
    /// A file is gone, by a reply or a read.
    pub(super) fn note_gone(
        &mut self,
        path: &WsPath,
        revision: Option<&Revision>,
        changes: &mut Changes,
    ) {
        let told = self.gone.told.remove(path);
        if told.is_some_and(|told| is_told(revision, told.as_ref())) {
            return;
        }
        if self.gone.paths.len() >= GONE_MAX
            && let Some((path, _)) = self.gone.paths.pop_first()
            && !self.recheck.contains(&path)
        {
            changes.rows.push(Row::DeleteRecheck(path));
        }
        self.gone.paths.insert(path.clone(), revision.cloned());
        if revision.is_some() {
            changes.rows.push(Row::PutRecheck(path.clone()));
        }
    }

    /// The stream tells of a removal. With `is_open` it is still to be taken up.
    pub(super) fn removal_told(
        &mut self,
        path: &WsPath,
        told: Option<&Revision>,
        is_open: bool,
        changes: &mut Changes,
    ) {
        if is_open {
            self.gone.told.insert(path.clone(), told.cloned());
        }
        let gone = self.gone.paths.get(path);
        if gone.is_some_and(|gone| gone.is_some() && is_told(gone.as_ref(), told)) {
            self.forget_gone(path, changes);
        }
    }

    /// The stream tells of a file.
    pub(super) fn file_told(&mut self, path: &WsPath) {
        self.gone.told.remove(path);
    }

    /// Something else becomes of a path than that removal.
    pub(super) fn forget_gone(&mut self, path: &WsPath, changes: &mut Changes) {
        if self.gone.paths.remove(path).is_some() && !self.recheck.contains(path) {
            changes.rows.push(Row::DeleteRecheck(path.clone()));
        }
    }

    /// Whether what the stream tells of a path may be older than what is known of it.
    pub(super) fn may_be_gone(&self, path: &WsPath) -> bool {
        self.gone.paths.contains_key(path) || self.recheck.contains(path)
    }

    /// A path was read. Of one that is gone late events may still come.
    pub(super) fn read_again(&mut self, path: &WsPath, is_there: bool, changes: &mut Changes) {
        self.recheck.remove(path);
        if is_there {
            self.gone.paths.remove(path);
        }
        if self.gone.paths.get(path).is_none_or(Option::is_none) {
            changes.rows.push(Row::DeleteRecheck(path.clone()));
        }
    }
}

/// Whether the removal `told` by the stream is the one that is `gone`, or one after it.
fn is_told(gone: Option<&Revision>, told: Option<&Revision>) -> bool {
    match (gone, told) {
        (Some(gone), Some(told)) => !told.is_older_than(gone),
        _ => true,
    }
}
