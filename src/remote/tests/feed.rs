//! The feed against the workspace server: catching up, going on after breaks, gaps and resets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, mpsc};
use workspaced::{Auth, Before, Extensions, Interceptor, RequestHead};

use super::super::http::HttpRemote;
use super::super::{
    Cursor, EventChange, EventId, FeedItem, FeedMode, Remote as _, RemoteError, RemoteEvent,
};
use super::support::{self, Host, path, put_entry};

struct Running {
    items: mpsc::Receiver<FeedItem>,
    wake: Arc<Notify>,
}

impl Running {
    fn start(remote: &Arc<HttpRemote>, start: Option<Cursor>) -> Self {
        let (out, items) = mpsc::channel(64);
        let wake = Arc::new(Notify::new());
        tokio::spawn(Arc::clone(remote).feed(start, Arc::clone(&wake), out));
        Self { items, wake }
    }

    async fn next(&mut self) -> FeedItem {
        self.items.recv().await.unwrap()
    }

    /// The next event; the stream may go down and up before it.
    async fn event(&mut self) -> RemoteEvent {
        loop {
            match self.next().await {
                FeedItem::Event(event) => return event,
                FeedItem::Live(_) | FeedItem::Down { .. } => self.wake.notify_one(),
                other @ (FeedItem::Gap { .. } | FeedItem::Reset { .. }) => panic!("{other:?}"),
            }
        }
    }
}

fn stored(event: &RemoteEvent) -> (&str, Option<&[u8]>) {
    match &event.change {
        Some(EventChange::Stored(file)) => (file.path.as_str(), file.body.as_deref()),
        other => panic!("not stored: {other:?}"),
    }
}

fn cursor(event: &RemoteEvent) -> Cursor {
    Cursor { id: event.id.clone(), fingerprint: Some(event.fingerprint.clone()) }
}

#[tokio::test]
async fn without_a_start_everything_is_listed_first() {
    for extensions in [Extensions::none(), Extensions::all()] {
        let host = Host::start(extensions).await;
        let remote = host.remote("/").await;
        let mut feed = Running::start(&remote, None);
        assert_eq!(feed.next().await, FeedItem::Gap { tail: None });
        assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
        remote.bulk(&[put_entry("/a", b"one"), put_entry("/b", b"\0")]).await.unwrap();
        let first = feed.event().await;
        assert_eq!(stored(&first), ("/a", Some(&b"one"[..])));
        assert_eq!(stored(&feed.event().await), ("/b", Some(&b"\0"[..])));
        let newest = remote.newest_event().await.unwrap();
        let mut later = Running::start(&remote, None);
        assert_eq!(later.next().await, FeedItem::Gap { tail: newest });
    }
}

#[tokio::test]
async fn a_known_cursor_goes_on_where_it_stopped() {
    for extensions in [Extensions::none(), Extensions::all()] {
        let host = Host::start(extensions).await;
        let remote = host.remote("/").await;
        let mut feed = Running::start(&remote, None);
        feed.next().await;
        remote.bulk(&[put_entry("/a", b"1")]).await.unwrap();
        let seen = feed.event().await;
        drop(feed);
        remote.bulk(&[put_entry("/b", b"2"), put_entry("/c", b"3")]).await.unwrap();
        let mut feed = Running::start(&remote, Some(cursor(&seen)));
        assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
        assert_eq!(stored(&feed.event().await).0, "/b");
        assert_eq!(stored(&feed.event().await).0, "/c");
        // A broken socket loses nothing.
        host.feeds.disconnect_all();
        remote.bulk(&[put_entry("/d", b"4")]).await.unwrap();
        assert_eq!(stored(&feed.event().await).0, "/d");
    }
}

#[tokio::test]
async fn another_history_is_a_reset() {
    for extensions in [Extensions::none(), Extensions::all()] {
        let host = Host::start(extensions).await;
        let remote = host.remote("/").await;
        let ahead = Cursor { id: EventId("evt_900".into()), fingerprint: None };
        let other = Cursor { id: EventId("evt_1".into()), fingerprint: Some("/z@rev_9".into()) };
        remote.bulk(&[put_entry("/a", b"1")]).await.unwrap();
        let newest = remote.newest_event().await.unwrap();
        let mut feed = Running::start(&remote, Some(other));
        assert_eq!(feed.next().await, FeedItem::Reset { tail: newest.clone() });
        assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
        // A cursor beyond the end is refused by one kind of server and ignored by the other.
        let mut feed = Running::start(&remote, Some(ahead));
        let item = feed.next().await;
        let gap = FeedItem::Gap { tail: newest.clone() };
        assert!(item == gap || item == FeedItem::Reset { tail: newest }, "{item:?}");
    }
}

#[tokio::test]
async fn a_dead_server_is_reported_once_and_a_new_one_is_found() {
    // Servers that do not say who they are: only the history tells.
    let mut nameless = Extensions::all();
    nameless.server_id = false;
    let host = Host::start(nameless).await;
    let remote = host.remote("/").await;
    remote.bulk(&[put_entry("/a", b"1")]).await.unwrap();
    let mut feed = Running::start(&remote, None);
    feed.next().await;
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
    let address = host.stop().await;
    assert!(matches!(feed.next().await, FeedItem::Down { .. }));
    // The same address with an empty history.
    let host = Host::start_with(address, |_| {}).await;
    feed.wake.notify_one();
    let item = feed.next().await;
    let lost = matches!(item, FeedItem::Reset { tail: None } | FeedItem::Gap { tail: None });
    assert!(lost, "{item:?}");
    assert!(matches!(feed.next().await, FeedItem::Live(_)));
    assert!(host.requests.count("GET", "/fs/ws") > 0);
}

