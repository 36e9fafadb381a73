//! Tokens listed in a file, one per line, read again whenever the file changes.
//!
//! `TOKEN` alone grants everything; `TOKEN subject=NAME scopes=A,B workspace=NAME|*` grants what
//! it says. A file that cannot be read, or has a line that makes no sense, grants nothing until
//! it is repaired: an edit that goes wrong must not leave a revoked token alive.

use std::fs;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::{Caller, Denied, Grants, NO_TOKEN};
use crate::error::Error;

const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The digest under which a token is remembered and compared.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.trim().as_bytes()).into()
}

/// Compares two digests in time that does not depend on where they differ.
pub(crate) fn same(a: &Digest, b: &Digest) -> bool {
    a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// A token file and what it said when it was last read.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamp: Option<Stamp>,
    grants: Option<Vec<(Digest, Caller)>>,
}

/// Changes whenever the file is edited in place or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl TokenFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |reason| Error::TokenFile { path: path.to_owned(), reason };
        let stamp = stamp(path).map_err(|error| failed(error.to_string()))?;
        let grants = load(path).map_err(failed)?;
        let state = Mutex::new(State { stamp: Some(stamp), grants: Some(grants) });
        Ok(Self { path: path.to_owned(), state })
    }

    pub(crate) fn caller(&self, token: &str) -> Result<Caller, Denied> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path).ok();
        if stamp != state.stamp || stamp.is_none() {
            state.grants = match load(&self.path) {
                Ok(grants) => Some(grants),
                Err(reason) => {
                    // Said once per change of the file, not once per request.
                    if stamp != state.stamp {
                        tracing::error!(path = %self.path.display(), reason, "token file unusable");
                    }
                    None
                }
            };
            state.stamp = stamp;
        }
        let Some(grants) = &state.grants else {
            return Err(Denied::Unavailable("token file cannot be used"));
        };
        let wanted = digest(token);
        let mut found = None;
        for (known, caller) in grants {
            if same(known, &wanted) {
                found = Some(caller);
            }
        }
        found.cloned().ok_or(NO_TOKEN)
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn load(path: &Path) -> Result<Vec<(Digest, Caller)>, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err("larger than 1 MiB".to_owned());
    }
    let grants = parse(&text)?;
    if grants.is_empty() {
        return Err("holds no token".to_owned());
    }
    Ok(grants)
}

fn parse(text: &str) -> Result<Vec<(Digest, Caller)>, String> {
    let mut grants = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let token = words.next().unwrap_or_default();
        let mut caller = Caller::unrestricted("owner");
        for word in words {
            // The message names the line only: a word may be part of a token.
            match word.split_once('=') {
                Some(("subject", name)) if !name.is_empty() => name.clone_into(&mut caller.subject),
                Some(("scopes", scopes)) => caller.grants = Grants::parse(scopes.split(',')),
                Some(("workspace", "*")) => caller.workspace = None,
                Some(("workspace", name)) if !name.is_empty() => {
                    caller.workspace = Some(name.to_owned());
                }
                _ => {
                    return Err(format!(
                        "line {}: after the token, expected subject=, scopes= or workspace=",
                        index + 1
                    ));
                }
            }
        }
        grants.push((digest(token), caller));
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Access;

    #[test]
    fn a_line_grants_what_it_says() {
        let text = "# who\nfull\n\nread subject=bob scopes=fs:read workspace=w1\n";
        let grants = parse(text).unwrap();
        assert_eq!(grants.len(), 2);
        assert!(grants[0].1.grants.allows(Access::Write, "/x"));
        let bob = &grants[1].1;
        assert_eq!((bob.subject.as_str(), bob.workspace.as_deref()), ("bob", Some("w1")));
        assert!(bob.grants.allows(Access::Read, "/x") && !bob.grants.allows(Access::Write, "/x"));
    }

    #[test]
    fn a_bad_line_is_named_without_its_text() {
        let reason = parse("secret\nsecret two\n").unwrap_err();
        assert!(reason.contains("line 2") && !reason.contains("secret"), "{reason}");
    }
}
