//! Owns the local disk of a resource.
//! Must never know what replication is.

pub mod open;
