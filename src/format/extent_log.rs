//! Owns the activity log as values, the bytes of its blocks, and what a ring of them tells after a
//! crash. Must never decide which extents are hot.
//!
//! A log of `n` extents has `n` log slots, each empty or holding one hot extent. Transaction
//! `number` is one block at place `number % ring_blocks` of the ring. It says which slots change,
//! and shows a *window*: what a part of all slots holds afterwards. The windows of any
//! `ring_blocks - 1` transactions that follow each other show every slot, so these are enough to
//! know the log, and the one block that is being overwritten is never needed.
//!
//! A transaction is written only after the one before it is stable, and nothing depends on it
//! before it is stable itself. So a crash can cut short only the newest one, and then the state
//! before it stands. That it was cut short must be *shown*: each 512-byte sector is sealed by
//! itself, and a sector that is intact and older proves that the write never ended. Damage that
//! shows no such proof may be a finished transaction that rotted, and the log is unreadable.

use std::ops::Range;

use super::superblock::{Geometry, Superblock};
use crate::limits::SERIAL_MAX;
use crate::units::AreaId;

pub use super::extent_log_codec::{LogBlockError, WINDOW_ENTRIES, decode, encode};

/// One log write: which log slots change, and a window of what the others hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTransaction {
    /// Its number; the place in the ring is this modulo the ring's length.
    pub number: u64,
    /// Log slot and the extent it now holds (`None`: empty). At most
    /// [`LOG_UPDATES_MAX`](crate::limits::LOG_UPDATES_MAX).
    pub updates: Vec<(u32, Option<u32>)>,
    /// First log slot of the window.
    pub window_start: u32,
    /// What the slots of the window hold after the updates. At most [`WINDOW_ENTRIES`]; the slots
    /// to show are those of [`window_for`].
    pub window: Vec<Option<u32>>,
}

/// The hot extents found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogImage {
    /// These were hot. `next_transaction` numbers the next log write.
    Hot {
        /// Extent in each log slot.
        slots: Vec<Option<u32>>,
        /// Number of the next transaction.
        next_transaction: u64,
    },
    /// The log cannot be trusted: every extent counts as hot.
    Unreadable {
        /// Number of the next transaction: above any found.
        next_transaction: u64,
    },
}

/// The log that a block must belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The metadata area.
    pub area: AreaId,
    /// Its layout, which bounds log slots and extents.
    pub geometry: Geometry,
}

impl LogIdentity {
    /// The log of this disk.
    #[must_use]
    pub const fn of(superblock: &Superblock) -> Self {
        Self { area: superblock.area, geometry: superblock.geometry }
    }
}

/// Windows that show all slots of a log of `log_extents`.
const fn windows(log_extents: u32) -> u64 {
    (log_extents as u64).div_ceil(WINDOW_ENTRIES as u64)
}

/// Blocks in the ring of a log of `log_extents`: those needed, and the one being overwritten.
#[must_use]
pub const fn ring_blocks(log_extents: u32) -> u64 {
    windows(log_extents) + 1
}

/// The log slots that the window of transaction `number` shows. Any `ring_blocks - 1`
/// transactions that follow each other show all slots.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the start lies below log_extents")]
pub const fn window_for(number: u64, log_extents: u32) -> Range<u32> {
    let start = (number % windows(log_extents)) as u32 * WINDOW_ENTRIES as u32;
    let end = start + WINDOW_ENTRIES as u32;
    start..if end < log_extents { end } else { log_extents }
}

/// The blocks of a log without hot extents, in ring order: transactions `first` and following, one
/// for each place. `create` begins at 1, `meta restore` at what the dump says comes next. The number
/// after these is `first + ring_blocks`.
#[must_use]
pub fn fresh_ring(log: LogIdentity, first: u64) -> Vec<[u8; super::RECORD_BYTES]> {
    let log_extents = log.geometry.log_extents;
    let ring = ring_blocks(log_extents);
    let block = |place: u64| {
        let number = first + (place + ring - first % ring) % ring;
        let window = window_for(number, log_extents);
        let transaction = LogTransaction {
            number,
            updates: Vec::new(),
            window_start: window.start,
            window: vec![None; window.len()],
        };
        encode(log, &transaction)
    };
    (0..ring).map(block).collect()
}

