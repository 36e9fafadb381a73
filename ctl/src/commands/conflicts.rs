//! `mountctl conflicts`: what waits for a person's decision, and the decision.

mod resolve;
mod show;

use super::{Ctx, daemon, view::View, view::safe};
use crate::{
    api::{ConflictList, ConflictRecord, ExitCode, route},
    cli::{ConflictsAction, ConflictsArgs, ConflictsListArgs},
    failure::Outcome,
    text::{Align, Table},
    units,
};

pub(super) async fn run(ctx: Ctx<'_>, args: ConflictsArgs) -> Outcome {
    match args.action {
        None => list(ctx, &ConflictsListArgs::default()).await,
        Some(ConflictsAction::List(args)) => list(ctx, &args).await,
        Some(ConflictsAction::Show(args)) => show::show(ctx, &args.id).await,
        Some(ConflictsAction::Diff(args)) => show::diff(ctx, &args).await,
        Some(ConflictsAction::Merge(args)) => resolve::merge(ctx, args).await,
        Some(ConflictsAction::Resolve(args)) => resolve::resolve(ctx, args).await,
    }
}

async fn list(ctx: Ctx<'_>, args: &ConflictsListArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let route = if args.resolved {
        format!("{}?resolved=true", route::CONFLICTS)
    } else {
        route::CONFLICTS.to_owned()
    };
    let reply = daemon.get::<ConflictList>(&ctx, &route).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(&ctx, false);
        ctx.out.lines(&lines(&reply.data, &view))?;
    }
    Ok(ExitCode::Ok)
}

/// Returns the route of one conflict.
fn route_of(template: &str, id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let encoded = id.bytes().map(|byte| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    template.replace("{id}", &encoded.collect::<String>())
}

pub(super) fn lines(list: &ConflictList, view: &View) -> Vec<String> {
    if list.conflicts.is_empty() {
        return vec!["no conflicts".to_owned()];
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("AGE", Align::Right),
        ("STATE", Align::Left),
        ("PATH", Align::Left),
        ("OURS", Align::Left),
        ("THEIRS", Align::Left),
        ("COPY OF OURS", Align::Left),
    ]);
    for conflict in &list.conflicts {
        let age = conflict.at.map(|at| units::coarse(units::between_ms(at, view.now)));
        table.row(vec![
            safe(&conflict.id),
            age.unwrap_or_else(|| "-".to_owned()),
            state(conflict),
            safe(&conflict.path),
            ours(conflict, view),
            theirs(conflict, view),
            safe(&conflict.dir),
        ]);
    }
    table.lines(view.style)
}

fn state(conflict: &ConflictRecord) -> String {
    match &conflict.resolution {
        None => "open".to_owned(),
        Some(resolution) if resolution.how == "anew" => "decided anew".to_owned(),
        Some(resolution) if resolution.automatic => format!("{}, by rule", safe(&resolution.how)),
        Some(resolution) => safe(&resolution.how),
    }
}

fn ours(conflict: &ConflictRecord, view: &View) -> String {
    let base = conflict.base_revision.as_deref();
    let mut parts: Vec<String> = conflict.ours.by.as_deref().map(safe).into_iter().collect();
    parts.push(conflict.ours.size.map_or_else(|| "deleted".to_owned(), units::size));
    parts.extend(conflict.ours.modified_at.map(|at| view.time(at)));
    parts.push(base.map_or_else(|| "new".to_owned(), |base| format!("from {}", safe(base))));
    parts.join(", ")
}

fn theirs(conflict: &ConflictRecord, view: &View) -> String {
    let side = &conflict.theirs;
    let content = match side.size {
        _ if side.deleted => Some("deleted".to_owned()),
        size => size.map(units::size),
    };
    let by = side.by.as_deref().map(safe);
    let at = side.modified_at.map(|at| view.time(at));
    let revision = conflict.theirs_revision.as_deref().map(safe);
    let parts: Vec<String> = [by, content, at, revision].into_iter().flatten().collect();
    parts.join(", ")
}
