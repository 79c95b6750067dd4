//! How sessions end, and that the next one begins.

use super::pair::{LINK, Node, Pair, address, options, seconds};
use crate::buffer::{Purpose, Span};
use crate::format::frame::{ByeReason, Frame};
use crate::replica::event::Part;
use crate::ring::Ring as _;
use crate::units::{Blocks, Epoch, Nanos, Sequence};

const BYE: Frame = Frame::Bye { reason: ByeReason::Stop };

#[test]
fn a_link_cut_in_one_direction_is_cut_for_both() {
    for dark in [(0, 1), (1, 0)] {
        let mut pair = Pair::new(1);
        assert!(pair.run(seconds(5), Pair::is_done));
        pair.pass(seconds(20));
        pair.net.borrow_mut().dark.push(dark);
        let cut = pair.now();
        let both_down = |pair: &Pair| pair.nodes.iter().all(|node| node.judge.session.is_none());
        assert!(pair.run(seconds(8), both_down), "still up: {dark:?}");
        assert!(pair.now().since(cut) >= seconds(5), "too hasty");
        let words = pair.nodes[0].link.last_error().to_owned();
        assert!(words.contains("beta"), "{words}");
        pair.pass(seconds(60));
        pair.net.borrow_mut().dark.clear();
        assert!(pair.run(seconds(12), Pair::is_done), "healed, and not connected");
        pair.assert_nothing_left();
    }
}

#[test]
fn heartbeats_keep_an_idle_link_up_for_ever() {
    let mut pair = Pair::new(2);
    pair.pass(seconds(3600));
    assert!(pair.is_up());
    assert_eq!(pair.nodes[0].judge.sessions.len(), 1);
}

#[test]
fn a_peer_that_answers_heartbeats_only_is_given_up() {
    let mut pair = Pair::new(3);
    pair.nodes[1].habit.answers = false;
    pair.nodes[1].habit.writes = 0;
    assert!(pair.run(seconds(5), Pair::is_up));
    let up = pair.now();
    assert!(pair.run(seconds(60), Pair::has_lost_one));
    let after = pair.now().since(up);
    assert!((seconds(41)..seconds(44)).contains(&after), "{after:?}");
    let words = pair.nodes[0].link.last_error();
    assert!(words.contains("answers heartbeats but nothing else"), "{words}");
}

#[test]
fn a_peer_without_room_for_payloads_stays_connected_and_goes_on() {
    let mut pair = Pair::new(4);
    let stuck = &mut pair.nodes[1];
    // On the account of the link itself: what others hold does not stop it.
    let account = Purpose::Peer.of(LINK.owner());
    let full = stuck.pool.take(account, 1 << 20).expect("room");
    let mut rest = Vec::new();
    while let Some(payload) = stuck.pool.take(account, 1 << 20) {
        rest.push(payload);
    }
    pair.pass(seconds(30));
    assert!(pair.is_up(), "heartbeats and acknowledgements do not wait for payloads");
    assert_eq!(pair.nodes[1].judge.all_writes, 0);
    assert!(pair.nodes[1].is_done(), "the other direction flows");
    for payload in rest.into_iter().chain([full]) {
        pair.nodes[1].pool.release(payload);
    }
    assert!(pair.run(Nanos::from_millis(20), Pair::is_done), "room came free, and nobody looked");
    assert_eq!(pair.nodes[0].judge.sessions.len(), 1);
    pair.assert_nothing_left();
}

#[test]
fn acknowledgements_do_not_wait_for_writes() {
    let mut pair = Pair::new(5);
    for node in &mut pair.nodes {
        (node.habit.writes, node.habit.blocks, node.habit.ahead) = (60, 255, 60);
    }
    // A hundredth of a second each way, and little fits: bulk takes long.
    pair.net.borrow_mut().weather.delay = Nanos::from_millis(10);
    pair.net.borrow_mut().weather.window = 60_000;
    assert!(pair.run(seconds(5), Pair::is_up));
    pair.run(seconds(1), |pair| pair.nodes[0].judge.all_writes > 3);
    let queued = pair.nodes[0].link.queued_bytes();
    assert!(queued > 4 << 20, "the queue must be long for this: {queued}");
    let before = pair.nodes[1].judge.written;
    let took = pair.nodes[0].judge.all_writes;
    pair.pass(Nanos::from_millis(25));
    assert!(pair.nodes[1].judge.written >= took.max(before), "an acknowledgement was held up");
    assert!(pair.run(seconds(80), Pair::is_done));
    assert_eq!(pair.nodes[0].judge.sessions.len(), 1);
}

