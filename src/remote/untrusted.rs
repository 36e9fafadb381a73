//! What a server sends, read as the client reads it, from whatever bytes there are: one function for
//! each kind, for tests that make bytes up. Each panics when something comes through that must not.

use std::time::Duration;

use bytes::Bytes;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::check;
use super::classify::{Refusal, retry_after};
use super::credential::Credential;
use super::encode::{bulk_body, encoded_len, sendable};
use super::events::Message;
use super::scope::{Place, Scope};
use super::transport::parse;
use super::wire::{WireBulk, WireCapabilities, WireEvents, WireFile, WireTree};
use super::{
    BulkChange, BulkEntry, Capabilities, EventChange, Metadata, RemoteEntry, Skipped, bulk,
};
use crate::path::{WsPath, check_name};
use crate::revision::{Precondition, Revision};

fn scope() -> Scope {
    Scope::new(WsPath::parse("/r").unwrap_or_else(|_| WsPath::root()))
}

fn check_path(path: &WsPath) {
    assert!(path.as_str().starts_with('/'), "{path:?}");
    assert!(path.names().all(|name| check_name(name).is_ok()), "{path:?}");
}

fn check_entry(entry: &RemoteEntry) {
    match entry {
        RemoteEntry::Dir { path, .. } => check_path(path),
        RemoteEntry::File(file) => check_path(&file.path),
    }
}

/// A path on the first line and a content: what is sent is that path and that content, within the
/// length that was announced for it.
pub fn bulk_request(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = bytes.split_at(at);
    let Some(path) = std::str::from_utf8(line).ok().and_then(|text| WsPath::parse(text).ok())
    else {
        return;
    };
    let content = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let entry = BulkEntry {
        path: path.clone(),
        identity: "key".to_owned(),
        change: BulkChange::Put {
            body: content.clone(),
            precondition: Precondition::Absent,
            metadata: Metadata::default(),
        },
    };
    let offered = Capabilities::default();
    if path.is_root() || sendable(&entry, offered).is_err() {
        return;
    }
    let Ok(sent) = bulk_body(&[&entry], &scope(), offered) else { panic!("{path:?} is not sent") };
    let length = u64::try_from(sent.len()).unwrap_or(u64::MAX);
    assert!(length <= encoded_len(&entry, &scope()) + 16, "{length} bytes");
    let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
    let file = &sent["files"][0];
    let text = |name: &str| file[name].as_str().unwrap_or_default();
    let read = match text("encoding") {
        "base64" => STANDARD.decode(text("content")).unwrap_or_default(),
        _ => text("content").as_bytes().to_vec(),
    };
    assert!(read == content, "the content is not what was sent");
    match scope().place(text("path")) {
        Place::Inside(there) => assert_eq!(there, path),
        // So deep that it would not come back either.
        Place::TooDeep => {}
        place @ (Place::Root | Place::Outside | Place::Bad(_)) => panic!("{path:?} is {place:?}"),
    }
}

/// A token: what it says of itself is read, it is in no text, and it goes out whole or not at all.
pub fn credential(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let token = text.trim().to_owned();
    let credential = Credential::new(Some(Zeroizing::new(text)));
    drop(credential.claims());
    let shown = format!("{credential:?}");
    assert_eq!(shown == "Credential(none)", token.is_empty(), "{shown}");
    match credential.header() {
        Ok(header) => {
            let sent = header.as_ref().map(|header| header.as_bytes().to_vec());
            let whole = (!token.is_empty()).then(|| format!("Bearer {token}").into_bytes());
            assert_eq!(sent, whole);
            assert!(header.is_none_or(|header| header.is_sensitive()));
        }
        Err(error) => {
            // A word of the sentence is no secret.
            let (sentence, text) = ("the token holds characters no header can carry", error);
            assert!(sentence.contains(&token) || !text.to_string().contains(&token), "{text}");
        }
    }
}

/// The reply to a request with three changes: each has one outcome.
pub fn bulk_reply(bytes: &[u8]) {
    let entry = |name: &str| BulkEntry {
        path: WsPath::root().join(name).unwrap_or_else(|_| WsPath::root()),
        identity: format!("key/{name}"),
        change: BulkChange::Put {
            body: Bytes::new(),
            precondition: Precondition::Absent,
            metadata: Metadata::default(),
        },
    };
    let entries = ["a", "b", "c"].map(entry);
    let entries: Vec<&BulkEntry> = entries.iter().collect();
    if let Ok(reply) = parse::<WireBulk>(bytes) {
        assert_eq!(bulk::outcomes(&entries, &scope(), reply).len(), entries.len());
    }
}

/// A frame of the change stream, and a page of events: what they name is inside the mount.
pub fn events(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(Message::Event(event)) = Message::of_frame(text, &scope())
    {
        match event.change {
            Some(EventChange::Stored(file)) => check_path(&file.path),
            Some(
                EventChange::Deleted { path, .. }
                | EventChange::DirCreated { path }
                | EventChange::DirDeleted { path },
            ) => check_path(&path),
            None => {}
        }
    }
    drop(parse::<WireEvents>(bytes));
}

/// A page of a listing: sorted, each name once, all inside the mount.
pub fn listing(bytes: &[u8]) {
    let Ok(page) = parse::<WireTree>(bytes) else { return };
    let (entries, skipped) = check::listing(page.entries.0, &scope());
    entries.iter().for_each(check_entry);
    let paths: Vec<&WsPath> = entries
        .iter()
        .map(|entry| match entry {
            RemoteEntry::Dir { path, .. } => path,
            RemoteEntry::File(file) => &file.path,
        })
        .collect();
    assert!(paths.is_sorted(), "{paths:?}");
    assert!(paths.windows(2).all(|pair| pair[0] != pair[1]), "{paths:?}");
    for Skipped { name, .. } in skipped {
        assert!(name.len() <= 4096, "{}", name.len());
    }
}

/// One file, and what a server offers.
pub fn single_replies(bytes: &[u8]) {
    if let Ok(wire) = parse::<WireFile>(bytes) {
        let (file, _) = check::file(WsPath::root(), wire);
        if let (Some(body), Some(digest)) = (&file.body, file.digest) {
            assert_eq!(crate::digest::Digest::of(body), digest, "bytes that are not those named");
        }
    }
    drop(parse::<WireCapabilities>(bytes));
}

/// A refusal: a status and a body. People are shown short, plain text.
pub fn refusal(bytes: &[u8]) {
    let (status, body) = bytes.split_at(bytes.len().min(2));
    let status = status.iter().fold(0, |status, byte| status * 256 + u16::from(*byte));
    let refusal = Refusal::new(status % 1000, body, None);
    let text = refusal.error().to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let conditions =
        [Precondition::Absent].into_iter().chain(Revision::new("rev_1").map(Precondition::Match));
    for condition in conditions {
        for is_delete in [false, true] {
            drop(refusal.outcome(&condition, is_delete));
        }
    }
}

/// `Retry-After` and `Date`, a line each: the wait is bounded.
pub fn retry_headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (value, date) = text.split_once('\n').unwrap_or((&text, ""));
    let wait = retry_after(Some(value), Some(date));
    assert!(wait.is_none_or(|wait| wait <= Duration::from_hours(1)), "{wait:?}");
}
