//! What goes wrong with the server, the network and the daemon itself: work goes on, nothing is
//! lost, nothing arrives twice, and people are told.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use workspaced::{After, Before, RequestHead};

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::load::{self, Account, Load};
use crate::support::observe::{
    count, history, json, mount_entries, outbox, stderr, stdout, wait_sent, wait_state,
};
use crate::support::server::TOKEN;
use crate::support::tree::{bytes_of, tree};
use crate::support::{Mount, TestServer, bytes, seed, shell, wait_for};

/// No call on the mount may take longer, whatever the server does.
const LOCAL_MAX: Duration = Duration::from_secs(1);

/// The slowest of many calls.
#[derive(Default)]
struct Slowest(Duration);

impl Slowest {
    fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = call();
        self.0 = self.0.max(began.elapsed());
        value
    }

    #[track_caller]
    fn check(&self, what: &str) {
        eprintln!("{what}: slowest call {:?}", self.0);
        assert!(self.0 < LOCAL_MAX, "{what}: a call took {:?}", self.0);
    }
}

fn is_bulk(request: &RequestHead) -> bool {
    request.route == "/fs/bulk"
}

/// Without the server 200 writes, renames and deletes go on at full speed and the status counts
/// them; when it is back, the replay starts within a second, keeps the order, and repeats nothing.
#[test]
fn work_goes_on_offline_and_is_replayed_in_order_once_the_server_is_back() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    for n in 0..40 {
        fs::write(mount.at(&format!("old-{n:03}")), format!("old {n}")).unwrap();
    }
    mount.flush();
    let before = history(&server).len();
    server.stop();
    let stopped_at = Instant::now();

    let mut slowest = Slowest::default();
    for n in 0..200 {
        slowest.call(|| fs::write(mount.at(&format!("new-{n:03}")), format!("new {n}")).unwrap());
    }
    for n in 0..20 {
        let (from, to) = (format!("old-{n:03}"), format!("moved-{n:03}"));
        slowest.call(|| fs::rename(mount.at(&from), mount.at(&to)).unwrap());
    }
    for n in 20..40 {
        slowest.call(|| fs::remove_file(mount.at(&format!("old-{n:03}"))).unwrap());
    }
    slowest.check("offline");
    let status = wait_state(&mount, "offline");
    // A rename is a new name to be stored and an old one to be deleted.
    assert_eq!(status["uploads"]["queued"], 260, "{status:#}");
    assert_eq!(status["uploads"]["backoff"], 260, "{status:#}");
    let shown = stdout(&mount.ctl(&["status"]));
    assert!(shown.contains("OFFLINE") && shown.contains("260 queued"), "{shown}");
    let ours = tree(&mount.path()).unwrap();

    // The delay between attempts has grown by then: only the return itself may end it.
    std::thread::sleep(Duration::from_secs(5).saturating_sub(stopped_at.elapsed()));
    server.start();
    let back_at = Instant::now();
    let log = server.log();
    wait_for("the first batch", || (log.count("POST", "/fs/bulk") > 0).then_some(()));
    let after = back_at.elapsed();
    eprintln!("replay began {after:?} after the server was back");
    assert!(after < Duration::from_secs(2), "the replay began {after:?} after the return");
    wait_sent(&mount);

    assert_eq!(server.files(), bytes_of(&ours));
    let news = &history(&server)[before..];
    let created: Vec<&str> = news
        .iter()
        .filter(|(kind, path)| kind == "file.created" && path.starts_with("/new-"))
        .map(|(_, path)| path.as_str())
        .collect();
    let expected: Vec<String> = (0..200).map(|n| format!("/new-{n:03}")).collect();
    assert_eq!(created, expected, "in the order of writing, each once");
    for n in 0..20 {
        assert_eq!(count(news, "file.created", &format!("/moved-{n:03}")), 1);
        assert_eq!(count(news, "file.deleted", &format!("/old-{n:03}")), 1);
    }
    for n in 20..40 {
        assert_eq!(count(news, "file.deleted", &format!("/old-{n:03}")), 1);
    }
    assert_eq!(news.len(), 260, "and nothing else happened");
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// Killed while offline and started again without the server: the same names, bytes and
/// permission bits are there at once, and all of it arrives when the server is back.
#[test]
fn a_kill_while_offline_keeps_the_tree_and_all_bytes() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir -p kept/deep; echo one > kept/one; echo two > kept/deep/two");
    shell(&mount.path(), "echo gone > gone; echo moved > from; ln -s kept/one link; mkdir empty");
    mount.flush();
    server.stop();
    fs::write(mount.at("large"), bytes(1, 3_000_000)).unwrap();
    fs::write(mount.at("small"), bytes(2, 40_000)).unwrap();
    shell(
        &mount.path(),
        "rm gone; mv from to; echo more >> kept/one; chmod 750 kept/deep/two; ln -sfn to link
         mv kept renamed; mkdir -p a/b/c; echo deep > a/b/c/file; truncate -s 10 small; rmdir empty",
    );
    let before = tree(&mount.path()).unwrap();
    for _ in 0..2 {
        mount.kill9();
        mount.start();
        assert_eq!(tree(&mount.path()).unwrap(), before);
    }
    server.start();
    wait_sent(&mount);
    assert_eq!(server.files(), bytes_of(&before));
    assert_eq!(tree(&mount.path()).unwrap(), before);
    let late = Mount::of(&server);
    crate::support::tree::shows(&late, &before);
}

