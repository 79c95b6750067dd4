//! Owns playing many worlds: two at a time, each in a thread of its own, with what went wrong and
//! how to see it again. Must never let one world touch another.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use twinblk::plant::Plants;

use crate::arena::{self, Options, Report};
use crate::disk::Lies;
use crate::faults::{KINDS, Kind};
use crate::node::Maker;
use crate::plants::{self, Plant};
use crate::product::ProductMaker;
use crate::random::Random;
use crate::tally::Tally;
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
    /// Faults left out, by number.
    pub(crate) without: BTreeSet<u64>,
    /// Where the counts go, besides the summary.
    pub(crate) counts: Option<PathBuf>,
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
            without: BTreeSet::new(),
            counts: None,
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
    inputs: AtomicU64,
    tally: Mutex<Tally>,
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
        let without = self.without.clone();
        let options = Options { seed, print: self.print, only, lies, device_bytes, without };
        let maker = self.maker(seed, device_bytes);
        let played = catch_unwind(AssertUnwindSafe(|| arena::run(&options, maker)));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let text = text.unwrap_or_else(|| "no words".to_owned());
            let violation = Some(format!("panic: {text}"));
            Report { violation, ..Report::default() }
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
        if let Some(name) = plants::name(self.system, self.plant) {
            write!(words, " --plant {name}").expect("to a string");
        }
        let without: Vec<String> = self.without.iter().map(u64::to_string).collect();
        if !without.is_empty() {
            write!(words, " --without {}", without.join(",")).expect("to a string");
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
    let tally = sums.tally.lock().expect("the threads have ended");
    if run.system == System::Product {
        print!("{}", tally.show());
    }
    println!(
        "{worlds} worlds, {} events (inputs handled by a core), {} happenings, {} requests, {} faults: \
         {bad} violations; {:.0} worlds and {:.0} events a minute",
        of(&sums.inputs),
        of(&sums.events),
        of(&sums.asks),
        of(&sums.faults),
        worlds as f64 / seconds * 60.0,
        of(&sums.inputs) as f64 / seconds * 60.0,
    );
    if let Some(path) = &run.counts
        && let Err(error) = std::fs::write(path, tally.lines())
    {
        println!("{}: {error}", path.display());
        return false;
    }
    bad == 0 && worlds > 0
}

/// Leaves out of one world, which goes wrong, all the faults it goes wrong without: halves of them first, then
/// ever smaller parts. Whether anything was found to shrink.
pub(crate) fn shrink(mut run: Run) -> bool {
    run.print = false;
    let mut best = Report::default();
    quietly(|| best = run.world(run.from));
    if best.violation.is_none() {
        println!("seed {} goes well: there is nothing to shrink", run.from);
        return false;
    }
    let sought = promise(best.violation.as_deref().unwrap_or_default()).to_owned();
    let all = best.faults;
    let mut size = all.div_ceil(2).max(1);
    quietly(|| {
        loop {
            for first in (1..=all).step_by(usize::try_from(size).expect("few faults")) {
                let mut fewer = run.clone();
                fewer.without.extend(first..(first + size).min(all + 1));
                let more = fewer.without.len() > run.without.len();
                let left = || fewer.world(run.from).violation;
                if more && left().is_some_and(|it| promise(&it) == sought) {
                    run = fewer;
                }
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
        best = run.world(run.from);
    });
    // Those after the end of the world need no mention.
    run.without.retain(|number| *number <= best.faults);
    let left = best.faults - run.without.len() as u64;
    println!("{} of {all} faults are left: {}", left, best.violation.unwrap_or_default());
    println!("  again with: {} --trace", run.command(run.from));
    true
}

/// Which promise a violation breaks, in its first word.
pub(crate) fn promise(violation: &str) -> &str {
    violation.split(':').next().unwrap_or_default()
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
        add(&sums.inputs, report.inputs);
        add(&sums.events, report.events);
        sums.tally.lock().expect("no world panics here").merge(&report.tally);
        add(&sums.asks, report.asks);
        add(&sums.faults, report.faults);
        if let Some(violation) = report.violation {
            add(&sums.bad, 1);
            let _one_at_a_time = output.lock();
            println!("seed {seed}: {violation}\n  again with: {}", run.command(seed));
        }
    }
}
