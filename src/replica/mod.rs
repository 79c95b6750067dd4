//! Owns the mind of one resource on one node.
//! Must never touch a socket, file, clock, thread or random source, nor payload bytes.

pub mod event;

/// The mind of one resource on one node.
#[derive(Debug)]
pub struct Replica {}
