//! What was accepted is there after a restart, and the storage has one owner.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;
use workspaced::{Auth, Config, Error, Server};

use crate::support::{config, run, start};

/// Copies a storage folder as a power cut would leave it: whatever is on disk at this moment.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn accepted_writes_survive_a_crash_and_numbers_go_on() {
    let server = start().await;
    let big = "é".repeat(100_000);
    server.write("/a", "one").await;
    server.write("/big", &big).await;
    server.write("/big2", &big).await;
    server.write("/big2", "small now").await;
    server.delete("/a", "*").await.expect(202);
    server.bulk(json!([{"op": "mkdir", "path": "/d"}])).await;
    let crashed = tempfile::tempdir().unwrap();
    // The running server never gets to close anything in this copy.
    copy(server.folder.as_ref().unwrap().path(), crashed.path());
    let bodies = crashed.path().join("bodies");
    std::fs::write(bodies.join("left-behind.tmp"), "x").unwrap();
    std::fs::write(bodies.join("orphan"), "x").unwrap();

    let server = run(config(crashed.path())).await;
    assert_eq!(server.paths().await, ["/big", "/big2", "/d"]);
    assert!(server.get("/fs/file?path=/big").await.expect(200)["content"] == big.as_str());
    assert_eq!(std::fs::read_dir(&bodies).unwrap().count(), 1);
    assert_eq!(server.events("").await.len(), 6);
    assert_eq!(server.write("/next", "x").await, "rev_7");
    assert_eq!(server.events("?cursor=evt_6").await[0]["eventId"], "evt_7");
    assert_eq!(server.get("/fs/tree").await.expect(200)["totalFiles"], 3);
}

#[tokio::test]
async fn a_clean_stop_releases_the_storage() {
    let server = start().await;
    server.write("/a", "one").await;
    let folder = server.stop().await.unwrap();
    let wal = std::fs::metadata(folder.path().join("workspaces.db-wal"));
    assert!(wal.is_err(), "the log was folded into the database");
    let server = run(config(folder.path())).await;
    assert_eq!(server.paths().await, ["/a"]);
}

#[tokio::test]
async fn one_server_per_storage() {
    let server = start().await;
    let path = server.folder.as_ref().unwrap().path();
    let second = Server::bind(config(path), "127.0.0.1:0".parse().unwrap()).await;
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path), 0o700);
    for name in ["workspaces.db", "workspaces.db-wal", "lock"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_newer_or_damaged_database_is_refused_in_words() {
    let bind = async |path: &Path| {
        let result = Server::bind(config(path), "127.0.0.1:0".parse().unwrap()).await;
        result.unwrap_err().to_string()
    };
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("workspaces.db");
    rusqlite::Connection::open(&database).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let message = bind(folder.path()).await;
    assert!(message.contains("version 99") && message.contains("newer"), "{message}");
    std::fs::write(&database, "this is no database, and long enough to be read as one").unwrap();
    let message = bind(folder.path()).await;
    assert!(message.contains("workspaces.db") && message.contains("backup"), "{message}");
    let message = bind(Path::new("/proc/nowhere/storage")).await;
    assert!(message.contains("/proc/nowhere/storage"), "{message}");
}

#[tokio::test]
async fn open_access_stays_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let open = Config::new(folder.path(), Auth::Open);
    let refused = Server::bind(open, "0.0.0.0:0".parse().unwrap()).await;
    assert!(matches!(refused, Err(Error::OpenOnPublicAddress { .. })));
    let server = run(Config::new(folder.path(), Auth::Open)).await;
    let request = server.client.get(server.url("/fs/tree")).header("X-Correlation-Id", "c");
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_cannot_be_saved_is_refused_and_leaves_nothing() {
    let server = start().await;
    server.write("/a", "one").await;
    let path = server.folder.as_ref().unwrap().path().to_owned();
    let other = rusqlite::Connection::open(path.join("workspaces.db")).unwrap();
    let trigger =
        "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'x'); END";
    other.execute_batch(trigger).unwrap();
    let big = "é".repeat(100_000);
    server.put("/a", "*", &big).await.fails(500, "internal_error");
    server.put("/b", "0", "x").await.fails(500, "internal_error");
    other.execute_batch("DROP TRIGGER refuse").unwrap();
    assert_eq!(server.paths().await, ["/a"]);
    assert_eq!(server.get("/fs/file?path=/a").await.expect(200)["content"], "one");
    assert_eq!(server.put("/b", "0", "x").await.expect(202)["targetRevision"], "rev_2");
}
