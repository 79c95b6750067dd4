//! Owns what a resource offers to NBD clients, and who comes in. Must never hold a session.

use thiserror::Error;
use twinblk_nbd::{ExportInfo, MAX_REQUEST_BYTES, Terms, TransmissionFlags};

use crate::limits::{CLIENTS_MAX, REQUEST_BYTES_MAX};
use crate::ring::SocketId;
use crate::units::BLOCK_BYTES;

const _: () = assert!(MAX_REQUEST_BYTES as u64 == REQUEST_BYTES_MAX);

/// What a resource offers to NBD clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// What clients ask for: the resource's name.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// Size of the device in bytes.
    pub device_bytes: u64,
}

impl ExportOptions {
    /// What the negotiation tells clients. `refusal`: why the resource is not served here now, and
    /// where to ask instead; none if it is.
    ///
    /// Several connections may be used as one (`CAN_MULTI_CONN`): a FLUSH on any of them goes to
    /// the one core of the resource and covers every write answered on all of them, and none of
    /// them has a cache of its own. A fast zero (`SEND_FAST_ZERO`) is not offered: whether a zero
    /// is faster than a write depends on the slower of two disks, which this side does not know.
    #[must_use]
    pub fn info(&self, refusal: Option<String>) -> ExportInfo {
        use TransmissionFlags as Offer;
        let flags = Offer::SEND_FLUSH
            | Offer::SEND_FUA
            | Offer::SEND_TRIM
            | Offer::SEND_WRITE_ZEROES
            | Offer::SEND_DF
            | Offer::SEND_CACHE
            | Offer::CAN_MULTI_CONN;
        ExportInfo {
            description: self.description.clone(),
            flags,
            min_block_bytes: 1,
            preferred_block_bytes: u32::try_from(BLOCK_BYTES).expect("4096"),
            max_payload_bytes: MAX_REQUEST_BYTES,
            refusal,
            ..ExportInfo::new(self.name.clone(), self.device_bytes)
        }
    }
}

/// A client that has negotiated and begins the transmission.
#[derive(Debug)]
pub struct Newcomer {
    /// Its socket, which the export takes over.
    pub socket: SocketId,
    /// What was agreed: [`Negotiated::terms`](twinblk_nbd::Negotiated::terms).
    pub terms: Terms,
    /// What the negotiation received beyond its end; at most
    /// [`CLIENT_RECEIVE_BYTES`](crate::limits::CLIENT_RECEIVE_BYTES).
    pub leftover: Vec<u8>,
}

/// Why a newcomer was turned away. Its socket is being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TurnedAway {
    /// The resource stopped being served between negotiation and arrival.
    #[error("the resource is not served here any more; the client should ask the other node")]
    NotServed,
    /// Every place is taken by a client that has not said it is leaving.
    #[error("{CLIENTS_MAX} clients are connected; disconnect one, or use fewer connections each")]
    Full,
    /// It negotiated a device of another size.
    #[error("the device changed size during the negotiation; the client should connect again")]
    OtherSize,
    /// It sent more than fits before it was served.
    #[error("the client sent more behind its negotiation than a session can take over")]
    TooMuch,
}
