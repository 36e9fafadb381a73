//! `mountctl doctor`: whether all that a mount needs is there, and what helps where it is not.
//!
//! Works with daemons and without. Nothing is changed but, with `--fix`, dead mounts of ours, which
//! are taken away.

mod machine;
mod mount;
mod mounts;
mod server;
mod state;

use std::path::PathBuf;

use self::mounts::Which;
use super::{Ctx, daemon, view::safe};
use crate::{
    api::{Check, DoctorReply, Hello, Level, ProbeReply, route, schema},
    cli::DoctorArgs,
    client::Client,
    discovery::{self, Choice},
    failure::Outcome,
    persisted, program,
    text::{Style, Tone},
};

pub(super) async fn run(mut ctx: Ctx<'_>, args: &DoctorArgs) -> Outcome {
    let mut checks = machine::checks(ctx.env);
    if args.pre_flight {
        checks.extend(mounts::checks(&Which::All, args.fix));
        checks.extend(source(&mut ctx, args)?);
    } else {
        let targets = targets(&ctx).await?;
        let which = match &targets[..] {
            [target] if ctx.global.mount.is_some() => {
                Which::Of(target.name.clone(), place(&ctx, target).await)
            }
            _ => Which::All,
        };
        checks.extend(mounts::checks(&which, args.fix));
        for target in targets {
            let name = target.name.clone();
            let of_mount = mount::checks(&mut ctx, target, args.offline).await?;
            checks.extend(
                of_mount.into_iter().map(|check| Check { mount: Some(name.clone()), ..check }),
            );
        }
    }
    let reply = DoctorReply::of(checks);
    let code = reply.exit_code();
    if ctx.out.json {
        ctx.document(schema::DOCTOR, reply)?;
    } else {
        let style = ctx.out.style;
        ctx.out.lines(&lines(&reply, style))?;
    }
    Ok(code)
}

/// The mounts that are meant: the one that is named, else all of this user, running or not.
async fn targets(ctx: &Ctx<'_>) -> Outcome<Vec<discovery::Target>> {
    if ctx.global.mount.is_some() || ctx.global.socket.is_some() {
        return Ok(match daemon::several(ctx).await? {
            Choice::One(target) => vec![target],
            Choice::Several(targets) => targets,
            Choice::None => Vec::new(),
        });
    }
    let mut targets: Vec<discovery::Target> =
        discovery::probe_all(ctx.env, ctx.answer_within() / 2)
            .await
            .into_iter()
            .map(|probe| probe.target)
            .collect();
    for stopped in persisted::load_all(ctx.env) {
        if targets.iter().all(|target| target.name != stopped.name) {
            let socket = crate::paths::socket_path(ctx.env, &stopped.name);
            targets.push(discovery::Target { name: stopped.name, socket });
        }
    }
    Ok(targets)
}

/// Where a mount is, or was. Its daemon knows best: its state may be in another place than usual.
async fn place(ctx: &Ctx<'_>, target: &discovery::Target) -> Option<PathBuf> {
    let client = Client::new(&target.socket, ctx.env.uid);
    let hello = client.get::<Hello>(route::HELLO, ctx.answer_within()).await;
    let running = hello.ok().map(|reply| reply.data.mountpoint).filter(|place| !place.is_empty());
    let stopped = || persisted::load(ctx.env, &target.name).and_then(|known| known.mountpoint);
    running.or_else(stopped).map(PathBuf::from)
}

/// The server that is to be mounted.
fn source(ctx: &mut Ctx<'_>, args: &DoctorArgs) -> Outcome<Vec<Check>> {
    let Some(source) = &args.source else {
        let text = "not asked: name what is to be mounted with --source URL";
        return Ok(vec![Check::skip("server", text)]);
    };
    if args.offline {
        return Ok(vec![Check::skip("server", "not asked: --offline")]);
    }
    ctx.out.progress("asking the server")?;
    let token_file = args.token_file.as_ref().map(|file| file.display().to_string());
    Ok(match probe(ctx, source, token_file.as_deref()) {
        Ok(reply) => server::checks(&reply),
        Err(failure) => vec![server::not_asked(&failure)],
    })
}

/// Asks a server without a daemon.
fn probe(ctx: &Ctx<'_>, source: &str, token_file: Option<&str>) -> Outcome<ProbeReply> {
    let mut words = vec!["probe", source, "--json"];
    words.extend(token_file.into_iter().flat_map(|file| ["--token-file", file]));
    // Who mounted it so has decided that before.
    words.extend(source.starts_with("http:").then_some("--insecure-http"));
    let envelope = program::ask::<ProbeReply>(ctx.env, &words)?;
    envelope.outcome.map_err(crate::failure::Failure::from_error)
}

fn lines(reply: &DoctorReply, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut about: Option<&str> = None;
    for check in &reply.checks {
        if check.mount.as_deref() != about {
            about = check.mount.as_deref();
            lines.extend(about.map(|name| style.paint(Tone::Strong, &safe(name))));
        }
        let (word, tone) = match check.level {
            Level::Ok => ("[ OK ]", Tone::Good),
            Level::Warn => ("[WARN]", Tone::Warn),
            Level::Fail => ("[FAIL]", Tone::Bad),
            Level::Skip | Level::Unknown => ("[ -- ]", Tone::Faint),
        };
        let word = style.paint(tone, word);
        lines.push(format!("{word} {:<14} {}", safe(&check.name), safe(&check.text)));
        lines.extend(check.why.iter().map(|why| format!("       why: {}", safe(why))));
        lines.extend(check.fix.iter().map(|fix| format!("       fix: {}", safe(fix))));
    }
    let word = match reply.overall {
        Level::Fail => "FAIL",
        Level::Warn => "WARN",
        Level::Ok | Level::Skip | Level::Unknown => "OK",
    };
    lines.push(format!("overall: {word} ({} fail, {} warn)", reply.fails, reply.warns));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_why_and_what_helps() {
        let checks = vec![
            Check::ok("fuse", "/dev/fuse can be opened"),
            Check {
                mount: Some("ws".to_owned()),
                ..Check::fail("token", "a\u{1b}b").why("because").fix("chmod 600 x")
            },
            Check { mount: Some("ws".to_owned()), ..Check::warn("linger", "off") },
        ];
        let reply = DoctorReply::of(checks);
        assert_eq!(reply.exit_code().number(), 1);
        assert_eq!(
            lines(&reply, Style::default()),
            [
                "[ OK ] fuse           /dev/fuse can be opened",
                "ws",
                "[FAIL] token          a\\u{1b}b",
                "       why: because",
                "       fix: chmod 600 x",
                "[WARN] linger         off",
                "overall: FAIL (1 fail, 1 warn)",
            ]
        );
        assert_eq!(DoctorReply::of(vec![Check::warn("x", "y")]).exit_code().number(), 0);
    }
}