/// A server that takes its tokens from a file that the test can change.
fn server_with_tokens(tokens: &str, edge: Option<Arc<Edge>>) -> (TestServer, PathBuf, impl Drop) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    replace(&file, tokens);
    let mut builder = TestServer::builder().token_file(file.clone());
    if let Some(edge) = edge {
        builder = builder.interceptor(edge);
    }
    (builder.start(), file, folder)
}

/// Puts a file in place of another at once, readable only by its owner.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(new, file).unwrap();
}

/// A refused token stops uploads, not work; no change is blamed for it. A new token in the
/// mount's token file is enough to go on.
#[test]
fn a_refused_token_pauses_until_the_token_file_changes() {
    fuse_or_skip!();
    let (server, tokens, _folder) = server_with_tokens(TOKEN, None);
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "echo one > before");
    mount.flush();
    replace(&tokens, "another-token");
    for n in 0..20 {
        fs::write(mount.at(&format!("during-{n}")), format!("{n}")).unwrap();
    }
    let status = wait_state(&mount, "auth");
    assert_eq!(status["uploads"]["queued"], 20, "{status:#}");
    assert_eq!(status["uploads"]["attention"], 0, "{status:#}");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
    let shown = stdout(&mount.ctl(&["status"]));
    assert!(shown.contains("AUTH") && shown.contains("token"), "{shown}");
    assert_eq!(fs::read(mount.at("before")).unwrap(), b"one\n");
    shell(&mount.path(), "echo two > later; mv before moved");

    replace(&mount.token_file(), "another-token\n");
    wait_sent(&mount);
    replace(&tokens, &format!("another-token\n{TOKEN}\n"));
    let files = server.files();
    assert_eq!(files.len(), 22);
    assert_eq!((&files["/moved"][..], &files["/later"][..]), (&b"one\n"[..], &b"two\n"[..]));
    mount.wait_synced();
}

