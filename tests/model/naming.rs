//! Owns when two states count as one: ids of which only the equality counts are named in the order
//! in which they appear, and what nothing can depend on any more is forgotten.
//! Must never forget what a later step or a property could see.

use crate::state::{BLOCKS, Begun, GENERATIONS, Phase, State};
use std::hash::{Hash, Hasher};

impl State {
    /// After a step: what is over is forgotten, and ids are named in the order in which they appear.
    pub(crate) fn settle(&mut self) {
        if self.nodes.iter().all(|node| node.phase == Phase::Down) {
            (self.session, self.broken, self.bye, self.meeting_epoch) = (0, false, None, 0);
        }
        self.name_writes();
        self.shift_epochs();
        self.name_generations();
        let [a, b] = &mut self.nodes;
        let mut ids = Names::default();
        ids.name(&mut self.session);
        for node in [&mut *a, &mut *b] {
            ids.name(&mut node.record.confirmed);
            ids.name(&mut node.record.tentative);
            ids.name(&mut node.told_confirmed);
        }
        let mut tokens = Names::default();
        for node in [a, b] {
            tokens.name(&mut node.record.sync_token);
            tokens.name(&mut node.token);
            tokens.name(&mut node.told_token);
            if let Some((token, _)) = &mut node.record.sync_target {
                tokens.name(token);
            }
        }
    }

    /// A write that is in everything that can be found of its block, and one that nobody need keep
    /// and nothing holds, are of no account any more; the others are numbered anew.
    fn name_writes(&mut self) {
        let mut present = [0u8; BLOCKS];
        for node in &self.nodes {
            for (block, cell) in node.disk.iter().enumerate() {
                present[block] |= cell.may;
            }
            if let Some(piece) = node.piece {
                present[usize::from(piece.block)] |= 1 << piece.value;
            }
        }
        for sent in self.stream.iter() {
            present[usize::from(sent.block)] |= 1 << sent.value;
        }
        let Some(names) = self.ledger.rename(present) else {
            return;
        };
        let name = |value: &mut u8| *value = names[usize::from(*value)];
        for node in &mut self.nodes {
            for cell in &mut node.disk {
                name(&mut cell.seen);
                let old = (0..8u8).filter(|value| cell.may & (1 << value) != 0);
                cell.may = old.fold(0, |all, value| all | 1 << names[usize::from(value)]);
            }
            if let Some(piece) = &mut node.piece {
                name(&mut piece.value);
            }
        }
        self.stream.iter_mut().for_each(|sent| name(&mut sent.value));
    }

    /// Only differences of epochs count.
    fn shift_epochs(&mut self) {
        let lowest = self.nodes.iter().map(|node| node.record.current).min().unwrap_or(0);
        let shift = lowest.saturating_sub(2);
        for node in &mut self.nodes {
            node.record.epoch -= shift;
            node.record.current -= shift;
            node.told_current = node.told_current.saturating_sub(shift);
            node.granted = node.granted.saturating_sub(shift);
            if let Some(promoting) = &mut node.promoting {
                promoting.epoch -= shift;
            }
        }
        self.meeting_epoch = self.meeting_epoch.saturating_sub(shift);
        for begun in self.generations.iter_mut().flatten() {
            begun.epoch = begun.epoch.saturating_sub(shift);
        }
    }

    /// Forgets generations that nothing depends on, and numbers the others from 0 on: the past of
    /// the newest one that both have says nothing, unless a base lies there.
    fn name_generations(&mut self) {
        let [a, b] = &self.nodes;
        let lineages = [a.record.lineage, b.record.lineage, a.adopting, b.adopting];
        let common = a.record.lineage & b.record.lineage;
        let bit = |place: Option<u8>| place.map_or(0, |place| 1 << place);
        let mut kept = (a.record.lineage ^ b.record.lineage) | newest(common);
        kept |= a.adopting | b.adopting;
        for node in &self.nodes {
            let base = bit(node.record.base);
            kept |= bit(node.told_head) | base;
            kept |= newest(node.record.lineage & base.saturating_sub(1));
            kept |= bit(node.record.sync_target.map(|(_, place)| place));
        }
        let old = self.generations;
        let place = |from: u8| u8::try_from((kept & ((1 << from) - 1)).count_ones()).expect("few");
        let rename = |mask: u8| {
            let bits = (0..8).filter(|from| mask & kept & (1 << from) != 0);
            bits.fold(0, |all, from| all | 1 << place(from))
        };
        let heads = lineages.map(newest).into_iter().fold(0, |all, head| all | head);
        self.generations = [None; GENERATIONS];
        for from in (0..8u8).filter(|from| kept & (1 << from) != 0) {
            let begun = old[usize::from(from)].map(|begun| match heads & (1 << from) {
                0 => Begun { epoch: 0, node: 0 },
                _ => begun,
            });
            self.generations[usize::from(place(from))] = begun;
        }
        for node in &mut self.nodes {
            node.record.lineage = rename(node.record.lineage);
            node.adopting = rename(node.adopting);
            node.record.base = node.record.base.map(place);
            node.told_head = node.told_head.map(place);
            node.record.sync_target = node.record.sync_target.map(|(id, at)| (id, place(at)));
        }
    }

    /// 64 bits that stand for the state.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut mix = Mix(0);
        self.hash(&mut mix);
        mix.finish()
    }
}

/// The highest bit of a mask.
fn newest(mask: u8) -> u8 {
    if mask == 0 { 0 } else { 1 << mask.ilog2() }
}

/// New names for ids, of which only the equality counts.
#[derive(Default)]
struct Names {
    known: [u8; 12],
    count: u8,
}

impl Names {
    fn name(&mut self, id: &mut u8) {
        if *id == 0 {
            return;
        }
        let known = self.known[..usize::from(self.count)].iter().position(|known| known == id);
        let place = known.unwrap_or_else(|| {
            self.known[usize::from(self.count)] = *id;
            self.count += 1;
            usize::from(self.count) - 1
        });
        *id = u8::try_from(place + 1).expect("few ids");
    }
}

/// A fast hash of many small fields.
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mut word = self.0;
        word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        word ^ (word >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        let word = self.0 ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0 = word.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
