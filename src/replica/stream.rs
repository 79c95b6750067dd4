//! Owns what was sent to a peer and what it said about it: received, written, stable.
//! Must never take a peer's "written" for "stable": it remembers until a barrier is answered.

use super::disk_loss::DiskLoss;
use super::event::{Output, Part, PeerIndex};
use super::peer::{Peer, Phase};
use super::{IoPurpose, Replica, SyncPurpose};
use crate::format::frame::{DiskState, Frame, Protocol};
use crate::limits::{BARRIER_DELAY, UNSTABLE_BYTES_MAX, UNSTABLE_HELD_MAX, UNSTABLE_WRITES_MAX};
use crate::plant::Plant;
use crate::units::{Blocks, Nanos, Sequence};
use std::collections::VecDeque;

/// Something sent in sequence that is not yet stable on the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) sequence: Sequence,
    pub(super) blocks: Blocks,
    /// The piece that waits for the peer's word.
    pub(super) piece: Option<usize>,
    /// The peer has written it.
    pub(super) acked: bool,
    /// The resync item it belongs to.
    pub(super) item: Option<usize>,
    /// A hash whose answer is awaited.
    pub(super) asks: bool,
    /// Once stable, the peer's blocks are as here: their marks may go.
    pub(super) clears: bool,
}

impl Sent {
    /// A client's write, or a piece of one; `piece` waits for the peer's word.
    pub(super) const fn of_piece(sequence: Sequence, blocks: Blocks, piece: Option<usize>) -> Self {
        Self { sequence, blocks, piece, acked: false, item: None, asks: false, clears: true }
    }

    const fn is_of_client(&self) -> bool {
        self.item.is_none() && self.clears
    }

    /// Blocks of a resync.
    pub(super) const fn of_item(sequence: Sequence, blocks: Blocks, item: usize) -> Self {
        let item = Some(item);
        Self { sequence, blocks, piece: None, acked: false, item, asks: false, clears: true }
    }
}

/// Which of this node's own writes are stable on its own disk.
#[derive(Debug, Default)]
pub(super) struct LocalStream {
    /// Issued and not yet known to be before every open one.
    open: VecDeque<(Sequence, bool)>,
    last: Sequence,
    stable: Sequence,
}

impl LocalStream {
    pub(super) fn issued(&mut self, sequence: Sequence) {
        self.open.push_back((sequence, false));
        self.last = sequence;
    }

    pub(super) fn completed(&mut self, sequence: Sequence) {
        if let Ok(place) = self.open.binary_search_by_key(&sequence, |(issued, _)| *issued) {
            self.open[place].1 = true;
        }
        while self.open.front().is_some_and(|(_, done)| *done) {
            self.open.pop_front();
        }
    }

    /// What a sync that is submitted now covers: everything up to this has completed. `newest` is
    /// the newest sequence given out, which may be of something only a peer is sent.
    pub(super) fn covered(&self, newest: Sequence) -> Sequence {
        self.open.front().map_or(newest, |(open, _)| Sequence(open.0 - 1))
    }

    pub(super) const fn stable(&self) -> Sequence {
        self.stable
    }

    pub(super) fn synced(&mut self, covered: Sequence) {
        self.stable = self.stable.max(covered);
    }

    pub(super) const fn last(&self) -> Sequence {
        self.last
    }

    /// Nothing was written since what is known to be stable, except what is still under way.
    pub(super) fn is_all_stable(&self) -> bool {
        let first = self.open.front().map_or(self.last.next(), |(sequence, _)| *sequence);
        let others = self.open.iter().any(|(_, done)| *done);
        !others && self.stable.next() >= first
    }

    /// A disk that was opened in mid-life: what was written before is not its concern.
    pub(super) const fn start_at(&mut self, sequence: Sequence) {
        self.last = sequence;
        self.stable = sequence;
    }

    /// Without a disk there is nothing to wait for.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.stable = self.last;
    }
}

/// The stream to one peer.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// In the order of their sequences.
    pub(super) sent: VecDeque<Sent>,
    /// Bytes among them not yet written by the peer.
    pub(super) unacked_bytes: u64,
    bytes: u64,
    /// Newest sequence sent.
    last: Sequence,
    /// Everything up to this is stable on the peer.
    pub(super) stable: Sequence,
    /// The newest barrier asked for.
    barrier: Sequence,
    /// What was sent in former sessions, up to this, may not be stable: nothing is written before it is.
    fence: Sequence,
    /// When an idle peer is asked for the next one.
    barrier_due: Option<Nanos>,
}

impl Outgoing {
    pub(super) const fn last(&self) -> Sequence {
        self.last
    }

    /// The newest write up to `sequence` that is not yet stable on the peer; 0 if all are. Those of former
    /// sessions stand behind the fence, if there is one.
    pub(super) fn unstable_up_to(&self, sequence: Sequence) -> Sequence {
        let fence = if self.stable < self.fence { self.fence } else { Sequence(0) };
        let covered = self.sent.partition_point(|sent| sent.sequence <= sequence);
        covered.checked_sub(1).map_or(fence, |place| self.sent[place].sequence)
    }

