//! twinblk keeps one block device identical on two machines, in user space.
//!
//! # The path of one write
//!
//! Read in this order to follow a client's write to its acknowledgement; the chapter
//! [`manual::one_write`] says why each step comes where it does (it numbers by what happens, this
//! table by where).
//!
//! | step | node | where | what happens |
//! |---|---|---|---|
//! | 1 | primary | [`node`] `shard` | one turn of a shard's loop: the [`ring`] completes, what completed goes to its owner |
//! | 2 | primary | [`export`] `session`, the crate `nbd` | header to request, admission, payload into a slot of the [`buffer`] pool |
//! | 3 | primary | [`replica`] `request` | the core takes it: range lock, rounded out to blocks; pieces of at most 1 MiB |
//! | 4 | primary | [`replica`] `activity_log` | the extents of each piece are hot, or become so |
//! | 5 | primary | [`replica`] `write` | a piece is issued: to the local disk, and to each peer or its dirty bitmap |
//! | 6 | primary | [`node`] `carry` | the core's outputs are carried out: to [`store`] `disk`, to [`link`] `conn` and `outbox` |
//! | 7 | secondary | [`link`] `inbox`, [`replica`] `apply` | checks, order and flush gates; then its disk, and *written* goes back |
//! | 8 | primary | [`replica`] `stream`, `write` | what the peer has is struck off; a piece that is owed nothing ends |
//! | 9 | primary | [`export`] `session`, `outbox` | the reply leaves with the others of the turn |
//!
//! What a peer missed comes by [`replica`] `sync_source` and `sync_target`; who has the newer data
//! is one table, [`replica::reconcile`]. All bytes that leave memory are laid out in [`mod@format`].

pub mod buffer;
pub mod cli;
pub mod config;
pub mod control;
pub mod export;
pub mod format;
pub mod limits;
pub mod link;
pub mod manual;
pub mod node;
pub mod plant;
pub mod replica;
pub mod ring;
pub mod store;
pub mod units;
