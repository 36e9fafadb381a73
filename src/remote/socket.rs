//! The WebSocket of the feed.
//!
//! The upgrade goes through the same HTTP client as every other request, so that trust roots,
//! refused redirects and the missing proxy are the same. The token travels in the query as well,
//! because one kind of server reads it only there; addresses are therefore never part of an error.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::classify;
use super::credential::Credential;
use super::events::{FeedError, refuses_cursor};
use super::http::HttpRemote;
use super::{EventId, RemoteError};

/// Longest frame: 1 MiB of inline content, six times as long when every character is escaped, and
/// room around it.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a ping may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a stream starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum From<'a> {
    /// After this event.
    Cursor(&'a EventId),
    /// With the first event to come.
    Now,
    /// Wherever the server likes; what is missing is read by HTTP.
    Any,
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A JSON text.
    Text(String),
    /// A sign of life.
    Sign,
    /// The end, with its reason.
    End(String),
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Box<WebSocketStream<Upgraded>>,
    /// What must not be shown of what the server says.
    credential: Credential,
}

impl HttpRemote {
    /// Opens the stream; `filters` limit it to paths.
    pub(super) async fn open_socket(
        &self,
        from: From<'_>,
        filters: &[String],
    ) -> Result<Socket, FeedError> {
        let token = self.transport.credential().token();
        let mut query = Vec::new();
        query.extend(token.as_ref().map(|token| ("token", token.as_str())));
        match from {
            From::Cursor(id) => query.push(("cursor", id.0.as_str())),
            From::Now => query.push(("from", "now")),
            From::Any => {}
        }
        query.extend(filters.iter().map(|filter| ("path", filter.as_str())));
        let key = generate_key();
        let request = self
            .transport
            .request(Method::GET, self.transport.url("fs/ws", &query)?)?
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let reply = self.transport.send(request, self.transport.timeout()).await?;
        if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
            let refusal = self.transport.refusal(reply).await;
            let about_cursor = matches!(from, From::Cursor(_)) && refuses_cursor(refusal.status);
            return Err(if about_cursor { FeedError::Cursor } else { refusal.error().into() });
        }
        let accept = reply.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            let message = "the server does not speak WebSocket".into();
            return Err(RemoteError::Garbled { message }.into());
        }
        let upgraded = reply.upgrade().await.map_err(classify::transport)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let credential = self.transport.credential().clone();
        Ok(Socket { stream: Box::new(stream), credential })
    }
}

impl Socket {
    /// The next arrival.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Arrival {
        match self.stream.next().await {
            Some(Ok(Frame::Text(text))) => Arrival::Text(text.as_str().to_owned()),
            Some(Ok(Frame::Binary(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {
                Arrival::Sign
            }
            Some(Ok(Frame::Close(Some(close)))) => {
                let code = u16::from(close.code);
                let mut reason = close.reason.as_str().to_owned();
                self.credential.mask(&mut reason);
                let reason = classify::for_people(&reason);
                Arrival::End(format!("the server closed the stream ({code} {reason})"))
            }
            Some(Ok(Frame::Close(None))) | None => {
                Arrival::End("the server closed the stream".into())
            }
            Some(Err(error)) => Arrival::End(classify::for_people(&error.to_string())),
        }
    }

    /// Asks the server for a sign of life; `false` when that cannot even be written.
    pub(super) async fn ping(&mut self) -> bool {
        let ping = self.stream.send(Frame::Ping(bytes::Bytes::new()));
        matches!(timeout(WRITE_TIMEOUT, ping).await, Ok(Ok(())))
    }
}
