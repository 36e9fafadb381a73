//! The files of a conflict copy, read for people, and old copies, which go after their time.
//! *Blocking:* disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;

use super::copies::{self, Source};
use super::core::Core;
use super::merge::{Merge, Refusal, three_way, unified};
use super::shared::{Notice, NoticeKind, Shared};
use crate::content::flaw::Flaw;
use crate::digest::Digest;
use crate::record::ConflictRow;
use crate::store::Row;

/// The files of one copy.
#[derive(Debug)]
pub struct ConflictFiles {
    folder: PathBuf,
}

/// The differences between the versions of a conflict, in the unified form.
#[derive(Debug, Default)]
pub struct Differences {
    /// What we made of the base.
    pub ours: Option<String>,
    /// What they made of the base.
    pub theirs: Option<String>,
    /// From theirs to ours.
    pub between: Option<String>,
    /// Why one of them cannot be shown.
    pub refusal: Option<Refusal>,
}

impl ConflictFiles {
    /// Those of `conflict`.
    #[must_use]
    pub fn of(all: &Path, conflict: &ConflictRow) -> Self {
        Self { folder: all.join(&conflict.folder) }
    }

    pub(super) fn local(&self) -> PathBuf {
        self.folder.join("local")
    }

    /// Where the bytes are kept that a resolution by force replaces. An attempt that failed may
    /// have left some there.
    pub(super) fn replaced(&self) -> PathBuf {
        let first = self.folder.join("replaced");
        let mut names = (2..).map(|n: u32| self.folder.join(format!("replaced-{n}")));
        if first.exists() { names.find(|name| !name.exists()).unwrap_or(first) } else { first }
    }

    /// Makes the names in the copy durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// The bytes of one version, as far as a text may be long; `None` when it is not kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> io::Result<Option<Bytes>> {
        match Source::File(self.folder.join(name)).read_text() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What of the copy is not as it was written: the name of the file, and what is wrong with it.
    #[must_use]
    pub fn flaws(conflict: &ConflictRow, all: &Path) -> Vec<(&'static str, Flaw)> {
        if conflict.folder.is_empty() {
            return Vec::new();
        }
        let files = Self::of(all, conflict);
        let sides: [(&str, Option<(u64, Digest)>); 3] =
            [("local", conflict.ours), ("remote", conflict.theirs), ("base", conflict.base)];
        let known = sides.into_iter().filter_map(|(name, known)| Some((name, known?)));
        known.filter_map(|(name, known)| Some((name, files.flaw(name, known)?))).collect()
    }

    fn flaw(&self, name: &str, known: (u64, Digest)) -> Option<Flaw> {
        match Source::File(self.folder.join(name)).measure() {
            Ok((_, digest)) if digest == known.1 => None,
            Ok((size, _)) if size != known.0 => {
                Some(Flaw::mismatched(format!("it has {size} bytes, not {}", known.0)))
            }
            Ok(_) => Some(Flaw::mismatched("its checksum does not match")),
            Err(error) => Some(error.into()),
        }
    }

    /// How large the base is, when it is kept.
    #[must_use]
    pub fn base_size(&self) -> Option<u64> {
        fs::metadata(self.folder.join("base")).ok().map(|base| base.len())
    }

    /// What merging the versions of the copy gives; the text is what a person would start from.
    ///
    /// # Errors
    /// When the copy cannot be read.
    pub fn merge(&self) -> io::Result<Result<Merge, Refusal>> {
        let missing = || io::Error::other("the copy is not complete");
        let ours = self.read("local")?.ok_or_else(missing)?;
        let theirs = self.read("remote")?.ok_or_else(missing)?;
        Ok(three_way(self.read("base")?.as_deref(), &ours, &theirs))
    }

