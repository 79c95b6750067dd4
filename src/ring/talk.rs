//! Owns one operation on a socket, as both engines see it. Must never carry it out.

use super::endpoints::Stream;
use super::holdings::Holdings;
use super::outgoing::Outgoing;
use super::system_calls::Memory;
use super::{Errno, Op, Token};
use crate::buffer::Pool;

/// Something to do with a socket, and what it needs until its end.
pub(super) enum Act {
    Receive(Memory),
    Send(Outgoing),
    Accept,
}

/// An operation on the socket or listener `id`.
pub(super) struct Talk {
    pub(super) id: u32,
    pub(super) act: Act,
}

impl Talk {
    pub(super) const fn stream(&self) -> Stream {
        match self.act {
            Act::Receive(_) | Act::Accept => Stream::Incoming,
            Act::Send(_) => Stream::Outgoing,
        }
    }
}

impl Holdings {
    /// Turns an operation on an open socket into what is to be done; what needs no doing
    /// completes here: a close begins, and what cannot be is refused.
    pub(super) fn talk(&mut self, pool: &Pool, token: Token, op: Op) -> Option<Talk> {
        let (id, act) = match op {
            Op::Recv { socket, into } => (socket.0, Act::Receive(Memory::of(pool, into))),
            Op::Accept { listener } => (listener.0, Act::Accept),
            Op::Send { socket, gather } => {
                if !self.is_open(socket.0) {
                    self.complete_send(token, Err(Errno(libc::EBADF)), gather);
                    return None;
                }
                if gather.len_bytes() == 0 {
                    self.complete_send(token, Ok(0), gather);
                    return None;
                }
                let outgoing = Outgoing::new(pool, gather, self.vectors());
                (socket.0, Act::Send(outgoing))
            }
            Op::Close { socket } => {
                self.close(token, socket.0);
                return None;
            }
            // Operations of disks and connections go other ways.
            Op::Read { .. }
            | Op::Write { .. }
            | Op::Zero { .. }
            | Op::Sync { .. }
            | Op::Connect { .. } => return None,
        };
        if !self.is_open(id) {
            self.complete(token, Err(Errno(libc::EBADF)));
            return None;
        }
        Some(Talk { id, act })
    }

    /// Completes an operation with what came of it; for an accept, the new id.
    pub(super) fn end_talk(&mut self, token: Token, talk: Talk, result: Result<u32, Errno>) {
        match talk.act {
            Act::Send(outgoing) => {
                let (gather, vectors) = outgoing.into_parts();
                self.keep(vectors);
                self.complete_send(token, result, gather);
            }
            // Its listener was closed under it.
            Act::Accept if result.is_err() && !self.is_open(talk.id) => {
                self.complete(token, Err(Errno(libc::ECANCELED)));
            }
            Act::Receive(_) | Act::Accept => self.complete(token, result),
        }
    }
}
