//! The table of errnos, in words and in code.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use mountd::engine::fetch::FetchError;
use mountd::engine::local::LocalError;
use mountd::fs::FsError;
use mountd::fuse::errno::errno;
use mountd::path::PathError;
use mountd::remote::RemoteError;
use mountd::store::StoreError;

use super::reading::{leading_name, read, root};

/// The table of errnos in `docs/semantics.md` is what `src/fuse/errno.rs` does: each failure is in
/// the row of its errno, and no row is about anything else.
#[test]
fn the_errno_table_is_what_the_code_does() {
    let semantics = read(&root().join("docs/semantics.md"));
    let documented: BTreeSet<(String, String)> = rows_of(&semantics, "| errno | failure |")
        .into_iter()
        .flat_map(|row| {
            let errno = row[0].clone();
            let failures: Vec<String> = row[1].split(", ").map(str::to_owned).collect();
            failures.into_iter().map(move |failure| (errno.clone(), failure))
        })
        .collect();
    let actual: BTreeSet<(String, String)> = failures()
        .iter()
        .map(|failure| {
            let number = errno(failure).code();
            let name = format!("{:?}", nix::errno::Errno::from_raw(number));
            // The two names of one number.
            let name = if name == "EOPNOTSUPP" { "ENOTSUP".to_owned() } else { name };
            (format!("`{name}`"), format!("`{}`", label(failure)))
        })
        .collect();
    let missing: Vec<_> = actual.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&actual).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "missing {missing:?}\nwrong {wrong:?}");

    let direct: BTreeSet<String> =
        rows_of(&semantics, "| errno | call |").into_iter().map(|row| row[0].clone()).collect();
    let edge: String = ["src/fuse.rs", "src/fuse/replies.rs", "src/fuse/requests.rs"]
        .iter()
        .map(|file| read(&root().join(file)))
        .collect();
    let given: BTreeSet<String> = edge
        .split("Errno::")
        .skip(1)
        .map(leading_name)
        .filter(|name| name.starts_with('E'))
        .map(|name| format!("`{name}`"))
        .collect();
    assert_eq!(direct, given, "errnos that src/fuse.rs and what is below give by themselves");
}

/// One of each failure that a call can end with.
fn failures() -> Vec<FsError> {
    let text = String::new;
    let remote = |error: RemoteError| FsError::Fetch(FetchError::Remote(error));
    let path = |error: PathError| FsError::Local(LocalError::BadName(error));
    vec![
        LocalError::NotFound.into(),
        LocalError::Stale.into(),
        LocalError::Exists.into(),
        LocalError::NotADirectory.into(),
        LocalError::IsADirectory.into(),
        LocalError::NotEmpty.into(),
        LocalError::InvalidMove.into(),
        LocalError::CrossesBorder.into(),
        LocalError::NoAttribute.into(),
        LocalError::NotPermitted.into(),
        LocalError::NoRoom.into(),
        LocalError::ReadOnly.into(),
        path(PathError::NotAbsolute),
        path(PathError::Dots),
        path(PathError::TooLong),
        path(PathError::BadCharacter),
        path(PathError::NotUtf8),
        StoreError::Full.into(),
        StoreError::Newer { found: 2, known: 1 }.into(),
        StoreError::Damaged(text()).into(),
        StoreError::Failed(text()).into(),
        StoreError::Gone(text()).into(),
        StoreError::Closed.into(),
        remote(RemoteError::Unreachable { message: text(), maybe_applied: false }),
        remote(RemoteError::Busy { status: 503, message: text(), retry_after: None }),
        remote(RemoteError::Auth { message: text() }),
        remote(RemoteError::Forbidden { message: text() }),
        remote(RemoteError::Gone { message: text() }),
        remote(RemoteError::TooLarge),
        remote(RemoteError::Invalid { message: text() }),
        remote(RemoteError::OtherServer { message: text() }),
        remote(RemoteError::Untrusted { message: text() }),
        remote(RemoteError::Garbled { message: text() }),
        remote(RemoteError::Changed),
        remote(RemoteError::Local { message: text() }),
        FsError::Fetch(FetchError::Gone),
        FsError::Fetch(FetchError::Disk(text())),
        FsError::Fetch(FetchError::Full),
        FsError::Disk(ErrorKind::StorageFull),
        FsError::Disk(ErrorKind::QuotaExceeded),
        FsError::Disk(ErrorKind::FileTooLarge),
        FsError::Disk(ErrorKind::WouldBlock),
        FsError::Disk(ErrorKind::Other),
        FsError::Damaged,
        FsError::BadHandle,
        FsError::WrongKind,
        FsError::PastEnd,
        FsError::NotSupported,
    ]
}

/// How the table calls a failure. No wildcard: a new one must be given a name, and with it a row.
fn label(failure: &FsError) -> String {
    match failure {
        FsError::Local(LocalError::BadName(error)) => format!("BadName::{error:?}"),
        FsError::Local(
            error @ (LocalError::NotFound
            | LocalError::Stale
            | LocalError::Exists
            | LocalError::NotADirectory
            | LocalError::IsADirectory
            | LocalError::NotEmpty
            | LocalError::InvalidMove
            | LocalError::CrossesBorder
            | LocalError::NoAttribute
            | LocalError::NotPermitted
            | LocalError::NoRoom
            | LocalError::ReadOnly),
        ) => format!("{error:?}"),
        FsError::Store(StoreError::Full) => "Store::Full".to_owned(),
        FsError::Store(StoreError::Newer { .. }) => "Store::Newer".to_owned(),
        FsError::Store(StoreError::Damaged(_)) => "Store::Damaged".to_owned(),
        FsError::Store(StoreError::Failed(_)) => "Store::Failed".to_owned(),
        FsError::Store(StoreError::Gone(_)) => "Store::Gone".to_owned(),
        FsError::Store(StoreError::Closed) => "Store::Closed".to_owned(),
        FsError::Fetch(FetchError::Gone) => "Fetch::Gone".to_owned(),
        FsError::Fetch(FetchError::Disk(_)) => "Fetch::Disk".to_owned(),
        FsError::Fetch(FetchError::Full) => "Fetch::Full".to_owned(),
        FsError::Fetch(FetchError::Remote(error)) => {
            let kind = match error {
                RemoteError::Unreachable { .. } => "Unreachable",
                RemoteError::Busy { .. } => "Busy",
                RemoteError::Auth { .. } => "Auth",
                RemoteError::Forbidden { .. } => "Forbidden",
                RemoteError::Gone { .. } => "Gone",
                RemoteError::TooLarge => "TooLarge",
                RemoteError::Invalid { .. } => "Invalid",
                RemoteError::OtherServer { .. } => "OtherServer",
                RemoteError::Untrusted { .. } => "Untrusted",
                RemoteError::Garbled { .. } => "Garbled",
                RemoteError::Changed => "Changed",
                RemoteError::Local { .. } => "Local",
            };
            format!("Remote::{kind}")
        }
        FsError::Disk(kind) => format!("Disk::{kind:?}"),
        FsError::Damaged => "Damaged".to_owned(),
        FsError::BadHandle => "BadHandle".to_owned(),
        FsError::WrongKind => "WrongKind".to_owned(),
        FsError::PastEnd => "PastEnd".to_owned(),
        FsError::NotSupported => "NotSupported".to_owned(),
    }
}

/// The rows of the table under the header that starts with `header`, cell by cell.
fn rows_of(text: &str, header: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(header));
    assert!(lines.next().is_some(), "docs/semantics.md has no table `{header}`");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}
