//! Owns a session that stands: its frames in and out, its life signs, its end.
//! Must never pass on a frame before `LinkUp` or after `LinkDown`.

use super::conn::{ConnId, Event};
use super::inbox::Found;
use super::options::{LEAVE_LIMIT, LinkOptions, QUEUE_BYTES_MAX};
use super::owed::Owed;
use super::pulse::Pulse;
use super::{Link, Outgoing, Turn};
use crate::buffer::{Account, Payload, Pool, Span};
use crate::format::checksum;
use crate::format::frame::{Channel, Frame, Tag, encode};
use crate::replica::event::{Input, Part};
use crate::ring::Ring;
use crate::units::{BLOCK_BYTES, Blocks, Epoch, Nanos, Session};

/// One of the two connections.
#[derive(Clone, Copy, Debug)]
struct Wire {
    id: ConnId,
    /// Number of the next frame sent.
    number: u64,
}

/// A session that stands.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) session: Session,
    pub(super) since: Nanos,
    pub(super) version: u16,
    data: Wire,
    control: Wire,
    pulse: Pulse,
    owed: Owed,
    /// Since when one and the same gather of data has been on its way into the network.
    unsent_since: Option<Nanos>,
    /// This side ends the session, at the latest then.
    leaving: Option<Leaving>,
    /// A `Bye` was queued: it must have been read before the connection may go.
    bye_sent: bool,
    bye_received: bool,
    /// Bytes of the payload that waits for room, or 0.
    starved: Option<(Account, usize)>,
    /// The peer does not read what it is sent.
    overfull: bool,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// Just begun: perhaps there is nothing to wait for.
    fresh: bool,
    until: Nanos,
    why: &'static str,
}

impl Standing {
    /// A session that both nodes agreed on just now.
    pub(super) fn new(
        options: &LinkOptions,
        now: Nanos,
        session: Session,
        (data, control): (ConnId, ConnId),
        version: u16,
    ) -> Self {
        Self {
            session,
            since: now,
            version,
            data: Wire { id: data, number: 1 },
            control: Wire { id: control, number: 1 },
            pulse: Pulse::new(now, options.timing),
            owed: Owed::default(),
            unsent_since: None,
            leaving: None,
            bye_sent: false,
            bye_received: false,
            starved: None,
            overfull: false,
        }
    }

    /// Control first: the order in which they are served.
    pub(super) fn connections(&self) -> [ConnId; 2] {
        [self.control.id, self.data.id]
    }

    /// What a connection is for, if it is of this session.
    pub(super) fn channel_of(&self, id: ConnId) -> Option<Channel> {
        let channels = [Channel::Control, Channel::Data];
        channels.into_iter().find(|channel| self.id(*channel) == id)
    }

    fn id(&self, channel: Channel) -> ConnId {
        match channel {
            Channel::Data => self.data.id,
            Channel::Control => self.control.id,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether reading can go on that had to stop for want of room.
    pub(super) fn can_resume(&self, pool: &Pool) -> bool {
        self.starved.is_some_and(|(account, bytes)| pool.has_room(account, bytes))
    }

    /// What was queued was given to the ring. `unsent`: some of the data is still there.
    pub(super) fn on_flushed(&mut self, now: Nanos, unsent: bool) {
        if unsent {
            self.unsent_since.get_or_insert(now);
        }
    }

    /// When to look at it again.
    pub(super) fn deadline(&self, options: &LinkOptions) -> Nanos {
        let leave = self
            .leaving
            .map_or(Nanos::NEVER, |leaving| if leaving.fresh { Nanos(0) } else { leaving.until });
        let doom = if self.overfull { Nanos(0) } else { Nanos::NEVER };
        self.pulse.deadline().min(self.stalled_at(options)).min(leave).min(doom)
    }

    fn stalled_at(&self, options: &LinkOptions) -> Nanos {
        let limit = options.timing.progress_timeout;
        // A gather may take a slow network longer than the limit: answers to what went before it
        // or to its beginning say that bytes arrive.
        let moved = |since: Nanos| since.max(self.owed.moved_at());
        let unsent = self.unsent_since.map_or(Nanos::NEVER, |since| moved(since) + limit);
        self.owed.deadline(limit).min(unsent)
    }

    /// Why it must end now, if it must.
    fn verdict(&self, now: Nanos, options: &LinkOptions) -> Option<&'static str> {
        if let Some(leaving) = self.leaving
            && now >= leaving.until
        {
            return Some(leaving.why);
        }
        if self.overfull {
            return Some("it does not read what it is sent");
        }
        if now >= self.stalled_at(options) {
            return Some(
                "it answers heartbeats but nothing else: its disk or the network is stuck",
            );
        }
        self.pulse.verdict(now)
    }
}

impl Link {
    /// A session stands: what came right behind the handshake is read, the first heartbeat sent.
    pub(super) fn begin_session<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        self.check_session(turn);
        self.read_session(turn);
    }

    /// Queues a frame of the session that stands.
    pub(super) fn queue_frame(&mut self, now: Nanos, pool: &mut Pool, outgoing: Outgoing<'_>) {
        let Outgoing { session, epoch, frame, part } = outgoing;
        let Some(standing) = &mut self.standing else {
            return;
        };
        let blocks = frame.payload();
        assert_eq!(blocks.is_some(), part.is_some(), "payload and frame do not match: {frame:?}");
        let span = part.zip(blocks).map(|(part, blocks)| span_of(part, blocks));
        let sum = span.map_or(0, |span| checksum::of(pool.bytes(span)));
        let wire = match frame.channel() {
            Channel::Data => &mut standing.data,
            Channel::Control => &mut standing.control,
        };
        self.scratch.clear();
        encode(frame, Tag { epoch, session, number: wire.number }, sum, &mut self.scratch);
        wire.number += 1;
        let Some(conn) = self.conns.get(wire.id) else {
            return;
        };
        conn.outbox.push(pool, &self.scratch, span);
        standing.overfull |= conn.outbox.copied_bytes() > QUEUE_BYTES_MAX;
        standing.owed.on_sent(now, frame);
        standing.bye_sent |= matches!(frame, Frame::Bye { .. });
        self.epoch = epoch;
    }

