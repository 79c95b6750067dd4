//! Owns a network in memory under virtual time: sockets that deliver late, in crumbs, damaged, or
//! not at all. Must never be kinder than TCP, except that it is deterministic.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use crate::buffer::Pool;
use crate::ring::{Chunk, Completion, Errno, Gather, ListenerId, Op, Ring, SocketId, Token};
use crate::units::Nanos;

pub(super) const CONNRESET: Errno = Errno(104);
const REFUSED: Errno = Errno(111);
const TIMED_OUT: Errno = Errno(110);
const PIPE: Errno = Errno(32);

/// Numbers that look random and are the same every time.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[3]
    }
}

/// What the network does to the bytes of one direction of one connection, counted from 0.
#[derive(Clone, Debug)]
pub(super) enum Harm {
    /// This bit arrives flipped.
    Flip(u64),
    /// From this byte on, nothing arrives and both ends get a reset.
    Cut(u64),
    /// From this byte on, these bytes arrive instead.
    Replace(u64, Vec<u8>),
    /// Every byte from this one on is lost without a sign.
    Swallow(u64),
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// Most bytes one receive gets.
    pub(super) crumb: usize,
    /// One way.
    pub(super) delay: Nanos,
    /// Added to the delay, at most.
    pub(super) jitter: Nanos,
    /// Bytes a socket takes before a send has to wait.
    pub(super) window: usize,
}

impl Default for Weather {
    fn default() -> Self {
        let (delay, jitter) = (Nanos(50_000), Nanos(10_000));
        Self { crumb: usize::MAX, delay, jitter, window: 256 << 10 }
    }
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    node: usize,
    peer: usize,
    /// Arriving bytes, each run with its time.
    inbound: VecDeque<(Nanos, VecDeque<u8>)>,
    /// When the end of the stream arrives.
    finished: Option<Nanos>,
    /// When a reset arrives.
    reset: Option<Nanos>,
    shut: bool,
    closed: bool,
    /// Everything this end sent.
    sent: Vec<u8>,
    harm: Vec<Harm>,
}

/// The network, seen from above.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) now: Nanos,
    pub(super) weather: Weather,
    ends: Vec<End>,
    /// Those that nobody closed.
    open: Vec<usize>,
    /// Keep what closed ends sent.
    pub(super) record: bool,
    /// Who listens where, and the ends that wait to be accepted.
    doors: BTreeMap<SocketAddr, (usize, VecDeque<usize>)>,
    /// Directions in which nothing gets through: from, to.
    pub(super) dark: Vec<(usize, usize)>,
    /// For the n-th connection ever made, what happens to the bytes of dialler and acceptor.
    pub(super) plans: BTreeMap<usize, (Vec<Harm>, Vec<Harm>)>,
    dice: Option<Dice>,
}

