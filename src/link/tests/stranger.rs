//! Owns a connection made by someone who is no link: it says what it is told to.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use super::world::{FakeRing, Net};
use crate::buffer::{Budgets, Payload, Pool, Purpose, Span};
use crate::ring::{Completion, Gather, Op, Ring, SocketId, Token};
use crate::units::Nanos;

/// The node number of strangers.
const NODE: usize = 9;

pub(super) struct Stranger {
    ring: FakeRing,
    pool: Pool,
    buffer: Payload,
    socket: Option<SocketId>,
    unsaid: Vec<u8>,
    pub(super) heard: Vec<u8>,
    pub(super) closed: bool,
}

impl Stranger {
    /// Connects and says these bytes.
    pub(super) fn new(net: &Rc<RefCell<Net>>, address: SocketAddr, words: &[u8]) -> Self {
        let mut ring = FakeRing::new(net, NODE);
        let budgets = Budgets { client_bytes: 1 << 20, peer_bytes: 1, background_bytes: 1 };
        let mut pool = Pool::new(budgets);
        let buffer = pool.take(Purpose::Fixed, 4096).expect("unlimited");
        ring.submit(&pool, Token(0), Op::Connect { address, from: None });
        let (unsaid, heard) = (words.to_vec(), Vec::new());
        Self { ring, pool, buffer, socket: None, unsaid, heard, closed: false }
    }

    /// What is still to be said, after what has been said.
    pub(super) fn say(&mut self, words: &[u8]) {
        self.unsaid.extend_from_slice(words);
        self.speak();
    }

    fn speak(&mut self) {
        let Some(socket) = self.socket else { return };
        if self.closed || self.unsaid.is_empty() {
            return;
        }
        let mut gather = Box::new(Gather::default());
        gather.push_bytes(&std::mem::take(&mut self.unsaid));
        self.ring.submit(&self.pool, Token(2), Op::Send { socket, gather });
    }

    fn listen(&mut self) {
        let Some(socket) = self.socket else { return };
        let into = Span { slot: self.buffer.share(), offset: 0, length: 4096 };
        self.ring.submit(&self.pool, Token(1), Op::Recv { socket, into });
    }

    /// Whether anything happened.
    pub(super) fn turn(&mut self) -> bool {
        let mut completions = Vec::new();
        self.ring.turn(&mut self.pool, Nanos(0), &mut completions);
        let any = !completions.is_empty();
        for Completion { token, result, .. } in completions {
            match (token.0, result) {
                (0, Ok(socket)) => {
                    self.socket = Some(SocketId(socket));
                    self.speak();
                    self.listen();
                }
                (1, Ok(length)) if length > 0 => {
                    let span = Span { slot: self.buffer.share(), offset: 0, length };
                    self.heard.extend_from_slice(self.pool.bytes(span));
                    self.listen();
                }
                (2, _) => {}
                _ => self.closed = true,
            }
        }
        // Only the listening may be left by then.
        if self.closed
            && self.ring.pending() == 0
            && let Some(socket) = self.socket.take()
        {
            self.ring.submit(&self.pool, Token(3), Op::Close { socket });
            return true;
        }
        any || self.ring.fresh
    }

    pub(super) fn next_event(&self) -> Nanos {
        self.ring.next_event()
    }
}
