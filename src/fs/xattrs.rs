//! Calls on extended attributes: those of programs (`user.*`), which are kept, and those by which mountd
//! tells about a file (`user.mountd.*`), which are made up when they are asked for.

use super::names::ReplySlot;
use super::{Fs, FsError, Reply};
use crate::engine::local::LocalError;
use crate::engine::xattrs::XattrMode;
use crate::node::{Content, Ino};
use crate::record::RecordState;

/// What programs may set.
const USER: &[u8] = b"user.";

/// What mountd tells; never listed, so that who copies attributes does not try to set them.
const OWN: &[u8] = b"user.mountd.";

/// Attributes of the kernel's security modules; none has any.
const SECURITY: &[u8] = b"security.";

/// Attributes for root's own programs.
const TRUSTED: &[u8] = b"trusted.";

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// When there is none of that name, or cannot be.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(own) = name.strip_prefix(OWN) {
            return self.told(ino, own)?.ok_or(LocalError::NoAttribute.into());
        }
        let core = self.shared.core();
        let xattrs = core.xattrs(ino)?;
        if !name.starts_with(USER) {
            let known = name.starts_with(SECURITY) || name.starts_with(TRUSTED);
            return Err(if known { LocalError::NoAttribute.into() } else { FsError::NotSupported });
        }
        let value = xattrs.and_then(|xattrs| xattrs.get(name)).ok_or(LocalError::NoAttribute)?;
        Ok(value.to_vec())
    }

    /// The names of the attributes that programs set, each followed by a zero.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let core = self.shared.core();
        Ok(core.xattrs(ino)?.map(crate::xattrs::Xattrs::names).unwrap_or_default())
    }

    /// Sets an attribute.
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        reply: Reply<()>,
    ) {
        if let Err(error) = check_settable(name).and_then(|()| self.need_room()) {
            return reply(Err(error));
        }
        let slot = ReplySlot::new(reply);
        slot.set(());
        let set = self.shared.step_then(slot.done(), |core, now, changes| {
            core.set_xattr(ino, (name, value), mode, now, changes)
        });
        self.ended(set, &slot);
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8], reply: Reply<()>) {
        if let Err(error) = check_settable(name) {
            return reply(Err(error));
        }
        let slot = ReplySlot::new(reply);
        slot.set(());
        let removed = self.shared.step_then(slot.done(), |core, now, changes| {
            core.remove_xattr(ino, name, now, changes)
        });
        self.ended(removed, &slot);
    }

    /// What mountd tells under that name.
    fn told(&self, ino: Ino, what: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        let open = self.shared.contents.open.get(ino);
        let unsealed = open.is_some_and(|file| file.lock().dirty_since.is_some());
        let core = self.shared.core();
        let node = core.tree.get(ino).ok_or(LocalError::Stale)?;
        let path = core.tree.path_of(ino);
        let record = path.as_ref().and_then(|path| core.outbox.lane(path)).map(|lane| {
            let newest = lane.records().last();
            newest.unwrap_or(&lane.current.record)
        });
        let text = match what {
            b"state" => Some(match record.map(|record| &record.state) {
                _ if node.local_only => "local-only".to_owned(),
                Some(RecordState::Parked { .. }) => "parked".to_owned(),
                Some(RecordState::Waiting | RecordState::Flight) => "pending".to_owned(),
                None if unsealed => "pending".to_owned(),
                None if node.synced.is_some() => "synced".to_owned(),
                None => "local".to_owned(),
            }),
            b"id" => record.map(|record| record.seq.0.to_string()),
            b"path" => path.as_ref().map(|path| path.as_str().to_owned()),
            b"revision" => {
                let synced = node.synced.as_ref();
                synced.and_then(|synced| synced.revision.as_ref()).map(|at| at.as_str().to_owned())
            }
            b"conflict" => core
                .open_conflicts()
                .find(|conflict| Some(&conflict.path) == path.as_ref())
                .map(|conflict| conflict.id.clone()),
            b"here" => node.body().map(|body| {
                (if body.content == Content::Remote { "no" } else { "yes" }).to_owned()
            }),
            _ => None,
        };
        Ok(text.map(String::into_bytes))
    }
}

/// Programs set what is theirs.
fn check_settable(name: &[u8]) -> Result<(), FsError> {
    if name.starts_with(OWN) {
        Err(LocalError::NotPermitted.into())
    } else if name.starts_with(USER) {
        Ok(())
    } else {
        Err(FsError::NotSupported)
    }
}
