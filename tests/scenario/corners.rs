//! Owns the stories of commands and requests that come at the wrong moment, which neither the
//! field's suite nor a world of the simulator comes to. Must never judge by words alone: after each
//! refusal the right moment comes.

use crate::found::{flushed, stand_alone, under};
use crate::medium::{Medium, fill};
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::limits::LINEAGE_ENTRIES;
use twinblk::replica::event::*;

const PROMOTE: Command = Command::Promote { force: false };
const CONNECT: Command = Command::Connect { discard_my_data: false };
const VERIFY: Command = Command::Verify { repair: false };

/// The reason of a refusal whose next step is to wait.
fn not_now(w: &mut World, node: usize, command: Command) -> &'static str {
    w.order(node, command).expect_err("refused").reason
}

/// Two nodes in sync, both secondary.
fn at_rest() -> World {
    let mut w = World::new(Setup::default());
    w.both_empty();
    w
}

fn created() -> World {
    let mut w = World::new(Setup::default());
    w.settle();
    w
}

/// Two nodes just created begin with zeroes, whatever came before.
fn begins(mut w: World) {
    w.settle();
    w.must(ALPHA, Command::InitEmpty);
    w.settle();
    w.equal();
    w.must(ALPHA, PROMOTE);
    w.wrote(ALPHA, 5, 1, 2);
    w.settle();
    w.equal();
}

fn not_primary(w: &World, id: RequestId) -> bool {
    matches!(w.reply(ALPHA, id), Some(Err(RequestError::NotPrimary)))
}

/// G18: two beginnings would be two histories.
#[test]
fn of_two_offers_to_begin_with_zeroes_at_most_one_is_taken() {
    let mut w = created();
    let ids = [ALPHA, BRAVO].map(|node| (node, w.command(node, Command::InitEmpty)));
    w.settle();
    let taken = ids.iter().filter(|(node, id)| w.answer(*node, *id).expect("answered").is_ok());
    if taken.count() == 0 {
        return begins(w);
    }
    w.equal();
    w.must(ALPHA, PROMOTE);
}

/// G24: nothing has begun that the other node does not know of.
#[test]
fn an_offer_to_begin_with_zeroes_ends_with_the_link_while_a_disk_is_looked_through() {
    for node in [ALPHA, BRAVO] {
        let mut w = created();
        w.nodes[node].stalled.insert("scan");
        let id = w.command(ALPHA, Command::InitEmpty);
        w.run_for(20);
        assert_eq!(not_now(&mut w, ALPHA, Command::InitEmpty), "busy", "scanned by {node}");
        w.cut();
        w.nodes[node].stalled.clear();
        w.run_for(20);
        assert!(w.answer(ALPHA, id).is_some_and(Result::is_err));
        assert_eq!(not_now(&mut w, ALPHA, Command::InitEmpty), "not-connected");
        w.restore();
        begins(w);
    }
}

/// G24: who is just meeting is not "not connected".
#[test]
fn to_begin_with_zeroes_the_nodes_must_have_met() {
    let mut w = created();
    w.cut();
    w.nodes[BRAVO].stalled.insert("superblock");
    w.restore();
    w.run_for(1_000);
    for node in [ALPHA, BRAVO] {
        assert_eq!(not_now(&mut w, node, Command::InitEmpty), "negotiating");
    }
    w.nodes[BRAVO].stalled.clear();
    begins(w);
}

/// G24: a disk that cannot be read is not empty.
#[test]
fn a_disk_that_cannot_be_looked_through_is_not_taken_for_empty() {
    for (node, reason) in [(ALPHA, "not-scanned"), (BRAVO, "not-empty")] {
        let mut w = created();
        w.nodes[node].medium.broken = true;
        assert_eq!(not_now(&mut w, ALPHA, Command::InitEmpty), reason);
        w.nodes[node].medium.broken = false;
        begins(w);
    }
}

/// G24: the offer was accepted in memory only.
#[test]
fn an_offer_to_begin_with_zeroes_is_refused_if_it_cannot_be_recorded() {
    let mut w = created();
    w.nodes[BRAVO].stalled.insert("superblock");
    let id = w.command(ALPHA, Command::InitEmpty);
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = true;
    w.nodes[BRAVO].stalled.clear();
    w.until("answered", |w| w.answer(ALPHA, id).is_some());
    assert!(w.answer(ALPHA, id).is_some_and(Result::is_err));
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = false;
    w.must(BRAVO, Command::DiskAttach);
    begins(w);
}

