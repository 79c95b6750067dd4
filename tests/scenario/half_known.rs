//! Owns stories of what one node has on record and the other never heard of: grants, withdrawals,
//! generations, and what a disk that was away says of itself.

use crate::field::*;
use crate::found::lose_disk_to_a_read;
use crate::world::*;
use twinblk::format::frame::{DiskState, Frame, Protocol};
use twinblk::replica::event::*;
use twinblk::units::Epoch;

/// G1: a promotion that was granted and not taken up does not make the granter the source.
#[test]
fn a_grant_that_nobody_heard_makes_no_source() {
    let mut w = begun(Protocol::A);
    w.hold_data(ALPHA, true);
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.crash(ALPHA);
    w.cut();
    w.hold_data(ALPHA, false);
    w.restart(ALPHA);
    w.run_for(100);
    w.nodes[ALPHA].stalled.insert("sync");
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    w.restore();
    w.until("it is the source", |w| w.status(ALPHA).disk == DiskState::UpToDate);
    let asked = |w: &World| w.sent.get(&(ALPHA, "PromoteAsk")).copied();
    let before = asked(&w);
    w.command(ALPHA, PROMOTE);
    w.run_for(100);
    assert_ne!(asked(&w), before);
    w.cut();
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.nodes[ALPHA].stalled.clear();
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G1, G13: a disk that is back as it was begins anew with what it writes alone, also beside a peer that
/// had adopted a resync and a generation without being heard.
#[test]
fn what_a_disk_that_came_back_writes_alone_is_of_its_own_generation() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.hold_kind(BRAVO, "SyncAdopted", true);
    w.restore();
    w.run_for(2_000);
    w.cut();
    w.hold_kind(BRAVO, "SyncAdopted", false);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.hold_kind(BRAVO, "GenerationHeld", true);
    w.restore();
    w.run_for(2_000);
    w.cut();
    w.hold_kind(BRAVO, "GenerationHeld", false);
    w.must(ALPHA, Command::DiskAttach);
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    lose_power(&mut w, ALPHA);
    w.restart(ALPHA);
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// After BRAVO has gone by its operator's word, the disk of ALPHA fails and BRAVO goes on for it; then
/// ALPHA is started anew, alone, with its old disk.
fn its_old_disk_is_not_current(mut w: World) {
    lose_disk_to_a_read(&mut w, ALPHA);
    w.must(BRAVO, CONNECT);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    w.crash(ALPHA);
    w.cut();
    w.restart(ALPHA);
    w.settle();
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 2);
}

/// G14: who leaves before it knows that the other one is primary has not withdrawn.
#[test]
fn who_leaves_in_the_middle_of_meeting_has_not_withdrawn() {
    let mut w = begun(Protocol::C);
    w.hold_kind(ALPHA, "State", true);
    w.blip();
    w.run_for(300);
    w.must(BRAVO, Command::Disconnect);
    w.hold_kind(ALPHA, "State", false);
    w.settle();
    assert!(stand_alone(&w)[BRAVO]);
    its_old_disk_is_not_current(w);
}

/// G14: who leaves in the last moment of a resync to it is not current by it.
#[test]
fn who_leaves_at_the_end_of_a_resync_does_not_adopt_it() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.restore();
    w.until("a resync begins", |w| w.status(BRAVO).disk == DiskState::Inconsistent);
    w.nodes[BRAVO].stalled.insert("pages");
    w.until("it ends", |w| w.sent.contains_key(&(ALPHA, "SyncDone")));
    w.run_for(100);
    w.nodes[BRAVO].stalled.insert("superblock");
    w.command(BRAVO, Command::Disconnect);
    w.nodes[BRAVO].stalled.remove("pages");
    w.run_for(100);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert_ne!(w.status(BRAVO).disk, DiskState::Consistent);
    w.must(BRAVO, CONNECT);
    w.settle();
    w.equal();
}

/// G14: a disk that was restored meets a primary that has lost its own: it has learnt that it is old.
#[test]
fn a_restored_disk_learns_from_a_primary_without_one() {
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
    lose_disk_to_a_read(&mut w, ALPHA);
    w.restore();
    w.settle();
    w.refused(BRAVO, PROMOTE);
    assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate);
    w.must(ALPHA, Command::DiskAttach);
    BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 3);
}