impl Net {
    pub(super) fn new(seed: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { dice: Some(Dice(seed)), ..Self::default() }))
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.dice.as_mut().expect("always there").roll()
    }

    pub(super) fn listen(&mut self, node: usize, address: SocketAddr) {
        self.doors.insert(address, (node, VecDeque::new()));
    }

    pub(super) fn stop_listening(&mut self, address: SocketAddr) {
        self.doors.remove(&address);
    }

    /// Connections made so far.
    pub(super) fn made(&self) -> usize {
        self.ends.len() / 2
    }

    /// What the dialler and the acceptor of the n-th connection sent.
    pub(super) fn sent(&self, connection: usize) -> (&[u8], &[u8]) {
        (&self.ends[2 * connection].sent, &self.ends[2 * connection + 1].sent)
    }

    /// Ends that nobody closed.
    pub(super) fn open_ends(&self) -> usize {
        self.open.len()
    }

    fn close(&mut self, end: usize) {
        self.ends[end].closed = true;
        self.ends[end].shut = true;
        self.ends[end].inbound.clear();
        if !self.record {
            self.ends[end].sent = Vec::new();
        }
        self.open.retain(|open| *open != end);
    }

    /// All sockets of a node vanish as in a power cut: the others hear nothing.
    pub(super) fn vanish(&mut self, node: usize) {
        for end in self.open.clone() {
            if self.ends[end].node == node {
                self.close(end);
            }
        }
        for (_, waiting) in self.doors.values_mut().filter(|door| door.0 == node) {
            waiting.clear();
        }
    }

    fn pair(&mut self, from: usize, to: usize) -> (usize, usize) {
        let plan = self.plans.remove(&self.made()).unwrap_or_default();
        let (a, b) = (self.ends.len(), self.ends.len() + 1);
        self.open.extend([a, b]);
        for (node, peer, harm) in [(from, b, plan.0), (to, a, plan.1)] {
            self.ends.push(End {
                node,
                peer,
                inbound: VecDeque::new(),
                finished: None,
                reset: None,
                shut: false,
                closed: false,
                sent: Vec::new(),
                harm,
            });
        }
        (a, b)
    }

    fn is_dark(&self, from: usize, to: usize) -> bool {
        self.dark.contains(&(from, to))
    }

    /// Puts bytes into the other end, as far as they fit; how many it took.
    fn transmit(&mut self, end: usize, bytes: &[u8]) -> usize {
        let peer = self.ends[end].peer;
        let waiting: usize = self.ends[peer].inbound.iter().map(|run| run.1.len()).sum();
        let taken = bytes.len().min(self.weather.window.saturating_sub(waiting));
        if taken == 0 {
            return 0;
        }
        let roll = self.roll();
        let first = self.ends[end].sent.len() as u64;
        self.ends[end].sent.extend_from_slice(&bytes[..taken]);
        let dark = self.is_dark(self.ends[end].node, self.ends[peer].node);
        let jitter = roll % (self.weather.jitter.0 + 1);
        let newest = self.ends[peer].inbound.back().map_or(Nanos(0), |run| run.0);
        let at = (self.now + self.weather.delay + Nanos(jitter)).max(newest);
        let (arrives, cut) = harmed(&self.ends[end].harm, first, &bytes[..taken]);
        if cut {
            self.ends[peer].reset = Some(at);
            self.ends[end].reset = Some(at);
        }
        if !dark && !arrives.is_empty() && !self.ends[peer].closed {
            self.ends[peer].inbound.push_back((at, arrives.into()));
        }
        taken
    }

    fn receive(&mut self, end: usize, most: usize) -> Option<Result<Vec<u8>, Errno>> {
        let (now, crumb) = (self.now, self.weather.crumb);
        let end = &mut self.ends[end];
        if end.shut {
            return Some(Ok(Vec::new()));
        }
        let mut got = Vec::new();
        while let Some((at, run)) = end.inbound.front_mut()
            && *at <= now
            && got.len() < most.min(crumb)
        {
            let count = run.len().min(most.min(crumb) - got.len());
            got.extend(run.drain(..count));
            if run.is_empty() {
                end.inbound.pop_front();
            }
        }
        let come = |at: Option<Nanos>| at.is_some_and(|at| at <= now);
        if !got.is_empty() {
            Some(Ok(got))
        } else if come(end.reset) {
            Some(Err(CONNRESET))
        } else if come(end.finished) && end.inbound.is_empty() {
            Some(Ok(Vec::new()))
        } else {
            None
        }
    }

    /// The peer hears of it, unless it is in the dark; unread bytes make it a reset.
    fn hang_up(&mut self, end: usize) {
        let (node, peer) = (self.ends[end].node, self.ends[end].peer);
        if self.is_dark(node, self.ends[peer].node) {
            return;
        }
        let at = self.now + self.weather.delay + self.weather.jitter;
        let unread = !self.ends[end].inbound.is_empty();
        let peer = &mut self.ends[peer];
        let sign = if unread { &mut peer.reset } else { &mut peer.finished };
        sign.get_or_insert(at);
    }

    /// The next moment at which something arrives.
    pub(super) fn next_event(&self) -> Nanos {
        let open = self.open.iter();
        open.flat_map(|end| {
            let end = &self.ends[*end];
            let arrival = end.inbound.front().map(|run| run.0);
            [arrival, end.finished, end.reset].into_iter().flatten()
        })
        .filter(|at| *at > self.now)
        .min()
        .unwrap_or(Nanos::NEVER)
    }
}

