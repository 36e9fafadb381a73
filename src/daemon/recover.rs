//! The start's look at what the last run left: opens the database, and a new one with what can be
//! saved where it is damaged; has `engine::sweep` decide over what does not fit together, and carries
//! it out. Nothing damaged is removed; it is set aside as `NAME.corrupt.<UTC time>`.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use mountctl::api::ExitCode;

use super::reports::{failure, store_report};
use crate::config::Config;
use crate::content::Contents;
use crate::content::aside::aside_path;
use crate::content::working::scan;
use crate::digest::Digest;
use crate::engine::{Changes, Core, Now};
use crate::node::{BlobId, Content, FileId, Ino};
use crate::report::Report;
use crate::store::{Loaded, Opened, Row, Store};

/// What of the database was lost, as far as it matters for what is done next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lost {
    /// Rows of the tree, or of what is known of the remote.
    names: bool,
    /// Records.
    records: bool,
}

/// Opens the database; says on standard error what was found wrong with it.
pub(super) fn open_state(config: &Config, at: Timestamp) -> Result<Opened, Report> {
    let path = config.state_dir.join("state.db");
    let opened = Store::open_checked(&path, &|path| aside_path(path, at))
        .map_err(|error| store_report(&error))?;
    if opened.log.mended > 0 {
        tracing::error!(bits = opened.log.mended, "flipped bits of the database's log turned back");
    }
    if opened.log.unreadable > 0 {
        let frames = opened.log.unreadable;
        tracing::error!(
            frames,
            "the end of the database's log cannot be read: power was lost, or it is damaged"
        );
    }
    if let Some(salvage) = &opened.salvage {
        let (why, rows, aside) = (&salvage.why, salvage.rows, salvage.aside.display());
        tracing::error!(%why, rows, %aside, "the state database was damaged and made anew");
    }
    keep_rows(config, &opened.loaded, at)
        .map_err(|error| failure(format!("keep damaged rows: {error}")))?;
    Ok(opened)
}

/// A folder whose database does not say whose it is must not be sent to just any workspace.
pub(super) fn check_known(config: &Config, loaded: &Loaded) -> Result<(), Report> {
    let holds = !loaded.records.is_empty() || !loaded.nodes.is_empty();
    if !holds || loaded.meta.contains_key("source") {
        return Ok(());
    }
    Err(Report::new(
        ExitCode::Config,
        "STATE_DAMAGED",
        format!("the state of mount `{}` does not say which workspace it belongs to", config.name),
    )
    .why("that part of the database was damaged; what it holds must not go to another workspace")
    .fix(format!(
        "if it is {}: sqlite3 {}/state.db \"INSERT INTO meta(key, value) VALUES ('source', '{}')\"; else another --name",
        config.source.text(),
        config.state_dir.display(),
        config.source.text(),
    )))
}

/// Writes rows that are not believed into a file of their own.
fn keep_rows(config: &Config, loaded: &Loaded, at: Timestamp) -> io::Result<()> {
    if loaded.damaged.is_empty() {
        return Ok(());
    }
    let path = aside_path(&config.state_dir.join("rows"), at);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    for row in &loaded.damaged {
        let (table, why) = (row.table(), row.why());
        tracing::error!(table, why, kept = %path.display(), "damaged row set aside");
        writeln!(file, "{}", row.text())?;
    }
    file.sync_all()
}

impl Lost {
    pub(super) fn of(opened: &Opened) -> Self {
        let rebuilt = opened.salvage.is_some();
        let hit =
            |tables: &[&str]| opened.loaded.damaged.iter().any(|row| tables.contains(&row.table()));
        Self {
            names: rebuilt || hit(&["nodes", "meta", "recheck"]),
            records: rebuilt || hit(&["outbox"]),
        }
    }

    fn anything(self) -> bool {
        self.names || self.records
    }
}

/// Has the core and what lies on the disk fit together.
pub(super) fn sweep(
    core: &mut Core,
    contents: &Contents,
    lost: Lost,
    blobs: &HashSet<BlobId>,
    now: Now,
    changes: &mut Changes,
) -> io::Result<()> {
    let lost = Lost { names: lost.names || !core.lost.is_empty(), ..lost };
    let nodes = std::mem::take(&mut core.lost);
    core.bring_home(nodes, now, changes);
    core.remake_nodes(blobs, now, changes);
    if lost.anything() {
        core.list_anew(changes);
    }
    let at = lost.anything().then_some(now.wall);
    if let Some(at) = at {
        core.sweep_blobs(blobs, changes);
        keep_blobs(contents, changes, at)?;
    }
    let lengths = contents.sweep(&core.working_files(), at)?;
    failpoint!("start.swept");
    for ino in core.missing_blobs(blobs) {
        core.content_damaged(ino, "it is missing", "there is nothing left of it", now, changes);
    }
    check_files(core, contents, &lengths, now, changes)?;
    core.take_lengths(&lengths, changes);
    if lost.records {
        for (ino, content) in core.unsure() {
            let digest = digest_of(contents, content);
            core.record_unsure(ino, digest, now, changes);
        }
    }
    Ok(())
}

/// Small contents that nothing names any more may be what a lost row named: they are kept.
fn keep_blobs(contents: &Contents, changes: &Changes, at: Timestamp) -> io::Result<()> {
    for row in &changes.rows {
        if let Row::DeleteBlob(blob) = row {
            contents.set_aside(Content::Blob(*blob), at)?;
        }
    }
    Ok(())
}

/// Working files that are missing, or are not as long as they were when nobody wrote them.
fn check_files(
    core: &mut Core,
    contents: &Contents,
    lengths: &std::collections::HashMap<FileId, u64>,
    now: Now,
    changes: &mut Changes,
) -> io::Result<()> {
    let named: BTreeMap<Ino, FileId> = core
        .tree
        .nodes()
        .filter_map(|node| match node.body()?.content {
            Content::File(file) => Some((node.ino, file)),
            _ => None,
        })
        .collect();
    for (ino, file) in named {
        let blocks = contents.blocks(file);
        let length = lengths.get(&file).copied();
        match length {
            Some(length) if blocks.is_complete(length) => {}
            Some(length) if !blocks.is_of_another_length(length) => contents.note_unscanned(ino),
            Some(_) => {
                let kept = contents.set_aside(Content::File(file), now.wall)?;
                let kept = kept.map(|path| format!("they are kept in {}", path.display()));
                let kept = kept.unwrap_or_default();
                core.content_damaged(ino, "the file has another length", &kept, now, changes);
            }
            None => {
                core.content_damaged(
                    ino,
                    "it is missing",
                    "there is nothing left of it",
                    now,
                    changes,
                );
            }
        }
    }
    Ok(())
}

fn digest_of(contents: &Contents, content: Content) -> Option<Digest> {
    match content {
        Content::Empty => Some(Digest::of(b"")),
        Content::Blob(blob) => contents.blob(blob).ok().map(|bytes| Digest::of(&bytes)),
        Content::File(file) => {
            let path: &Path = &contents.file_path(file);
            scan(path, &contents.blocks(file), false).ok().map(|found| found.digest)
        }
        Content::Remote | Content::Damaged => None,
    }
}
