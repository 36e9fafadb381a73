//! What the additions to the protocol do, and that nothing of them shows when they are off.

use reqwest::Method;
use serde_json::{Value, json};
use workspaced::Extensions;

use crate::support::{column, send, start, start_with};

#[tokio::test]
async fn capabilities_are_listed() {
    let server = start().await;
    let url = format!("http://{}/v1/capabilities", server.addr);
    send(server.client.get(&url)).await.fails(401, "unauthorized");
    let reply = send(server.client.get(&url).bearer_auth(&server.token)).await.expect(200);
    assert_eq!(reply["capabilities"].as_array().unwrap().len(), 9);
    assert_eq!(reply["limits"]["maxBodyBytes"], 1_048_576);
}

/// A server says who it is, and a request that is meant for another one does nothing.
#[tokio::test]
async fn a_request_for_another_server_does_nothing() {
    let server = start().await;
    let url = format!("http://{}/v1/capabilities", server.addr);
    let reply = send(server.client.get(&url).bearer_auth(&server.token)).await.expect(200);
    let id = reply["serverId"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 32);
    let put = |expected: &str| {
        let put = server.request(Method::PUT, "/fs/file?path=/a").header("If-Match", "0");
        put.header("X-Expect-Server", expected).json(&json!({"content": "x"}))
    };
    let refused = send(put("0123456789abcdef0123456789abcdef")).await.fails(421, "other_server");
    assert!(refused["message"].as_str().unwrap().contains(&id), "{refused}");
    assert!(server.paths().await.is_empty());
    send(put(&id)).await.expect(202);

    let plain = start_with(|config| config.extensions.server_id = false).await;
    let put = plain.request(Method::PUT, "/fs/file?path=/a").header("If-Match", "0");
    let put = put.header("X-Expect-Server", &id).json(&json!({"content": "x"}));
    send(put).await.expect(202);
    let url = format!("http://{}/v1/capabilities", plain.addr);
    let reply = send(plain.client.get(&url).bearer_auth(&plain.token)).await.expect(200);
    assert!(reply.get("serverId").is_none(), "{reply}");
}

#[tokio::test]
async fn without_extensions_nothing_of_them_shows() {
    let server = start_with(|config| config.extensions = Extensions::none()).await;
    let url = format!("http://{}/v1/capabilities", server.addr);
    send(server.client.get(&url).bearer_auth(&server.token)).await.fails(404, "not_found");
    server.get("/fs/raw?path=/a").await.fails(404, "not_found");
    let entry = json!([{"path": "/a", "content": "x", "mode": "odd", "mtime": 5,
        "symlinkTarget": "t", "op": 7, "ifUnmodifiedSince": "never"}]);
    assert_eq!(server.bulk(entry).await["written"], 1);
    for op in ["delete", "mkdir"] {
        let reply = server.bulk(json!([{"path": "/a", "op": op}])).await;
        assert_eq!(reply["errors"][0]["code"], "invalid_content", "{op}");
    }
    let put = server.request(Method::PUT, "/fs/file?path=/a").json(&json!({"content": ""}));
    let put = put.header("If-Unmodified-Since", "Fri, 01 Jan 2100 00:00:00 GMT");
    send(put).await.fails(412, "precondition_failed");
    let file = server.get("/fs/file?path=/a").await.expect(200);
    let tree = server.get("/fs/tree").await.expect(200);
    let events = server.events("").await;
    for object in [&file, &tree["entries"][0], &events[0]] {
        for field in ["byteSize", "mode", "mtime", "symlinkTarget"] {
            assert!(object.get(field).is_none(), "{field} in {object}");
        }
    }
}

#[tokio::test]
async fn bulk_delete() {
    let server = start().await;
    server.write("/a", "x").await;
    let reply = server
        .bulk(json!([
            {"op": "delete", "path": "/a", "ifMatch": "rev_9"},
            {"op": "delete", "path": "/none"},
            {"op": "delete", "path": "/a", "ifMatch": "rev_1"},
            {"op": "unheard", "path": "/a"},
        ]))
        .await;
    assert_eq!(column(&reply["errors"], "code"), ["invalid_input", "conflict", "not_found"]);
    assert_eq!(reply["errors"][1]["currentRevision"], "rev_1");
    assert_eq!(reply["results"][0]["revision"], "rev_2");
    assert!(server.paths().await.is_empty());
}

