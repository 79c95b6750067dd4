//! Owns the field's tests of plain I/O: odd requests, a busy asynchronous link, a small activity log.

use crate::field::*;
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::replica::event::*;

const ODD: usize = 3 << 20;

/// Writes and zeroes at any byte, told to a model as well.
fn odd_requests(w: &mut World, node: usize, model: &mut [u8], seed: u64) {
    let mut dice = crate::medium::Dice(seed);
    for round in 0..120u64 {
        let offset = dice.below(ODD as u64 - 20_000);
        let length = 1 + dice.below(if round % 9 == 0 { 2_000_000 } else { 19_000 });
        let length = length.min(ODD as u64 - offset);
        let span = offset as usize..(offset + length) as usize;
        let id = if round % 3 == 0 {
            model[span].fill(0);
            w.zero(node, offset, length)
        } else {
            let data: Vec<u8> = (0..length).map(|i| (i * 7 + round) as u8).collect();
            model[span].copy_from_slice(&data);
            w.write_bytes(node, offset, &data, false)
        };
        if round % 4 == 0 {
            w.until("done", |w| w.done(node, id));
        }
    }
    w.run_for(1_000);
}

#[track_caller]
fn shows(w: &mut World, node: usize, model: &[u8]) {
    for (offset, length) in [(0, ODD), (1, 5000), (4096 * 3 + 77, 1_500_000)] {
        let id = w.read(node, offset as u64, length.min(ODD - offset) as u64);
        w.until("read", |w| w.reply(node, id).is_some());
        let bytes = w.reply(node, id).unwrap().as_ref().unwrap();
        assert!(bytes[..] == model[offset..offset + length.min(ODD - offset)]);
    }
}

/// unusual-bios: requests of any length at any byte, zeroes and discards among them, with a peer and
/// without, and through the peer alone. G5, G10: they change their bytes and no others, on both nodes;
/// the peer shows the same; a local error is not taken for success.
#[test]
fn unusual_bios() {
    for how in ["with a peer", "alone", "through the peer"] {
        let mut w = World::running(Setup::default());
        let mut model = vec![0u8; ODD];
        odd_requests(&mut w, ALPHA, &mut model, 3);
        match how {
            "alone" => w.cut(),
            "through the peer" => w.must(ALPHA, Command::DiskDetach),
            _ => {}
        }
        odd_requests(&mut w, ALPHA, &mut model, 4);
        shows(&mut w, ALPHA, &model);
        if how == "alone" {
            // With no other copy an error of the disk is no success: clients wait.
            w.nodes[ALPHA].medium.broken = true;
            let id = w.write_bytes(ALPHA, 77, &[7; 5_000], false);
            model[77..5_077].fill(7);
            w.run_for(2_000);
            assert!(!w.done(ALPHA, id), "an error is told as success");
            w.nodes[ALPHA].medium.broken = false;
            w.must(ALPHA, Command::DiskAttach);
            w.until("written", |w| w.done(ALPHA, id));
            w.restore();
        }
        if how == "through the peer" {
            w.must(ALPHA, Command::DiskAttach);
        }
        w.settle();
        w.equal();
        switch(&mut w, ALPHA);
        shows(&mut w, BRAVO, &model);
        w.settle();
        w.equal();
    }
}

/// protocol-a-io: an asynchronous link under heavy writes and zeroes, five times, with a link that
/// breaks now and then. G2, G7: all are answered, the disks end equal.
#[test]
fn protocol_a_io() {
    for seed in 1..6 {
        let mut w = under(Protocol::A);
        w.setup.chaos = seed;
        let mut ids = Vec::new();
        for stamp in 1..1_500 {
            let start = w.dice.below(30_000);
            let count = 1 + w.dice.below(12);
            ids.push(if w.dice.one_in(9) {
                w.zero(ALPHA, start * 4096, count * 4096)
            } else {
                w.write(ALPHA, start, count, stamp)
            });
            if w.dice.one_in(20) {
                ids.push(w.flush(ALPHA));
            }
            if w.dice.one_in(400) {
                w.blip();
            }
            w.steps(4);
        }
        w.settle();
        assert!(ids.iter().all(|id| w.done(ALPHA, *id)), "{seed}");
        w.equal();
        assert_eq!(BOTH.map(|node| w.status(node).disk), [DiskState::UpToDate; 2]);
    }
}

/// stress-al: an activity log of sixteen extents under writes to 255 of them, each over the edge of
/// two. G20: no deadlock, and no waiting for the idle barrier.
#[test]
fn stress_al() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let setup = Setup { device_blocks: 256 * 1024, protocol, ..Setup::default() };
        let mut w = World::running(setup);
        let before = w.now;
        let ids: Vec<_> =
            (0..500u64).map(|i| w.write(ALPHA, (i * 37 % 255) * 1024 + 1022, 4, i + 1)).collect();
        w.until("all done", |w| ids.iter().all(|id| w.done(ALPHA, *id)));
        let took = w.now.since(before).as_millis();
        assert!(took < 450, "{took} ms: it waits for idle barriers");
        w.settle();
        w.equal();
    }
}
