//! Owns the stories of bugs that were found and mended, each named by what must hold.

use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const FORCE: Command = Command::Promote { force: true };
const PROMOTE: Command = Command::Promote { force: false };
const CONNECT: Command = Command::Connect { discard_my_data: false };

pub fn under(protocol: Protocol) -> World {
    World::running(Setup { protocol, ..Setup::default() })
}

/// The disk fails a read, and only that.
pub fn lose_disk_to_a_read(w: &mut World, node: usize) {
    w.nodes[node].medium.broken = true;
    w.read(node, 999 * 4096, 4096);
    w.until("let go of", |w| w.status(node).disk == DiskState::Diskless);
    w.nodes[node].medium.broken = false;
}

/// What a power cut takes of the disk's own memory.
fn lose_power(w: &mut World, node: usize) {
    w.nodes[node].medium.lose_unsynced();
    w.power_cut(node);
}

pub fn flushed(w: &mut World, node: usize) {
    let id = w.flush(node);
    w.until("flushed", |w| w.done(node, id));
}

pub fn stand_alone(w: &World) -> [bool; 2] {
    [ALPHA, BRAVO].map(|node| w.status(node).peers[0].connection == Connection::StandAlone)
}

/// What a read that was answered found.
pub fn stamp_read(w: &World, node: usize, id: RequestId, block: u64) -> Option<u64> {
    let bytes = w.reply(node, id).unwrap().as_ref().unwrap();
    crate::medium::stamp_of(bytes, block)
}

/// G1 under B: the client was told when the write was in the peer's memory.
#[test]
pub fn under_b_what_was_received_is_in_the_copy_after_a_forced_promotion() {
    // Held back behind a flush; waiting for its range.
    for stalled in ["sync", "store"] {
        let mut w = under(Protocol::B);
        w.settle();
        w.nodes[BRAVO].stalled.insert(stalled);
        w.wrote(ALPHA, 4, 1, 9);
        if stalled == "sync" {
            flushed(&mut w, ALPHA);
        }
        w.wrote(ALPHA, 4, 2, 10);
        w.run_for(20);
        w.holds(BRAVO, 5, 1, 0);
        w.crash(ALPHA);
        w.run_for(20);
        let promote = w.command(BRAVO, FORCE);
        w.run_for(1_000);
        assert!(w.answer(BRAVO, promote).is_none(), "{stalled}: it serves what it has not got");
        w.nodes[BRAVO].stalled.clear();
        w.until("promoted", |w| w.answer(BRAVO, promote).is_some_and(Result::is_ok));
        w.holds(BRAVO, 4, 2, 10);
        w.restart(ALPHA);
        w.settle();
        w.equal();
    }
}

/// G7: the mark of a block stays until the block is there, whatever was flushed meanwhile.
#[test]
fn a_checksum_resync_into_a_primary_copies_what_differs() {
    let mut w = World::running(Setup { checksum: true, ..Setup::default() });
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 4, 2);
    w.settle();
    w.nodes[BRAVO].stalled.insert("fetch");
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(20);
    w.wrote(ALPHA, 500, 1, 3);
    w.nodes[BRAVO].stalled.clear();
    w.until("compared", |w| w.sent.contains_key(&(ALPHA, "HashAnswer")));
    // A barrier comes between the hash and the block.
    w.hold_link(true);
    w.run_for(3_000);
    w.hold_data(BRAVO, true);
    w.hold_link(false);
    w.run_for(3_000);
    w.hold_data(BRAVO, false);
    w.settle();
    w.holds(ALPHA, 5, 4, 2);
    w.equal();
}

/// G1, G19: nobody wrote without the disk, so nobody has newer data.
#[test]
fn the_last_copy_is_current_when_its_disk_is_back() {
    let mut w = World::running(Setup::default());
    w.cut();
    w.run_for(100);
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].stalled.insert("store");
    let running = w.write(ALPHA, 6, 1, 3);
    w.run_for(20);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.nodes[ALPHA].stalled.clear();
    let held = w.write(ALPHA, 7, 1, 4);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, running) && !w.done(ALPHA, held), "no copy is in reach");
    w.must(ALPHA, Command::DiskAttach);
    w.until("answered", |w| w.done(ALPHA, running) && w.done(ALPHA, held));
    assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
    w.restore();
    w.settle();
    for node in [ALPHA, BRAVO] {
        w.holds(node, 5, 1, 2);
        w.holds(node, 6, 1, 3);
        w.holds(node, 7, 1, 4);
    }
    w.equal();
}

