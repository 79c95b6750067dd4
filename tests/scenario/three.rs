//! Owns stories and random walks of one primary with two secondaries: the core counts its peers.
//! Must never ask for the rules that are not built: only alpha is ever promoted, the secondaries do not
//! know each other, both begin one after the other, and a primary that lost its power meets one of
//! them, and is promoted, before it meets the other.

use crate::walk::{Judge, setup_for, walks};
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const PROMOTE: Command = Command::Promote { force: false };
const OTHERS: [usize; 2] = [BRAVO, CHARLIE];

const fn besides(node: usize) -> usize {
    BRAVO + CHARLIE - node
}

fn three() -> Setup {
    Setup { nodes: 3, hub: Some(ALPHA), ..Setup::default() }
}

fn under(protocol: Protocol) -> Setup {
    Setup { protocol, ..three() }
}

/// Both begin with alpha's data, one after the other; nobody serves yet.
fn from_alpha(setup: Setup) -> World {
    let mut w = World::new(setup);
    w.cut_between(ALPHA, CHARLIE);
    w.settle();
    w.must(ALPHA, Command::InitFrom);
    w.settle();
    w.restore();
    w.settle();
    w.equal();
    w
}

fn running(setup: Setup) -> World {
    let mut w = from_alpha(setup);
    w.must(ALPHA, PROMOTE);
    assert!(w.nodes[ALPHA].serving);
    w
}

/// What alpha says of another node.
fn peer(w: &World, node: usize) -> PeerStatus {
    let status = w.status(ALPHA);
    status.peers.into_iter().find(|peer| usize::from(peer.node.0) == node).expect("a peer")
}

fn replicates(w: &World, node: usize) -> bool {
    peer(w, node).replication == Replication::Established
}

fn all_hold(w: &mut World, start: u64, count: u64, stamp: u64) {
    for node in [ALPHA, BRAVO, CHARLIE] {
        w.holds(node, start, count, stamp);
    }
}

#[test]
fn the_first_copy_goes_to_both() {
    let mut w = World::new(three());
    for block in [0, 999, 32_767] {
        w.nodes[ALPHA].medium.write(block, Some(crate::medium::fill(5, block)), true);
        w.nodes[CHARLIE].medium.write(block ^ 1, Some(crate::medium::fill(6, block)), true);
    }
    w.cut_between(ALPHA, CHARLIE);
    w.settle();
    w.must(ALPHA, Command::InitFrom);
    w.until("one has it", |w| replicates(w, BRAVO));
    w.must(ALPHA, PROMOTE);
    w.wrote(ALPHA, 4_000, 2, 7);
    w.restore();
    w.until("the other one is on its way", |w| peer(w, CHARLIE).resync_done_blocks > 0);
    w.wrote(ALPHA, 8_000, 2, 8);
    w.settle();
    w.equal();
    all_hold(&mut w, 999, 1, 5);
    all_hold(&mut w, 4_000, 2, 7);
    all_hold(&mut w, 8_000, 2, 8);
}

/// Two resyncs at once, each with locks, marks and an end of its own.
#[test]
fn both_are_copied_to_at_once() {
    for checksum in [false, true] {
        let mut w = running(Setup { checksum, rate_max_bytes: 8 << 20, ..three() });
        w.cut();
        for block in 0..64 {
            w.wrote(ALPHA, block * 500, 3, 7);
        }
        w.restore();
        let runs = |w: &World, node| peer(w, node).replication == Replication::SyncSource;
        w.until("both run", |w| OTHERS.iter().all(|node| runs(w, *node)));
        for block in 0..64 {
            w.wrote(ALPHA, block * 500 + 1, 3, 8);
        }
        assert!(OTHERS.iter().any(|node| runs(&w, *node)), "too fast for a story");
        w.settle();
        w.equal();
        all_hold(&mut w, 500, 1, 7);
        all_hold(&mut w, 501, 3, 8);
    }
}

#[test]
fn under_c_a_reply_waits_for_each_disk() {
    for node in [ALPHA, BRAVO, CHARLIE] {
        for fua in [false, true] {
            let mut w = running(under(Protocol::C));
            w.nodes[node].stalled.insert("store");
            let id = w.write_as(ALPHA, 4, 3, 9, fua);
            w.run_for(3_000);
            assert!(!w.done(ALPHA, id), "stalled at {node}");
            w.nodes[node].stalled.clear();
            w.settle();
            assert!(w.done(ALPHA, id));
            w.equal();
            if fua {
                w.nodes.iter_mut().for_each(|node| node.medium.lose_unsynced());
                all_hold(&mut w, 4, 3, 9);
            }
        }
    }
}

