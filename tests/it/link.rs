//! The states of the link: failures in a row, waits, the circuit, what people ask of it, and what a
//! restart remembers of all that.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use workspaced::{Before, RequestHead};

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::{json, stderr, stdout, wait_sent, wait_state};
use crate::support::{Mount, TestServer, shell, wait_for};

fn is_bulk(request: &RequestHead) -> bool {
    request.route == "/fs/bulk"
}

/// A mount whose circuit opens after three failures.
fn mount_of(server: &TestServer, cool_down: &str) -> Mount {
    let args = ["--circuit-failures", "3", "--circuit-cool-down", cool_down];
    Mount::builder(&server.source()).args(&args).start()
}

/// Has every request with changes refused from now on. Returns the counter of those that came.
fn refuse_changes(edge: &Edge) -> Arc<AtomicUsize> {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    edge.before(move |request| {
        if !is_bulk(request) {
            return Before::Pass;
        }
        count.fetch_add(1, Ordering::Relaxed);
        reply(503, &[])
    });
    refused
}

#[track_caller]
fn wait_circuit(mount: &Mount, state: &str) -> Value {
    wait_for(&format!("circuit {state}"), || {
        let status = mount.status();
        (status["circuit"]["state"] == state).then_some(status)
    })
}

/// Failures in a row open the circuit: nothing is sent for its time, whatever is written, and then
/// one probe. While the server refuses, it opens again; when it accepts, the circuit closes by itself
/// and everything arrives.
#[test]
fn the_circuit_opens_probes_and_closes_by_itself() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = mount_of(&server, "2s");
    mount.wait_synced();
    let closed = &mount.status()["circuit"];
    assert_eq!(closed["state"], "closed");
    assert_eq!((&closed["failures"], &closed["threshold"]), (&0.into(), &3.into()));

    let refused = refuse_changes(&edge);
    let mut written = 0;
    let mut write = || {
        fs::write(mount.at(&format!("f{written}")), format!("{written}")).unwrap();
        written += 1;
    };
    let status = wait_for("the circuit opens", || {
        write();
        let status = mount.status();
        (status["circuit"]["state"] == "open").then_some(status)
    });
    let circuit = &status["circuit"];
    assert_eq!(circuit["failures"], 3, "{status:#}");
    assert!(circuit["opened_at"].as_str() < circuit["next_probe_at"].as_str(), "{status:#}");
    assert_eq!(status["retry"]["next_at"], circuit["next_probe_at"], "{status:#}");
    assert_eq!(status["state"], "backoff", "{status:#}");
    assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
    let shown = stdout(&mount.ctl(&["status"]));
    assert!(shown.contains("circuit open after 3 failures, next probe in"), "{shown}");
    assert!(shown.contains("503") && shown.contains("BACKOFF"), "{shown}");

    // One probe, refused; until then and after it new changes wake nobody.
    let status = wait_for("the probe is refused", || {
        write();
        let status = mount.status();
        (status["circuit"]["failures"] == 4).then_some(status)
    });
    assert_eq!(refused.load(Ordering::Relaxed), 4);
    assert_eq!(status["circuit"]["state"], "open", "{status:#}");
    assert_eq!(status["circuit"]["opened_at"], circuit["opened_at"], "{status:#}");

    edge.clear();
    let bulks = server.log().count("POST", "/fs/bulk");
    wait_sent(&mount);
    assert_eq!(wait_circuit(&mount, "closed")["circuit"]["opened_at"], Value::Null);
    let files = server.files();
    assert_eq!(files.len(), written);
    assert!(bulks > 0);
    mount.wait_synced();
}

/// `mountctl resume` closes an open circuit and tries at once; where nothing is held back it says so,
/// and that is no failure.
#[test]
fn a_resume_closes_the_circuit() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mount = mount_of(&server, "1h");
    mount.wait_synced();
    let said = mount.ctl(&["resume"]);
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(stdout(&said).contains("was not paused"), "{}", stdout(&said));

    refuse_changes(&edge);
    shell(&mount.path(), "echo one > one");
    wait_circuit(&mount, "open");
    edge.clear();
    let resumed = json(&mount, &["resume"]);
    assert_eq!(resumed["data"]["previous_reason"], "CIRCUIT_OPEN", "{resumed:#}");
    assert_eq!(resumed["data"]["consecutive_failures_cleared"], 3, "{resumed:#}");
    wait_sent(&mount);
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
}

