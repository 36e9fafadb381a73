//! `mountctl outbox`: the local changes the server has not accepted yet.

mod actions;

use super::{Ctx, daemon::Daemon, escaped, view::View, view::safe};
use crate::{
    api::{ExitCode, OutboxList, OutboxRecord, route},
    cli::{OutboxAction, OutboxArgs, OutboxFilter},
    failure::Outcome,
    text::{Align, Table},
    units,
};

pub(super) async fn run(ctx: Ctx<'_>, args: OutboxArgs) -> Outcome {
    let list = OutboxAction::List(OutboxFilter::default());
    actions::run(ctx, args.action.unwrap_or(list)).await
}

/// Returns the route with what is selected as its query.
fn selected(route: &str, filter: &OutboxFilter) -> String {
    let pairs = [("state", &filter.state), ("path", &filter.path)];
    let pairs: Vec<String> = pairs
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escaped(value.as_deref()?))))
        .collect();
    if pairs.is_empty() { route.to_owned() } else { format!("{route}?{}", pairs.join("&")) }
}

async fn list(ctx: Ctx<'_>, daemon: &Daemon, filter: &OutboxFilter) -> Outcome {
    let reply = daemon.get::<OutboxList>(&ctx, &selected(route::OUTBOX, filter)).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(&ctx, false);
        ctx.out.lines(&lines(&reply.data, &view))?;
    }
    Ok(ExitCode::Ok)
}

pub(super) fn lines(list: &OutboxList, view: &View) -> Vec<String> {
    if list.records.is_empty() && list.total == 0 {
        return vec!["the outbox is empty".to_owned()];
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("TRY", Align::Right),
        ("NEXT", Align::Right),
        ("SIZE", Align::Right),
        ("OP", Align::Left),
        ("PATH", Align::Left),
        ("REASON", Align::Left),
    ]);
    for record in &list.records {
        table.row(vec![
            safe(&record.id),
            record.state.as_str().to_owned(),
            units::coarse(record.age_ms),
            record.attempts.to_string(),
            record.next_at.map_or_else(|| "-".to_owned(), |at| view.until(at)),
            record.size.map_or_else(|| "-".to_owned(), units::size),
            record.op.as_str().to_owned(),
            path(record),
            reason(record),
        ]);
    }
    let mut lines = table.lines(view.style);
    let shown = u64::try_from(list.records.len()).unwrap_or(u64::MAX);
    if list.total > shown {
        lines.push(format!("{} more not shown", units::count(list.total - shown)));
    }
    lines
}

fn path(record: &OutboxRecord) -> String {
    match &record.from {
        Some(from) => format!("{} -> {}", safe(from), safe(&record.path)),
        None => safe(&record.path),
    }
}

fn reason(record: &OutboxRecord) -> String {
    let parts = [&record.reason, &record.last_error];
    let mut parts: Vec<String> = parts.into_iter().flatten().map(|text| safe(text)).collect();
    parts.dedup();
    parts.join(" · ")
}
