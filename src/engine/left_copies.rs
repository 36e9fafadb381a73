//! Conflict copies that no row names, as a start finds them.
//!
//! A copy is complete, `meta.json` last, before the step that lists it; so one that is not complete
//! took nothing away from where it was copied from, and goes. A complete one is listed: as decided
//! anew where the record is still there and the next attempt will decide, else as it was. Whatever is
//! doubtful is set aside. Nothing with bytes that may be nowhere else is removed. *Blocking:* disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::conflict_files::ConflictFiles;
use super::copies;
use super::core::{Changes, Core, Now};
use crate::content::aside::{Hands, is_set_aside, set_aside};
use crate::record::{ConflictRow, How, Resolution};

/// What is in the name of each copy.
const MARK: &str = ".conflict-";

/// A copy that no row names.
#[derive(Debug)]
enum Left {
    /// Without the file that is written last.
    Incomplete,
    /// With all that its `meta.json` names, as it was written.
    Whole(Box<ConflictRow>),
    /// Anything else.
    Doubtful(&'static str),
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Remove,
    List(Box<ConflictRow>),
    SetAside(&'static str),
}

/// What was done with one.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it was.
    pub copy: PathBuf,
    /// What it is listed as, if it is.
    pub listed: Option<ConflictRow>,
    /// Where it is kept, when it was set aside.
    pub kept: Option<PathBuf>,
    /// Why it was not listed.
    pub why: Option<&'static str>,
}

/// In which manner the start's look is made.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Rows were lost: nothing is removed, and what is listed waits for a person.
    pub lost: bool,
    /// Nothing is removed in any case.
    pub keep_all: bool,
    /// Whether anything is done.
    pub hands: Hands,
}

/// Looks for copies that no row names, and gives each its place.
///
/// # Errors
/// When the disk refuses.
pub fn sweep(
    all: &Path,
    core: &mut Core,
    manner: Manner,
    now: Now,
    changes: &mut Changes,
) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_named = core.conflicts.iter().any(|conflict| conflict.folder == name);
        if is_named || !name.contains(MARK) || is_set_aside(&name) {
            continue;
        }
        let copy = entry.path();
        let left = if entry.file_type()?.is_dir() {
            look_at(&copy, all)
        } else {
            Left::Doubtful("it is not a folder")
        };
        let mut done = Found { copy: copy.clone(), listed: None, kept: None, why: None };
        match core.fate_of(left, manner, now) {
            Fate::Remove => {
                done.why = Some("it was not complete; what it was copied from is where it was");
                if manner.hands == Hands::Free {
                    copies::remove(&copy)?;
                }
            }
            Fate::SetAside(why) => {
                done.why = Some(why);
                done.kept = set_aside(&copy, now.wall, manner.hands)?;
            }
            Fate::List(conflict) => {
                core.add_conflict((*conflict).clone(), changes);
                done.listed = Some(*conflict);
            }
        }
        let outcome = match (&done.kept, &done.listed) {
            (Some(_), _) => "set aside",
            (None, Some(_)) => "listed",
            (None, None) => "removed",
        };
        tracing::warn!(copy = %copy.display(), why = done.why, outcome, "conflict copy without a row");
        found.push(done);
    }
    Ok(found)
}

