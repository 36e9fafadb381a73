//! Other users and other programs of this machine: what they cannot reach, read, slow down or
//! trick the daemon into.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use workspaced::Before;

use crate::fuse_or_skip;
use crate::support::edge::Edge;
use crate::support::observe::{outbox, stderr, stdout, wait_sent, wait_state};
use crate::support::proxy::{Act, Proxy};
use crate::support::server::TOKEN;
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

/// Another user than the one who runs the tests.
const NOBODY: u32 = 65534;

/// A command of another user.
fn as_nobody(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED what needs another user: not root");
    }
    root
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A start that must fail: its code and what it says.
#[track_caller]
fn refused(mount: &Mount, code: i32, words: &[&str]) {
    let output = mount.command(&[]).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
    assert!(!mount.is_mounted());
}

/// A state folder that others can change, that belongs to somebody else, or in which something is
/// not what the daemon left is refused, and nothing in it is touched; one that others can only read
/// is closed to them.
#[test]
fn a_state_folder_that_others_can_change_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("mine"), bytes(1, 200_000)).unwrap();
    mount.flush();
    assert_eq!(mount.term(), Some(0));
    let state = mount.state();
    for (folder, wide) in
        [(state.clone(), 0o777), (state.clone(), 0o720), (state.join("files"), 0o702)]
    {
        set_mode(&folder, wide);
        refused(&mount, 78, &["can be changed by other users", "chmod 700"]);
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, wide, "left as it was");
        set_mode(&folder, 0o700);
    }
    let precious = mount.outside().join("precious");
    for name in ["lock", "state.db", "state.db-wal"] {
        let (file, aside) = (state.join(name), state.join("aside"));
        let was_there = file.exists();
        if was_there {
            fs::rename(&file, &aside).unwrap();
        }
        fs::write(&precious, "precious").unwrap();
        for link in [true, false] {
            if link {
                symlink(&precious, &file).unwrap();
            } else {
                fs::hard_link(&precious, &file).unwrap();
            }
            refused(&mount, 78, &[name, "not a file of ours alone"]);
            assert_eq!(fs::read(&precious).unwrap(), b"precious", "{name}");
            fs::remove_file(&file).unwrap();
        }
        if was_there {
            fs::rename(&aside, &file).unwrap();
        }
    }
    if is_root() {
        for path in [state.clone(), state.join("state.db"), state.join("files")] {
            std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
            refused(&mount, 78, &["fix: "]);
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
    }
    set_mode(&state, 0o755);
    mount.start();
    assert_eq!(state.metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read(mount.at("mine")).unwrap(), bytes(1, 200_000));
}

/// A working file that was replaced by a link leads nowhere: what it points to is neither shown nor
/// sent nor changed.
#[test]
fn a_link_in_place_of_a_working_file_leads_nowhere() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    mount.ctl(&["pause"]);
    fs::write(mount.at("mine"), bytes(1, 200_000)).unwrap();
    wait_for("the record", || (outbox(&mount).len() == 1).then_some(()));
    mount.kill9();
    let secret = mount.outside().join("secret");
    fs::write(&secret, "secret ".repeat(40_000)).unwrap();
    let files = shell(&mount.state(), "find files -type f");
    for file in files.lines() {
        fs::remove_file(mount.state().join(file)).unwrap();
        symlink(&secret, mount.state().join(file)).unwrap();
    }
    assert_eq!(files.lines().count(), 1, "{files}");
    mount.start();
    let shown = fs::read(mount.at("mine"));
    assert!(shown.is_err() || !shown.unwrap().starts_with(b"secret"));
    drop(fs::OpenOptions::new().write(true).open(mount.at("mine")).map(|mut f| f.write_all(b"x")));
    mount.ctl(&["resume"]);
    mount.ctl(&["flush", "--timeout", "2s"]);
    for (path, content) in server.files() {
        assert!(!content.windows(6).any(|six| six == b"secret"), "{path} was sent");
    }
    assert_eq!(fs::read(&secret).unwrap(), "secret ".repeat(40_000).as_bytes());
}

