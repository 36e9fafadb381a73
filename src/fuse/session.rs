//! The session: mounts, runs fuser's event loops, tells when the kernel let go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, MountOption, Session, SessionACL};

use super::FuseFs;
use super::invalidation::Invalidator;
use super::mountpoint::{SOURCE_PREFIX, detach};
use super::waking::Waking;
use crate::fs::Fs;

/// What can be chosen about the kernel side of a mount.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Shown as the source in the mount table.
    pub name: String,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// No writes.
    pub read_only: bool,
    /// Event loops.
    pub threads: usize,
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    invalidator: Arc<Invalidator>,
    waking: Arc<Waking>,
    loops: JoinHandle<io::Result<()>>,
}

/// Why mounting failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The machine has no usable FUSE.
    #[error("FUSE is not available: {0}")]
    Unavailable(String),
    /// The kernel refused.
    #[error("mounting at {path}: {error}")]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Mounted {
    /// Mounts `fs` at `path`, which was prepared, and calls `ended` when the kernel let go.
    ///
    /// # Errors
    /// When FUSE is missing or the kernel refuses.
    pub fn mount(
        fs: Arc<Fs>,
        path: &Path,
        options: &SessionOptions,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, SessionError> {
        check_available()?;
        let refused = |error| SessionError::Refused { path: path.to_owned(), error };
        let mut mount_options = vec![
            MountOption::FSName(format!("{SOURCE_PREFIX}{}", options.name)),
            MountOption::Subtype("mountd".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        if options.read_only {
            mount_options.push(MountOption::RO);
        }
        let mut config = Config::default();
        config.mount_options = mount_options;
        config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        // Several loops with a descriptor each exist on Linux only.
        config.n_threads = Some(if cfg!(target_os = "linux") { options.threads } else { 1 });
        config.clone_fd = cfg!(target_os = "linux");
        let shared = Arc::clone(fs.shared());
        let waking = Waking::new(&fs, path);
        let session =
            Session::new(FuseFs::new(fs, Arc::clone(&waking)), path, &config).map_err(refused)?;
        waking.start(session.notifier()).map_err(refused)?;
        let (notifier, mount) = (session.notifier(), Arc::downgrade(&shared));
        let invalidator =
            Invalidator::start(notifier, mount, Arc::clone(&waking)).map_err(refused)?;
        shared.set_invalidate(Arc::clone(&invalidator) as _);
        let loops = std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                let result = session.run();
                ended();
                result
            })
            .map_err(refused)?;
        Ok(Self { path: path.to_owned(), invalidator, waking, loops })
    }

    /// Gives the mount point back. Files that are still open there keep the kernel side alive
    /// until this process ends; nobody is waited for.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn unmount(self) -> io::Result<()> {
        self.invalidator.disarm();
        self.waking.stop();
        detach(&self.path)?;
        if self.loops.is_finished()
            && let Ok(Err(error)) = self.loops.join()
        {
            tracing::debug!(%error, "event loops");
        }
        Ok(())
    }
}

/// Whether this process may use FUSE, with what to do where it may not.
///
/// # Errors
/// When it may not.
pub fn check_available() -> Result<(), SessionError> {
    let unavailable = |text: String| Err(SessionError::Unavailable(text));
    let device = Path::new("/dev/fuse");
    match std::fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return unavailable(
                "/dev/fuse does not exist; load the kernel module (modprobe fuse), or give the \
                 container the device (--device /dev/fuse --cap-add SYS_ADMIN)"
                    .to_owned(),
            );
        }
        Err(error) => {
            return unavailable(format!(
                "/dev/fuse cannot be opened ({error}); make it usable for this user (chmod 666 \
                 /dev/fuse as root) or run as root"
            ));
        }
    }
    if !nix::unistd::geteuid().is_root() && !on_path("fusermount3") {
        return unavailable(
            "fusermount3 is not installed; install the fuse3 package (apt install fuse3, dnf \
             install fuse3) or run as root"
                .to_owned(),
        );
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}
