//! Owns what operators are told and refused, and what their commands leave behind.

use crate::world::*;
use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const PROMOTE: Command = Command::Promote { force: false };
const CONNECT: Command = Command::Connect { discard_my_data: false };

fn suspend() -> World {
    World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() })
}

/// What was told of one kind of change, as old and new state.
fn told(w: &World, node: usize, what: &str) -> Vec<(String, String)> {
    let changes = w.nodes[node].changes.iter().filter(|change| change.what == what);
    changes.map(|change| (change.old.clone(), change.new.clone())).collect()
}

#[test]
fn changes_are_told_once_in_the_words_of_status() {
    let mut w = World::running(Setup::default());
    w.cut();
    w.settle();
    w.wrote(ALPHA, 5, 40, 1);
    w.restore();
    w.settle();
    w.must(ALPHA, Command::Demote);
    w.settle();
    let status = [
        "Off",
        "Negotiating",
        "Established",
        "SyncSource",
        "SyncTarget",
        "Primary",
        "Secondary",
        "UpToDate",
        "Outdated",
        "Consistent",
        "Inconsistent",
        "Diskless",
        "Connected",
        "Connecting",
        "StandAlone",
        "unknown",
    ];
    for node in [ALPHA, BRAVO] {
        for what in ["replication", "disk", "connection", "role", "peer-role", "peer-disk"] {
            let told = told(&w, node, what);
            for (old, new) in &told {
                assert!(status.contains(&old.as_str()), "{what}: {old}");
                assert!(status.contains(&new.as_str()), "{what}: {new}");
                assert_ne!(old, new, "{what}");
            }
            // Each begins where the one before ended: none is missing, none told twice.
            assert!(told.windows(2).all(|pair| pair[0].1 == pair[1].0), "{what}: {told:?}");
        }
        let last = |what| told(&w, node, what).pop().map(|(_, new)| new);
        assert_eq!(last("replication").as_deref(), Some("Established"));
        assert_eq!(last("peer-role").as_deref(), Some("Secondary"));
        assert_eq!(last("peer-disk").as_deref(), Some("UpToDate"));
    }
    let resync = told(&w, BRAVO, "replication");
    assert!(resync.contains(&("SyncTarget".to_owned(), "Established".to_owned())), "{resync:?}");
    for change in w.nodes.iter().flat_map(|node| &node.changes) {
        let odd = ["Some(", "None", "Generation {", "(Marks)", "Waits"];
        let text = format!("{} {} {}", change.old, change.new, change.cause);
        assert!(!odd.iter().any(|odd| text.contains(odd)), "{change:?}");
        assert!(!change.cause.is_empty(), "{change:?}");
    }
}

#[test]
fn waiting_clients_are_told_and_status_names_the_command() {
    let mut w = suspend();
    w.cut();
    w.run_for(1_000);
    let words = w.status(ALPHA).suspended;
    assert!(words.contains("`twinblk resume r0`"), "{words}");
    w.must(ALPHA, Command::Resume);
    w.restore();
    w.settle();
    let io = told(&w, ALPHA, "io");
    assert_eq!(io.last().map(|(old, new)| (old.as_str(), new.as_str())), Some(("waits", "flows")));
    // The word was for once.
    w.cut();
    w.run_for(1_000);
    assert!(!w.status(ALPHA).suspended.is_empty());
    w.restore();
    w.settle();
    w.equal();
}

#[test]
fn disconnect_is_answered_when_it_is_done() {
    for node in [ALPHA, BRAVO] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 1);
        w.nodes[BRAVO].stalled.insert("superblock");
        let id = w.command(node, Command::Disconnect);
        w.run_for(1_000);
        if node == BRAVO {
            assert!(w.answer(node, id).is_none(), "its word is not on record");
            assert_eq!(w.refused(node, CONNECT), "busy");
        }
        w.nodes[BRAVO].stalled.clear();
        w.until("answered", |w| w.answer(node, id).is_some());
        assert_eq!(w.status(node).peers[0].connection, Connection::StandAlone);
        assert_eq!(w.status(node).peers[0].replication, Replication::Off);
        w.settle();
        assert_eq!(w.status(BRAVO).disk, DiskState::Outdated);
        w.must(node, Command::Disconnect);
        w.wrote(ALPHA, 6, 1, 2);
        w.must(node, CONNECT);
        w.settle();
        w.equal();
    }
}

#[test]
fn disconnect_is_refused_where_clients_would_come_to_wait() {
    let mut w = suspend();
    assert_eq!(w.refused(ALPHA, Command::Disconnect), "would-suspend");
    assert_eq!(w.refused(BRAVO, Command::Disconnect), "would-suspend");
    w.must(ALPHA, Command::Resume);
    w.must(ALPHA, Command::Disconnect);
    w.wrote(ALPHA, 5, 1, 1);
    w.must(ALPHA, CONNECT);
    w.settle();
    w.equal();
}

