//! Owns the frames two nodes exchange once a link session stands, and their bytes on the wire.
//! Must never do I/O or keep state of a connection.

use super::lineage::{Generation, Lineage};
use super::superblock::{Bond, DataState, PeerSlot, SyncTarget};
use crate::units::{Blocks, BootId, Epoch, NodeId, ResourceId, Sequence};

pub use super::frame_codec::{FrameError, HEADER_BYTES, Header, Tag, decode_header, encode};
pub use super::frame_kinds::{BODY_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX};

/// Which of the two connections of a path a frame travels on. Frames keep their order within a
/// channel; a control frame may overtake any data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Writes, resync, and all that must keep its place among them.
    Data,
    /// Acknowledgements and heartbeats.
    Control,
}

/// Role of a node for one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves clients.
    Primary,
    /// Keeps a copy.
    Secondary,
}

/// The usability of a node's local copy, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskState {
    /// No disk.
    Diskless,
    /// A disk that returned an error and is being let go.
    Failed,
    /// Blocks of mixed age.
    Inconsistent,
    /// Consistent and known to be old.
    Outdated,
    /// Consistent; whether newest is not known.
    Consistent,
    /// The newest data.
    UpToDate,
}

/// How long a client's write waits for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not at all: answered when written here and queued for the peer.
    A,
    /// Until the peer received it.
    B,
    /// Until the peer wrote it.
    C,
}

/// All that two nodes must know of each other to decide whose data is newer. Travels as the body
/// of [`Frame::State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// The resource.
    pub resource: ResourceId,
    /// The sender.
    pub node: NodeId,
    /// Blocks of the sender's device.
    pub device_blocks: u64,
    /// Replication protocol in the sender's configuration; must be equal on both.
    pub protocol: Protocol,
    /// Role now.
    pub role: Role,
    /// Local disk now.
    pub disk: DiskState,
    /// Durable state of the data; meaningful unless `disk` is Diskless.
    pub data: DataState,
    /// The newest epoch in which its copy was a current one. (The highest it has adopted tags the frame.)
    pub current: Epoch,
    /// Boot of the sender's host, and of its disk: another one after each time that this may have forgotten something.
    pub boot: BootId,
    /// What the sender acknowledged may be gone since the copies were last equal: its host has booted,
    /// its disk failed, or, under B, its process ended with writes in memory.
    pub rebooted: bool,
    /// The sender was primary when its last life ended, or is now.
    pub was_primary: bool,
    /// The operator said `connect --discard-my-data` on the sender.
    pub discard_my_data: bool,
    /// Generations, oldest first.
    pub lineage: Lineage,
    /// A resync into the sender.
    pub sync_target: Option<SyncTarget>,
    /// What the sender records about the receiver.
    pub slot: PeerSlot,
    /// Blocks marked in that slot, all of them if `all_marked`.
    pub marked_blocks: u64,
}

impl PeerState {
    /// The last meetings as the sender recorded them.
    #[must_use]
    pub const fn bond(&self) -> Bond {
        self.slot.bond
    }
}

/// Why a node ends a session on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByeReason {
    /// To negotiate anew at once: something that decides direction has changed.
    Renegotiate,
    /// The operator disconnected the sender. A secondary that follows a primary and has a disk withdraws
    /// by that: it is Outdated on its own record.
    Disconnect,
    /// The sender's daemon stops as planned.
    Stop,
    /// The sender refuses: split brain.
    SplitBrain,
    /// The sender refuses: unrelated data, a disk that was restored, or no whole copy to go by.
    Unrelated,
    /// The sender refuses: something in the configurations differs.
    Incompatible,
    /// The sender refuses: a primary would have to become target.
    PrimaryWouldBeTarget,
}

