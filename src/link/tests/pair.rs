//! Owns two nodes with a link each, the traffic between them, and the judge of what arrives.
//! Must never let a frame pass that was not sent in just that place.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use super::stranger::Stranger;
use super::world::{FakeRing, Net};
use crate::buffer::{Budgets, Payload, Pool, Purpose, Span};
use crate::format::frame::Frame;
use crate::format::hello::{Refusal, Versions};
use crate::link::doorman::{Arrival, Doorman};
use crate::link::{Link, LinkOptions, Names, Outgoing, Path, Secret, Timing};
use crate::plant::Plants;
use crate::replica::event::{Input, Part, PeerIndex};
use crate::ring::{Lane, ListenerId, Ring};
use crate::units::{BLOCK_BYTES, Blocks, Epoch, Nanos, NodeId, Sequence, Session};

pub(super) const LINK: Lane = Lane::new(3, 1);
const DOOR: Lane = Lane::new(4, 0);

pub(super) const fn seconds(count: u64) -> Nanos {
    Nanos::from_millis(count * 1000)
}

pub(super) fn address(node: usize) -> SocketAddr {
    format!("10.0.0.{}:7790", node + 1).parse().expect("an address")
}

/// What the node does with its link.
#[derive(Clone, Debug)]
pub(super) struct Habit {
    /// Writes to send in each session.
    pub(super) writes: u64,
    /// Most blocks of one.
    pub(super) blocks: u64,
    /// Writes sent at once before waiting for their acknowledgement.
    pub(super) ahead: u64,
    /// Whether to acknowledge the writes that come.
    pub(super) answers: bool,
    /// Whether to keep the payloads that come.
    pub(super) hoards: bool,
}

impl Default for Habit {
    fn default() -> Self {
        Self { writes: 20, blocks: 20, ahead: 4, answers: true, hoards: false }
    }
}

/// Sees all that a link says to the core, and panics at what it must never say.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) session: Option<Session>,
    /// Sessions there have been, in order.
    pub(super) sessions: Vec<Session>,
    /// Writes taken in this session, and in all.
    pub(super) writes: u64,
    pub(super) all_writes: u64,
    /// Writes of this node the peer acknowledged in this session.
    pub(super) written: u64,
    pub(super) byes: u64,
}

impl Judge {
    /// One input. Gives the payload of a write, and its number.
    pub(super) fn see(
        &mut self,
        from: usize,
        pool: &Pool,
        input: Input,
    ) -> Option<(Sequence, Payload)> {
        match input {
            Input::LinkUp { session, .. } => {
                assert_eq!(self.session, None, "up before the former one was down");
                assert!(!self.sessions.contains(&session), "a session twice");
                self.sessions.push(session);
                self.session = Some(session);
                (self.writes, self.written) = (0, 0);
            }
            Input::LinkDown { session, .. } => {
                assert_eq!(self.session.take(), Some(session), "down, but never up");
            }
            Input::Frame { session, epoch, frame, payload, .. } => {
                assert_eq!(self.session, Some(session), "a frame of another session");
                return self.see_frame(from, pool, (epoch, frame), payload);
            }
            other => panic!("a link says nothing like {other:?}"),
        }
        None
    }

    fn see_frame(
        &mut self,
        from: usize,
        pool: &Pool,
        (epoch, frame): (Epoch, Frame),
        payload: Option<Payload>,
    ) -> Option<(Sequence, Payload)> {
        match frame {
            Frame::Write { sequence, blocks, .. } => {
                self.writes += 1;
                self.all_writes += 1;
                assert_eq!(sequence.0, self.writes, "a write out of its place");
                let session = self.session.expect("checked");
                let (expected, pattern) = write(from, session, sequence.0, blocks.count);
                assert_eq!(frame, expected, "not the write that was sent");
                assert_eq!(epoch, Epoch(sequence.0 + 7), "another epoch than the sender's");
                let payload = payload.expect("a write has a payload");
                let length = u32::try_from(blocks.length_bytes()).expect("a piece");
                let span = Span { slot: payload.share(), offset: 0, length };
                let bytes = pool.bytes(span);
                assert!(bytes.iter().zip(pattern).all(|(is, was)| *is == was), "other bytes");
                return Some((sequence, payload));
            }
            Frame::Written { first, last } => {
                assert_eq!((first.0, last.0), (self.written + 1, self.written + 1));
                self.written += 1;
            }
            Frame::Bye { .. } => self.byes += 1,
            other => panic!("nobody sent {other:?}"),
        }
        assert_eq!(payload, None, "a payload from nowhere");
        None
    }
}

