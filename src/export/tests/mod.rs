//! An export with a ring and a device in memory, and clients that speak to it.

mod ends;
mod limits;
mod model;
mod negotiation;
mod requests;
mod wire;

use std::collections::{BTreeMap, VecDeque};

use twinblk_nbd::client::{Client, ClientEvent};
use twinblk_nbd::{Command, CommandFlags, Errno, Negotiated, Request as Ask, Terms};

use super::spread;
use super::{Export, ExportOptions, Newcomer, TurnedAway};
use crate::buffer::{Budgets, Pool, Purpose};
use crate::replica::event::{Input, Pieces, Reply, Request, RequestError};
use crate::ring::{Lane, Ring, SocketId};
use crate::units::{Bytes, Nanos};
use wire::TestRing;

/// The core's stand-in: a device in memory that answers in order, when it is let.
struct Device {
    bytes: Vec<u8>,
    queue: VecDeque<Input>,
    /// Answers so many requests a turn.
    pace: usize,
    /// Fails all of them.
    fail: Option<RequestError>,
    /// Spoils the last byte of every write: what every comparison here must notice.
    spoils: bool,
    /// What was asked, in words.
    log: Vec<String>,
}

impl Device {
    fn carry_out(&mut self, pool: &mut Pool, request: Request) -> Reply {
        if let Some(error) = self.fail {
            if let Request::Read { pieces, .. } | Request::Write { pieces, .. } = request {
                spread::release(pool, pieces);
            }
            return Reply::Failed(error);
        }
        match request {
            Request::Read { range, pieces } => {
                self.log.push(format!("read {}+{}", range.offset, range.length));
                // As the core does: whole blocks.
                let start = range.blocks().offset_bytes();
                self.copy(pool, &pieces, Bytes::new(start, range.blocks().length_bytes()), true);
                return Reply::Data(pieces);
            }
            Request::Write { range, pieces, fua } => {
                self.log.push(format!("write {}+{} fua={fua}", range.offset, range.length));
                self.copy(pool, &pieces, range, false);
                let last = index(range.offset + range.length - 1);
                self.bytes[last] ^= u8::from(self.spoils);
                spread::release(pool, pieces);
            }
            Request::Zero { range, discard, fua } => {
                let (offset, length) = (range.offset, range.length);
                self.log.push(format!("zero {offset}+{length} discard={discard} fua={fua}"));
                self.bytes[index(range.offset)..][..index(range.length)].fill(0);
            }
            Request::Flush => self.log.push("flush".into()),
        }
        Reply::Done
    }