#[test]
fn under_b_a_reply_waits_for_each_memory() {
    for node in OTHERS {
        let mut w = running(under(Protocol::B));
        w.nodes[node].stalled.insert("store");
        w.hold_kind(node, "Received", true);
        let id = w.write(ALPHA, 4, 1, 9);
        w.run_for(3_000);
        assert!(!w.done(ALPHA, id), "unheard of {node}");
        w.hold_kind(node, "Received", false);
        w.run_for(10);
        assert!(w.done(ALPHA, id));
        w.nodes[node].stalled.clear();
        w.settle();
        w.equal();
    }
}

#[test]
fn under_a_a_reply_waits_for_nobody() {
    let mut w = running(under(Protocol::A));
    w.hold_link(true);
    w.wrote(ALPHA, 4, 1, 9);
    w.hold_link(false);
    w.settle();
    w.equal();
    all_hold(&mut w, 4, 1, 9);
}

#[test]
fn under_c_a_flush_waits_for_each_disk() {
    for node in [ALPHA, BRAVO, CHARLIE] {
        let mut w = running(under(Protocol::C));
        w.wrote(ALPHA, 4, 3, 9);
        w.nodes[node].stalled.insert("sync");
        let id = w.flush(ALPHA);
        w.run_for(3_000);
        assert!(!w.done(ALPHA, id), "stalled at {node}");
        w.nodes[node].stalled.clear();
        w.settle();
        assert!(w.done(ALPHA, id));
        w.nodes.iter_mut().for_each(|node| node.medium.lose_unsynced());
        all_hold(&mut w, 4, 3, 9);
        w.equal();
    }
}

/// Extents cool only when each peer is stable: few slots, and one disk that is slow to sync.
#[test]
fn the_activity_log_waits_for_the_slower_peer() {
    for node in OTHERS {
        let mut w = running(Setup { log_extents: 8, ..under(Protocol::A) });
        w.nodes[node].stalled.insert("sync");
        let ids: Vec<_> = (0..20).map(|extent| w.write(ALPHA, extent * 1024, 2, 9)).collect();
        w.run_for(3_000);
        let done = ids.iter().filter(|id| w.done(ALPHA, **id)).count();
        assert!((1..20).contains(&done), "{done} of 20 without {node}'s word");
        w.nodes[node].stalled.clear();
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
        w.equal();
    }
}

#[test]
fn one_that_was_away_gets_what_it_missed_and_no_more() {
    for node in OTHERS {
        let mut w = running(three());
        w.wrote(ALPHA, 100, 8, 6);
        w.settle();
        w.cut_between(ALPHA, node);
        for place in 0..10 {
            w.wrote(ALPHA, place * 3_000, 3, 7);
        }
        w.holds(besides(node), 3_000, 3, 7);
        assert_eq!(peer(&w, besides(node)).out_of_sync_blocks, 0);
        assert_eq!(peer(&w, node).out_of_sync_blocks, 30);
        let full = peer(&w, besides(node)).last_resync_blocks;
        w.restore();
        w.settle();
        w.equal();
        assert_eq!(peer(&w, node).last_resync_blocks, 30);
        assert_eq!(peer(&w, besides(node)).last_resync_blocks, full, "it had all");
        all_hold(&mut w, 3_000, 3, 7);
    }
}

/// The same one again, while the other never leaves.
#[test]
fn one_that_comes_and_goes_gets_what_it_missed_each_time() {
    let mut w = running(three());
    for round in 1..6 {
        w.cut_between(ALPHA, CHARLIE);
        w.wrote(ALPHA, round * 3_000, 2 + round, 10 + round);
        w.restore();
        w.settle();
        w.equal();
        assert_eq!(peer(&w, CHARLIE).last_resync_blocks, 2 + round);
        all_hold(&mut w, round * 3_000, 2 + round, 10 + round);
    }
}

#[test]
fn both_that_were_away_get_what_each_missed() {
    let mut w = running(three());
    w.cut();
    w.wrote(ALPHA, 100, 5, 7);
    for node in OTHERS {
        assert_eq!(peer(&w, node).out_of_sync_blocks, 5);
    }
    w.restore_between(ALPHA, CHARLIE);
    w.until("one is back", |w| replicates(w, CHARLIE));
    w.wrote(ALPHA, 9_000, 4, 8);
    assert_eq!(peer(&w, BRAVO).out_of_sync_blocks, 9);
    w.restore_between(ALPHA, BRAVO);
    w.settle();
    w.equal();
    let copied = OTHERS.map(|node| peer(&w, node).last_resync_blocks);
    assert_eq!(copied, [9, 5]);
    all_hold(&mut w, 9_000, 4, 8);
}

