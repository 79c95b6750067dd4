//! A kernel in memory: sockets whose other ends the test holds, bytes that move when it says so.

use std::collections::{BTreeMap, VecDeque};

use crate::buffer::{Pool, Span};
use crate::ring::{Chunk, Completion, Errno, Gather, Op, Ring, SocketId, Token};
use crate::units::Nanos;

/// One socket, with the client's end.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What the client has sent and the server has not received.
    pub(super) to_server: VecDeque<u8>,
    /// What the client has received.
    pub(super) from_server: Vec<u8>,
    /// Most bytes a receive brings; 0: as many as there are.
    pub(super) fragment: usize,
    /// The client reads its replies.
    pub(super) reads: bool,
    /// The client has closed its sending side.
    pub(super) hung_up: bool,
    /// The client is gone altogether.
    pub(super) gone: bool,
    /// The server has closed the socket.
    pub(super) closed: bool,
    /// Sends that have ended.
    pub(super) sends: usize,
    /// Receives that went straight into a payload, by their offset in the slot.
    pub(super) received_at: Vec<u32>,
    shut: bool,
    receive: Option<(Token, Span)>,
    send: Option<(Token, Box<Gather>)>,
}

#[derive(Debug, Default)]
pub(super) struct TestRing {
    pub(super) now: Nanos,
    pub(super) wires: BTreeMap<u32, Wire>,
    closes: Vec<(Token, SocketId)>,
}

impl TestRing {
    pub(super) fn open(&mut self) -> SocketId {
        let id = u32::try_from(self.wires.len()).unwrap();
        self.wires.insert(id, Wire { reads: true, ..Wire::default() });
        SocketId(id)
    }

    pub(super) fn wire(&mut self, socket: SocketId) -> &mut Wire {
        self.wires.get_mut(&socket.0).unwrap()
    }
}

impl Wire {
    fn end(token: Token, result: Result<u32, Errno>) -> Completion {
        Completion { token, result, gather: None }
    }

    fn move_in(&mut self, pool: &mut Pool) -> Option<Completion> {
        let (token, span) = self.receive?;
        let result = if self.shut {
            Ok(0)
        } else if self.gone {
            Err(Errno(libc::ECONNRESET))
        } else if !self.to_server.is_empty() {
            let most = if self.fragment == 0 { usize::MAX } else { self.fragment };
            let length = self.to_server.len().min(most).min(span.length as usize);
            let span = Span { length: u32::try_from(length).unwrap(), ..span };
            for (to, from) in pool.bytes_mut(span).iter_mut().zip(self.to_server.drain(..length)) {
                *to = from;
            }
            self.received_at.push(span.offset);
            Ok(span.length)
        } else if self.hung_up {
            Ok(0)
        } else {
            return None;
        };
        self.receive = None;
        Some(Self::end(token, result))
    }

    fn move_out(&mut self, pool: &Pool) -> Option<Completion> {
        let broken = self.shut || self.gone;
        if !broken && !self.reads {
            return None;
        }
        let (token, gather) = self.send.take()?;
        self.sends += 1;
        if broken {
            let result = Err(Errno(libc::EPIPE));
            return Some(Completion { token, result, gather: Some(gather) });
        }
        for chunk in &gather.chunks {
            match chunk {
                Chunk::Copied { start, length } => {
                    let bytes = &gather.copied[*start as usize..][..*length as usize];
                    self.from_server.extend_from_slice(bytes);
                }
                Chunk::Slot(span) => self.from_server.extend_from_slice(pool.bytes(*span)),
            }
        }
        let result = Ok(u32::try_from(gather.len_bytes()).unwrap());
        Some(Completion { token, result, gather: Some(gather) })
    }
}

impl Ring for TestRing {
    fn now(&self) -> Nanos {
        self.now
    }

    fn random(&mut self) -> u64 {
        4
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        match op {
            Op::Recv { socket, into } => {
                let _ = pool.address(into);
                assert!(into.length > 0, "a receive into nothing looks like the end");
                let wire = self.wire(socket);
                assert!(!wire.closed && wire.receive.is_none(), "one receive at a time");
                wire.receive = Some((token, into));
            }
            Op::Send { socket, gather } => {
                assert!(gather.chunks.len() <= 256 && gather.len_bytes() <= 5 << 20);
                let wire = self.wire(socket);
                assert!(!wire.closed && wire.send.is_none(), "one send at a time");
                wire.send = Some((token, gather));
            }
            Op::Close { socket } => self.closes.push((token, socket)),
            op => panic!("{op:?} is not for an export"),
        }
    }

    fn has_hung_up(&self, socket: SocketId) -> bool {
        let wire = &self.wires[&socket.0];
        wire.hung_up || wire.gone
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.wire(socket).shut = true;
    }

    fn turn(&mut self, pool: &mut Pool, _: Nanos, completions: &mut Vec<Completion>) {
        for (token, socket) in std::mem::take(&mut self.closes) {
            let wire = self.wire(socket);
            assert!(wire.receive.is_none() && wire.send.is_none(), "closed while in use");
            assert!(!wire.closed, "closed twice");
            wire.closed = true;
            completions.push(Wire::end(token, Ok(0)));
        }
        for wire in self.wires.values_mut() {
            completions.extend(wire.move_in(pool));
            completions.extend(wire.move_out(pool));
        }
    }
}