/// A path that the token may not write is parked with its reason and keeps its bytes here, while
/// everything else flows; editing it again tries again.
#[test]
fn a_forbidden_path_is_parked_and_the_rest_flows() {
    fuse_or_skip!();
    let narrow =
        format!("{TOKEN} subject=agent scopes=fs:read,relayfile:fs:write:/ok/** workspace=*\n");
    let (server, tokens, _folder) = server_with_tokens(&narrow, None);
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir ok; for n in $(seq 50); do echo $n > ok/$n; done");
    shell(
        &mount.path(),
        "echo secret > elsewhere; for n in $(seq 51 100); do echo $n > ok/$n; done",
    );
    wait_sent(&mount);
    assert_eq!(server.files().len(), 100);
    let status = wait_state(&mount, "attention");
    assert_eq!(status["uploads"]["attention"], 1, "{status:#}");
    let records = outbox(&mount);
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["path"], "/elsewhere");
    assert_eq!(records[0]["state"], "attention");
    let reason = records[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("forbidden: "), "{reason}");
    let shown = stdout(&mount.ctl(&["outbox"]));
    assert!(shown.contains("/elsewhere") && shown.contains("forbidden"), "{shown}");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(7));
    assert_eq!(mount.ctl(&["flush"]).status.code(), Some(7));
    assert_eq!(fs::read(mount.at("elsewhere")).unwrap(), b"secret\n");

    mount.kill9();
    mount.start();
    assert_eq!(fs::read(mount.at("elsewhere")).unwrap(), b"secret\n");
    assert_eq!(outbox(&mount)[0]["state"], "attention");

    replace(&tokens, TOKEN);
    shell(&mount.path(), "echo more >> elsewhere");
    wait_for("the parked file", || server.get("/elsewhere"));
    mount.flush();
    assert_eq!(server.get("/elsewhere").unwrap().0, b"secret\nmore\n");
    mount.wait_synced();
    assert!(outbox(&mount).is_empty());
}

/// A batch that is too large for the server is split and the size is remembered, also over a
/// restart; one file that is too large by itself is parked.
#[test]
fn batches_adapt_to_what_the_server_takes() {
    fuse_or_skip!();
    let server = TestServer::builder().original().max_body_bytes(64 << 10).start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    let fill = |mount: &Mount, name: &str| {
        for n in 0..60 {
            fs::write(mount.at(&format!("{name}-{n}")), bytes(n, 6_000)).unwrap();
        }
        wait_sent(mount);
    };
    assert_eq!(mount.ctl(&["pause"]).status.code(), Some(0));
    for n in 0..100 {
        fs::write(mount.at(&format!("first-{n}")), bytes(n, 6_000)).unwrap();
    }
    mount.ctl(&["resume"]);
    wait_sent(&mount);
    let refused = server.log().count_status("/fs/bulk", 413);
    eprintln!("learned with {refused} refused batches");
    assert!((1..=20).contains(&refused), "{refused} batches were refused");
    fill(&mount, "second");
    mount.kill9();
    mount.start();
    fill(&mount, "third");
    assert_eq!(server.log().count_status("/fs/bulk", 413), refused, "learned for good");
    assert_eq!(server.files().len(), 220);
    assert_eq!(mount.status()["uploads"]["attention"], 0);

    fs::write(mount.at("huge"), bytes(1, 200_000)).unwrap();
    shell(&mount.path(), "echo small > small");
    wait_for("the small one", || server.get("/small"));
    let records = wait_for("the huge one is parked", || {
        let records = outbox(&mount);
        (records.first()?["state"] == "attention").then_some(records)
    });
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["path"], "/huge");
    let reason = records[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("too_large"), "{reason}");
    assert_eq!(fs::read(mount.at("huge")).unwrap(), bytes(1, 200_000));
    // Made small enough, it goes.
    shell(&mount.path(), "truncate -s 1000 huge");
    wait_for("the file that is not huge any more", || server.get("/huge"));
    mount.wait_synced();
}

