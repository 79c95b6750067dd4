//! Owns the real thing in a world: a shard with one resource, as production composes it, on the
//! simulated ring. Must never know what the checker knows.

use std::collections::{BTreeMap, BTreeSet};

use twinblk::buffer::{Budgets, Pool, Purpose, Span};
use twinblk::format::bitmap::{self, PageAddress};
use twinblk::format::extent_log::{self, LogIdentity};
use twinblk::format::frame::Protocol as Wait;
use twinblk::format::hello::Versions;
use twinblk::format::superblock::{self, Geometry, Superblock};
use twinblk::limits::PIECE_BLOCKS;
use twinblk::link::doorman::Arrival;
use twinblk::link::{LinkOptions, Names, Path, Secret, Timing};
use twinblk::node::shard::Shard;
use twinblk::node::site::{ResourceIndex, Site};
use twinblk::node::{Front, Setup};
use twinblk::plant::Plants;
use twinblk::replica::event::{
    Change, Command, CommandId, PeerIndex, Pieces, Refusal, Reply, Request, RequestId, Status,
};
use twinblk::replica::options::{OnCongestion, Options, PeerLoss, PeerOptions, ResyncOptions};
use twinblk::ring::Ring;
use twinblk::store::Files;
use twinblk::units::{AreaId, BLOCK_BYTES, Blocks, Bytes, Nanos, NodeId, ResourceId, RunId};

use std::rc::Rc;

use crate::checker::copies::Protocol;
use crate::checker::oracle::Range;
use crate::checker::stamp::{self, SECTOR_BYTES};
use crate::faults::{KINDS, Kind};
use crate::image::{Data, Image};
use crate::link::address;
use crate::node::{Ask, Life, Maker, Place, Told};
use crate::random::Random;
use crate::ring::SimRing;
use crate::world::World;

const RESOURCE: ResourceIndex = ResourceIndex(0);
const PORT: u16 = 7790;
const NAMES: [&str; 2] = ["alpha", "beta"];
const LOG_EXTENTS: u32 = 16;
const PEER_SLOTS: u8 = 2;

/// Makes nodes that run the product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductMaker {
    pub(crate) seed: u64,
    /// Which bug is in.
    pub(crate) plants: Plants,
}

impl ProductMaker {
    /// What this world's operator configured.
    fn choices(&self) -> (Wait, PeerLoss, OnCongestion, bool) {
        let mut random = Random::new(self.seed ^ 0x5eed);
        let protocol = [Wait::C, Wait::C, Wait::C, Wait::B, Wait::A];
        let protocol = protocol[usize::try_from(random.below(5)).expect("small")];
        let suspend = random.percent(25);
        let loss = if suspend { PeerLoss::Suspend } else { PeerLoss::Continue };
        let wait = random.percent(50);
        let congestion = if wait { OnCongestion::Wait } else { OnCongestion::Bitmap };
        (protocol, loss, congestion, random.percent(25))
    }

    fn setup(&self, node: usize, ring: &mut SimRing) -> Setup {
        let (protocol, on_peer_loss, on_congestion, checksum) = self.choices();
        let peer = 1 - node;
        let id = |node: usize| NodeId(u8::try_from(node).expect("two"));
        Setup {
            front: Front::Site,
            options: Options {
                resource: "r0".to_owned(),
                node: id(node),
                name: NAMES[node].to_owned(),
                peers: vec![PeerOptions { node: id(peer), name: NAMES[peer].to_owned() }],
                protocol,
                on_peer_loss,
                on_congestion,
                congestion_bytes: 256 << 10,
                resync: ResyncOptions {
                    rate_max_bytes: u64::MAX,
                    rate_min_bytes: 1 << 20,
                    checksum,
                },
                seed: ring.random(),
                run: RunId(ring.random()),
                plants: self.plants,
            },
            links: vec![LinkOptions {
                resource: "r0".to_owned(),
                local: id(node),
                peer: id(peer),
                peer_index: PeerIndex(0),
                names: Names {
                    local: NAMES[node].to_owned(),
                    peer: NAMES[peer].to_owned(),
                    secret_path: "secret".to_owned(),
                },
                secret: Secret::new(b"shared"),
                paths: vec![Path { local: None, peer: address(peer, PORT) }],
                timing: Timing::default(),
                versions: Versions::SPOKEN,
                plants: self.plants,
            }],
            metadata_path: "disk".to_owned(),
            boot: ring.boot(),
            description: String::new(),
        }
    }
}

/// The surroundings of the shard: everything they are asked is done before the next turn.
#[derive(Default)]
struct Around {
    opening: bool,
    scanning: Option<u64>,
    serving: bool,
    answers: Vec<(u64, Result<String, Refusal>)>,
    changes: Vec<Change>,
    replies: Vec<(u64, Told)>,
    reads: BTreeMap<u64, Range>,
    /// Requests whose client is still connected: the end of serving ends every connection.
    live: BTreeSet<u64>,
}

