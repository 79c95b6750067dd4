//! Who is let in, who is not, and what each is told.

use super::pair::{Pair, address, seconds};
use super::stranger::Stranger;
use crate::buffer::Purpose;
use crate::format::frame::Channel;
use crate::format::hello::{Challenge, Hello, Message, Refusal, Versions};
use crate::link::Secret;
use crate::units::{Nanos, NodeId, Session};

fn versions(oldest: u16, newest: u16) -> Versions {
    Versions { oldest, newest }
}

fn hello(resource: &str) -> Message {
    Message::Hello(Hello {
        versions: Versions::SPOKEN,
        channel: Channel::Data,
        from: NodeId(1),
        to: NodeId(0),
        session: Session(0),
        nonce: [1; 32],
        resource: resource.into(),
    })
}

#[test]
fn a_wrong_secret_is_never_up_and_said_on_both_nodes() {
    let mut pair = Pair::with(1, |index, options| {
        if index == 1 {
            options.secret = Secret::new(b"marlin");
        }
    });
    pair.pass(seconds(120));
    for node in &pair.nodes {
        assert!(node.judge.sessions.is_empty());
        let words = node.link.last_error();
        assert!(words.starts_with("authentication failed: the secrets of"), "{words}");
        assert!(words.contains("/etc/twinblk/r0.secret"), "{words}");
    }
    let attempts = pair.net.borrow().made();
    assert!((30..300).contains(&attempts), "retries must go on, at a pace: {attempts}");
    pair.assert_nothing_left();
}

#[test]
fn a_secret_is_never_printed() {
    let pair = Pair::new(1);
    let printed = format!("{:?}", pair.nodes[0].link);
    let secret = format!("{:?}", b"swordfish");
    assert!(!printed.contains("swordfish") && !printed.contains(secret.trim_matches(['[', ']'])));
}

#[test]
fn neighbouring_versions_speak_the_newest_common_one() {
    for (a, b, common) in [((1, 2), (1, 1), 1), ((1, 2), (2, 3), 2), ((2, 2), (1, 4), 2)] {
        let mut pair = Pair::with(2, |index, options| {
            let (oldest, newest) = if index == 0 { a } else { b };
            options.versions = versions(oldest, newest);
        });
        assert!(pair.run(seconds(5), Pair::is_done));
        for node in &pair.nodes {
            assert_eq!(node.link.version(), Some(common));
        }
    }
}

#[test]
fn versions_without_a_common_one_are_refused_in_words() {
    let mut pair = Pair::with(3, |index, options| {
        options.versions = if index == 0 { versions(1, 2) } else { versions(3, 4) };
    });
    pair.pass(seconds(60));
    for node in &pair.nodes {
        assert!(node.judge.sessions.is_empty());
        let words = node.link.last_error();
        assert!(words.contains("link version") && words.contains("upgrade"), "{words}");
    }
    pair.assert_nothing_left();
}

#[test]
fn an_unknown_resource_is_refused_in_words() {
    let mut pair = Pair::with(4, |index, options| {
        if index == 0 {
            options.resource = "other".into();
        }
    });
    pair.pass(seconds(20));
    let words = pair.nodes[0].link.last_error();
    assert!(words.contains("beta does not know resource other"), "{words}");
    pair.assert_nothing_left();
}

#[test]
fn a_third_node_at_the_address_is_named() {
    let mut pair = Pair::with(5, |index, options| {
        if index == 1 {
            options.local = NodeId(7);
        }
    });
    pair.pass(seconds(20));
    let words = pair.nodes[0].link.last_error();
    assert!(words.contains("node 7 answers at the address of beta"), "{words}");
    assert!(pair.nodes.iter().all(|node| node.judge.sessions.is_empty()));
}

#[test]
fn nobody_listening_is_said_and_retried_for_ever() {
    let mut pair = Pair::new(6);
    for node in 0..2 {
        pair.net.borrow_mut().stop_listening(address(node));
    }
    pair.pass(seconds(300));
    let words = pair.nodes[0].link.last_error();
    assert!(words.contains("beta cannot be reached at 10.0.0.2:7790: "), "{words}");
    pair.net.borrow_mut().listen(1, address(1));
    assert!(pair.run(seconds(6), Pair::is_done));
    assert_eq!(pair.nodes[0].link.last_error(), "");
}

#[test]
fn a_network_that_swallows_all_is_said() {
    let mut pair = Pair::new(6);
    pair.net.borrow_mut().dark.push((0, 1));
    pair.pass(seconds(300));
    for node in &pair.nodes {
        let words = node.link.last_error();
        assert!(words.contains("cannot be reached at") && words.contains("timed out"), "{words}");
        assert!(node.link.connections() < 8);
    }
    pair.net.borrow_mut().dark.clear();
    assert!(pair.run(seconds(12), Pair::is_done));
}

