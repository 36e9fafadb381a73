//! `/fs/file`: reading, writing and deleting one file.

use reqwest::Method;
use serde_json::json;

use crate::support::{send, start};

#[tokio::test]
async fn a_file_is_created_read_and_deleted() {
    let server = start().await;
    let reply = server.put("/docs/a.md", "0", "hello\n").await.expect(202);
    assert_eq!(reply["targetRevision"], "rev_1");
    assert_eq!(reply["opId"], "op_1");
    assert_eq!(reply["status"], "queued");
    assert_eq!(reply["writeback"], json!({"provider": "docs", "state": "pending"}));

    let reply = server.get("/fs/file?path=/docs/a.md").await;
    assert_eq!(reply.headers["etag"], "rev_1");
    let file = reply.expect(200);
    assert_eq!(file["content"], "hello\n");
    assert_eq!(file["contentType"], "text/markdown");
    assert_eq!(file["contentHash"].as_str().unwrap().len(), 64);
    assert_eq!(file["semantics"], json!({}));
    assert!(file.get("encoding").is_none());

    assert_eq!(server.delete("/docs/a.md", "rev_1").await.expect(202)["targetRevision"], "rev_2");
    server.get("/fs/file?path=/docs/a.md").await.fails(404, "not_found");
    server.delete("/docs/a.md", "rev_1").await.fails(404, "not_found");
    assert!(server.paths().await.is_empty());
    let op = server.get("/ops/op_2").await.expect(200);
    assert_eq!((&op["action"], &op["status"]), (&json!("file_delete"), &json!("succeeded")));
    server.get("/ops/op_99").await.fails(404, "not_found");
}

#[tokio::test]
async fn preconditions_of_put() {
    let server = start().await;
    let put = server.request(Method::PUT, "/fs/file?path=/a").json(&json!({"content": ""}));
    send(put).await.fails(412, "precondition_failed");
    server.put("/a", "rev_1", "x").await.fails(404, "not_found");
    server.put("/a", "*", "one").await.expect(202);
    let conflict = server.put("/a", "0", "x").await.fails(409, "revision_conflict");
    assert_eq!(conflict["currentRevision"], "rev_1");
    assert_eq!(conflict["expectedRevision"], "0");
    assert_eq!(conflict["currentContentPreview"], "one");
    assert_eq!(conflict["correlationId"], "c1");
    server.put("/a", "W/\"rev_1\"", "two").await.expect(202);
    server.put("/a", "rev_1", "x").await.fails(409, "revision_conflict");
    server.put("/a", "*", "three").await.expect(202);
    server.delete("/a", "0").await.fails(409, "revision_conflict");
    let delete = server.request(Method::DELETE, "/fs/file?path=/a");
    send(delete).await.fails(412, "precondition_failed");
}

#[tokio::test]
async fn binary_content_round_trips() {
    let server = start().await;
    let bytes: Vec<u8> = (0..=255).collect();
    for content in ["AAEC/w==", "AAEC/w", "AAEC\n/w==\n"] {
        let put = server.request(Method::PUT, "/fs/file?path=/b").header("If-Match", "*");
        let body = json!({"content": content, "encoding": "base64", "contentType": "image/x"});
        send(put.json(&body)).await.expect(202);
        let file = server.get("/fs/file?path=/b").await.expect(200);
        assert_eq!((&file["content"], &file["encoding"]), (&json!("AAEC/w=="), &json!("base64")));
        assert_eq!((&file["contentType"], &file["byteSize"]), (&json!("image/x"), &json!(4)));
    }
    let put = server.request(Method::PUT, "/fs/file?path=/b").header("If-Match", "*");
    let body = json!({"content": "AA_-", "encoding": "base64"});
    send(put.json(&body)).await.fails(400, "invalid_content");
    let put = server.request(Method::PUT, "/fs/file?path=/b").header("If-Match", "*");
    send(put.json(&json!({"content": "x", "encoding": "rot13"}))).await.fails(400, "bad_request");
    assert_eq!(bytes.len(), 256);
}

