//! Owns the admin socket: who may connect, how many at once, and how it is left behind.
//! Must never look into a request.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::gateway::Gateway;
use super::router::{self, Shared};
use super::stall::StallGuard;

/// Connections at once, so that a script gone wild cannot take all descriptors.
const CONNECTIONS_MAX: usize = 64;

/// Longest wait for the head of a request, the next one of a kept connection included.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a reader may leave what it was sent.
const STALL_TIME: Duration = Duration::from_secs(30);

/// What a connection may hold in its read buffer.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// How long running requests may take to end once the daemon stops.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Pause after a failure to accept, such as no descriptor left: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error(
        "another daemon answers at {}: stop it first, or give this one another `admin_socket`",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{} is no socket: move it away, or choose another `admin_socket`", .0.display())]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("cannot make the admin socket {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The admin socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Makes the socket, for root alone, in place of one that a dead daemon left. Must be called
    /// on a tokio runtime.
    ///
    /// # Errors
    /// If another daemon answers there or the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(BindError::InUse(path.to_owned()));
            }
            _ => {}
        }
        // Made under another name and renamed when its mode is right, so that nobody ever finds
        // it open to all, nor missing.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&unfinished).map_err(failed)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&unfinished, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers requests until `stop` becomes true, then lets the running ones end.
    pub async fn run(self, gateway: Arc<Gateway>, mut stop: watch::Receiver<bool>) {
        let shared = Shared::new(gateway, stop.clone());
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let own_uid = nix::unistd::geteuid().as_raw();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stop) => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, socket = %self.path.display(), "cannot accept");
                    let _ = timeout(ACCEPT_PAUSE, stopped(&mut stop)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!("more than {CONNECTIONS_MAX} admin connections: closed one");
                continue;
            };
            let routes = match stream.peer_cred() {
                Ok(peer) if admits(peer.uid(), own_uid) => router::routes(shared.clone()),
                Ok(peer) => router::refusal(peer.uid()),
                Err(_) => continue,
            };
            connections.spawn(converse(stream, routes, stop.clone(), place));
        }
        // A socket that is gone says "no daemon" at once, where a dead one would be tried.
        let _ = fs::remove_file(&self.path);
        drop(self.listener);
        let ended =
            timeout(FAREWELL_TIME, async { while connections.join_next().await.is_some() {} });
        if ended.await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// Whether a user may command the daemon: root, and whoever it runs as.
pub(super) const fn admits(uid: u32, own_uid: u32) -> bool {
    uid == 0 || uid == own_uid
}

/// Waits until the daemon stops, or whoever would say so is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Serves a connection of somebody who may command the daemon, as [`Server::run`] does. For the
/// fuzz targets, which have no socket.
#[doc(hidden)]
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
) {
    let routes = router::routes(Shared::new(gateway, stop.clone()));
    if let Ok(place) = Arc::new(Semaphore::new(1)).try_acquire_owned() {
        converse(stream, routes, stop, place).await;
    }
}

/// Serves one connection until either side ends it.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let io = TokioIo::new(StallGuard::new(stream, STALL_TIME));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(io, TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended badly");
    }
}
