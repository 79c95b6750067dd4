//! Owns the field's tests of resync: what is copied and how much, its end and the loss of that, and
//! who may serve meanwhile.

use crate::field::*;
use crate::world::*;
use std::collections::BTreeSet;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;
use twinblk::replica::options::*;

const DEVICE: u64 = 32 * 1024;

/// Alpha serves; bravo lacks some blocks, and is out of sight.
fn behind(setup: Setup, blocks: u64) -> World {
    let mut w = World::running(setup);
    w.cut();
    w.settle();
    for start in (0..blocks).step_by(200) {
        w.wrote(ALPHA, start, 200.min(blocks - start), 1);
    }
    w
}

fn left(w: &World) -> u64 {
    peer(w, ALPHA).out_of_sync_blocks
}

/// Every block that differs is on record, here or there.
#[track_caller]
fn marks_cover(w: &World) {
    let images = BOTH.map(|node| w.nodes[node].medium.image());
    let known: BTreeSet<u64> = BOTH.into_iter().flat_map(|node| marked(w, node)).collect();
    for block in images[0].keys().chain(images[1].keys()) {
        if images[0].get(block) != images[1].get(block) {
            assert!(known.contains(block), "block {block} differs, and nobody knows");
        }
    }
}

/// brief-resync-oos: a resync of next to nothing is held up at one of its first messages, and a
/// client writes over all of it meanwhile. G3, G7: it does not end before the writes under way are
/// accounted for.
#[test]
fn brief_resync_oos() {
    for (from, kind) in [
        (BRAVO, "MarksDone"),
        (BRAVO, "SyncReady"),
        (ALPHA, "SyncStart"),
        (ALPHA, "MarksDone"),
        (BRAVO, "Met"),
        // All is copied, and the writes are sent ahead of the end.
        (BRAVO, "Stable"),
    ] {
        for stalled in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 256, 1);
            w.settle();
            w.cut();
            w.settle();
            w.wrote(ALPHA, if kind == "Stable" { 300 } else { 7 }, 1, 2);
            w.hold_kind(from, kind, true);
            w.restore();
            w.run_for(1_000);
            if stalled {
                w.nodes[BRAVO].stalled.insert("store");
            }
            let ids: Vec<_> = (0..8).map(|place| w.write(ALPHA, place * 32, 32, 3)).collect();
            // Not so long that a barrier is asked for of itself.
            w.run_for(if kind == "Stable" { 2 } else { 500 });
            w.hold_kind(from, kind, false);
            w.run_for(3_000);
            if stalled {
                assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate, "{kind}: too early");
                marks_cover_or_flying(&w, &ids);
                w.nodes[BRAVO].stalled.clear();
            }
            w.settle();
            assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{kind}");
            w.equal();
            w.holds(BRAVO, 0, 256, 3);
        }
    }
}

/// What differs is marked, or belongs to a write that nobody was told of.
#[track_caller]
fn marks_cover_or_flying(w: &World, ids: &[RequestId]) {
    if ids.iter().all(|id| w.done(ALPHA, *id)) {
        marks_cover(w);
    }
}

/// busy-resync: 20 MiB are copied under heavy writes. G20: there is progress all the time.
#[test]
fn busy_resync() {
    let mut w = behind(Setup::default(), 5 * 1024);
    w.setup.chaos = 5;
    w.restore();
    w.until("it runs", |w| peer(w, ALPHA).replication == Replication::SyncSource);
    let mut before = u64::MAX;
    let mut stamp = 10;
    while peer(&w, ALPHA).replication != Replication::Established {
        for _ in 0..20 {
            for _ in 0..6 {
                let start = w.dice.below(5 * 1024 - 8);
                w.write(ALPHA, start, 8, stamp);
                stamp += 1;
            }
            w.run_for(1);
        }
        let now = left(&w);
        assert!(now < before || now == 0, "no progress: {now} blocks are left");
        before = now;
        assert!(stamp < 100_000, "it never ends");
    }
    w.settle();
    w.equal();
}

/// c-min-rate: a resync with a limit. 20 MiB at 4 MiB a second take five seconds, not much less and
/// not much more, with a client at work or without. G20.
#[test]
fn c_min_rate() {
    for client in [false, true] {
        let setup = Setup { rate_max_bytes: 4 << 20, ..Setup::default() };
        let mut w = behind(setup, 5 * 1024);
        w.restore();
        w.until("it runs", |w| peer(w, ALPHA).replication == Replication::SyncSource);
        let from = w.now;
        while peer(&w, ALPHA).replication != Replication::Established {
            w.run_for(10);
            if client {
                w.write(ALPHA, 20_000, 8, w.now.0);
            }
            assert!(w.now.since(from).as_millis() < 20_000, "it is not finished");
        }
        let took = w.now.since(from).as_millis();
        assert!((4_000..6_500).contains(&took), "{took} ms");
        w.settle();
        w.equal();
    }
}

