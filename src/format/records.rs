//! Owns the small records that stand both in the superblock and in link frames.
//! Must never change by itself: its layout is part of the disk format and of the wire format.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::lineage::{Generation, Lineage};
use super::superblock::{Bond, DataState, PeerSlot, SyncTarget};
use crate::limits::{EPOCH_STORED_MAX, LINEAGE_ENTRIES};
use crate::units::{Epoch, NodeId};

/// A [`Generation`]; all zero stands for none.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct GenerationRecord {
    epoch: U64,
    id: U64,
    node: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<GenerationRecord>() == 24);
const _: () = assert!(std::mem::offset_of!(GenerationRecord, node) == 16);

impl GenerationRecord {
    pub(super) const NONE: Self =
        Self { epoch: U64::ZERO, id: U64::ZERO, node: 0, reserved: [0; 7] };

    pub(super) const fn new(generation: Generation) -> Self {
        Self {
            epoch: U64::new(generation.epoch.0),
            id: U64::new(generation.id),
            node: generation.node.0,
            reserved: [0; 7],
        }
    }

    /// The generation; none if a rule is broken: a zero id, an epoch without end, or reserved bytes
    /// in use.
    pub(super) fn read(&self) -> Option<Generation> {
        let bounded = self.epoch.get() <= EPOCH_STORED_MAX;
        let valid = bounded && self.id.get() != 0 && self.reserved == [0; 7];
        valid.then(|| Generation {
            epoch: Epoch(self.epoch.get()),
            id: self.id.get(),
            node: NodeId(self.node),
        })
    }

    /// The generation, or that there is none, as `present` says. The outer `None`: a rule is
    /// broken.
    pub(super) fn read_optional(&self, present: bool) -> Option<Option<Generation>> {
        if present { self.read().map(Some) } else { is_zero(self).then_some(None) }
    }
}

/// A [`Lineage`]: the first entries are in use, the others are zero.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LineageRecord {
    generations: [GenerationRecord; LINEAGE_ENTRIES],
}

const _: () = assert!(size_of::<LineageRecord>() == 768);

impl LineageRecord {
    /// The record and the number of entries in use.
    pub(super) fn new(lineage: &Lineage) -> (Self, u8) {
        let mut generations = [GenerationRecord::NONE; LINEAGE_ENTRIES];
        for (record, generation) in generations.iter_mut().zip(lineage.generations()) {
            *record = GenerationRecord::new(*generation);
        }
        let count = u8::try_from(lineage.generations().len()).expect("a lineage is bounded");
        (Self { generations }, count)
    }

    /// The first `count` entries; none if a rule is broken.
    pub(super) fn read(&self, count: u8) -> Option<Lineage> {
        let (used, unused) = self.generations.split_at_checked(usize::from(count))?;
        let generations = used.iter().map(GenerationRecord::read).collect::<Option<_>>()?;
        is_zero(unused).then(|| Lineage::new(generations))
    }
}

/// A [`SyncTarget`]; all zero if there is none.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SyncTargetRecord {
    token: U64,
    generation: GenerationRecord,
}

const _: () = assert!(size_of::<SyncTargetRecord>() == 32);

impl SyncTargetRecord {
    pub(super) fn new(target: Option<SyncTarget>) -> Self {
        let record = |target: SyncTarget| Self {
            token: U64::new(target.token),
            generation: GenerationRecord::new(target.generation),
        };
        let none = Self { token: U64::ZERO, generation: GenerationRecord::NONE };
        target.map_or(none, record)
    }

    /// As `present` says; the outer `None`: a rule is broken.
    pub(super) fn read(&self, present: bool) -> Option<Option<SyncTarget>> {
        if !present {
            return is_zero(self).then_some(None);
        }
        let generation = self.generation.read()?;
        Some(Some(SyncTarget { token: self.token.get(), generation }))
    }
}

/// A [`PeerSlot`]. Every field keeps its value also while the slot is not in use.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SlotRecord {
    in_use: u8,
    node: u8,
    has_base: u8,
    all_marked: u8,
    withdrawn: u8,
    reserved: [u8; 3],
    base: GenerationRecord,
    sync_token: U64,
    bond_confirmed: U64,
    bond_tentative: U64,
}

const _: () = assert!(size_of::<SlotRecord>() == 56);
const _: () = assert!(std::mem::offset_of!(SlotRecord, base) == 8);
const _: () = assert!(std::mem::offset_of!(SlotRecord, sync_token) == 32);

impl SlotRecord {
    pub(super) fn new(slot: &PeerSlot) -> Self {
        Self {
            in_use: slot.in_use.into(),
            node: slot.node.0,
            has_base: slot.base.is_some().into(),
            all_marked: slot.all_marked.into(),
            withdrawn: slot.withdrawn.into(),
            reserved: [0; 3],
            base: slot.base.map_or(GenerationRecord::NONE, GenerationRecord::new),
            sync_token: U64::new(slot.sync_token),
            bond_confirmed: U64::new(slot.bond.confirmed),
            bond_tentative: U64::new(slot.bond.tentative),
        }
    }

    /// The slot; none if a rule is broken.
    pub(super) fn read(&self) -> Option<PeerSlot> {
        let base = self.base.read_optional(flag(self.has_base)?)?;
        let slot = PeerSlot {
            in_use: flag(self.in_use)?,
            node: NodeId(self.node),
            base,
            sync_token: self.sync_token.get(),
            all_marked: flag(self.all_marked)?,
            withdrawn: flag(self.withdrawn)?,
            bond: Bond {
                confirmed: self.bond_confirmed.get(),
                tentative: self.bond_tentative.get(),
            },
        };
        (self.reserved == [0; 3]).then_some(slot)
    }
}

/// The number of a [`DataState`]. Zero is no state, so that zeroes are never mistaken for one.
pub(super) const fn data_number(data: DataState) -> u8 {
    match data {
        DataState::Inconsistent => 1,
        DataState::Outdated => 2,
        DataState::Consistent => 3,
    }
}

/// The state of that number.
pub(super) const fn data_state(number: u8) -> Option<DataState> {
    match number {
        1 => Some(DataState::Inconsistent),
        2 => Some(DataState::Outdated),
        3 => Some(DataState::Consistent),
        _ => None,
    }
}

/// A byte that says yes or no.
pub(super) const fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Whether every byte of a record is zero.
pub(super) fn is_zero<T: IntoBytes + Immutable + ?Sized>(record: &T) -> bool {
    record.as_bytes().iter().all(|byte| *byte == 0)
}
