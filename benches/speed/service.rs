//! What has no floor: how soon others have a change, listings, memory, the start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::places::{Bench, Mounted, wait};
use crate::report::{Bound, percentile};
use crate::small::{body, write_files};
use crate::tree::walk;
use crate::{Better, Scale};

type Measure = fn(&Bench, Scale) -> Vec<Bound>;

pub const MEASURES: &[(&str, Measure)] = &[
    ("arrival", arrival),
    ("visibility", visibility),
    ("start and listing", listing),
    ("backlog", backlog),
    ("one GiB up", upload),
    ("idle", idle),
];

const MIB: f64 = 1024.0 * 1024.0;

fn most(metric: &'static str, value: f64, goal: f64) -> Bound {
    Bound { metric, value, goal: Some(goal), better: Better::Lower }
}

fn least(metric: &'static str, value: f64, goal: f64) -> Bound {
    Bound { metric, value, goal: Some(goal), better: Better::Higher }
}

/// The server has everything soon after the last close, in few requests.
fn arrival(bench: &Bench, scale: Scale) -> Vec<Bound> {
    let mounted = Mounted::new(bench);
    bench.log.reset();
    write_files(&mounted.mnt(), scale.files, false);
    let ended = Instant::now();
    // `write_files` reads everything back; what arrives meanwhile counts as arrived.
    wait("the server has everything", Duration::from_millis(2), || {
        bench.stored(&mounted.workspace) == scale.files as u64
    });
    let all = ended.elapsed().as_secs_f64();
    let bulk = bench.log.count("POST", "/fs/bulk") as f64;
    let bytes: usize = (0..scale.files).map(|number| body(number).len()).sum();
    let cap = 1024.0 * 1024.0;
    let requests = (bytes as f64 / cap).ceil() + 20.0;
    vec![most("seconds until the server has all", all, 1.0), most("bulk requests", bulk, requests)]
}

/// From `close` in one mount to the new bytes in another.
fn visibility(bench: &Bench, _scale: Scale) -> Vec<Bound> {
    let a = Mounted::new(bench);
    let b = Mounted::of(bench, bench.fresh("home"), a.workspace.clone());
    let (from, to) = (a.mnt().join("seen"), b.mnt().join("seen"));
    let mut times = Vec::new();
    for number in 0..200_u32 {
        let content = format!("version {number}");
        fs::write(&from, &content).unwrap();
        let closed = Instant::now();
        wait("the other mount shows it", Duration::from_micros(500), || {
            fs::read(&to).is_ok_and(|found| found == content.as_bytes())
        });
        times.push(closed.elapsed().as_secs_f64() * 1e3);
    }
    vec![
        most("ms until another mount shows it, p50", percentile(&mut times, 0.5), 40.0),
        most("ms until another mount shows it, p99", percentile(&mut times, 0.99), 200.0),
    ]
}

/// Makes a workspace of `count` files at the server.
fn fill(bench: &Bench, workspace: &str, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(500) {
        let files: Vec<_> = part
            .iter()
            .map(|number| {
                json!({
                    "path": format!("/{:03}/{number}", number / 200),
                    "content": format!("content {number}\n"),
                    "contentType": "text/plain",
                })
            })
            .collect();
        bench.post(workspace, "/fs/bulk", &json!({ "files": files }));
    }
}

fn requests(bench: &Bench) -> f64 {
    ["/fs/tree", "/fs/query", "/fs/export", "/fs/events", "/fs/file", "/fs/raw"]
        .iter()
        .map(|route| bench.log.count("GET", route) as f64)
        .sum()
}

/// The start of a mount, and its first listing of a large workspace.
fn listing(bench: &Bench, scale: Scale) -> Vec<Bound> {
    let (home, workspace) = (bench.fresh("home"), bench.workspace());
    fill(bench, &workspace, scale.workspace);
    bench.log.reset();
    let began = Instant::now();
    let fresh = Mounted::of(bench, home, workspace.clone());
    let mounted = began.elapsed().as_secs_f64() * 1e3;
    wait("the whole listing", Duration::from_millis(10), || {
        walk(&fresh.mnt()).0 == scale.workspace
    });
    let first = began.elapsed().as_secs_f64();
    let asked = requests(bench);
    let memory = fresh.resident() / MIB;
    let home = fresh.stop();
    let began = Instant::now();
    let known = Mounted::of(bench, home, workspace);
    let again = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!(walk(&known.mnt()).0, scale.workspace);
    let second = began.elapsed().as_secs_f64();
    vec![
        most("ms from start to mounted, fresh", mounted, 50.0),
        most("s to list all, fresh", first, 3.0),
        most("requests of a fresh mount", asked, 5.0 + scale.workspace as f64 / 1000.0),
        most("ms from start to mounted, known", again, 50.0),
        most("s to list all, known", second, 1.0),
        most("MiB resident", memory, 400.0),
    ]
}

fn mountctl(bench: &Bench, mounted: &Mounted, command: &str) {
    let env = mountctl::env::Env {
        uid: nix::unistd::geteuid().as_raw(),
        home: Some(mounted.home.clone()),
        xdg_runtime_dir: Some(mounted.home.join("run")),
        xdg_state_home: Some(mounted.home.join("state")),
        ..Default::default()
    };
    let mut out = mountctl::out::Out::new(
        Box::new(std::io::sink()),
        Box::new(std::io::stderr()),
        (false, false),
    );
    let args = ["mountctl", command].map(OsString::from);
    let ended = bench.runtime.block_on(mountctl::run(args, &env, &mut out));
    assert!(ended == mountctl::api::ExitCode::Ok, "mountctl {command}: {ended:?}");
}

/// A backlog that was written while dispatch was paused.
fn backlog(bench: &Bench, scale: Scale) -> Vec<Bound> {
    let mounted = Mounted::new(bench);
    mountctl(bench, &mounted, "pause");
    for number in 0..scale.workspace {
        let parent = mounted.mnt().join(format!("{:03}", number / 200));
        if number % 200 == 0 {
            fs::create_dir(&parent).unwrap();
        }
        fs::write(parent.join(number.to_string()), b"a small file\n").unwrap();
    }
    let began = Instant::now();
    mountctl(bench, &mounted, "resume");
    wait("the backlog is sent", Duration::from_millis(20), || {
        bench.stored(&mounted.workspace) == scale.workspace as u64
    });
    let rate = scale.workspace as f64 / began.elapsed().as_secs_f64();
    vec![least("records sent a second", rate, 10_000.0)]
}

/// A big file is written and uploaded in bounded memory.
fn upload(bench: &Bench, scale: Scale) -> Vec<Bound> {
    let mounted = Mounted::new(bench);
    let before = mounted.resident();
    let block = vec![42; 1 << 20];
    let mut file = File::create(mounted.mnt().join("big")).unwrap();
    for _ in 0..scale.big * 2 / block.len() {
        file.write_all(&block).unwrap();
    }
    drop(file);
    mountctl(bench, &mounted, "flush");
    vec![most("MiB more at the peak", (mounted.resident_peak() - before) / MIB, 64.0)]
}

/// A daemon with nothing to do.
fn idle(bench: &Bench, _scale: Scale) -> Vec<Bound> {
    let mounted = Mounted::new(bench);
    std::thread::sleep(Duration::from_secs(2));
    let before = mounted.processor_time();
    let seconds = 5.0;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let used = (mounted.processor_time() - before) / seconds * 100.0;
    vec![
        most("percent of a processor", used, 0.5),
        most("MiB resident", mounted.resident() / MIB, 20.0),
    ]
}