impl Site<SimRing> for Around {
    fn open_disk(&mut self, _: ResourceIndex, _fresh: Option<u64>) {
        self.opening = true;
    }

    fn close_disk(&mut self, ring: &mut SimRing, _: ResourceIndex, files: Files) {
        ring.close_disk(files.data);
    }

    fn scan_empty(&mut self, _: ResourceIndex, device_blocks: u64) {
        self.scanning = Some(device_blocks);
    }

    fn answer(&mut self, _: ResourceIndex, id: CommandId, result: Result<String, Refusal>) {
        self.answers.push((id.0, result));
    }

    fn change(&mut self, _: ResourceIndex, change: Change) {
        self.changes.push(change);
    }

    fn serving(&mut self, _: ResourceIndex, device_bytes: Option<u64>) {
        self.serving = device_bytes.is_some();
        if !self.serving {
            self.live.clear();
        }
    }

    fn elsewhere(&mut self, _: &mut SimRing, arrival: Arrival) -> Option<Arrival> {
        Some(arrival)
    }

    fn reply(&mut self, pool: &mut Pool, _: ResourceIndex, id: RequestId, reply: Reply) {
        let told = match reply {
            Reply::Done => Told::Done,
            Reply::Failed(_) => Told::Failed,
            Reply::Data(pieces) => {
                let range = self.reads[&id.0];
                let mut bytes = Vec::new();
                pieces.each(|payload| {
                    let length =
                        u32::try_from(pool.capacity_bytes(payload.share())).expect("1 MiB");
                    bytes.extend_from_slice(pool.bytes(Span {
                        slot: payload.share(),
                        offset: 0,
                        length,
                    }));
                    pool.release(payload);
                });
                let (start, length) = extent(range);
                let pad = usize::try_from(start % BLOCK_BYTES).expect("within a block");
                let length = usize::try_from(length).expect("small");
                Told::Data(bytes[pad..pad + length].to_vec())
            }
        };
        self.reads.remove(&id.0);
        if self.live.remove(&id.0) {
            self.replies.push((id.0, told));
        }
    }
}

/// First byte and length of a range of sectors.
const fn extent(range: Range) -> (u64, u64) {
    (range.first * SECTOR_BYTES as u64, range.count * SECTOR_BYTES as u64)
}

/// One life of the product.
struct Product {
    shard: Shard<SimRing>,
    around: Around,
    place: Place,
    commands: Vec<(u64, Command)>,
}

impl Product {
    /// Does what the shard asked of its surroundings.
    fn serve_shard(&mut self) {
        if std::mem::take(&mut self.around.opening) {
            let files = match self.shard.ring().open_disk(self.place.disk) {
                Ok(file) => {
                    let bytes = self.place.world.borrow().disks[self.place.disk].live().bytes();
                    Ok(Files {
                        data: file,
                        data_bytes: bytes,
                        metadata: file,
                        metadata_bytes: bytes,
                    })
                }
                Err(errno) => Err(format!("the disk cannot be opened: {errno}")),
            };
            self.shard.disk_opened(&mut self.around, RESOURCE, files);
        }
        if let Some(blocks) = self.around.scanning.take() {
            let world = self.place.world.borrow();
            let image = world.disks[self.place.disk].live();
            let zero = |chunk: std::ops::Range<u64>| {
                let length = usize::try_from(chunk.end - chunk.start).expect("small");
                image.copy(chunk.start, length).iter().all(|byte| *byte == 0)
            };
            let empty = image.occupied(0, blocks * BLOCK_BYTES).all(zero);
            drop(world);
            self.shard.scanned(RESOURCE, Some(empty));
        }
    }

    fn slots(&mut self, range: Bytes) -> Pieces {
        let blocks: Blocks = range.blocks();
        let pool = self.shard.pool();
        let mut payloads: Vec<_> = blocks
            .pieces(PIECE_BLOCKS)
            .map(|piece| {
                let bytes = usize::try_from(piece.length_bytes()).expect("1 MiB");
                pool.take(Purpose::Fixed, bytes).expect("without a budget")
            })
            .collect();
        if payloads.len() == 1 {
            return Pieces::One(payloads.remove(0));
        }
        Pieces::Many(payloads)
    }
}

impl Life for Product {
    fn turn(&mut self) {
        for (id, command) in std::mem::take(&mut self.commands) {
            self.shard.command(RESOURCE, CommandId(id), command);
        }
        self.shard.turn(&mut self.around, Nanos::NEVER);
        self.serve_shard();
    }

