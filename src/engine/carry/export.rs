//! Writing records with their bytes into a folder, and giving them up once they are safe there.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::{Carried, FORMAT, Job, MANIFEST, Manifest, Origin, Source};
use crate::content::Contents;
use crate::content::open::Body;
use crate::digest::{Digest, Hasher};
use crate::engine::core::Core;
use crate::engine::shared::Shared;
use crate::node::FileId;
use crate::path::WsPath;
use crate::record::RecordState;

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// How often a working file is copied again because it changed meanwhile.
const COPIES_MAX: usize = 5;

impl Shared {
    /// Writes the records at these paths into `folder`, which must not exist. What only the remote
    /// has is fetched first. *Blocking:* disk.
    ///
    /// # Errors
    /// When the folder cannot be written; it is removed again then.
    pub async fn export(
        self: &Arc<Self>,
        paths: BTreeSet<WsPath>,
        folder: &Path,
        origin: Origin,
    ) -> io::Result<Carried> {
        let jobs = self.export_jobs(&paths, folder, origin).await?;
        Ok(summary(&jobs, folder))
    }

    async fn export_jobs(
        self: &Arc<Self>,
        paths: &BTreeSet<WsPath>,
        folder: &Path,
        origin: Origin,
    ) -> io::Result<Vec<(Job, Result<(), String>)>> {
        let only_there: Vec<_> = self
            .core()
            .jobs(paths)
            .into_iter()
            .filter_map(|job| match job.source {
                Source::Remote(ino) => Some(ino),
                _ => None,
            })
            .collect();
        for ino in only_there {
            if let Err(error) = self.ensure_local(ino).await {
                tracing::debug!(ino = ino.0, %error, "fetch for an export");
            }
        }
        let jobs = self.core().jobs(paths);
        let at = self.clock.wall();
        tokio::task::block_in_place(|| write(jobs, &self.contents, folder, origin, at))
    }

    /// Sets the changes at these paths aside into `folder` and gives them up: the remote's versions
    /// are shown again.
    ///
    /// # Errors
    /// When the folder cannot be written; nothing was given up then.
    pub async fn discard(
        self: &Arc<Self>,
        mut paths: BTreeSet<WsPath>,
        folder: &Path,
        origin: Origin,
    ) -> io::Result<Carried> {
        self.core().with_old_names(&mut paths);
        let mut carried = Carried { folder: Some(folder.to_owned()), ..Carried::default() };
        paths.retain(|path| match self.core().in_flight_at(path) {
            None => true,
            Some(id) => {
                let why = "it is being sent: try again in a moment, or pause first";
                carried.refused.push((id, path.as_str().to_owned(), why.to_owned()));
                false
            }
        });
        let jobs = self.export_jobs(&paths, folder, origin).await?;
        for path in &paths {
            let of_path: Vec<_> = jobs.iter().filter(|(job, _)| &job.record.path == path).collect();
            let failed = of_path.iter().find_map(|(_, written)| written.clone().err());
            let given_up = match failed {
                Some(why) => Err(why),
                None => self.give_up(path, &of_path.iter().map(|(job, _)| job).collect::<Vec<_>>()),
            };
            failpoint!("discard.given_up");
            for (job, _) in of_path {
                let (id, path) = (job.record.seq.0.to_string(), path.as_str().to_owned());
                match &given_up {
                    Ok(()) => carried.done.push((id, path)),
                    Err(why) => carried.refused.push((id, path, why.clone())),
                }
            }
        }
        self.nudge.notify_one();
        Ok(carried)
    }

    fn give_up(&self, path: &WsPath, exported: &[&Job]) -> Result<(), String> {
        let give_up = || {
            self.step(|core, now, changes| {
                let unchanged = core.outbox.lane(path).is_some_and(|lane| {
                    let now: Vec<_> = lane.records().collect();
                    let then: Vec<_> = exported.iter().map(|job| &job.record).collect();
                    now == then
                });
                if unchanged {
                    core.give_up(path, now, changes);
                    Ok(())
                } else {
                    Err("it changed meanwhile: try again".to_owned())
                }
            })
        };
        let file = self.core().file_at(path);
        let Some(ino) = file else { return give_up() };
        self.contents.open.with(ino, |state| {
            if !state.is_quiet() {
                return Err("its file is open for writing: close it first".to_owned());
            }
            give_up()?;
            state.body = Body::Unloaded;
            state.generation += 1;
            Ok(())
        })
    }
}

impl Core {
    /// The record of a path that is in a request, by its id.
    fn in_flight_at(&self, path: &WsPath) -> Option<String> {
        let record = &self.outbox.lane(path)?.current.record;
        (record.state == RecordState::Flight).then(|| record.seq.0.to_string())
    }
}

