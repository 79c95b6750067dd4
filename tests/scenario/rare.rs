//! Owns stories of three to five things at once that reading the core brought up, and no random world
//! had: what is on its way while a disk, a role or a node goes.

use crate::field::*;
use crate::found::lose_disk_to_a_read;
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::OnCongestion;

fn let_go(w: &mut World, node: usize) {
    w.until("let go of", |w| w.status(node).disk == DiskState::Diskless);
}

/// G2: what came between the last sync of a stopping node and its goodbye was acknowledged as received.
#[test]
fn under_b_a_stop_does_not_drop_what_it_received_on_its_way_out() {
    for power in [true, false] {
        let mut w = begun(Protocol::B);
        w.wrote(ALPHA, 6, 1, 1);
        let stop = w.command(BRAVO, Command::Stop);
        w.run_for(1);
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 7, 1, 1);
        flushed(&mut w, ALPHA);
        w.wrote(ALPHA, 5, 1, 2);
        flushed(&mut w, ALPHA);
        w.run_for(50);
        w.nodes[BRAVO].stalled.clear();
        w.until("stopped", |w| w.answer(BRAVO, stop).is_some_and(Result::is_ok));
        w.run_for(100);
        w.crash(BRAVO);
        if power {
            lose_power(&mut w, ALPHA);
            w.restart(BRAVO);
            w.restart(ALPHA);
            w.settle();
            w.equal();
            w.holds(ALPHA, 5, 1, 2);
        } else {
            w.crash(ALPHA);
            w.restart(BRAVO);
            w.run_for(100);
            w.must(BRAVO, FORCE);
            assert_eq!(reads(&mut w, BRAVO, 5, 1), [2]);
        }
    }
}

/// G2: of two nodes that were primary one after the other, the last one is gone by.
#[test]
fn a_former_primary_with_marks_of_a_verify_is_not_the_source_over_the_next_one() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        w.wrote(ALPHA, 9, 1, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        plant(&mut w, BRAVO, 9, 7);
        w.must(ALPHA, Command::Verify { repair: false });
        w.settle();
        switch(&mut w, ALPHA);
        w.settle();
        w.hold_data(BRAVO, true);
        let write = w.write(BRAVO, 5, 1, 2);
        let flush = w.flush(BRAVO);
        w.run_for(5);
        let done = w.done(BRAVO, write) && w.done(BRAVO, flush);
        assert_eq!(done, protocol == Protocol::A);
        w.crash(BRAVO);
        w.cut();
        w.hold_data(BRAVO, false);
        w.restart(BRAVO);
        w.restore();
        w.settle();
        w.equal();
        if done {
            w.holds(BRAVO, 5, 1, 2);
        }
    }
}

/// G2, G4: what the disk here has lost and the peer has not yet written is not flushed because the disk
/// comes back.
#[test]
fn a_disk_that_comes_back_of_mixed_age_answers_no_flush() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = begun(protocol);
        if protocol == Protocol::A {
            w.hold_data(ALPHA, true);
        } else {
            w.nodes[BRAVO].stalled.insert("store");
        }
        w.wrote(ALPHA, 5, 1, 2);
        w.nodes[ALPHA].stalled.insert("sync");
        let flush = w.flush(ALPHA);
        w.run_for(5);
        w.nodes[ALPHA].medium.broken = true;
        w.nodes[ALPHA].stalled.clear();
        let_go(&mut w, ALPHA);
        w.run_for(20);
        assert!(!w.done(ALPHA, flush));
        w.nodes[ALPHA].medium.lose_unsynced();
        w.nodes[ALPHA].medium.broken = false;
        w.must(ALPHA, Command::DiskAttach);
        w.run_for(1);
        w.holds(ALPHA, 5, 1, 1);
        w.holds(BRAVO, 5, 1, 1);
        assert!(!w.done(ALPHA, flush), "{protocol:?}: no disk has it");
    }
}

