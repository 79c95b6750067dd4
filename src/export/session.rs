//! Owns one NBD client in the transmission phase: what it sent, what it is owed, what it may use.
//! Must never touch a socket, nor decide anything about data: `Export` submits, the core decides.
//!
//! ```text
//!  receive buffer ──► decoder ──► admission ──► payload (writes) ──► core ──► replies ──► socket
//!                        ▲            │ own limits, memory, export's limit
//!                        └────────────┘ nothing more is decoded, nothing more is received
//! ```
//! The receive buffer is empty whenever a receive is under way: a session that cannot go on leaves
//! the rest of its client's bytes where they are.

mod admission;

use slab::Slab;
use twinblk_nbd::{
    Checked, Errno, Event, MAX_REPLY_HEADER_BYTES, Operation, Refusal, ReplyEncoder, Terms,
    Transmission, TransmissionError,
};

use super::id::SessionId;
use super::outbox::Outbox;
use super::spread;
use super::tally::Tally;
use crate::buffer::{Account, Payload, Pool, Purpose, Span, Ticket};
use crate::limits::{
    CLIENT_DIRECT_BYTES, CLIENT_PAYLOAD_RATE, CLIENT_RECEIVE_BYTES, CLIENT_REPLIES_BYTES_MAX,
    CLIENT_STALL,
};
use crate::replica::event::{Input, Pieces, Reply, RequestError};
use crate::ring::{Gather, Ring, SocketId};
use crate::units::{Bytes, Nanos};

/// What a session works with besides its own state.
pub(super) struct Desk<'a> {
    pub(super) pool: &'a mut Pool,
    /// Requests for the core.
    pub(super) out: &'a mut Vec<Input>,
    pub(super) tally: &'a mut Tally,
    pub(super) id: SessionId,
    pub(super) now: Nanos,
}

/// Why a session stopped decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It needs more of its client's bytes.
    Receive,
    /// Its own requests or replies must end first.
    Hold,
    /// It stands in line for memory.
    Line,
    /// The export's requests must end first.
    Crowded,
    /// The client takes its leave.
    Leave,
    /// The stream cannot be followed any further.
    Broken(TransmissionError),
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes requests.
    Open,
    /// Takes none, and ends once all have been answered.
    Leaving,
    /// Waits for its operations to come back.
    Ending,
}

/// The core answers no longer as primary: the client should look for the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotPrimary;

/// A write whose payload is not whole yet.
#[derive(Debug)]
struct Incoming {
    request: Checked,
    pieces: Pieces,
    charge: u64,
    have: u64,
    since: Nanos,
}

/// A request in the core.
#[derive(Clone, Copy, Debug)]
struct Pending {
    request: Checked,
    /// Bytes of slots it holds.
    charge: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: SocketId,
    pub(super) phase: Phase,
    /// A receive is under way.
    pub(super) receiving: bool,
    /// It is among those the export will look at.
    pub(super) noted: bool,
    pub(super) outbox: Outbox,
    decoder: Transmission,
    encoder: ReplyEncoder,
    buffer: Payload,
    /// Bytes of the buffer that were received and not decoded.
    unread: std::ops::Range<u32>,
    incoming: Option<Incoming>,
    /// The receive under way fills the payload, not the buffer.
    direct: bool,
    /// Decoded, but not admitted yet.
    stalled: Option<Checked>,
    /// On which its requests take memory.
    account: Account,
    ticket: Option<Ticket>,
    pending: Slab<Pending>,
    /// Bytes of slots held by requests and replies.
    charged: u64,
    /// When the send under way began.
    sending_since: Nanos,
}

const fn range_of(request: &Checked) -> Bytes {
    Bytes::new(request.offset, request.length as u64)
}

impl Session {
    /// A session that begins with `leftover`, which the negotiation has received already.
    /// None if that does not fit the receive buffer, or there is no memory for one.
    pub(super) fn new(
        pool: &mut Pool,
        socket: SocketId,
        terms: Terms,
        leftover: &[u8],
        account: Account,
    ) -> Option<Self> {
        let length = u32::try_from(leftover.len()).ok().filter(|n| *n <= CLIENT_RECEIVE_BYTES)?;
        let buffer = pool.take(Purpose::Fixed, CLIENT_RECEIVE_BYTES as usize)?;
        let span = Span { slot: buffer.share(), offset: 0, length };
        pool.bytes_mut(span).copy_from_slice(leftover);
        Some(Self {
            socket,
            phase: Phase::Open,
            receiving: false,
            noted: false,
            outbox: Outbox::default(),
            decoder: Transmission::new(terms),
            encoder: ReplyEncoder::new(terms.structured_replies),
            buffer,
            unread: 0..length,
            incoming: None,
            direct: false,
            stalled: None,
            account,
            ticket: None,
            pending: Slab::new(),
            charged: 0,
            sending_since: Nanos::default(),
        })
    }