/// The time that a server asks for is kept: not one request comes earlier, however much is
/// written meanwhile. Then everything arrives.
#[test]
fn no_request_comes_before_the_time_the_server_asked_for() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let limited = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&limited);
    edge.before(move |request| {
        let first = is_bulk(request) && !flag.swap(true, Ordering::Relaxed);
        if first { reply(429, &[("Retry-After", "3")]) } else { Before::Pass }
    });
    server.log().reset();
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < Duration::from_secs(2) {
        fs::write(mount.at(&format!("f{written}")), format!("{written}")).unwrap();
        written += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = wait_state(&mount, "backoff");
    assert_eq!(status["retry"]["server_hinted"], true, "{status:#}");
    wait_sent(&mount);
    let requests = server.log().recent();
    assert_eq!(requests[0].status, 429, "{requests:#?}");
    assert!(requests.len() > 1);
    let waited = requests[1].at_ms - requests[0].at_ms;
    eprintln!("next request after {waited} ms, {written} files written");
    assert!(waited >= 3000, "a request came after {waited} ms: {requests:#?}");
    assert_eq!(server.files().len(), written);
}

/// Whatever passing trouble the server names, the change is tried again until it is accepted,
/// and never parked.
#[test]
fn passing_trouble_of_the_server_is_outlasted() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let mut trouble = [500, 502, 503, 504, 408, 425].into_iter();
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    edge.before(move |request| {
        if !is_bulk(request) {
            return Before::Pass;
        }
        match trouble.next() {
            Some(status) => reply(status, &[]),
            None => {
                flag.store(true, Ordering::Relaxed);
                Before::Pass
            }
        }
    });
    let mut written = 0;
    while !over.load(Ordering::Relaxed) {
        fs::write(mount.at(&format!("f{written}")), format!("{written}")).unwrap();
        assert_eq!(mount.status()["uploads"]["attention"], 0);
        written += 1;
    }
    wait_sent(&mount);
    let log = server.log();
    for status in [500, 502, 503, 504, 408, 425] {
        assert_eq!(log.count_status("/fs/bulk", status), 1, "{status}");
    }
    let (files, history) = (server.files(), history(&server));
    assert_eq!(files.len(), written);
    assert_eq!(history.len(), written, "each arrived once");
}

/// One change that makes the server refuse a whole batch is found and parked; all others arrive.
#[test]
fn a_change_that_spoils_its_batch_is_isolated() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    // The one with the long content spoils whatever it travels with.
    edge.before(|request| match request.content_length {
        Some(20_000..) if is_bulk(request) => reply(400, &[]),
        _ => Before::Pass,
    });
    mount.ctl(&["pause"]);
    for n in 0..100 {
        fs::write(mount.at(&format!("good-{n}")), format!("{n}")).unwrap();
        if n == 37 {
            fs::write(mount.at("poison"), bytes(1, 30_000)).unwrap();
        }
    }
    mount.ctl(&["resume"]);
    wait_sent(&mount);
    let refused = server.log().count_status("/fs/bulk", 400);
    eprintln!("isolated with {refused} refused batches");
    let mut files = server.files();
    assert_eq!(files.len(), 100);
    let records = outbox(&mount);
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(
        (&records[0]["path"], &records[0]["state"]),
        (&"/poison".into(), &"attention".into())
    );
    assert_eq!(fs::read(mount.at("poison")).unwrap(), bytes(1, 30_000));
    // What comes later is not held back by it.
    shell(&mount.path(), "echo later > later");
    wait_sent(&mount);
    files = server.files();
    assert_eq!(files["/later"], b"later\n");
}

