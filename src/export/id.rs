//! Owns the numbers that lead a completion or a reply back to its session.
//! Must never let a stale number find a later session in the same place.

use crate::replica::event::RequestId;
use crate::ring::{Lane, Token};

/// Bits of the generation that fit a token beside place and operation.
const TOKEN_GENERATION_BITS: u32 = 28;

/// What a session may have in flight on its socket: one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Recv = 1,
    Send = 2,
    Close = 3,
}

/// Names a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionId {
    /// Its place.
    pub(super) place: u8,
    /// Counts the sessions of the export.
    pub(super) generation: u32,
}

impl SessionId {
    /// Operation 4 bits, place 8 bits, generation 28 bits: the 40 bits of a lane.
    pub(super) const fn token(self, lane: Lane, operation: Operation) -> Token {
        let upper = (operation as u64) << 8 | self.place as u64;
        let generation = self.generation & ((1 << TOKEN_GENERATION_BITS) - 1);
        lane.token(upper << TOKEN_GENERATION_BITS | generation as u64)
    }

    /// Whether `token` may be of this session. A place is vacant only after its last completion, so
    /// 28 bits of the generation are more than enough.
    pub(super) const fn owns(self, lane: Lane, token: Token, operation: Operation) -> bool {
        self.token(lane, operation).0 == token.0
    }

    /// Place 8 bits, generation 32 bits, request 16 bits.
    pub(super) const fn request(self, request: u16) -> RequestId {
        let upper = (self.place as u64) << 32 | self.generation as u64;
        RequestId(upper << 16 | request as u64)
    }
}

/// Place and operation of a token of this part, if it is one.
#[expect(clippy::cast_possible_truncation, reason = "the shifts leave just the bits wanted")]
pub(super) const fn split_token(token: Token) -> Option<(u8, Operation)> {
    let (_, _, local) = token.split();
    let operation = match local >> (TOKEN_GENERATION_BITS + 8) {
        1 => Operation::Recv,
        2 => Operation::Send,
        3 => Operation::Close,
        _ => return None,
    };
    Some(((local >> TOKEN_GENERATION_BITS) as u8, operation))
}

/// The session and its own number of a request.
#[expect(clippy::cast_possible_truncation, reason = "the shifts leave just the bits wanted")]
pub(super) const fn split_request(id: RequestId) -> (SessionId, u16) {
    let session = SessionId { place: (id.0 >> 48) as u8, generation: (id.0 >> 16) as u32 };
    (session, id.0 as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_session() {
        let lane = Lane::new(3, 9);
        let id = SessionId { place: 255, generation: u32::MAX - 1 };
        let token = id.token(lane, Operation::Close);
        assert_eq!((token.split().0, token.split().1), (3, 9));
        assert_eq!(split_token(token), Some((255, Operation::Close)));
        assert!(id.owns(lane, token, Operation::Close));
        let later = SessionId { generation: u32::MAX, ..id };
        assert!(!later.owns(lane, token, Operation::Close));
        assert_eq!(split_request(id.request(127)), (id, 127));
        assert_ne!(later.request(127), id.request(127));
        assert_eq!(split_token(lane.token(0)), None);
    }
}
