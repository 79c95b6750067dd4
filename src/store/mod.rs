//! Owns the local disk of a resource: its blocks, its metadata and the order in which they become
//! stable, laying it out, reading it back, and looking at it while nobody uses it.
//! Must never know what replication is, nor decide what the metadata means.

mod bits;
pub mod compare;
pub mod create;
pub mod disk;
pub mod dump;
mod inspect;
mod metadata;
pub mod open;
mod pages;
mod raw;
pub mod recover;
pub mod stopped;
mod task;
#[cfg(test)]
mod tests;

pub use disk::{Disk, Place};
pub use raw::{RawError, RawFile};
pub use recover::{Expected, Files, Opened, Opening, Refused};
pub use stopped::StoppedDisk;
pub use task::Failure;
