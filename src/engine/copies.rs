//! Conflict copies on disk, and contents on their way into the tree.
//!
//! A copy is a folder `<id>.conflict-<UTC time>` with `meta.json`, `local`, `base` (if known) and
//! `remote`. Whatever is written here is on stable storage before a row of the store names it.
//! *Blocking:* disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;

use super::core::{Core, SMALL_MAX};
use super::merge::TEXT_MAX;
use super::shared::Shared;
use crate::digest::{Digest, Hasher};
use crate::node::{BlobId, Content, FileId};
use crate::path::WsPath;
use crate::record::{ConflictRow, How, Resolution};
use crate::store::Row;

/// The longest name of an entry; bytes.
const NAME_MAX: usize = 255;

/// The file that is written last: a copy without it is not complete.
const META: &str = "meta.json";

/// What `meta.json` says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Meta {
    id: String,
    path: String,
    kind: String,
    at: Timestamp,
    base_revision: Option<String>,
    resolution: Option<String>,
    local: Side,
    remote: Side,
    #[serde(default)]
    base: Side,
}

/// One side in `meta.json`.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Side {
    by: Option<String>,
    revision: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    modified_at: Option<Timestamp>,
}

impl Side {
    fn of(measured: Option<(u64, Digest)>) -> Self {
        let size = measured.map(|(size, _)| size);
        Self { size, sha256: measured.map(|(_, digest)| digest.to_string()), ..Self::default() }
    }

    fn measured(&self) -> Option<(u64, Digest)> {
        self.size.zip(self.sha256.as_deref().and_then(Digest::parse))
    }
}

/// The folder of a copy.
#[derive(Debug, Clone)]
pub(super) struct CopyFolder {
    /// Its name below the folder of all copies.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
}

impl CopyFolder {
    /// Makes the folder of a new copy.
    pub(super) fn create(all: &Path, id: &str, at: Timestamp) -> io::Result<Self> {
        let name = format!("{id}.conflict-{}", compact(at));
        let path = all.join(&name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { name, path })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes `meta.json` and makes the whole copy durable.
    pub(super) fn complete(&self, conflict: &ConflictRow) -> io::Result<()> {
        // It appears whole: a copy with a part of it would be neither complete nor one that may go.
        let unnamed = self.file("meta.json.new");
        write_synced(&unnamed, &meta(conflict)?)?;
        fs::rename(&unnamed, self.file(META))?;
        failpoint!("conflict.meta");
        File::open(&self.path)?.sync_all()?;
        let all = self.path.parent().ok_or_else(|| io::Error::other("copy without a folder"))?;
        File::open(all)?.sync_all()
    }

    /// Removes what was written, because nothing names it.
    pub(super) fn discard(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(copy = %self.path.display(), %error, "unfinished copy not removed");
        }
    }
}

/// Removes a copy so that an interruption leaves it incomplete.
pub(super) fn remove(copy: &Path) -> io::Result<()> {
    match fs::remove_file(copy.join(META)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir_all(copy)
}

/// Bytes that exist, wherever they are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Bytes(Bytes),
    File(PathBuf),
}

impl Source {
    /// Copies them into a new file and makes that durable.
    pub(super) fn copy_to(&self, target: &Path) -> io::Result<(u64, Digest)> {
        let file = create(target)?;
        let copied = self.copy_into(&file)?;
        file.sync_all()?;
        Ok(copied)
    }

    fn copy_into(&self, mut target: impl io::Write) -> io::Result<(u64, Digest)> {
        let mut from = match self {
            Self::Bytes(bytes) => {
                target.write_all(bytes)?;
                return Ok((bytes.len() as u64, Digest::of(bytes)));
            }
            Self::File(source) => File::open(source)?,
        };
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                return Ok((size, hasher.finish()));
            }
            hasher.update(&buffer[..n]);
            target.write_all(&buffer[..n])?;
            size += n as u64;
        }
    }

    /// Size and digest.
    pub(super) fn measure(&self) -> io::Result<(u64, Digest)> {
        self.copy_into(io::sink())
    }

    /// The bytes, when they are few enough to be a text; else one more than that.
    pub(super) fn read_text(&self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => {
                let mut bytes = Vec::new();
                File::open(path)?.take(TEXT_MAX + 1).read_to_end(&mut bytes)?;
                Ok(Bytes::from(bytes))
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(fs::metadata(path)?.len()),
        }
    }
}

/// A content that no node has yet. A large one is in its working file, durably.
#[derive(Debug)]
pub(super) enum NewContent {
    Small(Bytes),
    Large(FileId, u64),
}

impl NewContent {
    /// Enters it into the store, as part of the step that gives it to a node.
    pub(super) fn enter(self, core: &mut Core, rows: &mut Vec<Row>) -> (Content, u64) {
        match self {
            Self::Small(bytes) if bytes.is_empty() => (Content::Empty, 0),
            Self::Small(bytes) => {
                let blob = BlobId(core.take_id(rows));
                let size = bytes.len() as u64;
                rows.push(Row::PutBlob(blob, bytes));
                (Content::Blob(blob), size)
            }
            Self::Large(file, size) => (Content::File(file), size),
        }
    }

