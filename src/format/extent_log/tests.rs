//! A log under crashes and rot: what was hot must never be forgotten.

use proptest::prelude::*;

use super::*;
use crate::format::RECORD_BYTES;
use crate::limits::{LOG_EXTENTS_MAX, LOG_EXTENTS_MIN, LOG_UPDATES_MAX, SERIAL_MAX};

type Block = [u8; RECORD_BYTES];
type Slots = Vec<Option<u32>>;

fn identity(log_extents: u32) -> LogIdentity {
    let geometry = Geometry { device_blocks: 1 << 32, peer_slots: 2, log_extents };
    LogIdentity { area: AreaId(0xA5EA), geometry }
}

/// A log as a core would keep it, and its ring as a disk would.
#[derive(Clone)]
struct Log {
    identity: LogIdentity,
    slots: Slots,
    next: u64,
    ring: Vec<Block>,
}

impl Log {
    fn new(log_extents: u32) -> Self {
        let identity = identity(log_extents);
        let ring = fresh_ring(identity, 1);
        let next = 1 + ring.len() as u64;
        Self { identity, slots: vec![None; log_extents as usize], next, ring }
    }

    fn place(&self, number: u64) -> usize {
        place(number, self.ring.len() as u64)
    }

    /// The block of the next transaction, which gives these slots fresh extents.
    fn prepare(&mut self, slots: &[u32], salt: u32) -> Block {
        let number = self.next;
        let mut updates = Vec::new();
        for slot in slots {
            let extent = u32::try_from(number).unwrap() * 128 + slot % 64 + salt;
            let held = self.slots.contains(&Some(extent));
            self.slots[*slot as usize] = (!held).then_some(extent);
            updates.push((*slot, self.slots[*slot as usize]));
        }
        let window = window_for(number, self.identity.geometry.log_extents);
        self.next += 1;
        let transaction = LogTransaction {
            number,
            updates,
            window_start: window.start,
            window: self.slots[window.start as usize..window.end as usize].to_vec(),
        };
        encode(self.identity, &transaction)
    }

    fn write(&mut self, slots: &[u32]) {
        let place = self.place(self.next);
        self.ring[place] = self.prepare(slots, 0);
    }

    /// A log after `count` transactions that reach every slot.
    fn busy(log_extents: u32, count: u32) -> Self {
        let mut log = Self::new(log_extents);
        for round in 0..count {
            let slots: Vec<u32> = (0..7).map(|i| (round * 211 + i * 131) % log_extents).collect();
            log.write(&slots);
        }
        log
    }

    fn recover(&self) -> LogImage {
        recover_ring(self.identity, &self.ring)
    }

    fn image(&self) -> LogImage {
        LogImage::Hot { slots: self.slots.clone(), next_transaction: self.next }
    }

    fn newest_place(&self) -> usize {
        self.place(self.next - 1)
    }
}

fn recover_ring(identity: LogIdentity, ring: &[Block]) -> LogImage {
    let blocks: Vec<_> = ring.iter().map(|block| decode(identity, block)).collect();
    recover(&blocks, identity.geometry.log_extents)
}

/// Takes the sectors of `mask` from `new`, the others from `old`.
fn mixed(old: &Block, new: &Block, mask: u32) -> Block {
    let mut block = *old;
    for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
        block[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
    }
    block
}

fn is_unreadable(image: &LogImage) -> bool {
    matches!(image, LogImage::Unreadable { .. })
}

#[test]
fn windows_show_every_slot() {
    for log_extents in [LOG_EXTENTS_MIN, 852, 853, 1237, 1704, 1705, LOG_EXTENTS_MAX] {
        let needed = ring_blocks(log_extents) - 1;
        for first in [1, 2, 1000] {
            let mut shown = vec![false; log_extents as usize];
            for number in first..first + needed {
                for slot in window_for(number, log_extents) {
                    shown[slot as usize] = true;
                }
            }
            assert!(shown.iter().all(|shown| *shown), "{log_extents} from {first}");
        }
    }
    assert_eq!(ring_blocks(LOG_EXTENTS_MIN), 2);
    assert_eq!(ring_blocks(1237), 3);
    assert_eq!(ring_blocks(LOG_EXTENTS_MAX), 21);
}

#[test]
fn a_fresh_log_is_empty() {
    for log_extents in [LOG_EXTENTS_MIN, 852, 853, 1237, LOG_EXTENTS_MAX] {
        for first in [1, 2, 3, 100, 12_345] {
            let ring = fresh_ring(identity(log_extents), first);
            let slots = vec![None; log_extents as usize];
            let next_transaction = first + ring_blocks(log_extents);
            let image = recover_ring(identity(log_extents), &ring);
            assert_eq!(image, LogImage::Hot { slots, next_transaction });
        }
    }
}