/// Replies lost and cut and connections reset at random, while three writers work for 5 s.
fn unreliable(builder: crate::support::server::TestServerBuilder) {
    let seed = seed();
    let edge = Edge::new();
    let server = builder.interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let mut rng = SmallRng::seed_from_u64(seed);
    edge.before(move |_| if rng.random_ratio(1, 10) { Before::Reset } else { Before::Pass });
    let mut rng = SmallRng::seed_from_u64(seed + 1);
    edge.after(move |_, _| match rng.random_range(0..10) {
        0 | 1 => After::Drop,
        2 => After::Garble,
        _ => After::Pass,
    });
    let until = Instant::now() + Duration::from_secs(5);
    let slowest = std::thread::scope(|scope| {
        let writers = [0, 1, 2].map(|writer| {
            let mount = &mount;
            scope.spawn(move || {
                let mut slowest = Slowest::default();
                let mut n = 0;
                while Instant::now() < until {
                    let once = mount.at(&format!("once-{writer}-{n}"));
                    slowest.call(|| fs::write(&once, bytes(n, 700)).unwrap());
                    let again = mount.at(&format!("again-{writer}-{}", n % 5));
                    slowest.call(|| fs::write(&again, format!("{writer} {n}")).unwrap());
                    n += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                slowest.0
            })
        });
        writers.into_iter().map(|writer| writer.join().unwrap()).max().unwrap()
    });
    Slowest(slowest).check("unreliable server");
    let cut = {
        let log = server.log();
        log.recent().iter().filter(|request| request.status == 0).count()
    };
    edge.clear();
    eprintln!("{cut} requests reset, {} batches sent", server.log().count("POST", "/fs/bulk"));
    mount.ctl(&["resume"]);
    wait_sent(&mount);
    mount.wait_synced();
    let ours = tree(&mount.path()).unwrap();
    assert_eq!(server.files(), bytes_of(&ours));
    let mut happened: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (kind, path) in history(&server) {
        happened.entry(path).or_default().push(kind);
    }
    for (path, kinds) in happened.iter().filter(|(path, _)| path.starts_with("/once-")) {
        assert_eq!(kinds, &["file.created"], "{path}");
    }
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(mount.status()["uploads"]["attention"], 0);
    let copies = fs::read_dir(mount.state().join("conflicts")).unwrap().count();
    assert_eq!(copies, 0, "conflict copies");
}

/// Over a connection that loses, cuts and resets a third of everything, each file arrives once
/// and none of it is mistaken for somebody else's edit.
#[test]
fn an_unreliable_connection_neither_loses_nor_repeats() {
    fuse_or_skip!();
    unreliable(TestServer::builder());
}

/// The same with a server that has none of the extensions.
#[test]
fn an_unreliable_connection_neither_loses_nor_repeats_over_the_original_protocol() {
    fuse_or_skip!();
    unreliable(TestServer::builder().original());
}

/// A server that takes 3 s for everything slows down nothing that is here already.
#[test]
fn a_slow_server_does_not_slow_the_mount() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "mkdir d; for n in $(seq 20); do echo $n > d/$n; done");
    mount.flush();
    edge.before(|_| Before::Delay(Duration::from_secs(3)));
    let mut slowest = Slowest::default();
    let until = Instant::now() + Duration::from_secs(4);
    let mut n = 0;
    while Instant::now() < until {
        let file = mount.at(&format!("d/new-{n}"));
        slowest.call(|| fs::write(&file, format!("{n}")).unwrap());
        assert_eq!(slowest.call(|| fs::read(&file)).unwrap(), format!("{n}").as_bytes());
        slowest.call(|| fs::rename(&file, mount.at(&format!("d/named-{n}"))).unwrap());
        slowest.call(|| fs::read_dir(mount.at("d")).unwrap().count());
        slowest.call(|| fs::metadata(mount.at("d/1")).unwrap());
        assert!(slowest.call(|| fs::read(mount.at("d/2"))).is_ok());
        assert!(slowest.call(|| fs::metadata(mount.at("missing"))).is_err());
        n += 1;
    }
    slowest.check("slow server");
    edge.clear();
    mount.flush();
    assert_eq!(server.files().len(), 20 + n);
}

