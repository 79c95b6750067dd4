//! Owns the stories of disks and links that are lost at odd moments, which neither the field's suite
//! nor a world of the simulator comes to. Must never judge by what a core says of itself alone.

use crate::found::{flushed, lose_disk_to_a_read, stamp_read, stand_alone, under};
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const FORCE: Command = Command::Promote { force: true };
const PROMOTE: Command = Command::Promote { force: false };
const CONNECT: Command = Command::Connect { discard_my_data: false };

/// What is held back fails, and with it the disk, which is sound again after that.
fn fails(w: &mut World, node: usize) {
    w.nodes[node].medium.broken = true;
    w.nodes[node].stalled.clear();
    w.until("let go of", |w| w.status(node).disk == DiskState::Diskless);
    w.run_for(20);
    w.nodes[node].medium.broken = false;
}

/// Begins to attach the disk, up to the record that it may be used.
fn begins_to_attach(w: &mut World, node: usize) -> CommandId {
    w.nodes[node].stalled.insert("superblock");
    let attach = w.command(node, Command::DiskAttach);
    w.run_for(20);
    assert!(w.answer(node, attach).is_none());
    attach
}

fn refused_attach(w: &mut World, node: usize, attach: CommandId) {
    fails(w, node);
    w.until("answered", |w| w.answer(node, attach).is_some());
    assert!(w.answer(node, attach).is_some_and(Result::is_err));
}

/// G18: the record failed with the disk, and the word of the meeting did not.
#[test]
fn a_split_brain_that_could_not_be_recorded_is_known_when_the_disk_is_back() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.settle();
    w.wrote(ALPHA, 10, 1, 2);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 11, 1, 3);
    for node in [ALPHA, BRAVO] {
        w.must(node, Command::Demote);
    }
    w.nodes[BRAVO].stalled.insert("superblock");
    w.restore();
    w.until("met", |w| stand_alone(w) == [true, true]);
    fails(&mut w, BRAVO);
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    assert_eq!(w.refused(BRAVO, PROMOTE), "undecided");
}

/// G20: the session waits for the disk, and goes on with it.
#[test]
fn a_session_that_begins_while_the_disk_is_opened_goes_on_with_it() {
    let mut w = World::running(Setup::default());
    w.must(BRAVO, Command::DiskDetach);
    w.wrote(ALPHA, 5, 1, 2);
    w.settle();
    w.nodes[BRAVO].stalled.insert("open");
    let attach = w.command(BRAVO, Command::DiskAttach);
    w.blip();
    w.run_for(100);
    w.nodes[BRAVO].stalled.clear();
    w.until("attached", |w| w.answer(BRAVO, attach).is_some_and(Result::is_ok));
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G20: the peer has been the only copy all along.
#[test]
fn a_diskless_primary_whose_disk_fails_as_it_is_attached_goes_on_with_the_peer() {
    let mut w = World::running(Setup::default());
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    w.wrote(ALPHA, 5, 1, 2);
    let attach = begins_to_attach(&mut w, ALPHA);
    refused_attach(&mut w, ALPHA, attach);
    w.wrote(ALPHA, 6, 1, 3);
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 1, 2);
    w.holds(ALPHA, 6, 1, 3);
}

/// G1: nobody has it, so nobody says so.
#[test]
fn a_write_that_waits_for_the_log_of_the_last_disk_is_not_acknowledged_without_it() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.settle();
    w.nodes[BRAVO].stalled.insert("log");
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(20);
    fails(&mut w, BRAVO);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, write));
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    // What the disk may have lost is for the operator to give up, as the words say.
    let words = w.status(ALPHA).peers[0].connection_reason.clone();
    assert!(words.contains("`twinblk demote r0` on alpha"), "{words}");
    w.must(ALPHA, Command::Demote);
    assert!(w.reply(ALPHA, write).is_some_and(Result::is_err));
    w.must(ALPHA, Command::DiskAttach);
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.settle();
    w.equal();
    w.must(ALPHA, PROMOTE);
}

/// G4, G20: `on_peer_loss = "suspend"` is about the peer's disk as well.
#[test]
fn a_flush_waits_for_a_disk_that_failed_it_if_told_to_suspend() {
    let mut w = World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() });
    w.settle();
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 5, 1, 2);
    let flush = w.flush(ALPHA);
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].medium.lose_unsynced();
    fails(&mut w, BRAVO);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, flush));
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    assert!(w.done(ALPHA, flush));
    w.nodes[BRAVO].medium.lose_unsynced();
    w.holds(BRAVO, 5, 1, 2);
    w.equal();
}