/// The open circuit, why it opened, and when its probe is due are the same after a crash and a
/// restart, and nothing is sent meanwhile.
#[test]
fn an_open_circuit_survives_a_restart() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mut mount = mount_of(&server, "1h");
    mount.wait_synced();
    let refused = refuse_changes(&edge);
    shell(&mount.path(), "echo one > one");
    let before = wait_circuit(&mount, "open");
    // What was recorded later is on disk, so the circuit is.
    fs::File::create(mount.at("two")).unwrap().sync_all().unwrap();
    let sent = refused.load(Ordering::Relaxed);
    mount.kill9();
    mount.start();
    let after = mount.status();
    assert_eq!(after["circuit"]["opened_at"], before["circuit"]["opened_at"], "{after:#}");
    assert_eq!(after["circuit"]["failures"], before["circuit"]["failures"], "{after:#}");
    let due = |status: &Value| -> jiff::Timestamp {
        status["circuit"]["next_probe_at"].as_str().unwrap().parse().unwrap()
    };
    let moved = due(&after).duration_since(due(&before)).abs();
    assert!(moved < jiff::SignedDuration::from_secs(2), "{before:#} {after:#}");
    assert_eq!(after["retry"]["reason"], before["retry"]["reason"], "{after:#}");
    shell(&mount.path(), "echo three > three");
    mount.ctl(&["flush", "--timeout", "300ms"]);
    assert_eq!(refused.load(Ordering::Relaxed), sent, "nothing was sent");
    edge.clear();
    assert!(mount.ctl(&["resume"]).status.success());
    wait_sent(&mount);
    assert_eq!(server.files().len(), 3);
}

/// The time that a server asked for holds over a restart: not one request of any kind comes earlier.
#[test]
fn the_time_the_server_asked_for_holds_over_a_restart() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    server.log().reset();
    edge.before(
        |request| {
            if is_bulk(request) { reply(429, &[("Retry-After", "6")]) } else { Before::Pass }
        },
    );
    shell(&mount.path(), "echo one > one");
    let before = wait_state(&mount, "backoff");
    edge.clear();
    fs::File::create(mount.at("two")).unwrap().sync_all().unwrap();
    mount.kill9();
    mount.start();
    let after = mount.status();
    assert_eq!(after["retry"]["server_hinted"], true, "{before:#} {after:#}");
    assert_eq!(after["state"], "backoff", "{after:#}");
    wait_sent(&mount);
    let requests = server.log().recent();
    assert_eq!((requests[0].route, requests[0].status), ("/fs/bulk", 429), "{requests:#?}");
    // Streams that were open when the daemon was killed are logged when they end.
    let next = requests[1..].iter().find(|request| request.route != "/fs/ws").unwrap();
    let waited = next.at_ms - requests[0].at_ms;
    assert!(waited >= 6000, "{next:?} came after {waited} ms: {requests:#?}");
    assert_eq!(server.files().len(), 2);
}

/// A server that could not be reached at all is noticed when it is back, also with the circuit
/// open: a connection that can be made is the news that the cool-down waits for.
#[test]
fn the_servers_return_ends_an_open_circuit() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount = mount_of(&server, "1h");
    mount.wait_synced();
    server.stop();
    shell(&mount.path(), "echo one > one");
    let status = wait_circuit(&mount, "open");
    assert_eq!(status["state"], "offline", "{status:#}");
    server.start();
    wait_sent(&mount);
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
    assert_eq!(mount.status()["circuit"]["state"], "closed");
    mount.wait_synced();
}

/// A request that the state does not allow is refused with what, why and what to do, changes
/// nothing, and programs see `ILLEGAL_TRANSITION`.
#[test]
fn what_the_state_does_not_allow_is_refused() {
    fuse_or_skip!();
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let reader = Mount::builder(&server.source()).args(&["--read-only"]).start();
    let said = reader.ctl(&["pause"]);
    assert_eq!(said.status.code(), Some(1));
    let text = stderr(&said);
    assert!(text.contains("ILLEGAL_TRANSITION") && text.contains("read-only"), "{text}");
    assert!(text.contains("nothing to hold back"), "{text}");
    let document = json(&reader, &["pause"]);
    assert_eq!(document["error"]["code"], "ILLEGAL_TRANSITION", "{document:#}");
    assert_eq!(reader.status()["pause"]["uploads"], Value::Null);

    let said = mount_of(&server, "1h").ctl(&["pause", "--for", "0s"]);
    assert_eq!(said.status.code(), Some(2), "{}{}", stdout(&said), stderr(&said));

    // Once it was told to stop there is nothing to pause and nothing to resume.
    let mut mount = mount_of(&server, "1h");
    mount.wait_synced();
    edge.before(|request| {
        if is_bulk(request) { Before::Delay(Duration::from_secs(5)) } else { Before::Pass }
    });
    shell(&mount.path(), "echo one > one");
    wait_for("it is under way", || (mount.status()["uploads"]["in_flight"] == 1).then_some(()));
    let mut unmount = mount.ctl_command(&["unmount"]).spawn().unwrap();
    wait_state(&mount, "draining");
    for request in ["pause", "resume"] {
        let document = json(&mount, &[request]);
        assert_eq!(document["error"]["code"], "ILLEGAL_TRANSITION", "{document:#}");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.contains("is stopping"), "{document:#}");
    }
    assert!(unmount.wait().unwrap().success());
    assert_eq!(mount.wait_end(), Some(0));
    assert_eq!(server.get("/one").unwrap().0, b"one\n");
}

