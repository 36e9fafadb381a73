//! What can be done with records of the outbox beyond listing them.

use std::path::Path;

use super::selected;
use crate::{
    api::{
        ErrorCode, ExitCode, OutboxDetails, OutboxDone, OutboxPlan, OutboxPlanned, OutboxRequest,
        OutboxSelection, route,
    },
    cli::{OutboxAction, OutboxChange},
    commands::{Ctx, confirm::confirm, daemon, daemon::Daemon, escaped, view::View, view::safe},
    failure::{Failure, Outcome},
    paths::clean_path,
    text::{Align, Table},
    units,
};

/// How long the daemon may take to move the bytes of an outbox.
const MOVING: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) async fn run(mut ctx: Ctx<'_>, action: OutboxAction) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    match action {
        OutboxAction::List(args) => super::list(ctx, &daemon, &args).await,
        OutboxAction::Plan(args) => {
            let route = selected(route::OUTBOX_PLAN, &args);
            let reply = daemon.get::<OutboxPlan>(&ctx, &route).await?;
            if ctx.out.json {
                ctx.out.document(&reply.envelope)?;
            } else {
                let view = View::new(&ctx, false);
                ctx.out.lines(&plan(&reply.data, &view))?;
            }
            Ok(ExitCode::Ok)
        }
        OutboxAction::Show { id } => {
            let route = format!("{}/{}", route::OUTBOX, escaped(&id));
            let reply = daemon.get::<OutboxDetails>(&ctx, &route).await?;
            if ctx.out.json {
                ctx.out.document(&reply.envelope)?;
            } else {
                let view = View::new(&ctx, false);
                ctx.out.lines(&details(&reply.data, &view))?;
            }
            Ok(ExitCode::Ok)
        }
        OutboxAction::Cat { id } => {
            let route = format!("{}/{}/content", route::OUTBOX, escaped(&id));
            let within = ctx.time_left();
            let content = daemon.client.content(&route, within, |bytes| ctx.out.raw(bytes));
            daemon.explained(ctx.env, content).await??;
            Ok(ExitCode::Ok)
        }
        OutboxAction::Retry(change) => {
            let request = request(&change);
            changed(ctx, &daemon, route::OUTBOX_RETRY, request, "tried again").await
        }
        OutboxAction::Discard { change, yes } => {
            let request = request(&change);
            if !change.dry_run {
                let dry = OutboxRequest { dry_run: true, ..request.clone() };
                let reply = daemon.post::<OutboxDone>(&ctx, route::OUTBOX_DISCARD, &dry).await?;
                let count = units::counted(reply.data.done.len() as u64, "change");
                let question = format!(
                    "give up {count}, so that the server's versions are shown again (the bytes are \
                     set aside in the state folder)"
                );
                if !confirm(&mut ctx, &question, yes)? {
                    return Ok(ExitCode::Failure);
                }
            }
            changed(ctx, &daemon, route::OUTBOX_DISCARD, request, "given up").await
        }
        OutboxAction::Export { dir, change } => {
            let mut request = request(&change);
            let selects = request.selection.ids.is_some() || request.selection.state.is_some();
            // Everything, unless something is named.
            request.selection.all |= !selects && request.selection.path.is_none();
            request.dir = Some(absolute(&ctx, &dir)?);
            changed(ctx, &daemon, route::OUTBOX_EXPORT, request, "exported").await
        }
        OutboxAction::Import { dir } => {
            let dir = Some(absolute(&ctx, &dir)?);
            let request = OutboxRequest { dir, ..OutboxRequest::default() };
            changed(ctx, &daemon, route::OUTBOX_IMPORT, request, "taken up").await
        }
    }
}

fn request(change: &OutboxChange) -> OutboxRequest {
    let ids = (!change.ids.is_empty()).then(|| change.ids.join(","));
    let selection = OutboxSelection {
        ids,
        state: change.filter.state.clone(),
        path: change.filter.path.clone(),
        all: change.all,
    };
    OutboxRequest { selection, dir: None, dry_run: change.dry_run }
}

