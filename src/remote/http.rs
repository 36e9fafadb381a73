//! The remote over HTTP: settings, and the trait put together from its parts.
//!
//! Owns what the client remembers between requests: the connection pool, the server's capabilities
//! and the mounted root. It keeps no queue and retries nothing; callers decide that by the error.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use url::{Host, Url};

use super::credential::Credential;
use super::scope::Scope;
use super::transport::{Body, Transport, parse};
use super::wire::{Item, WireBulk, WireCapabilities};
use super::{
    BulkEntry, Capabilities, Cursor, EventId, FeedItem, FilePut, ListPage, Outcome, Remote,
    RemoteError, RemoteFile, Reply, bulk, encode, feed,
};
use crate::path::WsPath;
use crate::revision::Precondition;

/// How long [`Remote::reachable`] waits for a connection.
const REACHABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the server is and how to talk to it.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The address of the server, `scheme://host[:port]/`.
    pub base: Url,
    /// The workspace.
    pub workspace: String,
    /// The remote folder that is mounted; nothing outside it is ever seen.
    pub root: WsPath,
    /// The token.
    pub credential: Credential,
    /// How long a small request may take in all; long bodies get more in proportion.
    pub request_timeout: Duration,
    /// The longest JSON reply that is read, other than one that brings content.
    pub response_bytes_max: u64,
    /// How often events are asked for while the WebSocket is down.
    pub poll_interval: Duration,
    /// The `User-Agent`.
    pub agent: String,
}

