//! Owns the header of link frames, and the way from a frame to its bytes and back.
//! Must never keep state of a connection: numbers and sessions are compared by `link`.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::Frame;
use super::frame_bodies::append;
use super::frame_fields::Fields;
use super::frame_kinds::{DIGEST_BYTES, Kind, Tail, WORD_BYTES};
use super::{LINK_VERSION, LINK_VERSION_MIN, checksum};
use crate::limits::{DEVICE_BLOCKS_MAX, EPOCH_MAX};
use crate::units::{BLOCK_BYTES, Blocks, Epoch, Session};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 80;

const MAGIC: [u8; 4] = *b"TWBF";

/// What every frame carries besides its own content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The sender's adopted epoch.
    pub epoch: Epoch,
    /// The session, never zero.
    pub session: Session,
    /// Place in its channel and direction: 1, 2, 3 and so on, so that a frame cut out, repeated or
    /// moved is seen.
    pub number: u64,
}

/// The bytes of a header, as `manual::wire_format` draws them.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderRecord {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    flags: u8,
    header_sum: U32,
    tail_bytes: U32,
    tail_sum: U32,
    reserved: [u8; 4],
    epoch: U64,
    session: U64,
    number: U64,
    args: [U64; 4],
}

const _: () = assert!(size_of::<HeaderRecord>() == HEADER_BYTES);
const _: () = assert!(offset_of!(HeaderRecord, header_sum) == 8);
const _: () = assert!(offset_of!(HeaderRecord, epoch) == 24);
const _: () = assert!(offset_of!(HeaderRecord, args) == 48);

/// Why bytes are not a frame. The connection they came on is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The magic is missing: out of step, or not a link.
    #[error("a frame does not begin with its magic")]
    Magic,
    /// The checksum of the header is wrong.
    #[error("the checksum of a frame's header is wrong")]
    HeaderChecksum,
    /// A version outside of what was agreed.
    #[error("a frame has version {found}, not {LINK_VERSION_MIN} to {LINK_VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// No frame has this number.
    #[error("a frame has the unknown kind {found}")]
    Kind {
        /// Its number.
        found: u8,
    },
    /// What follows the header is longer or shorter than the kind allows.
    #[error("a {kind:?} frame is followed by {bytes} bytes, which its kind does not allow")]
    Length {
        /// The kind.
        kind: Kind,
        /// Announced.
        bytes: u32,
    },
    /// No blocks, too many, or some beyond any device.
    #[error("a {kind:?} frame names the blocks {start}+{count}, which its kind does not allow")]
    Blocks {
        /// The kind.
        kind: Kind,
        /// First block.
        start: u64,
        /// How many.
        count: u64,
    },
    /// The checksum of the body is wrong.
    #[error("the checksum of the body of a {kind:?} frame is wrong")]
    BodyChecksum {
        /// The kind.
        kind: Kind,
    },
    /// A field that is not as it must be; `reserved` if one that the kind does not use is in use.
    #[error("the field {field} of a {kind:?} frame breaks a rule")]
    Field {
        /// The kind.
        kind: Kind,
        /// Its name.
        field: &'static str,
    },
}

/// A header that obeys every rule that can be checked before what follows it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    fields: Fields,
    tail_bytes: u32,
    tail_sum: u32,
    tag: Tag,
}

/// Appends the header and the body of a frame. `payload_sum` is the checksum
/// ([`checksum::of`](super::checksum::of)) of the payload that the caller sends after it, 0 if the
/// frame has none.
pub fn encode(frame: &Frame, tag: Tag, payload_sum: u32, out: &mut Vec<u8>) {
    let fields = Fields::of(frame);
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    append(frame, out);
    let body = &out[start + HEADER_BYTES..];
    let payload_bytes = frame.payload().map_or(0, Blocks::length_bytes);
    let (length, tail_sum) = match body.len() as u64 {
        0 => (payload_bytes, payload_sum),
        length => (length, checksum::of(body)),
    };
    let mut record = HeaderRecord {
        magic: MAGIC,
        version: LINK_VERSION.into(),
        kind: fields.kind as u8,
        flags: fields.flags,
        header_sum: U32::ZERO,
        tail_bytes: u32::try_from(length).expect("bodies and payloads are bounded").into(),
        tail_sum: tail_sum.into(),
        reserved: [0; 4],
        epoch: tag.epoch.0.into(),
        session: tag.session.0.into(),
        number: tag.number.into(),
        args: fields.args.map(U64::new),
    };
    record.header_sum = record.sum().into();
    debug_assert!(reads_back(record.as_bytes(), body, frame), "a value breaks a rule: {frame:?}");
    out[start..][..HEADER_BYTES].copy_from_slice(record.as_bytes());
}

fn reads_back(header: &[u8], body: &[u8], frame: &Frame) -> bool {
    let header = header.try_into().ok().and_then(|bytes| decode_header(bytes).ok());
    header.and_then(|header| header.frame(body).ok()).is_some_and(|read| read == *frame)
}

impl HeaderRecord {
    fn sum(&self) -> u32 {
        checksum::around(self.as_bytes(), offset_of!(Self, header_sum))
    }
}

