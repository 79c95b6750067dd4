//! Owns the words for why a link does not stand. Must never change what the link does.

use std::net::SocketAddr;

use super::options::LinkOptions;
use crate::format::hello::{Flaw, Refusal};
use crate::ring::Errno;

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No network connection.
    Unreachable(SocketAddr, Errno),
    /// The network connection broke.
    Broken(Errno),
    /// The other side closed it without a word.
    Hangup,
    /// It took too long.
    Late,
    /// The proof of the other side is wrong.
    Secret,
    /// The other side said why it will not.
    Refused(Refusal),
    /// This side refused what the other one asked.
    Refusing(Refusal),
    /// What came is not a handshake.
    Flaw(Flaw),
    /// A message of the handshake came where another belongs.
    OutOfTurn,
}

impl Fault {
    /// What to tell the other side.
    pub(super) fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Secret => Some(Refusal::Secret),
            Self::Refusing(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether it belongs to making connections from both ends at once, and means nothing.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Refused(Refusal::Busy) | Self::Refusing(Refusal::Busy))
    }

    /// What happened, why, and what to do next.
    pub(super) fn words(self, options: &LinkOptions) -> String {
        let (local, peer) = (&options.names.local, &options.names.peer);
        match self {
            Self::Unreachable(address, errno) => {
                format!("{peer} cannot be reached at {address}: {errno}")
            }
            Self::Broken(errno) => {
                format!("the connection to {peer} broke during the handshake: {errno}")
            }
            Self::Hangup => format!("{peer} closed the connection during the handshake"),
            Self::Late => format!(
                "the handshake with {peer} did not end in time: the network loses packets, or {peer} hangs"
            ),
            Self::Secret => secret_words(options),
            Self::Refused(refusal) => refused_words(options, refusal),
            Self::Refusing(refusal) => refusing_words(options, refusal),
            Self::Flaw(flaw) => {
                format!("what answered in place of {peer} sent {flaw}; check its address")
            }
            Self::OutOfTurn => format!(
                "{peer} broke the rules of the handshake; check that {local} and {peer} run released versions"
            ),
        }
    }
}

fn secret_words(options: &LinkOptions) -> String {
    let (local, peer) = (&options.names.local, &options.names.peer);
    let path = &options.names.secret_path;
    format!(
        "authentication failed: the secrets of {local} and {peer} differ; compare {path} on both"
    )
}

fn refused_words(options: &LinkOptions, refusal: Refusal) -> String {
    let (local, peer) = (&options.names.local, &options.names.peer);
    let resource = &options.resource;
    match refusal {
        Refusal::UnknownResource => format!(
            "{peer} does not know resource {resource}, or not with {local}; compare the configuration of both nodes"
        ),
        Refusal::WrongNode(node) => format!(
            "{node} answers at the address of {peer} ({}); check the addresses in the configuration",
            options.peer
        ),
        Refusal::Version(theirs) => version_words(options, (theirs.oldest, theirs.newest)),
        Refusal::Secret => secret_words(options),
        Refusal::Unwanted => format!(
            "{peer} is StandAlone and refuses; on {peer} see `twinblk status {resource}`, then run `twinblk connect {resource}`"
        ),
        Refusal::Busy => format!("{peer} is busy with another connection of {local}"),
    }
}

fn refusing_words(options: &LinkOptions, refusal: Refusal) -> String {
    let (local, peer) = (&options.names.local, &options.names.peer);
    match refusal {
        Refusal::Secret => secret_words(options),
        Refusal::Version(_) => format!(
            "{peer} speaks no link version that {local} knows ({} to {}); upgrade the older of the two",
            options.versions.oldest, options.versions.newest
        ),
        Refusal::WrongNode(_) => format!(
            "{peer} takes {local} for a node with another `id`; compare ids and addresses in the configuration \
             of both nodes"
        ),
        Refusal::UnknownResource => format!(
            "{peer} asked for another resource than {}; compare the configuration of both nodes",
            options.resource
        ),
        Refusal::Unwanted => format!("{local} is StandAlone and refused {peer}"),
        Refusal::Busy => format!("{local} is busy with another connection of {peer}"),
    }
}

fn version_words(options: &LinkOptions, theirs: (u16, u16)) -> String {
    let (local, peer) = (&options.names.local, &options.names.peer);
    format!(
        "{peer} speaks link versions {} to {}, {local} {} to {}; upgrade the older of the two",
        theirs.0, theirs.1, options.versions.oldest, options.versions.newest
    )
}
