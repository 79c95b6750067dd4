//! Owns every bound of the system, each with its reason.
//! Must never hold a value that an operator should set: those are in the configuration.

use crate::units::{BLOCK_BYTES, Nanos};

/// Blocks in the largest piece that travels as one unit (1 MiB): bounds one disk request, one
/// frame and one buffer slot; larger client requests travel as several pieces.
pub const PIECE_BLOCKS: u64 = (1 << 20) / BLOCK_BYTES;

/// Blocks in one piece of a TRIM or WRITE_ZEROES (4 MiB): they carry no payload, so only the
/// activity log bounds them; one extent each keeps the log's arithmetic trivial.
pub const ZERO_PIECE_BLOCKS: u64 = EXTENT_BLOCKS;

/// Blocks in one extent of the activity log (4 MiB): as DRBD; small enough that resyncing the hot
/// ones after a crash takes seconds, large enough that random writes find most of theirs hot.
pub const EXTENT_BLOCKS: u64 = (4 << 20) / BLOCK_BYTES;

/// The largest READ or WRITE a client may send: what nbdkit accepts and larger than what any
/// common client sends. A resource that holds none of the clients' memory may begin one whatever
/// others hold, so a shard's clients have at most their budget and this much for each resource;
/// likewise a link has at most a piece beyond the budget of peers, and a disk one beyond each of
/// those of resync and of urgent reads. All of it at once only while as many disks or peers hang.
pub const REQUEST_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one shard's reads of edges of unaligned writes, and for peers without a disk (8 MiB):
/// their own, so that no resync keeps a client waiting; 2048 edges, or 8 of the largest reads.
pub const URGENT_BYTES_MAX: usize = 8 << 20;

/// Bytes of one shard's answers from peers to such reads (1 MiB: the largest one; each link has one beyond it): they
/// are passed on as soon as they are whole, and wait for nothing.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Pieces of one TRIM or WRITE_ZEROES in flight at once: a 4 GiB trim must not fill the log.
pub const ZERO_PIECES_IN_FLIGHT: usize = 8;

/// Generations kept in a lineage. A peer that missed more than these needs a full resync, which
/// costs time, never data.
pub const LINEAGE_ENTRIES: usize = 32;

/// The largest epoch a peer may name: a million new ones a second do not reach it in a thousand
/// years, and what a node makes of a peer's stays far below [`EPOCH_STORED_MAX`] and overflow.
pub const EPOCH_MAX: u64 = 1 << 56;

/// How far above its own a node believes an epoch that a peer names: more new ones than two nodes meet
/// between two meetings. A number that got garbled must not bring both near [`EPOCH_MAX`] for good.
pub const EPOCH_LEAP_MAX: u64 = 1 << 32;

/// No superblock or transaction of the activity log that is believed bears this number or a higher one: one each
/// microsecond does not reach it in a hundred thousand years, and there is always room for the next.
pub const SERIAL_MAX: u64 = 1 << 62;

/// The largest epoch a superblock may hold: what was adopted from a peer, and as many of one's own.
pub const EPOCH_STORED_MAX: u64 = 2 * EPOCH_MAX;

/// The largest sequence a peer may name: 2000 years of a million writes a second, and the next of
/// it cannot overflow.
pub const SEQUENCE_MAX: u64 = 1 << 56;

/// Bitmap slots a superblock can describe: one per peer.
pub const PEER_SLOTS_MAX: usize = 4;

/// Default number of bitmap slots laid out by `create`: room for one more peer than today's.
pub const PEER_SLOTS_DEFAULT: usize = 2;

/// Blocks in the largest device (1 PiB): as DRBD; keeps every sum of block numbers far from
/// overflow and extent numbers within 32 bits.
pub const DEVICE_BLOCKS_MAX: u64 = (1 << 50) / BLOCK_BYTES;

/// Each time one of so many slots of the activity log was taken anew, all writes are made stable everywhere: slots
/// can then cool before the log is full, at one flush on each node for a quarter of the log.
pub const LOG_RELIEVED_SHARE: u32 = 4;

