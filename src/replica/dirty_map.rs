//! Owns the marks towards one peer in memory: one bit per block that may differ there, and which
//! bitmap pages differ from those on disk.
//! Must never decide when a page is written.

use crate::format::bitmap::{BITS_PER_PAGE as PAGE_BLOCKS, WORDS_PER_PAGE as PAGE_WORDS};
use crate::units::Blocks;

/// One bit per block of the device; words past the device's end are always zero.
#[derive(Debug)]
pub(crate) struct DirtyMap {
    words: Vec<u64>,
    device_blocks: u64,
    marked: u64,
    /// Bit per page: its words in memory are newer than those on disk.
    unsaved: Vec<u64>,
}

impl DirtyMap {
    /// A map of these words, as read from disk; bits past the end of the device are dropped.
    pub(crate) fn new(mut words: Vec<u64>, device_blocks: u64) -> Self {
        let pages = usize::try_from(device_blocks.div_ceil(PAGE_BLOCKS)).expect("fits in memory");
        // Not more than that: a vector that grows by itself takes twice what it had.
        words.reserve_exact((pages * PAGE_WORDS).saturating_sub(words.len()));
        words.resize(pages * PAGE_WORDS, 0);
        let mut map =
            Self { words, device_blocks, marked: 0, unsaved: vec![0; pages.div_ceil(64)] };
        map.trim_tail();
        map.marked = map.words.iter().map(|word| u64::from(word.count_ones())).sum();
        map
    }

    /// Blocks marked.
    pub(crate) const fn marked(&self) -> u64 {
        self.marked
    }

    /// Marks a run; returns how many blocks were not marked before.
    pub(crate) fn mark(&mut self, blocks: Blocks) -> u64 {
        let before = self.marked;
        self.change(blocks, |word, mask| word | mask);
        self.marked - before
    }

    /// Takes the marks off a run; returns how many there were.
    pub(crate) fn clear(&mut self, blocks: Blocks) -> u64 {
        let before = self.marked;
        self.change(blocks, |word, mask| word & !mask);
        before - self.marked
    }

    /// Marks everything.
    pub(crate) fn mark_all(&mut self) {
        self.mark(Blocks::new(0, self.device_blocks));
    }

    /// Takes all marks off.
    pub(crate) fn clear_all(&mut self) {
        if self.marked > 0 {
            self.clear(Blocks::new(0, self.device_blocks));
        }
    }

    /// Whether any block of the run is marked.
    pub(crate) fn any(&self, blocks: Blocks) -> bool {
        self.marked > 0 && blocks.words().any(|(index, mask)| self.words[index] & mask != 0)
    }

    /// The first marked run at or after `from`, at most `most` blocks long.
    pub(crate) fn next_run(&self, from: u64, most: u64) -> Option<Blocks> {
        let start = self.next(from, |word| word)?;
        let end = self.next(start, |word| !word).unwrap_or(self.device_blocks);
        Some(Blocks::new(start, (end - start).min(most).min(self.device_blocks - start)))
    }

