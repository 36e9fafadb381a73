//! The client over real HTTP: against the workspace server, with and without its extensions, and
//! against peers that misbehave.

mod feed;
mod hostile;
mod support;

use super::http::HttpRemote;
use super::*;
use support::{Host, content, path, put_entry, revision_of};

/// Runs a test against both kinds of server.
async fn on_both(test: impl AsyncFn(&Host, Arc<HttpRemote>)) {
    for extensions in [workspaced::Extensions::none(), workspaced::Extensions::all()] {
        let host = Host::start(extensions).await;
        let remote = host.remote("/").await;
        test(&host, remote).await;
    }
}

fn file_put<'a>(
    path: &'a WsPath,
    source: &'a Path,
    body: &[u8],
    precondition: Precondition,
) -> FilePut<'a> {
    FilePut {
        path,
        source,
        size: u64::try_from(body.len()).unwrap(),
        digest: Digest::of(body),
        precondition,
        metadata: Metadata::default(),
        identity: "file-put",
    }
}

#[tokio::test]
async fn what_was_put_in_bulk_is_listed_exported_and_fetched() {
    on_both(async |_, remote| {
        let binary: &[u8] = b"\0\xff\x01";
        let entries = [put_entry("/a/b.txt", b"hello <&>\n"), put_entry("/c+ d\u{e9}%", binary)];
        let outcomes = remote.bulk(&entries).await.unwrap();
        let revisions: Vec<_> = outcomes.iter().map(revision_of).collect();
        let listed = remote.list(None).await.unwrap();
        assert_eq!(listed.next, None);
        let exported = remote.export(1 << 20).await.unwrap().unwrap();
        for (index, entry) in entries.iter().enumerate() {
            let BulkChange::Put { body, .. } = &entry.change else { unreachable!() };
            let in_list = content(&listed, &entry.path).unwrap();
            assert_eq!(in_list.revision, revisions[index]);
            assert_eq!(in_list.digest, Some(Digest::of(body)));
            let in_export = content(&exported, &entry.path).unwrap();
            assert_eq!(in_export.body.as_ref(), Some(body));
            let fetched = remote.fetch(&entry.path, 1 << 20).await.unwrap().unwrap();
            assert_eq!(fetched.body.as_ref(), Some(body));
            assert_eq!(fetched.revision, revisions[index]);
            let short = remote.fetch(&entry.path, 1).await.unwrap().unwrap();
            assert_eq!((short.body, short.revision), (None, revisions[index].clone()));
        }
        assert_eq!(remote.fetch(&path("/absent"), 1).await, Ok(None));
        assert_eq!(remote.export(10).await, Ok(None));
        assert!(remote.reachable().await);
    })
    .await;
}

#[tokio::test]
async fn preconditions_are_kept_by_every_way_of_writing() {
    on_both(async |_, remote| {
        let entry = put_entry("/a", b"1");
        let first = revision_of(&remote.bulk(std::slice::from_ref(&entry)).await.unwrap()[0]);
        // The same once more is answered from memory; another change with the same base is not.
        let again = remote.bulk(std::slice::from_ref(&entry)).await.unwrap();
        assert_eq!(again, [Outcome::Accepted { revision: first.clone() }]);
        let other = BulkEntry { identity: "other".into(), ..entry };
        let stale = Outcome::Conflict { current: first.clone() };
        let refused = remote.bulk(&[other]).await.unwrap();
        assert_eq!(refused.first(), Some(&stale));

        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("f");
        std::fs::write(&source, b"two").unwrap();
        let at = path("/a");
        let absent = file_put(&at, &source, b"two", Precondition::Absent);
        assert_eq!(remote.put(absent).await, Ok(stale.clone()));
        let base = Precondition::Match(first.clone().unwrap());
        let second = remote.put(file_put(&at, &source, b"two", base.clone())).await.unwrap();
        let second = revision_of(&second);
        let moved_on = Outcome::Conflict { current: second.clone() };
        assert_eq!(remote.delete(&at, base.clone()).await, Ok(moved_on));
        let gone = remote.delete(&at, Precondition::Match(second.unwrap())).await.unwrap();
        assert!(matches!(gone, Outcome::Accepted { revision: Some(_) }), "{gone:?}");
        assert_eq!(remote.delete(&at, base.clone()).await, Ok(Outcome::Absent));
        let lost = Outcome::Conflict { current: None };
        let mut late = file_put(&at, &source, b"two", base);
        late.identity = "late";
        assert_eq!(remote.put(late).await, Ok(lost));
    })
    .await;
}