/// The header in these bytes.
///
/// # Errors
/// Which rule it breaks. Lengths are checked against kind and blocks, so that the caller may trust
/// them when it takes memory for what follows.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
    let record: &HeaderRecord = zerocopy::transmute_ref!(bytes);
    if record.magic != MAGIC {
        return Err(FrameError::Magic);
    }
    if record.header_sum.get() != record.sum() {
        return Err(FrameError::HeaderChecksum);
    }
    let found = record.version.get();
    if !(LINK_VERSION_MIN..=LINK_VERSION).contains(&found) {
        return Err(FrameError::Version { found });
    }
    let kind = Kind::from_number(record.kind).ok_or(FrameError::Kind { found: record.kind })?;
    let header = Header {
        fields: Fields { kind, flags: record.flags, args: record.args.map(U64::get) },
        tail_bytes: record.tail_bytes.get(),
        tail_sum: record.tail_sum.get(),
        tag: Tag {
            epoch: Epoch(record.epoch.get()),
            session: Session(record.session.get()),
            number: record.number.get(),
        },
    };
    header.check_blocks()?;
    header.check_length()?;
    let rules = [
        (record.reserved == [0; 4], "reserved"),
        (header.tag.epoch.0 <= EPOCH_MAX, "epoch"),
        (header.tag.session.0 != 0, "session"),
        (header.tag.number != 0, "number"),
        (header.tail_bytes != 0 || header.tail_sum == 0, "tail_sum"),
    ];
    if let Some((_, field)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(FrameError::Field { kind, field });
    }
    Ok(header)
}

impl Header {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.fields.kind
    }

    /// Epoch, session and number, to be compared with what the receiver expects.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Bytes of the body that follows; at most [`BODY_BYTES_MAX`](super::frame::BODY_BYTES_MAX).
    #[must_use]
    pub const fn body_bytes(&self) -> u32 {
        match self.fields.kind.tail() {
            Tail::Body { .. } => self.tail_bytes,
            _ => 0,
        }
    }

    /// Bytes of the payload that follows: the blocks of the frame, at most
    /// [`PAYLOAD_BYTES_MAX`](super::frame::PAYLOAD_BYTES_MAX).
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        self.tail_bytes - self.body_bytes()
    }

    /// What [`checksum::of`](super::checksum::of) the payload must give; 0 if there is none.
    #[must_use]
    pub const fn payload_sum(&self) -> u32 {
        if self.payload_bytes() == 0 { 0 } else { self.tail_sum }
    }

    /// The frame, from its header and the [`body_bytes`](Self::body_bytes) bytes after it. The
    /// payload is the caller's to check.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn frame(&self, body: &[u8]) -> Result<Frame, FrameError> {
        let kind = self.fields.kind;
        if body.len() as u64 != u64::from(self.body_bytes()) {
            let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
            return Err(FrameError::Length { kind, bytes });
        }
        if self.payload_bytes() == 0 && checksum::of(body) != self.tail_sum {
            return Err(FrameError::BodyChecksum { kind });
        }
        let broken = |field| FrameError::Field { kind, field };
        let frame = self.fields.frame(body).map_err(broken)?;
        // No frame has two spellings: what the kind does not use must be zero.
        let same = Fields::of(&frame) == self.fields;
        if same { Ok(frame) } else { Err(broken("reserved")) }
    }

    fn check_blocks(&self) -> Result<(), FrameError> {
        let Blocks { start, count } = self.fields.blocks();
        let most = self.fields.kind.blocks_max();
        let within = start.checked_add(count).is_some_and(|end| end <= DEVICE_BLOCKS_MAX);
        if most == 0 || (count >= 1 && count <= most && within) {
            Ok(())
        } else {
            Err(FrameError::Blocks { kind: self.fields.kind, start, count })
        }
    }

    /// Needs blocks that were checked.
    fn check_length(&self) -> Result<(), FrameError> {
        let bytes = self.tail_bytes;
        let count = self.fields.blocks().count;
        let fits = match self.fields.kind.tail() {
            Tail::Nothing => bytes == 0,
            Tail::Payload => u64::from(bytes) == count * BLOCK_BYTES,
            Tail::PayloadIfYes if self.fields.yes() => u64::from(bytes) == count * BLOCK_BYTES,
            Tail::PayloadIfYes => bytes == 0,
            Tail::Body { item, min, max } => {
                bytes.is_multiple_of(item) && (min..=max).contains(&(bytes / item))
            }
        };
        // Two bodies have an item for each block, or a bit.
        let fits = fits
            && match self.fields.kind {
                Kind::VerifyAsk => u64::from(bytes) == count * u64::from(DIGEST_BYTES),
                Kind::VerifyAnswer if self.fields.yes() => {
                    u64::from(bytes) == count.div_ceil(64) * u64::from(WORD_BYTES)
                }
                Kind::VerifyAnswer => bytes == 0,
                _ => true,
            };
        if fits { Ok(()) } else { Err(FrameError::Length { kind: self.fields.kind, bytes }) }
    }
}

#[cfg(test)]
mod tests;
