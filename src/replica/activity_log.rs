//! Owns the way into the activity log: who waits for an extent to become hot, which ones cool for it,
//! in which order that is recorded. Must never let a write go on before the record that names its
//! extents is stable, nor cool an extent whose writes are neither stable nor marked.

use super::Replica;
use super::hot_extents::extents_of;
use super::persist::PagesJob;
use crate::format::extent_log::window_for;
use crate::limits::{LOG_GATHER_MIN, LOG_GATHER_TIME, LOG_RELIEVED_SHARE, LOG_UPDATES_MAX};
use crate::plant::Plant;
use crate::units::{Blocks, Nanos, Sequence};

/// When a transaction has gathered enough of those who are about to wait for it. A client that keeps
/// many cold writes in flight sends a new one for each that ends: the log is written for half of them at a
/// time, while the data of the others is, or it would be written for a few at a time.
#[derive(Debug)]
pub(super) struct Gather {
    /// Most cold writes seen at a time, waiting or under way; one less with each transaction since.
    most: usize,
    /// When the first who waits has waited long enough.
    until: Nanos,
}

impl Default for Gather {
    fn default() -> Self {
        Self { most: 0, until: Nanos::NEVER }
    }
}

impl Gather {
    /// Whether a transaction should begin now, for `waiting` while `under_way` other cold writes are.
    fn is_enough(&mut self, now: Nanos, waiting: usize, under_way: usize) -> bool {
        let seen = waiting + under_way;
        self.most = self.most.max(seen);
        let enough = self.most.div_ceil(2).min(LOG_UPDATES_MAX);
        let mut kept = self.most.saturating_sub(1);
        if self.most >= LOG_GATHER_MIN && waiting < enough {
            if self.until == Nanos::NEVER {
                self.until = now + LOG_GATHER_TIME;
            }
            if now < self.until {
                return false;
            }
            // The others do not come.
            kept = 0;
        }
        *self = Self { most: seen.max(kept), until: Nanos::NEVER };
        true
    }
}

impl Replica {
    /// Waits until the extents of the piece are hot, in the order of asking.
    pub(super) fn enter_log(&mut self, key: usize) {
        let blocks = self.pieces[key].blocks;
        if !self.has_open_disk() {
            return self.issue(key);
        }
        if self.enter_if_hot(blocks) {
            self.pieces[key].entered = true;
            return self.issue(key);
        }
        self.log_waiting.push_back(super::LogWaiter::Piece(key));
        self.plan_log();
    }

    /// Whoever finds its extents hot does not queue, unless slots are short: then those who wait would
    /// wait for ever.
    pub(super) fn enter_if_hot(&mut self, blocks: Blocks) -> bool {
        let may_pass = self.log_waiting.is_empty() || !self.log_full;
        may_pass && self.log.enter(blocks)
    }

    /// Begins a log transaction for those who wait, if none is under way.
    pub(super) fn plan_log(&mut self) {
        if self.log.under_way() || self.log_waiting.is_empty() || !self.has_open_disk() {
            return;
        }
        // Whoever waits for slots to cool has waited long enough.
        let waiting = self.log_waiting.len();
        if !self.log_full && !self.gather.is_enough(self.now, waiting, self.were_cold) {
            return;
        }
        let coolable = self.coolable();
        let wanted: Vec<u32> = self
            .log_waiting
            .iter()
            .take(LOG_UPDATES_MAX)
            .flat_map(|waiter| extents_of(self.blocks_of_waiter(*waiter)))
            .collect();
        let first = self.log_waiting.front().map(|waiter| self.blocks_of_waiter(*waiter));
        let first = first.into_iter().flat_map(extents_of);
        let geometry = self.superblock.geometry;
        let window = |number| window_for(number, geometry.log_extents);
        match self.log.plan(wanted.into_iter(), first, coolable, window) {
            Some(_) if self.planted(Plant::NoLogPages) => self.write_log(),
            Some(plan) => {
                self.log_full = false;
                self.save_pages(PagesJob::Cooled(plan.cooled));
            }
            None => {
                self.log_full = true;
                self.relieve_log();
            }
        }
    }

