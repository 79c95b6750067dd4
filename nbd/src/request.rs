//! Owns requests: the 28 bytes of section "Request message", and the rules a request must keep.
//! It must never look at more than one request at a time, nor at a payload.

use crate::constants::{
    Command, CommandFlags, Errno, MAX_DRAIN_BYTES, REQUEST_MAGIC, TransmissionFlags,
};
use crate::error::TransmissionError;
use crate::export::Terms;
use crate::field::{get, put};

/// magic u32, flags u16, command u16, cookie u64, offset u64, length u32; a WRITE's `length` bytes
/// follow.
pub const REQUEST_BYTES: usize = 28;
const MAGIC_AT: usize = 0;
const FLAGS_AT: usize = 4;
const COMMAND_AT: usize = 6;
const COOKIE_AT: usize = 8;
const OFFSET_AT: usize = 16;
const LENGTH_AT: usize = 24;

/// A request as it was sent, nothing of it judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for, known or not.
    pub command: Command,
    /// How, with all bits as sent.
    pub flags: CommandFlags,
    /// The client's mark, returned in the reply and of no meaning here; two requests in flight may
    /// carry the same.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes in the range.
    pub length: u32,
}

impl Request {
    /// A request without flags.
    #[must_use]
    pub const fn new(command: Command, cookie: u64, offset: u64, length: u32) -> Self {
        Self { command, flags: CommandFlags::NONE, cookie, offset, length }
    }

    /// The same request with these flags and no others.
    #[must_use]
    pub const fn flags(self, flags: CommandFlags) -> Self {
        Self { flags, ..self }
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`TransmissionError::BadMagic`]: the stream is out of step and cannot be followed.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, TransmissionError> {
        let magic = u32::from_be_bytes(get::<MAGIC_AT, 4, _>(bytes));
        if magic != REQUEST_MAGIC {
            return Err(TransmissionError::BadMagic(magic));
        }
        Ok(Self {
            command: Command(u16::from_be_bytes(get::<COMMAND_AT, 2, _>(bytes))),
            flags: CommandFlags(u16::from_be_bytes(get::<FLAGS_AT, 2, _>(bytes))),
            cookie: u64::from_be_bytes(get::<COOKIE_AT, 8, _>(bytes)),
            offset: u64::from_be_bytes(get::<OFFSET_AT, 8, _>(bytes)),
            length: u32::from_be_bytes(get::<LENGTH_AT, 4, _>(bytes)),
        })
    }

    /// The header as a client sends it.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        put::<MAGIC_AT, 4, _>(&mut bytes, REQUEST_MAGIC.to_be_bytes());
        put::<FLAGS_AT, 2, _>(&mut bytes, self.flags.0.to_be_bytes());
        put::<COMMAND_AT, 2, _>(&mut bytes, self.command.0.to_be_bytes());
        put::<COOKIE_AT, 8, _>(&mut bytes, self.cookie.to_be_bytes());
        put::<OFFSET_AT, 8, _>(&mut bytes, self.offset.to_be_bytes());
        put::<LENGTH_AT, 4, _>(&mut bytes, self.length.to_be_bytes());
        bytes
    }

    /// Bytes that follow the header: the length of a WRITE, nothing for any other command.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        if self.command.0 == Command::WRITE.0 { self.length } else { 0 }
    }
}

/// What a request that kept every rule asks for.
///
/// FUA is accepted on every command, as the specification demands, and kept only where there is
/// something to persist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Send the range.
    Read {
        /// In one content chunk, as this crate's replies always are.
        unfragmented: bool,
    },
    /// Store the payload.
    Write {
        /// Reply once it is stable.
        fua: bool,
    },
    /// Make every write replied to so far stable.
    Flush,
    /// Forget the range.
    Trim {
        /// Reply once it is stable.
        fua: bool,
    },
    /// Fetch the range into a cache.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Reply once it is stable.
        fua: bool,
        /// Do not deallocate.
        no_hole: bool,
        /// Answer [`Errno::NOTSUP`] unless it is faster than writing.
        fast: bool,
    },
}