/// G8, G20: what could not be saved is in the log still.
#[test]
fn a_demotion_whose_marks_cannot_be_saved_ends_and_loses_none() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].stalled.insert("pages");
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(20);
    assert!(w.answer(ALPHA, demote).is_none());
    fails(&mut w, ALPHA);
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some_and(Result::is_ok));
    w.must(ALPHA, Command::DiskAttach);
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G8, G20: the same of the node that has the marks of a primary without a disk.
#[test]
fn a_stop_whose_records_cannot_be_saved_ends_and_loses_none() {
    for what in ["pages", "superblock"] {
        let mut w = World::running(Setup::default());
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 5, 1, 2);
        w.settle();
        w.nodes[BRAVO].stalled.insert(what);
        let stop = w.command(BRAVO, Command::Stop);
        w.run_for(2_000);
        assert!(w.answer(BRAVO, stop).is_none(), "{what}");
        w.nodes[BRAVO].medium.broken = true;
        w.nodes[BRAVO].stalled.clear();
        w.until("stopped", |w| w.answer(BRAVO, stop).is_some());
        w.crash(BRAVO);
        w.nodes[BRAVO].medium.broken = false;
        w.restart(BRAVO);
        w.settle();
        w.must(ALPHA, Command::DiskAttach);
        for node in [ALPHA, BRAVO] {
            w.must(node, CONNECT);
        }
        w.settle();
        w.equal();
        w.holds(ALPHA, 5, 1, 2);
    }
}

/// G20: nor is it half attached.
#[test]
fn an_attachment_whose_marks_cannot_be_saved_is_refused_and_may_be_tried_again() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.crash(ALPHA);
    w.nodes[ALPHA].stalled.insert("pages");
    w.restart(ALPHA);
    w.run_for(20);
    fails(&mut w, ALPHA);
    w.nodes[ALPHA].stalled.insert("pages");
    let attach = w.command(ALPHA, Command::DiskAttach);
    w.run_for(20);
    refused_attach(&mut w, ALPHA, attach);
    w.must(ALPHA, Command::DiskAttach);
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G8: all marks are saved, however many pages they are on.
#[test]
fn a_demotion_saves_more_marks_than_one_write_of_pages_holds() {
    let page = 508 * 64;
    let setup = Setup { device_blocks: 300 * page, log_extents: 1024, ..Setup::default() };
    let mut w = World::running(setup);
    w.settle();
    w.cut();
    for place in 0..300 {
        w.wrote(ALPHA, place * page + 7, 1, 1 + place);
    }
    w.must(ALPHA, Command::Demote);
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.restore();
    w.settle();
    for place in 0..300 {
        w.holds(BRAVO, place * page + 7, 1, 1 + place);
    }
    w.equal();
}

/// G7: a block that could not be compared is not called equal.
#[test]
fn a_target_that_cannot_read_what_it_is_to_compare_gets_it_later() {
    let mut w = World::running(Setup { checksum: true, ..Setup::default() });
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 4, 2);
    w.nodes[BRAVO].stalled.insert("fetch");
    w.restore();
    w.until("asked", |w| w.sent.contains_key(&(ALPHA, "ResyncHash")));
    w.run_for(20);
    // It fails these reads, and nothing else.
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    let reads = |w: &World| w.nodes[BRAVO].pending.iter().any(|it| it.work.name() == "fetch");
    w.until("read", |w| !reads(w));
    w.nodes[BRAVO].medium.broken = false;
    w.settle();
    assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 4, 2);
}

/// G2, G20: what waited behind a flush that failed is owed by the primary again.
#[test]
fn a_write_that_waits_for_a_flush_of_a_disk_that_fails_comes_later() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 4, 1, 9);
        flushed(&mut w, ALPHA);
        w.wrote(ALPHA, 5, 1, 10);
        w.run_for(20);
        w.cut();
        w.run_for(20);
        w.nodes[BRAVO].medium.broken = true;
        w.nodes[BRAVO].medium.lose_unsynced();
        fails(&mut w, BRAVO);
        w.restore();
        w.settle();
        let told = w.status(ALPHA).peers[0].disk;
        assert_eq!(told, Some(DiskState::Diskless), "the nodes meet without it");
        w.must(BRAVO, Command::DiskAttach);
        w.settle();
        w.equal();
        w.holds(BRAVO, 4, 1, 9);
        w.holds(BRAVO, 5, 1, 10);
    }
}

/// G13: the disk came back first; what is written then belongs to this node again.
#[test]
fn a_peer_that_takes_note_of_a_lost_disk_too_late_is_not_heeded() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.hold_kind(BRAVO, "GenerationHeld", true);
    w.nodes[ALPHA].stalled.insert("store");
    let running = w.write(ALPHA, 7, 1, 4);
    w.run_for(20);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    let attach = begins_to_attach(&mut w, ALPHA);
    w.hold_kind(BRAVO, "GenerationHeld", false);
    w.run_for(20);
    w.nodes[ALPHA].stalled.clear();
    w.until("attached", |w| w.answer(ALPHA, attach).is_some_and(Result::is_ok));
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.restore();
    w.settle();
    assert!(w.done(ALPHA, running));
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
    w.holds(ALPHA, 7, 1, 4);
}

