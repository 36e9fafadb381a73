//! The way from one mount to the server: real sockets on both sides, and trouble in between.
//!
//! Reads HTTP/1.1 only as far as it must to find where a message ends, and WebSocket frames only as
//! far as it must to repeat one. What is not troubled passes byte for byte.

mod frames;
mod message;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::message::{Stream, answer};
use crate::story::Trouble;

/// A proxy; gone when its runtime is.
pub struct Proxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

struct Shared {
    state: Mutex<State>,
    /// Bumped whenever the troubles change.
    changed: watch::Sender<u64>,
}

struct State {
    upstream: SocketAddr,
    troubles: Vec<(u64, Trouble)>,
    next: u64,
    rng: SmallRng,
    hits: BTreeMap<String, u64>,
}

impl Proxy {
    /// Starts one on a port of its own.
    pub fn start(runtime: &tokio::runtime::Runtime, upstream: SocketAddr, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        let state = State { upstream, troubles: Vec::new(), next: 0, rng, hits: BTreeMap::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) });
        let listener = runtime.block_on(own_listener());
        let addr = listener.local_addr().unwrap();
        runtime.spawn(serve(Arc::clone(&shared), listener, addr));
        Self { shared, addr }
    }

    /// Where the mount finds it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server came back somewhere else.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.state.lock().unwrap().upstream = upstream;
    }

    /// Adds a trouble. Returns what [`Self::end`] takes.
    pub fn begin(&self, trouble: Trouble) -> u64 {
        let mut state = self.shared.state.lock().unwrap();
        state.next += 1;
        let key = state.next;
        state.troubles.push((key, trouble));
        drop(state);
        self.shared.changed.send_modify(|generation| *generation += 1);
        key
    }

    /// Ends a trouble.
    pub fn end(&self, key: u64) {
        self.shared.state.lock().unwrap().troubles.retain(|(other, _)| *other != key);
        self.shared.changed.send_modify(|generation| *generation += 1);
    }

    /// Ends all troubles.
    pub fn heal(&self) {
        self.shared.state.lock().unwrap().troubles.clear();
        self.shared.changed.send_modify(|generation| *generation += 1);
    }

    /// What struck, and how often.
    pub fn hits(&self) -> BTreeMap<String, u64> {
        self.shared.state.lock().unwrap().hits.clone()
    }
}

impl Shared {
    fn refuses(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.troubles.iter().any(|(_, trouble)| matches!(trouble, Trouble::Refuse))
    }

    fn silent(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.troubles.iter().any(|(_, trouble)| matches!(trouble, Trouble::Hole))
    }

    /// The first trouble that strikes now, of those that `concerns` names; counted.
    fn strike(&self, concerns: impl Fn(Trouble) -> bool) -> Option<Trouble> {
        let mut state = self.state.lock().unwrap();
        let candidates: Vec<Trouble> = state
            .troubles
            .iter()
            .map(|(_, trouble)| *trouble)
            .filter(|trouble| concerns(*trouble))
            .collect();
        for trouble in candidates {
            let share = share_of(trouble);
            if state.rng.random_range(0..100) < share {
                *state.hits.entry(trouble.kind()).or_default() += 1;
                return Some(trouble);
            }
        }
        None
    }

    fn count(&self, trouble: Trouble) {
        *self.state.lock().unwrap().hits.entry(trouble.kind()).or_default() += 1;
    }

    fn coin(&self) -> bool {
        self.state.lock().unwrap().rng.random()
    }

    async fn wait_until(&self, over: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !over(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Of a hundred requests, or frames, so many.
fn share_of(trouble: Trouble) -> u32 {
    match trouble {
        Trouble::Refuse | Trouble::Hole | Trouble::Delay { .. } => 100,
        Trouble::Status { share, .. }
        | Trouble::Reset { share }
        | Trouble::Lose { share }
        | Trouble::Cut { share }
        | Trouble::Garble { share }
        | Trouble::Odd { share }
        | Trouble::Twice { share }
        | Trouble::Drip { share }
        | Trouble::EventsTwice { share }
        | Trouble::EventsSwapped { share }
        | Trouble::EventsLost { share }
        | Trouble::StreamCut { share } => share,
    }
}

/// The kernel gives ports of this range to nobody who does not ask for them: it stays ours while
/// connections are refused.
async fn own_listener() -> TcpListener {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..30_000)));
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
    }
}

