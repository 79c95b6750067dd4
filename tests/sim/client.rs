//! Owns a client of the device: what it asks, drawn from a seed. Must never judge what it gets.

use std::collections::BTreeMap;

use crate::checker::oracle::Range;
use crate::node::Ask;
use crate::random::Random;

/// How clients behave in one world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) device_sectors: u64,
    /// Most requests go to so many sectors, so that they overlap.
    pub(crate) hot_first: u64,
    pub(crate) hot_sectors: u64,
    pub(crate) depth: usize,
    /// Requests start at multiples of this, and are multiples of it long.
    pub(crate) grain: u64,
    pub(crate) sectors_max: u64,
    /// Read, write, durable write, zero, flush.
    pub(crate) weights: [u32; 5],
    /// Mean pause between two looks.
    pub(crate) pause: u64,
}

impl Habits {
    pub(crate) fn draw(random: &mut Random, device_sectors: u64) -> Self {
        let hot_sectors = 1 << random.between(3, 9);
        let grain = if random.percent(40) { 1 } else { 8 };
        Self {
            device_sectors,
            hot_first: random.below(device_sectors - hot_sectors) / 8 * 8,
            hot_sectors,
            depth: 1 << random.below(6),
            grain,
            sectors_max: grain << random.below(6),
            weights: [
                20 + weight(random, 60),
                20 + weight(random, 60),
                weight(random, 20),
                weight(random, 20),
                1 + weight(random, 20),
            ],
            pause: 1 << random.between(14, 23),
        }
    }
}

fn weight(random: &mut Random, most: u64) -> u32 {
    u32::try_from(random.below(most)).expect("small")
}

/// One client, attached to one node while that node serves.
pub(crate) struct Client {
    habits: Habits,
    random: Random,
    /// What has no reply yet.
    pub(crate) open: BTreeMap<u64, Ask>,
    /// Its next look is planned.
    pub(crate) awake: bool,
}

impl Client {
    pub(crate) const fn new(habits: Habits, random: Random) -> Self {
        Self { habits, random, open: BTreeMap::new(), awake: false }
    }

    /// When it looks again.
    pub(crate) fn pause(&mut self) -> u64 {
        self.random.around(self.habits.pause)
    }

    /// What it asks now, if anything; `stamp` is a fresh one.
    pub(crate) fn next(&mut self, stamp: u64) -> Option<Ask> {
        if self.open.len() >= self.habits.depth || self.random.percent(15) {
            return None;
        }
        let range = self.range();
        Some(match self.random.weighted(&self.habits.weights) {
            0 => Ask::Read(range),
            1 => Ask::Write { range, stamp, fua: false },
            2 => Ask::Write { range, stamp, fua: true },
            3 => {
                let (discard, fua) = (self.random.percent(50), self.random.percent(20));
                Ask::Zero { range, discard, fua }
            }
            _ => Ask::Flush,
        })
    }

    fn range(&mut self) -> Range {
        let Habits { device_sectors, hot_first, hot_sectors, grain, sectors_max, .. } = self.habits;
        let hot = self.random.percent(90);
        let (start, span) = if hot { (hot_first, hot_sectors) } else { (0, device_sectors) };
        let first = (start + self.random.below(span)) / grain * grain;
        let most = sectors_max.min(device_sectors - first) / grain;
        Range { first, count: grain * (1 + self.random.below(most)) }
    }
}
