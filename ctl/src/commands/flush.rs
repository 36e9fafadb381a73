//! `mountctl flush`: waits until local changes are on the server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Ctx, daemon, daemon::Daemon, view::safe};
use crate::{
    api::{ErrorCode, ExitCode, FlushReply, FlushRequest, Hello, MountStatus, StatusReply, route},
    cli::{ANSWER_WITHIN, FLUSH_WITHIN, FlushArgs},
    client::{ClientError, Reply},
    failure::{Failure, Outcome},
    out::Out,
    paths, units,
};

/// How often the progress line is renewed.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(ctx: Ctx<'_>, args: FlushArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let path = match args.path {
        Some(path) => {
            let hello = daemon.get::<Hello>(&ctx, route::HELLO).await?.data;
            Some(mount_path(&path, &hello.mountpoint, ctx.env.current_dir.as_deref())?)
        }
        None => None,
    };
    let wait = ctx.global.timeout.unwrap_or(FLUSH_WITHIN);
    let request = FlushRequest { path, timeout_ms: units::millis(wait) };
    let within = daemon::with_margin(wait, ANSWER_WITHIN);
    let flush = daemon.client.post::<FlushReply>(route::FLUSH, &request, within);
    let flush = with_progress(ctx.out, &daemon, flush);
    let reply = daemon.explained(ctx.env, flush).await?;
    let code = exit_code(&reply.data);
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
        return Ok(code);
    }
    ctx.out.line(&line(&daemon.name, request.path.as_deref(), &reply.data))?;
    if code != ExitCode::Ok {
        // What holds it back is worth another question, but not another failure.
        let status = daemon.client.get::<StatusReply>(route::STATUS, ANSWER_WITHIN).await;
        let status = status.ok().map(|reply| reply.data.mount);
        for hint in hints(&daemon.name, &reply.data, status.as_ref()) {
            ctx.out.note(&hint)?;
        }
    }
    Ok(code)
}

/// Returns the path inside the mount that `path` means, without looking it up.
///
/// An absolute path below the mount point is local; any other absolute path is one inside the
/// mount. A relative path counts from the current folder if that lies in the mount, else from
/// the mount's root.
pub(super) fn mount_path(
    path: &Path,
    mountpoint: &str,
    current_dir: Option<&Path>,
) -> Outcome<String> {
    let base = current_dir.unwrap_or(Path::new("/"));
    let local = paths::clean_path(base, path);
    let is_inside = !mountpoint.is_empty() && base.starts_with(mountpoint);
    let inside: PathBuf = match local.strip_prefix(mountpoint) {
        Ok(rest) if path.is_absolute() || is_inside => rest.to_owned(),
        Err(_) if path.is_relative() && is_inside => {
            return Err(Failure::new(
                ErrorCode::InvalidArgument,
                format!("{} is not in the mount", path.display()),
            )
            .why(format!("it means {}, and the mount is {mountpoint}", local.display())));
        }
        Ok(_) | Err(_) => paths::clean_path(Path::new("/"), path),
    };
    let text = Path::new("/").join(inside);
    text.into_os_string().into_string().map_err(|path| {
        let shown = path.to_string_lossy().into_owned();
        Failure::new(ErrorCode::InvalidArgument, format!("{shown} is not valid UTF-8"))
    })
}

/// Shows on a terminal how far `flush` has come while it waits.
async fn with_progress(
    out: &mut Out,
    daemon: &Daemon,
    flush: impl Future<Output = Result<Reply<FlushReply>, ClientError>>,
) -> Result<Reply<FlushReply>, ClientError> {
    if !out.shows_progress() {
        return flush.await;
    }
    let mut flush = std::pin::pin!(flush);
    let mut first = None;
    let mut renew = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            biased;
            reply = &mut flush => return reply,
            _ = renew.tick() => {}
        }
        let status = daemon.client.get::<StatusReply>(route::STATUS, ANSWER_WITHIN);
        let status = tokio::select! {
            biased;
            reply = &mut flush => return reply,
            status = status => status,
        };
        if let Ok(Reply { data: StatusReply { mount }, .. }) = status {
            let first = *first.get_or_insert(mount.uploads.queued);
            // A progress line that cannot be shown is no reason to stop waiting.
            out.progress(&progress(&daemon.name, first, &mount)).ok();
        }
    }
}

fn progress(name: &str, first: u64, mount: &MountStatus) -> String {
    let uploads = &mount.uploads;
    let rate = uploads.bytes_per_s.map(|rate| format!("   {}/s", units::size(rate)));
    format!(
        "{}  draining {} -> {}   {} left{}   {}",
        safe(name),
        units::count(first),
        units::count(uploads.queued),
        units::size(uploads.queued_bytes),
        rate.unwrap_or_default(),
        mount.state.as_str()
    )
}

/// Returns 0 only if the server accepted everything that was asked for.
pub(super) fn exit_code(reply: &FlushReply) -> ExitCode {
    if reply.remaining > 0 {
        ExitCode::TimedOut
    } else if reply.attention > 0 || reply.conflicts > 0 {
        ExitCode::Attention
    } else if reply.drained {
        ExitCode::Ok
    } else {
        ExitCode::TimedOut
    }
}

pub(super) fn line(name: &str, path: Option<&str>, reply: &FlushReply) -> String {
    let path = path.map(|path| format!(" {}", safe(path))).unwrap_or_default();
    let end = match exit_code(reply) {
        ExitCode::Ok => "done",
        ExitCode::Attention => "not all accepted",
        _ => "time ran out",
    };
    format!(
        "{}{path}  draining {} -> {}   {} in {}   {end}",
        safe(name),
        units::count(reply.uploaded + reply.remaining),
        units::count(reply.remaining),
        units::size(reply.bytes),
        units::duration(reply.duration_ms)
    )
}

pub(super) fn hints(name: &str, reply: &FlushReply, status: Option<&MountStatus>) -> Vec<String> {
    let option = daemon::option_for(name);
    let mut hints = Vec::new();
    if reply.remaining > 0 {
        let records = units::counted(reply.remaining, "record");
        let state = status.map(|mount| format!(", state {}", mount.state.as_str()));
        hints.push(format!(
            "  {records} left{}; they stay in the outbox -> mountctl status {option}",
            state.unwrap_or_default()
        ));
        if status.is_some_and(|mount| mount.pause.uploads.is_some()) {
            hints.push(format!("  uploads are paused -> mountctl resume {option}"));
        }
    }
    if reply.attention > 0 {
        let parked = units::counted(reply.attention, "record");
        hints.push(format!("  {parked} parked -> mountctl outbox list {option}"));
    }
    if reply.conflicts > 0 {
        let new = units::counted(reply.conflicts, "conflict");
        hints.push(format!("  {new} -> mountctl conflicts list {option}"));
    }
    hints
}