/// What the blocks of a ring, in ring order, say about a log of `log_extents`.
///
/// The newest `ring_blocks - 1` transactions must be there, valid, and show every slot. The place
/// of the one after them must hold the one before them, or show that it was cut short. Anything
/// else, a read error included, is [`LogImage::Unreadable`].
#[must_use]
pub fn recover(blocks: &[Result<LogTransaction, LogBlockError>], log_extents: u32) -> LogImage {
    let next_transaction = blocks.iter().filter_map(newest_number).max().map_or(1, |n| n + 1);
    match newest_run(blocks, log_extents) {
        Some((slots, next_transaction)) => LogImage::Hot { slots, next_transaction },
        None => LogImage::Unreadable { next_transaction },
    }
}

/// The newest transaction number that a block gives away. Numbers that leave no room for more are
/// not believed.
fn newest_number(block: &Result<LogTransaction, LogBlockError>) -> Option<u64> {
    let number = match block {
        Ok(transaction) => transaction.number,
        Err(LogBlockError::Damaged { newest, .. }) => *newest,
        Err(_) => return None,
    };
    (number < SERIAL_MAX).then_some(number)
}

/// The slots and the number of the next transaction, if the ring can be trusted.
fn newest_run(
    blocks: &[Result<LogTransaction, LogBlockError>],
    log_extents: u32,
) -> Option<(Vec<Option<u32>>, u64)> {
    let ring = blocks.len() as u64;
    if ring != ring_blocks(log_extents) {
        return None;
    }
    let valid = blocks.iter().filter_map(|block| block.as_ref().ok());
    let newest = valid.map(|transaction| transaction.number).max()?;
    let next = (newest < SERIAL_MAX).then(|| newest + 1)?;
    let oldest = next.checked_sub(ring - 1)?;
    if !spare_is_harmless(&blocks[place(next, ring)], next, ring) {
        return None;
    }
    let mut slots = vec![None; log_extents as usize];
    for number in oldest..next {
        let transaction = blocks[place(number, ring)].as_ref().ok()?;
        (transaction.number == number).then_some(())?;
        transaction.replay(&mut slots)?;
    }
    // Every slot must have been shown: `None` is "not shown", `Some(None)` is "empty".
    let slots = slots.into_iter().collect::<Option<Vec<Option<u32>>>>()?;
    holds_each_once(&slots).then_some((slots, next))
}

/// The place of a transaction in a ring.
#[expect(clippy::cast_possible_truncation, reason = "the ring is a slice: its length fits")]
const fn place(number: u64, ring: u64) -> usize {
    (number % ring) as usize
}

/// Whether transaction `next`, whose place this is, surely never ended.
fn spare_is_harmless(block: &Result<LogTransaction, LogBlockError>, next: u64, ring: u64) -> bool {
    match block {
        Ok(before) => before.number.checked_add(ring) == Some(next),
        Err(LogBlockError::Damaged { oldest, newest, mixed }) => {
            (*oldest < next || *mixed) && *newest <= next
        }
        Err(_) => false,
    }
}

fn holds_each_once(slots: &[Option<u32>]) -> bool {
    let mut hot: Vec<u32> = slots.iter().copied().flatten().collect();
    hot.sort_unstable();
    hot.windows(2).all(|pair| pair[0] != pair[1])
}

impl LogTransaction {
    /// Writes what this transaction says into `slots`; none if it names a slot beyond them.
    fn replay(&self, slots: &mut [Option<Option<u32>>]) -> Option<()> {
        for (slot, extent) in &self.updates {
            *slots.get_mut(*slot as usize)? = Some(*extent);
        }
        let start = self.window_start as usize;
        let shown = slots.get_mut(start..start.checked_add(self.window.len())?)?;
        for (slot, extent) in shown.iter_mut().zip(&self.window) {
            *slot = Some(*extent);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