/// What of `bytes`, the first being number `first`, arrives; and whether the connection breaks.
fn harmed(harm: &[Harm], first: u64, bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut arrives, mut cut) = (bytes.to_vec(), false);
    let end = first + bytes.len() as u64;
    let place = |at: u64| usize::try_from(at.max(first) - first).expect("small");
    for harm in harm {
        match harm {
            Harm::Flip(bit) if (first..end).contains(&(bit / 8)) => {
                if let Some(byte) = arrives.get_mut(place(bit / 8)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Harm::Cut(at) if *at < end => {
                arrives.truncate(place(*at));
                cut = true;
            }
            Harm::Swallow(at) if *at < end => arrives.truncate(place(*at)),
            Harm::Replace(at, other) if *at < end => {
                arrives.truncate(place(*at));
                if *at >= first {
                    arrives.extend_from_slice(other);
                }
            }
            _ => {}
        }
    }
    (arrives, cut)
}

#[derive(Debug)]
enum Pending {
    Connect { until: Nanos, address: SocketAddr },
    Accept { listener: ListenerId },
    Recv { socket: SocketId, into: crate::buffer::Span },
    Send { socket: SocketId, gather: Box<Gather>, all: Vec<u8>, done: usize },
    Close { socket: SocketId },
}

/// The ring of one node.
#[derive(Debug)]
pub(super) struct FakeRing {
    net: Rc<RefCell<Net>>,
    node: usize,
    /// Ends by socket id.
    sockets: Vec<Option<usize>>,
    listeners: Vec<SocketAddr>,
    pending: VecDeque<(Token, Pending)>,
    /// Something was submitted since the last turn.
    pub(super) fresh: bool,
}

impl FakeRing {
    pub(super) fn new(net: &Rc<RefCell<Net>>, node: usize) -> Self {
        let net = Rc::clone(net);
        let (sockets, listeners, pending) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { net, node, sockets, listeners, pending, fresh: false }
    }

    pub(super) fn listen(&mut self, address: SocketAddr) -> ListenerId {
        self.net.borrow_mut().listen(self.node, address);
        self.listeners.push(address);
        ListenerId(u32::try_from(self.listeners.len() - 1).expect("few"))
    }

    /// Operations that have not ended.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn open_sockets(&self) -> usize {
        self.sockets.iter().flatten().count()
    }

    /// When a pending connect gives up.
    pub(super) fn next_event(&self) -> Nanos {
        let mut next = Nanos::NEVER;
        for (_, pending) in &self.pending {
            if let Pending::Connect { until, .. } = pending {
                next = next.min(*until);
            }
        }
        next
    }

    fn end(&self, socket: SocketId) -> usize {
        self.sockets[socket.0 as usize].expect("an operation on a socket that is closed")
    }

    fn install(&mut self, end: usize) -> u32 {
        let vacant = self.sockets.iter().position(Option::is_none);
        let index = vacant.unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        self.sockets[index] = Some(end);
        u32::try_from(index).expect("few")
    }

    fn advance(&mut self, pool: &mut Pool, pending: &mut Pending) -> Option<Result<u32, Errno>> {
        let count = |bytes: usize| u32::try_from(bytes).expect("small");
        match pending {
            Pending::Connect { until, address } => self.connect(*until, *address),
            Pending::Accept { listener } => {
                let address = self.listeners[listener.0 as usize];
                let mut net = self.net.borrow_mut();
                let end = net.doors.get_mut(&address)?.1.pop_front()?;
                drop(net);
                Some(Ok(self.install(end)))
            }
            Pending::Recv { socket, into } => {
                let end = self.end(*socket);
                let got = self.net.borrow_mut().receive(end, into.length as usize)?;
                Some(got.map(|bytes| {
                    let length = count(bytes.len());
                    pool.bytes_mut(crate::buffer::Span { length, ..*into }).copy_from_slice(&bytes);
                    length
                }))
            }
            Pending::Send { socket, gather, all, done } => {
                let end = self.end(*socket);
                let mut net = self.net.borrow_mut();
                let now = net.now;
                if net.ends[end].shut || net.ends[end].reset.is_some_and(|at| at <= now) {
                    return Some(Err(PIPE));
                }
                // Panics if a slot was given back before its time.
                let held = |chunk: &Chunk| match chunk {
                    Chunk::Slot(span) => pool.bytes(*span).len(),
                    Chunk::Copied { length, .. } => *length as usize,
                };
                assert_eq!(gather.chunks.iter().map(held).sum::<usize>(), all.len());
                *done += net.transmit(end, &all[*done..]);
                (*done == all.len()).then(|| Ok(count(all.len())))
            }
            Pending::Close { socket } => {
                let end = self.end(*socket);
                let mut net = self.net.borrow_mut();
                net.hang_up(end);
                net.close(end);
                drop(net);
                self.sockets[socket.0 as usize] = None;
                Some(Ok(0))
            }
        }
    }

    fn connect(&mut self, until: Nanos, address: SocketAddr) -> Option<Result<u32, Errno>> {
        let mut net = self.net.borrow_mut();
        let reached = net.doors.get(&address).map(|door| door.0);
        let dark = reached
            .is_some_and(|there| net.is_dark(self.node, there) || net.is_dark(there, self.node));
        if net.now < until {
            return None;
        }
        let there = match reached {
            _ if dark => return Some(Err(TIMED_OUT)),
            None => return Some(Err(REFUSED)),
            Some(there) => there,
        };
        let (here, other) = net.pair(self.node, there);
        net.doors.get_mut(&address)?.1.push_back(other);
        drop(net);
        Some(Ok(self.install(here)))
    }
}

