//! Two links over a network in memory, under virtual time.

mod faults;
mod pair;
mod traffic;
mod world;
