//! `POST /fs/bulk`: per-file outcomes, preconditions and identities.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use workspaced::Clock;

use crate::support::{column, send, start, start_with};

#[tokio::test]
async fn each_file_is_judged_on_its_own() {
    let server = start().await;
    server.write("/b/1.txt", "one").await;
    let reply = server
        .bulk(json!([
            {"path": "/b/1.txt", "content": "x", "ifMatch": "0"},
            {"path": "/b/2.txt", "content": "two", "ifMatch": "0", "contentType": "text/plain"},
            {"path": "/b/missing", "content": "x", "ifMatch": "rev_1"},
            {"path": "/bad.bin", "content": "AA_-", "encoding": "base64"},
            {"path": "/bad2.bin", "content": "x", "encoding": "rot13"},
            {"path": "/empty"},
            {"path": "", "content": "x"},
            {"path": "/", "content": "x"},
            {"path": "/a/../b", "content": "x"},
            {"path": "/b/1.txt", "content": "new", "ifMatch": " rev_1 "},
            {"path": "/b/1.txt", "content": "x", "ifMatch": "\"rev_3\""},
        ]))
        .await;
    assert_eq!((&reply["written"], &reply["errorCount"]), (&json!(2), &json!(9)));
    assert_eq!(column(&reply["results"], "path"), ["/b/2.txt", "/b/1.txt"]);
    assert_eq!(reply["results"][0]["contentType"], "text/plain");
    assert_eq!(reply["results"][0]["writeback"], json!({"provider": "b", "state": "pending"}));
    let mut codes = column(&reply["errors"], "code");
    codes.sort();
    let expected = [
        "conflict",
        "conflict",
        "conflict",
        "invalid_content",
        "invalid_content",
        "invalid_encoding",
        "invalid_path",
        "invalid_path",
        "invalid_path",
    ];
    assert_eq!(codes, expected);
    let errors = reply["errors"].as_array().unwrap();
    let of = |path: &str| errors.iter().find(|error| error["path"] == path).unwrap();
    assert_eq!(of("/b/1.txt")["currentRevision"], "rev_1");
    assert_eq!(of("/b/1.txt")["expectedRevision"], "0");
    assert!(of("/b/missing").get("currentRevision").is_none());
}

#[tokio::test]
async fn the_same_path_twice_is_handled_in_order() {
    let server = start().await;
    let twice = json!([
        {"path": "/x", "content": "1", "ifMatch": "0"},
        {"path": "/x", "content": "2", "ifMatch": "0"},
        {"path": "/y", "content": "1"},
        {"path": "/y", "content": "2"},
    ]);
    let reply = server.bulk(twice).await;
    assert_eq!(column(&reply["results"], "path"), ["/x", "/y", "/y"]);
    assert_eq!(reply["errors"][0]["currentRevision"], "rev_1");
    assert_eq!(server.get("/fs/file?path=/y").await.expect(200)["content"], "2");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_whole() {
    let server = start().await;
    let post = |body: &str| send(server.request(Method::POST, "/fs/bulk").body(body.to_owned()));
    for body in [
        "{}",
        "{\"files\":[]}",
        "{",
        "{\"files\":[{\"path\":\"/a\",\"content\":5}]}",
        "{\"files\":[{\"path\":\"/a\",\"content\":\"\",\"ifMatch\":0}]}",
    ] {
        post(body).await.fails(400, "bad_request");
    }
    assert!(server.paths().await.is_empty());
}

#[tokio::test]
async fn an_identity_is_written_once() {
    let clock = Clock::by_hand(1_700_000_000_000_000_000);
    let given = clock.clone();
    let server = start_with(|config| config.clock = given).await;
    let entry = |path: &str, content: &str, base: &str| {
        json!([{"path": path, "content": content, "ifMatch": base,
            "contentIdentity": {"kind": "mountd", "key": "k1", "ttlSeconds": 600}}])
    };
    // An attempt that was refused is not remembered.
    let reply = server.bulk(entry("/ci/1", "A", "rev_9")).await;
    assert_eq!(reply["errors"][0]["code"], "conflict");
    let first = server.bulk(entry("/ci/1", "A", "0")).await;
    assert_eq!(first["written"], 1);
    assert_eq!(first["results"][0]["contentIdentity"]["ttlSeconds"], 600);
    let again = server.bulk(entry("/ci/1", "A", "0")).await;
    assert_eq!((&again["written"], &again["errorCount"]), (&json!(0), &json!(0)));
    assert_eq!(again["results"], first["results"]);
    let other = server.bulk(entry("/ci/2", "B", "0")).await;
    assert_eq!(other["results"], first["results"]);
    server.delete("/ci/1", "*").await.expect(202);
    server.bulk(entry("/ci/1", "A", "0")).await;
    assert!(server.paths().await.is_empty());
    clock.advance(Duration::from_secs(601));
    assert_eq!(server.bulk(entry("/ci/1", "A", "0")).await["written"], 1);
    // Without a key there is no identity.
    let reply = server
        .bulk(json!([{"path": "/ci/1", "content": "C", "contentIdentity": {"kind": "mountd"}}]))
        .await;
    assert_eq!(reply["written"], 1);
}

#[tokio::test]
async fn of_racing_writers_one_wins() {
    let server = start().await;
    server.write("/race", "0").await;
    let attempts = (0..20).map(|n| {
        server.bulk(json!([{"path": "/race", "content": n.to_string(), "ifMatch": "rev_1"}]))
    });
    let replies = futures_util::future::join_all(attempts).await;
    assert_eq!(replies.iter().filter(|reply| reply["written"] == 1).count(), 1);
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_identical_content_is_a_new_revision() {
    let server = start().await;
    let entry = json!([{"path": "/a", "content": "x", "atomic": true, "writebackIntent": "y"}]);
    server.bulk(entry.clone()).await;
    assert_eq!(server.bulk(entry).await["results"][0]["revision"], "rev_2");
    assert_eq!(server.events("").await.len(), 2);
    // A misspelled deletion never empties a file.
    let reply = server.bulk(json!([{"path": "/a", "delete": true}])).await;
    assert_eq!(reply["errors"][0]["code"], "invalid_content");
}
