//! Owns the connections of one link below their meaning: operations in flight, buffers, and an
//! end that waits for the kernel to let go of memory. Must never look into what is sent.
//!
//! A connection that ends is shut down at once and told about no more; it is closed, and its
//! place reused, only when its last operation has come back. Names carry a generation, so a
//! completion can never be taken for one of a later connection in the same place.

use super::inbox::Inbox;
use super::options::Path;
use super::outbox::Outbox;
use crate::buffer::{Account, Pool, Purpose};
use crate::ring::{Completion, Errno, Lane, Op, Ring, SocketId};

const GENERATION_BITS: u32 = 28;

/// What a connection may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Connect = 1,
    Recv = 2,
    Send = 3,
    Close = 4,
}

/// Names a connection; a stale name finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnId {
    index: u8,
    generation: u32,
}

impl ConnId {
    /// Operation 4 bits, index 8 bits, generation 28 bits: the 40 bits of a lane.
    fn local(self, operation: Operation) -> u64 {
        let upper = (operation as u64) << 8 | u64::from(self.index);
        upper << GENERATION_BITS | u64::from(self.generation)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the shifts leave just the bits wanted")]
    fn split(local: u64) -> Option<(Self, Operation)> {
        let operation = match local >> (GENERATION_BITS + 8) {
            1 => Operation::Connect,
            2 => Operation::Recv,
            3 => Operation::Send,
            4 => Operation::Close,
            _ => return None,
        };
        let index = (local >> GENERATION_BITS) as u8;
        let generation = (local & ((1 << GENERATION_BITS) - 1)) as u32;
        Some((Self { index, generation }, operation))
    }
}

/// What happened to a connection that has not been ended from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The network connection stands.
    Connected,
    /// It could not be made.
    NotConnected(Errno),
    /// Bytes arrived.
    Received,
    /// The peer closed it.
    Closed,
    /// It broke.
    Broken(Errno),
    /// A gather has been sent.
    Sent,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    socket: Option<SocketId>,
    connecting: bool,
    receiving: bool,
    sending: bool,
    closing: bool,
    ending: bool,
    /// What arrived. None until the network connection stands.
    pub(super) inbox: Option<Inbox>,
    /// What is to be sent.
    pub(super) outbox: Outbox,
}

impl Conn {
    fn new(socket: Option<SocketId>, inbox: Option<Inbox>) -> Self {
        Self {
            socket,
            connecting: socket.is_none(),
            receiving: false,
            sending: false,
            closing: false,
            ending: false,
            inbox,
            outbox: Outbox::default(),
        }
    }
}

/// The connections of one link.
#[derive(Debug)]
pub(super) struct Conns {
    lane: Lane,
    places: Vec<(u32, Option<Conn>)>,
    places_max: usize,
    buffer_bytes: usize,
    generation: u32,
}

impl Conns {
    /// None yet; at most `places_max` (below 255), each with a receive buffer of so many bytes.
    pub(super) fn new(lane: Lane, places_max: usize, buffer_bytes: usize) -> Self {
        debug_assert!(places_max < usize::from(u8::MAX));
        Self { lane, places: Vec::new(), places_max, buffer_bytes, generation: 0 }
    }

    /// On which payloads of peers are taken.
    pub(super) const fn account(&self) -> Account {
        Purpose::Peer.of(self.lane.owner())
    }

