//! Owns the toy's connection to the other node: frames, heartbeats, dialling. Must never touch the
//! disk.

use std::collections::VecDeque;

use twinblk::buffer::{Payload, Pool, Purpose, Span};
use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::{Connection, PeerStatus, Replication, Status};
use twinblk::ring::{Completion, Gather, Lane, ListenerId, Op, Ring, SocketId, Token};
use twinblk::units::{Epoch, Nanos, NodeId};

use super::frame::{Frame, sum};
use super::{Meta, Phase, Task, Toy};
use crate::link::address;
use crate::ring::SimRing;
use crate::socket::take;

const PORT: u16 = 7790;
const BEAT: Nanos = Nanos::from_millis(100);
const SILENCE: Nanos = Nanos::from_millis(600);

const ACCEPT: u64 = 1;
const CONNECT: u64 = 2;
const SEND: u64 = 3;
const RECEIVE: u64 = 4;
const CLOSE: u64 = 5;

const MIXED: u64 = 1;
const REBOOTED: u64 = 2;
const SOURCE: u64 = 4;
const PRIMARY: u64 = 8;

/// The connection.
pub(crate) struct Wire {
    node: usize,
    listener: Option<ListenerId>,
    waiting: bool,
    socket: Option<SocketId>,
    /// Shut down; to be closed once its operations are over.
    leaving: bool,
    closing: bool,
    sending: bool,
    receiving: Option<Payload>,
    incoming: VecDeque<u8>,
    outgoing: VecDeque<Vec<u8>>,
    now: Nanos,
    next_beat: Nanos,
    heard: Nanos,
    dial_after: Nanos,
    /// Which connection this is: what an older one began must not speak in it.
    pub(crate) session: u64,
    greeted: bool,
    /// The peer's greeting, until this node can answer it.
    hello: Option<(u64, u64)>,
    pub(crate) retry_step: bool,
    pub(crate) peer_primary: bool,
    peer_mixed: bool,
}

impl Wire {
    pub(crate) fn new(ring: &mut SimRing, node: usize) -> Self {
        let listener = (node == 0).then(|| ring.listen(PORT).expect("a new life finds it free"));
        Self {
            node,
            listener,
            waiting: false,
            socket: None,
            leaving: false,
            closing: false,
            sending: false,
            receiving: None,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            now: ring.now(),
            next_beat: ring.now(),
            heard: ring.now(),
            dial_after: ring.now(),
            session: 0,
            greeted: false,
            hello: None,
            retry_step: false,
            peer_primary: false,
            peer_mixed: false,
        }
    }

    pub(crate) fn send(&mut self, frame: &Frame) {
        let greeted = self.greeted || matches!(frame, Frame::Beat);
        if self.socket.is_some() && !self.leaving && greeted {
            self.outgoing.push_back(frame.encode());
        }
    }

    pub(crate) fn deadline(&self) -> Nanos {
        if self.retry_step { self.now + Nanos(50_000) } else { self.next_beat }
    }

    fn reset(&mut self) {
        (self.leaving, self.closing, self.greeted) = (false, false, false);
        (self.retry_step, self.peer_primary, self.peer_mixed) = (false, false, false);
        self.session += 1;
        self.hello = None;
        self.incoming.clear();
        self.outgoing.clear();
    }

    /// What the toy shows of itself.
    pub(crate) fn status(&self, toy: &Toy, meta: Meta, promote_refusal: String) -> Status {
        let role = |primary| {
            if primary { Role::Primary } else { Role::Secondary }
        };
        let disk = |mixed, current| match (mixed, current) {
            (true, _) => DiskState::Inconsistent,
            (_, true) => DiskState::UpToDate,
            _ => DiskState::Consistent,
        };
        let (equal, up) = (toy.phase == Phase::Equal, toy.phase != Phase::Alone);
        let source = toy.phase == Phase::Source;
        let peer = PeerStatus {
            node: NodeId(1 - u8::try_from(self.node).expect("two nodes")),
            connection: if up { Connection::Connected } else { Connection::Connecting },
            connection_reason: String::new(),
            replication: match toy.phase {
                Phase::Alone => Replication::Off,
                Phase::Source => Replication::SyncSource,
                Phase::Target => Replication::SyncTarget,
                Phase::Equal => Replication::Established,
            },
            role: up.then(|| role(self.peer_primary)),
            disk: up.then(|| disk(source, equal || toy.phase == Phase::Target)),
            out_of_sync_blocks: u64::from(!equal),
            resync_total_blocks: 0,
            resync_done_blocks: 0,
            resync_blocks_per_second: 0,
            last_resync_blocks: 0,
            verify_done_blocks: 0,
            verify_differing_blocks: 0,
            unstable_writes: 0,
        };
        Status {
            disk_reason: String::new(),
            node: NodeId(u8::try_from(self.node).expect("two nodes")),
            role: role(toy.primary),
            disk: disk(meta.mixed, toy.primary || equal || source),
            just_created: false,
            epoch: Epoch(meta.epoch),
            generation: None,
            device_blocks: 0,
            suspended: String::new(),
            promote_refusal,
            requests_in_flight: 0,
            log_writes: 0,
            peers: vec![peer],
        }
    }
}