fn hash_resync(source: usize, interruption: &str) {
    let target = 1 - source;
    let mut w = World::running(Setup { checksum: true, ..Setup::default() });
    if source == BRAVO {
        switch(&mut w, ALPHA);
    }
    (0..10).for_each(|place| w.wrote(source, place * 200, 200, 1));
    flushed(&mut w, source);
    w.settle();
    w.must(target, Command::Disconnect);
    // Most of it is written again as it was.
    (0..5).for_each(|place| w.wrote(source, place * 200, 200, 1));
    w.wrote(source, 512, 64, 2);
    w.must(target, CONNECT);
    w.until("it compares", |w| w.sent.get(&(target, "HashAnswer")).is_some_and(|n| *n > 4));
    match interruption {
        "target detaches" => {
            w.must(target, Command::DiskDetach);
            w.run_for(500);
            w.must(target, Command::DiskAttach);
        }
        "target leaves" => {
            w.must(target, Command::Disconnect);
            w.run_for(500);
            w.must(target, CONNECT);
        }
        "cut" => w.blip(),
        _ => {}
    }
    w.settle();
    w.equal();
    w.holds(target, 512, 64, 2);
    w.holds(target, 0, 512, 1);
    let sent = w.sent.get(&(source, "ResyncData")).copied().unwrap_or(0);
    assert!(sent <= 4, "{interruption}: {sent} pieces were sent of 16 that were marked");
    assert!(w.sent[&(source, "ResyncHash")] >= 15);
}

/// checksum-resync: most of what is marked is equal; the disk or the link goes in the middle, the
/// resync runs this way or that. G8, G9: equal blocks are not sent, the rest is, both end equal. A
/// crashed source sends nothing at all.
#[test]
fn checksum_resync() {
    for source in BOTH {
        for interruption in ["none", "target detaches", "target leaves", "cut"] {
            hash_resync(source, interruption);
        }
    }
    let mut w = World::running(Setup { checksum: true, ..Setup::default() });
    w.wrote(ALPHA, 5 * 1024, 64, 1);
    w.settle();
    w.crash(ALPHA);
    w.restart(ALPHA);
    w.settle();
    w.equal();
    assert_eq!(w.sent.get(&(ALPHA, "ResyncData")), None);
    assert!(w.sent[&(ALPHA, "ResyncHash")] > 0);
}

/// force-resync: a pattern is on the peer's disk that nobody knows of; the operator forces a resync
/// there, with a primary and without. G7: not a block of it is left.
#[test]
fn force_resync() {
    for served in [false, true] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 0, 100, 1);
        if !served {
            w.must(ALPHA, Command::Demote);
        }
        w.settle();
        for start in [0, 50, 9_999, DEVICE - 100] {
            (start..start + 100).for_each(|block| plant(&mut w, BRAVO, block, 666));
        }
        w.must(BRAVO, Command::Invalidate);
        w.settle();
        w.equal();
        w.holds(BRAVO, 0, 100, 1);
        w.holds(BRAVO, DEVICE - 100, 100, 0);
        assert_eq!(copied(&w, ALPHA), DEVICE);
    }
}