/// The n-th write of a node in a session, and the bytes of its payload.
fn write(
    from: usize,
    session: Session,
    number: u64,
    blocks: u64,
) -> (Frame, impl Iterator<Item = u8>) {
    let mut state = session.0 ^ number ^ ((from as u64) << 40);
    let bytes = std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state.to_le_bytes()[4]
    });
    let frame = Frame::Write {
        sequence: Sequence(number),
        after: Sequence(number / 2),
        blocks: Blocks::new(number * 300, blocks),
        fua: number.is_multiple_of(3),
    };
    (frame, bytes)
}

/// One node.
pub(super) struct Node<R = FakeRing> {
    index: usize,
    pub(super) ring: R,
    pub(super) pool: Pool,
    pub(super) link: Link,
    pub(super) doorman: Doorman,
    pub(super) judge: Judge,
    pub(super) habit: Habit,
    /// Plant: one byte of what is sent is not what the judge expects.
    pub(super) forge: bool,
    sent: u64,
    hoard: Vec<Payload>,
    spins: u32,
}

pub(super) fn options(index: usize) -> LinkOptions {
    let names = ["alpha", "beta"];
    let other = 1 - index;
    LinkOptions {
        resource: "r0".into(),
        local: NodeId(u8::try_from(index).expect("two")),
        peer: NodeId(u8::try_from(other).expect("two")),
        peer_index: PeerIndex(0),
        names: Names {
            local: names[index].into(),
            peer: names[other].into(),
            secret_path: "/etc/twinblk/r0.secret".into(),
        },
        secret: Secret::new(b"swordfish"),
        paths: vec![Path { local: None, peer: address(other) }],
        timing: Timing::default(),
        versions: Versions::SPOKEN,
        plants: Plants::default(),
    }
}

impl Node {
    pub(super) fn new(net: &Rc<RefCell<Net>>, index: usize, options: LinkOptions) -> Self {
        let mut ring = FakeRing::new(net, index);
        let listener = ring.listen(address(index));
        Self::on(ring, listener, index, options)
    }

    /// One turn at this moment. Whether anything happened, or will without time passing.
    pub(super) fn step(&mut self) -> bool {
        self.turn(Nanos(0)) | self.ring.fresh
    }
}

impl<R: Ring> Node<R> {
    pub(super) fn on(
        mut ring: R,
        listener: ListenerId,
        index: usize,
        options: LinkOptions,
    ) -> Self {
        let mut pool = Pool::new(Budgets {
            client_bytes: 64 << 20,
            peer_bytes: 64 << 20,
            background_bytes: 1 << 20,
        });
        let mut link = Link::new(LINK, options);
        link.dial(&mut ring, &mut pool, true);
        Self {
            index,
            ring,
            pool,
            link,
            doorman: Doorman::new(DOOR, &[listener]),
            judge: Judge::default(),
            habit: Habit::default(),
            forge: false,
            sent: 0,
            hoard: Vec::new(),
            spins: 0,
        }
    }

