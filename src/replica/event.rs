//! Owns all that enters and leaves the core: inputs, outputs, commands and their answers.
//! Must never hold rules.
//!
//! A payload lies in a slot of the buffer pool as whole blocks: the first byte of the slot is the
//! first byte of the first block, also when a client's range starts inside that block. Who holds a
//! slot is said per effect; the carrier keeps a hold of its own from carrying out an effect until
//! its completion, so the core may release a slot as soon as it needs it no more.

use crate::buffer::{Payload, PayloadRef};
use crate::format::extent_log::LogImage;
use crate::format::frame::{DiskState, Frame, Role};
use crate::format::lineage::Generation;
use crate::format::superblock::Superblock;
use crate::units::{Blocks, Bytes, Epoch, NodeId, Session};

/// One client request, as the export numbered it; opaque to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One disk operation of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// One metadata write of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// One operator command, as the control plane numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// Index into the peers of a resource, in the order of their bitmap slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(pub u8);

/// Some blocks of a payload: `first` blocks into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The slot.
    pub payload: PayloadRef,
    /// Blocks to skip from the start of the slot.
    pub first: u16,
}

/// Slots of one client request: one for each piece of [`PIECE_BLOCKS`](crate::limits::PIECE_BLOCKS)
/// blocks, in ascending order, counted from the first block of the request.
#[derive(Debug, PartialEq, Eq)]
pub enum Pieces {
    /// The common case.
    One(Payload),
    /// A request over one piece.
    Many(Vec<Payload>),
}

impl Pieces {
    /// Hands out every slot, in order.
    pub fn each(self, mut with: impl FnMut(Payload)) {
        match self {
            Self::One(payload) => with(payload),
            Self::Many(payloads) => payloads.into_iter().for_each(with),
        }
    }
}

/// What a client asks. Ranges were checked against the size of the export.
#[derive(Debug)]
pub enum Request {
    /// Fill the slots; they come back with the reply.
    Read {
        /// Any range.
        range: Bytes,
        /// Slots to fill.
        pieces: Pieces,
    },
    /// Write the bytes that lie in the slots.
    Write {
        /// Any range.
        range: Bytes,
        /// Slots holding the bytes; the pads at both ends hold anything.
        pieces: Pieces,
        /// Answer when stable.
        fua: bool,
    },
    /// Make zero.
    Zero {
        /// Any range.
        range: Bytes,
        /// Space may be given back.
        discard: bool,
        /// Answer when stable.
        fua: bool,
    },
    /// Make all answered writes stable.
    Flush,
}

/// Why a client request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The node is no longer primary; the client should look for the other one.
    NotPrimary,
}

/// What a disk operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The device returned an error.
    Io,
    /// No space left.
    NoSpace,
}

/// Data read at the core's demand.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The blocks; the core owns the slot.
    pub payload: Payload,
    /// Every byte is zero. Only if the scan was asked for.
    pub zero: bool,
    /// blake3 of all the bytes. Only if the hash was asked for.
    pub digest: Option<Box<[u8; 32]>>,
}

/// What a `Fetch` should find out on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Whether all is zero.
    pub scan: bool,
    /// The hash of the whole.
    pub hash: bool,
}

