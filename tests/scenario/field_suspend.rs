//! Owns the field's tests of quorum and of suspended I/O, in their meaning for two nodes under
//! `on_peer_loss = suspend`: without its peer a primary acknowledges nothing until the peer is back
//! or an operator says to go on alone.

use crate::field::*;
use crate::world::*;
use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::*;

/// What was begun stays unanswered, and `status` says why.
#[track_caller]
fn waits(w: &World, ids: &[RequestId]) {
    let answered = ids.iter().filter(|id| w.reply(ALPHA, **id).is_some()).count();
    assert_eq!(answered, 0, "answered without the peer");
    let words = w.status(ALPHA).suspended;
    assert!(words.contains("`twinblk"), "{words}");
}

/// suspend-io: a write of a frozen primary, begun after the loss or cut in two by it. G13: it
/// begins no generation, completes once the peer is back, and no more than itself is copied.
#[test]
fn suspend_io() {
    for in_flight in [false, true] {
        let mut w = suspending();
        w.settle();
        let before = w.status(ALPHA).generation;
        w.hold_link(in_flight);
        let first = in_flight.then(|| w.write(ALPHA, 5, 1, 1));
        w.run_for(10);
        w.cut();
        w.hold_link(false);
        let second = w.write(ALPHA, 6, 1, 2);
        let ids: Vec<_> = first.into_iter().chain([second]).collect();
        w.run_for(5_000);
        waits(&w, &ids);
        w.restore();
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)));
        w.equal();
        assert_eq!(BOTH.map(|node| w.status(node).generation), [before; 2]);
        assert!(resyncs(&w) <= u64::from(in_flight), "a resync without need");
        assert!(copied(&w, ALPHA) <= u64::from(in_flight));
        w.holds(BRAVO, 6, 1, 2);
    }
}

/// What becomes of the peer while it is away.
const DOWNS: [&str; 5] = ["stays", "killed", "no power", "stopped", "new disk"];

fn bravo_while_away(w: &mut World, down: &str) {
    match down {
        "stays" => {}
        "killed" => w.crash(BRAVO),
        "no power" => lose_power(w, BRAVO),
        "stopped" => stop(w, BRAVO),
        _ => {
            w.crash(BRAVO);
            let boot = w.nodes[BRAVO].boot;
            w.nodes[BRAVO].medium.renew(boot, &mut crate::medium::Dice(7));
        }
    }
    w.run_for(500);
    if !w.alive(BRAVO) {
        w.restart(BRAVO);
    }
}

