//! Owns the stories that go as planned or as feared, each with a name that says which.

use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const FORCE: Command = Command::Promote { force: true };
const PROMOTE: Command = Command::Promote { force: false };

fn suspend() -> Setup {
    Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() }
}

fn under(protocol: Protocol) -> Setup {
    Setup { protocol, ..Setup::default() }
}

#[test]
fn both_start_empty_and_a_write_reaches_both() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 10, 3, 7);
    w.holds(ALPHA, 10, 3, 7);
    w.holds(BRAVO, 10, 3, 7);
    w.settle();
    w.equal();
}

#[test]
fn init_from_one_node_copies_it_whole() {
    let mut w = World::new(Setup::default());
    w.settle();
    for block in [0, 1, 999, 32_767] {
        w.nodes[ALPHA].medium.write(block, Some(crate::medium::fill(5, block)), true);
        w.nodes[BRAVO].medium.write(
            block + 1 - block / 32_767 * 2,
            Some(crate::medium::fill(6, block)),
            true,
        );
    }
    assert_eq!(w.refused(ALPHA, PROMOTE), "just-created");
    w.must(ALPHA, Command::InitFrom);
    w.settle();
    w.equal();
    assert_eq!(w.refused(BRAVO, Command::InitFrom), "has-data");
    w.must(BRAVO, PROMOTE);
    w.holds(BRAVO, 999, 1, 5);
}

#[test]
fn both_empty_is_refused_if_one_is_not() {
    for node in [ALPHA, BRAVO] {
        let mut w = World::new(Setup::default());
        w.settle();
        w.nodes[node].medium.write(3, Some(crate::medium::fill(5, 3)), true);
        assert_eq!(w.refused(ALPHA, Command::InitEmpty), "not-empty");
        w.must(node, Command::InitFrom);
        w.settle();
        w.equal();
    }
}

#[test]
fn under_c_a_reply_waits_for_both_disks() {
    for node in [ALPHA, BRAVO] {
        let mut w = World::running(under(Protocol::C));
        w.nodes[node].stalled.insert("store");
        let id = w.write(ALPHA, 4, 1, 9);
        w.run_for(3_000);
        assert!(!w.done(ALPHA, id), "stalled at {node}");
        w.nodes[node].stalled.clear();
        w.settle();
        assert!(w.done(ALPHA, id));
        w.equal();
    }
}

#[test]
fn under_b_a_reply_waits_for_the_peers_memory() {
    let mut w = World::running(under(Protocol::B));
    w.nodes[BRAVO].stalled.insert("store");
    w.hold_link(true);
    let id = w.write(ALPHA, 4, 1, 9);
    w.run_for(3_000);
    assert!(!w.done(ALPHA, id));
    w.hold_link(false);
    w.run_for(10);
    assert!(w.done(ALPHA, id));
    w.nodes[BRAVO].stalled.clear();
    w.settle();
    w.equal();
}

#[test]
fn under_a_a_reply_waits_for_nobody() {
    let mut w = World::running(under(Protocol::A));
    w.hold_link(true);
    w.wrote(ALPHA, 4, 1, 9);
    w.hold_link(false);
    w.settle();
    w.equal();
    w.holds(BRAVO, 4, 1, 9);
}

#[test]
fn a_flush_under_c_waits_for_both_disks() {
    for node in [ALPHA, BRAVO] {
        let mut w = World::running(under(Protocol::C));
        w.wrote(ALPHA, 4, 1, 9);
        w.nodes[node].stalled.insert("sync");
        let id = w.flush(ALPHA);
        w.run_for(3_000);
        assert!(!w.done(ALPHA, id), "stalled at {node}");
        w.nodes[node].stalled.clear();
        w.settle();
        assert!(w.done(ALPHA, id));
        for node in [ALPHA, BRAVO] {
            w.nodes[node].medium.lose_unsynced();
            w.holds(node, 4, 1, 9);
        }
        w.equal();
    }
}

#[test]
fn a_fua_write_under_c_is_stable_on_both_when_answered() {
    let mut w = World::running(under(Protocol::C));
    let id = w.write_as(ALPHA, 4, 1, 9, true);
    w.until("answered", |w| w.done(ALPHA, id));
    for node in [ALPHA, BRAVO] {
        w.nodes[node].medium.lose_unsynced();
        w.holds(node, 4, 1, 9);
    }
    w.settle();
    w.equal();
}

