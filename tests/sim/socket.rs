//! Owns one end of a simulated connection: its buffers, its operations, and the wire that leads
//! away from it. Must never know where the other end is.

use std::collections::VecDeque;
use std::io::Read as _;

use twinblk::ring::Errno;
use twinblk::units::Nanos;

use crate::clockwork::{Clockwork, LifeId, OpId, Outcome};
use crate::link::Link;

/// The most that travels as one.
const SEGMENT: usize = 65_536;

/// What travels.
#[derive(Debug)]
pub(crate) enum Segment {
    Bytes(Vec<u8>),
    /// No more will come.
    End,
}

impl Segment {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::End => 0,
        }
    }
}

/// One end.
pub(crate) struct End {
    pub(crate) host: usize,
    pub(crate) peer: usize,
    /// The life that holds it, and under which number.
    pub(crate) owner: Option<(LifeId, u32)>,
    pub(crate) receiving: VecDeque<(OpId, usize)>,
    /// Sends under way, each with the count of bytes after which it has been taken over.
    sending: VecDeque<(OpId, u64)>,
    pub(crate) closing: Option<OpId>,
    /// Received whole while the way back was cut: the sender learns of it later.
    pub(crate) acknowledged_late: u64,
    outgoing: VecDeque<u8>,
    /// Bytes ever given to send, and how many of them the other side has confirmed.
    given: u64,
    confirmed: u64,
    /// Size of the send and of the receive buffer.
    buffer: usize,
    wire: VecDeque<(Nanos, Segment)>,
    wire_bytes: usize,
    wire_free: Nanos,
    /// Tells a planned arrival from an outdated one.
    arrival: u64,
    planned: bool,
    incoming: VecDeque<u8>,
    /// The other side will send no more.
    ended: bool,
    /// No more is to be sent: the end follows the last byte.
    finishing: bool,
    finished: bool,
    error: Option<Errno>,
    abandoned: bool,
}