/// All that enters the core.
#[derive(Debug)]
pub enum Input {
    /// A client's request.
    Request {
        /// Echoed in the reply.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
    /// A `Load`, `Store`, `Zero` or `Sync` ended.
    Done {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), DiskError>,
    },
    /// A `Fetch` ended.
    Fetched {
        /// Which.
        io: IoId,
        /// How.
        result: Result<Fetched, DiskError>,
    },
    /// A `Digest` ended: one blake3 per block.
    Digested {
        /// Which.
        io: IoId,
        /// How.
        result: Result<Box<[[u8; 32]]>, DiskError>,
    },
    /// A `Persist` ended; all of it is stable if `Ok`.
    Persisted {
        /// Which.
        id: PersistId,
        /// How.
        result: Result<(), DiskError>,
    },
    /// A session with a peer stands. The former one's `LinkDown` has been delivered.
    LinkUp {
        /// Who.
        peer: PeerIndex,
        /// Its id, equal on both nodes.
        session: Session,
    },
    /// A session ended.
    LinkDown {
        /// Who.
        peer: PeerIndex,
        /// Which.
        session: Session,
    },
    /// A frame of a session that stands. Its checksums, order and session were checked.
    Frame {
        /// Who.
        peer: PeerIndex,
        /// Of this session.
        session: Session,
        /// The sender's adopted epoch when it sent.
        epoch: Epoch,
        /// What.
        frame: Frame,
        /// Present exactly if `frame.payload()` says so.
        payload: Option<Payload>,
    },
    /// An operator's command.
    Command {
        /// Echoed in the answer.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// A disk was opened and its metadata read, in answer to `OpenDisk`.
    DiskOpened {
        /// What the metadata says, or why there is none.
        result: Result<Box<DiskImage>, String>,
    },
    /// The disk is closed, in answer to `CloseDisk`: its operations have ended.
    DiskClosed,
    /// Whether the device holds only zeroes, in answer to `ScanEmpty`; `None` if unreadable.
    Scanned {
        /// Only zeroes.
        empty: Option<bool>,
    },
    /// Time has passed; look at the deadlines.
    Timeout,
}

/// All metadata of a disk, as read at start or attach. Unreadable bitmap pages arrive all-ones.
#[derive(Debug)]
pub struct DiskImage {
    /// The newer valid superblock.
    pub superblock: Superblock,
    /// Marks per slot: one bit per block, in words of 64 blocks, `geometry.peer_slots` many.
    pub bitmaps: Vec<Vec<u64>>,
    /// Pages that could not be read and so are all ones, per slot: they must be written again.
    pub bad_pages: Vec<Vec<u32>>,
    /// The activity log as found.
    pub log: LogImage,
    /// The boot the host is in now.
    pub boot: crate::units::BootId,
    /// The life now begun.
    pub run: crate::units::RunId,
}

/// What a metadata write holds. The bytes are taken from the core when it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// [`Replica::superblock`](super::Replica::superblock), both copies, one after the other.
    Superblock,
    /// Bitmap pages [`Replica::bitmap_page`](super::Replica::bitmap_page), then one sync.
    Pages(Box<[PageId]>),
    /// [`Replica::log_transaction`](super::Replica::log_transaction), a
    /// [`LogTransaction`](crate::format::extent_log::LogTransaction).
    Log,
}

/// A bitmap page of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// The slot.
    pub slot: u8,
    /// Page in the slot.
    pub page: u32,
}

/// What a client's request came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A read; the slots hold the blocks.
    Data(Pieces),
    /// Anything else that succeeded.
    Done,
    /// A failure. A read's slots have been released.
    Failed(RequestError),
}