/// G4: the same with a durable write that the disk here refused.
#[test]
fn a_disk_that_comes_back_of_mixed_age_ends_no_durable_write() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        if protocol == Protocol::A {
            w.hold_data(ALPHA, true);
        } else {
            w.nodes[BRAVO].stalled.insert("store");
        }
        w.nodes[ALPHA].stalled.insert("store");
        let write = w.write_as(ALPHA, 5, 1, 2, true);
        w.run_for(5);
        w.nodes[ALPHA].medium.broken = true;
        w.nodes[ALPHA].stalled.clear();
        let_go(&mut w, ALPHA);
        w.run_for(5);
        w.nodes[ALPHA].medium.broken = false;
        w.must(ALPHA, Command::DiskAttach);
        w.run_for(1);
        w.holds(BRAVO, 5, 1, 1);
        assert!(!w.done(ALPHA, write), "{protocol:?}: no disk has it");
        w.hold_data(ALPHA, false);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        if w.done(ALPHA, write) {
            w.equal();
            w.holds(ALPHA, 5, 1, 2);
        }
    }
}

/// G3: a peer that lends its disk gets once more what it missed, and not ahead of what was flushed before.
#[test]
fn what_is_sent_again_to_a_lender_waits_for_what_was_flushed() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        w.wrote(ALPHA, 6, 1, 1);
        w.run_for(5);
        w.hold_data(ALPHA, true);
        let flush = w.flush(ALPHA);
        w.run_for(5);
        w.nodes[ALPHA].stalled.insert("store");
        w.write_as(ALPHA, 5, 1, 2, true);
        w.run_for(2);
        w.nodes[ALPHA].medium.broken = true;
        w.nodes[ALPHA].stalled.clear();
        let_go(&mut w, ALPHA);
        w.cut();
        w.hold_data(ALPHA, false);
        w.nodes[BRAVO].stalled.insert("sync");
        w.restore();
        w.run_for(200);
        let done = w.done(ALPHA, flush);
        w.crash(ALPHA);
        lose_power(&mut w, BRAVO);
        w.nodes[BRAVO].stalled.clear();
        w.restart(BRAVO);
        w.run_for(100);
        w.must(BRAVO, FORCE);
        let (new, old) = (reads(&mut w, BRAVO, 5, 1), reads(&mut w, BRAVO, 6, 1));
        assert!(
            !done || new != [2] || old == [1],
            "{protocol:?}: newer without what was flushed before"
        );
    }
}

/// G19, G20: the disk fails again in the resync that brings it back, after the peer took up a generation
/// without being heard.
#[test]
fn a_disk_that_fails_again_in_its_resync_costs_nothing_after_an_unheard_generation() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        w.settle();
        w.wrote(ALPHA, 0, 200, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        w.lose(BRAVO, "GenerationHeld");
        w.nodes[ALPHA].medium.broken = true;
        w.write(ALPHA, 5, 1, 2);
        w.run_for(50);
        assert_eq!(w.trapped(), 1);
        w.nodes[ALPHA].medium.broken = false;
        w.must(ALPHA, Command::DiskAttach);
        w.nodes[ALPHA].stalled.insert("store");
        w.restore();
        w.until("a target", |w| peer(w, ALPHA).replication == Replication::SyncTarget);
        w.run_for(50);
        w.nodes[ALPHA].medium.broken = true;
        w.nodes[ALPHA].stalled.clear();
        let_go(&mut w, ALPHA);
        let write = w.write(ALPHA, 7, 1, 3);
        w.settle();
        assert!(w.done(ALPHA, write), "{protocol:?}");
    }
}

/// G24: a copy that was given up, and is not on record as such, was not given up.
#[test]
fn an_invalidate_that_is_on_no_record_is_not_answered_well() {
    let mut w = under(Protocol::C);
    w.wrote(ALPHA, 9, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    plant(&mut w, BRAVO, 9, 7);
    w.nodes[BRAVO].stalled.insert("superblock");
    let id = w.command(BRAVO, Command::Invalidate);
    w.run_for(5);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.until("answered", |w| w.answer(BRAVO, id).is_some());
    let refused = w.answer(BRAVO, id).unwrap().as_ref().expect_err("no record of it");
    assert_eq!(refused.reason, "disk-failed");
}

/// G1, G5: what a node served by the operator's word is not taken back by the other one's older copy.
#[test]
fn a_forced_primary_does_not_go_on_with_a_copy_that_lost_what_was_acknowledged() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        w.wrote(ALPHA, 5, 1, 2);
        w.run_for(5);
        lose_power(&mut w, ALPHA);
        plant(&mut w, ALPHA, 5, 1);
        w.run_for(100);
        w.must(BRAVO, FORCE);
        assert_eq!(reads(&mut w, BRAVO, 5, 1), [2]);
        lose_disk_to_a_read(&mut w, BRAVO);
        w.restart(ALPHA);
        w.settle();
        assert!(stand_alone(&w)[BRAVO], "{protocol:?}: alpha lacks what was acknowledged");
        w.must(BRAVO, Command::DiskAttach);
        w.settle();
        w.holds(BRAVO, 5, 1, 2);
    }
}

