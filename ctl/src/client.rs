//! The client of the control socket.
//!
//! One connection per call, HTTP/1.1, every wait bounded by the caller. The client refuses to
//! talk to a socket that neither the user nor root listens on. It runs on a current-thread
//! runtime and touches nothing but the socket.

mod events;
mod sse;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, time};

pub use self::events::EventStream;
use crate::{
    api::{API_VERSION, API_VERSION_HEADER, Envelope, ErrorBody, IDEMPOTENCY_KEY_HEADER, Meta},
    clock,
};

/// The largest reply that is read: an outbox of some hundred thousand records.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long to wait before trying again while the queue of the socket is full.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// What can go wrong between a client and its daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon listens on {}", socket.display())]
    NotRunning {
        /// The socket that was tried.
        socket: PathBuf,
        /// Whether the socket file is there: a daemon ended without removing it.
        is_stale: bool,
    },
    /// The socket may not be opened by this user.
    #[error("{} may not be opened by this user", socket.display())]
    NotPermitted {
        /// The socket that was tried.
        socket: PathBuf,
    },
    /// Somebody else listens there.
    #[error("{} belongs to a process of uid {uid}", socket.display())]
    Untrusted {
        /// The socket that was tried.
        socket: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The answer did not come in time.
    #[error("no answer on {} within {within_ms} ms", socket.display())]
    TimedOut {
        /// The socket that was tried.
        socket: PathBuf,
        /// How long was waited.
        within_ms: u64,
        /// The process that listens, if it accepted the connection.
        pid: Option<u32>,
    },
    /// The answer is not one of this API.
    #[error("the answer on {} is not one of the control API: {what}", socket.display())]
    BadReply {
        /// The socket that was tried.
        socket: PathBuf,
        /// What was wrong with it.
        what: String,
    },
    /// The daemon answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<ErrorBody>, Meta),
}

/// A successful reply: as it came, and as this program understands it.
#[derive(Debug, Clone)]
pub struct Reply<T> {
    /// The data.
    pub data: T,
    /// The whole reply with every field, to be passed on.
    pub envelope: Envelope<Value>,
}

/// Talks to the daemon behind one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    uid: u32,
}

impl Client {
    /// Returns a client for `socket`, used by the user `uid`. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>, uid: u32) -> Self {
        Self { socket: socket.into(), uid }
    }

    /// Returns the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for a document.
    ///
    /// # Errors
    ///
    /// When there is no answer `within` that time, or it is an error.
    pub async fn get<T: DeserializeOwned>(
        &self,
        route: &str,
        within: Duration,
    ) -> Result<Reply<T>, ClientError> {
        self.call(Method::GET, route, Bytes::new(), within).await
    }

    /// Asks for a change.
    ///
    /// # Errors
    ///
    /// When there is no answer `within` that time, or it is an error.
    pub async fn post<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<Reply<T>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.bad_reply(&error))?;
        self.call(Method::POST, route, body.into(), within).await
    }

    /// Asks for bytes, and hands them to `take` as they come. The outer error is the daemon's, the
    /// inner one that of `take`.
    ///
    /// # Errors
    ///
    /// When the answer has not begun `within` that time, breaks off, or is an error.
    pub async fn content(
        &self,
        route: &str,
        within: Duration,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, ClientError> {
        let mut pid = None;
        let sent = self.send(Method::GET, route, Bytes::new(), &mut pid);
        let response = match time::timeout(within, sent).await {
            Ok(response) => response?,
            Err(_) => return Err(self.timed_out(within, pid)),
        };
        if !response.status().is_success() {
            return self.read_reply::<Value>(response).await.map(|_| Ok(()));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.bad_reply(&error))?;
            if let Some(bytes) = frame.data_ref()
                && let Err(error) = take(bytes)
            {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Opens the event stream; with `follow` it stays open.
    ///
    /// # Errors
    ///
    /// When the stream has not begun `within` that time, or the daemon refuses it.
    pub async fn events(&self, follow: bool, within: Duration) -> Result<EventStream, ClientError> {
        events::open(self, follow, within).await
    }

    /// Returns whether somebody listens on the socket at this moment.
    pub async fn is_listening(&self) -> bool {
        let connected = time::timeout(CONNECT_RETRY, UnixStream::connect(&self.socket)).await;
        !matches!(connected, Ok(Err(error)) if is_nobody(&error))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Reply<T>, ClientError> {
        let mut pid = None;
        let exchange = async {
            let response = self.send(method, route, body, &mut pid).await?;
            self.read_reply(response).await
        };
        match time::timeout(within, exchange).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(within, pid)),
        }
    }

    /// Connects, sends one request and returns the head of the response.
    async fn send(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
        pid: &mut Option<u32>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let peer = stream.peer_cred().map_err(|error| self.bad_reply(&error))?;
        // Root may steer everybody's mounts; everybody else only their own, or root's.
        if self.uid != 0 && peer.uid() != self.uid && peer.uid() != 0 {
            return Err(ClientError::Untrusted { socket: self.socket.clone(), uid: peer.uid() });
        }
        *pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.bad_reply(&error))?;
        // The connection ends with the sender or the body; its errors surface there as well.
        tokio::spawn(async move { connection.await.ok() });
        let mut request = Request::builder()
            .method(&method)
            .uri(route)
            .header(HOST, "mountd")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(API_VERSION_HEADER, API_VERSION);
        if method == Method::POST {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .header(IDEMPOTENCY_KEY_HEADER, idempotency_key());
        }
        let request = request.body(Full::new(body)).map_err(|error| self.bad_reply(&error))?;
        sender.send_request(request).await.map_err(|error| self.bad_reply(&error))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        loop {
            let error = match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let socket = self.socket.clone();
            match error.kind() {
                // The queue of a Unix socket is full: its owner has stopped accepting.
                io::ErrorKind::WouldBlock => time::sleep(CONNECT_RETRY).await,
                io::ErrorKind::PermissionDenied => {
                    return Err(ClientError::NotPermitted { socket });
                }
                _ if is_nobody(&error) => {
                    let is_stale = error.kind() == io::ErrorKind::ConnectionRefused;
                    return Err(ClientError::NotRunning { socket, is_stale });
                }
                _ => return Err(self.bad_reply(&error)),
            }
        }
    }

    async fn read_reply<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<Reply<T>, ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.bad_reply(&error))?.to_bytes();
        let envelope: Envelope<Value> = serde_json::from_slice(&body)
            .map_err(|error| self.bad_reply(&format!("HTTP {status}, {error}")))?;
        match &envelope.outcome {
            Ok(data) => {
                let data = T::deserialize(data).map_err(|error| self.bad_reply(&error))?;
                Ok(Reply { data, envelope })
            }
            Err(error) => Err(ClientError::Refused(Box::new(error.clone()), envelope.meta.clone())),
        }
    }

    fn bad_reply(&self, what: &(impl ToString + ?Sized)) -> ClientError {
        ClientError::BadReply { socket: self.socket.clone(), what: what.to_string() }
    }

    fn timed_out(&self, within: Duration, pid: Option<u32>) -> ClientError {
        let within_ms = crate::units::millis(within);
        ClientError::TimedOut { socket: self.socket.clone(), within_ms, pid }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// Returns a key no other request of this machine carries.
fn idempotency_key() -> String {
    format!("{:x}-{:x}", std::process::id(), clock::now().as_nanosecond())
}

#[cfg(test)]
mod tests;