#[test]
fn under_a_and_b_the_peer_holds_back_what_follows_a_flush() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = World::running(under(protocol));
        w.wrote(ALPHA, 4, 1, 9);
        w.nodes[BRAVO].stalled.insert("sync");
        let flush = w.flush(ALPHA);
        w.until("flushed", |w| w.done(ALPHA, flush));
        w.wrote(ALPHA, 8, 1, 10);
        w.run_for(2_000);
        w.holds(BRAVO, 4, 1, 9);
        w.holds(BRAVO, 8, 1, 0);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        w.holds(BRAVO, 8, 1, 10);
        w.equal();
    }
}

#[test]
fn a_write_after_a_flush_and_a_reconnect_is_not_held_for_ever() {
    let mut w = World::running(under(Protocol::C));
    w.wrote(ALPHA, 4, 1, 9);
    let flush = w.flush(ALPHA);
    w.until("flushed", |w| w.done(ALPHA, flush));
    w.blip();
    w.settle();
    w.wrote(ALPHA, 4, 1, 10);
    w.settle();
    w.equal();
}

#[test]
fn a_trim_of_4_gib_goes_in_pieces_through_a_small_log() {
    let setup = Setup { device_blocks: 2 << 20, ..Setup::default() };
    let mut w = World::running(setup);
    w.wrote(ALPHA, 1024 * 77, 8, 3);
    w.nodes[BRAVO].stalled.insert("zero");
    let id = w.zero(ALPHA, 100, 4 << 30);
    w.run_for(100);
    assert!(w.nodes[ALPHA].counts["zero"] < 20, "{:?}", w.nodes[ALPHA].counts);
    w.nodes[BRAVO].stalled.clear();
    w.until("trimmed", |w| w.done(ALPHA, id));
    w.settle();
    w.equal();
    w.holds(BRAVO, 1024 * 77, 8, 0);
}

#[test]
fn overlapping_writes_end_alike_and_a_read_waits_for_the_write_before() {
    let mut w = World::running(Setup { chaos: 77, ..Setup::default() });
    let mut last = 0;
    for stamp in 1..60 {
        let start = w.dice.below(6);
        w.write(ALPHA, start, 4, stamp);
        w.write(ALPHA, 5, 1, 1000 + stamp);
        last = 1000 + stamp;
    }
    let id = w.read(ALPHA, 5 * 4096, 4096);
    w.settle();
    let bytes = w.reply(ALPHA, id).unwrap().as_ref().unwrap();
    assert_eq!(crate::medium::stamp_of(bytes, 5), Some(last));
    w.equal();
}

#[test]
fn a_peer_lost_in_mid_write_gets_exactly_what_it_missed() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 100, 1, 1);
    w.settle();
    w.hold_link(true);
    let id = w.write(ALPHA, 200, 2, 2);
    w.run_for(20);
    assert!(!w.done(ALPHA, id));
    w.nodes[ALPHA].stalled.insert("superblock");
    w.hold_link(false);
    w.cut();
    w.run_for(20);
    assert!(!w.done(ALPHA, id), "the generation is not durable yet");
    w.nodes[ALPHA].stalled.clear();
    w.until("answered", |w| w.done(ALPHA, id));
    w.wrote(ALPHA, 300, 5, 3);
    assert_eq!(w.status(ALPHA).peers[0].out_of_sync_blocks, 7);
    assert_eq!(w.status(BRAVO).disk, DiskState::Consistent);
    w.restore();
    w.settle();
    assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 7);
    w.equal();
    w.holds(BRAVO, 200, 2, 2);
}

#[test]
fn a_crashed_primary_resyncs_its_dirty_bits_and_hot_extents() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5 * 1024, 1, 1);
    w.wrote(ALPHA, 9 * 1024 + 3, 1, 2);
    w.settle();
    w.crash(ALPHA);
    w.settle();
    w.restart(ALPHA);
    w.settle();
    assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 2 * 1024);
    w.equal();
    w.must(ALPHA, PROMOTE);
}

#[test]
fn the_unacknowledged_tail_of_a_replaced_primary_is_rolled_back() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 7, 1, 1);
    w.settle();
    w.hold_link(true);
    let id = w.write(ALPHA, 7, 1, 2);
    w.run_for(20);
    w.holds(ALPHA, 7, 1, 2);
    assert!(!w.done(ALPHA, id));
    w.crash(ALPHA);
    w.cut();
    w.hold_link(false);
    w.settle();
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 8, 1, 3);
    w.restore();
    w.restart(ALPHA);
    w.settle();
    w.equal();
    w.holds(ALPHA, 7, 1, 1);
    w.holds(ALPHA, 8, 1, 3);
}