    /// Begins to connect; none if all places are taken.
    pub(super) fn dial<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &Pool,
        path: Path,
    ) -> Option<ConnId> {
        let id = self.put(Conn::new(None, None)).ok()?;
        let token = self.lane.token(id.local(Operation::Connect));
        ring.submit(pool, token, Op::Connect { address: path.peer, from: path.local });
        Some(id)
    }

    /// Takes over a connected socket; closes it and returns none if all places are taken.
    pub(super) fn adopt<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        socket: SocketId,
    ) -> Option<ConnId> {
        let Some(inbox) = Inbox::new(pool, self.account(), self.buffer_bytes) else {
            self.close_unknown(ring, pool, socket);
            return None;
        };
        match self.put(Conn::new(Some(socket), Some(inbox))) {
            Ok(id) => Some(id),
            Err(conn) => {
                if let Some(inbox) = conn.inbox {
                    inbox.release(pool);
                }
                self.close_unknown(ring, pool, socket);
                None
            }
        }
    }

    fn put(&mut self, conn: Conn) -> Result<ConnId, Box<Conn>> {
        let index = match self.places.iter().position(|(_, conn)| conn.is_none()) {
            Some(vacant) => vacant,
            None if self.places.len() == self.places_max => return Err(Box::new(conn)),
            None => {
                self.places.push((0, None));
                self.places.len() - 1
            }
        };
        self.generation = (self.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.places[index] = (self.generation, Some(conn));
        let index = u8::try_from(index).expect("few places");
        Ok(ConnId { index, generation: self.generation })
    }

    /// Closes a socket that never got a place; its completion finds nobody.
    fn close_unknown<R: Ring>(&self, ring: &mut R, pool: &Pool, socket: SocketId) {
        let nobody = ConnId { index: u8::MAX, generation: 0 };
        let token = self.lane.token(nobody.local(Operation::Close));
        ring.submit(pool, token, Op::Close { socket });
    }

    /// A connection that has not been ended.
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.find(id).filter(|conn| !conn.ending)
    }

    fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        let (generation, conn) = self.places.get_mut(usize::from(id.index))?;
        if *generation == id.generation { conn.as_mut() } else { None }
    }

    /// Receives more, unless that is under way or there is no room to receive into.
    pub(super) fn receive<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId) {
        let token = self.lane.token(id.local(Operation::Recv));
        let Some(conn) = self.get(id) else { return };
        let (Some(socket), false) = (conn.socket, conn.receiving) else {
            return;
        };
        let Some(into) = conn.inbox.as_mut().and_then(|inbox| inbox.target(pool)) else {
            return;
        };
        conn.receiving = true;
        ring.submit(pool, token, Op::Recv { socket, into });
    }

    /// Sends what waits, unless a send is under way.
    pub(super) fn send<R: Ring>(&mut self, ring: &mut R, pool: &Pool, id: ConnId) {
        let token = self.lane.token(id.local(Operation::Send));
        let Some(conn) = self.get(id) else { return };
        let (Some(socket), false) = (conn.socket, conn.sending) else {
            return;
        };
        let Some(gather) = conn.outbox.next() else {
            return;
        };
        conn.sending = true;
        ring.submit(pool, token, Op::Send { socket, gather });
    }

    /// Ends a connection: what waits is forgotten, nothing is told about it any more.
    pub(super) fn end<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId) {
        let Some(conn) = self.get(id) else { return };
        conn.ending = true;
        conn.outbox.clear(ring, pool);
        if let Some(socket) = conn.socket
            && (conn.receiving || conn.sending)
        {
            ring.shutdown(socket);
        }
        self.settle(ring, pool, id);
    }

    /// Closes an ended connection once none of its operations is under way.
    fn settle<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId) {
        let token = self.lane.token(id.local(Operation::Close));
        let Some(conn) = self.find(id) else { return };
        if !conn.ending || conn.connecting || conn.receiving || conn.sending || conn.closing {
            return;
        }
        if let Some(inbox) = conn.inbox.take() {
            inbox.release(pool);
        }
        match conn.socket.take() {
            Some(socket) => {
                conn.closing = true;
                ring.submit(pool, token, Op::Close { socket });
            }
            None => self.places[usize::from(id.index)].1 = None,
        }
    }

    /// Takes the end of an operation. None if it concerns nobody any more.
    pub(super) fn on_completion<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        completion: Completion,
    ) -> Option<(ConnId, Event)> {
        let (account, buffer_bytes) = (self.account(), self.buffer_bytes);
        let (_, _, local) = completion.token.split();
        let (id, operation) = ConnId::split(local)?;
        let conn = self.find(id)?;
        let result = completion.result;
        if let Some(gather) = completion.gather {
            conn.outbox.sent(ring, pool, gather);
        }
        match operation {
            Operation::Connect => {
                conn.connecting = false;
                conn.socket = result.ok().map(SocketId);
            }
            Operation::Recv => conn.receiving = false,
            Operation::Send => conn.sending = false,
            Operation::Close => {
                conn.closing = false;
            }
        }
        if conn.ending {
            if let (Operation::Send, Some(socket), true) = (operation, conn.socket, conn.receiving)
            {
                ring.shutdown(socket);
            }
            self.settle(ring, pool, id);
            return None;
        }
        let event = match (operation, result) {
            (Operation::Connect, Ok(_)) => {
                conn.inbox = Inbox::new(pool, account, buffer_bytes);
                Event::Connected
            }
            (Operation::Connect, Err(errno)) => Event::NotConnected(errno),
            (Operation::Recv, Ok(0)) => Event::Closed,
            (Operation::Recv, Ok(bytes)) => {
                conn.inbox.as_mut()?.received(bytes);
                Event::Received
            }
            (Operation::Send, Ok(_)) => Event::Sent,
            (_, Err(errno)) => Event::Broken(errno),
            (Operation::Close, Ok(_)) => return None,
        };
        Some((id, event))
    }

    /// Bytes waiting or being sent.
    pub(super) fn queued_bytes(&self, id: ConnId) -> u64 {
        let place = self.places.get(usize::from(id.index));
        let conn =
            place.filter(|place| place.0 == id.generation).and_then(|place| place.1.as_ref());
        conn.map_or(0, |conn| conn.outbox.queued_bytes())
    }

    /// Says a last word and ends the connection once it is said. If it cannot be said now, the
    /// connection ends without.
    pub(super) fn part<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId, word: &[u8]) {
        let Some(conn) = self.get(id) else { return };
        if conn.sending {
            return self.end(ring, pool, id);
        }
        conn.outbox.clear(ring, pool);
        conn.outbox.push(pool, word, None);
        self.send(ring, pool, id);
        if let Some(conn) = self.get(id) {
            // Not shut down before the word has gone: see the completion of a send.
            conn.ending = true;
        }
    }

    /// Lets go of a connection on which nothing is under way, and gives its socket away.
    pub(super) fn hand_over(&mut self, pool: &mut Pool, id: ConnId) -> Option<SocketId> {
        let conn = self.get(id).filter(|conn| !conn.receiving && !conn.sending)?;
        let (socket, inbox) = (conn.socket.take(), conn.inbox.take());
        if let Some(inbox) = inbox {
            inbox.release(pool);
        }
        self.places[usize::from(id.index)].1 = None;
        socket
    }

    /// Places in use, those being closed included.
    pub(super) fn count(&self) -> usize {
        self.places.iter().filter(|(_, conn)| conn.is_some()).count()
    }
}
