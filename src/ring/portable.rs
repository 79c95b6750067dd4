//! Owns the engine for hosts without io_uring: epoll for sockets, a few threads for disks. Must
//! behave as the io_uring engine does, only slower.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::SockRef;

use super::dial::Dial;
use super::endpoints::{Endpoint, Stream};
use super::files::Errand;
use super::flights::Flights;
use super::holdings::{Engine, Holdings, Place};
use super::system_calls::{self, errno};
use super::talk::{Act, Talk};
use super::{Completion, Errno, FileId, Op, Ring, SocketId, Token};
use crate::buffer::Pool;
use crate::units::Nanos;

/// Marks events of the waker.
const BELL: u64 = u64::MAX;
/// Marks events of a connection being made; the rest is the key of its operation.
const DIAL: u64 = 1 << 63;
/// Events taken at once.
const EVENTS: usize = 256;

enum Work {
    Disk { file: FileId },
    Talk(Talk),
    Connect { dial: Dial, until: Nanos },
}

/// One thread's epoll.
pub(super) struct PortableRing {
    epoll: Epoll,
    held: Holdings,
    flights: Flights<Work>,
    /// Connections being made, oldest first, and so in the order of their time limits.
    dialing: Vec<u32>,
    events: Box<[EpollEvent; EVENTS]>,
    errands_done: Vec<(u64, Result<u32, Errno>)>,
}

impl PortableRing {
    pub(super) fn new() -> Result<Self, Errno> {
        let number = |number: nix::errno::Errno| Errno(number as i32);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(number)?;
        let held = Holdings::new()?;
        let bell = EpollEvent::new(EpollFlags::EPOLLIN, BELL);
        epoll.add(held.waker.event(), bell).map_err(number)?;
        Ok(Self {
            epoll,
            held,
            flights: Flights::new(),
            dialing: Vec::new(),
            events: Box::new([EpollEvent::empty(); EVENTS]),
            errands_done: Vec::new(),
        })
    }

    fn disk(&mut self, token: Token, file: FileId, errand: Errand) {
        if self.held.place(file, &errand) == Place::Here {
            self.held.carry_out(token, file, errand);
            return;
        }
        self.held.files.begin(file);
        let index = self.flights.insert(token, Work::Disk { file });
        let key = self.flights.key(index);
        self.held.send_out(key, file, errand);
    }

    fn network(&mut self, pool: &Pool, token: Token, op: Op) {
        let Some(talk) = self.held.talk(pool, token, op) else {
            return;
        };
        let (id, stream) = (talk.id, talk.stream());
        let index = self.flights.insert(token, Work::Talk(talk));
        if self.held.endpoints.push(id, stream, index) {
            self.run(id, stream);
        }
    }

    fn connect(&mut self, token: Token, address: SocketAddr, from: Option<IpAddr>) {
        let dial = match Dial::new(address, from) {
            Ok(dial) => dial,
            Err(errno) => return self.held.complete(token, Err(errno)),
        };
        let until = self.now() + self.held.connect_time;
        let index = self.flights.insert(token, Work::Connect { dial, until });
        if let Err(errno) = self.begin_connect(index) {
            self.finish(index, Err(errno));
            return;
        }
        self.dialing.push(index);
    }