fn look_at(copy: &Path, all: &Path) -> Left {
    let conflict = match copies::conflict_of(copy) {
        Ok(Some(conflict)) => conflict,
        Ok(None) => return Left::Doubtful("its meta.json cannot be understood"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Left::Incomplete,
        Err(_) => return Left::Doubtful("its meta.json cannot be read"),
    };
    if !ConflictFiles::flaws(&conflict, all).is_empty() {
        return Left::Doubtful("its files are not those that its meta.json names");
    }
    Left::Whole(Box::new(conflict))
}

impl Core {
    fn fate_of(&self, left: Left, manner: Manner, now: Now) -> Fate {
        match left {
            Left::Incomplete if manner.lost || manner.keep_all => {
                Fate::SetAside("it is not complete")
            }
            Left::Incomplete => Fate::Remove,
            Left::Doubtful(why) => Fate::SetAside(why),
            Left::Whole(mut conflict) => {
                let is_taken = |id: &str| self.conflicts.iter().any(|known| known.id == id);
                if is_taken(&conflict.id) {
                    let ids = (2..).map(|n: u32| format!("{}-{n}", conflict.id));
                    let id = ids.into_iter().find(|id| !is_taken(id)).unwrap_or_default();
                    conflict.id = id;
                }
                if !manner.lost {
                    // Whoever made it did not get to listing it: what it was about stands as it did.
                    let anew = Resolution { how: How::Anew, automatic: true, at: now.wall };
                    conflict.resolution = Some(anew);
                }
                Fate::List(conflict)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::digest::Digest;
    use crate::engine::copies::CopyFolder;
    use crate::engine::core::Settings;
    use crate::path::WsPath;
    use crate::store::{Loaded, Row};

    fn now() -> Now {
        Now { mono: Duration::ZERO, wall: Timestamp::from_second(1_795_602_453).unwrap() }
    }

    fn core() -> Core {
        Core::new(Loaded::default(), Settings::default(), now(), 1).0
    }

    fn copy(all: &Path, id: &str, is_complete: bool) -> ConflictRow {
        let folder = CopyFolder::create(all, id, now().wall).unwrap();
        fs::write(folder.file("local"), "ours").unwrap();
        fs::write(folder.file("remote"), "theirs").unwrap();
        fs::write(folder.file("base"), "base").unwrap();
        let side = |text: &str| Some((text.len() as u64, Digest::of(text.as_bytes())));
        let conflict = ConflictRow {
            id: id.to_owned(),
            path: WsPath::parse("/d/f").unwrap(),
            at: now().wall,
            kind: "edit".to_owned(),
            base_revision: Some("r1".to_owned()),
            theirs_revision: Some("r2".to_owned()),
            ours: side("ours"),
            theirs: side("theirs"),
            base: side("base"),
            folder: folder.name.clone(),
            ours_by: Some("ana@here".to_owned()),
            ours_at: Some(now().wall),
            theirs_at: None,
            sibling: None,
            resolution: None,
        };
        if is_complete {
            folder.complete(&conflict).unwrap();
        }
        conflict
    }

    fn swept(all: &Path, core: &mut Core, lost: bool, hands: Hands) -> (Vec<Found>, Changes) {
        let mut changes = Changes::default();
        let manner = Manner { lost, keep_all: false, hands };
        let mut found = sweep(all, core, manner, now(), &mut changes).unwrap();
        found.sort_by(|a, b| a.copy.cmp(&b.copy));
        (found, changes)
    }

    fn names(all: &Path) -> Vec<String> {
        let names = fs::read_dir(all).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_complete_goes_and_what_is_complete_is_listed() {
        let all = tempfile::tempdir().unwrap();
        let cut = copy(all.path(), "c-1", false);
        let whole = copy(all.path(), "c-2", true);
        let named = copy(all.path(), "c-3", true);
        let mut core = core();
        core.conflicts.push(named.clone());
        // With tied hands it is said and not done.
        let (found, _) = swept(all.path(), &mut self::core(), false, Hands::Tied);
        assert_eq!(found.len(), 3);
        assert_eq!(names(all.path()).len(), 3);
        let (found, changes) = swept(all.path(), &mut core, false, Hands::Free);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].listed.is_some(), found[0].kept.is_some()), (false, false));
        assert_eq!(names(all.path()), [whole.folder.clone(), named.folder]);
        let anew = Resolution { how: How::Anew, automatic: true, at: now().wall };
        let expected = ConflictRow { resolution: Some(anew), ..whole };
        assert_eq!(found[1].listed.as_ref(), Some(&expected));
        assert!(matches!(&changes.rows[..], [Row::PutConflict(row)] if **row == expected));
        assert!(!all.path().join(&cut.folder).exists());
        assert!(swept(all.path(), &mut core, false, Hands::Free).0.is_empty());
    }

    #[test]
    fn where_rows_were_lost_nothing_goes_and_a_person_decides() {
        let all = tempfile::tempdir().unwrap();
        copy(all.path(), "c-1", false);
        let whole = copy(all.path(), "c-2", true);
        let mut core = core();
        let (found, _) = swept(all.path(), &mut core, true, Hands::Free);
        assert!(found[0].kept.as_ref().unwrap().join("local").exists());
        assert_eq!(found[1].listed.as_ref(), Some(&whole));
        assert!(swept(all.path(), &mut core, true, Hands::Free).0.is_empty());
    }

    #[test]
    fn what_is_damaged_is_set_aside() {
        for (name, bytes) in
            [("local", "our$"), ("remote", "their"), ("base", ""), ("meta.json", "{")]
        {
            let all = tempfile::tempdir().unwrap();
            let whole = copy(all.path(), "c-2", true);
            fs::write(all.path().join(&whole.folder).join(name), bytes).unwrap();
            let (found, changes) = swept(all.path(), &mut core(), false, Hands::Free);
            assert!(found[0].kept.as_ref().unwrap().join(name).exists(), "{name}");
            assert!(found[0].why.is_some() && changes.rows.is_empty());
        }
    }

    #[test]
    fn an_id_is_not_given_twice() {
        let all = tempfile::tempdir().unwrap();
        let whole = copy(all.path(), "c-2", true);
        let mut core = core();
        core.conflicts.push(ConflictRow { folder: String::new(), ..whole });
        let (found, _) = swept(all.path(), &mut core, false, Hands::Free);
        assert_eq!(found[0].listed.as_ref().unwrap().id, "c-2-2");
    }
}
