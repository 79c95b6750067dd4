//! Owns where the bytes of a request lie in its slots: one slot for each piece, counted from the
//! first block of the rounded-out range, so the payload begins inside the first block.
//! Must never look at the bytes.

use crate::buffer::{Account, Payload, PayloadRef, Pool, Span};
use crate::limits::PIECE_BLOCKS;
use crate::replica::event::Pieces;
use crate::units::{BLOCK_BYTES, Bytes};

const PIECE_BYTES: u64 = PIECE_BLOCKS * BLOCK_BYTES;

/// Slots of a request, on the account of its resource's clients.
pub(super) fn take(pool: &mut Pool, account: Account, range: Bytes) -> Option<Pieces> {
    if range.blocks().count <= PIECE_BLOCKS {
        let bytes = sizes(range).next()?;
        return pool.take(account, bytes).map(Pieces::One);
    }
    pool.take_all(account, sizes(range)).map(Pieces::Many)
}

/// Whether [`take`] would succeed.
pub(super) fn fits(pool: &Pool, account: Account, range: Bytes) -> bool {
    pool.has_room_for(account, sizes(range))
}

fn sizes(range: Bytes) -> impl Iterator<Item = usize> + Clone {
    let length = range.blocks().length_bytes();
    (0..length.div_ceil(PIECE_BYTES)).map(move |i| {
        usize::try_from(PIECE_BYTES.min(length - i * PIECE_BYTES)).expect("at most a piece")
    })
}

/// The longest run of the range's bytes from the `done`-th on that lies in one slot; empty at the
/// end.
pub(super) fn run(pieces: &Pieces, range: Bytes, done: u64) -> Span {
    let index = (range.head_pad() + done) / PIECE_BYTES;
    span(slot(pieces, usize::try_from(index).expect("a request is bounded")), range, done)
}

fn span(slot: PayloadRef, range: Bytes, done: u64) -> Span {
    let offset = (range.head_pad() + done) % PIECE_BYTES;
    let length = (PIECE_BYTES - offset).min(range.length - done);
    let small = |n: u64| u32::try_from(n).expect("at most a piece");
    Span { slot, offset: small(offset), length: small(length) }
}

/// The slots in ascending order, each with the bytes of the range that lie in it.
pub(super) fn runs(pieces: Pieces, range: Bytes) -> impl Iterator<Item = (Payload, Span)> {
    let mut done = 0;
    each(pieces).map(move |payload| {
        let span = span(payload.share(), range, done);
        done += u64::from(span.length);
        (payload, span)
    })
}

fn slot(pieces: &Pieces, index: usize) -> PayloadRef {
    match pieces {
        Pieces::One(payload) => payload.share(),
        Pieces::Many(payloads) => payloads[index].share(),
    }
}

/// What the slots take up.
pub(super) fn capacity_bytes(pool: &Pool, pieces: &Pieces) -> u64 {
    let payloads = match pieces {
        Pieces::One(payload) => std::slice::from_ref(payload),
        Pieces::Many(payloads) => payloads,
    };
    payloads.iter().map(|payload| pool.capacity_bytes(payload.share()) as u64).sum()
}

fn each(pieces: Pieces) -> impl Iterator<Item = Payload> {
    let (one, many) = match pieces {
        Pieces::One(payload) => (Some(payload), Vec::new()),
        Pieces::Many(payloads) => (None, payloads),
    };
    one.into_iter().chain(many)
}

/// Gives the slots back.
pub(super) fn release(pool: &mut Pool, pieces: Pieces) {
    each(pieces).for_each(|payload| pool.release(payload));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Budgets, Purpose};

    fn layout(range: Bytes) -> Vec<(u32, u32)> {
        let budget = 80 << 20;
        let budgets =
            Budgets { client_bytes: budget, peer_bytes: budget, background_bytes: budget };
        let mut pool = Pool::new(budgets);
        let pieces = take(&mut pool, Purpose::Client.into(), range).expect("room");
        let (mut done, mut found) = (0, Vec::new());
        while done < range.length {
            let span = run(&pieces, range, done);
            assert!(pool.capacity_bytes(span.slot) >= (span.offset + span.length) as usize);
            found.push(span);
            done += u64::from(span.length);
        }
        assert_eq!(capacity_bytes(&pool, &pieces), pool.used_bytes(Purpose::Client) as u64);
        for ((payload, span), expected) in runs(pieces, range).zip(&found) {
            assert_eq!(span, *expected);
            pool.release(payload);
        }
        assert_eq!(pool.used_bytes(Purpose::Client), 0);
        found.iter().map(|span| (span.offset, span.length)).collect()
    }

    #[test]
    fn bytes_lie_as_they_would_on_the_device() {
        let mib = 1 << 20;
        assert_eq!(layout(Bytes::new(0, 4096)), [(0, 4096)]);
        assert_eq!(layout(Bytes::new(4095, 1)), [(4095, 1)]);
        assert_eq!(layout(Bytes::new(4095, 2)), [(4095, 2)]);
        assert_eq!(layout(Bytes::new(8192, 1 << 20)), [(0, mib)]);
        assert_eq!(layout(Bytes::new(1, 1 << 20)), [(1, mib - 1), (0, 1)]);
        let odd = [(4095, mib - 4095), (0, mib), (0, 4095 + 3)];
        assert_eq!(layout(Bytes::new(4095, (2 << 20) + 3)), odd);
        assert_eq!(layout(Bytes::new(4095, 64 << 20)).len(), 65);
    }
}
