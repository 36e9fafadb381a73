//! `mountctl events`: what happens, as it happens.

use super::{Ctx, daemon, view::safe};
use crate::{
    api::{ErrorCode, Event, ExitCode},
    cli::EventsArgs,
    failure::{Failure, Outcome},
    glob::Glob,
};

pub(super) async fn run(ctx: Ctx<'_>, args: &EventsArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let glob = args.path.as_deref().map(Glob::new);
    let open = daemon.client.events(args.follow, ctx.time_left());
    let mut stream = daemon.explained(ctx.env, open).await?;
    loop {
        let next = if args.follow {
            stream.next().await
        } else {
            // Recent events come at once; a daemon that stalls is not waited for for ever.
            match tokio::time::timeout(ctx.answer_within(), stream.next()).await {
                Ok(next) => next,
                Err(_) => {
                    return Err(Failure::new(
                        ErrorCode::TimedOut,
                        format!("{} stopped sending its events", daemon.name),
                    ));
                }
            }
        };
        let next = daemon.explained(ctx.env, std::future::ready(next)).await?;
        let Some((raw, event)) = next else { break };
        if glob.as_ref().is_some_and(|glob| !fits(glob, &event)) {
            continue;
        }
        if ctx.out.json {
            ctx.out.json_line(&raw)?;
        } else {
            ctx.out.line(&line(&event))?;
        }
    }
    if args.follow {
        return Err(Failure::new(
            ErrorCode::DaemonUnavailable,
            format!("{} ended its event stream", daemon.name),
        )
        .why("the daemon is stopping or has stopped")
        .action("mountctl status --all"));
    }
    Ok(ExitCode::Ok)
}

fn fits(glob: &Glob, event: &Event) -> bool {
    event.path.as_deref().is_some_and(|path| glob.matches(path))
}

pub(super) fn line(event: &Event) -> String {
    let at = event.at.map_or_else(|| "-".to_owned(), |at| format!("{at:.3}"));
    let mut line = format!("{at}  {:<8}", event.kind.as_str());
    if let Some(action) = event.action {
        line.extend([" ", action.as_str()]);
    }
    let words = [
        event.path.as_deref().map(safe),
        event.revision.as_deref().map(safe),
        event.detail.as_deref().map(safe),
    ];
    for word in words.into_iter().flatten() {
        line.extend(["  ", word.as_str()]);
    }
    line
}