#[tokio::test]
async fn a_name_that_bulk_would_trim_is_put_whole() {
    on_both(async |_, remote| {
        let entry = BulkEntry { identity: "sp".into(), ..put_entry("/sp ", b"x") };
        let outcome = remote.bulk(std::slice::from_ref(&entry)).await.unwrap().remove(0);
        let unsupported =
            matches!(&outcome, Outcome::Refused { code, .. } if code == "unsupported");
        // What is not refused was stored under its whole name, so it is there to be replaced.
        let condition = if unsupported {
            Precondition::Absent
        } else {
            Precondition::Match(revision_of(&outcome).unwrap())
        };
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("f");
        std::fs::write(&source, b"\0x").unwrap();
        let mut put = file_put(&entry.path, &source, b"\0x", condition);
        put.identity = "later";
        let stored = remote.put(put).await.unwrap();
        assert!(revision_of(&stored).is_some());
        let target = folder.path().join("g");
        let file = remote.fetch_to(&entry.path, &target, u64::MAX).await.unwrap().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"\0x");
        assert_eq!(file.size, Size::Exact(2));
    })
    .await;
}

#[tokio::test]
async fn large_files_stream_and_a_stale_one_is_a_conflict() {
    let host = Host::start(workspaced::Extensions::all()).await;
    let remote = host.remote("/").await;
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("f"), folder.path().join("g"));
    let body: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(&source, &body).unwrap();
    let at = path("/large");
    let stored = remote.put(file_put(&at, &source, &body, Precondition::Absent)).await.unwrap();
    let file = remote.fetch_to(&at, &target, u64::MAX).await.unwrap().unwrap();
    assert_eq!(
        (file.revision.clone(), file.digest),
        (revision_of(&stored), Some(Digest::of(&body)))
    );
    assert!(std::fs::read(&target).unwrap() == body);
    let mut late = file_put(&at, &source, &body, Precondition::Absent);
    late.identity = "late";
    assert_eq!(remote.put(late).await, Ok(Outcome::Conflict { current: file.revision }));
}

#[tokio::test]
async fn a_file_that_changed_while_it_was_sent_is_not_stored() {
    on_both(async |_, remote| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("f");
        let at = path("/a");
        for now in [&b"new"[..], b"n"] {
            std::fs::write(&source, now).unwrap();
            let put = file_put(&at, &source, b"old", Precondition::Absent);
            let error = remote.put(put).await.unwrap_err();
            assert_eq!(error, RemoteError::Changed);
        }
        assert_eq!(remote.fetch(&at, 10).await, Ok(None));
        let missing = folder.path().join("missing");
        let put = file_put(&at, &missing, b"old", Precondition::Absent);
        assert!(matches!(remote.put(put).await, Err(RemoteError::Local { .. })));
    })
    .await;
}

