//! How fast the server is; run in a release build with `--ignored --nocapture`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Running, start};

#[allow(clippy::disallowed_methods, reason = "this measures time and decides nothing by it")]
async fn timed<T>(what: &str, work: impl Future<Output = T>) -> (T, Duration) {
    let begin = std::time::Instant::now();
    let result = work.await;
    let took = begin.elapsed();
    println!("{what}: {took:?}");
    (result, took)
}

async fn write_files(server: &Running, files: usize, batch: usize, width: usize) {
    let numbers: Vec<usize> = (0..files).collect();
    let lanes = numbers.chunks(files / width).map(|lane| async move {
        for chunk in lane.chunks(batch) {
            let content = "x".repeat(200);
            let file = |n: &usize| {
                json!({"path": format!("/d{:04}/f{n:06}", n / 100), "content": content,
                    "ifMatch": "0"})
            };
            let reply = server.bulk(chunk.iter().map(file).collect()).await;
            assert_eq!(reply["written"], chunk.len());
        }
    });
    futures_util::future::join_all(lanes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed() {
    let server = start().await;
    let files = 100_000;
    let ((), took) =
        timed("100,000 files by bulk of 256, 4 lanes", write_files(&server, files, 256, 4)).await;
    println!("  {:.0} files/s", 100_000.0 / took.as_secs_f64());
    timed("one bulk of 256", write_again(&server, 256)).await;
    timed("one bulk of 256", write_again(&server, 256)).await;
    let count = async |first: &str, field: &str| {
        let (mut rest, mut seen, mut pages) = (first.to_owned(), 0, 0);
        loop {
            let page = server.get(&rest).await.expect(200);
            seen += page[field].as_array().unwrap().len();
            pages += 1;
            let Some(cursor) = page["nextCursor"].as_str() else { return (seen, pages) };
            rest = format!("{first}&cursor={cursor}");
        }
    };
    let ((seen, pages), _) = timed("full tree", count("/fs/tree?depth=100", "entries")).await;
    assert_eq!((seen, pages), (101_000, 101));
    timed("tree of the root, depth 1", count("/fs/tree?depth=1", "entries")).await;
    timed("tree of one folder", count("/fs/tree?path=/d0500", "entries")).await;
    timed("query, all pages", count("/fs/query?limit=1000", "items")).await;
    timed("events, all pages", count("/fs/events?limit=1000", "events")).await;
    let (export, _) = timed("export json", server.get("/fs/export")).await;
    assert_eq!(export.expect(200).as_array().unwrap().len(), 100_000);
    let puts = (0..256).map(|n| async move { n }).map(|n| {
        let server = &server;
        async move { server.put(&format!("/p/{}", n.await), "0", "x").await.expect(202) }
    });
    timed("256 concurrent PUTs", futures_util::future::join_all(puts)).await;
    let large = vec![7u8; 256 << 20];
    let put = server.request(reqwest::Method::PUT, "/fs/raw?path=/large").header("If-Match", "0");
    timed("raw PUT of 256 MiB", put.body(large).send()).await.0.unwrap();
    let get = server.request(reqwest::Method::GET, "/fs/raw?path=/large");
    let body = async { get.send().await.unwrap().bytes().await.unwrap().len() };
    assert_eq!(timed("raw GET of 256 MiB", body).await.0, 256 << 20);
}

async fn write_again(server: &Running, files: usize) {
    let file = |n: usize| json!({"path": format!("/d{:04}/f{n:06}", n / 100), "content": "y"});
    let reply = server.bulk((0..files).map(file).collect::<Value>()).await;
    assert_eq!(reply["written"], files);
}
