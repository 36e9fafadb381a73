//! A workspace server in a process of its own, that can die.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::server::{TOKEN, WORKSPACE, own_address};
use crate::support::{Kind, TestServer, wait_for};

/// A server; killed when dropped.
pub struct Serve {
    folder: tempfile::TempDir,
    storage: PathBuf,
    addr: SocketAddr,
    kind: Kind,
    child: Option<Child>,
    /// Requests of the tests' own.
    pub http: TestServer,
}

impl Serve {
    /// A running server with a storage of its own.
    pub fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        Self::on(folder, storage, kind)
    }

    /// A running server that keeps everything in `storage`.
    pub fn on(folder: tempfile::TempDir, storage: PathBuf, kind: Kind) -> Self {
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        let addr = own_address();
        let http = TestServer::elsewhere(addr);
        let mut server = Self { folder, storage, addr, kind, child: None, http };
        server.start("");
        server
    }

    /// Starts it (again), with failpoints armed from the beginning on.
    pub fn start(&mut self, points: &str) {
        self.spawn(points);
        wait_for("the server listens", || {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "the server ended: {}", self.log());
            TcpStream::connect(self.addr).ok()
        });
    }

    /// Starts it without waiting for anything.
    pub fn spawn(&mut self, points: &str) {
        assert!(self.child.is_none(), "already running");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
        command.args(["serve", "--log-level", "debug", "--listen", &self.addr.to_string()]);
        command.args(["--max-body-bytes", "4000000"]);
        if !self.kind.is_extended() {
            command.arg("--no-extensions");
        }
        command.arg("--storage").arg(&self.storage);
        command.arg("--token-file").arg(self.folder.path().join("token"));
        command.env("MOUNTD_FAILPOINTS", points);
        command.env("MOUNTD_FAILPOINTS_FILE", self.points());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// What mounts mount.
    pub fn source(&self) -> String {
        format!("http://{}/{WORKSPACE}", self.addr)
    }

    /// Arms failpoints while it runs.
    pub fn arm(&self, points: &str) {
        arm(&self.points(), points);
    }

    fn points(&self) -> PathBuf {
        self.folder.path().join("failpoints")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for its death by `kill -9`; panics when it ends otherwise or not at all.
    #[track_caller]
    pub fn wait_crash(&mut self) {
        let mut child = self.child.take().expect("running");
        let status = wait_for("the crash of the server", || child.try_wait().unwrap());
        assert_eq!(status.signal(), Some(9), "{}", self.log());
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = self.child.as_ref().expect("running").id();
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}\n---", self.log());
        }
    }
}

/// Has a process that follows `file` arm its failpoints; returns when it did.
#[track_caller]
pub fn arm(file: &std::path::Path, points: &str) {
    let made = file.with_extension("new");
    std::fs::write(&made, points).unwrap();
    std::fs::rename(&made, file).unwrap();
    wait_for("the failpoints are armed", || (!file.exists()).then_some(()));
}
