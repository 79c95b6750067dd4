//! Owns what protocol A does when the link is too slow for the load: going ahead of the peer by marks
//! alone. Must never leave a block unmarked that was not sent.

use super::Replica;
use super::options::OnCongestion;
use super::peer::Phase;
use super::persist::After;
use crate::format::frame::{Frame, Protocol, Role};
use crate::format::superblock::DataState;
use crate::limits::CONGESTION_REST;

impl Replica {
    /// Under A: whether the peer lags too far behind, or has caught up.
    pub(super) fn check_congestion(&mut self, peer: usize) {
        if self.options.protocol != Protocol::A {
            return;
        }
        let queued = self.peers[peer].out.unacked_bytes;
        let limit = self.options.congestion_bytes;
        let bitmap = self.options.on_congestion == OnCongestion::Bitmap;
        let lags = queued > limit || (bitmap && self.peers[peer].out.is_full());
        if lags && !self.peers[peer].congested {
            self.peers[peer].congested = true;
            self.congestion_began(peer);
        } else if queued <= limit / 2 {
            self.peers[peer].congested = false;
        }
        let found = &mut self.peers[peer];
        if found.phase == Phase::Ahead && queued == 0 && found.ahead_until.is_none() {
            found.ahead_until = Some(self.now + CONGESTION_REST);
        }
    }

    /// Protocol A, more queued than the limit: this node marks instead of sending.
    pub(super) fn congestion_began(&mut self, peer: usize) {
        let bitmap = self.options.on_congestion == OnCongestion::Bitmap;
        if bitmap && self.peers[peer].phase == Phase::Established {
            self.peers[peer].phase = Phase::Ahead;
            self.drop_verify(peer, "the link is congested");
            // On record, so that the log need not wait for a peer that may take long.
            for place in 0..self.peers[peer].out.sent.len() {
                let blocks = self.peers[peer].out.sent[place].blocks;
                self.mark(peer, blocks);
            }
            self.send(peer, Frame::Behind);
            self.note_peer(peer, "the link is congested");
        }
    }

    pub(super) fn on_behind(&mut self, peer: usize) {
        if self.peers[peer].phase == Phase::Idle {
            return; // The disk here failed meanwhile: the peer marks anyhow.
        }
        if self.peers[peer].phase != Phase::Established || self.role == Role::Primary {
            return self.violation(peer, "congestion out of turn");
        }
        self.peers[peer].phase = Phase::Behind;
        self.note_peer(peer, "the link is congested");
        self.superblock.data = DataState::Outdated;
        self.save(After::Nothing);
        self.reconsider_disk("the link is congested");
    }
}
