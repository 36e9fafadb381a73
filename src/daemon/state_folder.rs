//! The state folder: one daemon at a time, one workspace for ever, nobody else's eyes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountctl::api::ExitCode;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::config::{Config, Source};
use crate::node::Content;
use crate::report::Report;
use crate::store::Loaded;

/// What lies in a state folder beside folders.
const PRIVATE_FILES: [&str; 5] = ["lock", "state.db", "state.db-wal", "state.db-shm", "reserve"];

/// How often a lock is looked at whose holder is dead.
const LOOKS_AT_A_DEAD_ONE: u32 = 250;

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What keeps a state folder ours until it is dropped.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    pub(super) fn of(file: Flock<File>) -> Self {
        Self { _file: file }
    }
}

/// The state must not lie below the mount: the daemon would wait for itself.
pub(super) fn check_places(config: &Config, mountpoint: &Path) -> Result<(), Report> {
    let embedded = match &config.source {
        Source::Folder(folder) => Some(folder),
        Source::Server { .. } => None,
    };
    let token = config.token_file.as_ref();
    for place in [&config.state_dir, &config.files_dir].into_iter().chain(embedded).chain(token) {
        let place = resolved(place);
        if place.starts_with(mountpoint) {
            return Err(Report::new(
                ExitCode::Config,
                "STATE_BELOW_MOUNT",
                format!("{} lies below the mount point {}", place.display(), mountpoint.display()),
            )
            .why("the daemon would have to wait for itself to read its own files")
            .fix("choose another folder with --state-dir, or mount elsewhere"));
        }
    }
    Ok(())
}

/// The path with the links of its existing part followed.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = fs::canonicalize(at) {
            return rest.iter().rev().fold(real, |path: PathBuf, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name.to_owned());
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// Folders with state that are there already must be ours and closed to others, and what lies in
/// them must be what we left: whoever can write there decides what the daemon reads and overwrites.
pub(super) fn check_private(config: &Config) -> Result<(), Report> {
    check_folders(&[&config.state_dir, &config.files_dir])
}

/// The same for any folders.
pub(super) fn check_folders(folders: &[&PathBuf]) -> Result<(), Report> {
    let own = nix::unistd::geteuid().as_raw();
    let report = |path: &Path, what: &str| {
        Report::new(ExitCode::Config, "STATE_FOLDER", format!("{} {what}", path.display()))
            .why("whoever can write there decides what this daemon reads and overwrites")
    };
    for folder in folders {
        let Ok(metadata) = fs::metadata(folder) else { continue };
        if !metadata.is_dir() {
            return Err(report(folder, "is not a folder").fix("choose another with --state-dir"));
        }
        let link = fs::symlink_metadata(folder).map_or(own, |link| link.uid());
        if metadata.uid() != own || (link != own && link != 0) {
            return Err(report(folder, "belongs to another user")
                .fix("choose another with --state-dir, or give it to the user of this daemon"));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(report(folder, "can be changed by other users")
                .fix(format!("look at what is in it, then chmod 700 {}", folder.display())));
        }
        for name in PRIVATE_FILES {
            let path = folder.join(name);
            let Ok(file) = fs::symlink_metadata(&path) else { continue };
            if !file.is_file() || file.uid() != own || file.nlink() != 1 {
                return Err(report(&path, "is not a file of ours alone")
                    .fix("look at what it is, and move it away"));
            }
        }
    }
    Ok(())
}

pub(super) fn lock_state(name: &str, state_dir: &Path) -> Result<StateLock, Report> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| unusable(state_dir, &error))?;
    let mut file = take_lock(file, &path).ok_or_else(|| already_running(name, &path))?;
    drop(file.set_len(0));
    drop(writeln!(file, "{}", std::process::id()));
    Ok(StateLock::of(file))
}

/// Takes the lock. Of a daemon that is dead it is held for a moment by a process that it was just about
/// to start when it was killed: that is waited for.
fn take_lock(mut file: File, path: &Path) -> Option<Flock<File>> {
    for _ in 0..LOOKS_AT_A_DEAD_ONE {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((held, _)) if holder_is_dead(path) => file = held,
            Err(_) => return None,
        }
        #[expect(clippy::disallowed_methods, reason = "nothing tells of it, and nothing runs yet")]
        std::thread::sleep(LOOK);
    }
    None
}

