//! Owns the stories of disks that are let go of, by a primary or beside one, and of a stop amid it.
//! Must never take a copy for current because of what memory had.

use crate::field::*;
use crate::found::lose_disk_to_a_read;
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;
use twinblk::replica::options::PeerLoss;

/// Bravo has 5/2 in memory, held back behind a flush; alpha has flushed it.
fn received_there_and_flushed_here() -> World {
    let mut w = under(Protocol::B);
    w.settle();
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[BRAVO].stalled.insert("sync");
    w.wrote(ALPHA, 6, 1, 1);
    flushed(&mut w, ALPHA);
    w.wrote(ALPHA, 5, 1, 2);
    flushed(&mut w, ALPHA);
    w.run_for(5);
    w.holds(ALPHA, 5, 1, 2);
    w.holds(BRAVO, 5, 1, 1);
    w
}

/// Whoever was refused is told to try again.
fn meet(w: &mut World) {
    w.settle();
    for node in BOTH {
        if peer(w, node).connection == Connection::StandAlone {
            w.must(node, CONNECT);
        }
    }
    w.settle();
    w.equal();
}

/// G2, G4: the peer's disk was let go of without a fault of its own, and with it what was in memory.
#[test]
fn a_detached_peer_that_dropped_what_it_received_is_not_the_source() {
    for link_held in [false, true] {
        let mut w = received_there_and_flushed_here();
        w.hold_link(link_held);
        w.command(BRAVO, Command::DiskDetach);
        w.nodes[BRAVO].stalled.clear();
        w.run_for(5);
        w.hold_link(false);
        lose_power(&mut w, ALPHA);
        w.run_for(100);
        w.must(BRAVO, Command::DiskAttach);
        w.restart(ALPHA);
        w.settle();
        w.equal();
        assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
        w.holds(ALPHA, 5, 1, 2);
    }
}

/// G2: B survives the loss of the primary alone: its disk first, then all of it.
#[test]
fn what_was_received_survives_a_primary_that_lost_its_disk_first() {
    for stalled in ["sync", "store"] {
        let mut w = under(Protocol::B);
        w.settle();
        w.nodes[BRAVO].stalled.insert(stalled);
        w.wrote(ALPHA, 5, 1, 9);
        if stalled == "sync" {
            flushed(&mut w, ALPHA);
        }
        w.wrote(ALPHA, 5, 1, 10);
        w.run_for(20);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.run_for(20);
        w.crash(ALPHA);
        w.run_for(20);
        w.nodes[BRAVO].stalled.clear();
        w.must(BRAVO, FORCE);
        assert_eq!(reads(&mut w, BRAVO, 5, 1), [10], "stalled {stalled}");
    }
}

/// G4, G19: a write that was to be stable, while the disk here failed and the peer's was slow.
#[test]
fn a_fua_write_that_no_disk_has_is_not_acknowledged() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        w.settle();
        w.wrote(ALPHA, 5, 1, 1);
        w.settle();
        w.nodes[BRAVO].stalled.insert("store");
        w.nodes[ALPHA].stalled.insert("store");
        let write = w.write_as(ALPHA, 5, 1, 2, true);
        w.run_for(5);
        w.nodes[ALPHA].medium.broken = true;
        w.nodes[ALPHA].stalled.clear();
        w.run_for(50);
        assert_eq!(w.status(ALPHA).disk, DiskState::Diskless);
        assert!(!w.done(ALPHA, write), "{protocol:?}: neither disk has it");
        w.nodes[BRAVO].stalled.clear();
        w.until("done", |w| w.done(ALPHA, write));
        w.holds(BRAVO, 5, 1, 2);
    }
}

/// G2, G4: the peer went on with the generation, and without what came before it.
#[test]
fn what_was_flushed_before_a_detach_is_not_overwritten_by_a_peer_that_dropped_it() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("store");
        w.wrote(ALPHA, 5, 1, 9);
        w.wrote(ALPHA, 5, 1, 10);
        flushed(&mut w, ALPHA);
        w.run_for(5);
        w.must(ALPHA, Command::DiskDetach);
        w.run_for(20);
        w.blip();
        w.run_for(20);
        w.nodes[BRAVO].stalled.clear();
        w.run_for(1_000);
        w.crash(ALPHA);
        w.restart(ALPHA);
        meet(&mut w);
        w.holds(ALPHA, 5, 1, 10);
    }
}