fn suspend_resume(ack: &'static str, detach: Option<usize>, down: &str) {
    let what = format!("{ack} {detach:?} {down}");
    let mut w = suspending();
    w.wrote(ALPHA, 0, 256, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    if let Some(node) = detach {
        if node == BRAVO {
            // The operator would be refused there, as clients would wait.
            w.nodes[BRAVO].medium.broken = true;
            w.command(ALPHA, Command::Verify { repair: false });
            w.until("let go of", |w| w.status(BRAVO).disk == DiskState::Diskless);
            w.nodes[BRAVO].medium.broken = false;
        } else {
            w.must(node, Command::DiskDetach);
        }
        w.settle();
    }
    // The peer's words of this kind do not arrive.
    w.hold_kind(BRAVO, ack, true);
    let write = w.write(ALPHA, 5, 1, 2);
    w.run_for(2_000);
    let acked = ack == "Stable" && detach != Some(BRAVO);
    assert_eq!(w.done(ALPHA, write), acked, "{what}");
    w.cut();
    w.hold_kind(BRAVO, ack, false);
    w.run_for(500);
    assert_eq!(w.done(ALPHA, write), acked, "{what}: acknowledged by nobody");
    bravo_while_away(&mut w, down);
    let later = w.write(ALPHA, 300, 1, 3);
    w.run_for(500);
    waits(&w, &[later]);
    w.restore();
    w.settle();
    if detach == Some(BRAVO) && down == "stays" {
        waits(&w, &[write, later]);
        w.must(BRAVO, Command::DiskAttach);
        w.settle();
    }
    assert!(w.done(ALPHA, write) && w.done(ALPHA, later), "{what}");
    assert_eq!(reads(&mut w, ALPHA, 5, 1), [2], "{what}");
    w.wrote(ALPHA, 400, 1, 4);
    if detach == Some(ALPHA) {
        w.must(ALPHA, Command::DiskAttach);
        w.settle();
    }
    w.must(ALPHA, Command::Demote);
    w.settle();
    w.equal();
    w.holds(BRAVO, 0, 5, 1);
    w.holds(BRAVO, 5, 1, 2);
    w.holds(BRAVO, 300, 1, 3);
    w.holds(ALPHA, 400, 1, 4);
    if down == "stays" && detach.is_none() {
        assert!(copied(&w, ALPHA) <= 1, "{what}: {}", copied(&w, ALPHA));
    }
    if down == "new disk" {
        assert_eq!(copied(&w, ALPHA), 32 * 1024, "{what}");
    }
}

/// suspend-resume-io: chosen acknowledgements do not arrive, a disk is detached here or there or
/// none, the link is lost, the peer stays, restarts, loses power or comes back empty. G1, G13: the
/// write waits until there are two copies again, completes once, and both are equal.
#[test]
fn suspend_resume_io() {
    for ack in ["Written", "Stable"] {
        for down in DOWNS {
            suspend_resume(ack, None, down);
            if down != "new disk" {
                suspend_resume(ack, Some(BRAVO), down);
            }
        }
        // Without a disk here the peer's copy is the only one: it has to keep it.
        for down in ["stays", "killed", "stopped"] {
            suspend_resume(ack, Some(ALPHA), down);
        }
    }
}

/// The same without a disk here, and the peer's copy is gone too, with what it had not made stable
/// or as a whole. G4, G5: the write waits, no older data is shown; the local disk is not taken for
/// the newest one.
#[test]
fn suspend_resume_io_without_any_copy() {
    for down in ["no power", "new disk"] {
        let mut w = suspending();
        w.wrote(ALPHA, 5, 1, 1);
        flushed(&mut w, ALPHA);
        w.must(ALPHA, Command::DiskDetach);
        w.wrote(ALPHA, 5, 1, 2);
        w.cut();
        bravo_while_away(&mut w, down);
        w.restore();
        w.settle();
        let write = w.write(ALPHA, 6, 1, 3);
        let read = w.read(ALPHA, 5 * 4096, 4096);
        w.run_for(2_000);
        waits(&w, &[write, read]);
    }
}

/// process-wakeup: writers, a reader and a flush are blocked by a frozen primary or by a disk that
/// does not answer. G20: all of them wake, each once.
#[test]
fn process_wakeup() {
    for how in ["the peer is back", "resume", "disk", "peer's disk"] {
        let mut w = suspending();
        w.wrote(ALPHA, 0, 64, 1);
        w.settle();
        match how {
            "disk" => w.nodes[ALPHA].stalled.extend(["store", "sync", "load"]),
            "peer's disk" => w.nodes[BRAVO].stalled.extend(["store", "sync"]),
            _ => w.cut(),
        }
        let mut ids: Vec<_> =
            (0..5).map(|place| w.write(ALPHA, 10 + place / 2, 2, 2 + place)).collect();
        let reader = w.read(ALPHA, 10 * 4096, 4096 * 4);
        ids.push(w.flush(ALPHA));
        w.run_for(500);
        assert!(ids.iter().all(|id| w.reply(ALPHA, *id).is_none()), "{how}");
        match how {
            "the peer is back" => w.restore(),
            "resume" => w.must(ALPHA, Command::Resume),
            _ => BOTH.into_iter().for_each(|node| w.nodes[node].stalled.clear()),
        }
        w.run_for(1_000);
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{how}: somebody sleeps on");
        assert!(w.done(ALPHA, reader), "{how}");
        w.restore();
        w.settle();
        w.equal();
        w.holds(BRAVO, 12, 2, 6);
    }
}

/// quorum: a primary is isolated in mid-write, the other one takes over by an operator's word, the
/// old one returns. G16, G17: nothing was acknowledged without the peer; what was in flight is
/// rolled back; while the old one still calls itself primary nothing merges.
#[test]
fn quorum() {
    for dies in [false, true] {
        let mut w = suspending();
        w.wrote(ALPHA, 5, 2, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        w.hold_link(true);
        let tail = w.write(ALPHA, 5, 1, 2);
        w.run_for(20);
        w.holds(ALPHA, 5, 1, 2);
        w.cut();
        w.hold_link(false);
        let queued = w.write(ALPHA, 6, 1, 3);
        w.run_for(1_000);
        waits(&w, &[tail, queued]);
        assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
        w.must(BRAVO, FORCE);
        let suspended = w.write(BRAVO, 8, 1, 4);
        w.run_for(1_000);
        assert!(!w.done(BRAVO, suspended), "it is alone as well");
        w.must(BRAVO, Command::Resume);
        w.until("goes on", |w| w.done(BRAVO, suspended));
        if dies {
            w.crash(ALPHA);
            w.restart(ALPHA);
        } else {
            w.restore();
            w.settle();
            assert_eq!(stand_alone(&w), [true, true]);
            w.must(ALPHA, Command::Demote);
            for id in [tail, queued] {
                assert_eq!(w.reply(ALPHA, id), Some(&Err(RequestError::NotPrimary)));
            }
            BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        }
        w.restore();
        w.settle();
        w.equal();
        w.holds(ALPHA, 5, 2, 1);
        w.holds(ALPHA, 8, 1, 4);
    }
}

/// quorum, its leavers: asked to part where clients would come to wait, both refuse; after the word
/// that one goes on alone it does not wait, and the other is Outdated and knows it. G14, G20.
#[test]
fn quorum_graceful_leavers() {
    let mut w = suspending();
    for node in BOTH {
        assert_eq!(w.refused(node, Command::Disconnect), "would-suspend");
    }
    w.must(ALPHA, Command::Resume);
    w.must(ALPHA, Command::Disconnect);
    w.wrote(ALPHA, 5, 1, 1);
    assert_eq!(w.status(ALPHA).suspended, "");
    w.run_for(100);
    assert_eq!(w.status(BRAVO).disk, DiskState::Outdated);
    assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
    w.must(ALPHA, CONNECT);
    w.settle();
    w.equal();
    // The word was for once: the next one who leaves is waited for.
    stop(&mut w, BRAVO);
    let write = w.write(ALPHA, 6, 1, 2);
    w.run_for(1_000);
    waits(&w, &[write]);
    w.restart(BRAVO);
    w.settle();
    assert!(w.done(ALPHA, write));
    w.equal();
}

/// quorum-check-quorumless: a cluster of one, by an operator's word, is parted further: restarts,
/// loses the word. G14: the left one is promoted by nobody; the one that went on serves again, and
/// waits for a new word before it acknowledges.
#[test]
fn quorum_check_quorumless() {
    for power in [false, true] {
        let mut w = suspending();
        w.cut();
        w.must(ALPHA, Command::Resume);
        w.wrote(ALPHA, 5, 1, 1);
        flushed(&mut w, ALPHA);
        assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
        for node in BOTH {
            if power {
                w.power_cut(node);
            } else {
                w.crash(node);
            }
            w.restart(node);
        }
        w.settle();
        assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
        w.must(ALPHA, PROMOTE);
        let write = w.write(ALPHA, 6, 1, 2);
        w.run_for(1_000);
        waits(&w, &[write]);
        assert_eq!(reads(&mut w, ALPHA, 5, 1), [1]);
        assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
        w.restore();
        w.settle();
        assert!(w.done(ALPHA, write));
        assert_eq!(w.refused(BRAVO, PROMOTE), "peer-is-primary");
        assert_eq!(w.refused(BRAVO, FORCE), "peer-is-primary");
        w.equal();
        w.holds(BRAVO, 5, 1, 1);
    }
}

/// quorum-isolate-primary: one direction of the link falls silent, then the other, with writes in
/// flight; the other node is promoted quickly; both are put together again. G16, G17: nothing is
/// acknowledged since the first cut, the new primary's writes stay, the rest is rolled back.
#[test]
fn quorum_isolate_primary() {
    for silent in ["acknowledgements", "data", "both"] {
        for quick in [false, true] {
            let mut w = suspending();
            w.wrote(ALPHA, 0, 16, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            match silent {
                "acknowledgements" => w.hold_kind(BRAVO, "Written", true),
                "data" => w.hold_data(ALPHA, true),
                _ => w.hold_link(true),
            }
            let ids: Vec<_> = (0..8).map(|place| w.write(ALPHA, place * 2, 2, 2 + place)).collect();
            w.run_for(200);
            w.cut();
            w.hold_kind(BRAVO, "Written", false);
            w.hold_data(ALPHA, false);
            w.hold_link(false);
            if !quick {
                w.run_for(2_000);
            }
            w.must(BRAVO, FORCE);
            w.must(BRAVO, Command::Resume);
            w.wrote(BRAVO, 0, 16, 50);
            w.wrote(BRAVO, 100, 3, 51);
            waits(&w, &ids);
            w.must(BRAVO, Command::Demote);
            w.must(ALPHA, Command::Demote);
            for id in &ids {
                assert_eq!(w.reply(ALPHA, *id), Some(&Err(RequestError::NotPrimary)));
            }
            w.restore();
            w.settle();
            assert_eq!(stand_alone(&w), [false, false], "{silent}: a false split brain");
            w.equal();
            w.holds(ALPHA, 0, 16, 50);
            w.holds(ALPHA, 100, 3, 51);
            assert!(copied(&w, BRAVO) <= 16 + 3, "{silent}: {}", copied(&w, BRAVO));
        }
    }
}

/// quorum-lost-uuid: an isolated primary begins a generation that nobody sees, and dies before it
/// acknowledges anything in it, or before it is durable; the other side is promoted and writes.
/// G13, G18: a durable one is a split brain, and only a word heals it; the other is as if it had
/// never been.
#[test]
fn quorum_lost_uuid() {
    for durable in [false, true] {
        let mut w = suspending();
        w.wrote(ALPHA, 5, 1, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        w.cut();
        w.settle();
        let stalled = if durable { "store" } else { "superblock" };
        w.nodes[ALPHA].stalled.insert(stalled);
        let write = w.write(ALPHA, 5, 1, 2);
        w.must(ALPHA, Command::Resume);
        w.run_for(100);
        assert!(!w.done(ALPHA, write), "{stalled}");
        // None of it lands.
        w.nodes[ALPHA].pending.clear();
        w.crash(ALPHA);
        w.nodes[ALPHA].stalled.clear();
        w.must(BRAVO, FORCE);
        w.must(BRAVO, Command::Resume);
        w.wrote(BRAVO, 6, 1, 3);
        w.restart(ALPHA);
        w.restore();
        w.settle();
        assert_eq!(stand_alone(&w), [durable, durable], "durable {durable}");
        if durable {
            assert_eq!(w.refused(ALPHA, PROMOTE), "undecided");
            w.must(ALPHA, DISCARD);
            w.must(BRAVO, CONNECT);
            w.settle();
        }
        w.equal();
        w.holds(ALPHA, 5, 1, 1);
        w.holds(ALPHA, 6, 1, 3);
        assert_eq!(w.role(BRAVO), Role::Primary);
    }
}

/// quorum-suspend-failover-busy: a frozen primary with queued writes comes back to find newer data.
/// G14, G17: it acknowledges none of them, shows nothing old, becomes secondary by a word, and the
/// queue fails; then it gets what it missed.
#[test]
fn quorum_suspend_failover_busy() {
    for busy in [false, true] {
        let mut w = suspending();
        w.wrote(ALPHA, 0, 900, 1);
        flushed(&mut w, ALPHA);
        w.settle();
        w.hold_link(busy);
        let write = |w: &mut World, place: u64| w.write(ALPHA, place * 4, 4, 100 + place);
        let mut ids: Vec<_> =
            (0..if busy { 100 } else { 0 }).map(|place| write(&mut w, place)).collect();
        w.run_for(2);
        w.cut();
        w.hold_link(false);
        ids.extend((100..200).map(|place| write(&mut w, place)));
        w.run_for(1_000);
        waits(&w, &ids);
        w.must(BRAVO, FORCE);
        w.must(BRAVO, Command::Resume);
        w.wrote(BRAVO, 350, 100, 7);
        w.restore();
        w.settle();
        waits(&w, &ids);
        // Between two primaries nothing moves.
        assert_eq!(stand_alone(&w), [true, true]);
        w.must(ALPHA, Command::Demote);
        for id in &ids {
            assert_eq!(w.reply(ALPHA, *id), Some(&Err(RequestError::NotPrimary)));
        }
        BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        w.settle();
        w.equal();
        w.holds(ALPHA, 350, 100, 7);
        w.holds(ALPHA, 0, 350, 1);
        w.holds(ALPHA, 450, 450, 1);
        assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
        if !busy {
            assert_eq!(copied(&w, BRAVO), 100);
        }
    }
}

/// quorum-suspended-cancel: the operator ends a freeze by giving up the role. G20: each blocked
/// request ends with an error, and nothing of it was acknowledged.
#[test]
fn quorum_suspended_cancel() {
    let mut w = suspending();
    w.wrote(ALPHA, 5, 1, 1);
    w.settle();
    w.cut();
    let write = w.write(ALPHA, 6, 1, 2);
    let flush = w.flush(ALPHA);
    w.run_for(1_000);
    waits(&w, &[write, flush]);
    w.must(ALPHA, Command::Demote);
    for id in [write, flush] {
        assert_eq!(w.reply(ALPHA, id), Some(&Err(RequestError::NotPrimary)));
    }
    w.restore();
    w.settle();
    w.equal();
    w.holds(BRAVO, 5, 1, 1);
}

/// quorum-suspend-timeout: the peer's disk hangs, the peer is dropped; four ways out of it. G20,
/// G12: the frozen writes finish, and a verify finds nothing.
#[test]
fn quorum_suspend_timeout() {
    for thaw in ["the disk answers", "the link is back", "resume", "the peer restarts"] {
        let mut w = suspending();
        w.wrote(ALPHA, 0, 64, 1);
        w.settle();
        w.nodes[BRAVO].stalled.extend(["store", "sync"]);
        let ids: Vec<_> = (0..20).map(|place| w.write(ALPHA, place, 2, 2 + place)).collect();
        w.run_for(1_000);
        if thaw != "the disk answers" {
            w.cut();
            w.run_for(1_000);
        }
        assert!(ids.iter().all(|id| !w.done(ALPHA, *id)), "{thaw}");
        match thaw {
            "the link is back" => w.restore(),
            "resume" => w.must(ALPHA, Command::Resume),
            "the peer restarts" => {
                w.crash(BRAVO);
                w.restart(BRAVO);
                w.restore();
            }
            _ => {}
        }
        w.run_for(20);
        w.nodes[BRAVO].stalled.clear();
        w.run_for(8_000);
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{thaw}: somebody is frozen still");
        w.restore();
        w.settle();
        w.equal();
        w.must(ALPHA, Command::Verify { repair: false });
        w.settle();
        assert_eq!(peer(&w, ALPHA).verify_differing_blocks, 0);
    }
}
