//! Mounts of ours whose daemon is gone: every look into them fails, and nothing can be mounted there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::statvfs::statvfs,
};

use crate::{api::Check, text::shell_word};

/// What our mounts have for a source.
const SOURCE_PREFIX: &str = "mountd:";

/// How long a mount may take to say how it is.
const LOOK: Duration = Duration::from_secs(1);

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    path: PathBuf,
}

/// How one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    Dead,
    /// It gives no answer.
    Silent,
}

/// Which of them are looked at.
#[derive(Debug)]
pub(super) enum Which {
    /// All.
    All,
    /// Those of this name, and at this place where it is known.
    Of(String, Option<PathBuf>),
}

impl Which {
    fn is(&self, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Of(name, place) => {
                entry.name == *name && place.as_ref().is_none_or(|place| *place == entry.path)
            }
        }
    }
}

pub(super) fn checks(which: &Which, fix: bool) -> Vec<Check> {
    let table = match fs::read_to_string("/proc/self/mounts") {
        Ok(table) => table,
        Err(error) => return vec![Check::skip("mounts", format!("/proc/self/mounts: {error}"))],
    };
    let mut all = ours(&table);
    all.retain(|entry| which.is(entry));
    let mut checks = Vec::new();
    for entry in &all {
        let shown = entry.path.display().to_string();
        match state(&entry.path) {
            State::Alive => {}
            State::Silent => checks.push(
                Check::fail("mount", format!("{shown} gives no answer"))
                    .why(format!("the daemon of {} is stopped, or busy", entry.name))
                    .fix(format!("mountctl status -m {} --timeout 30s", shell_word(&entry.name))),
            ),
            State::Dead if fix => checks.push(match detach(&entry.path) {
                Ok(()) => Check::ok("stale mount", format!("{shown} was dead and is taken away")),
                Err(why) => Check::fail("stale mount", format!("{shown} cannot be taken away"))
                    .why(why)
                    .fix(format!("sudo umount -l {}", shell_word(&shown))),
            }),
            State::Dead => checks.push(
                Check::fail("stale mount", format!("{shown}: endpoint not connected"))
                    .why(format!("the daemon of {} was killed", entry.name))
                    .fix("mountctl doctor --fix")
                    .fix(format!("or start it again: it clears {shown} itself")),
            ),
        }
    }
    if checks.is_empty() {
        let count = all.len();
        let noun = if count == 1 { "mount" } else { "mounts" };
        checks.push(Check::ok("mounts", format!("{count} {noun}, none of them dead")));
    }
    checks
}

/// The mounts of ours in a mount table.
fn ours(table: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let name = unescape(fields.next()?).strip_prefix(SOURCE_PREFIX)?.to_owned();
        Some(Entry { name, path: PathBuf::from(unescape(fields.next()?)) })
    };
    table.lines().filter_map(entry).collect()
}

/// The table writes space, tab, newline and backslash as `\040` and the like.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[3..]);
            }
            None => {
                bytes.push(b'\\');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks a mount for figures that never come from the kernel's cache, in a thread of its own: it may
/// wait for ever.
fn state(path: &Path) -> State {
    let (tell, told) = mpsc::sync_channel(1);
    let path = path.to_owned();
    let asking = thread::Builder::new().spawn(move || {
        tell.send(statvfs(&path).map(|_figures| ())).ok();
    });
    if asking.is_err() {
        return State::Silent;
    }
    match told.recv_timeout(LOOK) {
        Ok(Err(Errno::ENOTCONN | Errno::ECONNABORTED)) => State::Dead,
        Ok(_) => State::Alive,
        Err(_) => State::Silent,
    }
}

/// Takes a dead mount away, also where somebody is still in it.
fn detach(path: &Path) -> Result<(), String> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(error) => return Err(error.to_string()),
    }
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("fusermount3: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_ours_are_looked_at() {
        let table = "mountd:ws /mnt/a\\040b fuse rw 0 0\nsshfs /mnt/c fuse.sshfs rw 0 0\nx\n";
        let all = [Entry { name: "ws".to_owned(), path: PathBuf::from("/mnt/a b") }];
        assert_eq!(ours(table), all);
        assert_eq!(unescape("a\\134b\\x"), "a\\b\\x");
    }
}
