//! Two mounts of one workspace: what is closed in one is soon what the other shows, whatever the
//! other had open, cached or looked up before; and nothing is missed for good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use workspaced::Before;

use crate::on_both_servers;
use crate::support::hooks::{Act, Hooks};
use crate::support::server::encode;
use crate::support::tree::{Entry, Tree, agree, bytes_of, difference, summaries, tree};
use crate::support::{Kind, Mount, PATIENCE, TestServer, bytes, seed, wait_for, wait_within};

on_both_servers!(
    new_bytes_are_read_where_the_old_ones_were_known,
    new_bytes_are_seen_through_a_mapping,
    a_reader_sees_one_version_while_it_changes,
    names_come_and_go,
    what_is_closed_is_soon_in_the_other_mount,
    the_change_stream_is_live,
    cut_streams_miss_nothing,
    sockets_that_do_not_last_are_no_reason_to_wait,
    without_a_socket_changes_are_asked_for,
    changes_made_meanwhile_appear_after_the_start,
    a_start_without_the_server_shows_what_was_there,
    mounts_that_work_at_once_converge,
);

/// How long a change may take from its close here to the other mount. It takes milliseconds; the
/// rest is for machines that do other things.
const SOON: Duration = Duration::from_secs(5);

/// Content and size of a file are new in the other mount within a second, whether it was read
/// there before, is held open there, grew, shrank, or kept its size.
fn new_bytes_are_read_where_the_old_ones_were_known(kind: Kind) {
    let (_server, a, b) = pair(kind);
    for large in [false, true] {
        let base = if large { 300 << 10 } else { 300 };
        let name = format!("f{base}");
        fs::write(a.at(&name), bytes(0, base)).unwrap();
        wait_within(SOON, "the file", || {
            (read_if_there(&b.at(&name))? == bytes(0, base)).then_some(())
        });
        let open = File::open(b.at(&name)).unwrap();
        let sizes = [base, base + 77, base / 3, 0, base];
        for (n, size) in sizes.into_iter().enumerate() {
            let content = bytes(1 + n as u64, size);
            fs::write(a.at(&name), &content).unwrap();
            wait_within(SOON, "the new bytes by name", || {
                (fs::read(b.at(&name)).unwrap() == content).then_some(())
            });
            assert_eq!(fs::metadata(b.at(&name)).unwrap().size(), size as u64);
            // Whoever had it open sees the same file go on.
            assert_eq!(open.metadata().unwrap().size(), size as u64, "size of the open file");
            let mut held = vec![0; size + 100];
            let n = open.read_at(&mut held, 0).unwrap();
            assert!(held[..n] == content, "bytes of the open file");
        }
    }
}

/// Whoever reads a file while it changes elsewhere gets one of the versions, whole: never the bytes
/// of one with the length of the other, whether they open it anew or hold it open, and whatever
/// others ask of it meanwhile. A read that is inside of the kernel in the very moment in which that
/// learns of the change is out of our hands; the next one is not.
fn a_reader_sees_one_version_while_it_changes(kind: Kind) {
    const FLIPS: u64 = 100;
    let (server, _, b) = pair(kind);
    let versions = [vec![b'a'; 5], vec![b'b'; 60_000], vec![b'c'; 9_000]];
    let version = |n: u64| &versions[usize::try_from(n).unwrap() % versions.len()];
    server.put("f", version(0));
    wait_within(SOON, "the file", || read_if_there(&b.at("f")));
    let over = AtomicBool::new(false);
    let path = b.at("f");
    let is_whole = |file: &File| {
        let mut buffer = vec![0; 100_000];
        let n = file.read_at(&mut buffer, 0).unwrap();
        versions.iter().any(|version| *version == buffer[..n])
    };
    let read = |is_held: bool| {
        let mut file = File::open(&path).unwrap();
        while !over.load(Ordering::Relaxed) {
            if !is_held {
                file = File::open(&path).unwrap();
            }
            // The next one may be inside of the kernel when the next change comes, but not each.
            let is_ever_whole = (0..4).any(|_| is_whole(&file));
            assert!(is_ever_whole, "four times what never was (held: {is_held})");
        }
    };
    std::thread::scope(|scope| {
        let _end = SetWhenDropped(&over);
        scope.spawn(|| read(false));
        scope.spawn(|| read(true));
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let size = fs::metadata(&path).unwrap().size();
                assert!(versions.iter().any(|version| version.len() as u64 == size), "{size}");
            }
        });
        for n in 1..=FLIPS {
            server.put("f", version(n));
            wait_within(SOON, "the new version", || {
                (fs::read(&path).unwrap() == *version(n)).then_some(())
            });
        }
    });
}

