//! Random streams of valid requests, cut anywhere, are the same as the same requests one by one on
//! an array of bytes.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::*;

const DEVICE: usize = 5 * MIB / 2;

#[derive(Clone, Debug)]
enum Step {
    Read {
        offset: usize,
        length: usize,
    },
    Write {
        offset: usize,
        length: usize,
        seed: u64,
    },
    Zero {
        offset: usize,
        length: usize,
        trim: bool,
    },
    Flush,
    /// Lets the world turn so many times.
    Turn {
        times: usize,
        pace: usize,
    },
    /// From now on receives bring so many bytes.
    Fragment(usize),
    /// The client stops reading, or goes on.
    Reads(bool),
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let edge = prop_oneof![Just(0_usize), Just(1), Just(4095), Just(4096), Just(4097), 0..DEVICE];
    let base = prop_oneof![Just(0_usize), Just(MIB), Just(2 * MIB), 0..DEVICE];
    let length = prop_oneof![
        6 => 0..10_000_usize,
        2 => Just(4096_usize),
        1 => Just(MIB),
        1 => 0..DEVICE,
    ];
    (base, edge, length).prop_map(|(base, edge, length)| {
        let offset = (base + edge).min(DEVICE);
        (offset, length.min(DEVICE - offset))
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => range().prop_map(|(offset, length)| Step::Read { offset, length }),
        5 => (range(), any::<u64>())
            .prop_map(|((offset, length), seed)| Step::Write { offset, length, seed }),
        2 => (range(), any::<bool>())
            .prop_map(|((offset, length), trim)| Step::Zero { offset, length, trim }),
        1 => Just(Step::Flush),
        3 => (1..20_usize, 0..4_usize).prop_map(|(times, pace)| Step::Turn { times, pace }),
        2 => prop_oneof![Just(0_usize), 30..40_usize, 1000..70_000_usize].prop_map(Step::Fragment),
        1 => any::<bool>().prop_map(Step::Reads),
    ]
}

/// What a client expects of its requests.
#[derive(Default)]
struct Expected(BTreeMap<u64, Option<Vec<u8>>>);

fn perform(world: &mut World, model: &mut [u8], step: &Step) -> Option<(u64, Option<Vec<u8>>)> {
    let small = |n: usize| u32::try_from(n).unwrap();
    match *step {
        Step::Read { offset, length } => {
            let data = model[offset..][..length].to_vec();
            Some((world.read(0, offset as u64, length), Some(data)))
        }
        Step::Write { offset, length, seed } => {
            let bytes = pattern(length, seed);
            model[offset..][..length].copy_from_slice(&bytes);
            Some((world.write(0, offset as u64, &bytes), None))
        }
        Step::Zero { offset, length, trim } => {
            model[offset..][..length].fill(0);
            let command = if trim { Command::TRIM } else { Command::WRITE_ZEROES };
            let ask = Ask::new(command, 0, offset as u64, small(length));
            Some((world.ask(0, ask, &[]), None))
        }
        Step::Flush => Some((world.ask(0, Ask::new(Command::FLUSH, 0, 0, 0), &[]), None)),
        Step::Turn { times, pace } => {
            world.device.pace = pace;
            (0..times).for_each(|_| world.turn());
            None
        }
        Step::Fragment(bytes) => {
            world.wire(0).fragment = bytes;
            None
        }
        Step::Reads(reads) => {
            world.wire(0).reads = reads;
            None
        }
    }
}

/// The first difference from the model, if there is one.
fn run(steps: &[Step], structured: bool, mut world: World) -> Result<(), String> {
    let mut model = pattern(DEVICE, 1);
    world.join(structured);
    let mut expected = Expected::default();
    for step in steps {
        expected.0.extend(perform(&mut world, &mut model, step));
    }
    world.device.pace = usize::MAX;
    // What is left comes in at most a thousand pieces, or small ones would take for ever.
    let piece = world.wire(0).to_server.len() / 1000;
    let wire = world.wire(0);
    wire.reads = true;
    if wire.fragment > 0 {
        wire.fragment = wire.fragment.max(piece);
    }
    world.rest();
    for (cookie, data) in &expected.0 {
        if world.answer(0, *cookie) != Some(Ok(())) {
            return Err(format!("{cookie}: {:?}", world.answer(0, *cookie)));
        }
        let read = world.visitors[0].data.get(cookie).cloned().unwrap_or_default();
        if data.as_ref().is_some_and(|data| *data != read) {
            return Err(format!("{cookie} read something else"));
        }
    }
    if world.visitors[0].answers.len() != expected.0.len() {
        return Err("a request was answered twice".into());
    }
    if world.device.bytes != model {
        return Err("the device holds something else".into());
    }
    world.say(0, &Client::disconnect());
    world.rest();
    world.assert_idle();
    Ok(())
}

/// 96 streams, always the same; `TWINBLK_SEED=n` for others.
#[test]
fn any_stream_equals_the_model() {
    let seed: u64 = std::env::var("TWINBLK_SEED").map_or(0, |n| n.parse().expect("a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() };
    let budget = prop_oneof![Just(4096_usize), Just(MIB), Just(64 * MIB)];
    let steps = proptest::collection::vec(step(), 1..60);
    let outcome = TestRunner::new_with_rng(config, rng).run(
        &(steps, any::<bool>(), budget),
        |(steps, structured, budget)| {
            let outcome = run(&steps, structured, World::new(DEVICE, budget));
            prop_assert!(outcome.is_ok(), "{outcome:?}");
            Ok(())
        },
    );
    assert!(outcome.is_ok(), "TWINBLK_SEED={seed}: {outcome:?}");
}

#[test]
fn the_comparison_notices_one_wrong_byte_read_or_written() {
    let write = Step::Write { offset: 4095, length: MIB, seed: 3 };
    let read = Step::Read { offset: 0, length: 2 * MIB };
    for (steps, found) in [
        (vec![write.clone()], "the device holds something else"),
        (vec![write, read], "2 read something else"),
    ] {
        let world = || World::new(DEVICE, MIB);
        assert_eq!(run(&steps, true, world()), Ok(()));
        let mut spoilt = world();
        spoilt.device.spoils = true;
        assert_eq!(run(&steps, true, spoilt), Err(found.into()));
    }
}
