//! How large a file may be for the server to take it: what it says, or what it refused by itself.
//!
//! What was refused is known until the next start, until the server offers something else, or until it
//! accepts such a file after all. It is not kept over a restart, as the largest body is: while it is
//! known no larger file can be written, so none would ever be accepted and show that it is over. A
//! restart costs one refusal of one file, which is parked and teaches it again.

use super::core::{Core, SMALL_MAX};
use super::plan::Item;
use crate::record::Op;
use crate::remote::Capabilities;

/// What a refusal taught.
#[derive(Debug, Clone, Copy)]
pub(super) struct Learned {
    bytes_max: u64,
    /// The size of the file that was refused.
    refused: u64,
}

impl Core {
    /// The largest file that the server may take, where that is known; bytes.
    #[must_use]
    pub fn file_bytes_max(&self) -> Option<u64> {
        let announced = self.capabilities.as_ref().and_then(announced);
        let learned = self.file_bytes_learned.map(|learned| learned.bytes_max);
        announced.into_iter().chain(learned).min()
    }

    /// A file was refused by itself, in a request of so many bytes. One of as many bytes cannot be
    /// sent, whatever it holds: none gets smaller on the way. Of a small one it is not believed that its
    /// size was the reason.
    pub(super) fn learn_file_bytes(&mut self, item: &Item, request_bytes: u64) {
        let bytes_max = request_bytes.saturating_sub(1);
        if item.op != Op::Put || item.size <= SMALL_MAX {
            return;
        }
        if self.file_bytes_learned.is_none_or(|known| bytes_max < known.bytes_max) {
            tracing::warn!(bytes = bytes_max, "the server takes no larger file, learned");
            self.file_bytes_learned = Some(Learned { bytes_max, refused: item.size });
        }
    }

    /// A file was accepted: one as large as that which was refused shows that others may be, too.
    pub(super) fn accepted_file(&mut self, size: u64) {
        self.file_bytes_learned = self.file_bytes_learned.filter(|known| size < known.refused);
    }
}

/// What the server says of itself.
fn announced(capabilities: &Capabilities) -> Option<u64> {
    if capabilities.raw { capabilities.file_bytes_max } else { capabilities.body_bytes_max }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::engine::core::{Changes, Now, Settings};
    use crate::engine::local::{Creator, Sealed};
    use crate::engine::plan::Task;
    use crate::node::{Content, FileBody, FileId, Kind, ROOT};
    use crate::path::WsPath;
    use crate::remote::RemoteError;
    use crate::store::Loaded;

    /// A file that is refused by itself, in a request of so many bytes.
    fn refuse(core: &mut Core, size: u64, request_bytes: u64) {
        let path = WsPath::parse("/f").unwrap();
        let changes = &mut Changes::default();
        let body = FileBody { content: Content::Empty, size: 0, exact: true };
        let creator = Creator { uid: 0, gid: 0, mode: 0o644 };
        let now = now();
        let ino = core.create(ROOT, "f", Kind::File(body), creator, now, changes).unwrap();
        let content = Content::File(FileId(core.take_id(&mut changes.rows)));
        let (mtime, ctime) = (now.wall, now.wall);
        let sealed = Sealed { content, size, mtime, ctime, held_until: None };
        core.seal(ino, &sealed, now, changes);
        let plan = core.plan(Now { mono: Duration::from_secs(9), ..now });
        let item = plan.tasks.into_iter().find_map(|task| match task {
            Task::Bulk(mut items) => items.pop(),
            Task::Single(item) => Some(*item),
            _ => None,
        });
        core.batch_over();
        core.single_over();
        core.failed(vec![item.unwrap()], &RemoteError::TooLarge, request_bytes, now, changes);
        assert_eq!(core.outbox.parked(), 1);
        core.unlink(ROOT, "f", false, now, changes).unwrap();
        core.drop_record(&path, changes);
    }

    fn now() -> Now {
        Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn the_smaller_of_what_is_said_and_what_is_learned_counts() {
        let mut core = Core::new(Loaded::default(), Settings::default(), now(), 1).0;
        let json = Capabilities::default();
        core.set_capabilities(json, &mut Changes::default());
        assert_eq!(core.file_bytes_max(), None);
        // A small one has other reasons.
        refuse(&mut core, 10, 500);
        assert_eq!(core.file_bytes_max(), None);
        refuse(&mut core, 90_000, 120_000);
        refuse(&mut core, 180_000, 240_000);
        assert_eq!(core.file_bytes_max(), Some(119_999));
        // It took one that is as large.
        core.accepted_file(89_999);
        assert_eq!(core.file_bytes_max(), Some(119_999));
        core.accepted_file(90_000);
        assert_eq!(core.file_bytes_max(), None);
        // What it offers anew counts, and what was learned before does not.
        refuse(&mut core, 90_000, 120_000);
        let (body_bytes_max, file_bytes_max) = (Some(100_000), Some(500_000));
        let raw = Capabilities { raw: true, body_bytes_max, file_bytes_max, ..json };
        core.set_capabilities(raw, &mut Changes::default());
        assert_eq!(core.file_bytes_max(), Some(500_000));
        refuse(&mut core, 90_000, 90_000);
        core.set_capabilities(raw, &mut Changes::default());
        assert_eq!(core.file_bytes_max(), Some(89_999));
        core.set_capabilities(Capabilities { raw: false, ..raw }, &mut Changes::default());
        assert_eq!(core.file_bytes_max(), Some(100_000));
    }
}
