//! Owns the bugs that are put in on purpose, in the product, in the simulator's own daemon and in the disks, and
//! the hunt for a world in which the checkers see one. Must never count a failed assertion inside a node as
//! seen, nor a world that goes wrong without the bug.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use twinblk::plant::Plant as Bug;

use crate::disk::Lies;
use crate::faults::{Kind, LIES};
use crate::runner::{Run, System, THREADS, promise, quietly};
use crate::toy;

/// A bug put in on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plant {
    None,
    /// Of the simulator's own daemon.
    Toy(toy::Bug),
    /// Of the product.
    Product(&'static Planted),
    /// Of the disks.
    Lies(Lies),
}

impl Plant {
    pub(crate) const fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

/// A bug of the product, and where it shows.
#[derive(Debug)]
pub(crate) struct Planted {
    pub(crate) name: &'static str,
    pub(crate) bug: Bug,
    /// The promise it breaks.
    promise: &'static str,
    /// The promises by which the checkers may see it.
    seen_as: &'static [&'static str],
    /// Kinds of fault under which it shows soon; none: any.
    kinds: &'static [Kind],
    /// It shows only where the device has more extents than the activity log.
    wide: bool,
}

const TOY_BUGS: [(&str, toy::Bug); 7] = [
    ("ack-early", toy::Bug::AckEarly),
    ("no-flush", toy::Bug::NoFlush),
    ("flush-here", toy::Bug::FlushHere),
    ("no-copy", toy::Bug::NoCopy),
    ("no-locks", toy::Bug::NoLocks),
    ("early-release", toy::Bug::EarlyRelease),
    ("stale-promote", toy::Bug::StalePromote),
];

/// Wrong bytes, in a read, in a copy or at rest.
const DATA: [&str; 4] = ["G2", "G3", "G5", "G7"];
/// The wrong node serves, or takes over what is not its own.
const ROLES: [&str; 3] = ["G14", "G15", "G18"];

const fn planted(
    name: &'static str,
    bug: Bug,
    promise: &'static str,
    kinds: &'static [Kind],
) -> Planted {
    Planted { name, bug, promise, seen_as: &DATA, kinds, wide: false }
}

const fn of_roles(planted: Planted) -> Planted {
    Planted { seen_as: &ROLES, ..planted }
}

const fn wide(planted: Planted) -> Planted {
    Planted { wide: true, ..planted }
}

pub(crate) static BUGS: [Planted; 27] = [
    planted("ack-before-peer", Bug::AckBeforePeer, "G1", &[Kind::Power]),
    wide(planted("write-before-log", Bug::WriteBeforeLog, "G8", &[Kind::PowerBoth])),
    wide(planted("no-log-pages", Bug::NoLogPages, "G8", &[Kind::Power])),
    wide(planted("cool-unstable", Bug::CoolUnstable, "G8", &[Kind::PowerBoth])),
    planted("forget-hot", Bug::ForgetHot, "G8", &[Kind::Kill]),
    planted("forget-unstable", Bug::ForgetUnstable, "G8", &[Kind::Power]),
    planted("clear-when-sent", Bug::ClearWhenSent, "G8", &[Kind::Power, Kind::Kill]),
    of_roles(planted("no-generation", Bug::NoGeneration, "G13", &[Kind::Power, Kind::Operator])),
    planted("barrier-without-sync", Bug::BarrierWithoutSync, "G4", &[Kind::Power]),
    planted("fua-as-plain", Bug::FuaAsPlain, "G4", &[Kind::PowerBoth]),
    planted("flush-here-only", Bug::FlushHereOnly, "G4", &[Kind::Power]),
    planted(
        "resync-unlocked",
        Bug::ResyncUnlocked,
        "G6",
        &[Kind::SlowDisk, Kind::Reset, Kind::Power],
    ),
    planted("overlap-unordered", Bug::OverlapUnordered, "G6", &[Kind::None]),
    planted("dirty-read", Bug::DirtyRead, "G5", &[Kind::None]),
    planted("read-inconsistent", Bug::ReadInconsistent, "G5", &[Kind::DiskErrors]),
    planted("inconsistent-unrecorded", Bug::InconsistentUnrecorded, "G3", &[Kind::Kill]),
    of_roles(planted("stale-promote", Bug::StalePromote, "G14", &[Kind::Cut])),
    Planted {
        seen_as: &["G18"],
        ..planted(
            "merge-split-brain",
            Bug::MergeSplitBrain,
            "G18",
            &[Kind::Cut, Kind::Kill, Kind::Operator],
        )
    },
    planted("ungated-peer", Bug::UngatedPeer, "G2", &[Kind::PowerBoth]),
    planted("payload-unchecked", Bug::PayloadUnchecked, "G11", &[Kind::Corrupt]),
    planted("zero-only-here", Bug::ZeroOnlyHere, "G10", &[Kind::None]),
    planted("edge-lost", Bug::EdgeLost, "G5", &[Kind::None]),
    planted("hash-always-equal", Bug::HashAlwaysEqual, "G8", &[Kind::Reset]),
    planted(
        "marks-trusted",
        Bug::MarksTrusted,
        "G14",
        &[Kind::DiskRestored, Kind::DiskWiped, Kind::Power],
    ),
    planted("marks-untold", Bug::MarksUntold, "G18", &[Kind::Takeover, Kind::Kill]),
    planted("late-old-write", Bug::LateOldWrite, "G17", &[Kind::SlowDisk, Kind::Reset]),
    Planted {
        seen_as: &["G19"],
        ..planted("error-to-client", Bug::ErrorToClient, "G19", &[Kind::DiskErrors])
    },
];

