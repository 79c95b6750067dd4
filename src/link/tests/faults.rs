//! What a damaged connection must never do: show a wrong frame, or keep the nodes apart for long.

use super::pair::{Pair, seconds};
use super::world::{Dice, Harm};
use crate::units::Nanos;

/// A short session: what each connection carried, dialler first.
fn rehearsal(seed: u64) -> Vec<[Vec<u8>; 2]> {
    let mut pair = quiet_pair(seed);
    pair.net.borrow_mut().record = true;
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.pass(seconds(2));
    let net = pair.net.borrow();
    (0..net.made()).map(|at| [net.sent(at).0.to_vec(), net.sent(at).1.to_vec()]).collect()
}

fn quiet_pair(seed: u64) -> Pair {
    let mut pair = Pair::new(seed);
    for node in &mut pair.nodes {
        (node.habit.writes, node.habit.blocks) = (2, 2);
    }
    pair
}

/// Runs the same session with one harm done to a connection. When a session ended of it.
fn harmed(seed: u64, connection: usize, from_acceptor: bool, harm: &Harm) -> Nanos {
    let mut pair = quiet_pair(seed);
    let mut plan = (Vec::new(), Vec::new());
    let harms = if from_acceptor { &mut plan.1 } else { &mut plan.0 };
    harms.push(harm.clone());
    pair.net.borrow_mut().plans.insert(connection, plan);
    let mut what = format!("connection {connection}, from acceptor {from_acceptor}: {harm:?}");
    what.truncate(100);
    let ended = pair.run(seconds(8), Pair::has_lost_one);
    let ended_at = if ended { pair.now() } else { Nanos::NEVER };
    assert!(pair.run(seconds(30), Pair::is_done), "{what}");
    pair.assert_nothing_left();
    ended_at
}

/// Too soon for a heartbeat to have noticed.
const AT_ONCE: Nanos = seconds(5);

/// Bytes worth harming: all of handshake and first headers, and a sample of the rest.
fn places(stream: &[u8]) -> impl Iterator<Item = u64> + use<> {
    let length = stream.len() as u64;
    (0..length).filter(move |at| *at < 500 || at % 61 == 0 || at + 100 > length)
}

fn frames_begin(stream: &[u8]) -> Option<usize> {
    stream.windows(4).position(|window| window == b"TWBF")
}

#[test]
fn no_flipped_bit_is_ever_applied() {
    let seed = 3;
    let mut dice = Dice(seed);
    let mut in_frames = 0;
    for (connection, streams) in rehearsal(seed).iter().enumerate() {
        for (from_acceptor, stream) in [(false, &streams[0]), (true, &streams[1])] {
            let frames = frames_begin(stream);
            for at in places(stream) {
                let bit = at * 8 + dice.roll() % 8;
                let ended = harmed(seed, connection, from_acceptor, &Harm::Flip(bit));
                if frames.is_some_and(|begin| at >= begin as u64) {
                    assert!(ended < AT_ONCE, "bit {bit} of connection {connection} went unnoticed");
                    in_frames += 1;
                }
            }
        }
    }
    assert!(in_frames > 500, "the test must harm frames, and harmed {in_frames}");
}

#[test]
fn a_cut_at_any_byte_is_mended() {
    let seed = 4;
    for (connection, streams) in rehearsal(seed).iter().enumerate() {
        for (from_acceptor, stream) in [(false, &streams[0]), (true, &streams[1])] {
            for at in places(stream).filter(|at| at % 3 == 0) {
                harmed(seed, connection, from_acceptor, &Harm::Cut(at));
            }
        }
    }
}

#[test]
fn bytes_lost_without_a_sign_are_noticed_by_heartbeats() {
    let seed = 5;
    for (connection, streams) in rehearsal(seed).iter().enumerate() {
        for (from_acceptor, stream) in [(false, &streams[0]), (true, &streams[1])] {
            for at in places(stream).filter(|at| at % 29 == 0) {
                harmed_for_long(seed, connection, from_acceptor, &Harm::Swallow(at));
            }
        }
    }
}

/// As `harmed`, but a lost write is only missed after the progress timeout.
fn harmed_for_long(seed: u64, connection: usize, from_acceptor: bool, harm: &Harm) {
    let mut pair = quiet_pair(seed);
    let mut plan = (Vec::new(), Vec::new());
    let harms = if from_acceptor { &mut plan.1 } else { &mut plan.0 };
    harms.push(harm.clone());
    pair.net.borrow_mut().plans.insert(connection, plan);
    assert!(pair.run(seconds(60), Pair::is_done), "{connection} {from_acceptor} {harm:?}");
    pair.assert_nothing_left();
}

