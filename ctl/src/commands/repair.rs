//! `mountctl repair`: looks at everything that lies in the state folder, and puts right what can be.
//!
//! A daemon that runs does it itself; where none does, `mountd repair` is started.

use std::time::Duration;

use super::{Ctx, daemon, daemon::Daemon};
use crate::{
    api::{CheckReply, CheckRequest, Envelope, ErrorCode, route},
    checked,
    cli::RepairArgs,
    client::ClientError,
    discovery::{Choice, Target},
    failure::{Failure, Outcome},
    paths, persisted, program,
};

/// How long a daemon may take to read everything, unless said otherwise.
const CHECK_WITHIN: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(ctx: Ctx<'_>, args: &RepairArgs) -> Outcome {
    let daemon = target(&ctx, args).await?;
    let within = ctx.global.timeout.unwrap_or(CHECK_WITHIN);
    let request = CheckRequest { repair: !args.dry_run };
    let asked = daemon.client.post::<CheckReply>(route::CHECK, &request, within).await;
    let reply: CheckReply = match asked {
        Ok(reply) => {
            if ctx.out.json {
                ctx.out.document(&reply.envelope)?;
            }
            reply.data
        }
        Err(ClientError::NotRunning { .. }) => {
            let envelope = offline(&ctx, &daemon.name, args)?;
            if ctx.out.json {
                ctx.out.document(&envelope)?;
            }
            envelope.outcome.map_err(Failure::from_error)?
        }
        Err(error) => return Err(daemon::explain(ctx.env, &daemon.name, error)),
    };
    if !ctx.out.json {
        ctx.out.lines(&checked::lines(&reply))?;
    }
    Ok(reply.exit_code())
}

fn offline(ctx: &Ctx<'_>, name: &str, args: &RepairArgs) -> Outcome<Envelope<CheckReply>> {
    let state_dir = args.state_dir.as_ref().map(|dir| dir.display().to_string());
    let mut words = vec!["repair", name, "--json"];
    words.extend(args.dry_run.then_some("--dry-run"));
    words.extend(state_dir.as_deref().into_iter().flat_map(|dir| ["--state-dir", dir]));
    program::ask(ctx.env, &words)
}

/// Finds the mount that is meant, running or not.
async fn target(ctx: &Ctx<'_>, args: &RepairArgs) -> Outcome<Daemon> {
    if let (Some(_), Some(name)) = (&args.state_dir, &ctx.global.mount)
        && paths::is_valid_name(name)
    {
        let socket = paths::socket_path(ctx.env, name);
        return Ok(Daemon::new(ctx.env, &Target { name: name.clone(), socket }));
    }
    match daemon::several(ctx).await? {
        Choice::None => {}
        _ => return daemon::one(ctx).await,
    }
    let stopped = persisted::load_all(ctx.env);
    match &stopped[..] {
        [one] => {
            let socket = paths::socket_path(ctx.env, &one.name);
            Ok(Daemon::new(ctx.env, &Target { name: one.name.clone(), socket }))
        }
        [] => Err(Failure::new(ErrorCode::NotFound, "this user has no mounts")
            .suggest("name the state folder of another one with --state-dir DIR -m NAME")),
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
            Err(Failure::new(ErrorCode::MountAmbiguous, "several mounts are there; say which one")
                .why(format!("stopped: {}", names.join(", ")))
                .suggest("name it with -m NAME")
                .detail("mounts", names))
        }
    }
}
