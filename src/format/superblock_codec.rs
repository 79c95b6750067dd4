//! Owns the bytes of the superblock, and which of its two copies counts.
//! Must never judge what the fields mean for the peer.
//!
//! For ever, in every version: the magic, the version at byte 8, the checksum at byte 12 over all
//! other bytes of the 4096. So a newer version is told from a torn copy before its fields are
//! understood.

use std::fmt;
use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::records::{
    LineageRecord, SlotRecord, SyncTargetRecord, data_number, data_state, flag, is_zero,
};
use super::superblock::{Geometry, Superblock};
use super::{DISK_VERSION, DISK_VERSION_MIN, RECORD_BYTES, checksum};
use crate::limits::{EPOCH_STORED_MAX, EXTENT_BLOCKS, PEER_SLOTS_MAX, SERIAL_MAX};
use crate::units::{AreaId, BLOCK_BYTES, BootId, Epoch, NodeId, ResourceId, RunId};

const MAGIC: [u8; 8] = *b"TWINBLKS";

/// The bytes of a superblock, as `manual::disk_format` draws them.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SuperblockRecord {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    serial: U64,
    resource: U128,
    area: U64,
    device_blocks: U64,
    block_bytes: U32,
    extent_bytes: U32,
    log_extents: U32,
    peer_slots: u8,
    node: u8,
    data: u8,
    flags: u8,
    epoch: U64,
    run: U64,
    boot: U128,
    lineage_count: u8,
    sync_target_present: u8,
    reserved: [u8; 6],
    sync_target: SyncTargetRecord,
    lineage: LineageRecord,
    slots: [SlotRecord; PEER_SLOTS_MAX],
    current: U64,
    reserved_tail: [u8; 2952],
}

const _: () = assert!(size_of::<SuperblockRecord>() == RECORD_BYTES);
const _: () = assert!(offset_of!(SuperblockRecord, version) == 8);
const _: () = assert!(offset_of!(SuperblockRecord, checksum) == 12);
const _: () = assert!(offset_of!(SuperblockRecord, device_blocks) == 48);
const _: () = assert!(offset_of!(SuperblockRecord, epoch) == 72);
const _: () = assert!(offset_of!(SuperblockRecord, sync_target) == 112);
const _: () = assert!(offset_of!(SuperblockRecord, lineage) == 144);
const _: () = assert!(offset_of!(SuperblockRecord, slots) == 912);
const _: () = assert!(offset_of!(SuperblockRecord, current) == 1136);

/// Why a copy of the superblock is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The disk returned an error. Never from [`decode`]: the reader puts it in its place.
    #[error("the disk returned an error")]
    Unreadable,
    /// The magic is missing: nothing of ours was ever written here.
    #[error("it is not a twinblk superblock")]
    NotOurs,
    /// The checksum is wrong: a write was cut short, or bytes have rotted.
    #[error("its checksum is wrong (a write cut short, or rotted bytes)")]
    Checksum,
    /// A newer twinblk wrote it.
    #[error("it has format version {found}, this twinblk knows up to {DISK_VERSION}")]
    NewerVersion {
        /// Its version.
        found: u32,
    },
    /// The checksum is right and a field is not: no twinblk of this version wrote it.
    #[error("its field {field} breaks a rule of the format")]
    Invalid {
        /// Name of the field.
        field: &'static str,
    },
}

/// Why neither copy of the superblock may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChooseError {
    /// A newer twinblk has used this disk. The other copy may be valid and older; to go on from it
    /// would lose what the newer one knew.
    NewerVersion {
        /// Its version.
        found: u32,
    },
    /// Both copies are unusable.
    NoneValid {
        /// What is wrong with copy 0 and copy 1.
        found: [SuperblockError; 2],
    },
    /// Both copies are valid and cannot both be of this disk: another area, node or geometry, or
    /// two contents with the same serial.
    Conflict {
        /// The field that differs.
        field: &'static str,
    },
}

impl fmt::Display for ChooseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerVersion { found } => {
                write!(f, "{}; use that version", SuperblockError::NewerVersion { found: *found })
            }
            Self::NoneValid { found: [SuperblockError::NotOurs, SuperblockError::NotOurs] } => f
                .write_str(
                    "there is no twinblk metadata here; `twinblk create RESOURCE` lays it out",
                ),
            Self::NoneValid { found: [first, second] } => {
                write!(
                    f,
                    "no copy of the superblock is usable: copy 0: {first}; copy 1: {second}. Put a \
                     dump back with `twinblk meta restore RESOURCE FILE`, or begin anew with \
                     `twinblk disk replace RESOURCE`"
                )
            }
            Self::Conflict { field } => {
                write!(
                    f,
                    "the two copies of the superblock contradict each other in {field}. Put a dump \
                     back with `twinblk meta restore RESOURCE FILE`, or begin anew with `twinblk \
                     disk replace RESOURCE`"
                )
            }
        }
    }
}

