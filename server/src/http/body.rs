//! Reads request bodies within their limits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::reply::Failure;
use super::{App, STALL};

/// What is read and thrown away of a body that is too large, so that a client that is still
/// sending gets to see the reply.
const DISCARD_BYTES_MAX: usize = 16 << 20;
const DISCARD: Duration = Duration::from_secs(5);

/// A JSON body, and the share of the memory budget it holds.
pub(crate) struct Json<T> {
    pub(crate) value: T,
    pub(crate) budget: OwnedSemaphorePermit,
}

/// Reads a JSON body.
pub(crate) async fn json<T: DeserializeOwned>(
    app: &App,
    request: Request<Body>,
) -> Result<Json<T>, Failure> {
    let max = app.config.max_body_bytes;
    let length = announced(&request);
    let mut stream = request.into_body().into_data_stream();
    if length.is_some_and(|length| length > max as u64) {
        return Err(refuse(stream).await);
    }
    let reserve = length.map_or(max, |length| usize::try_from(length).unwrap_or(max));
    let kib = (reserve / 1024 + 1).min(super::BODY_BUDGET_KIB / 2);
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    let budget = Arc::clone(&app.body_budget).acquire_many_owned(kib).await;
    let budget = budget.map_err(|_| Failure::from(crate::store::StoreError::Closed))?;
    let mut body = Vec::with_capacity(length.map_or(0, |_| reserve));
    while let Some(chunk) = next(&mut stream).await? {
        if body.len() + chunk.len() > max {
            return Err(refuse(stream).await);
        }
        body.extend_from_slice(&chunk);
    }
    let value =
        serde_json::from_slice(&body).map_err(|_| Failure::bad_request("invalid json body"))?;
    Ok(Json { value, budget })
}

/// Returns the length the request announces for its body.
pub(crate) fn announced(request: &Request<Body>) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the next piece of a body, `None` at its end.
pub(crate) async fn next(stream: &mut BodyDataStream) -> Result<Option<bytes::Bytes>, Failure> {
    match tokio::time::timeout(STALL, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(_))) => Err(Failure::bad_request("the request body ended early").closing()),
        Err(_) => Err(Failure::bad_request("the request body stopped arriving").closing()),
    }
}

/// Returns the reply to a body that is too large.
pub(crate) async fn refuse(mut stream: BodyDataStream) -> Failure {
    let discard = async {
        let mut discarded = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            discarded += chunk.len();
            if discarded > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    tokio::time::timeout(DISCARD, discard).await.ok();
    Failure::too_large()
}
