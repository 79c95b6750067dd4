//! Owns the figures of one export. Must never decide by them, but for the bound on requests.

use twinblk_nbd::{Checked, Operation};

/// What an export has done since it was made, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken.
    pub connections: u64,
    /// READs handed to the core.
    pub reads: u64,
    /// WRITEs handed to the core.
    pub writes: u64,
    /// FLUSHes handed to the core.
    pub flushes: u64,
    /// TRIMs and WRITE_ZEROES handed to the core.
    pub zeroes: u64,
    /// Bytes of successful READs.
    pub read_bytes: u64,
    /// Bytes of successful WRITEs.
    pub written_bytes: u64,
    /// Requests that broke a rule of the protocol and were answered with an error.
    pub refused: u64,
}

/// Counters, and what is in the core now.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counters: Counters,
    /// Requests that the core has not answered, those of ended sessions included.
    pub(super) in_core: usize,
}

impl Tally {
    /// A request goes to the core.
    pub(super) const fn began(&mut self, request: &Checked) {
        self.in_core += 1;
        let counter = match request.operation {
            Operation::Read { .. } => &mut self.counters.reads,
            Operation::Write { .. } => &mut self.counters.writes,
            Operation::Trim { .. } | Operation::WriteZeroes { .. } => &mut self.counters.zeroes,
            Operation::Flush | Operation::Cache => &mut self.counters.flushes,
        };
        *counter += 1;
    }
}
