//! The change stream over HTTP: its newest event, what follows a cursor, and one event by its id.

use super::check;
use super::continuity::Witness;
use super::http::HttpRemote;
use super::scope::Scope;
use super::wire::{Bad, Item, WireEvent, WireEvents};
use super::{Cursor, EventId, RemoteError, RemoteEvent};

/// How many events a page is asked to hold; servers send no more.
const PAGE_EVENTS: usize = 1000;

/// The longest id of an event.
const ID_BYTES_MAX: usize = 1024;

/// How many pages back an event is looked for.
const LOOK_BACK_PAGES: usize = 10;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// An event.
    Event(Box<RemoteEvent>),
    /// An event of which only the id can be read: what it changed is not known.
    Unreadable(EventId),
    /// No event.
    Noise,
}

impl Message {
    /// Reads a frame; `None` when it is not JSON.
    pub(super) fn of_frame(text: &str, scope: &Scope) -> Option<Self> {
        Some(Self::of_item(serde_json::from_str(text).ok()?, scope))
    }

    /// Reads one value of a page.
    fn of_item(item: Item<WireEvent>, scope: &Scope) -> Self {
        let is_id = |id: &str| (1..=ID_BYTES_MAX).contains(&id.len());
        match item {
            Item::Read(wire) if is_id(&wire.event_id) => {
                Self::Event(Box::new(check::event(wire, scope)))
            }
            Item::Bad(Bad { event_id: Some(id), .. }) if is_id(&id) => {
                Self::Unreadable(EventId(id))
            }
            Item::Read(_) | Item::Bad(_) => Self::Noise,
        }
    }

    fn event(self) -> Option<RemoteEvent> {
        match self {
            Self::Event(event) => Some(*event),
            Self::Unreadable(_) | Self::Noise => None,
        }
    }
}

/// Why a request of the feed gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FeedError {
    /// The server does not go on from this cursor.
    Cursor,
    /// The request failed as any other.
    Remote(RemoteError),
}

impl From<RemoteError> for FeedError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

impl From<FeedError> for RemoteError {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Cursor => Self::Invalid { message: "the cursor is refused".into() },
            FeedError::Remote(error) => error,
        }
    }
}

/// Whether a refusal of a request that named a cursor is about the cursor.
pub(super) fn refuses_cursor(status: u16) -> bool {
    matches!(status, 400 | 410 | 416 | 422)
}

impl HttpRemote {
    /// The newest event; `None` when there is none yet.
    pub(super) async fn newest(&self) -> Result<Option<RemoteEvent>, RemoteError> {
        let page = self.events(&[("direction", "desc"), ("limit", "1")]).await?;
        Ok(page.into_iter().next().and_then(Message::event))
    }

    /// The next events after `cursor`, oldest first; from the first of all without one.
    pub(super) async fn events_after(
        &self,
        cursor: Option<&EventId>,
        limit: usize,
    ) -> Result<Vec<Message>, FeedError> {
        let limit = limit.min(PAGE_EVENTS).to_string();
        let mut query = vec![("direction", "asc"), ("limit", limit.as_str())];
        query.extend(cursor.map(|cursor| ("cursor", cursor.0.as_str())));
        self.events(&query).await
    }

    /// Looks for the event at `cursor`.
    pub(super) async fn witness(&self, cursor: &Cursor) -> Result<Witness, RemoteError> {
        let found = |page: Vec<Message>| {
            let mut events = page.into_iter().filter_map(Message::event);
            events.find(|event| event.id == cursor.id).map(|event| event.fingerprint)
        };
        let ordinal = cursor.id.ordinal();
        // The cursor before ours usually exists, and then one event answers the question. Where it
        // does not, a server starts over from its first event or refuses the cursor.
        if let Some(ordinal) = ordinal {
            let previous =
                ordinal.checked_sub(1).filter(|n| *n > 0).map(|n| EventId(format!("evt_{n}")));
            match self.events_after(previous.as_ref(), 1).await {
                Ok(page) => {
                    if let Some(fingerprint) = found(page) {
                        return Ok(Witness::Found(fingerprint));
                    }
                }
                Err(FeedError::Cursor) => {}
                Err(FeedError::Remote(error)) => return Err(error),
            }
        }
        let mut before: Option<EventId> = None;
        for _ in 0..LOOK_BACK_PAGES {
            let limit = PAGE_EVENTS.to_string();
            let mut query = vec![("direction", "desc"), ("limit", limit.as_str())];
            query.extend(before.as_ref().map(|before| ("cursor", before.0.as_str())));
            let page = self.events(&query).await?;
            let last = page.iter().rev().find_map(|message| match message {
                Message::Event(event) => Some(event.id.clone()),
                Message::Unreadable(id) => Some(id.clone()),
                Message::Noise => None,
            });
            if let Some(fingerprint) = found(page) {
                return Ok(Witness::Found(fingerprint));
            }
            let passed =
                |last: &EventId| matches!((last.ordinal(), ordinal), (Some(a), Some(b)) if a < b);
            match last {
                Some(last) if before.as_ref() != Some(&last) && !passed(&last) => {
                    before = Some(last);
                }
                _ => return Ok(Witness::Missing),
            }
        }
        Ok(Witness::TooFarBack)
    }

    async fn events(&self, query: &[(&str, &str)]) -> Result<Vec<Message>, FeedError> {
        let url = self.transport.url("fs/events", query)?;
        let page: WireEvents = match self.transport.get_json(url, self.response_bytes_max).await? {
            Ok(page) => page,
            Err(refusal) => {
                let about_cursor = query.iter().any(|(name, _)| *name == "cursor");
                return Err(if about_cursor && refuses_cursor(refusal.status) {
                    FeedError::Cursor
                } else {
                    refusal.error().into()
                });
            }
        };
        Ok(page.events.0.into_iter().map(|item| Message::of_item(item, &self.scope)).collect())
    }
}
