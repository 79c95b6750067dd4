//! Owns the field's tests of connecting and of roles: commands in every order and at every moment,
//! handshakes that break off or hang, and what `status` says of a promotion beforehand.

use crate::field::*;
use crate::world::*;
use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::*;

fn sessions(w: &World) -> usize {
    w.log.iter().filter(|line| line.contains(" session ") && line.ends_with(" stands")).count()
}

/// connect: nodes with nothing on them, and nodes with data, under each protocol. G20: they meet at
/// the first attempt, in the time a handshake takes.
#[test]
fn connect() {
    for protocol in PROTOCOLS {
        for chaos in 0..4 {
            let mut w = World::new(Setup { protocol, chaos, ..Setup::default() });
            w.run_for(50);
            assert_eq!(BOTH.map(|node| peer(&w, node).connection), [Connection::Connected; 2]);
            w.must(ALPHA, Command::InitEmpty);
            w.run_for(50);
            assert!(w.established(), "{protocol:?} {chaos}");
            let before = sessions(&w);
            w.blip();
            w.run_for(50);
            assert!(w.established(), "{protocol:?} {chaos}");
            assert_eq!(sessions(&w), before + 1);
            w.settle();
            w.equal();
        }
    }
}

/// connect-no-volumes: neither node has a disk. G22, G24: they meet, no promotion is granted, the
/// commands are answered, and the link is not dialled over and over.
#[test]
fn connect_no_volumes() {
    let mut w = World::new(Setup::default());
    w.both_empty();
    BOTH.into_iter().for_each(|node| w.must(node, Command::DiskDetach));
    w.settle();
    let before = sessions(&w);
    for node in BOTH {
        assert_eq!(w.refused(node, PROMOTE), "no-disk");
        assert_eq!(w.refused(node, FORCE), "no-disk");
        w.must(node, Command::Demote);
        w.must(node, Command::Disconnect);
        w.must(node, CONNECT);
        w.settle();
        assert_eq!(BOTH.map(|node| peer(&w, node).connection), [Connection::Connected; 2]);
    }
    assert_eq!(sessions(&w), before + 2, "it is dialled over and over");
    BOTH.into_iter().for_each(|node| w.must(node, Command::DiskAttach));
    w.settle();
    w.equal();
    assert_eq!(resyncs(&w), 0);
    w.must(ALPHA, PROMOTE);
}

/// connect-abort: a handshake stops in the middle, for good, or its link is lost there. G20, G24:
/// the half of it stands in the way of no promotion for longer than a handshake may take.
#[test]
fn connect_abort() {
    for kind in ["State", "Met"] {
        for from in BOTH {
            for lost in [false, true] {
                let mut w = World::running(Setup::default());
                w.must(BRAVO, Command::Disconnect);
                w.wrote(ALPHA, 5, 1, 1);
                w.must(ALPHA, Command::Demote);
                if lost {
                    w.lose(from, kind);
                } else {
                    w.hold_kind(from, kind, true);
                }
                w.must(BRAVO, CONNECT);
                w.run_for(100);
                if !lost {
                    let words = w.order(ALPHA, PROMOTE).expect_err("half a handshake").reason;
                    assert!(
                        ["negotiating", "link-lost"].contains(&words),
                        "{kind} {from}: {words}"
                    );
                    w.run_for(6_000);
                }
                assert!(!BOTH.map(|node| w.status(node).promote_refusal.is_empty())[BRAVO]);
                w.must(ALPHA, PROMOTE);
                w.wrote(ALPHA, 6, 1, 2);
                w.hold_kind(from, kind, false);
                w.restore();
                w.settle();
                w.equal();
                w.holds(BRAVO, 5, 1, 1);
                w.holds(BRAVO, 6, 1, 2);
            }
        }
    }
}

