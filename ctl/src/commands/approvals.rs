//! `mountctl approvals` and `mountctl approve`: what waits for a person, and their word.

use super::{Ctx, daemon, view::safe};
use crate::{
    api::{ApprovalList, ApprovalRecord, ApprovalReply, ApprovalRequest, ExitCode, route},
    cli::{ApprovalsAction, ApprovalsArgs, ApproveArgs},
    failure::Outcome,
    units,
};

pub(super) async fn run(ctx: Ctx<'_>, args: ApprovalsArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    match args.action.unwrap_or(ApprovalsAction::List) {
        ApprovalsAction::List => {
            let reply = daemon.get::<ApprovalList>(&ctx, route::APPROVALS).await?;
            if ctx.out.json {
                ctx.out.document(&reply.envelope)?;
            } else {
                ctx.out.lines(&list(&reply.data))?;
            }
        }
        ApprovalsAction::Show { id } => {
            let reply = daemon.get::<ApprovalRecord>(&ctx, &route_of(&id)).await?;
            if ctx.out.json {
                ctx.out.document(&reply.envelope)?;
            } else {
                ctx.out.lines(&block(&reply.data))?;
            }
        }
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn approve(ctx: Ctx<'_>, args: ApproveArgs) -> Outcome {
    let daemon = daemon::one(&ctx).await?;
    let request = ApprovalRequest { reject: args.reject };
    let reply = daemon.post::<ApprovalReply>(&ctx, &route_of(&args.id), &request).await?;
    if ctx.out.json {
        ctx.out.document(&reply.envelope)?;
    } else {
        ctx.out.line(&line(&reply.data))?;
    }
    Ok(ExitCode::Ok)
}

fn route_of(id: &str) -> String {
    format!("{}/{}", route::APPROVALS, super::escaped(id))
}

pub(super) fn list(list: &ApprovalList) -> Vec<String> {
    if list.approvals.is_empty() {
        return vec!["nothing waits for approval".to_owned()];
    }
    list.approvals.iter().flat_map(block).collect()
}

fn block(approval: &ApprovalRecord) -> Vec<String> {
    let id = safe(&approval.id);
    let (what, yes, no) = match approval.kind.as_str() {
        "removals" => (
            "removals wait to be sent",
            "removes them at the server",
            Some("brings the files back"),
        ),
        "remote-removals" => (
            "files were removed at the server and are kept here",
            "removes them here",
            Some("sends them to the server again"),
        ),
        "reset" => (
            "known files are missing at the server",
            "sends what is here to the server again; nothing is removed here",
            None,
        ),
        _ => ("paths", "approves", Some("refuses")),
    };
    let mut lines = vec![
        format!("{id}   {} {what}", units::count(approval.count)),
        format!("  why      {}", safe(&approval.why)),
        format!("  digest   {}", safe(&approval.digest)),
    ];
    lines.extend(approval.paths.iter().map(|path| format!("    {}", safe(path))));
    let shown = u64::try_from(approval.paths.len()).unwrap_or(u64::MAX);
    if approval.count > shown {
        let more = units::count(approval.count - shown);
        lines.push(format!("    and {more} more -> mountctl approvals show {id}"));
    }
    lines.push(format!("  approve  mountctl approve {id}   {yes}"));
    lines.extend(no.map(|no| format!("  refuse   mountctl approve {id} --reject   {no}")));
    lines
}

fn line(reply: &ApprovalReply) -> String {
    let count = units::count(reply.count);
    let what = match (reply.kind.as_str(), reply.approved) {
        ("removals", true) => format!("{count} removals are sent now"),
        ("removals", false) => format!("{count} removals are taken back; the files return"),
        ("remote-removals", true) => format!("{count} files are removed here"),
        ("remote-removals", false) => format!("{count} files stay and are sent again"),
        ("reset", _) => "what is here is sent to the server again".to_owned(),
        _ => format!("{count} paths"),
    };
    format!("{}: {what}", safe(&reply.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_says_what_approving_does() {
        let approval = ApprovalRecord {
            id: "removals-0123456789ab".into(),
            kind: "removals".into(),
            why: "too many".into(),
            count: 600,
            paths: vec!["/a\x1b[2J".into()],
            digest: "0123".into(),
        };
        let lines = list(&ApprovalList { approvals: vec![approval] });
        assert_eq!(
            lines,
            [
                "removals-0123456789ab   600 removals wait to be sent",
                "  why      too many",
                "  digest   0123",
                "    /a\\u{1b}[2J",
                "    and 599 more -> mountctl approvals show removals-0123456789ab",
                "  approve  mountctl approve removals-0123456789ab   removes them at the server",
                "  refuse   mountctl approve removals-0123456789ab --reject   brings the files back",
            ]
        );
        assert_eq!(list(&ApprovalList::default()), ["nothing waits for approval"]);
    }
}
