//! Owns how a new resource gets its first data: from one node, or from nowhere, if both hold only
//! zeroes. Must never take a disk for empty that was not looked through, nor begin twice.

use super::Replica;
use super::command::NO_DISK;
use super::event::{CommandId, Output};
use super::peer::{Peer, Phase};
use super::persist::After;
use crate::format::frame::Frame;
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::DataState;
use crate::units::{Epoch, Session};

/// Whether all is zero, asked on behalf of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyScan {
    /// This node's operator.
    Command(CommandId),
    /// The peer, which offers this generation.
    Peer { peer: usize, session: Session, generation: Generation },
}

impl Replica {
    pub(super) fn init_from(&mut self, id: CommandId) {
        if !self.may_init(id) {
            return;
        }
        self.begin_first_generation();
        for slot in self.superblock.slots.iter_mut().filter(|slot| slot.in_use) {
            slot.all_marked = true;
            // The peer holds nothing: it cannot serve, whatever happens to this node.
            slot.withdrawn = true;
        }
        self.maps.iter_mut().for_each(super::dirty_map::DirtyMap::mark_all);
        let text = "this node's disk, as it is, is the first copy";
        self.reconsider_disk("init");
        self.save(After::Renegotiate { peer: 0, id, text });
    }

    fn may_init(&mut self, id: CommandId) -> bool {
        if !self.has_open_disk() {
            self.refuse_command(id, "no-disk", NO_DISK);
            return false;
        }
        if self.superblock.lineage.head().is_some() {
            let text =
                "it holds data already; `twinblk invalidate RESOURCE` is the way to give it up";
            self.refuse_command(id, "has-data", text);
            return false;
        }
        let theirs = self.peers.iter().filter_map(|peer| peer.their_state.as_ref());
        if theirs.into_iter().any(|state| state.lineage.head().is_some()) {
            let text = "the peer holds data already, which is on its way here";
            self.refuse_command(id, "peer-has-data", text);
            return false;
        }
        true
    }

    pub(super) fn init_empty(&mut self, id: CommandId) {
        if !self.may_init(id) {
            return;
        }
        if self.offered.is_some() {
            let text = "the peer has been asked already whether it holds only zeroes; `twinblk \
                        status RESOURCE` shows what comes of it";
            return self.refuse_command(id, "busy", text);
        }
        let agreeing = |peer: &Peer| peer.negotiates() || peer.phase == Phase::Settling;
        if self.peers.iter().any(agreeing) {
            let text =
                "the nodes have just met and are comparing what they hold; try again in a moment";
            return self.refuse_command(id, "negotiating", text);
        }
        if !self.peers.iter().any(|peer| peer.phase == Phase::Idle) {
            let text = "both nodes must be connected for --both-empty; see `twinblk status`";
            return self.refuse_command(id, "not-connected", text);
        }
        if self.scanning.is_some() {
            return self.refuse_command(id, "busy", "a device is being scanned already");
        }
        self.scanning = Some(EmptyScan::Command(id));
        self.emit(Output::ScanEmpty);
    }

    pub(super) fn on_empty_ask(&mut self, peer: usize, generation: Generation) {
        // Of two offers that cross, that of the lower node id stands: each would begin its own history.
        let own_stands = self.offered.is_some() && self.options.node < self.peers[peer].node;
        let fits = self.superblock.lineage.head().is_none() && self.scanning.is_none();
        if !fits || own_stands || self.peers[peer].phase != Phase::Idle || !self.has_open_disk() {
            return self.send(peer, Frame::EmptyAnswer { empty: false });
        }
        let session = self.peers[peer].session_id();
        self.scanning = Some(EmptyScan::Peer { peer, session, generation });
        self.emit(Output::ScanEmpty);
    }

