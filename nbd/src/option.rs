//! Owns the layout of options and of the replies to them: section "Fixed newstyle negotiation". It
//! must never keep state or decide what an option means; that is `handshake`'s business. No length
//! the other side sent is ever used to allocate or to index.

use crate::constants::{
    InfoType, MAX_STRING_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, OptionReply,
};
use crate::error::NameError;
use crate::export::ExportInfo;
use crate::field::{Fields, get, put};

/// magic u64, option u32, length u32; `length` bytes follow.
pub(crate) const OPTION_HEADER_BYTES: usize = 16;
/// magic u64, option u32, reply type u32, length u32; `length` bytes follow.
pub(crate) const REPLY_HEADER_BYTES: usize = 20;

/// The fixed part of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionHeader {
    pub(crate) code: OptionCode,
    pub(crate) length: u32,
}

impl OptionHeader {
    /// The magic number found, if it is not that of an option.
    pub(crate) fn parse(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<Self, u64> {
        match u64::from_be_bytes(get::<0, 8, _>(bytes)) {
            OPTION_MAGIC => Ok(Self {
                code: OptionCode(u32::from_be_bytes(get::<8, 4, _>(bytes))),
                length: u32::from_be_bytes(get::<12, 4, _>(bytes)),
            }),
            magic => Err(magic),
        }
    }

    fn encode(self) -> [u8; OPTION_HEADER_BYTES] {
        let mut bytes = [0; OPTION_HEADER_BYTES];
        put::<0, 8, _>(&mut bytes, OPTION_MAGIC.to_be_bytes());
        put::<8, 4, _>(&mut bytes, self.code.0.to_be_bytes());
        put::<12, 4, _>(&mut bytes, self.length.to_be_bytes());
        bytes
    }
}

/// The fixed part of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyHeader {
    pub(crate) option: OptionCode,
    pub(crate) reply: OptionReply,
    pub(crate) length: u32,
}

impl ReplyHeader {
    /// The magic number found, if it is not that of a reply.
    pub(crate) fn parse(bytes: &[u8; REPLY_HEADER_BYTES]) -> Result<Self, u64> {
        match u64::from_be_bytes(get::<0, 8, _>(bytes)) {
            OPTION_REPLY_MAGIC => Ok(Self {
                option: OptionCode(u32::from_be_bytes(get::<8, 4, _>(bytes))),
                reply: OptionReply(u32::from_be_bytes(get::<12, 4, _>(bytes))),
                length: u32::from_be_bytes(get::<16, 4, _>(bytes)),
            }),
            magic => Err(magic),
        }
    }

    fn encode(self) -> [u8; REPLY_HEADER_BYTES] {
        let mut bytes = [0; REPLY_HEADER_BYTES];
        put::<0, 8, _>(&mut bytes, OPTION_REPLY_MAGIC.to_be_bytes());
        put::<8, 4, _>(&mut bytes, self.option.0.to_be_bytes());
        put::<12, 4, _>(&mut bytes, self.reply.0.to_be_bytes());
        put::<16, 4, _>(&mut bytes, self.length.to_be_bytes());
        bytes
    }
}

/// A name as section "Protocol conventions" wants it: UTF-8, no NUL, at most 4096 bytes.
pub(crate) fn parse_name(bytes: &[u8]) -> Result<&str, NameError> {
    if bytes.len() > MAX_STRING_BYTES as usize {
        return Err(NameError::TooLong(bytes.len()));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(NameError::Nul(at));
    }
    std::str::from_utf8(bytes).map_err(|error| NameError::NotUtf8(error.valid_up_to()))
}

/// `text` as a message to the other side: cut at 4096 bytes between characters, NUL made visible.
pub(crate) fn message(text: &str) -> String {
    let visible = text.replace('\0', "\u{fffd}");
    cut(&visible, MAX_STRING_BYTES as usize).to_owned()
}

/// The longest beginning of `text` that is whole characters and at most `room` bytes.
pub(crate) fn cut(text: &str, room: usize) -> &str {
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The payload of `INFO` and `GO`: length of name u32, name, count u16, `count` information types
/// u16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InfoRequest<'a> {
    /// Not yet looked at, so that a bad name and a bad layout get different answers.
    pub(crate) name: &'a [u8],
    pub(crate) wants_name: bool,
    pub(crate) wants_description: bool,
}

