//! Steering and looking: mountctl and the control API tell the truth, do what they say, and let
//! nobody else in.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fuse_or_skip;
use crate::support::observe::{history, json, outbox, stderr, stdout, wait_sent, wait_state};
use crate::support::server::TOKEN;
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

#[track_caller]
fn ctl(mount: &Mount, args: &[&str], code: i32) -> String {
    let output = mount.ctl(args);
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// At idle the status says what is: synced, nothing waiting, a live stream, the true figures; in
/// JSON and for people.
#[test]
fn the_status_is_true_at_idle() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir d; echo one > d/one; echo two > two; ln -s two link");
    mount.flush();
    let status = wait_state(&mount, "synced");
    assert_eq!(status["name"], "m");
    assert_eq!(status["mountpoint"], mount.path().to_str().unwrap());
    assert_eq!(status["server"], format!("http://{}", server.addr()));
    assert_eq!(status["workspace"], "ws");
    assert_eq!(status["remote_path"], "/");
    assert_eq!(status["mode"], "fuse");
    assert_eq!(status["read_only"], false);
    assert_eq!(status["pid"], mount.pid());
    let uploads = &status["uploads"];
    for empty in ["queued", "queued_bytes", "in_flight", "backoff", "attention", "held_open"] {
        assert_eq!(uploads[empty], 0, "{empty}: {uploads:#}");
    }
    assert!(uploads["oldest_age_ms"].is_null(), "{uploads:#}");
    assert_eq!(uploads["uploaded_total"], history(&server).len(), "{uploads:#}");
    let requests = server.log().count("POST", "/fs/bulk");
    assert_eq!(uploads["requests_total"], requests, "{uploads:#}");
    assert!(uploads["last_ack_at"].is_string(), "{uploads:#}");
    assert!(status["pause"]["uploads"].is_null(), "{status:#}");
    assert_eq!(status["circuit"]["state"], "closed");
    assert_eq!(status["stream"]["mode"], "websocket");
    assert_eq!(status["stream"]["status"], "live");
    assert_eq!(status["retry"]["consecutive_failures"], 0);
    assert_eq!(status["conflicts"]["open"], 0);
    assert_eq!(status["cache"]["entries"], 4);
    assert!(status["bootstrap"].is_null(), "{status:#}");
    assert!(status["last_error"].is_null(), "{status:#}");

    let shown = ctl(&mount, &["status"], 0);
    for part in ["SYNCED", "stream live", "none queued", "conflicts  none", "attention  none"] {
        assert!(shown.contains(part), "{part:?} is missing: {shown}");
    }
    ctl(&mount, &["status", "--check"], 0);
    let listed = ctl(&mount, &["mounts"], 0);
    assert!(listed.contains(mount.path().to_str().unwrap()), "{listed}");
    let document = json(&mount, &["status"]);
    assert_eq!(document["ok"], true);
    assert_eq!(document["meta"]["schema"], "mountd.status/1");
    assert_eq!(ctl(&mount, &["outbox"], 0).trim(), "the outbox is empty");
}

