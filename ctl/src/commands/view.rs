//! What rendering needs besides the data: the time, the zone, and colour.

use jiff::{Timestamp, tz::TimeZone};

use super::Ctx;
use crate::{
    clock,
    text::{Style, Tone, harmless},
    units,
};

/// How to show things.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
    pub(super) style: Style,
    /// Hints name the mount, because there are several.
    pub(super) names_mount: bool,
}

impl View {
    /// Returns the view of this moment.
    pub(super) fn new(ctx: &Ctx<'_>, names_mount: bool) -> Self {
        Self { now: clock::now(), zone: TimeZone::system(), style: ctx.out.style, names_mount }
    }

    /// Returns `4m ago`.
    pub(super) fn ago(&self, at: Timestamp) -> String {
        format!("{} ago", units::coarse(units::between_ms(at, self.now)))
    }

    /// Returns `38s`, the time until `at`.
    pub(super) fn until(&self, at: Timestamp) -> String {
        units::coarse(units::between_ms(self.now, at))
    }

    /// Returns the local time.
    pub(super) fn time(&self, at: Timestamp) -> String {
        units::local_time(at, self.now, &self.zone)
    }

    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        self.style.paint(tone, text)
    }
}

/// Returns text of any origin, safe to show.
pub(super) fn safe(text: &str) -> String {
    harmless(text).into_owned()
}

/// Returns a server's name as people say it: without the scheme everybody uses.
pub(super) fn remote(server: &str, workspace: &str, remote_path: &str) -> String {
    let server = server.strip_prefix("https://").unwrap_or(server).trim_end_matches('/');
    let path = if remote_path == "/" { "" } else { remote_path };
    safe(&format!("{server}/{workspace}{path}"))
}