/// G24: the operator was told to try again, and the peer has begun: there is one beginning.
#[test]
fn a_peer_that_begins_with_zeroes_unheard_is_the_source() {
    let mut w = created();
    w.nodes[BRAVO].stalled.insert("superblock");
    let id = w.command(ALPHA, Command::InitEmpty);
    w.run_for(20);
    w.cut();
    w.nodes[BRAVO].stalled.clear();
    w.run_for(20);
    assert!(w.answer(ALPHA, id).is_some_and(Result::is_err));
    w.restore();
    w.settle();
    w.equal();
    w.must(ALPHA, PROMOTE);
}

/// G18: the first copy is on its way already.
#[test]
fn a_node_whose_peer_has_data_is_not_a_second_beginning() {
    let mut w = created();
    w.hold_kind(ALPHA, "SyncStart", true);
    w.must(ALPHA, Command::InitFrom);
    w.run_for(100);
    assert_eq!(not_now(&mut w, BRAVO, Command::InitFrom), "peer-has-data");
    w.hold_kind(ALPHA, "SyncStart", false);
    w.settle();
    w.equal();
}

/// G19: what is about to be served is not forgotten.
#[test]
fn a_copy_is_not_forgotten_while_its_role_changes_or_its_disk_is_away() {
    let mut w = at_rest();
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    let promote = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    assert_eq!(not_now(&mut w, ALPHA, Command::Invalidate), "busy");
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.until("promoted", |w| w.answer(ALPHA, promote).is_some_and(Result::is_ok));
    w.wrote(ALPHA, 5, 1, 2);
    w.must(BRAVO, Command::DiskDetach);
    assert_eq!(not_now(&mut w, BRAVO, Command::Invalidate), "no-disk");
    w.run_for(20);
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

/// G19: nobody becomes primary on a disk that went meanwhile, and nobody waits for that.
#[test]
fn a_promotion_ends_with_the_disk_that_was_to_be_served() {
    let mut w = at_rest();
    w.hold_kind(BRAVO, "PromoteAnswer", true);
    let promote = w.command(ALPHA, PROMOTE);
    w.run_for(20);
    w.must(ALPHA, Command::DiskDetach);
    w.hold_kind(BRAVO, "PromoteAnswer", false);
    w.until("answered", |w| w.answer(ALPHA, promote).is_some());
    assert!(w.answer(ALPHA, promote).is_some_and(Result::is_err));
    assert!(!w.nodes[ALPHA].serving);
    w.run_for(20);
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.must(BRAVO, PROMOTE);
    w.wrote(BRAVO, 5, 1, 2);
    w.settle();
    w.equal();
}

/// G20: what comes after a demotion began is not part of it.
#[test]
fn requests_and_commands_that_come_during_a_demotion_are_refused() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.nodes[ALPHA].stalled.insert("store");
    let write = w.write(ALPHA, 5, 1, 2);
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(20);
    let late = [w.flush(ALPHA), w.write(ALPHA, 6, 1, 3), w.read(ALPHA, 0, 4096)];
    assert!(late.iter().all(|id| not_primary(&w, *id)));
    assert_eq!(w.refused(ALPHA, PROMOTE), "busy");
    assert_eq!(w.refused(ALPHA, Command::Demote), "busy");
    w.nodes[ALPHA].stalled.clear();
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some_and(Result::is_ok));
    assert!(w.done(ALPHA, write));
    let late = w.flush(ALPHA);
    assert!(not_primary(&w, late));
    w.settle();
    w.equal();
    w.holds(BRAVO, 6, 1, 0);
}

/// G20: clients of a node that is no primary any more wait for nothing.
#[test]
fn a_demotion_ends_reads_that_wait_for_a_peer_to_be_met() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.settle();
    w.hold_kind(BRAVO, "State", true);
    w.blip();
    w.run_for(5);
    let read = w.read(ALPHA, 5 * 4096, 4096);
    let write = w.write_bytes(ALPHA, 7 * 4096 + 10, &[1; 5000], false);
    w.run_for(5);
    assert!(w.reply(ALPHA, read).is_none() && w.reply(ALPHA, write).is_none());
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(5);
    assert!(not_primary(&w, read) && not_primary(&w, write));
    w.hold_kind(BRAVO, "State", false);
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some_and(Result::is_ok));
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.holds(BRAVO, 7, 2, 0);
}

/// G5, G20: a write in the middle of blocks, of which only one can be read in time.
#[test]
fn a_write_that_is_given_up_with_one_of_its_edges_read_ends_once_and_changes_nothing() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 1, 2);
    w.settle();
    w.nodes[BRAVO].stalled.insert("fetch");
    w.must(ALPHA, Command::DiskAttach);
    w.until("begun", |w| w.status(ALPHA).peers[0].replication == Replication::SyncTarget);
    w.run_for(20);
    w.nodes[ALPHA].stalled.insert("fetch");
    let write = w.write_bytes(ALPHA, 4 * 4096 + 10, &[1; 4096], false);
    w.run_for(20);
    w.cut();
    w.run_for(20);
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(20);
    assert!(w.reply(ALPHA, write).is_none(), "its head is being read");
    w.nodes[ALPHA].stalled.clear();
    w.nodes[BRAVO].stalled.clear();
    w.until("demoted", |w| w.answer(ALPHA, demote).is_some_and(Result::is_ok));
    assert!(not_primary(&w, write));
    w.restore();
    w.settle();
    w.equal();
    w.holds(ALPHA, 4, 1, 0);
    w.holds(ALPHA, 5, 1, 2);
}