    /// Decodes and admits as much as it may.
    pub(super) fn advance(&mut self, desk: &mut Desk<'_>) -> Next {
        loop {
            if let Some(request) = self.stalled.take()
                && let Some(next) = self.admit(request, desk)
            {
                return next;
            }
            if self.incoming.is_some() && !self.fill(desk) {
                return Next::Receive;
            }
            if self.outbox.queued_bytes() > CLIENT_REPLIES_BYTES_MAX {
                return Next::Hold;
            }
            if let Some(next) = self.decode(desk) {
                return next;
            }
        }
    }

    fn decode(&mut self, desk: &mut Desk<'_>) -> Option<Next> {
        let length = self.unread.end - self.unread.start;
        let span = Span { slot: self.buffer.share(), offset: self.unread.start, length };
        let (taken, event) = self.decoder.feed(desk.pool.bytes(span));
        self.unread.start += u32::try_from(taken).expect("no more than was there");
        match event {
            Event::NeedMore => Some(Next::Receive),
            Event::Request(request) => self.admit(request, desk),
            Event::Refused(refusal) => {
                self.refuse(&refusal);
                desk.tally.counters.refused += 1;
                None
            }
            // A payload is always declared taken before the next bytes are decoded.
            Event::PayloadDue(_) | Event::Disconnect => Some(Next::Leave),
            Event::Fatal(error) => Some(Next::Broken(error)),
        }
    }

    /// Moves what was received into the payload; whether that is whole, and in the core.
    fn fill(&mut self, desk: &mut Desk<'_>) -> bool {
        let Some(incoming) = &mut self.incoming else {
            return true;
        };
        let range = range_of(&incoming.request);
        while incoming.have < range.length && !self.unread.is_empty() {
            let mut to = spread::run(&incoming.pieces, range, incoming.have);
            to.length = to.length.min(self.unread.end - self.unread.start);
            let (slot, length) = (self.buffer.share(), to.length);
            desk.pool.copy(Span { slot, offset: self.unread.start, length }, to);
            self.unread.start += length;
            incoming.have += u64::from(length);
        }
        if incoming.have < range.length {
            return false;
        }
        if let Some(Incoming { request, pieces, charge, .. }) = self.incoming.take() {
            self.decoder.payload_done();
            self.begin(request, Some(pieces), charge, desk);
        }
        true
    }

    /// Where to receive: the payload itself if it lacks much, else the buffer.
    pub(super) fn target(&mut self) -> Span {
        debug_assert!(self.unread.is_empty(), "what was received is decoded first");
        if let Some(incoming) = &self.incoming {
            let span = spread::run(&incoming.pieces, range_of(&incoming.request), incoming.have);
            if u64::from(span.length) >= CLIENT_DIRECT_BYTES {
                self.direct = true;
                return span;
            }
        }
        self.direct = false;
        Span { slot: self.buffer.share(), offset: 0, length: CLIENT_RECEIVE_BYTES }
    }

    /// So many bytes came to the last target.
    pub(super) fn received(&mut self, bytes: u32) {
        match &mut self.incoming {
            Some(incoming) if self.direct => incoming.have += u64::from(bytes),
            _ => self.unread = 0..bytes,
        }
    }

    /// Whether the client may close its side here without having broken off a request.
    pub(super) fn at_boundary(&self) -> bool {
        self.incoming.is_none() && self.decoder.at_boundary()
    }

