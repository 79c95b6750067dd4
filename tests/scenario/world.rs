//! Owns a small world: nodes with a core and a disk each, links between them, virtual time.
//! Must never hold rules of replication: it carries out what the cores say, as late and in as
//! odd an order as a test wants.

use crate::medium::{Block, Dice, Medium, RECORD, run_of};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use twinblk::buffer::{Budgets, Payload, Pool, Purpose, Span};
use twinblk::format::extent_log::{self, LogIdentity};
use twinblk::format::frame::{Channel, Frame, Protocol, Role};
use twinblk::format::superblock::Superblock;
use twinblk::plant::Plants;
use twinblk::replica::Replica;
use twinblk::replica::event::*;
use twinblk::replica::options::*;
use twinblk::units::*;

pub const ALPHA: usize = 0;
pub const BRAVO: usize = 1;
pub const CHARLIE: usize = 2;
const NAMES: [&str; 3] = ["alpha", "bravo", "charlie"];
const DISK_TIME: u64 = 100_000;
const LINK_TIME: u64 = 30_000;

#[derive(Clone)]
pub struct Setup {
    pub nodes: usize,
    /// The only node that the others know, and that knows them all; none: everybody knows everybody.
    pub hub: Option<usize>,
    pub device_blocks: u64,
    pub log_extents: u32,
    pub protocol: Protocol,
    pub on_peer_loss: PeerLoss,
    pub on_congestion: OnCongestion,
    pub congestion_bytes: u64,
    pub checksum: bool,
    pub rate_max_bytes: u64,
    /// 0: everything takes the same time and happens in order.
    pub chaos: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 2,
            hub: None,
            device_blocks: 32 * 1024,
            log_extents: 16,
            protocol: Protocol::C,
            on_peer_loss: PeerLoss::Continue,
            on_congestion: OnCongestion::Wait,
            congestion_bytes: 1 << 30,
            checksum: false,
            rate_max_bytes: u64::MAX,
            chaos: 0,
        }
    }
}

impl Setup {
    /// The nodes that this one is configured to know, in slot order.
    fn peers_of(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let knows = move |other: &usize| {
            *other != node && self.hub.is_none_or(|hub| hub == node || hub == *other)
        };
        (0..self.nodes).filter(knows)
    }
}

#[derive(Debug)]
pub enum Work {
    Load { io: IoId, blocks: Blocks, into: Part },
    Fetch { io: IoId, blocks: Blocks, want: Want },
    Digest { io: IoId, blocks: Blocks },
    Store { io: IoId, blocks: Blocks, from: Part, fua: bool, data: Vec<Block> },
    Zero { io: IoId, blocks: Blocks, fua: bool },
    Sync { io: IoId, mark: u64 },
    Superblock { id: PersistId, value: Box<Superblock> },
    Pages { id: PersistId, pages: Vec<(PageId, Vec<u64>)> },
    Log { id: PersistId, place: usize, bytes: Vec<u8> },
    Open { fresh: bool },
    Close,
    Scan,
}

impl Work {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Fetch { .. } => "fetch",
            Self::Digest { .. } => "digest",
            Self::Store { .. } => "store",
            Self::Zero { .. } => "zero",
            Self::Sync { .. } => "sync",
            Self::Superblock { .. } => "superblock",
            Self::Pages { .. } => "pages",
            Self::Log { .. } => "log",
            Self::Open { .. } => "open",
            Self::Close => "close",
            Self::Scan => "scan",
        }
    }
    fn touches(&self) -> Option<Blocks> {
        match self {
            Self::Store { blocks, .. } | Self::Zero { blocks, .. } => Some(*blocks),
            _ => None,
        }
    }
}

pub struct Pending {
    due: Nanos,
    order: u64,
    pub work: Work,
}

