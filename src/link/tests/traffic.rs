//! What two healthy nodes on a difficult network must achieve.

use super::pair::{Pair, seconds};
use crate::buffer::Purpose;
use crate::units::Nanos;

#[test]
fn both_come_up_in_one_session_and_every_frame_arrives() {
    let mut pair = Pair::new(1);
    assert!(pair.run(seconds(5), Pair::is_done));
    assert_eq!(pair.nodes[0].judge.sessions.len(), 1);
    assert_eq!(pair.nodes[0].judge.all_writes, 20);
    assert_eq!(pair.nodes[1].judge.all_writes, 20);
    pair.assert_nothing_left();
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let mut pair = Pair::new(2);
    pair.net.borrow_mut().weather.crumb = 1;
    for node in &mut pair.nodes {
        node.habit.writes = 3;
        node.habit.blocks = 3;
    }
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.assert_nothing_left();
}

#[test]
fn any_delay_and_any_crumb() {
    for seed in 0..25 {
        let mut pair = Pair::new(seed);
        let roll = pair.net.borrow_mut().roll();
        {
            let mut net = pair.net.borrow_mut();
            net.weather.crumb = 1 + (roll % 100_000) as usize;
            net.weather.delay = Nanos(roll >> 8 & 0xff_ffff);
            net.weather.jitter = Nanos(roll >> 32 & 0xff_ffff);
            net.weather.window = 1000 + (roll >> 20 & 0x3_ffff) as usize;
        }
        for node in &mut pair.nodes {
            node.habit.blocks = 255;
            node.habit.writes = 8;
        }
        assert!(
            pair.run(seconds(40), Pair::is_done),
            "seed {seed}: {:?}",
            pair.net.borrow().weather
        );
        pair.assert_nothing_left();
    }
}

/// A gather of several MiB takes this network longer than the progress timeout: as long as the
/// peer acknowledges what arrives of it, nothing is stuck.
#[test]
fn a_slow_network_that_moves_is_not_given_up() {
    let mut pair = Pair::with(7, |_, options| options.timing.progress_timeout = seconds(10));
    for node in &mut pair.nodes {
        (node.habit.writes, node.habit.blocks, node.habit.ahead) = (12, 255, 12);
    }
    {
        let mut net = pair.net.borrow_mut();
        (net.weather.delay, net.weather.window) = (Nanos::from_millis(200), 64 << 10);
    }
    let done = pair.run(seconds(200), Pair::is_done);
    let judge = &pair.nodes[0].judge;
    assert!(done, "{} written in {} sessions", judge.written, judge.sessions.len());
    assert!(pair.now() > seconds(20), "the network was not slow: {:?}", pair.now());
    assert!(!pair.has_lost_one(), "a session was given up");
    pair.assert_nothing_left();
}

/// G22: payloads that another link's hung disk never gives back.
#[test]
fn a_link_that_holds_nothing_goes_on_beside_one_that_holds_all() {
    let mut pair = Pair::new(8);
    let stuck = Purpose::Peer.of(99);
    let pool = &mut pair.nodes[1].pool;
    let held: Vec<_> = std::iter::from_fn(|| pool.take(stuck, 1 << 20)).collect();
    assert!(pair.run(seconds(5), Pair::is_done));
    assert_eq!(pair.nodes[1].judge.all_writes, 20);
    held.into_iter().for_each(|payload| pair.nodes[1].pool.release(payload));
    pair.assert_nothing_left();
}
