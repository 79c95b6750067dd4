//! Owns being brought up to date: the record that the copy is of mixed age, and its end.
//! Must never take a resync's block before that record is durable, nor call the copy whole before
//! all that the source sent ahead of the end is stable.

use super::Replica;
use super::peer::Phase;
use super::persist::{After, AfterPages, PagesJob};
use super::reconcile::Verdict;
use super::status::Pace;
use crate::format::frame::{DiskState, Frame};
use crate::format::lineage::Lineage;
use crate::format::superblock::{Bond, DataState, SyncTarget};
use crate::plant::Plant;
use crate::units::{Nanos, Session};

impl Replica {
    pub(super) fn on_sync_start(&mut self, peer: usize, token: u64) {
        let found = &mut self.peers[peer];
        let target = matches!(found.verdict, Some(Verdict::Target(_)));
        let generation = found.their_state.as_ref().and_then(|state| state.lineage.head());
        let Some(generation) = generation else {
            return self.violation(peer, "a resync from a node without data");
        };
        if found.phase != Phase::TargetWaits || !target {
            return self.violation(peer, "a resync that was not agreed on");
        }
        let session = found.session_id();
        if found.verdict.is_some_and(Verdict::copies_all) {
            // In memory it is what the peer has on record, which may not come to record it as one of both.
            let told = found.their_state.as_ref().zip(found.sent_state.as_ref());
            let (theirs, mine) = told.map(|it| (it.0.bond(), it.1.bond())).unwrap_or_default();
            found.bond = theirs;
            found.bond.meet(session.0, mine);
            self.superblock.slots[peer].bond = Bond { confirmed: session.0, tentative: 0 };
        }
        if !self.planted(Plant::InconsistentUnrecorded) {
            self.superblock.data = DataState::Inconsistent;
            self.superblock.sync_target = Some(SyncTarget { token, generation });
        }
        self.set_disk(DiskState::Inconsistent, "a resync to here begins");
        self.save(After::TargetPrepared { peer, session, token });
    }

    pub(super) fn target_prepared(&mut self, peer: usize, session: Session, token: u64) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        let found = &mut self.peers[peer];
        found.phase = Phase::SyncTarget;
        found.deadline = Nanos::NEVER;
        found.disk = Some(DiskState::UpToDate);
        found.marks_to_send = Some(0);
        found.pace = Pace::begun(self.now);
        (found.sync_done, found.sync_total) = (0, 0);
        self.note_peer(peer, "a resync to here begins");
        self.tell_pause(peer);
        self.send(peer, Frame::SyncReady { token });
        self.resend_owed(peer);
        self.send_marks(peer);
    }

    /// Everything before the end of the resync is stable here: the copy is the source's.
    pub(super) fn adopt(&mut self, peer: usize, lineage: Lineage) {
        if self.superblock.sync_target.is_none() {
            return; // The operator gave this copy up meanwhile.
        }
        let session = self.peers[peer].session_id();
        self.peers[peer].adopting = Some(lineage);
        self.maps[peer].clear_all();
        self.save_pages(PagesJob::All(AfterPages::Adopt { peer, session }));
    }

    pub(super) fn marks_saved_for_adopt(&mut self, peer: usize, session: Session) {
        let Some(lineage) = self.peers[peer].adopting.take() else {
            return;
        };
        if !self.leaving.is_empty() {
            // Its word that it withdraws is on its way, or on record: nothing makes it current after that.
            return;
        }
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        // The peer may have become primary meanwhile.
        let current = self.current_with(peer).max(self.peers[peer].granted);
        let superblock = &mut self.superblock;
        superblock.current = current;
        if let Some(head) = lineage.head() {
            superblock.epoch = superblock.epoch.max(head.epoch);
        }
        superblock.lineage = lineage;
        superblock.data = DataState::Consistent;
        superblock.sync_target = None;
        superblock.former_primary = false;
        superblock.rebooted = false;
        self.forgot = false;
        superblock.parted = false;
        let slot = &mut superblock.slots[peer];
        slot.base = None;
        slot.sync_token = 0;
        slot.all_marked = false;
        slot.withdrawn = false;
        self.save(After::Adopted { peer, session });
    }

    pub(super) fn adopted(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session != Some(session) {
            self.reconsider_disk("a resync to here ended");
            self.miss_lost(peer);
            return self.check_settled(peer);
        }
        self.peers[peer].discard_my_data = false;
        self.peers[peer].last_sync_blocks = self.peers[peer].sync_done;
        self.send(peer, Frame::SyncAdopted);
        self.establish(peer, "this node is up to date");
        self.retry_parked();
    }
}
