//! The state folder of one mount: it holds what exists nowhere else.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::statvfs,
    unistd::{AccessFlags, access},
};

use crate::{api::Check, env::Env, paths::STATE_FILE, text::shell_word, units};

/// With less room than this changes may soon be refused; bytes.
const FREE_WARN: u64 = 1 << 30;

/// With less than this they are; bytes.
const FREE_FAIL: u64 = 16 << 20;

/// With fewer free file entries than this, the same; they are counted where the disk counts them.
const ENTRIES_WARN: u64 = 10_000;

/// What is in the name of everything that was set aside.
const ASIDE: &str = ".corrupt.";

/// Where a mount keeps things.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) state: PathBuf,
    pub(super) files: Option<PathBuf>,
    /// A daemon says that it uses them now.
    pub(super) is_used: bool,
}

pub(super) fn checks(env: &Env, places: &Places) -> Vec<Check> {
    let folder = &places.state;
    let shown = folder.display().to_string();
    let word = shell_word(&shown);
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound && places.is_used => {
            return vec![
                Check::fail("state folder", format!("{shown} was removed while the mount runs"))
                    .why("changes made here are refused, because they would not be kept")
                    .fix("mountctl unmount, then start it again: it begins anew with what the server has"),
            ];
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return vec![Check::skip("state folder", format!("{shown} is not there"))];
        }
        Err(error) => {
            return vec![
                Check::fail("state folder", format!("{shown}: {error}"))
                    .why("the outbox lies there")
                    .fix(format!("ls -ld {word}")),
            ];
        }
    };
    let mut checks = vec![owner(env, &metadata, &shown)];
    let is_private = checks.iter().all(|check| check.fix.is_empty());
    if is_private && !may_write(folder) {
        checks = vec![
            Check::fail("state folder", format!("{shown} cannot be written"))
                .why("nothing that is changed in the mount can be kept")
                .fix(format!("findmnt -T {word}, and mount -o remount,rw if it is read-only")),
        ];
    }
    if places.is_used && fs::metadata(folder.join(STATE_FILE)).is_err() {
        checks.push(
            Check::fail("state folder", format!("{shown} has lost its {STATE_FILE}"))
                .why("changes made here are refused, because they would not be kept")
                .fix("mountctl unmount, then start it again: it begins anew with what the server has"),
        );
    }
    checks.push(room(folder));
    checks.extend(places.files.as_deref().filter(|files| !files.starts_with(folder)).map(room));
    checks.push(aside(places));
    checks
}

/// Whether this user may make and change files there.
pub(super) fn may_write(folder: &Path) -> bool {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

fn owner(env: &Env, metadata: &fs::Metadata, shown: &str) -> Check {
    let word = shell_word(shown);
    if metadata.uid() != env.uid && env.uid != 0 {
        return Check::fail("state folder", format!("{shown} belongs to user {}", metadata.uid()))
            .why("the daemon refuses it: whoever can write there decides what it reads")
            .fix(format!("sudo chown -R \"$(id -un)\" {word}"));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Check::fail("state folder", format!("{shown} can be changed by other users"))
            .why("the daemon refuses it: whoever can write there decides what it reads")
            .fix(format!("look at what is in it, then chmod 700 {word}"));
    }
    if mode & 0o055 != 0 {
        return Check::warn("state folder", format!("{shown} can be read by other users"))
            .why("contents of the workspace lie there")
            .fix(format!("chmod 700 {word}"));
    }
    Check::ok("state folder", shown.to_owned())
}

fn room(folder: &Path) -> Check {
    let figures = match statvfs(folder) {
        Ok(figures) => figures,
        Err(error) => return Check::skip("disk", format!("{}: {error}", folder.display())),
    };
    let free = figures.blocks_available() * figures.fragment_size();
    let counted = figures.files() > 0;
    room_of(&folder.display().to_string(), free, counted.then(|| figures.files_available()))
}

fn room_of(folder: &str, free: u64, entries: Option<u64>) -> Check {
    let mut text = format!("{} free", units::size(free));
    text.extend(entries.map(|entries| format!(", room for {} files", units::count(entries))));
    let fix = format!("make room: df -h {0}; df -i {0}", shell_word(folder));
    let why = "what is changed in the mount is kept on this disk until the server has it";
    if free < FREE_FAIL || entries.is_some_and(|entries| entries < 16) {
        Check::fail("disk", text).why(why).fix(fix)
    } else if free < FREE_WARN || entries.is_some_and(|entries| entries < ENTRIES_WARN) {
        Check::warn("disk", text).why(why).fix(fix)
    } else {
        Check::ok("disk", text)
    }
}

/// What was damaged and is kept.
fn aside(places: &Places) -> Check {
    let mut folders = vec![places.state.clone(), places.state.join("conflicts")];
    folders.push(places.files.clone().unwrap_or_else(|| places.state.join("files")));
    let mut found: Vec<String> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .filter(|path| path.contains(ASIDE))
        .collect();
    found.sort_unstable();
    let Some(first) = found.first() else { return Check::ok("set aside", "nothing") };
    let things = units::counted(found.len() as u64, "thing");
    Check::warn("set aside", format!("{things}, such as {first}"))
        .why("it was damaged; nothing removes it")
        .fix("look at it, and remove it when it is of no more use")
}

/// The file of a token, which nobody else may read.
pub(super) fn token_file(env: &Env, file: &Path) -> Check {
    let shown = file.display().to_string();
    match fs::metadata(file) {
        Err(error) => Check::fail("token file", format!("{shown}: {error}"))
            .why("the mount does not start without it")
            .fix(format!("(umask 077; cat > {})", shell_word(&shown))),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            Check::fail("token file", format!("{shown} can be read by other users"))
                .why("the daemon does not take it")
                .fix(format!("chmod 600 {}", shell_word(&shown)))
        }
        Ok(metadata) if env.uid != 0 && metadata.uid() != env.uid && metadata.uid() != 0 => {
            Check::fail("token file", format!("{shown} belongs to another user"))
                .why("the daemon does not take it")
                .fix("copy the token into a file of your own")
        }
        Ok(_) => Check::ok("token file", shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Level;

    #[test]
    fn little_room_is_told_before_there_is_none() {
        let level = |free, entries| room_of("/s", free, entries).level;
        assert_eq!(level(10 << 30, Some(1_000_000)), Level::Ok);
        assert_eq!(level(10 << 30, None), Level::Ok);
        assert_eq!(level(500 << 20, Some(1_000_000)), Level::Warn);
        assert_eq!(level(10 << 30, Some(100)), Level::Warn);
        assert_eq!(level(1 << 20, Some(1_000_000)), Level::Fail);
        assert_eq!(level(10 << 30, Some(0)), Level::Fail);
    }
}
