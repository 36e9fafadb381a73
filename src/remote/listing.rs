//! The whole tree, by pages or in one export.
//!
//! The tree route looks at most 100 levels deep, so a folder at that depth is listed by itself
//! afterwards. The cursor of this client therefore says in which folder it is, after which entry,
//! and which folders are left; to callers it is opaque.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::check;
use super::http::HttpRemote;
use super::transport::Body;
use super::wire::{List, WireTree};
use super::{ListPage, RemoteEntry, RemoteError};
use crate::path::WsPath;

/// How deep one walk of the server goes.
const DEPTH_MAX: usize = 100;

/// How long the server's cursor may be: it is the path of an entry.
const CURSOR_BYTES_MAX: usize = 64 * 1024;

/// How many entries an export may hold.
const EXPORT_ENTRIES_MAX: usize = 100_000;

/// How many folders may wait to be listed by themselves.
const DEEP_FOLDERS_MAX: usize = 10_000;

/// How long their paths may be together.
const DEEP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where a listing goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The folder of this walk, below the mounted root; `None` for the root itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    under: Option<String>,
    /// The server's cursor in this walk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Folders too deep for this walk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deep: Vec<String>,
}

impl HttpRemote {
    pub(super) async fn list_page(&self, cursor: Option<&str>) -> Result<ListPage, RemoteError> {
        let stale = || RemoteError::Invalid { message: "the listing's cursor is not ours".into() };
        let mut position: Position = match cursor {
            Some(text) => serde_json::from_str(text).map_err(|_| stale())?,
            None => Position::default(),
        };
        let under = match &position.under {
            Some(text) => WsPath::parse(text).map_err(|_| stale())?,
            None => WsPath::root(),
        };
        let root = self.remote_path(&under);
        let mut query = vec![("path", root.as_str()), ("depth", "100")];
        if let Some(after) = &position.after {
            query.push(("cursor", after));
        }
        let url = self.transport.url("fs/tree", &query)?;
        let page: WireTree = match self.transport.get_json(url, self.response_bytes_max).await? {
            Ok(page) => page,
            Err(refusal) => return Err(refusal.error()),
        };
        let items = page.entries.0;
        let empty = items.is_empty();
        let (entries, skipped) = check::listing(items, &self.scope);
        position.deep.extend(deep_folders(&entries, &under));
        let deep_bytes: usize = position.deep.iter().map(String::len).sum();
        if position.deep.len() > DEEP_FOLDERS_MAX || deep_bytes > DEEP_BYTES_MAX {
            return Err(RemoteError::Garbled { message: "the tree is too deep to list".into() });
        }
        let after = page.next_cursor.filter(|after| !after.is_empty());
        let next = following(position, after, empty)?;
        let next = next.map(|next| serde_json::to_string(&next)).transpose();
        let next = next.map_err(|error| RemoteError::Garbled { message: error.to_string() })?;
        // The total counts what lies below the asked path, so it is right for the first walk only.
        let total_files = page.total_files.filter(|_| under.is_root());
        Ok(ListPage { entries, skipped, next, total_files })
    }

    pub(super) async fn export_all(&self, bytes_max: u64) -> Result<Option<ListPage>, RemoteError> {
        let mut query = vec![("format", "json"), ("path", self.scope.root().as_str())];
        if self.offered().directories {
            query.push(("directories", "true"));
        }
        let request =
            self.transport.request(Method::GET, self.transport.url("fs/export", &query)?)?;
        let reply = match self.transport.ask(request, self.transport.timeout()).await? {
            Ok(reply) => reply,
            // Not offered, too large or too busy for it: the paged listing is the way then.
            Err(refusal) if matches!(refusal.status, 400 | 404 | 405 | 413 | 429 | 501) => {
                return Ok(None);
            }
            Err(refusal) => return Err(refusal.error()),
        };
        let Ok(Body::Whole(bytes)) = self.transport.body(reply, bytes_max).await else {
            return Ok(None);
        };
        let Ok(List(items)) = serde_json::from_slice::<List<_, EXPORT_ENTRIES_MAX>>(&bytes) else {
            return Ok(None);
        };
        drop(bytes);
        let (entries, skipped) = check::listing(items, &self.scope);
        let files = entries.iter().filter(|entry| matches!(entry, RemoteEntry::File(_))).count();
        let total_files = u64::try_from(files).ok();
        Ok(Some(ListPage { entries, skipped, next: None, total_files }))
    }
}

/// The folders at the lowest level that a walk from `under` shows, which it does not look into.
fn deep_folders(entries: &[RemoteEntry], under: &WsPath) -> Vec<String> {
    let lowest = under.names().count() + DEPTH_MAX;
    let deep = |entry: &RemoteEntry| match entry {
        RemoteEntry::Dir { path, .. } if path.names().count() >= lowest => Some(path.to_string()),
        RemoteEntry::Dir { .. } | RemoteEntry::File(_) => None,
    };
    entries.iter().filter_map(deep).collect()
}

/// The position after a page. A server's cursor is the path of the page's last entry, so it must
/// grow; one that does not would go round for ever.
fn following(
    mut position: Position,
    after: Option<String>,
    empty: bool,
) -> Result<Option<Position>, RemoteError> {
    match after {
        Some(after) => {
            let goes_back = position.after.as_ref().is_some_and(|before| after <= *before);
            if empty || goes_back || after.len() > CURSOR_BYTES_MAX {
                let message = "the listing goes round in circles".into();
                return Err(RemoteError::Garbled { message });
            }
            position.after = Some(after);
            Ok(Some(position))
        }
        None => Ok(position.deep.pop().map(|under| Position {
            under: Some(under),
            after: None,
            deep: position.deep,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_must_grow() {
        let at = |after: &str| Position { after: Some(after.into()), ..Position::default() };
        assert_eq!(following(at("/a"), Some("/b".into()), false), Ok(Some(at("/b"))));
        for same in ["/a", "/A"] {
            assert!(following(at("/a"), Some(same.into()), false).is_err());
        }
        assert!(following(Position::default(), Some("/a".into()), true).is_err());
        assert_eq!(following(at("/a"), None, true), Ok(None));
    }

    #[test]
    fn folders_below_the_deepest_level_are_walked_by_themselves() {
        let deep = WsPath::parse(&"/d".repeat(DEPTH_MAX)).unwrap();
        let dir =
            |path: &WsPath| RemoteEntry::Dir { path: path.clone(), explicit: false, mode: None };
        let entries = [dir(&WsPath::parse("/d/d").unwrap()), dir(&deep)];
        let folders = deep_folders(&entries, &WsPath::root());
        assert_eq!(folders, [deep.to_string()]);
        assert!(deep_folders(&entries, &WsPath::parse("/d").unwrap()).is_empty());
        let position = Position { deep: folders, ..Position::default() };
        let next = following(position, None, false).unwrap().unwrap();
        assert_eq!((next.under, next.deep.len()), (Some(deep.to_string()), 0));
    }
}
