//! Owns random walks: writes, cuts, crashes, power cuts and promotions in any order, judged by the
//! stamps that blocks may hold.

use crate::medium::stamp_of;
use crate::world::*;
use std::collections::{BTreeMap, BTreeSet};
use twinblk::format::frame::{Protocol, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::*;
use twinblk::units::*;

/// Which stamps a block may hold.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// What a reader may find.
    now: BTreeSet<u64>,
    /// Written and not answered, and how often: all zeroes have the same stamp.
    flying: BTreeMap<u64, u32>,
    /// What it may hold if all that was not flushed is lost.
    since_flush: BTreeSet<u64>,
    ever: BTreeSet<u64>,
}

impl Cell {
    fn landed(&mut self, stamp: u64) {
        if let Some(count) = self.flying.get_mut(&stamp) {
            *count -= 1;
        }
        self.flying.retain(|_, count| *count > 0);
    }
}

#[derive(Clone, Debug)]
enum Asked {
    Write { start: u64, count: u64, stamp: u64 },
    Flush { at: BTreeMap<u64, BTreeSet<u64>> },
    Read { start: u64, before: BTreeMap<u64, Cell> },
}

pub struct Judge {
    cells: BTreeMap<u64, Cell>,
    asked: BTreeMap<(usize, RequestId), Asked>,
    pub checked: u64,
}

impl Judge {
    pub fn new() -> Self {
        Self { cells: BTreeMap::new(), asked: BTreeMap::new(), checked: 0 }
    }

    fn cell(&mut self, block: u64) -> &mut Cell {
        self.cells.entry(block).or_insert_with(|| Cell {
            now: BTreeSet::from([0]),
            since_flush: BTreeSet::from([0]),
            ever: BTreeSet::from([0]),
            ..Cell::default()
        })
    }

    fn began(&mut self, start: u64, count: u64, stamp: u64) {
        for block in start..start + count {
            let cell = self.cell(block);
            *cell.flying.entry(stamp).or_default() += 1;
            cell.now.insert(stamp);
            cell.since_flush.insert(stamp);
            cell.ever.insert(stamp);
        }
    }

    /// Takes in the answers that have come.
    pub fn look(&mut self, w: &World) {
        let keys: Vec<_> = self.asked.keys().copied().collect();
        for (node, id) in keys {
            let Some(reply) = w.reply(node, id) else { continue };
            let Some(asked) = self.asked.remove(&(node, id)) else { continue };
            match (asked, reply) {
                (Asked::Write { start, count, stamp }, Ok(_)) => {
                    for block in start..start + count {
                        let cell = self.cell(block);
                        cell.landed(stamp);
                        let flying = &cell.flying;
                        cell.now.retain(|old| *old == stamp || flying.contains_key(old));
                    }
                }
                (Asked::Flush { at }, Ok(_)) => {
                    for (block, values) in at {
                        let cell = self.cell(block);
                        // What was before the flush was asked can come back no more.
                        let later: BTreeSet<u64> = cell
                            .since_flush
                            .iter()
                            .filter(|s| values.iter().all(|v| *s > v))
                            .copied()
                            .collect();
                        cell.since_flush = values.union(&later).copied().collect();
                        cell.since_flush.extend(cell.now.iter().copied());
                    }
                }
                (Asked::Read { start, before }, Ok(bytes)) => {
                    for (place, data) in bytes.chunks_exact(4096).enumerate() {
                        let block = start + place as u64;
                        let Some(stamp) = stamp_of(data, block) else {
                            w.fail(&format!("block {block} holds another block's bytes"))
                        };
                        let now = self.cell(block).now.clone();
                        let was = &before[&block];
                        if !now.contains(&stamp) && !was.now.contains(&stamp) {
                            w.fail(&format!(
                                "read {stamp} from block {block}, not of {was:?} {now:?}"
                            ));
                        }
                        self.checked += 1;
                    }
                }
                (_, Err(_)) => {}
            }
        }
    }

    /// The node is gone: what it was asked may have happened or not.
    pub fn forget(&mut self, node: usize) {
        let gone: Vec<_> = self.asked.keys().filter(|(n, _)| *n == node).copied().collect();
        for key in gone {
            if let Some(Asked::Write { start, count, stamp }) = self.asked.remove(&key) {
                for block in start..start + count {
                    self.cell(block).landed(stamp);
                }
            }
        }
    }

