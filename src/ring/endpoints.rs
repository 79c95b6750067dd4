//! Owns the sockets of one engine: who they are, and the order of the operations on each. Must
//! never receive or send.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{Token, system_calls};

/// A silent peer is asked whether it lives after this long, so that no dead client holds a
/// session for ever. Links have heartbeats of their own.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The two streams of a socket. Operations of one stream run one after the other, so that bytes
/// keep their order; a listener accepts on `Incoming`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Incoming,
    Outgoing,
}

/// Whom to tell once a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Nobody.
    Quiet,
    /// The submitter of `Close`.
    Tell(Token),
}

#[derive(Debug)]
pub(super) struct Endpoint {
    fd: OwnedFd,
    /// Operations by stream; only the first of each has begun.
    streams: [VecDeque<u32>; 2],
    closing: Option<Closing>,
}

impl Endpoint {
    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The operation of a stream that has begun.
    pub(super) fn first(&self, stream: Stream) -> Option<u32> {
        self.streams[stream as usize].front().copied()
    }

    /// Whether no operation is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.iter().all(VecDeque::is_empty)
    }

    /// Whether the other end has gone or will send no more.
    pub(super) fn has_hung_up(&self) -> bool {
        system_calls::has_hung_up(self.fd.as_fd())
    }

    /// Makes pending operations end. Fails only on what was never or is no longer connected, where
    /// they end by themselves.
    pub(super) fn shutdown(&self) {
        let _ = SockRef::from(&self.fd).shutdown(std::net::Shutdown::Both);
    }
}

/// Sockets and listeners, by id.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    list: Vec<Option<Endpoint>>,
    vacant: Vec<u32>,
}

impl Endpoints {
    /// Takes a descriptor in and sets it up.
    pub(super) fn adopt(&mut self, fd: OwnedFd) -> u32 {
        set_up(&fd);
        let endpoint = Some(Endpoint { fd, streams: Default::default(), closing: None });
        if let Some(index) = self.vacant.pop() {
            self.list[index as usize] = endpoint;
            return index;
        }
        let index = u32::try_from(self.list.len()).expect("fewer sockets than descriptors");
        self.list.push(endpoint);
        index
    }

    pub(super) fn get(&self, id: u32) -> Option<&Endpoint> {
        self.list.get(id as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Endpoint> {
        self.list.get_mut(id as usize)?.as_mut()
    }

    /// Queues an operation on a socket that is known and open; whether it is to begin now.
    pub(super) fn push(&mut self, id: u32, stream: Stream, flight: u32) -> bool {
        let Some(endpoint) = self.get_mut(id) else {
            return false;
        };
        let queue = &mut endpoint.streams[stream as usize];
        queue.push_back(flight);
        queue.len() == 1
    }

    /// Ends the operation that had begun; the one to begin now, if any.
    pub(super) fn pop(&mut self, id: u32, stream: Stream) -> Option<u32> {
        let queue = &mut self.get_mut(id)?.streams[stream as usize];
        queue.pop_front();
        queue.front().copied()
    }

    /// From now on takes no operations; to be followed by [`settle`](Self::settle). Whether the
    /// socket was known and open.
    pub(super) fn close(&mut self, id: u32, closing: Closing) -> bool {
        match self.get_mut(id) {
            Some(endpoint) if endpoint.closing.is_none() => {
                endpoint.closing = Some(closing);
                true
            }
            _ => false,
        }
    }

    /// Closes the socket if that was asked for and its operations have ended.
    pub(super) fn settle(&mut self, id: u32) -> Option<Closing> {
        let endpoint = self.get(id)?;
        let closing = endpoint.closing?;
        if !endpoint.is_idle() {
            return None;
        }
        self.vacate(id);
        Some(closing)
    }

    /// Gives the descriptor back, unless an operation has not ended.
    pub(super) fn release(&mut self, id: u32) -> Option<OwnedFd> {
        let endpoint = self.get(id)?;
        if !endpoint.is_idle() || endpoint.is_closing() {
            return None;
        }
        self.vacate(id)
    }

    fn vacate(&mut self, id: u32) -> Option<OwnedFd> {
        let endpoint = self.list.get_mut(id as usize)?.take()?;
        self.vacant.push(id);
        Some(endpoint.fd)
    }

    /// All that are open.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.list.iter().flatten()
    }
}

/// Best effort: these do not exist on Unix sockets, and without them a socket still works.
fn set_up(fd: &OwnedFd) {
    let socket = SockRef::from(fd);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    if socket.set_tcp_nodelay(true).is_ok() {
        let _ = socket.set_tcp_keepalive(&keepalive);
    }
}