/// Exit codes of `status --check`: 0 healthy, 8 not flowing, 7 attention, 3 not running; what
/// waits in a stopped mount is told.
#[test]
fn the_exit_code_of_a_check_tells_the_health() {
    fuse_or_skip!();
    let mut server = TestServer::builder().original().max_body_bytes(64 << 10).start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    ctl(&mount, &["status", "--check"], 0);
    ctl(&mount, &["pause"], 0);
    ctl(&mount, &["status", "--check"], 8);
    ctl(&mount, &["resume"], 0);
    mount.wait_synced();
    // Too large for this server: refused for good.
    fs::write(mount.at("huge"), bytes(1, 100_000)).unwrap();
    wait_state(&mount, "attention");
    ctl(&mount, &["status", "--check"], 7);
    fs::remove_file(mount.at("huge")).unwrap();
    mount.wait_synced();
    ctl(&mount, &["status", "--check"], 0);
    server.stop();
    shell(&mount.path(), "echo one > one; echo two > two");
    let status = wait_state(&mount, "offline");
    assert_eq!(status["uploads"]["queued"], 2, "{status:#}");
    assert!(status["retry"]["reason"].is_string(), "{status:#}");
    assert!(status["retry"]["next_at"].is_string(), "{status:#}");
    assert_eq!(status["last_error"]["code"], "UNREACHABLE", "{status:#}");
    let shown = ctl(&mount, &["status", "--check"], 8);
    assert!(shown.contains("OFFLINE") && shown.contains("2 queued"), "{shown}");
    assert_eq!(mount.term(), Some(0));

    let shown = ctl(&mount, &["-m", "m", "status", "--check"], 3);
    assert!(shown.contains("NOT RUNNING") && shown.contains("2 records"), "{shown}");
    assert!(shown.contains("DAEMON_UNAVAILABLE"), "{shown}");
    let document = json(&mount, &["-m", "m", "status"]);
    assert_eq!(document["error"]["code"], "DAEMON_UNAVAILABLE", "{document:#}");
    let persisted = &document["error"]["details"]["persisted"];
    assert_eq!(persisted["queued"], 2, "{document:#}");
    assert_eq!(persisted["queued_bytes"], 8, "{document:#}");
    for command in [&["outbox"][..], &["flush"], &["pause"], &["resume"], &["unmount"]] {
        ctl(&mount, &[&["-m", "m"], command].concat(), 3);
    }
    // A crash says the same.
    server.start();
    mount.start();
    mount.flush();
    server.stop();
    shell(&mount.path(), "echo three > three");
    mount.kill9();
    let shown = ctl(&mount, &["-m", "m", "status"], 3);
    assert!(shown.contains("NOT RUNNING") && shown.contains("1 record"), "{shown}");
    ctl(&mount, &["-m", "nobody", "status"], 5);
}

/// A pause holds uploads back and nothing else; it says so with its reason, outlives a kill, and
/// `resume` sends what gathered.
#[test]
fn a_pause_holds_uploads_and_nothing_else() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo before > before");
    mount.flush();
    let said = ctl(&mount, &["pause", "--for", "2h", "--reason", "code freeze"], 0);
    assert!(said.contains("code freeze") && said.contains("mountctl resume"), "{said}");
    shell(&mount.path(), "echo one > one; mv before moved; cat one moved");
    server.put("/theirs", b"from elsewhere\n");
    let theirs = wait_for("a remote change", || fs::read(mount.at("theirs")).ok());
    assert_eq!(theirs, b"from elsewhere\n");
    for _ in 0..2 {
        let status = wait_state(&mount, "paused");
        assert_eq!(status["pause"]["uploads"]["reason"], "code freeze");
        assert!(status["pause"]["uploads"]["until"].is_string(), "{status:#}");
        assert_eq!(status["uploads"]["queued"], 3, "{status:#}");
        let shown = ctl(&mount, &["status"], 0);
        assert!(shown.contains("PAUSED") && shown.contains("code freeze"), "{shown}");
        let names: Vec<String> = server.files().into_keys().collect();
        assert_eq!(names, ["/before", "/theirs"]);
        mount.kill9();
        let shown = ctl(&mount, &["-m", "m", "status"], 3);
        assert!(shown.contains("paused") && shown.contains("code freeze"), "{shown}");
        mount.start();
    }
    let said = json(&mount, &["resume"]);
    assert_eq!(said["data"]["was_paused"], true, "{said:#}");
    assert_eq!(said["data"]["previous_reason"], "code freeze", "{said:#}");
    wait_sent(&mount);
    let names: Vec<String> = server.files().into_keys().collect();
    assert_eq!(names, ["/moved", "/one", "/theirs"]);
    mount.wait_synced();
    let said = json(&mount, &["resume"]);
    assert_eq!(said["data"]["was_paused"], false, "{said:#}");
}

/// A pause with an end ends by itself, then, and not earlier.
#[test]
fn a_pause_with_an_end_ends_by_itself() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let began = Instant::now();
    ctl(&mount, &["pause", "--for", "2s"], 0);
    shell(&mount.path(), "echo one > one");
    wait_for("the upload", || server.get("/one"));
    let after = began.elapsed();
    eprintln!("sent after {after:?}");
    assert!(after >= Duration::from_secs(2), "sent after {after:?}");
    mount.wait_synced();
    assert!(mount.status()["pause"]["uploads"].is_null());
}