/// G1, G2: a planned detach, a power cut of the peer, a restart of the daemon that has all.
#[test]
fn what_a_primary_had_when_it_let_go_of_its_disk_survives_the_peers_power_cut() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        w.settle();
        w.wrote(ALPHA, 5, 1, 9);
        flushed(&mut w, ALPHA);
        w.settle();
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 6, 1, 10);
        if protocol != Protocol::C {
            flushed(&mut w, ALPHA);
        }
        w.run_for(1);
        w.holds(BRAVO, 6, 1, 10);
        w.must(ALPHA, Command::DiskDetach);
        w.run_for(5);
        w.nodes[BRAVO].stalled.clear();
        lose_power(&mut w, BRAVO);
        w.restart(BRAVO);
        w.run_for(1_000);
        w.crash(ALPHA);
        w.restart(ALPHA);
        meet(&mut w);
        for node in BOTH {
            assert_eq!(w.status(node).disk, DiskState::UpToDate);
            w.holds(node, 6, 1, 10);
        }
    }
}

/// G3: what came while there was no disk is not there, so nothing after it may be.
#[test]
fn what_is_held_back_goes_with_what_came_while_there_was_no_disk() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.hold_data(ALPHA, true);
        w.write(ALPHA, 5, 1, 1);
        w.run_for(5);
        w.flush(ALPHA);
        w.run_for(5);
        w.write(ALPHA, 6, 1, 2);
        w.run_for(5);
        w.must(BRAVO, Command::DiskDetach);
        w.hold_data(ALPHA, false);
        w.run_for(20);
        w.nodes[BRAVO].stalled.insert("superblock");
        w.command(BRAVO, Command::DiskAttach);
        w.run_for(20);
        w.hold_data(ALPHA, true);
        w.nodes[BRAVO].stalled.clear();
        w.until("open", |w| w.status(BRAVO).disk != DiskState::Diskless);
        w.cut();
        w.hold_data(ALPHA, false);
        w.run_for(1_000);
        w.holds(BRAVO, 5, 1, 0);
        w.holds(BRAVO, 6, 1, 0);
        w.restore();
        w.settle();
        w.equal();
    }
}

/// G3: a flush failed, and what was held back behind it was in memory when the disk came back.
#[test]
fn what_is_held_back_goes_with_what_a_failed_flush_lost() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 5, 1, 1);
        flushed(&mut w, ALPHA);
        w.wrote(ALPHA, 6, 1, 2);
        w.run_for(20);
        w.nodes[BRAVO].medium.broken = true;
        w.nodes[BRAVO].stalled.clear();
        w.until("let go of", |w| w.status(BRAVO).disk == DiskState::Diskless);
        w.nodes[BRAVO].medium.lose_unsynced();
        w.run_for(20);
        w.nodes[BRAVO].medium.broken = false;
        w.hold_data(ALPHA, true);
        w.command(BRAVO, Command::DiskAttach);
        w.until("open", |w| w.status(BRAVO).disk != DiskState::Diskless);
        w.cut();
        w.hold_data(ALPHA, false);
        w.run_for(1_000);
        w.holds(BRAVO, 5, 1, 0);
        w.holds(BRAVO, 6, 1, 0);
        w.restore();
        w.settle();
        w.equal();
    }
}

/// G7, G14: one disk was restored, which the nodes found when they met; and then one of them died.
#[test]
fn that_all_has_to_be_copied_is_not_forgotten_with_the_meeting_that_found_it() {
    for dies in [vec![ALPHA], vec![BRAVO], vec![ALPHA, BRAVO], vec![]] {
        let mut w = under(Protocol::C);
        w.settle();
        stop(&mut w, BRAVO);
        let old = w.nodes[BRAVO].medium.clone();
        w.restart(BRAVO);
        w.settle();
        w.wrote(ALPHA, 6, 1, 2);
        flushed(&mut w, ALPHA);
        w.crash(BRAVO);
        w.run_for(20);
        w.wrote(ALPHA, 7, 1, 3);
        w.nodes[BRAVO].medium = old;
        w.hold_kind(BRAVO, "Met", true);
        w.restart(BRAVO);
        w.run_for(100);
        for node in &dies {
            w.crash(*node);
        }
        w.cut();
        w.hold_kind(BRAVO, "Met", false);
        for node in &dies {
            w.restart(*node);
        }
        w.restore();
        w.settle();
        w.equal();
        w.holds(BRAVO, 6, 1, 2);
    }
}

