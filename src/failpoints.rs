//! Failpoints: named places where a test lets this process die, or the disk fail.
//!
//! Compiled with the feature `failpoints` only; without it `failpoint!` is nothing, and the names
//! are not in the program. `POINTS` lists every one; `tests/it/tidy/points.rs` compares it with the
//! sources, and `tests/failpoints` crashes at each in turn (`docs/testing.md`).

/// A failpoint. With a second argument, `|errno| value`, the function returns that value when the
/// point is told to fail with an errno.
#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name)
    };
    ($name:literal, |$errno:ident| $value:expr) => {
        fail::fail_point!($name, |argument| {
            let $errno = $crate::failpoints::errno(argument.as_deref());
            $value
        })
    };
}

/// Nothing, as failpoints are not compiled in.
#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($name:literal $(, |$errno:ident| $value:expr)?) => {};
}

/// Every failpoint of the daemon and of the server, in the order in which a change passes them.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    // Starting.
    "log.kept",
    "log.mended",
    "salvage.written",
    "salvage.ready",
    "salvage.kept",
    "salvage.placed",
    "start.rows_kept",
    "start.migrate",
    "start.loaded",
    "start.sweep",
    "start.swept",
    "start.committed",
    "start.mounted",
    // Repairing.
    "repair.looked",
    "repair.committed",
    // Calls on open files.
    "fs.open",
    "fs.create",
    "fs.create.asked",
    "fs.write.memory",
    "fs.write.disk",
    "fs.write.disk.after",
    "fs.truncate",
    "fs.flush",
    "fs.release",
    "fs.fsync.data",
    "fs.fsync.sealed",
    "fs.fsyncdir",
    // A small content grows into a working file.
    "spill.created",
    "spill.copied",
    "spill.submitted",
    "spill.committed",
    "disk_write.noted",
    // What was written becomes a record.
    "seal.begin",
    "seal.submitted",
    // Calls on names.
    "fs.make",
    "fs.unlink",
    "fs.rmdir",
    "fs.rename",
    "fs.rename.sealed",
    "fs.setattr",
    "step.submitted",
    // The store.
    "store.commit.begin",
    "store.commit.rows",
    "store.commit.after",
    "store.answer",
    "store.answered",
    "store.sync",
    "store.sync.after",
    "store.checkpoint",
    "store.checkpoint.copy",
    "store.checkpoint.after",
    "content.sync",
    "content.sync.folder",
    "content.sync.after",
    "trash.remove",
    "trash.removed",
    "sums.learned",
    "aside.renamed",
    // Sending.
    "send.loaded",
    "send.noted",
    "send.replied",
    "send.taken",
    "send.single.copied",
    "send.single.hashed",
    "send.single.noted",
    "send.single.replied",
    "send.single.taken",
    // What an answer leads to.
    "settle.read",
    "settle.decided",
    "conflict.folder",
    "conflict.remote",
    "conflict.local",
    "conflict.base",
    "conflict.meta",
    "conflict.synced",
    "conflict.merged",
    "conflict.swapped",
    // What a person decides.
    "resolve.replaced",
    "resolve.content",
    "resolve.submitted",
    "resolve.committed",
    "approve.decided",
    "export.contents",
    "export.manifest",
    "discard.given_up",
    "import.copied",
    "import.taken",
    // Reading.
    "fetch.received",
    "fetch.written",
    "fetch.streamed",
    "fetch.renamed",
    "fetch.taken",
    "evict.begin",
    "evict.dropped",
    // News from the remote.
    "feed.applied",
    "feed.cursor",
    "listing.page",
    "listing.applied",
    "listing.done",
    "recheck.read",
    "recheck.applied",
    // Stopping.
    "stop.sealed",
    "stop.drained",
    "stop.unmounted",
    "stop.closed",
    // The server.
    "server.start.swept",
    "server.request",
    "server.body.created",
    "server.body.written",
    "server.body.synced",
    "server.body.renamed",
    "server.body.durable",
    "server.commit.begin",
    "server.commit.applied",
    "server.commit.after",
    "server.published",
    "server.body.remove",
    "server.reply",
    "server.stop",
];

#[cfg(feature = "failpoints")]
pub use self::armed::{arm, arm_from_environment, errno};

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::POINTS;

    /// Arms what `MOUNTD_FAILPOINTS` says, and from then on what is put into the file that
    /// `MOUNTD_FAILPOINTS_FILE` names; the file is removed when that is done.
    ///
    /// # Errors
    /// When one of them cannot be understood.
    #[allow(clippy::disallowed_methods, reason = "for tests only, and no part of the settings")]
    pub fn arm_from_environment() -> Result<(), String> {
        if let Ok(text) = std::env::var("MOUNTD_FAILPOINTS") {
            arm(&text)?;
        }
        if let Ok(file) = std::env::var("MOUNTD_FAILPOINTS_FILE") {
            std::thread::spawn(move || follow(Path::new(&file)));
        }
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "in a thread of its own, for tests only")]
    fn follow(file: &Path) {
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                if let Err(why) = arm(&text) {
                    tracing::error!(%why, "failpoints");
                    die();
                }
                drop(std::fs::remove_file(file));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Arms points: `NAME=ACTION`, several joined by `;`. An action is `crash` or `crash@N` (at the
    /// Nth time), or one of the crate `fail`, e.g. `return(5)` for an errno, `1*return(28)`, `off`.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn arm(text: &str) -> Result<(), String> {
        for one in text.split(';').map(str::trim).filter(|one| !one.is_empty()) {
            let (name, action) = one.split_once('=').ok_or(format!("{one}: no action"))?;
            if !POINTS.contains(&name) {
                return Err(format!("{name} is no failpoint"));
            }
            match action.strip_prefix("crash") {
                None => fail::cfg(name, action)?,
                Some(at) => {
                    let at = at.strip_prefix('@').unwrap_or("1");
                    let left: usize = at.parse().map_err(|error| format!("{one}: {error}"))?;
                    let left = AtomicUsize::new(left);
                    fail::cfg_callback(name, move || {
                        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                            die();
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Ends this process as `kill -9` does: nothing is flushed, nothing runs any more.
    fn die() -> ! {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL).ok();
        loop {
            std::thread::park();
        }
    }

    /// The errno that a point was told to fail with.
    #[must_use]
    pub fn errno(argument: Option<&str>) -> i32 {
        let eio = nix::errno::Errno::EIO as i32;
        argument.and_then(|text| text.parse().ok()).unwrap_or(eio)
    }
}