/// G1, G4: who has what the marks stand for is known after a clean end, too.
#[test]
fn a_demoted_primary_with_marks_is_the_source() {
    let primary = BRAVO; // The other one has the smaller id.
    for protocol in [Protocol::A, Protocol::C] {
        let mut w = under(protocol);
        w.must(ALPHA, Command::Demote);
        w.run_for(5);
        w.must(primary, PROMOTE);
        w.settle();
        w.hold_link(protocol == Protocol::A);
        w.wrote(primary, 5, 1, 2);
        if protocol == Protocol::A {
            w.cut();
            w.hold_link(false);
        } else {
            lose_power(&mut w, ALPHA);
        }
        w.run_for(20);
        flushed(&mut w, primary);
        w.must(primary, Command::Stop);
        w.power_cut(primary);
        w.restore();
        w.restart(primary);
        if protocol == Protocol::C {
            w.restart(ALPHA);
        }
        w.settle();
        w.equal();
        w.holds(ALPHA, 5, 1, 2);
    }
}

/// G20: a flush waits for a record or a peer, and both are looked at when they come.
#[test]
fn a_flush_is_answered_when_the_peer_dies_under_load() {
    let mut w = World::running(Setup::default());
    w.hold_link(true);
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(5);
    let flush = w.flush(ALPHA);
    w.run_for(5);
    w.hold_link(false);
    w.cut();
    w.run_for(20);
    assert!(w.done(ALPHA, write));
    assert!(w.done(ALPHA, flush), "the generation is on record");
    w.restore();
    w.settle();
    w.equal();
}

/// G20: nothing else need happen for it.
#[test]
fn a_suspended_flush_is_answered_when_the_peer_is_back() {
    let mut w = World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() });
    w.settle();
    w.cut();
    let flush = w.flush(ALPHA);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, flush));
    w.restore();
    w.settle();
    assert!(w.done(ALPHA, flush));
    w.equal();
}

/// G1, G7: what was read before the primary's write comes after it, and is older.
#[test]
fn an_old_block_of_a_resync_never_goes_over_a_write_whatever_the_role() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 2, 2);
    w.settle();
    w.nodes[BRAVO].stalled.insert("fetch");
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(20);
    w.hold_data(BRAVO, true);
    w.nodes[BRAVO].stalled.clear();
    w.until("on its way", |w| w.sent.contains_key(&(BRAVO, "ResyncData")));
    w.wrote(ALPHA, 5, 1, 3);
    w.must(ALPHA, Command::Demote);
    w.hold_data(BRAVO, false);
    w.settle();
    w.holds(ALPHA, 5, 1, 3);
    w.holds(ALPHA, 6, 1, 2);
    w.equal();
}

/// G4: the peer's copy is the only one.
#[test]
fn a_flush_of_a_diskless_primary_waits_for_the_peers_disk() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = under(protocol);
        w.must(ALPHA, Command::DiskDetach);
        w.run_for(20);
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 5, 1, 2);
        let flush = w.flush(ALPHA);
        w.run_for(1_000);
        assert!(!w.done(ALPHA, flush), "{protocol:?}");
        w.nodes[BRAVO].stalled.clear();
        w.until("flushed", |w| w.done(ALPHA, flush));
        w.nodes[BRAVO].medium.lose_unsynced();
        w.holds(BRAVO, 5, 1, 2);
        w.must(ALPHA, Command::DiskAttach);
        w.settle();
        w.equal();
    }
}