/// G4, G19: a sync that fails while a disk is opened says so once, and what it lost stays lost.
#[test]
fn a_disk_that_could_not_be_opened_comes_back_as_one_that_may_lack_something() {
    let mut w = under(Protocol::C);
    w.settle();
    w.crash(BRAVO);
    w.run_for(20);
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.wrote(ALPHA, 5, 1, 2);
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.nodes[ALPHA].medium.broken = true;
    assert_eq!(w.order(ALPHA, Command::DiskAttach).expect_err("broken").reason, "disk-not-opened");
    w.nodes[ALPHA].medium.lose_unsynced();
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    let read = w.read(ALPHA, 5 * 4096, 4096);
    w.run_for(1_000);
    assert!(w.reply(ALPHA, read).is_none(), "it has gone back in time");
    assert_ne!(w.status(ALPHA).disk, DiskState::UpToDate);
}

/// G14, G18: the target of a resync was primary, and waits; the source was promoted meanwhile.
#[test]
fn two_primaries_never_work_together() {
    for (protocol, replaced) in PROTOCOLS.iter().flat_map(|it| [(*it, false), (*it, true)]) {
        let rate_max_bytes = 1 << 20;
        let setup = Setup { protocol, rate_max_bytes, device_blocks: 4096, ..Setup::default() };
        let mut w = World::running(setup);
        w.wrote(ALPHA, 0, 1000, 1);
        w.settle();
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 0, 1000, 2);
        w.settle();
        w.must(ALPHA, if replaced { Command::DiskReplace } else { Command::DiskAttach });
        w.until("a target", |w| peer(w, ALPHA).replication == Replication::SyncTarget);
        w.run_for(100);
        w.cut();
        w.run_for(100);
        w.must(BRAVO, PROMOTE);
        w.restore();
        w.run_for(1_000);
        let writes = [w.write(ALPHA, 5, 1, 3), w.write(BRAVO, 6, 1, 4)];
        w.run_for(5_000);
        assert!(!w.done(ALPHA, writes[0]), "{protocol:?}: two primaries: {:?}", peer(&w, ALPHA));
        assert!(w.done(BRAVO, writes[1]), "{protocol:?}: the whole copy serves");
        w.must(ALPHA, Command::Demote);
        meet(&mut w);
        w.holds(ALPHA, 6, 1, 4);
    }
}

/// G20, G22: a shard whose deadline has passed turns without rest.
#[test]
fn a_stop_that_waits_for_leftovers_rests() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("store");
        w.write(ALPHA, 5, 1, 2);
        w.run_for(5);
        w.cut();
        let stop = w.command(BRAVO, Command::Stop);
        w.run_for(1_000);
        assert!(w.answer(BRAVO, stop).is_none());
        w.nodes[BRAVO].stalled.clear();
        w.run_for(1_000);
        assert!(w.answer(BRAVO, stop).is_some());
    }
}

/// Cold writes that are held, and meet a new log, are as many as before: a lone one waits for nobody.
#[test]
fn a_lone_cold_write_waits_for_nobody_after_a_disk_was_replaced_under_many() {
    let mut w =
        World::running(Setup { log_extents: 64, device_blocks: 64 * 1024, ..Setup::default() });
    w.settle();
    w.nodes[ALPHA].stalled.insert("log");
    let ids: Vec<_> = (0..30).map(|i| w.write(ALPHA, i * 1024, 1, 1 + i)).collect();
    w.run_for(5);
    w.nodes[BRAVO].stalled.insert("superblock");
    w.blip();
    w.run_for(20);
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    assert!(ids.iter().all(|id| !w.done(ALPHA, *id)));
    lose_disk_to_a_read(&mut w, ALPHA);
    w.run_for(20);
    w.command(ALPHA, Command::DiskReplace);
    w.run_for(20);
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
    w.equal();
    // The first one after them still waits for as many; and that is learned.
    w.wrote(ALPHA, 50 * 1024, 1, 100);
    let begun = w.now;
    w.wrote(ALPHA, 51 * 1024, 1, 101);
    let took = w.now.since(begun);
    assert!(took < twinblk::limits::LOG_GATHER_TIME, "{took:?}");
}

