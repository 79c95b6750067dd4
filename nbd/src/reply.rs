//! Owns replies: sections "Simple reply message" and "Structured reply chunk message", and which of
//! the two a request gets. It must never touch data: it writes headers, and the caller sends its
//! own buffer behind them.

use crate::constants::{
    ChunkFlags, ChunkType, Command, Errno, MAX_STRING_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};
use crate::field::put;
use crate::option::cut;
use crate::request::{Checked, Operation, Refusal};

/// magic u32, errno u32, cookie u64; the data of a successful READ follows.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// magic u32, flags u16, type u16, cookie u64, length u32; `length` bytes follow.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// A chunk header and offset u64; the data follows.
pub const DATA_HEADER_BYTES: usize = CHUNK_HEADER_BYTES + 8;
/// A chunk header, offset u64 and hole size u32; a whole chunk.
pub const HOLE_BYTES: usize = CHUNK_HEADER_BYTES + 12;
/// Room for any header [`ReplyEncoder`] writes without a message.
pub const MAX_REPLY_HEADER_BYTES: usize = HOLE_BYTES;
/// Room for the longest error chunk: header, errno u32, length of message u16, message, offset u64.
pub const MAX_ERROR_CHUNK_BYTES: usize = CHUNK_HEADER_BYTES + 6 + MAX_STRING_BYTES as usize + 8;

/// A simple reply; `Errno(0)` is success.
#[must_use]
pub fn simple_reply(cookie: u64, errno: Errno) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut bytes = [0; SIMPLE_REPLY_BYTES];
    put::<0, 4, _>(&mut bytes, SIMPLE_REPLY_MAGIC.to_be_bytes());
    put::<4, 4, _>(&mut bytes, errno.0.to_be_bytes());
    put::<8, 8, _>(&mut bytes, cookie.to_be_bytes());
    bytes
}

/// The header of any chunk; `length` counts all bytes that follow it.
#[must_use]
pub fn chunk_header(
    cookie: u64,
    kind: ChunkType,
    flags: ChunkFlags,
    length: u32,
) -> [u8; CHUNK_HEADER_BYTES] {
    let mut bytes = [0; CHUNK_HEADER_BYTES];
    put::<0, 4, _>(&mut bytes, STRUCTURED_REPLY_MAGIC.to_be_bytes());
    put::<4, 2, _>(&mut bytes, flags.0.to_be_bytes());
    put::<6, 2, _>(&mut bytes, kind.0.to_be_bytes());
    put::<8, 8, _>(&mut bytes, cookie.to_be_bytes());
    put::<16, 4, _>(&mut bytes, length.to_be_bytes());
    bytes
}

/// The front of `NBD_REPLY_TYPE_OFFSET_DATA` for `length` bytes of data, 1 or more, at most 64 MiB.
#[must_use]
pub fn data_header(
    cookie: u64,
    flags: ChunkFlags,
    offset: u64,
    length: u32,
) -> [u8; DATA_HEADER_BYTES] {
    let mut bytes = [0; DATA_HEADER_BYTES];
    put::<0, CHUNK_HEADER_BYTES, _>(
        &mut bytes,
        chunk_header(cookie, ChunkType::OFFSET_DATA, flags, length + 8),
    );
    put::<CHUNK_HEADER_BYTES, 8, _>(&mut bytes, offset.to_be_bytes());
    bytes
}

/// A whole `NBD_REPLY_TYPE_OFFSET_HOLE`: `length` zeroes, 1 or more, that are not sent.
#[must_use]
pub fn hole(cookie: u64, flags: ChunkFlags, offset: u64, length: u32) -> [u8; HOLE_BYTES] {
    let mut bytes = [0; HOLE_BYTES];
    put::<0, CHUNK_HEADER_BYTES, _>(
        &mut bytes,
        chunk_header(cookie, ChunkType::OFFSET_HOLE, flags, 12),
    );
    put::<CHUNK_HEADER_BYTES, 8, _>(&mut bytes, offset.to_be_bytes());
    put::<{ CHUNK_HEADER_BYTES + 8 }, 4, _>(&mut bytes, length.to_be_bytes());
    bytes
}

/// A whole `NBD_REPLY_TYPE_NONE`: the end of a reply.
#[must_use]
pub fn done(cookie: u64) -> [u8; CHUNK_HEADER_BYTES] {
    chunk_header(cookie, ChunkType::NONE, ChunkFlags::DONE, 0)
}

/// What went wrong, for an error chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorDetail<'a> {
    /// Never 0.
    pub errno: Errno,
    /// Where in the export, if it is known: the chunk is then `NBD_REPLY_TYPE_ERROR_OFFSET`.
    pub offset: Option<u64>,
    /// For a person; may be empty. Cut to 4096 bytes and to the room there is, between characters.
    pub message: &'a str,
}

