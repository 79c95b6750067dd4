//! Owns the field's tests of two nodes that both went on: what they say when they meet, and what an
//! operator's word does about it.

use crate::field::*;
use crate::world::*;
use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::*;

/// Both are primary and write apart, and meet.
fn part(w: &mut World, first: usize, stamp: u64) {
    let second = 1 - first;
    w.cut();
    w.settle();
    w.wrote(first, 2, 1, stamp);
    w.wrote(first, 1024 * 3, 1, stamp);
    w.must(second, FORCE);
    w.wrote(second, 2, 1, stamp + 1);
    w.wrote(second, 1024 * 9, 2, stamp + 1);
    w.settle();
    w.restore();
    w.settle();
    for node in BOTH {
        let peer = peer(w, node);
        assert_eq!(peer.connection, Connection::StandAlone);
        assert!(peer.connection_reason.contains("twinblk"), "{}", peer.connection_reason);
        assert_eq!(w.role(node), Role::Primary, "whoever serves goes on serving");
    }
}

fn split() -> World {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 1, 1, 1);
    w.settle();
    part(&mut w, ALPHA, 2);
    w
}

/// split-brain: both write apart, ten times, and each in turn is given up. G18: both ends see it,
/// nothing merges without a word, the word heals just the chosen side, and copies just the blocks
/// that either wrote.
#[test]
fn split_brain() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 1, 1, 1);
    w.settle();
    let mut primary = ALPHA;
    for round in 0..10u64 {
        let stamp = 10 + 2 * round;
        let (first, second) = (primary, 1 - primary);
        part(&mut w, first, stamp);
        let loser = if round % 3 == 0 { first } else { second };
        let winner = 1 - loser;
        assert_eq!(w.refused(loser, DISCARD), "is-primary");
        w.must(loser, Command::Demote);
        if round % 2 == 0 {
            w.must(winner, Command::Demote);
        }
        BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        w.settle();
        assert_eq!(stand_alone(&w), [true, true], "no word was given");
        w.holds(first, 2, 1, stamp);
        w.holds(second, 2, 1, stamp + 1);
        w.must(loser, DISCARD);
        w.must(winner, CONNECT);
        w.settle();
        w.equal();
        assert_eq!(copied(&w, winner), 4, "round {round}");
        w.holds(loser, 2, 1, if winner == first { stamp } else { stamp + 1 });
        w.holds(loser, 1024 * 9, 2, if winner == second { stamp + 1 } else { 0 });
        w.must(winner, PROMOTE);
        flushed(&mut w, winner);
        w.settle();
        // The next round begins with all of it as it was.
        for start in [2, 1024 * 3, 1024 * 9, 1024 * 9 + 1] {
            w.zero(winner, start * 4096, 4096);
        }
        flushed(&mut w, winner);
        w.settle();
        primary = winner;
    }
}

/// Which of the two is to go on is the operator's to say: until then neither is served afresh
/// without a word, a new start and a primary that was demoted included.
#[test]
fn after_a_split_brain_neither_is_promoted_without_a_word() {
    for (node, restarts) in [(ALPHA, false), (ALPHA, true), (BRAVO, false), (BRAVO, true)] {
        let mut w = split();
        if restarts {
            w.crash(node);
            w.crash(1 - node);
            w.restart(node);
        } else {
            w.must(node, Command::Demote);
        }
        w.settle();
        assert_eq!(w.status(node).disk, DiskState::Consistent);
        assert_eq!(w.refused(node, PROMOTE), "undecided");
        w.must(node, FORCE);
        w.must(node, Command::Demote);
        w.must(node, PROMOTE);
        w.wrote(node, 5, 1, 7);
    }
}

