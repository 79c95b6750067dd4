//! Owns the server's side of the negotiation as a machine: bytes in, bytes out, and in the end an
//! export or a reason. It must never wait, read a clock, or reserve memory by a number the client
//! sent. A caller gives it a time limit by dropping it.
//!
//! ```text
//!                    flags                header              payload
//! (greeting out) ─► ClientFlags ───────► OptionHeader ─────► Payload ──┬─► Finished: Negotiated
//!                    │                    │  ▲  │ too long    │  ▲     └─► Finished: Closed
//!                    └─► Finished         │  │  └─► Drain ────┘  │
//!                                         │  └───── answered ────┘
//!                                         └─► Finished: Closed
//! ```

use crate::constants::{
    ClientFlags, HandshakeFlags, MAX_OPTION_BYTES, MAX_OPTION_DRAIN_BYTES, MAX_OPTIONS,
    MAX_STRING_BYTES, NBD_MAGIC, OPTION_MAGIC, OptionCode, OptionReply,
};
use crate::error::CloseReason;
use crate::export::{ExportInfo, Exports, Negotiated};
use crate::field::Fields;
use crate::option::{
    InfoRequest, OPTION_HEADER_BYTES, OptionHeader, message, parse_name, push_infos, push_reply,
    push_server,
};

/// Zero bytes after the answer to `NBD_OPT_EXPORT_NAME`, unless the client declined them. Section
/// "Newstyle negotiation".
const EXPORT_NAME_ZEROES: usize = 124;
/// What a client of a fixed newstyle server may set.
const KNOWN_CLIENT_FLAGS: ClientFlags = ClientFlags::FIXED_NEWSTYLE.with(ClientFlags::NO_ZEROES);

/// What the caller does next. Whatever it is, it first sends what [`Handshake::take_output`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All input was taken; read more.
    NeedMore,
    /// Send the output, then feed the input that was not taken.
    Send,
    /// Send the output; input that was not taken belongs to the transmission.
    Negotiated(Negotiated),
    /// Send the output, if there is any, then close.
    Closed(CloseReason),
}

#[derive(Clone, Copy, Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    Payload(OptionHeader),
    Drain(OptionHeader, u32),
    Finished,
}

/// `Ok(None)`: the option was answered and the next may come.
type Outcome = Result<Option<Negotiated>, CloseReason>;

