//! `mountd serve`: the workspace server by itself.

use std::io;
use std::time::Duration;

use mountctl::api::ExitCode;
use workspaced::{Auth, Extensions, RateLimit, Server};

use crate::args::ServeArgs;
use crate::report::Report;

/// Serves until Ctrl-C or SIGTERM.
///
/// # Errors
/// When the storage or the address cannot be used.
pub fn serve(args: ServeArgs, out: &mut dyn io::Write) -> Result<(), Report> {
    let failure = |what: String| Report::new(ExitCode::Failure, "SERVE", what);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failure(format!("start the runtime: {error}")))?;
    let auth = match (args.token_file, args.jwks_url) {
        (Some(file), _) => Auth::TokenFile(file),
        (None, Some(url)) => Auth::Jwks { url },
        (None, None) => return Err(failure("give --token-file or --jwks-url".to_owned())),
    };
    let mut config = workspaced::Config::new(args.storage, auth);
    config.max_body_bytes = args.max_body_bytes;
    config.rate_limit =
        args.rate_limit.map(|max| RateLimit { max, window: Duration::from_secs(60) });
    if args.no_extensions {
        config.extensions = Extensions::none();
    }
    runtime.block_on(async {
        let server =
            Server::bind(config, args.listen).await.map_err(|error| failure(error.to_string()))?;
        let address = server.local_addr();
        drop(writeln!(out, "serving on http://{address}   mount http://{address}/WORKSPACE"));
        drop(out.flush());
        server.run(stop_signal()).await.map_err(|error| failure(error.to_string()))
    })
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
