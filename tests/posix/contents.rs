//! `fsx`: one file, written, read, mapped, cut and extended at random, compared after each step with
//! what it must hold.

use std::path::Path;
use std::process::Command;

use crate::support::{Mount, TestServer, seed};
use crate::{fuse_or_skip, tool};

/// Calls of a run.
const CALLS: u32 = 1_500;

/// Seeds that are run each time; one more is drawn.
const SEEDS: [u64; 2] = [1, 2];

/// What a run does.
struct Run {
    name: &'static str,
    /// Largest file, in bytes.
    flen: u64,
    /// Reads and writes through mappings.
    mapped: bool,
}

const RUNS: [Run; 4] = [
    // On both sides of the border between memory and disk.
    Run { name: "across", flen: 150_000, mapped: false },
    Run { name: "across-mapped", flen: 150_000, mapped: true },
    Run { name: "small-mapped", flen: 60_000, mapped: true },
    Run { name: "large-mapped", flen: 3_000_000, mapped: true },
];

impl Run {
    fn config(&self) -> String {
        let mapped = if self.mapped { 10 } else { 0 };
        let Self { flen, .. } = self;
        let max = flen / 3;
        format!(
            "flen = {flen}\n[opsize]\nmax = {max}\nmin = 0\nalign = 1\n[weights]\n\
             close_open = 1\nread = 10\nwrite = 10\nmapread = {mapped}\nmapwrite = {mapped}\n\
             invalidate = 1\ntruncate = 5\nfsync = 0.1\nfdatasync = 0.1\nposix_fallocate = 1\n\
             punch_hole = 2\nsendfile = 1\nposix_fadvise = 1\ncopy_file_range = 2\n"
        )
    }
}

/// Bytes are what was written, in every way to write and to read them; the server gets the same, and
/// a killed daemon comes back with them.
#[test]
fn bytes_are_what_was_written() {
    fuse_or_skip!();
    let Some(program) = tool("fsx") else { return };
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    let seeds: Vec<u64> = SEEDS.into_iter().chain([seed()]).collect();
    let mut names = Vec::new();
    for run in &RUNS {
        for seed in &seeds {
            let name = format!("{}-{seed}", run.name);
            exercise(&program, &mount, run, *seed, &name);
            names.push(name);
        }
    }
    let contents: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(mount.at(name)).unwrap()).collect();
    mount.flush();
    let files = server.files();
    mount.kill9();
    mount.start();
    for (name, content) in names.iter().zip(&contents) {
        assert!(files[&format!("/{name}")] == *content, "{name} at the server");
        assert!(std::fs::read(mount.at(name)).unwrap() == *content, "{name} after a kill");
    }
}

fn exercise(program: &Path, mount: &Mount, run: &Run, seed: u64, name: &str) {
    let config = mount.outside().join(format!("{name}.toml"));
    std::fs::write(&config, run.config()).unwrap();
    let output = Command::new(program)
        .args(["-q", "-S", &seed.to_string(), "-N", &CALLS.to_string(), "-P"])
        .arg(mount.outside())
        .arg("-f")
        .arg(&config)
        .arg(mount.at(name))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "fsx {name} ({}), seed {seed}:\n{}{}",
        run.config(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