/// promote_while_connecting: a primary reconnects, the handshake hangs at one of its messages, and
/// clients write meanwhile. G20: no deadlock; each write is answered, the nodes come together.
#[test]
fn promote_while_connecting() {
    for kind in ["State", "Met", "SyncStart", "SyncReady", "Marks", "MarksDone", "SyncDone"] {
        for from in BOTH {
            for promotes in [false, true] {
                let mut w = World::running(Setup::default());
                w.must(ALPHA, Command::Disconnect);
                w.wrote(ALPHA, 5, 9, 1);
                if promotes {
                    w.must(ALPHA, Command::Demote);
                }
                w.hold_kind(from, kind, true);
                w.must(ALPHA, CONNECT);
                w.run_for(20);
                let promote = promotes.then(|| w.command(ALPHA, PROMOTE));
                w.run_for(800);
                let serving = w.role(ALPHA) == Role::Primary;
                let ids: Vec<_> = (0..5 * u64::from(serving))
                    .map(|place| w.write(ALPHA, 3 + place, 4, 10 + place))
                    .collect();
                w.run_for(800);
                w.hold_kind(from, kind, false);
                w.settle();
                assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{kind} {from}");
                assert!(promote.is_none_or(|id| w.answer(ALPHA, id).is_some()), "{kind} {from}");
                w.must(ALPHA, PROMOTE);
                w.equal();
                if serving {
                    w.holds(BRAVO, 7, 4, 14);
                }
            }
        }
    }
}

/// add-connect-delete (and del-path-during-connect): commands in the wrong order while the nodes
/// are still connecting, at each step of it. G22, G24: each is answered, the daemon lives, and the
/// node can be promoted afterwards.
#[test]
fn add_connect_delete() {
    let commands = [
        CONNECT,
        DISCARD,
        Command::Disconnect,
        Command::NodeReplace,
        Command::DiskDetach,
        Command::DiskAttach,
        Command::DiskReplace,
        Command::InitFrom,
        Command::InitEmpty,
        Command::PauseSync,
        Command::ResumeSync,
        Command::Resume,
        Command::Verify { repair: false },
        Command::Demote,
        PROMOTE,
    ];
    for steps in 0..24 {
        for first in commands {
            let second = commands[steps % commands.len()];
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 40, 1);
            w.must(ALPHA, Command::Demote);
            w.must(ALPHA, Command::Disconnect);
            w.must(ALPHA, CONNECT);
            w.steps(steps as u64);
            let ids = [ALPHA, BRAVO, ALPHA].map(|node| (node, w.command(node, first)));
            w.steps(2);
            let more = BOTH.map(|node| (node, w.command(node, second)));
            w.settle();
            for (node, id) in ids.into_iter().chain(more) {
                assert!(w.answer(node, id).is_some(), "{first:?}, {second:?} after {steps}");
            }
            for node in BOTH {
                w.must(node, Command::ResumeSync);
                let _ = w.order(node, Command::DiskAttach);
                w.must(node, CONNECT);
                w.must(node, Command::Demote);
            }
            w.settle();
            // What the nodes knew of each other, or had, may have been given up by these words.
            let given_up = [first, second]
                .iter()
                .any(|it| matches!(it, Command::DiskReplace | Command::NodeReplace));
            if given_up && !w.established() {
                BOTH.into_iter().for_each(|node| drop(w.order(node, PROMOTE)));
                continue;
            }
            w.must(ALPHA, PROMOTE);
            w.wrote(ALPHA, 6, 1, 2);
            w.settle();
            w.equal();
        }
    }
}

