//! From a status or a transport failure to what the caller must do.
//!
//! Statuses and typed errors decide; no error is recognised by its text, with one exception that
//! the protocol leaves no choice about: [`ROUTE_MISSING`]. Pure; no I/O.

use std::error::Error;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use super::wire::WireError;
use super::{Outcome, RemoteError};
use crate::revision::{Precondition, Revision};

/// Longest text of a server that is passed on to people.
const MESSAGE_CHARS_MAX: usize = 200;

/// The message that tells a missing route from a missing file; both have the code `not_found`.
const ROUTE_MISSING: &str = "route not found";

/// The floor that a server may ask for is believed up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// A reply with a status that is no success.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: WireError,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the body as far as it is one of the protocol's.
    pub(super) fn new(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        Self { status, body: serde_json::from_slice(body).unwrap_or_default(), retry_after }
    }

    /// Whether the reply says that a file is not there, rather than the route or the workspace.
    pub(super) fn is_absent_file(&self) -> bool {
        self.status == 404 && self.body.code == "not_found" && self.body.message != ROUTE_MISSING
    }

    /// Whether a workspace server says that it has no such route.
    pub(super) fn is_missing_route(&self) -> bool {
        self.status == 404 && self.body.code == "not_found" && self.body.message == ROUTE_MISSING
    }

    /// Whether other bytes arrived than were announced; nothing was stored then.
    pub(super) fn is_digest_mismatch(&self) -> bool {
        self.status == 400 && self.body.code == "digest_mismatch"
    }

    /// What it means for a whole request.
    pub(super) fn error(&self) -> RemoteError {
        let message = self.message();
        match self.status {
            401 => RemoteError::Auth { message },
            403 => RemoteError::Forbidden { message },
            404 => RemoteError::Gone { message },
            413 => RemoteError::TooLarge,
            421 => RemoteError::OtherServer { message },
            400 if self.is_digest_mismatch() => RemoteError::Garbled { message },
            408 | 425 | 429 | 500..=599 => {
                RemoteError::Busy { status: self.status, message, retry_after: self.retry_after }
            }
            400..=499 => RemoteError::Invalid { message },
            status => RemoteError::Garbled { message: format!("unexpected status {status}") },
        }
    }

    /// What it means for one put or delete that was sent by itself.
    pub(super) fn outcome(
        &self,
        condition: &Precondition,
        is_delete: bool,
    ) -> Result<Outcome, RemoteError> {
        let current = || Revision::new(&self.body.current_revision);
        match self.status {
            409 | 412 => Ok(Outcome::Conflict { current: current() }),
            404 if self.is_absent_file() => Ok(match condition {
                _ if is_delete => Outcome::Absent,
                // The revision that was to be replaced is gone with its file.
                Precondition::Match(_) | Precondition::UnmodifiedSince(_) => {
                    Outcome::Conflict { current: None }
                }
                Precondition::Absent => return Err(self.error()),
            }),
            403 => Ok(self.refused("forbidden")),
            400 if !self.is_digest_mismatch() => Ok(self.refused("bad_request")),
            405..=407 | 410 | 411 | 414..=420 | 422..=424 | 426..=428 | 430..=499 => {
                Ok(self.refused("refused"))
            }
            _ => Err(self.error()),
        }
    }

    fn refused(&self, code: &str) -> Outcome {
        let code = if self.body.code.is_empty() { code } else { &self.body.code };
        Outcome::Refused { code: for_people(code), message: self.message() }
    }

    fn message(&self) -> String {
        if self.body.message.is_empty() {
            format!("status {}", self.status)
        } else {
            for_people(&self.body.message)
        }
    }
}

