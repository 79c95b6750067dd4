//! Two links over a network in memory, under virtual time.

mod ends;
mod faults;
mod identity;
mod kernel;
mod pair;
mod stranger;
mod traffic;
mod world;
