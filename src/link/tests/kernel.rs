//! The same two nodes over the kernel's own sockets, on both engines.

use std::net::{SocketAddr, TcpListener};

use super::pair::{Node, options};
use crate::link::Path;
use crate::ring::{Ring, RingChoice, SystemRing};
use crate::units::Nanos;

fn nodes(choice: RingChoice) -> [Node<SystemRing>; 2] {
    let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let bound = |listener: &TcpListener| listener.local_addr().expect("bound");
    let addresses: [SocketAddr; 2] = listeners.each_ref().map(bound);
    let mut index = 0;
    listeners.map(|listener| {
        let mut ring = SystemRing::new(choice).expect("both engines work where tests run");
        let listener = ring.adopt_listener(listener);
        let mut options = options(index);
        let local = Some(addresses[index].ip());
        options.paths = vec![Path { local, peer: addresses[1 - index] }];
        index += 1;
        Node::on(ring, listener, index - 1, options)
    })
}

/// Turns both until `done`.
fn run(nodes: &mut [Node<SystemRing>; 2], done: impl Fn(&[Node<SystemRing>; 2]) -> bool) {
    while !done(nodes) {
        for node in &mut *nodes {
            let soon = node.ring.now() + Nanos::from_millis(1);
            node.turn(soon);
        }
    }
}

fn two_sessions(choice: RingChoice) {
    let mut nodes = nodes(choice);
    for node in &mut nodes {
        (node.habit.writes, node.habit.blocks, node.habit.ahead) = (60, 255, 12);
    }
    run(&mut nodes, |nodes| nodes.iter().all(Node::is_done));
    assert_eq!(nodes[0].judge.session, nodes[1].judge.session);
    let first = nodes[0].judge.session.expect("up");
    nodes[0].link.disconnect(nodes[0].ring.now(), first, "again");
    run(&mut nodes, |nodes| {
        let anew = |node: &Node<_>| node.is_done() && node.judge.session != Some(first);
        nodes.iter().all(anew)
    });
    for node in &mut nodes {
        node.link.dial(&mut node.ring, &mut node.pool, false);
        let session = node.judge.session.expect("up");
        node.link.disconnect(node.ring.now(), session, "the test ends");
    }
    run(&mut nodes, |nodes| nodes.iter().all(|node| node.link.connections() == 0));
    assert!(nodes.iter().all(|node| node.used_bytes() == 0), "slots were left behind");
}

#[test]
fn two_sessions_over_uring() {
    two_sessions(RingChoice::Uring);
}

#[test]
fn two_sessions_over_the_portable_engine() {
    two_sessions(RingChoice::Portable);
}
