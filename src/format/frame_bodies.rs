//! Owns the bodies of link frames: what does not fit in the header and is not payload.
//! Must never see a body whose length and checksum were not compared with its header.

use std::mem::offset_of;

use zerocopy::little_endian::{U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::{DiskState, Frame, PeerState, Protocol, Role};
use super::lineage::{Generation, Lineage};
use super::records::{
    GenerationRecord, LineageRecord, SlotRecord, SyncTargetRecord, data_number, data_state, flag,
};
use crate::limits::{DEVICE_BLOCKS_MAX, EPOCH_MAX};
use crate::units::{BootId, Epoch, NodeId, ResourceId};

/// Bytes of one generation of a `SyncDone`.
#[expect(clippy::cast_possible_truncation, reason = "24")]
pub(super) const GENERATION_BYTES: u32 = size_of::<GenerationRecord>() as u32;

/// Bytes of the body of a `State`.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
pub(super) const STATE_BYTES: u32 = size_of::<StateRecord>() as u32;

/// The body of a `State`, as `manual::wire_format` draws it.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct StateRecord {
    resource: U128,
    boot: U128,
    device_blocks: U64,
    current: U64,
    marked_blocks: U64,
    node: u8,
    protocol: u8,
    role: u8,
    disk: u8,
    data: u8,
    bits: u8,
    lineage_count: u8,
    sync_target_present: u8,
    sync_target: SyncTargetRecord,
    slot: SlotRecord,
    lineage: LineageRecord,
}

const _: () = assert!(size_of::<StateRecord>() == 920);
const _: () = assert!(offset_of!(StateRecord, node) == 56);
const _: () = assert!(offset_of!(StateRecord, sync_target) == 64);
const _: () = assert!(offset_of!(StateRecord, slot) == 96);
const _: () = assert!(offset_of!(StateRecord, lineage) == 152);

/// `bits` of a [`StateRecord`].
const REBOOTED: u8 = 1;
const WAS_PRIMARY: u8 = 2;
const DISCARD_MY_DATA: u8 = 4;

/// Appends the body of a frame, if it has one.
pub(super) fn append(frame: &Frame, out: &mut Vec<u8>) {
    match frame {
        Frame::State(state) => out.extend_from_slice(StateRecord::new(state).as_bytes()),
        Frame::SyncDone { lineage } => {
            for generation in lineage.generations() {
                out.extend_from_slice(GenerationRecord::new(*generation).as_bytes());
            }
        }
        Frame::ResyncHash { digest, .. } => out.extend_from_slice(&digest[..]),
        Frame::VerifyAsk { digests, .. } => out.extend_from_slice(digests.as_flattened()),
        Frame::Marks { words, .. } => append_words(words, out),
        Frame::VerifyAnswer { differing: Some(words), .. } => append_words(words, out),
        _ => (),
    }
}

fn append_words(words: &[u64], out: &mut Vec<u8>) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The words of a body whose length is a multiple of theirs.
pub(super) fn words(body: &[u8]) -> Box<[u64]> {
    let (words, _) = body.as_chunks();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// The digests of a body whose length is a multiple of theirs.
pub(super) fn digests(body: &[u8]) -> Box<[[u8; 32]]> {
    body.as_chunks().0.into()
}

/// The lineage of a body whose length is a bounded multiple of a generation's.
pub(super) fn lineage(body: &[u8]) -> Option<Lineage> {
    let records = <[GenerationRecord]>::ref_from_bytes(body).ok()?;
    let generations = records.iter().map(GenerationRecord::read).collect::<Option<_>>()?;
    Some(Lineage::new(generations)).filter(|lineage| are_near(lineage.generations()))
}

/// Whether no generation is of an epoch that a peer may not name.
fn are_near<'a>(generations: impl IntoIterator<Item = &'a Generation>) -> bool {
    generations.into_iter().all(|generation| generation.epoch.0 <= EPOCH_MAX)
}

