//! Owns the connection between two nodes for one resource: dialling, accepting, proof of
//! identity, frames in order, heartbeats, and doing it all again after every end.
//! Must never have an opinion about what a frame means, nor wait for anything.
//!
//! A *session* is two TCP connections, data and control, that both nodes bound to one number
//! made from fresh random numbers of both. Each frame carries that number, its own number within
//! its connection, and checksums over header, body and payload; one that fails a check ends the
//! session, and the next session begins with numbers that no old byte can carry.
//!
//! Both nodes dial. Which connection is kept when both succeed at once is the business of the
//! node with the lower id: it *commits* to the first pair that is complete, by the last word it
//! says on the control connection, and drops the rest. The other node follows.
//!
//! | file | |
//! |---|---|
//! | `doorman` | reads the first message of strangers and says for whom they ask |
//! | `connecting`, `handshake`, `retry`, `fault` | from nothing to a session |
//! | `standing`, `pulse`, `owed` | a session: frames, heartbeats, progress, its end |
//! | `conn`, `inbox`, `outbox` | one connection: operations in flight, bytes in, bytes out |

mod conn;
mod connecting;
pub mod doorman;
mod fault;
mod handshake;
mod inbox;
mod options;
mod outbox;
mod owed;
mod pulse;
mod retry;
mod standing;

#[cfg(test)]
mod tests;

pub use options::{HANDSHAKE_LIMIT, LinkOptions, Names, Path, Secret, Timing};

use self::conn::Conns;
use self::connecting::Attempt;
use self::options::{CONNECTIONS_MAX, RECEIVE_BYTES};
use self::retry::Retry;
use self::standing::Standing;
use crate::buffer::Pool;
use crate::format::frame::Frame;
use crate::format::hello::Refusal;
use crate::replica::event::{Input, Part};
use crate::ring::{Completion, Lane, Ring};
use crate::units::{Epoch, Nanos, NodeId, Session};

/// The connection to one peer for one resource.
///
/// Call order within a turn of the shard: [`on_completion`](Self::on_completion) for each
/// completion of the link's lane, then [`resume`](Self::resume), then, if
/// [`deadline`](Self::deadline) has come, [`on_time`](Self::on_time); hand the inputs to the
/// core, carry out its outputs with [`send`](Self::send), [`disconnect`](Self::disconnect) and
/// [`dial`](Self::dial); at last [`flush`](Self::flush).
#[derive(Debug)]
pub struct Link {
    options: LinkOptions,
    conns: Conns,
    retry: Retry,
    /// Whether to dial and to accept.
    wanted: bool,
    standing: Option<Standing>,
    dialled: Option<Attempt>,
    accepted: Vec<Attempt>,
    /// Why there is no session: per path, for what the peer dialled, and the end of the last one.
    faults: Vec<String>,
    /// Which of them is the newest.
    fault: usize,
    /// The epoch of the newest frame sent, for heartbeats.
    epoch: Epoch,
    /// Encoded frames pass through here.
    scratch: Vec<u8>,
}

/// What every call brings along.
struct Turn<'a, R> {
    ring: &'a mut R,
    pool: &'a mut Pool,
    out: &'a mut Vec<Input>,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The session it belongs to.
    pub session: Session,
    /// The sender's adopted epoch.
    pub epoch: Epoch,
    /// What.
    pub frame: &'a Frame,
    /// Where its payload lies, exactly if [`Frame::payload`] says that there is one.
    pub part: Option<Part>,
}

impl Link {
    /// A link that neither dials nor accepts until [`dial`](Self::dial) says so. All its tokens
    /// are of `lane`.
    #[must_use]
    pub fn new(lane: Lane, options: LinkOptions) -> Self {
        let paths = options.paths.len();
        let retry = Retry::new(paths, options.timing.retry_longest);
        Self {
            options,
            conns: Conns::new(lane, CONNECTIONS_MAX, RECEIVE_BYTES as usize),
            retry,
            wanted: false,
            standing: None,
            dialled: None,
            accepted: Vec::new(),
            faults: vec![String::new(); paths + 2],
            fault: paths + 1,
            epoch: Epoch(0),
            scratch: Vec::new(),
        }
    }