/// The server's side of one negotiation, from the greeting to the first request.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    /// What has come of the piece that `state` waits for; at most [`MAX_OPTION_BYTES`].
    partial: Vec<u8>,
    output: Vec<u8>,
    client_flags: ClientFlags,
    structured_replies: bool,
    options: u32,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// A negotiation whose greeting waits in the output.
    #[must_use]
    pub fn new() -> Self {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        let mut output = Vec::with_capacity(64);
        output.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        output.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        output.extend_from_slice(&flags.0.to_be_bytes());
        Self {
            state: State::ClientFlags,
            partial: Vec::new(),
            output,
            client_flags: ClientFlags::NONE,
            structured_replies: false,
            options: 0,
        }
    }

    /// The bytes to send now. Until they are taken no more input is: a client that does not read
    /// its answers cannot make them pile up.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes in any fragmentation and answers at most one option. Returns how many bytes were
    /// taken; the others must be fed again, or belong to the transmission after
    /// [`Step::Negotiated`].
    pub fn feed(&mut self, input: &[u8], exports: &dyn Exports) -> (usize, Step) {
        let mut taken = 0;
        while self.output.is_empty() {
            let (used, complete) = self.collect(&input[taken..]);
            taken += used;
            if !complete {
                return (taken, Step::NeedMore);
            }
            let piece = std::mem::take(&mut self.partial);
            match self.on_piece(&piece, exports) {
                Ok(None) => {}
                Ok(Some(negotiated)) => {
                    self.state = State::Finished;
                    return (taken, Step::Negotiated(negotiated));
                }
                Err(reason) => {
                    self.state = State::Finished;
                    return (taken, Step::Closed(reason));
                }
            }
        }
        (taken, Step::Send)
    }

    /// Whether the connection may end here without the client having broken off in the middle of
    /// something.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.partial.is_empty() && !matches!(self.state, State::Payload(_) | State::Drain(..))
    }

    /// Keeps or throws away bytes of the current piece; how many it used, and whether the piece is
    /// complete.
    fn collect(&mut self, input: &[u8]) -> (usize, bool) {
        let missing = match &mut self.state {
            State::ClientFlags => 4 - self.partial.len(),
            State::OptionHeader => OPTION_HEADER_BYTES - self.partial.len(),
            State::Payload(header) => header.length as usize - self.partial.len(),
            State::Drain(_, left) => {
                let used = u32::try_from(input.len()).unwrap_or(u32::MAX).min(*left);
                *left -= used;
                return (used as usize, *left == 0);
            }
            State::Finished => 0,
        };
        let used = input.len().min(missing);
        self.partial.extend_from_slice(&input[..used]);
        (used, used == missing)
    }

    fn on_piece(&mut self, piece: &[u8], exports: &dyn Exports) -> Outcome {
        match self.state {
            State::ClientFlags => self.on_client_flags(piece),
            State::OptionHeader => self.on_option_header(piece),
            State::Payload(header) => {
                self.state = State::OptionHeader;
                self.on_option(header.code, piece, exports)
            }
            State::Drain(header, _) => {
                self.state = State::OptionHeader;
                self.on_drained(header)
            }
            State::Finished => Err(CloseReason::Finished),
        }
    }

    fn on_client_flags(&mut self, piece: &[u8]) -> Outcome {
        let flags = ClientFlags(Fields(piece).u32().unwrap_or(u32::MAX));
        if !flags.without(KNOWN_CLIENT_FLAGS).is_empty() {
            return Err(CloseReason::UnknownClientFlags(flags.0));
        }
        self.client_flags = flags;
        self.state = State::OptionHeader;
        Ok(None)
    }

    fn on_option_header(&mut self, piece: &[u8]) -> Outcome {
        let bytes = piece.first_chunk().ok_or(CloseReason::Finished)?;
        let header = OptionHeader::parse(bytes).map_err(CloseReason::BadOptionMagic)?;
        let OptionHeader { code, length } = header;
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(CloseReason::TooManyOptions);
        }
        if code != OptionCode::EXPORT_NAME
            && !self.client_flags.contains(ClientFlags::FIXED_NEWSTYLE)
        {
            return Err(CloseReason::NotFixedNewstyle(code));
        }
        let no_answer = code == OptionCode::EXPORT_NAME && length > MAX_STRING_BYTES;
        if no_answer || length > MAX_OPTION_DRAIN_BYTES {
            return Err(CloseReason::OptionTooLong { option: code, length });
        }
        self.state = if length > MAX_OPTION_BYTES {
            State::Drain(header, length)
        } else {
            State::Payload(header)
        };
        Ok(None)
    }

    /// One line per option; each has its own function.
    fn on_option(&mut self, code: OptionCode, payload: &[u8], exports: &dyn Exports) -> Outcome {
        match code {
            OptionCode::EXPORT_NAME => self.on_export_name(payload, exports),
            OptionCode::ABORT => self.on_abort(),
            OptionCode::LIST => self.on_list(payload, exports),
            OptionCode::INFO => self.on_info(payload, exports),
            OptionCode::GO => self.on_go(payload, exports),
            OptionCode::STRUCTURED_REPLY => self.on_structured_reply(payload),
            other => self.on_unsupported(other),
        }
    }

    /// `NBD_OPT_EXPORT_NAME`: size u64, flags u16, and 124 zero bytes for a client that did not
    /// decline them. There is no way to report an error but to close.
    fn on_export_name(&mut self, payload: &[u8], exports: &dyn Exports) -> Outcome {
        let name = parse_name(payload)?;
        let export =
            exports.find(name).ok_or_else(|| CloseReason::UnknownExport(name.to_owned()))?;
        if let Some(message) = refusal(&export) {
            return Err(CloseReason::Refused { name: export.name, message });
        }
        self.output.extend_from_slice(&export.size_bytes.to_be_bytes());
        self.output.extend_from_slice(&export.offered(self.structured_replies).0.to_be_bytes());
        if !self.client_flags.contains(ClientFlags::NO_ZEROES) {
            self.output.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Ok(Some(self.negotiated(export)))
    }

    /// `NBD_OPT_ABORT`: data is ignored, as the specification asks.
    fn on_abort(&mut self) -> Outcome {
        push_reply(&mut self.output, OptionCode::ABORT, OptionReply::ACK, &[]);
        Err(CloseReason::Aborted)
    }

    /// `NBD_OPT_LIST`: also shows exports that are refused now, so that a client finds them on any
    /// node.
    fn on_list(&mut self, payload: &[u8], exports: &dyn Exports) -> Outcome {
        if !payload.is_empty() {
            return self.error(
                OptionCode::LIST,
                OptionReply::ERR_INVALID,
                "NBD_OPT_LIST takes no data",
            );
        }
        for export in exports.list().iter().filter(|export| export.validate().is_ok()) {
            push_server(&mut self.output, export);
        }
        push_reply(&mut self.output, OptionCode::LIST, OptionReply::ACK, &[]);
        Ok(None)
    }

    fn on_info(&mut self, payload: &[u8], exports: &dyn Exports) -> Outcome {
        self.describe(OptionCode::INFO, payload, exports)?;
        Ok(None)
    }

    fn on_go(&mut self, payload: &[u8], exports: &dyn Exports) -> Outcome {
        self.describe(OptionCode::GO, payload, exports)
    }

    /// `NBD_OPT_STRUCTURED_REPLY`: once only; the specification allows to fail a second one.
    fn on_structured_reply(&mut self, payload: &[u8]) -> Outcome {
        const OPTION: OptionCode = OptionCode::STRUCTURED_REPLY;
        if !payload.is_empty() {
            return self.error(
                OPTION,
                OptionReply::ERR_INVALID,
                "NBD_OPT_STRUCTURED_REPLY takes no data",
            );
        }
        if self.structured_replies {
            return self.error(
                OPTION,
                OptionReply::ERR_INVALID,
                "structured replies are agreed already",
            );
        }
        self.structured_replies = true;
        push_reply(&mut self.output, OPTION, OptionReply::ACK, &[]);
        Ok(None)
    }

    fn on_unsupported(&mut self, code: OptionCode) -> Outcome {
        self.error(code, OptionReply::ERR_UNSUP, &format!("{code} is not supported"))
    }

    /// An option longer than is kept, now read past.
    fn on_drained(&mut self, header: OptionHeader) -> Outcome {
        let OptionHeader { code, length } = header;
        match code {
            OptionCode::ABORT => self.on_abort(),
            OptionCode::LIST | OptionCode::INFO | OptionCode::GO | OptionCode::STRUCTURED_REPLY => {
                let text = format!("{length} bytes of data are more than {MAX_OPTION_BYTES}");
                self.error(code, OptionReply::ERR_TOO_BIG, &text)
            }
            other => self.on_unsupported(other),
        }
    }

    /// What `INFO` and `GO` have in common: all of the answer. The export, if it was described.
    fn describe(&mut self, code: OptionCode, payload: &[u8], exports: &dyn Exports) -> Outcome {
        let Some(request) = InfoRequest::parse(payload) else {
            return self.error(
                code,
                OptionReply::ERR_INVALID,
                "the lengths inside the option do not add up",
            );
        };
        let name = match parse_name(request.name) {
            Ok(name) => name,
            Err(error) => return self.error(code, OptionReply::ERR_UNKNOWN, &error.to_string()),
        };
        let Some(export) = exports.find(name) else {
            return self.error(code, OptionReply::ERR_UNKNOWN, &format!("no export \"{name}\""));
        };
        if let Some(text) = refusal(&export) {
            return self.error(code, OptionReply::ERR_POLICY, &text);
        }
        push_infos(&mut self.output, code, &export, (&request, self.structured_replies));
        push_reply(&mut self.output, code, OptionReply::ACK, &[]);
        Ok(Some(self.negotiated(export)))
    }

    fn error(&mut self, code: OptionCode, reply: OptionReply, text: &str) -> Outcome {
        push_reply(&mut self.output, code, reply, &[message(text).as_bytes()]);
        Ok(None)
    }

    fn negotiated(&self, export: ExportInfo) -> Negotiated {
        let no_zeroes = self.client_flags.contains(ClientFlags::NO_ZEROES);
        Negotiated { export, structured_replies: self.structured_replies, no_zeroes }
    }
}

/// Why the export is not served, if it is not: its own refusal, or a description the server may not
/// send.
fn refusal(export: &ExportInfo) -> Option<String> {
    let invalid = || {
        export.validate().err().map(|error| format!("the server's own settings are wrong: {error}"))
    };
    export.refusal.clone().or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::push_option;

    #[test]
    fn memory_grows_with_what_was_sent_and_not_with_what_was_announced() {
        let mut handshake = Handshake::new();
        handshake.take_output();
        let exports = [ExportInfo::new("disk", 1)];
        let mut stream = ClientFlags::FIXED_NEWSTYLE.0.to_be_bytes().to_vec();
        push_option(&mut stream, OptionCode::GO, &[&[0; MAX_OPTION_BYTES as usize]]);
        handshake.feed(&stream[..40], &exports);
        assert!(handshake.partial.capacity() <= 64, "{}", handshake.partial.capacity());
        handshake.feed(&stream[40..stream.len() - 1], &exports);
        assert!(handshake.partial.capacity() <= 2 * MAX_OPTION_BYTES as usize);
        let (_, step) = handshake.feed(&stream[stream.len() - 1..], &exports);
        assert_eq!((step, handshake.partial.capacity()), (Step::Send, 0));
    }
}