impl<'a> InfoRequest<'a> {
    /// `None` if the inner lengths and the outer one do not agree to the byte.
    pub(crate) fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let name_length = usize::try_from(fields.u32()?).ok()?;
        let name = fields.bytes(name_length)?;
        let count = usize::from(fields.u16()?);
        if fields.0.len() != 2 * count {
            return None;
        }
        let wants =
            |info: InfoType| fields.0.chunks_exact(2).any(|pair| pair == info.0.to_be_bytes());
        Some(Self {
            name,
            wants_name: wants(InfoType::NAME),
            wants_description: wants(InfoType::DESCRIPTION),
        })
    }
}

/// Appends an option, as a client sends it.
pub(crate) fn push_option(out: &mut Vec<u8>, code: OptionCode, parts: &[&[u8]]) {
    out.extend_from_slice(&OptionHeader { code, length: total(parts) }.encode());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends `GO` for `name`, asking for the block sizes.
pub(crate) fn push_go(out: &mut Vec<u8>, name: &str) {
    let length = total(&[name.as_bytes()]).to_be_bytes();
    let wants = InfoType::BLOCK_SIZE.0.to_be_bytes();
    push_option(out, OptionCode::GO, &[&length, name.as_bytes(), &1_u16.to_be_bytes(), &wants]);
}

/// Appends one reply to `option`.
pub(crate) fn push_reply(
    out: &mut Vec<u8>,
    option: OptionCode,
    reply: OptionReply,
    parts: &[&[u8]],
) {
    out.extend_from_slice(&ReplyHeader { option, reply, length: total(parts) }.encode());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends `NBD_REP_SERVER`: length of name u32, name, description to the end.
pub(crate) fn push_server(out: &mut Vec<u8>, export: &ExportInfo) {
    let (name, description) = (export.name.as_bytes(), export.description.as_bytes());
    let length = total(&[name]).to_be_bytes();
    push_reply(out, OptionCode::LIST, OptionReply::SERVER, &[&length, name, description]);
}

/// Appends `NBD_REP_INFO` in all the kinds the client is to have: type u16, then by type.
pub(crate) fn push_infos(
    out: &mut Vec<u8>,
    option: OptionCode,
    export: &ExportInfo,
    told: (&InfoRequest<'_>, bool),
) {
    let (request, structured_replies) = told;
    let mut push = |info: InfoType, parts: [&[u8]; 3]| {
        push_reply(
            out,
            option,
            OptionReply::INFO,
            &[&info.0.to_be_bytes(), parts[0], parts[1], parts[2]],
        );
    };
    let flags = export.offered(structured_replies).0.to_be_bytes();
    push(InfoType::EXPORT, [&export.size_bytes.to_be_bytes(), &flags, &[]]);
    if request.wants_name {
        push(InfoType::NAME, [export.name.as_bytes(), &[], &[]]);
    }
    if request.wants_description {
        push(InfoType::DESCRIPTION, [export.description.as_bytes(), &[], &[]]);
    }
    let sizes = [export.min_block_bytes, export.preferred_block_bytes, export.max_payload_bytes]
        .map(u32::to_be_bytes);
    push(InfoType::BLOCK_SIZE, [&sizes[0], &sizes[1], &sizes[2]]);
}

/// Length of what a header announces. Everything sent is a few strings of at most 4096 bytes each.
fn total(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
    u32::try_from(bytes).expect("an option or reply of a few short strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_lengths_must_agree_with_the_outer_one() {
        let good = [0, 0, 0, 1, b'a', 0, 1, 0, 3];
        assert_eq!(InfoRequest::parse(&good).map(|request| request.name), Some(&b"a"[..]));
        let bad: [&[u8]; 6] = [
            &[],
            &[0, 0, 0, 1, b'a', 0],
            &[0xff, 0xff, 0xff, 0xff, b'a', 0, 0],
            &[0, 0, 0, 2, b'a', 0, 0],
            &[0, 0, 0, 1, b'a', 0xff, 0xff, 0, 3],
            &[0, 0, 0, 1, b'a', 0, 0, 0, 3],
        ];
        for payload in bad {
            assert_eq!(InfoRequest::parse(payload), None, "{payload:?}");
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(message("a\0b"), "a\u{fffd}b");
        let long = message(&"ä".repeat(4096));
        assert_eq!(long.len(), 4096);
        assert_eq!(message(&format!("x{long}")).len(), 4095);
    }

    #[test]
    fn bad_names_say_where() {
        assert_eq!(parse_name(b"a\0"), Err(NameError::Nul(1)));
        assert_eq!(parse_name(b"ab\xff"), Err(NameError::NotUtf8(2)));
        assert_eq!(parse_name(&[b'a'; 4097]), Err(NameError::TooLong(4097)));
        assert_eq!(parse_name(&[b'a'; 4096]).map(str::len), Ok(4096));
    }
}
