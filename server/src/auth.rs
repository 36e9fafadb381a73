//! Who sent a request, and what that caller may do.
//!
//! Token text is compared by digest in constant time, is never logged, and never appears in an
//! error.

mod jwks;
mod scopes;
mod tokens;

use crate::clock::Clock;
use crate::config::Auth;
use crate::error::Error;

pub(crate) use scopes::{Access, Grants};

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Identity for the rate limit and the log.
    pub(crate) subject: String,
    /// The only workspace the caller may use; `None` allows every one.
    pub(crate) workspace: Option<String>,
    pub(crate) grants: Grants,
}

impl Caller {
    fn unrestricted(subject: &str) -> Self {
        Self { subject: subject.to_owned(), workspace: None, grants: Grants::everything() }
    }
}

/// Why a token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// 401: the token proves nothing.
    Unauthorized(&'static str),
    /// 403: the token is good, and grants nothing here.
    Forbidden(String),
    /// 503: the server cannot tell at the moment.
    Unavailable(&'static str),
}

/// Turns bearer tokens into callers.
#[derive(Debug)]
pub(crate) enum Authenticator {
    Open,
    Token(tokens::Digest),
    File(tokens::TokenFile),
    Jwks(jwks::Jwks),
}

pub(crate) const NO_TOKEN: Denied = Denied::Unauthorized("missing or invalid bearer token");

impl Authenticator {
    pub(crate) fn new(auth: &Auth) -> Result<Self, Error> {
        Ok(match auth {
            Auth::Open => Self::Open,
            Auth::Token(token) if token.trim().is_empty() => {
                return Err(Error::Setting { name: "auth", reason: "the token is empty".into() });
            }
            Auth::Token(token) => Self::Token(tokens::digest(token)),
            Auth::TokenFile(path) => Self::File(tokens::TokenFile::open(path)?),
            Auth::Jwks { url } => Self::Jwks(jwks::Jwks::new(url)?),
        })
    }

    /// Returns the caller a token stands for.
    pub(crate) async fn caller(
        &self,
        token: Option<&str>,
        clock: &Clock,
    ) -> Result<Caller, Denied> {
        if let Self::Open = self {
            return Ok(Caller::unrestricted("anonymous"));
        }
        let token = token.map(str::trim).filter(|token| !token.is_empty()).ok_or(NO_TOKEN)?;
        match self {
            Self::Open => Ok(Caller::unrestricted("anonymous")),
            Self::Token(expected) => {
                if tokens::same(expected, &tokens::digest(token)) {
                    Ok(Caller::unrestricted("owner"))
                } else {
                    Err(NO_TOKEN)
                }
            }
            Self::File(file) => file.caller(token),
            Self::Jwks(jwks) => jwks.caller(token, clock).await,
        }
    }
}