#[test]
fn strangers_who_claim_to_be_the_peer_do_not_keep_it_out() {
    let mut pair = Pair::new(16);
    // Only the peer's dialling can succeed.
    pair.net.borrow_mut().stop_listening(address(1));
    let mut strangers: Vec<Stranger> = Vec::new();
    for _ in 0..100 {
        strangers.push(Stranger::new(&pair.net, address(0), &hello("r0").encode()));
    }
    pair.pass_with(Nanos::from_millis(1), &mut strangers);
    pair.pass_with(seconds(2), &mut strangers);
    assert!(pair.is_up(), "{}", pair.nodes[1].link.last_error());
    pair.pass_with(seconds(20), &mut strangers);
    assert!(strangers.iter().all(|stranger| stranger.closed));
    pair.assert_nothing_left();
}

#[test]
fn a_standalone_node_refuses_in_words_until_wanted() {
    let mut pair = Pair::new(7);
    let node = &mut pair.nodes[1];
    node.link.dial(&mut node.ring, &mut node.pool, false);
    pair.pass(seconds(20));
    let words = pair.nodes[0].link.last_error();
    assert!(
        words.contains("beta is StandAlone") && words.contains("twinblk connect r0"),
        "{words}"
    );
    let node = &mut pair.nodes[1];
    node.link.dial(&mut node.ring, &mut node.pool, true);
    assert!(pair.run(seconds(2), Pair::is_done), "at once, for an operator asked");
}

#[test]
fn all_paths_are_tried_in_turn() {
    let mut pair = Pair::with(8, |index, options| {
        let mut dead = options.paths[0];
        dead.peer.set_port(1);
        options.paths.insert(0, dead);
        if index == 1 {
            options.paths.truncate(1);
        }
    });
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.assert_nothing_left();
}

#[test]
fn a_recorded_conversation_opens_nothing_and_disturbs_nothing() {
    let mut pair = Pair::new(9);
    pair.net.borrow_mut().record = true;
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.pass(seconds(10));
    let session = pair.nodes[0].judge.session;
    let made = pair.net.borrow().made();
    for connection in 0..made {
        for target in 0..2 {
            let words = pair.net.borrow().sent(connection).0.to_vec();
            // At once, and word by word as the dialler did.
            for first in [words.len(), 66] {
                let (now, later) = words.split_at(first.min(words.len()));
                let mut stranger = Stranger::new(&pair.net, address(target), now);
                pair.pass_with(seconds(1), std::slice::from_mut(&mut stranger));
                stranger.say(later);
                pair.pass_with(seconds(6), std::slice::from_mut(&mut stranger));
                assert!(stranger.closed);
            }
        }
    }
    assert_eq!(pair.nodes[0].judge.session, session);
    assert!(pair.is_up());
    pair.assert_nothing_left();
}

#[test]
fn slow_strangers_and_garbage_cost_little_and_delay_nobody() {
    let mut pair = Pair::new(10);
    pair.net.borrow_mut().stop_listening(address(1));
    let greeting = hello("r0").encode();
    let garbage = vec![0x55; 600];
    let mut strangers = Vec::new();
    for number in 0..500_usize {
        let words = match number % 5 {
            0 => &greeting[..number % greeting.len()],
            1 => &garbage[..],
            2 => &[],
            3 => &greeting[..40],
            _ => &greeting[..],
        };
        strangers.push(Stranger::new(&pair.net, address(0), words));
        if number % 50 == 0 {
            pair.pass_with(seconds(0), &mut strangers);
        }
    }
    pair.pass_with(seconds(1), &mut strangers);
    let fixed = pair.nodes[0].pool.used_bytes(Purpose::Fixed);
    assert!(fixed <= 128 * 4096 + 32 * 65_536, "{fixed} bytes for strangers");
    pair.net.borrow_mut().listen(1, address(1));
    assert!(pair.run(seconds(10), Pair::is_done), "strangers kept the nodes apart");
    pair.pass_with(seconds(20), &mut strangers);
    assert!(strangers.iter().all(|stranger| stranger.closed), "all are sent away in time");
    assert_eq!(pair.nodes[0].doorman.connections(), 0);
    assert!(pair.is_up());
    pair.assert_nothing_left();
}

#[test]
fn a_stranger_learns_only_that_the_resource_is_unknown() {
    let mut pair = Pair::new(11);
    let mut stranger = Stranger::new(&pair.net, address(0), &hello("nothing").encode());
    pair.pass_with(seconds(1), std::slice::from_mut(&mut stranger));
    let told = Message::decode(&stranger.heard);
    assert_eq!(told, Ok(Message::Refusal(Refusal::UnknownResource)));
    assert!(stranger.closed);
}

#[test]
fn an_impostor_at_the_address_is_refused() {
    let mut pair = Pair::new(12);
    let node = &mut pair.nodes[1];
    node.link.dial(&mut node.ring, &mut node.pool, false);
    let challenge = Challenge { version: 1, nonce: [2; 32], proof: [3; 32] };
    let mut stranger = Stranger::new(&pair.net, address(0), &hello("r0").encode());
    pair.pass_with(seconds(1), std::slice::from_mut(&mut stranger));
    stranger.say(&Message::Challenge(challenge).encode());
    pair.pass_with(seconds(1), std::slice::from_mut(&mut stranger));
    assert!(stranger.closed);
    assert!(pair.nodes.iter().all(|node| node.judge.sessions.is_empty()));
}
