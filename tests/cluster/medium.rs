//! Owns the bytes of a disk with a volatile cache: what a reader sees, what is durable, and the writes
//! between the two, of which a power cut keeps some; and the log of all writes and syncs. Must never
//! make durable what no sync covered, but by the draw of a cut.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use twinblk::format::superblock;
use twinblk::units::BootId;

use crate::load::Random;

/// What no disk tears.
const SECTOR: usize = 512;

/// A piece of an image.
const BLOCK: usize = 4096;

/// A write that the disk acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) offset: usize,
    pub(crate) length: usize,
    /// None if zeroes.
    bytes: Option<Arc<[u8]>>,
    /// Durable as it was acknowledged.
    pub(crate) durable: bool,
}

impl Written {
    pub(crate) fn data(offset: usize, bytes: &[u8], durable: bool) -> Self {
        Self { offset, length: bytes.len(), bytes: Some(bytes.into()), durable }
    }

    pub(crate) const fn zeroes(offset: usize, length: usize) -> Self {
        Self { offset, length, bytes: None, durable: false }
    }

    /// How much of it no cut tears. Ext4's superblock takes two sectors of the first block and is written
    /// in place at times: torn, no journal mends it, on any disk.
    fn untorn(&self) -> usize {
        if self.offset < BLOCK { self.length.max(1) } else { SECTOR }
    }

    /// Each sector as a write of its own.
    pub(crate) fn sectors(&self) -> Vec<Self> {
        let part = |from: usize| {
            let length = self.untorn().min(self.length - from);
            let bytes = self.bytes.as_ref().map(|bytes| bytes[from..from + length].into());
            Self { offset: self.offset + from, length, bytes, durable: self.durable }
        };
        (0..self.length).step_by(self.untorn()).map(part).collect()
    }

    /// A part of it, as many bytes from `from` on; in an image that begins at its offset.
    fn put_part(&self, image: &mut [u8], from: usize, length: usize) {
        let into = &mut image[self.offset + from..][..length];
        match &self.bytes {
            Some(bytes) => into.copy_from_slice(&bytes[from..from + length]),
            None => into.fill(0),
        }
    }

    fn put(&self, image: &mut [u8]) {
        self.put_part(image, 0, self.length);
    }
}

/// What the disk did.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write(Written),
    Sync,
}

/// What a cut kept of the writes that no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    Nothing,
    Everything,
    SomeWrites,
    SomeSectors,
}

/// All that a disk did from a moment on.
#[derive(Debug)]
pub(crate) struct DiskLog {
    /// What was durable when it began.
    pub(crate) base: Image,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug)]
pub(crate) struct Medium {
    shown: Vec<u8>,
    durable: Vec<u8>,
    /// Not covered by a sync, oldest first; those that are durable all the same have their place in
    /// the order.
    unsynced: Vec<Written>,
    log: Option<DiskLog>,
    /// A sync says that it ended well, and makes nothing durable that lies before this offset.
    pub(crate) lies_below: usize,
}

impl Medium {
    pub(crate) fn new(bytes: usize) -> Self {
        let (shown, durable) = (vec![0; bytes], vec![0; bytes]);
        Self { shown, durable, unsynced: Vec::new(), log: None, lies_below: 0 }
    }

    pub(crate) fn shown(&self) -> &[u8] {
        &self.shown
    }

    pub(crate) fn write(&mut self, written: Written) {
        if let Some(log) = &mut self.log {
            log.events.push(Event::Write(written.clone()));
        }
        written.put(&mut self.shown);
        self.unsynced.push(written);
    }

    pub(crate) fn sync(&mut self) {
        if let Some(log) = &mut self.log {
            log.events.push(Event::Sync);
        }
        for written in std::mem::take(&mut self.unsynced) {
            if written.offset < self.lies_below {
                self.unsynced.push(written);
            } else {
                written.put(&mut self.durable);
            }
        }
    }

    /// The power was cut: what no sync covered is there or not, as the draw wills.
    pub(crate) fn cut(&mut self, random: &mut Random) -> Kept {
        let kept = match random.below(4) {
            // What is lied about is all in one cache.
            _ if self.lies_below > 0 => Kept::Nothing,
            0 => Kept::Nothing,
            1 => Kept::Everything,
            2 => Kept::SomeWrites,
            _ => Kept::SomeSectors,
        };
        let unsynced = std::mem::take(&mut self.unsynced);
        for written in &unsynced {
            let mut keep = kept == Kept::Everything;
            keep |= written.durable && written.offset >= self.lies_below;
            keep |= kept == Kept::SomeWrites && random.below(2) == 0;
            if keep {
                written.put(&mut self.durable);
            } else if kept == Kept::SomeSectors {
                for from in (0..written.length).step_by(written.untorn()) {
                    if random.below(2) == 0 {
                        let length = written.untorn().min(written.length - from);
                        written.put_part(&mut self.durable, from, length);
                    }
                }
            }
        }
        for Written { offset, length, .. } in unsynced {
            let range = offset..offset + length;
            self.shown[range.clone()].copy_from_slice(&self.durable[range]);
        }
        kept
    }

    /// Makes the node's superblock, in these places, one of another boot: after a power cut a host has
    /// a new boot id, and this host still has the old one.
    pub(crate) fn reboot(&mut self, places: [usize; 2], boot: u128) {
        for place in places {
            let bytes = &self.durable[place..place + BLOCK];
            // A torn copy says nothing, also not of its boot.
            let Ok(mut found) = superblock::decode(bytes) else { continue };
            found.boot = BootId(boot);
            let bytes = superblock::encode(&found);
            self.durable[place..place + BLOCK].copy_from_slice(&bytes);
            self.shown[place..place + BLOCK].copy_from_slice(&bytes);
        }
    }

