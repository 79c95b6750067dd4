//! Owns the proof of `copies`: who may serve, and what may be missing then. Must never go through
//! the product.

use crate::bytes;
use crate::checker::copies::{Copies, Follower, Protocol};
use crate::checker::oracle::{Range, Violation};

struct Pair {
    copies: Copies,
    next: u64,
}

const SECTOR: Range = Range { first: 5, count: 1 };

impl Pair {
    /// Node 0 serves, node 1 follows.
    fn new(protocol: Protocol) -> Self {
        let mut pair = Self { copies: Copies::new(2, protocol), next: 0 };
        pair.copies.serves(0, false).expect("a fresh pair");
        pair.sample(0, true);
        pair
    }

    fn sample(&mut self, server: usize, follows: bool) {
        let own = Follower { node: server, follows: true, stable: true, agrees: true };
        let stable = follows;
        let other = Follower { node: 1 - server, follows, stable, agrees: true };
        self.copies.sample(server, &[own, other]).expect("nothing merges");
    }

    fn write(&mut self, node: usize, stamp: u64) {
        self.next += 1;
        let checker = self.copies.checker(node);
        checker.invoke_write(self.next, SECTOR, stamp, false);
        checker.ack_write(self.next);
    }

    fn read(&mut self, node: usize, stamp: u64) -> Result<(), Violation> {
        self.next += 1;
        let checker = self.copies.checker(node);
        checker.invoke_read(self.next, SECTOR);
        checker.ack_read(self.next, &bytes(5, &[stamp]))
    }
}

#[test]
fn under_c_a_failover_loses_nothing() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.copies.lost_power(0);
    pair.copies.serves(1, false).expect("it holds all");
    assert!(pair.read(1, 1).is_ok());
    assert!(pair.read(1, 0).is_err());
}

#[test]
fn a_copy_left_behind_serves_only_by_force_and_from_where_it_was() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.sample(0, false);
    pair.write(0, 2);
    pair.copies.killed(0);
    let refused = pair.copies.serves(1, false).expect_err("it lacks a write");
    assert_eq!(refused.promise, "G14");
    pair.copies.serves(1, true).expect("the operator's word");
    assert!(pair.read(1, 1).is_ok());
    assert!(pair.read(1, 2).is_err(), "it never had that");
    assert_eq!(pair.copies.histories(), 2);
}

#[test]
fn a_copy_that_missed_nothing_needs_no_force() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.sample(0, false);
    pair.copies.killed(0);
    pair.copies.serves(1, false).expect("nothing was acknowledged without it");
    assert!(pair.read(1, 0).is_err());
}

#[test]
fn a_server_whose_disk_is_back_on_its_way_out_has_what_was_asked_meanwhile() {
    for back in [true, false] {
        let mut pair = Pair::new(Protocol::C);
        pair.write(0, 1);
        let away = Follower { node: 0, follows: false, stable: true, agrees: true };
        pair.copies.sample(0, &[away]).expect("nothing merges");
        pair.next += 1;
        pair.copies.checker(0).invoke_write(pair.next, SECTOR, 2, false);
        pair.copies.stops(0);
        if back {
            pair.copies.drains_here(0);
        }
        pair.copies.demoted(0);
        pair.copies.serves(0, true).expect("the operator's word");
        assert_eq!(pair.read(0, 2).is_ok(), back);
    }
}

#[test]
fn a_restored_copy_that_the_other_one_took_over_counts_like_any() {
    let mut pair = Pair::new(Protocol::C);
    pair.copies.keeps(1);
    pair.write(0, 1);
    pair.sample(0, true);
    pair.copies.stops(0);
    pair.copies.restored(1);
    pair.copies.serves(1, true).expect("the operator's word");
    pair.copies.demoted(1);
    pair.copies.copied(1, 0);
    pair.copies.serves(0, false).expect("they are equal");
    let gone = Follower { node: 1, follows: false, stable: true, agrees: false };
    pair.copies.sample(0, &[gone]).expect("nothing merges");
    pair.write(0, 2);
    pair.copies.killed(0);
    let refused = pair.copies.serves(1, false).expect_err("it lacks a write");
    assert_eq!(refused.promise, "G14");
}

#[test]
fn a_copy_that_was_not_given_up_after_all_lacks_what_it_lacked() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.write(0, 2);
    pair.copies.lost_power(0);
    pair.copies.lost_power(1);
    pair.copies.mixes(1, 0);
    pair.copies.arrived(None, 1, true);
    pair.copies.serves(1, true).expect("the operator's word");
    assert!(pair.read(1, 1).is_ok(), "a power cut may have taken the other one");
}

