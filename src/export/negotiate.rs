//! Owns the negotiation with an NBD client, off the shard: its time, its bytes, and how many run at
//! once. Must never serve a request: whoever gets through is handed on with what it has sent.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use twinblk_nbd::{CloseReason, Exports, Handshake, Negotiated, Step};

use crate::limits::{
    CLIENT_RECEIVE_BYTES, NEGOTIATION_BYTES_MAX, NEGOTIATION_TIME, NEGOTIATIONS_MAX,
};

/// Bytes received at once: a usual negotiation is a few hundred.
const INPUT_BYTES: usize = 4096;

const _: () =
    assert!(INPUT_BYTES <= CLIENT_RECEIVE_BYTES as usize, "a session takes over the rest");

/// What negotiations may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiationLimits {
    /// How long one may take.
    pub time: Duration,
    /// What a client may send in one, in bytes.
    pub bytes: usize,
    /// How many run at once, at least 1.
    pub at_once: usize,
}

impl Default for NegotiationLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_nanos(NEGOTIATION_TIME.0),
            bytes: NEGOTIATION_BYTES_MAX,
            at_once: NEGOTIATIONS_MAX,
        }
    }
}

/// A client that got through.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The export it opened, and on which terms.
    pub negotiated: Negotiated,
    /// What it sent behind its last option, for [`Newcomer`](super::Newcomer).
    pub leftover: Vec<u8>,
}

/// Why a client did not get through. Its connection is to be closed.
#[derive(Debug, Error)]
pub enum NegotiationError {
    /// It was refused, or it ended the negotiation itself.
    #[error("{0}")]
    Closed(CloseReason),
    /// It hung up.
    #[error("the client hung up during the negotiation")]
    HungUp,
    /// It took too long.
    #[error("the client did not finish the negotiation in {} s", .0.as_secs())]
    TooSlow(Duration),
    /// It sent too much.
    #[error("the client sent more than {0} bytes without opening an export")]
    TooMuch(usize),
    /// A newer client took its place.
    #[error("too many clients negotiate at once, and this one has taken the longest")]
    GaveWay,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
}

/// All negotiations of a node.
#[derive(Debug)]
pub struct Negotiations {
    limits: NegotiationLimits,
    running: Mutex<Running>,
}

/// The oldest first. A dropped sender tells its negotiation to give way.
#[derive(Debug, Default)]
struct Running {
    next: u64,
    places: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A place among the running ones, given back when dropped.
struct Seat<'a> {
    all: &'a Negotiations,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut running = self.all.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.places.retain(|(number, _)| *number != self.number);
    }
}

impl Negotiations {
    /// None yet.
    #[must_use]
    pub fn new(limits: NegotiationLimits) -> Self {
        Self { limits, running: Mutex::default() }
    }

    /// Negotiates with one client until it has opened an export or must be closed.
    ///
    /// # Errors
    /// Why it did not get through; the stream is to be dropped.
    pub async fn run<S>(
        &self,
        stream: &mut S,
        exports: &(dyn Exports + Sync),
    ) -> Result<Agreed, NegotiationError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (seat, displaced) = self.sit_down();
        let limit = self.limits.time;
        let outcome = tokio::select! {
            biased;
            _ = displaced => Err(NegotiationError::GaveWay),
            outcome = tokio::time::timeout(limit, self.talk(stream, exports)) => {
                outcome.unwrap_or(Err(NegotiationError::TooSlow(limit)))
            }
        };
        drop(seat);
        outcome
    }

    fn sit_down(&self) -> (Seat<'_>, oneshot::Receiver<()>) {
        let (sender, displaced) = oneshot::channel();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.places.len() >= self.limits.at_once.max(1) {
            running.places.pop_front();
        }
        running.next += 1;
        let number = running.next;
        running.places.push_back((number, sender));
        (Seat { all: self, number }, displaced)
    }

    async fn talk<S>(
        &self,
        stream: &mut S,
        exports: &(dyn Exports + Sync),
    ) -> Result<Agreed, NegotiationError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut handshake = Handshake::new();
        let mut input = vec![0; INPUT_BYTES];
        let (mut unused, mut received) = (0..0, 0);
        loop {
            let (taken, step) = handshake.feed(&input[unused.clone()], exports);
            unused.start += taken;
            let output = handshake.take_output();
            if !output.is_empty() {
                stream.write_all(&output).await?;
                stream.flush().await?;
            }
            match step {
                Step::Send => {}
                Step::NeedMore => {
                    let bytes = stream.read(&mut input).await?;
                    received += bytes;
                    if bytes == 0 {
                        return Err(NegotiationError::HungUp);
                    }
                    if received > self.limits.bytes {
                        return Err(NegotiationError::TooMuch(self.limits.bytes));
                    }
                    unused = 0..bytes;
                }
                Step::Negotiated(negotiated) => {
                    return Ok(Agreed { negotiated, leftover: input[unused].to_vec() });
                }
                Step::Closed(reason) => return Err(NegotiationError::Closed(reason)),
            }
        }
    }

    /// Negotiations that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).places.len()
    }
}
