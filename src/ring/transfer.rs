//! Owns how one disk transfer goes on after a short or interrupted result, for all engines.
//! Must never call the kernel.

use super::Errno;
use super::system_calls::Memory;

/// Results without progress in a row after which an operation fails: interruptions and passing
/// shortages end long before, so this only stops an endless loop.
const FRUITLESS_MAX: u8 = 64;

/// What to do after a result of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again, for what is left.
    Again,
    /// The operation is over.
    End(Result<u32, Errno>),
}

/// Counts results without progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience(u8);

impl Patience {
    /// Again, or the end with `reason`.
    pub(super) fn again(&mut self, reason: Errno) -> Next {
        self.0 += 1;
        if self.0 < FRUITLESS_MAX { Next::Again } else { Next::End(Err(reason)) }
    }

    /// Progress was made.
    pub(super) fn renew(&mut self) {
        self.0 = 0;
    }

    /// For operations that end with their first result, unless it was an interruption.
    pub(super) fn unless_interrupted(&mut self, got: Result<u32, Errno>) -> Next {
        match got {
            Err(errno) if is_passing(errno) => self.again(errno),
            _ => Next::End(got),
        }
    }
}

/// Whether an error says only "ask again".
pub(super) const fn is_passing(errno: Errno) -> bool {
    matches!(errno.0, libc::EINTR | libc::EAGAIN)
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the disk.
    Read,
    /// To the disk; complete only when stable if `durable`.
    Write { durable: bool },
}

/// One read or write, and how far it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) direction: Direction,
    memory: Memory,
    offset: u64,
    done: u32,
    patience: Patience,
}

impl Transfer {
    pub(super) fn new(direction: Direction, memory: Memory, offset: u64) -> Self {
        Self { direction, memory, offset, done: 0, patience: Patience::default() }
    }

    /// Memory and file offset of what is left.
    pub(super) fn rest(&self) -> (Memory, u64) {
        (self.memory.skip(self.done), self.offset + u64::from(self.done))
    }

    /// Takes a result. `align`: the rest of a short transfer begins at a multiple of this, so that
    /// direct I/O accepts it; what is redone for that is the same bytes.
    pub(super) fn advance(&mut self, got: Result<u32, Errno>, align: u32) -> Next {
        let count = match got {
            Ok(count) => count,
            Err(errno) => return self.patience.unless_interrupted(Err(errno)),
        };
        let reached = self.done + count;
        if reached >= self.memory.length() {
            return Next::End(Ok(self.memory.length()));
        }
        if count == 0 && self.direction == Direction::Read {
            // Past the end of the file.
            return Next::End(Err(Errno(libc::EIO)));
        }
        let aligned = reached - reached % align;
        if aligned > self.done {
            self.done = aligned;
            self.patience.renew();
        }
        self.patience.again(Errno(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(direction: Direction) -> Transfer {
        Transfer::new(direction, Memory::zeroes(16384), 4096)
    }

    #[test]
    fn a_short_transfer_resumes_on_the_alignment() {
        let mut write = transfer(Direction::Write { durable: false });
        assert_eq!(write.advance(Ok(5000), 4096), Next::Again);
        assert_eq!((write.rest().0.length(), write.rest().1), (12288, 8192));
        assert_eq!(write.advance(Ok(12288), 4096), Next::End(Ok(16384)));
    }

    #[test]
    fn a_buffered_transfer_resumes_at_the_byte() {
        let mut write = transfer(Direction::Write { durable: false });
        assert_eq!(write.advance(Ok(5000), 1), Next::Again);
        assert_eq!(write.rest().1, 9096);
    }

    #[test]
    fn no_progress_ends_in_an_error() {
        let mut write = transfer(Direction::Write { durable: false });
        let ends = (0..200).find_map(|_| match write.advance(Ok(512), 4096) {
            Next::Again => None,
            Next::End(result) => Some(result),
        });
        assert_eq!(ends, Some(Err(Errno(libc::EIO))));
    }

    #[test]
    fn the_end_of_the_file_is_an_error_and_an_interruption_is_not() {
        let mut read = transfer(Direction::Read);
        assert_eq!(read.advance(Err(Errno(libc::EINTR)), 1), Next::Again);
        assert_eq!(read.advance(Err(Errno(libc::EAGAIN)), 1), Next::Again);
        assert_eq!(read.advance(Ok(0), 1), Next::End(Err(Errno(libc::EIO))));
        let broken = Errno(libc::ENOSPC);
        assert_eq!(read.advance(Err(broken), 1), Next::End(Err(broken)));
    }
}
