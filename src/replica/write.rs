//! Owns a piece of a client's write: activity log, sequence, where it goes, what it is owed.
//! Must never let a piece reach a disk or a peer before its extents are in the log, nor count it
//! as done before everyone it waits for has it.

use super::disk_loss::DiskLoss;
use super::event::{DiskError, Output, Part, RequestError};
use super::hot_extents::extents_of;
use super::options::{OnCongestion, PeerLoss};
use super::peer::Phase;
use super::persist::{After, PagesJob};
use super::request::Kind;
use super::status::{Hold, generation_words};
use super::stream::Sent;
use super::{IoPurpose, Replica};
use crate::format::extent_log::window_for;
use crate::format::frame::{DiskState, Frame, Protocol};
use crate::format::lineage::Generation;
use crate::plant::Plant;
use crate::units::{Blocks, Sequence};

/// One piece of a write or zero.
#[derive(Debug)]
pub(super) struct Piece {
    op: usize,
    blocks: Blocks,
    part: Option<Part>,
    fua: bool,
    discard: bool,
    /// In the activity log's count of users.
    entered: bool,
    issued: bool,
    owed_here: bool,
    /// Bit per peer whose word is awaited.
    owed_peers: u8,
    /// The superblock version that must be stable first; 0 for none.
    owed_version: u64,
    /// Its client is gone: it ends without an acknowledgement.
    abandoned: bool,
}

impl Replica {
    pub(super) fn start_piece(&mut self, op: usize, blocks: Blocks, part: Option<Part>) {
        let Kind::Zero { discard } = self.ops[op].kind else {
            return self.add_piece(op, blocks, part, false);
        };
        self.add_piece(op, blocks, part, discard && part.is_none());
    }

    fn add_piece(&mut self, op: usize, blocks: Blocks, part: Option<Part>, discard: bool) {
        let piece = Piece {
            op,
            blocks,
            part,
            fua: self.ops[op].fua,
            discard,
            entered: false,
            issued: false,
            owed_here: false,
            owed_peers: 0,
            owed_version: 0,
            abandoned: false,
        };
        let key = self.pieces.insert(piece);
        self.enter_log(key);
    }

    /// Waits until the extents of the piece are hot, in the order of asking.
    fn enter_log(&mut self, key: usize) {
        let blocks = self.pieces[key].blocks;
        if !self.has_open_disk() {
            return self.issue(key);
        }
        if self.log_waiting.is_empty() && self.log.enter(blocks) {
            self.pieces[key].entered = true;
            return self.issue(key);
        }
        self.log_waiting.push_back(super::LogWaiter::Piece(key));
        self.plan_log();
    }

    /// Begins a log transaction for those who wait, if none is under way.
    pub(super) fn plan_log(&mut self) {
        if self.log.under_way() || self.log_waiting.is_empty() || !self.has_open_disk() {
            return;
        }
        let coolable = self.coolable();
        let wanted: Vec<u32> = self
            .log_waiting
            .iter()
            .take(crate::limits::LOG_UPDATES_MAX)
            .flat_map(|waiter| extents_of(self.blocks_of_waiter(*waiter)))
            .collect();
        let first = self.log_waiting.front().map(|waiter| self.blocks_of_waiter(*waiter));
        let first = first.into_iter().flat_map(extents_of);
        let geometry = self.superblock.geometry;
        let window = |number| window_for(number, geometry.log_extents);
        match self.log.plan(wanted.into_iter(), first, coolable, window) {
            Some(_) if self.planted(Plant::NoLogPages) => self.write_log(),
            Some(plan) => self.save_pages(PagesJob::Cooled(plan.cooled)),
            None => self.relieve_log(),
        }
    }

    fn blocks_of_waiter(&self, waiter: super::LogWaiter) -> Blocks {
        match waiter {
            super::LogWaiter::Piece(key) => self.pieces[key].blocks,
            super::LogWaiter::Apply { peer, sequence } => self.apply_blocks(peer, sequence),
        }
    }

    /// Every slot is busy with writes that are not yet safe everywhere: ask for that at once.
    fn relieve_log(&mut self) {
        self.sync_here();
        for peer in 0..self.peers.len() {
            self.ask_barrier(peer);
        }
    }

    pub(super) fn log_saved(&mut self) {
        self.log.commit();
        self.wake_log_waiters();
    }