pub struct Node {
    pub replica: Option<Replica>,
    pub pool: Pool,
    pub medium: Medium,
    pub pending: Vec<Pending>,
    pub replies: BTreeMap<RequestId, Result<Vec<u8>, RequestError>>,
    pub answers: BTreeMap<CommandId, Result<String, Refusal>>,
    pub changes: Vec<Change>,
    pub boot: BootId,
    pub serving: bool,
    /// Works whose completion waits for the test's word, by name.
    pub stalled: BTreeSet<&'static str>,
    wanted: Vec<bool>,
    reads: BTreeMap<RequestId, Bytes>,
    dirty: bool,
    /// How often each work was carried out, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

/// One direction of one session.
#[derive(Default)]
struct Lane {
    data: VecDeque<Parcel>,
    control: VecDeque<Parcel>,
    /// The sender has closed; its `LinkDown` at the receiver follows what is under way.
    closed: Option<(Nanos, u64)>,
}

struct Parcel {
    due: Nanos,
    order: u64,
    epoch: Epoch,
    frame: Frame,
    bytes: Option<Vec<u8>>,
}

#[derive(Default)]
struct Link {
    nodes: [usize; 2],
    up: bool,
    /// The session as each end sees it.
    session: [Option<Session>; 2],
    /// Towards the other end, by sender.
    lanes: [Lane; 2],
    redial: Option<(Nanos, u64)>,
    /// Frames that do not leave until the test says so.
    pub held: bool,
    /// The same of data alone, by sender: what control says overtakes it.
    data_held: [bool; 2],
    /// Frames that stay on the way, and with them what follows in their channel, by sender.
    kinds_held: BTreeSet<(usize, &'static str)>,
    /// When a frame of this kind, from this end, would be delivered the link is cut instead.
    trap: Option<(usize, &'static str)>,
    pub trapped: u64,
}

pub struct World {
    pub setup: Setup,
    pub now: Nanos,
    pub nodes: Vec<Node>,
    links: Vec<Link>,
    pub dice: Dice,
    order: u64,
    sessions: u64,
    next_id: u64,
    pub events: u64,
    pub sent: BTreeMap<(usize, &'static str), u64>,
    /// Blocks of the device that new metadata was last laid out for.
    pub laid_out: Option<u64>,
    pub log: Vec<String>,
    runs: u64,
}

pub fn kind_name(frame: &Frame) -> &'static str {
    match frame {
        Frame::State(_) => "State",
        Frame::Met => "Met",
        Frame::Write { .. } => "Write",
        Frame::Zero { .. } => "Zero",
        Frame::Barrier { .. } => "Barrier",
        Frame::ResyncData { .. } => "ResyncData",
        Frame::ResyncZero { .. } => "ResyncZero",
        Frame::ResyncHash { .. } => "ResyncHash",
        Frame::HashAnswer { .. } => "HashAnswer",
        Frame::Marks { .. } => "Marks",
        Frame::MarksAll => "MarksAll",
        Frame::MarksDone => "MarksDone",
        Frame::SyncReady { .. } => "SyncReady",
        Frame::SyncStart { .. } => "SyncStart",
        Frame::SyncDone { .. } => "SyncDone",
        Frame::SyncAdopted => "SyncAdopted",
        Frame::PauseSync { .. } => "PauseSync",
        Frame::PromoteAsk { .. } => "PromoteAsk",
        Frame::PromoteAnswer { .. } => "PromoteAnswer",
        Frame::RoleChange { .. } => "RoleChange",
        Frame::DiskChange { .. } => "DiskChange",
        Frame::GenerationBegin { .. } => "GenerationBegin",
        Frame::GenerationHeld { .. } => "GenerationHeld",
        Frame::Behind => "Behind",
        Frame::ReadAsk { .. } => "ReadAsk",
        Frame::ReadAnswer { .. } => "ReadAnswer",
        Frame::VerifyAsk { .. } => "VerifyAsk",
        Frame::VerifyAnswer { .. } => "VerifyAnswer",
        Frame::EmptyAsk { .. } => "EmptyAsk",
        Frame::EmptyAnswer { .. } => "EmptyAnswer",
        Frame::Bye { .. } => "Bye",
        Frame::Received { .. } => "Received",
        Frame::Written { .. } => "Written",
        Frame::Stable { .. } => "Stable",
        Frame::WriteFailed { .. } => "WriteFailed",
        Frame::Ping { .. } => "Ping",
    }
}

fn pool() -> Pool {
    Pool::new(Budgets { client_bytes: 1 << 32, peer_bytes: 1 << 32, background_bytes: 1 << 32 })
}

impl World {
    /// Fresh nodes, started, links up.
    pub fn new(setup: Setup) -> Self {
        let mut dice = Dice(setup.chaos ^ 0x5eed);
        let nodes = (0..setup.nodes)
            .map(|node| {
                let id = u8::try_from(node).expect("few");
                Node {
                    replica: None,
                    pool: pool(),
                    medium: Medium::new(id, setup.device_blocks, setup.log_extents, &mut dice),
                    pending: Vec::new(),
                    replies: BTreeMap::new(),
                    answers: BTreeMap::new(),
                    changes: Vec::new(),
                    boot: BootId(u128::from(id) + 1),
                    serving: false,
                    stalled: BTreeSet::new(),
                    wanted: vec![false; setup.nodes],
                    reads: BTreeMap::new(),
                    dirty: false,
                    counts: BTreeMap::new(),
                }
            })
            .collect();
        let mut links = Vec::new();
        for a in 0..setup.nodes {
            for b in setup.peers_of(a).filter(|b| *b > a) {
                links.push(Link { nodes: [a, b], up: true, ..Link::default() });
            }
        }
        let mut world = Self {
            setup,
            now: Nanos(1_000),
            nodes,
            links,
            dice,
            order: 0,
            sessions: 0,
            next_id: 1,
            events: 0,
            sent: BTreeMap::new(),
            laid_out: None,
            log: Vec::new(),
            runs: 0,
        };
        (0..world.nodes.len()).for_each(|node| world.start(node));
        world
    }

    // ---- nodes ----

    pub fn start(&mut self, node: usize) {
        assert!(self.nodes[node].replica.is_none());
        self.runs += 1;
        let peers = self.setup.peers_of(node);
        let options = Options {
            resource: "r0".to_owned(),
            node: NodeId(u8::try_from(node).expect("few")),
            name: NAMES[node].to_owned(),
            peers: peers
                .map(|other| PeerOptions {
                    node: NodeId(u8::try_from(other).expect("few")),
                    name: NAMES[other].to_owned(),
                })
                .collect(),
            protocol: self.setup.protocol,
            on_peer_loss: self.setup.on_peer_loss,
            on_congestion: self.setup.on_congestion,
            congestion_bytes: self.setup.congestion_bytes,
            resync: ResyncOptions {
                rate_max_bytes: self.setup.rate_max_bytes,
                rate_min_bytes: 1 << 20,
                checksum: self.setup.checksum,
            },
            seed: self.dice.roll(),
            run: RunId(self.runs),
            plants: Plants::default(),
        };
        self.say(node, "starts");
        self.nodes[node].replica = Some(Replica::new(options));
        self.drain(node);
    }

    /// The process dies; the machine goes on.
    pub fn crash(&mut self, node: usize) {
        self.stop_machine(node, false);
    }

    /// What is stalled never reaches the disk.
    pub fn drop_stalled(&mut self, node: usize) {
        let Node { pending, stalled, .. } = &mut self.nodes[node];
        pending.retain(|pending| !stalled.contains(pending.work.name()));
        stalled.clear();
    }

    /// The machine loses power and boots again.
    pub fn power_cut(&mut self, node: usize) {
        self.stop_machine(node, true);
    }

    fn stop_machine(&mut self, node: usize, power: bool) {
        self.say(node, if power { "loses power" } else { "is killed" });
        for link in 0..self.links.len() {
            if let Some(end) = self.links[link].nodes.iter().position(|n| *n == node) {
                self.end_session(link, end, false);
            }
        }
        let found = &mut self.nodes[node];
        found.replica = None;
        found.pool = pool();
        found.serving = false;
        found.dirty = false;
        found.reads.clear();
        found.wanted.iter_mut().for_each(|wanted| *wanted = false);
        let mut pending = std::mem::take(&mut found.pending);
        pending.sort_by_key(|pending| (pending.due, pending.order));
        for pending in pending {
            land(&mut found.medium, pending.work, &mut self.dice, power);
        }
        if power {
            found.medium.power_cut(&mut self.dice);
            found.boot = BootId(found.boot.0 + 100);
        }
    }

    pub fn restart(&mut self, node: usize) {
        self.start(node);
    }

    pub fn alive(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some()
    }

    pub fn status(&self, node: usize) -> Status {
        self.nodes[node].replica.as_ref().expect("alive").status()
    }

    pub fn replica(&self, node: usize) -> &Replica {
        self.nodes[node].replica.as_ref().expect("alive")
    }

    fn say(&mut self, node: usize, what: &str) {
        self.log.push(format!("{:>12} {}: {what}", self.now.0, NAMES[node]));
    }

    // ---- clients and operators ----

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn request(&mut self, node: usize, request: Request) -> RequestId {
        let id = RequestId(self.id());
        if let Request::Read { range, .. } = &request {
            self.nodes[node].reads.insert(id, *range);
        }
        self.handle(node, Input::Request { id, request });
        id
    }

    fn slots(&mut self, node: usize, range: Bytes) -> Pieces {
        let pool = &mut self.nodes[node].pool;
        let mut take = |blocks: Blocks| {
            let bytes = usize::try_from(blocks.length_bytes()).expect("fits");
            pool.take(Purpose::Client, bytes).expect("room")
        };
        let mut slots: Vec<Payload> = range.blocks().pieces(256).map(&mut take).collect();
        if slots.len() == 1 { Pieces::One(slots.remove(0)) } else { Pieces::Many(slots) }
    }

    pub fn write_bytes(&mut self, node: usize, offset: u64, data: &[u8], fua: bool) -> RequestId {
        let range = Bytes::new(offset, data.len() as u64);
        let pieces = self.slots(node, range);
        let pool = &mut self.nodes[node].pool;
        let refs: Vec<_> = match &pieces {
            Pieces::One(slot) => vec![slot.share()],
            Pieces::Many(slots) => slots.iter().map(Payload::share).collect(),
        };
        let head = usize::try_from(range.head_pad()).expect("fits");
        for (place, slot) in refs.into_iter().enumerate() {
            let length = pool.capacity_bytes(slot);
            let span = Span { slot, offset: 0, length: u32::try_from(length).expect("1 MiB") };
            let bytes = pool.bytes_mut(span);
            // The pads hold anything: what is left there must never reach a disk.
            bytes.fill(0xee);
            for (index, byte) in bytes.iter_mut().enumerate() {
                let at = place * (1 << 20) + index;
                if at >= head && at - head < data.len() {
                    *byte = data[at - head];
                }
            }
        }
        self.request(node, Request::Write { range, pieces, fua })
    }

    /// Writes blocks filled with a stamp.
    pub fn write(&mut self, node: usize, start: u64, count: u64, stamp: u64) -> RequestId {
        self.write_as(node, start, count, stamp, false)
    }

    pub fn write_as(
        &mut self,
        node: usize,
        start: u64,
        count: u64,
        stamp: u64,
        fua: bool,
    ) -> RequestId {
        let blocks = run_of(Blocks::new(start, count));
        let data: Vec<u8> = blocks.flat_map(|b| crate::medium::fill(stamp, b).to_vec()).collect();
        self.write_bytes(node, start * BLOCK_BYTES, &data, fua)
    }

    pub fn zero(&mut self, node: usize, offset: u64, length: u64) -> RequestId {
        let range = Bytes::new(offset, length);
        self.request(node, Request::Zero { range, discard: true, fua: false })
    }

    pub fn flush(&mut self, node: usize) -> RequestId {
        self.request(node, Request::Flush)
    }

    pub fn read(&mut self, node: usize, offset: u64, length: u64) -> RequestId {
        let range = Bytes::new(offset, length);
        let pieces = self.slots(node, range);
        self.request(node, Request::Read { range, pieces })
    }

    pub fn reply(&self, node: usize, id: RequestId) -> Option<&Result<Vec<u8>, RequestError>> {
        self.nodes[node].replies.get(&id)
    }

    pub fn done(&self, node: usize, id: RequestId) -> bool {
        self.reply(node, id).is_some_and(Result::is_ok)
    }

    pub fn command(&mut self, node: usize, command: Command) -> CommandId {
        let id = CommandId(self.id());
        self.say(node, &format!("{command:?}"));
        self.handle(node, Input::Command { id, command });
        id
    }

    pub fn answer(&self, node: usize, id: CommandId) -> Option<&Result<String, Refusal>> {
        self.nodes[node].answers.get(&id)
    }

    /// Gives a command and goes on until it is answered.
    pub fn order(&mut self, node: usize, command: Command) -> Result<String, Refusal> {
        let id = self.command(node, command);
        let end = self.now + Nanos::from_millis(60_000);
        while self.answer(node, id).is_none() && self.now < end {
            if !self.step() {
                break;
            }
        }
        let answer = self.answer(node, id).cloned();
        answer.unwrap_or_else(|| self.fail(&format!("{command:?} is not answered")))
    }

    #[track_caller]
    pub fn must(&mut self, node: usize, command: Command) {
        let answer = self.order(node, command);
        if let Err(refusal) = answer {
            self.fail(&format!("{command:?} on {} refused: {refusal:?}", NAMES[node]));
        }
    }

    pub fn refused(&mut self, node: usize, command: Command) -> &'static str {
        match self.order(node, command) {
            Ok(text) => self.fail(&format!("{command:?} not refused: {text}")),
            Err(refusal) => {
                let words = ["`", "run "].iter().any(|word| refusal.text.contains(word));
                assert!(words || refusal.reason == "busy", "no next command in {refusal:?}");
                refusal.reason
            }
        }
    }

    // ---- links ----

    fn peer_index(&self, node: usize, other: usize) -> PeerIndex {
        let place = self.setup.peers_of(node).position(|peer| peer == other).expect("a peer");
        PeerIndex(u8::try_from(place).expect("few"))
    }

    fn link(&self, a: usize, b: usize) -> usize {
        let pair = [a.min(b), a.max(b)];
        self.links.iter().position(|link| link.nodes == pair).expect("a pair")
    }

    pub fn cut(&mut self) {
        (0..self.links.len()).for_each(|link| self.cut_link(link));
    }

    /// Cuts one pair only.
    pub fn cut_between(&mut self, a: usize, b: usize) {
        self.cut_link(self.link(a, b));
    }

    fn cut_link(&mut self, link: usize) {
        self.links[link].up = false;
        self.links[link].trap = None;
        self.links[link].redial = None;
        let [a, b] = self.links[link].nodes;
        self.log
            .push(format!("{:>12} the link of {} and {} is cut", self.now.0, NAMES[a], NAMES[b]));
        for end in 0..2 {
            self.end_session(link, end, true);
        }
    }

    /// Only the session breaks; the next one may stand at once.
    pub fn blip(&mut self) {
        self.cut();
        self.restore();
    }

    pub fn restore(&mut self) {
        (0..self.links.len()).for_each(|link| self.restore_link(link));
    }

    /// Mends one pair only.
    pub fn restore_between(&mut self, a: usize, b: usize) {
        self.restore_link(self.link(a, b));
    }

    fn restore_link(&mut self, link: usize) {
        self.links[link].up = true;
        let [a, b] = self.links[link].nodes;
        self.log
            .push(format!("{:>12} the link of {} and {} is back", self.now.0, NAMES[a], NAMES[b]));
        self.schedule_dial(link);
    }

    pub fn hold_link(&mut self, held: bool) {
        self.links.iter_mut().for_each(|link| link.held = held);
    }

    /// Data from `node` does not leave, control does.
    pub fn hold_data(&mut self, node: usize, held: bool) {
        for link in &mut self.links {
            if let Some(end) = link.nodes.iter().position(|n| *n == node) {
                link.data_held[end] = held;
            }
        }
    }

    /// A frame of this kind from `node` stays on the way, and what follows it in its channel.
    pub fn hold_kind(&mut self, node: usize, kind: &'static str, held: bool) {
        for link in &mut self.links {
            if let Some(end) = link.nodes.iter().position(|n| *n == node) {
                if held {
                    link.kinds_held.insert((end, kind));
                } else {
                    link.kinds_held.remove(&(end, kind));
                }
            }
        }
    }

    /// The session of the first two nodes, if ALPHA has one.
    pub fn session(&self) -> Option<Session> {
        self.links[self.link(ALPHA, BRAVO)].session[0]
    }

    /// `node` takes the link for lost; the other one hears of it when frames flow again.
    pub fn gives_up_session(&mut self, node: usize) {
        for link in 0..self.links.len() {
            if let Some(end) = self.links[link].nodes.iter().position(|n| *n == node) {
                self.end_session(link, end, true);
            }
        }
    }

    /// The next frame of this kind from `node` is lost, and the link with it.
    pub fn lose(&mut self, node: usize, kind: &'static str) {
        for link in &mut self.links {
            if let Some(end) = link.nodes.iter().position(|n| *n == node) {
                link.trap = Some((end, kind));
            }
        }
    }

    pub fn trapped(&self) -> u64 {
        self.links.iter().map(|link| link.trapped).sum()
    }

    fn schedule_dial(&mut self, link: usize) {
        let [a, b] = self.links[link].nodes;
        let wanted = self.nodes[a].wanted[b] && self.nodes[b].wanted[a];
        let down = self.links[link].session == [None, None];
        let alive = self.alive(a) && self.alive(b);
        if wanted && down && alive && self.links[link].up && self.links[link].redial.is_none() {
            let delay = self.delay(10 * LINK_TIME);
            self.order += 1;
            self.links[link].redial = Some((self.now + Nanos(delay), self.order));
        }
    }

    fn dial(&mut self, link: usize) {
        self.links[link].redial = None;
        let [a, b] = self.links[link].nodes;
        let wanted = self.nodes[a].wanted[b] && self.nodes[b].wanted[a];
        let down = self.links[link].session == [None, None];
        if !wanted || !down || !self.links[link].up || !self.alive(a) || !self.alive(b) {
            return;
        }
        self.sessions += 1;
        let session = Session(0x1000 + self.sessions);
        self.links[link].session = [Some(session); 2];
        self.links[link].lanes = Default::default();
        self.log.push(format!("{:>12} session {} stands", self.now.0, session.0));
        for (node, other) in [(a, b), (b, a)] {
            let peer = self.peer_index(node, other);
            self.handle(node, Input::LinkUp { peer, session });
        }
    }

    /// One end closes. `told`: its core hears of it now.
    fn end_session(&mut self, link: usize, end: usize, told: bool) {
        let Some(session) = self.links[link].session[end].take() else { return };
        let node = self.links[link].nodes[end];
        let other = self.links[link].nodes[1 - end];
        // What is on the way to this end is lost.
        self.links[link].lanes[1 - end] = Lane::default();
        if self.links[link].session[1 - end].is_some() {
            let delay = self.delay(LINK_TIME);
            self.order += 1;
            self.links[link].lanes[end].closed = Some((self.now + Nanos(delay), self.order));
            if !self.links[link].up {
                self.links[link].lanes[end].data.clear();
                self.links[link].lanes[end].control.clear();
            }
        }
        if told {
            let peer = self.peer_index(node, other);
            self.handle(node, Input::LinkDown { peer, session });
        }
        self.schedule_dial(link);
    }

    // ---- time ----

    fn delay(&mut self, usual: u64) -> u64 {
        if self.setup.chaos == 0 { usual } else { 1 + self.dice.below(usual * 2) }
    }

    /// All that comes in one turn, before anything that follows of it is carried out.
    pub fn handle_at_once(&mut self, node: usize, inputs: Vec<Input>) {
        let now = self.now;
        if let Some(replica) = &mut self.nodes[node].replica {
            inputs.into_iter().for_each(|input| replica.handle(now, input));
        }
        self.drain(node);
    }

    pub fn handle(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some(replica) = &mut self.nodes[node].replica else { return };
        replica.handle(now, input);
        if self.setup.chaos != 0 && self.dice.one_in(3) {
            self.nodes[node].dirty = true;
        } else {
            self.drain(node);
        }
    }

    fn drain(&mut self, node: usize) {
        self.nodes[node].dirty = false;
        while let Some(output) = self.nodes[node].replica.as_mut().and_then(Replica::poll_output) {
            self.carry_out(node, output);
        }
    }

    /// Does the next thing that is due. False: nothing is left to do.
    pub fn step(&mut self) -> bool {
        for node in 0..self.nodes.len() {
            if self.nodes[node].dirty && (self.setup.chaos == 0 || !self.dice.one_in(4)) {
                self.drain(node);
            }
        }
        let Some((due, _, event)) = self.next_event() else {
            let dirty = self.nodes.iter().any(|node| node.dirty);
            (0..self.nodes.len()).for_each(|node| self.drain(node));
            return dirty;
        };
        // A turn may be late, but not by more than a disk takes: time does not pass over it.
        if due > self.now + Nanos(DISK_TIME) && self.nodes.iter().any(|node| node.dirty) {
            (0..self.nodes.len()).for_each(|node| self.drain(node));
            return true;
        }
        self.now = self.now.max(due);
        self.events += 1;
        match event {
            Event::Disk(node, place) => {
                let pending = self.nodes[node].pending.swap_remove(place);
                self.finish(node, pending.work);
            }
            Event::Frame(link, end, channel) => self.deliver(link, end, channel),
            Event::Closed(link, end) => {
                self.links[link].lanes[end] = Lane::default();
                self.end_session(link, 1 - end, true);
            }
            Event::Dial(link) => self.dial(link),
            Event::Deadline(node) => {
                self.drain(node);
                self.handle(node, Input::Timeout);
                self.drain(node);
                let next = self.replica(node).deadline();
                assert!(next > self.now, "{}: the deadline does not move: {next:?}", NAMES[node]);
            }
        }
        true
    }

    fn next_event(&self) -> Option<(Nanos, u64, Event)> {
        let mut best: Option<(Nanos, u64, Event)> = None;
        let mut offer = |due: Nanos, order: u64, event: Event| {
            if best.as_ref().is_none_or(|(d, o, _)| (due, order) < (*d, *o)) {
                best = Some((due, order, event));
            }
        };
        for (index, node) in self.nodes.iter().enumerate() {
            for (place, pending) in node.pending.iter().enumerate() {
                if node.stalled.contains(pending.work.name()) {
                    continue;
                }
                if matches!(pending.work, Work::Close) && node.pending.len() > 1 {
                    continue;
                }
                offer(pending.due, pending.order, Event::Disk(index, place));
            }
            if let Some(replica) = &node.replica {
                let due = replica.deadline();
                if due != Nanos::NEVER {
                    offer(due.max(self.now), u64::MAX, Event::Deadline(index));
                }
            }
        }
        for (index, link) in self.links.iter().enumerate() {
            if let Some((due, order)) = link.redial {
                offer(due, order, Event::Dial(index));
            }
            for (end, lane) in link.lanes.iter().enumerate() {
                if !link.held {
                    let free = |parcel: &&Parcel| {
                        !link.kinds_held.contains(&(end, kind_name(&parcel.frame)))
                    };
                    let data = lane.data.front().filter(|_| !link.data_held[end]);
                    if let Some(parcel) = data.filter(free) {
                        offer(parcel.due, parcel.order, Event::Frame(index, end, Channel::Data));
                    }
                    if let Some(parcel) = lane.control.front().filter(free) {
                        let event = Event::Frame(index, end, Channel::Control);
                        offer(parcel.due, parcel.order, event);
                    }
                }
                if let Some((due, order)) = lane.closed
                    && !link.held
                    && lane.data.is_empty()
                    && lane.control.is_empty()
                {
                    offer(due, order, Event::Closed(index, end));
                }
            }
        }
        best
    }

    /// Goes on until nothing happens for a while of virtual time.
    pub fn settle(&mut self) {
        self.run_for(30_000);
    }

    pub fn run_for(&mut self, millis: u64) {
        let end = self.now + Nanos::from_millis(millis);
        let mut steps = 0u64;
        loop {
            match self.next_event() {
                Some((due, _, _)) if due <= end => {
                    self.step();
                }
                _ if self.nodes.iter().any(|node| node.dirty) => {
                    (0..self.nodes.len()).for_each(|node| self.drain(node));
                }
                _ => break,
            }
            steps += 1;
            if steps > 3_000_000 {
                self.fail("it never comes to rest");
            }
        }
        self.now = end;
    }

    /// Goes on until something holds.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = self.now + Nanos::from_millis(60_000);
        while !holds(self) {
            if self.now > end || !self.step() && !holds(self) {
                self.fail(&format!("never: {what}"));
            }
        }
    }

