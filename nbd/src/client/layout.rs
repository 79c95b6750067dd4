//! Owns the layout of replies as a client meets them, and how long each may be.
//! It must never know of requests in flight.

use std::ops::RangeInclusive;

use super::session::{ClientError, Failure};
use crate::constants::{
    ChunkFlags, ChunkType, Errno, MAX_REQUEST_BYTES, MAX_STRING_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};
use crate::field::Fields;
use crate::reply::{CHUNK_HEADER_BYTES, SIMPLE_REPLY_BYTES};

/// What precedes the data in `NBD_REPLY_TYPE_OFFSET_DATA`: offset u64.
pub(super) const DATA_PREFIX_BYTES: u32 = 8;
/// `NBD_REPLY_TYPE_OFFSET_HOLE`: offset u64, size u32.
const HOLE_BODY_BYTES: u32 = 12;
/// Shortest and longest body of an error chunk.
const ERROR_BODY_BYTES: RangeInclusive<u32> = 6..=14 + MAX_STRING_BYTES;

/// A chunk's header without the magic.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) kind: ChunkType,
    pub(super) cookie: u64,
    pub(super) length: u32,
    pub(super) done: bool,
}

/// The header, and the fields behind it; `fields` stand right after the magic.
pub(super) fn parse_chunk(mut fields: Fields<'_>) -> Option<(Chunk, Fields<'_>)> {
    let done = ChunkFlags(fields.u16()?).contains(ChunkFlags::DONE);
    let kind = ChunkType(fields.u16()?);
    let cookie = fields.u64()?;
    let length = fields.u32()?;
    Some((Chunk { kind, cookie, length, done }, fields))
}

/// How long the fixed part is that begins with `partial`, as far as `partial` tells: data is not
/// part of it.
pub(super) fn wanted(partial: &[u8]) -> Result<usize, ClientError> {
    let mut fields = Fields(partial);
    match fields.u32() {
        None | Some(SIMPLE_REPLY_MAGIC) => return Ok(SIMPLE_REPLY_BYTES),
        Some(STRUCTURED_REPLY_MAGIC) => {}
        Some(magic) => return Err(ClientError::BadMagic(magic)),
    }
    let Some((Chunk { kind, length, .. }, _)) = parse_chunk(fields) else {
        return Ok(CHUNK_HEADER_BYTES);
    };
    let legal = match kind {
        ChunkType::NONE => length == 0,
        ChunkType::OFFSET_DATA => {
            (DATA_PREFIX_BYTES + 1..=DATA_PREFIX_BYTES + MAX_REQUEST_BYTES).contains(&length)
        }
        ChunkType::OFFSET_HOLE => length == HOLE_BODY_BYTES,
        kind => kind.is_error() && ERROR_BODY_BYTES.contains(&length),
    };
    if !legal {
        return Err(ClientError::BadChunk(kind));
    }
    let body = if kind == ChunkType::OFFSET_DATA { DATA_PREFIX_BYTES } else { length };
    Ok(CHUNK_HEADER_BYTES + body as usize)
}

/// The body of an error chunk of any kind: errno u32, length of message u16, message, and for some
/// kinds an offset u64.
pub(super) fn parse_failure(kind: ChunkType, mut body: Fields<'_>) -> Option<Failure> {
    let errno = Errno(body.u32()?);
    let length = body.u16()?;
    let message = String::from_utf8_lossy(body.bytes(usize::from(length))?).into_owned();
    let offset = if kind == ChunkType::ERROR_OFFSET { Some(body.u64()?) } else { None };
    (errno.0 != 0).then_some(Failure { errno, offset, message })
}
