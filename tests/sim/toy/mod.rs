//! Owns a toy daemon: a mirror of two nodes that is right, small and slow. It keeps the whole
//! simulator honest: it must pass, and each bug planted in it must be caught. Must never share a
//! rule with the product.
//!
//! Every write waits for the other node; alone, all waits. A meeting always ends in a copy of the
//! whole device from the node with the higher epoch.

mod copying;
mod frame;
mod requests;
mod roles;
mod wire;

use std::collections::{BTreeMap, VecDeque};

use twinblk::buffer::{Budgets, Payload, Pool, Purpose, Span};
use twinblk::replica::event::{Change, Command, Refusal, Status};
use twinblk::ring::{Completion, Errno, FileId, Lane, Op, Ring};
use twinblk::units::{BootId, Nanos};

use crate::checker::copies::Protocol;
use crate::faults::{KINDS, Kind};
use crate::node::{Ask, Life, Maker, Place, Told};
use crate::ring::SimRing;
use crate::world::World;

use frame::Frame;
use wire::Wire;

/// Where the device begins: after the block of metadata.
pub(crate) const DATA: u64 = 4096;
const SECTOR: u64 = 512;
/// Bytes of one step of the copy.
const STEP: u64 = 65_536;

/// A fault of the toy, for the checkers to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Acknowledges before the other node has the write.
    AckEarly,
    /// Acknowledges a flush without one.
    NoFlush,
    /// Acknowledges a flush when only its own disk has it.
    FlushHere,
    /// Takes a returning node for equal.
    NoCopy,
    /// Lets overlapping requests run together.
    NoLocks,
    /// Releases a buffer while the disk writes from it.
    EarlyRelease,
    /// Promotes a node that lacks writes without being forced.
    StalePromote,
}

/// What a node keeps of itself on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) epoch: u64,
    /// It served last.
    pub(crate) source: bool,
    /// A copy to it has begun and not ended.
    pub(crate) mixed: bool,
    pub(crate) boot: u128,
}

impl Meta {
    pub(crate) fn bytes(self) -> [u8; 4096] {
        let mut block = [0; 4096];
        block[..8].copy_from_slice(&self.epoch.to_le_bytes());
        (block[8], block[9]) = (u8::from(self.source), u8::from(self.mixed));
        block[16..32].copy_from_slice(&self.boot.to_le_bytes());
        block
    }

    fn read(block: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight"));
        let boot = u128::from(number(16)) | u128::from(number(24)) << 64;
        Self { epoch: number(0), source: block[8] != 0, mixed: block[9] != 0, boot }
    }
}

/// A disk operation under way, and what follows.
pub(crate) enum Task {
    ReadMeta(Payload),
    WriteMeta(Payload),
    /// For a client.
    Read(u64, Payload),
    Write(u64, Payload),
    Sync(u64),
    /// For the other node.
    PeerWrite(u64, Payload),
    PeerSync(u64),
    CopyRead(u64, Payload),
    CopyWrite(Payload),
    CopySync,
}

impl Task {
    /// Belongs to the meeting with the other node: the next meeting waits for its end.
    pub(crate) const fn is_of_session(&self) -> bool {
        !matches!(
            self,
            Self::ReadMeta(_)
                | Self::WriteMeta(_)
                | Self::Read(..)
                | Self::Write(..)
                | Self::Sync(_)
        )
    }
}

/// A request in progress.
struct Active {
    ask: Ask,
    here: bool,
    there: bool,
}

/// What stands between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Alone,
    Source,
    Target,
    Equal,
}

/// One life of the toy.
pub(crate) struct Toy {
    pub(crate) ring: SimRing,
    pub(crate) pool: Pool,
    pub(crate) node: usize,
    file: FileId,
    bug: Bug,
    device_bytes: u64,
    pub(crate) boot: BootId,
    pub(crate) meta: Option<Meta>,
    meta_busy: bool,
    meta_again: bool,
    pub(crate) tasks: BTreeMap<u64, Task>,
    next_task: u64,
    pub(crate) wire: Wire,
    pub(crate) phase: Phase,
    pub(crate) primary: bool,
    /// A frame to send, or a promise to keep, once the metadata is stable.
    after_meta: Vec<Then>,
    queue: VecDeque<(u64, Ask)>,
    active: BTreeMap<u64, Active>,
    demoting: Option<u64>,
    promoting: Option<Promoting>,
    commands: VecDeque<(u64, Command)>,
    replies: Vec<(u64, Told)>,
    answers: Vec<(u64, Result<String, Refusal>)>,
    copied: u64,
}