#[test]
fn one_is_lost_in_mid_resync_while_the_other_writes_on() {
    for node in OTHERS {
        for power in [false, true] {
            let mut w = running(Setup { rate_max_bytes: 16 << 20, ..three() });
            w.cut_between(ALPHA, node);
            for place in 0..60 {
                w.wrote(ALPHA, place * 500, 100, 7);
            }
            w.restore();
            w.until("some of it", |w| peer(w, node).resync_done_blocks > 500);
            if power {
                w.power_cut(node);
            } else {
                w.cut_between(ALPHA, node);
            }
            let left = peer(&w, node).out_of_sync_blocks;
            assert!(left > 0, "in mid resync");
            for place in 0..60 {
                w.wrote(ALPHA, place * 500 + 90, 20, 8);
            }
            w.holds(besides(node), 590, 20, 8);
            if power {
                w.restart(node);
            }
            w.restore();
            w.settle();
            w.equal();
            all_hold(&mut w, 590, 20, 8);
            all_hold(&mut w, 500, 90, 7);
        }
    }
}

/// What a peer had acknowledged and not made stable is marked towards it, and only towards it.
#[test]
fn a_peer_that_loses_power_is_brought_back_and_the_other_is_left_alone() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for node in OTHERS {
            let mut w = running(under(protocol));
            w.nodes[node].stalled.insert("sync");
            for place in 0..20 {
                w.wrote(ALPHA, place * 700, 4, 7);
            }
            let full = peer(&w, besides(node)).last_resync_blocks;
            w.until("all is written there", |w| peer(w, node).unstable_writes == 20);
            w.power_cut(node);
            w.nodes[node].stalled.clear();
            w.nodes[node].medium.lose_unsynced();
            w.until("it is missed", |w| peer(w, node).connection == Connection::Connecting);
            assert_eq!(peer(&w, node).out_of_sync_blocks, 80);
            w.wrote(ALPHA, 20_000, 1, 8);
            w.restart(node);
            w.settle();
            w.equal();
            assert_eq!(peer(&w, besides(node)).last_resync_blocks, full, "it had all");
            all_hold(&mut w, 700, 4, 7);
            all_hold(&mut w, 20_000, 1, 8);
        }
    }
}

/// It meets both at once, as the source of what was hot.
#[test]
fn a_primary_that_crashed_is_primary_again_and_copies_to_both() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = running(under(protocol));
        w.wrote(ALPHA, 10, 4, 7);
        // On its way to one, done on the other.
        w.nodes[BRAVO].stalled.insert("store");
        let ids = [w.write(ALPHA, 2_000, 4, 8), w.write(ALPHA, 10, 1, 9)];
        w.run_for(100);
        let waits = protocol == Protocol::C;
        assert_eq!(ids.map(|id| w.done(ALPHA, id)), [!waits; 2]);
        w.crash(ALPHA);
        w.nodes[BRAVO].stalled.clear();
        w.run_for(2_000);
        w.restart(ALPHA);
        w.settle();
        w.equal();
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 10, 1, 10);
        w.settle();
        w.equal();
        for node in OTHERS {
            let copied = peer(&w, node).last_resync_blocks;
            assert!((1..=4 * 1024).contains(&copied), "{copied}: what was hot, and no more");
        }
        all_hold(&mut w, 10, 1, 10);
        all_hold(&mut w, 11, 3, 7);
        if !waits {
            all_hold(&mut w, 2_000, 4, 8);
        }
    }
}

/// Under C what was acknowledged is on both others: the first one that is met gives it back.
#[test]
fn a_primary_that_lost_its_power_takes_back_what_it_had_acknowledged() {
    for first in OTHERS {
        let mut w = running(under(Protocol::C));
        w.wrote(ALPHA, 10, 4, 7);
        w.power_cut(ALPHA);
        w.nodes[ALPHA].medium.lose_unsynced();
        w.cut_between(ALPHA, besides(first));
        w.restart(ALPHA);
        w.settle();
        w.must(ALPHA, PROMOTE);
        w.restore();
        w.settle();
        w.equal();
        all_hold(&mut w, 10, 4, 7);
    }
}