    pub fn steps(&mut self, count: u64) {
        (0..count).for_each(|_| {
            self.step();
        });
    }

    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        let lines = std::env::var("LINES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
        let from = self.log.len().saturating_sub(lines);
        for line in &self.log[from..] {
            eprintln!("{line}");
        }
        for node in 0..self.nodes.len() {
            if self.alive(node) {
                eprintln!("{:?}", self.status(node));
            }
        }
        panic!("{what}");
    }

    fn deliver(&mut self, link: usize, end: usize, channel: Channel) {
        let lane = &mut self.links[link].lanes[end];
        let queue = if channel == Channel::Data { &mut lane.data } else { &mut lane.control };
        let Some(parcel) = queue.pop_front() else { return };
        let name = kind_name(&parcel.frame);
        if self.links[link].trap == Some((end, name)) {
            self.links[link].trapped += 1;
            self.log.push(format!("{:>12} {name} is lost", self.now.0));
            return self.cut_link(link);
        }
        let (from, to) = (self.links[link].nodes[end], self.links[link].nodes[1 - end]);
        let Some(session) = self.links[link].session[1 - end] else { return };
        if self.log.len() < 200_000 {
            let text = format!("{:?}", parcel.frame);
            let text: String = text.chars().take(110).collect();
            self.log.push(format!("{:>12} {} -> {}: {text}", self.now.0, NAMES[from], NAMES[to]));
        }
        let pool = &mut self.nodes[to].pool;
        let payload = parcel.bytes.map(|bytes| {
            let payload = pool.take(Purpose::Peer, bytes.len()).expect("room");
            let length = u32::try_from(bytes.len()).expect("a piece");
            let span = Span { slot: payload.share(), offset: 0, length };
            pool.bytes_mut(span).copy_from_slice(&bytes);
            payload
        });
        let (peer, epoch, frame) = (self.peer_index(to, from), parcel.epoch, parcel.frame);
        self.handle(to, Input::Frame { peer, session, epoch, frame, payload });
    }

