//! Owns counting and setting runs of bits in words, one bit per block.
//! Must never know what a bit means.

use crate::units::Blocks;

/// The runs of set bits, in ascending order.
pub(super) fn runs(words: &[u64]) -> impl Iterator<Item = Blocks> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = next(words, from, true)?;
        let end = next(words, start, false).unwrap_or(words.len() as u64 * 64);
        from = end;
        Some(Blocks::new(start, end - start))
    })
}

/// Sets the bits of a run; those beyond the words are left out.
pub(super) fn set(words: &mut [u64], run: Blocks) {
    for (index, mask) in run.words() {
        match words.get_mut(index) {
            Some(word) => *word |= mask,
            None => return,
        }
    }
}

/// How many bits of the run are set.
pub(super) fn count(words: &[u64], run: Blocks) -> u64 {
    let set = |(index, mask): (usize, u64)| words.get(index).map(|word| word & mask);
    run.words().map_while(set).map(|word| u64::from(word.count_ones())).sum()
}

/// The first bit at or after `from` that is set, or is not.
fn next(words: &[u64], from: u64, set: bool) -> Option<u64> {
    let first = usize::try_from(from / 64).ok()?;
    let wanted = |word: u64| if set { word } else { !word };
    let head = wanted(*words.get(first)?) & (u64::MAX << (from % 64));
    let rest = words[first + 1..].iter().map(|word| wanted(*word));
    let mut all = std::iter::once(head).chain(rest).enumerate();
    let (index, word) = all.find(|(_, word)| *word != 0)?;
    Some((first + index) as u64 * 64 + u64::from(word.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_what_was_set(
            wanted in prop::collection::vec((0u64..400, 1u64..150), 0..6), probe in 0u64..300,
        ) {
            let mut plain = [false; 320];
            let mut words = [0; 5];
            for (start, count) in wanted {
                set(&mut words, Blocks::new(start, count));
                (start..start + count).for_each(|bit| {
                    if let Some(bit) = plain.get_mut(usize::try_from(bit).expect("small")) {
                        *bit = true;
                    }
                });
            }
            let mut found = [false; 320];
            let mut end_before = None;
            for run in runs(&words) {
                prop_assert!(run.count > 0 && end_before.is_none_or(|end| end < run.start));
                end_before = Some(run.end());
                for bit in run.start..run.end() {
                    found[usize::try_from(bit).expect("small")] = true;
                }
            }
            prop_assert_eq!(plain, found);
            let expected = plain.iter().skip(usize::try_from(probe).expect("small")).take(77);
            let expected = expected.filter(|bit| **bit).count() as u64;
            prop_assert_eq!(count(&words, Blocks::new(probe, 77)), expected);
        }
    }
}
