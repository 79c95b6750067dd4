//! Owns what the tests of both engines share. Every behaviour is tested on both.

mod disks;
mod limits;
mod sockets;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::*;
use crate::buffer::{Budgets, Payload, Pool, Purpose, Span};
use crate::units::Nanos;

/// Runs a test on io_uring and on the portable engine.
macro_rules! on_both {
    ($($(#[$attribute:meta])* fn $name:ident($world:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            fn check(mut $world: World) $body

            #[test]
            $(#[$attribute])*
            fn uring() {
                check(World::new(RingChoice::Uring));
            }

            #[test]
            $(#[$attribute])*
            fn portable() {
                check(World::new(RingChoice::Portable));
            }
        }
    )*};
}
pub(super) use on_both;

/// A ring and a pool, with calls that wait. The ring is dropped first.
struct World {
    ring: SystemRing,
    pool: Pool,
    completions: Vec<Completion>,
    next: u64,
}

impl World {
    fn new(choice: RingChoice) -> Self {
        Self {
            ring: SystemRing::new(choice).expect("both engines work where tests run"),
            pool: pool(),
            completions: Vec::new(),
            next: 0,
        }
    }

    fn take(&mut self, bytes: usize) -> (Payload, Span) {
        let payload = self.pool.take(Purpose::Client, bytes).expect("a large budget");
        let length = u32::try_from(bytes).expect("small");
        let slot = payload.share();
        let span = Span { slot, offset: 0, length };
        (payload, span)
    }

    /// A slot filled with a pattern that differs in each block.
    fn pattern(&mut self, bytes: usize, seed: u8) -> (Payload, Span) {
        let (payload, span) = self.take(bytes);
        for (index, byte) in self.pool.bytes_mut(span).iter_mut().enumerate() {
            *byte = (index / 4096 + index).to_le_bytes()[0] ^ seed;
        }
        (payload, span)
    }

    fn start(&mut self, op: Op) -> Token {
        self.next += 1;
        let token = Token(self.next);
        self.ring.submit(&self.pool, token, op);
        token
    }

    /// Turns until an operation has completed; other completions are kept.
    fn wait(&mut self, token: Token) -> Completion {
        loop {
            if let Some(at) = self.completions.iter().position(|found| found.token == token) {
                return self.completions.remove(at);
            }
            self.ring.turn(&mut self.pool, Nanos::NEVER, &mut self.completions);
        }
    }

    fn run(&mut self, op: Op) -> Result<u32, Errno> {
        let token = self.start(op);
        self.wait(token).result
    }

    /// Turns once, without waiting.
    fn peek(&mut self) {
        self.ring.turn(&mut self.pool, Nanos(0), &mut self.completions);
    }
}

fn pool() -> Pool {
    Pool::new(Budgets { client_bytes: 1 << 30, peer_bytes: 0, background_bytes: 0 })
}

/// An empty file of `bytes` bytes on the disk that holds this program, opened past the cache
/// where that can be done.
fn disk_file(bytes: u64) -> OwnedFd {
    let program = std::env::current_exe().expect("this program");
    let file = file_in(program.parent().expect("a directory").into(), bytes);
    let _ = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_DIRECT));
    file
}

/// An empty file of `bytes` bytes in memory.
fn memory_file(bytes: u64) -> OwnedFd {
    file_in("/dev/shm".into(), bytes)
}

fn file_in(directory: PathBuf, bytes: u64) -> OwnedFd {
    let file = tempfile::tempfile_in(directory).expect("a writable directory");
    file.set_len(bytes).expect("space");
    file.into()
}
