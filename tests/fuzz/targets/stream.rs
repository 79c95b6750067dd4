//! A link in the middle of a session: frames with payloads up to the largest, cut into any pieces,
//! damaged or forged anywhere, before the receiving side as it stands in the daemon. The input is
//! a script, since a few bytes of it must make megabytes.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use twinblk::buffer::{Budgets, Payload, Pool, Purpose, Span};
use twinblk::format::checksum;
use twinblk::format::frame::{self, ByeReason, Channel, Frame, HEADER_BYTES, Tag};
use twinblk::format::hello::{self as greeting, Message, Versions};
use twinblk::limits::{ANSWER_BYTES_MAX, PIECE_BLOCKS};
use twinblk::link::doorman::Arrival;
use twinblk::link::{Link, LinkOptions, Names, Path, Secret, Timing};
use twinblk::plant::Plants;
use twinblk::replica::event::{Input, PeerIndex};
use twinblk::ring::{Lane, Ring, SocketId};
use twinblk::units::{BLOCK_BYTES, Blocks, Epoch, Nanos, NodeId, Sequence, Session};

use super::wires::Wires;

/// Memory for what peers send: a few of the largest payloads, so that it runs out.
const PEER_BYTES: usize = 3 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// Receive buffers of one session, and of the hand-over at its beginning.
const BUFFER_BYTES_MAX: usize = 4 * (64 << 10);

/// Bytes that one script makes at most.
const STREAM_BYTES_MAX: usize = 8 << 20;

/// Numbers of the sockets on both nodes, in the order in which they are dialled.
const DATA: usize = 0;
const CONTROL: usize = 1;

/// A node with a link and nothing else.
struct Node {
    ring: Wires,
    pool: Pool,
    link: Link,
    said: Vec<Input>,
}

impl Node {
    fn new(local: u8, peer: u8) -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7790);
        let options = LinkOptions {
            resource: "r0".into(),
            local: NodeId(local),
            peer: NodeId(peer),
            peer_index: PeerIndex(0),
            names: Names {
                local: "here".into(),
                peer: "there".into(),
                secret_path: "/etc/twinblk/r0.secret".into(),
            },
            secret: Secret::new(b"swordfish"),
            paths: vec![Path { local: None, peer: address }],
            timing: Timing::default(),
            versions: Versions::SPOKEN,
            plants: Plants::default(),
        };
        let budgets = Budgets { client_bytes: 0, peer_bytes: PEER_BYTES, background_bytes: 0 };
        let mut node = Self {
            ring: Wires::default(),
            pool: Pool::new(budgets),
            link: Link::new(Lane::new(3, 1), options),
            said: Vec::new(),
        };
        node.link.dial(&mut node.ring, &mut node.pool, true);
        node
    }

    /// One turn of a shard's loop. Whether anything happened.
    fn turn(&mut self) -> bool {
        let mut completions = Vec::new();
        self.ring.turn(&mut self.pool, Nanos(0), &mut completions);
        let any = !completions.is_empty();
        for completion in completions {
            let (ring, pool) = (&mut self.ring, &mut self.pool);
            self.link.on_completion(ring, pool, completion, &mut self.said);
        }
        self.link.resume(&mut self.ring, &mut self.pool, &mut self.said);
        self.link.flush(&mut self.ring, &mut self.pool);
        assert!(self.pool.used_bytes(Purpose::Peer) <= PEER_BYTES + PIECE_BYTES);
        assert!(self.pool.used_bytes(Purpose::Answer) <= ANSWER_BYTES_MAX + PIECE_BYTES);
        assert!(self.pool.used_bytes(Purpose::Fixed) <= BUFFER_BYTES_MAX);
        any || !self.said.is_empty()
    }
}

/// The node that was dialled, at the moment at which the session stands.
fn connected() -> (Node, Session) {
    let (mut there, mut here) = (Node::new(0, 1), Node::new(1, 0));
    there.link.on_time(&mut there.ring, &mut there.pool, &mut there.said);
    for _ in 0..32 {
        there.turn();
        for index in 0..there.ring.sockets.len() {
            let sent = std::mem::take(&mut there.ring.sockets[index].outbound);
            match here.ring.sockets.get_mut(index) {
                Some(socket) => socket.inbound.extend(sent),
                None if sent.is_empty() => {}
                None => arrive(&mut here, &sent),
            }
        }
        here.turn();
        for (index, socket) in here.ring.sockets.iter_mut().enumerate() {
            there.ring.sockets[index].inbound.extend(std::mem::take(&mut socket.outbound));
        }
        if let Some(session) = here.link.session() {
            assert!(matches!(here.said.as_slice(), [Input::LinkUp { .. }]));
            here.said.clear();
            return (here, session);
        }
    }
    panic!("two nodes that agree do not connect: {}", here.link.last_error());
}