/// Default number of hot extents (4.8 GiB): as DRBD.
pub const LOG_EXTENTS_DEFAULT: u32 = 1237;

/// Fewest hot extents: a 1 MiB piece can touch two, and several must be able to run at once.
pub const LOG_EXTENTS_MIN: u32 = 16;

/// Most hot extents: keeps recovery marks at 64 GiB.
pub const LOG_EXTENTS_MAX: u32 = 16_384;

/// Extents one activity log transaction can change: bounds the log block, allows batching.
pub const LOG_UPDATES_MAX: usize = 64;

/// Fewer cold writes than so many at a time do not wait for each other: a log write for each few keeps up with them.
pub const LOG_GATHER_MIN: usize = 16;

/// How long a write waits at most for others to share its log write: twice what one takes on a loaded disk.
pub const LOG_GATHER_TIME: Nanos = Nanos(1_000_000);

/// Writes acknowledged by a peer but not yet stable there before the primary asks for a barrier:
/// bounds the memory of what a peer acknowledged and has not flushed, and what a blip makes us resync.
pub const UNSTABLE_WRITES_MAX: usize = 1024;

/// Bytes of the same before the primary asks for a barrier.
pub const UNSTABLE_BYTES_MAX: u64 = 64 << 20;

/// Writes sent to a peer and not known to be stable there at which client writes wait: half of what the
/// peer takes on, some megabytes of memory on either node, and far more than a disk leaves unstable
/// that answers the barriers asked for since [`UNSTABLE_WRITES_MAX`].
pub const UNSTABLE_HELD_MAX: usize = INCOMING_WRITES_MAX / 2;

/// How long an unstable write waits at most before a barrier is asked for.
pub const BARRIER_DELAY: Nanos = Nanos::from_millis(500);

/// Frames of a peer that wait until this node has recorded the meeting. Under A nothing but memory
/// holds a peer back: its payloads are bounded by the link's, and what has none by this, some
/// megabytes. It is more than a peer sends while a slow disk writes one record; beyond it the
/// session is begun anew.
pub const EARLY_FRAMES_MAX: usize = 65_536;

/// Writes of a peer that are on their way to the disk here, and barriers between them: under A and B
/// a flush on the primary asks for one and does not wait. Payloads are bounded by the link's
/// memory; this bounds what has none: far more than a primary sends without waiting for a barrier.
pub const INCOMING_WRITES_MAX: usize = 65_536;

/// Reads that a peer without a disk asks for at a time: as many as all clients of an export may have
/// requests.
pub const INCOMING_ASKS_MAX: usize = EXPORT_REQUESTS_MAX;

/// How long two connected nodes may take to agree before the session is dropped; client writes
/// that would need a new generation wait meanwhile.
pub const HANDSHAKE_TIME: Nanos = Nanos::from_millis(5_000);

/// How long a peer that did not get through the negotiation is left alone before the next try.
pub const HANDSHAKE_REST: Nanos = Nanos::from_millis(10_000);

/// How long the goodbye of a planned stop follows what the node says is stable: they travel on two
/// connections, and a goodbye that arrives first would make the peer send again what is stable.
pub const GOODBYE_DELAY: Nanos = Nanos::from_millis(10);

/// How long a congested link must have been empty before the peer is resynced.
pub const CONGESTION_REST: Nanos = Nanos::from_millis(1_000);

/// How often bitmap pages that lost marks are written while a resync runs: what is lost with them
/// is only progress.
pub const PROGRESS_SAVE: Nanos = Nanos::from_millis(2_000);

/// How often the resync controller looks at client latency.
pub const RESYNC_TICK: Nanos = Nanos::from_millis(100);

/// The time over which a resync's rate is told: long enough to be steady, short enough to be now.
pub const RATE_SPAN: Nanos = Nanos::from_millis(2_000);

/// Blocks in one piece (256 KiB) of a resync or verify: small enough that a client write waits little for
/// the lock, large enough for a disk to stream.
pub const RESYNC_PIECE_BLOCKS: u64 = (256 << 10) / BLOCK_BYTES;

