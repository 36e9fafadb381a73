//! `mountctl conflicts show` and `diff`: one conflict in full.

use super::{Ctx, daemon, ours, route_of, safe, state, theirs};
use crate::{
    api::{ConflictDetail, ConflictDiff, ErrorCode, ExitCode, route},
    cli::ConflictDiffArgs,
    commands::view::View,
    failure::{Failure, Outcome},
    text::Tone,
    units,
};

pub(super) async fn show(ctx: Ctx<'_>, id: &str) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let reply = daemon.get::<ConflictDetail>(&ctx, &route_of(route::CONFLICT, id)).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(&ctx, false);
        ctx.out.lines(&detail(&reply.data, &view))?;
    }
    Ok(ExitCode::Ok)
}

fn detail(detail: &ConflictDetail, view: &View) -> Vec<String> {
    let conflict = &detail.conflict;
    let mut rows = vec![
        ("state", state(conflict)),
        ("ours", ours(conflict, view)),
        ("theirs", theirs(conflict, view)),
    ];
    let base = detail.base_size.map_or_else(|| "not kept".to_owned(), units::size);
    let revision = conflict.base_revision.as_deref().map(safe);
    rows.push((
        "base",
        [Some(base), revision].into_iter().flatten().collect::<Vec<_>>().join(", "),
    ));
    rows.push(("merge", safe(&detail.merge)));
    let now = &detail.now;
    let what = match now.state.as_str() {
        "theirs" => "theirs, unchanged since".to_owned(),
        "other" => "a folder or a symbolic link has the name".to_owned(),
        other => safe(other),
    };
    let size = now.size.map(units::size);
    let at = now.modified_at.map(|at| view.time(at));
    let revision = now.revision.as_deref().map(safe);
    let parts: Vec<String> = [Some(what), size, at, revision].into_iter().flatten().collect();
    rows.push(("now", parts.join(", ")));
    if !conflict.dir.is_empty() {
        rows.push(("copy", safe(&conflict.dir)));
    }
    rows.extend(
        detail
            .damaged
            .iter()
            .map(|flaw| ("damaged", safe(&format!("{}: {} ({})", flaw.file, flaw.kind, flaw.why)))),
    );
    rows.extend(conflict.sibling.as_deref().map(|path| ("beside", safe(path))));
    rows.extend(detail.kept_until.map(|at| ("kept until", view.time(at))));
    let title = format!("{}  {}", safe(&conflict.id), safe(&conflict.path));
    let mut lines = vec![view.paint(Tone::Strong, &title)];
    lines.extend(rows.into_iter().map(|(name, text)| format!("  {name:<11}{text}")));
    lines
}

pub(super) async fn diff(ctx: Ctx<'_>, args: &ConflictDiffArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let reply = daemon.get::<ConflictDiff>(&ctx, &route_of(route::CONFLICT_DIFF, &args.id)).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
        return Ok(ExitCode::Ok);
    }
    let diff = &reply.data;
    let wanted = match (args.ours, args.theirs, args.merge) {
        (true, ..) => vec![&diff.ours],
        (_, true, _) => vec![&diff.theirs],
        (.., true) => vec![&diff.merge],
        // Without a base there is only what differs between the two.
        _ if diff.ours.is_some() && diff.theirs.is_some() => vec![&diff.ours, &diff.theirs],
        _ => vec![&diff.between],
    };
    let shown: Option<Vec<&String>> = wanted.into_iter().map(Option::as_ref).collect();
    let Some(shown) = shown else {
        let reason = diff.reason.clone().unwrap_or_else(|| "base unknown".to_owned());
        return Err(Failure::new(
            ErrorCode::IllegalTransition,
            format!("the versions of {} cannot be compared", diff.path),
        )
        .why(reason)
        .action(format!("mountctl conflicts show {}", args.id)));
    };
    for text in shown {
        for line in text.lines() {
            // A tab is harmless, and a text has many.
            let safe: Vec<String> = line.split('\t').map(safe).collect();
            ctx.out.line(&safe.join("\t"))?;
        }
    }
    Ok(ExitCode::Ok)
}
