//! The real parts of a run: a server, two daemons with kernel mounts, and the ways between them.
//!
//! Everything lies in one folder and is gone when the world is dropped.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::proxy::Proxy;
use crate::story::Side;
use crate::tokens::{HARNESS, Tokens};
use crate::watcher::{self, Watcher};

const WORKSPACE: &str = "ws";

/// What a state folder may take. Small, so that it can be filled.
const DISK_BYTES: u64 = 96 << 20;

/// Everything that is real. Dropped in this order: what is mounted goes before the folder does.
pub struct World {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    original: bool,
    server: Mutex<Option<Server>>,
    pub mounts: [Mount; 2],
    pub proxies: [Proxy; 2],
    pub tokens: Tokens,
    /// Disks of their own can be mounted.
    pub own_disks: bool,
    _watcher: Watcher,
    folder: tempfile::TempDir,
}

struct Server {
    child: Child,
    addr: SocketAddr,
}

/// A daemon, its mount and its folders.
pub struct Mount {
    pub side: Side,
    folder: PathBuf,
    source: String,
    state: Mutex<Life>,
    came_up: Condvar,
    disks: Vec<PathBuf>,
}

struct Life {
    child: Option<Child>,
    /// Calls may be made. While it is down they would reach the folder below the mount.
    up: bool,
}

