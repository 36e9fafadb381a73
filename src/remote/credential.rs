//! The bearer token: held in one place, replaced while requests run, never shown.
//!
//! A [`Credential`] is a handle; all clones share the token. Its `Debug` says only whether there is
//! one. Headers made from it are marked sensitive. What is replaced is wiped from memory, as far as
//! it is held here. No I/O.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::RemoteError;

/// Prefixes that name the class of a token and are no part of the signed text.
const CLASS_PREFIXES: [&str; 4] = ["relay_pa_", "relay_ws_", "relay_id_", "relay_ag_"];

/// Shorter tokens are not looked for in what servers say.
const MASKED_CHARS_MIN: usize = 8;

/// One token.
type Token = Arc<Zeroizing<String>>;

/// A shared, replaceable bearer token.
#[derive(Clone, Default)]
pub struct Credential {
    token: Arc<RwLock<Option<Token>>>,
}

impl Credential {
    /// Holds `token`; `None` sends no credential at all.
    #[must_use]
    pub fn new(token: Option<Zeroizing<String>>) -> Self {
        let credential = Self::default();
        credential.replace(token);
        credential
    }

    /// Uses `token` from the next request on.
    pub fn replace(&self, token: Option<Zeroizing<String>>) {
        let token = token.map(|text| Zeroizing::new(text.trim().to_owned()));
        let token = token.filter(|text| !text.is_empty()).map(Arc::new);
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Whether `token` is the one in use.
    #[must_use]
    pub fn holds(&self, token: &str) -> bool {
        self.token().is_some_and(|own| own.as_str() == token.trim())
    }

    /// The token as it is now.
    pub(super) fn token(&self) -> Option<Token> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The `Authorization` header, marked sensitive.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, RemoteError> {
        let Some(token) = self.token() else { return Ok(None) };
        let mut value =
            HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", token.as_str()))).map_err(
                |_| RemoteError::Auth {
                    message: "the token holds characters no header can carry".into(),
                },
            )?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Takes the token out of a text of the server, which may repeat what it was sent. A token of
    /// a few characters is no secret, and may be part of any word.
    pub(super) fn mask(&self, text: &mut String) {
        if let Some(token) = self.token()
            && token.len() >= MASKED_CHARS_MIN
            && text.contains(token.as_str())
        {
            *text = text.replace(token.as_str(), "[the token]");
        }
    }

    /// What the token says about itself.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        token_claims(&self.token()?)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.token().is_some() { "Credential(set)" } else { "Credential(none)" })
    }
}

/// What a token says about itself; not verified, for status only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// What it allows.
    pub scopes: Vec<String>,
}

/// Reads the claims of a JWT without checking its signature; `None` when it is not one.
#[must_use]
pub fn token_claims(token: &str) -> Option<Claims> {
    #[derive(Deserialize)]
    struct Payload {
        #[serde(default)]
        exp: Value,
        #[serde(default)]
        scopes: Value,
    }
    let token = CLASS_PREFIXES.iter().find_map(|p| token.strip_prefix(p)).unwrap_or(token);
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let payload: Payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "saturates; an absurd date is refused below"
    )]
    let seconds = payload.exp.as_i64().or_else(|| payload.exp.as_f64().map(|s| s as i64));
    let scopes = match payload.scopes {
        Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
        Value::Array(list) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    let expires_at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Some(Claims { expires_at, scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_are_read_with_and_without_a_class_prefix() {
        let token = jwt(r#"{"exp":1800000000,"scopes":["fs:read","fs:write"]}"#);
        let claims = token_claims(&token).unwrap();
        assert_eq!(claims.expires_at, Timestamp::from_second(1_800_000_000).ok());
        assert_eq!(claims.scopes, ["fs:read", "fs:write"]);
        assert_eq!(token_claims(&format!("relay_pa_{token}")), Some(claims));
        let spaced = token_claims(&jwt(r#"{"exp":1.5e9,"scopes":"a b"}"#)).unwrap();
        assert_eq!(spaced.scopes, ["a", "b"]);
        assert_eq!(spaced.expires_at, Timestamp::from_second(1_500_000_000).ok());
        assert_eq!(token_claims(&jwt("{}")), Some(Claims::default()));
        assert_eq!(token_claims("not a jwt"), None);
        assert_eq!(token_claims("a.!!.c"), None);
    }

    #[test]
    fn the_token_never_shows() {
        let credential = Credential::new(Some("s3cret\n".to_owned().into()));
        assert!(credential.holds("s3cret") && !credential.holds("secret"));
        let header = credential.header().unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{credential:?} {header:?}").contains("s3cret"));
        let other = credential.clone();
        other.replace(None);
        assert_eq!((credential.header(), other.header()), (Ok(None), Ok(None)));
        credential.replace(Some("a\nb".to_owned().into()));
        let error = credential.header().unwrap_err();
        assert!(!error.to_string().contains("a\nb"));
    }
}
