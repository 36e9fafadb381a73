//! `mountd repair`: looks at everything that lies in the state folder of a mount that does not run,
//! and puts right what can be put right. Nothing is removed.
//!
//! It is the start's look at the last run's leavings (`recover`) and then a reading of every byte. With
//! `dry_run` the same is done to a copy of the database, with tied hands: what is said is what would
//! be done. Bytes are set aside before the rows that stop naming them are committed, so a kill
//! anywhere leaves them under one name or the other; the next run goes on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mountctl::api::{CheckReply, ExitCode};
use nix::fcntl::{Flock, FlockArg};

use super::recover::{self, Lost, Sweep, damaged};
use super::reports::{failure, store_report};
use super::state_folder::{StateLock, already_running, check_folders, lock_state};
use crate::clock::SystemClock;
use crate::config::RepairConfig;
use crate::content::Contents;
use crate::content::aside::Hands;
use crate::content::flaw::FlawKind;
use crate::control;
use crate::engine::check::{
    Checked, Finding, Object, Outcome, Wrong, base_finding, check_copies, look_at, read_blob,
};
use crate::engine::{Changes, Core, Now, Settings};
use crate::node::Content;
use crate::report::Report;
use crate::store::{Opened, Row};

/// Where the rows and the bytes of a mount lie.
struct Places {
    /// The folder of the database that is worked on: the state folder, or that of its copy.
    database: PathBuf,
    files: PathBuf,
    copies: PathBuf,
    hands: Hands,
}

/// Checks and repairs the state of a mount that does not run.
///
/// # Errors
/// When there is none, somebody uses it, or the disk refuses. What was set aside by then stays so.
pub fn repair(config: &RepairConfig) -> Result<CheckReply, Report> {
    let state = &config.state_dir;
    if !state.join("state.db").exists() && !state.join("state.db.ready").exists() {
        return Err(Report::new(
            ExitCode::NotFound,
            "NOT_FOUND",
            format!("there is no state of a mount `{}`", config.name),
        )
        .why(format!("{} holds no state.db", state.display()))
        .fix("mountctl status --all lists the mounts; --state-dir DIR names another place"));
    }
    check_folders(&[state])?;
    let _lock = if config.dry_run {
        look_at_lock(config)?
    } else {
        Some(lock_state(&config.name, state).map_err(asks_daemon)?)
    };
    let copy = if config.dry_run { Some(copy_database(state)?) } else { None };
    let database = copy.as_ref().map_or(state.as_path(), tempfile::TempDir::path);
    let checked = check(config, database)?;
    Ok(control::check::reply(&config.name, config.dry_run, checked))
}

fn asks_daemon(report: Report) -> Report {
    report.fix("mountctl repair asks a running daemon to check itself; or mountctl unmount first")
}

/// Keeps a daemon from starting meanwhile, without touching anything.
fn look_at_lock(config: &RepairConfig) -> Result<Option<StateLock>, Report> {
    let path = config.state_dir.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure(format!("lock {}: {error}", path.display()))),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(StateLock::of(lock))),
        Err(_held) => Err(asks_daemon(already_running(&config.name, &path))),
    }
}