    // ---- outputs ----

    fn submit(&mut self, node: usize, work: Work) {
        *self.nodes[node].counts.entry(work.name()).or_default() += 1;
        let range = match &work {
            Work::Load { blocks, .. }
            | Work::Fetch { blocks, .. }
            | Work::Digest { blocks, .. } => Some(*blocks),
            _ => work.touches(),
        };
        if range.is_some_and(|b| b.count == 0 || b.end() > self.setup.device_blocks) {
            self.fail(&format!("{} past the device: {range:?}", work.name()));
        }
        if let Some(blocks) = work.touches() {
            let clash = self.nodes[node]
                .pending
                .iter()
                .find(|pending| pending.work.touches().is_some_and(|b| b.overlaps(blocks)));
            if let Some(clash) = clash {
                let text = format!("two writes at once: {:?} and {:?}", clash.work, work);
                self.fail(&text.chars().take(300).collect::<String>());
            }
        }
        let due = self.now + Nanos(self.delay(DISK_TIME));
        self.order += 1;
        let order = self.order;
        self.nodes[node].pending.push(Pending { due, order, work });
    }

    fn part_bytes(&self, node: usize, part: Part, blocks: Blocks) -> Vec<u8> {
        let offset = u32::from(part.first) * 4096;
        let length = u32::try_from(blocks.length_bytes()).expect("a piece");
        self.nodes[node].pool.bytes(Span { slot: part.payload, offset, length }).to_vec()
    }

