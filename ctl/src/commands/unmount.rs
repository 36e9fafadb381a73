//! `mountctl unmount`: drains for a bounded time, then unmounts.

use std::time::Duration;

use super::{Ctx, daemon, daemon::Daemon, view::safe};
use crate::{
    api::{ErrorCode, ExitCode, UnmountReply, UnmountRequest, route},
    cli::{DRAIN_WITHIN, UnmountArgs},
    clock::Stopwatch,
    failure::{Failure, Outcome},
    units,
};

/// How often to look whether the daemon has gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(ctx: Ctx<'_>, args: &UnmountArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let drain = if args.no_wait { Duration::ZERO } else { args.drain.unwrap_or(DRAIN_WITHIN) };
    let request = UnmountRequest {
        drain_ms: (!args.no_wait).then(|| units::millis(drain)),
        no_wait: args.no_wait,
    };
    let within = daemon::with_margin(drain, ctx.answer_within());
    let unmount = daemon.client.post::<UnmountReply>(route::UNMOUNT, &request, within);
    let reply = daemon.explained(ctx.env, unmount).await?;
    wait_for_end(&ctx, &daemon).await?;
    let remaining = reply.data.remaining;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        ctx.out.line(&line(&daemon.name, remaining))?;
    }
    Ok(if remaining > 0 && !args.no_wait { ExitCode::TimedOut } else { ExitCode::Ok })
}

/// Waits until nobody listens any more, so that the folder is free when this program ends.
async fn wait_for_end(ctx: &Ctx<'_>, daemon: &Daemon) -> Outcome<()> {
    let watch = Stopwatch::start();
    let within = ctx.answer_within();
    while daemon.client.is_listening().await {
        if watch.elapsed() >= within {
            let waited = units::duration(units::millis(within));
            return Err(Failure::new(
                ErrorCode::TimedOut,
                format!("{} was told to unmount, but still runs after {waited}", daemon.name),
            )
            .why("a program may have its current folder or an open file in the mount")
            .suggest("close what uses the folder; the daemon goes on trying"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

pub(super) fn line(name: &str, remaining: u64) -> String {
    let rest = match remaining {
        0 => "outbox empty".to_owned(),
        1 => "1 record stays in the outbox for the next start".to_owned(),
        more => format!("{} records stay in the outbox for the next start", units::count(more)),
    };
    format!("unmounted {}   {rest}", safe(name))
}