/// The state of a node, or the name of the field that breaks a rule.
pub(super) fn state(body: &[u8]) -> Result<PeerState, &'static str> {
    let record = StateRecord::ref_from_bytes(body).map_err(|_| "length")?;
    let bits = record.bits;
    let present = flag(record.sync_target_present).ok_or("sync_target_present")?;
    if bits & !(REBOOTED | WAS_PRIMARY | DISCARD_MY_DATA) != 0 {
        return Err("bits");
    }
    let state = PeerState {
        resource: ResourceId(record.resource.get()),
        node: NodeId(record.node),
        device_blocks: block_count(record.device_blocks).ok_or("device_blocks")?,
        protocol: protocol(record.protocol).ok_or("protocol")?,
        role: role(record.role.into()).ok_or("role")?,
        disk: disk(record.disk.into()).ok_or("disk")?,
        data: data_state(record.data).ok_or("data")?,
        current: Epoch(record.current.get()),
        boot: BootId(record.boot.get()),
        rebooted: bits & REBOOTED != 0,
        was_primary: bits & WAS_PRIMARY != 0,
        discard_my_data: bits & DISCARD_MY_DATA != 0,
        lineage: record.lineage.read(record.lineage_count).ok_or("lineage")?,
        sync_target: record.sync_target.read(present).ok_or("sync_target")?,
        slot: record.slot.read().ok_or("slot")?,
        marked_blocks: block_count(record.marked_blocks).ok_or("marked_blocks")?,
    };
    let target = state.sync_target.as_ref().map(|target| &target.generation);
    let others = target.into_iter().chain(&state.slot.base);
    let near = are_near(state.lineage.generations().iter().chain(others));
    if !near || state.current.0 > EPOCH_MAX {
        return Err("epoch");
    }
    // Who has a disk has an identity, which the other node may take over.
    let named = state.resource.0 != 0 || state.disk <= DiskState::Failed;
    if named { Ok(state) } else { Err("resource") }
}

/// A number of blocks that some device can have.
fn block_count(field: U64) -> Option<u64> {
    (field.get() <= DEVICE_BLOCKS_MAX).then_some(field.get())
}

impl StateRecord {
    fn new(state: &PeerState) -> Self {
        let (lineage, lineage_count) = LineageRecord::new(&state.lineage);
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        Self {
            resource: state.resource.0.into(),
            boot: state.boot.0.into(),
            device_blocks: state.device_blocks.into(),
            current: state.current.0.into(),
            marked_blocks: state.marked_blocks.into(),
            node: state.node.0,
            protocol: protocol_number(state.protocol),
            role: role_number(state.role),
            disk: disk_number(state.disk),
            data: data_number(state.data),
            bits: bit(state.rebooted, REBOOTED)
                | bit(state.was_primary, WAS_PRIMARY)
                | bit(state.discard_my_data, DISCARD_MY_DATA),
            lineage_count,
            sync_target_present: state.sync_target.is_some().into(),
            sync_target: SyncTargetRecord::new(state.sync_target),
            slot: SlotRecord::new(&state.slot),
            lineage,
        }
    }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::A => 1,
        Protocol::B => 2,
        Protocol::C => 3,
    }
}

const fn protocol(number: u8) -> Option<Protocol> {
    match number {
        1 => Some(Protocol::A),
        2 => Some(Protocol::B),
        3 => Some(Protocol::C),
        _ => None,
    }
}

/// The number of a [`Role`].
pub(super) const fn role_number(role: Role) -> u8 {
    match role {
        Role::Primary => 1,
        Role::Secondary => 2,
    }
}

/// The role of that number.
pub(super) const fn role(number: u64) -> Option<Role> {
    match number {
        1 => Some(Role::Primary),
        2 => Some(Role::Secondary),
        _ => None,
    }
}

/// The number of a [`DiskState`].
pub(super) const fn disk_number(disk: DiskState) -> u8 {
    match disk {
        DiskState::Diskless => 1,
        DiskState::Failed => 2,
        DiskState::Inconsistent => 3,
        DiskState::Outdated => 4,
        DiskState::Consistent => 5,
        DiskState::UpToDate => 6,
    }
}

/// The disk state of that number.
pub(super) const fn disk(number: u64) -> Option<DiskState> {
    match number {
        1 => Some(DiskState::Diskless),
        2 => Some(DiskState::Failed),
        3 => Some(DiskState::Inconsistent),
        4 => Some(DiskState::Outdated),
        5 => Some(DiskState::Consistent),
        6 => Some(DiskState::UpToDate),
        _ => None,
    }
}
