//! Owns a world with bare rings in it, for self-tests. Must never check anything.

use std::collections::BTreeMap;

use twinblk::buffer::{Budgets, Payload, Pool, Purpose, Span};
use twinblk::ring::{Completion, Errno, FileId, Gather, ListenerId, Op, Ring, SocketId, Token};
use twinblk::units::Nanos;

use crate::clockwork::{LifeId, Trace};
use crate::link::address;
use crate::ring::SimRing;
use crate::world::{Happening, Shared, World};

pub(crate) const DISK_BYTES: u64 = 1 << 20;

/// A life that does nothing by itself.
pub(crate) struct Bare {
    pub(crate) life: LifeId,
    pub(crate) ring: SimRing,
    pub(crate) pool: Pool,
    pub(crate) done: BTreeMap<u64, Result<u32, Errno>>,
    held: BTreeMap<u64, (Payload, Span)>,
    next: u64,
}

impl Bare {
    fn new(world: &Shared, host: usize) -> Self {
        let life = world.borrow_mut().start(host);
        let budget = 64 << 20;
        let budgets =
            Budgets { client_bytes: budget, peer_bytes: budget, background_bytes: budget };
        Self {
            life,
            ring: SimRing::new(world.clone(), life),
            pool: Pool::new(budgets),
            done: BTreeMap::new(),
            held: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn submit(&mut self, op: Op) -> u64 {
        self.next += 1;
        self.ring.submit(&self.pool, Token(self.next), op);
        self.next
    }

    pub(crate) fn slot(&mut self, length: usize) -> (Payload, Span) {
        let payload = self.pool.take(Purpose::Fixed, length).expect("without a budget");
        let length = u32::try_from(length).expect("small");
        let span = Span { slot: payload.share(), offset: 0, length };
        (payload, span)
    }

    /// Begins to write `length` bytes of one value.
    pub(crate) fn write(&mut self, file: FileId, offset: u64, value: (u8, usize)) -> u64 {
        self.write_with(file, offset, value, false)
    }

    pub(crate) fn write_with(
        &mut self,
        file: FileId,
        offset: u64,
        (value, length): (u8, usize),
        durable: bool,
    ) -> u64 {
        let (payload, from) = self.slot(length);
        self.pool.bytes_mut(from).fill(value);
        let id = self.submit(Op::Write { file, offset, from, durable });
        self.held.insert(id, (payload, from));
        id
    }

    pub(crate) fn read(&mut self, file: FileId, offset: u64, length: usize) -> u64 {
        let (payload, into) = self.slot(length);
        let id = self.submit(Op::Read { file, offset, into });
        self.held.insert(id, (payload, into));
        id
    }

    pub(crate) fn receive(&mut self, socket: SocketId, length: usize) -> u64 {
        let (payload, into) = self.slot(length);
        let id = self.submit(Op::Recv { socket, into });
        self.held.insert(id, (payload, into));
        id
    }

    pub(crate) fn send(&mut self, socket: SocketId, bytes: &[u8]) -> u64 {
        let mut gather = Box::new(Gather::default());
        gather.push_bytes(bytes);
        self.submit(Op::Send { socket, gather })
    }

    /// The bytes of an operation that has ended.
    pub(crate) fn bytes(&self, id: u64) -> &[u8] {
        let (_, span) = &self.held[&id];
        let length = self.done[&id].map_or(0, |length| length);
        self.pool.bytes(Span { length, ..*span })
    }

    fn turn(&mut self) {
        let mut completions: Vec<Completion> = Vec::new();
        self.ring.turn(&mut self.pool, Nanos::NEVER, &mut completions);
        for completion in completions {
            self.done.insert(completion.token.0, completion.result);
        }
    }
}

/// Two hosts with a disk each, and a bare life on both.
pub(crate) struct Bench {
    pub(crate) world: Shared,
    pub(crate) lives: Vec<Bare>,
}

impl Bench {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = World::new(seed, 2, Trace::new(false));
        for _ in 0..2 {
            world.add_disk(DISK_BYTES, 512);
        }
        let world = world.shared();
        let lives = (0..2).map(|host| Bare::new(&world, host)).collect();
        Self { world, lives }
    }

    /// A new life on a host, in the place of the old one.
    pub(crate) fn restart(&mut self, host: usize) {
        self.lives[host] = Bare::new(&self.world, host);
    }

    /// Lets things happen until `enough` says so; false if nothing is left to happen before.
    pub(crate) fn until(&mut self, mut enough: impl FnMut(&Self) -> bool) -> bool {
        while !enough(self) {
            let happening = self.world.borrow_mut().next();
            match happening {
                None => return false,
                Some(Happening::Plan(_)) => {}
                Some(Happening::Turn(life)) => {
                    let alive = self.lives.iter_mut().find(|bare| bare.life == life);
                    alive.expect("only the living take turns").turn();
                }
            }
        }
        true
    }

    /// Lets all happen that can.
    pub(crate) fn settle(&mut self) {
        self.until(|_| false);
    }

    /// Lets all happen for a while.
    pub(crate) fn pass(&mut self, span: u64) {
        let end = self.world.borrow().now() + Nanos(span);
        self.world.borrow_mut().clockwork.at(end, crate::clockwork::Event::Plan(0));
        self.until(|bench| bench.world.borrow().now() >= end);
    }

    /// Waits for the end of an operation.
    pub(crate) fn end(&mut self, host: usize, id: u64) -> Result<u32, Errno> {
        let ended = self.until(|bench| bench.lives[host].done.contains_key(&id));
        assert!(ended, "operation {id} never ends");
        self.lives[host].done[&id]
    }

    pub(crate) fn open(&self, host: usize) -> FileId {
        self.lives[host].ring.open_disk(host).expect("free")
    }

    /// What a disk's reads see.
    pub(crate) fn live(&self, disk: usize, offset: u64, length: usize) -> Vec<u8> {
        self.world.borrow().disks[disk].live().copy(offset, length)
    }

    /// A connection from host 1 to host 0: both ends.
    pub(crate) fn connect(&mut self) -> (SocketId, SocketId) {
        let listener = self.lives[0].ring.listen(7).expect("free");
        self.connect_to(listener)
    }

    pub(crate) fn connect_to(&mut self, listener: ListenerId) -> (SocketId, SocketId) {
        let accept = self.lives[0].submit(Op::Accept { listener });
        let connect = self.lives[1].submit(Op::Connect { address: address(0, 7), from: None });
        let theirs = self.end(1, connect).expect("somebody listens");
        let mine = self.end(0, accept).expect("somebody dials");
        (SocketId(mine), SocketId(theirs))
    }
}
