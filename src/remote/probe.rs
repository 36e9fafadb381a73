//! One look at a server: whether it can be reached, who it is, what its clock says, and whether the
//! credential is taken. Asks and changes nothing.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::DATE;

use super::http::HttpRemote;
use super::{Capabilities, Remote as _, RemoteError};
use crate::clock::SharedClock;

/// What one look at a server showed.
#[derive(Debug)]
pub struct Probe {
    /// How long the first reply took.
    pub took: Duration,
    /// By how much the server's clock is ahead of ours, to a second; `None` when it does not say.
    pub ahead: Option<jiff::SignedDuration>,
    /// What the server says it offers, and who it is; `None` when it could not be asked.
    pub capabilities: Option<Capabilities>,
    /// Whether the workspace may be read.
    pub access: Result<(), RemoteError>,
}

impl HttpRemote {
    /// Looks at the server.
    pub async fn probe(&self, clock: &SharedClock) -> Probe {
        let began = clock.monotonic();
        let dated = self.dated().await;
        let took = clock.monotonic().saturating_sub(began);
        let here = clock.wall();
        let dated = match dated {
            Ok(dated) => dated,
            // Asking again would only take as long again.
            Err(error) => {
                return Probe { took, ahead: None, capabilities: None, access: Err(error) };
            }
        };
        let ahead = dated.and_then(|there| {
            // The header has no fractions: half a second is the fairest guess.
            let there = there.checked_add(jiff::SignedDuration::from_millis(500)).ok()?;
            let then = here.checked_sub(jiff::SignedDuration::try_from(took / 2).ok()?).ok()?;
            Some(there.duration_since(then))
        });
        Probe {
            took,
            ahead,
            capabilities: self.capabilities().await.ok(),
            access: self.may_read().await,
        }
    }

    /// Whether the workspace may be read with the credential.
    ///
    /// # Errors
    /// Why not.
    pub async fn may_read(&self) -> Result<(), RemoteError> {
        match self.newest_event().await {
            // A credential for one folder may not read the stream, but it may list.
            Err(RemoteError::Forbidden { .. }) => self.list(None).await.map(|_page| ()),
            other => other.map(|_id| ()),
        }
    }

    /// When the server answered, by its own clock. Any answer will do.
    async fn dated(&self) -> Result<Option<Timestamp>, RemoteError> {
        let url = self.transport.absolute("v1/capabilities", &[])?;
        let request = self.transport.request(Method::GET, url)?;
        let reply = self.transport.send(request, self.transport.timeout()).await?;
        let date = reply.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(date.and_then(|date| Timestamp::try_from(date).ok()))
    }
}