    pub(super) fn on_scanned(&mut self, empty: Option<bool>) {
        let Some(scan) = self.scanning.take() else {
            return;
        };
        match scan {
            EmptyScan::Command(id) if empty == Some(true) => self.offer_empty(id),
            EmptyScan::Command(id) if empty.is_none() => {
                let text = "the device could not be looked through; the daemon's log says why";
                self.refuse_command(id, "not-scanned", text);
            }
            EmptyScan::Command(id) => {
                let text =
                    "the device does not hold only zeroes; use `twinblk init RESOURCE --from NODE`";
                self.refuse_command(id, "not-empty", text);
            }
            EmptyScan::Peer { peer, session, .. } if empty != Some(true) => {
                if self.peers[peer].session == Some(session) {
                    self.send(peer, Frame::EmptyAnswer { empty: false });
                }
            }
            EmptyScan::Peer { peer, session, generation } => {
                let found = &self.peers[peer];
                let agrees = found.session == Some(session) && found.phase == Phase::Idle;
                if !agrees || self.superblock.lineage.head().is_some() {
                    return;
                }
                self.superblock.lineage = Lineage::new(vec![generation]);
                self.superblock.epoch = self.superblock.epoch.max(generation.epoch);
                self.superblock.data = DataState::Consistent;
                self.save(After::EmptyAnswered { peer, session });
            }
        }
    }

    fn offer_empty(&mut self, id: CommandId) {
        let Some(peer) = self.peers.iter().position(|peer| peer.phase == Phase::Idle) else {
            let text = "the link was lost while the device was scanned; try again";
            return self.refuse_command(id, "not-connected", text);
        };
        let epoch = self.superblock.epoch.next();
        let generation = Generation { epoch, id: self.random.draw(), node: self.options.node };
        self.offered = Some((id, generation, peer));
        self.send(peer, Frame::EmptyAsk { generation });
    }

    /// The peer is gone without an answer. If it has begun all the same, it is the source when it
    /// is met again.
    pub(super) fn offer_lost_peer(&mut self, peer: usize) {
        if let Some((id, ..)) = self.offered.take_if(|(_, _, asked)| *asked == peer) {
            let text = "the link was lost before the peer had answered; see `twinblk status`, and \
                        try again";
            self.refuse_command(id, "link-lost", text);
        }
    }

    pub(super) fn empty_answered(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session == Some(session) {
            self.send(peer, Frame::EmptyAnswer { empty: true });
        }
        self.reconsider_disk("init --both-empty");
    }

    pub(super) fn on_empty_answer(&mut self, peer: usize, empty: bool) {
        let Some((id, generation, _)) = self.offered.take_if(|(_, _, asked)| *asked == peer) else {
            return;
        };
        if !empty {
            let them = self.peers[peer].name.clone();
            let text = format!(
                "the device of {them} does not hold only zeroes, has data, or is being begun with \
                 from there; `twinblk status RESOURCE` tells; or use `twinblk init RESOURCE \
                 --from NODE`"
            );
            return self.refuse_command(id, "not-empty", &text);
        }
        if !self.has_open_disk() {
            return self.refuse_command(id, "no-disk", super::command::NO_DISK);
        }
        self.superblock.lineage = Lineage::new(vec![generation]);
        self.superblock.epoch = self.superblock.epoch.max(generation.epoch);
        self.superblock.data = DataState::Consistent;
        let text = "both nodes hold only zeroes, and begin with that";
        self.save(After::Renegotiate { peer, id, text });
    }

    /// No contents, and none are known to exist anywhere: `init` says where they are.
    pub(super) fn is_just_created(&self) -> bool {
        self.has_no_data() && self.superblock.epoch == Epoch(0)
    }

    pub(super) fn has_no_data(&self) -> bool {
        self.has_metadata() && self.superblock.lineage.head().is_none()
    }

    fn begin_first_generation(&mut self) {
        let epoch = self.superblock.epoch.next();
        let generation = Generation { epoch, id: self.random.draw(), node: self.options.node };
        self.superblock.epoch = epoch;
        self.superblock.lineage = Lineage::new(vec![generation]);
        self.superblock.data = DataState::Consistent;
        self.superblock.sync_target = None;
    }
}
