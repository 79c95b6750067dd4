//! Owns where things lie in the metadata area. All offsets are bytes from the start of the area.
//! Must never do I/O or know where the area itself lies.
//!
//! ```text
//! | superblock 0 | log ring | bitmap slot 0 | slot 1 | ... | superblock 1 |
//! ```

use super::RECORD_BYTES;
use super::bitmap::BITS_PER_PAGE;
use super::extent_log;
use super::superblock::Geometry;
use crate::limits::{
    DEVICE_BLOCKS_MAX, EXTENT_BLOCKS, LOG_EXTENTS_MAX, LOG_EXTENTS_MIN, PEER_SLOTS_MAX,
};
use crate::units::BLOCK_BYTES;

const RECORD: u64 = RECORD_BYTES as u64;

/// Superblock copies in a metadata area.
pub const SUPERBLOCK_COPIES: usize = 2;

impl Geometry {
    /// The largest geometry that fits, data and metadata together, on a backing device of
    /// `backing_bytes` with internal metadata. None if not even one block does, or if slots or
    /// extents are out of bounds.
    #[must_use]
    pub fn internal(backing_bytes: u64, peer_slots: u8, log_extents: u32) -> Option<Self> {
        let smallest = Self { device_blocks: 1, peer_slots, log_extents };
        smallest.fault().is_none().then_some(())?;
        let fixed = 1 + smallest.log_ring_blocks() + 1;
        let left = (backing_bytes / BLOCK_BYTES).checked_sub(fixed)?;
        // A page of each slot serves BITS_PER_PAGE blocks; the last, partial group needs as many.
        let group = BITS_PER_PAGE + u64::from(peer_slots);
        let partial = (left % group).saturating_sub(u64::from(peer_slots));
        let device_blocks = (left / group * BITS_PER_PAGE + partial).min(DEVICE_BLOCKS_MAX);
        (device_blocks > 0).then_some(Self { device_blocks, ..smallest })
    }

    /// Where the area begins on a backing device of `backing_bytes`: it ends with the last whole
    /// block, so that copy 1 of the superblock is found without knowing the geometry. None if
    /// data and metadata do not fit.
    #[must_use]
    pub fn internal_offset(&self, backing_bytes: u64) -> Option<u64> {
        let whole = backing_bytes / BLOCK_BYTES * BLOCK_BYTES;
        let offset = whole.checked_sub(self.metadata_bytes())?;
        (offset / BLOCK_BYTES >= self.device_blocks).then_some(offset)
    }

    /// The name of the field that no `create` would have written, if there is one.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let extents = LOG_EXTENTS_MIN..=LOG_EXTENTS_MAX;
        if self.device_blocks == 0 || self.device_blocks > DEVICE_BLOCKS_MAX {
            Some("device_blocks")
        } else if self.peer_slots == 0 || usize::from(self.peer_slots) > PEER_SLOTS_MAX {
            Some("peer_slots")
        } else if !extents.contains(&self.log_extents) {
            Some("log_extents")
        } else {
            None
        }
    }

    /// Extents of the device, the last one perhaps partial.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "asserted below for the largest device")]
    pub const fn extents(&self) -> u32 {
        self.device_blocks.div_ceil(EXTENT_BLOCKS) as u32
    }

    /// Bitmap pages in each slot.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "asserted below for the largest device")]
    pub const fn pages_per_slot(&self) -> u32 {
        self.device_blocks.div_ceil(BITS_PER_PAGE) as u32
    }

    /// Blocks in the ring of the activity log.
    #[must_use]
    pub const fn log_ring_blocks(&self) -> u64 {
        extent_log::ring_blocks(self.log_extents)
    }

    /// Where copy 0 or 1 of the superblock lies: at the very start and at the very end.
    ///
    /// # Panics
    /// If `copy` is not 0 or 1.
    #[must_use]
    pub const fn superblock_offset(&self, copy: usize) -> u64 {
        assert!(copy < SUPERBLOCK_COPIES);
        if copy == 0 { 0 } else { self.metadata_bytes() - RECORD }
    }

    /// Where the log's ring begins.
    #[must_use]
    pub const fn log_offset(&self) -> u64 {
        RECORD
    }

    /// Where the log block of transaction `number` lies.
    #[must_use]
    pub const fn log_block_offset(&self, number: u64) -> u64 {
        self.log_offset() + number % self.log_ring_blocks() * RECORD
    }

    /// Where the first bitmap page of `slot` lies; `slot` may be the number of slots: the end.
    #[must_use]
    pub const fn bitmap_offset(&self, slot: u8) -> u64 {
        let slot_bytes = self.pages_per_slot() as u64 * RECORD;
        self.log_offset() + self.log_ring_blocks() * RECORD + slot as u64 * slot_bytes
    }

    /// Where bitmap page `page` of `slot` lies.
    #[must_use]
    pub const fn page_offset(&self, slot: u8, page: u32) -> u64 {
        self.bitmap_offset(slot) + page as u64 * RECORD
    }

    /// Bytes of the whole area.
    #[must_use]
    pub const fn metadata_bytes(&self) -> u64 {
        self.bitmap_offset(self.peer_slots) + RECORD
    }
}

