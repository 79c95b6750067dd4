//! Owns what is known of one operation on the data while it is under way.
//! Must never submit it.

use std::fmt;

use super::inspect::Look;
use crate::buffer::{Payload, Span};
use crate::replica::event::{DiskError, Input, IoId, Part};
use crate::ring::{Errno, FileId, Op, ZeroMode};
use crate::units::{BLOCK_BYTES, Blocks};

/// An operation that the system refused, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which operation, as in "writing the superblock".
    pub doing: &'static str,
    /// Where, if on the data.
    pub blocks: Option<Blocks>,
    /// What the system said.
    pub errno: Errno,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doing)?;
        if let Some(blocks) = self.blocks {
            write!(f, " ({} bytes at offset {})", blocks.length_bytes(), blocks.offset_bytes())?;
        }
        write!(f, " failed: {}", self.errno)
    }
}

/// What the core is told of an error.
pub(super) const fn error_of(errno: Errno) -> DiskError {
    match errno.0 {
        libc::ENOSPC => DiskError::NoSpace,
        _ => DiskError::Io,
    }
}

/// One operation on the data.
#[derive(Debug)]
pub(super) enum Task {
    /// None: a place for the next one.
    Vacant,
    Load {
        io: IoId,
        blocks: Blocks,
        into: Part,
    },
    Store {
        io: IoId,
        blocks: Blocks,
        from: Part,
        fua: bool,
    },
    Zero {
        io: IoId,
        blocks: Blocks,
        discard: bool,
        fua: bool,
    },
    Sync {
        io: IoId,
    },
    Look {
        look: Look,
        payload: Payload,
    },
}

/// A task whose operation ended.
pub(super) struct Ended {
    pub(super) task: Task,
    pub(super) result: Result<u32, Errno>,
}

impl Task {
    /// Where it reads or writes.
    pub(super) const fn blocks(&self) -> Option<Blocks> {
        match self {
            Self::Load { blocks, .. } | Self::Store { blocks, .. } | Self::Zero { blocks, .. } => {
                Some(*blocks)
            }
            Self::Look { look, .. } => Some(look.blocks),
            Self::Vacant | Self::Sync { .. } => None,
        }
    }

    /// The core's slot that it uses.
    pub(super) const fn part(&self) -> Option<Part> {
        match self {
            Self::Load { into: part, .. } | Self::Store { from: part, .. } => Some(*part),
            _ => None,
        }
    }

    /// Whether its failure means that the disk no longer holds what it was told to.
    pub(super) const fn changes_the_disk(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::Zero { .. } | Self::Sync { .. })
    }

    /// The operation that carries it out. A `Zero` with `fua` needs a sync after it.
    ///
    /// # Panics
    /// If vacant.
    pub(super) fn op(&self, file: FileId) -> Op {
        match self {
            Self::Load { blocks, into, .. } => {
                Op::Read { file, offset: blocks.offset_bytes(), into: span(*into, *blocks) }
            }
            Self::Store { blocks, from, fua, .. } => {
                let from = span(*from, *blocks);
                Op::Write { file, offset: blocks.offset_bytes(), from, durable: *fua }
            }
            Self::Zero { blocks, discard, .. } => {
                let mode = if *discard { ZeroMode::Discard } else { ZeroMode::Keep };
                let (offset, length) = (blocks.offset_bytes(), blocks.length_bytes());
                Op::Zero { file, offset, length, mode }
            }
            Self::Sync { .. } => Op::Sync { file },
            Self::Look { look, payload } => {
                let into = Span { slot: payload.share(), offset: 0, length: look.length() };
                Op::Read { file, offset: look.blocks.offset_bytes(), into }
            }
            Self::Vacant => unreachable!("only a task that was just made is submitted"),
        }
    }

    /// What the core is told at its end, unless blocks were read for it.
    pub(super) fn answer(&self, result: Result<(), DiskError>) -> Option<Input> {
        match self {
            Self::Load { io, .. }
            | Self::Store { io, .. }
            | Self::Zero { io, .. }
            | Self::Sync { io } => Some(Input::Done { io: *io, result }),
            Self::Vacant | Self::Look { .. } => None,
        }
    }

    /// How the system's refusal reads in the log.
    pub(super) const fn failure(&self, errno: Errno) -> Failure {
        let doing = match self {
            Self::Load { .. } | Self::Look { .. } => "reading data",
            Self::Store { .. } => "writing data",
            Self::Zero { .. } => "zeroing data",
            Self::Sync { .. } | Self::Vacant => "syncing data",
        };
        Failure { doing, blocks: self.blocks(), errno }
    }
}

fn span(part: Part, blocks: Blocks) -> Span {
    let block = u32::try_from(BLOCK_BYTES).expect("4096");
    let length = u32::try_from(blocks.length_bytes()).expect("at most a piece");
    Span { slot: part.payload, offset: u32::from(part.first) * block, length }
}
