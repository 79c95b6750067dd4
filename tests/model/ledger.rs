//! Owns the judge's book: which writes there were, what their clients were told, and which of them
//! may not be lost. Must never look at a record of the nodes, only at what their disks show.
//!
//! A write is *kept* (must be in whatever is served) once it was acknowledged, if
//! - a FLUSH that covers it was acknowledged as well, or
//! - a member has it and has kept its power since.
//!
//! Members are the primary and, under B and C, whoever it waits for: G1 of the guarantees. A peer is
//! a member no more once the primary went on in a generation that the peer lacks. Under A the peer
//! never is one (rule 2 of the arbitration).

use crate::state::{BLOCKS, Node};

/// Writes of a history.
pub(crate) const WRITES: usize = 4;

/// A write; its number is the value it leaves in its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Write {
    pub(crate) block: u8,
    /// The writes it was written over, as a mask.
    over: u8,
    pub(crate) acked: bool,
    pub(crate) flushed: bool,
    /// Bit per member that has it and has kept its power.
    pub(crate) holders: u8,
    /// An operator's word gave it up.
    pub(crate) given_up: bool,
}

impl Write {
    const fn is_kept(&self) -> bool {
        self.acked && !self.given_up && (self.flushed || self.holders != 0)
    }
}

/// All writes, by their number; there is no number 0, which is what a fresh block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    writes: [Write; WRITES],
    count: u8,
}

impl Ledger {
    /// A write over what `seen` is; returns its number.
    pub(crate) fn begin(&mut self, block: u8, seen: u8) -> u8 {
        self.count += 1;
        let over = if seen == 0 { 0 } else { self.writes[usize::from(seen)].over | 1 << seen };
        self.writes[usize::from(self.count)] = Write { block, over, ..Write::default() };
        self.count
    }

    fn numbered(&self) -> impl Iterator<Item = (u8, &Write)> {
        (0..).zip(&self.writes).skip(1).take(usize::from(self.count))
    }

    /// Whether a block that holds `value` holds the write or something written over it.
    fn includes(&self, value: u8, write: u8) -> bool {
        value == write || (value != 0 && self.writes[usize::from(value)].over & (1 << write) != 0)
    }

    fn shows(&self, node: &Node, number: u8) -> bool {
        let block = self.writes[usize::from(number)].block;
        self.includes(node.disk[usize::from(block)].seen, number)
    }

    pub(crate) fn acknowledge(&mut self, number: u8, holders: u8) {
        let write = &mut self.writes[usize::from(number)];
        (write.acked, write.holders) = (true, holders);
    }

    fn change(&mut self, change: impl Fn(&Self, u8, &mut Write)) {
        let before = *self;
        for number in 1..=self.count {
            change(&before, number, &mut self.writes[usize::from(number)]);
        }
    }

    /// A flush of a node that shows `node` was acknowledged.
    pub(crate) fn flush(&mut self, node: &Node) {
        self.change(|all, number, write| {
            write.flushed |= write.acked && all.shows(node, number);
        });
    }

    /// Whether a flush would change anything.
    pub(crate) fn can_flush(&self, node: &Node) -> bool {
        self.numbered()
            .any(|(number, write)| write.acked && !write.flushed && self.shows(node, number))
    }

    /// `holder` has lost what it does not show; its power is gone if `dark`.
    pub(crate) fn down(&mut self, holder: u8, node: &Node, dark: bool) {
        self.change(|all, number, write| {
            if dark || !all.shows(node, number) {
                write.holders &= !(1 << holder);
            }
        });
    }

    /// Nobody but `member` is waited for from here on.
    pub(crate) fn alone(&mut self, member: u8) {
        self.change(|_, _, write| write.holders &= 1 << member);
    }

    /// Both are members, and have what both show.
    pub(crate) fn together(&mut self, nodes: &[Node; 2]) {
        self.change(|all, number, write| {
            if nodes.iter().all(|node| all.shows(node, number)) {
                write.holders = 3;
            }
        });
    }

    /// Forgets the writes that are of no account, given which values can be found of each block, and
    /// numbers the others anew; the new numbers by the old ones, or none if all stay.
    pub(crate) fn rename(&mut self, present: [u8; BLOCKS]) -> Option<[u8; 8]> {
        let mut names = [0u8; 8];
        let mut stays = 0u8;
        for (number, write) in self.numbered() {
            let found = present[usize::from(write.block)];
            let values = (0..8).filter(|value| found & (1 << value) != 0);
            let (mut some, mut all) = (false, true);
            for value in values {
                let includes = self.includes(value, number);
                some |= includes;
                all &= includes;
            }
            if (some || write.is_kept()) && !all {
                names[usize::from(number)] = stays + 1;
                stays += 1;
            }
        }
        if stays == self.count {
            return None;
        }
        let mut after = Self { count: stays, ..Self::default() };
        for (number, write) in self.numbered() {
            let name = names[usize::from(number)];
            if name != 0 {
                let over = (1..8).filter(|old| write.over & (1 << old) != 0);
                let over = over.map(|old: u8| names[usize::from(old)]).filter(|name| *name != 0);
                let over = over.fold(0, |all, name| all | 1 << name);
                after.writes[usize::from(name)] = Write { over, ..*write };
            }
        }
        *self = after;
        Some(names)
    }

    /// Whether there has been a write.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// An operator's word by which one copy goes on, whatever the other has. What was written before
    /// is not judged any more: until the first write that follows there is no generation that would
    /// keep the copy apart from that of the old primary (`manual::failover`).
    pub(crate) fn go_on_by_word(&mut self) {
        self.change(|_, _, write| write.given_up = true);
    }

    /// A kept write that this node does not show.
    pub(crate) fn missing_from(&self, node: &Node) -> Option<u8> {
        let mut kept = self.numbered().filter(|(_, write)| write.is_kept());
        kept.find(|(number, _)| !self.shows(node, *number)).map(|(number, _)| number)
    }

    /// A kept write that `a` shows and `b` does not.
    pub(crate) fn only_in(&self, a: &Node, b: &Node) -> Option<u8> {
        let mut kept = self.numbered().filter(|(_, write)| write.is_kept());
        let only = |number: u8| self.shows(a, number) && !self.shows(b, number);
        kept.find(|(number, _)| only(*number)).map(|(number, _)| number)
    }

    /// The values of a block that shows this one, in words.
    pub(crate) fn words(seen: [u8; BLOCKS]) -> String {
        let word = |value: u8| if value == 0 { "-".to_owned() } else { format!("w{value}") };
        seen.map(word).join(" ")
    }
}
