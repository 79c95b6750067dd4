//! Owns what arrived on one connection: the receive buffer, the frame being put together, and the
//! checks that make a frame worth believing. Must never pass on a frame that failed one.

use super::options::{DIRECT_BYTES, RECEIVE_BYTES};
use crate::buffer::{Account, Payload, Pool, Purpose, Span};
use crate::format::checksum;
use crate::format::frame::{BODY_BYTES_MAX, Channel, Frame, HEADER_BYTES, Header, decode_header};
use crate::format::hello::{self, Flaw};
use crate::plant::{Plant, Plants};
use crate::units::{Epoch, Session};

// Header and body of any frame fit into the receive buffer.
const _: () = assert!(HEADER_BYTES + BODY_BYTES_MAX as usize <= RECEIVE_BYTES as usize);

/// What a look into the inbox came to.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole frame that passed every check.
    Frame(Epoch, Frame, Option<Payload>),
    /// Nothing whole yet: receive more.
    Nothing,
    /// A payload of so many bytes is coming, and the budget it is taken on is used up: receive no more
    /// for now.
    NoRoom(Account, u32),
}

/// A frame whose payload is not whole yet.
#[derive(Debug)]
struct Filling {
    header: Header,
    frame: Frame,
    /// None while there is no room.
    payload: Option<Payload>,
    have: u32,
    need: u32,
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(super) struct Inbox {
    /// For payloads, but for those that clients here asked for.
    account: Account,
    buffer: Payload,
    size: u32,
    /// Bytes of the buffer that arrived and were not looked at.
    start: u32,
    end: u32,
    /// The last [`target`](Self::target) was the payload, not the buffer.
    direct: bool,
    filling: Option<Filling>,
    /// Number of the next frame.
    number: u64,
}

impl Inbox {
    /// An empty one with a buffer of `bytes`, if there is memory; payloads are taken on `account`.
    pub(super) fn new(pool: &mut Pool, account: Account, bytes: usize) -> Option<Self> {
        let buffer = pool.take(Purpose::Fixed, bytes)?;
        let size = u32::try_from(bytes).ok()?;
        Some(Self {
            account,
            buffer,
            size,
            start: 0,
            end: 0,
            direct: false,
            filling: None,
            number: 1,
        })
    }

    /// Gives its memory back.
    pub(super) fn release(self, pool: &mut Pool) {
        if let Some(payload) = self.filling.and_then(|filling| filling.payload) {
            pool.release(payload);
        }
        pool.release(self.buffer);
    }

    /// Where to receive next: a payload that lacks much is filled in place. None if there is no
    /// room.
    pub(super) fn target(&mut self, pool: &mut Pool) -> Option<Span> {
        self.direct = false;
        if let Some(filling) = &self.filling {
            let slot = filling.payload.as_ref()?.share();
            let lacks = filling.need - filling.have;
            if self.is_empty() && lacks >= DIRECT_BYTES {
                self.direct = true;
                return Some(Span { slot, offset: filling.have, length: lacks });
            }
        }
        self.compact(pool);
        let (slot, length) = (self.buffer.share(), self.size - self.end);
        (length > 0).then_some(Span { slot, offset: self.end, length })
    }

    /// Moves what waits to the front of the buffer.
    fn compact(&mut self, pool: &mut Pool) {
        if self.start > 0 && self.start < self.end {
            let whole = Span { slot: self.buffer.share(), offset: 0, length: self.end };
            let (start, end) = (self.start as usize, self.end as usize);
            pool.bytes_mut(whole).copy_within(start..end, 0);
        }
        self.end -= self.start;
        self.start = 0;
    }

    /// So many bytes arrived at the last target.
    pub(super) fn received(&mut self, bytes: u32) {
        match &mut self.filling {
            Some(filling) if self.direct => filling.have += bytes,
            _ => self.end += bytes,
        }
    }

