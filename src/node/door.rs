//! Owns the NBD listeners: accepting clients, negotiating with them, handing them to their shard.
//! Must never delay a shard, nor serve a request.

use super::directory::{Directory, Only};
use super::local::Letter;
use crate::export::negotiate::Negotiations;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use twinblk_nbd::Exports;

/// Pause after a failed accept: descriptors may be used up, and an error must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every client needs.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) directory: Arc<Directory>,
    pub(super) negotiations: Arc<Negotiations>,
}

/// A client's stream that can be taken apart into its descriptor.
trait IntoSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn into_socket(self) -> io::Result<OwnedFd>;
}

impl IntoSocket for tokio::net::TcpStream {
    fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

impl IntoSocket for tokio::net::UnixStream {
    fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

impl Doors {
    /// Serves a TCP address, for all resources, until the task is dropped.
    pub(super) async fn tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let doors = self.clone();
                    tokio::spawn(async move { doors.negotiate(stream, None).await });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Serves a unix socket of one resource, until the task is dropped.
    pub(super) async fn unix(self, listener: UnixListener, resource: String) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (doors, name) = (self.clone(), resource.clone());
                    tokio::spawn(async move { doors.negotiate(stream, Some(name)).await });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn negotiate<S: IntoSocket>(self, mut stream: S, only: Option<String>) {
        let directory = &*self.directory;
        let narrow = only.as_deref().map(|name| Only { directory, name });
        let exports: &(dyn Exports + Sync) = match &narrow {
            Some(narrow) => narrow,
            None => directory,
        };
        let agreed = match self.negotiations.run(&mut stream, exports).await {
            Ok(agreed) => agreed,
            Err(why) => return tracing::debug!("no client: {why}"),
        };
        let name = &agreed.negotiated.export.name;
        let Some((mailbox, resource)) = self.directory.locate(name) else { return };
        match stream.into_socket() {
            Ok(socket) => {
                let terms = agreed.negotiated.terms();
                let leftover = agreed.leftover;
                mailbox.post(Letter::Client { resource, socket, terms, leftover });
            }
            Err(error) => tracing::warn!("a client of {name} was lost: {error}"),
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!("cannot accept an NBD client: {error}");
    // Without descriptors to spare `accept` fails at once, again and again; nothing tells when one
    // is free. Only this listener's task rests.
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Binds the unix socket of a resource, in place of one that a former life left behind.
pub(super) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            let what = "something that is not a socket lies there; move it away";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