impl HttpConfig {
    /// The usual settings for the whole of a workspace.
    #[must_use]
    pub fn new(base: Url, workspace: String, credential: Credential) -> Self {
        Self {
            base,
            workspace,
            root: WsPath::root(),
            credential,
            request_timeout: Duration::from_secs(30),
            response_bytes_max: 32 * 1024 * 1024,
            poll_interval: Duration::from_secs(5),
            agent: concat!("mountd/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Checks the address of a server before any token is sent to it.
///
/// # Errors
/// When it is not http or https, carries a user name, a query or a fragment, or is plain http to
/// another machine without `insecure_http`; says so for people, without repeating the address.
pub fn check_url(url: &Url, insecure_http: bool) -> Result<(), String> {
    let Some(host) = url.host() else {
        return Err("the address of the server names no host".into());
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address of the server must not carry a user name or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the address of the server must not carry a query or fragment".into());
    }
    let loopback = match host {
        // Names below it are looked up like any other by some resolvers.
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback || insecure_http => Ok(()),
        "http" => Err("plain http would show the token and all content to the network".into()),
        scheme => Err(format!("a server is reached by http or https, not by {scheme}")),
    }
}

/// A workspace server reached over HTTP.
#[derive(Debug)]
pub struct HttpRemote {
    pub(super) transport: Transport,
    pub(super) scope: Scope,
    pub(super) response_bytes_max: u64,
    pub(super) poll_interval: Duration,
    /// Held while a long JSON reply is in memory.
    pub(super) long_reply: tokio::sync::Mutex<()>,
    offered: RwLock<Capabilities>,
}

impl HttpRemote {
    /// Prepares the client; nothing is sent.
    ///
    /// # Errors
    /// When the workspace's name cannot be part of an address or the client cannot be built.
    pub fn new(config: HttpConfig) -> Result<Self, RemoteError> {
        if matches!(config.workspace.as_str(), "" | "." | "..") {
            return Err(RemoteError::Invalid {
                message: "the workspace has no usable name".into(),
            });
        }
        Ok(Self {
            transport: Transport::new(&config)?,
            scope: Scope::new(config.root),
            response_bytes_max: config.response_bytes_max,
            poll_interval: config.poll_interval,
            long_reply: tokio::sync::Mutex::default(),
            offered: RwLock::default(),
        })
    }

    /// What the server is known to offer.
    pub(super) fn offered(&self) -> Capabilities {
        *self.offered.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a file as the value of a query.
    pub(super) fn remote_path(&self, path: &WsPath) -> WsPath {
        self.scope.remote(path)
    }

    async fn ask_capabilities(&self) -> Result<Capabilities, RemoteError> {
        let is_known = self.transport.expected().is_some();
        let url = self.transport.absolute("v1/capabilities", &[])?;
        let request = self.transport.request(Method::GET, url)?;
        let reply = match self.transport.ask(request, self.transport.timeout()).await? {
            Ok(reply) => reply,
            // Only a workspace server's own word makes one that said who it is one that does not.
            Err(refusal) if is_known && !refusal.is_missing_route() => return Err(refusal.error()),
            Err(refusal) if matches!(refusal.status, 404 | 405) => {
                return Ok(Capabilities::default());
            }
            Err(refusal) => return Err(refusal.error()),
        };
        // A front end may answer unknown routes with a page for people.
        let media = reply.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !media.is_some_and(|media| media.starts_with("application/json")) {
            let message = "the reply about capabilities is no JSON".to_owned();
            return if is_known {
                Err(RemoteError::Garbled { message })
            } else {
                Ok(Capabilities::default())
            };
        }
        Ok(capabilities_of(self.transport.json(reply, self.response_bytes_max).await?))
    }

    async fn send_bulk(&self, entries: &[BulkEntry]) -> Result<Vec<Outcome>, RemoteError> {
        let offered = self.offered();
        let checked: Vec<_> =
            entries.iter().map(|entry| encode::sendable(entry, offered)).collect();
        let sent: Vec<_> = entries
            .iter()
            .zip(&checked)
            .filter_map(|(entry, checked)| checked.is_ok().then_some(entry))
            .collect();
        let mut outcomes =
            if sent.is_empty() { Vec::new() } else { self.send_checked(&sent).await? }.into_iter();
        let outcome = |checked| match checked {
            Ok(()) => outcomes.next().unwrap_or(Outcome::Unknown),
            Err(reason) => {
                Outcome::Refused { code: "unsupported".into(), message: String::from(reason) }
            }
        };
        Ok(checked.into_iter().map(outcome).collect())
    }

    async fn send_checked(&self, sent: &[&BulkEntry]) -> Result<Vec<Outcome>, RemoteError> {
        let body = encode::bulk_body(sent, &self.scope, self.offered())
            .map_err(|error| RemoteError::Invalid { message: error.to_string() })?;
        let time = self.transport.time_for(u64::try_from(body.len()).unwrap_or(u64::MAX));
        let request = self
            .transport
            .request(Method::POST, self.transport.url("fs/bulk", &[])?)?
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let reply = match self.transport.ask(request, time).await? {
            Ok(reply) => reply,
            Err(refusal) => return Err(refusal.error()),
        };
        let most = encode::bulk_reply_bytes_max(sent, &self.scope).min(self.response_bytes_max);
        match self.transport.body(reply, most).await? {
            Body::Whole(bytes) => {
                let mut reply = parse::<WireBulk>(&bytes)?;
                for error in &mut reply.errors.0 {
                    self.transport.credential().mask(&mut error.code);
                    self.transport.credential().mask(&mut error.message);
                }
                Ok(bulk::outcomes(sent, &self.scope, reply))
            }
            Body::OverBound => {
                Err(RemoteError::Garbled { message: "the reply to a batch is too long".into() })
            }
        }
    }
}

/// Reads the names of capabilities; unknown ones are of no use and left out.
fn capabilities_of(wire: WireCapabilities) -> Capabilities {
    let names = wire.capabilities.0;
    let has = |name: &str| {
        names.iter().any(|item| matches!(item, Item::Read(offered) if offered == name))
    };
    Capabilities {
        unmodified_since: has("if-unmodified-since"),
        bulk_delete: has("bulk-delete"),
        bulk_move: has("bulk-move"),
        metadata: has("metadata"),
        symlink: has("symlink"),
        directories: has("directories"),
        raw: has("raw"),
        exact_size: has("exact-size"),
        body_bytes_max: wire.limits.max_body_bytes.filter(|bytes| *bytes > 0),
        file_bytes_max: wire.limits.max_raw_bytes.filter(|bytes| *bytes > 0),
        server: wire.server_id.parse().ok(),
    }
}

impl Remote for HttpRemote {
    fn capabilities(&self) -> Reply<'_, Capabilities> {
        Box::pin(self.ask_capabilities())
    }

    fn set_capabilities(&self, capabilities: Capabilities) {
        self.transport.expect(capabilities.server);
        *self.offered.write().unwrap_or_else(PoisonError::into_inner) = capabilities;
    }

    fn list(&self, cursor: Option<&str>) -> Reply<'_, ListPage> {
        let cursor = cursor.map(str::to_owned);
        Box::pin(async move { self.list_page(cursor.as_deref()).await })
    }

    fn export(&self, bytes_max: u64) -> Reply<'_, Option<ListPage>> {
        Box::pin(self.export_all(bytes_max))
    }

    fn fetch<'a>(&'a self, path: &'a WsPath, bytes_max: u64) -> Reply<'a, Option<RemoteFile>> {
        Box::pin(self.fetch_bytes(path, bytes_max))
    }

    fn fetch_to<'a>(
        &'a self,
        path: &'a WsPath,
        target: &'a std::path::Path,
        bytes_max: u64,
    ) -> Reply<'a, Option<RemoteFile>> {
        Box::pin(self.fetch_file(path, target, bytes_max))
    }