/// A file that changed is read whole also while the kernel cannot be told of the change, because it
/// still waits for another file: never with the length that it had.
#[test]
fn a_changed_file_is_read_whole_before_the_kernel_can_be_told() {
    let hooks = Hooks::new();
    let server = TestServer::builder().interceptor(hooks.clone()).start();
    let (old, new) = (bytes(1, 5), bytes(2, 50_000));
    server.put("slow", &bytes(3, 100_000));
    server.put("d/f", &old);
    server.put("e/first", b"");
    let b = Mount::of(&server);
    b.wait_synced();
    let slow = Act::Before(Before::Delay(Duration::from_secs(2)));
    let is_slow = |request: &workspaced::RequestHead| request.path.as_deref() == Some("/slow");
    let asked = hooks.add(1, slow, is_slow);
    let path = b.at("slow");
    // Its pages are locked until the bytes are there.
    let waiting = std::thread::spawn(move || drop(fs::read(path)));
    asked.wait();
    assert_eq!(fs::metadata(b.at("d/f")).unwrap().size(), 5);
    server.put("slow", &bytes(4, 90_000));
    server.put("d/f", &new);
    server.put("e/last", b"");
    wait_within(SOON, "the news", || (names(&b.at("e")).len() == 2).then_some(()));
    let file = File::open(b.at("d/f")).unwrap();
    let mut seen = vec![0; 60_000];
    let n = file.read_at(&mut seen, 0).unwrap();
    assert!(seen[..n] == new, "{n} bytes");
    waiting.join().unwrap();
    assert!(fs::read(b.at("d/f")).unwrap() == new);
}

/// A daemon that is killed ends, whatever its callers and the kernel wait for, and the next one takes
/// over: here a file is being fetched for a reader, and for who removes it, while it changes elsewhere.
#[test]
fn a_kill_ends_a_daemon_whose_callers_wait_for_the_network() {
    let hooks = Hooks::new();
    let server = TestServer::builder().interceptor(hooks.clone()).start();
    server.put("d/slow", &bytes(3, 100_000));
    server.put("d/unread", &bytes(3, 100_000));
    server.put("e/first", b"");
    let mut b = Mount::of(&server);
    b.wait_synced();
    let slow = Act::Before(Before::Delay(PATIENCE));
    let is_content = |request: &workspaced::RequestHead| {
        request.method == "GET" && request.path.as_deref().is_some_and(|at| at.starts_with("/d/"))
    };
    let asked = hooks.add(u64::MAX, slow, is_content);
    let (slow, unread) = (b.at("d/slow"), b.at("d/unread"));
    let open = File::open(&unread).unwrap();
    let reader = std::thread::spawn(move || drop(fs::read(slow)));
    // Who removes a name keeps others from looking up names beside it meanwhile.
    wait_for("the reader to wait", || (asked.count() >= 1).then_some(()));
    let remover = std::thread::spawn(move || drop(fs::remove_file(unread)));
    wait_for("both to wait", || (asked.count() >= 2).then_some(()));
    server.put("d/slow", &bytes(4, 90_000));
    server.put("d/new", b"");
    server.put("e/last", b"");
    wait_within(SOON, "the news", || (names(&b.at("e")).len() == 2).then_some(()));
    b.kill9();
    reader.join().unwrap();
    remover.join().unwrap();
    drop(open);
    hooks.clear();
    b.start();
    wait_for("the new bytes", || {
        (read_if_there(&b.at("d/slow"))? == bytes(4, 90_000)).then_some(())
    });
}