/// stress-connect-and-2pc: both nodes go down and up at once, twenty times, by their own word, by a
/// stop, by a kill, and the link flaps under load. G20, G7: they always come together again.
#[test]
fn stress_connect_and_2pc() {
    for chaos in [1, 31] {
        let mut w = World::running(Setup { chaos, ..Setup::default() });
        for round in 0..20u64 {
            let primary = BOTH.into_iter().find(|node| w.role(*node) == Role::Primary);
            if let Some(node) = primary {
                (0..10).for_each(|place| {
                    w.write(node, round * 40 + place * 3, 4, 1 + round * 10 + place);
                });
            }
            let millis = w.dice.below(4);
            w.run_for(millis);
            match round % 4 {
                0 => BOTH.into_iter().for_each(|node| {
                    w.command(node, Command::Disconnect);
                }),
                1 => BOTH.into_iter().for_each(|node| {
                    w.command(node, Command::Stop);
                }),
                2 => (0..9).for_each(|_| {
                    let millis = w.dice.below(3);
                    w.run_for(millis);
                    w.blip();
                }),
                _ => {}
            }
            w.run_for(if round % 4 == 3 { 0 } else { 300 });
            for node in BOTH {
                if round % 2 == 1 {
                    w.crash(node);
                    w.restart(node);
                } else {
                    w.must(node, CONNECT);
                }
            }
            w.settle();
            assert!(w.established(), "round {round}");
            w.equal();
            if w.role(ALPHA) == Role::Secondary {
                w.must(ALPHA, PROMOTE);
            }
        }
    }
}

/// concurrent-disconnect: both nodes drop each other at the same moment, ten times, with writes
/// under way. G20: both are answered, nobody waits for the other.
#[test]
fn concurrent_disconnect() {
    for chaos in 0..10 {
        let mut w = World::running(Setup { chaos, ..Setup::default() });
        let ids: Vec<_> = (0..9).map(|place| w.write(ALPHA, place * 5, 4, 1 + place)).collect();
        w.steps(chaos * 3);
        let asked = BOTH.map(|node| (node, w.command(node, Command::Disconnect)));
        w.run_for(2_000);
        for (node, id) in asked {
            assert!(w.answer(node, id).is_some_and(Result::is_ok), "{chaos}");
        }
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{chaos}");
        assert_eq!(stand_alone(&w), [true, true]);
        BOTH.into_iter().for_each(|node| w.must(node, CONNECT));
        w.settle();
        w.equal();
    }
}

/// concurrent-promote-demote: a node is to be promoted while the old primary is demoted and leaves,
/// at each moment of that. G18, G20: the promotion wins in the end, the old one follows, and the two
/// are no strangers to each other.
#[test]
fn concurrent_promote_demote() {
    for steps in 0..50 {
        for leaves in ["stays", "disconnects", "stops"] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 3, 1);
            w.write(ALPHA, 5, 1, 2);
            let demote = w.command(ALPHA, Command::Demote);
            w.steps(steps);
            let mut promote = w.command(BRAVO, PROMOTE);
            w.until("demoted", |w| w.answer(ALPHA, demote).is_some_and(Result::is_ok));
            match leaves {
                "disconnects" => w.must(ALPHA, Command::Disconnect),
                "stops" => stop(&mut w, ALPHA),
                _ => {}
            }
            w.settle();
            for _ in 0..2 {
                let answer = w.answer(BRAVO, promote).expect("answered").clone();
                let Err(refusal) = answer else { break };
                let again = ["peer-is-primary", "peer-refused", "link-lost", "not-current"];
                assert!(again.contains(&refusal.reason), "{refusal:?}");
                let force = refusal.reason == "not-current";
                promote = w.command(BRAVO, Command::Promote { force });
                w.settle();
            }
            assert_eq!(w.role(BRAVO), Role::Primary, "{leaves} {steps}");
            w.wrote(BRAVO, 9, 1, 3);
            match leaves {
                "disconnects" => w.must(ALPHA, CONNECT),
                "stops" => w.restart(ALPHA),
                _ => {}
            }
            w.settle();
            w.equal();
            w.holds(ALPHA, 9, 1, 3);
            assert_eq!(BOTH.map(|node| w.role(node)), [Role::Secondary, Role::Primary]);
        }
    }
}