    /// When those who wait have waited long enough for others.
    pub(super) fn log_due(&self) -> Nanos {
        let idle = self.log_waiting.is_empty() || self.log.under_way() || !self.has_open_disk();
        if idle { Nanos::NEVER } else { self.gather.until }
    }

    fn blocks_of_waiter(&self, waiter: super::LogWaiter) -> Blocks {
        match waiter {
            super::LogWaiter::Piece(key) => self.pieces[key].blocks,
            super::LogWaiter::Apply { peer, sequence } => self.apply_blocks(peer, sequence),
        }
    }

    /// Asks that all writes become safe everywhere, so that slots can cool.
    fn relieve_log(&mut self) {
        // Not over and over while nothing but a peer is waited for.
        if self.local.covered(self.sequence) > self.local.stable() {
            self.sync_here();
        }
        for peer in 0..self.peers.len() {
            self.ask_barrier(peer);
        }
    }

    pub(super) fn log_saved(&mut self) {
        self.taken_slots += self.log.commit();
        self.wake_log_waiters();
        // What is written now is stable everywhere before its slots are needed again.
        let due = self.taken_slots >= self.superblock.geometry.log_extents / LOG_RELIEVED_SHARE;
        if due && !self.planted(Plant::CoolUnstable) {
            self.taken_slots = 0;
            self.relieve_log();
        }
    }

    fn wake_log_waiters(&mut self) {
        while let Some(waiter) = self.log_waiting.front().copied() {
            if !self.log.enter(self.blocks_of_waiter(waiter)) {
                break;
            }
            self.log_waiting.pop_front();
            match waiter {
                super::LogWaiter::Piece(key) => {
                    self.pieces[key].entered = true;
                    // Not twice, if it was held and its disk replaced meanwhile.
                    if !std::mem::replace(&mut self.pieces[key].was_cold, true) {
                        self.were_cold += 1;
                    }
                    self.issue(key);
                }
                super::LogWaiter::Apply { peer, sequence } => self.apply_entered(peer, sequence),
            }
        }
        self.plan_log();
    }

    /// The log went with its disk: nobody is in it.
    pub(super) fn leave_log_of_lost_disk(&mut self) {
        self.pieces.iter_mut().for_each(|(_, piece)| piece.entered = false);
        self.peers.iter_mut().for_each(|peer| peer.incoming.forget_log());
    }

    /// Writes up to this one are stable here and, for each peer, stable there or marked: extents that
    /// hold no later one may cool.
    pub(super) fn coolable(&self) -> Sequence {
        if self.planted(Plant::CoolUnstable) {
            return self.sequence;
        }
        let here = self.local.stable();
        // While this node is ahead, what the peer was sent before is marked already.
        let peers = self.peers.iter().filter(|peer| !peer.is_ahead());
        let peers = peers.map(super::peer::Peer::coolable);
        peers.fold(here, Sequence::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(5_000);

    #[test]
    fn half_of_many_are_gathered() {
        let mut gather = Gather::default();
        assert!(!gather.is_enough(NOW, 15, 17));
        assert!(!gather.is_enough(NOW, 15, 0), "those that ended are about to come again");
        assert!(gather.is_enough(NOW, 16, 0));
        assert!(!gather.is_enough(NOW, 15, 0), "31 is what is still counted on");
        assert!(gather.is_enough(NOW, 16, 0));
    }

    #[test]
    fn few_do_not_wait_for_each_other() {
        let mut gather = Gather::default();
        assert!(gather.is_enough(NOW, 1, LOG_GATHER_MIN - 2));
    }

    #[test]
    fn a_full_transaction_does_not_wait() {
        let mut gather = Gather::default();
        assert!(gather.is_enough(NOW, LOG_UPDATES_MAX, 10 * LOG_UPDATES_MAX));
    }

    #[test]
    fn nobody_waits_for_those_who_do_not_come() {
        let mut gather = Gather::default();
        assert!(!gather.is_enough(NOW, 1, 40));
        assert!(!gather.is_enough(NOW + Nanos(LOG_GATHER_TIME.0 - 1), 1, 0));
        assert!(gather.is_enough(NOW + LOG_GATHER_TIME, 1, 0));
        assert!(gather.is_enough(NOW + LOG_GATHER_TIME, 1, 0), "and that is learned");
    }
}
