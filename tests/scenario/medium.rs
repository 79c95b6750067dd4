//! Owns a disk in memory: blocks as they are, blocks that survive a power cut, and metadata as it
//! was when each write of it was carried out. Must never know what replication is.

use std::collections::BTreeMap;
use std::rc::Rc;
use twinblk::format::extent_log::{self, LogIdentity, fresh_ring};
use twinblk::format::superblock::{Geometry, Superblock};
use twinblk::replica::event::{DiskImage, PageId};
use twinblk::units::{AreaId, Blocks, BootId, NodeId, ResourceId, RunId};

pub type Block = Rc<[u8; 4096]>;
pub const RECORD: usize = 4096;

/// SplitMix64, so that one seed is one history.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, most: u64) -> u64 {
        self.roll() % most.max(1)
    }
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

#[derive(Clone)]
pub struct Meta {
    pub copies: [Superblock; 2],
    pub pages: BTreeMap<(u8, u32), Option<Vec<u64>>>,
    pub ring: Vec<Vec<u8>>,
}

/// What a node's machine keeps while the daemon is down.
#[derive(Clone)]
pub struct Medium {
    /// What survives a power cut. Absent blocks are zero.
    durable: BTreeMap<u64, Block>,
    /// Written and not yet synced, oldest first, with the number of the write.
    cache: BTreeMap<u64, Vec<(u64, Option<Block>)>>,
    writes: u64,
    pub meta: Meta,
    pub broken: bool,
}

impl Medium {
    pub fn new(node: u8, device_blocks: u64, log_extents: u32, dice: &mut Dice) -> Self {
        let mut superblock = Superblock::blank(NodeId(node));
        superblock.resource = ResourceId(u128::from(dice.roll()));
        superblock.area = AreaId(dice.roll());
        superblock.serial = 1;
        superblock.boot = BootId(u128::from(node) + 1);
        superblock.geometry = Geometry { device_blocks, peer_slots: 2, log_extents };
        let ring = fresh_ring(LogIdentity::of(&superblock), 1);
        let meta = Meta {
            copies: [superblock.clone(), superblock],
            pages: BTreeMap::new(),
            ring: ring.iter().map(|block| block.to_vec()).collect(),
        };
        Self { durable: BTreeMap::new(), cache: BTreeMap::new(), writes: 0, meta, broken: false }
    }

    /// `disk replace`: new metadata over the same place.
    pub fn renew(&mut self, boot: BootId, dice: &mut Dice) {
        let old = self.superblock().clone();
        let geometry = old.geometry;
        let mut fresh = Self::new(old.node.0, geometry.device_blocks, geometry.log_extents, dice);
        fresh.meta.copies[0].boot = boot;
        fresh.meta.copies[1].boot = boot;
        *self = fresh;
    }

    pub fn superblock(&self) -> &Superblock {
        let [a, b] = &self.meta.copies;
        if b.serial > a.serial { b } else { a }
    }

    pub fn block(&self, block: u64) -> Option<&Block> {
        match self.cache.get(&block).and_then(|versions| versions.last()) {
            Some((_, version)) => version.as_ref(),
            None => self.durable.get(&block),
        }
    }

    pub fn write(&mut self, block: u64, data: Option<Block>, fua: bool) {
        self.writes += 1;
        if fua {
            self.cache.remove(&block);
            self.set_durable(block, data);
        } else {
            self.cache.entry(block).or_default().push((self.writes, data));
        }
    }

    fn set_durable(&mut self, block: u64, data: Option<Block>) {
        match data {
            Some(data) => self.durable.insert(block, data),
            None => self.durable.remove(&block),
        };
    }

    pub const fn mark(&self) -> u64 {
        self.writes
    }

    /// A sync that was submitted at `mark` has ended.
    pub fn sync(&mut self, mark: u64) {
        let cache = std::mem::take(&mut self.cache);
        for (block, mut versions) in cache {
            let covered = versions.iter().filter(|(number, _)| *number <= mark).count();
            if let Some((_, data)) = versions.drain(..covered).next_back() {
                self.set_durable(block, data);
            }
            if !versions.is_empty() {
                self.cache.insert(block, versions);
            }
        }
    }

    /// Of what was not synced, any version of each block is left.
    pub fn power_cut(&mut self, dice: &mut Dice) {
        for (block, versions) in std::mem::take(&mut self.cache) {
            let pick = dice.below(versions.len() as u64 + 1);
            if pick > 0 {
                let data = versions[usize::try_from(pick).expect("few") - 1].1.clone();
                self.set_durable(block, data);
            }
        }
    }

    pub fn lose_unsynced(&mut self) {
        self.cache.clear();
    }

    /// Every block that is not zero.
    pub fn image(&self) -> BTreeMap<u64, Block> {
        let mut image = self.durable.clone();
        for (block, versions) in &self.cache {
            match versions.last() {
                Some((_, Some(data))) => {
                    image.insert(*block, data.clone());
                }
                _ => {
                    image.remove(block);
                }
            }
        }
        image.retain(|_, data| data.iter().any(|byte| *byte != 0));
        image
    }

    pub fn put_page(&mut self, page: PageId, words: Option<Vec<u64>>) {
        self.meta.pages.insert((page.slot, page.page), words);
    }

    pub fn load(&self, boot: BootId, run: RunId) -> DiskImage {
        let superblock = self.superblock().clone();
        let geometry = superblock.geometry;
        let per_page = 508u64 * 64;
        let pages = geometry.device_blocks.div_ceil(per_page);
        let mut bitmaps = Vec::new();
        let mut bad_pages = Vec::new();
        for slot in 0..geometry.peer_slots {
            let mut words = Vec::new();
            let mut bad = Vec::new();
            for page in 0..u32::try_from(pages).expect("few") {
                match self.meta.pages.get(&(slot, page)) {
                    None => words.extend([0u64; 508]),
                    Some(Some(content)) => words.extend(content),
                    Some(None) => {
                        words.extend([u64::MAX; 508]);
                        bad.push(page);
                    }
                }
            }
            bitmaps.push(words);
            bad_pages.push(bad);
        }
        let identity = LogIdentity::of(&superblock);
        let ring: Vec<_> =
            self.meta.ring.iter().map(|bytes| extent_log::decode(identity, bytes)).collect();
        let log = extent_log::recover(&ring, geometry.log_extents);
        DiskImage { superblock, bitmaps, bad_pages, log, boot, run }
    }
}

pub fn fill(stamp: u64, block: u64) -> Block {
    let mut data = [0u8; 4096];
    if stamp != 0 {
        for (place, word) in data.chunks_exact_mut(8).enumerate() {
            let value = if place == 0 { stamp } else { stamp ^ block.rotate_left(32) };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    Rc::new(data)
}

/// The stamp of a block, or none if it is no block that `fill` made for this place.
pub fn stamp_of(data: &[u8], block: u64) -> Option<u64> {
    let stamp = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
    (data == &fill(stamp, block)[..]).then_some(stamp)
}

pub fn run_of(blocks: Blocks) -> impl Iterator<Item = u64> {
    blocks.start..blocks.end()
}