/// Says goodbye and disconnects.
fn leave(node: &mut Node) {
    node.send(&BYE, None, Epoch(9));
    let (now, session) = (node.ring.now(), node.judge.session.expect("up"));
    node.link.disconnect(now, session, "the operator said so");
    node.send(&BYE, None, Epoch(9));
}

#[test]
fn a_goodbye_is_heard_before_the_session_ends() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed);
        (pair.nodes[0].habit.ahead, pair.nodes[0].habit.writes) = (10, 10);
        assert!(pair.run(seconds(5), Pair::is_up));
        pair.settle();
        for node in &mut pair.nodes {
            node.link.dial(&mut node.ring, &mut node.pool, false);
        }
        leave(&mut pair.nodes[0]);
        let gone = |pair: &Pair| pair.nodes[0].judge.session.is_none();
        assert!(pair.run(Nanos::from_millis(1_100), gone), "a second must do");
        pair.pass(seconds(1));
        let peer = &pair.nodes[1].judge;
        assert_eq!((peer.byes, peer.session), (1, None), "one goodbye, then the end");
        assert_eq!(peer.all_writes, 10, "what was queued before it came first");
        pair.assert_nothing_left();
    }
}

#[test]
fn two_goodbyes_at_once_do_not_wait_for_each_other() {
    let mut pair = Pair::new(8);
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.nodes.iter_mut().for_each(leave);
    let gone = |pair: &Pair| pair.nodes.iter().all(|node| node.judge.session.is_none());
    assert!(pair.run(Nanos::from_millis(100), gone), "{:#?}", pair.nodes[0].link);
    assert_eq!(pair.nodes.each_ref().map(|node| node.judge.byes), [0, 0]);
}

#[test]
fn leaving_a_peer_that_does_not_read_takes_a_second() {
    let mut pair = Pair::new(9);
    assert!(pair.run(seconds(5), Pair::is_done));
    pair.net.borrow_mut().dark.push((0, 1));
    leave(&mut pair.nodes[0]);
    let gone = |pair: &Pair| pair.nodes[0].judge.session.is_none();
    assert!(!pair.run(Nanos::from_millis(990), gone));
    assert!(pair.run(Nanos::from_millis(20), gone));
}

#[test]
fn a_peer_that_lost_its_memory_replaces_the_session_it_had() {
    for index in 0..2 {
        let mut pair = Pair::new(10);
        assert!(pair.run(seconds(5), Pair::is_done));
        pair.pass(seconds(10));
        let survivor = 1 - index;
        let old = pair.nodes[survivor].judge.session;
        pair.net.borrow_mut().vanish(index);
        pair.nodes[index] = Node::new(&pair.net, index, options(index));
        let cut = pair.now();
        assert!(pair.run(seconds(3), Pair::is_done), "before any heartbeat is missed");
        assert!(pair.now().since(cut) < seconds(1));
        assert_ne!(pair.nodes[survivor].judge.session, old);
        pair.assert_nothing_left();
    }
}

#[test]
fn both_dialling_at_once_ends_in_one_session() {
    for seed in 0..300 {
        let mut pair = Pair::new(seed);
        for node in &mut pair.nodes {
            (node.habit.writes, node.habit.blocks) = (3, 2);
        }
        let roll = pair.net.borrow_mut().roll();
        pair.net.borrow_mut().weather.delay = Nanos(roll % 60_000_000);
        pair.net.borrow_mut().weather.jitter = Nanos(roll >> 32 & 0x3ff_ffff);
        pair.pass(Nanos(roll >> 16 & 0x1fff_ffff));
        assert!(pair.run(seconds(20), Pair::is_done), "seed {seed}");
        pair.pass(seconds(20));
        assert!(pair.is_up(), "seed {seed}");
        for node in &pair.nodes {
            assert_eq!(node.judge.sessions.len(), 1, "seed {seed}");
            assert_eq!(node.link.connections(), 2, "seed {seed}");
        }
    }
}

