//! Everything a client sends is bounded.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use workspaced::{Clock, RateLimit};

use crate::support::{send, start_with};

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_it_is_not() {
    let server = start_with(|config| config.max_body_bytes = 10_000).await;
    let sized = |size: usize| {
        let mut body = json!({"files": [{"path": "/a", "content": ""}]}).to_string();
        let missing = size - body.len();
        body.insert_str(body.len() - 4, &"x".repeat(missing));
        assert_eq!(body.len(), size);
        body
    };
    let post = |body: reqwest::Body| send(server.request(Method::POST, "/fs/bulk").body(body));
    post(sized(10_000).into()).await.expect(202);
    let refused = post(sized(10_001).into()).await;
    assert_eq!(refused.headers["connection"], "close");
    refused.fails(413, "payload_too_large");
    let pieces =
        sized(4_000_000).into_bytes().chunks(10_000).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    post(reqwest::Body::wrap_stream(stream)).await.fails(413, "payload_too_large");
    let files: Value = (0..200).map(|n| json!({"path": format!("/{n}"), "content": ""})).collect();
    assert_eq!(server.bulk(files).await["written"], 200);
}

#[tokio::test]
async fn a_bulk_request_has_a_bounded_number_of_files() {
    let server = start_with(|config| config.max_bulk_files = 2).await;
    let file = |n: usize| json!({"path": format!("/{n}"), "content": ""});
    let files: Value = (0..3).map(file).collect();
    let post = server.request(Method::POST, "/fs/bulk").json(&json!({"files": files}));
    send(post).await.fails(400, "bad_request");
}

#[tokio::test]
async fn too_many_requests_wait_for_the_rest_of_the_window() {
    let clock = Clock::by_hand(1_700_000_000_000_000_000);
    let given = clock.clone();
    let limit = RateLimit { max: 2, window: Duration::from_secs(60) };
    let server = start_with(|config| {
        config.clock = given;
        config.rate_limit = Some(limit);
    })
    .await;
    server.get("/fs/tree").await.expect(200);
    clock.advance(Duration::from_secs(20));
    server.get("/fs/tree").await.expect(200);
    let refused = server.get("/fs/tree").await;
    assert_eq!(refused.headers["retry-after"], "40");
    refused.fails(429, "rate_limited");
    clock.advance(Duration::from_secs(40));
    server.get("/fs/tree").await.expect(200);
}

#[tokio::test]
async fn a_correlation_id_is_needed_and_health_is_free() {
    let server = start_with(|_| {}).await;
    let request = server.client.get(server.url("/fs/tree")).bearer_auth(&server.token);
    let refused = send(request).await.fails(400, "bad_request");
    assert_eq!(refused["message"], "missing X-Correlation-Id header");
    let health = server.client.get(format!("http://{}/health", server.addr));
    send(health).await.expect(200);
}