/// G1: a write that the peer missed lay on the disk here alone when that failed, and nobody was told
/// of it yet. The peer's copy takes over from there.
#[test]
fn what_a_peer_missed_reaches_it_when_the_disk_here_fails_before_the_acknowledgement() {
    let mut w = under(Protocol::C);
    w.settle();
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[ALPHA].stalled.insert("superblock");
    w.cut();
    w.run_for(5);
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(5);
    w.holds(ALPHA, 5, 1, 2);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.run_for(5);
    assert_eq!(w.status(ALPHA).disk, DiskState::Diskless);
    assert!(!w.done(ALPHA, write), "its generation is on no record");
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::DiskAttach);
    w.restore();
    w.settle();
    w.equal();
    assert!(w.done(ALPHA, write));
    w.holds(BRAVO, 5, 1, 2);
}

/// G13, G20: a connection that comes through between the goodbye and the end is no meeting: none of
/// it would be on record here, and on the peer it would.
#[test]
fn a_peer_that_connects_after_the_goodbye_is_not_met() {
    let mut w = under(Protocol::C);
    w.settle();
    w.must(ALPHA, Command::Demote);
    w.nodes[BRAVO].stalled.insert("superblock");
    w.blip();
    w.run_for(6_000);
    assert_eq!(peer(&w, ALPHA).connection, Connection::Connecting, "bravo was too slow");
    w.nodes[BRAVO].stalled.clear();
    w.nodes[ALPHA].stalled.insert("superblock");
    let stop = w.command(ALPHA, Command::Stop);
    w.run_for(1_000);
    w.nodes[ALPHA].stalled.clear();
    w.until("stopped", |w| w.answer(ALPHA, stop).is_some_and(Result::is_ok));
    w.run_for(10_000);
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.settle();
    w.equal();
}

/// A write that alpha alone has, unacknowledged, was read from there.
fn shown_and_not_there(how: &str) -> World {
    let mut w = World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() });
    w.settle();
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.hold_kind(ALPHA, "Write", true);
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(5);
    assert!(!w.done(ALPHA, write));
    w.cut();
    w.hold_kind(ALPHA, "Write", false);
    if how == "killed" {
        w.crash(ALPHA);
        w.restart(ALPHA);
        w.run_for(5);
    } else {
        w.must(ALPHA, Command::Demote);
    }
    w.must(ALPHA, FORCE);
    assert_eq!(reads(&mut w, ALPHA, 5, 1), [2]);
    w
}

/// G5: what was read from a disk is not taken back by going on without it.
#[test]
fn what_was_read_is_not_taken_back_when_the_disk_fails() {
    for how in ["killed", "given up"] {
        let mut w = shown_and_not_there(how);
        lose_disk_to_a_read(&mut w, ALPHA);
        w.restore();
        w.settle();
        assert!(stand_alone(&w)[ALPHA], "{how}: bravo lacks what was read");
        assert!(peer(&w, ALPHA).connection_reason.contains("have read"));
        w.nodes[ALPHA].medium.broken = false;
        w.must(ALPHA, Command::DiskAttach);
        meet(&mut w);
        w.holds(BRAVO, 5, 1, 2);
    }
}

/// The same, with a resync in between that tells the peer.
#[test]
fn what_was_read_is_there_after_a_resync() {
    let mut w = shown_and_not_there("killed");
    w.restore();
    w.settle();
    w.equal();
    lose_disk_to_a_read(&mut w, ALPHA);
    w.settle();
    assert_eq!(reads(&mut w, ALPHA, 5, 1), [2]);
}
