//! What travels together: few requests, each change once, nothing sent that need not be.
//!
//! Everything is counted at the server. Promises are kept with and without the extensions; where
//! one needs an extension, its test says so.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use workspaced::{Before, RequestLog};

use crate::on_both_servers;
use crate::support::edge::Edge;
use crate::support::hooks::{Act, Hooks, is_write};
use crate::support::observe::{json, outbox, wait_sent};
use crate::support::{Kind, Mount, PATIENCE, TestServer, bytes, shell, wait_for, wait_within};

on_both_servers!(
    a_burst_of_ten_files_is_one_request,
    a_thousand_files_of_many_threads_are_few_requests,
    the_first_write_of_a_file_asks_nothing_first,
    ten_rewrites_are_one_change,
    rewrites_keep_the_oldest_base,
    a_rewrite_during_a_request_follows_with_its_revision,
    a_batch_that_is_too_large_splits_and_the_limit_is_remembered,
    many_deletes_are_few_requests,
    a_file_that_comes_and_goes_sends_nothing,
    a_renamed_file_is_never_without_a_name,
    a_renamed_folder_is_never_without_names,
    a_renamed_file_that_was_never_fetched_keeps_its_bytes,
    attributes_do_not_send_the_content_again,
    a_file_that_stays_open_arrives,
    a_file_that_changes_while_it_is_sent_is_sent_again,
);

/// A program that writes ten files in one go makes one request, and none for a single file.
fn a_burst_of_ten_files_is_one_request(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    for attempt in 0.. {
        assert!(attempt < 100, "this machine is never fast enough for a burst");
        let folder = format!("burst{attempt}");
        fs::create_dir(mount.at(&folder)).unwrap();
        wait_sent(&mount);
        server.log().reset();
        let mut closed = Vec::new();
        for n in 0..10 {
            let began = Instant::now();
            let mut file = fs::File::create(mount.at(&format!("{folder}/{n}"))).unwrap();
            file.write_all(format!("file {n} of {attempt}").as_bytes()).unwrap();
            drop(file);
            closed.push((began, Instant::now()));
        }
        wait_sent(&mount);
        let bulk = server.log().count("POST", "/fs/bulk");
        let single = single_requests(&server.log());
        for n in 0..10 {
            let (stored, _) = server.get(&format!("/{folder}/{n}")).expect("it arrived");
            assert_eq!(stored, format!("file {n} of {attempt}").as_bytes());
        }
        assert_eq!(single, 0, "requests for single files");
        // Where the machine was busy elsewhere, this was no burst: it proves nothing.
        let gaps = closed.windows(2).map(|two| two[1].1 - two[0].0);
        let is_burst = gaps.max().unwrap() < Duration::from_millis(18)
            && closed[9].1 - closed[0].0 < Duration::from_millis(180);
        if is_burst {
            assert_eq!(bulk, 1, "bulk requests");
            return;
        }
    }
}

/// A thousand files written by sixteen threads travel in at most twenty requests, byte for byte.
fn a_thousand_files_of_many_threads_are_few_requests(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    server.log().reset();
    let expected: BTreeMap<String, Vec<u8>> = (0..1000_u16)
        .map(|n| (format!("/f{n:04}"), bytes(n.into(), 100 + usize::from(n) * 7 % 900)))
        .collect();
    let files: Vec<_> = expected.iter().collect();
    std::thread::scope(|scope| {
        for part in files.chunks(files.len().div_ceil(16)) {
            let mount = &mount;
            scope.spawn(move || {
                for (path, content) in part {
                    fs::write(mount.at(&path[1..]), content).unwrap();
                }
            });
        }
    });
    wait_sent(&mount);
    let (bulk, single) = (server.log().count("POST", "/fs/bulk"), single_requests(&server.log()));
    println!("1000 files in {bulk} requests");
    assert!(server.files() == expected, "every file arrived with its bytes");
    assert!(bulk <= 20, "{bulk} bulk requests");
    assert_eq!(single, 0, "requests for single files");
    assert_eq!(conflicts(&mount), 0);
}

