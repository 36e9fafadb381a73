//! `mountctl pause`: holds back uploads.

use super::{Ctx, daemon, view::View, view::safe};
use crate::{
    api::{ExitCode, PauseReply, PauseRequest, route},
    cli::PauseArgs,
    failure::Outcome,
    units,
};

pub(super) async fn run(ctx: Ctx<'_>, args: PauseArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let request = PauseRequest { for_ms: args.duration.map(units::millis), reason: args.reason };
    let reply = daemon.post::<PauseReply>(&ctx, route::PAUSE, &request).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        let view = View::new(&ctx, true);
        ctx.out.lines(&lines(&reply.data, &view))?;
    }
    Ok(ExitCode::Ok)
}

pub(super) fn lines(reply: &PauseReply, view: &View) -> Vec<String> {
    let name = safe(&reply.name);
    let end = match reply.until {
        Some(at) => format!(" until {} (in {})", view.time(at), view.until(at)),
        None => " until resumed".to_owned(),
    };
    let reason = reply.reason.as_deref().map(|text| format!(": {}", safe(text)));
    let word = if reply.already_paused { "still paused" } else { "paused" };
    let queued = units::count(reply.queued);
    vec![
        format!(
            "{word}: uploads of {name}{end}{}        {queued} queued stay in the outbox",
            reason.unwrap_or_default()
        ),
        format!("  resume early: mountctl resume {}", daemon::option_for(&reply.name)),
    ]
}
