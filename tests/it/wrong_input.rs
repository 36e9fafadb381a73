//! Starts that cannot work: one clear error with what to do, the right exit code, and nothing
//! changed. And the ways to start that the help shows, as somebody new would try them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::fuse_or_skip;
use crate::support::mount::mountctl;
use crate::support::observe::{stderr, stdout, wait_state};
use crate::support::server::TOKEN;
use crate::support::tree::{Tree, tree};
use crate::support::{Mount, TestServer, shell, wait_for, wait_within};

/// A user's home with nothing in it but a token and an empty folder to mount at.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        let home = Self { folder };
        home.write("token", TOKEN, 0o600);
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.at(name), text).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run_in(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .env("XDG_RUNTIME_DIR", self.at("run"))
            .env("HOME", self.path());
        for name in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MOUNTD_TOKEN"] {
            command.env_remove(name);
        }
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        self.run_in(Path::new(env!("CARGO_BIN_EXE_mountd")), args)
    }

    fn ctl(&self, args: &[&str]) -> Output {
        self.run_in(&mountctl(), args).output().unwrap()
    }

    /// The lines of the mount table about it.
    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let home = self.path().to_str().unwrap();
        mounts.lines().filter(|line| line.contains(home)).map(str::to_owned).collect()
    }

    /// Everything in it.
    fn contents(&self) -> Tree {
        tree(self.path()).unwrap()
    }

    /// Runs mountd, which must fail with one error that has this exit code and says all of
    /// `parts`, and must have changed nothing.
    #[track_caller]
    fn fails(&self, args: &[&str], exit: i32, parts: &[&str]) {
        self.fails_as(self.command(args), exit, parts);
    }

    #[track_caller]
    fn fails_as(&self, mut command: Command, exit: i32, parts: &[&str]) {
        let (contents, mounts) = (self.contents(), self.mounts());
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{command:?}: {said}");
        let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "not one error: {said}");
        assert!(said.starts_with("error: "), "{said}");
        // What the parser of the command line refuses, it explains in its own form.
        if !said.contains("Usage:") && !said.contains("For more information") {
            let first = said.lines().next().unwrap();
            assert!(first.ends_with(&format!(", exit {exit}]")), "{first}");
            assert!(said.contains("\n  fix: ") || said.contains("\n  why: "), "{said}");
        }
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing: {said}");
        }
        assert!(!said.contains(TOKEN), "the token shows: {said}");
        assert!(output.stdout.is_empty(), "{}", stdout(&output));
        assert_eq!(self.contents(), contents, "something was changed");
        assert_eq!(self.mounts(), mounts, "something was mounted or unmounted");
    }
}

/// An address on which nobody listens.
fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A server that is not there, by address or by name, is reported with exit code 11.
#[test]
fn an_unreachable_server_is_reported() {
    fuse_or_skip!();
    let home = Home::new();
    let (mnt, token) = (home.text("mnt"), home.text("token"));
    let source = format!("http://{}/ws", dead_address());
    let with_token = ["--token-file", &token];
    let start = |source: &str| {
        let args = [&["mount", source, &mnt][..], &with_token].concat();
        home.fails(&args, 11, &["cannot be mounted", "SERVER_UNREACHABLE", source, "fix: check"]);
    };
    start(&source);
    start("http://127.0.0.1:1/ws");
    start("https://no-such-host.invalid/ws");
}