    /// Queues the answer to a request in the core. An error says that the session must end.
    pub(super) fn answer(
        &mut self,
        key: u16,
        reply: Reply,
        pool: &mut Pool,
        tally: &mut Tally,
    ) -> Result<(), NotPrimary> {
        let Some(pending) = self.pending.try_remove(usize::from(key)) else {
            release_reply(pool, reply);
            return Ok(());
        };
        let request = pending.request;
        match (reply, request.operation) {
            (Reply::Data(pieces), Operation::Read { .. }) => {
                tally.counters.read_bytes += u64::from(request.length);
                self.succeed(&request);
                for (payload, span) in spread::runs(pieces, range_of(&request)) {
                    self.outbox.push_data(payload, span);
                }
                // Its slots are held, and charged, until they are sent.
                return Ok(());
            }
            (Reply::Failed(RequestError::NotPrimary), _) => return Err(NotPrimary),
            (reply @ Reply::Data(_), _) | (reply, Operation::Read { .. }) => {
                debug_assert!(false, "data answers reads, and nothing else does");
                release_reply(pool, reply);
                self.fail(&request, Errno::IO);
            }
            (Reply::Done, operation) => {
                if matches!(operation, Operation::Write { .. }) {
                    tally.counters.written_bytes += u64::from(request.length);
                }
                self.succeed(&request);
            }
        }
        self.charged -= pending.charge;
        Ok(())
    }

    fn succeed(&mut self, request: &Checked) {
        let mut header = [0; MAX_REPLY_HEADER_BYTES];
        let length = self.encoder.success(request, &mut header);
        self.outbox.push_header(&header[..length]);
    }

    fn fail(&mut self, request: &Checked, errno: Errno) {
        let mut header = [0; MAX_REPLY_HEADER_BYTES];
        let length = self.encoder.failure(request, errno, &mut header);
        self.outbox.push_header(&header[..length]);
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let mut header = [0; MAX_REPLY_HEADER_BYTES];
        let length = self.encoder.refusal(refusal, &mut header);
        self.outbox.push_header(&header[..length]);
    }

    /// The next send, if there is something to send and none is under way.
    pub(super) fn next_send(&mut self, now: Nanos) -> Option<Box<Gather>> {
        let gather = self.outbox.next()?;
        self.sending_since = now;
        Some(gather)
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, pool: &mut Pool, gather: Option<Box<Gather>>) {
        self.charged -= self.outbox.sent(pool, gather);
    }

    /// Until when the client may go on keeping slots from others without doing its part.
    pub(super) fn patience(&self) -> Nanos {
        let payload = self.incoming.as_ref().map_or(Nanos::NEVER, |incoming| {
            let earned = incoming.have / (CLIENT_PAYLOAD_RATE / 1000);
            incoming.since + CLIENT_STALL + Nanos::from_millis(earned)
        });
        let reads = self.outbox.is_sending() && self.charged > 0;
        let replies = if reads { self.sending_since + CLIENT_STALL } else { Nanos::NEVER };
        payload.min(replies)
    }

    /// Whether nothing is owed to the client any more.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.outbox.is_empty()
    }

    /// Whether the ring may still touch its memory.
    pub(super) fn is_in_flight(&self) -> bool {
        self.receiving || self.outbox.is_sending()
    }

    /// Whether it waits for memory, longer than anybody else.
    pub(super) fn is_first(&self, pool: &Pool) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| pool.is_first(self.account, ticket))
    }

    /// Whether it is first in line, and there is memory for what it waits for.
    pub(super) fn can_go_on(&self, pool: &Pool) -> bool {
        let room = |request: &Checked| spread::fits(pool, self.account, range_of(request));
        self.is_first(pool) && self.stalled.as_ref().is_some_and(room)
    }

    /// Gives up what no operation uses and nobody will ask for.
    pub(super) fn abandon(&mut self, pool: &mut Pool) {
        self.stalled = None;
        self.leave_line(pool);
        self.outbox.clear(pool);
        if !(self.receiving && self.direct)
            && let Some(incoming) = self.incoming.take()
        {
            spread::release(pool, incoming.pieces);
        }
    }

    fn leave_line(&mut self, pool: &mut Pool) {
        if let Some(ticket) = self.ticket.take() {
            pool.leave_line(self.account, ticket);
        }
    }

    /// Gives back all its memory. None of it may be in flight.
    pub(super) fn dissolve<R: Ring>(mut self, ring: &mut R, pool: &mut Pool) {
        self.abandon(pool);
        self.outbox.recycle(ring);
        pool.release(self.buffer);
    }
}

/// Gives back the slots of an answer that nobody waits for.
pub(super) fn release_reply(pool: &mut Pool, reply: Reply) {
    if let Reply::Data(pieces) = reply {
        spread::release(pool, pieces);
    }
}