/// Most resync pieces in flight (32 MiB): bounds the memory of both nodes.
pub const RESYNC_WINDOW_MAX: usize = 128;

/// Most resync pieces in flight (4 MiB) to a node that is primary. They may wait for the range of one of its
/// clients, which may wait for an answer that comes behind them: so they fit into half of the
/// smallest `peer_buffers`.
pub const RESYNC_WINDOW_SERVED: usize = 16;

/// Fewest resync pieces in flight: resync always advances.
pub const RESYNC_WINDOW_MIN: usize = 1;

/// Pieces of a verify in flight: two per disk keep both busy, and few ranges are locked.
pub const VERIFY_PIECES: usize = 4;

/// Connections of NBD clients to one resource: four clients of sixteen connections each. Bounds
/// the receive buffers.
pub const CLIENTS_MAX: usize = 64;

/// Requests of one NBD connection that are not answered yet: the queue depth of Linux's nbd driver.
pub const CLIENT_REQUESTS_MAX: usize = 128;

/// Bytes of slots that one NBD connection may hold, or one request if that is larger: 128 requests
/// of 256 KiB, and half the default memory for clients, so that one of them cannot take it all.
pub const CLIENT_BYTES_MAX: u64 = 32 << 20;

/// Requests of one resource in the core, those of connections that have ended included: bounds the
/// core's memory while I/O is suspended and clients come, ask and go.
pub const EXPORT_REQUESTS_MAX: usize = 4096;

/// Receive buffer of one NBD connection: 2340 requests without payload, or one of 64 KiB, in one
/// system call.
pub const CLIENT_RECEIVE_BYTES: u32 = 64 << 10;

/// Payload still missing from which on it is received in place: below, one more copy costs less
/// than the system call that could have brought the next requests along.
pub const CLIENT_DIRECT_BYTES: u64 = 16 << 10;

/// Bytes in one send to an NBD client, or one more slot: what a fast network takes in a
/// millisecond or less, so that a finished send gives its slots back soon.
pub const CLIENT_SEND_BYTES: u64 = 4 << 20;

/// Chunks in one send to an NBD client: well below the kernel's 1024 (`UIO_MAXIOV`).
pub const CLIENT_SEND_CHUNKS: usize = 256;

/// Bytes of replies that wait for an NBD client to read, above which no more of its requests are
/// taken: two full sends, so that a client that reads never notices.
pub const CLIENT_REPLIES_BYTES_MAX: u64 = 2 * CLIENT_SEND_BYTES;

/// How long an NBD client may keep slots without taking or sending a byte, while others wait for
/// memory: longer than any hiccup of a network, shorter than the patience of a file system.
pub const CLIENT_STALL: Nanos = Nanos::from_millis(30_000);

/// Bytes a second that extend [`CLIENT_STALL`] while a payload arrives: the slowest link that is
/// worth other clients' waiting.
pub const CLIENT_PAYLOAD_RATE: u64 = 64 << 10;

/// How long the negotiation with an NBD client may take: four round trips on the worst of links.
pub const NEGOTIATION_TIME: Nanos = Nanos::from_millis(10_000);

/// Negotiations with NBD clients at once; the oldest gives way to a newcomer, so that clients that
/// say nothing keep nobody out.
pub const NEGOTIATIONS_MAX: usize = 64;

/// Bytes an NBD client may send to negotiate: the protocol's 128 options, most of them short, and
/// some of the longest.
pub const NEGOTIATION_BYTES_MAX: usize = 256 << 10;

/// Bytes one shard hashes or scans in one turn: about a tenth of a millisecond, so that no client
/// waits for a resync's arithmetic. Shared by its disks, through `Disk::resume`.
pub const TURN_WORK_BYTES: usize = 256 << 10;

/// How long a busy shard looks for completions before it sleeps, in microseconds: longer than most answers of a disk
/// or a peer nearby take.
pub const POLL_US_DEFAULT: u16 = 200;

/// Most of the same: many times what a sleep costs.
pub const POLL_US_MAX: u64 = 10_000;
