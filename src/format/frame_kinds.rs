//! Owns the numbers of the frame kinds, and what may follow the header of each.
//! Must never look into what follows.

use super::bitmap::WORDS_PER_PAGE;
use super::frame_bodies::{GENERATION_BYTES, STATE_BYTES};
use crate::limits::{LINEAGE_ENTRIES, PIECE_BLOCKS, ZERO_PIECE_BLOCKS};
use crate::units::BLOCK_BYTES;

/// The most bytes of body a frame can have: the digests of a whole piece.
pub const BODY_BYTES_MAX: u32 = PIECE * DIGEST_BYTES;

/// The most bytes of payload a frame can have: a whole piece.
#[expect(clippy::cast_possible_truncation, reason = "1 MiB")]
pub const PAYLOAD_BYTES_MAX: u32 = (PIECE_BLOCKS * BLOCK_BYTES) as u32;

/// Bytes of one digest (blake3).
pub(super) const DIGEST_BYTES: u32 = 32;

/// Bytes of one word of marks or of differing blocks.
pub(super) const WORD_BYTES: u32 = 8;

#[expect(clippy::cast_possible_truncation, reason = "256")]
const PIECE: u32 = PIECE_BLOCKS as u32;
#[expect(clippy::cast_possible_truncation, reason = "32")]
const GENERATIONS: u32 = LINEAGE_ENTRIES as u32;
#[expect(clippy::cast_possible_truncation, reason = "508")]
const PAGE_WORDS: u32 = WORDS_PER_PAGE as u32;

/// Bits of the header's `flags`.
pub(super) mod flags {
    /// Written means stable.
    pub(in crate::format) const FUA: u8 = 1;
    /// Space may be given back.
    pub(in crate::format) const DISCARD: u8 = 2;
    /// The one yes-or-no that a frame says.
    pub(in crate::format) const YES: u8 = 4;
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Nothing,
    /// The blocks of the frame.
    Payload,
    /// The blocks of the frame if it says yes, nothing otherwise.
    PayloadIfYes,
    /// `min` to `max` items of `item` bytes each.
    Body {
        /// Bytes of one.
        item: u32,
        /// Fewest.
        min: u32,
        /// Most.
        max: u32,
    },
}

const fn body(item: u32, min: u32, max: u32) -> Tail {
    Tail::Body { item, min, max }
}

macro_rules! kinds {
    ($($name:ident = $number:literal, $tail:expr, $blocks_max:expr;)+) => {
        /// The kind of a frame, by its number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each is the variant of `Frame` with the same name")]
        pub enum Kind { $($name = $number,)+ }

        impl Kind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The kind of that number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// What follows the header.
            pub(super) const fn tail(self) -> Tail {
                match self { $(Self::$name => $tail,)+ }
            }

            /// The most blocks that a frame of this kind can name; 0 if it names none.
            pub(super) const fn blocks_max(self) -> u64 {
                match self { $(Self::$name => $blocks_max,)+ }
            }
        }
    };
}

kinds! {
    State = 1, body(STATE_BYTES, 1, 1), 0;
    Met = 2, Tail::Nothing, 0;
    Write = 3, Tail::Payload, PIECE_BLOCKS;
    Zero = 4, Tail::Nothing, ZERO_PIECE_BLOCKS;
    Barrier = 5, Tail::Nothing, 0;
    ResyncData = 6, Tail::Payload, PIECE_BLOCKS;
    ResyncZero = 7, Tail::Nothing, ZERO_PIECE_BLOCKS;
    ResyncHash = 8, body(DIGEST_BYTES, 1, 1), PIECE_BLOCKS;
    HashAnswer = 9, Tail::Nothing, 0;
    Marks = 10, body(WORD_BYTES, 1, PAGE_WORDS), 0;
    MarksAll = 11, Tail::Nothing, 0;
    MarksDone = 12, Tail::Nothing, 0;
    SyncReady = 13, Tail::Nothing, 0;
    SyncStart = 14, Tail::Nothing, 0;
    SyncDone = 15, body(GENERATION_BYTES, 0, GENERATIONS), 0;
    SyncAdopted = 16, Tail::Nothing, 0;
    PauseSync = 17, Tail::Nothing, 0;
    PromoteAsk = 18, Tail::Nothing, 0;
    PromoteAnswer = 19, Tail::Nothing, 0;
    RoleChange = 20, Tail::Nothing, 0;
    DiskChange = 21, Tail::Nothing, 0;
    GenerationBegin = 22, Tail::Nothing, 0;
    GenerationHeld = 23, Tail::Nothing, 0;
    Behind = 24, Tail::Nothing, 0;
    ReadAsk = 25, Tail::Nothing, PIECE_BLOCKS;
    ReadAnswer = 26, Tail::PayloadIfYes, PIECE_BLOCKS;
    VerifyAsk = 27, body(DIGEST_BYTES, 1, PIECE), PIECE_BLOCKS;
    VerifyAnswer = 28, body(WORD_BYTES, 0, PIECE.div_ceil(64)), PIECE_BLOCKS;
    EmptyAsk = 29, Tail::Nothing, 0;
    EmptyAnswer = 30, Tail::Nothing, 0;
    Bye = 31, Tail::Nothing, 0;
    Received = 32, Tail::Nothing, 0;
    Written = 33, Tail::Nothing, 0;
    Stable = 34, Tail::Nothing, 0;
    WriteFailed = 35, Tail::Nothing, 0;
    Ping = 36, Tail::Nothing, 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_are_one_to_one() {
        for number in 0..=u8::MAX {
            let kind = Kind::from_number(number);
            assert_eq!(kind.map(|kind| kind as u8), kind.and(Some(number)));
        }
        assert_eq!(Kind::ALL.len(), 36);
    }

    #[test]
    fn no_body_is_over_the_bound() {
        for kind in Kind::ALL {
            if let Tail::Body { item, max, .. } = kind.tail() {
                assert!(item * max <= BODY_BYTES_MAX, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_manual_lists_every_kind() {
        let manual = include_str!("../manual/wire_format.md");
        for kind in Kind::ALL {
            let row = format!("\n| {} | {kind:?} | ", *kind as u8);
            assert!(manual.contains(&row), "no row for {kind:?}");
        }
        let nobody = format!("\n| {} | ", Kind::ALL.len() + 1);
        assert!(!manual.contains(&nobody), "a row too many");
    }
}
