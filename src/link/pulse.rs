//! Owns the heartbeat of one session: when to send one, and whether the peer lives and hears us.
//! Must never read a clock or touch a socket.

use std::collections::VecDeque;

use super::options::Timing;
use crate::format::frame::Frame;
use crate::units::Nanos;

/// Sent heartbeats remembered at most; older ones are overdue anyway.
const REMEMBERED: usize = 64;

/// The heartbeat of one session.
#[derive(Debug)]
pub(super) struct Pulse {
    timing: Timing,
    next_at: Nanos,
    heard_at: Nanos,
    /// Newest number sent and newest heard.
    sent: u64,
    heard: u64,
    /// Sent and not echoed yet: number and when.
    unechoed: VecDeque<(u64, Nanos)>,
}

impl Pulse {
    /// The heartbeat of a session that begins now; the first one is due at once.
    pub(super) fn new(now: Nanos, timing: Timing) -> Self {
        let unechoed = VecDeque::with_capacity(REMEMBERED);
        Self { timing, next_at: now, heard_at: now, sent: 0, heard: 0, unechoed }
    }

    /// Something came from the peer.
    pub(super) fn on_heard(&mut self, now: Nanos) {
        self.heard_at = now;
    }

    /// A heartbeat came. Says what is wrong with it, if anything.
    pub(super) fn on_ping(&mut self, number: u64, echo: u64) -> Result<(), &'static str> {
        if number <= self.heard {
            return Err("a heartbeat whose number does not grow");
        }
        if echo > self.sent {
            return Err("an echo of a heartbeat that was never sent");
        }
        self.heard = number;
        while self.unechoed.front().is_some_and(|(sent, _)| *sent <= echo) {
            self.unechoed.pop_front();
        }
        Ok(())
    }

    /// The next heartbeat, if it is due.
    pub(super) fn poll_ping(&mut self, now: Nanos) -> Option<Frame> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + self.timing.heartbeat;
        self.sent += 1;
        if self.unechoed.len() < REMEMBERED {
            self.unechoed.push_back((self.sent, now));
        }
        Some(Frame::Ping { number: self.sent, echo: self.heard })
    }

    /// Why the peer counts as dead, if it does.
    pub(super) fn verdict(&self, now: Nanos) -> Option<&'static str> {
        if now >= self.dead_at() {
            return Some("nothing was heard from it within the peer timeout");
        }
        if now >= self.deaf_at() {
            return Some("it does not hear this node: heartbeats came back unanswered");
        }
        None
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Nanos {
        self.next_at.min(self.dead_at()).min(self.deaf_at())
    }

    fn dead_at(&self) -> Nanos {
        self.heard_at + self.timing.peer_timeout
    }

    fn deaf_at(&self) -> Nanos {
        let oldest = self.unechoed.front();
        oldest.map_or(Nanos::NEVER, |(_, sent_at)| *sent_at + self.timing.peer_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos::from_millis(seconds * 1000)
    }

    #[test]
    fn a_silent_peer_dies_after_its_timeout() {
        let mut pulse = Pulse::new(at(0), Timing::default());
        assert!(pulse.poll_ping(at(0)).is_some());
        assert!(pulse.poll_ping(at(0)).is_none());
        assert_eq!(pulse.verdict(at(5)), None);
        assert!(pulse.verdict(at(6)).is_some());
    }

    #[test]
    fn a_peer_that_talks_but_does_not_hear_dies_too() {
        let mut pulse = Pulse::new(at(0), Timing::default());
        for second in 0..6 {
            assert!(pulse.poll_ping(at(second)).is_some());
            pulse.on_heard(at(second));
            assert_eq!(pulse.on_ping(second + 1, 0), Ok(()));
            assert_eq!(pulse.verdict(at(second)), None);
        }
        pulse.on_heard(at(6));
        assert!(pulse.verdict(at(6)).is_some_and(|why| why.contains("does not hear")));
        assert_eq!(pulse.deadline(), at(6));
    }

    #[test]
    fn echoes_keep_it_alive() {
        let mut pulse = Pulse::new(at(0), Timing::default());
        for second in 0..100 {
            let Some(Frame::Ping { number, .. }) = pulse.poll_ping(at(second)) else {
                panic!("a heartbeat is due every second")
            };
            pulse.on_heard(at(second));
            assert_eq!(pulse.on_ping(number, number.saturating_sub(2)), Ok(()));
            assert_eq!(pulse.verdict(at(second)), None);
        }
    }

    #[test]
    fn impossible_heartbeats_are_refused() {
        let mut pulse = Pulse::new(at(0), Timing::default());
        assert!(pulse.on_ping(1, 1).is_err());
        assert_eq!(pulse.on_ping(1, 0), Ok(()));
        assert!(pulse.on_ping(1, 0).is_err());
    }
}