/// G5, G20: a read waits for the copy that can answer it.
#[test]
fn a_read_that_the_peers_disk_fails_waits_for_it() {
    for diskless in [true, false] {
        let mut w = World::running(Setup::default());
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 5, 2, 2);
        flushed(&mut w, ALPHA);
        w.settle();
        w.nodes[BRAVO].stalled.insert("fetch");
        if !diskless {
            w.must(ALPHA, Command::DiskAttach);
            w.until("begun", |w| w.status(ALPHA).peers[0].replication == Replication::SyncTarget);
            w.run_for(20);
        }
        let read = w.read(ALPHA, 5 * 4096, 4096);
        w.run_for(20);
        fails(&mut w, BRAVO);
        w.run_for(1_000);
        assert!(w.reply(ALPHA, read).is_none());
        w.must(BRAVO, Command::DiskAttach);
        w.settle();
        assert_eq!(stamp_read(&w, ALPHA, read, 5), Some(2), "diskless: {diskless}");
        if diskless {
            w.must(ALPHA, Command::DiskAttach);
            w.settle();
        }
        w.equal();
    }
}

/// G4, G20: the sync that it waits for was never begun on the disk that went.
#[test]
fn a_flush_behind_another_is_answered_when_the_last_disk_is_back() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].stalled.insert("sync");
    let first = w.flush(ALPHA);
    w.wrote(ALPHA, 6, 1, 3);
    let second = w.flush(ALPHA);
    w.run_for(20);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.nodes[ALPHA].stalled.clear();
    w.run_for(1_000);
    assert!(!w.done(ALPHA, second), "no disk is in reach");
    w.must(ALPHA, Command::DiskAttach);
    w.until("flushed", |w| w.done(ALPHA, first) && w.done(ALPHA, second));
    w.nodes[ALPHA].medium.lose_unsynced();
    w.holds(ALPHA, 5, 1, 2);
    w.holds(ALPHA, 6, 1, 3);
    w.restore();
    w.settle();
    w.equal();
}

/// G20: nothing is kept of a block that was read for a disk that is gone.
#[test]
fn a_resync_ends_with_the_disk_of_its_target_while_a_block_is_read() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.wrote(ALPHA, 5, 4, 2);
    w.nodes[ALPHA].stalled.insert("fetch");
    w.restore();
    w.until("begun", |w| w.status(ALPHA).peers[0].replication == Replication::SyncSource);
    w.run_for(20);
    w.must(BRAVO, Command::DiskDetach);
    w.until("told", |w| w.status(ALPHA).peers[0].disk == Some(DiskState::Diskless));
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 4, 2);
}

/// G12, G20: what could not be read is not counted as compared.
#[test]
fn a_verify_ends_with_the_disk_that_it_cannot_read() {
    for node in [ALPHA, BRAVO] {
        let mut w = World::running(Setup::default());
        w.settle();
        w.nodes[node].stalled.insert("digest");
        w.must(ALPHA, Command::Verify { repair: false });
        w.run_for(20);
        fails(&mut w, node);
        w.settle();
        let peer = &w.status(ALPHA).peers[0];
        assert!(peer.verify_done_blocks < w.setup.device_blocks, "{peer:?}");
        w.wrote(ALPHA, 5, 1, 2);
        w.must(node, Command::DiskAttach);
        w.settle();
        w.equal();
        w.must(ALPHA, Command::Verify { repair: false });
        w.settle();
        assert_eq!(w.status(ALPHA).peers[0].verify_done_blocks, w.setup.device_blocks);
    }
}

/// G8, G20: a resync of everything is recorded before it begins, and begins again.
#[test]
fn a_full_resync_may_lose_its_link_at_any_step() {
    for steps in 0.. {
        let setup = Setup { device_blocks: 1024, ..Setup::default() };
        let mut w = World::running(setup);
        w.wrote(ALPHA, 5, 3, 2);
        w.settle();
        let forget = w.command(BRAVO, Command::Invalidate);
        w.steps(steps);
        if w.answer(BRAVO, forget).is_some() && w.established() {
            assert!(steps > 30, "all of it was tried");
            return;
        }
        if steps % 2 == 0 {
            w.blip();
        } else {
            w.gives_up_session(ALPHA);
        }
        w.settle();
        w.equal();
        w.holds(BRAVO, 5, 3, 2);
    }
}

/// G5: a client was told of a write that only the disk here has, and that disk is gone.
#[test]
fn a_diskless_primary_remembers_what_it_said_before_the_link_was_lost() {
    let mut w = under(Protocol::A);
    w.settle();
    w.hold_data(ALPHA, true);
    w.wrote(ALPHA, 5, 1, 2);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.cut();
    w.hold_data(ALPHA, false);
    w.restore();
    w.settle();
    let read = w.read(ALPHA, 5 * 4096, 4096);
    w.run_for(1_000);
    assert!(w.reply(ALPHA, read).is_none(), "it has gone back in time");
    w.must(ALPHA, Command::DiskAttach);
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.settle();
    assert_eq!(stamp_read(&w, ALPHA, read, 5), Some(2));
    w.equal();
}

/// G14: the copy is the same, and the other node serves it already.
#[test]
fn a_diskless_primary_does_not_work_on_the_disk_of_another_primary() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.settle();
    w.cut();
    w.run_for(20);
    w.must(BRAVO, FORCE);
    w.restore();
    w.settle();
    assert_eq!(stand_alone(&w), [true, true]);
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(1_000);
    assert!(!w.done(ALPHA, write));
    w.must(BRAVO, Command::Demote);
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.until("written", |w| w.done(ALPHA, write));
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}