/// All that leaves the core. Small: a turn drains many of them.
#[derive(Debug)]
pub enum Output {
    /// Read into a part of a client's slot. Ends in `Done`.
    Load {
        /// Echoed.
        io: IoId,
        /// Where.
        blocks: Blocks,
        /// Held by the core until `Done`.
        into: Part,
    },
    /// Read into a fresh slot. Ends in `Fetched`, which gives the slot to the core.
    Fetch {
        /// Echoed.
        io: IoId,
        /// Where; at most a piece.
        blocks: Blocks,
        /// What to find out on the way.
        want: Want,
    },
    /// Read and hash each block. Ends in `Digested`.
    Digest {
        /// Echoed.
        io: IoId,
        /// Where; at most a piece.
        blocks: Blocks,
    },
    /// Write. Ends in `Done`.
    Store {
        /// Echoed.
        io: IoId,
        /// Where.
        blocks: Blocks,
        /// Held by the carrier until `Done`.
        from: Part,
        /// Done means stable.
        fua: bool,
    },
    /// Make zero. Ends in `Done`.
    Zero {
        /// Echoed.
        io: IoId,
        /// Where.
        blocks: Blocks,
        /// Space may be given back.
        discard: bool,
        /// Done means stable.
        fua: bool,
    },
    /// Make stable all that was `Done` before. Ends in `Done`.
    Sync {
        /// Echoed.
        io: IoId,
    },
    /// Write metadata. Ends in `Persisted`.
    Persist {
        /// Echoed.
        id: PersistId,
        /// What.
        what: Persist,
    },
    /// Copy what a client's write leaves alone in its first block: the first `bytes` bytes of
    /// `edge` to the start of `into`. At once; `edge` is released.
    MergeHead {
        /// The block as it was.
        edge: Payload,
        /// The client's slot.
        into: PayloadRef,
        /// How much.
        bytes: u16,
    },
    /// The same for the last `bytes` bytes of the last block: block `block` of the slot.
    MergeTail {
        /// The block as it was.
        edge: Payload,
        /// The client's slot.
        into: PayloadRef,
        /// Block of the slot.
        block: u16,
        /// How much.
        bytes: u16,
    },
    /// Make bytes of a slot zero, at once; it is kept until its request has ended.
    ClearKept {
        /// The slot.
        into: PayloadRef,
        /// First byte.
        offset: u32,
        /// How many.
        bytes: u32,
    },
    /// Copy the blocks a peer sent into a client's slot, at once; `from` is released.
    Copy {
        /// What the peer sent.
        from: Payload,
        /// Where it goes.
        into: Part,
        /// How much.
        blocks: u16,
    },
    /// Send a frame, in order with the others of its channel. Dropped if the session is over.
    Send {
        /// To whom.
        peer: PeerIndex,
        /// In which session.
        session: Session,
        /// What.
        frame: Frame,
        /// The payload; held by the carrier until sent.
        part: Option<Part>,
    },
    /// End a session; its `LinkDown` follows. The frames sent before leave first if they can.
    Disconnect {
        /// Who.
        peer: PeerIndex,
        /// Which.
        session: Session,
        /// For the log.
        why: &'static str,
    },
    /// From now on keep dialling and accepting this peer, or not (StandAlone).
    Dial {
        /// Who.
        peer: PeerIndex,
        /// Whether.
        wanted: bool,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        id: RequestId,
        /// How.
        reply: Reply,
    },
    /// The core needs the slot no more.
    Release(Payload),
    /// Open the export to clients, or close it: their connections end, none fails in flight.
    Serve {
        /// Open.
        open: bool,
    },
    /// Open the resource's disk; `fresh` writes new metadata first (`disk replace`).
    OpenDisk {
        /// Lay out new metadata.
        fresh: bool,
        /// Blocks of the device, for new metadata; 0 if that is not known.
        device_blocks: u64,
    },
    /// Close the disk after its operations have ended.
    CloseDisk,
    /// Find out whether the device holds only zeroes.
    ScanEmpty,
    /// Answer an operator.
    Answer {
        /// Which command.
        id: CommandId,
        /// How.
        result: Box<Result<String, Refusal>>,
    },
    /// Something changed that belongs in the log and in `events`.
    Change(Box<Change>),
}

const _: () = assert!(size_of::<Output>() <= 80);

/// A change of state: one log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed: `role`, `disk`, `data`, `connection`, `verdict`, `replication`, `peer-role`,
    /// `peer-disk`, `io`, `generation`, `verify`.
    pub what: &'static str,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
    /// Why.
    pub cause: String,
}

