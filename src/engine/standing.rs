//! What people ask of the link. Pure.

use super::core::{Changes, Core, Now};
use super::link::{Answer, Cause, Outage, Pause, Refused, Way};
use crate::remote::Capabilities;
use crate::store::Row;

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
    /// Whether it goes on with another server.
    pub other_server: bool,
    /// Records that are sent now.
    pub flushing: usize,
}

impl Core {
    /// A person says go on.
    ///
    /// With `server` also when another server answers: that one, if it is still there.
    ///
    /// # Errors
    /// When the state needs another answer than that; nothing was changed then.
    pub fn resume(
        &mut self,
        server: Option<Answer>,
        now: Now,
        changes: &mut Changes,
    ) -> Result<Resumed, Refused> {
        let mut resumed = Resumed { pause: self.link.pause().cloned(), ..Resumed::default() };
        if let Way::Down(outage, trouble) = self.link.way() {
            resumed.cause = Some(trouble.cause);
            resumed.failures = trouble.failures;
            resumed.circuit = matches!(outage, Outage::Open { .. } | Outage::HalfOpen { .. });
        }
        match server {
            None => self.link.resume(now.mono)?,
            Some(server) => {
                self.link.accept(server)?;
                self.change_server(server, changes);
                resumed.other_server = true;
            }
        }
        if resumed.pause.is_some() {
            self.set_pause(None, changes);
        }
        resumed.flushing = self.outbox.queued();
        Ok(resumed)
    }

    /// Goes on with another server: nothing that was known of the old one says anything about it.
    fn change_server(&mut self, server: Answer, changes: &mut Changes) {
        let known = self.capabilities.unwrap_or_default();
        let capabilities = Capabilities { server: server.0, ..known };
        self.capabilities = Some(capabilities);
        let json = serde_json::to_string(&capabilities).ok();
        changes.rows.push(Row::SetMeta("capabilities", json));
        self.ask_again = true;
        self.set_cursor(None, changes);
        if self.reset_suspected.is_some() {
            self.suspect_reset(None, changes);
        }
        self.distrust_revisions(changes);
        self.set_offer_again(true, changes);
    }

    /// Whether what is here is offered to the server with the next listing. Survives restarts: a
    /// crash in between must not make what only this side has look removed.
    pub fn set_offer_again(&mut self, offer: bool, changes: &mut Changes) {
        self.offer_again = offer;
        changes.rows.push(Row::SetMeta("offer_again", offer.then(|| "1".to_owned())));
    }
}