#[test]
fn nobody_is_promoted_beside_a_primary() {
    for node in OTHERS {
        let mut w = running(three());
        assert_eq!(w.refused(node, PROMOTE), "peer-is-primary");
        assert_eq!(w.refused(node, Command::Promote { force: true }), "peer-is-primary");
        w.cut_between(ALPHA, node);
        w.settle();
        assert_eq!(w.refused(node, PROMOTE), "not-current");
        w.wrote(ALPHA, 10, 4, 7);
        w.restore();
        w.settle();
        assert_eq!(w.refused(node, PROMOTE), "peer-is-primary");
        assert_eq!(w.role(node), Role::Secondary);
        w.equal();
    }
}

/// A word of an operator parts one from the two others, who go on.
#[test]
fn one_that_is_promoted_by_force_stands_alone() {
    for node in OTHERS {
        let mut w = running(three());
        w.cut_between(ALPHA, node);
        w.wrote(ALPHA, 10, 4, 7);
        w.must(node, Command::Promote { force: true });
        w.wrote(node, 10, 4, 8);
        w.restore();
        w.settle();
        assert_eq!(peer(&w, node).connection, Connection::StandAlone);
        assert!(peer(&w, node).connection_reason.contains("split brain"));
        assert!(replicates(&w, besides(node)));
        w.wrote(ALPHA, 20, 4, 9);
        w.holds(besides(node), 10, 4, 7);
        w.holds(besides(node), 20, 4, 9);
        w.must(node, Command::Demote);
        w.must(node, Command::Connect { discard_my_data: true });
        w.must(ALPHA, Command::Connect { discard_my_data: false });
        w.settle();
        w.equal();
        all_hold(&mut w, 10, 4, 7);
    }
}

/// A resource has one protocol; a node that was configured for another is refused, alone.
#[test]
fn a_protocol_for_one_peer_alone_is_refused() {
    let mut w = running(under(Protocol::C));
    w.crash(CHARLIE);
    w.setup.protocol = Protocol::A;
    w.restart(CHARLIE);
    w.settle();
    assert_eq!(peer(&w, CHARLIE).connection, Connection::StandAlone);
    assert!(peer(&w, CHARLIE).connection_reason.contains("protocol"));
    w.wrote(ALPHA, 10, 4, 7);
    w.holds(BRAVO, 10, 4, 7);
    assert!(replicates(&w, BRAVO));
}

#[test]
fn with_suspend_one_peer_away_is_enough_to_wait_for() {
    for node in OTHERS {
        let mut w = running(Setup { on_peer_loss: PeerLoss::Suspend, ..three() });
        w.cut_between(ALPHA, node);
        let ids = [w.write(ALPHA, 10, 4, 7), w.flush(ALPHA)];
        w.run_for(5_000);
        assert_eq!(ids.map(|id| w.done(ALPHA, id)), [false; 2]);
        w.must(ALPHA, Command::Resume);
        w.settle();
        assert_eq!(ids.map(|id| w.done(ALPHA, id)), [true; 2]);
        w.holds(besides(node), 10, 4, 7);
        w.restore();
        w.settle();
        w.equal();
        assert_eq!(peer(&w, node).last_resync_blocks, 4);
        w.cut_between(ALPHA, besides(node));
        let id = w.write(ALPHA, 20, 4, 7);
        w.run_for(5_000);
        assert!(!w.done(ALPHA, id), "the word was for once");
        w.restore();
        w.settle();
        w.equal();
    }
}

/// A demotion ends when each has all.
#[test]
fn a_demotion_waits_for_each_peer() {
    for node in OTHERS {
        let mut w = running(under(Protocol::A));
        w.nodes[node].stalled.insert("sync");
        w.wrote(ALPHA, 10, 4, 7);
        let id = w.command(ALPHA, Command::Demote);
        w.run_for(5_000);
        assert!(w.answer(ALPHA, id).is_none(), "{node} has not all");
        w.nodes[node].stalled.clear();
        w.settle();
        assert!(w.answer(ALPHA, id).is_some_and(Result::is_ok));
        w.nodes.iter_mut().for_each(|node| node.medium.lose_unsynced());
        w.equal();
        all_hold(&mut w, 10, 4, 7);
        assert!(
            w.nodes.iter().enumerate().all(|(node, _)| w.status(node).disk == DiskState::UpToDate)
        );
    }
}