#[test]
fn one_way_dialling_is_enough() {
    for deaf in 0..2 {
        let mut pair = Pair::new(11);
        pair.net.borrow_mut().stop_listening(address(deaf));
        assert!(pair.run(seconds(5), Pair::is_done));
        pair.assert_nothing_left();
    }
}

#[test]
fn ten_thousand_reconnects_leave_nothing_behind() {
    let mut pair = Pair::new(12);
    for node in &mut pair.nodes {
        (node.habit.writes, node.habit.blocks) = (1, 2);
    }
    for round in 0..10_000 {
        assert!(pair.run(seconds(20), Pair::is_up), "round {round}");
        let node = &mut pair.nodes[round % 2];
        let (now, session) = (node.ring.now(), node.judge.session.expect("up"));
        node.link.disconnect(now, session, "again");
        assert!(pair.run(seconds(9), |pair| !pair.is_up()), "round {round}");
        assert!(pair.net.borrow().open_ends() < 64);
        assert!(pair.nodes.iter().all(|node| node.link.connections() < 20));
    }
    for node in &pair.nodes {
        assert!(node.judge.sessions.len() >= 10_000);
        assert!(node.pool.used_bytes(Purpose::Fixed) < 20 << 16);
    }
    pair.assert_nothing_left();
}

#[test]
fn nothing_of_an_ended_session_is_sent_in_the_next() {
    let mut pair = Pair::new(13);
    assert!(pair.run(seconds(5), Pair::is_done));
    let node = &mut pair.nodes[0];
    let old = node.judge.session.expect("up");
    node.link.disconnect(node.ring.now(), old, "again");
    assert!(
        pair.run(seconds(9), |pair| { pair.nodes[0].judge.session.is_none_or(|new| new != old) })
    );
    assert!(pair.run(seconds(9), Pair::is_done));
    let node = &mut pair.nodes[0];
    let outgoing = crate::link::Outgoing {
        session: old,
        epoch: Epoch(1),
        frame: &Frame::MarksDone,
        part: None,
    };
    node.link.send(node.ring.now(), &mut node.pool, outgoing);
    assert_eq!(node.link.queued_bytes(), 0);
    // The judge panics at a frame that no write of the session explains.
    pair.pass(seconds(3));
    assert!(pair.is_up());
}

#[test]
#[should_panic(expected = "payload and frame do not match")]
fn a_payload_that_belongs_to_no_frame_is_a_bug_of_the_caller() {
    let mut pair = Pair::new(14);
    assert!(pair.run(seconds(5), Pair::is_done));
    let node = &mut pair.nodes[0];
    let payload = node.pool.take(Purpose::Client, 4096).expect("room");
    let part = Part { payload: payload.share(), first: 0 };
    node.send(&Frame::MarksDone, Some(part), Epoch(1));
}

#[test]
#[should_panic(expected = "a write out of its place")]
fn the_judge_notices_a_write_out_of_place() {
    let mut pair = Pair::new(15);
    assert!(pair.run(seconds(5), Pair::is_done));
    let node = &mut pair.nodes[0];
    let payload = node.pool.take(Purpose::Client, 4096).expect("room");
    node.pool.bytes_mut(Span { slot: payload.share(), offset: 0, length: 4096 }).fill(1);
    let (sequence, after) = (Sequence(1), Sequence(0));
    let frame = Frame::Write { sequence, after, blocks: Blocks::new(300, 1), fua: false };
    let part = Part { payload: payload.share(), first: 0 };
    node.send(&frame, Some(part), Epoch(8));
    node.pool.release(payload);
    pair.pass(seconds(1));
}
