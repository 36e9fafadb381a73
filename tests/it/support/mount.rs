//! A real daemon with a real kernel mount, in folders of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::server::{TOKEN, TestServer};
use super::wait_for;

/// A mount; killed and unmounted when dropped.
pub struct Mount {
    folder: tempfile::TempDir,
    source: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

/// How a mount is started.
pub struct MountBuilder {
    source: String,
    args: Vec<String>,
}

impl MountBuilder {
    /// Adds options of `mountd mount`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts it and waits until it is mounted.
    pub fn start(self) -> Mount {
        let mut mount = self.prepare();
        mount.start();
        mount
    }

    /// Makes its folders; nothing is started.
    pub fn prepare(self) -> Mount {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(folder.path().join("token"), mode).unwrap();
        let Self { source, args } = self;
        Mount { folder, source, args, env: Vec::new(), child: None }
    }
}

impl Mount {
    /// Mounts the server's workspace.
    pub fn of(server: &TestServer) -> Self {
        Self::builder(&server.source()).start()
    }

    /// Chooses how `source` is mounted.
    pub fn builder(source: &str) -> MountBuilder {
        MountBuilder { source: source.to_owned(), args: Vec::new() }
    }

    /// Starts the daemon (again) and waits until it is mounted.
    pub fn start(&mut self) {
        self.spawn();
        let name = self.name();
        wait_for("the daemon answers and the folder is mounted", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("mountd ended with {status}: {}", self.log());
            }
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            let mounted = mounts.contains(&format!("mountd:{name} {} ", self.path().display()));
            (mounted && self.ctl(&["status"]).status.success()).then_some(())
        });
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "already running");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let child = self
            .command(&[])
            .stdout(Stdio::null())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// The command that starts the daemon, with more options.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mountd"));
        command.args(["mount", &self.source]).arg(self.path());
        command.args(["--name", &self.name()]);
        if !self.args.iter().any(|arg| arg == "--log-level") {
            command.args(["--log-level", "debug"]);
        }
        command.arg("--token-file").arg(self.token_file());
        command.args(&self.args).args(more);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        let folder = self.folder.path();
        command
            .env("XDG_RUNTIME_DIR", folder.join("run"))
            .env("XDG_STATE_HOME", folder.join("state"))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("HOME", folder)
            .env_remove("MOUNTD_TOKEN");
    }

    /// Its name.
    pub fn name(&self) -> String {
        "m".to_owned()
    }

    /// The mounted folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// A path in the mounted folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The file with its token.
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state/mountd").join(self.name())
    }

    /// The folder that holds all of the above, outside of the mount.
    pub fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/mountd").join(format!("{}.sock", self.name()))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Runs mountctl against it.
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_command(args).output().expect("mountctl runs")
    }

    /// The command that runs mountctl against it.
    pub fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(mountctl());
        command.args(args);
        self.environment(&mut command);
        command
    }

    /// `data.mount` of `mountctl status --json`.
    pub fn status(&self) -> Value {
        let output = self.ctl(&["-m", &self.name(), "status", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let mut document: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        document["data"]["mount"].take()
    }

    /// Waits until the outbox is empty; panics with what is left.
    #[track_caller]
    pub fn flush(&self) {
        let output = self.ctl(&["flush", "--timeout", "30s"]);
        assert!(
            output.status.success(),
            "flush: {}{}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&self.ctl(&["outbox"]).stdout),
            self.log(),
        );
    }

    /// Waits until it is up to date with the server in both directions.
    #[track_caller]
    pub fn wait_synced(&self) {
        wait_for("state synced", || (self.status()["state"] == "synced").then_some(()));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Adds options for the next start.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// Takes back an option and its value.
    pub fn forget_args(&mut self, option: &str) {
        let at = self.args.iter().position(|arg| arg == option).expect("it was given");
        self.args.drain(at..at + 2);
    }

    /// Takes back what was added to the environment.
    pub fn forget_env(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// Adds to the environment of the daemon when it is started the next time.
    pub fn add_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// How the daemon ended, which it has.
    pub fn end_status(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("running");
        wait_for("the daemon's end", || child.try_wait().unwrap())
    }

    /// Whether the daemon was started and its end not yet noted.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether the daemon has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Kills the daemon as a crash would. The mount is left dead.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops the daemon with SIGTERM and waits for its end. Returns its exit code.
    pub fn term(&mut self) -> Option<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait_end()
    }

    /// Waits for the daemon's end. Returns its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let status = wait_for("the daemon's end", || child.try_wait().unwrap());
        status.code()
    }

    /// Whether something is mounted there.
    pub fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(&format!(" {} ", self.path().display()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        drop(Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status());
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}\n---", self.log());
        }
    }
}

/// The mountctl that was built beside the daemon.
pub fn mountctl() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_mountd")).with_file_name("mountctl");
    assert!(path.exists(), "{} is missing: run the tests with --workspace", path.display());
    path
}
