//! `mountctl conflicts`: what waits for a person's decision.

use super::{Ctx, daemon, view::View, view::safe};
use crate::{
    api::{ConflictList, ConflictRecord, ExitCode, route},
    failure::Outcome,
    text::{Align, Table},
    units,
};

pub(super) async fn run(ctx: Ctx<'_>) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let reply = daemon.get::<ConflictList>(&ctx, route::CONFLICTS).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(&ctx, false);
        ctx.out.lines(&lines(&reply.data, &view))?;
    }
    Ok(ExitCode::Ok)
}

pub(super) fn lines(list: &ConflictList, view: &View) -> Vec<String> {
    if list.conflicts.is_empty() {
        return vec!["no conflicts".to_owned()];
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("AGE", Align::Right),
        ("KIND", Align::Left),
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
            safe(&conflict.kind),
            safe(&conflict.path),
            ours(conflict, view),
            theirs(conflict),
            safe(&conflict.dir),
        ]);
    }
    table.lines(view.style)
}

fn ours(conflict: &ConflictRecord, view: &View) -> String {
    let base = conflict.base_revision.as_deref();
    let mut parts = vec![conflict.ours.size.map_or_else(|| "deleted".to_owned(), units::size)];
    parts.extend(conflict.ours.modified_at.map(|at| view.time(at)));
    parts.push(base.map_or_else(|| "new".to_owned(), |base| format!("from {}", safe(base))));
    parts.join(", ")
}

fn theirs(conflict: &ConflictRecord) -> String {
    let revision = conflict.theirs_revision.as_deref().map(safe);
    let content = match conflict.theirs.size {
        _ if conflict.theirs.deleted => Some("deleted".to_owned()),
        size => size.map(units::size),
    };
    let parts: Vec<String> = [content, revision].into_iter().flatten().collect();
    parts.join(", ")
}
