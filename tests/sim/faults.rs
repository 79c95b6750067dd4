//! Owns what goes wrong in a world, and when: drawn from a seed, a different mixture each time.
//! Must never know what a node makes of it.

use crate::disk::{Failing, Faults, Lies};
use crate::link::Link;
use crate::random::Random;
use crate::world::{Clock, World};

/// The name of a kind.
pub(crate) fn name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("?", |(name, _)| name)
}

/// Kinds of fault, by name for `--fault`.
pub(crate) const KINDS: [(&str, Kind); 25] = [
    ("none", Kind::None),
    ("kill", Kind::Kill),
    ("kill-both", Kind::KillBoth),
    ("crash", Kind::Crash),
    ("power", Kind::Power),
    ("power-both", Kind::PowerBoth),
    ("stop", Kind::Stop),
    ("stop-long", Kind::StopLong),
    ("cut", Kind::Cut),
    ("cut-one-way", Kind::CutOneWay),
    ("takeover", Kind::Takeover),
    ("reset", Kind::Reset),
    ("slow-link", Kind::SlowLink),
    ("corrupt", Kind::Corrupt),
    ("slow-disk", Kind::SlowDisk),
    ("hang-disk", Kind::HangDisk),
    ("disk-errors", Kind::DiskErrors),
    ("disk-full", Kind::DiskFull),
    ("disk-wiped", Kind::DiskWiped),
    ("disk-restored", Kind::DiskRestored),
    ("disks-swapped", Kind::DisksSwapped),
    ("clock", Kind::Clock),
    ("clock-jump", Kind::ClockJump),
    ("clock-freeze", Kind::ClockFreeze),
    ("operator", Kind::Operator),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Kill,
    KillBoth,
    /// A kill after some of the operations of one turn, before the others.
    Crash,
    Power,
    PowerBoth,
    Stop,
    /// Longer than every timer.
    StopLong,
    Cut,
    CutOneWay,
    /// The nodes are cut off from each other, and one is promoted by force.
    Takeover,
    Reset,
    SlowLink,
    Corrupt,
    SlowDisk,
    HangDisk,
    DiskErrors,
    DiskFull,
    /// The disk is exchanged for a new one, which `create` lays out.
    DiskWiped,
    /// The disk is as it was at an earlier moment.
    DiskRestored,
    /// Each node has the other's disk.
    DisksSwapped,
    /// Offset and drift, for the whole world.
    Clock,
    ClockJump,
    ClockFreeze,
    /// No fault of its own: an operator who changes the mind all the time.
    Operator,
}

/// One fault: its number in the world, and whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blow {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) node: usize,
}

/// How often what goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    kinds: Vec<Kind>,
    weights: Vec<u32>,
    /// Mean time between two faults.
    pub(crate) pause: u64,
    /// Mean time for which one lasts.
    pub(crate) span: u64,
    /// Mean time between two commands of the operator.
    pub(crate) operator_pause: u64,
    /// How often, in a hundred, the operator forces a promotion that is refused.
    pub(crate) force_percent: u32,
}

impl Plan {
    /// A mixture of the kinds a node can survive; `only` takes the choice away.
    pub(crate) fn draw(random: &mut Random, can: &[Kind], only: &[Kind]) -> Self {
        let chosen = |kind: &Kind| only.is_empty() || only.contains(kind);
        let kinds: Vec<Kind> = can.iter().copied().filter(chosen).collect();
        let mut weight = || {
            if random.percent(45) { 0 } else { random.between(1, 10) }
        };
        let drawn = kinds.iter().map(|_| u32::try_from(weight()).expect("small"));
        let mut weights: Vec<u32> = drawn.collect();
        if !only.is_empty() {
            weights.fill(1);
        }
        let busy = only.contains(&Kind::Operator);
        Self {
            kinds,
            weights,
            pause: 1 << random.between(26, 31),
            span: 1 << random.between(24, 32),
            operator_pause: if busy { 1 << 27 } else { 1 << random.between(28, 32) },
            force_percent: u32::try_from(random.below(2) * random.below(100)).expect("small"),
        }
    }

    pub(crate) fn next(&self, random: &mut Random) -> Kind {
        if self.weights.iter().all(|weight| *weight == 0) {
            return Kind::None;
        }
        self.kinds[random.weighted(&self.weights)]
    }
}

/// Spoils the way between the hosts.
pub(crate) fn spoil_link(world: &mut World, kind: Kind) {
    let random = &mut world.clockwork.random;
    let mut links = [(0, 1, Link::good()), (1, 0, Link::good())];
    let one_way = random.index(2);
    for (number, (.., link)) in links.iter_mut().enumerate() {
        match kind {
            Kind::Cut | Kind::Takeover => link.cut = true,
            Kind::CutOneWay => link.cut = number == one_way,
            Kind::Corrupt => link.corrupt_ppm = 1 << random.between(9, 14),
            _ => {
                link.latency = 1 << random.between(17, 29);
                link.jitter = link.latency / 2;
                link.shred_percent = [0, 20, 70][random.index(3)];
                link.bytes_per_second = 1 << random.between(20, 30);
            }
        }
    }
    for (from, to, link) in links {
        world.net.set_link(&mut world.clockwork, (from, to), link);
    }
}

pub(crate) fn mend_links(world: &mut World) {
    for way in [(0, 1), (1, 0)] {
        world.net.set_link(&mut world.clockwork, way, Link::good());
    }
}

/// Spoils a disk.
pub(crate) fn spoil_disk(world: &mut World, disk: usize, kind: Kind) {
    let random = &mut world.clockwork.random;
    let mut faults = Faults::default();
    match kind {
        Kind::SlowDisk => faults.slowness = 1 << random.between(2, 10),
        Kind::HangDisk => faults.hung = true,
        Kind::DiskFull => faults.writes = Failing::Always(libc::ENOSPC),
        _ => {
            let mut failing = || match random.below(3) {
                0 => Failing::Never,
                1 => Failing::Once(libc::EIO),
                _ => Failing::Always(libc::EIO),
            };
            (faults.reads, faults.writes, faults.syncs) = (failing(), failing(), failing());
        }
    }
    world.disks[disk].faults = faults;
}

/// Sets a host's clock off, once: a clock that boots with the host never jumps back.
pub(crate) fn skew(world: &mut World, host: usize) {
    let random = &mut world.clockwork.random;
    let offset = i64::try_from(random.below(1 << 40)).expect("it fits");
    let drift_ppm = i64::try_from(random.below(1000)).expect("small") - 500;
    world.hosts[host].clock = Clock { offset, drift_ppm, frozen: None };
}

/// Lies of the disks, by name for `--plant`.
pub(crate) const LIES: [(&str, Lies); 4] = [
    ("lying-sync", Lies { sync: true, lost_ppm: 0, misdirected_ppm: 0, lock: false }),
    ("lost-write", Lies { sync: false, lost_ppm: 3000, misdirected_ppm: 0, lock: false }),
    ("misdirected-write", Lies { sync: false, lost_ppm: 0, misdirected_ppm: 3000, lock: false }),
    ("late-landing", Lies { sync: false, lost_ppm: 0, misdirected_ppm: 0, lock: true }),
];