    /// The next handshake message, copied, if it is whole.
    pub(super) fn message(&mut self, pool: &Pool) -> Result<Option<Vec<u8>>, Flaw> {
        let bytes = self.waiting(pool);
        let Some(length) = hello::message_bytes(bytes)? else {
            return Ok(None);
        };
        let Some(message) = bytes.get(..length) else {
            return Ok(None);
        };
        let message = message.to_vec();
        self.start += u32::try_from(length).expect("messages are short");
        Ok(Some(message))
    }

    /// The next frame of `session`.
    ///
    /// # Errors
    /// Why the bytes cannot be believed; nothing more may be taken from this connection.
    pub(super) fn frame(
        &mut self,
        pool: &mut Pool,
        session: Session,
        channel: Channel,
        plants: Plants,
    ) -> Result<Found, String> {
        if self.filling.is_none() {
            match self.begin(pool, session, channel)? {
                None => return Ok(Found::Nothing),
                Some((header, frame)) if header.payload_bytes() == 0 => {
                    return Ok(Found::Frame(header.tag().epoch, frame, None));
                }
                Some((header, frame)) => {
                    let need = header.payload_bytes();
                    self.filling = Some(Filling { header, frame, payload: None, have: 0, need });
                }
            }
        }
        self.fill(pool, plants)
    }

    /// Takes header and body of the next frame, once whole.
    fn begin(
        &mut self,
        pool: &Pool,
        session: Session,
        channel: Channel,
    ) -> Result<Option<(Header, Frame)>, String> {
        let bytes = self.waiting(pool);
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = decode_header(header).map_err(|flaw| flaw.to_string())?;
        let tag = header.tag();
        if tag.session != session {
            return Err("a frame of another session".into());
        }
        if tag.number != self.number {
            return Err(format!("frame {} came where {} belongs", tag.number, self.number));
        }
        let whole = HEADER_BYTES + header.body_bytes() as usize;
        let Some(body) = bytes.get(HEADER_BYTES..whole) else {
            return Ok(None);
        };
        let frame = header.frame(body).map_err(|flaw| flaw.to_string())?;
        if frame.channel() != channel {
            return Err("a frame on the wrong one of the two connections".into());
        }
        self.start += u32::try_from(whole).expect("it lies in the buffer");
        self.number += 1;
        Ok(Some((header, frame)))
    }

    /// Moves what arrived into the payload, and passes it on when whole.
    fn fill(&mut self, pool: &mut Pool, plants: Plants) -> Result<Found, String> {
        let buffer = self.buffer.share();
        let Some(filling) = &mut self.filling else {
            return Ok(Found::Nothing);
        };
        // What lies before an answer may hold all that peers may use, and wait for the read it answers.
        let account = match filling.frame {
            Frame::ReadAnswer { .. } => self.account.on(Purpose::Answer),
            _ => self.account,
        };
        if filling.payload.is_none() {
            filling.payload = pool.take(account, filling.need as usize);
        }
        let Some(payload) = &filling.payload else {
            return Ok(Found::NoRoom(account, filling.need));
        };
        let slot = payload.share();
        let length = (self.end - self.start).min(filling.need - filling.have);
        if length > 0 {
            let from = Span { slot: buffer, offset: self.start, length };
            pool.copy(from, Span { slot, offset: filling.have, length });
            self.start += length;
            filling.have += length;
        }
        if filling.have < filling.need {
            return Ok(Found::Nothing);
        }
        let whole = Span { slot, offset: 0, length: filling.need };
        let right = checksum::of(pool.bytes(whole)) == filling.header.payload_sum();
        if !right && !plants.has(Plant::PayloadUnchecked) {
            return Err("the checksum of a payload is wrong".into());
        }
        let done = self.filling.take().expect("looked at just now");
        Ok(Found::Frame(done.header.tag().epoch, done.frame, done.payload))
    }

    /// Whether everything that arrived has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn waiting<'a>(&self, pool: &'a Pool) -> &'a [u8] {
        let length = self.end - self.start;
        pool.bytes(Span { slot: self.buffer.share(), offset: self.start, length })
    }
}