fn token(number: u64) -> Token {
    Lane::new(2, 0).token(number)
}

impl Toy {
    fn give(&mut self, number: u64, op: Op) {
        self.ring.submit(&self.pool, token(number), op);
    }

    /// Dials, listens, greets, beats; drops a silent peer.
    pub(crate) fn link_turn(&mut self) {
        let now = self.ring.now();
        self.wire.now = now;
        if self.wire.socket.is_none() && !self.wire.waiting && now >= self.wire.dial_after {
            self.wire.waiting = true;
            match self.wire.listener {
                Some(listener) => self.give(ACCEPT, Op::Accept { listener }),
                None => self.give(CONNECT, Op::Connect { address: address(0, PORT), from: None }),
            }
        }
        let settled = !self.tasks.values().any(Task::is_of_session);
        if self.wire.socket.is_some() && !self.wire.greeted && settled && !self.wire.leaving {
            self.wire.greeted = true;
            self.greet();
            if let Some((epoch, bits)) = self.wire.hello.take() {
                self.on_hello(epoch, bits);
            }
        }
        if now >= self.wire.next_beat {
            self.wire.next_beat = now + BEAT;
            self.wire.send(&Frame::Beat);
            if self.wire.socket.is_some() && now.since(self.wire.heard) > SILENCE {
                self.hang_up();
            }
        }
        if std::mem::take(&mut self.wire.retry_step) {
            self.copy_step();
        }
    }

    fn greet(&mut self) {
        let meta = self.meta.expect("known by now");
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let bits = bit(meta.mixed, MIXED)
            | bit(meta.boot != self.boot.0, REBOOTED)
            | bit(meta.source, SOURCE)
            | bit(self.primary, PRIMARY);
        self.wire.send(&Frame::Hello { epoch: meta.epoch, bits });
    }

    /// Sends what waits, receives more, closes what is over.
    pub(crate) fn link_flush(&mut self) {
        let Some(socket) = self.wire.socket else {
            return;
        };
        if self.wire.leaving {
            let busy = self.wire.sending || self.wire.receiving.is_some();
            if !busy && !self.wire.closing {
                self.wire.closing = true;
                self.give(CLOSE, Op::Close { socket });
            }
            return;
        }
        if !self.wire.sending && !self.wire.outgoing.is_empty() {
            let mut gather = Box::new(Gather::default());
            self.wire.outgoing.drain(..).for_each(|frame| gather.push_bytes(&frame));
            self.wire.sending = true;
            self.give(SEND, Op::Send { socket, gather });
        }
        if self.wire.receiving.is_none() {
            let payload = self.pool.take(Purpose::Fixed, 65_536).expect("without a budget");
            let into = Span { slot: payload.share(), offset: 0, length: 65_536 };
            self.wire.receiving = Some(payload);
            self.give(RECEIVE, Op::Recv { socket, into });
        }
    }

    /// Ends the session; what the peer still owes is owed by the next one.
    pub(crate) fn hang_up(&mut self) {
        if let Some(socket) = self.wire.socket
            && !self.wire.leaving
        {
            self.wire.leaving = true;
            self.wire.outgoing.clear();
            self.wire.retry_step = false;
            self.phase = Phase::Alone;
            self.session_over();
            self.ring.shutdown(socket);
        }
    }

