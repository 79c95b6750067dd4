//! Owns the simulator's self-tests: that its world keeps its own rules, and that it catches what
//! it is for. Must never look at real time.

mod bench;
mod disks;
mod nets;
mod rings;
mod worlds;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A test and its name.
type Test = (&'static str, fn());

/// Runs the tests that have `filter` in their names; whether all went well. Prints as other test
/// programs do, so that their counts add up.
pub(crate) fn all(filter: &str) -> bool {
    let tests = disks::TESTS.iter().chain(&nets::TESTS).chain(&rings::TESTS).chain(&worlds::TESTS);
    let chosen: Vec<&Test> = tests.filter(|(name, _)| name.contains(filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in &chosen {
        let well = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if well { "ok" } else { "FAILED" });
        if well {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured\n");
    failed == 0
}
