//! Owns the requests a client has in flight and the decoding of the replies to them.
//! It must never hold data, and never more requests than [`MAX_IN_FLIGHT`].

use std::collections::HashMap;

use thiserror::Error;

use super::coverage::Coverage;
use super::layout::{Chunk, DATA_PREFIX_BYTES, parse_chunk, parse_failure, wanted};
use crate::constants::{ChunkType, Command, Errno, MAX_REQUEST_BYTES, STRUCTURED_REPLY_MAGIC};
use crate::export::Terms;
use crate::field::Fields;
use crate::request::{REQUEST_BYTES, Request};

/// Most requests without a reply at one time.
pub const MAX_IN_FLIGHT: usize = 1024;

/// Why a request was not even encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The cookie of a request that has no reply yet.
    #[error("cookie {0} is in flight")]
    CookieInFlight(u64),
    /// Wait for a reply first.
    #[error("{MAX_IN_FLIGHT} requests are in flight")]
    TooMany,
    /// The length of a READ or WRITE in bytes.
    #[error("{0} bytes are more than any server takes at once")]
    TooLong(u32),
    /// A command with a reply that is not decoded here, or with none at all; see
    /// [`Client::disconnect`].
    #[error("{0} is not for submitting")]
    NotSubmittable(Command),
}

/// Why a connection to a server must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// What was found where a reply should begin.
    #[error("{0:#010x} where a reply should begin")]
    BadMagic(u32),
    /// A reply to nothing that is in flight.
    #[error("a reply to cookie {0}, which is not in flight")]
    UnknownCookie(u64),
    /// A simple reply to a READ under structured replies, or a structured one that was never
    /// agreed.
    #[error("the wrong form of reply to cookie {0}")]
    WrongForm(u64),
    /// A kind of chunk that makes no sense for the request, or whose length is not one it can have.
    #[error("a malformed chunk {0}")]
    BadChunk(ChunkType),
    /// Content outside the request, or given twice, or in more scraps than are kept track of.
    #[error("content that does not fit the read with cookie {0}")]
    BadContent(u64),
    /// Success claimed for a READ of which a part is missing.
    #[error("the read with cookie {0} ended too early")]
    ShortRead(u64),
}

/// How a request failed; the first error of its reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{errno} {message}")]
pub struct Failure {
    /// As sent, known or not; never 0.
    pub errno: Errno,
    /// Where in the export, if the server said.
    pub offset: Option<u64>,
    /// The server's text, with what is not UTF-8 replaced; may be empty.
    pub message: String,
}

/// What [`Client::feed`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// All input was taken; read more.
    NeedMore,
    /// `length` bytes of the export at `offset` follow in the stream, for the READ with this
    /// cookie: take them, then call [`Client::payload_done`].
    Data {
        /// The READ's mark.
        cookie: u64,
        /// In bytes of the export, not of the request.
        offset: u64,
        /// 1 or more.
        length: u32,
    },
    /// `length` zeroes at `offset`, not sent, for the READ with this cookie.
    Zeroes {
        /// The READ's mark.
        cookie: u64,
        /// In bytes of the export, not of the request.
        offset: u64,
        /// 1 or more.
        length: u32,
    },
    /// The request is over and its cookie free. A READ that succeeded was answered to the last
    /// byte.
    Completed {
        /// The request's mark.
        cookie: u64,
        /// What became of it.
        result: Result<(), Failure>,
    },
    /// The data announced last, of this many bytes, has not been declared taken; nothing was done.
    PayloadDue(u32),
    /// Close: the server cannot be followed. What is in flight has an unknown fate.
    Fatal(ClientError),
}

#[derive(Debug)]
struct InFlight {
    request: Request,
    coverage: Coverage,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Message,
    /// Data of this length follows; with a cookie, it was the last chunk of that reply.
    Payload(u32, Option<u64>),
    Completing(u64),
    Ended(ClientError),
}

/// A client in transmission: makes requests, and pairs replies with them.
#[derive(Debug)]
pub struct Client {
    terms: Terms,
    in_flight: HashMap<u64, InFlight>,
    /// What has come of a reply's fixed part; at most the longest error chunk.
    partial: Vec<u8>,
    state: State,
}

