//! Owns the way from nothing to a session: attempts dialled and accepted, and which one is kept.
//! Must never touch a session that stands unless its peer has proven that it has none.

use super::conn::{ConnId, Event};
use super::fault::Fault;
use super::handshake::{Handshake, Heard, draw_nonce};
use super::options::{ARRIVALS_MAX, HANDSHAKE_LIMIT};
use super::standing::Standing;
use super::{Link, Turn};
use crate::buffer::Pool;
use crate::format::frame::Channel;
use crate::format::hello::{Message, Refusal};
use crate::link::doorman::Arrival;
use crate::replica::event::Input;
use crate::ring::{Errno, Ring};
use crate::units::{Nanos, Session};

/// One try at a session: a data connection, then a control connection that names what the data
/// connection agreed on.
#[derive(Debug)]
pub(super) struct Attempt {
    /// When it has failed.
    pub(super) until: Nanos,
    data: Half,
    control: Option<Half>,
}

/// One of its connections. No handshake while the network connection is being made.
#[derive(Debug)]
struct Half {
    id: ConnId,
    handshake: Option<Handshake>,
}

impl Attempt {
    fn new(now: Nanos, data: Half) -> Self {
        Self { until: now + HANDSHAKE_LIMIT, data, control: None }
    }

    /// The connections there are.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnId> + use<> {
        [Some(self.data.id), self.control.as_ref().map(|half| half.id)].into_iter().flatten()
    }

    fn has(&self, id: ConnId) -> bool {
        self.connections().any(|own| own == id)
    }

    fn half(&mut self, id: ConnId) -> Option<&mut Half> {
        std::iter::once(&mut self.data).chain(&mut self.control).find(|half| half.id == id)
    }

    /// The session both sides of the data connection have proven to agree on.
    fn session(&self) -> Option<Session> {
        let bound = self.data.handshake.as_ref().filter(|handshake| handshake.is_bound());
        bound.map(Handshake::session)
    }

    /// Whether a network connection is being made.
    fn is_connecting(&self) -> bool {
        std::iter::once(&self.data).chain(&self.control).any(|half| half.handshake.is_none())
    }

    /// Whether this side has said the last word but one: the dialler's proof for the control
    /// connection.
    fn is_proven(&self) -> bool {
        let handshake = self.control.as_ref().and_then(|half| half.handshake.as_ref());
        handshake.is_some_and(Handshake::has_proven)
    }
}

/// Where an attempt stands in the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Dialled,
    Accepted(usize),
}