    /// Whether to keep dialling and accepting the peer. A session that stands is not touched.
    pub fn dial<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, wanted: bool) {
        if wanted && !self.wanted {
            self.retry.hurry();
        }
        self.wanted = wanted;
        if !wanted {
            self.abandon_attempts(
                &mut Turn { ring, pool, out: &mut Vec::new() },
                Refusal::Unwanted,
            );
        }
    }

    /// Takes a completion of the link's lane.
    pub fn on_completion<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        completion: Completion,
        out: &mut Vec<Input>,
    ) {
        let event = self.conns.on_completion(ring, pool, completion);
        let Some((id, event)) = event else { return };
        let mut turn = Turn { ring, pool, out };
        match self.standing.as_ref().and_then(|standing| standing.channel_of(id)) {
            Some(channel) => self.on_session_event(&mut turn, channel, event),
            None => self.on_attempt_event(&mut turn, id, event),
        }
    }

    /// Goes on receiving where there was no room for a payload. Call each turn.
    pub fn resume<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, out: &mut Vec<Input>) {
        if self.can_resume(pool) {
            self.read_session(&mut Turn { ring, pool, out });
        }
    }

    fn can_resume(&self, pool: &Pool) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.can_resume(pool))
    }

    /// Does what is due by now: heartbeats, time limits, dialling.
    pub fn on_time<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool, out: &mut Vec<Input>) {
        let mut turn = Turn { ring, pool, out };
        self.check_session(&mut turn);
        self.check_attempts(&mut turn);
        self.dial_if_due(&mut turn);
    }

    /// When the link must be looked at next, by [`on_time`](Self::on_time) and, as room for
    /// payloads comes free without a completion of the link's own, by [`resume`](Self::resume).
    #[must_use]
    pub fn deadline(&self, pool: &Pool) -> Nanos {
        if self.can_resume(pool) {
            return Nanos(0);
        }
        let attempts = self.dialled.iter().chain(&self.accepted).map(|attempt| attempt.until);
        let session = self.standing.iter().map(|standing| standing.deadline(&self.options));
        let dial = self.is_idle().then(|| self.retry.at());
        attempts.chain(session).chain(dial).min().unwrap_or(Nanos::NEVER)
    }

    /// Sends what is queued: control before data, so that acknowledgements never wait for writes.
    /// Call at the end of each turn.
    pub fn flush<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        let attempts = self.dialled.iter().chain(&self.accepted).flat_map(Attempt::connections);
        for id in attempts {
            self.conns.send(ring, pool, id);
        }
        if let Some(standing) = &mut self.standing {
            let [control, data] = standing.connections();
            self.conns.send(ring, pool, control);
            self.conns.send(ring, pool, data);
            standing.on_flushed(ring.now(), self.conns.queued_bytes(data) > 0);
        }
    }

    /// Queues a frame, behind the others of its channel. Its payload's slot is held until it has
    /// been sent. Does nothing if the session is over or about to be.
    ///
    /// # Panics
    /// If the frame needs a payload and there is no part, or the other way round.
    pub fn send(&mut self, now: Nanos, pool: &mut Pool, outgoing: Outgoing<'_>) {
        let matches = self.session() == Some(outgoing.session);
        if matches {
            self.queue_frame(now, pool, outgoing);
        }
    }

    /// Ends a session on purpose: what is queued leaves first if it can within a second, and a
    /// `Bye` among it is waited for until it was read. `LinkDown` follows out of a later call.
    pub fn disconnect(&mut self, now: Nanos, session: Session, why: &'static str) {
        if self.session() == Some(session) {
            self.leave(now, why);
        }
    }

    /// The other node.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.options.peer
    }

    /// Whether no session stands, not even one that is being ended and has frames to deliver.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.standing.is_none()
    }

    /// The session that stands and is not being ended from this side.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        let standing = self.standing.as_ref().filter(|standing| !standing.is_leaving());
        standing.map(|standing| standing.session)
    }

    /// The link version spoken in the session that stands.
    #[must_use]
    pub fn version(&self) -> Option<u16> {
        self.standing.as_ref().map(|standing| standing.version)
    }

    /// Bytes queued for the peer or on their way into the network.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        let Some(standing) = &self.standing else {
            return 0;
        };
        standing.connections().map(|id| self.conns.queued_bytes(id)).iter().sum()
    }

    /// Why there is no session, in words with what to do next; empty if one stands or nothing
    /// went wrong yet.
    #[must_use]
    pub fn last_error(&self) -> &str {
        if self.standing.is_some() { "" } else { &self.faults[self.fault] }
    }

    /// Connections in use, those being closed included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.count()
    }

    /// Records why the way `place` (a path, or what the peer dialled) does not lead to a session:
    /// one log line when it changes. What this node saw itself is the better explanation.
    fn set_fault(&mut self, place: usize, words: String) {
        let paths = self.options.paths.len();
        if place < paths || self.fault >= paths {
            self.fault = place;
        }
        if self.faults[place] == words {
            return;
        }
        tracing::warn!(resource = %self.options.resource, peer = %self.options.names.peer,
            "not connected: {words}");
        self.faults[place] = words;
    }

    /// Whether nothing is under way though something should be.
    fn is_idle(&self) -> bool {
        self.wanted && self.standing.is_none() && self.dialled.is_none()
    }
}