    fn begin_connect(&mut self, index: u32) -> Result<(), Errno> {
        let mark = DIAL | self.flights.key(index);
        let Work::Connect { dial, .. } = self.flights.work(index) else {
            return Err(Errno(libc::EINVAL));
        };
        let socket = dial.socket();
        socket.set_nonblocking(true).map_err(|error| errno(&error))?;
        match socket.connect(dial.address()).map_err(|error| errno(&error)) {
            Ok(()) | Err(Errno(libc::EINPROGRESS)) => {}
            Err(errno) => return Err(errno),
        }
        // Also if it is connected already: then the event is there at once.
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, mark);
        let added = self.epoll.add(socket.as_fd(), event);
        added.map_err(|number| Errno(number as i32))
    }

    /// Ends a connection being made: its socket said something, or its time has passed.
    fn end_connect(&mut self, index: u32, passed: bool) {
        self.dialing.retain(|dialing| *dialing != index);
        let Work::Connect { dial, .. } = self.flights.work(index) else {
            return;
        };
        let _ = self.epoll.delete(dial.socket().as_fd());
        let result = match dial.socket().take_error() {
            Ok(None) if passed => Err(Errno(libc::ETIMEDOUT)),
            Ok(None) => Ok(0),
            Ok(Some(error)) | Err(error) => Err(errno(&error)),
        };
        self.finish(index, result);
    }

    fn expire_connects(&mut self) {
        let now = self.now();
        while let Some(&index) = self.dialing.first() {
            match self.flights.work(index) {
                Work::Connect { until, .. } if *until > now => break,
                _ => self.end_connect(index, true),
            }
        }
    }

    /// When to look at the connections being made again.
    fn connect_limit(&mut self) -> Nanos {
        let first = self.dialing.first().copied();
        match first.map(|index| self.flights.work(index)) {
            Some(Work::Connect { until, .. }) => *until,
            _ => Nanos::NEVER,
        }
    }

    /// Carries out the operations of a stream, one after the other, until the socket would block.
    fn run(&mut self, id: u32, stream: Stream) {
        loop {
            let endpoint = self.held.endpoints.get(id);
            let Some(index) = endpoint.and_then(|endpoint| endpoint.first(stream)) else {
                return;
            };
            let Some(result) = self.attempt(index) else {
                return;
            };
            self.finish(index, result);
        }
    }

    /// Tries an operation; `None` if the socket would block.
    fn attempt(&mut self, index: u32) -> Option<Result<u32, Errno>> {
        loop {
            let Work::Talk(talk) = self.flights.work(index) else {
                return None;
            };
            let endpoint = self.held.endpoints.get(talk.id)?;
            let got = match &mut talk.act {
                Act::Receive(memory) => system_calls::receive(endpoint.fd(), *memory),
                Act::Accept => match SockRef::from(&endpoint.fd()).accept() {
                    Ok((socket, _)) => Ok(self.adopt(socket.into())),
                    // A Unix listener that was shut down still answers EAGAIN.
                    Err(_) if endpoint.is_closing() => Err(Errno(libc::ECANCELED)),
                    Err(error) => Err(errno(&error)),
                },
                Act::Send(outgoing) => {
                    match system_calls::send(endpoint.fd(), outgoing.message_now()) {
                        Ok(count) if outgoing.advance(count) => Ok(outgoing.sent_bytes()),
                        Ok(_) => continue,
                        Err(errno) => Err(errno),
                    }
                }
            };
            match got {
                Err(Errno(libc::EAGAIN)) => return None,
                Err(Errno(libc::EINTR)) => {}
                _ => return Some(got),
            }
        }
    }

    /// Ends an operation.
    fn finish(&mut self, index: u32, result: Result<u32, Errno>) {
        let (token, work) = self.flights.remove(index);
        match work {
            Work::Disk { file } => {
                let _ = self.held.files.end(file);
                self.held.complete(token, result);
            }
            Work::Talk(talk) => {
                let (id, stream) = (talk.id, talk.stream());
                self.held.end_talk(token, talk, result);
                if self.held.endpoints.pop(id, stream).is_none() {
                    self.held.settle(id);
                }
            }
            Work::Connect { dial, .. } => {
                let result = result.map(|_| self.adopt(dial.into_fd()));
                self.held.complete(token, result);
            }
        }
    }

    /// Waits for events, at most until `until`, and acts upon them.
    fn wait(&mut self, until: Nanos) {
        let timeout = match until {
            Nanos::NEVER => EpollTimeout::NONE,
            // Rounded up: a turn that ended too early would only be followed by another.
            _ => {
                let millis = until.since(self.now()).0.div_ceil(1_000_000);
                let millis = i32::try_from(millis).unwrap_or(i32::MAX);
                EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::ZERO)
            }
        };
        let count = match self.epoll.wait(&mut self.events[..], timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            // Only a descriptor that is no epoll's could cause it.
            Err(number) => panic!("epoll failed beyond repair: {number}"),
        };
        for event in 0..count {
            let mark = self.events[event].data();
            self.act(mark);
        }
        if self.held.woken {
            self.collect_errands();
        }
    }

    fn act(&mut self, mark: u64) {
        if mark == BELL {
            self.held.waker.read();
            self.held.woken = true;
        } else if mark & DIAL != 0 {
            if let Some(index) = self.flights.find(mark & !DIAL) {
                self.end_connect(index, false);
            }
        } else if let Ok(id) = u32::try_from(mark) {
            self.run(id, Stream::Incoming);
            self.run(id, Stream::Outgoing);
        }
    }

    fn collect_errands(&mut self) {
        let mut done = std::mem::take(&mut self.errands_done);
        self.held.workers.collect(&mut done);
        for (key, result) in done.drain(..) {
            if let Some(index) = self.flights.find(key) {
                self.finish(index, result);
            }
        }
        self.errands_done = done;
    }
}

