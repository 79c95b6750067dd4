//! Owns strangers: connections accepted on the link's address whose first message has not been
//! read. Must never believe what they say, keep them long, or keep many.
//!
//! The first message names a resource and the dialling node; whoever composes the node hands the
//! connection to that [`Link`](super::Link), which demands proof. Every address serves all
//! resources.

use std::collections::VecDeque;

use super::conn::{ConnId, Conns, Event};
use super::options::HANDSHAKE_LIMIT;
use crate::buffer::Pool;
use crate::format::hello::{Hello, MESSAGE_BYTES_MAX, Message, Refusal};
use crate::ring::{Completion, Errno, Lane, ListenerId, Op, Ring, SocketId};
use crate::units::Nanos;

/// Strangers at once. The oldest goes when one more comes: an honest one needs a round trip.
const STRANGERS_MAX: usize = 64;

/// Places for them, including those on their way out.
const PLACES_MAX: usize = 128;

/// Pause after a failed accept: descriptors may be used up, and an error must not spin.
const ACCEPT_PAUSE: Nanos = Nanos::from_millis(100);

/// Marks a token of an accept; below are those of `conn`.
const ACCEPT: u64 = 15 << 36;

/// A connection and the greeting that came on it.
#[derive(Debug)]
pub struct Arrival {
    /// Nothing is under way on it.
    pub socket: SocketId,
    /// What its dialler claims. Nothing of it is proven.
    pub hello: Hello,
    /// The same as it came.
    pub bytes: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Door {
    listener: ListenerId,
    /// When to accept again after an error; never while an accept is under way.
    again_at: Nanos,
    /// The error that was said already.
    said: Option<Errno>,
}

/// Accepts connections and reads their greetings.
#[derive(Debug)]
pub struct Doorman {
    lane: Lane,
    doors: Vec<Door>,
    conns: Conns,
    /// Oldest first, each with the end of its patience.
    strangers: VecDeque<(ConnId, Nanos)>,
}

impl Doorman {
    /// For these listeners; all tokens are of `lane`. The first [`on_time`](Self::on_time) opens
    /// the doors.
    #[must_use]
    pub fn new(lane: Lane, listeners: &[ListenerId]) -> Self {
        let door =
            |listener: &ListenerId| Door { listener: *listener, again_at: Nanos(0), said: None };
        Self {
            lane,
            doors: listeners.iter().map(door).collect(),
            conns: Conns::new(lane, PLACES_MAX, MESSAGE_BYTES_MAX),
            strangers: VecDeque::new(),
        }
    }

    /// Takes a completion of its lane. Appends who has said a whole greeting; each must go to
    /// [`Link::accept`](super::Link::accept) or [`refuse`](Self::refuse).
    pub fn on_completion<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        completion: Completion,
        arrivals: &mut Vec<Arrival>,
    ) {
        let (_, _, local) = completion.token.split();
        if local >= ACCEPT {
            self.on_accepted(ring, pool, local - ACCEPT, &completion);
        } else if let Some((id, event)) = self.conns.on_completion(ring, pool, completion) {
            match event {
                Event::Received => arrivals.extend(self.read(ring, pool, id)),
                _ => self.dismiss(ring, pool, id),
            }
        }
    }

    fn on_accepted<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        door: u64,
        completion: &Completion,
    ) {
        let door = usize::try_from(door).ok().and_then(|door| self.doors.get_mut(door));
        let Some(door) = door else { return };
        match completion.result {
            Ok(socket) => {
                (door.again_at, door.said) = (Nanos(0), None);
                self.greet(ring, pool, SocketId(socket));
            }
            Err(errno) => {
                if door.said.replace(errno) != Some(errno) {
                    tracing::warn!("cannot accept connections of peers: {errno}; trying on");
                }
                door.again_at = ring.now() + ACCEPT_PAUSE;
            }
        }
        self.on_time(ring, pool);
    }

    fn greet<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, socket: SocketId) {
        if self.strangers.len() == STRANGERS_MAX
            && let Some((oldest, _)) = self.strangers.pop_front()
        {
            self.conns.end(ring, pool, oldest);
        }
        if let Some(id) = self.conns.adopt(ring, pool, socket) {
            self.strangers.push_back((id, ring.now() + HANDSHAKE_LIMIT));
            self.conns.receive(ring, pool, id);
        }
    }

    fn read<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId) -> Option<Arrival> {
        let inbox = self.conns.get(id)?.inbox.as_mut()?;
        match inbox.message(pool) {
            Ok(None) => {
                self.conns.receive(ring, pool, id);
                None
            }
            Ok(Some(bytes)) if inbox.is_empty() => {
                let Ok(Message::Hello(hello)) = Message::decode(&bytes) else {
                    self.dismiss(ring, pool, id);
                    return None;
                };
                self.strangers.retain(|(stranger, _)| *stranger != id);
                let socket = self.conns.hand_over(pool, id)?;
                Some(Arrival { socket, hello, bytes: bytes.into() })
            }
            // Garbage, or more than a greeting before the answer.
            Ok(Some(_)) | Err(_) => {
                self.dismiss(ring, pool, id);
                None
            }
        }
    }

    fn dismiss<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: ConnId) {
        self.strangers.retain(|(stranger, _)| *stranger != id);
        self.conns.end(ring, pool, id);
    }

    /// Tells an arrival why nobody takes it, and closes the connection.
    pub fn refuse<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        arrival: &Arrival,
        refusal: Refusal,
    ) {
        if let Some(id) = self.conns.adopt(ring, pool, arrival.socket) {
            let word = Message::Refusal(refusal).encode();
            self.conns.part(ring, pool, id, &word);
        }
    }

    /// Sends away who took too long, and opens the doors.
    pub fn on_time<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        let now = ring.now();
        while let Some((id, until)) = self.strangers.front().copied()
            && until <= now
        {
            self.dismiss(ring, pool, id);
        }
        for (at, door) in self.doors.iter_mut().enumerate() {
            if door.again_at <= now {
                door.again_at = Nanos::NEVER;
                let token = self.lane.token(ACCEPT + at as u64);
                ring.submit(pool, token, Op::Accept { listener: door.listener });
            }
        }
    }

    /// When [`on_time`](Self::on_time) must be called next.
    #[must_use]
    pub fn deadline(&self) -> Nanos {
        let doors = self.doors.iter().map(|door| door.again_at);
        let patience = self.strangers.front().map(|(_, until)| *until);
        doors.chain(patience).min().unwrap_or(Nanos::NEVER)
    }

    /// Connections in use, those being closed included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.count()
    }
}