#[tokio::test]
async fn the_mounted_root_is_all_there_is() {
    on_both(async |host, whole| {
        whole.bulk(&[put_entry("/r/s/a", b"1"), put_entry("/r/sx", b"2")]).await.unwrap();
        let remote = host.remote("/r/s").await;
        let listed = remote.list(None).await.unwrap();
        assert_eq!((listed.entries.len(), listed.skipped.len()), (1, 0));
        assert!(content(&listed, &path("/a")).is_some());
        let mine = put_entry("/b", b"3");
        assert!(revision_of(&remote.bulk(&[mine]).await.unwrap()[0]).is_some());
        assert!(whole.fetch(&path("/r/s/b"), 10).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn long_listings_come_in_pages() {
    let host = Host::start(workspaced::Extensions::none()).await;
    let remote = host.remote("/").await;
    let entries: Vec<_> = (0..2500).map(|n| put_entry(&format!("/d/{n:05}"), b"x")).collect();
    for batch in entries.chunks(1000) {
        remote.bulk(batch).await.unwrap();
    }
    let (mut cursor, mut files, mut pages) = (None, 0, 0);
    loop {
        let page = remote.list(cursor.as_deref()).await.unwrap();
        files += page.entries.iter().filter(|e| matches!(e, RemoteEntry::File(_))).count();
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((files, pages), (2500, 3));
}

#[tokio::test]
async fn extensions_travel_where_they_are_offered() {
    let host = Host::start(workspaced::Extensions::all()).await;
    let remote = host.remote("/").await;
    let mtime = Timestamp::from_second(7).unwrap();
    let mut entry = put_entry("/a", b"target");
    if let BulkChange::Put { metadata, .. } = &mut entry.change {
        *metadata =
            Metadata { mode: Some(0o755), mtime: Some(mtime), symlink: Some("target".into()) };
    }
    let first = revision_of(&remote.bulk(&[entry]).await.unwrap()[0]).unwrap();
    let file = remote.fetch(&path("/a"), 100).await.unwrap().unwrap();
    assert_eq!(file.metadata.mode, Some(0o755));
    assert_eq!(file.metadata.mtime, Some(mtime));
    assert_eq!(file.metadata.symlink.as_deref(), Some("target"));
    assert_eq!(file.size, Size::Exact(6));
    let change = |at: &str, change| BulkEntry { path: path(at), identity: at.into(), change };
    let outcomes = remote
        .bulk(&[
            change(
                "/b",
                BulkChange::Move {
                    from: path("/a"),
                    from_precondition: Precondition::Match(first),
                    precondition: Precondition::Absent,
                },
            ),
            change("/e", BulkChange::MakeDir { mode: Some(0o700) }),
            change("/no", BulkChange::Delete { precondition: Precondition::Absent }),
            change("/gone", BulkChange::RemoveDir),
        ])
        .await
        .unwrap();
    assert!(matches!(outcomes[0], Outcome::Accepted { revision: Some(_) }), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Accepted { .. }), "{outcomes:?}");
    assert_eq!(outcomes[2..], [Outcome::Absent, Outcome::Absent]);
    for page in [remote.list(None).await.unwrap(), remote.export(1 << 20).await.unwrap().unwrap()] {
        let dir = RemoteEntry::Dir { path: path("/e"), explicit: true, mode: Some(0o700) };
        assert!(page.entries.contains(&dir), "{page:?}");
        assert!(content(&page, &path("/b")).is_some());
    }
}

#[tokio::test]
async fn a_date_is_no_condition_for_a_server_that_ignores_it() {
    let host = Host::start(workspaced::Extensions::none()).await;
    let remote = host.remote("/").await;
    let condition = Precondition::UnmodifiedSince(Timestamp::UNIX_EPOCH);
    let outcome = remote.delete(&path("/a"), condition.clone()).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused { .. }));
    let change = BulkChange::Put {
        body: Bytes::new(),
        precondition: condition,
        metadata: Metadata::default(),
    };
    let entry = BulkEntry { path: path("/a"), identity: "k".into(), change };
    assert!(matches!(remote.bulk(&[entry]).await.unwrap()[0], Outcome::Refused { .. }));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_a_new_one_is_taken_up() {
    let host = Host::start(workspaced::Extensions::all()).await;
    let (remote, credential) = host.remote_and_credential("/").await;
    credential.replace(Some("wrong".to_owned().into()));
    let error = remote.list(None).await.unwrap_err();
    assert!(matches!(error, RemoteError::Auth { .. }), "{error:?}");
    credential.replace(Some(support::TOKEN.to_owned().into()));
    assert!(remote.list(None).await.is_ok());
}