fn absolute(ctx: &Ctx<'_>, dir: &Path) -> Outcome<String> {
    let base = ctx.env.current_dir.as_deref().unwrap_or(Path::new("/"));
    clean_path(base, dir).into_os_string().into_string().map_err(|dir| {
        let shown = dir.to_string_lossy().into_owned();
        Failure::new(ErrorCode::InvalidArgument, format!("{shown} is not valid UTF-8"))
    })
}

async fn changed(
    ctx: Ctx<'_>,
    daemon: &Daemon,
    route: &str,
    request: OutboxRequest,
    what: &str,
) -> Outcome {
    let call = daemon.client.post::<OutboxDone>(route, &request, MOVING);
    let reply = daemon.explained(ctx.env, call).await?;
    let code = if reply.data.refused.is_empty() { ExitCode::Ok } else { ExitCode::Attention };
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        ctx.out.lines(&done(&reply.data, what))?;
    }
    Ok(code)
}

fn done(done: &OutboxDone, what: &str) -> Vec<String> {
    let would = if done.dry_run { "would be " } else { "" };
    let one = |one: &crate::api::OutboxOne| format!("  {}  {}", safe(&one.id), safe(&one.path));
    let mut lines =
        vec![format!("{} {would}{what}", units::counted(done.done.len() as u64, "record"))];
    lines.extend(done.done.iter().map(one));
    if !done.refused.is_empty() {
        lines.push(format!("{} not", units::count(done.refused.len() as u64)));
        for refused in &done.refused {
            let why = refused.why.as_deref().map(safe).unwrap_or_default();
            lines.push(format!("{}: {why}", one(refused)));
        }
    }
    if let Some(dir) = done.dir.as_deref().filter(|_| !done.dry_run) {
        lines.push(format!("  folder: {}", safe(dir)));
    }
    lines
}

pub(super) fn plan(plan: &OutboxPlan, view: &View) -> Vec<String> {
    if plan.records.is_empty() {
        return vec!["nothing waits".to_owned()];
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NOW", Align::Left),
        ("REASON", Align::Left),
        ("FOR", Align::Right),
        ("OP", Align::Left),
        ("PATH", Align::Left),
    ]);
    for one in &plan.records {
        table.row(planned(one, view));
    }
    let mut lines = table.lines(view.style);
    let shown = plan.records.len() as u64;
    if plan.total > shown {
        lines.push(format!("{} more not shown", units::count(plan.total - shown)));
    }
    lines
}

fn planned(one: &OutboxPlanned, view: &View) -> Vec<String> {
    vec![
        safe(&one.id),
        safe(&one.verdict),
        one.reason.as_deref().map_or_else(|| "-".to_owned(), safe),
        one.until.map_or_else(|| "-".to_owned(), |at| view.until(at)),
        one.op.as_str().to_owned(),
        safe(&one.path),
    ]
}

fn details(details: &OutboxDetails, view: &View) -> Vec<String> {
    let record = &details.record;
    let mut lines = vec![format!("{}   {}", safe(&record.id), safe(&record.path))];
    let mut row = |label: &str, text: String| lines.push(format!("  {label:<10} {text}"));
    row("op", record.op.as_str().to_owned());
    row("state", record.state.as_str().to_owned());
    let plan = &details.plan;
    let reason = plan.reason.as_deref().map(|reason| format!(": {}", safe(reason)));
    row("now", format!("{}{}", safe(&plan.verdict), reason.unwrap_or_default()));
    if let Some(reason) = &record.reason {
        row("reason", safe(reason));
    }
    row("base", safe(&details.base));
    row("size", record.size.map_or_else(|| "-".to_owned(), units::size));
    row("attempts", record.attempts.to_string());
    if let Some(at) = record.next_at {
        row("next try", view.until(at));
    }
    if let Some(at) = details.recorded_at {
        row("recorded", view.ago(at));
    }
    if let Some(error) = &record.last_error {
        row("last error", safe(error));
    }
    if let Some(moved_to) = &details.moved_to {
        row("after", safe(moved_to));
    }
    lines
}