/// Whatever is wrong with the token is reported with exit code 10, and never shows it.
#[test]
fn a_wrong_token_is_reported() {
    fuse_or_skip!();
    let server = TestServer::new();
    let home = Home::new();
    let (source, mnt) = (server.source(), home.text("mnt"));
    home.write("bad", "not-the-token", 0o600);
    home.write("open", TOKEN, 0o644);
    home.write("empty", "", 0o600);
    let with = |file: &str| ["mount", &source, &mnt, "--token-file", file].map(str::to_owned);
    let fails = |file: &str, parts: &[&str]| {
        let args = with(&home.text(file));
        home.fails(&args.each_ref().map(String::as_str), 10, parts);
    };
    fails("bad", &["cannot be mounted", "AUTH", "--token-file"]);
    fails("missing", &["missing", "TOKEN_FILE"]);
    fails("open", &["can be read by other users", "fix: chmod 600"]);
    fails("empty", &["AUTH"]);
    home.fails(&["mount", &source, &mnt], 10, &["AUTH", "MOUNTD_TOKEN"]);
    let mut command = home.command(&["mount", &source, &mnt]);
    command.env("MOUNTD_TOKEN", "not-the-token");
    home.fails_as(command, 10, &["AUTH"]);
    let mut command = home.command(&["mount", &source, &mnt, "--token-file", &home.text("token")]);
    command.env("MOUNTD_TOKEN", "not-the-token");
    // The file counts: it starts.
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    wait_for("the mount", || is_mounted(&home.at("mnt")).then_some(()));
    stop(&mut child);
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.contains(&format!(" {} ", path.display()))
}

/// Ends a process as Ctrl-C does; it must end well.
#[track_caller]
fn stop(child: &mut Child) {
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// A mount point that cannot be used is reported with exit code 32 and left alone.
#[test]
fn an_unusable_mount_point_is_reported() {
    fuse_or_skip!();
    let server = TestServer::new();
    let home = Home::new();
    let (source, token) = (server.source(), home.text("token"));
    fs::write(home.at("file"), "kept").unwrap();
    fs::create_dir(home.at("full")).unwrap();
    fs::write(home.at("full/file"), "kept").unwrap();
    std::os::unix::fs::symlink("nowhere", home.at("dangling")).unwrap();
    let fails = |name: &str, parts: &[&str]| {
        home.fails(&["mount", &source, name, "--token-file", &token], 32, parts);
    };
    fails("missing", &["does not exist", "MOUNT_POINT", "fix: mkdir -p"]);
    fails("missing/below", &["does not exist"]);
    fails("file", &["is not a folder"]);
    fails("file/below", &["MOUNT_POINT"]);
    fails("full", &["is not empty", "hidden"]);
    fails("dangling", &["MOUNT_POINT"]);
    // The default form makes a missing folder, but of the others it is as careful.
    home.fails(&["mount", "file"], 32, &["is not a folder"]);
    home.fails(&["mount", "full"], 32, &["is not empty"]);
    home.fails(&["mount", "missing/below"], 32, &["does not exist"]);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED a folder with another mount: not root");
        return;
    }
    shell(home.path(), "mkdir taken && mount -t tmpfs other taken && echo kept > taken/file");
    fails("taken", &["already a mount point of other", "fix: unmount it first"]);
    assert_eq!(shell(home.path(), "cat taken/file && umount taken"), "kept\n");
    // A mount of ours that lives is somebody's, too.
    let mount = Mount::of(&server);
    fails(mount.path().to_str().unwrap(), &["already a mount point of mountd:m"]);
    shell(&mount.path(), "echo alive > alive");
    mount.flush();
}