/// A redirect to another host is not followed and no token goes there; the status says what
/// happened, and work resumes when the server is itself again.
#[test]
fn a_redirect_to_another_host_is_not_followed() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("http://localhost:{}/elsewhere", other.local_addr().unwrap().port());
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    std::thread::spawn(move || {
        for _ in other.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    edge.before(move |_| reply(307, &[("Location", &location)]));
    shell(&mount.path(), "echo one > one");
    let status = wait_state(&mount, "offline");
    let reason = status["retry"]["reason"].as_str().unwrap();
    assert!(reason.contains("redirects to localhost"), "{reason}");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
    assert_eq!(outbox(&mount).len(), 1);
    let seen = server.log().count("POST", "/fs/bulk");
    mount.ctl(&["resume"]);
    wait_for("another attempt", || (server.log().count("POST", "/fs/bulk") > seen).then_some(()));
    assert_eq!(visits.load(Ordering::Relaxed), 0, "the other host was visited");
    edge.clear();
    mount.ctl(&["resume"]);
    wait_sent(&mount);
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
}

/// What must hold while the server looks reset: everything is still here and can be used, and no
/// deletion is sent.
fn check_reset_is_survived(mount: &Mount, expected: &crate::support::tree::Tree) {
    let status = wait_state(mount, "reset_suspected");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
    assert!(stdout(&mount.ctl(&["status"])).contains("RESET"), "{status:#}");
    assert_eq!(&tree(&mount.path()).unwrap(), expected);
}

/// Goes on with the server as it is, as it looks in the end: while it is looked at, what was to be
/// approved may change.
fn approve_reset(mount: &Mount) {
    wait_for("the reset is approved", || {
        let approvals = json(mount, &["approvals"])["data"]["approvals"].take();
        let id = approvals[0]["id"].as_str()?.to_owned();
        assert!(id.starts_with("reset-"), "{approvals:#}");
        mount.ctl(&["approve", &id]).status.success().then_some(())
    });
}

/// A server that lost everything takes nothing from the mount: files stay, deletions wait, and a
/// person decides with `mountctl approve`.
#[test]
fn an_emptied_server_empties_nothing_here() {
    fuse_or_skip!();
    // A few files are as dear as many.
    for files in [3, 30] {
        emptied(files);
    }
}

fn emptied(files: usize) {
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), &format!("mkdir d; for n in $(seq {files}); do echo $n > d/$n; done"));
    mount.flush();
    let before = tree(&mount.path()).unwrap();
    server.wipe();
    check_reset_is_survived(&mount, &before);
    // It holds over a restart.
    mount.kill9();
    mount.start();
    check_reset_is_survived(&mount, &before);
    // New work waits as well: what such a server accepted would be gone with its next repair.
    shell(&mount.path(), "echo new > d/new; rm d/1");
    assert_eq!(mount.ctl(&["flush", "--timeout", "300ms"]).status.code(), Some(6));
    assert!(server.files().is_empty());
    let resumed = mount.ctl(&["resume"]);
    assert_eq!(resumed.status.code(), Some(1), "{}", stdout(&resumed));
    assert!(stderr(&resumed).contains("mountctl approvals"), "{}", stderr(&resumed));
    approve_reset(&mount);
    // Now what is here goes there again.
    let expected = bytes_of(&tree(&mount.path()).unwrap());
    assert_eq!(expected.len(), files);
    wait_for("all files on the server again", || (server.files() == expected).then_some(()));
    assert_eq!(bytes_of(&tree(&mount.path()).unwrap()), expected);
    mount.flush();
    mount.wait_synced();
}

