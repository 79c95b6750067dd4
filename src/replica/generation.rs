//! Owns when a generation begins: here, with the first write that a peer misses, and on the peer,
//! with the loss of the disk here. Must never let a write be acknowledged that a peer misses before
//! the generation it lacks is durable.

use super::Replica;
use super::disk::Freeze;
use super::persist::After;
use super::status::generation_words;
use crate::format::frame::{DiskState, Frame, Role};
use crate::format::lineage::Generation;
use crate::plant::Plant;
use crate::units::Session;

impl Replica {
    /// Begins a generation unless the peer already lacks one; returns the superblock version that
    /// must be stable before a write it misses is acknowledged.
    pub(super) fn need_generation(&mut self, peer: usize) -> u64 {
        // A peer that was told the end of a resync may have adopted the present generation.
        let base = self.superblock.slots[peer].base;
        if self.planted(Plant::NoGeneration) {
            return 0;
        }
        let head = self.superblock.lineage.head();
        let own = head.is_some_and(|head| head.node == self.options.node);
        if base.is_none() || base == head || !own {
            self.begin_generation("a write that a peer misses");
        }
        self.generation_version
    }

    /// Begins a generation: whoever is not mirrored to is behind from here on.
    pub(super) fn begin_generation(&mut self, cause: &'static str) {
        let epoch = self.superblock.epoch.next();
        let generation = Generation { epoch, id: self.random.draw(), node: self.options.node };
        self.superblock.epoch = epoch;
        let base = self.superblock.lineage.head();
        self.superblock.lineage.begin(generation);
        // Who has begun one that it was asked for before lacks what this one is begun for.
        self.asked_for = [None; 2];
        for (peer, slot) in self.peers.iter().zip(&mut self.superblock.slots) {
            if slot.in_use && slot.base.is_none() && !peer.mirrors() {
                slot.base = base;
            }
        }
        self.note("generation", &generation_words(base), &generation.to_string(), cause);
        self.save(After::Generation);
        self.generation_version = self.saver.version();
    }

    /// The disk goes, and may have the newest generation on record or not. Nothing was acknowledged in that.
    /// If it was certainly not written, it counts for nothing. Otherwise the disk may say that the peer
    /// lacks it: then no peer that does is gone on with, until the disk tells. Gives what the disk
    /// may have in place of the newest generation in memory.
    pub(super) fn doubt_unrecorded(&mut self) -> Option<Generation> {
        let head = self.superblock.lineage.head();
        let back = self.freezing.as_ref().filter(|freeze| freeze.back);
        if back.is_some_and(|freeze| head == Some(freeze.generation)) {
            // The peer may have begun it; the record of it here says of nobody that it lacks something.
            self.superblock.lineage.drop_newest();
            return head;
        }
        if self.saver.is_durable(self.generation_version) {
            return None;
        }
        if self.saver.may_have_written(self.generation_version) {
            return head.and_then(|head| self.superblock.lineage.before(head));
        }
        self.superblock.lineage.drop_newest();
        None
    }

    pub(super) fn generation_saved(&mut self) {
        for key in std::mem::take(&mut self.version_waiting) {
            if self.pieces.contains(key) {
                self.settle_piece(key);
            }
        }
    }

    /// Asks the peer to begin the generation this node now misses, if one is owed.
    pub(super) fn ask_generation(&mut self, peer: usize) {
        if let Some(freeze) = &self.freezing
            && self.role == Role::Primary
            && self.peers[peer].disk == Some(DiskState::UpToDate)
        {
            // One that the disk may have already comes first: then the peer goes on from there as well.
            let first = freeze.asked_first();
            let asked: Vec<Generation> = first.into_iter().chain([freeze.generation]).collect();
            for generation in asked {
                self.send(peer, Frame::GenerationBegin { generation });
            }
        }
    }

    /// The peer, primary, has no disk any more: what is written from here on, it lacks.
    pub(super) fn on_generation_begin(&mut self, peer: usize, generation: Generation) {
        if self.disk != DiskState::UpToDate || self.role == Role::Primary {
            // Both disks may have failed at once: the peer hears of this one's, and waits.
            return;
        }
        self.peers[peer].needs_marks_here = true;
        // From then on this copy is the newer one. So all that the peer had acknowledged before comes
        // first: it may be stable nowhere but on the disk that has gone.
        self.reach_generation(peer, generation);
    }

    /// All that the peer sent before is stable here.
    pub(super) fn take_up_generation(&mut self, peer: usize, generation: Generation) {
        if self.disk != DiskState::UpToDate || self.role == Role::Primary {
            return;
        }
        let session = self.peers[peer].session_id();
        let superblock = &mut self.superblock;
        let head = superblock.lineage.head();
        if !superblock.lineage.knows(generation) {
            superblock.lineage.begin(generation);
            superblock.epoch = superblock.epoch.max(generation.epoch);
            let slot = &mut superblock.slots[peer];
            if slot.base == head {
                // A resync whose end it was told says no more that it is behind: it may have adopted it.
                slot.sync_token = 0;
            }
            slot.base = slot.base.or(head);
        }
        superblock.log_live = true;
        self.save(After::GenerationHeld { peer, session, generation });
    }

    pub(super) fn generation_held(
        &mut self,
        peer: usize,
        session: Session,
        generation: Generation,
    ) {
        if self.peers[peer].session == Some(session) {
            self.send(peer, Frame::GenerationHeld { generation });
        }
    }

    pub(super) fn on_generation_held(&mut self, peer: usize, generation: Generation) {
        let awaited = |freeze: &Freeze| freeze.generation == generation && !freeze.back;
        if !self.freezing.as_ref().is_some_and(awaited) {
            return;
        }
        self.freezing = None;
        self.asked_for = [None; 2];
        // All that came before is stable there.
        self.short_peers &= !(1 << peer);
        self.superblock.epoch = self.superblock.epoch.max(generation.epoch);
        let old = generation_words(self.superblock.lineage.head());
        self.served = Some(generation);
        self.superblock.lineage.begin(generation);
        let new = generation.to_string();
        self.note("generation", &old, &new, "the local disk was let go; the peer keeps the marks");
        self.retry_frozen();
        self.check_flushes();
    }
}