    fn persist(&mut self, node: usize, id: PersistId, what: Persist) {
        let replica = self.replica(node);
        let work = match what {
            Persist::Superblock => {
                Work::Superblock { id, value: Box::new(replica.superblock().clone()) }
            }
            Persist::Pages(pages) => Work::Pages {
                id,
                pages: pages.iter().map(|p| (*p, replica.bitmap_page(*p).to_vec())).collect(),
            },
            Persist::Log => {
                let transaction = replica.log_transaction();
                let identity = LogIdentity::of(replica.superblock());
                let ring = self.nodes[node].medium.meta.ring.len() as u64;
                let place = usize::try_from(transaction.number % ring).expect("fits");
                let bytes = extent_log::encode(identity, transaction).to_vec();
                Work::Log { id, place, bytes }
            }
        };
        self.submit(node, work);
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Load { io, blocks, into } => {
                self.nodes[node].pool.hold(into.payload);
                self.submit(node, Work::Load { io, blocks, into });
            }
            Output::Fetch { io, blocks, want } => {
                self.submit(node, Work::Fetch { io, blocks, want });
            }
            Output::Digest { io, blocks } => self.submit(node, Work::Digest { io, blocks }),
            Output::Store { io, blocks, from, fua } => {
                let bytes = self.part_bytes(node, from, blocks);
                let data = bytes.chunks_exact(4096).map(|c| Rc::new(c.try_into().expect("4096")));
                let data = data.collect();
                self.nodes[node].pool.hold(from.payload);
                self.submit(node, Work::Store { io, blocks, from, fua, data });
            }
            Output::Zero { io, blocks, fua, .. } => {
                self.submit(node, Work::Zero { io, blocks, fua });
            }
            Output::Sync { io } => {
                let mark = self.nodes[node].medium.mark();
                self.submit(node, Work::Sync { io, mark });
            }
            Output::Persist { id, what } => self.persist(node, id, what),
            Output::OpenDisk { fresh, device_blocks } => {
                self.laid_out = fresh.then_some(device_blocks).or(self.laid_out);
                self.submit(node, Work::Open { fresh });
            }
            Output::CloseDisk => self.submit(node, Work::Close),
            Output::ScanEmpty => self.submit(node, Work::Scan),
            Output::Send { peer, session, frame, part } => {
                self.send(node, peer, session, frame, part);
            }
            Output::Disconnect { peer, session, why } => {
                self.say(node, &format!("disconnects: {why}"));
                let (link, end) = self.end_of(node, peer);
                if self.links[link].session[end] == Some(session) {
                    self.end_session(link, end, true);
                }
            }
            Output::Dial { peer, wanted } => {
                let (link, end) = self.end_of(node, peer);
                let other = self.links[link].nodes[1 - end];
                self.nodes[node].wanted[other] = wanted;
                self.schedule_dial(link);
            }
            Output::Reply { id, reply } => self.replied(node, id, reply),
            Output::Release(payload) => self.nodes[node].pool.release(payload),
            Output::Serve { open } => self.nodes[node].serving = open,
            Output::Answer { id, result } => {
                self.say(node, &format!("{result:?}"));
                let before = self.nodes[node].answers.insert(id, *result);
                assert!(before.is_none(), "a command is answered twice");
            }
            Output::Change(change) => {
                let text =
                    format!("{}: {} -> {} ({})", change.what, change.old, change.new, change.cause);
                self.say(node, &text);
                self.nodes[node].changes.push(*change);
            }
            other => self.copy(node, other),
        }
    }

