//! Owns the smallest client: one that opens an export with `GO` and reads, writes, flushes, trims
//! and zeroes. It must never trust a server: every length is bounded before it is used, every range
//! is checked against the request it claims to answer, and a READ that was not answered in full is
//! never a success.
//!
//! [`ClientHandshake`] opens the export, [`Client`] follows the requests in flight. Neither owns
//! data: where data follows in the stream, the caller takes it into its own buffer.

mod coverage;
mod layout;
mod session;

use thiserror::Error;

pub use session::{Client, ClientError, ClientEvent, Failure, MAX_IN_FLIGHT, SubmitError};

use crate::constants::{
    ClientFlags, HandshakeFlags, InfoType, MAX_EXPORT_BYTES, MAX_REQUEST_BYTES, MAX_STRING_BYTES,
    NBD_MAGIC, OPTION_MAGIC, OptionCode, OptionReply, TransmissionFlags,
};
use crate::error::NameError;
use crate::export::Terms;
use crate::field::{Fields, get};
use crate::option::{REPLY_HEADER_BYTES, ReplyHeader, parse_name, push_go, push_option};

/// `NBDMAGIC`, `IHAVEOPT`, handshake flags u16.
const GREETING_BYTES: usize = 18;
/// Longest reply to an option that is read: a type or a length, and a string.
const MAX_REPLY_BYTES: u32 = 8 + MAX_STRING_BYTES;
/// Most replies to one option; a `GO` has four kinds of information.
const MAX_REPLIES: u32 = 64;
/// The longest payload of a server that names none. Section "Size constraints".
const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 32 << 20;

/// Why an export could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server said no; the connection could still be used for another option.
    #[error("the server refuses: {reply}: {message}")]
    Refused {
        /// Which kind of no.
        reply: OptionReply,
        /// The server's text, with what is not UTF-8 replaced; may be empty.
        message: String,
    },
    /// 16 bytes that are not a server's greeting.
    #[error("{0:#018x} is not the greeting of an NBD server that negotiates")]
    NotNbd(u64),
    /// Handshake flags without fixed newstyle; all 16 bits.
    #[error("handshake flags {0}: the server is too old to have NBD_OPT_GO")]
    TooOld(HandshakeFlags),
    /// What was found where a reply should begin.
    #[error("{0:#018x} where a reply should begin")]
    BadReplyMagic(u64),
    /// A reply to another option than the one that was sent.
    #[error("a reply to {0}, which was not asked")]
    WrongOption(OptionCode),
    /// A reply that is not one to expect here.
    #[error("{0} is out of place")]
    UnexpectedReply(OptionReply),
    /// The announced length in bytes.
    #[error("a reply of {0} bytes is longer than any that makes sense")]
    ReplyTooLong(u32),
    /// A server that talks on and on.
    #[error("more than {MAX_REPLIES} replies to one option")]
    TooManyReplies,
    /// Information of a length it does not have, or an export beyond 2^63 - 1 bytes.
    #[error("malformed {0}")]
    BadInfo(InfoType),
    /// `NBD_REP_ACK` to `GO` without a word about the size.
    #[error("the export was opened without NBD_INFO_EXPORT")]
    NoExportInfo,
    /// Bytes were fed after the end.
    #[error("the negotiation is over")]
    Finished,
}

/// What the caller does next. Whatever it is, it first sends what [`ClientHandshake::take_output`]
/// gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenStep {
    /// All input was taken; read more.
    NeedMore,
    /// Send the output, then feed the input that was not taken.
    Send,
    /// The export is open, by these terms; go on with [`Client::new`] and the input that was not
    /// taken.
    Open(Terms),
    /// Close.
    Failed(OpenError),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Greeting,
    ReplyHeader,
    ReplyPayload(ReplyHeader),
    Finished,
}

/// The client's side of one negotiation: structured replies if wanted and granted, then `GO`.
#[derive(Debug)]
pub struct ClientHandshake {
    state: State,
    name: String,
    /// The option whose replies are awaited.
    asked: OptionCode,
    replies: u32,
    partial: Vec<u8>,
    output: Vec<u8>,
    /// Size and flags, once told.
    export: Option<(u64, TransmissionFlags)>,
    min_block_bytes: u32,
    max_payload_bytes: u32,
    structured_replies: bool,
}

impl ClientHandshake {
    /// Will open the export `name`. With `structured_replies` they are asked for; a server that has
    /// none is no failure.
    ///
    /// # Errors
    /// A name that no export can have.
    pub fn new(name: &str, structured_replies: bool) -> Result<Self, NameError> {
        let name = parse_name(name.as_bytes())?.to_owned();
        Ok(Self {
            state: State::Greeting,
            name,
            asked: if structured_replies { OptionCode::STRUCTURED_REPLY } else { OptionCode::GO },
            replies: 0,
            partial: Vec::new(),
            output: Vec::new(),
            export: None,
            min_block_bytes: 1,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            structured_replies: false,
        })
    }

    /// The bytes to send now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes the server's bytes in any fragmentation; how many were taken, and what to do next.
    pub fn feed(&mut self, input: &[u8]) -> (usize, OpenStep) {
        let mut taken = 0;
        while self.output.is_empty() {
            let missing = self.wanted() - self.partial.len();
            let used = missing.min(input.len() - taken);
            self.partial.extend_from_slice(&input[taken..taken + used]);
            taken += used;
            if used < missing {
                return (taken, OpenStep::NeedMore);
            }
            let piece = std::mem::take(&mut self.partial);
            let step = match self.on_piece(&piece) {
                Ok(None) => continue,
                Ok(Some(terms)) => OpenStep::Open(terms),
                Err(error) => OpenStep::Failed(error),
            };
            self.state = State::Finished;
            return (taken, step);
        }
        (taken, OpenStep::Send)
    }

