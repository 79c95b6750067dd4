//! Owns the field's tests of whose data is newer: generations begun and missed, old disks that come
//! back, crashed primaries. The split brain has a file of its own.

use crate::field::*;
use crate::medium::Medium;
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;

const DEVICE: u64 = 32 * 1024;

/// The disk of a node that is down is exchanged for `medium`, and the node started.
fn returns_with(w: &mut World, node: usize, medium: Medium) {
    w.nodes[node].medium = medium;
    w.nodes[node].changes.clear();
    w.restart(node);
    w.settle();
}

/// All of it was copied to `node`, and nobody called it equal before that.
#[track_caller]
fn was_copied_whole(w: &mut World, node: usize) {
    let changes = w.nodes[node].changes.iter().filter(|change| change.what == "replication");
    let told: Vec<_> = changes.map(|change| change.new.as_str()).collect();
    assert_eq!(told.first(), Some(&"Negotiating"), "{told:?}");
    assert_eq!(told.get(1), Some(&"SyncTarget"), "equal before it was copied: {told:?}");
    assert_eq!(copied(w, 1 - node), DEVICE);
    w.equal();
}

/// Both began with one preset generation, and the primary has written since; with the peer's disk of
/// the first day.
fn served_since_day0() -> (World, Medium) {
    let mut w = World::new(Setup::default());
    w.both_empty();
    stop(&mut w, BRAVO);
    let day0 = w.nodes[BRAVO].medium.clone();
    w.restart(BRAVO);
    w.settle();
    w.must(ALPHA, PROMOTE);
    w.wrote(ALPHA, 5, 40, 1);
    (w, day0)
}

/// day0-uuid-diskful-primary (and -three-node): both disks begin with one preset generation, the
/// primary writes, the peer's machine is given its disk of the first day again: twice, the second
/// time after it had missed writes. G13, G14: the same id is not the same data.
#[test]
fn day0_uuid_diskful_primary() {
    for missed in [false, true] {
        let (mut w, day0) = served_since_day0();
        for round in 0..2 {
            w.settle();
            stop(&mut w, BRAVO);
            if missed {
                w.wrote(ALPHA, 1024 * 3, 7, 2 + round);
            }
            returns_with(&mut w, BRAVO, day0.clone());
            was_copied_whole(&mut w, BRAVO);
            w.holds(BRAVO, 5, 40, 1);
        }
    }
}

/// The same, and nobody is primary when the disk of the first day comes back: whose it is cannot be
/// known, so neither is overwritten, and the words name what to do. G14, G18.
#[test]
fn day0_uuid_without_a_primary() {
    let (mut w, day0) = served_since_day0();
    w.must(ALPHA, Command::Demote);
    stop(&mut w, BRAVO);
    returns_with(&mut w, BRAVO, day0);
    assert_eq!(stand_alone(&w), [true, true]);
    w.holds(ALPHA, 5, 40, 1);
    w.holds(BRAVO, 5, 40, 0);
    BOTH.into_iter().for_each(|node| assert_eq!(w.refused(node, PROMOTE), "undecided"));
    w.must(BRAVO, Command::Invalidate);
    BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 40, 1);
}

/// recreate-node-day0 (and -diskless): after some generations the peer is lost, and comes back
/// empty: with the records of the first day, or just created, or as a new machine that was
/// announced. G14: it gets all of the right data, and is worth nothing before that.
#[test]
fn recreate_node_day0() {
    for how in ["records of the first day", "just created", "node replace"] {
        let mut w = World::new(Setup::default());
        w.both_empty();
        stop(&mut w, BRAVO);
        let day0 = w.nodes[BRAVO].medium.clone();
        w.restart(BRAVO);
        w.settle();
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 0, 100, 1);
        w.cut();
        w.wrote(ALPHA, 200, 10, 2);
        w.restore();
        w.settle();
        w.equal();
        w.power_cut(BRAVO);
        w.run_for(100);
        w.wrote(ALPHA, 50, 100, 3);
        let mut empty = day0;
        if how != "records of the first day" {
            empty.renew(w.nodes[BRAVO].boot, &mut crate::medium::Dice(99));
        }
        if how == "node replace" {
            w.must(ALPHA, Command::NodeReplace);
        }
        returns_with(&mut w, BRAVO, empty);
        was_copied_whole(&mut w, BRAVO);
        w.holds(BRAVO, 0, 50, 1);
        w.holds(BRAVO, 50, 100, 3);
        w.holds(BRAVO, 200, 10, 2);
    }
}

/// Alpha writes alone as primary, and the other one catches up.
fn write_disconnected(w: &mut World, stamp: u64) {
    w.must(ALPHA, PROMOTE);
    w.must(BRAVO, Command::Disconnect);
    w.wrote(ALPHA, stamp * 50, 10, stamp);
    w.must(ALPHA, Command::Demote);
    w.must(BRAVO, CONNECT);
    w.settle();
    w.equal();
}