/// The state of one workspace is not used for another, and no state may lie below its own mount:
/// exit code 78.
#[test]
fn state_that_does_not_fit_is_reported() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    shell(&mount.path(), "echo one > one");
    mount.flush();
    assert_eq!(mount.term(), Some(0));
    let home = Home::new();
    let (mnt, token) = (home.text("mnt"), home.text("token"));
    let state = mount.outside().join("state/mountd");
    let state = state.to_str().unwrap();
    let other = format!("http://{}/another", server.addr());
    let before = tree(&mount.state()).unwrap();
    for (source, path) in [(&other, "/"), (&server.source(), "/one")] {
        let args = ["mount", source, &mnt, "--token-file", &token, "--name", "m"];
        let args = [&args[..], &["--state-dir", state, "--remote-path", path]].concat();
        home.fails(&args, 78, &["belongs to another workspace", "fix: choose another --name"]);
    }
    let records = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(records(&tree(&mount.state()).unwrap()), records(&before));
    mount.start();
    assert_eq!(fs::read(mount.at("one")).unwrap(), b"one\n");

    let source = server.source();
    let start = ["mount", &source, &mnt, "--token-file", &token];
    for option in ["--state-dir", "--cache-dir"] {
        for folder in [home.text("mnt"), home.text("mnt/deep/er")] {
            let args = [&start[..], &[option, &folder]].concat();
            home.fails(&args, 78, &["lies below the mount point", "STATE_BELOW_MOUNT"]);
        }
    }
    std::os::unix::fs::symlink(home.at("mnt"), home.at("link")).unwrap();
    let link = home.text("link/state");
    let args = [&start[..], &["--state-dir", &link]].concat();
    home.fails(&args, 78, &["lies below the mount point"]);
    let below = format!("file://{}", home.text("mnt/storage"));
    home.fails(&["mount", &below, &mnt], 78, &["lies below the mount point"]);
}

/// A second daemon of one name is refused with exit code 75, and the first does not notice.
#[test]
fn a_second_daemon_of_one_name_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let before = fs::read_to_string(mount.state().join("lock")).unwrap();
    let elsewhere = mount.outside().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for _ in 0..3 {
        let output = mount.command(&[]).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(75), "{said}");
        assert!(said.contains("already served by another mountd"), "{said}");
        assert!(said.contains(&format!("process {}", mount.pid())), "{said}");
        assert!(said.contains("fix: mountctl status -m m"), "{said}");
    }
    assert_eq!(fs::read_to_string(mount.state().join("lock")).unwrap(), before);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    shell(&mount.path(), "echo alive > alive");
    mount.flush();
    wait_state(&mount, "synced");
}

/// What cannot be meant is refused with exit code 2 before anything is looked at.
#[test]
fn a_wrong_command_line_is_refused() {
    let home = Home::new();
    let mnt = home.text("mnt");
    let invalid = "INVALID_ARGUMENT";
    home.fails(&["mount", "http://files.example.org/ws", &mnt], 2, &["plain http", invalid]);
    home.fails(&["mount", "https://files.example.org", &mnt], 2, &["one workspace", invalid]);
    home.fails(&["mount", "https://files.example.org/a/b", &mnt], 2, &["one workspace"]);
    home.fails(&["mount", "ftp://files.example.org/ws", &mnt], 2, &["http or https"]);
    home.fails(&["mount", "files.example.org/ws", &mnt], 2, &["is not a source"]);
    home.fails(&["mount", "https://files.example.org/ws"], 2, &["the mount point is missing"]);
    home.fails(&["mount", "https://ana:pw@files.example.org/ws", &mnt], 2, &["password"]);
    home.fails(&["mount", "https://files.example.org/ws?token=x", &mnt], 2, &["query"]);
    home.fails(&["mount", "https://files.example.org/ws", &mnt, "--name", "../x"], 2, &["name"]);
    home.fails(
        &["mount", "https://files.example.org/ws", &mnt, "--remote-path", "/a/../b"],
        2,
        &["--remote-path"],
    );
    home.fails(&["mount", &mnt, "--debounce", "5"], 2, &["is not a duration", "20ms"]);
    let policies = ["keep, merge, ours or theirs"];
    home.fails(
        &["mount", &mnt, "--conflict", "*.md=mine"],
        2,
        &[&["`mine`"], &policies[..]].concat(),
    );
    home.fails(&["mount", &mnt, "--conflict", "[z-a]=keep"], 2, &["`[z-a]` is not a glob"]);
    home.fails(&["mount", &mnt, "--debounce", "5s", "--max-delay", "1s"], 2, &["--max-delay"]);
    home.fails(&["mount", &mnt, "--no-such-option"], 2, &["--no-such-option"]);
    home.fails(&["mount", &mnt, "--threads", "0"], 2, &["--threads"]);
    home.fails(&["mount", &mnt, "--log-level", "a=b=c"], 2, &["--log-level"]);
    home.fails(&["mount", "a", "b", "c"], 2, &[]);
    home.fails(&["mount"], 2, &[]);
    home.fails(&["nonsense"], 2, &[]);
    home.fails(&["serve", "--storage", "x"], 2, &["--token-file"]);
}