/// Numbers that no log comes to, and that leave no room for the next.
#[test]
fn a_number_out_of_bounds_is_not_believed() {
    for log_extents in [LOG_EXTENTS_MIN, 1237] {
        let log = identity(log_extents);
        let last = |first: u64| first + ring_blocks(log_extents) - 1;
        let first = SERIAL_MAX - ring_blocks(log_extents);
        assert!(!is_unreadable(&recover_ring(log, &fresh_ring(log, first))), "{}", last(first));
        for first in [first + 1, u64::MAX - 1000] {
            assert!(is_unreadable(&recover_ring(log, &fresh_ring(log, first))), "{}", last(first));
        }
    }
}

#[test]
fn what_was_written_is_recovered() {
    for log_extents in [LOG_EXTENTS_MIN, 900, 1237, 5000] {
        let mut log = Log::new(log_extents);
        for round in 0..60 {
            let slots: Vec<u32> =
                (0..round % 64).map(|i| (round * 97 + i * 13) % log_extents).collect();
            log.write(&slots);
            assert_eq!(log.recover(), log.image(), "{log_extents} slots, round {round}");
        }
    }
}

/// Whichever sectors of the newest transaction reached the disk: the state before, or after.
#[test]
fn a_torn_transaction_never_happened() {
    for log_extents in [100, 1237] {
        let before = Log::busy(log_extents, 50);
        let mut after = before.clone();
        let block = after.prepare(&[1, 5, 9], 0);
        let place = before.place(before.next);
        for mask in 0..256 {
            let mut log = before.clone();
            log.ring[place] = mixed(&before.ring[place], &block, mask);
            let expected = if mask == 255 { after.image() } else { before.image() };
            assert_eq!(log.recover(), expected, "mask {mask:#b}");
        }
    }
}

/// After a torn transaction its number is used again; that one may be torn too, over any mixture.
#[test]
fn a_transaction_torn_twice_never_happened() {
    let before = Log::busy(1237, 50);
    let place = before.place(before.next);
    let first = before.clone().prepare(&[1, 2, 3], 1);
    let mut after = before.clone();
    let second = after.prepare(&[1, 4], 2);
    for left in 0..255 {
        let torn = mixed(&before.ring[place], &first, left);
        for mask in 0..256 {
            let mut log = before.clone();
            log.ring[place] = mixed(&torn, &second, mask);
            let expected = if mask == 255 { after.image() } else { before.image() };
            assert_eq!(log.recover(), expected, "{left:#b} then {mask:#b}");
        }
    }
}

/// A disk that breaks its promise and tears inside a sector: safe, if perhaps unreadable.
#[test]
fn a_transaction_torn_at_any_byte_is_never_half_believed() {
    let before = Log::busy(1237, 50);
    let mut after = before.clone();
    let block = after.prepare(&[1, 5, 9], 0);
    let place = before.place(before.next);
    for cut in 0..RECORD_BYTES {
        let mut log = before.clone();
        log.ring[place][..cut].copy_from_slice(&block[..cut]);
        let image = log.recover();
        // An intact sector of the transaction before remains, unless the cut is in the last one.
        if cut <= 7 * 512 {
            assert_eq!(image, before.image(), "cut at {cut}");
        } else {
            let whole = log.ring[place] == block;
            assert!(is_unreadable(&image) || whole && image == after.image(), "cut at {cut}");
        }
    }
}

/// The one thing that must not happen: a finished transaction that rots is not taken for a torn
/// one, or what it made hot would count as clean.
#[test]
fn rot_of_a_needed_block_makes_the_log_unreadable() {
    let log = Log::busy(1237, 50);
    let spare = log.place(log.next);
    for place in (0..log.ring.len()).filter(|place| *place != spare) {
        for at in 0..RECORD_BYTES {
            let mut rotten = log.clone();
            rotten.ring[place][at] ^= 1 << (at % 8);
            assert!(is_unreadable(&rotten.recover()), "place {place}, byte {at}");
        }
        for gone in [[0; RECORD_BYTES], [0xFF; RECORD_BYTES]] {
            let mut rotten = log.clone();
            rotten.ring[place] = gone;
            assert!(is_unreadable(&rotten.recover()));
        }
    }
}

/// Seven of eight sectors gone and the eighth says that the transaction ended or not.
#[test]
fn one_intact_sector_tells_rot_from_a_cut() {
    let before = Log::busy(1237, 50);
    let mut after = before.clone();
    let block = after.prepare(&[1, 5, 9], 0);
    let place = before.place(before.next);
    for kept in 0..8 {
        let gone = [0x5A; RECORD_BYTES];
        let mut log = before.clone();
        log.ring[place] = mixed(&gone, &before.ring[place], 1 << kept);
        assert_eq!(log.recover(), before.image(), "old sector {kept}");
        log.ring[place] = mixed(&gone, &block, 1 << kept);
        assert!(is_unreadable(&log.recover()), "new sector {kept}");
    }
}