/// G4: a session that ended made nothing stable.
#[test]
fn a_flush_of_a_diskless_primary_covers_what_was_written_before_a_reconnect() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = under(protocol);
        w.must(ALPHA, Command::DiskDetach);
        w.settle();
        w.wrote(ALPHA, 5, 1, 2);
        w.run_for(1);
        w.blip();
        w.run_for(5);
        flushed(&mut w, ALPHA);
        w.nodes[BRAVO].medium.lose_unsynced();
        w.holds(BRAVO, 5, 1, 2);
        w.must(ALPHA, Command::DiskAttach);
        w.settle();
        w.equal();
    }
}

/// G18: one took its disk back in a generation that the other had begun for it.
#[test]
fn both_writing_alone_after_a_disk_came_back_is_a_split_brain() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.lose(BRAVO, "GenerationHeld");
    lose_disk_to_a_read(&mut w, ALPHA);
    w.until("lost", |w| w.trapped() > 0);
    w.must(ALPHA, Command::DiskAttach);
    w.wrote(ALPHA, 10, 1, 2);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 11, 1, 3);
    w.must(BRAVO, Command::Demote);
    w.restore();
    w.settle();
    assert_eq!(stand_alone(&w), [true, true]);
    w.holds(ALPHA, 10, 1, 2);
    w.holds(BRAVO, 11, 1, 3);
}

/// Both are primary, out of each other's sight, each with a block that the other lacks.
fn both_wrote_alone() -> World {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.settle();
    w.wrote(ALPHA, 10, 1, 2);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 11, 1, 3);
    w
}

/// G14, G18: a primary that wrote alone and lost its disk may get it back.
#[test]
fn a_split_brain_with_a_diskless_primary_is_kept_on_record() {
    let mut w = both_wrote_alone();
    w.must(ALPHA, Command::Demote);
    lose_disk_to_a_read(&mut w, BRAVO);
    w.restore();
    w.settle();
    let reason = &w.status(BRAVO).peers[0].connection_reason;
    assert!(reason.contains("split brain") && reason.contains("disk attach r0"), "{reason}");
    assert_eq!(stand_alone(&w), [true, true]);
    assert_eq!(w.refused(ALPHA, PROMOTE), "undecided");
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.settle();
    assert_eq!(w.refused(ALPHA, PROMOTE), "undecided");
    // As the words say.
    w.must(BRAVO, Command::Demote);
    w.must(BRAVO, Command::DiskAttach);
    let connect = |discard_my_data| Command::Connect { discard_my_data };
    w.settle();
    w.must(ALPHA, connect(false));
    w.must(BRAVO, connect(false));
    w.settle();
    assert_eq!(stand_alone(&w), [true, true]);
    w.must(ALPHA, connect(true));
    w.must(BRAVO, connect(false));
    w.settle();
    w.equal();
    w.holds(ALPHA, 11, 1, 3);
    w.must(ALPHA, PROMOTE);
}

/// What was forgotten was the operator's to choose.
#[test]
fn invalidate_on_both_sides_ends_a_split_brain() {
    let mut w = both_wrote_alone();
    w.restore();
    w.settle();
    for node in [ALPHA, BRAVO] {
        w.must(node, Command::Demote);
        w.must(node, Command::Invalidate);
    }
    w.crash(BRAVO);
    w.must(ALPHA, Command::InitFrom);
    w.settle();
    w.must(ALPHA, PROMOTE);
}

/// G20: there is nobody left to wait for.
#[test]
fn congestion_ends_with_the_peers_disk() {
    let mut w = World::running(Setup {
        protocol: Protocol::A,
        congestion_bytes: 64 << 10,
        ..Setup::default()
    });
    w.nodes[BRAVO].stalled.insert("store");
    let ids: Vec<_> = (0..40).map(|i| w.write(ALPHA, i * 8, 4, i + 1)).collect();
    w.run_for(1_000);
    assert!(!ids.iter().all(|id| w.done(ALPHA, *id)), "it is congested");
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
    assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G19: the peer has all that the primary serves.
#[test]
fn a_disk_that_fails_again_in_its_resync_leaves_the_primary_serving() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 2, 2);
    w.nodes[BRAVO].stalled.insert("fetch");
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(500);
    assert_eq!(w.status(ALPHA).peers[0].replication, Replication::SyncTarget);
    w.nodes[ALPHA].medium.broken = true;
    let write = w.write(ALPHA, 7, 1, 3);
    w.run_for(20);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert_eq!(stand_alone(&w), [false, false]);
    assert!(w.done(ALPHA, write));
    w.wrote(ALPHA, 8, 1, 4);
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(ALPHA, 7, 1, 3);
}