#[test]
fn of_two_promotions_at_once_one_wins() {
    for chaos in 0..20 {
        let mut w = World::new(Setup { chaos, ..Setup::default() });
        w.both_empty();
        let a = w.command(ALPHA, PROMOTE);
        let b = w.command(BRAVO, PROMOTE);
        w.settle();
        let won = [w.answer(ALPHA, a), w.answer(BRAVO, b)].map(|r| r.unwrap().is_ok());
        assert!(won[0] != won[1], "{won:?}");
        let primary = if won[0] { ALPHA } else { BRAVO };
        w.wrote(primary, 1, 1, 1);
        w.must(primary, Command::Demote);
        w.run_for(5);
        w.must(1 - primary, PROMOTE);
        w.settle();
        w.equal();
    }
}

/// Alpha alone writes; the peer comes back; a frame of this kind is lost on the way, twice.
fn lose_in_resync(from: usize, kind: &'static str, chaos: u64, setup: &Setup) -> bool {
    let mut w = World::running(setup.clone());
    w.cut();
    w.settle();
    for place in 0..5 {
        w.wrote(ALPHA, place * 1024 + 5, 3, 1 + place);
    }
    w.setup.chaos = chaos;
    w.restore();
    w.lose(from, kind);
    for place in 0..4 {
        w.run_for(1);
        let id = w.write(ALPHA, place * 1024 + 4, 3, 100 + place);
        w.run_for(50);
        assert!(w.reply(ALPHA, id).is_some_and(Result::is_ok));
    }
    let lost = w.trapped() > 0;
    w.wrote(ALPHA, 77, 1, 50);
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 77, 1, 50);
    let copied = w.status(ALPHA).peers[0].last_resync_blocks;
    assert!(copied < 1000, "{kind}: {copied} blocks copied, marks would have served");
    lost
}

#[test]
fn any_frame_of_a_resync_may_be_lost() {
    let kinds = [
        "State",
        "Met",
        "SyncStart",
        "SyncReady",
        "Marks",
        "MarksDone",
        "ResyncData",
        "Written",
        "Stable",
        "Barrier",
        "SyncDone",
        "SyncAdopted",
        "DiskChange",
        "Write",
    ];
    let mut lost = Vec::new();
    for kind in kinds {
        for from in [ALPHA, BRAVO] {
            for chaos in [0, 5, 9] {
                if lose_in_resync(from, kind, chaos, &Setup::default()) {
                    lost.push(kind);
                }
            }
        }
    }
    for kind in kinds {
        assert!(lost.contains(&kind), "{kind} was never lost");
    }
}

#[test]
fn any_frame_of_a_checksum_resync_may_be_lost() {
    let setup = Setup { checksum: true, ..Setup::default() };
    for kind in ["ResyncHash", "HashAnswer", "ResyncData", "Stable", "SyncDone", "SyncAdopted"] {
        let lost = [ALPHA, BRAVO].map(|from| lose_in_resync(from, kind, 0, &setup));
        assert!(lost[0] || lost[1], "{kind} was never lost");
    }
}

#[test]
fn a_generation_is_begun_after_a_lost_word_that_a_resync_was_adopted() {
    let mut w = World::running(Setup::default());
    w.cut();
    w.wrote(ALPHA, 5, 3, 1);
    w.lose(BRAVO, "SyncAdopted");
    w.restore();
    w.lose(BRAVO, "SyncAdopted");
    w.until("lost", |w| w.trapped() > 0);
    w.run_for(1_000);
    let before = w.status(ALPHA).generation;
    assert_eq!(before, w.status(BRAVO).generation, "bravo adopted it");
    w.wrote(ALPHA, 9, 1, 2);
    assert_ne!(before, w.status(ALPHA).generation);
    w.must(BRAVO, FORCE);
    w.wrote(BRAVO, 9, 1, 3);
    w.restore();
    w.settle();
    assert_eq!(w.status(ALPHA).peers[0].connection, Connection::StandAlone, "both wrote alone");
}

