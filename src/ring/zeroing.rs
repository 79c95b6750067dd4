//! Owns how a range is made zero: by punching, by the file system's own zeroes, or by writing
//! them, whichever the file can. Must never call the kernel, nor use a way that may leave a range
//! reading as anything else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::FallocateFlags;

use super::transfer::{Next, Patience};
use super::{Errno, ZeroMode};

/// Bytes of zeroes written at once.
pub(super) const CHUNK_BYTES: u32 = 1 << 20;

const ALIGN_BYTES: usize = 4096;

/// One chunk of zeroes, aligned for direct I/O, one for the process.
pub(super) fn zeroes() -> &'static [u8] {
    static ZEROES: OnceLock<Vec<u8>> = OnceLock::new();
    let memory = ZEROES.get_or_init(|| vec![0; CHUNK_BYTES as usize + ALIGN_BYTES]);
    let start = memory.as_ptr().align_offset(ALIGN_BYTES);
    &memory[start..start + CHUNK_BYTES as usize]
}

/// What a file was found not to support, so that it is not asked again.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    punch: AtomicBool,
    range: AtomicBool,
}

/// One call towards zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `fallocate` of the whole rest: offset, length.
    Allocate(FallocateFlags, u64, u64),
    /// Write zeroes: offset, length.
    Write(u64, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Give the space back. On a block device the kernel does this only where it reads as zeroes.
    Punch,
    /// Let the file system or device make zeroes.
    Range,
    /// Write them.
    Write,
}

/// One range on its way to zeroes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeroing {
    at: u64,
    end: u64,
    way: Way,
    patience: Patience,
}

impl Zeroing {
    pub(super) fn new(offset: u64, length: u64, mode: ZeroMode, refusals: &Refusals) -> Self {
        let punch = mode == ZeroMode::Discard && !refusals.punch.load(Ordering::Relaxed);
        let range = !refusals.range.load(Ordering::Relaxed);
        let way = match (punch, range) {
            (true, _) => Way::Punch,
            (false, true) => Way::Range,
            (false, false) => Way::Write,
        };
        Self { at: offset, end: offset.saturating_add(length), way, patience: Patience::default() }
    }

    /// The call to make now.
    pub(super) fn step(&self) -> Step {
        let left = self.end - self.at;
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match self.way {
            Way::Punch => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep_size;
                Step::Allocate(flags, self.at, left)
            }
            Way::Range => {
                let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | keep_size;
                Step::Allocate(flags, self.at, left)
            }
            Way::Write => {
                let length = u32::try_from(left).unwrap_or(CHUNK_BYTES);
                Step::Write(self.at, length.min(CHUNK_BYTES))
            }
        }
    }

    /// Takes the result of [`step`](Self::step). `align` as for a transfer.
    pub(super) fn advance(
        &mut self,
        got: Result<u32, Errno>,
        align: u32,
        refusals: &Refusals,
    ) -> Next {
        match (self.way, got) {
            (Way::Punch | Way::Range, Ok(_)) => Next::End(Ok(0)),
            (Way::Punch | Way::Range, Err(errno)) if is_refusal(errno) => {
                self.fall_back(errno, refusals);
                Next::Again
            }
            (Way::Write, Ok(count)) => {
                let aligned = u64::from(count - count % align);
                if self.at + u64::from(count) >= self.end {
                    return Next::End(Ok(0));
                }
                if aligned == 0 {
                    return self.patience.again(Errno(libc::EIO));
                }
                self.at += aligned;
                self.patience.renew();
                Next::Again
            }
            (_, Err(_)) => self.patience.unless_interrupted(got),
        }
    }

    /// Takes the next way; remembers the refusal unless it was about this range only.
    fn fall_back(&mut self, errno: Errno, refusals: &Refusals) {
        let lasting = errno.0 != libc::EINVAL;
        let refused = if self.way == Way::Punch { &refusals.punch } else { &refusals.range };
        if lasting {
            refused.store(true, Ordering::Relaxed);
        }
        let range_left = self.way == Way::Punch && !refusals.range.load(Ordering::Relaxed);
        self.way = if range_left { Way::Range } else { Way::Write };
    }
}

/// Whether an error says "not in this way" (`EINVAL`: not for this range), not "broken".
const fn is_refusal(errno: Errno) -> bool {
    matches!(errno.0, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_SUPPORTED: Result<u32, Errno> = Err(Errno(libc::EOPNOTSUPP));

    #[test]
    fn a_file_that_can_neither_gets_zeroes_written() {
        let refusals = Refusals::default();
        let mut zeroing = Zeroing::new(4096, 3 << 20, ZeroMode::Discard, &refusals);
        assert!(matches!(zeroing.step(), Step::Allocate(_, 4096, _)));
        assert_eq!(zeroing.advance(NOT_SUPPORTED, 4096, &refusals), Next::Again);
        assert!(matches!(zeroing.step(), Step::Allocate(_, 4096, _)));
        assert_eq!(zeroing.advance(NOT_SUPPORTED, 4096, &refusals), Next::Again);
        let mut written = 0;
        loop {
            let Step::Write(offset, length) = zeroing.step() else {
                panic!("no other way is left");
            };
            assert_eq!(offset, 4096 + written);
            written += u64::from(length);
            match zeroing.advance(Ok(length), 4096, &refusals) {
                Next::Again => {}
                Next::End(result) => break assert_eq!(result, Ok(0)),
            }
        }
        assert_eq!(written, 3 << 20);
        let next = Zeroing::new(0, 4096, ZeroMode::Discard, &refusals);
        assert_eq!(next.step(), Step::Write(0, 4096));
    }

    #[test]
    fn keep_never_punches_and_a_broken_disk_is_an_error() {
        let refusals = Refusals::default();
        let mut zeroing = Zeroing::new(0, 8192, ZeroMode::Keep, &refusals);
        let Step::Allocate(flags, 0, 8192) = zeroing.step() else {
            panic!("the whole range at once");
        };
        assert!(!flags.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE));
        let broken = Err(Errno(libc::EIO));
        assert_eq!(zeroing.advance(broken, 4096, &refusals), Next::End(broken));
    }

    #[test]
    fn a_short_write_of_zeroes_goes_on_from_the_alignment() {
        let refusals = Refusals::default();
        refusals.range.store(true, Ordering::Relaxed);
        let mut zeroing = Zeroing::new(0, 1 << 20, ZeroMode::Keep, &refusals);
        assert_eq!(zeroing.advance(Ok(5000), 4096, &refusals), Next::Again);
        assert_eq!(zeroing.step(), Step::Write(4096, (1 << 20) - 4096));
    }

    #[test]
    fn the_chunk_is_aligned_and_zero() {
        assert_eq!(zeroes().as_ptr() as usize % ALIGN_BYTES, 0);
        assert_eq!(zeroes().len(), CHUNK_BYTES as usize);
        assert!(zeroes().iter().all(|byte| *byte == 0));
    }
}