fn overrun() -> World {
    World::running(Setup {
        protocol: Protocol::A,
        on_congestion: OnCongestion::Bitmap,
        congestion_bytes: 64 << 10,
        device_blocks: 8 * 1024,
        ..Setup::default()
    })
}

/// G20: congestion ends a verify for which a write waits, in the middle of another write.
#[test]
fn a_verify_that_congestion_ends_keeps_the_order_of_writes() {
    let mut w = overrun();
    w.wrote(ALPHA, 500, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[BRAVO].stalled.insert("digest");
    w.must(ALPHA, Command::Verify { repair: false });
    w.run_for(1);
    let waits = w.write(ALPHA, 10, 1, 2);
    w.write(ALPHA, 500, 32, 3);
    w.run_for(50);
    assert!(w.done(ALPHA, waits));
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    w.equal();
    w.wrote(ALPHA, 600, 1, 4);
    w.must(ALPHA, Command::Demote);
}

/// G20: a link that its clients outran in a resync is still outrun after it.
#[test]
fn congestion_that_began_in_a_resync_is_met_after_it() {
    let mut w = overrun();
    w.settle();
    w.cut();
    w.wrote(ALPHA, 0, 1, 1);
    w.hold_kind(BRAVO, "SyncAdopted", true);
    w.restore();
    w.run_for(500);
    assert_eq!(peer(&w, ALPHA).replication, Replication::SyncSource);
    w.hold_kind(BRAVO, "Written", true);
    for place in 0..5 {
        w.write(ALPHA, 10 + 4 * place, 4, 2);
    }
    w.run_for(5);
    w.hold_kind(BRAVO, "SyncAdopted", false);
    w.run_for(50);
    for place in 0..40 {
        w.write(ALPHA, 100 + 4 * place, 4, 3);
    }
    w.run_for(5);
    assert_eq!(peer(&w, ALPHA).replication, Replication::Ahead);
    w.hold_kind(BRAVO, "Written", false);
    w.settle();
    w.equal();
}

/// G20: what waits behind a barrier of a former session goes on also if a generation begins meanwhile.
#[test]
fn what_waits_behind_the_fence_is_not_forgotten_with_a_generation() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        w.wrote(ALPHA, 6, 1, 1);
        w.run_for(5);
        w.lose(ALPHA, "GenerationBegin");
        lose_disk_to_a_read(&mut w, ALPHA);
        w.run_for(5);
        assert_eq!(w.trapped(), 1);
        w.hold_kind(BRAVO, "Stable", true);
        w.restore();
        w.until("it serves", |w| w.status(ALPHA).suspended.is_empty());
        let write = w.write(ALPHA, 5, 1, 2);
        w.run_for(5);
        w.hold_kind(BRAVO, "Stable", false);
        w.settle();
        assert!(w.done(ALPHA, write), "{protocol:?}");
    }
}

/// G8: a write that came while the disk was being taken back is on record before it is sent in the
/// resync.
#[test]
fn what_is_sent_again_in_a_resync_is_on_record_first() {
    let far = 20 * 1024;
    let mut w = begun(Protocol::C);
    let noted = |w: &World| w.status(ALPHA).suspended.is_empty();
    // A first resync: the next lazy save of marks is two seconds off.
    lose_disk_to_a_read(&mut w, ALPHA);
    w.until("noted", noted);
    w.run_for(1);
    w.must(ALPHA, Command::DiskAttach);
    w.until("equal", World::established);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.until("noted", noted);
    w.run_for(1);
    w.nodes[ALPHA].stalled.insert("superblock");
    w.hold_data(ALPHA, true);
    w.command(ALPHA, Command::DiskAttach);
    w.run_for(2);
    let write = w.write(ALPHA, far, 1, 2);
    w.run_for(1);
    w.cut();
    w.hold_data(ALPHA, false);
    w.nodes[ALPHA].stalled.clear();
    w.nodes[BRAVO].stalled.insert("fetch");
    w.restore();
    w.until("acknowledged", |w| w.done(ALPHA, write));
    w.run_for(5);
    w.crash(ALPHA);
    w.crash(BRAVO);
    w.nodes[BRAVO].stalled.clear();
    w.restart(ALPHA);
    w.restart(BRAVO);
    w.settle();
    w.equal();
    w.holds(ALPHA, far, 1, 2);
}

