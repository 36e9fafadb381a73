//! Peers that redirect, cut, drip, flood and lie.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::credential::Credential;
use super::super::http::HttpRemote;
use super::super::{Capabilities, FeedItem, Outcome, Remote as _, RemoteError};
use super::file_put;
use super::support::{TOKEN, config, path, put_entry};
use crate::revision::Precondition;

/// Answers every connection with these bytes, then closes or stays silent.
async fn peer(reply: String, stay: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The head is enough, and so is any TLS; no body here fills a socket buffer.
            while request.first() != Some(&0x16)
                && !request.windows(4).any(|four| four == b"\r\n\r\n")
            {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            drop(stream.write_all(reply.as_bytes()).await);
            if stay {
                kept.push(stream);
            } else {
                drop(stream.shutdown().await);
            }
        }
    });
    address
}

fn remote_at(address: SocketAddr) -> HttpRemote {
    let mut config = config(address, Credential::new(Some(TOKEN.to_owned().into())));
    config.request_timeout = Duration::from_secs(2);
    config.response_bytes_max = 4096;
    HttpRemote::new(config).unwrap()
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn list_error(reply: String, stay: bool) -> RemoteError {
    remote_at(peer(reply, stay).await).list(None).await.unwrap_err()
}

/// Wherever a redirect leads, to another host, port or scheme or round in a circle, it is not
/// followed, whatever was asked; what the address holds beside the host is not repeated.
#[tokio::test]
async fn redirects_are_not_followed_and_name_only_the_host() {
    let hits = Arc::new(AtomicUsize::new(0));
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let elsewhere = format!("http://{}/x?token=abc", other.local_addr().unwrap());
    let counter = Arc::clone(&hits);
    tokio::spawn(async move {
        while other.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    for (status, location, host) in [
        (302, "https://evil.example/x?token=abc", "evil.example"),
        (301, elsewhere.as_str(), "127.0.0.1"),
        (307, "/v1/workspaces/ws%20one/fs/tree", "127.0.0.1"),
        (308, "ftp://u:abc@evil.example/", "evil.example"),
        (303, "?abc", "127.0.0.1"),
        (300, "data:abc,", "an unnamed host"),
    ] {
        let reply =
            format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let remote = Arc::new(remote_at(peer(reply, false).await));
        let target = std::env::temp_dir().join("never-made");
        let errors = [
            remote.list(None).await.unwrap_err(),
            remote.newest_event().await.unwrap_err(),
            remote.export(9).await.unwrap_err(),
            remote.bulk(&[put_entry("/a", b"x")]).await.unwrap_err(),
            remote.fetch_to(&path("/a"), &target, 9).await.unwrap_err(),
            remote.delete(&path("/a"), Precondition::Absent).await.unwrap_err(),
        ];
        for error in errors {
            let RemoteError::Untrusted { message } = error else { panic!("followed: {error}") };
            assert!(message.contains(host) && !message.contains("abc"), "{message}");
        }
        let (out, mut items) = mpsc::channel(8);
        tokio::spawn(Arc::clone(&remote).feed(None, Arc::default(), out));
        let Some(FeedItem::Down { reason }) = items.recv().await else { panic!("followed") };
        assert!(reason.contains(host) && !reason.contains("abc"), "{reason}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0, "the other port was visited");
}

/// A byte now and then keeps no request alive: there is a deadline for the whole.
#[tokio::test]
async fn a_reply_that_drips_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let remote = remote_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut n = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            n += 1;
            let head = n % 2 == 1;
            tokio::spawn(async move {
                let start = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
                let body = if head { "" } else { "Content-Length: 4000\r\n\r\n" };
                let mut next = format!("{start}{body}").into_bytes();
                let drip = if head { b"X: y\r\n".to_vec() } else { b" ".to_vec() };
                while stream.write_all(&next).await.is_ok() {
                    next.clone_from(&drip);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    for _ in 0..2 {
        let asked = tokio::time::timeout(Duration::from_secs(20), remote.list(None)).await;
        let error = asked.expect("given up").unwrap_err();
        let unknown = matches!(error, RemoteError::Unreachable { maybe_applied: true, .. });
        assert!(unknown, "{error:?}");
    }
}

/// A name that cannot be resolved is a connection that cannot be made: nothing was sent.
#[tokio::test]
async fn a_name_without_an_address_is_out_of_reach() {
    let mut config =
        config(([127, 0, 0, 1], 1).into(), Credential::new(Some(TOKEN.to_owned().into())));
    config.base = url::Url::parse("https://no-such-host.invalid/").unwrap();
    config.request_timeout = Duration::from_secs(10);
    let error = HttpRemote::new(config).unwrap().list(None).await.unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn silent_and_cut_replies_end() {
    let slow = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{";
    for (reply, stay) in [("", true), (slow, true), (slow, false), ("", false)] {
        let error = list_error(reply.into(), stay).await;
        let unknown = matches!(error, RemoteError::Unreachable { maybe_applied: true, .. });
        assert!(unknown, "{reply:?} {stay}: {error:?}");
    }
}

#[tokio::test]
async fn replies_over_their_bound_or_not_json_are_garbled() {
    let long = format!(r#"{{"path":"{}"}}"#, "x".repeat(5000));
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n{}\r\n0\r\n\r\n",
        " ".repeat(0x2000)
    );
    let deep = "[".repeat(4000);
    for reply in [ok(&long), chunked, ok("<html>"), ok(&deep)] {
        let error = list_error(reply, false).await;
        assert!(matches!(error, RemoteError::Garbled { .. }), "{error:?}");
    }
    let circle = r#"{"entries":[],"nextCursor":"/a"}"#;
    assert!(matches!(list_error(ok(circle), false).await, RemoteError::Garbled { .. }));
}

#[tokio::test]
async fn a_refused_connection_changed_nothing_and_shows_no_token() {
    let address = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let remote = remote_at(address);
    let error = remote.bulk(&[put_entry("/a", b"x")]).await.unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { maybe_applied: false, .. }), "{error:?}");
    assert!(!remote.reachable().await);
    assert!(!format!("{error:?} {remote:?}").contains(TOKEN));
}

#[tokio::test]
async fn a_peer_without_tls_is_not_trusted_as_one_with() {
    let address = peer("HTTP/1.1 400 Bad Request\r\n\r\n".into(), false).await;
    let mut config = config(address, Credential::new(Some(TOKEN.to_owned().into())));
    config.base = url::Url::parse(&format!("https://{address}/")).unwrap();
    let remote = HttpRemote::new(config).unwrap();
    let error = remote.list(None).await.unwrap_err();
    assert!(matches!(error, RemoteError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn statuses_become_what_to_do() {
    let reply = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n";
    let RemoteError::Busy { status: 429, retry_after, .. } = list_error(reply.into(), false).await
    else {
        panic!("not busy")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(60)));
    let reply = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n".to_owned();
    let remote = remote_at(peer(reply, false).await);
    let error = remote.bulk(&[put_entry("/a", b"x")]).await.unwrap_err();
    assert_eq!(error, RemoteError::TooLarge);
    let page = "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>".to_owned();
    let remote = remote_at(peer(page, false).await);
    assert!(matches!(remote.fetch(&path("/a"), 9).await, Err(RemoteError::Gone { .. })));
    assert_eq!(remote.export(9).await, Ok(None));
}

#[tokio::test]
async fn lies_about_content_and_batches_are_found() {
    let hash = "0".repeat(64);
    let body =
        format!(r#"{{"path":"/a","revision":"rev_1","contentHash":"{hash}","content":"x"}}"#);
    let remote = remote_at(peer(ok(&body), false).await);
    let error = remote.fetch(&path("/a"), 100).await.unwrap_err();
    assert!(matches!(error, RemoteError::Garbled { .. }), "{error:?}");
    let remote = remote_at(peer(ok(r#"{"written":1}"#), false).await);
    assert_eq!(remote.bulk(&[put_entry("/a", b"x")]).await, Ok(vec![Outcome::Unknown]));
}

/// Where other bytes arrive than were sent, and the file is as it was, the way is to blame.
#[tokio::test]
async fn bytes_that_change_on_the_way_are_no_change_of_the_file() {
    let body = r#"{"code":"digest_mismatch","message":"other bytes"}"#;
    let length = body.len();
    let reply = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\n\r\n{body}");
    let remote = remote_at(peer(reply, false).await);
    remote.set_capabilities(Capabilities { raw: true, ..Capabilities::default() });
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("f");
    std::fs::write(&source, b"sent").unwrap();
    let at = path("/a");
    let put = file_put(&at, &source, b"sent", Precondition::Absent);
    let error = remote.put(put).await.unwrap_err();
    assert!(matches!(error, RemoteError::Garbled { .. }), "{error:?}");
    let put = file_put(&at, &source, b"said", Precondition::Absent);
    assert_eq!(remote.put(put).await, Err(RemoteError::Changed));
}

/// An object that lacks what was asked for is a reply to something else, not an empty one: no file is empty,
/// no history gone and no tree bare because of it.
#[tokio::test]
async fn a_reply_to_something_else_is_no_empty_answer() {
    fn garbled<T>(reply: &Result<T, RemoteError>) -> bool {
        matches!(reply, Err(RemoteError::Garbled { .. }))
    }
    for body in ["{}", r#"{"code":"ok","message":"hello"}"#] {
        let remote = remote_at(peer(ok(body), false).await);
        assert!(garbled(&remote.fetch(&path("/a"), 1000).await), "{body}");
        assert!(garbled(&remote.list(None).await), "{body}");
        assert!(garbled(&remote.newest_event().await), "{body}");
        assert!(garbled(&remote.capabilities().await), "{body}");
        let unknown = remote.delete(&path("/a"), Precondition::Absent).await;
        assert_eq!(unknown, Ok(Outcome::Unknown), "{body}");
        remote.set_capabilities(Capabilities { raw: true, ..Capabilities::default() });
        assert!(garbled(&remote.fetch(&path("/a"), 1000).await), "{body}");
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        assert!(garbled(&remote.fetch_to(&path("/a"), &target, 1000).await), "{body}");
    }
}