/// switch-primaries: the role goes to and fro. G24: the roles converge each time, both ends say the
/// same, and nothing is ever copied.
#[test]
fn switch_primaries() {
    for protocol in PROTOCOLS {
        let mut w = under(protocol);
        for round in 0..20u64 {
            let (from, to) = ((round % 2) as usize, 1 - (round % 2) as usize);
            w.wrote(from, round * 7, 5, 1 + round);
            switch(&mut w, from);
            w.run_for(5);
            assert_eq!((w.role(from), w.role(to)), (Role::Secondary, Role::Primary));
            assert_eq!(peer(&w, from).role, Some(Role::Primary));
            assert_eq!(peer(&w, to).role, Some(Role::Secondary));
            assert_eq!([w.nodes[from].serving, w.nodes[to].serving], [false, true]);
            assert_eq!(reads(&mut w, to, round * 7, 5), [1 + round; 5]);
        }
        w.settle();
        w.equal();
        assert_eq!(resyncs(&w), 0);
    }
}

/// twopc-timeout: the question of a promotion, or the answer, or the word that it is done, is lost
/// with the link, whoever asks. G20, G24: the command is answered, nobody keeps a promise that
/// stands in the way of the next one.
#[test]
fn twopc_timeout() {
    for (from_asker, kind) in [(true, "PromoteAsk"), (false, "PromoteAnswer"), (true, "RoleChange")]
    {
        for asker in BOTH {
            for next in BOTH {
                let mut w = World::new(Setup::default());
                w.both_empty();
                w.lose(if from_asker { asker } else { 1 - asker }, kind);
                let asked = w.command(asker, PROMOTE);
                w.run_for(2_000);
                assert_eq!(w.trapped(), 1);
                let answer = w.answer(asker, asked).expect("answered").clone();
                assert_eq!(answer.is_ok(), kind == "RoleChange", "{kind}: {answer:?}");
                w.restore();
                w.settle();
                if answer.is_ok() {
                    w.must(asker, Command::Demote);
                    w.run_for(5);
                }
                w.must(next, PROMOTE);
                w.wrote(next, 5, 1, 1);
                w.settle();
                w.equal();
                assert_eq!(peer(&w, 1 - next).role, Some(Role::Primary));
            }
        }
    }
}

/// One thing happens to the nodes that may change who may be promoted.
fn stir(w: &mut World) {
    let node = w.dice.below(2) as usize;
    let peers_up = w.alive(ALPHA) && w.alive(BRAVO);
    match w.dice.below(17) {
        0 | 1 => w.cut(),
        2..=4 => w.restore(),
        5 if peers_up => w.crash(node),
        6 if peers_up => w.power_cut(node),
        7 if peers_up => stop_if_alive(w, node),
        5..=9 => (0..2)
            .filter(|node| !w.alive(*node))
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|node| w.restart(node)),
        10 if w.alive(node) => drop(w.order(node, Command::Demote)),
        11 if w.alive(node) => drop(w.order(node, Command::Disconnect)),
        12 | 13 if w.alive(node) => drop(w.order(node, CONNECT)),
        14 if w.alive(node) => drop(w.order(node, Command::DiskDetach)),
        15 if w.alive(node) => drop(w.order(node, Command::DiskAttach)),
        _ if w.alive(node) && w.role(node) == Role::Primary => {
            let start = w.dice.below(3000);
            w.write(node, start, 4, start);
        }
        _ => {}
    }
}

fn stop_if_alive(w: &mut World, node: usize) {
    if w.alive(node) {
        w.command(node, Command::Stop);
        w.run_for(500);
        w.crash(node);
    }
}