/// What the doorman does with a greeting.
fn arrive(here: &mut Node, bytes: &[u8]) {
    assert_eq!(greeting::message_bytes(bytes), Ok(Some(bytes.len())));
    let Ok(Message::Hello(hello)) = Message::decode(bytes) else {
        panic!("whoever dials says hello");
    };
    let socket: SocketId = here.ring.open();
    here.link.accept(
        &mut here.ring,
        &mut here.pool,
        Arrival { socket, hello, bytes: bytes.into() },
    );
}

/// The input, byte by byte; zeroes after its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        u64::from(self.byte()) << 8 | u64::from(self.byte())
    }

    /// Any count that a piece may have.
    fn blocks(&mut self) -> Blocks {
        Blocks::new(self.number(), u64::from(self.byte()) % PIECE_BLOCKS + 1)
    }
}

/// A frame that must be delivered.
#[derive(Debug)]
struct Expected {
    epoch: Epoch,
    frame: Frame,
    /// From which the payload is made.
    seed: u8,
}

/// What is sent on one channel.
struct Sender {
    channel: Channel,
    session: Session,
    number: u64,
    bytes: Vec<u8>,
    expected: VecDeque<Expected>,
    /// Something in it cannot be believed: nothing from there on may be delivered.
    spoilt: bool,
    /// Bytes are missing: the receiver may be waiting for them.
    lost: bool,
    /// Number of the newest heartbeat.
    pinged: u64,
}

/// What happens to the next frame.
#[derive(Clone, Copy)]
enum Harm {
    /// A byte of it, at so many 65536ths of its length, arrives changed.
    Flip { place: u64, change: u8 },
    /// All from there on is lost, what comes after it included: a frame that is lost as a whole, or
    /// whose lost bytes the next one happens to make up for, would be no fault.
    Cut { place: u64 },
    /// It bears another number.
    Number(u64),
    /// It is of another session.
    Session,
}

impl Harm {
    fn new(script: &mut Script<'_>) -> Self {
        match script.byte() % 6 {
            0 => Self::Cut { place: script.number() },
            1 => Self::Number(script.number()),
            2 => Self::Session,
            _ => Self::Flip { place: script.number(), change: script.byte().max(1) },
        }
    }
}

impl Sender {
    fn new(channel: Channel, session: Session) -> Self {
        let (bytes, expected) = (Vec::new(), VecDeque::new());
        let (spoilt, lost) = (false, false);
        Self { channel, session, number: 0, bytes, expected, spoilt, lost, pinged: 0 }
    }

    /// The tag of the next frame. The seed of its payload is its epoch, too.
    fn tag(&mut self, seed: u8, harm: Option<Harm>) -> Tag {
        self.number += 1;
        let right = Tag { epoch: Epoch(seed.into()), session: self.session, number: self.number };
        let tag = match harm {
            Some(Harm::Number(number)) => Tag { number: number + 1, ..right },
            Some(Harm::Session) => Tag { session: Session(right.session.0 ^ 2), ..right },
            _ => right,
        };
        self.spoilt |= tag != right;
        tag
    }

    /// Sends a frame as the codec writes it.
    fn send(&mut self, frame: Frame, seed: u8, harm: Option<Harm>) {
        let tag = self.tag(seed, harm);
        let payload = frame.payload().map_or_else(Vec::new, |blocks| payload(blocks.count, seed));
        let mut bytes = Vec::new();
        frame::encode(&frame, tag, checksum::of(&payload), &mut bytes);
        bytes.extend(payload);
        self.push(bytes, harm);
        self.expect(frame, seed);
    }