impl std::error::Error for ChooseError {}

/// The bytes of one copy; both copies are equal.
#[must_use]
pub fn encode(superblock: &Superblock) -> [u8; RECORD_BYTES] {
    let bytes = bytes_of(superblock);
    debug_assert_eq!(decode(&bytes).as_ref(), Ok(superblock), "a value breaks a rule");
    bytes
}

fn bytes_of(superblock: &Superblock) -> [u8; RECORD_BYTES] {
    let (lineage, lineage_count) = LineageRecord::new(&superblock.lineage);
    let geometry = superblock.geometry;
    let record = SuperblockRecord {
        magic: MAGIC,
        version: DISK_VERSION.into(),
        checksum: U32::ZERO,
        serial: superblock.serial.into(),
        resource: superblock.resource.0.into(),
        area: superblock.area.0.into(),
        device_blocks: geometry.device_blocks.into(),
        block_bytes: U32::new(BLOCK_SIZE),
        extent_bytes: U32::new(EXTENT_SIZE),
        log_extents: geometry.log_extents.into(),
        peer_slots: geometry.peer_slots,
        node: superblock.node.0,
        data: data_number(superblock.data),
        flags: flags_of(superblock),
        epoch: superblock.epoch.0.into(),
        run: superblock.run.0.into(),
        boot: superblock.boot.0.into(),
        lineage_count,
        sync_target_present: superblock.sync_target.is_some().into(),
        reserved: [0; 6],
        sync_target: SyncTargetRecord::new(superblock.sync_target),
        lineage,
        slots: superblock.slots.each_ref().map(SlotRecord::new),
        current: superblock.current.0.into(),
        reserved_tail: [0; 2952],
    };
    let mut bytes: [u8; RECORD_BYTES] = zerocopy::transmute!(record);
    let sum = checksum::around(&bytes, offset_of!(SuperblockRecord, checksum));
    bytes[offset_of!(SuperblockRecord, checksum)..][..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Whether a superblock from elsewhere can be stored and read back.
///
/// # Errors
/// The rule that it breaks.
pub fn check(superblock: &Superblock) -> Result<(), SuperblockError> {
    let read = decode(&bytes_of(superblock))?;
    if read == *superblock { Ok(()) } else { Err(SuperblockError::Invalid { field: "contents" }) }
}

const PRIMARY: u8 = 1;
const LOG_LIVE: u8 = 2;
const FORMER_PRIMARY: u8 = 4;
const REBOOTED: u8 = 8;
/// Since version 2.
const PARTED: u8 = 16;
const FLAGS_1: u8 = PRIMARY | LOG_LIVE | FORMER_PRIMARY | REBOOTED;
const FLAGS: u8 = FLAGS_1 | PARTED;

fn flags_of(superblock: &Superblock) -> u8 {
    let flags = [
        (superblock.primary, PRIMARY),
        (superblock.log_live, LOG_LIVE),
        (superblock.former_primary, FORMER_PRIMARY),
        (superblock.rebooted, REBOOTED),
        (superblock.parted, PARTED),
    ];
    flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "4096 and 4194304")]
const BLOCK_SIZE: u32 = BLOCK_BYTES as u32;
#[expect(clippy::cast_possible_truncation, reason = "4096 and 4194304")]
const EXTENT_SIZE: u32 = (EXTENT_BLOCKS * BLOCK_BYTES) as u32;

/// The superblock in these bytes, of which only the first 4096 count.
///
/// # Errors
/// Why this copy is not usable; never [`SuperblockError::Unreadable`].
pub fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
    let Ok((record, _)) = SuperblockRecord::ref_from_prefix(bytes) else {
        return Err(SuperblockError::NotOurs);
    };
    if record.magic != MAGIC {
        return Err(SuperblockError::NotOurs);
    }
    let sum = checksum::around(record.as_bytes(), offset_of!(SuperblockRecord, checksum));
    if record.checksum.get() != sum {
        return Err(SuperblockError::Checksum);
    }
    let found = record.version.get();
    if found > DISK_VERSION {
        return Err(SuperblockError::NewerVersion { found });
    }
    record.check().map_or_else(|| record.read(), |field| Err(SuperblockError::Invalid { field }))
}

