//! Two links over a network in memory, under virtual time.

mod pair;
mod traffic;
mod world;