    /// The words of a page.
    pub(crate) fn page(&self, page: u32) -> &[u64] {
        let start = page as usize * PAGE_WORDS;
        &self.words[start..start + PAGE_WORDS]
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u32 {
        u32::try_from(self.words.len() / PAGE_WORDS).expect("a device has fewer than 2^32 pages")
    }

    /// Marks what a peer has marked: `words` of its page.
    pub(crate) fn merge_page(&mut self, page: u32, words: &[u64]) {
        let start = page as usize * PAGE_WORDS;
        if start >= self.words.len() {
            return;
        }
        for (offset, theirs) in words.iter().take(PAGE_WORDS).enumerate() {
            let word = &mut self.words[start + offset];
            let added = theirs & !*word;
            self.marked += u64::from(added.count_ones());
            *word |= theirs;
        }
        self.touch(page as usize);
        self.trim_tail();
    }

    /// Remembers that a page must be written, whatever memory holds.
    pub(crate) fn touch(&mut self, page: usize) {
        self.unsaved[page / 64] |= 1 << (page % 64);
    }

    /// The unsaved pages that hold blocks of the run, which count as saved from now on.
    pub(crate) fn take_unsaved(&mut self, blocks: Blocks, pages: &mut Vec<u32>) {
        let first = blocks.start / PAGE_BLOCKS;
        let last = (blocks.end() - 1) / PAGE_BLOCKS;
        for page in first..=last {
            let (index, bit) = ((page / 64) as usize, 1 << (page % 64));
            if self.unsaved[index] & bit != 0 {
                self.unsaved[index] &= !bit;
                pages.push(u32::try_from(page).expect("fewer than 2^32 pages"));
            }
        }
    }

    /// At most `most` unsaved pages, which count as saved from now on.
    pub(crate) fn take_some_unsaved(&mut self, most: usize) -> Vec<u32> {
        let mut pages = Vec::new();
        for (index, word) in self.unsaved.iter_mut().enumerate() {
            while *word != 0 && pages.len() < most {
                let bit = word.trailing_zeros();
                *word &= *word - 1;
                pages.push(u32::try_from(index).expect("fewer than 2^32 pages") * 64 + bit);
            }
        }
        pages
    }

    fn change(&mut self, blocks: Blocks, apply: impl Fn(u64, u64) -> u64) {
        debug_assert!(blocks.end() <= self.device_blocks, "{blocks} past the device");
        for (index, mask) in blocks.words() {
            let old = self.words[index];
            let new = apply(old, mask);
            if new != old {
                self.words[index] = new;
                self.marked += u64::from(new.count_ones());
                self.marked -= u64::from(old.count_ones());
                self.touch(index / PAGE_WORDS);
            }
        }
    }

    /// The first block at or after `from` whose word, seen through `view`, has its bit set.
    fn next(&self, from: u64, view: impl Fn(u64) -> u64) -> Option<u64> {
        let mut index = usize::try_from(from / 64).expect("fits in memory");
        let mut skip = u64::MAX << (from % 64);
        while index < self.words.len() {
            let seen = view(self.words[index]) & skip;
            if seen != 0 {
                let block = index as u64 * 64 + u64::from(seen.trailing_zeros());
                return (block < self.device_blocks).then_some(block);
            }
            skip = u64::MAX;
            index += 1;
        }
        None
    }

    fn trim_tail(&mut self) {
        let mut index = usize::try_from(self.device_blocks / 64).expect("fits in memory");
        let mut keep = (1u64 << (self.device_blocks % 64)) - 1;
        while index < self.words.len() {
            let surplus = self.words[index] & !keep;
            self.marked = self.marked.saturating_sub(u64::from(surplus.count_ones()));
            self.words[index] &= keep;
            keep = 0;
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DEVICE: u64 = PAGE_BLOCKS + 1000;

    fn runs() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        prop::collection::vec((any::<bool>(), 0..DEVICE, 1..300u64), 1..40)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(changes in runs()) {
            let mut map = DirtyMap::new(Vec::new(), DEVICE);
            let mut model = BTreeSet::new();
            for (mark, start, count) in changes {
                let blocks = Blocks::new(start, count.min(DEVICE - start));
                if mark {
                    map.mark(blocks);
                    model.extend(blocks.start..blocks.end());
                } else {
                    map.clear(blocks);
                    model.retain(|block| !(blocks.start..blocks.end()).contains(block));
                }
                prop_assert_eq!(map.marked(), model.len() as u64);
                prop_assert_eq!(map.any(blocks), mark);
            }
            let mut found = BTreeSet::new();
            let mut from = 0;
            while let Some(run) = map.next_run(from, 64) {
                prop_assert!(run.count <= 64);
                found.extend(run.start..run.end());
                from = run.end();
            }
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn changed_pages_are_told_once() {
        let mut map = DirtyMap::new(Vec::new(), DEVICE);
        map.mark(Blocks::new(PAGE_BLOCKS - 1, 2));
        assert_eq!(map.take_some_unsaved(9), [0, 1]);
        assert!(map.take_some_unsaved(9).is_empty());
        map.mark(Blocks::new(PAGE_BLOCKS - 1, 1));
        assert!(map.take_some_unsaved(9).is_empty(), "nothing changed");
    }

    #[test]
    fn bits_past_the_device_are_dropped() {
        let mut map = DirtyMap::new(vec![u64::MAX; 2 * PAGE_WORDS], DEVICE);
        assert_eq!(map.marked(), DEVICE);
        map.merge_page(1, &[u64::MAX; PAGE_WORDS]);
        assert_eq!(map.marked(), DEVICE);
        map.clear_all();
        assert_eq!(map.marked(), 0);
    }
}