    fn request(&mut self, id: u64, ask: &Ask) {
        let bytes = |range: Range| {
            let (offset, length) = extent(range);
            Bytes::new(offset, length)
        };
        let request = match *ask {
            Ask::Flush => Request::Flush,
            Ask::Zero { range, discard, fua } => {
                Request::Zero { range: bytes(range), discard, fua }
            }
            Ask::Read(range) => {
                self.around.reads.insert(id, range);
                let range = bytes(range);
                Request::Read { range, pieces: self.slots(range) }
            }
            Ask::Write { range, stamp, fua } => {
                let (start, length) = extent(range);
                let pieces = self.slots(bytes(range));
                let mut data = vec![0; usize::try_from(length).expect("small")];
                stamp::fill(range.first, stamp, &mut data);
                let Pieces::One(payload) = &pieces else { panic!("clients write little") };
                let offset = u32::try_from(start % BLOCK_BYTES).expect("within a block");
                let length = u32::try_from(length).expect("small");
                let span = Span { slot: payload.share(), offset, length };
                self.shard.pool().bytes_mut(span).copy_from_slice(&data);
                Request::Write { range: bytes(range), pieces, fua }
            }
        };
        self.around.live.insert(id);
        self.shard.request(RESOURCE, RequestId(id), request);
    }

    fn replies(&mut self, into: &mut Vec<(u64, Told)>) {
        into.append(&mut self.around.replies);
    }

    fn command(&mut self, id: u64, command: Command) {
        self.commands.push((id, command));
    }

    fn answers(&mut self, into: &mut Vec<(u64, Result<String, Refusal>)>) {
        into.append(&mut self.around.answers);
    }

    fn changes(&mut self, into: &mut Vec<Change>) {
        into.append(&mut self.around.changes);
    }

    fn serving(&self) -> bool {
        self.around.serving
    }

    fn inputs(&self) -> u64 {
        self.shard.inputs(RESOURCE)
    }

    fn status(&self) -> Option<Status> {
        let status = self.shard.status(RESOURCE);
        // Until its disk was opened, or could not be, a life says nothing of itself.
        (status.device_blocks > 0 || !status.disk_reason.is_empty()).then_some(status)
    }
}

impl Maker for ProductMaker {
    fn disk_bytes(&self, device_bytes: u64) -> u64 {
        let wanted = device_bytes / BLOCK_BYTES;
        let holds = |bytes: u64| {
            Geometry::internal(bytes, PEER_SLOTS, LOG_EXTENTS)
                .is_some_and(|geometry| geometry.device_blocks >= wanted)
        };
        let fits = (0..).map(|extra| device_bytes + extra * BLOCK_BYTES).find(|b| holds(*b));
        fits.expect("metadata is finite")
    }

    fn data_offset(&self) -> u64 {
        0
    }

    fn survives(&self) -> Vec<Kind> {
        KINDS.iter().map(|(_, kind)| *kind).collect()
    }

    fn protocol(&self) -> Protocol {
        match self.choices().0 {
            Wait::A => Protocol::A,
            Wait::B => Protocol::B,
            Wait::C => Protocol::C,
        }
    }

    fn create(&self, world: &mut World, node: usize, disk: usize) {
        let bytes = world.disks[disk].live().bytes();
        let geometry = Geometry::internal(bytes, PEER_SLOTS, LOG_EXTENTS).expect("it was sized so");
        let mut random = Random::new(self.seed ^ node as u64);
        let node = NodeId(u8::try_from(node).expect("two"));
        let superblock = Superblock {
            serial: 1,
            resource: ResourceId(u128::from(random.next()) + 1),
            area: AreaId(random.next()),
            geometry,
            ..Superblock::blank(node)
        };
        let start = geometry.internal_offset(bytes).expect("it fits");
        let mut image = Image::new(bytes);
        let mut put = |offset: u64, record: &[u8]| {
            image.write(start + offset, &Data::Bytes(Rc::from(record)), 0, record.len());
        };
        let log = extent_log::fresh_ring(LogIdentity::of(&superblock), 1);
        for (number, block) in (0u64..).zip(&log) {
            put(geometry.log_offset() + number * BLOCK_BYTES, block);
        }
        for slot in 0..PEER_SLOTS {
            for page in 0..geometry.pages_per_slot() {
                let address = PageAddress { area: superblock.area, slot, page };
                put(geometry.page_offset(slot, page), &bitmap::encode(address, &[]));
            }
        }
        for copy in 0..2 {
            put(geometry.superblock_offset(copy), &superblock::encode(&superblock));
        }
        world.disks[disk].replace(image);
    }

    fn start(&self, place: Place) -> Box<dyn Life> {
        let mut ring = SimRing::new(place.world.clone(), place.life);
        let listener = ring.listen(PORT).expect("the port is free");
        let setup = self.setup(place.node, &mut ring);
        let budget = 64 << 20;
        let budgets =
            Budgets { client_bytes: budget, peer_bytes: budget, background_bytes: budget };
        let shard = Shard::new(ring, budgets, &[listener], vec![setup]);
        Box::new(Product { shard, around: Around::default(), place, commands: Vec::new() })
    }
}
