//! Owns the NBD front door of one resource: what it offers, its clients' sessions and the limits
//! that keep one client from harming another. Must never know that a peer exists.
//!
//! # How a shard calls it, each turn
//! 1. [`Export::on_completion`] for every completion of its lane, [`Export::adopt`] for every
//!    client that has negotiated, [`Export::on_time`] once [`Export::deadline`] has passed.
//! 2. The requests go to the core; its outputs are carried out, with [`Export::reply`] and
//!    [`Export::serve`] among them.
//! 3. [`Export::resume`] on every export, and 2. again, until none resumes anything: replies make
//!    room, and no completion need ever follow.
//! 4. [`Export::flush`]: all replies of the turn leave in one send per client.

mod end;
mod id;
pub mod negotiate;
mod offer;
mod outbox;
mod session;
mod spread;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::buffer::{Pool, Purpose};
use crate::limits::{CLIENTS_MAX, EXPORT_REQUESTS_MAX};
use crate::replica::event::{Input, Reply, RequestId};
use crate::ring::{Completion, Errno, Lane, Op, Ring, Token};
use crate::units::Nanos;
use end::End;
use id::{Operation, SessionId};
use session::{Desk, Next, NotPrimary, Phase, Session, release_reply};

pub use offer::{ExportOptions, Newcomer, TurnedAway};
pub use tally::Counters;
use tally::Tally;

/// Places for sessions: those of connected clients, and as many that are on their way out.
const PLACES_MAX: usize = 2 * CLIENTS_MAX;

const _: () = assert!(PLACES_MAX < u8::MAX as usize, "a place is a byte, and one is nobody's");

/// A place that no session ever has: for sockets that are closed without one.
const NOBODY: SessionId = SessionId { place: u8::MAX, generation: 0 };

/// Where a session lives.
#[derive(Debug, Default)]
struct Place {
    generation: u32,
    session: Option<Session>,
    /// The session is over and its socket is being closed.
    closing: bool,
}

impl Place {
    fn phase(&self) -> Option<Phase> {
        self.session.as_ref().map(|session| session.phase)
    }
}

/// The NBD sessions of one resource.
#[derive(Debug)]
pub struct Export {
    lane: Lane,
    options: ExportOptions,
    open: bool,
    places: Vec<Place>,
    generation: u32,
    /// Sessions that may be able to go on since a reply.
    ready: VecDeque<SessionId>,
    /// Sessions that wait for the export's own limit.
    crowded: VecDeque<SessionId>,
    tally: Tally,
}

impl Export {
    /// An export that is not open yet.
    #[must_use]
    pub fn new(lane: Lane, options: ExportOptions) -> Self {
        Self {
            lane,
            options,
            open: false,
            places: Vec::new(),
            generation: 0,
            ready: VecDeque::new(),
            crowded: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Opens the export, or closes it: no session reads another request, all end, and what they
    /// have in the core is finished there and answered to nobody.
    pub fn serve<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, open: bool) {
        self.open = open;
        if !open {
            for place in 0..self.places.len() {
                self.end(ring, pool, self.id_at(place), End::NotServed);
            }
        }
    }

    /// Takes over a client. [`resume`](Self::resume) begins to serve it.
    ///
    /// # Errors
    /// [`TurnedAway`]: the socket is being closed.
    pub fn adopt<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        newcomer: Newcomer,
    ) -> Result<(), TurnedAway> {
        let socket = newcomer.socket;
        self.seat(ring, pool, newcomer).inspect_err(|_| {
            let token = NOBODY.token(self.lane, Operation::Close);
            ring.submit(pool, token, Op::Close { socket });
        })
    }

