//! Owns what a node durably knows of itself, and its bytes on disk.
//! Must never do I/O, nor judge what the fields mean for the peer.

use super::checksum;
use super::lineage::{Generation, Lineage};
use crate::limits::PEER_SLOTS_MAX;
use crate::units::{AreaId, BootId, Epoch, NodeId, ResourceId, RunId};

pub use super::geometry::SUPERBLOCK_COPIES;
pub use super::superblock_codec::{ChooseError, SuperblockError, check, choose, decode, encode};

/// Where things lie in the metadata area, fixed at `create`. All areas start on 4 KiB boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of the exported device.
    pub device_blocks: u64,
    /// Bitmap slots laid out, one per peer.
    pub peer_slots: u8,
    /// Hot extents the activity log can hold.
    pub log_extents: u32,
}

/// What this node durably knows of its own copy of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// Blocks of mixed age: a resync has begun and not ended. Never usable alone.
    Inconsistent,
    /// A state the device once had, known to be old.
    Outdated,
    /// A state the device had; whether the newest is not known from this record alone.
    Consistent,
}

/// A resync into this node that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTarget {
    /// Drawn for this resync; the source holds the same one in its slot. A disk restored from
    /// before the resync does not carry it, so its marks are not trusted.
    pub token: u64,
    /// The source's newest generation when it began.
    pub generation: Generation,
}

/// The last sessions in which this node and a peer agreed; see `manual::disk_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// Session id of the last meeting that both recorded, or 0.
    pub confirmed: u64,
    /// Session id of a meeting that this node recorded and does not know the peer did, or 0.
    pub tentative: u64,
}

impl Bond {
    /// Another meeting begins, in which the peer told its own bond: what the peer knows to be recorded is.
    pub const fn meet(&mut self, session: u64, theirs: Self) {
        if self.tentative != 0 && self.tentative == theirs.confirmed {
            self.confirmed = self.tentative;
        }
        self.tentative = session;
    }

    /// Both remember the same last meeting, so neither disk is from before it.
    #[must_use]
    pub const fn is_shared_with(self, other: Self) -> bool {
        const fn met(one: u64, other: u64) -> bool {
            one != 0 && one == other
        }
        met(self.confirmed, other.confirmed)
            || met(self.confirmed, other.tentative)
            || met(self.tentative, other.confirmed)
    }
}

/// What this node durably knows about one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSlot {
    /// Whether a peer is assigned to the slot.
    pub in_use: bool,
    /// The peer.
    pub node: NodeId,
    /// The generation the peer's copy was last equal to; the marks of the slot are relative to
    /// it. None while the peer has everything.
    pub base: Option<Generation>,
    /// The token of a resync from this node to the peer that has begun and not ended, or 0.
    pub sync_token: u64,
    /// Everything is marked, whatever the bitmap says: written before the bits are, cleared after.
    pub all_marked: bool,
    /// The peer may not serve without an operator's word: it withdrew by its own (a planned
    /// disconnect), or holds nothing (`init`, `node replace`).
    pub withdrawn: bool,
    /// The last meetings.
    pub bond: Bond,
}

/// What a node durably knows of itself: the content of the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts writes of the superblock; of two valid copies the higher one wins.
    pub serial: u64,
    /// The resource.
    pub resource: ResourceId,
    /// The node this copy of the data belongs to.
    pub node: NodeId,
    /// The metadata area: its bitmap pages and log blocks carry the same id. Fixed at `create`.
    pub area: AreaId,
    /// Layout of the metadata area.
    pub geometry: Geometry,
    /// State of the data.
    pub data: DataState,
    /// Set, durably, before the export opens and cleared by a clean demotion: found set at start,
    /// the node crashed as primary.
    pub primary: bool,
    /// Set, durably, before the first write that relies on the activity log: found set at start,
    /// its hot extents are marks. Cleared once those marks are durable.
    pub log_live: bool,
    /// The node crashed as primary, or ceased to be it with marks left, and its data and a peer's
    /// have not been made equal since.
    pub former_primary: bool,
    /// What was not stable may be gone, since the copies were last equal: the host has booted, or the
    /// disk failed a write or a flush, data or metadata, or could not be opened.
    pub rebooted: bool,
    /// A peer was met that wrote on its own as this node did (split brain), or one of the two disks
    /// was restored from an older copy and nothing tells which, and nobody has chosen since: the peer
    /// may be the one to go on with, so this copy is not served without a word.
    pub parted: bool,
    /// The highest epoch adopted.
    pub epoch: Epoch,
    /// The newest epoch in which this copy was, or may have been, a current one: its node was primary, or
    /// granted it while the copies were equal. When both are found equal, and when a resync begins (source)
    /// or ends (target), the higher of both nodes' counts. An epoch that was only asked for, heard of, or
    /// granted by a copy that was not equal does not.
    pub current: Epoch,
    /// The present (or last) life of the store; 0 if it ended with nothing left in memory.
    pub run: RunId,
    /// The boot of the host in which that life began.
    pub boot: BootId,
    /// Generations of the data, oldest first. Empty when freshly created.
    pub lineage: Lineage,
    /// A resync into this node.
    pub sync_target: Option<SyncTarget>,
    /// One per peer.
    pub slots: [PeerSlot; PEER_SLOTS_MAX],
}

/// Bits of a resource id below those that tell the name.
const RANDOM_BITS: u32 = 96;

/// A new id for the resource of this name; never zero, which would say "none".
#[must_use]
pub fn resource_id(name: &str, random: u128) -> ResourceId {
    let random = (random & ((1 << RANDOM_BITS) - 1)).max(1);
    ResourceId(u128::from(checksum::of(name.as_bytes())) << RANDOM_BITS | random)
}

/// Whether an id was made for the resource of this name.
#[must_use]
pub fn is_id_of(id: ResourceId, name: &str) -> bool {
    id.0 >> RANDOM_BITS == u128::from(checksum::of(name.as_bytes()))
}

impl Superblock {
    /// What a node knows of itself before any disk has told it: nothing.
    #[must_use]
    pub fn blank(node: NodeId) -> Self {
        Self {
            serial: 0,
            resource: ResourceId(0),
            node,
            area: AreaId(0),
            geometry: Geometry { device_blocks: 0, peer_slots: 0, log_extents: 0 },
            data: DataState::Inconsistent,
            primary: false,
            log_live: false,
            former_primary: false,
            rebooted: false,
            parted: false,
            epoch: Epoch(0),
            current: Epoch(0),
            run: RunId(0),
            boot: BootId(0),
            lineage: Lineage::default(),
            sync_target: None,
            slots: [PeerSlot::default(); PEER_SLOTS_MAX],
        }
    }
}