/// A program that maps a file sees the bytes that another mount wrote.
fn new_bytes_are_seen_through_a_mapping(kind: Kind) {
    let (_server, a, b) = pair(kind);
    fs::write(a.at("f"), "a".repeat(5000)).unwrap();
    wait_within(SOON, "the file", || read_if_there(&b.at("f")));
    let script = "import mmap, sys\n\
        f = open(sys.argv[1], 'rb')\n\
        m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
        for line in sys.stdin: print(chr(m[0]) + chr(m[4999]), flush=True)\n";
    let mut program = Command::new("python3")
        .args(["-c", script])
        .arg(b.at("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut ask = program.stdin.take().unwrap();
    let mut answers = BufReader::new(program.stdout.take().unwrap());
    let mut look = || {
        ask.write_all(b"\n").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(look(), "aa\n");
    fs::write(a.at("f"), "b".repeat(5000)).unwrap();
    wait_within(SOON, "the new bytes in the mapping", || (look() == "bb\n").then_some(()));
    drop(ask);
    program.wait().unwrap();
}

/// Names that the other mount had listed, looked up, or found missing are right within a second:
/// files, nested folders, removals, renames; with extensions empty folders, modes and links too.
fn names_come_and_go(kind: Kind) {
    let (server, a, b) = pair(kind);
    let is_missing = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    // A name that was found missing, in a folder that was listed.
    assert!(is_missing(&b.at("new")));
    assert_eq!(names(&b.path()), [""; 0]);
    fs::write(a.at("new"), "new").unwrap();
    wait_within(SOON, "a new file", || read_if_there(&b.at("new")));
    assert_eq!(names(&b.path()), ["new"]);

    // The same some folders down, none of which was there.
    assert!(is_missing(&b.at("x")));
    assert!(is_missing(&b.at("x/y/z/deep")));
    fs::create_dir_all(a.at("x/y/z")).unwrap();
    fs::write(a.at("x/y/z/deep"), "deep").unwrap();
    wait_within(SOON, "a file in new folders", || read_if_there(&b.at("x/y/z/deep")));
    assert_eq!(names(&b.at("x/y")), ["z"]);
    assert_eq!(names(&b.at("x/y/z")), ["deep"]);

    // A removal of what is cached, listed and open.
    let open = File::open(b.at("new")).unwrap();
    fs::remove_file(a.at("new")).unwrap();
    wait_within(SOON, "a removal", || is_missing(&b.at("new")).then_some(()));
    assert_eq!(names(&b.path()), ["x"]);
    let mut held = [0; 3];
    assert_eq!(open.read_at(&mut held, 0).unwrap(), 3, "who has it open reads on");
    assert_eq!(&held, b"new");

    // It comes back, with other bytes.
    fs::write(a.at("new"), "again").unwrap();
    wait_within(SOON, "it is back", || (read_if_there(&b.at("new"))? == b"again").then_some(()));

    // Renames, of a file and of a folder, onto names that were found missing.
    assert!(is_missing(&b.at("renamed")) && is_missing(&b.at("w")));
    fs::rename(a.at("new"), a.at("renamed")).unwrap();
    fs::rename(a.at("x"), a.at("w")).unwrap();
    wait_within(SOON, "the renamed file", || read_if_there(&b.at("renamed")));
    wait_within(SOON, "the renamed folder", || read_if_there(&b.at("w/y/z/deep")));
    wait_within(SOON, "the old names are gone", || {
        (is_missing(&b.at("new")) && is_missing(&b.at("x"))).then_some(())
    });
    assert_eq!(fs::read(b.at("renamed")).unwrap(), b"again");
    assert_eq!(fs::read(b.at("w/y/z/deep")).unwrap(), b"deep");
    assert_eq!(names(&b.path()), ["renamed", "w"]);

    if kind.is_extended() {
        assert!(is_missing(&b.at("empty")));
        fs::create_dir(a.at("empty")).unwrap();
        wait_within(SOON, "an empty folder", || b.at("empty").is_dir().then_some(()));
        fs::remove_dir(a.at("empty")).unwrap();
        wait_within(SOON, "it is removed", || is_missing(&b.at("empty")).then_some(()));

        fs::set_permissions(a.at("renamed"), fs::Permissions::from_mode(0o750)).unwrap();
        wait_within(SOON, "a mode", || {
            (fs::metadata(b.at("renamed")).unwrap().mode() & 0o7777 == 0o750).then_some(())
        });
        std::os::unix::fs::symlink("renamed", a.at("link")).unwrap();
        wait_within(SOON, "a link", || fs::read_link(b.at("link")).ok());
        assert_eq!(fs::read(b.at("link")).unwrap(), b"again");
    }
    agree_on_files(&server, &a, &b);
}

/// From a close here to the new bytes in the other mount it takes less than a second. The figures
/// are printed.
fn what_is_closed_is_soon_in_the_other_mount(kind: Kind) {
    let (_server, a, b) = pair(kind);
    let mut took: Vec<Duration> = (0..50_u32)
        .map(|n| {
            let name = format!("f{}", n % 7);
            let content = format!("content {n}");
            fs::write(a.at(&name), &content).unwrap();
            let closed = Instant::now();
            wait_within(SOON, "the new bytes", || {
                (read_if_there(&b.at(&name))? == content.as_bytes()).then_some(())
            });
            closed.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!(
        "{kind:?}: close here to new bytes there, 50 writes: p50 {:?}, p99 {:?}, max {:?}",
        took[24], took[48], took[49]
    );
    assert!(took[49] < SOON);
}

/// The status says that changes are pushed, and how far the stream was read.
fn the_change_stream_is_live(kind: Kind) {
    let (_server, a, b) = pair(kind);
    for mount in [&a, &b] {
        let stream = &mount.status()["stream"];
        assert_eq!((&stream["mode"], &stream["status"]), (&"websocket".into(), &"live".into()));
    }
    fs::write(a.at("f"), "x").unwrap();
    wait_for("the event in both", || {
        let cursor = |mount: &Mount| mount.status()["stream"]["cursor"].clone();
        (cursor(&a) == cursor(&b) && cursor(&a) != serde_json::Value::Null).then_some(())
    });
}

/// Streams that are cut again and again while files change are brought back by themselves, and
/// no change is missed.
fn cut_streams_miss_nothing(kind: Kind) {
    let server = kind.server().start();
    let of = |server: &TestServer| {
        Mount::builder(&server.source()).args(&["--poll-interval", "1s"]).start()
    };
    let (a, b) = (of(&server), of(&server));
    a.wait_synced();
    b.wait_synced();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..150_u32 {
                fs::write(a.at(&format!("f{}", n % 37)), format!("content {n}")).unwrap();
                if n % 5 == 4 {
                    fs::remove_file(a.at(&format!("f{}", (n - 1) % 37))).unwrap();
                }
            }
        });
        let feeds = server.feeds();
        for _ in 0..8 {
            wait_for("a stream to cut", || (feeds.open() > 0).then_some(()));
            feeds.disconnect_all();
        }
        writer.join().unwrap();
    });
    server.feeds().disconnect_all();
    agree_on_files(&server, &a, &b);
}

/// Ends a thread also when a test fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sockets that open and never last do not make changes late: they are asked for meanwhile.
fn sockets_that_do_not_last_are_no_reason_to_wait(kind: Kind) {
    let server = kind.server().start();
    let b = Mount::builder(&server.source()).args(&["--poll-interval", "1s"]).start();
    b.wait_synced();
    let feeds = server.feeds();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetWhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                feeds.disconnect_all();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        wait_for("it asks", || (b.status()["stream"]["mode"] == "polling").then_some(()));
        for n in 0..3 {
            let content = format!("content {n}");
            server.put("/f", content.as_bytes());
            wait_for("the change", || {
                (read_if_there(&b.at("f"))? == content.as_bytes()).then_some(())
            });
        }
    });
    wait_for("the socket is back", || (b.status()["stream"]["mode"] == "websocket").then_some(()));
}