/// G14: a disk that was restored calls itself current; a peer that has lost its own disk knows better.
#[test]
fn a_restored_disk_is_found_by_a_peer_without_one() {
    let mut w = begun(Protocol::C);
    switch(&mut w, ALPHA);
    w.cut();
    w.wrote(BRAVO, 5, 1, 2);
    w.settle();
    w.crash(BRAVO);
    let kept = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.restore();
    w.settle();
    w.must(ALPHA, PROMOTE);
    w.cut();
    w.wrote(ALPHA, 5, 1, 3);
    w.settle();
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = kept;
    w.restart(BRAVO);
    w.settle();
    assert_eq!(w.status(BRAVO).disk, DiskState::UpToDate, "by its records");
    w.must(ALPHA, Command::Demote);
    w.must(ALPHA, Command::DiskDetach);
    w.restore();
    w.settle();
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 3);
}

/// G14: two disks of one generation, and one of them was restored: nobody serves either without a word.
#[test]
fn after_a_restored_disk_is_found_somebody_chooses() {
    let mut w = begun(Protocol::C);
    w.must(BRAVO, Command::Disconnect);
    w.settle();
    w.crash(ALPHA);
    let kept = w.nodes[ALPHA].medium.clone();
    w.restart(ALPHA);
    w.must(BRAVO, CONNECT);
    w.settle();
    switch(&mut w, ALPHA);
    w.wrote(BRAVO, 5, 1, 2);
    w.settle();
    w.must(BRAVO, Command::Demote);
    w.crash(ALPHA);
    w.nodes[ALPHA].medium = kept;
    w.cut();
    w.restart(ALPHA);
    w.settle();
    assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate, "by its records");
    w.restore();
    w.settle();
    for node in BOTH {
        assert_eq!(w.refused(node, PROMOTE), "undecided");
    }
    w.must(ALPHA, Command::Invalidate);
    BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 2);
    w.must(BRAVO, PROMOTE);
}

/// G7, G8: a slow write that was given up and that the source never had does not stay for newer.
#[test]
fn a_write_given_up_while_meeting_is_not_fresh() {
    let mut w = World::running(Setup { device_blocks: 2048, ..Setup::default() });
    w.settle();
    w.wrote(ALPHA, 0, 1024, 1);
    w.wrote(ALPHA, 1024, 1024, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 9, 1, 2);
    w.settle();
    w.must(ALPHA, Command::PauseSync);
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(100);
    w.nodes[ALPHA].stalled.insert("zero");
    w.hold_kind(ALPHA, "Zero", true);
    let write = w.zero(ALPHA, 5 * 4096, 4096);
    w.run_for(20);
    w.cut();
    w.hold_kind(ALPHA, "Zero", false);
    w.run_for(5);
    w.read(ALPHA, 9 * 4096, 4096);
    w.must(ALPHA, Command::ResumeSync);
    w.hold_kind(BRAVO, "SyncStart", true);
    w.restore();
    w.run_for(50);
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(2);
    w.hold_kind(BRAVO, "SyncStart", false);
    w.run_for(200);
    w.nodes[ALPHA].stalled.clear();
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some());
    w.settle();
    w.equal();
    let stamp = if w.done(ALPHA, write) { 0 } else { 1 };
    if w.done(ALPHA, write) {
        w.holds(BRAVO, 5, 1, stamp);
    }
}