impl Ring for PortableRing {
    fn now(&self) -> Nanos {
        system_calls::boottime()
    }

    fn random(&mut self) -> u64 {
        self.held.entropy.next()
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        match self.held.errand(pool, &op) {
            Some(Ok((file, errand))) => self.disk(token, file, errand),
            Some(Err(errno)) => self.held.complete(token, Err(errno)),
            None => match op {
                Op::Connect { address, from } => self.connect(token, address, from),
                _ => self.network(pool, token, op),
            },
        }
    }

    fn has_hung_up(&self, socket: SocketId) -> bool {
        self.held.endpoints.get(socket.0).is_some_and(Endpoint::has_hung_up)
    }

    fn shutdown(&mut self, socket: SocketId) {
        if let Some(endpoint) = self.held.endpoints.get(socket.0) {
            endpoint.shutdown();
        }
    }

    fn turn(&mut self, _pool: &mut Pool, until: Nanos, completions: &mut Vec<Completion>) {
        self.held.woken = false;
        loop {
            self.expire_connects();
            let limit = match self.held.ready.is_empty() {
                true => until.min(self.connect_limit()),
                false => Nanos(0),
            };
            self.wait(limit);
            let over = !self.held.ready.is_empty() || until <= self.now();
            if self.held.woken || over {
                break;
            }
        }
        completions.append(&mut self.held.ready);
    }
}

impl Engine for PortableRing {
    fn held(&mut self) -> &mut Holdings {
        &mut self.held
    }

    fn adopt(&mut self, fd: OwnedFd) -> u32 {
        let ready = SockRef::from(&fd).set_nonblocking(true);
        debug_assert!(ready.is_ok(), "any open descriptor has this flag");
        let id = self.held.endpoints.adopt(fd);
        // Told once per change: whoever submits tries first, and waits for a change after that.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        let event = EpollEvent::new(flags | EpollFlags::EPOLLET, u64::from(id));
        if let Some(endpoint) = self.held.endpoints.get(id)
            && let Err(number) = self.epoll.add(endpoint.fd(), event)
        {
            tracing::error!("a new connection cannot be watched and is ended: {number}");
            endpoint.shutdown();
        }
        id
    }

    fn release(&mut self, id: u32) -> Option<OwnedFd> {
        let fd = self.held.endpoints.release(id)?;
        let _ = self.epoll.delete(&fd);
        let blocking = SockRef::from(&fd).set_nonblocking(false);
        debug_assert!(blocking.is_ok(), "any open descriptor has this flag");
        Some(fd)
    }
}

impl Drop for PortableRing {
    /// Waits until the disk threads have let go of all memory.
    fn drop(&mut self) {
        self.held.workers.stop();
    }
}
