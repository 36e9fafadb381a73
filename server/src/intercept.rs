//! Hooks at the edge of the server, and the record of what passed it.
//!
//! An embedding program, usually a test, may refuse, delay or cut requests of the real server
//! with an [`Interceptor`], and look at what was asked with a [`RequestLog`]. Neither ever sees
//! a token.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const RECENT_MAX: usize = 4096;

/// What is known of a request before it is served.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The HTTP method.
    pub method: String,
    /// The route: what follows the workspace, such as `/fs/bulk`; `other` for unknown routes.
    pub route: &'static str,
    /// The workspace, on routes that have one.
    pub workspace: Option<String>,
    /// The `path` query parameter.
    pub path: Option<String>,
    /// Whether the request carries an `Authorization` header or a token parameter.
    pub authorized: bool,
    /// The length the request announces for its body.
    pub content_length: Option<u64>,
}

/// Lets an embedding program refuse, delay or cut requests at the edge of the server.
pub trait Interceptor: Send + Sync + 'static {
    /// Decides what happens to a request before the server sees it.
    fn before(&self, request: &RequestHead) -> Before;

    /// Decides what happens to the reply of a request that was served.
    fn after(&self, request: &RequestHead, status: u16) -> After {
        let (_, _) = (request, status);
        After::Pass
    }
}

/// What happens to a request before the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is served.
    Pass,
    /// It is answered here and not served.
    Reply {
        /// The status code.
        status: u16,
        /// Header names and values.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// The connection is closed without a reply, and nothing is applied.
    Reset,
    /// It is served after this long.
    Delay(Duration),
}

/// What happens to the reply of a request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It is sent.
    Pass,
    /// The connection is closed without it; what was applied stays applied.
    Drop,
    /// Half of its body is sent, as a complete and well-formed HTTP message.
    Garble,
    /// It is sent after this long; what was applied is seen by others at once.
    Delay(Duration),
}

/// One request that passed the server.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// The HTTP method.
    pub method: String,
    /// The route: what follows the workspace, such as `/fs/bulk`; `other` for unknown routes.
    pub route: &'static str,
    /// The `path` query parameter.
    pub path: Option<String>,
    /// The status of the reply; 0 when the connection was closed instead.
    pub status: u16,
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A view of the requests a server has answered; clones see the same record.
#[derive(Clone, Default)]
pub struct RequestLog {
    inner: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    // Routes and statuses are few by construction, and unknown methods share one name, so this
    // cannot grow with what clients send.
    by_kind: HashMap<(&'static str, &'static str, u16), u64>,
    recent: VecDeque<RequestRecord>,
}

impl RequestLog {
    /// Returns how many requests of a method and route were answered.
    #[must_use]
    pub fn count(&self, method: &str, route: &str) -> u64 {
        self.sum(|m, r, _| m == method && r == route)
    }

    /// Returns how many requests of a route were answered with a status.
    #[must_use]
    pub fn count_status(&self, route: &str, status: u16) -> u64 {
        self.sum(|_, r, s| r == route && s == status)
    }

    /// Returns the newest requests, oldest first; at most 4,096.
    #[must_use]
    pub fn recent(&self) -> Vec<RequestRecord> {
        self.lock().recent.iter().cloned().collect()
    }

    /// Forgets everything recorded so far.
    pub fn reset(&self) {
        *self.lock() = Counts::default();
    }

    pub(crate) fn record(&self, record: RequestRecord) {
        let method = known_method(&record.method);
        let mut counts = self.lock();
        *counts.by_kind.entry((method, record.route, record.status)).or_default() += 1;
        if counts.recent.len() == RECENT_MAX {
            counts.recent.pop_front();
        }
        counts.recent.push_back(record);
    }

    fn sum(&self, matches: impl Fn(&str, &str, u16) -> bool) -> u64 {
        let counts = self.lock();
        counts.by_kind.iter().filter(|((m, r, s), _)| matches(m, r, *s)).map(|(_, n)| n).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestLog").field("kinds", &self.lock().by_kind.len()).finish()
    }
}

fn known_method(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("OTHER")
}
