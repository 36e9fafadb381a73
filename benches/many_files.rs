//! What agents do most: many small files, written and closed as fast as possible.
//!
//! Writes files of 1 to 8 KiB from 16 threads into a mount and, in the same run, onto the disk that
//! holds the mount's state, in alternating rounds. Prints files per second, the time of one
//! open + write + close, the time until the server has everything, and how many requests that
//! took. Every file is compared on the server afterwards. Needs FUSE; run it with
//!
//! ```text
//! cargo bench --bench many_files [-- --quick] [-- --files N]
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs,
    clippy::needless_pass_by_value,
    reason = "a program that measures, prints and may panic"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use workspaced::{Auth, Config, RequestLog, Server};

const TOKEN: &str = "bench";
const WRITERS: usize = 16;
const FOLDERS: usize = 20;

fn main() {
    if let Err(error) = mountd::fuse::session::check_available() {
        eprintln!("SKIPPED many_files: {error}");
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let files = args
        .iter()
        .position(|arg| arg == "--files")
        .and_then(|at| args.get(at + 1)?.parse().ok())
        .unwrap_or(if quick { 500 } else { 10_000 });
    let rounds = if quick { 1 } else { 3 };

    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (address, log) = serve(&runtime, &folder.path().join("server"));
    let mut bench = Bench { folder: folder.path(), address, log, runtime: &runtime };
    println!("{files} files of 1 to 8 KiB, {WRITERS} writers, {rounds} round(s), medians");
    let mut mounted = Vec::new();
    let mut native = Vec::new();
    for round in 0..rounds {
        native.push(write_files(&bench.folder.join(format!("native{round}")), files));
        mounted.push(bench.round(round, files));
    }
    let mount = Summary::of(mounted.iter().map(|round| &round.write));
    let disk = Summary::of(native.iter());
    mount.print("mount");
    disk.print("native");
    println!(
        "ratio    files/s {:.2}   p50 {:.2}   p99 {:.2}   (mount / native)",
        mount.per_second / disk.per_second,
        mount.p50.as_secs_f64() / disk.p50.as_secs_f64(),
        mount.p99.as_secs_f64() / disk.p99.as_secs_f64(),
    );
    let drained = median(mounted.iter().map(|round| round.drained));
    let requests = median(mounted.iter().map(|round| round.requests));
    println!("server   all there {drained:?} after the last close, {requests} bulk requests");
    let others: u64 = mounted.iter().map(|round| round.others).sum();
    println!("         {others} requests for single files");
}

struct Bench<'a> {
    folder: &'a Path,
    address: std::net::SocketAddr,
    log: RequestLog,
    runtime: &'a tokio::runtime::Runtime,
}

/// One round on a fresh mount of a fresh workspace.
struct Round {
    write: Times,
    drained: Duration,
    requests: u64,
    others: u64,
}