    /// Not flushed may be lost.
    pub fn widen_to_flush(&mut self) {
        for cell in self.cells.values_mut() {
            let more = cell.since_flush.clone();
            cell.now.extend(more);
        }
    }

    /// An operator gave up one node's history.
    pub fn widen_to_all(&mut self) {
        for cell in self.cells.values_mut() {
            cell.now = cell.ever.clone();
            cell.since_flush = cell.ever.clone();
        }
    }

    pub fn write(&mut self, w: &mut World, node: usize, start: u64, count: u64, stamp: u64) {
        self.began(start, count, stamp);
        let fua = w.dice.one_in(8);
        let id = w.write_as(node, start, count, stamp, fua);
        self.asked.insert((node, id), Asked::Write { start, count, stamp });
    }

    pub fn zero(&mut self, w: &mut World, node: usize, start: u64, count: u64) {
        // A zero has no stamp of its own: the block may be 0 from here on.
        for block in start..start + count {
            self.began(block, 1, 0);
        }
        let id = w.zero(node, start * 4096, count * 4096);
        self.asked.insert((node, id), Asked::Write { start, count, stamp: 0 });
    }

    pub fn flush(&mut self, w: &mut World, node: usize) {
        let at = self.cells.iter().map(|(block, cell)| (*block, cell.now.clone())).collect();
        let id = w.flush(node);
        self.asked.insert((node, id), Asked::Flush { at });
    }

    pub fn read(&mut self, w: &mut World, node: usize, start: u64, count: u64) {
        let before = (start..start + count).map(|b| (b, self.cell(b).clone())).collect();
        let id = w.read(node, start * 4096, count * 4096);
        self.asked.insert((node, id), Asked::Read { start, before });
    }

    /// Every block of the image is one it may be.
    pub fn image(&mut self, w: &World, node: usize) {
        for (block, cell) in &self.cells {
            let data = read_blocks(&w.nodes[node].medium, Blocks::new(*block, 1));
            match stamp_of(&data, *block) {
                Some(stamp) if cell.now.contains(&stamp) => {}
                found => {
                    w.fail(&format!("block {block} of node {node} is {found:?}, not of {cell:?}"))
                }
            }
        }
    }
}

struct Walk {
    /// Two histories may be served in turn until the nodes have met.
    split: bool,
    w: World,
    judge: Judge,
    stamp: u64,
    extents: u64,
    forced: bool,
}

impl Walk {
    fn serving(&self) -> Option<usize> {
        (0..2).find(|node| self.w.alive(*node) && self.w.role(*node) == Role::Primary)
    }

    fn place(&mut self, most: u64) -> (u64, u64) {
        let count = 1 + self.w.dice.below(most);
        let extent = self.w.dice.below(self.extents);
        let within = self.w.dice.below(12);
        let near_end = self.w.dice.one_in(5);
        let start = extent * 1024 + if near_end { 1020 } else { within };
        (start.min(self.w.setup.device_blocks - count), count)
    }

    fn request(&mut self) {
        let Some(node) = self.serving() else { return };
        let (start, count) = self.place(8);
        match self.w.dice.below(12) {
            0 => self.judge.flush(&mut self.w, node),
            1 => self.judge.zero(&mut self.w, node, start, count),
            2 | 3 => self.judge.read(&mut self.w, node, start, count),
            _ => {
                self.stamp += 1;
                let stamp = self.stamp;
                self.judge.write(&mut self.w, node, start, count, stamp);
            }
        }
    }

    fn down(&mut self, node: usize) {
        if !self.w.alive(node) {
            return self.w.restart(node);
        }
        let power = self.w.dice.one_in(2);
        let safe = self.w.established() && self.w.setup.protocol == Protocol::C;
        self.judge.look(&self.w);
        if power {
            self.w.power_cut(node);
            if !safe {
                self.judge.widen_to_flush();
            }
        } else {
            self.w.crash(node);
        }
        self.judge.forget(node);
    }