#[test]
fn a_block_that_cannot_be_read_may_be_the_newest() {
    let log = Log::busy(1237, 50);
    for place in 0..log.ring.len() {
        let read = |(at, block): (usize, &Block)| {
            if at == place { Err(LogBlockError::Unreadable) } else { decode(log.identity, block) }
        };
        let blocks: Vec<_> = log.ring.iter().enumerate().map(read).collect();
        assert!(is_unreadable(&recover(&blocks, 1237)), "place {place}");
    }
}

#[test]
fn blocks_of_elsewhere_or_elsewhen_are_not_believed() {
    let log = Log::busy(1237, 50);
    let other = LogIdentity { area: AreaId(1), ..log.identity };
    let foreign = fresh_ring(other, log.next);
    assert_eq!(decode(log.identity, &foreign[0]), Err(LogBlockError::NotOurs));
    for (place, stranger) in foreign.iter().enumerate() {
        let mut mixture = log.clone();
        mixture.ring[place] = *stranger;
        assert!(is_unreadable(&mixture.recover()));
        // A block one place too far, and one that missed two rounds.
        mixture.ring[place] = log.ring[(place + 1) % log.ring.len()];
        assert!(is_unreadable(&mixture.recover()));
        mixture.ring[place] = Log::busy(1237, 44).ring[place];
        assert!(is_unreadable(&mixture.recover()), "place {place}");
    }
    assert!(is_unreadable(&recover_ring(log.identity, &log.ring[1..])));
    assert!(is_unreadable(&recover_ring(log.identity, &[])));
}

/// What no format can see: a disk that lies about a whole write. The tests that inject such faults
/// must find them by their consequences.
#[test]
fn a_lost_write_looks_like_one_that_never_began() {
    let before = Log::busy(1237, 50);
    let mut after = before.clone();
    after.write(&[1, 5, 9]);
    after.ring[before.place(before.next)] = before.ring[before.place(before.next)];
    assert_eq!(after.recover(), before.image());
}

#[test]
fn the_next_number_is_above_any_found() {
    let log = Log::busy(1237, 50);
    let mut rotten = log.clone();
    rotten.ring[log.newest_place()][700] ^= 1;
    assert_eq!(rotten.recover(), LogImage::Unreadable { next_transaction: log.next });
    assert_eq!(
        recover_ring(log.identity, &[[0; RECORD_BYTES]; 3]),
        LogImage::Unreadable { next_transaction: 1 }
    );
}

#[test]
fn an_extent_in_two_slots_is_a_contradiction() {
    let mut log = Log::new(20);
    log.slots[3] = Some(9);
    log.slots[4] = Some(9);
    log.write(&[]);
    assert!(is_unreadable(&log.recover()));
}

#[test]
fn every_flipped_bit_is_detected() {
    let log = Log::busy(1237, 50);
    let block = log.ring[log.newest_place()];
    for bit in 0..RECORD_BYTES * 8 {
        let mut flipped = block;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = decode(log.identity, &flipped).unwrap_err();
        assert!(matches!(error, LogBlockError::Damaged { mixed: false, .. }), "bit {bit}: {error}");
    }
}

fn transaction(log_extents: u32) -> impl Strategy<Value = LogTransaction> {
    let extent = || prop::option::of(0..4_000_000u32);
    let updates = prop::collection::vec((0..log_extents, extent()), 0..=LOG_UPDATES_MAX);
    let longest = (log_extents as usize).min(WINDOW_ENTRIES);
    let window = prop::collection::vec(extent(), 0..=longest);
    (any::<u64>(), updates, any::<u32>(), window).prop_map(
        move |(number, updates, start, window)| {
            let room = log_extents - u32::try_from(window.len()).unwrap();
            LogTransaction { number, updates, window_start: start % (room + 1), window }
        },
    )
}

proptest! {
    #[test]
    fn transactions_come_back(transaction in transaction(1237)) {
        let log = identity(1237);
        prop_assert_eq!(decode(log, &encode(log, &transaction)), Ok(transaction));
    }

    #[test]
    fn garbage_is_refused(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..5),
    ) {
        let log = identity(1237);
        let read: Vec<_> = blocks.iter().map(|block| decode(log, block)).collect();
        prop_assert!(read.iter().all(Result::is_err));
        prop_assert!(is_unreadable(&recover(&read, 1237)));
    }

    /// Whatever the blocks say, `recover` answers, with no more slots than the log has.
    #[test]
    fn any_transactions_can_be_recovered(
        blocks in prop::collection::vec(transaction(1237), 3),
        numbers in prop::collection::vec(0..6u64, 3),
    ) {
        let numbered = |(mut block, number): (LogTransaction, u64)| {
            block.number = if number == 5 { u64::MAX } else { number };
            Ok(block)
        };
        let blocks: Vec<_> = blocks.into_iter().zip(numbers).map(numbered).collect();
        if let LogImage::Hot { slots, .. } = recover(&blocks, 1237) {
            prop_assert_eq!(slots.len(), 1237);
        }
    }
}
