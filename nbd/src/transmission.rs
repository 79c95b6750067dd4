//! Owns the client's stream once an export is open: where requests begin, and where payloads lie.
//! It must never touch a payload that is served: it says how many bytes follow, and the caller
//! reads them into its own buffer.

use crate::error::TransmissionError;
use crate::export::Terms;
use crate::request::{Checked, REQUEST_BYTES, Refusal, Rejection, Request, check};

/// What [`Transmission::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All input was taken; read more.
    NeedMore,
    /// Serve this. Its [`Checked::payload_bytes`] follow in the stream: take them, then call
    /// [`Transmission::payload_done`]. With none, feed on.
    Request(Checked),
    /// Send the error. The [`Refusal::drain`] bytes of payload have been fed and thrown away by
    /// now: a client may take a reply for a request it has not finished sending as a broken server
    /// (libnbd does).
    Refused(Refusal),
    /// The payload of the last request, of this many bytes, has not been declared taken; nothing
    /// was done.
    PayloadDue(u32),
    /// The client is leaving: finish what is in flight, reply to it, then close.
    Disconnect,
    /// Close at once.
    Fatal(TransmissionError),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// This many bytes of the header have come in earlier pieces.
    Header(usize),
    Payload(u32),
    /// This many bytes of the payload are still to come.
    Drain(u32, Refusal),
    Ended(Event),
}

/// Finds the requests in a client's stream; of fixed size, it neither allocates nor copies
/// payloads.
///
/// ```text
///            28 bytes, no payload
///          ┌──────────────────────┐
///          ▼                      │        WRITE
///   ┌──► Header ──────────────────┴─┬────────────► Payload ──► payload_done() ──┐
///   │      │                        │ refused WRITE                            │
///   │      │ DISC, bad magic        └────────────► Drain ──► all fed: Refused ─┤
///   │      ▼                                                                   │
///   │    Ended                                                                 │
///   └──────────────────────────────────────────────────────────────────────────┘
/// ```
#[derive(Clone, Debug)]
pub struct Transmission {
    terms: Terms,
    header: [u8; REQUEST_BYTES],
    state: State,
}

impl Transmission {
    /// A decoder for a session that begins now, with the input that the handshake left.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self { terms, header: [0; REQUEST_BYTES], state: State::Header(0) }
    }

    /// What the session is bound to.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes bytes in any fragmentation, up to the end of one header. Returns how many were taken;
    /// what follows is payload if the event says so, else it must be fed again. After `Disconnect`
    /// and `Fatal` nothing is taken any more and the same event comes back.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Event) {
        let (used, event) = self.step(input);
        if event != Event::NeedMore || used == input.len() {
            return (used, event);
        }
        // A refused WRITE: its payload is thrown away at once.
        let (drained, event) = self.step(&input[used..]);
        (used + drained, event)
    }

    /// The caller has taken the whole payload of the last request; the next byte fed begins a
    /// header.
    pub fn payload_done(&mut self) {
        if matches!(self.state, State::Payload(_)) {
            self.state = State::Header(0);
        }
    }

    /// Whether the connection may end here without the client having broken off in the middle of a
    /// request.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Header(0) | State::Ended(_))
    }

    fn step(&mut self, input: &[u8]) -> (usize, Event) {
        match self.state {
            State::Header(filled) => self.feed_header(filled, input),
            State::Payload(bytes) => (0, Event::PayloadDue(bytes)),
            State::Drain(left, refusal) => self.feed_drain(left, refusal, input),
            State::Ended(event) => (0, event),
        }
    }

    fn feed_header(&mut self, filled: usize, input: &[u8]) -> (usize, Event) {
        if filled == 0
            && let Some(header) = input.first_chunk()
        {
            return (REQUEST_BYTES, self.on_header(header));
        }
        let used = input.len().min(REQUEST_BYTES - filled);
        self.header[filled..filled + used].copy_from_slice(&input[..used]);
        if filled + used < REQUEST_BYTES {
            self.state = State::Header(filled + used);
            return (used, Event::NeedMore);
        }
        let header = self.header;
        (used, self.on_header(&header))
    }

    fn feed_drain(&mut self, left: u32, refusal: Refusal, input: &[u8]) -> (usize, Event) {
        let used = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
        let (state, event) = match left - used {
            0 => (State::Header(0), Event::Refused(refusal)),
            left => (State::Drain(left, refusal), Event::NeedMore),
        };
        self.state = state;
        (used as usize, event)
    }

    fn on_header(&mut self, header: &[u8; REQUEST_BYTES]) -> Event {
        let judged = Request::parse(header)
            .map_err(Rejection::Close)
            .and_then(|request| check(&request, &self.terms));
        let (state, event) = match judged {
            Ok(checked) => match checked.payload_bytes() {
                0 => (State::Header(0), Event::Request(checked)),
                bytes => (State::Payload(bytes), Event::Request(checked)),
            },
            Err(Rejection::Refuse(refusal)) => match refusal.drain {
                0 => (State::Header(0), Event::Refused(refusal)),
                bytes => (State::Drain(bytes, refusal), Event::NeedMore),
            },
            Err(Rejection::Disconnect) => (State::Ended(Event::Disconnect), Event::Disconnect),
            Err(Rejection::Close(error)) => {
                (State::Ended(Event::Fatal(error)), Event::Fatal(error))
            }
        };
        self.state = state;
        event
    }
}
