//! Owns virtual time: the queue of what will happen, the world's chance, and the trace of what
//! has happened. Must never look at real time, nor know what an event means.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::fmt;

use twinblk::ring::Errno;
use twinblk::units::Nanos;

use crate::random::Random;

/// A life of a node's daemon: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LifeId(pub(crate) u32);

/// One operation given to the world: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpId(pub(crate) u64);

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A disk operation ends.
    Disk(usize, OpId),
    /// Something on the network.
    Net(NetEvent),
    /// A life takes its turn, unless it was since given another time.
    Turn(LifeId, u64),
    /// Whatever the one who drives the world planned under this number.
    Plan(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NetEvent {
    /// The first segment on the wire from this end arrives, if the count still fits.
    Arrive(usize, u64),
    /// A connection attempt reaches the other host.
    Syn(OpId),
    /// Its answer comes back.
    Connected(OpId),
    /// A reset reaches this end.
    Reset(usize),
}

/// What an operation came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Count(u32),
    Data(Vec<u8>),
}

/// An operation of a life has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) life: LifeId,
    pub(crate) op: OpId,
    pub(crate) result: Result<Outcome, Errno>,
}

type Queued = Reverse<(Nanos, u64, Event)>;

/// Time, chance and what is to come.
pub(crate) struct Clockwork {
    pub(crate) now: Nanos,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    /// Events taken so far.
    pub(crate) events: u64,
    queue: BinaryHeap<Queued>,
    order: u64,
    next_op: u64,
    ended: VecDeque<Ended>,
}

impl Clockwork {
    pub(crate) const fn new(seed: u64, trace: Trace) -> Self {
        Self {
            now: Nanos(1_000_000_000),
            random: Random::new(seed),
            trace,
            events: 0,
            queue: BinaryHeap::new(),
            order: 0,
            next_op: 0,
            ended: VecDeque::new(),
        }
    }

    /// Plans an event; events of one moment come in the order they were planned.
    pub(crate) fn at(&mut self, when: Nanos, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((when.max(self.now), self.order, event)));
    }

    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.at(self.now + Nanos(span), event);
    }

    /// The next event; time moves on to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse((when, _, event)) = self.queue.pop()?;
        self.now = when;
        self.events += 1;
        Some(event)
    }

    pub(crate) const fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    pub(crate) fn end(&mut self, life: LifeId, op: OpId, result: Result<Outcome, Errno>) {
        self.ended.push_back(Ended { life, op, result });
    }

    pub(crate) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    pub(crate) fn note(&mut self, line: fmt::Arguments<'_>) {
        self.trace.note(self.now, line);
    }
}

/// One line per event, hashed, so that two runs can be compared; printed if wanted.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    print: bool,
    hash: u64,
    pub(crate) lines: u64,
}

impl Trace {
    pub(crate) const fn new(print: bool) -> Self {
        Self { print, hash: 0xcbf2_9ce4_8422_2325, lines: 0 }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    fn note(&mut self, now: Nanos, line: fmt::Arguments<'_>) {
        self.lines += 1;
        self.fold(&now.0.to_le_bytes());
        fmt::write(self, line).expect("hashing takes everything");
        if self.print {
            println!("{:>14.6} {line}", now.0 as f64 / 1e6);
        }
    }

    fn fold(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.fold(text.as_bytes());
        Ok(())
    }
}