    fn copy(&mut self, node: usize, output: Output) {
        let pool = &mut self.nodes[node].pool;
        match output {
            Output::MergeHead { edge, into, bytes } => {
                let length = u32::from(bytes);
                let from = Span { slot: edge.share(), offset: 0, length };
                pool.copy(from, Span { slot: into, offset: 0, length });
                pool.release(edge);
            }
            Output::MergeTail { edge, into, block, bytes } => {
                let length = u32::from(bytes);
                let from = Span { slot: edge.share(), offset: 4096 - length, length };
                let offset = u32::from(block) * 4096 + 4096 - length;
                pool.copy(from, Span { slot: into, offset, length });
                pool.release(edge);
            }
            Output::ClearKept { into, offset, bytes } => {
                pool.bytes_mut(Span { slot: into, offset, length: bytes }).fill(0);
            }
            Output::Copy { from, into, blocks } => {
                let length = u32::from(blocks) * 4096;
                let source = Span { slot: from.share(), offset: 0, length };
                let offset = u32::from(into.first) * 4096;
                pool.copy(source, Span { slot: into.payload, offset, length });
                pool.release(from);
            }
            other => panic!("not carried out: {other:?}"),
        }
    }

    fn end_of(&self, node: usize, peer: PeerIndex) -> (usize, usize) {
        let other = self.setup.peers_of(node).nth(usize::from(peer.0)).expect("a peer");
        let link = self.link(node, other);
        (link, usize::from(self.links[link].nodes[1] == node))
    }

