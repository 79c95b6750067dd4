//! Owns stories of two cores, told in virtual time: what happens, and what must hold at the end.
//! Must never open a socket or a file, nor sleep.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod garbage;
mod medium;
mod stories;
mod walk;
mod world;