/// While the server refuses sockets, changes are asked for at the interval that was set, the
/// status says so, and the socket is back as soon as the server takes it.
fn without_a_socket_changes_are_asked_for(kind: Kind) {
    let hooks = Hooks::new();
    let refuse = Before::Reply { status: 503, headers: Vec::new(), body: String::new() };
    let refused = hooks.add(u64::MAX, Act::Before(refuse), |request| request.route == "/fs/ws");
    let server = kind.server().interceptor(hooks.clone()).start();
    let b = Mount::builder(&server.source()).args(&["--poll-interval", "1s"]).start();
    wait_for("state degraded", || (b.status()["state"] == "degraded").then_some(()));
    let stream = &b.status()["stream"];
    assert_eq!(stream["mode"], "polling", "{stream}");
    assert_eq!(stream["poll_interval_ms"], 1000, "{stream}");
    assert!(refused.count() > 0);
    server.put("/f", b"polled");
    wait_for("what was asked for", || read_if_there(&b.at("f")));
    server.put("/f", b"polled again");
    wait_for("news of what is known", || {
        (fs::read(b.at("f")).unwrap() == b"polled again").then_some(())
    });
    server.delete("/f");
    wait_for("a removal", || fs::metadata(b.at("f")).is_err().then_some(()));
    hooks.clear();
    b.wait_synced();
    assert_eq!(b.status()["stream"]["mode"], "websocket");
}