    pub(crate) fn link_done(&mut self, number: u64, completion: Completion) {
        let result = completion.result;
        match number {
            ACCEPT | CONNECT => {
                self.wire.waiting = false;
                match result {
                    Ok(socket) => {
                        self.wire.reset();
                        self.wire.socket = Some(SocketId(socket));
                        self.wire.heard = self.ring.now();
                    }
                    Err(_) => self.wire.dial_after = self.ring.now() + BEAT,
                }
            }
            SEND => {
                self.wire.sending = false;
                if result.is_err() {
                    self.hang_up();
                }
            }
            RECEIVE => {
                let payload = self.wire.receiving.take().expect("one receive at a time");
                let length = result.unwrap_or(0);
                let bytes = received(&self.pool, &payload, length);
                self.pool.release(payload);
                self.wire.incoming.extend(bytes);
                if length == 0 {
                    self.hang_up();
                } else if !self.wire.leaving {
                    self.take_frames();
                }
            }
            _ => {
                self.wire.socket = None;
                self.wire.dial_after = self.ring.now();
            }
        }
    }

    fn take_frames(&mut self) {
        while self.wire.incoming.len() >= 12 && !self.wire.leaving {
            let head: Vec<u8> = self.wire.incoming.iter().take(12).copied().collect();
            let length = u32::from_le_bytes(head[..4].try_into().expect("four")) as usize;
            if length > 4 << 20 {
                return self.hang_up();
            }
            if self.wire.incoming.len() < 12 + length {
                return;
            }
            self.wire.incoming.drain(..12);
            let body = take(&mut self.wire.incoming, length);
            let good = u64::from_le_bytes(head[4..].try_into().expect("eight")) == sum(&body);
            match Frame::decode(&body).filter(|_| good) {
                Some(frame) => {
                    // Whole: where a length was damaged, bytes go on coming and mean nothing.
                    self.wire.heard = self.ring.now();
                    self.on_frame(frame);
                }
                None => self.hang_up(),
            }
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Hello { epoch, bits } if self.wire.greeted => self.on_hello(epoch, bits),
            Frame::Hello { epoch, bits } => self.wire.hello = Some((epoch, bits)),
            Frame::Beat => {}
            Frame::Copy { epoch } => self.become_target(epoch),
            Frame::Ready => self.copy_step(),
            Frame::Step { offset, bytes } => self.peer_copies(offset, &bytes),
            Frame::CopyEnd => self.copy_complete(),
            Frame::Copied => self.copy_ended(),
            Frame::Write { id, offset, fua, bytes } => self.peer_writes(id, offset, fua, &bytes),
            Frame::Flush { id } => self.peer_flushes(id),
            Frame::Done { id } => self.progress(id, false, true),
            Frame::MayI { epoch } => self.on_may_i(epoch),
            Frame::Yes => self.allowed(),
            Frame::No => self.refused("the peer is primary"),
            Frame::Demoted => self.wire.peer_primary = false,
        }
    }

    /// The one whose data is older becomes target, and says nothing: the other begins.
    fn on_hello(&mut self, epoch: u64, bits: u64) {
        let meta = self.meta.expect("known by now");
        let theirs = |bit: u64| bits & bit != 0;
        self.wire.peer_primary = theirs(PRIMARY);
        self.wire.peer_mixed = theirs(MIXED);
        let rebooted = meta.boot != self.boot.0;
        let mine_is_better = if meta.mixed != theirs(MIXED) {
            !meta.mixed
        } else if meta.epoch != epoch {
            meta.epoch > epoch
        } else if rebooted != theirs(REBOOTED) {
            !rebooted
        } else if meta.source != theirs(SOURCE) {
            meta.source
        } else {
            self.node == 0
        };
        if mine_is_better {
            self.begin_copy();
        }
    }

    /// Adopts the peer's epoch, durably, before it consents.
    fn on_may_i(&mut self, epoch: u64) {
        let mine = self.primary || (self.is_promoting() && self.node == 0);
        if self.phase == Phase::Equal && !mine {
            self.wire.peer_primary = true;
            self.refused("the peer was first");
            self.consent(epoch);
        } else {
            self.wire.send(&Frame::No);
        }
    }
}

fn received(pool: &Pool, payload: &Payload, length: u32) -> Vec<u8> {
    pool.bytes(Span { slot: payload.share(), offset: 0, length }).to_vec()
}
