//! Owns FLUSH: what must be stable, here and on the peers, before it is answered.
//! Must never answer under C before both have it.

use super::Replica;
use super::event::{Output, Reply, RequestError, RequestId};
use crate::format::frame::{DiskState, Protocol, Role};
use crate::plant::Plant;
use crate::units::Sequence;

/// A FLUSH on its way.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) id: RequestId,
    /// The sync whose end it waits for here; 0: none.
    round: u64,
    /// Under C, per peer: what must be stable there.
    owed: Vec<(usize, Sequence)>,
    /// Everything issued when it was asked.
    covers: Sequence,
}

impl Replica {
    pub(super) fn on_flush(&mut self, id: RequestId) {
        if self.role != Role::Primary || self.demoting.is_some() {
            let reply = Reply::Failed(RequestError::NotPrimary);
            return self.emit(Output::Reply { id, reply });
        }
        let mut flush = Flush { id, round: 0, owed: Vec::new(), covers: self.sequence };
        if self.has_open_disk() {
            // A sync under way began before this was asked: only the next one covers it all.
            flush.round = self.flush_round + 1;
            self.sync_here();
        }
        flush.owed = self.owed_by_peers();
        self.flushes.push_back(flush);
        self.check_flushes();
    }

    /// Asks the peers to make stable what they were sent, and says what of it a flush waits for:
    /// all under C; under A and B too if the copy here is not current, as theirs is the only one.
    fn owed_by_peers(&mut self) -> Vec<(usize, Sequence)> {
        let waits = self.options.protocol == Protocol::C || self.disk != DiskState::UpToDate;
        let waits = waits && !self.planted(Plant::FlushHereOnly);
        let mut owed = Vec::new();
        for peer in 0..self.peers.len() {
            self.ask_barrier(peer);
            let out = &self.peers[peer].out;
            // Alone with a current copy, what a peer lacks is marked.
            let needed = self.disk != DiskState::UpToDate || self.peers[peer].mirrors();
            if waits && needed && out.stable < out.last() {
                owed.push((peer, out.last()));
            }
        }
        owed
    }

    /// The local disk is gone: flushes under way wait for the peers instead.
    pub(super) fn owe_flushes_anew(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let owed = self.owed_by_peers();
        for flush in &mut self.flushes {
            flush.owed.extend(&owed);
        }
    }

    /// Answers the flushes that are owed nothing more, in order.
    pub(super) fn check_flushes(&mut self) {
        while let Some(flush) = self.flushes.front() {
            let here = flush.round <= self.rounds_done || !self.has_open_disk();
            let there = flush.owed.iter().all(|(peer, sequence)| {
                // A peer that is gone owes nothing: what it missed is on record in a generation
                // that must be durable first.
                let found = &self.peers[*peer];
                let alone = self.disk == DiskState::UpToDate && !found.mirrors();
                found.out.stable >= *sequence || alone
            });
            if here && there && !self.flush_hold() {
                self.leave_unflushed_behind();
            }
            let Some(flush) = self.flushes.front() else {
                return;
            };
            // A session that came since has not been asked; another one is, once.
            let unasked = |(peer, sequence): &&(usize, Sequence)| {
                self.peers[*peer].out.asked_up_to() < *sequence
            };
            let owing: Vec<usize> =
                flush.owed.iter().filter(unasked).map(|(peer, _)| *peer).collect();
            let recorded = self.saver.is_durable(self.generation_version);
            if !here && !self.syncing {
                // The sync it waited for went with a disk that is back.
                self.sync_here();
            }
            owing.into_iter().for_each(|peer| self.ask_barrier(peer));
            if !here || !there || !recorded || self.flush_hold() {
                return;
            }
            let Some(flush) = self.flushes.pop_front() else {
                return;
            };
            self.flushed = self.flushed.max(flush.covers);
            self.emit(Output::Reply { id: flush.id, reply: Reply::Done });
        }
        self.check_quiet();
    }

    /// A flush is about to be answered without peers that may lose what it covers: they are of an
    /// older generation first.
    fn leave_unflushed_behind(&mut self) {
        for peer in 0..self.peers.len() {
            let found = &self.peers[peer];
            if found.unflushed && !found.mirrors() && self.goes_on_alone() {
                self.peers[peer].unflushed = false;
                self.need_generation(peer);
            }
        }
    }

    /// A flush waits, as a write does, while nobody can say that its data is safe.
    fn flush_hold(&self) -> bool {
        let alone = self.peers.iter().any(|peer| !peer.mirrors() && !peer.is_ahead());
        let suspended = !self.goes_on_alone() && alone;
        // The peer has told its state and heard ours: of a generation that began now it would never hear.
        let compared = self.peers.iter().any(|peer| peer.unflushed && peer.negotiates());
        self.freezing.is_some() || !self.has_current_data() || suspended || compared
    }

    /// A FUA write was answered: later writes must not start on a peer before it is stable there.
    /// Under C it is; under A and B the peer holds them back until the barrier asked for here.
    pub(super) fn note_flushed(&mut self) {
        if self.options.protocol == Protocol::C {
            return;
        }
        self.flushed = self.sequence;
        for peer in 0..self.peers.len() {
            self.ask_barrier(peer);
        }
    }
}
