//! A workspace server in this process, on a port of its own, that can be stopped and come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::Value;
use tokio::sync::oneshot;
use workspaced::{Auth, Config, Extensions, Feeds, Interceptor, RequestLog, Server};

use super::wait_for;

/// The token that every test server accepts.
pub const TOKEN: &str = "test-token";

/// The workspace that tests use.
pub const WORKSPACE: &str = "ws";

/// Which servers a promise is kept with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with all extensions.
    Extended,
    /// One with the original protocol only.
    Original,
}

impl Kind {
    /// A server of this kind, to be started.
    pub fn server(self) -> TestServerBuilder {
        match self {
            Self::Extended => TestServer::builder(),
            Self::Original => TestServer::builder().original(),
        }
    }

    /// Whether it has the extensions.
    pub fn is_extended(self) -> bool {
        self == Self::Extended
    }
}

/// A server; stopped when dropped.
pub struct TestServer {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    storage: tempfile::TempDir,
    options: Options,
    addr: SocketAddr,
    running: Option<Running>,
}

#[derive(Clone)]
struct Options {
    extensions: Extensions,
    interceptor: Option<Arc<dyn Interceptor>>,
    max_body_bytes: usize,
    max_raw_bytes: u64,
    auth: Auth,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    log: RequestLog,
    feeds: Feeds,
}

/// What a server is started with.
pub struct TestServerBuilder(Options);

impl TestServerBuilder {
    /// Serves only the original protocol.
    pub fn original(mut self) -> Self {
        self.0.extensions = Extensions::none();
        self
    }

    /// Refuses, delays or cuts requests at the edge.
    pub fn interceptor(mut self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.0.interceptor = Some(interceptor);
        self
    }

    /// Takes JSON bodies up to this size.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.0.max_body_bytes = bytes;
        self
    }

    /// Takes raw bodies up to this size.
    pub fn max_raw_bytes(mut self, bytes: u64) -> Self {
        self.0.max_raw_bytes = bytes;
        self
    }

    /// Takes the tokens of a file instead of [`TOKEN`].
    pub fn token_file(mut self, file: PathBuf) -> Self {
        self.0.auth = Auth::TokenFile(file);
        self
    }

    /// Starts it.
    pub fn start(self) -> TestServer {
        let mut server = self.prepare();
        server.start();
        server
    }

    fn prepare(self) -> TestServer {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        TestServer {
            runtime,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            storage: tempfile::tempdir().unwrap(),
            options: self.0,
            addr: own_address(),
            running: None,
        }
    }
}

impl TestServer {
    /// The requests of a server that runs in another process, at this address.
    pub fn elsewhere(addr: SocketAddr) -> Self {
        let mut server = Self::builder().prepare();
        server.addr = addr;
        server
    }

