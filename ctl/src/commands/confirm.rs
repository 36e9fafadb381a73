//! Asking before something is done that people may regret.

use std::io::{self, IsTerminal as _};

use super::Ctx;
use crate::{
    api::ErrorCode,
    failure::{Failure, Outcome},
};

/// Asks whether to do `what`, unless the answer was given with `--yes`.
///
/// # Errors
///
/// When nobody can be asked.
pub(super) fn confirm(ctx: &mut Ctx<'_>, what: &str, yes: bool) -> Outcome<bool> {
    if yes {
        return Ok(true);
    }
    if ctx.out.json || !ctx.out.shows_progress() || !io::stdin().is_terminal() {
        return Err(Failure::new(ErrorCode::InvalidArgument, format!("not confirmed: {what}"))
            .why("there is no terminal to ask on")
            .suggest("add --yes, or look first with --dry-run"));
    }
    ctx.out.note(&format!("{what}? [y/N]"))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