    fn send(
        &mut self,
        node: usize,
        peer: PeerIndex,
        session: Session,
        frame: Frame,
        part: Option<Part>,
    ) {
        assert_eq!(frame.payload().is_some(), part.is_some(), "{frame:?}");
        let (link, end) = self.end_of(node, peer);
        if self.links[link].session[end] != Some(session) {
            return;
        }
        *self.sent.entry((node, kind_name(&frame))).or_default() += 1;
        let bytes =
            part.zip(frame.payload()).map(|(part, blocks)| self.part_bytes(node, part, blocks));
        let epoch = self.replica(node).epoch();
        let delay = self.delay(LINK_TIME);
        self.order += 1;
        let (due, order) = (self.now + Nanos(delay), self.order);
        let lane = &mut self.links[link].lanes[end];
        let data = frame.channel() == Channel::Data;
        let queue = if data { &mut lane.data } else { &mut lane.control };
        let due = queue.back().map_or(due, |last| last.due.max(due));
        queue.push_back(Parcel { due, order, epoch, frame, bytes });
    }

    fn replied(&mut self, node: usize, id: RequestId, reply: Reply) {
        let result = match reply {
            Reply::Done => Ok(Vec::new()),
            Reply::Failed(error) => Err(error),
            Reply::Data(pieces) => {
                let range = self.nodes[node].reads[&id];
                let mut bytes = Vec::new();
                let pool = &mut self.nodes[node].pool;
                let slots = match pieces {
                    Pieces::One(slot) => vec![slot],
                    Pieces::Many(slots) => slots,
                };
                let runs: Vec<Blocks> = range.blocks().pieces(256).collect();
                for (slot, run) in slots.into_iter().zip(runs) {
                    let length = u32::try_from(run.length_bytes()).expect("a piece");
                    let span = Span { slot: slot.share(), offset: 0, length };
                    bytes.extend_from_slice(pool.bytes(span));
                    pool.release(slot);
                }
                let from = usize::try_from(range.head_pad()).expect("fits");
                let length = usize::try_from(range.length).expect("fits");
                Ok(bytes[from..from + length].to_vec())
            }
        };
        let before = self.nodes[node].replies.insert(id, result);
        assert!(before.is_none(), "a request is answered twice");
    }

    fn finish(&mut self, node: usize, work: Work) {
        let found = &mut self.nodes[node];
        let broken = found.medium.broken;
        let failed = if broken { Err(DiskError::Io) } else { Ok(()) };
        let input = match work {
            Work::Load { io, blocks, into } => {
                if !broken {
                    let bytes = read_blocks(&found.medium, blocks);
                    let offset = u32::from(into.first) * 4096;
                    let length = u32::try_from(bytes.len()).expect("a piece");
                    let span = Span { slot: into.payload, offset, length };
                    found.pool.bytes_mut(span).copy_from_slice(&bytes);
                }
                found.pool.let_go(into.payload);
                Input::Done { io, result: failed }
            }
            Work::Fetch { io, blocks, want } => {
                let result = failed.map(|()| fetched(found, blocks, want));
                Input::Fetched { io, result }
            }
            Work::Digest { io, blocks } => {
                let bytes = read_blocks(&found.medium, blocks);
                let digests = bytes.chunks_exact(4096).map(|c| *blake3::hash(c).as_bytes());
                Input::Digested { io, result: failed.map(|()| digests.collect()) }
            }
            Work::Store { io, blocks, from, fua, data } => {
                found.pool.let_go(from.payload);
                if !broken {
                    for (block, data) in run_of(blocks).zip(data) {
                        found.medium.write(block, Some(data), fua);
                    }
                }
                Input::Done { io, result: failed }
            }
            Work::Zero { io, blocks, fua } => {
                if !broken {
                    run_of(blocks).for_each(|block| found.medium.write(block, None, fua));
                }
                Input::Done { io, result: failed }
            }
            Work::Sync { io, mark } => {
                if !broken {
                    found.medium.sync(mark);
                }
                Input::Done { io, result: failed }
            }
            Work::Superblock { id, value } => {
                if !broken {
                    found.medium.meta.copies = [(*value).clone(), *value];
                }
                Input::Persisted { id, result: failed }
            }
            Work::Pages { id, pages } => {
                if !broken {
                    for (page, words) in pages {
                        found.medium.put_page(page, Some(words));
                    }
                }
                Input::Persisted { id, result: failed }
            }
            Work::Log { id, place, bytes } => {
                if !broken {
                    found.medium.meta.ring[place] = bytes;
                }
                Input::Persisted { id, result: failed }
            }
            Work::Open { fresh } => {
                if fresh {
                    found.medium.renew(found.boot, &mut self.dice);
                }
                // As the store does when it opens a disk.
                found.medium.sync(found.medium.mark());
                let image = found.medium.load(found.boot, RunId(self.runs));
                let result = if found.medium.broken {
                    Err("the device cannot be read".to_owned())
                } else {
                    Ok(Box::new(image))
                };
                Input::DiskOpened { result }
            }
            Work::Close => Input::DiskClosed,
            Work::Scan => {
                Input::Scanned { empty: (!broken).then(|| found.medium.image().is_empty()) }
            }
        };
        self.handle(node, input);
    }
}

