//! `mountctl resume`: ends a pause, closes the circuit and forgets the back-off.

use super::{Ctx, daemon, view::safe};
use crate::{
    api::{ExitCode, ResumeReply, ResumeRequest, route},
    cli::ResumeArgs,
    failure::Outcome,
    units,
};

pub(super) async fn run(ctx: Ctx<'_>, args: ResumeArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let request = ResumeRequest { server: args.server };
    let reply = daemon.post::<ResumeReply>(&ctx, route::RESUME, &request).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        ctx.out.line(&line(&reply.data))?;
    }
    Ok(ExitCode::Ok)
}

pub(super) fn line(reply: &ResumeReply) -> String {
    let name = safe(&reply.name);
    let mut parts = Vec::new();
    let failures = reply.consecutive_failures_cleared;
    if failures > 0 {
        parts.push(format!("{} cleared", units::counted(failures.into(), "failure")));
    }
    parts.push(match reply.flushing {
        0 => "nothing queued".to_owned(),
        queued => format!("flushing {} queued", units::count(queued)),
    });
    let parts = parts.join(", ");
    if !reply.was_paused {
        return format!("{name} was not paused   {parts}");
    }
    let reason = reply.previous_reason.as_deref().map(|text| format!(" ({})", safe(text)));
    format!("resumed {name}: was PAUSED{}   {parts}", reason.unwrap_or_default())
}