/// A frame. `Write`, `ResyncData`, `ReadAnswer` carry a payload of whole blocks that is not part
/// of this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Data, first frame of a session, both ways.
    State(Box<PeerState>),
    /// Data: the sender has durably recorded this meeting (the session id) as tentative.
    Met,
    /// Data: a client's write (or one piece of it). Starts only when all up to `after` is stable.
    Write {
        /// Place in the stream.
        sequence: Sequence,
        /// What must be stable on the receiver before this write starts.
        after: Sequence,
        /// Where.
        blocks: Blocks,
        /// Written means stable (FUA).
        fua: bool,
    },
    /// Data: TRIM or WRITE_ZEROES; afterwards the blocks read as zeroes.
    Zero {
        /// Place in the stream.
        sequence: Sequence,
        /// What must be stable on the receiver before this starts.
        after: Sequence,
        /// Where.
        blocks: Blocks,
        /// Written means stable (FUA).
        fua: bool,
        /// The space may be given back.
        discard: bool,
    },
    /// Data: answer with `Stable` when all up to `sequence` is stable.
    Barrier {
        /// Newest write covered.
        sequence: Sequence,
    },
    /// Data: blocks of a resync.
    ResyncData {
        /// Place in the stream.
        sequence: Sequence,
        /// Where.
        blocks: Blocks,
    },
    /// Data: blocks of a resync that are zero.
    ResyncZero {
        /// Place in the stream.
        sequence: Sequence,
        /// Where.
        blocks: Blocks,
    },
    /// Data: the hash (blake3) of the source's blocks; answered by `HashAnswer`.
    ResyncHash {
        /// Place in the stream.
        sequence: Sequence,
        /// Where.
        blocks: Blocks,
        /// 256 bits.
        digest: Box<[u8; 32]>,
    },
    /// Data: whether the target's blocks have the hash asked about.
    HashAnswer {
        /// Of the `ResyncHash`.
        sequence: Sequence,
        /// Nothing needs to be sent.
        equal: bool,
    },
    /// Data: one bitmap page of the sender's marks towards the receiver (`format::bitmap`
    /// numbering). Pages without marks are not sent.
    Marks {
        /// Page number.
        page: u32,
        /// Its words, 1 to [`WORDS_PER_PAGE`](super::bitmap::WORDS_PER_PAGE); missing ones are 0.
        words: Box<[u64]>,
    },
    /// Data: the sender has marked everything.
    MarksAll,
    /// Data: all marks have been sent.
    MarksDone,
    /// Data, from the target: Inconsistent, the resync's token and the adopted epoch are durable;
    /// writes and resync may come.
    SyncReady {
        /// The token, drawn by the source in `SyncStart`.
        token: u64,
    },
    /// Data, from the source: give your copy up under this token. The source's own slot holds it durably
    /// before any mark goes.
    SyncStart {
        /// Drawn anew, or that of the interrupted resync.
        token: u64,
    },
    /// Data, from the source, in its place among the writes: after this the target is a full copy.
    SyncDone {
        /// The source's lineage, to adopt.
        lineage: Box<Lineage>,
    },
    /// Data, from the target: it adopted the lineage durably.
    SyncAdopted,
    /// Data: the operator paused (or resumed) resync on the sender.
    PauseSync {
        /// Paused.
        paused: bool,
    },
    /// Data: the sender wants to be primary in this epoch.
    PromoteAsk {
        /// The epoch it would serve in.
        epoch: Epoch,
    },
    /// Data: the receiver adopted the epoch durably, or refuses.
    PromoteAnswer {
        /// As asked.
        epoch: Epoch,
        /// Granted.
        granted: bool,
    },
    /// Data: the sender's role and epoch.
    RoleChange {
        /// Role now.
        role: Role,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Data: the sender's disk state changed.
    DiskChange {
        /// Disk now.
        disk: DiskState,
    },
    /// Data: the sender's disk has failed or was detached while primary: the receiver begins this
    /// generation, durably, keeps the marks for the sender and answers `GenerationHeld`.
    GenerationBegin {
        /// The generation.
        generation: Generation,
    },
    /// Data: see `GenerationBegin`.
    GenerationHeld {
        /// The generation.
        generation: Generation,
    },
    /// Data: the sender (A, congested) stops mirroring; the receiver is behind until a resync.
    Behind,
    /// Data: read these blocks for the sender.
    ReadAsk {
        /// Echoed in the answer.
        id: u64,
        /// Where.
        blocks: Blocks,
    },
    /// Data: the blocks asked for; without payload if they cannot be read.
    ReadAnswer {
        /// Of the `ReadAsk`.
        id: u64,
        /// Whether the payload is there.
        ok: bool,
        /// Where.
        blocks: Blocks,
    },
    /// Data: compare these blocks; digests (one 256-bit blake3 per block) in the body.
    VerifyAsk {
        /// Echoed in the answer.
        id: u64,
        /// Where.
        blocks: Blocks,
        /// One per block.
        digests: Box<[[u8; 32]]>,
    },
    /// Data: which of the blocks differ.
    VerifyAnswer {
        /// Of the `VerifyAsk`.
        id: u64,
        /// Where.
        blocks: Blocks,
        /// Bit i: block `start + i` differs. `None`: it could not be read.
        differing: Option<Box<[u64]>>,
    },
    /// Data: the blocks hold only zeroes on the sender? Asked by `init --both-empty`.
    EmptyAsk {
        /// The generation that both begin if so.
        generation: Generation,
    },
    /// Data: see `EmptyAsk`.
    EmptyAnswer {
        /// The receiver's device holds only zeroes and it has begun the generation, durably.
        empty: bool,
    },
    /// Data, last of a session.
    Bye {
        /// Why.
        reason: ByeReason,
    },
    /// Control: the writes `first..=last` are in the receiver's memory (B).
    Received {
        /// First of the run.
        first: Sequence,
        /// Last of the run.
        last: Sequence,
    },
    /// Control: the disk of the receiver completed the writes `first..=last`.
    Written {
        /// First of the run.
        first: Sequence,
        /// Last of the run.
        last: Sequence,
    },
    /// Control: all up to `sequence` is stable on the receiver.
    Stable {
        /// Newest write covered.
        sequence: Sequence,
    },
    /// Control: the receiver's disk refused this write; it is Failed.
    WriteFailed {
        /// The write.
        sequence: Sequence,
    },
    /// Control: heartbeat. Echoes the newest one heard, so that each side knows it is heard.
    Ping {
        /// Counts up.
        number: u64,
        /// Newest `number` heard from the other side.
        echo: u64,
    },
}

