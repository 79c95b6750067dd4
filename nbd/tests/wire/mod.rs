//! Owns what the tests share: bytes as a client writes them, put together by hand rather than by
//! the crate, and a way to run both machines over them. It must never use an encoder of the
//! crate's.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

use twinblk_nbd::*;

/// Fixed newstyle without zeroes.
pub const FLAGS: [u8; 4] = [0, 0, 0, 3];

pub fn option(code: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short option");
    [&announced(code, length), payload].concat()
}

/// The header of an option that announces `length` bytes.
pub fn announced(code: u32, length: u32) -> Vec<u8> {
    [&b"IHAVEOPT"[..], &code.to_be_bytes(), &length.to_be_bytes()].concat()
}

pub fn info(name: &[u8], wants: &[u16]) -> Vec<u8> {
    let length = u32::try_from(name.len()).expect("a short name").to_be_bytes();
    let count = u16::try_from(wants.len()).expect("few").to_be_bytes();
    let wants: Vec<u8> = wants.iter().flat_map(|want| want.to_be_bytes()).collect();
    [&length[..], name, &count, &wants].concat()
}

pub fn go(name: &[u8]) -> Vec<u8> {
    option(7, &info(name, &[]))
}

pub fn request(flags: u16, command: u16, range: (u64, u32)) -> [u8; REQUEST_BYTES] {
    let (offset, length) = range;
    let parts = [
        &0x2560_9513_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &COOKIE.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ];
    parts.concat().try_into().expect("28 bytes")
}

pub const COOKIE: u64 = 0x0123_4567_89ab_cdef;

/// All that an export can offer.
pub const ALL: TransmissionFlags = TransmissionFlags(0x0dfc).without(TransmissionFlags::ROTATIONAL);

pub fn export(name: &str) -> ExportInfo {
    ExportInfo { flags: ALL, ..ExportInfo::new(name, 1 << 20) }
}

/// What a server said and did with a client's bytes, greeting left out.
#[derive(Debug, PartialEq)]
pub struct Talk {
    pub said: Vec<u8>,
    pub left: Vec<u8>,
    pub step: Step,
}

impl Talk {
    /// Replies to options, as (option, reply type, payload).
    pub fn replies(&self) -> Vec<(u32, OptionReply, Vec<u8>)> {
        let mut rest = &self.said[..];
        let mut replies = Vec::new();
        while let Some((header, tail)) = rest.split_at_checked(20) {
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4"));
            assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
            let (payload, next) = tail.split_at(word(16) as usize);
            replies.push((word(8), OptionReply(word(12)), payload.to_vec()));
            rest = next;
        }
        assert!(rest.is_empty(), "half a reply: {rest:?}");
        replies
    }

    /// The type of the last reply.
    pub fn last(&self) -> OptionReply {
        self.replies().last().expect("a reply").1
    }

    /// The text of the last reply.
    pub fn text(&self) -> String {
        String::from_utf8(self.replies().last().expect("a reply").2.clone()).expect("UTF-8")
    }

    pub fn negotiated(&self) -> &Negotiated {
        match &self.step {
            Step::Negotiated(negotiated) => negotiated,
            other => panic!("{other:?}"),
        }
    }
}

/// A server given `pieces` one after the other, until it needs more or has ended.
pub fn talk_in_pieces<'a>(
    exports: &dyn Exports,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Talk {
    let mut handshake = Handshake::new();
    assert_eq!(handshake.take_output().len(), 18);
    let mut talk = Talk { said: Vec::new(), left: Vec::new(), step: Step::NeedMore };
    for piece in pieces {
        talk.left.extend_from_slice(piece);
        while matches!(talk.step, Step::NeedMore | Step::Send) {
            let (taken, step) = handshake.feed(&talk.left, exports);
            talk.left.drain(..taken);
            talk.said.extend(handshake.take_output());
            talk.step = step;
            if talk.step == Step::NeedMore {
                break;
            }
        }
    }
    talk
}

pub fn talk(exports: &dyn Exports, client: &[u8]) -> Talk {
    talk_in_pieces(exports, [client])
}

/// A server with one export "disk", after the client's flags.
pub fn haggle(options: &[Vec<u8>]) -> Talk {
    talk(&[export("disk")], &[&FLAGS[..], &options.concat()].concat())
}

pub fn terms(flags: TransmissionFlags) -> Terms {
    Terms {
        size_bytes: 1 << 30,
        flags,
        min_block_bytes: 1,
        max_payload_bytes: MAX_REQUEST_BYTES,
        structured_replies: true,
    }
}

/// SplitMix64: a stream of numbers that is the same on every machine.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
