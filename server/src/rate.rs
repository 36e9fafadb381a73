//! A fixed-window limit on requests per workspace and subject.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Clock;
use crate::config::RateLimit;

/// Windows remembered at once; beyond it the finished ones are dropped, then new ones pass.
const WINDOWS_MAX: usize = 65_536;
const NS_PER_S: i64 = 1_000_000_000;

/// Counts requests, and tells when there were too many.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    max: u32,
    window_ns: i64,
    windows: Mutex<HashMap<(String, String), Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    started_ns: i64,
    requests: u32,
}

impl RateLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let window_ns = i64::try_from(limit.window.as_nanos()).unwrap_or(i64::MAX).max(1);
        Self { max: limit.max, window_ns, windows: Mutex::default() }
    }

    /// Counts one request; the error is the seconds until the next window.
    pub(crate) fn take(&self, workspace: &str, subject: &str, clock: &Clock) -> Result<(), i64> {
        let now = clock.now_ns();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (workspace.to_owned(), subject.to_owned());
        if windows.len() >= WINDOWS_MAX && !windows.contains_key(&key) {
            windows.retain(|_, window| now - window.started_ns < self.window_ns);
            if windows.len() >= WINDOWS_MAX {
                return Ok(());
            }
        }
        let window = windows.entry(key).or_insert(Window { started_ns: now, requests: 0 });
        if now - window.started_ns >= self.window_ns {
            *window = Window { started_ns: now, requests: 0 };
        }
        if window.requests >= self.max {
            let left = self.window_ns - (now - window.started_ns);
            return Err((left / NS_PER_S + i64::from(left % NS_PER_S != 0)).max(1));
        }
        window.requests += 1;
        Ok(())
    }
}
