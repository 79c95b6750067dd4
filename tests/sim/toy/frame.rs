//! Owns what toys say to each other, as bytes. Must never send any.

/// What the nodes say.
pub(crate) enum Frame {
    Hello {
        epoch: u64,
        bits: u64,
    },
    Beat,
    Copy {
        epoch: u64,
    },
    /// Goes for the next step.
    Ready,
    Step {
        offset: u64,
        bytes: Vec<u8>,
    },
    CopyEnd,
    Copied,
    Write {
        id: u64,
        offset: u64,
        fua: bool,
        bytes: Vec<u8>,
    },
    Flush {
        id: u64,
    },
    Done {
        id: u64,
    },
    /// May I become primary? And the answers.
    MayI {
        epoch: u64,
    },
    Yes,
    No,
    Demoted,
}

pub(super) fn sum(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes))
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, one, two, bytes): (u8, u64, u64, &[u8]) = match self {
            Self::Hello { epoch, bits } => (1, *epoch, *bits, &[]),
            Self::Beat => (2, 0, 0, &[]),
            Self::Copy { epoch } => (3, *epoch, 0, &[]),
            Self::Ready => (4, 0, 0, &[]),
            Self::Step { offset, bytes } => (5, *offset, 0, bytes),
            Self::CopyEnd => (6, 0, 0, &[]),
            Self::Copied => (7, 0, 0, &[]),
            Self::Write { id, offset, fua, bytes } => {
                (8, *id, offset << 1 | u64::from(*fua), bytes)
            }
            Self::Flush { id } => (9, *id, 0, &[]),
            Self::Done { id } => (10, *id, 0, &[]),
            Self::MayI { epoch } => (11, *epoch, 0, &[]),
            Self::Yes => (12, 0, 0, &[]),
            Self::No => (13, 0, 0, &[]),
            Self::Demoted => (14, 0, 0, &[]),
        };
        let mut body = vec![kind];
        body.extend_from_slice(&one.to_le_bytes());
        body.extend_from_slice(&two.to_le_bytes());
        body.extend_from_slice(bytes);
        let length = u32::try_from(body.len()).expect("frames are small");
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend_from_slice(&sum(&body).to_le_bytes());
        frame.extend_from_slice(&body);
        frame
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let (one, two, bytes) = (number(1)?, number(9)?, body[17..].to_vec());
        Some(match body[0] {
            1 => Self::Hello { epoch: one, bits: two },
            2 => Self::Beat,
            3 => Self::Copy { epoch: one },
            4 => Self::Ready,
            5 => Self::Step { offset: one, bytes },
            6 => Self::CopyEnd,
            7 => Self::Copied,
            8 => Self::Write { id: one, offset: two >> 1, fua: two & 1 == 1, bytes },
            9 => Self::Flush { id: one },
            10 => Self::Done { id: one },
            11 => Self::MayI { epoch: one },
            12 => Self::Yes,
            13 => Self::No,
            14 => Self::Demoted,
            _ => return None,
        })
    }
}