/// All plants that can be put into a system, by name.
pub(crate) fn of(system: System) -> Vec<(&'static str, Plant)> {
    let lies = LIES.iter().map(|(name, lies)| (*name, Plant::Lies(*lies)));
    match system {
        System::Toy => {
            TOY_BUGS.iter().map(|(name, bug)| (*name, Plant::Toy(*bug))).chain(lies).collect()
        }
        System::Product => {
            BUGS.iter().map(|bug| (bug.name, Plant::Product(bug))).chain(lies).collect()
        }
    }
}

/// The name of a plant.
pub(crate) fn name(system: System, plant: Plant) -> Option<&'static str> {
    let same = |other: &Plant| format!("{other:?}") == format!("{plant:?}");
    of(system).into_iter().find(|(_, other)| same(other)).map(|(name, _)| name)
}

impl Run {
    /// With a plant, and in worlds in which it shows, unless the user chose others.
    pub(crate) fn with(mut self, plant: Plant) -> Self {
        self.plant = plant;
        let kinds: &[Kind] = match plant {
            Plant::Product(planted) => {
                self.wide |= planted.wide;
                planted.kinds
            }
            // Late writes need a restart right after a kill; the others show in any mixture.
            Plant::Lies(lies) if lies.lock => &[Kind::Kill],
            Plant::None | Plant::Toy(_) | Plant::Lies(_) => &[],
        };
        if self.only.is_empty() {
            self.only = kinds.to_vec();
        }
        self
    }
}

/// A world in which the checkers saw the bug.
#[derive(Clone, Debug)]
pub(crate) struct Caught {
    pub(crate) seed: u64,
    pub(crate) violation: String,
}

impl Caught {
    /// The first line of what they saw.
    pub(crate) fn head(&self) -> &str {
        self.violation.lines().next().unwrap_or("")
    }
}

/// Worlds a bug may survive.
const HUNT: u64 = 2000;

/// What the checkers see of the plant in this world, if they see nothing without it. A failed
/// assertion inside a node is not theirs, and a promise that the plant cannot break is another bug's.
fn catches(run: &Run, seed: u64) -> Option<String> {
    let violation = run.world(seed).violation?;
    let broken = promise(&violation);
    let own = match run.plant {
        Plant::Product(planted) => planted.seen_as.contains(&broken),
        // A buffer let go of too early is seen by the simulated kernel alone, which panics.
        Plant::Toy(bug) => broken != "panic" || bug == toy::Bug::EarlyRelease,
        Plant::None | Plant::Lies(_) => broken != "panic",
    };
    let clean = Run { plant: Plant::None, print: false, ..run.clone() };
    (own && clean.world(seed).violation.is_none()).then_some(violation)
}

/// Looks for a world in which a planted bug shows: the first one.
pub(crate) fn search(run: &Run) -> Option<Caught> {
    let next = AtomicU64::new(run.from);
    let last = run.from + run.count.unwrap_or(HUNT);
    let done = AtomicBool::new(false);
    let best: Mutex<Option<Caught>> = Mutex::new(None);
    quietly(|| {
        let work = || {
            while !done.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= last {
                    return;
                }
                if let Some(violation) = catches(run, seed) {
                    done.store(true, Ordering::Relaxed);
                    let mut best = best.lock().expect("worlds do not panic here");
                    if best.as_ref().is_none_or(|other| other.seed > seed) {
                        *best = Some(Caught { seed, violation });
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    });
    best.into_inner().expect("worlds do not panic here")
}

/// As `search`, in words.
pub(crate) fn hunt(run: &Run) -> bool {
    let found = search(run);
    match &found {
        Some(Caught { seed, violation }) => println!("caught in world {seed}: {violation}"),
        None => println!("not caught: the checkers do not see this bug"),
    }
    found.is_some()
}

/// Hunts every plant of a system; a table of them, and whether all were caught.
pub(crate) fn hunt_all(run: &Run) -> bool {
    let (mut caught, mut missed) = (0, 0);
    println!("{:<24} {:<7} {:<7} {:>6}  first seen", "plant", "breaks", "seen as", "worlds");
    for (name, plant) in of(run.system) {
        let promise = if let Plant::Product(planted) = plant { planted.promise } else { "-" };
        let run = run.clone().with(plant);
        let Some(found) = search(&run) else {
            missed += 1;
            println!("{name:<24} {promise:<7} {:<7} {:>6}  never", "-", run.count.unwrap_or(HUNT));
            continue;
        };
        caught += 1;
        let (seen, words) = found.head().split_once(": ").unwrap_or(("-", found.head()));
        let worlds = found.seed - run.from + 1;
        let words: String = words.chars().take(80).collect();
        println!("{name:<24} {promise:<7} {seen:<7} {worlds:>6}  {words}");
    }
    println!("{caught} plants caught, {missed} not");
    missed == 0 && caught > 0
}