    /// A server with all extensions.
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// Chooses how it is started.
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder(Options {
            extensions: Extensions::all(),
            interceptor: None,
            max_body_bytes: 1 << 20,
            max_raw_bytes: 1 << 40,
            auth: Auth::Token(TOKEN.to_owned()),
        })
    }

    /// Starts it (again), on the same port and storage.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "already running");
        let server = wait_for("the port is free again", || {
            let mut config = Config::new(self.storage.path(), self.options.auth.clone());
            config.extensions = self.options.extensions;
            config.interceptor.clone_from(&self.options.interceptor);
            config.max_body_bytes = self.options.max_body_bytes;
            config.max_raw_bytes = self.options.max_raw_bytes;
            match self.runtime.block_on(Server::bind(config, self.addr)) {
                Ok(server) => Some(server),
                Err(workspaced::Error::Listen { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        self.addr = server.local_addr();
        let (log, feeds) = (server.requests(), server.feeds());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = self.runtime.spawn(async move {
            server.run(async move { drop(stopped.await) }).await.unwrap();
        });
        self.running = Some(Running { stop, task, log, feeds });
    }

    /// Stops it; the port is free afterwards.
    pub fn stop(&mut self) {
        let running = self.running.take().expect("running");
        drop(running.stop);
        self.runtime.block_on(running.task).unwrap();
    }

    /// Forgets everything and starts empty, as a server that lost its data and is still the same.
    pub fn wipe(&mut self) {
        self.stop();
        let lost = std::mem::replace(&mut self.storage, tempfile::tempdir().unwrap());
        std::fs::copy(lost.path().join("identity"), self.storage.path().join("identity")).unwrap();
        self.start();
    }

    /// Puts another server in its place, with this storage or a new one. Returns what was there.
    pub fn replace(&mut self, storage: Option<tempfile::TempDir>) -> tempfile::TempDir {
        self.stop();
        let storage = storage.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let before = std::mem::replace(&mut self.storage, storage);
        self.start();
        before
    }

    /// The folder it keeps everything in.
    pub fn storage(&self) -> &std::path::Path {
        self.storage.path()
    }

    /// What to mount.
    pub fn source(&self) -> String {
        format!("http://{}/{WORKSPACE}", self.addr)
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests it answered.
    pub fn log(&self) -> RequestLog {
        self.running.as_ref().expect("running").log.clone()
    }

    /// Its event streams.
    pub fn feeds(&self) -> Feeds {
        self.running.as_ref().expect("running").feeds.clone()
    }

    /// Sends a request of the tests' own. `route` is what follows the workspace, e.g.
    /// `/fs/file?path=%2Fa`.
    pub fn request(
        &self,
        method: Method,
        route: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> (u16, Vec<u8>) {
        let url = format!("http://{}/v1/workspaces/{WORKSPACE}{route}", self.addr);
        let mut request = self.client.request(method, url);
        request = request.header("Authorization", format!("Bearer {TOKEN}"));
        request = request.header("X-Correlation-Id", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        self.runtime.block_on(async {
            let reply = request.send().await.expect("the server answers");
            let status = reply.status().as_u16();
            (status, reply.bytes().await.expect("a whole reply").to_vec())
        })
    }

    /// The file's bytes and revision, as the server has them.
    pub fn get(&self, path: &str) -> Option<(Vec<u8>, String)> {
        let route = format!("/fs/file?path={}", encode(path));
        let (status, body) = self.request(Method::GET, &route, &[], None);
        if status == 404 {
            return None;
        }
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let file: Value = serde_json::from_slice(&body).unwrap();
        Some((decode(&file), file["revision"].as_str().unwrap().to_owned()))
    }

    /// Writes a file as somebody else would: unconditionally. Returns its revision.
    pub fn put(&self, path: &str, bytes: &[u8]) -> String {
        use base64::Engine as _;
        let content = base64::engine::general_purpose::STANDARD.encode(bytes);
        let body = serde_json::json!({ "content": content, "encoding": "base64" });
        let route = format!("/fs/file?path={}", encode(path));
        let body = Some(body.to_string().into_bytes());
        let (status, reply) = self.request(Method::PUT, &route, &[("If-Match", "*")], body);
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(&reply));
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        reply["targetRevision"].as_str().unwrap().to_owned()
    }

    /// Deletes a file as somebody else would.
    pub fn delete(&self, path: &str) {
        let (_, revision) = self.get(path).expect("there to be deleted");
        let route = format!("/fs/file?path={}", encode(path));
        let (status, reply) =
            self.request(Method::DELETE, &route, &[("If-Match", &revision)], None);
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(&reply));
    }

    /// Has `act` done at a server that mounts cannot reach: the same storage behind another port.
    /// Nothing may be running.
    pub fn out_of_reach<T>(&mut self, act: impl FnOnce(&Self) -> T) -> T {
        let known = std::mem::replace(&mut self.addr, SocketAddr::from(([127, 0, 0, 1], 0)));
        self.start();
        let result = act(self);
        self.stop();
        self.addr = known;
        result
    }

    /// Every event of the workspace, oldest first: type, path and revision.
    pub fn events(&self) -> Vec<(String, String, String)> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let all = self.raw_events().into_iter();
        all.map(|event| (text(&event, "type"), text(&event, "path"), text(&event, "revision")))
            .collect()
    }

    /// The newest event's id.
    pub fn cursor(&self) -> Option<String> {
        Some(self.raw_events().last()?["eventId"].as_str().unwrap().to_owned())
    }

    fn raw_events(&self) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events.last().map_or("evt_0", |event| event["eventId"].as_str().unwrap());
            let route = format!("/fs/events?cursor={after}&limit=1000");
            let (status, body) = self.request(Method::GET, &route, &[], None);
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            let page: Value = serde_json::from_slice(&body).unwrap();
            let page = page["events"].as_array().unwrap();
            if page.is_empty() {
                return events;
            }
            events.extend(page.iter().cloned());
        }
    }

    /// The entry of a path in the listing.
    pub fn listed(&self, path: &str) -> Option<Value> {
        let (status, body) = self.request(Method::GET, "/fs/tree?depth=100", &[], None);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: Value = serde_json::from_slice(&body).unwrap();
        let mut entries = page["entries"].as_array().unwrap().iter();
        entries.find(|entry| entry["path"] == path).cloned()
    }

    /// Every file with its bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let (status, body) = self.request(Method::GET, "/fs/export?format=json", &[], None);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let files: Vec<Value> = serde_json::from_slice(&body).unwrap();
        let entry = |file: &Value| (file["path"].as_str().unwrap().to_owned(), decode(file));
        files.iter().map(entry).collect()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.stop();
        }
    }
}

/// An address that stays this server's while it is stopped: the kernel gives ports of this range to
/// nobody who does not ask for them.
pub fn own_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..30_000)));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A path as a query parameter.
pub fn encode(path: &str) -> String {
    utf8_percent_encode(path, NON_ALPHANUMERIC).to_string()
}

fn decode(file: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let content = file["content"].as_str().unwrap();
    if file["encoding"] == "base64" {
        base64::engine::general_purpose::STANDARD.decode(content).unwrap()
    } else {
        content.as_bytes().to_vec()
    }
}
