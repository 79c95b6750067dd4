//! Owns who may touch which blocks: overlapping exclusive use is granted in the order of asking.
//! Must never know why someone asks.

use crate::units::Blocks;
use std::collections::VecDeque;

/// How a range is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

#[derive(Clone, Copy, Debug)]
struct Claim<K> {
    key: K,
    blocks: Blocks,
    mode: Mode,
}

impl<K: Copy> Claim<K> {
    const fn conflicts(&self, other: &Self) -> bool {
        self.blocks.overlaps(other.blocks)
            && (matches!(self.mode, Mode::Exclusive) || matches!(other.mode, Mode::Exclusive))
    }
}

/// Granted and waiting claims. Both are short: as many as requests in flight.
#[derive(Debug)]
pub(crate) struct RangeLocks<K> {
    granted: Vec<Claim<K>>,
    waiting: VecDeque<Claim<K>>,
}

impl<K: Copy + PartialEq> RangeLocks<K> {
    pub(crate) const fn new() -> Self {
        Self { granted: Vec::new(), waiting: VecDeque::new() }
    }

    /// Asks for a range. False: it waits, behind every earlier claim it conflicts with.
    pub(crate) fn acquire(&mut self, key: K, blocks: Blocks, mode: Mode) -> bool {
        let claim = Claim { key, blocks, mode };
        let blocked = self.granted.iter().any(|held| held.conflicts(&claim))
            || self.waiting.iter().any(|earlier| earlier.conflicts(&claim));
        if blocked {
            self.waiting.push_back(claim);
        } else {
            self.granted.push(claim);
        }
        !blocked
    }

    /// Gives up a claim, granted or waiting; appends the keys that are granted by it.
    pub(crate) fn release(&mut self, key: K, woken: &mut Vec<K>) {
        if let Some(place) = self.granted.iter().position(|claim| claim.key == key) {
            self.granted.swap_remove(place);
        } else {
            self.waiting.retain(|claim| claim.key != key);
        }
        let mut index = 0;
        while index < self.waiting.len() {
            let claim = self.waiting[index];
            let earlier = self.waiting.iter().take(index).any(|other| other.conflicts(&claim));
            if earlier || self.granted.iter().any(|held| held.conflicts(&claim)) {
                index += 1;
                continue;
            }
            self.waiting.remove(index);
            self.granted.push(claim);
            woken.push(claim.key);
        }
    }

    /// Whether a claim, granted or waiting, overlaps the range and meets `wanted`.
    pub(crate) fn any(&self, blocks: Blocks, wanted: impl Fn(K) -> bool) -> bool {
        let mut claims = self.granted.iter().chain(&self.waiting);
        claims.any(|claim| claim.blocks.overlaps(blocks) && wanted(claim.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_claims_are_granted_in_order() {
        let mut locks = RangeLocks::new();
        let mut woken = Vec::new();
        assert!(locks.acquire(1, Blocks::new(0, 4), Mode::Exclusive));
        assert!(!locks.acquire(2, Blocks::new(2, 4), Mode::Exclusive));
        assert!(!locks.acquire(3, Blocks::new(5, 1), Mode::Shared), "behind 2");
        assert!(locks.acquire(4, Blocks::new(9, 1), Mode::Exclusive));
        locks.release(1, &mut woken);
        assert_eq!(woken, [2]);
        locks.release(2, &mut woken);
        assert_eq!(woken, [2, 3]);
    }

    #[test]
    fn readers_share() {
        let mut locks = RangeLocks::new();
        assert!(locks.acquire(1, Blocks::new(0, 4), Mode::Shared));
        assert!(locks.acquire(2, Blocks::new(0, 4), Mode::Shared));
        assert!(!locks.acquire(3, Blocks::new(3, 1), Mode::Exclusive));
        let mut woken = Vec::new();
        locks.release(1, &mut woken);
        assert!(woken.is_empty());
        locks.release(2, &mut woken);
        assert_eq!(woken, [3]);
    }

    #[test]
    fn a_waiting_claim_can_be_given_up() {
        let mut locks = RangeLocks::new();
        let mut woken = Vec::new();
        assert!(locks.acquire(1, Blocks::new(0, 1), Mode::Exclusive));
        assert!(!locks.acquire(2, Blocks::new(0, 1), Mode::Exclusive));
        assert!(!locks.acquire(3, Blocks::new(0, 1), Mode::Exclusive));
        locks.release(2, &mut woken);
        assert!(woken.is_empty());
        locks.release(1, &mut woken);
        assert_eq!(woken, [3]);
    }
}
