//! Owns the newtypes every other part speaks in: time, blocks, ranges, epochs, sequences, nodes.
//! Must never hold rules about replication or know a file, socket or format.

use std::fmt;
use std::ops::{Add, Sub};

/// Bytes in one block: the unit of the dirty bitmap, of range locks and of every replicated write.
pub const BLOCK_BYTES: u64 = 4096;

/// A point in time or a span, in nanoseconds of `CLOCK_BOOTTIME` (or of the simulator's virtual clock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The span from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, span: Self) -> Self {
        self.since(span)
    }
}

/// A run of whole blocks of the exported device, `count` ≥ 1 unless stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blocks {
    /// Index of the first block.
    pub start: u64,
    /// Number of blocks.
    pub count: u64,
}

impl Blocks {
    /// `count` blocks from `start` on.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }

    /// The block after the last one.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.count
    }

    /// Whether the two runs share a block.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Whether every block of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Offset of the first byte.
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        self.start * BLOCK_BYTES
    }

    /// Length in bytes.
    #[must_use]
    pub const fn length_bytes(self) -> u64 {
        self.count * BLOCK_BYTES
    }

    /// The words of a bitmap, 64 blocks each, that the run touches, each with the bits of the run.
    pub(crate) fn words(self) -> impl Iterator<Item = (usize, u64)> {
        (self.start / 64..self.end().div_ceil(64)).map(move |word| {
            let from = self.start.saturating_sub(word * 64).min(63);
            let upto = (self.end() - word * 64).min(64);
            let mask = (u64::MAX << from) & (u64::MAX >> (64 - upto));
            (usize::try_from(word).unwrap_or(usize::MAX), mask)
        })
    }

    /// Cuts the run into pieces of at most `most` blocks, in ascending order.
    pub fn pieces(self, most: u64) -> impl Iterator<Item = Self> {
        (0..self.count.div_ceil(most)).map(move |i| {
            let start = self.start + i * most;
            Self::new(start, most.min(self.end() - start))
        })
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.count)
    }
}

/// A run of bytes of the exported device, at any offset and of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Bytes {
    /// `length` bytes from `offset` on.
    #[must_use]
    pub const fn new(offset: u64, length: u64) -> Self {
        Self { offset, length }
    }

    /// The whole blocks that hold these bytes: rounded outward.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        let start = self.offset / BLOCK_BYTES;
        let end = (self.offset + self.length).div_ceil(BLOCK_BYTES);
        Blocks::new(start, end - start)
    }

    /// Bytes of the first block that lie before the range.
    #[must_use]
    pub const fn head_pad(self) -> u64 {
        self.offset % BLOCK_BYTES
    }

    /// Bytes of the last block that lie after the range.
    #[must_use]
    pub const fn tail_pad(self) -> u64 {
        (BLOCK_BYTES - (self.offset + self.length) % BLOCK_BYTES) % BLOCK_BYTES
    }

    /// Whether the range starts and ends on block boundaries.
    #[must_use]
    pub const fn is_aligned(self) -> bool {
        self.head_pad() == 0 && self.tail_pad() == 0
    }
}

/// The register's counter: who serves, and with whom. Under arbiter `none`, highest seen + 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One connection between two nodes, as both derived it from the link handshake. Never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// The place of a write in the primary's stream to its peers; grows by one per write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A node of the cluster, as numbered by `id` in its `[node.NAME]` section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One life of a node's store: random, new at every start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunId(pub u64);

/// One boot of a host, from `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BootId(pub u128);

/// The identity of a resource, random at `create`, equal on both nodes once they have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceId(pub u128);

/// One metadata area, random at `create`: every bitmap page and log block in it carries it, so
/// that records of another disk, or of an earlier life of this one, are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AreaId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_round_outward() {
        let range = Bytes::new(4095, 2);
        assert_eq!(range.blocks(), Blocks::new(0, 2));
        assert_eq!((range.head_pad(), range.tail_pad()), (4095, 4095));
        assert!(Bytes::new(8192, 4096).is_aligned());
        assert_eq!(Bytes::new(0, 0).blocks().count, 0);
    }

    #[test]
    fn pieces_cover_the_run_once() {
        let pieces: Vec<_> = Blocks::new(3, 10).pieces(4).collect();
        assert_eq!(pieces, [Blocks::new(3, 4), Blocks::new(7, 4), Blocks::new(11, 2)]);
    }
}