    /// One turn as a shard does it. Whether anything happened.
    pub(super) fn turn(&mut self, until: Nanos) -> bool {
        let mut completions = Vec::new();
        self.ring.turn(&mut self.pool, until, &mut completions);
        let mut busy = !completions.is_empty();
        let (mut arrivals, mut inputs) = (Vec::new(), Vec::new());
        let (ring, pool) = (&mut self.ring, &mut self.pool);
        for completion in completions {
            match completion.token.split().0 {
                3 => self.link.on_completion(ring, pool, completion, &mut inputs),
                _ => self.doorman.on_completion(ring, pool, completion, &mut arrivals),
            }
        }
        for arrival in arrivals {
            self.welcome(arrival);
        }
        self.link.resume(&mut self.ring, &mut self.pool, &mut inputs);
        let now = self.ring.now();
        if self.link.deadline(&self.pool) <= now {
            self.link.on_time(&mut self.ring, &mut self.pool, &mut inputs);
        }
        if self.doorman.deadline() <= now {
            self.doorman.on_time(&mut self.ring, &mut self.pool);
        }
        busy |= !inputs.is_empty();
        for input in inputs {
            self.take(input);
        }
        self.talk();
        self.link.flush(&mut self.ring, &mut self.pool);
        let due = self.deadline() <= now;
        self.spins = if due && !busy { self.spins + 1 } else { 0 };
        assert!(self.spins < 3, "a deadline that never ends: {:#?}", self.link);
        busy | due
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.link.deadline(&self.pool).min(self.doorman.deadline())
    }

    fn welcome(&mut self, arrival: Arrival) {
        if arrival.hello.resource == "r0" {
            self.link.accept(&mut self.ring, &mut self.pool, arrival);
        } else {
            let refusal = Refusal::UnknownResource;
            self.doorman.refuse(&mut self.ring, &mut self.pool, &arrival, refusal);
        }
    }

    fn take(&mut self, input: Input) {
        if matches!(input, Input::LinkUp { .. }) {
            self.sent = 0;
        }
        if matches!(input, Input::LinkDown { .. }) {
            self.release_hoard();
        }
        let Some((sequence, payload)) = self.judge.see(1 - self.index, &self.pool, input) else {
            return;
        };
        if self.habit.hoards {
            self.hoard.push(payload);
        } else {
            self.pool.release(payload);
        }
        if self.habit.answers {
            self.send(&Frame::Written { first: sequence, last: sequence }, None, Epoch(1));
        }
    }

    pub(super) fn release_hoard(&mut self) {
        for payload in self.hoard.drain(..) {
            self.pool.release(payload);
        }
    }

    pub(super) fn send(&mut self, frame: &Frame, part: Option<Part>, epoch: Epoch) {
        let Some(session) = self.judge.session else {
            return;
        };
        let outgoing = Outgoing { session, epoch, frame, part };
        self.link.send(self.ring.now(), &mut self.pool, outgoing);
    }

    /// Sends the writes it has to send.
    fn talk(&mut self) {
        let Some(session) = self.judge.session else {
            return;
        };
        while self.sent < self.habit.writes && self.sent < self.judge.written + self.habit.ahead {
            self.sent += 1;
            let blocks = 1 + (session.0.wrapping_mul(self.sent) >> 7) % self.habit.blocks;
            let first = u16::try_from(self.sent % 2).expect("0 or 1");
            let bytes = (blocks + u64::from(first)) * BLOCK_BYTES;
            let size = usize::try_from(bytes).expect("small");
            let Some(payload) = self.pool.take(Purpose::Client, size) else {
                self.sent -= 1;
                return;
            };
            let (frame, pattern) = write(self.index, session, self.sent, blocks);
            let offset = u32::from(first) * 4096;
            let length = u32::try_from(blocks * BLOCK_BYTES).expect("small");
            let span = Span { slot: payload.share(), offset, length };
            for (byte, value) in self.pool.bytes_mut(span).iter_mut().zip(pattern) {
                *byte = value;
            }
            if self.forge {
                self.pool.bytes_mut(span)[17] ^= 1;
            }
            let part = Part { payload: payload.share(), first };
            self.send(&frame, Some(part), Epoch(self.sent + 7));
            // The link holds the slot for itself.
            self.pool.release(payload);
        }
    }

