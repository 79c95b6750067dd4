//! Owns the replies that wait for one client to read them, as gathers ready for the ring, and the
//! slots their data lies in. Must never give a slot back before the send that names it has ended.

use std::collections::VecDeque;

use crate::buffer::{Payload, Pool, Span};
use crate::limits::{CLIENT_SEND_BYTES, CLIENT_SEND_CHUNKS};
use crate::ring::{Gather, Ring};

/// What goes out in one send.
#[derive(Debug, Default)]
struct Batch {
    gather: Box<Gather>,
    freight: Freight,
}

/// What a send stands for while the ring has its gather.
#[derive(Debug, Default)]
struct Freight {
    payloads: Vec<Payload>,
    bytes: u64,
}

/// The send queue of one session.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In order; replies are appended to the last one until it is full.
    waiting: VecDeque<Batch>,
    /// What the ring is sending.
    flying: Option<Freight>,
    /// One emptied batch: a session in step with its client needs no more.
    spare: Option<Batch>,
    queued_bytes: u64,
}

impl Outbox {
    /// Appends a copied header.
    pub(super) fn push_header(&mut self, header: &[u8]) {
        let last = self.last();
        last.gather.push_bytes(header);
        last.freight.bytes += header.len() as u64;
        self.queued_bytes += header.len() as u64;
    }

    /// Appends bytes of a slot, and takes the slot over.
    pub(super) fn push_data(&mut self, payload: Payload, span: Span) {
        let last = self.last();
        last.gather.push_span(span);
        last.freight.payloads.push(payload);
        last.freight.bytes += u64::from(span.length);
        self.queued_bytes += u64::from(span.length);
    }

    fn last(&mut self) -> &mut Batch {
        let full = self.waiting.back().is_none_or(|last| {
            last.gather.chunks.len() >= CLIENT_SEND_CHUNKS
                || last.freight.bytes >= CLIENT_SEND_BYTES
        });
        if full {
            self.waiting.push_back(self.spare.take().unwrap_or_default());
        }
        self.waiting.back_mut().expect("just made sure of one")
    }

    /// What to send next, unless a send is under way.
    pub(super) fn next(&mut self) -> Option<Box<Gather>> {
        if self.flying.is_some() {
            return None;
        }
        let Batch { gather, freight } = self.waiting.pop_front()?;
        self.flying = Some(freight);
        Some(gather)
    }

    /// The send has ended. Returns the bytes of slots it gave back.
    pub(super) fn sent(&mut self, pool: &mut Pool, gather: Option<Box<Gather>>) -> u64 {
        let Some(freight) = self.flying.take() else {
            return 0;
        };
        self.empty(pool, Batch { gather: gather.unwrap_or_default(), freight })
    }

    /// Forgets what is not being sent.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        while let Some(batch) = self.waiting.pop_front() {
            self.empty(pool, batch);
        }
    }

    fn empty(&mut self, pool: &mut Pool, mut batch: Batch) -> u64 {
        self.queued_bytes -= std::mem::take(&mut batch.freight.bytes);
        let mut freed = 0;
        for payload in batch.freight.payloads.drain(..) {
            freed += pool.capacity_bytes(payload.share()) as u64;
            pool.release(payload);
        }
        batch.gather.clear();
        self.spare = Some(batch);
        freed
    }

    /// Gives back what was kept for later.
    pub(super) fn recycle<R: Ring>(&mut self, ring: &mut R) {
        if let Some(batch) = self.spare.take() {
            ring.recycle(batch.gather);
        }
    }

    /// Bytes not yet known to be sent.
    pub(super) const fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Whether the ring is sending.
    pub(super) const fn is_sending(&self) -> bool {
        self.flying.is_some()
    }

    /// Whether all was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_none() && self.waiting.is_empty()
    }
}