    /// The working file, when it has one: nothing names it if it is not entered.
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Self::Small(_) => None,
            Self::Large(file, _) => Some(*file),
        }
    }
}

impl Shared {
    /// Makes a content of bytes that exist elsewhere. A crash before it is entered leaves a working
    /// file that the next start removes.
    pub(super) fn new_content(&self, source: &Source) -> io::Result<NewContent> {
        if source.len()? <= SMALL_MAX {
            return Ok(NewContent::Small(source.read_text()?));
        }
        let id = FileId(self.step(|core, _, changes| core.take_id(&mut changes.rows)));
        let file = self.contents.create_file(id)?;
        let (size, _) = source.copy_into(&**file.file())?;
        self.contents.unsynced.sync_file(file.file())?;
        Ok(NewContent::Large(id, size))
    }
}

/// The name under which ours is shown beside `name`, `name (conflict HOST TIME).ext`; `attempt`
/// counts from 1. It is a legal name however long `name` is.
pub(super) fn sibling_name(name: &str, host: &str, at: Timestamp, attempt: u32) -> String {
    let again = if attempt > 1 { format!(" {attempt}") } else { String::new() };
    let host: String = host.chars().filter(|c| *c != '/' && *c != '\0').take(40).collect();
    let tag = format!(" (conflict {host} {}{again})", compact(at));
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, ""),
    };
    let mut end = NAME_MAX.saturating_sub(tag.len() + extension.len()).min(stem.len());
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tag}{extension}", &stem[..end])
}

/// `20261120T102733Z`.
fn compact(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn meta(conflict: &ConflictRow) -> io::Result<Vec<u8>> {
    let resolution = conflict.resolution.as_ref();
    let meta = Meta {
        id: conflict.id.clone(),
        path: conflict.path.as_str().to_owned(),
        kind: conflict.kind.clone(),
        at: conflict.at,
        base_revision: conflict.base_revision.clone(),
        resolution: resolution.map(|resolution| resolution.how.word().to_owned()),
        local: Side {
            by: conflict.ours_by.clone(),
            modified_at: conflict.ours_at,
            ..Side::of(conflict.ours)
        },
        remote: Side {
            revision: conflict.theirs_revision.clone(),
            modified_at: conflict.theirs_at,
            ..Side::of(conflict.theirs)
        },
        base: Side::of(conflict.base),
    };
    serde_json::to_vec_pretty(&meta).map_err(io::Error::other)
}

/// The conflict that a complete copy was made for, as its `meta.json` has it; `None` where that
/// says nothing of use.
pub(super) fn conflict_of(copy: &Path) -> io::Result<Option<ConflictRow>> {
    let meta = fs::read(copy.join(META))?;
    let Ok(meta) = serde_json::from_slice::<Meta>(&meta) else { return Ok(None) };
    let (Ok(path), Some(folder)) = (WsPath::parse(&meta.path), copy.file_name()) else {
        return Ok(None);
    };
    let how = meta.resolution.as_deref().and_then(How::from_word);
    Ok(Some(ConflictRow {
        ours: meta.local.measured(),
        theirs: meta.remote.measured(),
        base: meta.base.measured(),
        id: meta.id,
        path,
        at: meta.at,
        kind: meta.kind,
        base_revision: meta.base_revision,
        theirs_revision: meta.remote.revision,
        folder: folder.to_string_lossy().into_owned(),
        ours_by: meta.local.by,
        ours_at: meta.local.modified_at,
        theirs_at: meta.remote.modified_at,
        sibling: None,
        resolution: how.map(|how| Resolution { how, automatic: true, at: meta.at }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::check_name;

    #[test]
    fn a_sibling_has_a_legal_name_of_its_own() {
        let at = Timestamp::from_second(1_795_602_453).unwrap();
        let name = |name: &str, attempt| sibling_name(name, "host", at, attempt);
        assert_eq!(name("plan.md", 1), "plan (conflict host 20261125T102733Z).md");
        assert_eq!(name("plan.md", 2), "plan (conflict host 20261125T102733Z 2).md");
        assert_eq!(name(".profile", 1), ".profile (conflict host 20261125T102733Z)");
        assert_eq!(name("a.tar.gz", 1), "a.tar (conflict host 20261125T102733Z).gz");
        let long = ["ö".repeat(127), "n".repeat(255), format!("{}.md", "ö".repeat(126))];
        for long in long.iter().chain([&format!("a.{}", "x".repeat(253))]) {
            let (one, two) = (name(long, 1), name(long, 4_000_000_000));
            assert_ne!(one, two);
            for shown in [one, two] {
                assert_eq!(check_name(&shown), Ok(()), "{shown} of {} bytes", shown.len());
                assert!(shown.len() <= NAME_MAX && shown.len() > NAME_MAX - 4, "{}", shown.len());
            }
        }
        assert!(check_name(&sibling_name("f", &"h/\0".repeat(90), at, 1)).is_ok());
    }
}