/// Another server in the place of the one that said who it is tells the feed nothing at all, and takes
/// nothing.
#[tokio::test]
async fn another_server_tells_the_feed_nothing() {
    let host = Host::start(Extensions::all()).await;
    let remote = host.remote("/").await;
    remote.bulk(&[put_entry("/a", b"1")]).await.unwrap();
    let mut feed = Running::start(&remote, None);
    feed.next().await;
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
    let address = host.stop().await;
    assert!(matches!(feed.next().await, FeedItem::Down { .. }));
    let other = Host::start_with(address, |_| {}).await;
    while other.requests.recent().len() < 3 {
        feed.wake.notify_one();
        tokio::task::yield_now().await;
    }
    assert!(other.requests.recent().iter().all(|request| request.status == 421));
    assert!(feed.items.try_recv().is_err(), "nothing was heard");
    let answer = remote.capabilities().await.unwrap().server;
    assert!(answer.is_some() && answer != remote.offered().server, "asked, it says who it is");
    let refused = remote.bulk(&[put_entry("/b", b"2")]).await;
    assert!(matches!(refused, Err(RemoteError::OtherServer { .. })), "{refused:?}");
}

#[tokio::test]
async fn events_outside_the_mounted_root_only_move_the_cursor() {
    let host = Host::start(Extensions::all()).await;
    let whole = host.remote("/").await;
    let remote = host.remote("/r").await;
    let mut feed = Running::start(&remote, None);
    feed.next().await;
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
    whole.bulk(&[put_entry("/x", b"1"), put_entry("/r/y", b"2")]).await.unwrap();
    assert_eq!(feed.event().await.change, None);
    assert_eq!(stored(&feed.event().await), ("/y", Some(&b"2"[..])));
    assert_eq!(whole.fetch(&path("/r/y"), 9).await.unwrap().unwrap().path, path("/r/y"));
}

/// Refuses the socket until it is told otherwise.
struct NoSocket(Arc<AtomicBool>);

impl Interceptor for NoSocket {
    fn before(&self, request: &RequestHead) -> Before {
        if request.route == "/fs/ws" && self.0.load(Ordering::Relaxed) {
            Before::Reply { status: 503, headers: Vec::new(), body: String::new() }
        } else {
            Before::Pass
        }
    }
}

#[tokio::test]
async fn without_a_socket_events_are_asked_for_and_the_socket_is_tried_again() {
    let blocked = Arc::new(AtomicBool::new(true));
    let interceptor = Arc::new(NoSocket(Arc::clone(&blocked)));
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let host = Host::start_with(anywhere, |config| config.interceptor = Some(interceptor)).await;
    let remote = host.remote("/").await;
    let mut feed = Running::start(&remote, None);
    feed.next().await;
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::Polling));
    remote.bulk(&[put_entry("/a", b"1")]).await.unwrap();
    feed.wake.notify_one();
    let event = feed.event().await;
    // Pages of events bring no content.
    assert_eq!(stored(&event), ("/a", None));
    blocked.store(false, Ordering::Relaxed);
    feed.wake.notify_one();
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
    remote.bulk(&[put_entry("/b", b"2")]).await.unwrap();
    assert_eq!(stored(&feed.event().await), ("/b", Some(&b"2"[..])));
}

#[tokio::test]
async fn a_token_for_the_mounted_folder_alone_follows_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, support::scoped_tokens()).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let host = Host::start_with(anywhere, |config| config.auth = Auth::TokenFile(tokens)).await;
    let whole = host.remote("/").await;
    let (remote, credential) = host.remote_and_credential("/r").await;
    credential.replace(Some(support::SCOPED_TOKEN.to_owned().into()));
    let mut feed = Running::start(&remote, None);
    assert_eq!(feed.next().await, FeedItem::Gap { tail: None });
    assert_eq!(feed.next().await, FeedItem::Live(FeedMode::WebSocket));
    whole.bulk(&[put_entry("/x", b"1"), put_entry("/r/y", b"2")]).await.unwrap();
    let event = feed.event().await;
    assert_eq!(stored(&event), ("/y", Some(&b"2"[..])));
    // What happened during a break cannot be known, so everything is listed again.
    host.feeds.disconnect_all();
    assert!(matches!(feed.next().await, FeedItem::Down { .. }));
    feed.wake.notify_one();
    assert_eq!(feed.next().await, FeedItem::Gap { tail: Some(event.id) });
}

/// Refuses the first request of the feed with a wait.
#[derive(Debug, Default)]
struct AsksToWait(AtomicBool);

impl Interceptor for AsksToWait {
    fn before(&self, request: &RequestHead) -> Before {
        if !request.route.starts_with("/fs/") || self.0.swap(true, Ordering::Relaxed) {
            return Before::Pass;
        }
        let headers = vec![("Retry-After".into(), "2".into())];
        Before::Reply { status: 429, headers, body: String::new() }
    }
}

/// What the server asks for is a floor for the feed as well, whatever wakes it.
#[tokio::test]
async fn the_wait_that_the_server_names_is_kept() {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let edge = Arc::new(AsksToWait::default());
    let host = Host::start_with(anywhere, |config| config.interceptor = Some(edge)).await;
    let remote = host.remote("/").await;
    let mut feed = Running::start(&remote, None);
    assert!(matches!(feed.next().await, FeedItem::Down { .. }));
    feed.wake.notify_one();
    while feed.next().await != FeedItem::Live(FeedMode::WebSocket) {}
    let requests = host.requests.recent();
    let first = requests.iter().position(|request| request.status == 429).unwrap();
    let waited = requests[first + 1].at_ms - requests[first].at_ms;
    assert!(waited >= 2000, "{waited} ms: {requests:#?}");
}
