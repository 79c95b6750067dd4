//! Owns the kernel of one life of a node, as the product's own trait. Never blocks: a turn takes
//! what has ended and leaves word when to be woken. Must never outlive its life.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use twinblk::buffer::{Pool, Span};
use twinblk::ring::{
    Chunk, Completion, Errno, FileId, Gather, ListenerId, Op, Ring, SocketId, Token,
};
use twinblk::units::{BootId, Nanos};

use crate::clockwork::{LifeId, OpId};
use crate::disk::Work;
use crate::image::Data;
use crate::link::address;
use crate::world::{Held, Shared, World};

/// The ring of one life.
#[derive(Clone)]
pub(crate) struct SimRing {
    world: Shared,
    life: LifeId,
}

impl SimRing {
    pub(crate) const fn new(world: Shared, life: LifeId) -> Self {
        Self { world, life }
    }

    /// Takes a disk's lock and opens it.
    pub(crate) fn open_disk(&self, disk: usize) -> Result<FileId, Errno> {
        self.world.borrow_mut().open_disk(self.life, disk)
    }

    pub(crate) fn close_disk(&self, file: FileId) {
        self.world.borrow_mut().close_disk(self.life, file);
    }

    /// Listens on a port of the life's host.
    pub(crate) fn listen(&self, port: u16) -> Result<ListenerId, Errno> {
        let world = &mut *self.world.borrow_mut();
        let host = world.process(self.life).host;
        world.net.listen(self.life, address(host, port))
    }

    /// The boot the life's host is in.
    pub(crate) fn boot(&self) -> BootId {
        let world = &mut *self.world.borrow_mut();
        let host = world.process(self.life).host;
        world.hosts[host].boot
    }
}

impl Ring for SimRing {
    fn now(&self) -> Nanos {
        self.world.borrow().clock(self.life)
    }

    fn random(&mut self) -> u64 {
        self.world.borrow_mut().process(self.life).random.next()
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        let world = &mut *self.world.borrow_mut();
        assert!(world.is_alive(self.life), "a dead life submits");
        if !world.burn(self.life) {
            return; // It is dead, and does not know yet.
        }
        let id = world.clockwork.op();
        submit(world, (self.life, id), (pool, token), op);
        world.deliver();
    }

    fn has_hung_up(&self, _: SocketId) -> bool {
        false // Clients of a simulated node have no sockets.
    }

    fn shutdown(&mut self, socket: SocketId) {
        let world = &mut *self.world.borrow_mut();
        world.net.shutdown(&mut world.clockwork, self.life, socket);
        world.deliver();
    }

    fn turn(&mut self, pool: &mut Pool, until: Nanos, completions: &mut Vec<Completion>) {
        self.world.borrow_mut().take_turn(self.life, pool, until, completions);
    }
}

fn submit(world: &mut World, at: (LifeId, OpId), (pool, token): (&Pool, Token), op: Op) {
    let (life, id) = at;
    match op {
        Op::Read { file, offset, into } => {
            hold(world, at, filling(pool, token, into));
            let work = Work::Read { offset, length: into.length as usize };
            give_disk(world, at, file, work);
        }
        Op::Write { file, offset, from, durable } => {
            let bytes: Rc<[u8]> = pool.bytes(from).into();
            hold(world, at, Held { frozen: vec![(from, Rc::clone(&bytes))], ..plain(token) });
            give_disk(world, at, file, Work::Write { offset, data: Data::Bytes(bytes), durable });
        }
        Op::Zero { file, offset, length, mode: _ } => {
            hold(world, at, plain(token));
            let data = Data::Zeroes(usize::try_from(length).expect("simulated disks are small"));
            give_disk(world, at, file, Work::Write { offset, data, durable: false });
        }
        Op::Sync { file } => {
            hold(world, at, plain(token));
            give_disk(world, at, file, Work::Sync);
        }
        Op::Recv { socket, into } => {
            hold(world, at, filling(pool, token, into));
            let wanted = (socket, into.length as usize);
            world.net.receive(&mut world.clockwork, life, id, wanted);
        }
        Op::Send { socket, gather } => {
            let (bytes, frozen) = collect(pool, &gather);
            hold(world, at, Held { frozen, gather: Some(gather), ..plain(token) });
            world.net.send(&mut world.clockwork, life, id, (socket, &bytes));
        }
        Op::Accept { listener } => {
            hold(world, at, plain(token));
            world.net.accept(&mut world.clockwork, life, id, listener);
        }
        Op::Connect { address, from } => {
            hold(world, at, plain(token));
            connect(world, at, address, from);
        }
        Op::Close { socket } => {
            hold(world, at, plain(token));
            world.net.close(&mut world.clockwork, life, id, socket);
        }
    }
}

const fn plain(token: Token) -> Held {
    Held { token, fill: None, frozen: Vec::new(), gather: None }
}

fn filling(pool: &Pool, token: Token, into: Span) -> Held {
    assert!(into.length > 0, "nothing to read: {:?}", token.split());
    let _ = pool.address(into);
    Held { fill: Some(into), ..plain(token) }
}

/// Keeps an operation, having checked that its memory is not filled by one operation and used by
/// another.
fn hold(world: &mut World, (life, id): (LifeId, OpId), held: Held) {
    let process = world.process(life);
    for other in process.held.values() {
        let clash = match (held.fill, other.fill) {
            (Some(mine), Some(theirs)) => overlap(mine, theirs),
            (Some(mine), None) => other.frozen.iter().any(|(span, _)| overlap(mine, *span)),
            (None, Some(theirs)) => held.frozen.iter().any(|(span, _)| overlap(*span, theirs)),
            (None, None) => false,
        };
        assert!(!clash, "buffer filled and used at once: {:?}", held.token.split());
    }
    process.held.insert(id, held);
}

fn overlap(one: Span, other: Span) -> bool {
    one.slot == other.slot
        && one.offset < other.offset + other.length
        && other.offset < one.offset + one.length
}

fn give_disk(world: &mut World, (life, id): (LifeId, OpId), file: FileId, work: Work) {
    match world.process(life).files.get(file.0 as usize).copied().flatten() {
        Some(disk) => world.disks[disk].submit(&mut world.clockwork, life, id, work),
        None => world.clockwork.end(life, id, Err(Errno(libc::EBADF))),
    }
}

/// The bytes of a gather, and the spans that must stay as they are.
fn collect(pool: &Pool, gather: &Gather) -> (Vec<u8>, Vec<(Span, Rc<[u8]>)>) {
    let (mut bytes, mut frozen) = (Vec::new(), Vec::new());
    for chunk in &gather.chunks {
        match *chunk {
            Chunk::Copied { start, length } => {
                bytes.extend_from_slice(&gather.copied[start as usize..(start + length) as usize]);
            }
            Chunk::Slot(span) => {
                bytes.extend_from_slice(pool.bytes(span));
                frozen.push((span, pool.bytes(span).into()));
            }
        }
    }
    (bytes, frozen)
}

fn connect(
    world: &mut World,
    (life, id): (LifeId, OpId),
    target: SocketAddr,
    from: Option<IpAddr>,
) {
    let host = world.process(life).host;
    let own = address(host, 0).ip();
    if from.is_some_and(|from| from != own) {
        world.clockwork.end(life, id, Err(Errno(libc::EADDRNOTAVAIL)));
        return;
    }
    world.net.connect(&mut world.clockwork, (life, host), id, target);
}