/// A folder for the socket that is a link, that belongs to somebody else, or in which something
/// else has the socket's name is refused and left alone.
#[test]
fn a_strange_folder_for_the_socket_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::builder(&server.source()).prepare();
    let folder = mount.socket().parent().unwrap().to_owned();
    let elsewhere = mount.outside().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    refused(&mount, 1, &["control socket", "is not a folder of its own"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&folder, Some(NOBODY), None).unwrap();
        refused(&mount, 1, &["control socket", "does not belong to this user"]);
        std::os::unix::fs::chown(&folder, Some(0), None).unwrap();
    }
    set_mode(&folder, 0o777);
    fs::write(mount.socket(), "a file").unwrap();
    refused(&mount, 1, &["control socket", "not a socket of ours"]);
    assert_eq!(fs::read(mount.socket()).unwrap(), b"a file");
    fs::remove_file(mount.socket()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(elsewhere.join("s")).unwrap();
    symlink(elsewhere.join("s"), mount.socket()).unwrap();
    refused(&mount, 1, &["control socket", "not a socket of ours"]);
    drop(listener);
    fs::remove_file(mount.socket()).unwrap();
    // A dead one of ours is cleared away, and the folder is closed.
    drop(std::os::unix::net::UnixListener::bind(mount.socket()).unwrap());
    mount.start();
    assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
}

/// A thousand connections that say nothing, drip, or send without end leave room for whoever
/// wants something; the mount does not notice.
#[test]
fn callers_that_waste_time_hinder_nobody() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let head = "POST /v1/pause HTTP/1.1\r\nHost: m\r\nContent-Length: 1073741824\r\n\r\n";
    let starts = ["", "GET /v1/st", "GET /v1/status HTTP/1.1\r\nHost", head];
    let waste: Vec<UnixStream> = (0..1000)
        .map(|n| {
            let mut stream = UnixStream::connect(mount.socket()).unwrap();
            drop(stream.write_all(starts[n % starts.len()].as_bytes()));
            stream
        })
        .collect();
    for n in 0..20 {
        let began = Instant::now();
        let output = mount.ctl(&["status"]);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::write(mount.at(&format!("file-{n}")), "content").unwrap();
        assert_eq!(fs::read(mount.at(&format!("file-{n}"))).unwrap(), b"content");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let open = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap().count();
    assert!(open < 300, "{open} files are open");
    mount.flush();
    drop(waste);

    // A body of a gigabyte is refused before it is read.
    let mut stream = UnixStream::connect(mount.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let megabyte = vec![b' '; 1 << 20];
    let sent = (0..1024).take_while(|_| stream.write_all(&megabyte).is_ok()).count();
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply));
    let reply = String::from_utf8_lossy(&reply);
    assert!(sent < 16, "{sent} MiB were taken: {reply}");
    // One that never comes is given up, with an answer.
    let mut stream = UnixStream::connect(mount.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(head.replace("1073741824", "100").as_bytes()).unwrap();
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply));
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("did not come"), "{reply}");
    // And one that says nothing is let go.
    let mut stream = UnixStream::connect(mount.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /v1/status HT").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(wait_state(&mount, "synced")["pause"]["uploads"].is_null());
}

/// `mountctl` says so, in bounded time, when the daemon does not answer.
#[test]
fn a_daemon_that_hangs_is_reported() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    mount.signal(Signal::SIGSTOP);
    let reports: Vec<(&[&str], Duration, Output)> = [
        &["status"][..],
        &["mounts"],
        &["outbox"],
        &["conflicts"],
        &["status", "--check"],
        &["events"],
    ]
    .into_iter()
    .map(|args| {
        let began = Instant::now();
        let output = mount.ctl(args);
        (args, began.elapsed(), output)
    })
    .collect();
    mount.signal(Signal::SIGCONT);
    for (args, took, output) in reports {
        let said = format!("{}{}", stdout(&output), stderr(&output));
        eprintln!("{args:?} after {took:?}: {said}");
        assert!(took < Duration::from_secs(10), "{args:?}: {took:?}");
        assert!(!output.status.success() || args == ["mounts"], "{args:?}: {said}");
        let told = ["did not answer", "timed_out"].iter().any(|word| said.contains(word));
        assert!(told, "{args:?}: {said}");
    }
    mount.wait_synced();
}