/// G5: under A and B the client was told before the peer had stored it.
#[test]
fn a_diskless_primary_reads_what_it_wrote() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.nodes[BRAVO].stalled.insert("store");
        w.wrote(ALPHA, 5, 1, 2);
        lose_disk_to_a_read(&mut w, ALPHA);
        let read = w.read(ALPHA, 5 * 4096, 4096);
        w.run_for(1_000);
        assert!(w.reply(ALPHA, read).is_none(), "{protocol:?}");
        w.nodes[BRAVO].stalled.clear();
        w.until("read", |w| w.reply(ALPHA, read).is_some());
        assert_eq!(stamp_read(&w, ALPHA, read, 5), Some(2));
    }
}

/// G14: who has been shown newer data does not serve older.
#[test]
fn a_primary_that_meets_newer_data_stops_serving() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.crash(ALPHA);
    w.run_for(20);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 5, 1, 2);
    w.must(BRAVO, Command::Demote);
    w.cut();
    w.restart(ALPHA);
    w.settle();
    w.must(ALPHA, FORCE);
    w.restore();
    w.settle();
    assert_eq!(w.status(ALPHA).disk, DiskState::Outdated);
    let write = w.write(ALPHA, 6, 1, 3);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, write));
    w.must(ALPHA, Command::Demote);
    w.cut();
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 2);
}

/// G4, G5: what was acknowledged and not flushed may have gone with the disk's own memory.
#[test]
fn a_disk_that_failed_a_write_and_then_a_flush_is_not_current() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.hold_link(true);
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].stalled.extend(["store", "sync"]);
    w.write(ALPHA, 6, 1, 3);
    let flush = w.flush(ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.remove("store");
    w.run_for(20);
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    assert_ne!(w.status(ALPHA).disk, DiskState::UpToDate);
    assert!(!w.done(ALPHA, flush), "what it covers is gone");
}

/// G8, G13: a block that a diskless primary wrote is marked before it is stored.
#[test]
fn what_a_diskless_primary_sent_is_never_stored_unmarked() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.must(ALPHA, Command::DiskDetach);
        w.settle();
        w.nodes[BRAVO].stalled.insert("store");
        w.write(ALPHA, 5, 1, 2);
        w.run_for(20);
        w.write(ALPHA, 5, 3, 3);
        w.run_for(20);
        w.crash(ALPHA);
        w.run_for(20);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        w.restart(ALPHA);
        w.settle();
        w.equal();
    }
}

