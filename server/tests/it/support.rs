//! A server on a free port, and a client that speaks to it.

use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use workspaced::{Auth, Config, Error, Feeds, RequestLog, Server};

pub(crate) const TOKEN: &str = "test-token";

/// A running server; dropping it aborts it.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: RequestLog,
    pub(crate) feeds: Feeds,
    pub(crate) token: String,
    pub(crate) client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
    pub(crate) folder: Option<TempDir>,
}

/// What came back: status, headers and JSON body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn fails(self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        self.body
    }
}

pub(crate) fn config(folder: &Path) -> Config {
    Config::new(folder, Auth::Token(TOKEN.to_owned()))
}

pub(crate) async fn start() -> Running {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    change(&mut config);
    let mut running = run(config).await;
    running.folder = Some(folder);
    running
}

pub(crate) async fn run(config: Config) -> Running {
    let server = Server::bind(config, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (addr, requests, feeds) = (server.local_addr(), server.requests(), server.feeds());
    let task = tokio::spawn(server.run(async move {
        stopped.await.ok();
    }));
    Running {
        addr,
        requests,
        feeds,
        token: TOKEN.to_owned(),
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        stop: Some(stop),
        task,
        folder: None,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Stops the server in good order and returns its storage.
    pub(crate) async fn stop(mut self) -> Option<TempDir> {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap().unwrap();
        self.folder.take()
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("http://{}/v1/workspaces/ws{rest}", self.addr)
    }

    pub(crate) fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        let request = self.client.request(method, self.url(rest)).bearer_auth(&self.token);
        request.header("X-Correlation-Id", "c1")
    }

    pub(crate) async fn get(&self, rest: &str) -> Reply {
        send(self.request(Method::GET, rest)).await
    }

    pub(crate) async fn put(&self, path: &str, if_match: &str, content: &str) -> Reply {
        let request = self.request(Method::PUT, &format!("/fs/file?path={path}"));
        send(request.header("If-Match", if_match).json(&json!({"content": content}))).await
    }

    pub(crate) async fn delete(&self, path: &str, if_match: &str) -> Reply {
        let request = self.request(Method::DELETE, &format!("/fs/file?path={path}"));
        send(request.header("If-Match", if_match)).await
    }

    /// Sends entries in bulk and returns the reply, which must be a 202.
    #[allow(clippy::needless_pass_by_value, reason = "callers build the value in place")]
    #[track_caller]
    pub(crate) fn bulk(&self, files: Value) -> impl Future<Output = Value> {
        let request = self.request(Method::POST, "/fs/bulk").json(&json!({"files": files}));
        async move { send(request).await.expect(202) }
    }

    /// Writes one file in bulk without a precondition and returns its revision.
    pub(crate) async fn write(&self, path: &str, content: &str) -> String {
        let reply = self.bulk(json!([{"path": path, "content": content}])).await;
        reply["results"][0]["revision"].as_str().unwrap().to_owned()
    }

    /// Returns the paths of the whole tree.
    pub(crate) async fn paths(&self) -> Vec<String> {
        let tree = self.get("/fs/tree?depth=100").await.expect(200);
        let entries = tree["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn events(&self, rest: &str) -> Vec<Value> {
        let feed = self.get(&format!("/fs/events{rest}")).await.expect(200);
        feed["events"].as_array().unwrap().clone()
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    Reply { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

/// Returns one field of each object of a list.
pub(crate) fn column(list: &Value, name: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().unwrap().iter().map(|entry| text(&entry[name])).collect()
}
