//! Owns stories of disks that were restored from an older copy, and of meetings that were torn: which copy is
//! the old one is not forgotten.

use crate::field::*;
use crate::found::{lose_disk_to_a_read, stamp_read};
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;

/// Block 5 holds 2 for the primary, which wrote nothing since its peer went: the peer's disk is from
/// before that write, and of the same generation.
fn restored(protocol: Protocol) -> World {
    let mut w = begun(protocol);
    w.crash(BRAVO);
    let kept = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.settle();
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = kept;
    w
}

/// G1, G14: the source lost its power before the restored copy was on record as one of mixed age.
#[test]
fn a_torn_meeting_does_not_make_a_restored_disk_the_source() {
    for protocol in PROTOCOLS {
        for unheard in ["Met", "SyncStart"] {
            for power in [false, true] {
                let mut w = restored(protocol);
                let from = if unheard == "Met" { BRAVO } else { ALPHA };
                w.hold_kind(from, unheard, true);
                w.restart(BRAVO);
                w.run_for(100);
                w.cut();
                if power {
                    lose_power(&mut w, ALPHA);
                } else {
                    w.crash(ALPHA);
                }
                w.hold_kind(from, unheard, false);
                w.restart(ALPHA);
                w.restore();
                w.settle();
                let words = peer(&w, ALPHA).connection_reason;
                assert!(
                    words.contains("twinblk invalidate"),
                    "{protocol:?} {unheard} {power}: {words}"
                );
                w.must(BRAVO, Command::Invalidate);
                BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
                w.settle();
                w.equal();
                w.holds(BRAVO, 5, 1, 2);
            }
        }
    }
}

/// G1, G5, G14: a primary that loses its disk does not go on with the restored copy it had just met.
#[test]
fn a_primary_does_not_go_on_with_a_restored_disk_it_has_met() {
    for protocol in PROTOCOLS {
        let mut w = restored(protocol);
        w.hold_kind(ALPHA, "SyncStart", true);
        w.restart(BRAVO);
        w.run_for(100);
        w.cut();
        lose_disk_to_a_read(&mut w, ALPHA);
        w.hold_kind(ALPHA, "SyncStart", false);
        w.restore();
        w.settle();
        assert!(stand_alone(&w)[ALPHA], "{protocol:?}");
        w.must(ALPHA, Command::DiskAttach);
        BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        w.settle();
        w.equal();
        w.holds(BRAVO, 5, 1, 2);
    }
}

/// G1, G14: nor is it promoted without a word, if by its own records the other one lacks what it has.
#[test]
fn a_restored_disk_that_was_met_is_not_current() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.run_for(20);
    let kept = w.nodes[ALPHA].medium.clone();
    w.restore();
    w.settle();
    switch(&mut w, ALPHA);
    w.settle();
    w.wrote(BRAVO, 5, 1, 3);
    flushed(&mut w, BRAVO);
    w.settle();
    w.crash(ALPHA);
    w.nodes[ALPHA].medium = kept;
    w.hold_kind(BRAVO, "SyncStart", true);
    w.restart(ALPHA);
    w.run_for(100);
    w.cut();
    w.hold_kind(BRAVO, "SyncStart", false);
    lose_power(&mut w, BRAVO);
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restart(BRAVO);
    w.run_for(20);
    w.must(BRAVO, FORCE);
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 3);
}

/// G20: a resync of everything that was cut short goes on, whichever record of its beginning was made.
#[test]
fn a_full_resync_that_was_cut_short_goes_on() {
    for (from, unheard) in [
        (BRAVO, "Met"),
        (ALPHA, "Met"),
        (ALPHA, "SyncStart"),
        (BRAVO, "SyncReady"),
        (ALPHA, "SyncDone"),
    ] {
        let mut w = restored(Protocol::C);
        w.hold_kind(from, unheard, true);
        w.restart(BRAVO);
        w.run_for(100);
        w.cut();
        w.hold_kind(from, unheard, false);
        w.restore();
        w.settle();
        assert_eq!(stand_alone(&w), [false; 2], "{unheard}");
        w.equal();
        w.holds(BRAVO, 5, 1, 2);
    }
}

/// G14: a disk of the same generation was restored, and the primary has just lost its own.
#[test]
fn a_primary_without_a_disk_does_not_go_on_with_a_restored_one() {
    let mut w = begun(Protocol::C);
    w.crash(BRAVO);
    let kept = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = kept;
    lose_disk_to_a_read(&mut w, ALPHA);
    w.restart(BRAVO);
    w.settle();
    assert!(stand_alone(&w)[ALPHA]);
    assert!(peer(&w, ALPHA).connection_reason.contains("twinblk disk attach"));
    w.must(ALPHA, Command::DiskAttach);
    BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// The link goes before either node has heard that the other recorded the meeting with the new disk.
fn replaced_in_a_torn_meeting(w: &mut World) {
    BOTH.into_iter().for_each(|node| w.hold_kind(node, "Met", true));
    w.must(ALPHA, Command::DiskReplace);
    w.run_for(100);
    w.cut();
    BOTH.into_iter().for_each(|node| w.hold_kind(node, "Met", false));
    w.restore();
    w.settle();
    assert_eq!(stand_alone(w), [false; 2]);
    w.equal();
}

/// G20: a meeting with a new disk that was torn does not make the lender look like a restored one.
#[test]
fn a_torn_meeting_of_a_new_disk_is_had_again() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    replaced_in_a_torn_meeting(&mut w);
}