    fn copy(&mut self, pool: &mut Pool, pieces: &Pieces, range: Bytes, out: bool) {
        let mut done = 0;
        while done < range.length {
            let span = spread::run(pieces, range, done);
            let at = index(range.offset + done)..index(range.offset + done) + span.length as usize;
            if out {
                pool.bytes_mut(span).copy_from_slice(&self.bytes[at]);
            } else {
                self.bytes[at].copy_from_slice(pool.bytes(span));
            }
            done += u64::from(span.length);
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

/// One client, with what it has been answered.
struct Visitor {
    socket: SocketId,
    client: Client,
    next: u64,
    /// By cookie, in the order of arrival.
    answers: Vec<(u64, Result<(), Errno>)>,
    data: BTreeMap<u64, Vec<u8>>,
    /// Data of the reply being received: cookie, missing bytes.
    data_due: Option<(u64, usize)>,
}

struct World {
    ring: TestRing,
    pool: Pool,
    export: Export,
    device: Device,
    visitors: Vec<Visitor>,
}

const MIB: usize = 1 << 20;

impl World {
    fn new(device_bytes: usize, client_budget_bytes: usize) -> Self {
        let budgets =
            Budgets { client_bytes: client_budget_bytes, peer_bytes: 0, background_bytes: 0 };
        let (mut ring, mut pool) = (TestRing::default(), Pool::new(budgets));
        let mut export = Export::new(Lane::new(7, 1), options(device_bytes as u64));
        export.serve(&mut ring, &mut pool, true);
        let device = Device {
            bytes: pattern(device_bytes, 1),
            queue: VecDeque::new(),
            pace: usize::MAX,
            fail: None,
            spoils: false,
            log: Vec::new(),
        };
        Self { ring, pool, export, device, visitors: Vec::new() }
    }

    /// A client that has negotiated; its index.
    fn join(&mut self, structured: bool) -> usize {
        self.try_join(structured, Vec::new()).expect("a place")
    }

    fn try_join(&mut self, structured: bool, leftover: Vec<u8>) -> Result<usize, TurnedAway> {
        let terms = terms(self.export.options(), structured);
        let socket = self.ring.open();
        let newcomer = Newcomer { socket, terms, leftover };
        self.export.adopt(&mut self.ring, &mut self.pool, newcomer)?;
        let client = Client::new(terms);
        let (answers, data) = (Vec::new(), BTreeMap::new());
        self.visitors.push(Visitor { socket, client, next: 1, answers, data, data_due: None });
        Ok(self.visitors.len() - 1)
    }

    fn wire(&mut self, visitor: usize) -> &mut wire::Wire {
        let socket = self.visitors[visitor].socket;
        self.ring.wire(socket)
    }

    /// Queues a request on the client's side; its cookie.
    fn ask(&mut self, visitor: usize, ask: Ask, payload: &[u8]) -> u64 {
        let it = &mut self.visitors[visitor];
        let cookie = it.next;
        it.next += 1;
        let header = it.client.submit(Ask { cookie, ..ask }).expect("a free place");
        self.say(visitor, &header);
        self.say(visitor, payload);
        cookie
    }

    fn read(&mut self, visitor: usize, offset: u64, length: usize) -> u64 {
        let length = u32::try_from(length).unwrap();
        self.ask(visitor, Ask::new(Command::READ, 0, offset, length), &[])
    }

    fn write(&mut self, visitor: usize, offset: u64, payload: &[u8]) -> u64 {
        let length = u32::try_from(payload.len()).unwrap();
        self.ask(visitor, Ask::new(Command::WRITE, 0, offset, length), payload)
    }

    fn say(&mut self, visitor: usize, bytes: &[u8]) {
        self.wire(visitor).to_server.extend(bytes);
    }

    /// One turn of a shard, as the module says.
    fn turn(&mut self) {
        let (mut completions, mut inputs) = (Vec::new(), Vec::new());
        self.ring.turn(&mut self.pool, Nanos::NEVER, &mut completions);
        for completion in completions {
            self.export.on_completion(&mut self.ring, &mut self.pool, completion, &mut inputs);
        }
        if self.export.deadline(&self.pool) <= self.ring.now {
            self.export.on_time(&mut self.ring, &mut self.pool);
        }
        let mut pace = self.device.pace;
        loop {
            self.device.queue.extend(inputs.drain(..));
            while pace > 0
                && let Some(input) = self.device.queue.pop_front()
            {
                pace -= 1;
                let Input::Request { id, request } = input else { panic!("{input:?}") };
                let reply = self.device.carry_out(&mut self.pool, request);
                self.export.reply(&mut self.ring, &mut self.pool, id, reply);
            }
            if !self.export.resume(&mut self.ring, &mut self.pool, &mut inputs) && inputs.is_empty()
            {
                break;
            }
        }
        self.export.flush(&mut self.ring, &mut self.pool);
        for visitor in 0..self.visitors.len() {
            self.listen(visitor);
        }
    }

    /// Turns until nothing moves any more.
    fn rest(&mut self) {
        let (mut before, mut still) = (String::new(), 0);
        for _ in 0..200_000 {
            self.turn();
            let figures = |world: &mut Self| {
                let wires = world.ring.wires.values();
                let moved: Vec<_> = wires.map(|w| (w.to_server.len(), w.sends, w.closed)).collect();
                let used = world.pool.used_bytes(Purpose::Client);
                let asked = (world.device.queue.len(), world.device.log.len());
                format!("{moved:?} {used} {asked:?} {}", world.export.requests_in_core())
            };
            let now = figures(self);
            still = if now == before { still + 1 } else { 0 };
            // A hang-up, a close and a reply may each take a turn that moves no byte.
            if still == 4 {
                return;
            }
            before = now;
        }
        panic!("it never comes to rest");
    }

    /// Decodes what a client has received.
    fn listen(&mut self, visitor: usize) {
        let received = std::mem::take(&mut self.wire(visitor).from_server);
        let it = &mut self.visitors[visitor];
        let mut rest = &received[..];
        loop {
            if let Some((cookie, missing)) = it.data_due.take() {
                let (here, after) = rest.split_at(missing.min(rest.len()));
                it.data.entry(cookie).or_default().extend_from_slice(here);
                rest = after;
                if here.len() < missing {
                    it.data_due = Some((cookie, missing - here.len()));
                    return;
                }
                it.client.payload_done();
            }
            let (taken, event) = it.client.feed(rest);
            rest = &rest[taken..];
            match event {
                ClientEvent::NeedMore => return,
                ClientEvent::Data { cookie, length, .. } => {
                    it.data_due = Some((cookie, length as usize));
                }
                ClientEvent::Completed { cookie, result } => {
                    it.answers.push((cookie, result.map_err(|failure| failure.errno)));
                }
                event => panic!("the export does not speak NBD: {event:?}"),
            }
        }
    }

    fn answer(&self, visitor: usize, cookie: u64) -> Option<Result<(), Errno>> {
        let mut answers = self.visitors[visitor].answers.iter();
        answers.find(|(of, _)| *of == cookie).map(|(_, result)| *result)
    }

    fn data(&self, visitor: usize, cookie: u64) -> &[u8] {
        &self.visitors[visitor].data[&cookie]
    }

    /// Nothing of anybody's is in use.
    fn assert_idle(&self) {
        assert!(self.export.is_idle(), "{:?}", self.export);
        for purpose in [Purpose::Client, Purpose::Fixed] {
            assert_eq!(self.pool.used_bytes(purpose), 0, "{purpose:?}");
        }
        assert!(!self.pool.has_line(Purpose::Client));
        assert!(self.ring.wires.values().all(|wire| wire.closed));
    }
}

fn options(device_bytes: u64) -> ExportOptions {
    ExportOptions { name: "r0".into(), description: "a test".into(), device_bytes }
}

fn terms(options: &ExportOptions, structured_replies: bool) -> Terms {
    let export = options.info(None);
    Negotiated { export, structured_replies, no_zeroes: true }.terms()
}

/// Bytes in which every misplaced one shows.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
