//! Owns the field's tests of disks that fail, hang, go and come back.

use crate::field::*;
use crate::world::*;
use twinblk::format::frame::DiskState;
use twinblk::replica::event::*;

const DEVICE: u64 = 32 * 1024;

/// Alpha serves, all that was hot has cooled; the disk of `node` will fail at `what`.
fn to_fail(node: usize, what: &str) -> World {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 0, 256, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    match what {
        // Its writes of records are held back until the disk is broken.
        "metadata" => w.nodes[node].stalled.extend(["log", "superblock", "pages"]),
        "flush" => {
            w.wrote(ALPHA, 5 * 1024, 3, 2);
            w.nodes[node].medium.broken = true;
        }
        _ => w.nodes[node].medium.broken = true,
    }
    w
}

/// A write that meets the failing disk of `node`; the client sees nothing of that.
fn fails(w: &mut World, node: usize, what: &str) {
    let id = match what {
        "read" => w.read(ALPHA, 10 * 4096, 4096 * 3),
        "flush" => w.flush(ALPHA),
        _ => w.write(ALPHA, 5 * 1024, 3, 2),
    };
    if what == "metadata" {
        w.run_for(20);
        w.nodes[node].medium.broken = true;
        w.nodes[node].stalled.clear();
    }
    w.until("the client is answered", |w| w.reply(ALPHA, id).is_some());
    assert!(w.done(ALPHA, id), "{what} on {node}: the client sees the error");
}

/// io-errors: the disk of the secondary, then of the primary, fails a write, a flush, a write of its
/// records or a read. G19: the client sees none of it, the disk is let go, its node says so to the
/// other; what is read meanwhile is right; taken back it gets what it missed and no more, or after an
/// error that may have cost more, what it may lack. G9.
#[test]
fn io_errors() {
    for node in BOTH {
        for what in ["write", "flush", "metadata", "read"] {
            if node == BRAVO && ["read", "metadata"].contains(&what) {
                continue; // Nobody reads there, and it keeps no log: see the resync cases below.
            }
            let mut w = to_fail(node, what);
            fails(&mut w, node, what);
            w.settle();
            assert_eq!(w.status(node).disk, DiskState::Diskless, "{what} on {node}");
            assert_eq!(peer(&w, 1 - node).disk, Some(DiskState::Diskless), "{what} on {node}");
            assert!(w.status(node).disk_reason.contains("twinblk disk"));
            w.wrote(ALPHA, 20, 3, 3);
            w.wrote(ALPHA, 9 * 1024, 3, 3);
            assert_eq!(reads(&mut w, ALPHA, 19, 4), [1, 3, 3, 3], "{what} on {node}");
            assert_eq!(
                w.refused(BRAVO, PROMOTE),
                if node == BRAVO { "no-disk" } else { "peer-is-primary" }
            );
            w.nodes[node].medium.broken = false;
            w.must(node, Command::DiskAttach);
            w.settle();
            w.equal();
            w.holds(node, 9 * 1024, 3, 3);
            let wrote = if what == "read" { 0 } else { 3 };
            // A primary's own disk comes back with its log: the hot extents are recovered.
            let most = if node == ALPHA { 3 * 1024 } else { 6 + wrote };
            let amount = copied(&w, 1 - node);
            assert!((6 + wrote..=most).contains(&amount), "{what} on {node}: {amount}");
            w.must(ALPHA, Command::Demote);
            w.must(ALPHA, PROMOTE);
        }
    }
}

/// io-errors, the tracking of writes without a disk: twelve blocks are written while the primary has
/// none, and what lay there on its disk is spoilt meanwhile. G9, G19: attached again it gets these
/// twelve and what was hot, with new records all; reads are right at every moment.
#[test]
fn io_errors_tracking_writes() {
    for fresh in [false, true] {
        for served in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 256, 1);
            flushed(&mut w, ALPHA);
            w.must(ALPHA, Command::DiskDetach);
            w.wrote(ALPHA, 10_216, 12, 2);
            (10_216..10_228).for_each(|block| plant(&mut w, ALPHA, block, 666));
            if !served {
                w.must(ALPHA, Command::Demote);
            }
            w.settle();
            w.nodes[BRAVO].stalled.insert("fetch");
            let attach = if fresh { Command::DiskReplace } else { Command::DiskAttach };
            w.must(ALPHA, attach);
            w.run_for(200);
            if served {
                w.nodes[BRAVO].stalled.clear();
                assert_eq!(reads(&mut w, ALPHA, 10_215, 14), {
                    let mut stamps = [2; 14];
                    (stamps[0], stamps[13]) = (0, 0);
                    stamps
                });
            }
            w.nodes[BRAVO].stalled.clear();
            w.settle();
            w.equal();
            w.holds(ALPHA, 10_216, 12, 2);
            // Its own log says that the first extent was hot.
            let expected = if fresh { DEVICE } else { 1024 + 12 };
            assert_eq!(copied(&w, BRAVO), expected, "{fresh} {served}");
        }
    }
}