/// Storing a new file takes one request: nothing is looked up before, and nothing is refused.
fn the_first_write_of_a_file_asks_nothing_first(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    server.log().reset();
    fs::write(mount.at("new"), "content").unwrap();
    wait_sent(&mount);
    let requests: Vec<_> = server
        .log()
        .recent()
        .into_iter()
        .map(|request| (request.method, request.route, request.status))
        .collect();
    assert_eq!(requests, [("POST".to_owned(), "/fs/bulk", 202)]);
    assert_eq!(server.get("/new").unwrap().0, b"content");
    // A refusal within the reply would have made an event of another kind, or a conflict.
    assert_eq!(events_of(&server, "/new"), ["file.created"]);
    assert_eq!(conflicts(&mount), 0);
}

/// A file rewritten ten times before it is sent is one record, one entry in one request.
fn ten_rewrites_are_one_change(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &["--debounce", "300ms", "--max-delay", "2s"]);
    for attempt in 0.. {
        assert!(attempt < 50, "this machine is never fast enough");
        let name = format!("f{attempt}");
        let path = format!("/{name}");
        fs::write(mount.at(&name), "base").unwrap();
        mount.flush();
        server.log().reset();
        let mut written = Vec::new();
        for n in 0..10 {
            let began = Instant::now();
            fs::write(mount.at(&name), format!("version {n}")).unwrap();
            written.push((began, Instant::now()));
        }
        let records = outbox(&mount).len();
        let listed = Instant::now();
        wait_sent(&mount);
        let (bulk, single) =
            (server.log().count("POST", "/fs/bulk"), single_requests(&server.log()));
        assert_eq!(server.get(&path).unwrap().0, b"version 9");
        // Where the machine was busy elsewhere, some were sent before the last was written.
        let gaps = written.windows(2).map(|two| two[1].1 - two[0].0);
        let is_quick = gaps.max().unwrap() < Duration::from_millis(290)
            && listed - written[9].0 < Duration::from_millis(290)
            && listed - written[0].0 < Duration::from_millis(1900);
        if is_quick {
            assert_eq!(records, 1, "records");
            assert_eq!((bulk, single), (1, 0), "requests");
            assert_eq!(events_of(&server, &path), ["file.created", "file.updated"]);
            return;
        }
    }
}

/// Rewriting a file does not move what its change is made against: an edit of somebody else
/// between two rewrites is noticed, not overwritten.
fn rewrites_keep_the_oldest_base(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    fs::write(mount.at("f"), "base").unwrap();
    mount.flush();
    let (_, base) = server.get("/f").unwrap();
    assert!(mount.ctl(&["pause"]).status.success());
    fs::write(mount.at("f"), "ours 1").unwrap();
    server.put("/f", b"theirs");
    server.put("/marker", b"");
    wait_for("what was changed there is known here", || fs::metadata(mount.at("marker")).ok());
    fs::write(mount.at("f"), "ours 2").unwrap();
    assert_eq!(outbox(&mount).len(), 1, "one record");
    assert!(mount.ctl(&["resume"]).status.success());
    wait_for("the conflict", || (conflicts(&mount) == 1).then_some(()));
    let listed = json(&mount, &["conflicts"])["data"].take();
    assert_eq!(listed["conflicts"][0]["base_revision"], base.as_str());
    assert_eq!(server.get("/f").unwrap().0, b"theirs");
}

/// A file that is written again while its request is under way is sent once more, against the
/// revision that the first request led to.
fn a_rewrite_during_a_request_follows_with_its_revision(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mount = synced(&server, &[]);
    server.log().reset();
    let slow = Act::Before(Before::Delay(Duration::from_millis(700)));
    let slowed = hooks.add(1, slow, is_write);
    fs::write(mount.at("f"), "first").unwrap();
    slowed.wait();
    fs::write(mount.at("f"), "second").unwrap();
    wait_sent(&mount);
    let (bulk, single) = (server.log().count("POST", "/fs/bulk"), single_requests(&server.log()));
    assert_eq!((bulk, single), (2, 0), "a look at the server would mean that it was refused");
    assert_eq!(server.get("/f").unwrap().0, b"second");
    assert_eq!(events_of(&server, "/f"), ["file.created", "file.updated"]);
    assert_eq!(conflicts(&mount), 0);
}