    /// Whether all that was to be said in this session has been said and heard.
    pub(super) fn is_done(&self) -> bool {
        self.judge.session.is_some() && self.judge.written >= self.habit.writes
    }

    /// Bytes in use for all purposes.
    pub(super) fn used_bytes(&self) -> usize {
        let purposes = [Purpose::Client, Purpose::Peer, Purpose::Background, Purpose::Fixed];
        purposes.iter().map(|purpose| self.pool.used_bytes(*purpose)).sum()
    }
}

/// Two nodes and the network between them.
pub(super) struct Pair {
    pub(super) net: Rc<RefCell<Net>>,
    pub(super) nodes: [Node; 2],
}

impl Pair {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, |_, _| {})
    }

    pub(super) fn with(seed: u64, change: impl Fn(usize, &mut LinkOptions)) -> Self {
        let net = Net::new(seed);
        let nodes = [0, 1].map(|index| {
            let mut options = options(index);
            change(index, &mut options);
            Node::new(&net, index, options)
        });
        Self { net, nodes }
    }

    pub(super) fn now(&self) -> Nanos {
        self.net.borrow().now
    }

    /// Lets everything happen that happens at this moment.
    pub(super) fn settle(&mut self) {
        while self.nodes.iter_mut().map(Node::step).fold(false, |any, busy| any | busy) {}
    }

    /// Lets time pass until `done`, at most `limit`. Whether it came to that.
    pub(super) fn run(&mut self, limit: Nanos, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let next = self.next_event();
            if self.now() >= end {
                return false;
            }
            self.net.borrow_mut().now = next.max(self.now() + Nanos(1)).min(end);
        }
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Nanos) {
        self.run(time, |_| false);
    }

    /// Lets so much time pass, for strangers too.
    pub(super) fn pass_with(&mut self, time: Nanos, strangers: &mut [Stranger]) {
        let end = self.now() + time;
        loop {
            self.settle();
            if strangers.iter_mut().map(Stranger::turn).fold(false, |any, busy| any | busy) {
                continue;
            }
            if self.now() >= end {
                return;
            }
            let next = strangers.iter().map(Stranger::next_event).min();
            let next = next.unwrap_or(end).min(self.next_event());
            self.net.borrow_mut().now = next.max(self.now() + Nanos(1)).min(end);
        }
    }

    fn next_event(&self) -> Nanos {
        let deadlines = self.nodes.iter().map(|node| node.deadline().min(node.ring.next_event()));
        let arrival = self.net.borrow().next_event();
        deadlines.min().map_or(arrival, |deadline| deadline.min(arrival))
    }

    /// Whether both are in one and the same session.
    pub(super) fn is_up(&self) -> bool {
        let [a, b] = &self.nodes;
        a.judge.session.is_some() && a.judge.session == b.judge.session
    }

    /// Whether a node is, or was for a while, without the session it had.
    pub(super) fn has_lost_one(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.judge.sessions.len() > usize::from(node.judge.session.is_some()))
    }

    /// Whether both are, and have said all they had to say.
    pub(super) fn is_done(&self) -> bool {
        self.is_up() && self.nodes.iter().all(Node::is_done)
    }

    /// Ends everything and looks for what was left behind.
    pub(super) fn assert_nothing_left(&mut self) {
        for node in &mut self.nodes {
            node.link.dial(&mut node.ring, &mut node.pool, false);
            if let Some(session) = node.judge.session {
                node.link.disconnect(node.ring.now(), session, "the test ends");
            }
        }
        self.pass(seconds(10));
        for node in &mut self.nodes {
            node.release_hoard();
            assert_eq!(node.judge.session, None);
            assert_eq!(node.link.connections(), 0, "{:#?}", node.link);
            assert_eq!(node.doorman.connections(), 0);
            assert_eq!(node.ring.open_sockets(), 0);
            assert_eq!(node.ring.pending(), 1, "only the accept may be left");
            assert_eq!(node.used_bytes(), 0, "slots were left behind");
        }
        assert_eq!(self.net.borrow().open_ends(), 0);
    }
}