impl Operation {
    /// The number this was sent as.
    #[must_use]
    pub const fn command(self) -> Command {
        match self {
            Self::Read { .. } => Command::READ,
            Self::Write { .. } => Command::WRITE,
            Self::Flush => Command::FLUSH,
            Self::Trim { .. } => Command::TRIM,
            Self::Cache => Command::CACHE,
            Self::WriteZeroes { .. } => Command::WRITE_ZEROES,
        }
    }
}

/// A request that kept every rule. `offset + length` does not overflow and is within the export.
///
/// A `length` of 0 is legal for all commands and must change nothing: reply success, to a READ
/// without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Goes back in the reply.
    pub cookie: u64,
    /// What to do with the range.
    pub operation: Operation,
    /// First byte of the range; 0 for a flush.
    pub offset: u64,
    /// Bytes in the range; 0 for a flush.
    pub length: u32,
}

impl Checked {
    /// Bytes of payload that follow in the stream, for the caller to take.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        if matches!(self.operation, Operation::Write { .. }) { self.length } else { 0 }
    }
}

/// A request that broke a rule and is answered with an error; the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Goes back in the reply.
    pub cookie: u64,
    /// What was asked for; a refused READ may need a structured reply.
    pub command: Command,
    /// Which rule was broken, as far as the protocol can say.
    pub errno: Errno,
    /// Bytes of payload that belong to it and mean nothing. They follow what [`check`] was given;
    /// [`Transmission`](crate::Transmission) has read past them by the time it reports the refusal.
    pub drain: u32,
}

/// What becomes of a request that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Answer with an error and go on.
    Refuse(Refusal),
    /// The client is leaving: finish what is in flight, then close. Not answered.
    Disconnect,
    /// Close at once.
    Close(TransmissionError),
}

/// Judges a request by every rule of the transmission phase, first rule first:
///
/// | broken rule | answer |
/// |---|---|
/// | `DISC`, whatever else it says | disconnect |
/// | WRITE longer than [`MAX_DRAIN_BYTES`] | close |
/// | unknown command; a flag that is unknown or does not go with the command | `NBD_EINVAL` |
/// | WRITE, TRIM, WRITE_ZEROES on a read-only export | `NBD_EPERM` |
/// | a command or a flag that was not offered | `NBD_EINVAL` |
/// | FLUSH with an offset or a length | `NBD_EINVAL` |
/// | `offset + length` beyond 2^64 | `NBD_EINVAL` |
/// | past the end | WRITE and WRITE_ZEROES `NBD_ENOSPC`, else `NBD_EINVAL` |
/// | READ longer than the longest payload | `NBD_EOVERFLOW` if DF was offered, else `NBD_EINVAL` |
/// | WRITE longer than the longest payload | `NBD_EINVAL` |
/// | offset or length no multiple of the smallest block | `NBD_EINVAL` |
///
/// TRIM, WRITE_ZEROES and CACHE may have any length within the export.
///
/// # Errors
/// [`Rejection`] says what to do instead of serving the request.
pub fn check(request: &Request, terms: &Terms) -> Result<Checked, Rejection> {
    if request.command == Command::DISC {
        return Err(Rejection::Disconnect);
    }
    let drain = request.payload_bytes();
    if drain > MAX_DRAIN_BYTES {
        return Err(Rejection::Close(TransmissionError::PayloadTooLong(drain)));
    }
    let Request { command, cookie, offset, length, .. } = *request;
    let judged = operation(request, terms).and_then(|operation| {
        in_range(request, terms)?;
        Ok(operation)
    });
    match judged {
        Ok(operation) => Ok(Checked { cookie, operation, offset, length }),
        Err(errno) => Err(Rejection::Refuse(Refusal { cookie, command, errno, drain })),
    }
}

