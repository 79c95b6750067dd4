//! Owns a piece of a client's write: activity log, sequence, where it goes, what it is owed.
//! Must never let a piece reach a disk or a peer before its extents are in the log, nor count it
//! as done before everyone it waits for has it.

use super::disk_loss::DiskLoss;
use super::event::{DiskError, Output, Part, RequestError};
use super::peer::Peer;
use super::request::Kind;
use super::stream::Sent;
use super::{IoPurpose, Replica};
use crate::format::frame::{DiskState, Frame, Protocol};
use crate::plant::Plant;
use crate::units::{Blocks, Sequence};

/// One piece of a write or zero.
#[derive(Debug)]
pub(super) struct Piece {
    op: usize,
    pub(super) blocks: Blocks,
    part: Option<Part>,
    fua: bool,
    discard: bool,
    /// In the activity log's count of users.
    pub(super) entered: bool,
    /// It waited for the activity log.
    pub(super) was_cold: bool,
    issued: bool,
    owed_here: bool,
    /// Bit per peer whose word is awaited.
    owed_peers: u8,
    /// Bit per peer that was sent it in its present session.
    sent_peers: u8,
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
            was_cold: false,
            issued: false,
            owed_here: false,
            owed_peers: 0,
            sent_peers: 0,
            owed_version: 0,
            abandoned: false,
        };
        let key = self.pieces.insert(piece);
        self.enter_log(key);
    }

    /// The moment a piece becomes a write: from here on it happens everywhere or is on record.
    pub(super) fn issue(&mut self, key: usize) {
        if self.write_hold().is_some() {
            // While demoting, the end of this turn gives it up.
            return self.held.push_back(key);
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
        // Before the peers: a link that this write congests may let another one go on from within.
        if self.has_open_disk() {
            self.store_piece(key, sequence);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].mirrors() {
                self.mirror(peer, key, sequence);
            } else {
                self.miss(peer, key);
            }
        }
        self.settle_piece(key);
    }

    /// Sends the piece to a peer; under B and C it is owed an answer.
    fn mirror(&mut self, peer: usize, key: usize, sequence: Sequence) {
        // Without a current copy here, the peer's is the only one.
        let waits = self.options.protocol != Protocol::A || self.disk != DiskState::UpToDate;
        let waits = waits && !self.planted(Plant::AckBeforePeer);
        let piece = &mut self.pieces[key];
        let (blocks, fua, part) = (piece.blocks, piece.fua, piece.part);
        piece.sent_peers |= 1 << peer;
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

    pub(super) fn piece_stored(
        &mut self,
        key: usize,
        sequence: Sequence,
        result: Result<(), DiskError>,
    ) {
        self.local.completed(sequence);
        match result {
            Ok(()) => self.freshen(self.pieces[key].blocks, self.pieces[key].sent_peers),
            Err(_) => self.fail_disk(DiskLoss::Write),
        }
        // Not before: whoever gives up what waits must not end this one on the way.
        self.pieces[key].owed_here = false;
        self.settle_piece(key);
    }

    /// A primary in the middle of a resync to here has written these blocks itself: what the
    /// source read before must not land on them, if it was sent them as well. The source's own marks
    /// stay.
    fn freshen(&mut self, blocks: Blocks, sent: u8) {
        let peers = self.peers.iter_mut().zip(&mut self.maps).enumerate();
        for (place, (peer, map)) in peers {
            if sent & (1 << place) != 0 && peer.is_known_target() {
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
            let piece = &mut self.pieces[key];
            piece.owed_peers &= !(1 << peer);
            if self.came_without_disk(key) {
                self.issue_anew(key);
                continue;
            }
            self.miss(peer, key);
            self.settle_piece(key);
        }
    }

    /// Whether it was issued while there was no disk, and there is one now: it is not on that, unless by
    /// way of a peer, nor in its log.
    fn came_without_disk(&self, key: usize) -> bool {
        let piece = &self.pieces[key];
        self.has_open_disk() && !piece.entered && !piece.owed_here
    }

    /// Nobody was told of it yet: it takes the way of a new one, through the log.
    fn issue_anew(&mut self, key: usize) {
        let piece = &mut self.pieces[key];
        (piece.issued, piece.owed_peers, piece.sent_peers) = (false, 0, 0);
        self.expect_no_answer(key);
        self.enter_log(key);
    }

    /// A late answer to what was sent of the piece must not find it, nor whatever has its place then.
    fn expect_no_answer(&mut self, key: usize) {
        let sent = self.peers.iter_mut().flat_map(|peer| peer.out.sent.iter_mut());
        sent.filter(|sent| sent.piece == Some(key)).for_each(|sent| sent.piece = None);
    }

    /// The copy here may have become current just as the peer went.
    pub(super) fn miss_lost(&mut self, peer: usize) {
        if self.goes_on_alone() && !self.peers[peer].mirrors() {
            self.miss_owed(peer);
        }
    }

    /// The session is over: what was sent in it was sent to nobody.
    pub(super) fn forget_sent(&mut self, peer: usize) {
        self.pieces.iter_mut().for_each(|(_, piece)| piece.sent_peers &= !(1 << peer));
    }

    /// Ends every write that waits for what may never come; nothing of it was acknowledged.
    pub(super) fn fail_held(&mut self) {
        let keys: Vec<usize> = self.pieces.iter().map(|(key, _)| key).collect();
        let held = std::mem::take(&mut self.held);
        let negotiates = self.peers.iter().any(Peer::negotiates);
        for key in keys {
            let Some(piece) = self.pieces.get_mut(key) else {
                continue;
            };
            if piece.issued && negotiates {
                continue; // A peer that was told the state here is to be sent it.
            }
            if !piece.issued && !held.contains(&key) {
                continue; // In the log's queue: it comes by `issue`.
            }
            piece.abandoned = true;
            let owed = std::mem::take(&mut piece.owed_peers);
            if piece.issued && self.disk == DiskState::UpToDate {
                // It stays on this disk, to be read from there.
                let owed = |place: usize| owed & (1 << place) != 0;
                let peers = self.peers.iter_mut().enumerate();
                let away = peers.filter(|(place, peer)| owed(*place) && !peer.mirrors());
                away.for_each(|(_, peer)| peer.lacks_shown = true);
            }
            self.expect_no_answer(key);
            let piece = &self.pieces[key];
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
        self.were_cold -= usize::from(piece.was_cold);
        self.frozen.retain(|other| *other != key);
        self.version_waiting.retain(|other| *other != key);
        self.piece_ended(piece.op);
        if !self.log_waiting.is_empty() {
            self.plan_log();
        }
    }

    /// A disk comes back under a primary: what is under way was not written to it.
    pub(super) fn mark_running_pieces(&mut self) {
        let running = self.pieces.iter().filter(|(_, piece)| piece.issued);
        let blocks: Vec<Blocks> = running.map(|(_, piece)| piece.blocks).collect();
        for peer in 0..self.peers.len() {
            blocks.iter().for_each(|blocks| self.mark(peer, *blocks));
        }
    }

    /// The disk that was let go is back as it was: what was under way goes to it once more, at once
    /// where the log still has its extents.
    pub(super) fn store_running_pieces(&mut self) {
        let running = self.pieces.iter().filter(|(_, piece)| piece.issued && !piece.abandoned);
        let running: Vec<usize> = running.map(|(key, _)| key).collect();
        for key in running {
            let sequence = self.next_sequence();
            let blocks = self.pieces[key].blocks;
            if !self.log.enter(blocks) {
                self.issue_anew(key);
                continue;
            }
            self.pieces[key].entered = true;
            self.log.issued(blocks, sequence);
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

    /// The disk here is gone, and with it the copy that stood for what peers may lack. What no client
    /// was told yet they owe once more.
    pub(super) fn owe_peers_anew(&mut self, may_lack: impl Fn(&Peer) -> bool) {
        let owes = |(place, peer): (usize, &Peer)| u8::from(may_lack(peer)) << place;
        let owing = self.peers.iter().enumerate().map(owes).fold(0, |all, one| all | one);
        let running = self.pieces.iter_mut().map(|(_, piece)| piece);
        for piece in running.filter(|piece| piece.issued && !piece.abandoned) {
            piece.owed_peers |= owing;
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
            if self.came_without_disk(key) {
                self.issue_anew(key);
                continue;
            }
            let sequence = self.next_sequence();
            let piece = &mut self.pieces[key];
            piece.owed_peers &= !(1 << peer);
            if piece.entered {
                let blocks = piece.blocks;
                self.log.issued(blocks, sequence);
            }
            self.mirror(peer, key, sequence);
            self.settle_piece(key);
        }
    }
}