    /// Begins a log.
    pub(crate) fn record(&mut self) {
        let events = self.unsynced.iter().cloned().map(Event::Write).collect();
        self.log = Some(DiskLog { base: Image::of(&self.durable), events });
    }

    /// Events in the log so far.
    pub(crate) fn position(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.events.len())
    }

    pub(crate) const fn take_log(&mut self) -> Option<DiskLog> {
        self.log.take()
    }
}

/// An image of which only what is not zero takes room, and nothing what copies share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image(BTreeMap<usize, Arc<[u8]>>);

impl Image {
    fn of(bytes: &[u8]) -> Self {
        let blocks = bytes.chunks(BLOCK).enumerate();
        let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        Self(used.map(|(number, block)| (number, block.into())).collect())
    }

    /// As a disk would have carried it out.
    pub(crate) fn apply(&mut self, written: &Written) {
        let (mut at, end) = (written.offset, written.offset + written.length);
        while at < end {
            let (number, within) = (at / BLOCK, at % BLOCK);
            let length = (BLOCK - within).min(end - at);
            let from = at - written.offset;
            match &written.bytes {
                None if length == BLOCK => drop(self.0.remove(&number)),
                Some(bytes) if length == BLOCK => {
                    self.0.insert(number, bytes[from..from + length].into());
                }
                bytes => {
                    let mut block = self.block(number).to_vec();
                    match bytes {
                        Some(bytes) => {
                            block[within..within + length]
                                .copy_from_slice(&bytes[from..][..length]);
                        }
                        None => block[within..within + length].fill(0),
                    }
                    self.0.insert(number, block.into());
                }
            }
            at += length;
        }
    }

    /// One block of 4096 bytes.
    pub(crate) fn block(&self, number: usize) -> &[u8] {
        self.0.get(&number).map_or(&[0; BLOCK], |block| block)
    }

    /// The first `bytes` bytes as a file with holes.
    pub(crate) fn save(&self, path: &Path, bytes: u64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(path).expect("an image");
        file.set_len(bytes).expect("sized");
        let end = usize::try_from(bytes).expect("small") / BLOCK;
        for (number, block) in self.0.range(..end) {
            file.write_all_at(block, (number * BLOCK) as u64).expect("written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: usize = 8 * BLOCK;

    fn filled(byte: u8, offset: usize, length: usize) -> Written {
        Written::data(offset, &vec![byte; length], false)
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_a_draw_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut medium = Medium::new(END);
            medium.write(filled(1, 0, BLOCK));
            medium.sync();
            medium.write(filled(2, BLOCK, 2 * BLOCK));
            medium.write(Written { durable: true, ..filled(3, 4 * BLOCK, BLOCK) });
            let kept = medium.cut(&mut Random::new(seed));
            seen.insert(kept);
            assert_eq!(medium.shown, medium.durable);
            assert!(medium.shown[..BLOCK].iter().all(|byte| *byte == 1));
            assert!(medium.shown[4 * BLOCK..5 * BLOCK].iter().all(|byte| *byte == 3));
            let sectors = medium.shown[BLOCK..3 * BLOCK].chunks(SECTOR);
            let there = sectors.filter(|sector| sector[..] == [2; SECTOR]).count();
            match kept {
                Kept::Nothing => assert_eq!(there, 0),
                Kept::Everything => assert_eq!(there, 2 * BLOCK / SECTOR),
                Kept::SomeWrites => assert!([0, 2 * BLOCK / SECTOR].contains(&there)),
                Kept::SomeSectors => assert!((1..2 * BLOCK / SECTOR).contains(&there)),
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_durable_write_is_not_undone_by_an_older_one() {
        for seed in 0..20 {
            let mut medium = Medium::new(END);
            medium.write(filled(1, 0, 3 * BLOCK));
            medium.write(Written { durable: true, ..filled(2, BLOCK, BLOCK) });
            medium.cut(&mut Random::new(seed));
            assert!(medium.shown[BLOCK..2 * BLOCK].iter().all(|byte| *byte == 2));
        }
    }

    #[test]
    fn a_lying_sync_makes_nothing_durable() {
        let mut medium = Medium::new(END);
        medium.lies_below = BLOCK;
        medium.write(filled(1, 0, 2 * BLOCK));
        medium.write(filled(2, BLOCK, BLOCK));
        medium.sync();
        assert_eq!(medium.durable[..BLOCK], [0; BLOCK]);
        assert_eq!(medium.durable[BLOCK..2 * BLOCK], [2; BLOCK]);
    }

    /// The log, replayed, is what the disk showed.
    #[test]
    fn a_replayed_log_is_the_disk() {
        let (mut medium, mut random) = (Medium::new(END), Random::new(1));
        medium.write(filled(9, 5 * BLOCK, 700));
        medium.record();
        for round in 0..200 {
            let offset = usize::try_from(random.below(7 * BLOCK as u64)).expect("small");
            let length = 1 + usize::try_from(random.below(BLOCK as u64)).expect("small");
            match round % 5 {
                0 => medium.sync(),
                1 => medium.write(Written::zeroes(offset, length)),
                _ => medium.write(filled(round, offset, length)),
            }
        }
        let mut log = medium.take_log().expect("recorded");
        for event in &log.events {
            if let Event::Write(written) = event {
                log.base.apply(written);
            }
        }
        for (number, block) in medium.shown.chunks(BLOCK).enumerate() {
            assert_eq!(log.base.block(number), block);
        }
    }
}