// The casts above: the largest device must fit.
const _: () = assert!(DEVICE_BLOCKS_MAX.div_ceil(EXTENT_BLOCKS) < u32::MAX as u64);
const _: () = assert!(DEVICE_BLOCKS_MAX.div_ceil(BITS_PER_PAGE) < u32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(device_blocks: u64, peer_slots: u8, log_extents: u32) -> Geometry {
        Geometry { device_blocks, peer_slots, log_extents }
    }

    #[test]
    fn areas_follow_each_other_without_gap_or_overlap() {
        let layout = geometry(32_513, 2, 1237);
        assert_eq!(layout.pages_per_slot(), 2);
        assert_eq!(layout.extents(), 32);
        assert_eq!(layout.log_ring_blocks(), 3);
        assert_eq!(layout.superblock_offset(0), 0);
        assert_eq!(layout.log_offset(), 4096);
        assert_eq!(layout.log_block_offset(7), 2 * 4096);
        assert_eq!(layout.bitmap_offset(0), 4 * 4096);
        assert_eq!(layout.bitmap_offset(1), 6 * 4096);
        assert_eq!(layout.page_offset(1, 1), 7 * 4096);
        assert_eq!(layout.superblock_offset(1), 8 * 4096);
        assert_eq!(layout.metadata_bytes(), 9 * 4096);
    }

    #[test]
    fn absurd_geometry_is_named() {
        assert_eq!(geometry(0, 2, 1237).fault(), Some("device_blocks"));
        assert_eq!(geometry(u64::MAX, 2, 1237).fault(), Some("device_blocks"));
        assert_eq!(geometry(1, 0, 1237).fault(), Some("peer_slots"));
        assert_eq!(geometry(1, 5, 1237).fault(), Some("peer_slots"));
        assert_eq!(geometry(1, 2, 15).fault(), Some("log_extents"));
        assert_eq!(geometry(1, 2, 16_385).fault(), Some("log_extents"));
        assert_eq!(geometry(DEVICE_BLOCKS_MAX, 4, 16_384).fault(), None);
    }

    proptest! {
        /// As many blocks as fit: one more would not.
        #[test]
        fn internal_metadata_uses_the_device_to_the_last_block(
            blocks in 1u64..200_000, odd in 0u64..4096, slots in 1u8..=4, log in 16u32..=16_384,
        ) {
            let backing = blocks * BLOCK_BYTES + odd;
            match Geometry::internal(backing, slots, log) {
                Some(fits) => {
                    let offset = fits.internal_offset(backing).expect("it fits");
                    prop_assert!(offset >= fits.device_blocks * BLOCK_BYTES);
                    prop_assert_eq!(offset + fits.metadata_bytes(), blocks * BLOCK_BYTES);
                    let more = Geometry { device_blocks: fits.device_blocks + 1, ..fits };
                    prop_assert_eq!(more.internal_offset(backing), None);
                }
                None => prop_assert_eq!(geometry(1, slots, log).internal_offset(backing), None),
            }
        }
    }
}
