//! Owns what a peer sent in a session that has ended and that had not reached the disk by then.
//! Must never give up what this node has acknowledged as received, nor let any of it land once a
//! new session or a promotion has begun.
//!
//! Under B the peer told its client "done" when this node had a write in memory. That word holds
//! when the peer dies: the write still goes to the disk, in the order that flushes demand, and a
//! promotion waits for it. Under A the same keeps the lost tail short.

use super::apply::{Apply, Incoming, Stage, What};
use super::peer::Peer;
use super::{LogWaiter, Owner, Replica, SyncPurpose};
use crate::format::frame::Protocol;
use crate::plant::Plant;
use crate::units::{Sequence, Session};

impl Replica {
    /// The session is over: what is on its way to the disk is waited for, so are writes that were
    /// received under A and B; the rest is dropped.
    pub(super) fn drop_incoming(&mut self, peer: usize, diskless: bool) {
        let open = self.has_open_disk();
        let incoming = &mut self.peers[peer].incoming;
        let Incoming { applies, syncing, stable, acknowledged, lost, .. } =
            std::mem::take(incoming);
        let keeps = self.options.protocol != Protocol::C && open && !lost;
        // What a diskless primary sent is not acknowledged before it is written and marked.
        let upto = if diskless { acknowledged.unwrap_or_default() } else { Sequence(u64::MAX) };
        (incoming.syncing, incoming.stable) = (syncing, stable);
        incoming.applies = applies;
        self.drop_unstarted(peer, |apply| !keeps || apply.resync || apply.sequence > upto);
        self.go_on_with_leftovers(peer);
    }

    /// Forgets the writes that no disk operation was begun for, if `gone` says so.
    fn drop_unstarted(&mut self, peer: usize, gone: impl Fn(&Apply) -> bool) {
        let mut dropped = Vec::new();
        for apply in std::mem::take(&mut self.peers[peer].incoming.applies) {
            match apply.stage {
                Stage::Running(_) if self.planted(Plant::LateOldWrite) => {
                    self.unlock(Owner::Apply { peer, sequence: apply.sequence });
                }
                Stage::Done => {}
                Stage::Gated | Stage::Waiting if gone(&apply) => dropped.push(apply),
                _ => self.peers[peer].incoming.applies.push_back(apply),
            }
        }
        for apply in dropped {
            let sequence = apply.sequence;
            self.forgot |= !apply.resync && self.options.protocol == Protocol::B;
            self.log_waiting.retain(|waiter| *waiter != LogWaiter::Apply { peer, sequence });
            if apply.stage == Stage::Waiting {
                self.unlock(Owner::Apply { peer, sequence });
            }
            if let Some(What::Data(payload)) = apply.what {
                self.release(Some(payload));
            }
        }
    }

    /// Whether something of an ended session may still land on the disk.
    pub(super) fn has_leftovers(&self) -> bool {
        self.peers.iter().any(|peer| !peer.is_streaming() && !peer.incoming.is_idle())
    }

    /// Whether a write of an ended session has yet to reach the disk.
    pub(super) fn has_unwritten_leftovers(&self) -> bool {
        let unwritten = |peer: &Peer| !peer.is_streaming() && !peer.incoming.applies.is_empty();
        self.peers.iter().any(unwritten)
    }

    /// All before the first one that is held back has been written: makes that stable.
    pub(super) fn go_on_with_leftovers(&mut self, peer: usize) {
        let found = &self.peers[peer];
        let held = found.incoming.applies.front().is_some_and(|apply| apply.stage == Stage::Gated);
        if found.is_streaming() || !held || found.incoming.syncing {
            return;
        }
        if !self.has_open_disk() {
            // Nothing of it can be kept: the copy is gone with its disk.
            return self.drop_unstarted(peer, |_| true);
        }
        self.peers[peer].incoming.syncing = true;
        self.sync_disk(SyncPurpose::Barrier { peer, session: Session::default() });
    }

    /// A flush of an ended session is over, or one of its leftovers, which has no session.
    pub(super) fn leftovers_synced(&mut self, peer: usize, session: Session, ok: bool) {
        let incoming = &mut self.peers[peer].incoming;
        if let Some(front) = incoming.applies.front()
            && ok
            && session == Session::default()
        {
            // Everything before it had been written when the flush began.
            incoming.stable = incoming.stable.max(Sequence(front.sequence.0 - 1));
            self.start_gated(peer);
        }
        self.go_on_with_leftovers(peer);
        self.check_settled(peer);
    }
}
