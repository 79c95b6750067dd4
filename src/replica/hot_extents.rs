//! Owns which extents may be written without touching metadata: the activity log in memory.
//! Must never decide what is stable: it is told by whoever asks for a transaction.
//!
//! An extent that is to become hot waits for a transaction; the extents that make room for it stop
//! being hot when the transaction is built, so nothing can write to them while it is under way.

use crate::format::extent_log::{LogImage, LogTransaction, ring_blocks};
use crate::limits::{EXTENT_BLOCKS, LOG_UPDATES_MAX};
use crate::units::{Blocks, Sequence};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    /// In the transaction under way.
    Coming,
    Hot,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    extent: u32,
    state: State,
    users: u32,
    /// Newest write issued to the extent.
    last: Sequence,
    /// Used since the hand last passed.
    recent: bool,
}

const EMPTY: Entry =
    Entry { extent: 0, state: State::Empty, users: 0, last: Sequence(0), recent: false };

/// What a planned transaction lets go of.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Extents that stop being hot: their bitmap pages go first.
    pub(crate) cooled: Vec<u32>,
}

/// The log's slots. Replacement is by a clock hand: one bit of use per slot, constant time.
#[derive(Debug)]
pub(crate) struct HotExtents {
    entries: Vec<Entry>,
    places: BTreeMap<u32, u32>,
    hand: usize,
    under_way: bool,
    transaction: LogTransaction,
    next_transaction: u64,
    /// Empty transactions still owed to a log that could not be read.
    owed: u64,
}

/// The extents that blocks lie in.
pub(crate) fn extents_of(blocks: Blocks) -> std::ops::RangeInclusive<u32> {
    let extent =
        |block: u64| u32::try_from(block / EXTENT_BLOCKS).expect("2^32 extents are 16 EiB");
    extent(blocks.start)..=extent(blocks.end() - 1)
}

/// The blocks of an extent, cut at the end of the device.
pub(crate) fn blocks_of(extent: u32, device_blocks: u64) -> Blocks {
    let start = u64::from(extent) * EXTENT_BLOCKS;
    Blocks::new(start, EXTENT_BLOCKS.min(device_blocks.saturating_sub(start)))
}

impl HotExtents {
    /// The log as found on disk. An unreadable one starts empty in memory and must be begun anew;
    /// the caller marks all.
    pub(crate) fn new(image: &LogImage, capacity: u32) -> Self {
        let (slots, next_transaction): (&[Option<u32>], u64) = match image {
            LogImage::Hot { slots, next_transaction } => (slots, *next_transaction),
            LogImage::Unreadable { next_transaction } => (&[], *next_transaction),
        };
        let mut entries = vec![EMPTY; capacity as usize];
        let mut places = BTreeMap::new();
        for (entry, (place, extent)) in entries.iter_mut().zip((0..).zip(slots)) {
            if let Some(extent) = *extent {
                *entry = Entry { extent, state: State::Hot, ..EMPTY };
                places.insert(extent, place);
            }
        }
        let unreadable = matches!(image, LogImage::Unreadable { .. });
        Self {
            entries,
            places,
            hand: 0,
            under_way: unreadable,
            transaction: LogTransaction::default(),
            next_transaction,
            owed: if unreadable { ring_blocks(capacity) } else { 0 },
        }
    }

    /// Plans the next of the empty transactions that begin an unreadable log anew, once round the
    /// ring; false when none is owed. Until then nothing else is planned.
    pub(crate) fn renew(&mut self, window: impl FnOnce(u64) -> std::ops::Range<u32>) -> bool {
        if self.owed == 0 {
            return false;
        }
        self.owed -= 1;
        self.build(Vec::new(), window);
        true
    }

    /// Whether an unreadable log is being begun anew.
    pub(crate) const fn is_renewing(&self) -> bool {
        self.under_way && self.transaction.updates.is_empty()
    }

    /// The extents that are hot or about to be.
    pub(crate) fn hot(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().filter(|entry| entry.state != State::Empty).map(|entry| entry.extent)
    }

    /// Enters the extents of a write if all are hot, or none.
    pub(crate) fn enter(&mut self, blocks: Blocks) -> bool {
        let hot = |extent| {
            let place = self.places.get(&extent)?;
            (self.entries[*place as usize].state == State::Hot).then_some(*place as usize)
        };
        if !extents_of(blocks).all(|extent| hot(extent).is_some()) {
            return false;
        }
        for extent in extents_of(blocks) {
            let entry = &mut self.entries[self.places[&extent] as usize];
            entry.users += 1;
            entry.recent = true;
        }
        true
    }

    /// Notes that a write that has entered was issued as `sequence`.
    pub(crate) fn issued(&mut self, blocks: Blocks, sequence: Sequence) {
        for extent in extents_of(blocks) {
            let entry = &mut self.entries[self.places[&extent] as usize];
            entry.last = entry.last.max(sequence);
        }
    }

    /// The end of a write that has entered.
    pub(crate) fn leave(&mut self, blocks: Blocks) {
        for extent in extents_of(blocks) {
            self.entries[self.places[&extent] as usize].users -= 1;
        }
    }

    /// Whether a transaction is being written.
    pub(crate) const fn under_way(&self) -> bool {
        self.under_way
    }

