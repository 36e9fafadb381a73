//! The server refuses: a token, a path, a request that is too large, a change that is invalid.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use workspaced::Before;

use super::is_bulk;
use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::{outbox, stdout, wait_sent, wait_state};
use crate::support::server::TOKEN;
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

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
