//! Owns how fast a resync goes: as fast as possible while clients wait about as long as before.
//! Must never stop it: one piece is always in flight, and the floor is kept.
//!
//! Every tick compares how long client requests took since the last one with how long they took
//! undisturbed. Longer by half: the window shrinks by a quarter; otherwise it grows by one eighth.

use super::options::ResyncOptions;
use crate::limits::{RESYNC_TICK, RESYNC_WINDOW_MAX, RESYNC_WINDOW_MIN};
use crate::units::Nanos;

/// Client latency below which nobody can tell a difference.
const UNNOTICED: u64 = 500_000;

/// The window and rate of resync, and what client requests take.
#[derive(Debug)]
pub(super) struct Pacer {
    options: ResyncOptions,
    window: usize,
    next_tick: Nanos,
    /// Mean of client latency while no resync ran, in nanoseconds; 0: unknown.
    calm: u64,
    tick_sum: u64,
    tick_count: u64,
    tick_bytes: u64,
    /// Bytes that may still be sent in this tick under the cap; below zero, what earlier ticks sent
    /// too much, since a piece may be larger than a tick's share.
    allowance: i64,
}

impl Pacer {
    pub(super) fn new(options: ResyncOptions) -> Self {
        Self {
            options,
            window: RESYNC_WINDOW_MIN * 8,
            next_tick: Nanos(0),
            calm: 0,
            tick_sum: 0,
            tick_count: 0,
            tick_bytes: 0,
            allowance: signed(per_tick(options.rate_max_bytes)),
        }
    }

    /// Pieces that may be in flight.
    pub(super) const fn window(&self) -> usize {
        self.window
    }

    /// Whether the cap allows another piece now.
    pub(super) const fn may_send(&self, _now: Nanos) -> bool {
        self.allowance > 0
    }

    /// A piece goes.
    pub(super) fn sent(&mut self, _now: Nanos, bytes: u64) {
        self.tick_bytes += bytes;
        self.allowance = self.allowance.saturating_sub(signed(bytes));
    }

    /// A client's request took so long.
    pub(super) const fn on_client(&mut self, _now: Nanos, took: Nanos) {
        self.tick_sum = self.tick_sum.saturating_add(took.0);
        self.tick_count += 1;
    }

    pub(super) const fn next_tick(&self) -> Nanos {
        self.next_tick
    }

    /// Once per tick; `running`: a resync from here is under way.
    pub(super) fn tick(&mut self, now: Nanos, running: bool) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + RESYNC_TICK;
        let mean = self.tick_sum.checked_div(self.tick_count);
        if running {
            self.adjust(mean);
        } else if let Some(mean) = mean {
            // An exponential mean over about two seconds of activity.
            self.calm = if self.calm == 0 { mean } else { (self.calm * 15 + mean) / 16 };
        }
        let cap = signed(per_tick(self.options.rate_max_bytes));
        self.allowance = self.allowance.saturating_add(cap).min(cap);
        (self.tick_sum, self.tick_count, self.tick_bytes) = (0, 0, 0);
    }

    fn adjust(&mut self, mean: Option<u64>) {
        let Some(mean) = mean else {
            self.window = (self.window * 2).min(RESYNC_WINDOW_MAX);
            return;
        };
        if self.calm == 0 {
            self.calm = mean;
        }
        let disturbed = mean > self.calm + self.calm / 2 && mean > UNNOTICED;
        let slow = self.tick_bytes < per_tick(self.options.rate_min_bytes);
        if disturbed && !slow {
            self.window = (self.window - self.window.div_ceil(4)).max(RESYNC_WINDOW_MIN);
        } else {
            self.window = (self.window + self.window.div_ceil(8)).min(RESYNC_WINDOW_MAX);
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A rate per second as bytes per tick, at least one piece in a while.
const fn per_tick(rate: u64) -> u64 {
    let ticks = 1_000_000_000 / RESYNC_TICK.0;
    let share = rate / ticks;
    if share == 0 { 1 } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer() -> Pacer {
        let options =
            ResyncOptions { rate_max_bytes: u64::MAX, rate_min_bytes: 1 << 20, checksum: false };
        Pacer::new(options)
    }

    fn run(pacer: &mut Pacer, tick: u64, running: bool, took: u64) {
        pacer.on_client(Nanos(0), Nanos(took));
        pacer.sent(Nanos(0), 64 << 20);
        pacer.tick(Nanos(tick * RESYNC_TICK.0 * 2), running);
    }

    #[test]
    fn the_window_shrinks_when_clients_suffer_and_grows_when_they_do_not() {
        let mut pacer = pacer();
        (1..20).for_each(|tick| run(&mut pacer, tick, false, 1_000_000));
        (20..60).for_each(|tick| run(&mut pacer, tick, true, 1_100_000));
        assert_eq!(pacer.window(), RESYNC_WINDOW_MAX);
        (60..100).for_each(|tick| run(&mut pacer, tick, true, 9_000_000));
        assert_eq!(pacer.window(), RESYNC_WINDOW_MIN);
    }

    #[test]
    fn the_cap_holds_per_tick() {
        let options =
            ResyncOptions { rate_max_bytes: 10 << 20, rate_min_bytes: 0, checksum: false };
        let mut pacer = Pacer::new(options);
        pacer.sent(Nanos(0), 1 << 20);
        assert!(!pacer.may_send(Nanos(0)));
        pacer.tick(RESYNC_TICK, true);
        assert!(pacer.may_send(RESYNC_TICK));
    }

    #[test]
    fn a_cap_below_a_piece_per_tick_holds_over_time() {
        let rate_max_bytes = 1 << 20;
        let mut pacer =
            Pacer::new(ResyncOptions { rate_max_bytes, rate_min_bytes: 0, checksum: false });
        let (mut now, mut sent) = (Nanos(0), 0);
        while now < Nanos::from_millis(60_000) {
            while pacer.may_send(now) {
                pacer.sent(now, 256 << 10);
                sent += 256 << 10;
            }
            now = now + RESYNC_TICK;
            pacer.tick(now, true);
        }
        assert!((55..=61).contains(&(sent / rate_max_bytes)), "{sent} bytes in a minute");
    }
}
