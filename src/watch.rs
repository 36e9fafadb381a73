//! Watched files: the credential and the user's ignore rules are read again when they change.
//!
//! The one door to the `notify` crate. A watcher that cannot be had (no inotify watches left, a
//! network folder) is replaced by looking every few seconds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

/// How often a file is looked at in any case.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The longest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// Reads a small text file.
///
/// # Errors
/// When it is not there, cannot be read, is not text, or is over 1 MiB.
pub async fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(BYTES_MAX + 1).read_to_string(&mut text).await?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

/// Calls `changed` with the text of `path` each time it is another one than before; at once when it is not
/// `known` any more. Never returns.
pub async fn follow(path: PathBuf, mut known: Option<String>, changed: impl Fn(Option<String>)) {
    let event = Arc::new(Notify::new());
    let _watcher = start(&path, Arc::clone(&event));
    loop {
        let text = read(&path).await.ok();
        if text != known {
            known.clone_from(&text);
            changed(text);
        }
        // Either the watcher speaks or the interval ends; both lead to a look.
        drop(tokio::time::timeout(LOOK_INTERVAL, event.notified()).await);
    }
}

/// Watches the folder of `path`: editors replace files, and a watch on the file would go with the
/// old one.
fn start(path: &Path, event: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let folder = path.parent()?;
    let told = notify::recommended_watcher(move |told: notify::Result<notify::Event>| {
        if told.map_or(true, |told| is_change(told.kind)) {
            event.notify_one();
        }
    });
    let mut watcher = told
        .map_err(|error| tracing::warn!(%error, "files cannot be watched, looking now and then"))
        .ok()?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(|error| tracing::debug!(%error, folder = %folder.display(), "not watched"))
        .ok()?;
    Some(watcher)
}

/// Whether an event may mean another content. Looking at the file opens and reads it, which is told
/// as well: answering that with another look would never end.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    /// What changed after it was read first and before it was followed is told at once.
    #[tokio::test]
    async fn a_change_before_it_is_followed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "new").unwrap();
        let (tell, mut told) = tokio::sync::mpsc::channel(4);
        let follower = tokio::spawn(follow(path, Some("old".to_owned()), move |text| {
            drop(tell.try_send(text));
        }));
        let told = tokio::time::timeout(LOOK_INTERVAL / 2, told.recv()).await;
        assert_eq!(told.unwrap().unwrap().as_deref(), Some("new"));
        follower.abort();
    }

    #[test]
    fn looking_at_a_file_is_no_change_of_it() {
        for look in [
            AccessKind::Open(AccessMode::Any),
            AccessKind::Read,
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!is_change(EventKind::Access(look)), "{look:?}");
        }
        let written = AccessKind::Close(AccessMode::Write);
        for change in [
            EventKind::Access(written),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Any),
        ] {
            assert!(is_change(change), "{change:?}");
        }
    }
}
