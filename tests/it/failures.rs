//! What goes wrong with the server and the network: work goes on, nothing is lost, nothing arrives
//! twice, and people are told.

mod kills;
mod refused;
mod reset;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use workspaced::{After, Before, RequestHead};

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::{count, history, outbox, stdout, wait_sent, wait_state};
use crate::support::proxy::{self, Proxy};
use crate::support::tree::{bytes_of, tree};
use crate::support::{
    Mount, PATIENCE, TestServer, bytes, close, seed, shell, wait_for, wait_within,
};

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
    wait_for("some failures in a row", || {
        (mount.status()["retry"]["consecutive_failures"].as_u64()? >= 5).then_some(())
    });
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

/// A way on which everything gets lost, as behind a cable that was pulled: connections stand, nothing
/// comes. What is here goes on at full speed; what hangs is given up, and once new requests get through
/// everything arrives, though the old connections never end.
#[test]
fn a_way_that_swallows_everything_holds_up_nothing() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    shell(&mount.path(), "mkdir d; for n in $(seq 20); do echo $n > d/$n; done");
    mount.flush();
    let swallows = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&swallows);
    let for_ever = Duration::from_secs(100_000);
    proxy.rule(move |_| match flag.load(Ordering::Relaxed) {
        true => proxy::Act::Endless(Vec::new(), Vec::new(), for_ever),
        false => proxy::Act::Pass,
    });
    let mut slowest = Slowest::default();
    for n in 0..100 {
        let file = mount.at(&format!("d/new-{n}"));
        let mut open = slowest.call(|| fs::File::create(&file).unwrap());
        slowest.call(|| open.write_all(format!("{n}").as_bytes()).unwrap());
        slowest.call(|| close(open).expect("`close` does not fail because of the network"));
        assert_eq!(slowest.call(|| fs::read(&file)).unwrap(), format!("{n}").as_bytes());
        slowest.call(|| fs::read_dir(mount.at("d")).unwrap().count());
        assert!(slowest.call(|| fs::read(mount.at("d/2"))).is_ok());
    }
    slowest.check("nothing comes");
    wait_for("a request with changes hangs", || {
        (proxy.count("POST", "/fs/bulk") > 1).then_some(())
    });
    swallows.store(false, Ordering::Relaxed);
    // Longer than the request that hangs may take.
    wait_within(2 * PATIENCE, "everything arrives", || (server.files().len() == 120).then_some(()));
    wait_sent(&mount);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// A daemon that was frozen for a while, as with the machine, goes on by itself: the connections that it had
/// are dead, and it notices.
#[test]
fn a_daemon_that_was_frozen_goes_on() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    fs::write(mount.at("before"), "before").unwrap();
    mount.flush();
    fs::write(mount.at("during"), "during").unwrap();
    mount.signal(nix::sys::signal::Signal::SIGSTOP);
    server.stop();
    server.out_of_reach(|server| server.put("/theirs", b"theirs"));
    server.start();
    mount.signal(nix::sys::signal::Signal::SIGCONT);
    let awake = Instant::now();
    let sent = wait_for("what waited", || server.get("/during"));
    assert_eq!(sent.0, b"during");
    let seen = wait_for("what happened meanwhile", || fs::read(mount.at("theirs")).ok());
    assert_eq!(seen, b"theirs");
    let after = awake.elapsed();
    assert!(after < Duration::from_secs(10), "it took {after:?}");
    mount.wait_synced();
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
