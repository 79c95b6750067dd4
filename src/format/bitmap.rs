//! Owns the bytes of a bitmap page: the durable marks of 32512 blocks towards one peer.
//! Must never decide which blocks are marked.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{DISK_VERSION, DISK_VERSION_MIN, RECORD_BYTES, checksum};
use crate::units::AreaId;

/// 64-bit words of marks in one page.
pub const WORDS_PER_PAGE: usize = 508;

/// Marks in one page, one per block. Block `b` is bit `b % 64` of word `b % BITS_PER_PAGE / 64`
/// of page `b / BITS_PER_PAGE`.
pub const BITS_PER_PAGE: u64 = WORDS_PER_PAGE as u64 * 64;

const MAGIC: [u8; 4] = *b"TWBM";

/// The version as the page's narrower field holds it.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
const VERSION: u16 = DISK_VERSION as u16;
const _: () = assert!(DISK_VERSION <= u16::MAX as u32);

/// Where a page belongs; the page itself says it too, so that a misplaced one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAddress {
    /// The metadata area.
    pub area: AreaId,
    /// The bitmap slot.
    pub slot: u8,
    /// The page in the slot.
    pub page: u32,
}

/// The bytes of a page, as `manual::disk_format` draws them.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PageRecord {
    magic: [u8; 4],
    version: U16,
    slot: u8,
    reserved: u8,
    page: U32,
    checksum: U32,
    area: U64,
    reserved_tail: [u8; 8],
    words: [U64; WORDS_PER_PAGE],
}

const _: () = assert!(size_of::<PageRecord>() == RECORD_BYTES);
const _: () = assert!(offset_of!(PageRecord, checksum) == 12);
const _: () = assert!(offset_of!(PageRecord, area) == 16);
const _: () = assert!(offset_of!(PageRecord, words) == 32);

/// Why a page is not usable: all that it covers counts as marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The magic is missing; an all-zero page has none.
    #[error("it is not a bitmap page")]
    NotOurs,
    /// The checksum is wrong: a write was cut short, or bytes have rotted.
    #[error("its checksum is wrong (a write cut short, or rotted bytes)")]
    Checksum,
    /// Another version wrote it.
    #[error("it has format version {found}, this twinblk knows {DISK_VERSION_MIN} to {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// A page of another disk, or of an earlier life of this one.
    #[error("it belongs to another metadata area")]
    Foreign,
    /// A page of this area in the wrong place.
    #[error("it is page {page} of slot {slot}")]
    Misplaced {
        /// The slot it says it belongs to.
        slot: u8,
        /// The page it says it is.
        page: u32,
    },
    /// The checksum is right and a reserved byte is in use.
    #[error("a reserved byte is not zero")]
    Reserved,
}

/// The bytes of a page with these words; missing ones (the last page of a device has fewer) are
/// zero.
///
/// # Panics
/// If there are more than [`WORDS_PER_PAGE`].
#[must_use]
pub fn encode(address: PageAddress, words: &[u64]) -> [u8; RECORD_BYTES] {
    let mut record = PageRecord {
        magic: MAGIC,
        version: VERSION.into(),
        slot: address.slot,
        reserved: 0,
        page: address.page.into(),
        checksum: U32::ZERO,
        area: address.area.0.into(),
        reserved_tail: [0; 8],
        words: [U64::ZERO; WORDS_PER_PAGE],
    };
    for (field, word) in record.words[..words.len()].iter_mut().zip(words) {
        field.set(*word);
    }
    record.checksum = record.sum().into();
    zerocopy::transmute!(record)
}

/// The words of the page in these bytes, of which only the first 4096 count.
///
/// # Errors
/// Why the page is not usable.
pub fn decode(address: PageAddress, bytes: &[u8]) -> Result<[u64; WORDS_PER_PAGE], PageError> {
    let Ok((record, _)) = PageRecord::ref_from_prefix(bytes) else {
        return Err(PageError::NotOurs);
    };
    if record.magic != MAGIC {
        return Err(PageError::NotOurs);
    }
    if record.checksum.get() != record.sum() {
        return Err(PageError::Checksum);
    }
    let found = record.version.get();
    if !(DISK_VERSION_MIN..=DISK_VERSION).contains(&found.into()) {
        return Err(PageError::Version { found });
    }
    if record.area.get() != address.area.0 {
        return Err(PageError::Foreign);
    }
    let (slot, page) = (record.slot, record.page.get());
    if (slot, page) != (address.slot, address.page) {
        return Err(PageError::Misplaced { slot, page });
    }
    if record.reserved != 0 || record.reserved_tail != [0; 8] {
        return Err(PageError::Reserved);
    }
    Ok(record.words.map(U64::get))
}