#[tokio::test]
async fn bulk_move_takes_content_and_metadata_along() {
    let server = start().await;
    server
        .bulk(json!([{"path": "/a/x", "content": "body", "contentType": "t/x", "mode": 420}]))
        .await;
    server.write("/target", "old").await;
    let attempt = |entry: Value| server.bulk(json!([entry]));
    let reply = attempt(json!({"op": "move", "path": "/n", "from": "/none"})).await;
    assert_eq!(reply["errors"][0]["code"], "not_found");
    let reply =
        attempt(json!({"op": "move", "path": "/target", "from": "/a/x", "ifMatch": "0"})).await;
    assert_eq!(reply["errors"][0]["currentRevision"], "rev_2");
    assert!(reply["errors"][0].get("conflictSide").is_none());
    let reply =
        attempt(json!({"op": "move", "path": "/n", "from": "/a/x", "fromIfMatch": "rev_7"})).await;
    assert_eq!(reply["errors"][0]["conflictSide"], "from");
    let reply = attempt(json!({"op": "move", "path": "/target", "from": "/target"})).await;
    assert_eq!(reply["errors"][0]["code"], "invalid_path");
    let reply = attempt(json!({"op": "move", "path": "/target", "from": "/a/x",
        "ifMatch": "rev_2", "fromIfMatch": "rev_1"}))
    .await;
    assert_eq!(
        (&reply["results"][0]["path"], &reply["errorCount"]),
        (&json!("/target"), &json!(0))
    );
    assert_eq!(server.paths().await, ["/target"]);
    let file = server.get("/fs/file?path=/target").await.expect(200);
    assert_eq!(
        (&file["content"], &file["contentType"], &file["mode"]),
        (&json!("body"), &json!("t/x"), &json!(420))
    );
    let events = server.events("?cursor=evt_2").await;
    let events = Value::Array(events);
    assert_eq!(column(&events, "type"), ["file.updated", "file.deleted"]);
    assert_eq!(column(&events, "path"), ["/target", "/a/x"]);
}

#[tokio::test]
async fn metadata_is_kept_shown_and_checked() {
    let server = start().await;
    let mtime = "2024-02-03T04:05:06.000000007Z";
    server.bulk(json!([{"path": "/a", "content": "x", "mode": 493, "mtime": mtime}])).await;
    server.write("/a", "y").await;
    let file = server.get("/fs/file?path=/a").await.expect(200);
    assert_eq!((&file["mode"], &file["mtime"]), (&json!(493), &json!(mtime)));
    let reply = server
        .bulk(json!([
            {"op": "meta", "path": "/a", "ifMatch": "rev_2", "mode": 384},
            {"op": "meta", "path": "/none", "mode": 384},
            {"op": "meta", "path": "/a", "mode": 4096},
            {"op": "meta", "path": "/a", "mtime": "yesterday"},
        ]))
        .await;
    assert_eq!(column(&reply["errors"], "code"), ["invalid_input", "invalid_input", "not_found"]);
    let tree = server.get("/fs/tree").await.expect(200);
    let query = server.get("/fs/query").await.expect(200);
    let export = server.get("/fs/export").await.expect(200);
    let events = server.events("").await;
    for object in [&tree["entries"][0], &query["items"][0], &export[0], &events[2]] {
        assert_eq!((&object["mode"], &object["mtime"]), (&json!(384), &json!(mtime)), "{object}");
        assert_eq!(object["revision"], "rev_3");
    }
    assert_eq!(events[1]["contentHash"], events[2]["contentHash"]);
}