    /// Sends a header that no codec may have written, with right checksums.
    fn forge(&mut self, script: &mut Script<'_>, harm: Option<Harm>) {
        let seed = script.byte();
        let tag = self.tag(seed, harm);
        let mut bytes = Vec::new();
        frame::encode(&Frame::Met, tag, 0, &mut bytes);
        (bytes[6], bytes[7]) = (script.byte(), script.byte());
        let unit = [8, 16, 32, 4096][usize::from(script.byte() % 4)];
        let length = u32::from(script.byte()) * unit;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes[48..HEADER_BYTES].fill_with(|| script.byte());
        let judged = mended(&mut bytes);
        // Of what is refused by its header, no more needs to come.
        let tail = match judged {
            Some(header) if header.payload_bytes() > 0 => {
                payload(u64::from(header.payload_bytes()) / BLOCK_BYTES, seed)
            }
            Some(header) => (0..header.body_bytes()).map(|_| script.byte()).collect(),
            None => Vec::new(),
        };
        if judged.is_some() {
            bytes[16..20].copy_from_slice(&checksum::of(&tail).to_le_bytes());
        }
        let body = judged.map_or(0, |header| header.body_bytes() as usize);
        let frame = mended(&mut bytes).and_then(|header| header.frame(&tail[..body]).ok());
        bytes.extend(tail);
        self.push(bytes, harm);
        match frame {
            Some(frame) => self.expect(frame, seed),
            None => self.spoilt = true,
        }
    }

    fn push(&mut self, mut bytes: Vec<u8>, harm: Option<Harm>) {
        if self.lost {
            return;
        }
        let length = bytes.len() as u64;
        let at = |place: u64| usize::try_from((place * length) >> 16).expect("within the frame");
        match harm {
            Some(Harm::Flip { place, change }) => bytes[at(place)] ^= change,
            Some(Harm::Cut { place }) => {
                bytes.truncate(at(place));
                self.lost = true;
            }
            _ => {}
        }
        self.spoilt |= bytes.len() as u64 != length || matches!(harm, Some(Harm::Flip { .. }));
        self.bytes.extend(bytes);
    }

    fn expect(&mut self, frame: Frame, seed: u8) {
        self.spoilt |= frame.channel() != self.channel;
        if let Frame::Ping { number, echo } = frame {
            // The receiver has sent one heartbeat, when the session began.
            self.spoilt |= number <= self.pinged || echo > 1;
            self.pinged = self.pinged.max(number);
        } else if !self.spoilt {
            self.expected.push_back(Expected { epoch: Epoch(seed.into()), frame, seed });
        }
    }
}

/// Puts the checksum of a header right.
fn mended(bytes: &mut [u8]) -> Option<frame::Header> {
    let header: &mut [u8; HEADER_BYTES] = bytes.first_chunk_mut()?;
    let sum = checksum::around(header, 8).to_le_bytes();
    header[8..12].copy_from_slice(&sum);
    frame::decode_header(header).ok()
}

/// So many blocks, each different.
fn payload(blocks: u64, seed: u8) -> Vec<u8> {
    let bytes = usize::try_from(blocks * BLOCK_BYTES).expect("a piece");
    let mut payload = vec![seed; bytes];
    let numbers = payload.chunks_mut(4096).zip(u64::from(seed)..);
    numbers.for_each(|(block, number)| block[..8].copy_from_slice(&number.to_le_bytes()));
    payload
}

fn with_payload(script: &mut Script<'_>) -> Frame {
    let (which, sequence) = (script.byte(), Sequence(script.number() + 1));
    let blocks = script.blocks();
    match which % 4 {
        0 => Frame::ResyncData { sequence, blocks },
        1 => Frame::ReadAnswer { id: sequence.0, ok: true, blocks },
        _ => Frame::Write { sequence, after: Sequence(sequence.0 - 1), blocks, fua: which > 127 },
    }
}

fn without_payload(script: &mut Script<'_>) -> Frame {
    let (which, sequence) = (script.byte(), Sequence(script.number() + 1));
    let after = Sequence(sequence.0 - 1);
    let blocks = script.blocks();
    let count = usize::try_from(blocks.count).expect("a piece");
    match which % 8 {
        0 => Frame::Zero { sequence, after, blocks, fua: which > 127, discard: which > 63 },
        1 => Frame::Barrier { sequence },
        2 => Frame::ResyncZero { sequence, blocks },
        3 => Frame::ResyncHash { sequence, blocks, digest: Box::new([which; 32]) },
        4 => Frame::Marks { page: 7, words: vec![sequence.0; count].into() },
        5 => Frame::VerifyAsk { id: sequence.0, blocks, digests: vec![[which; 32]; count].into() },
        6 => Frame::ReadAnswer { id: sequence.0, ok: false, blocks },
        _ => Frame::Bye { reason: ByeReason::Stop },
    }
}

fn control(script: &mut Script<'_>) -> Frame {
    let (which, first) = (script.byte(), Sequence(script.number() + 1));
    match which % 6 {
        0 => Frame::Received { first, last: Sequence(first.0 + u64::from(which)) },
        1 => Frame::Written { first, last: Sequence(first.0 + u64::from(which)) },
        2 => Frame::Stable { sequence: first },
        3 => Frame::WriteFailed { sequence: first },
        // On the wrong channel.
        4 if which > 200 => Frame::MarksDone,
        _ => Frame::Ping { number: first.0, echo: u64::from(which / 100) },
    }
}

