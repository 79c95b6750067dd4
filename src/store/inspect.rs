//! Owns looking through blocks that were read: hashing them and finding out whether all are zero,
//! a bounded number of bytes per turn. Must never start an operation.

use std::collections::VecDeque;

use crate::buffer::{Payload, PayloadRef, Pool, Purpose, Span};
use crate::replica::event::{DiskError, Fetched, Input, IoId, Want};
use crate::units::{BLOCK_BYTES, Blocks};

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BLOCK: u32 = BLOCK_BYTES as u32;

/// Bytes looked at in one step: small enough to keep them in the first level of cache.
const STEP_BYTES: u32 = 16 << 10;

const ZEROES: [u8; STEP_BYTES as usize] = [0; STEP_BYTES as usize];

/// What is wanted of some blocks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// Of the whole, and the blocks too.
    Whole(Want),
    /// One hash per block, and not the blocks.
    PerBlock,
}

/// Blocks to be read for the core, and what is wanted of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) io: IoId,
    pub(super) blocks: Blocks,
    pub(super) question: Question,
}

impl Look {
    /// How much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.length() as usize
    }

    pub(super) fn length(&self) -> u32 {
        u32::try_from(self.blocks.length_bytes()).expect("at most a piece")
    }

    /// Whose memory it takes: blocks of which nothing else is asked are those someone waits for.
    pub(super) const fn purpose(&self) -> Purpose {
        match self.question {
            Question::Whole(Want { scan: false, hash: false }) => Purpose::Urgent,
            _ => Purpose::Background,
        }
    }

    /// The answer if it cannot be read.
    pub(super) fn failed(&self, error: DiskError) -> Input {
        match self.question {
            Question::Whole(_) => Input::Fetched { io: self.io, result: Err(error) },
            Question::PerBlock => Input::Digested { io: self.io, result: Err(error) },
        }
    }
}

/// Blocks that wait to be looked through, first come first served.
pub(super) struct Inspector {
    queue: VecDeque<(Look, Payload)>,
    /// Bytes of the first item that are done, and what is known of them.
    done: u32,
    zero: bool,
    hasher: blake3::Hasher,
    digests: Vec<[u8; 32]>,
}

impl Inspector {
    pub(super) fn new() -> Self {
        let (queue, digests) = (VecDeque::new(), Vec::new());
        Self { queue, done: 0, zero: true, hasher: blake3::Hasher::new(), digests }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes blocks that were read to the start of a slot; gives the answer at once if nothing was
    /// asked about them.
    pub(super) fn push(&mut self, look: Look, payload: Payload) -> Option<Input> {
        if let Question::Whole(Want { scan: false, hash: false }) = look.question {
            let result = Ok(Fetched { payload, zero: false, digest: None });
            return Some(Input::Fetched { io: look.io, result });
        }
        self.queue.push_back((look, payload));
        None
    }

    /// Looks through at most `budget` bytes, takes them off it, and appends what was finished.
    pub(super) fn work(&mut self, pool: &mut Pool, budget: &mut usize, out: &mut Vec<Input>) {
        while let Some((look, payload)) = self.queue.front() {
            let (slot, question, length) = (payload.share(), look.question, look.length());
            let affordable = u32::try_from(*budget).unwrap_or(u32::MAX) / BLOCK * BLOCK;
            let step = (length - self.done).min(STEP_BYTES).min(affordable);
            if step == 0 {
                return;
            }
            *budget -= step as usize;
            self.look(pool, slot, step, question);
            self.done += step;
            if self.done == length || self.knows_enough(question) {
                self.finish(pool, out);
            }
        }
    }

    /// The rest cannot change the answer.
    fn knows_enough(&self, question: Question) -> bool {
        matches!(question, Question::Whole(Want { hash: false, .. })) && !self.zero
    }

    fn look(&mut self, pool: &Pool, slot: PayloadRef, step: u32, question: Question) {
        let bytes = pool.bytes(Span { slot, offset: self.done, length: step });
        match question {
            Question::Whole(want) => {
                if want.scan && self.zero {
                    self.zero = bytes == &ZEROES[..bytes.len()];
                }
                if want.hash {
                    self.hasher.update(bytes);
                }
            }
            Question::PerBlock => {
                let blocks = bytes.chunks_exact(BLOCK as usize);
                self.digests.extend(blocks.map(|block| *blake3::hash(block).as_bytes()));
            }
        }
    }

    fn finish(&mut self, pool: &mut Pool, out: &mut Vec<Input>) {
        let Some((Look { io, question, .. }, payload)) = self.queue.pop_front() else {
            return;
        };
        match question {
            Question::Whole(want) => {
                let zero = want.scan && self.zero;
                let digest = want.hash.then(|| Box::new(*self.hasher.finalize().as_bytes()));
                out.push(Input::Fetched { io, result: Ok(Fetched { payload, zero, digest }) });
            }
            Question::PerBlock => {
                pool.release(payload);
                let digests = self.digests.as_slice().into();
                out.push(Input::Digested { io, result: Ok(digests) });
            }
        }
        self.done = 0;
        self.zero = true;
        self.hasher.reset();
        self.digests.clear();
    }
}