/// A storage folder that another server uses is not shared behind its back: the error names the
/// way that works.
#[test]
fn a_storage_folder_in_use_is_reported() {
    fuse_or_skip!();
    let home = Home::new();
    fs::create_dir(home.at("second")).unwrap();
    let source = format!("file://{}", home.text("storage"));
    let mut first =
        home.command(&["mount", &source, &home.text("mnt")]).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the first mount", || is_mounted(&home.at("mnt")).then_some(()));
    let output = home.command(&["mount", &source, &home.text("second")]).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("EMBEDDED_SERVER") && said.contains("mountd serve"), "{said}");
    assert!(!is_mounted(&home.at("second")));
    shell(&home.at("mnt"), "echo alive > alive");
    stop(&mut first);
}

/// `mountd mount DIR`, and nothing else: the folder is made, it works, Ctrl-C gives it back, and
/// the next time everything is there again.
#[test]
fn the_shortest_command_works() {
    fuse_or_skip!();
    let home = Home::new();
    let folder = home.at("ws");
    for round in 0..2 {
        let out = fs::File::create(home.at("out")).unwrap();
        let mut child = home.command(&["mount", "ws"]).stdout(out).spawn().unwrap();
        wait_for("the mount", || is_mounted(&folder).then_some(()));
        let greeting = wait_for("the greeting", || {
            let said = fs::read_to_string(home.at("out")).unwrap();
            said.contains("Ctrl-C unmounts").then_some(said)
        });
        assert!(greeting.contains(&format!("at {}", folder.display())), "{greeting}");
        assert_eq!(greeting.contains("created ws"), round == 0, "{greeting}");
        if round == 1 {
            assert_eq!(shell(&folder, "cat hello.txt"), "hello\n");
        }
        shell(&folder, "echo hello > hello.txt; mkdir -p a/b; echo deep > a/b/c");
        let status = home.ctl(&["status"]);
        assert!(status.status.success(), "{}{}", stdout(&status), stderr(&status));
        assert!(home.ctl(&["flush"]).status.success());
        stop(&mut child);
        assert!(!is_mounted(&folder));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        let farewell = fs::read_to_string(home.at("out")).unwrap();
        assert!(farewell.contains("everything is on the server"), "{farewell}");
    }
}