/// revert-older-data: a snapshot of disk and records is restored on one node after no, one or two
/// generations, with and without an initial full resync, with and without writes before it. G14: it
/// is recognised as old, whichever node it is, and copied whole.
#[test]
fn revert_older_data() {
    for initial_sync in [false, true] {
        for initial_write in [false, true] {
            for (node, generations) in [(BRAVO, 0), (BRAVO, 1), (BRAVO, 2), (ALPHA, 1), (ALPHA, 2)]
            {
                let mut w = World::new(Setup::default());
                w.settle();
                let init = if initial_sync { Command::InitFrom } else { Command::InitEmpty };
                w.must(ALPHA, init);
                w.settle();
                w.equal();
                if initial_write {
                    write_disconnected(&mut w, 3);
                }
                stop(&mut w, node);
                let snapshot = w.nodes[node].medium.clone();
                w.restart(node);
                w.settle();
                (0..generations).for_each(|round| write_disconnected(&mut w, 5 + round));
                if generations == 0 {
                    // Written while both were there: no generation tells of it.
                    w.must(ALPHA, PROMOTE);
                    w.wrote(ALPHA, 5, 10, 9);
                    w.settle();
                }
                stop(&mut w, node);
                returns_with(&mut w, node, snapshot);
                was_copied_whole(&mut w, node);
                match generations {
                    0 => w.holds(node, 5, 10, 9),
                    rounds => w.holds(node, (4 + rounds) * 50, 10, 4 + rounds),
                }
            }
        }
    }
}

/// The ways in which a peer may come to be away.
const WAYS: [&str; 6] = ["bravo leaves", "alpha drops it", "cut", "killed", "no power", "stopped"];

fn goes_away(w: &mut World, way: &str) {
    match way {
        "bravo leaves" => w.must(BRAVO, Command::Disconnect),
        "alpha drops it" => w.must(ALPHA, Command::Disconnect),
        "cut" => w.cut(),
        "killed" => w.crash(BRAVO),
        "no power" => w.power_cut(BRAVO),
        _ => stop(w, BRAVO),
    }
    w.run_for(100);
}

fn comes_back(w: &mut World, way: &str) {
    match way {
        "bravo leaves" => w.must(BRAVO, CONNECT),
        "alpha drops it" => w.must(ALPHA, CONNECT),
        "cut" => w.restore(),
        _ => w.restart(BRAVO),
    }
    w.settle();
}

/// uuid-disconnect-resync: the peer is away in each of six ways. G9, G13: the first write that it
/// misses begins a generation, a later one does not, and each absence has its own; what it missed
/// is copied, no block more.
#[test]
fn uuid_disconnect_resync() {
    for protocol in PROTOCOLS {
        for way in WAYS {
            let mut w = under(protocol);
            w.wrote(ALPHA, 0, 512, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            let mut known = vec![w.status(ALPHA).generation];
            for round in 0..3u64 {
                goes_away(&mut w, way);
                assert_eq!(w.status(ALPHA).generation, *known.last().unwrap(), "{way}: too early");
                w.wrote(ALPHA, 1000 + 7 * round, 5, 2 + round);
                let begun = w.status(ALPHA).generation;
                assert!(!known.contains(&begun), "{protocol:?} {way}: no generation was begun");
                w.wrote(ALPHA, 2000, 3, 20 + round);
                assert_eq!(w.status(ALPHA).generation, begun, "{way}: one for each absence");
                assert_eq!(peer(&w, ALPHA).out_of_sync_blocks, 8, "{protocol:?} {way}");
                comes_back(&mut w, way);
                w.equal();
                assert_eq!(copied(&w, ALPHA), 8, "{protocol:?} {way}");
                assert_eq!(w.status(BRAVO).generation, begun);
                known.push(begun);
            }
        }
    }
}

/// uuid-detach-resync: the peer's disk is let go under a primary, by word or by an error. G9, G13:
/// the next write begins a generation; attached again it gets just what it missed.
#[test]
fn uuid_detach_resync() {
    for failed in [false, true] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 0, 512, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        let before = w.status(ALPHA).generation;
        if failed {
            w.nodes[BRAVO].medium.broken = true;
        } else {
            w.must(BRAVO, Command::DiskDetach);
        }
        w.run_for(100);
        w.wrote(ALPHA, 1000, 5, 2);
        w.settle();
        assert_eq!(w.status(BRAVO).disk, DiskState::Diskless);
        let begun = w.status(ALPHA).generation;
        assert_ne!(begun, before);
        w.wrote(ALPHA, 2000, 5, 3);
        assert_eq!(w.status(ALPHA).generation, begun);
        w.nodes[BRAVO].medium.broken = false;
        w.must(BRAVO, Command::DiskAttach);
        w.settle();
        w.equal();
        assert_eq!(copied(&w, ALPHA), 10);
        assert_eq!(w.status(BRAVO).generation, begun);
    }
}

