//! A process of its own that sees a killed daemon to its end.
//!
//! A killed daemon may have a thread inside the kernel that nothing can interrupt: it is telling what
//! changed in a folder, and waits for a call that holds the folder, which waits for an answer of the daemon.
//! None of them would ever end, and no other daemon could take the state over. This process hears of the
//! daemon's end from the kernel, and when there are threads left of it has the kernel give up the mount's
//! connection: who waits for an answer gets an error, and all go their way. The mount stays there, dead,
//! so that nobody writes into the folder below it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

/// The word on the command line.
pub const COMMAND: &str = "see-to-the-end";

/// Where the kernel shows its connections to file systems.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How often what is left of a daemon is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How many looks the threads of a killed daemon have to end by themselves.
const LOOKS_TO_END: u32 = 10;

/// How many looks a daemon has to show that it ends. The kernel also reports the end of the one
/// thread that started us.
const LOOKS_TO_DIE: u32 = 250;

/// The process, as long as the daemon needs it.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Starts it for what was just mounted at `mountpoint`. To be called by the thread that ends last.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(mountpoint: &Path) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg(std::process::id().to_string()).arg(mountpoint);
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self)
    }
}

/// Once the mount is gone there is nothing to guard.
impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What is left of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It was killed, and has threads that do not end.
    Threads,
    Alive,
}

/// Waits for the end of `daemon`, which started us, and has its mount's connection given up if the
/// daemon cannot end otherwise.
///
/// # Errors
/// When the mount is not found, or the kernel refuses.
pub fn guard(daemon: i32, mountpoint: &Path) -> io::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.thread_block()?;
    set_pdeathsig(Signal::SIGTERM)?;
    let device = device_of(&fs::read_to_string("/proc/self/mountinfo")?, mountpoint)
        .ok_or(io::ErrorKind::NotFound)?;
    // It may have ended before we asked to be told.
    let mut is_told = getppid() != Pid::from_raw(daemon);
    loop {
        if !is_told {
            ends.wait()?;
        }
        is_told = false;
        match what_is_left(daemon) {
            Left::Nothing => return Ok(()),
            Left::Threads => return give_up(&device),
            Left::Alive => {}
        }
    }
}

/// What is left of a process of which the end was reported, when it had its time to end.
fn what_is_left(process: i32) -> Left {
    let mut looks = 0;
    loop {
        let left = look(process);
        looks += 1;
        let limit = if left == Left::Threads { LOOKS_TO_END } else { LOOKS_TO_DIE };
        if left == Left::Nothing || looks >= limit {
            return left;
        }
        #[expect(clippy::disallowed_methods, reason = "threads end, and nothing tells of it")]
        std::thread::sleep(LOOK);
    }
}

fn look(process: i32) -> Left {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let Ok(stat) = fs::read_to_string(folder.join("stat")) else { return Left::Nothing };
    let threads = fs::read_dir(folder.join("task")).map_or(0, Iterator::count);
    left_of(&stat, threads)
}

/// What `/proc/PID/stat` and the number of threads say.
fn left_of(stat: &str, threads: usize) -> Left {
    let is_dead = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    match (is_dead, threads) {
        (false, _) => Left::Alive,
        (true, 0 | 1) => Left::Nothing,
        (true, _) => Left::Threads,
    }
}

/// The number of the device that is mounted at a place: the number of its connection.
fn device_of(mountinfo: &str, mountpoint: &Path) -> Option<String> {
    let device = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (_, minor) = fields.next()?.split_once(':')?;
        let place = fields.nth(1)?;
        (crate::fuse::mountpoint::unescape(place) == mountpoint.to_str()?).then(|| minor.to_owned())
    };
    mountinfo.lines().filter_map(device).next_back()
}

/// Has every call to the mount answered with an error. Where the kernel's list of connections is not
/// mounted, it is for us alone; that needs the rights to do so.
fn give_up(device: &str) -> io::Result<()> {
    let abort = Path::new(CONNECTIONS).join(device).join("abort");
    if !abort.exists() {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("fusectl"), CONNECTIONS, Some("fusectl"), MsFlags::empty(), none)?;
    }
    fs::write(abort, "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_process_is_told_apart() {
        assert_eq!(left_of("7 (a) b) S 1 7", 3), Left::Alive);
        assert_eq!(left_of("7 (mountd) Z 1 7", 1), Left::Nothing);
        assert_eq!(left_of("7 (mountd) Z 1 7", 2), Left::Threads);
        assert_eq!(look(std::process::id().cast_signed()), Left::Alive);
        let mut child = Command::new("true").spawn().unwrap();
        let id = child.id().cast_signed();
        assert_eq!(what_is_left(id), Left::Nothing);
        child.wait().unwrap();
        assert_eq!(look(id), Left::Nothing);
    }

    #[test]
    fn the_device_is_that_of_the_last_mount_at_the_place() {
        let table = "22 1 0:40 / /mnt/a\\040b rw - fuse mountd:m rw\n\
                     23 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     24 1 0:41 / /mnt/a\\040b rw - fuse mountd:m rw\n";
        assert_eq!(device_of(table, Path::new("/mnt/a b")).as_deref(), Some("41"));
        assert_eq!(device_of(table, Path::new("/mnt/a")), None);
    }
}
