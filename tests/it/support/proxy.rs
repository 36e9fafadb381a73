//! What stands between a mount and its server and cannot be trusted: it passes requests on, or
//! answers them itself, byte by byte, with or without TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::TestServer;
use super::server::WORKSPACE;

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// All of it.
    pub text: String,
    /// Method and target, as `GET /v1/…?…`.
    pub line: String,
}

impl Head {
    /// Whether it asks for this route of the workspace.
    pub fn is(&self, method: &str, route: &str) -> bool {
        let start = format!("{method} /v1/workspaces/{WORKSPACE}{route}");
        self.line.strip_prefix(&start).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
    }
}

/// What is done with a request.
pub enum Act {
    /// The server answers it.
    Pass,
    /// The server answers another request: what this makes of the head and the body.
    Change(Changed),
    /// The server answers, and its reply is changed on the way.
    Rewrite(Box<dyn FnOnce(Vec<u8>) -> Vec<u8> + Send>),
    /// These bytes are the answer, and then the connection ends.
    Reply(Vec<u8>),
    /// The first bytes once, the second for ever, with a wait before each.
    Endless(Vec<u8>, Vec<u8>, Duration),
}

/// What another request is made of: head and body.
type Changed = Box<dyn FnOnce(String, Vec<u8>) -> (String, Vec<u8>) + Send>;

/// A whole reply with a JSON body.
pub fn json(body: &str) -> Act {
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    Act::Reply(format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

type Rule = Box<dyn FnMut(&Head) -> Act + Send>;

struct Shared {
    server: SocketAddr,
    rule: Mutex<Option<Rule>>,
    tls: Mutex<Option<TlsAcceptor>>,
    heads: Mutex<Vec<Head>>,
    sent: AtomicU64,
    open: Mutex<Vec<tokio::task::AbortHandle>>,
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    _runtime: tokio::runtime::Runtime,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// One that passes everything to `server`.
    pub fn of(server: &TestServer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: server.addr(),
            rule: Mutex::default(),
            tls: Mutex::default(),
            heads: Mutex::default(),
            sent: AtomicU64::new(0),
            open: Mutex::default(),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { _runtime: runtime, addr, shared }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to mount, over plain HTTP.
    pub fn source(&self) -> String {
        format!("http://{}/{WORKSPACE}", self.addr)
    }

    /// Decides over requests from now on. Open connections are cut.
    pub fn rule(&self, rule: impl FnMut(&Head) -> Act + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Some(Box::new(rule));
        self.cut();
    }

    /// Passes everything on again.
    pub fn clear(&self) {
        *self.shared.rule.lock().unwrap() = None;
        self.cut();
    }

    /// Speaks TLS like this from now on. Open connections are cut.
    pub fn tls(&self, config: ServerConfig) {
        *self.shared.tls.lock().unwrap() = Some(TlsAcceptor::from(Arc::new(config)));
        self.cut();
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.open.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    /// The requests so far.
    pub fn heads(&self) -> Vec<Head> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// How many requests for this route there were.
    pub fn count(&self, method: &str, route: &str) -> usize {
        self.heads().iter().filter(|head| head.is(method, route)).count()
    }

    /// How many bytes it answered itself.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let tls = state.tls.lock().unwrap().clone();
            match tls {
                None => serve(stream, &state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, &state).await;
                    }
                }
            }
        });
        shared.open.lock().unwrap().push(task.abort_handle());
    }
}

/// One request; the connection belongs to its answer then.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let head = Head { text, line };
    shared.heads.lock().unwrap().push(head.clone());
    let act = shared.rule.lock().unwrap().as_mut().map_or(Act::Pass, |rule| rule(&head));
    let count = |bytes: &[u8]| shared.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    match act {
        Act::Pass => {
            if let Some(mut server) = pass(&head, &bytes, end, shared).await {
                drop(copy_bidirectional(&mut stream, &mut server).await);
            }
        }
        Act::Change(change) => {
            let mut body = bytes.split_off(end);
            while body.len() < content_length(&head) {
                if stream.read_buf(&mut body).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let (text, body) = change(head.text.clone(), body);
            let length = format!("Content-Length: {}", body.len());
            let is_length = |line: &&str| line.to_ascii_lowercase().starts_with("content-length:");
            let text = match text.lines().find(is_length) {
                Some(line) => text.replace(line, &length),
                None => text.clone(),
            };
            let all = [text.as_bytes(), &body].concat();
            if let Some(mut server) = pass(&head, &all, text.len(), shared).await {
                drop(copy_bidirectional(&mut stream, &mut server).await);
            }
        }
        Act::Rewrite(change) => {
            let Some(mut server) = pass(&head, &bytes, end, shared).await else { return };
            let mut left = content_length(&head).saturating_sub(bytes.len() - end);
            while left > 0 {
                let mut part = vec![0; left.min(64 << 10)];
                let Ok(n @ 1..) = stream.read(&mut part).await else { return };
                if server.write_all(&part[..n]).await.is_err() {
                    return;
                }
                left -= n;
            }
            let mut reply = Vec::new();
            drop(server.read_to_end(&mut reply).await);
            drop(stream.write_all(&change(reply)).await);
            drop(stream.shutdown().await);
        }
        Act::Reply(reply) => {
            count(&reply);
            drop(stream.write_all(&reply).await);
            drop(stream.flush().await);
            drop(stream.shutdown().await);
            // A reset would take back what was sent: the rest of the request is read.
            let rest = async { while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {} };
            drop(tokio::time::timeout(Duration::from_secs(1), rest).await);
        }
        Act::Endless(first, again, wait) => {
            let mut next = first;
            while stream.write_all(&next).await.is_ok() && stream.flush().await.is_ok() {
                count(&next);
                next.clone_from(&again);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// Sends what came of a request on to the server.
async fn pass(head: &Head, bytes: &[u8], end: usize, shared: &Shared) -> Option<TcpStream> {
    let mut server = TcpStream::connect(shared.server).await.ok()?;
    // So that each request comes on a connection of its own and can be looked at.
    let mut passed = bytes[..end - 2].to_vec();
    if !head.text.to_ascii_lowercase().contains("\r\nupgrade:") {
        passed.extend_from_slice(b"Connection: close\r\n");
    }
    passed.extend_from_slice(b"\r\n");
    passed.extend_from_slice(&bytes[end..]);
    server.write_all(&passed).await.ok()?;
    Some(server)
}

fn content_length(head: &Head) -> usize {
    let text = head.text.to_ascii_lowercase();
    let value = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