/// G20: the peer's record is what counts again.
#[test]
fn a_primary_whose_disk_fails_as_it_is_attached_goes_on_with_the_peer() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].stalled.insert("superblock");
    let attach = w.command(ALPHA, Command::DiskAttach);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.until("answered", |w| w.answer(ALPHA, attach).is_some());
    assert!(w.answer(ALPHA, attach).is_some_and(Result::is_err));
    w.restore();
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G24: the peer has the older data, and the words say what gets the newer one back.
#[test]
fn a_diskless_primary_that_meets_an_older_copy_names_its_own_disk() {
    let mut w = World::running(Setup::default());
    w.cut();
    w.run_for(20);
    w.wrote(ALPHA, 5, 1, 2);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.restore();
    w.settle();
    let words = w.status(ALPHA).peers[0].connection_reason.clone();
    assert!(words.contains("the disk of alpha has it, run `twinblk disk attach r0`"), "{words}");
    w.must(ALPHA, Command::DiskAttach);
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G12: what was not compared is not called equal.
#[test]
fn verify_counts_no_block_that_a_congested_peer_did_not_compare() {
    let mut w = World::running(Setup {
        protocol: Protocol::A,
        on_congestion: OnCongestion::Bitmap,
        congestion_bytes: 64 << 10,
        ..Setup::default()
    });
    w.settle();
    let planted = Some(crate::medium::fill(9, 30_000));
    w.nodes[BRAVO].medium.write(30_000, planted, true);
    w.command(ALPHA, Command::Verify { repair: false });
    w.run_for(1);
    w.hold_link(true);
    for place in 0..40 {
        w.write(ALPHA, place * 8, 4, 1 + place);
    }
    w.run_for(100);
    w.hold_link(false);
    w.settle();
    let peer = w.status(ALPHA).peers[0].clone();
    let whole = peer.verify_done_blocks == w.setup.device_blocks;
    assert!(!whole || peer.verify_differing_blocks == 1, "{peer:?}");
    w.must(ALPHA, Command::Verify { repair: true });
    w.settle();
    w.equal();
}

/// G24: an agreement that could not be kept is not counted as one.
#[test]
fn a_promotion_is_granted_after_one_that_the_peers_disk_failed() {
    let mut w = World::new(Setup::default());
    w.both_empty();
    w.nodes[BRAVO].stalled.insert("superblock");
    let first = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert!(w.answer(ALPHA, first).is_some());
    w.must(ALPHA, PROMOTE);
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G4, G5: marks without a generation say as well that the peer lacks something.
#[test]
fn a_diskless_primary_does_not_serve_from_a_copy_that_lacks_what_was_acknowledged() {
    for protocol in [Protocol::A, Protocol::C] {
        let mut w = under(protocol);
        w.settle();
        w.hold_link(protocol == Protocol::A);
        w.wrote(ALPHA, 5, 1, 2);
        if protocol == Protocol::A {
            w.cut();
            w.hold_link(false);
        } else {
            lose_power(&mut w, BRAVO);
        }
        w.run_for(20);
        flushed(&mut w, ALPHA);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.restore();
        if protocol == Protocol::C {
            w.restart(BRAVO);
        }
        w.settle();
        let read = w.read(ALPHA, 5 * 4096, 4096);
        w.run_for(1_000);
        assert!(w.reply(ALPHA, read).is_none(), "{protocol:?}: it has gone back in time");
        w.must(ALPHA, Command::DiskAttach);
        for node in [ALPHA, BRAVO] {
            w.must(node, CONNECT);
        }
        w.settle();
        assert_eq!(stamp_read(&w, ALPHA, read, 5), Some(2));
        w.equal();
        w.holds(BRAVO, 5, 1, 2);
    }
}

/// G5, G24: a disk that is taken back is worth nothing before its record says what it lacks.
#[test]
fn a_disk_that_is_being_attached_is_not_current_whenever_the_link_is_lost() {
    for steps in 0.. {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 1);
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 5, 1, 2);
        w.settle();
        let attach = w.command(ALPHA, Command::DiskAttach);
        w.steps(steps);
        if w.status(ALPHA).peers[0].replication == Replication::SyncTarget {
            assert!(steps > 5, "all of the attachment was tried");
            return;
        }
        w.cut();
        for _ in 0..40 {
            assert_ne!(w.status(ALPHA).disk, DiskState::UpToDate, "cut after {steps}");
            w.step();
        }
        assert!(w.answer(ALPHA, attach).is_some());
        w.restore();
        w.settle();
        w.equal();
        w.holds(ALPHA, 5, 1, 2);
    }
}

/// G5: the peer's disk failed and came back without what it had acknowledged, in one session.
#[test]
fn a_diskless_primary_does_not_go_on_with_a_disk_that_failed_and_came_back() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 1, 2);
    w.run_for(1);
    w.nodes[BRAVO].medium.broken = true;
    let flush = w.flush(ALPHA);
    w.until("let go", |w| w.status(BRAVO).disk == DiskState::Diskless);
    w.nodes[BRAVO].medium.lose_unsynced();
    w.nodes[BRAVO].medium.broken = false;
    w.settle();
    let read = w.read(ALPHA, 5 * 4096, 4096);
    w.command(BRAVO, Command::DiskAttach);
    for _ in 0..60 {
        w.step();
        assert_ne!(w.status(ALPHA).peers[0].replication, Replication::Established);
    }
    assert!(!w.done(ALPHA, read), "that copy lacks what was acknowledged");
    assert!(!w.done(ALPHA, flush));
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
}