    fn seat<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        newcomer: Newcomer,
    ) -> Result<(), TurnedAway> {
        let Newcomer { socket, terms, leftover } = newcomer;
        if !self.open {
            return Err(TurnedAway::NotServed);
        }
        if terms.size_bytes != self.options.device_bytes {
            return Err(TurnedAway::OtherSize);
        }
        let place = self.vacancy(ring, pool)?;
        let account = Purpose::Client.of(self.lane.owner());
        let session = Session::new(pool, socket, terms, &leftover, account);
        let mut session = session.ok_or(TurnedAway::TooMuch)?;
        session.noted = true;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.places[place] = Place { generation, session: Some(session), closing: false };
        self.ready.push_back(self.id_at(place));
        self.tally.counters.connections += 1;
        Ok(())
    }

    /// A vacant place. Clients that are leaving do not count as connected, but if they fill the
    /// places, waiting for answers that do not come, the oldest of them is hurried on while one
    /// place is left.
    fn vacancy<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) -> Result<usize, TurnedAway> {
        if self.open_sessions() >= CLIENTS_MAX {
            self.end_hung_up(ring, pool);
        }
        if self.open_sessions() >= CLIENTS_MAX {
            return Err(TurnedAway::Full);
        }
        if self.sessions() + 1 >= PLACES_MAX {
            let leaving =
                |id: &SessionId| self.places[usize::from(id.place)].phase() == Some(Phase::Leaving);
            let all = (0..self.places.len()).map(|place| self.id_at(place));
            if let Some(oldest) = all.filter(leaving).min_by_key(|id| id.generation) {
                self.end(ring, pool, oldest, End::GaveWay);
            }
        }
        let vacant = |place: &Place| place.session.is_none() && !place.closing;
        if let Some(place) = self.places.iter().position(vacant) {
            return Ok(place);
        }
        if self.places.len() >= PLACES_MAX {
            return Err(TurnedAway::Full);
        }
        self.places.push(Place::default());
        Ok(self.places.len() - 1)
    }

    fn open_sessions(&self) -> usize {
        self.places.iter().filter(|place| place.phase() == Some(Phase::Open)).count()
    }

    /// Ends the sessions of clients that are gone: of one whose requests fill its limits nothing is
    /// received that would tell, and while I/O is suspended that may take long.
    fn end_hung_up<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        for place in 0..self.places.len() {
            let session = self.places[place].session.as_ref();
            let deaf = session.filter(|it| it.phase == Phase::Open && !it.receiving);
            if deaf.is_some_and(|session| ring.has_hung_up(session.socket)) {
                self.end(ring, pool, self.id_at(place), End::HungUp);
            }
        }
    }

    /// Takes the end of an operation of this export's lane.
    pub fn on_completion<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        completion: Completion,
        out: &mut Vec<Input>,
    ) {
        let Completion { token, result, gather } = completion;
        let Some((id, operation)) = self.owner(token) else {
            return gather.into_iter().for_each(|gather| ring.recycle(gather));
        };
        match operation {
            Operation::Recv => self.on_received(ring, pool, id, result),
            Operation::Send => {
                if let Some(session) = self.find(id) {
                    session.sent(pool, gather);
                }
                if let Err(errno) = result {
                    self.end(ring, pool, id, End::Socket(errno));
                }
            }
            Operation::Close => self.places[usize::from(id.place)].closing = false,
        }
        self.settle(ring, pool, id);
        self.pump(ring, pool, id, out);
    }

    fn on_received<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        id: SessionId,
        result: Result<u32, Errno>,
    ) {
        let Some(session) = self.find(id) else { return };
        session.receiving = false;
        match result {
            Ok(0) if session.at_boundary() && session.phase == Phase::Open => {
                session.phase = Phase::Leaving;
            }
            Ok(0) => self.end(ring, pool, id, End::BrokeOff),
            Ok(bytes) => session.received(bytes),
            Err(errno) => self.end(ring, pool, id, End::Socket(errno)),
        }
    }

    /// Takes the core's answer to a request.
    pub fn reply<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        request: RequestId,
        reply: Reply,
    ) {
        self.tally.in_core = self.tally.in_core.saturating_sub(1);
        let (id, key) = id::split_request(request);
        // Not `find`: the borrow of the places must leave the tally free.
        let place = self.places.get_mut(usize::from(id.place));
        let place = place.filter(|place| place.generation == id.generation);
        let session = place.and_then(|place| place.session.as_mut());
        let Some(session) = session.filter(|session| session.phase != Phase::Ending) else {
            return release_reply(pool, reply);
        };
        match session.answer(key, reply, pool, &mut self.tally) {
            Ok(()) if !session.noted => {
                session.noted = true;
                self.ready.push_back(id);
            }
            Ok(()) => {}
            Err(NotPrimary) => self.end(ring, pool, id, End::NotServed),
        }
    }

    /// Lets sessions go on for which replies or returned slots have made room: those with replies,
    /// then those that wait for the export's limit, then those in the pool's line for memory, one
    /// request each. True if one went on; then the other exports of the pool may have come first
    /// in line, and should be asked again.
    pub fn resume<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, out: &mut Vec<Input>) -> bool {
        let mut resumed = false;
        while let Some(id) = self.ready.pop_front() {
            if let Some(session) = self.find(id) {
                session.noted = false;
                resumed |= self.pump(ring, pool, id, out);
            }
        }
        while self.tally.in_core < EXPORT_REQUESTS_MAX
            && let Some(id) = self.crowded.pop_front()
        {
            resumed |= self.pump(ring, pool, id, out);
        }
        while pool.has_line(Purpose::Client)
            && let Some(id) = self.first_in_line(pool)
        {
            self.pump(ring, pool, id, out);
            if self.first_in_line(pool) == Some(id) {
                break;
            }
            resumed = true;
        }
        resumed
    }

    fn first_in_line(&self, pool: &Pool) -> Option<SessionId> {
        let first = |place: &Place| place.session.as_ref().is_some_and(|it| it.is_first(pool));
        self.places.iter().position(first).map(|place| self.id_at(place))
    }

    /// Sends what waits: one send per client is under way at a time.
    pub fn flush<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        let now = ring.now();
        for place in 0..self.places.len() {
            let id = self.id_at(place);
            let token = id.token(self.lane, Operation::Send);
            let Some(session) = self.find(id).filter(|it| it.phase != Phase::Ending) else {
                continue;
            };
            let socket = session.socket;
            if let Some(gather) = session.next_send(now) {
                ring.submit(pool, token, Op::Send { socket, gather });
            }
        }
    }

    /// When the export next has something to do by itself, at the latest. Never, unless someone
    /// waits for memory: then when a client that keeps some has to give way
    /// ([`on_time`](Self::on_time)), or at once if another part of the shard has given back enough
    /// for the first in line, after this export was last asked to [`resume`](Self::resume).
    #[must_use]
    pub fn deadline(&self, pool: &Pool) -> Nanos {
        if !pool.has_line(Purpose::Client) {
            return Nanos::NEVER;
        }
        let sessions = self.places.iter().filter_map(|place| place.session.as_ref());
        let live = sessions.filter(|session| session.phase != Phase::Ending);
        let due = |session: &Session| {
            if session.can_go_on(pool) { Nanos::default() } else { session.patience() }
        };
        live.map(due).min().unwrap_or(Nanos::NEVER)
    }

    /// Ends the sessions whose clients keep memory that others wait for and have not done their
    /// part in time.
    pub fn on_time<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        let now = ring.now();
        for place in 0..self.places.len() {
            let session = self.places[place].session.as_ref();
            let late = session.is_some_and(|session| session.patience() <= now);
            if late && pool.has_line(Purpose::Client) {
                self.end(ring, pool, self.id_at(place), End::Stalled);
            }
        }
    }

    /// Clients connected, those that are being disconnected included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.places.iter().filter(|place| place.session.is_some() || place.closing).count()
    }

    /// Requests that the core has not answered yet.
    #[must_use]
    pub const fn requests_in_core(&self) -> usize {
        self.tally.in_core
    }

    /// Whether no session is left and the core owes no answer: nothing of the export's is in use.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sessions() == 0 && self.tally.in_core == 0
    }

    /// What has been done so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.tally.counters
    }

    /// What the export offers.
    #[must_use]
    pub const fn options(&self) -> &ExportOptions {
        &self.options
    }

    /// Lets a session decode and receive. False if it had no need to.
    fn pump<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        id: SessionId,
        out: &mut Vec<Input>,
    ) -> bool {
        let token = id.token(self.lane, Operation::Recv);
        let Some(place) = self.places.get_mut(usize::from(id.place)) else {
            return false;
        };
        let session = place.session.as_mut().filter(|_| place.generation == id.generation);
        let ready = |it: &&mut Session| it.phase == Phase::Open && !it.receiving;
        let Some(session) = session.filter(ready) else {
            return false;
        };
        let mut desk = Desk { pool, out, tally: &mut self.tally, id, now: ring.now() };
        match session.advance(&mut desk) {
            Next::Receive => {
                let (socket, into) = (session.socket, session.target());
                session.receiving = true;
                ring.submit(pool, token, Op::Recv { socket, into });
            }
            Next::Hold | Next::Line => {}
            Next::Crowded if self.crowded.contains(&id) => {}
            Next::Crowded => self.crowded.push_back(id),
            Next::Leave => {
                session.phase = Phase::Leaving;
                self.settle(ring, pool, id);
            }
            Next::Broken(error) => self.end(ring, pool, id, End::Stream(error)),
        }
        true
    }

    /// Ends a session: it is told nothing more, and gives back its memory once no operation uses
    /// it.
    fn end<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: SessionId, why: End) {
        let Some(session) = self.find(id).filter(|it| it.phase != Phase::Ending) else {
            return;
        };
        session.phase = Phase::Ending;
        session.abandon(pool);
        if session.is_in_flight() {
            ring.shutdown(session.socket);
        }
        tracing::info!(resource = self.options.name, %why, "a client's connection ends");
        self.settle(ring, pool, id);
    }

    /// Closes a session that is over.
    fn settle<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, id: SessionId) {
        let Some(session) = self.find(id) else { return };
        let over = match session.phase {
            Phase::Open => false,
            Phase::Leaving => session.is_settled(),
            Phase::Ending => true,
        };
        if !over || session.is_in_flight() {
            return;
        }
        let place = &mut self.places[usize::from(id.place)];
        place.closing = true;
        if let Some(session) = place.session.take() {
            let socket = session.socket;
            session.dissolve(ring, pool);
            let token = id.token(self.lane, Operation::Close);
            ring.submit(pool, token, Op::Close { socket });
        }
    }

    /// The session that a place has or had.
    fn id_at(&self, place: usize) -> SessionId {
        let generation = self.places[place].generation;
        SessionId { place: u8::try_from(place).expect("few places"), generation }
    }

    fn find(&mut self, id: SessionId) -> Option<&mut Session> {
        let place = self.places.get_mut(usize::from(id.place))?;
        if place.generation == id.generation { place.session.as_mut() } else { None }
    }

    /// Whose operation a token is. A closed socket has no session any more, but still a place.
    fn owner(&self, token: Token) -> Option<(SessionId, Operation)> {
        let (place, operation) = id::split_token(token)?;
        let generation = self.places.get(usize::from(place))?.generation;
        let id = SessionId { place, generation };
        id.owns(self.lane, token, operation).then_some((id, operation))
    }
}