/// Copies the database with its log into a folder of its own.
fn copy_database(state: &Path) -> Result<tempfile::TempDir, Report> {
    let copy = || -> io::Result<tempfile::TempDir> {
        let folder = tempfile::Builder::new().prefix("mountd-check-").tempdir()?;
        for name in ["state.db", "state.db-wal", "state.db.ready"] {
            match fs::copy(state.join(name), folder.path().join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(folder)
    };
    copy().map_err(|error| {
        failure(format!("copy the database to look at it: {error}"))
            .fix("make room in the folder for temporary files, or name another one with TMPDIR")
    })
}

fn check(config: &RepairConfig, database: &Path) -> Result<Checked, Report> {
    let clock = SystemClock::start();
    let now = Now { mono: clock.monotonic(), wall: clock.wall() };
    let hands = if config.dry_run { Hands::Tied } else { Hands::Free };
    let opened = recover::open_state(database, now.wall)?;
    let mut checked = Checked::default();
    told_of_database(&opened, &mut checked.findings);
    let files = config.files_dir.clone().unwrap_or_else(|| {
        let known = opened.loaded.meta.get("files_dir").map(PathBuf::from);
        known.unwrap_or_else(|| config.state_dir.join("files"))
    });
    let places = Places {
        database: database.to_owned(),
        files,
        copies: config.state_dir.join("conflicts"),
        hands,
    };
    look(&places, opened, now, &mut checked)?;
    // A copy has its own names; people look for those of the original.
    for kept in checked.findings.iter_mut().filter_map(|finding| finding.kept.as_mut()) {
        if let Ok(name) = kept.strip_prefix(&places.database) {
            *kept = config.state_dir.join(name);
        }
    }
    Ok(checked)
}

/// What opening the database brought to light.
fn told_of_database(opened: &Opened, findings: &mut Vec<Finding>) {
    let of_log = |why: String, outcome| Finding {
        object: Object::Log,
        wrong: Wrong::Flaw(FlawKind::Mismatched),
        path: None,
        name: "state.db-wal".to_owned(),
        why,
        outcome,
        kept: None,
    };
    if opened.log.mended > 0 {
        let why = format!("{} bits of it had flipped", opened.log.mended);
        findings.push(of_log(why, Outcome::Mended));
    }
    if opened.log.unreadable > 0 {
        let why = format!(
            "{} frames at its end cannot be read: power was lost, or it is damaged",
            opened.log.unreadable
        );
        findings.push(of_log(why, Outcome::SetAside));
    }
    if let Some(salvage) = &opened.salvage {
        findings.push(Finding {
            object: Object::Database,
            wrong: Wrong::Flaw(FlawKind::Mismatched),
            path: None,
            name: "state.db".to_owned(),
            why: format!("{}; {} rows were saved", salvage.why, salvage.rows),
            outcome: Outcome::Mended,
            kept: Some(salvage.aside.clone()),
        });
    }
    findings.extend(opened.loaded.damaged.iter().cloned().map(|row| Finding {
        outcome: Outcome::SetAside,
        kept: opened.kept_rows.clone(),
        ..Finding::from(row)
    }));
}

fn look(places: &Places, opened: Opened, now: Now, checked: &mut Checked) -> Result<(), Report> {
    let disk = |error: io::Error| failure(format!("{}: {error}", places.files.display()));
    let lost = Lost::of(&opened);
    let (store, loaded) = (opened.store, opened.loaded);
    let contents = match places.hands {
        Hands::Free => Contents::open(&places.files, store.clone(), &loaded.sums).map_err(disk)?,
        Hands::Tied => Contents::look_at(&places.files, store.clone(), &loaded.sums),
    };
    let settings = Settings {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        ..Settings::default()
    };
    let (blobs, rows) = (loaded.blobs.clone(), loaded.damaged.clone());
    let (mut core, mut changes) = Core::new(loaded, settings, now, rand::random());
    changes.rows.extend(rows.into_iter().map(|row| Row::Discard(Box::new(row))));
    let sweep = Sweep { lost, blobs: &blobs, copies: &places.copies, keep_all: true };
    let found = recover::sweep(&mut core, &contents, &sweep, now, &mut changes).map_err(disk)?;
    checked.findings.extend(found);
    read_everything(&mut core, &contents, now, &mut changes, checked).map_err(disk)?;
    let (copies, damaged) = check_copies(&core.conflicts, &places.copies);
    checked.copies = copies;
    checked.findings.extend(damaged);
    failpoint!("repair.looked");
    store.commit_and_wait(changes.rows, true).map_err(|error| store_report(&error))?;
    failpoint!("repair.committed");
    store.close().map_err(|error| store_report(&error))
}

/// Compares every content that is here with all that is known of it.
fn read_everything(
    core: &mut Core,
    contents: &Contents,
    now: Now,
    changes: &mut Changes,
    checked: &mut Checked,
) -> io::Result<()> {
    for held in core.held() {
        checked.contents += 1;
        match look_at(contents, &held) {
            Ok(seen) => {
                checked.bytes += seen.bytes;
                if let (Content::File(file), Some(scan)) = (held.content, seen.scan)
                    && !contents.blocks(file).is_complete(seen.bytes)
                {
                    changes.rows.push(Row::PutSums(file, Box::new(scan.sums)));
                }
            }
            Err(flaw) => {
                let found = &mut checked.findings;
                damaged(core, contents, held.ino, &flaw, now, changes, found)?;
            }
        }
    }
    for (path, blob) in core.held_by_records() {
        if let Err(flaw) = read_blob(contents, blob) {
            let kept = contents.set_aside(Content::Blob(blob), now.wall)?;
            core.drop_base(&path, blob, changes);
            checked.findings.push(base_finding(&path, blob, &flaw, kept));
        }
    }
    Ok(())
}