#[test]
fn the_only_copy_a_primary_works_on_stays_in_reach() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 1, 1);
    for node in [ALPHA, BRAVO] {
        assert_eq!(w.refused(node, Command::Disconnect), "last-copy");
    }
    assert_eq!(w.refused(BRAVO, Command::DiskDetach), "last-copy");
    assert_eq!(w.refused(BRAVO, Command::Invalidate), "last-copy");
    w.wrote(ALPHA, 6, 1, 2);
    w.must(ALPHA, Command::DiskAttach);
    w.settle();
    w.equal();
    w.must(BRAVO, Command::Disconnect);
}

#[test]
fn a_copy_that_was_given_up_is_told_from_one_just_created() {
    let mut w = World::new(Setup::default());
    w.settle();
    assert!(w.status(BRAVO).just_created);
    assert_eq!(w.refused(BRAVO, PROMOTE), "just-created");
    w.must(ALPHA, Command::InitFrom);
    w.settle();
    w.cut();
    w.settle();
    w.must(BRAVO, Command::Invalidate);
    assert_eq!(w.refused(BRAVO, PROMOTE), "no-data");
    assert!(!w.status(BRAVO).just_created);
    let words = w.status(BRAVO).disk_reason;
    assert!(words.contains("given up") && !words.contains("init"), "{words}");
    w.crash(BRAVO);
    w.restart(BRAVO);
    w.settle();
    assert_eq!(w.refused(BRAVO, PROMOTE), "no-data");
    w.restore();
    w.settle();
    w.equal();
    assert_eq!(w.status(BRAVO).disk_reason, "");
    w.must(BRAVO, PROMOTE);
}

#[test]
fn a_secondary_that_stops_cleanly_missed_nothing() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 40, 1);
    w.must(BRAVO, Command::Stop);
    w.crash(BRAVO);
    // What it was told to be stable is: the power may go.
    w.nodes[BRAVO].medium.lose_unsynced();
    w.settle();
    assert_eq!(w.status(ALPHA).peers[0].out_of_sync_blocks, 0);
    w.restart(BRAVO);
    w.settle();
    w.equal();
    assert_eq!(w.sent.get(&(ALPHA, "SyncStart")), None, "nothing to resync");
}

#[test]
fn a_secondary_that_stops_under_load_misses_only_what_came_since() {
    let mut w = World::running(Setup::default());
    for place in 0..200 {
        w.wrote(ALPHA, place * 7, 4, 1 + place);
    }
    let ids: Vec<_> = (0..50).map(|i| w.write(ALPHA, 20_000 + i * 9, 1, 900 + i)).collect();
    w.must(BRAVO, Command::Stop);
    w.crash(BRAVO);
    w.nodes[BRAVO].medium.lose_unsynced();
    w.until("all written", |w| ids.iter().all(|id| w.done(ALPHA, *id)));
    w.settle();
    assert!(w.status(ALPHA).peers[0].out_of_sync_blocks <= 50);
    w.restart(BRAVO);
    w.settle();
    w.equal();
}

#[test]
fn a_stop_waits_for_no_disk_that_fails_and_for_no_peer_that_went() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 4, 1);
    w.nodes[BRAVO].medium.broken = true;
    w.must(BRAVO, Command::Stop);
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 5, 4, 1);
    w.nodes[BRAVO].stalled.insert("sync");
    let id = w.command(BRAVO, Command::Stop);
    w.run_for(100);
    assert!(w.answer(BRAVO, id).is_none());
    assert_eq!(w.refused(BRAVO, Command::Stop), "stopping");
    w.cut();
    w.until("stopped", |w| w.answer(BRAVO, id).is_some());
}

#[test]
fn a_stop_waits_for_the_disk_that_is_being_opened_and_then_ends() {
    for stage in ["open", "superblock", "pages"] {
        for node in [ALPHA, BRAVO] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 4, 1);
            w.crash(node);
            w.nodes[node].stalled.insert(stage);
            w.start(node);
            w.run_for(20);
            let id = w.command(node, Command::Stop);
            w.run_for(1_000);
            let held = w.nodes[node].pending.iter().any(|pending| pending.work.name() == stage);
            assert_eq!(w.answer(node, id).is_none(), held, "{stage}");
            w.nodes[node].stalled.clear();
            w.until("stopped", |w| w.answer(node, id).is_some_and(Result::is_ok));
            w.settle();
            w.crash(node);
            w.restart(node);
            w.settle();
            w.equal();
        }
    }
}