impl World {
    /// Starts everything and waits until both mounts know the server.
    pub fn start(original: bool, seed: u64) -> Self {
        watcher::sweep_the_dead();
        let folder = watcher::folder();
        let watcher = Watcher::over(folder.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        std::fs::create_dir(folder.path().join("storage")).unwrap();
        let token_files = Side::BOTH.map(|side| {
            let folder = folder.path().join(format!("{side:?}"));
            std::fs::create_dir(&folder).unwrap();
            folder.join("token")
        });
        let tokens = Tokens::new(folder.path().join("server-token"), token_files);
        let server = start_server(folder.path(), original);
        let proxies = [1, 2].map(|salt| Proxy::start(&runtime, server.addr, seed ^ salt));
        let own_disks = nix::unistd::geteuid().is_root();
        let mounts = Side::BOTH.map(|side| {
            let source = format!("http://{}/{WORKSPACE}", proxies[side.index()].addr());
            Mount::prepare(side, folder.path().join(format!("{side:?}")), source, own_disks)
        });
        let world = Self {
            runtime,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            original,
            server: Mutex::new(Some(server)),
            mounts,
            proxies,
            tokens,
            own_disks,
            _watcher: watcher,
            folder,
        };
        for mount in &world.mounts {
            mount.start();
        }
        world
    }

    pub fn mount(&self, side: Side) -> &Mount {
        &self.mounts[side.index()]
    }

    pub fn proxy(&self, side: Side) -> &Proxy {
        &self.proxies[side.index()]
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the server as a crash would.
    pub fn kill_server(&self) {
        let mut server = self.server.lock().unwrap().take().expect("the server runs");
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }

    /// Starts it again, unless it runs.
    pub fn start_server(&self) {
        let mut running = self.server.lock().unwrap();
        if running.is_none() {
            let server = start_server(self.folder.path(), self.original);
            for proxy in &self.proxies {
                proxy.set_upstream(server.addr);
            }
            *running = Some(server);
        }
    }

    pub fn signal_server(&self, signal: Signal) {
        if let Some(server) = &*self.server.lock().unwrap() {
            send(&server.child, signal);
        }
    }

    /// Asks the server itself. `route` is what follows the workspace.
    fn ask(&self, route: &str) -> Value {
        let addr = self.server.lock().unwrap().as_ref().expect("the server runs").addr;
        let url = format!("http://{addr}/v1/workspaces/{WORKSPACE}{route}");
        let request = self
            .client
            .get(url)
            .header("Authorization", format!("Bearer {HARNESS}"))
            .header("X-Correlation-Id", "torture");
        let body = self.runtime.block_on(async {
            let reply = request.send().await.expect("the server answers");
            assert_eq!(reply.status().as_u16(), 200, "{route}");
            reply.bytes().await.expect("a whole reply")
        });
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Every file of the server with its bytes.
    pub fn server_files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.ask("/fs/export?format=json");
        let entry = |file: &Value| (file["path"].as_str().unwrap().to_owned(), decode(file));
        files.as_array().unwrap().iter().map(entry).collect()
    }

    /// Everything that ever happened to files at the server, in order.
    pub fn history(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut after = "evt_0".to_owned();
        loop {
            let page = self.ask(&format!("/fs/events?cursor={after}&limit=1000"));
            let page = page["events"].as_array().unwrap();
            for event in page {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                after = text("eventId");
                let at: jiff::Timestamp = text("timestamp").parse().unwrap();
                events.push(Event {
                    kind: text("type"),
                    path: text("path"),
                    revision: text("revision"),
                    digest: event["contentHash"].as_str().map(str::to_owned),
                    at: at.as_nanosecond(),
                });
            }
            if page.is_empty() {
                return events;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            drop(server.child.kill());
            drop(server.child.wait());
        }
    }
}

/// An entry of the server's feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub path: String,
    pub revision: String,
    pub digest: Option<String>,
    /// When the server wrote it down, in nanoseconds of the wall clock.
    pub at: i128,
}

impl Mount {
    fn prepare(side: Side, folder: PathBuf, source: String, own_disks: bool) -> Self {
        for below in ["mnt", "run", "state", "disk"] {
            std::fs::create_dir_all(folder.join(below)).unwrap();
        }
        let mut disks = Vec::new();
        if own_disks {
            // Below the mount lies a disk that nobody can write to: no call that comes while
            // nothing is mounted can be mistaken for one that was served.
            for (below, options) in
                [("state", format!("size={DISK_BYTES}")), ("mnt", String::new())]
            {
                let at = folder.join(below);
                let options = Some(options.as_str()).filter(|options| !options.is_empty());
                let none = MsFlags::empty();
                nix::mount::mount(Some("torture"), &at, Some("tmpfs"), none, options).unwrap();
                disks.push(at);
            }
            std::fs::create_dir(folder.join("mnt/mnt")).unwrap();
            let again = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let at = folder.join("mnt");
            nix::mount::mount(None::<&str>, &at, None::<&str>, again, None::<&str>).unwrap();
        } else {
            std::fs::create_dir(folder.join("mnt/mnt")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o500);
            std::fs::set_permissions(folder.join("mnt/mnt"), mode).unwrap();
        }
        let state = Mutex::new(Life { child: None, up: false });
        Self { side, folder, source, state, came_up: Condvar::new(), disks }
    }

    /// The mounted folder.
    pub fn path(&self) -> PathBuf {
        self.folder.join("mnt/mnt")
    }

    /// The place of a path that begins with `/`.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// The state folder.
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("state/mountd/m")
    }

    /// The disk that holds the state.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("HOME", &self.folder)
            .env_remove("MOUNTD_TOKEN")
            .stdin(Stdio::null());
    }

    /// Starts the daemon, unless it runs, and waits until the folder is mounted. A full disk or a
    /// port in use may keep it from starting for a while.
    pub fn start(&self) {
        let refused = self.start_unless_refused();
        assert!(refused.is_ok(), "mountd refuses to start: {refused:?}");
    }