/// may-promote: what `status` says of a promotion over thousands of states of two nodes, whether the
/// nodes are in the middle of something or at rest. G24: the command finds just that.
#[test]
fn may_promote() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..600 {
        let mut w = World::running(Setup { chaos: seed + 1, ..Setup::default() });
        for _ in 0..14 {
            stir(&mut w);
            let rest = w.dice.one_in(2);
            let steps = w.dice.below(60);
            if rest {
                w.run_for(2_000);
            } else {
                w.steps(steps);
            }
            let node = w.dice.below(2) as usize;
            if !w.alive(node) {
                continue;
            }
            let said = w.status(node).promote_refusal;
            let answer = w.order(node, PROMOTE);
            let reason = answer.as_ref().err().map_or("granted", |refusal| refusal.reason);
            *seen.entry(reason).or_insert(0) += 1;
            match answer {
                Ok(_) => assert_eq!(said, "", "{seed}: refused in words, and granted"),
                // The peer is asked, and that can end otherwise.
                Err(it) if ["link-lost", "peer-refused", "disk-failed"].contains(&it.reason) => {}
                Err(it) => assert_eq!(said, it.text, "{seed}: {}", it.reason),
            }
        }
    }
    let all = ["granted", "peer-is-primary", "not-current", "no-disk", "negotiating"];
    assert!(all.iter().all(|reason| seen.contains_key(reason)), "{seen:?}");
}

/// quorum-far-away-and-down (and outdate): the peer leaves by its own word, by a stop or for good,
/// before or after the other one is promoted. G14, G24: who left is worth no promotion, still after
/// a restart; who stayed is, if it knows that the other has nothing newer, still after a restart.
#[test]
fn quorum_far_away_and_down() {
    for way in ["leaves", "stops", "killed", "cut"] {
        for wrote in [false, true] {
            let mut w = World::running(Setup::default());
            w.wrote(ALPHA, 5, 1, 1);
            flushed(&mut w, ALPHA);
            w.settle();
            match way {
                "leaves" => w.must(BRAVO, Command::Disconnect),
                "stops" => stop(&mut w, BRAVO),
                "killed" => w.crash(BRAVO),
                _ => {}
            }
            w.run_for(100);
            w.cut();
            if wrote {
                w.wrote(ALPHA, 5, 1, 2);
            }
            w.must(ALPHA, Command::Demote);
            for restarts in [false, true] {
                if restarts || !w.alive(BRAVO) {
                    BOTH.into_iter()
                        .filter(|node| w.alive(*node))
                        .collect::<Vec<_>>()
                        .into_iter()
                        .for_each(|node| w.crash(node));
                    BOTH.into_iter().for_each(|node| w.restart(node));
                    w.settle();
                }
                let left = w.status(BRAVO).disk;
                let word =
                    if way == "leaves" { DiskState::Outdated } else { DiskState::Consistent };
                assert_eq!(left, word, "{way} {wrote} {restarts}");
                assert_eq!(w.refused(BRAVO, PROMOTE), "not-current");
                let knows = way == "leaves" || wrote;
                assert_eq!(w.status(ALPHA).promote_refusal.is_empty(), knows, "{way} {wrote}");
                let promoted = w.order(ALPHA, PROMOTE);
                assert_eq!(promoted.is_ok(), knows, "{way} {wrote}: {promoted:?}");
                w.must(ALPHA, Command::Demote);
            }
            w.restore();
            w.must(BRAVO, CONNECT);
            w.settle();
            w.equal();
            w.holds(BRAVO, 5, 1, if wrote { 2 } else { 1 });
        }
    }
}

/// stress-connect-and-2pc, under load: the link flaps, then clients write without a pause. G20: the
/// nodes come together under that load.
#[test]
fn stress_connect_and_2pc_under_load() {
    let mut w = World::running(Setup { chaos: 31, ..Setup::default() });
    for round in 0..60 {
        w.write(ALPHA, round * 17, 4, round + 1);
        let millis = w.dice.below(4);
        w.run_for(millis);
        w.blip();
    }
    for round in 0..4000 {
        w.write(ALPHA, (round * 1031) % 32_000, 2, round + 100);
        w.steps(6);
    }
    assert!(w.established(), "load keeps the peer out");
    w.settle();
    w.equal();
}
