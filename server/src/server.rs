//! Opens the port, accepts connections, and ends them in good order.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::auth::Authenticator;
use crate::config::{Auth, Config};
use crate::error::Error;
use crate::http::{App, handle};
use crate::intercept::RequestLog;
use crate::store::Store;

/// Connections open at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 4096;
/// How long a connection may be idle between requests, or take to send the head of one.
const IDLE: Duration = Duration::from_secs(300);
/// How long requests in flight may take once a shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// A predecessor that is just shutting down gets this many chances to release the storage.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A workspace server that is bound and ready to run.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    addr: SocketAddr,
}

/// Ends WebSocket feeds of a running server; clones act on the same server.
#[derive(Clone, Debug)]
pub struct Feeds {
    generation: watch::Sender<u64>,
}

impl Feeds {
    /// Closes every feed that is open now; clients may connect again at once.
    pub fn disconnect_all(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Returns how many feeds are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.generation.receiver_count()
    }
}

impl Server {
    /// Opens the storage and the port.
    ///
    /// # Errors
    ///
    /// When the storage is in use, damaged or not writable, when the tokens cannot be read, when
    /// access without tokens is asked for on a public address, or when the port is taken.
    pub async fn bind(config: Config, addr: SocketAddr) -> Result<Self, Error> {
        if matches!(config.auth, Auth::Open) && !addr.ip().is_loopback() {
            return Err(Error::OpenOnPublicAddress { addr });
        }
        let auth = Authenticator::new(&config.auth)?;
        let config = Arc::new(config);
        let store = open_store(&config).await?;
        let listen = |source| Error::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let app = Arc::new(App::new(config, auth, store));
        Ok(Self { app, listener, addr })
    }

    /// Returns the address clients connect to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns a view of the requests answered, usable while the server runs.
    #[must_use]
    pub fn requests(&self) -> RequestLog {
        self.app.log.clone()
    }

    /// Returns a handle that closes WebSocket feeds, usable while the server runs.
    #[must_use]
    pub fn feeds(&self) -> Feeds {
        Feeds { generation: self.app.feeds.clone() }
    }

    /// Serves until `shutdown` completes, then lets requests in flight finish.
    ///
    /// *Durability*: when this returns, everything that was answered is on disk and the storage
    /// is released.
    ///
    /// # Errors
    ///
    /// When the port stops working.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let Self { app, listener, addr } = self;
        let _abandoned = StopOnDrop(Arc::clone(&app));
        let mut connections = JoinSet::new();
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut shutdown = pin!(shutdown);
        let result = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                Some(_) = connections.join_next() => {}
                accepted = accept(&listener, &slots) => match accepted {
                    Ok((stream, slot)) => {
                        connections.spawn(serve(stream, Arc::clone(&app), slot));
                    }
                    Err(error) if transient(&error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors or memory: without a pause this would spin.
                        tokio::time::sleep(LOCK_PAUSE).await;
                    }
                    Err(source) => break Err(Error::Listen { addr, source }),
                },
            }
        };
        drop(listener);
        app.stopping.send_replace(true);
        let drained = async {
            while connections.join_next().await.is_some() {}
            app.sockets.close();
            app.sockets.wait().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(requests = connections.len(), "requests were cut off by the shutdown");
            connections.shutdown().await;
        }
        failpoint!("server.stop");
        app.store.close().await;
        result
    }
}

/// Releases the storage also when [`Server::run`] is dropped before it is done: feeds are tasks
/// of their own, and would keep it locked.
struct StopOnDrop(Arc<App>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stopping.send_replace(true);
        self.0.store.stop_soon();
    }
}

async fn open_store(config: &Arc<Config>) -> Result<Store, Error> {
    let mut attempts = LOCK_ATTEMPTS;
    loop {
        let config = Arc::clone(config);
        let path = config.storage.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&config)).await;
        match opened {
            Ok(Err(Error::Locked { .. })) if attempts > 0 => attempts -= 1,
            Ok(result) => return result,
            Err(error) => {
                let source = io::Error::other(error);
                return Err(Error::Storage { act: "open", path, source });
            }
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

fn transient(error: &io::Error) -> bool {
    // Everything but a broken listener: the peer is gone already, or a resource is short.
    !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}

async fn serve(stream: TcpStream, app: Arc<App>, _slot: OwnedSemaphorePermit) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection could not be set up");
    }
    let mut stopping = app.stopping.subscribe();
    let service = service_fn(move |request| handle(Arc::clone(&app), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Completes when the server is asked to stop.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means the server is gone, which is just as final.
    stopping.wait_for(|stopping| *stopping).await.ok();
}
