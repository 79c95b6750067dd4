//! Owns a network of byte queues behind the ring of a link. Must never lose or change a byte on
//! its own, and has no clock: time stands still.

use std::collections::VecDeque;

use twinblk::buffer::{Pool, Span};
use twinblk::ring::{Chunk, Completion, Errno, Gather, Op, Ring, SocketId, Token};
use twinblk::units::Nanos;

const NOW: Nanos = Nanos(1_000_000_000);
const PIPE: Errno = Errno(32);

/// So many receives are cut short; after them whatever is there comes at once, or a stream of
/// megabytes in crumbs would take minutes.
const PIECES_MAX: usize = 4096;

/// One end of a connection.
#[derive(Default)]
pub(super) struct Socket {
    /// What arrives.
    pub(super) inbound: VecDeque<u8>,
    /// What was sent.
    pub(super) outbound: Vec<u8>,
    /// Nothing arrives after `inbound`.
    pub(super) ended: bool,
    shut: bool,
}

/// The ring of one node.
#[derive(Default)]
pub(super) struct Wires {
    /// By socket id.
    pub(super) sockets: Vec<Socket>,
    /// The most bytes that each receive gets, in turn.
    pub(super) pieces: Vec<usize>,
    received: usize,
    pending: VecDeque<(Token, Op)>,
    drawn: u64,
}

impl Wires {
    /// A new socket.
    pub(super) fn open(&mut self) -> SocketId {
        self.sockets.push(Socket::default());
        SocketId(count(self.sockets.len() - 1))
    }

    fn piece(&mut self) -> usize {
        self.received += 1;
        let short = self.received <= PIECES_MAX && !self.pieces.is_empty();
        if short { self.pieces[self.received % self.pieces.len()] } else { usize::MAX }
    }

    fn receive(&mut self, pool: &mut Pool, socket: SocketId, into: Span) -> Option<u32> {
        let piece = self.piece();
        let socket = &mut self.sockets[socket.0 as usize];
        if socket.shut || (socket.ended && socket.inbound.is_empty()) {
            return Some(0);
        }
        let mut length = socket.inbound.len().min(into.length as usize).min(piece);
        if length == 0 {
            return None;
        }
        // What lies on both sides of the queue's seam comes in two receives.
        let run = socket.inbound.as_slices().0;
        length = length.min(run.len());
        let into = Span { length: count(length), ..into };
        pool.bytes_mut(into).copy_from_slice(&run[..length]);
        socket.inbound.drain(..length);
        Some(into.length)
    }

    fn send(&mut self, pool: &Pool, socket: SocketId, gather: &Gather) -> Result<u32, Errno> {
        let socket = &mut self.sockets[socket.0 as usize];
        if socket.shut {
            return Err(PIPE);
        }
        for chunk in &gather.chunks {
            socket.outbound.extend_from_slice(match chunk {
                Chunk::Copied { start, length } => {
                    &gather.copied[*start as usize..][..*length as usize]
                }
                Chunk::Slot(span) => pool.bytes(*span),
            });
        }
        Ok(u32::try_from(gather.len_bytes()).expect("small"))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("small")
}

impl Ring for Wires {
    fn now(&self) -> Nanos {
        NOW
    }

    fn random(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn submit(&mut self, _: &Pool, token: Token, op: Op) {
        self.pending.push_back((token, op));
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.sockets[socket.0 as usize].shut = true;
    }

    fn has_hung_up(&self, _: SocketId) -> bool {
        false
    }

    fn turn(&mut self, pool: &mut Pool, _: Nanos, completions: &mut Vec<Completion>) {
        for (token, op) in std::mem::take(&mut self.pending) {
            let (result, gather) = match op {
                Op::Connect { .. } => (Ok(self.open().0), None),
                Op::Close { .. } => (Ok(0), None),
                Op::Recv { socket, into } => match self.receive(pool, socket, into) {
                    Some(length) => (Ok(length), None),
                    None => {
                        self.pending.push_back((token, op));
                        continue;
                    }
                },
                Op::Send { socket, gather } => (self.send(pool, socket, &gather), Some(gather)),
                other => panic!("a link does not do {other:?}"),
            };
            completions.push(Completion { token, result, gather });
        }
    }
}