    /// What the newest barrier asked for covers.
    pub(super) const fn asked_up_to(&self) -> Sequence {
        self.barrier
    }

    /// So much is not known to be stable on the peer that nothing more is sent.
    pub(super) fn is_full(&self) -> bool {
        self.sent.len() >= UNSTABLE_HELD_MAX
    }

    pub(super) const fn barrier_due(&self) -> Option<Nanos> {
        self.barrier_due
    }
}

impl Peer {
    /// Writes up to this are stable on the peer, or were never sent to it and are marked.
    pub(super) fn coolable(&self) -> Sequence {
        let first = self.out.sent.front().map(|sent| Sequence(sent.sequence.0 - 1));
        first.map_or(Sequence(u64::MAX), |before| before.max(self.out.stable))
    }
}

impl Replica {
    pub(super) fn next_sequence(&mut self) -> Sequence {
        self.sequence = self.sequence.next();
        self.sequence
    }

    pub(super) fn send(&mut self, peer: usize, frame: Frame) {
        self.send_frame(peer, frame, None);
    }

    pub(super) fn send_part(&mut self, peer: usize, frame: Frame, part: Part) {
        self.send_frame(peer, frame, Some(part));
    }

    fn send_frame(&mut self, peer: usize, frame: Frame, part: Option<Part>) {
        let Some(session) = self.peers[peer].session else {
            return;
        };
        let peer = PeerIndex(u8::try_from(peer).expect("few peers"));
        self.emit(Output::Send { peer, session, frame, part });
    }

    /// Sends something that takes a place in the stream.
    pub(super) fn send_sequenced(
        &mut self,
        peer: usize,
        sent: Sent,
        frame: Frame,
        part: Option<Part>,
    ) {
        let bytes = sent.blocks.length_bytes();
        let out = &mut self.peers[peer].out;
        out.last = sent.sequence;
        // A resync has its own pace, and is no congestion.
        out.unacked_bytes += if sent.is_of_client() { bytes } else { 0 };
        out.bytes += bytes;
        out.sent.push_back(sent);
        out.barrier_due.get_or_insert(self.now + BARRIER_DELAY);
        let full = out.sent.len() >= UNSTABLE_WRITES_MAX || out.bytes >= UNSTABLE_BYTES_MAX;
        self.send_frame(peer, frame, part);
        if full && self.peers[peer].out.barrier <= self.peers[peer].out.stable {
            self.ask_barrier(peer);
        }
    }

    /// Asks the peer to make stable all that was sent, unless it is or was asked already.
    pub(super) fn ask_barrier(&mut self, peer: usize) {
        let reached = self.peers[peer].mirrors() || self.peers[peer].is_ahead();
        let out = &mut self.peers[peer].out;
        out.barrier_due = None;
        if !reached || out.stable >= out.last || out.barrier >= out.last {
            return;
        }
        out.barrier = out.last;
        let sequence = out.last;
        self.send(peer, Frame::Barrier { sequence });
    }

    /// The peer's copy is the only one: what it was sent in former sessions becomes stable there before
    /// anything else is written.
    pub(super) fn fence_off(&mut self, peer: usize) {
        let out = &mut self.peers[peer].out;
        if out.stable < out.last {
            (out.fence, out.barrier) = (out.last, out.last);
            let sequence = out.last;
            self.send(peer, Frame::Barrier { sequence });
        }
    }

    pub(super) fn on_received(&mut self, peer: usize, first: Sequence, last: Sequence) {
        if self.options.protocol == Protocol::B && self.disk == DiskState::UpToDate {
            self.strike(peer, first, last, false);
        }
    }

    pub(super) fn on_written(&mut self, peer: usize, first: Sequence, last: Sequence) {
        self.strike(peer, first, last, true);
        self.check_congestion(peer);
        self.feed_resync(peer);
    }

    /// The peer has `first..=last`; `written`: on its disk.
    fn strike(&mut self, peer: usize, first: Sequence, last: Sequence, written: bool) {
        let sent = &self.peers[peer].out.sent;
        let mut place = sent.partition_point(|sent| sent.sequence < first);
        while let Some(sent) = self.peers[peer].out.sent.get_mut(place) {
            if sent.sequence > last {
                return;
            }
            place += 1;
            let piece = sent.piece.take();
            let newly = written && !sent.acked;
            sent.acked |= written;
            let (bytes, item) = (sent.blocks.length_bytes(), sent.item);
            let of_client = sent.is_of_client();
            if newly {
                match item {
                    Some(item) => self.item_written(peer, item),
                    None if of_client => self.peers[peer].out.unacked_bytes -= bytes,
                    None => {}
                }
            }
            if let Some(piece) = piece {
                self.piece_acked(piece, peer);
                // Settling a piece may have sent more, but never taken anything off the front.
            }
        }
    }

