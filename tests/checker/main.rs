//! Owns the proof of the checker: it catches each planted fault, and passes what is legal. Must
//! never be used as a checker itself.

#[path = "mod.rs"]
#[allow(dead_code, reason = "shared with programs that use more of it")]
mod checker;

mod copies_proof;
mod legal;
mod planted;

use checker::oracle::{Checker, Range, Violation};
use checker::stamp::{SECTOR_BYTES, Stamp, fill};

/// A checker and the numbers for its operations.
struct Story {
    checker: Checker,
    next: u64,
}

impl Story {
    fn new() -> Self {
        Self { checker: Checker::new(), next: 100 }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Begins to write one sector.
    fn begin(&mut self, sector: u64, stamp: Stamp) -> u64 {
        let id = self.number();
        self.checker.invoke_write(id, Range { first: sector, count: 1 }, stamp, false);
        id
    }

    /// Writes one sector and is acknowledged.
    fn write(&mut self, sector: u64, stamp: Stamp) {
        let id = self.begin(sector, stamp);
        self.checker.ack_write(id);
    }

    /// A write that fails, or whose server dies.
    fn fail(&mut self, sector: u64, stamp: Stamp) {
        let id = self.begin(sector, stamp);
        self.checker.fail_write(id);
    }

    fn flush(&mut self) {
        let id = self.number();
        self.checker.invoke_flush(id);
        self.checker.ack_flush(id);
    }

    /// Reads one sector, which holds this.
    fn read(&mut self, sector: u64, stamp: Stamp) -> Result<(), Violation> {
        self.read_bytes(sector, &bytes(sector, &[stamp]))
    }

    fn read_bytes(&mut self, first: u64, bytes: &[u8]) -> Result<(), Violation> {
        let id = self.number();
        let count = (bytes.len() / SECTOR_BYTES) as u64;
        self.checker.invoke_read(id, Range { first, count });
        self.checker.ack_read(id, bytes)
    }
}

/// Sectors from `first` on, with these stamps.
fn bytes(first: u64, stamps: &[Stamp]) -> Vec<u8> {
    let mut bytes = vec![0; stamps.len() * SECTOR_BYTES];
    for ((sector, stamp), target) in (first..).zip(stamps).zip(bytes.chunks_mut(SECTOR_BYTES)) {
        fill(sector, *stamp, target);
    }
    bytes
}
