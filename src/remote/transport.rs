//! One request and its reply, bounded in time and bytes.
//!
//! Owns the HTTP client. Invariants: no redirect is followed and no proxy asked, so the token goes
//! to the configured host only; every request has a credential and a correlation id; a reply that
//! drips is given up: each slice of time must bring a minimum of bytes. Runs on tokio.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, DATE, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::classify::{self, Refusal};
use super::credential::Credential;
use super::encode::percent;
use super::http::HttpConfig;
use super::{RemoteError, ServerId};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What each request timeout must bring of a long reply, in bytes.
const PROGRESS_BYTES_MIN: u64 = 256 * 1024;

/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: u64 = 64 * 1024;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// Names the server that a request is meant for; another one refuses it.
const EXPECT_SERVER: HeaderName = HeaderName::from_static("x-expect-server");

/// Makes requests to one workspace.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    base: Url,
    workspace: String,
    credential: Credential,
    timeout: Duration,
    /// Tells this process's requests from those of others in the server's log.
    instance: u64,
    requests: AtomicU64,
    /// The server that requests are meant for, once it said who it is.
    expected: RwLock<Option<ServerId>>,
}

/// A body that was read up to a bound.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Vec<u8>),
    OverBound,
}

impl Transport {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, RemoteError> {
        // One version for all: the feed's upgrade exists in HTTP/1.1 only.
        let client = Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_keepalive(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(&config.agent)
            .build()
            .map_err(classify::transport)?;
        Ok(Self {
            client,
            base: config.base.clone(),
            workspace: percent(&config.workspace),
            credential: config.credential.clone(),
            timeout: config.request_timeout,
            instance: rand::random(),
            requests: AtomicU64::new(0),
            expected: RwLock::default(),
        })
    }

    /// The server that requests are meant for.
    pub(super) fn expected(&self) -> Option<ServerId> {
        *self.expected.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on requests are meant for this server.
    pub(super) fn expect(&self, server: Option<ServerId>) {
        *self.expected.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The time for a request that moves `bytes`: a second more for each 256 KiB.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / PROGRESS_BYTES_MIN)
    }

    /// The address of a route of the workspace; `query` is encoded here.
    pub(super) fn url(&self, route: &str, query: &[(&str, &str)]) -> Result<Url, RemoteError> {
        let path = format!("v1/workspaces/{}/{route}", self.workspace);
        self.absolute(&path, query)
    }

    /// The address of a route outside the workspace.
    pub(super) fn absolute(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, RemoteError> {
        let mut url = self.base.join(path).map_err(|error| RemoteError::Invalid {
            message: format!("address of the server: {error}"),
        })?;
        if !query.is_empty() {
            let pairs: Vec<_> =
                query.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
            url.set_query(Some(&pairs.join("&")));
        }
        Ok(url)
    }

    /// A request with its credential and correlation id.
    pub(super) fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, RemoteError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = self
            .client
            .request(method, url)
            .header(CORRELATION_ID, format!("mountd-{:016x}-{number}", self.instance));
        if let Some(server) = self.expected() {
            request = request.header(EXPECT_SERVER, server.to_string());
        }
        if let Some(credential) = self.credential.header()? {
            request = request.header(AUTHORIZATION, credential);
        }
        Ok(request)
    }

    /// Sends a request and waits for the head of its reply, for at most `time`.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        time: Duration,
    ) -> Result<Response, RemoteError> {
        let reply = timeout(time, request.send())
            .await
            .map_err(|_| timed_out())?
            .map_err(classify::transport)?;
        if reply.status().is_redirection() && reply.status() != StatusCode::NOT_MODIFIED {
            return Err(redirected(&reply));
        }
        Ok(reply)
    }

    /// Sends a request; a status that is no success comes back as a [`Refusal`].
    pub(super) async fn ask(
        &self,
        request: RequestBuilder,
        time: Duration,
    ) -> Result<Result<Response, Refusal>, RemoteError> {
        let reply = self.send(request, time).await?;
        if reply.status().is_success() { Ok(Ok(reply)) } else { Ok(Err(self.refusal(reply).await)) }
    }