/// `flush` returns when the server has everything; when it cannot, it ends in time with 6 and
/// says what is left and why. A flush of one path does not wait for others.
#[test]
fn a_flush_waits_for_what_it_was_asked_for() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    // Nothing leaves by itself, so that it is the flush that sends.
    let options = ["--debounce", "60s", "--max-delay", "60s"];
    let mount = Mount::builder(&server.source()).args(&options).start();
    mount.wait_synced();
    shell(&mount.path(), "mkdir a b; for n in $(seq 100); do echo $n > a/$n; done");
    let said = ctl(&mount, &["flush"], 0);
    assert!(said.contains("done"), "{said}");
    assert_eq!(server.files().len(), 100);
    let document = json(&mount, &["flush"]);
    assert_eq!(document["data"]["drained"], true, "{document:#}");
    assert_eq!(document["data"]["remaining"], 0, "{document:#}");

    // A file that is still open counts, too.
    let mut open = fs::File::create(mount.at("a/open")).unwrap();
    open.write_all(b"so far").unwrap();
    ctl(&mount, &["flush"], 0);
    assert_eq!(server.get("/a/open").unwrap().0, b"so far");
    drop(open);

    ctl(&mount, &["pause"], 0);
    shell(&mount.path(), "echo one > b/one");
    let began = Instant::now();
    let said = ctl(&mount, &["flush", "--timeout", "500ms"], 6);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(said.contains("1 record left") && said.contains("paused"), "{said}");
    ctl(&mount, &["flush", "--timeout", "300ms", "/b"], 6);
    ctl(&mount, &["flush", "--timeout", "300ms", "/b/one"], 6);
    let inside = mount.at("a").to_str().unwrap().to_owned();
    for path in ["/a", "/elsewhere", "/b/on", &inside] {
        ctl(&mount, &["flush", "--timeout", "5s", path], 0);
    }
    ctl(&mount, &["resume"], 0);
    ctl(&mount, &["flush", "/b"], 0);
    assert_eq!(server.get("/b/one").unwrap().0, b"one\n");

    server.stop();
    shell(&mount.path(), "echo two > b/two");
    let said = ctl(&mount, &["flush", "--timeout", "500ms"], 6);
    assert!(said.contains("1 record left"), "{said}");
    server.start();
    ctl(&mount, &["flush"], 0);
    assert_eq!(server.get("/b/two").unwrap().0, b"two\n");
}

/// The outbox lists every change that waits, oldest first, with what it is.
#[test]
fn the_outbox_lists_what_waits() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo old > old; echo gone > gone; echo bits > bits; mkdir empty");
    mount.flush();
    ctl(&mount, &["pause"], 0);
    shell(
        &mount.path(),
        "echo hello > new; rm gone; mkdir folder; ln -s new link; chmod 755 bits; mv old renamed
         rmdir empty",
    );
    let records = outbox(&mount);
    let short: Vec<String> = records
        .iter()
        .map(|record| {
            let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", text("op"), text("path"), record["size"], text("state"))
        })
        .collect();
    assert_eq!(
        short,
        [
            "write /new 6 queued",
            "delete /gone null queued",
            "mkdir /folder null queued",
            "symlink /link 3 queued",
            "meta /bits null queued",
            "write /renamed 4 queued",
            "delete /old null held",
            "rmdir /empty null queued",
        ],
        "{records:#?}"
    );
    let ids: Vec<u64> =
        records.iter().map(|record| record["id"].as_str().unwrap().parse().unwrap()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert!(records.iter().all(|record| record["attempts"] == 0), "{records:#?}");
    let shown = ctl(&mount, &["outbox"], 0);
    for part in ["/new", "symlink", "held", "rmdir", "6 B"] {
        assert!(shown.contains(part), "{part:?} is missing: {shown}");
    }
    // Ten changes of one file are one record.
    shell(&mount.path(), "for n in $(seq 10); do echo $n > new; done");
    assert_eq!(outbox(&mount).len(), 8);
    ctl(&mount, &["resume"], 0);
    wait_sent(&mount);
    assert!(outbox(&mount).is_empty());
}