#[test]
fn one_server_at_a_time() {
    let mut pair = Pair::new(Protocol::C);
    let refused = pair.copies.serves(1, false).expect_err("two servers");
    assert_eq!(refused.promise, "G15");
    pair.copies.serves(1, true).expect("by force: a split brain");
    pair.write(0, 1);
    pair.write(1, 2);
    assert!(pair.read(0, 1).is_ok());
    assert!(pair.read(1, 2).is_ok());
    pair.copies.stops(1);
    let own = Follower { node: 0, follows: true, stable: true, agrees: true };
    let other = Follower { node: 1, follows: true, stable: true, agrees: true };
    let slept = Follower { agrees: false, ..other };
    pair.copies.clone().sample(0, &[own, slept]).expect("it speaks of what was");
    let merged = pair.copies.clone().sample(0, &[own, other]).expect_err("nobody said so");
    assert_eq!(merged.promise, "G18");
    let merged = pair.copies.copies_to(0, 1).expect_err("nobody said so");
    assert_eq!(merged.promise, "G18");
    pair.copies.gives_up(1);
    pair.sample(0, true);
    assert_eq!(pair.copies.histories(), 1, "node 1 gave its history up");
    pair.copies.stops(0);
    pair.copies.serves(1, false).expect("in sync again");
    assert!(pair.read(1, 1).is_ok());
}

#[test]
fn both_without_power_fall_back_to_a_crash_state() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.copies.lost_power(0);
    let other = pair.copies.clone();
    let mut alone = Pair { copies: other, next: 900 };
    let refused = alone.copies.serves(0, false).expect_err("node 1 holds all");
    assert_eq!(refused.promise, "G14");
    pair.copies.lost_power(1);
    pair.copies.serves(0, false).expect("nobody holds more");
    assert!(pair.read(0, 0).is_ok(), "it was not flushed");
}

#[test]
fn a_demotion_makes_all_stable() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    pair.copies.demoted(0);
    pair.copies.lost_power(0);
    pair.copies.serves(0, false).expect("it lost nothing");
    assert!(pair.read(0, 0).is_err());
    assert!(pair.read(0, 1).is_ok());
}

#[test]
fn under_a_the_tail_may_go_and_under_b_memory_may() {
    let mut pair = Pair::new(Protocol::A);
    pair.write(0, 1);
    pair.copies.killed(0);
    pair.copies.serves(1, false).expect("failover");
    assert!(pair.read(1, 0).is_ok());
    for kill in [true, false] {
        let mut pair = Pair::new(Protocol::B);
        pair.write(0, 1);
        pair.copies.killed(0);
        if kill {
            pair.copies.killed(1);
            pair.copies.serves(1, true).expect("the operator's word");
            assert!(pair.read(1, 0).is_ok(), "it lay in the memory of a dead process");
        } else {
            pair.copies.serves(1, false).expect("failover");
            assert!(pair.read(1, 0).is_err());
        }
    }
}

#[test]
fn a_half_synced_copy_never_serves_but_may_pass_requests_on() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 1);
    let own = Follower { node: 0, follows: true, stable: true, agrees: true };
    let other = Follower { node: 1, follows: false, stable: false, agrees: true };
    pair.copies.sample(0, &[own, other]).expect("nothing merges");
    pair.copies.mixes(1, 0);
    pair.copies.stops(0);
    let refused = pair.copies.clone().serves(1, true).expect_err("mixed");
    assert_eq!(refused.promise, "G14");
    pair.copies.serves_through(1, 0).expect("node 0 has it all");
    assert!(pair.read(1, 1).is_ok());
}

/// A resync ends on the target's disk, and the target loses power before anybody hears of it: what
/// came after the end may be there in part. Seen whole before, it may not.
#[test]
fn what_came_after_a_resync_may_go_in_a_power_cut_before_its_end_is_seen() {
    const NEXT: Range = Range { first: 6, count: 1 };
    for unseen in [true, false] {
        let mut pair = Pair::new(Protocol::C);
        pair.write(0, 1);
        pair.sample(0, false);
        pair.copies.mixes(1, 0);
        pair.write(0, 2);
        let checker = pair.copies.checker(0);
        checker.invoke_write(90, NEXT, 3, true);
        checker.ack_write(90);
        pair.copies.lost_power(1);
        pair.copies.arrived(Some(0), 1, unseen);
        pair.copies.stops(0);
        pair.copies.serves(1, true).expect("the operator's word");
        pair.copies.checker(1).invoke_read(91, NEXT);
        pair.copies.checker(1).ack_read(91, &bytes(6, &[3])).expect("it may be there");
        assert_eq!(pair.read(1, 1).is_ok(), unseen);
    }
}