    /// Gets a JSON document of at most `bytes_max`.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        url: Url,
        bytes_max: u64,
    ) -> Result<Result<T, Refusal>, RemoteError> {
        match self.ask(self.request(Method::GET, url)?, self.timeout).await? {
            Ok(reply) => Ok(Ok(self.json(reply, bytes_max).await?)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Reads a JSON reply of at most `bytes_max`.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        reply: Response,
        bytes_max: u64,
    ) -> Result<T, RemoteError> {
        match self.body(reply, bytes_max).await? {
            Body::Whole(bytes) => parse(&bytes),
            Body::OverBound => Err(RemoteError::Garbled {
                message: format!("reply is longer than {bytes_max} bytes"),
            }),
        }
    }

    /// Reads a reply of at most `bytes_max`.
    pub(super) async fn body(
        &self,
        mut reply: Response,
        bytes_max: u64,
    ) -> Result<Body, RemoteError> {
        let announced = content_length(&reply);
        if announced.is_some_and(|length| length > bytes_max) {
            return Ok(Body::OverBound);
        }
        let capacity = announced.unwrap_or(0).min(PROGRESS_BYTES_MIN * 4);
        let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
        let mut pace = Pace::default();
        while let Some(chunk) = self.chunk(&mut reply, &mut pace).await? {
            if length(&bytes) + length(&chunk) > bytes_max {
                return Ok(Body::OverBound);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Body::Whole(bytes))
    }

    /// The next piece of a reply, `None` at its end.
    pub(super) async fn chunk(
        &self,
        reply: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, RemoteError> {
        // A deadline in steps: each must bring a minimum, or the rest of a slow drip is not waited for.
        let deadline =
            pace.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        let chunk = tokio::select! {
            biased;
            chunk = reply.chunk() => chunk.map_err(classify::transport)?,
            () = deadline => return Err(timed_out()),
        };
        pace.bytes += chunk.as_ref().map_or(0, |chunk| length(chunk));
        if pace.bytes >= PROGRESS_BYTES_MIN {
            *pace = Pace::default();
        }
        Ok(chunk)
    }

    /// Reads a refusal; its body is only an explanation, so failing to read it changes nothing.
    pub(super) async fn refusal(&self, reply: Response) -> Refusal {
        let status = reply.status().as_u16();
        let header = |name| reply.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = classify::retry_after(header(RETRY_AFTER), header(DATE));
        let body = match self.body(reply, REFUSAL_BYTES_MAX).await {
            Ok(Body::Whole(body)) => body,
            Ok(Body::OverBound) | Err(_) => Vec::new(),
        };
        let mut refusal = Refusal::new(status, &body, retry_after);
        self.credential.mask(&mut refusal.body.code);
        self.credential.mask(&mut refusal.body.message);
        refusal
    }

    /// The time for one small request.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The host and port that connections go to.
    pub(super) fn endpoint(&self) -> Option<(String, u16)> {
        let host = match self.base.host()? {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
        Some((host, self.base.port_or_known_default()?))
    }
}

/// How far the current step of a reply has come.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    deadline: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

/// The announced length of a reply.
pub(super) fn content_length(reply: &Response) -> Option<u64> {
    reply.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Parses a JSON document.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RemoteError> {
    // The position is enough; the text of the error could quote content.
    serde_json::from_slice(bytes).map_err(|error| RemoteError::Garbled {
        message: format!(
            "not the expected JSON at line {}, column {}",
            error.line(),
            error.column()
        ),
    })
}

/// A length as the protocol counts.
pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn timed_out() -> RemoteError {
    RemoteError::Unreachable { message: "no reply in time".into(), maybe_applied: true }
}

/// Names only the host that a redirect points to: the rest of the address may carry secrets.
fn redirected(reply: &Response) -> RemoteError {
    let target = reply.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = target.and_then(|target| reply.url().join(target).ok());
    let host = target.as_ref().and_then(Url::host_str).unwrap_or("an unnamed host");
    RemoteError::Untrusted {
        message: format!("the server redirects to {host}; give that address if it is right"),
    }
}
