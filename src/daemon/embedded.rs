//! The embedded server: what `file://` sources are served by, in this process.

use mountctl::api::ExitCode;
use tokio::sync::oneshot;
use url::Url;

use super::reports::failure;
use super::state_folder::make_private;
use crate::config::{Config, Source};
use crate::remote::credential::Credential;
use crate::report::Report;

/// The embedded server while it runs.
pub(super) struct Embedded {
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Embedded {
    pub(super) async fn stop(self) {
        if self.end.send(()).is_err() {
            tracing::debug!("the embedded server ended by itself");
        }
        drop(self.task.await);
    }
}

/// The server's address, with a credential for it; starts the embedded one.
pub(super) async fn reach(
    config: &Config,
    credential: Credential,
) -> Result<(Url, Credential, Option<Embedded>), Report> {
    let folder = match &config.source {
        Source::Server { base, .. } => return Ok((base.clone(), credential, None)),
        Source::Folder(folder) => folder,
    };
    make_private(folder)?;
    // Other users of this machine can reach loopback, so it takes a token that only we know.
    let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let server_config = workspaced::Config::new(folder, workspaced::Auth::Token(token.clone()));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = workspaced::Server::bind(server_config, address).await.map_err(|error| {
        Report::new(
            ExitCode::Server,
            "EMBEDDED_SERVER",
            format!("the embedded server on {}: {error}", folder.display()),
        )
        .fix("several mounts of one folder share a server: mountd serve --storage DIR, then mount http://…")
    })?;
    let base = Url::parse(&format!("http://{}/", server.local_addr()))
        .map_err(|error| failure(error.to_string()))?;
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let stop = async move { drop(ended.await) };
        if let Err(error) = server.run(stop).await {
            tracing::error!(%error, "embedded server");
        }
    });
    Ok((base, Credential::new(Some(token.into())), Some(Embedded { end, task })))
}