impl Link {
    /// Takes over a connection that the doorman greeted, whoever is behind it. It is refused in
    /// words, or closed, if it does not suit.
    pub fn accept<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, arrival: Arrival) {
        let turn = &mut Turn { ring, pool, out: &mut Vec::new() };
        let Arrival { socket, hello, bytes } = arrival;
        let Some(id) = self.conns.adopt(turn.ring, turn.pool, socket) else {
            return;
        };
        let nonce = draw_nonce(turn.ring);
        let answer = self
            .check_arrival()
            .and_then(|()| Handshake::accept(&self.options, nonce, &hello, &bytes));
        let (handshake, challenge) = match answer {
            Ok(answer) => answer,
            Err(refusal) => return self.refuse(turn, id, Fault::Refusing(refusal)),
        };
        let half = Half { id, handshake: Some(handshake) };
        match hello.channel {
            Channel::Data => {
                self.make_room(turn);
                self.accepted.push(Attempt::new(turn.ring.now(), half));
            }
            Channel::Control => {
                let mut waiting = self.accepted.iter_mut();
                let found = waiting.find(|attempt| attempt.session() == Some(hello.session));
                match found {
                    Some(attempt) if attempt.control.is_none() => attempt.control = Some(half),
                    _ => return self.refuse(turn, id, Fault::Refusing(Refusal::Busy)),
                }
            }
        }
        self.say(turn, id, &challenge);
    }

    fn check_arrival(&self) -> Result<(), Refusal> {
        if !self.wanted {
            return Err(Refusal::Unwanted);
        }
        if self.is_committed() { Err(Refusal::Busy) } else { Ok(()) }
    }

    /// Makes room for one more: whoever has not proven anything for longest goes.
    fn make_room<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        if self.accepted.len() == ARRIVALS_MAX {
            let unproven = self.accepted.iter().position(|one| one.session().is_none());
            let oldest = self.accepted.remove(unproven.unwrap_or(0));
            self.end_attempt(turn, &oldest, None);
        }
    }

    /// Whether this node decides which attempt is kept, and has decided for what it dialled.
    fn is_committed(&self) -> bool {
        self.decides() && self.dialled.as_ref().is_some_and(Attempt::is_proven)
    }

    fn decides(&self) -> bool {
        self.options.local < self.options.peer
    }

    /// Ends a connection that never belonged to an attempt.
    fn refuse<R: Ring>(&mut self, turn: &mut Turn<'_, R>, id: ConnId, fault: Fault) {
        if let Some(refusal) = fault.refusal() {
            let word = Message::Refusal(refusal).encode();
            self.conns.part(turn.ring, turn.pool, id, &word);
        } else {
            self.conns.end(turn.ring, turn.pool, id);
        }
        if !fault.is_passing() && fault != Fault::Refusing(Refusal::Unwanted) {
            self.note(self.options.paths.len(), fault);
        }
    }

    fn note(&mut self, place: usize, fault: Fault) {
        if self.standing.is_none() {
            let words = fault.words(&self.options);
            self.set_fault(place, words);
        }
    }

    fn say<R: Ring>(&mut self, turn: &mut Turn<'_, R>, id: ConnId, message: &[u8]) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        conn.outbox.push(turn.pool, message, None);
        self.conns.receive(turn.ring, turn.pool, id);
    }

    /// Begins an attempt if it is time.
    pub(super) fn dial_if_due<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let now = turn.ring.now();
        if !self.is_idle() || now < self.retry.at() {
            return;
        }
        match self.connect(turn) {
            Some(data) => self.dialled = Some(Attempt::new(now, data)),
            // Every place is held by a connection that is being closed.
            None => self.retry.on_failure(now, turn.ring.random()),
        }
    }

    fn connect<R: Ring>(&mut self, turn: &mut Turn<'_, R>) -> Option<Half> {
        let path = *self.options.paths.get(self.retry.path())?;
        let id = self.conns.dial(turn.ring, turn.pool, path)?;
        Some(Half { id, handshake: None })
    }

    /// Something happened to a connection of an attempt.
    pub(super) fn on_attempt_event<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        id: ConnId,
        event: Event,
    ) {
        let dialled = self.dialled.as_ref().is_some_and(|attempt| attempt.has(id));
        let accepted = self.accepted.iter().position(|attempt| attempt.has(id));
        let place = match accepted {
            _ if dialled => Place::Dialled,
            Some(at) => Place::Accepted(at),
            None => return self.conns.end(turn.ring, turn.pool, id),
        };
        match event {
            Event::Connected => self.greet(turn, id),
            Event::Received => self.read_handshake(turn, place, id),
            Event::Sent => {}
            Event::Closed => self.fail(turn, place, Fault::Hangup),
            Event::Broken(errno) => self.fail(turn, place, Fault::Broken(errno)),
            Event::NotConnected(errno) => {
                let address = self.options.paths[self.retry.path()].peer;
                self.fail(turn, place, Fault::Unreachable(address, errno));
            }
        }
    }

    /// The network connection of a dialled half stands: say hello.
    fn greet<R: Ring>(&mut self, turn: &mut Turn<'_, R>, id: ConnId) {
        let Some(attempt) = &mut self.dialled else {
            return;
        };
        let session = attempt.session().unwrap_or_default();
        let nonce = draw_nonce(turn.ring);
        let Some(half) = attempt.half(id) else { return };
        let (handshake, hello) = Handshake::dial(&self.options, nonce, session);
        half.handshake = Some(handshake);
        self.say(turn, id, &hello);
    }

    fn read_handshake<R: Ring>(&mut self, turn: &mut Turn<'_, R>, place: Place, id: ConnId) {
        let Some(inbox) = self.conns.get(id).and_then(|conn| conn.inbox.as_mut()) else {
            return;
        };
        let message = match inbox.message(turn.pool) {
            Ok(Some(message)) => message,
            Ok(None) => return self.conns.receive(turn.ring, turn.pool, id),
            Err(flaw) => return self.fail(turn, place, Fault::Flaw(flaw)),
        };
        let attempt = match place {
            Place::Dialled => self.dialled.as_mut(),
            Place::Accepted(at) => self.accepted.get_mut(at),
        };
        let handshake = attempt.and_then(|attempt| attempt.half(id)?.handshake.as_mut());
        let Some(handshake) = handshake else { return };
        match (handshake.on_message(&self.options, &message), handshake.channel()) {
            (Err(fault), _) => self.fail(turn, place, fault),
            (Ok(Heard::Challenged), channel) => self.on_challenged(turn, id, channel),
            (Ok(Heard::Proven(_)), Channel::Data) => self.on_data_proven(turn, place, id),
            (Ok(Heard::Proven(live)), Channel::Control) => {
                self.on_control_proven(turn, place, id, live);
            }
            (Ok(Heard::Welcomed), Channel::Data) => self.on_data_welcome(turn),
            (Ok(Heard::Welcomed), Channel::Control) => {
                if let Some(attempt) = self.dialled.take() {
                    self.stand(turn, &attempt);
                }
            }
        }
    }

    /// The acceptor has proven itself. On the control connection of the deciding node this is
    /// where it commits: from here on it says the last word to nobody else.
    fn on_challenged<R: Ring>(&mut self, turn: &mut Turn<'_, R>, id: ConnId, channel: Channel) {
        if channel == Channel::Control && self.decides() {
            for other in std::mem::take(&mut self.accepted) {
                self.end_attempt(turn, &other, Some(Refusal::Busy));
            }
        }
        let live = self.standing.as_ref().map_or(Session(0), |standing| standing.session);
        let half = self.dialled.as_mut().and_then(|attempt| attempt.half(id));
        let Some(handshake) = half.and_then(|half| half.handshake.as_mut()) else {
            return;
        };
        let proof = handshake.prove(live);
        self.say(turn, id, &proof);
    }

    /// The data connection stands on both sides: now for the control connection.
    fn on_data_welcome<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let control = self.connect(turn);
        let Some(attempt) = &mut self.dialled else {
            return;
        };
        if control.is_some() {
            attempt.control = control;
        } else {
            self.fail(turn, Place::Dialled, Fault::Late);
        }
    }

    /// The dialler has proven itself on a data connection: its older attempts are history.
    fn on_data_proven<R: Ring>(&mut self, turn: &mut Turn<'_, R>, place: Place, id: ConnId) {
        let Place::Accepted(at) = place else { return };
        let attempt = self.accepted.remove(at);
        while let Some(stale) = self.accepted.iter().position(|one| one.session().is_some()) {
            let stale = self.accepted.remove(stale);
            self.end_attempt(turn, &stale, Some(Refusal::Busy));
        }
        self.accepted.push(attempt);
        let half = self.accepted.last_mut().and_then(|attempt| attempt.half(id));
        let Some(handshake) = half.and_then(|half| half.handshake.as_mut()) else {
            return;
        };
        let welcome = handshake.welcome();
        if let Some(conn) = self.conns.get(id) {
            conn.outbox.push(turn.pool, &welcome, None);
        }
    }

    /// The dialler has said its last word. A session that stands here gives way if the dialler
    /// has none, unless it is so young that this word may have been on its way when it was made.
    fn on_control_proven<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        place: Place,
        id: ConnId,
        live: Session,
    ) {
        let now = turn.ring.now();
        let young = |standing: &Standing| now.since(standing.since) < HANDSHAKE_LIMIT;
        if live != Session(0) || self.standing.as_ref().is_some_and(young) {
            return self.fail(turn, place, Fault::Refusing(Refusal::Busy));
        }
        let Place::Accepted(at) = place else { return };
        let mut attempt = self.accepted.remove(at);
        self.end_session(turn, "the peer began a new session");
        let half = attempt.half(id).and_then(|half| half.handshake.as_mut());
        let Some(handshake) = half else { return };
        let welcome = handshake.welcome();
        if let Some(conn) = self.conns.get(id) {
            conn.outbox.push(turn.pool, &welcome, None);
        }
        self.stand(turn, &attempt);
    }

    /// An attempt is complete: a session stands, every other attempt ends.
    fn stand<R: Ring>(&mut self, turn: &mut Turn<'_, R>, attempt: &Attempt) {
        self.abandon_attempts(turn, Refusal::Busy);
        let (Some(session), Some(control)) = (attempt.session(), &attempt.control) else {
            return;
        };
        let version = attempt.data.handshake.as_ref().map_or(0, Handshake::version);
        let now = turn.ring.now();
        let (data, control) = (attempt.data.id, control.id);
        let standing = Standing::new(&self.options, now, session, (data, control), version);
        self.standing = Some(standing);
        for fault in &mut self.faults {
            fault.clear();
        }
        self.fault = self.faults.len() - 1;
        tracing::info!(resource = %self.options.resource, peer = %self.options.names.peer,
            session = session.0, version, "connected");
        turn.out.push(Input::LinkUp { peer: self.options.peer_index, session });
        self.begin_session(turn);
    }

    /// Ends attempts whose time is over.
    pub(super) fn check_attempts<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let now = turn.ring.now();
        while let Some(at) = self.accepted.iter().position(|attempt| attempt.until <= now) {
            self.fail(turn, Place::Accepted(at), Fault::Late);
        }
        let late = self.dialled.as_ref().filter(|attempt| attempt.until <= now);
        if let Some(attempt) = late {
            let fault = if attempt.is_connecting() {
                let address = self.options.paths[self.retry.path()].peer;
                Fault::Unreachable(address, Errno(libc::ETIMEDOUT))
            } else {
                Fault::Late
            };
            self.fail(turn, Place::Dialled, fault);
        }
    }

    /// Gives up an attempt, with a last word to the peer if it helps.
    fn fail<R: Ring>(&mut self, turn: &mut Turn<'_, R>, place: Place, fault: Fault) {
        let (attempt, cell) = match place {
            Place::Dialled => (self.dialled.take(), self.retry.path()),
            Place::Accepted(at) => (Some(self.accepted.remove(at)), self.options.paths.len()),
        };
        let Some(attempt) = attempt else { return };
        self.end_attempt(turn, &attempt, fault.refusal());
        if place == Place::Dialled {
            let random = turn.ring.random();
            self.retry.on_failure(turn.ring.now(), random);
        }
        // That a stranger said nothing is no news about the peer.
        let silence = matches!(fault, Fault::Late | Fault::Hangup | Fault::Broken(_));
        if !fault.is_passing() && (place == Place::Dialled || !silence) {
            self.note(cell, fault);
        }
    }

    /// Ends whatever is under way; the peer is told why what it dialled is refused.
    pub(super) fn abandon_attempts<R: Ring>(&mut self, turn: &mut Turn<'_, R>, why: Refusal) {
        if let Some(attempt) = self.dialled.take() {
            self.end_attempt(turn, &attempt, None);
        }
        for attempt in std::mem::take(&mut self.accepted) {
            self.end_attempt(turn, &attempt, Some(why));
        }
    }

    /// Ends the connections of an attempt, with a last word on the newer one: there the peer
    /// listens.
    fn end_attempt<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        attempt: &Attempt,
        word: Option<Refusal>,
    ) {
        if let (Some(id), Some(word)) = (attempt.connections().last(), word) {
            let word = Message::Refusal(word).encode();
            self.conns.part(turn.ring, turn.pool, id, &word);
        }
        for id in attempt.connections() {
            self.conns.end(turn.ring, turn.pool, id);
        }
    }
}
