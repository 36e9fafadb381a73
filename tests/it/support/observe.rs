//! What a mount and a server say of themselves, read the way a person or a program would.

use std::process::Output;

use reqwest::Method;
use serde_json::Value;

use super::{Mount, TestServer, wait_for};

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs mountctl with `--json` and returns the whole document.
#[track_caller]
pub fn json(mount: &Mount, args: &[&str]) -> Value {
    let output = mount.ctl(&[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)))
}

/// The records of the outbox.
#[track_caller]
pub fn outbox(mount: &Mount) -> Vec<Value> {
    let mut document = json(mount, &["outbox"]);
    let Value::Array(records) = document["data"]["records"].take() else {
        panic!("no records: {document}");
    };
    records
}

/// Approves whatever waits for a person, as one who looked and agreed. What comes to wait meanwhile
/// is left.
pub fn approve_all(mount: &Mount) {
    let approvals = json(mount, &["approvals"])["data"]["approvals"].take();
    for approval in approvals.as_array().into_iter().flatten() {
        // One that changed since is void and waits under another id.
        drop(mount.ctl(&["approve", approval["id"].as_str().unwrap()]));
    }
}

/// Waits until the status says `state`. Returns that status.
#[track_caller]
pub fn wait_state(mount: &Mount, state: &str) -> Value {
    wait_for(&format!("state {state}"), || {
        let status = mount.status();
        (status["state"] == state).then_some(status)
    })
}

/// Waits until nothing is left to be sent. Unlike a flush it asks for no hurry.
#[track_caller]
pub fn wait_sent(mount: &Mount) {
    wait_for("everything is sent", || (mount.status()["uploads"]["queued"] == 0).then_some(()));
}

/// Everything that ever happened in the workspace, as `(type, path)`, oldest first.
pub fn history(server: &TestServer) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let mut cursor = String::new();
    loop {
        let route = format!("/fs/events?limit=1000&cursor={cursor}");
        let (status, body) = server.request(Method::GET, &route, &[], None);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: Value = serde_json::from_slice(&body).unwrap();
        for event in page["events"].as_array().unwrap() {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            events.push((text("type"), text("path")));
        }
        match page["nextCursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return events,
        }
    }
}

/// How often something happened to a file.
pub fn count(history: &[(String, String)], kind: &str, path: &str) -> usize {
    history.iter().filter(|(k, p)| k == kind && p == path).count()
}

/// Entries of the mount table at a mount's folder.
pub fn mount_entries(mount: &Mount) -> usize {
    let point = format!(" {} ", mount.path().display());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(&point)).count()
}
