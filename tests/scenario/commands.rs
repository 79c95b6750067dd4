//! Owns stories of commands in the middle of something else, and of what disks that went twice
//! still say.

use crate::field::*;
use crate::found::lose_disk_to_a_read;
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;

/// G1, G5: a peer that began a generation for a disk lost long ago lacks what came after.
#[test]
fn a_generation_begun_for_a_former_loss_is_not_the_newest() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::DiskDetach);
    w.settle();
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.must(BRAVO, Command::Disconnect);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.must(ALPHA, Command::DiskReplace);
    w.must(BRAVO, CONNECT);
    w.settle();
    let words = peer(&w, ALPHA).connection_reason;
    assert!(words.contains("lacks what clients were told"), "{words}");
}

/// G1, G14: nor is one that was begun for a disk that is lost again, on a restored disk.
#[test]
fn a_restored_disk_with_a_generation_begun_for_a_former_loss_is_not_the_newest() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.crash(BRAVO);
    let old = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    w.must(ALPHA, Command::PauseSync);
    w.must(ALPHA, Command::DiskAttach);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = old;
    w.restart(BRAVO);
    w.settle();
    let words = peer(&w, ALPHA).connection_reason;
    assert!(!words.is_empty(), "it goes on with a restored disk");
}

/// The disk of ALPHA, which wrote alone and was demoted, is open again and may lack something.
fn is_not_current(mut w: World) {
    w.must(ALPHA, Command::DiskAttach);
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.equal();
}

fn alone() -> World {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w
}

/// G19: a read fails before the flush does.
#[test]
fn a_disk_that_failed_a_read_and_then_a_flush_is_not_current_after_a_demotion() {
    let mut w = alone();
    w.nodes[ALPHA].stalled.insert("sync");
    w.flush(ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    w.read(ALPHA, 999 * 4096, 4096);
    w.until("let go of", |w| w.status(ALPHA).disk == DiskState::Diskless);
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::Demote);
    is_not_current(w);
}

/// G19: the sync with which a disk is opened fails, once.
#[test]
fn a_disk_that_could_not_be_opened_is_not_current_after_a_demotion() {
    let mut w = alone();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.must(ALPHA, Command::Demote);
    w.nodes[ALPHA].medium.broken = true;
    assert!(w.order(ALPHA, Command::DiskAttach).is_err());
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    is_not_current(w);
}

/// G19: it fails again before it is on record that it may lack something.
#[test]
fn a_disk_that_fails_as_it_is_recovered_is_not_current_after_a_demotion() {
    let mut w = alone();
    w.nodes[ALPHA].stalled.insert("sync");
    w.flush(ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    w.nodes[ALPHA].stalled.extend(["pages", "superblock"]);
    w.command(ALPHA, Command::DiskAttach);
    w.run_for(100);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.run_for(100);
    assert_eq!(w.status(ALPHA).disk, DiskState::Diskless);
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::Demote);
    is_not_current(w);
}

/// G19: what the former primary had acknowledged is in the copy here too, and lost with a failed flush.
#[test]
fn a_new_primary_whose_flush_fails_has_lost_what_the_former_one_wrote() {
    let mut w = begun(Protocol::C);
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 2);
    w.crash(ALPHA);
    w.until("ALPHA is away", |w| peer(w, BRAVO).connection == Connection::Connecting);
    w.must(BRAVO, FORCE);
    w.flush(BRAVO);
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.run_for(20);
    w.nodes[BRAVO].medium.lose_unsynced();
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate);
}

/// G20: an opening that failed takes nothing from a copy that was all stable.
#[test]
fn a_disk_with_all_stable_that_could_not_be_opened_once_is_current_again() {
    let mut w = alone();
    flushed(&mut w, ALPHA);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    assert!(w.order(ALPHA, Command::DiskAttach).is_err());
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
    assert_eq!(reads(&mut w, ALPHA, 5, 1), [2]);
    w.restore();
    w.settle();
    w.equal();
}

/// G24: who is told that a node is secondary can rely on it.
#[test]
fn a_demotion_does_not_pass_over_a_promotion_under_way() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::Demote);
    w.cut();
    w.settle();
    w.nodes[ALPHA].stalled.insert("superblock");
    let promotion = w.command(ALPHA, FORCE);
    w.run_for(20);
    assert_eq!(w.refused(ALPHA, Command::Demote), "busy");
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    assert!(w.answer(ALPHA, promotion).is_some_and(Result::is_ok));
    w.must(ALPHA, Command::Demote);
    assert_eq!(w.role(ALPHA), Role::Secondary);
}

/// G24: a promotion that waits for the peer's word ends with a demotion.
#[test]
fn a_demotion_ends_a_promotion_that_waits() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    let promotion = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.must(ALPHA, Command::Demote);
    let answer = w.answer(ALPHA, promotion).cloned();
    assert!(matches!(&answer, Some(Err(refusal)) if refusal.reason == "given-up"), "{answer:?}");
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.settle();
    assert_eq!([w.role(ALPHA), w.role(BRAVO)], [Role::Secondary; 2]);
    w.must(BRAVO, PROMOTE);
}