/// G5: the peer lost power while this primary still had a disk, and then that failed too.
#[test]
fn a_primary_that_loses_its_disk_remembers_what_the_peer_lost_before() {
    for steps in 0..40 {
        let mut w = World::running(Setup::default());
        w.settle();
        w.wrote(ALPHA, 5, 1, 2);
        lose_power(&mut w, BRAVO);
        w.nodes[BRAVO].stalled.insert("superblock");
        w.restart(BRAVO);
        w.settle();
        w.nodes[BRAVO].stalled.clear();
        w.until("met", |w| w.status(ALPHA).peers[0].replication == Replication::Negotiating);
        w.steps(steps);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.settle();
        let read = w.read(ALPHA, 5 * 4096, 4096);
        w.settle();
        if w.done(ALPHA, read) {
            assert_eq!(stamp_read(&w, ALPHA, read, 5), Some(2), "disk lost after {steps}");
        } else {
            // As the words say.
            w.must(ALPHA, Command::Demote);
        }
        w.must(ALPHA, Command::DiskAttach);
        w.must(ALPHA, CONNECT);
        w.must(BRAVO, CONNECT);
        w.settle();
        w.equal();
    }
}

/// G2, G5: while a disk comes back and is brought up to date, the peer's copy is the only one.
#[test]
fn what_a_primary_acknowledges_while_its_disk_comes_back_is_on_the_peer() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for steps in 0..60 {
            let mut w = under(protocol);
            w.wrote(ALPHA, 5, 1, 1);
            w.must(ALPHA, Command::DiskDetach);
            w.wrote(ALPHA, 5, 1, 2);
            w.settle();
            w.command(ALPHA, Command::DiskAttach);
            w.steps(steps);
            let write = w.write(ALPHA, 5, 1, 3);
            let flush = w.flush(ALPHA);
            w.until("written", |w| w.done(ALPHA, write));
            if w.done(ALPHA, flush) {
                w.blip();
            }
            w.until("flushed", |w| w.done(ALPHA, flush));
            w.settle();
            w.equal();
            w.holds(ALPHA, 5, 1, 3);
        }
    }
}

/// G20: what a diskless primary is owed by its peer is settled, whatever the protocol.
#[test]
fn writes_that_wait_for_the_peer_end_when_the_disk_comes_back() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = under(protocol);
        w.must(ALPHA, Command::DiskDetach);
        w.settle();
        w.nodes[BRAVO].stalled.insert("store");
        let ids: Vec<_> = (0..20).map(|i| w.write(ALPHA, 3 * i, 2, 1 + i)).collect();
        w.run_for(5);
        w.command(ALPHA, Command::DiskAttach);
        w.run_for(1_000);
        w.nodes[BRAVO].stalled.clear();
        w.until("all written", |w| ids.iter().all(|id| w.done(ALPHA, *id)));
        w.settle();
        w.equal();
        w.must(ALPHA, Command::Demote);
    }
}

/// G9, G24: a meeting without a disk is none that a disk must remember.
#[test]
fn a_disk_that_was_away_over_a_reconnect_is_known_when_it_comes_back() {
    for served in [true, false] {
        for node in [ALPHA, BRAVO] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 200, 1);
            w.settle();
            if !served {
                w.must(ALPHA, Command::Demote);
                w.settle();
            }
            w.must(node, Command::DiskDetach);
            w.settle();
            w.blip();
            w.settle();
            if served {
                w.wrote(ALPHA, 7, 3, 2);
            }
            w.must(node, Command::DiskAttach);
            w.settle();
            w.equal();
            let copied = w.status(ALPHA).peers[0].last_resync_blocks;
            let hot = if served { 1024 } else { 0 };
            assert!(copied <= hot, "{copied} blocks for 3 that differ");
        }
    }
}