fn gathered(pool: &Pool, gather: &Gather) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in &gather.chunks {
        match chunk {
            Chunk::Copied { start, length } => {
                all.extend_from_slice(&gather.copied[*start as usize..][..*length as usize]);
            }
            Chunk::Slot(span) => all.extend_from_slice(pool.bytes(*span)),
        }
    }
    all
}

impl Ring for FakeRing {
    fn now(&self) -> Nanos {
        self.net.borrow().now
    }

    fn random(&mut self) -> u64 {
        self.net.borrow_mut().roll()
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        let pending = match op {
            Op::Recv { socket, into } => Pending::Recv { socket, into },
            Op::Send { socket, gather } => {
                let all = gathered(pool, &gather);
                Pending::Send { socket, gather, all, done: 0 }
            }
            Op::Accept { listener } => Pending::Accept { listener },
            Op::Close { socket } => {
                let busy = self.pending.iter().any(|(_, other)| match other {
                    Pending::Recv { socket: other, .. } | Pending::Send { socket: other, .. } => {
                        *other == socket
                    }
                    _ => false,
                });
                assert!(!busy, "closed with an operation under way");
                Pending::Close { socket }
            }
            Op::Connect { address, .. } => {
                let net = self.net.borrow();
                let there = net.doors.get(&address).map(|door| door.0);
                let dark = there.is_some_and(|there| {
                    net.is_dark(self.node, there) || net.is_dark(there, self.node)
                });
                let wait = if dark { Nanos::from_millis(5_000) } else { net.weather.delay };
                Pending::Connect { until: net.now + wait + wait, address }
            }
            other => panic!("a link does not do {other:?}"),
        };
        self.pending.push_back((token, pending));
        self.fresh = true;
    }

    fn has_hung_up(&self, _: SocketId) -> bool {
        false // Links always receive, which tells.
    }

    fn shutdown(&mut self, socket: SocketId) {
        let end = self.end(socket);
        let mut net = self.net.borrow_mut();
        if !net.ends[end].shut {
            net.ends[end].shut = true;
            net.hang_up(end);
        }
    }

    fn turn(&mut self, pool: &mut Pool, _until: Nanos, completions: &mut Vec<Completion>) {
        self.fresh = false;
        for _ in 0..self.pending.len() {
            let (token, mut pending) = self.pending.pop_front().expect("counted");
            match self.advance(pool, &mut pending) {
                None => self.pending.push_back((token, pending)),
                Some(result) => {
                    let gather = match pending {
                        Pending::Send { gather, .. } => Some(gather),
                        _ => None,
                    };
                    completions.push(Completion { token, result, gather });
                }
            }
        }
    }
}
