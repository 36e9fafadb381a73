//! `mountctl mounts`: one line per mount, running or stopped.

use super::{
    Ctx,
    survey::Survey,
    view::{View, remote, safe},
};
use crate::{
    api::{ExitCode, schema},
    discovery,
    failure::Outcome,
    text::{Align, Table},
    units,
};

pub(super) async fn run(mut ctx: Ctx<'_>) -> Outcome {
    let survey = Survey::of(ctx.env, discovery::scan(ctx.env), ctx.time_left()).await;
    if ctx.out.json {
        ctx.document(schema::MOUNTS, survey.to_json())?;
    } else {
        let view = View::new(&ctx, true);
        ctx.out.lines(&lines(&survey, &view))?;
    }
    Ok(ExitCode::Ok)
}

pub(super) fn lines(survey: &Survey, view: &View) -> Vec<String> {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("QUEUED", Align::Right),
        ("PARKED", Align::Right),
        ("CONFLICTS", Align::Right),
        ("FOLDER", Align::Left),
        ("REMOTE", Align::Left),
    ]);
    for (_, mount) in &survey.running {
        table.row(vec![
            safe(&mount.name),
            mount.state.as_str().to_owned(),
            units::count(mount.uploads.queued),
            units::count(mount.uploads.attention),
            units::count(mount.conflicts.open),
            safe(&mount.mountpoint),
            remote(&mount.server, &mount.workspace, &mount.remote_path),
        ]);
    }
    for (name, failure) in &survey.unreachable {
        let state = failure.error.code.as_str().to_lowercase();
        let unknown = || "?".to_owned();
        table.row(vec![safe(name), state, unknown(), unknown(), unknown(), "-".to_owned()]);
    }
    for stopped in &survey.stopped {
        let remote = match (&stopped.server, &stopped.workspace) {
            (Some(server), Some(workspace)) => {
                remote(server, workspace, stopped.remote_path.as_deref().unwrap_or("/"))
            }
            _ => "-".to_owned(),
        };
        table.row(vec![
            safe(&stopped.name),
            "stopped".to_owned(),
            units::count(stopped.queued),
            units::count(stopped.attention),
            units::count(stopped.conflicts_open),
            stopped.mountpoint.as_deref().map_or_else(|| "-".to_owned(), safe),
            remote,
        ]);
    }
    table.lines(view.style)
}