/// Alpha wrote alone; somebody dies at every step of the way back.
fn die_in_resync(node: usize, power: bool, checksum: bool) {
    for step in 0..160 {
        let mut w = World::running(Setup { checksum, ..Setup::default() });
        w.cut();
        w.settle();
        w.wrote(ALPHA, 5, 3, 1);
        w.wrote(ALPHA, 1024 * 6, 3, 2);
        w.restore();
        let write = w.write(ALPHA, 6, 1, 3);
        w.steps(step);
        if power {
            w.power_cut(node);
        } else {
            w.crash(node);
        }
        w.run_for(200);
        if node == BRAVO {
            assert!(w.done(ALPHA, write));
            w.wrote(ALPHA, 8, 1, 4);
        }
        w.restart(node);
        w.settle();
        w.equal();
        if node == BRAVO {
            w.holds(BRAVO, 8, 1, 4);
        }
        w.holds(BRAVO, 1024 * 6, 3, 2);
    }
}

#[test]
fn the_target_may_die_at_every_step_of_a_resync() {
    die_in_resync(BRAVO, false, false);
    die_in_resync(BRAVO, true, false);
    die_in_resync(BRAVO, true, true);
}

#[test]
fn the_source_may_die_at_every_step_of_a_resync() {
    die_in_resync(ALPHA, false, false);
}

#[test]
fn a_demotion_leaves_nothing_to_resync() {
    let mut w = World::running(Setup::default());
    for place in 0..30 {
        w.write(ALPHA, place * 1024, 2, 1 + place);
    }
    w.must(ALPHA, Command::Demote);
    w.crash(ALPHA);
    w.crash(BRAVO);
    w.restart(ALPHA);
    w.restart(BRAVO);
    w.settle();
    w.equal();
    assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 0);
    assert_eq!(w.sent.get(&(ALPHA, "SyncStart")), None);
}

#[test]
fn clean_stops_leave_nothing_to_resync() {
    for order in [[ALPHA, BRAVO], [BRAVO, ALPHA]] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 1);
        for node in order {
            w.must(node, Command::Stop);
            w.run_for(100);
            w.crash(node);
        }
        w.restart(ALPHA);
        w.restart(BRAVO);
        w.settle();
        w.equal();
        assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 0, "{order:?}");
    }
}

#[test]
fn a_suspended_primary_goes_on_alone_at_a_word() {
    let mut w = World::running(suspend());
    w.hold_link(true);
    let first = w.write(ALPHA, 5, 1, 1);
    w.run_for(10);
    w.hold_link(false);
    w.cut();
    let second = w.write(ALPHA, 6, 1, 2);
    w.run_for(1_000);
    w.must(ALPHA, Command::Resume);
    w.run_for(100);
    assert!(w.done(ALPHA, first) && w.done(ALPHA, second));
    w.restore();
    w.settle();
    w.equal();
    assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 2);
}

#[test]
fn what_a_peer_acknowledged_and_lost_in_a_power_cut_is_sent_again() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 4, 1);
    w.power_cut(BRAVO);
    w.nodes[BRAVO].medium.lose_unsynced();
    w.run_for(1_000);
    w.restart(BRAVO);
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 4, 1);
}

#[test]
fn what_the_source_itself_had_not_flushed_survives_its_power_cut_after_a_resync() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 4, 1);
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.until("in sync again", World::established);
    w.power_cut(ALPHA);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.restart(ALPHA);
    w.settle();
    w.equal();
}

fn failing(node: usize) -> World {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 1, 1);
    w.nodes[node].medium.broken = true;
    let id = w.write(ALPHA, 6, 1, 2);
    w.until("answered in spite of the disk", |w| w.reply(ALPHA, id).is_some());
    assert!(w.done(ALPHA, id));
    w.settle();
    assert_eq!(w.status(node).disk, DiskState::Diskless);
    w.wrote(ALPHA, 7, 1, 3);
    let read = w.read(ALPHA, 5 * 4096, 3 * 4096);
    w.until("read", |w| w.done(ALPHA, read));
    let bytes = w.reply(ALPHA, read).unwrap().as_ref().unwrap();
    for (place, stamp) in [1, 2, 3].into_iter().enumerate() {
        let block = &bytes[place * 4096..(place + 1) * 4096];
        assert_eq!(crate::medium::stamp_of(block, 5 + place as u64), Some(stamp));
    }
    w.nodes[node].medium.broken = false;
    w
}