/// G14: who withdrew lends nothing, also if it lacks nothing: the old disk may count it out.
#[test]
fn the_old_disk_is_not_current_beside_a_peer_that_withdrew() {
    let mut w = begun(Protocol::C);
    w.must(BRAVO, Command::Disconnect);
    w.settle();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.must(BRAVO, CONNECT);
    w.settle();
    let write = w.write(ALPHA, 5, 1, 2);
    w.settle();
    assert!(!w.done(ALPHA, write));
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    assert!(w.done(ALPHA, write));
    w.equal();
}

/// A demotion waits also for what an earlier session left unstable on the only copy.
#[test]
fn a_demotion_waits_for_what_an_earlier_session_wrote() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 2);
    w.blip();
    w.until("it is back", |w| peer(w, ALPHA).connection == Connection::Connected);
    w.run_for(1_000);
    let demotion = w.command(ALPHA, Command::Demote);
    w.run_for(1_000);
    assert!(w.answer(ALPHA, demotion).is_none(), "answered before it is stable");
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert!(w.answer(ALPHA, demotion).is_some_and(Result::is_ok));
}

/// G13: what a verify has found is on record before it has ended.
#[test]
fn what_a_verify_found_outlives_a_crash_of_both() {
    let mut w = begun(Protocol::C);
    plant(&mut w, BRAVO, 3_000, 7);
    w.command(ALPHA, Command::Verify { repair: false });
    w.until("found", |w| peer(w, ALPHA).verify_differing_blocks == 1);
    w.nodes[BRAVO].stalled.insert("digest");
    w.run_for(100);
    w.crash(BRAVO);
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.restart(BRAVO);
    w.settle();
    w.equal();
}

/// G24: a planned command does not make clients wait.
#[test]
fn a_disk_is_not_detached_where_the_primary_would_suspend() {
    let mut w = suspending();
    assert_eq!(w.refused(BRAVO, Command::DiskDetach), "would-suspend");
    w.nodes[BRAVO].medium.broken = true;
    w.write(ALPHA, 5, 1, 2);
    w.until("let go of", |w| w.status(BRAVO).disk == DiskState::Diskless);
    w.settle();
    let words = w.status(ALPHA).suspended;
    assert!(words.contains("disk attach"), "{words}");
}

/// G18: a word to discard is for the next meeting of the two copies, not for one after this copy was
/// served from.
#[test]
fn a_word_to_discard_ends_when_the_copy_is_lent() {
    for lent_before in [false, true] {
        let mut w = begun(Protocol::C);
        if lent_before {
            lose_disk_to_a_read(&mut w, ALPHA);
            w.settle();
        }
        w.cut();
        w.settle();
        w.must(BRAVO, Command::Connect { discard_my_data: true });
        if !lent_before {
            lose_disk_to_a_read(&mut w, ALPHA);
        }
        w.restore();
        w.settle();
        w.wrote(ALPHA, 5, 1, 2);
        flushed(&mut w, ALPHA);
        w.crash(ALPHA);
        w.cut();
        w.restart(ALPHA);
        w.settle();
        w.must(ALPHA, FORCE);
        w.wrote(ALPHA, 6, 1, 3);
        w.restore();
        w.settle();
        assert_eq!(stand_alone(&w), [true; 2]);
        assert!(peer(&w, ALPHA).connection_reason.contains("split brain"));
    }
}

/// G18: nor for one after it was the source for a primary.
#[test]
fn a_word_to_discard_ends_when_a_primary_is_brought_up_to_date_from_the_copy() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.cut();
    w.settle();
    w.must(BRAVO, Command::Connect { discard_my_data: true });
    w.must(ALPHA, Command::DiskAttach);
    w.must(BRAVO, Command::PauseSync);
    w.restore();
    w.until("it is the target", |w| w.status(ALPHA).suspended.is_empty());
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.crash(ALPHA);
    w.cut();
    w.restart(ALPHA);
    w.settle();
    w.must(ALPHA, FORCE);
    w.wrote(ALPHA, 6, 1, 3);
    w.restore();
    w.settle();
    assert_eq!(stand_alone(&w), [true; 2]);
}

/// G20: a demotion asks the session that came since for what is not stable.
#[test]
fn a_demotion_amid_a_meeting_ends() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.must(ALPHA, Command::PauseSync);
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.nodes[ALPHA].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 3);
    w.blip();
    w.nodes[ALPHA].stalled.insert("superblock");
    w.until("they meet", |w| peer(w, ALPHA).replication == Replication::Negotiating);
    w.run_for(50);
    let demotion = w.command(ALPHA, Command::Demote);
    w.run_for(20);
    w.nodes[ALPHA].stalled.remove("superblock");
    w.run_for(1_000);
    w.nodes[ALPHA].stalled.clear();
    w.must(ALPHA, Command::ResumeSync);
    w.settle();
    assert!(w.answer(ALPHA, demotion).is_some_and(Result::is_ok));
    w.equal();
}

