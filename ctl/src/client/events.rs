//! The event stream of one daemon.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::time;

use super::{Client, ClientError, sse::Parser};
use crate::api::{Event, route};

/// Events as they arrive.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    body: Incoming,
    parser: Parser,
    ready: VecDeque<String>,
}

impl EventStream {
    /// Returns the next event as it came and as this program understands it; `None` at the end.
    ///
    /// *Cancel safety*: an event is lost only if it was returned.
    ///
    /// # Errors
    ///
    /// When the stream breaks or is not one of this API.
    pub async fn next(&mut self) -> Result<Option<(Value, Event)>, ClientError> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                let raw: Value =
                    serde_json::from_str(&data).map_err(|error| self.client.bad_reply(&error))?;
                let event = serde_json::from_value(raw.clone())
                    .map_err(|error| self.client.bad_reply(&error))?;
                return Ok(Some((raw, event)));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| self.client.bad_reply(&error))?;
            if let Some(bytes) = frame.data_ref() {
                let messages = self
                    .parser
                    .push(bytes)
                    .map_err(|_| self.client.bad_reply("an event is longer than 1 MiB"))?;
                self.ready.extend(messages);
            }
        }
    }
}

pub(super) async fn open(
    client: &Client,
    follow: bool,
    within: Duration,
) -> Result<EventStream, ClientError> {
    let query = if follow { "?follow=true" } else { "" };
    let path = format!("{}{query}", route::EVENTS);
    let mut pid = None;
    let begin = async {
        let response = client.send(Method::GET, &path, Bytes::new(), &mut pid).await?;
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if is_stream {
            return Ok(response.into_body());
        }
        let reply = client.read_reply::<Value>(response).await?;
        Err(client.bad_reply(&format!("{} instead of a stream", reply.envelope.meta.schema)))
    };
    let body = match time::timeout(within, begin).await {
        Ok(body) => body?,
        Err(_) => return Err(client.timed_out(within, pid)),
    };
    let ready = VecDeque::new();
    Ok(EventStream { client: client.clone(), body, parser: Parser::default(), ready })
}