#[test]
fn a_stop_ends_a_promotion_and_follows_a_demotion() {
    // Before the peer has answered; while the role is being recorded; while it is given up.
    for stage in ["PromoteAnswer", "superblock", "demote"] {
        let mut w = World::running(Setup::default());
        w.settle();
        w.must(ALPHA, Command::Demote);
        w.settle();
        let before = match stage {
            "demote" => {
                w.must(ALPHA, PROMOTE);
                w.wrote(ALPHA, 5, 4, 1);
                w.nodes[ALPHA].stalled.insert("superblock");
                w.command(ALPHA, Command::Demote)
            }
            "superblock" => {
                w.nodes[ALPHA].stalled.insert(stage);
                w.command(ALPHA, PROMOTE)
            }
            _ => {
                w.nodes[BRAVO].stalled.insert("superblock");
                w.command(ALPHA, PROMOTE)
            }
        };
        w.run_for(20);
        assert!(w.answer(ALPHA, before).is_none(), "{stage}");
        let id = w.command(ALPHA, Command::Stop);
        w.run_for(20);
        w.nodes[ALPHA].stalled.clear();
        w.nodes[BRAVO].stalled.clear();
        w.until("stopped", |w| w.answer(ALPHA, id).is_some());
        assert!(w.answer(ALPHA, id).is_some_and(Result::is_ok), "{stage}");
        assert!(w.answer(ALPHA, before).is_some(), "{stage}");
        assert_eq!(w.role(ALPHA), Role::Secondary, "{stage}");
        w.crash(ALPHA);
        w.restart(ALPHA);
        w.settle();
        w.equal();
    }
}

#[test]
fn roles_are_told_to_the_peer() {
    let mut w = World::running(Setup::default());
    w.must(ALPHA, Command::Demote);
    w.run_for(10);
    assert_eq!(w.status(BRAVO).peers[0].role, Some(Role::Secondary));
    w.must(BRAVO, PROMOTE);
    w.run_for(10);
    assert_eq!(w.status(ALPHA).peers[0].role, Some(Role::Primary));
}

/// G13: what the disk lacks is taken over first; a demotion in between would not know it.
#[test]
fn a_demotion_waits_for_a_disk_that_is_taken_over() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.must(ALPHA, Command::DiskDetach);
    w.wrote(ALPHA, 5, 3, 2);
    w.settle();
    w.nodes[ALPHA].stalled.insert("superblock");
    let attach = w.command(ALPHA, Command::DiskAttach);
    w.run_for(20);
    assert!(w.answer(ALPHA, attach).is_none(), "it is taken over");
    let demote = w.command(ALPHA, Command::Demote);
    w.run_for(20);
    let early = w.answer(ALPHA, demote).expect("answered at once");
    assert_eq!(early.as_ref().map_err(|refusal| refusal.reason), Err("busy"));
    assert_eq!(w.role(ALPHA), Role::Primary);
    w.nodes[ALPHA].stalled.clear();
    w.settle();
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.holds(ALPHA, 5, 3, 2);
    w.equal();
}

/// G14: what is forgotten stays forgotten, wherever the resync to it stands.
#[test]
fn a_copy_that_is_forgotten_as_its_resync_ends_comes_from_the_peer_as_a_whole() {
    for steps in 0..60 {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 1);
        w.settle();
        w.cut();
        w.settle();
        w.wrote(ALPHA, 5, 3, 2);
        w.restore();
        w.until("it ends", |w| w.sent.contains_key(&(ALPHA, "SyncDone")));
        w.steps(steps);
        let forget = w.command(BRAVO, Command::Invalidate);
        w.settle();
        w.answer(BRAVO, forget).expect("answered").as_ref().expect("granted");
        let status = w.status(BRAVO);
        assert_eq!(status.disk, DiskState::UpToDate, "after {steps}");
        assert!(status.peers[0].last_resync_blocks > 3, "all of it, after {steps}: {status:?}");
        w.holds(BRAVO, 5, 3, 2);
        w.equal();
    }
}

/// G14: the word counts once all in reach have agreed, not before.
#[test]
fn a_forced_promotion_that_fails_changes_nothing() {
    let mut w = World::running(Setup::default());
    w.settle();
    w.cut();
    w.settle();
    w.wrote(ALPHA, 0, 900, 2);
    w.nodes[ALPHA].stalled.insert("fetch");
    w.restore();
    w.until("half", |w| w.status(BRAVO).disk == DiskState::Inconsistent);
    w.nodes[ALPHA].medium.broken = true;
    w.nodes[ALPHA].stalled.clear();
    w.until("let go of", |w| w.status(ALPHA).disk == DiskState::Diskless);
    w.nodes[ALPHA].medium.broken = false;
    w.must(ALPHA, Command::Demote);
    w.must(ALPHA, CONNECT);
    w.must(BRAVO, CONNECT);
    w.settle();
    assert_eq!(w.status(BRAVO).peers[0].connection, Connection::Connected);
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.hold_link(true);
    let forced = w.command(BRAVO, Command::Promote { force: true });
    w.run_for(5);
    assert!(w.answer(BRAVO, forced).is_none(), "the peer is asked");
    w.hold_link(false);
    w.cut();
    w.settle();
    let refusal = w.answer(BRAVO, forced).expect("answered").as_ref().expect_err("refused");
    assert_eq!(refusal.reason, "link-lost");
    for restarts in [false, true] {
        if restarts {
            w.crash(BRAVO);
            w.restart(BRAVO);
            w.settle();
        }
        assert_eq!(
            (w.role(BRAVO), w.status(BRAVO).disk),
            (Role::Secondary, DiskState::Inconsistent)
        );
        assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    }
    w.must(ALPHA, Command::DiskAttach);
    w.restore();
    w.settle();
    w.holds(BRAVO, 0, 900, 2);
    w.equal();
}
