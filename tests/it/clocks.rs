//! Clocks that jump. The daemon runs with a wall clock that the test moves: a library of a few lines
//! stands before the C library's and adds what a shared file says.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use workspaced::Before;

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::wait_sent;
use crate::support::{Mount, TestServer, skip, wait_for};

/// Adds the seconds in the file that `WALL_OFFSET` names to the wall clock.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("WALL_OFFSET"), O_RDONLY);
    if (file < 0) abort();
    offset = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (offset == MAP_FAILED) abort();
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real) begin();
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += *offset;
    return result;
}
"#;

const DAY: i64 = 24 * 60 * 60;

/// A wall clock of somebody else.
struct Wall {
    folder: tempfile::TempDir,
}

impl Wall {
    /// One that is right; `None` where there is no C compiler.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("wall.c");
        fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("wall.so"));
        let made = compiler.arg(&source).arg("-ldl").status();
        match made {
            Ok(made) => assert!(made.success(), "the library cannot be made"),
            Err(error) => {
                skip(&format!("no C compiler: {error}"));
                return None;
            }
        }
        let wall = Self { folder };
        fs::write(wall.file(), [0; 8]).unwrap();
        Some(wall)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// Sets it to what it should be and so many seconds more.
    fn set(&self, seconds: i64) {
        let file = fs::File::options().write(true).open(self.file()).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// A mount that goes by it.
    fn mount(&self, server: &TestServer) -> Mount {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut mount = Mount::builder(&server.source()).prepare();
        mount.add_env("WALL_OFFSET", &text(&self.file()));
        mount.add_env("LD_PRELOAD", &text(&self.folder.path().join("wall.so")));
        mount.start();
        mount
    }
}

/// While the server asks to be left alone, the clock is set a day ahead, two days back, and ahead
/// again: no request comes before its time, none is put off by a jump, and in the end all arrives. So
/// after a restart.
#[test]
fn jumps_of_the_clock_neither_hurry_nor_stall() {
    fuse_or_skip!();
    let Some(wall) = Wall::new() else { return };
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mut mount = wall.mount(&server);
    mount.wait_synced();
    let asked = Duration::from_secs(2);
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&arrivals);
    edge.before(move |request| {
        if request.route != "/fs/bulk" {
            return Before::Pass;
        }
        seen.lock().unwrap().push(Instant::now());
        reply(503, &[("Retry-After", "2")])
    });
    fs::write(mount.at("a"), "written before the jumps").unwrap();
    for (n, offset) in [DAY, -DAY, 0, -DAY].into_iter().enumerate() {
        wait_for("the next attempt", || (arrivals.lock().unwrap().len() > n).then_some(()));
        wall.set(offset);
        fs::write(mount.at(&format!("b{n}")), "written after a jump").unwrap();
        if offset == 0 {
            mount.kill9();
            wall.set(-2 * DAY);
            mount.start();
        }
    }
    wait_for("the last attempt", || (arrivals.lock().unwrap().len() > 4).then_some(()));
    edge.clear();
    wait_sent(&mount);
    assert_eq!(server.files().len(), 5);
    let arrivals = arrivals.lock().unwrap();
    for pair in arrivals.windows(2) {
        let waited = pair[1] - pair[0];
        assert!(waited >= asked, "a request came after {waited:?}");
    }
    assert_eq!(fs::read(mount.at("b0")).unwrap(), b"written after a jump");
    mount.wait_synced();
}

/// A pause with an end lasts no longer than it was to, though the clock is set back meanwhile.
#[test]
fn a_clock_that_is_set_back_makes_no_pause_longer() {
    fuse_or_skip!();
    let Some(wall) = Wall::new() else { return };
    let server = TestServer::new();
    let mut mount = wall.mount(&server);
    mount.wait_synced();
    assert!(mount.ctl(&["pause", "--for", "3s"]).status.success());
    wall.set(-DAY);
    fs::write(mount.at("a"), "a").unwrap();
    wait_for("the end of the pause", || server.get("/a"));
    assert!(mount.ctl(&["pause", "--for", "3s"]).status.success());
    fs::write(mount.at("b"), "b").unwrap();
    mount.kill9();
    wall.set(-3 * DAY);
    mount.start();
    wait_for("the end of the pause after a restart", || server.get("/b"));
}
