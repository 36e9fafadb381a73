//! `mountctl version`: this program and the running daemons.

use serde_json::json;

use super::{Ctx, view::safe};
use crate::{
    api::{API_VERSION, ExitCode, schema},
    discovery,
    failure::Outcome,
};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(mut ctx: Ctx<'_>) -> Outcome {
    let mut daemons = Vec::new();
    for probe in discovery::probe_all(ctx.env, ctx.time_left()).await {
        if probe.is_running() {
            daemons.push((probe.target.name, probe.hello.ok()));
        }
    }
    if ctx.out.json {
        let daemons: Vec<_> = daemons
            .iter()
            .map(|(name, hello)| {
                json!({"name": name,
                    "daemon_version": hello.as_ref().map(|hello| &hello.daemon_version),
                    "api_versions": hello.as_ref().map(|hello| &hello.api_versions)})
            })
            .collect();
        let data = json!({"version": VERSION, "api_version": API_VERSION, "daemons": daemons});
        ctx.document(schema::VERSION, data)?;
        return Ok(ExitCode::Ok);
    }
    ctx.out.line(&format!("mountctl {VERSION}, control API {API_VERSION}"))?;
    for (name, hello) in daemons {
        let name = safe(&name);
        let line = match hello {
            Some(hello) => {
                let speaks = hello.api_versions.contains(&API_VERSION);
                let note = if speaks { "" } else { "   speaks no version this program knows" };
                format!("mountd {}   {name}{note}", safe(&hello.daemon_version))
            }
            None => format!("mountd ?   {name} does not answer"),
        };
        ctx.out.line(&line)?;
    }
    Ok(ExitCode::Ok)
}