#[tokio::test]
async fn symbolic_links() {
    let server = start().await;
    server.bulk(json!([{"path": "/l", "symlinkTarget": "../t"}])).await;
    let file = server.get("/fs/file?path=/l").await.expect(200);
    assert_eq!((&file["symlinkTarget"], &file["content"]), (&json!("../t"), &json!("../t")));
    assert_eq!(server.events("").await[0]["symlinkTarget"], "../t");
    server.write("/l", "plain").await;
    assert!(server.get("/fs/file?path=/l").await.expect(200).get("symlinkTarget").is_none());
    let reply = server.bulk(json!([{"path": "/l", "symlinkTarget": "a", "content": "b"}])).await;
    assert_eq!(reply["errors"][0]["code"], "invalid_content");
}

#[tokio::test]
async fn explicit_folders() {
    let server = start().await;
    let mkdir = json!([{"op": "mkdir", "path": "/d/e", "mode": 448}]);
    let first = server.bulk(mkdir.clone()).await;
    assert_eq!(server.bulk(mkdir).await["results"], first["results"]);
    let tree = server.get("/fs/tree").await.expect(200);
    assert_eq!(
        tree["entries"],
        json!([{"path": "/d", "type": "dir", "revision": "dir"},
            {"path": "/d/e", "type": "dir", "revision": "dir", "explicit": true, "mode": 448}])
    );
    server.write("/d/e/f", "x").await;
    let rmdir = json!([{"op": "rmdir", "path": "/d/e"}]);
    assert_eq!(server.bulk(rmdir.clone()).await["errors"][0]["code"], "not_empty");
    assert_eq!(
        server.bulk(json!([{"op": "rmdir", "path": "/d"}])).await["errors"][0]["code"],
        "not_empty"
    );
    let reply = server.bulk(json!([{"op": "mkdir", "path": "/d/e/f"}])).await;
    assert_eq!(reply["errors"][0]["code"], "conflict");
    server.delete("/d/e/f", "*").await.expect(202);
    let export = server.get("/fs/export?directories=true").await.expect(200);
    assert_eq!(column(&export, "path"), ["/d/e"]);
    assert_eq!(server.get("/fs/export").await.expect(200), json!([]));
    assert_eq!(server.bulk(rmdir.clone()).await["errorCount"], 0);
    assert_eq!(server.bulk(rmdir).await["errors"][0]["code"], "not_found");
    assert!(server.paths().await.is_empty());
    let events = Value::Array(server.events("").await);
    assert_eq!(
        column(&events, "type"),
        ["directory.created", "file.created", "file.deleted", "directory.deleted"]
    );
}

#[tokio::test]
async fn unmodified_since() {
    let server = start().await;
    server.write("/a", "x").await;
    let edited = server.get("/fs/file?path=/a").await.expect(200)["lastEditedAt"].clone();
    let entry = |path: &str, since: &Value| json!([{"path": path, "content": "y", "ifUnmodifiedSince": since}]);
    let reply = server.bulk(entry("/none", &edited)).await;
    assert_eq!(reply["errors"][0]["code"], "precondition_failed");
    assert_eq!(server.bulk(entry("/a", &edited)).await["written"], 1);
    let reply = server.bulk(entry("/a", &edited)).await;
    assert_eq!(reply["errors"][0]["currentRevision"], "rev_2");
    assert_eq!(server.bulk(entry("/a", &json!("x"))).await["errors"][0]["code"], "invalid_input");
    let put = |since: &str| {
        let put = server.request(Method::PUT, "/fs/file?path=/a").json(&json!({"content": "z"}));
        send(put.header("If-Unmodified-Since", since))
    };
    let late = put("Fri, 01 Jan 2010 00:00:00 GMT").await.fails(412, "precondition_failed");
    assert_eq!(late["currentRevision"], "rev_2");
    put("Fri, 01 Jan 2100 00:00:00 GMT").await.expect(202);
    let delete = server.request(Method::DELETE, "/fs/file?path=/a");
    let delete = delete.header("If-Unmodified-Since", "Fri, 01 Jan 2010 00:00:00 GMT");
    send(delete).await.fails(412, "precondition_failed");
}