/// G5, G14: a primary that took its old disk back goes by what it served since, not by that disk.
#[test]
fn a_primary_on_the_peers_copy_does_not_go_on_with_an_older_one() {
    let mut w = begun(Protocol::C);
    w.crash(BRAVO);
    let kept = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.must(ALPHA, Command::PauseSync);
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(500);
    assert_eq!(w.status(ALPHA).disk, DiskState::Inconsistent);
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = kept;
    w.restart(BRAVO);
    w.settle();
    let read = w.read(ALPHA, 5 * 4096, 4096);
    w.run_for(1_000);
    assert!(w.reply(ALPHA, read).is_none(), "it has gone back in time");
    assert_eq!(stand_alone(&w), [true; 2]);
}

/// G2: the source of a resync that has not begun served, flushed and was demoted; then both have lost power.
#[test]
fn a_source_that_served_before_its_resync_began_stays_the_source() {
    let mut w = begun(Protocol::C);
    w.wrote(ALPHA, 5, 1, 2);
    w.run_for(2_000);
    w.nodes[ALPHA].medium.write(5, Some(crate::medium::fill(1, 5)), true);
    lose_power(&mut w, ALPHA);
    w.run_for(50);
    w.nodes[BRAVO].stalled.insert("sync");
    w.restart(ALPHA);
    w.until("it is the source", |w| w.status(BRAVO).disk == DiskState::UpToDate);
    w.must(BRAVO, PROMOTE);
    w.hold_kind(BRAVO, "SyncStart", true);
    w.nodes[BRAVO].stalled.clear();
    w.run_for(50);
    flushed(&mut w, BRAVO);
    w.must(BRAVO, Command::Demote);
    lose_power(&mut w, BRAVO);
    w.cut();
    w.hold_kind(BRAVO, "SyncStart", false);
    w.restart(BRAVO);
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 2);
}

/// G1, G14: the generation of a write that the peer missed lands on a disk that is gone already.
#[test]
fn a_generation_that_lands_late_is_not_forgotten() {
    for attaches in [true, false] {
        let mut w = begun(Protocol::C);
        w.cut();
        w.run_for(20);
        w.nodes[ALPHA].stalled.insert("superblock");
        let write = w.write(ALPHA, 5, 1, 2);
        w.run_for(5);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.nodes[ALPHA].stalled.clear();
        w.restore();
        w.settle();
        if attaches {
            w.must(ALPHA, Command::DiskAttach);
            BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
            w.settle();
            assert!(w.done(ALPHA, write));
            w.equal();
            w.holds(BRAVO, 5, 1, 2);
            continue;
        }
        assert!(!w.done(ALPHA, write), "no copy that is surely current has it");
        w.crash(ALPHA);
        w.cut();
        w.restart(ALPHA);
        w.settle();
        w.must(ALPHA, PROMOTE);
        w.restore();
        w.must(BRAVO, CONNECT);
        w.settle();
        w.equal();
    }
}

/// G14: a node without a disk cannot record that it withdraws.
#[test]
fn who_leaves_without_a_disk_has_not_withdrawn() {
    let mut w = begun(Protocol::C);
    w.must(BRAVO, Command::DiskDetach);
    w.settle();
    w.must(BRAVO, Command::Disconnect);
    w.settle();
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    its_old_disk_is_not_current(w);
}

/// G24: whose data is the first copy needs no force before the other node has any of it.
#[test]
fn the_first_copy_is_current_although_its_resync_has_not_begun() {
    let mut w = World::new(Setup::default());
    w.settle();
    w.hold_kind(BRAVO, "SyncReady", true);
    w.must(ALPHA, Command::InitFrom);
    w.run_for(500);
    w.cut();
    w.run_for(50);
    w.must(ALPHA, PROMOTE);
}

/// G9, G20: the target of a resync makes nothing stable for long. It is neither flooded nor dropped.
#[test]
fn a_resync_waits_for_a_target_that_makes_nothing_stable() {
    let setup = Setup { device_blocks: 160 * 1024, protocol: Protocol::A, ..Setup::default() };
    let mut w = World::running(setup);
    w.settle();
    w.cut();
    w.run_for(20);
    for block in 0..70_000 {
        w.write(ALPHA, 2 * block, 1, 1);
        w.steps(6);
    }
    flushed(&mut w, ALPHA);
    w.restore();
    w.until("it is the target", |w| w.status(BRAVO).disk == DiskState::Inconsistent);
    w.nodes[BRAVO].stalled.insert("sync");
    let session = w.session();
    w.run_for(60_000);
    let write = w.write(ALPHA, 1, 1, 2);
    w.run_for(60_000);
    assert!(w.done(ALPHA, write));
    assert!(peer(&w, ALPHA).unstable_writes <= 17_000, "{}", peer(&w, ALPHA).unstable_writes);
    assert_eq!(w.session(), session);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    w.equal();
}