/// What the script makes of both channels: data, control.
fn streams(script: &mut Script<'_>, session: Session) -> [Sender; 2] {
    let mut both = [Channel::Data, Channel::Control].map(|channel| Sender::new(channel, session));
    let mut harm = None;
    while !script.0.is_empty() && both[DATA].bytes.len() < STREAM_BYTES_MAX {
        match script.byte() % 8 {
            0..=2 => both[DATA].send(with_payload(script), script.byte(), harm.take()),
            3 => both[DATA].send(without_payload(script), script.byte(), harm.take()),
            4 => both[CONTROL].send(control(script), script.byte(), harm.take()),
            5 => both[DATA].forge(script, harm.take()),
            6 => both[CONTROL].forge(script, harm.take()),
            _ => harm = Some(Harm::new(script)),
        }
    }
    both
}

/// Who takes what the link delivers, and holds it against what was sent.
struct Judge {
    sent: [Sender; 2],
    /// Payloads that the core would be at work on, and how many it keeps.
    held: VecDeque<Payload>,
    keeps: usize,
    down: bool,
}

impl Judge {
    /// Lets the node work until nothing happens any more.
    fn watch(&mut self, node: &mut Node) {
        let mut idle = 0;
        // A turn that only took memory and receives on shows its work in the next one.
        while idle < 2 {
            let mut any = node.turn();
            for input in std::mem::take(&mut node.said) {
                self.see(&node.pool, input);
            }
            // Whoever gives nothing back until nothing goes on gives one payload.
            while self.held.len() > self.keeps || (!any && !self.held.is_empty()) {
                node.pool.release(self.held.pop_front().expect("there are some"));
                any = true;
            }
            idle = if any { 0 } else { idle + 1 };
        }
    }

    fn see(&mut self, pool: &Pool, input: Input) {
        assert!(!self.down, "something after the end: {input:?}");
        let (epoch, frame, payload) = match input {
            Input::Frame { epoch, frame, payload, .. } => (epoch, frame, payload),
            Input::LinkDown { .. } => {
                self.down = true;
                return;
            }
            other => panic!("a link says nothing like {other:?}"),
        };
        let sender = &mut self.sent[usize::from(frame.channel() == Channel::Control)];
        let expected = sender.expected.pop_front().expect("a frame that nobody sent");
        assert_eq!((epoch, &frame), (expected.epoch, &expected.frame));
        assert_eq!(frame.payload().is_some(), payload.is_some());
        if let (Some(blocks), Some(taken)) = (frame.payload(), payload) {
            let length = u32::try_from(blocks.length_bytes()).expect("a piece");
            let span = Span { slot: taken.share(), offset: 0, length };
            let sent = self::payload(blocks.count, expected.seed);
            assert!(pool.bytes(span) == sent, "another payload than was sent");
            self.held.push_back(taken);
        }
    }
}

/// First how the stream is cut into pieces, then how many payloads are kept, then what is sent.
pub(super) fn link_stream(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (mut here, session) = connected();
    let cuts = script.byte() % 4;
    here.ring.pieces = (0..cuts).map(|_| usize::from(script.byte()).pow(2) + 1).collect();
    let keeps = usize::from(script.byte() % 8);
    let mut sent = streams(&mut script, session);
    for (socket, sender) in here.ring.sockets.iter_mut().zip(&mut sent) {
        socket.inbound.extend(std::mem::take(&mut sender.bytes));
    }
    let spoilt = sent.iter().any(|sender| sender.spoilt);
    let lost = sent.iter().any(|sender| sender.lost);
    let mut judge = Judge { sent, held: VecDeque::new(), keeps, down: false };
    judge.watch(&mut here);
    assert!(lost || judge.down == spoilt, "{:?}", here.link.last_error());
    if !spoilt {
        assert!(judge.sent.iter().all(|sender| sender.expected.is_empty()), "not delivered");
    }
    // The end, by which all memory comes back.
    here.ring.sockets.iter_mut().for_each(|socket| socket.ended = true);
    judge.watch(&mut here);
    assert!(judge.down && here.link.is_down());
    judge.watch(&mut here);
    assert_eq!(here.link.connections(), 0);
    let used = [Purpose::Peer, Purpose::Answer, Purpose::Fixed];
    let used = used.map(|purpose| here.pool.used_bytes(purpose));
    assert_eq!(used, [0; 3], "memory that is not given back");
}