impl Bench<'_> {
    fn round(&mut self, round: usize, files: usize) -> Round {
        let workspace = format!("ws{round}");
        let home = self.folder.join(format!("home{round}"));
        fs::create_dir_all(home.join("mnt")).unwrap();
        fs::create_dir_all(home.join("run")).unwrap();
        let mut daemon = self.mount(&home, &workspace);
        self.log.reset();
        let write = write_files(&home.join("mnt/w"), files);
        let ended = Instant::now();
        wait("the server has everything", || self.stored(&workspace) == files as u64);
        let drained = ended.elapsed();
        let requests = self.log.count("POST", "/fs/bulk");
        let single =
            |method| self.log.count(method, "/fs/file") + self.log.count(method, "/fs/raw");
        let others = single("PUT") + single("GET") + single("DELETE");
        self.verify(&home.join("mnt/w"), &workspace);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        Command::new("umount").arg("-l").arg(home.join("mnt")).status().unwrap();
        Round { write, drained, requests, others }
    }

    fn mount(&self, home: &Path, workspace: &str) -> Child {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_mountd"))
            .arg("mount")
            .arg(format!("http://{}/{workspace}", self.address))
            .arg(home.join("mnt"))
            .env("MOUNTD_TOKEN", TOKEN)
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("XDG_STATE_HOME", home.join("state"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait("the mount", || {
            assert!(daemon.try_wait().unwrap().is_none(), "mountd ended");
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.contains(&home.join("mnt").display().to_string())
        });
        daemon
    }

    fn get(&self, workspace: &str, route: &str) -> serde_json::Value {
        let url = format!("http://{}/v1/workspaces/{workspace}{route}", self.address);
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.get(url).bearer_auth(TOKEN).header("X-Correlation-Id", "bench");
            request.send().await.unwrap().json().await.unwrap()
        })
    }

    fn stored(&self, workspace: &str) -> u64 {
        self.get(workspace, "/fs/tree?depth=1")["totalFiles"].as_u64().unwrap_or(0)
    }

    fn verify(&self, written: &Path, workspace: &str) {
        let files = self.get(workspace, "/fs/export?format=json");
        for file in files.as_array().unwrap() {
            let path = file["path"].as_str().unwrap();
            let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
            let content = file["content"].as_str().unwrap();
            assert_eq!(content.as_bytes(), body(number), "{path} on the server");
            let local = written.join(path.strip_prefix("/w/").unwrap());
            assert_eq!(fs::read(local).unwrap(), body(number), "{path} in the mount");
        }
    }
}

fn serve(runtime: &tokio::runtime::Runtime, storage: &Path) -> (std::net::SocketAddr, RequestLog) {
    fs::create_dir_all(storage).unwrap();
    let config = Config::new(storage, Auth::Token(TOKEN.to_owned()));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = runtime.block_on(Server::bind(config, address)).unwrap();
    let found = (server.local_addr(), server.requests());
    runtime.spawn(server.run(std::future::pending()));
    found
}

/// The content of file `number`: 1 to 8 KiB of text that differs from file to file.
fn body(number: usize) -> Vec<u8> {
    let line = format!("file {number}: the quick brown fox jumps over the lazy dog\n");
    let size = 1024 + (number * 7919) % (7 * 1024);
    line.bytes().cycle().take(size).collect()
}

/// How long each open + write + close took, and all of them together.
struct Times {
    each: Vec<Duration>,
    all: Duration,
}

fn write_files(folder: &Path, files: usize) -> Times {
    for at in 0..FOLDERS {
        fs::create_dir_all(folder.join(at.to_string())).unwrap();
    }
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let each = std::thread::scope(|scope| {
        let write = || {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= files {
                    return times;
                }
                let path = folder.join((number % FOLDERS).to_string()).join(number.to_string());
                let content = body(number);
                let began = Instant::now();
                let mut file = fs::File::create(path).unwrap();
                file.write_all(&content).unwrap();
                drop(file);
                times.push(began.elapsed());
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    Times { each, all: began.elapsed() }
}

struct Summary {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

impl Summary {
    fn of<'a>(rounds: impl Iterator<Item = &'a Times> + Clone) -> Self {
        let rate = |times: &Times| times.each.len() as f64 / times.all.as_secs_f64();
        let mut rates: Vec<f64> = rounds.clone().map(rate).collect();
        rates.sort_by(f64::total_cmp);
        let at = |share: f64| {
            median(rounds.clone().map(|times| {
                let mut each = times.each.clone();
                each.sort();
                each[((each.len() - 1) as f64 * share) as usize]
            }))
        };
        Self { per_second: rates[rates.len() / 2], p50: at(0.5), p99: at(0.99) }
    }

    fn print(&self, name: &str) {
        println!(
            "{name:8} {:7.0} files/s   p50 {:?}   p99 {:?}",
            self.per_second, self.p50, self.p99
        );
    }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values[values.len() / 2]
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