/// Whatever a name or a message holds, no control character and nothing that turns the direction
/// of writing reaches a terminal or breaks a line of the log.
#[test]
fn names_and_messages_cannot_steer_a_terminal() {
    fuse_or_skip!();
    let evil = "a\u{1b}]0;owned\u{7}\u{1b}[2J\nERROR forged\r\u{9b}31m\u{202e}gpj\u{2066}";
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    server.put(&format!("/{evil}"), b"theirs");
    wait_for("it is here", || mount.at(evil).exists().then_some(()));
    let message = serde_json::to_string(evil).unwrap();
    proxy.rule(move |head| match head.is("POST", "/fs/bulk") {
        true => Act::Reply(
            format!(
                "HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n{{\"code\":\"x\",\"message\":{message}}}",
                message.len() + 23
            )
            .into_bytes(),
        ),
        false => Act::Pass,
    });
    fs::write(mount.at(evil), "mine").unwrap();
    wait_for("the refusal", || mount.log().contains("500").then_some(()));
    let mut said = String::new();
    let looks: [&[&str]; 6] =
        [&["status"], &["outbox"], &["conflicts"], &["events"], &["mounts"], &["outbox", "plan"]];
    for args in looks {
        let output = mount.ctl(args);
        said.extend([stdout(&output), stderr(&output)]);
    }
    proxy.clear();
    let error = fs::create_dir(mount.at(&format!("{evil}/below"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
    // A conflict names it in the log and in the list.
    mount.ctl(&["pause"]);
    fs::write(mount.at(evil), "mine again").unwrap();
    server.put(&format!("/{evil}"), b"theirs again");
    mount.ctl(&["resume"]);
    wait_for("the conflict", || (mount.status()["conflicts"]["open"] == 1).then_some(()));
    for args in looks {
        let output = mount.ctl(args);
        said.extend([stdout(&output), stderr(&output)]);
    }
    said += &mount.log();
    assert!(said.contains("owned") && said.contains("gpj"), "{said}");
    for line in said.lines() {
        let steers = |c: char| {
            c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!line.contains(steers), "{line:?}");
        assert!(!line.starts_with("ERROR forged"), "{line:?}");
    }
}

/// Neither proxies nor key logs nor other credentials of the environment are looked at.
#[test]
fn the_environment_leads_nowhere_else() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", elsewhere.local_addr().unwrap());
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    std::thread::spawn(move || {
        for _ in elsewhere.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut mount = Mount::builder(&proxy.source()).prepare();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        mount.add_env(name, &address);
    }
    let netrc = mount.outside().join(".netrc");
    fs::write(&netrc, "machine 127.0.0.1 login evil password netrc-secret\n").unwrap();
    mount.add_env("NETRC", netrc.to_str().unwrap());
    mount.start();
    mount.wait_synced();
    fs::write(mount.at("file"), "content").unwrap();
    wait_sent(&mount);
    assert_eq!(visits.load(Ordering::Relaxed), 0, "the proxy was visited");
    assert!(!proxy.heads().is_empty());
    for head in proxy.heads() {
        let text = head.text.to_lowercase();
        let expected = format!("authorization: bearer {TOKEN}");
        assert!(text.contains(&expected) && !text.contains("basic "), "{text}");
    }
}

/// Core files are off, and no process of another user, or even of the same one, can read the
/// daemon's memory or environment.
#[test]
fn nothing_of_the_daemon_can_be_read_from_outside() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let point = format!(" {} ", mount.path().display());
    let line = mounts.lines().find(|line| line.contains(&point)).unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    assert!(!line.contains("allow_other"), "{line}");
    if !is_root() {
        return;
    }
    // A daemon of another user, and another process of that user.
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let program = folder.path().join("mountd");
    fs::copy(env!("CARGO_BIN_EXE_mountd"), &program).unwrap();
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, TOKEN).unwrap();
    set_mode(&tokens, 0o600);
    let storage = folder.path().join("storage");
    fs::create_dir(&storage).unwrap();
    for path in [&tokens, &storage] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut child = as_nobody(&program)
        .args(["serve", "--listen", "127.0.0.1:0", "--storage"])
        .arg(&storage)
        .arg("--token-file")
        .arg(&tokens)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut ready = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    for file in ["environ", "mem", "maps"] {
        let path = format!("/proc/{}/{file}", child.id());
        let output = as_nobody("head").args(["-c", "1", &path]).output().unwrap();
        assert!(!output.status.success(), "{file} can be read");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A token of the environment reaches no program that the daemon starts.
#[test]
fn programs_that_are_started_get_no_token() {
    fuse_or_skip!();
    if !is_root() {
        return;
    }
    let server = TestServer::new();
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let helper = folder.path().join("fusermount3");
    fs::write(&helper, format!("#!/bin/sh\nenv > {}\nexit 1\n", told.display())).unwrap();
    set_mode(&helper, 0o755);
    let point = folder.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // Who may not mount has `fusermount3` do it.
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_mountd"))
        .args(["mount", &server.source()])
        .arg(&point)
        .env("PATH", path)
        .env("HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("XDG_STATE_HOME", folder.path())
        .env("MOUNTD_TOKEN", TOKEN)
        .env("MARKER", "passed on")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told =
        fs::read_to_string(&told).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert!(told.contains("MARKER=passed on"), "{told}");
    assert!(!told.contains(TOKEN) && !told.contains("MOUNTD_TOKEN"), "{told}");
    assert!(!stderr(&output).contains(TOKEN));
}

/// At the most talkative, with every library's own log, the token is not in it: not with the
/// stream, whose address carries it, nor with failures.
#[test]
fn no_log_level_shows_the_token() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount =
        Mount::builder(&server.source()).args(&["--log-level", "trace,mountd=trace"]).start();
    mount.wait_synced();
    fs::write(mount.at("large"), bytes(1, 3_000_000)).unwrap();
    shell(&mount.path(), "echo one > one; mv one two; rm two; ln -s a b");
    mount.flush();
    server.put("/theirs", &bytes(2, 500_000));
    wait_for("their file", || fs::read(mount.at("theirs")).ok());
    server.stop();
    shell(&mount.path(), "echo two > two");
    wait_state(&mount, "offline");
    server.start();
    mount.flush();
    let log = mount.log();
    assert!(log.contains("TRACE"), "{}", log.len());
    eprintln!("{} lines of log", log.lines().count());
    for line in log.lines() {
        assert!(!line.contains(TOKEN), "{line}");
    }
}

/// A server that repeats the token in what it says does not get it shown: whatever it refuses,
/// in its own words for a request, for a file of it, and for the stream.
#[test]
fn a_server_that_repeats_the_token_does_not_get_it_shown() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount =
        Mount::builder(&server.source()).args(&["--log-level", "trace,mountd=trace"]).start();
    mount.wait_synced();
    let said = || {
        let said = |args: &[&str]| {
            let output = mount.ctl(args);
            format!("{}{}", stdout(&output), stderr(&output))
        };
        let all: [&[&str]; 4] = [&["status", "--json"], &["status"], &["outbox"], &["events"]];
        all.map(said).concat()
    };
    for (n, status) in [401, 403, 429, 500, 400].into_iter().enumerate() {
        let text = format!("to {status} I say");
        let body = format!(r#"{{"code":"{TOKEN}","message":"{text} {TOKEN}"}}"#);
        edge.before(move |_| Before::Reply { status, headers: Vec::new(), body: body.clone() });
        server.feeds().disconnect_all();
        fs::write(mount.at(&format!("f{n}")), "x").unwrap();
        wait_for("what the server says", || said().contains(&text).then_some(()));
        assert!(!said().contains(TOKEN), "{status}: {}", said());
        edge.clear();
        mount.ctl(&["resume"]);
        mount.ctl(&["outbox", "retry", "--all"]);
        wait_for("the change is sent", || server.get(&format!("/f{n}")));
    }
    let file = format!(
        r#"{{"results":[],"errors":[{{"path":"/one","code":"{TOKEN}","message":"I know {TOKEN}"}}]}}"#
    );
    edge.before(move |request| match request.route {
        "/fs/bulk" => Before::Reply { status: 202, headers: Vec::new(), body: file.clone() },
        _ => Before::Pass,
    });
    fs::write(mount.at("one"), "x").unwrap();
    wait_state(&mount, "attention");
    assert!(said().contains("I know [the token]"), "{}", said());
    assert!(!said().contains(TOKEN), "{}", said());
    for line in mount.log().lines() {
        assert!(!line.contains(TOKEN), "{line}");
    }
}

/// A token file is read only when it is nobody else's and nobody else can read it, also when it
/// changes later.
#[test]
fn a_token_file_that_others_can_read_is_not_taken() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let file = mount.token_file();
    set_mode(&file, 0o644);
    fs::write(&file, "another").unwrap();
    wait_for("the warning", || mount.log().contains("not taken").then_some(()));
    fs::write(mount.at("file"), "content").unwrap();
    wait_sent(&mount);
    assert!(!mount.log().contains("another"), "{}", mount.log());
}
