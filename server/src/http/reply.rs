//! Replies: JSON bodies, and failures in the one shape every client knows.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::auth::Denied;
use crate::store::StoreError;

/// A request that is not served, and what the client is told.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    fields: Map<String, Value>,
    retry_after_s: Option<i64>,
    close: bool,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("code".to_owned(), code.into());
        fields.insert("message".to_owned(), message.into());
        Self { status, fields, retry_after_s: None, close: false }
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "route not found")
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "file not found")
    }

    pub(crate) fn cursor_unknown() -> Self {
        Self::new(
            StatusCode::GONE,
            "cursor_unknown",
            "the cursor is not in this workspace's feed; list the workspace again",
        )
    }

    pub(crate) fn too_large() -> Self {
        let mut failure = Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            "request body exceeds configured limit",
        );
        failure.close = true;
        failure
    }

    /// Adds a field to the body.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: i64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Closes the connection after the reply, because part of the request was not read.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) fn into_response(mut self, correlation: &str) -> Response<Body> {
        self.fields.insert("correlationId".to_owned(), correlation.into());
        let mut response = json_reply(self.status, &self.fields);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthorized(message) => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            }
            Denied::Forbidden(message) => Self::new(StatusCode::FORBIDDEN, "forbidden", &message),
            Denied::Unavailable(message) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // The commit that failed has been logged once already, for all of its requests.
        if !matches!(error, StoreError::Commit(_)) {
            tracing::error!(%error, "request failed");
        }
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server could not read or save; see its log",
        )
    }
}

/// Returns a reply with a JSON body.
pub(crate) fn json_reply(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    // Every body is made of strings, numbers and lists, so encoding cannot fail.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