/// G20, G24: both copies were given up before either node heard of the other one's. The words name the way out.
#[test]
fn of_two_copies_that_were_given_up_at_once_one_is_the_first() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.hold_link(true);
    BOTH.into_iter().for_each(|node| w.must(node, Command::Invalidate));
    w.hold_link(false);
    w.settle();
    for node in BOTH {
        let words = w.status(node).promote_refusal;
        assert!(words.contains("twinblk init r0 --from"), "{words}");
    }
    w.must(BRAVO, Command::InitFrom);
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 1);
}

/// G14: who leaves while the copies are found equal is not made current by that.
#[test]
fn who_leaves_while_the_copies_are_found_equal_stays_old() {
    for wait in [5, 10, 20, 40] {
        let mut w = begun(Protocol::C);
        w.blip();
        w.until("they meet", |w| w.sent.contains_key(&(BRAVO, "State")) && !w.established());
        w.run_for(wait / 10);
        w.nodes[BRAVO].stalled.insert("superblock");
        w.run_for(wait);
        w.command(BRAVO, Command::Disconnect);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        assert_eq!(w.status(BRAVO).disk, DiskState::Outdated);
        w.must(BRAVO, CONNECT);
        w.settle();
        w.equal();
    }
}

/// G14: a goodbye overtakes the word that the disk is gone, which waits for the record of the meeting.
#[test]
fn who_leaves_without_a_disk_has_not_withdrawn_from_a_slow_primary() {
    let mut w = begun(Protocol::C);
    w.blip();
    let met = |w: &World| w.sent.get(&(ALPHA, "Met")).copied();
    let before = met(&w);
    w.until("it has recorded the meeting", |w| met(w) != before);
    w.nodes[ALPHA].stalled.insert("superblock");
    w.run_for(50);
    assert_eq!(peer(&w, ALPHA).replication, Replication::Negotiating);
    assert_eq!(peer(&w, BRAVO).replication, Replication::Established);
    w.command(BRAVO, Command::DiskDetach);
    w.command(BRAVO, Command::Disconnect);
    w.run_for(50);
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    its_old_disk_is_not_current(w);
}

/// G18, G20: the peer takes up the generation it is asked for, and no other that is nowhere else.
#[test]
fn a_generation_that_was_never_written_is_not_asked_for() {
    for attaches in [true, false] {
        let mut w = begun(Protocol::C);
        w.nodes[ALPHA].stalled.insert("superblock");
        w.blip();
        w.run_for(20);
        w.cut();
        let before = w.status(BRAVO).generation;
        let write = w.write(ALPHA, 5, 1, 2);
        w.run_for(5);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.nodes[ALPHA].stalled.clear();
        w.run_for(50);
        w.restore();
        w.until("it takes one up", |w| w.status(BRAVO).generation != before);
        w.cut();
        w.run_for(100);
        if attaches {
            w.must(ALPHA, Command::DiskAttach);
        }
        w.restore();
        w.settle();
        assert_eq!(stand_alone(&w), [false; 2]);
        assert!(w.done(ALPHA, write));
    }
}

/// G9: a disk that came back under its primary, after the end of a resync was not heard, costs no full one.
#[test]
fn a_disk_that_came_back_after_an_unheard_end_goes_by_marks() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.hold_kind(BRAVO, "SyncAdopted", true);
    w.restore();
    w.run_for(2_000);
    w.cut();
    w.hold_kind(BRAVO, "SyncAdopted", false);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.must(ALPHA, Command::DiskAttach);
    w.restore();
    w.settle();
    w.equal();
    assert!(copied(&w, ALPHA) <= 1024, "{} blocks", copied(&w, ALPHA));
}

/// G19: the only copy does not leave while the nodes are just meeting.
#[test]
fn the_only_copy_does_not_leave_in_the_middle_of_meeting() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.nodes[BRAVO].stalled.insert("superblock");
    w.blip();
    w.run_for(20);
    assert_eq!(w.refused(BRAVO, Command::Disconnect), "last-copy");
    assert_eq!(w.refused(BRAVO, Command::DiskDetach), "last-copy");
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert_eq!(reads(&mut w, ALPHA, 5, 1), [1]);
}

