//! Owns the proof that the ring notices what a real kernel would punish. Must never test what
//! lies behind the ring.

use std::panic::{AssertUnwindSafe, catch_unwind};

use twinblk::ring::{Op, Ring as _};
use twinblk::units::Nanos;

use super::Test;
use super::bench::Bench;
use crate::world::{Clock, Happening};

pub(crate) const TESTS: [Test; 7] = [
    ("ring::nothing_ends_at_once", nothing_ends_at_once),
    ("ring::a_buffer_changed_in_flight_is_noticed", a_buffer_changed_in_flight),
    ("ring::a_buffer_released_in_flight_is_noticed", a_buffer_released_in_flight),
    ("ring::a_buffer_filled_and_used_at_once_is_noticed", a_buffer_filled_and_used),
    ("ring::deadlines_wake_by_the_hosts_own_clock", deadlines_wake),
    ("ring::a_past_deadline_is_noticed", a_past_deadline),
    ("ring::a_stopped_life_takes_no_turn", a_stopped_life),
];

/// The words of the panic in `act`.
fn panics(act: impl FnOnce()) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(act));
    std::panic::set_hook(hook);
    let panic = result.expect_err("a fault went unnoticed");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

fn nothing_ends_at_once() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    bench.lives[0].submit(Op::Sync { file });
    let misaligned = bench.lives[0].read(file, 1, 512);
    assert!(bench.lives[0].done.is_empty());
    assert!(bench.end(0, misaligned).is_err());
}

fn a_buffer_changed_in_flight() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let (_payload, from) = bench.lives[0].slot(512);
    bench.lives[0].submit(Op::Write { file, offset: 0, from, durable: false });
    bench.lives[0].pool.bytes_mut(from)[99] = 1;
    assert!(panics(|| bench.settle()).contains("changed in flight"));
}

fn a_buffer_released_in_flight() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let (payload, into) = bench.lives[0].slot(512);
    bench.lives[0].submit(Op::Read { file, offset: 0, into });
    bench.lives[0].pool.release(payload);
    assert!(panics(|| bench.settle()).contains("after release"));
}

fn a_buffer_filled_and_used() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let (_payload, span) = bench.lives[0].slot(512);
    bench.lives[0].submit(Op::Write { file, offset: 0, from: span, durable: false });
    bench.lives[0].submit(Op::Write { file, offset: 512, from: span, durable: false });
    let read = Op::Read { file, offset: 0, into: span };
    assert!(
        panics(|| {
            bench.lives[0].submit(read);
        })
        .contains("at once")
    );
}

fn deadlines_wake() {
    for (offset, drift_ppm) in [(0, 0), (5_000_000_000, 400), (77, -400)] {
        let mut bench = Bench::new(1);
        bench.settle();
        bench.world.borrow_mut().hosts[0].clock = Clock { offset, drift_ppm, frozen: None };
        let life = bench.lives[0].life;
        let until = bench.lives[0].ring.now() + Nanos::from_millis(1234);
        let mut none = Vec::new();
        let bare = &mut bench.lives[0];
        bare.ring.turn(&mut bare.pool, until, &mut none);
        let happening = bench.world.borrow_mut().next();
        assert_eq!(happening, Some(Happening::Turn(life)));
        let late = bench.lives[0].ring.now().since(until);
        assert!(bench.lives[0].ring.now() >= until && late < Nanos(1000), "{late:?}");
    }
}

fn a_past_deadline() {
    let mut bench = Bench::new(1);
    let spin = || {
        while let Some(Happening::Turn(_)) = { bench.world.borrow_mut().next() } {
            let bare = &mut bench.lives[0];
            bare.ring.turn(&mut bare.pool, Nanos(0), &mut Vec::new());
        }
    };
    assert!(panics(spin).contains("spins"));
}

fn a_stopped_life() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let write = bench.lives[0].write(file, 0, (1, 512));
    let life = bench.lives[0].life;
    bench.world.borrow_mut().set_stopped(life, true);
    bench.settle();
    assert_eq!(bench.live(0, 0, 1), [1], "the disk goes on");
    assert!(bench.lives[0].done.is_empty());
    bench.world.borrow_mut().set_stopped(life, false);
    assert_eq!(bench.end(0, write), Ok(512));
}