/// invalidate: here and there, all of it or what is marked, in reach and out of it, six ways. G9: the
/// amount is exact; G14: never on a primary, nor on the last copy.
#[test]
fn invalidate() {
    for how in ["here", "here, no primary", "here, away", "there, all", "there, marked", "marked"] {
        let mut w = World::running(Setup::default());
        w.wrote(ALPHA, 0, 100, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        assert_eq!(w.refused(ALPHA, Command::Invalidate), "is-primary");
        match how {
            "here" => {
                w.must(BRAVO, Command::Invalidate);
                w.wrote(ALPHA, 50, 100, 2);
            }
            "here, no primary" => {
                w.must(ALPHA, Command::Demote);
                w.must(BRAVO, Command::Invalidate);
                assert_eq!(w.refused(ALPHA, Command::Invalidate), "last-copy");
            }
            "here, away" => {
                w.cut();
                w.must(BRAVO, Command::Invalidate);
                w.crash(BRAVO);
                w.restart(BRAVO);
                w.settle();
                assert_eq!(w.refused(BRAVO, PROMOTE), "no-data");
                w.restore();
            }
            "there, all" => {
                w.cut();
                w.must(ALPHA, Command::NodeReplace);
                w.restore();
            }
            _ => {
                (0..37).for_each(|block| plant(&mut w, BRAVO, 700 + 3 * block, 9));
                w.must(ALPHA, Command::Verify { repair: how == "there, marked" });
                w.settle();
                w.blip();
            }
        }
        w.settle();
        w.equal();
        let expected = if how.contains("marked") { 37 } else { DEVICE };
        assert_eq!(copied(&w, ALPHA), expected, "{how}");
        w.holds(BRAVO, 0, 50, 1);
    }
}

/// A resync of which one of the last words does not arrive, and the link is lost.
fn unended(how: &str) -> World {
    let mut w = behind(Setup::default(), 2_000);
    if how == "held" {
        w.hold_kind(BRAVO, "SyncAdopted", true);
        w.restore();
        w.until("taken over", |w| w.status(BRAVO).disk == DiskState::UpToDate);
        w.run_for(200);
        assert_eq!(peer(&w, ALPHA).replication, Replication::SyncSource);
        w.cut();
        w.hold_kind(BRAVO, "SyncAdopted", false);
    } else {
        w.restore();
        let (from, kind) =
            if how == "SyncDone" { (ALPHA, "SyncDone") } else { (BRAVO, "SyncAdopted") };
        w.lose(from, kind);
        w.until("lost", |w| w.trapped() > 0);
    }
    assert_eq!(left(&w), 0);
    w.run_for(100);
    w
}

/// resync-finish: one of the last words of a resync is lost, and then something is written that the
/// target misses. G8, G13: that is not forgotten; it is copied, and no more; nor is what comes after.
#[test]
fn resync_finish() {
    for how in ["held", "SyncAdopted", "SyncDone"] {
        for dies in [None, Some(ALPHA), Some(BRAVO)] {
            let mut w = unended(how);
            if dies == Some(BRAVO) {
                w.crash(BRAVO);
                w.restart(BRAVO);
            }
            w.wrote(ALPHA, 9 * 1024, 10, 2);
            flushed(&mut w, ALPHA);
            if dies == Some(ALPHA) {
                w.crash(ALPHA);
                w.restart(ALPHA);
            }
            w.restore();
            w.settle();
            w.equal();
            w.holds(BRAVO, 9 * 1024, 10, 2);
            let hot = if dies == Some(ALPHA) { 3 * 1024 } else { 10 };
            assert!(copied(&w, ALPHA) <= hot, "{how} {dies:?}: {}", copied(&w, ALPHA));
            if dies == Some(ALPHA) {
                w.must(ALPHA, PROMOTE);
            }
            w.cut();
            w.wrote(ALPHA, 11 * 1024, 7, 3);
            w.restore();
            w.settle();
            w.equal();
            assert_eq!(copied(&w, ALPHA), 7);
        }
    }
}

/// resync-missed-end-no-bits: the last word of a resync is lost and nothing is dirty; the target
/// is even promoted since. G9, G20: no resync, no handshake that hangs, both UpToDate.
#[test]
fn resync_missed_end_no_bits() {
    for how in ["held", "SyncAdopted"] {
        for promoted in [false, true] {
            let mut w = unended(how);
            if promoted {
                w.must(ALPHA, Command::Demote);
                w.must(BRAVO, FORCE);
            }
            let before = resyncs(&w);
            w.restore();
            w.run_for(200);
            assert!(w.established(), "{how} {promoted}");
            w.settle();
            w.equal();
            assert_eq!(resyncs(&w), before, "{how} {promoted}: a resync of nothing");
            let states = BOTH.map(|node| w.status(node).disk);
            assert_eq!(states, [DiskState::UpToDate; 2]);
        }
    }
}

/// resync-initial: a primary serves alone, its peer joins for the first time, clients go on. G5, G7:
/// all of it is copied under the primary, and every read is right.
#[test]
fn resync_initial() {
    for protocol in [Protocol::A, Protocol::C] {
        let mut w = World::new(Setup { protocol, ..Setup::default() });
        w.settle();
        w.cut();
        w.settle();
        (0..9_000).for_each(|block| plant(&mut w, ALPHA, block, 5));
        w.must(ALPHA, Command::InitFrom);
        let _ = w.order(ALPHA, FORCE);
        w.wrote(ALPHA, 100, 50, 6);
        w.setup.chaos = 8;
        w.restore();
        for stamp in 100..300 {
            let start = w.dice.below(9_000);
            w.wrote(ALPHA, start, 8, stamp);
            assert_eq!(reads(&mut w, ALPHA, start, 8), [stamp; 8]);
        }
        w.settle();
        w.equal();
        let all = copied(&w, ALPHA);
        assert!((DEVICE - 1_700..=DEVICE).contains(&all), "{all}");
        w.must(BRAVO, Command::Stop);
        w.crash(BRAVO);
        w.restart(BRAVO);
        w.settle();
        w.equal();
    }
}

/// resync-target-promote: in the middle of the first full resync the target is to be promoted, the
/// source is promoted, written to and demoted, and then both restart. G8, G14: the target is refused
/// all the time, no mark goes early, and the second run does the rest.
#[test]
fn resync_target_promote() {
    for power in [false, true] {
        let mut w = World::new(Setup::default());
        w.settle();
        (0..16_384).for_each(|block| plant(&mut w, ALPHA, block, 5));
        w.must(ALPHA, Command::InitFrom);
        w.until("it runs", |w| (1..30_000).contains(&left(w)));
        for command in [PROMOTE, FORCE] {
            assert_eq!(w.refused(BRAVO, command), "no-data");
        }
        w.must(ALPHA, PROMOTE);
        w.wrote(ALPHA, 16_000, 50, 6);
        w.must(ALPHA, Command::Demote);
        w.until("half", |w| left(w) < 24_000);
        assert_eq!(w.refused(BRAVO, FORCE), "no-data");
        for node in BOTH {
            if power {
                w.power_cut(node);
            } else {
                stop(&mut w, node);
            }
        }
        w.restart(BRAVO);
        w.settle();
        assert_eq!(w.status(BRAVO).disk, DiskState::Inconsistent);
        assert_eq!(w.refused(BRAVO, PROMOTE), "no-data");
        w.cut();
        w.restart(ALPHA);
        w.settle();
        marks_cover(&w);
        let before = left(&w);
        w.restore();
        w.settle();
        w.equal();
        w.holds(BRAVO, 16_000, 50, 6);
        assert!(copied(&w, ALPHA) <= before.max(1));
        if !power {
            assert!(before <= 24_100, "{before}: progress is kept");
        }
    }
}

/// resync-target-promote-interrupt: the target of a resync is the primary, as its own disk came back,
/// and loses the source in the middle. G5, G14: no client is shown the older half; with the source
/// all goes on, and the disk is UpToDate in the end; demoted, it is not promoted again; the source,
/// which has all, may take over.
#[test]
fn resync_target_promote_interrupt() {
    for then in ["waits", "demotes", "is replaced"] {
        let mut w = World::running(Setup::default());
        (0..10).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
        flushed(&mut w, ALPHA);
        w.must(ALPHA, Command::DiskDetach);
        (0..10).for_each(|place| w.wrote(ALPHA, place * 200, 200, 2));
        flushed(&mut w, ALPHA);
        w.settle();
        w.must(ALPHA, Command::DiskAttach);
        w.until("half", |w| w.sent.get(&(BRAVO, "ResyncData")).is_some_and(|sent| *sent > 16));
        assert_eq!(peer(&w, ALPHA).replication, Replication::SyncTarget);
        w.cut();
        w.run_for(20);
        let read = w.read(ALPHA, 0, 1_000 * 4096);
        let write = w.write(ALPHA, 3_000, 1, 3);
        w.run_for(2_000);
        assert!(!w.done(ALPHA, read) && !w.done(ALPHA, write), "no current copy is in reach");
        assert_eq!(w.status(ALPHA).disk, DiskState::Inconsistent);
        if then == "is replaced" {
            w.must(BRAVO, PROMOTE);
            assert_eq!(reads(&mut w, BRAVO, 0, 10), [2; 10]);
        }
        if then != "waits" {
            w.must(ALPHA, Command::Demote);
            assert_eq!(w.reply(ALPHA, write), Some(&Err(RequestError::NotPrimary)));
            assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
        }
        w.restore();
        w.settle();
        w.equal();
        if then == "waits" {
            assert!(w.done(ALPHA, write));
            let bytes = w.reply(ALPHA, read).unwrap().as_ref().unwrap();
            let old = (0..1_000)
                .zip(bytes.chunks_exact(4096))
                .find(|(block, data)| crate::medium::stamp_of(data, *block) != Some(2));
            assert_eq!(old.map(|(block, _)| block), None, "the client was shown an older block");
        }
        w.holds(ALPHA, 0, 2_000, 2);
    }
}

/// resync-write-during-pause: a resync rests, on either node's word, clients write, and the link may
/// go meanwhile. G7, G9: it rests as long as that, what is written counts, and both end equal.
#[test]
fn resync_write_during_pause() {
    for node in BOTH {
        for blip in [false, true] {
            let mut w = behind(Setup::default(), 256);
            w.must(node, Command::PauseSync);
            w.restore();
            w.settle();
            assert_eq!(left(&w), 256, "paused on {node}");
            let paused = [Replication::PausedSyncSource, Replication::PausedSyncTarget];
            assert!(paused.contains(&peer(&w, node).replication));
            w.wrote(ALPHA, 250, 100, 2);
            w.wrote(ALPHA, 9_000, 100, 2);
            if blip {
                w.cut();
                w.wrote(ALPHA, 9_100, 7, 2);
                w.restore();
            }
            w.settle();
            let more = if blip { 7 } else { 0 };
            let now = left(&w);
            assert!((250 + more..=256 + more + 200).contains(&now), "{now}");
            marks_cover(&w);
            assert_ne!(w.status(BRAVO).disk, DiskState::UpToDate);
            w.must(node, Command::ResumeSync);
            w.settle();
            w.equal();
            w.holds(BRAVO, 0, 250, 1);
            w.holds(BRAVO, 250, 100, 2);
            assert!(copied(&w, ALPHA) <= now);
        }
    }
}

/// ahead-behind: under A the link does not keep up. G20: clients wait, or the peer falls behind by
/// marks alone, as chosen; either ends by itself.
#[test]
fn ahead_behind() {
    for on_congestion in [OnCongestion::Wait, OnCongestion::Bitmap] {
        let setup = Setup {
            protocol: Protocol::A,
            on_congestion,
            congestion_bytes: 64 << 10,
            ..Setup::default()
        };
        let mut w = World::running(setup);
        w.hold_link(true);
        let ids: Vec<_> = (0..40).map(|i| w.write(ALPHA, i * 1024 % 30_000, 4, i + 1)).collect();
        w.run_for(3_000);
        let done = ids.iter().filter(|id| w.done(ALPHA, **id)).count();
        match on_congestion {
            OnCongestion::Wait => assert!((2..20).contains(&done), "{done}"),
            OnCongestion::Bitmap => {
                assert_eq!(done, 40);
                assert_eq!(peer(&w, ALPHA).replication, Replication::Ahead);
                assert!(left(&w) > 0, "what is not sent is marked");
            }
        }
        w.hold_link(false);
        if on_congestion == OnCongestion::Bitmap {
            w.until("told", |w| peer(w, BRAVO).replication == Replication::Behind);
        }
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
        w.equal();
    }
}

/// resync-to-older: a long resync is interrupted. G9: the second run does what the first one left.
#[test]
fn resync_to_older() {
    let mut w = World::new(Setup::default());
    w.settle();
    for block in 0..16_384 {
        w.nodes[ALPHA].medium.write(block, Some(crate::medium::fill(5, block)), true);
    }
    w.must(ALPHA, Command::InitFrom);
    w.until("half way", |w| {
        let left = w.status(ALPHA).peers[0].out_of_sync_blocks;
        left > 0 && left < 24_000
    });
    w.cut();
    w.run_for(100);
    let left = w.status(ALPHA).peers[0].out_of_sync_blocks;
    w.restore();
    w.settle();
    w.equal();
    let copied = w.status(ALPHA).peers[0].last_resync_blocks;
    assert!(copied <= left, "{copied} of {left}");
}

/// write-during-resync: source and target see writes and resync in different orders. G6, G7: both
/// end alike, and nobody waits for the other for ever.
#[test]
fn write_during_resync() {
    for checksum in [false, true] {
        for chaos in 1..12 {
            let mut w = World::running(Setup { checksum, ..Setup::default() });
            w.setup.chaos = chaos;
            w.cut();
            w.run_for(100);
            for place in 0..10 {
                w.wrote(ALPHA, place * 1024, 200, 1 + place);
            }
            w.restore();
            for stamp in 100..160 {
                let start = w.dice.below(10) * 1024 + w.dice.below(200);
                w.write(ALPHA, start, 8, stamp);
                w.steps(25);
            }
            w.settle();
            w.equal();
        }
    }
}
