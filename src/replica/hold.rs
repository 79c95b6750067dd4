//! Owns why client writes wait, and the words for it. Must never let one go on while nobody can say
//! that it will be safe.

use super::Replica;
use super::options::{OnCongestion, PeerLoss};
use super::peer::Phase;
use crate::format::frame::DiskState;

/// Why a client's writes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Negotiating,
    MarksUnknown,
    NotNoted,
    NoCopy,
    PeerAway,
    PeerDiskless,
    Congested,
    Unstable,
}

impl Hold {
    /// What it means, and what to do.
    pub(super) fn words(self, resource: &str) -> String {
        let words = match self {
            Self::Negotiating => {
                "the nodes are agreeing whose data is newer. That ends by itself; `twinblk wait \
                 RES --for insync` waits for it"
            }
            Self::MarksUnknown => {
                "the peer is telling which blocks are stale here. That ends by itself; `twinblk \
                 wait RES --for insync` waits for it"
            }
            Self::NotNoted => {
                "the local disk is gone and the peer has not yet taken note of it. If that lasts, \
                 bring the peer back, or run `twinblk disk attach RES`"
            }
            Self::NoCopy => {
                "no up-to-date copy is in reach. Bring the peer back (`twinblk connect RES`), or \
                 the local disk (`twinblk disk attach RES`). If the newest copy is lost for good: \
                 `twinblk demote RES`, and `twinblk promote RES --force` where an older one is, \
                 which gives up what only the lost one had"
            }
            Self::PeerAway => {
                "the peer is away and on_peer_loss is \"suspend\". Bring the peer back, or let \
                 this node go on alone: `twinblk resume RES`"
            }
            Self::PeerDiskless => {
                "the peer has no disk and on_peer_loss is \"suspend\". Give it one again (there: `twinblk \
                 disk attach RES`), or let this node go on alone: `twinblk resume RES`"
            }
            Self::Congested => {
                "the link is congested and on_congestion is \"wait\". It goes on when the peer has \
                 caught up; if that lasts, the link is too slow for the load"
            }
            Self::Unstable => {
                "the peer has not made stable what it was sent. It goes on when the disk of the peer \
                 has caught up; if that lasts, look there: `twinblk status RES`"
            }
        };
        words.replace("RES", resource)
    }
}

impl Replica {
    /// Why client writes wait; none if they do not.
    pub(super) fn write_hold(&self) -> Option<Hold> {
        if self.peers.iter().any(super::peer::Peer::negotiates) {
            return Some(Hold::Negotiating);
        }
        let unknown =
            |peer: &super::peer::Peer| peer.phase == Phase::SyncTarget && !peer.marks_heard;
        if self.peers.iter().any(unknown) {
            return Some(Hold::MarksUnknown);
        }
        if self.freezing.is_some() {
            return Some(Hold::NotNoted);
        }
        if !self.has_current_data() {
            return Some(Hold::NoCopy);
        }
        let alone = self.peers.iter().any(|peer| !peer.mirrors() && !peer.is_ahead());
        if alone && self.options.on_peer_loss == PeerLoss::Suspend && !self.resumed {
            let met = |peer: &super::peer::Peer| peer.phase == Phase::Idle;
            return Some(match self.peers.iter().any(met) {
                true => Hold::PeerDiskless,
                false => Hold::PeerAway,
            });
        }
        let waits = self.options.on_congestion == OnCongestion::Wait;
        if waits && self.peers.iter().any(|peer| peer.congested) {
            return Some(Hold::Congested);
        }
        if self.peers.iter().any(|peer| peer.mirrors() && peer.out.is_full()) {
            return Some(Hold::Unstable);
        }
        None
    }

    /// Whether an up-to-date copy can be reached.
    pub(super) fn has_current_data(&self) -> bool {
        self.disk == DiskState::UpToDate
            || self
                .peers
                .iter()
                .any(|peer| peer.mirrors() && peer.disk == Some(DiskState::UpToDate))
    }

    /// Client I/O waits for somebody, not just for a link that is slower than its clients.
    pub(super) fn stands_still(&self) -> bool {
        self.write_hold().is_some_and(|hold| hold != Hold::Congested)
    }
}
