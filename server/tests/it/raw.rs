//! `/fs/raw`: bytes in and out.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Running, send, start, start_with};

async fn fetch(
    server: &Running,
    method: Method,
    rest: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, reqwest::header::HeaderMap, Vec<u8>) {
    let mut request = server.request(method, rest);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn bytes_round_trip_small_and_large() {
    let server = start().await;
    for (path, size) in [("/empty", 0usize), ("/small", 1000), ("/large", 3_000_000)] {
        let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n * 7 % 256).unwrap()).collect();
        let put = server.request(Method::PUT, &format!("/fs/raw?path={path}&mode=420"));
        let put = put.header("If-Match", "0").header("Content-Type", "image/png");
        let reply = send(put.body(bytes.clone())).await.expect(202);
        assert_eq!(reply["byteSize"], size);
        let (status, headers, body) =
            fetch(&server, Method::GET, &format!("/fs/raw?path={path}"), &[]).await;
        assert_eq!(status, 200);
        assert!(body == bytes, "{path}");
        assert_eq!(headers["etag"], format!("\"{}\"", reply["targetRevision"].as_str().unwrap()));
        assert_eq!(headers["x-content-sha256"], reply["contentHash"].as_str().unwrap());
        assert_eq!(headers["x-file-mode"], "420");
        assert_eq!(headers["content-type"], "image/png");
        assert!(headers.contains_key("last-modified"));
        let (status, headers, body) =
            fetch(&server, Method::HEAD, &format!("/fs/raw?path={path}"), &[]).await;
        assert_eq!((status.as_u16(), body.len()), (200, 0));
        assert_eq!(headers["content-length"], size.to_string());
    }
}

#[tokio::test]
async fn ranges_and_conditions() {
    let server = start().await;
    server.write("/a", "0123456789").await;
    server.write("/big", &"0123456789".repeat(20_000)).await;
    let get = |path: &str, name: &'static str, value: &'static str| {
        let rest = format!("/fs/raw?path={path}");
        let server = &server;
        async move { fetch(server, Method::GET, &rest, &[(name, value)]).await }
    };
    let (status, headers, body) = get("/a", "range", "bytes=2-4").await;
    assert_eq!((status.as_u16(), body.as_slice()), (206, &b"234"[..]));
    assert_eq!(headers["content-range"], "bytes 2-4/10");
    let (_, headers, body) = get("/big", "range", "bytes=-3").await;
    assert_eq!(headers["content-range"], "bytes 199997-199999/200000");
    assert_eq!(body, b"789");
    let (status, headers, _) = get("/a", "range", "bytes=10-").await;
    assert_eq!((status.as_u16(), &headers["content-range"]), (416, &"bytes */10".parse().unwrap()));
    assert_eq!(get("/a", "if-none-match", "\"rev_1\"").await.0, 304);
    assert_eq!(get("/a", "if-none-match", "\"rev_9\"").await.0, 200);
    assert_eq!(get("/a", "if-match", "\"rev_9\"").await.0, 412);
    assert_eq!(get("/none", "range", "bytes=0-").await.0, 404);
}

#[tokio::test]
async fn puts_are_conditional_checked_and_named() {
    let server = start_with(|config| config.max_raw_bytes = 200_000).await;
    let put = |if_match: &str| {
        server.request(Method::PUT, "/fs/raw?path=/a").header("If-Match", if_match)
    };
    send(server.request(Method::PUT, "/fs/raw?path=/a").body("x"))
        .await
        .fails(412, "precondition_failed");
    send(put("0").header("X-Content-Sha256", "00").body("x")).await.fails(400, "digest_mismatch");
    let large = vec![b'x'; 100_000];
    send(put("0").header("X-Content-Sha256", "00").body(large)).await.fails(400, "digest_mismatch");
    send(put("0").body(vec![0; 200_001])).await.fails(413, "payload_too_large");
    let stream =
        futures_util::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(vec![0; 60_000])));
    send(put("0").body(reqwest::Body::wrap_stream(stream))).await.fails(413, "payload_too_large");
    assert!(server.paths().await.is_empty());
    let named = || put("0").header("X-Content-Identity", "mountd:k1:600").body("text é");
    let first = send(named()).await.expect(202);
    assert_eq!(send(named()).await.expect(202), first);
    assert_eq!(server.get("/fs/file?path=/a").await.expect(200)["content"], "text é");
    assert_eq!(server.events("").await.len(), 1);
    send(put("0").body("x")).await.fails(409, "revision_conflict");
    send(put("rev_1").body(&b"\xff\x00"[..])).await.expect(202);
    let file = server.get("/fs/file?path=/a").await.expect(200);
    assert_eq!((&file["encoding"], &file["content"]), (&json!("base64"), &json!("/wA=")));
    let files = std::fs::read_dir(server.folder.as_ref().unwrap().path().join("bodies")).unwrap();
    assert_eq!(files.count(), 0);
}