    fn act(&mut self) {
        let node = self.w.dice.below(2) as usize;
        match self.w.dice.below(100) {
            0..=69 => self.request(),
            70..=75 => self.w.cut(),
            76..=83 => self.w.restore(),
            84..=88 => self.down(node),
            89..=91 if self.w.alive(node) => {
                self.w.command(node, Command::Promote { force: false });
            }
            92 if self.w.alive(node) => {
                self.w.command(node, Command::Demote);
            }
            93 if self.w.alive(node) && self.forced => {
                if self.w.status(node).disk != twinblk::format::frame::DiskState::UpToDate {
                    self.split = true;
                }
                self.w.command(node, Command::Promote { force: true });
            }
            94..=95 => self.w.blip(),
            _ => {
                let millis = self.w.dice.below(700);
                self.w.run_for(millis);
            }
        }
        let steps = self.w.dice.below(40);
        self.w.steps(steps);
        self.look();
    }

    fn look(&mut self) {
        if self.split {
            self.judge.widen_to_all();
            self.split = !self.w.established();
        }
        self.judge.look(&self.w);
        if self.split {
            self.judge.widen_to_all();
        }
    }

    /// Faults end: the nodes mend themselves, or the operator does what `status` says.
    fn mend(&mut self) {
        for node in 0..2 {
            if !self.w.alive(node) {
                self.w.restart(node);
            }
        }
        self.w.restore();
        self.w.run_for(60_000);
        self.look();
        for _ in 0..3 {
            if self.w.established() {
                break;
            }
            let split = (0..2)
                .any(|node| self.w.status(node).peers[0].connection == Connection::StandAlone);
            if !split {
                break;
            }
            // Whoever holds bravo's data gives it up.
            self.split = true;
            for node in [BRAVO, ALPHA] {
                if self.w.role(node) == Role::Primary {
                    self.w.must(node, Command::Demote);
                }
            }
            self.w.must(BRAVO, Command::Connect { discard_my_data: true });
            self.w.must(ALPHA, Command::Connect { discard_my_data: false });
            self.w.run_for(60_000);
            self.look();
        }
    }
}

fn walk(seed: u64, setup: Setup, forced: bool) -> (u64, u64) {
    let extents = setup.device_blocks / 1024;
    let mut w = World::running(Setup { chaos: 0, ..setup.clone() });
    w.setup.chaos = seed + 1;
    w.dice = crate::medium::Dice(seed);
    let judge = Judge::new();
    let mut walk = Walk { split: false, w, judge, stamp: 0, extents, forced };
    for _ in 0..120 {
        walk.act();
    }
    walk.mend();
    walk.w.run_for(20_000);
    walk.judge.look(&walk.w);
    walk.w.equal();
    for node in 0..2 {
        walk.judge.image(&walk.w, node);
    }
    (walk.w.events, walk.judge.checked)
}

pub fn setup_for(seed: u64) -> Setup {
    let mut setup = Setup { device_blocks: 24 * 1024, ..Setup::default() };
    setup.protocol = match seed % 5 {
        0 => Protocol::A,
        1 => Protocol::B,
        _ => Protocol::C,
    };
    setup.on_peer_loss =
        if seed.is_multiple_of(3) { PeerLoss::Suspend } else { PeerLoss::Continue };
    setup.checksum = seed.is_multiple_of(4);
    setup
}

fn range(name: &str, usual: u64) -> std::ops::Range<u64> {
    let from = std::env::var(format!("{name}_SEED")).ok().and_then(|s| s.parse().ok());
    match from {
        Some(seed) => seed..seed + 1,
        None => 0..std::env::var("WALKS").ok().and_then(|s| s.parse().ok()).unwrap_or(usual),
    }
}

pub fn walks(name: &str, usual: u64, walk: impl Fn(u64) -> (u64, u64)) {
    let mut bad = Vec::new();
    let seeds = range(name, usual);
    let single = seeds.end - seeds.start == 1;
    for seed in seeds {
        if single {
            println!("{:?}", walk(seed));
            continue;
        }
        let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk(seed)));
        if let Err(what) = quiet {
            let text = what.downcast_ref::<String>().cloned().unwrap_or_default();
            let text = what.downcast_ref::<&str>().map_or(text, |s| (*s).to_owned());
            bad.push(format!("{name}_SEED={seed}: {}", text.chars().take(200).collect::<String>()));
        }
    }
    assert!(bad.is_empty(), "{} walks failed:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn random_walks_without_force() {
    walks("WALK", 300, |seed| walk(seed, setup_for(seed), false));
}

#[test]
fn random_walks_with_forced_promotions() {
    walks("FORCED", 200, |seed| walk(seed, setup_for(seed), true));
}
