//! Owns which values each block may hold: the acknowledged one, or one whose fate nobody knows.
//! Must never widen what is allowed once a value was shown.

use crate::stamp::{BLOCK, Stamp, decode};

/// Consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Range {
    fn blocks(self) -> std::ops::Range<usize> {
        let at = |block: u64| usize::try_from(block).expect("a small device");
        at(self.first)..at(self.first + self.count)
    }
}

/// A write, as far as order goes.
#[derive(Clone, Copy, Debug)]
struct Write {
    stamp: Stamp,
    invoked: u64,
    /// Not acknowledged: never.
    acknowledged: u64,
}

/// One block.
#[derive(Clone, Debug)]
struct Block {
    /// What it may show.
    allowed: Vec<Stamp>,
    /// The write in flight.
    open: Option<Stamp>,
    history: Vec<Write>,
}

#[derive(Clone, Copy, Debug)]
struct Flush {
    invoked: u64,
    acknowledged: u64,
}

/// The judge of one device with one client, which has at most one write in flight per block.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    now: u64,
    blocks: Vec<Block>,
    flushes: Vec<Flush>,
}

impl Ledger {
    /// A device of zeroes.
    pub(crate) fn new(blocks: u64) -> Self {
        let zero = Write { stamp: 0, invoked: 0, acknowledged: 0 };
        let block = Block { allowed: vec![0], open: None, history: vec![zero] };
        let blocks = vec![block; usize::try_from(blocks).expect("a small device")];
        Self { now: 0, blocks, flushes: Vec::new() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    const fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A write begins.
    pub(crate) fn begin(&mut self, range: Range, stamp: Stamp) {
        let invoked = self.tick();
        for block in &mut self.blocks[range.blocks()] {
            assert_eq!(block.open.replace(stamp), None, "one write per block at a time");
            block.history.push(Write { stamp, invoked, acknowledged: u64::MAX });
        }
    }

    /// It is acknowledged.
    pub(crate) fn acknowledge(&mut self, range: Range, stamp: Stamp) {
        let now = self.tick();
        for block in &mut self.blocks[range.blocks()] {
            assert_eq!(block.open.take(), Some(stamp), "only what was begun");
            block.allowed = vec![stamp];
            block.history.last_mut().expect("begun").acknowledged = now;
        }
    }

    /// It failed, or its server is gone: it may have happened or not.
    pub(crate) fn forget(&mut self, range: Range, stamp: Stamp) {
        for block in &mut self.blocks[range.blocks()] {
            assert_eq!(block.open.take(), Some(stamp), "only what was begun");
            block.allowed.push(stamp);
        }
    }

    /// The moment before a flush is sent.
    pub(crate) const fn flush_begins(&mut self) -> u64 {
        self.tick()
    }

    /// A flush is acknowledged.
    pub(crate) fn flushed(&mut self, invoked: u64) {
        let acknowledged = self.tick();
        self.flushes.push(Flush { invoked, acknowledged });
    }

    /// Judges what a read without a write in flight shows, and settles it.
    pub(crate) fn see(&mut self, first: u64, bytes: &[u8]) -> Result<(), String> {
        for (number, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            let stamp =
                decode(number, bytes).map_err(|damage| format!("block {number}: {damage:?}"))?;
            let index = usize::try_from(number).expect("a small device");
            let block = &mut self.blocks[index];
            if !block.allowed.contains(&stamp) {
                return Err(format!(
                    "block {number} shows write {stamp} and may show {:?}; it was written {:?}",
                    block.allowed,
                    &block.history[block.history.len().saturating_sub(8)..]
                ));
            }
            block.allowed = vec![stamp];
        }
        Ok(())
    }

    /// Judges a whole device that may lack a tail, as after a failover under protocol A: whether a
    /// power cut could have left it. What it holds counts from then on. Gives how many blocks went
    /// back.
    pub(crate) fn see_crash_state(&mut self, image: &[u8]) -> Result<u64, String> {
        let mut seen = Vec::with_capacity(self.blocks.len());
        for (number, bytes) in (0..).zip(image.chunks(BLOCK)) {
            let stamp =
                decode(number, bytes).map_err(|damage| format!("block {number}: {damage:?}"))?;
            let history = &self.blocks[seen.len()].history;
            let write = history.iter().find(|write| write.stamp == stamp);
            seen.push(*write.ok_or_else(|| format!("block {number} shows the unknown {stamp}"))?);
        }
        // Whoever sees a write that came after a flush must see all that the flush covered.
        let newest = seen.iter().map(|write| write.invoked).max().unwrap_or(0);
        let before = self.flushes.iter().filter(|flush| flush.acknowledged < newest);
        let floor = before.map(|flush| flush.invoked).max().unwrap_or(0);
        let mut back = 0;
        for (number, (block, write)) in self.blocks.iter_mut().zip(&seen).enumerate() {
            let covered = block.history.iter().rfind(|earlier| earlier.acknowledged < floor);
            if let Some(covered) = covered.filter(|covered| covered.invoked > write.invoked) {
                return Err(format!(
                    "block {number} shows write {} although {} was flushed before writes that are \
                     there",
                    write.stamp, covered.stamp
                ));
            }
            back += u64::from(!block.allowed.contains(&write.stamp));
            block.allowed = vec![write.stamp];
            block.history = vec![Write { acknowledged: 0, ..*write }];
        }
        self.flushes.clear();
        Ok(back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::content;

    const ONE: Range = Range { first: 3, count: 1 };
    const OTHER: Range = Range { first: 5, count: 1 };

    fn written(ledger: &mut Ledger, range: Range, stamp: Stamp) {
        ledger.begin(range, stamp);
        ledger.acknowledge(range, stamp);
    }

    fn flushed(ledger: &mut Ledger) {
        let invoked = ledger.flush_begins();
        ledger.flushed(invoked);
    }

    /// An image of eight blocks.
    fn image(stamps: &[(u64, Stamp)]) -> Vec<u8> {
        let mut image = vec![0; 8 * BLOCK];
        for (block, stamp) in stamps {
            let at = usize::try_from(*block).expect("small") * BLOCK;
            image[at..at + BLOCK].copy_from_slice(&content(*block, 1, *stamp));
        }
        image
    }

    #[test]
    fn a_lost_or_stale_write_is_caught() {
        let mut ledger = Ledger::new(8);
        written(&mut ledger, ONE, 10);
        assert!(ledger.see(3, &content(3, 1, 0)).is_err(), "lost");
        written(&mut ledger, ONE, 11);
        assert!(ledger.see(3, &content(3, 1, 10)).is_err(), "stale, and whole in itself");
        assert!(ledger.see(4, &content(4, 1, 11)).is_err(), "spilled over");
        assert!(ledger.see(3, &content(4, 1, 11)).is_err(), "another block's bytes");
        ledger.see(3, &content(3, 1, 11)).expect("right");
    }

    #[test]
    fn a_torn_mix_is_caught() {
        let mut ledger = Ledger::new(8);
        written(&mut ledger, ONE, 10);
        ledger.begin(ONE, 11);
        ledger.forget(ONE, 11);
        let mut torn = content(3, 1, 11);
        torn[2048..].copy_from_slice(&content(3, 1, 10)[2048..]);
        assert!(ledger.see(3, &torn).is_err());
    }

    #[test]
    fn an_unknown_fate_is_settled_by_the_first_look() {
        let mut ledger = Ledger::new(8);
        written(&mut ledger, ONE, 10);
        ledger.begin(ONE, 11);
        ledger.forget(ONE, 11);
        let mut other = ledger.clone();
        ledger.see(3, &content(3, 1, 11)).expect("it happened");
        assert!(ledger.see(3, &content(3, 1, 10)).is_err(), "and does not unhappen");
        other.see(3, &content(3, 1, 10)).expect("it did not happen");
        assert!(other.see(3, &content(3, 1, 11)).is_err(), "and does not happen later");
    }

    #[test]
    fn a_tail_may_be_missing_but_nothing_under_a_newer_flush() {
        let mut ledger = Ledger::new(8);
        written(&mut ledger, ONE, 10);
        flushed(&mut ledger);
        written(&mut ledger, OTHER, 11);
        let mut other = ledger.clone();
        assert_eq!(ledger.clone().see_crash_state(&image(&[(3, 10), (5, 11)])), Ok(0));
        assert_eq!(ledger.see_crash_state(&image(&[(3, 10)])), Ok(1), "the newest is missing");
        assert!(ledger.see(5, &content(5, 1, 11)).is_err(), "and stays missing");
        assert!(other.see_crash_state(&image(&[(5, 11)])).is_err(), "an older one is missing");
        assert!(other.see_crash_state(&image(&[(3, 12)])).is_err(), "never written");
    }
}