impl Frame {
    /// The kind: its number on the wire and its name in logs and counters.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        super::frame_fields::kind(self)
    }

    /// The connection it travels on.
    #[must_use]
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Received { .. }
            | Self::Written { .. }
            | Self::Stable { .. }
            | Self::WriteFailed { .. }
            | Self::Ping { .. } => Channel::Control,
            _ => Channel::Data,
        }
    }

    /// The newest epoch it names besides the one of its tag; 0 if it names none.
    #[must_use]
    pub fn names_epoch(&self) -> Epoch {
        let newest = |lineage: &Lineage| lineage.head().map_or(Epoch(0), |head| head.epoch);
        match self {
            Self::State(state) => state.current.max(newest(&state.lineage)),
            Self::SyncDone { lineage } => newest(lineage),
            Self::PromoteAsk { epoch } | Self::RoleChange { epoch, .. } => *epoch,
            Self::GenerationBegin { generation } | Self::EmptyAsk { generation } => {
                generation.epoch
            }
            _ => Epoch(0),
        }
    }

    /// The blocks of the payload that follows, if the frame has one.
    #[must_use]
    pub const fn payload(&self) -> Option<Blocks> {
        match self {
            Self::Write { blocks, .. }
            | Self::ResyncData { blocks, .. }
            | Self::ReadAnswer { ok: true, blocks, .. } => Some(*blocks),
            _ => None,
        }
    }
}