/// Whatever changed while a mount was stopped is there after its start.
fn changes_made_meanwhile_appear_after_the_start(kind: Kind) {
    let server = kind.server().start();
    let mut b = Mount::of(&server);
    let mut expected = BTreeMap::new();
    bulk_put(&server, &mut expected, 0..200, "before");
    wait_for("everything", || (tree(&b.path()).ok()?.len() > 200).then_some(()));
    b.wait_synced();
    assert_eq!(b.term(), Some(0));
    bulk_put(&server, &mut expected, 100..200, "changed");
    bulk_put(&server, &mut expected, 200..500, "created");
    for n in 0..100 {
        let path = path_of(n);
        server.delete(&path);
        expected.remove(&path);
    }
    b.start();
    shows_files(&b, &expected);
    b.wait_synced();
    assert_eq!(b.status()["conflicts"]["open"], 0);
}

fn path_of(n: u32) -> String {
    format!("/d{}/f{n}", n % 7)
}

/// Writes files in one request, as somebody else.
fn bulk_put(
    server: &TestServer,
    expected: &mut BTreeMap<String, Vec<u8>>,
    which: std::ops::Range<u32>,
    what: &str,
) {
    let entries: Vec<_> = which
        .map(|n| {
            let content = format!("{what} {n}");
            expected.insert(path_of(n), content.clone().into_bytes());
            serde_json::json!({ "path": path_of(n), "content": content, "ifMatch": "*" })
        })
        .collect();
    let body = serde_json::json!({ "files": entries }).to_string().into_bytes();
    let json = [("Content-Type", "application/json")];
    let (status, reply) = server.request(Method::POST, "/fs/bulk", &json, Some(body));
    let reply: serde_json::Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!((status, &reply["errorCount"]), (202, &0.into()), "{reply}");
}

/// A mount that starts while the server is away shows the tree and the bytes that it had. What
/// it never had fails at once, and not as if it did not exist.
fn a_start_without_the_server_shows_what_was_there(kind: Kind) {
    let mut server = kind.server().start();
    server.put("/d/small", b"small");
    put_large(&server, kind, "/d/large", &bytes(1, 600 << 10));
    put_large(&server, kind, "/d/known", &bytes(2, 600 << 10));
    let mut b = Mount::of(&server);
    b.wait_synced();
    assert_eq!(fs::read(b.at("d/small")).unwrap(), b"small");
    assert!(fs::read(b.at("d/known")).unwrap() == bytes(2, 600 << 10));
    assert_eq!(b.term(), Some(0));
    server.stop();
    b.start();
    assert_eq!(names(&b.at("d")), ["known", "large", "small"]);
    assert_eq!(fs::read(b.at("d/small")).unwrap(), b"small");
    assert!(fs::read(b.at("d/known")).unwrap() == bytes(2, 600 << 10), "bytes it had");
    if kind.is_extended() {
        // Without exact sizes, the size of what was never fetched is a guess.
        assert_eq!(fs::metadata(b.at("d/large")).unwrap().size(), 600 << 10);
    }
    let began = Instant::now();
    let error = fs::read(b.at("d/large")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENETDOWN), "{error}");
    assert!(began.elapsed() < SOON, "it took {:?} to fail", began.elapsed());
    wait_for("state offline", || (b.status()["state"] == "offline").then_some(()));
    // Work goes on meanwhile, and all of it is there when the server is.
    fs::write(b.at("d/ours"), "ours").unwrap();
    server.start();
    wait_for("the bytes that were missing", || {
        (fs::read(b.at("d/large")).ok()? == bytes(1, 600 << 10)).then_some(())
    });
    wait_for("what was written offline", || server.get("/d/ours"));
    b.wait_synced();
}

