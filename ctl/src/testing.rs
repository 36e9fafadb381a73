//! What tests need: a place of their own, a daemon that says what it is told, and ears.

use std::{
    convert::Infallible,
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::{api::ExitCode, env::Env, out::Out, paths};

/// A folder of its own for one test, and an environment that points into it.
pub(crate) struct Place {
    root: PathBuf,
    pub(crate) env: Env,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("mountctl-{}-{number}", std::process::id()));
        let env = Env {
            uid: nix::unistd::Uid::effective().as_raw(),
            xdg_runtime_dir: Some(root.join("run")),
            xdg_state_home: Some(root.join("state")),
            tmp_dir: Some(root.join("tmp")),
            current_dir: Some("/".into()),
            ..Env::default()
        };
        make_dir(&paths::run_dir(&env));
        make_dir(&paths::state_root(&env));
        Self { root, env }
    }

    /// Starts a daemon called `name` that answers with `answer`.
    pub(crate) fn daemon(
        &self,
        name: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> FakeDaemon {
        FakeDaemon::start(&paths::socket_path(&self.env, name), answer)
    }

    /// Makes a state file from SQL.
    pub(crate) fn state(&self, name: &str, sql: &str) -> rusqlite::Connection {
        let dir = paths::state_dir(&self.env, name);
        make_dir(&dir);
        let connection = rusqlite::Connection::open(dir.join(paths::STATE_FILE)).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    /// Runs `mountctl` with `line` as its arguments.
    pub(crate) async fn run(&self, line: &str) -> Heard {
        let (stdout, stderr) = (Ear::default(), Ear::default());
        let mut out = Out::new(Box::new(stdout.clone()), Box::new(stderr.clone()), (false, false));
        let args = std::iter::once("mountctl").chain(line.split_whitespace());
        let code = crate::run(args.map(Into::into), &self.env, &mut out).await;
        Heard { code, stdout: stdout.text(), stderr: stderr.text() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}

pub(crate) fn make_dir(dir: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
}

/// What a run of `mountctl` said.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) code: ExitCode,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Heard {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A writer whose text can be read.
#[derive(Clone, Default)]
pub(crate) struct Ear(Arc<Mutex<Vec<u8>>>);

impl Ear {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request as the daemon saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Method and path with query, such as `GET /v1/status`.
    pub(crate) what: String,
    /// The body; null when there is none.
    pub(crate) body: Value,
    /// The API version header.
    pub(crate) version: Option<String>,
}

/// What a daemon does about a request.
pub(crate) enum Answer {
    /// Sends a success with this schema and data.
    Data(&'static str, Value),
    /// Sends this status and body.
    Raw(u16, String),
    /// Sends a success, and stops listening.
    Last(&'static str, Value),
    /// Sends an event stream; open for ever if so told.
    Stream(String, bool),
    /// Never answers.
    Silence,
}

/// A daemon that says what it is told.
pub(crate) struct FakeDaemon {
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeDaemon {
    pub(crate) fn start(
        socket: &Path,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        make_dir(socket.parent().unwrap());
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, Arc::new(answer), Arc::clone(&asked)));
        Self { asked, task }
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Script = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;
type Log = Arc<Mutex<Vec<Asked>>>;

async fn serve(listener: UnixListener, answer: Script, asked: Log) {
    let stop = Arc::new(tokio::sync::Notify::new());
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream.unwrap().0,
            () = stop.notified() => return,
        };
        let (answer, asked, stop) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&stop));
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &answer, &asked, &stop));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: &Script,
    asked: &Log,
    stop: &tokio::sync::Notify,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let what = format!("{} {}", request.method(), request.uri());
    let version = request.headers().get("x-mountd-api-version");
    let version = version.map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let request = Asked { what, body, version };
    asked.lock().unwrap().push(request.clone());
    let text = |status: u16, kind: &str, text: String| {
        let body = Full::new(Bytes::from(text)).boxed();
        Response::builder().status(status).header("content-type", kind).body(body).unwrap()
    };
    Ok(match answer(&request) {
        Answer::Data(schema, data) => text(200, "application/json", success(schema, &data)),
        Answer::Raw(status, body) => text(status, "application/json", body),
        Answer::Last(schema, data) => {
            stop.notify_one();
            text(200, "application/json", success(schema, &data))
        }
        Answer::Stream(events, false) => text(200, "text/event-stream", events),
        Answer::Stream(events, true) => {
            let body = Endless(Some(events.into())).boxed();
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
        Answer::Silence => std::future::pending().await,
    })
}

fn success(schema: &str, data: &Value) -> String {
    json!({"ok": true, "data": data, "meta": {"schema": schema, "elapsed_ms": 1,
        "request_id": "r-1", "daemon_version": "9.9.9"}})
    .to_string()
}

/// A body that says something and then nothing, for ever.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => std::task::Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => std::task::Poll::Pending,
        }
    }
}
