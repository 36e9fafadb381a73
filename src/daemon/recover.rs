//! The start's look at what the last run left: opens the database, and a new one with what can be
//! saved where it is damaged; has `engine::sweep` decide over what does not fit together, and carries
//! it out. Nothing damaged is removed; it is set aside as `NAME.corrupt.<UTC time>`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mountctl::api::ExitCode;

use super::reports::{failure, store_report};
use crate::config::Config;
use crate::content::aside::aside_path;
use crate::content::flaw::Flaw;
use crate::content::working::scan;
use crate::content::{Contents, Leftovers};
use crate::digest::Digest;
use crate::engine::carry::{DISCARDED, unfinished};
use crate::engine::check::{Finding, Object, Outcome, Wrong};
use crate::engine::{Changes, Core, Now, left_copies};
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
    /// What lists conflict copies.
    copies: bool,
}

/// Opens the database; says on standard error what was found wrong with it.
pub(super) fn open_state(folder: &Path, at: Timestamp) -> Result<Opened, Report> {
    let path = folder.join("state.db");
    let mut opened = Store::open_checked(&path, &|path| aside_path(path, at))
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
    opened.kept_rows = keep_rows(folder, &opened.loaded, at)
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
fn keep_rows(folder: &Path, loaded: &Loaded, at: Timestamp) -> io::Result<Option<PathBuf>> {
    if loaded.damaged.is_empty() {
        return Ok(None);
    }
    let path = aside_path(&folder.join("rows"), at);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    for row in &loaded.damaged {
        let (table, why) = (row.table(), row.why());
        tracing::error!(table, why, kept = %path.display(), "damaged row set aside");
        writeln!(file, "{}", row.text())?;
    }
    file.sync_all()?;
    failpoint!("start.rows_kept");
    Ok(Some(path))
}

impl Lost {
    pub(super) fn of(opened: &Opened) -> Self {
        let rebuilt = opened.salvage.is_some();
        let hit =
            |tables: &[&str]| opened.loaded.damaged.iter().any(|row| tables.contains(&row.table()));
        Self {
            names: rebuilt || hit(&["nodes", "meta", "recheck"]),
            records: rebuilt || hit(&["outbox"]),
            copies: rebuilt || hit(&["conflicts"]),
        }
    }

    fn anything(self) -> bool {
        self.names || self.records || self.copies
    }
}

/// What a look at the last run's leavings needs to know.
#[derive(Debug)]
pub(super) struct Sweep<'a> {
    /// What of the database was lost.
    pub(super) lost: Lost,
    /// The small contents that it holds.
    pub(super) blobs: &'a HashSet<BlobId>,
    /// The folder of the conflict copies.
    pub(super) copies: &'a Path,
    /// Nothing is removed, not even what a usual start removes.
    pub(super) keep_all: bool,
}

/// Has the core and what lies on the disk fit together. Says what did not.
pub(super) fn sweep(
    core: &mut Core,
    contents: &Contents,
    look: &Sweep<'_>,
    now: Now,
    changes: &mut Changes,
) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    let lost = Lost { names: look.lost.names || !core.lost.is_empty(), ..look.lost };
    let nodes = std::mem::take(&mut core.lost);
    let home = core.bring_home(nodes, now, changes);
    let made = core.remake_nodes(look.blobs, now, changes);
    found.extend(taken_up(home, "names without their folder"));
    found.extend(taken_up(made, "records without their file"));
    if lost.anything() {
        core.list_anew(changes);
        core.sweep_blobs(look.blobs, changes);
    }
    if lost.anything() || look.keep_all {
        keep_blobs(contents, changes, now.wall, &mut found)?;
    }
    let leftovers = match (look.keep_all, lost.anything()) {
        (true, _) => Leftovers::KeepAll(now.wall),
        (false, true) => Leftovers::Keep(now.wall),
        (false, false) => Leftovers::Remove,
    };
    let swept = contents.sweep(&core.working_files(), leftovers)?;
    found.extend(swept.left.into_iter().map(|(path, kept)| unnamed_file(&path, kept)));
    let manner = left_copies::Manner {
        lost: lost.anything(),
        keep_all: look.keep_all,
        hands: contents.hands(),
    };
    let copies = left_copies::sweep(look.copies, core, manner, now, changes)?;
    found.extend(copies.into_iter().map(Finding::from));
    if leftovers == Leftovers::Remove {
        unfinished::sweep(&look.copies.with_file_name(DISCARDED))?;
    }
    failpoint!("start.swept");
    for ino in core.missing_blobs(look.blobs) {
        damaged(core, contents, ino, &Flaw::missing(), now, changes, &mut found)?;
    }
    check_files(core, contents, &swept.lengths, now, changes, &mut found)?;
    core.take_lengths(&swept.lengths, changes);
    if lost.records {
        let unsure = core.unsure();
        let again = unsure.into_iter().filter(|(ino, content)| {
            let digest = digest_of(contents, *content);
            core.record_unsure(*ino, digest, now, changes)
        });
        let again = again.count();
        found.extend(taken_up(again, "files whose records were lost"));
    }
    Ok(found)
}