impl PageRecord {
    fn sum(&self) -> u32 {
        checksum::around(self.as_bytes(), offset_of!(Self, checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: PageAddress = PageAddress { area: AreaId(0xA5A5), slot: 1, page: 7 };

    #[test]
    fn an_all_zero_page_is_not_a_page_without_marks() {
        assert_eq!(decode(HERE, &[0; RECORD_BYTES]), Err(PageError::NotOurs));
        assert_eq!(decode(HERE, &[]), Err(PageError::NotOurs));
        assert_eq!(decode(HERE, &encode(HERE, &[])), Ok([0; WORDS_PER_PAGE]));
    }

    #[test]
    fn a_page_from_elsewhere_is_recognised() {
        let other = |address| decode(HERE, &encode(address, &[1, 2]));
        assert_eq!(other(PageAddress { area: AreaId(1), ..HERE }), Err(PageError::Foreign));
        let misplaced = Err(PageError::Misplaced { slot: 0, page: 7 });
        assert_eq!(other(PageAddress { slot: 0, ..HERE }), misplaced);
        let misplaced = Err(PageError::Misplaced { slot: 1, page: 8 });
        assert_eq!(other(PageAddress { page: 8, ..HERE }), misplaced);
    }

    /// Changes a byte and mends the checksum: what a twinblk of another version would write.
    fn forged(at: usize, byte: u8) -> Result<[u64; WORDS_PER_PAGE], PageError> {
        let mut bytes = encode(HERE, &[u64::MAX; WORDS_PER_PAGE]);
        bytes[at] = byte;
        let sum = checksum::around(&bytes, 12).to_le_bytes();
        bytes[12..16].copy_from_slice(&sum);
        decode(HERE, &bytes)
    }

    #[test]
    fn other_versions_and_reserved_bytes_are_refused() {
        assert_eq!(forged(4, 4), Err(PageError::Version { found: 4 }));
        assert_eq!(forged(4, 0), Err(PageError::Version { found: 0 }));
        assert_eq!(forged(7, 1), Err(PageError::Reserved));
        assert_eq!(forged(31, 1), Err(PageError::Reserved));
        assert!(forged(4095, 0).is_ok(), "the forger itself works");
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let page = encode(HERE, &[0x0123_4567_89AB_CDEF; WORDS_PER_PAGE]);
        for bit in 0..RECORD_BYTES * 8 {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(HERE, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_torn_page_is_detected() {
        let (old, new) = ([0x11; WORDS_PER_PAGE], [0x22; WORDS_PER_PAGE]);
        for mask in 1..255u32 {
            let mut torn = encode(HERE, &old);
            let full = encode(HERE, &new);
            for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
                torn[sector * 512..][..512].copy_from_slice(&full[sector * 512..][..512]);
            }
            assert_eq!(decode(HERE, &torn), Err(PageError::Checksum), "mask {mask:#b}");
        }
    }

    proptest! {
        #[test]
        fn words_come_back(
            words in prop::collection::vec(any::<u64>(), 0..=WORDS_PER_PAGE),
            area in any::<u64>(), slot in any::<u8>(), page in any::<u32>(),
        ) {
            let address = PageAddress { area: AreaId(area), slot, page };
            let read = decode(address, &encode(address, &words)).unwrap();
            prop_assert_eq!(&read[..words.len()], &words[..]);
            prop_assert!(read[words.len()..].iter().all(|word| *word == 0));
        }

        #[test]
        fn garbage_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(decode(HERE, &bytes).is_err());
            let used = bytes.len().min(4);
            bytes[..used].copy_from_slice(&MAGIC[..used]);
            prop_assert!(decode(HERE, &bytes).is_err());
        }
    }
}
