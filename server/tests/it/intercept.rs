//! The hooks an embedding program has.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use workspaced::{After, Before, Interceptor, RequestHead};

use crate::support::start_with;

struct ByPath;

impl Interceptor for ByPath {
    fn before(&self, request: &RequestHead) -> Before {
        assert!(request.authorized);
        match request.path.as_deref() {
            Some("/refuse") => Before::Reply {
                status: 429,
                headers: vec![("Retry-After".to_owned(), "1".to_owned())],
                body: "{\"code\":\"rate_limited\"}".to_owned(),
            },
            Some("/reset") => Before::Reset,
            Some("/delay") => Before::Delay(Duration::from_millis(1)),
            _ => Before::Pass,
        }
    }

    fn after(&self, request: &RequestHead, status: u16) -> After {
        match request.path.as_deref() {
            Some("/drop") if status == 202 => After::Drop,
            Some("/garble") => After::Garble,
            Some("/late") => After::Delay(Duration::from_millis(1)),
            _ => After::Pass,
        }
    }
}

#[tokio::test]
async fn requests_are_refused_cut_and_delayed() {
    let server = start_with(|config| config.interceptor = Some(Arc::new(ByPath))).await;
    let put = |path: &str| {
        let request = server.request(reqwest::Method::PUT, &format!("/fs/file?path={path}"));
        request.header("If-Match", "0").json(&json!({"content": "x"})).send()
    };
    let refused = put("/refuse").await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    put("/reset").await.unwrap_err();
    put("/drop").await.unwrap_err();
    assert_eq!(put("/delay").await.unwrap().status(), 202);
    assert_eq!(put("/late").await.unwrap().status(), 202);
    let garbled = put("/garble").await.unwrap().text().await.unwrap();
    serde_json::from_str::<serde_json::Value>(&garbled).unwrap_err();
    assert_eq!(server.paths().await, ["/delay", "/drop", "/garble", "/late"]);

    assert_eq!(server.requests.count("PUT", "/fs/file"), 6);
    assert_eq!(server.requests.count_status("/fs/file", 202), 4);
    assert_eq!(server.requests.count("GET", "/fs/tree"), 1);
    let recent = server.requests.recent();
    assert_eq!((recent[0].path.as_deref(), recent[0].status), (Some("/refuse"), 429));
    server.requests.reset();
    assert_eq!(server.requests.count("PUT", "/fs/file"), 0);
}
