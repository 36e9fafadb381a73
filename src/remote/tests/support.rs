//! A workspace server on a free port, and short ways to say things.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use url::Url;
use workspaced::{Auth, Config, Extensions, Feeds, RequestLog, Server};

use super::super::credential::Credential;
use super::super::http::{HttpConfig, HttpRemote};
use super::super::{
    BulkChange, BulkEntry, ListPage, Metadata, Outcome, Remote as _, RemoteEntry, RemoteFile,
};
use crate::path::WsPath;
use crate::revision::{Precondition, Revision};

pub(super) const TOKEN: &str = "s3cret-token";

/// A token that is good for `/r` only.
pub(super) const SCOPED_TOKEN: &str = "narrow-token";

/// A token file with both.
pub(super) fn scoped_tokens() -> String {
    let scopes = "relayfile:fs:read:/r/**,relayfile:fs:write:/r/**";
    format!("{TOKEN}\n{SCOPED_TOKEN} subject=bob scopes={scopes}\n")
}

/// A running server; it stops with this.
pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) feeds: Feeds,
    pub(super) requests: RequestLog,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Host {
    pub(super) async fn start(extensions: Extensions) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_with(anywhere, |config| config.extensions = extensions).await
    }

    pub(super) async fn start_with(address: SocketAddr, edit: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path(), Auth::Token(TOKEN.into()));
        edit(&mut config);
        let server = Server::bind(config, address).await.unwrap();
        let (address, feeds, requests) = (server.local_addr(), server.feeds(), server.requests());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server.run(stopped).await.unwrap();
        });
        Self { address, feeds, requests, stop: Some(stop), task, _folder: folder }
    }

    /// Stops the server and waits until its port is free.
    pub(super) async fn stop(mut self) -> SocketAddr {
        drop(self.stop.take());
        self.task.await.unwrap();
        self.address
    }

    pub(super) async fn remote(&self, root: &str) -> Arc<HttpRemote> {
        self.remote_and_credential(root).await.0
    }

    pub(super) async fn remote_and_credential(&self, root: &str) -> (Arc<HttpRemote>, Credential) {
        let credential = Credential::new(Some(TOKEN.to_owned().into()));
        let mut config = config(self.address, credential.clone());
        config.root = path(root);
        let remote = HttpRemote::new(config).unwrap();
        let offered = remote.capabilities().await.unwrap();
        remote.set_capabilities(offered);
        (Arc::new(remote), credential)
    }
}

pub(super) fn config(address: SocketAddr, credential: Credential) -> HttpConfig {
    let base = Url::parse(&format!("http://{address}/")).unwrap();
    HttpConfig::new(base, "ws one".into(), credential)
}

pub(super) fn path(text: &str) -> WsPath {
    WsPath::parse(text).unwrap()
}

/// A put of a file that must not exist, with an identity of its own.
pub(super) fn put_entry(at: &str, body: &[u8]) -> BulkEntry {
    let change = BulkChange::Put {
        body: Bytes::copy_from_slice(body),
        precondition: Precondition::Absent,
        metadata: Metadata::default(),
    };
    BulkEntry { path: path(at), identity: format!("put{at}"), change }
}

#[track_caller]
pub(super) fn revision_of(outcome: &Outcome) -> Option<Revision> {
    match outcome {
        Outcome::Accepted { revision } => revision.clone(),
        other => panic!("not accepted: {other:?}"),
    }
}

pub(super) fn content<'a>(page: &'a ListPage, path: &WsPath) -> Option<&'a RemoteFile> {
    page.entries.iter().find_map(|entry| match entry {
        RemoteEntry::File(file) if file.path == *path => Some(file),
        RemoteEntry::File(_) | RemoteEntry::Dir { .. } => None,
    })
}
