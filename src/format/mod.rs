//! Owns every byte that leaves memory: superblock, bitmap pages, activity log, link frames.
//! All integers are little-endian; every record carries a version and checksums (CRC-32 IEEE).
//! Must never do I/O: it turns values into bytes and bytes into values or refusals.

pub mod frame;
pub mod hello;
pub mod lineage;
pub mod superblock;
