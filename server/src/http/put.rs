//! Turns what clients send as content, preconditions and metadata into store terms.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::clock::{ns_of, parse_rfc3339};
use crate::config::INLINE_BYTES_MAX;
use crate::store::model::{Content, Identity, NewBody, Precondition};
use crate::store::{Store, StoreError};

/// Lenient the way clients are: padding may be missing and stray last bits are ignored.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
const MODE_MAX: u32 = 0o7777;
const SYMLINK_BYTES_MAX: usize = 4096;
const IDENTITY_BYTES_MAX: usize = 1024;
const SECOND_NS: i64 = 1_000_000_000;

/// Why content or metadata is refused; the names are the codes of bulk errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    Content,
    Encoding,
    Input,
    Path,
}

impl Invalid {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Content => "invalid_content",
            Self::Encoding => "invalid_encoding",
            Self::Input => "invalid_input",
            Self::Path => "invalid_path",
        }
    }
}

/// The bytes of a content, and whether clients see them as base64.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) base64: bool,
}

/// Decodes a content as it stands in a JSON body.
pub(crate) fn decode(content: Option<String>, encoding: Option<&str>) -> Result<Decoded, Invalid> {
    // A missing content is a mistake of the client; writing an empty file would destroy data.
    let content = content.ok_or(Invalid::Content)?;
    match encoding.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "utf-8" | "utf8" => Ok(Decoded { bytes: content.into_bytes(), base64: false }),
        "base64" => {
            let mut text = content.into_bytes();
            text.retain(|byte| !matches!(byte, b'\n' | b'\r'));
            let bytes = BASE64.decode(text).map_err(|_| Invalid::Content)?;
            Ok(Decoded { bytes, base64: true })
        }
        _ => Err(Invalid::Encoding),
    }
}

/// Returns the length of the text clients see for so many bytes.
pub(crate) fn stored_size(byte_size: i64, base64: bool) -> i64 {
    if base64 { byte_size.saturating_add(2) / 3 * 4 } else { byte_size }
}

/// Hashes contents and stages the large ones, in order. *Blocking*: none, work is handed off.
pub(crate) async fn prepare(
    store: &Store,
    contents: Vec<Decoded>,
) -> Result<Vec<Content>, StoreError> {
    let bodies = store.bodies().clone();
    let work = move || contents.into_iter().map(|decoded| prepare_one(&bodies, decoded)).collect();
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
}

fn prepare_one(
    bodies: &crate::store::bodies::Bodies,
    decoded: Decoded,
) -> Result<Content, StoreError> {
    let Decoded { bytes, base64 } = decoded;
    let byte_size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    let hash = Sha256::digest(&bytes).into();
    let body = if bytes.len() > INLINE_BYTES_MAX {
        NewBody::File(bodies.stage(&bytes)?)
    } else {
        NewBody::Inline(bytes)
    };
    Ok(Content { body, hash, base64, stored_size: stored_size(byte_size, base64), byte_size })
}

/// Reads the precondition of a bulk entry.
pub(crate) fn bulk_precondition(text: Option<&str>) -> Precondition {
    match text.unwrap_or_default().trim() {
        "" => Precondition::None,
        "0" => Precondition::Absent,
        "*" => Precondition::Any,
        revision => Precondition::Revision(revision.to_owned()),
    }
}

/// Reads an `If-Match` header, with or without the marks of an entity tag.
pub(crate) fn header_precondition(text: &str) -> Precondition {
    let text = text.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    bulk_precondition(Some(inner.unwrap_or(text)))
}

/// Reads an `If-Unmodified-Since` header: an HTTP date, or RFC 3339 for more than seconds.
///
/// An HTTP date stands for the whole second it names, as the dates in replies do.
pub(crate) fn unmodified_since_header(text: &str) -> Option<Precondition> {
    let since = if let Some(time) = parse_rfc3339(text) {
        ns_of(time)
    } else {
        let time = httpdate::parse_http_date(text.trim()).ok()?;
        let seconds = time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        i64::try_from(seconds).ok()?.saturating_mul(SECOND_NS).saturating_add(SECOND_NS - 1)
    };
    Some(Precondition::UnmodifiedSince(since))
}

/// Reads an optional string of any JSON value; absent and null are the same.
pub(crate) fn optional_text(value: Option<&Value>) -> Result<Option<String>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Invalid::Input),
    }
}

/// Reads permission bits.
pub(crate) fn mode(value: Option<&Value>) -> Result<Option<u32>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let mode = value.as_u64().and_then(|mode| u32::try_from(mode).ok());
            mode.filter(|mode| *mode <= MODE_MAX).map(Some).ok_or(Invalid::Input)
        }
    }
}

/// Reads a modification time, and spells it the one way it is stored.
pub(crate) fn mtime(value: Option<&Value>) -> Result<Option<String>, Invalid> {
    let Some(text) = optional_text(value)? else { return Ok(None) };
    parse_rfc3339(&text).map(|time| Some(time.to_string())).ok_or(Invalid::Input)
}

/// Reads the target of a symbolic link.
pub(crate) fn symlink(value: Option<&Value>) -> Result<Option<String>, Invalid> {
    let target = optional_text(value)?;
    let sound = target.as_ref().is_none_or(|target| {
        !target.is_empty() && target.len() <= SYMLINK_BYTES_MAX && !target.contains('\0')
    });
    if sound { Ok(target) } else { Err(Invalid::Input) }
}

/// The identity of a write as it stands in a JSON body.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdentityBody {
    #[serde(default)]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) key: Option<String>,
    #[serde(default)]
    pub(crate) ttl_seconds: Option<i64>,
}

impl IdentityBody {
    /// Returns `None` when the kind or the key is empty: such an identity names nothing.
    pub(crate) fn read(self) -> Result<Option<Identity>, Invalid> {
        let kind = self.kind.unwrap_or_default().trim().to_owned();
        let key = self.key.unwrap_or_default().trim().to_owned();
        if kind.len() > IDENTITY_BYTES_MAX || key.len() > IDENTITY_BYTES_MAX {
            return Err(Invalid::Input);
        }
        let named = !kind.is_empty() && !key.is_empty();
        Ok(named.then(|| Identity { kind, key, ttl_s: self.ttl_seconds.unwrap_or(0) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_leniently() {
        let read = |text: &str| decode(Some(text.to_owned()), Some("base64")).map(|d| d.bytes);
        assert_eq!(read("AAEC/w=="), Ok(vec![0, 1, 2, 255]));
        assert_eq!(read("AAEC/w"), Ok(vec![0, 1, 2, 255]));
        assert_eq!(read("AAEC\r\n/w==\n"), Ok(vec![0, 1, 2, 255]));
        assert_eq!(read("AAEC_w=="), Err(Invalid::Content));
        assert_eq!(decode(None, None).unwrap_err(), Invalid::Content);
        assert_eq!(decode(Some(String::new()), Some("x")).unwrap_err(), Invalid::Encoding);
    }

    #[test]
    fn entity_tags_are_stripped_in_headers() {
        let revision = Precondition::Revision("rev_1".to_owned());
        for text in ["rev_1", "\"rev_1\"", " W/\"rev_1\" "] {
            assert_eq!(header_precondition(text), revision, "{text}");
        }
        assert_eq!(header_precondition("*"), Precondition::Any);
        assert_eq!(
            bulk_precondition(Some("\"rev_1\"")),
            Precondition::Revision("\"rev_1\"".to_owned())
        );
    }
}