async fn serve(shared: Arc<Shared>, first: TcpListener, addr: SocketAddr) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    let mut changed = shared.changed.subscribe();
    loop {
        if shared.refuses() {
            if listener.take().is_some() {
                shared.count(Trouble::Refuse);
            }
            connections.shutdown().await;
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(addr).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(Arc::clone(&shared), client));
                }
            }
            result = changed.changed() => {
                if result.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends a connection in a way that the peer cannot take for an orderly end.
fn reset(stream: Stream) {
    let stream = stream.into_inner();
    drop(stream.set_zero_linger());
    drop(stream);
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    let mut client = Stream::new(client);
    let mut server: Option<Stream> = None;
    while exchange(&shared, &mut client, &mut server).await.is_some() {}
    reset(client);
}

/// One request and its reply. `None` when the connection is at its end.
async fn exchange(
    shared: &Arc<Shared>,
    client: &mut Stream,
    server: &mut Option<Stream>,
) -> Option<()> {
    let head = client.head().await?;
    let upgrade = head.has("upgrade");
    let before = |trouble| {
        matches!(trouble, Trouble::Reset { .. } | Trouble::Status { .. } | Trouble::Delay { .. })
    };
    if shared.silent() {
        shared.count(Trouble::Hole);
        shared.wait_until(|shared| !shared.silent()).await;
        return None;
    }
    match shared.strike(before) {
        Some(Trouble::Reset { .. }) => return None,
        Some(Trouble::Status { code, .. }) => {
            client.body(&head, false).await?;
            client.write(&answer(code)).await?;
            return Some(());
        }
        Some(Trouble::Delay { ms }) => tokio::time::sleep(Duration::from_millis(ms)).await,
        _ => {}
    }
    let body = client.body(&head, false).await?;
    if server.is_none() {
        let upstream = shared.state.lock().unwrap().upstream;
        let stream = TcpStream::connect(upstream).await.ok()?;
        stream.set_nodelay(true).ok()?;
        *server = Some(Stream::new(stream));
    }
    let upstream = server.as_mut()?;
    let mut request = head.raw.clone();
    request.extend_from_slice(&body);
    upstream.write(&request).await?;
    let mut reply_head = upstream.head().await?;
    if upgrade && reply_head.status() == 101 {
        client.write(&reply_head.raw).await?;
        let server = server.take()?;
        frames::relay(shared, client, server).await;
        return None;
    }
    let mut reply = upstream.body(&reply_head, true).await?;
    let after = |trouble| {
        matches!(
            trouble,
            Trouble::Lose { .. }
                | Trouble::Cut { .. }
                | Trouble::Garble { .. }
                | Trouble::Odd { .. }
                | Trouble::Twice { .. }
                | Trouble::Drip { .. }
        )
    };
    let json = reply_head.field("content-type").is_some_and(|kind| kind.contains("json"));
    match shared.strike(after) {
        Some(Trouble::Lose { .. }) => return None,
        Some(Trouble::Cut { .. }) => {
            let mut whole = reply_head.raw.clone();
            whole.extend_from_slice(&reply);
            client.write(&whole[..whole.len() - reply.len().div_ceil(2)]).await?;
            return None;
        }
        Some(Trouble::Twice { .. }) => {
            upstream.write(&request).await?;
            let second_head = upstream.head().await?;
            let second = upstream.body(&second_head, true).await?;
            if shared.coin() {
                (reply_head, reply) = (second_head, second);
            }
        }
        // A byte that no JSON has anywhere: the damage can be seen.
        Some(Trouble::Garble { .. }) if json && !reply.is_empty() => {
            let middle = reply.len() / 2;
            reply[middle] = 1;
        }
        Some(Trouble::Odd { .. }) if json => {
            let odd: &[u8] = if shared.coin() { b"{}" } else { b"<html>hello</html>" };
            reply = odd.to_vec();
            reply_head.set_length(reply.len());
        }
        Some(Trouble::Drip { .. }) => {
            client.write(&reply_head.raw).await?;
            for piece in reply.chunks(reply.len().div_ceil(20).max(1)) {
                client.write(piece).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return Some(());
        }
        _ => {}
    }
    let mut whole = reply_head.raw;
    whole.extend_from_slice(&reply);
    client.write(&whole).await?;
    client.get_mut().flush().await.ok()
}
