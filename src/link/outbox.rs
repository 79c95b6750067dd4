//! Owns what waits to be sent on one connection, as gathers ready for the ring.
//! Must never hold a slot without counting it: each span queued was held, each one gone let go.

use std::collections::VecDeque;

use super::options::{GATHER_BYTES, GATHER_CHUNKS};
use crate::buffer::{Pool, Span};
use crate::ring::{Chunk, Gather, Ring};

/// The send queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Gathers in order; frames are appended to the last one until it is full.
    waiting: VecDeque<Box<Gather>>,
    /// An emptied gather for the next frames; more go back to the ring.
    spare: Option<Box<Gather>>,
    /// Bytes in the last gather.
    last_bytes: u64,
    waiting_bytes: u64,
    /// Copied bytes among the waiting ones: frames without their payloads.
    copied_bytes: u64,
    flying_bytes: u64,
}

impl Outbox {
    /// Queues bytes, and behind them those of a slot, which is held from now on.
    pub(super) fn push(&mut self, pool: &mut Pool, bytes: &[u8], span: Option<Span>) {
        let full = self.waiting.back().is_none_or(|last| {
            // One chunk for the bytes, one for the span.
            last.chunks.len() + 2 > GATHER_CHUNKS || self.last_bytes >= GATHER_BYTES
        });
        if full {
            self.waiting.push_back(self.spare.take().unwrap_or_default());
            self.last_bytes = 0;
        }
        let last = self.waiting.back_mut().expect("just made sure of one");
        last.push_bytes(bytes);
        self.copied_bytes += bytes.len() as u64;
        let mut length = bytes.len() as u64;
        if let Some(span) = span {
            pool.hold(span.slot);
            last.push_span(span);
            length += u64::from(span.length);
        }
        self.last_bytes += length;
        self.waiting_bytes += length;
    }

    /// Takes what is to be sent next; it counts as queued until [`sent`](Self::sent).
    pub(super) fn next(&mut self) -> Option<Box<Gather>> {
        let gather = self.waiting.pop_front()?;
        let bytes = gather.len_bytes();
        self.waiting_bytes -= bytes;
        self.copied_bytes -= gather.copied.len() as u64;
        self.flying_bytes += bytes;
        Some(gather)
    }

    /// A gather came back: its slots are let go.
    pub(super) fn sent<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, gather: Box<Gather>) {
        self.flying_bytes = 0;
        self.empty(ring, pool, gather);
    }

    /// Forgets all that waits.
    pub(super) fn clear<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        while let Some(gather) = self.waiting.pop_front() {
            self.empty(ring, pool, gather);
        }
        (self.last_bytes, self.waiting_bytes, self.copied_bytes) = (0, 0, 0);
    }

    fn empty<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, mut gather: Box<Gather>) {
        for chunk in &gather.chunks {
            if let Chunk::Slot(span) = chunk {
                pool.let_go(span.slot);
            }
        }
        gather.clear();
        if let Some(second) = self.spare.replace(gather) {
            ring.recycle(second);
        }
    }

    /// Bytes waiting or being sent.
    pub(super) fn queued_bytes(&self) -> u64 {
        self.waiting_bytes + self.flying_bytes
    }

    /// Bytes waiting, without payloads.
    pub(super) fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }
}