#[tokio::test]
async fn large_text_and_binary_are_streamed_whole() {
    let server = start().await;
    // Multi-byte characters and quotes, so that pieces are cut inside characters.
    let text = "é\"😀\\\n".repeat(30_000);
    server.put("/big.txt", "0", &text).await.expect(202);
    let file = server.get("/fs/file?path=/big.txt").await.expect(200);
    assert!(file["content"] == text.as_str());
    let put = server.request(Method::PUT, "/fs/raw?path=/big.bin").header("If-Match", "0");
    let bytes: Vec<u8> = (0..300_001u32).map(|i| (i % 251) as u8 ^ 0x80).collect();
    let reply = send(put.body(bytes.clone())).await.expect(202);
    assert_eq!(reply["byteSize"], 300_001);
    let file = server.get("/fs/file?path=/big.bin").await.expect(200);
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    assert!(engine.decode(file["content"].as_str().unwrap()).unwrap() == bytes);
    let conflict = server.put("/big.txt", "0", "x").await.fails(409, "revision_conflict");
    assert!(text.starts_with(conflict["currentContentPreview"].as_str().unwrap()));
}

#[tokio::test]
async fn bad_requests_are_named() {
    let server = start().await;
    server.get("/fs/file").await.fails(400, "bad_request");
    server.get("/fs/file?path=%zz").await.fails(400, "bad_request");
    server.get("/fs/file?path=%ff%fe").await.fails(400, "bad_request");
    for path in ["/", "/a//b", "/a/../b", "/./a", "/a%00b", "//a"] {
        server.put(path, "*", "x").await.fails(400, "bad_request");
    }
    let put = || server.request(Method::PUT, "/fs/file?path=/a").header("If-Match", "*");
    send(put().json(&json!({}))).await.fails(400, "invalid_content");
    send(put().json(&json!({"content": 5}))).await.fails(400, "bad_request");
    send(put().body("{")).await.fails(400, "bad_request");
    send(put().body(&b"{\"content\":\"\xff\"}"[..])).await.fails(400, "bad_request");
    server.get("/fs/nothing").await.fails(404, "not_found");
    let head = server.request(Method::HEAD, "/fs/file?path=/a");
    assert_eq!(send(head).await.status, 404);
    send(server.request(Method::POST, "/forks").json(&json!({}))).await.fails(404, "not_found");
}

#[tokio::test]
async fn semantics_stay_until_replaced() {
    let server = start().await;
    let put = server.request(Method::PUT, "/fs/file?path=/a").header("If-Match", "0");
    let semantics = json!({"properties": {"k": "v"}, "comments": ["one", "two"]});
    send(put.json(&json!({"content": "1", "semantics": semantics}))).await.expect(202);
    server.put("/a", "*", "2").await.expect(202);
    server.write("/a", "3").await;
    let file = server.get("/fs/file?path=/a").await.expect(200);
    assert_eq!((&file["content"], &file["semantics"]), (&json!("3"), &semantics));
    let tree = server.get("/fs/tree").await.expect(200);
    assert_eq!(tree["entries"][0]["propertyCount"], 1);
    assert_eq!(tree["entries"][0]["commentCount"], 2);
}

#[tokio::test]
async fn names_are_kept_byte_for_byte() {
    let server = start().await;
    for (sent, stored) in
        [("/p/a%2Bb", "/p/a+b"), ("/p/a+c", "/p/a c"), ("p/rel", "/p/rel"), ("/p/t/", "/p/t")]
    {
        server.put(sent, "0", "x").await.expect(202);
        assert!(server.paths().await.contains(&stored.to_owned()), "{sent}");
    }
    server.write("/p/space ", "x").await;
    server.write("/p/cafe\u{301}", "x").await;
    server.write("/p/caf\u{e9}", "x").await;
    server.write("/p/new\nline", "x").await;
    let paths = server.paths().await;
    for stored in ["/p/space ", "/p/cafe\u{301}", "/p/caf\u{e9}", "/p/new\nline"] {
        assert!(paths.contains(&stored.to_owned()), "{stored}");
    }
}