    fn bulk<'a>(&'a self, entries: &'a [BulkEntry]) -> Reply<'a, Vec<Outcome>> {
        Box::pin(self.send_bulk(entries))
    }

    fn encoded_len(&self, entry: &BulkEntry) -> u64 {
        encode::encoded_len(entry, &self.scope)
    }

    fn put<'a>(&'a self, put: FilePut<'a>) -> Reply<'a, Outcome> {
        Box::pin(self.put_file(put))
    }

    fn delete<'a>(&'a self, path: &'a WsPath, precondition: Precondition) -> Reply<'a, Outcome> {
        Box::pin(self.delete_file(path, precondition))
    }

    fn newest_event(&self) -> Reply<'_, Option<EventId>> {
        Box::pin(async move { Ok(self.newest().await?.map(|event| event.id)) })
    }

    fn reachable(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let Some(endpoint) = self.transport.endpoint() else { return false };
            matches!(timeout(REACHABLE_TIMEOUT, TcpStream::connect(endpoint)).await, Ok(Ok(_)))
        })
    }

    fn feed(
        self: Arc<Self>,
        start: Option<Cursor>,
        wake: Arc<Notify>,
        out: mpsc::Sender<FeedItem>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(feed::run(self, start, wake, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_a_token_is_sent() {
        let check = |text: &str, insecure| check_url(&Url::parse(text).unwrap(), insecure).is_ok();
        for good in ["https://example.org/", "http://127.0.0.1:8080/", "http://[::1]/"] {
            assert!(check(good, false), "{good}");
        }
        assert!(check("http://localhost:1/", false));
        assert!(!check("http://example.org/", false));
        assert!(!check("http://x.localhost/", false));
        assert!(check("http://example.org/", true));
        for bad in ["ftp://localhost/", "https://u:p@example.org/", "https://example.org/?t=1"] {
            assert!(!check(bad, true), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_read_by_name() {
        let wire = serde_json::from_str(
            r#"{"capabilities":["raw","metadata",7,"new"],"limits":{"maxBodyBytes":9,"maxRawBytes":12}}"#,
        )
        .unwrap();
        let expected = Capabilities {
            raw: true,
            metadata: true,
            body_bytes_max: Some(9),
            file_bytes_max: Some(12),
            ..Capabilities::default()
        };
        assert_eq!(capabilities_of(wire), expected);
        let id = "0123456789abcdef0123456789abcdef";
        let reply = |id: &str| format!(r#"{{"capabilities":[],"serverId":"{id}"}}"#);
        let of = |id: &str| capabilities_of(serde_json::from_str(&reply(id)).unwrap()).server;
        assert_eq!((of(id), of("nonsense")), (id.parse().ok(), None));
        assert_eq!(capabilities_of(WireCapabilities::default()), Capabilities::default());
    }
}
