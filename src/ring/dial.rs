//! Owns a connection while it is being made. Must never wait for it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Errno;
use super::system_calls::errno;

/// A socket on its way to an address.
#[derive(Debug)]
pub(super) struct Dial {
    socket: Socket,
    address: SockAddr,
}

impl Dial {
    /// A socket for `address`, bound to `from` if given.
    pub(super) fn new(address: SocketAddr, from: Option<IpAddr>) -> Result<Self, Errno> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
        let socket = socket.map_err(|error| errno(&error))?;
        if let Some(from) = from {
            let local = SockAddr::from(SocketAddr::new(from, 0));
            socket.bind(&local).map_err(|error| errno(&error))?;
        }
        let address = address.into();
        Ok(Self { socket, address })
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) const fn address(&self) -> &SockAddr {
        &self.address
    }

    /// The connected socket.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }
}
