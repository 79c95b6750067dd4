//! Owns the proof of the simulated network. Must never know the disk.

use twinblk::ring::{Errno, Op, Ring as _, SocketId};

use super::Test;
use super::bench::Bench;
use crate::link::{Link, address};

pub(crate) const TESTS: [Test; 10] = [
    ("net::bytes_arrive_whole_and_in_order", bytes_arrive_whole_and_in_order),
    ("net::nobody_listens", nobody_listens),
    ("net::a_cut_holds_bytes_back_and_healing_brings_them", a_cut_holds_bytes_back),
    ("net::a_one_way_cut_lets_the_other_way_pass", a_one_way_cut),
    ("net::a_reset_ends_everything", a_reset_ends_everything),
    ("net::a_killed_process_ends_its_stream_after_its_bytes", a_killed_process),
    ("net::a_host_without_power_is_silent", a_host_without_power_is_silent),
    ("net::corruption_flips_bits", corruption_flips_bits),
    ("net::a_full_buffer_holds_the_sender", a_full_buffer_holds_the_sender),
    ("net::close_waits_and_then_the_number_is_free", close_waits),
];

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 7 % 251).expect("small")).collect()
}

/// Receives on host 0 until the stream ends or `length` bytes are there.
fn receive_all(bench: &mut Bench, socket: SocketId, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let id = bench.lives[0].receive(socket, 4096);
        match bench.end(0, id) {
            Ok(0) | Err(_) => break,
            Ok(_) => all.extend_from_slice(bench.lives[0].bytes(id)),
        }
    }
    all
}

fn set_links(bench: &Bench, links: [(usize, usize, Link); 2]) {
    let world = &mut *bench.world.borrow_mut();
    for (from, to, link) in links {
        world.net.set_link(&mut world.clockwork, (from, to), link);
    }
    world.deliver();
}

fn cut(here: bool, there: bool) -> [(usize, usize, Link); 2] {
    let link = |cut| Link { cut, ..Link::good() };
    [(1, 0, link(here)), (0, 1, link(there))]
}

fn bytes_arrive_whole_and_in_order() {
    for (seed, shred_percent) in [(1, 0), (2, 50), (3, 95)] {
        let mut bench = Bench::new(seed);
        let link = Link { shred_percent, ..Link::good() };
        set_links(&bench, [(1, 0, link), (0, 1, link)]);
        let (mine, theirs) = bench.connect();
        let bytes = pattern(300_000);
        for part in bytes.chunks(70_000) {
            bench.lives[1].send(theirs, part);
        }
        assert!(receive_all(&mut bench, mine, bytes.len()) == bytes);
    }
}

fn nobody_listens() {
    let mut bench = Bench::new(1);
    let connect = |to| Op::Connect { address: address(to, 9), from: None };
    let refused = bench.lives[1].submit(connect(0));
    assert_eq!(bench.end(1, refused), Err(Errno(libc::ECONNREFUSED)));
    let nowhere = bench.lives[1].submit(connect(77));
    assert_eq!(bench.end(1, nowhere), Err(Errno(libc::ETIMEDOUT)));
}

fn a_cut_holds_bytes_back() {
    let mut bench = Bench::new(1);
    let (mine, theirs) = bench.connect();
    set_links(&bench, cut(true, true));
    bench.lives[1].send(theirs, &pattern(9000));
    let id = bench.lives[0].receive(mine, 4096);
    bench.pass(60_000_000_000);
    assert!(!bench.lives[0].done.contains_key(&id), "and nobody is told");
    set_links(&bench, cut(false, false));
    let count = bench.end(0, id).expect("healed") as usize;
    let mut all = bench.lives[0].bytes(id).to_vec();
    all.extend(receive_all(&mut bench, mine, 9000 - count));
    assert!(all == pattern(9000));
}

