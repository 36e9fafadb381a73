//! What becomes of a file that both sides changed: the rules by path. Pure.
//!
//! A rule is `GLOB=POLICY`, the glob as a line of `.gitignore`; `POLICY` alone is for every path.
//! Of several rules that fit the last one counts, and without one clean merges are made.

use std::str::FromStr;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::WsPath;

/// What to do when both sides changed a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Theirs takes the name, ours is kept beside and waits for a person.
    Keep,
    /// A merge takes the name where it is clean, else as [`Policy::Keep`].
    #[default]
    Merge,
    /// Ours takes the name, theirs is kept beside.
    Ours,
    /// Theirs takes the name, ours is kept beside.
    Theirs,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "merge" => Ok(Self::Merge),
            "ours" => Ok(Self::Ours),
            "theirs" => Ok(Self::Theirs),
            _ => Err(format!("`{text}` is none of keep, merge, ours and theirs")),
        }
    }
}

/// The rules, in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    rules: Vec<(Option<Gitignore>, Policy)>,
}

impl Policies {
    /// Compiles rules.
    ///
    /// # Errors
    /// Which rule is none, and why.
    pub fn parse<T: AsRef<str>>(rules: &[T]) -> Result<Self, String> {
        let rules = rules.iter().map(|rule| parse_rule(rule.as_ref()));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// What is to be done for `path`.
    #[must_use]
    pub fn of(&self, path: &WsPath) -> Policy {
        let fits = |glob: &Option<Gitignore>| {
            glob.as_ref().is_none_or(|glob| {
                glob.matched_path_or_any_parents(path.as_str(), false).is_ignore()
            })
        };
        let rule = self.rules.iter().rev().find(|(glob, _)| fits(glob));
        rule.map(|(_, policy)| *policy).unwrap_or_default()
    }
}

fn parse_rule(rule: &str) -> Result<(Option<Gitignore>, Policy), String> {
    // The glob may hold an equals sign; a policy does not.
    let Some((glob, policy)) = rule.rsplit_once('=') else {
        return Ok((None, rule.parse()?));
    };
    let policy = policy.parse()?;
    if glob.is_empty() || glob.starts_with(['!', '#']) || glob.trim() != glob {
        return Err(format!("`{glob}` is not a glob"));
    }
    let mut builder = GitignoreBuilder::new("/");
    let built = builder.add_line(None, glob).and_then(|builder| builder.build());
    let glob = built.map_err(|error| format!("`{glob}` is not a glob: {error}"))?;
    Ok((Some(glob), policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_counts() {
        let policies = Policies::parse(&[
            "keep",
            "*.md=merge",
            "/locks/=theirs",
            "/locks/mine=ours",
            "/a=b/*=ours",
        ]);
        let policies = policies.unwrap();
        for (path, policy) in [
            ("/x", Policy::Keep),
            ("/x.md", Policy::Merge),
            ("/deep/down/x.md", Policy::Merge),
            ("/locks/x.md", Policy::Theirs),
            ("/locks/deep/x", Policy::Theirs),
            ("/locks/mine", Policy::Ours),
            ("/a=b/x", Policy::Ours),
        ] {
            assert_eq!(policies.of(&WsPath::parse(path).unwrap()), policy, "{path}");
        }
        let path = WsPath::parse("/x").unwrap();
        assert_eq!(Policies::default().of(&path), Policy::Merge);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (rule, why) in [
            ("*.md=mine", "`mine` is none of keep, merge, ours and theirs"),
            ("*.md", "`*.md` is none of"),
            ("", "`` is none of"),
            ("=keep", "`` is not a glob"),
            ("[z-a]=keep", "`[z-a]` is not a glob: "),
            ("!x=keep", "`!x` is not a glob"),
            ("# x=keep", "is not a glob"),
            (" x=keep", "is not a glob"),
        ] {
            let error = Policies::parse(&[rule]).unwrap_err();
            assert!(error.starts_with(why) || error.ends_with(why), "{rule}: {error}");
        }
    }
}
