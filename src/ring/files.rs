//! Owns the files an engine works on, and how each is carried out without a ring: by plain calls
//! on the calling thread. Must never open or lock a file: the store does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fallocate, fcntl};

use super::system_calls::{self, Memory};
use super::transfer::{Direction, Next, Patience, Transfer};
use super::zeroing::{Refusals, Step, Zeroing};
use super::{Errno, FileId};

/// How a file's operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileEngine {
    /// By io_uring; on the portable ring the same as `Pool`.
    Uring,
    /// By plain calls on the shard's thread: only for files in memory (tmpfs), where that is
    /// twice as fast; anywhere else it would stall the shard. Zeroing still goes elsewhere.
    Inline,
    /// By a few threads.
    Pool,
}

/// Short direct transfers go on at a multiple of this.
const DIRECT_ALIGN_BYTES: u32 = 4096;

/// An open file and what was learnt about it.
#[derive(Debug)]
pub(super) struct Backing {
    fd: OwnedFd,
    /// Where the rest of a short transfer may begin.
    pub(super) align: u32,
    pub(super) refusals: Refusals,
}

impl Backing {
    fn new(fd: OwnedFd) -> Self {
        let flags = fcntl(&fd, FcntlArg::F_GETFL).unwrap_or(0);
        let direct = OFlag::from_bits_truncate(flags).contains(OFlag::O_DIRECT);
        Self {
            fd,
            align: if direct { DIRECT_ALIGN_BYTES } else { 1 },
            refusals: Refusals::default(),
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Carries an operation out from beginning to end; returns what its completion says.
    pub(super) fn carry_out(&self, errand: Errand) -> Result<u32, Errno> {
        match errand {
            Errand::Transfer(transfer) => self.transfer(transfer),
            Errand::Zero(zeroing) => self.zero(zeroing),
            Errand::Sync => self.sync(),
        }
    }

    fn transfer(&self, mut transfer: Transfer) -> Result<u32, Errno> {
        loop {
            let (memory, offset) = transfer.rest();
            let got = match transfer.direction {
                Direction::Read => system_calls::read_at(self.fd(), memory, offset),
                Direction::Write { durable } => {
                    system_calls::write_at(self.fd(), memory, offset, durable)
                }
            };
            if let Next::End(result) = transfer.advance(got, self.align) {
                return result;
            }
        }
    }

    fn zero(&self, mut zeroing: Zeroing) -> Result<u32, Errno> {
        loop {
            let got = match zeroing.step() {
                Step::Allocate(flags, offset, length) => self.allocate(flags, offset, length),
                Step::Write(offset, length) => {
                    system_calls::write_at(self.fd(), Memory::zeroes(length), offset, false)
                }
            };
            if let Next::End(result) = zeroing.advance(got, self.align, &self.refusals) {
                return result;
            }
        }
    }

    fn allocate(
        &self,
        flags: nix::fcntl::FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<u32, Errno> {
        let signed = |number: u64| i64::try_from(number).map_err(|_| Errno(libc::EFBIG));
        fallocate(&self.fd, flags, signed(offset)?, signed(length)?)
            .map(|()| 0)
            .map_err(|number| Errno(number as i32))
    }

    fn sync(&self) -> Result<u32, Errno> {
        let mut patience = Patience::default();
        loop {
            let got = nix::unistd::fdatasync(&self.fd).map_err(|number| Errno(number as i32));
            if let Next::End(result) = patience.unless_interrupted(got.map(|()| 0)) {
                return result;
            }
        }
    }
}

/// A disk operation as plain calls carry it out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Errand {
    Transfer(Transfer),
    Zero(Zeroing),
    Sync,
}

/// One registered file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) backing: Arc<Backing>,
    pub(super) engine: FileEngine,
    /// Operations not yet ended.
    in_flight: u32,
    /// So many of them the kernel has, and these wait for it to end some.
    in_kernel: u32,
    waiting: VecDeque<u32>,
}

/// The files of one engine, by id.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<Option<File>>);

impl Files {
    pub(super) fn register(&mut self, fd: OwnedFd, engine: FileEngine) -> FileId {
        let backing = Arc::new(Backing::new(fd));
        let file = File { backing, engine, in_flight: 0, in_kernel: 0, waiting: VecDeque::new() };
        let vacant = self.0.iter().position(Option::is_none);
        let index = vacant.unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[index] = Some(file);
        FileId(u32::try_from(index).expect("fewer files than descriptors"))
    }

    /// Gives the file back, unless an operation on it has not ended or nobody registered it.
    pub(super) fn release(&mut self, id: FileId) -> Option<OwnedFd> {
        let place = self.0.get_mut(id.0 as usize)?;
        if place.as_ref()?.in_flight > 0 {
            return None;
        }
        let backing = place.take()?.backing;
        // Errands let go of the file before they report, so this is its last owner.
        Arc::into_inner(backing).map(|backing| backing.fd)
    }

    pub(super) fn get(&self, id: FileId) -> Option<&File> {
        self.0.get(id.0 as usize)?.as_ref()
    }

    /// Notes the beginning of an operation.
    pub(super) fn begin(&mut self, id: FileId) {
        if let Some(Some(file)) = self.0.get_mut(id.0 as usize) {
            file.in_flight += 1;
        }
    }

    /// Whether an operation, by its place in the table of flights, may go to the kernel, which has less than
    /// `share` of this file; otherwise it waits its turn.
    pub(super) fn admit(&mut self, id: FileId, flight: u32, share: u32) -> bool {
        let Some(Some(file)) = self.0.get_mut(id.0 as usize) else {
            return true;
        };
        let admitted = file.in_kernel < share;
        if admitted {
            file.in_kernel += 1;
        } else {
            file.waiting.push_back(flight);
        }
        admitted
    }

    /// Notes the end of an operation; returns the one that may go to the kernel in its stead.
    pub(super) fn end(&mut self, id: FileId) -> Option<u32> {
        let file = self.0.get_mut(id.0 as usize)?.as_mut()?;
        file.in_flight -= 1;
        let next = file.waiting.pop_front();
        if next.is_none() {
            // Operations of other threads were never counted.
            file.in_kernel = file.in_kernel.saturating_sub(1);
        }
        next
    }
}
