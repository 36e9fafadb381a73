//! `/fs/tree`, `/fs/query` and `/fs/export`.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::support::{Running, column, start};

/// Writes many small files in a few requests.
async fn fill(server: &Running, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(1000) {
        let file = |n: &usize| json!({"path": format!("/d{:03}/f{n:05}", n / 100), "content": "x"});
        let reply = server.bulk(chunk.iter().map(file).collect()).await;
        assert_eq!(reply["written"], chunk.len());
    }
}

/// Follows the cursors of a listing to its end.
async fn pages(server: &Running, first: &str, field: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut rest = first.to_owned();
    loop {
        let page = server.get(&rest).await.expect(200);
        let entries = page[field].as_array().unwrap();
        assert!(entries.len() <= 1000);
        all.extend(entries.iter().cloned());
        let Some(cursor) = page["nextCursor"].as_str() else { return all };
        rest = format!("{first}&cursor={cursor}");
    }
}

#[tokio::test]
async fn a_tree_shows_files_and_implied_folders_by_depth() {
    let server = start().await;
    server.get("/fs/tree").await.expect(200);
    for path in ["/a/x/1", "/a/x/2", "/a-b", "/a/y", "/c/d/e/f", "/fd/x", "/fd/x/y"] {
        server.write(path, "text").await;
    }
    let list = async |rest: &str| {
        let tree = server.get(&format!("/fs/tree{rest}")).await.expect(200);
        column(&tree["entries"], "path")
    };
    assert_eq!(list("?depth=1").await, ["/a", "/a-b", "/c", "/fd"]);
    assert_eq!(
        list("?depth=2").await,
        ["/a", "/a-b", "/a/x", "/a/y", "/c", "/c/d", "/fd", "/fd/x"]
    );
    assert_eq!(list("?path=/a&depth=1").await, ["/a/x", "/a/y"]);
    assert_eq!(list("?path=/fd/x").await, ["/fd/x/y"]);
    assert_eq!(list("?path=/c&depth=x").await, ["/c/d", "/c/d/e", "/c/d/e/f"]);
    assert!(list("?path=/none").await.is_empty());
    let tree = server.get("/fs/tree?path=/a&depth=2").await.expect(200);
    assert_eq!(tree["totalFiles"], 3);
    let file = &tree["entries"][1];
    assert_eq!(
        (&file["type"], &file["size"], &file["provider"]),
        (&json!("file"), &json!(4), &json!("a"))
    );
    assert_eq!(tree["entries"][0], json!({"path": "/a/x", "type": "dir", "revision": "dir"}));
    let tree = server.get("/fs/tree?path=/fd&depth=1").await.expect(200);
    assert_eq!(tree["entries"][0]["type"], "file");
    // A folder goes with its last file.
    server.delete("/c/d/e/f", "*").await.expect(202);
    assert!(!list("").await.iter().any(|path| path.starts_with("/c")));
}

#[tokio::test]
async fn a_large_tree_is_paged_completely() {
    let server = start().await;
    fill(&server, 15_000).await;
    let all = pages(&server, "/fs/tree?depth=5", "entries").await;
    assert_eq!(all.len(), 15_150);
    let paths = column(&Value::Array(all), "path");
    assert!(paths.is_sorted());
    assert_eq!(pages(&server, "/fs/tree?depth=1", "entries").await.len(), 150);
    assert_eq!(pages(&server, "/fs/query?limit=1000", "items").await.len(), 15_000);
    assert_eq!(server.get("/fs/tree?path=/d007").await.expect(200)["totalFiles"], 100);
    let export = server.get("/fs/export?format=json").await.expect(200);
    assert_eq!(export.as_array().unwrap().len(), 15_000);
}

#[tokio::test]
async fn a_cursor_outlives_its_entry() {
    let server = start().await;
    for name in ["/a", "/b", "/c"] {
        server.write(name, "x").await;
    }
    server.delete("/b", "*").await.expect(202);
    let tree = server.get("/fs/tree?cursor=/b").await.expect(200);
    assert_eq!(column(&tree["entries"], "path"), ["/c"]);
    let query = server.get("/fs/query?cursor=/b").await.expect(200);
    assert_eq!(column(&query["items"], "path"), ["/c"]);
}

#[tokio::test]
async fn a_query_filters_by_provider_and_path() {
    let server = start().await;
    for name in ["/Docs/a", "/docs/b", "/other/c"] {
        server.write(name, "x").await;
    }
    let query = server.get("/fs/query?provider=docs&limit=1").await.expect(200);
    assert_eq!(column(&query["items"], "path"), ["/Docs/a"]);
    let next = query["nextCursor"].as_str().unwrap();
    let query = server.get(&format!("/fs/query?provider=docs&cursor={next}")).await.expect(200);
    assert_eq!(column(&query["items"], "path"), ["/docs/b"]);
    assert_eq!(query["nextCursor"], Value::Null);
    let query = server.get("/fs/query?path=/other").await.expect(200);
    assert_eq!(column(&query["items"], "path"), ["/other/c"]);
    server.get("/fs/query?relation=x").await.fails(400, "bad_request");
}

#[tokio::test]
async fn an_export_holds_everything() {
    let server = start().await;
    let big = "é\"".repeat(60_000);
    server.write("/p/big", &big).await;
    server
        .bulk(json!([{"path": "/p/bin", "content": "AAEC/w==", "encoding": "base64", "mode": 493}]))
        .await;
    server.write("/q", "q").await;
    let all = server.get("/fs/export?format=json&path=/p").await.expect(200);
    assert_eq!(column(&all, "path"), ["/p/big", "/p/bin"]);
    assert!(all[0]["content"] == big.as_str());
    assert_eq!((&all[1]["content"], &all[1]["encoding"]), (&json!("AAEC/w=="), &json!("base64")));
    assert_eq!(server.get("/fs/export?format=json&path=/none").await.expect(200), json!([]));
    server.get("/fs/export?format=patch").await.fails(400, "bad_request");

    let request = server.request(reqwest::Method::GET, "/fs/export?format=tar");
    let tar = request.send().await.unwrap().bytes().await.unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&tar[..]));
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        found.push((entry.path().unwrap().display().to_string(), bytes));
    }
    assert_eq!(found[0], ("p/big".to_owned(), big.into_bytes()));
    assert_eq!(found[1], ("p/bin".to_owned(), vec![0, 1, 2, 255]));
    assert_eq!(found[2].0, "q");
}