/// An operator's command to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Become primary. `force`: although newer data may exist elsewhere.
    Promote {
        /// Override.
        force: bool,
    },
    /// Become secondary, cleanly: what clients wrote is stable on every peer in reach, and what a
    /// peer lacks is marked.
    Demote,
    /// Connect to the peer again, perhaps giving up this node's side of a split brain.
    Connect {
        /// This node's differing blocks are overwritten.
        discard_my_data: bool,
    },
    /// Disconnect from the peer; this node withdraws if it is secondary.
    Disconnect,
    /// Forget this node's copy: fetch all from the peer.
    Invalidate,
    /// Let resync rest.
    PauseSync,
    /// Let resync go on.
    ResumeSync,
    /// A primary that suspended on losing its peer goes on alone.
    Resume,
    /// Compare all blocks with the peer. `repair`, on a primary: then overwrite the peer's
    /// differing ones.
    Verify {
        /// Mend.
        repair: bool,
    },
    /// Begin a resource without data: this node's disk, as it is, is the first generation.
    InitFrom,
    /// Begin a resource without data: both devices hold only zeroes.
    InitEmpty,
    /// Let go of the local disk.
    DiskDetach,
    /// Take the local disk back.
    DiskAttach,
    /// Take a new, empty local disk.
    DiskReplace,
    /// The peer's machine was replaced: forget what is known about its disk; it needs a full sync.
    NodeReplace,
    /// The daemon stops: end cleanly.
    Stop,
}

/// Why a command was refused, by rule (for exit codes and `--json`) and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable name, such as `not-current`.
    pub reason: &'static str,
    /// What happened, why, and which command to run next.
    pub text: String,
}

/// Connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connection {
    /// Not trying; only `connect` helps.
    StandAlone,
    /// Trying.
    Connecting,
    /// A session stands and the nodes have agreed whose data is newer, or are about to.
    Connected,
}

/// Replication with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replication {
    /// Nothing flows.
    Off,
    /// The nodes negotiate.
    Negotiating,
    /// Every write flows.
    Established,
    /// The peer is being brought up to date from here.
    SyncSource,
    /// This node is being brought up to date.
    SyncTarget,
    /// A resync from here, at rest.
    PausedSyncSource,
    /// A resync to here, at rest.
    PausedSyncTarget,
    /// Comparing, driven from here.
    VerifySource,
    /// Comparing, driven by the peer.
    VerifyTarget,
    /// Congested: marks only.
    Ahead,
    /// The peer is congested.
    Behind,
}

/// One peer in a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Connection.
    pub connection: Connection,
    /// Why it is StandAlone, in words with the next command; while Connecting, what the last
    /// attempt came to; else empty.
    pub connection_reason: String,
    /// Replication.
    pub replication: Replication,
    /// Its role; none if not connected.
    pub role: Option<Role>,
    /// Its disk; none if not connected.
    pub disk: Option<DiskState>,
    /// Blocks that may differ, on record here.
    pub out_of_sync_blocks: u64,
    /// Blocks the running resync began with, and has done.
    pub resync_total_blocks: u64,
    /// See above.
    pub resync_done_blocks: u64,
    /// Blocks per second over the last seconds.
    pub resync_blocks_per_second: u64,
    /// Blocks copied in the last finished resync.
    pub last_resync_blocks: u64,
    /// Blocks compared by the running or last verify, and found different.
    pub verify_done_blocks: u64,
    /// See above.
    pub verify_differing_blocks: u64,
    /// Writes acknowledged by the peer that are not yet stable there.
    pub unstable_writes: u64,
}

/// What `status` shows: true at the moment it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Role.
    pub role: Role,
    /// Local disk.
    pub disk: DiskState,
    /// Why there is no local disk, or nothing on it, in words with the next command.
    pub disk_reason: String,
    /// No generation yet, here or elsewhere as far as is known: `init` is needed.
    pub just_created: bool,
    /// Epoch adopted.
    pub epoch: Epoch,
    /// Newest generation.
    pub generation: Option<Generation>,
    /// Device size.
    pub device_blocks: u64,
    /// Client I/O waits; why, in words with the next command. Empty if it does not.
    pub suspended: String,
    /// What `promote` without force would say: empty if it would succeed.
    pub promote_refusal: String,
    /// Client requests in the core.
    pub requests_in_flight: u64,
    /// Transactions written to the activity log in this run.
    pub log_writes: u64,
    /// Peers, in slot order.
    pub peers: Vec<PeerStatus>,
}