/// io-errors, in a resync: the disk that is read from or written to fails in the middle. G14, G19:
/// the half copy never serves, the primary's clients are answered where there is a whole one, and
/// both are equal when the disk is back.
#[test]
fn io_errors_in_a_resync() {
    for (node, stage) in
        [(BRAVO, "store"), (BRAVO, "sync"), (BRAVO, "superblock"), (ALPHA, "fetch")]
    {
        let mut w = World::running(Setup::default());
        w.cut();
        w.settle();
        (0..10).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
        flushed(&mut w, ALPHA);
        w.nodes[node].stalled.insert(stage);
        w.restore();
        w.run_for(300);
        w.nodes[node].medium.broken = true;
        w.nodes[node].stalled.clear();
        w.until("let go", |w| w.status(node).disk == DiskState::Diskless);
        w.run_for(500);
        if node == BRAVO {
            w.wrote(ALPHA, 50, 3, 2);
        }
        let refusal = w.order(BRAVO, PROMOTE).expect_err("half a copy");
        let words = ["no-disk", "sync-target", "not-current", "peer-is-primary", "negotiating"];
        assert!(words.contains(&refusal.reason), "{refusal:?}");
        w.nodes[node].medium.broken = false;
        w.must(node, Command::DiskAttach);
        BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        w.settle();
        w.equal();
        w.holds(BRAVO, 60, 100, 1);
    }
}

/// What hangs, on which node, and when.
const HANGS: [(usize, &str, &str); 6] = [
    (ALPHA, "fetch", "resync"),
    (BRAVO, "store", "resync"),
    (BRAVO, "superblock", "resync"),
    (BRAVO, "store", "write"),
    (BRAVO, "sync", "flush"),
    (ALPHA, "log", "write"),
];

/// disk-timeout: a disk hangs, in a resync, in a write for the peer, in a write of records. There is
/// no time limit for a disk here: what waits for it waits. G4, G20: nothing is acknowledged that
/// hangs, nobody fails; when the disk answers all goes on; when its node is killed instead the other
/// one goes on without it, and a resync puts both together.
#[test]
fn disk_timeout() {
    for (node, stage, when) in HANGS {
        for killed in [false, true] {
            let what = format!("{stage} in a {when} on {node}, killed {killed}");
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 500, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            if when == "resync" {
                w.cut();
                w.wrote(ALPHA, 100, 300, 2);
                flushed(&mut w, ALPHA);
            }
            w.nodes[node].stalled.insert(stage);
            w.restore();
            w.run_for(100);
            let write = (when != "resync").then(|| w.write(ALPHA, 9 * 1024, 3, 3));
            if when == "flush" {
                w.until("written", |w| write.is_some_and(|id| w.done(ALPHA, id)));
            }
            let flush = (when == "flush").then(|| w.flush(ALPHA));
            w.run_for(20_000);
            let waiting = flush.or(write);
            assert!(waiting.is_none_or(|id| w.reply(ALPHA, id).is_none()), "{what}");
            if when == "resync" {
                assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate, "{what}");
            }
            if !killed {
                w.nodes[node].stalled.clear();
                w.settle();
                assert!(waiting.is_none_or(|id| w.done(ALPHA, id)), "{what}");
                w.equal();
                continue;
            }
            w.crash(node);
            w.nodes[node].stalled.clear();
            w.run_for(500);
            if node == BRAVO {
                assert!(waiting.is_none_or(|id| w.done(ALPHA, id)), "{what}");
                w.wrote(ALPHA, 300, 3, 4);
            }
            w.restart(node);
            w.settle();
            w.equal();
            w.holds(BRAVO, 100, 100, if when == "resync" { 2 } else { 1 });
        }
    }
}

