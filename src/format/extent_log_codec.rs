//! Owns the bytes of one log block. Must never know of the other blocks of the ring.
//!
//! The content of a block (3968 bytes) lies in eight runs of 496, one in each 512-byte sector,
//! each followed by a seal of 16: the transaction's number, the checksum of the whole content,
//! and a checksum of this sector. A disk writes a sector whole or not at all, so a block whose
//! sectors are all intact and not all of one transaction is a write that was cut short.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::extent_log::{LogIdentity, LogTransaction};
use super::records::is_zero;
use super::{DISK_VERSION, DISK_VERSION_MIN, RECORD_BYTES, checksum};
use crate::limits::LOG_UPDATES_MAX;

/// Log slots that the window of one transaction can show.
pub const WINDOW_ENTRIES: usize = 852;

const MAGIC: [u8; 8] = *b"TWINBLKL";
const SECTORS: usize = 8;
const RUN_BYTES: usize = 496;
const CONTENT_BYTES: usize = SECTORS * RUN_BYTES;

/// The number that stands for an empty slot; no device has that many extents.
const EMPTY: u32 = u32::MAX;

/// 512 bytes: what a disk writes whole or not at all.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SectorRecord {
    run: [u8; RUN_BYTES],
    number: U64,
    content_sum: U32,
    sector_sum: U32,
}

const _: () = assert!(size_of::<SectorRecord>() * SECTORS == RECORD_BYTES);
const _: () = assert!(offset_of!(SectorRecord, number) == 496);
const _: () = assert!(offset_of!(SectorRecord, sector_sum) == 508);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct UpdateRecord {
    slot: U32,
    extent: U32,
}

/// The content of a block, as `manual::disk_format` draws it.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ContentRecord {
    magic: [u8; 8],
    version: U32,
    log_extents: U32,
    area: U64,
    number: U64,
    window_start: U32,
    window_count: U16,
    update_count: U16,
    reserved: [u8; 8],
    updates: [UpdateRecord; LOG_UPDATES_MAX],
    window: [U32; WINDOW_ENTRIES],
}

const _: () = assert!(size_of::<ContentRecord>() == CONTENT_BYTES);
const _: () = assert!(offset_of!(ContentRecord, number) == 24);
const _: () = assert!(offset_of!(ContentRecord, updates) == 48);
const _: () = assert!(offset_of!(ContentRecord, window) == 560);

/// Why a log block is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogBlockError {
    /// The disk returned an error. Never from [`decode`]: the reader puts it in its place.
    #[error("the disk returned an error")]
    Unreadable,
    /// No sector is an intact one of this log.
    #[error("no sector of it belongs to this log")]
    NotOurs,
    /// The intact sectors do not make a whole transaction.
    #[error("it is damaged: its intact sectors are of transactions {oldest} to {newest}")]
    Damaged {
        /// The lowest transaction number of an intact sector.
        oldest: u64,
        /// The highest.
        newest: u64,
        /// Two intact sectors are of different writes (perhaps of the same number): a write that
        /// was cut short. Otherwise bytes have rotted, or a write was also cut inside a sector.
        mixed: bool,
    },
    /// Another version wrote it.
    #[error(
        "it has format version {found}, this twinblk knows {DISK_VERSION_MIN} to {DISK_VERSION}"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// All checksums are right and a field is not: no twinblk of this version wrote it.
    #[error("its field {field} breaks a rule of the format")]
    Invalid {
        /// Name of the field.
        field: &'static str,
    },
}

/// The bytes of one transaction.
///
/// # Panics
/// If it has more updates or a longer window than fit.
#[must_use]
pub fn encode(log: LogIdentity, transaction: &LogTransaction) -> [u8; RECORD_BYTES] {
    let (updates, window) = (&transaction.updates, &transaction.window);
    let none = UpdateRecord { slot: U32::ZERO, extent: U32::ZERO };
    let mut content = ContentRecord {
        magic: MAGIC,
        version: DISK_VERSION.into(),
        log_extents: log.geometry.log_extents.into(),
        area: log.area.0.into(),
        number: transaction.number.into(),
        window_start: transaction.window_start.into(),
        window_count: u16::try_from(window.len()).expect("a window is bounded").into(),
        update_count: u16::try_from(updates.len()).expect("updates are bounded").into(),
        reserved: [0; 8],
        updates: [none; LOG_UPDATES_MAX],
        window: [U32::ZERO; WINDOW_ENTRIES],
    };
    for (record, (slot, extent)) in content.updates[..updates.len()].iter_mut().zip(updates) {
        record.slot.set(*slot);
        record.extent.set(extent.unwrap_or(EMPTY));
    }
    for (record, extent) in content.window[..window.len()].iter_mut().zip(window) {
        record.set(extent.unwrap_or(EMPTY));
    }
    let bytes = seal(log, transaction.number, zerocopy::transmute!(content));
    debug_assert_eq!(decode(log, &bytes).as_ref(), Ok(transaction), "a value breaks a rule");
    bytes
}

