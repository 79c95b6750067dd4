//! Owns what every engine has: files, sockets, disk threads, waker, random numbers, and the
//! completions due. Must never decide how an operation is carried out.

use std::os::fd::OwnedFd;

use super::endpoints::{Closing, Endpoints};
use super::entropy::Entropy;
use super::files::{Errand, FileEngine, Files};
use super::outgoing::Vectors;
use super::system_calls::Memory;
use super::transfer::{Direction, Transfer};
use super::waker::Waker;
use super::workers::Workers;
use super::zeroing::Zeroing;
use super::{Completion, Errno, FileId, Gather, Op, Ring, Token};
use crate::buffer::Pool;
use crate::units::Nanos;

/// The kernel alone would try to connect for minutes; whoever dials wants to try another way, or
/// again, before that.
const CONNECT_TIME: Nanos = Nanos::from_millis(5_000);

/// Vectors kept for the next sends; more are given back to the system.
const VECTORS_KEPT: usize = 256;

/// What [`SystemRing`](super::SystemRing) needs of an engine beyond the trait.
pub(super) trait Engine: Ring {
    fn held(&mut self) -> &mut Holdings;

    /// Takes in a socket or listener, set up as this engine needs it.
    fn adopt(&mut self, fd: OwnedFd) -> u32;

    /// Gives a socket back in blocking mode, if no operation on it is in flight.
    fn release(&mut self, id: u32) -> Option<OwnedFd>;
}

/// Where a disk operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At once, on this thread.
    Here,
    /// On the disk threads.
    Threads,
    /// In the engine's own way; on the portable engine never.
    Ring,
}

pub(super) struct Holdings {
    pub(super) files: Files,
    pub(super) endpoints: Endpoints,
    pub(super) workers: Workers,
    pub(super) waker: Waker,
    pub(super) entropy: Entropy,
    /// Completions of the next turn.
    pub(super) ready: Vec<Completion>,
    /// The waker was heard in the last turn.
    pub(super) woken: bool,
    /// After this long an attempt to connect has failed.
    pub(super) connect_time: Nanos,
    spare: Vec<Vectors>,
}

impl Holdings {
    pub(super) fn new() -> Result<Self, Errno> {
        let waker = Waker::new()?;
        Ok(Self {
            files: Files::default(),
            endpoints: Endpoints::default(),
            workers: Workers::new(waker.clone()),
            waker,
            entropy: Entropy::new(),
            ready: Vec::new(),
            woken: false,
            connect_time: CONNECT_TIME,
            spare: Vec::new(),
        })
    }

    pub(super) fn complete(&mut self, token: Token, result: Result<u32, Errno>) {
        self.ready.push(Completion { token, result, gather: None });
    }

    pub(super) fn complete_send(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        gather: Box<Gather>,
    ) {
        let gather = Some(gather);
        self.ready.push(Completion { token, result, gather });
    }

    /// Vectors for a send.
    pub(super) fn vectors(&mut self) -> Vectors {
        self.spare.pop().unwrap_or_else(Vectors::new)
    }

    /// Takes vectors back after a send.
    pub(super) fn keep(&mut self, vectors: Vectors) {
        if self.spare.len() < VECTORS_KEPT {
            self.spare.push(vectors);
        }
    }

    /// Whether a socket is known and takes operations.
    pub(super) fn is_open(&self, id: u32) -> bool {
        self.endpoints.get(id).is_some_and(|endpoint| !endpoint.is_closing())
    }

    /// Begins closing a socket; it is closed when its operations have ended.
    pub(super) fn close(&mut self, token: Token, id: u32) {
        if self.endpoints.close(id, Closing::Tell(token)) {
            self.settle(id);
        } else {
            self.complete(token, Err(Errno(libc::EBADF)));
        }
    }

    /// Closes a socket whose time has come.
    pub(super) fn settle(&mut self, id: u32) {
        if let Some(Closing::Tell(token)) = self.endpoints.settle(id) {
            self.complete(token, Ok(0));
        }
    }

    /// The file and errand of a disk operation, or why it cannot be; `None` for other operations.
    pub(super) fn errand(&self, pool: &Pool, op: &Op) -> Option<Result<(FileId, Errand), Errno>> {
        let (file, errand) = match *op {
            Op::Read { file, offset, into } => {
                let memory = Memory::of(pool, into);
                let transfer = Transfer::new(Direction::Read, memory, offset);
                (file, Errand::Transfer(transfer))
            }
            Op::Write { file, offset, from, durable } => {
                let memory = Memory::of(pool, from);
                let transfer = Transfer::new(Direction::Write { durable }, memory, offset);
                (file, Errand::Transfer(transfer))
            }
            Op::Zero { file, offset, length, mode } => {
                let Some(found) = self.files.get(file) else {
                    return Some(Err(Errno(libc::EBADF)));
                };
                let zeroing = Zeroing::new(offset, length, mode, &found.backing.refusals);
                (file, Errand::Zero(zeroing))
            }
            Op::Sync { file } => (file, Errand::Sync),
            _ => return None,
        };
        if self.files.get(file).is_none() {
            return Some(Err(Errno(libc::EBADF)));
        }
        Some(Ok((file, errand)))
    }

    /// Where an errand belongs. Making zeroes can take long, so it never runs here.
    pub(super) fn place(&self, file: FileId, errand: &Errand) -> Place {
        let engine = self.files.get(file).map(|found| found.engine);
        match (engine, errand) {
            (Some(FileEngine::Pool), _) => Place::Threads,
            (Some(FileEngine::Inline), Errand::Transfer(_) | Errand::Sync) => Place::Here,
            _ => Place::Ring,
        }
    }

    /// Carries an errand out at once; its completion is due in the next turn.
    pub(super) fn carry_out(&mut self, token: Token, file: FileId, errand: Errand) {
        let found = self.files.get(file);
        let result = found.map_or(Err(Errno(libc::EBADF)), |file| file.backing.carry_out(errand));
        self.complete(token, result);
    }

    /// Sends an errand to the disk threads, under the key of its operation.
    pub(super) fn send_out(&mut self, key: u64, file: FileId, errand: Errand) {
        if let Some(found) = self.files.get(file) {
            self.workers.send(key, &found.backing, errand);
        }
    }
}
