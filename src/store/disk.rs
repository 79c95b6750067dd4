//! Owns one local disk of a resource in use: carries out what the core asks of it, and says how it
//! ended. Must never decide anything about replication, nor touch blocks it was not told to.

use std::collections::VecDeque;

use super::inspect::{Inspector, Look, Question};
use super::metadata::{Job, Kind, Metadata, kind_of};
use super::task::{Ended, Failure, Task, error_of};
use crate::buffer::{Account, Pool, Purpose};
use crate::format::bitmap::{self, PageAddress};
use crate::format::extent_log::{self, LogIdentity, LogTransaction};
use crate::format::superblock::{self, SUPERBLOCK_COPIES, Superblock};
use crate::limits::PIECE_BLOCKS;
use crate::replica::event::{DiskError, Input, Output, PageId, PersistId};
use crate::ring::{Completion, FileId, Lane, Ring};
use crate::units::Blocks;

/// Where the bytes of a resource lie on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The exported blocks, from offset 0 on.
    pub data: FileId,
    /// The metadata area; the same file if it is internal.
    pub metadata: FileId,
    /// Where the metadata area begins in its file, in bytes.
    pub metadata_offset: u64,
}

/// The local disk of one resource, from its opening to its closing.
///
/// Once a write of data or metadata, a zeroing or a sync has failed, every later one fails at
/// once with the same error, until the disk is opened anew; reads are still tried.
pub struct Disk {
    lane: Lane,
    place: Place,
    /// The copy of the superblock that is written first.
    first_copy: usize,
    /// What its metadata records must carry.
    log: LogIdentity,
    metadata: Metadata,
    tasks: Vec<Task>,
    vacant: Vec<u32>,
    /// Reads that wait for memory: the urgent ones, and those of resync and verify.
    waiting: [VecDeque<Look>; 2],
    inspector: Inspector,
    /// Answers that needed no operation; handed over by the next `resume`.
    answered: Vec<Input>,
    failed: Option<DiskError>,
    failure: Option<Failure>,
}

impl Disk {
    /// A disk with this superblock. Its operations travel on `lane`; those of an earlier disk on
    /// the same lane must have ended.
    #[must_use]
    pub fn new(lane: Lane, place: Place, superblock: &Superblock) -> Self {
        Self {
            lane,
            place,
            first_copy: 0,
            log: LogIdentity::of(superblock),
            metadata: Metadata::new(lane, place),
            tasks: Vec::new(),
            vacant: Vec::new(),
            waiting: [const { VecDeque::new() }; 2],
            inspector: Inspector::new(),
            answered: Vec::new(),
            failed: None,
            failure: None,
        }
    }

    /// The same disk, of whose superblock this copy is not usable, or the older one. It is written
    /// first each time: a write cut short must not meet the only good one.
    #[must_use]
    pub fn with_stale_copy(self, copy: usize) -> Self {
        Self { first_copy: copy, ..self }
    }