/// interrupt-detach: a disk that does not answer is to be let go. G20, G24: the command is answered
/// at once and new requests go on through the peer; those that the disk holds wait for it, and none
/// of them fails; what comes too early is refused in words.
#[test]
fn interrupt_detach() {
    for stage in ["store", "sync", "load", "log"] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 0, 20, 1);
        w.settle();
        w.nodes[ALPHA].stalled.insert(stage);
        let ids = [w.write(ALPHA, 5 * 1024, 3, 2), w.flush(ALPHA), w.read(ALPHA, 0, 4096)];
        w.run_for(1_000);
        w.must(ALPHA, Command::DiskDetach);
        w.run_for(100);
        assert_eq!(w.status(ALPHA).disk, DiskState::Diskless);
        w.wrote(ALPHA, 6 * 1024, 3, 3);
        assert_eq!(reads(&mut w, ALPHA, 1, 3), [1; 3]);
        assert!(ids.iter().all(|id| w.reply(ALPHA, *id).is_none_or(Result::is_ok)), "{stage}");
        let done = ids.map(|id| w.done(ALPHA, id));
        assert!(done[0] || stage == "store", "{stage}: {done:?}");
        assert!(done[2] || stage == "load", "{stage}: {done:?}");
        let busy = w.order(ALPHA, Command::DiskAttach).map_err(|refusal| refusal.reason);
        w.nodes[ALPHA].stalled.clear();
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{stage}");
        if busy.is_err() {
            assert_eq!(busy, Err("busy"), "{stage}");
            w.must(ALPHA, Command::DiskAttach);
        }
        w.settle();
        w.equal();
        w.holds(ALPHA, 6 * 1024, 3, 3);
    }
}

/// toggle-disk: a replica's disk is taken out and put in: the same, or a new one, with a writer or
/// without, here or there. G9: the amount is exact, and 0 once it is done.
#[test]
fn toggle_disk() {
    for node in BOTH {
        for fresh in [false, true] {
            for writer in [false, true] {
                let mut w = World::running(Setup::default());
                w.wrote(ALPHA, 0, 256, 1);
                w.settle();
                w.must(node, Command::DiskDetach);
                w.settle();
                if writer {
                    w.wrote(ALPHA, 9_000, 7, 2);
                }
                w.settle();
                let attach = if fresh { Command::DiskReplace } else { Command::DiskAttach };
                w.must(node, attach);
                for stamp in 10..(if writer { 30 } else { 10 }) {
                    w.write(ALPHA, 9_000 + stamp % 6, 2, stamp);
                    w.run_for(1);
                }
                w.settle();
                w.equal();
                // A primary's own log says that the first extent was hot.
                let hot = if node == ALPHA { 1024 } else { 0 };
                let expected = if fresh { DEVICE } else { hot + if writer { 7 } else { 0 } };
                let amount = copied(&w, 1 - node);
                // A block that a client writes whole meanwhile needs no copying.
                let spared = if writer { 7 } else { 0 };
                assert!(
                    amount <= expected && amount + spared >= expected,
                    "{node} {fresh}: {amount}"
                );
            }
        }
    }
}

/// attach-concurrent: both disks go and come back at the same moment, with writes between or not.
/// G13, G20: both end UpToDate, and equal.
#[test]
fn attach_concurrent() {
    for chaos in 0..12 {
        for first in BOTH {
            for wrote in [false, true] {
                let mut w = World::running(Setup::default());
                w.wrote(ALPHA, 0, 100, 1);
                w.must(ALPHA, Command::Demote);
                w.settle();
                w.setup.chaos = chaos;
                w.must(first, Command::DiskDetach);
                w.must(1 - first, Command::DiskDetach);
                w.settle();
                let asked =
                    [first, 1 - first].map(|node| (node, w.command(node, Command::DiskAttach)));
                w.settle();
                for (node, id) in asked {
                    assert!(w.answer(node, id).is_some_and(Result::is_ok), "{chaos}");
                }
                assert_eq!(BOTH.map(|node| w.status(node).disk), [DiskState::UpToDate; 2]);
                w.must(first, PROMOTE);
                if wrote {
                    w.must(first, Command::DiskDetach);
                    w.wrote(first, 50, 9, 2);
                    w.must(first, Command::DiskAttach);
                    w.settle();
                    w.holds(first, 50, 9, 2);
                }
                w.settle();
                w.equal();
            }
        }
    }
}