/// G7, G24: a copy is not given up while a resync to it is about to begin: only marks would be copied.
#[test]
fn an_invalidate_as_a_resync_begins_waits_for_that() {
    let mut w = under(Protocol::C);
    w.settle();
    w.wrote(ALPHA, 0, 100, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    plant(&mut w, BRAVO, 9, 7);
    w.cut();
    w.wrote(ALPHA, 50, 10, 2);
    flushed(&mut w, ALPHA);
    w.lose(ALPHA, "SyncDone");
    w.restore();
    w.until("interrupted", |w| w.trapped() == 1);
    w.hold_kind(ALPHA, "SyncStart", true);
    w.restore();
    w.run_for(50);
    assert_eq!(w.refused(BRAVO, Command::Invalidate), "busy");
    w.hold_kind(ALPHA, "SyncStart", false);
    w.settle();
    w.must(BRAVO, Command::Invalidate);
    w.settle();
    w.equal();
}

/// G20, G24: a copy that is about to be the only whole one is not given up.
#[test]
fn a_source_that_was_just_chosen_is_the_last_copy() {
    let mut w = under(Protocol::C);
    w.settle();
    w.wrote(ALPHA, 0, 100, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.must(ALPHA, Command::Demote);
    w.hold_kind(BRAVO, "DiskChange", true);
    w.restore();
    w.until("begun", |w| w.status(BRAVO).disk == DiskState::Inconsistent);
    w.run_for(20);
    assert_eq!(w.refused(ALPHA, Command::Invalidate), "busy");
    w.hold_kind(BRAVO, "DiskChange", false);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G20: alone with a current copy nobody waits for the peer, also if the copy has just become current.
#[test]
fn a_write_at_the_end_of_a_resync_to_here_does_not_wait_for_a_lost_source() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        w.settle();
        w.wrote(ALPHA, 0, 100, 1);
        flushed(&mut w, ALPHA);
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 0, 100, 2);
        flushed(&mut w, ALPHA);
        w.settle();
        w.must(ALPHA, Command::DiskAttach);
        w.until("a target", |w| peer(w, ALPHA).replication == Replication::SyncTarget);
        w.nodes[ALPHA].stalled.insert("superblock");
        w.until("the end", |w| w.sent.contains_key(&(BRAVO, "SyncDone")));
        w.run_for(10);
        w.nodes[BRAVO].stalled.insert("store");
        let write = w.write(ALPHA, 5, 1, 3);
        w.run_for(5);
        assert!(!w.done(ALPHA, write));
        w.crash(BRAVO);
        w.run_for(5);
        w.nodes[ALPHA].stalled.clear();
        w.settle();
        let next = w.write(ALPHA, 7, 1, 4);
        w.run_for(100);
        assert!(w.done(ALPHA, next));
        assert!(w.done(ALPHA, write), "{protocol:?}: it waits for nobody");
        w.holds(ALPHA, 5, 1, 3);
        w.nodes[BRAVO].stalled.clear();
        w.restart(BRAVO);
        w.settle();
        w.equal();
    }
}

/// G14: who has been shown newer data does not serve older, also if the link goes before it comes.
#[test]
fn a_target_whose_resync_did_not_begin_is_no_primary() {
    let mut w = begun(Protocol::C);
    w.must(BRAVO, Command::Disconnect);
    w.run_for(5);
    w.must(ALPHA, Command::Demote);
    w.cut();
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 5, 1, 2);
    flushed(&mut w, BRAVO);
    w.hold_kind(BRAVO, "SyncStart", true);
    w.restore();
    w.must(BRAVO, CONNECT);
    w.run_for(50);
    w.cut();
    w.hold_kind(BRAVO, "SyncStart", false);
    w.run_for(50);
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.equal();
}

/// G2, G5: a promotion waits for what was received, also if the peer is back and loses its disk
/// meanwhile.
#[test]
fn a_promotion_waits_for_leftovers_although_the_peer_came_back_and_lost_its_disk() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = begun(protocol);
        w.wrote(ALPHA, 6, 1, 1);
        w.run_for(5);
        w.nodes[BRAVO].stalled.insert("sync");
        flushed(&mut w, ALPHA);
        w.wrote(ALPHA, 5, 1, 2);
        w.run_for(5);
        w.crash(ALPHA);
        w.run_for(5);
        let promote = w.command(BRAVO, FORCE);
        w.run_for(1);
        assert!(w.answer(BRAVO, promote).is_none());
        w.hold_kind(ALPHA, "Bye", true);
        w.restart(ALPHA);
        w.run_for(20);
        w.must(ALPHA, Command::DiskDetach);
        w.run_for(1);
        w.nodes[BRAVO].stalled.clear();
        w.until("promoted", |w| w.answer(BRAVO, promote).is_some_and(Result::is_ok));
        assert_eq!(reads(&mut w, BRAVO, 5, 1), [2], "{protocol:?}");
        w.wrote(BRAVO, 5, 1, 3);
        w.hold_kind(ALPHA, "Bye", false);
        w.settle();
        w.holds(BRAVO, 5, 1, 3);
    }
}