/// G18: to give up one's data is said for one meeting.
#[test]
fn discard_my_data_does_not_outlive_the_meeting_it_was_said_for() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.must(ALPHA, Command::Disconnect);
    w.wrote(ALPHA, 5, 1, 2);
    w.must(ALPHA, Command::Demote);
    // It is the newer one, and so it gives up nothing.
    w.must(ALPHA, Command::Connect { discard_my_data: true });
    w.must(BRAVO, CONNECT);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
    w.must(ALPHA, PROMOTE);
    w.settle();
    w.cut();
    w.wrote(ALPHA, 6, 1, 3);
    w.must(ALPHA, Command::Demote);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 6, 1, 4);
    w.restore();
    w.settle();
    assert_eq!(stand_alone(&w), [true, true]);
    w.holds(ALPHA, 6, 1, 3);
}

/// G22: a disk fails a write under a demotion, while another write waits for the log.
#[test]
fn a_write_that_fails_while_demoting_ends_once() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.nodes[ALPHA].stalled.insert("store");
    let ids: Vec<_> = (0..20).map(|i| w.write(ALPHA, i * 1024, 1, 1 + i)).collect();
    w.run_for(100);
    let demote = w.command(ALPHA, Command::Demote);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some());
    w.settle();
    assert!(ids.iter().all(|id| w.reply(ALPHA, *id).is_some()));
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G22: each one that is given up lets the next one in.
#[test]
fn thousands_of_overlapping_writes_are_given_up_by_a_demotion() {
    let mut w = World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() });
    w.wrote(ALPHA, 5, 1, 1);
    w.settle();
    w.cut();
    w.run_for(20);
    let ids: Vec<_> = (0..4000).map(|i| w.write(ALPHA, 5, 1, 2 + i)).collect();
    w.run_for(20);
    w.must(ALPHA, Command::Demote);
    assert!(ids.iter().all(|id| w.reply(ALPHA, *id).is_some()));
    w.restore();
    w.settle();
    w.equal();
}

/// G20: the link is lost while the peer looks whether all is zero.
#[test]
fn an_offer_to_begin_with_zeroes_ends_with_its_link() {
    for blip in [true, false] {
        let mut w = World::new(Setup::default());
        w.settle();
        w.nodes[BRAVO].stalled.insert("scan");
        let init = w.command(ALPHA, Command::InitEmpty);
        w.run_for(20);
        if blip {
            w.blip();
        } else {
            w.command(ALPHA, Command::InitFrom);
        }
        w.run_for(1_000);
        assert!(w.answer(ALPHA, init).is_some_and(Result::is_err), "its link is gone");
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        if blip {
            w.must(ALPHA, Command::InitEmpty);
        }
        w.settle();
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 5, 1, 1);
        w.settle();
        w.equal();
    }
}

/// G9: what was written for a peer without a disk is forgotten when the peer has it.
#[test]
fn a_secondary_that_served_a_diskless_primary_restarts_without_a_resync() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 40, 1);
    w.settle();
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    let before = w.sent.get(&(ALPHA, "SyncStart")).copied();
    w.must(BRAVO, Command::Stop);
    w.crash(BRAVO);
    w.settle();
    w.restart(BRAVO);
    w.settle();
    w.equal();
    assert_eq!(w.sent.get(&(ALPHA, "SyncStart")).copied(), before, "nothing to resync");
}

