//! `mountd probe`: one look at a server that is, or is to be, mounted.

use mountctl::api::ProbeReply;

use super::reports::failure;
use super::{connect, load_credential};
use crate::clock::SystemClock;
use crate::config::{Config, Source};
use crate::control;
use crate::report::Report;

/// Looks at the server that `config` names.
///
/// # Errors
/// When the credential cannot be read.
pub fn probe(config: &Config) -> Result<ProbeReply, Report> {
    let Source::Server { base, workspace } = &config.source else {
        return Ok(ProbeReply {
            server: config.source.server(),
            workspace: config.source.workspace().to_owned(),
            reached: true,
            accepted: true,
            embedded: true,
            ..ProbeReply::default()
        });
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        let credential = load_credential(config).await?;
        let remote = connect(config, base.clone(), &credential)?;
        let probe = remote.probe(&SystemClock::start()).await;
        let mut reply = control::probe::reply(probe, None, credential.claims());
        reply.server = config.source.server();
        reply.workspace.clone_from(workspace);
        Ok(reply)
    })
}
