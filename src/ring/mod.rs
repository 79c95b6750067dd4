//! Owns the edge to the kernel: disk operations, sockets, time, randomness, wake-ups, behind one
//! trait with completions. io_uring and a portable twin stand behind it in production, a seeded
//! world in the simulator. Must never know what a write is.

mod dial;
mod endpoints;
mod entries;
mod entropy;
mod files;
mod flights;
mod holdings;
mod outgoing;
mod polling;
mod portable;
mod setup;
mod system;
pub(crate) mod system_calls;
mod talk;
mod transfer;
mod uring;
mod waker;
mod workers;
mod zeroing;

#[cfg(test)]
mod tests;

pub use files::FileEngine;
pub use system::{RingChoice, RingError, SystemRing};
pub use waker::Waker;

use crate::buffer::{Pool, Span};
use crate::units::Nanos;

/// An open file or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// An open stream socket. Ids are reused only after the completion of `Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// What the submitter gave with an operation; comes back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// The tokens of one part: the upper 24 bits say whose they are, the lower 40 are the part's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(u64);

impl Lane {
    /// The lane of `part` (a number the composition chose) for its `owner`-th instance.
    #[must_use]
    pub const fn new(part: u8, owner: u16) -> Self {
        Self((part as u64) << 56 | (owner as u64) << 40)
    }

    /// Which instance of the part it is.
    #[must_use]
    pub const fn owner(self) -> u16 {
        Token(self.0).split().1
    }

    /// The token of the part's own number `local`, below 2^40.
    #[must_use]
    pub const fn token(self, local: u64) -> Token {
        assert!(local < 1 << 40);
        Token(self.0 | local)
    }
}

impl Token {
    /// The part, the owner and the part's own number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the shifts leave just the bits wanted")]
    pub const fn split(self) -> (u8, u16, u64) {
        ((self.0 >> 56) as u8, (self.0 >> 40) as u16, self.0 & ((1 << 40) - 1))
    }
}

/// An error number of the operating system, such as `libc::EIO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Bytes to send in one go: small headers, copied in, and spans of slots.
#[derive(Debug, Default)]
pub struct Gather {
    /// Copied bytes, addressed by `Chunk::Copied`.
    pub copied: Vec<u8>,
    /// What to send, in order.
    pub chunks: Vec<Chunk>,
}

/// A run of bytes in a [`Gather`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// `copied[start..start + length]`.
    Copied {
        /// First byte.
        start: u32,
        /// How many.
        length: u32,
    },
    /// Bytes of a slot.
    Slot(Span),
}

impl Gather {
    /// Appends a copy of `bytes`.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        let fit = |n: usize| u32::try_from(n).expect("headers are small");
        let (start, length) = (fit(self.copied.len()), fit(bytes.len()));
        self.copied.extend_from_slice(bytes);
        if let Some(Chunk::Copied { start: first, length: before }) = self.chunks.last_mut()
            && *first + *before == start
        {
            *before += length;
            return;
        }
        self.chunks.push(Chunk::Copied { start, length });
    }

    /// Appends bytes of a slot, which must be held until the completion.
    pub fn push_span(&mut self, span: Span) {
        self.chunks.push(Chunk::Slot(span));
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        let length = |chunk: &Chunk| match chunk {
            Chunk::Copied { length, .. } => u64::from(*length),
            Chunk::Slot(span) => u64::from(span.length),
        };
        self.chunks.iter().map(length).sum()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.copied.clear();
        self.chunks.clear();
    }
}

/// How zeroes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// Allocated zeroes.
    Keep,
    /// The space may be given back; reads as zeroes all the same, or falls back to `Keep`.
    Discard,
}

/// One operation. Slots named by it must be held until its completion.
#[derive(Debug)]
pub enum Op {
    /// Fills the span. Completes with its length; a read past the end is an error.
    Read {
        /// From.
        file: FileId,
        /// Offset in the file, in bytes; aligned as the file demands.
        offset: u64,
        /// To.
        into: Span,
    },
    /// Writes the whole span: short transfers, EINTR and EAGAIN are dealt with below this edge.
    Write {
        /// To.
        file: FileId,
        /// Offset in the file, in bytes; aligned as the file demands.
        offset: u64,
        /// From.
        from: Span,
        /// Complete only when stable (as O_DSYNC).
        durable: bool,
    },
    /// Makes a range read as zeroes.
    Zero {
        /// Of this file.
        file: FileId,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// How.
        mode: ZeroMode,
    },
    /// Makes stable every write completed before the submission (fdatasync).
    Sync {
        /// Which file.
        file: FileId,
    },
    /// Receives at least one byte into the span; 0 means the other side closed.
    Recv {
        /// From.
        socket: SocketId,
        /// To.
        into: Span,
    },
    /// Sends all bytes. The gather comes back with the completion.
    Send {
        /// To.
        socket: SocketId,
        /// What.
        gather: Box<Gather>,
    },
    /// Waits for a connection; completes with the new socket's id.
    Accept {
        /// Where.
        listener: ListenerId,
    },
    /// Connects; completes with the new socket's id.
    Connect {
        /// Where.
        address: std::net::SocketAddr,
        /// From, if a certain address of this host is to be used.
        from: Option<std::net::IpAddr>,
    },
    /// Closes a socket after its operations have ended; `Ring::shutdown` makes them end.
    Close {
        /// Which.
        socket: SocketId,
    },
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub token: Token,
    /// Bytes transferred, or the new id for `Accept` and `Connect`, or 0.
    pub result: Result<u32, Errno>,
    /// The gather of a `Send`.
    pub gather: Option<Box<Gather>>,
}

/// The kernel, as the data plane sees it. One per shard, used by one thread.
pub trait Ring {
    /// Time, monotonic, of `CLOCK_BOOTTIME`.
    fn now(&self) -> Nanos;

    /// A random number that nobody else can guess.
    fn random(&mut self) -> u64;

    /// Takes an operation; its completion comes out of a later [`turn`](Self::turn), never at once.
    fn submit(&mut self, pool: &Pool, token: Token, op: Op);

    /// Makes the operations of a socket end soon, with an error or 0.
    fn shutdown(&mut self, socket: SocketId);

    /// Whether the other end of a socket has gone or will send no more. For sockets on which no
    /// receive is under way, which would tell; a system call.
    fn has_hung_up(&self, socket: SocketId) -> bool;

    /// Waits until something completes, someone wakes the ring, or `until` passes; appends all
    /// completions there are.
    fn turn(&mut self, pool: &mut Pool, until: Nanos, completions: &mut Vec<Completion>);

    /// Gives back whatever a completion handed over. Rings that pool gathers override it.
    fn recycle(&mut self, gather: Box<Gather>) {
        drop(gather);
    }
}
