//! Owns playing many worlds: two at a time, each in a thread of its own, with what went wrong and
//! how to see it again. Must never let one world touch another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::arena::{self, Options, Report};
use crate::disk::Lies;
use crate::faults::{Kind, LIES};
use crate::node::Maker;
use crate::product::ProductMaker;
use crate::random::Random;
use crate::toy::{Bug, ToyMaker};

/// What runs on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// The simulator's own.
    Toy,
    /// The real thing.
    Product,
}

pub(crate) const SYSTEMS: [(&str, System); 2] =
    [("product", System::Product), ("toy", System::Toy)];

/// A bug put in on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plant {
    None,
    Toy(Bug),
    /// Of the disks.
    Lies(Lies),
}

impl PartialEq for Plant {
    fn eq(&self, other: &Self) -> bool {
        matches!((self, other), (Self::None, Self::None))
    }
}

const BUGS: [(&str, Bug); 7] = [
    ("ack-early", Bug::AckEarly),
    ("no-flush", Bug::NoFlush),
    ("flush-here", Bug::FlushHere),
    ("no-copy", Bug::NoCopy),
    ("no-locks", Bug::NoLocks),
    ("early-release", Bug::EarlyRelease),
    ("stale-promote", Bug::StalePromote),
];

/// All plants, by name.
pub(crate) fn plants() -> Vec<(&'static str, Plant)> {
    let bugs = BUGS.iter().map(|(name, bug)| (*name, Plant::Toy(*bug)));
    bugs.chain(LIES.iter().map(|(name, lies)| (*name, Plant::Lies(*lies)))).collect()
}

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) from: u64,
    pub(crate) count: Option<u64>,
    pub(crate) until: Option<Instant>,
    /// One world, to look at.
    pub(crate) single: bool,
    pub(crate) print: bool,
    pub(crate) only: Option<Kind>,
    pub(crate) system: System,
    pub(crate) plant: Plant,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            from: 1,
            count: None,
            until: None,
            single: false,
            print: false,
            only: None,
            system: System::Toy,
            plant: Plant::None,
        }
    }
}

/// Worlds at a time.
const THREADS: usize = 2;
/// Each so many-th world is played twice, to compare the traces.
const TWICE: u64 = 25;
/// Worlds a bug may survive.
const HUNT: u64 = 2000;

#[derive(Default)]
struct Sums {
    worlds: AtomicU64,
    events: AtomicU64,
    asks: AtomicU64,
    faults: AtomicU64,
    bad: AtomicU64,
}

impl Run {
    fn maker(&self, seed: u64, device_bytes: u64) -> Rc<dyn Maker> {
        let bug = if let Plant::Toy(bug) = self.plant { bug } else { Bug::None };
        match self.system {
            System::Toy => Rc::new(ToyMaker { bug, device_bytes }),
            System::Product => Rc::new(ProductMaker { seed }),
        }
    }

    /// Plays one world; a panic in it is a violation too.
    pub(crate) fn world(&self, seed: u64) -> Report {
        let device_bytes = 1 << Random::new(seed).between(20, 22);
        let lies = if let Plant::Lies(lies) = self.plant { lies } else { Lies::default() };
        let options = Options { seed, print: self.print, only: self.only, lies, device_bytes };
        let maker = self.maker(seed, device_bytes);
        let played = catch_unwind(AssertUnwindSafe(|| arena::run(&options, maker)));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let text = text.unwrap_or_else(|| "no words".to_owned());
            let violation = Some(format!("panic: {text}"));
            Report { events: 0, hash: 0, asks: 0, faults: 0, violation }
        })
    }

    fn command(&self, seed: u64) -> String {
        use std::fmt::Write as _;
        let mut words = format!("scripts/sim --seed {seed}");
        let only = crate::faults::KINDS.iter().find(|(_, kind)| Some(*kind) == self.only);
        if let Some((name, _)) = only {
            write!(words, " --fault {name}").expect("to a string");
        }
        words
    }
}

/// Plays what is asked; whether all went well.
pub(crate) fn play(run: &Run) -> bool {
    if run.single {
        let report = run.world(run.from);
        println!("{} events, {} requests, trace {:016x}", report.events, report.asks, report.hash);
        if let Some(violation) = &report.violation {
            println!("seed {}: {violation}", run.from);
        }
        return report.violation.is_none();
    }
    let begin = Instant::now();
    let sums = Sums::default();
    let next = AtomicU64::new(run.from);
    let last =
        run.from + run.count.unwrap_or(if run.until.is_some() { u64::MAX / 2 } else { 1000 });
    let output = Mutex::new(());
    quietly(|| {
        let work = || worlds(run, &next, last, &sums, &output);
        std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    });
    let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    let (worlds, bad) = (of(&sums.worlds), of(&sums.bad));
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{worlds} worlds, {} events, {} requests, {} faults: {bad} violations; {:.0} worlds and \
         {:.0} events a minute",
        of(&sums.events),
        of(&sums.asks),
        of(&sums.faults),
        worlds as f64 / seconds * 60.0,
        of(&sums.events) as f64 / seconds * 60.0,
    );
    bad == 0 && worlds > 0
}

/// Reports of panics are printed with their world, not as they happen.
fn quietly(act: impl FnOnce()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    act();
    std::panic::set_hook(hook);
}

fn worlds(run: &Run, next: &AtomicU64, last: u64, sums: &Sums, output: &Mutex<()>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last || run.until.is_some_and(|until| Instant::now() >= until) {
            return;
        }
        let mut report = run.world(seed);
        if seed.is_multiple_of(TWICE) && run.world(seed).hash != report.hash {
            report.violation = Some("G26: the same seed gave another trace".to_owned());
        }
        let add = |sum: &AtomicU64, number| sum.fetch_add(number, Ordering::Relaxed);
        add(&sums.worlds, 1);
        add(&sums.events, report.events);
        add(&sums.asks, report.asks);
        add(&sums.faults, report.faults);
        if let Some(violation) = report.violation {
            add(&sums.bad, 1);
            let _one_at_a_time = output.lock();
            println!("seed {seed}: {violation}\n  again with: {}", run.command(seed));
        }
    }
}

/// Looks for a world in which a planted bug shows; whether one was found, and which.
pub(crate) fn search(run: &Run) -> Option<(u64, String)> {
    let mut found = None;
    let next = AtomicU64::new(run.from);
    let last = run.from + run.count.unwrap_or(HUNT);
    let done = AtomicBool::new(false);
    let best = Mutex::new(&mut found);
    quietly(|| {
        let work = || {
            while !done.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= last {
                    return;
                }
                if let Some(violation) = run.world(seed).violation {
                    done.store(true, Ordering::Relaxed);
                    let mut best = best.lock().expect("worlds do not panic here");
                    if best.as_ref().is_none_or(|(other, _)| *other > seed) {
                        **best = Some((seed, violation));
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    });
    found
}

/// As `search`, in words.
pub(crate) fn hunt(run: &Run) -> bool {
    let found = search(run);
    match &found {
        Some((seed, violation)) => println!("caught in world {seed}: {violation}"),
        None => println!("not caught: the checkers do not see this bug"),
    }
    found.is_some()
}