/// A server that takes smaller requests than expected gets smaller ones from then on, also after
/// a restart.
fn a_batch_that_is_too_large_splits_and_the_limit_is_remembered(kind: Kind) {
    let server = kind.server().max_body_bytes(64 << 10).start();
    let mut mount = synced(&server, &[]);
    let mut expected = BTreeMap::new();
    let mut write = |mount: &Mount, round: u64| {
        assert!(mount.ctl(&["pause"]).status.success());
        for n in 0..40 {
            let content = bytes(round * 100 + n, 8 << 10);
            fs::write(mount.at(&format!("f{round}-{n}")), &content).unwrap();
            expected.insert(format!("/f{round}-{n}"), content);
        }
        assert!(mount.ctl(&["resume"]).status.success());
        wait_sent(mount);
    };
    write(&mount, 0);
    let refused = server.log().count_status("/fs/bulk", 413);
    if kind.is_extended() {
        assert_eq!(refused, 0, "the server tells its limit");
    } else {
        assert!(refused > 0, "forty files at once are too large");
        // Each refusal halves what is believed: from one mebibyte it takes few.
        assert!(refused <= 8, "{refused} refusals until the limit was learned");
    }
    server.log().reset();
    write(&mount, 1);
    assert_eq!(server.log().count_status("/fs/bulk", 413), 0, "learned");
    // An event that was heard before its reply has its path looked at, now and then.
    assert!(single_requests(&server.log()) <= 4, "{:#?}", server.log().recent());
    // The last replies may be forgotten with it: what they were about is then looked at.
    mount.kill9();
    mount.start();
    write(&mount, 2);
    assert_eq!(server.log().count_status("/fs/bulk", 413), 0, "remembered");
    assert!(mount.status()["uploads"]["attention"] == 0, "{}", mount.status());
    // The listing of everything is larger than what the server takes, which does not concern it.
    assert!(server.files() == expected, "every file arrived with its bytes");
}

/// Removing three hundred files takes at most five requests where the server removes in bulk,
/// and one for each where it cannot.
fn many_deletes_are_few_requests(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    shell(&mount.path(), "mkdir d && for n in $(seq 300); do echo $n > d/f$n; done; echo > keep");
    mount.flush();
    assert_eq!(server.files().len(), 301);
    server.log().reset();
    shell(&mount.path(), "rm -r d");
    wait_sent(&mount);
    let (bulk, deletes) =
        (server.log().count("POST", "/fs/bulk"), server.log().count("DELETE", "/fs/file"));
    let gets = server.log().count("GET", "/fs/file") + server.log().count("GET", "/fs/raw");
    if kind.is_extended() {
        assert!(bulk <= 5, "{bulk} bulk requests");
        assert_eq!(deletes, 0);
    } else {
        assert_eq!((bulk, deletes), (0, 300));
    }
    assert_eq!(gets, 0);
    assert_eq!(server.files().into_keys().collect::<Vec<_>>(), ["/keep"]);
}

/// A file that is created and removed before it was sent leaves no trace at the server.
fn a_file_that_comes_and_goes_sends_nothing(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &["--debounce", "1s", "--max-delay", "5s"]);
    let before = server.events().len();
    server.log().reset();
    fs::write(mount.at("passing"), "content").unwrap();
    fs::remove_file(mount.at("passing")).unwrap();
    assert_eq!(mount.status()["uploads"]["queued"], 0, "{:?}", outbox(&mount));
    // What is recorded later is sent later: when this arrived, nothing older is on its way.
    fs::write(mount.at("staying"), "content").unwrap();
    wait_sent(&mount);
    let (bulk, single) = (server.log().count("POST", "/fs/bulk"), single_requests(&server.log()));
    assert_eq!((bulk, single), (1, 0));
    let paths: Vec<_> = server.events().into_iter().skip(before).map(|event| event.1).collect();
    assert_eq!(paths, ["/staying"]);
}

/// A rename reaches the server as "new name stored, then old name removed"; with extensions the
/// content does not travel again.
fn a_renamed_file_is_never_without_a_name(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mount = synced(&server, &[]);
    let content = bytes(1, 200 << 10);
    fs::write(mount.at("old"), &content).unwrap();
    mount.flush();
    let sent_before = hooks.body_bytes();
    fs::rename(mount.at("old"), mount.at("new")).unwrap();
    wait_sent(&mount);
    let sent = hooks.body_bytes() - sent_before;
    stored_before_removed(&server, "/new", "/old");
    assert!(server.files() == BTreeMap::from([("/new".to_owned(), content.clone())]));
    if kind.is_extended() {
        assert!(sent < 4 << 10, "{sent} bytes were sent for a rename");
    }
    // A rename of the new name goes the same way, and back over a file that exists.
    fs::write(mount.at("old"), "other").unwrap();
    mount.flush();
    fs::rename(mount.at("new"), mount.at("old")).unwrap();
    wait_sent(&mount);
    assert!(server.files() == BTreeMap::from([("/old".to_owned(), content)]));
    assert_eq!(conflicts(&mount), 0);
}