    /// Something happened to a connection of the session.
    pub(super) fn on_session_event<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        channel: Channel,
        event: Event,
    ) {
        let now = turn.ring.now();
        let Some(standing) = &mut self.standing else {
            return;
        };
        match event {
            Event::Received => {
                standing.pulse.on_heard(now);
                self.read_channel(turn, channel);
            }
            Event::Sent => {
                if channel == Channel::Data {
                    standing.unsent_since = None;
                }
                self.leave_if_done(turn);
            }
            Event::Closed => self.end_session(turn, "it closed the connection"),
            Event::Broken(errno) | Event::NotConnected(errno) => {
                self.end_session(turn, &format!("the connection broke: {errno}"));
            }
            Event::Connected => {}
        }
    }

    /// Reads all that arrived, control first.
    pub(super) fn read_session<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        self.read_channel(turn, Channel::Control);
        self.read_channel(turn, Channel::Data);
    }

    fn read_channel<R: Ring>(&mut self, turn: &mut Turn<'_, R>, channel: Channel) {
        loop {
            let Some(standing) = &mut self.standing else {
                return;
            };
            let (session, id) = (standing.session, standing.id(channel));
            let inbox = self.conns.get(id).and_then(|conn| conn.inbox.as_mut());
            let Some(inbox) = inbox else { return };
            match inbox.frame(turn.pool, session, channel, self.options.plants) {
                Ok(Found::Frame(epoch, frame, payload)) => {
                    self.deliver(turn, epoch, frame, payload);
                }
                Ok(found) => {
                    if channel == Channel::Data {
                        standing.starved = match found {
                            Found::NoRoom(account, bytes) => Some((account, bytes as usize)),
                            _ => None,
                        };
                    }
                    return self.conns.receive(turn.ring, turn.pool, id);
                }
                Err(why) => {
                    let why = format!("what came from it is not what it sent: {why}");
                    return self.end_session(turn, &why);
                }
            }
        }
    }

    fn deliver<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        epoch: Epoch,
        frame: Frame,
        payload: Option<Payload>,
    ) {
        let Some(standing) = &mut self.standing else {
            return;
        };
        if let Frame::Ping { number, echo } = frame {
            if let Err(why) = standing.pulse.on_ping(number, echo) {
                self.end_session(turn, why);
            }
            return;
        }
        standing.bye_received |= matches!(frame, Frame::Bye { .. });
        if standing.is_leaving() {
            if let Some(payload) = payload {
                turn.pool.release(payload);
            }
            return self.leave_if_done(turn);
        }
        standing.owed.on_received(turn.ring.now(), &frame);
        let (peer, session) = (self.options.peer_index, standing.session);
        turn.out.push(Input::Frame { peer, session, epoch, frame, payload });
    }

    /// Ends the session that stands on purpose.
    pub(super) fn leave(&mut self, now: Nanos, why: &'static str) {
        if let Some(standing) = &mut self.standing {
            standing.leaving = Some(Leaving { fresh: true, until: now + LEAVE_LIMIT, why });
        }
    }

    /// A `Bye` must have been read before the connection goes: bytes still on their way may be
    /// lost with it. The peer shows that it read it by its own `Bye`, or by closing.
    fn leave_if_done<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let Some(standing) = &mut self.standing else {
            return;
        };
        let Some(leaving) = &mut standing.leaving else {
            return;
        };
        leaving.fresh = false;
        let why = leaving.why;
        let unread = standing.bye_sent && !standing.bye_received;
        if !unread && self.queued_bytes() == 0 {
            self.end_session(turn, why);
        }
    }

    /// Does what is due: an end, or a heartbeat.
    pub(super) fn check_session<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let now = turn.ring.now();
        self.leave_if_done(turn);
        let Some(standing) = &mut self.standing else {
            return;
        };
        if let Some(why) = standing.verdict(now, &self.options) {
            return self.end_session(turn, why);
        }
        let (session, epoch) = (standing.session, self.epoch);
        if let Some(ping) = standing.pulse.poll_ping(now) {
            let outgoing = Outgoing { session, epoch, frame: &ping, part: None };
            self.queue_frame(now, turn.pool, outgoing);
        }
    }

    /// Ends the session, if one stands.
    pub(super) fn end_session<R: Ring>(&mut self, turn: &mut Turn<'_, R>, why: &str) {
        let Some(standing) = self.standing.take() else {
            return;
        };
        for id in standing.connections() {
            self.conns.end(turn.ring, turn.pool, id);
        }
        let random = turn.ring.random();
        self.retry.on_ended(turn.ring.now(), standing.since, random);
        let (peer, session) = (self.options.peer_index, standing.session);
        let name = &self.options.names.peer;
        tracing::warn!(resource = %self.options.resource, peer = %name, session = session.0,
            "disconnected: {why}");
        self.fault = self.faults.len() - 1;
        self.faults[self.fault] = format!("the session with {name} ended: {why}");
        turn.out.push(Input::LinkDown { peer, session });
    }
}

/// Where a payload lies.
fn span_of(part: Part, blocks: Blocks) -> Span {
    let fit = |bytes: u64| u32::try_from(bytes).expect("a payload is at most a piece");
    let offset = fit(u64::from(part.first) * BLOCK_BYTES);
    Span { slot: part.payload, offset, length: fit(blocks.length_bytes()) }
}