/// Two mounts in which several threads edit files of their own at once, all kinds of changes
/// mixed, end with the same tree, which is the server's.
fn mounts_that_work_at_once_converge(kind: Kind) {
    let (server, a, b) = pair(kind);
    let seed = seed();
    std::thread::scope(|scope| {
        for (n, mount) in [&a, &b, &a, &b, &a, &b].into_iter().enumerate() {
            let rng = SmallRng::seed_from_u64(seed + n as u64);
            let home = mount.at(&format!("home{n}"));
            scope.spawn(move || work(&home, rng));
        }
    });
    a.flush();
    b.flush();
    let shown = agree_on_files(&server, &a, &b);
    assert!(!shown.is_empty());
    if kind.is_extended() {
        agree(&server, &a, &b);
    }
    for mount in [&a, &b] {
        assert_eq!(mount.status()["conflicts"]["open"], 0);
    }
}

fn work(home: &Path, mut rng: SmallRng) {
    fs::create_dir(home).unwrap();
    let mut files: Vec<std::path::PathBuf> = Vec::new();
    for n in 0..60 {
        let pick = if files.is_empty() { 0 } else { rng.random_range(0..10) };
        match pick {
            0..4 => {
                let folder = home.join(format!("d{}", rng.random_range(0..3)));
                fs::create_dir_all(&folder).unwrap();
                let path = folder.join(format!("f{n}"));
                fs::write(&path, bytes(rng.random(), rng.random_range(0..100_000))).unwrap();
                files.push(path);
            }
            4..6 => {
                let path = &files[rng.random_range(0..files.len())];
                fs::write(path, bytes(rng.random(), rng.random_range(0..3_000))).unwrap();
            }
            6 => {
                let path = &files[rng.random_range(0..files.len())];
                let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
                writeln!(file, "appended {n}").unwrap();
            }
            7 => {
                let path = files.swap_remove(rng.random_range(0..files.len()));
                fs::remove_file(path).unwrap();
            }
            8 => {
                let which = rng.random_range(0..files.len());
                let to = home.join(format!("moved{n}"));
                fs::rename(&files[which], &to).unwrap();
                files[which] = to;
            }
            _ => {
                // Onto another file, which goes.
                let from = files.swap_remove(rng.random_range(0..files.len()));
                match files.first() {
                    Some(to) => fs::rename(from, to).unwrap(),
                    None => files.push(from),
                }
            }
        }
    }
}

fn pair(kind: Kind) -> (TestServer, Mount, Mount) {
    let server = kind.server().start();
    let (a, b) = (Mount::of(&server), Mount::of(&server));
    a.wait_synced();
    b.wait_synced();
    (server, a, b)
}

/// The bytes of a file, if it is there. What is there can be read.
#[track_caller]
fn read_if_there(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("read {}: {error}", path.display()),
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until a mount shows exactly these files; folders are not compared.
#[track_caller]
fn shows_files(mount: &Mount, expected: &BTreeMap<String, Vec<u8>>) -> Tree {
    let began = Instant::now();
    loop {
        // While changes arrive, what was listed may be gone before it is read.
        let shown = tree(&mount.path());
        if let Ok(shown) = &shown
            && bytes_of(shown) == *expected
        {
            return shown.clone();
        }
        if began.elapsed() > PATIENCE {
            let shown = summaries(&bytes_of(&shown.unwrap()));
            let difference = difference(&summaries(expected), &shown);
            panic!("at the server (left) and shown by the mount: {difference:#?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Both mounts show the server's files. Which folders are empty, and modes, need extensions.
#[track_caller]
fn agree_on_files(server: &TestServer, a: &Mount, b: &Mount) -> Tree {
    a.flush();
    b.flush();
    let files = server.files();
    let shown = shows_files(a, &files);
    shows_files(b, &files);
    shown.into_iter().filter(|(_, entry)| *entry != Entry::Dir).collect()
}

/// Writes what may be too large for a JSON request.
fn put_large(server: &TestServer, kind: Kind, path: &str, content: &[u8]) {
    if kind.is_extended() {
        let route = format!("/fs/raw?path={}", encode(path));
        let any = [("If-Match", "*")];
        let (status, reply) = server.request(Method::PUT, &route, &any, Some(content.to_vec()));
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(&reply));
    } else {
        server.put(path, content);
    }
}
