//! Owns putting the bitmaps together from the pages read. A page that cannot be read or trusted
//! counts as all ones. Must never read by itself.

use crate::format::bitmap::{self, PageAddress, WORDS_PER_PAGE};
use crate::format::superblock::{Geometry, Superblock};
use crate::units::AreaId;

/// The bitmaps of all slots, while their pages arrive in any order.
pub(super) struct Pages {
    area: AreaId,
    geometry: Geometry,
    bitmaps: Vec<Vec<u64>>,
    bad: Vec<Vec<u32>>,
    /// Of each slot, why its first bad page is bad.
    why: Vec<String>,
}

/// Memory that is left over when the bitmaps have theirs (32 MiB), for all else that a start needs.
const SPARE_WORDS: usize = (32 << 20) / 8;

impl Pages {
    /// Bytes that the bitmaps of a device take in memory.
    pub(super) fn bytes(geometry: &Geometry) -> u64 {
        geometry.device_blocks.div_ceil(64) * 8 * u64::from(geometry.peer_slots)
    }

    /// Whether the system gives that much now. If it did not when they are made, the process would
    /// end, and all resources with it.
    pub(super) fn fit(geometry: &Geometry) -> bool {
        let words = usize::try_from(Self::bytes(geometry) / 8).unwrap_or(usize::MAX);
        let mut probe: Vec<u64> = Vec::new();
        let fit = probe.try_reserve_exact(words.saturating_add(SPARE_WORDS)).is_ok();
        // Or the compiler leaves out what nobody uses.
        std::hint::black_box(&probe);
        fit
    }

    pub(super) fn new(superblock: &Superblock) -> Self {
        let geometry = superblock.geometry;
        let slots = usize::from(geometry.peer_slots);
        let words = usize::try_from(geometry.device_blocks.div_ceil(64));
        let words = words.expect("the device was seen to be that large");
        Self {
            area: superblock.area,
            geometry,
            // Not `vec![vec![0; words]; slots]`: copies would touch their memory.
            bitmaps: (0..slots).map(|_| vec![0; words]).collect(),
            bad: vec![Vec::new(); slots],
            why: vec![String::new(); slots],
        }
    }

    /// The `index`-th page, counted over all slots; `None` if the disk returned an error.
    pub(super) fn take(&mut self, index: u64, bytes: Option<&[u8]>) {
        let per_slot = u64::from(self.geometry.pages_per_slot());
        let (Ok(slot), Ok(page)) =
            (u8::try_from(index / per_slot), u32::try_from(index % per_slot))
        else {
            return;
        };
        let words = match bytes {
            Some(bytes) => bitmap::decode(PageAddress { area: self.area, slot, page }, bytes)
                .map_err(|error| error.to_string()),
            None => Err("the disk returned an error".to_owned()),
        };
        let words = words.unwrap_or_else(|why| {
            let slot = usize::from(slot);
            if self.bad[slot].is_empty() {
                self.why[slot] = format!("page {page}: {why}");
            }
            self.bad[slot].push(page);
            [u64::MAX; WORDS_PER_PAGE]
        });
        self.place(usize::from(slot), page as usize * WORDS_PER_PAGE, &words);
    }

    fn place(&mut self, slot: usize, start: usize, words: &[u64; WORDS_PER_PAGE]) {
        // Most pages are empty: memory that was never touched stays untouched.
        if words.iter().all(|word| *word == 0) {
            return;
        }
        let bitmap = &mut self.bitmaps[slot][start..];
        let fit = bitmap.len().min(WORDS_PER_PAGE);
        bitmap[..fit].copy_from_slice(&words[..fit]);
    }

    /// The bitmaps, the bad pages in ascending order, and a line about each slot that has some.
    pub(super) fn finish(mut self) -> (Vec<Vec<u64>>, Vec<Vec<u32>>, Vec<String>) {
        let beyond = self.geometry.device_blocks % 64;
        for last in self.bitmaps.iter_mut().filter_map(|bitmap| bitmap.last_mut()) {
            *last &= if beyond == 0 { u64::MAX } else { (1 << beyond) - 1 };
        }
        let mut notes = Vec::new();
        for (slot, (bad, why)) in self.bad.iter_mut().zip(&self.why).enumerate() {
            bad.sort_unstable();
            if !bad.is_empty() {
                let (bad, all) = (bad.len(), self.geometry.pages_per_slot());
                notes.push(format!(
                    "{bad} of {all} bitmap pages of slot {slot} are not usable, so all that they \
                     cover counts as out of sync ({why})"
                ));
            }
        }
        (self.bitmaps, self.bad, notes)
    }
}