    /// Everything up to `sequence` is stable on the peer: nothing of it needs remembering, and
    /// marks that it answers go.
    pub(super) fn on_stable(&mut self, peer: usize, sequence: Sequence) {
        // What a target sends says nothing of the blocks it lacks itself.
        let syncing = self.peers[peer].phase == Phase::SyncSource;
        while let Some(sent) = self.peers[peer].out.sent.front().copied() {
            if sent.sequence > sequence || !sent.acked || sent.asks {
                break;
            }
            let out = &mut self.peers[peer].out;
            out.sent.pop_front();
            out.bytes -= sent.blocks.length_bytes();
            if syncing && sent.clears && self.peers[peer].marks_may_go() {
                self.maps[peer].clear(sent.blocks);
            }
            if let Some(item) = sent.item {
                self.item_stable(peer, item);
            }
        }
        let out = &mut self.peers[peer].out;
        out.stable = out.stable.max(sequence);
        if !out.sent.is_empty() && out.barrier <= out.stable {
            out.barrier_due = Some(self.now + BARRIER_DELAY);
        }
        self.feed_resync(peer);
        self.check_flushes();
        self.plan_log();
    }

    /// The session is over, or the peer's disk is: what is not stable there is on record here.
    pub(super) fn lose_stream(&mut self, peer: usize) {
        let goes_on = self.goes_on_alone();
        self.forget_sent(peer);
        let found = &mut self.peers[peer];
        (found.congested, found.ahead_until) = (false, None);
        let Outgoing { sent, last, stable, .. } = std::mem::take(&mut found.out);
        // Marks stand for what is not stable there, unless the peer's is the only current copy.
        let stable = if self.disk == DiskState::UpToDate { last } else { stable };
        self.peers[peer].out = Outgoing { last, stable, barrier: stable, ..Outgoing::default() };
        let told = |sent: &Sent| sent.item.is_none() && sent.piece.is_none() && !sent.acked;
        if self.disk != DiskState::UpToDate && sent.iter().any(told) {
            self.short_peers |= 1 << peer;
        }
        for sent in &sent {
            let forgotten = (sent.acked && self.planted(Plant::ForgetUnstable))
                || (sent.item.is_some() && self.planted(Plant::ClearWhenSent));
            if !forgotten {
                self.mark(peer, sent.blocks);
            }
        }
        self.peers[peer].unflushed |= sent.iter().any(Sent::is_of_client);
        // Under C nobody else lets go of a piece that the peer has not written.
        let given_up = |sent: &Sent| sent.is_of_client() && sent.piece.is_none() && !sent.acked;
        if self.options.protocol == Protocol::C && self.disk == DiskState::UpToDate {
            self.peers[peer].lacks_shown |= sent.iter().any(given_up);
        }
        if goes_on {
            self.miss_owed(peer);
            // Under A the client has been told of what the peer may never have had.
            let missed = |sent: &Sent| sent.item.is_none() && !sent.acked && !sent.asks;
            if self.options.protocol == Protocol::A && sent.iter().any(missed) {
                self.need_generation(peer);
            }
        }
    }

    /// Makes stable, on this node's disk, what has completed. One sync at a time; those who ask
    /// meanwhile share the next.
    pub(super) fn sync_here(&mut self) {
        if !self.has_open_disk() {
            return;
        }
        if self.syncing {
            self.sync_again = true;
            return;
        }
        self.syncing = true;
        let covered = self.local.covered(self.sequence);
        self.flush_round += 1;
        self.sync_disk(SyncPurpose::Own { covered, round: self.flush_round });
    }

    /// Makes all stable that has been written by now.
    pub(super) fn sync_disk(&mut self, purpose: SyncPurpose) {
        let io = self.start_io(IoPurpose::Sync { purpose, applied: self.applied.ended });
        self.emit(Output::Sync { io });
    }

    pub(super) fn synced(&mut self, purpose: SyncPurpose, ok: bool) {
        match purpose {
            SyncPurpose::Own { covered, round } => self.synced_here(covered, round, ok),
            SyncPurpose::Barrier { peer, session } => self.barrier_synced(peer, session, ok),
            SyncPurpose::Source { peer, session } => self.source_synced(peer, session, ok),
            SyncPurpose::Promotion { id } => self.promotion_synced(id, ok),
        }
    }

    fn synced_here(&mut self, covered: Sequence, round: u64, ok: bool) {
        self.syncing = false;
        if ok {
            self.local.synced(covered);
        } else {
            self.fail_disk(DiskLoss::Flush);
        }
        self.rounds_done = round;
        if std::mem::take(&mut self.sync_again) {
            self.sync_here();
        }
        self.check_flushes();
        self.plan_log();
    }

    /// Barriers that idle streams are due.
    pub(super) fn stream_timers(&mut self) {
        for peer in 0..self.peers.len() {
            let due = self.peers[peer].out.barrier_due;
            if due.is_some_and(|due| due <= self.now) {
                self.ask_barrier(peer);
            }
        }
    }
}
