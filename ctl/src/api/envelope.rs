//! The envelope around every reply, and the errors it can carry.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{ExitCode, schema};

/// A reply: `{"ok":true,"data":..,"meta":..}` or `{"ok":false,"error":..,"meta":..}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<T> {
    /// The data of a success, or the error of a failure.
    pub outcome: Result<T, ErrorBody>,
    /// Facts about the reply itself.
    pub meta: Meta,
}

impl<T> Envelope<T> {
    /// Wraps the data of a success.
    pub fn success(data: T, meta: Meta) -> Self {
        Self { outcome: Ok(data), meta }
    }

    /// Wraps an error; the schema becomes that of errors.
    pub fn failure(error: ErrorBody, meta: Meta) -> Self {
        let meta = Meta { schema: schema::ERROR.to_owned(), ..meta };
        Self { outcome: Err(error), meta }
    }

    /// Returns the HTTP status that goes with the envelope.
    pub fn http_status(&self) -> u16 {
        match &self.outcome {
            Ok(_) => 200,
            Err(error) => error.code.http_status(),
        }
    }
}

impl<T: Serialize> Serialize for Envelope<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Success<'a, T> {
            ok: bool,
            data: &'a T,
            meta: &'a Meta,
        }
        #[derive(Serialize)]
        struct Failure<'a> {
            ok: bool,
            error: &'a ErrorBody,
            meta: &'a Meta,
        }
        match &self.outcome {
            Ok(data) => Success { ok: true, data, meta: &self.meta }.serialize(serializer),
            Err(error) => Failure { ok: false, error, meta: &self.meta }.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Envelope<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        #[derive(Deserialize)]
        struct Wire {
            ok: bool,
            data: Option<Value>,
            error: Option<ErrorBody>,
            #[serde(default)]
            meta: Meta,
        }
        let wire = Wire::deserialize(deserializer)?;
        let outcome = if wire.ok {
            let data = wire.data.ok_or_else(|| D::Error::missing_field("data"))?;
            Ok(serde_json::from_value(data).map_err(D::Error::custom)?)
        } else {
            Err(wire.error.ok_or_else(|| D::Error::missing_field("error"))?)
        };
        Ok(Self { outcome, meta: wire.meta })
    }
}

/// Facts about a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Name and number of the document in `data`, such as `mountd.status/1`.
    pub schema: String,
    /// Time from the request to the reply, in milliseconds.
    pub elapsed_ms: u64,
    /// Names this request in the daemon's log; `null` when no daemon was asked.
    pub request_id: Option<String>,
    /// Version of the daemon that answered; `null` when none did.
    pub daemon_version: Option<String>,
}

impl Meta {
    /// Returns the meta of a reply that took `elapsed`, with no request id and no version.
    pub fn new(schema: &str, elapsed: Duration) -> Self {
        Self {
            schema: schema.to_owned(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            request_id: None,
            daemon_version: None,
        }
    }

    /// Sets what only a daemon knows: the id of the request and its own version.
    #[must_use]
    pub fn answered_by(mut self, request_id: &str, daemon_version: &str) -> Self {
        self.request_id = Some(request_id.to_owned());
        self.daemon_version = Some(daemon_version.to_owned());
        self
    }
}

/// What went wrong: for people in `message` and `suggestion`, for programs in `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The kind of failure.
    pub code: ErrorCode,
    /// What failed, in one sentence without a full stop.
    #[serde(default)]
    pub message: String,
    /// What a person can do about it.
    #[serde(default)]
    pub suggestion: Option<String>,
    /// Commands that may help, most likely first.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Whether the same request can succeed later with nothing changed by the caller.
    #[serde(default)]
    pub retryable: bool,
    /// Further facts, named per code.
    #[serde(default)]
    pub details: Map<String, Value>,
}

impl ErrorBody {
    /// Returns an error with the code's own `retryable`, and neither suggestion nor details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            suggestion: None,
            actions: Vec::new(),
            retryable: code.is_retryable(),
            details: Map::new(),
        }
    }

    /// Sets what a person can do about it.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds a command that may help.
    #[must_use]
    pub fn action(mut self, command: impl Into<String>) -> Self {
        self.actions.push(command.into());
        self
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// The kinds of failure; append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// No daemon answers on the socket.
    DaemonUnavailable,
    /// The request, a flag or a value in it is not valid.
    InvalidArgument,
    /// Several mounts fit and the command acts on one.
    MountAmbiguous,
    /// No such route, mount, record or conflict.
    NotFound,
    /// The route exists, but not for this HTTP method.
    MethodNotAllowed,
    /// The caller may not do this.
    NotPermitted,
    /// A wait ended before the work did.
    TimedOut,
    /// The mount is not in a state that allows this.
    IllegalTransition,
    /// The daemon does not speak the version the caller asked for.
    VersionIncompatible,
    /// The answer on the socket is not one of this API.
    BadReply,
    /// The daemon failed; its log has more under the request id.
    Internal,
    /// The daemon is draining or unmounting and takes no further requests of this kind.
    ShuttingDown,
    /// A code this program does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Returns the code as it is spelled in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DaemonUnavailable => "DAEMON_UNAVAILABLE",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::MountAmbiguous => "MOUNT_AMBIGUOUS",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::TimedOut => "TIMED_OUT",
            Self::IllegalTransition => "ILLEGAL_TRANSITION",
            Self::VersionIncompatible => "VERSION_INCOMPATIBLE",
            Self::BadReply => "BAD_REPLY",
            Self::Internal => "INTERNAL",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Returns the HTTP status of a reply with this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::MountAmbiguous => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::IllegalTransition => 409,
            Self::VersionIncompatible => 426,
            Self::Internal | Self::Unknown => 500,
            Self::BadReply => 502,
            Self::DaemonUnavailable | Self::ShuttingDown => 503,
            Self::TimedOut => 504,
        }
    }

    /// Returns what `mountctl` ends with.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::DaemonUnavailable => ExitCode::NotRunning,
            Self::InvalidArgument | Self::MountAmbiguous => ExitCode::Usage,
            Self::NotPermitted => ExitCode::NotPermitted,
            Self::NotFound => ExitCode::NotFound,
            Self::TimedOut => ExitCode::TimedOut,
            Self::MethodNotAllowed
            | Self::IllegalTransition
            | Self::VersionIncompatible
            | Self::BadReply
            | Self::Internal
            | Self::ShuttingDown
            | Self::Unknown => ExitCode::Failure,
        }
    }

    /// Returns whether the same request can succeed later with nothing changed by the caller.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::DaemonUnavailable | Self::TimedOut | Self::ShuttingDown)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
