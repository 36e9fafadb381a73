//! `mountctl conflicts resolve` and `merge`: the decision.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Ctx, daemon, safe};
use crate::{
    api::{
        ConflictList, ErrorCode, ExitCode, ResolveReply, ResolveRequest, ResolveResult,
        ResolveWith, route,
    },
    cli::{ChosenConflicts, ConflictsMergeArgs, ConflictsResolveArgs},
    commands::confirm::confirm,
    failure::{Failure, Outcome},
    glob::Glob,
    units,
};

/// The largest merged content that is sent.
const MERGED_BYTES_MAX: u64 = 32 << 20;

pub(super) async fn merge(ctx: Ctx<'_>, args: ConflictsMergeArgs) -> Outcome {
    let request = ResolveRequest {
        with: ResolveWith::Merge,
        dry_run: args.dry_run,
        ..request_for(args.chosen)
    };
    send(ctx, &request).await
}

pub(super) async fn resolve(mut ctx: Ctx<'_>, args: ConflictsResolveArgs) -> Outcome {
    let with = match (args.ours, args.theirs, args.both) {
        (true, ..) => ResolveWith::Ours,
        (_, true, _) => ResolveWith::Theirs,
        (.., true) => ResolveWith::Both,
        _ => ResolveWith::Merged,
    };
    let content_base64 = match &args.merged {
        Some(file) => Some(STANDARD.encode(content(file)?)),
        None => None,
    };
    let request = ResolveRequest {
        with,
        content_base64,
        force: args.force,
        dry_run: args.dry_run,
        ..request_for(args.chosen)
    };
    // What keeps both under names of their own takes nothing away.
    if !args.dry_run && with != ResolveWith::Both {
        let what = question(&ctx, &request).await?;
        if !confirm(&mut ctx, &what, args.yes)? {
            ctx.out.note("nothing was changed")?;
            return Ok(ExitCode::Failure);
        }
    }
    send(ctx, &request).await
}

fn request_for(chosen: ChosenConflicts) -> ResolveRequest {
    let ChosenConflicts { ids, path, all } = chosen;
    ResolveRequest { ids, path, all, ..ResolveRequest::default() }
}

/// Says what would be done, with how many.
async fn question(ctx: &Ctx<'_>, request: &ResolveRequest) -> Outcome<String> {
    let count = if request.ids.is_empty() {
        let daemon = daemon::one(ctx).await?;
        let list = daemon.get::<ConflictList>(ctx, route::CONFLICTS).await?.data;
        let glob = request.path.as_deref().map(Glob::new);
        let fits = |path: &str| glob.as_ref().is_none_or(|glob| glob.matches(path));
        list.conflicts.iter().filter(|conflict| fits(&conflict.path)).count()
    } else {
        request.ids.len()
    };
    let outcome = match request.with {
        ResolveWith::Ours => "replace theirs with ours",
        ResolveWith::Theirs => "leave theirs and set ours aside",
        _ => "replace the file with the merged content",
    };
    let many = units::counted(count as u64, "conflict");
    Ok(format!("resolve {many}: {outcome}"))
}

/// Reads the merged content.
fn content(file: &PathBuf) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| {
        Failure::new(ErrorCode::InvalidArgument, format!("cannot read {}", file.display()))
            .why(error.to_string())
    };
    let mut bytes = Vec::new();
    let limit = MERGED_BYTES_MAX + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(failed)?;
    if bytes.len() as u64 > MERGED_BYTES_MAX {
        let limit = units::size(MERGED_BYTES_MAX);
        return Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!("{} is larger than {limit}", file.display()),
        )
        .suggest("write it to the file in the mount yourself, then resolve with --theirs"));
    }
    Ok(bytes)
}

async fn send(ctx: Ctx<'_>, request: &ResolveRequest) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let reply = daemon.post::<ResolveReply>(&ctx, route::RESOLVE, request).await?;
    let code = exit_code(&reply.data);
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
        return Ok(code);
    }
    if reply.data.results.is_empty() {
        ctx.out.line("no conflicts")?;
    }
    for result in &reply.data.results {
        for line in lines(result, reply.data.dry_run) {
            match result.error {
                None => ctx.out.line(&line)?,
                Some(_) => ctx.out.note(&line)?,
            }
        }
    }
    Ok(code)
}

fn lines(result: &ResolveResult, dry_run: bool) -> Vec<String> {
    let path = result.path.as_deref().map(safe).unwrap_or_default();
    let name = format!("{}  {path}", safe(&result.id));
    if let Some(error) = &result.error {
        let mut lines = vec![format!("{name}  not resolved: {}", safe(&error.message))];
        lines.extend(error.suggestion.iter().map(|text| format!("  fix: {}", safe(text))));
        lines.extend(error.actions.iter().map(|text| format!("  fix: {}", safe(text))));
        return lines;
    }
    let how = result.how.as_deref().map(safe).unwrap_or_default();
    let verb = if dry_run { "would be resolved" } else { "resolved" };
    let changed = match &result.changed {
        None => "nothing to change".to_owned(),
        Some(path) if dry_run => format!("would change {}", safe(path)),
        Some(path) => format!("changed {}", safe(path)),
    };
    vec![format!("{name}  {verb}: {how}, {changed}")]
}

/// All done, none there, or some left.
fn exit_code(reply: &ResolveReply) -> ExitCode {
    let missing = |result: &ResolveResult| {
        result.error.as_ref().is_none_or(|error| error.code == ErrorCode::NotFound)
    };
    match reply.failed {
        0 => ExitCode::Ok,
        _ if reply.results.iter().all(missing) => ExitCode::NotFound,
        _ => ExitCode::Attention,
    }
}