/// The choice ends it.
#[test]
fn after_a_split_brain_is_healed_the_chosen_side_is_promoted_as_ever() {
    let mut w = split();
    w.must(ALPHA, Command::Demote);
    w.must(BRAVO, Command::Demote);
    w.must(ALPHA, Command::Connect { discard_my_data: true });
    w.must(BRAVO, Command::Connect { discard_my_data: false });
    w.settle();
    w.equal();
    w.cut();
    w.settle();
    assert_eq!(w.refused(ALPHA, PROMOTE), "not-current");
    w.restore();
    w.settle();
    w.must(BRAVO, PROMOTE);
    w.cut();
    w.settle();
    w.wrote(BRAVO, 5, 1, 7);
    w.must(BRAVO, Command::Demote);
    w.must(BRAVO, PROMOTE);
}

/// two-primaries-reject: promoted apart, and neither, either or both wrote; either is demoted, or
/// neither. G18: two primaries are refused whatever they hold, and so is a primary with older data;
/// after the demotion the older one follows, and two histories still wait for a word.
#[test]
fn two_primaries_reject() {
    for wrote in [[false, false], [true, false], [false, true], [true, true]] {
        for demoted in BOTH {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 0, 64, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            w.cut();
            w.settle();
            w.must(BRAVO, FORCE);
            for node in BOTH.into_iter().filter(|node| wrote[*node]) {
                w.wrote(node, 100 * (1 + node as u64), 5, 2);
            }
            // Again and again: nobody gives in.
            for _ in 0..3 {
                w.restore();
                BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
                w.settle();
                assert_eq!(stand_alone(&w), [true, true], "{wrote:?}");
                assert_eq!(BOTH.map(|node| w.role(node)), [Role::Primary; 2]);
            }
            w.holds(BRAVO, 100, 5, 0);
            w.holds(ALPHA, 200, 5, 0);
            w.must(demoted, Command::Demote);
            BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
            w.settle();
            let stays = 1 - demoted;
            if wrote[demoted] {
                // A fork, or older data is primary.
                assert_eq!(stand_alone(&w), [true, true], "{wrote:?} {demoted}");
                w.must(stays, Command::Demote);
                let lost = if wrote[stays] { DISCARD } else { CONNECT };
                w.must(demoted, lost);
                w.must(stays, CONNECT);
                w.settle();
            }
            w.equal();
            let older = wrote[demoted] && !wrote[stays];
            let both = if wrote == [true, true] { 10 } else { 5 };
            let expected = if wrote == [false, false] { 0 } else { both };
            assert_eq!(copied(&w, if older { demoted } else { stays }), expected, "{wrote:?}");
            let kept = if older { demoted } else { stays };
            if wrote[kept] {
                w.holds(1 - kept, 100 * (1 + kept as u64), 5, 2);
            }
        }
    }
}

/// quorum-failover-reconnect: the old primary is cut off, killed or idle, the other one takes over
/// and writes, the old one returns. G18: that is no split brain; the old one follows by itself once
/// it is not primary any more.
#[test]
fn quorum_failover_reconnect() {
    for how in ["cut off", "killed", "no power", "stopped"] {
        for wrote in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 4, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            match how {
                "killed" => w.crash(ALPHA),
                "no power" => w.power_cut(ALPHA),
                "stopped" => stop(&mut w, ALPHA),
                _ => {}
            }
            w.cut();
            w.settle();
            w.must(BRAVO, FORCE);
            if wrote {
                w.wrote(BRAVO, 9, 4, 2);
            }
            if w.alive(ALPHA) {
                w.must(ALPHA, Command::Demote);
            } else {
                w.restart(ALPHA);
            }
            w.restore();
            w.settle();
            assert_eq!(stand_alone(&w), [false, false], "{how}: a false split brain");
            w.equal();
            w.holds(ALPHA, 9, 4, if wrote { 2 } else { 0 });
            assert_eq!(w.status(ALPHA).disk, DiskState::UpToDate);
            let hot = if how == "killed" || how == "no power" { 1024 } else { 0 };
            // What was written lies in the extent that was hot.
            let expected = if hot > 0 || !wrote { hot } else { 4 };
            assert_eq!(copied(&w, BRAVO), expected, "{how} {wrote}");
        }
    }
}
