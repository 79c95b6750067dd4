//! Owns every byte that leaves memory: superblock, bitmap pages, activity log, link frames.
//! Must never do I/O: it turns values into bytes and bytes into values or refusals.
//!
//! All integers are little-endian. Every record carries a magic, a version and checksums (CRC-32
//! IEEE). The bytes are drawn in `manual::disk_format` and `manual::wire_format`.
//!
//! - *Emit* (`encode`) takes a value that obeys the rules written at its type; a value that does
//!   not is a bug of the caller and panics in debug builds.
//! - *Parse* (`decode`) takes any bytes. It never panics, never allocates more than the bound of
//!   the record, and returns either a value that obeys all rules or a typed error naming the
//!   broken one. What it accepts, `encode` turns back into the very same bytes: reserved bytes
//!   are named and must be zero, and no value has two spellings. (One exception, so that versions
//!   can be negotiated: a `Hello` may be longer than this version's.)

#[cfg(test)]
mod arbitrary;
pub mod bitmap;
pub mod checksum;
pub mod extent_log;
mod extent_log_codec;
pub mod frame;
mod frame_bodies;
mod frame_codec;
mod frame_fields;
mod frame_kinds;
mod geometry;
pub mod hello;
pub mod lineage;
mod records;
pub mod superblock;
mod superblock_codec;

/// Version of the metadata area: superblock, bitmap pages and activity log.
pub const DISK_VERSION: u32 = 3;

/// Oldest version of the metadata area that is read; it is written anew as [`DISK_VERSION`].
pub const DISK_VERSION_MIN: u32 = 1;

/// Newest version of the link protocol spoken here.
pub const LINK_VERSION: u16 = 1;

/// Oldest version of the link protocol spoken here.
pub const LINK_VERSION_MIN: u16 = 1;

/// Bytes of a superblock, a bitmap page and a log block: one block each.
pub const RECORD_BYTES: usize = 4096;

const _: () = assert!(RECORD_BYTES as u64 == crate::units::BLOCK_BYTES);
const _: () = assert!(LINK_VERSION_MIN <= LINK_VERSION);
const _: () = assert!(DISK_VERSION_MIN <= DISK_VERSION);