    const fn wanted(&self) -> usize {
        match self.state {
            State::Greeting => GREETING_BYTES,
            State::ReplyHeader => REPLY_HEADER_BYTES,
            State::ReplyPayload(header) => header.length as usize,
            State::Finished => 0,
        }
    }

    fn on_piece(&mut self, piece: &[u8]) -> Result<Option<Terms>, OpenError> {
        match self.state {
            State::Greeting => self.on_greeting(piece)?,
            State::ReplyHeader => self.on_reply_header(piece)?,
            State::ReplyPayload(header) => {
                self.state = State::ReplyHeader;
                return self.on_reply(header.reply, piece);
            }
            State::Finished => return Err(OpenError::Finished),
        }
        Ok(None)
    }

    fn on_greeting(&mut self, piece: &[u8]) -> Result<(), OpenError> {
        let greeting: &[u8; GREETING_BYTES] = piece.first_chunk().ok_or(OpenError::Finished)?;
        let magics = [get::<0, 8, _>(greeting), get::<8, 8, _>(greeting)].map(u64::from_be_bytes);
        for (found, expected) in magics.into_iter().zip([NBD_MAGIC, OPTION_MAGIC]) {
            if found != expected {
                return Err(OpenError::NotNbd(found));
            }
        }
        let offered = HandshakeFlags(u16::from_be_bytes(get::<16, 2, _>(greeting)));
        if !offered.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(OpenError::TooOld(offered));
        }
        // Without NO_ZEROES: the zeroes only ever follow EXPORT_NAME, which is never sent.
        self.output.extend_from_slice(&ClientFlags::FIXED_NEWSTYLE.0.to_be_bytes());
        self.ask();
        Ok(())
    }

    fn ask(&mut self) {
        self.state = State::ReplyHeader;
        self.replies = 0;
        if self.asked == OptionCode::GO {
            push_go(&mut self.output, &self.name);
        } else {
            push_option(&mut self.output, self.asked, &[]);
        }
    }

    fn on_reply_header(&mut self, piece: &[u8]) -> Result<(), OpenError> {
        let bytes = piece.first_chunk().ok_or(OpenError::Finished)?;
        let header = ReplyHeader::parse(bytes).map_err(OpenError::BadReplyMagic)?;
        if header.option != self.asked {
            return Err(OpenError::WrongOption(header.option));
        }
        if header.length > MAX_REPLY_BYTES {
            return Err(OpenError::ReplyTooLong(header.length));
        }
        self.replies += 1;
        if self.replies > MAX_REPLIES {
            return Err(OpenError::TooManyReplies);
        }
        self.state = State::ReplyPayload(header);
        Ok(())
    }

    fn on_reply(&mut self, reply: OptionReply, payload: &[u8]) -> Result<Option<Terms>, OpenError> {
        let structured_asked = self.asked == OptionCode::STRUCTURED_REPLY;
        match reply {
            OptionReply::INFO if !structured_asked => self.on_info(payload).map(|()| None),
            OptionReply::ACK if !structured_asked => self.opened().map(Some),
            reply if structured_asked && (reply == OptionReply::ACK || reply.is_error()) => {
                self.structured_replies = reply == OptionReply::ACK;
                self.asked = OptionCode::GO;
                self.ask();
                Ok(None)
            }
            reply if reply.is_error() => Err(OpenError::Refused {
                reply,
                message: String::from_utf8_lossy(payload).into_owned(),
            }),
            reply => Err(OpenError::UnexpectedReply(reply)),
        }
    }

    /// Information that is not known is skipped, as the specification demands.
    fn on_info(&mut self, payload: &[u8]) -> Result<(), OpenError> {
        let mut fields = Fields(payload);
        let info = InfoType(fields.u16().ok_or(OpenError::BadInfo(InfoType::EXPORT))?);
        match info {
            InfoType::EXPORT => self.on_export(fields),
            InfoType::BLOCK_SIZE => self.on_block_size(fields),
            _ => Some(()),
        }
        .ok_or(OpenError::BadInfo(info))
    }

    fn on_export(&mut self, mut fields: Fields<'_>) -> Option<()> {
        let (size, flags) = (fields.u64()?, fields.u16()?);
        self.export = Some((size, TransmissionFlags(flags)));
        (fields.0.is_empty() && size <= MAX_EXPORT_BYTES).then_some(())
    }

    fn on_block_size(&mut self, mut fields: Fields<'_>) -> Option<()> {
        let (min, preferred, max) = (fields.u32()?, fields.u32()?, fields.u32()?);
        self.min_block_bytes = min;
        self.max_payload_bytes = max.min(MAX_REQUEST_BYTES);
        (fields.0.is_empty() && min.is_power_of_two() && preferred >= min && max >= preferred)
            .then_some(())
    }

    fn opened(&self) -> Result<Terms, OpenError> {
        let (size_bytes, flags) = self.export.ok_or(OpenError::NoExportInfo)?;
        Ok(Terms {
            size_bytes,
            flags,
            min_block_bytes: self.min_block_bytes,
            max_payload_bytes: self.max_payload_bytes,
            structured_replies: self.structured_replies,
        })
    }
}
