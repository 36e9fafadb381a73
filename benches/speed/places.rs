//! Where workloads run: the mount, the floor, the native disk.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use workspaced::{Auth, Config, RequestLog, Server};

const TOKEN: &str = "bench";

/// Event loops of the floor.
const THREADS: &str = "2";

/// How a floor keeps what is written.
#[derive(Debug, Clone, Copy)]
pub enum Floor {
    /// In memory, each closed body appended to a log.
    Log,
    /// The same, synced before a close or fsync returns.
    SyncedLog,
    /// In a folder, with kernel passthrough.
    Pass,
}

/// What all places share: a folder, a server, a floor.
pub struct Bench {
    folder: tempfile::TempDir,
    floor: Option<PathBuf>,
    address: SocketAddr,
    pub log: RequestLog,
    pub runtime: tokio::runtime::Runtime,
    next: AtomicUsize,
}

impl Bench {
    pub fn start(floor: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let storage = folder.path().join("server");
        fs::create_dir_all(&storage).unwrap();
        let config = Config::new(&storage, Auth::Token(TOKEN.to_owned()));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = runtime.block_on(Server::bind(config, address)).unwrap();
        let (address, log) = (server.local_addr(), server.requests());
        runtime.spawn(server.run(std::future::pending()));
        Self { folder, floor, address, log, runtime, next: AtomicUsize::new(0) }
    }

    /// A new folder below the bench's own.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(format!("{name}-{number}"));
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// The name of a workspace that was never used.
    pub fn workspace(&self) -> String {
        format!("ws{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub fn url(&self, workspace: &str, route: &str) -> String {
        format!("http://{}/v1/workspaces/{workspace}{route}", self.address)
    }

    pub fn get(&self, workspace: &str, route: &str) -> serde_json::Value {
        let url = self.url(workspace, route);
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.get(url).bearer_auth(TOKEN).header("X-Correlation-Id", "bench");
            request.send().await.unwrap().json().await.unwrap()
        })
    }

    pub fn post(&self, workspace: &str, route: &str, body: &serde_json::Value) {
        let url = self.url(workspace, route);
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.post(url).bearer_auth(TOKEN).header("X-Correlation-Id", "bench");
            let reply = request.json(body).send().await.unwrap();
            assert!(reply.status().is_success(), "{reply:?}");
        });
    }

    /// How many files the server has.
    pub fn stored(&self, workspace: &str) -> u64 {
        self.get(workspace, "/fs/tree?depth=1")["totalFiles"].as_u64().unwrap_or(0)
    }
}

/// A daemon with its mount.
pub struct Mounted {
    pub daemon: Child,
    pub home: PathBuf,
    pub workspace: String,
}

impl Mounted {
    /// Mounts a new workspace on a new machine.
    pub fn new(bench: &Bench) -> Self {
        Self::of(bench, bench.fresh("home"), bench.workspace())
    }

    /// Mounts a workspace with the state in `home`.
    pub fn of(bench: &Bench, home: PathBuf, workspace: String) -> Self {
        for folder in ["mnt", "run"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        let daemon = Command::new(env!("CARGO_BIN_EXE_mountd"))
            .arg("mount")
            .arg(format!("http://{}/{workspace}", bench.address))
            .arg(home.join("mnt"))
            .env("MOUNTD_TOKEN", TOKEN)
            .env("HOME", &home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env_remove("XDG_CONFIG_HOME")
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut mounted = Self { daemon, home, workspace };
        let mnt = mounted.mnt();
        let daemon = &mut mounted.daemon;
        wait("the mount", Duration::from_millis(1), || {
            assert!(daemon.try_wait().unwrap().is_none(), "mountd ended");
            is_mounted(&mnt)
        });
        mounted
    }

    pub fn mnt(&self) -> PathBuf {
        self.home.join("mnt")
    }

    /// Bytes of memory that are resident.
    pub fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024.0
    }

    /// The most bytes of memory that were resident.
    pub fn resident_peak(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024.0
    }

    /// Seconds of processor time used so far.
    pub fn processor_time(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, in ticks of 10 ms.
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Stops the daemon; the state stays.
    pub fn stop(self) -> PathBuf {
        self.home.clone()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&mut self.daemon, &self.home.join("mnt"));
    }
}

/// One of the places that are compared.
pub enum Place {
    Native(PathBuf),
    Mount(Mounted),
    Floor { daemon: Child, mnt: PathBuf },
}

impl Place {
    pub fn native(bench: &Bench) -> Self {
        Self::Native(bench.fresh("native"))
    }

    pub fn mount(bench: &Bench) -> Self {
        Self::Mount(Mounted::new(bench))
    }

    /// The floor, when there is one.
    pub fn floor(bench: &Bench, kind: Floor) -> Option<Self> {
        let program = bench.floor.as_ref()?;
        let (folder, mnt) = (bench.fresh("floor"), bench.fresh("floor-mnt"));
        let mut command = Command::new(program);
        match kind {
            Floor::Log | Floor::SyncedLog => {
                command.arg("mem").arg(&mnt).arg("--log").arg(folder.join("log"));
            }
            Floor::Pass => {
                command.arg("pass").arg(&folder).arg(&mnt).arg("--passthrough");
            }
        }
        if matches!(kind, Floor::SyncedLog) {
            command.arg("--log-sync-on-close");
        }
        command.args(["--threads", THREADS, "--clone-fd", "--keep-cache", "--atomic-trunc"]);
        command.args(["--ttl", "60", "--default-permissions"]);
        let daemon = command.stdout(Stdio::null()).spawn().unwrap();
        wait("the floor", Duration::from_millis(1), || is_mounted(&mnt));
        Some(Self::Floor { daemon, mnt })
    }

    pub fn root(&self) -> PathBuf {
        match self {
            Self::Native(folder) => folder.clone(),
            Self::Mount(mounted) => mounted.mnt(),
            Self::Floor { mnt, .. } => mnt.clone(),
        }
    }

    /// Waits until a round of this place no longer disturbs the next place's.
    pub fn settle(&mut self) {
        if let Self::Mount(mounted) = self {
            let mut last = f64::NAN;
            wait("a quiet daemon", Duration::from_millis(100), || {
                let used = mounted.processor_time();
                // Two ticks in a tenth of a second are next to nothing.
                let quiet = used - last <= 0.02;
                last = used;
                quiet
            });
        }
        nix::unistd::sync();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Floor { daemon, mnt } = self {
            unmount(daemon, mnt);
        }
    }
}

fn unmount(daemon: &mut Child, mnt: &Path) {
    drop(daemon.kill());
    drop(daemon.wait());
    drop(Command::new("umount").arg("-l").arg(mnt).stderr(Stdio::null()).status());
}

fn is_mounted(mnt: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let wanted = format!(" {} ", mnt.display());
    mounts.lines().any(|line| line.contains(&wanted))
}

/// Forgets what the kernel has cached. Needs root.
pub fn drop_caches() {
    nix::unistd::sync();
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        eprintln!("caches are not dropped, what is called cold is not: {error}");
    }
}

pub fn wait(what: &str, every: Duration, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(300), "waited too long for {what}");
        std::thread::sleep(every);
    }
}
