//! Which paths are local-only: kept and served here, never sent.
//!
//! The rules are those of `.gitignore` files, read from `.mountignore` at the root of the mount
//! and from a file of the user's own, after built-in ones for version-control folders. Pure.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::WsPath;

/// Folders that are local-only unless a rule says otherwise: version control keeps its own
/// history, and half of one in a shared workspace helps nobody.
pub const DEFAULTS: &[&str] = &[".git", ".hg", ".svn", ".bzr", "_darcs", ".jj"];

/// Name of the rules file at the root of the mount.
pub const RULES_NAME: &str = ".mountignore";

/// Compiled rules.
#[derive(Debug, Clone)]
pub struct Rules {
    matcher: Gitignore,
}

impl Default for Rules {
    fn default() -> Self {
        Self::compile(&[]).0
    }
}

impl Rules {
    /// Compiles the built-in rules and then `texts`, later ones winning. A line that is no rule is
    /// left out and returned with the reason.
    #[must_use]
    pub fn compile(texts: &[&str]) -> (Self, Vec<String>) {
        let mut builder = GitignoreBuilder::new("/");
        let mut refused = Vec::new();
        let defaults = DEFAULTS.iter().copied();
        for line in defaults.chain(texts.iter().flat_map(|text| text.lines())) {
            if let Err(error) = builder.add_line(None, line) {
                refused.push(format!("{line:?}: {error}"));
            }
        }
        let matcher = builder.build().unwrap_or_else(|error| {
            refused.push(error.to_string());
            Gitignore::empty()
        });
        (Self { matcher }, refused)
    }

    /// Whether `path` or a folder above it is local-only.
    #[must_use]
    pub fn is_local_only(&self, path: &WsPath, is_dir: bool) -> bool {
        !path.is_root()
            && self.matcher.matched_path_or_any_parents(path.as_str(), is_dir).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_gitignore_and_defaults_hold_at_any_depth() {
        let (rules, refused) =
            Rules::compile(&["target/\n*.log\n!keep.log\n/top\n# comment\n", "!.hg\n"]);
        assert!(refused.is_empty());
        for (path, is_dir, local) in [
            ("/.git", true, true),
            ("/a/.git/config", false, true),
            ("/.gitignore", false, false),
            ("/.hg/x", false, false),
            ("/target", true, true),
            ("/target", false, false),
            ("/a/target/debug/x", false, true),
            ("/a/x.log", false, true),
            ("/a/keep.log", false, false),
            ("/top", false, true),
            ("/a/top", false, false),
            ("/", true, false),
        ] {
            let path = WsPath::parse(path).unwrap();
            assert_eq!(rules.is_local_only(&path, is_dir), local, "{path}");
        }
    }

    #[test]
    fn a_line_that_is_no_rule_does_not_void_the_others() {
        let (rules, refused) = Rules::compile(&["[z-a]\n*.tmp\n"]);
        assert_eq!(refused.len(), 1);
        assert!(rules.is_local_only(&WsPath::parse("/x.tmp").unwrap(), false));
    }
}
