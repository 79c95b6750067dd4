//! Owns what is told about a resource: `status`, and one change per change of state.
//! Must never compute what the next command would find otherwise.

use super::Replica;
use super::event::{Change, Input, Output, PeerStatus, Replication, Status};
use super::peer::{Peer, Phase};
use super::stop::Stopping;
use crate::format::frame::{DiskState, Role};
use crate::format::lineage::Generation;
use crate::limits::RATE_SPAN;
use crate::units::Nanos;
use std::fmt::Debug;

/// What was last told of a peer, in the words of `status`.
#[derive(Debug)]
pub(super) struct Told {
    replication: Replication,
    role: Option<Role>,
    disk: Option<DiskState>,
}

impl Told {
    pub(super) const NOTHING: Self = Self { replication: Replication::Off, role: None, disk: None };
}

/// Why a state changed, where nothing better is known than what came in.
pub(super) const fn cause_of(input: &Input) -> &'static str {
    match input {
        Input::LinkUp { .. } => "the link stands",
        Input::LinkDown { .. } => "the link was lost",
        Input::Frame { .. } => "the peer said so",
        Input::Command { .. } => "an operator's command",
        Input::Persisted { .. } => "it is on record",
        Input::Timeout => "a time limit has passed",
        Input::Request { .. } => "a client's request",
        Input::Done { .. }
        | Input::Fetched { .. }
        | Input::Digested { .. }
        | Input::DiskOpened { .. }
        | Input::DiskClosed
        | Input::Scanned { .. } => "the disk answered",
    }
}

/// How fast a resync went lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the present span began, and what was done by then.
    from: (Nanos, u64),
    /// Blocks per second in the last whole span.
    last: Option<u64>,
}

impl Pace {
    /// A resync begins.
    pub(super) const fn begun(now: Nanos) -> Self {
        Self { from: (now, 0), last: None }
    }

    /// So much is done now.
    pub(super) fn note(&mut self, now: Nanos, done: u64) {
        if now.since(self.from.0) >= RATE_SPAN {
            self.last = Some(self.rate(now, done));
            self.from = (now, done);
        }
    }

    fn per_second(&self, now: Nanos, done: u64) -> u64 {
        // A span that has lasted longer than one should says more than the one before it.
        let stalled = now.since(self.from.0) >= RATE_SPAN;
        self.last.filter(|_| !stalled).unwrap_or_else(|| self.rate(now, done))
    }

    fn rate(&self, now: Nanos, done: u64) -> u64 {
        let (from, before) = self.from;
        done.saturating_sub(before).saturating_mul(1_000) / now.since(from).as_millis().max(1)
    }
}

/// A generation, or that there is none.
pub(super) fn generation_words(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "none".to_owned(), |generation| generation.to_string())
}

/// A state, or that it is not known.
fn word(state: Option<impl Debug>) -> String {
    state.map_or_else(|| "unknown".to_owned(), |state| format!("{state:?}"))
}

impl Replica {
    /// The state of the resource at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let refusal = match self.role {
            Role::Primary => String::new(),
            Role::Secondary => self.promote_refusal().map_or(String::new(), |refusal| refusal.text),
        };
        let suspended = match self.role {
            Role::Primary => self
                .write_hold()
                .map_or_else(String::new, |hold| hold.words(&self.options.resource)),
            Role::Secondary => String::new(),
        };
        Status {
            node: self.options.node,
            role: self.role,
            disk: self.disk,
            disk_reason: self.disk_words(),
            just_created: self.is_just_created(),
            epoch: self.superblock.epoch,
            generation: self.superblock.lineage.head(),
            device_blocks: self.device_blocks,
            suspended,
            promote_refusal: refusal,
            requests_in_flight: (self.ops.len() + self.flushes.len()) as u64,
            log_writes: self.log_writes,
            peers: (0..self.peers.len()).map(|peer| self.peer_status(peer)).collect(),
        }
    }

    /// Why the local disk is of no use, if there is more to say than its state.
    fn disk_words(&self) -> String {
        let comes = self.peers.iter().any(|peer| peer.phase == Phase::SyncTarget);
        if self.has_no_data() && !self.is_just_created() && !comes {
            return self.no_data();
        }
        self.disk_reason.clone()
    }

    fn peer_status(&self, index: usize) -> PeerStatus {
        let peer = &self.peers[index];
        let running = peer.phase.clears_marks();
        let rate = if running { peer.pace.per_second(self.now, peer.sync_done) } else { 0 };
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
            // One of the two works on the other's disk.
            Phase::Idle if peer.mirrors() || peer.needs_marks_here => Replication::Established,
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

    /// Tells what has changed of a peer. That nothing is known of one that is away goes without
    /// saying: its connection was told.
    pub(super) fn note_peer(&mut self, index: usize, cause: &str) {
        let peer = &self.peers[index];
        let replication = match self.replication(index, peer) {
            // Told as a verify, not once for each piece of it.
            Replication::VerifySource | Replication::VerifyTarget => Replication::Established,
            other => other,
        };
        let (role, disk) = (peer.role, peer.disk);
        if replication == peer.told.replication
            && role.is_none_or(|role| peer.told.role == Some(role))
            && disk.is_none_or(|disk| peer.told.disk == Some(disk))
        {
            return;
        }
        let name = peer.name.clone();
        let told = &mut self.peers[index].told;
        let flowed = std::mem::replace(&mut told.replication, replication);
        let (old_role, old_disk) = (told.role, told.disk);
        (told.role, told.disk) = (role.or(old_role), disk.or(old_disk));
        if flowed != replication {
            self.note_of(&name, "replication", (&flowed, &replication), cause);
        }
        let cause = format!("peer {name}: {cause}");
        if let Some(role) = role.filter(|role| old_role != Some(*role)) {
            self.note("peer-role", &word(old_role), &word(Some(role)), &cause);
        }
        if let Some(disk) = disk.filter(|disk| old_disk != Some(*disk)) {
            self.note("peer-disk", &word(old_disk), &word(Some(disk)), &cause);
        }
    }

    /// Tells every change of state that nobody has told with a cause of its own.
    pub(super) fn note_states(&mut self, cause: &'static str) {
        (0..self.peers.len()).for_each(|peer| self.note_peer(peer, cause));
        let waits = self.role == Role::Primary && self.stands_still();
        if std::mem::replace(&mut self.told_waiting, waits) != waits {
            let why = self.write_hold().map(|hold| hold.words(&self.options.resource));
            let why = why.unwrap_or_else(|| cause.to_owned());
            let (old, new) = if waits { ("flows", "waits") } else { ("waits", "flows") };
            self.note("io", old, new, &why);
        }
    }

    /// Keeps count of how fast resyncs go.
    pub(super) fn note_pace(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.phase.clears_marks()) {
            peer.pace.note(self.now, peer.sync_done);
        }
    }

    /// The moment at which `Input::Timeout` is next of use.
    #[must_use]
    pub fn deadline(&self) -> Nanos {
        let stop = self.stopping.as_ref().and_then(Stopping::due);
        let mut next = stop.unwrap_or(Nanos::NEVER).min(self.log_due());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let at = Nanos::from_millis;
        let mut pace = Pace::begun(at(1_000));
        assert_eq!(pace.per_second(at(1_500), 100), 200);
        for tick in 1..=100 {
            pace.note(at(1_000 + tick * 100), tick * 10);
        }
        assert_eq!(pace.per_second(at(11_000), 1_000), 100);
        // It has stood still since: soon that shows.
        assert_eq!(pace.per_second(at(41_000), 1_000), 0);
    }
}
