//! Owns playing many worlds: two at a time, each in a thread of its own, with what went wrong and
//! how to see it again. Must never let one world touch another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use twinblk::plant::Plants;

use crate::arena::{self, Options, Report};
use crate::disk::Lies;
use crate::faults::{KINDS, Kind};
use crate::node::Maker;
use crate::plants::Plant;
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

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) from: u64,
    pub(crate) count: Option<u64>,
    pub(crate) until: Option<Instant>,
    /// One world, to look at.
    pub(crate) single: bool,
    pub(crate) print: bool,
    /// Only these kinds of fault; none: all.
    pub(crate) only: Vec<Kind>,
    /// Only devices with more extents than the activity log.
    pub(crate) wide: bool,
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
            only: Vec::new(),
            wide: false,
            system: System::Toy,
            plant: Plant::None,
        }
    }
}

/// Worlds at a time.
pub(crate) const THREADS: usize = 2;
/// Each so many-th world is played twice, to compare the traces.
const TWICE: u64 = 25;

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
            System::Product => Rc::new(ProductMaker { seed, plants: self.plants() }),
        }
    }

    #[cfg(feature = "plants")]
    const fn plants(&self) -> Plants {
        match self.plant {
            Plant::Product(planted) => Plants::with(planted.bug),
            _ => Plants::NONE,
        }
    }

    #[cfg(not(feature = "plants"))]
    const fn plants(&self) -> Plants {
        Plants::NONE
    }

    /// Most devices are small, so that requests meet. Of the product's, some have more extents than
    /// its activity log has slots.
    fn device_bytes(&self, seed: u64) -> u64 {
        let mut random = Random::new(seed ^ 0x001d_e5ee);
        let wide = self.system == System::Product && (random.below(5) == 0 || self.wide);
        if wide { random.between(100, 200) << 20 } else { 1 << Random::new(seed).between(20, 22) }
    }

    /// Plays one world; a panic in it is a violation too.
    pub(crate) fn world(&self, seed: u64) -> Report {
        let device_bytes = self.device_bytes(seed);
        let lies = if let Plant::Lies(lies) = self.plant { lies } else { Lies::default() };
        let only = self.only.clone();
        let options = Options { seed, print: self.print, only, lies, device_bytes };
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
        for (name, _) in KINDS.iter().filter(|(_, kind)| self.only.contains(kind)) {
            write!(words, " --fault {name}").expect("to a string");
        }
        if self.wide {
            words.push_str(" --wide");
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
pub(crate) fn quietly(act: impl FnOnce()) {
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