enum Event {
    Disk(usize, usize),
    Frame(usize, usize, Channel),
    Closed(usize, usize),
    Dial(usize),
    Deadline(usize),
}

pub fn read_blocks(medium: &Medium, blocks: Blocks) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in run_of(blocks) {
        match medium.block(block) {
            Some(data) => bytes.extend_from_slice(&data[..]),
            None => bytes.extend_from_slice(&[0; 4096]),
        }
    }
    bytes
}

fn fetched(node: &mut Node, blocks: Blocks, want: Want) -> Fetched {
    let bytes = read_blocks(&node.medium, blocks);
    let payload = node.pool.take(Purpose::Background, bytes.len()).expect("room");
    let length = u32::try_from(bytes.len()).expect("a piece");
    let span = Span { slot: payload.share(), offset: 0, length };
    node.pool.bytes_mut(span).copy_from_slice(&bytes);
    let zero = want.scan && bytes.iter().all(|byte| *byte == 0);
    let digest = want.hash.then(|| Box::new(*blake3::hash(&bytes).as_bytes()));
    Fetched { payload, zero, digest }
}

/// What becomes of a write that was under way when its process died.
fn land(medium: &mut Medium, work: Work, dice: &mut Dice, power: bool) {
    let whole = !power && dice.one_in(2);
    match work {
        Work::Store { blocks, data, .. } => {
            for (block, data) in run_of(blocks).zip(data) {
                if whole || dice.one_in(2) {
                    medium.write(block, Some(data), false);
                }
            }
        }
        Work::Zero { blocks, .. } => {
            for block in run_of(blocks) {
                if whole || dice.one_in(2) {
                    medium.write(block, None, false);
                }
            }
        }
        Work::Superblock { value, .. } => match dice.below(3) {
            0 => {}
            1 => medium.meta.copies[0] = *value,
            _ => medium.meta.copies = [(*value).clone(), *value],
        },
        Work::Pages { pages, .. } => {
            for (page, words) in pages {
                match dice.below(if power { 3 } else { 2 }) {
                    0 => {}
                    1 => medium.put_page(page, Some(words)),
                    _ => medium.put_page(page, None),
                }
            }
        }
        Work::Log { place, bytes, .. } => {
            // Some of its sectors.
            let sectors = if whole { RECORD / 512 } else { 0 };
            for sector in 0..RECORD / 512 {
                if sector < sectors || dice.one_in(2) {
                    let span = sector * 512..(sector + 1) * 512;
                    medium.meta.ring[place][span.clone()].copy_from_slice(&bytes[span]);
                }
            }
        }
        _ => {}
    }
}

// ---- what every story ends with ----

impl World {
    pub fn role(&self, node: usize) -> Role {
        self.status(node).role
    }

    pub fn established(&self) -> bool {
        (0..self.nodes.len()).all(|node| {
            self.alive(node)
                && self.status(node).peers.iter().all(|p| p.replication == Replication::Established)
        })
    }

    /// Connected and at rest: the images are equal and nothing is left over anywhere.
    #[track_caller]
    pub fn equal(&mut self) {
        if !self.established() {
            self.fail("the nodes are not established");
        }
        for node in 0..self.nodes.len() {
            let status = self.status(node);
            for peer in &status.peers {
                if peer.out_of_sync_blocks != 0 {
                    self.fail(&format!("{} blocks out of sync", peer.out_of_sync_blocks));
                }
            }
            if !status.suspended.is_empty() || !status.disk_reason.is_empty() {
                self.fail("not at rest");
            }
            for purpose in [Purpose::Client, Purpose::Peer, Purpose::Background] {
                let used = self.nodes[node].pool.used_bytes(purpose);
                if used != 0 {
                    self.fail(&format!("{} leaks {used} bytes of {purpose:?}", NAMES[node]));
                }
            }
            if status.requests_in_flight != 0 {
                self.fail("a request is left");
            }
            let debug = format!("{:?}", self.replica(node));
            for queue in ["granted", "waiting", "log_waiting", "held", "parked", "frozen"] {
                if !debug.contains(&format!(" {queue}: []")) {
                    self.fail(&format!("{} keeps something in `{queue}`", NAMES[node]));
                }
            }
        }
        let first = self.nodes[0].medium.image();
        for node in 1..self.nodes.len() {
            let other = self.nodes[node].medium.image();
            if first != other {
                let differs: Vec<u64> = first
                    .keys()
                    .chain(other.keys())
                    .filter(|block| first.get(block) != other.get(block))
                    .copied()
                    .collect();
                self.fail(&format!("the images differ at {differs:?}"));
            }
        }
    }

    /// Both nodes begin with zeroes.
    pub fn both_empty(&mut self) {
        self.settle();
        self.must(ALPHA, Command::InitEmpty);
        self.settle();
        self.equal();
    }

    /// Two nodes in sync; alpha serves.
    pub fn running(setup: Setup) -> Self {
        let mut world = Self::new(setup);
        world.both_empty();
        world.must(ALPHA, Command::Promote { force: false });
        assert!(world.nodes[ALPHA].serving);
        world
    }

    #[track_caller]
    pub fn wrote(&mut self, node: usize, start: u64, count: u64, stamp: u64) {
        let id = self.write(node, start, count, stamp);
        self.until("the write is answered", |w| w.reply(node, id).is_some());
        if !self.done(node, id) {
            self.fail("the write failed");
        }
    }

    #[track_caller]
    pub fn holds(&mut self, node: usize, start: u64, count: u64, stamp: u64) {
        for block in start..start + count {
            let data = read_blocks(&self.nodes[node].medium, Blocks::new(block, 1));
            let found = crate::medium::stamp_of(&data, block);
            if found != Some(stamp) {
                self.fail(&format!("{} has {found:?} in {block}, not {stamp}", NAMES[node]));
            }
        }
    }
}