/// A promotion under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promoting {
    id: u64,
    /// The peer was asked, and has not answered.
    asking: bool,
    stable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Promoted,
    CopyBegins(u64),
    CopyEnded(u64),
    Consent(u64),
}

impl Toy {
    fn submit(&mut self, op: Op, task: Task) {
        self.next_task += 1;
        self.tasks.insert(self.next_task, task);
        let token = Lane::new(1, 0).token(self.next_task);
        self.ring.submit(&self.pool, token, op);
    }

    fn take(&mut self, length: u64) -> (Payload, Span) {
        let bytes = usize::try_from(length).expect("requests are small");
        let payload = self.pool.take(Purpose::Fixed, bytes).expect("without a budget");
        let span = Span { slot: payload.share(), offset: 0, length: bytes as u32 };
        (payload, span)
    }

    /// Writes bytes to the device.
    fn store(
        &mut self,
        offset: u64,
        bytes: &[u8],
        durable: bool,
        task: fn(u64, Payload) -> Task,
        id: u64,
    ) {
        let (payload, span) = self.take(bytes.len() as u64);
        self.pool.bytes_mut(span).copy_from_slice(bytes);
        let op = Op::Write { file: self.file, offset: DATA + offset, from: span, durable };
        if self.bug == Bug::EarlyRelease {
            let (other, _) = self.take(512);
            self.submit(op, task(id, other));
            self.pool.release(payload);
            return;
        }
        self.submit(op, task(id, payload));
    }

    fn load(&mut self, offset: u64, length: u64, task: fn(u64, Payload) -> Task, id: u64) {
        let (payload, span) = self.take(length);
        let op = Op::Read { file: self.file, offset: DATA + offset, into: span };
        self.submit(op, task(id, payload));
    }

    fn bytes(&self, payload: &Payload, length: u64) -> Vec<u8> {
        let length = u32::try_from(length).expect("requests are small");
        self.pool.bytes(Span { slot: payload.share(), offset: 0, length }).to_vec()
    }

    /// Changes the metadata, durably, and then goes on.
    fn record(&mut self, meta: Meta, then: Then) {
        self.meta = Some(meta);
        self.after_meta.push(then);
        if self.meta_busy {
            self.meta_again = true;
            return;
        }
        self.write_meta();
    }

    fn write_meta(&mut self) {
        self.meta_busy = true;
        let (payload, span) = self.take(4096);
        let meta = self.meta.expect("known by now");
        self.pool.bytes_mut(span).copy_from_slice(&meta.bytes());
        let op = Op::Write { file: self.file, offset: 0, from: span, durable: true };
        self.submit(op, Task::WriteMeta(payload));
    }

    fn meta_written(&mut self) {
        if std::mem::take(&mut self.meta_again) {
            self.write_meta();
            return;
        }
        self.meta_busy = false;
        for then in std::mem::take(&mut self.after_meta) {
            match then {
                Then::Promoted => {
                    if let Some(promoting) = self.promoting.as_mut() {
                        promoting.stable = true;
                    }
                }
                Then::CopyBegins(session) | Then::CopyEnded(session)
                    if session != self.wire.session || self.phase != Phase::Target => {}
                Then::Consent(session) if session == self.wire.session => {
                    self.wire.send(&Frame::Yes);
                }
                Then::Consent(_) => {}
                Then::CopyBegins(_) => self.wire.send(&Frame::Ready),
                Then::CopyEnded(_) => {
                    self.wire.send(&Frame::Copied);
                    self.phase = Phase::Equal;
                }
            }
        }
    }