/// A renamed folder's files each have the new name before they lose the old one.
fn a_renamed_folder_is_never_without_names(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mount = synced(&server, &[]);
    fs::create_dir_all(mount.at("old/deep")).unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..50_u64 {
        let name = if n % 2 == 0 { format!("f{n}") } else { format!("deep/f{n}") };
        let content = bytes(n, 4 << 10);
        fs::write(mount.at(&format!("old/{name}")), &content).unwrap();
        expected.insert(format!("/new/{name}"), content);
    }
    mount.flush();
    let sent_before = hooks.body_bytes();
    fs::rename(mount.at("old"), mount.at("new")).unwrap();
    wait_sent(&mount);
    let sent = hooks.body_bytes() - sent_before;
    for path in expected.keys() {
        stored_before_removed(&server, path, &path.replacen("/new", "/old", 1));
    }
    assert!(server.files() == expected, "only the new names");
    assert!(server.listed("/old").is_none(), "the old folder is gone");
    if kind.is_extended() {
        assert!(sent < 50 << 10, "{sent} bytes were sent for the rename of 200 KiB");
    }
    assert_eq!(conflicts(&mount), 0);
}

/// A file whose bytes were never needed here can be renamed: with extensions they are not even
/// fetched, without they are fetched and sent, and in no case lost.
fn a_renamed_file_that_was_never_fetched_keeps_its_bytes(kind: Kind) {
    let server = kind.server().start();
    let a = synced(&server, &[]);
    let b = synced(&server, &[]);
    // As JSON, a request holds at most one mebibyte.
    let content = bytes(5, if kind.is_extended() { 5 << 20 } else { 500 << 10 });
    fs::write(a.at("old"), &content).unwrap();
    a.flush();
    wait_for("the file in the other mount", || fs::metadata(b.at("old")).ok());
    server.log().reset();
    fs::rename(b.at("old"), b.at("new")).unwrap();
    wait_sent(&b);
    let fetched = server.log().count("GET", "/fs/raw") + server.log().count("GET", "/fs/file");
    if kind.is_extended() {
        assert_eq!(fetched, 0, "the content was fetched for a rename");
    }
    stored_before_removed(&server, "/new", "/old");
    assert!(server.get("/old").is_none());
    assert!(fs::read(b.at("new")).unwrap() == content, "read where it was renamed");
    wait_for("the new name in the first mount", || fs::metadata(a.at("new")).ok());
    assert!(fs::read(a.at("new")).unwrap() == content, "read where it was written");
    wait_for("the old name is gone", || fs::metadata(a.at("old")).is_err().then_some(()));
    assert_eq!(conflicts(&a) + conflicts(&b), 0);
}

/// A change of mode or times sends no content: with extensions it travels by itself, without it
/// stays here and survives a restart.
fn attributes_do_not_send_the_content_again(kind: Kind) {
    let hooks = Hooks::new();
    let server = kind.server().interceptor(hooks.clone()).start();
    let mut mount = synced(&server, &[]);
    let content = bytes(1, 200 << 10);
    fs::write(mount.at("f"), &content).unwrap();
    mount.flush();
    let (_, revision) = server.get("/f").unwrap();
    let sent_before = hooks.body_bytes();
    server.log().reset();
    shell(&mount.path(), "chmod 751 f; touch -d '2020-02-02 02:02:02Z' f");
    wait_sent(&mount);
    let sent = hooks.body_bytes() - sent_before;
    let writes = server.log().count("POST", "/fs/bulk") + server.log().count("PUT", "/fs/file");
    assert!(sent < 4 << 10, "{sent} bytes were sent for a change of attributes");
    if kind.is_extended() {
        let listed = server.listed("/f").unwrap();
        assert_eq!(listed["mode"], 0o751, "{listed}");
        let mtime = listed["mtime"].as_str().unwrap();
        assert!(mtime.starts_with("2020-02-02T02:02:02"), "{mtime}");
    } else {
        assert_eq!(writes, 0, "the server has no place for attributes");
        assert_eq!(server.get("/f").unwrap().1, revision);
    }
    mount.kill9();
    mount.start();
    assert_eq!(fs::metadata(mount.at("f")).unwrap().permissions().mode() & 0o7777, 0o751);
    assert!(fs::read(mount.at("f")).unwrap() == content);
    assert!(server.get("/f").unwrap().0 == content);
}

