//! Owns a ring over files in memory, for this part's tests: operations end when the test says so,
//! in the order it says, and fail where it says. Keeps what a power cut would leave apart from
//! what reads see. Must never be compiled into the product.

use crate::buffer::{Pool, Span};
use crate::ring::{Completion, Errno, FileId, Op, Ring, SocketId, Token};
use crate::units::Nanos;

/// One file: what reads see, and what is stable.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeFile {
    pub(super) seen: Vec<u8>,
    pub(super) stable: Vec<u8>,
}

/// An operation that was submitted or has ended, for assertions about order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read { file: u32, offset: u64, length: u32 },
    Write { file: u32, offset: u64, length: u32, durable: bool },
    Zero { file: u32, offset: u64, length: u64 },
    Sync { file: u32 },
}

type Fault = Box<dyn FnMut(Act) -> Option<Errno>>;

/// The ring.
pub(super) struct FakeRing {
    pub(super) files: Vec<FakeFile>,
    pending: Vec<(Token, Op)>,
    /// What has ended, oldest first.
    pub(super) ended: Vec<Act>,
    /// Says which operations fail.
    pub(super) fault: Fault,
    pub(super) in_flight_max: usize,
}

impl FakeRing {
    /// With files of these lengths, all zero and stable.
    pub(super) fn new(lengths: &[u64]) -> Self {
        let file = |length: &u64| {
            let seen = vec![0; usize::try_from(*length).expect("small")];
            FakeFile { stable: seen.clone(), seen }
        };
        Self {
            files: lengths.iter().map(file).collect(),
            pending: Vec::new(),
            ended: Vec::new(),
            fault: Box::new(|_| None),
            in_flight_max: 0,
        }
    }

    /// From now on operations of which `which` is true fail with this number.
    pub(super) fn fail(&mut self, errno: i32, mut which: impl FnMut(Act) -> bool + 'static) {
        self.fault = Box::new(move |act| which(act).then_some(Errno(errno)));
    }

    /// What is under way, in the order of submission.
    pub(super) fn pending(&self) -> Vec<Act> {
        self.pending.iter().map(|(_, op)| act(op)).collect()
    }

    /// Ends the `index`-th operation under way.
    pub(super) fn end(&mut self, pool: &mut Pool, index: usize) -> Completion {
        let (token, op) = self.pending.remove(index);
        let done = act(&op);
        self.ended.push(done);
        let result = match (self.fault)(done) {
            Some(errno) => Err(errno),
            None => self.carry_out(pool, &op),
        };
        Completion { token, result, gather: None }
    }

    /// Power fails: what was not stable is gone, except that of what was under way the first
    /// `kept` bytes of each write got there. What reads see is what is left.
    pub(super) fn cut_power(&mut self, pool: &Pool, kept: usize) {
        for (_, op) in std::mem::take(&mut self.pending) {
            if let Op::Write { file, offset, from, .. } = op {
                let bytes = pool.bytes(from);
                self.put(file, offset, &bytes[..kept.min(bytes.len())], true);
            }
        }
        for file in &mut self.files {
            file.seen.clone_from(&file.stable);
        }
    }

    fn carry_out(&mut self, pool: &mut Pool, op: &Op) -> Result<u32, Errno> {
        match op {
            Op::Read { file, offset, into } => {
                let seen = &self.files[file.0 as usize].seen;
                let range = range(*offset, into.length.into());
                let bytes = seen.get(range).ok_or(Errno(libc::EIO))?;
                pool.bytes_mut(*into).copy_from_slice(bytes);
                Ok(into.length)
            }
            Op::Write { file, offset, from, durable } => {
                self.put(*file, *offset, pool.bytes(*from), *durable);
                Ok(from.length)
            }
            Op::Zero { file, offset, length, .. } => {
                let zeroes = vec![0; usize::try_from(*length).expect("small")];
                self.put(*file, *offset, &zeroes, false);
                Ok(0)
            }
            Op::Sync { file } => {
                let file = &mut self.files[file.0 as usize];
                file.stable.clone_from(&file.seen);
                Ok(0)
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    fn put(&mut self, file: FileId, offset: u64, bytes: &[u8], durable: bool) {
        let file = &mut self.files[file.0 as usize];
        let range = range(offset, bytes.len() as u64);
        file.seen[range.clone()].copy_from_slice(bytes);
        if durable {
            file.stable[range].copy_from_slice(bytes);
        }
    }
}

fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    let end = usize::try_from(offset + length).expect("small");
    usize::try_from(offset).expect("small")..end
}

fn act(op: &Op) -> Act {
    match op {
        Op::Read { file, offset, into } => {
            Act::Read { file: file.0, offset: *offset, length: into.length }
        }
        Op::Write { file, offset, from, durable } => {
            Act::Write { file: file.0, offset: *offset, length: from.length, durable: *durable }
        }
        Op::Zero { file, offset, length, .. } => {
            Act::Zero { file: file.0, offset: *offset, length: *length }
        }
        Op::Sync { file } => Act::Sync { file: file.0 },
        other => panic!("a disk never does {other:?}"),
    }
}

fn span_of(op: &Op) -> Option<Span> {
    match op {
        Op::Read { into: span, .. } | Op::Write { from: span, .. } => Some(*span),
        _ => None,
    }
}

impl Ring for FakeRing {
    fn now(&self) -> Nanos {
        Nanos(0)
    }

    fn random(&mut self) -> u64 {
        4
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        if let Some(span) = span_of(&op) {
            assert!(pool.address(span).addr().is_multiple_of(4096), "as O_DIRECT demands");
        }
        self.pending.push((token, op));
        self.in_flight_max = self.in_flight_max.max(self.pending.len());
    }

    fn has_hung_up(&self, _socket: SocketId) -> bool {
        false
    }

    fn shutdown(&mut self, _socket: SocketId) {}

    fn turn(&mut self, pool: &mut Pool, _until: Nanos, completions: &mut Vec<Completion>) {
        for _ in 0..self.pending.len() {
            completions.push(self.end(pool, 0));
        }
    }
}
