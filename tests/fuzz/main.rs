//! Owns a bounded, seeded run of the fuzz targets: first inputs from `corpus/`, changed at random.
//! For a long, coverage-guided run of the same targets: `scripts/fuzz`. Must never look into a
//! target.

mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use targets::{ALL, Target};

const INPUT_BYTES_MAX: usize = 16 << 10;

/// SplitMix64 (Steele, Lea, Flood 2014), so that one seed is one run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound.max(1) as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[0]
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fuzz/corpus", name].iter().collect();
    let entries = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// One small change: what a fuzzer without a view of the code does.
fn change(dice: &mut Dice, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = dice.below(input.len());
    let tricky = [0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF];
    match (dice.below(8), input.len()) {
        (0, 1..) => input[at] ^= 1 << dice.below(8),
        (1, 1..) => input[at] = dice.byte(),
        (2, 1..) => input[at] = tricky[dice.below(tricky.len())],
        (3, 1..) => input.truncate(at),
        (4, 1..) => {
            let end = (at + dice.below(64)).min(input.len());
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        (5, 1..) => {
            let end = (at + dice.below(16)).min(input.len());
            input.drain(at..end);
        }
        (6, _) => {
            let other = &others[dice.below(others.len())];
            let from = dice.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let bytes: Vec<u8> = (0..dice.below(9)).map(|_| dice.byte()).collect();
            input.splice(at..at, bytes);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

/// The first input, in hexadecimal, on which the target panics.
fn fuzz(target: Target, first: &[Vec<u8>]) -> Option<String> {
    assert!(!first.is_empty(), "{}: no first input", target.name);
    let panics = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    let hex = |input: &[u8]| input.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(input) = first.iter().find(|input| panics(input)) {
        return Some(hex(input));
    }
    (0..target.inputs).find_map(|seed| {
        let mut dice = Dice(seed);
        let mut input = first[dice.below(first.len())].clone();
        for _ in 0..=dice.below(6) {
            change(&mut dice, &mut input, first);
        }
        panics(&input).then(|| hex(&input))
    })
}

#[test]
fn no_input_breaks_a_parser() {
    for target in ALL {
        let found = fuzz(target, &corpus(target.name));
        assert_eq!(found, None, "{}: an input that breaks it", target.name);
    }
}

/// A bug that one right byte reaches is found, and one in a first input at once. Deeper ones are for
/// the fuzzer that sees the code.
#[test]
fn a_planted_bug_is_found() {
    let shallow = Target { name: "plant", inputs: 0, run: |bytes| assert!(bytes.len() < 3) };
    assert_eq!(fuzz(shallow, &[b"abc".to_vec()]), Some("616263".to_owned()));
    let run: fn(&[u8]) = |bytes| assert!(bytes.get(5) != Some(&0x80));
    let deep = Target { name: "plant", inputs: 100_000, run };
    let found = fuzz(deep, &[vec![7; 16]]).expect("it is found");
    assert_eq!(&found[10..12], "80");
}