/// G12: only what this verify asked for counts.
#[test]
fn what_comes_late_of_a_verify_that_was_given_up_is_not_counted() {
    for late in ["answers", "hashes"] {
        let mut w = World::running(Setup::default());
        w.settle();
        w.nodes[BRAVO].medium.write(30_000, Some(fill(9, 30_000)), true);
        if late == "answers" {
            w.hold_kind(BRAVO, "VerifyAnswer", true);
        } else {
            w.nodes[ALPHA].stalled.insert("digest");
        }
        w.must(ALPHA, VERIFY);
        w.run_for(20);
        w.must(ALPHA, Command::Demote);
        w.must(ALPHA, VERIFY);
        w.run_for(20);
        w.hold_kind(BRAVO, "VerifyAnswer", false);
        w.nodes[ALPHA].stalled.clear();
        w.settle();
        let peer = w.status(ALPHA).peers[0].clone();
        assert_eq!(peer.verify_done_blocks, w.setup.device_blocks, "{late}");
        assert_eq!(peer.verify_differing_blocks, 1, "{late}");
        w.must(ALPHA, PROMOTE);
        w.must(ALPHA, Command::Verify { repair: true });
        w.settle();
        w.equal();
    }
}

/// G12: what the peer holds back for a flush is on its way, and no difference.
#[test]
fn a_verify_waits_for_writes_that_the_peer_holds_back() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = under(protocol);
        w.settle();
        w.nodes[BRAVO].stalled.insert("sync");
        w.wrote(ALPHA, 4, 1, 9);
        flushed(&mut w, ALPHA);
        w.wrote(ALPHA, 5, 1, 10);
        w.must(ALPHA, VERIFY);
        w.run_for(200);
        w.holds(BRAVO, 5, 1, 0);
        w.nodes[BRAVO].stalled.clear();
        w.settle();
        let peer = w.status(ALPHA).peers[0].clone();
        assert_eq!(peer.verify_done_blocks, w.setup.device_blocks, "{protocol:?}");
        assert_eq!(peer.verify_differing_blocks, 0, "{protocol:?}");
        w.equal();
    }
}

/// G12: nobody compares without a disk.
#[test]
fn a_verify_that_finds_the_peers_disk_gone_compares_nothing() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.hold_kind(ALPHA, "VerifyAsk", true);
    w.must(ALPHA, VERIFY);
    w.run_for(20);
    w.must(BRAVO, Command::DiskDetach);
    w.run_for(20);
    w.hold_kind(ALPHA, "VerifyAsk", false);
    w.settle();
    assert_eq!(w.status(ALPHA).peers[0].verify_done_blocks, 0);
    w.must(BRAVO, Command::DiskAttach);
    w.settle();
    w.equal();
}

fn does_not_fit(w: &World, words: &str) {
    assert_eq!(stand_alone(w), [true, true]);
    let reason = &w.status(ALPHA).peers[0].connection_reason;
    assert!(reason.contains(words), "{reason}");
}

/// G24: neither is overwritten, and the one that serves goes on.
#[test]
fn nodes_that_do_not_fit_together_leave_each_other_alone() {
    for words in ["protocol", "same size"] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 2);
        w.settle();
        w.crash(BRAVO);
        let disk = w.nodes[BRAVO].medium.clone();
        if words == "protocol" {
            w.setup.protocol = Protocol::B;
        } else {
            w.nodes[BRAVO].medium = Medium::new(1, 1024, 16, &mut w.dice);
        }
        w.restart(BRAVO);
        w.settle();
        does_not_fit(&w, words);
        w.wrote(ALPHA, 6, 1, 3);
        w.crash(BRAVO);
        w.setup.protocol = Protocol::C;
        w.nodes[BRAVO].medium = disk;
        w.restart(BRAVO);
        w.must(ALPHA, CONNECT);
        w.settle();
        w.equal();
        w.holds(BRAVO, 5, 1, 2);
        w.holds(BRAVO, 6, 1, 3);
    }
}

