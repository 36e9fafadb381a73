//! The control socket: who can reach it, and how much of the daemon a caller can tie up.
//!
//! Invariants: the socket lies in a folder that is ours alone, and nothing but a dead socket of ours
//! is ever removed for it; there are never more than [`CONNECTIONS_MAX`] connections, and one that
//! wants nothing makes room for one that does. Decides nothing about requests.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::task::AbortHandle;

/// How many connections there may be; far fewer than a process may have open files.
const CONNECTIONS_MAX: usize = 128;

/// How long a connection may take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head of a request; bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long nobody is let in after the socket failed, mostly for want of open files.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// By the kernel's word.
    pub(super) uid: Option<u32>,
    calls: Arc<AtomicUsize>,
}

impl Peer {
    /// Notes that a whole request arrived and is being answered, until the result is dropped.
    pub(super) fn call(&self) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(&self.calls))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Call(Arc<AtomicUsize>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Binds the control socket, 0600 in a 0700 folder. A dead socket of ours is removed.
///
/// # Errors
/// When another daemon answers there, the folder belongs to somebody else, or something else has
/// the name.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    let refused = |text: String| io::Error::new(io::ErrorKind::PermissionDenied, text);
    let own = nix::unistd::geteuid().as_raw();
    let folder = socket.parent().ok_or_else(|| io::Error::other("socket without a folder"))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = std::fs::symlink_metadata(folder)?;
    if !metadata.is_dir() {
        return Err(refused(format!("{} is not a folder of its own", folder.display())));
    }
    if metadata.uid() != own {
        return Err(refused(format!("{} does not belong to this user", folder.display())));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    }
    match std::fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        // While the folder was open to others, they may have left anything in it.
        Ok(found) if !found.file_type().is_socket() || found.uid() != own => {
            return Err(refused("something that is not a socket of ours has the name".to_owned()));
        }
        Ok(_) => match UnixStream::connect(socket) {
            Ok(_) => return Err(io::Error::from(io::ErrorKind::AddrInUse)),
            Err(_dead) => std::fs::remove_file(socket)?,
        },
    }
    // The folder keeps others out between bind and chmod.
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Lets connections in, for ever.
pub(super) async fn accept(listener: UnixListener, app: Router) {
    let mut connections = Connections::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket lets nobody in");
                tokio::time::sleep(FAILED_PAUSE).await;
                continue;
            }
        };
        let calls = Arc::<AtomicUsize>::default();
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        let peer = Peer { uid, calls: Arc::clone(&calls) };
        let service =
            TowerToHyperService::new(app.clone().layer(axum::Extension(ConnectInfo(peer))));
        let task = tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::trace!(%error, "control connection");
            }
        });
        connections.add(Connection { calls, task: task.abort_handle() });
    }
}

#[derive(Debug)]
struct Connection {
    calls: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// What is connected, oldest first.
#[derive(Debug, Default)]
struct Connections(VecDeque<Connection>);

impl Connections {
    /// Adds one. Where there are too many, the oldest that asks for nothing ends, else the oldest.
    fn add(&mut self, connection: Connection) {
        self.0.retain(|connection| !connection.task.is_finished());
        if self.0.len() >= CONNECTIONS_MAX {
            let idle = |connection: &Connection| connection.calls.load(Ordering::Relaxed) == 0;
            let least = self.0.iter().position(idle).unwrap_or(0);
            if let Some(connection) = self.0.remove(least) {
                connection.task.abort();
            }
        }
        self.0.push_back(connection);
    }
}