impl End {
    pub(crate) fn new(host: usize, peer: usize, buffer: usize) -> Self {
        Self {
            host,
            peer,
            owner: None,
            receiving: VecDeque::new(),
            sending: VecDeque::new(),
            closing: None,
            acknowledged_late: 0,
            outgoing: VecDeque::new(),
            given: 0,
            confirmed: 0,
            buffer,
            wire: VecDeque::new(),
            wire_bytes: 0,
            wire_free: Nanos(0),
            arrival: 0,
            planned: false,
            incoming: VecDeque::new(),
            ended: false,
            finishing: false,
            finished: false,
            error: None,
            abandoned: false,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.receiving.is_empty() || !self.sending.is_empty()
    }

    pub(crate) const fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    fn life(&self) -> LifeId {
        self.owner.expect("only a held end has operations").0
    }

    pub(crate) fn send(&mut self, clockwork: &mut Clockwork, op: OpId, bytes: &[u8]) {
        let refusal = self.error.or(self.finishing.then_some(Errno(libc::EPIPE)));
        if let Some(errno) = refusal {
            clockwork.end(self.life(), op, Err(errno));
            return;
        }
        self.outgoing.extend(bytes);
        self.given += bytes.len() as u64;
        self.sending.push_back((op, self.given));
        self.acknowledged(clockwork, 0);
    }

    /// The other side confirmed bytes; sends whose last byte now fits the buffer are done.
    pub(crate) fn acknowledged(&mut self, clockwork: &mut Clockwork, bytes: u64) {
        self.confirmed += bytes;
        while let Some((op, last)) = self.sending.front().copied() {
            if last > self.confirmed + self.buffer as u64 {
                return;
            }
            self.sending.pop_front();
            clockwork.end(self.life(), op, Ok(Outcome::Count(0)));
        }
    }

    /// Room in the receive buffer.
    pub(crate) fn room(&self) -> usize {
        if self.abandoned { usize::MAX } else { self.buffer.saturating_sub(self.incoming.len()) }
    }

    pub(crate) fn fill_wire(&mut self, clockwork: &mut Clockwork, link: &Link, room: usize) {
        while !self.outgoing.is_empty() && self.wire_bytes < room {
            let most = self.outgoing.len().min(room - self.wire_bytes).min(SEGMENT);
            let size = match clockwork.random.below(100) {
                draw if draw < u64::from(link.shred_percent) => {
                    1 + clockwork.random.index(most.min(20))
                }
                draw if draw % 3 == 0 => 1 + clockwork.random.index(most),
                _ => most,
            };
            let mut bytes = take(&mut self.outgoing, size);
            if clockwork.random.chance(link.corrupt_ppm) {
                let place = clockwork.random.index(size);
                bytes[place] ^= 1 << clockwork.random.below(8);
                clockwork.note(format_args!("net flips a bit from host {}", self.host));
            }
            self.wire_bytes += size;
            self.push_wire(clockwork, link, Segment::Bytes(bytes));
        }
        if self.finishing && !self.finished && self.outgoing.is_empty() {
            self.finished = true;
            self.push_wire(clockwork, link, Segment::End);
        }
    }

    fn push_wire(&mut self, clockwork: &mut Clockwork, link: &Link, segment: Segment) {
        let busy = segment.bytes() * 1_000_000_000 / link.bytes_per_second;
        self.wire_free = self.wire_free.max(clockwork.now) + Nanos(busy);
        let flight = link.latency + clockwork.random.below(link.jitter + 1);
        let last = self.wire.back().map_or(Nanos(0), |(when, _)| *when);
        self.wire.push_back(((self.wire_free + Nanos(flight)).max(last), segment));
    }

    /// When the first segment arrives, unless that is planned already.
    pub(crate) fn next_arrival(&mut self) -> Option<(Nanos, u64)> {
        if self.planned {
            return None;
        }
        let when = self.wire.front()?.0;
        self.planned = true;
        self.arrival += 1;
        Some((when, self.arrival))
    }

    pub(crate) const fn is_current(&self, count: u64) -> bool {
        self.planned && self.arrival == count
    }

    /// The link is cut: what is on the wire waits for it.
    pub(crate) const fn stall(&mut self) {
        // Stays planned, so that nothing moves until the link is mended.
        self.arrival += 1;
    }

    pub(crate) fn delay_wire(&mut self, until: Nanos) {
        for (when, _) in &mut self.wire {
            *when = (*when).max(until);
        }
        self.planned = false;
    }

    pub(crate) fn take_segment(&mut self) -> Segment {
        self.planned = false;
        let (_, segment) = self.wire.pop_front().expect("an arrival is planned for a segment");
        self.wire_bytes -= usize::try_from(segment.bytes()).expect("segments are small");
        segment
    }

    pub(crate) fn deliver(&mut self, segment: Segment) {
        match segment {
            Segment::Bytes(bytes) if !self.ended => self.incoming.extend(bytes),
            Segment::Bytes(_) => {}
            Segment::End => self.ended = true,
        }
    }

    /// Gives bytes to receives; true if the buffer has emptied.
    pub(crate) fn serve(&mut self, clockwork: &mut Clockwork) -> bool {
        let mut taken = false;
        while let Some((op, room)) = self.receiving.front().copied() {
            let outcome = if let Some(errno) = self.error {
                Err(errno)
            } else if !self.incoming.is_empty() {
                let most = room.min(self.incoming.len());
                let short = clockwork.random.percent(20);
                let size = if short { 1 + clockwork.random.index(most) } else { most };
                taken = true;
                Ok(Outcome::Data(take(&mut self.incoming, size)))
            } else if self.ended {
                Ok(Outcome::Count(0))
            } else {
                break;
            };
            self.receiving.pop_front();
            clockwork.end(self.life(), op, outcome);
        }
        taken
    }

    /// As shutdown(2), both ways.
    pub(crate) fn shutdown(&mut self, clockwork: &mut Clockwork) {
        self.ended = true;
        self.finishing = true;
        let accepted = self.confirmed + self.buffer as u64;
        let surplus = usize::try_from(self.given.saturating_sub(accepted)).expect("fits memory");
        self.outgoing.truncate(self.outgoing.len().saturating_sub(surplus));
        self.fail_sends(clockwork, Errno(libc::EPIPE));
        self.serve(clockwork);
    }

    fn fail_sends(&mut self, clockwork: &mut Clockwork, errno: Errno) {
        while let Some((op, _)) = self.sending.pop_front() {
            clockwork.end(self.life(), op, Err(errno));
        }
    }

    /// The other side, or a fault, tore the connection down.
    pub(crate) fn reset(&mut self, clockwork: &mut Clockwork) {
        self.error = Some(Errno(libc::ECONNRESET));
        self.clear();
        if self.owner.is_some() {
            self.fail_sends(clockwork, Errno(libc::ECONNRESET));
            self.serve(clockwork);
        }
    }

    fn clear(&mut self) {
        self.outgoing.clear();
        self.wire.clear();
        self.wire_bytes = 0;
        self.incoming.clear();
        self.planned = false;
        self.finishing = true;
        self.finished = true;
    }

    pub(crate) fn drop_operations(&mut self) {
        self.receiving.clear();
        self.sending.clear();
        self.closing = None;
        self.owner = None;
    }

    /// Nobody holds it any more; true if bytes lay unread.
    pub(crate) fn abandon(&mut self) -> bool {
        self.abandoned = true;
        self.finishing = true;
        let unread = !self.incoming.is_empty() && self.error.is_none();
        self.incoming.clear();
        if unread {
            self.clear();
        }
        unread
    }

    /// The host has lost power.
    pub(crate) fn vanish(&mut self) {
        self.drop_operations();
        self.abandoned = true;
        self.clear();
    }
}

/// Takes bytes from the front.
pub(crate) fn take(from: &mut VecDeque<u8>, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    from.read_exact(&mut bytes).expect("as many were there");
    bytes
}
