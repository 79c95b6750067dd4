//! Owns what a link is told when it is made, and the bounds it keeps to, each with its reason.
//! Must never change while the link lives.

use std::net::{IpAddr, SocketAddr};

use crate::format::hello::Versions;
use crate::plant::Plants;
use crate::replica::event::PeerIndex;
use crate::units::{Nanos, NodeId};

/// How long an attempt to connect may take, from the first packet to the agreed session, and how
/// long a stranger may take to say its hello: many round trips of any network worth using, and
/// short against what an operator waits.
pub const HANDSHAKE_LIMIT: Nanos = Nanos::from_millis(5_000);

/// First pause after a failed attempt: a daemon that restarts is back within it.
pub(super) const RETRY_FIRST: Nanos = Nanos::from_millis(100);

/// Longest pause. Both nodes dial, so a healed network is noticed within half of it on average;
/// two packets every few seconds cost nothing, while suspended client writes may be waiting.
pub(super) const RETRY_LONGEST: Nanos = Nanos::from_millis(5_000);

/// A session that stood this long was worth connecting for: the pauses begin anew after it. One
/// that ended sooner counts as a failed attempt, lest two nodes that disagree connect in a loop.
pub(super) const SESSION_PROVEN: Nanos = Nanos::from_millis(10_000);

/// How long frames queued before an intended end may take to leave.
pub(super) const LEAVE_LIMIT: Nanos = Nanos::from_millis(1_000);

/// Connections of one link at once, those being closed included: two of a session, two being
/// dialled, a few accepted, and as many again whose last operations have yet to end.
pub(super) const CONNECTIONS_MAX: usize = 32;

/// Accepted connections of one link in handshake: the peer has one at a time, or two when it
/// restarted. More come only from strangers, and must not cost memory.
pub(super) const ARRIVALS_MAX: usize = 8;

/// Bytes of a receive buffer: room for a dozen small writes or any frame without its payload.
pub(super) const RECEIVE_BYTES: u32 = 64 << 10;

/// A payload that lacks at least this much is received straight into its slot. Below, one more
/// pass through the receive buffer is cheaper than a system call of its own.
pub(super) const DIRECT_BYTES: u32 = 16 << 10;

/// Chunks of one gather: far below the kernel's limit of 1024, enough to fill a socket buffer.
pub(super) const GATHER_CHUNKS: usize = 256;

/// Bytes of one gather: what a fast network takes in a few milliseconds, so that a queue of
/// small frames behind it is not held up longer.
pub(super) const GATHER_BYTES: u64 = 4 << 20;

/// Bytes of queued frames, without their payloads, before the peer counts as not reading: the
/// marks of a device of 8 TiB. Payloads are bounded by the budget they were taken from.
pub(super) const QUEUE_BYTES_MAX: u64 = 256 << 20;

/// One way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Address of this host to dial from; any if none.
    pub local: Option<IpAddr>,
    /// Where the peer listens.
    pub peer: SocketAddr,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Nanos,
    /// A peer not heard, or that does not hear us, for so long is dead.
    pub peer_timeout: Nanos,
    /// A peer that answers heartbeats and nothing else for so long, while it owes answers, is
    /// given up.
    pub progress_timeout: Nanos,
    /// The longest pause between two attempts to connect.
    pub retry_longest: Nanos,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Nanos::from_millis(1_000),
            peer_timeout: Nanos::from_millis(6_000),
            progress_timeout: Nanos::from_millis(42_000),
            retry_longest: RETRY_LONGEST,
        }
    }
}

/// What both nodes of a resource know and nobody else. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// These bytes; that they are not empty is for the configuration to check.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Names for what is said to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// This node.
    pub local: String,
    /// The other one.
    pub peer: String,
    /// The file the secret was read from.
    pub secret_path: String,
}

/// What a link must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// The resource, as configured on both nodes.
    pub resource: String,
    /// This node.
    pub local: NodeId,
    /// The other one.
    pub peer: NodeId,
    /// How the core calls the peer.
    pub peer_index: PeerIndex,
    /// For messages.
    pub names: Names,
    /// Shared by the nodes of the resource.
    pub secret: Secret,
    /// Ways to the peer, tried in turn; at least one.
    pub paths: Vec<Path>,
    /// Time limits.
    pub timing: Timing,
    /// Link versions to speak; [`Versions::SPOKEN`] but in tests.
    pub versions: Versions,
    /// For tests: which bug is put in.
    pub plants: Plants,
}
