//! The grants of a token: which file paths it may read and write, and which other scopes it has.

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Access {
    fn granted_by(self, action: &str) -> bool {
        match self {
            Self::Read => matches!(action, "read" | "manage"),
            Self::Write => matches!(action, "write" | "manage"),
        }
    }
}

/// Everything a token grants.
#[derive(Clone, Debug)]
pub(crate) struct Grants {
    everything: bool,
    files: Vec<FileGrant>,
    others: Vec<String>,
}

#[derive(Clone, Debug)]
struct FileGrant {
    action: String,
    paths: Paths,
    bare: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Paths {
    All,
    Exact(String),
    /// A folder and everything below it.
    Tree(String),
    /// Everything below a folder, at any depth, without the folder.
    Below(String),
    Prefix(String),
}

impl Grants {
    pub(crate) fn everything() -> Self {
        Self { everything: true, files: Vec::new(), others: Vec::new() }
    }

    pub(crate) fn parse<'a>(scopes: impl Iterator<Item = &'a str>) -> Self {
        let mut grants = Self { everything: false, files: Vec::new(), others: Vec::new() };
        for scope in scopes.map(str::trim).filter(|scope| !scope.is_empty()) {
            match file_grant(scope) {
                Some(grant) => grants.files.push(grant),
                None => grants.others.push(scope.to_owned()),
            }
        }
        grants
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.everything && self.files.is_empty() && self.others.is_empty()
    }

    /// Tells whether the access is granted on some path at all.
    pub(crate) fn allows_somewhere(&self, access: Access) -> bool {
        self.everything || self.files.iter().any(|grant| access.granted_by(&grant.action))
    }

    /// Tells whether the access is granted on a path.
    ///
    /// A grant without any path stops counting once the token also holds a narrower one for the
    /// same access: whoever adds a path means to narrow.
    pub(crate) fn allows(&self, access: Access, path: &str) -> bool {
        let held = || self.files.iter().filter(|grant| access.granted_by(&grant.action));
        let narrowed = held().any(|grant| grant.paths != Paths::All);
        self.everything || held().any(|grant| !(grant.bare && narrowed) && grant.paths.hold(path))
    }

    /// Tells whether a scope that is not about files is held.
    pub(crate) fn has(&self, scope: &str) -> bool {
        let unqualified = |held: &str| {
            held.split_once(':').is_some_and(|(plane, rest)| {
                matches!(plane, "relayfile" | "*")
                    && (rest == scope || rest == format!("{scope}:*"))
            })
        };
        self.everything || self.others.iter().any(|held| held == scope || unqualified(held))
    }
}

fn file_grant(scope: &str) -> Option<FileGrant> {
    if let Some(action) = scope.strip_prefix("fs:") {
        let action = action.to_owned();
        let known = matches!(action.as_str(), "read" | "write" | "manage");
        return known.then_some(FileGrant { action, paths: Paths::All, bare: true });
    }
    let (plane, rest) = scope.split_once(':')?;
    let rest = match plane {
        "relayfile" | "*" => rest.strip_prefix("fs:").or_else(|| rest.strip_prefix("*:"))?,
        "workspace" => rest.split_once(':')?.1,
        _ => return None,
    };
    let (action, path) = rest.split_once(':').unwrap_or((rest, "*"));
    if !matches!(action, "read" | "write" | "manage") {
        return None;
    }
    Some(FileGrant { action: action.to_owned(), paths: Paths::parse(path), bare: false })
}

impl Paths {
    fn parse(pattern: &str) -> Self {
        if matches!(pattern, "" | "*" | "/**" | "**") {
            Self::All
        } else if let Some(folder) = pattern.strip_suffix("/**") {
            Self::Tree(folder.to_owned())
        } else if let Some(folder) = pattern.strip_suffix("/*") {
            Self::Below(folder.to_owned())
        } else if let Some(prefix) = pattern.strip_suffix('*') {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Exact(pattern.to_owned())
        }
    }

    fn hold(&self, path: &str) -> bool {
        let under = |folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
        };
        match self {
            Self::All => true,
            Self::Exact(exact) => path == exact,
            Self::Tree(folder) => path == folder || under(folder),
            Self::Below(folder) => under(folder),
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scopes: &[&str], access: Access, path: &str, expected: bool) {
        let grants = Grants::parse(scopes.iter().copied());
        assert_eq!(grants.allows(access, path), expected, "{scopes:?} {access:?} {path}");
    }

    #[test]
    fn path_forms() {
        check(&["fs:read"], Access::Read, "/x", true);
        check(&["fs:read"], Access::Write, "/x", false);
        check(&["fs:manage"], Access::Write, "/x", true);
        check(&["relayfile:fs:read"], Access::Read, "/x", true);
        check(&["relayfile:fs:read:/d/**"], Access::Read, "/d", true);
        check(&["relayfile:fs:read:/d/**"], Access::Read, "/d/a/b", true);
        check(&["relayfile:fs:read:/d/**"], Access::Read, "/da", false);
        check(&["relayfile:fs:read:/d/**"], Access::Read, "d/a", false);
        check(&["*:fs:write:/d/*"], Access::Write, "/d/a/b", true);
        check(&["*:fs:write:/d/*"], Access::Write, "/d", false);
        check(&["relayfile:fs:read:/pre*"], Access::Read, "/prefix", true);
        check(&["relayfile:fs:read:/one"], Access::Read, "/one", true);
        check(&["workspace:label:read:/d/**"], Access::Read, "/d/x", true);
        check(&["workspace:label:write"], Access::Write, "/d/x", true);
    }

    #[test]
    fn a_narrow_grant_silences_the_bare_one() {
        check(&["fs:read", "relayfile:fs:read:/d/**"], Access::Read, "/x", false);
        check(&["fs:write", "relayfile:fs:read:/d/**"], Access::Write, "/x", true);
    }

    #[test]
    fn other_scopes() {
        let grants = Grants::parse(["ops:read"].into_iter());
        assert!(grants.has("ops:read") && !grants.has("sync:read"));
        assert!(Grants::everything().has("anything"));
    }
}