    /// Carries out `Load`, `Fetch`, `Digest`, `Store`, `Zero` or `Sync`; gives back any other
    /// output untouched. The answer comes out of [`on_completion`](Self::on_completion) or
    /// [`resume`](Self::resume).
    pub fn carry_out<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        effect: Output,
    ) -> Option<Output> {
        let task = match effect {
            Output::Load { io, blocks, into } => Task::Load { io, blocks, into },
            Output::Store { io, blocks, from, fua } => Task::Store { io, blocks, from, fua },
            Output::Zero { io, blocks, discard, fua } => Task::Zero { io, blocks, discard, fua },
            Output::Sync { io } => Task::Sync { io },
            Output::Fetch { io, blocks, want } => {
                self.look(Look { io, blocks, question: Question::Whole(want) });
                self.read_waiting(ring, pool);
                return None;
            }
            Output::Digest { io, blocks } => {
                self.look(Look { io, blocks, question: Question::PerBlock });
                self.read_waiting(ring, pool);
                return None;
            }
            other => return Some(other),
        };
        match self.refusal(&task) {
            Some(error) => self.answered.extend(task.answer(Err(error))),
            None => self.begin(ring, pool, task),
        }
        None
    }

    /// Writes both copies of the superblock, the second after the first is stable. Ends in
    /// `Persisted`, as the two below.
    pub fn persist_superblock<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        id: PersistId,
        superblock: &Superblock,
    ) {
        let mut draft = self.metadata.draft();
        let bytes = superblock::encode(superblock);
        for turn in 0..SUPERBLOCK_COPIES {
            let copy = (self.first_copy + turn) % SUPERBLOCK_COPIES;
            let span = draft.block(pool, self.log.geometry.superblock_offset(copy));
            pool.bytes_mut(span).copy_from_slice(&bytes);
        }
        self.persist(ring, pool, draft.into_job(Kind::Superblock, id));
    }

    /// Writes bitmap pages, and then syncs. The words are copied before this returns.
    pub fn persist_pages<'a, R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        id: PersistId,
        pages: impl Iterator<Item = (PageId, &'a [u64])>,
    ) {
        let mut draft = self.metadata.draft();
        for (page, words) in pages {
            let PageId { slot, page } = page;
            let address = PageAddress { area: self.log.area, slot, page };
            let span = draft.block(pool, self.log.geometry.page_offset(slot, page));
            pool.bytes_mut(span).copy_from_slice(&bitmap::encode(address, words));
        }
        self.persist(ring, pool, draft.into_job(Kind::Pages, id));
    }

    /// Writes one block of the activity log.
    pub fn persist_log<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        id: PersistId,
        transaction: &LogTransaction,
    ) {
        let mut draft = self.metadata.draft();
        let offset = self.log.geometry.log_block_offset(transaction.number);
        let span = draft.block(pool, offset);
        pool.bytes_mut(span).copy_from_slice(&extent_log::encode(self.log, transaction));
        self.persist(ring, pool, draft.into_job(Kind::Log, id));
    }

    /// One operation of this disk's lane ended; appends what it answers.
    pub fn on_completion<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        completion: &Completion,
        out: &mut Vec<Input>,
    ) {
        let (_, _, number) = completion.token.split();
        if let Some(kind) = kind_of(number) {
            if let Some(failure) = self.metadata.on_completion(kind, completion) {
                self.note(failure, true);
            }
            self.write_metadata(ring, pool, kind, out);
        } else if let Some(task) = self.take_task(number) {
            self.end(ring, pool, Ended { task, result: completion.result }, out);
        }
    }

    /// Goes on with what waits: answers that needed no operation, reads that waited for memory,
    /// blocks to be looked through, for at most `budget_bytes`, of which it takes what it used.
    /// To be called once per turn, after the completions, also while the disk is being let go;
    /// the disks of a shard share the budget and take turns at being first.
    pub fn resume<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        budget_bytes: &mut usize,
        out: &mut Vec<Input>,
    ) {
        out.append(&mut self.answered);
        self.inspector.work(pool, budget_bytes, out);
        self.read_waiting(ring, pool);
    }

    /// Whether [`resume`](Self::resume) could go on right now: the shard must not sleep.
    #[must_use]
    pub fn has_work(&self, pool: &Pool) -> bool {
        let has_room = |look: &Look| pool.has_room(self.account(look), look.bytes());
        let mut first = self.waiting.iter().filter_map(VecDeque::front);
        !self.answered.is_empty() || !self.inspector.is_idle() || first.any(has_room)
    }

    /// Whether nothing is under way and nothing waits: all that was asked has been answered, and
    /// no operation can touch the disk any more. The owner lets go of the disk only then.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.vacant.len() == self.tasks.len()
            && self.metadata.is_idle()
            && self.waiting.iter().all(VecDeque::is_empty)
            && self.inspector.is_idle()
            && self.answered.is_empty()
    }

    /// The newest refusal of the system since the last call.
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }
}