/// G14: two things of one turn: the record of the first one holds what the second one began.
#[test]
fn a_generation_that_goes_out_with_an_earlier_record_is_not_forgotten() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.hold_kind(BRAVO, "SyncAdopted", true);
    w.restore();
    w.run_for(2_000);
    w.hold_kind(BRAVO, "Written", true);
    w.write(ALPHA, 5, 1, 2);
    w.run_for(5);
    w.nodes[ALPHA].stalled.insert("superblock");
    let (peer, session) = (PeerIndex(0), w.session().expect("connected"));
    let epoch = Epoch(w.status(BRAVO).epoch.0);
    let frame = Frame::SyncAdopted;
    let adopted = Input::Frame { peer, session, epoch, frame, payload: None };
    w.handle_at_once(ALPHA, vec![adopted, Input::LinkDown { peer, session }]);
    w.cut();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.nodes[ALPHA].stalled.clear();
    ["SyncAdopted", "Written"].iter().for_each(|kind| w.hold_kind(BRAVO, kind, false));
    w.restore();
    w.settle();
    let write = w.write(ALPHA, 5, 1, 3);
    w.settle();
    w.crash(ALPHA);
    w.cut();
    w.restart(ALPHA);
    w.settle();
    let promoted = w.order(ALPHA, PROMOTE).is_ok();
    assert!(!promoted || !w.done(ALPHA, write), "it lacks what was acknowledged");
}

/// G14, G18: a lender whose resync ended unheard takes up a generation: it is no more current by that.
#[test]
fn a_lender_is_not_current_by_a_resync_that_ended() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 6, 1, 1);
    w.settle();
    w.hold_kind(ALPHA, "SyncAdopted", true);
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(2_000);
    w.cut();
    w.hold_kind(ALPHA, "SyncAdopted", false);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.hold_kind(BRAVO, "GenerationHeld", true);
    w.restore();
    w.run_for(2_000);
    w.cut();
    w.hold_kind(BRAVO, "GenerationHeld", false);
    w.must(ALPHA, Command::DiskAttach);
    w.wrote(ALPHA, 5, 1, 2);
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G14: the end of a resync comes while the target is on its way out.
#[test]
fn who_leaves_before_the_end_of_a_resync_does_not_adopt_it() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.hold_kind(ALPHA, "SyncDone", true);
    w.restore();
    w.until("it ends", |w| w.sent.contains_key(&(ALPHA, "SyncDone")));
    w.run_for(100);
    w.nodes[BRAVO].stalled.insert("superblock");
    w.command(BRAVO, Command::Disconnect);
    w.hold_kind(ALPHA, "SyncDone", false);
    w.run_for(100);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert_ne!(w.status(BRAVO).disk, DiskState::Consistent);
    w.must(BRAVO, CONNECT);
    w.settle();
    w.equal();
}

/// G5, G19: a disk that failed a flush is demoted, attached and served again, alone.
#[test]
fn a_disk_that_failed_a_flush_is_not_current_after_a_demotion() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].stalled.insert("sync");
    w.flush(ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::Demote);
    w.must(ALPHA, Command::DiskAttach);
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.equal();
}

/// G24: with a new disk a primary still knows that what it served is the newer data.
#[test]
fn a_primary_with_a_new_disk_does_not_call_itself_older() {
    let mut w = begun(Protocol::C);
    w.must(BRAVO, Command::Disconnect);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.must(ALPHA, Command::DiskReplace);
    w.must(BRAVO, CONNECT);
    w.settle();
    let words = peer(&w, ALPHA).connection_reason;
    assert!(words.contains("lacks what clients were told"), "{words}");
}

/// G19, G20: what a peer lacked before it took note of the lost disk, it lacks no more.
#[test]
fn a_lender_that_made_all_stable_may_reboot() {
    let mut w = begun(Protocol::C);
    w.wrote(ALPHA, 6, 1, 1);
    w.cut();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.restore();
    w.settle();
    w.wrote(ALPHA, 7, 1, 2);
    flushed(&mut w, ALPHA);
    w.settle();
    lose_power(&mut w, BRAVO);
    w.restart(BRAVO);
    w.settle();
    assert_eq!(stand_alone(&w), [false; 2]);
    assert_eq!(reads(&mut w, ALPHA, 7, 1), [2]);
}

/// G9: the end of one resync and the beginning of the next are not heard: marks serve all the same.
#[test]
fn an_unheard_end_and_an_unheard_beginning_cost_no_full_resync() {
    let mut w = begun(Protocol::C);
    w.cut();
    w.wrote(ALPHA, 6, 1, 1);
    w.lose(BRAVO, "SyncAdopted");
    w.restore();
    w.until("the end is lost", |w| w.trapped() == 1);
    w.cut();
    w.wrote(ALPHA, 7, 1, 1);
    w.lose(BRAVO, "SyncReady");
    w.restore();
    w.until("the beginning is lost", |w| w.trapped() == 2);
    w.run_for(100);
    w.restore();
    w.settle();
    w.equal();
    assert!(copied(&w, ALPHA) < 2048, "{} blocks", copied(&w, ALPHA));
}