/// A text of the server, cut to a sane length and without characters that steer a terminal or turn
/// the direction of writing.
pub(super) fn for_people(text: &str) -> String {
    let steers = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns
    };
    text.chars().map(|c| if steers(c) { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect()
}

/// Reads `Retry-After`; a date counts from the reply's own `Date`, so that no clock is asked.
pub(super) fn retry_after(value: Option<&str>, date: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    let delay = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(value).ok()?;
            until.duration_since(httpdate::parse_http_date(date?).ok()?).unwrap_or_default()
        }
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

/// A date as a header writes it: whole seconds, rounded down, so that no edit slips under it.
pub(super) fn http_date(date: Timestamp) -> String {
    httpdate::fmt_http_date(date.into())
}

/// What a failed request or a failed read of a reply means. The URL is left out of the message: it
/// may carry the token.
pub(super) fn transport(error: reqwest::Error) -> RemoteError {
    let error = error.without_url();
    let message = for_people(&innermost(&error));
    if error.is_builder() {
        RemoteError::Invalid { message }
    } else if error.is_connect() {
        if is_tls(&error) {
            RemoteError::Untrusted { message: format!("TLS: {message}") }
        } else {
            RemoteError::Unreachable { message, maybe_applied: false }
        }
    } else {
        RemoteError::Unreachable { message, maybe_applied: true }
    }
}

/// The text of the last cause, which says what happened rather than what was tried.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Whether a connection failed in TLS. rustls reports what it refuses as invalid data inside an
/// I/O error, which the connector wraps in another; no socket gives that kind.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let mut io = error.downcast_ref::<io::Error>();
        while let Some(inner) = io {
            if inner.kind() == io::ErrorKind::InvalidData {
                return true;
            }
            io = inner.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        Refusal::new(status, body.as_bytes(), None)
    }

    #[test]
    fn statuses_of_whole_requests() {
        type Test = fn(&RemoteError) -> bool;
        let rows: [(u16, Test); 14] = [
            (421, |e| matches!(e, RemoteError::OtherServer { .. })),
            (400, |e| matches!(e, RemoteError::Invalid { .. })),
            (401, |e| matches!(e, RemoteError::Auth { .. })),
            (403, |e| matches!(e, RemoteError::Forbidden { .. })),
            (404, |e| matches!(e, RemoteError::Gone { .. })),
            (408, |e| matches!(e, RemoteError::Busy { status: 408, .. })),
            (410, |e| matches!(e, RemoteError::Invalid { .. })),
            (413, |e| matches!(e, RemoteError::TooLarge)),
            (425, |e| matches!(e, RemoteError::Busy { status: 425, .. })),
            (429, |e| matches!(e, RemoteError::Busy { status: 429, .. })),
            (500, |e| matches!(e, RemoteError::Busy { status: 500, .. })),
            (503, |e| matches!(e, RemoteError::Busy { status: 503, .. })),
            (304, |e| matches!(e, RemoteError::Garbled { .. })),
            (422, |e| matches!(e, RemoteError::Invalid { .. })),
        ];
        for (status, test) in rows {
            let error = refusal(status, "<html>").error();
            assert!(test(&error), "{status}: {error:?}");
        }
    }

    #[test]
    fn statuses_of_single_changes() {
        let at = Precondition::Match(Revision::new("rev_1").unwrap());
        let conflict = refusal(409, r#"{"code":"revision_conflict","currentRevision":"rev_2"}"#);
        let current = Revision::new("rev_2");
        assert_eq!(conflict.outcome(&at, false), Ok(Outcome::Conflict { current }));
        let stale = refusal(412, "");
        assert_eq!(stale.outcome(&at, true), Ok(Outcome::Conflict { current: None }));
        let absent = refusal(404, r#"{"code":"not_found","message":"file not found"}"#);
        assert_eq!(absent.outcome(&at, true), Ok(Outcome::Absent));
        assert_eq!(absent.outcome(&at, false), Ok(Outcome::Conflict { current: None }));
        let route = refusal(404, r#"{"code":"not_found","message":"route not found"}"#);
        assert!(matches!(route.outcome(&at, true), Err(RemoteError::Gone { .. })));
        assert!(matches!(refusal(404, "").outcome(&at, true), Err(RemoteError::Gone { .. })));
        let denied = refusal(403, r#"{"code":"forbidden","message":"access denied by ACL"}"#);
        let refused =
            Outcome::Refused { code: "forbidden".into(), message: "access denied by ACL".into() };
        assert_eq!(denied.outcome(&at, false), Ok(refused));
        assert_eq!(refusal(413, "").outcome(&at, false), Err(RemoteError::TooLarge));
        let other = refusal(421, "").outcome(&at, false);
        assert!(matches!(other, Err(RemoteError::OtherServer { .. })), "no blame on the change");
        let mismatch = refusal(400, r#"{"code":"digest_mismatch"}"#);
        assert!(matches!(mismatch.outcome(&at, false), Err(RemoteError::Garbled { .. })));
        assert!(matches!(refusal(500, "").outcome(&at, false), Err(RemoteError::Busy { .. })));
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let date = "Tue, 15 Nov 1994 08:12:31 GMT";
        let later = "Tue, 15 Nov 1994 08:12:41 GMT";
        let seconds = Duration::from_secs;
        assert_eq!(retry_after(Some("7"), None), Some(seconds(7)));
        assert_eq!(retry_after(Some(later), Some(date)), Some(seconds(10)));
        assert_eq!(retry_after(Some(date), Some(later)), Some(Duration::ZERO));
        assert_eq!(retry_after(Some(later), None), None);
        assert_eq!(retry_after(Some("soon"), Some(date)), None);
        assert_eq!(retry_after(Some("999999999"), None), Some(RETRY_AFTER_MAX));
        assert_eq!(http_date("1994-11-15T08:12:31.9Z".parse().unwrap()), date);
    }

    #[test]
    fn tls_failures_are_found_inside_wrapped_errors() {
        let tls = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, "bad certificate"));
        assert!(is_tls(&tls));
        assert!(!is_tls(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }

    #[test]
    fn texts_of_servers_are_tamed() {
        assert_eq!(for_people("a\u{1b}[31m\nb\u{202e}c"), "a [31m b c");
        assert_eq!(for_people(&"x".repeat(1000)).len(), MESSAGE_CHARS_MAX);
    }
}
