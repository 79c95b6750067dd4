//! Strangers: random bytes, and good streams with a few bytes changed. Nothing may panic, loop, or
//! take more than the limits say. `TWINBLK_SEED=n` runs other bytes; a failure prints its seed.

mod wire;

use twinblk_nbd::client::{Client, ClientEvent, ClientHandshake, OpenStep};
use twinblk_nbd::*;
use wire::*;

const STREAMS: u64 = 10_000;

fn seeds() -> impl Iterator<Item = u64> {
    let first = std::env::var("TWINBLK_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    first..first + STREAMS
}

/// A good stream with up to four bytes changed, cut or repeated; or pure noise.
fn spoil(good: &[u8], seeded: &mut Seeded) -> Vec<u8> {
    let mut stream = good.to_vec();
    if seeded.below(8) == 0 {
        let length = seeded.below(600);
        return seeded.bytes(length);
    }
    for _ in 0..=seeded.below(4) {
        let at = seeded.below(stream.len());
        match seeded.below(6) {
            0 => stream.truncate(at + 1),
            1 => stream.extend_from_within(at..),
            2 => stream[at] = 0xff,
            3 => stream[at] = 0,
            _ => stream[at] = seeded.bytes(1)[0],
        }
    }
    stream
}

/// Bytes of `stream` from where `feed` stopped, a random piece at a time; `feed` says how many it
/// took and if it is over.
fn pump(stream: &[u8], seeded: &mut Seeded, mut feed: impl FnMut(&[u8]) -> (usize, bool)) {
    let (mut rest, mut idle) = (stream, 0);
    while !rest.is_empty() {
        let size = 1 + seeded.below(rest.len().min(200));
        let (taken, over) = feed(&rest[..size]);
        assert!(taken <= size, "took more than there was");
        rest = &rest[taken..];
        idle = if taken == 0 { idle + 1 } else { 0 };
        assert!(idle < 4, "does not move");
        if over {
            return;
        }
    }
}

#[test]
fn a_server_in_negotiation_survives_anything() {
    let exports = [export("disk"), ExportInfo { refusal: Some("no".into()), ..export("tape") }];
    let good = [
        &FLAGS[..],
        &option(8, b""),
        &option(3, b""),
        &option(6, &info(b"tape", &[0, 3])),
        &option(99, b"data"),
        &go(b"disk"),
    ]
    .concat();
    for seed in seeds() {
        let mut seeded = Seeded(seed);
        let stream = spoil(&good, &mut seeded);
        let mut handshake = Handshake::new();
        handshake.take_output();
        pump(&stream, &mut seeded, |input| {
            let (taken, step) = handshake.feed(input, &exports);
            let output = handshake.take_output().len();
            assert!(output < 3 * 4096, "seed {seed}: an answer of {output} bytes");
            (taken, matches!(step, Step::Negotiated(_) | Step::Closed(_)))
        });
    }
}

#[test]
fn a_server_in_transmission_survives_anything() {
    let good = [
        &request(0, 0, (0, 512))[..],
        &request(1, 1, (512, 40)),
        &[0x25; 40],
        &request(0, 1, (u64::MAX, 40)),
        &[0x60; 40],
        &request(0, 3, (0, 0)),
        &request(0, 6, (4096, 1 << 20)),
        &request(0, 2, (0, 0)),
    ]
    .concat();
    for seed in seeds() {
        let mut seeded = Seeded(seed);
        let stream = spoil(&good, &mut seeded);
        let mut transmission = Transmission::new(terms(ALL));
        let mut due = 0;
        pump(&stream, &mut seeded, |input| {
            if due > 0 {
                let taken = input.len().min(due);
                due -= taken;
                if due == 0 {
                    transmission.payload_done();
                }
                return (taken, false);
            }
            let (taken, event) = transmission.feed(input);
            if let Event::Request(request) = event {
                assert!(request.offset + u64::from(request.length) <= 1 << 30, "seed {seed}");
                due = request.payload_bytes() as usize;
            }
            (taken, matches!(event, Event::Disconnect | Event::Fatal(_)))
        });
    }
}

#[test]
fn a_client_opening_an_export_survives_anything() {
    let mut server = Handshake::new();
    let mut good = server.take_output();
    let exports = [export("disk")];
    good.extend(talk(&exports, &[&FLAGS[..], &option(8, b""), &go(b"disk")].concat()).said);
    for seed in seeds() {
        let mut seeded = Seeded(seed);
        let stream = spoil(&good, &mut seeded);
        let mut client = ClientHandshake::new("disk", true).expect("a name");
        pump(&stream, &mut seeded, |input| {
            let (taken, step) = client.feed(input);
            client.take_output();
            (taken, matches!(step, OpenStep::Open(_) | OpenStep::Failed(_)))
        });
    }
}

#[test]
fn a_client_in_transmission_survives_anything_and_believes_no_short_read() {
    let mut error = [0; 64];
    let detail = ErrorDetail { errno: Errno::IO, offset: Some(9000), message: "torn" };
    let length = error_chunk(3, ChunkFlags::DONE, &detail, &mut error).expect("room");
    let good = [
        &data_header(1, ChunkFlags::NONE, 4096, 50)[..],
        &[0x66; 50],
        &simple_reply(2, Errno(0)),
        &hole(1, ChunkFlags::NONE, 4146, 50),
        &done(1),
        &error[..length],
    ]
    .concat();
    for seed in seeds() {
        let mut seeded = Seeded(seed);
        let stream = spoil(&good, &mut seeded);
        let mut client = Client::new(terms(ALL));
        client.submit(Request::new(Command::READ, 1, 4096, 100)).expect("room");
        client.submit(Request::new(Command::WRITE, 2, 0, 10)).expect("room");
        client.submit(Request::new(Command::READ, 3, 9000, 10)).expect("room");
        let (mut due, mut content) = (0, 0);
        pump(&stream, &mut seeded, |input| {
            if due > 0 {
                let taken = input.len().min(due);
                due -= taken;
                if due == 0 {
                    client.payload_done();
                }
                return (taken, false);
            }
            let (taken, event) = client.feed(input);
            match event {
                ClientEvent::Data { cookie, length, .. } => {
                    due = length as usize;
                    content += if cookie == 1 { length } else { 0 };
                }
                ClientEvent::Zeroes { cookie: 1, length, .. } => content += length,
                ClientEvent::Completed { cookie: 1, result: Ok(()) } => {
                    assert_eq!(content, 100, "seed {seed}");
                }
                _ => {}
            }
            (taken, matches!(event, ClientEvent::Fatal(_)))
        });
    }
}
