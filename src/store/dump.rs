//! Owns the metadata of a stopped disk as a JSON value an operator can keep, read and write back,
//! and what is wrong with it. Must never be used on a disk in use.
//!
//! Random numbers and ids stand in hexadecimal, since JSON readers lose digits of large numbers.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use super::bits;
use super::create::{FIRST_TRANSACTION, describe};
use super::raw::RawError;
use super::stopped::{Area, Found, StoppedDisk};
use crate::format::extent_log::{self, LogIdentity, LogImage, LogTransaction};
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::{
    self, Bond, DataState, Geometry, PeerSlot, Superblock, SyncTarget,
};
use crate::format::{DISK_VERSION, DISK_VERSION_MIN, RECORD_BYTES};
use crate::limits::{LINEAGE_ENTRIES, PEER_SLOTS_MAX, SERIAL_MAX};
use crate::replica::event::DiskImage;
use crate::units::{AreaId, Blocks, BootId, Epoch, NodeId, ResourceId, RunId};

/// Why metadata was not written back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The value is not one that `meta dump` wrote.
    #[error(
        "this is not a dump of twinblk metadata: {why}. Take one with `twinblk meta dump RESOURCE`"
    )]
    NotADump {
        /// What is wrong with it.
        why: String,
    },
    /// The dump does not fit the disk.
    #[error(
        "{path}: the dump is of a device of {dumped} blocks with {slots} bitmap slots and \
         {extents} hot extents, which is not the layout of this disk; nothing was changed. Use a dump of this disk, or lay \
         it out anew with `twinblk create RESOURCE --force`"
    )]
    Geometry {
        /// The disk.
        path: String,
        /// Blocks of the device in the dump.
        dumped: u64,
        /// Bitmap slots in the dump.
        slots: u8,
        /// Hot extents in the dump.
        extents: u32,
    },
    /// The disk holds another resource's metadata.
    #[error(
        "{path}: there is metadata of something else ({found}) than in the dump; nothing was \
         changed. Lay the disk out anew with `twinblk create RESOURCE --force` first if it is not needed"
    )]
    Foreign {
        /// The disk.
        path: String,
        /// Whose, and of which generation.
        found: String,
    },
    /// The system refused.
    #[error(transparent)]
    Raw(#[from] RawError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dump {
    version: u32,
    serial: u64,
    resource: String,
    node: u8,
    area: String,
    geometry: GeometryDump,
    data: DataDump,
    primary: bool,
    log_live: bool,
    former_primary: bool,
    rebooted: bool,
    /// Absent in version 1, which had no such thing.
    parted: Option<bool>,
    epoch: u64,
    /// Absent before version 3, which had no such thing.
    current: Option<u64>,
    run: String,
    boot: String,
    lineage: Vec<GenerationDump>,
    #[serde(deserialize_with = "present")]
    sync_target: Option<SyncTargetDump>,
    slots: Vec<SlotDump>,
    log: LogDump,
    bitmaps: Vec<BitmapDump>,
    /// What was found damaged.
    notes: Vec<String>,
}

