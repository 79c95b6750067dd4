//! Owns one gather on its way out: its vectors and how much of them has left. Must never send.

use super::system_calls::{Memory, empty_message};
use super::{Chunk, Gather};
use crate::buffer::{Pool, Span};

/// Vectors in one call: what the kernel takes at most (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

/// Vectors and header, kept for the next gather so that sending does not allocate.
pub(super) struct Vectors {
    header: Box<libc::msghdr>,
    list: Vec<libc::iovec>,
}

impl Vectors {
    pub(super) fn new() -> Self {
        Self { header: Box::new(empty_message()), list: Vec::new() }
    }
}

/// A gather being sent. What the kernel is shown (header, vectors, copied bytes) lies on the heap
/// and does not move with this value.
pub(super) struct Outgoing {
    gather: Box<Gather>,
    vectors: Vectors,
    /// Vectors before this one have left whole.
    first: usize,
    sent: u64,
    total: u64,
}

impl Outgoing {
    pub(super) fn new(pool: &Pool, gather: Box<Gather>, mut vectors: Vectors) -> Self {
        vectors.list.clear();
        let mut total = 0;
        for chunk in &gather.chunks {
            let vector = vector(pool, &gather, *chunk);
            total += vector.iov_len as u64;
            if vector.iov_len > 0 {
                vectors.list.push(vector);
            }
        }
        Self { gather, vectors, first: 0, sent: 0, total }
    }

    /// What to hand to the kernel now. Stays valid until the next call of a method.
    pub(super) fn message(&mut self) -> *const libc::msghdr {
        let rest = &mut self.vectors.list[self.first..];
        let count = rest.len().min(VECTORS_MAX);
        self.vectors.header.msg_iov = rest.as_mut_ptr();
        self.vectors.header.msg_iovlen = count;
        &raw const *self.vectors.header
    }

    /// The same, for a call that returns before this value moves or goes.
    pub(super) fn message_now(&mut self) -> &libc::msghdr {
        self.message();
        &self.vectors.header
    }

    /// Notes that `count` bytes have left; whether all have.
    pub(super) fn advance(&mut self, count: u32) -> bool {
        self.sent += u64::from(count);
        let mut left = count as usize;
        while let Some(vector) = self.vectors.list.get_mut(self.first) {
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len -= left;
                break;
            }
            left -= vector.iov_len;
            self.first += 1;
        }
        self.sent >= self.total
    }

    /// How many bytes have left, as a completion tells it.
    pub(super) fn sent_bytes(&self) -> u32 {
        u32::try_from(self.sent).unwrap_or(u32::MAX)
    }

    /// The parts, to give back and to keep.
    pub(super) fn into_parts(self) -> (Box<Gather>, Vectors) {
        (self.gather, self.vectors)
    }
}

fn vector(pool: &Pool, gather: &Gather, chunk: Chunk) -> libc::iovec {
    match chunk {
        Chunk::Copied { start, length } => {
            let bytes = &gather.copied[start as usize..][..length as usize];
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }
        Chunk::Slot(span) => span_vector(pool, span),
    }
}

fn span_vector(pool: &Pool, span: Span) -> libc::iovec {
    let memory = Memory::of(pool, span);
    libc::iovec { iov_base: memory.address().cast(), iov_len: memory.length() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Budgets;

    #[test]
    fn what_is_left_shrinks_byte_by_byte() {
        let pool = Pool::new(Budgets { client_bytes: 0, peer_bytes: 0, background_bytes: 0 });
        let mut gather = Box::new(Gather::default());
        gather.push_bytes(b"header");
        gather.chunks.push(Chunk::Copied { start: 0, length: 0 });
        gather.chunks.push(Chunk::Copied { start: 0, length: 2 });
        let mut outgoing = Outgoing::new(&pool, gather, Vectors::new());
        let mut steps = 0;
        loop {
            let message = outgoing.message_now();
            assert_eq!(message.msg_iovlen, if steps < 6 { 2 } else { 1 });
            steps += 1;
            if outgoing.advance(1) {
                break;
            }
        }
        assert_eq!((steps, outgoing.sent_bytes()), (8, 8));
    }
}
