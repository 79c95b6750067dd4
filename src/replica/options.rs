//! Owns what the operator chose for one resource, as the core needs it.
//! Must never parse or default anything: `config` does.

use crate::format::frame::Protocol;
use crate::plant::Plants;
use crate::units::{NodeId, RunId};

/// What a primary does when it loses a peer and no arbiter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLoss {
    /// Goes on alone, with a new generation.
    Continue,
    /// Client writes wait until the peer is back or the operator says `resume`.
    Suspend,
}

/// What a primary does under protocol A when the peer lags too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCongestion {
    /// Client writes wait until the peer has caught up by half.
    Wait,
    /// It stops mirroring, marks, and resyncs when the link is free again.
    Bitmap,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerOptions {
    /// Its id.
    pub node: NodeId,
    /// Its name, for messages.
    pub name: String,
}

/// How resync is paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncOptions {
    /// Bytes per second it never exceeds; `u64::MAX` for no cap.
    pub rate_max_bytes: u64,
    /// Bytes per second it is not slowed below for the sake of clients.
    pub rate_min_bytes: u64,
    /// Ask for a hash before sending blocks.
    pub checksum: bool,
}

/// Everything the core is told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The resource, for messages.
    pub resource: String,
    /// This node.
    pub node: NodeId,
    /// Its name, for messages.
    pub name: String,
    /// The peers, in slot order.
    pub peers: Vec<PeerOptions>,
    /// How long writes wait.
    pub protocol: Protocol,
    /// See [`PeerLoss`].
    pub on_peer_loss: PeerLoss,
    /// See [`OnCongestion`].
    pub on_congestion: OnCongestion,
    /// Bytes not yet written by the peer that count as congestion under A.
    pub congestion_bytes: u64,
    /// See [`ResyncOptions`].
    pub resync: ResyncOptions,
    /// Seed of the ids this core draws; from the system's randomness in production.
    pub seed: u64,
    /// This life of the store.
    pub run: RunId,
    /// For tests: which bug is put in.
    pub plants: Plants,
}