struct Walk {
    w: World,
    judge: Judge,
    stamp: u64,
    /// Alpha went down: it meets this one alone until it is primary again.
    first: Option<usize>,
}

impl Walk {
    fn serves(&self) -> bool {
        self.w.alive(ALPHA) && self.w.role(ALPHA) == Role::Primary
    }

    fn request(&mut self) {
        if !self.serves() {
            return;
        }
        let (w, judge) = (&mut self.w, &mut self.judge);
        let count = 1 + w.dice.below(8);
        let extent = w.dice.below(w.setup.device_blocks / 1024);
        let within = if w.dice.one_in(5) { 1020 } else { w.dice.below(12) };
        let start = (extent * 1024 + within).min(w.setup.device_blocks - count);
        match w.dice.below(12) {
            0 => judge.flush(w, ALPHA),
            1 => judge.zero(w, ALPHA, start, count),
            2 | 3 => judge.read(w, ALPHA, start, count),
            _ => {
                self.stamp += 1;
                judge.write(w, ALPHA, start, count, self.stamp);
            }
        }
    }

    /// Each has all, and knows it: a peer that mirrors is not told of a generation that began for
    /// want of the other one.
    fn all_know(&self) -> bool {
        let generation = |node| self.w.status(node).generation;
        self.w.established() && OTHERS.iter().all(|node| generation(*node) == generation(ALPHA))
    }

    fn down(&mut self, node: usize) {
        if !self.w.alive(node) {
            return self.w.restart(node);
        }
        self.judge.look(&self.w);
        let elsewhere = if node == ALPHA {
            self.all_know() && self.w.setup.protocol == Protocol::C
        } else {
            self.serves()
        };
        if self.w.dice.one_in(2) {
            self.w.power_cut(node);
            if !elsewhere {
                self.judge.widen_to_flush();
            }
        } else {
            self.w.crash(node);
        }
        self.judge.forget(node);
        if node == ALPHA && self.first.is_none() {
            let first = OTHERS[usize::from(self.w.dice.one_in(2))];
            self.first = Some(first);
            self.w.cut_between(ALPHA, besides(first));
        }
    }

    fn restore(&mut self, node: usize) {
        if self.first.is_none_or(|first| first == node) {
            self.w.restore_between(ALPHA, node);
        }
    }

    fn act(&mut self) {
        let node = self.w.dice.below(3) as usize;
        let other = OTHERS[usize::from(self.w.dice.one_in(2))];
        match self.w.dice.below(100) {
            0..=64 => self.request(),
            65..=70 => self.w.cut_between(ALPHA, other),
            71..=81 => self.restore(other),
            82..=86 => self.down(node),
            87..=92 if self.w.alive(ALPHA) => {
                self.w.command(ALPHA, PROMOTE);
            }
            93..=94 => {
                self.w.cut_between(ALPHA, other);
                self.restore(other);
            }
            _ => {
                let millis = self.w.dice.below(700);
                self.w.run_for(millis);
            }
        }
        let steps = self.w.dice.below(40);
        self.w.steps(steps);
        self.look();
    }

    fn look(&mut self) {
        if self.serves() {
            self.first = None;
        }
        self.judge.look(&self.w);
    }

    /// Faults end.
    fn mend(&mut self) {
        for node in [ALPHA, BRAVO, CHARLIE] {
            if !self.w.alive(node) {
                self.w.restart(node);
            }
        }
        OTHERS.iter().for_each(|node| self.restore(*node));
        self.w.run_for(60_000);
        if self.first.is_some() {
            self.w.must(ALPHA, PROMOTE);
            self.w.restore();
            self.w.run_for(60_000);
        }
        self.look();
        self.w.run_for(20_000);
        self.judge.look(&self.w);
    }
}

fn walk(seed: u64) -> (u64, u64) {
    let setup = Setup { nodes: 3, hub: Some(ALPHA), ..setup_for(seed) };
    let mut w = running(setup);
    w.setup.chaos = seed + 1;
    w.dice = crate::medium::Dice(seed);
    let mut walk = Walk { w, judge: Judge::new(), stamp: 0, first: None };
    for _ in 0..120 {
        walk.act();
    }
    walk.mend();
    walk.w.equal();
    for node in [ALPHA, BRAVO, CHARLIE] {
        walk.judge.image(&walk.w, node);
    }
    (walk.w.events, walk.judge.checked)
}

#[test]
fn random_walks_of_three() {
    walks("THREE", 60, walk);
}