/// A server works on the other copy while its own is brought up to date, and both lose power before anybody
/// sees the end of that: it has what was written before the resync.
#[test]
fn a_server_may_lose_power_at_the_unseen_end_of_a_resync_to_its_own_copy() {
    let mut pair = Pair::new(Protocol::C);
    let own = Follower { node: 0, follows: false, stable: true, agrees: true };
    let other = Follower { node: 1, follows: true, stable: true, agrees: true };
    pair.copies.sample(0, &[own, other]).expect("nothing merges");
    pair.write(0, 2);
    pair.copies.mixes(0, 1);
    pair.copies.sample(0, &[own, other]).expect("nothing merges");
    pair.copies.lost_power(1);
    pair.copies.lost_power(0);
    pair.copies.arrived(Some(1), 0, true);
    pair.copies.serves(0, false).expect("none holds more");
    assert!(pair.read(0, 2).is_ok());
}

/// Under A a copy is found equal to a forced server's and falls behind at once: what it shows is of that history.
#[test]
fn a_copy_that_fell_behind_unseen_is_of_its_servers_history() {
    let mut pair = Pair::new(Protocol::A);
    pair.write(0, 1);
    pair.sample(0, false);
    pair.copies.stops(0);
    pair.copies.serves(1, true).expect("the operator's word");
    pair.write(1, 2);
    assert!(pair.read(0, 2).is_err());
    pair.copies.fell_behind(1, 0).expect("under A nobody misses it");
    assert!(pair.read(0, 2).is_ok());
}

/// The source of a resync loses power amid it, or what its disk had not made stable: the target ends
/// with what is left, and no more is expected of it.
#[test]
fn a_target_has_what_its_source_has_left() {
    for lost in ["power", "cache", "nothing"] {
        let mut pair = Pair::new(Protocol::C);
        pair.write(0, 1);
        pair.sample(0, false);
        pair.copies.mixes(1, 0);
        pair.copies.stops(0);
        match lost {
            "power" => pair.copies.lost_power(0),
            "cache" => pair.copies.lost_cache(0),
            _ => {}
        }
        pair.copies.arrived(Some(0), 1, false);
        pair.copies.serves(1, true).expect("the operator's word");
        assert_eq!(pair.read(1, 0).is_ok(), lost != "nothing");
    }
}

/// A forced server is demoted while it meets the other copy: what it was asked before goes there too,
/// and that copy is of its history. One that gave nothing up and was acknowledged more may not be.
#[test]
fn a_server_on_its_way_out_takes_the_other_copy_along() {
    for agrees in [true, false] {
        let mut pair = Pair::new(Protocol::C);
        pair.write(0, 1);
        pair.sample(0, false);
        pair.copies.stops(0);
        pair.copies.serves(1, true).expect("the operator's word");
        assert_eq!(pair.copies.histories(), 2, "it lacks what node 0 has");
        pair.copies.stops(1);
        pair.copies.gives_up(0);
        pair.copies.drains(1, 0, agrees).expect("node 0 was given up");
        pair.copies.checker(1).invoke_write(90, Range { first: 6, count: 1 }, 7, false);
        pair.copies.checker(1).ack_write(90);
        let mut image = [0; 7];
        image[6] = 7;
        let judged = pair.copies.checker(0).judge_image(&bytes(0, &image), 0);
        assert_eq!(judged.is_ok(), agrees);
    }
    let mut pair = Pair::new(Protocol::C);
    pair.sample(0, false);
    pair.copies.serves(1, true).expect("the operator's word");
    pair.write(0, 1);
    pair.copies.stops(0);
    pair.copies.stops(1);
    let lost = pair.copies.drains(1, 0, true).expect_err("nobody gave it up");
    assert_eq!(lost.promise, "G18");
}

/// A server that lost the other copy on its way out is the one to go by, also if a power cut takes what
/// it had not flushed; with the other one at its side it is not.
#[test]
fn a_server_on_its_way_out_may_leave_the_other_copy_behind() {
    for leaves in [true, false] {
        let mut pair = Pair::new(Protocol::C);
        pair.write(0, 1);
        pair.copies.stops(0);
        if leaves {
            pair.copies.leaves_behind(0, 1);
        }
        pair.copies.lost_power(0);
        let served = pair.copies.serves(0, false);
        assert_eq!(served.is_ok(), leaves);
        if leaves {
            assert!(pair.read(0, 0).is_ok(), "it was not flushed");
        }
    }
}