/// What is asked for, if it is known and permitted.
fn operation(request: &Request, terms: &Terms) -> Result<Operation, Errno> {
    use TransmissionFlags as Offered;
    let has = |flag| request.flags.contains(flag);
    let fua = has(CommandFlags::FUA);
    let (operation, needs) = match request.command {
        Command::READ => (Operation::Read { unfragmented: has(CommandFlags::DF) }, Offered::NONE),
        Command::WRITE => (Operation::Write { fua }, Offered::NONE),
        Command::FLUSH => (Operation::Flush, Offered::SEND_FLUSH),
        Command::TRIM => (Operation::Trim { fua }, Offered::SEND_TRIM),
        Command::CACHE => (Operation::Cache, Offered::SEND_CACHE),
        Command::WRITE_ZEROES => {
            let (no_hole, fast) = (has(CommandFlags::NO_HOLE), has(CommandFlags::FAST_ZERO));
            (Operation::WriteZeroes { fua, no_hole, fast }, Offered::SEND_WRITE_ZEROES)
        }
        _ => return Err(Errno::INVAL),
    };
    permitted(request, terms, needs).map(|()| operation)
}

/// The rules about commands and flags, for a known command that `needs` an offer.
fn permitted(request: &Request, terms: &Terms, needs: TransmissionFlags) -> Result<(), Errno> {
    let Request { command, flags, .. } = *request;
    if !flags.without(known_flags(command)).is_empty() {
        return Err(Errno::INVAL);
    }
    let writes = matches!(command, Command::WRITE | Command::TRIM | Command::WRITE_ZEROES);
    if writes && terms.flags.contains(TransmissionFlags::READ_ONLY) {
        return Err(Errno::PERM);
    }
    if !terms.flags.contains(needs) || !flags.without(offered_flags(terms)).is_empty() {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// Flags that go with a command, offered or not. Section "Command flags".
const fn known_flags(command: Command) -> CommandFlags {
    match command {
        Command::READ => CommandFlags::FUA.with(CommandFlags::DF),
        Command::WRITE_ZEROES => {
            CommandFlags::FUA.with(CommandFlags::NO_HOLE).with(CommandFlags::FAST_ZERO)
        }
        _ => CommandFlags::FUA,
    }
}

/// Flags that the terms allow on whatever command they go with.
fn offered_flags(terms: &Terms) -> CommandFlags {
    let pairs = [
        (TransmissionFlags::SEND_FUA, CommandFlags::FUA),
        (TransmissionFlags::SEND_DF, CommandFlags::DF),
        (TransmissionFlags::SEND_WRITE_ZEROES, CommandFlags::NO_HOLE),
        (TransmissionFlags::SEND_FAST_ZERO, CommandFlags::FAST_ZERO),
    ];
    let offered = pairs.iter().filter(|(offer, _)| terms.flags.contains(*offer));
    offered.fold(CommandFlags::NONE, |flags, (_, flag)| flags | *flag)
}

/// The rules about offset and length. Section "Size constraints" and section "Error values".
fn in_range(request: &Request, terms: &Terms) -> Result<(), Errno> {
    let Request { command, offset, length, .. } = *request;
    if command == Command::FLUSH {
        return if offset == 0 && length == 0 { Ok(()) } else { Err(Errno::INVAL) };
    }
    let end = offset.checked_add(u64::from(length)).ok_or(Errno::INVAL)?;
    if end > terms.size_bytes {
        let grows = matches!(command, Command::WRITE | Command::WRITE_ZEROES);
        return Err(if grows { Errno::NOSPC } else { Errno::INVAL });
    }
    if length > terms.max_payload_bytes {
        match command {
            Command::READ if terms.flags.contains(TransmissionFlags::SEND_DF) => {
                return Err(Errno::OVERFLOW);
            }
            Command::READ | Command::WRITE => return Err(Errno::INVAL),
            _ => {}
        }
    }
    // The smallest block is a power of two, so a multiple of it has no bit below it.
    let below_block = terms.min_block_bytes.wrapping_sub(1);
    if (offset | u64::from(length)) & u64::from(below_block) != 0 {
        return Err(Errno::INVAL);
    }
    Ok(())
}