#[test]
fn a_primary_goes_on_without_its_disk_and_takes_it_back() {
    let mut w = failing(ALPHA);
    w.blip();
    w.settle();
    w.wrote(ALPHA, 8, 1, 4);
    w.nodes[BRAVO].stalled.insert("fetch");
    w.must(ALPHA, Command::DiskAttach);
    w.run_for(500);
    w.nodes[BRAVO].stalled.clear();
    for stamp in 10..20 {
        w.write(ALPHA, 5 + stamp % 4, 1, stamp);
        w.steps(9);
        let id = w.read(ALPHA, 4 * 4096, 6 * 4096);
        w.steps(9);
        let _ = id;
    }
    w.settle();
    w.equal();
    assert!(w.sent[&(BRAVO, "SyncDone")] == 1);
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.equal();
}

#[test]
fn a_diskless_primary_whose_peer_restarts_loses_no_marks() {
    let mut w = failing(ALPHA);
    w.crash(BRAVO);
    w.run_for(500);
    w.restart(BRAVO);
    w.settle();
    w.wrote(ALPHA, 1024 * 9, 2, 9);
    w.crash(BRAVO);
    w.run_for(500);
    w.restart(BRAVO);
    w.settle();
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(ALPHA, 1024 * 9, 2, 9);
}

#[test]
fn old_and_new_data_meet_right_when_a_primary_takes_its_disk_back() {
    for chaos in 1..40 {
        let mut w = failing(ALPHA);
        for place in 0..6 {
            w.wrote(ALPHA, place * 1024, 100, 50 + place);
        }
        w.setup.chaos = chaos;
        let attach = w.command(ALPHA, Command::DiskAttach);
        for stamp in 100..220 {
            let start = w.dice.below(6) * 1024 + w.dice.below(100);
            w.write(ALPHA, start, 6, stamp);
            w.steps(12);
        }
        w.settle();
        assert!(w.answer(ALPHA, attach).is_some_and(Result::is_ok));
        w.equal();
    }
}

#[test]
fn a_suspended_primary_with_a_full_log_goes_on() {
    let mut w = World::running(Setup { device_blocks: 256 * 1024, ..suspend() });
    w.hold_link(true);
    let ids: Vec<_> = (0..60u64).map(|i| w.write(ALPHA, i * 1024, 4, i + 1)).collect();
    w.run_for(10);
    w.hold_link(false);
    w.cut();
    w.run_for(1_000);
    w.restore();
    w.settle();
    assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
    w.equal();
}

#[test]
fn what_cannot_be_read_of_the_records_counts_as_dirty() {
    for what in ["page", "log"] {
        let mut w = World::running(Setup { log_extents: 1_500, ..Setup::default() });
        w.wrote(ALPHA, 0, 10, 1);
        w.settle();
        w.crash(ALPHA);
        w.settle();
        if what == "page" {
            w.nodes[ALPHA].medium.put_page(PageId { slot: 0, page: 0 }, None);
        } else {
            w.nodes[ALPHA].medium.meta.ring.iter_mut().for_each(|block| block[100] ^= 1);
        }
        w.nodes[BRAVO].medium.write(20_000, Some(crate::medium::fill(66, 20_000)), true);
        w.restart(ALPHA);
        w.settle();
        w.equal();
        assert!(w.status(ALPHA).peers[0].last_resync_blocks > 32_000, "{what}");
        // It was mended: the next crash costs what any crash costs.
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 3 * 1024, 1, 2);
        w.crash(ALPHA);
        w.settle();
        w.restart(ALPHA);
        w.settle();
        w.equal();
        assert_eq!(w.status(ALPHA).peers[0].last_resync_blocks, 1024, "{what}");
    }
}

#[test]
fn an_unreadable_log_is_mended_whatever_moment_the_node_dies_in() {
    for steps in 0..40 {
        let mut w = World::running(Setup { log_extents: 1_500, ..Setup::default() });
        w.wrote(ALPHA, 0, 10, 1);
        w.settle();
        w.hold_link(true);
        w.write(ALPHA, 9_000, 4, 5);
        w.run_for(20);
        w.crash(ALPHA);
        w.hold_link(false);
        w.settle();
        let ring = w.nodes[ALPHA].medium.meta.ring.len();
        w.nodes[ALPHA].medium.meta.ring[steps % ring][100] ^= 1;
        w.cut();
        w.restart(ALPHA);
        w.steps(steps as u64 / ring as u64);
        if steps % 2 == 0 {
            w.crash(ALPHA);
        } else {
            w.power_cut(ALPHA);
        }
        w.restart(ALPHA);
        w.settle();
        w.restore();
        w.settle();
        w.equal();
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 3 * 1024, 1, 2);
        w.crash(ALPHA);
        w.settle();
        w.restart(ALPHA);
        w.settle();
        w.equal();
        // Damage that provably is a write cut short leaves the extents hot that were.
        assert!(w.status(ALPHA).peers[0].last_resync_blocks <= 3 * 1024, "{steps}");
    }
}

