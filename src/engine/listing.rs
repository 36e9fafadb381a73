//! Listing: the whole tree, in bulk, when the change stream cannot tell what is new.
//!
//! The newest event id was noted before; events after it are applied afterwards, and applying one
//! twice is harmless. A file that is missing from the listing is looked at by itself before it is
//! believed to be gone; a listing that misses most of what is known is not believed at all.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::missing::Known;
use super::shared::Shared;
use crate::node::Ino;
use crate::path::WsPath;
use crate::remote::{Cursor, EventChange, EventId, ListPage, RemoteError};

/// Workspaces with up to this many files are fetched with all content in one request.
const EXPORT_FILES_MAX: u64 = 2_000;

/// Bound of such a request; bytes.
const EXPORT_BYTES_MAX: u64 = 32 << 20;

/// Missing files that are looked at one by one at the same time.
const CONFIRMATIONS: usize = 8;

/// A listing may miss this many files, or up to half of them, before it counts as a reset.
const MISSING_MIN: usize = 10;

/// What a file leads to that the server has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is looked at by itself, and then it is gone here too; too many at once are a reset.
    Confirm,
    /// A person looked at a suspected reset and said go on: what is here is offered again, also
    /// where the server has other bytes.
    OfferAgain,
}

/// Whether a listing that lacks `missing` of the `known` files is not to be believed.
pub(super) fn is_too_much_missing(missing: usize, known: usize) -> bool {
    missing > MISSING_MIN && missing * 2 > known
}

impl Shared {
    /// Brings the tree up to date. `tail` is the newest event id noted before.
    ///
    /// # Errors
    /// When the remote could not be asked; what was listed so far is applied.
    pub(super) async fn list_all(
        self: &Arc<Self>,
        tail: Option<EventId>,
        policy: Missing,
    ) -> Result<(), RemoteError> {
        let known = self.core().known();
        let mut seen = HashSet::new();
        let first = self.remote.list(None).await?;
        let total = first.total_files;
        self.step(|core, _, _| core.bootstrap = Some((0, total)));
        let result = self.list_pages(first, &known, &mut seen, policy).await;
        self.step(|core, _, _| core.bootstrap = None);
        result?;
        // The rules came with the rest, if there are any.
        self.reload_rules();
        self.look_at_missing(&known, &seen, policy).await?;
        failpoint!("listing.applied");
        self.step(|core, _, changes| {
            core.note_listed(changes);
            let cursor = tail.map(|id| Cursor { id, fingerprint: None });
            core.set_cursor(cursor, changes);
        });
        failpoint!("listing.done");
        Ok(())
    }

    async fn list_pages(
        self: &Arc<Self>,
        first: ListPage,
        known: &Known,
        seen: &mut HashSet<Ino>,
        policy: Missing,
    ) -> Result<(), RemoteError> {
        let small = first.total_files.is_some_and(|total| total <= EXPORT_FILES_MAX);
        if small
            && known.files == 0
            && first.total_files != Some(0)
            && let Some(page) = self.remote.export(EXPORT_BYTES_MAX).await?
        {
            self.take_page(&page, known, seen, policy);
        }
        let mut page = first;
        let most = self.core().settings.names_max.saturating_mul(2);
        let mut listed = 0_usize;
        loop {
            self.take_page(&page, known, seen, policy);
            failpoint!("listing.page");
            let Some(next) = page.next.take() else { return Ok(()) };
            // A page that is not the last brings something, so this ends whatever the server says.
            listed += page.entries.len() + page.skipped.len();
            if listed > most {
                let message = "the listing does not come to an end".to_owned();
                return Err(RemoteError::Garbled { message });
            }
            page = self.remote.list(Some(&next)).await?;
        }
    }

    fn take_page(&self, page: &ListPage, known: &Known, seen: &mut HashSet<Ino>, policy: Missing) {
        // A page is at most a thousand entries or a small export: a short time under the lock.
        for chunk in page.entries.chunks(256) {
            self.step(|core, now, changes| {
                let is_open = |ino| self.contents.open.get(ino).is_some();
                core.check_listed(chunk, known, changes);
                if policy == Missing::OfferAgain {
                    core.offer_outlived(chunk, now, changes);
                }
                core.apply_listing(chunk, seen, is_open, now, changes);
                if let Some((done, _)) = &mut core.bootstrap {
                    *done += chunk.len() as u64;
                }
            });
        }
        self.step(|core, _, _| core.skip(page.skipped.iter().cloned()));
    }

    async fn look_at_missing(
        self: &Arc<Self>,
        known: &Known,
        seen: &HashSet<Ino>,
        policy: Missing,
    ) -> Result<(), RemoteError> {
        let (missing, folders) = {
            let core = self.core();
            (core.unseen(known, seen), core.unseen_folders(known, seen))
        };
        if policy == Missing::OfferAgain {
            self.step(|core, now, changes| {
                for path in &core.unoffered(known, seen) {
                    core.offer_again(path, now, changes);
                }
            });
            self.nudge.notify_one();
            return Ok(());
        }
        if is_too_much_missing(missing.len(), known.files) {
            let why = format!(
                "the server lists {} of {} known files no more",
                missing.len(),
                known.files
            );
            self.step(|core, _, changes| {
                if core.reset_suspected.is_none() {
                    core.suspect_reset(Some(why), changes);
                }
                core.show_reset(missing, changes);
            });
            return Ok(());
        }
        if self.core().reset_suspected.is_some() {
            self.step(|core, _, changes| core.show_reset(missing, changes));
            return Ok(());
        }
        let mut looks = futures_util::stream::iter(missing.into_iter().map(|path| {
            let shared = Arc::clone(self);
            async move { shared.confirm_missing(path).await }
        }))
        .buffer_unordered(CONFIRMATIONS);
        while let Some(result) = looks.next().await {
            result?;
        }
        for path in folders {
            self.apply_event(&EventChange::DirDeleted { path });
        }
        Ok(())
    }

    async fn confirm_missing(self: Arc<Self>, path: WsPath) -> Result<(), RemoteError> {
        match self.remote.fetch(&path, 0).await? {
            Some(file) => self.apply_event(&EventChange::Stored(file)),
            None => self.missing(&path),
        };
        Ok(())
    }
}