/// G20: nor do two of them, with a disk that failed in between.
#[test]
fn two_torn_meetings_of_new_disks_are_had_again() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.hold_kind(BRAVO, "SyncStart", true);
    w.must(ALPHA, Command::DiskReplace);
    w.run_for(100);
    w.nodes[ALPHA].medium.broken = true;
    w.hold_kind(BRAVO, "SyncStart", false);
    w.until("let go of", |w| w.status(ALPHA).disk == DiskState::Diskless);
    w.nodes[ALPHA].medium.broken = false;
    w.settle();
    replaced_in_a_torn_meeting(&mut w);
}

/// G20: nor does a link that goes twice in the moment when a resync onto one begins.
#[test]
fn a_resync_of_a_new_disk_that_begins_three_times_keeps_its_lender() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.hold_kind(ALPHA, "SyncReady", true);
    w.must(ALPHA, Command::DiskReplace);
    for _ in 0..3 {
        w.run_for(100);
        assert_eq!(peer(&w, ALPHA).replication, Replication::SyncTarget);
        assert_ne!(peer(&w, BRAVO).replication, Replication::SyncSource);
        w.cut();
        w.restore();
    }
    w.run_for(100);
    w.hold_kind(ALPHA, "SyncReady", false);
    w.settle();
    assert_eq!(stand_alone(&w), [false; 2]);
    w.equal();
}

/// G19: the old machine comes back after `node replace`, has all, and lends its copy.
#[test]
fn a_peer_that_was_given_up_and_lacks_nothing_lends_its_copy() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.must(ALPHA, Command::NodeReplace);
    w.hold_kind(ALPHA, "SyncStart", true);
    w.restore();
    w.run_for(100);
    w.cut();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.hold_kind(ALPHA, "SyncStart", false);
    w.restore();
    w.settle();
    assert_eq!(stand_alone(&w), [false; 2]);
    w.wrote(ALPHA, 6, 1, 2);
}

/// G20: nor does an older disk that a primary attaches.
#[test]
fn a_primary_that_attaches_an_older_disk_goes_on_with_the_lender() {
    let mut w = begun(Protocol::C);
    let old = w.nodes[ALPHA].medium.clone();
    w.blip();
    w.settle();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.wrote(ALPHA, 7, 1, 2);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[ALPHA].medium = old;
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    assert_eq!(stand_alone(&w), [false; 2]);
    w.equal();
    w.holds(ALPHA, 7, 1, 2);
}

/// G5: what clients have read of a copy that was forced to serve is not taken back for one whose node had asked to
/// serve, and was not heard.
#[test]
fn a_promotion_that_nobody_heard_is_no_newer_than_a_forced_one() {
    let mut w = begun(Protocol::C);
    w.nodes[ALPHA].stalled.insert("store");
    w.write(ALPHA, 6, 1, 2);
    w.run_for(20);
    w.drop_stalled(ALPHA);
    w.crash(ALPHA);
    w.nodes[ALPHA].stalled.insert("sync");
    w.restart(ALPHA);
    w.run_for(100);
    assert!(w.status(ALPHA).disk == DiskState::UpToDate && !w.established());
    w.hold_kind(ALPHA, "PromoteAsk", true);
    for _ in 0..3 {
        w.command(ALPHA, PROMOTE);
        w.must(ALPHA, Command::Demote);
    }
    let asked = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.cut();
    w.until("given up", |w| w.answer(ALPHA, asked).is_some());
    w.hold_kind(ALPHA, "PromoteAsk", false);
    w.nodes[ALPHA].stalled.clear();
    w.must(BRAVO, FORCE);
    let read = w.read(BRAVO, 6 * 4096, 4096);
    w.until("read", |w| w.done(BRAVO, read));
    assert_eq!(stamp_read(&w, BRAVO, read, 6), Some(2));
    w.must(BRAVO, Command::Demote);
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 6, 1, 2);
}

/// G5: nor where the two were equal but for what a verify had found.
#[test]
fn a_forced_promotion_outranks_an_ask_that_was_lost() {
    let mut w = begun(Protocol::C);
    plant(&mut w, BRAVO, 5, 7);
    w.must(ALPHA, Command::Verify { repair: false });
    w.settle();
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.hold_kind(ALPHA, "PromoteAsk", true);
    w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.cut();
    w.hold_kind(ALPHA, "PromoteAsk", false);
    w.must(BRAVO, FORCE);
    let read = w.read(BRAVO, 5 * 4096, 4096);
    w.until("read", |w| w.done(BRAVO, read));
    assert_eq!(stamp_read(&w, BRAVO, read, 5), Some(7));
    w.must(BRAVO, Command::Demote);
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 7);
}
