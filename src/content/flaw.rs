//! What can be wrong with bytes at rest, told apart.

use std::fmt;
use std::io;

/// What is wrong with bytes that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// In one word.
    pub kind: FlawKind,
    /// In some more.
    pub why: String,
}

/// In which way bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlawKind {
    /// They are not there.
    Missing,
    /// They are there and are not what was written.
    Mismatched,
    /// The disk does not give them out.
    Unreadable,
}

impl FlawKind {
    /// The word that people and programs read.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Mismatched => "mismatched",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Flaw {
    /// Nothing is there.
    #[must_use]
    pub fn missing() -> Self {
        Self { kind: FlawKind::Missing, why: "it is missing".to_owned() }
    }

    /// Something else is there.
    #[must_use]
    pub fn mismatched(why: impl Into<String>) -> Self {
        Self { kind: FlawKind::Mismatched, why: why.into() }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::missing(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::mismatched(error.to_string())
            }
            _ => Self { kind: FlawKind::Unreadable, why: error.to_string() },
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_bytes_is_told_apart() {
        let kind = |error: io::Error| Flaw::from(error).kind;
        let folder = tempfile::tempdir().unwrap();
        let missing = std::fs::read(folder.path().join("none")).unwrap_err();
        assert_eq!(kind(missing), FlawKind::Missing);
        assert_eq!(kind(io::Error::from(io::ErrorKind::InvalidData)), FlawKind::Mismatched);
        // What a disk answers that cannot read a sector, and what reading a folder gives.
        assert_eq!(kind(io::Error::from_raw_os_error(5)), FlawKind::Unreadable);
        assert_eq!(kind(std::fs::read(folder.path()).unwrap_err()), FlawKind::Unreadable);
    }
}