/// G8: a resync from here ends while this node becomes primary.
#[test]
fn a_primary_that_was_a_source_meanwhile_recovers_what_was_hot() {
    for steps in 0..60 {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 40, 1);
        w.settle();
        w.cut();
        w.wrote(ALPHA, 7, 9, 2);
        w.must(ALPHA, Command::Demote);
        w.restore();
        w.until("a source", |w| w.status(ALPHA).peers[0].replication == Replication::SyncSource);
        w.steps(steps);
        // The end of the resync comes while the role is on its way to the disk.
        let promote = w.command(ALPHA, PROMOTE);
        w.nodes[ALPHA].stalled.insert("superblock");
        w.run_for(20);
        w.nodes[ALPHA].stalled.clear();
        w.settle();
        assert!(w.answer(ALPHA, promote).is_some_and(Result::is_ok), "{steps}");
        w.nodes[BRAVO].stalled.insert("store");
        for place in 0..8 {
            w.write(ALPHA, 100 + place, 1, 10 + place);
        }
        w.run_for(1);
        w.crash(ALPHA);
        w.nodes[BRAVO].pending.clear();
        w.crash(BRAVO);
        w.nodes[BRAVO].stalled.clear();
        w.restart(ALPHA);
        w.restart(BRAVO);
        w.settle();
        w.equal();
    }
}

/// G20: under A and B a flush does not wait for the peer, however far behind its disk is.
#[test]
fn any_number_of_flushes_are_ahead_of_a_slow_peer() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("sync");
        for place in 0..5_000 {
            w.wrote(ALPHA, place, 1, 1 + place);
            flushed(&mut w, ALPHA);
        }
        assert_eq!(w.status(ALPHA).peers[0].connection, Connection::Connected);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        w.equal();
        assert_eq!(w.sent.get(&(ALPHA, "SyncStart")), None, "the link was never lost");
    }
}

/// F12: a node that starts without its disk learns the size of a new one from its peer.
#[test]
fn a_new_disk_is_laid_out_for_the_size_that_the_peer_has() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 4, 1);
    w.settle();
    w.crash(BRAVO);
    w.nodes[BRAVO].medium.broken = true;
    w.restart(BRAVO);
    w.settle();
    assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskReplace);
    assert_eq!(w.laid_out, Some(w.status(ALPHA).device_blocks));
    w.settle();
    w.equal();
}

/// G19: what the peer said of its disk before that failed may come after the word of the failure.
#[test]
fn a_late_word_of_a_disk_that_failed_is_not_believed() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 40, 1);
    w.restore();
    w.until("a target", |w| w.status(BRAVO).peers[0].replication == Replication::SyncTarget);
    w.until("up to date", |w| w.status(BRAVO).disk == DiskState::UpToDate);
    w.hold_data(BRAVO, true);
    w.nodes[BRAVO].medium.broken = true;
    w.write(ALPHA, 6, 1, 2);
    w.until("failed", |w| w.status(ALPHA).peers[0].disk == Some(DiskState::Failed));
    w.hold_data(BRAVO, false);
    for _ in 0..60 {
        w.step();
        assert_ne!(w.status(ALPHA).peers[0].replication, Replication::Established);
    }
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G2: what the old primary flushed, and its peer only received, survives the peer's loss of power
/// once that is primary by force.
#[test]
fn under_a_and_b_a_new_primary_keeps_through_a_power_cut_what_the_old_one_flushed() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.lose(ALPHA, "Barrier");
        w.wrote(ALPHA, 5, 1, 7);
        flushed(&mut w, ALPHA);
        w.crash(ALPHA);
        w.run_for(20);
        w.must(BRAVO, FORCE);
        lose_power(&mut w, BRAVO);
        w.restart(BRAVO);
        w.run_for(1_000);
        w.holds(BRAVO, 5, 1, 7);
    }
}

/// G11: a disk that cannot make stable what it holds is no primary's.
#[test]
fn a_promotion_fails_with_the_sync_before_it() {
    let mut w = under(Protocol::B);
    w.settle();
    w.wrote(ALPHA, 5, 1, 7);
    w.crash(ALPHA);
    w.run_for(20);
    w.nodes[BRAVO].stalled.insert("sync");
    let promote = w.command(BRAVO, FORCE);
    w.run_for(100);
    assert!(w.answer(BRAVO, promote).is_none(), "not before it is stable");
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.until("an answer", |w| w.answer(BRAVO, promote).is_some());
    assert_eq!(w.answer(BRAVO, promote).unwrap().as_ref().unwrap_err().reason, "disk-failed");
    assert_eq!(w.role(BRAVO), Role::Secondary);
}