    /// What differs between the versions.
    ///
    /// # Errors
    /// When the copy cannot be read.
    pub fn differences(&self) -> io::Result<Differences> {
        let (base, ours, theirs) = (self.read("base")?, self.read("local")?, self.read("remote")?);
        let mut differences = Differences::default();
        let mut show = |from: (&str, &Option<Bytes>), to: (&str, &Option<Bytes>)| {
            let (Some(old), Some(new)) = (from.1, to.1) else { return None };
            match unified((from.0, old), (to.0, new)) {
                Ok(text) => Some(text),
                Err(refusal) => {
                    differences.refusal = Some(refusal);
                    None
                }
            }
        };
        let of_ours = show(("base", &base), ("ours", &ours));
        let of_theirs = show(("base", &base), ("theirs", &theirs));
        let between = show(("theirs", &theirs), ("ours", &ours));
        differences.ours = of_ours;
        differences.theirs = of_theirs;
        differences.between = between;
        Ok(differences)
    }
}

impl Core {
    /// Resolved conflicts whose time is over, and whose outcome the server has.
    fn old_conflicts(&self, now: Timestamp) -> Vec<ConflictRow> {
        let keep = jiff::SignedDuration::try_from(self.settings.conflict_keep).ok();
        let is_old = |conflict: &&ConflictRow| {
            let until = conflict.resolution.zip(keep);
            let until = until.and_then(|(resolution, keep)| resolution.at.checked_add(keep).ok());
            until.is_some_and(|until| until <= now) && !self.is_pending(&conflict.path)
        };
        self.conflicts.iter().filter(is_old).cloned().collect()
    }
}

impl Shared {
    /// Removes the copies of conflicts that were resolved long enough ago, and says so.
    pub(super) fn forget_old_conflicts(&self) {
        let old = self.core().old_conflicts(self.now().wall);
        for conflict in old {
            if !conflict.folder.is_empty() {
                let folder = ConflictFiles::of(&self.conflicts_folder, &conflict).folder;
                // The folder first: a crash in between leaves a row that is looked at again.
                if let Err(error) = copies::remove(&folder)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(copy = %folder.display(), %error, "old conflict copy not removed");
                    continue;
                }
            }
            self.step(|core, _, changes| {
                core.conflicts.retain(|known| known.id != conflict.id);
                changes.rows.push(Row::DeleteConflict(conflict.id.clone()));
            });
            let id = &conflict.id;
            tracing::info!(path = %conflict.path, %id, "copy of a resolved conflict removed");
            self.notice(Notice {
                kind: NoticeKind::Conflict,
                action: "forget".to_owned(),
                path: Some(conflict.path.as_str().to_owned()),
                revision: None,
                detail: Some(format!("{id} was resolved; its copy is removed")),
                at: self.clock.wall(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::core::{Now, Settings};
    use crate::path::WsPath;
    use crate::record::{How, Resolution};
    use crate::store::Loaded;

    #[test]
    fn only_resolved_conflicts_grow_old() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let conflict = |id: &str, resolved: Option<i64>| ConflictRow {
            id: id.to_owned(),
            path: WsPath::parse("/f").unwrap(),
            at: at(0),
            kind: "edit".to_owned(),
            base_revision: None,
            theirs_revision: None,
            ours: None,
            theirs: None,
            base: None,
            folder: String::new(),
            ours_by: None,
            ours_at: None,
            theirs_at: None,
            sibling: None,
            resolution: resolved.map(|second| Resolution {
                how: How::Merged,
                automatic: true,
                at: at(second),
            }),
        };
        let conflicts =
            vec![conflict("open", None), conflict("old", Some(10)), conflict("new", Some(11))];
        let loaded = Loaded { conflicts, ..Loaded::default() };
        let settings = Settings { conflict_keep: Duration::from_secs(90), ..Settings::default() };
        let now = Now { mono: Duration::ZERO, wall: at(100) };
        let core = Core::new(loaded, settings, now, 1).0;
        let old = |second| -> Vec<String> {
            core.old_conflicts(at(second)).into_iter().map(|conflict| conflict.id).collect()
        };
        assert_eq!(old(99), Vec::<String>::new());
        assert_eq!(old(100), ["old"]);
        assert_eq!(old(101), ["old", "new"]);
        assert_eq!(old(1_000_000), ["old", "new"]);
    }
}
