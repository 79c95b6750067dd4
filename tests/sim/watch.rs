//! Owns what is learned from a node after each of its turns: whether it serves, how the copies
//! stand, what clients were told. Hands it to the checker. Must never change a node.

use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::{Change, Connection, PeerStatus, Replication, Status};

use crate::arena::{Arena, PassedOver, Phase};
use crate::checker::copies::{Copies, Follower, Protocol};
use crate::checker::oracle::{Range, Violation};
use crate::node::{Ask, Told};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Whether each write goes to the peer, whose copy is whole.
fn follows(peer: &PeerStatus) -> bool {
    peer.disk == Some(DiskState::UpToDate) && flows(peer)
}

/// Writes go from one to the other.
fn flows(peer: &PeerStatus) -> bool {
    let off = [Replication::Off, Replication::Negotiating, Replication::Ahead, Replication::Behind];
    peer.connection == Connection::Connected && !off.contains(&peer.replication)
}

impl Arena {
    /// Looks at a node that has just taken its turn.
    pub(crate) fn watch(&mut self, node: usize) {
        let (_, daemon) = self.nodes[node].life.as_mut().expect("it just took its turn");
        let (mut replies, mut answers, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        daemon.replies(&mut replies);
        daemon.answers(&mut answers);
        daemon.changes(&mut changes);
        let (status, serving) = (daemon.status(), daemon.serving());
        let mut promoted = false;
        for change in changes {
            // A promotion that ends as the nodes meet came before it heard anything.
            promoted |= change.what == "role" && change.new == "Primary";
            let heard = change.what == "verdict" && !promoted;
            if heard && self.nodes[node].passed_over.is_some() {
                let at = self.world.borrow().disks[self.nodes[node].disk].kept_writes;
                self.nodes[node].passed_over = Some(PassedOver::Told { at });
            }
            self.tally.change(&change);
            let Change { what, old, new, cause } = change;
            self.note(format_args!("node {node}: {what}: {old} -> {new} ({cause})"));
        }
        let disk = self.nodes[node].disk;
        if std::mem::take(&mut self.world.borrow_mut().disks[disk].forgot) {
            self.copies.lost_cache(node);
        }
        if let Some(status) = &status {
            let served = self.see(node, status, serving);
            self.keep(served);
        }
        for (id, told) in replies {
            self.told(node, id, told, serving);
        }
        let current = |copies: &Copies| [0, 1].map(|node| copies.is_current(node));
        let before = current(&self.copies);
        if let Some(status) = &status {
            self.sample(node, status, serving);
        }
        let role = |status: &Option<Status>| status.as_ref().map(|status| status.role);
        let whole = status.as_ref().is_some_and(|status| status.disk > DiskState::Inconsistent);
        let was = role(&self.nodes[node].status);
        if was == Some(Role::Primary) && role(&status) == Some(Role::Secondary) && whole {
            self.copies.demoted(node);
        }
        let wakes = status.is_some() && self.nodes[node].status.is_none();
        self.nodes[node].status = status;
        if wakes {
            // What a power cut left is soon resynced.
            self.judge_copies();
        }
        let now = current(&self.copies);
        if now != before {
            self.note(format_args!("judge: copies are current: {before:?} -> {now:?}"));
        }
        let joins = |(was, is): (bool, bool)| is && !was;
        let joined = before.into_iter().zip(current(&self.copies)).any(joins);
        if joined && self.maker.protocol() == Protocol::C {
            // What a resync left wrong is soon written over. Under A and B it is not known what of
            // the latest writes has arrived.
            self.judge_copies();
        }
        if !serving && self.copies.is_serving(node) {
            self.note(format_args!("node {node} serves no more"));
            self.lose_clients(node);
            self.copies.stops(node);
        }
        for (id, answer) in answers {
            self.answered(node, id, &answer);
        }
    }

    fn keep(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.note(format_args!("violation {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    fn see(&mut self, node: usize, status: &Status, serving: bool) -> Result<(), Violation> {
        let other = 1 - node;
        let whole = status.disk == DiskState::UpToDate;
        let peer = &status.peers[0];
        if serving && !self.copies.is_serving(node) {
            let words = self.nodes.iter_mut().flat_map(|node| node.words.conceding.drain(..));
            let conceded = std::mem::take(&mut self.conceded) | (words.count() > 0);
            let forcing = std::mem::take(&mut self.nodes[node].words.forcing);
            let forced = !forcing.is_empty() || conceded;
            // The word that nobody else serves, given elsewhere and false, holds for whoever becomes
            // primary without having heard of it as well.
            let apart = peer.connection != Connection::Connected;
            let unaware = self.nodes[node].passed_over.take() == Some(PassedOver::Unaware);
            // Without an arbiter a disk that was restored is not found before it meets the other one: a
            // peer that has none, in a process that never had, knows nothing.
            let alone = apart || peer.disk.is_none_or(|disk| disk < DiskState::Inconsistent);
            let restored = alone && std::mem::take(&mut self.nodes[node].restored);
            if restored {
                self.copies.gives_up(other);
            }
            let forced = forced || restored || (apart && unaware);
            if forced && apart {
                self.nodes[other].passed_over = Some(PassedOver::Unaware);
            }
            self.note(format_args!("node {node} serves, forced={forced}"));
            if !whole && follows(peer) {
                self.copies.serves_through(node, other)?;
            } else {
                self.copies.serves(node, forced)?;
            }
            self.wake_client(node);
        }
        Ok(())
    }

    fn sample(&mut self, node: usize, status: &Status, serving: bool) {
        let other = 1 - node;
        let whole = status.disk == DiskState::UpToDate;
        let peer = &status.peers[0];
        // Not while it is only being opened.
        if status.disk < DiskState::Inconsistent && !status.disk_reason.is_empty() {
            self.copies.lost_disk(node);
            let told = self.nodes[other].status.as_ref();
            let gone = told.is_none_or(|status| status.disk < DiskState::Inconsistent);
            let torn = gone || self.nodes[other].half || self.copies.is_mixed(other);
            self.nodes[node].lost_disk |= torn && self.phase != Phase::Setup;
        }
        if status.disk == DiskState::Outdated {
            self.copies.withdrew(node);
        }
        if status.disk == DiskState::Inconsistent {
            self.nodes[node].half = true;
            self.copies.mixes(node, other);
        } else if status.disk > DiskState::Inconsistent && self.nodes[node].half {
            self.nodes[node].half = false;
            let before = self.nodes[node].status.as_ref();
            let unseen = before.is_none_or(|status| status.disk != DiskState::Inconsistent);
            self.copies.arrived(self.nodes[node].copied_from, node, unseen);
        }
        if [Replication::SyncTarget, Replication::PausedSyncTarget].contains(&peer.replication) {
            self.nodes[node].copied_from = Some(other);
            self.nodes[node].restored = false;
            let begun = self.copies.copies_to(other, node);
            self.keep(begun);
        }
        let told = self.nodes[other].status.as_ref();
        let ahead = told.is_some_and(|status| status.peers[0].replication == Replication::Ahead);
        if ahead && peer.replication == Replication::Behind && self.copies.is_serving(other) {
            let joined = self.copies.fell_behind(other, node);
            self.keep(joined);
        }
        let told = self.nodes[other].status.as_ref();
        let agrees = told.is_some_and(|status| flows(&status.peers[0]));
        if status.role == Role::Primary && whole && !serving {
            self.copies.drains_here(node);
        }
        if serving && self.copies.is_serving(node) {
            let own = Follower { node, follows: whole, stable: true, agrees: true };
            let stable = peer.unstable_writes == 0;
            let theirs = Follower { node: other, follows: follows(peer), stable, agrees };
            let sampled = self.copies.sample(node, &[own, theirs]);
            self.keep(sampled);
            if theirs.follows {
                self.nodes[other].copied_from = None;
            }
            if theirs.follows && agrees && whole {
                self.nodes.iter_mut().for_each(|node| node.lost_disk = false);
            }
        } else if status.role == Role::Primary && follows(peer) {
            // With a whole copy of its own or without: what it was asked goes to the peer.
            let drained = self.copies.drains(node, other, agrees);
            self.keep(drained);
        } else if status.role == Role::Primary && whole {
            self.copies.leaves_behind(node, other);
        } else if status.role == Role::Secondary
            && whole
            && follows(peer)
            && peer.replication == Replication::Established
        {
            self.meet(node, other);
        }
    }

    /// Neither may be primary, on its way out included; both must say that they are equal.
    fn meet(&mut self, node: usize, other: usize) {
        let agrees = |status: &Status| {
            if status.role == Role::Primary {
                return false;
            }
            let back = &status.peers[0];
            let equal = back.replication == Replication::Established && follows(back);
            status.disk == DiskState::UpToDate && equal
        };
        if self.copies.is_serving(other) || !self.nodes[other].status.as_ref().is_some_and(agrees) {
            return;
        }
        let copied = |to: usize, from: usize| self.nodes[to].copied_from == Some(from);
        if copied(other, node) {
            self.copies.copied(node, other);
        } else if copied(node, other) {
            self.copies.copied(other, node);
        } else {
            let met = self.copies.equal(node, other);
            self.keep(met);
        }
        self.nodes[node].copied_from = None;
        self.nodes[other].copied_from = None;
    }

    fn told(&mut self, node: usize, id: u64, told: Told, serving: bool) {
        let Some(ask) = self.nodes[node].client.open.remove(&id) else {
            let text = format!("node {node} answers request {id}, which is not open");
            return self.fail("G22", text);
        };
        let kind = match &told {
            Told::Data(_) => "data",
            Told::Done => "done",
            Told::Failed => "failed",
        };
        self.note(format_args!("client {node} is told {id} {kind}"));
        let checker = self.copies.checker(node);
        let judged = match (ask, told) {
            (Ask::Read(_), Told::Data(bytes)) => checker.ack_read(id, &bytes),
            (Ask::Write { .. } | Ask::Zero { .. }, Told::Done) => {
                checker.ack_write(id);
                Ok(())
            }
            (Ask::Flush, Told::Done) => {
                checker.ack_flush(id);
                Ok(())
            }
            (ask, Told::Failed) if !serving => {
                self.lose(node, id, ask);
                Ok(())
            }
            (ask, _) => {
                self.lose(node, id, ask);
                let text = format!(
                    "node {node}, which serves, answers request {id}, a {ask:?}, with: {kind}"
                );
                Err(Violation { promise: "G19", text })
            }
        };
        self.keep(judged);
        self.wake_client(node);
    }

    /// A request will have no answer: it may have happened.
    fn lose(&mut self, node: usize, id: u64, ask: Ask) {
        let checker = self.copies.checker(node);
        match ask {
            Ask::Read(_) => checker.drop_read(id),
            Ask::Write { .. } | Ask::Zero { .. } => checker.fail_write(id),
            Ask::Flush => checker.drop_flush(id),
        }
    }

    /// The node will answer none of its clients.
    pub(crate) fn lose_clients(&mut self, node: usize) {
        for (id, ask) in std::mem::take(&mut self.nodes[node].client.open) {
            self.lose(node, id, ask);
        }
    }

    /// Any whole copy must be a state a power cut could have left (G3).
    pub(crate) fn judge_copies(&mut self) {
        for node in 0..2 {
            let marked = |status: &Status| status.disk > DiskState::Inconsistent;
            let whole = self.nodes[node].status.as_ref().is_some_and(marked);
            if whole && !self.copies.is_mixed(node) {
                let at = |violation: Violation| Violation {
                    text: format!("copy of node {node}: {}", violation.text),
                    ..violation
                };
                let judged = self.judge_copy(node).map_err(at);
                self.keep(judged);
            }
        }
        self.copies.forget();
    }

    fn judge_copy(&mut self, node: usize) -> Result<(), Violation> {
        let sectors = self.worth_a_look(node, &[node]);
        let floor = self.copies.floor(node);
        let start = self.maker.data_offset();
        let world = self.world.borrow();
        let image = world.disks[self.nodes[node].disk].live();
        let bytes = |sector: u64| (sector, image.sector(start + sector * SECTOR));
        self.copies.checker(node).judge_sectors(sectors.into_iter().map(bytes), floor)
    }

    /// The sectors that the judge of `node` knows of, or that hold anything on one of these nodes:
    /// devices may be large, and most of them was never touched. In order.
    fn worth_a_look(&mut self, node: usize, nodes: &[usize]) -> Vec<u64> {
        let (start, length) = (self.maker.data_offset(), self.options.device_bytes);
        let mut sectors: Vec<u64> = self.copies.checker(node).touched().collect();
        let world = self.world.borrow();
        for node in nodes {
            for chunk in world.disks[self.nodes[*node].disk].live().occupied(start, length) {
                sectors.extend((chunk.start - start) / SECTOR..(chunk.end - start) / SECTOR);
            }
        }
        sectors.retain(|sector| *sector < length / SECTOR);
        // Made of a few runs that are in order, which a stable sort merges.
        sectors.sort();
        sectors.dedup();
        sectors
    }

    /// At rest both copies are the same bytes, and the right ones (G6, G7).
    pub(crate) fn compare(&mut self) {
        let node = usize::from(self.copies.is_serving(1));
        for sector in self.worth_a_look(node, &[0, 1]) {
            let [one, other] = [self.sector(0, sector), self.sector(1, sector)];
            if one != other {
                return self.fail("G7", format!("at rest the copies differ in sector {sector}"));
            }
            self.next_id += 1;
            let (id, range) = (self.next_id, Range { first: sector, count: 1 });
            let checker = self.copies.checker(node);
            checker.invoke_read(id, range);
            let judged = checker.ack_read(id, &one);
            self.keep(judged);
        }
        self.note(format_args!("the copies are equal"));
    }

    fn sector(&self, node: usize, sector: u64) -> [u8; 512] {
        let mut bytes = [0; 512];
        let at = self.maker.data_offset() + sector * SECTOR;
        self.world.borrow().disks[self.nodes[node].disk].live().read(at, &mut bytes);
        bytes
    }
}