    fn wake_log_waiters(&mut self) {
        while let Some(waiter) = self.log_waiting.front().copied() {
            if !self.log.enter(self.blocks_of_waiter(waiter)) {
                break;
            }
            self.log_waiting.pop_front();
            match waiter {
                super::LogWaiter::Piece(key) => {
                    self.pieces[key].entered = true;
                    self.issue(key);
                }
                super::LogWaiter::Apply { peer, sequence } => self.apply_entered(peer, sequence),
            }
        }
        self.plan_log();
    }

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
            return Some(Hold::PeerAway);
        }
        let waits = self.options.on_congestion == OnCongestion::Wait;
        if waits && self.peers.iter().any(|peer| peer.congested) {
            return Some(Hold::Congested);
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

    /// The moment a piece becomes a write: from here on it happens everywhere or is on record.
    pub(super) fn issue(&mut self, key: usize) {
        if self.write_hold().is_some() {
            self.held.push_back(key);
            return self.drain_for_demote();
        }
        if self.has_open_disk() && !self.pieces[key].entered {
            // It was held while there was no disk.
            return self.enter_log(key);
        }
        let sequence = self.next_sequence();
        let blocks = self.pieces[key].blocks;
        self.pieces[key].issued = true;
        if self.pieces[key].entered {
            self.log.issued(blocks, sequence);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].mirrors() {
                self.mirror(peer, key, sequence);
            } else {
                self.miss(peer, key);
            }
        }
        if self.has_open_disk() {
            self.store_piece(key, sequence);
        }
        self.settle_piece(key);
    }

    /// Sends the piece to a peer; under B and C it is owed an answer.
    fn mirror(&mut self, peer: usize, key: usize, sequence: Sequence) {
        // Without a disk here, the peer's copy is the only one.
        let waits = self.options.protocol != Protocol::A || !self.has_open_disk();
        let waits = waits && !self.planted(Plant::AckBeforePeer);
        let piece = &mut self.pieces[key];
        let (blocks, fua, part) = (piece.blocks, piece.fua, piece.part);
        if waits {
            piece.owed_peers |= 1 << peer;
        }
        let after = self.peers[peer].out.unstable_up_to(self.flushed);
        let sent = Sent::of_piece(sequence, blocks, waits.then_some(key));
        let frame = match part {
            Some(_) => Frame::Write { sequence, after, blocks, fua },
            None => Frame::Zero { sequence, after, blocks, fua, discard: piece.discard },
        };
        self.send_sequenced(peer, sent, frame, part);
        self.check_congestion(peer);
    }

    /// The peer does not get the piece: that is on record, in a generation it lacks, before the
    /// client hears of it.
    fn miss(&mut self, peer: usize, key: usize) {
        let blocks = self.pieces[key].blocks;
        self.mark(peer, blocks);
        let version = self.need_generation(peer);
        let piece = &mut self.pieces[key];
        piece.owed_version = piece.owed_version.max(version);
    }

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
        for (peer, slot) in self.peers.iter().zip(&mut self.superblock.slots) {
            if slot.in_use && slot.base.is_none() && !peer.mirrors() {
                slot.base = base;
            }
        }
        self.note("generation", &generation_words(base), &generation.to_string(), cause);
        self.save(After::Generation);
        self.generation_version = self.saver.version();
    }

    pub(super) fn generation_saved(&mut self) {
        for key in std::mem::take(&mut self.version_waiting) {
            if self.pieces.contains(key) {
                self.settle_piece(key);
            }
        }
    }

    pub(super) fn piece_stored(
        &mut self,
        key: usize,
        sequence: Sequence,
        result: Result<(), DiskError>,
    ) {
        self.local.completed(sequence);
        self.pieces[key].owed_here = false;
        match result {
            Ok(()) => self.freshen(self.pieces[key].blocks),
            Err(_) => self.fail_disk(DiskLoss::Write),
        }
        self.settle_piece(key);
    }

    /// A primary in the middle of a resync to here has written these blocks itself: what the
    /// source read before must not land on them. The source's own marks stay.
    fn freshen(&mut self, blocks: Blocks) {
        for (peer, map) in self.peers.iter_mut().zip(&mut self.maps) {
            if peer.is_known_target() {
                map.clear(blocks);
                peer.fresh = true;
            }
        }
    }

    /// A peer has the piece, or will have it by its mark.
    pub(super) fn piece_acked(&mut self, key: usize, peer: usize) {
        self.pieces[key].owed_peers &= !(1 << peer);
        self.settle_piece(key);
    }

    /// The peer is gone: what waits for it goes on by its marks, in a generation the peer lacks.
    pub(super) fn miss_owed(&mut self, peer: usize) {
        let waits = |piece: &Piece| piece.issued && piece.owed_peers & (1 << peer) != 0;
        let owed = self.pieces.iter().filter(|(_, piece)| waits(piece));
        let owed: Vec<usize> = owed.map(|(key, _)| key).collect();
        for key in owed {
            self.pieces[key].owed_peers &= !(1 << peer);
            self.miss(peer, key);
            self.settle_piece(key);
        }
    }

    /// Ends every write that waits for what may never come; nothing of it was acknowledged.
    pub(super) fn fail_held(&mut self) {
        let keys: Vec<usize> = self.pieces.iter().map(|(key, _)| key).collect();
        let held = std::mem::take(&mut self.held);
        for key in keys {
            let Some(piece) = self.pieces.get_mut(key) else {
                continue;
            };
            if !piece.issued && !held.contains(&key) {
                continue; // In the log's queue: it comes by `issue`.
            }
            piece.abandoned = true;
            piece.owed_peers = 0;
            for peer in &mut self.peers {
                // A late answer must not find whatever has this place then.
                let sent = peer.out.sent.iter_mut().filter(|sent| sent.piece == Some(key));
                sent.for_each(|sent| sent.piece = None);
            }
            let (op, issued) = (piece.op, piece.issued);
            self.ops[op].failed = Some(RequestError::NotPrimary);
            if issued {
                self.settle_piece(key);
            } else {
                self.end_piece(key);
            }
        }
    }

    /// Finishes the piece if it is owed nothing.
    pub(super) fn settle_piece(&mut self, key: usize) {
        let piece = &self.pieces[key];
        if piece.owed_here || piece.owed_peers != 0 || !piece.issued {
            return;
        }
        if piece.abandoned {
            return self.end_piece(key);
        }
        if !self.saver.is_durable(piece.owed_version) {
            if !self.version_waiting.contains(&key) {
                self.version_waiting.push(key);
            }
            return;
        }
        if self.freezing.is_some() || !self.has_current_data() {
            if !self.frozen.contains(&key) {
                self.frozen.push(key);
            }
            return;
        }
        if piece.fua {
            self.note_flushed();
        }
        self.end_piece(key);
    }

    fn end_piece(&mut self, key: usize) {
        let piece = self.pieces.remove(key);
        if piece.entered {
            self.log.leave(piece.blocks);
        }
        self.frozen.retain(|other| *other != key);
        self.version_waiting.retain(|other| *other != key);
        self.piece_ended(piece.op);
        if !self.log_waiting.is_empty() {
            self.plan_log();
        }
    }

    /// The log went with its disk: nobody is in it.
    pub(super) fn leave_log_of_lost_disk(&mut self) {
        self.pieces.iter_mut().for_each(|(_, piece)| piece.entered = false);
        self.peers.iter_mut().for_each(|peer| peer.incoming.forget_log());
    }

    /// A disk comes back under a primary: what is under way was not written to it.
    pub(super) fn mark_running_pieces(&mut self) {
        let running = self.pieces.iter().filter(|(_, piece)| piece.issued);
        let blocks: Vec<Blocks> = running.map(|(_, piece)| piece.blocks).collect();
        for peer in 0..self.peers.len() {
            blocks.iter().for_each(|blocks| self.mark(peer, *blocks));
        }
    }

    /// The disk that was let go is back as it was: what was under way goes to it once more. Its
    /// marks are stable; where the log still has its extents, it keeps them hot as well.
    pub(super) fn store_running_pieces(&mut self) {
        let running = self.pieces.iter().filter(|(_, piece)| piece.issued && !piece.abandoned);
        let running: Vec<usize> = running.map(|(key, _)| key).collect();
        for key in running {
            let sequence = self.next_sequence();
            let blocks = self.pieces[key].blocks;
            if self.log.enter(blocks) {
                self.pieces[key].entered = true;
                self.log.issued(blocks, sequence);
            }
            self.store_piece(key, sequence);
        }
        for peer in 0..self.peers.len() {
            if !self.peers[peer].mirrors() && self.goes_on_alone() {
                self.miss_owed(peer);
            }
        }
    }

    fn store_piece(&mut self, key: usize, sequence: Sequence) {
        let Piece { blocks, part, fua, discard, .. } = self.pieces[key];
        self.pieces[key].owed_here = true;
        self.local.issued(sequence);
        let io = self.start_io(IoPurpose::Write { piece: key, sequence });
        self.emit(match part {
            Some(from) => Output::Store { io, blocks, from, fua },
            None => Output::Zero { io, blocks, discard, fua },
        });
    }

    /// Issues what was held, if it may go now, in order.
    pub(super) fn retry_held(&mut self) {
        while self.write_hold().is_none() {
            let Some(key) = self.held.pop_front() else {
                return;
            };
            self.issue(key);
        }
    }

    /// Settles what was frozen, if it may go now.
    pub(super) fn retry_frozen(&mut self) {
        if self.freezing.is_none() && self.has_current_data() {
            for key in std::mem::take(&mut self.frozen) {
                if self.pieces.contains(key) {
                    self.settle_piece(key);
                }
            }
        }
    }

    /// Sends again what a peer that was away still owes an answer for.
    pub(super) fn resend_owed(&mut self, peer: usize) {
        let owed: Vec<usize> = self
            .pieces
            .iter()
            .filter(|(_, piece)| piece.issued && piece.owed_peers & (1 << peer) != 0)
            .map(|(key, _)| key)
            .collect();
        for key in owed {
            let sequence = self.next_sequence();
            let piece = &mut self.pieces[key];
            piece.owed_peers &= !(1 << peer);
            if piece.entered {
                let blocks = piece.blocks;
                self.log.issued(blocks, sequence);
            }
            self.mirror(peer, key, sequence);
        }
    }

    /// The log has room for those who wait once writes became stable.
    pub(super) fn coolable(&self) -> Sequence {
        if self.planted(Plant::CoolUnstable) {
            return self.sequence;
        }
        let here = self.local.stable();
        // While this node is ahead, what the peer was sent before is marked already.
        let peers = self.peers.iter().filter(|peer| !peer.is_ahead());
        let peers = peers.map(super::peer::Peer::coolable);
        peers.fold(here, Sequence::min)
    }
}