fn a_one_way_cut() {
    let mut bench = Bench::new(1);
    let (mine, theirs) = bench.connect();
    set_links(&bench, cut(false, true));
    bench.lives[1].send(theirs, b"heard");
    bench.lives[0].send(mine, b"unheard");
    assert_eq!(receive_all(&mut bench, mine, 5), b"heard");
    let id = bench.lives[1].receive(theirs, 4096);
    bench.pass(60_000_000_000);
    assert!(!bench.lives[1].done.contains_key(&id));
}

fn a_reset_ends_everything() {
    let mut bench = Bench::new(1);
    let (mine, theirs) = bench.connect();
    let receives = [bench.lives[0].receive(mine, 16), bench.lives[1].receive(theirs, 16)];
    {
        let world = &mut *bench.world.borrow_mut();
        world.net.break_connections(&mut world.clockwork, 0, 1);
        world.deliver();
    }
    for (host, id) in receives.into_iter().enumerate() {
        assert_eq!(bench.end(host, id), Err(Errno(libc::ECONNRESET)));
    }
    let send = bench.lives[1].send(theirs, b"late");
    assert!(bench.end(1, send).is_err());
}

fn a_killed_process() {
    let mut bench = Bench::new(1);
    let (mine, theirs) = bench.connect();
    let send = bench.lives[1].send(theirs, b"last words");
    bench.end(1, send).expect("they fit the buffer");
    let life = bench.lives[1].life;
    bench.world.borrow_mut().kill(life);
    assert_eq!(receive_all(&mut bench, mine, 1000), b"last words");
    assert_eq!(bench.world.borrow().net.open_sockets(life), 0);
}

fn a_host_without_power_is_silent() {
    let mut bench = Bench::new(1);
    let (mine, _) = bench.connect();
    bench.world.borrow_mut().cut_power(1, &[1]);
    let id = bench.lives[0].receive(mine, 16);
    bench.lives[0].send(mine, b"anybody?");
    bench.pass(60_000_000_000);
    assert!(!bench.lives[0].done.contains_key(&id));
    bench.world.borrow_mut().power_on(1);
    bench.restart(1);
    bench.lives[0].send(mine, b"and now?");
    assert_eq!(bench.end(0, id), Err(Errno(libc::ECONNRESET)));
}

fn corruption_flips_bits() {
    let mut bench = Bench::new(1);
    let link = Link { corrupt_ppm: 300_000, ..Link::good() };
    set_links(&bench, [(1, 0, link), (0, 1, link)]);
    let (mine, theirs) = bench.connect();
    let bytes = pattern(200_000);
    bench.lives[1].send(theirs, &bytes);
    let got = receive_all(&mut bench, mine, bytes.len());
    assert!(got.len() == bytes.len() && got != bytes);
}

fn a_full_buffer_holds_the_sender() {
    let mut bench = Bench::new(1);
    let (mine, theirs) = bench.connect();
    let bytes = pattern(8 << 20);
    let send = bench.lives[1].send(theirs, &bytes);
    bench.settle();
    assert!(!bench.lives[1].done.contains_key(&send), "nobody receives");
    assert!(receive_all(&mut bench, mine, bytes.len()) == bytes);
    assert!(bench.end(1, send).is_ok());
}

fn close_waits() {
    let mut bench = Bench::new(1);
    let listener = bench.lives[0].ring.listen(7).expect("free");
    let (mine, _) = bench.connect_to(listener);
    let receive = bench.lives[0].receive(mine, 16);
    let close = bench.lives[0].submit(Op::Close { socket: mine });
    bench.pass(10_000_000);
    assert!(!bench.lives[0].done.contains_key(&close), "the receive is under way");
    let (other, _) = bench.connect_to(listener);
    assert_ne!(other, mine);
    bench.lives[0].ring.shutdown(mine);
    assert_eq!(bench.end(0, receive), Ok(0));
    assert_eq!(bench.end(0, close), Ok(0));
    let (third, _) = bench.connect_to(listener);
    assert_eq!(third, mine);
}
