//! Owns what is told about a resource: `status`, and one change per change of state.
//! Must never compute what the next command would find otherwise.

use super::Replica;
use super::event::{Change, Output, PeerStatus, Replication, Status};
use super::peer::{Peer, Phase};
use crate::format::frame::Role;
use crate::units::Nanos;
use std::fmt::Debug;

impl Replica {
    /// The state of the resource at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let refusal = match self.role {
            Role::Primary => String::new(),
            Role::Secondary => self.promote_refusal().map_or(String::new(), |refusal| refusal.text),
        };
        let suspended = match self.role {
            Role::Primary => self.write_hold().unwrap_or_default().to_owned(),
            Role::Secondary => String::new(),
        };
        Status {
            node: self.options.node,
            role: self.role,
            disk: self.disk,
            disk_reason: self.disk_reason.clone(),
            just_created: self.has_metadata() && self.superblock.lineage.head().is_none(),
            epoch: self.superblock.epoch,
            generation: self.superblock.lineage.head(),
            device_blocks: self.device_blocks,
            suspended,
            promote_refusal: refusal,
            requests_in_flight: (self.ops.len() + self.flushes.len()) as u64,
            peers: (0..self.peers.len()).map(|peer| self.peer_status(peer)).collect(),
        }
    }

    fn peer_status(&self, index: usize) -> PeerStatus {
        let peer = &self.peers[index];
        let seconds = self.now.since(peer.sync_began).0 / 1_000_000_000;
        let running = peer.phase.clears_marks();
        let rate = if running { peer.sync_done / seconds.max(1) } else { 0 };
        let (verified, differing) = match &self.verify {
            Some(verify) if verify.peer == index => (verify.done_blocks, verify.differing_blocks),
            _ => self.last_verify,
        };
        PeerStatus {
            node: peer.node,
            connection: peer.connection,
            connection_reason: peer.reason.clone(),
            replication: self.replication(index, peer),
            role: peer.role,
            disk: peer.disk,
            out_of_sync_blocks: self.maps.get(index).map_or(0, super::DirtyMap::marked),
            resync_total_blocks: if running { peer.sync_total } else { 0 },
            resync_done_blocks: if running { peer.sync_done } else { 0 },
            resync_blocks_per_second: rate,
            last_resync_blocks: peer.last_sync_blocks,
            verify_done_blocks: verified,
            verify_differing_blocks: differing,
            unstable_writes: peer.out.sent.len() as u64,
        }
    }

    fn replication(&self, index: usize, peer: &Peer) -> Replication {
        let paused = peer.paused_here || peer.paused_there;
        match peer.phase {
            Phase::Down | Phase::Idle => Replication::Off,
            Phase::Settling
            | Phase::StateSent
            | Phase::Bonding
            | Phase::SourceWaits
            | Phase::TargetWaits => Replication::Negotiating,
            Phase::SyncSource if paused => Replication::PausedSyncSource,
            Phase::SyncTarget if paused => Replication::PausedSyncTarget,
            Phase::SyncSource => Replication::SyncSource,
            Phase::SyncTarget => Replication::SyncTarget,
            Phase::Ahead => Replication::Ahead,
            Phase::Behind => Replication::Behind,
            Phase::Established => {
                if self.verify.as_ref().is_some_and(|verify| verify.peer == index) {
                    Replication::VerifySource
                } else if self.comparing(index) {
                    Replication::VerifyTarget
                } else {
                    Replication::Established
                }
            }
        }
    }

    pub(super) fn note(&mut self, what: &'static str, old: &str, new: &str, cause: &str) {
        let change =
            Change { what, old: old.to_owned(), new: new.to_owned(), cause: cause.to_owned() };
        self.emit(Output::Change(Box::new(change)));
    }

    /// A change that concerns a peer.
    pub(super) fn note_of(
        &mut self,
        peer: &str,
        what: &'static str,
        (old, new): (&dyn Debug, &dyn Debug),
        cause: &str,
    ) {
        let cause = format!("peer {peer}: {cause}");
        self.note(what, &format!("{old:?}"), &format!("{new:?}"), &cause);
    }

    /// The moment at which `Input::Timeout` is next of use.
    #[must_use]
    pub fn deadline(&self) -> Nanos {
        let mut next = Nanos::NEVER;
        for peer in &self.peers {
            let times =
                [Some(peer.deadline), peer.out.barrier_due(), peer.ahead_until, peer.redial];
            next = times.into_iter().flatten().fold(next, Nanos::min);
            if peer.phase == Phase::SyncSource || peer.marks_to_send.is_some() {
                next = next.min(self.pacer.next_tick());
            }
            if peer.phase.clears_marks() {
                next = next.min(self.next_progress_save);
            }
        }
        next
    }
}