/// Another server in the place of the one that the mount belongs to gets nothing and takes nothing,
/// over restarts, and whatever is written meanwhile. When the right one is back things go on by
/// themselves.
#[test]
fn another_server_gets_nothing_and_takes_nothing() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "for n in 1 2 3; do echo ours $n > $n; done");
    mount.flush();
    let right = server.replace(None);
    server.put("/1", b"somebody else's\n");
    server.put("/theirs", b"theirs\n");
    let theirs = server.files();
    for round in 0..2 {
        shell(&mount.path(), &format!("echo new > new{round}; rm -f 2"));
        let status = wait_for("the other server is asked who it is", || {
            let status = mount.status();
            status["other_server"]["found"].is_string().then_some(status)
        });
        assert_eq!(status["state"], "other_server", "{status:#}");
        assert_ne!(status["other_server"]["expected"], status["other_server"]["found"]);
        assert_eq!(mount.ctl(&["status", "--check"]).status.code(), Some(8));
        let shown = stdout(&mount.ctl(&["status"]));
        assert!(shown.contains("OTHER_SERVER") && shown.contains("resume --server"), "{shown}");
        assert_eq!(mount.ctl(&["flush", "--timeout", "300ms"]).status.code(), Some(6));
        assert_eq!(server.files(), theirs);
        assert_eq!(shell(&mount.path(), "ls | tr '\\n' ' '; cat 1 3").lines().count(), 2);
        assert!(!mount.at("theirs").exists());
        mount.kill9();
        mount.start();
    }
    // A plain resume does not decide that.
    let document = json(&mount, &["resume"]);
    assert_eq!(document["error"]["code"], "ILLEGAL_TRANSITION", "{document:#}");
    assert!(document["error"]["message"].as_str().unwrap().contains("another server"));
    assert_eq!(server.files(), theirs);

    server.replace(Some(right));
    wait_sent(&mount);
    mount.wait_synced();
    let files = server.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["/1", "/3", "/new0", "/new1"]);
    assert_eq!(files["/1"], b"ours 1\n");
    let document = json(&mount, &["resume", "--server", "none"]);
    assert_eq!(document["error"]["code"], "ILLEGAL_TRANSITION", "{document:#}");
}

/// A person may go on with another server by naming it: what is here is offered to it, and where it
/// has other content both are kept.
#[test]
fn a_person_can_go_on_with_another_server() {
    fuse_or_skip!();
    let mut server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    shell(&mount.path(), "for n in 1 2 3; do echo ours $n > $n; done");
    mount.flush();
    drop(server.replace(None));
    server.put("/1", b"somebody else's\n");
    server.put("/theirs", b"theirs\n");
    shell(&mount.path(), "echo new > new");
    let found = wait_for("the other server is asked who it is", || {
        mount.status()["other_server"]["found"].as_str().map(str::to_owned)
    });
    // The name of one that is not there any more is no consent to the one that is.
    let gone = "0123456789abcdef0123456789abcdef";
    let document = json(&mount, &["resume", "--server", gone]);
    assert_eq!(document["error"]["code"], "ILLEGAL_TRANSITION", "{document:#}");
    assert_eq!(document["error"]["details"]["found"], found.as_str(), "{document:#}");
    let document = json(&mount, &["resume", "--server", "nonsense"]);
    assert_eq!(document["error"]["code"], "INVALID_ARGUMENT", "{document:#}");

    let said = mount.ctl(&["resume", "--server", &found]);
    assert!(said.status.success(), "{}{}", stdout(&said), stderr(&said));
    wait_for("everything is there", || {
        let files = server.files();
        (files.len() == 5 && mount.at("theirs").exists()).then_some(())
    });
    wait_sent(&mount);
    let files = server.files();
    assert_eq!(files["/2"], b"ours 2\n");
    assert_eq!(files["/new"], b"new\n");
    let ours = [&b"ours 1\n"[..], b"somebody else's\n"];
    assert!(ours.contains(&&files["/1"][..]), "{:?}", files["/1"]);
    let kept = json(&mount, &["conflicts"]);
    let folder = kept["data"]["conflicts"][0]["dir"].as_str().unwrap().to_owned();
    assert_eq!(fs::read(std::path::Path::new(&folder).join("local")).unwrap(), b"ours 1\n");
    assert_eq!(mount.status()["other_server"], Value::Null);
}
