//! What one look at a server says. Pure.

use crate::{
    api::{Check, ProbeReply},
    clock,
    failure::Failure,
    units,
};

/// From here on a difference between the clocks matters where the server knows edits by their date
/// only; milliseconds.
const CLOCK_AHEAD_MAX_MS: u64 = 2000;

/// Tokens that end sooner than this are worth a word; milliseconds.
const TOKEN_LEFT_MIN_MS: u64 = 24 * 3600 * 1000;

pub(super) fn checks(reply: &ProbeReply) -> Vec<Check> {
    let name = format!("{}/{}", reply.server, reply.workspace);
    if reply.embedded {
        return vec![Check::ok("server", format!("{name}, of this machine"))];
    }
    if !reply.reached {
        let why = reply.why.clone().unwrap_or_default();
        return vec![
            Check::fail("server", format!("{name} cannot be reached"))
                .why(format!("{why}; changes wait in the outbox"))
                .fix("check the address and the network, and proxies on the way"),
        ];
    }
    let mut checks = vec![Check::ok("server", format!("{name} answered in {} ms", reply.took_ms))];
    checks.extend(clock_of(reply));
    checks.extend(identity(reply));
    checks.push(access(reply));
    checks.extend(expiry(reply));
    checks
}

/// Nobody could be asked to look.
pub(super) fn not_asked(failure: &Failure) -> Check {
    let check = Check::fail("server", failure.error.message.clone());
    let why = failure.why.clone().unwrap_or_default();
    let fix = failure.error.suggestion.clone();
    let check = if why.is_empty() { check } else { check.why(why) };
    fix.into_iter().fold(check, Check::fix)
}

fn clock_of(reply: &ProbeReply) -> Option<Check> {
    let ahead = reply.clock_ahead_ms?;
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let text = format!("the server's is {} {way} this one", units::duration(ahead.unsigned_abs()));
    Some(if ahead.unsigned_abs() < CLOCK_AHEAD_MAX_MS {
        Check::ok("clock", text)
    } else {
        Check::warn("clock", text)
            .why("who changed a file last, and when a token ends, is judged by the clock")
            .fix("timedatectl set-ntp true     (here, and at the server)")
    })
}

fn identity(reply: &ProbeReply) -> Option<Check> {
    match (&reply.identity, &reply.expected) {
        (Some(found), Some(expected)) if found != expected => Some(
            Check::fail("identity", format!("it is {found}, and the mount belongs to {expected}"))
                .why("nothing is sent to another server than the one that the mount belongs to")
                .fix("bring the right server back")
                .fix(format!("or go on with this one: mountctl resume --server {found}")),
        ),
        (None, Some(expected)) => Some(
            Check::fail("identity", format!("it does not say who it is; it should be {expected}"))
                .why("nothing is sent to another server than the one that the mount belongs to")
                .fix("mountctl status, which says what was found"),
        ),
        (Some(found), _) => Some(Check::ok("identity", found.clone())),
        (None, None) => None,
    }
}

fn access(reply: &ProbeReply) -> Check {
    let why = reply.why.clone().unwrap_or_default();
    let scopes = if reply.scopes.is_empty() {
        String::new()
    } else {
        format!(", scopes {}", reply.scopes.join(" "))
    };
    match reply.refusal.as_deref() {
        None => Check::ok("token", format!("accepted{scopes}")),
        Some("auth") => Check::fail("token", "refused")
            .why(why)
            .fix("write a new token into the token file; a running mount takes it at once"),
        Some("forbidden") => Check::fail("token", "may not read this workspace")
            .why(why)
            .fix("ask for a token with the scope fs:read for it"),
        Some("gone") => Check::fail("workspace", "the server does not know it")
            .why(why)
            .fix("check its name, and that the address is that of a workspace server"),
        Some("untrusted") => Check::fail("server", "is not trusted")
            .why(why)
            .fix("check the address; certificates of an authority of your own: SSL_CERT_FILE=FILE"),
        Some("busy") => Check::warn("server", "is in trouble").why(why).fix("try again later"),
        Some(_) => Check::fail("server", "gives no usable answer")
            .why(why)
            .fix("check that the address is that of a workspace server"),
    }
}

fn expiry(reply: &ProbeReply) -> Option<Check> {
    let at = reply.expires_at?;
    let left = units::between_ms(clock::now(), at);
    if left == 0 {
        return Some(
            Check::fail("token", format!("expired at {at}"))
                .fix("write a new one into the token file"),
        );
    }
    (left < TOKEN_LEFT_MIN_MS).then(|| {
        Check::warn("token", format!("expires in {}", units::coarse(left)))
            .why("from then on changes wait in the outbox")
            .fix("write a new one into the token file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Level;

    fn reply() -> ProbeReply {
        ProbeReply {
            server: "https://h".to_owned(),
            workspace: "ws".to_owned(),
            reached: true,
            accepted: true,
            took_ms: 3,
            ..ProbeReply::default()
        }
    }

    fn levels(reply: &ProbeReply) -> Vec<(String, Level)> {
        checks(reply).into_iter().map(|check| (check.name, check.level)).collect()
    }

    #[test]
    fn a_look_becomes_lines() {
        let named = |all: &[(&str, Level)]| -> Vec<(String, Level)> {
            all.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
        };
        assert_eq!(levels(&reply()), named(&[("server", Level::Ok), ("token", Level::Ok)]));
        let away = ProbeReply { reached: false, ..reply() };
        assert_eq!(levels(&away), named(&[("server", Level::Fail)]));
        let wrong = ProbeReply {
            clock_ahead_ms: Some(-5000),
            identity: Some("a".to_owned()),
            expected: Some("b".to_owned()),
            refusal: Some("auth".to_owned()),
            expires_at: Some("2001-01-01T00:00:00Z".parse().unwrap()),
            ..reply()
        };
        let expected = [
            ("server", Level::Ok),
            ("clock", Level::Warn),
            ("identity", Level::Fail),
            ("token", Level::Fail),
            ("token", Level::Fail),
        ];
        assert_eq!(levels(&wrong), named(&expected));
        let slow = ProbeReply { clock_ahead_ms: Some(1900), ..reply() };
        assert_eq!(levels(&slow)[1].1, Level::Ok);
        for refusal in ["forbidden", "gone", "untrusted", "other"] {
            let refused = ProbeReply { refusal: Some(refusal.to_owned()), ..reply() };
            let last = checks(&refused).pop().unwrap();
            assert!(last.level == Level::Fail && !last.fix.is_empty(), "{refusal}");
        }
    }
}