/// Whether the process that wrote its number into the lock is no more.
fn holder_is_dead(path: &Path) -> bool {
    let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let dead = |pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH);
    pid.filter(|pid| *pid > 0).is_some_and(dead)
}

/// Somebody else holds the lock.
pub(super) fn already_running(name: &str, lock: &Path) -> Report {
    let pid = fs::read_to_string(lock).unwrap_or_default();
    Report::new(
        ExitCode::AlreadyRunning,
        "ALREADY_RUNNING",
        format!("mount `{name}` is already served by another mountd"),
    )
    .why(format!("process {} holds {}", pid.trim(), lock.display()))
    .fix(format!("mountctl status -m {name}, mountctl unmount -m {name}, or choose another --name"))
}

/// The state folder cannot be written.
fn unusable(folder: &Path, error: &io::Error) -> Report {
    Report::new(
        ExitCode::Failure,
        "STATE_FOLDER",
        format!("state folder {}: {error}", folder.display()),
    )
    .fix("make it writable, or choose another with --state-dir")
}

/// What a state folder belongs to.
pub(super) fn identity(config: &Config) -> [(&'static str, String); 2] {
    [("source", config.source.text()), ("remote_path", config.remote_path.as_str().to_owned())]
}

pub(super) fn check_identity(config: &Config, loaded: &Loaded) -> Result<(), Report> {
    super::recover::check_known(config, loaded)?;
    let meta = &loaded.meta;
    for (key, wanted) in identity(config) {
        if let Some(found) = meta.get(key)
            && *found != wanted
        {
            return Err(Report::new(
                ExitCode::Config,
                "STATE_OF_ANOTHER_WORKSPACE",
                format!("the state of mount `{}` belongs to another workspace", config.name),
            )
            .why(format!("{} was made for {found}, not for {wanted}", config.state_dir.display()))
            .fix("choose another --name, or mount what it was made for"));
        }
    }
    check_files_place(config, loaded)
}

/// Working files that are left behind elsewhere would be taken for lost.
fn check_files_place(config: &Config, loaded: &Loaded) -> Result<(), Report> {
    let Some(before) = loaded.meta.get("files_dir").map(Path::new) else { return Ok(()) };
    let mut named = loaded.nodes.iter().filter_map(|node| match node.body()?.content {
        Content::File(file) => Some(file.0.to_string()),
        _ => None,
    });
    let left_behind =
        |name: String| before.join(&name).exists() && !config.files_dir.join(&name).exists();
    if before == config.files_dir || !named.any(left_behind) {
        return Ok(());
    }
    let root = before.parent().unwrap_or(before);
    let fix = if before == config.state_dir.join("files") {
        "leave out --cache-dir".to_owned()
    } else {
        format!("--cache-dir {}", root.display())
    };
    Err(Report::new(
        ExitCode::Config,
        "FILES_ELSEWHERE",
        format!(
            "the working files of mount `{}` are not in {}",
            config.name,
            config.files_dir.display()
        ),
    )
    .why(format!("they are in {}, unsent bytes among them", before.display()))
    .fix(format!("{fix}, or move them here first")))
}

pub(super) fn make_private(folder: &Path) -> Result<(), Report> {
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        // What is synced in a folder is of no use when the folder's name is lost.
        for above in folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            match File::open(above) {
                Ok(above) => above.sync_all()?,
                // Not ours to look at, so not made by us.
                Err(_) => break,
            }
        }
        Ok(())
    };
    make().map_err(|error| unusable(folder, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lock of a daemon that lives is not waited for; that of a dead one is, until who holds it for a
    /// moment longer is gone.
    #[test]
    fn a_lock_that_outlives_its_daemon_for_a_moment_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock_state("m", folder.path()).unwrap();
        lock_state("m", folder.path()).unwrap_err();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        fs::write(folder.path().join("lock"), format!("{dead}\n")).unwrap();
        let (path, lock) = (folder.path().to_owned(), folder.path().join("lock"));
        let other = std::thread::spawn(move || lock_state("m", &path).is_ok());
        let is_lock = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == lock);
        let opened = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.map(is_lock).filter(|is_lock| *is_lock).count()
        };
        while opened() < 2 && !other.is_finished() {
            std::thread::yield_now();
        }
        drop(held);
        assert!(other.join().unwrap());
        let text = fs::read_to_string(folder.path().join("lock")).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
    }
}
