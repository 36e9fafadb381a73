//! A process of its own that wakes those who watch the mounted folder (inotify) when a change comes from
//! the remote.
//!
//! The kernel tells watchers of what programs do, and of nothing that a file system learns by itself. So
//! this program does, on the name concerned, what somebody here would have done; the daemon knows its
//! requests by the number of this process and answers them without any effect. It is no part of the daemon's
//! process because a process that waits for its own file system cannot be killed.
//!
//! It reads one order a line and answers each with a byte. It ends with its input, holds nothing open in
//! between, and knows no secrets.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

/// The word on the command line.
pub const COMMAND: &str = "wake-watchers";

/// What has come from the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A name that was not there.
    Created,
    /// Another content.
    Changed,
    /// The name is gone.
    Removed,
}

/// What kind of entry it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
}

/// One thing to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What has come.
    pub what: What,
    /// About what.
    pub kind: Kind,
    /// Where, below the mount point.
    pub path: PathBuf,
}

/// Carries out orders until `input` ends.
///
/// # Errors
/// When it cannot read or answer.
pub fn serve(input: impl BufRead, output: &mut dyn Write) -> io::Result<()> {
    for line in input.lines() {
        if let Ok(order) = serde_json::from_str::<Order>(&line?) {
            // Whatever fails: nobody is told, which is what would have been without us.
            drop(carry_out(&order));
        }
        output.write_all(b".")?;
        output.flush()?;
    }
    Ok(())
}

fn carry_out(order: &Order) -> io::Result<()> {
    let path = order.path.as_path();
    match (order.what, order.kind) {
        (What::Created, Kind::File) => {
            mknod(path, SFlag::S_IFREG, Mode::from_bits_truncate(0o600), 0)?;
            change(path)
        }
        (What::Created, Kind::Dir) => std::fs::create_dir(path),
        (What::Created, Kind::Symlink) => std::os::unix::fs::symlink("x", path),
        (What::Changed, _) => change(path),
        (What::Removed, Kind::Dir) => std::fs::remove_dir(path),
        (What::Removed, Kind::File | Kind::Symlink) => std::fs::remove_file(path),
    }
}

/// As a program writes a file: opened, changed, closed.
fn change(path: &Path) -> io::Result<()> {
    let opened = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let name = CString::new(path.as_os_str().as_bytes())?;
    // Of the two times only the one of the content: to the kernel that is a change of the content.
    let (keep, now) = (TimeSpec::UTIME_OMIT, TimeSpec::UTIME_NOW);
    utimensat(AT_FDCWD, name.as_c_str(), &keep, &now, UtimensatFlags::NoFollowSymlink)?;
    drop(opened);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_carried_out_and_answered_whatever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let line = |what, kind, name: &str| {
            let order = Order { what, kind, path: folder.path().join(name) };
            serde_json::to_string(&order).unwrap() + "\n"
        };
        let mut input = String::from("nonsense\n");
        for (what, kind, name) in [
            (What::Created, Kind::File, "file\nwith a line"),
            (What::Created, Kind::Dir, "folder"),
            (What::Created, Kind::Symlink, "link"),
            (What::Created, Kind::Dir, "gone"),
            (What::Removed, Kind::Dir, "gone"),
            (What::Changed, Kind::File, "nobody"),
        ] {
            input += &line(what, kind, name);
        }
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output).unwrap();
        assert_eq!(output, b".......");
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["file\nwith a line", "folder", "link"]);
    }
}