/// What may be null, but never absent: a line that got lost must not read as "none".
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GeometryDump {
    device_blocks: u64,
    peer_slots: u8,
    log_extents: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum DataDump {
    Inconsistent,
    Outdated,
    Consistent,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenerationDump {
    epoch: u64,
    id: String,
    node: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncTargetDump {
    token: String,
    generation: GenerationDump,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotDump {
    in_use: bool,
    node: u8,
    #[serde(deserialize_with = "present")]
    base: Option<GenerationDump>,
    sync_token: String,
    all_marked: bool,
    withdrawn: bool,
    bond_confirmed: String,
    bond_tentative: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogDump {
    /// It could not be trusted: every extent counts as hot, and `hot` says nothing.
    unreadable: bool,
    next_transaction: u64,
    /// Log slot and the extent in it.
    hot: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BitmapDump {
    marked_blocks: u64,
    /// First block and number of blocks.
    runs: Vec<(u64, u64)>,
    bad_pages: Vec<u32>,
}

/// All metadata of a stopped disk.
///
/// # Errors
/// One sentence why it cannot be read.
pub fn dump(disk: &StoppedDisk) -> Result<serde_json::Value, String> {
    let opened = disk.open().map_err(|refused| refused.why)?;
    let dump = Dump::new(&opened.image, opened.notes);
    serde_json::to_value(dump).map_err(|error| error.to_string())
}

/// What is wrong with the metadata of a stopped disk, one sentence each; none if all is well.
#[must_use]
pub fn check(disk: &StoppedDisk) -> Vec<String> {
    match disk.open() {
        Ok(opened) => opened.notes,
        Err(refused) => vec![refused.why],
    }
}

/// Writes back what [`dump`] gave. What was unreadable when it was dumped stays marked.
///
/// # Errors
/// See [`RestoreError`]. Nothing is changed unless the dump was understood and fits.
pub fn restore(disk: &mut StoppedDisk, value: &serde_json::Value) -> Result<(), RestoreError> {
    let not_a_dump = |why: String| RestoreError::NotADump { why };
    let dump = Dump::deserialize(value).map_err(|error| not_a_dump(error.to_string()))?;
    let superblock = dump.superblock().map_err(|why| not_a_dump(why.to_owned()))?;
    superblock::check(&superblock).map_err(|why| not_a_dump(why.to_string()))?;
    let geometry = superblock.geometry;
    let found = disk.found();
    fits(disk, &found, &superblock)?;
    let bitmaps = dump.bitmaps(geometry).map_err(|why| not_a_dump(why.to_owned()))?;
    let log = dump.log_ring(LogIdentity::of(&superblock));
    let log = log.map_err(|why| not_a_dump(why.to_owned()))?;
    disk.wipe(&found)?;
    disk.write(&Area { superblock: &superblock, log, bitmaps: &bitmaps })?;
    Ok(())
}

/// Whether this superblock may be written over what was found.
fn fits(disk: &StoppedDisk, found: &Found, dumped: &Superblock) -> Result<(), RestoreError> {
    let Geometry { device_blocks, peer_slots, log_extents } = dumped.geometry;
    let expected = match found {
        Found::Superblock(there) => Some(there.geometry),
        Found::Nothing | Found::Damaged(_) => disk.geometry_for(dumped.geometry),
        Found::Newer(found) => {
            let path = disk.metadata_file().path().display().to_string();
            return Err(RestoreError::Foreign { path, found: found.clone() });
        }
    };
    if expected != Some(dumped.geometry) {
        return Err(RestoreError::Geometry {
            path: disk.data.path().display().to_string(),
            dumped: device_blocks,
            slots: peer_slots,
            extents: log_extents,
        });
    }
    match found {
        Found::Superblock(there)
            if there.lineage.head().is_some()
                && (there.resource, there.node) != (dumped.resource, dumped.node) =>
        {
            let path = disk.metadata_file().path().display().to_string();
            Err(RestoreError::Foreign { path, found: describe(there) })
        }
        _ => Ok(()),
    }
}

impl Dump {
    fn new(image: &DiskImage, notes: Vec<String>) -> Self {
        let superblock = &image.superblock;
        let Geometry { device_blocks, peer_slots, log_extents } = superblock.geometry;
        let slots = &superblock.slots[..usize::from(peer_slots)];
        let marks = image.bitmaps.iter().zip(&image.bad_pages);
        Self {
            version: DISK_VERSION,
            serial: superblock.serial,
            resource: hex128(superblock.resource.0),
            node: superblock.node.0,
            area: hex64(superblock.area.0),
            geometry: GeometryDump { device_blocks, peer_slots, log_extents },
            data: DataDump::new(superblock.data),
            primary: superblock.primary,
            log_live: superblock.log_live,
            former_primary: superblock.former_primary,
            rebooted: superblock.rebooted,
            parted: Some(superblock.parted),
            epoch: superblock.epoch.0,
            current: Some(superblock.current.0),
            run: hex64(superblock.run.0),
            boot: hex128(superblock.boot.0),
            lineage: superblock.lineage.generations().iter().map(GenerationDump::new).collect(),
            sync_target: superblock.sync_target.as_ref().map(SyncTargetDump::new),
            slots: slots.iter().map(SlotDump::new).collect(),
            log: LogDump::new(&image.log),
            bitmaps: marks.map(|(words, bad)| BitmapDump::new(words, bad)).collect(),
            notes,
        }
    }

    fn superblock(&self) -> Result<Superblock, &'static str> {
        if !(DISK_VERSION_MIN..=DISK_VERSION).contains(&self.version) {
            return Err("it is of another version");
        }
        let old = self.version == 1;
        let current = self.current.or((self.version < 3).then_some(self.epoch));
        let GeometryDump { device_blocks, peer_slots, log_extents } = self.geometry;
        let geometry = Geometry { device_blocks, peer_slots, log_extents };
        if geometry.fault().is_some() || self.slots.len() != usize::from(peer_slots) {
            return Err("its geometry is none");
        }
        if self.serial >= SERIAL_MAX {
            return Err("its serial is none");
        }
        if self.lineage.len() > LINEAGE_ENTRIES {
            return Err("it has too many generations");
        }
        let mut slots = [PeerSlot::default(); PEER_SLOTS_MAX];
        for (slot, dumped) in slots.iter_mut().zip(&self.slots) {
            *slot = dumped.read().ok_or("a slot of it is none")?;
        }
        let generations = self.lineage.iter().map(GenerationDump::read).collect::<Option<_>>();
        let sync_target = self.sync_target.as_ref().map(SyncTargetDump::read);
        let resource = read128(&self.resource).filter(|id| *id != 0);
        Ok(Superblock {
            serial: self.serial,
            resource: ResourceId(resource.ok_or("its resource is none")?),
            node: NodeId(self.node),
            area: AreaId(read64(&self.area).ok_or("its area is none")?),
            geometry,
            data: self.data.read(),
            primary: self.primary,
            log_live: self.log_live,
            former_primary: self.former_primary,
            rebooted: self.rebooted,
            parted: self.parted.or(old.then_some(false)).ok_or("it lacks `parted`")?,
            epoch: Epoch(self.epoch),
            current: Epoch(current.ok_or("it lacks `current`")?),
            run: RunId(read64(&self.run).ok_or("its run is none")?),
            boot: BootId(read128(&self.boot).ok_or("its boot is none")?),
            lineage: Lineage::new(generations.ok_or("a generation of it is none")?),
            sync_target: match sync_target {
                Some(target) => Some(target.ok_or("its sync_target is none")?),
                None => None,
            },
            slots,
        })
    }

    /// The words of each slot.
    fn bitmaps(&self, geometry: Geometry) -> Result<Vec<Vec<u64>>, &'static str> {
        if self.bitmaps.len() != usize::from(geometry.peer_slots) {
            return Err("it has not as many bitmaps as slots");
        }
        self.bitmaps.iter().map(|bitmap| bitmap.words(geometry.device_blocks)).collect()
    }

    /// The blocks of the log's ring. An unreadable log stays one.
    fn log_ring(&self, log: LogIdentity) -> Result<Vec<[u8; RECORD_BYTES]>, &'static str> {
        let log_extents = log.geometry.log_extents;
        let ring = extent_log::ring_blocks(log_extents);
        if self.log.unreadable {
            return Ok((0..ring).map(|_| [0; RECORD_BYTES]).collect());
        }
        let slots = self.log.slots(log.geometry)?;
        let first = self.log.next_transaction.max(FIRST_TRANSACTION);
        // The last of the ring, too, must be one that is believed.
        if first > SERIAL_MAX - ring {
            return Err("its next_transaction is none");
        }
        let mut blocks = extent_log::fresh_ring(log, first);
        for number in first..first + ring {
            let window = extent_log::window_for(number, log_extents);
            let shown = &slots[window.start as usize..window.end as usize];
            let (window_start, window) = (window.start, shown.to_vec());
            let updates = Vec::new();
            let transaction = LogTransaction { number, updates, window_start, window };
            let place = usize::try_from(number % ring).map_err(|_| "its log is too long")?;
            blocks[place] = extent_log::encode(log, &transaction);
        }
        Ok(blocks)
    }
}

impl DataDump {
    const fn new(data: DataState) -> Self {
        match data {
            DataState::Inconsistent => Self::Inconsistent,
            DataState::Outdated => Self::Outdated,
            DataState::Consistent => Self::Consistent,
        }
    }

    const fn read(self) -> DataState {
        match self {
            Self::Inconsistent => DataState::Inconsistent,
            Self::Outdated => DataState::Outdated,
            Self::Consistent => DataState::Consistent,
        }
    }
}

impl GenerationDump {
    fn new(generation: &Generation) -> Self {
        let Generation { epoch, id, node } = generation;
        Self { epoch: epoch.0, id: hex64(*id), node: node.0 }
    }

    fn read(&self) -> Option<Generation> {
        let id = read64(&self.id).filter(|id| *id != 0)?;
        Some(Generation { epoch: Epoch(self.epoch), id, node: NodeId(self.node) })
    }
}

impl SyncTargetDump {
    fn new(target: &SyncTarget) -> Self {
        let generation = GenerationDump::new(&target.generation);
        Self { token: hex64(target.token), generation }
    }

    fn read(&self) -> Option<SyncTarget> {
        let generation = self.generation.read()?;
        Some(SyncTarget { token: read64(&self.token)?, generation })
    }
}

impl SlotDump {
    fn new(slot: &PeerSlot) -> Self {
        Self {
            in_use: slot.in_use,
            node: slot.node.0,
            base: slot.base.as_ref().map(GenerationDump::new),
            sync_token: hex64(slot.sync_token),
            all_marked: slot.all_marked,
            withdrawn: slot.withdrawn,
            bond_confirmed: hex64(slot.bond.confirmed),
            bond_tentative: hex64(slot.bond.tentative),
        }
    }

    fn read(&self) -> Option<PeerSlot> {
        let base = match &self.base {
            Some(generation) => Some(generation.read()?),
            None => None,
        };
        Some(PeerSlot {
            in_use: self.in_use,
            node: NodeId(self.node),
            base,
            sync_token: read64(&self.sync_token)?,
            all_marked: self.all_marked,
            withdrawn: self.withdrawn,
            bond: Bond {
                confirmed: read64(&self.bond_confirmed)?,
                tentative: read64(&self.bond_tentative)?,
            },
        })
    }
}

impl LogDump {
    fn new(log: &LogImage) -> Self {
        match log {
            LogImage::Hot { slots, next_transaction } => {
                let hot = (0..).zip(slots).filter_map(|(slot, extent)| Some((slot, (*extent)?)));
                let next_transaction = *next_transaction;
                Self { unreadable: false, next_transaction, hot: hot.collect() }
            }
            LogImage::Unreadable { next_transaction } => {
                let next_transaction = *next_transaction;
                Self { unreadable: true, next_transaction, hot: Vec::new() }
            }
        }
    }

    /// What each log slot holds.
    fn slots(&self, geometry: Geometry) -> Result<Vec<Option<u32>>, &'static str> {
        let mut slots = vec![None; geometry.log_extents as usize];
        let mut seen = BTreeSet::new();
        for (slot, extent) in &self.hot {
            let slot = slots.get_mut(*slot as usize).ok_or("a log slot of it is none")?;
            if *extent >= geometry.extents() || slot.replace(*extent).is_some() {
                return Err("a hot extent of it is none");
            }
            // A log that says so counts as unreadable.
            if !seen.insert(*extent) {
                return Err("a hot extent of it is in two log slots");
            }
        }
        Ok(slots)
    }
}

impl BitmapDump {
    fn new(words: &[u64], bad_pages: &[u32]) -> Self {
        let runs: Vec<(u64, u64)> = bits::runs(words).map(|run| (run.start, run.count)).collect();
        let marked_blocks = runs.iter().map(|(_, count)| count).sum();
        Self { marked_blocks, runs, bad_pages: bad_pages.to_vec() }
    }

    fn words(&self, device_blocks: u64) -> Result<Vec<u64>, &'static str> {
        let length = usize::try_from(device_blocks.div_ceil(64));
        let mut words = vec![0u64; length.map_err(|_| "its device is too large")?];
        for (start, count) in &self.runs {
            let end = start.checked_add(*count).filter(|end| *end <= device_blocks);
            end.ok_or("a run of it lies outside the device")?;
            bits::set(&mut words, Blocks::new(*start, *count));
        }
        Ok(words)
    }
}

fn hex64(number: u64) -> String {
    format!("{number:016x}")
}

fn hex128(number: u128) -> String {
    format!("{number:032x}")
}

fn read64(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn read128(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}