/// A server that was restored from an old copy, so that its numbers start lower, is not believed
/// either: nothing that is newer here is overwritten by it.
#[test]
fn a_server_whose_history_went_back_is_not_believed() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "for n in $(seq 20); do echo old $n > $n; done");
    mount.flush();
    let copy = tempfile::tempdir().unwrap();
    server.stop();
    shell(server.storage(), &format!("cp -r . {}/", copy.path().display()));
    server.start();
    mount.wait_synced();
    shell(&mount.path(), "for n in $(seq 11 30); do echo new $n > $n; done");
    wait_sent(&mount);
    let newest = format!("evt_{}", history(&server).len());
    wait_for("the newest event", || {
        (mount.status()["stream"]["cursor"] == newest.as_str()).then_some(())
    });
    let before = tree(&mount.path()).unwrap();
    server.stop();
    shell(server.storage(), &format!("rm -r ./*; cp -r {}/. .", copy.path().display()));
    server.start();
    assert_eq!(server.files().len(), 20);
    wait_for("the suspicion", || (mount.status()["state"] == "reset_suspected").then_some(()));
    mount.kill9();
    mount.start();
    wait_state(&mount, "reset_suspected");
    assert_eq!(tree(&mount.path()).unwrap(), before);
    assert_eq!(server.files().len(), 20);

    approve_reset(&mount);
    // What only this mount has goes there; of what both have, both versions are kept.
    let conflicts = wait_for("the conflicts", || {
        let listed = json(&mount, &["conflicts"])["data"]["conflicts"].take();
        listed.as_array().filter(|listed| listed.len() == 10).cloned()
    });
    assert_eq!(mount.ctl(&["flush"]).status.code(), Some(7));
    let files = server.files();
    for n in 1..=30 {
        let expected = if n <= 20 { format!("old {n}\n") } else { format!("new {n}\n") };
        assert_eq!(files[&format!("/{n}")], expected.as_bytes(), "{n}");
        assert_eq!(fs::read(mount.at(&format!("{n}"))).unwrap(), expected.as_bytes(), "{n}");
    }
    for conflict in &conflicts {
        let n = conflict["path"].as_str().unwrap().trim_start_matches('/');
        let ours = fs::read(Path::new(conflict["dir"].as_str().unwrap()).join("local")).unwrap();
        assert_eq!(ours, format!("new {n}\n").as_bytes());
    }
}

/// What was written into a large file is safe from the moment `write` returned: a kill before
/// `close` takes nothing back.
#[test]
fn a_large_file_survives_a_kill_before_close() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("known"), bytes(1, 500_000)).unwrap();
    mount.flush();
    for round in 0..3_u64 {
        let fresh = fs::File::create(mount.at(&format!("fresh-{round}"))).unwrap();
        fresh.write_all_at(&bytes(round, 300_000), 0).unwrap();
        fresh.write_all_at(b"the end", 1_000_000).unwrap();
        let known = fs::OpenOptions::new().write(true).open(mount.at("known")).unwrap();
        known.write_all_at(b"longer", 500_000 + 100 * round).unwrap();
        mount.kill9();
        drop((fresh, known));
        mount.start();
        let mut expected = bytes(round, 300_000);
        expected.resize(1_000_000, 0);
        expected.extend_from_slice(b"the end");
        let known = fs::read(mount.at("known")).unwrap();
        assert_eq!(known.len() as u64, 500_006 + 100 * round);
        assert!(known.ends_with(b"longer") && known.starts_with(&bytes(1, 500_000)));
        assert!(fs::read(mount.at(&format!("fresh-{round}"))).unwrap() == expected, "{round}");
        mount.flush();
        let (arrived, _) = server.get(&format!("/fresh-{round}")).unwrap();
        assert!(arrived == expected, "{round} differs at the server");
        assert!(server.get("/known").unwrap().0 == known, "{round} differs at the server");
    }
}

/// The daemon is killed again and again under load, with and without its server: whatever `close`
/// or `rename` acknowledged is on the server in the end, in its newest form.
#[test]
fn no_acknowledged_byte_is_lost_by_kills_under_load() {
    fuse_or_skip!();
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    let mut accounts = vec![Account::default(); 4];
    let mut online = true;
    for round in 0..12 {
        if rng.random_ratio(1, 3) {
            if online {
                server.stop();
            } else {
                server.start();
            }
            online = !online;
        }
        let load = Load::start(&mount.path(), accounts, seed + round);
        let enough = rng.random_range(5..300);
        wait_for("some work", || (load.acknowledged() >= enough).then_some(()));
        mount.kill9();
        wait_for("the writers notice", || load.is_over().then_some(()));
        accounts = load.stop();
        mount.start();
        assert_eq!(mount_entries(&mount), 1);
    }
    if !online {
        server.start();
    }
    let shown = tree(&mount.path()).unwrap();
    load::check(&accounts, &bytes_of(&shown));
    mount.flush();
    load::check(&accounts, &server.files());
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(tree(&mount.path()).unwrap(), shown);
}
