//! Owns the proof of whole worlds: a right toy passes, every planted bug is caught, and a seed
//! decides everything (G26). Must never need more worlds than a test run can bear.

use super::Test;
use crate::faults::name;
use crate::node::Maker as _;
use crate::plants::{self, search};
use crate::runner::{Run, System, play};
use crate::toy::{Bug, ToyMaker};

pub(crate) const TESTS: [Test; 4] = [
    ("world::the_same_seed_gives_the_same_trace", the_same_seed),
    ("world::two_hundred_worlds_of_the_toy_pass", two_hundred_worlds),
    ("world::each_kind_of_fault_alone_passes", each_kind_alone),
    ("world::every_planted_bug_is_caught", every_planted_bug),
];

fn the_same_seed() {
    let run = Run::default();
    let traces: Vec<u64> = (1..12).map(|seed| run.world(seed).hash).collect();
    let again: Vec<u64> = (1..12).map(|seed| run.world(seed).hash).collect();
    assert_eq!(traces, again);
    let mut distinct = traces;
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 11, "different seeds give different worlds");
}

fn two_hundred_worlds() {
    assert!(play(&Run { count: Some(200), ..Run::default() }));
}

fn each_kind_alone() {
    let toy = ToyMaker { bug: Bug::None, device_bytes: 1 << 20 };
    for kind in toy.survives() {
        println!("only {}:", name(kind));
        assert!(play(&Run { count: Some(10), from: 5000, only: vec![kind], ..Run::default() }));
    }
}

fn every_planted_bug() {
    for (name, plant) in plants::of(System::Toy) {
        let caught =
            search(&Run::default().with(plant)).unwrap_or_else(|| panic!("{name} is not caught"));
        println!("{name} is caught in world {}: {}", caught.seed, caught.head());
    }
}
