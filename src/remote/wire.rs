//! The JSON that a server sends, read leniently: absent, null or odd members never fail a page.
//!
//! Lists are taken apart value by value, so that one entry that cannot be read is one entry that is
//! left out. Nothing here is trusted yet; `check` turns it into the seam's types. Invariant: what is
//! read takes no more memory than the text that it was read from, and a list no more entries than
//! its bound; members of a wrong kind are passed over, never built. Pure; no I/O.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

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

/// One page of `/fs/tree`. An object without entries is none.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireTree {
    pub(super) entries: List<Item<WireFile>, 100_000>,
    #[serde(default)]
    pub(super) next_cursor: Option<String>,
    #[serde(default, deserialize_with = "number")]
    pub(super) total_files: Option<u64>,
}

/// One page of `/fs/events`. An object without events is none: it would read as an empty history.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireEvents {
    pub(super) events: List<Item<WireEvent>, 1000>,
}

/// An event: the file it is about, and what it has beside that.
#[derive(Debug, Clone, Default)]
pub(super) struct WireEvent {
    pub(super) event_id: String,
    pub(super) timestamp: String,
    pub(super) inline_content: bool,
    /// `type` is the kind of the event here.
    pub(super) file: WireFile,
}

impl<'de> Deserialize<'de> for WireEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Head {
            #[serde(deserialize_with = "text")]
            event_id: String,
            #[serde(deserialize_with = "text")]
            timestamp: String,
            #[serde(deserialize_with = "flag")]
            inline_content: bool,
        }
        // One object read twice: serde's own way to flatten keeps every unknown member in memory.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let wrong = serde::de::Error::custom::<serde_json::Error>;
        let Head { event_id, timestamp, inline_content } =
            serde_json::from_str(text).map_err(wrong)?;
        let file = serde_json::from_str(text).map_err(wrong)?;
        Ok(Self { event_id, timestamp, inline_content, file })
    }
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
    pub(super) results: List<WireResult, 10_000>,
    pub(super) errors: List<WireError, 10_000>,
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

/// The reply to `/v1/capabilities`. An object without a list of them is some other reply.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WireCapabilities {
    pub(super) capabilities: List<Item<String>, 1000>,
    #[serde(default)]
    pub(super) limits: WireLimits,
    #[serde(default, rename = "serverId", deserialize_with = "text")]
    pub(super) server_id: String,
}

/// The limits a server announces.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireLimits {
    #[serde(deserialize_with = "number")]
    pub(super) max_body_bytes: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub(super) max_raw_bytes: Option<u64>,
}

/// A list of at most `MAX` values; a longer one is an error, found before the rest is read. Null is
/// the empty one.
#[derive(Debug, Clone)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} values")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    if values.len() == MAX {
                        return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                    }
                    values.push(value);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_any(Bounded::<T, MAX>(PhantomData)).map(Self)
    }
}

/// One value of a list.
#[derive(Debug, Clone)]
pub(super) enum Item<T> {
    /// As it should be.
    Read(T),
    /// It cannot be read.
    Bad(Bad),
}

/// What can be told of a value that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bad {
    /// The path in it.
    pub(super) path: Option<String>,
    /// The id of an event in it.
    pub(super) event_id: Option<String>,
    /// What is wrong.
    pub(super) reason: String,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Stub {
            #[serde(deserialize_with = "text")]
            path: String,
            #[serde(deserialize_with = "text")]
            event_id: String,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let error = match serde_json::from_str(text) {
            Ok(value) => return Ok(Self::Read(value)),
            Err(error) => error,
        };
        let stub: Stub = serde_json::from_str(text).unwrap_or_default();
        let known = |text: String| (!text.is_empty()).then_some(text);
        let reason = error.to_string();
        Ok(Self::Bad(Bad { path: known(stub.path), event_id: known(stub.event_id), reason }))
    }
}

/// A value of which one kind is wanted. The others are passed over without being built: a member
/// of a wrong kind may be as long as the reply.
#[derive(Debug, Clone, PartialEq)]
enum Scalar {
    Text(String),
    Number(f64, Option<u64>),
    Flag(bool),
    Other,
}

struct Scalars;

impl<'de> Visitor<'de> for Scalars {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
        Ok(Scalar::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(0.0, Some(number)))
    }

    #[allow(clippy::cast_precision_loss, reason = "only its sign counts")]
    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number as f64, u64::try_from(number).ok()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number, None))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

/// A text; anything else reads as the empty one.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match deserializer.deserialize_any(Scalars)? {
        Scalar::Text(text) => text,
        Scalar::Number(..) | Scalar::Flag(_) | Scalar::Other => String::new(),
    })
}

/// A count, clamped to what a count can be; anything else reads as absent. What is below zero may
/// be anything: too much is corrected when the bytes come, too little would hide them.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    // Sizes stay within what a file offset can hold.
    let most = i64::MAX.unsigned_abs();
    Ok(match deserializer.deserialize_any(Scalars)? {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        Scalar::Number(number, whole) => Some(match whole {
            Some(whole) => whole.min(most),
            None if number < 0.0 => most,
            None => (number as u64).min(most),
        }),
        Scalar::Text(_) | Scalar::Flag(_) | Scalar::Other => None,
    })
}

/// A truth value; anything else reads as false.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(deserializer.deserialize_any(Scalars)? == Scalar::Flag(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply to another question is not an empty answer to this one.
    #[test]
    fn an_object_without_its_list_is_not_an_empty_list() {
        for text in ["{}", r#"{"code":"ok"}"#] {
            assert!(serde_json::from_str::<WireTree>(text).is_err(), "{text}");
            assert!(serde_json::from_str::<WireEvents>(text).is_err(), "{text}");
            assert!(serde_json::from_str::<WireCapabilities>(text).is_err(), "{text}");
        }
        assert_eq!(
            serde_json::from_str::<WireEvents>(r#"{"events":null}"#).unwrap().events.0.len(),
            0
        );
        assert_eq!(
            serde_json::from_str::<WireTree>(r#"{"entries":[]}"#).unwrap().entries.0.len(),
            0
        );
    }

    #[test]
    fn odd_members_read_as_absent() {
        let file: WireFile = serde_json::from_str(
            r#"{"path":7,"revision":null,"size":-3,"byteSize":1e300,"mode":"x","explicit":1,"new":[]}"#,
        )
        .unwrap();
        assert_eq!((file.path.as_str(), file.revision.as_str()), ("", ""));
        assert_eq!(file.size, Some(i64::MAX.unsigned_abs()));
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

    #[test]
    fn lists_end_at_their_bound_and_wrong_kinds_are_passed_over() {
        let list = |text: &str| serde_json::from_str::<List<Item<WireFile>, 2>>(text);
        assert!(list("null").unwrap().0.is_empty());
        assert_eq!(list("[{},7]").unwrap().0.len(), 2);
        assert!(list("[{},7,8").is_err(), "found at the third value");
        assert!(list("{}").is_err());
        let items =
            list(r#"[{"path":"/a","content":7},{"path":[[1],{"a":2}],"mode":{}}]"#).unwrap();
        let [Item::Bad(bad), Item::Read(file)] = &items.0[..] else { panic!("{items:?}") };
        assert_eq!((bad.path.as_deref(), bad.event_id.as_deref()), (Some("/a"), None));
        assert_eq!((file.path.as_str(), file.mode), ("", None));
        let deep = format!(r#"[{{"path":{}"#, "[".repeat(100_000));
        assert!(list(&deep).is_err());
    }
}