/// G7, G8: what was sent again in a resync to here stays on record until it is stable there.
#[test]
fn what_was_sent_again_in_a_resync_is_on_record_until_it_is_stable() {
    let far = 20 * 1024;
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.until("noted", |w| w.status(ALPHA).suspended.is_empty());
    w.run_for(1);
    w.nodes[ALPHA].stalled.insert("superblock");
    w.hold_data(ALPHA, true);
    w.command(ALPHA, Command::DiskAttach);
    w.run_for(2);
    let write = w.write(ALPHA, far, 1, 2);
    w.run_for(1);
    w.cut();
    w.hold_data(ALPHA, false);
    w.nodes[ALPHA].stalled.clear();
    w.restore();
    w.until("equal", World::established);
    w.run_for(20);
    assert!(w.done(ALPHA, write));
    w.crash(ALPHA);
    lose_power(&mut w, BRAVO);
    w.restart(ALPHA);
    w.restart(BRAVO);
    w.settle();
    w.equal();
}

/// G20, G24: the peer hears of a demotion although it looks at an older state later.
#[test]
fn a_demotion_while_the_peer_settles_is_heard() {
    let mut w = begun(Protocol::C);
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 2);
    w.run_for(600);
    w.cut();
    w.restore();
    w.run_for(10);
    w.must(ALPHA, Command::Demote);
    w.run_for(5);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    w.equal();
    assert_eq!(peer(&w, BRAVO).role, Some(Role::Secondary));
    w.must(BRAVO, PROMOTE);
}

/// G19: a peer that granted the promotion has all, also if the link blips before that is on record.
#[test]
fn a_peer_that_granted_the_promotion_may_lend_its_disk() {
    for protocol in PROTOCOLS {
        let mut w = begun(protocol);
        w.must(ALPHA, Command::Demote);
        w.run_for(5);
        let promote = w.command(BRAVO, PROMOTE);
        w.until("asked", |w| w.sent.contains_key(&(BRAVO, "PromoteAsk")));
        w.nodes[BRAVO].stalled.insert("superblock");
        w.run_for(5);
        w.cut();
        w.nodes[BRAVO].stalled.clear();
        w.until("promoted", |w| w.answer(BRAVO, promote).is_some_and(Result::is_ok));
        lose_disk_to_a_read(&mut w, BRAVO);
        w.restore();
        w.settle();
        assert!(!stand_alone(&w)[BRAVO], "{protocol:?}");
        assert_eq!(reads(&mut w, BRAVO, 5, 1), [1]);
    }
}

/// G20, G24: the operator's word holds against a link that comes up in the same turn.
#[test]
fn a_link_that_stands_just_as_the_operator_disconnects_is_ended() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.run_for(5);
    w.restore();
    let (id, now) = (CommandId(1 << 40), w.now);
    let core = w.nodes[BRAVO].replica.as_mut().expect("alive");
    core.handle(now, Input::Command { id, command: Command::Disconnect });
    w.settle();
    assert!(w.answer(BRAVO, id).is_some_and(Result::is_ok));
    assert!(stand_alone(&w)[BRAVO]);
    w.must(BRAVO, CONNECT);
    w.settle();
    w.equal();
}

/// G1: what was adopted is not forgotten in a meeting: the higher epoch says who is source.
#[test]
fn a_resume_while_meeting_does_not_take_the_epoch_back() {
    let mut w = suspending();
    w.settle();
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 6, 1, 1);
    w.run_for(600);
    w.hold_data(ALPHA, true);
    w.write(ALPHA, 7, 1, 2);
    w.run_for(5);
    w.cut();
    w.hold_data(ALPHA, false);
    w.restore();
    w.run_for(10);
    w.must(ALPHA, Command::Resume);
    w.run_for(5);
    w.nodes[BRAVO].stalled.clear();
    w.until("equal", World::established);
    w.settle();
    w.wrote(ALPHA, 5, 1, 3);
    w.run_for(5);
    w.crash(ALPHA);
    lose_power(&mut w, BRAVO);
    plant(&mut w, BRAVO, 5, 1);
    w.restart(ALPHA);
    w.restart(BRAVO);
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 3);
}

/// G20: a demotion waits for a link that is slow, as clients do.
#[test]
fn a_demotion_waits_for_a_congested_link() {
    let congestion_bytes = 64 << 10;
    let mut w =
        World::running(Setup { protocol: Protocol::A, congestion_bytes, ..Setup::default() });
    w.settle();
    w.hold_data(ALPHA, true);
    w.write(ALPHA, 0, 32, 1);
    w.run_for(5);
    let write = w.write(ALPHA, 100, 1, 2);
    w.run_for(5);
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(5);
    w.hold_data(ALPHA, false);
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some());
    assert!(w.done(ALPHA, write));
    w.settle();
    w.equal();
}

