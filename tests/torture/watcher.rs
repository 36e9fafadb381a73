//! Nothing of a run outlives its harness: not its processes, not its mounts, not its folder.
//!
//! A watcher, a process of its own, clears away when the harness dies in whatever way (Ctrl-C, `kill -9`). What
//! neither was there to clear away is found by the next run: a run's folder has the harness's process id in
//! its name.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const SWEEP: &str = include_str!("sweep.sh");

/// What the names of folders begin with.
const PREFIX: &str = "mountd-torture-";

/// Clears away when the harness dies.
pub struct Watcher(Child);

/// A folder for a run.
pub fn folder() -> TempDir {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().unwrap()
}

impl Watcher {
    /// Watches over a folder.
    pub fn over(folder: &Path) -> Self {
        // A group of its own: what ends the harness from a terminal does not end it, too.
        Self(sweep(folder).stdin(Stdio::piped()).process_group(0).spawn().unwrap())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            drop(input.write_all(b"over\n"));
        }
        drop(self.0.wait());
    }
}

fn sweep(folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SWEEP, "sweep"]).arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Clears away what dead runs left.
pub fn sweep_the_dead() {
    let Ok(found) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for found in found.flatten() {
        let name = found.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let owner = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        let is_dead = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
        if owner.is_some_and(is_dead) {
            eprintln!("what is left of a dead run goes: {}", found.path().display());
            drop(sweep(&found.path()).stdin(Stdio::null()).status());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::time::Duration;

    use super::*;
    use crate::run::wait;
    use crate::world::{World, alone};

    const VICTIM: &str = "TORTURE_VICTIM";

    /// Not a test: what the next one kills.
    #[test]
    fn a_victim() {
        if std::env::var_os(VICTIM).is_none() || !crate::can_mount() {
            return;
        }
        let world = World::start(false, 0);
        println!("folder {}", world.folder().display());
        std::thread::sleep(Duration::from_secs(60));
    }

    fn is_left(folder: &str) -> bool {
        let below = format!("{folder}/");
        let in_use = |process: std::fs::DirEntry| {
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(&below)
        };
        Path::new(folder).exists()
            || std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&below)
            || std::fs::read_dir("/proc").unwrap().flatten().any(in_use)
    }

    /// A harness that is killed leaves no process, no mount and no folder.
    #[test]
    fn a_killed_harness_leaves_nothing() {
        let alone = alone();
        let Ok(_alone) = alone.lock() else { return };
        if !crate::can_mount() {
            return;
        }
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "watcher::tests::a_victim", "--nocapture"])
            .env(VICTIM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(victim.stdout.take().unwrap()).lines();
        let folder = told
            .map_while(Result::ok)
            .find_map(|line| line.split_once("folder ").map(|(_, folder)| folder.to_owned()));
        let folder = folder.expect("the victim says where it works");
        assert!(is_left(&folder), "it works there");
        victim.kill().unwrap();
        victim.wait().unwrap();
        let gone = wait(Duration::from_secs(30), || !is_left(&folder));
        assert!(gone, "something of {folder} is left");
    }
}