fn summary(jobs: &[(Job, Result<(), String>)], folder: &Path) -> Carried {
    let mut carried = Carried { folder: Some(folder.to_owned()), ..Carried::default() };
    for (job, written) in jobs {
        let (id, path) = (job.record.seq.0.to_string(), job.entry.path.clone());
        match written {
            Ok(()) => carried.done.push((id, path)),
            Err(why) => carried.refused.push((id, path, why.clone())),
        }
    }
    carried
}

/// Writes records and their bytes; the manifest comes last. What cannot be written of one record
/// leaves that one out.
fn write(
    jobs: Vec<Job>,
    contents: &Contents,
    folder: &Path,
    origin: Origin,
    exported_at: jiff::Timestamp,
) -> io::Result<Vec<(Job, Result<(), String>)>> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let result = write_all(jobs, contents, folder, origin, exported_at);
    if result.is_err() {
        drop(fs::remove_dir_all(folder));
    }
    result
}

fn write_all(
    jobs: Vec<Job>,
    contents: &Contents,
    folder: &Path,
    origin: Origin,
    exported_at: jiff::Timestamp,
) -> io::Result<Vec<(Job, Result<(), String>)>> {
    let mut all = Vec::new();
    for (n, mut job) in jobs.into_iter().enumerate() {
        let written = write_bytes(&mut job, n, contents, folder)?;
        all.push((job, written));
    }
    failpoint!("export.contents");
    let good = all.iter().filter(|(_, written)| written.is_ok());
    let records = good.map(|(job, _)| job.entry.clone()).collect();
    let manifest = Manifest { format: FORMAT, origin, exported_at, records };
    let json = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?;
    write_file(&folder.join("manifest.part"), &json)?;
    File::open(folder)?.sync_all()?;
    fs::rename(folder.join("manifest.part"), folder.join(MANIFEST))?;
    failpoint!("export.manifest");
    File::open(folder)?.sync_all()?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(all)
}

/// Writes the bytes of one record. The outer error is the folder's, the inner one the record's.
fn write_bytes(
    job: &mut Job,
    n: usize,
    contents: &Contents,
    folder: &Path,
) -> io::Result<Result<(), String>> {
    if let Some(base) = job.record.base_content
        && let Ok(bytes) = contents.blob(base.blob)
    {
        let name = format!("{n}.base");
        write_file(&folder.join(&name), &bytes)?;
        job.entry.base_file = Some(name);
    }
    if job.record.op != crate::record::Op::Put || job.entry.symlink.is_some() {
        return Ok(Ok(()));
    }
    let name = n.to_string();
    let target = folder.join(&name);
    let (size, digest) = match job.source {
        Source::Nothing => {
            write_file(&target, &[])?;
            (0, Digest::of(&[]))
        }
        Source::Blob(blob) => match contents.blob(blob) {
            Ok(bytes) => {
                write_file(&target, &bytes)?;
                (bytes.len() as u64, Digest::of(&bytes))
            }
            Err(error) => return Ok(Err(format!("its bytes cannot be read: {error}"))),
        },
        Source::File(ino, file) => {
            let generation = || contents.open.get(ino).map(|file| file.lock().generation);
            let mut copied = None;
            for _ in 0..COPIES_MAX {
                let before = generation();
                match copy(contents, file, &target)? {
                    Ok(copy) if generation() == before => copied = Some(copy),
                    Ok(_) => continue,
                    Err(why) => return Ok(Err(why)),
                }
                break;
            }
            match copied {
                Some(copied) => copied,
                None => return Ok(Err("it is being written: close it first".to_owned())),
            }
        }
        Source::Remote(_) => {
            return Ok(Err("its bytes are only at the server, which cannot be asked".to_owned()));
        }
    };
    job.entry.size = size;
    job.entry.sha256 = Some(digest.to_string());
    job.entry.file = Some(name);
    Ok(Ok(()))
}

fn copy(
    contents: &Contents,
    file: FileId,
    target: &Path,
) -> io::Result<Result<(u64, Digest), String>> {
    let from = match contents.open_file(file) {
        Ok(from) => from,
        Err(error) => return Ok(Err(format!("its bytes cannot be read: {error}"))),
    };
    let mut to =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        let bytes = match from.read(size, COPY_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(format!("its bytes cannot be read: {error}"))),
        };
        hasher.update(&bytes);
        to.write_all(&bytes)?;
        size += bytes.len() as u64;
        if bytes.len() < COPY_BYTES {
            break;
        }
    }
    to.sync_all()?;
    Ok(Ok((size, hasher.finish())))
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