fn taken_up(count: usize, what: &str) -> Option<Finding> {
    (count > 0).then(|| Finding {
        object: Object::Row,
        wrong: Wrong::Lost,
        path: None,
        name: format!("{count} {what}"),
        why: "rows were lost".to_owned(),
        outcome: Outcome::TakenUp,
        kept: None,
    })
}

fn unnamed_file(path: &Path, kept: Option<PathBuf>) -> Finding {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Finding {
        object: Object::WorkingFile,
        wrong: Wrong::Unnamed,
        path: None,
        name: format!("files/{name}"),
        why: "nothing names it".to_owned(),
        outcome: if kept.is_some() { Outcome::SetAside } else { Outcome::Removed },
        kept,
    }
}

/// Small contents that nothing names any more may be what a lost row named: they are kept.
fn keep_blobs(
    contents: &Contents,
    changes: &Changes,
    at: Timestamp,
    found: &mut Vec<Finding>,
) -> io::Result<()> {
    for row in &changes.rows {
        if let Row::DeleteBlob(blob) = row {
            found.push(Finding {
                object: Object::Content,
                wrong: Wrong::Unnamed,
                path: None,
                name: format!("content {}", blob.0),
                why: "nothing names it".to_owned(),
                outcome: Outcome::SetAside,
                kept: contents.set_aside(Content::Blob(*blob), at)?,
            });
        }
    }
    Ok(())
}

/// Working files that are missing, or are not as long as they were when nobody wrote them.
fn check_files(
    core: &mut Core,
    contents: &Contents,
    lengths: &HashMap<FileId, u64>,
    now: Now,
    changes: &mut Changes,
    found: &mut Vec<Finding>,
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
        let flaw = match lengths.get(&file).copied() {
            Some(length) if blocks.is_complete(length) => continue,
            Some(length) if !blocks.is_of_another_length(length) => {
                contents.note_unscanned(ino);
                continue;
            }
            Some(_) => Flaw::mismatched("the file has another length"),
            None => Flaw::missing(),
        };
        damaged(core, contents, ino, &flaw, now, changes, found)?;
    }
    Ok(())
}

/// Sets a node's content aside, decides what becomes of the node, and says so.
pub(super) fn damaged(
    core: &mut Core,
    contents: &Contents,
    ino: Ino,
    flaw: &Flaw,
    now: Now,
    changes: &mut Changes,
    found: &mut Vec<Finding>,
) -> io::Result<()> {
    let Some(held) = core.held_of(ino) else { return Ok(()) };
    let kept = contents.set_aside(held.content, now.wall)?;
    // A repair that was cut off may have set it aside before.
    let kept = kept.or_else(|| contents.kept_of(held.content));
    let words = match &kept {
        Some(path) => format!("they are kept in {}", path.display()),
        None => "there is nothing left of them".to_owned(),
    };
    let recourse = core.content_damaged(ino, &flaw.why, &words, now, changes);
    found.push(held.finding(flaw, &recourse, kept));
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