#[test]
fn a_disk_that_fails_while_its_log_is_mended_is_let_go_of() {
    let mut w = World::running(Setup::default());
    w.must(BRAVO, Command::DiskDetach);
    w.settle();
    w.nodes[BRAVO].medium.meta.ring.iter_mut().for_each(|block| block[100] ^= 1);
    w.nodes[BRAVO].stalled.insert("log");
    let id = w.command(BRAVO, Command::DiskAttach);
    w.run_for(100);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.until("answered", |w| w.answer(BRAVO, id).is_some());
    assert!(matches!(w.answer(BRAVO, id), Some(Err(_))));
    w.settle();
    assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

#[test]
fn the_source_after_a_crash_is_who_kept_the_power_unless_the_peer_may_be_behind() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for power in [false, true] {
            let mut w = World::running(under(protocol));
            w.wrote(ALPHA, 5, 4, 1);
            w.until("the peer has it", |w| {
                let data = read_blocks(&w.nodes[BRAVO].medium, twinblk::units::Blocks::new(5, 1));
                crate::medium::stamp_of(&data, 5) == Some(1)
            });
            if power {
                w.nodes[ALPHA].medium.lose_unsynced();
                w.power_cut(ALPHA);
            } else {
                w.crash(ALPHA);
            }
            w.run_for(100);
            w.restart(ALPHA);
            w.settle();
            w.equal();
            // Under A the former primary is source: what its host lost unflushed is gone.
            w.holds(BRAVO, 5, 4, if power && protocol == Protocol::A { 0 } else { 1 });
            let from = usize::from(power && protocol != Protocol::A);
            assert!(w.sent.contains_key(&(from, "SyncStart")), "{protocol:?} {power}");
        }
    }
}

/// G2, G4: under B the peer acknowledges out of its memory. If its process ends as well, the disk of
/// the former primary is the one that has what was flushed.
#[test]
fn under_b_a_peer_that_forgot_what_it_received_is_not_the_source() {
    for peer in ["lives", "was killed", "was killed, and then stopped"] {
        let mut w = World::running(under(Protocol::B));
        w.nodes[BRAVO].stalled.insert("store");
        w.wrote(ALPHA, 5, 4, 1);
        let flush = w.flush(ALPHA);
        w.until("flushed", |w| w.done(ALPHA, flush));
        w.wrote(ALPHA, 5, 4, 2);
        w.nodes[ALPHA].medium.lose_unsynced();
        w.power_cut(ALPHA);
        let killed = peer.contains("killed");
        if killed {
            w.nodes[BRAVO].pending.clear();
            w.crash(BRAVO);
        }
        w.nodes[BRAVO].stalled.clear();
        if killed {
            w.restart(BRAVO);
        }
        if peer.contains("stopped") {
            w.run_for(100);
            w.must(BRAVO, Command::Stop);
            w.crash(BRAVO);
            w.restart(BRAVO);
        }
        w.run_for(100);
        w.restart(ALPHA);
        w.settle();
        w.equal();
        w.holds(ALPHA, 5, 4, if killed { 1 } else { 2 });
    }
}

/// G2: a peer that was stopped with nothing left in memory, for an upgrade say, has all that it
/// acknowledged.
#[test]
fn under_b_a_peer_that_was_stopped_in_order_is_the_source_after_a_power_cut() {
    let mut w = World::running(under(Protocol::B));
    w.wrote(ALPHA, 5, 4, 1);
    w.nodes[ALPHA].medium.lose_unsynced();
    w.power_cut(ALPHA);
    w.run_for(100);
    w.must(BRAVO, Command::Stop);
    w.crash(BRAVO);
    w.restart(BRAVO);
    w.restart(ALPHA);
    w.settle();
    w.equal();
    w.holds(ALPHA, 5, 4, 1);
}