/// A program that follows the events, and its lines so far; ended when dropped.
struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn of(mount: &Mount) -> Self {
        let mut child = mount
            .ctl_command(&["events", "--follow", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let out = BufReader::new(child.stdout.take().unwrap());
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn wait(&self, kind: &str, path: &str) -> Value {
        wait_for(&format!("a {kind} event of {path}"), || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|event| event["kind"] == kind && event["path"] == path).cloned()
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Events tell of local changes, of what the server accepted and of what came from elsewhere, as
/// it happens; later they can be read again.
#[test]
fn events_tell_what_happens() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let follower = Follower::of(&mount);
    shell(&mount.path(), "echo one > ours");
    let local = follower.wait("local", "/ours");
    let ack = follower.wait("ack", "/ours");
    assert_eq!(ack["revision"], server.get("/ours").unwrap().1.as_str(), "{ack:#}");
    assert!(local["at"].as_str() <= ack["at"].as_str(), "{local:#} {ack:#}");
    server.put("/theirs", b"two");
    let remote = follower.wait("remote", "/theirs");
    assert_eq!(remote["action"], "modify", "{remote:#}");
    server.delete("/theirs");
    wait_for("the removal", || {
        let lines = follower.lines.lock().unwrap();
        lines.iter().any(|event| event["action"] == "delete").then_some(())
    });
    ctl(&mount, &["pause"], 0);
    wait_for("the pause", || {
        let lines = follower.lines.lock().unwrap();
        lines
            .iter()
            .any(|event| event["kind"] == "link" && event["detail"] == "paused")
            .then_some(())
    });
    let recent = ctl(&mount, &["events"], 0);
    for part in ["/ours", "ack", "remote", "/theirs", "delete"] {
        assert!(recent.contains(part), "{part:?} is missing: {recent}");
    }
    let only = ctl(&mount, &["events", "--path", "/the*"], 0);
    assert!(only.contains("/theirs") && !only.contains("/ours"), "{only}");
}

/// `mountctl unmount` ends the mount; a second one finds nobody.
#[test]
fn unmount_ends_the_mount() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > one");
    // By the folder's name, from inside of it.
    let folder = mount.path();
    let said = ctl(&mount, &["unmount", "-m", folder.to_str().unwrap()], 0);
    assert!(said.contains("outbox empty"), "{said}");
    assert!(!mount.is_mounted(), "free when the command ends");
    assert_eq!(mount.wait_end(), Some(0));
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
    ctl(&mount, &["-m", "m", "unmount"], 3);
}

/// Sends bytes to the control socket and returns what comes back; also nothing.
fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // The daemon may refuse before it has read all of it.
    drop(stream.write_all(request));
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply));
    String::from_utf8_lossy(&reply).into_owned()
}

fn get(socket: &Path, route: &str, headers: &str) -> String {
    let request = format!("GET {route} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{headers}\r\n");
    raw(socket, request.as_bytes())
}