impl Client {
    /// A session that begins now, with the input that the handshake left.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, in_flight: HashMap::new(), partial: Vec::new(), state: State::Message }
    }

    /// What the session is bound to. Nothing is checked against it but what is needed to decode
    /// replies: a client that asks for too much gets the server's answer.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Requests without a reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Notes the request and gives its header to send; a WRITE's payload goes right behind it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was noted.
    pub fn submit(&mut self, request: Request) -> Result<[u8; REQUEST_BYTES], SubmitError> {
        let Request { command, cookie, length, .. } = request;
        match command {
            Command::READ | Command::WRITE if length > MAX_REQUEST_BYTES => {
                return Err(SubmitError::TooLong(length));
            }
            Command::READ | Command::WRITE | Command::FLUSH => {}
            Command::TRIM | Command::CACHE | Command::WRITE_ZEROES => {}
            other => return Err(SubmitError::NotSubmittable(other)),
        }
        if self.in_flight.contains_key(&cookie) {
            return Err(SubmitError::CookieInFlight(cookie));
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return Err(SubmitError::TooMany);
        }
        self.in_flight
            .insert(cookie, InFlight { request, coverage: Coverage::default(), failure: None });
        Ok(request.encode())
    }

    /// The last bytes of a session. There is no reply; a server answers what is in flight, then
    /// closes.
    #[must_use]
    pub fn disconnect() -> [u8; REQUEST_BYTES] {
        Request::new(Command::DISC, 0, 0, 0).encode()
    }

    /// Takes the server's bytes in any fragmentation. Returns how many were taken; the others are
    /// data if the event says so, else they must be fed again. After data an event may wait that
    /// needs no further input, so feed even nothing. After `Fatal` nothing is taken any more and
    /// the same event comes back.
    pub fn feed(&mut self, input: &[u8]) -> (usize, ClientEvent) {
        let mut taken = 0;
        loop {
            match self.state {
                State::Message => {}
                State::Payload(bytes, _) => return (taken, ClientEvent::PayloadDue(bytes)),
                State::Completing(cookie) => return (taken, self.complete(cookie)),
                State::Ended(error) => return (taken, ClientEvent::Fatal(error)),
            }
            let used = match self.collect(&input[taken..]) {
                Ok(used) => used,
                Err(error) => return (taken, self.fatal(error)),
            };
            taken += used.bytes;
            if !used.complete {
                return (taken, ClientEvent::NeedMore);
            }
            let message = std::mem::take(&mut self.partial);
            match self.on_message(&message) {
                Ok(None) => {}
                Ok(Some(event)) => return (taken, event),
                Err(error) => return (taken, self.fatal(error)),
            }
        }
    }

    /// The caller has taken all of the data announced last.
    pub fn payload_done(&mut self) {
        if let State::Payload(_, last) = self.state {
            self.state = last.map_or(State::Message, State::Completing);
        }
    }

    /// Gathers one fixed part: as it grows it says itself how long it is.
    fn collect(&mut self, input: &[u8]) -> Result<Collected, ClientError> {
        let mut bytes = 0;
        loop {
            let missing = wanted(&self.partial)? - self.partial.len();
            if missing == 0 {
                return Ok(Collected { bytes, complete: true });
            }
            let used = missing.min(input.len() - bytes);
            self.partial.extend_from_slice(&input[bytes..bytes + used]);
            bytes += used;
            if used < missing {
                return Ok(Collected { bytes, complete: false });
            }
        }
    }

    fn on_message(&mut self, message: &[u8]) -> Result<Option<ClientEvent>, ClientError> {
        let mut fields = Fields(message);
        match (fields.u32(), parse_chunk(fields)) {
            (Some(STRUCTURED_REPLY_MAGIC), Some((chunk, body))) => self.on_chunk(chunk, body),
            (Some(magic), _) => match (fields.u32(), fields.u64()) {
                (Some(errno), Some(cookie)) => self.on_simple(Errno(errno), cookie),
                _ => Err(ClientError::BadMagic(magic)),
            },
            (None, _) => Err(ClientError::BadMagic(0)),
        }
    }

    fn on_simple(&mut self, errno: Errno, cookie: u64) -> Result<Option<ClientEvent>, ClientError> {
        let structured = self.terms.structured_replies;
        let entry = self.in_flight.get_mut(&cookie).ok_or(ClientError::UnknownCookie(cookie))?;
        let Request { command, offset, length, .. } = entry.request;
        if structured && command == Command::READ {
            return Err(ClientError::WrongForm(cookie));
        }
        if errno.0 != 0 {
            entry.failure = Some(Failure { errno, offset: None, message: String::new() });
        } else if command == Command::READ && length > 0 {
            return self.data(cookie, (offset, length), true).map(Some);
        }
        self.state = State::Completing(cookie);
        Ok(None)
    }

    fn on_chunk(
        &mut self,
        chunk: Chunk,
        body: Fields<'_>,
    ) -> Result<Option<ClientEvent>, ClientError> {
        let Chunk { kind, cookie, length, done } = chunk;
        let entry = self.in_flight.get_mut(&cookie).ok_or(ClientError::UnknownCookie(cookie))?;
        if !self.terms.structured_replies {
            return Err(ClientError::WrongForm(cookie));
        }
        let is_read = entry.request.command == Command::READ;
        let bad = ClientError::BadChunk(kind);
        let event = match kind {
            ChunkType::NONE if done => None,
            ChunkType::OFFSET_DATA if is_read => {
                let offset = { body }.u64().ok_or(bad)?;
                return self.data(cookie, (offset, length - DATA_PREFIX_BYTES), done).map(Some);
            }
            ChunkType::OFFSET_HOLE if is_read => Some(self.zeroes(cookie, body).ok_or(bad)??),
            kind if kind.is_error() => {
                let failure = parse_failure(kind, body).ok_or(bad)?;
                entry.failure.get_or_insert(failure);
                None
            }
            _ => return Err(bad),
        };
        if done {
            self.state = State::Completing(cookie);
        }
        Ok(event)
    }

    fn data(
        &mut self,
        cookie: u64,
        range: (u64, u32),
        last: bool,
    ) -> Result<ClientEvent, ClientError> {
        self.cover(cookie, range)?;
        let (offset, length) = range;
        self.state = State::Payload(length, last.then_some(cookie));
        Ok(ClientEvent::Data { cookie, offset, length })
    }

    /// `None` if the chunk is too short to be a hole.
    fn zeroes(
        &mut self,
        cookie: u64,
        mut body: Fields<'_>,
    ) -> Option<Result<ClientEvent, ClientError>> {
        let (offset, length) = (body.u64()?, body.u32()?);
        Some(self.cover(cookie, (offset, length)).map(|()| ClientEvent::Zeroes {
            cookie,
            offset,
            length,
        }))
    }

    /// Notes that the READ has its content for `offset` and `length`, which must be a part of it,
    /// and new.
    fn cover(&mut self, cookie: u64, (offset, length): (u64, u32)) -> Result<(), ClientError> {
        let bad = ClientError::BadContent(cookie);
        let entry = self.in_flight.get_mut(&cookie).ok_or(bad)?;
        let (start, end) = span(&entry.request);
        let content_end = offset.checked_add(u64::from(length)).ok_or(bad)?;
        if length == 0
            || offset < start
            || content_end > end
            || !entry.coverage.add(offset, content_end)
        {
            return Err(bad);
        }
        Ok(())
    }

    fn complete(&mut self, cookie: u64) -> ClientEvent {
        let Some(entry) = self.in_flight.remove(&cookie) else {
            return self.fatal(ClientError::UnknownCookie(cookie));
        };
        let (start, end) = span(&entry.request);
        let is_read = entry.request.command == Command::READ;
        let result = match entry.failure {
            Some(failure) => Err(failure),
            None if is_read && !entry.coverage.is(start, end) => {
                return self.fatal(ClientError::ShortRead(cookie));
            }
            None => Ok(()),
        };
        self.state = State::Message;
        ClientEvent::Completed { cookie, result }
    }

    fn fatal(&mut self, error: ClientError) -> ClientEvent {
        self.state = State::Ended(error);
        ClientEvent::Fatal(error)
    }
}

/// How many bytes of input were gathered, and whether the fixed part is whole.
struct Collected {
    bytes: usize,
    complete: bool,
}

/// First byte and end of what a request is about. A range that wraps is never answered with
/// content.
fn span(request: &Request) -> (u64, u64) {
    (request.offset, request.offset.saturating_add(u64::from(request.length)))
}