/// G20: what a resync found equal does not wait for a client that waits for it.
#[test]
fn a_write_over_two_runs_of_a_checksum_resync_ends() {
    let rate_max_bytes = 1 << 20;
    let setup = Setup { checksum: true, rate_max_bytes, device_blocks: 4096, ..Setup::default() };
    let mut w = World::running(setup);
    w.settle();
    w.wrote(ALPHA, 0, 256, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 2000, 1, 2);
    w.settle();
    w.nodes[ALPHA].stalled.insert("fetch");
    // What was hot is marked as a whole.
    w.must(ALPHA, Command::DiskAttach);
    w.until("a run is compared", |w| w.nodes[ALPHA].counts.contains_key("fetch"));
    let write = w.write(ALPHA, 60, 8, 3);
    w.until("the next one clashes", |w| w.sent.contains_key(&(ALPHA, "HashAnswer")));
    w.run_for(10);
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    assert!(w.done(ALPHA, write));
    w.equal();
    w.holds(ALPHA, 60, 8, 3);
}

/// G20: a flush asks a slow peer once, however much is written meanwhile.
#[test]
fn a_flush_that_waits_asks_for_one_barrier() {
    let mut w = begun(Protocol::C);
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 2);
    let flush = w.flush(ALPHA);
    let asked = |w: &World| w.sent.get(&(ALPHA, "Barrier")).copied().unwrap_or(0);
    w.run_for(1);
    let before = asked(&w);
    for stamp in 3..100 {
        w.wrote(ALPHA, 6, 1, stamp);
    }
    assert!(asked(&w) <= before + 1, "{} barriers", asked(&w) - before);
    assert!(!w.done(ALPHA, flush));
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert!(w.done(ALPHA, flush));
}

/// G23: what a peer acknowledges and cannot make stable is bounded.
#[test]
fn a_peer_whose_disk_makes_nothing_stable_is_waited_for() {
    for (protocol, zero) in [(Protocol::A, true), (Protocol::C, false)] {
        let mut w = begun(protocol);
        w.nodes[BRAVO].stalled.insert("sync");
        let mut last = None;
        for stamp in 2..33_500 {
            let block = stamp % 500;
            last = Some(if zero {
                w.zero(ALPHA, block * 4096, 4096)
            } else {
                w.write(ALPHA, block, 1, stamp)
            });
            w.steps(20);
        }
        let last = last.expect("many");
        w.run_for(10);
        assert!(!w.done(ALPHA, last), "{protocol:?}");
        assert!(peer(&w, ALPHA).unstable_writes < 33_000);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        assert!(w.done(ALPHA, last), "{protocol:?}");
        w.equal();
    }
}

/// G20: a full log whose writes wait for the peer lets the disk rest.
#[test]
fn a_full_log_that_waits_for_the_peer_does_not_sync_without_rest() {
    let mut w = suspending();
    w.settle();
    w.cut();
    w.run_for(20);
    let writes: Vec<_> = (0..20).map(|n| w.write(ALPHA, n * 1024, 1, 1)).collect();
    w.run_for(500);
    let syncs = |w: &World| w.nodes[ALPHA].counts.get("sync").copied().unwrap_or(0);
    let before = syncs(&w);
    w.run_for(1_000);
    assert!(syncs(&w) <= before + 2, "{} syncs", syncs(&w) - before);
    w.restore();
    w.settle();
    assert!(writes.into_iter().all(|write| w.done(ALPHA, write)));
    w.equal();
}

/// G20, G23: a primary is sent no more of a resync than it has room for while its clients come first.
#[test]
fn a_primary_that_is_brought_up_to_date_is_sent_little_at_a_time() {
    let mut w = World::running(Setup { device_blocks: 16 * 1024, ..Setup::default() });
    w.settle();
    w.must(ALPHA, Command::DiskDetach);
    for part in 0..8 {
        w.wrote(ALPHA, part * 1024, 1024, 1);
    }
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[ALPHA].stalled.insert("store");
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(20_000);
    let sent = w.sent.get(&(BRAVO, "ResyncData")).copied().unwrap_or(0);
    assert!((1..=16).contains(&sent), "{sent} pieces");
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    w.equal();
}