/// A file that is held open arrives after a few seconds, whether it is written once or all the
/// A large file that is written to while it is sent is sent again as it is then: the server never has
/// a mixture, and it is not taken for the server's trouble.
fn a_file_that_changes_while_it_is_sent_is_sent_again(kind: Kind) {
    let edge = Edge::new();
    let server = kind.server().interceptor(edge.clone()).max_body_bytes(128 << 20).start();
    let mount = synced(&server, &[]);
    // More than fits into what lies between a file and a server that does not read.
    let mut content = bytes(5, 24 << 20);
    let (arrived, arrival) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    edge.before(move |request| {
        if request.content_length.is_some_and(|length| length > 1 << 20) {
            // Only the first one waits: nobody sends a second word.
            arrived.send(()).ok();
            told.recv().ok();
        }
        Before::Pass
    });
    fs::write(mount.at("large"), &content).unwrap();
    arrival.recv_timeout(PATIENCE).unwrap();
    let at = content.len() - 1000;
    content[at..].fill(b'x');
    let file = OpenOptions::new().write(true).open(mount.at("large")).unwrap();
    file.write_all_at(&content[at..], at as u64).unwrap();
    drop(file);
    drop(go_on);
    mount.flush();
    assert!(server.get("/large").unwrap().0 == content);
    let log = mount.log();
    assert!(!log.contains("the server cannot be used"), "{log}");
    if kind.is_extended() {
        assert!(
            log.contains("sent again as it is now"),
            "it did not change while it was sent: {log}"
        );
    }
}

/// time.
fn a_file_that_stays_open_arrives(kind: Kind) {
    let server = kind.server().start();
    let mount = synced(&server, &[]);
    let mut once = fs::File::create(mount.at("once")).unwrap();
    once.write_all(b"written once").unwrap();
    once.sync_all().unwrap();
    let mut log = OpenOptions::new().create(true).append(true).open(mount.at("log")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut lines = 0;
            while !stop.load(Ordering::SeqCst) {
                writeln!(log, "line {lines}").unwrap();
                lines += 1;
                // The pace of the program that writes, not a wait.
                std::thread::sleep(Duration::from_millis(20));
            }
            (log, lines)
        }
    });
    let patience = Duration::from_secs(20);
    wait_within(patience, "what is written all the time", || {
        let stored = server.get("/log").unwrap_or_default().0;
        stored.starts_with(b"line 0\n").then_some(())
    });
    wait_within(patience, "what was written once", || {
        (server.get("/once")?.0 == b"written once").then_some(())
    });
    stop.store(true, Ordering::SeqCst);
    let (log, lines) = writer.join().unwrap();
    drop((log, once));
    mount.flush();
    let expected: String = (0..lines).map(|n| format!("line {n}\n")).collect();
    assert_eq!(server.get("/log").unwrap().0, expected.as_bytes());
    assert_eq!(conflicts(&mount), 0);
}

fn synced(server: &TestServer, args: &[&str]) -> Mount {
    let mount = Mount::builder(&server.source()).args(args).start();
    mount.wait_synced();
    mount
}

/// Requests that concern a single file.
fn single_requests(log: &RequestLog) -> u64 {
    let routes = ["/fs/file", "/fs/raw"];
    let methods = ["GET", "HEAD", "PUT", "DELETE"];
    routes.iter().flat_map(|route| methods.map(|method| log.count(method, route))).sum()
}

fn conflicts(mount: &Mount) -> u64 {
    mount.status()["conflicts"]["open"].as_u64().unwrap()
}

/// The kinds of the events of a path, in order.
fn events_of(server: &TestServer, path: &str) -> Vec<String> {
    server.events().into_iter().filter(|event| event.1 == path).map(|event| event.0).collect()
}

/// The last time `new` was stored is before the last time `old` was removed.
#[track_caller]
fn stored_before_removed(server: &TestServer, new: &str, old: &str) {
    let events = server.events();
    let stored = events.iter().rposition(|event| event.1 == new && event.0 != "file.deleted");
    let removed = events.iter().rposition(|event| event.1 == old && event.0 == "file.deleted");
    let (stored, removed) = (stored.expect("new name stored"), removed.expect("old name removed"));
    assert!(stored < removed, "{old} was removed before {new} was stored");
}
