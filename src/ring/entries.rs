//! Owns what the kernel is asked for each operation of the io_uring engine. Must never submit it.
//!
//! What an entry points to lies on the heap and belongs to the operation's [`Work`], which stays
//! in the table of flights until the completion came.

use std::os::fd::AsRawFd;

use io_uring::types::{Fd, FsyncFlags, Timespec};
use io_uring::{opcode, squeue};

use super::dial::Dial;
use super::files::Errand;
use super::holdings::Holdings;
use super::system_calls::Memory;
use super::talk::{Act, Talk};
use super::transfer::{Direction, Patience};
use super::zeroing::Step;
use super::{Errno, FileId};
use crate::units::Nanos;

/// Sends go out whole if possible, and raise no signal.
const SEND_FLAGS: u32 = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;

/// A connection being made, in memory of its own.
pub(super) struct Dialing {
    pub(super) dial: Dial,
    limit: Timespec,
}

impl Dialing {
    /// To be given up after `limit`.
    pub(super) fn new(dial: Dial, limit: Nanos) -> Box<Self> {
        let limit = timespec(limit);
        Box::new(Self { dial, limit })
    }
}

/// One operation, with all it needs until its end.
pub(super) enum Work {
    Disk { file: FileId, errand: Errand, patience: Patience },
    Talk { talk: Talk, patience: Patience },
    Connect(Box<Dialing>),
}

/// What to ask of the kernel for an operation now, and, linked to it, its time limit.
pub(super) fn entry(held: &Holdings, work: &mut Work) -> (squeue::Entry, Option<squeue::Entry>) {
    match work {
        Work::Disk { file, errand, .. } => {
            let file = held.files.get(*file).map_or(-1, |file| file.backing.raw());
            (disk_entry(Fd(file), errand), None)
        }
        Work::Talk { talk, .. } => {
            let endpoint = held.endpoints.get(talk.id);
            let socket = Fd(endpoint.map_or(-1, |endpoint| endpoint.raw()));
            (talk_entry(socket, &mut talk.act), None)
        }
        Work::Connect(dialing) => {
            let Dialing { dial, limit } = &**dialing;
            let address = dial.address();
            let socket = Fd(dial.socket().as_raw_fd());
            let connect = opcode::Connect::new(socket, address.as_ptr().cast(), address.len());
            let limit = opcode::LinkTimeout::new(&raw const *limit);
            let connect = connect.build().flags(squeue::Flags::IO_LINK);
            (connect, Some(limit.build()))
        }
    }
}

fn talk_entry(socket: Fd, act: &mut Act) -> squeue::Entry {
    match act {
        Act::Receive(memory) => {
            opcode::Recv::new(socket, memory.address(), memory.length()).build()
        }
        Act::Send(outgoing) => {
            opcode::SendMsg::new(socket, outgoing.message()).flags(SEND_FLAGS).build()
        }
        Act::Accept => {
            let nowhere = std::ptr::null_mut();
            opcode::Accept::new(socket, nowhere, nowhere.cast()).flags(libc::SOCK_CLOEXEC).build()
        }
    }
}

fn disk_entry(file: Fd, errand: &Errand) -> squeue::Entry {
    match errand {
        Errand::Transfer(transfer) => {
            let (memory, offset) = transfer.rest();
            match transfer.direction {
                Direction::Read => opcode::Read::new(file, memory.address(), memory.length())
                    .offset(offset)
                    .build(),
                Direction::Write { durable } => write_entry(file, memory, offset, durable),
            }
        }
        Errand::Zero(zeroing) => match zeroing.step() {
            Step::Allocate(flags, offset, length) => {
                opcode::Fallocate::new(file, length).offset(offset).mode(flags.bits()).build()
            }
            Step::Write(offset, length) => write_entry(file, Memory::zeroes(length), offset, false),
        },
        Errand::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
    }
}

fn write_entry(file: Fd, memory: Memory, offset: u64, durable: bool) -> squeue::Entry {
    opcode::Write::new(file, memory.address(), memory.length())
        .offset(offset)
        .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
        .build()
}

/// The result of a completion: a count or descriptor, or an error.
pub(super) fn outcome(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno(result.saturating_neg()))
}

/// A span as the kernel takes it.
pub(super) fn timespec(span: Nanos) -> Timespec {
    let (seconds, nanos) = (span.0 / 1_000_000_000, span.0 % 1_000_000_000);
    let nanos = u32::try_from(nanos).expect("below 10^9");
    Timespec::new().sec(seconds).nsec(nanos)
}