/// G20: nor from the only copy, which was made stable as it was promoted.
#[test]
fn a_new_primary_that_wrote_nothing_has_all_stable() {
    for protocol in [Protocol::B, Protocol::C] {
        let mut w = begun(protocol);
        w.crash(ALPHA);
        w.until("ALPHA is away", |w| peer(w, BRAVO).connection == Connection::Connecting);
        w.must(BRAVO, FORCE);
        w.settle();
        lose_disk_to_a_read(&mut w, BRAVO);
        w.run_for(20);
        w.nodes[BRAVO].medium.broken = true;
        assert!(w.order(BRAVO, Command::DiskAttach).is_err());
        w.nodes[BRAVO].medium.broken = false;
        w.must(BRAVO, Command::DiskAttach);
        assert_eq!(w.status(BRAVO).disk, DiskState::UpToDate, "{protocol:?}");
    }
}

/// G4, G5: a lender that once said that it may have forgotten says nothing new when it forgets again.
#[test]
fn a_lender_that_forgets_a_second_time_is_noticed() {
    let mut w = begun(Protocol::C);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.wrote(ALPHA, 7, 1, 2);
    flushed(&mut w, ALPHA);
    w.settle();
    lose_power(&mut w, BRAVO);
    w.restart(BRAVO);
    w.settle();
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 7, 1, 3);
    let flush = w.flush(ALPHA);
    w.run_for(20);
    w.cut();
    w.run_for(20);
    fail_its_sync(&mut w, BRAVO);
    w.must(BRAVO, Command::DiskAttach);
    w.restore();
    w.settle();
    assert!(stand_alone(&w)[ALPHA]);
    assert!(!w.done(ALPHA, flush));
}

/// The sync that hangs fails, and the disk forgets what was not stable.
fn fail_its_sync(w: &mut World, node: usize) {
    w.nodes[node].medium.broken = true;
    w.nodes[node].stalled.clear();
    w.until("let go", |w| w.status(node).disk == DiskState::Diskless);
    w.run_for(20);
    w.nodes[node].medium.lose_unsynced();
    w.nodes[node].medium.broken = false;
}

/// G14, G19: the source of a primary's resync is current by its own record, and then its flush fails.
#[test]
fn a_source_whose_flush_failed_needs_a_word() {
    let rate_max_bytes = 1 << 20;
    let mut w = World::running(Setup { rate_max_bytes, device_blocks: 4096, ..Setup::default() });
    w.wrote(ALPHA, 0, 1000, 1);
    w.settle();
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 0, 1000, 2);
    w.settle();
    w.must(ALPHA, Command::DiskAttach);
    w.until("a target", |w| peer(w, ALPHA).replication == Replication::SyncTarget);
    w.run_for(100);
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 2000, 1, 3);
    w.flush(ALPHA);
    w.run_for(20);
    w.cut();
    w.run_for(20);
    fail_its_sync(&mut w, BRAVO);
    w.must(BRAVO, Command::DiskAttach);
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
}

/// G5: a promotion that was granted and then given up leaves the former primary the one to go by.
#[test]
fn a_promotion_given_up_makes_no_source_of_the_granter() {
    let mut w = begun(Protocol::C);
    w.wrote(ALPHA, 9, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    plant(&mut w, BRAVO, 9, 7);
    w.must(ALPHA, Command::Verify { repair: false });
    w.settle();
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.must(ALPHA, Command::Demote);
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.settle();
    w.blip();
    w.settle();
    w.equal();
    w.holds(BRAVO, 9, 1, 1);
}

/// The process of the lender dies with a write that no sync has covered, and the next one serves it.
fn it_dies_unsynced_and_serves_on(w: &mut World) {
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 7, 1, 2);
    w.run_for(20);
    w.crash(BRAVO);
    w.nodes[BRAVO].stalled.clear();
    w.restart(BRAVO);
    w.settle();
    assert_eq!(stand_alone(w), [false; 2]);
    assert_eq!(reads(w, ALPHA, 7, 1), [2]);
}

/// G20: under B the process of a lender dies, and its disk keeps what it was given.
#[test]
fn a_lender_whose_process_died_is_not_refused() {
    let mut w = begun(Protocol::B);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    it_dies_unsynced_and_serves_on(&mut w);
}

/// G24: whoever disconnects in the middle of a promotion gives it up, and the peer hears that.
#[test]
fn a_disconnect_gives_a_promotion_up() {
    let mut w = begun(Protocol::C);
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    let promote = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.must(ALPHA, Command::Disconnect);
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.settle();
    assert!(w.answer(ALPHA, promote).is_some_and(|it| it.is_err()));
    assert_ne!(w.status(BRAVO).disk, DiskState::Outdated);
}

/// G20: a new process of a lender that once forgot something has forgotten nothing more.
#[test]
fn a_lender_that_starts_anew_has_not_forgotten_again() {
    let mut w = begun(Protocol::C);
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 6, 1, 1);
    w.run_for(20);
    fail_its_sync(&mut w, BRAVO);
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    it_dies_unsynced_and_serves_on(&mut w);
}