fn seal(log: LogIdentity, number: u64, content: [u8; CONTENT_BYTES]) -> [u8; RECORD_BYTES] {
    let content_sum = U32::new(checksum::of(&content));
    let runs: [[u8; RUN_BYTES]; SECTORS] = zerocopy::transmute!(content);
    let mut index = 0;
    let sectors = runs.map(|run| {
        let mut sector =
            SectorRecord { run, number: number.into(), content_sum, sector_sum: U32::ZERO };
        sector.sector_sum = sector.sum(log, index).into();
        index += 1;
        sector
    });
    zerocopy::transmute!(sectors)
}

impl SectorRecord {
    /// The checksum of what is written, and of what is not: the area and the place in the block,
    /// so that a sector from elsewhere is not intact here.
    fn sum(&self, log: LogIdentity, index: u8) -> u32 {
        let written = &self.as_bytes()[..offset_of!(Self, sector_sum)];
        checksum::of_parts(&[&log.area.0.to_le_bytes(), &[index], written])
    }
}

/// The transaction in these bytes, of which only the first 4096 count.
///
/// # Errors
/// Why the block is not usable; never [`LogBlockError::Unreadable`].
pub fn decode(log: LogIdentity, bytes: &[u8]) -> Result<LogTransaction, LogBlockError> {
    let Ok((sectors, _)) = <[SectorRecord; SECTORS]>::ref_from_prefix(bytes) else {
        return Err(LogBlockError::NotOurs);
    };
    let content = unseal(log, sectors)?;
    let record: &ContentRecord = zerocopy::transmute_ref!(&content);
    if record.magic != MAGIC || record.area.get() != log.area.0 {
        return Err(LogBlockError::NotOurs);
    }
    let found = record.version.get();
    if !(DISK_VERSION_MIN..=DISK_VERSION).contains(&found) {
        return Err(LogBlockError::Version { found });
    }
    if record.number != sectors[0].number {
        return Err(LogBlockError::Invalid { field: "number" });
    }
    record.read(log).map_err(|field| LogBlockError::Invalid { field })
}

/// The content, if all sectors are intact and of one write.
fn unseal(
    log: LogIdentity,
    sectors: &[SectorRecord; SECTORS],
) -> Result<[u8; CONTENT_BYTES], LogBlockError> {
    let intact = || {
        let all = (0u8..).zip(sectors);
        all.filter(|(index, sector)| sector.sector_sum.get() == sector.sum(log, *index))
    };
    let numbers = || intact().map(|(_, sector)| sector.number.get());
    let (Some(oldest), Some(newest)) = (numbers().min(), numbers().max()) else {
        return Err(LogBlockError::NotOurs);
    };
    let mut writes = intact().map(|(_, sector)| (sector.number, sector.content_sum));
    let first = writes.next();
    let mixed = writes.any(|write| Some(write) != first);
    let content: [u8; CONTENT_BYTES] = zerocopy::transmute!(sectors.map(|sector| sector.run));
    let whole = checksum::of(&content) == sectors[0].content_sum.get();
    if intact().count() == SECTORS && !mixed && whole {
        Ok(content)
    } else {
        Err(LogBlockError::Damaged { oldest, newest, mixed })
    }
}

impl ContentRecord {
    /// The transaction, or the name of the field that breaks a rule.
    fn read(&self, log: LogIdentity) -> Result<LogTransaction, &'static str> {
        let geometry = log.geometry;
        let used = usize::from(self.update_count.get());
        let shown = usize::from(self.window_count.get());
        let window_end = u64::from(self.window_start.get()) + shown as u64;
        let (updates, updates_unused) =
            self.updates.split_at_checked(used).ok_or("update_count")?;
        let (window, window_unused) = self.window.split_at_checked(shown).ok_or("window_count")?;
        let rules = [
            (self.log_extents.get() == geometry.log_extents, "log_extents"),
            (window_end <= u64::from(geometry.log_extents), "window_start"),
            (is_zero(&self.reserved), "reserved"),
            (is_zero(updates_unused), "updates"),
            (is_zero(window_unused), "window"),
        ];
        if let Some((_, field)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(field);
        }
        let extents = geometry.extents();
        let update = |record: &UpdateRecord| {
            let slot = record.slot.get();
            let extent = read_extent(record.extent, extents)?;
            (slot < geometry.log_extents).then_some((slot, extent))
        };
        Ok(LogTransaction {
            number: self.number.get(),
            updates: updates.iter().map(update).collect::<Option<_>>().ok_or("updates")?,
            window_start: self.window_start.get(),
            window: window
                .iter()
                .map(|extent| read_extent(*extent, extents))
                .collect::<Option<_>>()
                .ok_or("window")?,
        })
    }
}

/// The extent of a slot, `Some(None)` for an empty one; `None` if the device has no such extent.
fn read_extent(field: U32, extents: u32) -> Option<Option<u32>> {
    match field.get() {
        EMPTY => Some(None),
        extent => (extent < extents).then_some(Some(extent)),
    }
}