/// Any HTTP client can use the API; web pages and other versions are refused, and so is anything
/// that is no request, without harm.
#[test]
fn the_socket_speaks_http_and_survives_what_is_not() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let socket = mount.socket();
    let version = "X-Mountd-Api-Version: 1\r\n";
    let curl = Command::new("curl")
        .args(["-s", "--unix-socket", socket.to_str().unwrap(), "http://m/v1/status"])
        .args(["-H", "X-Mountd-Api-Version: 1"])
        .output();
    match curl {
        Ok(output) => {
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(document["data"]["mount"]["state"], "synced", "{document:#}");
        }
        Err(error) => eprintln!("SKIPPED curl: {error}"),
    }
    let hello = get(&socket, "/v1/hello", "");
    assert!(hello.starts_with("HTTP/1.1 200") && hello.contains("api_versions"), "{hello}");
    let reply = get(&socket, "/v1/status", version);
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let reply = get(&socket, "/v1/status", "X-Mountd-Api-Version: 2\r\n");
    assert!(reply.starts_with("HTTP/1.1 426"), "{reply}");
    assert!(reply.contains("VERSION_INCOMPATIBLE"), "{reply}");
    for route in ["/v1/hello", "/v1/status"] {
        let headers = format!("{version}Origin: http://evil.example\r\n");
        let reply = get(&socket, route, &headers);
        assert!(reply.starts_with("HTTP/1.1 403") && reply.contains("NOT_PERMITTED"), "{reply}");
    }
    let reply = get(&socket, "/v1/nothing", version);
    assert!(reply.starts_with("HTTP/1.1 404") && reply.contains("NOT_FOUND"), "{reply}");
    let reply = get(&socket, "/v1/pause", version);
    assert!(reply.starts_with("HTTP/1.1 405"), "{reply}");
    let post = |body: &str| {
        let length = body.len();
        let head = format!(
            "POST /v1/pause HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{version}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        raw(&socket, format!("{head}{body}").as_bytes())
    };
    for body in ["{", "[]", "7", "{\"for_ms\":-1}", "{\"for_ms\":\"soon\"}", "\u{0}\u{1}"] {
        let reply = post(body);
        assert!(reply.starts_with("HTTP/1.1 400"), "{body:?}: {reply}");
        assert!(reply.contains("INVALID_ARGUMENT"), "{body:?}: {reply}");
    }
    let huge = post(&format!("{{\"reason\":\"{}\"}}", "x".repeat(10 << 20)));
    assert!(!huge.contains("HTTP/1.1 200"), "{huge}");
    for garbage in [
        &b"\0\0\0\0"[..],
        b"GET",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/flush HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/pause HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        &[0xff; 100_000],
        &bytes(1, 100_000),
        format!("GET /v1/{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).as_bytes(),
        format!("GET /v1/status HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes(),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        drop(stream.write_all(garbage));
        // Without this the daemon rightly waits for the rest.
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut reply = Vec::new();
        drop(stream.read_to_end(&mut reply));
        let reply = String::from_utf8_lossy(&reply);
        assert!(!reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    // Those who connect and say nothing hinder nobody.
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let status = wait_state(&mount, "synced");
    assert!(status["pause"]["uploads"].is_null(), "{status:#}");
    shell(&mount.path(), "echo alive > alive");
    mount.flush();
    drop(silent);
}

/// The mode bits of a path.
fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Nobody but the owner can reach the socket, the state or the mount's files: not by the
/// permission bits, and not by connecting.
#[test]
fn other_users_are_kept_out() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("large"), bytes(1, 300_000)).unwrap();
    shell(&mount.path(), "echo small > small");
    mount.flush();
    assert_eq!(mode(&mount.socket()), 0o600);
    assert_eq!(mode(mount.socket().parent().unwrap()), 0o700);
    let listing = shell(&mount.state(), "find . -printf '%y %m %p\\n'");
    assert!(listing.contains("state.db"), "{listing}");
    for line in listing.lines() {
        let expected = if line.starts_with('d') { "d 700 " } else { "f 600 " };
        assert!(line.starts_with(expected), "{line} in\n{listing}");
    }

    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED connecting as another user: not root");
        return;
    }
    // Even with the folders open to all, the kernel's word on the caller decides.
    for path in [mount.outside().to_owned(), mount.outside().join("run")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let as_nobody = |socket: &Path| {
        Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["curl", "-s", "-m", "5", "--unix-socket", socket.to_str().unwrap()])
            .arg("http://m/v1/status")
            .output()
            .unwrap()
    };
    let output = as_nobody(&mount.socket());
    assert!(!output.status.success(), "another user got in: {}", stdout(&output));
    assert!(output.stdout.is_empty(), "{}", stdout(&output));
    let folder = mount.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(mount.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let said = stdout(&as_nobody(&mount.socket()));
    assert!(said.contains("NOT_PERMITTED"), "{said}");
    // And the mount itself is the owner's alone.
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"])
        .arg(mount.at("small"))
        .output()
        .unwrap();
    assert!(!output.status.success(), "another user read a file");
}

/// Whether a file, a folder's files, or a text holds the token.
fn holds_token(bytes: &[u8]) -> bool {
    bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes())
}

/// The token is nowhere but in its file: not in the log for debugging, not in the process's
/// command line or environment, not in the state, not in what the API tells.
#[test]
fn the_token_shows_nowhere() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > one");
    mount.flush();
    // Failures are where texts get long.
    server.stop();
    shell(&mount.path(), "echo two > two");
    wait_state(&mount, "offline");
    server.start();
    mount.flush();
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", mount.pid())).unwrap();
        assert!(!bytes.is_empty() && !holds_token(&bytes), "{file}");
    }
    for args in [&["status"][..], &["outbox"], &["conflicts"], &["events"]] {
        let said = json_or_lines(&mount, args);
        assert!(!holds_token(said.as_bytes()), "{args:?}: {said}");
    }
    assert!(mount.log().contains("DEBUG"), "{}", mount.log());
    mount.kill9();
    assert!(!holds_token(mount.log().as_bytes()), "the log shows the token");
    let found = Command::new("grep")
        .args(["-rlF", TOKEN])
        .arg(mount.outside().join("state"))
        .arg(mount.outside().join("run"))
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1), "the token is in {}", stdout(&found));
    mount.start();
}

fn json_or_lines(mount: &Mount, args: &[&str]) -> String {
    let output = mount.ctl(&[args, &["--json"]].concat());
    format!("{}{}", stdout(&output), stderr(&output))
}
