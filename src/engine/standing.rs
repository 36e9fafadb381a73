//! What people ask of the link. Pure.

use super::core::{Changes, Core, Now};
use super::link::{Cause, Illegal, Outage, Pause, Way};

/// What a resume ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// The pause.
    pub pause: Option<Pause>,
    /// Why nothing got through.
    pub cause: Option<Cause>,
    /// Whether the circuit was open.
    pub circuit: bool,
    /// Failures in a row until then.
    pub failures: u32,
    /// Records that are sent now.
    pub flushing: usize,
}

impl Core {
    /// A person says go on.
    ///
    /// # Errors
    /// When the state needs another answer than that; nothing was changed then.
    pub fn resume(&mut self, now: Now, changes: &mut Changes) -> Result<Resumed, Illegal> {
        let mut resumed = Resumed { pause: self.link.pause().cloned(), ..Resumed::default() };
        if let Way::Down(outage, trouble) = self.link.way() {
            resumed.cause = Some(trouble.cause);
            resumed.failures = trouble.failures;
            resumed.circuit = matches!(outage, Outage::Open { .. } | Outage::HalfOpen { .. });
        }
        self.link.resume(now.mono)?;
        if resumed.pause.is_some() {
            self.set_pause(None, changes);
        }
        resumed.flushing = self.outbox.queued();
        Ok(resumed)
    }
}
