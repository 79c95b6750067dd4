//! Owns the proofs of this part, on a ring over files in memory.

mod disk;
mod fake_ring;
