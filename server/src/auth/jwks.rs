//! RS256 JSON Web Tokens, checked against a key set that is published at a URL.
//!
//! Keys are cached for five minutes and used for one minute more when the set cannot be fetched.
//! A token with an unknown key may cause a fetch, but fetches are at least five seconds apart, so
//! that no client can turn the server against the issuer.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Caller, Denied, Grants, NO_TOKEN};
use crate::clock::Clock;
use crate::error::Error;

const FRESH_NS: i64 = 300 * 1_000_000_000;
const GRACE_NS: i64 = 60 * 1_000_000_000;
const REFETCH_NS: i64 = 5 * 1_000_000_000;
const SET_BYTES_MAX: usize = 1024 * 1024;
const CLASS_PREFIXES: [&str; 4] = ["relay_pa_", "relay_ws_", "relay_id_", "relay_ag_"];
const UNREACHABLE: Denied = Denied::Unavailable("jwks unreachable");

/// A key set at a URL.
#[derive(Debug)]
pub(crate) struct Jwks {
    url: String,
    client: reqwest::Client,
    keys: RwLock<Option<Keys>>,
    // Held while fetching, so that one fetch serves everybody who waits; requests with a known
    // key never touch it.
    last_attempt_ns: Mutex<Option<i64>>,
}

#[derive(Clone)]
struct Keys {
    by_id: Arc<HashMap<String, DecodingKey>>,
    fetched_ns: i64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("count", &self.by_id.len()).finish()
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: Option<String>,
    kty: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwks {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let setting = |reason: String| Error::Setting { name: "jwks url", reason };
        reqwest::Url::parse(url).map_err(|error| setting(error.to_string()))?;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| setting(error.to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            client,
            keys: RwLock::new(None),
            last_attempt_ns: Mutex::new(None),
        })
    }

    pub(crate) async fn caller(&self, token: &str, clock: &Clock) -> Result<Caller, Denied> {
        let token =
            CLASS_PREFIXES.iter().find_map(|prefix| token.strip_prefix(prefix)).unwrap_or(token);
        let header = jsonwebtoken::decode_header(token).map_err(|_| NO_TOKEN)?;
        if header.alg != Algorithm::RS256 {
            return Err(NO_TOKEN);
        }
        let kid = header.kid.ok_or(NO_TOKEN)?;
        let key = self.key(&kid, clock).await?;
        let mut validation = Validation::new(Algorithm::RS256);
        // The claims are judged below, by the rules and with the words of this protocol.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims =
            jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|_| NO_TOKEN)?.claims;
        judge(&claims, clock.now_ns())
    }

    async fn key(&self, kid: &str, clock: &Clock) -> Result<DecodingKey, Denied> {
        let known = |keys: &Keys| keys.by_id.get(kid).cloned();
        if let Some(key) = self.cached(clock.now_ns(), FRESH_NS).as_ref().and_then(known) {
            return Ok(key);
        }
        let mut last_attempt = self.last_attempt_ns.lock().await;
        let now = clock.now_ns();
        if let Some(key) = self.cached(now, FRESH_NS).as_ref().and_then(known) {
            return Ok(key);
        }
        if last_attempt.is_none_or(|at| now - at >= REFETCH_NS) {
            *last_attempt = Some(now);
            match self.fetch(now).await {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
                }
                Err(error) => {
                    tracing::warn!(error = %error.without_url(), "key set could not be fetched");
                }
            }
        }
        let Some(keys) = self.cached(now, FRESH_NS + GRACE_NS) else {
            return Err(UNREACHABLE);
        };
        known(&keys).ok_or(Denied::Unauthorized("unknown jwt kid"))
    }

    fn cached(&self, now_ns: i64, age_max_ns: i64) -> Option<Keys> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone().filter(|keys| now_ns - keys.fetched_ns < age_max_ns)
    }

    async fn fetch(&self, now_ns: i64) -> Result<Keys, reqwest::Error> {
        let mut response = self.client.get(&self.url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > SET_BYTES_MAX {
                body.clear();
                break;
            }
        }
        let set = serde_json::from_slice(&body).unwrap_or(KeySet { keys: Vec::new() });
        let usable = |key: Key| {
            let rsa = key.kty.as_deref() == Some("RSA");
            let decoding = DecodingKey::from_rsa_components(&key.n?, &key.e?).ok()?;
            rsa.then_some((key.kid?, decoding))
        };
        let by_id = Arc::new(set.keys.into_iter().filter_map(usable).collect());
        Ok(Keys { by_id, fetched_ns: now_ns })
    }
}

fn judge(claims: &Value, now_ns: i64) -> Result<Caller, Denied> {
    let text = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| claims[*name].as_str().filter(|value| !value.is_empty()))
            .map(str::to_owned)
    };
    let Some(expires) = claims["exp"].as_f64() else {
        return Err(Denied::Unauthorized("missing exp claim"));
    };
    if Duration::try_from_secs_f64(expires).unwrap_or_default().as_nanos()
        <= u128::try_from(now_ns).unwrap_or_default()
    {
        return Err(Denied::Unauthorized("token expired"));
    }
    let audience = match &claims["aud"] {
        Value::String(one) => one == "relayfile",
        Value::Array(many) => many.iter().any(|one| one == "relayfile"),
        _ => false,
    };
    if !audience {
        return Err(Denied::Unauthorized("invalid aud claim"));
    }
    let workspace =
        text(["wks", "workspace_id"]).ok_or(Denied::Unauthorized("missing workspace claim"))?;
    let subject =
        text(["sub", "agent_name"]).ok_or(Denied::Unauthorized("missing subject claim"))?;
    let grants = match &claims["scopes"] {
        Value::String(list) => Grants::parse(list.split_whitespace()),
        Value::Array(list) => Grants::parse(list.iter().filter_map(Value::as_str)),
        _ => Grants::parse(std::iter::empty()),
    };
    if grants.is_empty() {
        return Err(Denied::Forbidden("token has no scopes".to_owned()));
    }
    Ok(Caller { subject, workspace: Some(workspace), grants })
}