impl SuperblockRecord {
    /// The first field that has no counterpart in a [`Superblock`] and is not as it must be.
    fn check(&self) -> Option<&'static str> {
        let version = self.version.get();
        let flags = if version == 1 { FLAGS_1 } else { FLAGS };
        // Since version 3.
        let newest = if version < 3 { 0 } else { EPOCH_STORED_MAX };
        let rules = [
            ((DISK_VERSION_MIN..=DISK_VERSION).contains(&version), "version"),
            (self.block_bytes.get() == BLOCK_SIZE, "block_bytes"),
            (self.extent_bytes.get() == EXTENT_SIZE, "extent_bytes"),
            (self.resource.get() != 0, "resource"),
            (self.flags & !flags == 0, "flags"),
            (self.serial.get() < SERIAL_MAX, "serial"),
            (self.epoch.get() <= EPOCH_STORED_MAX, "epoch"),
            (self.current.get() <= newest, "current"),
            (self.reserved == [0; 6] && is_zero(&self.reserved_tail), "reserved"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, field)| *field)
    }

    fn read(&self) -> Result<Superblock, SuperblockError> {
        let invalid = |field| SuperblockError::Invalid { field };
        let present = flag(self.sync_target_present).ok_or(invalid("sync_target_present"))?;
        // Before version 3 the highest adopted epoch stood for it.
        let old = self.version.get() < 3;
        Ok(Superblock {
            serial: self.serial.get(),
            resource: ResourceId(self.resource.get()),
            node: NodeId(self.node),
            area: AreaId(self.area.get()),
            geometry: self.read_geometry()?,
            data: data_state(self.data).ok_or(invalid("data"))?,
            primary: self.flags & PRIMARY != 0,
            log_live: self.flags & LOG_LIVE != 0,
            former_primary: self.flags & FORMER_PRIMARY != 0,
            rebooted: self.flags & REBOOTED != 0,
            parted: self.flags & PARTED != 0,
            epoch: Epoch(self.epoch.get()),
            current: Epoch(if old { self.epoch.get() } else { self.current.get() }),
            run: RunId(self.run.get()),
            boot: BootId(self.boot.get()),
            lineage: self.lineage.read(self.lineage_count).ok_or(invalid("lineage"))?,
            sync_target: self.sync_target.read(present).ok_or(invalid("sync_target"))?,
            slots: self.read_slots().ok_or(invalid("slots"))?,
        })
    }

    fn read_geometry(&self) -> Result<Geometry, SuperblockError> {
        let geometry = Geometry {
            device_blocks: self.device_blocks.get(),
            peer_slots: self.peer_slots,
            log_extents: self.log_extents.get(),
        };
        geometry.fault().map_or(Ok(geometry), |field| Err(SuperblockError::Invalid { field }))
    }

    /// The slots; those that were not laid out are not in use.
    fn read_slots(&self) -> Option<[super::superblock::PeerSlot; PEER_SLOTS_MAX]> {
        let mut slots = [super::superblock::PeerSlot::default(); PEER_SLOTS_MAX];
        for (slot, record) in slots.iter_mut().zip(&self.slots) {
            *slot = record.read()?;
        }
        let laid_out = usize::from(self.peer_slots);
        slots.iter().skip(laid_out).all(|slot| !slot.in_use).then_some(slots)
    }
}

/// Which copy counts: the valid one with the higher serial. A change counts only when both
/// copies hold it, so either valid copy alone holds all that ever counted.
///
/// # Errors
/// That neither may be used, and what was found.
pub fn choose(
    copy0: Result<Superblock, SuperblockError>,
    copy1: Result<Superblock, SuperblockError>,
) -> Result<Superblock, ChooseError> {
    for copy in [&copy0, &copy1] {
        if let Err(SuperblockError::NewerVersion { found }) = copy {
            return Err(ChooseError::NewerVersion { found: *found });
        }
    }
    match (copy0, copy1) {
        (Ok(first), Ok(second)) => newer(first, second),
        (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
        (Err(first), Err(second)) => Err(ChooseError::NoneValid { found: [first, second] }),
    }
}

fn newer(first: Superblock, second: Superblock) -> Result<Superblock, ChooseError> {
    let same_serial = first.serial == second.serial;
    let rules = [
        (first.area == second.area, "area"),
        (first.node == second.node, "node"),
        (first.geometry == second.geometry, "geometry"),
        (!same_serial || first == second, "serial"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, field)) => Err(ChooseError::Conflict { field }),
        None if first.serial >= second.serial => Ok(first),
        None => Ok(second),
    }
}

#[cfg(test)]
mod tests;
