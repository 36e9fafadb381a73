//! How files, folders and events look in JSON.
//!
//! What an extension adds is left out when it is off, exactly as on a server without it.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::config::Extensions;
use crate::paths;
use crate::store::model::{Event, File, Folder, revision_text};
use crate::store::tree::Entry;

/// The fields extensions add to files.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Extras {
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<String>,
}

impl Extras {
    pub(crate) fn of_file(file: &File, extensions: Extensions) -> Self {
        Self {
            byte_size: extensions.exact_size.then_some(file.byte_size),
            mode: file.mode.filter(|_| extensions.metadata),
            mtime: file.mtime.clone().filter(|_| extensions.metadata),
            symlink_target: file.symlink.clone().filter(|_| extensions.symlink),
        }
    }

    fn of_event(event: &Event, extensions: Extensions) -> Self {
        Self {
            byte_size: event.byte_size.filter(|_| extensions.exact_size),
            mode: event.mode.filter(|_| extensions.metadata),
            mtime: event.mtime.clone().filter(|_| extensions.metadata),
            symlink_target: event.symlink.clone().filter(|_| extensions.symlink),
        }
    }
}

/// A line of `/fs/tree`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TreeEntry {
    pub(crate) path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    property_count: i64,
    #[serde(skip_serializing_if = "is_zero")]
    relation_count: i64,
    #[serde(skip_serializing_if = "is_zero")]
    permission_count: i64,
    #[serde(skip_serializing_if = "is_zero")]
    comment_count: i64,
    #[serde(skip_serializing_if = "is_false")]
    explicit: bool,
    #[serde(flatten)]
    extras: Extras,
}

impl TreeEntry {
    pub(crate) fn new(entry: Entry, extensions: Extensions) -> Self {
        match entry {
            Entry::File(file) => Self::file(*file, extensions),
            Entry::Folder(folder) => Self::folder(folder, extensions),
        }
    }

    fn file(file: File, extensions: Extensions) -> Self {
        let semantics = file.semantics.as_deref().map(semantics_value).unwrap_or_default();
        let count = |name: &str| {
            let size = match &semantics[name] {
                Value::Array(list) => list.len(),
                Value::Object(map) => map.len(),
                _ => 0,
            };
            i64::try_from(size).unwrap_or(i64::MAX)
        };
        Self {
            kind: "file",
            revision: revision_text(file.revision),
            content_hash: Some(hex(&file.hash)),
            provider: Some(paths::provider(&file.path)),
            size: file.stored_size,
            updated_at: Some(rfc3339(file.edited_at)),
            property_count: count("properties"),
            relation_count: count("relations"),
            permission_count: count("permissions"),
            comment_count: count("comments"),
            explicit: false,
            extras: Extras::of_file(&file, extensions),
            path: file.path,
        }
    }

    fn folder(folder: Folder, extensions: Extensions) -> Self {
        let explicit = folder.explicit && extensions.directories;
        Self {
            path: folder.path,
            kind: "dir",
            revision: "dir".to_owned(),
            content_hash: None,
            provider: None,
            size: 0,
            updated_at: None,
            property_count: 0,
            relation_count: 0,
            permission_count: 0,
            comment_count: 0,
            explicit,
            extras: Extras { mode: folder.mode.filter(|_| explicit), ..Extras::default() },
        }
    }
}

/// A line of `/fs/query`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QueryItem {
    path: String,
    revision: String,
    content_type: String,
    provider: String,
    size: i64,
    last_edited_at: String,
    semantics: Value,
    #[serde(flatten)]
    extras: Extras,
}

impl QueryItem {
    pub(crate) fn new(file: File, extensions: Extensions) -> Self {
        Self {
            revision: revision_text(file.revision),
            provider: paths::provider(&file.path),
            size: file.stored_size,
            last_edited_at: rfc3339(file.edited_at),
            semantics: file.semantics.as_deref().map_or_else(empty_object, semantics_value),
            extras: Extras::of_file(&file, extensions),
            content_type: file.content_type,
            path: file.path,
        }
    }
}

/// A whole file but for its content, which follows as the last field.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileHead<'f> {
    path: &'f str,
    revision: String,
    content_hash: String,
    content_type: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    provider: String,
    last_edited_at: String,
    semantics: Box<RawValue>,
    #[serde(flatten)]
    extras: Extras,
}

/// Returns the JSON object of a file up to the opening quote of its content.
pub(crate) fn file_head(file: &File, extensions: Extensions) -> String {
    let semantics = file.semantics.clone().unwrap_or_else(|| "{}".to_owned());
    let head = FileHead {
        path: &file.path,
        revision: revision_text(file.revision),
        content_hash: hex(&file.hash),
        content_type: &file.content_type,
        encoding: file.base64.then_some("base64"),
        provider: paths::provider(&file.path),
        last_edited_at: rfc3339(file.edited_at),
        semantics: RawValue::from_string(semantics).unwrap_or_default(),
        extras: Extras::of_file(file, extensions),
    };
    let mut text = serde_json::to_string(&head).unwrap_or_default();
    text.pop();
    text.push_str(",\"content\":\"");
    text
}

/// A line of `/fs/export?directories=true` that is a folder.
pub(crate) fn export_folder(folder: Folder) -> String {
    let entry = TreeEntry::folder(folder, Extensions::all());
    serde_json::to_string(&entry).unwrap_or_default()
}

/// An entry of the feed, with the content it announces when that travels along.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    event_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    origin: &'static str,
    provider: String,
    correlation_id: String,
    timestamp: String,
    #[serde(flatten)]
    extras: Extras,
    #[serde(flatten)]
    pub(crate) inline: Option<Inline>,
}

/// The content of a file inside a feed frame.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inline {
    pub(crate) content_type: String,
    pub(crate) content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoding: Option<&'static str>,
    pub(crate) inline_content: bool,
}

impl EventView {
    pub(crate) fn new(event: &Event, extensions: Extensions) -> Self {
        Self {
            event_id: event_text(event.id),
            kind: event.kind.name(),
            path: event.path.clone(),
            revision: revision_text(event.revision),
            content_hash: event.hash.as_ref().map(hex),
            origin: "agent_write",
            provider: paths::provider(&event.path),
            correlation_id: event.correlation.clone(),
            timestamp: rfc3339(event.at),
            extras: Extras::of_event(event, extensions),
            inline: None,
        }
    }
}

/// Formats an event number as clients see it.
pub(crate) fn event_text(id: i64) -> String {
    format!("evt_{id}")
}

/// Formats a digest in lower-case hexadecimal.
pub(crate) fn hex(hash: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn semantics_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| empty_object())
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}
