//! The command line of `mountctl conflicts`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

/// Arguments of `conflicts`.
#[derive(Debug, Clone, Default, Args)]
pub struct ConflictsArgs {
    /// What to do; `list` when left out.
    #[command(subcommand)]
    pub action: Option<ConflictsAction>,
}

/// What can be done with conflicts.
#[derive(Debug, Clone, Subcommand)]
pub enum ConflictsAction {
    /// List them.
    List(ConflictsListArgs),
    /// Show one in full: both sides, the base, what a merge would give, what has the name now.
    Show(ConflictArgs),
    /// Show what differs between the base, ours and theirs.
    Diff(ConflictDiffArgs),
    /// Merge ours into what has the name, where both changed different lines.
    Merge(ConflictsMergeArgs),
    /// End conflicts: say what takes the name. The other side stays in the conflict copy for a
    /// time (`mountd --conflict-keep`).
    Resolve(ConflictsResolveArgs),
}

/// Arguments of `conflicts list`.
#[derive(Debug, Clone, Default, Args)]
pub struct ConflictsListArgs {
    /// Also those that were resolved.
    #[arg(long)]
    pub resolved: bool,
}

/// One conflict.
#[derive(Debug, Clone, Args)]
pub struct ConflictArgs {
    /// The conflict, as `list` names it.
    pub id: String,
}

/// Arguments of `conflicts diff`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("which").multiple(false))]
pub struct ConflictDiffArgs {
    /// The conflict, as `list` names it.
    pub id: String,
    /// Only what we changed.
    #[arg(long, group = "which")]
    pub ours: bool,
    /// Only what they changed.
    #[arg(long, group = "which")]
    pub theirs: bool,
    /// The merge, with the lines that both changed between markers: what to start from for
    /// `resolve --merged`.
    #[arg(long, group = "which")]
    pub merge: bool,
}

/// Which conflicts.
#[derive(Debug, Clone, Default, Args)]
#[command(group = ArgGroup::new("chosen").required(true).multiple(false))]
pub struct ChosenConflicts {
    /// These conflicts, as `list` names them.
    #[arg(group = "chosen", value_name = "ID")]
    pub ids: Vec<String>,
    /// The open ones whose path fits: `*` and `?` within a name, `**` across folders.
    #[arg(long, group = "chosen", value_name = "GLOB")]
    pub path: Option<String>,
    /// All open ones.
    #[arg(long, group = "chosen")]
    pub all: bool,
}

/// Arguments of `conflicts merge`.
#[derive(Debug, Clone, Default, Args)]
pub struct ConflictsMergeArgs {
    /// Which conflicts.
    #[command(flatten)]
    pub chosen: ChosenConflicts,
    /// Change nothing, say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `conflicts resolve`.
#[derive(Debug, Clone, Default, Args)]
#[command(group = ArgGroup::new("with").required(true).multiple(false))]
pub struct ConflictsResolveArgs {
    /// Which conflicts.
    #[command(flatten)]
    pub chosen: ChosenConflicts,
    /// Ours takes the name; where ours was a removal, the file is removed.
    #[arg(long, group = "with")]
    pub ours: bool,
    /// What has the name keeps it.
    #[arg(long, group = "with")]
    pub theirs: bool,
    /// What has the name keeps it; ours gets the name `NAME (conflict HOST TIME).EXT` beside it.
    #[arg(long, group = "with")]
    pub both: bool,
    /// This file's content takes the name; up to 32 MiB, `-` reads standard input.
    #[arg(long, group = "with", value_name = "FILE")]
    pub merged: Option<PathBuf>,
    /// Also where the file was changed since the conflict was found; what it holds now is kept in
    /// the conflict copy as `replaced`.
    #[arg(long)]
    pub force: bool,
    /// Change nothing, say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}