    /// Starts the daemon as [`Self::start`] does. When it says that something is wrong with what it
    /// was given, it is not tried again; that is returned.
    pub fn start_unless_refused(&self) -> Result<(), String> {
        let mut life = self.state.lock().unwrap();
        if life.child.is_some() {
            return Ok(());
        }
        let began = Instant::now();
        'again: loop {
            let log = append(&self.log_file());
            let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
            command.args(["mount", &self.source]).arg(self.path());
            command.args(["--name", "m", "--log-level", "debug"]);
            command.args(["--poll-interval", "1s", "--drain", "2s"]);
            command.arg("--token-file").arg(self.folder.join("token"));
            self.environment(&mut command);
            let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    if status.code() == Some(78) {
                        return Err(tail(&self.log()));
                    }
                    let late = began.elapsed() > Duration::from_secs(60);
                    assert!(!late, "mountd ended with {status}: {}", tail(&self.log()));
                    std::thread::sleep(Duration::from_millis(100));
                    continue 'again;
                }
                if self.is_mounted() && self.ctl(&["status"]).0 {
                    life.child = Some(child);
                    break 'again;
                }
                let late = began.elapsed() > Duration::from_secs(60);
                assert!(!late, "mountd does not come up: {}", tail(&self.log()));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        life.up = true;
        drop(life);
        self.came_up.notify_all();
        Ok(())
    }

    /// Waits until calls may be made.
    pub fn wait_up(&self) {
        let life = self.state.lock().unwrap();
        drop(self.came_up.wait_while(life, |life| !life.up).unwrap());
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(&format!("mountd:m {} ", self.path().display()))
    }

    /// Kills the daemon as a crash would. The mount is left dead.
    pub fn kill(&self) {
        let mut life = self.state.lock().unwrap();
        if let Some(mut child) = life.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            life.up = false;
        }
    }

    /// Has the daemon stop and waits for its end. Whether it ended well, and in time.
    pub fn stop(&self) -> bool {
        let mut life = self.state.lock().unwrap();
        let Some(mut child) = life.child.take() else { return true };
        // Who makes calls meanwhile sees them fail.
        life.up = false;
        drop(life);
        send(&child, Signal::SIGTERM);
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            if began.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                child.wait().unwrap();
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.state.lock().unwrap().child {
            send(child, signal);
        }
    }

    /// Runs mountctl. Returns whether it succeeded and what it said.
    pub fn ctl(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(mountctl());
        command.args(["-m", "m"]).args(args);
        self.environment(&mut command);
        let output = command.output().expect("mountctl runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The `data` of a mountctl command; null when it gave none.
    pub fn data(&self, args: &[&str]) -> Value {
        let (_, text) = self.ctl(&[args, &["--json"]].concat());
        let mut document: Value = serde_json::from_str(&text).unwrap_or_default();
        document["data"].take()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.kill();
        let quiet = |at: &Path| nix::mount::umount2(at, MntFlags::MNT_DETACH).is_ok();
        quiet(&self.path());
        drop(Command::new("fusermount3").args(["-uzq"]).arg(self.path()).output());
        for disk in self.disks.iter().rev() {
            quiet(disk);
        }
    }
}

fn start_server(folder: &Path, original: bool) -> Server {
    let log = append(&folder.join("server-log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "info"]);
    command.arg("--storage").arg(folder.join("storage"));
    command.arg("--token-file").arg(folder.join("server-token"));
    if original {
        command.arg("--no-extensions");
    }
    let began = Instant::now();
    loop {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        if let Some(addr) = addr.and_then(|addr| addr.parse().ok()) {
            return Server { child, addr };
        }
        drop(child.kill());
        let status = child.wait().unwrap();
        let late = began.elapsed() > Duration::from_secs(30);
        assert!(!late, "mountd serve ended with {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn append(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn send(child: &Child, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    // It may have ended meanwhile.
    nix::sys::signal::kill(pid, signal).ok();
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn decode(file: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let content = file["content"].as_str().unwrap_or_default();
    if file["encoding"] == "base64" {
        base64::engine::general_purpose::STANDARD.decode(content).unwrap()
    } else {
        content.as_bytes().to_vec()
    }
}

/// The mountctl that was built beside the daemon.
fn mountctl() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_mountd")).with_file_name("mountctl");
    assert!(path.exists(), "{} is missing: run the tests with --workspace", path.display());
    path
}

/// Keeps one run at a time: they would only slow each other.
pub fn alone() -> Arc<Mutex<()>> {
    static ONE: std::sync::OnceLock<Arc<Mutex<()>>> = std::sync::OnceLock::new();
    Arc::clone(ONE.get_or_init(Arc::default))
}