/// outdate-early: the primary loses the link, writes alone and is demoted, and the peer has noticed
/// nothing of all that. G14: the peer is not promoted, neither then nor when it hears of the loss.
#[test]
fn outdate_early() {
    for graceful in [false, true] {
        for restarts in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 1, 1);
            w.settle();
            w.hold_link(true);
            if graceful {
                w.must(ALPHA, Command::Disconnect);
            } else {
                w.gives_up_session(ALPHA);
            }
            w.wrote(ALPHA, 5, 1, 2);
            w.must(ALPHA, Command::Demote);
            for command in [PROMOTE, FORCE] {
                assert_eq!(w.refused(BRAVO, command), "peer-is-primary");
            }
            w.cut();
            w.hold_link(false);
            w.run_for(100);
            if restarts {
                w.crash(BRAVO);
                w.restart(BRAVO);
                w.settle();
            }
            assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
            w.restore();
            w.must(ALPHA, CONNECT);
            w.settle();
            w.equal();
            w.holds(BRAVO, 5, 1, 2);
            assert_eq!(copied(&w, ALPHA), 1);
        }
    }
}

/// quorate-data-divergence: the good copy goes away, the stale one comes back alone. G14, G18: it
/// is of no use by itself; written to by an operator's word, that is found when both meet.
#[test]
fn quorate_data_divergence() {
    for restarts in [false, true] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 5, 1, 1);
        w.settle();
        w.crash(BRAVO);
        w.run_for(100);
        w.wrote(ALPHA, 6, 1, 2);
        stop(&mut w, ALPHA);
        w.restart(BRAVO);
        w.settle();
        for _ in 0..2 {
            assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
            assert!(!w.nodes[BRAVO].serving);
            assert!(!w.status(BRAVO).promote_refusal.is_empty());
            if restarts {
                w.crash(BRAVO);
                w.restart(BRAVO);
                w.settle();
            }
        }
        w.must(BRAVO, FORCE);
        w.wrote(BRAVO, 7, 1, 3);
        w.restart(ALPHA);
        w.settle();
        assert_eq!(stand_alone(&w), [true, true]);
        for node in BOTH {
            let words = peer(&w, node).connection_reason;
            assert!(words.contains("split brain") || words.contains("SplitBrain"), "{words}");
        }
        w.holds(ALPHA, 6, 1, 2);
        w.holds(BRAVO, 6, 1, 0);
        w.holds(BRAVO, 7, 1, 3);
    }
}

/// Alpha dies with a last write that nobody else has; what was acknowledged is on both.
fn with_a_tail(protocol: Protocol, power: bool) -> World {
    let mut w = under(protocol);
    w.wrote(ALPHA, 7, 2, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w.nodes[ALPHA].stalled.insert("store");
    w.hold_link(true);
    let tail = w.write(ALPHA, 7, 1, 2);
    w.run_for(20);
    if protocol != Protocol::A {
        assert!(!w.done(ALPHA, tail));
    }
    w.nodes[ALPHA].stalled.clear();
    w.run_for(20);
    w.holds(ALPHA, 7, 1, 2);
    if power {
        w.power_cut(ALPHA);
    } else {
        w.crash(ALPHA);
    }
    w.cut();
    w.hold_link(false);
    w.settle();
    w
}

/// resync-after-primary-crash: a primary dies with a divergent last write, the survivor is promoted
/// and writes nothing, or something, or is demoted again. G9, G17: the divergent block is
/// overwritten by a resync of the hot extent, and nobody stays behind.
#[test]
fn resync_after_primary_crash() {
    for protocol in [Protocol::B, Protocol::C] {
        for power in [false, true] {
            for then in ["idle", "demoted", "wrote", "wrote and demoted"] {
                let mut w = with_a_tail(protocol, power);
                assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
                w.must(BRAVO, FORCE);
                if then.contains("wrote") {
                    w.wrote(BRAVO, 8 * 1024, 3, 3);
                }
                if then.contains("demoted") {
                    w.must(BRAVO, Command::Demote);
                }
                w.restore();
                w.restart(ALPHA);
                w.settle();
                w.equal();
                let expected = if then.contains("wrote") { 1024 + 3 } else { 1024 };
                assert_eq!(copied(&w, BRAVO), expected, "{protocol:?} {power} {then}");
                w.holds(ALPHA, 7, 2, 1);
                let states = BOTH.map(|node| w.status(node).disk);
                assert_eq!(states, [DiskState::UpToDate; 2], "{then}");
                let primary = !then.contains("demoted");
                assert_eq!(w.role(BRAVO) == Role::Primary, primary);
            }
        }
    }
}

/// resync-after-failover-to-dless: the old primary crashed or ended cleanly, the new one wrote or
/// not. G9: who crashed is always brought in line; who ended cleanly gets what was written since,
/// and nothing if that is nothing.
#[test]
fn resync_after_failover_to_dless() {
    for crashed in [false, true] {
        for wrote in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 3, 1);
            w.wrote(ALPHA, 9 * 1024, 3, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            if crashed {
                w.crash(ALPHA);
            } else {
                stop(&mut w, ALPHA);
            }
            w.run_for(100);
            w.must(BRAVO, FORCE);
            if wrote {
                w.wrote(BRAVO, 20 * 1024, 6, 2);
            }
            w.restart(ALPHA);
            w.settle();
            w.equal();
            let hot = if crashed { 2 * 1024 } else { 0 };
            let expected = hot + if wrote { 6 } else { 0 };
            assert_eq!(copied(&w, BRAVO), expected, "crashed {crashed}, wrote {wrote}");
            assert_eq!(resyncs(&w), u64::from(expected > 0));
            assert_eq!(w.role(BRAVO), Role::Primary);
        }
    }
}

