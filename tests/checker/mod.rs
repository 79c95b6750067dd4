//! Owns the outside judgement of a device: which values a read may show, given what was written,
//! acknowledged, flushed and lost. Serves the simulator. Must
//! never know a ring, a world or the product's own types.
//!
//! Every 512-byte sector written carries a 64-bit stamp, unique per write, and bytes that follow
//! from sector and stamp: a stale, foreign, mixed or damaged sector shows itself.

pub(crate) mod copies;
pub(crate) mod oracle;
pub(crate) mod stamp;
pub(crate) mod timeline;
