//! `mountctl status`: how the mounts are.

mod check;
mod render;

use super::{
    Ctx, daemon,
    daemon::Daemon,
    survey::Survey,
    view::{View, safe},
};
use crate::{
    api::{ErrorCode, ExitCode, StatusReply, route, schema},
    cli::StatusArgs,
    clock::Stopwatch,
    discovery::{self, Choice},
    failure::{Failure, Outcome},
    persisted,
    text::Tone,
};

pub(super) async fn run(mut ctx: Ctx<'_>, args: &StatusArgs) -> Outcome {
    let Some(interval) = args.watch else {
        return show(&mut ctx, args).await;
    };
    loop {
        ctx.out.clear_screen()?;
        // A daemon that is gone may come back; watching goes on.
        if let Err(failure) = show(&mut ctx, args).await {
            if failure.is_silent {
                return Err(failure);
            }
            super::show_failure(ctx.out, &failure, ctx.watch);
        }
        if !ctx.out.json && !ctx.out.is_terminal() {
            ctx.out.line("")?;
        }
        ctx.out.flush()?;
        tokio::time::sleep(interval).await;
        ctx.watch = Stopwatch::start();
    }
}

async fn show(ctx: &mut Ctx<'_>, args: &StatusArgs) -> Outcome {
    let choice = if args.all {
        Choice::Several(discovery::scan(ctx.env))
    } else {
        daemon::several(ctx).await?
    };
    let survey = match choice {
        Choice::One(target) => {
            let daemon = Daemon::new(ctx.env, &target);
            return show_one(ctx, args, &daemon).await;
        }
        Choice::None => Survey::of(ctx.env, Vec::new(), ctx.time_left()).await,
        Choice::Several(targets) => Survey::of(ctx.env, targets, ctx.time_left()).await,
    };
    if survey.running.is_empty() && survey.unreachable.is_empty() {
        show_stopped(ctx, &survey)?;
        return Err(daemon::none_runs(ctx.env));
    }
    show_several(ctx, args, &survey)
}

async fn show_one(ctx: &mut Ctx<'_>, args: &StatusArgs, daemon: &Daemon) -> Outcome {
    let is_implied = ctx.global.mount.is_none() && ctx.global.socket.is_none();
    let reply = match daemon.get::<StatusReply>(ctx, route::STATUS).await {
        Ok(reply) => reply,
        Err(failure) => {
            let is_down = failure.error.code == ErrorCode::DaemonUnavailable;
            if let (true, false, Some(stopped)) =
                (is_down, ctx.out.json, persisted::load(ctx.env, &daemon.name))
            {
                let view = View::new(ctx, false);
                ctx.out.lines(&render::stopped(&stopped, &view))?;
            }
            return Err(failure);
        }
    };
    let mount = &reply.data.mount;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(ctx, false);
        ctx.out.lines(&render::mount(mount, &view))?;
        if is_implied {
            show_forgotten(ctx, &mount.name, &view)?;
        }
    }
    Ok(if args.check { check::mount(mount) } else { ExitCode::Ok })
}

/// Mentions stopped mounts in which something waits: nobody else would.
fn show_forgotten(ctx: &mut Ctx<'_>, shown: &str, view: &View) -> Outcome<()> {
    let mut stopped = persisted::load_all(ctx.env);
    stopped.retain(|stopped| stopped.name != shown && stopped.is_waiting());
    for stopped in stopped {
        let line = format!("stopped: {}: {}", safe(&stopped.name), stopped.summary());
        ctx.out.line(&view.paint(Tone::Warn, &line))?;
    }
    Ok(())
}

fn show_stopped(ctx: &mut Ctx<'_>, survey: &Survey) -> Outcome<()> {
    if !ctx.out.json {
        let view = View::new(ctx, true);
        for stopped in &survey.stopped {
            ctx.out.lines(&render::stopped(stopped, &view))?;
        }
    }
    Ok(())
}

fn show_several(ctx: &mut Ctx<'_>, args: &StatusArgs, survey: &Survey) -> Outcome {
    let code = check::survey(survey, args);
    if ctx.out.json {
        ctx.document(schema::MOUNTS, survey.to_json())?;
        return Ok(code);
    }
    let view = View::new(ctx, true);
    let mut blocks: Vec<Vec<String>> =
        survey.running.iter().map(|(_, mount)| render::mount(mount, &view)).collect();
    blocks.extend(survey.unreachable.iter().map(|(_, failure)| failure.lines()));
    let stopped = survey.stopped.iter().filter(|stopped| args.all || stopped.is_waiting());
    blocks.extend(stopped.map(|stopped| render::stopped(stopped, &view)));
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 {
            ctx.out.line("")?;
        }
        ctx.out.lines(block)?;
    }
    Ok(code)
}

/// The failures that make `status` itself fail, whether or not `--check` was asked for.
fn is_failure_to_show(failure: &Failure) -> bool {
    failure.error.code != ErrorCode::DaemonUnavailable
}

#[cfg(test)]
mod tests;
