//! The JSON that a server sends, read leniently: absent, null or odd members never fail a page.
//!
//! Lists are taken apart value by value, so that one entry that cannot be read is one entry that is
//! left out. Nothing here is trusted yet; `check` turns it into the seam's types. Pure; no I/O.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A tree entry, a file with content, or an object of an export: one shape, all members optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireFile {
    #[serde(deserialize_with = "text")]
    pub(super) path: String,
    #[serde(rename = "type", deserialize_with = "text")]
    pub(super) kind: String,
    #[serde(deserialize_with = "text")]
    pub(super) revision: String,
    #[serde(deserialize_with = "text")]
    pub(super) content_hash: String,
    pub(super) content: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) encoding: String,
    /// The length of the stored text, which for binary files is their base64.
    #[serde(deserialize_with = "number")]
    pub(super) size: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub(super) byte_size: Option<u64>,
    #[serde(deserialize_with = "text")]
    pub(super) updated_at: String,
    #[serde(deserialize_with = "text")]
    pub(super) last_edited_at: String,
    #[serde(deserialize_with = "flag")]
    pub(super) explicit: bool,
    #[serde(deserialize_with = "number")]
    pub(super) mode: Option<u64>,
    #[serde(deserialize_with = "text")]
    pub(super) mtime: String,
    pub(super) symlink_target: Option<String>,
}

/// One page of `/fs/tree`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireTree {
    pub(super) entries: Option<Vec<Value>>,
    pub(super) next_cursor: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) total_files: Option<u64>,
}

/// One page of `/fs/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireEvents {
    pub(super) events: Option<Vec<Value>>,
}

/// What an event has beside the file it is about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireEvent {
    #[serde(deserialize_with = "text")]
    pub(super) event_id: String,
    #[serde(deserialize_with = "text")]
    pub(super) timestamp: String,
    #[serde(deserialize_with = "flag")]
    pub(super) inline_content: bool,
    /// `type` is the kind of the event here.
    #[serde(flatten)]
    pub(super) file: WireFile,
}

/// The reply to PUT and DELETE.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireAccepted {
    #[serde(deserialize_with = "text")]
    pub(super) target_revision: String,
}

/// The reply to a bulk request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireBulk {
    pub(super) results: Option<Vec<WireResult>>,
    pub(super) errors: Option<Vec<WireError>>,
}

/// A change of a bulk request that was stored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireResult {
    #[serde(deserialize_with = "text")]
    pub(super) path: String,
    #[serde(deserialize_with = "text")]
    pub(super) revision: String,
    pub(super) content_identity: Option<WireIdentity>,
}

/// The identity a stored change was sent with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireIdentity {
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
}

/// A refusal: of a whole request, or of one change of a bulk request.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireError {
    #[serde(deserialize_with = "text")]
    pub(super) path: String,
    #[serde(deserialize_with = "text")]
    pub(super) code: String,
    #[serde(deserialize_with = "text")]
    pub(super) message: String,
    #[serde(deserialize_with = "text")]
    pub(super) current_revision: String,
}

/// The reply to `/v1/capabilities`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireCapabilities {
    pub(super) capabilities: Option<Vec<Value>>,
    pub(super) limits: WireLimits,
}

/// The limits a server announces.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireLimits {
    #[serde(deserialize_with = "number")]
    pub(super) max_body_bytes: Option<u64>,
}

/// A text; anything else reads as the empty one.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            String::new()
        }
    })
}

/// A count, clamped to what a count can be; anything else reads as absent.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    // Sizes stay within what a file offset can hold.
    let most = i64::MAX.unsigned_abs();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let number = value.as_u64().or_else(|| value.as_f64().map(|number| number as u64));
    Ok(number.map(|number| number.min(most)))
}

/// A truth value; anything else reads as false.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_bool().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_members_read_as_absent() {
        let file: WireFile = serde_json::from_str(
            r#"{"path":7,"revision":null,"size":-3,"byteSize":1e300,"mode":"x","explicit":1,"new":[]}"#,
        )
        .unwrap();
        assert_eq!((file.path.as_str(), file.revision.as_str()), ("", ""));
        assert_eq!(file.size, Some(0));
        assert_eq!(file.byte_size, Some(i64::MAX.unsigned_abs()));
        assert_eq!((file.mode, file.explicit), (None, false));
    }

    #[test]
    fn an_event_is_a_file_with_an_id() {
        let event: WireEvent = serde_json::from_str(
            r#"{"eventId":"evt_1","type":"file.created","path":"/a","byteSize":3,"inlineContent":true}"#,
        )
        .unwrap();
        assert_eq!((event.event_id.as_str(), event.file.kind.as_str()), ("evt_1", "file.created"));
        assert_eq!((event.file.byte_size, event.inline_content), (Some(3), true));
    }
}