#[test]
fn garbage_at_every_stage_does_no_harm() {
    let seed = 6;
    let mut dice = Dice(seed);
    for (connection, streams) in rehearsal(seed).iter().enumerate() {
        for (from_acceptor, stream) in [(false, &streams[0]), (true, &streams[1])] {
            for at in places(stream).filter(|at| at % 7 == 0) {
                // Enough to fill any payload it falls into.
                let length = dice.roll() % 3000 + 20_000;
                let garbage = (0..length).map(|_| dice.byte()).collect();
                harmed(seed, connection, from_acceptor, &Harm::Replace(at, garbage));
            }
        }
    }
}

#[test]
fn old_bytes_are_worth_nothing_in_a_new_session() {
    let old = rehearsal(7);
    for (connection, streams) in rehearsal(8).iter().enumerate() {
        for (from_acceptor, stream) in [(false, &streams[0]), (true, &streams[1])] {
            let replayed = &old[connection.min(old.len() - 1)][usize::from(from_acceptor)];
            for at in [0, frames_begin(stream).unwrap_or(60)] {
                let from = if at == 0 { 0 } else { frames_begin(replayed).unwrap_or(0) };
                let bytes = replayed[from..].to_vec();
                harmed(8, connection, from_acceptor, &Harm::Replace(at as u64, bytes));
            }
        }
    }
}

#[test]
fn a_frame_repeated_left_out_or_moved_ends_the_session() {
    let seed = 9;
    let streams = rehearsal(seed);
    let long = streams.iter().enumerate().flat_map(|(connection, streams)| {
        streams.iter().enumerate().map(move |(side, stream)| (connection, side, stream))
    });
    for (connection, side, stream) in long {
        let starts: Vec<usize> =
            (0..stream.len()).filter(|at| stream[*at..].starts_with(b"TWBF")).collect();
        let [first, second, .., last] = starts[..] else {
            continue;
        };
        let tail = |from: usize| stream[from..].to_vec();
        let moved = [&stream[second..last], &stream[first..second], &stream[last..]].concat();
        for other in [tail(second), [&stream[first..second], &tail(first)].concat(), moved] {
            let harm = Harm::Replace(first as u64, other);
            assert!(harmed(seed, connection, side == 1, &harm) < AT_ONCE);
        }
    }
}

#[test]
fn swapped_connections_are_noticed() {
    let seed = 10;
    let streams = rehearsal(seed);
    let carries = |stream: &Vec<u8>| frames_begin(stream);
    let live: Vec<usize> =
        (0..streams.len()).filter(|at| carries(&streams[*at][0]).is_some()).collect();
    let [a, b] = live[..] else { panic!("two connections carry frames: {live:?}") };
    for (one, other) in [(a, b), (b, a)] {
        for side in [0, 1] {
            let begin = carries(&streams[one][side]).expect("it carries frames");
            let other = &streams[other][side];
            let bytes = other[carries(other).expect("so does it")..].to_vec();
            let harm = Harm::Replace(begin as u64, bytes);
            assert!(harmed(seed, one, side == 1, &harm) < AT_ONCE);
        }
    }
}

#[test]
fn a_network_that_breaks_all_the_time_shows_no_wrong_frame() {
    for seed in 0..30 {
        let mut pair = Pair::new(seed);
        let mut dice = Dice(seed);
        for connection in 0..200 {
            let mut harms = || match dice.roll() % 6 {
                0 => vec![Harm::Flip(dice.roll() % 400_000)],
                1 => vec![Harm::Cut(dice.roll() % 60_000)],
                2 => vec![Harm::Swallow(dice.roll() % 60_000)],
                _ => Vec::new(),
            };
            let plan = (harms(), harms());
            pair.net.borrow_mut().plans.insert(connection, plan);
        }
        pair.net.borrow_mut().weather.jitter = Nanos(dice.roll() % 5_000_000);
        pair.pass(seconds(300));
        pair.net.borrow_mut().plans.clear();
        assert!(pair.run(seconds(120), Pair::is_done), "seed {seed}");
        pair.assert_nothing_left();
    }
}

#[test]
#[should_panic(expected = "other bytes")]
fn the_judge_notices_a_wrong_payload() {
    let mut pair = Pair::new(11);
    pair.nodes[0].forge = true;
    pair.run(seconds(5), Pair::is_done);
}