/// resync-based-on-disk-states: both have the newest generation, one copy is worse: of mixed age,
/// forgotten, away or withdrawn. G9, G14: the better one is the source, whoever was primary,
/// whatever the node ids; the worse one never serves before.
#[test]
fn resync_based_on_disk_states() {
    for worse in BOTH {
        for how in ["mixed", "forgotten", "detached", "withdrawn"] {
            let better = 1 - worse;
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 3000, 1);
            if worse == ALPHA {
                switch(&mut w, ALPHA);
            }
            w.settle();
            match how {
                "mixed" => {
                    (0..2000).for_each(|block| plant(&mut w, worse, block, 9));
                    w.nodes[better].stalled.insert("fetch");
                    w.must(better, Command::Verify { repair: true });
                    w.settle();
                    assert_eq!(w.status(worse).disk, DiskState::Inconsistent);
                }
                "forgotten" => {
                    w.cut();
                    w.must(worse, Command::Invalidate);
                }
                "detached" => w.must(worse, Command::DiskDetach),
                _ => w.must(worse, Command::Disconnect),
            }
            w.cut();
            w.nodes[better].stalled.clear();
            w.must(better, Command::Demote);
            BOTH.into_iter().for_each(|node| stop(&mut w, node));
            BOTH.into_iter().for_each(|node| w.restart(node));
            w.settle();
            if how != "withdrawn" && how != "detached" {
                assert!(["not-current", "no-data"].contains(&w.refused(worse, PROMOTE)), "{how}");
            }
            w.restore();
            w.settle();
            w.equal();
            w.holds(worse, 0, 3000, 1);
            let most = [("mixed", 2000), ("forgotten", DEVICE)];
            let most = most.iter().find(|(name, _)| *name == how).map_or(0, |(_, most)| *most);
            assert_eq!(copied(&w, better), most, "{how}");
            assert!(!w.sent.contains_key(&(worse, "SyncStart")), "{how}");
        }
    }
}

/// twopc-abort-connect2 (and uuid_send_receive_race): a handshake is broken off at each of its
/// steps while a disk holds it up, the next one overtakes what is left of it, and the primary
/// begins a generation at any moment. G7, G9: both ends decide alike, and copy what was missed.
#[test]
fn twopc_abort_connect2() {
    for chaos in [0, 3] {
        for steps in 0..60 {
            for node in BOTH {
                let mut w = World::running(Setup::default());
                w.wrote(ALPHA, 0, 64, 1);
                w.settle();
                w.cut();
                w.settle();
                let before = steps % 2 == 0;
                if before {
                    w.wrote(ALPHA, 5, 3, 2);
                }
                w.setup.chaos = chaos;
                w.nodes[node].stalled.insert("superblock");
                w.restore();
                w.steps(steps);
                let write = w.write(ALPHA, 2000, 4, 3);
                w.steps(steps / 3);
                w.blip();
                w.run_for(50);
                w.nodes[node].stalled.clear();
                w.settle();
                assert!(w.done(ALPHA, write));
                w.equal();
                w.holds(BRAVO, 2000, 4, 3);
                assert!(copied(&w, ALPHA) <= 7, "{steps}: {} blocks", copied(&w, ALPHA));
                assert!(!w.sent.contains_key(&(BRAVO, "SyncStart")));
                let last = BOTH.map(|node| {
                    let told = w.nodes[node].changes.iter().rev();
                    told.clone().find(|change| change.what == "verdict").unwrap().new.clone()
                });
                let mirrored = last[0].replace("SyncSource", "SyncTarget");
                assert_eq!(mirrored, last[1], "{steps}: they decided differently");
            }
        }
    }
}