/// A running `mountd serve`; ended when dropped.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(home: &Home, more: &[&str]) -> Self {
        let (out, storage, tokens) =
            (home.at("serve.out"), home.text("storage"), home.text("tokens"));
        let args = ["serve", "--storage", &storage, "--token-file", &tokens];
        let child = home
            .command(&[&args[..], more].concat())
            .stdout(fs::File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let address = wait_for("the server says where it is", || {
            let said = fs::read_to_string(&out).unwrap();
            let address = said.strip_prefix("serving on http://")?.split_whitespace().next()?;
            Some(address.to_owned())
        });
        Self { child, address }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One server, a file with tokens, two mounts: what is written in one shows in the other.
#[test]
fn a_server_and_two_mounts_work_together() {
    fuse_or_skip!();
    let home = Home::new();
    home.write(
        "tokens",
        "first-token\nsecond-token subject=b scopes=fs:read,fs:write workspace=team\n",
        0o600,
    );
    let mut serving = Serving::start(&home, &["--listen", "127.0.0.1:0"]);
    let source = format!("http://{}/team", serving.address);
    let mounts = ["first", "second"].map(|name| {
        home.write(name, &format!("{name}-token"), 0o600);
        let mnt = home.at(&format!("mnt-{name}"));
        fs::create_dir(&mnt).unwrap();
        let child = home
            .command(&["mount", &source, mnt.to_str().unwrap(), "--name", name])
            .args(["--token-file", &home.text(name)])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the mount", || is_mounted(&mnt).then_some(()));
        (child, mnt)
    });
    let [(mut first, a), (mut second, b)] = mounts;
    shell(&a, "mkdir docs; echo from the first > docs/plan");
    let seen = wait_for("the file in the second", || fs::read(b.join("docs/plan")).ok());
    assert_eq!(seen, b"from the first\n");
    shell(&b, "echo and the second >> docs/plan");
    wait_for("the edit in the first", || {
        let text = fs::read_to_string(a.join("docs/plan")).ok()?;
        (text == "from the first\nand the second\n").then_some(())
    });
    let listed = stdout(&home.ctl(&["mounts"]));
    assert!(listed.contains("first") && listed.contains("second"), "{listed}");
    // A token of another workspace is refused.
    let other = format!("http://{}/other", serving.address);
    let (mnt, token) = (home.text("mnt"), home.text("second"));
    let output = home.command(&["mount", &other, &mnt, "--token-file", &token]).output().unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", stderr(&output));
    stop(&mut first);
    stop(&mut second);
    stop(&mut serving.child);
}

/// What `mountd serve` cannot use, it names.
#[test]
fn a_server_that_cannot_start_says_why() {
    let home = Home::new();
    home.write("tokens", "a-token", 0o600);
    home.write("wrong", "a-token scopes=fs:read nonsense\n", 0o600);
    let serving = Serving::start(&home, &["--listen", "127.0.0.1:0"]);
    let fails = |args: &[&str], parts: &[&str]| {
        let mut command = home.command(&[&["serve"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended =
            wait_within(Duration::from_secs(10), "the refusal", || child.try_wait().unwrap());
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert!(!ended.success(), "{args:?} was accepted");
        let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing: {said}");
        }
        assert!(!said.contains("a-token"), "the token shows: {said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let (tokens, wrong, missing) = (home.text("tokens"), home.text("wrong"), home.text("none"));
    let (storage, second, file) = (home.text("storage"), home.text("second"), home.text("tokens"));
    let free = "127.0.0.1:0";
    fails(&["--storage", &second, "--token-file", &missing, "--listen", free], &["none"]);
    fails(&["--storage", &second, "--token-file", &wrong, "--listen", free], &["wrong"]);
    fails(
        &["--storage", &second, "--token-file", &tokens, "--listen", &serving.address],
        &[&serving.address],
    );
    fails(&["--storage", &storage, "--token-file", &tokens, "--listen", free], &["storage"]);
    fails(&["--storage", &file, "--token-file", &tokens, "--listen", free], &["tokens"]);
    fails(&["--storage", &second, "--token-file", &tokens, "--listen", "nonsense"], &["--listen"]);
}

/// On a machine without FUSE the error, exit code 50, says what to do.
#[test]
fn a_machine_without_fuse_is_told_what_to_do() {
    fuse_or_skip!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED hiding the device: not root");
        return;
    }
    let home = Home::new();
    let in_private = |hide: &str| {
        let script = format!("{hide} && exec {} mount mnt", env!("CARGO_BIN_EXE_mountd"));
        home.run_in(Path::new("unshare"), &["-m", "--propagation", "private", "sh", "-c", &script])
    };
    // Only the device is gone.
    let missing = "mount -t tmpfs none /dev && : > /dev/null";
    home.fails_as(
        in_private(missing),
        50,
        &["FUSE is not available", "modprobe fuse", "--device /dev/fuse"],
    );
    // It is there, but cannot be opened: the device of a driver that is not loaded.
    let dead = "mount -t tmpfs none /dev && mknod /dev/fuse c 10 255 && : > /dev/null";
    home.fails_as(in_private(dead), 50, &["FUSE is not available", "cannot be opened"]);
}