impl Disk {
    /// Why an operation must not even be tried: the disk has failed, or the blocks lie outside
    /// the device, where the metadata may be. Nobody asks for such; it must not reach the disk.
    fn refusal(&self, task: &Task) -> Option<DiskError> {
        let failed = self.failed.filter(|_| task.changes_the_disk());
        let misplaced = task.blocks().is_some_and(|blocks| !self.holds(blocks));
        failed.or(misplaced.then_some(DiskError::Io))
    }

    fn holds(&self, blocks: Blocks) -> bool {
        let end = blocks.start.checked_add(blocks.count);
        blocks.count > 0 && end.is_some_and(|end| end <= self.log.geometry.device_blocks)
    }

    fn look(&mut self, look: Look) {
        if self.holds(look.blocks) && look.blocks.count <= PIECE_BLOCKS {
            self.waiting[usize::from(look.purpose() != Purpose::Urgent)].push_back(look);
        } else {
            self.answered.push(look.failed(DiskError::Io));
        }
    }

    /// Begins the reads for which there is memory, urgent ones first, each kind in the order they
    /// were asked for.
    fn read_waiting<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        for line in 0..self.waiting.len() {
            while let Some(look) = self.waiting[line].front().copied()
                && let Some(payload) = pool.take(self.account(&look), look.bytes())
            {
                self.waiting[line].pop_front();
                self.begin(ring, pool, Task::Look { look, payload });
            }
        }
    }

    const fn account(&self, look: &Look) -> Account {
        look.purpose().of(self.lane.owner())
    }

    /// Submits the operation of a task and holds its slot until the completion.
    fn begin<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, task: Task) {
        if let Some(part) = task.part() {
            pool.hold(part.payload);
        }
        let op = task.op(self.place.data);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.tasks.push(Task::Vacant);
            u32::try_from(self.tasks.len() - 1).expect("fewer than 2^32 operations")
        });
        self.tasks[index as usize] = task;
        ring.submit(pool, self.lane.token(u64::from(index)), op);
    }

    /// Takes the task out of its place, when its operation has ended.
    fn take_task(&mut self, number: u64) -> Option<Task> {
        let index = u32::try_from(number).ok()?;
        let task = std::mem::replace(self.tasks.get_mut(index as usize)?, Task::Vacant);
        self.vacant.push(index);
        Some(task)
    }

    fn end<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, ended: Ended, out: &mut Vec<Input>) {
        let Ended { task, result } = ended;
        if let Err(errno) = result {
            self.note(task.failure(errno), task.changes_the_disk());
        }
        if let Some(part) = task.part() {
            pool.let_go(part.payload);
        }
        match (task, result.map_err(error_of)) {
            (Task::Zero { io, fua: true, .. }, Ok(_)) => match self.failed {
                Some(error) => out.push(Input::Done { io, result: Err(error) }),
                None => self.begin(ring, pool, Task::Sync { io }),
            },
            (Task::Look { look, payload }, Ok(_)) => out.extend(self.inspector.push(look, payload)),
            (Task::Look { look, payload }, Err(error)) => {
                pool.release(payload);
                out.push(look.failed(error));
            }
            (task, result) => out.extend(task.answer(result.map(drop))),
        }
    }

    fn persist<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, job: Job) {
        let kind = job.kind();
        self.metadata.push(job);
        let mut answered = std::mem::take(&mut self.answered);
        self.write_metadata(ring, pool, kind, &mut answered);
        self.answered = answered;
    }

    fn write_metadata<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        kind: Kind,
        out: &mut Vec<Input>,
    ) {
        while let Some(ended) = self.metadata.advance(ring, pool, kind, self.failed) {
            let (id, result) = ended;
            out.push(Input::Persisted { id, result });
        }
    }

    /// Remembers a refusal for the log, and that the disk has failed if it was to change it.
    fn note(&mut self, failure: Failure, fatal: bool) {
        if fatal {
            self.failed.get_or_insert(error_of(failure.errno));
        }
        self.failure.get_or_insert(failure);
    }
}