    /// A disk operation ended. Errors are fatal: the toy has no answer to them.
    fn disk_done(&mut self, task: Task, result: Result<u32, Errno>) {
        result.expect("the toy is not made for failing disks");
        match task {
            Task::ReadMeta(payload) => {
                self.meta = Some(Meta::read(&self.bytes(&payload, 4096)));
                self.pool.release(payload);
            }
            Task::WriteMeta(payload) => {
                self.pool.release(payload);
                self.meta_written();
            }
            Task::Read(id, payload) => self.read_done(id, payload),
            Task::Write(id, payload) => {
                self.pool.release(payload);
                self.progress(id, true, false);
            }
            Task::Sync(id) => self.progress(id, true, false),
            Task::PeerWrite(id, payload) => {
                self.pool.release(payload);
                self.wire.send(&Frame::Done { id });
            }
            Task::PeerSync(id) => self.wire.send(&Frame::Done { id }),
            Task::CopyRead(offset, payload) => {
                let length = STEP.min(self.device_bytes - offset);
                let bytes = self.bytes(&payload, length);
                self.pool.release(payload);
                self.copied = offset + length;
                self.wire.send(&Frame::Step { offset, bytes });
            }
            Task::CopyWrite(payload) => {
                self.pool.release(payload);
                self.wire.send(&Frame::Ready);
            }
            Task::CopySync => {
                let meta = self.meta.expect("known by now");
                let meta = Meta { mixed: false, boot: self.boot.0, ..meta };
                self.record(meta, Then::CopyEnded(self.wire.session));
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let (part, _, number) = completion.token.split();
        if part != 1 {
            self.link_done(number, completion);
            return;
        }
        let task = self.tasks.remove(&number).expect("each operation ends once");
        self.disk_done(task, completion.result);
    }
}

impl Life for Toy {
    fn turn(&mut self) {
        let mut completions = Vec::new();
        let until = if self.meta.is_some() { self.wire.deadline() } else { Nanos::NEVER };
        self.ring.turn(&mut self.pool, until, &mut completions);
        completions.into_iter().for_each(|completion| self.on_completion(completion));
        while let Some((id, command)) = self.commands.pop_front() {
            self.obey(id, &command);
        }
        if self.meta.is_some() {
            self.link_turn();
            self.start_requests();
        }
        self.finish_promotion();
        if self.demoting.is_some() && self.active.is_empty() {
            self.step_down();
            self.wire.send(&Frame::Demoted);
        }
        self.link_flush();
    }

    fn request(&mut self, id: u64, ask: &Ask) {
        self.queue.push_back((id, *ask));
    }

    fn replies(&mut self, into: &mut Vec<(u64, Told)>) {
        into.append(&mut self.replies);
    }

    fn command(&mut self, id: u64, command: Command) {
        self.commands.push_back((id, command));
    }

    fn answers(&mut self, into: &mut Vec<(u64, Result<String, Refusal>)>) {
        into.append(&mut self.answers);
    }

    fn changes(&mut self, _into: &mut Vec<Change>) {}

    fn serving(&self) -> bool {
        self.primary
    }

    fn inputs(&self) -> u64 {
        0 // It has no core.
    }

    fn status(&self) -> Option<Status> {
        let meta = self.meta?;
        Some(self.wire.status(self, meta, self.promote_refusal()))
    }
}

/// Makes toys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToyMaker {
    pub(crate) bug: Bug,
    pub(crate) device_bytes: u64,
}

impl Maker for ToyMaker {
    fn disk_bytes(&self, device_bytes: u64) -> u64 {
        DATA + device_bytes
    }

    fn data_offset(&self) -> u64 {
        DATA
    }

    fn survives(&self) -> Vec<Kind> {
        let kinds = KINDS.iter().map(|(_, kind)| *kind);
        let not = [
            Kind::DiskErrors,
            Kind::DiskFull,
            Kind::DiskWiped,
            Kind::DiskRestored,
            Kind::DisksSwapped,
            Kind::Takeover,
            Kind::Crash,
        ];
        kinds.filter(|kind| !not.contains(kind)).collect()
    }

    fn protocol(&self) -> Protocol {
        Protocol::C
    }

    fn create(&self, _world: &mut World, _node: usize, _disk: usize) {
        // Zeroes are a fresh node's metadata.
    }

    fn start(&self, place: Place) -> Box<dyn Life> {
        let mut ring = SimRing::new(place.world.clone(), place.life);
        let file = ring.open_disk(place.disk).expect("started once the lock is free");
        let boot = ring.boot();
        let wire = Wire::new(&mut ring, place.node);
        let budget = 64 << 20;
        let budgets =
            Budgets { client_bytes: budget, peer_bytes: budget, background_bytes: budget };
        let mut toy = Toy {
            ring,
            pool: Pool::new(budgets),
            node: place.node,
            file,
            bug: self.bug,
            device_bytes: self.device_bytes,
            boot,
            meta: None,
            meta_busy: false,
            meta_again: false,
            tasks: BTreeMap::new(),
            next_task: 0,
            wire,
            phase: Phase::Alone,
            primary: false,
            after_meta: Vec::new(),
            queue: VecDeque::new(),
            active: BTreeMap::new(),
            demoting: None,
            promoting: None,
            commands: VecDeque::new(),
            replies: Vec::new(),
            answers: Vec::new(),
            copied: 0,
        };
        let (payload, span) = toy.take(4096);
        toy.submit(Op::Read { file, offset: 0, into: span }, Task::ReadMeta(payload));
        Box::new(toy)
    }
}