/// Writes a whole error chunk and returns its length, or `None` if `out` cannot even hold one
/// without a message (26 bytes, 34 with an offset). [`MAX_ERROR_CHUNK_BYTES`] are always enough.
pub fn error_chunk(
    cookie: u64,
    flags: ChunkFlags,
    detail: &ErrorDetail<'_>,
    out: &mut [u8],
) -> Option<usize> {
    let (kind, offset) = match &detail.offset {
        Some(offset) => (ChunkType::ERROR_OFFSET, &offset.to_be_bytes()[..]),
        None => (ChunkType::ERROR, &[][..]),
    };
    let room = out.len().checked_sub(CHUNK_HEADER_BYTES + 6 + offset.len())?;
    let message = cut(detail.message, room.min(MAX_STRING_BYTES as usize)).as_bytes();
    let message_bytes = u16::try_from(message.len()).ok()?;
    let length = 6 + u32::from(message_bytes) + u32::try_from(offset.len()).ok()?;
    let header = chunk_header(cookie, kind, flags, length);
    let parts =
        [&header[..], &detail.errno.0.to_be_bytes(), &message_bytes.to_be_bytes(), message, offset];
    let mut at = 0;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    Some(at)
}

/// Writes the reply each request gets in this session.
///
/// | request | simple replies | structured replies |
/// |---|---|---|
/// | READ, success | simple, data | one OFFSET_DATA with DONE, data; of 0 bytes: NONE with DONE |
/// | READ, failure | simple | ERROR with DONE |
/// | other, success | simple | simple |
/// | other, failure | simple | simple; ERROR with DONE if there is a message |
///
/// Where the specification leaves the choice, simple replies are taken: they are 16 bytes instead
/// of 20 or 26 and every client has the code for them. A message for a person is worth a chunk. One
/// chunk per READ keeps every promise of `NBD_CMD_FLAG_DF` for any length, and DONE on it is right
/// because all data is in memory before the header is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyEncoder {
    structured: bool,
}

impl ReplyEncoder {
    /// For a session with or without structured replies.
    #[must_use]
    pub const fn new(structured_replies: bool) -> Self {
        Self { structured: structured_replies }
    }

    /// Success. Returns how much of `out` to send; a READ's data goes right behind it.
    pub fn success(self, request: &Checked, out: &mut [u8; MAX_REPLY_HEADER_BYTES]) -> usize {
        let Checked { cookie, operation, offset, length } = *request;
        match operation {
            Operation::Read { .. } if self.structured && length > 0 => {
                fill(out, &data_header(cookie, ChunkFlags::DONE, offset, length))
            }
            Operation::Read { .. } if self.structured => fill(out, &done(cookie)),
            _ => fill(out, &simple_reply(cookie, Errno(0))),
        }
    }

    /// Failure of a request that was served. Returns how much of `out` to send; no data follows.
    pub fn failure(
        self,
        request: &Checked,
        errno: Errno,
        out: &mut [u8; MAX_REPLY_HEADER_BYTES],
    ) -> usize {
        self.error(request.operation.command(), request.cookie, errno, out)
    }

    /// The answer to a request that broke a rule. Returns how much of `out` to send.
    pub fn refusal(self, refusal: &Refusal, out: &mut [u8; MAX_REPLY_HEADER_BYTES]) -> usize {
        self.error(refusal.command, refusal.cookie, refusal.errno, out)
    }

    /// Failure with a text or a place, told as far as the session allows: under simple replies only
    /// the number is. Returns how much of `out` to send; [`MAX_ERROR_CHUNK_BYTES`] are always
    /// enough room, and with less than 34 bytes nothing is written and `None` returned.
    pub fn failure_with(
        self,
        request: &Checked,
        detail: &ErrorDetail<'_>,
        out: &mut [u8],
    ) -> Option<usize> {
        if self.structured {
            return error_chunk(request.cookie, ChunkFlags::DONE, detail, out);
        }
        let reply = simple_reply(request.cookie, detail.errno);
        out.get_mut(..reply.len())?.copy_from_slice(&reply);
        Some(reply.len())
    }

    fn error(
        self,
        command: Command,
        cookie: u64,
        errno: Errno,
        out: &mut [u8; MAX_REPLY_HEADER_BYTES],
    ) -> usize {
        if self.structured && command == Command::READ {
            let detail = ErrorDetail { errno, offset: None, message: "" };
            if let Some(length) = error_chunk(cookie, ChunkFlags::DONE, &detail, out) {
                return length;
            }
        }
        fill(out, &simple_reply(cookie, errno))
    }
}

fn fill<const N: usize>(out: &mut [u8; MAX_REPLY_HEADER_BYTES], header: &[u8; N]) -> usize {
    const { assert!(N <= MAX_REPLY_HEADER_BYTES) };
    out[..N].copy_from_slice(header);
    N
}