    /// Plans a transaction that makes `wanted` hot, as many as fit, in that order, letting go of
    /// idle extents whose writes up to `coolable` are safe; never of those in `keep`, which whoever
    /// is first in the queue needs all at once. None if nothing can be done now.
    pub(crate) fn plan(
        &mut self,
        wanted: impl Iterator<Item = u32>,
        keep: impl Iterator<Item = u32>,
        coolable: Sequence,
        window: impl FnOnce(u64) -> std::ops::Range<u32>,
    ) -> Option<Plan> {
        debug_assert!(!self.under_way);
        let mut plan = Plan::default();
        let mut updates = Vec::new();
        let pinned: Vec<usize> = keep
            .filter_map(|extent| self.places.get(&extent))
            .map(|place| *place as usize)
            .collect();
        pinned.iter().for_each(|place| self.entries[*place].users += 1);
        for extent in wanted {
            if updates.len() == LOG_UPDATES_MAX {
                break;
            }
            if let Some(place) = self.places.get(&extent) {
                self.entries[*place as usize].recent = true;
                continue;
            }
            let Some(place) = self.make_room(coolable, &mut plan.cooled) else {
                break;
            };
            self.entries[place as usize] =
                Entry { extent, state: State::Coming, recent: true, ..EMPTY };
            self.places.insert(extent, place);
            updates.push((place, Some(extent)));
        }
        pinned.iter().for_each(|place| self.entries[*place].users -= 1);
        if updates.is_empty() {
            return None;
        }
        self.build(updates, window);
        Some(plan)
    }

    fn build(
        &mut self,
        updates: Vec<(u32, Option<u32>)>,
        window: impl FnOnce(u64) -> std::ops::Range<u32>,
    ) {
        let number = self.next_transaction;
        let range = window(number);
        let holds = |place: u32| {
            let entry = &self.entries[place as usize];
            (entry.state != State::Empty).then_some(entry.extent)
        };
        let window = range.clone().map(holds).collect();
        self.transaction = LogTransaction { number, updates, window_start: range.start, window };
        self.next_transaction += 1;
        self.under_way = true;
    }

    /// The transaction under way.
    pub(crate) const fn transaction(&self) -> &LogTransaction {
        &self.transaction
    }

    /// The transaction is stable: its extents are hot. Gives their number.
    pub(crate) fn commit(&mut self) -> u32 {
        for (place, _) in &self.transaction.updates {
            self.entries[*place as usize].state = State::Hot;
        }
        self.under_way = false;
        u32::try_from(self.transaction.updates.len()).expect("at most LOG_UPDATES_MAX")
    }

    /// An empty slot, or that of an idle, safe extent not used for a round of the hand.
    fn make_room(&mut self, coolable: Sequence, cooled: &mut Vec<u32>) -> Option<u32> {
        for _ in 0..2 * self.entries.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[place];
            let free = match entry.state {
                State::Empty => true,
                State::Coming => false,
                State::Hot if entry.users > 0 || entry.last > coolable => false,
                State::Hot if entry.recent => {
                    entry.recent = false;
                    false
                }
                State::Hot => {
                    cooled.push(entry.extent);
                    self.places.remove(&entry.extent);
                    true
                }
            };
            if free {
                self.entries[place] = EMPTY;
                return Some(u32::try_from(place).expect("a log has fewer than 2^32 slots"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: u32) -> HotExtents {
        HotExtents::new(&LogImage::Hot { slots: vec![], next_transaction: 1 }, capacity)
    }

    fn all(number: u64) -> std::ops::Range<u32> {
        let _ = number;
        0..2
    }

    #[test]
    fn a_write_enters_only_when_its_extents_are_on_disk() {
        let mut log = log(2);
        let blocks = Blocks::new(EXTENT_BLOCKS - 1, 2);
        assert!(!log.enter(blocks));
        assert!(log.plan([0, 1].into_iter(), std::iter::empty(), Sequence(0), all).is_some());
        assert!(!log.enter(blocks), "not yet stable");
        log.commit();
        assert!(log.enter(blocks));
    }

    #[test]
    fn only_idle_and_safe_extents_make_room() {
        let mut log = log(1);
        log.plan([0].into_iter(), std::iter::empty(), Sequence(0), |_| 0..1).expect("room");
        log.commit();
        assert!(log.enter(Blocks::new(0, 1)));
        log.issued(Blocks::new(0, 1), Sequence(7));
        assert!(
            log.plan([5].into_iter(), std::iter::empty(), Sequence(9), |_| 0..1).is_none(),
            "in use"
        );
        log.leave(Blocks::new(0, 1));
        assert!(
            log.plan([5].into_iter(), std::iter::empty(), Sequence(6), |_| 0..1).is_none(),
            "not safe"
        );
        let plan =
            log.plan([5].into_iter(), std::iter::empty(), Sequence(7), |_| 0..1).expect("room");
        assert_eq!(plan.cooled, [0]);
        assert!(!log.enter(Blocks::new(0, 1)), "no longer hot");
        assert_eq!(log.transaction().updates, [(0, Some(5))]);
        assert_eq!(log.transaction().window, [Some(5)]);
    }
}