/// G18: two beginnings out of each other's sight are two resources.
#[test]
fn disks_of_two_resources_are_never_brought_together() {
    let mut w = World::new(Setup::default());
    w.cut();
    w.settle();
    for node in [ALPHA, BRAVO] {
        w.must(node, Command::InitFrom);
        w.must(node, PROMOTE);
        w.wrote(node, 5, 1, 2 + node as u64);
        w.must(node, Command::Demote);
    }
    w.restore();
    w.settle();
    does_not_fit(&w, "different resources");
    w.holds(ALPHA, 5, 1, 2);
    w.holds(BRAVO, 5, 1, 3);
}

/// G20: each command is answered at once, and the one before it goes on.
#[test]
fn a_disk_is_attached_once_and_only_if_it_can_be_read() {
    let mut w = World::running(Setup::default());
    w.must(BRAVO, Command::DiskDetach);
    w.wrote(ALPHA, 5, 1, 2);
    w.run_for(20);
    w.nodes[BRAVO].medium.broken = true;
    assert_eq!(not_now(&mut w, BRAVO, Command::DiskAttach), "disk-not-opened");
    assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
    w.nodes[BRAVO].medium.broken = false;
    w.nodes[BRAVO].stalled.insert("open");
    let attach = w.command(BRAVO, Command::DiskAttach);
    w.run_for(20);
    for command in [Command::DiskAttach, Command::DiskDetach] {
        assert_eq!(not_now(&mut w, BRAVO, command), "busy");
    }
    w.nodes[BRAVO].stalled.clear();
    w.until("attached", |w| w.answer(BRAVO, attach).is_some_and(Result::is_ok));
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 2);
}

/// G13, G20: a node that stops takes no office and meets nobody, then and once it has stopped.
#[test]
fn a_node_that_stops_begins_nothing_anew() {
    let mut w = at_rest();
    w.nodes[BRAVO].stalled.insert("superblock");
    let stop = w.command(BRAVO, Command::Stop);
    w.run_for(1_000);
    assert!(w.answer(BRAVO, stop).is_none());
    let commands = [PROMOTE, CONNECT, Command::DiskDetach, Command::Invalidate, Command::Stop];
    for command in commands {
        assert_eq!(w.refused(BRAVO, command), "stopping");
    }
    w.nodes[BRAVO].stalled.clear();
    w.until("stopped", |w| w.answer(BRAVO, stop).is_some_and(Result::is_ok));
    for command in commands {
        assert_eq!(w.refused(BRAVO, command), "stopping");
    }
    w.settle();
    assert_eq!(w.status(BRAVO).peers[0].replication, Replication::Off);
    assert_eq!(w.role(BRAVO), Role::Secondary);
    assert!(!w.nodes[BRAVO].serving);
}

/// G1 under B: receipts have gaps where blocks of a resync came between.
#[test]
fn under_b_writes_among_the_blocks_of_a_resync_are_all_acknowledged() {
    for chaos in 1..20 {
        let mut w = World::running(Setup { protocol: Protocol::B, ..Setup::default() });
        w.settle();
        w.cut();
        (0..60).for_each(|place| w.wrote(ALPHA, place * 300, 20, 1 + place));
        w.setup.chaos = chaos;
        w.restore();
        w.until("begun", |w| w.status(ALPHA).peers[0].replication == Replication::SyncSource);
        let mut ids = Vec::new();
        for place in 0..60 {
            ids.push(w.write(ALPHA, place * 300 + 10, 2, 100 + place));
            w.steps(3);
        }
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
        w.equal();
        (0..60).for_each(|place| w.holds(BRAVO, place * 300 + 10, 2, 100 + place));
    }
}

/// G8, G18: of a long history only the newest part is kept, which is enough for who takes part in
/// it; a copy from before it is not taken for a part.
#[test]
fn a_history_may_be_longer_than_what_is_kept_of_it() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.crash(BRAVO);
    let old = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    let reads = |w: &World, node: usize| w.nodes[node].counts.get("fetch").map_or(0, |n| *n);
    for round in 0..2 * LINEAGE_ENTRIES as u64 {
        let primary = usize::from(round % 2 == 1);
        let before = reads(&w, primary);
        w.cut();
        w.wrote(primary, round, 1, 2 + round);
        w.restore();
        w.settle();
        w.equal();
        assert!(reads(&w, primary) < before + 9, "not all of it is copied in round {round}");
        w.must(primary, Command::Demote);
        w.run_for(20);
        w.must(1 - primary, PROMOTE);
    }
    w.crash(BRAVO);
    w.nodes[BRAVO].medium = old;
    w.restart(BRAVO);
    w.settle();
    assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
    w.holds(ALPHA, 0, 1, 2);
    assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate);
    w.must(BRAVO, Command::Invalidate);
    for node in [ALPHA, BRAVO] {
        w.must(node, CONNECT);
    }
    w.settle();
    w.equal();
    w.holds(BRAVO, 0, 1, 2);
}
