//! Owns the order of metadata writes: superblock copies one after the other, bitmap pages and then
//! one sync, one durable log write; writes of one kind never overtake each other.
//! Must never look into the bytes, nor into the bitmap and the log that the core keeps.

use std::collections::VecDeque;

use super::disk::Place;
use super::task::{Failure, error_of};
use crate::buffer::{Payload, PayloadRef, Pool, Purpose, Span};
use crate::replica::event::{DiskError, PersistId};
use crate::ring::{Completion, Lane, Op, Ring};
use crate::units::BLOCK_BYTES;

/// Pages are laid together into writes of at most this, a slot's largest size.
const RUN_BYTES_MAX: usize = 1 << 20;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BLOCK: usize = BLOCK_BYTES as usize;

/// What a job writes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Both copies: each durable before the next begins.
    Superblock,
    /// Bitmap pages in any order, then a sync.
    Pages,
    /// One durable write.
    Log,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Superblock, Self::Pages, Self::Log];

    /// Writes of a job in flight at once. Bounds what a large flush of the bitmap puts in the way
    /// of client writes.
    const fn window(self) -> u32 {
        match self {
            Self::Superblock | Self::Log => 1,
            Self::Pages => 32,
        }
    }

    const fn write(self) -> &'static str {
        match self {
            Self::Superblock => "writing the superblock",
            Self::Pages => "writing bitmap pages",
            Self::Log => "writing the activity log",
        }
    }
}

/// Bytes on their way to one place.
#[derive(Debug)]
struct Run {
    buffer: Payload,
    /// From the start of the metadata area.
    offset: u64,
    length: u32,
}

/// One `Persist` of the core.
#[derive(Debug)]
pub(super) struct Job {
    kind: Kind,
    id: PersistId,
    runs: Vec<Run>,
    /// Runs that were submitted.
    begun: usize,
    in_flight: u32,
    synced: bool,
    error: Option<DiskError>,
}

/// The metadata writes of one disk.
pub(super) struct Metadata {
    lane: Lane,
    place: Place,
    queues: [VecDeque<Job>; Kind::ALL.len()],
    /// Emptied lists of runs, kept for their memory.
    spare: Vec<Vec<Run>>,
}

impl Metadata {
    pub(super) fn new(lane: Lane, place: Place) -> Self {
        Self { lane, place, queues: [const { VecDeque::new() }; 3], spare: Vec::new() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// An empty list of what is to be written.
    pub(super) fn draft(&mut self) -> Draft {
        Draft { runs: self.spare.pop().unwrap_or_default() }
    }

    /// Queues a job behind those of its kind.
    pub(super) fn push(&mut self, job: Job) {
        self.queues[job.kind as usize].push_back(job);
    }

    /// Submits what may be submitted; gives the jobs of the kind that ended meanwhile. With
    /// `failed`, nothing more is written.
    pub(super) fn advance<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        kind: Kind,
        failed: Option<DiskError>,
    ) -> Option<(PersistId, Result<(), DiskError>)> {
        let job = self.queues[kind as usize].front_mut()?;
        if !job.is_begun() {
            job.error = job.error.or(failed);
        }
        while job.error.is_none() && job.in_flight < kind.window() {
            let Some(op) = job.next(self.place) else {
                break;
            };
            ring.submit(pool, self.lane.token(local(kind)), op);
        }
        if job.in_flight > 0 {
            return None;
        }
        let Job { id, mut runs, error, .. } = self.queues[kind as usize].pop_front()?;
        runs.drain(..).for_each(|run| pool.release(run.buffer));
        self.spare.push(runs);
        Some((id, error.map_or(Ok(()), Err)))
    }

    /// One operation of a kind ended. The caller then calls [`advance`](Self::advance) until it
    /// gives nothing.
    pub(super) fn on_completion(&mut self, kind: Kind, completion: &Completion) -> Option<Failure> {
        let job = self.queues[kind as usize].front_mut()?;
        job.in_flight -= 1;
        let errno = completion.result.err()?;
        job.error.get_or_insert(error_of(errno));
        let doing = if job.synced { "syncing bitmap pages" } else { kind.write() };
        Some(Failure { doing, blocks: None, errno })
    }
}

impl Job {
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The next operation that may be submitted now; counts it as in flight.
    fn next(&mut self, place: Place) -> Option<Op> {
        let file = place.metadata;
        let op = if let Some(run) = self.runs.get(self.begun) {
            self.begun += 1;
            let from = Span { slot: run.buffer.share(), offset: 0, length: run.length };
            let offset = place.metadata_offset + run.offset;
            Op::Write { file, offset, from, durable: self.kind != Kind::Pages }
        } else if self.kind == Kind::Pages && !self.synced && self.in_flight == 0 {
            self.synced = true;
            Op::Sync { file }
        } else {
            return None;
        };
        self.in_flight += 1;
        Some(op)
    }

    /// Whether nothing is left to submit.
    fn is_begun(&self) -> bool {
        self.begun == self.runs.len() && (self.synced || self.kind != Kind::Pages)
    }
}

/// What a job will write, while it is put together.
#[derive(Debug)]
pub(super) struct Draft {
    runs: Vec<Run>,
}

impl Draft {
    /// What was put together, as a job.
    pub(super) fn into_job(self, kind: Kind, id: PersistId) -> Job {
        let Self { runs } = self;
        Job { kind, id, runs, begun: 0, in_flight: 0, synced: false, error: None }
    }

    /// Room for one block of metadata at `offset` from the start of the metadata area, to be
    /// filled by the caller. Joined to the block before if it follows it.
    pub(super) fn block(&mut self, pool: &mut Pool, offset: u64) -> Span {
        let length = u32::try_from(BLOCK).expect("4096");
        if let Some(run) = self.runs.last_mut()
            && run.offset + u64::from(run.length) == offset
            && (run.length as usize) < RUN_BYTES_MAX
        {
            run.grow(pool);
            let span = Span { slot: run.buffer.share(), offset: run.length, length };
            run.length += length;
            return span;
        }
        let buffer = take(pool, BLOCK);
        let slot = buffer.share();
        self.runs.push(Run { buffer, offset, length });
        Span { slot, offset: 0, length }
    }
}

impl Run {
    /// Makes room for one more block.
    fn grow(&mut self, pool: &mut Pool) {
        let slot = self.buffer.share();
        if pool.capacity_bytes(slot) >= self.length as usize + BLOCK {
            return;
        }
        let larger = take(pool, self.length as usize + BLOCK);
        let span = |slot: PayloadRef| Span { slot, offset: 0, length: self.length };
        pool.copy(span(slot), span(larger.share()));
        pool.release(std::mem::replace(&mut self.buffer, larger));
    }
}

fn take(pool: &mut Pool, bytes: usize) -> Payload {
    pool.take(Purpose::Fixed, bytes).expect("metadata memory has no budget")
}

/// The disk's own number of the operations of a kind.
const fn local(kind: Kind) -> u64 {
    METADATA_LOCAL | kind as u64
}

/// Set in the disk's own numbers of metadata operations.
const METADATA_LOCAL: u64 = 1 << 32;

/// The kind whose operation has this number; none for an operation on the data.
pub(super) fn kind_of(number: u64) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| local(*kind) == number)
}
